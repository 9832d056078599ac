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

/** A free range. It is a node of a tree whose depth grows with the logarithm of the number of ranges (a treap). */
interface Hole {
  begin: number;
  end: number;
  /** A random number, which is the largest of its subtree. */
  readonly priority: number;
  left?: Hole | undefined;
  right?: Hole | undefined;
}

type Tree = Hole | undefined;

/** Returns whether a hole comes before another one in the tree: by size, and by address among equal sizes. */
const isBefore = (a: Hole, b: Hole): boolean => (a.end - a.begin - (b.end - b.begin) || a.begin - b.begin) < 0;

/** Joins two trees. All holes of the first come before those of the second. */
function join(a: Tree, b: Tree): Tree {
  if (!a || !b) return a ?? b;
  if (a.priority > b.priority) {
    a.right = join(a.right, b);
    return a;
  }
  b.left = join(a, b.left);
  return b;
}

/** Splits a tree into the holes that come before `hole` and the others. */
function split(tree: Tree, hole: Hole): [before: Tree, after: Tree] {
  if (!tree) return [undefined, undefined];
  if (isBefore(tree, hole)) {
    const [before, after] = split(tree.right, hole);
    tree.right = before;
    return [tree, after];
  }
  const [before, after] = split(tree.left, hole);
  tree.left = after;
  return [before, tree];
}

/** Returns a tree with one more hole. */
function insert(tree: Tree, hole: Hole): Hole {
  if (!tree || hole.priority > tree.priority) {
    [hole.left, hole.right] = split(tree, hole);
    return hole;
  }
  if (isBefore(hole, tree)) tree.left = insert(tree.left, hole);
  else tree.right = insert(tree.right, hole);
  return tree;
}

/** Returns a tree without one of its holes. */
function remove(tree: Hole, hole: Hole): Tree {
  if (tree === hole) return join(tree.left, tree.right);
  if (isBefore(hole, tree)) tree.left = remove(tree.left as Hole, hole);
  else tree.right = remove(tree.right as Hole, hole);
  return tree;
}

/**
 * Best-fit allocation from BASE on. It computes a place and grows the memory to reach it. Only then it records the
 * place, so that nothing has changed if growing throws.
 */
export class Allocator {
  /** The free ranges below the top, by their size. No two of them touch. */
  #holes: Tree;
  /** The free ranges by their first address. */
  readonly #begins = new Map<number, Hole>();
  /** The free ranges by their end. */
  readonly #ends = new Map<number, Hole>();
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
    let best: Tree;
    for (let hole = this.#holes; hole; ) {
      const fits = hole.end - hole.begin >= size;
      if (fits) best = hole;
      hole = fits ? hole.left : hole.right;
    }
    const pointer = best ? best.begin : this.#top;
    const end = pointer + size;
    if (best) this.#resize(best, end, best.end);
    else {
      this.#grow(end);
      this.#top = end;
    }
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
    const before = this.#ends.get(pointer);
    const after = this.#begins.get(pointer + size);
    const begin = before ? before.begin : pointer;
    let end = pointer + size;
    if (after) {
      end = after.end;
      if (before) this.#resize(after, end, end);
    }
    if (end === this.#top) this.#top = end = begin;
    const hole = before ?? after ?? { begin: end, end, priority: Math.random(), left: undefined, right: undefined };
    this.#resize(hole, begin, end);
  }

  /** Changes a hole. One without bytes is removed from the tree, or was not in it. */
  #resize(hole: Hole, begin: number, end: number): void {
    const { begin: oldBegin, end: oldEnd } = hole;
    if (oldBegin < oldEnd) this.#holes = remove(this.#holes as Hole, hole);
    if (begin !== oldBegin || begin === end) this.#begins.delete(oldBegin);
    if (end !== oldEnd || begin === end) this.#ends.delete(oldEnd);
    hole.begin = begin;
    hole.end = end;
    if (begin === end) return;
    this.#holes = insert(this.#holes, hole);
    this.#begins.set(begin, hole);
    this.#ends.set(end, hole);
  }
}
