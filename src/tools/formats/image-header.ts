// What the header of an image says of its size, so that an image is refused before it is decoded.

import { asIs, wrongFile } from "../../common/errors.ts";

/** The header of an image. */
export interface ImageHeader {
  readonly format: "JPEG" | "PNG" | "WebP";
  readonly width: number;
  readonly height: number;
  /** 1 for grey, with or without alpha, else 3. */
  readonly channels: 1 | 3;
  /** Bits per sample of what is decoded: 16 for PNG with 16 bits, else 8. */
  readonly depth: 8 | 16;
}

/**
 * The most pixels of an image. It is a chosen value: 10,000 × 10,000 pixels take 400 MB when they are decoded, and a PNG of
 * 300 kB can hold them.
 */
export const MAX_PIXELS = 100_000_000;

const PNG_SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];

/** Returns four characters of a file at an offset. */
const tag = (bytes: Uint8Array, at: number) => String.fromCharCode(...bytes.subarray(at, at + 4));

/**
 * Returns the header of an image. Throws BatchNormError "model-file", with the file's name, for another format, a file that
 * ends inside the header, and images that are not decoded: more than MAX_PIXELS, CMYK, animations.
 */
export function readImageHeader(name: string, bytes: Uint8Array): ImageHeader {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let header: ImageHeader;
  try {
    if (PNG_SIGNATURE.every((byte, i) => bytes[i] === byte)) header = pngHeader(name, view, bytes);
    else if (bytes[0] === 0xff && bytes[1] === 0xd8) header = jpegHeader(name, view);
    else if (tag(bytes, 0) === "RIFF" && tag(bytes, 8) === "WEBP") header = webpHeader(name, view, bytes);
    else
      throw wrongFile(name, "the file", "JPEG, PNG or WebP", asIs(bytes.length ? "something else" : "an empty file"));
  } catch (error) {
    // a DataView throws it for an offset beyond the end
    if (error instanceof RangeError)
      throw wrongFile(name, "the header", "a whole one", asIs("a file that ends inside it"));
    throw error;
  }
  const { width, height } = header;
  if (width < 1 || height < 1) throw wrongFile(name, "the size", "at least one pixel", asIs(`${width}×${height}`));
  if (width * height > MAX_PIXELS)
    throw wrongFile(
      name,
      "the size",
      `at most ${MAX_PIXELS} pixels`,
      asIs(`${width}×${height}`),
      "scale it down first",
    );
  return header;
}

/** Bits of a PNG's type of colour. */
const COLOUR = 2;

function pngHeader(name: string, view: DataView, bytes: Uint8Array): ImageHeader {
  if (tag(bytes, 12) !== "IHDR") throw wrongFile(name, "the first chunk", "IHDR", tag(bytes, 12));
  const [width, height] = [view.getUint32(16), view.getUint32(20)];
  const depth = view.getUint8(24) === 16 ? 16 : 8;
  return { format: "PNG", width, height, channels: view.getUint8(25) & COLOUR ? 3 : 1, depth };
}

/** Markers that start a frame: SOF0 to SOF15 without those for Huffman tables, extensions and arithmetic coding. */
const isFrame = (marker: number) => marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);

/** Markers without a length: TEM, and RST0 to SOI. */
const isAlone = (marker: number) => marker === 0x01 || (marker >= 0xd0 && marker <= 0xd8);

function jpegHeader(name: string, view: DataView): ImageHeader {
  for (let at = 2; ; ) {
    if (view.getUint8(at) !== 0xff) throw wrongFile(name, "a marker", "0xff", view.getUint8(at));
    const marker = view.getUint8(at + 1);
    if (marker === 0xff)
      at++; // fill bytes may stand before a marker
    else if (isAlone(marker)) at += 2;
    else if (isFrame(marker)) {
      const components = view.getUint8(at + 9);
      if (components !== 1 && components !== 3)
        throw wrongFile(name, "the image", "grey or colours of three components", components, "convert it to RGB");
      const [height, width] = [view.getUint16(at + 5), view.getUint16(at + 7)];
      return { format: "JPEG", width, height, channels: components, depth: 8 };
    } else if (marker === 0xd9 || marker === 0xda) throw wrongFile(name, "the image", "a frame", asIs("none"));
    else at += 2 + view.getUint16(at + 2);
  }
}

/** The bit of a WebP's features that says it is an animation. */
const ANIMATION = 2;

function webpHeader(name: string, view: DataView, bytes: Uint8Array): ImageHeader {
  const webp = (width: number, height: number): ImageHeader => ({
    format: "WebP",
    width,
    height,
    channels: 3,
    depth: 8,
  });
  const kind = tag(bytes, 12);
  if (kind === "VP8 ") return webp(view.getUint16(26, true) & 0x3fff, view.getUint16(28, true) & 0x3fff);
  if (kind === "VP8L") {
    const sizes = view.getUint32(21, true);
    return webp((sizes & 0x3fff) + 1, ((sizes >>> 14) & 0x3fff) + 1);
  }
  if (kind !== "VP8X") throw wrongFile(name, "the first chunk", "VP8, VP8L or VP8X", kind);
  if (view.getUint8(20) & ANIMATION)
    throw wrongFile(name, "the image", "a still one", asIs("an animation"), "save its frames as images");
  const size = (at: number) => 1 + view.getUint16(at, true) + (view.getUint8(at + 2) << 16);
  return webp(size(24), size(27));
}
