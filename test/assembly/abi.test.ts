// docs/reference/abi.md agrees with the comments in assembly/ and with the exports of the built modules. `npm run docs:abi`
// writes it.

import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { exportsOf, parts, type Source } from "../support/abi.ts";
import { expectPart } from "../support/document.ts";

const root = new URL("../../", import.meta.url);
const file = new URL("docs/reference/abi.md", root);
const text = readFileSync(file, "utf8");

/** The first cells of a table that follows a header, without their backquotes. */
const firstCells = (header: string): string[] =>
  (text.split(`${header}\n`)[1]?.split("\n\n")[0] ?? "")
    .split("\n")
    .flatMap((row) => /^\| `([^`]+)`/.exec(row)?.slice(1) ?? []);

const FILES = firstCells("| file | has | memory | needs |");
const SHARED = firstCells("| parameter | is |");

/** The exports of a module: embed.ts exports core.ts whole. */
const allOf = (source: Source) => [...exportsOf(source), ...(source === "embed" ? exportsOf("core") : [])];

it.each(Object.entries(parts()))("docs/reference/abi.md holds what the source says: %s", (name, part) => {
  expectPart(file, name, part);
});

describe.each(["core", "embed", "extended"] as const)("every export of %s.ts", (source) => {
  it.each(exportsOf(source))("says what it does, what its parameters are, and what it returns: $name", (e) => {
    expect(e.comment).toMatch(/^[A-Z].{12,}\.$/);
    expect(e.returns === undefined, "@returns").toBe(e.isVoid);
    expect(e.unknown, "@param of no parameter").toEqual([]);
    const open = e.parameters.filter((p) => !p.comment && !SHARED.includes(p.name));
    expect(
      open.map((p) => p.name),
      "without a description",
    ).toEqual([]);
  });
});

it("every shared description is of a parameter that several exports have", () => {
  const uses = [...allOf("embed"), ...allOf("extended")].flatMap((e) => e.parameters).filter((p) => !p.comment);
  for (const name of SHARED) expect(uses.filter((p) => p.name === name).length, name).toBeGreaterThan(1);
});

const sourceOf = (name: string): Source =>
  name.startsWith("extended") ? "extended" : /^(embed|standalone)/.test(name) ? "embed" : "core";

// extended-debug is not in the package
describe.each([...FILES, "extended-debug.wasm"])("%s", (name) => {
  const source = sourceOf(name);
  const module = new WebAssembly.Module(readFileSync(new URL(`build/${name}`, root)));
  const instance = new WebAssembly.Instance(module, { env: { memory: new WebAssembly.Memory({ initial: 1 }) } });
  const functions = Object.entries(instance.exports).filter(([, f]) => typeof f === "function") as [
    string,
    () => void,
  ][];

  it("has the documented exports, with as many parameters, and at most 12", () => {
    const documented = allOf(source).map((e) => [e.name, e.parameters.length] as const);
    expect(new Map(functions.map(([name, f]) => [name, f.length]))).toEqual(new Map(documented));
    expect(documented.length).toBeLessThanOrEqual(12);
  });

  it("imports env.memory and nothing else, or nothing", () => {
    const own = name === "standalone.wasm";
    expect(WebAssembly.Module.imports(module).map((i) => `${i.module}.${i.name}`)).toEqual(own ? [] : ["env.memory"]);
    expect("memory" in instance.exports).toBe(own);
  });

  it("is of the documented version", () => {
    const { version } = Object.fromEntries(functions);
    if (source === "extended") expect(version).toBeUndefined();
    else expect(version?.()).toBe(Number(/^Version (\d+)/m.exec(text)?.[1]));
  });
});

it("every documented module is in the package, under its name", () => {
  const { exports, files } = JSON.parse(readFileSync(new URL("package.json", root), "utf8"));
  expect(Object.keys(exports).filter((path) => path.endsWith(".wasm"))).toEqual(
    expect.arrayContaining(FILES.map((name) => `./${name}`)),
  );
  const [, names] = /^build\/\{([^}]*)\}/.exec(files.find((f: string) => f.startsWith("build/"))) ?? [];
  expect(
    names
      ?.split(",")
      .map((name) => `${name}.wasm`)
      .sort(),
  ).toEqual([...FILES].sort());
});

// planar, blocked and in float64; interleaved in two stripes; sums that go by column
it.each([
  [32, 16, 196],
  [10, 6, 40],
  [12000, 16, 1],
  [40, 6, 4],
])("what docs/reference/abi.md shows runs, and phases give the bits of whole operations: [%i, %i, %i]", (...dims) => {
  const [layer, phases] = [...text.matchAll(/```js\n([\s\S]*?)```/g)].map((block) => block[1] ?? "");
  const script = new URL("build/abi-example.mjs", root);
  writeFileSync(
    script,
    `let drawn = 0;
    const { random } = Math; // the second channel is constant, so its sums are unreliable
    Math.random = () => (Math.floor(drawn++ / ${dims[2]}) % ${dims[1]} === 1 ? 0.5 : random());
    ${layer?.replace("[32, 16, 14 * 14]", JSON.stringify(dims))}
    const trained = [...f64(runningMean, c)];
    bn.forward(x, y, gamma, beta, mean, variance, invStd, workspace, ...dims, 1e-5);
    bn.backward(x, dy, dx, gamma, mean, invStd, dGamma, dBeta, workspace, ...dims, 0);
    const results = () => [f32(y, n), f32(dx, n), ...[mean, invStd, dGamma, dBeta].map((v) => f64(v, c))].map(String);
    const whole = results();
    for (const at of [y, dx]) f32(at, n).fill(0);
    for (const at of [mean, invStd, dGamma, dBeta]) f64(at, c).fill(0);
    ${phases}
    console.log(JSON.stringify([trained, results().map((text, k) => text === whole[k])]));`,
  );
  const options = { encoding: "utf8", cwd: fileURLToPath(root) } as const;
  const [trained, same] = JSON.parse(execFileSync(process.execPath, [fileURLToPath(script)], options));
  expect(trained).toHaveLength(dims[1] ?? 0);
  for (const value of trained) expect(value).toBeCloseTo(0.5, 1); // of Math.random
  expect(same).toEqual([true, true, true, true, true, true]);
});
