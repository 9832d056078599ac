// What an inspection finds, and what it does not find in a healthy checkpoint.

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { BatchNorm, writeSafetensors } from "../../src/index.ts";
import {
  type BatchNormError,
  blobSource,
  bytesSource,
  type FindingCode,
  inspect,
  type Severity,
  textReport,
} from "../../src/tools/index.ts";
import { bits, file, filled, source, type Tensors, trained, withValue } from "./checkpoints.ts";

const bn = trained("layer1.0.bn1", 4);
const name = (part: string) => `layer1.0.bn1.${part}`;
const VARIANCE = bn[name("running_var")] as Float32Array;

/** The codes that an inspection finds, with their severities. */
async function found(tensors: Tensors): Promise<string[]> {
  const { findings } = await inspect(source(tensors));
  for (const { layer, message, remedy } of findings) {
    expect(layer).not.toBe("");
    expect(message.length).toBeGreaterThan(10);
    expect(remedy.length).toBeGreaterThan(10);
  }
  return findings.map(({ severity, code }) => `${severity} ${code}`);
}

/** Rejects with a BatchNormError "model-file" whose message has these texts. */
async function refuses(inspection: Promise<unknown>, ...texts: string[]): Promise<void> {
  const error: BatchNormError = await inspection.then(
    () => expect.fail("was read"),
    (reason) => reason,
  );
  expect(error).toMatchObject({ name: "BatchNormError", code: "model-file" });
  for (const text of texts) expect(error.message).toContain(text);
}

describe("a layer", () => {
  test("that is trained has no findings, and its numbers in the report", async () => {
    const { file, format, layers, findings } = await inspect(source(bn));
    expect(findings).toEqual([]);
    expect([file, format]).toEqual(["model.safetensors", "safetensors"]);
    const sorted = VARIANCE.slice().sort();
    const mean = bn[name("running_mean")] as Float32Array;
    const ratios = Array.from(mean, (m, c) => Math.abs(m) / Math.sqrt((VARIANCE[c] as number) + 1e-5));
    expect(layers).toEqual([
      {
        name: "layer1.0.bn1",
        ...{ convention: "pytorch", channels: 4, dtype: "F32", epsilon: 1e-5, isEpsilonAssumed: true, batches: 1000 },
        variance: {
          least: sorted[0],
          median: ((sorted[1] as number) + (sorted[2] as number)) / 2,
          largest: sorted[3],
        },
        gamma: expect.objectContaining({ least: Math.min(...(bn[name("weight")] as Float32Array)) }),
        ...{ dead: [], weak: [], largestMean: Math.max(...ratios) },
      },
    ]);
  });

  const CASES: Readonly<Record<string, readonly [tensors: Tensors, found: readonly `${string} ${FindingCode}`[]]>> = {
    "with NaN in the mean": [withValue(bn, name("running_mean"), 2, Number.NaN), ["error non-finite"]],
    "with NaN in the variance": [withValue(bn, name("running_var"), 0, Number.NaN), ["error non-finite"]],
    "with infinity in gamma": [withValue(bn, name("weight"), 3, Number.POSITIVE_INFINITY), ["error non-finite"]],
    "with a negative variance": [withValue(bn, name("running_var"), 1, -1e-9), ["error negative-variance"]],
    "that never trained": [
      filled(filled(bn, name("running_mean"), 0), name("running_var"), 1),
      ["error never-trained"],
    ],
    "with a mean of 0 and one variance that is not 1": [
      withValue(filled(filled(bn, name("running_mean"), 0), name("running_var"), 1), name("running_var"), 3, 1.01),
      [],
    ],
    "with a variance below epsilon, and not below epsilon/99": [
      withValue(bn, name("running_var"), 1, 9e-6),
      // the channel's mean is far from 0 in standard deviations of 0.004
      ["warning variance-below-epsilon"],
    ],
    "with a variance below epsilon/99": [
      withValue(withValue(bn, name("running_var"), 1, 1e-7), name("running_mean"), 1, 0),
      ["warning variance-below-epsilon", "info dead-channels"],
    ],
    "with a gamma of 0": [withValue(bn, name("weight"), 1, 0), ["info dead-channels"]],
    "with a gamma near 0": [withValue(bn, name("weight"), 1, 1e-4), ["info gamma-near-zero"]],
    "with a mean that folding does not survive": [
      withValue(bn, name("running_mean"), 1, 2000),
      ["warning ill-conditioned"],
    ],
    "without a variance": [
      Object.fromEntries(Object.entries(bn).filter(([key]) => key !== name("running_var"))),
      ["error incomplete"],
    ],
    "with a gamma of another length": [
      { ...bn, [name("weight")]: new Float32Array(5).fill(1) },
      ["error wrong-length"],
    ],
    "with a gamma that is no vector": [
      { ...bn, [name("weight")]: { data: new Float32Array(4).fill(1), shape: [2, 2] } },
      ["error incomplete"],
    ],
    "with integers as a mean": [{ ...bn, [name("running_mean")]: new Int32Array(4) }, ["error incomplete"]],
  };

  test.each(Object.entries(CASES))("%s", async (_, [tensors, expected]) => {
    expect(await found(tensors)).toEqual(expected);
  });

  test("whose count of batches is another than that of most layers", async () => {
    const { findings } = await inspect(
      source({ ...bn, ...trained("bn2", 4, 2), ...trained("bn3", 4, 3), "bn3.num_batches_tracked": 7 }),
    );
    expect(findings).toEqual([expect.objectContaining({ severity: "warning", code: "counts-differ", layer: "bn3" })]);
    expect(findings[0]?.message).toContain("of 7 batches, those of most layers of 1000");
  });
});

describe("names", () => {
  const vectors = (...names: string[]): Tensors =>
    Object.fromEntries(names.map((key, i) => [key, Float32Array.from([1, 2, 3], (v) => v + i)]));
  const CASES: readonly (readonly [convention: string, name: string, tensors: Tensors])[] = [
    ["pytorch", "(top level)", vectors("running_mean", "running_var", "weight", "bias")],
    ["pytorch", "module.bn", vectors("module.bn.running_mean", "module.bn.running_var")],
    // the path of a variable in Keras 3
    ["keras", "conv1/bn_1", vectors("conv1/bn_1/moving_mean", "conv1/bn_1/moving_variance", "conv1/bn_1/gamma")],
    ["keras", "conv1/bn", vectors("conv1/bn/moving_mean:0", "conv1/bn/moving_variance:0", "conv1/bn/gamma:0")],
    [
      "flax",
      "block/BatchNorm_0",
      vectors(
        "batch_stats/block/BatchNorm_0/mean",
        "batch_stats/block/BatchNorm_0/var",
        "params/block/BatchNorm_0/scale",
      ),
    ],
    ["flax", "block.norm", vectors("batch_stats.block.norm.mean", "batch_stats.block.norm.var")],
    [
      "haiku",
      "resnet/bn",
      vectors("state/resnet/bn/~/mean_ema/average", "state/resnet/bn/~/var_ema/average", "params/resnet/bn/scale"),
    ],
    ["onnx", "bn", vectors("bn.input_mean", "bn.input_var", "bn.scale", "bn.B")],
  ];

  test.each(CASES)("of %s: %s", async (convention, name, tensors) => {
    const { layers, findings } = await inspect(source(tensors));
    expect(findings).toEqual([]);
    expect(layers).toEqual([expect.objectContaining({ convention, name, channels: 3 })]);
    const hasGamma = Object.keys(tensors).length > 2;
    expect(layers[0]?.gamma !== undefined).toBe(hasGamma);
    expect(layers[0]?.variance).toEqual({ least: 2, median: 3, largest: 4 });
  });

  test("that a layer of this library saves in every framework's way are found", async () => {
    for (const framework of ["pytorch", "keras", "tfjs", "onnx", "flax", "haiku"] as const) {
      const layer = new BatchNorm(3);
      layer.runningMean?.set([1, 2, 3]);
      const bytes = writeSafetensors(layer.stateDict({ framework, prefix: "a/bn" }));
      const { layers, findings } = await inspect(bytesSource(framework, bytes));
      expect(layers.map((found) => [found.convention, found.name])).toEqual([
        [framework === "tfjs" ? "keras" : framework, "a/bn"],
      ]);
      expect(findings).toEqual([]);
    }
  });

  test("are sorted with numbers by value", async () => {
    const { layers } = await inspect(source({ ...trained("l.10.bn", 2), ...trained("l.9.bn", 2) }));
    expect(layers.map((layer) => layer.name)).toEqual(["l.9.bn", "l.10.bn"]);
  });

  test("of layer norms, convolutions and statistics of data are no batch norms", async () => {
    const tensors: Tensors = {
      ...vectors("ln.weight", "ln.bias", "normalizer.mean", "normalizer.std"),
      "stats.mean": new Float32Array(3),
      "stats.var": new Float32Array(4),
      "conv.weight": { data: new Float32Array(36), shape: [4, 1, 3, 3] },
    };
    const report = await inspect(source(tensors));
    expect(report.layers).toEqual([]);
    expect(textReport(report)).toBe("model.safetensors (safetensors), 0 batch norms: 0 errors, 0 warnings, 0 info\n");
  });
});

describe("a checkpoint in several files", () => {
  const shards = {
    // a batch norm across two files
    "model-00001-of-00002.safetensors": file(
      Object.fromEntries(Object.entries(bn).filter(([key]) => /mean|weight/.test(key))),
    ),
    "model-00002-of-00002.safetensors": file({
      ...Object.fromEntries(Object.entries(bn).filter(([key]) => !/mean|weight/.test(key))),
      ...trained("bn2", 2),
    }),
  };
  const index = (map: unknown, files: Record<string, Uint8Array> = shards) =>
    bytesSource("model.safetensors.index.json", new TextEncoder().encode(JSON.stringify({ weight_map: map })), files);
  const map = {
    [name("running_mean")]: "model-00001-of-00002.safetensors",
    [name("running_var")]: "model-00002-of-00002.safetensors",
  };

  test("has the batch norms of all", async () => {
    const { format, layers, findings } = await inspect(index(map));
    expect([format, findings]).toEqual(["safetensors", []]);
    expect(layers.map((layer) => layer.name)).toEqual(["bn2", "layer1.0.bn1"]);
    expect(layers[1]).toEqual((await inspect(source(bn))).layers[0]);
  });

  test.each<[string, Parameters<typeof index>, string]>([
    ["an index without names", [7], "weight_map: expected an object"],
    ["a file outside of the folder", [{ a: "../secret.safetensors" }], "inside it"],
    ["a file without a name", [{ a: 7 }], "inside it"],
    ["a file that is missing", [map, {}], "the file model-00001-of-00002.safetensors beside it"],
    ["a tensor that is missing", [{ ...map, b: map[name("running_var")] }], "the tensor b in model-00002"],
  ])("is refused with %s", async (_, files, text) => {
    await refuses(inspect(index(...files)), "model.safetensors.index.json: ", text);
  });
});

test("16-bit floats are read as what they are", async () => {
  const layer = (dtype: "F16" | "BF16", one: number, two: number): Tensors => ({
    "bn.running_mean": bits(dtype, [one, two]),
    "bn.running_var": bits(dtype, [two, one]),
  });
  for (const tensors of [layer("F16", 0x3c00, 0x4000), layer("BF16", 0x3f80, 0x4000)]) {
    const { layers } = await inspect(source(tensors));
    expect(layers[0]?.variance).toEqual({ least: 1, median: 1.5, largest: 2 });
    expect(layers[0]?.largestMean).toBeCloseTo(2, 4);
  }
});

test("the parts of a Blob are read", async () => {
  const blob = new Blob([file(bn) as Uint8Array<ArrayBuffer>]);
  expect((await inspect(blobSource(blob))).layers).toEqual((await inspect(source(bn))).layers);
});

describe("refused with the file's name, the place and the remedy", () => {
  const whole = file(bn);
  test.each([
    ["an empty file", new Uint8Array(0), "an empty file"],
    ["another format", new TextEncoder().encode("<!doctype html><html>"), "got something else"],
    ["a pointer of Git LFS", new TextEncoder().encode("version https://git-lfs.github.com/spec/v1"), "git lfs pull"],
    ["a file that ends in the header", whole.subarray(0, 100), "header: expected at most 92 bytes"],
    ["a file that ends in the data", whole.subarray(0, whole.length - 1), "data: expected"],
  ])("%s", async (_, bytes, text) => {
    await refuses(inspect(bytesSource("a.safetensors", bytes)), "a.safetensors: ", text);
  });

  test("a pickle of PyTorch", async () => {
    const zip = new TextEncoder().encode("PK\u0003\u0004 archive/data.pkl");
    await refuses(inspect(bytesSource("resnet.pth", zip)), "resnet.pth", "safetensors.torch.save_file");
  });

  test("a source that gives fewer bytes than its size", async () => {
    const short = {
      ...source(bn),
      read: async (begin: number, end: number) => whole.subarray(begin, Math.min(end, 40)),
    };
    await refuses(inspect(short), "model.safetensors: the header: expected", "bytes, got 32");
  });
});

describe("text", () => {
  test("fits 80 columns, has every layer and finding, and groups what many layers share", async () => {
    const tensors: Tensors = { ...withValue(bn, name("running_mean"), 2, Number.NaN) };
    for (let i = 0; i < 12; i++)
      Object.assign(
        tensors,
        withValue(
          trained(`a.very.long.name.of.a.module.that.wraps.layer${i}.norm`, 2, i),
          `a.very.long.name.of.a.module.that.wraps.layer${i}.norm.weight`,
          0,
          0,
        ),
      );
    const text = textReport(await inspect(source(tensors)));
    const lines = text.split("\n");
    for (const line of lines) expect(line.length).toBeLessThanOrEqual(80);
    expect(lines.filter((line) => /^….*layer\d+\.norm /.test(line))).toHaveLength(12);
    expect(text).toMatch(/^ERROR non-finite: layer1\.0\.bn1: mean is NaN in channel 2;/m);
    expect(text.replace(/\s+/g, " ")).toMatch(/info dead-channels: a\.very\S+layer0\.norm: 1 of 2 .* and 8 more\./);
    expect(lines[0]).toContain("13 batch norms: 1 error, 0 warnings, 12 info");
  });
});

/** All findings, which the compiler compares with the type. */
const SEVERITIES: Readonly<Record<FindingCode, Severity>> = {
  "never-trained": "error",
  "non-finite": "error",
  "negative-variance": "error",
  incomplete: "error",
  "wrong-length": "error",
  "training-mode": "error",
  "wrong-epsilon": "error",
  "channels-differ": "error",
  "axis-differs": "error",
  "variance-below-epsilon": "warning",
  "large-epsilon": "warning",
  "other-momentum": "warning",
  "counts-differ": "warning",
  "ill-conditioned": "warning",
  "dead-channels": "info",
  "gamma-near-zero": "info",
  "not-folded": "info",
};

test("docs/guides/check-a-checkpoint.md has every finding with its severity", () => {
  const docs = readFileSync(new URL("../../docs/guides/check-a-checkpoint.md", import.meta.url), "utf8");
  const rows = [...docs.matchAll(/^\| (`.*`) \| (error|warning|info) \|/gm)];
  const found = rows.flatMap(([, codes = "", severity]) =>
    codes.split(", ").map((code) => [code.slice(1, -1), severity]),
  );
  expect(Object.fromEntries(found)).toEqual(SEVERITIES);
});
