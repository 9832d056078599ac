// Activations: their names, the numbers and parameters that kernels take, and the same in float64, which has no kernels.
// assembly/epilogue.ts has them for float32.

import { type Activation, type ActivationName, NONE } from "./activation.ts";
import { wrongKind, wrongValue } from "./errors.ts";

const NAMES: readonly ActivationName[] = ["none", "relu", "leaky_relu", "relu6", "silu"];

const SILU = 3;

/** From here on σ is 0 or 1 in float64, and infinity times 0 would be NaN. */
const BOUND = 745;

/** The activation of a name. Throws TypeError and RangeError for others, and for a slope that is none or not asked for. */
export function activationOf(value: unknown, negativeSlope: unknown): Activation {
  if (value !== undefined && typeof value !== "string") throw wrongKind("activation", "a string", value);
  const name = value === undefined ? "none" : NAMES.find((n) => n === value);
  if (!name) throw wrongValue("activation", NAMES.map((n) => `"${n}"`).join(" or "), value);
  if (negativeSlope !== undefined && negativeSlope !== null) {
    if (typeof negativeSlope !== "number") throw wrongKind("negativeSlope", "a number", negativeSlope);
    if (name !== "leaky_relu") throw wrongValue("negativeSlope", 'activation "leaky_relu" with it', value ?? "none");
    if (!(negativeSlope > 0 && negativeSlope < 1))
      throw wrongValue("negativeSlope", "a number between 0 and 1", negativeSlope);
  }
  const slope = (negativeSlope as number | null | undefined) ?? 0.01;
  switch (name) {
    case "relu":
      return { name, code: 1, slope: 0, floor: 0, ceiling: Infinity };
    case "leaky_relu":
      return { name, code: 2, slope, floor: -Infinity, ceiling: Infinity };
    case "relu6":
      return { name, code: 2, slope: 0, floor: 0, ceiling: 6 };
    case "silu":
      return { name, code: SILU, slope: 1, floor: -Infinity, ceiling: Infinity };
    case "none":
      return NONE;
  }
}

/** f(z) in float64. */
export function activate({ code, slope, floor, ceiling }: Activation, z: number): number {
  if (code === SILU) {
    const t = Math.max(z, -BOUND);
    return t / (1 + Math.exp(-t));
  }
  return z > 0 ? (z < ceiling ? z : ceiling) : slope === 0 ? (z <= 0 ? floor : z) : z * slope;
}

/** f′(z) in float64. */
export function derivative({ code, slope, ceiling }: Activation, z: number): number {
  if (code === SILU) {
    const t = Math.min(Math.max(z, -BOUND), BOUND);
    const sigmoid = 1 / (1 + Math.exp(-t));
    return sigmoid * (1 + t * (1 - sigmoid));
  }
  return z <= 0 ? slope : z >= ceiling ? 0 : 1;
}
