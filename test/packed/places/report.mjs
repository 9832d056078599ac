// Runs the golden cases by both entries and then looks at the place (check.js, place.mjs).

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { check } from "./check.js";
import { place } from "./place.mjs";

export async function report(library, core, folder) {
  const golden = {
    manifest: JSON.parse(readFileSync(`${folder}/manifest.json`, "utf8")),
    data: Uint8Array.from(readFileSync(`${folder}/data.bin`)).buffer,
  };
  const simd = readFileSync(createRequire(import.meta.url).resolve("batchnorm-wasm/simd.wasm"));
  const checked = await check(library, golden, new WebAssembly.Module(simd), core);
  return { checked, ...(await place(library, core)) };
}
