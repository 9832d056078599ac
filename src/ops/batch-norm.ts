// The stateless functions: forward, inference and statistics on plain arrays or tensors. backward.ts has the others.

import { exclusive, exclusiveStatistics } from "../common/errors.ts";
import { arrayKind, checkKeys } from "../common/validate.ts";
import { copyParameter, type Parameter } from "../memory/guards.ts";
import type { AnyTensor } from "../memory/tensor.ts";
import { computeDtype, type Vector } from "../tensor/dtype.ts";
import { layoutOption } from "../tensor/types.ts";
import { activationOption } from "./activation.ts";
import {
  checkForward,
  type ForwardArguments,
  type ForwardInputs,
  type ForwardOptions,
  type ForwardParameters,
  type ForwardResult,
  type InferenceOptions,
  prepareForward,
  runForward,
  runStatistics,
  type StatisticsSource,
  savedOf,
} from "./forward.ts";
import { epsilonOption, ghostBatchOption } from "./options.ts";
import { emptyStatistics, invStdOf, type Statistics } from "./primitives.ts";
import { type BatchStatistics, checkStatistics } from "./statistics.ts";
import { PER_SAMPLE, perSample as perSampleSlot, type ScaleAndShift, type SubBatchForward } from "./sub-batches.ts";

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
  backwardMode: string | null | undefined,
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

/** Copies gamma and beta, each of every channel, or of every channel of every sample. */
function checkScaleAndShift(
  { gamma, beta, perSample }: ForwardParameters,
  { x, geometry, dtype }: ForwardInputs<AnyTensor>,
): Omit<ScaleAndShift, "activation"> {
  const copyOf = (name: "gamma" | "beta", v: Parameter | null | undefined) =>
    v === undefined || v === null ? null : copyParameter(name, v, computeDtype(dtype), [geometry.channels], x.shape);
  const shared = { gamma: copyOf("gamma", gamma), beta: copyOf("beta", beta) };
  if (perSample === undefined) return { ...shared, conditional: undefined };
  const copy = (_: string, v: Vector | null) => v;
  const conditional = perSampleSlot.get(PER_SAMPLE).conditionalOf(perSample, shared, geometry, dtype, copy);
  for (const name of ["gamma", "beta"] as const)
    if (perSample[name] && shared[name]) throw exclusive(name, `perSample.${name}`);
  return { gamma: null, beta: null, conditional };
}

/**
 * Normalises x by its own statistics: y = f(gamma·x̂ + beta + residual), where f is the activation
 * (torch.nn.functional.batch_norm with training=True; Ioffe & Szegedy 2015, Alg. 1). x is [N, C, …], or [N, …, C] with
 * layout "channels-last"; gamma and beta are [C], and [N, C] in `perSample`.
 *
 * Returns y in x's kind and shape, `saved` for batchNormBackward, and the statistics of the first or only ghost batch.
 * `saved` refers to x and, with an activation, to the residual. An empty batch has statistics of zeros; so has one that
 * is masked as a whole, whose y is beta.
 *
 * Throws TypeError and RangeError for wrong arguments, BatchNormError for one value per channel.
 */
export function batchNormForward<T extends AnyTensor>(
  x: T,
  parameters: ForwardParameters = {},
  options: ForwardOptions<T> = {},
): ForwardResult<T> {
  const args = argumentsOf(x, options, null);
  checkKeys("parameters", parameters, ["gamma", "beta", "perSample"]);
  const inputs = checkForward(args, undefined);
  const { channels } = inputs.geometry;
  const { activation } = args;
  const scaleAndShift = { ...checkScaleAndShift(parameters, inputs), activation };
  const epsilon = epsilonOption(options.epsilon);
  const { statistics } = options;
  const joint = statistics === undefined ? undefined : checkStatistics(statistics, channels, epsilon);
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
  const { mean, variance, invStd } = all[0] as Statistics;
  const count = (subBatches[0] as SubBatchForward).total;
  return { y, saved: savedOf(prepared, subBatches), mean, variance, invStd, count };
}

/**
 * Normalises x by the mean and variance among the parameters, [C], also of 16 bits: y = f(gamma·x̂ + beta + residual)
 * (torch.nn.functional.batch_norm with training=False). Returns the fields of batchNormForward, with count 0. The
 * statistics are constants to a backward: dx = gamma·invStd·dy. No backward is possible if `out` is x, or if it is the
 * residual and there is an activation.
 *
 * Throws TypeError and RangeError for wrong arguments.
 */
export function batchNormInference<T extends AnyTensor>(
  x: T,
  parameters: ForwardParameters & { mean: Parameter; variance: Parameter },
  options: InferenceOptions<T> = {},
): ForwardResult<T> {
  const args = argumentsOf(x, options, undefined);
  checkKeys("parameters", parameters, ["gamma", "beta", "perSample", "mean", "variance"]);
  const inputs = checkForward(args, undefined);
  const { dtype, geometry } = inputs;
  const { activation } = args;
  const scaleAndShift = { ...checkScaleAndShift(parameters, inputs), activation };
  const epsilon = epsilonOption(options.epsilon);
  for (const name of ["statistics", "ghostBatchSize"] as const)
    if ((options as ForwardOptions)[name] !== undefined) throw exclusiveStatistics(name);
  const { channels } = geometry;
  const statistic = (name: "mean" | "variance") => {
    const v = parameters[name];
    const precision = arrayKind(v) === "Float64Array" ? "float64" : computeDtype(dtype);
    return copyParameter(name, v, precision, [channels], x.shape, "float64");
  };
  const [mean, variance] = [statistic("mean"), statistic("variance")];
  const invStd = new Float64Array(channels);
  invStdOf(variance, epsilon, invStd);
  const source = { kind: "constant", statistics: { mean, invStd } } as const;
  const prepared = prepareForward(inputs, scaleAndShift, source, "frozen");
  const { y, subBatches } = runForward(prepared);
  return { y, saved: savedOf(prepared, subBatches), mean, variance, invStd, count: 0 };
}

/**
 * Computes the statistics of one part of a joint batch (torch.batch_norm_stats). mergeStatistics merges those of all
 * parts for batchNormForward's option `statistics`. Throws TypeError and RangeError for wrong arguments.
 */
export function batchNormStatistics(
  x: AnyTensor,
  options: Pick<ForwardOptions, "layout" | "mask"> = {},
): BatchStatistics {
  checkKeys("options", options, ["layout", "mask"]);
  return runStatistics(checkForward(argumentsOf(x, options, undefined), undefined));
}
