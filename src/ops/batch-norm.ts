// The stateless operations: statistics, the forward map, the backward sums and map, on plain arrays or tensors. Class
// BatchNorm is made of the same `backward` and `forwardSlices`.

import { exclusiveStatistics } from "../common/errors.ts";
import { checkKeys } from "../common/validate.ts";
import { checkVector } from "../memory/guards.ts";
import { CallScope } from "../memory/operand.ts";
import type { AnyTensor } from "../memory/tensor.ts";
import { computedIn, type Vector } from "../tensor/dtype.ts";
import {
  checkForward,
  checkOverwrites,
  type ForwardOptions,
  forward,
  normalizedBy,
  type Parameters,
  type Saved,
  savedOf,
} from "./forward.ts";
import { emptyStatistics, invStdOf, type Statistics } from "./primitives.ts";
import { type BatchStatistics, checkGiven, checkStatistics } from "./statistics.ts";
import { checkEnough, normalizeSlice } from "./sub-batches.ts";

/**
 * Batch normalization by the statistics of x (torch.nn.functional.batch_norm with training=True; Ioffe & Szegedy 2015,
 * Alg. 1). x: [N, C, …] or, with layout "channels-last", [N, …, C]; gamma, beta: [C], or [N, C].
 *
 * y = f(gamma·x̂ + beta + residual), f being the activation. Returns y in x's kind and shape, mean and variance (biased)
 * of the first or only slice as Float64Array [C], and `saved` for batchNormBackward, which keeps a reference to x and,
 * with an activation, to the residual. An empty batch gives an empty y and zeros; so does one that is masked altogether,
 * whose y is beta.
 *
 * Throws TypeError and RangeError for wrong arguments, BatchNormError for one value per channel.
 */
export function batchNormForward<T extends AnyTensor>(
  x: T,
  parameters: Parameters = {},
  options: ForwardOptions<T> = {},
): { y: T; saved: Saved; mean: Float64Array; variance: Float64Array } {
  const { dtype, geometry, how, heap, slices, epsilon } = checkForward(x, parameters, ["gamma", "beta"], options);
  const { residual, out } = options;
  const given = options.statistics && checkStatistics(options.statistics, geometry.channels, epsilon);
  if (given && options.ghostBatchSize !== undefined) throw exclusiveStatistics("ghostBatchSize");
  if (given) checkGiven(given, geometry, "train", x.shape);
  else checkEnough(slices, "train", x.shape);
  const kept = checkOverwrites(out, x, residual, how.activation, "train");
  const all = slices.map(() => given ?? emptyStatistics(geometry.channels));
  const normalized = slices.map((slice, i) => normalizedBy(slice, all[i] as Statistics, how, given?.count));
  const y = forward(heap, dtype, x, residual, out, (call, target) => {
    for (const [i, slice] of normalized.entries()) {
      const into = all[i] as Statistics;
      if (slice.geometry.count > 0)
        normalizeSlice(call, x, residual, target, slice, given ? undefined : { epsilon, into });
    }
  });
  const first = all[0] as Statistics;
  const { activation } = how;
  const saved = savedOf({ batch: true, kept, dtype, geometry, x, residual, activation, slices: normalized });
  return { y, saved, ...first };
}

/**
 * Batch normalization by given statistics (training=False). As batchNormForward, with mean and variance, Float32Array or
 * Float64Array [C], among the parameters; `out` may be x or the residual. `saved` is for the backward of frozen statistics,
 * dx = gamma·invStd·dy, unless `out` took the place of x, or of a residual under an activation.
 */
export function batchNormInference<T extends AnyTensor>(
  x: T,
  parameters: Parameters & { mean: Vector; variance: Vector },
  options: ForwardOptions<T> = {},
): { y: T; saved: Saved } {
  const known = ["gamma", "beta", "mean", "variance"];
  const { dtype, geometry, how, heap, slices, epsilon } = checkForward(x, parameters, known, options);
  const { residual, out } = options;
  for (const name of ["statistics", "ghostBatchSize"] as const)
    if (options[name] !== undefined) throw exclusiveStatistics(name);
  const kept = checkOverwrites(out, x, residual, how.activation, undefined);
  const { channels } = geometry;
  const given = (name: "mean" | "variance") => {
    const v = parameters[name];
    return v instanceof Float64Array && v.length === channels
      ? v.slice()
      : Float64Array.from(checkVector(name, v, channels, computedIn(dtype)));
  };
  const mean = given("mean");
  const invStd = new Float64Array(channels);
  invStdOf(given("variance"), epsilon, invStd);
  const normalized = slices.map((slice) => normalizedBy(slice, { mean, invStd }, how, 0));
  const y = forward(heap, dtype, x, residual, out, (call, target) => {
    for (const slice of normalized) normalizeSlice(call, x, residual, target, slice);
  });
  const { activation } = how;
  const saved = savedOf({ batch: false, kept, dtype, geometry, x, residual, activation, slices: normalized });
  return { y, saved };
}

// ---- in two phases --------------------------------------------------------------------------------------------------

/**
 * Statistics of one part of a batch, to be merged with those of the others (torch.batch_norm_stats): with
 * `mergeStatistics` and batchNormForward's `statistics`, micro-batches normalise as one batch.
 */
export function batchNormStatistics(
  x: AnyTensor,
  options: Pick<ForwardOptions, "layout" | "mask"> = {},
): BatchStatistics {
  checkKeys("options", options, ["layout", "mask"]);
  const { dtype, geometry, how, heap, slices } = checkForward(x, {}, [], options);
  const into = emptyStatistics(geometry.channels);
  const call = new CallScope(heap, dtype, [x]);
  try {
    for (const slice of slices)
      if (slice.count > 0)
        normalizeSlice(call, x, undefined, undefined, normalizedBy(slice, into, how), { epsilon: 0, into });
  } finally {
    call.dispose();
  }
  return { count: slices[0]?.count ?? 0, mean: into.mean, variance: into.variance };
}
