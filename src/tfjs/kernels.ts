// TF.js's own kernel of batch normalization by given statistics, replaced: tf.batchNorm, its gradient and every layer that
// calls it find ours.

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

/** Those whose tensors are in memory that we reach. */
const BACKENDS = ["wasm", "cpu"];

interface Inputs {
  readonly x: TensorInfo;
  readonly mean: TensorInfo;
  readonly variance: TensorInfo;
  /** beta and gamma. */
  readonly offset?: TensorInfo;
  readonly scale?: TensorInfo;
}

/** TF.js's kernel with vectors of one value per channel taken to ours; it broadcasts other shapes itself. */
const replaced =
  (original: KernelFunc): KernelFunc =>
  (params) => {
    const { x, mean, variance, offset, scale } = params.inputs as unknown as Inputs;
    const { varianceEpsilon = 1e-3 } = params.attrs as unknown as FusedBatchNormAttrs;
    const channels = x.shape.at(-1) as number;
    const vectors = [mean, variance, offset, scale].filter((t) => t !== undefined);
    const known = ({ shape, dtype }: TensorInfo) => shape.length === 1 && shape[0] === channels && dtype === "float32";
    if (x.dtype !== "float32" || util.sizeFromShape(x.shape) === 0 || !vectors.every(known)) return original(params);
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

/**
 * Has tf.batchNorm run on this library's kernels, on TF.js's wasm and cpu backends, as far as they are imported by now.
 * Its gradient stays TF.js's. Returns a function that puts the original kernels back.
 *
 * Throws Error where neither backend has been imported.
 */
export function registerKernels(): () => void {
  const originals = BACKENDS.map((backend) => getKernel(FusedBatchNorm, backend)).filter((config) => config);
  if (originals.length === 0)
    throw new Error(
      "registerKernels: expected @tensorflow/tfjs-backend-wasm or -cpu to be imported before, got neither; import one, then call it",
    );
  for (const config of originals) register({ ...config, kernelFunc: replaced(config.kernelFunc) });
  return () => {
    for (const config of originals) register(config);
  };
}
