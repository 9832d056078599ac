// foldPairs: batch norms of a safetensors file folded into layers that the caller names, beside PyTorch's fusion.

import { describe, expect, it } from "vitest";
import {
  readSafetensors,
  type SafetensorsDtype,
  type WritableTensor,
  writeSafetensors,
} from "../../src/interop/safetensors.ts";
import { floatsOf } from "../../src/tensor/half.ts";
import { bytesSource, findPairs, foldPairs } from "../../src/tools/index.ts";
import { roundedArray } from "../../src/tools/rounding.ts";
import { differenceOf, type Encoded, jsonOf } from "./onnx/onnxruntime.ts";

const STATE = jsonOf<Record<string, Encoded>>("pairs.json");
const FUSED = jsonOf<Record<string, Record<"weight" | "bias", Encoded>>>("fused.json");

const DTYPES = { F32: "float32", F64: "float64", F16: "float16", BF16: "bfloat16" } as const;

/** Returns a safetensors file of PyTorch's state, its floats in a type. */
function fileOf(
  dtype: keyof typeof DTYPES = "F32",
  change: (tensors: Record<string, WritableTensor>) => void = () => {},
) {
  const tensors: Record<string, WritableTensor> = {};
  for (const [name, { dims, data }] of Object.entries(STATE))
    tensors[name] = name.endsWith("num_batches_tracked")
      ? 3
      : { data: roundedArray(Float64Array.from(data), DTYPES[dtype]), shape: dims, dtype: dtype as SafetensorsDtype };
  change(tensors);
  return writeSafetensors(tensors, { format: "pt" });
}

const sourceOf = (bytes: Uint8Array) => bytesSource("model.safetensors", bytes);

const pairOf = (layer: string) => ({ layer, batchNorm: `${layer}_bn` });

describe("foldPairs", () => {
  it.each(["conv", "linear"])("gives the weights of PyTorch's fusion: %s", async (name) => {
    const { model, report } = await foldPairs(sourceOf(fileOf()), { pairs: [pairOf(name)] });
    const { tensors, metadata } = readSafetensors(model);
    for (const part of ["weight", "bias"] as const) {
      const expected = FUSED[name]?.[part] as Encoded;
      const tensor = tensors[`${name}.${part}`];
      expect([tensor?.shape, tensor?.dtype]).toEqual([expected.dims, "F32"]);
      expect(differenceOf(Array.from(tensor?.data as Float32Array), expected.data)).toBeLessThan(4 * 2 ** -24);
    }
    expect(report.folded).toMatchObject([{ batchNorm: `${name}_bn`, into: [name], direction: "backward" }]);
    expect(report.kept).toContainEqual({ batchNorm: "transposed_bn", reason: "no pair names it" });
    expect(metadata).toEqual({ format: "pt" });
  });

  it("removes the batch norm, gives the layer a bias, and leaves other tensors as they are", async () => {
    const bytes = fileOf("F32", (tensors) => delete tensors["conv.bias"]);
    const before = readSafetensors(bytes).tensors;
    const after = readSafetensors((await foldPairs(sourceOf(bytes), { pairs: [pairOf("conv")] })).model).tensors;
    const rest = Object.keys(before).filter((name) => !name.startsWith("conv"));
    expect(Object.keys(after).sort()).toEqual([...rest, "conv.weight", "conv.bias"].sort());
    for (const name of rest) expect(after[name]).toEqual(before[name]);
    expect(after["conv.bias"]?.shape).toEqual([6]);
  });

  it.each(["F64", "F16", "BF16"] as const)("rounds once to the type of the weight: %s", async (dtype) => {
    const file = fileOf(dtype);
    const { model } = await foldPairs(sourceOf(file), { pairs: [pairOf("linear")], tolerance: 1 });
    const folded = readSafetensors(model).tensors["linear.weight"];
    expect(folded?.dtype).toBe(dtype);
    // widened to float64 in the file, folding has the same numbers to round
    const wide = readSafetensors(file).tensors;
    const f64 = fileOf("F64", (tensors) => {
      for (const [name, { data, shape, dtype: own }] of Object.entries(wide))
        if (own !== "I64")
          tensors[name] = { data: Float64Array.from(floatsOf(data, own) as ArrayLike<number>), shape, dtype: "F64" };
    });
    const exact = readSafetensors((await foldPairs(sourceOf(f64), { pairs: [pairOf("linear")] })).model).tensors;
    const numbers = exact["linear.weight"]?.data as Float64Array;
    expect(Array.from(folded?.data as Float64Array)).toEqual(Array.from(roundedArray(numbers, DTYPES[dtype])));
  });

  it("takes epsilon, which the file does not have, and a tolerance", async () => {
    const weightOf = async (epsilon?: number) => {
      const { model } = await foldPairs(sourceOf(fileOf()), {
        pairs: [pairOf("conv")],
        ...(epsilon !== undefined && { epsilon }),
      });
      return readSafetensors(model).tensors["conv.weight"]?.data;
    };
    expect(await weightOf()).toEqual(await weightOf(1e-5));
    expect(await weightOf()).not.toEqual(await weightOf(1e-3));
    const { report, model } = await foldPairs(sourceOf(fileOf()), { pairs: [pairOf("conv")], tolerance: 0 });
    expect(report.folded).toEqual([]);
    expect(report.kept[0]?.reason).toMatch(/^folding backward loses digits/);
    expect(model).toEqual(fileOf());
  });

  it.each<[string, readonly { layer: string; batchNorm: string }[], RegExp]>([
    [
      "a batch norm that is not there",
      [{ layer: "conv", batchNorm: "bn" }],
      /the pair conv:bn: expected a batch norm bn with PyTorch's names, got none/,
    ],
    [
      "a layer that is not there",
      [{ layer: "cnv", batchNorm: "conv_bn" }],
      /the pair cnv:conv_bn: expected a tensor cnv\.weight of floats, got none/,
    ],
    [
      "one batch norm twice",
      [pairOf("conv"), { layer: "linear", batchNorm: "conv_bn" }],
      /expected layers and batch norms that are in one pair each, got "conv_bn"/,
    ],
    [
      "a transposed convolution",
      [pairOf("transposed")],
      /expected a weight \[6, …\] for 6 channels, and vectors of that length, got \[4, 6, 3, 3\]/,
    ],
  ])("refuses %s", async (_, pairs, message) => {
    const error = await foldPairs(sourceOf(fileOf()), { pairs }).then(
      () => undefined,
      (reason: unknown) => reason,
    );
    expect(error).toMatchObject({
      name: "BatchNormError",
      code: "model-file",
      message: expect.stringMatching(message),
    });
  });
});

describe("findPairs", () => {
  /** Returns a file of layers, [name, outputs], and of batch norms. */
  const files = (
    layers: readonly (readonly [string, number])[],
    batchNorms: readonly (readonly [string, number])[],
  ) => {
    const tensors: Record<string, WritableTensor> = {};
    for (const [name, outputs] of layers)
      tensors[`${name}.weight`] = { data: new Float32Array(outputs * 2), shape: [outputs, 2] };
    for (const [name, channels] of batchNorms)
      for (const part of ["weight", "bias", "running_mean", "running_var"])
        tensors[`${name}.${part}`] = { data: new Float32Array(channels), shape: [channels] };
    return sourceOf(writeSafetensors(tensors));
  };
  const found = async (...args: Parameters<typeof files>) =>
    (await findPairs(files(...args))).map(({ layer, batchNorm }) => `${layer}:${batchNorm}`);

  it("finds layers by the usual names", async () => {
    const layers = [
      "layer1.0.conv1",
      "layer1.0.downsample.0",
      "features.conv0",
      "block.conv",
      "conv1",
      "head.fc2",
      "proj",
    ];
    const batchNorms = [
      "layer1.0.bn1",
      "layer1.0.downsample.1",
      "features.norm0",
      "block.bn",
      "conv1_bn",
      "head.bn2",
      "proj_batch_norm",
    ];
    expect(
      (
        await found(
          layers.map((n) => [n, 3]),
          batchNorms.map((n) => [n, 3]),
        )
      ).sort(),
    ).toEqual(layers.map((layer, i) => `${layer}:${batchNorms[i]}`).sort());
  });

  it("leaves out what does not match by shape, and takes no layer twice", async () => {
    expect(await found([["conv1", 4]], [["bn1", 3]])).toEqual([]);
    expect(
      await found(
        [["conv", 3]],
        [
          ["bn", 3],
          ["norm", 3],
        ],
      ),
    ).toEqual(["conv:bn"]);
    expect(
      await found(
        [["layers.0", 3]],
        [
          ["layers.2", 3],
          ["other", 3],
        ],
      ),
    ).toEqual([]);
  });
});
