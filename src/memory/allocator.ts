// Which bytes of a memory are in use. Arithmetic only: nothing here touches the memory.

import { wrongKind } from "../common/errors.ts";

/** Bytes at the bottom that stay free; the compiler folds constant offsets below this into addresses. */
const BASE = 1024;

/** A cache line: no two tensors share one, and whole vectors never straddle two. */
const ALIGNMENT = 64;

const align = (bytes: number) => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

const ALIAS = 4096;
const STAGGER = 1088;

/**
 * Bytes to reserve for a tensor. Large ones take 1088 more than a multiple of 4 KiB, so that tensors allocated one after
 * the other do not start at the same place in their pages: where they do, a store holds up loads 4 KiB away, and backward
 * of [4096, 1024] takes 5.8 copies of the tensor instead of 4.3.
 */
export const staggered = (bytes: number) =>
  bytes < ALIAS ? bytes : Math.ceil((bytes - STAGGER) / ALIAS) * ALIAS + STAGGER;

/**
 * Best-fit allocation in [BASE, limit): arithmetic only. It computes a place, has the memory grown to reach it, and only
 * then commits; where growing throws, nothing has changed.
 */
export class Allocator {
  /** Free ranges below the top, by address; no two touch. */
  readonly #free: { begin: number; end: number }[] = [];
  readonly #sizes = new Map<number, number>();
  readonly #grow: (end: number) => void;
  #top = BASE;
  #used = 0;

  /** `grow(end)` makes bytes up to `end` usable, or throws. */
  constructor(grow: (end: number) => void) {
    this.#grow = grow;
  }

  /** Bytes handed out and not yet freed. */
  get used(): number {
    return this.#used;
  }

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
