// One run of the demo: a network trained for some steps, tested along the way. The seed alone decides the initial
// weights and the order of the data, so that runs differ in batch norm and learning rate only.

import { quantile } from "simple-statistics";
import { batches } from "../lab/data.mjs";
import { Network } from "../lab/network.mjs";
import { batchNorm as batchNorms, bias } from "../lab/norms.mjs";
import { CLASSES, PIXELS } from "./digits.mjs";

const BATCH = 60;
const SIZES = [PIXELS, 100, 100, 100, CLASSES];
// "Small random Gaussian values", the paper says, and gives no number.
const DEVIATION = 0.03;
const EVALUATIONS = 100;
// The unit whose input the figure follows. Units are alike before training, so any will do.
const UNIT = 0;
const PERCENTILES = [0.15, 0.5, 0.85];
// A blind guess has loss ln 10. At that level one batch differs from another by about 1 %; a tenth of a run, by less.
const DIVERGED_LOSS = 1.05 * Math.log(CLASSES);

/**
 * @typedef {object} Run
 * @property {boolean} batchNorm
 * @property {number} learningRate
 * @property {number} steps
 * @property {number} seed
 *
 * @typedef {object} Evaluation
 * @property {number} step
 * @property {number} accuracy on the test set
 * @property {number} saturated share of the last hidden layer's outputs that are not between 0.05 and 0.95
 * @property {number[]} percentiles 15th, 50th, 85th, of the input to one sigmoid of that layer
 *
 * @typedef {Run & {
 *   evaluations: Evaluation[], diverged: boolean, milliseconds: number, batchNormMilliseconds: number
 * }} Result
 */

/**
 * @param {Run} run
 * @param {ReturnType<typeof import("./digits.mjs").loadDigits>} digits
 * @param {(steps: number) => void} onProgress called now and then with the steps done since the last call
 * @returns {Result}
 */
export function train(run, digits, onProgress) {
  const { batchNorm, learningRate, steps, seed } = run;
  const start = performance.now();
  const network = new Network({ sizes: SIZES, norm: batchNorm ? batchNorms() : bias, deviation: DEVIATION, seed });
  const interval = Math.ceil(steps / EVALUATIONS);
  const losses = [];
  const evaluations = [];
  for (const { step, x, labels } of batches(digits.train, BATCH, steps)) {
    const { loss } = network.step(x, labels, learningRate);
    losses.push(loss);
    const lost = !Number.isFinite(loss);
    if (step % interval === 0 || step === steps || lost) {
      evaluations.push({ step, ...evaluate(network, digits.test) });
      onProgress(step - (evaluations.at(-2)?.step ?? 0));
    }
    // Nothing comes back from NaN.
    if (lost) break;
  }
  onProgress(steps - (evaluations.at(-1)?.step ?? 0));
  return {
    ...run,
    evaluations,
    diverged: !(mean(losses.slice(-Math.ceil(losses.length / 10))) <= DIVERGED_LOSS),
    milliseconds: performance.now() - start,
    batchNormMilliseconds: batchNorm ? network.normMilliseconds : 0,
  };
}

function evaluate(network, { images, labels }) {
  const { classes, s, h } = network.predict({ data: images, shape: [labels.length, PIXELS] });
  const units = SIZES.at(-2);
  return {
    accuracy: labels.filter((label, i) => label === classes[i]).length / labels.length,
    saturated: h.filter((value) => !(value >= 0.05 && value <= 0.95)).length / h.length,
    percentiles: quantile(
      Array.from(labels, (_, i) => s[i * units + UNIT]),
      PERCENTILES,
    ),
  };
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
