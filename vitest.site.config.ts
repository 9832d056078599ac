// The documentation: its code, its links, and its site in browsers.

import { defineConfig } from "vitest/config";
import { builtFiles } from "./vitest.config.ts";

export default defineConfig({
  plugins: [builtFiles],
  test: {
    include: ["test/site/**/*.test.ts"],
    maxWorkers: "100%",
    maxConcurrency: 2,
    testTimeout: 120_000,
    hookTimeout: 300_000,
  },
});
