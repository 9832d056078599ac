// Firefox for Vitest, over WebDriver BiDi. Playwright cannot do it, since it drives its own patched build only.

import { defineBrowserProvider } from "@vitest/browser";
import puppeteer, { type Browser } from "puppeteer-core";
import type { BrowserProvider } from "vitest/node";
import { installed } from "../../browser/installed.mjs";

class FirefoxProvider implements BrowserProvider {
  readonly name = "firefox";
  readonly supportsParallelism = false;
  #browser: Promise<Browser> | undefined;

  async openPage(_session: string, url: string): Promise<void> {
    this.#browser ??= puppeteer.launch({ browser: "firefox", executablePath: installed("firefox-esr") });
    const page = await (await this.#browser).newPage();
    await page.goto(url, { timeout: 0 });
  }

  async version(): Promise<string> {
    return (await (await this.#browser)?.version())?.replace(/^firefox\//i, "") ?? "";
  }

  getCommandsContext(): Record<string, unknown> {
    return {};
  }

  async close(): Promise<void> {
    await (await this.#browser)?.close();
  }
}

export const firefox = () =>
  defineBrowserProvider({
    name: "firefox",
    supportedBrowser: ["firefox"],
    options: {},
    providerFactory: () => new FirefoxProvider(),
  });
