// Batch Renormalization: the modes in which it has no effect, the statistics that it uses, limits that change, and its
// gradients by finite differences.

import { afterEach, beforeAll, describe, expect, test } from "vitest";
import { batchNormForward, type Dtype, type Options, type Vector } from "../../src/index.ts";
import { dropMade } from "../support/made.ts";
import { close, differences, inputsIn, layer, RUNNING, same, step } from "../support/variants.ts";
import { LAYOUTS, normal, ordered, real, useBuild, WAYS } from "../support/worlds.ts";

afterEach(dropMade);

describe.each(WAYS)("$layout, $kind, $dtype", ({ layout, kind, dtype }) => {
  beforeAll(() => useBuild("simd"));
  const { input } = inputsIn({ layout, kind, dtype });

  describe("renorm", () => {
    const size = [4, 3, 5];

    test.each<[string, Options<Dtype>]>([
      ["a layer", {}],
      ["one without parameters", { affine: false }],
      ["one without beta", { shift: false }],
      ["an activation", { activation: "relu6" }],
      ["ghost batches", { ghostBatchSize: 2 }],
    ])("that allows nothing changes no bit: %s", (_, options) => {
      const [x, dy] = [input(1, size), input(2, size)];
      const plain = step(layer(dtype, { layout, ...options }), x, dy);
      same(step(layer(dtype, { layout, ...options, renorm: { rMax: 1, dMax: 0 } }), x, dy), plain);
    });

    test("without limits y is that of the running statistics, and still follows the batch's in backward", () => {
      const [x, dy] = [input(1, size), input(2, size)];
      for (const options of [{}, { affine: false }]) {
        const bn = layer(dtype, { layout, ...options, renorm: { rMax: Infinity, dMax: Infinity } });
        const { y } = step(layer(dtype, { layout, ...options }), x, dy, { mode: "eval" });
        const { dGamma } = step(layer(dtype, { layout }), x, dy, { mode: "frozen" });
        const got = step(bn, x, dy);
        same({ y }, got, close(dtype));
        // the gradient of gamma is Σ dy·x̂ of what was normalised
        if (got.dGamma) expect(got.dGamma).toBeAllclose(dGamma as Vector, close(dtype));
        const { dx } = step(layer(dtype, { layout, ...options }), x, dy);
        expect(got.dx).not.toEqual(dx);
        expect(bn.batchesTracked).toBe(1);
      }
    });

    test("takes running statistics as they were before the call, in train and in batch, and only train updates them", () => {
      const [x, dy] = [input(1, size), input(2, size)];
      const renorm = { rMax: 1.4, dMax: 0.6 };
      const train = step(layer(dtype, { layout, renorm }), x, dy);
      const batch = step(layer(dtype, { layout, renorm }), x, dy, { mode: "batch" });
      const { y, dx, dGamma, dBeta } = train;
      same({ y, dx, dGamma, dBeta }, batch);
      expect([batch.batchesTracked, [...(batch.runningMean as Vector)]]).toEqual([0, [...real(dtype, RUNNING.mean)]]);
      const { runningMean, runningVariance } = step(layer(dtype, { layout }), x, dy);
      same({ runningMean, runningVariance, batchesTracked: 1 }, train);
      for (const mode of ["eval", "frozen"] as const)
        same(step(layer(dtype, { layout, renorm }), x, dy, { mode }), step(layer(dtype, { layout }), x, dy, { mode }));
    });

    test("limits may be widened, narrowed and lifted between steps", () => {
      const [x, dy] = [input(1, size), input(2, size)];
      const bn = layer(dtype, { layout });
      const mode = "batch";
      for (const renorm of [{ rMax: 1.1, dMax: 0.1 }, { rMax: 3, dMax: 5 }, { rMax: 1.5, dMax: 0 }, null]) {
        bn.renorm = renorm;
        expect(bn.renorm).toEqual(renorm);
        same(step(layer(dtype, { layout, ...(renorm && { renorm }) }), x, dy, { mode }), step(bn, x, dy, { mode }));
      }
      expect(bn.options.renorm).toBe(null);
      const limits = { rMax: 2, dMax: 1 };
      bn.renorm = limits;
      limits.rMax = 0;
      expect(bn.renorm).toEqual({ rMax: 2, dMax: 1 });
    });
  });
});

describe.each(LAYOUTS)("gradients, float64, %s", (layout) => {
  beforeAll(() => useBuild("simd"));
  const shape = ordered([4, 3, 5], layout);
  const dy = Float64Array.from(normal(2, 60));

  test("of renorm, r and d being constants", () => {
    const bn = layer("float64", { layout, renorm: { rMax: 1.3, dMax: 0.5 } });
    const x = Float64Array.from(normal(1, 60, 2, 1));
    const { mean, variance } = batchNormForward({ data: x, shape }, {}, { layout });
    const clip = (v: number, least: number, most: number) => Math.min(Math.max(v, least), most);
    const std = RUNNING.variance.map((v) => Math.sqrt(v + 1e-5));
    const r = std.map((s, c) => clip(Math.sqrt((variance[c] as number) + 1e-5) / s, 1 / 1.3, 1.3));
    const d = std.map((s, c) => clip(((mean[c] as number) - (RUNNING.mean[c] as number)) / s, -0.5, 0.5));
    expect(new Set([...r, 1, 1.3, 1 / 1.3]).size).toBeLessThan(6); // some limit is met
    const [gamma, beta] = [bn.gamma, bn.beta] as [Float64Array, Float64Array];
    const loss = () => {
      const scale = gamma.map((g, c) => g * (r[c] as number));
      const shift = beta.map((b, c) => b + (gamma[c] as number) * (d[c] as number));
      const { y } = batchNormForward({ data: x, shape }, { gamma: scale, beta: shift }, { layout });
      return y.data.reduce((sum, value, i) => sum + value * (dy[i] as number), 0);
    };
    bn.forward({ data: x, shape });
    const got = bn.backward({ data: dy, shape });
    const tolerance = { rtol: 1e-7, atol: 1e-7 };
    expect(got.dx?.data).toBeAllclose(differences(x, loss), tolerance);
    expect(got.dGamma).toBeAllclose(differences(gamma, loss), tolerance);
    expect(got.dBeta).toBeAllclose(differences(beta, loss), tolerance);
  });
});
