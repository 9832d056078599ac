// npm run bench:browser: serves the page and prints its address; with --headless, opens it in Chromium, waits, and prints
// and writes what it measured.

import { chromium } from "playwright";
import { launchChromium } from "../../test/browser/installed.mjs";
import { environmentOf } from "../environment.mjs";
import { parseOptions, reject } from "../options.mjs";
import { complaints, save } from "../output.mjs";
import { findPackages } from "../packages.mjs";
import { renderEnvironment, renderResults } from "../report.mjs";
import { serve } from "./server.mjs";

const HELP = `npm run bench:browser -- [options]

Measures in a browser what runs there, of the peers of \`npm run bench\`: all but PyTorch. Needs \`npm ci --prefix bench\`.

  --headless   open the page in Chromium ($CHROMIUM, or chromium on the PATH), print the tables, and end
  --quick      fewer samples, and slow peers left out of large shapes
  --only TEXT  only parts whose title contains TEXT
  --out FILE   where --headless writes the results as JSON, and beside it report.html (default: bench/results/DATE.json)
  --help       this text
`;

/** A page that takes longer than that hangs. */
const LIMIT_MS = 30 * 60_000;

/** Opens the page and waits for its results. */
async function measureHeadless(url) {
  const browser = await chromium.launch(launchChromium());
  try {
    const page = await browser.newPage();
    const broken = new Promise((_, reject) => {
      page.on("crash", () => reject(new Error("the page crashed")));
      page.on("pageerror", reject);
    });
    await page.goto(url);
    const done = page.waitForFunction(() => globalThis.bench, undefined, { timeout: LIMIT_MS, polling: 500 });
    const handle = await Promise.race([done, broken]);
    const { results, failure } = await handle.jsonValue();
    if (failure) throw new Error(failure);
    return results;
  } finally {
    await browser.close();
  }
}

async function main({ headless, quick, only, out }) {
  const { versions, missing } = findPackages();
  if (missing.length) throw new Error("the page is bundled with its peers: npm ci --prefix bench");
  const environment = environmentOf({ run: `${quick ? "quick" : "full"}, in a browser`, peers: versions });
  const { url, close } = await serve({ environment, quick, only });
  if (!headless) {
    console.log(`${url} measures when it is opened; Ctrl-C ends this server.`);
    return;
  }
  const results = await measureHeadless(url);
  close();
  console.log(`${renderEnvironment(results.environment)}\n\n${renderResults(results)}`);
  console.log(`The results are in ${save(results, out)}.`);
  const wrong = complaints(results);
  if (wrong.length) throw new Error(wrong.join("\n"));
}

const options = parseOptions({
  headless: { type: "boolean", default: false },
  quick: { type: "boolean", default: false },
  only: { type: "string", default: "" },
  out: { type: "string" },
  help: { type: "boolean", default: false },
});
if (options.help) process.stdout.write(HELP);
else if (options.out && !options.headless) reject("--out: expected with --headless");
else await main(options);
