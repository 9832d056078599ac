// Running statistics: the population's mean and variance as estimated from batches. The only file that knows what
// momentum means.
//
//   ema          running ← (1 − momentum)·running + momentum·batch
//   cumulative   the same with momentum = 1/k at the k-th batch: the plain mean over batches (Ioffe & Szegedy 2015, Alg. 2)
//   population   (count, mean, M2) of everything so far, merged with the batch's by Chan's formula: exact
//
// The vectors that users see are Float32Array. Beside them stand float64 originals, so that thousands of updates do not
// add up thousands of roundings; an original counts only while the user's value is still its rounding.

import { wrongKind, wrongLength } from "./errors.ts";
import { inWasmMemory } from "./memory.ts";
import type { ResolvedOptions } from "./options.ts";

/** Refuses what is no Float32Array of one value per channel, or lies where growing memory would empty it. */
export function checkVector(name: string, value: unknown, channels: number): Float32Array {
  if (!(value instanceof Float32Array)) throw wrongKind(name, "a Float32Array", value);
  if (inWasmMemory(value)) throw wrongKind(name, "a Float32Array in memory of JavaScript", value);
  if (value.length !== channels) throw wrongLength(name, [channels], value.length);
  return value;
}

/** A Float32Array that users own, and what it would be without rounding. */
class Estimate {
  values: Float32Array;
  readonly #originals: Float64Array;

  constructor(channels: number) {
    this.values = new Float32Array(channels);
    this.#originals = new Float64Array(channels);
  }

  at(channel: number): number {
    const seen = this.values[channel] as number;
    const original = this.#originals[channel] as number;
    return Math.fround(original) === seen ? original : seen;
  }

  /** Every value ← (1 − weight)·value + weight·factor·batch. */
  blend(batch: Float64Array, weight: number, factor: number): void {
    const { values } = this;
    const originals = this.#originals;
    for (let c = 0; c < values.length; c++) {
      const seen = values[c] as number;
      const original = originals[c] as number;
      const old = Math.fround(original) === seen ? original : seen;
      values[c] = originals[c] = (1 - weight) * old + weight * (batch[c] as number) * factor;
    }
  }

  set(channel: number, value: number): void {
    this.#originals[channel] = value;
    this.values[channel] = value;
  }
}

export class RunningStatistics {
  /** Number of batches in the statistics (PyTorch: num_batches_tracked). */
  batches = 0;
  /** Number of values per channel in the statistics; only the population estimator weighs by it. */
  values = 0;
  readonly #mean: Estimate;
  readonly #variance: Estimate;
  readonly #options: ResolvedOptions;
  readonly #channels: number;

  constructor(channels: number, options: ResolvedOptions) {
    this.#channels = channels;
    this.#options = options;
    this.#mean = new Estimate(channels);
    this.#variance = new Estimate(channels);
    this.reset();
  }

  get mean(): Float32Array {
    return this.#mean.values;
  }

  set mean(values: Float32Array) {
    this.#mean.values = checkVector("runningMean", values, this.#channels);
  }

  get variance(): Float32Array {
    return this.#variance.values;
  }

  set variance(values: Float32Array) {
    this.#variance.values = checkVector("runningVariance", values, this.#channels);
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

  /** Takes in a batch of `count` > 1 values per channel with its mean and its biased variance. */
  update(mean: Float64Array, variance: Float64Array, count: number): void {
    const { estimator, momentum, runningVariance } = this.#options;
    this.batches++;
    if (estimator === "population") {
      this.#merge(mean, variance, count);
      return;
    }
    const weight = estimator === "cumulative" ? 1 / this.batches : momentum;
    const correction = runningVariance === "unbiased" ? count / (count - 1) : 1;
    this.#mean.blend(mean, weight, 1);
    this.#variance.blend(variance, weight, correction);
  }

  #merge(mean: Float64Array, variance: Float64Array, count: number): void {
    const lost = this.#options.runningVariance === "unbiased" ? 1 : 0;
    const before = this.values;
    const total = before + count;
    for (let c = 0; c < this.#channels; c++) {
      const old = before ? this.#mean.at(c) : 0;
      const oldM2 = before ? this.#variance.at(c) * (before - lost) : 0;
      const delta = (mean[c] as number) - old;
      const m2 = oldM2 + (variance[c] as number) * count + ((delta * delta * before) / total) * count;
      this.#mean.set(c, old + (delta * count) / total);
      this.#variance.set(c, m2 / (total - lost));
    }
    this.values = total;
  }
}
