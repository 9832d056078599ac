// An array in a file as batches of a data set: .npy, or a tensor of a safetensors file. Only ranges are in memory.

import { asIs, wrongFile } from "../common/errors.ts";
import { type HeaderEntry, tensorOf } from "../interop/safetensors.ts";
import type { Geometry } from "../tensor/shape.ts";
import { channelsOf, DATA_LAYOUTS, type DataBatch, type DataLayout, MAX_CHANNELS } from "./data-statistics.ts";
import { NPY_MAGIC, openNpy } from "./formats/npy.ts";
import { openSafetensors } from "./formats/safetensors.ts";
import { type ByteSource, readRange } from "./source.ts";

/** Options of arrayBatches. */
export interface ArrayOptions {
  /** Where the channels are; needed from three axes on. */
  readonly layout?: DataLayout;
  /** The name of a tensor of a safetensors file; not needed where there is only one. */
  readonly tensor?: string;
}

/** Bytes of a batch. It is a chosen value: a read of 8 MB takes much longer than its overhead. */
const BATCH_BYTES = 2 ** 23;

/** The types of elements that are numbers of at most 64 bits. Those of fewer than 16 bits but integers are left out. */
const NUMBERS = /^(BOOL|[UI](8|16|32|64)|B?F16|F32|F64)$/;

/**
 * Reads an array of a file in batches of shape [n, channels, m], for `dataStatistics` with layout "channels-first": an
 * array of a .npy file, or a tensor of a safetensors file. Throws BatchNormError "model-file" for a file that cannot be
 * read, and for options that do not fit it.
 */
export async function* arrayBatches(source: ByteSource, options: ArrayOptions = {}): AsyncGenerator<DataBatch> {
  const { start, entry } = await openArray(source, options.tensor);
  const { shape, dtype, begin, end, label } = entry;
  const geometry = geometryOf(source, entry, options.layout);
  if (geometry.length === 0) return;
  const bytes = (end - begin) / geometry.length;
  for (const { ranges, shape: piece } of piecesOf(geometry, Math.floor(BATCH_BYTES / bytes))) {
    const size = (ranges[0] as readonly number[])[1] as number;
    const all = new Uint8Array(ranges.length * size * bytes);
    let offset = 0;
    for (const [first, count] of ranges) {
      const at = start + begin + first * bytes;
      all.set(await readRange(source, label, at, at + count * bytes), offset);
      offset += count * bytes;
    }
    const { data } = tensorOf(all, 0, { ...entry, shape, begin: 0, end: all.length });
    yield { data, shape: piece, ...(/^B?F16$/.test(dtype) ? { dtype } : {}) };
  }
}

/** Returns where an array begins in a file, and its description. */
async function openArray(source: ByteSource, tensor?: string): Promise<{ start: number; entry: HeaderEntry }> {
  const { name, size } = source;
  const head = await readRange(source, "the beginning", 0, Math.min(NPY_MAGIC.length, size));
  if (NPY_MAGIC.every((byte, i) => head[i] === byte)) return openNpy(source);
  const { start, entries } = await openSafetensors(source);
  const entry = tensor === undefined && entries.length === 1 ? entries[0] : entries.find((one) => one.name === tensor);
  if (!entry) {
    const names = entries.map((one) => one.name);
    const known = names.length ? `one of ${names.slice(0, 8).join(", ")}${names.length > 8 ? "…" : ""}` : "a tensor";
    throw wrongFile(name, "the tensor", known, tensor ?? asIs("no name"), "pass its name as `tensor` (--tensor)");
  }
  if (!NUMBERS.test(entry.dtype))
    throw wrongFile(name, entry.label, "integers, or floats of 16 to 64 bits", entry.dtype, "convert it first");
  return { start, entry };
}

function geometryOf({ name }: ByteSource, { label, shape }: HeaderEntry, layout: DataLayout | undefined): Geometry {
  if (shape.length > 2 && layout === undefined)
    throw wrongFile(
      name,
      label,
      "at most two axes without a layout",
      shape,
      `pass \`layout\` (--layout): ${DATA_LAYOUTS.join(", ")}`,
    );
  const geometry = channelsOf(label, shape, layout);
  if (geometry.channels < 1 || geometry.channels > MAX_CHANNELS)
    throw wrongFile(
      name,
      label,
      `1 to ${MAX_CHANNELS} channels`,
      geometry.channels,
      "pass another `layout` (--layout)",
    );
  return geometry;
}

interface Piece {
  /** The first index and the number of elements of each range; all have the same number. */
  readonly ranges: readonly (readonly [first: number, count: number])[];
  readonly shape: readonly [n: number, channels: number, m: number];
}

/** Divides [outer, channels, inner] into pieces of at most `most` elements, or of one per channel. */
function* piecesOf({ outer, channels, inner }: Geometry, most: number): Generator<Piece> {
  const sample = channels * inner;
  const several = Math.floor(most / sample);
  for (let o = 0; several > 0 && o < outer; o += several) {
    const n = Math.min(several, outer - o);
    yield { ranges: [[o * sample, n * sample]], shape: [n, channels, inner] };
  }
  const part = Math.max(1, Math.floor(most / channels));
  for (let o = 0; several === 0 && o < outer; o++)
    for (let i = 0; i < inner; i += part) {
      const m = Math.min(part, inner - i);
      const ranges = Array.from({ length: channels }, (_, c) => [(o * channels + c) * inner + i, m] as const);
      yield { ranges, shape: [1, channels, m] };
    }
}
