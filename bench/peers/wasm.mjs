// Peers: this library, through its public API, on tensors in wasm memory and on plain arrays. Destinations are given, so
// that a call measures the work and not the garbage collector.

import { BatchNorm, tensor } from "batchnorm-wasm";
import { EPSILON } from "../data.mjs";

const ours = (name, make) => ({
  name,
  prepare({ shape, layout, dims, x: xData, dy: dyData, gamma, beta, runningMean, runningVariance }) {
    const empty = () => make(shape, new Float32Array(xData.length));
    const [x, dy, y, dx] = [make(shape, xData), make(shape, dyData), empty(), empty()];
    // a layer for each operation: backward needs what the latest forward of its own layer kept
    const layer = () =>
      Object.assign(new BatchNorm(dims.channels, { layout, epsilon: EPSILON }), {
        gamma: gamma.slice(),
        beta: beta.slice(),
        runningMean: runningMean.slice(),
        runningVariance: runningVariance.slice(),
      });
    const layers = [layer(), layer(), layer()];
    const [inferring, training, differentiating] = layers;
    inferring.eval();
    differentiating.forward(x, { out: y });
    let gradients = {};
    return {
      operations: {
        inference: { call: () => inferring.forward(x, { out: y }), results: () => ({ y: y.data }) },
        forward: { call: () => training.forward(x, { out: y }), results: () => ({ y: y.data }) },
        backward: {
          call: () => {
            gradients = differentiating.backward(dy, { dxOut: dx });
          },
          results: () => ({ dx: dx.data, dGamma: gradients.dGamma, dBeta: gradients.dBeta }),
        },
      },
      dispose() {
        for (const held of [...layers, x, dy, y, dx]) held.dispose?.();
      },
    };
  },
});

export const tensors = ours("batchnorm-wasm, tensors", tensor);
export const arrays = ours("batchnorm-wasm, arrays", (shape, data) => ({ data, shape }));
