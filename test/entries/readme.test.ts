// The examples of the README run unchanged with the built package. test/site/code.test.ts runs those of docs/.

import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";

const root = new URL("../../", import.meta.url);
const readme = readFileSync(new URL("README.md", root), "utf8");

const exampleOf = (text: string) => /```ts\n([\s\S]*?)```/.exec(text)?.[1] ?? "";

/** What `report`, an expression, is after an example has run as a program of its own. */
function run(name: string, example: string, report: string) {
  const file = new URL(`build/${name}-example.mjs`, root);
  writeFileSync(file, `${example}\nconsole.log(JSON.stringify(${report}));\n`);
  const printed = execFileSync(process.execPath, [fileURLToPath(file)], { encoding: "utf8" });
  return JSON.parse(printed.trim().split("\n").at(-1) as string);
}

it("the first example is a training step of at most 30 lines, which learns", () => {
  const example = exampleOf(readme);
  expect(example.trim().split("\n").length).toBeLessThanOrEqual(30);
  const worst = "Math.max(...prediction.data.map((v, k) => Math.abs(v - target[k])))";
  const [loss, distance, batches] = run("readme", example, `[loss, ${worst}, bn.batchesTracked]`);
  expect(loss).toBeLessThan(1e-4); // 27 to 37 at the first step
  // the running statistics are those of batches on the way, so that they are a little off
  expect(distance).toBeLessThan(0.2);
  expect(batches).toBe(100);
});

it("npm install stands before the first example", () => {
  const command = readme.indexOf("npm install batchnorm-wasm\n");
  expect(command).toBeGreaterThan(0);
  expect(command).toBeLessThan(readme.indexOf("```ts"));
});
