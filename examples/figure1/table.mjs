// The table of the demo as rows of text, with what its columns mean.

/** @typedef {import("./train.mjs").Result} Result */

export const HEADER = [
  "Learning rate",
  "Batch norm",
  "Steps to 90 %",
  "Steps to 95 %",
  "Best accuracy",
  "Saturated",
  "Diverged",
  "Time in batch norm",
];

export const NOTES = [
  "Steps to 90 % and 95 %: the first test at which that share of 2,000 held-out digits was recognised.",
  "Saturated: share of the last hidden layer's outputs that are not between 0.05 and 0.95, on those digits, at the end.",
  "Diverged: the loss became infinite or NaN, or was, on average over the last tenth of the steps, more than 5 % above" +
    " ln 10, the loss of a blind guess.",
  "Time in batch norm: in forward and backward, tests included; in brackets its share of the run.",
];

/** @param {Result[]} results */
export function rows(results) {
  return results.map((result) => {
    const { batchNorm, learningRate, evaluations, diverged, milliseconds, batchNormMilliseconds } = result;
    const share = batchNormMilliseconds / milliseconds;
    return [
      String(learningRate),
      batchNorm ? "with" : "without",
      stepsTo(0.9, evaluations),
      stepsTo(0.95, evaluations),
      percent(Math.max(...evaluations.map(({ accuracy }) => accuracy)), 1),
      percent(evaluations.at(-1).saturated, 0),
      diverged ? "yes" : "no",
      batchNorm ? `${(batchNormMilliseconds / 1000).toFixed(2)} s (${percent(share, 0)})` : "–",
    ];
  });
}

const stepsTo = (accuracy, evaluations) =>
  String(evaluations.find((evaluation) => evaluation.accuracy >= accuracy)?.step ?? "–");

const percent = (share, digits) => `${(100 * share).toFixed(digits)} %`;
