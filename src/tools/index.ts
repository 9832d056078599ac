/**
 * The entry for whole model files, in Node and in browsers: inspecting, converting and folding them, and the mean and
 * standard deviation of a data set.
 *
 * @module batchnorm-wasm/tools
 */

export { BatchNormError, type BatchNormErrorCode } from "../common/errors.ts";
export type { Framework } from "../layer/options.ts";
export { type ArrayOptions, arrayBatches } from "./array-batches.ts";
export type { LayerBefore, ModelFormat } from "./batch-norm-record.ts";
export {
  type Conversion,
  type ConversionReport,
  type ConvertedLayer,
  type ConvertedTensor,
  type ConvertOptions,
  convert,
  type Unconverted,
} from "./convert.ts";
export {
  type DataBatch,
  type DataLayout,
  type DataStatistics,
  type DataStatisticsOptions,
  dataStatistics,
} from "./data-statistics.ts";
export type { DriftReport, IncomparableLayer, LayerDrift } from "./drift.ts";
export { type FoldPair, type FoldPairsOptions, findPairs, foldPairs } from "./fold-pairs.ts";
export type { FoldedNode, FoldReport, KeptNode } from "./fold-report.ts";
export {
  type Finding,
  type FindingCode,
  type InspectedLayer,
  type InspectionReport,
  type InspectOptions,
  inspect,
  type Severity,
} from "./inspect.ts";
export { type FoldedOnnx, type FoldOnnxOptions, foldOnnx, type Patch } from "./onnx/fold.ts";
export type { Range } from "./range.ts";
export { conversionText } from "./report/conversion-text.ts";
export { foldText } from "./report/fold-text.ts";
export { textReport } from "./report/text.ts";
export { type BlobLike, type ByteSource, blobSource, bytesSource } from "./source.ts";
