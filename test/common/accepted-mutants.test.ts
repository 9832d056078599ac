// The list of accepted mutants stays true: the code that every entry changes still stands in its file.

import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { accepted, changeOf } from "../mutation/accepted.mjs";

/** Whether code, as `changeOf` shows it, begins in a line of a file. */
function beginsIn(line: string, code: string, lines: readonly string[]): boolean {
  return lines.some((text, i) => {
    if (text !== line) return false;
    const at = lines.slice(i).join(" ").replace(/\s+/g, " ").indexOf(code.replace(/…$/, ""));
    return at >= 0 && at < line.length;
  });
}

test.each(accepted)("$file: $reason", ({ file, reason, mutants }) => {
  const source = readFileSync(new URL(`../../${file}`, import.meta.url), "utf8");
  const lines = source.split("\n").map((line) => line.trim());
  expect(reason).toMatch(/^[A-Z].*\.$/);
  expect(mutants.length).toBeGreaterThan(0);
  for (const [line, change] of mutants)
    expect(beginsIn(line, change.split(" → ")[0] as string, lines), `${line}: ${change}`).toBe(true);
});

test("a change is shown in one line, and cut where it is long", () => {
  expect(changeOf("a +\n  b", "a - b")).toBe("a + b → a - b");
  expect(changeOf("x".repeat(61), "")).toBe(`${"x".repeat(60)}… → `);
  expect(beginsIn("if (a +", "a + b", ["f();", "if (a +", "b) g();"])).toBe(true);
  expect(beginsIn("f();", "a + b", ["f();", "if (a +", "b) g();"])).toBe(false);
});
