// The demo, data-parallel training and the benchmark, as a user starts them: networks that train, and programs that start.

import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/examples/**/*.test.ts"],
    setupFiles: ["test/support/matchers.ts"],
    maxWorkers: "100%",
    testTimeout: 120_000,
  },
});
