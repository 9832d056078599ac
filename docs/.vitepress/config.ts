// The site of the documentation: `npm run site` builds and serves it. Pages are the Markdown files of docs/, and those of
// docs/reference/api are made by TypeDoc from the docstrings.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type DefaultTheme, defineConfig } from "vitepress";
import llms from "vitepress-plugin-llms";
import { buildPage } from "../../examples/lab/page/build.mjs";

/** The pages of the reference, which typedoc-vitepress-theme lists. */
const apiList = new URL("../reference/api/typedoc-sidebar.json", import.meta.url);
const api: DefaultTheme.SidebarItem[] = existsSync(apiList) ? JSON.parse(readFileSync(apiList, "utf8")) : [];

type Page = [text: string, link: string];

/** A shelf of the sidebar. */
const shelf = (text: string, folder: string, pages: Page[]): DefaultTheme.SidebarItem => ({
  text,
  collapsed: false,
  items: pages.map(([text, link]) => ({ text, link: `${folder}/${link}` })),
});

const sidebar: DefaultTheme.SidebarItem[] = [
  shelf("Start", "/start", [["Install", "install"]]),
  shelf("Guides", "/guides", [
    ["Inputs: types of numbers", "dtypes"],
    ["Small and ragged batches", "small-batches"],
    ["Fused activations and residuals", "activations"],
    ["Recalibrate and diagnose", "population-statistics"],
    ["Checkpoints: save and load", "checkpoints"],
    ["Fold in a program", "folding"],
    ["Fold a model file", "folding-files"],
    ["In TensorFlow.js", "tfjs"],
    ["Many threads or machines", "many-machines"],
    ["On the memory of another program", "other-memory"],
  ]),
  shelf("Concepts", "/concepts", [
    ["Batch norm: what and why", "batch-norm"],
    ["The derivation", "derivation"],
    ["The family of norms", "family"],
    ["Numerics", "numerics"],
    ["Numerics: measurements", "numerics-measurements"],
    ["Glossary", "glossary"],
  ]),
  shelf("Reference", "/reference", [
    ["Presets", "presets"],
    ["Tools for whole models", "command-line"],
    ["The ABI of the modules", "abi"],
  ]),
  { text: "API", collapsed: true, items: api },
  shelf("Results", "/results", [
    ["Benchmarks", "benchmarks"],
    ["All benchmark results", "benchmark-results"],
    ["Experiments", "experiments"],
    ["Reliability", "reliability"],
    ["Where it runs", "runtimes"],
    ["Scaling", "scaling"],
  ]),
];

export default defineConfig({
  title: "batchnorm-wasm",
  description: "Batch normalization that trains, for JavaScript and WebAssembly.",
  lang: "en",
  outDir: "../build/site",
  srcExclude: ["**/typedoc-sidebar.json"],
  head: [["link", { rel: "icon", href: "data:," }]], // without it, browsers ask the host for /favicon.ico
  router: { prefetchLinks: false }, // it would ask for the lab as if it were one of VitePress's pages
  ignoreDeadLinks: [/^\/lab\//],
  buildEnd: ({ outDir }) => buildPage(join(outDir, "lab"), { inSite: true }),
  vite: { plugins: [llms()], build: { chunkSizeWarningLimit: 4096 } },
  themeConfig: {
    nav: [
      { text: "Guides", link: "/guides/small-batches", activeMatch: "^/guides/" },
      { text: "Concepts", link: "/concepts/batch-norm", activeMatch: "^/concepts/" },
      { text: "Reference", link: "/reference/command-line", activeMatch: "^/reference/" },
      { text: "Results", link: "/results/benchmarks", activeMatch: "^/results/" },
      { text: "Lab", link: "/lab/", target: "_self" }, // a page of its own, which buildEnd makes
      { text: "Playground", link: "/playground" },
    ],
    sidebar,
    outline: [2, 3],
    search: { provider: "local" },
  },
});
