// Options that the operations and the layer have in common.

import { wrongKind, wrongValue } from "../common/errors.ts";
import { checkKeys } from "../common/validate.ts";

/** The limits of Batch Renormalization's corrections: r in [1/rMax, rMax] and d in [−dMax, dMax] (Ioffe 2017). */
export interface Renorm {
  rMax: number;
  dMax: number;
}

/** The option `epsilon`. Throws TypeError or RangeError unless it is finite and ≥ 0. */
export function epsilonOption(value: unknown, fallback = 1e-5): number {
  if (value === undefined) return fallback;
  if (typeof value !== "number") throw wrongKind("epsilon", "a number", value);
  if (!(Number.isFinite(value) && value >= 0)) throw wrongValue("epsilon", "a finite number ≥ 0", value);
  return value;
}

/** The option `ghostBatchSize`, in samples; null is one batch. Throws unless it is a positive integer. */
export function ghostBatchOption(value: unknown): number | null {
  if (value === undefined || value === null) return null;
  if (typeof value !== "number") throw wrongKind("ghostBatchSize", "a number", value);
  if (!(Number.isSafeInteger(value) && value > 0)) throw wrongValue("ghostBatchSize", "a positive integer", value);
  return value;
}

/** The option `renorm`. Throws unless rMax ≥ 1 and dMax ≥ 0. Infinity is no limit. */
export function renormOption(value: unknown): Readonly<Renorm> | null {
  if (value === undefined || value === null) return null;
  checkKeys("renorm", value, ["rMax", "dMax"]);
  const { rMax, dMax } = value as Partial<Renorm>;
  if (typeof rMax !== "number") throw wrongKind("renorm.rMax", "a number", rMax);
  if (typeof dMax !== "number") throw wrongKind("renorm.dMax", "a number", dMax);
  if (!(rMax >= 1)) throw wrongValue("renorm.rMax", "a number ≥ 1", rMax);
  if (!(dMax >= 0)) throw wrongValue("renorm.dMax", "a number ≥ 0", dMax);
  return Object.freeze({ rMax, dMax });
}
