// The formats of model files: how a file of each is recognised, and what reads it. A new format is one line of FORMATS.

import { asIs, wrongFile } from "../../common/errors.ts";
import type { BatchNormReader, BatchNormRecord, ModelFormat } from "../batch-norm-record.ts";
import { readOnnxBatchNorms } from "../onnx/read.ts";
import { type ByteSource, readRange } from "../source.ts";
import { SIGNATURE as HDF5 } from "./keras/hdf5.ts";
import { readKerasBatchNorms } from "./keras/index.ts";
import { SIGNATURE as ZIP } from "./keras/zip.ts";
import { readSafetensorsBatchNorms, readShardedBatchNorms } from "./safetensors.ts";
import { readTfjsBatchNorms } from "./tfjs/index.ts";

interface Format {
  readonly format: ModelFormat;
  /** Whether a file with these first bytes, at most HEAD, and this name is of the format. */
  matches(head: Uint8Array, name: string): boolean;
  readonly read: BatchNormReader;
}

/** Bytes at the beginning of a file by which formats are told apart. */
const HEAD = 16;

const startsWith = (head: Uint8Array, text: string) => [...text].every((c, i) => head[i] === c.charCodeAt(0));

/** Returns the first byte that is no space of JSON and no byte order mark. */
const firstByte = (head: Uint8Array) => head.find((byte) => ![0x20, 0x0a, 0x0d, 0x09, 0xef, 0xbb, 0xbf].includes(byte));

/** The formats, in the order in which they are tried: those that are known by content stand before those by name. */
const FORMATS: readonly Format[] = [
  // the upper bytes of the header's length, and its first character
  {
    format: "safetensors",
    matches: (head) => head[8] === 0x7b && !head[6] && !head[7],
    read: readSafetensorsBatchNorms,
  },
  {
    format: "safetensors",
    matches: (head, name) => firstByte(head) === 0x7b && /\.safetensors\.index\.json$/.test(name),
    read: readShardedBatchNorms,
  },
  // an object, or a list that is a manifest of weights
  { format: "tfjs", matches: (head) => [0x7b, 0x5b].includes(firstByte(head) as number), read: readTfjsBatchNorms },
  { format: "keras", matches: (head) => startsWith(head, HDF5), read: readKerasBatchNorms },
  {
    format: "keras",
    matches: (head, name) => startsWith(head, ZIP) && /\.keras$/i.test(name),
    read: readKerasBatchNorms,
  },
  // a protobuf message whose first field is the version of the format; the name, because fields may stand in any order
  {
    format: "onnx",
    matches: (head, name) =>
      (head[0] === 0x08 && (head[1] as number) < 32 && head[2] === 0x12) || /\.onnx$/i.test(name),
    read: readOnnxBatchNorms,
  },
];

/** Formats that are recognised and not read, by what their files begin with or are called, with the remedy. */
const OTHERS: readonly (readonly [matches: Format["matches"], what: string, remedy: string])[] = [
  [
    (head, name) => /\.(pt|pth|bin|ckpt|pkl)$/i.test(name) && (startsWith(head, "PK") || head[0] === 0x80),
    "a pickle of PyTorch, which runs code when it is read",
    'save it in Python by safetensors.torch.save_file(model.state_dict(), "model.safetensors")',
  ],
  [(head) => startsWith(head, "version https:"), "a pointer of Git LFS", "fetch the file itself by git lfs pull"],
];

/** Returns the format of a model file. Throws BatchNormError "model-file" for a file of none that is read. */
export async function formatOf(source: ByteSource): Promise<Format> {
  const { name, size } = source;
  const head = await readRange(source, "the beginning", 0, Math.min(HEAD, size));
  const other = OTHERS.find(([matches]) => matches(head, name));
  if (other) throw wrongFile(name, "the file", KNOWN, asIs(other[1]), other[2]);
  const found = FORMATS.find(({ matches }) => matches(head, name));
  if (!found) throw wrongFile(name, "the file", KNOWN, asIs(size ? "something else" : "an empty file"));
  return found;
}

/** Reads the batch norms of a model file of any format. */
export async function readBatchNorms(source: ByteSource): Promise<{ format: ModelFormat; records: BatchNormRecord[] }> {
  const { format, read } = await formatOf(source);
  return { format, records: await read(source) };
}

const KNOWN = "a model of safetensors, TF.js (model.json), Keras or ONNX";
