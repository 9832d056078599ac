// The job board, in memory that the threads of a pool share. It holds one job at a time: phases, and the pieces that
// they work on. A thread that is free takes the next piece that no thread has taken, and runs all phases on it.
//
//   owner    writes the job, opens the board, takes pieces, closes the board, waits until no worker is inside
//   worker   waits for another generation that wants it, enters if the board is open, takes pieces, leaves
//
// The owner is the thread that called the pool. A worker that comes late finds the board closed and changes nothing, so
// the owner never waits for a worker that sleeps.

import type { ExtendedExports } from "../module.ts";

// Indices of the board's words, an Int32Array.

/** OPEN while workers may enter, plus the number of workers inside. */
export const STATE = 0;
/** The number of jobs so far. */
export const GENERATION = 1;
/** The number of threads that the job wants, the owner's included. */
export const WANTED = 2;
/** The number of the worker whose kernel has failed, or 0. */
export const FAILED = 3;
/** The number of the job's phases. */
const PHASES = 4;
/** The number of the job's pieces. */
const PIECES = 5;
/**
 * The first of MAX_PIECES words: TAKEN or STOPPED once a thread has taken the piece. Words 6 to 15 are unused, so that a
 * cache line starts here.
 */
const STATES = 16;

/** The state of a piece that a thread has taken. */
const TAKEN = 1;
/** The state of a piece on which a phase has returned a number other than 0, so that later phases did not run. */
const STOPPED = 2;

/** A flag above the number of workers inside, which is below MAX_THREADS. */
export const OPEN = 1 << 16;

/** Threads of a pool. */
export const MAX_THREADS = 64;

/** Pieces of a job: two for each thread (PIECES in pool.ts). More pieces are several jobs. */
export const MAX_PIECES = 2 * MAX_THREADS;

/** The first of MAX_THREADS words: AWAKE, INSIDE or ASLEEP for each thread. A worker sleeps on its word. */
export const THREADS = STATES + MAX_PIECES;
const WORDS = THREADS + MAX_THREADS;

/** The state of a worker that reads the board. */
export const AWAKE = 0;
/** The state of a worker that is inside. */
export const INSIDE = 1;
/** The state of a worker that sleeps until the owner makes it AWAKE. */
export const ASLEEP = 2;

/** Phases of a job: those of a backward whose derivative of the activation is a map of its own. */
const MAX_PHASES = 6;

/** Arguments of a phase: as many as `map` has. `sums` has fewer. The compiler compares this number with the export. */
const MAX_ARGUMENTS: Parameters<ExtendedExports["map"]>["length"] = 10;

/** The numbers of a phase: the index of its kernel, the number of its arguments, and the arguments. */
const PHASE = 2 + MAX_ARGUMENTS;

/** The index of the first number of the ranges of pieces, which follow the phases. */
const RANGES = MAX_PHASES * PHASE;

export type Kernel = (...values: number[]) => unknown;

/** A phase of a job. The range of a piece follows the arguments of the call. */
export interface Phase {
  /** The index of the kernel. */
  readonly kernel: number;
  readonly call: readonly number[];
}

/** A piece of a job: a range [begin, end) of units. */
export interface Piece {
  readonly begin: number;
  readonly end: number;
}

/** The board as one thread sees it. Without a buffer, the constructor makes a new board. */
export class JobBoard {
  /** The memory of the board, to be posted to workers. */
  readonly buffer: SharedArrayBuffer;
  /** The words of the board. */
  readonly i32: Int32Array;
  /** The phases, PHASE numbers each, and the ranges of pieces, two numbers each. */
  readonly #numbers: Float64Array;

  constructor(buffer?: SharedArrayBuffer) {
    this.buffer = buffer ?? new SharedArrayBuffer(WORDS * 4 + (RANGES + MAX_PIECES * 2) * 8);
    this.i32 = new Int32Array(this.buffer, 0, WORDS);
    this.#numbers = new Float64Array(this.buffer, WORDS * 4);
  }

  /** Writes a job. No worker may be inside. */
  write(phases: readonly Phase[], pieces: readonly Piece[]): void {
    const { i32 } = this;
    const numbers = this.#numbers;
    let at = 0;
    for (const { kernel, call } of phases) {
      numbers[at] = kernel;
      numbers[at + 1] = call.length;
      numbers.set(call, at + 2);
      at += PHASE;
    }
    at = RANGES;
    for (let i = 0; i < pieces.length; i++) {
      const { begin, end } = pieces[i] as Piece;
      i32[STATES + i] = 0;
      numbers[at++] = begin;
      numbers[at++] = end;
    }
    i32[PHASES] = phases.length;
    i32[PIECES] = pieces.length;
  }

  /**
   * Takes pieces until all are taken, and runs the phases on each. Each of the `threads` begins with another share of
   * the pieces. So in the next job on the same tensor, a thread meets the same part of it, which may still be in its
   * cache.
   */
  work(kernels: readonly Kernel[], thread: number, threads: number): void {
    const { i32 } = this;
    const pieces = i32[PIECES] as number;
    const first = Math.floor((thread * pieces) / threads);
    for (let k = 0; k < pieces; k++) {
      const i = (first + k) % pieces;
      if (Atomics.compareExchange(i32, STATES + i, 0, TAKEN) === 0 && this.#run(kernels, i)) i32[STATES + i] = STOPPED;
    }
  }

  /** Runs the phases on a piece. Returns whether a phase has stopped it. */
  #run(kernels: readonly Kernel[], piece: number): boolean {
    const numbers = this.#numbers;
    const begin = numbers[RANGES + 2 * piece] as number;
    const end = numbers[RANGES + 2 * piece + 1] as number;
    const phases = (this.i32[PHASES] as number) * PHASE;
    for (let at = 0; at < phases; at += PHASE) {
      const kernel = kernels[numbers[at] as number] as Kernel;
      const call = numbers.subarray(at + 2, at + 2 + (numbers[at + 1] as number));
      if (kernel(...call, begin, end)) return true;
    }
    return false;
  }

  /** Returns whether a phase has stopped a piece of the job. No worker may be inside. */
  hasStopped(piece: number): boolean {
    return this.i32[STATES + piece] === STOPPED;
  }
}
