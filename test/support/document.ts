// Documents that hold what tests know: a part between <!-- name:begin --> and <!-- name:end --> is compared, or with
// `vitest run … --mode update-docs` written.

import { readFileSync, writeFileSync } from "node:fs";
import { expect } from "vitest";

/** Has the named part of a document be `content`. */
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
