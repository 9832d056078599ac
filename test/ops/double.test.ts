// The gradient of backward, against finite differences of the oracle's backward and against its reverse-mode
// derivative, in every element type, and in a gradient penalty.

import { beforeAll, describe, expect, it } from "vitest";
import { sharedMemory } from "../../src/common/engine.ts";
import {
  type AnyTensor,
  attachMemory,
  BatchNorm,
  batchNormBackward,
  batchNormDoubleBackward,
  batchNormForward,
  batchNormInference,
  type ForwardOptions,
  type Layout,
  type PlainTensor,
  type Saved,
  stopThreads,
  tensor,
  type Vector,
} from "../../src/index.ts";
import { defaultHeap } from "../../src/memory/heap.ts";
import { once } from "../support/once.ts";
import { backward, dimsOf, doubleBackward, invStdOf, statistics, type Upstream } from "../support/reference.ts";
import { BUILDS, drop, KINDS, make, normal, random, useBuild } from "../support/worlds.ts";

const LAYOUTS: readonly Layout[] = ["channels-first", "channels-last"];
const epsilon = 1e-3;

/** [n, c, s] in either memory order. */
const shapeOf = (layout: Layout, n: number, c: number, s: number) =>
  layout === "channels-last" ? [n, s, c] : [n, c, s];

const wide = (values: ArrayLike<number>) => Float64Array.from(values);
const product = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

/** Inputs of a case as float64 arrays whose values are float32's. */
function inputs(shape: readonly number[], channels: number, std = 1, mean = 0.5) {
  const size = product(shape);
  return {
    x: wide(normal(1, size, std, mean)),
    dy: wide(normal(2, size, 1, 0.25)),
    gamma: wide(normal(3, channels, 0.5, 1)),
    ddx: wide(normal(4, size, 1, -0.5)),
    ddGamma: wide(normal(5, channels)),
    ddBeta: wide(normal(6, channels)),
  };
}
type Inputs = ReturnType<typeof inputs>;

const fixed = (channels: number) => ({
  mean: wide(normal(7, channels)),
  variance: wide(normal(8, channels)).map((v) => v * v + 0.5),
});

/** mean and invStd that a case normalises by. */
function normalizers(x: ArrayLike<number>, layout: Layout, shape: readonly number[], batch: boolean) {
  const d = dimsOf(shape, layout);
  const s = batch ? statistics(x, d) : fixed(d.channels);
  return { d, mean: s.mean, invStd: invStdOf(s.variance, epsilon) };
}

/** Σ ddx·dx + Σ ddGamma·dGamma + Σ ddBeta·dBeta by the oracle's backward. */
function lossOf(i: Inputs, layout: Layout, shape: readonly number[], batch: boolean): number {
  const { d, mean, invStd } = normalizers(i.x, layout, shape, batch);
  const { dx, dGamma, dBeta } = backward(i.x, i.dy, d, mean, invStd, i.gamma, batch);
  const dot = (a: Float64Array, b: Float64Array) => a.reduce((sum, v, k) => sum + v * (b[k] as number), 0);
  return dot(dx, i.ddx) + dot(dGamma, i.ddGamma) + dot(dBeta, i.ddBeta);
}

/** Central differences of a function of one of the values. */
function differences(at: Float64Array, value: (moved: Float64Array) => number, h = 1e-5): number[] {
  return Array.from(at, (_, i) => {
    const [up, down] = [1, -1].map((sign) => value(at.map((v, j) => (j === i ? v + sign * h : v)))) as [number, number];
    return (up - down) / (2 * h);
  });
}

/** The reverse-mode oracle of a case. */
function expected(i: Inputs, layout: Layout, shape: readonly number[], batch: boolean, upstream: Upstream = i) {
  const { d, mean, invStd } = normalizers(i.x, layout, shape, batch);
  return doubleBackward(i.x, i.dy, d, mean, invStd, i.gamma, batch, upstream);
}

const CASES = LAYOUTS.flatMap((layout) => [true, false].map((batch) => ({ layout, batch })));

describe.each(CASES)("the oracle, $layout, batch statistics: $batch", ({ layout, batch }) => {
  it("in reverse by hand agrees with differences of backward", () => {
    const shape = shapeOf(layout, 3, 2, 4);
    const i = inputs(shape, 2);
    const { dx, dGamma, ddy } = expected(i, layout, shape, batch);
    for (const [got, name] of [[dx, "x"] as const, [dGamma, "gamma"] as const, [ddy, "dy"] as const]) {
      const by = differences(i[name], (moved) => lossOf({ ...i, [name]: moved }, layout, shape, batch));
      expect(got).toBeAllclose(by, { rtol: 1e-7, atol: 1e-7 });
    }
  });
});

/** Arrays as a type of elements has them, in a kind. */
const PRECISIONS = { float32: Float32Array, float64: Float64Array } as const;
type Precision = keyof typeof PRECISIONS;

function operand(kind: string, precision: Precision, shape: readonly number[], values: Float64Array): AnyTensor {
  if (precision === "float32") return make(kind as "plain", shape, Float32Array.from(values));
  return kind === "tensor" ? tensor(shape, values.slice()) : { data: values.slice(), shape };
}

/** Runs a case through the public functions. */
function run(
  i: Inputs,
  kind: string,
  precision: Precision,
  layout: Layout,
  shape: readonly number[],
  batch: boolean,
  given: readonly ("ddx" | "ddGamma" | "ddBeta")[] = ["ddx", "ddGamma", "ddBeta"],
) {
  const of = (values: Float64Array) => PRECISIONS[precision].from(values);
  const gamma = of(i.gamma);
  const [x, dy, ddx] = [i.x, i.dy, i.ddx].map((v) => operand(kind, precision, shape, v)) as [
    AnyTensor,
    AnyTensor,
    AnyTensor,
  ];
  const running = fixed(gamma.length);
  const { y, saved } = batch
    ? batchNormForward(x, { gamma }, { layout, epsilon })
    : batchNormInference(x, { gamma, mean: running.mean, variance: running.variance }, { layout, epsilon });
  const upstream = { ddx, ddGamma: of(i.ddGamma), ddBeta: of(i.ddBeta) };
  const result = batchNormDoubleBackward(
    dy,
    saved,
    Object.fromEntries(Object.entries(upstream).filter(([name]) => given.includes(name as "ddx"))),
  );
  const copies = {
    dx: Float64Array.from(result.dx?.data ?? []),
    dGamma: Float64Array.from(result.dGamma ?? []),
    ddy: Float64Array.from(result.ddy?.data ?? []),
  };
  expect(result.dx?.shape).toEqual(shape);
  expect(result.ddy?.constructor).toBe(dy.constructor);
  drop(x, dy, ddx, y, result.dx, result.ddy);
  return copies;
}

/** Largest error of a result in a channel, over the channel's largest value. */
function worst(got: ArrayLike<number>, want: ArrayLike<number>, channels: number, inner: number): number {
  const [error, size] = [new Float64Array(channels), new Float64Array(channels)];
  expect(got.length).toBe(want.length);
  for (let i = 0; i < want.length; i++) {
    const c = Math.floor(i / inner) % channels;
    const e = Math.abs((got[i] as number) - (want[i] as number));
    error[c] = Number.isNaN(e) ? Infinity : Math.max(error[c] as number, e);
    size[c] = Math.max(size[c] as number, Math.abs(want[i] as number));
  }
  return Math.max(...error.map((e, c) => (e === 0 ? 0 : e / (size[c] as number))));
}

/** Sixteen roundings to float32, where 7 were seen; in float64 what the oracle's own rounding may be. Relative to a channel's largest value. */
const TOLERANCE = { float32: 16 * 2 ** -24, float64: 1e-13 };

/** Shapes that take every walk, tiles of several channels and stripes of rows. */
const SHAPES = [
  [4, 3, 5],
  [37, 16, 1],
  [300, 7, 4],
  [5, 2, 32],
  [3, 17, 49],
  [2, 40, 2000],
  [40000, 4, 1],
] as const;

describe.each(
  BUILDS.flatMap((build) =>
    KINDS.flatMap((kind) => (["float32", "float64"] as const).map((precision) => ({ build, kind, precision }))),
  ),
)("double backward, $build build, $kind input, $precision", ({ build, kind, precision }) => {
  beforeAll(() => useBuild(build));

  it.each(SHAPES.flatMap((s) => CASES.map((c) => ({ ...c, n: s[0], c: s[1], s: s[2] }))))(
    "of [$n, $c, $s], $layout, batch statistics: $batch, is the oracle's",
    ({ n, c, s, layout, batch }) => {
      const shape = shapeOf(layout, n, c, s);
      const i = inputs(shape, c);
      const got = run(i, kind, precision, layout, shape, batch);
      const want = once(`${shape} ${layout} ${batch}`, () => expected(i, layout, shape, batch));
      const { inner } = dimsOf(shape, layout);
      expect(worst(got.dx, want.dx, c, inner)).toBeLessThan(TOLERANCE[precision]);
      expect(worst(got.ddy, want.ddy, c, inner)).toBeLessThan(TOLERANCE[precision]);
      // of all channels together, since a sum of one may cancel
      expect(worst(got.dGamma, want.dGamma, 1, 1)).toBeLessThan(TOLERANCE[precision]);
    },
  );

  it.each([[], ["ddx"], ["ddGamma"], ["ddBeta"], ["ddGamma", "ddBeta"]] as const)(
    "counts what is missing as zero, with %j",
    (...given) => {
      for (const { layout, batch } of CASES) {
        const shape = shapeOf(layout, 6, 3, 5);
        const i = inputs(shape, 3);
        const zero: Inputs = { ...i };
        for (const name of ["ddx", "ddGamma", "ddBeta"] as const)
          if (!(given as readonly string[]).includes(name)) zero[name] = new Float64Array(i[name].length);
        const got = run(i, kind, precision, layout, shape, batch, given);
        const want = expected(zero, layout, shape, batch);
        for (const name of ["dx", "dGamma", "ddy"] as const)
          expect(got[name]).toBeAllclose(want[name], { rtol: 1e-5, atol: TOLERANCE[precision] });
      }
    },
  );

  it.each([0, 1e2, 1e4])("keeps its precision at |mean|/std = %d", (ratio) => {
    // a mean in float64 is rounded to float64
    const tolerance = TOLERANCE[precision] * (precision === "float64" ? ratio + 1 : 1);
    for (const layout of LAYOUTS) {
      const shape = shapeOf(layout, 8, 5, 200);
      const i = inputs(shape, 5, 1, ratio);
      const got = run(i, kind, precision, layout, shape, true);
      const want = expected(i, layout, shape, true);
      const { inner } = dimsOf(shape, layout);
      expect(worst(got.dx, want.dx, 5, inner)).toBeLessThan(tolerance);
      expect(worst(got.ddy, want.ddy, 5, inner)).toBeLessThan(tolerance);
    }
  });
});

describe.each(BUILDS)("numbers far from 1, %s build", (build) => {
  beforeAll(() => useBuild(build));

  // where the result is within float32's range: it is of size dy·ddx/std²
  it.each([
    { std: 1e12, dyStd: 1, ddxStd: 1 },
    { std: 1e20, dyStd: 1, ddxStd: 1e20 },
    { std: 1e20, dyStd: 1e10, ddxStd: 1 },
    { std: 1e30, dyStd: 1, ddxStd: 1e30 },
    { std: 1e-12, dyStd: 1, ddxStd: 1 },
    { std: 1e-20, dyStd: 1, ddxStd: 1e-20 },
    { std: 1e-30, dyStd: 1e-10, ddxStd: 1e-30 },
    { std: 1, dyStd: 1e-10, ddxStd: 1e-26 },
    { std: 1, dyStd: 1e15, ddxStd: 1e15 },
  ])("x around $std, dy around $dyStd, ddx around $ddxStd", ({ std, dyStd, ddxStd }) => {
    for (const [layout, count] of [
      ["channels-first", 8],
      ["channels-last", 8],
      ["channels-first", 4096],
      ["channels-last", 4096],
    ] as const) {
      const shape = layout === "channels-last" ? [count, 5] : [2, 5, count / 2];
      const d = dimsOf(shape, layout);
      const size = count * 5;
      const [x, dy, ddx] = [normal(1, size, std, std / 2), normal(2, size, dyStd), normal(3, size, ddxStd)];
      const gamma = normal(4, 5, 0.5, 1);
      const { saved } = batchNormForward({ data: x, shape }, { gamma }, { layout, epsilon: 0 });
      const got = batchNormDoubleBackward({ data: dy, shape }, saved, { ddx: { data: ddx, shape } });
      const s = statistics(x, d);
      const want = doubleBackward(x, dy, d, s.mean, invStdOf(s.variance, 0), gamma, true, { ddx });
      expect(worst(got.dx?.data ?? [], want.dx, 5, d.inner)).toBeLessThan(TOLERANCE.float32);
      expect(worst(got.ddy?.data ?? [], want.ddy, 5, d.inner)).toBeLessThan(TOLERANCE.float32);
      expect(worst(got.dGamma ?? [], want.dGamma, 1, 1)).toBeLessThan(TOLERANCE.float32);
    }
  });
});

describe("double backward", () => {
  beforeAll(() => useBuild("simd"));
  const shape = [6, 3, 5];
  const values = inputs(shape, 3);
  const f64 = (data: ArrayLike<number>, own: readonly number[] = shape): PlainTensor<Float64Array> => ({
    data: Float64Array.from(data),
    shape: own,
  });

  /** Differences of the library's own backward in float64, for what the oracle does not have. */
  function byDifferences(options: ForwardOptions<PlainTensor<Float64Array>>, ddResidual?: Float64Array) {
    const loss = (i: Inputs) => {
      const { saved } = batchNormForward(f64(i.x), { gamma: i.gamma }, options);
      const { dx, dGamma, dBeta, dResidual } = batchNormBackward(f64(i.dy), saved);
      const dot = (a?: ArrayLike<number>, b?: Float64Array) =>
        b?.reduce((s, v, k) => s + v * (a?.[k] as number), 0) ?? 0;
      return dot(dx?.data, i.ddx) + dot(dGamma, i.ddGamma) + dot(dBeta, i.ddBeta) + dot(dResidual?.data, ddResidual);
    };
    const { saved } = batchNormForward(f64(values.x), { gamma: values.gamma }, options);
    const { ddx, ddGamma, ddBeta } = values;
    const got = batchNormDoubleBackward(f64(values.dy), saved, {
      ddx: f64(ddx),
      ddGamma,
      ddBeta,
      ...(ddResidual ? { ddResidual: f64(ddResidual) } : {}),
    });
    const tolerance = { rtol: 1e-6, atol: 1e-6 };
    const by = (name: "x" | "gamma" | "dy") =>
      differences(values[name], (moved) => loss({ ...values, [name]: moved }), 1e-6);
    expect(got.dx?.data).toBeAllclose(by("x"), tolerance);
    expect(got.dGamma).toBeAllclose(by("gamma"), tolerance);
    expect(got.ddy?.data).toBeAllclose(by("dy"), tolerance);
  }

  it.each(["relu", "leaky_relu", "relu6"] as const)("goes through %s, and a residual before it", (activation) => {
    byDifferences({ epsilon, activation });
    byDifferences({ epsilon, activation, residual: f64(normal(11, 90)) }, wide(normal(12, 90)));
  });

  it("goes through a residual without activation, and ghost batches", () => {
    byDifferences({ epsilon, residual: f64(normal(11, 90)) }, wide(normal(12, 90)));
    byDifferences({ epsilon, ghostBatchSize: 2 });
    byDifferences({ epsilon, ghostBatchSize: 4, activation: "relu" });
  });

  it("takes 16-bit elements, and tensors beside arrays", () => {
    const bits = (v: ArrayLike<number>) => {
      const f = Float32Array.from(v);
      return Uint16Array.from(new Uint32Array(f.buffer), (b) => b >>> 16);
    };
    const back = (b: ArrayLike<number>) => new Float32Array(Uint32Array.from(b, (v) => v << 16).buffer);
    const half = (v: ArrayLike<number>) => ({ data: bits(v), shape, dtype: "bfloat16" as const });
    const rounded = { ...values };
    for (const name of ["x", "dy", "ddx"] as const) rounded[name] = wide(back(bits(values[name])));
    const gamma = Float32Array.from(values.gamma);
    const { saved } = batchNormForward(half(values.x), { gamma }, { epsilon });
    const upstream = { ddGamma: Float32Array.from(values.ddGamma), ddBeta: Float32Array.from(values.ddBeta) };
    const got = batchNormDoubleBackward(half(values.dy), saved, { ...upstream, ddx: half(values.ddx) });
    const want = expected(rounded, "channels-first", shape, true);
    expect(back(got.dx?.data as Uint16Array)).toBeAllclose(want.dx, { rtol: 2 ** -8, atol: 1e-6 });
    expect(back(got.ddy?.data as Uint16Array)).toBeAllclose(want.ddy, { rtol: 2 ** -8, atol: 1e-6 });

    const mixed: AnyTensor = tensor(shape, Float32Array.from(values.x));
    const beside = batchNormForward(mixed, { gamma }, { epsilon });
    const plain = (v: ArrayLike<number>): AnyTensor => ({ data: Float32Array.from(v), shape });
    const result = batchNormDoubleBackward(plain(values.dy), beside.saved, { ...upstream, ddx: plain(values.ddx) });
    expect(result.dx?.data).toBeAllclose(expected(values, "channels-first", shape, true).dx, {
      rtol: 1e-5,
      atol: 1e-6,
    });
    drop(mixed, beside.y);
  });

  it("computes what is needed, and nothing for an empty batch", () => {
    const { saved } = batchNormForward(f64(values.x));
    const only = (needs: { dx?: boolean; dGamma?: boolean; ddy?: boolean }) =>
      Object.keys(batchNormDoubleBackward(f64(values.dy), saved, { ddx: f64(values.ddx) }, { needs }));
    expect(only({})).toEqual(["dx", "ddy", "dGamma"]);
    expect(only({ dx: false, ddy: false })).toEqual(["dGamma"]);
    expect(only({ dGamma: false, dx: false })).toEqual(["ddy"]);
    const empty = f64([], [0, 3, 5]);
    const none = batchNormDoubleBackward(empty, batchNormForward(empty).saved, { ddx: empty });
    expect([none.dx?.data.length, [...(none.dGamma ?? [])]]).toEqual([0, [0, 0, 0]]);
  });

  it("of a constant channel, whose x̂ is 0 with epsilon 0, is finite", () => {
    const x = { data: new Float32Array(8).fill(3), shape: [8, 1] };
    const { saved } = batchNormForward(x, {}, { epsilon: 0 });
    const ones = { data: new Float32Array(8).fill(1), shape: [8, 1] };
    const { dx, dGamma, ddy } = batchNormDoubleBackward(ones, saved, { ddx: ones, ddBeta: Float32Array.of(2) });
    expect([...(dx?.data ?? []), ...(dGamma ?? [])]).toEqual(new Array(9).fill(0));
    expect([...(ddy?.data ?? [])]).toEqual(new Array(8).fill(2));
  });

  it("keeps what is not finite in its channel", () => {
    const of = (poison: number) => {
      const ddx = values.ddx.slice();
      ddx[7] = poison; // channel 1
      const { saved } = batchNormForward(f64(values.x), { gamma: values.gamma });
      return batchNormDoubleBackward(f64(values.dy), saved, { ddx: f64(ddx) });
    };
    const [bad, good] = [of(Number.NaN), of(0)];
    for (const name of ["dx", "ddy"] as const)
      for (let i = 0; i < 90; i++) {
        const value = bad[name]?.data[i] as number;
        if (Math.floor(i / 5) % 3 === 1) expect(value).toBeNaN();
        else expect(value).toBe(good[name]?.data[i]);
      }
  });

  // the products of ddx and dy are below all normal numbers of float32, and dGamma is not
  it("sums products that float32 cannot hold, without batch statistics, too", () => {
    const tiny = (of: (values: Float64Array) => AnyTensor, batch: boolean) => {
      const x = of(values.x.map((v) => v * 1e-18));
      const constants = { mean: new Float64Array(3), variance: new Float64Array(3).fill(1e-36) };
      const vectors = {
        mean: x.data instanceof Float64Array ? constants.mean : Float32Array.from(constants.mean),
        variance: x.data instanceof Float64Array ? constants.variance : Float32Array.from(constants.variance),
      };
      const { saved } = batch
        ? batchNormForward(x, {}, { epsilon: 0 })
        : batchNormInference(x, vectors as never, { epsilon: 0 });
      const [dy, ddx] = [of(values.dy.map((v) => v * 1e-25)), of(values.ddx.map((v) => v * 1e-25))];
      return batchNormDoubleBackward(dy, saved, { ddx }).dGamma as Vector;
    };
    for (const batch of [true, false]) {
      const narrow = tiny((v) => ({ data: Float32Array.from(v), shape }), batch);
      const exact = tiny((v) => f64(Float64Array.from(Float32Array.from(v))), batch);
      for (const [c, v] of exact.entries()) expect((narrow[c] as number) / v).toBeCloseTo(1, 5);
    }
  });

  describe.each([true, false])("coefficients that float32 cannot hold, batch statistics: %s", (batch) => {
    /** Sizes of x, dy and ddx, and of the vectors. */
    interface Sizes {
      readonly [name: string]: number;
    }
    const twice = (sizes: Sizes, of: (values: ArrayLike<number>) => AnyTensor) => {
      const vector = (name: string, seed: number) =>
        sizes[name] === undefined
          ? undefined
          : (of(normal(seed, 3, 0.1, 1).map((v) => v * (sizes[name] as number))).data as Vector);
      const times = (v: Float64Array, name: string) => of(Float64Array.from(v, (value) => value * (sizes[name] ?? 1)));
      const [x, dy, ddx] = [times(values.x, "x"), times(values.dy, "dy"), times(values.ddx, "ddx")];
      const gamma = vector("gamma", 20);
      const options = { epsilon: 0 };
      const { saved } = batch
        ? batchNormForward(x, { gamma } as never, options)
        : batchNormInference(
            x,
            { gamma, mean: of([0, 0, 0]).data, variance: of(new Array(3).fill((sizes.x ?? 1) ** 2)).data } as never,
            options,
          );
      const [ddGamma, ddBeta] = [vector("ddGamma", 21), vector("ddBeta", 22)];
      return batchNormDoubleBackward(dy, saved, {
        ddx,
        ...(ddGamma && { ddGamma }),
        ...(ddBeta && { ddBeta }),
      } as object);
    };
    const narrow = (v: ArrayLike<number>) => ({ data: Float32Array.from(v), shape: v.length === 3 ? [3] : shape });
    const exact = (v: ArrayLike<number>) => f64(Float32Array.from(v), v.length === 3 ? [3] : shape);
    const cases: Sizes[] = [
      { ddGamma: 1e-39, ddx: 100 },
      { ddBeta: 1e-39, ddx: 100 },
      { gamma: 1e-39, ddx: 1e30 },
      { gamma: 2.5e-22, x: 1e18, ddx: 1e30 },
      { gamma: 1e-33, x: 1e12, ddx: 1e27 },
      { gamma: 1e25, x: 1e-18, dy: 1e-20, ddx: 1e-35 },
      { gamma: 1e34, dy: 1e26, ddx: 0 },
      { gamma: 1e24, x: 1e-19, dy: 1e-35, ddx: 1e-38, ddGamma: 1e-10 },
      { x: 1e34, dy: 1e-18, gamma: 1e10, ddGamma: 1e25 },
      { x: 1e-33, dy: 1e4, ddx: 0, ddBeta: 1 },
    ];
    it("of random sizes: what is in the range is finite", () => {
      const next = random(batch ? 1 : 2);
      const size = () => 10 ** (Math.floor(next() * 79) - 41);
      let inRange = 0;
      for (let i = 0; i < 1000; i++) {
        const sizes = Object.fromEntries(
          ["x", "dy", "ddx", "gamma", "ddGamma", "ddBeta"].map((name) => [name, next() < 0.4 ? 1 : size()]),
        );
        const want = twice(sizes, exact);
        for (const [name, { data }] of Object.entries(twice(sizes, narrow)).filter(([name]) => name !== "dGamma")) {
          const expected = (want as Record<string, AnyTensor>)[name]?.data as Float64Array;
          if (!expected.every((v) => Math.abs(v) < 2 ** 127)) continue;
          inRange++;
          if (!(data as Float32Array).every(Number.isFinite)) expect.fail(`${name} of ${JSON.stringify(sizes)}`);
        }
      }
      expect(inRange).toBeGreaterThan(900);
    });

    it.each(cases)("of sizes %j: what is exact and in the range is found", (sizes) => {
      const [got, want] = [twice(sizes, narrow), twice(sizes, exact)];
      for (const name of ["dx", "ddy"] as const) {
        const expected = want[name]?.data as Float64Array;
        const largest = Math.max(...expected.map(Math.abs));
        expect(largest).toBeLessThan(2 ** 127);
        const atol = Math.max(1e-5 * largest, 2 ** -140);
        expect(Float64Array.from(got[name]?.data ?? [])).toBeAllclose(expected, { rtol: 0, atol });
      }
    });
  });

  it("frees the memory of its call", () => {
    const { saved } = batchNormForward(f64(values.x));
    const run = () => batchNormDoubleBackward(f64(values.dy), saved, { ddx: f64(values.ddx) });
    const expected = run();
    const { used } = defaultHeap().usage;
    expect(run()).toEqual(expected);
    expect(defaultHeap().usage.used).toBe(used);
  });

  it("refuses tensors of another memory by their names", () => {
    const memory = new WebAssembly.Memory({ initial: 1 });
    const other = attachMemory({ memory, malloc: () => 1024, free: () => undefined }).tensor(shape, values.dy, {
      dtype: "float64",
    });
    const own = tensor(shape, values.x, { dtype: "float64" });
    const { saved } = batchNormForward(own);
    for (const [name, call] of [
      ["dy", () => batchNormDoubleBackward(other, saved, {})],
      ["ddx", () => batchNormDoubleBackward(own, saved, { ddx: other })],
    ] as const)
      expect(call).toThrow(
        expect.objectContaining({ code: "other-memory", message: expect.stringMatching(`^${name}: `) }),
      );
    drop(own);
  });

  it("refuses what it does not cover, and wrong shapes, before it computes", () => {
    const x = f64(values.x);
    const dy = f64(values.dy);
    const twice = (saved: Saved) => () => batchNormDoubleBackward(dy, saved, {});
    const of = (options: object, parameters = {}) => batchNormForward(x, parameters, options).saved;
    expect(twice(of({ activation: "silu" }))).toThrow(/^saved: expected .*, got activation "silu"$/);
    expect(twice(of({ mask: Array.from({ length: 30 }, (_, i) => i > 0) }))).toThrow(/a mask/);
    expect(twice(of({}, { perSample: { gamma: new Float64Array(18) } }))).toThrow(/of every sample's own/);
    for (const [options, forward, expected] of [
      [{ renorm: { rMax: 2, dMax: 1 } }, {}, /got Batch Renormalization$/],
      [{}, { mode: "batch", prior: 4 }, /^saved: expected a forward whose double backward is known, got a prior$/],
    ] as const) {
      const bn = new BatchNorm(3, { dtype: "float64", ...options });
      bn.forward(x);
      bn.forward(x, forward);
      expect(twice(bn.saved as Saved)).toThrow(expected);
    }
    const joint = { count: 60, mean: new Float64Array(3), variance: new Float64Array(3).fill(1) };
    expect(twice(of({ statistics: joint }))).toThrow(/statistics of more than x/);
    expect(twice({} as Saved)).toThrow(/^saved: expected the record of a forward/);
    const saved = of({});
    const go =
      (gradients: object, upstream = dy) =>
      () =>
        batchNormDoubleBackward(upstream, saved, gradients);
    expect(go({}, f64(values.x, [3, 6, 5]))).toThrow(/^dy: expected shape 6×3×5, got 3×6×5/);
    expect(go({ ddx: f64(values.x, [90]) })).toThrow(/^ddx: expected shape/);
    expect(go({ ddx: { data: new Float32Array(90), shape } })).toThrow(TypeError);
    expect(go({ ddGamma: new Float64Array(4) })).toThrow(/^ddGamma: expected 3 elements/);
    expect(go({ ddBeta: new Float32Array(3) })).toThrow(/^ddBeta: expected a Float64Array/);
    for (const name of ["ddGamma", "ddBeta"])
      expect(go({ [name]: null })).toThrow(`${name}: expected a Float64Array, got null`);
    expect(go({ ddResidual: dy })).toThrow(/^ddResidual: expected a forward with a residual/);
    expect(go({ ddX: dy })).toThrow(TypeError);
    expect(() => batchNormDoubleBackward(undefined as never, saved, {})).toThrow(/^dy: expected a Tensor/);
    expect(() => batchNormDoubleBackward(dy, saved, {}, { needs: { dx: 1 as never } })).toThrow(/^needs\.dx: expected/);
  });
});

describe.runIf(sharedMemory())("threads, where memory can be shared", () => {
  it.each(CASES)("do not change a bit, $layout, batch statistics: $batch", async ({ layout, batch }) => {
    const shape = shapeOf(layout, 2, 40, 2000);
    const i = inputs(shape, 40);
    for (const precision of ["float32", "float64"] as const) {
      await useBuild("simd");
      const one = run(i, "tensor", precision, layout, shape, batch);
      await useBuild("simd", 3);
      const three = run(i, "tensor", precision, layout, shape, batch);
      await stopThreads();
      expect(three).toEqual(one);
    }
  });
});

// ---- a gradient penalty ---------------------------------------------------------------------------------------------

/** Row-major [rows, inner]·[inner, columns]. */
function matmul(a: Float64Array, b: Float64Array, rows: number, inner: number, columns: number): Float64Array {
  const c = new Float64Array(rows * columns);
  for (let i = 0; i < rows; i++)
    for (let k = 0; k < inner; k++)
      for (let j = 0; j < columns; j++)
        c[i * columns + j] =
          (c[i * columns + j] as number) + (a[i * inner + k] as number) * (b[k * columns + j] as number);
  return c;
}

const transposed = (a: Float64Array, rows: number, columns: number) =>
  Float64Array.from({ length: a.length }, (_, i) => a[(i % rows) * columns + Math.floor(i / rows)] as number);

/**
 * A critic D(x) = φ(BN(x·W))·w with the penalty of WGAN-GP, the mean over samples of (‖∂ΣD/∂x‖ − 1)² (Gulrajani et al.
 * 2017, eq. 3): x [N, I], W [I, H], w [H]. Without a nonlinearity, dy would be the same for every sample, and dx 0.
 */
describe.each([
  { activation: "none", phi: "tanh" },
  { activation: "leaky_relu", phi: "identity" },
  { activation: "leaky_relu", phi: "tanh" },
] as const)("a gradient penalty through batch normalization, $activation and $phi", ({ activation, phi }) => {
  beforeAll(() => useBuild("simd"));
  const [N, I, H] = [8, 3, 4];
  const x = wide(normal(21, N * I));
  interface Critic {
    W: Float64Array;
    gamma: Float64Array;
    beta: Float64Array;
    w: Float64Array;
  }
  const parameters: Critic = {
    W: wide(normal(22, I * H, 0.8)),
    gamma: wide(normal(23, H, 0.3, 1)),
    beta: wide(normal(24, H, 0.3)),
    w: wide(normal(25, H)),
  };
  const NAMES = ["W", "gamma", "beta", "w"] as const;
  const rows = (data: Float64Array): PlainTensor<Float64Array> => ({ data, shape: [N, H] });
  const slope = (y: number) => (phi === "tanh" ? 1 - Math.tanh(y) ** 2 : 1); // φ′
  const bend = (y: number) => (phi === "tanh" ? -2 * Math.tanh(y) * slope(y) : 0); // φ″

  /** The penalty, and what its gradient needs of the way there. */
  function penalty({ W, gamma, beta, w }: Critic) {
    const h = rows(matmul(x, W, N, I, H));
    const { y, saved } = batchNormForward(h, { gamma, beta }, { epsilon, activation });
    const dy = rows(y.data.map((v, i) => slope(v) * (w[i % H] as number))); // ∂ΣD/∂y
    const dh = batchNormBackward(dy, saved, { needs: { dGamma: false, dBeta: false } }).dx as typeof dy;
    const v = matmul(dh.data, transposed(W, I, H), N, H, I); // ∂ΣD/∂x
    const norms = v.map((_, i) => Math.hypot(...v.subarray(i - (i % I), i - (i % I) + I)));
    const value = norms.reduce((sum, norm) => sum + (norm - 1) ** 2, 0) / (N * I);
    return { value, y: y.data, saved, dy, dh, v, norms };
  }

  /** The penalty's gradients: backward through everything above, last line first. */
  function gradients(critic: Critic): Critic {
    const { y, saved, dy, dh, v, norms } = penalty(critic);
    const dv = v.map((value, i) => (2 * ((norms[i] as number) - 1) * value) / ((norms[i] as number) * N));
    const ddh = rows(matmul(dv, critic.W, N, I, H)); // through v = dh·Wᵀ
    const twice = batchNormDoubleBackward(dy, saved, { ddx: ddh });
    const ddy = (twice.ddy as typeof dy).data;
    const upstream = rows(ddy.map((value, i) => value * bend(y[i] as number) * (critic.w[i % H] as number)));
    const once = batchNormBackward(upstream, saved); // through dy = φ′(y)·w to y
    const sum = (a: ArrayLike<number> = [], b: ArrayLike<number> = []) =>
      Float64Array.from({ length: a.length }, (_, i) => (a[i] as number) + (b[i] as number));
    const throughH = matmul(transposed(x, N, I), sum(twice.dx?.data, once.dx?.data), I, N, H); // h = x·W
    const throughV = transposed(matmul(transposed(dh.data, N, H), dv, H, N, I), H, I);
    const perUnit = rows(ddy.map((value, i) => value * slope(y[i] as number)));
    return {
      W: sum(throughH, throughV),
      gamma: sum(twice.dGamma, once.dGamma),
      beta: sum(once.dBeta, new Float64Array(H)),
      w: matmul(new Float64Array(N).fill(1), perUnit.data, 1, N, H),
    };
  }

  it("has the gradients that differences give, for every parameter", () => {
    const got = gradients(parameters);
    for (const name of NAMES) {
      const by = differences(parameters[name], (moved) => penalty({ ...parameters, [name]: moved }).value, 1e-6);
      expect(got[name], name).toBeAllclose(by, { rtol: 1e-6, atol: 1e-8 });
    }
  });

  it("falls under gradient descent", () => {
    const critic: Critic = { ...parameters };
    const before = penalty(critic).value;
    for (let step = 0; step < 200; step++) {
      const g = gradients(critic);
      for (const name of NAMES) critic[name] = critic[name].map((v, i) => v - 0.05 * (g[name][i] as number));
    }
    expect(penalty(critic).value).toBeLessThan(before / 2);
  });
});
