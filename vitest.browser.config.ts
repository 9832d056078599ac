// The behaviour suites in Chromium, in two worlds: cross-origin isolated, where threads can share memory, and not.

import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";
import { playwright } from "@vitest/browser-playwright";
import { defineConfig } from "vitest/config";
import { builtFiles } from "./vitest.config.ts";

declare module "vitest" {
  interface ProvidedContext {
    /** Whether the suite's page is to be cross-origin isolated. */
    isolated: boolean;
  }
}

/** About Node itself, programs that it runs, or documents: they would say nothing about a page, which has browser/threads. */
const NODE_ONLY = ["abi", "bench", "figure1", "fixture", "leak", "readme", "threads"].map(
  (name) => `test/${name}.test.ts`,
);

const ISOLATION = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };

const FLAGS = [
  "--no-sandbox", // root, as in CI, has none
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** An absolute path, as Playwright takes no other. */
function chromium(): string {
  const onPath = (process.env.PATH ?? "").split(delimiter).map((folder) => join(folder, "chromium"));
  const found = (process.env.CHROMIUM ? [process.env.CHROMIUM] : onPath).find((file) => {
    try {
      accessSync(file, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
  if (!found) throw new Error("No Chromium: run test/browser/install.sh, or set CHROMIUM to an executable.");
  return found;
}

const node = fileURLToPath(new URL("test/browser/node.ts", import.meta.url));

export default defineConfig({
  plugins: [builtFiles],
  resolve: { alias: { "node:fs": node, "node:url": node, "node:path": node, "node:crypto": node } },
  define: { "process.argv": "[]" }, // read-golden.mjs is a program too
  optimizeDeps: { include: ["@assemblyscript/loader"] }, // found during a run, it would reload the page under a test
  test: {
    include: ["test/**/*.test.ts"],
    exclude: NODE_ONLY,
    setupFiles: ["test/matchers.ts"],
    testTimeout: 120_000,
    browser: {
      enabled: true,
      headless: true,
      screenshotFailures: false,
      instances: [{ browser: "chromium" }],
      provider: playwright({ launchOptions: { executablePath: chromium(), args: FLAGS } }),
    },
    projects: [
      { extends: true, test: { name: "isolated", provide: { isolated: true } }, server: { headers: ISOLATION } },
      { extends: true, test: { name: "not isolated", provide: { isolated: false } } },
    ],
  },
});
