// The site of the documentation: `npm run site` builds and serves it. Pages are the Markdown files of docs/, and those of
// docs/reference/api are made by TypeDoc from the docstrings.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type DefaultTheme, defineConfig } from "vitepress";
import llms from "vitepress-plugin-llms";
import { buildPage } from "../../examples/lab/page/build.mjs";
import { renderForSearch, searchOptions } from "./search.ts";
import { searchInChinese, wordsOf, zh } from "./zh.ts";

/** The pages of the reference, which typedoc-vitepress-theme lists. */
const apiList = new URL("../reference/api/typedoc-sidebar.json", import.meta.url);
const api: DefaultTheme.SidebarItem[] = existsSync(apiList) ? JSON.parse(readFileSync(apiList, "utf8")) : [];

interface Module {
  readonly name: string;
  readonly link: string;
  readonly symbols: DefaultTheme.SidebarItem[];
}

/** The entries of the package with their classes and functions; the page of an entry lists its types, too. */
const modulesOf = (items: DefaultTheme.SidebarItem[], prefix = ""): Module[] =>
  items.flatMap(({ text, link = "", items = [] }) => [
    {
      name: `${prefix}${text}`,
      link,
      symbols: items.flatMap(({ text, items = [] }) =>
        /^(Classes|Variables|Functions)$/.test(text ?? "") ? items : [],
      ),
    },
    ...modulesOf(
      items.filter(({ link }) => link),
      `${prefix}${text}/`,
    ),
  ]);

const modules = modulesOf(api);

/**
 * The sidebar of an entry's pages. Every page contains its whole sidebar as HTML, which a phone takes long to read: so it
 * has the symbols of one entry, and the other entries only by name.
 */
const apiSidebar = (shown?: Module): DefaultTheme.SidebarItem[] => [
  { text: "API", link: "/reference/api/" },
  ...modules.map((module) => ({
    text: module.name,
    link: module.link,
    ...(module === shown && { items: module.symbols }),
  })),
];

/** A page with its address in the folder of its shelf, or a group of pages. */
type Entry = [text: string, content: string | Entry[]];

/** A shelf of the sidebar. Its groups are closed, and VitePress opens that of the page that is shown. */
const shelf = (text: string, folder: string, entries: Entry[]): DefaultTheme.SidebarItem => ({
  text,
  items: entries.map(([text, content]) =>
    typeof content === "string"
      ? { text, link: `${folder}/${content}` }
      : { ...shelf(text, folder, content), collapsed: true },
  ),
});

const sidebar: DefaultTheme.SidebarItem[] = [
  shelf("Start", "/start", [
    ["Install", "install"],
    ["A training loop", "training"],
    ["Inference", "inference"],
    ["Save and load", "saving"],
    ["The demo and the lab", "demo"],
  ]),
  shelf("Guides", "/guides", [
    [
      "Inputs and modes",
      [
        ["Inputs and memory", "inputs-and-memory"],
        ["Types of numbers", "dtypes"],
        ["Modes: train, eval, frozen", "modes"],
        ["Fused activations and residuals", "activations"],
        ["Mean and deviation of a data set", "mean-and-deviation"],
      ],
    ],
    [
      "Small and ragged batches",
      [
        ["Small batches: what to do", "small-batches"],
        ["Ragged sequences and masks", "masks-and-sequences"],
        ["Micro-batches", "micro-batches"],
        ["Ghost batches", "ghost-batches"],
        ["Batch Renormalization", "batch-renormalization"],
      ],
    ],
    [
      "Training and adaptation",
      [
        ["Fine-tune with frozen batch norm", "fine-tuning"],
        ["Momentum schedules", "momentum-schedules"],
        ["Recalibrate running statistics", "recalibration"],
        ["Test-time adaptation", "test-time-adaptation"],
        ["One layer, used twice", "shared-layers"],
        ["Conditional batch norm", "conditional"],
        ["GANs and contrastive learning", "gan-and-contrastive"],
        ["Gradient penalties", "gradient-penalties"],
        ["Reinforcement learning", "reinforcement-learning"],
        ["Federated averaging", "federated-averaging"],
      ],
    ],
    [
      "Checkpoints and folding",
      [
        ["Checkpoints: save and load", "checkpoints"],
        ["State dicts: names and values", "state-dicts"],
        ["Check a checkpoint", "check-a-checkpoint"],
        ["Move a model between frameworks", "move-between-frameworks"],
        ["Model files", "model-files"],
        ["Fold in a program", "folding"],
        ["Fold into the layer behind", "folding-forward"],
        ["Fold a model file", "folding-files"],
        ["Fold a TF.js model file", "folding-tfjs-files"],
        ["Fold a safetensors file", "folding-safetensors"],
        ["Accuracy of folding", "folding-accuracy"],
      ],
    ],
    [
      "TensorFlow.js",
      [
        ["In TensorFlow.js", "tfjs"],
        ["TF.js: operations", "tfjs-operations"],
        ["TF.js: train convolutions", "tfjs-convolutions"],
        ["TF.js: whole models", "tfjs-models"],
        ["TF.js: Keras models", "tfjs-keras"],
        ["TF.js: speed", "tfjs-speed"],
        ["TF.js: backends", "tfjs-backends"],
      ],
    ],
    [
      "Threads, machines, languages",
      [
        ["Threads and builds", "threads"],
        ["Many threads or machines", "many-machines"],
        ["Several machines: MPI", "mpi"],
        ["What SyncBatchNorm guarantees", "sync-guarantees"],
        ["Embedding in other languages", "embedding"],
        ["On the memory of another program", "other-memory"],
      ],
    ],
    ["Diagnose a bad network", "diagnosing"],
    ["Troubleshooting", "troubleshooting"],
  ]),
  shelf("Concepts", "/concepts", [
    ["Batch norm: what and why", "batch-norm"],
    ["The derivation", "derivation"],
    ["The family of norms", "family"],
    ["Other norms: accuracy and cost", "family-measurements"],
    ["Numerics", "numerics"],
    ["Numerics: measurements", "numerics-measurements"],
    ["Glossary", "glossary"],
  ]),
  shelf("Reference", "/reference", [
    ["What is where", ""],
    ["Options", "options"],
    ["Presets", "presets"],
    ["The command line", "command-line"],
    ["The ABI of the modules", "abi"],
    ["API, symbol by symbol", "api/"],
    ["Changelog", "changelog"],
  ]),
  shelf("Results", "/results", [
    ["Benchmarks", "benchmarks"],
    ["All benchmark results", "benchmark-results"],
    ["Experiments", "experiments"],
    ["Reliability", "reliability"],
    ["Where it runs", "runtimes"],
    ["Scaling", "scaling"],
  ]),
];

/**
 * llms.txt lists pages and llms-full.txt contains them, for language models. Every page is also there as Markdown under its
 * own address with .md. The API is left out, because the declarations in the package have the same docstrings.
 */
const forModels = llms({
  sidebar: () => sidebar,
  ignoreFiles: ["reference/api/**", "zh/**"],
  ignoreFilesPerOutput: {
    // reference/index.md, whose Markdown has another folder than the page, so that its links lead nowhere
    llmsTxt: ["reference.md"],
    pages: ["reference.md"],
    llmsFullTxt: ["results/benchmark-results.md", "concepts/numerics-measurements.md"], // tables of thousands of numbers
  },
});

/**
 * What axe-core finds in the default theme: the name of a block's language has a contrast of 2.9, the button in the brand
 * colour one of 4.4, and the name of the search's button lacks the keys that it shows. The heading of a group in the sidebar
 * is a button that contains another one, which does nothing: that one is hidden but for its picture. Screen readers hear
 * whether the group is open, and without scripts all groups are.
 * Images of one paragraph stand side by side, as on GitHub.
 */
const STYLE = `
  html:root { --vp-code-lang-color: var(--vp-c-text-2); }
  html:root:not(.dark) { --vp-button-brand-bg: var(--vp-c-brand-2); }
  .DocSearch-Button .DocSearch-Button-Keys { display: none; }
  .VPSidebarItem.level-1 > .item > .caret { visibility: hidden; }
  .VPSidebarItem.level-1 > .item > .caret > .caret-icon { visibility: visible; }
  .VPSidebarItem.level-1.collapsible > .item > .text::after { content: "" / "expanded"; }
  .VPSidebarItem.level-1.collapsed > .item > .text::after { content: "" / "collapsed"; }
  @media (scripting: none) { html:root .VPSidebarItem.level-1.collapsed > .items { display: block; } }
  .vp-doc p:has(> img + img) { display: flex; flex-wrap: wrap; gap: 8px 10px; align-items: start; }
`;

export default defineConfig({
  title: "batchnorm-wasm",
  description: "Batch normalization that trains, for JavaScript and WebAssembly.",
  lang: "en",
  locales: { root: { label: "English" }, zh },
  outDir: "../build/site",
  srcExclude: ["**/typedoc-sidebar.json"],
  head: [
    ["link", { rel: "icon", href: "data:," }], // without it, browsers ask the host for /favicon.ico
    ["style", {}, STYLE],
  ],
  markdown: {
    // the default themes have colours with a contrast below 4.5
    theme: { light: "github-light-high-contrast", dark: "github-dark-high-contrast" },
    config: (md) => {
      // the corner of a table heads nothing, and an empty <th> is one that a screen reader cannot name
      for (const rule of ["th_open", "th_close"])
        md.renderer.rules[rule] = (tokens, i, options, _, self) => {
          const content = tokens[rule === "th_open" ? i + 1 : i - 1]?.content;
          if (content === "") (tokens[i] as { tag: string }).tag = "td";
          return self.renderToken(tokens, i, options);
        };
    },
  },
  // the home page has no <main>: its content is the main landmark
  transformHtml: (html) =>
    html.includes("<main") ? html : html.replace('id="VPContent"', 'id="VPContent" role="main"'),
  router: { prefetchLinks: false }, // it would ask for the lab as if it were one of VitePress's pages
  ignoreDeadLinks: [/^\/lab\//],
  buildEnd: ({ outDir }) => buildPage(join(outDir, "lab"), { inSite: true }),
  vite: { plugins: [forModels], build: { chunkSizeWarningLimit: 4096 } },
  themeConfig: {
    nav: [
      { text: "Get started", link: "/start/install", activeMatch: "^/start/" },
      { text: "Guides", link: "/guides/inputs-and-memory", activeMatch: "^/guides/" },
      { text: "Concepts", link: "/concepts/batch-norm", activeMatch: "^/concepts/" },
      { text: "Reference", link: "/reference/", activeMatch: "^/reference/" },
      { text: "Results", link: "/results/benchmarks", activeMatch: "^/results/" },
      { text: "Lab", link: "/lab/", target: "_self" }, // a page of its own, which buildEnd makes
      { text: "Playground", link: "/playground" },
    ],
    sidebar: {
      ...Object.fromEntries(modules.map((module) => [module.link, apiSidebar(module)])),
      "/reference/api/": apiSidebar(),
      "/start/": sidebar.slice(0, 2),
      "/guides/": sidebar.slice(0, 2),
      "/": sidebar.slice(2),
    },
    outline: [2, 3],
    i18nRouting: false, // most pages have no Chinese version, so the menu of languages leads to the start page
    search: {
      provider: "local",
      options: {
        _render: renderForSearch,
        locales: { zh: searchInChinese },
        miniSearch: { options: { tokenize: wordsOf }, searchOptions },
      },
    },
    notFound: { linkLabel: "Take me home" }, // the name of the link is what it shows
  },
});
