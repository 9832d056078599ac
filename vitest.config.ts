// Tests import src/ directly; a .wasm file is a function that returns its bytes and a .txt file its text, as in the build.

import { readFileSync } from "node:fs";
import { defineConfig, type Plugin } from "vitest/config";

export const builtFiles: Plugin = {
  name: "built-files",
  enforce: "pre",
  load(id) {
    if (id.endsWith("build/worker.txt")) return `export default ${JSON.stringify(readFileSync(id, "utf8"))};`;
    if (!id.endsWith(".wasm")) return null;
    const base64 = readFileSync(id).toString("base64");
    return `export default () => Uint8Array.from(atob("${base64}"), (c) => c.charCodeAt(0));`;
  },
};

export default defineConfig({
  plugins: [builtFiles],
  test: {
    include: ["test/**/*.test.ts"],
    // they have configurations of their own, and packages of test/mutation have tests of theirs
    exclude: [
      "test/browser/**",
      "test/examples/**",
      "test/gpu/**",
      "test/lab/**",
      "test/mpi/**",
      "test/packed/**",
      "test/site/**",
      "test/tools/**", // with the command line, which starts hundreds of times
      "**/node_modules/**",
    ],
    setupFiles: ["test/support/relaxed-simd.ts", "test/support/matchers.ts"],
    maxWorkers: "100%", // one less by default, which is half of two
    testTimeout: 120_000,
    hookTimeout: 120_000, // a hook may take all golden cases, as a test may
  },
});
