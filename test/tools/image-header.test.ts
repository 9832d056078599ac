// Headers of images: sizes are known, and images refused, before anything is decoded. mean-std.test.ts has whole files.

import { describe, expect, test } from "vitest";
import { MAX_PIXELS, readImageHeader } from "../../src/tools/formats/image-header.ts";
import { random } from "../support/worlds.ts";

const ascii = (text: string) => Array.from(text, (c) => c.charCodeAt(0));
const u32 = (value: number) => [24, 16, 8, 0].map((shift) => (value >>> shift) & 0xff);
const u16 = (value: number) => u32(value).slice(2);
const little = (bytes: readonly number[]) => [...bytes].reverse();

const png = (width: number, height: number, depth = 8, colour = 2) => [
  ...[0x89, ...ascii("PNG\r\n\x1a\n"), ...u32(13), ...ascii("IHDR")],
  ...[...u32(width), ...u32(height), depth, colour, 0, 0, 0],
];
const segment = (marker: number, ...content: number[]) => [0xff, marker, ...u16(content.length + 2), ...content];
const frame = (width: number, height: number, components: number, marker = 0xc0) =>
  segment(marker, 8, ...u16(height), ...u16(width), components, ...Array(components * 3).fill(1));
const jpeg = (...segments: number[][]) => [0xff, 0xd8, ...segments.flat()];
const webp = (kind: string, ...content: number[]) => [
  ...[...ascii("RIFF"), 0, 0, 0, 0, ...ascii("WEBP"), ...ascii(kind), 0, 0, 0, 0],
  ...content,
];
const vp8 = (width: number, height: number) =>
  webp("VP8 ", 0, 0, 0, 0x9d, 0x01, 0x2a, ...little(u16(width)), ...little(u16(height)));
const vp8x = (features: number, width: number, height: number) =>
  webp("VP8X", features, 0, 0, 0, ...little(u32(width - 1).slice(1)), ...little(u32(height - 1).slice(1)));

const read = (bytes: readonly number[]) => readImageHeader("file", Uint8Array.from(bytes));

describe("a header", () => {
  const size = { width: 300, height: 20 };
  test.each([
    ["of PNG in colours", png(300, 20), { format: "PNG", channels: 3, depth: 8 }],
    ["of PNG in grey", png(300, 20, 1, 0), { channels: 1, depth: 8 }],
    ["of PNG in grey with alpha and 16 bits", png(300, 20, 16, 4), { channels: 1, depth: 16 }],
    ["of PNG with a palette", png(300, 20, 4, 3), { channels: 3, depth: 8 }],
    ["of PNG with alpha and 16 bits", png(300, 20, 16, 6), { channels: 3, depth: 16 }],
    ["of JPEG", jpeg(frame(300, 20, 3)), { format: "JPEG", channels: 3, depth: 8 }],
    ["of progressive JPEG in grey", jpeg(frame(300, 20, 1, 0xc2)), { channels: 1 }],
    [
      "of JPEG behind other segments, one of which has a thumbnail",
      jpeg(
        segment(0xe1, ...jpeg(frame(9, 9, 1))),
        [0xff],
        segment(0xc4, 1),
        segment(0xc8, 1),
        segment(0xcc, 1),
        frame(300, 20, 3),
      ),
      { channels: 3 },
    ],
    ["of lossy WebP", vp8(300, 20), { format: "WebP", channels: 3, depth: 8 }],
    ["of lossless WebP", webp("VP8L", 0x2f, ...little(u32(299 | (19 << 14)))), { channels: 3 }],
    ["of WebP with more features", vp8x(0x10, 300, 20), { channels: 3 }],
  ])("%s", (_, bytes, expected) => expect(read(bytes)).toMatchObject({ ...size, ...expected }));

  test.each([
    ["PNG", png(10_001, 10_000)],
    ["PNG", png(0xffffffff, 0xffffffff)],
    ["JPEG", jpeg(frame(65_535, 65_535, 3))],
    ["WebP", vp8(16_383, 16_383)],
    ["WebP", vp8x(0, 16_777_216, 16_777_216)],
  ])("of %s with more than 10⁸ pixels is refused", (_, bytes) =>
    expect(() => read(bytes)).toThrow(`file: the size: expected at most ${MAX_PIXELS} pixels, got`),
  );

  test("of 10⁸ pixels is read", () => expect(read(png(10_000, 10_000))).toMatchObject({ width: 10_000 }));

  test.each([
    ["nothing", [], "JPEG, PNG or WebP"],
    ["another format", ascii("GIF89a and more than that"), "JPEG, PNG or WebP"],
    ["no IHDR", png(1, 1).map((byte, i) => (i === 12 ? 0x58 : byte)), "the first chunk: expected"],
    ["no pixels", png(0, 5), "the size: expected at least one pixel"],
    ["no height", jpeg(frame(5, 0, 3)), "the size: expected at least one pixel"],
    ["four components", jpeg(frame(5, 5, 4)), "convert it to RGB"],
    ["no frame before a scan", jpeg(segment(0xda, 1)), "the image: expected"],
    ["no marker", jpeg([0x00, 0x01]), "a marker"],
    ["an animation", vp8x(2, 5, 5), "a still one"],
    ["another chunk", webp("ALPH", 0), "the first chunk"],
  ])("with %s is refused", (_, bytes, message) => {
    expect(() => read(bytes)).toThrow(expect.objectContaining({ name: "BatchNormError", code: "model-file" }));
    expect(() => read(bytes)).toThrow(message);
  });

  const whole = [png(300, 20), jpeg(segment(0xe0, 1, 2), frame(300, 20, 3)), vp8(300, 20), vp8x(0, 300, 20)];

  test("that ends early is refused", () => {
    // what stands behind the last byte that is read may be missing
    const needed = [26, 2 + 6 + 10, 30, 30];
    whole.forEach((bytes, i) => {
      for (let length = 0; length < (needed[i] as number); length++)
        expect(() => read(bytes.slice(0, length)), `${i}, ${length}`).toThrow(/^file: /);
      expect(read(bytes.slice(0, needed[i]))).toMatchObject(size);
    });
  });

  test("with other bytes is read or refused, within the limit", () => {
    const next = random(6);
    for (let i = 0; i < 5000; i++) {
      const bytes = [...(whole[i % whole.length] as number[])];
      for (let n = 0; n < 3; n++) bytes[Math.floor(next() * bytes.length)] = Math.floor(next() * 256);
      try {
        const { width, height } = read(bytes);
        expect(width * height).toBeLessThanOrEqual(MAX_PIXELS);
      } catch (error) {
        expect(error).toMatchObject({ code: "model-file" });
      }
    }
  });
});
