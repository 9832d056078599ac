// Figure 1 of Ioffe & Szegedy: the same network with and without batch norm, side by side.

import { quantile } from "simple-statistics";
import * as lab from "../common.mjs";
import { batches } from "../data.mjs";

const UNITS = [100, 100, 100];
const LOOKS = 60;
const PERCENTILES = [0.15, 0.5, 0.85];
// Units are alike before training, so any will do.
const UNIT = 0;

export default {
  id: "figure1",
  title: "Figure 1: faster, and with steadier inputs",
  text:
    "Two networks of three hidden layers of 100 sigmoid units learn the digits from the same weights and batches, one with batch " +
    "norm before every sigmoid. Watch how soon each becomes accurate, and how the input of one unit of the last hidden layer is " +
    "distributed over the test images. The paper says that batch norm makes training faster and the result more accurate, and keeps that distribution stable.",
  sources: [{ ...lab.IOFFE, text: "Ioffe & Szegedy 2015, section 4.1 and figure 1" }],
  guides: [lab.BATCH_NORM],
  controls: [
    lab.count("steps", "Steps", 1500, 10, 20000),
    lab.number("rate", "Learning rate", 0.5, 0.001, 100),
    lab.number("deviation", "Deviation of the weights", 0.03, 0.001, 10, {
      hint: "“small random Gaussian values”, says the paper",
    }),
    lab.count("batch", "Batch size", 60, 2, 1000),
    lab.activation("sigmoid"),
    lab.seed,
  ],
  charts: () => [
    {
      ...{ id: "accuracy", title: "Test accuracy", kind: "lines", x: lab.STEPS, y: lab.ACCURACY },
      ...{
        series: [lab.WITH, lab.WITHOUT],
        hint: "A line further left learns faster, and a line further up is more accurate.",
      },
    },
    ...[lab.WITH, lab.WITHOUT].map((series) => ({
      ...{
        id: `input-${series.id}`,
        title: `Input of one last-layer unit, ${series.label}`,
        kind: "bands",
        x: lab.STEPS,
      },
      ...{ y: { label: "15th, 50th, 85th percentile" }, series: [series] },
      hint: "If the band keeps its place and width, the distribution of the inputs is stable.",
    })),
  ],

  *run({ steps, rate, deviation, batch, activation, seed }, data) {
    const dataset = lab.datasetOf("digits", data, { seed, train: 8000, test: 1000 });
    const networks = [lab.WITH, lab.WITHOUT].map(({ id }) => ({
      id,
      network: lab.networkFor(dataset, UNITS, { norm: lab.normOf(id === "with"), deviation, seed, activation }),
    }));
    const looks = (step) => {
      const append = { accuracy: {} };
      for (const { id, network } of networks) {
        const { accuracy, s } = lab.evaluate(network, dataset.test);
        const inputs = Array.from(dataset.test.labels, (_, i) => s[i * UNITS.at(-1) + UNIT]);
        append.accuracy[id] = [[step, accuracy]];
        append[`input-${id}`] = { [id]: [[step, ...quantile(inputs, PERCENTILES)]] };
      }
      return append;
    };
    yield { done: 0, total: steps, append: looks(0) };
    for (const { step, x, labels } of batches(dataset.train, batch, steps)) {
      for (const { network } of networks) network.step(x, labels, rate);
      yield { done: step, total: steps, ...(lab.isLook(step, steps, LOOKS) && { append: looks(step) }) };
    }
    for (const { network } of networks) network.dispose();
  },

  claims: (runs) => [
    lab.judge(runs, {
      claim: "Batch norm trains faster: it needs fewer steps to 90 % accuracy.",
      source: "Ioffe & Szegedy 2015, 4.1",
      measure: ({ charts }) => ({
        "steps with": lab.reaches(charts.accuracy.with, 90),
        "steps without": lab.reaches(charts.accuracy.without, 90),
      }),
      holds: (m) => m["steps with"] < m["steps without"],
    }),
    lab.judge(runs, {
      claim:
        "Batch norm reaches a higher test accuracy, here within the steps of a run, in which the network without is not done.",
      source: "Ioffe & Szegedy 2015, figure 1a",
      measure: ({ charts }) => ({
        "at the end, with": lab.last(charts.accuracy.with),
        without: lab.last(charts.accuracy.without),
      }),
      holds: (m) => m["at the end, with"] > m.without,
    }),
    lab.judge(runs, {
      claim: "With batch norm the distribution of a unit's input is more stable as training progresses.",
      source: "Ioffe & Szegedy 2015, figure 1b, c",
      measure: ({ charts }) => ({
        "median moves in all, in widths of the band, with": drift(charts["input-with"].with),
        without: drift(charts["input-without"].without),
      }),
      holds: (m) => m["median moves in all, in widths of the band, with"] < m.without,
    }),
  ],
};

/** How far the median goes from look to look, in all, in units of the band's mean width. */
function drift(points) {
  let way = 0;
  let width = 0;
  for (const [i, [, low, middle, high]] of points.entries()) {
    if (i > 0) way += Math.abs(middle - points[i - 1][2]);
    width += (high - low) / points.length;
  }
  return way / width;
}
