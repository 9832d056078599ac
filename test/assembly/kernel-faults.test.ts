// The catalogue of kernel faults stays true: every fault still replaces a piece of today's kernels.

import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { faults, withFault } from "../mutation/kernel-faults.mjs";

const textOf = (file: string): string => readFileSync(new URL(`../../assembly/${file}`, import.meta.url), "utf8");

test("there are at least 40 faults, in every file of kernels", () => {
  expect(faults.length).toBeGreaterThanOrEqual(40);
  const kernels = ["activations", "channels", "half", "lanes", "maps", "sums", "weights"];
  for (const name of kernels) expect(faults.map(({ file }) => file)).toContain(`kernels/${name}.ts`);
});

test.each(faults)("$file: $fault", (fault) => {
  const text = textOf(fault.file);
  const wrong = withFault(text, fault);
  expect(wrong).not.toBe(text);
  expect(wrong.length - text.length).toBe(fault.after.length - fault.before.length);
});

test("a text that does not occur, or that occurs twice, is an error", () => {
  const fault = { file: "a.ts", fault: "is wrong", before: "x", after: "y" };
  expect(() => withFault("a", fault)).toThrow(/found 0/);
  expect(() => withFault("x x", fault)).toThrow(/found 2/);
  expect(withFault("x x", { ...fault, occurrence: 2 })).toBe("x y");
  expect(() => withFault("x", { ...fault, occurrence: 2 })).toThrow(/found 1/);
});
