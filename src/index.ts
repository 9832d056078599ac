// The public names, nothing else.

export { BatchNorm, type StateDict, type StateSource } from "./batchnorm.ts";
export { BatchNormError, type BatchNormErrorCode } from "./errors.ts";
export {
  type BackwardOptions,
  batchNormBackward,
  batchNormForward,
  batchNormInference,
  type ForwardOptions,
  type Gradients,
  type Needs,
  type Parameters,
  type Saved,
} from "./functional.ts";
export { dispose, type InitOptions, info, init, Tensor, tensor } from "./memory.ts";
export type { PlainTensor, TensorLike } from "./operand.ts";
export type { Layout, Mode, Options, ResolvedOptions } from "./options.ts";
