// What import.mjs and require.cjs have in common: checks both entries, which they loaded, as the arguments say, and prints
// what was found as one line of JSON. Arguments: the folder of the golden cases, and what to do about threads: "alone",
// "dispose" or "leave".

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { check } from "./check.js";

const [folder, threads] = process.argv.slice(2);

/** Digest of two training steps on tensors that are large enough for a pool. */
function steps({ BatchNorm, tensor }, options) {
  const shape = [8, 32, 32, 32];
  const size = 8 * 32 * 32 * 32;
  // no generator of random numbers: its digits would have to be the same in every engine
  const wave = (period) => Float32Array.from({ length: size }, (_, i) => ((i * 7919) % period) / period - 0.25);
  const digest = createHash("sha256");
  for (const layout of ["channels-first", "channels-last"]) {
    const bn = new BatchNorm(32, { layout, ...options });
    const [x, dy] = [tensor(shape, wave(1009)), tensor(shape, wave(997))];
    const y = bn.forward(x);
    const { dx, dGamma, dBeta } = bn.backward(dy);
    for (const values of [y.data, dx.data, dGamma, dBeta, bn.runningMean, bn.runningVariance]) digest.update(values);
  }
  return digest.digest("hex");
}

export async function report(library, core) {
  const golden = {
    manifest: JSON.parse(readFileSync(`${folder}/manifest.json`, "utf8")),
    data: Uint8Array.from(readFileSync(`${folder}/data.bin`)).buffer,
  };
  const simd = createRequire(import.meta.url).resolve("batchnorm-wasm/simd.wasm");
  const module = new WebAssembly.Module(readFileSync(simd));
  const found = {};
  const both = () => [steps(library, { activation: "relu" }), steps(core)];
  const start = () => Promise.all([library, core].map(({ init }) => init({ threads: 2 })));
  if (threads !== "alone") {
    found.alone = both();
    await start();
  }
  Object.assign(found, await check(library, golden, module, core));
  if (threads !== "alone") {
    await start(); // once more, since check may have taken another build, on one thread
    found.threads = [library, core].map(({ kernelInfo }) => kernelInfo().threads);
    found.together = both();
  }
  if (threads === "dispose") await Promise.all([library, core].map(({ stopThreads }) => stopThreads()));
  console.log(JSON.stringify(found));
}
