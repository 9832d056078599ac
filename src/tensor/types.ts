// Types of a call's arguments that know nothing of wasm memory: plain arrays with a shape, and layouts.

import { oneOf } from "../common/validate.ts";
import type { Data, Dtype, FileDtype } from "./dtype.ts";

/** An array in JavaScript's memory, with its shape. */
export interface PlainTensor<A extends Data = Float32Array> {
  /** The elements in row-major order. */
  data: A;
  /** Dimensions in memory order, e.g. [N, C, H, W]. */
  shape: readonly number[];
  /** The type of the elements, also as in safetensors. A Uint16Array needs it; other arrays tell it by their kind. */
  dtype?: Dtype | FileDtype;
}

/** The axis of the channels: axis 1 (PyTorch, ONNX) or the last (Keras, TF.js, Flax). For rank 2 both are the same. */
export type Layout = "channels-first" | "channels-last";

const LAYOUTS = ["channels-first", "channels-last"] as const;

/**
 * Returns the layout that an option names, or `fallback` for undefined. Throws TypeError or RangeError for other
 * values.
 */
export const layoutOption = (value: unknown, fallback: Layout = "channels-first"): Layout =>
  oneOf("layout", value, LAYOUTS, fallback);
