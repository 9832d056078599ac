// LeNet with batch norm as in d2l's chapter: convolutional and dense layers, through the layer for TF.js.

import * as lab from "../common.mjs";
import { batches, CLASSES } from "../data.mjs";

const LOOKS = 30;

export default {
  id: "lenet",
  title: "LeNet, as in d2l's chapter",
  text:
    "LeNet learns the digits in TF.js, with and without batch norm: as in d2l's chapter, a batch norm follows every " +
    "convolutional and dense layer but the last, and normalises each channel of images and each unit of vectors. " +
    "Watch loss and accuracy, and the gamma and beta that the network learns. The chapter says that batch norm speeds " +
    "up convergence and allows a larger learning rate.",
  sources: [lab.D2L],
  guides: [lab.TFJS, lab.BATCH_NORM],
  controls: [
    lab.count("steps", "Steps", 150, 5, 10000),
    lab.number("rate", "Learning rate", 0.3, 0.001, 10, { hint: "the chapter: 0.1, for ten epochs of 60,000 images" }),
    lab.count("batch", "Batch size", 128, 2, 1024),
    lab.seed,
  ],
  charts: () => [
    {
      ...{ id: "accuracy", title: "Test accuracy", kind: "lines", x: lab.STEPS, y: lab.ACCURACY },
      ...{ series: [lab.WITH, lab.WITHOUT], hint: "Measured on 500 images." },
    },
    {
      ...{
        id: "loss",
        title: "Training loss",
        kind: "lines",
        x: lab.STEPS,
        y: { label: "loss of the batch", log: true },
      },
      ...{ series: [lab.WITH, lab.WITHOUT], hint: "Each value is the loss of one batch." },
    },
    ...["gamma", "beta"].map((name) => ({
      ...{ id: name, title: `${name === "gamma" ? "Gamma" : "Beta"} of the first batch norm`, kind: "lines" },
      ...{ x: lab.STEPS, y: { label: name } },
      series: CHANNELS.map((c) => ({ id: `${c}`, label: `channel ${c}`, color: c })),
      hint: `From ${name} ${STARTS[name]} the network finds its own for each channel.`,
    })),
  ],

  async *run({ steps, rate, batch, seed }, data) {
    // here, so that a page loads TF.js for this experiment alone
    const { info, lenet, SIDE, startTfjs, tf } = await import("../tfjs.mjs");
    await startTfjs(data.tfjsBinaries);
    const dataset = lab.datasetOf("digits", data, { seed, train: 4096, test: 500 });
    const images = (values, count) => tf.tensor4d(values, [count, SIDE, SIDE, 1]);
    const target = (labels) => tf.oneHot(tf.tensor1d(labels, "int32"), CLASSES);
    const nets = [lab.WITH, lab.WITHOUT].map(({ id }) => {
      const net = lenet(id === "with", seed);
      net.compile({ optimizer: tf.train.sgd(rate), loss: "categoricalCrossentropy" });
      return { id, net };
    });
    const test = images(dataset.test.images, dataset.test.labels.length);
    const accuracyOf = (net) => {
      const classes = tf.tidy(() => tf.argMax(net.predict(test, { batchSize: 100 }), -1).dataSync());
      return lab.accuracyOf(classes, dataset.test.labels);
    };
    yield { done: 0, total: steps, facts: { "TF.js": `${info().backend} backend, tensors ${info().memory}` } };
    for (const { step, x, labels } of batches(dataset.train, batch, steps)) {
      const update = { done: step, total: steps, append: { accuracy: {}, loss: {} } };
      const [input, output] = [images(x.data, batch), target(labels)];
      for (const { id, net } of nets) {
        update.append.loss[id] = [[step, await net.trainOnBatch(input, output)]];
        if (lab.isLook(step, steps, LOOKS)) update.append.accuracy[id] = [[step, accuracyOf(net)]];
      }
      tf.dispose([input, output]);
      const [gamma, beta] = nets[0].net.layers.find((l) => l.getClassName() === "BatchNormalization").getWeights();
      for (const [name, values] of Object.entries({ gamma: gamma.dataSync(), beta: beta.dataSync() }))
        update.append[name] = Object.fromEntries(CHANNELS.map((c) => [`${c}`, [[step, values[c]]]]));
      yield update;
    }
    test.dispose();
    for (const { net } of nets) net.dispose();
  },

  claims: (runs) => [
    lab.judge(runs, {
      claim: "Batch norm accelerates the convergence of LeNet.",
      source: "d2l, 8.5.4",
      measure: ({ charts }) => ({
        "steps to 80 %, with": lab.reaches(charts.accuracy.with, 80),
        without: lab.reaches(charts.accuracy.without, 80),
      }),
      holds: (m) => m["steps to 80 %, with"] < m.without,
    }),
    lab.judge(runs, {
      claim: "After the same steps it is more accurate.",
      source: "d2l, 8.5.4",
      measure: ({ charts }) => ({
        "test accuracy, with": lab.last(charts.accuracy.with),
        without: lab.last(charts.accuracy.without),
      }),
      holds: (m) => m["test accuracy, with"] > m.without,
    }),
    lab.judge(runs, {
      claim: "Gamma and beta are learned: they leave 1 and 0.",
      source: "d2l, 8.5.4",
      measure: ({ charts }) => {
        const farthest = (name) => Math.max(...CHANNELS.map((c) => Math.abs(lab.last(charts[name][c]) - STARTS[name])));
        return { "farthest gamma from 1": farthest("gamma"), "farthest beta from 0": farthest("beta") };
      },
      holds: (m) => m["farthest gamma from 1"] > 0.01 && m["farthest beta from 0"] > 0.01,
    }),
  ],
};

const CHANNELS = [0, 1, 2, 3, 4, 5];
const STARTS = { gamma: 1, beta: 0 };
