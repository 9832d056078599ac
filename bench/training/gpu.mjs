// npm run docs:tfjs-gpu: times the layer, training steps and predictions on TF.js's backends webgl and webgpu, in Chromium, and
// writes the table of docs/guides/tfjs-backends.md. Needs test/browser/install.sh.

import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { markdownTable } from "markdown-table";
import { chromium } from "playwright";
import { GPU, launchChromium } from "../../test/browser/installed.mjs";
import { environmentOf, pinned } from "../environment.mjs";
import { runWithOptions } from "../options.mjs";
import { replaceMarked } from "../report.mjs";
import { digits } from "../tables.mjs";

const DOCUMENT = fileURLToPath(new URL("../../docs/guides/tfjs-backends.md", import.meta.url));
const HELP = `npm run docs:tfjs-gpu -- [options]

Times the layer, training steps and predictions on TF.js's backends webgl and webgpu in Chromium, and writes the table of
docs/guides/tfjs-backends.md. Without a GPU, SwiftShader computes on the processor.

  --quick      few samples: shows that everything works
  --out FILE   the document (default: docs/guides/tfjs-backends.md)
  --help       this text
`;

/** A page has webgpu only at an address that browsers take to be secure, as this one; its requests are answered here. */
const PAGE = "http://localhost/";

async function bundle() {
  const { outputFiles } = await build({
    entryPoints: [fileURLToPath(new URL("gpu-page.mjs", import.meta.url))],
    ...{ bundle: true, write: false, format: "esm", target: "es2022", logLevel: "error", external: ["node:*"] },
    define: { global: "globalThis" }, // for dependencies written for Node
  });
  return outputFiles[0].text;
}

/** Opens the page in Chromium, and returns what it measured. */
async function measured(quick) {
  const script = await bundle();
  const browser = await chromium.launch(launchChromium(GPU));
  try {
    const page = await browser.newPage();
    await page.route(`${PAGE}**`, (route) =>
      route.request().url().endsWith("page.js")
        ? route.fulfill({ contentType: "text/javascript", body: script })
        : route.fulfill({
            contentType: "text/html",
            body: '<!doctype html><script type="module" src="page.js"></script>',
          }),
    );
    const broken = new Promise((_, reject) => {
      page.on("crash", () => reject(new Error("the page crashed")));
      page.on("pageerror", reject);
    });
    broken.catch(() => {}); // an error after the results, which the race has no ear for
    await page.goto(PAGE);
    await Promise.race([page.waitForFunction(() => globalThis.measureAll), broken]);
    return await Promise.race([page.evaluate((q) => globalThis.measureAll(q), quick), broken]);
  } finally {
    await browser.close();
  }
}

/** Milliseconds with TF.js alone and with batchnorm-wasm, and how many times as fast the latter is. */
function cellsOf([theirs, ours]) {
  for (const { failed } of [theirs, ours]) if (failed) throw new Error(failed);
  return [`${digits(theirs.ms)} ms`, `${digits(ours.ms)} ms`, `${digits(theirs.ms / ours.ms)}×`];
}

async function main({ quick, out }) {
  const { userAgent, rows } = await measured(quick);
  const table = markdownTable(
    [
      ["backend", "", "TF.js", "batchnorm-wasm", "faster"],
      ...rows.map(({ backend, title, results }) => [backend, title, ...cellsOf(results)]),
    ],
    { align: ["l", "l", "r", "r", "r"] },
  );
  const peers = [`@tensorflow/tfjs-core ${pinned()["@tensorflow/tfjs-core"]}`];
  const { processor, commit, date } = environmentOf({ run: quick ? "quick" : "full", peers });
  const text = `${table}\n\nSwiftShader on ${processor}; ${userAgent}; ${peers}; commit ${commit}, ${date}; float32, medians.`;
  writeFileSync(out, replaceMarked(readFileSync(DOCUMENT, "utf8"), text, "gpu"));
  console.log(`${text}\n\nThe document is ${out}.`);
}

await runWithOptions(HELP, DOCUMENT, main);
