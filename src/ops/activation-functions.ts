// The names of the activations, and the numbers and parameters that kernels take. assembly/kernels/activations.ts
// computes them.

import { wrongKind, wrongValue } from "../common/errors.ts";
import { type Activation, type ActivationName, NONE } from "./activation.ts";

const NAMES: readonly ActivationName[] = ["none", "relu", "leaky_relu", "relu6", "silu"];

/**
 * The activation of a name. Throws TypeError and RangeError for other names, and for a slope that is wrong or has no
 * use.
 */
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
      return { name, code: 1, slope: 0 };
    case "leaky_relu":
      return { name, code: 2, slope };
    case "relu6":
      return { name, code: 4, slope: 0 };
    case "silu":
      return { name, code: 3, slope: 1 };
    case "none":
      return NONE;
  }
}
