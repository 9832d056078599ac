// The site in Chromium and Firefox, light and dark, on a desktop and on a phone: axe-core finds nothing, nothing is wider than
// the screen, nothing is asked of another host, and a keyboard is enough. Screenshots are in build/site-screenshots: look at them.

import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import type { AxeResults } from "axe-core";
import type { Browser, Page } from "puppeteer-core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { BROWSER_NAMES, launch } from "../browser/drive.ts";
import { ROOT } from "./programs.ts";
import { KINDS, serveSite } from "./site.ts";

const SCREENSHOTS = fileURLToPath(new URL("build/site-screenshots/", ROOT));
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const SIZES = { desktop: { width: 1280, height: 900 }, phone: { width: 390, height: 844 } };

let url: string;
let close: () => Promise<void>;
beforeAll(async () => {
  ({ url, close } = await serveSite());
});
afterAll(() => close());

describe.each(BROWSER_NAMES)("%s", (name) => {
  describe.each(["light", "dark"] as const)("%s", (scheme) => {
    let browser: Browser;
    let page: Page;
    let foreign: string[];
    let complaints: string[];

    beforeAll(async () => {
      browser = await launch(name, scheme);
      mkdirSync(`${SCREENSHOTS}${name}`, { recursive: true });
    });
    afterAll(() => browser.close());

    beforeEach(async () => {
      page = await browser.newPage();
      if (name === "chromium") await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
      [foreign, complaints] = [[], []];
      page.on("request", (request) => {
        if (!/^(data|blob|about):/.test(request.url()) && !request.url().startsWith(url)) foreign.push(request.url());
      });
      page.on("pageerror", (error) => complaints.push(`${error}`));
      page.on("console", (message) => {
        if (["error", "warn"].includes(message.type())) complaints.push(message.text());
      });
    });
    afterEach(async () => {
      await page.close();
      expect(foreign).toEqual([]);
      expect(complaints).toEqual([]);
    });

    const open = async (path: string) => {
      await page.goto(url + path);
      // the lab is no page of VitePress
      await page.waitForFunction(() => {
        const app = document.getElementById("app");
        return document.readyState === "complete" && (!app || "__vue_app__" in app);
      });
      if (path.startsWith("playground")) await page.waitForSelector(".cm-content"); // it is loaded after the page
    };

    it.each(Object.entries(KINDS))(
      "%s: axe finds nothing, and it fits the screen",
      { timeout: 300_000 },
      async (kind, path) => {
        const found: Record<string, unknown> = {};
        for (const [size, viewport] of Object.entries(SIZES)) {
          await page.setViewport(viewport);
          await open(path);
          expect(await page.evaluate(() => matchMedia("(prefers-color-scheme: dark)").matches)).toBe(scheme === "dark");
          await page.screenshot({ path: `${SCREENSHOTS}${name}/${kind}-${size}-${scheme}.png` });
          const wider = await page.evaluate(
            () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
          );
          await page.evaluate(AXE);
          const violations = await page.evaluate(async () => {
            const { axe } = window as unknown as { axe: { run: () => Promise<AxeResults> } };
            const { violations } = await axe.run();
            return violations.map(({ id, help, nodes }) => ({
              rule: `${id}: ${help}`,
              places: nodes.slice(0, 5).map(({ target, failureSummary }) => `${target.join(" ")}: ${failureSummary}`),
            }));
          });
          found[size] = { wider, violations };
        }
        expect(found).toEqual(
          Object.fromEntries(Object.keys(SIZES).map((size) => [size, { wider: 0, violations: [] }])),
        );
        complaints = complaints.filter((text) => kind !== "404" || !text.includes("404"));
      },
    );

    // colours do not matter to a keyboard
    if (scheme === "light") {
      const focused = () =>
        page.evaluate(() => {
          const { activeElement: element } = document;
          return `${element?.tagName} ${element?.className} ${element?.getAttribute("href") ?? ""}`;
        });

      it("the first Tab offers to skip to the content, and Enter does it", async () => {
        await page.setViewport(SIZES.desktop);
        await open("guides/folding.html");
        await page.keyboard.press("Tab");
        expect(await focused()).toMatch(/VPSkipLink .*#VPContent/);
        await page.keyboard.press("Enter");
        await page.waitForFunction(() => document.activeElement?.id === "VPContent");
        await page.keyboard.press("Tab");
        expect(await page.evaluate(() => !!document.activeElement?.closest("#VPContent"))).toBe(true);
      });

      it("Tab reaches the search, and Enter opens its first result", async () => {
        await page.setViewport(SIZES.desktop);
        await open("");
        for (let i = 0; i < 5 && !(await focused()).includes("DocSearch-Button"); i++) await page.keyboard.press("Tab");
        expect(await focused()).toContain("DocSearch-Button");
        await page.keyboard.press("Enter");
        await page.waitForSelector("input.search-input");
        await page.keyboard.type("recalibrate()");
        await page.waitForFunction(() =>
          document.querySelector(".results a")?.getAttribute("href")?.includes("recalibrat"),
        );
        const first = await page.evaluate(() => document.querySelector<HTMLAnchorElement>(".results a")?.href);
        await page.keyboard.press("Enter");
        await page.waitForFunction((first) => location.href === first, {}, first);
      });

      it("the sidebar opens the group of the page that is shown, and Enter opens another", async () => {
        await page.setViewport(SIZES.desktop);
        await open("guides/threads.html");
        const openGroups = () =>
          page.$$eval(".VPSidebarItem.collapsible:not(.collapsed) > .item", (items) =>
            items.map(({ textContent }) => textContent?.trim()),
          );
        await page.waitForSelector(".VPSidebarItem.collapsible.has-active:not(.collapsed)");
        expect(await openGroups()).toEqual(["Threads, machines, languages"]);
        await page.focus(".VPSidebarItem.collapsed > .item");
        await page.keyboard.press("Enter");
        expect(await openGroups()).toEqual(["Inputs and modes", "Threads, machines, languages"]);
        await page.keyboard.press("Tab");
        expect(await focused()).toContain("/guides/inputs-and-memory");
      });

      const noScripts = "a page without JavaScript shows its text";
      const chromium = name === "chromium";
      it.runIf(chromium)(
        chromium ? noScripts : `${noScripts}: not in Firefox, where WebDriver BiDi cannot switch it off`,
        async () => {
          await page.setJavaScriptEnabled(false);
          await page.goto(`${url}guides/folding.html`);
          expect(await page.$eval("main", (main) => main.textContent)).toContain("foldIntoConv");
        },
      );
    }
  });
});
