import * as library from "batchnorm-wasm";
import * as core from "batchnorm-wasm/core";
import { expect, test } from "vitest";
import { report } from "./report.mjs";

test("the package", async () => {
  expect(navigator.userAgent).toContain("jsdom");
  console.log(`found ${JSON.stringify(await report(library, core, process.env.GOLDEN))}`);
});
