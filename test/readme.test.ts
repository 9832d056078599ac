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

it("every file that the README links to is there", () => {
  const links = [...readme.matchAll(/\]\(([^)#]+)\)/g)].map((match) => match[1] as string);
  expect(links.length).toBeGreaterThan(4);
  for (const link of links) expect(() => readFileSync(new URL(link, root))).not.toThrow();
});
