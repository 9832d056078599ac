// The stateless functions: forward, inference and statistics on plain arrays or tensors. backward.ts has the others.

import { exclusiveStatistics } from "../common/errors.ts";
import { checkKeys } from "../common/validate.ts";
import { checkVector } from "../memory/guards.ts";
import type { AnyTensor } from "../memory/tensor.ts";
import { computeDtype, type Dtype, type Vector } from "../tensor/dtype.ts";
import type { Geometry } from "../tensor/shape.ts";
import { layoutOption } from "../tensor/types.ts";
import { activationOption } from "./activation.ts";
import {
  checkForward,
  type ForwardArguments,
  type ForwardOptions,
  type Parameters,
  prepareForward,
  runForward,
  runStatistics,
  type Saved,
  type StatisticsSource,
  savedOf,
} from "./forward.ts";
import { epsilonOption, ghostBatchOption } from "./options.ts";
import { emptyStatistics, invStdOf, type Statistics } from "./primitives.ts";
import { type BatchStatistics, checkStatistics } from "./statistics.ts";
import { PER_SAMPLE, perSample, type ScaleAndShift } from "./sub-batches.ts";

const FORWARD_OPTIONS = [
  "layout",
  "epsilon",
  "out",
  "activation",
  "negativeSlope",
  "residual",
  "mask",
  "ghostBatchSize",
  "statistics",
];

/** The options of a function as arguments of a forward. */
function argumentsOf<T extends AnyTensor>(
  x: T,
  options: ForwardOptions<T>,
  backwardMode: string | undefined,
): ForwardArguments<T> {
  checkKeys("options", options, FORWARD_OPTIONS);
  const { residual, out, mask } = options;
  return {
    x,
    residual,
    out,
    mask,
    layout: layoutOption(options.layout),
    activation: activationOption(options.activation, options.negativeSlope),
    ghostBatchSize: ghostBatchOption(options.ghostBatchSize),
    backwardMode,
  };
}

/** gamma and beta, each of every channel, or of every channel of every sample. */
function checkScaleAndShift(
  parameters: Parameters,
  { channels, samples }: Geometry,
  dtype: Dtype,
): Omit<ScaleAndShift, "activation"> {
  const isPerSample = (v: Vector | null | undefined) => !!v && v.length !== channels && v.length === samples * channels;
  const vector = (name: "gamma" | "beta"): Vector | null => {
    const v = parameters[name];
    const shape = isPerSample(v) ? [samples, channels] : [channels];
    return v ? checkVector(name, v, channels, computeDtype(dtype), shape).slice() : null;
  };
  const [gamma, beta] = [vector("gamma"), vector("beta")];
  const which = { gamma: isPerSample(gamma), beta: isPerSample(beta) };
  if (!which.gamma && !which.beta) return { gamma, beta, conditional: undefined };
  const conditional = perSample.get(PER_SAMPLE).conditionalOf(gamma, beta, which, samples);
  return { gamma: null, beta: null, conditional };
}

/**
 * Batch normalization by the statistics of x (torch.nn.functional.batch_norm with training=True; Ioffe & Szegedy 2015,
 * Alg. 1). x: [N, C, …] or, with layout "channels-last", [N, …, C]; gamma, beta: [C], or [N, C].
 *
 * y = f(gamma·x̂ + beta + residual), f being the activation. Returns y in x's kind and shape, mean and variance (biased)
 * of the first or only sub-batch as Float64Array [C], and `saved` for batchNormBackward, which keeps a reference to x and,
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
  const args = argumentsOf(x, options, "train");
  checkKeys("parameters", parameters, ["gamma", "beta"]);
  const inputs = checkForward(args, undefined);
  const { channels } = inputs.geometry;
  const { activation } = args;
  const scaleAndShift = { ...checkScaleAndShift(parameters, inputs.geometry, inputs.dtype), activation };
  const epsilon = epsilonOption(options.epsilon);
  const joint = options.statistics && checkStatistics(options.statistics, channels, epsilon);
  if (joint && options.ghostBatchSize !== undefined) throw exclusiveStatistics("ghostBatchSize");
  const all: Statistics[] = joint ? [joint] : [];
  const buffer = (i: number) => {
    all[i] = emptyStatistics(channels);
    return all[i];
  };
  const source: StatisticsSource = joint
    ? { kind: "joint", statistics: joint, count: joint.count }
    : { kind: "batch", epsilon, buffer };
  const prepared = prepareForward(inputs, scaleAndShift, source, "train");
  const { y, subBatches } = runForward(prepared);
  return { y, saved: savedOf(prepared, subBatches), ...(all[0] as Statistics) };
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
  const args = argumentsOf(x, options, undefined);
  checkKeys("parameters", parameters, ["gamma", "beta", "mean", "variance"]);
  const inputs = checkForward(args, undefined);
  const { dtype, geometry } = inputs;
  const { activation } = args;
  const scaleAndShift = { ...checkScaleAndShift(parameters, geometry, dtype), activation };
  const epsilon = epsilonOption(options.epsilon);
  for (const name of ["statistics", "ghostBatchSize"] as const)
    if (options[name] !== undefined) throw exclusiveStatistics(name);
  const { channels } = geometry;
  const given = (name: "mean" | "variance") => {
    const v = parameters[name];
    return v instanceof Float64Array && v.length === channels
      ? v.slice()
      : Float64Array.from(checkVector(name, v, channels, computeDtype(dtype)));
  };
  const mean = given("mean");
  const invStd = new Float64Array(channels);
  invStdOf(given("variance"), epsilon, invStd);
  const source = { kind: "constant", statistics: { mean, invStd } } as const;
  const prepared = prepareForward(inputs, scaleAndShift, source, "frozen");
  const { y, subBatches } = runForward(prepared);
  return { y, saved: savedOf(prepared, subBatches) };
}

/**
 * Statistics of one part of a batch, to be merged with those of the others (torch.batch_norm_stats): with
 * `mergeStatistics` and batchNormForward's `statistics`, micro-batches normalise as one batch.
 */
export function batchNormStatistics(
  x: AnyTensor,
  options: Pick<ForwardOptions, "layout" | "mask"> = {},
): BatchStatistics {
  checkKeys("options", options, ["layout", "mask"]);
  return runStatistics(checkForward(argumentsOf(x, options, undefined), undefined));
}
