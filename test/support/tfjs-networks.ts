// Small networks with batch norm for the suites of batchnorm-wasm/tfjs. Seeds decide their weights, so that two of one kind
// start alike, and their data.

import * as tf from "@tensorflow/tfjs-core";
import { initializers, layers, type Sequential, sequential } from "@tensorflow/tfjs-layers";
import { normal, sizeOf } from "./worlds.ts";

type BatchNormLayer = ReturnType<typeof layers.batchNormalization>;

export const CLASSES = 3;
export const IMAGE: [number, number, number] = [12, 12, 1];

/** Images of three classes that differ in where they are bright, and their classes, one-hot. */
export function images(count: number): { xs: tf.Tensor4D; ys: tf.Tensor2D } {
  const classOf = (i: number) => i % CLASSES;
  const [height, width] = IMAGE;
  const values = normal(7, count * sizeOf(IMAGE)).map((noise, i) => {
    const row = Math.floor(i / width) % height;
    const image = Math.floor(i / sizeOf(IMAGE));
    return noise + (Math.floor(row / 4) === classOf(image) ? 2 : 0);
  });
  const classes = Array.from({ length: count }, (_, i) => classOf(i));
  return {
    xs: tf.tensor4d(Float32Array.from(values), [count, ...IMAGE]),
    ys: tf.oneHot(tf.tensor1d(classes, "int32"), CLASSES) as tf.Tensor2D,
  };
}

/** Initialisers with a new seed for each layer. */
function seeded() {
  let seed = 1;
  return () => initializers.heUniform({ seed: seed++ });
}

function compiled(list: Parameters<Sequential["add"]>[0][], rate = 0.05): Sequential {
  const net = sequential({ layers: list });
  net.compile({ optimizer: tf.train.sgd(rate), loss: "categoricalCrossentropy" });
  return net;
}

/** LeCun et al. 1998, with batch norm and max pooling: two convolutions, two dense layers. */
export function leNet(batchNorm: () => BatchNormLayer): Sequential {
  const next = seeded();
  const convolution = (filters: number, more: object) =>
    layers.conv2d({ filters, kernelSize: 3, useBias: false, kernelInitializer: next(), ...more });
  const relu = () => layers.activation({ activation: "relu" });
  return compiled([
    convolution(4, { padding: "same", inputShape: IMAGE }),
    batchNorm(),
    relu(),
    layers.maxPooling2d({ poolSize: 2 }),
    convolution(6, { padding: "valid" }),
    batchNorm(),
    relu(),
    layers.averagePooling2d({ poolSize: 2 }),
    layers.flatten(),
    layers.dense({ units: 8, useBias: false, kernelInitializer: next() }),
    batchNorm(),
    relu(),
    layers.dense({ units: CLASSES, kernelInitializer: next(), activation: "softmax" }),
  ]);
}

/** Howard et al. 2017 on a small scale: depthwise and pointwise convolutions, with strides 1 and 2, and global pooling. */
export function mobileNet(batchNorm: () => BatchNormLayer): Sequential {
  const next = seeded();
  const block = (filters: number, strides: number) => [
    layers.depthwiseConv2d({
      kernelSize: 3,
      strides,
      padding: "same",
      useBias: false,
      depthwiseInitializer: next(),
    }),
    batchNorm(),
    layers.reLU({ maxValue: 6 }),
    layers.conv2d({ filters, kernelSize: 1, useBias: false, kernelInitializer: next() }),
    batchNorm(),
    layers.reLU({ maxValue: 6 }),
  ];
  return compiled(
    [
      layers.conv2d({
        filters: 4,
        kernelSize: 3,
        strides: 2,
        padding: "same",
        useBias: false,
        kernelInitializer: next(),
        inputShape: IMAGE,
      }),
      batchNorm(),
      layers.reLU({ maxValue: 6 }),
      ...block(6, 1),
      ...block(8, 2),
      layers.globalAveragePooling2d({}),
      layers.dense({ units: CLASSES, kernelInitializer: next(), activation: "softmax" }),
    ],
    0.2,
  );
}
