// The estimator "debiased": running statistics against the correction for the initial zero in Adam and in TensorFlow.

import { beforeAll, describe, expect, test } from "vitest";
import { BatchNorm, batchNormStatistics, type Estimator, type Vector } from "../../src/index.ts";
import { normal, useBuild } from "../support/worlds.ts";

describe("estimator debiased", () => {
  beforeAll(() => useBuild("simd"));
  const batches = Array.from({ length: 40 }, (_, k) => normal(k + 1, 24, 1 + (k % 3), 5 + k / 10));
  const shape = [8, 3];
  const bessel = 8 / 7;
  const options = { estimator: "debiased", dtype: "float64" } as const;
  const statisticsOf = (k: number) =>
    batchNormStatistics({ data: Float64Array.from(batches[k] as Float32Array), shape });

  test.each([0.1, 0.001, 1e-9, 0.5, 1])(
    "momentum %f: as Adam's m/(1 − β^k), and TensorFlow's zero_debias",
    (momentum) => {
      const bn = new BatchNorm(3, { ...options, decay: 1 - momentum });
      const [m, v] = [new Float64Array(3), new Float64Array(3)];
      // tf.train.ExponentialMovingAverage(zero_debias): biased ← biased − (biased − value)·(1 − decay), local_step
      let seen = 0; // 1 − β^k, summed so that it keeps its digits
      const weight = bn.options.momentum;
      for (let k = 0; k < 40; k++) {
        const { mean, variance } = statisticsOf(k);
        seen += (1 - seen) * weight;
        for (let c = 0; c < 3; c++) {
          m[c] = (m[c] as number) - ((m[c] as number) - (mean[c] as number)) * weight;
          v[c] = (v[c] as number) - ((v[c] as number) - (variance[c] as number) * bessel) * weight;
        }
        bn.forward({ data: Float64Array.from(batches[k] as Float32Array), shape });
        expect(bn.runningMean).toBeAllclose(
          m.map((value) => value / seen),
          { rtol: 1e-12 },
        );
        expect(bn.runningVariance).toBeAllclose(
          v.map((value) => value / seen),
          { rtol: 1e-12 },
        );
      }
    },
  );

  test("the first batch is taken as it is; at momentum 0 all batches weigh the same", () => {
    for (const momentum of [0, 1e-12, ...Array.from({ length: 50 }, (_, i) => (i + 1) / 101)]) {
      const bn = new BatchNorm(3, { ...options, momentum });
      const { mean, variance } = statisticsOf(0);
      bn.track(statisticsOf(0));
      expect(bn.runningMean).toBeAllclose(mean);
      expect(bn.runningVariance).toBeAllclose(variance.map((s) => s * bessel));
    }
    const [even, cumulative] = (["debiased", "cumulative"] as Estimator[]).map(
      (estimator) => new BatchNorm(3, { dtype: "float64", estimator, momentum: 0 }),
    ) as [BatchNorm<"float64">, BatchNorm<"float64">];
    for (let k = 0; k < 10; k++) for (const bn of [even, cumulative]) bn.track(statisticsOf(k));
    expect(even.runningMean).toBeAllclose(cumulative.runningMean as Vector);
    expect(even.runningVariance).toBeAllclose(cumulative.runningVariance as Vector);
  });

  test("goes on after its state was saved and loaded", () => {
    const [through, first, second] = [0, 1, 2].map(() => new BatchNorm(3, { estimator: "debiased" })) as [
      BatchNorm,
      BatchNorm,
      BatchNorm,
    ];
    const feed = (bn: BatchNorm, k: number) => bn.forward({ data: batches[k] as Float32Array, shape });
    for (let k = 0; k < 20; k++) feed(through, k);
    for (let k = 0; k < 7; k++) feed(first, k);
    second.loadStateDict(first.stateDict());
    for (let k = 7; k < 20; k++) feed(second, k);
    expect(second.batchesTracked).toBe(20);
    expect(second.runningMean).toBeAllclose(through.runningMean as Vector, { rtol: 2e-7 });
    expect(second.runningVariance).toBeAllclose(through.runningVariance as Vector, { rtol: 2e-7 });
    first.resetRunningStats();
    feed(first, 0);
    const fresh = new BatchNorm(3, { estimator: "debiased" });
    feed(fresh, 0);
    expect(first.runningMean).toBeAllclose(fresh.runningMean as Vector);
  });
});
