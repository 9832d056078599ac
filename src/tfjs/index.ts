/**
 * The entry for TensorFlow.js: a layer, operations with gradients, kernels for its CPU and wasm backends, and functions
 * for whole models. It has every feature, as the complete entry does.
 *
 * @module batchnorm-wasm/tfjs
 */

import { complete } from "../complete.ts";

export { BatchNormError, type BatchNormErrorCode } from "../common/errors.ts";
export { Diagnosis } from "../layer/diagnose.ts";
export type { BuildName } from "../wasm/module.ts";
export { type Info, info } from "./access.ts";
export type { BatchNormOptions, Scale, Statistics } from "./arguments.ts";
export type { Batch, Batches, Input } from "./batches.ts";
export { type FoldedBatchNorm, type FoldedModel, foldModel } from "./fold-model.ts";
export { registerKernels } from "./kernels.ts";
export { type BatchNormalizationConfig, batchNormalization, type Layer, registerLayer } from "./layer.ts";
export { diagnose, type LayerDiagnosis, recalibrate } from "./models.ts";
export {
  type AdaptData,
  type NormalizationConfig,
  type NormalizationLayer,
  type Numbers,
  normalization,
} from "./normalization.ts";
export { batchNorm, batchNormInference } from "./operations.ts";
export { type InitOptions, init, stopThreads } from "./threads.ts";

complete();
