// The board that the threads of a pool work from, in shared memory: one job at a time, which is several calls of one
// kernel. Whoever is free takes the next call that nobody has.
//
//   owner    writes the job, opens the board, takes calls, closes the board, waits until nobody is inside
//   worker   waits for another generation, enters if the board is open, takes calls, leaves
//
// A worker that comes late finds the board closed and changes nothing, so the owner never waits for one that sleeps.

/** Words of i32, by index. */
export const STATE = 0; // OPEN + number of workers inside
export const GENERATION = 1; // of jobs; workers sleep on it
export const SLEEPERS = 2;
export const FAILED = 3; // number of the worker whose kernel failed, 0 for none
const KERNEL = 4;
const CALLS = 5;
const ARGUMENTS = 6;
const TAKEN = 16; // one word for each call: 1 where somebody has it

export const OPEN = 1 << 16;

export const MAX_CALLS = 64;
export const MAX_THREADS = 64;

/** One word for each thread: 1 while it is inside. */
export const INSIDE = TAKEN + MAX_CALLS;
const WORDS = INSIDE + MAX_THREADS;
const MAX_ARGUMENTS = 14;

export type Kernel = (...values: number[]) => unknown;

export class JobBoard {
  readonly buffer: SharedArrayBuffer;
  readonly i32: Int32Array;
  readonly #f64: Float64Array;

  constructor(buffer?: SharedArrayBuffer) {
    this.buffer = buffer ?? new SharedArrayBuffer(WORDS * 4 + MAX_CALLS * MAX_ARGUMENTS * 8);
    this.i32 = new Int32Array(this.buffer, 0, WORDS);
    this.#f64 = new Float64Array(this.buffer, WORDS * 4);
  }

  /** Writes a job. Nobody may be inside. */
  write(kernel: number, calls: readonly (readonly number[])[]): void {
    const { i32 } = this;
    i32[KERNEL] = kernel;
    i32[CALLS] = calls.length;
    i32[ARGUMENTS] = calls[0]?.length ?? 0;
    for (const [i, call] of calls.entries()) {
      i32[TAKEN + i] = 0;
      for (let k = 0; k < call.length; k++) this.#f64[i * MAX_ARGUMENTS + k] = call[k] as number;
    }
  }

  /**
   * Takes calls until there are none. Thread `thread` of `threads` begins with its own share, so that in the next job of
   * the same tensor it meets the same part of it, which may still be in its cache.
   */
  work(kernels: readonly Kernel[], thread: number, threads: number): void {
    const { i32 } = this;
    const calls = i32[CALLS] as number;
    const kernel = kernels[i32[KERNEL] as number] as Kernel;
    const length = i32[ARGUMENTS] as number;
    const first = Math.floor((thread * calls) / threads);
    for (let k = 0; k < calls; k++) {
      const i = (first + k) % calls;
      if (Atomics.exchange(i32, TAKEN + i, 1) === 1) continue;
      const at = i * MAX_ARGUMENTS;
      kernel(...this.#f64.subarray(at, at + length));
    }
  }
}
