// The package as users get it, in every host that one Node can start: runtimes, bundlers, programs in other languages.
// Browsers have vitest.packed-browser.config.ts.

import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/packed/*.test.ts"],
    globalSetup: ["test/packed/setup.ts"],
    fileParallelism: false, // each starts compilers and browsers of its own
    testTimeout: 900_000,
    hookTimeout: 900_000,
  },
});
