// TensorProto: the elements of initialisers and of Constant nodes, and the same tensors with other elements.
// (onnx.proto, "TensorProto"; onnx/docs/ExternalData.md)

import { type Dtype, widen } from "../../tensor/dtype.ts";
import { type ByteSource, readRange, siblingPath } from "../source.ts";
import { type Field, joined, lastOf, lengthDelimited, varint, type Wire } from "./wire.ts";

/** Numbers of the fields of TensorProto. */
const TENSOR = {
  dims: 1,
  dataType: 2,
  floatData: 4,
  int32Data: 5,
  int64Data: 7,
  name: 8,
  rawData: 9,
  doubleData: 10,
  externalData: 13,
  dataLocation: 14,
} as const;

/** The fields that hold elements, or say where they are. A tensor with other elements has none of them but raw_data. */
const DATA: readonly number[] = [
  TENSOR.floatData,
  TENSOR.int32Data,
  TENSOR.int64Data,
  TENSOR.rawData,
  TENSOR.doubleData,
  TENSOR.externalData,
  TENSOR.dataLocation,
];

/** TensorProto.DataType of the types of floats that can be folded. */
const FLOATS: ReadonlyMap<number, Dtype> = new Map([
  [1, "float32"],
  [10, "float16"],
  [11, "float64"],
  [16, "bfloat16"],
]);

const INT64 = 7;
const EXTERNAL = 1;
const BYTES: Readonly<Record<Dtype | "int64", number>> = { float32: 4, float64: 8, float16: 2, bfloat16: 2, int64: 8 };

/** ONNX sets no limit; tensors of PyTorch and of onnxruntime have fewer axes. */
const MAX_RANK = 64;

/** Where the elements of a tensor are in another file. */
export interface ExternalRange {
  /** The path of the file, relative to the model's folder, with "/" between its parts. */
  readonly location: string;
  readonly begin: number;
  readonly end: number;
  /** Whether the model has a checksum of the file, which would no longer be right after a change. */
  readonly hasChecksum: boolean;
}

/** A tensor of floats, widened to float64 without rounding. */
export interface Tensor {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

/** A TensorProto of which nothing but the name has been read. */
export interface TensorMessage {
  readonly name: string;
  readonly bytes: Uint8Array;
  /** Says in errors which tensor it is. */
  readonly place: string;
}

/** Returns a TensorProto with its name. */
export function tensorMessage(wire: Wire, bytes: Uint8Array, where: string): TensorMessage {
  const field = lastOf(wire.fields(bytes, where, [TENSOR.name]), TENSOR.name);
  const name = field ? wire.text(field, where) : "";
  return { name, bytes, place: `${where} ${JSON.stringify(name)}` };
}

const fieldsOf = (wire: Wire, { bytes, place }: TensorMessage) => wire.fields(bytes, place, Object.values(TENSOR));

const all = (fields: readonly Field[], number: number) => fields.filter((field) => field.number === number);

function sizesOf(wire: Wire, fields: readonly Field[], place: string): { shape: number[]; size: number } {
  const shape = wire.integers(all(fields, TENSOR.dims), MAX_RANK, place);
  const size = shape.reduce((a, b) => a * b, 1);
  if (!shape.every((d) => d >= 0) || !Number.isSafeInteger(size))
    throw wire.malformed(`${place}, dims`, "non-negative integers", shape);
  return { shape, size };
}

const typeOf = (wire: Wire, fields: readonly Field[], place: string) =>
  wire.integers(all(fields, TENSOR.dataType).slice(-1), 1, place)[0] ?? 0;

/** Returns the key and value of a StringStringEntryProto. */
export function entryOf(wire: Wire, bytes: Uint8Array, place: string): [key: string, value: string] {
  const fields = wire.fields(bytes, place, [1, 2]);
  const text = (number: number) => {
    const field = lastOf(fields, number);
    return field ? wire.text(field, place) : "";
  };
  return [text(1), text(2)];
}

/**
 * Returns where a tensor's elements are in another file, or undefined if they are in the model. `size` is the number of
 * bytes of its elements, if it is known.
 */
function rangeOf(wire: Wire, fields: readonly Field[], place: string, size?: number): ExternalRange | undefined {
  const [location = 0] = wire.integers(all(fields, TENSOR.dataLocation).slice(-1), 1, place);
  if (location !== EXTERNAL) return undefined;
  const where = `${place}, external_data`;
  const entries = new Map(
    all(fields, TENSOR.externalData).map((field) => entryOf(wire, wire.bytes(field, where), where)),
  );
  const path = siblingPath(wire.file, entries.get("location"));
  const integer = (key: string, missing: number) => {
    const text = entries.get(key);
    const value = text === undefined ? missing : /^\d+$/.test(text) ? Number(text) : Number.NaN;
    if (!Number.isSafeInteger(value)) throw wire.malformed(`${where}, ${key}`, "a number of bytes", text);
    return value;
  };
  const begin = integer("offset", 0);
  const length = integer("length", size ?? 0);
  if (size !== undefined && length !== size) throw wire.malformed(`${where}, length`, `${size} bytes`, length);
  return { location: path, begin, end: begin + length, hasChecksum: entries.has("checksum") };
}

/** Returns where a tensor's elements are in another file, or undefined if they are in the model. */
export const externalRange = (wire: Wire, tensor: TensorMessage): ExternalRange | undefined =>
  rangeOf(wire, fieldsOf(wire, tensor), tensor.place);

/** Returns the shape of a tensor. */
export const shapeOf = (wire: Wire, tensor: TensorMessage): number[] =>
  sizesOf(wire, fieldsOf(wire, tensor), tensor.place).shape;

/** Returns the little-endian bytes of a tensor's elements from the model or from another file. */
async function rawBytes(
  wire: Wire,
  source: ByteSource,
  fields: readonly Field[],
  size: number,
  place: string,
): Promise<Uint8Array | undefined> {
  const range = rangeOf(wire, fields, place, size);
  if (range) {
    return readRange(await source.sibling(range.location), place, range.begin, range.end);
  }
  const raw = lastOf(fields, TENSOR.rawData);
  if (!raw) return undefined;
  const bytes = wire.bytes(raw, place);
  if (bytes.length !== size) throw wire.malformed(`${place}, raw_data`, `${size} bytes`, bytes.length);
  return bytes;
}

/** Returns the elements of a tensor of floats, or undefined if its elements are of another type. */
export async function readFloats(wire: Wire, source: ByteSource, tensor: TensorMessage): Promise<Tensor | undefined> {
  const { place } = tensor;
  const fields = fieldsOf(wire, tensor);
  const dtype = FLOATS.get(typeOf(wire, fields, place));
  if (!dtype) return undefined;
  const { shape, size } = sizesOf(wire, fields, place);
  const raw = await rawBytes(wire, source, fields, size * BYTES[dtype], place);
  let data: Float64Array;
  if (raw) {
    const { buffer } = new Uint8Array(raw); // a copy, which is aligned
    if (dtype === "float64") data = new Float64Array(buffer);
    else
      data = Float64Array.from(dtype === "float32" ? new Float32Array(buffer) : widen(dtype, new Uint16Array(buffer)));
  } else if (dtype === "float32") data = wire.floats(all(fields, TENSOR.floatData), 4, place);
  else if (dtype === "float64") data = wire.floats(all(fields, TENSOR.doubleData), 8, place);
  else {
    // int32_data has one integer for the bits of each element
    const bits = wire.integers(all(fields, TENSOR.int32Data), size, place);
    data = Float64Array.from(widen(dtype, Uint16Array.from(bits)));
  }
  if (data.length !== size) throw wire.malformed(`${place}, data`, `${size} elements`, data.length);
  return { dtype, shape, data };
}

/** Returns the elements of a tensor of at most `most` int64, or undefined if it is another tensor. */
export async function readIntegers(
  wire: Wire,
  source: ByteSource,
  tensor: TensorMessage,
  most: number,
): Promise<number[] | undefined> {
  const { place } = tensor;
  const fields = fieldsOf(wire, tensor);
  const { size } = sizesOf(wire, fields, place);
  if (typeOf(wire, fields, place) !== INT64 || size > most) return undefined;
  const raw = await rawBytes(wire, source, fields, size * BYTES.int64, place);
  const data = raw
    ? Array.from(new BigInt64Array(new Uint8Array(raw).buffer), Number)
    : wire.integers(all(fields, TENSOR.int64Data), size, place);
  if (data.length !== size) throw wire.malformed(`${place}, data`, `${size} elements`, data.length);
  return data;
}

/** Returns whether a tensor is a single boolean that is false. */
export function isFalse(wire: Wire, tensor: TensorMessage): boolean {
  const fields = fieldsOf(wire, tensor);
  const raw = lastOf(fields, TENSOR.rawData);
  const value = raw ? raw.value[0] : wire.integers(all(fields, TENSOR.int32Data), 1, tensor.place)[0];
  return typeOf(wire, fields, tensor.place) === BOOL && value === 0;
}

const BOOL = 9;

/** Returns the bytes of a new TensorProto. */
export function newTensor(name: string, dtype: Dtype, shape: readonly number[], elements: Uint8Array): Uint8Array {
  return joined([
    ...shape.map((d) => varint(TENSOR.dims, d)),
    varint(TENSOR.dataType, typeNumber(dtype)),
    lengthDelimited(TENSOR.name, name),
    lengthDelimited(TENSOR.rawData, elements),
  ]);
}

/** Returns the bytes of a ValueInfoProto: the name, the type and the shape of a value. */
export function newValueInfo(name: string, dtype: Dtype, shape: readonly number[]): Uint8Array {
  const dims = shape.map((size) => lengthDelimited(1, varint(1, size)));
  // ValueInfoProto.type (2), TypeProto.tensor_type (1), Tensor.elem_type (1) and shape (2)
  const tensor = joined([varint(1, typeNumber(dtype)), lengthDelimited(2, joined(dims))]);
  return joined([lengthDelimited(1, name), lengthDelimited(2, lengthDelimited(1, tensor))]);
}

const typeNumber = (dtype: Dtype) => [...FLOATS].find(([, value]) => value === dtype)?.[0] as number;

/** Returns the bytes of a TensorProto with other elements, as raw_data, and everything else as it was. */
export function withElements(wire: Wire, tensor: TensorMessage, elements: Uint8Array): Uint8Array {
  const fields = fieldsOf(wire, tensor);
  const first = fields.find(({ number }) => DATA.includes(number));
  const raw = lengthDelimited(TENSOR.rawData, elements);
  const parts = fields.flatMap((field) => {
    if (field === first) return [raw];
    return DATA.includes(field.number) ? [] : [field.raw];
  });
  return joined(first ? parts : [...parts, raw]);
}
