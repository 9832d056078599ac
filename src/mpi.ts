// A group whose ranks are the processes of MPI: batchnorm-wasm/mpi. The transport is Open MPI's, reached through koffi, both of
// which are the user's: nothing of them is loaded before mpiGroup is called.
//
//   sum   values → send ─ MPI_Iallreduce ─ MPI_Test … → receive → values
//
// Not MPI_Allreduce, which would wait for a lost rank forever.

import { lostRank, noMpi, wrongKind } from "./errors.ts";
import { type AllReduce, timeoutOf } from "./groups.ts";
import { checkKeys } from "./options.ts";

export type { AllReduce };

/** Open MPI's from version 4 on. Its ABI: handles are addresses of the library's own variables. */
const LIBRARY = "libmpi.so.40";
const MPI_SUCCESS = 0;

/** Typed arrays of up to 64 bytes live in V8's heap, and move there; an MPI_Request is a pointer. */
const LEAST = 16;

interface Mpi {
  readonly initialized: () => boolean;
  readonly finalized: () => boolean;
  readonly init: () => number;
  readonly finalize: () => number;
  readonly returnErrors: () => number;
  readonly rank: () => number;
  readonly size: () => number;
  /** Begins a sum; `done` tells what became of it. */
  readonly start: (send: Float64Array, receive: Float64Array, count: number, request: BigInt64Array) => number;
  readonly done: (request: BigInt64Array, flag: Int32Array) => number;
  readonly describe: (code: number) => string;
}

async function loadMpi(library: string): Promise<Mpi> {
  const { default: koffi } = await import("koffi").catch((error: unknown) => {
    throw noMpi("the package koffi", "npm install koffi", error);
  });
  try {
    const lib = koffi.load(library);
    const [world, double, add, errorsReturn] = [
      "ompi_mpi_comm_world",
      "ompi_mpi_double",
      "ompi_mpi_op_sum",
      "ompi_mpi_errors_return",
    ].map((name) => lib.symbol(name));
    const number = (name: string) => {
      const call = lib.func(`int ${name}(void *comm, _Out_ int *value)`);
      return () => {
        const value = [0];
        call(world, value);
        return value[0] as number;
      };
    };
    const flag = (name: string) => {
      const call = lib.func(`int ${name}(_Out_ int *flag)`);
      return () => {
        const value = [0];
        call(value);
        return value[0] !== 0;
      };
    };
    const init = lib.func("int MPI_Init(void *argc, void *argv)");
    const setErrors = lib.func("int MPI_Comm_set_errhandler(void *comm, void *handler)");
    const start = lib.func(
      "int MPI_Iallreduce(void *send, void *receive, int count, void *type, void *op, void *comm, void *request)",
    );
    const test = lib.func("int MPI_Test(void *request, void *flag, void *status)");
    const describe = lib.func("int MPI_Error_string(int code, void *text, _Out_ int *length)");
    return {
      initialized: flag("MPI_Initialized"),
      finalized: flag("MPI_Finalized"),
      init: () => init(null, null),
      finalize: lib.func("int MPI_Finalize()") as () => number,
      returnErrors: () => setErrors(world, errorsReturn),
      rank: number("MPI_Comm_rank"),
      size: number("MPI_Comm_size"),
      start: (send, receive, count, request) => start(send, receive, count, double, add, world, request),
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

class MpiGroup implements AllReduce<void> {
  readonly rank: number;
  readonly size: number;
  readonly #mpi: Mpi;
  readonly #timeoutMs: number;
  /** Whether MPI_Finalize is this group's to call, which waits for all ranks. */
  #finalizes: boolean;
  /** Of the group's own, since a sum that was given up is still MPI's to write. */
  #send = new Float64Array(LEAST);
  #receive = new Float64Array(LEAST);
  readonly #request = new BigInt64Array(LEAST);
  readonly #flag = new Int32Array(2 * LEAST);
  #lost: Error | undefined;

  constructor(mpi: Mpi, timeoutMs: number, finalizes: boolean) {
    this.#mpi = mpi;
    this.#timeoutMs = timeoutMs;
    this.#finalizes = finalizes;
    this.rank = mpi.rank();
    this.size = mpi.size();
  }

  sum(values: Float64Array): void {
    if (this.#lost) throw this.#lost;
    const { length } = values;
    if (length > this.#send.length) {
      this.#send = new Float64Array(length);
      this.#receive = new Float64Array(length);
    }
    this.#send.set(values);
    this.#check(this.#mpi.start(this.#send, this.#receive, length, this.#request));
    const end = performance.now() + this.#timeoutMs;
    for (this.#flag[0] = 0; !this.#flag[0]; ) {
      this.#check(this.#mpi.done(this.#request, this.#flag));
      if (!this.#flag[0] && performance.now() > end) this.#lose("a sum did not end");
    }
    values.set(this.#receive.subarray(0, length));
  }

  /** Every rank's last call: ends MPI. After an error it does nothing, since the others may never come. */
  close(): void {
    if (this.#finalizes && !this.#lost) this.#mpi.finalize();
    this.#finalizes = false;
  }

  #check(code: number): void {
    if (code !== MPI_SUCCESS) this.#lose(`MPI says ${this.#mpi.describe(code)}`);
  }

  #lose(what: string): never {
    this.#lost = lostRank(this.rank, this.size, what, this.#timeoutMs);
    throw this.#lost;
  }
}

/**
 * The group of all processes that mpirun has started (MPI_COMM_WORLD), for SyncBatchNorm and whatever else is to be summed.
 * Sums are MPI's, at once, with the same bits on every rank. A process that mpirun has not started is a group of one. `close`
 * is every rank's last call.
 *
 * `library` is Open MPI's, by name or path. A rank that does not come within `timeoutMs` (30 s) is an error, BatchNormError
 * "group", after which the group is of no more use. Throws BatchNormError "mpi" without koffi or without Open MPI.
 */
export async function mpiGroup(
  options: { timeoutMs?: number; library?: string } = {},
): Promise<AllReduce<void> & { close(): void }> {
  checkKeys("mpiGroup options", options, ["timeoutMs", "library"]);
  const { library = LIBRARY, ...rest } = options;
  if (typeof library !== "string") throw wrongKind("library", "a string", library);
  const timeoutMs = timeoutOf(rest);
  const mpi = await loadMpi(library);
  if (mpi.finalized()) throw noMpi("MPI in use", "make a group before the last one is closed, or keep it");
  const own = !mpi.initialized();
  if (own) mpi.init();
  mpi.returnErrors();
  return new MpiGroup(mpi, timeoutMs, own);
}
