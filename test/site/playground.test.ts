// The playground of the built site (npm run site:build), in Chromium and Firefox, under the content security policy that its
// page names; its starting points also in Node. Screenshots are in build/site-screenshots.

import { spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Browser, Page } from "puppeteer-core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { EXAMPLES, type ExampleId } from "../../docs/.vitepress/theme/playground/examples/index.ts";
import { fromHash, toHash } from "../../docs/.vitepress/theme/playground/share.ts";
import { textOf } from "../../docs/.vitepress/theme/playground/values.ts";
import { BROWSER_NAMES, launch } from "../browser/drive.ts";

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));
const FILES = here("../../docs/.vitepress/theme/playground/examples/");
const SITE = here("../../build/site/");
const SCREENSHOTS = here("../../build/site-screenshots/");

/** What the page says a host needs, in docs/playground.md. */
const POLICY =
  /^```\n(default-src [\s\S]*?)^```/m
    .exec(readFileSync(here("../../docs/playground.md"), "utf8"))?.[1]
    ?.replace(/\s+/g, " ")
    .trim() ?? "";

/** What every starting point prints, in Node and in browsers, and how many plots it draws. */
const EXPECTED: Record<ExampleId, { text: RegExp; plots: number }> = {
  layer: { text: /y with gamma 10 and beta 5 in channel 1/, plots: 0 },
  "training-loop": { text: /first and last loss \d+\.\d+ \d\.\d+e-\d+/, plots: 1 },
  modes: { text: /frozen \{[\s\S]*mean of y'?: 7\.08/, plots: 0 },
  mask: {
    text: /mean with the mask 3\.[\s\S]*mean of the values 3\.[\s\S]*dBeta counts the kept positions 10/,
    plots: 0,
  },
  "ghost-batches": { text: /batches tracked \{ whole: 1, ghosts: 32 \}/, plots: 1 },
  "micro-batches": { text: /the same within rounding true/, plots: 0 },
  "relu-residual": { text: /largest difference from three steps (0|\d\.\d+e-\d+)\s*$/, plots: 0 },
  "fold-convolution": { text: /the same within rounding true/, plots: 0 },
  "group-and-layer-norm": { text: /layer: for each sample[\s\S]*dx of group norm/, plots: 0 },
  diagnose: { text: /drifted[\s\S]*dead[\s\S]*weak[\s\S]*drifted after recalibrate (\[\]|\(0\) \[\])/, plots: 0 },
  "gradient-penalty": { text: /analytic (-0\.47924)[\s\S]*finite difference \1/, plots: 0 },
  momentum: { text: /mean of all values (2\.99913)[\s\S]*population \1/, plots: 1 },
  "two-workers": {
    text: /running means of rank 0 and of rank 1[\s\S]*0\.3[\s\S]*2\.2[\s\S]*0\.3[\s\S]*2\.2/,
    plots: 0,
  },
};

describe("starting points in Node", () => {
  it("are the files that there are", () => {
    const files = readdirSync(FILES).filter((file) => file.endsWith(".js"));
    expect(EXAMPLES.map(({ id }) => `${id}.js`).sort()).toEqual(files.sort());
  });

  it.each(EXAMPLES)("$id", ({ id }) => {
    const stub = new URL("playground-globals.mjs", import.meta.url).href;
    const { status, stdout, stderr } = spawnSync(process.execPath, ["--import", stub, join(FILES, `${id}.js`)], {
      encoding: "utf8",
    });
    expect(stderr).toBe("");
    expect(status).toBe(0);
    expect(stdout).toMatch(EXPECTED[id].text);
    expect(stdout.match(/^plot: /gm) ?? []).toHaveLength(EXPECTED[id].plots);
  });
});

describe("text of values", () => {
  it.each([
    ["a text as it is", "a\nb", "a\nb"],
    ["a number in full", 0.1 + 0.2, "0.30000000000000004"],
    ["an array of float32 in six digits", Float32Array.of(0.1, 1 / 3), "Float32Array(2) [0.1, 0.333333]"],
    ["the first values of a long one", new Uint8Array(10), "Uint8Array(10) [0, 0, 0, 0, 0, 0, 0, 0, … 2 more]"],
    [
      "a tensor by rows",
      { data: Float32Array.of(1, 2, 3, 4), shape: [2, 2] },
      "Float32Array of shape [2, 2]\n  [1, 2]\n  [3, 4]",
    ],
    [
      "what only looks like a tensor",
      { data: Float32Array.of(1, 2, 3), shape: [2, 2] },
      "{ data: Float32Array(3) [1, 2, 3], shape: (2) [2, 2] }",
    ],
    ["an empty tensor", { data: new Float32Array(0), shape: [2, 0] }, "Float32Array of shape [2, 0] []"],
    ["an error", new RangeError("no"), "RangeError: no"],
    ["nested objects", { a: { b: "c", d: null }, e: 1n }, '{ a: { b: "c", d: null }, e: 1n }'],
    ["an array of texts", ["a", 1], '["a", 1]'],
    ["nothing", undefined, "undefined"],
    ["a map", new Map([["a", 1]]), "Map(1) { a: 1 }"],
    ["a set", new Set([1, 2]), "Set(2) (2) [1, 2]"],
  ])("%s", (_, value, text) => expect(textOf(value)).toBe(text));

  it("ends in circles and in depth", () => {
    const circle: Record<string, unknown> = {};
    circle.itself = circle;
    expect(textOf(circle)).toBe("{ itself: [circular] }");
    expect(textOf({ a: { b: { c: { d: { e: 1 } } } } })).toBe("{ a: { b: { c: {…} } } }");
  });
});

describe("a program in an address", () => {
  const program = 'console.log("ü → 🎲");\n'.repeat(100);
  it("comes back, compressed or not", async () => {
    const hash = await toHash(program);
    expect(hash).toMatch(/^deflate=[\w-]+$/);
    expect(hash.length).toBeLessThan(program.length / 5);
    expect(await fromHash(`#${hash}`)).toBe(program);
    const plain = `code=${Buffer.from(program).toString("base64url")}`;
    expect(await fromHash(plain)).toBe(program);
    const stream = globalThis.CompressionStream;
    Reflect.deleteProperty(globalThis, "CompressionStream");
    try {
      expect(await toHash(program)).toBe(plain);
    } finally {
      globalThis.CompressionStream = stream;
    }
  });
  it("is refused if it is none, or too long", async () => {
    expect(await fromHash("#example=layer")).toBeUndefined();
    await expect(fromHash("#deflate=AAAA")).rejects.toThrow();
    await expect(fromHash("#code=_w")).rejects.toThrow();
    await expect(fromHash(`#${await toHash(" ".repeat(2 ** 20 + 1))}`)).rejects.toThrow(/more than 1048576 bytes/);
  });
});

// ---- in browsers ----------------------------------------------------------------------------------------------------

const TYPES: Record<string, string> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".css": "text/css",
  ".svg": "image/svg+xml",
  ".woff2": "font/woff2",
};

/** The site under the policy; a file that it does not have is 404. */
const serve = (): Promise<Server> =>
  new Promise((resolve) => {
    const server = createServer(({ url }, response) => {
      const path = new URL(url ?? "", "http://localhost").pathname;
      try {
        const content = readFileSync(join(SITE, path.endsWith("/") ? `${path}index.html` : path));
        response.setHeader("Content-Type", TYPES[extname(path) || ".html"] ?? "application/octet-stream");
        response.setHeader("Content-Security-Policy", POLICY);
        response.end(content);
      } catch {
        response.writeHead(404).end();
      }
    });
    server.listen(0, "127.0.0.1", () => resolve(server));
  });

describe.each(BROWSER_NAMES)("in %s", (name) => {
  let server: Server;
  let url: string;
  let browser: Browser;
  let page: Page;
  let complaints: string[];

  beforeAll(async () => {
    expect(POLICY).toMatch(/script-src 'self' 'unsafe-inline' 'unsafe-eval' 'wasm-unsafe-eval';/);
    server = await serve();
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/playground.html`;
    browser = await launch(name);
    mkdirSync(join(SCREENSHOTS, name), { recursive: true });
  });
  afterAll(async () => {
    await browser.close();
    server.close();
  });
  beforeEach(async () => {
    page = await browser.newPage();
    await page.setViewport({ width: 1280, height: 900 });
    complaints = [];
    page.on("console", (message) => {
      if (["error", "warn"].includes(message.type())) complaints.push(message.text());
    });
    page.on("pageerror", (error) => complaints.push(`${error}`));
  });
  afterEach(async () => {
    await page.close();
    expect(complaints).toEqual([]);
  });

  const open = async (hash = "") => {
    await page.goto("about:blank");
    await page.goto(`${url}${hash}`);
    await page.waitForSelector(".cm-content");
  };
  const textOf = (selector: string) =>
    page.evaluate((selector) => document.querySelector(selector)?.textContent ?? "", selector);
  const status = (text: RegExp) =>
    page.waitForFunction(
      (source) => new RegExp(source).test(document.querySelector(".playground .status")?.textContent ?? ""),
      { timeout: 100_000 },
      text.source,
    );
  const click = (text: string) =>
    page.evaluate((text) => {
      const buttons = [...document.querySelectorAll<HTMLButtonElement>(".playground button")];
      buttons.find((button) => button.textContent?.trim() === text)?.click();
    }, text);
  const withCode = async (code: string) => open(`#${await toHash(code)}`);
  const run = async (code: string, ends: RegExp) => {
    await withCode(code);
    await click("Run");
    await status(ends);
    return textOf(".playground .output");
  };

  it.each(EXAMPLES)("$id runs, prints and draws", async ({ id }) => {
    await open(`#example=${id}`);
    expect(await page.$eval("#playground-example", (select) => (select as HTMLSelectElement).value)).toBe(id);
    await click("Run");
    await status(/^(Finished|It failed)/);
    const output = await textOf(".playground .output");
    expect(output).toMatch(EXPECTED[id].text);
    expect(await textOf(".playground .status")).toBe("Finished.");
    const colours = await page.evaluate(async () => {
      await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
      return [...document.querySelectorAll<HTMLCanvasElement>(".playground canvas")].map((canvas) => {
        const pixels = canvas.getContext("2d")?.getImageData(0, 0, canvas.width, canvas.height).data.buffer;
        return new Set(new Uint32Array(pixels as ArrayBuffer)).size;
      });
    });
    expect(colours).toHaveLength(EXPECTED[id].plots);
    for (const count of colours) expect(count).toBeGreaterThan(10);
  });

  it("prints errors with the line in which they happen, and marks it", async () => {
    expect(await run("const a = 1;\n\nthrow new RangeError('no');", /failed in line 3/)).toContain("RangeError: no");
    expect(await run("await 0;\nconst f = () => {\n  null.x;\n};\nf();", /failed in line 3/)).toContain("TypeError");
    await run("const a = 1;\nconst b = ;\n", /failed in line 2/);
    expect(await run('\nimport x from "left-pad";', /failed in line 2/)).toContain('no module "left-pad"');
    expect(await run("\nplot('x');", /failed in line 2/)).toContain("plot: expected an array of numbers");
    const library = 'import { BatchNorm } from "batchnorm-wasm";\nconst bn = new BatchNorm(3);\nbn.forward({});\n';
    await run(library, /failed in line 3/);
    await click("Line 3");
    expect(await page.evaluate(() => getSelection()?.toString())).toBe("bn.forward({});");
  });

  it("stops an endless loop, which freezes nothing, and runs again", async () => {
    await withCode("console.log('begun');\nfor (;;);");
    await click("Run");
    await page.waitForFunction(() => document.querySelector(".output")?.textContent?.includes("begun"));
    expect(await textOf(".playground .status")).toBe("Running.");
    await click("Stop");
    expect(await textOf(".playground .status")).toBe("Stopped.");
    await withCode("for (;;) console.log(1);");
    await click("Run");
    const full = () => document.querySelector(".output")?.textContent?.includes("Nothing after 1000");
    await page.waitForFunction(full, { timeout: 100_000 });
    await click("Stop");
    expect(await page.$$eval(".output pre", (lines) => lines.length)).toBe(1001);
    expect(await run("console.log(1 + 1)", /Finished/)).toBe("2");
  });

  it("shares a program by its address, which does not run by itself", async () => {
    await open("#example=layer");
    await page.focus(".cm-content");
    await page.keyboard.type("console.log('mine');\n");
    expect(await textOf("#playground-example option:checked")).toBe("Your program");
    await click("Copy link");
    await status(/^The link is/);
    const address = page.url();
    expect(address).toMatch(/#deflate=[\w-]+$/);
    await page.goto("about:blank");
    await page.goto(address);
    await status(/came with the link/);
    expect(await textOf(".cm-content")).toContain("console.log('mine');");
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(await textOf(".playground .output")).toBe("");
    await click("Run");
    await status(/Finished/);
    expect(await textOf(".playground .output")).toMatch(/^mine/);
    await page.goto("about:blank");
    await page.goto(`${url}#deflate=AAAA`);
    await status(/cannot be read/);
  });

  it("is used by keyboard alone", async () => {
    await open("#example=layer");
    const focused = () =>
      page.evaluate(() => document.activeElement?.id || document.activeElement?.textContent?.trim().slice(0, 12));
    await page.focus("#playground-example");
    await page.keyboard.press("ArrowDown");
    if (name === "firefox") await page.keyboard.press("Enter");
    await page.waitForFunction(() => location.hash === "#example=training-loop");
    await page.keyboard.press("Tab");
    expect(await focused()).toBe("Run");
    await page.keyboard.press("Enter");
    await status(/Finished/);
    expect(await textOf(".output")).toContain("first and last loss");
    // from the editor by Ctrl+Enter, and out of it by Tab
    await page.focus(".cm-content");
    await page.keyboard.down("Control");
    await page.keyboard.press("Home");
    await page.keyboard.up("Control");
    await page.keyboard.type("console.log('typed');\n");
    await page.keyboard.down("Control");
    await page.keyboard.press("Enter");
    await page.keyboard.up("Control");
    await page.waitForFunction(() => document.querySelector(".output")?.textContent?.startsWith("typed"));
    await status(/Finished/);
    await page.focus(".cm-content");
    await page.keyboard.press("Tab");
    expect(await page.evaluate(() => document.activeElement?.getAttribute("role"))).toBe("log");
  });

  it.each(["light", "dark"] as const)("fits a phone and a desk, %s", async (scheme) => {
    await page.goto(url);
    await page.evaluate((scheme) => localStorage.setItem("vitepress-theme-appearance", scheme), scheme);
    await open("#example=momentum");
    expect(await page.evaluate(() => document.documentElement.classList.contains("dark"))).toBe(scheme === "dark");
    await click("Run");
    await status(/Finished/);
    for (const [size, width] of Object.entries({ desktop: 1280, phone: 390 })) {
      await page.setViewport({ width, height: 900 });
      await page.evaluate(() => new Promise((resolve) => setTimeout(resolve, 300)));
      const wide = await page.evaluate(
        () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
      );
      expect(wide, `${size}: wider than the screen by`).toBe(0);
      const path = join(SCREENSHOTS, name, `playground-${size}-${scheme}.png`);
      await page.screenshot({ path: path as `${string}.png`, fullPage: true });
    }
  });

  it("results lead to their experiment in the lab", async () => {
    await page.goto(url.replace("playground", "results/experiments"));
    const link = 'a[href="/lab/#experiment=saturation"]';
    await page.waitForSelector(link);
    await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(resolve))); // Vue takes over what was sent
    await page.evaluate((link) => document.querySelector<HTMLElement>(link)?.click(), link);
    await page.waitForFunction(() => document.getElementById("title")?.textContent?.startsWith("Saturation"));
  });

  it("the lab is beside it, and its links lead to pages that there are", async () => {
    await open();
    await page.evaluate(() => document.querySelector<HTMLElement>('a[href="/lab/"]')?.click());
    await page.waitForSelector("#charts figure");
    const links = await page.$$eval("#guides a", (links) => links.map((link) => (link as HTMLAnchorElement).href));
    expect(links.length).toBeGreaterThan(0);
    for (const link of links) {
      await page.goto(link);
      const id = decodeURIComponent(new URL(link).hash.slice(1));
      expect(await page.title(), link).not.toMatch(/404/);
      if (id) expect(await page.evaluate((id) => document.getElementById(id) !== null, id), link).toBe(true);
    }
  });
});
