// The names of the activations, and the numbers and parameters that kernels take. assembly/kernels/activations.ts
// computes them.

import { wrongValue } from "../common/errors.ts";
import { checkNumber, oneOf } from "../common/validate.ts";
import { type Activation, type ActivationName, NONE } from "./activation.ts";

const NAMES: readonly ActivationName[] = ["none", "relu", "leaky_relu", "relu6", "silu"];

/**
 * The activation of a name. Throws TypeError and RangeError for other names, and for a slope that is wrong or has no
 * use.
 */
export function activationOf(value: unknown, negativeSlope: unknown): Activation {
  const name = oneOf("activation", value, NAMES, "none");
  if (negativeSlope !== undefined && negativeSlope !== null) {
    if (typeof negativeSlope === "number" && name !== "leaky_relu")
      throw wrongValue("negativeSlope", 'activation "leaky_relu" with it', name);
    checkNumber("negativeSlope", negativeSlope, "a number between 0 and 1", (n) => n > 0 && n < 1);
  }
  const slope = (negativeSlope as number | null | undefined) ?? 0.01;
  const cap = Number.NaN;
  switch (name) {
    case "relu":
      return { name, code: 1, slope: 0, cap };
    case "leaky_relu":
      return { name, code: 2, slope, cap };
    case "relu6":
      return { name, code: 4, slope: 0, cap: 6 };
    case "silu":
      return { name, code: 3, slope: 1, cap };
    case "none":
      return NONE;
  }
}
