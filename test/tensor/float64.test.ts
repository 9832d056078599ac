// Calls in float64, against the oracle and between arrays and tensors. Golden cases in float64 are in golden.test.ts.

import { beforeAll, describe, expect, test } from "vitest";
import {
  BatchNorm,
  batchNormBackward,
  batchNormForward,
  batchNormInference,
  batchNormStatistics,
  type TensorLike,
} from "../../src/index.ts";
import { defaultHeap } from "../../src/memory/heap.ts";
import { SHAPES } from "../support/dtypes.ts";
import { backward, dimsOf, forward, invStdOf, statistics } from "../support/reference.ts";
import { BUILDS, drop, KINDS, LAYOUTS, makeOf, normal, sizeOf, useBuild } from "../support/worlds.ts";

/** Many tiles. */
const LARGE: typeof SHAPES = [
  ["channels-first", [20, 8, 60, 60]],
  ["channels-last", [20, 60, 60, 8]],
];

const values = (seed: number, length: number) => {
  const fine = normal(seed + 100, length);
  return Float64Array.from(normal(seed, length), (v, i) => v + 1e-8 * (fine[i] as number));
};

describe.each(BUILDS)("float64 (%s)", (build) => {
  beforeAll(() => useBuild(build));

  test.each([...SHAPES, ...(build === "simd" ? LARGE : [])])(
    "%s %j: arrays and tensors give the same bits, and the oracle's results in float64",
    (layout, shape) => {
      const size = sizeOf(shape);
      const d = dimsOf(shape, layout);
      const [xs, dys] = [values(1, size), values(2, size)];
      const [gamma, beta] = [values(3, d.channels), values(4, d.channels)];
      const steps = KINDS.map((kind) => {
        const bn = new BatchNorm(d.channels, { dtype: "float64", layout });
        bn.gamma = gamma.slice();
        bn.beta = beta.slice();
        const [x, dy] = [makeOf("float64", kind, shape, xs), makeOf("float64", kind, shape, dys)];
        const y = bn.forward(x);
        const { dx, dGamma, dBeta } = bn.backward(dy);
        const inferred = bn.forward(x, { mode: "eval" });
        const results = [y, dx, inferred].map((t) => t?.data.slice() as Float64Array);
        drop(x, dy, y, dx, inferred);
        return { results, vectors: { dGamma, dBeta, mean: bn.runningMean, variance: bn.runningVariance } };
      });
      const [a, b] = steps as [(typeof steps)[0], (typeof steps)[0]];
      for (const [i, result] of a.results.entries()) expect(result).toBeAllclose(b.results[i] as Float64Array);
      expect(a.vectors).toEqual(b.vectors);

      const { mean, variance } = statistics(xs, d);
      const invStd = invStdOf(variance, 1e-5);
      const m = d.outer * d.inner;
      const close = { rtol: 1e-12, atol: 1e-13 };
      expect(a.vectors.mean).toBeAllclose(
        mean.map((v) => 0.1 * v),
        close,
      );
      expect(a.vectors.variance).toBeAllclose(
        variance.map((v) => 0.9 + (0.1 * v * m) / (m - 1)),
        close,
      );
      expect(a.results[0]).toBeAllclose(forward(xs, d, mean, invStd, gamma, beta).y, close);
      const g = backward(xs, dys, d, mean, invStd, gamma, true);
      expect(a.results[1]).toBeAllclose(g.dx, close);
      expect(a.vectors.dGamma).toBeAllclose(g.dGamma, { rtol: 1e-11, atol: 1e-10 });
      expect(a.vectors.dBeta).toBeAllclose(g.dBeta, { rtol: 1e-11, atol: 1e-10 });
      const running = { mean: a.vectors.mean as Float64Array, variance: a.vectors.variance as Float64Array };
      const inferred = forward(xs, d, running.mean, invStdOf(running.variance, 1e-5), gamma, beta);
      expect(a.results[2]).toBeAllclose(inferred.y, close);
    },
  );

  test.each(KINDS)("functions are the layer's, bit for bit; residuals, masks and outputs of its own (%s)", (kind) => {
    const shape = [6, 3, 40];
    const make = (seed: number) => makeOf("float64", kind, shape, values(seed, 720));
    const bn = new BatchNorm(3, { dtype: "float64", activation: "silu" });
    const mask = { lengths: [40, 3, 0, 17, 1, 39] };
    const [x, residual, dy] = [make(1), make(2), make(3)];
    const used = defaultHeap().usage.used;
    const out = make(4);
    expect(bn.forward(x, { mode: "batch", residual, mask, out })).toBe(out);
    const a = bn.backward(dy);
    const f = batchNormForward(x, {}, { residual, mask, activation: "silu" });
    const b = batchNormBackward(dy, f.saved);
    expect(f.y.data).toEqual(out.data);
    expect([b.dx?.data, b.dResidual?.data, b.dGamma, b.dBeta]).toEqual([
      a.dx?.data,
      a.dResidual?.data,
      a.dGamma,
      a.dBeta,
    ]);
    expect(b.dGamma).toBeInstanceOf(Float64Array);
    drop(out, f.y, a.dx, a.dResidual, b.dx, b.dResidual);
    expect(defaultHeap().usage.used).toBe(used);
    drop(x, residual, dy);
  });

  test.each(KINDS)("y over the residual, or over x, is what it is apart (%s)", (kind) => {
    for (const layout of LAYOUTS) {
      const shape = layout === "channels-last" ? [6, 40, 3] : [6, 3, 40];
      const make = (seed: number) => makeOf("float64", kind, shape, values(seed, 720));
      for (const activation of ["relu", "none"] as const) {
        const bn = new BatchNorm(3, { dtype: "float64", layout, activation });
        const [x, residual] = [make(1), make(2)];
        const y = bn.forward(x, { mode: "eval", residual });
        expect(bn.forward(x, { mode: "eval", residual, out: residual })).toBe(residual);
        expect(residual.data).toBeAllclose(y.data);
        const again = make(2);
        expect(bn.forward(x, { mode: "eval", residual: again, out: x })).toBe(x);
        expect(x.data).toBeAllclose(y.data);
        drop(x, residual, y, again);
      }
    }
  });

  test("SiLU ends at infinity without NaN", () => {
    const z = Float64Array.of(-Infinity, -1e300, -750, 0, 750, 1e300, Infinity);
    const frozen = { mean: new Float64Array(1), variance: Float64Array.of(1) };
    const { y, saved } = batchNormInference({ data: z, shape: [7, 1] }, frozen, { epsilon: 0, activation: "silu" });
    const near = { atol: 1e-301 }; // kernels end z at −708
    expect(y.data).toBeAllclose([0, 0, 0, 0, 750, 1e300, Infinity], near);
    const { dx } = batchNormBackward({ data: new Float64Array(7).fill(1), shape: [7, 1] }, saved);
    expect(dx?.data).toBeAllclose([0, 0, 0, 0.5, 1, 1, 1], near);
  });
});

describe("float64 of many values", () => {
  beforeAll(() => useBuild("simd"));

  test.each(LARGE)(
    "%s %j: arrays of many tiles give the bits of tensors, with activations and residuals",
    (layout, shape) => {
      const size = sizeOf(shape);
      const [xs, rs, dys] = [values(1, size), values(2, size), values(3, size)];
      const [a, b] = KINDS.map((kind) => {
        const bn = new BatchNorm(8, { dtype: "float64", layout, activation: "leaky_relu" });
        const [x, residual, dy] = [xs, rs, dys].map((data) => makeOf("float64", kind, shape, data)) as [
          TensorLike<"float64">,
          TensorLike<"float64">,
          TensorLike<"float64">,
        ];
        const y = bn.forward(x, { residual });
        const { dx, dResidual } = bn.backward(dy);
        const results = [y, dx, dResidual].map((t) => t?.data.slice() as Float64Array);
        drop(x, residual, dy, y, dx, dResidual);
        return results;
      }) as [Float64Array[], Float64Array[]];
      for (const [i, result] of a.entries()) expect(result).toBeAllclose(b[i] as Float64Array);
      const dz = dys.map((g, i) => (((a[0] as Float64Array)[i] as number) > 0 ? g : g * 0.01));
      expect(a[2]).toBeAllclose(dz);
    },
  );

  test.each(LAYOUTS)(
    "outliers among a channel's first values cost no digits: sums are taken again about the mean (%s)",
    (layout) => {
      const [channels, count] = [2, 65_536];
      const shape = layout === "channels-last" ? [count, channels] : [1, channels, count];
      const list = values(5, count);
      for (let i = 0; i < 16; i++) list[i] = 1e6 * (1 + (list[i] as number) / 100);
      const data = new Float64Array(channels * count);
      for (let c = 0; c < channels; c++)
        for (let i = 0; i < count; i++)
          data[layout === "channels-last" ? i * channels + c : c * count + i] = (c + 1) * (list[i] as number);
      // in pairs, which errs by 16 u at most
      const sum = (of: (v: number) => number, from = 0, to = count): number => {
        const half = (from + to) >> 1;
        return to - from === 1 ? of(list[from] as number) : sum(of, from, half) + sum(of, half, to);
      };
      const mean = sum((v) => v) / count;
      const variance = sum((v) => (v - mean) ** 2) / count;
      const s = batchNormStatistics({ data, shape }, { layout });
      expect(s.mean).toBeAllclose([mean, 2 * mean], { rtol: 1e-15 });
      expect(s.variance).toBeAllclose([variance, 4 * variance], { rtol: 4e-15 });
    },
  );
});
