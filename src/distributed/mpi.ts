// A group whose ranks are the processes of MPI: batchnorm-wasm/mpi. The transport is Open MPI's, reached through koffi, both of
// which are the user's: nothing of them is loaded before mpiGroup is called.
//
//   values → send ─ MPI_Iallreduce or MPI_Iallgather ─ MPI_Test … → receive → values
//
// Not MPI_Allreduce, which would wait for a lost rank forever.

import { lostRank, noMpi, wrongKind } from "../common/errors.ts";
import { checkKeys, integerAtLeast } from "../common/validate.ts";
import { type AllReduce, checkAll, timeoutOf } from "./process-group.ts";

/** Open MPI's from version 4 on. Its ABI: handles are addresses of the library's own variables. */
const LIBRARY = "libmpi.so.40";
const MPI_SUCCESS = 0;

/** Typed arrays of up to 64 bytes live in V8's heap, and move there; an MPI_Request is a pointer. */
const LEAST = 16;

/** Addresses, as koffi has them. */
type Handle = bigint;

interface Mpi {
  readonly world: Handle;
  readonly initialized: () => boolean;
  readonly finalized: () => boolean;
  readonly init: () => number;
  readonly finalize: () => number;
  /** Has calls on a communicator return codes, where they would end the process. */
  readonly returnErrors: (comm: Handle) => number;
  readonly rank: (comm: Handle) => number;
  readonly size: (comm: Handle) => number;
  readonly split: (comm: Handle, color: number, rank: number) => Handle;
  /** Begin; `done` tells what became of it. `count` is of what one rank sends. */
  readonly sum: Exchange;
  readonly gather: Exchange;
  readonly done: (request: BigInt64Array, flag: Int32Array) => number;
  readonly describe: (code: number) => string;
}

type Exchange = (
  comm: Handle,
  send: Float64Array,
  receive: Float64Array,
  count: number,
  request: BigInt64Array,
) => number;

async function loadMpi(library: string): Promise<Mpi> {
  const { default: koffi } = await import("koffi").catch((error: unknown) => {
    throw noMpi("the package koffi", "npm install koffi", error);
  });
  try {
    const lib = koffi.load(library);
    const symbol = (name: string): Handle => lib.symbol(name);
    const [world, double, add] = [symbol("ompi_mpi_comm_world"), symbol("ompi_mpi_double"), symbol("ompi_mpi_op_sum")];
    const errorsReturn = symbol("ompi_mpi_errors_return");
    /** What a function of some arguments leaves where its last one points to. */
    const result = <T>(name: string, parameters: string[], type: string) => {
      const call = lib.func(`int ${name}(${[...parameters, `_Out_ ${type} *result`].join(", ")})`);
      return (...args: unknown[]): T => {
        const value: T[] = [0 as T];
        call(...args, value);
        return value[0] as T;
      };
    };
    const initialized = result<number>("MPI_Initialized", [], "int");
    const finalized = result<number>("MPI_Finalized", [], "int");
    const init = lib.func("int MPI_Init(void *argc, void *argv)");
    const setErrors = lib.func("int MPI_Comm_set_errhandler(void *comm, void *handler)");
    const allreduce = lib.func(
      "int MPI_Iallreduce(void *send, void *receive, int count, void *type, void *op, void *comm, void *request)",
    );
    const allgather = lib.func(
      "int MPI_Iallgather(void *send, int count, void *type, void *receive, int each, void *as, void *comm, void *request)",
    );
    const test = lib.func("int MPI_Test(void *request, void *flag, void *status)");
    const describe = lib.func("int MPI_Error_string(int code, void *text, _Out_ int *length)");
    return {
      world,
      initialized: () => initialized() !== 0,
      finalized: () => finalized() !== 0,
      init: () => init(null, null),
      finalize: lib.func("int MPI_Finalize()") as () => number,
      returnErrors: (comm) => setErrors(comm, errorsReturn),
      rank: result("MPI_Comm_rank", ["void *comm"], "int"),
      size: result("MPI_Comm_size", ["void *comm"], "int"),
      split: result("MPI_Comm_split", ["void *comm", "int color", "int key"], "void *"),
      sum: (comm, send, receive, count, request) => allreduce(send, receive, count, double, add, comm, request),
      gather: (comm, send, receive, count, request) =>
        allgather(send, count, double, receive, count, double, comm, request),
      done: (request, flag) => test(request, flag, null),
      describe: (code) => {
        const text = new Uint8Array(256); // MPI_MAX_ERROR_STRING
        const length = [0];
        describe(code, text, length);
        return new TextDecoder().decode(text.subarray(0, length[0]));
      },
    };
  } catch (error) {
    throw noMpi(`Open MPI's ${library}`, "apt install openmpi-bin libopenmpi3, or give its path as library", error);
  }
}

/** A group of processes of MPI. */
export interface MpiGroup extends AllReduce<void> {
  gather(values: Float64Array, all: Float64Array): void;
  /**
   * The ranks that give the same `color`, a whole number, as a group of their own, in the order of their ranks
   * (MPI_Comm_split; torch's process_group). Every rank calls it, in the order of its other calls.
   */
  split(color: number): MpiGroup;
  /** The last call of every rank of mpiGroup's: ends MPI, waiting for all. After an error it does nothing, since they may never come. */
  close(): void;
}

/** What all groups of a process share: the error that a lost rank was, whichever of them it was in. */
interface Job {
  lost?: Error;
}

class Group implements MpiGroup {
  readonly rank: number;
  readonly size: number;
  readonly #mpi: Mpi;
  readonly #comm: Handle;
  readonly #timeoutMs: number;
  /** Whether MPI_Finalize is this group's to call. */
  #finalizes: boolean;
  /** Of the group's own, since an exchange that was given up is still MPI's to write. */
  #send = new Float64Array(LEAST);
  #receive = new Float64Array(LEAST);
  readonly #request = new BigInt64Array(LEAST);
  readonly #flag = new Int32Array(2 * LEAST);
  readonly #job: Job;

  constructor(mpi: Mpi, comm: Handle, timeoutMs: number, finalizes: boolean, job: Job = {}) {
    this.#mpi = mpi;
    this.#comm = comm;
    this.#timeoutMs = timeoutMs;
    this.#finalizes = finalizes;
    this.#job = job;
    mpi.returnErrors(comm);
    this.rank = mpi.rank(comm);
    this.size = mpi.size(comm);
  }

  sum(values: Float64Array): void {
    this.#exchange(this.#mpi.sum, values, values);
  }

  gather(values: Float64Array, all: Float64Array): void {
    checkAll(all, values, this.size);
    this.#exchange(this.#mpi.gather, values, all);
  }

  split(color: number): MpiGroup {
    integerAtLeast(0, "color", color);
    // MPI_Comm_split waits forever for a rank that is lost; a sum does not
    this.sum(new Float64Array(1));
    const comm = this.#mpi.split(this.#comm, color, this.rank);
    return new Group(this.#mpi, comm, this.#timeoutMs, false, this.#job);
  }

  close(): void {
    if (this.#finalizes && !this.#job.lost) this.#mpi.finalize();
    this.#finalizes = false;
  }

  #exchange(begin: Exchange, values: Float64Array, into: Float64Array): void {
    if (this.#job.lost) throw this.#job.lost;
    if (values.length > this.#send.length) this.#send = new Float64Array(values.length);
    if (into.length > this.#receive.length) this.#receive = new Float64Array(into.length);
    this.#send.set(values);
    this.#check(begin(this.#comm, this.#send, this.#receive, values.length, this.#request));
    const end = performance.now() + this.#timeoutMs;
    for (this.#flag[0] = 0; !this.#flag[0]; ) {
      this.#check(this.#mpi.done(this.#request, this.#flag));
      if (!this.#flag[0] && performance.now() > end) this.#lose(`an exchange did not end within ${this.#timeoutMs} ms`);
    }
    into.set(this.#receive.subarray(0, into.length));
  }

  #check(code: number): void {
    if (code !== MPI_SUCCESS) this.#lose(`MPI says ${this.#mpi.describe(code)}`);
  }

  #lose(what: string): never {
    this.#job.lost = lostRank(this.rank, this.size, what);
    throw this.#job.lost;
  }
}

/**
 * The group of all processes that mpirun has started (MPI_COMM_WORLD), for SyncBatchNorm and whatever else is to be summed.
 * Exchanges are MPI's, at once, with the same bits on every rank. A process that mpirun has not started is a group of one.
 *
 * `library` is Open MPI's, by name or path. A rank that does not come within `timeoutMs` (30 s) is an error, BatchNormError
 * "group", after which the group is of no more use. Throws BatchNormError "mpi" without koffi or without Open MPI.
 */
export async function mpiGroup(options: { timeoutMs?: number; library?: string } = {}): Promise<MpiGroup> {
  checkKeys("mpiGroup options", options, ["timeoutMs", "library"]);
  const { library = LIBRARY, ...rest } = options;
  if (typeof library !== "string") throw wrongKind("library", "a string", library);
  const timeoutMs = timeoutOf(rest);
  const mpi = await loadMpi(library);
  if (mpi.finalized()) throw noMpi("MPI in use", "make a group before the last one is closed, or keep it");
  const own = !mpi.initialized();
  if (own) mpi.init();
  return new Group(mpi, mpi.world, timeoutMs, own);
}
