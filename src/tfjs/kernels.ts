// Kernels in TF.js's registry. FusedBatchNorm, TF.js's kernel of batch normalization by given statistics, is replaced:
// tf.batchNorm and all layers that call it then run on the kernels of this library. The kernels that a backend lacks to
// train convolutional networks are added.

import {
  FusedBatchNorm,
  type FusedBatchNormAttrs,
  getKernel,
  type KernelBackend,
  type KernelConfig,
  type KernelFunc,
  registerKernel,
  type TensorInfo,
  unregisterKernel,
  util,
} from "@tensorflow/tfjs-core";
import { batchNormInference } from "../ops/batch-norm.ts";
import { accessTo } from "./access.ts";
import { CONVOLUTION_GRADIENTS } from "./convolution-gradients.ts";
import { shared } from "./registrations.ts";

/** Backends whose tensors are in memory that the kernels or JavaScript can read directly. */
const BACKENDS = ["wasm", "cpu"];

interface Inputs {
  readonly x: TensorInfo;
  readonly mean: TensorInfo;
  readonly variance: TensorInfo;
  /** beta */
  readonly offset?: TensorInfo;
  /** gamma */
  readonly scale?: TensorInfo;
}

/**
 * Returns a kernel that computes float32 with vectors of one value per channel by this library. It leaves all other
 * types and shapes, which are broadcast, to TF.js's kernel.
 */
const replacementOf =
  (original: KernelFunc): KernelFunc =>
  (params) => {
    const { x, mean, variance, offset, scale } = params.inputs as unknown as Inputs;
    const { varianceEpsilon = 1e-3 } = params.attrs as unknown as FusedBatchNormAttrs;
    const channels = x.shape.at(-1) as number;
    const vectors = [mean, variance, offset, scale].filter((t) => t !== undefined);
    const isPerChannel = ({ shape, dtype }: TensorInfo) =>
      shape.length === 1 && shape[0] === channels && dtype === "float32";
    if (x.dtype !== "float32" || util.sizeFromShape(x.shape) === 0 || !vectors.every(isPerChannel))
      return original(params);
    const access = accessTo(params.backend as KernelBackend);
    const { y } = batchNormInference(
      access.operand(x, x.shape),
      {
        gamma: scale ? access.read(scale) : null,
        beta: offset ? access.read(offset) : null,
        mean: access.read(mean),
        variance: access.read(variance),
      },
      { layout: "channels-last", epsilon: varianceEpsilon },
    );
    return access.adopt(y, x.shape);
  };

function register(config: KernelConfig): void {
  unregisterKernel(config.kernelName, config.backendName);
  registerKernel(config);
}

/** Registers the gradients of convolutions that a backend does not have. Returns the kernels that it has registered. */
function addMissing(backendName: string): KernelConfig[] {
  const missing = CONVOLUTION_GRADIENTS.filter(([kernelName]) => !getKernel(kernelName, backendName));
  const added = missing.map(([kernelName, kernelFunc]) => ({ kernelName, backendName, kernelFunc }));
  for (const config of added) registerKernel(config);
  return added;
}

/** Registers this library's kernels with a backend. Returns a function that undoes it. */
function registerWith(original: KernelConfig): () => void {
  const replacement = { ...original, kernelFunc: replacementOf(original.kernelFunc) };
  register(replacement);
  const added = addMissing(original.backendName);
  return () => {
    // a later version of the backend, or the program, may have put its own there
    for (const config of added)
      if (getKernel(config.kernelName, config.backendName) === config)
        unregisterKernel(config.kernelName, config.backendName);
    if (getKernel(FusedBatchNorm, original.backendName) === replacement) register(original);
  };
}

/**
 * Makes tf.batchNorm run on this library's kernels, in those of TF.js's backends wasm and cpu that have been imported.
 * The gradient of tf.batchNorm remains TF.js's.
 *
 * It also adds the kernels that TF.js's wasm backend lacks to train convolutional networks: Conv2DBackpropFilter,
 * DepthwiseConv2dNativeBackpropFilter and DepthwiseConv2dNativeBackpropInput. A kernel that a backend has stays as it is.
 *
 * Returns a function that undoes it. TF.js's kernels are back when every call has been undone, in any order. Throws Error
 * if neither backend has been imported.
 */
export function registerKernels(): () => void {
  const originals = BACKENDS.map((backend) => getKernel(FusedBatchNorm, backend)).filter((config) => config);
  if (originals.length === 0)
    throw new Error(
      "registerKernels: expected @tensorflow/tfjs-backend-wasm or -cpu to be imported before, got neither; import one, then call it",
    );
  const undone = originals.map((original) => shared(original.backendName, () => registerWith(original)));
  return () => {
    for (const undo of undone) undo();
  };
}
