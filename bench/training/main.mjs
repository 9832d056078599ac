// npm run docs:tfjs: times a training step of networks with batch norm in TF.js, on its backends alone and with
// batchnorm-wasm/tfjs, and writes the table of docs/tfjs.md.

import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import * as tf from "@tensorflow/tfjs-core";
import "@tensorflow/tfjs-backend-cpu";
import { setThreadsCount, setWasmPaths } from "@tensorflow/tfjs-backend-wasm";
import { layers } from "@tensorflow/tfjs-layers";
import { Presets, SingleBar } from "cli-progress";
import { markdownTable } from "markdown-table";
import { batchNormalization, registerKernels } from "../../dist/tfjs.js";
import { random } from "../data.mjs";
import { environmentOf, pinned } from "../environment.mjs";
import { measure, QUICK, THOROUGH, timeCalls } from "../measure.mjs";
import { parseOptions } from "../options.mjs";
import { folderOf } from "../packages.mjs";
import { replaceMarked } from "../report.mjs";
import { digits } from "../tables.mjs";
import { NETWORKS } from "./networks.mjs";

const DOCUMENT = fileURLToPath(new URL("../../docs/tfjs.md", import.meta.url));
const HELP = `npm run docs:tfjs -- [options]

Times a training step of networks with batch norm in TF.js, and writes the table of docs/tfjs.md.

  --quick      few samples: shows that everything works
  --out FILE   the document (default: docs/tfjs.md)
  --help       this text
`;

const none = () => () => {};
const PLACES = [
  { place: "TF.js cpu", backend: "cpu", batchNorm: layers.batchNormalization, register: none },
  { place: "TF.js wasm", backend: "wasm", batchNorm: layers.batchNormalization, register: none },
  { place: "TF.js wasm, batchnorm-wasm", backend: "wasm", batchNorm: batchNormalization, register: registerKernels },
];

const SEED = 2026;

/** A step of SGD of one network in one place. The backend and the kernels are those of the place while it runs. */
function stepIn({ backend, batchNorm, register }, { make, input, batch, classes }) {
  const there = async (work) => {
    await tf.setBackend(backend);
    const undo = register();
    try {
      return await work();
    } finally {
      undo();
    }
  };
  let state;
  let loss;
  const begin = () => {
    const next = random(SEED);
    const values = (length) => Float32Array.from({ length }, () => 2 * next() - 1);
    const model = make(batchNorm);
    model.compile({ optimizer: tf.train.sgd(0.01), loss: "categoricalCrossentropy" });
    const size = input.reduce((a, b) => a * b, batch);
    const labels = Int32Array.from({ length: batch }, (_, i) => i % classes);
    const ys = tf.tidy(() => tf.oneHot(tf.tensor1d(labels, "int32"), classes));
    return { model, xs: tf.tensor(values(size), [batch, ...input]), ys };
  };
  const call = async () => {
    loss = await state.model.trainOnBatch(state.xs, state.ys);
  };
  return {
    time: (repeats) =>
      there(() => {
        state ??= begin();
        return timeCalls({ call, asynchronous: true }, repeats);
      }),
    check: () => {
      if (!Number.isFinite(loss)) throw new Error(`the loss is ${loss}`);
      return { loss };
    },
  };
}

/** The row of a network: milliseconds a step in each place, and samples a second, or why it does not train there. */
function cellsOf(rows, { batch }) {
  return rows.map(({ ms, failed }) => {
    if (!failed) return `${digits(ms)} ms, ${digits((1000 * batch) / ms)} samples/s`;
    const kernel = /Kernel '(\w+)' not registered/.exec(failed)?.[1];
    return kernel ? `does not train: no kernel ${kernel}` : `does not train: ${failed}`;
  });
}

async function main({ quick, out }) {
  tf.enableProdMode();
  setWasmPaths(folderOf("@tensorflow/tfjs-backend-wasm"));
  setThreadsCount(1);
  const bar = new SingleBar({ format: "{bar} {eta_formatted}", clearOnComplete: true }, Presets.shades_classic);
  bar.start(1, 0);
  const lines = [];
  for (const [i, network] of NETWORKS.entries()) {
    const tasks = PLACES.map((place) => stepIn(place, network));
    const onProgress = (share) => bar.update((i + share) / NETWORKS.length);
    const rows = await measure(tasks, { effort: quick ? QUICK : THOROUGH, next: random(SEED), onProgress });
    lines.push([`${network.name}, batch ${network.batch}`, ...cellsOf(rows, network)]);
  }
  bar.stop();
  const table = markdownTable([["a training step", ...PLACES.map(({ place }) => place)], ...lines]);
  const peers = [`@tensorflow/tfjs-core ${pinned()["@tensorflow/tfjs-core"]}`];
  const { processor, engine, commit, date } = environmentOf({ run: quick ? "quick" : "full", peers });
  const text = `${table}\n\n${processor}, ${engine}; ${peers}; commit ${commit}, ${date}; one thread, float32, medians.`;
  writeFileSync(out, replaceMarked(readFileSync(DOCUMENT, "utf8"), text, "training"));
  console.log(`${text}\n\nThe document is ${out}.`);
}

const options = parseOptions({
  quick: { type: "boolean", default: false },
  out: { type: "string", default: DOCUMENT },
  help: { type: "boolean", default: false },
});
if (options.help) process.stdout.write(HELP);
else await main(options);
