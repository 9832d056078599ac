// The demo and data-parallel training, as a user starts them: half a minute of networks that train and of programs that start.

import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/examples/**/*.test.ts"],
    setupFiles: ["test/matchers.ts"],
    maxWorkers: "100%",
    testTimeout: 120_000,
  },
});
