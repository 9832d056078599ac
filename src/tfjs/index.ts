// The public names of batchnorm-wasm/tfjs, nothing else.

export { BatchNormError, type BatchNormErrorCode } from "../errors.ts";
export { type Info, info } from "./access.ts";
export { registerKernels } from "./kernels.ts";
export { type BatchNormalizationConfig, batchNormalization, registerLayer } from "./layer.ts";
export { type BatchNormOptions, batchNorm, batchNormInference, type Scale, type Statistics } from "./op.ts";
