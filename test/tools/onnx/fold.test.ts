// foldOnnx: the numbers that it writes, and the bytes that it leaves as they are.

import { describe, expect, it } from "vitest";
import { foldOnnx } from "../../../src/tools/index.ts";
import { constantOf, floatsOf } from "../../../src/tools/onnx/constants.ts";
import { type Graph, Model } from "../../../src/tools/onnx/graph.ts";
import { entryOf, readFloats } from "../../../src/tools/onnx/tensor.ts";
import { type Field, joined, lengthDelimited, varint, Wire } from "../../../src/tools/onnx/wire.ts";
import { bytesSource } from "../../../src/tools/source.ts";
import { bytesOf, caseOf, differenceOf, type Encoded, filesOf, jsonOf, run, sourceOf } from "./onnxruntime.ts";

/** Returns a value that a node of a model takes. */
async function tensorAt(bytes: Uint8Array, opType: string, input: number) {
  const model = new Model("", bytes);
  const node = model.graph.nodes.find((n) => n.is(opType));
  const value = await floatsOf(model, sourceOf("external"), model.graph, node?.inputs[input] ?? "");
  if (typeof value === "string") throw new Error(value);
  return value;
}

describe("the numbers", () => {
  it.each([
    ["conv", "Conv"],
    ["transposed", "ConvTranspose"],
    ["linear", "Gemm"],
  ])("are those of PyTorch's fusion, which rounds several times: %s", async (name, opType) => {
    const fused = jsonOf<Record<string, Record<"weight" | "bias", Encoded>>>("fused.json")[name];
    const { model } = await foldOnnx(sourceOf(`fused-${name}`));
    for (const [input, kind] of [
      [1, "weight"],
      [2, "bias"],
    ] as const) {
      const value = await tensorAt(model, opType, input);
      expect(value.shape).toEqual(fused?.[kind].dims);
      expect(differenceOf(Array.from(value.data), fused?.[kind].data ?? [])).toBeLessThan(4 * 2 ** -24);
    }
  });

  // in units of the last place of the type, at the size of a number
  const TYPES = [
    ["float16", "Conv", 10, -14],
    ["float16-list", "Conv", 10, -14],
    ["bfloat16", "Gemm", 7, -126],
    ["ir3", "Conv", 23, -126],
    ["float64", "Conv", 52, -1022],
    ["float64-list", "Conv", 52, -1022],
  ] as const;

  it.each(TYPES)("are rounded once to the layer's type: %s", async (name, opType, digits, least) => {
    const original = bytesOf(`${name}.onnx`);
    const { model, report } = await foldOnnx(sourceOf(name), { tolerance: 0.1 });
    expect(report.kept).toEqual([]);
    const [gamma, beta, mean, variance] = await Promise.all(
      [1, 2, 3, 4].map(async (i) => (await tensorAt(original, "BatchNormalization", i)).data),
    );
    const weight = await tensorAt(original, opType, 1);
    const hasBias = name !== "ir3";
    const bias = hasBias ? (await tensorAt(original, opType, 2)).data : new Float64Array(6);
    const scale = Array.from(gamma as Float64Array, (g, c) => g / Math.sqrt((variance?.[c] ?? 0) + Math.fround(1e-5)));
    const perOutput = weight.data.length / scale.length;
    const exactWeight = weight.data.map((w, i) => w * (scale[Math.floor(i / perOutput)] as number));
    const exactBias = bias.map((b, c) => (beta?.[c] ?? 0) - ((mean?.[c] ?? 0) - b) * (scale[c] as number));
    for (const [input, exact] of [
      [1, exactWeight],
      [2, exactBias],
    ] as const) {
      const { data, dtype } = await tensorAt(model, opType, input);
      expect(dtype).toBe(weight.dtype);
      for (const [i, v] of data.entries()) {
        const e = exact[i] as number;
        const unit = 2 ** (Math.max(Math.floor(Math.log2(Math.abs(e))), least) - digits);
        // beside half a unit, the float64 arithmetic of this test
        expect(Math.abs(v - e)).toBeLessThanOrEqual(unit * 0.5 + Math.abs(e) * 2 ** -50);
        expect(v / unit).toBe(Math.round(v / unit));
      }
    }
  });

  it("of a Gemm keep alpha, and leave beta at 1", async () => {
    const { model } = await foldOnnx(sourceOf("gemm"));
    const [node] = new Model("", model).graph.nodes;
    expect([node?.float("alpha", 1), node?.float("beta", 1), node?.integer("transB", 0)]).toEqual([0.75, 1, 1]);
  });
});

describe("a tolerance", () => {
  it("keeps what loses more digits, and lets what loses less be folded", async () => {
    expect((await foldOnnx(sourceOf("lossy"), { tolerance: 1e-3 })).report.folded).toHaveLength(1);
    const { report } = await foldOnnx(sourceOf("ir3"), { tolerance: 0 });
    expect(report.kept[0]?.reason).toMatch(
      /^folding backward loses digits: .* more than 0e\+0; behind it is an output/,
    );
  });

  it("never folds into numbers that are not finite", async () => {
    const { report } = await foldOnnx(sourceOf("negative-variance"), { tolerance: Number.POSITIVE_INFINITY });
    expect(report.kept[0]?.reason).toMatch(/^folding backward gives numbers that are not finite; /);
  });

  it.each([-1, Number.NaN, "1"])("is a number from 0 on, not %s", async (tolerance) => {
    const call = foldOnnx(sourceOf("ir3"), { tolerance: tolerance as number });
    await expect(call).rejects.toThrow("tolerance: expected a number from 0 on");
  });
});

/** Returns the raw bytes of the fields of a model's graph, as text, with their numbers. */
function graphFields(bytes: Uint8Array) {
  const wire = new Wire("");
  const graph = wire.fields(bytes, "", [7]).find(({ number }) => number === 7)?.value as Uint8Array;
  const numbers = Array.from({ length: 200 }, (_, i) => i + 1);
  return wire.fields(graph, "", numbers).map(({ number, raw }) => ({ number, raw: Buffer.from(raw).toString("hex") }));
}

describe("what is not touched", () => {
  it.each(["resnet", "mobilenet", "densenet", "between", "shared-kept", "if-true"])(
    "stays byte for byte: %s",
    async (name) => {
      const { model, report } = await foldOnnx(sourceOf(name));
      const before = graphFields(bytesOf(`${name}.onnx`));
      const after = graphFields(model);
      const kept = before.filter((field) => after.some(({ raw }) => raw === field.raw));
      // in the same order
      const rest = after.filter((field) => kept.some(({ raw }) => raw === field.raw));
      expect(rest.map(({ raw }) => raw)).toEqual(kept.map(({ raw }) => raw));
      // nodes: each batch norm is gone, and its layer and what made its input have changed
      const nodes = (fields: typeof kept) => fields.filter(({ number }) => number === 1).length;
      const touched = { between: 3, "if-true": 1 }[name as string] ?? 2 * report.folded.length;
      expect(nodes(before) - nodes(kept)).toBe(touched);
      // inputs, outputs and the graph's name
      for (const number of [2, 11, 12])
        expect(after.filter((f) => f.number === number)).toEqual(before.filter((f) => f.number === number));
    },
  );

  it("keeps unknown fields at every level, and encodings that a writer would not choose", async () => {
    const unknown = (text: string) => lengthDelimited(4000, `${text};`);
    const wire = new Wire("");
    /** Returns a message with an unknown field at its beginning, and the same in the messages of some of its fields. */
    const extend = (
      bytes: Uint8Array,
      label: string,
      inside: Record<number, (value: Uint8Array, i: number) => Uint8Array>,
    ) => {
      const fields = wire.fields(bytes, "", Object.keys(inside).map(Number));
      const parts = fields.map(({ number, raw, value }, i) => {
        const change = inside[number];
        return change ? lengthDelimited(number, change(value, i)) : raw;
      });
      return Buffer.concat([unknown(label), ...parts]);
    };
    const labelled = (label: string) => (value: Uint8Array, i: number) => extend(value, `${label} ${i}`, {});
    const graph = (value: Uint8Array) =>
      extend(value, "graph", { 1: labelled("node"), 5: labelled("tensor"), 11: labelled("input") });
    const bytes = extend(bytesOf("shared-kept.onnx"), "model", { 7: graph });
    const odd = Buffer.concat([bytes, Uint8Array.of(0x28, 0x85, 0x80, 0x00), varint(3999, 7)]); // model_version in 3 bytes
    const { model, report } = await foldOnnx(bytesSource("odd.onnx", new Uint8Array(odd)));
    expect(report.folded).toHaveLength(1);
    const text = Buffer.from(model).toString("latin1");
    const labels =
      Buffer.from(odd)
        .toString("latin1")
        .match(/(model|graph|node \d+|tensor \d+|input \d+);/g) ?? [];
    expect(labels.length).toBeGreaterThan(8);
    const lost = labels.filter((label) => !text.includes(label));
    // the batch norm, its four parameters
    expect(lost).toHaveLength(5);
    expect(text.endsWith("\x28\x85\x80\x00\xf8\xf9\x01\x07")).toBe(true);
  });
});

const namesIn = (graph: Graph) => [...graph.initializers.keys()].sort();

describe("initialisers", () => {
  it("that nothing takes any more are removed, and others stay", async () => {
    const namesOf = async (name: string) => namesIn(new Model("", (await foldOnnx(sourceOf(name))).model).graph);
    expect(await namesOf("ir3")).toEqual(["w", "w_bias"]);
    expect(await namesOf("shared")).toEqual(["w_1", "w_bias", "w_bias_1", "w"].sort());
    expect(await namesOf("shared-kept")).toEqual(["w", "w_1", "w_bias"]);
    expect(await namesOf("mean-is-output")).toEqual(["bn_mean", "w", "w_bias"]);
    expect(await namesOf("constants")).toEqual(["w_1", "w_bias"]);
    // `bn2` in a branch takes four of them, and so does `bn` in the model's graph, which is kept
    expect((await namesOf("if-true")).filter((name) => name.startsWith("bn"))).toHaveLength(8);
  });

  it("are inputs of the graph where version 3 of the format asks for it", async () => {
    const { graph } = new Model("", (await foldOnnx(sourceOf("ir3"))).model);
    expect([...graph.inputs.keys()]).toEqual(["x", "w", "w_bias"]);
    expect(graph.shapeOf("w_bias")).toEqual([6]);
  });

  it("of a graph inside a node that has folded are in the model's graph", async () => {
    const { graph } = new Model("", (await foldOnnx(sourceOf("if-true"))).model);
    const then = graph.nodes.at(-1)?.subgraphs.find(({ path }) => path === "y/then_branch/");
    expect(then && namesIn(then)).toEqual(["w2"]);
    expect(namesIn(graph)).toContain("w2_bias");
  });

  it("say nothing of values that are gone", async () => {
    const shape = async (name: string, value: string) =>
      new Model("", (await foldOnnx(sourceOf(name))).model).graph.shapeOf(value);
    expect(new Model("", bytesOf("between.onnx")).graph.shapeOf("a")).toEqual([2, 6, 2, 2]);
    expect(await shape("between", "a")).toBeUndefined();
    expect(await shape("forward-conv", "n")).toBeUndefined();
    expect(await shape("forward-reshape", "f")).toEqual([2, 100]);
  });
});

describe("external data", () => {
  it("get new bytes where the weights are, and no others", async () => {
    const folded = await foldOnnx(sourceOf("external"));
    const original = bytesOf("external.data");
    const patches = folded.external.get("external.data") ?? [];
    expect(patches.map(({ bytes }) => bytes.length)).toEqual([6 * 4 * 9 * 4, 3 * 6 * 9 * 4]);
    const patched = filesOf(folded)["external.data"] as Uint8Array;
    const isInside = (i: number) => patches.some(({ begin, bytes }) => i >= begin && i < begin + bytes.length);
    for (const [i, byte] of original.entries()) if (!isInside(i)) expect(patched[i]).toBe(byte);
    // the model itself got the biases, and no weight
    expect(folded.model.length).toBeLessThan(bytesOf("external.onnx").length);
  });

  /** Returns the model with other entries of external_data of each initialiser. */
  function withEntries(change: (entries: Map<string, string>, name: string) => void): Uint8Array {
    const wire = new Wire("");
    const tensor = (bytes: Uint8Array) => {
      const fields = wire.fields(bytes, "", [8, 13]);
      const entries = new Map(
        fields.filter(({ number }) => number === 13).map(({ value }) => entryOf(wire, value, "")),
      );
      change(entries, wire.text(fields.find(({ number }) => number === 8) as Field, ""));
      const encoded = [...entries].map(([key, value]) =>
        lengthDelimited(13, joined([lengthDelimited(1, key), lengthDelimited(2, value)])),
      );
      return joined([...fields.filter(({ number }) => number !== 13).map(({ raw }) => raw), ...encoded]);
    };
    const mapped = (bytes: Uint8Array, number: number, map: (value: Uint8Array) => Uint8Array) =>
      joined(
        wire
          .fields(bytes, "", [number])
          .map((f) => (f.number === number ? lengthDelimited(number, map(f.value)) : f.raw)),
      );
    return mapped(bytesOf("external.onnx"), 7, (graph) => mapped(graph, 5, tensor));
  }

  it("that have a checksum stay as they are, and the weights go into the model", async () => {
    const folded = await foldOnnx(
      sourceOf(
        "external",
        withEntries((entries) => entries.set("checksum", "0")),
      ),
    );
    expect(folded.report.folded).toHaveLength(2);
    expect(folded.external.size).toBe(0); // nothing takes the file any more
    const { inputs, outputs } = caseOf("external");
    const after = await run(folded.model, inputs);
    expect(differenceOf(after.z as number[], outputs.z?.data ?? [])).toBeLessThan(1e-6);
  });

  it("that two tensors share stay as they are, and the weights go into the model", async () => {
    // w2, [3, 6, 3, 3], begins inside of w, [6, 4, 3, 3], and other parameters are where they were
    const shared = withEntries((entries, name) => name === "w2" && entries.set("offset", "4"));
    const offsets = new Map<string, number>();
    withEntries((entries, name) => offsets.set(name, Number(entries.get("offset"))));
    expect(offsets.get("w")).toBe(0);
    const folded = await foldOnnx(sourceOf("external", shared));
    expect(folded.report.folded).toHaveLength(2);
    expect([...folded.external.values()].flat()).toEqual([]);
    const { wire, graph } = new Model("", folded.model);
    for (const name of ["w", "w2"]) {
      const initializer = graph.initializers.get(name);
      const tensor = initializer && (await readFloats(wire, bytesSource("without others", folded.model), initializer));
      expect(tensor?.data.length).toBe(name === "w" ? 216 : 162);
    }
  });
});

it("a model with training information is kept whole, since it names initialisers there", async () => {
  const bytes = new Uint8Array(Buffer.concat([bytesOf("ir3.onnx"), lengthDelimited(20, new Uint8Array(0))]));
  const { model, report } = await foldOnnx(sourceOf("training", bytes));
  expect(report.kept).toEqual([
    { batchNorm: "bn", reason: "the model says how it is trained, and refers to its parameters there" },
  ]);
  expect(model).toEqual(bytes);
});

it("batch norms in functions of the model are listed as kept", async () => {
  const node = lengthDelimited(7, Buffer.concat([lengthDelimited(4, "BatchNormalization"), lengthDelimited(3, "bn")]));
  const functions = lengthDelimited(25, Buffer.concat([lengthDelimited(1, "Block"), node]));
  const bytes = new Uint8Array(Buffer.concat([bytesOf("ir3.onnx"), functions]));
  const { report } = await foldOnnx(sourceOf("functions", bytes));
  expect(report.kept).toEqual([{ batchNorm: "Block/bn", reason: "it is in a function of the model" }]);
});

it("a constant that is a copy of a copy without end is not followed", () => {
  const model = new Model("", bytesOf("between.onnx"));
  const identity = model.graph.nodes.find((node) => node.is("Identity"));
  identity?.setInput(0, "i");
  expect(constantOf(model, model.graph, "i")).toBe('"i" is a copy of a copy, 100 times');
});
