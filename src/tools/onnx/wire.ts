// Protobuf messages as lists of fields, each with its bytes. A message that changes is written from the same list with
// other bytes in a few places, so that everything else, unknown fields included, stays byte for byte.
// (protobuf.dev/programming-guides/encoding)

import { BinaryReader, BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { asIs, wrongFile } from "../../common/errors.ts";

/** One or several fields of a message. */
export interface Field {
  /** The number of the field, or 0 for a run of fields that the caller did not ask for. */
  readonly number: number;
  readonly type: WireType;
  /** The bytes of the field with its tag, as they stand in the message. */
  readonly raw: Uint8Array;
  /** The bytes of the value. Those of a string, a message or a packed list are without their length. */
  readonly value: Uint8Array;
}

/**
 * Fields that are kept apart in one file. It bounds the memory that a file of two-byte fields takes. The largest public
 * ONNX models have some 10⁵ nodes and initialisers.
 */
const MAX_FIELDS = 2 ** 22;

const EMPTY = new Uint8Array(0);

/** Reads the messages of one file. */
export class Wire {
  readonly file: string;
  readonly #most: number;
  #left: number;

  constructor(file: string, most = MAX_FIELDS) {
    this.file = file;
    this.#most = most;
    this.#left = most;
  }

  /** Returns the error for a part of the file that breaks a rule of the format. `place` says which part. */
  malformed(place: string, expected: string, got: unknown): Error {
    return wrongFile(this.file, place, expected, got);
  }

  /**
   * Returns the fields of a message in their order. Fields whose number is not among `known` are merged with their
   * neighbours. Throws BatchNormError "model-file" for bytes that are no message, and for groups, which ONNX does not use.
   */
  fields(bytes: Uint8Array, place: string, known: readonly number[]): Field[] {
    const fields: Field[] = [];
    const reader = new BinaryReader(bytes);
    let opaque = 0;
    const endOpaque = (end: number) => {
      if (opaque < end)
        fields.push({ number: 0, type: WireType.Varint, raw: bytes.subarray(opaque, end), value: EMPTY });
    };
    while (reader.pos < bytes.length) {
      const begin = reader.pos;
      try {
        const [number, type] = reader.tag();
        if (type === WireType.StartGroup || type === WireType.EndGroup) throw new Error("a group");
        if (known.includes(number)) {
          const value = type === WireType.LengthDelimited ? reader.bytes() : reader.skip(type, number);
          endOpaque(begin);
          opaque = reader.pos;
          fields.push({ number, type, raw: bytes.subarray(begin, reader.pos), value });
        } else reader.skip(type, number);
      } catch (reason) {
        throw this.malformed(
          `${place}, byte ${begin}`,
          "a field of a protobuf message",
          asIs((reason as Error).message),
        );
      }
      if (fields.length > this.#left)
        throw this.malformed(place, `at most ${this.#most} fields in a file`, asIs("more"));
    }
    endOpaque(bytes.length);
    this.#left -= fields.length;
    return fields;
  }

  /** Returns a field's value if the field is a string, bytes, a message or a packed list. */
  bytes(field: Field, place: string): Uint8Array {
    if (field.type !== WireType.LengthDelimited)
      throw this.malformed(`${place}, field ${field.number}`, "bytes with a length", asIs(`wire type ${field.type}`));
    return field.value;
  }

  /** Returns the text of a field. ONNX's names are UTF-8. */
  text(field: Field, place: string): string {
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(this.bytes(field, place));
    } catch (reason) {
      if (!(reason instanceof TypeError)) throw reason;
      throw this.malformed(`${place}, field ${field.number}`, "text in UTF-8", asIs("other bytes"));
    }
  }

  /** Returns the integers of a repeated field of varints, packed or not. Throws if there are more than `most`. */
  integers(fields: readonly Field[], most: number, place: string): number[] {
    const numbers: number[] = [];
    for (const field of fields) {
      const reader = new BinaryReader(field.value);
      try {
        if (field.type !== WireType.Varint && field.type !== WireType.LengthDelimited) throw new Error("another type");
        while (reader.pos < field.value.length) {
          numbers.push(Number(reader.int64()));
          if (numbers.length > most) throw new Error("more");
        }
      } catch (reason) {
        throw this.malformed(`${place}, field ${field.number}`, `at most ${most} integers`, (reason as Error).message);
      }
    }
    return numbers;
  }

  /** Returns the floats of a repeated field, packed or not, each of 4 or 8 bytes. */
  floats(fields: readonly Field[], bytes: 4 | 8, place: string): Float64Array {
    const type = bytes === 4 ? WireType.Bit32 : WireType.Bit64;
    const parts = fields.map((field) => {
      if ((field.type !== type && field.type !== WireType.LengthDelimited) || field.value.length % bytes !== 0)
        throw this.malformed(
          `${place}, field ${field.number}`,
          `numbers of ${bytes} bytes`,
          asIs(`${field.value.length} bytes`),
        );
      const { buffer } = new Uint8Array(field.value); // a copy, which is aligned
      return bytes === 4 ? new Float32Array(buffer) : new Float64Array(buffer);
    });
    const numbers = new Float64Array(parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of parts) {
      numbers.set(part, at);
      at += part.length;
    }
    return numbers;
  }
}

/** Returns the last of the fields with a number, which is the one that counts, or undefined. */
export const lastOf = (fields: readonly Field[], number: number): Field | undefined =>
  fields.filter((field) => field.number === number).at(-1);

/** Returns the bytes of a message. */
export function joined(parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

/** Returns the bytes of a field whose value has a length: bytes, a message or, in UTF-8, a string. */
export function lengthDelimited(number: number, value: Uint8Array | string): Uint8Array {
  const writer = new BinaryWriter().tag(number, WireType.LengthDelimited);
  return (typeof value === "string" ? writer.string(value) : writer.bytes(value)).finish();
}

/** Returns the bytes of a field of an integer. */
export const varint = (number: number, value: number): Uint8Array =>
  new BinaryWriter().tag(number, WireType.Varint).int64(value).finish();

/** Returns the bytes of a field of a float32. */
export const float32 = (number: number, value: number): Uint8Array =>
  new BinaryWriter().tag(number, WireType.Bit32).float(value).finish();
