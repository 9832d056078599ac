// What users hand in where it is not a Tensor: a plain array with its shape, and where its channels are.

import { oneOf } from "../common/validate.ts";
import type { Data, Dtype } from "./dtype.ts";

/** An array in JavaScript's memory with its shape in memory order. */
export interface PlainTensor<A extends Data = Float32Array> {
  data: A;
  shape: readonly number[];
  /** What a Uint16Array holds: "float16" or "bfloat16". Other arrays tell by their kind. */
  dtype?: Dtype;
}

/** Where the channels are: axis 1 (PyTorch, ONNX) or the last (Keras, TF.js, Flax). Rank 2 reads the same in both. */
export type Layout = "channels-first" | "channels-last";

const LAYOUTS = ["channels-first", "channels-last"] as const;

export const layoutOption = (value: unknown, fallback: Layout = "channels-first"): Layout =>
  oneOf("layout", value, LAYOUTS, fallback);
