// What a batch says about a layer: how far the running statistics are from the batch's, which channels no gradient
// passes, which gamma has given up, and by how much the layer scales gradients. Nothing of the layer changes.
// docs/population.md has the definitions with their reasons.

import { absentParameter, oneValuePerChannel, wrongValue } from "../common/errors.ts";
import { checkKeys } from "../common/validate.ts";
import { checkOperand } from "../memory/guards.ts";
import { type AnyTensor, Tensor, type TensorLike } from "../memory/tensor.ts";
import { type ActivationName, activationOption } from "../ops/activation.ts";
import { batchNormGradientSums } from "../ops/backward.ts";
import { batchNormForward, batchNormStatistics } from "../ops/batch-norm.ts";
import type { ForwardOptions, Parameters } from "../ops/forward.ts";
import { invStdOf } from "../ops/primitives.ts";
import type { BatchStatistics } from "../ops/statistics.ts";
import { type Dtype, newData, type Vector } from "../tensor/dtype.ts";
import { geometryOf } from "../tensor/shape.ts";
import type { BatchNorm } from "./batch-norm.ts";

/** From where on a drift is large, in running standard deviations and as a ratio of variances. */
const MEAN_DRIFT = 0.5;
const VARIANCE_RATIO = 2;
/** So many standard errors are no accident. */
const SIGNIFICANT = 4;
/** x̂ with a smaller standard deviation is that of a constant channel. */
const CONSTANT = 0.1;
/** Shares of the median |gamma| that are near zero. */
const WEAK = 0.01;

export interface DiagnoseOptions<T extends AnyTensor = AnyTensor> {
  /** The activation behind the layer, where it is not the layer's own. */
  activation?: ActivationName;
  /** What is added before the activation; of x's shape and type. */
  residual?: T;
}

/** What `diagnose` finds. Arrays are per channel, float64, [C]; lists are of channels, ascending. */
export class Diagnosis {
  readonly channels: number;
  /** Values per channel in the batch. */
  readonly count: number;
  /** (batch mean − running mean) / running standard deviation, with epsilon. */
  readonly meanDrift: Float64Array;
  /** The same in standard errors of a batch mean, were the running statistics right. */
  readonly meanDriftErrors: Float64Array;
  /** (batch variance + epsilon) / (running variance + epsilon). */
  readonly varianceRatio: Float64Array;
  /** How far the ratio is from 1, in standard errors in the same sense. */
  readonly varianceRatioErrors: Float64Array;
  /** Standard deviation of x̂: 1, less epsilon's share. */
  readonly spread: Float64Array;
  /** Fraction of the batch's values whose gradient passes the activation. */
  readonly active: Float64Array;
  /** gamma, or ones. */
  readonly gamma: Float64Array;
  /** gamma·invStd by the batch's statistics: the factor between dy and dx. */
  readonly scale: Float64Array;
  /** ‖gamma·invStd‖ */
  readonly scaleNorm: number;
  /** Channels whose running statistics are not the batch's. */
  readonly drifted: readonly number[];
  /** Channels that pass nothing on: the input is constant, or no gradient passes the activation. */
  readonly dead: readonly number[];
  /** Channels whose |gamma| is near zero beside the median. */
  readonly weak: readonly number[];
  /** What is wrong with every channel, and how far it is from what the batch says. */
  readonly #notes: readonly (readonly string[])[];
  readonly #distance: Float64Array;

  /** For this library's own use. */
  constructor({ batch, running, gamma, active, epsilon, unbiased }: Measured) {
    const { count, mean } = batch;
    const { length } = mean;
    const vector = () => new Float64Array(length);
    const invStd = vector();
    invStdOf(batch.variance, epsilon, invStd);
    const [drift, errors, ratios, ratioErrors] = [vector(), vector(), vector(), vector()];
    const [spread, scale, distance] = [vector(), vector(), vector()];
    const gammas = gamma ? Float64Array.from(gamma) : vector().fill(1);
    const weakest = gamma ? WEAK * median(gammas.map(Math.abs)) : -1;
    // the cube root of a ratio of variances is nearly normal (Wilson & Hilferty 1931)
    const lost = 2 / (9 * (count - 1));
    const notes: string[][] = [];
    const [drifted, dead, weak] = [[], [], []] as [number[], number[], number[]];
    for (let c = 0; c < length; c++) {
      const at = (v: Vector) => v[c] as number;
      const sample = (at(batch.variance) * count) / (count - 1);
      const difference = at(mean) - at(running.mean);
      drift[c] = quotient(difference, Math.sqrt(at(running.variance) + epsilon));
      errors[c] = at(drift) * Math.sqrt(count);
      const [now, before] = [(unbiased ? sample : at(batch.variance)) + epsilon, at(running.variance) + epsilon];
      ratios[c] = now === before ? 1 : now / before;
      ratioErrors[c] = (Math.cbrt(at(ratios)) - 1 + lost) / Math.sqrt(lost);
      spread[c] = Math.sqrt(at(batch.variance)) * at(invStd);
      scale[c] = at(gammas) * at(invStd);
      const shift = Math.abs(at(drift)) / MEAN_DRIFT;
      const stretch = Math.abs(Math.log(at(ratios)) / Math.log(VARIANCE_RATIO));
      distance[c] = Math.max(shift, stretch);
      // NaN is no small drift
      const moved = !(shift <= 1) && !(Math.abs(at(errors)) <= SIGNIFICANT);
      const stretched = !(stretch <= 1) && !(Math.abs(at(ratioErrors)) <= SIGNIFICANT);
      const [constant, silent] = [at(spread) < CONSTANT, at(active) === 0];
      const small = Math.abs(at(gammas)) <= weakest;
      if (moved || stretched) drifted.push(c);
      if (constant || silent) dead.push(c);
      if (small) weak.push(c);
      const words = { constant, "never active": silent, "mean drifted": moved, "variance drifted": stretched };
      const all = Object.entries({ ...words, "gamma near 0": small });
      notes.push(all.flatMap(([word, holds]) => (holds ? [word] : [])));
    }
    this.channels = length;
    this.count = count;
    this.meanDrift = drift;
    this.meanDriftErrors = errors;
    this.varianceRatio = ratios;
    this.varianceRatioErrors = ratioErrors;
    this.spread = spread;
    this.active = active;
    this.gamma = gammas;
    this.scale = scale;
    this.scaleNorm = Math.sqrt(scale.reduce((sum, v) => sum + v * v, 0));
    this.drifted = drifted;
    this.dead = dead;
    this.weak = weak;
    this.#notes = notes;
    this.#distance = distance;
  }

  /** A summary and a table of the worst channels, at most `rows` of them: first the dead, then what is listed. */
  table(rows = 10): string {
    if (!(Number.isInteger(rows) && rows >= 0)) throw wrongValue("rows", "a non-negative integer", rows);
    const dead = new Set(this.dead);
    const rank = (c: number) => (dead.has(c) ? 2 : (this.#notes[c] as string[]).length ? 1 : 0);
    const distance = (c: number) => (Number.isNaN(this.#distance[c]) ? Infinity : (this.#distance[c] as number));
    const order = Array.from({ length: this.channels }, (_, c) => c);
    order.sort((a, b) => rank(b) - rank(a) || distance(b) - distance(a) || a - b);
    const columns: [string, (c: number) => string][] = [
      ["channel", String],
      ["mean drift", (c) => short(this.meanDrift[c])],
      ["in errors", (c) => short(this.meanDriftErrors[c])],
      ["variance ratio", (c) => short(this.varianceRatio[c])],
      ["in errors", (c) => short(this.varianceRatioErrors[c])],
      ["std of x̂", (c) => short(this.spread[c])],
      ["active", (c) => short(this.active[c])],
      ["gamma", (c) => short(this.gamma[c])],
      ["gamma·invStd", (c) => short(this.scale[c])],
    ];
    const shown = order.slice(0, rows);
    const lines = [columns.map(([title]) => title), ...shown.map((c) => columns.map(([, of]) => of(c)))];
    const widths = columns.map((_, i) => Math.max(...lines.map((line) => [...(line[i] as string)].length)));
    const text = lines.map((line, i) => {
      const cells = line.map((cell, k) => cell.padStart(widths[k] as number));
      return [...cells, (this.#notes[shown[i - 1] as number] ?? []).join(", ")].join("  ").trimEnd();
    });
    const left = this.channels - shown.length;
    return [this.#summary(), ...text, ...(left ? [`… and ${left} more`] : [])].join("\n");
  }

  toString(): string {
    return this.table();
  }

  #summary(): string {
    const { channels, count, drifted, dead, weak, scaleNorm } = this;
    const lists = `${drifted.length} drifted, ${dead.length} dead, ${weak.length} with gamma near 0`;
    return `${channels} channels of ${count} values: ${lists}; ‖gamma·invStd‖ = ${short(scaleNorm)}`;
  }
}

/** What a diagnosis is made of. */
interface Measured {
  readonly batch: BatchStatistics;
  readonly running: { readonly mean: Vector; readonly variance: Vector };
  readonly gamma: Vector | null;
  readonly active: Float64Array;
  readonly epsilon: number;
  /** Whether the running variance is. */
  readonly unbiased: boolean;
}

/** a/b, and 0 for 0/0. */
const quotient = (a: number, b: number) => (a === 0 ? 0 : a / b);

const short = (value: number | undefined) => String(Number((value as number).toPrecision(3)));

function median(values: Float64Array): number {
  values.sort();
  return ((values[(values.length - 1) >> 1] as number) + (values[values.length >> 1] as number)) / 2;
}

/** 1 as an element, where elements are bits. */
const ONE = { float16: 0x3c00, bfloat16: 0x3f80, float32: 1, float64: 1 } as const;

/** The fraction of every channel's values whose gradient passes an activation with slopes 0 and 1: dBeta of ones. */
function activeFraction(x: AnyTensor, parameters: Parameters, options: ForwardOptions, dtype: Dtype): Float64Array {
  const { y, saved } = batchNormForward(x, parameters, options);
  if (y instanceof Tensor) y.dispose();
  const data = newData(dtype, saved.geometry.length, x.data);
  data.fill(data instanceof Uint16Array ? ONE[dtype] : 1);
  const { dBeta } = batchNormGradientSums({ data, shape: x.shape, dtype }, saved);
  return dBeta.map((sum) => sum / saved.geometry.count);
}

/**
 * Compares a layer with a batch of its inputs, x: how far its running statistics drifted, which channels are dead or have
 * a gamma near zero, and how the layer scales gradients. The result is data; its `table()` is text. Nothing of the layer
 * changes, what backward needs included.
 *
 * Throws TypeError and RangeError for wrong arguments, TypeError for a layer without running statistics, BatchNormError
 * for less than two values per channel.
 */
export function diagnose<D extends Dtype, T extends TensorLike<D>>(
  bn: BatchNorm<D>,
  x: T,
  options: DiagnoseOptions<T> = {},
): Diagnosis {
  checkKeys("diagnose options", options, ["activation", "residual"]);
  const { layout, epsilon, dtype, runningVariance } = bn.options;
  const { runningMean: mean, runningVariance: variance, gamma, beta, channels } = bn;
  if (!mean || !variance) throw absentParameter("running statistics", "trackRunningStats: false");
  checkOperand("x", x, dtype);
  const { count } = geometryOf("x", x.shape, layout, channels);
  if (count < 2) throw oneValuePerChannel("train", x.shape);
  const { activation = bn.options.activation } = options;
  const given = activationOption(
    activation,
    activation === bn.options.activation ? bn.options.negativeSlope : undefined,
  );
  const { residual } = options;

  const stops = given.code !== 0 && given.slope === 0;
  const forward = { layout, epsilon, activation: given.name, ...(residual ? { residual } : {}) };
  const active = stops ? activeFraction(x, { gamma, beta }, forward, dtype) : new Float64Array(channels).fill(1);
  const batch = batchNormStatistics(x, { layout });
  const unbiased = runningVariance === "unbiased";
  return new Diagnosis({ batch, running: { mean, variance }, gamma, active, epsilon, unbiased });
}
