// The small entry. Its features work as in the complete entry. The compiler and the functions reject features that it
// does not contain. Each entry has its own module graph in this test, so that the small entry has no features
// installed.

import { createHash } from "node:crypto";
import { beforeAll, describe, expect, it, vi } from "vitest";

type Complete = typeof import("../../src/index.ts");
type Core = typeof import("../../src/core.ts");
let complete: Complete;
let core: Core;
/** The small entry as a program in plain JavaScript sees it. */
let plain: Complete;

beforeAll(async () => {
  complete = await import("../../src/index.ts");
  vi.resetModules();
  core = await import("../../src/core.ts");
  plain = core as unknown as Complete;
});

const shape = [2, 3, 4];
const values = (seed = 1) => Float32Array.from({ length: 24 }, (_, i) => Math.sin(seed * (i + 1)));
const x = () => ({ data: values(), shape });
const dy = () => ({ data: values(2), shape });

describe("what it has", () => {
  it.each<object>([
    {},
    { layout: "channels-last" },
    { ghostBatchSize: 1 },
    { estimator: "population", epsilon: 1e-3, affine: false },
    { preset: "paper", trackRunningStats: false },
    // spelled out, as ResolvedOptions of the complete entry has them
    { dtype: "float32", activation: "none", negativeSlope: null, renorm: null },
  ])("a layer with %o has the bits of the complete entry, on arrays and on tensors", (options) => {
    const results = [complete, plain].map(({ BatchNorm, tensor }) => {
      const bn = new BatchNorm("layout" in options ? 4 : 3, options);
      const t = tensor(shape, values());
      const y = bn.forward(x());
      const { dx, dGamma, dBeta } = bn.backward(dy());
      const onTensor = bn.forward(t, { mode: "batch" }).data.slice();
      const { runningMean, runningVariance } = bn;
      const evaluated = bn.eval().forward(x()).data;
      return { y, dx, dGamma, dBeta, onTensor, runningMean, runningVariance, evaluated };
    });
    expect(results[0]?.y.data.every(Number.isFinite)).toBe(true);
    expect(results[1]).toEqual(results[0]);
  });

  it("functions have the bits of the complete entry's, over two micro-batches, too", () => {
    const results = [complete, plain].map((library) => {
      const gamma = Float32Array.of(1, 2, 3);
      const { y, saved } = library.batchNormForward(x(), { gamma });
      const { dx, dGamma } = library.batchNormBackward(dy(), saved);
      const parts = [x(), dy()].map((part) => library.batchNormStatistics(part));
      const statistics = library.mergeStatistics(parts);
      const joint = library.batchNormForward(x(), { gamma }, { statistics });
      const sums = library.batchNormGradientSums(dy(), joint.saved);
      const { mean, variance } = statistics;
      const { y: inferred } = library.batchNormInference(x(), { mean, variance, gamma });
      return { y, dx, dGamma, statistics, joint: joint.y, sums, inferred };
    });
    expect(results[0]?.statistics.count).toBe(16);
    expect(results[1]).toEqual(results[0]);
  });

  it("threads share in its calls, with the bits of one", async () => {
    const large = [4, 3, 150, 150];
    const data = Float32Array.from({ length: 270_000 }, (_, i) => Math.sin(i));
    const bits = () => {
      const bn = new core.BatchNorm(3);
      const y = bn.forward(core.tensor(large, data));
      const of = ({ data }: { data: Float32Array }) => createHash("sha256").update(data).digest("hex");
      return [of(y), of(bn.backward(y).dx as typeof y)];
    };
    const alone = bits();
    try {
      await core.init({ threads: 2 });
      expect(core.kernelInfo().threads).toBe(2);
      expect(bits()).toEqual(alone);
    } finally {
      await core.stopThreads();
    }
    expect(core.kernelInfo().threads).toBe(1);
  });

  it("every name is one of the complete entry", () => {
    expect(Object.keys(complete)).toEqual(expect.arrayContaining(Object.keys(core)));
    expect(Object.keys(core)).toContain("BatchNorm");
  });

  it("an error of it is a BatchNormError of the complete entry, too", () => {
    const bn = new core.BatchNorm(3);
    bn.dispose();
    const error = caught(() => bn.forward(x()));
    expect(error).toBeInstanceOf(core.BatchNormError);
    expect(error).toBeInstanceOf(complete.BatchNormError);
  });
});

function caught(use: () => unknown): unknown {
  try {
    return use();
  } catch (error) {
    return error;
  }
}

const mask = [true, true, false, true, true, true, true, true];
const perSample = Float32Array.from({ length: 6 }, (_, i) => i);
const wide = () => ({ data: Float64Array.from(values()), shape });
const bfloat16 = () => ({ data: new Uint16Array(24).fill(16256), shape, dtype: "bfloat16" as const });

type Lack = readonly [name: string, use: (library: Complete) => unknown];

/** Everything that it lacks, as a program comes across it, and how the error calls it. */
const LACKS: readonly Lack[] = [
  ["activation", ({ BatchNorm }) => new BatchNorm(3, { activation: "relu" })],
  ['dtype "float64"', ({ BatchNorm }) => new BatchNorm(3, { dtype: "float64" })],
  ['dtype "bfloat16"', ({ BatchNorm }) => new BatchNorm(3, { dtype: "bfloat16" })],
  ["prior", ({ BatchNorm }) => new BatchNorm(3).forward(x(), { mode: "batch", prior: 2 } as object)],
  ["renorm", ({ BatchNorm }) => new BatchNorm(3, { renorm: { rMax: 3, dMax: 5 } })],
  ["renorm", ({ BatchNorm }) => Object.assign(new BatchNorm(3), { renorm: { rMax: 3, dMax: 5 } })],
  ["residual", ({ BatchNorm }) => new BatchNorm(3).forward(x(), { residual: x() })],
  ["mask", ({ BatchNorm }) => new BatchNorm(3).forward(x(), { mask })],
  ["perSample", ({ BatchNorm }) => new BatchNorm(3).forward(x(), { perSample: { gamma: perSample } } as object)],
  ["stateDict", ({ BatchNorm }) => new BatchNorm(3).stateDict()],
  ["loadStateDict", ({ BatchNorm }) => new BatchNorm(3).loadStateDict({}, { strict: false })],
  ["toAffine", ({ BatchNorm }) => new BatchNorm(3).toAffine()],
  ["activation", ({ batchNormForward }) => batchNormForward(x(), {}, { activation: "silu" })],
  ["residual", ({ batchNormForward }) => batchNormForward(x(), {}, { residual: x() })],
  ["mask", ({ batchNormForward }) => batchNormForward(x(), {}, { mask })],
  ["perSample", ({ batchNormForward }) => batchNormForward(x(), { perSample: { beta: perSample } } as object)],
  ["x.data of float64", ({ batchNormForward }) => batchNormForward(wide())],
  ["x.data of bfloat16", ({ batchNormForward }) => batchNormForward(bfloat16())],
  [
    "residual",
    ({ batchNormInference }) =>
      batchNormInference(
        x(),
        { mean: Float32Array.of(0, 0, 0), variance: Float32Array.of(1, 1, 1) },
        { residual: x() },
      ),
  ],
  ["mask", ({ batchNormStatistics }) => batchNormStatistics(x(), { mask })],
  ["x.data of float64", ({ batchNormStatistics }) => batchNormStatistics(wide())],
  ['dtype "float16"', ({ tensor }) => tensor([2], undefined, { dtype: "float16" })],
  ["data of float64", ({ tensor }) => tensor([2], Float64Array.of(1, 2))],
];

/** What no entry takes, but for another reason than the small one gives. */
const MISTAKES: readonly Lack[] = [
  ["negativeSlope", ({ BatchNorm }) => new BatchNorm(3, { negativeSlope: 0.1 })],
  ["x.data of float64", ({ BatchNorm }) => new BatchNorm(3).forward(wide() as never)],
];

describe("what it lacks", () => {
  it.each([...LACKS, ...MISTAKES])("%s is refused by its name (%#)", (name, use) => {
    const error = caught(() => use(plain)) as Error;
    expect(error).toBeInstanceOf(TypeError);
    expect(error.message.startsWith(`${name}: `)).toBe(true);
    expect(error.message).toContain("batchnorm-wasm, the complete entry");
    expect(error.message).toContain("batchnorm-wasm/core");
    expect(error.message).toMatch(/import the other$/);
  });

  it.each(LACKS)("%s works in the complete entry (%#)", (_, use) => {
    expect(use(complete)).toBeDefined();
  });

  it("a second module is refused by init", async () => {
    const { default: kernels } = await import("../../build/extended.wasm");
    const extended = await WebAssembly.compile(kernels() as Uint8Array<ArrayBuffer>);
    await expect(plain.init({ extended })).rejects.toThrow(
      /^init\(\{ extended \}\): expected batchnorm-wasm, the complete/,
    );
  });

  it("a refused call leaves a layer as it was", () => {
    const bn = new plain.BatchNorm(3);
    expect(() => bn.forward(x(), { residual: x() })).toThrow(TypeError);
    expect(bn.batchesTracked).toBe(0);
    expect(bn.forward(x()).data.every(Number.isFinite)).toBe(true);
  });

  it("is not in its types: `npm run check` compiles this", () => {
    const uses = (library: Core, saved: import("../../src/core.ts").Saved) => {
      const bn = new library.BatchNorm(3, { layout: "channels-first", ghostBatchSize: 2 });
      // @ts-expect-error: no activations
      new library.BatchNorm(3, { activation: "relu" });
      // @ts-expect-error: no slopes
      new library.BatchNorm(3, { negativeSlope: 0.1 });
      // @ts-expect-error: no types of elements to choose from
      new library.BatchNorm(3, { dtype: "float64" });
      // @ts-expect-error: no Batch Renormalization
      new library.BatchNorm(3, { renorm: { rMax: 1, dMax: 0 } });
      // @ts-expect-error: no residuals
      bn.forward(x(), { residual: x() });
      // @ts-expect-error: no masks
      bn.forward(x(), { mask });
      // @ts-expect-error: no scale of every sample
      bn.forward(x(), { gamma: perSample });
      // @ts-expect-error: float32 alone
      bn.forward(wide());
      // @ts-expect-error: nothing was added
      bn.backward(dy(), { needs: { dResidual: false } });
      // @ts-expect-error: no residual, no gradient of it
      bn.backward(dy()).dResidual;
      // @ts-expect-error: no Batch Renormalization to be widened
      bn.train().renorm;
      // @ts-expect-error: no activation among the options
      bn.options.activation;
      // @ts-expect-error: no state dicts
      bn.eval().stateDict();
      // @ts-expect-error: no state dicts
      bn.loadStateDict({});
      // @ts-expect-error: no folding
      bn.toAffine();
      // @ts-expect-error: a layer that has gamma keeps it
      bn.gamma = null;
      // @ts-expect-error: no activations
      library.batchNormForward(x(), {}, { activation: "relu" });
      // @ts-expect-error: float32 alone
      library.batchNormForward(wide());
      // @ts-expect-error: gamma is float32
      library.batchNormForward(x(), { gamma: Float64Array.of(1, 1, 1) });
      // @ts-expect-error: no masks
      library.batchNormStatistics(x(), { mask });
      // @ts-expect-error: no residuals
      library.batchNormBackward(dy(), saved, { dResidualOut: x() });
      // @ts-expect-error: no types of elements to choose from
      library.tensor([2], [1, 2], { dtype: "float16" });
      // @ts-expect-error: no second module
      library.init({ extended: undefined });
      const tensor = library.tensor([2, 3, 4]);
      const y: typeof tensor = bn.forward(tensor, { out: tensor, mode: "eval" });
      const narrowed: Float32Array | undefined = bn.backward(y, { dxOut: tensor, accumulate: true }).dx?.data;
      return narrowed;
    };
    // the layer of the first line, and then refusals: the calls are for the compiler
    expect(() => uses(core, core.batchNormForward(x()).saved)).toThrow(/^activation: /);
  });
});

it("a layer of core takes null for renorm, which it has", () => {
  const bn = new core.BatchNorm(3);
  Object.assign(bn, { renorm: null });
  expect((bn as InstanceType<Complete["BatchNorm"]>).renorm).toBeNull();
});

it("a module that the host gives stands in for the second module's kernels", async () => {
  const { default: kernels } = await import("../../build/extended.wasm");
  const extended = await WebAssembly.compile(kernels() as Uint8Array<ArrayBuffer>);
  await complete.init({ extended });
  expect(new complete.BatchNorm(3, { activation: "relu" }).forward(x()).data.every((v) => v >= 0)).toBe(true);
});
