// The tests that test/mutation/facade.mjs runs: those of the files in MUTATION_TESTS. Files that run in one thread share
// the modules that they import, which takes most of the time of a mutant. Without the flag for relaxed SIMD there is one
// build less to try.

import { defineConfig } from "vitest/config";
import config from "../../vitest.config.ts";

export default defineConfig({
  ...config,
  test: {
    ...config.test,
    include: (process.env.MUTATION_TESTS ?? "").split(","),
    setupFiles: ["test/support/matchers.ts"],
    pool: "threads",
    isolate: false,
    experimental: { fsModuleCache: true }, // the same files run again for each mutant
  },
});
