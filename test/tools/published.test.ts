// Finished models that people run, from npm: nsfwjs ships classifiers of images with batch norms whose weights are quantised
// to 8 bits. What is read is compared with what TF.js loads, and what is folded with what TF.js predicts.

import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import * as tf from "@tensorflow/tfjs-core";
import { loadLayersModel } from "@tensorflow/tfjs-layers";
import { beforeAll, describe, expect, test } from "vitest";
import { readTfjsBatchNorms } from "../../src/tools/formats/tfjs/index.ts";
import { inspect } from "../../src/tools/index.ts";
import "../support/tfjs.ts";
import { type Files, type Json, sourceOf } from "./tfjs-models.ts";

const cli = fileURLToPath(new URL("../../dist/cli.js", import.meta.url));
const require = createRequire(new URL("../../bench/package.json", import.meta.url));

function modelsFolder(): string | undefined {
  try {
    return join(dirname(require.resolve("nsfwjs")), "../models");
  } catch {
    return undefined;
  }
}

const folder = modelsFolder();

/** Returns the files of a model, which nsfwjs has as scripts, shards in Base64. */
function filesOf(name: string): Files {
  const exportOf = (file: string): Json => {
    const value = require(join(folder as string, name, file));
    return value.default ?? value;
  };
  const files = readdirSync(join(folder as string, name));
  const model = exportOf("model.min.js");
  const paths: string[] = model.weightsManifest.flatMap((group: Json) => group.paths);
  const shard = (path: string) => exportOf(files.find((file) => file.startsWith(path)) as string);
  return { model, shards: Object.fromEntries(paths.map((path) => [path, Buffer.from(shard(path), "base64")])) };
}

beforeAll(() => tf.setBackend("cpu"));

const why = folder ? "" : " (skipped, since bench's packages are not installed: npm ci --prefix bench)";

describe.skipIf(!folder)(`nsfwjs's models${why}`, () => {
  test.each([
    ["mobilenet_v2", 52],
    ["inception_v3", 94],
  ])("%s: the values and configurations of %d batch norms are those that TF.js loads", async (name, count) => {
    const { model, shards } = filesOf(name);
    const records = await readTfjsBatchNorms(sourceOf({ model, shards }));
    const weightSpecs = model.weightsManifest.flatMap(({ weights }: Json) => weights);
    const weightData = Uint8Array.from(Buffer.concat(Object.values(shards))).buffer;
    const loaded = await loadLayersModel(
      tf.io.fromMemory({ modelTopology: model.modelTopology, weightSpecs, weightData }),
    );
    const norms = loaded.layers.filter((layer) => layer.getClassName() === "BatchNormalization");
    expect(records.map((record) => record.name)).toEqual(norms.map((layer) => layer.name));
    expect(records).toHaveLength(count);
    for (const [i, layer] of norms.entries()) {
      const { gamma, beta, mean, variance, epsilon, momentum } = records[i] as (typeof records)[number];
      const values = [gamma, beta, mean, variance].flatMap((vector) => (vector ? [Array.from(vector)] : []));
      expect(values).toEqual(layer.getWeights().map((t) => Array.from(t.dataSync())));
      expect({ epsilon, momentum }).toEqual({
        epsilon: layer.getConfig().epsilon,
        momentum: layer.getConfig().momentum,
      });
    }
    const { findings } = await inspect(sourceOf({ model, shards }));
    expect(findings.filter(({ severity }) => severity === "error")).toEqual([]);
    expect(findings.filter(({ code }) => code === "not-folded").length).toBeGreaterThan(0.9 * count);
  });

  test.each([
    ["mobilenet_v2", 52],
    ["inception_v3", 94],
  ])(
    "%s: `fold` folds all %d batch norms, and what it writes predicts the same",
    async (name, count) => {
      const { model, shards } = filesOf(name);
      const temporary = mkdtempSync(join(tmpdir(), "batchnorm-published-"));
      try {
        symlinkSync(fileURLToPath(new URL("../../node_modules", import.meta.url)), join(temporary, "node_modules"));
        writeFileSync(join(temporary, "model.json"), JSON.stringify(model));
        for (const [path, bytes] of Object.entries(shards)) writeFileSync(join(temporary, path), bytes);
        const args = ["fold", "model.json", "folded.json", "--verify", "--json"];
        const { stdout, stderr } = spawnSync(process.execPath, [cli, ...args], { cwd: temporary, encoding: "utf8" });
        expect(stderr).toBe("");
        const { folded, kept, differences } = JSON.parse(stdout);
        expect([folded.length, kept]).toEqual([count, []]);
        for (const { difference, size } of differences) expect(difference / size).toBeLessThan(1e-5);
        expect(differences).toHaveLength(1);
        const { modelTopology } = JSON.parse(readFileSync(join(temporary, "folded.json"), "utf8"));
        expect(JSON.stringify(modelTopology)).not.toContain("BatchNormalization");
      } finally {
        rmSync(temporary, { recursive: true });
      }
    },
    900_000,
  ); // minutes on a busy machine

  test("a graph whose batch norms are folded has none", async () => {
    expect((await inspect(sourceOf(filesOf("mobilenet_v2_mid")))).layers).toEqual([]);
  });
});
