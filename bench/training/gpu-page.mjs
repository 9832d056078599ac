// The page of bench/training/gpu.mjs: it measures on webgl and webgpu, TF.js alone against batchnorm-wasm.

import * as tf from "@tensorflow/tfjs-core";
import "@tensorflow/tfjs-backend-webgl";
import "@tensorflow/tfjs-backend-webgpu";
import { layers } from "@tensorflow/tfjs-layers";
import { batchNormalization, foldModel } from "../../dist/tfjs.js";
import { random } from "../data.mjs";
import { BRIEF, measure, QUICK } from "../measure.mjs";
import { NETWORKS } from "./networks.mjs";
import { layerInference, layerStep, prediction, taskOf, trainingStep } from "./tasks.mjs";

const BATCH_NORMS = [layers.batchNormalization, batchNormalization];
const FOLDED = [undefined, async (model) => (await foldModel(model)).model];

const SHAPES = [
  [16, 28, 28, 64],
  [128, 512],
];

/** What is measured: a title, and what begins TF.js's and our task. */
const CASES = [
  ...SHAPES.flatMap((shape) => [
    {
      title: `layer, [${shape.join(", ")}], inference`,
      begins: BATCH_NORMS.map((make) => layerInference(make, shape)),
    },
    { title: `layer, [${shape.join(", ")}], training step`, begins: BATCH_NORMS.map((make) => layerStep(make, shape)) },
  ]),
  ...NETWORKS.flatMap((network) => {
    const name = `${network.name}, batch ${network.batch}`;
    return [
      { title: `${name}, training step`, begins: BATCH_NORMS.map((make) => trainingStep(make, network)) },
      {
        title: `${name}, prediction, after foldModel()`,
        begins: FOLDED.map((prepare) => prediction(layers.batchNormalization, network, prepare)),
      },
    ];
  }),
];

globalThis.measureAll = async (quick) => {
  tf.enableProdMode();
  const rows = [];
  for (const backend of ["webgl", "webgpu"]) {
    if (!(await tf.setBackend(backend))) throw new Error(`TF.js does not start its backend ${backend} here`);
    for (const { title, begins } of CASES) {
      const tasks = begins.map((begin) => taskOf({ backend }, begin));
      rows.push({ backend, title, results: await measure(tasks, { effort: quick ? QUICK : BRIEF, next: random(1) }) });
    }
  }
  return { userAgent: navigator.userAgent, rows };
};
