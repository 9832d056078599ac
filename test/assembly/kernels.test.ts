// Every export of both modules, in all builds, on the test's own memory with guard zones around every buffer. Sums of
// the data are exact in every order. So results are compared without tolerance, and a dropped or doubled lane is an
// error. Only SiLU has a tolerance, because it rounds. The tests of each export are in kernels/.

import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { type Exports, type ExtendedExports, instantiateKernels } from "../../src/wasm/module.ts";
import { Arena, Section, sectionsOf } from "../support/arena.ts";
import { BUILDS, EXTENDED_BUILDS, WHOLE_OPERATIONS, wasmFile } from "../support/worlds.ts";
import { testCoefficients, testPivots, testStatistics } from "./kernels/channels.ts";
import { testNarrow, testWiden } from "./kernels/half.ts";
import { testExtendedMaps, testMaps } from "./kernels/maps.ts";
import { testBlocks, testPlan, testWorkspace } from "./kernels/plan.ts";
import { testExtendedSums, testSums } from "./kernels/sums.ts";
import { testWeights } from "./kernels/weights.ts";
import type { World } from "./kernels/world.ts";

const memory = new WebAssembly.Memory({ initial: 256 });
const [narrow, wide] = [new Arena(memory), new Arena(memory, true)];

const bytesOf = (build: Parameters<typeof wasmFile>[0]) => Uint8Array.from(readFileSync(wasmFile(build)));
const coreOf = (bytes: Uint8Array<ArrayBuffer>) => instantiateKernels<Exports>(new WebAssembly.Module(bytes), memory);
const plans = coreOf(bytesOf("simd"));
/** Of float64 the core has plans alone, and the second module phases. */
const doubles = instantiateKernels<ExtendedExports>(new WebAssembly.Module(bytesOf("extended")), memory);

/** Tests of each export; a new export without any does not compile. */
type Tests<K> = { readonly [name in keyof K]: (kernels: K, f32: World, f64: World) => void };

const CORE: Tests<Exports> = {
  version: ({ version }) => it("is 2", () => expect(version()).toBe(2)),
  workspace: (_, f32, f64) => testWorkspace(f32, f64),
  plan(_, f32, f64) {
    testPlan(f32, f64);
    testBlocks(f32, f64);
  },
  pivots: (_, f32) => testPivots(f32),
  sums: (_, f32) => testSums(f32),
  statistics: (_, f32) => testStatistics(f32),
  coefficients: (_, f32) => testCoefficients(f32, { 0: 3, 1: 4, 2: 3 }),
  map: (_, f32) => testMaps(f32),
};

const EXTENDED: Tests<ExtendedExports> = {
  pivots: (_, _f32, f64) => testPivots(f64),
  sums: (_, f32, f64) => testExtendedSums(f32, f64),
  statistics: (_, _f32, f64) => testStatistics(f64),
  coefficients(_, f32, f64) {
    describe("float32", () => testCoefficients(f32, { 0: 3, 1: 5, 2: 3, 3: 5, 4: 5, 6: 3 }));
    describe("float64", () => testCoefficients(f64, { 0: 3, 1: 4, 2: 3, 3: 5, 4: 5, 6: 3 }));
  },
  map(_, f32, f64) {
    testExtendedMaps(f32, f64);
    testWeights(f32);
    testWeights(f64);
  },
  widen: (kernels) => testWiden(kernels, narrow),
  narrow: (kernels) => testNarrow(kernels, narrow),
};

/** What holds of any build of a module, and the tests of its exports. `others` have their tests elsewhere. */
function testModule<K>(
  bytes: Uint8Array<ArrayBuffer>,
  tests: Tests<K>,
  worlds: (kernels: K) => readonly [World, World],
  others: readonly string[] = [],
): void {
  const module = new WebAssembly.Module(bytes);
  const kernels = instantiateKernels<K>(module, memory);
  const names = Object.keys(tests) as (keyof K & string)[];

  it("imports env.memory and nothing else", () => {
    expect(WebAssembly.Module.imports(module)).toEqual([{ module: "env", name: "memory", kind: "memory" }]);
  });

  it("has no data segment, start function or elements of a table, so it runs on anybody's memory", () => {
    const sections = sectionsOf(bytes);
    expect(sections.has(Section.Code)).toBe(true); // the parser found its way
    for (const section of [Section.Start, Section.Data]) expect(sections.has(section)).toBe(false);
  });

  it("exports functions only, and every one has a test here", () => {
    const exports = WebAssembly.Module.exports(module);
    expect(exports.every((e) => e.kind === "function" && /^[a-z]+$/.test(e.name))).toBe(true);
    expect(exports.map((e) => e.name).sort()).toEqual([...names, ...others].sort());
  });

  describe.each(names)("%s", (name) => tests[name](kernels, ...worlds(kernels)));
}

const coreWorlds = (core: Exports) =>
  [
    { arena: narrow, core, phases: core },
    { arena: wide, core, phases: doubles },
  ] as const;

describe.each(BUILDS)("the core, %s build", (build) => testModule(bytesOf(build), CORE, coreWorlds));

describe("the core for hosts in other languages", () => {
  testModule(bytesOf("embed"), CORE, coreWorlds, WHOLE_OPERATIONS); // see embed.test.ts
});

describe.each(EXTENDED_BUILDS)("the second module, %s build", (build) => {
  const worlds = (phases: ExtendedExports) =>
    [
      { arena: narrow, core: plans, phases },
      { arena: wide, core: plans, phases },
    ] as const;
  testModule(bytesOf(build), EXTENDED, worlds);
});

/** As a server sends it. */
async function gzipped(bytes: Uint8Array<ArrayBuffer>): Promise<number> {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("gzip"));
  return (await new Response(stream).arrayBuffer()).byteLength;
}

it.each([
  ["simd", 23_000, 8000],
  ["relaxed", 23_000, 8000],
  ["embed", 24_500, 8600],
  ["standalone", 24_500, 8600],
  ["extended", 96_000, 18_500],
] as const)("the %s build has at most %d bytes, gzipped %d", async (build, most, mostGzipped) => {
  const bytes = bytesOf(build);
  expect(bytes.length).toBeLessThanOrEqual(most);
  expect(await gzipped(bytes)).toBeLessThanOrEqual(mostGzipped);
});
