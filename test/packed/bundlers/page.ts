// Opens a built app in Chromium.

import { type Browser, chromium } from "playwright";
import { launchChromium } from "../../browser/installed.mjs";

/** The Chromium that test/browser/install.sh has found or installed. */
export const launch = (): Promise<Browser> => chromium.launch(launchChromium());

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
