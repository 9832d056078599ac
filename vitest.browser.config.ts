// The behaviour suites in Chromium, in two worlds: cross-origin isolated, where threads can share memory, and not. In a
// third one, the suites of TF.js run on its backends for GPUs.

import { fileURLToPath } from "node:url";
import { playwright } from "@vitest/browser-playwright";
import { defineConfig } from "vitest/config";
import { GPU, ISOLATION, launchChromium } from "./test/browser/installed.mjs";
import { builtFiles } from "./vitest.config.ts";

declare module "vitest" {
  interface ProvidedContext {
    /** Whether the suite's page is to be cross-origin isolated. */
    isolated: boolean;
    /** Whether the suites of TF.js are to run on its backends for GPUs. */
    gpu: boolean;
  }
}

/**
 * About Node itself, programs that it runs, or documents: they would say nothing about a page, which has browser/threads.
 * A group in shared memory does not run in the thread of a page.
 * The small entry needs a module graph without the complete one, which a page shares with the other suites;
 * test/packed/browsers has the page's part.
 */
const NODE_ONLY = [
  "assembly/abi",
  "assembly/fixture",
  "assembly/kernel-faults",
  "common/accepted-mutants",
  "distributed/protocol",
  "distributed/shared-memory",
  "entries/core",
  "entries/readme",
  "layer/sync-threads",
  "memory/leak",
  "properties/invalid",
  "properties/model-files",
  "properties/state-files",
  "properties/valid",
  "reliability/summary",
  "tensor/operands",
  "tools/cli",
  "tools/cli-files",
  "tools/cli-fold",
  "tools/cli-fold-tfjs",
  "tools/fold-pairs",
  "tools/html",
  "tools/mean-std",
  "tools/published",
  "tools/torch",
  "tools/onnx/fold",
  "tools/onnx/fold-cases",
  "tools/onnx/malformed",
  "tools/onnx/read",
  "wasm/module",
  "wasm/threads",
].map((name) => `test/${name}.test.ts`);

const SUITES = {
  include: ["test/**/*.test.ts"],
  exclude: [
    ...NODE_ONLY,
    ...["test/examples/**", "test/gpu/**", "test/lab/**", "test/mpi/**", "test/packed/**", "test/site/**"],
    "**/node_modules/**",
  ],
};

const node = fileURLToPath(new URL("test/browser/node.ts", import.meta.url));

export default defineConfig({
  plugins: [builtFiles],
  resolve: { alias: { "node:fs": node, "node:url": node, "node:path": node, "node:crypto": node } },
  define: { "process.argv": "[]" }, // read-golden.mjs is a program too
  test: {
    setupFiles: ["test/support/matchers.ts"],
    testTimeout: 120_000,
    hookTimeout: 120_000, // a hook may take all golden cases, as a test may
    browser: {
      enabled: true,
      headless: true,
      screenshotFailures: false,
      instances: [{ browser: "chromium" }],
      provider: playwright({ launchOptions: launchChromium() }),
    },
    projects: [
      {
        extends: true,
        test: { ...SUITES, name: "isolated", provide: { isolated: true, gpu: false } },
        server: { headers: ISOLATION },
      },
      { extends: true, test: { ...SUITES, name: "not isolated", provide: { isolated: false, gpu: false } } },
      {
        extends: true,
        // a dependency that Vite finds during a run would reload the page
        optimizeDeps: { include: ["@tensorflow/tfjs-backend-webgl", "@tensorflow/tfjs-backend-webgpu"] },
        test: {
          name: "gpu",
          include: ["test/tfjs/tfjs*.test.ts", "test/gpu/*.test.ts"],
          provide: { isolated: false, gpu: true },
          browser: { provider: playwright({ launchOptions: launchChromium(GPU) }) },
        },
      },
    ],
  },
});
