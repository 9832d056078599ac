// The first screen of docs/results/reliability.md says what its tables say. In mode update-docs it is written.

import { readFileSync, writeFileSync } from "node:fs";
import { expect, it } from "vitest";
import { expectPart } from "../support/document.ts";
import { conclusionsOf, pictureOf } from "./summary.mjs";

const DOCUMENT = new URL("../../docs/results/reliability.md", import.meta.url);
const PICTURE = new URL("../../docs/results/reliability.svg", import.meta.url);
const text = readFileSync(DOCUMENT, "utf8");

it("has the conclusions of its tables", () => expectPart(DOCUMENT, "conclusions", conclusionsOf(text)));

it("has a picture of its tables", () => {
  if (import.meta.env.MODE === "update-docs") writeFileSync(PICTURE, pictureOf(text));
  else expect(readFileSync(PICTURE, "utf8")).toBe(pictureOf(text));
});

it("says which table it misses", () => {
  expect(() => conclusionsOf("")).toThrow("expected a block valid, got none");
  expect(() => conclusionsOf(text.replaceAll("| cases |", "| calls |"))).toThrow('expected a row "cases" in valid');
});
