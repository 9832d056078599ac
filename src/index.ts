// The complete entry: every public name, and everything installed.

import { complete } from "./complete.ts";

export type { ActivationName } from "./activation.ts";
export { BatchNorm, type LayerForwardOptions } from "./batchnorm.ts";
export { type Config, configFor, optionsFrom } from "./config.ts";
export { type DiagnoseOptions, type Diagnosis, diagnose } from "./diagnose.ts";
export {
  batchNormDoubleBackward,
  type DoubleBackwardOptions,
  type DoubleGradients,
  type GradientsOfGradients,
} from "./double.ts";
export type { Data, DataOf, Dtype, Vector, VectorOf } from "./dtype.ts";
export { BatchNormError, type BatchNormErrorCode } from "./errors.ts";
export {
  groupNormForward,
  instanceNormForward,
  layerNormForward,
  type NormBackwardOptions,
  type Normed,
  type NormOptions,
  type NormSaved,
  normBackward,
  rmsNormForward,
} from "./family.ts";
export {
  type Affine,
  type ConvFormat,
  type FoldableLayer,
  type FoldedLayer,
  type FoldSource,
  type FoldWarning,
  foldIntoConv,
  foldIntoLinear,
  fromAffine,
  type LinearFormat,
  toAffine,
} from "./fold.ts";
export {
  type BackwardOptions,
  type BatchStatistics,
  batchNormBackward,
  batchNormForward,
  batchNormGradientSums,
  batchNormInference,
  batchNormStatistics,
  type ForwardOptions,
  type Gradients,
  mergeStatistics,
  type Needs,
  type Parameters,
  type Saved,
} from "./functional.ts";
export { type AllReduce, type GroupPorts, groupPorts, portGroup, sharedGroup, sharedGroupMemory } from "./groups.ts";
export { dispose, type InitOptions, init } from "./init.ts";
export type { Mask } from "./mask.ts";
export { info, Tensor, tensor } from "./memory.ts";
export type { AnyTensor, PlainTensor, TensorLike } from "./operand.ts";
export type { Estimator, Layout, Mode, Options, Preset, Renorm, ResolvedOptions } from "./options.ts";
export type { GradientSums } from "./primitives.ts";
export { type RecalibrateOptions, recalibrate } from "./recalibrate.ts";
export {
  readSafetensors,
  type SafeTensor,
  type SafetensorsDtype,
  type SafetensorsFile,
  type TensorData,
  type WritableTensor,
  writeSafetensors,
} from "./safetensors.ts";
export type {
  Framework,
  LoadOptions,
  LoadReport,
  NamedState,
  StateDict,
  StateOptions,
  StateSource,
  StateValue,
} from "./state.ts";
export { packStatistics, SyncBatchNorm, type SyncOptions, unpackStatistics } from "./sync.ts";

complete();
