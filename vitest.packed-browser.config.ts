// The package as users get it, in Chromium, Firefox and WebKitGTK as Debian has them.

import { playwright } from "@vitest/browser-playwright";
import { defineConfig } from "vitest/config";
import { ISOLATION, launchChromium } from "./test/browser/installed.mjs";
import { commands } from "./test/packed/browsers/commands.ts";
import { firefox } from "./test/packed/browsers/firefox.ts";
import { serve } from "./test/packed/browsers/serve.ts";
import { webkit } from "./test/packed/browsers/webkit.ts";

export default defineConfig({
  plugins: [serve],
  server: { headers: ISOLATION },
  optimizeDeps: { exclude: ["batchnorm-wasm"] }, // a page shall get the file that was packed
  test: {
    include: ["test/packed/browsers/*.test.ts"],
    globalSetup: ["test/packed/setup.ts"],
    fileParallelism: false,
    testTimeout: 120_000,
    browser: {
      enabled: true,
      headless: true,
      screenshotFailures: false,
      commands,
      instances: [
        { browser: "chromium", provider: playwright({ launchOptions: launchChromium() }) },
        { browser: "firefox", provider: firefox() },
        { browser: "webkit", provider: webkit() },
      ],
    },
  },
});
