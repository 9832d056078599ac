// Options that the operations and the layer have in common.

import { checkKeys, checkNumber, positiveInteger } from "../common/validate.ts";
import type { Parameter } from "../memory/guards.ts";

/** The limits of Batch Renormalization's corrections: r in [1/rMax, rMax] and d in [−dMax, dMax] (Ioffe 2017). */
export interface Renorm {
  /** The limit of r: r is clipped to [1/rMax, rMax]. At least 1, which switches the correction of the scale off. */
  rMax: number;
  /** The limit of d: d is clipped to [−dMax, dMax]. At least 0, which switches the correction of the shift off. */
  dMax: number;
}

/** The scale and the shift of every sample (conditional batch normalization, de Vries et al. 2017). */
export interface PerSampleParameters {
  /** The scale of every sample, [N, C]. Its gradient has that shape, too. */
  gamma?: Parameter;
  /** The shift of every sample, [N, C]. Its gradient has that shape, too. */
  beta?: Parameter;
}

/** The option `epsilon`. Throws TypeError or RangeError unless it is finite and ≥ 0. */
export function epsilonOption(value: unknown, fallback = 1e-5): number {
  if (value === undefined) return fallback;
  return checkNumber("epsilon", value, "a finite number ≥ 0", (n) => n >= 0 && n < Infinity);
}

/** The option `ghostBatchSize`, in samples; null is one batch. Throws unless it is a positive integer. */
export function ghostBatchOption(value: unknown): number | null {
  return value === undefined || value === null ? null : positiveInteger("ghostBatchSize", value);
}

/** The option `renorm`. Throws unless rMax ≥ 1 and dMax ≥ 0. Infinity is no limit. */
export function renormOption(value: unknown): Readonly<Renorm> | null {
  if (value === undefined || value === null) return null;
  checkKeys("renorm", value, ["rMax", "dMax"]);
  const { rMax, dMax } = value as Partial<Renorm>;
  return Object.freeze({
    rMax: checkNumber("renorm.rMax", rMax, "a number ≥ 1", (n) => n >= 1),
    dMax: checkNumber("renorm.dMax", dMax, "a number ≥ 0", (n) => n >= 0),
  });
}
