// Values of a wrong kind, and right values in another guise, for every place of a call's arguments.

import { BatchNorm, Tensor, tensor } from "../../src/index.ts";
import { type Any, foreign } from "./values.ts";

/** The error that getters of hostile values throw. A call may pass it on. */
export const SENTINEL = new Error("thrown by a getter of the caller");
const thrower = (): never => {
  throw SENTINEL;
};

const cyclic = (): unknown[] => {
  const list: unknown[] = [1];
  list.push(list);
  return list;
};
const cyclicObject = (): object => {
  const object: Record<string, unknown> = { data: 1 };
  object.self = object;
  return object;
};
const nested = (depth: number): unknown => {
  let list: unknown = 1;
  for (let i = 0; i < depth; i++) list = [list];
  return list;
};
const detached = (array: ArrayBufferView) => {
  structuredClone(array.buffer, { transfer: [array.buffer as ArrayBuffer] });
  return array;
};
const revoked = (target: object) => {
  const { proxy, revoke } = Proxy.revocable(target, {});
  revoke();
  return proxy;
};
/** A Proxy whose traps all throw. */
const angry = (target: object) =>
  new Proxy(
    target,
    Object.fromEntries(
      ["get", "has", "ownKeys", "getPrototypeOf", "getOwnPropertyDescriptor"].map((trap) => [trap, thrower]),
    ),
  );
const disposedTensor = () => {
  const t = tensor([2, 3]);
  t.dispose();
  return t;
};

/** Values that stand in for any argument or option. Each is made anew. */
export const WRONG: Readonly<Record<string, () => unknown>> = {
  undefined: () => undefined,
  null: () => null,
  "0": () => 0,
  "-1": () => -1,
  "1.5": () => 1.5,
  NaN: () => Number.NaN,
  Infinity: () => Number.POSITIVE_INFINITY,
  "2^53": () => 2 ** 53,
  "1e308": () => 1e308,
  '""': () => "",
  '"x"': () => "x",
  '"3"': () => "3",
  "a long string": () => "long ".repeat(1e5),
  "a string with a lone surrogate": () => "\ud800",
  true: () => true,
  false: () => false,
  "1n": () => 1n,
  "a long bigint": () => 10n ** 5000n,
  "a symbol": () => Symbol("s"),
  "a function": () => () => undefined,
  "a class": () => class Foreign {},
  "{}": () => ({}),
  "Object.create(null)": () => Object.create(null),
  "[]": () => [],
  "[null]": () => [null],
  "[symbol]": () => [Symbol("s")],
  "an array of strings": () => ["1", "2", "3"],
  "an array with holes": () => Object.assign([1], { 2: 3 }),
  "a cyclic array": cyclic,
  "a cyclic object": cyclicObject,
  "an array 2,000 deep": () => nested(2000),
  "a huge array": () => new Array(100_000).fill(1),
  "a sparse array of a million": () => Object.assign([], { length: 1_000_000 }),
  "an object of 20,000 names": () => Object.fromEntries(Array.from({ length: 20_000 }, (_, i) => [`name ${i}`, i])),
  "a Date": () => new Date(0),
  "an invalid Date": () => new Date(Number.NaN),
  "a Map": () => new Map([["a", 1]]),
  "a Set": () => new Set([1]),
  "a RegExp": () => /x/,
  "an Error": () => new Error("e"),
  "a Promise": () => Promise.resolve(1),
  // biome-ignore lint/suspicious/noThenProperty: a thenable is the point
  "a thenable": () => ({ then: (resolve: (value: number) => void) => resolve(1) }),
  "a boxed number": () => Object(3),
  "a boxed string": () => Object("train"),
  "a boxed symbol": () => Object(Symbol("s")),
  "an object that converts to a number": () => ({ valueOf: () => 3, toString: () => "3" }),
  "an object that cannot be converted": () => ({ [Symbol.toPrimitive]: thrower, toString: thrower }),
  "an object with a tag that throws": () => Object.defineProperty({}, Symbol.toStringTag, { get: thrower }),
  "an object with a constructor that throws": () => Object.defineProperty({}, "constructor", { get: thrower }),
  "an object with a constructor of a long name": () => ({ constructor: { name: "long ".repeat(1e4) } }),
  "an object with a constructor that is null": () => ({ constructor: null }),
  "an object whose length is a symbol": () => ({ length: Symbol("s") }),
  "an array-like of a negative length": () => ({ length: -1, 0: 1 }),
  "an iterable that throws": () => ({ [Symbol.iterator]: thrower }),
  "an iterable of symbols": () => ({ [Symbol.iterator]: () => [Symbol("s")][Symbol.iterator]() }),
  "a Proxy": () => new Proxy({}, {}),
  "a Proxy around an array": () => new Proxy([1, 2, 3], {}),
  "a Proxy around a Float32Array": () => new Proxy(Float32Array.of(1, 2, 3), {}),
  "a Proxy that throws": () => angry({}),
  "a Proxy around an array that throws": () => angry([]),
  "a revoked Proxy": () => revoked({}),
  "a revoked Proxy of an array": () => revoked([]),
  "a revoked Proxy of a function": () => revoked(() => undefined),
  "an ArrayBuffer": () => new ArrayBuffer(24),
  "a SharedArrayBuffer": () => new SharedArrayBuffer(24),
  "a DataView": () => new DataView(new ArrayBuffer(24)),
  "a detached ArrayBuffer": () => detached(new Uint8Array(8)).buffer,
  "a detached Float32Array": () => detached(new Float32Array(3)),
  "a detached Float64Array": () => detached(new Float64Array(3)),
  "a detached DataView": () => detached(new DataView(new ArrayBuffer(8))),
  "an empty Float32Array": () => new Float32Array(0),
  "a Float32Array of 7": () => new Float32Array(7),
  "a Float64Array of 7": () => new Float64Array(7),
  "a Uint8Array": () => Uint8Array.of(1, 2, 3),
  "an Int32Array": () => Int32Array.of(1, 2, 3),
  "a Uint16Array": () => Uint16Array.of(1, 2, 3),
  "a BigInt64Array": () => BigInt64Array.of(1n, 2n, 3n),
  "a Buffer": () => Buffer.from("abc"),
  "an array of another realm": () => foreign.Array.of(1, 2),
  "an object of another realm": () => foreign.Object(),
  "a disposed tensor": disposedTensor,
  "a Proxy around a tensor": () => new Proxy(disposedTensor(), {}),
  "Tensor's prototype": () => Object.create(Tensor.prototype),
  "a Proxy around a layer": () => new Proxy(new BatchNorm(3), {}),
  "a disposed layer": () => {
    const bn = new BatchNorm(3);
    bn.dispose();
    return bn;
  },
  "a record of nothing": () => ({ saved: {} }),
  globalThis: () => globalThis,
};

const isTyped = (value: unknown): value is Float32Array => ArrayBuffer.isView(value) && !(value instanceof DataView);
const isPlain = (value: unknown): value is Record<string, Any> =>
  typeof value === "object" && value !== null && [Object.prototype, null].includes(Object.getPrototypeOf(value));

const copied = (array: Any, buffer: ArrayBufferLike, offset = 0): Any => {
  const copy = new array.constructor(buffer, offset, array.length);
  copy.set(array);
  return copy;
};

/** An object whose properties are getters of another object's values. `later` gives the values from the second read on. */
function getters(value: Record<string, Any>, later: (name: string) => unknown = (name) => value[name]) {
  const object = {};
  for (const name of Object.keys(value)) {
    let reads = 0;
    const get = () => (reads++ ? later(name) : value[name]);
    Object.defineProperty(object, name, { get, enumerable: true, configurable: true });
  }
  return object;
}

/** What a guise is of: the call gives the same bits, or it throws an error of ours. */
export type Guise = (value: Any) => unknown;

/** Other forms of a right value that may not change the result. `undefined` means that the form does not exist. */
export const GUISES: Readonly<Record<string, Guise>> = {
  "of another realm": (v) => {
    if (isTyped(v)) return new (foreign as Any)[(v as Any)[Symbol.toStringTag]](v);
    return Array.isArray(v)
      ? foreign.Array.from(v)
      : isPlain(v)
        ? foreign.Object.fromEntries(Object.entries(v)) // an assignment to "__proto__" would make no property
        : undefined;
  },
  "in shared memory": (v) => (isTyped(v) ? copied(v, new SharedArrayBuffer(v.byteLength)) : undefined),
  "in a resizable buffer": (v) =>
    isTyped(v) ? copied(v, new (ArrayBuffer as Any)(v.byteLength, { maxByteLength: v.byteLength + 64 })) : undefined,
  "that tracks the length of a resizable buffer": (v) => {
    if (!isTyped(v)) return undefined;
    const buffer = new (ArrayBuffer as Any)(v.byteLength, { maxByteLength: v.byteLength + 64 });
    const array = new (v as Any).constructor(buffer);
    array.set(v);
    return array;
  },
  "in a shrunk buffer": (v) => {
    if (!isTyped(v)) return undefined;
    const buffer = new (ArrayBuffer as Any)(v.byteLength + 8, { maxByteLength: v.byteLength + 64 });
    const array = copied(v, buffer, 0);
    buffer.resize(v.byteLength);
    return array;
  },
  "at an offset": (v) => (isTyped(v) ? copied(v, new ArrayBuffer(v.byteLength + 64), 24) : undefined),
  "of a subclass": (v) => {
    if (isTyped(v)) {
      class Sub extends (v as Any).constructor {}
      return new (Sub as Any)(v);
    }
    return Array.isArray(v) ? class extends Array {}.from(v) : undefined;
  },
  "as a Proxy": (v) => (isPlain(v) || Array.isArray(v) ? new Proxy(v, {}) : undefined),
  "as a Proxy around an array": (v) => (isTyped(v) ? new Proxy(v, {}) : undefined),
  frozen: (v) => (isPlain(v) ? Object.freeze({ ...v }) : Array.isArray(v) ? Object.freeze([...v]) : undefined),
  "without a prototype": (v) => (isPlain(v) ? Object.assign(Object.create(null), v) : undefined),
  "of a class": (v) => (isPlain(v) ? Object.assign(new (class Options {})(), v) : undefined),
  inherited: (v) => (isPlain(v) ? Object.create(v) : undefined),
  "with getters": (v) => (isPlain(v) ? getters(v) : undefined),
  "with getters that change": (v) => (isPlain(v) ? getters(v, (name) => changed(v[name])) : undefined),
  "with getters that become undefined": (v) => (isPlain(v) ? getters(v, () => undefined) : undefined),
  "with getters that throw later": (v) => (isPlain(v) ? getters(v, thrower) : undefined),
  boxed: (v) => (["number", "string", "boolean", "bigint"].includes(typeof v) ? Object(v) : undefined),
  "as a bigint": (v) => (Number.isSafeInteger(v) ? BigInt(v) : undefined),
  "as a string": (v) => (typeof v === "number" || typeof v === "boolean" ? String(v) : undefined),
  "as -0": (v) => (v === 0 ? -0 : undefined),
  "as an array": (v) => (isTyped(v) ? Array.from(v) : undefined),
  "as an array-like": (v) => (isTyped(v) || Array.isArray(v) ? { ...v, length: v.length } : undefined),
  "with a name more": (v) => (isPlain(v) ? { ...v, unexpected: 1 } : undefined),
  detached: (v) => (isTyped(v) ? detached(v.slice()) : undefined),
  longer: (v) => (isTyped(v) ? new (v as Any).constructor(v.length + 1) : Array.isArray(v) ? [...v, v[0]] : undefined),
  shorter: (v) => (isTyped(v) || Array.isArray(v) ? (v.length ? v.slice(1) : undefined) : undefined),
};

/** Another value of the same kind, such that memory would be read or written out of bounds if it were not checked. */
function changed(value: Any): unknown {
  if (isTyped(value)) return new (value as Any).constructor(value.length + 1000).fill(77);
  if (Array.isArray(value)) return value.map((v) => (typeof v === "number" ? v * 1000 : v));
  if (typeof value === "number") return value * 1000 + 1;
  return typeof value === "string" ? `${value}?` : value;
}

/** Guises that are other values, so that a call may also give another result. */
export const OTHER_VALUES = new Set([
  "longer",
  "shorter",
  "inherited",
  "as an array-like",
  "detached",
  "as an array",
  "with getters that change",
  "with getters that become undefined",
  "with getters that throw later",
  "as a string",
  "as -0",
  "as a Proxy around an array",
  "with a name more",
]);

/** A place in a call's arguments: the argument's number, then names of properties. */
export type Path = readonly (string | number)[];

/** Returns every place in the arguments, to a depth of three names. */
export function pathsOf(args: readonly unknown[]): Path[] {
  const paths: Path[] = [];
  const walk = (value: unknown, path: Path) => {
    paths.push(path);
    if (path.length > 3 || !(isPlain(value) || Array.isArray(value))) return;
    const names = Object.keys(value);
    for (const name of Array.isArray(value) ? names.slice(0, 3) : names) walk((value as Any)[name], [...path, name]);
  };
  args.forEach((value, i) => {
    walk(value, [i]);
  });
  return paths;
}

export const valueAt = (args: readonly unknown[], path: Path): unknown =>
  path.reduce<Any>((value, name) => value?.[name], args);

/** Returns copies of the containers along a path, with another value at its end. The originals stay as they are. */
export function replaced(container: Any, [name, ...rest]: Path, value: unknown): Any {
  const copy = Array.isArray(container) ? [...container] : { ...container };
  const key = name as string;
  copy[key] = rest.length ? replaced(copy[key], rest, value) : value;
  return copy;
}
