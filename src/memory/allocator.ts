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

/** Numbers of a block at most. Blocks of 32 to 256 take the same time among 20,000 numbers (Node 20.20). */
const BLOCK = 128;

/** Returns the index of the first item of a sorted list for which `isBefore` is false. */
function search<T>(list: readonly T[], isBefore: (item: T) => boolean): number {
  let low = 0;
  for (let high = list.length; low < high; ) {
    const middle = (low + high) >> 1;
    if (isBefore(list[middle] as T)) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** A sorted list of different numbers, in blocks, so that a change moves numbers of one block only. */
class SortedNumbers {
  /** The blocks. Only the last one that is left may be empty. */
  readonly #blocks: number[][] = [[]];

  /** Returns the index of the block in which a number has its place, the block, and the number's index in it. */
  #find(number: number): [i: number, block: number[], at: number] {
    const blocks = this.#blocks;
    const i = Math.min(
      search(blocks, (block) => (block[block.length - 1] as number) < number),
      blocks.length - 1,
    );
    const block = blocks[i] as number[];
    return [i, block, search(block, (other) => other < number)];
  }

  /** Returns the least number that is not below `number`, or undefined. */
  from(number: number): number | undefined {
    const [, block, at] = this.#find(number);
    return block[at];
  }

  /** Adds a number that is not in the list. */
  add(number: number): void {
    const [i, block, at] = this.#find(number);
    block.splice(at, 0, number);
    if (block.length > BLOCK) this.#blocks.splice(i, 0, block.splice(0, BLOCK / 2));
  }

  /** Removes a number that is in the list. */
  remove(number: number): void {
    const [i, block, at] = this.#find(number);
    block.splice(at, 1);
    if (block.length === 0 && this.#blocks.length > 1) this.#blocks.splice(i, 1);
  }
}

/** The factor of a hole's size. Addresses in lines are below it. */
const LINES = 2 ** 26;

/** Returns a free range as one number: its size and its address in lines, so that the smallest range comes first. */
const holeOf = (begin: number, end: number) => ((end - begin) / ALIGNMENT) * LINES + begin / ALIGNMENT;

/** What is added to the address of a range that is handed out, to tell it from a border of a free range. */
const LIVE = 1;

/**
 * Best-fit allocation from BASE on. It computes a place and grows the memory to reach it. Only then it records the
 * place, so that nothing has changed if growing throws.
 */
export class Allocator {
  /** The free ranges below the top, as `holeOf` returns them. No two of them touch. */
  readonly #holes = new SortedNumbers();
  /**
   * The other border of a free range, by each of its two borders, and the size of a range that is handed out, by its
   * address plus LIVE. A value of 0 stands for none.
   */
  readonly #links = new Map<number, number>();
  /** The size of #links at which its zeros are deleted. */
  #purgeAt = 0;
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
    const hole = this.#holes.from(holeOf(0, size));
    const pointer = hole ? (hole & (LINES - 1)) * ALIGNMENT : this.#top;
    const end = pointer + size;
    if (hole) {
      const holeEnd = this.#links.get(pointer) as number;
      this.#removeHole(pointer, holeEnd);
      this.#addHole(end, holeEnd);
    } else {
      this.#grow(end);
      this.#top = end;
    }
    this.#link(pointer + LIVE, size);
    this.#used += size;
    return pointer;
  }

  /** Frees the bytes that `allocate` has returned. Throws TypeError for any other pointer. */
  free(pointer: number): void {
    const links = this.#links;
    const size = pointer % ALIGNMENT ? 0 : links.get(pointer + LIVE);
    if (!size) throw wrongKind("pointer", "one that was allocated and not freed", pointer);
    this.#link(pointer + LIVE, 0);
    this.#used -= size;
    const end = pointer + size;
    const begin = links.get(pointer) || pointer;
    const last = links.get(end) || end;
    this.#removeHole(begin, pointer);
    this.#removeHole(end, last);
    if (last === this.#top) this.#top = begin;
    else this.#addHole(begin, last);
  }

  /** Adds a range to the free ones, if it has any bytes. */
  #addHole(begin: number, end: number): void {
    if (begin === end) return;
    this.#holes.add(holeOf(begin, end));
    this.#link(begin, end);
    this.#link(end, begin);
  }

  /** Removes a range from the free ones, if it has any bytes. */
  #removeHole(begin: number, end: number): void {
    if (begin === end) return;
    this.#holes.remove(holeOf(begin, end));
    this.#link(begin, 0);
    this.#link(end, 0);
  }

  /**
   * Sets a link. Zeros are deleted together, because a Map takes time in proportion to its size if a program deletes a
   * few keys and sets them again and again: V8 keeps deleted keys in its chains until it makes a new table.
   */
  #link(key: number, value: number): void {
    const links = this.#links;
    links.set(key, value);
    if (links.size < this.#purgeAt) return;
    for (const [k, v] of links) if (v === 0) links.delete(k);
    this.#purgeAt = 2 * links.size + 64;
  }
}
