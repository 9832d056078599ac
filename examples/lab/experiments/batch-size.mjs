// Batches of 1 to 256: what small ones cost, and which statistics the network is evaluated with afterwards.

import { BatchNorm, recalibrate } from "batchnorm-wasm";
import * as lab from "../common.mjs";
import { batches, whole } from "../data.mjs";
import { batchNorm } from "../norms.mjs";

const UNITS = [64, 64];
const SIZES = [1, 2, 4, 8, 16, 32, 64, 128, 256];
/** Training images. */
const TRAIN = 4096;
/** Ghost batches are parts of batches of this size. */
const LARGE = 256;
/** Samples between two looks from outside. */
const PACE = 512;

const ESTIMATES = [
  { id: "batch", label: "the batch's own", color: 3 },
  { id: "ema", label: "moving average (EMA)", color: 0 },
  { id: "cumulative", label: "mean over all of training", color: 2 },
  { id: "population", label: "exact, of the final weights", color: 4 },
  lab.WITHOUT,
];
const GHOSTS = [
  { id: "ghost", label: `ghost batches in batches of ${LARGE}`, color: 0 },
  { id: "small", label: "batches of that size", color: 2 },
];

export default {
  id: "batch-size",
  title: "Batch size: whose statistics?",
  text:
    "The same number of samples is learned in batches of 1 to 256, and in the second chart also in batches of 256 " +
    "with smaller ghost batches, which Hoffer et al. recommend. Watch the test error with four kinds of statistics: " +
    "those of test batches of the same size, the moving average of training, the mean over all of training, and the " +
    "exact statistics of the training set with the final weights. Wu & He say that the error rises as batches shrink, " +
    "and Wu & Johnson say that exact statistics are better than moving averages.",
  sources: [
    { text: "Wu & He 2018, figure 1", url: "https://arxiv.org/abs/1803.08494" },
    { text: "Wu & Johnson 2021, section 3", url: "https://arxiv.org/abs/2105.07576" },
    { text: "Hoffer et al. 2017", url: "https://arxiv.org/abs/1705.08741" },
  ],
  guides: [lab.SMALL_BATCHES, lab.GHOST_BATCHES, lab.RECALIBRATION],
  controls: [
    lab.count("samples", "Samples to learn in each training", 8192, 512, 200_000),
    lab.number("rate", "Learning rate", 0.1, 0.001, 100),
    lab.number("momentum", "Momentum of the moving average", 0.1, 0.001, 1, { hint: "the weight of the new batch" }),
    lab.activation("relu"),
    lab.seed,
  ],
  charts: () => {
    const y = { label: "test error (%)" };
    return [
      {
        ...{ id: "error", title: "Test error, by the statistics that normalise", kind: "lines", y, series: ESTIMATES },
        ...{
          x: { label: "batch size", log: true },
          hint: "Where the lines separate, the choice of statistics changes the error.",
        },
      },
      {
        ...{ id: "ghost", title: "Ghost batches", kind: "lines", y, series: GHOSTS },
        ...{ x: { label: "samples that normalise together", log: true }, hint: "Evaluated by the moving average." },
      },
    ];
  },

  async *run({ samples, rate, momentum, activation, seed }, data) {
    const dataset = lab.datasetOf("digits", data, { seed, train: TRAIN, test: 1000 });
    const options = { deviation: lab.scaled(1), seed, activation };
    const networkOf = (norm) => lab.networkFor(dataset, UNITS, { ...options, norm });
    const total = samples * (2 * SIZES.length + SIZES.length - 1);
    let done = 0;
    /** One training, with a look from outside now and then. */
    function* learn(network, size) {
      let seen = 0;
      for (const { x, labels } of batches(dataset.train, size, Math.ceil(samples / size))) {
        network.step(x, labels, rate);
        seen += size;
        if (Math.floor(seen / PACE) > Math.floor((seen - size) / PACE)) yield { done: done + seen, total };
      }
      done += samples;
    }
    const errorOf = (network) => 100 - lab.evaluate(network, dataset.test).accuracy;

    for (const size of SIZES) {
      const error = {};
      const facts = {};
      const plain = networkOf(lab.normOf(false));
      yield* learn(plain, size);
      error.without = [[size, errorOf(plain)]];
      plain.dispose();

      const network = networkOf((channels) => new Watched(channels, momentum));
      try {
        yield* learn(network, size);
        error.batch = [[size, errorInBatches(network, dataset.test, size)]];
        error.ema = [[size, errorOf(network)]];
        for (const norm of network.norms) norm.evaluateByCumulative();
        error.cumulative = [[size, errorOf(network)]];
        const layers = network.norms.map((norm) => norm.inner);
        const inputs = batches(dataset.train, LARGE, TRAIN / LARGE);
        await recalibrate(layers, inputs, { forward: ({ x }) => network.predict(x, undefined, "train") });
        error.population = [[size, errorOf(network)]];
      } catch (e) {
        if (e.code !== "one-value-per-channel") throw e;
        done += samples;
        facts[`batch size ${size}`] = `refused: ${e.message.split(":")[0]}`;
      }
      network.dispose();
      yield { done, total, append: { error, ghost: error.ema ? { small: error.ema } : {} }, facts };
    }
    for (const size of SIZES.slice(1)) {
      const network = networkOf(batchNorm({ momentum, ghostBatchSize: size }));
      yield* learn(network, LARGE);
      yield { done, total, append: { ghost: { ghost: [[size, errorOf(network)]] } } };
      network.dispose();
    }
  },

  claims: (runs) => {
    const at = (points, size) => points.find(([x]) => x === size)?.[1] ?? Number.NaN;
    return [
      lab.judge(runs, {
        claim: "The error of batch norm rises as batches shrink.",
        source: "Wu & He 2018, figure 1",
        measure: ({ charts }) => ({
          "error at batch size 2, %": at(charts.error.ema, 2),
          "at 16": at(charts.error.ema, 16),
          "at 256": at(charts.error.ema, 256),
        }),
        holds: (m) => m["error at batch size 2, %"] > m["at 16"],
      }),
      lab.judge(runs, {
        claim: "At small batches, exact population statistics serve better than the moving average.",
        source: "Wu & Johnson 2021, 3",
        measure: ({ charts }) => ({
          "error at batch size 4, %, exact": at(charts.error.population, 4),
          "moving average": at(charts.error.ema, 4),
        }),
        holds: (m) => m["error at batch size 4, %, exact"] < m["moving average"],
      }),
      lab.judge(runs, {
        claim: "Evaluating small batches by their own statistics costs accuracy.",
        source: "Wu & Johnson 2021",
        measure: ({ charts }) => ({
          "error at batch size 4, %, own statistics": at(charts.error.batch, 4),
          "moving average": at(charts.error.ema, 4),
        }),
        holds: (m) => m["error at batch size 4, %, own statistics"] > m["moving average"],
      }),
      lab.judge(runs, {
        claim: "In large batches, ghost batches lower the error.",
        source: "Hoffer et al. 2017",
        measure: ({ charts }) => ({
          "error in batches of 256, %, ghosts of 32": at(charts.ghost.ghost, 32),
          "no ghosts": at(charts.ghost.ghost, 256),
        }),
        holds: (m) => m["error in batches of 256, %, ghosts of 32"] < m["no ghosts"],
      }),
    ];
  },
};

/** A BatchNorm, and beside it the mean of its statistics over all of training. */
class Watched {
  constructor(channels, momentum) {
    this.inner = batchNorm({ momentum })(channels);
    this.cumulative = new BatchNorm(channels, { estimator: "cumulative", affine: false, onNonFinite: "allow" });
  }

  get gamma() {
    return this.inner.gamma;
  }

  get beta() {
    return this.inner.beta;
  }

  forward(x, { mode }) {
    const y = this.inner.forward(x, { mode });
    if (mode === "train") this.cumulative.forward(x);
    return y;
  }

  backward(dy) {
    return this.inner.backward(dy);
  }

  evaluateByCumulative() {
    this.inner.runningMean = this.cumulative.runningMean.slice();
    this.inner.runningVariance = this.cumulative.runningVariance.slice();
  }
}

/** The error where every batch of test images is normalised by its own statistics. */
function errorInBatches(network, samples, size) {
  const { x, labels } = whole(samples);
  const features = x.shape[1];
  let right = 0;
  let seen = 0;
  for (let at = 0; at + size <= labels.length; at += size) {
    const part = { data: x.data.subarray(at * features, (at + size) * features), shape: [size, features] };
    const own = labels.subarray(at, at + size);
    right += (lab.accuracyOf(network.predict(part, undefined, "batch").classes, own) * size) / 100;
    seen += size;
  }
  return 100 * (1 - right / seen);
}
