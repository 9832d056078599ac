// Folding: batch norm in mode "eval" is one scale and one shift per channel, which a linear or convolutional layer in
// front of it can take into its weight and bias. In float64, rounded once. docs/folding.md has the reasons and the errors.
//
//   scale = gamma·invStd      shift = beta − mean·scale      weight′ = weight·scale      bias′ = beta − (mean − bias)·scale

import {
  foldCancels,
  foldOverflows,
  noStatisticsToFold,
  wrongKind,
  wrongLength,
  wrongOutputs,
  wrongValue,
} from "../common/errors.ts";
import { checkKeys, oneOf } from "../common/validate.ts";
import { checkChannels } from "../layer/options.ts";
import type { Affine, Floats, FoldSource, FoldWarning } from "../layer/slots.ts";
import { epsilonOption } from "../ops/options.ts";
import { invStdOf } from "../ops/primitives.ts";
import { sizeOf } from "../tensor/shape.ts";

/** A linear or convolutional layer: its weight, and the bias of its outputs, [C]. An absent bias counts as 0. */
export interface FoldableLayer<T extends Floats = Floats> {
  readonly weight: { readonly data: T; readonly shape: readonly number[] };
  readonly bias?: Floats | null | undefined;
}

/** A layer that does what the layer and the BatchNorm after it did. */
export interface FoldedLayer<T extends Floats = Floats> {
  weight: { data: T; shape: number[] };
  bias: T;
  warnings: FoldWarning[];
}

/** Axes of a linear weight: "OI" in PyTorch, "IO" in Keras, TF.js and Flax. */
export type LinearFormat = (typeof LINEAR)[number];
const LINEAR = ["OI", "IO"] as const;

/**
 * Axes of a convolution's weight: outputs, inputs, and for HW any number of spatial axes.
 *
 * - "OIHW": PyTorch, ONNX
 * - "IOHW": their transposed convolution
 * - "HWIO": Keras, TF.js, Flax
 * - "HWOI": Keras's and TF.js's transposed convolution
 * - "HWIM": Keras's and TF.js's depthwise convolution, M being the multiplier
 */
export type ConvFormat = (typeof CONV)[number];
const CONV = ["OIHW", "IOHW", "HWIO", "HWOI", "HWIM"] as const;

/** A weight in memory order; output o of group g belongs to channel g·outputs + o. */
interface Grid {
  readonly groups: number;
  readonly outer: number;
  readonly outputs: number;
  readonly inner: number;
}

/** Root mean square of a rounding, relative to a number whose mantissa is as likely to be anything; × 2⁻²⁴ or 2⁻⁵³. */
const ROUNDING = /* @__PURE__ */ Math.sqrt(1 / (8 * Math.LN2));

/**
 * The error beyond which a channel gets a warning: results of size 1 that differ by more are not the same to
 * torch.testing.assert_close. In float32 that is |mean| from about 230·√(variance + epsilon) on.
 */
const TOLERANCE = 1e-5;

const unitOf = (kind: Floats) => (kind instanceof Float32Array ? 2 ** -24 : 2 ** -53);

const emptyLike = <T extends Floats>(kind: T, length: number): T =>
  (kind instanceof Float32Array ? new Float32Array(length) : new Float64Array(length)) as T;

function checkFloats<T extends Floats>(name: string, value: T): T {
  if (value instanceof Float32Array || value instanceof Float64Array) return value;
  throw wrongKind(name, "a Float32Array or Float64Array", value);
}

function checkVector<T extends Floats>(name: string, value: T, channels: number): T {
  if (checkFloats(name, value).length !== channels) throw wrongLength(name, [channels], value.length);
  return value;
}

const vectorOr = (name: string, value: Floats | null | undefined, channels: number, missing: number): Floats =>
  value === undefined || value === null ? new Float64Array(channels).fill(missing) : checkVector(name, value, channels);

/** A source's running statistics, checked. */
function statisticsOf<T extends Floats>(bn: FoldSource<T>) {
  if (typeof bn !== "object" || bn === null || typeof bn.options !== "object" || bn.options === null)
    throw wrongKind("bn", "a BatchNorm or { runningMean, runningVariance, options: { epsilon }, … }", bn);
  if (bn.runningMean === null || bn.runningVariance === null) throw noStatisticsToFold();
  const channels = checkChannels(bn.channels ?? checkFloats("runningMean", bn.runningMean).length);
  const mean = checkVector("runningMean", bn.runningMean, channels);
  const variance = checkVector("runningVariance", bn.runningVariance, channels);
  // not the default: other libraries have others
  if (bn.options.epsilon === undefined) throw wrongKind("epsilon", "a number", undefined);
  return { channels, mean, variance, epsilon: epsilonOption(bn.options.epsilon) };
}

type Source = ReturnType<typeof sourceOf>;

function sourceOf<T extends Floats>(bn: FoldSource<T>) {
  const { channels, mean, variance, epsilon } = statisticsOf(bn);
  const gamma = vectorOr("gamma", bn.gamma, channels, 1);
  const beta = vectorOr("beta", bn.beta, channels, 0);
  const invStd = new Float64Array(channels);
  invStdOf(variance, epsilon, invStd);
  return { channels, mean, invStd, gamma, beta };
}

function fold<T extends Floats>(bn: Source, weight: T, grid: Grid, bias: Floats, remedy: string) {
  const { channels, mean, invStd, gamma, beta } = bn;
  const scale = invStd.map((v, c) => v * (gamma[c] as number));
  const finite = new Array<boolean>(channels).fill(true);

  const scaled = emptyLike(weight, weight.length);
  let i = 0;
  for (let g = 0; g < grid.groups; g++)
    for (let n = 0; n < grid.outer; n++)
      for (let o = 0; o < grid.outputs; o++) {
        const c = g * grid.outputs + o;
        for (const end = i + grid.inner; i < end; i++) {
          scaled[i] = (weight[i] as number) * (scale[c] as number);
          if (!Number.isFinite(scaled[i])) finite[c] = false;
        }
      }

  const shift = emptyLike(weight, channels);
  const warnings: FoldWarning[] = [];
  for (let c = 0; c < channels; c++) {
    // what the weight alone puts out has this mean
    const center = (mean[c] as number) - (bias[c] as number);
    const lever = center * (scale[c] as number);
    const sum = (beta[c] as number) - lever;
    shift[c] = sum;
    if (!(finite[c] && Number.isFinite(shift[c]))) {
      const message = foldOverflows(c);
      warnings.push({ code: "non-finite", channel: c, expectedError: Number.POSITIVE_INFINITY, message });
      continue;
    }
    // three roundings: of scale and of scale·x, which is lever at the mean, and of shift
    const error = ROUNDING * unitOf(weight) * Math.hypot(lever, lever, sum);
    const size = Math.abs(gamma[c] as number) + Math.abs(beta[c] as number);
    if (error <= TOLERANCE * size) continue;
    const expectedError = error / size;
    const message = foldCancels(c, Math.abs(center) * (invStd[c] as number), expectedError, remedy);
    warnings.push({ code: "ill-conditioned", channel: c, expectedError, message });
  }
  return { weight: scaled, bias: shift, warnings };
}

/**
 * The BatchNorm in mode "eval" as y = scale·x + shift: scale = gamma·invStd, shift = beta − mean·scale, [C] each, in the
 * kind of the running statistics. Source: Ioffe & Szegedy 2015, Alg. 2, line 11.
 *
 * Throws BatchNormError "no-running-statistics" for a layer without them, TypeError and RangeError for wrong vectors.
 */
export function toAffine<T extends Floats>(bn: FoldSource<T>): Affine<T> {
  const source = sourceOf(bn);
  const { channels } = source;
  const identity = emptyLike(bn.runningMean as T, channels).fill(1) as T;
  const grid = { groups: 1, outer: 1, outputs: channels, inner: 1 };
  const remedy = "keep the BatchNorm there, which subtracts the mean before it multiplies";
  const { weight, bias, warnings } = fold(source, identity, grid, new Float64Array(channels), remedy);
  return { scale: weight, shift: bias, warnings };
}

function gridOf(format: LinearFormat | ConvFormat, shape: readonly number[], groups: number): Grid {
  const axis = (i: number) => shape.at(i) as number;
  const product = (begin: number, end?: number) => shape.slice(begin, end).reduce((a, b) => a * b, 1);
  switch (format) {
    case "OI":
    case "OIHW":
      return { groups: 1, outer: 1, outputs: axis(0), inner: product(1) };
    case "IO":
    case "HWIO":
      return { groups: 1, outer: product(0, -1), outputs: axis(-1), inner: 1 };
    case "IOHW":
      return { groups, outer: axis(0) / groups, outputs: axis(1), inner: product(2) };
    case "HWOI":
      return { groups: 1, outer: product(0, -2), outputs: axis(-2), inner: axis(-1) };
    case "HWIM":
      return { groups: 1, outer: product(0, -2), outputs: axis(-2) * axis(-1), inner: 1 };
  }
}

function checkGroups(groups: number, format: string, inputs: number, channels: number): void {
  if (typeof groups !== "number") throw wrongKind("groups", "a number", groups);
  if (!(Number.isInteger(groups) && groups > 0)) throw wrongValue("groups", "a positive integer", groups);
  if (format === "HWOI" && groups > 1) throw wrongValue("groups", '1 with format "HWOI"', groups);
  const of = format === "IOHW" ? inputs : channels;
  const what = format === "IOHW" ? "inputs" : "channels";
  if (of % groups !== 0) throw wrongValue("groups", `a divisor of ${of} ${what}`, groups);
}

function foldInto<T extends Floats>(
  name: "linear" | "conv",
  layer: FoldableLayer<T>,
  bn: FoldSource,
  format: LinearFormat | ConvFormat,
  groups: number,
): FoldedLayer<T> {
  checkKeys(name, layer, ["weight", "bias", "warnings"]); // a folded layer is one too
  const { weight, bias } = layer;
  if (typeof weight !== "object" || weight === null)
    throw wrongKind("weight", "{ data: Float32Array or Float64Array, shape }", weight);
  const data = checkFloats("weight.data", weight.data);
  const { shape } = weight;
  if (sizeOf("weight", shape) !== data.length) throw wrongLength("weight", shape, data.length);
  const [least, most] = name === "linear" ? [2, 2] : [3, 5];
  if (shape.length < least || shape.length > most)
    throw wrongValue("weight.shape", name === "linear" ? "rank 2" : "rank 3 to 5", shape);
  const source = sourceOf(bn);
  const { channels } = source;
  checkGroups(groups, format, shape[0] as number, channels);
  const grid = gridOf(format, shape, groups);
  if (grid.groups * grid.outputs !== channels)
    throw wrongOutputs(channels, grid.groups * grid.outputs, shape, format, groups);
  const offset = vectorOr("bias", bias, channels, 0);
  const remedy = "the two layers apart lose about as much in float32; centre the inputs, or fold and run in float64";
  const folded = fold(source, data, grid, offset, remedy);
  return { ...folded, weight: { data: folded.weight, shape: [...shape] } };
}

/**
 * A linear (dense) layer with the BatchNorm after it folded in: weight′ = weight·scale, bias′ = beta − (mean − bias)·scale.
 * Weight [O, I] with format "OI", the default, or [I, O] with "IO"; bias [O]. Returns new arrays of the weight's kind.
 * PyTorch: torch.nn.utils.fusion.fuse_linear_bn_eval.
 *
 * Throws BatchNormError "no-running-statistics" for a layer without them, TypeError for a wrong kind, RangeError for
 * wrong shapes.
 */
export function foldIntoLinear<T extends Floats>(
  linear: FoldableLayer<T>,
  bn: FoldSource,
  options: { format?: LinearFormat } = {},
): FoldedLayer<T> {
  checkKeys("options", options, ["format"]);
  return foldInto("linear", linear, bn, oneOf("format", options.format, LINEAR, "OI"), 1);
}

/**
 * A convolution with the BatchNorm after it folded in: weight′ = weight·scale, bias′ = beta − (mean − bias)·scale. The
 * weight is of rank 3, 4 or 5, its axes as `format` says, "OIHW" by default; bias [C]. `groups` is needed with "IOHW"
 * alone, where a weight is [I, C/groups, …]; other weights have all outputs on an axis. Returns new arrays of the weight's
 * kind. PyTorch: torch.nn.utils.fusion.fuse_conv_bn_eval, whose `transpose` is format "IOHW".
 *
 * Throws BatchNormError "no-running-statistics" for a layer without them, TypeError for a wrong kind, RangeError for
 * wrong shapes or groups.
 */
export function foldIntoConv<T extends Floats>(
  conv: FoldableLayer<T>,
  bn: FoldSource,
  options: { format?: ConvFormat; groups?: number } = {},
): FoldedLayer<T> {
  checkKeys("options", options, ["format", "groups"]);
  const { format, groups = 1 } = options;
  return foldInto("conv", conv, bn, oneOf("format", format, CONV, "OIHW"), groups);
}

/**
 * The reverse of toAffine: gamma = scale·√(variance + epsilon) and beta = shift + mean·scale, [C], in the kind of the
 * running statistics, with which a BatchNorm that has those gives y = scale·x + shift in mode "eval". Without scale and
 * shift, y = x: so a BatchNorm begins that is put behind a layer again after folding.
 *
 * Throws RangeError where variance + epsilon is not positive and finite, BatchNormError "no-running-statistics" for a
 * layer without them, TypeError and RangeError for wrong vectors.
 */
export function fromAffine<T extends Floats>(
  affine: { readonly scale?: Floats | null | undefined; readonly shift?: Floats | null | undefined },
  bn: FoldSource<T>,
): { gamma: T; beta: T } {
  checkKeys("affine", affine, ["scale", "shift", "warnings"]);
  const { channels, mean, variance, epsilon } = statisticsOf(bn);
  const scale = vectorOr("scale", affine.scale, channels, 1);
  const shift = vectorOr("shift", affine.shift, channels, 0);
  const gamma = emptyLike(mean, channels);
  const beta = emptyLike(mean, channels);
  for (let c = 0; c < channels; c++) {
    const v = (variance[c] as number) + epsilon;
    if (!(v > 0 && v < Number.POSITIVE_INFINITY))
      throw wrongValue(`runningVariance + epsilon of channel ${c}`, "a positive finite number", v);
    gamma[c] = (scale[c] as number) * Math.sqrt(v);
    beta[c] = (shift[c] as number) + (mean[c] as number) * (scale[c] as number);
  }
  return { gamma, beta };
}
