// How elements of JavaScript reach wasm memory and come back: the one place where they are copied, and where 16 bits are
// widened to float32 and narrowed again.

import { BYTES, type bitsOf, computeDtype, type Dtype, is16Bit } from "../tensor/dtype.ts";
import type { Heap } from "./heap.ts";

/** Elements of an array, 16-bit ones as their bits. */
export type Bits = ReturnType<typeof bitsOf>;

/** Copies `length` elements between index `inside` of the room and index `outside` of the array. */
export type CopyRun = (inside: number, outside: number, length: number) => void;

/** Calls `copy` for every run of elements that lie together both in the room and in the array. */
export type Runs = (copy: CopyRun) => void;

/** A few elements are copied faster one by one. */
const SHORT = 16;

/** One run: all of an array from an index on. */
export const oneRun =
  (outside: number, length: number): Runs =>
  (copy) =>
    copy(0, outside, length);

/**
 * Room in wasm memory for elements as they are computed with, float32 or float64, and beside them for the 16 bits that they
 * are stored in elsewhere. Made for one call, and freed by `dispose`.
 */
export class Room {
  readonly #heap: Heap;
  readonly #isFloat64: boolean;
  /** Address of the elements. */
  readonly pointer: number;
  /** Address of the 16 bits. */
  readonly #bits: number;

  /**
   * Allocates room for `length` elements of a call on type `dtype`, all at once: growth would empty views of 16-bit tensors
   * that are being copied. Throws BatchNormError "out-of-memory".
   */
  constructor(heap: Heap, dtype: Dtype, length: number) {
    this.#heap = heap;
    this.#isFloat64 = dtype === "float64";
    const bytes = length * BYTES[computeDtype(dtype)];
    this.pointer = heap.allocate(is16Bit(dtype) ? bytes + length * BYTES[dtype] : bytes);
    this.#bits = this.pointer + bytes;
  }

  /** Brings elements of an array of type `dtype` to the room, which has them in its first `length` places. */
  load(array: Bits, dtype: Dtype, length: number, runs: Runs): void {
    this.#copy(array, dtype, runs, true);
    if (is16Bit(dtype)) this.#heap.kernels.widen(dtype, this.#bits, this.pointer, length);
  }

  /** Writes the first `length` elements of the room to an array of type `dtype`, 16 bits rounded to the nearest. */
  store(array: Bits, dtype: Dtype, length: number, runs: Runs): void {
    if (is16Bit(dtype)) this.#heap.kernels.narrow(dtype, this.pointer, this.#bits, length);
    this.#copy(array, dtype, runs, false);
  }

  #copy(array: Bits, dtype: Dtype, runs: Runs, into: boolean): void {
    const narrow = is16Bit(dtype);
    const base = narrow ? this.#bits / 2 : this.pointer / (this.#isFloat64 ? 8 : 4);
    const { f32, f64, u16 } = this.#heap;
    const memory = narrow ? u16 : this.#isFloat64 ? f64 : f32;
    // both are of one kind, which the types do not say
    const [source, target] = (into ? [array, memory] : [memory, array]) as [Float32Array, Float32Array];
    runs((inside, outside, length) => {
      const [from, to] = into ? [outside, base + inside] : [base + inside, outside];
      if (length < SHORT) for (let i = 0; i < length; i++) target[to + i] = source[from + i] as number;
      else target.set(source.subarray(from, from + length), to);
    });
  }

  dispose(): void {
    this.#heap.free(this.pointer);
  }
}
