// The networks that bench/training times in TF.js, built of TF.js's layers and a batch norm that is given.

import { dispose, randomUniform } from "@tensorflow/tfjs-core";
import { layers, sequential } from "@tensorflow/tfjs-layers";

const CLASSES = 10;

const activation = (name) => layers.activation({ activation: name });
const relu6 = () => layers.reLU({ maxValue: 6 });
const classes = () => layers.dense({ units: CLASSES, activation: "softmax" });

function dense(batchNorm, inputShape) {
  const hidden = (more) => [layers.dense({ units: 256, useBias: false, ...more }), batchNorm(), activation("relu")];
  return [...hidden({ inputShape }), ...hidden({}), ...hidden({}), classes()];
}

function leNet(batchNorm, inputShape) {
  const convolution = (filters, more) => [
    layers.conv2d({ filters, kernelSize: 5, useBias: false, ...more }),
    batchNorm(),
    activation("relu"),
    layers.maxPooling2d({ poolSize: 2 }),
  ];
  const hidden = (units) => [layers.dense({ units, useBias: false }), batchNorm(), activation("relu")];
  return [
    ...convolution(6, { padding: "same", inputShape }),
    ...convolution(16, {}),
    layers.flatten(),
    ...hidden(120),
    ...hidden(84),
    classes(),
  ];
}

/** MobileNet (Howard et al. 2017): a convolution, and blocks of a depthwise and a pointwise one, [filters, strides] each. */
const mobileNet = (filters, blocks) => (batchNorm, inputShape) => {
  const normed = (convolution) => [convolution, batchNorm(), relu6()];
  const block = ([filters, strides]) => [
    ...normed(layers.depthwiseConv2d({ kernelSize: 3, strides, padding: "same", useBias: false })),
    ...normed(layers.conv2d({ filters, kernelSize: 1, useBias: false })),
  ];
  return [
    ...normed(layers.conv2d({ filters, kernelSize: 3, strides: 2, padding: "same", useBias: false, inputShape })),
    ...blocks.flatMap(block),
    layers.globalAveragePooling2d({}),
    classes(),
  ];
};

const SMALL = [
  [32, 1],
  [64, 2],
  [64, 1],
  [128, 2],
];
const WHOLE = [
  [64, 1],
  [128, 2],
  [128, 1],
  [256, 2],
  [256, 1],
  [512, 2],
  ...Array(5).fill([512, 1]),
  [1024, 2],
  [1024, 1],
];

/** Gives a model the same weights every time, so that predictions can be compared. */
function seeded(model) {
  const weights = model.weights.map(({ shape, originalName }, i) =>
    /gamma|variance/.test(originalName)
      ? randomUniform(shape, 0.5, 1.5, "float32", i + 1)
      : randomUniform(shape, -0.1, 0.1, "float32", i + 1),
  );
  model.setWeights(weights);
  dispose(weights);
  return model;
}

const networkOf = ({ make, ...network }) => ({
  ...network,
  classes: CLASSES,
  make: (batchNorm) => seeded(sequential({ layers: make(batchNorm, network.input) })),
});

/** Each with what the tables say of it, the shape of an input, and the samples in a batch. */
export const NETWORKS = [
  { name: "dense, 3 × 256", input: [784], batch: 64, make: dense },
  { name: "LeNet-5, 28×28×1", input: [28, 28, 1], batch: 32, make: leNet },
  { name: "MobileNet, 4 blocks, 32×32×3", input: [32, 32, 3], batch: 16, make: mobileNet(16, SMALL) },
].map(networkOf);

/** Networks that predict: the same, and MobileNet as it recognises faces, one at a time. */
export const FINISHED = [
  ...NETWORKS,
  networkOf({ name: "MobileNet, 13 blocks, 112×112×3", input: [112, 112, 3], batch: 1, make: mobileNet(32, WHOLE) }),
];
