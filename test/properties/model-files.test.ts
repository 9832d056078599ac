// Mutated model files: each is inspected, or refused by one error that names a file; nothing outside of a file is read, and no
// more than the files are long, however long they say that they are. Every second one is converted, to a file that can be read.

import { readFileSync } from "node:fs";
import { unzipSync, zipSync } from "fflate";
import { parseHTML } from "linkedom";
import { expect, test } from "vitest";
import { readSafetensors } from "../../src/interop/safetensors.ts";
import { type ByteSource, bytesSource, conversionText, convert, inspect, textReport } from "../../src/tools/index.ts";
import { htmlReport } from "../../src/tools/report/html.ts";
import { random } from "../support/worlds.ts";
import { file as safetensors, trained } from "../tools/checkpoints.ts";
import { filesOf, graphFiles, type Json } from "../tools/tfjs-models.ts";
import { addressMutations, byteMutations } from "./mutations.ts";
import { asked, type Counts, report } from "./run.ts";

const { cases = 1_000_000, minutes = Number.POSITIVE_INFINITY, seed } = asked;

const { document } = parseHTML("<!doctype html><html><body></body></html>");
const utf8 = new TextEncoder();

/** A model before its mutation: a part of it as JSON, and how its files are made of that. */
interface Valid {
  readonly json: Json;
  /** Whether its files have addresses, which are mutated then. */
  readonly isBinary?: boolean;
  files(json: Json): Record<string, Uint8Array>;
}

/** What stands in the place of a value. */
const HOSTILE: readonly Json[] = [
  ...[null, true, 0, 1, 2, 3, -1, 0.5, 2 ** 31, 2 ** 32, 2 ** 53, 1e300, "", "x", [], {}, [0], [null], [1, 2, 3]],
  ...[[2 ** 30, 2 ** 30], [2 ** 53, 0], "../secret", "/etc/passwd", "NaN", "__proto__", "\ud800", "float32", "string"],
  ...["uint8", "F16", "I64", "bn/moving_mean", "bn1", "TkNIVw==", { dtype: "uint16", scale: 1e308, min: -1e308 }],
  "a".repeat(5000),
];

const vector = (name: string, more: object = {}) => ({ name, shape: [4], dtype: "float32", ...more });
const norm = (name: string, before: string): Json => ({
  class_name: "BatchNormalization",
  config: { name, axis: [3], momentum: 0.99, epsilon: 0.001 },
  inbound_nodes: [[[before, 0, 0, {}]]],
});
const conv: Json = {
  class_name: "Conv2D",
  config: { name: "conv", filters: 4, activation: "linear" },
  inbound_nodes: [[["input", 0, 0, {}]]],
};
const topology: Json = {
  model_config: {
    class_name: "Functional",
    config: {
      layers: [conv, norm("bn1", "conv"), { class_name: "Sequential", config: { layers: [norm("bn2", "bn1")] } }],
      output_layers: [["bn2", 0, 0]],
    },
  },
};
const PARTS = ["gamma", "beta", "moving_mean", "moving_variance"];

function tfjs({ model, shards }: ReturnType<typeof filesOf>): Valid {
  return { json: model, files: (json) => ({ "model.json": utf8.encode(JSON.stringify(json)), ...shards }) };
}

const floats = (count: number) => new Uint8Array(Float32Array.from({ length: count }, (_, i) => 0.5 + i / 8).buffer);

function checkpoint(): Valid {
  const bytes = safetensors({
    ...trained("layer1.bn", 4),
    "conv.weight": { data: new Float32Array(8), shape: [2, 4] },
  });
  const end = 8 + Number(new DataView(bytes.buffer).getBigUint64(0, true));
  return {
    json: JSON.parse(new TextDecoder().decode(bytes.subarray(8, end))),
    files(json) {
      const header = utf8.encode(JSON.stringify(json));
      const file = new Uint8Array(8 + header.length + bytes.length - end);
      new DataView(file.buffer).setBigUint64(0, BigInt(header.length), true);
      file.set(header, 8);
      file.set(bytes.subarray(end), 8 + header.length);
      return { "model.safetensors": file };
    },
  };
}

const fixture = (name: string) => new Uint8Array(readFileSync(new URL(`../tools/keras/${name}`, import.meta.url)));

/** A file of HDF5, as Keras or another program writes it. */
const hdf5 = (name: string): Valid => ({ json: {}, isBinary: true, files: () => ({ [name]: fixture(name) }) });

/** An archive of Keras 3. */
function keras(level: 0 | 6, isBinary: boolean): Valid {
  const { "config.json": config, "model.weights.h5": weights } = unzipSync(fixture("types.keras"));
  return {
    json: JSON.parse(new TextDecoder().decode(config)),
    isBinary,
    files: (json) => ({
      "model.keras": zipSync(
        { "config.json": utf8.encode(JSON.stringify(json)), "model.weights.h5": weights as Uint8Array },
        { level },
      ),
    }),
  };
}

const VALID: readonly Valid[] = [
  ...[keras(0, false), keras(0, true), keras(6, true)],
  ...["types-latest.weights.h5", "keras2.h5", "keras3-gzip.h5"].map(hdf5),
  checkpoint(),
  tfjs(
    filesOf(
      topology,
      ["bn1", "bn2"].flatMap((name) => PARTS.map((part) => vector(`${name}/${part}`))),
      floats(32),
      50,
    ),
  ),
  tfjs(
    filesOf(
      undefined,
      [
        { name: "words", shape: [2], dtype: "string" },
        ...PARTS.map((part) => vector(`bn/${part}`, { quantization: { dtype: "uint8", scale: 0.1, min: 0 } })),
      ],
      Uint8Array.of(1, 0, 0, 0, 65, 0, 0, 0, 0, ...Array(16).fill(7)),
      9,
    ),
  ),
  tfjs(
    graphFiles(
      [
        { name: "conv", op: "Conv2D", input: ["x", "kernel"], attr: { data_format: { s: "TkhXQw==" } } },
        {
          name: "bn",
          op: "FusedBatchNormV3",
          input: ["conv:0", ...PARTS.map((part) => `bn/${part}`)],
          attr: { epsilon: { f: 0.001 }, is_training: { b: false }, data_format: { s: "TkhXQw==" } },
        },
      ],
      [...PARTS.map((part) => [`bn/${part}`, [2], [1, 2]] as const), ["kernel", [1, 1, 1, 2], [1, 2]]],
    ),
  ),
];

/** Returns file number `index`: the first is the model, the others lie beside it. */
function mutated(index: number): [string, Uint8Array][] {
  const next = random(Math.imul(seed, 0x9e3779b1) ^ Math.imul(index + 1, 0x85ebca6b));
  const below = (n: number) => Math.floor(next() * n);
  const pick = <T>(list: readonly T[]): T => list[below(list.length)] as T;
  const { json, files, isBinary = false } = pick(VALID);
  const changed: Json = structuredClone(json);

  /** Replaces, removes or doubles one value somewhere in the JSON. */
  const mutateJson = () => {
    const places: [parent: Json, key: string][] = [];
    const visit = (value: Json) => {
      if (typeof value !== "object" || value === null) return;
      for (const key of Object.keys(value)) {
        places.push([value, key]);
        visit(value[key]);
      }
    };
    visit(changed);
    if (places.length === 0) return;
    const [parent, key] = pick(places);
    const what = next();
    if (what < 0.6) parent[key] = structuredClone(pick(HOSTILE));
    else if (what < 0.75) delete parent[key];
    else if (what < 0.85)
      parent[pick(["name", "paths", "shape", "layers", "node", "0", "x"])] = structuredClone(parent[key]);
    else if (what < 0.95) parent[key] = structuredClone(pick(places)[0]);
    else
      for (let depth = 0; depth < 300; depth++)
        parent[key] = pick([[parent[key]], { class_name: "Model", config: { layers: [parent[key]] } }]);
  };
  const BYTES = [...byteMutations(below), (b: Uint8Array) => b.map((v, i) => (i < 8 ? below(256) : v))];
  const isOfBytes = isBinary || next() < 0.25;
  if (!isOfBytes) for (let count = 1 + below(3); count > 0; count--) mutateJson();
  const entries = Object.entries(files(changed));
  if (isOfBytes) {
    const entry = pick(entries);
    const mutations = isBinary && next() < 0.9 ? addressMutations(below) : BYTES;
    for (let count = isBinary ? 1 + below(4) : 1; count > 0; count--) entry[1] = pick(mutations)(entry[1]);
  }
  return entries;
}

/** Returns a source that refuses to read outside of its file, and counts what is read. */
function watched(source: ByteSource, read: (bytes: number) => void): ByteSource {
  return {
    name: source.name,
    size: source.size,
    async read(begin, end) {
      if (!(begin >= 0 && begin <= end && end <= source.size))
        throw new Error(`reads ${begin} to ${end} of ${source.size}`);
      read(end - begin);
      return source.read(begin, end);
    },
    sibling: async (path) => watched(await source.sibling(path), read),
  };
}

test("mutated model files are inspected, or refused by one error that names a file", async () => {
  const counts: Counts = { files: 0, inspected: 0, refused: 0 };
  const start = performance.now();
  const faults: string[] = [];
  const count = (what: string) => {
    counts[what] = (counts[what] ?? 0) + 1;
  };
  // a share of `npm test` is twice that of other suites, since these files are small
  const most = asked.minutes === undefined && asked.cases !== undefined ? 2 * cases : cases;
  for (let i = 0; i < most && performance.now() - start < minutes * 60_000; i++) {
    const [[name, bytes], ...siblings] = mutated(i) as [[string, Uint8Array], ...[string, Uint8Array][]];
    const total = siblings.reduce((sum, [, other]) => sum + other.length, bytes.length);
    let read = 0;
    const files = bytesSource(name, bytes, Object.fromEntries(siblings));
    const source = watched(files, (n) => {
      read += n;
    });
    counts.files = i + 1;
    try {
      const found = await inspect(source);
      expect(JSON.parse(JSON.stringify(found)).layers).toHaveLength(found.layers.length);
      expect(textReport(found)).toContain(found.file);
      if (i % 64 === 0) expect(htmlReport(document, found)).toContain("</html>");
      count("inspected");
      if (i % 2) {
        const to = i % 4 === 1 ? "haiku" : "pytorch";
        const result = await convert(
          watched(files, () => {}),
          { to, ...(i % 3 && { count: 8 }) },
        );
        expect(Object.keys(readSafetensors(await result.bytes()).tensors).length).toBeGreaterThan(0);
        expect(conversionText(result.report)).toContain("→");
        count("converted");
      }
    } catch (error) {
      const { name: kind, code, message } = error as { name: string; code?: string; message: string };
      const isOurs = kind === "BatchNormError" && code === "model-file" && message.length < 1000;
      if (isOurs && [name, ...siblings.map(([other]) => other)].some((file) => message.startsWith(`${file}: `)))
        count("refused");
      else faults.push(`file ${i} of seed ${seed}: ${(error as Error).stack}`);
    }
    // a tensor may be named by several layers of a graph
    if (read > 64 + 12 * total) faults.push(`file ${i} of seed ${seed}: read ${read} bytes of ${total}`);
  }
  report("model-files", counts, (performance.now() - start) / 1000);
  if (faults.length) expect.fail(`${faults.length} of ${counts.files}\n${faults.slice(0, 10).join("\n")}`);
  // the mutations are of both kinds
  expect(counts.inspected).toBeGreaterThan((counts.files as number) / 10);
  expect(counts.refused).toBeGreaterThan((counts.files as number) / 10);
  expect(counts.converted).toBeGreaterThan((counts.files as number) / 20);
}, 0);
