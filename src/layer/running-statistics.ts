// Running statistics: the population's mean and variance as estimated from batches. The only file that knows what
// momentum means.
//
//   ema          running ← (1 − momentum)·running + momentum·batch
//   debiased     ema with its initial value divided out: weight momentum/(1 − (1 − momentum)^k) at the k-th batch
//   cumulative   the same with momentum = 1/k at the k-th batch: the plain mean over batches (Ioffe & Szegedy 2015, Alg. 2)
//   population   (count, mean, M2) of everything so far, merged with the batch's by Chan's formula: exact
//
// The vectors that users see are Float32Array (Float64Array with dtype "float64"). Beside them stand float64 originals, so that thousands of updates do not
// add up thousands of roundings; an original counts only while the user's value is still its rounding.

import { checkVector } from "../memory/guards.ts";
import { mergedM2 } from "../ops/statistics.ts";
import { type Dtype, newVector, type Vector, type VectorOf } from "../tensor/dtype.ts";
import type { Estimator, ResolvedOptions } from "./options.ts";

/** A vector that users own, and what it would be without rounding. */
class Estimate<D extends Dtype> {
  values: VectorOf<D>;
  readonly #originals: Float64Array;

  constructor(channels: number, dtype: D) {
    this.values = newVector(dtype, channels);
    this.#originals = new Float64Array(channels);
  }

  at(channel: number): number {
    const values: Vector = this.values;
    const seen = values[channel] as number;
    const original = this.#originals[channel] as number;
    return Math.fround(original) === seen && values instanceof Float32Array ? original : seen;
  }

  /** Every value ← (1 − weight)·value + weight·factor·batch. */
  blend(batch: Float64Array, weight: number, factor: number): void {
    const values: Vector = this.values;
    const originals = this.#originals;
    const rounded = values instanceof Float32Array;
    for (let c = 0; c < values.length; c++) {
      const seen = values[c] as number;
      const original = originals[c] as number;
      const old = rounded && Math.fround(original) === seen ? original : seen;
      values[c] = originals[c] = (1 - weight) * old + weight * (batch[c] as number) * factor;
    }
  }

  set(channel: number, value: number): void {
    const values: Vector = this.values;
    this.#originals[channel] = value;
    values[channel] = value;
  }
}

/** The weight of the k-th batch. */
function weightOf(estimator: Estimator, momentum: number, k: number): number {
  if (estimator === "cumulative") return 1 / k;
  if (estimator !== "debiased") return momentum;
  // at momentum 0 the limit: all batches weigh the same
  if (momentum === 0) return 1 / k;
  // the first is all there is, exactly; 1 − (1 − momentum)^k loses digits where momentum is small
  return k === 1 ? 1 : momentum / -Math.expm1(k * Math.log1p(-momentum));
}

export class RunningStatistics<D extends Dtype> {
  /** Number of batches in the statistics (PyTorch: num_batches_tracked). */
  batches = 0;
  /** Number of values per channel in the statistics; only the population estimator weighs by it. */
  values = 0;
  readonly #mean: Estimate<D>;
  readonly #variance: Estimate<D>;
  readonly #options: ResolvedOptions<D>;
  readonly #channels: number;

  constructor(channels: number, options: ResolvedOptions<D>) {
    this.#channels = channels;
    this.#options = options;
    this.#mean = new Estimate(channels, options.dtype);
    this.#variance = new Estimate(channels, options.dtype);
    this.reset();
  }

  get mean(): VectorOf<D> {
    return this.#mean.values;
  }

  set mean(values: VectorOf<D>) {
    this.#mean.values = checkVector("runningMean", values, this.#channels, this.#options.dtype);
  }

  get variance(): VectorOf<D> {
    return this.#variance.values;
  }

  set variance(values: VectorOf<D>) {
    this.#variance.values = checkVector("runningVariance", values, this.#channels, this.#options.dtype);
  }

  /** Back to mean 0, variance 1, no batches. */
  reset(): void {
    for (let c = 0; c < this.#channels; c++) {
      this.#mean.set(c, 0);
      this.#variance.set(c, 1);
    }
    this.batches = 0;
    this.values = 0;
  }

  /** Statistics of the same channels from the beginning, by another estimator. */
  anew(estimator: Estimator): RunningStatistics<D> {
    return new RunningStatistics(this.#channels, { ...this.#options, estimator });
  }

  /** Becomes what others are, in the arrays that users may hold. */
  become(others: RunningStatistics<D>): void {
    for (let c = 0; c < this.#channels; c++) {
      this.#mean.set(c, others.#mean.at(c));
      this.#variance.set(c, others.#variance.at(c));
    }
    this.batches = others.batches;
    this.values = others.values;
  }

  /** Takes in a batch of `count` > 1 values per channel with its mean and its biased variance. */
  update(mean: Float64Array, variance: Float64Array, count: number): void {
    const { estimator, momentum, runningVariance } = this.#options;
    this.batches++;
    if (estimator === "population") {
      this.#merge(mean, variance, count);
      return;
    }
    const weight = weightOf(estimator, momentum, this.batches);
    const correction = runningVariance === "unbiased" ? count / (count - 1) : 1;
    this.#mean.blend(mean, weight, 1);
    this.#variance.blend(variance, weight, correction);
  }

  #merge(mean: Float64Array, variance: Float64Array, count: number): void {
    const correction = this.#options.runningVariance === "unbiased" ? 1 : 0;
    const before = this.values;
    const total = before + count;
    const share = count / total;
    for (let c = 0; c < this.#channels; c++) {
      const old = before ? this.#mean.at(c) : 0;
      const m2 = before ? this.#variance.at(c) * (before - correction) : 0;
      const delta = (mean[c] as number) - old;
      const merged = mergedM2(m2, (variance[c] as number) * count, delta, before, share);
      this.#mean.set(c, old + delta * share);
      this.#variance.set(c, merged / (total - correction));
    }
    this.values = total;
  }
}
