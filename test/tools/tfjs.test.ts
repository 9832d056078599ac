// Batch norms of TF.js models: layers models as TF.js saves them, quantised weights, graph models, and damaged files.

import * as tf from "@tensorflow/tfjs-core";
import {
  input as inputOf,
  type LayersModel,
  layers,
  model as modelOf,
  type SymbolicTensor,
  sequential,
} from "@tensorflow/tfjs-layers";
import { beforeAll, describe, expect, test } from "vitest";
import { readTfjsBatchNorms } from "../../src/tools/formats/tfjs/index.ts";
import { bytesSource, type Finding, type InspectionReport, inspect } from "../../src/tools/index.ts";
import { normal } from "../support/worlds.ts";
import "../support/tfjs.ts";
import { type Files, filesOf, graphFiles, type Json, saved, sourceOf } from "./tfjs-models.ts";

const REFUSED = expect.objectContaining({ name: "BatchNormError", code: "model-file" }) as Error;
const codesOf = ({ findings }: InspectionReport, layer?: string) =>
  findings.filter((finding) => !layer || finding.layer === layer).map(({ code }: Finding) => code);

beforeAll(() => tf.setBackend("cpu"));

/** Gives every batch norm of a model the statistics of a trained one. */
function train(model: LayersModel): LayersModel {
  for (const [i, layer] of model.layers.entries())
    if (layer.getClassName() === "BatchNormalization") {
      const [gamma, beta, mean] = layer.getWeights().map(({ size }) => tf.tensor1d(normal(i + 1, size)));
      const positive = (t: tf.Tensor | undefined, seed: number) => tf.add(tf.abs(normal(seed, t?.size ?? 0)), 0.5);
      layer.setWeights([positive(gamma, i), beta as tf.Tensor, mean as tf.Tensor, positive(gamma, i + 50)]);
    }
  return model;
}

const norm = (name: string, more: object = {}) => layers.batchNormalization({ name, ...more });

describe("a layers model", () => {
  const chain = () =>
    train(
      sequential({
        layers: [
          layers.conv2d({ filters: 5, kernelSize: 3, inputShape: [8, 8, 3], name: "conv" }),
          norm("folds"),
          layers.depthwiseConv2d({ kernelSize: 3, depthMultiplier: 2, name: "depthwise", activation: "relu" }),
          norm("behind_relu", { momentum: 0.1, epsilon: 0.5 }),
          layers.flatten(),
          layers.dense({ units: 7, name: "dense" }),
          norm("of_dense"),
        ],
      }),
    );

  test("has the values of TF.js, across the ends of shards, and its configurations", async () => {
    const model = chain();
    const records = await readTfjsBatchNorms(sourceOf(await saved(model, 13)));
    expect(records.map(({ name }) => name)).toEqual(["folds", "behind_relu", "of_dense"]);
    for (const record of records) {
      const values = model
        .getLayer(record.name)
        .getWeights()
        .map((t) => Array.from(t.dataSync()));
      expect([record.gamma, record.beta, record.mean, record.variance].map((v) => Array.from(v ?? []))).toEqual(values);
      expect(record).toMatchObject({ format: "tfjs", convention: "tfjs", dtype: "float32" });
    }
    expect(records.map(({ epsilon, momentum, channels }) => [epsilon, momentum, channels])).toEqual([
      [0.001, 0.99, 5],
      [0.5, 0.1, 10],
      [0.001, 0.99, 7],
    ]);
    expect(records.map(({ before, axis }) => [axis, before])).toEqual([
      [3, { name: "conv", type: "Conv2D", channels: 5, axis: 3, isFoldable: true }],
      [3, { name: "depthwise", type: "DepthwiseConv2D", channels: 10, axis: 3, isFoldable: false }],
      [-1, { name: "dense", type: "Dense", channels: 7, isFoldable: true }],
    ]);
  });

  test("has findings of its configurations", async () => {
    const report = await inspect(sourceOf(await saved(chain())));
    expect(codesOf(report, "folds")).toEqual(["not-folded"]);
    expect(codesOf(report, "behind_relu")).toEqual(["large-epsilon", "other-momentum"]);
    expect(report.layers.map(({ momentum }) => momentum)).toEqual([
      { pytorch: 0.01, keras: 0.99 },
      { pytorch: 0.9, keras: 0.1 },
      { pytorch: 0.01, keras: 0.99 },
    ]);
    expect(report.layers.map(({ isEpsilonAssumed }) => isEpsilonAssumed)).toEqual([false, false, false]);
  });

  test("that never trained has that finding, and is not to be folded into what two layers use", async () => {
    const x = inputOf({ shape: [8, 8, 3] });
    const y = layers.conv2d({ filters: 4, kernelSize: 1, name: "shared" }).apply(x) as SymbolicTensor;
    const z = norm("bn").apply(y) as SymbolicTensor;
    const sum = layers.add().apply([y, z]) as SymbolicTensor;
    const report = await inspect(sourceOf(await saved(modelOf({ inputs: x, outputs: sum }))));
    expect(codesOf(report)).toEqual(["never-trained"]);
    expect(report.layers[0]?.before).toMatchObject({ name: "shared", isFoldable: false });
  });

  test("over another axis than the layer before, or with other channels, has these findings", async () => {
    const { model, shards } = await saved(chain());
    const list: Json[] = model.modelTopology.config.layers;
    const config = (name: string) => list.find((layer) => layer.config.name === name).config;
    config("folds").axis = [1]; // as tf.keras writes it
    config("dense").units = 8;
    const report = await inspect(sourceOf({ model, shards }));
    expect(codesOf(report, "folds")).toContain("axis-differs");
    expect(codesOf(report, "of_dense")).toContain("channels-differ");
    config("folds").axis = -1;
    expect(codesOf(await inspect(sourceOf({ model, shards })), "folds")).toEqual(["not-folded"]);
  });

  test("inside a model and a wrapper is found, and so is a layer without values", async () => {
    const inner = chain();
    const { model, shards } = await saved(
      train(sequential({ layers: [inner, layers.dense({ units: 2 }), norm("last")] })),
    );
    const report = await inspect(sourceOf({ model, shards }));
    expect(report.layers.map(({ name }) => name)).toEqual(["folds", "behind_relu", "of_dense", "last"]);
    expect(codesOf(report, "behind_relu")).toContain("large-epsilon");
    model.modelTopology.config.layers.push({
      class_name: "TimeDistributed",
      config: {
        name: "wrapper",
        layer: { class_name: "BatchNormalization", config: { name: "wrapped", epsilon: 0.2 } },
      },
    });
    const wrapped = await inspect(sourceOf({ model, shards }));
    expect(codesOf(wrapped, "wrapped")).toEqual(["incomplete", "large-epsilon"]);
  });

  test("of Keras 3 names the layers before in objects", async () => {
    const { model, shards } = await saved(chain());
    const list: Json[] = model.modelTopology.config.layers;
    model.modelTopology.class_name = "Functional";
    for (const [i, layer] of list.entries()) {
      const history = [list[i - 1]?.config.name, 0, 0];
      layer.inbound_nodes = i
        ? [{ args: [{ class_name: "__keras_tensor__", config: { keras_history: history } }], kwargs: {} }]
        : [];
    }
    const records = await readTfjsBatchNorms(sourceOf({ model, shards }));
    expect(records.map(({ before }) => before?.name)).toEqual(["conv", "depthwise", "dense"]);
    expect(records.map(({ before }) => before?.isFoldable)).toEqual([true, false, true]);
  });

  test("as a manifest alone is read with the framework's defaults", async () => {
    const { model, shards } = await saved(chain());
    const source = bytesSource(
      "weights_manifest.json",
      new TextEncoder().encode(`\n ${JSON.stringify(model.weightsManifest)}`),
      shards,
    );
    const { layers: found } = await inspect(source);
    expect(found.map(({ name, epsilon, isEpsilonAssumed }) => [name, epsilon, isEpsilonAssumed])).toEqual(
      ["folds", "behind_relu", "of_dense"].map((name) => [name, 0.001, true]),
    );
  });
});

describe("quantised weights", () => {
  const weights = (quantization: object, dtype = "float32") =>
    ["moving_mean", "moving_variance"].map((part) => ({ name: `bn/${part}`, shape: [2], dtype, quantization }));

  test.each([
    ["uint8", Uint8Array.of(0, 255, 3, 4), 0.5, -1, [-1, 126.5, 0.5, 1]],
    ["uint16", Uint16Array.of(0, 65535, 3, 4), 0.1, 2, [2, 65535 * 0.1 + 2, 3 * 0.1 + 2, 4 * 0.1 + 2]],
    ["float16", Uint16Array.of(0x3c00, 0xc000, 0x3800, 0x3c00), undefined, undefined, [1, -2, 0.5, 1]],
  ])("to %s", async (dtype, stored, scale, min, expected) => {
    const bytes = new Uint8Array(stored.buffer);
    const [record] = await readTfjsBatchNorms(sourceOf(filesOf(undefined, weights({ dtype, scale, min }), bytes, 3)));
    expect([...(record?.mean ?? []), ...(record?.variance ?? [])]).toEqual(expected.map(Math.fround));
    expect(record?.dtype).toBe(`float32 as ${dtype}`);
  });

  test("behind texts and integers, which have other lengths", async () => {
    const bytes = Uint8Array.of(3, 0, 0, 0, 97, 98, 99, 0, 0, 0, 0, 9, 9, 9, 9, 1, 2, 3, 4);
    const before = [
      { name: "words", shape: [2], dtype: "string" },
      { name: "step", shape: [], dtype: "int32" },
    ];
    const files = filesOf(undefined, [...before, ...weights({ dtype: "uint8", scale: 1, min: 0 })], bytes, 5);
    const [record] = await readTfjsBatchNorms(sourceOf(files));
    expect([...(record?.mean ?? []), ...(record?.variance ?? [])]).toEqual([1, 2, 3, 4]);
  });
});

describe("a graph model", () => {
  const vectors = (prefix: string) =>
    ["gamma", "beta", "mean", "variance"].map((part, i) => [`${prefix}/${part}`, [2], [i + 0.5, i + 1]] as const);
  const inputs = (x: string) => [x, ...vectors("bn").map(([name]) => name)];
  const fused = (x: string, attr: object = {}, op = "FusedBatchNormV3") => ({
    name: "bn",
    op,
    input: inputs(x),
    attr: { epsilon: { f: 0.01 }, is_training: { b: false }, data_format: { s: btoa("NHWC") }, ...attr },
  });
  const conv = { name: "conv", op: "Conv2D", input: ["x", "kernel"], attr: { data_format: { s: btoa("NHWC") } } };
  const kernel = ["kernel", [1, 1, 3, 2], [1, 2, 3, 4, 5, 6]] as const;
  const graph = (nodes: Json[]) => graphFiles([{ name: "x", op: "Placeholder" }, ...nodes], [...vectors("bn"), kernel]);

  test("has the batch norm's values, epsilon, and the convolution before it", async () => {
    const [record] = await readTfjsBatchNorms(sourceOf(graph([conv, fused("conv:0")])));
    expect(record).toEqual({
      ...{ name: "bn", format: "tfjs", convention: "tfjs", channels: 2, dtype: "float32", epsilon: 0.01, axis: 3 },
      training: false,
      gamma: Float64Array.of(0.5, 1),
      beta: Float64Array.of(1.5, 2),
      mean: Float64Array.of(2.5, 3),
      variance: Float64Array.of(3.5, 4),
      before: { name: "conv", type: "Conv2D", channels: 2, axis: 3, isFoldable: true },
    });
  });

  test("is followed through identities and the bias of the convolution", async () => {
    const nodes = [
      { ...conv, input: ["x", "same"] },
      { name: "same", op: "Identity", input: ["kernel", "^x"] },
      { name: "bias", op: "BiasAdd", input: ["conv", "bn/beta"] },
      fused("bias", {}, "FusedBatchNorm"),
    ];
    const report = await inspect(sourceOf(graph(nodes)));
    expect(report.layers[0]?.before).toEqual({ name: "conv", type: "Conv2D", channels: 2, axis: 3, isFoldable: true });
    expect(codesOf(report)).toEqual(["not-folded"]);
  });

  test("of which the convolution has two uses, other channels or another axis", async () => {
    const more = { name: "relu", op: "Relu", input: ["conv"] };
    expect(codesOf(await inspect(sourceOf(graph([conv, more, fused("conv")]))))).toEqual([]);
    const depthwise = { ...conv, op: "DepthwiseConv2dNative" };
    const wrong = await inspect(sourceOf(graph([depthwise, fused("conv", { data_format: { s: "NCHW" } })])));
    expect(codesOf(wrong)).toEqual(["axis-differs", "channels-differ"]);
    expect(wrong.findings[1]?.message).toContain("2 channels, and DepthwiseConv2dNative conv before it has 6");
  });

  test("in training mode has that finding and no others of its empty statistics", async () => {
    expect(codesOf(await inspect(sourceOf(graph([conv, fused("conv", { is_training: { b: true } })]))))).toEqual([
      "training-mode",
    ]);
  });

  test("whose statistics are computed is incomplete", async () => {
    const nodes = [{ name: "computed", op: "Mul", input: ["bn/mean", "bn/mean"] }, fused("x")];
    (nodes[1] as Json).input[3] = "computed";
    const { findings } = await inspect(sourceOf(graph(nodes)));
    expect(findings).toEqual([expect.objectContaining({ code: "incomplete", message: "mean is not in the weights" })]);
  });

  test("that refers to itself ends", async () => {
    const nodes = [{ name: "loop", op: "Identity", input: ["loop"] }, fused("loop")];
    (nodes[1] as Json).input[1] = "loop";
    expect(codesOf(await inspect(sourceOf(graph(nodes))))).toEqual(["incomplete"]);
  });
});

describe("refused with the file's name and the place", () => {
  const vector = (part: string, more: object = {}) => ({ name: `bn/${part}`, shape: [2], dtype: "float32", ...more });
  const good = () => filesOf(undefined, [vector("moving_mean"), vector("moving_variance")], new Uint8Array(16), 10);
  const changed = (change: (model: Json, files: Files) => void) => {
    const files = good();
    change(files.model, files);
    return files;
  };
  const group = (model: Json) => model.weightsManifest[0];

  test("the file without changes is read", async () => {
    expect((await inspect(sourceOf(good()))).layers).toHaveLength(1);
  });

  const nested = (depth: number): Json =>
    depth ? { class_name: "Sequential", config: { layers: [nested(depth - 1)] } } : { class_name: "Dense", config: {} };

  test.each<[string, Files, string]>([
    [
      "a shard that is missing",
      changed((_, { shards }) => delete shards["group1-shard2of2.bin"]),
      "the file group1-shard2of2.bin beside it",
    ],
    [
      "a shard that is cut",
      changed((_, { shards }) => Object.assign(shards, { "group1-shard2of2.bin": new Uint8Array(5) })),
      'the weight "bn/moving_variance": expected bytes 8 to 16 of its shards',
    ],
    [
      "a shard that is too long",
      changed((_, { shards }) => Object.assign(shards, { "group1-shard2of2.bin": new Uint8Array(7) })),
      "16 bytes in the shards of a group, got 17",
    ],
    ["a shard outside of the folder", changed((m) => Object.assign(group(m), { paths: ["../secret"] })), "inside it"],
    ["a shard without a name", changed((m) => Object.assign(group(m), { paths: [null] })), "inside it"],
    [
      "10,000 shards",
      changed((m) => Object.assign(group(m), { paths: Array(10_000).fill("group1-shard1of2.bin") })),
      "at most 4096 shards",
    ],
    [
      "a shape of 2^60",
      changed((m) => Object.assign(group(m).weights[0], { shape: [2 ** 30, 2 ** 30] })),
      "fewer than 2^53",
    ],
    ["a shape of 2^50", changed((m) => Object.assign(group(m).weights[0], { shape: [2 ** 50] })), "of its shards"],
    [
      "a negative shape",
      changed((m) => Object.assign(group(m).weights[0], { shape: [-2] })),
      "a shape of non-negative integers",
    ],
    ["an unknown dtype", changed((m) => Object.assign(group(m).weights[0], { dtype: "float8" })), "a dtype among"],
    [
      "a dtype of a prototype",
      changed((m) => Object.assign(group(m).weights[0], { dtype: "toString" })),
      "a dtype among",
    ],
    [
      "an unknown quantization",
      changed((m) => Object.assign(group(m).weights[0], { quantization: { dtype: "int4" } })),
      "a quantization to",
    ],
    [
      "a quantization without numbers",
      changed((m) => Object.assign(group(m).weights[0], { quantization: { dtype: "uint8", scale: "1" } })),
      "numbers scale and min",
    ],
    [
      "texts that the shards do not hold",
      changed((m) => Object.assign(group(m).weights[0], { dtype: "string", shape: [2 ** 40] })),
      "texts in 16 bytes",
    ],
    ["a manifest that is no list", changed((m) => Object.assign(m, { weightsManifest: {} })), "a list of groups"],
    [
      "groups that are none",
      changed((m) => Object.assign(m, { weightsManifest: [7] })),
      "groups with paths and weights",
    ],
    ["other JSON", { model: { name: "package" }, shards: {} }, "a TF.js model with weightsManifest"],
    [
      "a topology that is no model",
      changed((m) => Object.assign(m, { modelTopology: { config: 7 } })),
      "a list of layers",
    ],
    [
      "models inside each other without an end",
      changed((m) => Object.assign(m, { modelTopology: nested(200) })),
      "at most 32 models",
    ],
    ["a graph without a list", changed((m) => Object.assign(m, { modelTopology: { node: {} } })), "a list of nodes"],
    ["nodes that are none", changed((m) => Object.assign(m, { modelTopology: { node: [{}] } })), "name, op and input"],
  ])("%s", async (_, files, text) => {
    const reading = inspect(sourceOf(files));
    await expect(reading).rejects.toThrow(REFUSED);
    await expect(reading).rejects.toThrow(text);
    await expect(reading).rejects.toThrow(/^(model\.json|group1)/);
  });

  test("what is no JSON", async () => {
    const reading = inspect(bytesSource("model.json", new TextEncoder().encode('{"a": [1, 2')));
    await expect(reading).rejects.toThrow("model.json: the file: expected JSON, got");
  });
});
