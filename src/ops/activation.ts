// What an activation is, and "none", the only one that batchnorm-wasm/core has. activation-functions.ts has the others.

import { Slot } from "../common/slot.ts";

/** Applied to the normalised value, after the residual. As torch.nn.ReLU, LeakyReLU, ReLU6 and SiLU. */
export type ActivationName = "none" | "relu" | "leaky_relu" | "relu6" | "silu";

/** f(z) = min(max(z, slope·z, floor), ceiling), or z·σ(z). */
export interface Activation {
  readonly name: ActivationName;
  /** What kernels call it (assembly/phases.ts). */
  readonly code: 0 | 1 | 2 | 3;
  readonly slope: number;
  readonly floor: number;
  readonly ceiling: number;
}

export const NONE: Activation = { name: "none", code: 0, slope: 1, floor: -Infinity, ceiling: Infinity };

/** What calls need of activations; activation-functions.ts implements it. */
export interface Activations {
  /** The activation of a name. Throws TypeError and RangeError for a wrong name or slope. */
  activationOf(value: unknown, negativeSlope: unknown): Activation;
}

export const activations = /* @__PURE__ */ new Slot<Activations>();

/** An activation as options say it. Throws TypeError in batchnorm-wasm/core, unless there is none. */
export function activationOption(value: unknown, negativeSlope: unknown): Activation {
  const none = value === undefined || value === "none";
  if (none && (negativeSlope === undefined || negativeSlope === null)) return NONE;
  return activations.get(none ? "negativeSlope" : "activation").activationOf(value, negativeSlope);
}

/** Whether sums and dx are fused with the derivative: z·σ(z) is evaluated once instead, and its derivative kept. */
export const fusesBackward = ({ code }: Activation): boolean => code === 1 || code === 2;
