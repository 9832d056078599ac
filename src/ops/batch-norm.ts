// The stateless functions: forward, inference and statistics on plain arrays or tensors. backward.ts has the others.

import { exclusiveStatistics } from "../common/errors.ts";
import { arrayKind, checkKeys } from "../common/validate.ts";
import { copyParameter, type Parameter, parameterLength } from "../memory/guards.ts";
import type { AnyTensor } from "../memory/tensor.ts";
import { computeDtype, type Vector } from "../tensor/dtype.ts";
import { layoutOption } from "../tensor/types.ts";
import { activationOption } from "./activation.ts";
import {
  checkForward,
  type ForwardArguments,
  type ForwardInputs,
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
  { x, geometry: { channels, samples }, dtype }: ForwardInputs<AnyTensor>,
): Omit<ScaleAndShift, "activation"> {
  const isPerSample = (v: Parameter | null | undefined) => {
    const length = parameterLength(v);
    return length !== channels && length === samples * channels;
  };
  const vector = (name: "gamma" | "beta"): Vector | null => {
    const v = parameters[name] ?? null;
    const shape = isPerSample(v) ? [samples, channels] : [channels];
    return v === null ? null : copyParameter(name, v, computeDtype(dtype), shape, x.shape);
  };
  const [gamma, beta] = [vector("gamma"), vector("beta")];
  const which = { gamma: isPerSample(gamma), beta: isPerSample(beta) };
  if (!which.gamma && !which.beta) return { gamma, beta, conditional: undefined };
  const conditional = perSample.get(PER_SAMPLE).conditionalOf(gamma, beta, which, samples);
  return { gamma: null, beta: null, conditional };
}

/**
 * Normalises x by its own statistics: y = f(gamma·x̂ + beta + residual), where f is the activation
 * (torch.nn.functional.batch_norm with training=True; Ioffe & Szegedy 2015, Alg. 1). x has shape [N, C, …], or [N, …,
 * C] with layout "channels-last"; gamma and beta have shape [C] or [N, C].
 *
 * Returns y in x's kind and shape, mean and biased variance of the first or only ghost batch as Float64Array [C], and
 * `saved` for batchNormBackward. `saved` refers to x and, with an activation, to the residual. An empty batch gives an
 * empty y and statistics of zeros. A batch that is masked as a whole gives zeros, too, and its y is beta.
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
  return { y, saved: savedOf(prepared, subBatches), ...(all[0] as Statistics) };
}

/**
 * Normalises x by the mean and variance among the parameters, [C], of float32, float64 or 16 bits: y = f(gamma·x̂ + beta +
 * residual) (torch.nn.functional.batch_norm with training=False). Shapes are those of batchNormForward. `out` may be x
 * or the residual.
 *
 * Returns y in x's kind and shape, and `saved` for batchNormBackward, in which the statistics are constants: dx =
 * gamma·invStd·dy. There is no backward if `out` is x, or if it is the residual and there is an activation.
 *
 * Throws TypeError and RangeError for wrong arguments.
 */
export function batchNormInference<T extends AnyTensor>(
  x: T,
  parameters: Parameters & { mean: Parameter; variance: Parameter },
  options: ForwardOptions<T> = {},
): { y: T; saved: Saved } {
  const args = argumentsOf(x, options, undefined);
  checkKeys("parameters", parameters, ["gamma", "beta", "mean", "variance"]);
  const inputs = checkForward(args, undefined);
  const { dtype, geometry } = inputs;
  const { activation } = args;
  const scaleAndShift = { ...checkScaleAndShift(parameters, inputs), activation };
  const epsilon = epsilonOption(options.epsilon);
  for (const name of ["statistics", "ghostBatchSize"] as const)
    if (options[name] !== undefined) throw exclusiveStatistics(name);
  const { channels } = geometry;
  const statistic = (name: "mean" | "variance") => {
    const v = parameters[name];
    const precision = arrayKind(v) === "Float64Array" ? "float64" : computeDtype(dtype);
    return copyParameter(name, v, precision, [channels], x.shape, "float64");
  };
  const mean = statistic("mean");
  const invStd = new Float64Array(channels);
  invStdOf(statistic("variance"), epsilon, invStd);
  const source = { kind: "constant", statistics: { mean, invStd } } as const;
  const prepared = prepareForward(inputs, scaleAndShift, source, "frozen");
  const { y, subBatches } = runForward(prepared);
  return { y, saved: savedOf(prepared, subBatches) };
}

/**
 * Computes the statistics of one part of a joint batch (torch.batch_norm_stats). mergeStatistics merges those of all
 * parts, and with the result as option `statistics` batchNormForward normalises each part as the joint batch would be.
 *
 * Throws TypeError and RangeError for wrong arguments.
 */
export function batchNormStatistics(
  x: AnyTensor,
  options: Pick<ForwardOptions, "layout" | "mask"> = {},
): BatchStatistics {
  checkKeys("options", options, ["layout", "mask"]);
  return runStatistics(checkForward(argumentsOf(x, options, undefined), undefined));
}
