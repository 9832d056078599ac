// The tools for files, and programs as a user starts them: the command line, the demo, data-parallel training and the
// benchmark.

import { defineConfig } from "vitest/config";
import { builtFiles } from "./vitest.config.ts";

export default defineConfig({
  plugins: [builtFiles],
  test: {
    include: ["test/examples/**/*.test.ts", "test/tools/**/*.test.ts"],
    setupFiles: ["test/support/matchers.ts"],
    maxWorkers: "100%",
    testTimeout: 120_000,
  },
});
