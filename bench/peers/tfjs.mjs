// Peers: TensorFlow.js on its wasm and its cpu backend, batch norm composed of moments and batchNorm and differentiated by
// grads, as its layer does it; and batchnorm-wasm/tfjs in its place. TF.js wants the channels last, and its gradient comes
// with a forward pass, so there is no backward alone.

import * as tf from "@tensorflow/tfjs-core";
import "@tensorflow/tfjs-backend-cpu";
import "@tensorflow/tfjs-layers"; // registers the gradients, which core's build for Node leaves out
import { setThreadsCount, setWasmPaths } from "@tensorflow/tfjs-backend-wasm";
import { EPSILON } from "../data.mjs";

/** TF.js's own. */
const theirs = async () => ({
  forward: (x, gamma, beta) => {
    const { mean, variance } = tf.moments(x, x.shape.map((_, axis) => axis).slice(0, -1));
    return tf.batchNorm(x, mean, variance, beta, gamma, EPSILON);
  },
  inference: (x, { gamma, beta, mean, variance }) => tf.batchNorm(x, mean, variance, beta, gamma, EPSILON),
});

/** Ours, on TF.js's tensors. */
export const ours = async () => {
  const { batchNorm, batchNormInference } = await import("../../dist/tfjs.js");
  return {
    forward: (x, gamma, beta) => batchNorm(x, { gamma, beta }, { epsilon: EPSILON }).y,
    inference: (x, parameters) => batchNormInference(x, parameters, { epsilon: EPSILON }),
  };
};

export const tfjs = (backend, load = theirs) => ({
  async prepare(problem, { tfjsWasm }) {
    tf.enableProdMode(); // without checks and advice
    if (backend === "wasm") {
      setWasmPaths(tfjsWasm);
      setThreadsCount(1);
    }
    if (!(await tf.setBackend(backend))) throw new Error(`the backend ${backend} did not start`);
    const [x, dy] = [problem.x, problem.dy].map((data) => tf.tensor(data, problem.shape));
    const [gamma, beta, mean, variance] = [
      problem.gamma,
      problem.beta,
      problem.runningMean,
      problem.runningVariance,
    ].map((data) => tf.tensor(data));
    const { forward, inference } = await load();
    const differentiate = tf.valueAndGrads(forward);
    /** Keeps what compute() returns, by name, until the next call. */
    const operation = (compute) => {
      let outputs = {};
      const call = () => {
        tf.dispose(outputs);
        outputs = tf.tidy(compute);
      };
      const results = () => Object.fromEntries(Object.entries(outputs).map(([name, t]) => [name, t.dataSync()]));
      return { call, results };
    };
    return {
      operations: {
        inference: operation(() => ({ y: inference(x, { gamma, beta, mean, variance }) })),
        forward: operation(() => ({ y: forward(x, gamma, beta) })),
        step: operation(() => {
          const { value: y, grads } = differentiate([x, gamma, beta], dy);
          const [dx, dGamma, dBeta] = grads;
          return { y, dx, dGamma, dBeta };
        }),
      },
    };
  },
});
