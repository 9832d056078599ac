// Arrays in files as batches: which elements come in which order, and which files are refused before anything is allocated.

import { describe, expect, test } from "vitest";
import { type WritableTensor, writeSafetensors } from "../../src/interop/safetensors.ts";
import {
  type ArrayOptions,
  arrayBatches,
  type ByteSource,
  bytesSource,
  type DataBatch,
  dataStatistics,
} from "../../src/tools/index.ts";
import { random } from "../support/worlds.ts";
import { npy } from "./arrays.ts";

/** Returns all batches of a file; they are copied, as a program may keep them. */
async function batchesOf(file: Uint8Array | ByteSource, options: ArrayOptions = {}): Promise<DataBatch[]> {
  const source = file instanceof Uint8Array ? bytesSource("x", file) : file;
  const all: DataBatch[] = [];
  for await (const batch of arrayBatches(source, options)) all.push(batch);
  return all;
}

const meanOf = async (batches: readonly DataBatch[]) =>
  (await dataStatistics(batches, { layout: "channels-first" })).mean;

const REFUSED = { name: "BatchNormError", code: "model-file" };

describe("a .npy file", () => {
  const values = [3, 1, 200, 7, 5, 6];
  test.each([
    ["|u1", Uint8Array],
    ["|i1", Int8Array],
    ["<u2", Uint16Array],
    ["<i2", Int16Array],
    ["<u4", Uint32Array],
    ["<i4", Int32Array],
    ["<f4", Float32Array],
    ["<f8", Float64Array],
  ] as const)("of type %s", async (descr, ArrayOf) => {
    const data = (ArrayOf as typeof Float64Array).from(values);
    for (const version of [1, 2, 3])
      expect(await batchesOf(npy(descr, [3, 2], data, { version }))).toEqual([{ data, shape: [3, 2, 1] }]);
  });

  test("of booleans, of 16-bit floats and of 64-bit integers", async () => {
    expect((await batchesOf(npy("|b1", [2], Uint8Array.of(0, 1))))[0]?.data).toEqual(Uint8Array.of(0, 1));
    const half = await batchesOf(npy("<f2", [2], Uint16Array.of(0x3c00, 0xc000)));
    expect(await meanOf(half)).toEqual([-0.5]);
    const long = await batchesOf(npy("<i8", [2], BigInt64Array.of(-4n, 2n)));
    expect(await meanOf(long)).toEqual([-1]);
  });

  test.each([
    [[], 1, [1, 1, 1]],
    [[4], 4, [1, 1, 4]],
    [[0, 3], 0, undefined],
  ])("of shape %j", async (shape, size, expected) => {
    const batches = await batchesOf(npy("|u1", shape, new Uint8Array(size)));
    expect(batches.map((batch) => batch.shape)).toEqual(expected ? [expected] : []);
  });

  const one = Uint8Array.of(1);
  test.each([
    ["nothing", new Uint8Array(), ""],
    ["its first bytes alone", npy("|u1", [1], one).subarray(0, 8), "the version: expected 1, 2 or 3"],
    ["version 4", npy("|u1", [1], one, { version: 4 }), "the version: expected 1, 2 or 3, got 4"],
    ["a header beyond the file", npy("|u1", [1], one).subarray(0, 40), "the header: expected a range inside the file"],
    [
      "a header of 4 GB",
      npy("|u1", [1], one, { version: 2 }).fill(0xff, 8, 12),
      "the header: expected at most 10000 bytes, got 4294967295",
    ],
    ["objects", npy("|O", [1], one), "the type: expected |b1"],
    ["big-endian numbers", npy(">f4", [1], Float32Array.of(1)), 'got ">f4"; convert it'],
    ["complex numbers", npy("<c8", [1], Float64Array.of(1)), "the type"],
    [
      "a structure",
      npy("", [1], one, { header: "{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (1,), }" }),
      "a plain array",
    ],
    ["code", npy("", [1], one, { header: "{'descr': '|u1', 'fortran_order': False, 'shape': (f(),), }" }), "a plain"],
    [
      "a negative size",
      npy("", [1], one, { header: "{'descr': '|u1', 'fortran_order': False, 'shape': (-1,), }" }),
      "a plain",
    ],
    ["Fortran's order", npy("|u1", [1, 1], one, { order: "True" }), "the order: expected"],
    ["more data than there are", npy("<f4", [1_000_000, 1_000_000], one), "the data: expected 4000000000000 bytes"],
    [
      "more data than a number counts",
      npy("|u1", Array(9).fill(1e15), one),
      "the data: expected 1.0000000000000001e+135 bytes",
    ],
    ["fewer data than there are", npy("|u1", [1], Uint8Array.of(1, 2)), "the data: expected 1 bytes for [1], got 2"],
    ["too many channels", npy("|u1", [1, 70_000], new Uint8Array(70_000)), "1 to 65536 channels, got 70000"],
    ["three axes and no layout", npy("|u1", [1, 1, 1], one), "at most two axes without a layout, got [1, 1, 1]"],
  ])("with %s is refused", async (_, file, message) => {
    const error = await batchesOf(file).catch((reason: unknown) => reason);
    expect(error).toMatchObject(REFUSED);
    expect((error as Error).message).toContain(message);
  });

  test("of which any byte of the header is another, is read or refused", async () => {
    const file = npy("<f4", [2, 3], Float32Array.of(1, 2, 3, 4, 5, 6));
    const next = random(5);
    let refused = 0;
    for (let i = 0; i < 3000; i++) {
      const changed = file.slice();
      const at = Math.floor(next() * (file.length - 24));
      changed[at] = Math.floor(next() * 256);
      const outcome = await batchesOf(changed).catch((reason: unknown) => reason);
      if (Array.isArray(outcome)) continue;
      expect(outcome).toMatchObject(REFUSED);
      refused++;
    }
    expect(refused).toBeGreaterThan(500);
  });
});

describe("a tensor of a safetensors file", () => {
  const safe = (tensors: Record<string, WritableTensor>) => writeSafetensors(tensors);
  const x = { data: Float32Array.of(1, 2, 3, 4, 5, 6), shape: [3, 2] };

  test("is found by its name, or is the only one", async () => {
    const expected = [{ data: x.data, shape: [3, 2, 1] }];
    expect(await batchesOf(safe({ x }))).toEqual(expected);
    expect(await batchesOf(safe({ a: Uint8Array.of(9), x }), { tensor: "x" })).toEqual(expected);
  });

  test("of bfloat16 is read as such", async () => {
    const data = Uint16Array.of(0x3f80, 0xc000);
    const batches = await batchesOf(safe({ x: { data, shape: [2], dtype: "BF16" } }));
    expect(await meanOf(batches)).toEqual([-0.5]);
  });

  test.each([
    ["another name", { x }, { tensor: "y" }, 'the tensor: expected one of x, got "y"'],
    ["no name of two", { x, y: x }, {}, "the tensor: expected one of x, y, got no name"],
    ["no tensor", {}, {}, "the tensor: expected a tensor, got no name"],
    ["complex numbers", { x: { ...x, shape: [3], dtype: "C64" as const } }, {}, "integers, or floats of 16 to 64 bits"],
  ])("%s is refused", async (_, tensors, options, message) => {
    const error = await batchesOf(safe(tensors as Record<string, WritableTensor>), options).catch((reason) => reason);
    expect(error).toMatchObject(REFUSED);
    expect(error.message).toContain(message);
  });
});

describe("an array larger than a batch", () => {
  /** Bytes that follow from their place, without memory for all of them, behind a header of .npy. */
  function made(shape: readonly number[]) {
    const header = npy("|u1", shape, new Uint8Array());
    const size = header.length + shape.reduce((a, b) => a * b, 1);
    let most = 0;
    const source: ByteSource = {
      ...bytesSource("made", header),
      size,
      async read(begin, end) {
        most = Math.max(most, end - begin);
        return Uint8Array.from({ length: end - begin }, (_, i) => {
          const at = begin + i - header.length;
          return at < 0 ? (header[begin + i] as number) : valueAt(at);
        });
      },
    };
    return { source, most: () => most };
  }
  const valueAt = (index: number) => ((index * 2_654_435_761) >>> 24) & 0xff;

  test.each([
    ["many samples", [6_000, 3, 1000], "channels-first"],
    ["samples that are larger than a batch", [2, 3, 3_000_001], "channels-first"],
    ["channels last", [3, 2_000_001, 3], "channels-last"],
    ["one channel", [3, 2_000_001, 3], "one-channel"],
  ] as const)("%s: every element is in its channel once", async (_, shape, layout) => {
    const { source, most } = made(shape);
    const statistics = await dataStatistics(arrayBatches(source, { layout }), { layout: "channels-first" });

    const channels = layout === "one-channel" ? 1 : 3;
    const inner = layout === "channels-first" ? shape[2] : 1;
    const size = shape[0] * shape[1] * shape[2];
    const sums = [0, 0, 0];
    for (let i = 0; i < size; i++) {
      const c = Math.floor(i / inner) % channels;
      sums[c] = (sums[c] as number) + valueAt(i);
    }
    const count = size / channels;
    expect(statistics.count).toEqual(Array(channels).fill(count));
    expect(statistics.mean).toEqual(sums.slice(0, channels).map((sum) => sum / count));
    expect(most()).toBeLessThanOrEqual(2 ** 23);
  });
});
