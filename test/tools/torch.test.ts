// A checkpoint that PyTorch has written (torch/make.py) goes through the names of other frameworks and back, byte for byte, and
// what our layer computes from each of the files is what PyTorch computes.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { BatchNorm, type Framework, readSafetensors, writeSafetensors } from "../../src/index.ts";
import { FRAMEWORKS } from "../../src/interop/state-dict.ts";
import { bytesSource, convert } from "../../src/tools/index.ts";

const read = (name: string) => readFileSync(fileURLToPath(new URL(`torch/${name}`, import.meta.url)));
const original = Uint8Array.from(read("batch-norms.safetensors"));
const expected: Record<string, { shape: number[]; x: number[]; y: number[] }> = JSON.parse(
  new TextDecoder().decode(read("expected.json")),
);

/** Converts a file several times, and returns the last one. */
async function through(file: Uint8Array, ...frameworks: readonly Framework[]): Promise<Uint8Array> {
  let bytes = file;
  for (const to of frameworks) {
    const { report, bytes: converted } = await convert(bytesSource("model.safetensors", bytes), { to });
    expect([report.unconverted, report.layers.length]).toEqual([[], 6]);
    bytes = await converted();
  }
  return bytes;
}

/** Checks that every batch norm of a file, loaded into our layer, computes what PyTorch's does. */
function expectPytorchs(file: Uint8Array, framework: Framework): void {
  const { tensors } = readSafetensors(file);
  for (const [name, { shape, x, y }] of Object.entries(expected)) {
    const prefix = framework === "pytorch" || framework === "onnx" ? name : name.replaceAll(".", "/");
    // ONNX has no layer without gamma and beta, so that they are ones and zeros there
    const affine = name !== "plain" || framework === "onnx";
    const layout = shape.length > 2 ? { layout: "channels-first" as const } : {};
    const bn = new BatchNorm(shape[1] as number, { affine, epsilon: 1e-5, ...layout });
    bn.loadStateDict(tensors, { framework, prefix, strict: framework !== "haiku" });
    const { data } = bn.forward({ data: Float32Array.from(x), shape }, { mode: "eval" });
    const size = Math.max(...y.map(Math.abs));
    expect(data).toHaveLength(y.length);
    for (const [i, value] of data.entries())
      expect(Math.abs(value - (y[i] as number)), `${framework}, ${name}, element ${i}`).toBeLessThan(2e-6 * size);
  }
}

test("the file has the types and the layers without counts, gamma and beta that PyTorch writes", () => {
  const { tensors, metadata } = readSafetensors(original);
  expect({ ...metadata }).toEqual({ format: "pt" });
  const types = (name: string) => tensors[name]?.dtype;
  expect(["bn1", "layer1.0.bn1", "layer1.0.bn2", "head.1"].map((name) => types(`${name}.running_var`))).toEqual([
    "F32",
    "F16",
    "BF16",
    "F64",
  ]);
  expect(types("bn1.num_batches_tracked")).toBe("I64");
  expect([types("old.num_batches_tracked"), types("plain.weight")]).toEqual([undefined, undefined]);
});

test("PyTorch → Keras → Flax → Haiku → PyTorch keeps every byte but the counts of batches, which Keras and Flax lack", async () => {
  const back = await through(original, "keras", "flax", "haiku", "pytorch");
  const { tensors, metadata } = readSafetensors(original);
  const kept = Object.entries(tensors).filter(([name]) => !name.endsWith("num_batches_tracked"));
  expect(kept.length).toBe(Object.keys(tensors).length - 5);
  expect(back).toEqual(writeSafetensors(Object.fromEntries(kept), metadata));
});

test("PyTorch → Haiku → PyTorch and PyTorch → PyTorch are the file that PyTorch has written, byte for byte", async () => {
  expect(await through(original, "haiku", "pytorch")).toEqual(original);
  expect(await through(original, "pytorch")).toEqual(original);
});

test.each(FRAMEWORKS)("with the names of %s, the layers compute what PyTorch computes", async (framework) => {
  expectPytorchs(await through(original, framework), framework);
});

test("after Keras, Flax and Haiku, too", async () => {
  expectPytorchs(await through(original, "keras", "flax", "haiku"), "haiku");
});
