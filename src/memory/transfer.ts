// Copies elements of JavaScript to wasm memory and back. This is the only place that copies them, and that converts
// between 16 bits and float32 on the way.

import { BYTES, bitsOf, computeDtype, type Data, type Dtype, is16Bit } from "../tensor/dtype.ts";
import type { Heap } from "./heap.ts";

/** The elements of an array. 16-bit elements are given as their bits. */
export type Bits = ReturnType<typeof bitsOf>;

/** Copies `length` elements between index `inside` of the room and index `outside` of the array. */
type CopyRun = (inside: number, outside: number, length: number) => void;

/** A function that calls `copy` for every run of elements that lie together both in the room and in the array. */
export type Runs = (copy: CopyRun) => void;

/**
 * Copies all elements of an array to another one of the same type and length. 16-bit elements are copied as their bits.
 */
export function copyElements(source: Data, target: Data): void {
  (bitsOf(target) as Float32Array).set(bitsOf(source) as Float32Array);
}

/** Returns the runs of `length` elements that lie together in the array, from index `outside` on. */
export const oneRun =
  (outside: number, length: number): Runs =>
  (copy) =>
    copy(0, outside, length);

/**
 * Room in wasm memory for elements of float32 or float64. For 16-bit types it also has room for the bits, next to the
 * float32 elements that kernels compute with. It is made for one call, and `dispose` frees it.
 */
export class Room {
  readonly #heap: Heap;
  readonly #isFloat64: boolean;
  /** The address of the float32 or float64 elements. */
  readonly pointer: number;
  /** The address of the 16-bit elements. */
  readonly #bits: number;

  /**
   * Allocates room for `length` elements of a call on type `dtype`. It is allocated at once, because growth during a
   * copy would empty the views of 16-bit tensors. Throws BatchNormError "out-of-memory".
   */
  constructor(heap: Heap, dtype: Dtype, length: number) {
    this.#heap = heap;
    this.#isFloat64 = dtype === "float64";
    const bytes = length * BYTES[computeDtype(dtype)];
    this.pointer = heap.allocate(is16Bit(dtype) ? bytes + length * BYTES[dtype] : bytes);
    this.#bits = this.pointer + bytes;
  }

  /** Copies runs of an array of type `dtype` to the first `length` elements of the room, and widens 16 bits. */
  load(array: Bits, dtype: Dtype, length: number, runs: Runs): void {
    this.#copy(array, dtype, runs, true);
    if (is16Bit(dtype)) this.#heap.kernels.widen(dtype, this.#bits, this.pointer, length);
  }

  /**
   * Copies the first `length` elements of the room to runs of an array of type `dtype`, and rounds 16 bits to the
   * nearest.
   */
  store(array: Bits, dtype: Dtype, length: number, runs: Runs): void {
    if (is16Bit(dtype)) this.#heap.kernels.narrow(dtype, this.pointer, this.#bits, length);
    this.#copy(array, dtype, runs, false);
  }

  #copy(array: Bits, dtype: Dtype, runs: Runs, into: boolean): void {
    const has16Bits = is16Bit(dtype);
    const base = has16Bits ? this.#bits / 2 : this.pointer / (this.#isFloat64 ? 8 : 4);
    const { f32, f64, u16 } = this.#heap;
    const memory = has16Bits ? u16 : this.#isFloat64 ? f64 : f32;
    // both arrays are of one kind, which the type system does not know
    const [source, target] = (into ? [array, memory] : [memory, array]) as [Float32Array, Float32Array];
    runs((inside, outside, length) => {
      const [from, to] = into ? [outside, base + inside] : [base + inside, outside];
      target.set(source.subarray(from, from + length), to);
    });
  }

  /** Frees the memory. */
  dispose(): void {
    this.#heap.free(this.pointer);
  }
}
