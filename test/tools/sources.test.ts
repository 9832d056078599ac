// Sources of bytes: which files a model file may name, and that ranges are checked before anything is read.

import { describe, expect, test } from "vitest";
import { blobSource, bytesSource } from "../../src/tools/index.ts";
import { readRange, readWhole, siblingPath } from "../../src/tools/source.ts";

const REFUSED = expect.objectContaining({ name: "BatchNormError", code: "model-file" }) as Error;
const bytes = Uint8Array.of(1, 2, 3, 4);

describe("the path of a file beside a model", () => {
  test.each([
    ["weights.bin", "weights.bin"],
    ["./shards/a.bin", "shards/a.bin"],
    ["shards//a b..bin", "shards/a b..bin"],
  ])("%s is taken", (path, inside) => expect(siblingPath("model.json", path)).toBe(inside));

  test.each([
    ["/etc/passwd"],
    ["../secret"],
    ["a/../../secret"],
    ["..\\secret"],
    ["C:\\secret"],
    ["https://example.com/a.bin"],
    ["a\0b"],
    [""],
    ["."],
    [7],
    [null],
  ])("%j is refused", (path) => expect(() => siblingPath("model.json", path)).toThrow(REFUSED));
});

describe.each([
  ["bytes", bytesSource("m", bytes, { "a/b": Uint8Array.of(9) })],
  [
    "Blobs",
    blobSource(Object.assign(new Blob([bytes]), { name: "m" }), [
      Object.assign(new Blob([Uint8Array.of(9)]), { name: "a/b" }),
    ]),
  ],
])("a source of %s", (_, source) => {
  test("gives ranges and files beside it", async () => {
    expect([source.name, source.size]).toEqual(["m", 4]);
    expect(Array.from(await readRange(source, "here", 1, 3))).toEqual([2, 3]);
    const other = await source.sibling("./a/b");
    expect([other.name, other.size, ...(await readWhole(other, 1))]).toEqual(["a/b", 1, 9]);
    expect((await other.sibling("a/b")).size).toBe(1);
  });

  test("refuses files that are not there or outside", async () => {
    await expect(source.sibling("c")).rejects.toThrow("m: the file c beside it: expected a file, got");
    await expect(source.sibling("../m")).rejects.toThrow(REFUSED);
    await expect((await source.sibling("a/b")).sibling("/m")).rejects.toThrow(REFUSED);
  });

  test.each([
    [-1, 2],
    [2, 5],
    [3, 2],
    [0.5, 1],
    [0, Number.NaN],
    [0, 2 ** 60],
  ])("refuses the range %d to %d", async (begin, end) => {
    const reading = readRange(source, "tensor a", begin, end);
    await expect(reading).rejects.toThrow(REFUSED);
    // before anything is read
    await expect(reading).rejects.toThrow("m: tensor a: expected a range inside the file's 4 bytes, got");
  });

  test("is not read whole beyond a limit", async () => {
    await expect(readWhole(source, 3)).rejects.toThrow("m: the file: expected at most 3 bytes, got 4");
  });
});
