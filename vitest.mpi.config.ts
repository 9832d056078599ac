// batchnorm-wasm/mpi under mpirun, and two hosts where this machine can make them.

import { defineConfig } from "vitest/config";
import { builtFiles } from "./vitest.config.ts";

export default defineConfig({
  plugins: [builtFiles],
  test: {
    include: ["test/mpi/**/*.test.ts"],
    setupFiles: ["test/support/matchers.ts"],
    testTimeout: 120_000,
  },
});
