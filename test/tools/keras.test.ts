// Models of Keras 2 and 3: the values and options that Keras itself has in them (keras/generate.py), and damaged files.

import { readFileSync } from "node:fs";
import { unzipSync, zipSync, zlibSync } from "fflate";
import { describe, expect, test } from "vitest";
import { readSafetensors, type SafeTensor } from "../../src/interop/safetensors.ts";
import { floatsOf } from "../../src/tensor/half.ts";
import { readBatchNorms } from "../../src/tools/formats/index.ts";
import { type ByteSource, bytesSource, convert, inspect } from "../../src/tools/index.ts";
import { random } from "../support/worlds.ts";

const file = (name: string): Uint8Array => new Uint8Array(readFileSync(new URL(`./keras/${name}`, import.meta.url)));

interface Held {
  readonly name: string;
  readonly epsilon: number;
  readonly momentum: number;
  readonly axis: number;
  readonly gamma?: readonly number[];
  readonly beta?: readonly number[];
  readonly moving_mean: readonly number[];
  readonly moving_variance: readonly number[];
}
const EXPECTED: Readonly<Record<"keras2" | "keras3" | "types", readonly Held[]>> = JSON.parse(
  readFileSync(new URL("keras/expected.json", import.meta.url), "utf8"),
);

/** Names of the batch norms, in the order of the layers. */
const NAMES = {
  keras3: ["folds", "rows", "steps/wrapped", "functional_part/bn", "bn", "chain/of_dense"],
  // Keras 2 names variables after the wrapper, and not after the models around them
  keras2: ["block/bn", "rows", "steps", "functional_part/bn", "bn", "of_dense"],
  types: ["half", "brain", "double"],
} as const;

/** Files with a topology: which model it is, and the names of its batch norms if Keras's file has others. */
const WHOLE: readonly (readonly [name: string, held: keyof typeof EXPECTED, names?: readonly string[]])[] = [
  ["keras3.keras", "keras3"],
  ["keras3.h5", "keras3"],
  ["keras3-gzip.h5", "keras3"],
  ["keras3-deflated.keras", "keras3"],
  ["keras2.h5", "keras2"],
  ["keras2.keras", "keras2", ["block/bn", ...NAMES.keras3.slice(1)]],
  ["types.keras", "types"],
];

const sourceOf = (name: string, bytes = file(name)) => bytesSource(name, bytes);
const list = (vector: ArrayLike<number> | undefined) => vector && Array.from(vector);
const valuesOf = ({ gamma, beta, moving_mean: mean, moving_variance: variance }: Held) => [gamma, beta, mean, variance];

describe.each(WHOLE.map(([name, held, names]) => ({ name, held, names: names ?? NAMES[held] })))("$name", (model) => {
  const { name, held, names } = model;
  const expected = EXPECTED[held];

  test("has the values and options that Keras has", async () => {
    const { format, records } = await readBatchNorms(sourceOf(name));
    expect(format).toBe("keras");
    expect(records.map((record) => record.name)).toEqual(names);
    for (const [i, record] of records.entries()) {
      const layer = expected[i] as Held;
      expect([record.gamma, record.beta, record.mean, record.variance].map(list)).toEqual(valuesOf(layer));
      const { epsilon, momentum } = layer;
      expect(record).toMatchObject({ convention: "keras", epsilon, momentum, channels: layer.moving_mean.length });
    }
  });

  test("is converted with all its tensors", async () => {
    const { report, bytes } = await convert(sourceOf(name), { to: "flax" });
    const { tensors } = readSafetensors(await bytes());
    const vector = (layer: string, part: string) => {
      const tensor = tensors[`${layer}/${part}`];
      return tensor && Array.from(floatsOf(tensor.data, tensor.dtype) as ArrayLike<number>);
    };
    for (const [i, layer] of names.entries())
      expect([
        ...["scale", "bias"].map((part) => vector(`params/${layer}`, part)),
        ...["mean", "var"].map((part) => vector(`batch_stats/${layer}`, part)),
      ]).toEqual(valuesOf(expected[i] as Held));
    expect(report.unconverted).toEqual([]);
    const parts = expected.flatMap((layer) => valuesOf(layer).filter(Boolean)).length;
    expect(Object.keys(tensors)).toHaveLength(parts + report.others);
    expect(report.layers.map(({ epsilon }) => epsilon).sort()).toEqual(expected.map(({ epsilon }) => epsilon).sort());
  });
});

describe("findings", () => {
  test.each(["keras3.keras", "keras3.h5", "keras2.h5"])("of %s are those of its topology", async (name) => {
    const { layers, findings } = await inspect(sourceOf(name));
    const [folds, rows] = layers.map((layer) => layer.name);
    const codes = (layer: string | undefined) =>
      findings.filter((finding) => finding.layer === layer).map(({ code }) => code);
    expect(codes(folds)).toEqual(["not-folded"]);
    expect(codes(rows)).toEqual(["axis-differs", "channels-differ"]);
    expect(codes("functional_part/bn")).toEqual(["large-epsilon"]);
    expect(codes(layers[5]?.name)).toEqual(["not-folded"]);
    expect(findings).toHaveLength(5);
    expect(layers[0]?.before).toMatchObject({ type: "Conv1D", channels: 6, axis: 2, isFoldable: true });
    expect(layers[1]?.before).toMatchObject({ name: "pointwise", isFoldable: false });
    expect(layers[5]?.momentum).toEqual({ pytorch: 0.1, keras: 0.9 });
  });
});

describe("weights alone", () => {
  test("of Keras 2 have the values, and no options", async () => {
    const { records } = await readBatchNorms(sourceOf("keras2-weights.h5"));
    expect(records.map(({ name }) => name).sort()).toEqual(NAMES.keras2.slice().sort());
    for (const record of records) {
      const layer = EXPECTED.keras2[NAMES.keras2.indexOf(record.name as "bn")] as Held;
      expect([record.gamma, record.beta, record.mean, record.variance].map(list)).toEqual(valuesOf(layer));
      expect(record).not.toHaveProperty("epsilon");
    }
  });

  test("of Keras 3 are known by their class, and a layer whose variables are not clear is not used", async () => {
    const source = sourceOf("keras3.weights.h5");
    const { records } = await readBatchNorms(source);
    // the class of a layer in a wrapper is not in the file
    const names = NAMES.keras3.filter((name) => name !== "steps/wrapped");
    expect(records.map(({ name }) => name).sort()).toEqual(names.slice().sort());
    for (const { name, gamma, beta, mean, variance, problems } of records) {
      const layer = EXPECTED.keras3[NAMES.keras3.indexOf(name as "bn")] as Held;
      const isClear = name !== "folds";
      const known = isClear ? valuesOf(layer) : [undefined, undefined, layer.moving_mean, layer.moving_variance];
      expect([gamma, beta, mean, variance].map(list)).toEqual(known);
      expect(problems).toEqual(isClear ? undefined : [expect.stringContaining("may be gamma or beta")]);
    }
    const { report } = await convert(source, { to: "pytorch" });
    expect(report.unconverted).toEqual([{ name: "folds", reason: expect.stringContaining("may be gamma or beta") }]);
    expect(report.layers.map(({ name }) => name).sort()).toEqual(names.filter((name) => name !== "folds").sort());
  });

  test('written with libver="latest" are read', async () => {
    const { records } = await readBatchNorms(sourceOf("types-latest.weights.h5"));
    expect(records.map(({ mean, dtype }) => [list(mean), dtype])).toEqual(
      EXPECTED.types.map(({ moving_mean: mean }, i) => [mean, ["float16", "bfloat16", "float64"][i]]),
    );
  });
});

test("tensors of other layers keep their bytes", async () => {
  const { tensors } = readSafetensors(await (await convert(sourceOf("keras2.h5"), { to: "pytorch" })).bytes());
  const other = readSafetensors(await (await convert(sourceOf("keras2.keras"), { to: "pytorch" })).bytes());
  const kernel = tensors["block/conv/kernel"] as SafeTensor;
  expect(kernel).toMatchObject({ dtype: "F32", shape: [3, 6, 6] });
  expect(kernel.data).toEqual(other.tensors["layers/conv1d/vars/0"]?.data);
  expect(new Set(kernel.data as Float32Array).size).toBeGreaterThan(100);
});

test("gzip, shuffle and checksums give the same tensors", async () => {
  const read = async (name: string) => readSafetensors(await (await convert(sourceOf(name), { to: "tfjs" })).bytes());
  expect((await read("keras3-gzip.h5")).tensors).toEqual((await read("keras3.h5")).tensors);
});

test("of weights that an archive stores, the ranges of batch norms alone are read", async () => {
  const whole = file("keras3.keras");
  // the archive with a hole of 50 MB that nothing refers to
  const hole = 50_000_000;
  const large: ByteSource = {
    name: "large.keras",
    size: whole.length + hole,
    read: async (begin, end) => {
      read += end - begin;
      const at = (i: number) => (i < hole ? 0 : (shifted[i - hole] as number));
      return Uint8Array.from({ length: end - begin }, (_, i) => at(begin + i));
    },
    sibling: async () => expect.fail("has no other files"),
  };
  const shifted = whole.slice();
  const view = new DataView(shifted.buffer);
  for (let i = 0; i + 4 <= whole.length; i++) {
    const signature = view.getUint32(i, true);
    if (signature === 0x02014b50) view.setUint32(i + 42, view.getUint32(i + 42, true) + hole, true);
    if (signature === 0x06054b50) view.setUint32(i + 16, view.getUint32(i + 16, true) + hole, true);
  }
  let read = 0;
  // formatOf looks at the beginning
  const begun = {
    ...large,
    read: (b: number, e: number) => (e <= 16 ? sourceOf("x", whole).read(b, e) : large.read(b, e)),
  };
  expect((await inspect(begun)).layers).toHaveLength(6);
  expect(read).toBeLessThan(3 * whole.length);
});

/** Expects that a file is refused, with these texts in the message. */
async function refuses(name: string, bytes: Uint8Array, ...texts: string[]): Promise<void> {
  const error: Error = await convert(sourceOf(name, bytes), { to: "pytorch" })
    .then(({ bytes }) => bytes())
    .then(
      () => expect.fail("was read"),
      (reason) => reason,
    );
  expect(error).toMatchObject({ name: "BatchNormError", code: "model-file" });
  expect(error.message.startsWith(`${name}: `)).toBe(true);
  for (const text of texts) expect(error.message).toContain(text);
}

/** Returns a copy of bytes with some of them written by a function. */
function edited(bytes: Uint8Array, edit: (view: DataView, find: (text: string, from?: number) => number) => void) {
  const copy = bytes.slice();
  const text = Array.from(copy, (byte) => String.fromCharCode(byte)).join("");
  edit(new DataView(copy.buffer), (part, from) => {
    const at = text.indexOf(part, from);
    if (at < 0) expect.fail(`no ${part}`);
    return at;
  });
  return copy;
}

describe("an archive is refused", () => {
  const parts = unzipSync(file("keras3.keras"));
  const packed = zipSync({
    "config.json": parts["config.json"] as Uint8Array,
    "model.weights.h5": new Uint8Array(1e6),
  });
  const ENTRY = "PK\x01\x02";

  test("without weights", () =>
    refuses("a.keras", zipSync({ "config.json": parts["config.json"] as Uint8Array }), "model.weights.h5", "got none"));

  test("that is cut off", () => refuses("a.keras", file("keras3.keras").slice(0, 60_000), "the file is cut off"));

  test("with an entry that claims a size beyond deflate's ratio", () =>
    refuses(
      "a.keras",
      edited(packed, (view, find) => view.setUint32(find(ENTRY) + 24, 0xfffffff0, true)),
      "config.json: expected at most",
    ));

  test("with an entry that claims more than is decompressed at once", () => {
    const next = random(1);
    const noise = zipSync({ "config.json": new Uint8Array(300_000).map(() => 256 * next()) }, { level: 1 });
    const claiming = edited(noise, (view, find) => view.setUint32(find(ENTRY) + 24, 300_000_000, true));
    return refuses("a.keras", claiming, "expected at most 268435456 bytes", "got 300000000");
  });

  test("with an entry that becomes more or fewer bytes than it claims", async () => {
    const claiming = (size: number) => edited(packed, (view, find) => view.setUint32(find(ENTRY) + 24, size, true));
    await refuses("a.keras", claiming(100), "expected 100 bytes, as the directory says");
    await refuses("a.keras", claiming((parts["config.json"]?.length as number) + 1), "as the directory says");
  });

  test("that is encrypted, or compressed in another way", async () => {
    const at = (offset: number, value: number) =>
      edited(packed, (view, find) => view.setUint16(find(ENTRY) + offset, value, true));
    await refuses("a.keras", at(8, 1), "password");
    await refuses("a.keras", at(10, 93), "the method 93");
  });

  test("whose files lie outside of it", () =>
    refuses(
      "a.keras",
      edited(file("keras3.keras"), (view, find) => view.setUint32(find(ENTRY, find(ENTRY) + 1) + 42, 1e9, true)),
      "a range inside",
    ));
});

describe("an archive of more than 4 GiB", () => {
  test("has its sizes in extra fields, and its directory in a record of its own", async () => {
    // the same archive, written as a large one
    const whole = file("keras3.keras");
    const view = new DataView(whole.buffer);
    const end = whole.length - 22;
    const [count, directory] = [view.getUint16(end + 10, true), view.getUint32(end + 16, true)];
    const out: number[] = [...whole.subarray(0, directory)];
    const begin = out.length;
    for (let at = directory, i = 0; i < count; i++) {
      const [name, extra] = [view.getUint16(at + 28, true), view.getUint16(at + 30, true)];
      const entry = new DataView(whole.slice(at, at + 46).buffer);
      const large = new DataView(new ArrayBuffer(28));
      large.setUint16(0, 1, true);
      large.setUint16(2, 24, true);
      for (const [k, offset] of [24, 20, 42].entries()) {
        large.setBigUint64(4 + 8 * k, BigInt(entry.getUint32(offset, true)), true);
        entry.setUint32(offset, 0xffffffff, true);
      }
      entry.setUint16(30, 28, true);
      out.push(
        ...new Uint8Array(entry.buffer),
        ...whole.subarray(at + 46, at + 46 + name),
        ...new Uint8Array(large.buffer),
      );
      at += 46 + name + extra;
    }
    const record = new DataView(new ArrayBuffer(56 + 20));
    record.setUint32(0, 0x06064b50, true);
    record.setBigUint64(40, BigInt(out.length - begin), true);
    record.setBigUint64(48, BigInt(begin), true);
    record.setUint32(56, 0x07064b50, true);
    record.setBigUint64(64, BigInt(out.length), true);
    const last = new DataView(whole.slice(end).buffer);
    last.setUint32(12, 0xffffffff, true);
    last.setUint32(16, 0xffffffff, true);
    const bytes = Uint8Array.of(...out, ...new Uint8Array(record.buffer), ...new Uint8Array(last.buffer));
    const report = await inspect(sourceOf("keras3.keras"));
    expect(await inspect(sourceOf("keras3.keras", bytes))).toEqual(report);
  });
});

describe("a file of HDF5 is refused", () => {
  const whole = file("keras3.h5");
  const address = (view: DataView, at: number, value: number) => view.setBigUint64(at, BigInt(value), true);

  test("whose links are in a heap", () => refuses("heap.h5", file("heap.h5"), "fractal heap", 'libver="latest"'));

  test("that has a group inside itself", () => {
    // the address of the root group's header stands at 64, that of its first object in its first symbol table
    const cyclic = edited(whole, (view, find) =>
      address(view, find("SNOD") + 8 + 8, Number(view.getBigUint64(64, true))),
    );
    return refuses("a.h5", cyclic, "at most 100 groups inside each other");
  });

  test("whose tree has itself as a child", () => {
    const cyclic = edited(whole, (view, find) => {
      const tree = find("TREE");
      view.setUint8(tree + 5, 1);
      address(view, tree + 32, tree);
    });
    return refuses("a.h5", cyclic, "a node of type 0 and level 0");
  });

  test("whose tree would be read again and again", () => {
    // each of nine levels has 30 times the same node of the next one, and the last is empty: 30⁹ nodes
    const bomb = edited(whole, (view, find) => {
      const tree = find("TREE");
      let node = whole.length - 30_000;
      view.setUint8(tree + 5, 9);
      for (let level = 9, at = tree; level >= 0; level--, at = node, node += 1000) {
        for (const [i, char] of [..."TREE"].entries()) view.setUint8(at + i, char.charCodeAt(0));
        view.setUint8(at + 4, 0);
        view.setUint8(at + 5, level);
        view.setUint16(at + 6, level ? 30 : 0, true);
        for (let i = 0; i < 30; i++) address(view, at + 32 + 16 * i, node);
      }
    });
    return refuses("a.h5", bomb, "parts that do not overlap");
  });

  test("that is cut off", () => refuses("a.h5", whole.slice(0, 40_000), "inside the file"));

  test("with a size of addresses that no computer has", () =>
    refuses(
      "a.h5",
      edited(whole, (view) => view.setUint8(13, 4)),
      "addresses and lengths of 8 bytes",
    ));

  test("with a chunk that becomes more bytes than it may", () => {
    const gzip = file("keras3-gzip.h5");
    const bomb = edited(gzip, (view, find) => {
      const packed = zlibSync(new Uint8Array(50_000), { level: 9 });
      // the chunks of the kernel, [2, 3, 3], take more than the compressed zeros
      let at = find("x\x5e");
      while (find("x\x5e", at + 1) - at < packed.length + 4) at = find("x\x5e", at + 1);
      for (const [i, byte] of packed.entries()) view.setUint8(at + i, byte);
    });
    return refuses("a.h5", bomb, "expected chunks of");
  });

  test("with chunks that claim more bytes than deflate makes of them", () => {
    const gzip = file("keras3-gzip.h5");
    // a layout of version 3 and class 2 with two axes, those of a vector: behind them are the address of the tree, whose first
    // chunk becomes its only one, and the size of a chunk
    const bomb = edited(gzip, (view, find) => {
      const layout = find("\x03\x02\x02");
      view.setUint16(Number(view.getBigUint64(layout + 3, true)) + 6, 1, true);
      view.setUint32(layout + 11, 0x7fffffff, true);
    });
    return refuses("a.h5", bomb, "bytes of");
  });

  test("whose configuration is no JSON, or no model", async () => {
    const changed = (text: string) =>
      edited(whole, (view, find) => {
        const at = find('{"class_name": "Functional"');
        for (const [i, char] of [...text].entries()) view.setUint8(at + i, char.charCodeAt(0));
      });
    await refuses("a.h5", changed("["), "model_config", "JSON");
    await refuses("a.h5", changed('{"class_names'), "");
  });
});
