// One rank's part in training one network on the shards of every batch:
//
//   shard → forward ⇄ backward → gradients of the shard ─ sum over the group → the same step on every rank
//
// where ⇄ is a sum over the group in either direction of each batch norm, unless every rank keeps to its own shard.

import { BatchNorm, SyncBatchNorm } from "batchnorm-wasm";
import { batches, CLASSES, PIXELS, whole } from "../lab/data.mjs";
import { Network } from "../lab/network.mjs";

const SIZES = [PIXELS, 100, 100, 100, CLASSES];
// The demo's.
const DEVIATION = 0.03;

/** Samples of a batch that are a rank's: their number differs by one where it cannot be the same. */
export function shardOf({ x, labels }, { rank, size }) {
  const [from, to] = [rank, rank + 1].map((r) => Math.floor((r * labels.length) / size));
  const [, features] = x.shape;
  const data = x.data.subarray(from * features, to * features);
  return { x: { data, shape: [to - from, features] }, labels: labels.subarray(from, to) };
}

/**
 * @typedef {object} Options
 * @property {number} steps
 * @property {number} batch samples of all shards
 * @property {number} learningRate
 * @property {number} seed
 *
 * @typedef {object} Result
 * @property {Float32Array} parameters
 * @property {Float32Array[]} running mean and variance of every batch norm
 * @property {number} loss of the last tenth of the steps
 * @property {number} accuracy on the test set, by this rank's running statistics
 * @property {number} milliseconds for a step
 * @property {number} waiting share of that in sums over the group
 */

/** The group of a single process. */
export const ALONE = { rank: 0, size: 1, sum() {} };

/**
 * @param {Options} options the same on every rank
 * @param {import("batchnorm-wasm").ProcessGroup} group that sums at once
 * @param {ReturnType<typeof import("../figure1/digits.mjs").loadDigits>} digits
 * @param {boolean} [synchronized] whether batch norm takes the statistics of the whole batch, or of the rank's shard
 * @returns {Result}
 */
export function train({ steps, batch, learningRate, seed }, group, digits, synchronized = true) {
  let waiting = 0;
  const timed = {
    rank: group.rank,
    size: group.size,
    sum(values) {
      const start = performance.now();
      group.sum(values);
      waiting += performance.now() - start;
    },
  };
  const norm = (channels) => (synchronized ? new SyncBatchNorm(channels, { group: timed }) : new BatchNorm(channels));
  const network = new Network({ sizes: SIZES, norm, deviation: DEVIATION, seed });
  const losses = [];
  const start = performance.now();
  const { parameters } = network;
  for (const all of batches(digits.train, batch, steps)) {
    const { x, labels } = shardOf(all, group);
    const { loss, gradient } = network.slope(x, labels, "train", batch);
    const sums = new Float64Array(1 + gradient.length);
    sums[0] = loss;
    sums.set(gradient, 1);
    timed.sum(sums);
    losses.push(sums[0]);
    for (let i = 0; i < parameters.length; i++) parameters[i] -= learningRate * sums[1 + i];
    network.parameters = parameters;
  }
  const milliseconds = (performance.now() - start) / steps;
  const test = whole(digits.test);
  const { classes } = network.predict(test.x);
  const latest = losses.slice(-Math.ceil(steps / 10));
  return {
    parameters,
    running: network.norms.flatMap(({ runningMean, runningVariance }) => [runningMean, runningVariance]),
    loss: latest.reduce((sum, loss) => sum + loss, 0) / latest.length,
    accuracy: test.labels.filter((label, i) => label === classes[i]).length / classes.length,
    milliseconds,
    waiting: waiting / steps / milliseconds,
  };
}

/**
 * Trains with and without synchronisation, and has every rank know of the others' results: their accuracies, and how many
 * numbers of parameters and running statistics are not, bit for bit, those of rank 0.
 *
 * @param {Options} options
 * @param {import("batchnorm-wasm").ProcessGroup} group
 * @param {ReturnType<typeof import("../figure1/digits.mjs").loadDigits>} digits
 * @returns {(Result & { synchronized: boolean, accuracies: Float64Array, unlike: number })[]}
 */
export function trainBoth(options, group, digits) {
  return [true, false].map((synchronized) => {
    const result = train(options, group, digits, synchronized);
    const accuracies = new Float64Array(group.size);
    accuracies[group.rank] = result.accuracy;
    group.sum(accuracies);
    const own = Float64Array.from([result.parameters, ...result.running].flatMap((values) => [...values]));
    const first = group.rank === 0 ? own.slice() : new Float64Array(own.length);
    group.sum(first);
    const unlike = Float64Array.of(own.reduce((count, value, i) => count + (Object.is(value, first[i]) ? 0 : 1), 0));
    group.sum(unlike);
    return { ...result, synchronized, accuracies, unlike: unlike[0] };
  });
}
