// Drift between two checkpoints: the numbers of `diagnose`, and what only one file has.

import { describe, expect, test } from "vitest";
import { BatchNorm, batchNormStatistics, diagnose } from "../../src/index.ts";
import { inspect, textReport } from "../../src/tools/index.ts";
import { normal } from "../support/worlds.ts";
import { source, type Tensors, trained, withValue } from "./checkpoints.ts";

const KERAS = ["gamma", "beta", "moving_mean", "moving_variance"] as const;

const bn = trained("bn", 4);
const driftFrom = async (now: Tensors, before: Tensors) => {
  const { drift } = await inspect(source(now, "new.safetensors"), { against: source(before, "old.safetensors") });
  return drift ?? expect.fail("no drift");
};

test("is what diagnose measures, if the new statistics are those of its batch", async () => {
  const channels = 6;
  const layer = new BatchNorm(channels, { preset: "keras", layout: "channels-last" });
  const vector = (seed: number) => normal(seed, channels).map((v) => 0.5 + Math.abs(v));
  layer.loadStateDict(
    { gamma: vector(1), beta: vector(2), moving_mean: vector(3), moving_variance: vector(4) },
    { framework: "keras" },
  );
  const x = { data: normal(5, 40 * channels).map((v, i) => 0.7 * v + (i % channels) / 4), shape: [40, channels] };
  const { meanDrift, varianceRatio } = diagnose(layer, x);
  const batch = batchNormStatistics(x, { layout: "channels-last" });
  const state = (mean: ArrayLike<number>, variance: ArrayLike<number>): Tensors => {
    const values = [layer.gamma, layer.beta, mean, variance];
    return Object.fromEntries(KERAS.map((name, i) => [`bn/${name}`, Float32Array.from(values[i] as number[])]));
  };
  const drift = await driftFrom(
    state(batch.mean, batch.variance),
    state(layer.runningMean as Float32Array, layer.runningVariance as Float32Array),
  );
  const [found] = drift.layers;
  const ratios = Array.from(varianceRatio, Math.sqrt).sort((a, b) => a - b);
  expect(found?.meanDrift).toBeCloseTo(Math.max(...meanDrift.map(Math.abs)), 6);
  expect(found?.stdRatio.least).toBeCloseTo(ratios[0] as number, 6);
  expect(found?.stdRatio.largest).toBeCloseTo(ratios.at(-1) as number, 6);
  const isLarge = (_: number, c: number) =>
    Math.abs(meanDrift[c] as number) > 0.5 || (varianceRatio[c] as number) > 2 || (varianceRatio[c] as number) < 0.5;
  expect(found?.drifted).toEqual([0, 1, 2, 3, 4, 5].filter(isLarge));
  expect(found?.drifted.length).toBeGreaterThan(0);
  expect(found?.gammaChange).toEqual({ least: 0, median: 0, largest: 0 });
});

test("of a file from itself is none", async () => {
  const drift = await driftFrom(bn, bn);
  const [least, median, largest] = [1, 1, 1];
  expect(drift).toEqual({
    against: "old.safetensors",
    layers: [
      {
        ...{ name: "bn", channels: 4, meanDrift: 0, stdRatio: { least, median, largest }, drifted: [] },
        gammaChange: { least: 0, median: 0, largest: 0 },
      },
    ],
    ...{ added: [], missing: [], incomparable: [] },
  });
});

test("counts a mean by more than half a deviation, and a variance by more than a factor 2 either way", async () => {
  const at = (part: string, c: number) => (bn[`bn.${part}`] as Float32Array)[c] as number;
  const deviation = (c: number) => Math.sqrt(at("running_var", c) + 1e-5);
  const changed = async (part: string, c: number, value: number) =>
    (await driftFrom(withValue(bn, `bn.${part}`, c, value), bn)).layers[0]?.drifted;
  expect(await changed("running_mean", 1, at("running_mean", 1) + 0.51 * deviation(1))).toEqual([1]);
  expect(await changed("running_mean", 1, at("running_mean", 1) - 0.49 * deviation(1))).toEqual([]);
  expect(await changed("running_var", 2, at("running_var", 2) * 2.01)).toEqual([2]);
  expect(await changed("running_var", 2, at("running_var", 2) * 1.99)).toEqual([]);
  expect(await changed("running_var", 3, at("running_var", 3) / 2.01)).toEqual([3]);
});

test("has the change of |gamma|, whatever its sign", async () => {
  const gamma = bn["bn.weight"] as Float32Array;
  const { layers } = await driftFrom(withValue(bn, "bn.weight", 0, -(gamma[0] as number) - 1), bn);
  expect(layers[0]?.gammaChange?.largest).toBeCloseTo(1, 6);
  expect(layers[0]?.gammaChange?.least).toBe(0);
});

describe("names", () => {
  const now = {
    ...bn,
    ...trained("new", 2),
    ...trained("wide", 5),
    ...withValue(trained("nan", 2), "nan.running_mean", 0, Number.NaN),
  };
  const before = { ...bn, ...trained("old", 2), ...trained("wide", 4), ...trained("nan", 2) };

  test("of layers that one file has, and of those that cannot be compared", async () => {
    const drift = await driftFrom(now, before);
    expect(drift.layers.map(({ name }) => name)).toEqual(["bn"]);
    expect([drift.added, drift.missing]).toEqual([["new"], ["old"]]);
    expect(drift.incomparable).toEqual([
      { name: "nan", reason: "its statistics in new.safetensors are negative or not finite" },
      { name: "wide", reason: "it has 5 channels, and 4 in old.safetensors" },
    ]);
  });

  test("are in the text, whose lines fit 80 columns", async () => {
    const report = await inspect(source(now), { against: source(before, "old.safetensors") });
    const text = textReport(report);
    for (const line of text.split("\n")) expect(line.length).toBeLessThanOrEqual(80);
    expect(text).toContain("drift from old.safetensors: 1 batch norm compared");
    expect(text).toContain("only in this file: new");
    expect(text).toContain("only in old.safetensors: old");
    expect(text).toContain("not compared: wide: it has 5 channels");
    expect(text).toMatch(/^bn\s+4\s+0\s+1–1\s+0 to 0$/m);
    expect(textReport(await inspect(source(now)))).not.toContain("drift from");
  });
});

test("unknown options are refused", async () => {
  await expect(inspect(source(bn), { agianst: source(bn) } as object)).rejects.toThrow(TypeError);
});
