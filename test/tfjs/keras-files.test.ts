// A model that Keras 2 has saved and TensorFlow's converter has converted (fixtures/generate.py): with this library's layers
// registered, TF.js loads it and predicts what Keras does.

import { readFileSync } from "node:fs";
import * as tf from "@tensorflow/tfjs-core";
import { layers, loadLayersModel, sequential } from "@tensorflow/tfjs-layers";
import { beforeAll, describe, expect, it } from "vitest";
import { foldModel, normalization, registerLayer } from "../../src/tfjs/index.ts";
import { BACKENDS, read, useBackend } from "../support/tfjs.ts";

const MODEL = readFileSync(new URL("fixtures/keras2/model.json", import.meta.url), "utf8");
const WEIGHTS = readFileSync(new URL("fixtures/keras2/group1-shard1of1.bin", import.meta.url));
const EXPECTED = readFileSync(new URL("fixtures/keras2/expected.json", import.meta.url), "utf8");

/** The files as tf.loadLayersModel loads them. `rename` changes the names of the weights. */
function artifacts(rename = (name: string) => name): tf.io.ModelArtifacts {
  const { modelTopology, format, generatedBy, convertedBy, weightsManifest } = JSON.parse(MODEL);
  const [{ weights }] = weightsManifest as [{ weights: tf.io.WeightsManifestEntry[] }];
  const weightSpecs = weights.map((weight) => ({ ...weight, name: rename(weight.name) }));
  const weightData = Uint8Array.from(WEIGHTS).buffer;
  return { modelTopology, format, generatedBy, convertedBy, weightSpecs, weightData };
}

describe.each(BACKENDS)("on the backend $backend", ({ backend }) => {
  beforeAll(() => useBackend(backend));

  const { images, predictions } = JSON.parse(EXPECTED) as Record<"images" | "predictions", number[]>;
  const close = { rtol: 1e-4, atol: 1e-6 };
  const unnamed = /^(mean|variance|count)$/;

  it.each([
    ["before its model was made, whose weights Keras saves without its name", (name: string) => name],
    ["afterwards, whose weights have its name", (name: string) => name.replace(unnamed, "adapted/$1")],
  ])("a Normalization that was adapted %s: predictions are Keras's, folded too", async (_, rename) => {
    await expect(loadLayersModel(tf.io.fromMemory(artifacts(rename)))).rejects.toThrow("Unknown layer: Normalization");
    const restore = registerLayer();
    const model = await loadLayersModel(tf.io.fromMemory(artifacts(rename))).finally(restore);
    const x = tf.tensor4d(images, [2, 8, 8, 3]);
    expect(await read(model.predict(x) as tf.Tensor)).toBeAllclose(predictions, close);
    const { model: folded, report } = await foldModel(model);
    expect(report.map(({ name, outcome }) => `${name} ${outcome}`)).toEqual([
      "plain backward",
      "synchronized backward",
      "rows kept",
      "vector kept",
    ]);
    expect(await read(folded.predict(x) as tf.Tensor)).toBeAllclose(predictions, close);
  });

  it("weights without a layer's name that could be of several layers, or do not belong to it, are TF.js's errors", async () => {
    const restore = registerLayer();
    const load = (rename: (name: string) => string) => loadLayersModel(tf.io.fromMemory(artifacts(rename)));
    try {
      await expect(load((name) => name.replace(/^count$/, "counter"))).rejects.toThrow("no target variable: mean");
      await expect(load((name) => name.replace(unnamed, "other/$1"))).rejects.toThrow("no target variable: other/mean");
      const several = sequential({
        layers: [layers.inputLayer({ inputShape: [3] }), normalization(), normalization()],
      });
      const weights = { mean: tf.zeros([3]), variance: tf.ones([3]), count: tf.scalar(1, "int32") };
      expect(() => several.loadWeights(weights)).toThrow("no target variable: mean");
    } finally {
      restore();
    }
  });
});
