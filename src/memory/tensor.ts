// Tensors in WebAssembly memory, and the types of what calls take: such a tensor, or a plain array with its shape.

import { disposed, tooLarge, wrongKind, wrongLength } from "../common/errors.ts";
import { checkKeys } from "../common/validate.ts";
import {
  BYTES,
  bitsOf,
  type Data,
  type DataOf,
  type Dtype,
  dtypeOf,
  dtypeOption,
  is16Bit,
  storeOf,
  viewOf,
} from "../tensor/dtype.ts";
import { MAX_BYTES, sizeOf } from "../tensor/shape.ts";
import type { PlainTensor } from "../tensor/types.ts";
import { staggered } from "./allocator.ts";
import { defaultHeap, type Heap, inWasmMemory } from "./heap.ts";

function checkBytes(shape: readonly number[], bytes: number): void {
  if (bytes > MAX_BYTES) throw tooLarge("tensor", shape, bytes, MAX_BYTES);
}

/** A tensor in wasm memory, which calls read and write without copying. Made by `tensor`, freed by `dispose`. */
export class Tensor<D extends Dtype = "float32"> {
  /** Dimensions in memory order, e.g. [N, C, H, W]. */
  readonly shape: readonly number[];
  /** Type of the elements. */
  readonly dtype: D;
  readonly #heap: Heap;
  readonly #length: number;
  #pointer: number;
  #data: DataOf[D] | undefined;

  /** For this library's own use: leaves the elements as they are in memory, at `pointer` where the heap's owner put them. */
  constructor(heap: Heap, shape: readonly number[], length: number, dtype: D, pointer?: number) {
    const bytes = length * BYTES[dtype];
    checkBytes(shape, bytes);
    this.shape = Object.freeze([...shape]);
    this.dtype = dtype;
    this.#heap = heap;
    this.#length = length;
    this.#pointer = pointer ?? heap.allocate(staggered(bytes));
  }

  get heap(): Heap {
    return this.#heap;
  }

  get length(): number {
    return this.#length;
  }

  get disposed(): boolean {
    return this.#pointer === 0;
  }

  /** Byte offset in the heap's memory. Throws BatchNormError "disposed". */
  get pointer(): number {
    if (this.#pointer === 0) throw disposed("tensor");
    return this.#pointer;
  }

  /**
   * The elements, live: what is written here is what the next call reads. Ask for it anew after calls that allocate;
   * when memory grows, views taken earlier become empty. 16-bit elements are a Float16Array where the dtype is "float16"
   * and the engine has it, else bits in a Uint16Array. Throws BatchNormError "disposed".
   */
  get data(): DataOf[D] {
    const { pointer } = this;
    const { buffer } = this.#heap.f32;
    if (this.#data?.buffer !== buffer) this.#data = viewOf(this.dtype, buffer, pointer, this.#length);
    return this.#data;
  }

  /** Frees the memory. Calling it again does nothing. */
  dispose(): void {
    if (this.#pointer === 0) return;
    this.#heap.free(this.#pointer);
    this.#pointer = 0;
    this.#data = undefined;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/**
 * A tensor in wasm memory, of `data` or zeros. Rank 0 and up; at most 4 GiB. `dtype` is that of `data`, or float32; a
 * Uint16Array needs it. Throws RangeError for a wrong shape or length, TypeError for other data, BatchNormError
 * "out-of-memory".
 */
export function tensor(
  shape: readonly number[],
  data?: Float32Array | readonly number[],
  options?: { dtype?: "float32" },
): Tensor;
export function tensor(
  shape: readonly number[],
  data: Float64Array,
  options?: { dtype?: "float64" },
): Tensor<"float64">;
export function tensor<D extends Dtype>(
  shape: readonly number[],
  data: DataOf[D] | readonly number[] | undefined,
  options: { dtype: D },
): Tensor<D>;
export function tensor(
  shape: readonly number[],
  data?: Data | readonly number[],
  options: { dtype?: Dtype } = {},
): Tensor<Dtype> {
  checkKeys("tensor options", options, ["dtype"]);
  const said = options.dtype === undefined ? undefined : dtypeOption(options.dtype);
  const list = Array.isArray(data) && data.every((v) => typeof v === "number");
  const found = data === undefined || list ? (said ?? "float32") : dtypeOf(data, said);
  if (!found || (said && found !== said))
    throw wrongKind("data", said ? `elements of dtype "${said}"` : "a Float32Array or an array of numbers", data);
  if (list && is16Bit(found)) throw wrongKind("data", `elements of dtype "${found}"`, data);
  storeOf(found, `data of ${found}`);
  const length = sizeOf("tensor", shape);
  checkBytes(shape, length * BYTES[found]);
  if (data !== undefined && data.length !== length) throw wrongLength("data", shape, data.length);
  const heap = defaultHeap();
  // a view of this very memory would be emptied by growth
  const source = data !== undefined && !list && inWasmMemory(data as Data) ? (data as Data).slice() : data;
  const made = new Tensor(heap, shape, length, found);
  const elements = bitsOf(made.data) as Float32Array;
  if (source) elements.set(list ? (source as readonly number[]) : (bitsOf(source as Data) as Float32Array));
  else elements.fill(0);
  return made;
}

/** What calls take, and what they return: the kind that came in. */
export type TensorLike<D extends Dtype = "float32"> = PlainTensor<DataOf[D]> | Tensor<D>;

/** What calls of any type of elements take and return. */
export type AnyTensor = PlainTensor<Data> | Tensor<Dtype>;
