// The drawings of the concepts are those that their script makes, and follow a dark page.

import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { drawings } from "../../docs/.vitepress/drawings.mjs";
import { pages, ROOT } from "./programs.ts";

const read = (file: string) => readFileSync(new URL(file, ROOT), "utf8");

it.each(Object.entries(drawings()))(
  "docs/%s is what `npm run docs:drawings` writes, and a page shows it",
  (file, svg) => {
    expect(read(`docs/${file}`)).toBe(svg);
    expect(svg).toContain("prefers-color-scheme:dark");
    const [folder = "", name = ""] = [file.replace(/\/[^/]*$/, ""), file.replace(/.*\//, "")];
    const shown = pages().filter((page) => page.startsWith(`docs/${folder}/`) && read(page).includes(`](${name})`));
    expect(shown).toHaveLength(1);
  },
);

it("no page has an SVG of its own, which GitHub would not show", () => {
  expect(pages().filter((page) => read(page).includes("<svg"))).toEqual([]);
});
