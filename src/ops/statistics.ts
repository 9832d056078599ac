// Statistics of a batch: they are computed, merged, and checked where the caller gives them.

import { oneValuePerChannel, wrongKind, wrongValue } from "../common/errors.ts";
import { checkVector } from "../memory/guards.ts";
import type { Geometry } from "../tensor/shape.ts";
import { invStdOf, type Statistics } from "./primitives.ts";

/** Statistics of a batch or of parts of one: count is the number of values per channel, variance is biased. */
export interface BatchStatistics {
  readonly count: number;
  readonly mean: Float64Array;
  readonly variance: Float64Array;
}

export function checkStatistics(s: BatchStatistics, channels: number, epsilon: number): Statistics & { count: number } {
  if (typeof s !== "object" || s === null) throw wrongKind("statistics", "{ count, mean, variance }", s);
  const { count } = s;
  if (typeof count !== "number") throw wrongKind("statistics.count", "a number", count);
  if (!(count >= 0 && count < Infinity)) throw wrongValue("statistics.count", "a finite number ≥ 0", count);
  const mean = checkVector("statistics.mean", s.mean, channels, "float64").slice();
  const variance = checkVector("statistics.variance", s.variance, channels, "float64").slice();
  const invStd = new Float64Array(channels);
  invStdOf(variance, epsilon, invStd);
  return { count, mean, variance, invStd };
}

/** Refuses statistics of one value, or of none, for a batch that is not empty. */
export function checkGiven({ count }: BatchStatistics, g: Geometry, mode: string, shape: readonly number[]): void {
  if (g.count > 0 && count <= 1) throw oneValuePerChannel(mode, shape, ` and statistics of ${count}`);
}

/** Statistics of the union of batches (Chan, Golub & LeVeque 1979), in the order given. At least one. */
export function mergeStatistics(list: Iterable<BatchStatistics>): BatchStatistics {
  if (typeof list !== "object" || list === null || !(Symbol.iterator in list))
    throw wrongKind("statistics", "a list of { count, mean, variance }", list);
  let merged: (Statistics & { count: number }) | undefined;
  for (const part of list) {
    const one = checkStatistics(part, merged?.mean.length ?? part?.mean?.length, 0);
    if (!merged?.count)
      merged = one; // what is empty says nothing
    else if (one.count) mergeInto(merged, one);
  }
  if (!merged) throw wrongValue("statistics", "at least one batch's", "none");
  const { count, mean, variance } = merged;
  return { count, mean, variance };
}

function mergeInto(merged: Statistics & { count: number }, { count, mean, variance }: BatchStatistics): void {
  const total = merged.count + count;
  const [before, now] = [merged.count / total, count / total];
  for (let c = 0; c < mean.length; c++) {
    const delta = (mean[c] as number) - (merged.mean[c] as number);
    const within = (merged.variance[c] as number) * before + (variance[c] as number) * now;
    merged.mean[c] = (merged.mean[c] as number) + delta * now;
    merged.variance[c] = within + delta * before * delta * now;
  }
  merged.count = total;
}

/** The first channel of a batch whose statistics are not finite, if there is one. */
export function nonFiniteChannel(mean: Float64Array, variance: Float64Array): number | undefined {
  for (let c = 0; c < mean.length; c++) if (!Number.isFinite(mean[c]) || !Number.isFinite(variance[c])) return c;
  return undefined;
}
