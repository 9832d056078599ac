// llms.txt and llms-full.txt of the built site, for language models: what they contain, and that their links lead somewhere.

import { existsSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { SITE } from "./site.ts";

const read = (name: string) => readFileSync(new URL(name, SITE), "utf8");
const linksOf = (text: string) =>
  [...text.replace(/^```[\s\S]*?^```$/gm, "").matchAll(/\]\(<?([^)\s>#]+)[^)]*\)/g)]
    .map(([, link = ""]) => link)
    .filter((link) => !/^[a-z]+:/.test(link));

describe("llms.txt", () => {
  const text = read("llms.txt");

  it("has a title, a description and the shelves in their order", () => {
    expect(text).toMatch(/^# batchnorm-wasm\n\n> Batch normalization that trains/);
    const shelves = [...text.matchAll(/^### (.+)$/gm)].map(([, shelf]) => shelf);
    expect(shelves.slice(0, 5)).toEqual(["Start", "Guides", "Concepts", "Reference", "Results"]);
  });

  it("lists each page once, and only pages that are there", () => {
    const links = linksOf(text);
    expect(links.length).toBeGreaterThan(20);
    expect(new Set(links).size).toBe(links.length);
    expect(links.filter((link) => !existsSync(new URL(link.slice(1), SITE)))).toEqual([]);
  });

  it("has no symbols of the API", () => {
    expect(text).not.toContain("/reference/api/");
  });
});

describe("llms-full.txt", () => {
  const text = read("llms-full.txt");

  it("has the pages that somebody wrote, and no generated ones", () => {
    for (const title of ["# Fold in a program", "# Troubleshooting", "# Glossary"])
      expect(text).toContain(`\n${title}\n`);
    expect(text).not.toContain("url: /reference/api/");
    expect(text.replace(/^```[\s\S]*?^```$/gm, "")).not.toMatch(/^<(script|template|style)/m);
  });
});

it("the Markdown of pages has no dead links", () => {
  const pages = linksOf(read("llms.txt")).filter((link) => link.endsWith(".md"));
  const dead = pages.flatMap((page) =>
    linksOf(read(page.slice(1)))
      .filter((link) => /\.md$/.test(link))
      .map((link) => [page, link, new URL(link, new URL(page.slice(1), SITE))] as const)
      .filter(([, link, url]) => !existsSync(link.startsWith("/") ? new URL(link.slice(1), SITE) : url))
      .map(([page, link]) => `${page}: ${link}`),
  );
  expect(dead).toEqual([]);
});
