// The programs of the documentation: the blocks of TypeScript and JavaScript of a page, in order, are one program. Comments
// before a block, which readers do not see, say what a page leaves out:
//
//   <!-- program -->                begins another program
//   <!-- before: … -->              code in front of the block, such as data that the reader has
//   <!-- after: … -->               code behind the block, such as assertions; `assert` of node:assert/strict is imported
//   <!-- not run: reason -->        the program is type-checked, but not run
//   <!-- not checked: reason -->    the block is no part of a program

import { readdirSync, readFileSync } from "node:fs";
import ts from "typescript";

export const ROOT = new URL("../../", import.meta.url);

export interface Program {
  /** The page and the line of its first block, such as "docs/guides/folding.md:17". */
  name: string;
  source: string;
  /** Whether all blocks are TypeScript, which is type-checked. */
  typed: boolean;
  /** Why it is not run, or undefined. */
  notRun: string | undefined;
}

/** The pages, by their paths from the root of the project. Those that TypeDoc makes have no programs. */
export const pages = (): string[] => [
  "README.md",
  ...readdirSync(new URL("docs/", ROOT), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".md") && !name.startsWith("reference/api/"))
    .map((name) => `docs/${name}`)
    .sort(),
];

const WORDS = ["program", "before", "after", "not run", "not checked"] as const;

interface Block {
  line: number;
  language: string;
  code: string;
  notes: [word: (typeof WORDS)[number], text: string][];
}

/** The comments of a text that belong to the block of code behind it. */
const notesIn = (text: string): Block["notes"] =>
  [...text.matchAll(/<!-- (\w[\w ]*?)(?::\s([\s\S]*?))?\s-->/g)]
    .map(([, word, note = ""]): Block["notes"][number] => [word as (typeof WORDS)[number], note])
    .filter(([word]) => WORDS.includes(word));

/** The blocks of code of a page, each with the comments between it and the block before. */
function blocksOf(page: string, text: string): Block[] {
  let from = 0;
  const blocks = [...text.matchAll(/^```(\w+)[^\n]*\n([\s\S]*?)^```$/gm)].map(
    ({ index, 1: language = "", 2: code = "", 0: all }) => {
      const notes = notesIn(text.slice(from, index));
      from = index + all.length;
      return { line: text.slice(0, index).split("\n").length, language, code, notes };
    },
  );
  const [unused] = notesIn(text.slice(from));
  if (unused) throw new Error(`${page}: expected a block of code behind the comment "${unused[0]}", got the end`);
  return blocks;
}

/** Moves imports to the top, and imports each name once. */
function withMergedImports(source: string): string {
  const file = ts.createSourceFile("program.ts", source, ts.ScriptTarget.Latest, true);
  const imports = file.statements.filter(ts.isImportDeclaration);
  const names = new Map<string, Set<string>>();
  const others = new Set<string>();
  for (const statement of imports) {
    const from = statement.moduleSpecifier.getText();
    const clause = statement.importClause;
    if (clause?.namedBindings && ts.isNamedImports(clause.namedBindings) && !clause.name) {
      const type = clause.isTypeOnly ? "type " : "";
      for (const element of clause.namedBindings.elements)
        names.set(from, (names.get(from) ?? new Set()).add(type + element.getText()));
    } else others.add(statement.getText());
  }
  const merged = [...names].map(([from, set]) => `import { ${[...set].join(", ")} } from ${from};`);
  const rest = imports.reduceRight((code, { pos, end }) => code.slice(0, pos) + code.slice(end), source);
  return [...others, ...merged, "export {};", rest].join("\n");
}

/** The programs of a page. */
export function programsOf(page: string, text = readFileSync(new URL(page, ROOT), "utf8")): Program[] {
  const programs: { name: string; parts: string[]; typed: boolean; notRun: string | undefined }[] = [];
  for (const { line, language, code, notes } of blocksOf(page, text)) {
    if (!/^(ts|js|typescript|javascript)$/.test(language)) {
      if (notes.length)
        throw new Error(`${page}:${line}: expected TypeScript behind the comment "${notes[0]?.[0]}", got ${language}`);
      continue;
    }
    const noted = (wanted: string) => notes.filter(([word]) => word === wanted).map(([, note]) => note);
    if (noted("not checked").length) continue;
    if (programs.length === 0 || noted("program").length)
      programs.push({ name: `${page}:${line}`, parts: [], typed: true, notRun: undefined });
    const program = programs.at(-1) as (typeof programs)[number];
    program.typed &&= language.startsWith("t");
    program.notRun ??= noted("not run")[0];
    program.parts.push(...noted("before"), code);
    program.parts.push(...noted("after"));
  }
  return programs.map(({ name, parts, typed, notRun }) => ({
    name,
    typed,
    source: withMergedImports(['import assert from "node:assert/strict";', ...parts].join("\n")),
    notRun,
  }));
}
