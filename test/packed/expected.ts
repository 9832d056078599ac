// Checks that every host must pass. They are not in record.ts, because they also run in a page, which has no files.

import { expect } from "vitest";
import type { Checked } from "./check.js";

/**
 * Expects of a host what this Node found: the same bits in the build without fused multiply-add, and every gate kept. Where
 * the host has both entries, the small one has the bits of the complete one, and refuses what it lacks.
 */
export function expectChecked(checked: Checked, expected: Checked, entries: "both" | "complete" = "both"): void {
  expect(checked.beyond).toEqual([]);
  expect(checked.cases).toBe(expected.cases);
  expect(checked.digest).toBe(expected.digest);
  expect(checked.extendedDigest).toBe(expected.extendedDigest);
  const { digest, ownDigest } = checked;
  const refusal = expect.stringMatching(/^TypeError: activation: expected batchnorm-wasm, the complete entry/);
  expect(checked.core).toEqual(entries === "both" ? { digest, ownDigest, refusal } : undefined);
}
