// Folding: batch norm in mode "eval" multiplies each channel by a scale and adds a shift. A linear or convolutional
// layer next to it can do both with its weight and bias. Folding computes in float64 and rounds once.
// docs/guides/folding-accuracy.md has the derivation and the measured errors.
//
//   scale = gamma·invStd      shift = beta − mean·scale
//   backward, into the layer before it:   weight′ = weight·scale of the output     bias′ = beta − (mean − bias)·scale
//   forward, into the layer behind it:    weight′ = weight·scale of the input      bias′ = bias + Σ weight·shift

import {
  foldCancels,
  foldOverflows,
  LOST,
  noStatistics,
  sumCancels,
  wrongInputs,
  wrongKind,
  wrongLength,
  wrongOutputs,
  wrongValue,
} from "../common/errors.ts";
import { Strict } from "../common/strict.ts";
import { checkKeys, checkObject, flag, isObject, oneOf, positiveInteger } from "../common/validate.ts";
import { checkChannels } from "../layer/options.ts";
import type { Affine, AffineOptions, FoldSource, FoldVector, FoldWarning } from "../layer/slots.ts";
import { epsilonOption } from "../ops/options.ts";
import { invStdOf } from "../ops/primitives.ts";
import { type Data, type Dtype, namedDtype, newVector, type Vector } from "../tensor/dtype.ts";
import { FLOATS, floatsOf, rounded, typeOf } from "../tensor/half.ts";
import { sizeOf } from "../tensor/shape.ts";

/** A linear or convolutional layer: weight and bias, [O], by default zeros. 16-bit elements need the weight's dtype. */
export interface FoldableLayer<T extends Data = Data> {
  /**
   * The weight and its shape, in the order of the axes that the option `format` names. Bits of 16-bit floats need
   * their dtype.
   */
  readonly weight: { readonly data: T; readonly shape: readonly number[]; readonly dtype?: string };
  /** The bias, [outputs]. An absent one counts as zeros. */
  readonly bias?: FoldVector | null | undefined;
}

/** One layer that gives the same results as a layer and the BatchNorm next to it, in arrays of the weight's type. */
export interface FoldedLayer<T extends Data = Data> {
  /** The new weight, in the shape of the given one. */
  weight: { data: T; shape: number[]; dtype: Dtype };
  /** The new bias, [outputs]. */
  bias: T;
  /** Warnings of channels that are less accurate when folded. An empty list is a good result. */
  warnings: FoldWarning[];
}

/**
 * The way that a BatchNorm is folded: "backward" into the layer before it, or "forward" into the layer behind it.
 */
export type FoldDirection = "backward" | "forward";
const DIRECTIONS: readonly FoldDirection[] = ["backward", "forward"];

/** Order of the axes of a linear weight, outputs O and inputs I: "OI" in PyTorch, "IO" in Keras, TF.js and Flax. */
export type LinearFormat = "OI" | "IO";
const LINEAR: readonly LinearFormat[] = ["OI", "IO"];

/**
 * Order of the axes of a convolution's weight: outputs O, inputs I, and HW for one, two or three spatial axes.
 *
 * - "OIHW": convolution in PyTorch and ONNX
 * - "IOHW": transposed convolution in PyTorch and ONNX
 * - "HWIO": convolution in Keras, TF.js and Flax
 * - "HWOI": transposed convolution in Keras and TF.js
 * - "HWIM": depthwise convolution in Keras and TF.js, where M is the depth multiplier
 */
export type ConvFormat = "OIHW" | "IOHW" | "HWIO" | "HWOI" | "HWIM";
const CONV: readonly ConvFormat[] = ["OIHW", "IOHW", "HWIO", "HWOI", "HWIM"];

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
 * A weight's outputs, and the inputs of each of its groups, with the distances in memory between two outputs and between
 * two inputs.
 */
interface Connections {
  readonly groups: number;
  readonly outputs: number;
  readonly outputStride: number;
  readonly inputs: number;
  readonly inputStride: number;
}

/** A folded weight and bias before they are rounded. */
interface Unrounded {
  readonly weight: Float64Array;
  readonly bias: Float64Array;
  /** The largest expected error of an output, in units of its size, when the numbers are rounded to the layer's type. */
  readonly expectedError: number;
  readonly warnings: FoldWarning[];
}

/**
 * Root mean square error of one rounding to nearest, relative to the rounded number and in units of roundoff. It is
 * 0.42, derived for mantissas that are spread logarithmically (docs/guides/folding-accuracy.md).
 */
const ROUNDING = /* @__PURE__ */ Math.sqrt(1 / (8 * Math.LN2));

/**
 * Unit roundoff of each type, exponent of the power of 2 beyond its range, and the expected error from which on a channel
 * gets a warning. The last is a tolerance of torch.testing.assert_close: the absolute one for float32 and float64, and
 * the relative one for 16 bits, which is the larger there. A float32 channel exceeds it from about |mean| =
 * 230·√(variance + epsilon) on, a float16 one from 2.8 on, and a bfloat16 one from 5.5 on.
 */
const TYPES: Readonly<Record<Dtype, readonly [roundoff: number, exponent: number, tolerance: number]>> = {
  float32: [2 ** -24, 128, 1e-5],
  float64: [2 ** -53, 1024, 1e-5],
  float16: [2 ** -11, 16, 1e-3],
  bfloat16: [2 ** -8, 128, 1.6e-2],
};

/** Returns the expected error from which on a warning comes for numbers of a type. */
export const toleranceOf = (dtype: Dtype) => TYPES[dtype][2];

/** Returns the numbers of a vector, or `missing` for each channel of an absent one. */
function numbersOf(
  name: string,
  value: FoldVector | null | undefined,
  channels?: number,
  missing?: number,
  declaredDtype?: string,
): ArrayLike<number> {
  if ((value ?? undefined) === undefined && missing !== undefined)
    return new Float64Array(channels as number).fill(missing);
  const isArray = ArrayBuffer.isView(value);
  const { data, dtype = declaredDtype } = (isArray ? { data: value } : (value ?? {})) as Partial<
    FoldableLayer["weight"]
  >;
  const numbers = floatsOf(data, dtype);
  if (!numbers) throw wrongKind(name, FLOATS, data ?? value);
  const shape = isArray ? [numbers.length] : (value as FoldableLayer["weight"]).shape;
  if (sizeOf(name, shape) !== numbers.length) throw wrongLength(name, shape, numbers.length);
  if (channels !== undefined && numbers.length !== channels) throw wrongLength(name, [channels], numbers.length);
  return numbers;
}

/**
 * Checks a source's running statistics, epsilon and activation. Returns the first two with the number of channels and
 * the type of the mean, in which results for the source alone come.
 */
function statisticsOf(bn: FoldSource, { activation = "none" }: AffineOptions) {
  const expected = `a BatchNorm or { runningMean, runningVariance, options: { epsilon }, … } (${LOST})`;
  checkObject("bn", bn, expected);
  Strict.checkItself("bn", bn);
  if (!isObject(bn.options)) throw wrongKind("bn", expected, bn);
  if (bn.runningMean === null || bn.runningVariance === null) throw noStatistics();
  const { epsilon, activation: own = "none" } = bn.options;
  if (activation !== own)
    throw wrongValue(
      "activation",
      `${typeof own === "string" ? `"${own}"` : "a name"}, bn's own: it is not folded, so apply it to the result and name it here`,
      activation,
    );
  const mean = numbersOf("runningMean", bn.runningMean, bn.channels);
  const channels = checkChannels(mean.length);
  const variance = numbersOf("runningVariance", bn.runningVariance, channels);
  // epsilon is required, because a source from another library has that library's default
  if (epsilon === undefined) throw wrongKind("epsilon", "a number", undefined);
  const dtype = (mean as Vector).BYTES_PER_ELEMENT === 8 ? "float64" : "float32";
  return { channels, mean, variance, epsilon: epsilonOption(epsilon), dtype } as const;
}

type Source = ReturnType<typeof sourceOf>;

/** Checks all vectors of a source. An absent gamma becomes ones, an absent beta zeros. */
function sourceOf(bn: FoldSource, options: AffineOptions) {
  const { channels, mean, variance, epsilon, dtype } = statisticsOf(bn, options);
  const gamma = numbersOf("gamma", bn.gamma, channels, 1);
  const beta = numbersOf("beta", bn.beta, channels, 0);
  const invStd = new Float64Array(channels);
  invStdOf(variance, epsilon, invStd);
  return { channels, mean, invStd, gamma, beta, dtype };
}

/** Returns scale = gamma·invStd and shift = beta − mean·scale of each channel, in float64. */
function scaleAndShift({ mean, invStd, gamma, beta }: Source) {
  const scale = invStd.map((v, c) => v * (gamma[c] as number));
  const shift = scale.map((v, c) => (beta[c] as number) - (mean[c] as number) * v);
  return { scale, shift };
}

/**
 * Returns weight·scale in float64, each element by the scale of its output, and per channel whether the size of all
 * products is below `limit`.
 */
function scaleWeight(weight: ArrayLike<number>, grid: WeightGrid, scale: Float64Array, limit: number) {
  const scaled = new Float64Array(weight.length);
  const allFinite = new Array<boolean>(scale.length).fill(true);
  let i = 0;
  for (let g = 0; g < grid.groups; g++)
    for (let n = 0; n < grid.outer; n++)
      for (let o = 0; o < grid.outputs; o++) {
        const c = g * grid.outputs + o;
        for (const end = i + grid.inner; i < end; i++) {
          const product = (weight[i] as number) * (scale[c] as number);
          scaled[i] = product;
          if (!(Math.abs(product) < limit)) allFinite[c] = false;
        }
      }
  return { scaled, allFinite };
}

/** Returns the size from which on a number does not round to a finite one of a type. */
const limitOf = (dtype: Dtype) => 2 ** TYPES[dtype][1] * (1 - TYPES[dtype][0] / 2);

/**
 * Returns the largest expected error of an output, in units of its size, and a warning for each output whose error
 * exceeds the tolerance of its type or whose numbers are not finite. `roundings` is the root of the sum of squares of all
 * numbers that are rounded on the way to an output, `messageOf` the text of a warning.
 */
function judge(
  dtype: Dtype,
  finite: readonly boolean[],
  roundings: Float64Array,
  sizes: Float64Array,
  messageOf: (output: number, expectedError: number) => string,
) {
  const [roundoff] = TYPES[dtype];
  const warnings: FoldWarning[] = [];
  let largest = 0;
  for (let o = 0; o < sizes.length; o++) {
    if (!finite[o]) {
      largest = Number.POSITIVE_INFINITY;
      warnings.push({ code: "non-finite", channel: o, expectedError: largest, message: foldOverflows(o) });
      continue;
    }
    const error = ROUNDING * roundoff * (roundings[o] as number);
    if (error === 0) continue; // the size may be 0, too
    const expectedError = error / (sizes[o] as number);
    largest = Math.max(largest, expectedError);
    if (expectedError > toleranceOf(dtype))
      warnings.push({ code: "ill-conditioned", channel: o, expectedError, message: messageOf(o, expectedError) });
  }
  return { expectedError: largest, warnings };
}

/**
 * Folds a BatchNorm into the weight and the bias before it, in float64. Warnings are those for numbers that will be
 * rounded to `dtype`. `remedy` is the advice in the warning of an ill-conditioned channel.
 */
function foldBackward(
  bn: Source,
  weight: ArrayLike<number>,
  grid: WeightGrid,
  bias: ArrayLike<number>,
  dtype: Dtype,
  remedy: string,
): Unrounded {
  const { channels, mean, invStd, gamma, beta } = bn;
  const limit = limitOf(dtype);
  const { scale } = scaleAndShift(bn);
  const { scaled, allFinite } = scaleWeight(weight, grid, scale, limit);
  const shift = new Float64Array(channels);
  const roundings = new Float64Array(channels);
  const sizes = new Float64Array(channels);
  // the mean of the layer's output before its bias
  const center = (c: number) => (mean[c] as number) - (bias[c] as number);
  for (let c = 0; c < channels; c++) {
    const lever = center(c) * (scale[c] as number);
    const sum = (beta[c] as number) - lever;
    shift[c] = sum;
    if (!(Math.abs(sum) < limit)) allFinite[c] = false;
    // roundings of scale, of scale·x and of shift; scale·x is `lever` where x is the mean
    roundings[c] = Math.hypot(lever, lever, sum);
    sizes[c] = Math.abs(gamma[c] as number) + Math.abs(beta[c] as number);
  }
  const messageOf = (c: number, error: number) =>
    foldCancels(c, Math.abs(center(c)) * (invStd[c] as number), error, remedy);
  return { weight: scaled, bias: shift, ...judge(dtype, allFinite, roundings, sizes, messageOf) };
}

/**
 * Folds a BatchNorm into the weight and the bias behind it, in float64. `channelOf` returns the channel of an input.
 * Warnings, one per output at most, are those for numbers that will be rounded to `dtype`.
 */
function foldForward(
  bn: Source,
  weight: ArrayLike<number>,
  { groups, outputs, outputStride, inputs, inputStride }: Connections,
  channelOf: (input: number) => number,
  bias: ArrayLike<number>,
  dtype: Dtype,
): Unrounded {
  const { mean, invStd, gamma, beta } = bn;
  const limit = limitOf(dtype);
  const { scale, shift } = scaleAndShift(bn);
  const scaled = new Float64Array(weight.length);
  const sums = Float64Array.from(bias);
  const allFinite = new Array<boolean>(outputs).fill(true);
  // an output where every x is its mean, and Σ(weight·gamma)², the variance around it where inputs are independent
  const centers = Float64Array.from(bias);
  const variances = new Float64Array(outputs);
  // Σ weight′·mean up to an element, and the sum of squares of all numbers that are rounded
  const partial = new Float64Array(outputs);
  const squares = new Float64Array(outputs);
  // the largest |weight′·mean|, and its channel
  const levers = new Float64Array(outputs);
  const worst = new Uint32Array(outputs);
  for (let e = 0; e < weight.length; e++) {
    const o = Math.floor(e / outputStride) % outputs;
    const input = (Math.floor(e / inputStride) % inputs) + Math.floor((o * groups) / outputs) * inputs;
    const c = channelOf(input);
    const w = weight[e] as number;
    const product = w * (scale[c] as number);
    scaled[e] = product;
    if (!(Math.abs(product) < limit)) allFinite[o] = false;
    sums[o] = (sums[o] as number) + w * (shift[c] as number);
    centers[o] = (centers[o] as number) + w * (beta[c] as number);
    variances[o] = (variances[o] as number) + (w * (gamma[c] as number)) ** 2;
    const lever = product * (mean[c] as number);
    const before = partial[o] as number;
    partial[o] = before + lever;
    // roundings of weight′, of weight′·x and, unless it is the first term, of the sum; x is the mean
    squares[o] = (squares[o] as number) + 2 * lever ** 2 + (before === 0 ? 0 : (before + lever) ** 2);
    if (Math.abs(lever) > (levers[o] as number)) {
      levers[o] = Math.abs(lever);
      worst[o] = c;
    }
  }
  const finite = allFinite.map((all, o) => all && Math.abs(sums[o] as number) < limit);
  const roundings = squares.map((v, o) => Math.hypot(Math.sqrt(v), sums[o] as number));
  const sizes = centers.map((v, o) => Math.abs(v) + Math.sqrt(variances[o] as number));
  const messageOf = (o: number, error: number) => {
    const c = worst[o] as number;
    return sumCancels(o, c, Math.abs(mean[c] as number) * (invStd[c] as number), error, KEEP);
  };
  return { weight: scaled, bias: sums, ...judge(dtype, finite, roundings, sizes, messageOf) };
}

/** The advice where the BatchNorm apart is more accurate than what it is folded into. */
const KEEP = "keep the BatchNorm there, which subtracts the mean before it multiplies";

/**
 * Returns the scale and the shift, [C], with which y = scale·x + shift is the BatchNorm in mode "eval": scale =
 * gamma·invStd, shift = beta − mean·scale (Ioffe & Szegedy 2015, Alg. 2, line 11). They are Float64Arrays if the
 * running mean is one, else Float32Arrays. An activation is not in them, and has to be named by the option
 * `activation`.
 *
 * Throws BatchNormError "no-running-statistics", RangeError for an activation that is not named, and TypeError or
 * RangeError for vectors of a wrong type or length.
 */
export function toAffine<T extends FoldVector>(
  bn: FoldSource<T>,
  options: AffineOptions = {},
): Affine<T extends Float64Array ? Float64Array : Float32Array> {
  checkKeys("options", options, ["activation"]);
  const source = sourceOf(bn, options);
  const { channels, dtype } = source;
  const identity = new Float64Array(channels).fill(1);
  const grid = { groups: 1, outer: 1, outputs: channels, inner: 1 };
  const { weight, bias, warnings } = foldBackward(source, identity, grid, new Float64Array(channels), dtype, KEEP);
  const inType = (numbers: Float64Array) => (dtype === "float64" ? numbers : Float32Array.from(numbers));
  return { scale: inType(weight), shift: inType(bias), warnings } as ReturnType<typeof toAffine<T>>;
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

/**
 * Returns the outputs and inputs of a weight into which a BatchNorm is folded forward. Throws RangeError for transposed
 * convolutions, each of whose outputs has another number of terms, and so another sum of shifts.
 */
function connectionsOf(format: LinearFormat | ConvFormat, shape: readonly number[], groups: number): Connections {
  const axis = (i: number) => shape.at(i) as number;
  const product = (begin: number) => shape.slice(begin).reduce((a, b) => a * b, 1);
  switch (format) {
    case "OI":
    case "OIHW":
      return { groups, outputs: axis(0), outputStride: product(1), inputs: axis(1), inputStride: product(2) };
    case "IO":
    case "HWIO":
      return { groups, outputs: axis(-1), outputStride: 1, inputs: axis(-2), inputStride: axis(-1) };
    case "HWIM":
      return { groups: axis(-2), outputs: product(-2), outputStride: 1, inputs: 1, inputStride: product(-2) };
    default:
      throw wrongValue(
        "format",
        'no transposed convolution with direction "forward", since the shift does not reach all of its outputs alike',
        format,
      );
  }
}

function checkGroups(groups: number, format: string, inputs: number, channels: number): void {
  positiveInteger("groups", groups);
  if (format === "HWOI" && groups > 1) throw wrongValue("groups", '1 with format "HWOI"', groups);
  const [size, axis] = format === "IOHW" ? [inputs, "inputs"] : [channels, "channels"];
  if (size % groups !== 0) throw wrongValue("groups", `a divisor of ${size} ${axis}`, groups);
}

/** The formats of a convolution's weight that belong to the layouts "channels-first" and "channels-last". */
const DEFAULTS = ["OIHW", "HWIO"] as const;

type FoldOptions = {
  format?: LinearFormat | ConvFormat;
  groups?: number;
  direction?: FoldDirection;
  unpadded?: boolean;
} & AffineOptions;

/**
 * Folds a BatchNorm into a layer, as foldIntoLinear and foldIntoConv do, and returns the float64 numbers before they are
 * rounded. Warnings and the expected error are those for numbers that will be rounded to `dtype`, by default the weight's.
 */
export function foldUnrounded(
  name: "linear" | "conv",
  layer: FoldableLayer,
  bn: FoldSource,
  options: FoldOptions,
  dtype?: Dtype,
): Unrounded & { dtype: Dtype } {
  const isLinear = name === "linear";
  const keys = ["format", "activation", "direction"];
  checkKeys("options", options, isLinear ? keys : [...keys, "groups", "unpadded"]);
  checkKeys(name, layer, ["weight", "bias", "warnings"]); // a FoldedLayer, which has warnings, can be folded again
  const { weight, bias } = layer;
  if (ArrayBuffer.isView(weight)) throw wrongKind("weight", "{ data, shape }", weight);
  const numbers = numbersOf("weight", weight);
  const { data, shape } = weight;
  const own = typeOf(data, weight.dtype);
  if (weight.dtype !== undefined && namedDtype(weight.dtype) !== own)
    throw wrongValue("weight.dtype", own, weight.dtype);
  const [minRank, maxRank] = isLinear ? [2, 2] : [3, 5];
  if (shape.length < minRank || shape.length > maxRank)
    throw wrongValue("weight.shape", isLinear ? "rank 2" : "rank 3 to 5", shape);
  const source = sourceOf(bn, options);
  const { channels } = source;
  const isLast = bn.options.layout === "channels-last";
  const format = oneOf(
    "format",
    options.format,
    isLinear ? LINEAR : CONV,
    (isLinear ? LINEAR : DEFAULTS)[isLast ? 1 : 0],
  );
  const direction = oneOf("direction", options.direction, DIRECTIONS, "backward");
  const unpadded = flag("unpadded", options.unpadded, false);
  const { groups = 1 } = options;
  const target = dtype ?? own;
  if (direction === "backward") {
    checkGroups(groups, format, shape[0] as number, channels);
    const grid = gridOf(format, shape, groups);
    if (grid.groups * grid.outputs !== channels)
      throw wrongOutputs(channels, grid.groups * grid.outputs, shape, format, groups);
    const layerBias = numbersOf("bias", bias, channels, 0, own);
    const remedy = `the two layers apart lose about as much in ${target}; centre the inputs, or fold and run in a wider type`;
    return { ...foldBackward(source, numbers, grid, layerBias, target, remedy), dtype: own };
  }
  const connections = connectionsOf(format, shape, groups);
  checkGroups(groups, format, shape[0] as number, connections.outputs);
  const inputs = connections.groups * connections.inputs;
  const perChannel = inputs / channels;
  if (!Number.isInteger(perChannel) || (perChannel !== 1 && !isLinear))
    throw wrongInputs(channels, inputs, shape, format, groups);
  if (!isLinear && !unpadded && scaleAndShift(source).shift.some((v) => v !== 0))
    throw wrongValue(
      "unpadded",
      'true with direction "forward", since the shift would have to reach the zeros that a convolution pads with',
      options.unpadded,
    );
  const channelOf = (input: number) => (isLast ? input % channels : Math.floor(input / perChannel));
  const layerBias = numbersOf("bias", bias, connections.outputs, 0, own);
  return { ...foldForward(source, numbers, connections, channelOf, layerBias, target), dtype: own };
}

/** Folds a BatchNorm into a layer, and rounds weight and bias once to the weight's type. */
function foldInto<T extends Data>(
  name: "linear" | "conv",
  layer: FoldableLayer<T>,
  bn: FoldSource,
  options: FoldOptions,
): FoldedLayer<T> {
  const { weight, bias, warnings, dtype } = foldUnrounded(name, layer, bn, options);
  const { data, shape } = layer.weight;
  return {
    weight: { data: rounded(weight, dtype, data) as T, shape: [...shape], dtype },
    bias: rounded(bias, dtype, data) as T,
    warnings,
  };
}

/**
 * Folds a BatchNorm into the linear (dense) layer before it (PyTorch: torch.nn.utils.fusion.fuse_linear_bn_eval).
 * Returns weight′ = weight·scale and bias′ = beta − (mean − bias)·scale in new arrays of the weight's type, computed in
 * float64 and rounded once. The weight is [O, I] with format "OI" or [I, O] with "IO", which is the default for layout
 * "channels-last".
 *
 * With `direction: "forward"` the BatchNorm is before the layer: weight′ = weight·scale of the input, and bias′ = bias +
 * Σ weight·shift. The inputs are the C channels, or n·C flattened ones: input i has channel i mod C for layout
 * "channels-last", else ⌊i/n⌋.
 *
 * An activation is not folded, and has to be named by the option `activation`. Throws as toAffine does, and RangeError
 * for a wrong shape.
 */
export function foldIntoLinear<T extends Data>(
  linear: FoldableLayer<T>,
  bn: FoldSource,
  options: { format?: LinearFormat; direction?: FoldDirection } & AffineOptions = {},
): FoldedLayer<T> {
  return foldInto("linear", linear, bn, options);
}

/**
 * Folds a BatchNorm into the convolution before it, as foldIntoLinear does (PyTorch:
 * torch.nn.utils.fusion.fuse_conv_bn_eval, whose `transpose` is format "IOHW").
 *
 * The weight has rank 3, 4 or 5 and its axes in the order of `format`, by default "HWIO" for a BatchNorm with layout
 * "channels-last", and else "OIHW". The bias is [O]. `groups` matters where the weight has the inputs or outputs of one
 * group only: [I, C/groups, …] with "IOHW", and [O, C/groups, …] or […, C/groups, O] with `direction: "forward"`.
 *
 * With `direction: "forward"` the BatchNorm is before the convolution, which must not pad with zeros: they would have to
 * be −shift/scale instead. `unpadded: true` says that it does not, and is required unless every shift is 0. A transposed
 * convolution is refused, since the shift does not reach all of its outputs alike. Throws as foldIntoLinear does, and
 * RangeError for wrong groups.
 */
export function foldIntoConv<T extends Data>(
  conv: FoldableLayer<T>,
  bn: FoldSource,
  options: {
    format?: ConvFormat;
    groups?: number;
    direction?: FoldDirection;
    unpadded?: boolean;
  } & AffineOptions = {},
): FoldedLayer<T> {
  return foldInto("conv", conv, bn, options);
}

/**
 * Returns the gamma and beta, [C], with which a BatchNorm of these running statistics computes y = scale·x + shift in
 * mode "eval": gamma = scale·√(variance + epsilon), beta = shift + mean·scale. It is the inverse of toAffine. An absent
 * scale counts as ones, an absent shift as zeros; with both absent the BatchNorm computes y = x.
 *
 * Throws as toAffine does, and RangeError if variance + epsilon of a channel is not positive and finite.
 */
export function fromAffine<T extends FoldVector>(
  affine: { readonly scale?: FoldVector | null | undefined; readonly shift?: FoldVector | null | undefined },
  bn: FoldSource<T>,
  options: AffineOptions = {},
): Record<"gamma" | "beta", T extends Float64Array ? Float64Array : Float32Array> {
  checkKeys("affine", affine, ["scale", "shift", "warnings"]);
  checkKeys("options", options, ["activation"]);
  const { channels, mean, variance, epsilon, dtype } = statisticsOf(bn, options);
  const scale = numbersOf("scale", affine.scale, channels, 1);
  const shift = numbersOf("shift", affine.shift, channels, 0);
  const gamma: Vector = newVector(dtype, channels);
  const beta: Vector = newVector(dtype, channels);
  for (let c = 0; c < channels; c++) {
    const v = (variance[c] as number) + epsilon;
    if (!(v > 0 && v < Number.POSITIVE_INFINITY))
      throw wrongValue(`runningVariance + epsilon of channel ${c}`, "a positive finite number", v);
    gamma[c] = (scale[c] as number) * Math.sqrt(v);
    beta[c] = (shift[c] as number) + (mean[c] as number) * (scale[c] as number);
  }
  return { gamma, beta } as ReturnType<typeof fromAffine<T>>;
}
