// Helpers for the suites of element types: shapes, and the bits of 16-bit elements.

import type { AnyTensor, Layout } from "../../src/index.ts";

/**
 * Shapes in both walks and all precisions of sums. Some have an incomplete last row, or one value in the last block.
 */
export const SHAPES: readonly [Layout, readonly number[]][] = [
  ["channels-first", [5, 3]],
  ["channels-first", [6, 3, 5]],
  ["channels-first", [2, 3, 37]],
  ["channels-first", [13, 3, 45]],
  ["channels-first", [29, 3, 37]],
  ["channels-first", [30, 1, 7]],
  ["channels-last", [41, 3]],
  ["channels-last", [60, 5]],
  ["channels-last", [1100, 3]],
];

/** Returns the 16-bit patterns of a tensor's elements. */
export function bitsOf(value: AnyTensor | undefined): Uint16Array {
  const data = value?.data as ArrayBufferView & { length: number };
  return new Uint16Array(data.buffer, data.byteOffset, data.length).slice();
}
