// What a bundler puts into a page: minified and gzipped, kernels included. kB are 1,000 bytes.

import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import { describe, expect, inject, it } from "vitest";

const { library } = inject("packed");

async function gzipped(code: string): Promise<number> {
  const { outputFiles } = await build({
    stdin: { contents: code, resolveDir: library },
    bundle: true,
    minify: true,
    format: "esm",
    platform: "browser",
    external: ["@tensorflow/*"], // its user has it
    write: false,
  });
  return gzipSync(outputFiles[0]?.contents ?? "", { level: 9 }).length;
}

const training = `import { BatchNorm } from "batchnorm-wasm";
  const bn = new BatchNorm(64);
  globalThis.y = bn.forward(globalThis.x);
  globalThis.gradients = bn.backward(globalThis.dy);`;

/** Bytes, and what they are for. */
const BUDGETS: Record<string, readonly [number, string]> = {
  "BatchNorm alone": [25_000, training],
  "BatchNorm on tensors, with threads": [
    28_500,
    `${training} import { init, tensor } from "batchnorm-wasm"; init({ threads: 2 }); globalThis.t = tensor([1, 64]);`,
  ],
  "BatchNorm with everything": [48_000, `${training} import { extended } from "batchnorm-wasm"; extended();`],
  "batchNormForward alone": [
    20_000,
    'import { batchNormForward } from "batchnorm-wasm"; globalThis.y = batchNormForward(globalThis.x);',
  ],
  "reading a safetensors file": [
    2_200,
    'import { readSafetensors } from "batchnorm-wasm"; globalThis.y = readSafetensors(globalThis.x);',
  ],
  "the layer for TF.js": [
    50_500,
    'import { batchNormalization } from "batchnorm-wasm/tfjs"; globalThis.layer = batchNormalization();',
  ],
  "a name that is not used": [30, 'import { BatchNorm } from "batchnorm-wasm";'],
};

describe.each(Object.entries(BUDGETS))("%s", (_, [budget, code]) => {
  it(`takes at most ${budget.toLocaleString("en")} bytes`, async () => {
    const size = await gzipped(code);
    expect(size).toBeGreaterThan(0);
    expect(size).toBeLessThanOrEqual(budget);
    // a budget that is far away watches nothing
    expect(size).toBeGreaterThan(budget * 0.9 - 30);
  });
});
