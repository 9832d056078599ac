// Lighthouse on pages of the built site, in Chromium, as on a desktop and on a phone. `node test/site/lighthouse.mjs` prints
// the scores, of which performance is a matter of the machine: run it on one that does nothing else.

import { argv } from "node:process";
import { fileURLToPath } from "node:url";
import lighthouse, { desktopConfig } from "lighthouse";
import puppeteer from "puppeteer-core";
import { serve } from "vitepress";
import { launchChromium } from "../browser/installed.mjs";

/** The pages that are judged: the home page, a guide, and a page of the API. */
export const PAGES = ["", "guides/folding.html", "reference/api/batchnorm-wasm/classes/BatchNorm.html"];
export const FORM_FACTORS = ["desktop", "mobile"];
export const CATEGORIES = ["performance", "accessibility", "best-practices", "seo"];

/** Yields Lighthouse's result for each page and form factor, one after the other. */
export async function* audit() {
  const { server } = await serve({ root: fileURLToPath(new URL("../../docs", import.meta.url)), port: 0 });
  if (!server.listening) await new Promise((resolve) => server.once("listening", resolve));
  const browser = await puppeteer.launch({ ...launchChromium(), headless: true });
  try {
    const port = Number(new URL(browser.wsEndpoint()).port);
    for (const page of PAGES)
      for (const formFactor of FORM_FACTORS) {
        const url = `http://localhost:${server.address().port}/${page}`;
        const config = formFactor === "desktop" ? desktopConfig : undefined;
        const { lhr } = await lighthouse(url, { port, logLevel: "error", onlyCategories: CATEGORIES }, config);
        yield { page: page || "index.html", formFactor, lhr };
      }
  } finally {
    await browser.close();
    server.close();
  }
}

if (argv[1] === fileURLToPath(import.meta.url)) {
  console.log(`| page | as on | ${CATEGORIES.join(" | ")} |\n|---|---|${"---:|".repeat(CATEGORIES.length)}`);
  for await (const { page, formFactor, lhr } of audit()) {
    const scores = CATEGORIES.map((name) => Math.round(100 * lhr.categories[name].score));
    console.log(`| ${page} | ${formFactor} | ${scores.join(" | ")} |`);
  }
}
