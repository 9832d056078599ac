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
 * Runs with fewer elements are copied one by one. 16 elements take 60 to 70 ns one by one, and 160 ns or more with
 * `subarray` and `set`; from 32 to 64 elements on, both take as long (Node 20.20).
 */
const SHORT = 16;

/** The distance in bytes at which addresses look alike to a processor, which compares their lower 12 bits first. */
const ALIAS = 4096;

/**
 * The bytes, modulo ALIAS, from a large array's elements to the room for them. Copies take up to 17 times as long where
 * this distance is between −32 and 96 (docs/concepts/numerics-measurements.md). Engines put large arrays at the start
 * of a page or 16 bytes behind it, so the index of an element tells where in a page it is. From run to run of a tile
 * the distance changes by a multiple of a plane's bytes. Often that is a multiple of 256, so the distance stays at
 * least 128 away from 0.
 */
const DISTANCE = 2176;

/**
 * Copies all elements of an array to another one of the same type and length. 16-bit elements are copied as their bits.
 */
export function copyElements(source: Data, target: Data): void {
  (bitsOf(target) as Float32Array).set(bitsOf(source) as Float32Array);
}

/** Copies `length` numbers from index `from` of an array to index `to` of another, which may be of another type. */
export function copyRange(
  source: Float32Array | Float64Array,
  from: number,
  target: Float32Array | Float64Array,
  to: number,
  length: number,
): void {
  if (length < SHORT) for (let i = 0; i < length; i++) target[to + i] = source[from + i] as number;
  else target.set(length === source.length ? source : source.subarray(from, from + length), to);
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
  readonly #allocation: number;
  /** The address of the float32 or float64 elements. `place` changes it. */
  pointer: number;
  /** The address of the 16-bit elements. */
  #bits: number;

  /**
   * Allocates room for `length` elements of a call on type `dtype`. It is allocated at once, because growth during a
   * copy would empty the views of 16-bit tensors. Throws BatchNormError "out-of-memory".
   */
  constructor(heap: Heap, dtype: Dtype, length: number) {
    this.#heap = heap;
    this.#isFloat64 = dtype === "float64";
    const bytes = length * BYTES[computeDtype(dtype)];
    this.#allocation = heap.allocate(ALIAS + (is16Bit(dtype) ? bytes + length * BYTES[dtype] : bytes));
    this.pointer = this.#allocation;
    this.#bits = this.pointer + bytes;
  }

  /** Moves the room to where copies from and to an array of type `dtype`, from index `first` on, are fast. */
  place(array: Bits, dtype: Dtype, first: number): void {
    const bytes = this.#bits - this.pointer;
    const wanted = array.byteOffset + first * BYTES[dtype] + DISTANCE - (is16Bit(dtype) ? bytes : 0);
    // whole cache lines, which keep the alignment of the allocation
    this.pointer = this.#allocation + ((wanted - this.#allocation) & (ALIAS - 64));
    this.#bits = this.pointer + bytes;
  }

  /**
   * Copies runs of an array of type `dtype` to the first `length` elements of the room, and widens 16 bits. Those that
   * lie in wasm memory are widened from where they are.
   */
  load(array: Bits, dtype: Dtype, length: number, runs: Runs): void {
    const { kernels } = this.#heap;
    if (this.#reaches(array, dtype))
      runs((inside, outside, run) =>
        kernels.widen(dtype, array.byteOffset + outside * 2, this.pointer + inside * 4, run),
      );
    else {
      this.#copy(array, dtype, runs, true);
      if (is16Bit(dtype)) kernels.widen(dtype, this.#bits, this.pointer, length);
    }
  }

  /**
   * Copies the first `length` elements of the room to runs of an array of type `dtype`, and rounds 16 bits to the
   * nearest. Those that lie in wasm memory are rounded to where they belong.
   */
  store(array: Bits, dtype: Dtype, length: number, runs: Runs): void {
    const { kernels } = this.#heap;
    if (this.#reaches(array, dtype))
      runs((inside, outside, run) =>
        kernels.narrow(dtype, this.pointer + inside * 4, array.byteOffset + outside * 2, run),
      );
    else {
      if (is16Bit(dtype)) kernels.narrow(dtype, this.pointer, this.#bits, length);
      this.#copy(array, dtype, runs, false);
    }
  }

  /** Returns whether the kernels convert elements of an array in place, since they have 16 bits in this memory. */
  #reaches(array: Bits, dtype: Dtype): boolean {
    return is16Bit(dtype) && array.buffer === this.#heap.u16.buffer;
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
      copyRange(source, from, target, to, length);
    });
  }

  /** Frees the memory. */
  dispose(): void {
    this.#heap.free(this.#allocation);
  }
}
