// Decides which bytes of a memory are in use. It only computes, and does not touch the memory.

import { wrongKind } from "../common/errors.ts";

/**
 * The first address that is handed out. The compiler assumes that the lowest 1 KiB is unused, when it moves constant
 * offsets into load and store instructions.
 */
const BASE = 1024;

/**
 * Bytes of a cache line. No two tensors share a line, and no vector of an aligned tensor crosses from one line to the
 * next.
 */
const ALIGNMENT = 64;

const align = (bytes: number) => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

/** The distance in bytes at which a store delays loads: processors compare the lower 12 bits of addresses first. */
const ALIAS = 4096;

/**
 * Bytes that a large tensor takes beyond a multiple of ALIAS: 17 cache lines, so that the next tensors start at other
 * places.
 */
const STAGGER = 17 * ALIGNMENT;

/**
 * Returns the bytes to reserve for a tensor. Large tensors take a multiple of 4 KiB plus 1088 bytes. So tensors that
 * are allocated one after the other start at different places in their pages. If they all started at the same place,
 * stores would delay loads: backward of [4096, 1024] would take 5.8 copies of the tensor instead of 4.3.
 */
export const staggered = (bytes: number) =>
  bytes < ALIAS ? bytes : Math.ceil((bytes - STAGGER) / ALIAS) * ALIAS + STAGGER;

/**
 * Best-fit allocation from BASE on. It computes a place and grows the memory to reach it. Only then it records the
 * place, so that nothing has changed if growing throws.
 */
export class Allocator {
  /** The free ranges below the top, in the order of their addresses. No two of them touch. */
  readonly #free: { begin: number; end: number }[] = [];
  /** The size of every range that is handed out, by its pointer. */
  readonly #sizes = new Map<number, number>();
  readonly #grow: (end: number) => void;
  /** The end of the last range that is handed out. */
  #top = BASE;
  #used = 0;

  /** Takes a function that makes the bytes up to `end` usable, or throws. */
  constructor(grow: (end: number) => void) {
    this.#grow = grow;
  }

  /** The number of bytes that are handed out. */
  get used(): number {
    return this.#used;
  }

  /** Returns the address of `bytes` bytes, aligned to 64. Throws what `grow` throws, and then changes nothing. */
  allocate(bytes: number): number {
    const size = align(Math.max(bytes, 1));
    let best = -1;
    for (const [i, range] of this.#free.entries()) {
      const room = range.end - range.begin;
      const chosen = this.#free[best];
      if (room >= size && (!chosen || room < chosen.end - chosen.begin)) best = i;
    }
    const range = this.#free[best];
    const pointer = range ? range.begin : this.#top;
    if (!range) {
      this.#grow(pointer + size);
      this.#top = pointer + size;
    } else if (range.end - range.begin === size) this.#free.splice(best, 1);
    else range.begin += size;
    this.#sizes.set(pointer, size);
    this.#used += size;
    return pointer;
  }

  /** Frees the bytes that `allocate` has returned. Throws TypeError for any other pointer. */
  free(pointer: number): void {
    const size = this.#sizes.get(pointer);
    if (size === undefined) throw wrongKind("pointer", "one that was allocated and not freed", pointer);
    this.#sizes.delete(pointer);
    this.#used -= size;
    let i = this.#free.findIndex((range) => range.begin > pointer);
    if (i < 0) i = this.#free.length;
    this.#free.splice(i, 0, { begin: pointer, end: pointer + size });
    for (const left of [i, i - 1]) {
      const a = this.#free[left];
      const b = this.#free[left + 1];
      if (a && b && a.end === b.begin) {
        a.end = b.end;
        this.#free.splice(left + 1, 1);
      }
    }
    const last = this.#free.at(-1);
    if (last?.end === this.#top) {
      this.#top = last.begin;
      this.#free.pop();
    }
  }
}
