// Repeats figure 1 of Ioffe & Szegedy (2015) on handwritten digits: trains six networks with a progress bar, prints
// the table, writes the page and the picture. `npm run demo -- --help` explains the options.

import { writeFileSync } from "node:fs";
import { Presets, SingleBar } from "cli-progress";
import { markdownTable } from "markdown-table";
import { optionsOrExit } from "../command-line.mjs";
import { runAll } from "../lab/pool.mjs";
import { picture } from "./chart.mjs";
import { loadDigits } from "./digits.mjs";
import { HELP, parseOptions } from "./options.mjs";
import { page } from "./page.mjs";
import { HEADER, NOTES, rows } from "./table.mjs";

const RATES = [1, 10, 30];

const options = optionsOrExit(parseOptions);
if (options.help) console.log(HELP);
else await demo(options);

async function demo({ steps, learningRate, seed, out }) {
  // 0.1 × 30 is 3.0000000000000004; the table says 3.
  const rates = RATES.map((factor) => Number((learningRate * factor).toPrecision(12)));
  const runs = rates.flatMap((rate) =>
    [false, true].map((batchNorm) => ({ batchNorm, learningRate: rate, steps, seed })),
  );

  const bar = new SingleBar(
    {
      format: `Training ${runs.length} networks {bar} {percentage} % | {value} of {total} steps | {eta_formatted} left`,
      noTTYOutput: true,
      notTTYSchedule: 5000,
    },
    Presets.shades_classic,
  );
  const start = performance.now();
  bar.start(runs.length * steps, 0);
  const worker = new URL("./worker.mjs", import.meta.url);
  const work = { worker, workerData: loadDigits(seed), jobs: runs, onProgress: (done) => bar.increment(done) };
  const results = await runAll(work).finally(() => bar.stop());
  const seconds = (performance.now() - start) / 1000;

  console.log(`\n${markdownTable([HEADER, ...rows(results)], { align: ["r", "l", "r", "r", "r", "r", "l", "r"] })}\n`);
  for (const note of NOTES) console.log(note);

  const svg = picture(results);
  const svgFile = out.replace(/\.html$/, ".svg");
  writeFileSync(svgFile, svg);
  writeFileSync(out, page(results, svg));
  console.log(`\nTrained in ${seconds.toFixed(0)} s. The curves are in ${out} and ${svgFile}.`);
}
