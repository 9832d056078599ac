// Mutated safetensors files, against the verdicts of the reference implementation where it is installed (install.sh), and
// mutated states, against a list of what is wrong with them.

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { expect, test } from "vitest";
import { BatchNorm, BatchNormError, readSafetensors } from "../../src/index.ts";
import { mutated } from "./mutations.ts";
import { asked, type Counts, report } from "./run.ts";
import { type Any, layerBits, numbers } from "./values.ts";

const { cases = 1_000_000, minutes = Number.POSITIVE_INFINITY, seed, python } = asked;

/** Files that one process of Python judges. */
const BATCH = 10_000;

interface Verdict {
  /** "accepted" with the tensors as JSON, or "refused" with the reason. */
  readonly accepted: boolean;
  readonly text: string;
}

/** Returns our verdict. Throws for an error that is not ours. */
function ours(file: Uint8Array): Verdict {
  try {
    const { tensors } = readSafetensors(file);
    const list = Object.entries(tensors)
      .map(([name, { dtype, shape, data }]) => [
        name,
        dtype,
        shape,
        createHash("sha1")
          .update(Buffer.from(data.buffer, data.byteOffset, data.byteLength))
          .digest("hex"),
      ])
      .sort();
    return { accepted: true, text: JSON.stringify(list) };
  } catch (error) {
    if (!(error instanceof BatchNormError) || error.code !== "safetensors" || error.message.length > 1000) throw error;
    return { accepted: false, text: error.message };
  }
}

/** Returns the verdicts of the reference implementation. */
function theirs(files: readonly Uint8Array[]): Verdict[] {
  const input = Buffer.concat(
    files.flatMap((file) => {
      const head = Buffer.alloc(4);
      head.writeUInt32LE(file.length);
      return [head, file];
    }),
  );
  const script = fileURLToPath(new URL("verdicts.py", import.meta.url));
  const { stdout, stderr, status } = spawnSync(python as string, [script], { input, maxBuffer: 2 ** 30 });
  const lines = stdout.toString().trimEnd().split("\n");
  if (status !== 0 || lines.length !== files.length) throw new Error(`verdicts.py: ${stderr}`);
  return lines.map((line) => {
    const accepted = line.startsWith("accepted ");
    const json = JSON.parse(line.slice(line.indexOf(" ")));
    return { accepted, text: accepted ? JSON.stringify(json.sort()) : json };
  });
}

/**
 * Files that we refuse and the reference implementation accepts, by our message. docs/results/reliability.md has the reasons.
 */
const STRICTER: Readonly<Record<string, RegExp>> = {
  "a header that does not begin with {": /"\{" as the first byte/,
  "a name twice": /every name once/,
  "a tensor or a type in serde's other notation":
    /expected (dtype, shape and data_offsets, got \[|a dtype among .*, got Object)/,
  "metadata that are null": /__metadata__: expected an object of strings, got (null|Object)/,
  "a dimension above 2^53 beside a 0": /expected a shape of non-negative integers/,
  "a number or half of a surrogate pair in a field of no meaning":
    /expected (whole numbers in digits|pairs of surrogates)/,
};

test("mutated files have the verdict of the reference implementation, and the same tensors", () => {
  const counts: Counts = { files: 0, accepted: 0, "refused by both": 0 };
  const start = performance.now();
  const faults: string[] = [];
  while ((counts.files as number) < cases && performance.now() - start < minutes * 60_000) {
    const first = counts.files as number;
    const files = Array.from({ length: Math.min(BATCH, cases - first) }, (_, i) => mutated(seed, first + i));
    const own = files.map(ours);
    const other = python === undefined ? own : theirs(files);
    const count = (what: string) => {
      counts[what] = (counts[what] ?? 0) + 1;
    };
    for (const [i, a] of own.entries()) {
      const b = other[i] as Verdict;
      const same = a.accepted === b.accepted && (!a.accepted || a.text === b.text);
      const stricter = !a.accepted && b.accepted && Object.keys(STRICTER).find((name) => STRICTER[name]?.test(a.text));
      if (same) count(a.accepted ? "accepted" : "refused by both");
      else if (stricter) count(`refused by us alone: ${stricter}`);
      else {
        count("faults");
        const header = JSON.stringify(
          Buffer.from((files[i] as Uint8Array).subarray(8))
            .toString("latin1")
            .slice(0, 400),
        );
        if (faults.length < 20)
          faults.push(
            `file ${first + i} of seed ${seed}, ${header}\n  ours: ${JSON.stringify(a)}\n  the reference: ${JSON.stringify(b)}`,
          );
      }
    }
    counts.files = first + files.length;
  }
  report("state-files", counts, (performance.now() - start) / 1000);
  if (faults.length) expect.fail(`${counts.faults} of ${counts.files}\n${faults.join("\n")}`);
  // the mutations are of both kinds
  expect(counts.accepted).toBeGreaterThan((counts.files as number) / 20);
  expect(counts["refused by both"]).toBeGreaterThan((counts.files as number) / 4);
}, 0);

/** Returns a file with this header and as many bytes of data. */
function headed(header: string, data = 0): Uint8Array {
  const text = new TextEncoder().encode(header);
  const file = new Uint8Array(8 + text.length + data);
  new DataView(file.buffer).setBigUint64(0, BigInt(text.length), true);
  file.set(text, 8);
  return file;
}

const entry = (shape: string, end = 4, more = "") =>
  `{"dtype":"F32","shape":[${shape}],"data_offsets":[0,${end}]${more}}`;

// what mutations have found: JSON.parse takes it, and the reference implementation refuses it
test.each([
  ["1.0 as a dimension", `{"a":${entry("1.0")}}`, 4, 'whole numbers in digits, got "1.0"'],
  ["1e0 as a dimension", `{"a":${entry("1e0")}}`, 4, 'whole numbers in digits, got "1e"'],
  ["-0 as a dimension", `{"a":${entry("-0", 0)}}`, 0, 'whole numbers in digits, got "-0"'],
  ["half of a surrogate pair in a name", `{"\\ud800":${entry("1")}}`, 4, "pairs of surrogates"],
  ["half of a surrogate pair in metadata", '{"__metadata__":{"a":"\\ud800"}}', 0, "pairs of surrogates"],
  ["both halves of a pair in two texts", '{"__metadata__":{"a\\ud83d":"\\ude00"}}', 0, "pairs of surrogates"],
  ["128 levels", `{"a":${entry("1", 4, `,"b":${"[".repeat(126)}${"]".repeat(126)}`)}}`, 4, "at most 127 levels"],
  ["2^64 elements before a 0", `{"a":${entry("4294967296,4294967296,0", 0)}}`, 0, "fewer than 2^64 elements"],
])("readSafetensors refuses %s", (_, header, data, message) => {
  expect(() => readSafetensors(headed(header, data))).toThrow(message);
});

test("readSafetensors takes 127 levels, whole surrogate pairs, and points and exponents in texts", () => {
  const nested = `,"b":${"[".repeat(125)}${"]".repeat(125)}`;
  const header = `{"\\ud83d\\ude00 1.0 -0 2e3":${entry("1", 4, nested)},"__metadata__":{"1.5":"-0"}}`;
  const { tensors, metadata } = readSafetensors(headed(header, 4));
  expect(Object.keys(tensors)).toEqual(["\u{1f600} 1.0 -0 2e3"]);
  expect({ ...metadata }).toEqual({ "1.5": "-0" });
});

// ---- states ---------------------------------------------------------------------------------------------------------

const CHANNELS = 3;
const VECTORS = ["weight", "bias", "running_mean", "running_var"] as const;

/** What happens to one value of a state, and whether it is then wrong. */
const CHANGES: Readonly<Record<string, readonly [wrong: boolean, (values: Float64Array) => unknown]>> = {
  "as it is": [false, (v) => v],
  "an array of numbers": [false, (v) => Array.from(v)],
  "what JSON makes of it": [false, (v) => JSON.parse(JSON.stringify(Float32Array.from(v)))],
  "a tensor": [false, (v) => ({ data: v, shape: [CHANNELS] })],
  "a tensor with ones": [false, (v) => ({ data: v, shape: [1, CHANNELS, 1, 1] })],
  "a tensor of a file": [false, (v) => ({ data: Float32Array.from(v), shape: [CHANNELS], dtype: "F32" })],
  "too long": [true, (v) => [...v, 1]],
  "too short": [true, (v) => v.slice(1)],
  "of another shape": [true, (v) => ({ data: v, shape: [CHANNELS, 2] })],
  "bits without a type": [true, (v) => Uint16Array.from(v)],
  "integers of a file": [true, (v) => ({ data: Int32Array.from(v), shape: [CHANNELS], dtype: "I32" })],
  "with NaN": [true, (v) => v.map((x, i) => (i ? x : Number.NaN))],
  "with infinity": [true, (v) => v.map((x, i) => (i ? x : Number.POSITIVE_INFINITY))],
  "a text": [true, () => "1,2,3"],
  nothing: [true, () => null],
  "a function": [true, () => () => [1, 2, 3]],
  "with a hole": [true, (v) => Object.assign([v[0]], { 2: v[2] })],
  absent: [true, () => undefined],
};

const changes = fc.record({
  seed: fc.nat(),
  of: fc.record(
    Object.fromEntries(VECTORS.map((name) => [name, fc.constantFrom(...Object.keys(CHANGES))])) as Record<
      (typeof VECTORS)[number],
      fc.Arbitrary<string>
    >,
    { requiredKeys: [] },
  ),
  more: fc.uniqueArray(fc.constantFrom("gamma", "running_std", "toString", "weights", "0"), { maxLength: 2 }),
  isMap: fc.boolean(),
});

test("a changed state is loaded if nothing is wrong with it, and otherwise the error names all that is wrong", () => {
  fc.assert(
    fc.property(changes, ({ seed, of, more, isMap }) => {
      const bn = new BatchNorm(CHANNELS);
      const values = new Map(
        VECTORS.map((name, i) => [
          name,
          numbers(seed + i, CHANNELS, "float32", "normal").map(name === "running_var" ? Math.abs : (v) => v),
        ]),
      );
      const entries: [string, unknown][] = [];
      const wrong: string[] = [...more];
      for (const [name, v] of values) {
        const [isWrong, change] = CHANGES[of[name] ?? "as it is"] as (typeof CHANGES)[string];
        if (isWrong) wrong.push(name);
        if (of[name] !== "absent") entries.push([name, change(v)]);
      }
      entries.push(["num_batches_tracked", 7], ...more.map((name): [string, unknown] => [name, 1]));
      const state: Any = isMap ? new Map(entries) : Object.fromEntries(entries);
      const before = layerBits(bn);
      if (wrong.length === 0) {
        bn.loadStateDict(state);
        expect([bn.gamma, bn.beta, bn.runningMean, bn.runningVariance]).toEqual(
          [...values.values()].map((v) => Float32Array.from(v)),
        );
        expect(bn.batchesTracked).toBe(7);
        return;
      }
      let message = "";
      try {
        bn.loadStateDict(state);
      } catch (error) {
        if (!(error instanceof BatchNormError) || error.code !== "state-dict") throw error;
        ({ message } = error);
      }
      for (const name of wrong) expect(message).toContain(name);
      expect(message.length).toBeLessThan(2000);
      expect(layerBits(bn)).toBe(before);
    }),
    { seed, numRuns: Math.min(asked.cases ?? 10_000, 10_000) / 5 },
  );
});
