// npm run docs:tfjs: times training steps and predictions of networks with batch norm in TF.js, on its backends alone and with
// batchnorm-wasm/tfjs, and writes the tables of docs/guides/tfjs-speed.md.

import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import * as tf from "@tensorflow/tfjs-core";
import "@tensorflow/tfjs-backend-cpu";
import { setThreadsCount, setWasmPaths } from "@tensorflow/tfjs-backend-wasm";
import { layers } from "@tensorflow/tfjs-layers";
import { Presets, SingleBar } from "cli-progress";
import { markdownTable } from "markdown-table";
import { batchNormalization, foldModel, registerKernels } from "../../dist/tfjs.js";
import { random } from "../data.mjs";
import { environmentOf, pinned } from "../environment.mjs";
import { measure, QUICK, THOROUGH } from "../measure.mjs";
import { runWithOptions } from "../options.mjs";
import { folderOf } from "../packages.mjs";
import { replaceMarked } from "../report.mjs";
import { digits } from "../tables.mjs";
import { FINISHED, NETWORKS } from "./networks.mjs";
import { publishedModels } from "./published.mjs";
import { prediction, taskOf, trainingStep } from "./tasks.mjs";

const DOCUMENT = fileURLToPath(new URL("../../docs/guides/tfjs-speed.md", import.meta.url));
const HELP = `npm run docs:tfjs -- [options]

Times training steps and predictions of networks with batch norm in TF.js, and writes the tables of docs/guides/tfjs-speed.md. Those of
webgl and webgpu are written by npm run docs:tfjs-gpu.

  --quick      few samples: shows that everything works
  --out FILE   the document (default: docs/guides/tfjs-speed.md)
  --help       this text
`;

const SEED = 2026;

const TRAINING = [
  { place: "TF.js cpu", backend: "cpu", batchNorm: layers.batchNormalization },
  { place: "TF.js wasm", backend: "wasm", batchNorm: layers.batchNormalization },
  { place: "TF.js wasm, batchnorm-wasm", backend: "wasm", batchNorm: batchNormalization, register: registerKernels },
];

const PREDICTIONS = [
  { place: "TF.js wasm", backend: "wasm" },
  { place: "after registerKernels()", backend: "wasm", register: registerKernels },
  { place: "after foldModel()", backend: "wasm", prepare: async (model) => (await foldModel(model)).model },
];

/** The row of a network: milliseconds a step in each place, and samples a second, or why it does not train there. */
function trainingCells(rows, { batch }) {
  return rows.map(({ ms, failed }) => {
    if (!failed) return `${digits(ms)} ms, ${digits((1000 * batch) / ms)} samples/s`;
    const kernel = /Kernel '(\w+)' not registered/.exec(failed)?.[1];
    return kernel ? `does not train: no kernel ${kernel}` : `does not train: ${failed}`;
  });
}

/** How much the first numbers of two predictions, which are probabilities, may differ. */
const TOLERANCE = 1e-5;

/** The row of a network: milliseconds a prediction in each place, and how many times as fast as in the first one. */
function predictionCells(rows, { name }) {
  return rows.map(({ ms, failed, result }, i) => {
    if (failed) throw new Error(`${name}: a prediction failed: ${failed}`);
    if (!(Math.abs(result - rows[0].result) <= TOLERANCE))
      throw new Error(`${name}: expected the prediction ${rows[0].result}, got ${result}`);
    return i === 0 ? `${digits(ms)} ms` : `${digits(ms)} ms (${digits(rows[0].ms / ms)}×)`;
  });
}

async function main({ quick, out }) {
  tf.enableProdMode();
  setWasmPaths(folderOf("@tensorflow/tfjs-backend-wasm"));
  setThreadsCount(1);
  const bar = new SingleBar({ format: "{bar} {eta_formatted}", clearOnComplete: true }, Presets.shades_classic);
  const parts = [
    {
      name: "training",
      head: "a training step",
      places: TRAINING,
      networks: NETWORKS,
      taskIn: (place, network) => taskOf(place, trainingStep(place.batchNorm, network)),
      cellsOf: trainingCells,
    },
    {
      name: "prediction",
      head: "a prediction",
      places: PREDICTIONS,
      networks: [...FINISHED, ...publishedModels()],
      taskIn: (place, network) => taskOf(place, prediction(layers.batchNormalization, network, place.prepare)),
      cellsOf: predictionCells,
    },
  ];
  const peers = [`@tensorflow/tfjs-core ${pinned()["@tensorflow/tfjs-core"]}`];
  const { processor, engine, commit, date } = environmentOf({ run: quick ? "quick" : "full", peers });
  let text = readFileSync(DOCUMENT, "utf8");
  for (const { name, head, places, networks, taskIn, cellsOf } of parts) {
    bar.start(1, 0);
    const lines = [];
    for (const [i, network] of networks.entries()) {
      const tasks = places.map((place) => taskIn(place, network));
      const onProgress = (share) => bar.update((i + share) / networks.length);
      const rows = await measure(tasks, { effort: quick ? QUICK : THOROUGH, next: random(SEED), onProgress });
      lines.push([`${network.name}, batch ${network.batch}`, ...cellsOf(rows, network)]);
    }
    bar.stop();
    const table = markdownTable([[head, ...places.map(({ place }) => place)], ...lines]);
    const part = `${table}\n\n${processor}, ${engine}; ${peers}; commit ${commit}, ${date}; one thread, float32, medians.`;
    text = replaceMarked(text, part, name);
    console.log(`${part}\n`);
  }
  writeFileSync(out, text);
  console.log(`The document is ${out}.`);
}

await runWithOptions(HELP, DOCUMENT, main);
