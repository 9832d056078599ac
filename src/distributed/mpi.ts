// A process group whose ranks are the processes of MPI: batchnorm-wasm/mpi. It calls Open MPI through koffi. The user
// installs both, and nothing of them is loaded before `mpiGroup` is called.
//
//   values → send ─ MPI_Iallreduce or MPI_Iallgather ─ MPI_Test … → receive → values
//
// MPI_Allreduce is not used, because it would wait for a lost rank forever. Ranks that send different numbers of values
// are undefined behaviour in MPI, up to the end of the process. So every exchange begins with a gather of messages of one
// length, which say what follows and hold the first values.

import type { LibraryHandle } from "koffi";
import { lostRank, noMpi, wrongKind } from "../common/errors.ts";
import { checkKeys, integerAtLeast } from "../common/validate.ts";
import {
  addTo,
  checkAlike,
  checkAll,
  checkValues,
  HEAD,
  KINDS,
  type ProcessGroup,
  timeoutOf,
} from "./process-group.ts";

/** The name of Open MPI's library from version 4 on. In its ABI, handles are addresses of variables in the library. */
const LIBRARY = "libmpi.so.40";

/** The code that the functions of MPI return when there is no error. */
const MPI_SUCCESS = 0;

/** Bytes of the longest error text in Open MPI. */
const MPI_MAX_ERROR_STRING = 256;

/**
 * The smallest number of elements in an array that MPI writes to after a call has returned. V8 may move typed arrays of
 * up to 64 bytes, so they have to be larger: 16 elements of 8 bytes have 128 bytes.
 */
const MIN_ELEMENTS = 16;

/** The numbers of the first message of an exchange. It holds SyncBatchNorm's packet of 256 channels. */
const FIRST = 544;

/** An address, as koffi represents it. */
type Handle = bigint;

/** The functions of MPI that a group needs. */
interface Mpi {
  /** The communicator MPI_COMM_WORLD. */
  readonly world: Handle;
  readonly initialized: () => boolean;
  readonly finalized: () => boolean;
  readonly init: () => number;
  readonly finalize: () => number;
  /** Makes calls on a communicator return error codes. By default, an error ends the process. */
  readonly returnErrors: (comm: Handle) => number;
  readonly rank: (comm: Handle) => number;
  readonly size: (comm: Handle) => number;
  readonly split: (comm: Handle, color: number, rank: number) => Handle;
  /** Begins a sum over all ranks. */
  readonly sum: Exchange;
  /** Begins a gather of the values of all ranks. */
  readonly gather: Exchange;
  /** Sets flag[0] to 1 if the exchange of this request is done, else to 0. Returns an MPI error code. */
  readonly done: (request: BigInt64Array, flag: Int32Array) => number;
  /** Returns the text of an MPI error code. */
  readonly describe: (code: number) => string;
}

/** Begins an exchange in which every rank sends `count` values. `request` identifies it. Returns an MPI error code. */
type Exchange = (
  comm: Handle,
  send: Float64Array,
  receive: Float64Array,
  count: number,
  request: BigInt64Array,
) => number;

/** Loads Open MPI. Rejects with BatchNormError "mpi" if koffi or the library is missing. */
async function loadMpi(library: string): Promise<Mpi> {
  const { default: koffi } = await import("koffi").catch((error: unknown) => {
    throw noMpi("the package koffi", "npm install koffi", error);
  });
  try {
    const lib = koffi.load(library);
    return { ...environment(lib), ...communicators(lib), ...exchanges(lib) };
  } catch (error) {
    throw noMpi(`Open MPI's ${library}`, "apt install openmpi-bin libopenmpi3, or give its path as library", error);
  }
}

/** Returns a function that calls MPI and returns the value of type `type` that the last parameter points to. */
function withResult<T>(lib: LibraryHandle, name: string, parameters: readonly string[], type: string) {
  const call = lib.func(`int ${name}(${[...parameters, `_Out_ ${type} *result`].join(", ")})`);
  return (...args: unknown[]): T => {
    const result: T[] = [0 as T];
    call(...args, result);
    return result[0] as T;
  };
}

/** Returns the functions that begin and end MPI, and that describe its errors. */
function environment(lib: LibraryHandle): Pick<Mpi, "initialized" | "finalized" | "init" | "finalize" | "describe"> {
  const initialized = withResult<number>(lib, "MPI_Initialized", [], "int");
  const finalized = withResult<number>(lib, "MPI_Finalized", [], "int");
  const init = lib.func("int MPI_Init(void *argc, void *argv)");
  const errorString = lib.func("int MPI_Error_string(int code, void *text, _Out_ int *length)");
  return {
    initialized: () => initialized() !== 0,
    finalized: () => finalized() !== 0,
    init: () => init(null, null),
    finalize: lib.func("int MPI_Finalize()") as () => number,
    describe: (code) => {
      const text = new Uint8Array(MPI_MAX_ERROR_STRING);
      const length = [0];
      errorString(code, text, length);
      return new TextDecoder().decode(text.subarray(0, length[0]));
    },
  };
}

/** Returns the communicator of all processes, and the functions on communicators. */
function communicators(lib: LibraryHandle): Pick<Mpi, "world" | "returnErrors" | "rank" | "size" | "split"> {
  const errorsReturn: Handle = lib.symbol("ompi_mpi_errors_return");
  const setErrorHandler = lib.func("int MPI_Comm_set_errhandler(void *comm, void *handler)");
  return {
    world: lib.symbol("ompi_mpi_comm_world"),
    returnErrors: (comm) => setErrorHandler(comm, errorsReturn),
    rank: withResult(lib, "MPI_Comm_rank", ["void *comm"], "int"),
    size: withResult(lib, "MPI_Comm_size", ["void *comm"], "int"),
    split: withResult(lib, "MPI_Comm_split", ["void *comm", "int color", "int key"], "void *"),
  };
}

/** Returns the functions that exchange values of float64. */
function exchanges(lib: LibraryHandle): Pick<Mpi, "sum" | "gather" | "done"> {
  const double: Handle = lib.symbol("ompi_mpi_double");
  const add: Handle = lib.symbol("ompi_mpi_op_sum");
  const allreduce = lib.func(
    "int MPI_Iallreduce(void *send, void *receive, int count, void *type, void *op, void *comm, void *request)",
  );
  const allgather = lib.func(
    "int MPI_Iallgather(void *send, int count, void *type, void *receive, int each, void *as, void *comm, void *request)",
  );
  const test = lib.func("int MPI_Test(void *request, void *flag, void *status)");
  return {
    sum: (comm, send, receive, count, request) => allreduce(send, receive, count, double, add, comm, request),
    gather: (comm, send, receive, count, request) =>
      allgather(send, count, double, receive, count, double, comm, request),
    done: (request, flag) => test(request, flag, null),
  };
}

/** A process group over MPI. Its calls are synchronous. */
export interface MpiGroup extends ProcessGroup<void> {
  /** Fills `all`, which is `size` times as long as `values`, with the values of all ranks in the order of the ranks. */
  gather(values: Float64Array, all: Float64Array): void;
  /**
   * Returns the group of the ranks that give the same `color`, a whole number, in the order of their ranks. It is
   * MPI_Comm_split, and serves as process_group does in PyTorch. Every rank has to call it, in the order of its other
   * calls.
   */
  split(color: number): MpiGroup;
  /**
   * Ends MPI, and waits for all ranks to do so. It is the last call of every rank on the group of `mpiGroup`. After an
   * error it does nothing, because lost ranks may never call it.
   */
  close(): void;
}

/** The state that all groups of a process share. */
interface Job {
  /** The error of all later calls in every group, after a rank was lost in any of them. */
  lost?: Error;
}

/** A rank of a group over MPI. */
class Group implements MpiGroup {
  readonly rank: number;
  readonly size: number;
  readonly #mpi: Mpi;
  readonly #comm: Handle;
  readonly #timeoutMs: number;
  /** Whether `close` calls MPI_Finalize. */
  #finalizes: boolean;
  /** The memory that MPI reads. It belongs to the group, because MPI may still use it after an exchange has failed. */
  #send = new Float64Array(MIN_ELEMENTS);
  /** The memory that MPI writes, possibly after an exchange has failed. */
  #receive = new Float64Array(MIN_ELEMENTS);
  /** The request of the exchange in progress, an address. */
  readonly #request = new BigInt64Array(MIN_ELEMENTS);
  /** Its first word is 1 when the exchange is done. */
  readonly #flag = new Int32Array(2 * MIN_ELEMENTS);
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
    const messages = this.#begin("sum", values);
    if (values.length > FIRST - HEAD) this.#exchange(this.#mpi.sum, values, values);
    else
      for (const [rank, message] of messages.entries()) {
        const part = message.subarray(HEAD, HEAD + values.length);
        if (rank === 0) values.set(part);
        else addTo(values, part);
      }
  }

  gather(values: Float64Array, all: Float64Array): void {
    checkAll(all, values, this.size);
    const messages = this.#begin("gather", values);
    if (values.length > FIRST - HEAD) this.#exchange(this.#mpi.gather, values, all);
    else
      for (const [rank, message] of messages.entries())
        all.set(message.subarray(HEAD, HEAD + values.length), rank * values.length);
  }

  /**
   * Gathers the first messages of all ranks, which hold all values if they are few. All ranks throw BatchNormError
   * "group" if they differ in kind or length.
   */
  #begin(kind: (typeof KINDS)[number], values: Float64Array): Float64Array[] {
    const first = new Float64Array(FIRST);
    first.set([KINDS.indexOf(kind), checkValues(values).length]);
    first.set(values.subarray(0, FIRST - HEAD), HEAD);
    const all = new Float64Array(this.size * FIRST);
    this.#exchange(this.#mpi.gather, first, all);
    const messages = Array.from({ length: this.size }, (_, rank) => all.subarray(rank * FIRST, (rank + 1) * FIRST));
    checkAlike(messages);
    return messages;
  }

  split(color: number): MpiGroup {
    integerAtLeast(0, "color", color);
    // MPI_Comm_split would wait for a lost rank forever, but a sum fails
    this.sum(new Float64Array(1));
    const comm = this.#mpi.split(this.#comm, color, this.rank);
    return new Group(this.#mpi, comm, this.#timeoutMs, false, this.#job);
  }

  close(): void {
    if (this.#finalizes && !this.#job.lost) this.#mpi.finalize();
    this.#finalizes = false;
  }

  /** Begins an exchange, waits for its end, and copies the received values to `target`. */
  #exchange(begin: Exchange, values: Float64Array, target: Float64Array): void {
    if (this.#job.lost) throw this.#job.lost;
    if (values.length > this.#send.length) this.#send = new Float64Array(values.length);
    if (target.length > this.#receive.length) this.#receive = new Float64Array(target.length);
    this.#send.set(values);
    this.#check(begin(this.#comm, this.#send, this.#receive, values.length, this.#request));
    const deadline = performance.now() + this.#timeoutMs;
    for (this.#flag[0] = 0; !this.#flag[0]; ) {
      this.#check(this.#mpi.done(this.#request, this.#flag));
      if (!this.#flag[0] && performance.now() > deadline)
        this.#lose(`an exchange did not end within ${this.#timeoutMs} ms`);
    }
    target.set(this.#receive.subarray(0, target.length));
  }

  /** Throws BatchNormError "group" for an MPI error code. */
  #check(code: number): void {
    if (code !== MPI_SUCCESS) this.#lose(`MPI says ${this.#mpi.describe(code)}`);
  }

  /** Records that a rank is lost, and throws BatchNormError "group". */
  #lose(what: string): never {
    this.#job.lost = lostRank(this.rank, this.size, what);
    throw this.#job.lost;
  }
}

/**
 * Resolves to the group of all processes that mpirun has started (MPI_COMM_WORLD), for SyncBatchNorm and other sums.
 * Its calls are synchronous, and every rank gets the same bits. In a process that mpirun has not started, it is a group
 * of one rank.
 *
 * `library` is the name or the path of Open MPI's library. If a rank does not take part within `timeoutMs` (30 s),
 * calls throw BatchNormError "group", and the group cannot be used any more. Rejects with BatchNormError "mpi" without
 * koffi or Open MPI.
 */
export async function mpiGroup(options: { timeoutMs?: number; library?: string } = {}): Promise<MpiGroup> {
  checkKeys("mpiGroup options", options, ["timeoutMs", "library"]);
  const { library = LIBRARY, ...timeout } = options;
  if (typeof library !== "string") throw wrongKind("library", "a string", library);
  const timeoutMs = timeoutOf(timeout);
  const mpi = await loadMpi(library);
  if (mpi.finalized()) throw noMpi("MPI in use", "make a group before the last one is closed, or keep it");
  const initializes = !mpi.initialized();
  if (initializes) mpi.init();
  return new Group(mpi, mpi.world, timeoutMs, initializes);
}
