// Opens a built app in Chromium.

import { execFileSync } from "node:child_process";
import { type Browser, chromium } from "playwright";

/** Headers of a page that is cross-origin isolated: only there may threads share memory. */
export const ISOLATION = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};

/** The Chromium that test/browser/install.sh has found or installed. */
export function launch(): Promise<Browser> {
  // Playwright takes no other than an absolute path
  const path = process.env.CHROMIUM ?? execFileSync("which", ["chromium"], { encoding: "utf8" }).trim();
  const args = [
    "--no-sandbox", // root, as in CI, has none
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ];
  return chromium.launch({ executablePath: path, args });
}

/** One of the golden cases has momentum 1, of which the library warns as it should. */
const MEANT = /^batchnorm-wasm: momentum 1 /;

/** What a page shows in its <pre>. Throws at its first error or warning, in the console too. */
export async function shown(browser: Browser, url: string): Promise<unknown> {
  const page = await browser.newPage();
  try {
    const failed = new Promise<never>((_, reject) => {
      page.on("pageerror", reject);
      page.on("crash", () => reject(new Error(`${url}: the page crashed`)));
      page.on("console", (message) => {
        if (["error", "warning"].includes(message.type()) && !MEANT.test(message.text()))
          reject(new Error(`${url}: ${message.text()}`));
      });
      page.on("response", (response) => {
        if (response.status() >= 400) reject(new Error(`${response.url()}: status ${response.status()}`));
      });
    });
    const text = async () => {
      await page.goto(url);
      const found = await page.waitForFunction(() => document.querySelector("pre")?.textContent, undefined, {
        timeout: 300_000, // a page takes seconds; a machine that does much else, more
      });
      return JSON.parse((await found.jsonValue()) as string) as unknown;
    };
    return await Promise.race([text(), failed]);
  } finally {
    await page.close();
  }
}
