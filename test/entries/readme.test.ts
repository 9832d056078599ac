// The examples of the README run unchanged with the built package. test/site/code.test.ts runs those of docs/.

import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";

const root = new URL("../../", import.meta.url);
const page = (name: string) => readFileSync(new URL(name, root), "utf8");
const readme = page("README.md");

const exampleOf = (text: string) => /```ts\n([\s\S]*?)```/.exec(text)?.[1] ?? "";

/** What `npm run bench -- --write` writes into a page. */
const MEASURED = /<!-- bench:begin -->([\s\S]*)<!-- bench:end -->/;

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

it("the README has at most 600 words, apart from what the benchmark writes", () => {
  // as `wc -w` counts: code and tables of others count, too
  const words = readme.replace(MEASURED, "").split(/\s+/).filter(Boolean);
  expect(words.length).toBeLessThanOrEqual(600);
});

it.each(["README.md", "docs/index.md"])("the numbers of %s are those of docs/results/benchmark-results.md", (name) => {
  const [, measured = ""] = MEASURED.exec(page(name)) ?? [];
  const results = page("docs/results/benchmark-results.md");
  const cellsOf = (row: string) => row.split("|").map((cell) => cell.trim());
  const rows = measured.split("\n").filter((line) => line.startsWith("| ["));
  expect(rows.length).toBeGreaterThan(3);
  for (const [, shape, operation, ...numbers] of rows.map(cellsOf)) {
    const from = results.indexOf(`\n### ${shape}`);
    const lines = results.slice(from, results.indexOf("\n### ", from + 1)).split("\n");
    const found = lines.filter((line) => line.startsWith(`| ${operation}`)).flatMap(cellsOf);
    expect(found).toEqual(expect.arrayContaining(numbers));
  }
  const [, commit] = /commit (\w+)/.exec(measured) ?? [];
  expect(results).toContain(`- commit: ${commit}\n`);
});

it("the training loop of docs/start/training.md has at most 30 lines", () => {
  const example = exampleOf(page("docs/start/training.md"));
  expect(example).toContain("bn.backward");
  expect(example.trim().split("\n").length).toBeLessThanOrEqual(30);
});

it("npm install stands before the first example", () => {
  const command = readme.indexOf("npm install batchnorm-wasm\n");
  expect(command).toBeGreaterThan(0);
  expect(command).toBeLessThan(readme.indexOf("```ts"));
});
