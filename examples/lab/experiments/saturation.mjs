// Deep networks of sigmoid or tanh units from weights that saturate them: where the inputs of the units lie, and how much
// of the gradient comes through.

import * as lab from "../common.mjs";
import { batches } from "../data.mjs";

const LAYERS = 5;
const UNITS = 64;
const LOOKS = 80;
const BINS = { from: -10, to: 10, bins: 50 };
/** A sigmoid of ±3, or a tanh of ±1.5, is within 5 % of its end, where 18 % of its steepest slope is left. */
const SATURATED = { sigmoid: 3, tanh: 1.5, relu: Number.POSITIVE_INFINITY };

const layers = Array.from({ length: LAYERS }, (_, i) => i + 1);

export default {
  id: "saturation",
  title: "Saturation: units stay where they have a slope",
  text:
    "Networks of five hidden layers start from weights so large that many units saturate. Watch the histogram of every layer's inputs to its " +
    "units, and how large the gradient is at every layer's weights. The paper says that batch norm keeps units out of the saturated " +
    "regime, where gradients vanish, and so makes saturating activations trainable.",
  sources: [{ ...lab.IOFFE, text: "Ioffe & Szegedy 2015, sections 1 and 3.3" }],
  guides: [lab.BATCH_NORM, lab.DERIVATION],
  controls: [
    lab.count("steps", "Steps", 600, 10, 20000),
    lab.number("rate", "Learning rate", 0.5, 0.001, 100),
    lab.number("scale", "Scale of the weights", 6, 0.01, 100, { hint: "1 keeps the variance from layer to layer" }),
    lab.count("batch", "Batch size", 64, 2, 1000),
    lab.choice("activation", "Activation", "sigmoid", ["sigmoid", "tanh"]),
    lab.seed,
  ],
  charts: () => [
    ...layers.map((layer) => ({
      ...{ id: `layer${layer}`, title: `Inputs of layer ${layer}'s units`, kind: "histogram", x: { label: "input" } },
      ...{ y: { label: "share" }, series: [lab.WITH, lab.WITHOUT] },
      hint: "Beyond ±3 a sigmoid is nearly flat. The outermost bins contain all values farther out, too.",
    })),
    ...[lab.WITH, lab.WITHOUT].map(({ id, label }) => ({
      ...{ id: `gradient-${id}`, title: `Gradient at every layer's weights, ${label}`, kind: "lines", x: lab.STEPS },
      ...{
        y: { label: "Euclidean norm", log: true },
        hint: "If the lines are close together, all layers learn at the same pace.",
      },
      series: [...layers, LAYERS + 1].map((layer) => ({ id: `${layer}`, label: `layer ${layer}`, color: layer - 1 })),
    })),
    {
      ...{ id: "accuracy", title: "Test accuracy", kind: "lines", x: lab.STEPS, y: lab.ACCURACY },
      ...{ series: [lab.WITH, lab.WITHOUT], hint: "Where units saturate, the network learns slowly or not at all." },
    },
  ],

  *run({ steps, rate, scale, batch, activation, seed }, data) {
    const dataset = lab.datasetOf("digits", data, { seed, train: 4000, test: 1000 });
    const options = { deviation: lab.scaled(scale), seed, activation };
    const networks = [lab.WITH, lab.WITHOUT].map(({ id, label }) => ({
      ...{ id, label },
      network: lab.networkFor(dataset, new Array(LAYERS).fill(UNITS), { ...options, norm: lab.normOf(id === "with") }),
    }));
    for (const { step, x, labels } of batches(dataset.train, batch, steps)) {
      const look = lab.isLook(step, steps, LOOKS);
      const update = { done: step, total: steps, append: { accuracy: {} }, replace: {}, facts: {} };
      for (const { id, label, network } of networks) {
        const { signals, norms } = network.step(x, labels, rate, look);
        if (!look) continue;
        update.append.accuracy[id] = [[step, lab.evaluate(network, dataset.test).accuracy]];
        update.append[`gradient-${id}`] = Object.fromEntries(norms.map((norm, i) => [`${i + 1}`, [[step, norm]]]));
        for (const [i, values] of signals.entries())
          update.replace[`layer${i + 1}`] = {
            ...update.replace[`layer${i + 1}`],
            [id]: lab.histogram(values, BINS.from, BINS.to, BINS.bins),
          };
        const saturated = lab.shareOf(signals.at(-1), (s) => !(Math.abs(s) < SATURATED[activation]));
        update.facts[`saturated in layer ${LAYERS}, ${label}`] = `${(100 * saturated).toFixed(0)} %`;
      }
      yield update;
    }
    for (const { network } of networks) network.dispose();
  },

  claims: (runs) => [
    lab.judge(runs, {
      claim: "Batch norm keeps units out of saturation.",
      source: "Ioffe & Szegedy 2015, 1",
      measure: ({ charts, values }) => {
        const share = (id) => {
          const all = layers.map((layer) => beyond(charts[`layer${layer}`][id], SATURATED[values.activation]));
          return 100 * Math.max(...all);
        };
        return { "saturated inputs in the worst layer, %, with": share("with"), without: share("without") };
      },
      holds: (m) => m["saturated inputs in the worst layer, %, with"] < m.without,
    }),
    lab.judge(runs, {
      claim: "Gradients keep their size on the way down.",
      source: "Ioffe & Szegedy 2015, 3.3",
      measure: ({ charts }) => {
        const ratio = (id) => {
          const at = (layer) => charts[`gradient-${id}`][layer][0][1];
          return at(1) / at(LAYERS);
        };
        return {
          "gradient at layer 1 over that at layer 5, at the start, with": ratio("with"),
          without: ratio("without"),
        };
      },
      holds: (m) =>
        Math.abs(Math.log(m["gradient at layer 1 over that at layer 5, at the start, with"])) <
        Math.abs(Math.log(m.without)),
    }),
    lab.judge(runs, {
      claim: "Networks with saturating units train with it.",
      source: "Ioffe & Szegedy 2015, 1",
      measure: ({ charts }) => ({
        "accuracy, with": lab.last(charts.accuracy.with),
        without: lab.last(charts.accuracy.without),
      }),
      holds: (m) => m["accuracy, with"] > m.without,
    }),
  ],
};

/** The share of a histogram's values beyond ±limit. */
const beyond = ({ edges, shares }, limit) =>
  shares.reduce((sum, share, i) => sum + (Math.abs((edges[i] + edges[i + 1]) / 2) >= limit ? share : 0), 0);
