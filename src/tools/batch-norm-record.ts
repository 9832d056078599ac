// What the reader of every format returns: the batch norms of a model file, with values as float64.

import type { Framework } from "../layer/options.ts";
import type { ByteSource } from "./source.ts";

/** The layer whose output a batch norm normalises. */
export interface LayerBefore {
  /** The name of the layer. */
  readonly name: string;
  /** The layer's class or operator, such as "Conv2D" in TF.js and "Conv" in ONNX. */
  readonly type: string;
  /** The number of channels of its output, where the file says it. */
  readonly channels?: number;
  /** The axis of its channels, which counts from the same end as that of the batch norm, where the file says it. */
  readonly axis?: number;
  /**
   * Whether folding into it keeps the model's results: it is linear or a convolution, has no activation of its own, and
   * the batch norm is its only consumer. Absent where the file does not say it.
   */
  readonly isFoldable?: boolean;
}

/** A batch norm of a model file. */
export interface BatchNormRecord {
  /** The layer's name in the file, such as "layer1.0.bn1". */
  readonly name: string;
  readonly format: ModelFormat;
  /** The framework whose names and whose momentum the file uses. */
  readonly convention: Framework;
  readonly channels: number;
  /** The type of the values in the file, under the name that the format has for it. */
  readonly dtype: string;
  /** Absent where the format does not store it. */
  readonly epsilon?: number;
  /** As it is written in the file: of `convention` "pytorch" the weight of the new batch, of all others of the old value. */
  readonly momentum?: number;
  /** The axis of the channels: from the first where the file says the rank, else as it is written, negative from the last. */
  readonly axis?: number;
  /** Vectors, [channels] in a file that is right. Absent ones are not in the file, or not readable (`problems`). */
  readonly gamma?: Float64Array;
  readonly beta?: Float64Array;
  readonly mean?: Float64Array;
  readonly variance?: Float64Array;
  /** The number of batches in the running statistics, where the format stores it. */
  readonly batches?: number;
  readonly before?: LayerBefore;
  /** Whether the model normalises by the batch's statistics also in inference. */
  readonly training?: boolean;
  /** What is missing or has a wrong shape, as texts that name the value. */
  readonly problems?: readonly string[];
}

/** The formats of model files. */
export type ModelFormat = "safetensors" | "tfjs" | "onnx" | "keras";

/** Reads the batch norms of a model file. Throws BatchNormError "model-file" for a file that cannot be read. */
export type BatchNormReader = (source: ByteSource) => Promise<BatchNormRecord[]>;
