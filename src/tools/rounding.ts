// Numbers of model files in the types that they are stored in.

import type { Dtype } from "../tensor/dtype.ts";
import { roundedBits } from "../tensor/half.ts";

/** Returns numbers, each rounded once to a type. Those of 16 bits are their bits. */
export function roundedArray(numbers: Float64Array, dtype: Dtype): Float64Array | Float32Array | Uint16Array {
  if (dtype === "float64") return numbers;
  return dtype === "float32" ? Float32Array.from(numbers) : roundedBits(numbers, dtype);
}

/** Returns the little-endian bytes of numbers, each rounded once to a type. */
export function roundedBytes(numbers: Float64Array, dtype: Dtype): Uint8Array {
  const { buffer, byteOffset, byteLength } = roundedArray(numbers, dtype);
  return new Uint8Array(buffer, byteOffset, byteLength);
}
