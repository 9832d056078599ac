// Conversion of checkpoints: names of every framework to those of every other and back, what our own loader makes of the
// result, values that change, what is refused, TF.js models, and how much of a large file is in memory.

import * as tf from "@tensorflow/tfjs-core";
import { layers, sequential } from "@tensorflow/tfjs-layers";
import { describe, expect, test } from "vitest";
import {
  BatchNorm,
  type Framework,
  readSafetensors,
  type SafeTensor,
  type WritableTensor,
  writeSafetensors,
} from "../../src/index.ts";
import { FRAMEWORKS } from "../../src/interop/state-dict.ts";
import { bytesSource, type ConvertOptions, conversionText, convert } from "../../src/tools/index.ts";
import { normal, random } from "../support/worlds.ts";
import "../support/tfjs.ts";
import { bits, HUGE, huge, source, type Tensors, trained } from "./checkpoints.ts";
import { type Files, filesOf, saved, sourceOf } from "./tfjs-models.ts";

const REFUSED = expect.objectContaining({ name: "BatchNormError", code: "model-file" }) as Error;
const LAYERS = ["layer1.0.bn1", "layer1.0.bn2", "stem.norm"];

/** The names of the layers with the separator of a framework. */
const layersOf = (framework: Framework) =>
  framework === "pytorch" || framework === "onnx" ? LAYERS : LAYERS.map((name) => name.replaceAll(".", "/"));

/** Returns a trained layer with values that depend on a seed. */
function layerOf(seed: number, channels = 5): BatchNorm {
  const bn = new BatchNorm(channels);
  const next = random(seed);
  const positive = () => Float32Array.from({ length: channels }, () => 0.5 + next());
  bn.loadStateDict({
    weight: positive(),
    bias: normal(seed, channels),
    running_mean: normal(seed + 1, channels),
    running_var: positive(),
    num_batches_tracked: 5000,
  });
  return bn;
}

/** Counts, and Haiku's averages without their correction, which most frameworks do not have. */
const COUNTED = /num_batches_tracked|counter|hidden/;

/** Returns a checkpoint of three batch norms between other layers, under a framework's names. */
function checkpoint(framework: Framework, hasCounts = true): Uint8Array<ArrayBuffer> {
  const tensors: Tensors = {
    "layer1.0.conv1.weight": { data: normal(90, 5 * 3 * 9), shape: [5, 3, 3, 3] },
    "dense/kernel": { data: Float64Array.from(normal(91, 20)), shape: [4, 5] },
    "embed.scale": bits("BF16", [1, 2, 3]),
  };
  for (const [i, prefix] of layersOf(framework).entries())
    for (const [name, value] of Object.entries(layerOf(i + 1, 5 + i).stateDict({ framework, prefix })))
      if (hasCounts || !COUNTED.test(name)) tensors[name] = value as WritableTensor;
  return writeSafetensors(tensors, { format: "pt" });
}

const fileOf = (bytes: Uint8Array) => bytesSource("model.safetensors", bytes);
const converted = async (bytes: Uint8Array, options: ConvertOptions) => (await convert(fileOf(bytes), options)).bytes();
const numbersOf = (tensor: { data: ArrayLike<number | bigint> } | undefined) => Array.from(tensor?.data ?? [], Number);

const PAIRS = FRAMEWORKS.flatMap((from) => FRAMEWORKS.map((to) => [from, to] as const));

describe.each(PAIRS)("from %s to %s", (from, to) => {
  test("and back gives the same bytes", async () => {
    const original = checkpoint(from, false);
    const there = await converted(original, { to });
    expect(await converted(there, { to: from, from: to })).toEqual(original);
    const isSame = [from, to].every((framework) => framework === "keras" || framework === "tfjs") || from === to;
    expect(there.length === original.length && there.every((byte, i) => byte === original[i])).toBe(isSame);
  });

  test("gives what a layer with that framework's preset loads, and leaves the rest as it is", async () => {
    const original = checkpoint(from);
    const { report, bytes } = await convert(fileOf(original), { to });
    const { tensors, metadata } = readSafetensors(await bytes());
    const isCounted = (framework: Framework) => framework === "pytorch" || framework === "haiku";
    for (const [i, prefix] of layersOf(to).entries()) {
      const bn = new BatchNorm(5 + i, { preset: to });
      const strict = to !== "haiku" || isCounted(from);
      expect(bn.loadStateDict(tensors, { framework: to, prefix, strict }).unexpected).toEqual([]);
      const expected = layerOf(i + 1, 5 + i);
      for (const key of ["gamma", "beta", "runningMean", "runningVariance"] as const)
        expect(bn[key], key).toEqual(expected[key]);
      expect(bn.batchesTracked).toBe(isCounted(from) && isCounted(to) ? 5000 : 0);
    }
    expect(metadata).toEqual({ format: "pt" });
    const before = readSafetensors(original).tensors;
    for (const name of ["layer1.0.conv1.weight", "dense/kernel", "embed.scale"])
      expect(tensors[name]).toEqual(before[name]);
    expect(report).toMatchObject({ others: 3, unconverted: [], to, format: "safetensors" });
    expect(report.layers.map(({ newName }) => newName)).toEqual(layersOf(to));
    const written = report.layers.flatMap((layer) => layer.tensors.flatMap((tensor) => tensor.to ?? []));
    expect(Object.keys(tensors).sort()).toEqual(
      [...written, "layer1.0.conv1.weight", "dense/kernel", "embed.scale"].sort(),
    );
    const read = new Set(report.layers.flatMap((layer) => layer.tensors.flatMap((tensor) => tensor.from ?? [])));
    expect(read.size + 3).toBe(Object.keys(before).length);
  });
});

test.each(["pytorch", "haiku"] as const)("counts of %s survive the way to the other and back", async (from) => {
  const to = from === "haiku" ? "pytorch" : "haiku";
  const back = await converted(await converted(checkpoint(from), { to }), { to: from });
  // 1 − 0.9^5000 is 1, so that Haiku's hidden is its average
  expect(back).toEqual(checkpoint(from));
});

test("the report has the old and the new name of every tensor, and what the new file lacks", async () => {
  const { report } = await convert(source(trained("bn", 2)), { to: "flax" });
  expect(report.layers).toEqual([
    {
      name: "bn",
      from: "pytorch",
      newName: "bn",
      channels: 2,
      dtype: "F32",
      varianceFactor: 1,
      tensors: [
        { from: "bn.weight", to: "params/bn/scale" },
        { from: "bn.bias", to: "params/bn/bias" },
        { from: "bn.running_mean", to: "batch_stats/bn/mean" },
        { from: "bn.running_var", to: "batch_stats/bn/var" },
        { from: "bn.num_batches_tracked", to: null, change: "flax has no count of batches" },
      ],
      notes: [],
    },
  ]);
  expect(report.notes).toEqual([
    expect.stringContaining("The running variance of 1 of 1 batch norms is copied, while flax keeps a biased one"),
    expect.stringContaining("no place for epsilon and momentum"),
  ]);
  const text = conversionText(report);
  expect(text).toContain("bn → bn (pytorch, 2 channels, F32)\n  bn.weight → params/bn/scale\n");
  expect(text).toContain("bn.num_batches_tracked → —   flax has no count of batches\n");
});

test("a single layer without a prefix is converted", async () => {
  const state = layerOf(1).stateDict();
  const { report, bytes } = await convert(source(state as Tensors), { to: "haiku" });
  expect(report.layers[0]).toMatchObject({ name: "(top level)", newName: "(top level)" });
  const { tensors } = readSafetensors(await bytes());
  const bn = new BatchNorm(5, { preset: "haiku" });
  bn.loadStateDict(tensors, { framework: "haiku" });
  expect(bn.runningMean).toEqual(state.running_mean);
});

describe("values", () => {
  test.each(["F16", "BF16"] as const)("%s stays so, bit by bit", async (dtype) => {
    const patterns = [0, 1, 0x8001, 0x3c00, 0x7e01, 0xffff];
    const names = ["weight", "bias", "running_mean", "running_var"];
    const tensors = Object.fromEntries(
      names.map((name, i) => [
        `bn.${name}`,
        bits(
          dtype,
          patterns.map((b) => b ^ i),
        ),
      ]),
    );
    const there = readSafetensors(await converted(writeSafetensors(tensors), { to: "keras" })).tensors;
    for (const [i, name] of ["gamma", "beta", "moving_mean", "moving_variance"].entries())
      expect(there[`bn/${name}`]).toEqual(
        bits(
          dtype,
          patterns.map((b) => b ^ i),
        ),
      );
  });

  const variances = [0.5, 1, 1.5, 3, 1000.25, 0];
  test.each([
    ["F32", Float32Array.from(variances), (v: number) => Math.fround(v)],
    ["F64", Float64Array.from(variances), (v: number) => v],
  ] as const)("with a count, the running variance of %s is converted, rounded once", async (dtype, data, round) => {
    const tensors = { "bn.running_mean": data, "bn.running_var": data };
    const { report, bytes } = await convert(source(tensors), { to: "flax", count: 8 });
    const { tensors: there } = readSafetensors(await bytes());
    expect(numbersOf(there["batch_stats/bn/var"])).toEqual(variances.map((v) => round((v * 7) / 8)));
    expect(there["batch_stats/bn/mean"]).toMatchObject({ dtype, data });
    expect(report.layers[0]).toMatchObject({ varianceFactor: 7 / 8 });
    expect(report.layers[0]?.tensors[1]?.change).toBe("unbiased → biased, times 0.875");
    expect(report.notes.join()).not.toContain("is copied");
    const back = readSafetensors(await converted(await bytes(), { to: "pytorch", count: 8 })).tensors;
    expect(numbersOf(back["bn.running_var"])).toEqual(variances.map((v) => round(round((v * 7) / 8) * (8 / 7))));
  });

  test("of 16 bits are rounded to the nearest ones", async () => {
    // 1 and 3 in float16, times 8/7: 0x3c92 is 1.1426, and 0x42db is 3.4277
    const tensors = { "bn/moving_mean": bits("F16", [0, 0]), "bn/moving_variance": bits("F16", [0x3c00, 0x4200]) };
    const there = readSafetensors(await converted(writeSafetensors(tensors), { to: "pytorch", count: 8 })).tensors;
    expect(there["bn.running_var"]).toEqual(bits("F16", [0x3c92, 0x42db]));
  });

  test("counts may differ between batch norms, and frameworks of one kind need none", async () => {
    const tensors = { ...trained("a", 3), ...trained("b", 3) };
    const { report, bytes } = await convert(source(tensors), { to: "keras", count: { a: 10 } });
    expect(report.layers.map(({ varianceFactor }) => varianceFactor)).toEqual([0.9, 1]);
    expect(report.notes[0]).toContain("The running variance of 1 of 2 batch norms is copied");
    const flax = await convert(fileOf(await bytes()), { to: "flax", count: 10 });
    expect(flax.report.layers.map(({ varianceFactor }) => varianceFactor)).toEqual([1, 1]);
  });

  test("that are no floats keep their kind of variance, and the report says so", async () => {
    const eight = { data: Uint8Array.of(1, 2), shape: [2], dtype: "F8_E4M3" } as const;
    const { report, bytes } = await convert(source({ "bn.running_mean": eight, "bn.running_var": eight }), {
      to: "keras",
      count: 8,
    });
    expect(report.layers[0]?.notes).toEqual(["bn.running_var has elements of F8_E4M3, and stays unbiased"]);
    expect(numbersOf(readSafetensors(await bytes()).tensors["bn/moving_variance"])).toEqual([1, 2]);
  });

  test.each([
    ["pytorch", "weight", "bias"],
    ["onnx", "scale", "B"],
  ] as const)("that %s needs are added", async (to, gamma, beta) => {
    const file = (dtype: "F16" | "F32", name: string) => ({
      "bn/moving_mean": dtype === "F16" ? bits("F16", [0, 0, 0]) : new Float32Array(3),
      "bn/moving_variance": dtype === "F16" ? bits("F16", [1, 1, 1]) : new Float32Array(3),
      [`bn/${name}`]: dtype === "F16" ? bits("F16", [5, 6, 7]) : Float32Array.of(5, 6, 7),
    });
    const half = readSafetensors(await converted(writeSafetensors(file("F16", "beta")), { to })).tensors;
    expect(half[`bn.${gamma}`]).toEqual(bits("F16", [0x3c00, 0x3c00, 0x3c00]));
    expect(half[`bn.${beta}`]).toEqual(bits("F16", [5, 6, 7]));
    const { report, bytes } = await convert(source(file("F32", "gamma")), { to });
    expect(readSafetensors(await bytes()).tensors[`bn.${beta}`]).toMatchObject({
      dtype: "F32",
      data: new Float32Array(3),
    });
    expect(report.layers[0]?.tensors.at(-1)).toMatchObject({ from: null, to: `bn.${beta}` });
  });

  test("of PyTorch without parameters get none, as with affine: false", async () => {
    const tensors = { "bn/moving_mean": new Float32Array(3), "bn/moving_variance": new Float32Array(3) };
    const there = readSafetensors(await converted(writeSafetensors(tensors), { to: "pytorch" })).tensors;
    expect(Object.keys(there).sort()).toEqual(["bn.running_mean", "bn.running_var"]);
  });
});

describe("names", () => {
  const pair = (mean: string, variance: string, shape = [3]) => ({
    [mean]: { data: new Float32Array(3), shape },
    [variance]: { data: new Float32Array(3), shape },
  });

  test("of Haiku's submodules lose ~, its vectors their ones, and the report says both", async () => {
    const below = "state/net/~/bn/~/";
    const shape = [1, 1, 1, 3];
    const tensors = {
      ...pair(`${below}mean_ema/average`, `${below}var_ema/average`, shape),
      ...pair(`${below}mean_ema/hidden`, `${below}var_ema/hidden`, shape),
      "params/net/~/bn/scale": { data: new Float32Array(3), shape },
      "params/net/~/bn/offset": { data: new Float32Array(3), shape },
    };
    const { report, bytes } = await convert(source(tensors), { to: "pytorch" });
    const { tensors: there } = readSafetensors(await bytes());
    expect(Object.keys(there).sort()).toEqual(
      ["bias", "running_mean", "running_var", "weight"].map((name) => `net.bn.${name}`),
    );
    for (const tensor of Object.values(there)) expect(tensor.shape).toEqual([3]);
    const [layer] = report.layers;
    expect(layer?.notes).toEqual([
      "converted back, state/net/~/bn/~/mean_ema/average would be state/net/bn/~/mean_ema/average",
    ]);
    expect(layer?.tensors).toContainEqual({
      from: "params/net/~/bn/scale",
      to: "net.bn.weight",
      change: "shape [1,1,1,3] → [3]",
    });
    expect(layer?.tensors.filter(({ to }) => to === null)).toEqual(
      ["mean_ema", "var_ema"].map((ema) => ({ from: `${below}${ema}/hidden`, to: null, change: "only haiku has it" })),
    );
    expect(report.others).toBe(0);
  });

  test.each([
    ["Flax's with dots", "batch_stats.a.bn.mean", "batch_stats.a.bn.var", "flax"],
    [
      "Keras 3's with branches",
      "non_trainable_variables/a/bn/moving_mean",
      "non_trainable_variables/a/bn/moving_variance",
      "keras",
    ],
    ["TensorFlow's with indices", "a/bn/moving_mean:0", "a/bn/moving_variance:0", "keras"],
  ] as const)("%s are read", async (_, mean, variance, from) => {
    const { report } = await convert(source(pair(mean, variance)), { to: "pytorch" });
    expect(report.layers[0]).toMatchObject({ name: "a.bn".replace(".", from === "flax" ? "." : "/"), from });
    expect(report.layers[0]?.tensors.map(({ to }) => to)).toEqual(["a.bn.running_mean", "a.bn.running_var"]);
  });

  test("with points stay so where the separator is /, and are told where they do not lead back", async () => {
    const tensors = pair("block.1/bn/moving_mean", "block.1/bn/moving_variance");
    const flax = await convert(source(tensors), { to: "flax" });
    expect(flax.report.layers[0]).toMatchObject({ newName: "block.1/bn", notes: [] });
    const torch = await convert(source(tensors), { to: "pytorch" });
    expect(torch.report.layers[0]).toMatchObject({
      newName: "block.1.bn",
      notes: ["converted back, block.1/bn/moving_mean would be block/1/bn/moving_mean"],
    });
  });

  test("of ONNX before opset 14 need `from`, and without it the report tells of what it does not know", async () => {
    const tensors = { ...pair("bn.mean", "bn.var"), "bn.scale": new Float32Array(3), "bn.B": Float32Array.of(1, 2, 3) };
    const guessed = await convert(source(tensors), { to: "pytorch" });
    expect(guessed.report.layers[0]?.notes).toContain(
      "bn.B is none of flax's values and keeps its name; pass `from` (--from) if the names are of another framework",
    );
    const { report, bytes } = await convert(source(tensors), { to: "pytorch", from: "onnx" });
    expect(numbersOf(readSafetensors(await bytes()).tensors["bn.bias"])).toEqual([1, 2, 3]);
    expect(report.layers[0]?.tensors).toHaveLength(4);
  });

  test("`from` leaves batch norms of other frameworks alone", async () => {
    const tensors = { ...trained("a", 3), ...pair("b/moving_mean", "b/moving_variance") };
    const { report } = await convert(source(tensors), { to: "flax", from: "keras" });
    expect(report.layers.map(({ name }) => name)).toEqual(["b"]);
    expect(report.others).toBe(5);
    const all = await convert(source(tensors), { to: "flax" });
    expect(all.report.layers.map(({ name, from }) => [name, from])).toEqual([
      ["a", "pytorch"],
      ["b", "keras"],
    ]);
  });

  test.each([
    ["of a tensor that is there", { ...trained("bn", 3), "bn/gamma": new Float32Array(1) }, "bn/gamma"],
    ["of two batch norms", { ...trained("bn", 3), ...pair("bn/moving_mean", "bn/moving_variance") }, "bn/moving_mean"],
  ])("that become those %s refuse the file", async (_, tensors, name) => {
    const promise = convert(source(tensors), { to: "keras" });
    await expect(promise).rejects.toThrow(REFUSED);
    await expect(promise).rejects.toThrow(`model.safetensors: the new name "${name}`);
  });
});

test.each([
  ["a.b/running_mean", "a.b.running_mean"],
  ["a/moving_mean:0", "a/moving_mean"],
  ["a.moving_mean", "a/moving_mean"],
])("two tensors for one value, %s and %s, refuse the file", async (one, other) => {
  const variance = other.replace("mean", other.includes("running") ? "var" : "variance");
  const tensors = Object.fromEntries([one, other, variance].map((name) => [name, new Float32Array(3)]));
  const promise = convert(source(tensors), { to: "flax" });
  await expect(promise).rejects.toThrow(REFUSED);
  for (const name of [one, other]) await expect(promise).rejects.toThrow(name);
});

describe("what is not converted keeps its names and has its reason", () => {
  const vector = new Float32Array(3);
  test.each([
    ["a statistic that is missing", { "bn.running_mean": vector }, "running_var is missing"],
    [
      "lengths that differ",
      { "bn.running_mean": vector, "bn.running_var": vector, "bn.bias": new Float32Array(2) },
      "bn.bias has 2 values for 3 channels",
    ],
    [
      "a matrix",
      {
        "bn.running_mean": vector,
        "bn.running_var": vector,
        "bn.weight": { data: new Float32Array(6), shape: [2, 3] },
      },
      "bn.weight has the shape [2,3], which is no vector",
    ],
  ])("%s", async (_, tensors: Tensors, reason) => {
    const all = { ...tensors, ...trained("good", 3) };
    const { report, bytes } = await convert(source(all), { to: "flax" });
    expect(report.unconverted).toEqual([{ name: "bn", reason }]);
    expect(report.layers.map(({ name }) => name)).toEqual(["good"]);
    const there = readSafetensors(await bytes()).tensors;
    const before = readSafetensors(writeSafetensors(all)).tensors;
    for (const name of Object.keys(tensors)) expect(there[name]).toEqual(before[name]);
    expect(conversionText(report)).toContain(`NOT CONVERTED bn: ${reason}.`);
  });
});

test("a checkpoint in several files becomes one, with the metadata of all", async () => {
  const { "bn.weight": gamma, ...others } = trained("bn", 3) as Record<string, WritableTensor>;
  const parts = { "a.safetensors": { "bn.weight": gamma as WritableTensor }, "b.safetensors": others };
  const map = Object.entries(parts).flatMap(([path, tensors]) => Object.keys(tensors).map((name) => [name, path]));
  const index = bytesSource(
    "model.safetensors.index.json",
    new TextEncoder().encode(JSON.stringify({ weight_map: Object.fromEntries(map) })),
    {
      "a.safetensors": writeSafetensors(parts["a.safetensors"], { format: "pt" }),
      "b.safetensors": writeSafetensors(parts["b.safetensors"]),
    },
  );
  const { report, bytes } = await convert(index, { to: "flax" });
  const whole = writeSafetensors(trained("bn", 3), { format: "pt" });
  expect(await bytes()).toEqual(await converted(whole, { to: "flax" }));
  expect(report.format).toBe("safetensors");
});

describe("TF.js models", () => {
  const vectors = (n: number) => [1, 2, 3, 4].map((seed) => tf.tensor1d(normal(seed, n).map(Math.abs)));
  const files = async (): Promise<Files> => {
    await tf.setBackend("cpu");
    const model = sequential({
      layers: [
        layers.conv2d({ filters: 5, kernelSize: 3, inputShape: [8, 8, 3], name: "conv" }),
        layers.batchNormalization({ name: "bn", momentum: 0.9, epsilon: 0.01 }),
      ],
    });
    model.getLayer("bn").setWeights(vectors(5));
    return saved(model, 13);
  };

  test.each(FRAMEWORKS)("become safetensors under the names of %s", async (to) => {
    const model = await files();
    const { report, bytes } = await convert(sourceOf(model), { to });
    const { tensors } = readSafetensors(await bytes());
    const bn = new BatchNorm(5, { preset: to });
    bn.loadStateDict(tensors, { framework: to, prefix: "bn", strict: to !== "haiku" });
    const [gamma, beta, mean, variance] = vectors(5).map((tensor) => tensor.dataSync());
    expect([bn.gamma, bn.beta, bn.runningMean, bn.runningVariance]).toEqual([gamma, beta, mean, variance]);
    expect(report).toMatchObject({ format: "tfjs", others: 2, unconverted: [] });
    expect(report.layers).toMatchObject([
      { name: "bn", from: "tfjs", epsilon: 0.01, momentum: { pytorch: 0.1, keras: 0.9 }, dtype: "F32" },
    ]);
    expect(conversionText(report)).toContain("epsilon 0.01, momentum 0.1 as PyTorch, 0.9 as Keras defines it");
    // conv/kernel is the first tensor in the shards
    const shards = Object.values(model.shards).flatMap((shard) => [...shard]);
    const kernel = tensors["conv/kernel"] as SafeTensor;
    expect(kernel).toMatchObject({ dtype: "F32", shape: [3, 3, 3, 5] });
    const { buffer, byteOffset, byteLength } = kernel.data;
    expect(new Uint8Array(buffer, byteOffset, byteLength)).toEqual(Uint8Array.from(shards.slice(0, 4 * 135)));
  });

  test("with quantised weights become float32, integers stay, and texts are told of", async () => {
    const quantization = { dtype: "uint8", scale: 0.5, min: -1 };
    const spec = (name: string, dtype: string, more: object = {}) => ({ name, shape: [2], dtype, ...more });
    const bytes = [0, 2, 4, 255, 1, 1, 0, 0, 7, 0, 0, 0, 255, 255, 255, 255];
    const model = filesOf(
      undefined,
      [
        spec("bn/moving_mean", "float32", { quantization }),
        spec("bn/moving_variance", "float32", { quantization }),
        spec("mask", "bool"),
        { ...spec("words", "string"), shape: [0] },
        { ...spec("quantised", "int32", { quantization }), shape: [2] },
        spec("index", "int32"),
      ],
      Uint8Array.from(bytes),
    );
    const { report, bytes: file } = await convert(sourceOf(model), { to: "pytorch" });
    const { tensors } = readSafetensors(await file());
    expect(Object.fromEntries(Object.entries(tensors).map(([name, t]) => [name, [t.dtype, ...numbersOf(t)]]))).toEqual({
      "bn.running_mean": ["F32", -1, 0],
      "bn.running_var": ["F32", 1, 126.5],
      mask: ["BOOL", 1, 1],
      index: ["I32", 7, -1],
    });
    expect(report.unconverted).toEqual([
      { name: "words", reason: "safetensors has no type for elements of string" },
      { name: "quantised", reason: "safetensors has no type for elements of int32 as uint8" },
    ]);
  });

  test.each(["__metadata__", "half \ud800"])(
    "with a name that safetensors cannot hold, %j, are refused",
    async (name) => {
      const weights = ["bn/moving_mean", "bn/moving_variance", name].map((text) => ({
        name: text,
        shape: [1],
        dtype: "float32",
      }));
      const promise = convert(sourceOf(filesOf(undefined, weights, new Uint8Array(12))), { to: "pytorch" });
      await expect(promise).rejects.toThrow(REFUSED);
      await expect(promise).rejects.toThrow(
        "model.json: the name of a tensor: expected one that a safetensors file can",
      );
    },
  );

  test("as graphs are refused, since their weights have no names of layers", async () => {
    const graph = filesOf({ node: [] }, [{ name: "a", shape: [1], dtype: "float32" }], new Uint8Array(4));
    await expect(convert(sourceOf(graph), { to: "pytorch" })).rejects.toThrow(REFUSED);
    await expect(convert(sourceOf(graph), { to: "pytorch" })).rejects.toThrow(/expected a layers model.*a graph model/);
  });
});

test("of 10 GB, memory holds one piece of 4 MiB at a time", async () => {
  const { head, size: total } = huge();
  const zeros = new Uint8Array(2 ** 22);
  let largest = 0;
  const file = {
    name: "huge.safetensors",
    size: total,
    async read(from: number, to: number) {
      largest = Math.max(largest, to - from);
      return to <= head.length ? head.subarray(from, to) : zeros.subarray(0, to - from);
    },
    sibling: () => Promise.reject(new Error("there is none")),
  };
  const { report, size, chunks } = await convert(file, { to: "flax", count: 1000 });
  expect(report.layers).toHaveLength(HUGE.layers);
  let written = 0;
  for await (const chunk of chunks()) written += chunk.length;
  expect(written).toBe(size);
  expect(size).toBeGreaterThan(10_000_000_000);
  expect(largest).toBe(2 ** 22);
});

describe("refused", () => {
  test("a file whose new names make the header longer than readers take", async () => {
    const tensors = { "bn.running_mean": Float32Array.of(1), "bn.running_var": Float32Array.of(1) };
    const { buffer } = writeSafetensors(tensors, { pad: "" });
    const room = 100_000_000 - Number(new DataView(buffer).getBigUint64(0, true));
    const bytes = writeSafetensors(tensors, { pad: "a".repeat(room) });
    const promise = convert(bytesSource("long.safetensors", bytes), { to: "haiku" });
    await expect(promise).rejects.toThrow(REFUSED);
    await expect(promise).rejects.toThrow(
      /^long\.safetensors: safetensors: header: expected at most 100000000 bytes, got 1000000\d\d; shorten the names/,
    );
  });

  test.each([
    [{}, TypeError, "options.to: expected a framework among pytorch"],
    [{ to: "torch" }, RangeError, "options.to"],
    [{ to: "flax", from: "tensorflow" }, RangeError, "options.from"],
    [{ to: "flax", form: "keras" }, TypeError, "convert options"],
    [{ to: "flax", count: 1 }, RangeError, "options.count: expected more than 1 value per channel, got 1"],
    [{ to: "flax", count: "8" }, TypeError, "options.count"],
    [{ to: "flax", count: { bn: Number.NaN } }, RangeError, 'options.count["bn"]'],
    [
      { to: "flax", count: { nb: 8 } },
      RangeError,
      'options.count: expected names of batch norms in the file, got "nb"',
    ],
  ])("options %j", async (options, type, text) => {
    const promise = convert(source(trained("bn", 3)), options as ConvertOptions);
    await expect(promise).rejects.toThrow(type);
    await expect(promise).rejects.toThrow(text);
  });

  test("a file without batch norms, and one without those of `from`", async () => {
    const none = convert(source({ w: new Float32Array(3) }), { to: "flax" });
    await expect(none).rejects.toThrow(REFUSED);
    await expect(none).rejects.toThrow(
      "model.safetensors: the file: expected batch norms with the names of a framework",
    );
    await expect(convert(source(trained("bn", 3)), { to: "flax", from: "keras" })).rejects.toThrow(
      "the names of keras",
    );
  });

  test("a file that is damaged", async () => {
    await expect(convert(fileOf(checkpoint("pytorch").subarray(0, 300)), { to: "flax" })).rejects.toThrow(REFUSED);
  });

  test("a file that becomes shorter while it is copied", async () => {
    const whole = fileOf(checkpoint("pytorch"));
    let isShort = false;
    const { bytes } = await convert(
      { ...whole, read: async (from, to) => (await whole.read(from, to)).subarray(0, isShort ? 1 : to) },
      { to: "flax" },
    );
    isShort = true;
    await expect(bytes()).rejects.toThrow(REFUSED);
  });
});
