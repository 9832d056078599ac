// Few images, learned by heart: what batch norm does for those that were not learned.

import * as lab from "../common.mjs";
import { batches } from "../data.mjs";

const UNITS = [100, 100];
const LOOKS = 60;

export default {
  id: "regularisation",
  title: "Regularisation: the gap to unseen images",
  text:
    "Two networks, with and without batch norm, learn a few hundred digits until they know them by heart. " +
    "Watch the gap between the accuracy on these digits and on images that they have never seen. The paper " +
    "says that batch norm regularises: a sample's output depends on the other samples of its batch, which change " +
    "at every step.",
  sources: [{ ...lab.IOFFE, text: "Ioffe & Szegedy 2015, section 3.4" }],
  guides: [lab.BATCH_NORM],
  controls: [
    lab.count("images", "Training images", 500, 20, 8000),
    lab.count("steps", "Steps", 800, 10, 20000),
    lab.number("rate", "Learning rate", 0.1, 0.001, 100),
    lab.count("batch", "Batch size", 16, 2, 1000),
    lab.activation("relu"),
    lab.seed,
  ],
  charts: () => [
    {
      ...{ id: "train", title: "Accuracy on training images", kind: "lines", x: lab.STEPS },
      ...{
        y: { label: "accuracy (%)" },
        series: [lab.WITH, lab.WITHOUT],
        hint: "Training images are evaluated in the same mode as test images.",
      },
    },
    {
      ...{ id: "test", title: "Accuracy on unseen images", kind: "lines", x: lab.STEPS },
      ...{
        y: { label: "accuracy (%)" },
        series: [lab.WITH, lab.WITHOUT],
        hint: "Regularisation should raise this accuracy.",
      },
    },
    {
      ...{ id: "gap", title: "The gap", kind: "lines", x: lab.STEPS, y: { label: "percentage points" } },
      ...{ series: [lab.WITH, lab.WITHOUT], hint: "Smaller is better, as long as both accuracies are high." },
    },
  ],

  *run({ images, steps, rate, batch, activation, seed }, data) {
    const dataset = lab.datasetOf("digits", data, { seed, train: images, test: 2000 });
    const options = { deviation: lab.scaled(1), seed, activation };
    const networks = [lab.WITH, lab.WITHOUT].map(({ id }) => ({
      id,
      network: lab.networkFor(dataset, UNITS, { ...options, norm: lab.normOf(id === "with") }),
    }));
    for (const { step, x, labels } of batches(dataset.train, Math.min(batch, images), steps)) {
      const look = lab.isLook(step, steps, LOOKS);
      const append = { train: {}, test: {}, gap: {} };
      for (const { id, network } of networks) {
        network.step(x, labels, rate);
        if (!look) continue;
        const [train, test] = [dataset.train, dataset.test].map((part) => lab.evaluate(network, part).accuracy);
        append.train[id] = [[step, train]];
        append.test[id] = [[step, test]];
        append.gap[id] = [[step, train - test]];
      }
      yield { done: step, total: steps, append };
    }
    for (const { network } of networks) network.dispose();
  },

  claims: (runs) => [
    lab.judge(runs, {
      claim: "Batch norm regularises: the gap between training and test accuracy is smaller.",
      source: "Ioffe & Szegedy 2015, 3.4",
      measure: ({ charts }) => ({
        "gap at the end, with": lab.last(charts.gap.with),
        without: lab.last(charts.gap.without),
      }),
      holds: (m) => m["gap at the end, with"] < m.without,
    }),
    lab.judge(runs, {
      claim: "Unseen images are classified better.",
      source: "Ioffe & Szegedy 2015, 3.4",
      measure: ({ charts }) => ({
        "test accuracy at the end, with": lab.last(charts.test.with),
        without: lab.last(charts.test.without),
      }),
      holds: (m) => m["test accuracy at the end, with"] > m.without,
    }),
  ],
};
