// The range of a vector, which reports show.

import { median } from "../layer/diagnose.ts";

/** The least, the median and the largest of the finite values of a vector. */
export interface Range {
  /** The least value. */
  readonly least: number;
  /** The median. */
  readonly median: number;
  /** The largest value. */
  readonly largest: number;
}

/** Returns the range of a vector, or undefined if it has no finite value. */
export function rangeOf(vector: Float64Array | undefined): Range | undefined {
  const finite = vector?.filter(Number.isFinite);
  if (!finite?.length) return undefined;
  const middle = median(finite); // sorts
  return { least: finite[0] as number, median: middle, largest: finite[finite.length - 1] as number };
}
