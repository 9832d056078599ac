// Scales of the initial weights over three decades, with and without batch norm.

import * as lab from "../common.mjs";
import { charts, controls, decades, logarithmic, sweep } from "../sweep.mjs";

/** Accuracy from which on a scale counts as one that trains. */
const LEVEL = 80;

export default {
  id: "initialisation",
  title: "Initialisation: it matters less",
  text:
    "The same short training is repeated over three decades of the scale of the initial weights, with and without batch norm. Watch how " +
    "wide the range is in which each kind of network learns. The paper says that batch norm makes training less dependent on the " +
    "initialisation, because the output of a layer does not change when its weights are scaled.",
  sources: [{ ...lab.IOFFE, text: "Ioffe & Szegedy 2015, sections 1 and 3.3" }],
  guides: [lab.BATCH_NORM],
  controls: [
    lab.number("from", "Smallest scale", 0.03, 1e-4, 1e3, { hint: "1 keeps the variance from layer to layer" }),
    lab.number("to", "Largest scale", 30, 1e-4, 1e4),
    lab.number("rate", "Learning rate", 0.1, 1e-4, 100),
    ...controls,
  ],
  charts: () => charts("scale of the initial weights"),
  run: ({ from, to, points, rate, ...values }, data) =>
    sweep(logarithmic(from, to, points), values, data, (scale) => ({ rate, deviation: lab.scaled(scale) })),
  claims: (runs) => [
    lab.judge(runs, {
      claim: "Training depends less on the initialisation.",
      source: "Ioffe & Szegedy 2015, 1",
      measure: ({ charts }) => ({
        [`decades of scales that reach ${LEVEL} %, with`]: decades(charts.accuracy.with, LEVEL),
        without: decades(charts.accuracy.without, LEVEL),
      }),
      holds: (m) => m[`decades of scales that reach ${LEVEL} %, with`] > m.without,
    }),
    lab.judge(runs, {
      claim: "The worst initialisation in the range costs less.",
      source: "Ioffe & Szegedy 2015, 1",
      measure: ({ charts }) => ({
        "accuracy at the worst scale, with": worst(charts.accuracy.with),
        without: worst(charts.accuracy.without),
      }),
      holds: (m) => m["accuracy at the worst scale, with"] > m.without,
    }),
  ],
};

const worst = (points) => Math.min(...points.map(([, y]) => y));
