// The types of elements that an array or a tensor may have, and the types in which calls compute. float16 and bfloat16
// are storage only: a call widens their values to float32 when it reads them, and rounds when it writes them.

import { Slot } from "../common/slot.ts";
import { arrayKind, oneOf } from "../common/validate.ts";

/** The name of a type of elements. */
export type Dtype = "float32" | "float64" | "float16" | "bfloat16";

/** Float16Array if the TypeScript library declares it, else never. */
export type HalfArray = typeof globalThis extends Record<"Float16Array", new (length: number) => infer A> ? A : never;

/** The kinds of arrays that hold the elements of each type. */
export interface DataOf {
  /** 32-bit floats. */
  float32: Float32Array;
  /** 64-bit floats. */
  float64: Float64Array;
  /** A Float16Array if the engine has it, or the bits in a Uint16Array. */
  float16: Uint16Array | HalfArray;
  /** The bits of each element, which are the upper half of a float32. */
  bfloat16: Uint16Array;
}

/** An array with elements of any type. */
export type Data = DataOf[Dtype];

/** The array for parameters and running statistics: Float64Array for dtype "float64", else Float32Array. */
export type VectorOf<D extends Dtype> = D extends "float64" ? Float64Array : Float32Array;

/** A vector of parameters or statistics, of either precision. */
export type Vector = Float32Array | Float64Array;

export const DTYPES = ["float32", "float64", "float16", "bfloat16"] as const;

/** The names of the types in safetensors files, which operands may have instead. */
export type FileDtype = "F32" | "F64" | "F16" | "BF16";

const FILE_DTYPES: ReadonlyMap<unknown, Dtype> = /* @__PURE__ */ new Map<FileDtype, Dtype>([
  ["F32", "float32"],
  ["F64", "float64"],
  ["F16", "float16"],
  ["BF16", "bfloat16"],
]);

/** Returns the type that an operand's `dtype` names, and other values unchanged. */
export const namedDtype = (name: unknown): Dtype | undefined => (FILE_DTYPES.get(name) ?? name) as Dtype | undefined;

/** Bytes of an element of each type. */
export const BYTES: Readonly<Record<Dtype, number>> = { float32: 4, float64: 8, float16: 2, bfloat16: 2 };

/** Returns whether a type is storage only, so that calls compute in float32. */
export const is16Bit = (dtype: Dtype | undefined): dtype is "float16" | "bfloat16" =>
  dtype === "float16" || dtype === "bfloat16";

/** Returns the type in which calls on these elements compute and keep their parameters and statistics. */
export const computeDtype = (dtype: Dtype): "float32" | "float64" => (dtype === "float64" ? dtype : "float32");

type Constructor = new (...args: [length: number] | [buffer: ArrayBufferLike, offset: number, length: number]) => Data;

const Half = /* @__PURE__ */ (() => (globalThis as { Float16Array?: Constructor }).Float16Array)();

/** The constructors of arrays for the types other than float32, and the values of 16-bit elements. */
export interface Stores extends Readonly<Record<Exclude<Dtype, "float32">, Constructor>> {
  widen: typeof widen;
}

/**
 * Returns the constructor for each type. For float16 it is the engine's Float16Array, or Uint16Array if there is none.
 */
export const allStores = (): Stores => ({
  float64: Float64Array,
  float16: Half ?? Uint16Array,
  bfloat16: Uint16Array,
  widen,
});

/** Returns the values of 16-bit elements, which float32 holds exactly. It takes their bits, or a Float16Array. */
export function widen(dtype: Dtype, data: ArrayLike<number>): Float32Array {
  if (arrayKind(data) !== "Uint16Array") return Float32Array.from(data);
  if (dtype === "float16") return Float32Array.from(data, fromHalf);
  // a bfloat16 is the upper 16 bits of a float32
  return new Float32Array(Uint32Array.from(data, (bits) => bits << 16).buffer);
}

/** Returns the value of an IEEE 754 binary16: a sign bit, 5 bits of exponent with bias 15, and 10 bits of fraction. */
function fromHalf(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (exponent ? (1024 + fraction) * 2 ** (exponent - 25) : fraction * 2 ** -24);
}

/** The slot for the types other than float32. In batchnorm-wasm/core it is empty, and calls accept float32 only. */
export const otherStores = /* @__PURE__ */ new Slot<Stores>();

/**
 * Returns the constructor of arrays for a type. In batchnorm-wasm/core it throws TypeError for types other than
 * float32; the message names the feature, `what`.
 */
export const storeOf = (dtype: Dtype, what = `dtype ${dtype}`): Constructor =>
  dtype === "float32" ? Float32Array : otherStores.get(what)[dtype];

/** Returns a new array of zeros. For float16 it is a Uint16Array if `like` is one. */
export const newData = (dtype: Dtype, length: number, like?: Data): Data =>
  dtype === "float16" && arrayKind(like) === "Uint16Array" ? new Uint16Array(length) : new (storeOf(dtype))(length);

/** Returns a view of `length` elements in a buffer, from the byte `offset` on. */
export const viewOf = <D extends Dtype>(dtype: D, buffer: ArrayBufferLike, offset: number, length: number): DataOf[D] =>
  new (storeOf(dtype))(buffer, offset, length) as DataOf[D];

/** Returns a new vector of zeros: Float64Array for "float64", else Float32Array. */
export const newVector = <D extends Dtype>(dtype: D, length: number): VectorOf<D> =>
  (dtype === "float64" ? new Float64Array(length) : new Float32Array(length)) as VectorOf<D>;

const isHalf = (data: unknown): data is HalfArray => arrayKind(data) === "Float16Array";

/** Returns a Uint16Array view of the bits of a Float16Array. Other arrays are returned unchanged. */
export function bitsOf(data: Data): Float32Array | Float64Array | Uint16Array {
  if (!isHalf(data)) return data;
  const view = data as ArrayBufferView;
  return new Uint16Array(view.buffer, view.byteOffset, view.byteLength / 2);
}

/**
 * Returns the type of an array's elements, or undefined if it is no such array. A Uint16Array may hold float16 or
 * bfloat16: `declaredDtype` says which.
 */
export function dtypeOf(data: unknown, declaredDtype: Dtype | undefined): Dtype | undefined {
  const kind = arrayKind(data);
  if (kind === "Float32Array") return "float32";
  if (kind === "Float64Array") return "float64";
  if (kind === "Float16Array") return "float16";
  return kind === "Uint16Array" && is16Bit(declaredDtype) ? declaredDtype : undefined;
}

/**
 * Returns the type that the option `dtype` names; "float32" for undefined. Throws TypeError or RangeError for other
 * values, and TypeError in batchnorm-wasm/core for types other than "float32".
 */
export function dtypeOption(value: unknown): Dtype {
  const dtype = oneOf("dtype", value, DTYPES, "float32");
  storeOf(dtype, `dtype "${dtype}"`);
  return dtype;
}
