// The packed package in every bundler without configuration. An app with one import is built for production and opened
// in Chromium. Vite's development server, which bundles dependencies in advance, is tested too.

import { execFile } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { gzipSync } from "node:zlib";
import type { Browser } from "playwright";
import { createServer, preview } from "vite";
import { afterAll, beforeAll, describe, expect, inject, it } from "vitest";
import { ISOLATION } from "../browser/installed.mjs";
import { launch, shown } from "./bundlers/page.ts";
import type { Checked } from "./check.js";
import { expectChecked, record } from "./record.ts";

const { tarball, golden, expected } = inject("packed");
const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));
const apps = here("../../build/packed/bundlers/");

type Page = "check" | "core" | "complete";

interface Tool {
  readonly name: string;
  readonly package: string;
  /** Its command line, which writes to dist/. */
  readonly command: readonly string[];
  /** Options that the app with the golden cases needs in addition, since it has both entries and imports a .wasm file. */
  readonly options?: readonly string[];
  /** Its own way to import the URL of a .wasm file. By default, for a tool that knows scripts only, the file is copied. */
  readonly simd?: string;
  /** How it finds the small entry where it sees no exports, but files. */
  readonly core?: string;
  /** Whether it makes a page, not just a script. */
  readonly html?: boolean;
  /** Its modules call require. */
  readonly commonjs?: boolean;
  /** Further fields of the app's package.json. */
  readonly fields?: object;
}

const SIMD_URL = `const url = new URL("batchnorm-wasm/simd.wasm", import.meta.url);\nexport default url.href;\n`;

const TOOLS: readonly Tool[] = [
  {
    name: "Vite",
    package: "vite",
    command: ["vite", "build"],
    simd: `export { default } from "batchnorm-wasm/simd.wasm?url";\n`,
    html: true,
  },
  {
    name: "webpack",
    package: "webpack",
    command: ["webpack", "--mode", "production", "--entry", "./main.js"],
    options: ["--no-performance"], // it warns of more than 244 KiB, which two entries together are
    simd: SIMD_URL,
  },
  {
    name: "webpack, CommonJS",
    package: "webpack",
    // webpack cannot leave anything of a CommonJS file out, and warns of more than 244 KiB: the complete entry has 246
    command: ["webpack", "--mode", "production", "--entry", "./main.js", "--no-performance"],
    simd: SIMD_URL,
    commonjs: true,
  },
  {
    name: "esbuild",
    package: "esbuild",
    command: ["esbuild", "main.js", "--bundle", "--minify", "--outdir=dist"],
    options: ["--loader:.wasm=file"],
    simd: `export { default } from "batchnorm-wasm/simd.wasm";\n`,
  },
  {
    name: "Rollup",
    package: "rollup",
    command: ["rollup", "main.js", "--dir", "dist", "--plugin", "node-resolve", "--plugin", "terser"],
  },
  {
    name: "Parcel",
    package: "parcel",
    command: ["parcel", "build", "index.html", "--no-cache"],
    simd: `export { default } from "url:batchnorm-wasm/build/simd.wasm";\n`, // sees no exports, but files
    core: "batchnorm-wasm/dist/core.js",
    html: true,
  },
  {
    name: "Parcel, package exports",
    package: "parcel",
    command: ["parcel", "build", "index.html", "--no-cache"],
    simd: `export { default } from "url:batchnorm-wasm/simd.wasm";\n`,
    html: true,
    // what its users switch on for packages that have nothing but exports
    fields: { "@parcel/resolver-default": { packageExports: true } },
  },
];

/** What a tool says of the app when it is not content. */
const WARNING = /warning|⚠|\(!\)/i;

const execute = promisify(execFile);

/** What a program of test/packed says. Not synchronous: Vitest takes a worker that is silent for a minute for dead. */
async function run(folder: string, command: readonly string[]): Promise<string> {
  const [program = "", ...args] = command;
  // Vitest's NODE_ENV is not a user's
  const env = { ...process.env, NODE_ENV: undefined, NO_COLOR: "1" };
  // a shell, which joins both streams: some tools warn on one, some on the other
  const script = ["-c", 'exec "$0" "$@" 2>&1', here(`node_modules/.bin/${program}`), ...args];
  try {
    return (await execute("sh", script, { cwd: folder, env })).stdout;
  } catch (error) {
    const { stdout } = error as { stdout?: string };
    throw new Error(`${command.join(" ")}, in ${folder}: failed\n${stdout}`, { cause: error });
  }
}

/** An app with the package in its node_modules. */
async function makeApp(tool: Tool, page: Page, suffix = ""): Promise<string> {
  const folder = join(apps, `${tool.name}${suffix}`.replace(/\W+/g, "-").toLowerCase(), page);
  cpSync(join(apps, "installed"), folder, { recursive: true });
  cpSync(here(`bundlers/${page}`), folder, { recursive: true });
  if (tool.fields) {
    const file = join(folder, "package.json");
    writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, "utf8")), ...tool.fields }));
  }
  if (tool.core) {
    const file = join(folder, "main.js");
    writeFileSync(file, readFileSync(file, "utf8").replace('"batchnorm-wasm/core"', JSON.stringify(tool.core)));
  }
  if (page === "check") {
    cpSync(here("check.js"), join(folder, "check.js"));
    writeFileSync(join(folder, "simd.js"), tool.simd ?? `export default "simd.wasm";\n`);
  }
  // as a compiler writes it for whom require is the import of modules
  if (tool.commonjs)
    await run(folder, ["esbuild", "main.js", "--format=cjs", "--outfile=main.js", "--allow-overwrite"]);
  return folder;
}

async function build(tool: Tool, page: Page): Promise<{ folder: string; log: string }> {
  const folder = await makeApp(tool, page);
  const log = await run(folder, [...tool.command, ...((page === "check" && tool.options) || [])]);
  const dist = join(folder, "dist");
  if (!tool.html) cpSync(join(folder, "index.html"), join(dist, "index.html"));
  if (page === "check") {
    for (const file of ["manifest.json", "data.bin"]) cpSync(join(golden, file), join(dist, file));
    if (!tool.simd) cpSync(join(folder, "node_modules/batchnorm-wasm/build/simd.wasm"), join(dist, "simd.wasm"));
  }
  return { folder, log };
}

const versionOf = (tool: Tool): string =>
  JSON.parse(readFileSync(here(`node_modules/${tool.package}/package.json`), "utf8")).version;

let browser: Browser;

beforeAll(async () => {
  rmSync(apps, { recursive: true, force: true });
  const installed = join(apps, "installed");
  mkdirSync(installed, { recursive: true });
  // Vite ends its search for the project's root at this file, Parcel at the lock that npm leaves beside it
  writeFileSync(join(installed, "package.json"), JSON.stringify({ private: true }));
  await execute("npm", ["install", "--offline", "--no-audit", "--no-fund", tarball], { cwd: installed });
  browser = await launch();
});
afterAll(() => browser?.close());

/** The built app as it is served, cross-origin isolated: only there may threads share memory. */
async function open(folder: string): Promise<unknown> {
  const server = await preview({
    root: folder,
    configFile: false,
    preview: { host: "127.0.0.1", port: 0, headers: ISOLATION },
  });
  try {
    return await shown(browser, server.resolvedUrls?.local[0] as string);
  } finally {
    await server.close();
  }
}

interface Found {
  readonly checked: Checked;
  /** Of the complete entry and of the small one. */
  readonly threads: readonly number[];
  readonly sameBits: boolean;
}

function expectFound({ checked, threads, sameBits }: Found): void {
  expectChecked(checked, expected);
  expect(threads).toEqual([2, 2]);
  expect(sameBits).toBe(true);
}

/** Everything that the page loads as a program. */
function sizeOf(dist: string): { bytes: number; gzipped: number } {
  const scripts = readdirSync(dist, { recursive: true, encoding: "utf8" }).filter((file) => /\.(js|wasm)$/.test(file));
  expect(scripts).toHaveLength(1);
  const [bytes] = scripts.map((file) => readFileSync(join(dist, file)));
  if (!bytes) throw new Error(`${dist}: no script`);
  return { bytes: bytes.length, gzipped: gzipSync(bytes, { level: 9 }).length };
}

/**
 * Gzipped bytes that a page with one layer may have where its modules are imported: size.test.ts's budgets, and what bundlers
 * add of their own. What require loads stays whole, so that a bundler which takes the CommonJS build by mistake is beyond it.
 */
const LIMITS = { core: 28_700, complete: 54_300 };

/** What the layer of each page makes of −1 and 1. */
const SHOWN = { core: [-1, 1], complete: [0, 1] };

/** The file of each page's entry that require loads. */
const REQUIRED = { core: "core.cjs", complete: "index.cjs" };

const kB = (bytes: number) => `${(bytes / 1000).toFixed(1)} kB`;

describe.each(TOOLS)("$name", (tool) => {
  const sizes: string[] = [];

  it.each(["core", "complete"] as const)(
    "builds a page with one layer of the %s entry without a warning",
    async (page) => {
      const { folder, log } = await build(tool, page);
      expect(log).not.toMatch(WARNING);
      const y = (await open(folder)) as number[];
      const [low, high] = SHOWN[page];
      expect(y).toHaveLength(128);
      expect(y.map((value) => Math.fround(value * Math.sqrt(1 + 1e-5)))).toEqual(
        y.map((_, i) => (i < 64 ? low : high)),
      );
      const { gzipped } = sizeOf(join(folder, "dist"));
      if (tool.commonjs) expect(log).toContain(`batchnorm-wasm/dist/${REQUIRED[page]}`);
      else expect(gzipped).toBeLessThanOrEqual(LIMITS[page]);
      sizes.push(`${kB(gzipped)} ${page}`);
    },
  );

  it("builds a page that finds the bits that Node finds, on two threads too", async () => {
    const { folder, log } = await build(tool, "check");
    expect(log).not.toMatch(WARNING);
    const found = (await open(folder)) as Found;
    expectFound(found);
    if (sizes.length < 2) throw new Error("no row for the table: a page with one layer has failed");
    const what = `a page with one layer, gzipped: ${sizes.join(", ")}`;
    record({ kind: "bundler", name: tool.name, version: versionOf(tool), what, checked: found.checked });
  });
});

describe("Vite, development server", () => {
  const [vite] = TOOLS as readonly [Tool];

  it("serves the package bundled ahead, and the page finds the bits that Node finds", async () => {
    const folder = await makeApp(vite, "check", " development");
    for (const file of ["manifest.json", "data.bin"]) cpSync(join(golden, file), join(folder, "public", file));
    const server = await createServer({
      root: folder,
      configFile: false,
      logLevel: "warn",
      server: { host: "127.0.0.1", port: 0, headers: ISOLATION },
    });
    try {
      await server.listen();
      const found = (await shown(browser, server.resolvedUrls?.local[0] as string)) as Found;
      expectFound(found);
      for (const file of ["batchnorm-wasm.js", "batchnorm-wasm_core.js"])
        expect(existsSync(join(folder, "node_modules/.vite/deps", file))).toBe(true);
      record({
        kind: "bundler",
        name: "Vite, development server",
        version: versionOf(vite),
        what: "dependencies bundled ahead",
        checked: found.checked,
      });
    } finally {
      await server.close();
    }
  });
});
