// Learning rates over three decades, with and without batch norm.

import * as lab from "../common.mjs";
import { best, charts, controls, decades, largest, limitOf, logarithmic, sweep } from "../sweep.mjs";

/** Accuracy from which on a rate counts as one that trains. */
const LEVEL = 80;

export default {
  id: "learning-rate",
  title: "Learning rate: larger ones become usable",
  text:
    "The same short training is repeated over three decades of learning rates, with and without batch norm. Watch where each kind of " +
    "network stops learning. The paper says that batch norm allows much higher learning rates without the risk of divergence, " +
    "because gradients no longer depend on the scale of the parameters.",
  sources: [
    { ...lab.IOFFE, text: "Ioffe & Szegedy 2015, section 3.3" },
    { text: "Bjorck et al. 2018", url: "https://arxiv.org/abs/1806.02375" },
  ],
  guides: [lab.BATCH_NORM],
  controls: [
    lab.number("from", "Lowest rate", 0.01, 1e-5, 1e3),
    lab.number("to", "Highest rate", 10, 1e-5, 1e4),
    lab.number("scale", "Scale of the weights", 1, 0.01, 100, { hint: "1 keeps the variance from layer to layer" }),
    ...controls,
  ],
  charts: () => charts("learning rate"),
  run: ({ from, to, points, scale, ...values }, data) =>
    sweep(logarithmic(from, to, points), values, data, (rate) => ({ rate, deviation: lab.scaled(scale) })),
  claims: (runs) => [
    lab.judge(runs, {
      claim: "Batch norm trains at higher learning rates.",
      source: "Ioffe & Szegedy 2015, 3.3",
      measure: ({ charts, facts }) => ({
        [`highest rate that reaches ${LEVEL} %, with`]: largest(charts.accuracy.with, LEVEL),
        without: largest(charts.accuracy.without, LEVEL),
        "learns nothing from, with": Number(facts[limitOf(lab.WITH.label)]),
        "learns nothing from, without": Number(facts[limitOf(lab.WITHOUT.label)]),
      }),
      holds: (m) => m[`highest rate that reaches ${LEVEL} %, with`] > m.without,
    }),
    lab.judge(runs, {
      claim: "More learning rates work.",
      source: "Ioffe & Szegedy 2015, 3.3",
      measure: ({ charts }) => ({
        [`decades that reach ${LEVEL} %, with`]: decades(charts.accuracy.with, LEVEL),
        without: decades(charts.accuracy.without, LEVEL),
      }),
      holds: (m) => m[`decades that reach ${LEVEL} %, with`] > m.without,
    }),
    lab.judge(runs, {
      claim: "Each at its best learning rate, batch norm is more accurate after the same steps.",
      source: "Bjorck et al. 2018",
      measure: ({ charts }) => ({
        "accuracy at the best rate, with": best(charts.accuracy.with),
        without: best(charts.accuracy.without),
      }),
      holds: (m) => m["accuracy at the best rate, with"] > m.without,
    }),
  ],
};
