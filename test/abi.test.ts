// docs/abi.md says what assembly/ says and what the built modules have. `npm run docs:abi` writes it.

import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { allExports, BESIDE, MODULES, meanings, ownExports, parts } from "./abi.ts";
import { expectPart } from "./document.ts";

const root = new URL("../", import.meta.url);
const file = new URL("docs/abi.md", root);

it.each(Object.keys(parts()))("docs/abi.md holds what the source says: %s", (name) => {
  expectPart(file, name, parts()[name] as string);
});

describe.each(["index", "embed", "extended"] as const)("every export of %s.ts", (source) => {
  const exports = ownExports(source);
  const known = new Map(meanings().flatMap(({ entries }) => entries.map((e) => [e.name, e] as const)));

  it.each(exports)("says what it is, what its parameters are, and what it returns: $name", (e) => {
    expect(e.comment).toMatch(/^.{12,}\.$/);
    expect(e.returns !== undefined, "@returns").toBe(e.type !== "void");
    expect(e.stray, "@param of no parameter").toEqual([]);
    for (const p of e.parameters) {
      expect(known.get(p.name), `${p.name} in assembly/parameters.ts`).toMatchObject({ type: p.type });
      expect(p.own ?? known.get(p.name)?.comment, p.name).not.toBe("");
    }
  });
});

it("parameters.ts says nothing of parameters that no export has", () => {
  const used = new Set(
    ["embed", "extended"].flatMap((s) => allExports(s as "embed").flatMap((e) => e.parameters)).map((p) => p.name),
  );
  const named = meanings().flatMap(({ entries }) => entries.map((e) => e.name));
  expect([...used].sort()).toEqual(named.sort());
});

describe.each([...MODULES, ...BESIDE])("$name.wasm", ({ name, source, memory }) => {
  const module = new WebAssembly.Module(readFileSync(new URL(`build/${name}.wasm`, root)));
  const instance = new WebAssembly.Instance(module, { env: { memory: new WebAssembly.Memory({ initial: 1 }) } });

  it("has the exports that are documented, with as many parameters", () => {
    const arities = Object.entries(instance.exports).flatMap(([name, f]) =>
      typeof f === "function" ? [[name, f.length] as const] : [],
    );
    const documented = allExports(source).map((e) => [e.name, e.parameters.length] as const);
    expect(new Map(arities)).toEqual(new Map(documented));
  });

  it("has its memory as documented, and nothing else to import", () => {
    const imports = WebAssembly.Module.imports(module).map((i) => `${i.module}.${i.name}`);
    expect(imports).toEqual(memory === "imported" ? ["env.memory"] : []);
    expect("memory" in instance.exports).toBe(memory === "its own");
  });

  it("is of the documented version", () => {
    const { version } = instance.exports as { version?: () => number };
    if (source === "extended") expect(version).toBeUndefined();
    else expect(version?.()).toBe(Number(/^Version (\d+)/m.exec(readFileSync(file, "utf8"))?.[1]));
  });
});

it("every module is in the package, under its name", () => {
  const { exports, files } = JSON.parse(readFileSync(new URL("package.json", root), "utf8"));
  const paths = MODULES.map(({ name }) => `./${name}.wasm`);
  expect(
    Object.keys(exports)
      .filter((path) => path.endsWith(".wasm"))
      .sort(),
  ).toEqual(paths.sort());
  const [, names] = /^build\/\{([^}]*)\}/.exec(files.find((f: string) => f.startsWith("build/"))) ?? [];
  expect(names?.split(",").sort()).toEqual(MODULES.map(({ name }) => name).sort());
});

it("the steps that docs/abi.md shows run, and train", () => {
  const steps = /```js\n([\s\S]*?)```/.exec(readFileSync(file, "utf8"))?.[1] ?? "";
  const script = new URL("build/abi-example.mjs", root);
  const report = "[[...f32(y, n)].reduce((a, b) => a + b) / n, ...f64(runningMean, c)]";
  writeFileSync(script, `${steps}\nconsole.log(JSON.stringify(${report}));\n`);
  const [mean, ...running] = JSON.parse(
    execFileSync(process.execPath, [fileURLToPath(script)], { encoding: "utf8", cwd: fileURLToPath(root) }),
  );
  expect(running).toHaveLength(16);
  for (const value of running) expect(value).toBeCloseTo(0.5, 1); // of Math.random
  expect(Math.abs(mean)).toBeLessThan(0.05);
});
