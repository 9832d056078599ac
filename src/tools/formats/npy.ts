// The header of a .npy file (NumPy Enhancement Proposal 1): one array, whose bytes follow the header.
//
//   | "\x93NUMPY" | major, minor: u8 | length: u16, from version 2 on u32 | a Python dictionary as text | data |

import { asIs, wrongFile } from "../../common/errors.ts";
import type { HeaderEntry, SafetensorsDtype } from "../../interop/safetensors.ts";
import { type ByteSource, readRange } from "../source.ts";

/** The first bytes of a .npy file. */
export const NPY_MAGIC = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59] as const;

/** The longest header that NumPy reads by default. */
const MAX_HEADER = 10_000;
/** Bytes before the header's text in the versions that have the longer prefix. */
const PREFIX = 12;

/** Types of elements of little-endian arrays, or of single bytes, under the names that safetensors has for them. */
const DTYPES: ReadonlyMap<string, readonly [dtype: SafetensorsDtype, bytes: number]> = new Map([
  ["|b1", ["BOOL", 1]],
  ["|u1", ["U8", 1]],
  ["|i1", ["I8", 1]],
  ["<u2", ["U16", 2]],
  ["<i2", ["I16", 2]],
  ["<u4", ["U32", 4]],
  ["<i4", ["I32", 4]],
  ["<u8", ["U64", 8]],
  ["<i8", ["I64", 8]],
  ["<f2", ["F16", 2]],
  ["<f4", ["F32", 4]],
  ["<f8", ["F64", 8]],
]);

/** The text that NumPy writes: three keys in alphabetical order. A structured type is a list, which does not match. */
const HEADER =
  /^\{'descr': '([^']{1,20})', 'fortran_order': (True|False), 'shape': \(((?:\d{1,16}(?:, ?|(?=\)))){0,64})\),? ?\}\s*$/;

/**
 * Reads the header of a .npy file. The offsets of the array count from `start`. Throws BatchNormError "model-file" for
 * a file that breaks a rule of the format, and for arrays of objects, structures, complex numbers, big-endian numbers and
 * Fortran's order.
 */
export async function openNpy(source: ByteSource): Promise<{ start: number; entry: HeaderEntry }> {
  const { name, size } = source;
  const prefix = await readRange(source, "the beginning", 0, Math.min(PREFIX, size));
  const major = prefix[6];
  if (prefix.length < PREFIX || !major || major > 3) throw wrongFile(name, "the version", "1, 2 or 3", major);
  const view = new DataView(prefix.buffer, prefix.byteOffset);
  const [begin, length] = major === 1 ? [10, view.getUint16(8, true)] : [12, view.getUint32(8, true)];
  if (length > MAX_HEADER) throw wrongFile(name, "the header", `at most ${MAX_HEADER} bytes`, length);
  const start = begin + length;
  const text = new TextDecoder("latin1").decode(await readRange(source, "the header", begin, start));
  const [, descr = "", order, sizes = ""] = HEADER.exec(text) ?? [];
  if (order === undefined)
    throw wrongFile(name, "the header", "a plain array", text, "save it by numpy.save without structures");
  const [dtype, bytes] = DTYPES.get(descr) ?? [];
  if (dtype === undefined || bytes === undefined)
    throw wrongFile(name, "the type", [...DTYPES.keys()].join(", "), descr, "convert it by array.astype, as to '<f4'");
  const shape = sizes
    .split(",")
    .filter((part) => part.trim())
    .map(Number);
  if (order === "True" && shape.length > 1)
    throw wrongFile(name, "the order", "C's", asIs("Fortran's"), "save numpy.ascontiguousarray(array)");
  const expected = shape.includes(0) ? 0 : shape.reduce((a, b) => a * b, bytes);
  if (expected !== size - start) throw wrongFile(name, "the data", `${expected} bytes for [${shape}]`, size - start);
  return { start, entry: { name, label: "the array", dtype, shape, begin: 0, end: expected } };
}
