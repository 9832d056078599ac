// Files of the safetensors format: the golden cases, forbidden files, round trips, damaged files, and half precision.

import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import {
  BatchNorm,
  BatchNormError,
  readSafetensors,
  type SafetensorsDtype,
  type SafetensorsFile,
  type StateSource,
  type TensorData,
  tensor,
  toFloat32,
  type WritableTensor,
  writeSafetensors,
} from "../../src/index.ts";
import { type Case, loadGolden } from "../golden/read-golden.mjs";
import { normal, random } from "../support/worlds.ts";

const golden = loadGolden(fileURLToPath(new URL("../golden", import.meta.url)));
const CASES = golden.cases.filter((c) => c.kind === "safetensors");
const fileOf = (c: Case) => golden.arr<Uint8Array>(c.in.file);

/** An error of ours, with its code; any other is a fault of the reader. */
const REFUSED = expect.objectContaining({ name: "BatchNormError", code: "safetensors" }) as Error;

const utf8 = new TextEncoder();

/** A file of a header as it is given, which may break every rule. */
function file(header: string | Uint8Array, data = 0, length?: bigint): Uint8Array {
  const text = typeof header === "string" ? utf8.encode(header) : header;
  const bytes = new Uint8Array(8 + text.length + data);
  new DataView(bytes.buffer).setBigUint64(0, length ?? BigInt(text.length), true);
  bytes.set(text, 8);
  return bytes;
}

const entry = (dtype: unknown, shape: unknown, begin: unknown, end: unknown) => ({
  dtype,
  shape,
  data_offsets: [begin, end],
});
const headed = (header: object, data = 0) => file(JSON.stringify(header), data);

describe("golden files", () => {
  test("are all here", () => {
    expect(CASES.map((c) => c.out.expect).sort()).toEqual([
      "no-pollution",
      ...Array(6).fill("ok"),
      ...Array(6).fill("reject"),
    ]);
  });

  test.each(CASES.filter((c) => c.out.values))("$id loads into a layer in one step", (c) => {
    const bn = new BatchNorm(3);
    const { tensors } = readSafetensors(fileOf(c));
    bn.loadStateDict(tensors, { prefix: c.id.endsWith("prefix") ? "layer1.0.bn1." : "" });
    const { weight, bias, running_mean, running_var, num_batches_tracked } = c.out.values;
    expect(bn.gamma).toBeAllclose(golden.arr(weight));
    expect(bn.beta).toBeAllclose(golden.arr(bias));
    expect(bn.runningMean).toBeAllclose(golden.arr(running_mean));
    expect(bn.runningVariance).toBeAllclose(golden.arr(running_var));
    expect(bn.batchesTracked).toBe(Number(golden.arr<BigInt64Array>(num_batches_tracked)[0]));
    expect(bn.batchesTracked).toBe(42);
  });

  test("safetensors/ok_not_affine loads into a layer without gamma and beta, and into no other", () => {
    const c = CASES.find(({ id }) => id.endsWith("ok_not_affine")) as Case;
    const { tensors } = readSafetensors(fileOf(c));
    const bn = new BatchNorm(3, { affine: false });
    bn.loadStateDict(tensors);
    expect(bn.runningVariance).toBeAllclose(tensors.running_var?.data as Float32Array);
    expect(bn.runningVariance).not.toBeAllclose([1, 1, 1]);
    expect(() => new BatchNorm(3).loadStateDict(tensors)).toThrow("missing weight; missing bias");
  });

  test.each(CASES.filter((c) => c.out.expect === "reject"))("$id is refused", (c) => {
    expect(() => readSafetensors(fileOf(c))).toThrow(REFUSED);
  });

  test("safetensors/bad_proto is a tensor of that name and pollutes nothing", () => {
    const c = CASES.find((d) => d.out.expect === "no-pollution") as Case;
    const { tensors } = readSafetensors(fileOf(c));
    expect(Object.keys(tensors)).toEqual(["__proto__"]);
    expect(Object.getPrototypeOf(tensors)).toBe(null);
    expect(Object.keys(Object.prototype)).toEqual([]);
    expect({}).not.toHaveProperty("dtype");
    expect(() => new BatchNorm(1).loadStateDict(tensors as unknown as StateSource)).toThrow("unexpected __proto__");
  });
});

describe("readSafetensors", () => {
  test("reads tensors and metadata, in the order of their data", () => {
    const bytes = headed(
      {
        last: entry("I32", [2, 1], 12, 20),
        __metadata__: { format: "pt", __proto: "x" },
        none: entry("F64", [4, 0], 12, 12),
        first: entry("F32", [3], 0, 12),
      },
      20,
    );
    new DataView(bytes.buffer).setFloat32(bytes.length - 20, 1.5, true);
    new DataView(bytes.buffer).setInt32(bytes.length - 4, -7, true);
    const { tensors, metadata } = readSafetensors(bytes);
    expect(Object.keys(tensors)).toEqual(["first", "none", "last"]);
    expect(tensors.first).toEqual({ dtype: "F32", shape: [3], data: Float32Array.of(1.5, 0, 0) });
    expect(tensors.none).toEqual({ dtype: "F64", shape: [4, 0], data: new Float64Array() });
    expect(tensors.last).toEqual({ dtype: "I32", shape: [2, 1], data: Int32Array.of(0, -7) });
    expect({ ...metadata }).toEqual({ format: "pt", __proto: "x" });
    expect(Object.getPrototypeOf(metadata)).toBe(null);
  });

  test.each([0, 1, 2, 3, 4, 5, 6, 7])("reads the same at offset %i of a buffer, aligned or not", (offset) => {
    const written = writeSafetensors({ a: Float64Array.of(Math.PI, -0), b: Float32Array.of(1e-30), n: 2n ** 62n });
    const buffer = new Uint8Array(offset + written.length + 5).fill(0xff);
    buffer.set(written, offset);
    const { tensors } = readSafetensors(buffer.subarray(offset, offset + written.length));
    expect(tensors).toEqual(readSafetensors(written.buffer).tensors);
    expect(tensors.a?.data).toEqual(Float64Array.of(Math.PI, -0));
    expect(tensors.n?.data).toEqual(BigInt64Array.of(2n ** 62n));
  });

  test("shares memory that is aligned, and copies what is not", () => {
    const odd = headed({ x: entry("U8", [1], 0, 1), y: entry("F32", [1], 1, 5) }, 5);
    const { x, y } = readSafetensors(odd).tensors;
    expect([x?.data.buffer === odd.buffer, y?.data.buffer === odd.buffer]).toEqual([true, false]);
  });

  test("reads shared memory", () => {
    const written = writeSafetensors({ a: 1 });
    const { buffer } = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
    const shared = new Uint8Array(buffer, 0, written.length);
    shared.set(written);
    expect(readSafetensors(shared).tensors.a?.data).toEqual(BigInt64Array.of(1n));
  });

  test("lets a header be padded with spaces, and a file be empty", () => {
    expect(Object.keys(readSafetensors(file("{}   ")).tensors)).toEqual([]);
    expect(Object.keys(readSafetensors(writeSafetensors({})).tensors)).toEqual([]);
  });

  test.each<[string, Uint8Array, RegExp]>([
    ["no byte", new Uint8Array(), /file: expected at least 8 bytes, got 0/],
    ["a header longer than the file", file("{}", 4, 7n), /header: expected at most 6 bytes, got 7;/],
    ["a header of 2^64 − 1 bytes", file("{}", 0, 2n ** 64n - 1n), /header: expected at most 2 bytes, got 18446744073/],
    ["no header", file(""), /header: expected "\{" as the first byte, got undefined/],
    ["a list", file("[]"), /header: expected "\{" as the first byte, got 91/],
    ["space before the header", file(" {}"), /header: expected "\{" as the first byte, got 32/],
    ["a byte order mark", file("\ufeff{}"), /header: expected "\{" as the first byte, got 239/],
    ["half an object", file('{"a":'), /header: expected JSON, got "/],
    ["two objects", file("{}{}"), /header: expected JSON, got "/],
    ["zeros behind the header", file("{}\0\0"), /header: expected JSON, got "/],
    ["no UTF-8", file(Uint8Array.of(0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d)), /header: expected JSON, got "/],
    ["very deep JSON", file(`{"a":${"[".repeat(1e5)}${"]".repeat(1e5)}}`), /safetensors: /],
    ["a tensor that is null", headed({ a: null }), /tensor "a": expected dtype, shape and data_offsets, got null/],
    ["a tensor that is a list", headed({ a: [1] }), /tensor "a": expected dtype, shape and data_offsets, got \[1\]/],
    ["an unknown dtype", headed({ a: entry("F12", [1], 0, 4) }, 4), /tensor "a": expected a dtype among BOOL, .*"F12"/],
    ["a dtype of Object's", headed({ a: entry("constructor", [1], 0, 4) }, 4), /expected a dtype among/],
    ["no shape", headed({ a: { dtype: "F32", data_offsets: [0, 4] } }, 4), /expected a shape of .*, got undefined/],
    ["a negative dimension", headed({ a: entry("F32", [-1, -1], 0, 4) }, 4), /expected a shape of .*got \[-1, -1\]/],
    ["a broken dimension", headed({ a: entry("F32", [0.5, 2], 0, 4) }, 4), /expected whole numbers in digits/],
    ["a dimension beyond 2^53", headed({ a: entry("F32", [2 ** 53, 0], 0, 0) }), /expected a shape of non-negative/],
    ["a shape as text", headed({ a: entry("F32", "1", 0, 4) }, 4), /expected a shape of non-negative/],
    ["one offset", headed({ a: { dtype: "U8", shape: [1], data_offsets: [0] } }, 1), /data_offsets \[begin, end\]/],
    ["three offsets", headed({ a: { dtype: "U8", shape: [1], data_offsets: [0, 1, 1] } }, 1), /\[begin, end\]/],
    ["a negative offset", headed({ a: entry("U8", [1], -1, 0) }, 1), /\[begin, end\], got \[-1, 0\]/],
    ["an end before its begin", headed({ a: entry("U8", [0], 1, 0) }), /expected 0 bytes \(U8, \[0\]\), got -1/],
    ["too few bytes", headed({ a: entry("F32", [3], 0, 8) }, 8), /expected 12 bytes \(F32, \[3\]\), got 8/],
    ["too many bytes", headed({ a: entry("F16", [3], 0, 8) }, 8), /expected 6 bytes \(F16, \[3\]\), got 8/],
    ["half a byte", headed({ a: entry("F4", [3], 0, 1) }, 1), /expected 1\.5 bytes/],
    ["a product beyond 2^53", headed({ a: entry("U8", [2 ** 52, 2 ** 52], 0, 0) }), /got 0/],
    ["a hole at the beginning", headed({ a: entry("U8", [1], 1, 2) }, 2), /"a": expected data from byte 0 on, got 1/],
    [
      "a hole between",
      headed({ a: entry("U8", [1], 0, 1), b: entry("U8", [1], 2, 3) }, 3),
      /"b": expected data from byte 1 on, got 2/,
    ],
    [
      "an overlap",
      headed({ a: entry("U8", [2], 0, 2), b: entry("U8", [2], 1, 3) }, 3),
      /"b": expected data from byte 2 on, got 1/,
    ],
    [
      "two tensors in one place",
      headed({ a: entry("U8", [2], 0, 2), b: entry("U8", [2], 0, 2) }, 2),
      /"b": expected data from byte 2 on, got 0/,
    ],
    ["bytes behind the data", headed({ a: entry("U8", [1], 0, 1) }, 2), /data: expected 1 bytes, got 2/],
    ["missing data", headed({ a: entry("U8", [4], 0, 4) }, 3), /data: expected 4 bytes, got 3/],
    ["data without a tensor", file("{}", 1), /data: expected 0 bytes, got 1/],
    ["metadata that is no object", headed({ __metadata__: ["a"] }), /__metadata__: expected an object of strings/],
    [
      "metadata that is no text",
      headed({ __metadata__: { a: 1 } }),
      /__metadata__: expected an object of strings, got 1/,
    ],
  ])("refuses %s", (_, bytes, message) => {
    expect(() => readSafetensors(bytes)).toThrow(REFUSED);
    expect(() => readSafetensors(bytes)).toThrow(message);
    expect(() => readSafetensors(bytes)).toThrow(/^safetensors: .*; the file is damaged or of another/);
  });

  const A = JSON.stringify(entry("U8", [1], 0, 1));
  test.each([
    ["tensors", `{"a":${A},"b":${A},"a":${A}}`],
    ["tensors, one of them written with an escape", `{"a":${A},"\\u0061":${A}}`],
    ["metadata", `{"__metadata__":{"x":"1","x":"2"},"a":${A}}`],
    ["__metadata__", `{"__metadata__":{},"__metadata__":{},"a":${A}}`],
    ["fields", '{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}'],
  ])("refuses %s of the same name", (_, header) => {
    expect(() => readSafetensors(file(header, 1))).toThrow(REFUSED);
    expect(() => readSafetensors(file(header, 1))).toThrow("header: expected every name once, got");
  });

  test.each(["a:b", '":"', '"', "\\", '\\"', '\\":', "{}", "\n:", "“:”", "", "length", "constructor", "toString"])(
    "keeps a tensor named %j",
    (name) => {
      const { tensors, metadata } = readSafetensors(writeSafetensors({ [name]: 5n, other: 6n }, { [name]: ':":' }));
      expect(Object.keys(tensors)).toEqual([name, "other"].sort());
      expect(tensors[name]?.data).toEqual(BigInt64Array.of(5n));
      expect(metadata[name]).toBe(':":');
    },
  );

  test("ignores what else an entry says, as the reference does", () => {
    const { tensors } = readSafetensors(headed({ a: { ...entry("U8", [1], 0, 1), unit: { m: [1, { s: 2 }] } } }, 1));
    expect(tensors.a).toEqual({ dtype: "U8", shape: [1], data: new Uint8Array(1) });
  });

  test.each([null, undefined, "file", 5, [1, 2], new Float32Array(4), new DataView(new ArrayBuffer(8))])(
    "refuses %j, which is no bytes",
    (wrong) => {
      expect(() => readSafetensors(wrong as never)).toThrow(TypeError);
      expect(() => readSafetensors(wrong as never)).toThrow(/^file: expected a Uint8Array or an ArrayBuffer, got /);
    },
  );
});

describe("writeSafetensors", () => {
  test("writes what the reference writes, byte for byte", () => {
    // safetensors 0.8.0: serialize({"b": f32 [1.5, -2], "a": f64 [0.1], "n": i64 7, "h": u8 [1, 2, 3]}, {"format": "pt"})
    const header =
      '{"__metadata__":{"format":"pt"},' +
      '"n":{"dtype":"I64","shape":[],"data_offsets":[0,8]},' +
      '"a":{"dtype":"F64","shape":[1],"data_offsets":[8,16]},' +
      '"b":{"dtype":"F32","shape":[2],"data_offsets":[16,24]},' +
      '"h":{"dtype":"U8","shape":[3],"data_offsets":[24,27]}}';
    const padded = header.padEnd(Math.ceil(header.length / 8) * 8);
    expect(padded.length).toBeGreaterThan(header.length);
    const expected = file(padded, 27);
    const data = new DataView(expected.buffer, 8 + padded.length);
    data.setBigInt64(0, 7n, true);
    data.setFloat64(8, 0.1, true);
    data.setFloat32(16, 1.5, true);
    data.setFloat32(20, -2, true);
    for (const i of [1, 2, 3]) data.setUint8(23 + i, i);
    const tensors = { b: Float32Array.of(1.5, -2), h: Uint8Array.of(1, 2, 3), a: Float64Array.of(0.1), n: 7 };
    expect(writeSafetensors(tensors, { format: "pt" })).toEqual(expected);
  });

  test("and readSafetensors keep every dtype, shape and bit", () => {
    const bits = Uint8Array.from({ length: 16 }, (_, i) => 37 * i);
    const of = (dtype: SafetensorsDtype, data: WritableTensor, shape: number[]) =>
      ({ dtype, data, shape }) as WritableTensor;
    const tensors: Record<string, WritableTensor> = {
      BOOL: of("BOOL", Uint8Array.of(0, 1, 1), [3]),
      F4: of("F4", bits.slice(0, 3), [2, 3]),
      F6_E2M3: of("F6_E2M3", bits.slice(0, 3), [4]),
      U8: of("U8", bits, [2, 2, 4]),
      I8: of("I8", new Int8Array(bits.buffer), [16]),
      F8_E4M3: of("F8_E4M3", bits, [16, 1]),
      I16: of("I16", new Int16Array(bits.buffer), [8]),
      U16: of("U16", new Uint16Array(bits.buffer), [8]),
      F16: of("F16", new Uint16Array(bits.buffer), [2, 4]),
      BF16: of("BF16", new Uint16Array(bits.buffer, 2, 5), [5]),
      I32: of("I32", new Int32Array(bits.buffer), [4]),
      U32: of("U32", new Uint32Array(bits.buffer), [4]),
      F32: of("F32", Float32Array.of(Number.NaN, -0, Number.POSITIVE_INFINITY), [1, 3]),
      C64: of("C64", Float32Array.of(1, 2, 3, 4), [2]),
      F64: of("F64", Float64Array.of(Math.E), []),
      I64: of("I64", new BigInt64Array(bits.buffer), [2]),
      U64: of("U64", new BigUint64Array(bits.buffer), [2]),
    };
    const read = readSafetensors(writeSafetensors(tensors)).tensors;
    expect({ ...read }).toEqual(tensors);
    expect(writeSafetensors(read)).toEqual(writeSafetensors(tensors));
  });

  test("takes arrays as their own kind, integers as I64 of shape [], and tensors as they are", () => {
    const t = tensor([2, 1], Float32Array.of(3, 4));
    const values = {
      f: Float64Array.of(1),
      u: new Uint16Array(2),
      i: -1,
      big: -(2n ** 63n),
      t,
      plain: { data: Int8Array.of(1, 2), shape: [1, 2] },
    };
    const { tensors } = readSafetensors(writeSafetensors(values));
    t.dispose();
    expect({ ...tensors }).toEqual({
      f: { dtype: "F64", shape: [1], data: Float64Array.of(1) },
      u: { dtype: "U16", shape: [2], data: new Uint16Array(2) },
      i: { dtype: "I64", shape: [], data: BigInt64Array.of(-1n) },
      big: { dtype: "I64", shape: [], data: BigInt64Array.of(-(2n ** 63n)) },
      t: { dtype: "F32", shape: [2, 1], data: Float32Array.of(3, 4) },
      plain: { dtype: "I8", shape: [1, 2], data: Int8Array.of(1, 2) },
    });
  });

  test("carries a layer to another one, and several layers in one file", () => {
    const layer = (seed: number) => {
      const bn = new BatchNorm(5, { estimator: "population" });
      bn.gamma = normal(seed, 5);
      bn.forward({ data: normal(seed + 1, 40, 3, 1), shape: [8, 5] });
      return bn;
    };
    const [a, b] = [layer(1), layer(2)];
    const bytes = writeSafetensors({ ...a.stateDict({ prefix: "a" }), ...b.stateDict({ prefix: "b." }) });
    const { tensors } = readSafetensors(bytes);
    expect(tensors["a.num_batches_tracked"]).toEqual({ dtype: "I64", shape: [], data: BigInt64Array.of(1n) });
    for (const [prefix, from] of Object.entries({ a, b })) {
      const to = new BatchNorm(5, { estimator: "population" });
      to.loadStateDict(tensors, { prefix });
      expect(to.stateDict()).toEqual(from.stateDict());
    }
    const alone = new BatchNorm(5, { estimator: "population" });
    alone.loadStateDict(readSafetensors(writeSafetensors(a.stateDict())).tensors);
    expect(alone.stateDict()).toEqual(a.stateDict());
  });

  test.each<[string, unknown, ErrorConstructor, RegExp]>([
    ["no object", null, TypeError, /^tensors: expected an object of named tensors, got null/],
    ["a list", [1], TypeError, /^tensors: expected an object of named tensors, got \[1\]/],
    [
      "a list of numbers",
      { a: [1, 2] },
      TypeError,
      /^a: expected an integer, a typed array or \{ data, shape \}, got \[/,
    ],
    ["text", { a: "b" }, TypeError, /^a: expected an integer, a typed array/],
    ["null", { a: null }, TypeError, /^a: expected an integer, a typed array/],
    ["a DataView", { a: new DataView(new ArrayBuffer(2)) }, TypeError, /^a: expected an integer, a typed array/],
    ["a Uint8ClampedArray", { a: new Uint8ClampedArray(2) }, TypeError, /^a: expected an integer, a typed array/],
    ["a fraction", { a: 0.5 }, RangeError, /^a: expected an integer of 64 bits, or an array, got 0\.5/],
    ["a number beyond 2^53", { a: 2 ** 53 }, RangeError, /^a: expected an integer of 64 bits/],
    ["a bigint beyond 64 bits", { a: 2n ** 63n }, RangeError, /^a: expected an integer of 64 bits/],
    ["a tensor without data", { a: { shape: [1] } }, TypeError, /^a: expected an integer, a typed array/],
    ["a tensor without a shape", { a: { data: new Int8Array(1) } }, RangeError, /^a\.shape: expected non-negative/],
    [
      "another shape",
      { a: { data: new Float32Array(4), shape: [3] } },
      RangeError,
      /^a: expected 12 bytes \(F32, \[3\]\), got 16/,
    ],
    [
      "a shape with a hole",
      // biome-ignore lint/suspicious/noSparseArray: holes are what is refused
      { a: { data: new Float32Array(3), shape: [3, , 1] } },
      RangeError,
      /^a\.shape: expected non-negative integers, got \[3, , 1\]$/,
    ],
    [
      "an unknown dtype",
      { a: { data: new Float32Array(1), shape: [1], dtype: "float33" } },
      RangeError,
      /^a\.dtype: expected one of BOOL, .*, got "float33"/,
    ],
    [
      "another array than the dtype's",
      { a: { data: new Float32Array(1), shape: [2], dtype: "F16" } },
      TypeError,
      /^a\.data: expected a Uint16Array, got Float32Array\(1\)/,
    ],
    [
      "a tensor named __metadata__",
      { __metadata__: 1 },
      RangeError,
      /^tensors: expected names other than __metadata__/,
    ],
    [
      "half of a surrogate pair in a name, whose escape no reader takes",
      { "a\ud800": 1 },
      RangeError,
      /^tensors: expected texts without halves of surrogate pairs, got "a\\ud800"$/,
    ],
  ])("refuses %s", (_, tensors, kind, message) => {
    expect(() => writeSafetensors(tensors as never)).toThrow(kind);
    expect(() => writeSafetensors(tensors as never)).toThrow(message);
  });

  test("refuses metadata that is no text", () => {
    expect(() => writeSafetensors({}, { a: 1 } as never)).toThrow(/^metadata\.a: expected a string, got 1/);
    expect(() => writeSafetensors({}, "a" as never)).toThrow(/^metadata: expected an object of strings, got "a"/);
    for (const metadata of [{ "\udc00": "a" }, { a: "b\ud83d" }, { "a\ud83d": "\ude00" }])
      expect(() => writeSafetensors({}, metadata)).toThrow(RangeError);
    expect({ ...readSafetensors(writeSafetensors({}, { "\u{1f600}": "\u{1f600}" })).metadata }).toEqual({
      "\u{1f600}": "\u{1f600}",
    });
  });

  test("refuses a header that no reader takes", () => {
    const write = () => writeSafetensors({ ["a".repeat(100_000_000)]: 1 });
    expect(write).toThrow(expect.objectContaining({ name: "BatchNormError", code: "safetensors" }) as Error);
    expect(write).toThrow(
      /^safetensors: header: expected at most 100000000 bytes, got 1000000\d\d; shorten the names of tensors, or write several/,
    );
  });
});

// ---- damage ---------------------------------------------------------------------------------------------------------

/** What holds of everything that is read: each tensor has its shape's elements, and writing it again changes nothing. */
function checkConsistent(read: SafetensorsFile): void {
  const again = readSafetensors(writeSafetensors(read.tensors, read.metadata));
  expect(again).toEqual(read);
}

describe("a damaged file is read consistently or refused with our error", () => {
  const bn = new BatchNorm(3);
  bn.forward({ data: normal(9, 30), shape: [10, 3] });
  const good = writeSafetensors(
    { ...bn.stateDict({ prefix: "bn" }), half: { dtype: "F16", shape: [2, 2], data: Uint16Array.of(1, 2, 3, 4) } },
    { format: "pt", note: 'a "quoted" \\ text: é' },
  );

  /** Whether it was read. */
  function attempt(bytes: Uint8Array): boolean {
    let read: SafetensorsFile;
    try {
      read = readSafetensors(bytes);
    } catch (error) {
      expect(error).toBeInstanceOf(BatchNormError);
      expect(error).toMatchObject({ code: "safetensors" });
      return false;
    }
    checkConsistent(read);
    return true;
  }

  test("as long as it is whole, it is read", () => expect(attempt(good)).toBe(true));

  test("cut anywhere, it is refused", () => {
    const read = Array.from(good.keys()).filter((length) => attempt(good.subarray(0, length)));
    expect(read).toEqual([]);
  });

  test("with bytes behind it, it is refused", () => {
    for (const more of [1, 2, 8, 100]) {
      const longer = new Uint8Array(good.length + more);
      longer.set(good);
      expect(attempt(longer)).toBe(false);
    }
  });

  test("with every bit flipped in turn", () => {
    const header = 8 + Number(new DataView(good.buffer).getBigUint64(0, true));
    const read = { header: 0, data: 0 };
    for (let bit = 0; bit < 8 * good.length; bit++) {
      const flipped = good.slice();
      flipped[bit >> 3] = (flipped[bit >> 3] as number) ^ (1 << (bit & 7));
      if (attempt(flipped)) read[bit >> 3 < header ? "header" : "data"]++;
    }
    // data may be anything; a name that is another name, or a letter in the metadata, is no damage that a reader can see
    expect(read.data).toBe(8 * (good.length - header));
    expect(read.header).toBeGreaterThan(0);
    expect(read.header).toBeLessThan(4 * header);
  });

  test("with random bytes replaced, moved and doubled", () => {
    const next = random(2024);
    const at = (length: number) => Math.floor(next() * length);
    let refused = 0;
    for (let round = 0; round < 3000; round++) {
      let bytes = good.slice();
      for (let k = at(4); k >= 0; k--) {
        const [from, to, length, way] = [at(bytes.length), at(bytes.length), at(40), at(4)];
        if (way < 2) bytes[8 + at(bytes.length - 8)] = at(256);
        else if (way === 2) bytes.copyWithin(to, from, from + length);
        else bytes = Uint8Array.from([...bytes.slice(0, to), ...bytes.slice(from, from + length), ...bytes.slice(to)]);
      }
      if (!attempt(bytes)) refused++;
    }
    expect(refused).toBeGreaterThan(1000);
    expect(Object.keys(Object.prototype)).toEqual([]);
  });
});

// ---- half precision -------------------------------------------------------------------------------------------------

describe("half precision becomes float32, exactly", () => {
  /** The values that a layer takes from a tensor of these bits, which are those of toFloat32. */
  function loaded(dtype: SafetensorsDtype, bits: Uint16Array): Float32Array {
    const bn = new BatchNorm(bits.length, { trackRunningStats: false, scale: false });
    const bias = { dtype, shape: [bits.length], data: bits };
    bn.loadStateDict({ bias }, { strict: false });
    expect(bn.beta).toEqual(toFloat32(bias));
    const name = dtype === "F16" ? "float16" : "bfloat16";
    expect(bn.beta).toEqual(toFloat32({ data: bits, dtype: name }));
    return bn.beta as Float32Array;
  }

  const ALL = Uint16Array.from({ length: 0x8000 }, (_, i) => i);

  test("all of F16", () => {
    // counted up: 1,024 steps to each binade, of 2⁻²⁴ in the first two, of twice the step before in every further one
    const expected = new Float32Array(0x8000).fill(Number.NaN);
    let value = 0;
    for (let bits = 0; bits < 0x7c00; bits++) {
      expected[bits] = value;
      value += 2 ** (Math.max(bits >> 10, 1) - 25);
    }
    expected[0x7c00] = Number.POSITIVE_INFINITY;
    expect(expected[0x7bff]).toBe(65504);
    expect(loaded("F16", ALL)).toBeAllclose(expected);
    const negative = loaded(
      "F16",
      ALL.map((bits) => bits | 0x8000),
    );
    expect(negative).toBeAllclose(expected.map((v) => -v));
    expect(Object.is(negative[0], -0)).toBe(true);
  });

  test("all of BF16", () => {
    const view = new DataView(new ArrayBuffer(4));
    const expected = Float32Array.from({ length: 0x10000 }, (_, bits) => {
      view.setUint16(0, bits);
      return view.getFloat32(0);
    });
    expect(
      loaded(
        "BF16",
        Uint16Array.from({ length: 0x10000 }, (_, i) => i),
      ),
    ).toBeAllclose(expected);
  });

  test("toFloat32 copies and rounds floats, and refuses what has no type", () => {
    const data = Float32Array.of(1, -0.5);
    expect(toFloat32({ data })).toEqual(data);
    expect(toFloat32({ data })).not.toBe(data);
    expect(toFloat32({ data: Float64Array.of(0.1, 1e300) })).toEqual(Float32Array.of(0.1, Number.POSITIVE_INFINITY));
    for (const wrong of [{ data: Uint16Array.of(1) }, { data: Int32Array.of(1), dtype: "F16" }, { data: [1] }, null, 5])
      expect(() => toFloat32(wrong as never)).toThrow(
        /^tensor: expected \{ data \} of a Float32Array, Float64Array, Float16Array, or a Uint16Array with dtype, got/,
      );
  });

  test("a model's half-precision entries load with its counts", () => {
    const half = (...data: number[]) => ({ dtype: "BF16" as const, shape: [2], data: Uint16Array.from(data) });
    const bytes = writeSafetensors({
      "bn.weight": half(0x3f80, 0xbf80),
      "bn.bias": { dtype: "F16", shape: [2], data: Uint16Array.of(0x3c00, 0xb800) },
      "bn.running_mean": half(0, 0x4000),
      "bn.running_var": half(0x3f00, 0x4120),
      "bn.num_batches_tracked": 3,
    });
    const bn = new BatchNorm(2);
    bn.loadStateDict(readSafetensors(bytes).tensors, { prefix: "bn" });
    expect(bn.stateDict()).toEqual({
      weight: Float32Array.of(1, -1),
      bias: Float32Array.of(1, -0.5),
      running_mean: Float32Array.of(0, 2),
      running_var: Float32Array.of(0.5, 10),
      num_batches_tracked: 3,
    });
  });

  test.each<[SafetensorsDtype, TensorData]>([
    ["I64", new BigInt64Array(2)],
    ["U16", new Uint16Array(2)],
    ["U8", new Uint8Array(2)],
    ["BOOL", new Uint8Array(2)],
    ["F8_E4M3", new Uint8Array(2)],
    ["C64", new Float32Array(2)],
  ])("%s is no vector of a layer", (dtype, data) => {
    const bn = new BatchNorm(2, { trackRunningStats: false, scale: false });
    expect(() => bn.loadStateDict({ bias: { dtype, shape: [2], data } })).toThrow(
      `bias: expected F64, F32, F16 or BF16, got ${dtype}`,
    );
  });
});
