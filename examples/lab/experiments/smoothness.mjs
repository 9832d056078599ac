// Figure 4 of Santurkar et al.: the loss and its gradient along the gradient, step by step, for a plain network, batch
// norm, and batch norm with noise behind it that keeps no distribution stable.

import * as lab from "../common.mjs";
import { batches } from "../data.mjs";
import { noisyBatchNorm } from "../norms.mjs";

const UNITS = [64, 64, 64];
/** How far to look along the gradient, in learning rates: as in the paper, from half a step to four. */
const DISTANCES = [0.5, 1, 2, 4];

const NOISY = { id: "noisy", label: "batch norm and noise", color: 2 };
const SERIES = [lab.WITH, lab.WITHOUT, NOISY];

export default {
  id: "smoothness",
  title: "Smoothness: why it helps",
  text:
    "Every few training steps, the loss and its gradient are measured at points along the gradient, from half a step " +
    "to four steps away. Watch three quantities: the range of the loss there, how far the gradient there is from the " +
    "gradient at the start, and the largest change of the gradient divided by the distance. Santurkar et al. say that " +
    "batch norm helps because it makes the loss smoother, and not because distributions are stable: with noise after " +
    "batch norm that shifts mean and variance at every step, a network trains about as well.",
  sources: [{ ...lab.SANTURKAR, text: "Santurkar et al. 2018, sections 2.1 and 3" }],
  guides: [lab.BATCH_NORM, lab.DERIVATION],
  controls: [
    lab.count("steps", "Steps", 400, 10, 20000),
    lab.count("every", "Measure every … steps", 5, 1, 1000),
    lab.number("rate", "Learning rate", 0.1, 0.001, 100),
    lab.count("batch", "Batch size", 128, 2, 1000),
    lab.number("scale", "Scale of the weights", 1, 0.01, 100, { hint: "1 keeps the variance from layer to layer" }),
    lab.activation("relu"),
    lab.seed,
  ],
  charts: () => [
    ...SERIES.map((series) => ({
      ...{ id: `loss-${series.id}`, title: `Loss along the gradient, ${series.label}`, kind: "bands", x: lab.STEPS },
      ...{
        y: { label: "range of the loss" },
        series: [series],
        hint: "In a narrow band, the loss changes little within a few steps.",
      },
    })),
    {
      ...{ id: "predictiveness", title: "Gradient predictiveness", kind: "lines", x: lab.STEPS },
      ...{ y: { label: "largest distance between gradients", log: true }, series: SERIES },
      hint: "The largest distance from the gradient at the start to those within four steps. A lower line is more predictive.",
    },
    {
      ...{ id: "beta", title: "Effective β-smoothness", kind: "lines", x: lab.STEPS },
      ...{
        y: { label: "change of gradient / distance", log: true },
        series: SERIES,
        hint: "A lower line is smoother.",
      },
    },
    {
      ...{ id: "accuracy", title: "Test accuracy", kind: "lines", x: lab.STEPS, y: lab.ACCURACY, series: SERIES },
      hint: "The paper says that the noise does not reduce the benefit of batch norm.",
    },
  ],

  *run({ steps, every, rate, batch, scale, activation, seed }, data) {
    const dataset = lab.datasetOf("digits", data, { seed, train: 6000, test: 1000 });
    const options = { deviation: lab.scaled(scale), seed, activation };
    const norms = { with: lab.normOf(true), without: lab.normOf(false), noisy: noisyBatchNorm(seed) };
    const networks = SERIES.map(({ id }) => ({
      id,
      network: lab.networkFor(dataset, UNITS, { ...options, norm: norms[id] }),
    }));
    for (const { step, x, labels } of batches(dataset.train, batch, steps)) {
      const update = { done: step, total: steps, append: { predictiveness: {}, beta: {}, accuracy: {} } };
      for (const { id, network } of networks) {
        network.step(x, labels, rate);
        if (step !== 1 && step % every !== 0) continue;
        const { losses, predictiveness, beta } = lookAlong(network, x, labels, rate);
        const sorted = losses.toSorted((a, b) => a - b);
        update.append[`loss-${id}`] = { [id]: [[step, sorted[0], losses[0], sorted.at(-1)]] };
        update.append.predictiveness[id] = [[step, predictiveness]];
        update.append.beta[id] = [[step, beta]];
        if (lab.isLook(step, steps, 40))
          update.append.accuracy[id] = [[step, lab.evaluate(network, dataset.test).accuracy]];
      }
      yield update;
    }
    for (const { network } of networks) network.dispose();
  },

  claims: (runs) => {
    const typical = (points, of) => median(points.map(of).filter(Number.isFinite));
    const ratio =
      (name, of) =>
      (chart) =>
      ({ charts }) => {
        const [a, b] = [charts[chart("with")].with, charts[chart("without")].without];
        return {
          [`${name}, median over steps, with`]: typical(a, of),
          without: typical(b, of),
          // from small gradients, the plain network starts out smoother
          "higher with it at, % of steps": 100 * lab.shareOf([...a.keys()], (i) => of(a[i]) > of(b[i])),
        };
      };
    const smaller = (m) => Object.values(m)[0] < m.without;
    return [
      lab.judge(runs, {
        claim: "The loss varies less along the gradient.",
        source: "Santurkar et al. 2018, 3",
        measure: ratio("range of the loss", ([, low, , high]) => high - low)((id) => `loss-${id}`),
        holds: smaller,
      }),
      lab.judge(runs, {
        claim: "Gradients are more predictive.",
        source: "Santurkar et al. 2018, 3",
        measure: ratio("distance between gradients", ([, y]) => y)(() => "predictiveness"),
        holds: smaller,
      }),
      lab.judge(runs, {
        claim: "The landscape is smoother.",
        source: "Santurkar et al. 2018, 3",
        measure: ratio("effective β", ([, y]) => y)(() => "beta"),
        holds: smaller,
      }),
      lab.judge(runs, {
        claim:
          "Noise behind batch norm, of shifting mean and variance, leaves its benefit: it still beats the plain network.",
        source: "Santurkar et al. 2018, 2.1",
        measure: ({ charts }) => ({
          "mean accuracy over training, noisy": average(charts.accuracy.noisy),
          with: average(charts.accuracy.with),
          without: average(charts.accuracy.without),
        }),
        holds: (m) => m["mean accuracy over training, noisy"] > m.without,
      }),
    ];
  },
};

/** The landscape of one batch along the gradient; the network stays where it is. */
function lookAlong(network, x, labels, rate) {
  const here = network.parameters;
  const { loss, gradient } = network.slope(x, labels);
  const losses = [loss];
  let predictiveness = 0;
  let beta = 0;
  for (const distance of DISTANCES) {
    network.parameters = here.map((value, i) => value - distance * rate * gradient[i]);
    const there = network.slope(x, labels);
    losses.push(there.loss);
    let change = 0;
    let size = 0;
    for (let i = 0; i < gradient.length; i++) {
      change += (there.gradient[i] - gradient[i]) ** 2;
      size += gradient[i] ** 2;
    }
    predictiveness = Math.max(predictiveness, Math.sqrt(change));
    beta = Math.max(beta, Math.sqrt(change / size) / (distance * rate));
  }
  network.parameters = here;
  return { losses, predictiveness, beta };
}

const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1];
const average = (points) => points.reduce((sum, [, y]) => sum + y, 0) / points.length;
