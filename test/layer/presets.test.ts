// Presets: training runs against the update rule of each framework, written in plain loops after its documentation.
// docs/reference/presets.md has the sources.

import { beforeAll, describe, expect, test } from "vitest";
import { BatchNorm, type Layout, type Options, type Preset } from "../../src/index.ts";
import { dimsOf, forward, invStdOf, statistics } from "../support/reference.ts";
import { drop, make, normal, useBuild, WORLDS } from "../support/worlds.ts";

interface Rule {
  layout: Layout;
  epsilon: number;
  /** Running value from the old one and the k-th batch's mean or biased variance over m values. */
  mean(old: number, batch: number, k: number): number;
  variance(old: number, batch: number, m: number, k: number): number;
}

/** TF.js writes it as old − (old − batch)·(1 − momentum). */
const decayed = (old: number, batch: number) => old - (old - batch) * (1 - 0.99);

const RULES: Record<Preset, Rule> = {
  pytorch: {
    layout: "channels-first",
    epsilon: 1e-5,
    mean: (old, batch) => (1 - 0.1) * old + 0.1 * batch,
    variance: (old, batch, m) => (1 - 0.1) * old + (0.1 * batch * m) / (m - 1),
  },
  keras: {
    layout: "channels-last",
    epsilon: 1e-3,
    mean: (old, batch) => old * 0.99 + batch * (1 - 0.99),
    variance: (old, batch) => old * 0.99 + batch * (1 - 0.99),
  },
  tfjs: { layout: "channels-last", epsilon: 1e-3, mean: decayed, variance: decayed },
  onnx: {
    layout: "channels-first",
    epsilon: 1e-5,
    mean: (old, batch) => old * 0.9 + batch * (1 - 0.9),
    variance: (old, batch) => old * 0.9 + batch * (1 - 0.9),
  },
  flax: {
    layout: "channels-last",
    epsilon: 1e-5,
    mean: (old, batch) => 0.99 * old + (1 - 0.99) * batch,
    variance: (old, batch) => 0.99 * old + (1 - 0.99) * batch,
  },
  haiku: {
    layout: "channels-last",
    epsilon: 1e-5,
    // ExponentialMovingAverage: hidden ← decay·hidden + (1 − decay)·batch, and average = hidden/(1 − decay^k)
    mean: (old, batch, k) => (0.9 * old * (1 - 0.9 ** (k - 1)) + 0.1 * batch) / (1 - 0.9 ** k),
    variance: (old, batch, _, k) => (0.9 * old * (1 - 0.9 ** (k - 1)) + 0.1 * batch) / (1 - 0.9 ** k),
  },
  paper: {
    layout: "channels-first",
    epsilon: 1e-5,
    // Alg. 2: E[x] = E_B[μ_B], Var[x] = m/(m − 1)·E_B[σ²_B]
    mean: (old, batch, k) => (old * (k - 1) + batch) / k,
    variance: (old, batch, m, k) => (old * (k - 1) + (batch * m) / (m - 1)) / k,
  },
};

const PRESETS = Object.keys(RULES) as Preset[];

describe.each(WORLDS)("presets ($build, $kind)", ({ build, kind }) => {
  beforeAll(() => useBuild(build));

  test.each(PRESETS)("%s: twelve steps of training and inference follow its rule", (preset) => {
    const rule = RULES[preset];
    const shape = rule.layout === "channels-last" ? [4, 5, 3] : [4, 3, 5];
    const d = dimsOf(shape, rule.layout);
    const bn = new BatchNorm(3, { preset });
    bn.gamma = Float32Array.of(1.5, -0.7, 0.3);
    bn.beta = Float32Array.of(0.1, 0, -2);
    const [gamma, beta] = [bn.gamma, bn.beta] as [Float32Array, Float32Array];
    const running = { mean: new Float64Array(3), variance: new Float64Array(3).fill(1) };
    for (let k = 1; k <= 12; k++) {
      const data = normal(k, 60, 0.01 + 0.003 * k, k % 3);
      const x = make(kind, shape, data);
      const y = bn.forward(x);
      const batch = statistics(data, d);
      const m = d.outer * d.inner;
      running.mean.forEach((old, c) => {
        running.mean[c] = rule.mean(old, batch.mean[c] as number, k);
      });
      running.variance.forEach((old, c) => {
        running.variance[c] = rule.variance(old, batch.variance[c] as number, m, k);
      });
      // a standard deviation of 0.01 makes epsilon show: √(1e-4 + 1e-5) and √(1e-4 + 1e-3) are far apart
      const trained = forward(data, d, batch.mean, invStdOf(batch.variance, rule.epsilon), gamma, beta);
      expect(y.data).toBeAllclose(trained.y, { rtol: 1e-5, atol: 2e-6 });
      expect(bn.runningMean).toBeAllclose(running.mean, { rtol: 1e-6, atol: 1e-7 });
      expect(bn.runningVariance).toBeAllclose(running.variance, { rtol: 1e-6 });
      const inferred = bn.forward(x, { mode: "eval" });
      const expected = forward(data, d, running.mean, invStdOf(running.variance, rule.epsilon), gamma, beta);
      // a running mean near 2 is rounded to float32 by up to 1.2e-7, which is 1e-5 of a standard deviation of 0.012
      expect(inferred.data).toBeAllclose(expected.y, { rtol: 1e-5, atol: 1e-5 });
      drop(x, y, inferred);
    }
    bn.dispose();
  });
});

describe("a preset", () => {
  beforeAll(() => useBuild("simd"));

  test.each(PRESETS)(
    "%s sets layout, epsilon, momentum, running variance and estimator, and nothing else",
    (preset) => {
      const { options } = new BatchNorm(2, { preset });
      const plain = new BatchNorm(2).options;
      const { layout, epsilon, momentum, runningVariance, estimator, ...others } = options;
      expect(plain).toMatchObject(others);
      expect({ layout, epsilon }).toEqual({ layout: RULES[preset].layout, epsilon: RULES[preset].epsilon });
      const weight = {
        ema: momentum,
        cumulative: 1 / 10,
        debiased: momentum / (1 - (1 - momentum) ** 10),
        population: 0,
      };
      expect(RULES[preset].mean(0, 1, 10)).toBeCloseTo(weight[estimator], 15);
      expect(RULES[preset].variance(0, 1, 2, 1e9) > RULES[preset].mean(0, 1, 1e9)).toBe(runningVariance === "unbiased");
    },
  );

  test("is PyTorch's where none is named", () => {
    expect(new BatchNorm(2, { preset: "pytorch" }).options).toEqual(new BatchNorm(2).options);
  });

  test.each<[Options, Partial<Record<keyof Options, unknown>>]>([
    [{ layout: "channels-first" }, { layout: "channels-first" }],
    [{ epsilon: 0 }, { epsilon: 0 }],
    [{ momentum: 0.25 }, { momentum: 0.25 }],
    [{ decay: 0.75 }, { momentum: 0.25 }],
    [{ runningVariance: "unbiased" }, { runningVariance: "unbiased" }],
    [{ estimator: "population" }, { estimator: "population" }],
    [
      { activation: "relu", scale: false },
      { activation: "relu", scale: false },
    ],
  ])("gives way to an option beside it: keras with %j", (beside, expected) => {
    const { options } = new BatchNorm(2, { preset: "keras", ...beside });
    expect(options).toEqual({ ...new BatchNorm(2, { preset: "keras" }).options, ...expected });
  });
});

describe("rank 1, as ONNX has it,", () => {
  beforeAll(() => useBuild("simd"));

  test.each(["channels-first", "channels-last"] as const)("is one channel, %s", (layout) => {
    const data = normal(1, 10, 2, 5);
    const [line, column] = [new BatchNorm(1, { layout }), new BatchNorm(1, { layout })];
    const y = line.forward({ data, shape: [10] });
    expect(y.shape).toEqual([10]);
    expect(y.data).toEqual(column.forward({ data, shape: [10, 1] }).data);
    expect(line.backward({ data: normal(2, 10), shape: [10] })).toMatchObject({ dx: { shape: [10] } });
    expect(line.stateDict()).toEqual(column.stateDict());
    const two = new BatchNorm(2, { layout });
    expect(() => two.forward({ data, shape: [10] })).toThrow(
      new RangeError("x.shape: expected rank 2 or more, got [10]"),
    );
  });
});
