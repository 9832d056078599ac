// Comparison of a layer with a batch of its inputs: how far the running statistics are from the batch's, which channels
// pass no gradient, which gammas are near zero, and by how much the layer scales gradients. The layer does not change.
// docs/guides/diagnosing.md explains the definitions.

import { LOST, noStatistics, oneValueInDiagnosis, wrongKind, wrongValue } from "../common/errors.ts";
import { Strict } from "../common/strict.ts";
import { arrayKind, checkKeys, checkObject } from "../common/validate.ts";
import { checkOperand } from "../memory/guards.ts";
import { type AnyTensor, Tensor, type TensorLike } from "../memory/tensor.ts";
import { type ActivationName, activationOption } from "../ops/activation.ts";
import { batchNormGradientSums } from "../ops/backward.ts";
import { batchNormForward, batchNormStatistics } from "../ops/batch-norm.ts";
import { checkResidual, type ForwardOptions, type Parameters } from "../ops/forward.ts";
import { invStdOf } from "../ops/primitives.ts";
import type { BatchStatistics } from "../ops/statistics.ts";
import { type Dtype, newData, type Vector } from "../tensor/dtype.ts";
import { geometryOf } from "../tensor/shape.ts";
import type { BatchNorm } from "./batch-norm.ts";

/**
 * Mean drift that counts as large, in running standard deviations. It is a chosen value, not a measured one: y at
 * inference is then off by half of |gamma|.
 */
export const MEAN_DRIFT = 0.5;
/**
 * Ratio of variances that counts as large, either way. It is a chosen value: the scale of y is then off by a factor √2.
 */
export const VARIANCE_RATIO = 2;
/**
 * Standard errors beyond which a drift is not noise. With 4, and batches of 2 to 16 normal values, 2 of 10,000 healthy
 * channels are listed (docs/guides/diagnosing.md).
 */
const SIGNIFICANT = 4;
/** Standard deviation of x̂ below which a channel counts as constant: its variance is below epsilon/99. */
export const CONSTANT = 0.1;
/**
 * Fraction of the median |gamma| up to which a gamma counts as near zero. It is a chosen value: channels with a small
 * |gamma| are candidates for pruning (Liu et al. 2017).
 */
export const WEAK = 0.01;

/** Options of diagnose. */
export interface DiagnoseOptions<T extends AnyTensor = AnyTensor> {
  /** The activation after the layer. Default: the activation in the layer's options. */
  activation?: ActivationName;
  /** A tensor that is added before the activation, of x's shape and type. */
  residual?: T;
}

/** The result of `diagnose`. Arrays are float64, [C], and lists have channels in ascending order. */
export class Diagnosis {
  /** The number of channels, C. */
  readonly channels: number;
  /** Values per channel in the batch. */
  readonly count: number;
  /** (batch mean − running mean)/√(running variance + epsilon), [C]. Times gamma, it is the error of y at inference. */
  readonly meanDrift: Float64Array;
  /** meanDrift in standard errors of a batch mean, if the running statistics were correct, [C]. */
  readonly meanDriftErrors: Float64Array;
  /** (batch variance + epsilon)/(running variance + epsilon), [C]. Its root is the factor by which y's scale is off. */
  readonly varianceRatio: Float64Array;
  /** Distance of varianceRatio from 1 in standard errors, if the running statistics were correct, [C]. */
  readonly varianceRatioErrors: Float64Array;
  /** Standard deviation of x̂, √(variance/(variance + epsilon)), [C]: near 1 if variance ≫ epsilon. */
  readonly xHatStd: Float64Array;
  /** Fraction of the batch's values at which the activation's derivative is not 0, [C]. */
  readonly active: Float64Array;
  /** The layer's gamma, or ones for a layer without gamma, [C]. */
  readonly gamma: Float64Array;
  /** gamma·invStd by the batch's statistics, [C]: the factor between dy and dx. */
  readonly scale: Float64Array;
  /** The Euclidean norm ‖gamma·invStd‖ of `scale`. */
  readonly scaleNorm: number;
  /** Channels whose running statistics differ from the batch's, by a large and significant amount. */
  readonly drifted: readonly number[];
  /** Channels that carry no information: their input is constant, or the activation passes none of their gradient. */
  readonly dead: readonly number[];
  /** Channels whose |gamma| is at most a hundredth of the median |gamma|. */
  readonly weak: readonly number[];
  /** Findings of every channel, in words for the table. */
  readonly #notes: readonly (readonly string[])[];

  private constructor(measured: Measured) {
    const { batch, gamma, active, epsilon } = measured;
    const { length } = batch.mean;
    const invStd = new Float64Array(length);
    invStdOf(batch.variance, epsilon, invStd);
    const drift = driftOf(measured);
    this.channels = length;
    this.count = batch.count;
    this.meanDrift = drift.mean;
    this.meanDriftErrors = drift.meanErrors;
    this.varianceRatio = drift.ratio;
    this.varianceRatioErrors = drift.ratioErrors;
    this.xHatStd = batch.variance.map((v, c) => Math.sqrt(v) * (invStd[c] as number));
    this.active = active;
    this.gamma = gamma ? Float64Array.from(gamma) : new Float64Array(length).fill(1);
    this.scale = this.gamma.map((g, c) => g * (invStd[c] as number));
    this.scaleNorm = Math.sqrt(this.scale.reduce((sum, v) => sum + v * v, 0));
    const weakest = gamma ? WEAK * median(this.gamma.map(Math.abs)) : -1;
    const findings = Array.from({ length }, (_, c) => this.#findingsOf(c, weakest));
    const channelsWith = (...names: (keyof Findings)[]) =>
      findings.flatMap((found, c) => (names.some((name) => found[name]) ? [c] : []));
    this.drifted = channelsWith("mean drifted", "variance drifted");
    this.dead = channelsWith("constant", "never active");
    this.weak = channelsWith("gamma near 0");
    this.#notes = findings.map((found) => Object.entries(found).flatMap(([name, holds]) => (holds ? [name] : [])));
  }

  #findingsOf(c: number, weakest: number): Findings {
    const [mean, variance] = this.#relativeDrift(c);
    const isSignificant = (errors: Float64Array) => !(Math.abs(errors[c] as number) <= SIGNIFICANT);
    return {
      constant: (this.xHatStd[c] as number) < CONSTANT,
      "never active": this.active[c] === 0,
      // negated comparisons, so that a drift of NaN counts as large
      "mean drifted": !(mean <= 1) && isSignificant(this.meanDriftErrors),
      "variance drifted": !(variance <= 1) && isSignificant(this.varianceRatioErrors),
      "gamma near 0": Math.abs(this.gamma[c] as number) <= weakest,
    };
  }

  /** Returns a channel's drift of mean and variance relative to the thresholds: a drift above 1 is large. */
  #relativeDrift(c: number): [mean: number, variance: number] {
    const mean = Math.abs(this.meanDrift[c] as number) / MEAN_DRIFT;
    const variance = Math.abs(Math.log(this.varianceRatio[c] as number) / Math.log(VARIANCE_RATIO));
    return [mean, variance];
  }

  /** @internal */
  static from(measured: Measured): Diagnosis {
    return new Diagnosis(measured);
  }

  /** Returns a summary and at most `rows` channels, those with findings first. Throws RangeError for wrong `rows`. */
  table(rows = 10): string {
    if (!(Number.isInteger(rows) && rows >= 0)) throw wrongValue("rows", "a non-negative integer", rows);
    const dead = new Set(this.dead);
    const rank = (c: number) => (dead.has(c) ? 2 : (this.#notes[c] as string[]).length ? 1 : 0);
    const distance = (c: number) => {
      const drift = Math.max(...this.#relativeDrift(c));
      return Number.isNaN(drift) ? Infinity : drift;
    };
    const order = Array.from({ length: this.channels }, (_, c) => c);
    order.sort((a, b) => rank(b) - rank(a) || distance(b) - distance(a));
    const columns: [string, (c: number) => string][] = [
      ["channel", String],
      ["mean drift", (c) => short(this.meanDrift[c])],
      ["in errors", (c) => short(this.meanDriftErrors[c])],
      ["variance ratio", (c) => short(this.varianceRatio[c])],
      ["in errors", (c) => short(this.varianceRatioErrors[c])],
      ["std of x̂", (c) => short(this.xHatStd[c])],
      ["active", (c) => short(this.active[c])],
      ["gamma", (c) => short(this.gamma[c])],
      ["gamma·invStd", (c) => short(this.scale[c])],
    ];
    const shown = order.slice(0, rows);
    const lines = [columns.map(([title]) => title), ...shown.map((c) => columns.map(([, cell]) => cell(c)))];
    const widths = columns.map((_, i) => Math.max(...lines.map((line) => [...(line[i] as string)].length)));
    const text = lines.map((line, i) => {
      const cells = line.map((cell, k) => cell.padStart(widths[k] as number));
      return [...cells, (this.#notes[shown[i - 1] as number] ?? []).join(", ")].join("  ").trimEnd();
    });
    const left = this.channels - shown.length;
    return [this.#summary(), ...text, ...(left ? [`… and ${left} more`] : [])].join("\n");
  }

  /** Returns the same text as `table()`. */
  toString(): string {
    return this.table();
  }

  #summary(): string {
    const { channels, count, drifted, dead, weak, scaleNorm } = this;
    const lists = `${drifted.length} drifted, ${dead.length} dead, ${weak.length} with gamma near 0`;
    return `${channels} channels of ${count} values: ${lists}; ‖gamma·invStd‖ = ${short(scaleNorm)}`;
  }
}

/** Which findings hold for a channel, under their names in the table. */
interface Findings {
  readonly constant: boolean;
  readonly "never active": boolean;
  readonly "mean drifted": boolean;
  readonly "variance drifted": boolean;
  readonly "gamma near 0": boolean;
}

/** Measurements from which a Diagnosis is computed. */
interface Measured {
  readonly batch: BatchStatistics;
  readonly running: { readonly mean: Vector; readonly variance: Vector };
  readonly gamma: Vector | null;
  readonly active: Float64Array;
  readonly epsilon: number;
  /** Whether the running variance is unbiased. */
  readonly unbiased: boolean;
}

/** Compares the statistics of the batch with the running ones, for every channel. */
function driftOf({ batch, running, epsilon, unbiased }: Measured) {
  const { count, mean, variance } = batch;
  const vector = () => new Float64Array(mean.length);
  const drift = { mean: vector(), meanErrors: vector(), ratio: vector(), ratioErrors: vector() };
  // The cube root of a ratio of variances is nearly normal for n = count − 1 degrees of freedom, with the mean 1 −
  // 2/(9n) and the variance 2/(9n) (Wilson & Hilferty 1931).
  const cubeRootVariance = 2 / (9 * (count - 1));
  for (let c = 0; c < mean.length; c++) {
    const at = (v: Vector) => v[c] as number;
    const difference = at(mean) - at(running.mean);
    drift.mean[c] = quotient(difference, Math.sqrt(at(running.variance) + epsilon));
    drift.meanErrors[c] = at(drift.mean) * Math.sqrt(count);
    const batchVariance = unbiased ? (at(variance) * count) / (count - 1) : at(variance);
    const [now, before] = [batchVariance + epsilon, at(running.variance) + epsilon];
    drift.ratio[c] = now === before ? 1 : now / before;
    drift.ratioErrors[c] = (Math.cbrt(at(drift.ratio)) - 1 + cubeRootVariance) / Math.sqrt(cubeRootVariance);
  }
  return drift;
}

/** Returns a/b, and 0 for 0/0. */
const quotient = (a: number, b: number) => (a === 0 ? 0 : a / b);

const short = (value: number | undefined) => String(Number((value as number).toPrecision(3)));

/** Returns the median, and sorts `values` in place. */
export function median(values: Float64Array): number {
  values.sort();
  return ((values[(values.length - 1) >> 1] as number) + (values[values.length >> 1] as number)) / 2;
}

/** The number 1 as an element: its bits for the 16-bit types. */
const ONE = { float16: 0x3c00, bfloat16: 0x3f80, float32: 1, float64: 1 } as const;

/**
 * Returns, for every channel, the fraction of values at which the activation's derivative is not 0. The activation must
 * be one whose derivative is 0 or 1. For a dy of ones dBeta is then the number of these values.
 */
function activeFraction(x: AnyTensor, parameters: Parameters, options: ForwardOptions, dtype: Dtype): Float64Array {
  const { y, saved, count } = batchNormForward(x, parameters, options);
  if (y instanceof Tensor) y.dispose();
  const data = newData(dtype, x.data.length, x.data);
  data.fill(arrayKind(data) === "Uint16Array" ? ONE[dtype] : 1);
  const { dBeta } = batchNormGradientSums({ data, shape: x.shape, dtype }, saved);
  return dBeta.map((sum) => sum / count);
}

/**
 * Compares a layer with a batch x of its inputs: how far the running statistics have drifted, which channels are dead
 * or have a gamma near zero, and by how much the layer scales gradients. The layer and its pending backward do not
 * change.
 *
 * Throws TypeError or RangeError for wrong arguments, and BatchNormError for a layer without running statistics and for
 * a batch with fewer than two values per channel.
 */
export function diagnose<D extends Dtype, T extends TensorLike<D>>(
  bn: BatchNorm<D, boolean, boolean>,
  x: T,
  options: DiagnoseOptions<T> = {},
): Diagnosis {
  checkKeys("diagnose options", options, ["activation", "residual"]);
  checkObject("bn", bn, `a BatchNorm (${LOST})`);
  Strict.checkItself("bn", bn);
  if (typeof bn.options !== "object") throw wrongKind("bn", `a BatchNorm (${LOST})`, bn);
  const { layout, epsilon, dtype, runningVariance } = bn.options;
  const { runningMean: mean, runningVariance: variance, gamma, beta, channels } = bn;
  if (!mean || !variance) throw noStatistics();
  checkOperand("x", x, dtype);
  const { count } = geometryOf("x", x.shape, layout, channels);
  if (count < 2) throw oneValueInDiagnosis(x.shape);
  const { activation = bn.options.activation } = options;
  const resolved = activationOption(activation, undefined); // no slope of leaky ReLU stops a gradient
  const { residual } = options;
  checkResidual(residual, x.shape, dtype);

  const hasZeroGradients = resolved.code !== 0 && resolved.slope === 0;
  const forward = { layout, epsilon, activation: resolved.name, ...(residual === undefined ? {} : { residual }) };
  const active = hasZeroGradients
    ? activeFraction(x, { gamma, beta }, forward, dtype)
    : new Float64Array(channels).fill(1);
  const batch = batchNormStatistics(x, { layout });
  const unbiased = runningVariance === "unbiased";
  return Diagnosis.from({ batch, running: { mean, variance }, gamma, active, epsilon, unbiased });
}
