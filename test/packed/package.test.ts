// The package itself.

import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { expect, inject, it } from "vitest";

const { library } = inject("packed");

it("is found by its name, by import and by require, with the same names", async () => {
  const beside = pathToFileURL(join(library, "../../x.js"));
  const required = createRequire(beside)("batchnorm-wasm");
  const imported = await import(pathToFileURL(join(library, "dist/index.js")).href);
  expect(Object.keys(required).sort()).toEqual(Object.keys(imported).sort());
});
