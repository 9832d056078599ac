// The demo, data-parallel training, the benchmark and the command line, as a user starts them: networks that train, and
// programs that start.

import { defineConfig } from "vitest/config";
import { builtFiles } from "./vitest.config.ts";

export default defineConfig({
  plugins: [builtFiles],
  test: {
    include: ["test/examples/**/*.test.ts", "test/tools/cli*.test.ts"],
    setupFiles: ["test/support/matchers.ts"],
    maxWorkers: "100%",
    testTimeout: 120_000,
  },
});
