// Mutations of safetensors files: of bytes, of the header's text, and of its numbers, names and types.

import { writeSafetensors } from "../../src/index.ts";
import { random } from "../support/worlds.ts";

const TYPES = [
  "F32",
  "F64",
  "I64",
  "U8",
  "BF16",
  "F16",
  "BOOL",
  "I8",
  "F4",
  "F6_E2M3",
  "F8_E8M0",
  "C64",
  "U64",
  "f32",
  "",
  "F128",
];
const NUMBERS = [
  ...[
    "0",
    "1",
    "2",
    "3",
    "4",
    "8",
    "-1",
    "-0",
    "1.0",
    "1e0",
    "1E1",
    "01",
    "+1",
    "0x1",
    "1_0",
    "NaN",
    "null",
    "true",
    '"1"',
    "[]",
    "{}",
  ],
  ...[
    "4294967296",
    "9007199254740991",
    "9007199254740992",
    "9007199254740993",
    "18446744073709551615",
    "18446744073709551616",
    "1e400",
  ],
];
const NAMES = [
  "a",
  "weight",
  "__metadata__",
  "__proto__",
  "constructor",
  "",
  "\\ud800",
  "\\ud83d\\ude00",
  "\\u0000",
  "é",
  "\\\\",
  '\\"',
  "\\x",
  "\t",
];
const VALUES = [
  ...[
    "null",
    "[]",
    "{}",
    "1",
    '"x"',
    "true",
    '["F32",[1],[0,4]]',
    '{"F32":null}',
    '{"a":"b"}',
    '{"a":1}',
    '{"a":"b","a":"c"}',
  ],
  `${"[".repeat(200)}${"]".repeat(200)}`,
];
const SPACES = [" ", "\n", "\t", "\r", "\u00a0", "\ufeff", "\u0000", ",", ":", "//", "/**/"];

const utf8 = new TextEncoder();

/** Returns a file of these bytes of a header. `length` is what the file says of them. */
function fileOf(header: Uint8Array, data: Uint8Array, length = BigInt(header.length)): Uint8Array {
  const file = new Uint8Array(8 + header.length + data.length);
  new DataView(file.buffer).setBigUint64(0, BigInt.asUintN(64, length), true);
  file.set(header, 8);
  file.set(data, 8 + header.length);
  return file;
}

/** Returns mutations of bytes: one changed, a part missing, one inserted, some removed. `below` returns a random number. */
export const byteMutations = (below: (n: number) => number): readonly ((b: Uint8Array) => Uint8Array)[] => [
  (b) => b.map((v, i, all) => (i === Math.floor(0.37 * all.length) ? v ^ 128 : v)),
  (b) => {
    const at = below(b.length);
    return b.map((v, i) => (i === at ? below(256) : v));
  },
  (b) => b.slice(0, below(b.length + 1)),
  (b) => {
    const at = below(b.length + 1);
    return Uint8Array.of(...b.subarray(0, at), below(256), ...b.subarray(at));
  },
  (b) => {
    const at = below(b.length);
    return Uint8Array.of(...b.subarray(0, at), ...b.subarray(at + 1 + below(4)));
  },
];

/** Returns the places of numbers of 8 bytes that may be addresses or sizes in a file. */
function fieldsOf(view: DataView): number[] {
  const fields: number[] = [];
  for (let at = 0; at + 8 <= view.byteLength; at += 4) {
    const value = view.getBigUint64(at, true);
    if (value > 0n && value <= view.byteLength) fields.push(at);
  }
  return fields;
}

/**
 * Returns mutations of files that have addresses of their own parts: one refers to another part, as in cycles, or outside of
 * the file, and one byte that is not 0 has another value.
 */
export function addressMutations(below: (n: number) => number): readonly ((b: Uint8Array) => Uint8Array)[] {
  const change = (b: Uint8Array, edit: (view: DataView, fields: readonly number[]) => void) => {
    const copy = b.slice();
    const view = new DataView(copy.buffer);
    const fields = fieldsOf(view);
    if (fields.length) edit(view, fields);
    return copy;
  };
  const any = (fields: readonly number[]) => fields[below(fields.length)] as number;
  return [
    (b) => change(b, (view, fields) => view.setBigUint64(any(fields), view.getBigUint64(any(fields), true), true)),
    (b) =>
      change(b, (view, fields) => {
        const at = any(fields);
        const values = [0, 1, at, b.length - 1, b.length, 2 ** 31, 2 ** 32 + below(b.length), 2 ** 60];
        view.setBigUint64(at, BigInt(values[below(values.length)] as number), true);
      }),
    (b) =>
      change(b, (view) => {
        let at = below(b.length);
        while (at < b.length - 1 && b[at] === 0) at++;
        view.setUint8(at, below(4) ? below(256) : (b[at] as number) ^ (1 << below(8)));
      }),
  ];
}

/** Returns file number `index` of a seed: a valid file of up to three tensors, with up to four mutations. */
export function mutated(seed: number, index: number): Uint8Array {
  const next = random(Math.imul(seed, 0x9e3779b1) ^ Math.imul(index + 1, 0x85ebca6b));
  const below = (n: number) => Math.floor(next() * n);
  const pick = <T>(list: readonly T[]): T => list[below(list.length)] as T;
  const tensors = Object.fromEntries(
    Array.from({ length: below(4) }, (_, i) => {
      const shape = Array.from({ length: below(4) }, () => below(4));
      const data = new Float32Array(shape.reduce((a, b) => a * b, 1)).map(() => next());
      return [i ? `layer.${i}` : "weight", { data, shape }];
    }),
  );
  const valid = writeSafetensors(tensors, next() < 0.3 ? { format: "pt" } : {});
  const end = 8 + Number(new DataView(valid.buffer).getBigUint64(0, true));
  let header = new TextDecoder().decode(valid.subarray(8, end)).trimEnd();
  let data = valid.slice(end);
  let bytes: Uint8Array | undefined;
  let length: bigint | undefined;

  /** Replaces one match of a pattern in the header. */
  const swap = (pattern: RegExp, text: (match: string) => string) => {
    const matches = [...header.matchAll(pattern)];
    if (!matches.length) return;
    const { 0: match, index: at } = pick(matches) as RegExpExecArray;
    header = header.slice(0, at) + text(match) + header.slice(at + match.length);
  };
  const TEXTS: readonly (() => void)[] = [
    () => swap(/\d+/g, () => pick(NUMBERS)),
    () => swap(/"dtype":"\w+"/g, () => `"dtype":"${pick(TYPES)}"`),
    () => swap(/"dtype":"\w+"/g, () => `"dtype":${pick(VALUES)}`),
    () => swap(/"[^"]*"(?=:)/g, () => `"${pick(NAMES)}"`),
    () => swap(/(?<=:)(\{[^{}]*\}|\[[^[\]]*\]|"[^"]*")/g, () => pick(VALUES)),
    () => swap(/[{}[\],:]/g, (match) => match + pick(SPACES)),
    () => swap(/[{}[\],:"]/g, () => ""),
    () => swap(/"[^"]*":/g, (match) => match + match),
    () => swap(/"[^"]*":(\{[^{}]*\}|\[[^[\]]*\]|"[^"]*")/g, (match) => `${match},${match}`),
    () => swap(/(?<=\{)"/g, () => `"${pick(NAMES)}":${pick(VALUES)},"`),
    () =>
      swap(/"shape":\[[^\]]*\]/g, () => `"shape":[${Array.from({ length: below(5) }, () => pick(NUMBERS)).join()}]`),
    () =>
      swap(
        /"data_offsets":\[[^\]]*\]/g,
        () => `"data_offsets":[${Array.from({ length: 1 + below(3) }, () => pick(NUMBERS)).join()}]`,
      ),
    () => {
      header = pick(SPACES) + header;
    },
    () => {
      header += pick(SPACES);
    },
  ];
  const BYTES = byteMutations(below);
  for (let count = below(5); count > 0; count--) {
    const what = next();
    if (what < 0.75) pick(TEXTS)();
    else if (what < 0.85)
      data = next() < 0.5 ? data.slice(0, below(data.length + 1)) : Uint8Array.of(...data, ...new Uint8Array(below(9)));
    else if (what < 0.9) length = BigInt(header.length) + BigInt(below(9) - 4);
    else if (what < 0.92) length = pick([0n, 2n ** 63n, 2n ** 64n - 1n, 100_000_001n, 2n ** 32n]);
    else bytes = pick(BYTES)(bytes ?? utf8.encode(header));
  }
  return fileOf(bytes ?? utf8.encode(header), data, length);
}
