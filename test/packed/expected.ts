// What every host is held to. Beside record.ts because it runs in a page too, which has no files.

import { expect } from "vitest";
import type { Checked } from "./check.js";

/** Expects of a host what this Node found: the same bits in the build without fused multiply-add, and every gate kept. */
export function expectChecked(checked: Checked, expected: Checked): void {
  expect(checked.beyond).toEqual([]);
  expect(checked.cases).toBe(expected.cases);
  expect(checked.digest).toBe(expected.digest);
  expect(checked.extendedDigest).toBe(expected.extendedDigest);
}
