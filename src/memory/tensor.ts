// Tensors in WebAssembly memory, and the types of a call's operands: such a tensor, or a plain array with its shape.

import { disposed, proxied, tooLarge, wrongKind, wrongLength } from "../common/errors.ts";
import { checkKeys, isNumbers } from "../common/validate.ts";
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
import { copyElements } from "./transfer.ts";

/** Throws RangeError if a tensor has more bytes than a memory. */
function checkBytes(shape: readonly number[], bytes: number): void {
  if (bytes > MAX_BYTES) throw tooLarge("tensor", shape, bytes, MAX_BYTES);
}

/** The tensor of each view. A view in this map keeps its tensor alive. */
const owners = /* @__PURE__ */ new WeakMap<object, Tensor<Dtype>>();

/**
 * Bytes from which a tensor reserves addresses. Reserving takes 15 µs, and a forward of so many bytes 300 (Node 20.20).
 */
const RESERVES_FROM = 1 << 20;

const NO_RESERVE = /* @__PURE__ */ new ArrayBuffer(0);

/**
 * Returns as many bytes of JavaScript's memory as a tensor has of wasm memory, for the collector to see: without them it
 * would not run before wasm memory is exhausted. The bytes are never touched. Those of a resizable buffer take addresses
 * only, where those of another one may be cleared.
 */
function reserveOf(bytes: number): ArrayBuffer {
  if (bytes < RESERVES_FROM) return NO_RESERVE;
  try {
    return new (ArrayBuffer as new (bytes: number, options: object) => ArrayBuffer)(bytes, { maxByteLength: bytes });
  } catch {
    return NO_RESERVE; // there are no addresses left, which the collector sees by itself
  }
}

/**
 * A tensor in wasm memory, which calls read and write without copying. `tensor` makes one. `dispose` or `using` frees it
 * at once. A forgotten one is freed when the engine has collected it and the view `data`, and never before the program
 * returns to its event loop.
 */
export class Tensor<D extends Dtype = "float32"> {
  /** Dimensions in memory order, e.g. [N, C, H, W]. */
  readonly shape: readonly number[];
  /** The type of the elements. */
  readonly dtype: D;
  readonly #heap: Heap;
  readonly #length: number;
  /** The address of the elements, or 0 after `dispose`. */
  #pointer: number;
  /** The latest view of the elements. */
  #data: DataOf[D] | undefined;
  /** Addresses that make the collector count the tensor. Undefined if the collector does not free the tensor. */
  #reserve: ArrayBuffer | undefined;

  /** For internal use; call `tensor` instead. */
  constructor(internal: never, ...others: never[]);
  /**
   * The elements are uninitialised. `pointer` is the address of memory that the owner of the heap has allocated already.
   *
   * @internal
   */
  constructor(heap: Heap, shape: readonly number[], length: number, dtype: D, pointer?: number);
  constructor(heap: Heap, shape: readonly number[], length: number, dtype: D, pointer?: number) {
    const bytes = length * BYTES[dtype];
    checkBytes(shape, bytes);
    this.shape = Object.freeze([...shape]);
    this.dtype = dtype;
    this.#heap = heap;
    this.#length = length;
    this.#pointer = pointer ?? heap.allocate(staggered(bytes));
  }

  /**
   * Returns whether a value is a tensor. A Proxy around one is none, since private fields cannot be read through it. As
   * Symbol.hasInstance, it would slow small calls to twice their time.
   *
   * @internal
   */
  static is(value: unknown): value is Tensor<Dtype> {
    return typeof value === "object" && value !== null && #pointer in value;
  }

  /**
   * The heap that the elements lie in.
   *
   * @internal
   */
  get heap(): Heap {
    return this.#heap;
  }

  /** The number of elements. */
  get length(): number {
    checkItself(this);
    return this.#length;
  }

  /** Whether the memory is freed. */
  get disposed(): boolean {
    checkItself(this);
    return this.#pointer === 0;
  }

  /**
   * The address of the elements, a byte offset in the heap's memory. Throws BatchNormError "disposed".
   *
   * @internal
   */
  get pointer(): number {
    checkItself(this);
    if (this.#pointer === 0) throw disposed("tensor");
    return this.#pointer;
  }

  /**
   * A view of the elements, which calls read and write. Get it again after a call that allocates: when the memory
   * grows, earlier views become empty. 16-bit elements are bits in a Uint16Array; those of "float16" are in a
   * Float16Array if the engine has it. The view keeps the tensor alive, but views made of it (`subarray`) do not.
   * Throws BatchNormError "disposed".
   */
  get data(): DataOf[D] {
    const { pointer } = this;
    const { buffer } = this.#heap.f32;
    if (this.#data?.buffer !== buffer) {
      this.#data = viewOf(this.dtype, buffer, pointer, this.#length);
      if (this.#reserve) owners.set(this.#data, this);
    }
    return this.#data;
  }

  /**
   * Frees the memory when the tensor is collected, where the engine and the heap know of that. Returns the tensor.
   *
   * @internal
   */
  own(): this {
    const { collected } = this.#heap;
    if (!collected) return this;
    collected.register(this, this.#pointer, this);
    this.#reserve = reserveOf(this.#length * BYTES[this.dtype]);
    this.#data = undefined; // an internal view, which keeps nothing alive
    return this;
  }

  /** Frees the memory. A second call does nothing. */
  dispose(): void {
    checkItself(this);
    if (this.#pointer === 0) return;
    this.#heap.free(this.#pointer);
    this.#pointer = 0;
    this.#data = undefined;
    if (this.#reserve) this.#heap.collected?.unregister(this);
    this.#reserve = undefined;
  }

  /** Calls `dispose()` at the end of a `using` block. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Throws TypeError for a Proxy around a tensor, through which private fields cannot be read. */
function checkItself(tensor: object): void {
  if (!Tensor.is(tensor)) throw proxied("tensor");
}

/** The function `tensor`, of any heap. */
export interface MakeTensor {
  (shape: readonly number[], data?: Float32Array | readonly number[], options?: { dtype?: "float32" }): Tensor;
  (shape: readonly number[], data: Float64Array, options?: { dtype?: "float64" }): Tensor<"float64">;
  <D extends Dtype>(
    shape: readonly number[],
    data: DataOf[D] | readonly number[] | undefined,
    options: { dtype: D },
  ): Tensor<D>;
}

function newTensor(
  getHeap: () => Heap,
  shape: readonly number[],
  data?: Data | readonly number[],
  options: { dtype?: Dtype } = {},
): Tensor<Dtype> {
  checkKeys("tensor options", options, ["dtype"]);
  const declaredDtype = options.dtype === undefined ? undefined : dtypeOption(options.dtype);
  const isList = isNumbers(data);
  const found = data === undefined || isList ? (declaredDtype ?? "float32") : dtypeOf(data, declaredDtype);
  if (!found || (declaredDtype && found !== declaredDtype))
    throw wrongKind(
      "data",
      declaredDtype ? `elements of dtype "${declaredDtype}"` : "a Float32Array or an array of numbers",
      data,
    );
  if (isList && is16Bit(found)) throw wrongKind("data", `elements of dtype "${found}"`, data);
  storeOf(found, `data of ${found}`);
  const length = sizeOf("tensor", shape);
  checkBytes(shape, length * BYTES[found]);
  if (data !== undefined && data.length !== length) throw wrongLength("data", shape, data.length);
  const heap = getHeap();
  // the allocation may grow the memory, which would empty a view of it
  const source = data !== undefined && !isList && inWasmMemory(data as Data) ? (data as Data).slice() : data;
  const result = new Tensor(heap, shape, length, found);
  if (source === undefined) bitsOf(result.data).fill(0);
  // a detached array has no elements, and cannot be copied
  else if (length) copyElements(source as Data, result.data);
  return result.own();
}

/** Returns the function `tensor` for a heap. */
export const tensorIn = (getHeap: () => Heap): MakeTensor =>
  ((...args: [shape: readonly number[], data?: Data | readonly number[], options?: { dtype?: Dtype }]) =>
    newTensor(getHeap, ...args)) as MakeTensor;

/**
 * Returns a new tensor in wasm memory with a copy of `data`, or with zeros. The shape may have any rank, and the tensor
 * at most 4 GiB. `dtype` is the type of `data` by default, and float32 without data or for an array of numbers; a
 * Uint16Array needs it. `dispose` or `using` frees it at once. Throws RangeError for a wrong shape or length, TypeError
 * for wrong data, and BatchNormError "out-of-memory".
 */
export const tensor = /* @__PURE__ */ tensorIn(defaultHeap);

/** An operand or a result, which is of the operand's kind: a plain array with its shape, or a Tensor. */
export type TensorLike<D extends Dtype = "float32"> = PlainTensor<DataOf[D]> | Tensor<D>;

/** An operand or a result with elements of any type. */
export type AnyTensor = PlainTensor<Data> | Tensor<Dtype>;
