// TF.js for the lab, on its wasm backend, with the gradients of convolution and pooling that this backend lacks: composed of
// kernels that it has. On its cpu backend, which has them, a step of LeNet takes many times as long.

import { setWasmPaths } from "@tensorflow/tfjs-backend-wasm";
import * as tf from "@tensorflow/tfjs-core";

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

  /** Every mean over a window gives all its elements the same share. For windows side by side. */
  AvgPoolGrad({ dy, input }, { filterSize, strides }) {
    const size = [filterSize].flat();
    const [, height, width] = input.shape;
    const fits = dy.shape[1] * size[0] === height && dy.shape[2] * size.at(-1) === width;
    if (!fits || [strides].flat().join() !== [filterSize].flat().join())
      throw new Error(`AvgPoolGrad: expected windows that divide the image, got ${filterSize} by ${strides}`);
    return tf.div(tf.image.resizeNearestNeighbor(dy, [height, width]), size[0] * size.at(-1));
  },
};
