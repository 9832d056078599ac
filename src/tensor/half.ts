// Numbers of arrays that states, files and weights hold: floats as they are, and 16-bit floats from and to their bits.

import { wrongKind } from "../common/errors.ts";
import { arrayKind } from "../common/validate.ts";
import { type Data, type Dtype, is16Bit, namedDtype, newData, widen } from "./dtype.ts";

/**
 * Returns the numbers of an array of floats. A Uint16Array holds the bits of "float16" or "bfloat16", whichever `dtype`
 * names, and they are widened to float32, which is exact. Returns undefined for every other array: bits without a type
 * are never read as numbers.
 */
export function floatsOf(data: unknown, dtype?: unknown): ArrayLike<number> | undefined {
  const kind = arrayKind(data);
  const type = namedDtype(dtype);
  const isBits = kind === "Uint16Array" && is16Bit(type);
  if (!isBits && !kind?.startsWith("Float")) return undefined;
  const list = data as ArrayLike<number>;
  // a detached array has no elements, and its iterator throws
  if (list.length === 0) return [];
  return isBits ? widen(type, list) : list;
}

/** Returns the type of an array of floats (floatsOf), which for a Uint16Array is the declared one. */
export function typeOf(data: unknown, dtype: unknown): Dtype {
  const bits = /^Float(16|32|64)Array$/.exec(arrayKind(data) ?? "")?.[1];
  return (bits ? `float${bits}` : namedDtype(dtype)) as Dtype;
}

/**
 * Returns numbers as a new array of a type, each rounded once, to nearest and ties to even. For "float16" it is a
 * Uint16Array of bits if `like` is one.
 */
export function rounded(numbers: Float64Array, dtype: Dtype, like?: Data): Data {
  const data = newData(dtype, numbers.length, like);
  if (is16Bit(dtype) && data instanceof Uint16Array) data.set(roundedBits(numbers, dtype));
  else data.set(numbers);
  return data;
}

/** Returns the bits of numbers in a type of 16 bits, each rounded once, to nearest and ties to even. */
export const roundedBits = (numbers: Float64Array, dtype: "float16" | "bfloat16"): Uint16Array =>
  Uint16Array.from(numbers, (v) => toBits(v, dtype));

/** Returns the bits of the float16 or bfloat16 that is nearest to a number. */
function toBits(value: number, dtype: "float16" | "bfloat16"): number {
  const [fractionBits, leastExponent, infinity] = dtype === "float16" ? [10, -14, 0x7c00] : [7, -126, 0x7f80];
  if (Number.isNaN(value)) return infinity + 1;
  // 2²⁰⁰ becomes infinity in both types, and it has an exponent, which infinity has not
  const size = Math.min(Math.abs(value), 2 ** 200);
  // where log2 is off by one at a power of two, the number rounds to that power all the same
  const exponent = Math.max(Math.floor(Math.log2(size)), leastExponent);
  // a sum with 1.5·2⁵² has no room for a fraction, so that the addition rounds to an integer
  const steps = size / 2 ** (exponent - fractionBits) + 1.5 * 2 ** 52 - 1.5 * 2 ** 52;
  const bits = Math.min((exponent - leastExponent) * 2 ** fractionBits + steps, infinity);
  return value < 0 || Object.is(value, -0) ? bits + 0x8000 : bits;
}

/**
 * Returns the values of a tensor, such as one of readSafetensors, as a new Float32Array: 16-bit floats widened exactly,
 * and float64 rounded. Throws TypeError for other elements, and for a Uint16Array without `dtype`.
 */
export function toFloat32(tensor: { readonly data: ArrayLike<number>; readonly dtype?: string }): Float32Array {
  const floats = floatsOf(tensor?.data, tensor?.dtype);
  if (!floats) throw wrongKind("tensor", `{ data } of ${FLOATS}`, tensor?.data ?? tensor);
  return Float32Array.from(floats);
}

/** The arrays that floatsOf reads, for messages. */
export const FLOATS = "a Float32Array, Float64Array, Float16Array, or a Uint16Array with dtype";
