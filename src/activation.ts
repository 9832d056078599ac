// What an activation is. Those that there are beside "none" are in activations.ts.

import { extra } from "./extras.ts";

/** Applied to the normalised value, after the residual. As torch.nn.ReLU, LeakyReLU, ReLU6 and SiLU. */
export type ActivationName = "none" | "relu" | "leaky_relu" | "relu6" | "silu";

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

/** An activation as options say it. */
export const activationOption = (value: unknown, negativeSlope: unknown): Activation =>
  (value === undefined || value === "none") && (negativeSlope === undefined || negativeSlope === null)
    ? NONE
    : extra("activation").activationOf(value, negativeSlope);

/** Whether sums and dx are fused with the derivative: z·σ(z) is evaluated once instead, and its derivative kept. */
export const fusesBackward = ({ code }: Activation): boolean => code === 1 || code === 2;
