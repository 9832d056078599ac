// What several experiments share: controls, axes, data, measuring a network, judging claims.

import { mean, standardDeviation } from "simple-statistics";
import { digitsOf, spirals, whole } from "./data.mjs";
import { Network } from "./network.mjs";
import { batchNorm, bias } from "./norms.mjs";

// ---- controls -------------------------------------------------------------------------------------------------------

export const number = (id, label, value, min, max, more = {}) => ({
  id,
  label,
  kind: "number",
  value,
  min,
  max,
  ...more,
});
export const count = (id, label, value, min, max, hint) =>
  number(id, label, value, min, max, { step: 1, ...(hint && { hint }) });
export const choice = (id, label, value, choices, hint) => ({
  id,
  label,
  kind: "choice",
  value,
  choices,
  ...(hint && { hint }),
});
export const seed = count("seed", "Seed", 1, 0, 2 ** 31 - 1, "of the weights, the split and the order of the data");
export const activation = (value) => choice("activation", "Activation", value, ["sigmoid", "tanh", "relu"]);

// ---- charts ---------------------------------------------------------------------------------------------------------

export const WITH = { id: "with", label: "with batch norm", color: 0 };
export const WITHOUT = { id: "without", label: "without", color: 1 };
export const STEPS = { label: "training steps" };
export const ACCURACY = { label: "test accuracy (%)", range: [0, 100] };

// ---- networks -------------------------------------------------------------------------------------------------------

export const normOf = (normalized) => (normalized ? batchNorm() : bias);

/** A dataset by the name that a control has for it. */
export const datasetOf = (name, { digits }, sizes) => (name === "spirals" ? spirals(sizes) : digitsOf(digits, sizes));

/** Deviation of weights with which a linear layer keeps the variance (Glorot's and LeCun's rule), times `scale`. */
export const scaled = (scale) => (inputs) => scale / Math.sqrt(inputs);

/** A network for a dataset, with hidden layers of `units`. */
export const networkFor = (dataset, units, options) =>
  new Network({ sizes: [dataset.features, ...units, dataset.classes], ...options });

/** Accuracy in percent and loss, on samples as one batch. */
export function evaluate(network, samples, mode = "eval") {
  const { x, labels } = whole(samples);
  const { classes, loss, ...rest } = network.predict(x, labels, mode);
  return { accuracy: accuracyOf(classes, labels), loss, ...rest };
}

export function accuracyOf(classes, labels) {
  let right = 0;
  for (const [i, label] of labels.entries()) if (classes[i] === label) right++;
  return (100 * right) / labels.length;
}

/** A blind guess has loss ln(classes); a run that ends at that level or above learned nothing. */
export const hasDiverged = (losses, classes) =>
  !(mean(losses.slice(-Math.ceil(losses.length / 10))) <= 0.98 * Math.log(classes));

/** Shares of values in bins between `from` and `to`; what lies outside counts in the outermost. */
export function histogram(values, from, to, bins) {
  const shares = new Array(bins).fill(0);
  for (const value of values) {
    const bin = Math.floor(((value - from) / (to - from)) * bins);
    if (!Number.isNaN(bin)) shares[Math.min(Math.max(bin, 0), bins - 1)] += 1 / values.length;
  }
  return { edges: Array.from({ length: bins + 1 }, (_, i) => from + (i * (to - from)) / bins), shares };
}

/** The share of values for which something is so. */
export function shareOf(values, test) {
  let those = 0;
  for (const value of values) if (test(value)) those++;
  return those / values.length;
}

/** Whether a step is one at which to look: the first, the last, and `times` in all. */
export const isLook = (step, steps, times) => step === steps || step === 1 || step % Math.ceil(steps / times) === 0;

// ---- claims ---------------------------------------------------------------------------------------------------------

/** Runs of several seeds, what was measured of each, and whether the claim holds there. */
export function judge(runs, { claim, source, measure, holds }) {
  const measured = runs.map(measure);
  const held = measured.filter(holds).length;
  const evidence = Object.keys(measured[0]).map((name) => `${name}: ${spread(measured.map((m) => m[name]))}`);
  const verdict = held === runs.length ? "holds" : held === 0 ? "fails" : "mixed";
  const share = verdict === "mixed" ? [`holds for ${held} of ${runs.length} seeds`] : [];
  return { claim, source, verdict, evidence: [...evidence, ...share].join("; ") };
}

/** Mean ± standard deviation in three digits; how many there are where some are missing. */
export function spread(values) {
  const there = values.filter(Number.isFinite);
  if (there.length === 0) return "never";
  const [m, s] = [mean(there), there.length > 1 ? standardDeviation(there) : 0];
  const digits = (v) =>
    v === 0 ? "0" : Math.abs(v) >= 1e4 || Math.abs(v) < 1e-3 ? v.toExponential(2) : String(Number(v.toPrecision(3)));
  const some = there.length < values.length ? ` (in ${there.length} of ${values.length})` : "";
  return `${digits(m)}${there.length > 1 ? ` ± ${digits(s)}` : ""}${some}`;
}

export const last = (points) => points.at(-1)?.at(1) ?? Number.NaN;

/** The first x at which y reaches a level; infinitely late if never, so that it compares as what never came. */
export const reaches = (points, level) => points.find(([, y]) => y >= level)?.[0] ?? Number.POSITIVE_INFINITY;

export const IOFFE = { text: "Ioffe & Szegedy 2015", url: "https://arxiv.org/abs/1502.03167" };
export const SANTURKAR = { text: "Santurkar et al. 2018", url: "https://arxiv.org/abs/1805.11604" };
export const D2L = {
  text: "Dive into Deep Learning, section 8.5",
  url: "https://d2l.ai/chapter_convolutional-modern/batch-norm.html",
};

// ---- pages of the documentation that explain an experiment ------------------------------------------------------------

export const BATCH_NORM = { text: "Batch normalization: what it does and why", path: "concepts/batch-norm" };
export const DERIVATION = { text: "The derivation", path: "concepts/derivation" };
export const FAMILY = { text: "Batch, layer, instance, group and weight norm", path: "concepts/family" };
export const SMALL_BATCHES = { text: "Small and ragged batches", path: "guides/small-batches" };
export const GHOST_BATCHES = { text: "Ghost batches", path: "guides/ghost-batches" };
export const RECALIBRATION = { text: "Recalibrate running statistics", path: "guides/recalibration" };
export const TFJS = { text: "In TensorFlow.js", path: "guides/tfjs" };
