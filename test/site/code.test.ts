// What the documentation shows as code runs with the built package, and TypeScript passes a strict type check. programs.ts
// says what belongs to a program.

import { execFile } from "node:child_process";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { transformSync } from "esbuild";
import ts from "typescript";
import { beforeAll, describe, expect, it } from "vitest";
import { type Program, pages, programsOf, ROOT } from "./programs.ts";

/** In the project, so that programs find the package by its name. */
const FOLDER = fileURLToPath(new URL("build/site-programs/", ROOT));

const programs = pages()
  .flatMap((page) => programsOf(page))
  .map((program) => ({ ...program, file: `${FOLDER}${program.name.replace(/\W+/g, "-")}` }));

beforeAll(() => {
  rmSync(FOLDER, { recursive: true, force: true });
  mkdirSync(FOLDER, { recursive: true });
  for (const { file, source } of programs) writeFileSync(`${file}.ts`, source);
});

it("a page's blocks are one program, in order, with what comments add", () => {
  const page = [
    "```ts",
    'import { a } from "x";',
    "a();",
    "```",
    "<!-- before:",
    "const b = 1;",
    "-->",
    "```ts",
    'import { a, c } from "x";',
    "c(b);",
    "```",
    "<!-- program -->",
    "<!-- not run: it never ends -->",
    "```js",
    "for (;;);",
    "```",
  ].join("\n");
  const [first, second] = programsOf("p.md", page) as [Program, Program];
  expect(first.source.split("\n").filter(Boolean)).toEqual([
    'import assert from "node:assert/strict";',
    'import { a, c } from "x";',
    "export {};",
    "a();",
    "const b = 1;",
    "c(b);",
  ]);
  expect(first).toMatchObject({ name: "p.md:1", typed: true, notRun: undefined });
  expect(second).toMatchObject({ typed: false, notRun: "it never ends" });
});

it("a comment that belongs to no block of TypeScript or JavaScript is an error", () => {
  const note = "<!-- after: assert(false) -->";
  expect(() => programsOf("p.md", `\`\`\`ts\n\`\`\`\n${note}\n`)).toThrow(/^p.md: expected a block of code/);
  expect(() => programsOf("p.md", `${note}\n\`\`\`sh\n\`\`\`\n`)).toThrow(/^p.md:2: expected TypeScript .*, got sh$/);
});

describe("strict TypeScript", () => {
  const options: ts.CompilerOptions = {
    target: ts.ScriptTarget.ES2022,
    lib: ["lib.es2022.d.ts", "lib.esnext.disposable.d.ts", "lib.dom.d.ts"],
    module: ts.ModuleKind.NodeNext,
    types: ["node"],
    ...{ strict: true, exactOptionalPropertyTypes: true, skipLibCheck: true, noEmit: true },
  };
  const typed = programs.filter(({ typed }) => typed);
  let messages: Map<string, string[]>;
  beforeAll(() => {
    const program = ts.createProgram(
      typed.map(({ file }) => `${file}.ts`),
      options,
    );
    messages = new Map();
    for (const { file, messageText, start = 0 } of ts.getPreEmitDiagnostics(program)) {
      const line = file ? file.text.slice(0, start).split("\n").length : 0;
      const text = `line ${line}, ${file?.text.split("\n")[line - 1]}: ${ts.flattenDiagnosticMessageText(messageText, "\n")}`;
      const name = file?.fileName ?? "";
      messages.set(name, [...(messages.get(name) ?? []), text]);
    }
  });
  it.each(typed)("$name", ({ file }) => expect(messages.get(`${file}.ts`) ?? []).toEqual([]));
});

describe.concurrent("runs", () => {
  const run = promisify(execFile);
  for (const { name, file, source, notRun } of programs)
    it.skipIf(notRun)(notRun ? `${name}: not run, ${notRun}` : name, async () => {
      writeFileSync(`${file}.mjs`, transformSync(source, { loader: "ts", target: "node20" }).code);
      await run(process.execPath, [`${file}.mjs`], { cwd: fileURLToPath(ROOT) });
    });
});
