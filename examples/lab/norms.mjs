// What a network may have before its activations: batch norm, what stands in its place, and what is put behind it.

import { numpy as np, random } from "@jax-js/jax";
import {
  BatchNorm,
  batchNormStatistics,
  groupNormForward,
  layerNormForward,
  normBackward,
  weightNormForward,
} from "batchnorm-wasm";

/**
 * As much of a BatchNorm as a network needs, over [N, C].
 *
 * @typedef {object} Norm
 * @property {Float32Array | null} [gamma]
 * @property {Float32Array | null} beta
 * @property {(x: Plain, options: { mode: "train" | "batch" | "eval" }) => Plain} forward
 * @property {(dy: Plain) => { dx?: Plain, dGamma?: Vector, dBeta?: Vector }} backward
 * @property {(v: Plain) => Plain} [weight] the weight that the layer multiplies by, [inputs, C], of the one that it learns
 * @property {(dw: Plain) => { dx?: Plain, dGamma?: Vector }} [weightBackward] the gradients at v and gamma
 * @property {(z: Plain) => void} [initialize] chooses gamma and beta by a batch of the inputs that forward will get
 *
 * @typedef {{ data: Float32Array, shape: readonly number[] }} Plain
 * @typedef {Float32Array | Float64Array} Vector
 */

/** A run that diverges is a result, not an error. */
const DIVERGING = { onNonFinite: "allow" };

export const batchNorm =
  (options = {}) =>
  (channels) =>
    new BatchNorm(channels, { ...DIVERGING, ...options });

/** What stands in the place of batch norm in the network without it: a trained bias, y = x + beta. */
export const bias = (channels) => new Bias(channels);

class Bias {
  constructor(channels) {
    this.beta = new Float32Array(channels);
  }

  forward({ data, shape }) {
    const channels = this.beta.length;
    const y = new Float32Array(data.length);
    for (let row = 0; row < data.length; row += channels)
      for (let c = 0; c < channels; c++) y[row + c] = data[row + c] + this.beta[c];
    return { data: y, shape };
  }

  backward(dy) {
    const channels = this.beta.length;
    const dBeta = new Float32Array(channels);
    for (let row = 0; row < dy.data.length; row += channels)
      for (let c = 0; c < channels; c++) dBeta[c] += dy.data[row + c];
    return { dx: dy, dBeta };
  }
}

/**
 * Batch norm, and behind it noise whose mean and variance shift with every step, so that no distribution is stable
 * (Santurkar et al. 2018, section 2.1): y ← y·s + m, where for every unit and step μ ~ U(−0.5, 0.5) and
 * σ ~ U(1, 1.25), and for every sample m ~ U(μ − 0.1, μ + 0.1) and s ~ N(σ, 0.1). Evaluation has none.
 *
 * @param {number} seed
 */
export const noisyBatchNorm = (seed) => (channels, layer) => new NoisyBatchNorm(channels, seed * 1000 + layer);

const NOISE = { mean: 0.5, deviation: 1.25, spread: 0.1 };

class NoisyBatchNorm {
  #inner;
  #key;
  /** Of the latest step, which backward needs. */
  #noise;

  constructor(channels, seed) {
    this.#inner = new BatchNorm(channels, DIVERGING);
    this.#key = random.key(seed);
  }

  get gamma() {
    return this.#inner.gamma;
  }

  get beta() {
    return this.#inner.beta;
  }

  forward(x, { mode }) {
    const y = this.#inner.forward(x, { mode });
    if (mode === "eval") return y;
    // "batch" looks about at one step, whose noise stays what it is
    if (mode === "train" || !this.#noise) this.#noise = this.#draw(x.shape);
    const { scale, shift } = this.#noise;
    return { data: y.data.map((value, i) => value * scale[i] + shift[i]), shape: y.shape };
  }

  backward(dy) {
    return this.#inner.backward({ data: dy.data.map((value, i) => value * this.#noise.scale[i]), shape: dy.shape });
  }

  #draw([samples, channels]) {
    const keys = random.split(this.#key, 5);
    this.#key = keys.ref.slice(4);
    const uniform = (i, shape, low, high) =>
      random
        .uniform(keys.ref.slice(i), shape)
        .mul(high - low)
        .add(low);
    const mean = uniform(0, [channels], -NOISE.mean, NOISE.mean);
    const deviation = uniform(1, [channels], 1, NOISE.deviation);
    const shift = np.add(mean, uniform(2, [samples, channels], -NOISE.spread, NOISE.spread)).dataSync();
    const scale = np.add(deviation, random.normal(keys.slice(3), [samples, channels]).mul(NOISE.spread)).dataSync();
    return { scale, shift };
  }
}

/** Layer norm: every sample is normalised over all units of the layer. */
export const layerNorm = (channels) =>
  new SampleNorm(channels, (x, parameters) => layerNormForward(x, channels, parameters));

/** Group norm: every sample is normalised over each of `groups` of neighbouring units. */
export const groupNorm = (groups) => (channels) =>
  new SampleNorm(channels, (x, parameters) => groupNormForward(x, groups, parameters));

/** A norm of each sample by itself, which is the same in training and in evaluation. */
class SampleNorm {
  #compute;
  /** Of the latest forward, which backward needs. */
  #saved;

  constructor(channels, compute) {
    this.gamma = new Float32Array(channels).fill(1);
    this.beta = new Float32Array(channels);
    this.#compute = compute;
  }

  forward(x) {
    const { gamma, beta } = this;
    const { y, saved } = this.#compute(x, { gamma, beta });
    this.#saved = saved;
    return y;
  }

  backward(dy) {
    return normBackward(dy, this.#saved);
  }
}

/**
 * Weight norm (Salimans & Kingma 2016): the layer multiplies by w = g·v/‖v‖ instead of v, and adds a bias. gamma is g, and
 * starts as ‖v‖, so that the network starts as the one without weight norm does.
 */
export const weightNorm = (_channels, _layer, v) => new WeightNorm(v);

/** The network's weights are [inputs, outputs]. */
const FORMAT = { format: "IO" };
/** Batch norm's default. A unit that is constant over the batch gets a finite gamma by it. */
const EPSILON = 1e-5;

class WeightNorm extends Bias {
  /** Of the latest w, which weightBackward needs. */
  #saved;

  constructor(v) {
    const channels = v.shape[1];
    super(channels);
    this.gamma = Float32Array.from(weightNormForward(v, new Float32Array(channels), FORMAT).norm);
  }

  weight(v) {
    const { y, saved } = weightNormForward(v, this.gamma, FORMAT);
    this.#saved = saved;
    return y;
  }

  weightBackward(dw) {
    return normBackward(dw, this.#saved);
  }

  /** Gives every unit mean 0 and variance 1 over the batch (section 3 of the paper). */
  initialize(z) {
    const { mean, variance } = batchNormStatistics(z);
    for (let c = 0; c < this.beta.length; c++) {
      const scale = 1 / Math.sqrt(variance[c] + EPSILON);
      this.gamma[c] *= scale;
      this.beta[c] = -mean[c] * scale;
    }
  }
}
