// Reading and writing files of the safetensors format (github.com/huggingface/safetensors, "Format").
//
//   | n: u64 | header: n bytes of JSON | data |
//   header   {"__metadata__": {"key": "text"}, "name": {"dtype": "F32", "shape": [3], "data_offsets": [begin, end]}}
//
// Numbers are little-endian, and so are all engines that run WebAssembly today. Offsets count from the end of the
// header. Tensors lie side by side and cover the data exactly. The reader rejects every file that the reference
// implementation rejects. It also rejects a header whose first byte is not "{" and a name that occurs twice, which the
// format forbids. docs/results/reliability.md has the other differences, found by mutations.

import { asIs, longHeader, malformedFile, wrongKind, wrongValue } from "../common/errors.ts";
import { arrayKind, isNumbers, isObject } from "../common/validate.ts";
import { bitsOf, type Data, type Dtype } from "../tensor/dtype.ts";

/** An array that can hold the elements of a tensor in a safetensors file. */
export type TensorData =
  | Float64Array
  | Float32Array
  | BigInt64Array
  | BigUint64Array
  | Int32Array
  | Uint32Array
  | Int16Array
  | Uint16Array
  | Int8Array
  | Uint8Array;

interface ArrayType {
  new (buffer: ArrayBufferLike, byteOffset: number, length: number): TensorData;
  readonly BYTES_PER_ELEMENT: number;
}

/**
 * Bits of an element and the array type that holds it, for every element type. The order is that of the reference
 * implementation, which sorts tensors by it when it writes a file.
 */
const DTYPES = {
  BOOL: [8, Uint8Array],
  F4: [4, Uint8Array],
  F6_E2M3: [6, Uint8Array],
  F6_E3M2: [6, Uint8Array],
  U8: [8, Uint8Array],
  I8: [8, Int8Array],
  F8_E5M2: [8, Uint8Array],
  F8_E4M3: [8, Uint8Array],
  F8_E8M0: [8, Uint8Array],
  F8_E4M3FNUZ: [8, Uint8Array],
  F8_E5M2FNUZ: [8, Uint8Array],
  I16: [16, Int16Array],
  U16: [16, Uint16Array],
  F16: [16, Uint16Array],
  BF16: [16, Uint16Array],
  I32: [32, Int32Array],
  U32: [32, Uint32Array],
  F32: [32, Float32Array],
  C64: [64, Float32Array],
  F64: [64, Float64Array],
  I64: [64, BigInt64Array],
  U64: [64, BigUint64Array],
} satisfies Record<SafetensorsDtype, readonly [number, ArrayType]>;

/** Element types of safetensors. An array of F16, BF16, F8…, F6… or F4 holds the bits. */
export type SafetensorsDtype =
  | ("BOOL" | "U8" | "I8" | "I16" | "U16" | "I32" | "U32" | "I64" | "U64" | "F16" | "BF16" | "F32" | "F64" | "C64")
  | ("F4" | "F6_E2M3" | "F6_E3M2" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ");

const DTYPE_NAMES = /* @__PURE__ */ Object.keys(DTYPES);

/** The format's names for the element types of this library. */
const SAFETENSORS_DTYPE: Readonly<Record<Dtype, SafetensorsDtype>> = {
  float32: "F32",
  float64: "F64",
  float16: "F16",
  bfloat16: "BF16",
};

/** Returns whether a value is a name in a table. */
const isNameIn = <T extends string>(table: Readonly<Record<T, unknown>>, name: unknown): name is T =>
  typeof name === "string" && Object.hasOwn(table, name);

/** Element types of arrays that are written without a dtype: one for each array type. */
const DEFAULT_DTYPES = ["F32", "F64", "I64", "U64", "I32", "U32", "I16", "U16", "I8", "U8"] as const;

/** A tensor of a safetensors file. `data` is in row-major order and holds the bits of values that are F16 or BF16. */
export interface SafeTensor {
  /** The type of the elements, as the file names it. */
  readonly dtype: SafetensorsDtype;
  /** The dimensions, the slowest first; [] for a single number. */
  readonly shape: readonly number[];
  /** The elements in row-major order. float16 and bfloat16 are bits in a Uint16Array. */
  readonly data: TensorData;
}

/** The content of a safetensors file. The objects have no prototype, so that every name is safe to look up. */
export interface SafetensorsFile {
  /** The tensors by their names. */
  readonly tensors: Record<string, SafeTensor>;
  /** The texts that the file has beside its tensors, by their names. */
  readonly metadata: Record<string, string>;
}

/** A value to write: a tensor; an array, of shape [length]; or an integer, a tensor of type I64 and shape []. */
export type WritableTensor =
  | number
  | bigint
  | TensorData
  | { readonly data: TensorData; readonly shape: readonly number[]; readonly dtype?: SafetensorsDtype | Dtype };

/** Largest header in bytes that the reference implementation reads. */
const MAX_HEADER = 100_000_000;
/** Bytes of the number that says how long the header is. */
export const LENGTH_BYTES = 8;
export const METADATA = "__metadata__";
/** Half of a surrogate pair, which has no bytes in UTF-8, so that readers refuse its escape. */
export const HALF = /\p{Surrogate}/u;

const isRecord = isObject as (value: unknown) => value is Record<string, unknown>;

const isSizes = (value: unknown): value is number[] =>
  isNumbers(value) && value.every((v) => Number.isSafeInteger(v) && v >= 0);

const bytesIn = (dtype: SafetensorsDtype, shape: readonly number[]) =>
  shape.reduce((a, b) => a * b, DTYPES[dtype][0]) / 8;

/**
 * Reads the bytes of a safetensors file. A tensor's `data` is a view of `file` if the bytes are aligned for its array
 * type, else a copy. Throws BatchNormError "safetensors" for a file that breaks a rule of the format, and TypeError if
 * `file` is not a Uint8Array or an ArrayBuffer.
 */
export function readSafetensors(file: Uint8Array | ArrayBuffer): SafetensorsFile {
  const isBuffer = isObject(file) && /^\[object (Shared)?ArrayBuffer\]$/.test(Object.prototype.toString.call(file));
  // a detached buffer has no bytes, and cannot be viewed
  const bytes = isBuffer && file.byteLength ? new Uint8Array(file as ArrayBuffer) : (file as Uint8Array);
  if (arrayKind(bytes) !== "Uint8Array") throw wrongKind("file", "a Uint8Array or an ArrayBuffer", file);
  if (bytes.length < LENGTH_BYTES) throw malformedFile("file", `at least ${LENGTH_BYTES} bytes`, bytes.length);
  const start = headerEnd(bytes, bytes.length);
  const tensors: Record<string, SafeTensor> = Object.create(null);
  const { entries, metadata } = readHeader(bytes.subarray(LENGTH_BYTES, start), bytes.length - start);
  for (const entry of entries) tensors[entry.name] = tensorOf(bytes, start, entry);
  return { tensors, metadata };
}

/**
 * Returns where the header ends in a file of `size` bytes, of which `bytes` holds at least the first 8. Throws
 * BatchNormError "safetensors" if the header is longer than the format or the file allows.
 */
export function headerEnd(bytes: Uint8Array, size: number): number {
  const length = new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true);
  const longest = Math.min(MAX_HEADER, size - LENGTH_BYTES);
  if (length > longest) throw malformedFile("header", `at most ${longest} bytes`, length);
  return LENGTH_BYTES + Number(length);
}

/**
 * Returns the description of every tensor in the order of the data, and the metadata, from the bytes of a header that
 * `size` bytes of data follow. Throws BatchNormError "safetensors" for a header that breaks a rule of the format.
 */
export function readHeader(header: Uint8Array, size: number): SafetensorsHeader {
  const metadata: Record<string, string> = Object.create(null);
  const entries: HeaderEntry[] = [];
  for (const [name, value] of Object.entries(headerOf(header)))
    if (name === METADATA) readMetadata(value, metadata);
    else entries.push(entryOf(name, value));

  let end = 0;
  for (const entry of entries.sort((a, b) => a.begin - b.begin || a.end - b.end)) {
    if (entry.begin !== end) throw malformedFile(entry.label, `data from byte ${end} on`, entry.begin);
    end = entry.end;
    if (end > size) break;
  }
  if (end !== size) throw malformedFile("data", `${end} bytes`, size);
  return { entries, metadata };
}

/** The content of a header: its tensors in the order of their data, which cover the data exactly. */
interface SafetensorsHeader {
  readonly entries: readonly HeaderEntry[];
  readonly metadata: Record<string, string>;
}

/** The header's description of one tensor, checked. `begin` and `end` count from the end of the header. */
export interface HeaderEntry {
  readonly name: string;
  /** The tensor's name for error messages, quoted and cut to 60 characters. */
  readonly label: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
}

/** Levels of lists and objects in a header that the reference implementation's reader of JSON takes, serde. */
const MAX_LEVELS = 127;

/**
 * Parses the header. Throws BatchNormError "safetensors" if it is not UTF-8 or JSON, if a name occurs twice, and for what
 * JSON.parse takes and the reference implementation does not: numbers that are no integers or that are written as
 * others are, halves of surrogate pairs, and too many levels.
 */
function headerOf(bytes: Uint8Array): object {
  // a copy, because TextDecoder refuses shared memory
  const copy = new Uint8Array(bytes);
  if (copy[0] !== 0x7b) throw malformedFile("header", '"{" as the first byte', copy[0]);
  let keys = 0;
  let halves = 0;
  let text: string;
  let header: object;
  try {
    text = textOf(copy);
    header = JSON.parse(text, function (this: unknown, name, value) {
      if (!Array.isArray(this)) keys++;
      if (HALF.test(name) || (typeof value === "string" && HALF.test(value))) halves++;
      return value;
    });
  } catch (reason) {
    throw malformedFile("header", "JSON", reason instanceof Error ? reason.message : reason);
  }
  const structure = text.replace(/\\./g, "").replace(/"[^"]*"/g, "");
  // JSON.parse silently keeps the last of two equal names, so count the names in the text: after removal of escapes and
  // strings, each remaining colon follows a name. `keys` is one more, since the reviver also gets the root, named "".
  if (structure.split(":").length !== keys) throw malformedFile("header", "every name once", asIs("a name twice"));
  const number = /\d*\.\d+|\d+e|-0/i.exec(structure)?.[0];
  if (number) throw malformedFile("header", "whole numbers in digits", number);
  if (halves) throw malformedFile("header", "pairs of surrogates", asIs("half of one"));
  let level = 0;
  for (const character of structure) {
    if ("[{".includes(character)) level++;
    else if ("]}".includes(character)) level--;
    if (level > MAX_LEVELS) throw malformedFile("header", `at most ${MAX_LEVELS} levels`, level);
  }
  return header;
}

// jsdom has neither TextDecoder nor TextEncoder

/** Returns the text of UTF-8 bytes. Throws TypeError or URIError if they are something else. */
function textOf(bytes: Uint8Array): string {
  if (typeof TextDecoder === "function") return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  return decodeURIComponent(Array.from(bytes, (byte) => `%${byte.toString(16).padStart(2, "0")}`).join(""));
}

/** Returns the UTF-8 bytes of JSON, which has no lone surrogates. */
function bytesOf(json: string): Uint8Array {
  if (typeof TextEncoder === "function") return new TextEncoder().encode(json);
  const escaped = encodeURIComponent(json).replace(/%(..)/g, (_, hex) => String.fromCharCode(Number.parseInt(hex, 16)));
  return Uint8Array.from(escaped, (byte) => byte.charCodeAt(0));
}

function readMetadata(value: unknown, into: Record<string, string>): void {
  const wrong = isRecord(value) ? Object.values(value).find((v) => typeof v !== "string") : value;
  if (wrong !== undefined) throw malformedFile(METADATA, "an object of strings", wrong);
  Object.assign(into, value);
}

function entryOf(name: string, value: unknown): HeaderEntry {
  const label = `tensor ${JSON.stringify(name.slice(0, 60))}`;
  if (!isRecord(value)) throw malformedFile(label, "dtype, shape and data_offsets", value);
  const { dtype, shape, data_offsets: offsets } = value;
  if (!isNameIn(DTYPES, dtype)) throw malformedFile(label, `a dtype among ${DTYPE_NAMES.join(", ")}`, dtype);
  if (!isSizes(shape)) throw malformedFile(label, "a shape of non-negative integers", shape);
  if (!isSizes(offsets) || offsets.length !== 2) throw malformedFile(label, "data_offsets [begin, end]", offsets);
  const [begin, end] = offsets as [number, number];
  const size = bytesIn(dtype, shape);
  if (end - begin !== size) throw malformedFile(label, `${size} bytes (${dtype}, [${shape}])`, end - begin);
  // the reference implementation multiplies in 64 bits, also before it comes to a dimension of 0
  let count = 1;
  for (const dimension of shape) {
    count *= dimension;
    if (count >= 2 ** 64) throw malformedFile(label, "fewer than 2^64 elements", asIs(`[${shape}]`));
  }
  return { name, label, dtype, shape, begin, end };
}

/** Returns a tensor of a file whose data begins at byte `start` of `bytes`. */
export function tensorOf(bytes: Uint8Array, start: number, { dtype, shape, begin, end }: HeaderEntry): SafeTensor {
  const ArrayOf: ArrayType = DTYPES[dtype][1];
  const size = ArrayOf.BYTES_PER_ELEMENT;
  const content = bytes.subarray(start + begin, start + end);
  const { buffer, byteOffset } = content.byteOffset % size === 0 ? content : new Uint8Array(content);
  return { dtype, shape, data: new ArrayOf(buffer, byteOffset, (end - begin) / size) };
}

/**
 * Returns the bytes of a safetensors file with named tensors, such as a layer's `stateDict()`, and metadata. Tensors
 * are in the reference implementation's order. Python's transformers library requires the metadata { format: "pt" }.
 *
 * Throws TypeError for a value of a type that the format does not have, and RangeError for a shape that does not match
 * its data, an integer beyond 64 bits, the name "__metadata__", and half of a surrogate pair in a name or in metadata. Throws
 * BatchNormError "safetensors" for names whose header has more than 100 MB.
 */
export function writeSafetensors(
  tensors: Readonly<Record<string, WritableTensor>>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array<ArrayBuffer> {
  if (!isRecord(tensors)) throw wrongKind("tensors", "an object of named tensors", tensors);
  if (!isRecord(metadata)) throw wrongKind("metadata", "an object of strings", metadata);
  for (const [key, text] of Object.entries(metadata))
    if (typeof text !== "string") throw wrongKind(`metadata.${key}`, "a string", text);
    else checkPairs("metadata", key, text);

  const { head, order, size } = layOut(
    Object.entries(tensors).map(([name, value]) => {
      const tensor = storable(name, value);
      return { name, ...tensor, size: tensor.data.byteLength };
    }),
    metadata,
  );
  const file = new Uint8Array(size);
  file.set(head);
  let offset = head.length;
  for (const { data } of order) {
    // a detached array has no bytes, and cannot be viewed
    if (data.length) file.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), offset);
    offset += data.byteLength;
  }
  return file;
}

/** The description of a tensor to be written. `size` is that of its data in bytes. */
export interface Writable {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
  readonly size: number;
}

/**
 * Returns the beginning of a file with these tensors, header included, the order in which their data follow it, which is
 * the reference implementation's, and the size of the whole file. Throws BatchNormError "safetensors" for a header that is too
 * long.
 */
export function layOut<T extends Writable>(
  tensors: T[],
  metadata: Readonly<Record<string, string>>,
): { head: Uint8Array; order: readonly T[]; size: number } {
  const order = tensors.sort(
    (a, b) => DTYPE_NAMES.indexOf(b.dtype) - DTYPE_NAMES.indexOf(a.dtype) || (a.name < b.name ? -1 : 1),
  );
  const header: [string, unknown][] = Object.keys(metadata).length ? [[METADATA, metadata]] : [];
  let end = 0;
  for (const { name, dtype, shape, size } of order) {
    const begin = end;
    end += size;
    header.push([name, { dtype, shape, data_offsets: [begin, end] }]);
  }
  const text = bytesOf(JSON.stringify(Object.fromEntries(header)));
  // spaces pad the header to a multiple of 8 bytes, so that 64-bit elements are aligned
  const start = LENGTH_BYTES + Math.ceil(text.length / 8) * 8;
  if (start - LENGTH_BYTES > MAX_HEADER) throw longHeader(MAX_HEADER, start - LENGTH_BYTES);
  const head = new Uint8Array(start);
  new DataView(head.buffer).setBigUint64(0, BigInt(start - LENGTH_BYTES), true);
  head.fill(0x20, LENGTH_BYTES).set(text, LENGTH_BYTES);
  return { head, order, size: start + end };
}

/** Throws RangeError for texts that have no bytes in UTF-8. */
function checkPairs(where: string, ...texts: readonly string[]): void {
  const half = texts.find((text) => HALF.test(text));
  if (half !== undefined) throw wrongValue(where, "texts without halves of surrogate pairs", half);
}

/** Checks a value to be written and returns it as a tensor. */
function storable(name: string, value: WritableTensor): SafeTensor {
  checkPairs("tensors", name);
  if (name === METADATA) throw wrongValue("tensors", `names other than ${METADATA}`, name);
  if (typeof value === "number" || typeof value === "bigint") {
    if (typeof value === "number" ? !Number.isSafeInteger(value) : BigInt.asIntN(64, value) !== value)
      throw wrongValue(name, "an integer of 64 bits, or an array", value);
    return { dtype: "I64", shape: [], data: BigInt64Array.of(BigInt(value)) };
  }
  const tensor = ArrayBuffer.isView(value) ? { data: value, shape: [value.length] } : value;
  const { dtype: declared, data: elements } = (isRecord(tensor) ? tensor : {}) as Partial<SafeTensor>;
  const stored =
    isNameIn(SAFETENSORS_DTYPE, declared) && ArrayBuffer.isView(elements) ? bitsOf(elements as Data) : elements;
  const fallback = DEFAULT_DTYPES.find((d) => arrayKind(stored) === DTYPES[d][1].name);
  if (!stored || !fallback) throw wrongKind(name, "an integer, a typed array or { data, shape }", value);
  const { shape } = tensor as SafeTensor;
  const data = stored as TensorData;
  const dtype: unknown = isNameIn(SAFETENSORS_DTYPE, declared) ? SAFETENSORS_DTYPE[declared] : (declared ?? fallback);
  if (!isNameIn(DTYPES, dtype)) throw wrongValue(`${name}.dtype`, `one of ${DTYPE_NAMES.join(", ")}`, dtype);
  if (arrayKind(data) !== DTYPES[dtype][1].name) throw wrongKind(`${name}.data`, `a ${DTYPES[dtype][1].name}`, data);
  if (!isSizes(shape)) throw wrongValue(`${name}.shape`, "non-negative integers", shape);
  if (bytesIn(dtype, shape) !== data.byteLength)
    throw wrongValue(name, `${bytesIn(dtype, shape)} bytes (${dtype}, [${shape}])`, data.byteLength);
  return { dtype, shape, data };
}
