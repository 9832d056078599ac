// Checks of tensors, plain arrays and vectors, made before a call changes anything.

import {
  disposed,
  emptiedView,
  inPlace,
  notContiguous,
  otherMemory,
  proxied,
  sameOut,
  wrongKind,
  wrongLength,
  wrongShape,
  wrongValue,
} from "../common/errors.ts";
import { arrayKind, checkObject, isObject } from "../common/validate.ts";
import {
  type Data,
  type Dtype,
  dtypeOf,
  is16Bit,
  namedDtype,
  newVector,
  otherStores,
  storeOf,
  type Vector,
  type VectorOf,
} from "../tensor/dtype.ts";
import { sameShape, sizeOf } from "../tensor/shape.ts";
import type { PlainTensor } from "../tensor/types.ts";
import { type Heap, inWasmMemory, memoryOf } from "./heap.ts";
import { type AnyTensor, Tensor } from "./tensor.ts";

/** Throws TypeError for a Proxy around a tensor, through which private fields cannot be read. */
export function checkItself(name: string, value: object): void {
  if (!Tensor.is(value) && value.constructor === Tensor) throw proxied(name);
}

/** Throws BatchNormError "disposed" for a tensor that is disposed, and "other-memory" for one in another heap. */
export function checkTensor(name: string, t: Tensor<Dtype>, heap?: Heap): void {
  if (t.disposed) throw disposed(name);
  if (heap && t.heap !== heap) throw otherMemory(name);
}

/** Returns whether a value is absent, or a tensor that has not been disposed of. */
export const isTensorInUse = (value: AnyTensor | undefined): boolean =>
  value === undefined || (Tensor.is(value) && !value.disposed);

/** The arrays that calls take, for messages. */
const ARRAYS = 'a Float32Array, Float64Array, Float16Array, or a Uint16Array with dtype "float16" or "bfloat16"';
/** The arrays that hold each type, for messages. */
const KINDS: Readonly<Record<Dtype, string>> = {
  float32: "a Float32Array",
  float64: "a Float64Array",
  float16: "float16 in a Float16Array or Uint16Array",
  bfloat16: "bfloat16 in a Uint16Array",
};

/**
 * Returns the type of an operand's elements, or undefined if its array has no such type. `declaredDtype` is the type of
 * a Uint16Array that comes without one.
 */
export const operandDtype = (value: AnyTensor, declaredDtype?: Dtype): Dtype | undefined =>
  value instanceof Tensor ? value.dtype : dtypeOf(value.data, namedDtype(value.dtype) ?? declaredDtype);

/** Values of fields that say that elements lie in row-major order from index 0 on. Other libraries have such fields. */
const CONTIGUOUS: Readonly<Record<string, readonly unknown[]>> = {
  offset: [0],
  fortranOrder: [false],
  order: ["C", "c", "row-major"],
  layout: ["C", "c", "row-major"],
};

/** Throws TypeError if an operand says that its elements do not lie in row-major order from index 0 on. */
export function checkContiguous(name: string, value: PlainTensor<Data> & Record<string, unknown>): void {
  const { offset, fortranOrder, order, layout, stride, strides } = value;
  if ((offset ?? fortranOrder ?? order ?? layout ?? stride ?? strides ?? null) === null) return;
  for (const [field, allowed] of Object.entries(CONTIGUOUS)) {
    const found = value[field] ?? undefined;
    if (found !== undefined && !allowed.includes(found)) throw notContiguous(name, field, found);
  }
  for (const field of ["stride", "strides"]) {
    const found = (value[field] ?? undefined) as ArrayLike<number> | undefined;
    if (found === undefined) continue;
    let expected = value.data.length && 1;
    const { shape } = value;
    for (let i = shape.length - 1; i >= 0; i--) {
      const size = shape[i] as number;
      // the stride of an axis of one element is never taken, and no stride of a tensor without elements is
      if (expected && size > 1 && found[i] !== expected) throw notContiguous(name, field, found);
      expected *= size;
    }
  }
}

/**
 * Returns the type of an operand's elements. Throws TypeError, RangeError or BatchNormError if the operand is neither a
 * live Tensor nor { data, shape } of matching length and in row-major order, or if its elements are not of type `dtype`.
 */
export function checkOperand(name: string, value: AnyTensor, dtype?: Dtype): Dtype {
  checkObject(name, value, "a Tensor or { data: Float32Array, shape }");
  checkItself(name, value);
  const isTensor = Tensor.is(value);
  if (isTensor) checkTensor(name, value);
  const found = operandDtype(value, dtype);
  if (found) storeOf(found, `${name}.data of ${found}`);
  if (!found || (dtype && found !== dtype)) {
    if (is16Bit(found) && is16Bit(dtype)) throw wrongValue(`${name}.dtype`, `"${dtype}"`, found);
    throw wrongKind(`${name}.data`, dtype ? KINDS[dtype] : ARRAYS, value.data);
  }
  if (isTensor) return found;
  const declared = namedDtype(value.dtype);
  if (declared !== undefined && declared !== found) throw wrongValue(`${name}.dtype`, `"${found}"`, value.dtype);
  const size = sizeOf(name, value.shape);
  checkContiguous(name, value as never);
  const { length } = value.data;
  if (size === length) return found;
  throw length === 0 && inWasmMemory(value.data)
    ? emptiedView(name, value.shape)
    : wrongLength(name, value.shape, length);
}

/**
 * Throws if a destination is no operand of this shape and type, or lies in another heap. A view of wasm memory is
 * refused too, because growing memory would empty it. Accepts undefined.
 */
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

/** Returns whether two operands or vectors share any memory, and whether they begin at the same address. */
function overlap(a: AnyTensor | Vector, b: AnyTensor | Vector): { any: boolean; same: boolean } {
  const [u, v] = [a, b].map((value) => ("data" in value ? value.data : value)) as [Data, Data];
  const any =
    memoryOf(u) === memoryOf(v) &&
    u.byteOffset < v.byteOffset + v.byteLength &&
    v.byteOffset < u.byteOffset + u.byteLength;
  return { any, same: any && u.byteOffset === v.byteOffset };
}

/**
 * Returns whether `out` is the memory of `source`. Throws BatchNormError "in-place" if the two overlap only in part, or
 * if they overlap at all and a `mode` is given, in which backward needs the source; null stands for an operation without
 * modes.
 */
export function overwrites(
  name: string,
  out: AnyTensor | undefined,
  sourceName: string,
  source: AnyTensor | undefined,
  mode?: string | null,
): boolean {
  if (!out || !source) return false;
  const { any, same } = overlap(out, source);
  if (any && (mode !== undefined || !same)) throw inPlace(name, sourceName, mode);
  return same;
}

/** Throws BatchNormError "in-place" if a destination shares memory with one of the others. Accepts undefined. */
export function checkApart(
  name: string,
  out: AnyTensor | Vector | undefined,
  others: Readonly<Record<string, AnyTensor | Vector | undefined>>,
): void {
  if (out)
    for (const [other, value] of Object.entries(others))
      if (value && overlap(out, value).any) throw sameOut(name, other);
}

/** The name of the arrays that hold vectors of a type. */
const vectorKind = (dtype: Dtype) => (dtype === "float64" ? "Float64Array" : "Float32Array");

/**
 * Returns `value` if it is a vector of the layer's precision, with as many elements as `shape`. Throws TypeError or
 * RangeError otherwise. A view of wasm memory is refused too, because growing memory would empty it.
 */
export function checkVector<D extends Dtype>(
  name: string,
  value: unknown,
  channels: number,
  dtype: D,
  shape: readonly number[] = [channels],
): VectorOf<D> {
  const kind = vectorKind(dtype);
  if (arrayKind(value) !== kind) throw wrongKind(name, `a ${kind}`, value);
  const vector = value as VectorOf<D>;
  if (inWasmMemory(vector)) throw wrongKind(name, `a ${kind} in memory of JavaScript`, value);
  // optimised code of V8 may read the length that an array had before its buffer was detached
  const length = vector.buffer.byteLength ? vector.length : 0;
  if (length !== shape.reduce((a, b) => a * b, 1)) throw wrongLength(name, shape, length);
  return vector;
}

/** A parameter of a function: a vector, or a tensor of it, whose elements may also have 16 bits. */
export type Parameter = Vector | AnyTensor;

/**
 * Returns a copy, by default in the same precision, of a parameter of precision `dtype` with as many elements as `shape`.
 * Elements of 16 bits are widened. Throws TypeError or RangeError for other values; `xShape` is for its message.
 */
export function copyParameter<D extends "float32" | "float64">(
  name: string,
  value: Parameter,
  dtype: "float32" | "float64",
  shape: readonly number[],
  xShape?: readonly number[],
  copyDtype: D = dtype as D,
): VectorOf<D> {
  const kind = vectorKind(dtype);
  const isOperand = isObject(value) && "data" in value;
  let data: Data = value as Data;
  if (isOperand) {
    checkItself(name, value);
    const found = operandDtype(value);
    checkOperand(name, value, is16Bit(found) ? found : dtype);
    data = value.data;
    if (is16Bit(found)) data = otherStores.get(found).widen(found, data);
  } else if (arrayKind(value) !== kind) throw wrongKind(name, `a ${kind}, or { data, shape, dtype }`, value);
  const size = shape.reduce((a, b) => a * b, 1);
  if (data.length !== size) throw wrongLength(name, shape, data.length, xShape);
  const copy = newVector(copyDtype, size);
  copy.set(data);
  return copy;
}
