// ONNX files that are damaged or hostile: one typed error, or a result; never a crash, and no allocation that the size of
// the file does not justify.

import { describe, expect, it } from "vitest";
import { BatchNormError, foldOnnx } from "../../../src/tools/index.ts";
import { Model } from "../../../src/tools/onnx/graph.ts";
import { readOnnxBatchNorms } from "../../../src/tools/onnx/read.ts";
import { lengthDelimited, varint, Wire } from "../../../src/tools/onnx/wire.ts";
import { bytesSource } from "../../../src/tools/source.ts";
import { random } from "../../support/worlds.ts";
import { bytesOf, sourceOf } from "./onnxruntime.ts";

const join = (...parts: Uint8Array[]) => new Uint8Array(Buffer.concat(parts));
const modelOf = (graph: Uint8Array) => join(varint(1, 8), lengthDelimited(7, graph), lengthDelimited(8, varint(2, 17)));
const nodeOf = (opType: string, inputs: string[], outputs: string[], ...more: Uint8Array[]) =>
  lengthDelimited(
    1,
    join(
      ...inputs.map((name) => lengthDelimited(1, name)),
      ...outputs.map((name) => lengthDelimited(2, name)),
      lengthDelimited(4, opType),
      ...more,
    ),
  );
const tensorOf = (name: string, dims: number[], ...more: Uint8Array[]) =>
  lengthDelimited(5, join(...dims.map((d) => varint(1, d)), varint(2, 1), lengthDelimited(8, name), ...more));
const floats = (...values: number[]) => lengthDelimited(9, new Uint8Array(Float32Array.from(values).buffer));

const BN = nodeOf("BatchNormalization", ["x", "g", "g", "g", "g"], ["y"]);
const external = (entries: Record<string, string>) =>
  modelOf(
    join(
      BN,
      tensorOf(
        "g",
        [1],
        varint(14, 1),
        ...Object.entries(entries).map(([k, v]) =>
          lengthDelimited(13, join(lengthDelimited(1, k), lengthDelimited(2, v))),
        ),
      ),
    ),
  );

/** Returns a model with graphs in each other. */
function nested(depth: number): Uint8Array {
  let graph: Uint8Array = new Uint8Array(0);
  for (let i = 0; i < depth; i++)
    graph = nodeOf(
      "If",
      ["c"],
      [],
      lengthDelimited(5, join(lengthDelimited(1, "then_branch"), lengthDelimited(6, graph))),
    );
  return modelOf(graph);
}

describe("a file that breaks a rule gives an error that names the file and the place", () => {
  it.each<[string, Uint8Array, RegExp]>([
    [
      "text",
      new TextEncoder().encode("hello"),
      /^m\.onnx: model, byte \d: expected a field of a protobuf message, got /,
    ],
    ["nothing", new Uint8Array(0), /^m\.onnx: model: expected one graph, got 0; the file is damaged/],
    ["no graph", varint(1, 8), /model: expected one graph, got 0/],
    ["two graphs", join(modelOf(BN), modelOf(BN)), /model: expected one graph, got 2/],
    [
      "a length beyond the end",
      join(modelOf(BN).subarray(0, -6)),
      /model, byte \d+: expected a field of a protobuf message, got premature EOF/,
    ],
    ["a length of 4 GiB", Uint8Array.of(0x3a, 0xff, 0xff, 0xff, 0xff, 0x0f), /expected a field of a protobuf message/],
    [
      "a group",
      modelOf(Uint8Array.of(0x0b, 0x0c)),
      /graph, byte 0: expected a field of a protobuf message, got a group/,
    ],
    ["a graph that is a number", varint(7, 1), /model, field 7: expected bytes with a length, got wire type 0/],
    [
      "a name that is not UTF-8",
      modelOf(nodeOf("Relu", ["x"], [])).map((b) => (b === 0x78 ? 0xff : b)),
      /field 1: expected text in UTF-8/,
    ],
    [
      "two values of one name",
      modelOf(join(nodeOf("Relu", ["x"], ["y"]), BN)),
      /graph: expected every name once, got "y"/,
    ],
    [
      "two initialisers of one name",
      modelOf(join(tensorOf("g", [1]), tensorOf("g", [1]))),
      /graph: expected every name once, got "g"/,
    ],
    [
      "two attributes of one name",
      modelOf(
        nodeOf(
          "Conv",
          [],
          ["y"],
          lengthDelimited(5, lengthDelimited(1, "a")),
          lengthDelimited(5, lengthDelimited(1, "a")),
        ),
      ),
      /graph, node "y": expected every attribute once, got "a"/,
    ],
    ["33 graphs in each other", nested(34), /expected at most 32 graphs inside each other, got more/],
    [
      "a negative size",
      modelOf(join(BN, tensorOf("g", [-1], floats(1)))),
      /initializer "g", dims: expected non-negative integers, got \[-1\]/,
    ],
    [
      "sizes whose product is beyond 2⁵³",
      modelOf(join(BN, tensorOf("g", [2 ** 40, 2 ** 40], floats(1)))),
      /initializer "g", dims: expected non-negative integers/,
    ],
    [
      "more sizes than 64",
      modelOf(join(BN, tensorOf("g", new Array(65).fill(1), floats(1)))),
      /initializer "g", field 1: expected at most 64 integers/,
    ],
    [
      "fewer elements than the shape has",
      modelOf(join(BN, tensorOf("g", [2 ** 40], floats(1)))),
      /"g", raw_data: expected 4398046511104 bytes, got 4/,
    ],
    ["no elements", modelOf(join(BN, tensorOf("g", [3]))), /initializer "g", data: expected 3 elements, got 0/],
    [
      "a float_data of 5 bytes",
      modelOf(join(BN, tensorOf("g", [1], lengthDelimited(4, new Uint8Array(5))))),
      /field 4: expected numbers of 4 bytes, got 5 bytes/,
    ],
    [
      "external data above the folder",
      external({ location: "../secret" }),
      /expected one relative to the model's folder, inside it, got "\.\.\/secret"/,
    ],
    ["external data by an absolute path", external({ location: "/etc/passwd" }), /inside it, got "\/etc\/passwd"/],
    ["external data on a drive", external({ location: "C:\\data" }), /inside it, got "C:/],
    ["external data without a location", external({}), /inside it, got undefined/],
    ["external data that are not there", external({ location: "other.data" }), /other\.data beside it/],
    [
      "an offset that is no number",
      external({ location: "d", offset: "1e3" }),
      /external_data, offset: expected a number of bytes, got "1e3"/,
    ],
    ["another length", external({ location: "d", length: "8" }), /external_data, length: expected 4 bytes, got 8/],
    [
      "a range beyond the end",
      external({ location: "d", offset: "6" }),
      /^d: graph, initializer "g": expected a range inside the file's 8 bytes/,
    ],
  ])("%s", async (_, bytes, message) => {
    const source = bytesSource("m.onnx", bytes, { d: new Uint8Array(8) });
    for (const call of [foldOnnx, readOnnxBatchNorms]) {
      const error = await call(source).then(
        () => undefined,
        (reason: unknown) => reason,
      );
      expect(error).toBeInstanceOf(BatchNormError);
      expect(error).toMatchObject({ code: "model-file", message: expect.stringMatching(message) });
      expect((error as Error).message.length).toBeLessThan(700);
    }
  });
});

it("32 graphs in each other are read", () => {
  expect(new Model("m.onnx", nested(32)).graphs).toHaveLength(33);
});

it("fields that nobody asks for are not kept one by one, and too many of the others are refused", () => {
  const bytes = Uint8Array.from({ length: 2000 }, (_, i) => (i % 2 ? 0 : 0x08)); // 1000 fields with number 1
  expect(new Wire("m.onnx").fields(bytes, "m", [2])).toHaveLength(1);
  expect(new Wire("m.onnx", 1000).fields(bytes, "m", [1])).toHaveLength(1000);
  expect(() => new Wire("m.onnx", 999).fields(bytes, "m", [1])).toThrow("m: expected at most 999 fields in a file");
  const wire = new Wire("m.onnx", 1999);
  wire.fields(bytes, "m", [1]);
  expect(() => wire.fields(bytes, "m", [1])).toThrow("m: expected at most 1999 fields in a file");
});

it("batch norms in a long row are folded in time that grows with their number", async () => {
  const parameters = ["g", "b", "m", "v"];
  const values = { g: 1, b: 0, m: 0, v: 1, w: 1 };
  const count = 3000;
  const rows = Array.from({ length: count }, (_, i) =>
    nodeOf("BatchNormalization", [`t${i}`, ...parameters], [`t${i + 1}`]),
  );
  const tensors = Object.entries(values).map(([name, v]) => tensorOf(name, name === "w" ? [1, 1] : [1], floats(v)));
  const head = nodeOf("Gemm", ["x", "w"], ["t0"]);
  const { report } = await foldOnnx(bytesSource("row.onnx", modelOf(join(head, ...rows, ...tensors))));
  expect(report.folded).toHaveLength(count);
});

describe("mutations of a file give a typed error or a model that can be read", () => {
  it.each(["gemm", "if-true", "external", "matmul-add", "forward-conv", "constants"])("%s", async (name) => {
    const original = bytesOf(`${name}.onnx`);
    const next = random(name.length);
    const below = (limit: number) => Math.floor(next() * limit);
    let refused = 0;
    let folded = 0;
    for (let i = 0; i < 400; i++) {
      let bytes = original.slice();
      for (let changes = 1 + below(3); changes > 0; changes--) {
        const at = below(bytes.length);
        const kind = below(4);
        if (kind === 0) bytes[at] = below(256);
        else if (kind === 1) bytes[at] = (bytes[at] as number) ^ (1 << below(8));
        else if (kind === 2) bytes = join(bytes.subarray(0, at), bytes.subarray(at + 1 + below(8)));
        else {
          const from = below(bytes.length);
          bytes = join(bytes.subarray(0, at), bytes.subarray(from, from + below(64)), bytes.subarray(at));
        }
      }
      const source = sourceOf(name, bytes);
      try {
        await readOnnxBatchNorms(source);
        const result = await foldOnnx(source);
        folded += result.report.folded.length;
        // what comes out is a model with as many batch norms as have been kept
        const model = new Model("result", result.model);
        const batchNorms = model.graphs.flatMap(({ nodes }) => nodes.filter((node) => node.is("BatchNormalization")));
        expect(batchNorms.length + model.inFunctions.length).toBe(result.report.kept.length);
      } catch (error) {
        if (!(error instanceof BatchNormError && error.code === "model-file"))
          throw new Error(`mutation ${i}`, { cause: error });
        refused++;
      }
    }
    expect(refused).toBeGreaterThan(20);
    expect(folded).toBeGreaterThan(20);
  });
});
