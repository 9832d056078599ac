// Folding: batch norm in mode "eval" multiplies each channel by a scale and adds a shift. A linear or convolutional
// layer in front of it can do both with its weight and bias. Folding computes in float64 and rounds once.
// docs/folding.md has the derivation and the measured errors.
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
import { arrayKind, checkKeys, oneOf, positiveInteger } from "../common/validate.ts";
import { BatchNorm } from "../layer/batch-norm.ts";
import { checkChannels } from "../layer/options.ts";
import type { Affine, Floats, FoldSource, FoldWarning } from "../layer/slots.ts";
import { epsilonOption } from "../ops/options.ts";
import { invStdOf } from "../ops/primitives.ts";
import { sizeOf } from "../tensor/shape.ts";

/** A linear or convolutional layer: its weight, and its bias, [C]. An absent bias counts as zeros. */
export interface FoldableLayer<T extends Floats = Floats> {
  readonly weight: { readonly data: T; readonly shape: readonly number[] };
  readonly bias?: Floats | null | undefined;
}

/** One layer that gives the same results as a layer and the BatchNorm after it. */
export interface FoldedLayer<T extends Floats = Floats> {
  weight: { data: T; shape: number[] };
  bias: T;
  warnings: FoldWarning[];
}

/** Order of the axes of a linear weight, outputs O and inputs I: "OI" in PyTorch, "IO" in Keras, TF.js and Flax. */
export type LinearFormat = (typeof LINEAR)[number];
const LINEAR = ["OI", "IO"] as const;

/**
 * Order of the axes of a convolution's weight: outputs O, inputs I, and HW for one, two or three spatial axes.
 *
 * - "OIHW": convolution in PyTorch and ONNX
 * - "IOHW": transposed convolution in PyTorch and ONNX
 * - "HWIO": convolution in Keras, TF.js and Flax
 * - "HWOI": transposed convolution in Keras and TF.js
 * - "HWIM": depthwise convolution in Keras and TF.js, where M is the depth multiplier
 */
export type ConvFormat = (typeof CONV)[number];
const CONV = ["OIHW", "IOHW", "HWIO", "HWOI", "HWIM"] as const;

/**
 * A weight as an array [groups, outer, outputs, inner] in memory order. Output o of group g belongs to channel
 * g·outputs + o.
 */
interface WeightGrid {
  readonly groups: number;
  readonly outer: number;
  readonly outputs: number;
  readonly inner: number;
}

/**
 * Root mean square error of one rounding to nearest, relative to the rounded number and in units of roundoff. It is
 * 0.42, derived for mantissas that are spread logarithmically (docs/folding.md, "When it loses digits").
 */
const ROUNDING = /* @__PURE__ */ Math.sqrt(1 / (8 * Math.LN2));

/**
 * A channel whose expected error exceeds this gets a warning. It is the absolute tolerance of
 * torch.testing.assert_close for float32. A float32 channel exceeds it from about |mean| = 230·√(variance + epsilon)
 * on.
 */
const TOLERANCE = 1e-5;

/** Unit roundoff of an array's elements. */
const roundoffOf = (array: Floats) => (arrayKind(array) === "Float32Array" ? 2 ** -24 : 2 ** -53);

const zerosLike = <T extends Floats>(array: T, length: number): T =>
  (arrayKind(array) === "Float32Array" ? new Float32Array(length) : new Float64Array(length)) as T;

function checkFloats<T extends Floats>(name: string, value: T): T {
  if (/^Float(32|64)Array$/.test(arrayKind(value) ?? "")) return value;
  throw wrongKind(name, "a Float32Array or Float64Array", value);
}

function checkVector<T extends Floats>(name: string, value: T, channels: number): T {
  if (checkFloats(name, value).length !== channels) throw wrongLength(name, [channels], value.length);
  return value;
}

const vectorOr = (name: string, value: Floats | null | undefined, channels: number, missing: number): Floats =>
  value === undefined || value === null ? new Float64Array(channels).fill(missing) : checkVector(name, value, channels);

/** Checks a source's running statistics and epsilon, and returns them with the number of channels. */
function statisticsOf<T extends Floats>(bn: FoldSource<T>) {
  if (typeof bn !== "object" || bn === null || typeof bn.options !== "object" || bn.options === null)
    throw wrongKind("bn", "a BatchNorm or { runningMean, runningVariance, options: { epsilon }, … }", bn);
  BatchNorm.checkItself("bn", bn);
  if (bn.runningMean === null || bn.runningVariance === null) throw noStatisticsToFold();
  const channels = checkChannels(bn.channels ?? checkFloats("runningMean", bn.runningMean).length);
  const mean = checkVector("runningMean", bn.runningMean, channels);
  const variance = checkVector("runningVariance", bn.runningVariance, channels);
  // epsilon is required, because a source from another library has that library's default
  if (bn.options.epsilon === undefined) throw wrongKind("epsilon", "a number", undefined);
  return { channels, mean, variance, epsilon: epsilonOption(bn.options.epsilon) };
}

type Source = ReturnType<typeof sourceOf>;

/** Checks all vectors of a source. An absent gamma becomes ones, an absent beta zeros. */
function sourceOf<T extends Floats>(bn: FoldSource<T>) {
  const { channels, mean, variance, epsilon } = statisticsOf(bn);
  const gamma = vectorOr("gamma", bn.gamma, channels, 1);
  const beta = vectorOr("beta", bn.beta, channels, 0);
  const invStd = new Float64Array(channels);
  invStdOf(variance, epsilon, invStd);
  return { channels, mean, invStd, gamma, beta };
}

/** Returns weight·scale, each element by the scale of its output, and per channel whether all products are finite. */
function scaleWeight<T extends Floats>(weight: T, grid: WeightGrid, scale: Float64Array) {
  const scaled = zerosLike(weight, weight.length);
  const allFinite = new Array<boolean>(scale.length).fill(true);
  let i = 0;
  for (let g = 0; g < grid.groups; g++)
    for (let n = 0; n < grid.outer; n++)
      for (let o = 0; o < grid.outputs; o++) {
        const c = g * grid.outputs + o;
        for (const end = i + grid.inner; i < end; i++) {
          scaled[i] = (weight[i] as number) * (scale[c] as number);
          if (!Number.isFinite(scaled[i])) allFinite[c] = false;
        }
      }
  return { scaled, allFinite };
}

/** Folds a BatchNorm into a weight and a bias. `remedy` is the advice in the warning of an ill-conditioned channel. */
function fold<T extends Floats>(bn: Source, weight: T, grid: WeightGrid, bias: Floats, remedy: string) {
  const { channels, mean, invStd, gamma, beta } = bn;
  const scale = invStd.map((v, c) => v * (gamma[c] as number));
  const { scaled, allFinite } = scaleWeight(weight, grid, scale);
  const shift = zerosLike(weight, channels);
  const warnings: FoldWarning[] = [];
  for (let c = 0; c < channels; c++) {
    // the mean of the layer's output before its bias
    const center = (mean[c] as number) - (bias[c] as number);
    const lever = center * (scale[c] as number);
    const sum = (beta[c] as number) - lever;
    shift[c] = sum;
    if (!(allFinite[c] && Number.isFinite(shift[c]))) {
      const message = foldOverflows(c);
      warnings.push({ code: "non-finite", channel: c, expectedError: Number.POSITIVE_INFINITY, message });
      continue;
    }
    // roundings of scale, of scale·x and of shift; scale·x is `lever` where x is the mean
    const error = ROUNDING * roundoffOf(weight) * Math.hypot(lever, lever, sum);
    const size = Math.abs(gamma[c] as number) + Math.abs(beta[c] as number);
    if (error <= TOLERANCE * size) continue;
    const expectedError = error / size;
    const message = foldCancels(c, Math.abs(center) * (invStd[c] as number), expectedError, remedy);
    warnings.push({ code: "ill-conditioned", channel: c, expectedError, message });
  }
  return { weight: scaled, bias: shift, warnings };
}

/**
 * Returns the scale and the shift, [C] each, with which y = scale·x + shift is the BatchNorm in mode "eval": scale =
 * gamma·invStd and shift = beta − mean·scale. They are new arrays of the running statistics' type (Ioffe & Szegedy
 * 2015, Alg. 2, line 11).
 *
 * Throws BatchNormError "no-running-statistics" for a layer without running statistics, and TypeError or RangeError for
 * vectors of a wrong type or length.
 */
export function toAffine<T extends Floats>(bn: FoldSource<T>): Affine<T> {
  const source = sourceOf(bn);
  const { channels } = source;
  const identity = zerosLike(bn.runningMean as T, channels).fill(1) as T;
  const grid = { groups: 1, outer: 1, outputs: channels, inner: 1 };
  const remedy = "keep the BatchNorm there, which subtracts the mean before it multiplies";
  const { weight, bias, warnings } = fold(source, identity, grid, new Float64Array(channels), remedy);
  return { scale: weight, shift: bias, warnings };
}

function gridOf(format: LinearFormat | ConvFormat, shape: readonly number[], groups: number): WeightGrid {
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
  positiveInteger("groups", groups);
  if (format === "HWOI" && groups > 1) throw wrongValue("groups", '1 with format "HWOI"', groups);
  const [size, axis] = format === "IOHW" ? [inputs, "inputs"] : [channels, "channels"];
  if (size % groups !== 0) throw wrongValue("groups", `a divisor of ${size} ${axis}`, groups);
}

function foldInto<T extends Floats>(
  name: "linear" | "conv",
  layer: FoldableLayer<T>,
  bn: FoldSource,
  format: LinearFormat | ConvFormat,
  groups: number,
): FoldedLayer<T> {
  checkKeys(name, layer, ["weight", "bias", "warnings"]); // a FoldedLayer, which has warnings, can be folded again
  const { weight, bias } = layer;
  if (typeof weight !== "object" || weight === null)
    throw wrongKind("weight", "{ data: Float32Array or Float64Array, shape }", weight);
  const data = checkFloats("weight.data", weight.data);
  const { shape } = weight;
  if (sizeOf("weight", shape) !== data.length) throw wrongLength("weight", shape, data.length);
  const [minRank, maxRank] = name === "linear" ? [2, 2] : [3, 5];
  if (shape.length < minRank || shape.length > maxRank)
    throw wrongValue("weight.shape", name === "linear" ? "rank 2" : "rank 3 to 5", shape);
  const source = sourceOf(bn);
  const { channels } = source;
  checkGroups(groups, format, shape[0] as number, channels);
  const grid = gridOf(format, shape, groups);
  if (grid.groups * grid.outputs !== channels)
    throw wrongOutputs(channels, grid.groups * grid.outputs, shape, format, groups);
  const layerBias = vectorOr("bias", bias, channels, 0);
  const remedy = "the two layers apart lose about as much in float32; centre the inputs, or fold and run in float64";
  const folded = fold(source, data, grid, layerBias, remedy);
  return { ...folded, weight: { data: folded.weight, shape: [...shape] } };
}

/**
 * Folds a BatchNorm into the linear (dense) layer before it (PyTorch: torch.nn.utils.fusion.fuse_linear_bn_eval).
 * Returns weight′ = weight·scale and bias′ = beta − (mean − bias)·scale as new arrays of the weight's type. The weight
 * is [O, I] with format "OI", the default, or [I, O] with "IO"; the bias is [O].
 *
 * Throws BatchNormError "no-running-statistics" for a BatchNorm without running statistics, TypeError for a value of a
 * wrong type, and RangeError for a wrong shape.
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
 * Folds a BatchNorm into the convolution before it (PyTorch: torch.nn.utils.fusion.fuse_conv_bn_eval, whose `transpose`
 * is format "IOHW"). Returns weight′ = weight·scale and bias′ = beta − (mean − bias)·scale as new arrays of the
 * weight's type.
 *
 * The weight has rank 3, 4 or 5 and its axes in the order of `format`, "OIHW" by default. The bias is [C]. `groups`
 * matters for format "IOHW" only, where a weight is [I, C/groups, …]. Weights of the other formats hold all outputs on
 * one axis, or on two in "HWIM".
 *
 * Throws BatchNormError "no-running-statistics" for a BatchNorm without running statistics, TypeError for a value of a
 * wrong type, and RangeError for a wrong shape or wrong groups.
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
 * Returns the gamma and beta, [C] each, with which a BatchNorm of these running statistics computes y = scale·x + shift
 * in mode "eval": gamma = scale·√(variance + epsilon) and beta = shift + mean·scale. It is the inverse of toAffine.
 *
 * An absent scale counts as ones, an absent shift as zeros. With both absent the BatchNorm computes y = x, so that it
 * can be inserted again after a layer that it was folded into. The results are new arrays of the running statistics'
 * type.
 *
 * Throws RangeError if variance + epsilon of a channel is not positive and finite, BatchNormError
 * "no-running-statistics" for a layer without running statistics, and TypeError or RangeError for vectors of a wrong
 * type or length.
 */
export function fromAffine<T extends Floats>(
  affine: { readonly scale?: Floats | null | undefined; readonly shift?: Floats | null | undefined },
  bn: FoldSource<T>,
): { gamma: T; beta: T } {
  checkKeys("affine", affine, ["scale", "shift", "warnings"]);
  const { channels, mean, variance, epsilon } = statisticsOf(bn);
  const scale = vectorOr("scale", affine.scale, channels, 1);
  const shift = vectorOr("shift", affine.shift, channels, 0);
  const gamma = zerosLike(mean, channels);
  const beta = zerosLike(mean, channels);
  for (let c = 0; c < channels; c++) {
    const v = (variance[c] as number) + epsilon;
    if (!(v > 0 && v < Number.POSITIVE_INFINITY))
      throw wrongValue(`runningVariance + epsilon of channel ${c}`, "a positive finite number", v);
    gamma[c] = (scale[c] as number) * Math.sqrt(v);
    beta[c] = (shift[c] as number) + (mean[c] as number) * (scale[c] as number);
  }
  return { gamma, beta };
}
