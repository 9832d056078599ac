// The example of calls on another program's memory, as a user starts it.

import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

test("batch norm runs on the memory of a program of AssemblyScript, and of one of Emscripten's kind", () => {
  const program = fileURLToPath(new URL("../../examples/own-memory/main.mjs", import.meta.url));
  const printed = execFileSync(process.execPath, [program], { encoding: "utf8" });
  const lines = printed
    .trim()
    .split("\n")
    .map((line) => line.split(" "));
  expect(lines.map(([name]) => name)).toEqual(["AssemblyScript", "Emscripten"]);
  // 63/64, since running statistics are unbiased, and 1, less what epsilon takes
  expect(Number(lines[0]?.[1])).toBeCloseTo(63 / 64, 2);
  expect(Number(lines[1]?.[1])).toBeCloseTo(1, 2);
});
