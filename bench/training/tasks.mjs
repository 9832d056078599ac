// What bench/training times in TF.js, in Node and in a page: training steps and predictions of networks, and steps of one layer.

import * as tf from "@tensorflow/tfjs-core";
import { random } from "../data.mjs";
import { timeCalls } from "../measure.mjs";

const SEED = 2026;

const valuesOf = (shape) => {
  const next = random(SEED);
  const length = shape.reduce((a, b) => a * b, 1);
  return tf.tensor(
    Float32Array.from({ length }, () => 2 * next() - 1),
    shape,
  );
};

/**
 * A task of bench/measure.mjs. `begin` returns a call, which returns a promise of a number that has to be finite. The backend
 * is current, and `register` has been called, while the task runs.
 */
export function taskOf({ backend, register }, begin) {
  let call;
  let result;
  const measured = async () => {
    result = await call();
  };
  return {
    time: async (repeats) => {
      await tf.setBackend(backend);
      const undo = register?.();
      try {
        call ??= await begin();
        return await timeCalls({ call: measured, asynchronous: true }, repeats);
      } finally {
        undo?.();
      }
    },
    check: () => {
      if (!Number.isFinite(result)) throw new Error(`the result is ${result}`);
      return { result };
    },
  };
}

/** A step of SGD of a network, whose result is the loss. */
export const trainingStep =
  (batchNorm, { make, input, batch, classes }) =>
  () => {
    const model = make(batchNorm);
    model.compile({ optimizer: tf.train.sgd(0.01), loss: "categoricalCrossentropy" });
    const labels = Int32Array.from({ length: batch }, (_, i) => i % classes);
    const [xs, ys] = [valuesOf([batch, ...input]), tf.tidy(() => tf.oneHot(tf.tensor1d(labels, "int32"), classes))];
    return () => model.trainOnBatch(xs, ys);
  };

/** The first number of a tensor, which is there when all of it is. */
async function firstOf(t) {
  const [first] = await t.data();
  t.dispose();
  return first;
}

/** A prediction of a network that `prepare` has changed. */
export const prediction =
  (batchNorm, { make, input, batch }, prepare = (model) => model) =>
  async () => {
    const model = await prepare(await make(batchNorm));
    const xs = valuesOf([batch, ...input]);
    return () => firstOf(model.predict(xs));
  };

/** A forward of a layer after training. One element is read, so that the device has ended. */
export const layerInference = (batchNorm, shape) => () => {
  const [layer, x] = [batchNorm(), valuesOf(shape)];
  layer.build([null, ...shape.slice(1)]);
  return () => firstOf(tf.tidy(() => tf.slice(tf.reshape(layer.apply(x), [-1]), 0, 1)));
};

/** A forward of a layer in training, and its gradients with respect to x, gamma and beta. */
export const layerStep = (batchNorm, shape) => () => {
  const [layer, x, dy] = [batchNorm(), tf.variable(valuesOf(shape)), valuesOf(shape)];
  layer.build([null, ...shape.slice(1)]);
  const variables = [x, ...layer.trainableWeights.map((weight) => weight.read())];
  const loss = () => tf.sum(tf.mul(layer.apply(x, { training: true }), dy));
  return async () => {
    const { value, grads } = tf.variableGrads(loss, variables);
    // the device has ended when the smallest results of both directions are there
    const [result] = await Promise.all([value, grads[variables.at(-1).name]].map((t) => t.data()));
    tf.dispose([value, grads]);
    return result[0];
  };
};
