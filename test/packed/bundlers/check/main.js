// An app that runs the golden cases (check.js), then one layer on two threads, of either entry. What it found stands in the
// page, as JSON.

import * as library from "batchnorm-wasm";
import * as core from "batchnorm-wasm/core";
import { check } from "./check.js";
import simd from "./simd.js"; // the URL of a build of the kernels, as each bundler has it

async function load(file) {
  const response = await fetch(file);
  if (!response.ok) throw new Error(`${file}: status ${response.status}`);
  return response;
}

/** The bits of a layer that is large enough to be divided. */
function train({ BatchNorm }, options) {
  const shape = [7, 33, 57, 57];
  const size = shape.reduce((a, b) => a * b, 1);
  const data = Float32Array.from({ length: size }, (_, i) => Math.sin(i));
  return String(new Uint32Array(new BatchNorm(33, options).forward({ data, shape }).data.buffer));
}

async function main() {
  const bits = () => [train(library, { activation: "relu" }), train(core)].join();
  const one = bits();
  const manifest = await (await load("manifest.json")).json();
  const data = await (await load("data.bin")).arrayBuffer();
  const checked = await check(library, { manifest, data }, await WebAssembly.compileStreaming(load(simd)), core);
  for (const { init } of [library, core]) await init({ threads: 2 });
  const threads = [library, core].map(({ kernelInfo }) => kernelInfo().threads);
  document.querySelector("pre").textContent = JSON.stringify({ checked, threads, sameBits: bits() === one });
}

main();
