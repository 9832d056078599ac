// Values that the properties pass to the library: seeded numbers, operands of every kind, and the bits of results.

import { types } from "node:util";
import { runInNewContext } from "node:vm";
import fc from "fast-check";
import { type AnyTensor, BatchNorm, type Dtype, Tensor, tensor } from "../../src/index.ts";
import { random } from "../support/worlds.ts";

// biome-ignore lint/suspicious/noExplicitAny: wrong uses are what the types forbid
export type Any = any;

/** The global object of another realm, as an iframe, node:vm or Jest has it. */
export const foreign: typeof globalThis = runInNewContext("globalThis");

// ---- numbers --------------------------------------------------------------------------------------------------------

/** How numbers are drawn. Eighths are exact in all types, so that 16-bit operands lose nothing. */
export type Style = "eighths" | "normal" | "offset" | "constant";

/** Returns seeded numbers that the type holds exactly. */
export function numbers(seed: number, length: number, dtype: Dtype, style: Style): Float64Array {
  const next = random(seed);
  const values = new Float64Array(length);
  const shift = style === "offset" ? 1000 * (next() - 0.5) : 0;
  const constant = Math.round(16 * (next() - 0.5)) / 8;
  for (let i = 0; i < length; i++) {
    const uniform = next() + next() + next() - 1.5;
    values[i] =
      style === "constant" ? constant : style === "normal" ? 1.6 * uniform + 0.4 : Math.round(16 * uniform) / 8 + shift;
  }
  if (dtype === "float16" || dtype === "bfloat16")
    return values.map((v) => Math.max(-15, Math.min(15, Math.round(8 * v) / 8)));
  return dtype === "float32" ? Float64Array.from(Float32Array.from(values)) : values;
}

/** Returns the bits of 16-bit floats for numbers that these hold exactly. */
export function encode(values: ArrayLike<number>, dtype: "float16" | "bfloat16"): Uint16Array {
  if (dtype === "bfloat16") return Uint16Array.from(new Uint32Array(Float32Array.from(values).buffer), (b) => b >>> 16);
  return Uint16Array.from(values, (v) => {
    if (v === 0) return Object.is(v, -0) ? 0x8000 : 0;
    const exponent = Math.floor(Math.log2(Math.abs(v)));
    return (v < 0 ? 0x8000 : 0) | ((exponent + 15) << 10) | ((Math.abs(v) / 2 ** exponent - 1) * 1024);
  });
}

/** Returns the values of an operand's or a vector's elements. */
export function decode(value: Any): Float64Array {
  const data = ArrayBuffer.isView(value) ? value : value.data;
  if (data[Symbol.toStringTag] !== "Uint16Array") return Float64Array.from(data);
  if (/^bf/i.test(value.dtype))
    return Float64Array.from(new Float32Array(Uint32Array.from(data as ArrayLike<number>, (b) => b << 16).buffer));
  return Float64Array.from(data as ArrayLike<number>, (bits) => {
    const [sign, exponent, fraction] = [bits & 0x8000 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
    if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
    return sign * (exponent ? (1024 + fraction) * 2 ** (exponent - 25) : fraction * 2 ** -24);
  });
}

// ---- operands -------------------------------------------------------------------------------------------------------

export const KINDS = ["plain", "tensor", "view", "shared", "foreign", "file"] as const;
export type Kind = (typeof KINDS)[number];
export const DTYPES = ["float32", "float64", "float16", "bfloat16"] as const;
const FILE_DTYPES = { float32: "F32", float64: "F64", float16: "F16", bfloat16: "BF16" } as const;

/** Returns an array of the type's kind with these values, in a buffer of its own kind. */
export function arrayOf(values: ArrayLike<number>, dtype: Dtype, kind: Kind = "plain"): Any {
  const stored = dtype === "float16" || dtype === "bfloat16" ? encode(values, dtype) : values;
  const name = dtype === "float32" ? "Float32Array" : dtype === "float64" ? "Float64Array" : "Uint16Array";
  const Type: Any = kind === "foreign" ? (foreign as Any)[name] : (globalThis as Any)[name];
  const size = Type.BYTES_PER_ELEMENT;
  const offset = kind === "view" ? 3 * size : 0;
  const bytes = stored.length * size + 2 * offset;
  const buffer =
    kind === "shared" ? new SharedArrayBuffer(bytes) : kind === "foreign" ? undefined : new ArrayBuffer(bytes);
  const array = buffer ? new Type(buffer, offset, stored.length) : new Type(stored.length);
  array.set(stored);
  return array;
}

/** Returns an operand with these values. */
export function operand(values: ArrayLike<number>, shape: readonly number[], dtype: Dtype, kind: Kind): AnyTensor {
  const data = arrayOf(values, dtype, kind);
  if (kind === "tensor") return tensor(shape, data, { dtype });
  const needsName = dtype === "float16" || dtype === "bfloat16" || kind === "view";
  const name = kind === "file" ? FILE_DTYPES[dtype] : dtype;
  return { data, shape: [...shape], ...((needsName || kind === "file") && { dtype: name as Dtype }) };
}

/** Returns a vector of parameters or statistics for operands of a type. */
export const vector = (values: ArrayLike<number>, dtype: Dtype): Any =>
  dtype === "float64" ? Float64Array.from(values) : Float32Array.from(values);

/** Frees the tensors in plain objects and lists, which may be cyclic. */
export function free(value: unknown, depth = 4): void {
  if (typeof value !== "object" || value === null || ArrayBuffer.isView(value) || types.isProxy(value)) return;
  if (value instanceof Tensor) {
    if (Object.hasOwn(value, "shape") && !value.disposed) value.dispose();
  } else if (depth) {
    for (const { value: inner } of Object.values(Object.getOwnPropertyDescriptors(value))) free(inner, depth - 1);
  }
}

// ---- bits -----------------------------------------------------------------------------------------------------------

const latin1 = (view: ArrayBufferView) =>
  Buffer.from(view.buffer as ArrayBuffer, view.byteOffset, view.byteLength).toString("latin1");

/** Returns a text that has every bit of a value that a user can see. The library's opaque records are left out. */
export function bits(value: unknown, depth = 8): string {
  if (typeof value === "function") return "function";
  if (typeof value !== "object" || value === null)
    return Object.is(value, -0) ? "-0" : `${typeof value} ${String(value)}`;
  if (ArrayBuffer.isView(value)) return `${(value as Any)[Symbol.toStringTag]} ${latin1(value)}`;
  if (value instanceof ArrayBuffer || value instanceof SharedArrayBuffer)
    return `buffer ${latin1(new Uint8Array(value))}`;
  if (value instanceof Tensor) return value.disposed ? "disposed" : `${value.shape} ${bits(value.data)}`;
  if (value instanceof BatchNorm) return layerBits(value);
  if (value instanceof Map) return bits([...value], depth - 1);
  if (depth === 0 || value instanceof WebAssembly.Memory || value instanceof MessagePort) return "deep";
  const names = Object.keys(value).filter((name) => name !== "saved");
  return `{${names.map((name) => `${name}: ${bits((value as Any)[name], depth - 1)}`).join()}}`;
}

/** Returns all that a layer holds, except the record of its latest forward. */
export function layerBits(bn: BatchNorm<Any, Any, Any>): string {
  const { gamma, beta, runningMean, runningVariance, batchesTracked, dGamma, dBeta, mode, options, renorm } = bn;
  return bits({ gamma, beta, runningMean, runningVariance, batchesTracked, dGamma, dBeta, mode, options, renorm });
}

// ---- arbitraries ----------------------------------------------------------------------------------------------------

export const seeds = fc.integer({ min: 0, max: 0xffff });
export const styles = fc.constantFrom<Style>("eighths", "normal", "offset", "constant");
export const dtypes = fc.constantFrom<Dtype>("float32", "float32", "float64", "float16", "bfloat16");
export const kinds = fc.constantFrom<Kind>(...KINDS);
export const layouts = fc.constantFrom("channels-first" as const, "channels-last" as const);
export const activations = fc.constantFrom(
  "none" as const,
  "none" as const,
  "relu" as const,
  "leaky_relu" as const,
  "relu6" as const,
  "silu" as const,
);
export const maybe = <T>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> =>
  fc.option(arbitrary, { nil: undefined });

/** Sizes [N, C, …]: mostly small ones, and some that are summed in blocks, rows or stripes. */
export const sizes: fc.Arbitrary<number[]> = fc.oneof(
  {
    weight: 30,
    arbitrary: fc
      .tuple(
        fc.integer({ min: 0, max: 5 }),
        fc.integer({ min: 1, max: 5 }),
        fc.array(fc.integer({ min: 1, max: 5 }), { maxLength: 3 }),
      )
      .map(([n, c, rest]) => [n, c, ...rest]),
  },
  {
    weight: 2,
    arbitrary: fc.tuple(fc.integer({ min: 20, max: 260 }), fc.integer({ min: 1, max: 9 })).map((size) => [...size]),
  },
  {
    weight: 1,
    arbitrary: fc
      .tuple(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 3 }), fc.integer({ min: 100, max: 600 }))
      .map((size) => [...size]),
  },
);

/** Returns a size [N, C, …] as a shape of a layout. */
export const shapeOf = ([n, c, ...rest]: readonly number[], layout: string): number[] =>
  (layout === "channels-last" ? [n, ...rest, c] : [n, c, ...rest]) as number[];

export const product = (list: readonly number[]): number => list.reduce((a, b) => a * b, 1);
