// This package through its public API: on tensors in wasm memory, which are neither copied nor allocated anew, and on plain
// arrays, which are copied in and out.

import { BatchNorm, tensor } from "batchnorm-wasm";

function layer({ channels, layout, gamma, beta }) {
  const bn = new BatchNorm(channels, { layout });
  bn.gamma = gamma.slice();
  bn.beta = beta.slice();
  return bn;
}

export const tensors = {
  name: "batchnorm-wasm, tensors",
  prepare(data) {
    // two layers, since an inference between forward and backward would take forward's place
    const [bn, predictor] = [layer(data), layer(data).eval()];
    const [x, dy] = [tensor(data.shape, data.x), tensor(data.shape, data.dy)];
    const [y, dx] = [tensor(data.shape), tensor(data.shape)];
    let gradients;
    return {
      x,
      y,
      inference: () => predictor.forward(x, { out: y }),
      forward: () => bn.forward(x, { out: y }),
      backward() {
        gradients = bn.backward(dy, { dxOut: dx });
      },
      result: () => ({ y: y.data, dx: dx.data, dGamma: gradients.dGamma, dBeta: gradients.dBeta }),
      dispose() {
        for (const held of [bn, predictor, x, dy, y, dx]) held.dispose();
      },
    };
  },
};

export const arrays = {
  name: "batchnorm-wasm, plain arrays",
  prepare(data) {
    const [bn, predictor] = [layer(data), layer(data).eval()];
    const [x, dy] = [
      { data: data.x, shape: data.shape },
      { data: data.dy, shape: data.shape },
    ];
    const [y, dx] = [x, dy].map(({ shape }) => ({ data: new Float32Array(data.length), shape }));
    let gradients;
    return {
      inference: () => predictor.forward(x, { out: y }),
      forward: () => bn.forward(x, { out: y }),
      backward() {
        gradients = bn.backward(dy, { dxOut: dx });
      },
      result: () => ({ y: y.data, dx: dx.data, dGamma: gradients.dGamma, dBeta: gradients.dBeta }),
      dispose() {
        for (const held of [bn, predictor]) held.dispose();
      },
    };
  },
};
