// The names of the activations, and the numbers and parameters that kernels take. assembly/kernels/activations.ts
// computes them.

import { wrongValue } from "../common/errors.ts";
import { checkNumber, oneOf } from "../common/validate.ts";
import { type Activation, type ActivationName, NONE } from "./activation.ts";

const ACTIVATIONS: Readonly<Record<ActivationName, Omit<Activation, "name">>> = {
  none: NONE,
  relu: { code: 1, slope: 0, cap: Number.NaN },
  leaky_relu: { code: 2, slope: 0.01, cap: Number.NaN },
  relu6: { code: 4, slope: 0, cap: 6 },
  silu: { code: 3, slope: 1, cap: Number.NaN },
};

/**
 * The activation of a name. Throws TypeError and RangeError for other names, and for a slope that is wrong or has no
 * use.
 */
export function activationOf(value: unknown, negativeSlope: unknown): Activation {
  const name = oneOf("activation", value, Object.keys(ACTIVATIONS) as ActivationName[], "none");
  const activation = { ...ACTIVATIONS[name], name };
  if (negativeSlope === undefined || negativeSlope === null) return activation;
  if (typeof negativeSlope === "number" && name !== "leaky_relu")
    throw wrongValue("negativeSlope", 'activation "leaky_relu" with it', name);
  const slope = checkNumber("negativeSlope", negativeSlope, "a number between 0 and 1", (n) => n > 0 && n < 1);
  return { ...activation, slope };
}
