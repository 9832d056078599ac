// Tests import src/ directly; a .wasm file is its bytes, as esbuild's binary loader has it in the build.

import { readFileSync } from "node:fs";
import { defineConfig, type Plugin } from "vitest/config";

export const wasmBytes: Plugin = {
  name: "wasm-bytes",
  enforce: "pre",
  load(id) {
    if (!id.endsWith(".wasm")) return null;
    const base64 = readFileSync(id).toString("base64");
    return `export default Uint8Array.from(atob("${base64}"), (c) => c.charCodeAt(0));`;
  },
};

export default defineConfig({
  plugins: [wasmBytes],
  test: {
    include: ["test/**/*.test.ts"],
    exclude: ["test/browser/**"], // vitest.browser.config.ts has them
    setupFiles: ["test/matchers.ts"],
    testTimeout: 120_000,
  },
});
