/**
 * The complete entry: layers, functions on arrays, other norms, process groups, folding and files of states. It has
 * every feature. batchnorm-wasm/core is a part of it, for small pages: plain batch normalization of float32.
 *
 * @module batchnorm-wasm
 */

import { complete } from "./complete.ts";

export { BatchNormError, type BatchNormErrorCode } from "./common/errors.ts";
export type { Port, WasmModule } from "./common/globals.ts";
export { createMessagePorts, type GroupMessagePorts, messagePortGroup } from "./distributed/message-ports.ts";
export type { ProcessGroup } from "./distributed/process-group.ts";
export { createGroupMemory, sharedMemoryGroup } from "./distributed/shared-memory.ts";
export {
  type ConvFormat,
  type FoldableLayer,
  type FoldDirection,
  type FoldedLayer,
  foldIntoConv,
  foldIntoLinear,
  fromAffine,
  type LinearFormat,
  toAffine,
} from "./interop/fold.ts";
export { type Config, configFor, optionsFrom } from "./interop/frameworks.ts";
export { type MergedState, type MergeOptions, mergeStates, type StatePart } from "./interop/merge-states.ts";
export {
  readSafetensors,
  type SafeTensor,
  type SafetensorsDtype,
  type SafetensorsFile,
  type TensorData,
  type WritableTensor,
  writeSafetensors,
} from "./interop/safetensors.ts";
export { BatchNorm, type LayerBackwardOptions, type LayerForwardOptions } from "./layer/batch-norm.ts";
export { type DiagnoseOptions, Diagnosis, diagnose } from "./layer/diagnose.ts";
export type { Estimator, Framework, LayerOptions, Mode, Options, Preset, ResolvedOptions } from "./layer/options.ts";
export { type RecalibrateOptions, recalibrate } from "./layer/recalibrate.ts";
export type {
  Affine,
  AffineOptions,
  FoldSource,
  FoldVector,
  FoldWarning,
  LoadOptions,
  LoadReport,
  NamedState,
  Numbers,
  StateDict,
  StateOptions,
  StateSource,
  StateValue,
} from "./layer/slots.ts";
export {
  type SyncBackwardOptions,
  SyncBatchNorm,
  type SyncForwardOptions,
  type SyncOptions,
} from "./layer/sync-batch-norm.ts";
export { type AttachedMemory, attachMemory, type MemoryOwner, type WasmMemory } from "./memory/attach.ts";
export type { Parameter } from "./memory/guards.ts";
export { type Info, kernelInfo } from "./memory/heap.ts";
export { type InitOptions, init, stopThreads } from "./memory/init.ts";
export { type AnyTensor, type MakeTensor, Tensor, type TensorLike, tensor } from "./memory/tensor.ts";
export type { ActivationName } from "./ops/activation.ts";
export {
  type BackwardOptions,
  batchNormBackward,
  batchNormGradientSums,
  type CoreNeeds,
  type Gradients,
  type Needed,
  type Needs,
  type VectorFor,
} from "./ops/backward.ts";
export { batchNormForward, batchNormInference, batchNormStatistics } from "./ops/batch-norm.ts";
export {
  batchNormDoubleBackward,
  type DoubleBackwardOptions,
  type DoubleGradients,
  type GradientsOfGradients,
} from "./ops/double-backward.ts";
export type {
  ForwardOptions,
  ForwardParameters,
  ForwardResult,
  InferenceOptions,
  Parameters,
  Saved,
} from "./ops/forward.ts";
export type { List, ListTensor, Mask } from "./ops/mask.ts";
export {
  groupNormForward,
  instanceNormForward,
  layerNormForward,
  type NormBackwardOptions,
  type NormForwardResult,
  type NormOptions,
  normBackward,
  rmsNormForward,
  type SavedNorm,
} from "./ops/norms.ts";
export type { PerSampleParameters, Renorm } from "./ops/options.ts";
export type { GradientSums } from "./ops/primitives.ts";
export { type BatchStatistics, mergeStatistics, packStatistics, unpackStatistics } from "./ops/statistics.ts";
export {
  type WeightFormat,
  type WeightNormOptions,
  type WeightNormResult,
  weightNormForward,
} from "./ops/weight-norm.ts";
export type { Data, DataOf, Dtype, FileDtype, HalfArray, Vector, VectorOf } from "./tensor/dtype.ts";
export { toFloat32 } from "./tensor/half.ts";
export type { Layout, PlainTensor } from "./tensor/types.ts";
export type { BuildName } from "./wasm/module.ts";

complete();
