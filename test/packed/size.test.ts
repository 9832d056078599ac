// The size of the library in a page: bundled, minified and gzipped, with the kernels. A kB is 1,000 bytes.

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

const training = (entry: string) => `import { BatchNorm } from "${entry}";
  const bn = new BatchNorm(64);
  globalThis.y = bn.forward(globalThis.x);
  globalThis.gradients = bn.backward(globalThis.dy);`;

/** Bytes, and what they are for. */
const BUDGETS: Record<string, readonly [number, string]> = {
  "BatchNorm of batchnorm-wasm/core": [28_000, training("batchnorm-wasm/core")],
  "all of batchnorm-wasm/core, with threads": [34_000, 'export * from "batchnorm-wasm/core";'],
  "batchNormForward of batchnorm-wasm/core": [
    21_500,
    'import { batchNormForward } from "batchnorm-wasm/core"; globalThis.y = batchNormForward(globalThis.x);',
  ],
  "BatchNorm of batchnorm-wasm": [52_000, training("batchnorm-wasm")],
  "all of batchnorm-wasm": [
    77_600, // of which folding forward, with its expected error, is 1,150
    'export * from "batchnorm-wasm";',
  ],
  "the layer for TF.js": [
    58_000, // of which derivatives beyond the second, and errors for what is disposed of, are some 500
    'import { batchNormalization } from "batchnorm-wasm/tfjs"; globalThis.layer = batchNormalization();',
  ],
  "names that are not used": [
    30,
    'import { BatchNorm } from "batchnorm-wasm"; import { BatchNorm as Core } from "batchnorm-wasm/core";',
  ],
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
