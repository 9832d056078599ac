// The lab: its experiments in Node, and its page, as lab:build makes it, in Chromium and in Firefox.

import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/lab/**/*.test.ts"],
    setupFiles: ["test/support/matchers.ts"],
    fileParallelism: false, // two browsers at once would share two cores with two trainings
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
});
