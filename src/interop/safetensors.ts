// The safetensors file format (github.com/huggingface/safetensors, "Format"), read and written whole.
//
//   | n: u64 | header: n bytes of JSON | data |
//   header   {"__metadata__": {"key": "text"}, "name": {"dtype": "F32", "shape": [3], "data_offsets": [begin, end]}}
//
// Numbers are little-endian, as is every engine that runs WebAssembly today. Offsets count from the end of the header;
// tensors lie side by side and cover the data exactly. What the reference implementation refuses is refused here, and so
// are a header that begins with something else than "{" and a name given twice, which the description forbids.

import { malformedFile, wrongKind, wrongValue } from "../common/errors.ts";
import { bitsOf, type Data, type Dtype } from "../tensor/dtype.ts";

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

/** Bits of an element, and the array that holds it; in the reference's order, which is the order of files too. */
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
} satisfies Record<string, readonly [number, ArrayType]>;

/** Element types of the format. What JavaScript has no array for (F16, BF16, F8…, F4…) stays in bits. */
export type SafetensorsDtype = keyof typeof DTYPES;

const ORDER = /* @__PURE__ */ Object.keys(DTYPES);
/** The format's words for our own. */
const OURS: Readonly<Record<Dtype, SafetensorsDtype>> = {
  float32: "F32",
  float64: "F64",
  float16: "F16",
  bfloat16: "BF16",
};

const isOurs = (dtype: unknown): dtype is Dtype => typeof dtype === "string" && Object.hasOwn(OURS, dtype);
/** What an array holds that comes without a dtype. */
const NATURAL: readonly SafetensorsDtype[] = ["F32", "F64", "I64", "U64", "I32", "U32", "I16", "U16", "I8", "U8"];

/** A tensor as a file holds it: `data` is row-major and, for F16 and BF16, the bits of each value. */
export interface SafeTensor {
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
  readonly data: TensorData;
}

/** What a file holds: both objects have no prototype, so that a name such as "__proto__" is a name like any other. */
export interface SafetensorsFile {
  readonly tensors: Record<string, SafeTensor>;
  readonly metadata: Record<string, string>;
}

/** What is written: an integer as I64 of shape [], an array as its own kind of shape [length], or a tensor. */
export type WritableTensor =
  | number
  | bigint
  | TensorData
  | { readonly data: TensorData; readonly shape: readonly number[]; readonly dtype?: SafetensorsDtype | Dtype };

/** The reference implementation's limit. */
const MAX_HEADER = 100_000_000;
const LENGTH_BYTES = 8;
const METADATA = "__metadata__";

export const isDtype = (name: unknown): name is SafetensorsDtype =>
  typeof name === "string" && Object.hasOwn(DTYPES, name);

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

const isSizes = (value: unknown): value is number[] =>
  Array.isArray(value) && value.every((v) => Number.isSafeInteger(v) && v >= 0);

const bytesIn = (dtype: SafetensorsDtype, shape: readonly number[]) =>
  shape.reduce((a, b) => a * b, DTYPES[dtype][0]) / 8;

/**
 * Reads a file that is in memory. `data` shares the file's memory where its alignment allows, and is a copy elsewhere.
 *
 * Throws BatchNormError "safetensors" for a file that breaks any rule of the format, and TypeError for what is no bytes.
 */
export function readSafetensors(file: Uint8Array | ArrayBuffer): SafetensorsFile {
  const bytes = file instanceof ArrayBuffer ? new Uint8Array(file) : file;
  if (!(bytes instanceof Uint8Array)) throw wrongKind("file", "a Uint8Array or an ArrayBuffer", file);
  if (bytes.length < LENGTH_BYTES) throw malformedFile("file", `at least ${LENGTH_BYTES} bytes`, bytes.length);
  const length = new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true);
  const most = Math.min(MAX_HEADER, bytes.length - LENGTH_BYTES);
  if (length > most) throw malformedFile("header", `at most ${most} bytes`, length);
  const start = LENGTH_BYTES + Number(length);

  const tensors: Record<string, SafeTensor> = Object.create(null);
  const metadata: Record<string, string> = Object.create(null);
  const places: Place[] = [];
  for (const [name, value] of Object.entries(headerOf(bytes.subarray(LENGTH_BYTES, start))))
    if (name === METADATA) readMetadata(value, metadata);
    else places.push(placeOf(name, value));

  let end = 0;
  for (const place of places.sort((a, b) => a.begin - b.begin || a.end - b.end)) {
    if (place.begin !== end) throw malformedFile(place.where, `data from byte ${end} on`, place.begin);
    end = place.end;
    if (end > bytes.length - start) break;
    tensors[place.name] = tensorAt(bytes, start, place);
  }
  if (end !== bytes.length - start) throw malformedFile("data", `${end} bytes`, bytes.length - start);
  return { tensors, metadata };
}

interface Place {
  readonly name: string;
  /** The name in a message. */
  readonly where: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
}

function headerOf(bytes: Uint8Array): object {
  // a copy, because TextDecoder refuses shared memory
  const copy = new Uint8Array(bytes);
  if (copy[0] !== 0x7b) throw malformedFile("header", '"{" as the first byte', copy[0]);
  let keys = 0;
  let text: string;
  let header: object;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(copy);
    header = JSON.parse(text, function (this: unknown, _, value) {
      if (!Array.isArray(this)) keys++;
      return value;
    });
  } catch (reason) {
    throw malformedFile("header", "JSON", reason instanceof Error ? reason.message : reason);
  }
  // JSON.parse keeps the last of equal names. Without escapes and strings, each colon that is left follows a name; the
  // reviver has also seen the root, under the name "".
  const colons =
    text
      .replace(/\\./g, "")
      .replace(/"[^"]*"/g, "")
      .split(":").length - 1;
  if (colons !== keys - 1) throw malformedFile("header", "every name once", "a name twice");
  return header;
}

function readMetadata(value: unknown, into: Record<string, string>): void {
  if (!isRecord(value)) throw malformedFile(METADATA, "an object of strings", value);
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== "string") throw malformedFile(METADATA, "an object of strings", text);
    into[key] = text;
  }
}

function placeOf(name: string, value: unknown): Place {
  const where = `tensor ${JSON.stringify(name.slice(0, 60))}`;
  if (!isRecord(value)) throw malformedFile(where, "dtype, shape and data_offsets", value);
  const { dtype, shape, data_offsets: offsets } = value;
  if (!isDtype(dtype)) throw malformedFile(where, `a dtype among ${ORDER.join(", ")}`, dtype);
  if (!isSizes(shape)) throw malformedFile(where, "a shape of non-negative integers", shape);
  if (!isSizes(offsets) || offsets.length !== 2) throw malformedFile(where, "data_offsets [begin, end]", offsets);
  const [begin, end] = offsets as [number, number];
  const size = bytesIn(dtype, shape);
  if (end - begin !== size) throw malformedFile(where, `${size} bytes (${dtype}, [${shape}])`, end - begin);
  return { name, where, dtype, shape, begin, end };
}

function tensorAt(bytes: Uint8Array, start: number, { dtype, shape, begin, end }: Place): SafeTensor {
  const ArrayOf: ArrayType = DTYPES[dtype][1];
  const size = ArrayOf.BYTES_PER_ELEMENT;
  const part = bytes.subarray(start + begin, start + end);
  const { buffer, byteOffset } = part.byteOffset % size === 0 ? part : new Uint8Array(part);
  return { dtype, shape, data: new ArrayOf(buffer, byteOffset, (end - begin) / size) };
}

/**
 * Writes tensors by name, and metadata, into the bytes of a file, in the reference implementation's order: the widest
 * elements first, so that all are aligned, then by name. A layer's `stateDict()` will do for `tensors`; Python's
 * libraries want metadata { format: "pt" }.
 *
 * Throws TypeError for a value that the format has no type for, RangeError for a shape that is not its data's.
 */
export function writeSafetensors(
  tensors: Readonly<Record<string, WritableTensor>>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array<ArrayBuffer> {
  if (!isRecord(tensors)) throw wrongKind("tensors", "an object of named tensors", tensors);
  if (!isRecord(metadata)) throw wrongKind("metadata", "an object of strings", metadata);
  for (const [key, text] of Object.entries(metadata))
    if (typeof text !== "string") throw wrongKind(`metadata.${key}`, "a string", text);

  const entries = Object.entries(tensors)
    .map(([name, value]) => ({ name, ...storable(name, value) }))
    .sort((a, b) => ORDER.indexOf(b.dtype) - ORDER.indexOf(a.dtype) || (a.name < b.name ? -1 : 1));
  const header: [string, unknown][] = Object.keys(metadata).length ? [[METADATA, metadata]] : [];
  let end = 0;
  for (const { name, dtype, shape, data } of entries) {
    const begin = end;
    end += data.byteLength;
    header.push([name, { dtype, shape, data_offsets: [begin, end] }]);
  }
  const text = new TextEncoder().encode(JSON.stringify(Object.fromEntries(header)));
  // padded, so that the data begins on a multiple of 8
  const start = LENGTH_BYTES + Math.ceil(text.length / 8) * 8;
  if (start - LENGTH_BYTES > MAX_HEADER) throw wrongValue("tensors", `a header of at most ${MAX_HEADER} bytes`, start);

  const file = new Uint8Array(start + end);
  new DataView(file.buffer).setBigUint64(0, BigInt(start - LENGTH_BYTES), true);
  file.fill(0x20, LENGTH_BYTES, start).set(text, LENGTH_BYTES);
  let at = start;
  for (const { data } of entries) {
    file.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), at);
    at += data.byteLength;
  }
  return file;
}

function storable(name: string, value: WritableTensor): SafeTensor {
  if (name === METADATA) throw wrongValue("tensors", `names other than ${METADATA}`, name);
  if (typeof value === "number" || typeof value === "bigint") {
    if (typeof value === "number" ? !Number.isSafeInteger(value) : BigInt.asIntN(64, value) !== value)
      throw wrongValue(name, "an integer of 64 bits, or an array", value);
    return { dtype: "I64", shape: [], data: BigInt64Array.of(BigInt(value)) };
  }
  const tensor = ArrayBuffer.isView(value) ? { data: value, shape: [value.length] } : value;
  const { dtype: said, data: raw } = isRecord(tensor) ? tensor : { dtype: undefined, data: undefined };
  const given = isOurs(said) && ArrayBuffer.isView(raw) ? bitsOf(raw as Data) : raw;
  const natural = NATURAL.find((d) => given instanceof DTYPES[d][1]);
  if (!given || !natural) throw wrongKind(name, "an integer, a typed array or { data, shape }", value);
  const { shape } = tensor as SafeTensor;
  const data = given as TensorData;
  const dtype: unknown = isOurs(said) ? OURS[said] : (said ?? natural);
  if (!isDtype(dtype)) throw wrongValue(`${name}.dtype`, `one of ${ORDER.join(", ")}`, dtype);
  if (!(data instanceof DTYPES[dtype][1])) throw wrongKind(`${name}.data`, `a ${DTYPES[dtype][1].name}`, data);
  if (!isSizes(shape)) throw wrongValue(`${name}.shape`, "non-negative integers", shape);
  if (bytesIn(dtype, shape) !== data.byteLength)
    throw wrongValue(name, `${bytesIn(dtype, shape)} bytes (${dtype}, [${shape}])`, data.byteLength);
  return { dtype, shape, data };
}

// ---- half precision -------------------------------------------------------------------------------------------------

/** The value of a tensor's elements: F16 and BF16 as float32, exactly; all others as they are. */
export function numbersOf({ dtype, data }: { dtype?: unknown; data: ArrayLike<unknown> }): ArrayLike<unknown> {
  if (!(data instanceof Uint16Array)) return data;
  if (dtype === "F16" || dtype === "float16") return Float32Array.from(data, fromHalf);
  // BF16 is the upper half of a float32
  if (dtype === "BF16" || dtype === "bfloat16")
    return new Float32Array(Uint32Array.from(data, (bits) => bits << 16).buffer);
  return data;
}

/** IEEE 754 binary16: sign, 5 bits of exponent with bias 15, 10 bits of fraction. */
function fromHalf(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (exponent ? (1024 + fraction) * 2 ** (exponent - 25) : fraction * 2 ** -24);
}
