// Drift between two checkpoints: how far the running statistics of each batch norm lie from those of the same name in another
// file. The definitions and thresholds are those of `diagnose`, with the other file's statistics as the running ones.

import { MEAN_DRIFT, VARIANCE_RATIO } from "../layer/diagnose.ts";
import { resolveOptions } from "../layer/options.ts";
import type { BatchNormRecord } from "./batch-norm-record.ts";
import { type Range, rangeOf } from "./range.ts";

/** How far one batch norm has drifted. Lists have channels in ascending order. */
export interface LayerDrift {
  /** The name of the batch norm in both files. */
  readonly name: string;
  /** The number of channels. */
  readonly channels: number;
  /** The largest |mean − other mean|/√(other variance + epsilon) of a channel. */
  readonly meanDrift: number;
  /** The range of √((variance + epsilon)/(other variance + epsilon)), the ratio of standard deviations. */
  readonly stdRatio: Range;
  /** The range of |gamma| − |other gamma|, if both files have a gamma. */
  readonly gammaChange?: Range;
  /** Channels with a large drift: of the mean by more than 0.5, or of the variance by more than a factor 2 either way. */
  readonly drifted: readonly number[];
}

/** A batch norm of both files that cannot be compared. */
export interface IncomparableLayer {
  /** The name of the batch norm in both files. */
  readonly name: string;
  /** Why it cannot be compared. */
  readonly reason: string;
}

/** The comparison of a file with another one, by the names of batch norms. */
export interface DriftReport {
  /** The name of the other file. */
  readonly against: string;
  /** The batch norms of both files, in the order of the inspected one. */
  readonly layers: readonly LayerDrift[];
  /** Names of batch norms that only the inspected file has. */
  readonly added: readonly string[];
  /** Names of batch norms that only the other file has. */
  readonly missing: readonly string[];
  /** Batch norms of both files that cannot be compared, and the reason. */
  readonly incomparable: readonly IncomparableLayer[];
}

type Complete = BatchNormRecord & Required<Pick<BatchNormRecord, "mean" | "variance" | "epsilon">>;

/** Returns a batch norm with an epsilon, or the reason why its statistics cannot be compared. */
function complete(record: BatchNormRecord, file: string): Complete | string {
  const { mean, variance, channels, problems = [], convention } = record;
  const { epsilon = resolveOptions({ preset: convention }).epsilon } = record;
  if (!mean || !variance) return `its statistics in ${file} are incomplete`;
  if (problems.length || mean.length !== channels || variance.length !== channels)
    return `its values in ${file} are not right`;
  const isUsable = epsilon >= 0 && mean.every(Number.isFinite) && variance.every((v) => v >= 0 && v < Infinity);
  return isUsable ? { ...record, mean, variance, epsilon } : `its statistics in ${file} are negative or not finite`;
}

/** Returns a/b, and 1 for 0/0, as between two channels without variance and epsilon. */
const ratio = (a: number, b: number) => (a === b ? 1 : a / b);

function driftOf(now: Complete, before: Complete): LayerDrift {
  const at = (vector: Float64Array, c: number) => vector[c] as number;
  const means = now.mean.map((m, c) => {
    const difference = Math.abs(m - at(before.mean, c));
    return difference === 0 ? 0 : difference / Math.sqrt(at(before.variance, c) + before.epsilon);
  });
  const ratios = now.variance.map((v, c) => ratio(v + now.epsilon, at(before.variance, c) + before.epsilon));
  const { gamma } = before;
  const change = gamma && now.gamma?.map((g, c) => Math.abs(g) - Math.abs(at(gamma, c)));
  const gammaChange = rangeOf(change);
  const drifted = [...means.keys()].filter(
    (c) => at(means, c) > MEAN_DRIFT || Math.abs(Math.log(at(ratios, c))) > Math.log(VARIANCE_RATIO),
  );
  return {
    ...{ name: now.name, channels: now.channels },
    meanDrift: means.reduce((most, drift) => Math.max(most, drift), 0),
    stdRatio: rangeOf(ratios.map(Math.sqrt)) ?? { least: 1, median: 1, largest: 1 },
    ...(gammaChange && { gammaChange }),
    drifted,
  };
}

/** Compares the batch norms of a file, in their order, with those of the same names in another file. */
export function driftBetween(
  file: string,
  records: readonly BatchNormRecord[],
  against: string,
  others: readonly BatchNormRecord[],
): DriftReport {
  const byName = new Map(others.map((other) => [other.name, other]));
  const names = new Set(records.map(({ name }) => name));
  const layers: LayerDrift[] = [];
  const incomparable: { name: string; reason: string }[] = [];
  for (const record of records) {
    const other = byName.get(record.name);
    if (!other) continue;
    const { name } = record;
    const [now, before] = [complete(record, file), complete(other, against)];
    if (typeof now === "string") incomparable.push({ name, reason: now });
    else if (typeof before === "string") incomparable.push({ name, reason: before });
    else if (now.channels !== before.channels)
      incomparable.push({ name, reason: `it has ${now.channels} channels, and ${before.channels} in ${against}` });
    else layers.push(driftOf(now, before));
  }
  return {
    against,
    layers,
    added: records.map(({ name }) => name).filter((name) => !byName.has(name)),
    missing: others.map(({ name }) => name).filter((name) => !names.has(name)),
    incomparable,
  };
}
