// The Chinese pages follow the English ones: the same headings and the same code, but for comments.

import { existsSync, readFileSync } from "node:fs";
import ts from "typescript";
import { describe, expect, it } from "vitest";
import { wordsOf } from "../../docs/.vitepress/zh.ts";
import { pages, programsOf, ROOT } from "./programs.ts";

/** The pages of the two shelves. The start page has no English twin, since it names the Chinese pages only. */
const chinese = pages().filter((page) => /^docs\/zh\/\w+\//.test(page));
const read = (page: string) => readFileSync(new URL(page, ROOT), "utf8");

/** The levels of the headings, in order, and the blocks of code. */
function outlineOf(page: string) {
  const text = read(page);
  const fenced = /^```(\w*).*\n([\s\S]*?)^```$/gm;
  return {
    levels: [...text.replace(fenced, "").matchAll(/^(#+) /gm)].map(([, marks = ""]) => marks.length),
    blocks: [...text.matchAll(fenced)].map(([, language = "", code = ""]) => [
      language,
      withoutComments(code, language),
    ]),
  };
}

/** JavaScript as a parser reads it; of other languages, what stands in front of "// ". */
function withoutComments(code: string, language: string): string {
  if (!/^[tj]s$/.test(language)) return code.replace(/ *\/\/ .*/g, "");
  const file = ts.createSourceFile("block.ts", code, ts.ScriptTarget.Latest);
  return ts.createPrinter({ removeComments: true }).printFile(file);
}

it("the shelves Start and Concepts have Chinese pages, but for the measurements", () => {
  const english = pages().filter((page) => /^docs\/(start|concepts)\/(?!\w+-measurements)/.test(page));
  expect(chinese).toEqual(english.map((page) => page.replace("docs/", "docs/zh/")));
});

describe.each(chinese)("%s", (page) => {
  const english = page.replace("docs/zh/", "docs/");

  it("has an English page with the same headings and the same code", () => {
    expect(existsSync(new URL(english, ROOT)), english).toBe(true);
    expect(outlineOf(page)).toEqual(outlineOf(english));
  });

  it("has the same programs, with the same assertions", () => {
    const programs = (page: string) =>
      programsOf(page).map((program) => ({ ...program, name: "", source: withoutComments(program.source, "ts") }));
    expect(programs(page)).toEqual(programs(english));
  });

  it("links to Chinese pages where there are some, apart from its English version", () => {
    const links = [...read(page).matchAll(/(?<!（)\[(?!英文版)[^\]]*\]\(([^)#]+\.md)/g)].map(([, link = ""]) => link);
    const paths = links.map((link) => new URL(link, new URL(page, ROOT)).href.slice(ROOT.href.length));
    expect(paths.filter((path) => chinese.includes(path.replace("docs/", "docs/zh/")))).toEqual([]);
  });
});

it("the search takes each Chinese character as a word, and English words as they are", () => {
  expect(wordsOf("批量规范化（batch norm）的 u，2 个")).toEqual([
    ..."批量规范化",
    "batch",
    "norm",
    "的",
    "u",
    "2",
    "个",
  ]);
});
