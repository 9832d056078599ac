// Running statistics: estimates of the population's mean and variance from batches. No other file applies momentum.
//
//   ema          running ← (1 − momentum)·running + momentum·batch
//   debiased     ema without its initial value: the k-th batch has the weight momentum/(1 − (1 − momentum)^k)
//   cumulative   ema with the weight 1/k for the k-th batch: the plain mean over batches (Ioffe & Szegedy 2015, Alg. 2)
//   population   (count, mean, M2) of all values so far, merged with those of the batch by Chan's formula
//
// Users see Float32Arrays, or Float64Arrays with dtype "float64". Each Float32Array has a float64 copy, so that the
// roundings of thousands of updates do not add up. An element of the copy is valid while the user's element is its
// rounding to float32. Otherwise the user has written to the array, and the user's element counts.

import { checkVector } from "../memory/guards.ts";
import { mergedM2 } from "../ops/statistics.ts";
import { type Dtype, newVector, type Vector, type VectorOf } from "../tensor/dtype.ts";
import type { Estimator, ResolvedOptions } from "./options.ts";

/** A vector that users own, with a float64 copy. */
class Estimate<D extends Dtype> {
  values: VectorOf<D>;
  readonly #unrounded: Float64Array;
  readonly #isFloat32: boolean;

  constructor(channels: number, dtype: D) {
    this.#isFloat32 = dtype !== "float64";
    this.values = newVector(dtype, channels);
    this.#unrounded = new Float64Array(channels);
  }

  /** Returns a channel's value without rounding, or the user's value if the user has written one. */
  get(channel: number): number {
    const values: Vector = this.values;
    const value = values[channel] as number;
    const unrounded = this.#unrounded[channel] as number;
    return Math.fround(unrounded) === value && this.#isFloat32 ? unrounded : value;
  }

  /** Replaces every value by (1 − weight)·value + weight·factor·batch. */
  blend(batch: Float64Array, weight: number, factor: number): void {
    const values: Vector = this.values;
    const unrounded = this.#unrounded;
    for (let c = 0; c < values.length; c++) {
      const value = values[c] as number;
      const copy = unrounded[c] as number;
      const old = this.#isFloat32 && Math.fround(copy) === value ? copy : value;
      // an old value without weight may be NaN, and must not count
      const kept = weight === 1 ? 0 : (1 - weight) * old;
      values[c] = unrounded[c] = kept + weight * (batch[c] as number) * factor;
    }
  }

  set(channel: number, value: number): void {
    const values: Vector = this.values;
    this.#unrounded[channel] = value;
    values[channel] = value;
  }
}

/** Returns the weight of the k-th batch, k ≥ 1, in the running statistics. */
function weightOf(estimator: Estimator, momentum: number, k: number): number {
  if (estimator === "cumulative") return 1 / k;
  if (estimator !== "debiased") return momentum;
  // the limit of the formula below for momentum → 0
  if (momentum === 0) return 1 / k;
  // the formula's 1 for k = 1 would be rounded; expm1 and log1p, because 1 − (1 − momentum)^k cancels for a small
  // momentum
  return k === 1 ? 1 : momentum / -Math.expm1(k * Math.log1p(-momentum));
}

/** The running mean and variance of a layer, and the rule by which batches update them. */
export class RunningStatistics<D extends Dtype> {
  /** Number of batches in the statistics (PyTorch: num_batches_tracked). */
  batches = 0;
  /** Number of values per channel in the statistics. Only the estimator "population" uses it. */
  values = 0;
  readonly #mean: Estimate<D>;
  readonly #variance: Estimate<D>;
  /** The layer's options, which the layer replaces when its epsilon or momentum changes. */
  options: ResolvedOptions<D>;
  /** The rule by which batches update the statistics. */
  readonly estimator: Estimator;
  readonly #channels: number;

  constructor(channels: number, options: ResolvedOptions<D>, estimator = options.estimator) {
    this.estimator = estimator;
    this.#channels = channels;
    this.options = options;
    this.#mean = new Estimate(channels, options.dtype);
    this.#variance = new Estimate(channels, options.dtype);
    this.reset();
  }

  get mean(): VectorOf<D> {
    return this.#mean.values;
  }

  set mean(values: VectorOf<D>) {
    this.#mean.values = checkVector("runningMean", values, this.#channels, this.options.dtype);
  }

  get variance(): VectorOf<D> {
    return this.#variance.values;
  }

  set variance(values: VectorOf<D>) {
    this.#variance.values = checkVector("runningVariance", values, this.#channels, this.options.dtype);
  }

  /** Sets the mean to 0, the variance to 1, and the numbers of batches and values to 0. */
  reset(): void {
    for (let c = 0; c < this.#channels; c++) {
      this.#mean.set(c, 0);
      this.#variance.set(c, 1);
    }
    this.batches = 0;
    this.values = 0;
  }

  /** Returns statistics of the same channels without any batch, with another estimator. */
  fresh(estimator: Estimator): RunningStatistics<D> {
    return new RunningStatistics(this.#channels, this.options, estimator);
  }

  /** Copies other statistics into the arrays of these, which users may hold. */
  copyFrom(source: RunningStatistics<D>): void {
    for (let c = 0; c < this.#channels; c++) {
      this.#mean.set(c, source.#mean.get(c));
      this.#variance.set(c, source.#variance.get(c));
    }
    this.batches = source.batches;
    this.values = source.values;
  }

  /**
   * Updates the statistics by a batch of `count` > 1 values per channel, its mean and its biased variance. The estimator
   * "population" takes one value, too, whose variance is 0.
   */
  update(mean: Float64Array, variance: Float64Array, count: number): void {
    const { estimator } = this;
    const { momentum, runningVariance } = this.options;
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

  /** Merges a batch into the statistics of all values (Chan, Golub & LeVeque 1979). */
  #merge(mean: Float64Array, variance: Float64Array, count: number): void {
    const correction = this.options.runningVariance === "unbiased" ? 1 : 0;
    const before = this.values;
    const total = before + count;
    const share = count / total;
    for (let c = 0; c < this.#channels; c++) {
      const old = before ? this.#mean.get(c) : 0;
      const m2 = before ? this.#variance.get(c) * (before - correction) : 0;
      const delta = (mean[c] as number) - old;
      const merged = mergedM2(m2, (variance[c] as number) * count, delta, before, share);
      this.#mean.set(c, old + delta * share);
      // one value has no unbiased variance, and its M2 is 0
      this.#variance.set(c, merged / (total - correction || 1));
    }
    this.values = total;
  }
}
