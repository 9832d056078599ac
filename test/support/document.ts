// Generated parts of documents, between <!-- name:begin --> and <!-- name:end -->. Tests compare such a part with its
// expected content. `vitest run … --mode update-docs` writes it.

import { readFileSync, writeFileSync } from "node:fs";
import { expect } from "vitest";

/** Expects the named part of a document to be `content`, or writes it in mode update-docs. */
export function expectPart(file: URL, name: string, content: string): void {
  const [open, close] = [`<!-- ${name}:begin -->`, `<!-- ${name}:end -->`];
  const text = readFileSync(file, "utf8");
  const begin = text.indexOf(open) + open.length;
  const end = text.indexOf(close);
  expect(end, `place of ${name}`).toBeGreaterThan(begin);
  const part = `\n${content}\n`;
  if (import.meta.env.MODE === "update-docs") writeFileSync(file, text.slice(0, begin) + part + text.slice(end));
  else expect(text.slice(begin, end)).toBe(part);
}
