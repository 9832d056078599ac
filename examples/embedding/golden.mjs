// Writes a fixture that hosts in other languages check themselves with: a few training steps of test/golden, the 80-bit
// references, and the bits that the kernels give in Node. README.md beside this file has the format.
//
//   node golden.mjs OUT.bin [embed.wasm or standalone.wasm]

import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import * as golden from "../../test/golden/read-golden.mjs";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

/** Every walk, in every precision that a fixture of less than 1 MB has room for. */
const CASES = [
  "mid/n2_c8_32x32", // planar
  "sweep/train/hw49_c16_n3", // 7×7: still planar
  "sweep/train/hw4_c5_n4", // 2×2: interleaved, four columns per channel
  "rank/NHWC/both/train",
  "nc/n128_c10",
  "eps/0",
  "ill/mean10000_std1", // |mean|/std
  "ill/mean1e4_std1_nhwc",
];

const [out, wasm = here("../../build/embed.wasm")] = process.argv.slice(2);
if (!out) {
  console.error("usage: node golden.mjs OUT.bin [embed.wasm or standalone.wasm]");
  process.exit(2);
}

const { byId, arr } = golden.loadGolden(here("../../test/golden"));
const kernels = instantiate(readFileSync(wasm));

const file = [];
let size = 0;
put(Uint32Array.of(CASES.length));
for (const id of CASES) putCase(byId.get(id));
writeFileSync(out, Buffer.concat(file));
console.log(`${out}: ${CASES.length} cases, ${size} bytes`);

/** Appends arrays, each at a multiple of 8 if it is of float64. */
function put(...arrays) {
  for (const array of arrays) {
    if (array instanceof Float64Array) pad();
    append(Buffer.from(array.buffer, array.byteOffset, array.byteLength));
  }
}

function pad() {
  append(Buffer.alloc(-size & 7));
}

function append(bytes) {
  file.push(bytes);
  size += bytes.length;
}

function putCase({ params, in: input, out: reference }) {
  const g = golden.geometry(params.layout, params.shape);
  const dims = g.last ? [g.N * g.S, g.C, 1] : [g.N, g.C, g.S];
  const [x, dy, gamma, beta] = [input.x, input.dy, input.weight, input.bias].map(arr);
  const running = [input.running_mean, input.running_var].map((values) => Float64Array.from(arr(values)));
  const references = ["y", "dx", "dgamma", "dbeta", "mean", "var", "running_mean", "running_var"];

  pad();
  put(Uint32Array.of(...dims, 0), Float64Array.of(params.eps, params.momentum));
  put(x, dy, gamma, beta, ...running);
  put(...references.map((name) => arr(reference[name].f64)));
  put(...scales(x, dy, gamma, beta, running, params, g));
  put(...step(x, dy, gamma, beta, dims, params.eps));
}

/** Condition scales of the eight outputs, as test/golden/README.md defines them. */
function scales(x, dy, gamma, beta, [runningMean, runningVariance], { eps, momentum }, g) {
  const { mean, var: variance, m } = golden.stats(x, g);
  const invStd = variance.map((v) => golden.invstdOf(v, eps));
  const gradients = golden.backward(x, dy, g, mean, invStd, gamma, true);
  const perChannel = (values, merge) => {
    const result = new Float64Array(g.C);
    for (let n = 0; n < g.N; n++)
      for (let c = 0; c < g.C; c++)
        for (let s = 0; s < g.S; s++) result[c] = merge(result[c], Math.abs(values[g.at(n, c, s)]));
    return result;
  };
  const meanMagnitude = perChannel(x, (sum, v) => sum + v / m);
  const blend = (old, batch) => batch.map((v, c) => (1 - momentum) * Math.abs(old[c]) + momentum * v);
  return [
    perChannel(golden.apply(x, g, mean, invStd, gamma, beta).S, Math.max),
    perChannel(gradients.Sdx, Math.max),
    gradients.Sdgamma,
    gradients.Sdbeta,
    meanMagnitude,
    variance,
    blend(runningMean, meanMagnitude),
    blend(
      runningVariance,
      variance.map((v) => (v * m) / (m - 1)),
    ),
  ];
}

/** y, dx, dGamma and dBeta as the kernels compute them. */
function step(x, dy, gamma, beta, dims, epsilon) {
  const { memory, version, workspace, forward, backward } = kernels;
  if (version() !== 2) throw new Error(`expected version 2 of the kernels, got ${version()}`);
  const [, channels] = dims;
  let top = 1024;
  const reserve = (bytes) => {
    const at = top;
    top = Math.ceil((at + bytes) / 64) * 64;
    const missing = top - memory.buffer.byteLength;
    if (missing > 0) memory.grow(Math.ceil(missing / 65536));
    return at;
  };
  const bring = (values) => {
    const at = reserve(values.byteLength);
    new Float32Array(memory.buffer, at).set(values);
    return at;
  };
  const scratch = reserve(workspace(4, ...dims));
  const [px, pdy, pGamma, pBeta] = [x, dy, gamma, beta].map(bring);
  const [py, pdx] = [reserve(x.byteLength), reserve(x.byteLength)];
  const [mean, variance, invStd, dGamma, dBeta] = Array.from({ length: 5 }, () => reserve(8 * channels));
  forward(px, py, pGamma, pBeta, mean, variance, invStd, scratch, ...dims, epsilon);
  backward(px, pdy, pdx, pGamma, mean, invStd, dGamma, dBeta, scratch, ...dims, 0);
  return [
    ...[py, pdx].map((at) => new Float32Array(memory.buffer, at, x.length).slice()),
    ...[dGamma, dBeta].map((at) => new Float64Array(memory.buffer, at, channels).slice()),
  ];
}

/** The kernels and their memory, which embed.wasm imports and standalone.wasm exports. */
function instantiate(bytes) {
  const memory = new WebAssembly.Memory({ initial: 1 });
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(bytes), { env: { memory } });
  return { memory, ...exports };
}
