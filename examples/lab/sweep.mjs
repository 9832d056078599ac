// A sweep: short trainings over values of one thing, with and without batch norm.

import * as lab from "./common.mjs";
import { batches } from "./data.mjs";

const UNITS = [64, 64, 64];

/** `points` values from `from` to `to`, each as many times the one before. */
export const logarithmic = (from, to, points) =>
  Array.from({ length: points }, (_, i) => Number((from * (to / from) ** (i / (points - 1))).toPrecision(3)));

export const controls = [
  lab.count("points", "Values in the sweep", 13, 3, 61),
  lab.count("steps", "Steps of each training", 200, 10, 5000),
  lab.count("batch", "Batch size", 64, 2, 1000),
  lab.activation("relu"),
  lab.choice("data", "Data", "digits", ["digits", "spirals"]),
  lab.seed,
];

export const charts = (label) => {
  const x = { label, log: true };
  const series = [lab.WITH, lab.WITHOUT];
  return [
    {
      ...{ id: "accuracy", title: "Test accuracy after training", kind: "lines", x, y: lab.ACCURACY, series },
      hint: "The wider the plateau, the less the value matters. A network that diverged guesses, or gives no numbers: 0 %.",
    },
    {
      ...{
        id: "loss",
        title: "Training loss at the end",
        kind: "lines",
        x,
        y: { label: "mean loss of the last tenth", log: true },
      },
      ...{ series, hint: "Gaps are losses that are no longer numbers." },
    },
    {
      ...{
        id: "curve",
        title: "The training going on",
        kind: "lines",
        x: lab.STEPS,
        y: { label: "loss", log: true },
        series,
      },
      hint: "The latest training of each kind.",
    },
  ];
};

/**
 * Trains a pair of networks for every value; `of(value)` is the deviation and the learning rate that it means.
 *
 * @returns {Generator<import("./experiment.mjs").Update>}
 */
export function* sweep(values, { steps, batch, activation, data: name, seed }, data, of) {
  const dataset = lab.datasetOf(name, data, { seed, train: 4000, test: 1000 });
  const total = values.length * 2 * steps;
  let done = 0;
  /** By label, the value from which on no training learns. */
  const limits = {};
  for (const value of values)
    for (const { id, label } of [lab.WITH, lab.WITHOUT]) {
      const { deviation, rate } = of(value);
      const network = lab.networkFor(dataset, UNITS, { norm: lab.normOf(id === "with"), deviation, seed, activation });
      const losses = [];
      const curve = [];
      for (const { x, labels } of batches(dataset.train, batch, steps)) {
        const { loss } = network.step(x, labels, rate);
        losses.push(loss);
        curve.push([losses.length, loss]);
        done++;
        // nothing comes back from what is not a number
        if (!Number.isFinite(loss)) break;
        if (losses.length % 10 === 0) yield { done, total, replace: { curve: { [id]: [...curve] } } };
      }
      done += steps - losses.length;
      if (lab.hasDiverged(losses, dataset.classes)) limits[limitOf(label)] ??= value;
      else delete limits[limitOf(label)];
      const { accuracy } = lab.evaluate(network, dataset.test);
      const tail = losses.slice(-Math.ceil(losses.length / 10));
      const loss = tail.reduce((a, b) => a + b, 0) / tail.length;
      network.dispose();
      yield {
        ...{ done, total, append: { accuracy: { [id]: [[value, accuracy]] }, loss: { [id]: [[value, loss]] } } },
        replace: { curve: { [id]: curve } },
      };
    }
  yield { done, total, facts: limits };
}

/**
 * The best training from one value on, downwards or else upwards, until no neighbour of the best is better.
 *
 * @param {(value: number) => Generator<any, { rate: number, accuracy: number }>} attempt a training at a rate
 * @param {number} start
 * @param {(rate: number, by: -1 | 1) => number} next the neighbour of a rate
 */
export function* climb(attempt, start, next) {
  const first = yield* attempt(start);
  let best = first;
  for (const by of [-1, 1]) {
    for (;;) {
      const tried = yield* attempt(next(best.rate, by));
      if (!(tried.accuracy > best.accuracy)) break;
      best = tried;
    }
    if (best !== first) break; // on the other side is where it came from
  }
  return best;
}

/** The fact that says from which value on networks of a kind learn nothing. */
export const limitOf = (label) => `learns nothing from, ${label}`;

/** Values with which training got somewhere, as how many decades they span. */
export function decades(points, level) {
  const good = points.filter(([, y]) => y >= level).map(([x]) => x);
  return good.length ? Math.log10(Math.max(...good) / Math.min(...good)) : 0;
}

/** The largest of them; below all others if there is none. */
export const largest = (points, level) => {
  const good = points.filter(([, y]) => y >= level).map(([x]) => x);
  return good.length ? Math.max(...good) : Number.NEGATIVE_INFINITY;
};

export const best = (points) => Math.max(...points.map(([, y]) => y));
