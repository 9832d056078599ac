// What the suites of types of elements share: shapes, and the bits of 16-bit elements.

import type { AnyTensor, Layout } from "../../src/index.ts";

/** Both walks, all precisions of sums, a row that is cut short, one value in the last group. */
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

/** An operand's elements as bits. */
export function bitsOf(value: AnyTensor | undefined): Uint16Array {
  const data = value?.data as ArrayBufferView & { length: number };
  return new Uint16Array(data.buffer, data.byteOffset, data.length).slice();
}
