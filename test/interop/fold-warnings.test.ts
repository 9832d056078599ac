// Warnings of folding: the estimated error against measured errors, and the cases with and without a warning.

import { describe, expect, test } from "vitest";
import { type FoldSource, foldIntoLinear, toAffine } from "../../src/index.ts";
import { range, sourceOf } from "../support/fold.ts";
import { normal, random } from "../support/worlds.ts";

describe("a warning", () => {
  /** Measured rms error of fround(fround(scale·x) + shift), in units of |gamma| + |beta|, against float64. */
  function measure(bn: ReturnType<typeof sourceOf>, c: number, scale: number, shift: number, fused: boolean): number {
    const [mean, variance] = [bn.runningMean[c] as number, bn.runningVariance[c] as number];
    const [gamma, beta] = [bn.gamma[c] as number, bn.beta[c] as number];
    const invStd = 1 / Math.sqrt(variance + bn.options.epsilon);
    let squares = 0;
    const xs = normal(c, 256, Math.sqrt(variance), mean);
    for (const x of xs) {
      const product = fused ? scale * x : Math.fround(scale * x);
      squares += (Math.fround(product + shift) - ((x - mean) * invStd * gamma + beta)) ** 2;
    }
    return Math.sqrt(squares / xs.length) / (Math.abs(gamma) + Math.abs(beta));
  }

  const CHANNELS = 128;
  function remote(seed: number, ratio: number, epsilon: number) {
    const next = random(seed);
    const std = Float32Array.from({ length: CHANNELS }, () => 2 ** (20 * next() - 10));
    return {
      gamma: std.map(() => 0.5 + next()),
      beta: std.map(() => 2 * next() - 1),
      options: { epsilon },
      runningVariance: std.map((s) => Math.max(s * s - epsilon, 0)),
      runningMean: std.map((s) => s * ratio * (next() < 0.5 ? -1 : 1) * (0.75 + next() / 2)),
    };
  }
  const rms = (list: number[]) => Math.sqrt(list.reduce((sum, v) => sum + v * v, 0) / list.length);

  test.each([
    [1e3, 0],
    [1e4, 1e-5],
    [1e5, 0],
    [1e6, 0],
  ])("at |mean|/std = %d expects the error that is measured", (ratio, epsilon) => {
    const bn = remote(ratio, ratio, epsilon);
    const { scale, shift, warnings } = toAffine(bn);
    expect(warnings.map((w) => w.channel)).toEqual(range(CHANNELS));
    for (const fused of [false, true]) {
      const shares = warnings.map(({ channel: c, expectedError }) => {
        return measure(bn, c, scale[c] as number, shift[c] as number, fused) / expectedError;
      });
      // of one channel, the roundings of scale and shift are what they are; over many, they are as expected
      expect(Math.max(...shares)).toBeLessThan(3);
      expect(rms(shares)).toBeGreaterThan(0.7);
      expect(rms(shares)).toBeLessThan(1.2);
    }
  });

  test("comes where the error exceeds 1e-5, and not before", () => {
    const at = (ratio: number) =>
      toAffine({
        runningMean: Float32Array.of(0, ratio),
        runningVariance: Float32Array.of(1, 1),
        options: { epsilon: 0 },
      }).warnings;
    expect(at(200)).toEqual([]);
    expect(at(-200)).toEqual([]);
    expect(at(260)).toEqual([
      {
        code: "ill-conditioned",
        channel: 1,
        expectedError: expect.closeTo(1.14e-5, 7),
        message: expect.stringMatching(/^channel 1: .* 2\.6e\+2 × √\(variance \+ epsilon\).*; keep the BatchNorm/),
      },
    ]);
    expect(at(-260)).toEqual(at(260));
  });

  test("weighs the variance with epsilon, and the error with the size of y", () => {
    const base = { runningMean: Float32Array.of(1), runningVariance: Float32Array.of(1e-10), options: { epsilon: 0 } };
    const expected = (more: Partial<FoldSource>) => toAffine({ ...base, ...more }).warnings[0]?.expectedError;
    expect(expected({})).toBeGreaterThan(1e-3);
    expect(expected({ gamma: Float32Array.of(-8) })).toBeCloseTo(expected({}) as number, 6);
    expect(expected({ options: { epsilon: 1e-5 } })).toBeCloseTo((expected({}) as number) / Math.sqrt(1e5), 6);
    expect(expected({ options: { epsilon: 1e-3 } })).toBeUndefined();
    expect(expected({ beta: Float32Array.of(1e4) })).toBeUndefined();
    expect(expected({ gamma: Float32Array.of(0) })).toBeUndefined();
    expect(expected({ gamma: Float32Array.of(0), beta: Float32Array.of(0) })).toBeUndefined();
  });

  test("does not come in float64", () => {
    const bn = remote(1, 1e4, 0);
    const wide = { ...bn, runningMean: Float64Array.from(bn.runningMean) };
    expect(toAffine({ ...wide, runningVariance: Float64Array.from(bn.runningVariance) }).warnings).toEqual([]);
  });

  test("of a linear layer takes the mean without its bias, and expects what the rounding of weights costs", () => {
    const [inputs, ratio, std] = [16, 1e4, 2 ** -10];
    const weights = normal(3, CHANNELS * inputs).map(Math.abs);
    const bias = normal(4, CHANNELS, 1e-3, 1e3);
    const spread = range(CHANNELS).map((c) => std * Math.hypot(...weights.subarray(c * inputs, (c + 1) * inputs)));
    const center = Float64Array.from({ length: inputs }, (_, k) => ratio * std * (0.2 + 0.01 * k));
    const row = (c: number, w: ArrayLike<number>, x: ArrayLike<number>) =>
      range(inputs).reduce((sum, k) => sum + (w[c * inputs + k] as number) * (x[k] as number), 0);
    const means = range(CHANNELS).map((c) => row(c, weights, center));
    const bn = {
      gamma: null,
      beta: null,
      runningMean: Float64Array.from(means, (m, c) => m + (bias[c] as number)),
      runningVariance: Float64Array.from(spread, (s) => s * s),
      options: { epsilon: 0 },
    };
    const linear = { weight: { data: weights, shape: [CHANNELS, inputs] }, bias };
    const { weight, bias: folded, warnings } = foldIntoLinear(linear, bn);
    expect(warnings.map((w) => w.channel)).toEqual(range(CHANNELS));
    expect(warnings[0]?.message).toMatch(
      /; the two layers apart lose about as much in float32; centre the inputs, or fold and run in a wider type$/,
    );
    const shares = warnings.map(({ channel: c, expectedError }) => {
      const errors = range(32).map((n) => {
        const x = normal(n, inputs, std).map((v, k) => v + (center[k] as number));
        const y = row(c, weight.data, x) + (folded[c] as number);
        return y - (row(c, weights, x) - (means[c] as number)) / (spread[c] as number);
      });
      return rms(errors) / expectedError;
    });
    // half of it: the sum itself is in float64 here, so that the product's rounding is missing
    expect(rms(shares)).toBeGreaterThan(0.4);
    expect(rms(shares)).toBeLessThan(0.8);
    // a bias as large as the mean leaves nothing to cancel
    expect(foldIntoLinear({ ...linear, bias: Float64Array.from(bn.runningMean) }, bn).warnings).toEqual([]);
  });

  test.each([
    ["NaN as variance", { runningVariance: Number.NaN }],
    ["a negative variance", { runningVariance: -1 }],
    ["an infinite mean", { runningMean: Number.POSITIVE_INFINITY }],
    ["an overflowing shift", { runningMean: 3e38, gamma: 100 }],
    ["NaN as gamma", { gamma: Number.NaN }],
    ["an infinite beta", { beta: Number.NEGATIVE_INFINITY }],
  ])("comes for %s, and other channels stay as they are", (_, wrong) => {
    const bn = sourceOf(5, 3);
    const sound = toAffine(bn);
    for (const [name, value] of Object.entries(wrong)) bn[name as "gamma" | "beta"][1] = value;
    const poisoned = toAffine(bn);
    expect(sound.warnings).toEqual([]);
    expect(poisoned.warnings).toEqual([
      {
        code: "non-finite",
        channel: 1,
        expectedError: Number.POSITIVE_INFINITY,
        message: expect.stringMatching(/^channel 1: expected finite numbers/),
      },
    ]);
    expect([poisoned.scale, poisoned.shift].every((v) => Number.isFinite(v[1]))).toBe(false);
    for (const c of [0, 2]) {
      expect(poisoned.scale[c]).toBe(sound.scale[c]);
      expect(poisoned.shift[c]).toBe(sound.shift[c]);
    }
  });

  test("comes for a weight that overflows", () => {
    const bn = { runningMean: new Float32Array(2), runningVariance: Float32Array.of(1e-4, 1), options: { epsilon: 0 } };
    const { weight, warnings } = foldIntoLinear(
      { weight: { data: Float32Array.of(1, 1e38, 1, 1e38), shape: [2, 2] } },
      bn,
    );
    expect(weight.data).toBeAllclose(Float32Array.of(100, Number.POSITIVE_INFINITY, 1, 1e38), { rtol: 1e-6 });
    expect(warnings).toMatchObject([{ code: "non-finite", channel: 0 }]);
  });

  test("does not come for an infinite variance, which makes y beta, as in eval", () => {
    const bn = { ...sourceOf(5, 1), runningVariance: Float32Array.of(Number.POSITIVE_INFINITY) };
    expect(toAffine(bn)).toEqual({ scale: Float32Array.of(0), shift: bn.beta, warnings: [] });
  });
});
