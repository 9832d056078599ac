// Checks of tensors, plain arrays and vectors, made before a call changes anything.

import {
  disposed,
  inPlace,
  otherMemory,
  sameOut,
  wrongKind,
  wrongLength,
  wrongShape,
  wrongValue,
} from "../common/errors.ts";
import { type Data, type Dtype, dtypeOf, is16Bit, storeOf, type Vector, type VectorOf } from "../tensor/dtype.ts";
import { sameShape, sizeOf } from "../tensor/shape.ts";
import { type Heap, inWasmMemory, memoryOf } from "./heap.ts";
import { type AnyTensor, Tensor } from "./tensor.ts";

/** Throws BatchNormError "disposed" for a tensor that is disposed, and "other-memory" for one in another heap. */
export function checkTensor(name: string, t: Tensor<Dtype>, heap: Heap): void {
  if (t.disposed) throw disposed(name);
  if (t.heap !== heap) throw otherMemory(name);
}

/** Returns whether a value is absent, or a tensor that has not been disposed of. */
export const isTensorInUse = (value: AnyTensor | undefined): boolean =>
  value === undefined || (value instanceof Tensor && !value.disposed);

/** The arrays that calls take, for messages. */
const ARRAYS = "a Float32Array, Float64Array, Float16Array, or a Uint16Array with dtype";
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
  value instanceof Tensor ? value.dtype : dtypeOf(value.data, value.dtype ?? declaredDtype);

/**
 * Returns the type of an operand's elements. Throws TypeError, RangeError or BatchNormError if the operand is neither a
 * live Tensor nor { data, shape } of matching length, or if its elements are not of type `dtype`.
 */
export function checkOperand(name: string, value: AnyTensor, dtype?: Dtype): Dtype {
  if (value instanceof Tensor) checkTensor(name, value, value.heap);
  else if (typeof value !== "object" || value === null)
    throw wrongKind(name, "a Tensor or { data: Float32Array, shape }", value);
  const found = operandDtype(value, dtype);
  if (found) storeOf(found, `${name}.data of ${found}`);
  if (!found || (dtype && found !== dtype)) {
    if (found && dtype && is16Bit(found) && is16Bit(dtype)) throw wrongValue(`${name}.dtype`, `"${dtype}"`, found);
    throw wrongKind(`${name}.data`, dtype ? KINDS[dtype] : ARRAYS, value.data);
  }
  if (value.dtype !== undefined && value.dtype !== found) throw wrongValue(`${name}.dtype`, `"${found}"`, value.dtype);
  if (!(value instanceof Tensor) && sizeOf(name, value.shape) !== value.data.length)
    throw wrongLength(name, value.shape, value.data.length);
  return found;
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
 * if they overlap at all and a `mode` is given, which is a mode in which backward needs the source.
 */
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
  const kind = dtype === "float64" ? Float64Array : Float32Array;
  if (!(value instanceof kind)) throw wrongKind(name, `a ${kind.name}`, value);
  if (inWasmMemory(value)) throw wrongKind(name, `a ${kind.name} in memory of JavaScript`, value);
  if (value.length !== shape.reduce((a, b) => a * b, 1)) throw wrongLength(name, shape, value.length);
  return value as VectorOf<D>;
}
