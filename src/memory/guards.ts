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
import { type Dtype, dtypeOf, is16Bit, storeOf, type VectorOf } from "../tensor/dtype.ts";
import { sameShape, sizeOf } from "../tensor/shape.ts";
import { type Heap, inWasmMemory } from "./heap.ts";
import { type AnyTensor, Tensor } from "./tensor.ts";

/** Refuses a tensor that is gone or lies in another memory. */
export function checkTensor(name: string, t: Tensor<Dtype>, heap: Heap): void {
  if (t.disposed) throw disposed(name);
  if (t.heap !== heap) throw otherMemory(name);
}

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
    if (found && dtype && is16Bit(found) && is16Bit(dtype)) throw wrongValue(`${name}.dtype`, `"${dtype}"`, found);
    throw wrongKind(`${name}.data`, dtype ? KINDS[dtype] : ARRAYS, value.data);
  }
  if (value.dtype !== undefined && value.dtype !== found) throw wrongValue(`${name}.dtype`, `"${found}"`, value.dtype);
  if (!(value instanceof Tensor) && sizeOf(name, value.shape) !== value.data.length)
    throw wrongLength(name, value.shape, value.data.length);
  return found;
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

/** Refuses what is no vector of `shape` in the layer's precision, or lies where growing memory would empty it. */
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
