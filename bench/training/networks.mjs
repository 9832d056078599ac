// The networks whose training steps bench/training/main.mjs times in TF.js, built of TF.js's layers and a batch norm that is given.

import { layers, sequential } from "@tensorflow/tfjs-layers";

const CLASSES = 10;

const activation = (name) => layers.activation({ activation: name });
const relu6 = () => layers.reLU({ maxValue: 6 });
const classes = () => layers.dense({ units: CLASSES, activation: "softmax" });

function dense(batchNorm) {
  const hidden = (more) => [layers.dense({ units: 256, useBias: false, ...more }), batchNorm(), activation("relu")];
  return [...hidden({ inputShape: [784] }), ...hidden({}), ...hidden({}), classes()];
}

function leNet(batchNorm) {
  const convolution = (filters, more) => [
    layers.conv2d({ filters, kernelSize: 5, useBias: false, ...more }),
    batchNorm(),
    activation("relu"),
    layers.maxPooling2d({ poolSize: 2 }),
  ];
  const hidden = (units) => [layers.dense({ units, useBias: false }), batchNorm(), activation("relu")];
  return [
    ...convolution(6, { padding: "same", inputShape: [28, 28, 1] }),
    ...convolution(16, {}),
    layers.flatten(),
    ...hidden(120),
    ...hidden(84),
    classes(),
  ];
}

function mobileNet(batchNorm) {
  const normed = (convolution) => [convolution, batchNorm(), relu6()];
  const block = (filters, strides) => [
    ...normed(layers.depthwiseConv2d({ kernelSize: 3, strides, padding: "same", useBias: false })),
    ...normed(layers.conv2d({ filters, kernelSize: 1, useBias: false })),
  ];
  const first = { filters: 16, kernelSize: 3, strides: 2, padding: "same", useBias: false, inputShape: [32, 32, 3] };
  return [
    ...normed(layers.conv2d(first)),
    ...block(32, 1),
    ...block(64, 2),
    ...block(64, 1),
    ...block(128, 2),
    layers.globalAveragePooling2d({}),
    classes(),
  ];
}

/** Each with what the table says of it, the shape of an input, and the samples in a batch. */
export const NETWORKS = [
  { name: "dense, 3 × 256", input: [784], batch: 64, make: dense },
  { name: "LeNet-5, 28×28×1", input: [28, 28, 1], batch: 32, make: leNet },
  { name: "MobileNet, 4 blocks, 32×32×3", input: [32, 32, 3], batch: 16, make: mobileNet },
].map(({ make, ...network }) => ({
  ...network,
  classes: CLASSES,
  make: (batchNorm) => sequential({ layers: make(batchNorm) }),
}));
