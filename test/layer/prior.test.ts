// The option `prior` of a forward: statistics that are mixed with the running ones, and their exact backward.

import { describe, expect, test } from "vitest";
import { BatchNorm, batchNormDoubleBackward, batchNormStatistics, type Saved } from "../../src/index.ts";
import { differences } from "../support/variants.ts";
import { normal } from "../support/worlds.ts";

const SHAPE = [6, 3, 4];
const f64 = (seed: number, std = 1, mean = 0) => Float64Array.from(normal(seed, 72, std, mean));
const layer = (options = {}) => {
  const bn = new BatchNorm(3, { dtype: "float64", epsilon: 1e-3, ...options });
  bn.gamma?.set([1, -2, 0.5]);
  bn.beta?.set([0.1, 0.2, 0.3]);
  bn.runningMean?.set([1, -1, 0.5]);
  bn.runningVariance?.set([2, 0.5, 1]);
  return bn;
};

/** y by the mixture, in plain float64. */
function expected(bn: ReturnType<typeof layer>, x: Float64Array, prior: number): Float64Array {
  const { mean, variance } = batchNormStatistics({ data: x, shape: SHAPE });
  const weight = 6 / (prior + 6);
  return x.map((v, i) => {
    const c = Math.floor(i / 4) % 3;
    const m = (1 - weight) * (bn.runningMean?.[c] as number) + weight * (mean[c] as number);
    const s = (1 - weight) * (bn.runningVariance?.[c] as number) + weight * (variance[c] as number);
    return ((bn.gamma[c] as number) * (v - m)) / Math.sqrt(s + 1e-3) + (bn.beta[c] as number);
  });
}

describe("prior", () => {
  test.each([0, 0.5, 6, 1000])("of %d samples mixes the statistics, and leaves the running ones", (prior) => {
    const bn = layer();
    const before = bn.stateDict();
    const x = f64(1, 3, 2);
    const y = bn.forward({ data: x, shape: SHAPE }, { mode: "batch", prior });
    expect(y.data).toBeAllclose(expected(bn, x, prior), { rtol: 1e-12, atol: 1e-12 });
    expect(bn.stateDict()).toEqual(before);
  });

  test("gives the same dx without gradients of gamma and beta", () => {
    const bn = layer();
    const forward = () => bn.forward({ data: f64(1, 3, 2), shape: SHAPE }, { mode: "batch", prior: 5 });
    const dy = { data: f64(2), shape: SHAPE };
    forward();
    const { dx } = bn.backward(dy);
    forward();
    expect(bn.backward(dy, { needs: { dGamma: false, dBeta: false } })).toEqual({ dx });
  });

  test.each([{}, { activation: "relu" as const }, { activation: "silu" as const }, { ghostBatchSize: 2 }])(
    "has the gradients of finite differences, with %j",
    (options) => {
      const bn = layer(options);
      const [x, dy] = [f64(1, 3, 2), f64(2)];
      const forward = (data: Float64Array) => bn.forward({ data, shape: SHAPE }, { mode: "batch", prior: 5 });
      const loss = () => forward(x).data.reduce((sum, v, i) => sum + v * (dy[i] as number), 0);
      forward(x);
      const { dx, dGamma, dBeta } = bn.backward({ data: dy, shape: SHAPE });
      const close = { rtol: 1e-6, atol: 1e-6 };
      expect(dx.data).toBeAllclose(differences(x, loss), close);
      expect(dGamma).toBeAllclose(differences(bn.gamma, loss), close);
      expect(dBeta).toBeAllclose(differences(bn.beta, loss), close);
      const alone = bn.backward(
        { data: dy, shape: SHAPE },
        { saved: bn.saved, needs: { dGamma: false, dBeta: false } },
      );
      forward(x);
      expect(bn.backward({ data: dy, shape: SHAPE }).dx.data).toBeAllclose(dx.data);
      expect(alone.dx.data.length).toBe(72);
    },
  );

  test("counts weights of a mask", () => {
    const bn = layer();
    const [x, dy] = [f64(1, 3, 2), f64(2)];
    const mask = Array.from({ length: 24 }, (_, p) => (p % 5 === 0 ? 0 : 1 + (p % 3)));
    const forward = (data: Float64Array) => bn.forward({ data, shape: SHAPE }, { mode: "batch", prior: 3, mask });
    const loss = () => forward(x).data.reduce((sum, v, i) => sum + v * (dy[i] as number), 0);
    forward(x);
    const { dx } = bn.backward({ data: dy, shape: SHAPE });
    expect(dx.data).toBeAllclose(differences(x, loss), { rtol: 1e-6, atol: 1e-6 });
  });

  test("0 is the batch alone, and a large one the running statistics", () => {
    const [bn, x] = [layer({ dtype: "float32" }), { data: normal(1, 72, 3, 2), shape: SHAPE }] as const;
    const call = (options: object) => (bn as unknown as BatchNorm).forward(x, options).data;
    expect(call({ mode: "batch", prior: 0 })).toEqual(call({ mode: "batch" }));
    expect(call({ mode: "batch", prior: 1e30 })).toBeAllclose(call({ mode: "eval" }), { rtol: 1e-6, atol: 1e-6 });
  });

  test("is refused where it says nothing, before anything is written", () => {
    const x = { data: f64(1), shape: SHAPE };
    const out = { data: new Float64Array(72).fill(7), shape: SHAPE };
    const bn = layer();
    for (const wrong of [-1, Number.NaN, Infinity, "1", null])
      expect(() => bn.forward(x, { mode: "batch", prior: wrong as number, out })).toThrow(/^prior: expected /);
    expect(() => bn.forward(x, { mode: "batch", prior: -1 })).toThrow("prior: expected a finite number ≥ 0, got -1");
    for (const mode of ["train", "eval", "frozen"] as const)
      expect(() => bn.forward(x, { mode, prior: 2, out })).toThrow(/^mode: expected "batch" with prior/);
    const statistics = batchNormStatistics(x);
    const perSample = { gamma: new Float64Array(18) };
    for (const [name, option] of Object.entries({ statistics, perSample }))
      expect(() => bn.forward(x, { mode: "batch", prior: 2, out, [name]: option })).toThrow(
        `${name}: expected without prior`,
      );
    expect(() => layer({ renorm: { rMax: 2, dMax: 1 } }).forward(x, { mode: "batch", prior: 2, out })).toThrow(
      /^renorm: expected without prior/,
    );
    expect(() => layer({ trackRunningStats: false }).forward(x, { mode: "batch", prior: 2, out })).toThrow(
      expect.objectContaining({ code: "no-running-statistics" }),
    );
    expect(out.data).toEqual(new Float64Array(72).fill(7));
    bn.forward(x, { mode: "batch", prior: 2 });
    expect(() => batchNormDoubleBackward(x, bn.saved as Saved, {})).toThrow(/got a prior/);
  });
});

test("update, then normalise by the running statistics: track and frozen", () => {
  const x = { data: normal(1, 72, 3, 2), shape: SHAPE };
  const [bn, other] = [new BatchNorm(3), new BatchNorm(3)];
  bn.track(batchNormStatistics(x));
  const y = bn.forward(x, { mode: "frozen" });
  other.forward(x);
  expect(bn.stateDict()).toEqual(other.stateDict());
  expect(y).toEqual(other.forward(x, { mode: "eval" }));
  const invStd = Array.from(bn.runningVariance as Float32Array, (v) => 1 / Math.sqrt(v + 1e-5));
  const { dx } = bn.backward(x);
  expect(dx.data).toBeAllclose(
    x.data.map((v, i) => v * (invStd[Math.floor(i / 4) % 3] as number)),
    { rtol: 1e-6 },
  );
});
