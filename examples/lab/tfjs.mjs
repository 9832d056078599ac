// TF.js for the lab, and LeNet in it: on its wasm backend, with the gradient of convolution that this backend lacks, composed
// of kernels that it has. On its cpu backend, which has it, a step of LeNet takes 75 times as long: 5.2 s.

import { setWasmPaths } from "@tensorflow/tfjs-backend-wasm";
import * as tf from "@tensorflow/tfjs-core";
import { initializers, layers, sequential } from "@tensorflow/tfjs-layers";
import { batchNormalization, info } from "batchnorm-wasm/tfjs";
import { CLASSES, PIXELS } from "./data.mjs";

export { info, tf };

/** Pixels to a side of an image. */
export const SIDE = Math.sqrt(PIXELS);

/** Starts the backend; `binaries` is the folder that has its .wasm files, where TF.js does not find it by itself. */
export async function startTfjs(binaries) {
  if (tf.getBackend() === "wasm") return;
  tf.enableProdMode(); // without advice on the console
  if (binaries) setWasmPaths(binaries);
  for (const [kernelName, compute] of Object.entries(KERNELS))
    if (!tf.getKernel(kernelName, "wasm"))
      tf.registerKernel({
        kernelName,
        backendName: "wasm",
        kernelFunc: ({ inputs, attrs }) => tf.tidy(() => compute(inputs, attrs)),
      });
  if (!(await tf.setBackend("wasm"))) throw new Error("TF.js's wasm backend did not start");
}

const KERNELS = {
  /**
   * dFilter[u, v, i, o] = Σ x[n, y + u, x + v, i]·dy[n, y, x, o]: a convolution in which samples and channels change places.
   * For strides of 1 without padding.
   */
  Conv2DBackpropFilter({ x, dy }, { strides, pad, dilations = 1 }) {
    if ([strides, dilations].flat().some((s) => s !== 1) || pad !== "valid")
      throw new Error(`Conv2DBackpropFilter: expected strides 1 and pad "valid", got ${strides} and ${pad}`);
    const images = tf.transpose(x, [3, 1, 2, 0]);
    const filter = tf.transpose(dy, [1, 2, 0, 3]);
    return tf.transpose(tf.conv2d(images, filter, 1, "valid"), [1, 2, 0, 3]);
  },
};

/** d2l's network of section 8.5.4, and without batch norm otherwise the same. Momentum and epsilon are the chapter's. */
export function lenet(normalized, seed) {
  let next = seed * 100;
  const kernelInitializer = () => initializers.glorotUniform({ seed: next++ });
  const after = () => [
    ...(normalized ? [batchNormalization({ momentum: 0.9, epsilon: 1e-5 })] : []),
    layers.activation({ activation: "sigmoid" }),
  ];
  const conv = (filters, more = {}) =>
    layers.conv2d({ filters, kernelSize: 5, kernelInitializer: kernelInitializer(), ...more });
  const pool = () => layers.averagePooling2d({ poolSize: 2, strides: 2 });
  const dense = (units, more = {}) => layers.dense({ units, kernelInitializer: kernelInitializer(), ...more });
  return sequential({
    layers: [
      ...[conv(6, { inputShape: [SIDE, SIDE, 1] }), ...after(), pool()],
      ...[conv(16), ...after(), pool(), layers.flatten()],
      ...[dense(120), ...after(), dense(84), ...after(), dense(CLASSES, { activation: "softmax" })],
    ],
  });
}
