// One run of the experiment: trains a network and measures it on the way.

import { random } from "@jax-js/jax";
import { CLASSES, PIXELS } from "./digits.mjs";
import { Network } from "./network.mjs";

const BATCH = 60;
const SIZES = [PIXELS, 100, 100, 100, CLASSES];

/** Standard deviation of the initial weights: the paper's "small random Gaussian values". */
const DEVIATION = 0.03;

/** Measurements over a run: enough for a smooth curve, few enough to cost little. */
const POINTS = 60;

/** The unit of the last hidden layer whose distribution is drawn. Any will do; this is the first. */
const UNIT = 0;

/** A sigmoid unit with an output this close to 0 or 1 passes on less than a fifth of the largest gradient. */
const SATURATED = 0.05;

/** ln 10 is the loss of guessing evenly; a mean loss this far above it is worse than having learnt nothing. */
const DIVERGED = 1.1 * Math.log(CLASSES);

/**
 * @typedef {object} Point
 * @property {number} step
 * @property {number} accuracy share of the test images, in [0, 1]
 * @property {[number, number, number]} percentiles 15th, 50th and 85th of the unit's input to its sigmoid
 */

/**
 * @param {{ batchNorm: boolean, learningRate: number, steps: number, seed: number }} setting
 * @param {{ images: Float32Array, labels: Int32Array }} train
 * @param {{ images: Float32Array, labels: Int32Array }} test
 * @param {(step: number) => void} progress
 */
export function run(setting, train, test, progress) {
  const { batchNorm, learningRate, steps, seed } = setting;
  const started = performance.now();
  const network = new Network({ sizes: SIZES, batchNorm, deviation: DEVIATION, seed });
  const nextBatch = batches(train, seed);
  const every = Math.max(1, Math.floor(steps / POINTS));
  /** @type {Point[]} */
  const points = [];
  let saturated = 0;
  /** Losses of the last tenth of the run. */
  const last = [];
  for (let step = 1; step <= steps; step++) {
    const { x, labels } = nextBatch();
    const loss = network.step(x, labels, learningRate);
    if (step > 0.9 * steps) last.push(loss);
    if (step % every === 0 || step === steps) {
      const { accuracy, percentiles, share } = measure(network, test);
      points.push({ step, accuracy, percentiles });
      saturated = share;
      progress(step);
    }
  }
  const best = Math.max(...points.map((p) => p.accuracy));
  return {
    ...setting,
    points,
    best,
    saturated,
    // NaN is not below anything
    diverged: !(last.reduce((a, b) => a + b, 0) / last.length < DIVERGED),
    to90: points.find((p) => p.accuracy >= 0.9)?.step,
    to95: points.find((p) => p.accuracy >= 0.95)?.step,
    milliseconds: performance.now() - started,
    normMilliseconds: network.normMilliseconds,
  };
}

/** Batches of all training images in a seeded order, a new order each epoch. */
function batches({ images, labels }, seed) {
  const perEpoch = Math.floor(labels.length / BATCH);
  let order = [];
  let taken = 0;
  return () => {
    if (taken % perEpoch === 0) {
      const key = random.split(random.key(seed), 2 + taken / perEpoch).slice(-1);
      order = random.permutation(key.reshape([2]), labels.length).dataSync();
    }
    const first = (taken++ % perEpoch) * BATCH;
    const data = new Float32Array(BATCH * PIXELS);
    const chosen = new Int32Array(BATCH);
    for (let i = 0; i < BATCH; i++) {
      const image = order[first + i];
      data.set(images.subarray(image * PIXELS, (image + 1) * PIXELS), i * PIXELS);
      chosen[i] = labels[image];
    }
    return { x: { data, shape: [BATCH, PIXELS] }, labels: chosen };
  };
}

function measure(network, { images, labels }) {
  const { classes, s, h } = network.predict({ data: images, shape: [labels.length, PIXELS] });
  const accuracy = classes.filter((c, i) => c === labels[i]).length / labels.length;
  const units = s.shape[1];
  const inputs = Float32Array.from(labels, (_, i) => s.data[i * units + UNIT]).sort();
  const percentiles = [0.15, 0.5, 0.85].map((q) => inputs[Math.floor(q * (inputs.length - 1))]);
  const share = h.data.filter((v) => v < SATURATED || v > 1 - SATURATED).length / h.data.length;
  return { accuracy, percentiles, share };
}
