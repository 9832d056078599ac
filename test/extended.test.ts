// What a page has that does not call extended(), and what it lacks: a module graph of its own for each test, since one
// call is for all.

import { beforeEach, describe, expect, it, vi } from "vitest";

type Library = typeof import("../src/index.ts");
let library: Library;

beforeEach(async () => {
  vi.resetModules();
  library = await import("../src/index.ts");
});

const shape = [2, 3, 4];
const values = () => Float32Array.from({ length: 24 }, (_, i) => Math.sin(i));
const x = () => ({ data: values(), shape });

/** A layer's forward, after which backward has everything to do. */
const forward = (options: object, more: object = {}) => {
  const bn = new library.BatchNorm(3, options);
  const y = bn.forward(x(), more as object);
  return [y, bn.backward(x())] as const;
};

const mask = [true, true, false, true, true, true, true, true];
const perSample = Float32Array.from({ length: 6 }, (_, i) => i);

/** Everything that extended() adds, as a user comes across it. */
const FEATURES: Record<string, () => unknown> = {
  "activation relu": () => forward({ activation: "relu" }),
  "activation silu": () => forward({ activation: "silu" }),
  negativeSlope: () => forward({ activation: "leaky_relu", negativeSlope: 0.1 }),
  residual: () => forward({}, { residual: x() }),
  mask: () => forward({}, { mask }),
  "gamma of every sample": () => forward({}, { gamma: perSample }),
  renorm: () => forward({ renorm: { rMax: 3, dMax: 5 } }),
  "dtype float64": () =>
    new library.BatchNorm(3, { dtype: "float64" }).forward({ data: Float64Array.from(values()), shape }),
  "dtype bfloat16": () =>
    new library.BatchNorm(3, { dtype: "bfloat16" }).forward({ data: new Uint16Array(24).fill(16256), shape }),
  stateDict: () => new library.BatchNorm(3).stateDict(),
  loadStateDict: () => {
    const ones = new Float32Array(3).fill(1);
    const state = { weight: ones, bias: ones, running_mean: ones, running_var: ones };
    return new library.BatchNorm(3).loadStateDict(state, { strict: false });
  },
  toAffine: () => new library.BatchNorm(3).toAffine(),
  "batchNormForward with a mask": () => library.batchNormForward(x(), {}, { mask }),
  "batchNormForward with gamma of every sample": () => library.batchNormForward(x(), { gamma: perSample }),
};

describe.each(Object.keys(FEATURES))("%s", (name) => {
  const use = FEATURES[name] as () => unknown;

  it("is refused by name before extended()", () => {
    const error = (() => {
      try {
        return use();
      } catch (caught) {
        return caught;
      }
    })();
    expect(error).toBeInstanceOf(library.BatchNormError);
    expect(error).toMatchObject({
      code: "extended",
      message: expect.stringContaining("call extended(), which batchnorm-wasm exports"),
    });
  });

  it("works after it", () => {
    library.extended();
    expect(use()).toBeDefined();
  });
});

it("plain batch normalization needs none of it, in either layout, with tensors and with ghost batches", () => {
  for (const options of [
    {},
    { layout: "channels-last" } as const,
    { ghostBatchSize: 1 },
    { estimator: "population" },
  ]) {
    const bn = new library.BatchNorm(options.layout ? 4 : 3, options as object);
    const y = bn.forward(x());
    expect(bn.backward(y).dx?.data.every(Number.isFinite)).toBe(true);
    expect(bn.eval().forward(x()).data.every(Number.isFinite)).toBe(true);
    const t = library.tensor(shape, values());
    expect(bn.forward(t, { mode: "frozen" }).data).toEqual(bn.forward(x(), { mode: "frozen" }).data);
  }
});

it("works on one thread what came after the pool, with the bits of two", async () => {
  const large = [4, 3, 150, 150];
  const data = Float32Array.from({ length: 270_000 }, (_, i) => Math.sin(i));
  const bits = () => {
    const bn = new library.BatchNorm(3, { activation: "relu" });
    const t = library.tensor(large, data);
    const y = bn.forward(t).data.slice();
    return [y, bn.backward(t).dx?.data.slice()];
  };
  try {
    await library.init({ threads: 2 });
    library.extended();
    const late = bits();
    await library.init({ threads: 2 });
    expect(library.info().threads).toBe(2);
    expect(bits()).toEqual(late);
  } finally {
    await library.dispose();
  }
});

it("a module that the host gives stands in for the second module's kernels", async () => {
  const { default: kernels } = await import("../build/extended.wasm");
  const extended = await WebAssembly.compile(kernels() as Uint8Array<ArrayBuffer>);
  await library.init({ extended });
  expect(() => forward({}, { residual: x() })).not.toThrow();
});
