// Operands: what calls take and return, how it is checked, and where the kernels find it. A tensor lies in wasm memory
// and is worked on in place. A plain array passes through a tile of wasm memory, part by part, so that little memory is
// needed however large it is:
//
//   array   | part 0 | part 1 | part 2 | …        planar: some channels of every image; interleaved: a stripe of rows
//                 ↓ load       ↑ unload
//   tile    |________|                            in wasm memory, small enough for the processor's cache

import { inPlace, wrongKind, wrongLength, wrongShape } from "./errors.ts";
import { elementsOf, type Geometry, type Part, sizeOf, tilesOf, wholeOf } from "./geometry.ts";
import { pivotBlock } from "./kernels.ts";
import { checkTensor, defaultHeap, type Heap, inWasmMemory, Tensor } from "./memory.ts";

/** A float32 array in JavaScript's memory with its shape in memory order. */
export interface PlainTensor {
  data: Float32Array;
  shape: readonly number[];
}

/** What calls take, and what they return: the kind that came in. */
export type TensorLike = PlainTensor | Tensor;

/** Refuses what is neither a live Tensor nor { data: Float32Array, shape } of one length. */
export function checkOperand(name: string, value: TensorLike): void {
  if (value instanceof Tensor) {
    checkTensor(name, value, value.heap);
    return;
  }
  if (typeof value !== "object" || value === null)
    throw wrongKind(name, "a Tensor or { data: Float32Array, shape }", value);
  if (!(value.data instanceof Float32Array)) throw wrongKind(`${name}.data`, "a Float32Array", value.data);
  if (sizeOf(name, value.shape) !== value.data.length) throw wrongLength(name, value.shape, value.data.length);
}

export const sameShape = (a: readonly number[], b: readonly number[]) =>
  a.length === b.length && a.every((d, i) => d === b[i]);

/** Refuses a destination of another shape, in another memory, or in views that growing memory would empty. */
export function checkOut(name: string, out: TensorLike | undefined, shape: readonly number[], heap: Heap): void {
  if (out === undefined) return;
  checkOperand(name, out);
  if (!sameShape(out.shape, shape)) throw wrongShape(name, shape, out.shape);
  if (out instanceof Tensor) checkTensor(name, out, heap);
  else if (inWasmMemory(out.data)) throw wrongKind(name, "the Tensor itself or memory of JavaScript", out);
}

/** The bytes of its buffer that an array takes. */
const extent = ({ byteOffset, byteLength }: Float32Array) => [byteOffset, byteOffset + byteLength] as const;

/** Whether two operands share memory, and whether they are the same memory. */
function overlap(a: TensorLike, b: TensorLike): { any: boolean; same: boolean } {
  if (a instanceof Tensor || b instanceof Tensor) return { any: a === b, same: a === b };
  const [[begin, end], [from, to]] = [extent(a.data), extent(b.data)];
  const any = a.data.buffer === b.data.buffer && begin < to && from < end;
  return { any, same: any && begin === from };
}

/** Whether `out` is the memory of `source`; throws BatchNormError "in-place" where it is only partly so, or must not be. */
export function overwrites(name: string, out: TensorLike | undefined, source: TensorLike, mode?: string): boolean {
  if (!out) return false;
  const { any, same } = overlap(out, source);
  if (any && (mode !== undefined || !same)) throw inPlace(name, mode);
  return same;
}

/** The heap that a call works in: that of the first tensor among its operands, or the default one. */
export const heapOf = (...values: readonly (TensorLike | undefined)[]): Heap =>
  values.find((value) => value instanceof Tensor)?.heap ?? defaultHeap();

/** A plain array's copy in wasm memory, which the caller owns; a tensor as it is. */
export function stage(value: TensorLike, heap: Heap): Tensor {
  if (value instanceof Tensor) return value;
  const source = inWasmMemory(value.data) ? value.data.slice() : value.data;
  const staged = new Tensor(heap, value.shape, source.length);
  staged.data.set(source);
  return staged;
}

/**
 * An operand as the kernels see it. `parts` cover it; after `load(part)` a kernel may read and write the part. `groups`
 * of parts have no channel in common: all of a group's sums are needed before its map.
 */
export class Operand {
  readonly heap: Heap;
  readonly g: Geometry;
  readonly parts: readonly Part[];
  readonly groups: readonly (readonly Part[])[];
  readonly #array: Float32Array | undefined;
  readonly #pointer: number;
  #loaded: Part | undefined;

  constructor(heap: Heap, value: TensorLike, g: Geometry) {
    this.heap = heap;
    this.g = g;
    if (value instanceof Tensor) {
      this.parts = wholeOf(g);
      this.groups = [this.parts];
      this.#pointer = value.pointer;
    } else {
      this.parts = tilesOf(g);
      this.groups = g.planar ? this.parts.map((tile) => [tile]) : [this.parts];
      // a view of wasm memory would be emptied by growth, which the tile may bring about
      this.#array = inWasmMemory(value.data) ? value.data.slice() : value.data;
      this.#pointer = heap.allocate(4 * sizeOfFirst(this.parts));
    }
  }

  /**
   * Where kernels find the part. Stripes count their elements from the tensor's first, so theirs is the place where that
   * would be: it may lie outside of memory, and pointers wrap.
   */
  load(part: Part): number {
    if (!this.#array) return this.#pointer;
    if (this.#loaded !== part) this.#copy(part, this.heap.f32, this.#array, true);
    this.#loaded = part;
    return part.g.planar ? this.#pointer : this.#pointer - elementsOf(part).begin * 4;
  }

  /** Copies the part that was loaded last, and written since, to the same place of an array. */
  unload(array: Float32Array): void {
    if (this.#loaded) this.#copy(this.#loaded, array, this.heap.f32, false);
    this.#loaded = undefined;
  }

  #copy(part: Part, target: Float32Array, source: Float32Array, into: boolean): void {
    const tile = this.#pointer / 4;
    const move = (tileAt: number, arrayAt: number, length: number) => {
      const from = into ? arrayAt : tileAt;
      target.set(source.subarray(from, from + length), into ? tileAt : arrayAt);
    };
    if (!part.g.planar) {
      const { begin, end } = elementsOf(part);
      move(tile, begin, end - begin);
      return;
    }
    const { inner, outer } = this.g;
    const run = part.g.channels * inner;
    for (let n = 0; n < outer; n++) move(tile + n * run, (n * this.g.channels + part.channel) * inner, run);
  }

  /** Pivots of all channels. */
  pivot(target: number): void {
    const { g, heap } = this;
    const [only, ...more] = this.parts;
    if (only && more.length === 0) {
      heap.kernels.pivot(this.load(only), target, g);
      return;
    }
    const block = pivotBlock(g);
    const inner = Math.min(g.inner, block);
    const outer = Math.min(g.outer, Math.floor(block / inner));
    const { channels } = g;
    const array = this.#array as Float32Array;
    const head = heap.allocate(outer * channels * inner * 4);
    const { f32 } = heap;
    let i = head / 4;
    for (let plane = 0; plane < outer * channels; plane++)
      for (let k = 0; k < inner; k++) f32[i++] = array[plane * g.inner + k] as number;
    heap.kernels.pivot(head, target, { ...g, outer, inner });
    heap.free(head);
  }

  dispose(): void {
    if (this.#array) this.heap.free(this.#pointer);
  }
}

/** Elements of the largest part, which is the first. */
function sizeOfFirst([part]: readonly Part[]): number {
  if (!part) return 0;
  if (part.g.planar) return part.g.length;
  const { begin, end } = elementsOf(part);
  return end - begin;
}
