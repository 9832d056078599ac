// `npm run lab:run`: experiments without a page, over several seeds, into docs/results/experiments.md and pictures beside it.

import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { parseArgs, styleText } from "node:util";
import { Presets, SingleBar } from "cli-progress";
import { isWhole, number, optionsOrExit } from "../command-line.mjs";
import { defaultsOf } from "./experiment.mjs";
import { EXPERIMENTS } from "./experiments/index.mjs";
import { mnistDigits } from "./mnist.mjs";
import { picture } from "./picture.mjs";
import { runAll } from "./pool.mjs";
import { section, withSections } from "./report.mjs";
import { checked } from "./values.mjs";

const HELP = `Usage: npm run lab:run -- <experiment>… [options]

Runs experiments of the lab without a page, once for every seed; prints which claims hold, and writes them with pictures.

Experiments:
${EXPERIMENTS.map(({ id, title }) => `  ${id.padEnd(16)} ${title}`).join("\n")}
  ${"all".padEnd(16)} every one

Options:
  --seeds <n>        how many seeds, from the experiment's own on            (default 5)
  --set <name=value> a control's value, as in the page's URL; several times
  --out <file.md>    where it is written, pictures in a folder of its name   (default docs/results/experiments.md)
  --help             print this and exit`;

/** Throws an Error with a message for the user. */
function parse(args) {
  const { values, positionals } = parseArgs({
    ...{ args, allowPositionals: true },
    options: {
      seeds: { type: "string", default: "5" },
      set: { type: "string", multiple: true, default: [] },
      out: { type: "string", default: "docs/results/experiments.md" },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) return { help: true };
  const ids = EXPERIMENTS.map(({ id }) => id);
  const wanted = positionals.includes("all") ? ids : positionals;
  if (wanted.length === 0) throw new Error(`expected an experiment, got none: ${ids.join(", ")}, or all`);
  for (const id of wanted)
    if (!ids.includes(id)) throw new Error(`expected an experiment among ${ids.join(", ")}, or all, got "${id}"`);
  const seeds = number("--seeds", values.seeds, "a whole number from 1 to 1000", (n) => isWhole(n, 1, 1000));
  if (!values.out.endsWith(".md")) throw new Error(`--out: expected a file name that ends in .md, got "${values.out}"`);
  if (!existsSync(dirname(values.out))) throw new Error(`--out: there is no folder "${dirname(values.out)}"`);
  const set = Object.fromEntries(
    values.set.map((text) => {
      const [name, value] = text.split(/=(.*)/);
      if (value === undefined) throw new Error(`--set: expected name=value, got "${text}"`);
      return [name, value];
    }),
  );
  const experiments = EXPERIMENTS.filter(({ id }) => wanted.includes(id)).map((experiment) => {
    const { values, problems } = checked(experiment, set);
    if (problems.length) throw new Error(`--set: ${problems.join("; ")}`);
    return { experiment, values: { ...defaultsOf(experiment), ...values } };
  });
  return { experiments, seeds, out: values.out };
}

async function run({ experiments, seeds, out }) {
  const jobs = experiments.flatMap(({ experiment: { id }, values }) =>
    Array.from({ length: seeds }, (_, i) => ({ id, values: { ...values, seed: values.seed + i } })),
  );
  const bar = new SingleBar(
    {
      format: `Running ${jobs.length} trainings {bar} {percentage} % | {eta_formatted} left`,
      ...{ noTTYOutput: true, notTTYSchedule: 10_000, hideCursor: true },
    },
    Presets.shades_classic,
  );
  bar.start(jobs.length, 0);
  const worker = new URL("./run-worker.mjs", import.meta.url);
  const workerData = { digits: mnistDigits() };
  const results = await runAll({ worker, workerData, jobs, onProgress: (share) => bar.increment(share) }).finally(() =>
    bar.stop(),
  );

  const { name, version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8"));
  const environment = `${name} ${version}, Node ${process.versions.node}`;
  const pictures = join(dirname(out), "experiments");
  mkdirSync(pictures, { recursive: true });
  const sections = {};
  for (const [i, { experiment }] of experiments.entries()) {
    const runs = results.slice(i * seeds, (i + 1) * seeds);
    const claims = experiment.claims(runs);
    sections[experiment.id] = section(experiment, { runs, claims, environment });
    writeFileSync(join(pictures, `${experiment.id}.svg`), picture(experiment, runs));
    console.log(`\n${styleText("bold", experiment.title)}`);
    for (const { claim, verdict, evidence } of claims)
      console.log(`${styleText(COLORS[verdict], verdict.padEnd(5))} ${claim}\n      ${evidence}`);
  }
  const before = existsSync(out) ? readFileSync(out, "utf8") : "";
  writeFileSync(
    out,
    withSections(
      before,
      sections,
      EXPERIMENTS.map(({ id }) => id),
    ),
  );
  console.log(`\nWritten to ${out} and ${pictures}.`);
}

const COLORS = { holds: "green", fails: "red", mixed: "yellow" };

const options = optionsOrExit(parse);
if (options.help) console.log(HELP);
else await run(options);
