// foldModel, recalibrate, diagnose and normalization on webgl and webgpu, where elements are read asynchronously.

import * as tf from "@tensorflow/tfjs-core";
import { layers, sequential } from "@tensorflow/tfjs-layers";
import { beforeAll, describe, expect, it } from "vitest";
import { batchNormalization, diagnose, foldModel, normalization, recalibrate } from "../../src/tfjs/index.ts";
import { BACKENDS, read, readAll, useBackend } from "../support/tfjs.ts";
import { normal } from "../support/worlds.ts";

const CHANNELS = 4;

/** Rows whose channel c has a mean of about c, and its statistics in float64. */
function rows(count: number) {
  const data = normal(1, count * CHANNELS, 1.5).map((v, i) => v + (i % CHANNELS));
  const column = (c: number) => Float64Array.from({ length: count }, (_, i) => data[i * CHANNELS + c] as number);
  const average = (v: Float64Array) => v.reduce((sum, x) => sum + x, 0) / v.length;
  const mean = Float64Array.from({ length: CHANNELS }, (_, c) => average(column(c)));
  const variance = mean.map((m, c) => average(column(c).map((v) => (v - m) ** 2)));
  return { x: tf.tensor2d(data, [count, CHANNELS]), mean, variance };
}

describe.each(BACKENDS)("on the backend $backend", ({ backend }) => {
  beforeAll(() => useBackend(backend));

  it("a folded model predicts the same", async () => {
    const bn = layers.batchNormalization();
    const model = sequential({
      layers: [
        layers.conv2d({ filters: CHANNELS, kernelSize: 3, inputShape: [6, 6, 2] }),
        bn,
        layers.reLU(),
        layers.flatten(),
        layers.dense({ units: 3 }),
      ],
    });
    const vectors = [2, 3, 4, 5].map((seed) => tf.tensor1d(normal(seed, CHANNELS).map((v) => 0.5 + v * v)));
    bn.setWeights(vectors);
    const x = tf.tensor4d(normal(6, 5 * 72), [5, 6, 6, 2]);
    const before = await read(model.predict(x) as tf.Tensor);
    const { model: folded, report } = await foldModel(model);
    expect(report).toMatchObject([{ name: bn.name, outcome: "backward" }]);
    expect(folded.layers.some((layer) => layer.getClassName() === "BatchNormalization")).toBe(false);
    expect(await read(folded.predict(x) as tf.Tensor)).toBeAllclose(before, { rtol: 1e-4, atol: 1e-4 });
  });

  it("recalibrate replaces moving statistics by those of all batches, and diagnose finds that they drifted before", async () => {
    const bn = batchNormalization();
    const model = sequential({ layers: [layers.inputLayer({ inputShape: [CHANNELS] }), bn] });
    const { x, mean, variance } = rows(48);
    const batches = tf.split(x, [32, 16]);
    const [before] = await diagnose(model, x);
    await recalibrate(model, batches);
    const [movingMean, movingVariance] = await readAll(bn.getWeights().slice(2));
    expect(movingMean).toBeAllclose(mean, { rtol: 1e-5, atol: 1e-5 });
    expect(movingVariance).toBeAllclose(variance, { rtol: 1e-5, atol: 1e-5 });
    const [after] = await diagnose(model, x);
    expect(before?.layer).toBe(bn.name);
    expect(before?.diagnosis.drifted).toContain(CHANNELS - 1);
    expect(after?.diagnosis.drifted).toEqual([]);
  });

  it("normalization adapts to batches, and normalises", async () => {
    const layer = normalization();
    const { x, mean, variance } = rows(48);
    await layer.adapt(tf.split(x, [32, 16]));
    const y = await read(layer.apply(x) as tf.Tensor);
    const data = await read(x);
    const expected = Float64Array.from(data, (v, i) => {
      const c = i % CHANNELS;
      return (v - (mean[c] as number)) / Math.sqrt(variance[c] as number);
    });
    expect(y).toBeAllclose(expected, { rtol: 1e-5, atol: 1e-5 });
  });
});
