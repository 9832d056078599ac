// What an activation is, and "none", the only one that batchnorm-wasm/core has. activation-functions.ts has the others.

import { Slot } from "../common/slot.ts";

/** The name of an activation, which is applied after the residual: torch.nn.ReLU, LeakyReLU, ReLU6 or SiLU. */
export type ActivationName = "none" | "relu" | "leaky_relu" | "relu6" | "silu";

/** An activation f(z), as the kernels take it. */
export interface Activation {
  readonly name: ActivationName;
  /** The number of the activation in the kernels (assembly/phases.ts). */
  readonly code: 0 | 1 | 2 | 3 | 4;
  /** What f multiplies z ≤ 0 by, for all activations but "silu". */
  readonly slope: number;
  /** The largest value of f, or NaN if it has none. */
  readonly cap: number;
}

/** The activation f(z) = z. */
export const NONE: Activation = { name: "none", code: 0, slope: 1, cap: Number.NaN };

/** The activations but "none". activation-functions.ts implements them. */
export interface Activations {
  /** The activation of a name. Throws TypeError and RangeError for a wrong name or slope. */
  activationOf(value: unknown, negativeSlope: unknown): Activation;
}

export const activations = /* @__PURE__ */ new Slot<Activations>();

/**
 * The activation of the options `activation` and `negativeSlope`. Throws TypeError and RangeError for wrong ones, and
 * TypeError for all but "none" in batchnorm-wasm/core.
 */
export function activationOption(value: unknown, negativeSlope: unknown): Activation {
  const none = value === undefined || value === "none";
  if (none && (negativeSlope === undefined || negativeSlope === null)) return NONE;
  return activations.get(none ? "negativeSlope" : "activation").activationOf(value, negativeSlope);
}

/** Whether the kernels of sums and dx take the derivative. That of z·σ(z) is too slow to be evaluated by both. */
export const fusesBackward = ({ code }: Activation): boolean => code !== 0 && code !== 3;
