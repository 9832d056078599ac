// The batch norms of ONNX files: onnx's own reader of tensors has written what they are (batch-norms.json).

import { describe, expect, it } from "vitest";
import { inspect } from "../../../src/tools/index.ts";
import { readOnnxBatchNorms } from "../../../src/tools/onnx/read.ts";
import { bytesOf, jsonOf, sourceOf } from "./onnxruntime.ts";

interface Expected {
  readonly name: string;
  readonly epsilon: number;
  readonly momentum: number;
  readonly gamma: number[];
  readonly beta: number[];
  readonly mean: number[];
  readonly variance: number[];
}

const EXPECTED = jsonOf<Record<string, Expected[]>>("batch-norms.json");

describe.each(Object.entries(EXPECTED))("the batch norms of %s", (name, expected) => {
  it("are those that onnx reads", async () => {
    const records = await readOnnxBatchNorms(sourceOf(name));
    const read = records.map((r) => ({
      name: r.name,
      epsilon: r.epsilon,
      momentum: r.momentum,
      ...Object.fromEntries((["gamma", "beta", "mean", "variance"] as const).map((k) => [k, Array.from(r[k] ?? [])])),
    }));
    const byName = (a: { name: string }, b: { name: string }) => (a.name < b.name ? -1 : 1);
    expect(read.sort(byName)).toEqual([...expected].sort(byName));
    for (const record of records)
      expect(record).toMatchObject({ format: "onnx", convention: "onnx", axis: 1, training: false });
  });
});

const [float16, float64, bfloat16] = ["float16-list", "float64", "bfloat16"];

it.each([
  ["mlp", ["float32", "float32"]],
  [float16, ["float16"]],
  [float64, ["float64"]],
  [bfloat16, ["bfloat16"]],
])("the types of %s", async (name, types) => {
  expect((await readOnnxBatchNorms(sourceOf(name))).map(({ dtype }) => dtype)).toEqual(types);
});

it.each([
  ["resnet", 0, { name: "/0/Conv", type: "Conv", channels: 6, axis: 1, isFoldable: true }],
  ["decoder", 0, { name: "/0/ConvTranspose", type: "ConvTranspose", channels: 8, axis: 1, isFoldable: true }],
  ["mlp", 0, { name: "/0/Gemm", type: "Gemm", channels: 9, axis: 1, isFoldable: true }],
  ["mlp", 1, { name: "/4/MatMul", type: "MatMul", channels: 6, axis: 1, isFoldable: true }],
  ["between", 0, { name: "c", type: "Conv", channels: 6, axis: 1, isFoldable: true }],
  ["arcface", 1, { name: "/2/Relu", type: "Relu", axis: 1, isFoldable: false }],
  ["consumers", 0, { name: "c", type: "Conv", channels: 6, axis: 1, isFoldable: false }],
  ["forward-padded", 0, undefined],
] as const)("the layer before a batch norm of %s, number %i", async (name, index, before) => {
  expect((await readOnnxBatchNorms(sourceOf(name)))[index]?.before).toEqual(before);
});

it.each([
  ["training", true],
  ["training-9", true],
  ["gemm", false],
])("the mode of %s", async (name, training) => {
  expect((await readOnnxBatchNorms(sourceOf(name)))[0]?.training).toBe(training);
});

it("values that are in the file are read where callers may override them, and shapes that are wrong are problems", async () => {
  const [overridable] = await readOnnxBatchNorms(sourceOf("overridable-mean"));
  expect([overridable?.mean?.length, overridable?.problems]).toEqual([6, undefined]);
  const [spatial] = await readOnnxBatchNorms(sourceOf("spatial"));
  expect(spatial?.problems?.[0]).toBe("gamma: expected shape [54], got [6,3,3]");
});

it("inspect finds a negative variance, and a batch norm in training mode", async () => {
  const [negative, training] = [await inspect(sourceOf("negative-variance")), await inspect(sourceOf("training"))];
  expect(negative).toMatchObject({ format: "onnx", layers: [{ name: "bn", channels: 6 }] });
  expect(negative.findings.map(({ code }) => code)).toContain("negative-variance");
  expect(training.findings.map(({ code }) => code)).toContain("training-mode");
});

it("a file is known by its first bytes, and by its name", async () => {
  const nameless = { ...sourceOf("resnet"), name: "model" };
  expect((await inspect(nameless)).layers).toHaveLength(4);
  const [version, rest] = [bytesOf("resnet.onnx").subarray(0, 2), bytesOf("resnet.onnx").subarray(2)];
  const swapped = sourceOf("swapped", new Uint8Array([...rest, ...version]));
  expect((await inspect(swapped)).layers).toHaveLength(4);
});
