// Browsers for tests that open pages as users do. Puppeteer drives Chromium, and over BiDi also a stock Firefox, which
// Playwright does not.

import puppeteer, { type Browser } from "puppeteer-core";
import { installed, launchChromium } from "./installed.mjs";

export type BrowserName = "chromium" | "firefox";
export type Scheme = "light" | "dark";
export const BROWSER_NAMES: readonly BrowserName[] = ["chromium", "firefox"];

/**
 * Starts a browser whose pages prefer a colour scheme. Of Firefox only the profile can say so; a page of Chromium also needs
 * `emulateMediaFeatures`. `folder` is where downloads go.
 */
export async function launch(name: BrowserName, scheme: Scheme = "light", folder = ""): Promise<Browser> {
  if (name === "firefox")
    return puppeteer.launch({
      ...{ browser: "firefox", executablePath: installed("firefox-esr"), headless: true },
      extraPrefsFirefox: {
        "layout.css.prefers-color-scheme.content-override": scheme === "dark" ? 0 : 1,
        ...(folder && { "browser.download.folderList": 2, "browser.download.dir": folder }),
      },
    });
  const browser = await puppeteer.launch({ ...launchChromium(), headless: true });
  if (folder) {
    const client = await browser.target().createCDPSession();
    await client.send("Browser.setDownloadBehavior", { behavior: "allow", downloadPath: folder });
  }
  return browser;
}
