// The page in Chromium and Firefox. Every experiment runs and draws, and its screenshots are in build/lab-screenshots.

import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Browser, Page } from "puppeteer-core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, onTestFinished } from "vitest";
import { EXPERIMENTS } from "../../examples/lab/experiments/index.mjs";
import { buildPage, FOLDER } from "../../examples/lab/page/build.mjs";
import { serve } from "../../examples/lab/page/serve.mjs";
import { BROWSER_NAMES, launch, type Scheme } from "../browser/drive.ts";

const SCREENSHOTS = fileURLToPath(new URL("../../build/lab-screenshots/", import.meta.url));
const DESKTOP = { width: 1200, height: 900 };
const PHONE = { width: 360, height: 740 };

/** Little to do, and enough to look at. */
const LITTLE: Record<string, string> = {
  figure1: "steps=40",
  "learning-rate": "steps=20&points=4",
  initialisation: "steps=20&points=4",
  saturation: "steps=30",
  smoothness: "steps=30",
  "batch-size": "samples=512",
  "which-norm": "samples=128&points=3&heldOut=100",
  regularisation: "steps=40",
  "gamma-beta": "steps=60",
  lenet: "steps=6",
};

interface State {
  id: string;
  values: Record<string, number | string>;
  phase: "idle" | "running" | "paused" | "finished";
  error?: string;
  charts: Record<string, Record<string, unknown[]>>;
  facts: Record<string, string | number>;
  done: number;
  total: number;
}

let url: string;
let close: () => Promise<void>;

beforeAll(async () => {
  await buildPage();
  ({ url, close } = await serve());
});
afterAll(() => close());

describe.each(BROWSER_NAMES)("in %s", (name) => {
  let browser: Browser;
  let page: Page;
  let complaints: string[];

  beforeAll(async () => {
    browser = await launch(name);
    mkdirSync(join(SCREENSHOTS, name), { recursive: true });
  });
  afterAll(() => browser.close());

  beforeEach(async () => {
    page = await browser.newPage();
    await page.setViewport(DESKTOP);
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

  const open = async (hash: string) => {
    await page.goto("about:blank");
    await page.goto(`${url}#${hash}`);
    await page.waitForSelector("#charts figure");
  };
  const state = () => page.evaluate(() => (window as unknown as { lab: { state: State } }).lab.state);
  const until = (phase: State["phase"]) =>
    page.waitForFunction(
      (phase) => (window as unknown as { lab: { state: State } }).lab.state.phase === phase,
      { timeout: 100_000 },
      phase,
    );
  const click = (id: string) => page.evaluate((id) => document.getElementById(id)?.click(), id);
  const textOf = (id: string) => page.evaluate((id) => document.getElementById(id)?.textContent ?? "", id);

  /** Whether every chart's canvas shows more than one colour. */
  const drawn = () =>
    page.evaluate(async () => {
      await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
      return [...document.querySelectorAll<HTMLElement>("figure[data-chart]")].map((figure) => {
        const canvas = figure.querySelector("canvas");
        if (!canvas) return [figure.dataset.chart, 0];
        const copy = new OffscreenCanvas(canvas.width, canvas.height);
        const context = copy.getContext("2d", { willReadFrequently: true }) as OffscreenCanvasRenderingContext2D;
        context.drawImage(canvas, 0, 0);
        const pixels = new Uint32Array(context.getImageData(0, 0, canvas.width, canvas.height).data.buffer);
        return [figure.dataset.chart, new Set(pixels).size];
      });
    });

  it.each(EXPERIMENTS)("$id runs, has data in every chart, and is drawn", async (experiment) => {
    await open(`experiment=${experiment.id}&${LITTLE[experiment.id]}&run=1`);
    await until("finished");
    const { charts, error, done, total, values, id } = await state();
    expect(error).toBeUndefined();
    expect([id, done]).toEqual([experiment.id, total]);
    expect(await textOf("status")).toBe("Finished.");
    const declared = experiment.charts(values as never);
    for (const chart of declared)
      for (const series of chart.series) {
        const data = charts[chart.id]?.[series.id];
        expect(
          Array.isArray(data) ? data.length : Object.keys(data ?? {}).length,
          `${chart.id} ${series.id}`,
        ).toBeGreaterThan(0);
      }
    const colours = await drawn();
    expect(colours.map(([chart]) => chart)).toEqual(declared.map((chart) => chart.id));
    for (const [chart, count] of colours) expect(count, `${chart}`).toBeGreaterThan(3);

    for (const [size, viewport] of Object.entries({ desktop: DESKTOP, phone: PHONE }))
      for (const scheme of name === "chromium" ? ["light", "dark"] : ["light"]) {
        await page.setViewport(viewport);
        // Firefox in the dark is what saves below: a second run of everything would take too long
        if (name === "chromium") await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
        await drawn();
        const wide = await page.evaluate(
          () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
        );
        expect(wide, `${size}: wider than the screen by`).toBe(0);
        const path = join(SCREENSHOTS, name, `${experiment.id}-${size}-${scheme}.png`);
        await page.screenshot({ path: path as `${string}.png`, fullPage: true });
        expect(readFileSync(path).length).toBeGreaterThan(20_000);
      }
  });

  it("stops, resumes where it was, and reaches the curve of a run without a stop", async () => {
    const hash = "experiment=regularisation&steps=60&images=60";
    await open(`${hash}&run=1`);
    await until("finished");
    const whole = await state();

    await open(`${hash}&run=1`);
    await page.waitForFunction(() => (window as unknown as { lab: { state: State } }).lab.state.done > 5);
    await click("start");
    expect(await textOf("start")).toBe("Resume");
    const later = () => new Promise((resolve) => setTimeout(resolve, 500));
    let stopped = await state();
    expect(stopped.phase).toBe("paused");
    // what is on its way arrives
    for (let before = -1; stopped.done !== before; stopped = await state()) {
      before = stopped.done;
      await later();
    }
    expect(stopped.done).toBeLessThan(stopped.total);
    await later();
    expect((await state()).done).toBe(stopped.done);
    await click("start");
    await until("finished");
    expect((await state()).charts).toEqual(whole.charts);
  });

  it("restarts, from the beginning", async () => {
    await open("experiment=gamma-beta&steps=30&run=1");
    await until("finished");
    const { charts } = await state();
    await click("restart");
    expect((await state()).phase).toBe("running");
    await until("finished");
    expect((await state()).charts).toEqual(charts);
  });

  it("has its settings in its URL, does not start by itself, and says what it corrected", async () => {
    await open("experiment=learning-rate&steps=33&data=spirals&seed=5");
    expect(await state()).toMatchObject({
      id: "learning-rate",
      phase: "idle",
      values: { steps: 33, data: "spirals", seed: 5 },
    });
    const shown = await page.evaluate(() =>
      ["steps", "data", "seed"].map((id) => (document.getElementById(`control-${id}`) as HTMLInputElement).value),
    );
    expect(shown).toEqual(["33", "spirals", "5"]);
    await page.evaluate(() => {
      const input = document.getElementById("control-steps") as HTMLInputElement;
      input.value = "44";
      input.dispatchEvent(new Event("change"));
    });
    expect(page.url()).toContain("steps=44");
    expect((await state()).values.steps).toBe(44);
    await open("experiment=learning-rate&steps=0&colour=red");
    expect(await textOf("status")).toMatch(/Corrected .*steps: expected a whole number.*colour: expected a control/);
    expect((await state()).values.steps).toBe(10);
    await open("experiment=learning-rate&steps=10&points=0&run=1");
    expect((await state()).phase).toBe("running");
    expect(await textOf("status")).toMatch(/Corrected .*points: expected a whole number/);
  });

  it("goes from one experiment to another by its list", async () => {
    await open("");
    for (const { id, title, method, sources, guides } of EXPERIMENTS) {
      await page.evaluate((id) => document.querySelector<HTMLElement>(`#list a[data-id="${id}"]`)?.click(), id);
      await page.waitForFunction((title) => document.getElementById("title")?.textContent === title, {}, title);
      expect((await state()).id).toBe(id);
      expect(await textOf("sources")).toContain(sources[0]?.text);
      expect(await textOf("method")).toBe(method ?? "");
      // alone, without the documentation's site beside it
      expect(await textOf("guides")).toBe(guides.map(({ text, path }) => `${text} (docs/${path}.md)`).join(", "));
      expect(await page.evaluate(() => document.querySelector("[aria-current]")?.getAttribute("data-id"))).toBe(id);
    }
  });

  it("is used by keyboard alone", async () => {
    await open("experiment=gamma-beta&steps=20");
    const focused = () => page.evaluate(() => document.activeElement?.id || document.activeElement?.className);
    await page.keyboard.press("Tab");
    expect(await focused()).toBe("skip");
    await page.keyboard.press("Enter");
    await page.keyboard.press("Tab");
    // past the sources to the controls
    for (let i = 0; i < 20 && (await focused()) !== "control-steps"; i++) await page.keyboard.press("Tab");
    expect(await focused()).toBe("control-steps");
    const outline = await page.evaluate(() => getComputedStyle(document.activeElement as Element).outlineStyle);
    expect(outline).toBe("solid");
    for (let i = 0; i < 20 && (await focused()) !== "start"; i++) await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    await until("finished");
    expect((await state()).done).toBe(20);
  });

  it("names every control, canvas and figure for those who do not see", async () => {
    await open("experiment=gamma-beta&steps=20&run=1");
    await until("finished");
    await drawn();
    const unnamed = await page.evaluate(
      () =>
        [
          ...[...document.querySelectorAll("input, select")].filter(
            (e) => !document.querySelector(`label[for="${e.id}"]`)?.textContent,
          ),
          ...[...document.querySelectorAll("canvas")].filter(
            (e) => e.getAttribute("role") !== "img" || !e.getAttribute("aria-label"),
          ),
          ...[...document.querySelectorAll("figure")].filter((e) => !e.querySelector("figcaption")?.textContent),
          ...[...document.querySelectorAll("button")].filter((e) => !e.textContent),
        ].length,
    );
    expect(unnamed).toBe(0);
    expect(await page.evaluate(() => document.getElementById("status")?.getAttribute("role"))).toBe("status");
  });

  it("tells in words what went wrong", async () => {
    renameSync(join(FOLDER, "digits.bin"), join(FOLDER, "digits.gone"));
    onTestFinished(() => renameSync(join(FOLDER, "digits.gone"), join(FOLDER, "digits.bin")));
    await page.setCacheEnabled(false);
    await open("experiment=figure1&steps=20&run=1");
    await until("finished");
    expect(await textOf("status")).toMatch(/^It failed: digits.bin: 404/);
    expect((await state()).error).toMatch(/404/);
    complaints = complaints.filter((text) => !text.includes("404")); // the browser's own
  });
});

describe.each(BROWSER_NAMES)("what is saved, by %s", (name) => {
  const saves = async (scheme: Scheme) => {
    const folder = mkdtempSync(join(tmpdir(), "lab-page-"));
    onTestFinished(() => rmSync(folder, { recursive: true }));
    const browser = await launch(name, scheme, folder);
    onTestFinished(() => browser.close());
    const page = await browser.newPage();
    await page.setViewport(DESKTOP);
    if (name === "chromium") await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
    await page.goto(`${url}#experiment=gamma-beta&steps=40&run=1`);
    await page.waitForFunction(() => (window as unknown as { lab: { state: State } }).lab.state.phase === "finished");
    const file = async (button: string, file: string) => {
      await page.evaluate((id) => document.getElementById(id)?.click(), button);
      const path = join(folder, file);
      // Firefox puts an empty file there first
      await expect.poll(() => existsSync(path) && statSync(path).size, { timeout: 10_000 }).toBeGreaterThan(0);
      return readFileSync(path);
    };
    return { browser, page, file };
  };

  it("is JSON with all that was measured", async () => {
    const { page, file } = await saves("light");
    const saved = JSON.parse((await file("json", "gamma-beta.json")).toString());
    const state = await page.evaluate(() => (window as unknown as { lab: { state: State } }).lab.state);
    const { values, facts, charts } = state;
    expect(saved).toMatchObject({ experiment: "gamma-beta", values, facts, charts });
    expect(saved.url).toBe(`${url}#experiment=gamma-beta&steps=40`);
    expect(saved.library).toMatch(/^batchnorm-wasm \d/);
  });

  it.each(["light", "dark"] as const)("is a picture of every chart, in a %s scheme", async (scheme) => {
    const { browser, page, file } = await saves(scheme);
    await page.screenshot({
      path: join(SCREENSHOTS, name, `gamma-beta-desktop-${scheme}.png`) as `${string}.png`,
      fullPage: true,
    });
    const png = await file("png", "gamma-beta.png");
    const other = await browser.newPage(); // whose policy lets it read data
    const [width, height, corner] = await other.evaluate(async (base64) => {
      const image = await createImageBitmap(await (await fetch(`data:image/png;base64,${base64}`)).blob());
      const canvas = new OffscreenCanvas(image.width, image.height);
      const context = canvas.getContext("2d") as OffscreenCanvasRenderingContext2D;
      context.drawImage(image, 0, 0);
      return [image.width, image.height, context.getImageData(2, 2, 1, 1).data[0] as number];
    }, png.toString("base64"));
    expect(width).toBe(1280);
    expect(height).toBeGreaterThan(900);
    if (scheme === "light") expect(corner).toBeGreaterThan(200);
    else expect(corner).toBeLessThan(60);
  });
});
