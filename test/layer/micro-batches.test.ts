// Micro-batches: with merged statistics the parts of a batch are normalised and differentiated as one batch.

import { afterEach, beforeAll, describe, expect, test } from "vitest";
import {
  type AnyTensor,
  BatchNorm,
  type BatchStatistics,
  batchNormBackward,
  batchNormForward,
  batchNormGradientSums,
  batchNormStatistics,
  type Mask,
  mergeStatistics,
  type Vector,
} from "../../src/index.ts";
import { dropMade, mine } from "../support/made.ts";
import { close, inputsIn, layer, type Step, same, step } from "../support/variants.ts";
import { normal, real, useBuild, WAYS } from "../support/worlds.ts";

afterEach(dropMade);

describe.each(WAYS)("$layout, $kind, $dtype", ({ layout, kind, dtype }) => {
  beforeAll(() => useBuild("simd"));
  const { input, part } = inputsIn({ layout, kind, dtype });

  describe("micro-batches", () => {
    const size = [9, 3, 5];
    const cuts = [0, 2, 2, 3, 9]; // unequal, an empty one, one of a single sample
    const parts = (t: AnyTensor) => cuts.slice(1).map((end, i) => part(t, size, cuts[i] as number, end));
    const weights = Array.from({ length: 45 }, (_, p) => (p % 4) * 0.5);
    const masks: [string, Mask | undefined][] = [
      ["no mask", undefined],
      ["a mask", weights.map((w) => w > 0)],
      ["weights", weights],
    ];

    test.each(masks)("normalise, and are differentiated, as one batch: %s", (_, mask) => {
      const [x, dy, residual] = [input(1, size), input(2, size), input(3, size)];
      const gamma = real(dtype, [1.5, -0.7, 0.3]);
      const parameters = { gamma, beta: real(dtype, [0.1, -0.2, 0.37]) };
      const options = { layout, activation: "leaky_relu" } as const;
      const whole = batchNormForward(x, parameters, { ...options, residual, ...(mask && { mask }) });
      const expected = batchNormBackward(dy, whole.saved);
      mine(whole.y);
      mine(expected.dx);
      mine(expected.dResidual);
      const own = cuts.slice(1).map((end, i) => {
        const some = mask && Array.prototype.slice.call(mask, (cuts[i] as number) * 5, end * 5);
        return { layout, ...(some && { mask: some as boolean[] }) };
      });
      const [xs, dys, residuals] = [parts(x), parts(dy), parts(residual)];
      const joint = mergeStatistics(xs.map((t, i) => batchNormStatistics(t, own[i])));
      const tight = dtype === "float64" ? { rtol: 1e-13, atol: 1e-13 } : { rtol: 1e-6 };
      expect(joint.mean).toBeAllclose(whole.mean, tight);
      expect(joint.variance).toBeAllclose(whole.variance, tight);
      const forwards = xs.map((t, i) =>
        batchNormForward(t, parameters, {
          ...options,
          ...own[i],
          residual: residuals[i] as AnyTensor,
          statistics: joint,
        }),
      );
      const sums = { dGamma: new Float64Array(3), dBeta: new Float64Array(3) };
      dys.forEach((t, i) => {
        const { saved } = forwards[i] as (typeof forwards)[number];
        const one = batchNormGradientSums(t, saved);
        for (const name of ["dGamma", "dBeta"] as const)
          one[name].forEach((v, c) => {
            sums[name][c] = (sums[name][c] as number) + v;
          });
      });
      expect(sums.dGamma).toBeAllclose(expected.dGamma as Vector, close(dtype));
      expect(sums.dBeta).toBeAllclose(expected.dBeta as Vector, close(dtype));
      const [y, dx, dResidual] = [0, 0, 0].map(() => [] as number[]) as [number[], number[], number[]];
      forwards.forEach((forward, i) => {
        y.push(...(mine(forward.y).data as Vector));
        const g = batchNormBackward(dys[i] as AnyTensor, forward.saved, { sums });
        dx.push(...(mine(g.dx).data as Vector));
        dResidual.push(...(mine(g.dResidual).data as Vector));
      });
      expect(y).toBeAllclose(whole.y.data as Vector, close(dtype));
      expect(dx).toBeAllclose(expected.dx?.data as Vector, close(dtype));
      expect(dResidual).toBeAllclose(expected.dResidual?.data as Vector, close(dtype));
    });

    test("a layer does it, too; its running statistics take the joint ones when they are tracked", () => {
      const [x, dy] = [input(1, size), input(2, size)];
      const whole = step(layer(dtype, { layout }), x, dy);
      const bn = layer(dtype, { layout });
      const before = bn.stateDict();
      const [xs, dys] = [parts(x), parts(dy)];
      const joint = mergeStatistics(xs.map((t) => batchNormStatistics(t, { layout })));
      const sums = { dGamma: new Float64Array(3), dBeta: new Float64Array(3) };
      xs.forEach((t, i) => {
        mine(bn.forward(t, { statistics: joint }));
        bn.backward(dys[i] as AnyTensor, { needs: { dx: false }, accumulate: i > 0 } as object);
      });
      sums.dGamma.set(bn.dGamma as Vector);
      sums.dBeta.set(bn.dBeta as Vector);
      const dx = xs.flatMap((t, i) => {
        mine(bn.forward(t, { statistics: joint, mode: "batch" }));
        return [
          ...(mine(bn.backward(dys[i] as AnyTensor, { sums, needs: { dGamma: false } } as object).dx).data as Vector),
        ];
      });
      expect(dx).toBeAllclose(whole.dx as Vector, close(dtype));
      expect(bn.stateDict()).toEqual(before);
      bn.track(joint);
      const { runningMean, runningVariance } = bn;
      same({ runningMean, runningVariance, batchesTracked: 1 } as Partial<Step>, whole, close(dtype));
    });

    test("one part is the batch itself, bit for bit", () => {
      const [x, dy] = [input(1, size), input(2, size)];
      const whole = step(layer(dtype, { layout }), x, dy);
      const bn = layer(dtype, { layout });
      const none = batchNormStatistics(part(x, size, 0, 0), { layout });
      const own = batchNormStatistics(x, { layout });
      const joint = mergeStatistics([none, own, none]);
      expect(joint).toEqual(own);
      expect(joint.mean).not.toBe(own.mean);
      const got = step(bn, x, dy, { statistics: joint });
      bn.track(joint);
      const { runningMean, runningVariance, batchesTracked } = bn;
      same({ ...got, runningMean, runningVariance, batchesTracked } as Partial<Step>, whole);
      bn.track(none);
      expect(bn.batchesTracked).toBe(1);
    });
  });
});

test('track takes statistics of one value for estimator "population" only, and after others', () => {
  const of = (...data: number[]) => batchNormStatistics({ data: Float64Array.from(data), shape: [data.length, 1] });
  const bn = new BatchNorm(1, { estimator: "population" });
  const refused = /^statistics\.count: expected more than 1 value per channel, got 1$/;
  expect(() => bn.track(of(9))).toThrow(refused);
  bn.track(of(1, 2, 6));
  bn.track(of(9));
  expect([bn.runningMean?.[0], bn.runningVariance?.[0], bn.batchesTracked]).toEqual([4.5, Math.fround(41 / 3), 2]);
  const ema = new BatchNorm(1);
  ema.track(of(1, 2, 6));
  expect(() => ema.track(of(9))).toThrow(refused);
});

test("statistics of one value or of none normalise a batch without elements alone", () => {
  const of = (count: number) => ({ count, mean: Float64Array.of(1, 2), variance: Float64Array.of(0, 0) });
  const bn = new BatchNorm(2);
  const empty = { data: new Float32Array(), shape: [0, 2] };
  for (const count of [0, 1]) {
    expect(bn.forward(empty, { statistics: of(count) }).shape).toEqual([0, 2]);
    expect(() => bn.forward({ data: Float32Array.of(3, 4), shape: [1, 2] }, { statistics: of(count) })).toThrow(
      `got input size 1×2 in mode "train" and statistics of ${count}: `,
    );
  }
  const short = { ...of(5), variance: Float64Array.of(1) };
  expect(() => bn.forward(empty, { statistics: short })).toThrow(/^statistics\.variance: expected 2 /);
});

describe("mergeStatistics", () => {
  const batch = (seed: number, count: number): BatchStatistics =>
    count === 0
      ? { count, mean: Float64Array.of(Number.NaN, 7), variance: Float64Array.of(1, 1) }
      : batchNormStatistics({ data: Float64Array.from(normal(seed, count * 2, 2, 1e4)), shape: [count, 2] });
  beforeAll(() => useBuild("simd"));

  test("is that of all values together, whatever is empty, in any order, and leaves its input alone", () => {
    const counts = [3, 0, 1, 40, 0, 5];
    const list = counts.map((count, i) => batch(i, count));
    const copy = structuredClone(list);
    const all = counts.flatMap((count, i) => (count ? [...normal(i, count * 2, 2, 1e4)] : []));
    const expected = batchNormStatistics({ data: Float64Array.from(all), shape: [49, 2] });
    for (const order of [list, [...list].reverse(), new Set(list)]) {
      const merged = mergeStatistics(order);
      expect(merged.count).toBe(49);
      expect(merged.mean).toBeAllclose(expected.mean, { rtol: 1e-14 });
      expect(merged.variance).toBeAllclose(expected.variance, { rtol: 1e-10 });
    }
    expect(list).toEqual(copy);
    const only = list[3] as BatchStatistics;
    expect(mergeStatistics([list[1] as BatchStatistics, only, list[4] as BatchStatistics])).toEqual(only);
  });
});
