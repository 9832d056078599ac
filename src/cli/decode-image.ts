// Images as batches of a data set. Decoders are the WebAssembly builds of mozjpeg, Rust's png and libwebp that jSquash has
// (github.com/jamsinclair/jSquash).

import jpegWasm from "@jsquash/jpeg/codec/dec/mozjpeg_dec.wasm";
import decodeJpeg, { init as initJpeg } from "@jsquash/jpeg/decode.js";
import pngWasm from "@jsquash/png/codec/pkg/squoosh_png_bg.wasm";
import { decode as decodePng, init as initPng } from "@jsquash/png/decode.js";
import webpWasm from "@jsquash/webp/codec/dec/webp_dec.wasm";
import decodeWebp, { init as initWebp } from "@jsquash/webp/decode.js";
import { asIs, wrongFile } from "../common/errors.ts";
import type { DataBatch } from "../tools/data-statistics.ts";
import { type ImageHeader, readImageHeader } from "../tools/formats/image-header.ts";

interface Pixels {
  readonly width: number;
  readonly height: number;
  /** Red, green, blue and alpha of each pixel, not premultiplied. */
  readonly data: Uint8ClampedArray | Uint16Array;
}

/** The class of images in pages, which the decoders construct. */
class NodeImageData implements Pixels {
  readonly data: Uint8ClampedArray;
  readonly width: number;
  readonly height: number;
  constructor(data: Uint8ClampedArray, width: number, height: number) {
    this.data = data;
    this.width = width;
    this.height = height;
  }
}

/** What the decoders of JPEG and WebP have written to stderr since the latest call. */
let messages: string[] = [];
const moduleOf = (wasmBinary: Uint8Array) => ({ wasmBinary, printErr: (text: string) => void messages.push(text) });

const started = new Map<ImageHeader["format"], Promise<unknown>>();

/** Starts a decoder when its format comes for the first time. */
function start(format: ImageHeader["format"]): Promise<unknown> {
  const running = started.get(format);
  if (running) return running;
  Object.assign(globalThis, { ImageData: NodeImageData });
  const begun = {
    JPEG: () => initJpeg(moduleOf(jpegWasm)),
    WebP: () => initWebp(moduleOf(webpWasm)),
    PNG: () => initPng(pngWasm),
  }[format]();
  started.set(format, begun);
  return begun;
}

async function decode({ format, depth }: ImageHeader, bytes: Uint8Array<ArrayBuffer>): Promise<Pixels> {
  await start(format);
  messages = [];
  // the types say ArrayBuffer, and the decoders take both
  const file = bytes as unknown as ArrayBuffer;
  if (format === "JPEG") return decodeJpeg(file);
  if (format === "WebP") return decodeWebp(file);
  return depth === 16 ? decodePng(file, { bitDepth: 16 }) : decodePng(file);
}

/** A decoded image. */
export interface DecodedImage {
  /** Values from 0 to 255 in shape [pixels, channels, 1]. Samples of 16 bits are divided by 257. */
  readonly batch: DataBatch;
  readonly channels: 1 | 3;
  /** Whether it has pixels that are not opaque; alpha is not in the batch. */
  readonly hasAlpha: boolean;
  /** What the decoder complained of without giving up. */
  readonly warnings: readonly string[];
}

/**
 * Decodes an image; grey becomes three equal channels where `asRgb` is true. Throws BatchNormError "model-file", with the
 * file's name, for a damaged or truncated file, and for one that is refused by its header (readImageHeader).
 */
export async function decodeImage(name: string, bytes: Uint8Array<ArrayBuffer>, asRgb: boolean): Promise<DecodedImage> {
  const header = readImageHeader(name, bytes);
  let pixels: Pixels;
  try {
    pixels = await decode(header, bytes);
  } catch {
    // the decoders of PNG and WebP do not say what is wrong
    const reason = messages.join(", ") || "one that the decoder refuses";
    throw wrongFile(name, "the image", `a whole ${header.format}`, reason, "the file is damaged");
  }
  // libjpeg fills the rest with grey
  if (messages.some((text) => text.includes("Premature end")))
    throw wrongFile(
      name,
      "the image",
      `a whole ${header.format}`,
      asIs("a file that ends inside it"),
      "the file is damaged",
    );
  const { width, height } = pixels;
  if (width !== header.width || height !== header.height)
    throw wrongFile(name, "the image", `${header.width}×${header.height} pixels`, asIs(`${width}×${height}`));
  const channels = asRgb ? 3 : header.channels;
  return { ...withoutAlpha(pixels, channels), channels, warnings: messages };
}

function withoutAlpha({ data, width, height }: Pixels, channels: number): Pick<DecodedImage, "batch" | "hasAlpha"> {
  const is16Bit = data instanceof Uint16Array;
  const opaque = is16Bit ? 65535 : 255;
  const count = width * height;
  const values = is16Bit ? new Float64Array(count * channels) : new Uint8Array(count * channels);
  let hasAlpha = false;
  for (let from = 0, to = 0; from < data.length; from += 4) {
    for (let c = 0; c < channels; c++)
      values[to++] = is16Bit ? (data[from + c] as number) / 257 : (data[from + c] as number);
    if (data[from + 3] !== opaque) hasAlpha = true;
  }
  return { batch: { data: values, shape: [count, channels, 1] }, hasAlpha };
}
