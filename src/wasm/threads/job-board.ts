// The job board, in memory that the threads of a pool share. It holds one job at a time, which is several calls of one
// kernel. A thread that is free takes the next call that no thread has taken.
//
//   owner    writes the job, opens the board, takes calls, closes the board, waits until no worker is inside
//   worker   waits for another generation, enters if the board is open, takes calls, leaves
//
// The owner is the thread that called the pool. A worker that comes late finds the board closed and changes nothing, so
// the owner never waits for a worker that sleeps.

import type { ExtendedExports } from "../module.ts";

// Indices of the board's words, an Int32Array.

/** OPEN while workers may enter, plus the number of workers inside. */
export const STATE = 0;
/** The number of jobs so far. Workers without a job sleep on this word. */
export const GENERATION = 1;
/** The number of workers that sleep. */
export const SLEEPERS = 2;
/** The number of the worker whose kernel has failed, or 0. */
export const FAILED = 3;
/** The index of the job's kernel. */
const KERNEL = 4;
/** The number of the job's calls. */
const CALLS = 5;
/** The number of arguments of each call. */
const ARGUMENTS = 6;
/**
 * The first of MAX_CALLS words: 1 if a thread has taken the call. Words 7 to 15 are unused, so that a cache line starts
 * here.
 */
const TAKEN = 16;

/** A flag above the number of workers inside, which is below MAX_THREADS. */
export const OPEN = 1 << 16;

/** Calls of a job: two for each of 32 threads (PIECES in kernels.ts). With more threads, a thread gets fewer. */
export const MAX_CALLS = 64;

/** Threads of a pool. More threads than calls would have nothing to do. */
export const MAX_THREADS = MAX_CALLS;

/** The first of MAX_THREADS words: 1 while the thread is inside. */
export const INSIDE = TAKEN + MAX_CALLS;
const WORDS = INSIDE + MAX_THREADS;

/** Arguments of a call: as many as `map` has. `sums` has fewer. The compiler compares this number with the export. */
const MAX_ARGUMENTS: Parameters<ExtendedExports["map"]>["length"] = 10;

export type Kernel = (...values: number[]) => unknown;

/** The board as one thread sees it. Without a buffer, the constructor makes a new board. */
export class JobBoard {
  /** The memory of the board, to be posted to workers. */
  readonly buffer: SharedArrayBuffer;
  /** The words of the board. */
  readonly i32: Int32Array;
  /** The arguments of the calls, MAX_ARGUMENTS for each. */
  readonly #arguments: Float64Array;

  constructor(buffer?: SharedArrayBuffer) {
    this.buffer = buffer ?? new SharedArrayBuffer(WORDS * 4 + MAX_CALLS * MAX_ARGUMENTS * 8);
    this.i32 = new Int32Array(this.buffer, 0, WORDS);
    this.#arguments = new Float64Array(this.buffer, WORDS * 4);
  }

  /** Writes a job: a kernel's index and the arguments of its calls. No worker may be inside. */
  write(kernel: number, calls: readonly (readonly number[])[]): void {
    const { i32 } = this;
    i32[KERNEL] = kernel;
    i32[CALLS] = calls.length;
    i32[ARGUMENTS] = calls[0]?.length ?? 0;
    for (const [i, call] of calls.entries()) {
      i32[TAKEN + i] = 0;
      for (let k = 0; k < call.length; k++) this.#arguments[i * MAX_ARGUMENTS + k] = call[k] as number;
    }
  }

  /**
   * Takes calls until all are taken. Each of the `threads` begins with another share of the calls. So in the next job
   * on the same tensor, a thread meets the same part of it, which may still be in its cache.
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
      const offset = i * MAX_ARGUMENTS;
      kernel(...this.#arguments.subarray(offset, offset + length));
    }
  }
}
