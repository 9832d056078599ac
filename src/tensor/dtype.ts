// Types of elements: what an array or tensor holds, and what it is computed in. float16 and bfloat16 are storage only:
// their values are widened to float32 on the way in and rounded on the way out.

import { wrongKind, wrongValue } from "../common/errors.ts";
import { Slot } from "../common/slot.ts";

export type Dtype = "float32" | "float64" | "float16" | "bfloat16";

/** Float16Array where the engine's types have it. */
type HalfArray = typeof globalThis extends { Float16Array: new (length: number) => infer A } ? A : never;

/** The array that holds elements of a type. */
export interface DataOf {
  float32: Float32Array;
  float64: Float64Array;
  /** Bits, or Float16Array where the engine has it. */
  float16: Uint16Array | HalfArray;
  /** Bits: the upper half of a float32. */
  bfloat16: Uint16Array;
}

export type Data = DataOf[Dtype];

/** Parameters and running statistics: Float64Array with dtype "float64", else Float32Array. */
export type VectorOf<D extends Dtype> = D extends "float64" ? Float64Array : Float32Array;

export type Vector = Float32Array | Float64Array;

export const DTYPES = ["float32", "float64", "float16", "bfloat16"] as const;

export const BYTES: Readonly<Record<Dtype, number>> = { float32: 4, float64: 8, float16: 2, bfloat16: 2 };

/** Whether elements are narrower than what they are computed in. */
export const is16Bit = (dtype: Dtype): dtype is "float16" | "bfloat16" => dtype === "float16" || dtype === "bfloat16";

/** The type of parameters, statistics and arithmetic. */
export const computeDtype = (dtype: Dtype): "float32" | "float64" => (dtype === "float64" ? dtype : "float32");

type Constructor = new (...args: [length: number] | [buffer: ArrayBufferLike, offset: number, length: number]) => Data;

const Half = /* @__PURE__ */ (() => (globalThis as { Float16Array?: Constructor }).Float16Array)();

/** The arrays that hold elements of other types than float32. */
export type Stores = Readonly<Record<Exclude<Dtype, "float32">, Constructor>>;

/** float16 is stored in the engine's Float16Array, or in a Uint16Array where the engine has none. */
export const allStores = (): Stores => ({
  float64: Float64Array,
  float16: Half ?? Uint16Array,
  bfloat16: Uint16Array,
});

/** Where this is empty, calls compute in float32 alone. */
export const otherStores = /* @__PURE__ */ new Slot<Stores>();

/** The array that holds elements of a type. Throws TypeError that names `what` in batchnorm-wasm/core, unless it is float32. */
export const storeOf = (dtype: Dtype, what = `dtype ${dtype}`): Constructor =>
  dtype === "float32" ? Float32Array : otherStores.get(what)[dtype];

/** A new array of zeros, of the kind of `like` where that fits. */
export const newData = (dtype: Dtype, length: number, like?: Data): Data =>
  dtype === "float16" && like instanceof Uint16Array ? new Uint16Array(length) : new (storeOf(dtype))(length);

/** A view of so many elements in a buffer. */
export const viewOf = <D extends Dtype>(dtype: D, buffer: ArrayBufferLike, offset: number, length: number): DataOf[D] =>
  new (storeOf(dtype))(buffer, offset, length) as DataOf[D];

export const newVector = <D extends Dtype>(dtype: D, length: number): VectorOf<D> =>
  (dtype === "float64" ? new Float64Array(length) : new Float32Array(length)) as VectorOf<D>;

const isHalf = (data: unknown): data is HalfArray => Half !== undefined && data instanceof Half;

/** 16-bit elements as their bits; other arrays as they are. */
export function bitsOf(data: Data): Float32Array | Float64Array | Uint16Array {
  if (!isHalf(data)) return data;
  const view = data as ArrayBufferView;
  return new Uint16Array(view.buffer, view.byteOffset, view.byteLength / 2);
}

/**
 * The type of an array's elements; undefined for other arrays. A Uint16Array may hold float16 or bfloat16: `said` tells.
 */
export function dtypeOf(data: unknown, said: Dtype | undefined): Dtype | undefined {
  if (data instanceof Float32Array) return "float32";
  if (data instanceof Float64Array) return "float64";
  if (isHalf(data)) return "float16";
  return data instanceof Uint16Array && said && is16Bit(said) ? said : undefined;
}

/** A dtype as an option. Throws TypeError in batchnorm-wasm/core, unless it is "float32". */
export function dtypeOption(value: unknown): Dtype {
  if (value === undefined) return "float32";
  if (typeof value !== "string") throw wrongKind("dtype", "a string", value);
  const found = DTYPES.find((d) => d === value);
  if (!found) throw wrongValue("dtype", DTYPES.map((d) => `"${d}"`).join(" or "), value);
  storeOf(found, `dtype ${JSON.stringify(found)}`);
  return found;
}
