// Activations: their names, the numbers and parameters that kernels take, and the same in float64, which has no kernels.
// assembly/epilogue.ts has them for float32.

import { wrongKind, wrongValue } from "./errors.ts";

/** Applied to the normalised value, after the residual. As torch.nn.ReLU, LeakyReLU, ReLU6 and SiLU. */
export type ActivationName = "none" | "relu" | "leaky_relu" | "relu6" | "silu";

const NAMES: readonly ActivationName[] = ["none", "relu", "leaky_relu", "relu6", "silu"];

/** f(z) = min(max(z, slope·z, floor), ceiling), or z·σ(z). */
export interface Activation {
  readonly name: ActivationName;
  /** What kernels call it (assembly/extended.ts). */
  readonly code: 0 | 1 | 2 | 3;
  readonly slope: number;
  readonly floor: number;
  readonly ceiling: number;
}

export const NONE: Activation = { name: "none", code: 0, slope: 1, floor: -Infinity, ceiling: Infinity };
const SILU = 3;

/** From here on σ is 0 or 1 in float64, and infinity times 0 would be NaN. */
const BOUND = 745;

export function activationOption(value: unknown, negativeSlope: unknown): Activation {
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

/** Whether sums and dx are fused with the derivative: z·σ(z) is evaluated once instead, and its derivative kept. */
export const fusesBackward = ({ code }: Activation): boolean => code === 1 || code === 2;

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
