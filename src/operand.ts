// Operands: what calls take and return, how it is checked, and where the kernels find it. A tensor lies in wasm memory
// and is worked on in place. A plain array passes through a tile of wasm memory, part by part, so that little memory is
// needed however large it is:
//
//   array   | part 0 | part 1 | part 2 | …        planar: some channels of every image; interleaved: a stripe of rows
//                 ↓ load       ↑ unload
//   tile    |________|                            in wasm memory, small enough for the processor's cache

import { BYTES, bitsOf, type Data, type DataOf, type Dtype, dtypeOf, isNarrow, newData, storeOf } from "./dtype.ts";
import { inPlace, sameOut, wrongKind, wrongLength, wrongShape, wrongValue } from "./errors.ts";
import { elementsOf, type Geometry, type Part, sizeOf, tilesOf, wholeOf } from "./geometry.ts";
import { type Kernels, pivotBlock } from "./kernels.ts";
import { checkTensor, defaultHeap, type Heap, inWasmMemory, Tensor } from "./memory.ts";

/** An array in JavaScript's memory with its shape in memory order. */
export interface PlainTensor<A extends Data = Float32Array> {
  data: A;
  shape: readonly number[];
  /** What a Uint16Array holds: "float16" or "bfloat16". Other arrays tell by their kind. */
  dtype?: Dtype;
}

/** What calls take, and what they return: the kind that came in. */
export type TensorLike<D extends Dtype = "float32"> = PlainTensor<DataOf[D]> | Tensor<D>;

/** The same of any type of elements. */
export type AnyTensor = PlainTensor<Data> | Tensor<Dtype>;

const ARRAYS = "a Float32Array, Float64Array, Float16Array, or a Uint16Array with dtype";
const KINDS: Readonly<Record<Dtype, string>> = {
  float32: "a Float32Array",
  float64: "a Float64Array",
  float16: "float16 in a Float16Array or Uint16Array",
  bfloat16: "bfloat16 in a Uint16Array",
};

/** The type of an operand's elements; `said` where a Uint16Array does not say its own. */
export const operandDtype = (value: AnyTensor, said?: Dtype): Dtype | undefined =>
  value instanceof Tensor ? value.dtype : dtypeOf(value.data, value.dtype ?? said);

/**
 * Refuses what is neither a live Tensor nor { data, shape } of one length, or holds other elements than `dtype`. Returns
 * the type of its elements.
 */
export function checkOperand(name: string, value: AnyTensor, dtype?: Dtype): Dtype {
  if (value instanceof Tensor) checkTensor(name, value, value.heap);
  else if (typeof value !== "object" || value === null)
    throw wrongKind(name, "a Tensor or { data: Float32Array, shape }", value);
  const found = operandDtype(value, dtype);
  if (found) storeOf(found, `${name}.data of ${found}`);
  if (!found || (dtype && found !== dtype)) {
    if (found && dtype && isNarrow(found) && isNarrow(dtype)) throw wrongValue(`${name}.dtype`, `"${dtype}"`, found);
    throw wrongKind(`${name}.data`, dtype ? KINDS[dtype] : ARRAYS, value.data);
  }
  if (value.dtype !== undefined && value.dtype !== found) throw wrongValue(`${name}.dtype`, `"${found}"`, value.dtype);
  if (!(value instanceof Tensor) && sizeOf(name, value.shape) !== value.data.length)
    throw wrongLength(name, value.shape, value.data.length);
  return found;
}

export function sameShape(a: readonly number[], b: readonly number[]): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/** Refuses a destination of another shape, in another memory, or in views that growing memory would empty. */
export function checkOut(
  name: string,
  out: AnyTensor | undefined,
  shape: readonly number[],
  heap: Heap,
  dtype: Dtype,
): void {
  if (out === undefined) return;
  checkOperand(name, out, dtype);
  if (!sameShape(out.shape, shape)) throw wrongShape(name, shape, out.shape);
  if (out instanceof Tensor) checkTensor(name, out, heap);
  else if (inWasmMemory(out.data)) throw wrongKind(name, "the Tensor itself or memory of JavaScript", out);
}

/** The bytes of its buffer that an array takes. */
const extent = ({ byteOffset, byteLength }: ArrayBufferView) => [byteOffset, byteOffset + byteLength] as const;

/** Whether two operands share memory, and whether they are the same memory. */
function overlap(a: AnyTensor, b: AnyTensor): { any: boolean; same: boolean } {
  if (a instanceof Tensor || b instanceof Tensor) return { any: a === b, same: a === b };
  const [[begin, end], [from, to]] = [extent(a.data), extent(b.data)];
  const any = a.data.buffer === b.data.buffer && begin < to && from < end;
  return { any, same: any && begin === from };
}

/** Whether `out` is the memory of `source`; throws BatchNormError "in-place" where it is only partly so, or must not be. */
export function overwrites(
  name: string,
  out: AnyTensor | undefined,
  sourceName: string,
  source: AnyTensor | undefined,
  mode?: string,
): boolean {
  if (!out || !source) return false;
  const { any, same } = overlap(out, source);
  if (any && (mode !== undefined || !same)) throw inPlace(name, sourceName, mode);
  return same;
}

/** Refuses two destinations in the same memory. */
export function checkApart(name: string, a: AnyTensor | undefined, other: string, b: AnyTensor | undefined): void {
  if (a && b && overlap(a, b).any) throw sameOut(name, other);
}

/** The heap that a call works in: that of the first tensor among its operands, or the default one. */
export const heapOf = (...values: readonly (AnyTensor | undefined)[]): Heap =>
  values.find((value) => value instanceof Tensor)?.heap ?? defaultHeap();

/** A plain array's copy in wasm memory, which the caller owns. */
function stage(value: PlainTensor<Data>, heap: Heap, dtype: Dtype): Tensor<Dtype> {
  const staged = new Tensor(heap, value.shape, value.data.length, dtype);
  (bitsOf(staged.data) as Float32Array).set(bitsOf(value.data));
  return staged;
}

/**
 * An operand as the kernels see it. `parts` cover it; after `load(part)` a kernel may read and write the part. `groups`
 * of parts have no channel in common: all of a group's sums are needed before its map.
 *
 * Tensors of float32 and float64 are worked on where they are. Everything else passes through a tile, and 16-bit elements
 * are widened and rounded on the way. In a call on 16-bit elements some operands may be float32: what is not a result is
 * not rounded.
 */
export class Operand {
  readonly heap: Heap;
  readonly g: Geometry;
  readonly kernels: Kernels;
  #parts: readonly Part[] | undefined;
  /** Of its own elements. */
  readonly #dtype: Dtype;
  readonly #value: AnyTensor;
  readonly #offset: number;
  /** Of the tensor, or of the tile, which is there once a part was loaded. */
  #pointer = 0;
  /** Where a tile's 16-bit elements stand before they are widened, or once they are narrowed. */
  #bits = 0;
  readonly #tiled: boolean;
  readonly #narrows: boolean;
  #loaded: Part | undefined;

  /** The elements of `value` from `offset` on that the geometry covers; `dtype` is the call's. */
  constructor(heap: Heap, value: AnyTensor, g: Geometry, dtype: Dtype, offset = 0) {
    this.heap = heap;
    this.g = g;
    this.kernels = dtype === "float64" ? heap.kernels64 : heap.kernels;
    this.#dtype = isNarrow(dtype) ? (operandDtype(value, dtype) ?? dtype) : dtype;
    this.#value = value;
    this.#offset = offset;
    this.#narrows = isNarrow(dtype);
    this.#tiled = !(value instanceof Tensor) || this.#narrows;
    if (value instanceof Tensor && !this.#tiled) this.#pointer = value.pointer + offset * BYTES[dtype];
  }

  get parts(): readonly Part[] {
    this.#parts ??= this.#tiled ? tilesOf(this.g) : wholeOf(this.g);
    return this.#parts;
  }

  get groups(): readonly (readonly Part[])[] {
    return this.#tiled && this.g.planar ? this.parts.map((tile) => [tile]) : [this.parts];
  }

  get #elements(): Bits {
    return bitsOf(this.#value.data);
  }

  /**
   * Where kernels find the part. Stripes count their elements from the tensor's first, so theirs is the place where that
   * would be: it may lie outside of memory, and pointers wrap.
   */
  load(part: Part): number {
    if (!this.#tiled) return this.#pointer;
    if (!this.#pointer) {
      const size = sizeOfFirst(this.parts);
      const bytes = size * this.kernels.bytes;
      this.#pointer = this.heap.allocate(bytes + (this.#narrows ? size * 2 : 0));
      this.#bits = this.#pointer + bytes;
    }
    if (this.#loaded !== part) {
      this.#copy(part, this, true);
      if (isNarrow(this.#dtype)) this.kernels.widen(this.#dtype, this.#bits, this.#pointer, lengthOf(part));
    }
    this.#loaded = part;
    return part.g.planar ? this.#pointer : this.#pointer - elementsOf(part).begin * this.kernels.bytes;
  }

  /** Where a kernel that has its source at `source` writes this operand: in place there, where `unload` is to follow. */
  target(source: number): number {
    return this.#tiled ? source : this.#pointer;
  }

  /** Copies a part of this operand's tile, which a kernel has written since, to its place in `y`. */
  unload(y: Operand, part: Part): void {
    if (!this.#tiled) return;
    if (isNarrow(y.#dtype)) this.kernels.narrow(y.#dtype, this.#pointer, this.#bits, lengthOf(part));
    this.#copy(part, y, false);
    this.#loaded = undefined;
  }

  /** Copies a part between this operand's tile and the elements of `other`, which are 16-bit in the tile, too. */
  #copy(part: Part, other: Operand, into: boolean): void {
    const { heap, kernels } = this;
    const elements = other.#elements;
    const narrow = isNarrow(other.#dtype);
    const tile = narrow ? heap.u16 : kernels.wide ? heap.f64 : heap.f32;
    const base = narrow ? this.#bits / 2 : this.#pointer / kernels.bytes;
    const [source, target] = (into ? [elements, tile] : [tile, elements]) as [Float32Array, Float32Array];
    const move = (at: number, start: number, length: number) => {
      const [inTile, outside] = [base + at, other.#offset + start];
      const from = into ? outside : inTile;
      target.set(source.subarray(from, from + length), into ? inTile : outside);
    };
    if (!part.g.planar) {
      const { begin, end } = elementsOf(part);
      move(0, begin, end - begin);
      return;
    }
    const { inner, outer } = this.g;
    const run = part.g.channels * inner;
    for (let n = 0; n < outer; n++) move(n * run, (n * this.g.channels + part.channel) * inner, run);
  }

  /** A loaded part of float64 elements, as they are now. */
  copyOf(part: Part): Float64Array {
    const at = this.load(part) / 8 + (part.g.planar ? 0 : elementsOf(part).begin);
    return this.heap.f64.slice(at, at + lengthOf(part));
  }

  /** Pivots of all channels. */
  pivot(target: number): void {
    const { g, heap, kernels } = this;
    const [only, ...more] = this.parts;
    if (only && more.length === 0) {
      kernels.pivot(this.load(only), target, g);
      return;
    }
    const block = pivotBlock(g, kernels.wide);
    const inner = Math.min(g.inner, block);
    const outer = Math.min(g.outer, Math.floor(block / inner));
    const elements = this.#elements;
    const length = outer * g.channels * inner;
    const head = heap.allocate(length * (kernels.bytes + 2));
    const view = isNarrow(this.#dtype) ? heap.u16 : kernels.wide ? heap.f64 : heap.f32;
    const bits = head + length * kernels.bytes;
    let i = isNarrow(this.#dtype) ? bits / 2 : head / kernels.bytes;
    for (let plane = 0; plane < outer * g.channels; plane++)
      for (let k = 0; k < inner; k++) view[i++] = elements[this.#offset + plane * g.inner + k] as number;
    if (isNarrow(this.#dtype)) kernels.widen(this.#dtype, bits, head, length);
    kernels.pivot(head, target, { ...g, outer, inner });
    heap.free(head);
  }

  dispose(): void {
    if (this.#tiled && this.#pointer) this.heap.free(this.#pointer);
    this.#pointer = 0;
  }
}

/** Elements of a part. */
function lengthOf(part: Part): number {
  if (part.g.planar) return part.g.length;
  const { begin, end } = elementsOf(part);
  return end - begin;
}

/** Elements of the largest part, which is the first. */
const sizeOfFirst = ([part]: readonly Part[]): number => (part ? lengthOf(part) : 0);

type Bits = ReturnType<typeof bitsOf>;

type Value = AnyTensor | undefined;

type OperandOf<V extends Value> = V extends AnyTensor ? Operand : undefined;

/**
 * The operands of one call and what it has to free. All are worked on in one way: where a tensor of float32 or float64 is
 * among them, plain arrays are copied to wasm memory whole; otherwise everything passes through tiles.
 */
export class Call {
  readonly heap: Heap;
  readonly dtype: Dtype;
  readonly #direct: boolean;
  readonly #own: { dispose(): void }[] = [];
  /** Values that the call works on elsewhere. */
  #instead: Map<AnyTensor, AnyTensor> | undefined;

  constructor(heap: Heap, dtype: Dtype, values: readonly (AnyTensor | undefined)[]) {
    this.heap = heap;
    this.dtype = dtype;
    this.#direct = !isNarrow(dtype) && values.some((value) => value instanceof Tensor);
    // a view of wasm memory would be emptied by growth, which the call may bring about
    for (const value of values)
      if (value && !(value instanceof Tensor) && inWasmMemory(value.data)) {
        this.#instead ??= new Map();
        this.#instead.set(value, { ...value, data: value.data.slice() });
      }
  }

  /** Has it disposed of at the end of the call. */
  owned<R extends { dispose(): void }>(made: R): R {
    this.#own.push(made);
    return made;
  }

  /** A value as the call works on it. */
  value(value: AnyTensor): AnyTensor {
    const known = this.#instead?.get(value) ?? value;
    if (!this.#direct || known instanceof Tensor) return known;
    const staged = this.owned(stage(known, this.heap, this.dtype));
    this.#instead ??= new Map();
    this.#instead.set(value, staged);
    return staged;
  }

  /** Has `use` work on the elements of up to four values from `offset` on that a geometry covers. */
  with<A extends Value, B extends Value = undefined, C extends Value = undefined, D extends Value = undefined>(
    [a, b, c, d]: readonly [a: A, b?: B, c?: C, d?: D],
    g: Geometry,
    offset: number,
    use: (a: OperandOf<A>, b: OperandOf<B>, c: OperandOf<C>, d: OperandOf<D>) => void,
  ): void {
    const p = this.#operand(a, g, offset);
    const q = this.#operand(b, g, offset);
    const r = this.#operand(c, g, offset);
    const s = this.#operand(d, g, offset);
    try {
      use(p as OperandOf<A>, q as OperandOf<B>, r as OperandOf<C>, s as OperandOf<D>);
    } finally {
      p?.dispose();
      q?.dispose();
      r?.dispose();
      s?.dispose();
    }
  }

  #operand(value: Value, g: Geometry, offset: number): Operand | undefined {
    return value && new Operand(this.heap, this.value(value), g, this.dtype, offset);
  }

  /** A result before it is computed: `out`, or something new in the kind of `like`. */
  target(out: AnyTensor | undefined, like: AnyTensor): AnyTensor {
    if (out instanceof Tensor) return out;
    if (this.#direct || (!out && like instanceof Tensor)) return this.#tensor(like);
    return out ?? this.#array(like as PlainTensor<Data>);
  }

  #array(like: PlainTensor<Data>): PlainTensor<Data> {
    // by its shape: a view of wasm memory may have been emptied by growth
    const made = { data: newData(this.dtype, sizeOf("like", like.shape), like.data), shape: [...like.shape] };
    return like.dtype ? { ...made, dtype: like.dtype } : made;
  }

  /** What is derived from a value on the way to results, in the precision of the arithmetic. */
  scratch(like: AnyTensor): AnyTensor {
    if (!isNarrow(this.dtype)) return this.target(undefined, like);
    return { data: new Float32Array(like.data.length), shape: like.shape };
  }

  /** Memory that lasts as long as the call, unless it becomes its result. */
  #tensor(like: AnyTensor): Tensor<Dtype> {
    const { length } = like instanceof Tensor ? like : like.data;
    return this.owned(new Tensor(this.heap, like.shape, length, this.dtype));
  }

  /** The computed target as the caller gets it. */
  result(target: AnyTensor, out: AnyTensor | undefined, like: AnyTensor): AnyTensor {
    if (!(target instanceof Tensor) || target === out) return target;
    const kind = out ?? like;
    if (kind instanceof Tensor) {
      this.#own.splice(this.#own.indexOf(target), 1);
      return target;
    }
    const array = out ?? this.#array(like as PlainTensor<Data>);
    (bitsOf(array.data) as Float32Array).set(bitsOf(target.data) as Float32Array);
    return array;
  }

  dispose(): void {
    for (const made of this.#own) made.dispose();
  }
}
