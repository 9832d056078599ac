// The README's example runs as it stands, against the built package, and is as short as it says.

import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";

const root = new URL("../", import.meta.url);
const readme = readFileSync(new URL("README.md", root), "utf8");
const example = /```ts\n([\s\S]*?)```/.exec(readme)?.[1] ?? "";

it("the first example has eight lines and runs", () => {
  expect(example.trim().split("\n")).toHaveLength(8);
  const file = new URL("build/readme-example.mjs", root);
  const report = "[y.shape, dx.data.length, dGamma.length, dBeta.length, prediction.shape, bn.batchesTracked]";
  writeFileSync(file, `${example}\nconsole.log(JSON.stringify(${report}));\n`);
  const printed = execFileSync(process.execPath, [fileURLToPath(file)], { encoding: "utf8" });
  const shape = [32, 64, 28, 28];
  expect(JSON.parse(printed)).toEqual([shape, 32 * 64 * 28 * 28, 64, 64, shape, 1]);
});

it("the example of docs/folding.md runs, and folding changes nothing", () => {
  const text = readFileSync(new URL("docs/folding.md", root), "utf8");
  const file = new URL("build/folding-example.mjs", root);
  const report = "[fused.weight.shape, fused.bias.length, fused.warnings, worst]";
  writeFileSync(file, `${/```ts\n([\s\S]*?)```/.exec(text)?.[1]}\nconsole.log(JSON.stringify(${report}));\n`);
  const [shape, length, warnings, worst] = JSON.parse(
    execFileSync(process.execPath, [fileURLToPath(file)], { encoding: "utf8" }),
  );
  expect([shape, length, warnings]).toEqual([[8, 16], 8, []]);
  expect(worst).toBeLessThan(1e-5);
});

it("every file that the README links to is there", () => {
  const links = [...readme.matchAll(/\]\(([^)#]+)\)/g)].map((match) => match[1] as string);
  expect(links.length).toBeGreaterThan(4);
  for (const link of links) expect(() => readFileSync(new URL(link, root))).not.toThrow();
});

it("the example of docs/modes.md runs", () => {
  const text = readFileSync(new URL("docs/modes.md", root), "utf8");
  const file = new URL("build/modes-example.mjs", root);
  const report =
    "[y, dx, ghosts, styled, ...dxs].map((t) => t.data.every(Number.isFinite)), renorm.batchesTracked, bn.batchesTracked";
  writeFileSync(file, `${/```ts\n([\s\S]*?)```/.exec(text)?.[1]}\nconsole.log(JSON.stringify([${report}]));\n`);
  const printed = execFileSync(process.execPath, [fileURLToPath(file)], { encoding: "utf8" });
  expect(JSON.parse(printed)).toEqual([Array(7).fill(true), 100, 3]);
});
