// The stateless functions: gradients against finite differences of the oracle, agreement with the class, and numbers
// far from 1.

import { beforeAll, describe, expect, it } from "vitest";
import {
  BatchNorm,
  batchNormBackward,
  batchNormForward,
  batchNormInference,
  batchNormStatistics,
  groupNormForward,
  instanceNormForward,
  type Layout,
  layerNormForward,
} from "../../src/index.ts";
import { backward, dimsOf, forward, invStdOf, meanMagnitude, statistics } from "../support/reference.ts";
import { BUILDS, drop, make, normal, random, useBuild, WORLDS } from "../support/worlds.ts";

/** From so many values per channel on, float32 is summed in blocks of 64 (assembly/plan.ts). */
const BLOCKED_64_FROM = 1024;

const LAYOUTS: readonly Layout[] = ["channels-first", "channels-last"];

/** [n, c, s] in either memory order. */
const shapeOf = (layout: Layout, n: number, c: number, s: number) =>
  layout === "channels-last" ? [n, s, c] : [n, c, s];

describe.each(WORLDS.flatMap((world) => LAYOUTS.map((layout) => ({ ...world, layout }))))(
  "gradients, $build build, $kind input, $layout",
  ({ build, kind, layout }) => {
    beforeAll(() => useBuild(build));
    const shape = shapeOf(layout, 4, 3, 5);
    const d = dimsOf(shape, layout);
    const size = 60;
    const epsilon = 1e-3;
    const [x, dy] = [normal(1, size, 1.5, 0.5), normal(2, size)];
    const [gamma, beta] = [Float32Array.of(1.25, -0.5, 2), Float32Array.of(0.5, 1, -1)];
    const fixed = { mean: Float32Array.of(0.25, -0.5, 1), variance: Float32Array.of(1.5, 0.75, 2) };

    /** Σ y·dy by the oracle, whose gradient with respect to anything is what backward returns for it. */
    const loss = (input: ArrayLike<number>, g: ArrayLike<number>, b: ArrayLike<number>, batch: boolean) => {
      const s = batch ? statistics(input, d) : { mean: fixed.mean, variance: Float64Array.from(fixed.variance) };
      const { y } = forward(input, d, s.mean, invStdOf(s.variance, epsilon), g, b);
      return y.reduce((sum, value, i) => sum + value * (dy[i] as number), 0);
    };
    const differences = (at: Float32Array, value: (moved: Float64Array) => number) => {
      const h = 1e-5;
      return Array.from(at, (_, i) => {
        const [up, down] = [1, -1].map((sign) =>
          value(Float64Array.from(at, (v, j) => (j === i ? v + sign * h : v))),
        ) as [number, number];
        return (up - down) / (2 * h);
      });
    };

    it.each([true, false])("are the finite differences of the oracle; batch statistics: %s", (batch) => {
      const input = make(kind, shape, x);
      const { y, saved } = batch
        ? batchNormForward(input, { gamma, beta }, { layout, epsilon })
        : batchNormInference(input, { gamma, beta, ...fixed }, { layout, epsilon });
      const upstream = make(kind, shape, dy);
      const { dx, dGamma, dBeta } = batchNormBackward(upstream, saved);
      const tolerance = { rtol: 2e-6, atol: 2e-6 };
      expect(dx?.data).toBeAllclose(
        differences(x, (v) => loss(v, gamma, beta, batch)),
        tolerance,
      );
      expect(dGamma).toBeAllclose(
        differences(gamma, (v) => loss(x, v, beta, batch)),
        tolerance,
      );
      expect(dBeta).toBeAllclose(
        differences(beta, (v) => loss(x, gamma, v, batch)),
        tolerance,
      );
      drop(input, y, upstream, dx);
    });

    it("and outputs are the class's, bit for bit", () => {
      const bn = new BatchNorm(3, { layout, epsilon });
      bn.gamma = gamma.slice();
      bn.beta = beta.slice();
      const [input, upstream] = [make(kind, shape, x), make(kind, shape, dy)];
      const stateless = batchNormForward(input, { gamma, beta }, { layout, epsilon });
      const y = bn.forward(input);
      expect(y.data).toBeAllclose(stateless.y.data);
      const a = bn.backward(upstream);
      const b = batchNormBackward(upstream, stateless.saved);
      expect(a.dx?.data).toBeAllclose(b.dx?.data ?? []);
      expect(a.dGamma).toBeAllclose(b.dGamma ?? []);
      expect(a.dBeta).toBeAllclose(b.dBeta ?? []);

      const { runningMean: mean, runningVariance: variance } = bn as {
        [name in "runningMean" | "runningVariance"]: Float32Array;
      };
      const inference = batchNormInference(input, { gamma, beta, mean, variance }, { layout, epsilon });
      const predicted = bn.forward(input, { mode: "eval" });
      expect(predicted.data).toBeAllclose(inference.y.data);
      drop(input, upstream, stateless.y, y, a.dx, b.dx, inference.y, predicted);
      bn.dispose();
    });
  },
);

const U = 2 ** -24;

/** Largest error in u of a result, channel by channel. */
function worst(
  got: ArrayLike<number>,
  expected: ArrayLike<number>,
  scale: ArrayLike<number>,
  channels: number,
  inner: number,
) {
  const max = new Float64Array(channels);
  const error = new Float64Array(channels);
  for (let i = 0; i < expected.length; i++) {
    const c = Math.floor(i / inner) % channels;
    max[c] = Math.max(max[c] as number, scale[i] as number);
    const e = Math.abs((got[i] as number) - (expected[i] as number));
    error[c] = Number.isNaN(e) ? Number.POSITIVE_INFINITY : Math.max(error[c] as number, e);
  }
  return Math.max(...error.map((e, c) => e / Math.max(U * (max[c] as number), 2 ** -149)));
}

describe.each(BUILDS)("numbers far from 1, %s build", (build) => {
  beforeAll(() => useBuild(build));

  const cases = LAYOUTS.flatMap((layout) =>
    [6, BLOCKED_64_FROM * 2].flatMap((count) =>
      [
        ...[1e-30, 1e-20, 1e-10, 1, 1e10, 1e20, 1e30, 1e37].map((std) => ({ std, ratio: 0.5, dyStd: 1 })),
        ...[1e-30, 1e-20, 1e20, 1e30].map((dyStd) => ({ std: 1, ratio: 0.5, dyStd })),
        ...[1e2, 1e4, 1e6, 1e7].map((ratio) => ({ std: 1, ratio, dyStd: 1 })),
      ].map((c) => ({ ...c, layout, count })),
    ),
  );

  it.each(cases)(
    "std $std, |mean|/std $ratio, dy around $dyStd, $count values per channel, $layout: within 4 u and 1 u",
    ({ std, ratio, dyStd, layout, count }) => {
      const [channels, inner] = [5, layout === "channels-last" ? 1 : count / 2];
      const shape = layout === "channels-last" ? [count, channels] : [2, channels, inner];
      const d = dimsOf(shape, layout);
      const x = normal(count, count * channels, std, ratio * std);
      const dy = normal(count + 1, count * channels, dyStd);
      const gamma = normal(3, channels, 0.5, 1);
      const beta = normal(4, channels);
      const s = statistics(x, d);
      const invStd = invStdOf(s.variance, 0);
      const { y, saved, mean, variance, ...result } = batchNormForward(
        { data: x, shape },
        { gamma, beta },
        { layout, epsilon: 0 },
      );
      expect(worst(mean, s.mean, meanMagnitude(x, d), channels, 1)).toBeLessThanOrEqual(1);
      expect(worst(variance, s.variance, s.variance, channels, 1)).toBeLessThanOrEqual(1);
      expect(worst(result.invStd, invStd, invStd, channels, 1)).toBeLessThanOrEqual(1);
      const f = forward(x, d, s.mean, invStd, gamma, beta);
      expect(worst(y.data, f.y, f.scale, channels, d.inner)).toBeLessThanOrEqual(4);
      const { dx, dGamma, dBeta } = batchNormBackward({ data: dy, shape }, saved);
      const b = backward(x, dy, d, s.mean, invStd, gamma, true);
      expect(worst(dx?.data ?? [], b.dx, b.dxScale, channels, d.inner)).toBeLessThanOrEqual(4);
      expect(worst(dGamma ?? [], b.dGamma, b.dGammaScale, channels, 1)).toBeLessThanOrEqual(1);
      expect(worst(dBeta ?? [], b.dBeta, b.dBetaScale, channels, 1)).toBeLessThanOrEqual(1);
    },
  );

  it.each(LAYOUTS)("a first block of outliers is found out and summed again, %s", (layout) => {
    const channels = 3;
    const count = BLOCKED_64_FROM * 4;
    const shape = layout === "channels-last" ? [count, channels] : [1, channels, count];
    const d = dimsOf(shape, layout);
    const x = normal(5, count * channels);
    // the pivot is the mean of the first 16 values
    for (let i = 0; i < x.length; i++) {
      const position = layout === "channels-last" ? Math.floor(i / channels) : i % count;
      if (position < 16) x[i] = (x[i] as number) + 1e4;
    }
    const s = statistics(x, d);
    const { variance } = batchNormForward({ data: x, shape }, {}, { layout });
    // a blocked sum with such a pivot would be wrong by tens of u
    expect(worst(variance, s.variance, s.variance, channels, 1)).toBeLessThanOrEqual(0.01);
  });
});

/** Shapes that take every walk: planes, columns with and without repetition, cut-short rows, one channel, many. */
const AWKWARD = [
  [2, 1, 1],
  [3, 5, 1],
  [1000, 1, 1],
  [1000, 3, 1],
  [37, 16, 1],
  [9, 1000, 1],
  [300, 7, 4],
  [33, 3, 5],
  [5, 2, 31],
  [5, 2, 32],
  [3, 17, 49],
  [1, 70, 3],
  [1, 40, 5],
  [1, 7, 31],
  [2, 3, 2500],
] as const;

describe.each(BUILDS)("awkward shapes, %s build", (build) => {
  beforeAll(() => useBuild(build));

  it.each(AWKWARD)("[%i, %i, %i] gives the oracle's numbers in both layouts", (n, c, inner) => {
    for (const layout of LAYOUTS) {
      const shape = shapeOf(layout, n, c, inner);
      const d = dimsOf(shape, layout);
      const next = random(n * c + inner);
      const x = Float32Array.from({ length: n * c * inner }, () => next() * 4 + 1);
      const dy = Float32Array.from(x, () => next() - 0.5);
      const s = statistics(x, d);
      const invStd = invStdOf(s.variance, 1e-5);
      const { y, saved } = batchNormForward({ data: x, shape }, {}, { layout });
      const f = forward(x, d, s.mean, invStd);
      expect(worst(y.data, f.y, f.scale, c, d.inner)).toBeLessThanOrEqual(4);
      const { dx } = batchNormBackward({ data: dy, shape }, saved);
      const b = backward(x, dy, d, s.mean, invStd, null, true);
      expect(worst(dx?.data ?? [], b.dx, b.dxScale, c, d.inner)).toBeLessThanOrEqual(4);
    }
  });
});

describe("stateless calls", () => {
  const x = { data: normal(1, 24), shape: [4, 3, 2] };

  it("give beta where variance and epsilon are 0, and no gradient of x, by statistics that are given", () => {
    const statistics = { mean: Float32Array.of(1, 2, 3), variance: Float32Array.of(0, 4, 0) };
    const beta = Float32Array.of(5, 6, 7);
    const { y, saved, invStd } = batchNormInference(x, { ...statistics, beta }, { epsilon: 0 });
    expect(invStd).toEqual(Float64Array.of(0, 0.5, 0));
    const isConstant = (i: number) => Math.floor(i / 2) % 3 !== 1;
    const { dx } = batchNormBackward(x, saved);
    for (const [i, v] of y.data.entries())
      if (isConstant(i)) expect([v, dx.data[i]]).toEqual([beta[Math.floor(i / 2) % 3], 0]);
  });

  it("leave out the gradients that are not needed", () => {
    const { saved } = batchNormForward(x);
    expect(Object.keys(batchNormBackward(x, saved, { needs: { dx: false, dBeta: false } }))).toEqual(["dGamma"]);
    expect(Object.keys(batchNormBackward(x, saved, { needs: { dGamma: false, dBeta: false } }))).toEqual(["dx"]);
    for (const name of ["dx", "dGamma", "dBeta", "dResidual"])
      expect(() => batchNormBackward(x, saved, { needs: { [name]: 1 } })).toThrow(`needs.${name}: expected `);
  });

  it("refuse parameters of another length, statistics that are missing, and what is no result of forward", () => {
    const four = new Float32Array(4);
    expect(() => batchNormForward(x, { gamma: four })).toThrow(RangeError);
    expect(() => batchNormForward(x, { beta: four })).toThrow(
      /^beta: expected 3 elements \(3\) for x of shape .*, got 4/,
    );
    const three = new Float32Array(3);
    expect(() => batchNormInference(x, { mean: three } as never)).toThrow(TypeError);
    expect(() => batchNormInference(x, { mean: three, variance: four })).toThrow(RangeError);
    const none = new Float32Array();
    expect(() => batchNormInference({ data: none, shape: [0] }, { mean: none, variance: none })).toThrow(
      /^mean: expected 1 elements \(1\) for x of shape \[0\], got 0$/,
    );
    expect(() => batchNormBackward(x, {} as never)).toThrow(/^saved: expected the record of a forward of batch norm; /);
    expect(() => batchNormForward({ data: new Float32Array(3), shape: [1, 3] })).toThrow(
      expect.objectContaining({ code: "one-value-per-channel" }),
    );
  });

  it("give an empty batch an empty y, and gradients of zero", () => {
    const empty = { data: new Float32Array(), shape: [0, 3, 2] };
    const { y, saved } = batchNormForward(empty);
    expect([y.data.length, y.shape]).toEqual([0, [0, 3, 2]]);
    const { dx, dGamma, dBeta } = batchNormBackward(empty, saved);
    expect(dx?.data.length).toBe(0);
    expect([...(dGamma ?? []), ...(dBeta ?? [])]).toEqual([0, 0, 0, 0, 0, 0]);
  });

  const empty = (...shape: number[]) => ({ data: new Float32Array(), shape });
  const MOST = 2 ** 30 - 2 ** 14;
  it.each<[string, () => unknown, string]>([
    ["forward", () => batchNormForward(empty(0, 2 ** 53)), `x.shape: expected at most ${MOST} channels`],
    ["statistics", () => batchNormStatistics(empty(0, 2, MOST + 1), { layout: "channels-last" }), "channels"],
    [
      "inference",
      () => batchNormInference(empty(0, 2 ** 31), { mean: normal(1, 1), variance: normal(1, 1) }),
      "channels",
    ],
    ["group norm", () => groupNormForward(empty(2 ** 53, 2, 0), 1), `at most ${MOST} groups or rows`],
    ["instance norm", () => instanceNormForward(empty(2 ** 30, 2, 0)), "groups or rows"],
    ["layer norm", () => layerNormForward(empty(2 ** 40, 0), 0), "groups or rows"],
  ])("refuse an empty batch whose vectors have no room, %s", (_, call, message) => {
    expect(call).toThrow(RangeError);
    expect(call).toThrow(message);
  });

  it.each([[[2, 0]], [[0, 0, 3]]])("refuse %j, which has no channel", (shape) => {
    for (const call of [batchNormForward, batchNormStatistics])
      expect(() => call(empty(...shape))).toThrow(`x.shape: expected at least one channel, got [${shape.join(", ")}]`);
  });

  it("refuse a single number, which has no axis of channels", () => {
    expect(() => batchNormForward({ data: Float32Array.of(1), shape: [] })).toThrow(
      "x.shape: expected rank 2 or more, got []",
    );
  });

  it("take an empty batch of any number of samples, also in ghost batches", () => {
    for (const options of [{}, { ghostBatchSize: 1 }]) {
      const { y, saved, count } = batchNormForward(empty(2 ** 53, 3, 0), {}, options);
      expect([y.shape, count]).toEqual([[2 ** 53, 3, 0], 0]);
      expect(batchNormBackward(empty(2 ** 53, 3, 0), saved).dGamma).toEqual(new Float32Array(3));
    }
  });
});

describe("parameters and options", () => {
  beforeAll(() => useBuild("simd"));
  const x = { data: normal(1, 24), shape: [4, 3, 2] };

  it("null is no scale and no shift", () => {
    const plain = batchNormForward(x);
    const { y, saved } = batchNormForward(x, { gamma: null, beta: null });
    expect(y).toEqual(plain.y);
    expect(batchNormBackward(x, saved)).toEqual(batchNormBackward(x, plain.saved));
  });

  it("a scale or a shift of all samples and of every sample exclude each other", () => {
    for (const name of ["gamma", "beta"] as const) {
      const both = { [name]: new Float32Array(3), perSample: { [name]: new Float32Array(12) } };
      expect(() => batchNormForward(x, both)).toThrow(
        new RegExp(`^${name}: expected without perSample\\.${name}, got both`),
      );
    }
  });

  it("negativeSlope is that of leaky_relu", () => {
    const plain = batchNormForward(x).y.data;
    const { y } = batchNormForward(x, {}, { activation: "leaky_relu", negativeSlope: 0.5 });
    expect(y.data).toEqual(plain.map((v) => (v < 0 ? v / 2 : v)));
  });

  it("the statistics of inference are returned in float64", () => {
    const [mean, variance] = [Float32Array.of(0.1, 2, 3), Float32Array.of(1, 0.3, 2)];
    const result = batchNormInference(x, { mean, variance });
    expect([result.mean, result.variance]).toEqual([Float64Array.from(mean), Float64Array.from(variance)]);
    expect(result.count).toBe(0);
  });
});
