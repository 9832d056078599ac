// Whole operations for hosts in other languages, in both modules that export them. On tensors in every walk and
// precision they have the bits of the facade, write inside their buffers only, and need no more workspace than they ask
// for.

import { readFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import {
  BatchNorm,
  batchNormBackward,
  batchNormForward,
  batchNormGradientSums,
  batchNormInference,
  batchNormStatistics,
  type Tensor,
  tensor,
} from "../../src/index.ts";
import { resolveOptions } from "../../src/layer/options.ts";
import { RunningStatistics } from "../../src/layer/running-statistics.ts";
import { Arena, blank, expectSame, Section, sectionsOf, UNWRITTEN } from "../support/arena.ts";
import {
  drop,
  EMBED_BUILDS,
  type EmbedBuild,
  type EmbedExports,
  normal,
  random,
  useBuild,
  WHOLE_OPERATIONS,
  wasmFile,
} from "../support/worlds.ts";

type Dims = readonly [outer: number, channels: number, inner: number];

const PAGES = 1600;

const bytesOf = (build: EmbedBuild) => Uint8Array.from(readFileSync(wasmFile(build)));

/** A module on memory of the test's own, or on the memory that it brings along. */
function instantiate(build: EmbedBuild, pages = PAGES): { kernels: EmbedExports; memory: WebAssembly.Memory } {
  const memory = new WebAssembly.Memory({ initial: 1 });
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(bytesOf(build)), { env: { memory } });
  const kernels = exports as unknown as EmbedExports & { memory?: WebAssembly.Memory };
  const own = kernels.memory ?? memory;
  own.grow(pages - 1);
  return { kernels, memory: own };
}

const sizeOf = ([outer, channels, inner]: Dims) => outer * channels * inner;

/** What a facade's user has: channels first, and rank 2 where a channel is one column. */
const shapeOf = ([outer, channels, inner]: Dims) => (inner === 1 ? [outer, channels] : [outer, channels, inner]);

/** Ways to make a channel's values hard, next to easy ones: channel by channel. */
const SORTS: readonly ((value: number, i: number) => number)[] = [
  (v) => v,
  () => 3.7, // constant
  (v) => v + 1e4, // mean far from 0
  (v) => v * 1e-30, // squares below float32's range
  (v) => v * 1e30, // squares above it
  () => 0,
  (v, i) => (i < 4 ? v + 1e6 : v), // a pivot far from the mean
  (v, i) => (i === 1 ? Infinity : v),
];

/** Values of a tensor, in which `mixed` makes every channel of another sort. */
function valuesOf(dims: Dims, seed: number, mixed: boolean, std = 2, mean = 0.5): Float32Array {
  const [, channels, inner] = dims;
  const values = normal(seed, sizeOf(dims), std, mean);
  if (!mixed) return values;
  const seen = new Uint32Array(channels);
  return values.map((v, i) => {
    const c = Math.floor(i / inner) % channels;
    const index = seen[c] as number;
    seen[c] = index + 1;
    return (SORTS[(c * 5 + seed) % SORTS.length] as (typeof SORTS)[number])(v, index);
  });
}

/** A layer's arrays. */
interface Given {
  readonly dims: Dims;
  readonly x: Float32Array;
  readonly dy: Float32Array;
  readonly gamma: Float32Array | null;
  readonly beta: Float32Array | null;
  readonly runningMean: Float32Array;
  readonly runningVariance: Float32Array;
  readonly epsilon: number;
}

function givenOf(dims: Dims, { mixed = false, epsilon = 1e-5, affine = 3 } = {}): Given {
  const [, channels] = dims;
  return {
    dims,
    x: valuesOf(dims, 1, mixed),
    dy: valuesOf(dims, 2, mixed, 1, 0.1),
    gamma: affine & 1 ? normal(3, channels, 0.5, 1) : null,
    beta: affine & 2 ? normal(4, channels) : null,
    runningMean: normal(5, channels),
    runningVariance: normal(6, channels).map((v) => v * v),
    epsilon,
  };
}

type Results = Readonly<Record<string, Float32Array | Float64Array>>;

/** A tensor's values, which are then out of the way. */
function taken(t: Tensor | undefined): Float32Array {
  const values = (t as Tensor).data.slice();
  drop(t);
  return values;
}

/** All that the facade computes. */
function byFacade({ dims, x, dy, gamma, beta, runningMean, runningVariance, epsilon }: Given): Results {
  const shape = shapeOf(dims);
  const [tx, tdy] = [tensor(shape, x), tensor(shape, dy)];
  const batch = batchNormForward(tx, { gamma, beta }, { epsilon });
  const constant = batchNormInference(tx, { gamma, beta, mean: runningMean, variance: runningVariance }, { epsilon });
  const results = {
    y: taken(batch.y),
    mean: batch.mean,
    variance: batch.variance,
    invStd: batch.invStd,
    ...batchNormGradientSums(tdy, batch.saved),
    dx: taken(batchNormBackward(tdy, batch.saved).dx),
    inference: taken(constant.y),
    inferenceInvStd: constant.invStd,
    frozenDx: taken(batchNormBackward(tdy, constant.saved).dx),
    frozenDGamma: batchNormGradientSums(tdy, constant.saved).dGamma,
    frozenDBeta: batchNormGradientSums(tdy, constant.saved).dBeta,
  };
  drop(tx, tdy);
  return results;
}

/** Which buffers are to be the same. */
interface Aliases {
  readonly y?: "x";
  readonly dx?: "dy" | "x" | "none";
}

/** A host: buffers in guard zones, pointers, calls. */
class Host {
  readonly kernels: EmbedExports;
  readonly arena: Arena;

  constructor(build: EmbedBuild) {
    const { kernels, memory } = instantiate(build);
    this.kernels = kernels;
    this.arena = new Arena(memory);
  }

  /** All that the whole operations compute, each call with a workspace of its own that holds anything before. */
  run(given: Given, alias: Aliases = {}): Results {
    const { kernels, arena } = this;
    const { dims, epsilon } = given;
    const [, channels] = dims;
    const vector = (values: Float32Array | null) => (values ? arena.f32(values).pointer : 0);
    const doubles = (values: ArrayLike<number> = blank(channels)) => arena.f64(values);
    const workspace = () => arena.u8(kernels.workspace(4, ...dims)).pointer;
    const [gamma, beta] = [vector(given.gamma), vector(given.beta)];
    const elements = () => arena.f32(blank(sizeOf(dims)));

    const forward = () => {
      const x = arena.f32(given.x);
      const y = alias.y ? x : elements();
      return { x, y };
    };
    const train = forward();
    const [mean, variance, invStd] = [doubles(), doubles(), doubles()];
    kernels.forward(
      train.x.pointer,
      train.y.pointer,
      gamma,
      beta,
      mean.pointer,
      variance.pointer,
      invStd.pointer,
      workspace(),
      ...dims,
      epsilon,
    );

    const [runningMean, runningVariance] = [doubles(given.runningMean), doubles(given.runningVariance)];
    const infer = forward();
    const runningInvStd = doubles();
    kernels.inference(
      infer.x.pointer,
      infer.y.pointer,
      gamma,
      beta,
      runningMean.pointer,
      runningVariance.pointer,
      runningInvStd.pointer,
      workspace(),
      ...dims,
      epsilon,
    );

    const backward = (centre: number, scale: number, constant: 0 | 1) => {
      const [x, dy] = [arena.f32(given.x), arena.f32(given.dy)];
      const dx = alias.dx === "none" ? undefined : alias.dx ? { x, dy }[alias.dx] : elements();
      const [dGamma, dBeta] = [doubles(), doubles()];
      const into = [dGamma.pointer, dBeta.pointer] as const;
      const pointers = [x.pointer, dy.pointer, dx?.pointer ?? 0, gamma, centre, scale, ...into, workspace()] as const;
      kernels.backward(...pointers, ...dims, constant);
      if (dx !== x) expectSame(x.view, given.x, (i) => `x[${i}]`);
      if (dx !== dy) expectSame(dy.view, given.dy, (i) => `dy[${i}]`);
      return { dGamma: dGamma.view, dBeta: dBeta.view, ...(dx ? { dx: dx.view } : {}) };
    };
    const batch = backward(mean.pointer, invStd.pointer, 0);
    const frozen = backward(runningMean.pointer, runningInvStd.pointer, 1);
    const results = {
      y: train.y.view,
      mean: mean.view,
      variance: variance.view,
      invStd: invStd.view,
      ...batch,
      inference: infer.y.view,
      inferenceInvStd: runningInvStd.view,
      frozenDGamma: frozen.dGamma,
      frozenDBeta: frozen.dBeta,
      ...(frozen.dx ? { frozenDx: frozen.dx } : {}),
    };
    if (!alias.y) expectSame(train.x.view, given.x, (i) => `x[${i}]`);
    expectSame(runningMean.view, given.runningMean, (i) => `runningMean[${i}]`);
    expectSame(runningVariance.view, given.runningVariance, (i) => `runningVariance[${i}]`);
    const copies = Object.fromEntries(Object.entries(results).map(([name, values]) => [name, values.slice()]));
    arena.close();
    return copies;
  }
}

function expectResults(got: Results, expected: Results, of = ""): void {
  for (const [name, values] of Object.entries(got))
    expectSame(values, expected[name] as Float32Array, (i) => `${of} ${name}[${i}]`);
}

const HOSTS = EMBED_BUILDS.map((build) => ({ build, host: new Host(build) }));

/** Both sides of every bound of assembly/plan.ts. */
const GEOMETRIES: readonly Dims[] = [
  // planes: in float64, in blocks of four vectors and of 64 values, of an even and an odd number of planes; runs of every rest
  [2, 3, 32],
  [4, 5, 49],
  [3, 2, 170],
  [4, 2, 128],
  [16, 7, 32],
  [31, 3, 33],
  [32, 3, 32],
  [33, 4, 67],
  // one sample is planar from 4 on, and below that every column has coefficients of its own
  [1, 3, 2],
  [1, 64, 3],
  [1, 64, 4],
  [1, 17, 31],
  [1, 9, 1500],
  // rows: in float64, in blocks of four and of 64 values, of several periods and of one, the last cut short
  [2, 3, 1],
  [2, 300, 1],
  [3, 5, 4],
  [127, 6, 1],
  [128, 6, 1],
  [43, 6, 3],
  [1023, 5, 1],
  [1024, 5, 1],
  [1025, 17, 1],
  [400, 5, 3],
  [300, 40, 4],
  [70, 3, 31],
  [1500, 64, 1],
  // two stripes and more, of rows of one period and of several, the last cut short
  [1024, 128, 1],
  [40_001, 5, 1],
  [1030, 35, 4],
  [5000, 130, 1],
  [70_001, 7, 1],
  // one channel is rows
  [2, 1, 1],
  [5, 1, 5],
  [1, 1, 1000],
  [10, 1, 30],
  [8, 1, 70_003],
  // two million elements, which no cache holds
  [2100, 1000, 1],
];

/** Of any size up to some thousand elements. */
const ANY: readonly Dims[] = (() => {
  const next = random(17);
  const pick = (most: number) => 1 + Math.floor(most ** next());
  return Array.from({ length: 60 }, () => {
    const [channels, inner] = [pick(90), pick(40)];
    return [1 + pick(30_000 / channels / inner + 1), channels, inner] as const;
  });
})();

/** No values, or no channels. */
const EMPTY: readonly Dims[] = [
  [0, 3, 4],
  [2, 3, 0],
  [2, 0, 4],
  [0, 0, 0],
  [0, 1, 5],
];

describe("whole operations have the facade's bits", () => {
  beforeAll(() => useBuild("simd"));

  function check(given: Given): void {
    const expected = byFacade(given);
    for (const { build, host } of HOSTS) expectResults(host.run(given), expected, `${build}, ${given.dims}:`);
  }

  it.each(GEOMETRIES)("for [%i, %i, %i]", (...dims) => {
    for (const mixed of [false, true]) check(givenOf(dims, { mixed }));
  });

  it("for geometries of all sorts, with epsilon 0, and without gamma or beta", () => {
    for (const [i, dims] of ANY.entries())
      check(givenOf(dims, { mixed: i % 3 > 0, epsilon: i % 5 ? 1e-3 : 0, affine: i % 4 }));
  });
});

describe.each(HOSTS)("whole operations of $build", ({ host }) => {
  const { kernels, arena } = host;
  beforeAll(() => useBuild("simd"));

  it.each([
    [16, 7, 32],
    [400, 5, 3],
    [40_001, 5, 1],
    [8, 1, 33],
  ] as const)("write over their sources, or no dx at all, in [%i, %i, %i]", (...dims) => {
    const given = givenOf(dims, { mixed: true });
    const expected = host.run(given);
    expectResults(host.run(given, { y: "x", dx: "dy" }), expected);
    expectResults(host.run(given, { dx: "x" }), expected);
    const { dx, frozenDx, ...rest } = expected;
    const without = host.run(given, { dx: "none" });
    expect(Object.keys(without)).not.toContain("dx");
    expectResults(without, rest);
  });

  it("give beta for one value per channel, which the facade refuses, and no dx", () => {
    for (const channels of [1, 3, 70]) {
      const given = givenOf([1, channels, 1]);
      const { y, mean, variance, dx } = host.run(given);
      const t = tensor([1, channels], given.x);
      const statistics = batchNormStatistics(t);
      drop(t);
      expectSame(mean as Float64Array, statistics.mean, (c) => `mean[${c}]`);
      expectSame(variance as Float64Array, new Float64Array(channels), (c) => `variance[${c}]`);
      expect(y).toEqual(given.beta);
      expect((dx as Float32Array).every((v) => v === 0)).toBe(true);
    }
  });

  it.each(EMPTY)("of an empty tensor [%i, %i, %i] touch nothing, and dGamma and dBeta become 0", (...dims) => {
    expect(kernels.workspace(4, ...dims)).toBe(0);
    const { dGamma, dBeta, frozenDGamma, frozenDBeta, ...rest } = host.run(givenOf(dims));
    for (const zeros of [dGamma, dBeta, frozenDGamma, frozenDBeta]) expect(zeros).toEqual(new Float64Array(dims[1]));
    for (const name of ["mean", "variance", "invStd"])
      expect(rest[name]).toEqual(new Float64Array(dims[1]).fill(UNWRITTEN));
  });

  it("ask for a workspace that is small beside a large tensor, and a multiple of 64", () => {
    for (const dims of [...GEOMETRIES, ...ANY]) {
      const bytes = kernels.workspace(4, ...dims);
      const [outer, channels, inner] = dims;
      expect(bytes % 64).toBe(0);
      expect(bytes).toBeLessThan(93 * sizeOf(dims) + 1024);
      if (sizeOf(dims) >= 2 ** 16 && outer * inner >= 1024) expect(bytes).toBeLessThan(sizeOf(dims) * 0.4);
      expect(bytes).toBeGreaterThanOrEqual(93 * channels);
    }
  });

  it("track has the bits of a layer's running statistics, step by step, in float64 and rounded to float32", () => {
    const dims: Dims = [8, 5, 6];
    const layer = new BatchNorm(5, { momentum: 0.3 });
    const wide = new RunningStatistics(5, resolveOptions({ dtype: "float64", momentum: 0.3 }));
    const running = [arena.f64(new Float64Array(5)), arena.f64(new Float64Array(5).fill(1))] as const;
    for (let step = 1; step <= 20; step++) {
      const t = tensor(shapeOf(dims), normal(step, sizeOf(dims), step, step * 10));
      const { mean, variance } = batchNormStatistics(t);
      drop(layer.forward(t), t);
      wide.update(mean, variance, 48);
      const batch = [arena.f64(mean), arena.f64(variance)] as const;
      kernels.track(running[0].pointer, running[1].pointer, batch[0].pointer, batch[1].pointer, 0.3, 48, 5);
      expectSame(running[0].view, wide.mean, (c) => `running mean ${c} after ${step}`);
      expectSame(running[1].view, wide.variance, (c) => `running variance ${c} after ${step}`);
      expect(Float32Array.from(running[0].view)).toEqual(layer.runningMean);
      expect(Float32Array.from(running[1].view)).toEqual(layer.runningVariance);
    }

    // it is the rounded ones that the facade's inference takes
    layer.eval();
    const x = arena.f32(normal(21, sizeOf(dims), 20, 200));
    const t = tensor(shapeOf(dims), x.view.slice());
    const y = taken(layer.forward(t));
    drop(t);
    const [mean, variance] = running.map(({ view }) => arena.f64(Float32Array.from(view)).pointer) as [number, number];
    const workspace = arena.u8(kernels.workspace(4, ...dims)).pointer;
    kernels.inference(
      x.pointer,
      x.pointer,
      0,
      0,
      mean,
      variance,
      arena.f64(blank(5)).pointer,
      workspace,
      ...dims,
      1e-5,
    );
    expectSame(x.view, y, (i) => `y[${i}]`);
    arena.close();
  });
});

describe("the modules", () => {
  const modules = EMBED_BUILDS.map((build) => new WebAssembly.Module(bytesOf(build)));
  const [embed, standalone] = modules as [WebAssembly.Module, WebAssembly.Module];
  const namesOf = (module: WebAssembly.Module) => WebAssembly.Module.exports(module).map(({ name }) => name);

  it("differ in where their memory comes from, and in nothing else", () => {
    expect(WebAssembly.Module.imports(embed)).toEqual([{ module: "env", name: "memory", kind: "memory" }]);
    expect(WebAssembly.Module.imports(standalone)).toEqual([]);
    expect(namesOf(standalone)).toEqual([...namesOf(embed), "memory"]);
    const [a, b] = EMBED_BUILDS.map((build) => sectionsOf(bytesOf(build)));
    for (const section of [Section.Type, Section.Function, Section.Code])
      expect(a?.get(section)).toEqual(b?.get(section));
  });

  it("have the whole operations beside the core's kernels, which kernels.test.ts exercises", () => {
    expect(namesOf(embed)).toEqual(expect.arrayContaining([...WHOLE_OPERATIONS, "version", "plan", "map"]));
  });

  it("leave all memory to the host: no data, no globals for a stack or a heap, nothing that runs by itself", () => {
    for (const build of EMBED_BUILDS) {
      const sections = sectionsOf(bytesOf(build));
      for (const section of [Section.Start, Section.Data, Section.Global, Section.Table])
        expect(sections.has(section)).toBe(false);
    }
  });

  it("standalone brings one page that grows, and takes tensors from byte 0 on", async () => {
    const { exports } = new WebAssembly.Instance(standalone);
    const { memory, ...kernels } = exports as unknown as EmbedExports & { memory: WebAssembly.Memory };
    expect(memory.buffer.byteLength).toBe(65536);
    expect(new Uint8Array(memory.buffer).every((byte) => byte === 0)).toBe(true);
    expect(memory.grow(1)).toBe(1);

    await useBuild("simd");
    const dims: Dims = [6, 3, 5];
    const given = givenOf(dims, { affine: 0 });
    const expected = byFacade(given);
    const view = new Float32Array(memory.buffer, 0, sizeOf(dims));
    view.set(given.x);
    const [mean, variance, invStd, workspace] = [360, 384, 408, 432];
    kernels.forward(0, 0, 0, 0, mean, variance, invStd, workspace, ...dims, given.epsilon);
    expectSame(view, expected.y as Float32Array, (i) => `y[${i}]`);
    const rest = new Uint8Array(memory.buffer, workspace + kernels.workspace(4, ...dims));
    expect(rest.every((byte) => byte === 0)).toBe(true);
  });

  it("reach memory above 2 GiB", async () => {
    await useBuild("simd");
    const { kernels, memory } = instantiate("embed", 2 ** 15 + 1);
    const dims: Dims = [6, 3, 5];
    const given = givenOf(dims, { affine: 0 });
    const at = 2 ** 31;
    const view = new Float32Array(memory.buffer, at, sizeOf(dims));
    view.set(given.x);
    const [mean, variance, invStd, workspace] = [at + 360, at + 384, at + 408, at + 432];
    kernels.forward(at, at, 0, 0, mean, variance, invStd, workspace, ...dims, given.epsilon);
    expectSame(view, byFacade(given).y as Float32Array, (i) => `y[${i}]`);
  });
});
