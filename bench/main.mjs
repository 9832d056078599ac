// npm run bench: measures every peer on every shape with a progress bar, prints the tables, and writes them where asked.
// The work is elsewhere: suite.mjs has the parts of a run, peers/ the competitors, measure.mjs the clock, report.mjs the
// words.

import { readFileSync, writeFileSync } from "node:fs";
import { Presets, SingleBar } from "cli-progress";
import { buildsInChild } from "./builds.mjs";
import { buildOf, compareCommits, renderCommits } from "./compare.mjs";
import { compileCopy } from "./copy-module.mjs";
import { environmentOf } from "./environment.mjs";
import { isolate } from "./isolate.mjs";
import { QUICK, THOROUGH } from "./measure.mjs";
import { parseOptions, reject } from "./options.mjs";
import { complaints, save } from "./output.mjs";
import { findPackages, folderOf } from "./packages.mjs";
import { PEERS } from "./peers/index.mjs";
import { nativePeers } from "./peers/native.mjs";
import { HOW_TO_INSTALL, pytorchPeers } from "./peers/pytorch.mjs";
import { isolatedBy } from "./peers/remote.mjs";
import { speedPicture } from "./picture.mjs";
import {
  renderComparison,
  renderCosts,
  renderEnvironment,
  renderFusion,
  renderMissing,
  renderNetwork,
  renderReadme,
  renderReport,
  renderShape,
  renderSummary,
  renderTargets,
  renderVariants,
  replaceMarked,
} from "./report.mjs";
import { partsOf, runParts } from "./suite.mjs";

const root = new URL("../", import.meta.url);
const HELP = `npm run bench -- [options]

Measures batchnorm-wasm against a copy of the tensor, plain JavaScript, TF.js, onnxruntime-web, jax-js and native
PyTorch. The peers from npm need \`npm ci --prefix bench\`; every Python on the PATH that has PyTorch takes part.

  --quick        fewer samples, and slow peers left out of large shapes: two minutes instead of ten
  --only TEXT    only parts whose title contains TEXT: a shape such as "[8, 32", "ResNet-50", "sizes", "fusion", "types of
                 numbers", "modes", "threads", "builds"
  --python FILE  a Python to measure PyTorch with, instead of those on the PATH; may be given several times
  --compare REF  compare this build with that of another commit, which is built in a temporary worktree, and nothing else
  --out FILE     where the results go as JSON, and beside it report.html (default: bench/results/DATE.json)
  --write        write docs/results/benchmarks.md with its picture, docs/results/benchmark-results.md, and the README's table where it has the markers
  --help         this text
`;

const PRINT = {
  shapes: ([entry]) => renderShape(entry),
  networks: ([network]) => renderNetwork(network),
  sweep: renderCosts,
  awkward: renderCosts,
  fusion: renderFusion,
  dtypes: renderComparison,
  modes: renderComparison,
  threads: (threads) => renderVariants(threads, "threads"),
  builds: (builds) => renderVariants(builds, "build"),
};

/** A progress bar for a part, which gives way to its table. */
function announce(title) {
  const options = { format: `{bar} ${title} | {eta_formatted}`, clearOnComplete: true, etaBuffer: 50 };
  const bar = new SingleBar({ ...options, etaAsynchronousUpdate: true }, Presets.shades_classic);
  bar.start(1, 0);
  return {
    progress: (share) => bar.update(share),
    stop: () => bar.stop(),
    done(part, results) {
      bar.stop();
      if (part !== "shapes" && part !== "networks") console.log(`## ${title}\n`);
      console.log(PRINT[part](results));
    },
  };
}

/** What buildOf gives, or the end of the process where `ref` is no commit that can be built. */
function built(ref) {
  try {
    return buildOf(ref);
  } catch (error) {
    return reject(`--compare: ${error.message.split("\n")[0]}`);
  }
}

/** Our tensors here against those of another commit. */
async function compare({ quick, only, compare: ref }) {
  const { library, remove } = built(ref);
  const bar = announce(`this build against ${ref}`);
  try {
    const effort = quick ? QUICK : THOROUGH;
    const settings = { copyModule: compileCopy() };
    const isolated = isolatedBy(isolate);
    const rows = await compareCommits({ isolated, library, settings, effort, only, onProgress: bar.progress });
    bar.stop();
    console.log(renderCommits(rows, ref));
  } finally {
    bar.stop();
    remove();
  }
}

async function bench({ quick, only, python, out, write }) {
  const start = performance.now();
  const { present, versions, missing } = findPackages();
  const pytorch = await pytorchPeers(python);
  if (pytorch.length === 0) missing.push({ peer: "PyTorch", reason: HOW_TO_INSTALL });
  const native = nativePeers([1, 2]);
  if (native.reason) missing.push({ peer: "native code", reason: native.reason });

  const isolated = isolatedBy(isolate);
  const parts = partsOf({
    ...{ isolated, quick, builds: buildsInChild },
    peers: [...present.map((id) => isolated(id)), ...pytorch],
    settings: { copyModule: compileCopy(), tfjsWasm: folderOf(PEERS.tfjsWasm.needs) },
    natives: native.peers,
  });
  const wanted = parts.filter(({ title }) => title.includes(only));
  if (wanted.length === 0)
    reject(`--only: expected a piece of ${parts.map(({ title }) => title).join("; ")}: got ${only}`);

  const peers = [...versions, ...pytorch.map(({ name }) => name)];
  const environment = environmentOf({ run: quick ? "quick" : "full", peers });
  console.log(`${renderEnvironment(environment)}\n`);
  if (missing.length) console.log(`${renderMissing(missing)}\n`);
  const results = { environment, missing, ...(await runParts(wanted, announce)) };
  for (const { close } of [...pytorch, native]) close();
  if (results.shapes.length) console.log(`## Targets\n\n${renderTargets(results)}`);

  const files = save(results, out);
  if (write) {
    writeFileSync(new URL("docs/results/benchmarks.md", root), renderSummary(results));
    writeFileSync(new URL("docs/results/benchmarks.svg", root), speedPicture(results));
    writeFileSync(new URL("docs/results/benchmark-results.md", root), renderReport(results));
    for (const name of ["README.md", "docs/index.md"]) {
      const page = new URL(name, root);
      writeFileSync(page, replaceMarked(readFileSync(page, "utf8"), renderReadme(results)));
    }
  }
  console.log(`Took ${Math.round((performance.now() - start) / 1000)} s. The results are in ${files}.`);
  const wrong = complaints(results);
  if (wrong.length) throw new Error(wrong.join("\n"));
}

const options = parseOptions({
  quick: { type: "boolean", default: false },
  only: { type: "string", default: "" },
  compare: { type: "string" },
  python: { type: "string", multiple: true },
  out: { type: "string" },
  write: { type: "boolean", default: false },
  help: { type: "boolean", default: false },
});
if (options.help) process.stdout.write(HELP);
else if (options.compare) await compare(options);
else await bench(options);
