// What gamma and beta are for: sigmoid networks in the plane with them, without them, and without batch norm.

import { BatchNorm } from "batchnorm-wasm";
import * as lab from "../common.mjs";
import { batches } from "../data.mjs";
import { batchNorm } from "../norms.mjs";

const LOOKS = 60;
const MAP = { from: -1.2, to: 1.2, size: 48 };
/** Within ±1 a sigmoid is off its tangent by less than a fiftieth. */
const LINEAR = 1;

const BARE = { id: "bare", label: "batch norm without gamma and beta", color: 2 };
const SERIES = [
  { ...lab.WITH, label: "batch norm with gamma and beta" },
  BARE,
  { ...lab.WITHOUT, label: "no batch norm" },
];

export default {
  id: "gamma-beta",
  title: "What gamma and beta are for",
  text:
    "Three sigmoid networks learn to separate two spirals in the plane: with batch norm, with batch norm that " +
    "has no gamma and beta, and without batch norm. Watch the decision boundaries, and the inputs of the first " +
    "layer's units: without gamma and beta most of these stay within ±1, where a sigmoid is nearly a straight " +
    "line. The paper says that a layer with gamma and beta can represent the identity, so " +
    "that normalisation does not restrict what the network can represent.",
  sources: [{ ...lab.IOFFE, text: "Ioffe & Szegedy 2015, section 3" }],
  guides: [lab.BATCH_NORM],
  controls: [
    lab.count("steps", "Steps", 2000, 10, 50000),
    lab.number("rate", "Learning rate", 1, 0.001, 100),
    lab.count("units", "Units in each of two layers", 16, 2, 200),
    lab.count("batch", "Batch size", 64, 2, 1000),
    lab.number("scale", "Scale of the weights", 1, 0.01, 100, { hint: "1 keeps the variance from layer to layer" }),
    lab.seed,
  ],
  charts: () => [
    ...SERIES.map((series) => ({
      ...{ id: `map-${series.id}`, title: `The plane, ${series.label}`, kind: "map" },
      ...{ x: { label: "" }, y: { label: "" }, series: [series] },
      hint: "Dots are samples, and the background is the answer of the network.",
    })),
    {
      ...{
        id: "loss",
        title: "Training loss",
        kind: "lines",
        x: lab.STEPS,
        y: { label: "loss of all samples", log: true },
      },
      ...{ series: SERIES, hint: "A network with a lower loss fits the spirals better." },
    },
    {
      ...{ id: "accuracy", title: "Test accuracy", kind: "lines", x: lab.STEPS, y: lab.ACCURACY, series: SERIES },
      hint: "Guessing is right in half of the cases.",
    },
    {
      ...{ id: "inputs", title: "Inputs of the first layer's units", kind: "histogram", x: { label: "input" } },
      ...{
        y: { label: "share" },
        series: SERIES,
        hint: "Without gamma and beta the inputs keep mean 0 and variance 1.",
      },
    },
  ],

  *run({ steps, rate, units, batch, scale, seed }, data) {
    const dataset = lab.datasetOf("spirals", data, { seed, train: 600, test: 400 });
    const options = { deviation: lab.scaled(scale), seed };
    const norms = { with: lab.normOf(true), bare: batchNorm({ affine: false }), without: lab.normOf(false) };
    const networks = SERIES.map(({ id, label }) => ({
      ...{ id, label },
      network: lab.networkFor(dataset, [units, units], { ...options, norm: norms[id] }),
    }));
    yield { done: 0, total: steps, facts: identity(seed) };
    for (const { step, x, labels } of batches(dataset.train, batch, steps)) {
      const look = lab.isLook(step, steps, LOOKS);
      const update = {
        done: step,
        total: steps,
        append: { loss: {}, accuracy: {} },
        replace: { inputs: {} },
        facts: {},
      };
      for (const { id, label, network } of networks) {
        const { signals } = network.step(x, labels, rate);
        if (!look) continue;
        update.append.loss[id] = [[step, lab.evaluate(network, dataset.train).loss]];
        update.append.accuracy[id] = [[step, lab.evaluate(network, dataset.test).accuracy]];
        update.replace.inputs[id] = lab.histogram(signals[0], -8, 8, 48);
        update.replace[`map-${id}`] = { [id]: mapOf(network, dataset.train) };
        update.facts[`inputs of layer 1 within ±1, ${label}`] = `${(100 * linear(signals[0])).toFixed(0)} %`;
      }
      yield update;
    }
    for (const { network } of networks) network.dispose();
  },

  claims: (runs) => [
    lab.judge(runs, {
      claim: "Without gamma and beta, sigmoids are held to their linear part.",
      source: "Ioffe & Szegedy 2015, 3",
      measure: ({ charts }) => {
        const within = ({ edges, shares }) =>
          100 * shares.reduce((sum, share, i) => sum + (Math.abs(edges[i] + edges[i + 1]) / 2 < LINEAR ? share : 0), 0);
        const { bare, with: whole } = charts.inputs;
        return { "inputs within ±1, %, without gamma and beta": within(bare), "with them": within(whole) };
      },
      holds: (m) => m["inputs within ±1, %, without gamma and beta"] > m["with them"],
    }),
    lab.judge(runs, {
      claim: "They fit less then, and with gamma and beta the network recovers.",
      source: "Ioffe & Szegedy 2015, 3",
      measure: ({ charts }) => ({
        "training loss, without gamma and beta": lab.last(charts.loss.bare),
        "with them": lab.last(charts.loss.with),
        "no batch norm": lab.last(charts.loss.without),
      }),
      holds: (m) => m["training loss, without gamma and beta"] > m["with them"],
    }),
    lab.judge(runs, {
      claim: "With gamma and beta set to the batch's standard deviation and mean, the layer is the identity.",
      source: "Ioffe & Szegedy 2015, 3",
      measure: ({ facts }) => ({
        "largest error, in units of the rounding of the largest value": Number(facts[IDENTITY]),
      }),
      holds: (m) => Object.values(m)[0] < 4,
    }),
  ],
};

const IDENTITY = "identity: largest error, in roundings";

/** How far batch norm is from the identity where gamma and beta undo it. */
function identity(seed) {
  const [samples, channels] = [256, 16];
  const { train } = lab.datasetOf("spirals", {}, { seed, train: (samples * channels) / 2, test: 1 });
  const x = {
    data: train.images.map((value, i) => value * (1 + (i % channels)) + 3 * (i % channels)),
    shape: [samples, channels],
  };
  const bn = new BatchNorm(channels);
  bn.forward(x, { mode: "train" });
  // momentum 1 would do as well; the batch's statistics are what one update by 0.1 made of mean 0 and variance 1
  bn.beta = bn.runningMean.map((mean) => mean / 0.1);
  bn.gamma = bn.runningVariance.map((variance) => {
    const unbiased = (variance - 0.9) / 0.1;
    return Math.sqrt((unbiased * (samples - 1)) / samples + bn.options.epsilon);
  });
  const y = bn.forward(x, { mode: "batch" });
  let error = 0;
  let largest = 0;
  for (const [i, value] of x.data.entries()) {
    error = Math.max(error, Math.abs(y.data[i] - value));
    largest = Math.max(largest, Math.abs(value));
  }
  return { [IDENTITY]: (error / (largest * 2 ** -24)).toPrecision(3) };
}

const linear = (inputs) => lab.shareOf(inputs, (s) => Math.abs(s) < LINEAR);

/** The network's answer over a square, with some samples. */
function mapOf(network, { images, labels }) {
  const { from, to, size } = MAP;
  const at = (i) => from + ((i + 0.5) * (to - from)) / size;
  const data = Float32Array.from({ length: size * size * 2 }, (_, i) =>
    i % 2 === 0 ? at((i >> 1) % size) : at(Math.floor((i >> 1) / size)),
  );
  const { probabilities } = network.predict({ data, shape: [size * size, 2] });
  const points = Array.from({ length: Math.min(200, labels.length) }, (_, i) => [
    ...images.subarray(2 * i, 2 * i + 2),
    labels[i],
  ]);
  return { from, to, size, values: Array.from({ length: size * size }, (_, i) => probabilities[2 * i + 1]), points };
}
