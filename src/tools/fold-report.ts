// What folding has done to the batch norms of a model file.

import { toleranceOf } from "../interop/fold.ts";
import type { Dtype } from "../tensor/dtype.ts";

/** A batch norm that has been folded. */
export interface FoldedNode {
  /** Its name in the file: in ONNX that of the node, or of its output, behind the path of the graph that it is in. */
  readonly batchNorm: string;
  /** The names of the layers that have taken it. */
  readonly into: readonly string[];
  /** "backward" into the layers before it, or "forward" into those behind it. */
  readonly direction: "backward" | "forward";
  /** The largest expected RMS error of an output of these layers, in units of its size (docs/guides/folding-accuracy.md). */
  readonly expectedError: number;
}

/** A batch norm that is still in the model. */
export interface KeptNode {
  /** The name of the batch norm. */
  readonly batchNorm: string;
  /** Why it is kept, as a text for people. */
  readonly reason: string;
}

/** What has become of each batch norm of a model. */
export interface FoldReport {
  /** The batch norms that are no longer in the model. */
  readonly folded: readonly FoldedNode[];
  /** The batch norms that still are, with the reasons. */
  readonly kept: readonly KeptNode[];
}

/** Returns why a batch norm is kept whose folding has an expected error, or undefined if it can be folded. */
export function tooInaccurate(
  direction: "backward" | "forward",
  expectedError: number,
  dtype: Dtype,
  tolerance = toleranceOf(dtype),
): string | undefined {
  if (expectedError === Number.POSITIVE_INFINITY) return `folding ${direction} gives numbers that are not finite`;
  if (expectedError <= tolerance) return undefined;
  return (
    `folding ${direction} loses digits: an expected error of ${expectedError.toExponential(1)} of an output's size, ` +
    `more than ${tolerance.toExponential()}`
  );
}
