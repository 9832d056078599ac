// Statistics of a batch: they are computed, merged, and checked where the caller gives them.

import { missing, oneValuePerChannel, wrongKind, wrongLength } from "../common/errors.ts";
import { arrayKind, checkNumber, checkObject, hasAny } from "../common/validate.ts";
import { checkVector } from "../memory/guards.ts";
import type { Geometry } from "../tensor/shape.ts";
import { invStdOf, type Statistics } from "./primitives.ts";

/** The statistics of a batch, or of a part of one. */
export interface BatchStatistics {
  /** The number of values per channel, or the sum of their weights. */
  readonly count: number;
  /** The mean of every channel, [C]. */
  readonly mean: Float64Array;
  /** The biased variance of every channel, [C]. */
  readonly variance: Float64Array;
}

/**
 * Copies statistics that a caller gives, with their invStd. Without `channels` they may have any number. Throws
 * TypeError or RangeError for wrong ones.
 */
export function checkStatistics(
  s: BatchStatistics,
  givenChannels: number | undefined,
  epsilon: number,
): Statistics & { count: number } {
  checkObject("statistics", s, "{ count, mean, variance }");
  const channels = givenChannels ?? (s.mean?.length || 1);
  const count = checkNumber("statistics.count", s.count, "a finite number ≥ 0", (n) => n >= 0 && n < Infinity);
  const mean = checkVector("statistics.mean", s.mean, channels, "float64").slice();
  const variance = checkVector("statistics.variance", s.variance, channels, "float64").slice();
  const invStd = new Float64Array(channels);
  invStdOf(variance, epsilon, invStd);
  return { count, mean, variance, invStd };
}

/** Throws BatchNormError if a batch that is not empty would be normalised by the statistics of one value or of none. */
export function checkJointCount(count: number, geometry: Geometry, mode: string, shape: readonly number[]): void {
  if (geometry.count > 0 && count <= 1) throw oneValuePerChannel(mode, shape, ` and statistics of ${count}`);
}

/** Merges statistics of batches in the order given (Chan et al. 1979). Throws TypeError or RangeError. */
export function mergeStatistics(list: Iterable<BatchStatistics>): BatchStatistics {
  if (!hasAny(list, Symbol.iterator)) throw wrongKind("statistics", "a list of { count, mean, variance }", list);
  let merged: (Statistics & { count: number }) | undefined;
  for (const part of list) {
    const one = checkStatistics(part, merged?.mean.length, 0);
    if (!merged?.count) merged = one;
    else if (one.count) mergeInto(merged, one);
  }
  if (!merged) throw missing("statistics", "at least one batch's");
  const { count, mean, variance } = merged;
  return { count, mean, variance };
}

/**
 * Σ (x − mean)² of the union of two parts: of `count` values, and of as many more as make `share` of the whole. `delta`
 * is the distance of their means (Chan, Golub & LeVeque 1979).
 */
export const mergedM2 = (m2: number, added: number, delta: number, count: number, share: number): number =>
  m2 + added + delta * delta * (count * share);

/** Replaces statistics by those of the union with another part. Both hold values. */
function mergeInto(merged: Statistics & { count: number }, { count, mean, variance }: BatchStatistics): void {
  const total = merged.count + count;
  const share = count / total;
  for (let c = 0; c < mean.length; c++) {
    const delta = (mean[c] as number) - (merged.mean[c] as number);
    const m2 = (merged.variance[c] as number) * merged.count;
    merged.mean[c] = (merged.mean[c] as number) + delta * share;
    merged.variance[c] = mergedM2(m2, (variance[c] as number) * count, delta, merged.count, share) / total;
  }
  merged.count = total;
}

/** Returns statistics as 2C + 1 numbers to send: [count, mean…, M2…], where M2 = Σ (x − mean)². */
export function packStatistics(statistics: BatchStatistics): Float64Array {
  const { count, mean, variance } = checkStatistics(statistics, undefined, 0);
  const packed = new Float64Array(2 * mean.length + 1);
  packed[0] = count;
  packed.set(mean, 1);
  for (let c = 0; c < mean.length; c++) packed[1 + mean.length + c] = (variance[c] as number) * count;
  return packed;
}

/** Returns the statistics that packStatistics packed. Throws TypeError and RangeError for other numbers. */
export function unpackStatistics(packed: Float64Array): BatchStatistics {
  if (arrayKind(packed) !== "Float64Array") throw wrongKind("packed", "a Float64Array", packed);
  const channels = (packed.length - 1) / 2;
  if (!(Number.isInteger(channels) && channels >= 1)) throw wrongLength("packed", [3], packed.length);
  const count = packed[0] as number;
  const mean = packed.slice(1, 1 + channels);
  const variance = packed.slice(1 + channels);
  for (let c = 0; c < channels; c++) variance[c] = count > 0 ? (variance[c] as number) / count : 0;
  return { count, mean, variance };
}

/**
 * The statistics of `size` parts together, which packStatistics packed and which follow each other in `all`, each behind
 * `skip` other numbers. It is mergeStatistics without a copy of each part: 3 ns for a part and channel instead of 16.
 */
export function mergePacked(all: Float64Array, size: number, skip: number): BatchStatistics {
  const width = all.length / size;
  const channels = (width - skip - 1) / 2;
  const mean = new Float64Array(channels);
  const m2 = new Float64Array(channels);
  let count = 0;
  for (let part = 0; part < size; part++) {
    const start = part * width + skip;
    const added = all[start] as number;
    if (added === 0) continue;
    const share = added / (count + added);
    for (let c = 0; c < channels; c++) {
      const delta = (all[start + 1 + c] as number) - (mean[c] as number);
      mean[c] = (mean[c] as number) + delta * share;
      m2[c] = mergedM2(m2[c] as number, all[start + 1 + channels + c] as number, delta, count, share);
    }
    count += added;
  }
  return { count, mean, variance: m2.map((sum) => sum / (count || 1)) };
}

/** The first channel whose statistics are not finite; undefined if all are. */
export function nonFiniteChannel(mean: Float64Array, variance: Float64Array): number | undefined {
  for (let c = 0; c < mean.length; c++) if (!Number.isFinite(mean[c]) || !Number.isFinite(variance[c])) return c;
  return undefined;
}
