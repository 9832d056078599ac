// Masks with weights: integer weights as repeated values, statistics for weights of any magnitude, and their accuracy.

import { afterEach, beforeAll, describe, expect, test } from "vitest";
import { type AnyTensor, batchNormBackward, batchNormForward, type Mask, type Vector } from "../../src/index.ts";
import { dropMade, mine } from "../support/made.ts";
import { type Case, eachElement, indexOf, layer, maskedIn } from "../support/masks.ts";
import { errorOf, solve } from "../support/reference.ts";
import { drop, ordered, sizeOf, useBuild, WAYS } from "../support/worlds.ts";

afterEach(dropMade);

describe.each(WAYS)("masks ($layout, $kind, $dtype)", ({ layout, kind, dtype }) => {
  beforeAll(() => useBuild("simd"));
  const { give, input, size, c, mask, weights } = maskedIn({ layout, kind, dtype });

  test("a weight of n is the value n times", () => {
    const times = Array.from({ length: 30 }, (_, p) => (p * 7 + 3) % 4);
    const [x, dy] = [input(1, size), input(2, size)];
    const bn = layer(dtype, layout);
    const y = mine(bn.forward(x, { mask: times }));
    const dx = mine(bn.backward(dy).dx as AnyTensor);
    // every value so many times, dy at its first
    const total = times.reduce((a, b) => a + b, 0);
    const long: Case = { ...c, size: [1, 3, total] };
    const { at } = indexOf(long);
    const [xs, dys, ys, dxs] = [0, 0, 0, 0].map(() => new Float64Array(3 * total)) as [
      Float64Array,
      Float64Array,
      Float64Array,
      Float64Array,
    ];
    const first = times.map((_, p) => times.slice(0, p).reduce((a, b) => a + b, 0));
    eachElement(c, (i, p, ch) => {
      for (let k = 0; k < (times[p] as number); k++) {
        xs[at(0, ch, (first[p] as number) + k)] = x.data[i] as number;
        ys[at(0, ch, (first[p] as number) + k)] = y.data[i] as number;
        dys[at(0, ch, (first[p] as number) + k)] = (dy.data[i] as number) / (times[p] as number);
        dxs[at(0, ch, (first[p] as number) + k)] = (dx.data[i] as number) / (times[p] as number);
      }
      if (!times[p]) dy.data[i] = 0;
    });
    const close = dtype === "float64" ? { rtol: 1e-12, atol: 1e-12 } : { rtol: 1e-5, atol: 1e-6 };
    const twin = layer(dtype, layout);
    expect(ys).toBeAllclose(mine(twin.forward(give(long.size, xs))).data as Vector, close);
    expect(bn.runningMean).toBeAllclose(twin.runningMean as Vector, close);
    expect(bn.runningVariance).toBeAllclose(twin.runningVariance as Vector, close);
    const repeated = twin.backward(give(long.size, dys));
    mine(repeated.dx as AnyTensor);
    const again = bn.backward(dy, { saved: bn.saved });
    mine(again.dx as AnyTensor);
    eachElement(c, (i, p, ch) => {
      for (let k = 0; k < (times[p] as number); k++)
        dxs[at(0, ch, (first[p] as number) + k)] = (again.dx?.data[i] as number) / (times[p] as number);
    });
    expect(dxs).toBeAllclose(repeated.dx?.data as Vector, close);
    expect(again.dGamma).toBeAllclose(repeated.dGamma as Vector, close);
    expect(again.dBeta).toBeAllclose(repeated.dBeta as Vector, close);
  });

  // planes with and without whole vectors, columns of one and of several positions, and channels that fill no vector
  test.each([[[5, 7, 70]], [[3, 2, 33]], [[40, 9]], [[5, 6, 6]], [[30, 5, 3]], [[9, 1, 8]], [[2, 1, 1]]])(
    "of %j: within the gates, and what is not finite under the mask changes no bit elsewhere",
    (dims) => {
      const [samples = 0, channels = 0, ...rest] = dims;
      const inner = sizeOf(rest);
      const local: Case = { ...c, size: dims };
      const weights = Array.from({ length: samples * inner }, (_, p) => (p % 3 === 1 ? 0 : 0.25 + ((p * 7) % 5)));
      if (weights.length < 3) weights.fill(0.7);
      const [x, dy] = [input(1, dims, 2, 5), input(2, dims)];
      eachElement(local, (i, p) => {
        if (!weights[p]) dy.data[i] = 0;
      });
      const once = () => {
        const { y, mean, variance, saved } = batchNormForward(x, {}, { layout, mask: weights });
        const { dx, dGamma, dBeta } = batchNormBackward(dy, saved);
        const results = { y: y.data.slice(), dx: dx?.data.slice(), mean, variance, dGamma, dBeta };
        drop(y, dx);
        return results;
      };
      const clean = once();
      const [xs, dys] = [x.data.slice() as Vector, dy.data.slice() as Vector];
      const e = solve({ shape: ordered(dims, layout), layout, epsilon: 1e-5, x: xs, dy: dys, weights });
      const [u, gate] = dtype === "float64" ? [2 ** -53, 16] : [2 ** -24, 4];
      const channel = (i: number) => (layout === "channels-last" ? i % channels : Math.floor(i / inner) % channels);
      expect(errorOf(clean.y as Vector, e.y, e.yScale, u, channel)).toBeLessThanOrEqual(gate);
      expect(errorOf(clean.dx as Vector, e.dx, e.dxScale, u, channel)).toBeLessThanOrEqual(gate);
      expect(clean.mean).toBeAllclose(e.batches[0]?.mean as Float64Array, { rtol: 1e-13, atol: 1e-13 });
      expect(clean.variance).toBeAllclose(e.batches[0]?.variance as Float64Array, { rtol: 1e-12 });
      for (const poisoned of [x, dy])
        for (const value of [Number.NaN, Infinity]) {
          const before = poisoned.data.slice() as Vector;
          eachElement(local, (i, p, ch) => {
            if (!weights[p] && (p + ch) % 2) poisoned.data[i] = value;
          });
          const got = once();
          (poisoned.data as Vector).set(before);
          for (const name of ["mean", "variance", "dGamma", "dBeta"] as const)
            expect(got[name]).toBeAllclose(clean[name] as Vector);
          eachElement(local, (i, p) => {
            if (!weights[p]) return;
            expect(got.y[i]).toBe(clean.y[i]);
            expect(got.dx?.[i]).toBe(clean.dx?.[i]);
          });
        }
    },
  );

  test("weights on any scale give the same mean and variance", () => {
    const x = input(1, size);
    const by = (m: Mask) => {
      const { mean, variance, y } = batchNormForward(x, {}, { layout, mask: m });
      drop(y);
      return [mean, variance] as const;
    };
    const sum = weights.reduce((a, b) => a + b, 0);
    const [mean, variance] = by(weights);
    for (const scale of [1e-300, 1 / sum, 0.1, 1000, 1e300]) {
      const other = by(weights.map((w) => w * scale));
      expect(other[0]).toBeAllclose(mean, { rtol: 1e-13 });
      expect(other[1]).toBeAllclose(variance, { rtol: 1e-13 });
    }
    const constant = by(mask.map((k) => (k ? 0.3 : 0)));
    const plain = by(mask);
    expect(constant[0]).toBeAllclose(plain[0], { rtol: 1e-6 });
    expect(constant[1]).toBeAllclose(plain[1], { rtol: 1e-6 });
  });

  test("weighted statistics keep their digits where the mean is far from 0, and a constant channel gives beta", () => {
    const far = input(1, size, 1, 1e4);
    const expected = solve({
      shape: ordered(size, layout),
      layout,
      epsilon: 1e-5,
      x: far.data as Vector,
      dy: far.data as Vector,
      weights,
    });
    const { mean, variance, y } = batchNormForward(far, {}, { layout, mask: weights });
    drop(y);
    expect(mean).toBeAllclose(expected.batches[0]?.mean as Float64Array, { rtol: 1e-13 });
    expect(variance).toBeAllclose(expected.batches[0]?.variance as Float64Array, { rtol: 1e-9 });
    // the first value is the pivot, and here an outlier of next to no weight
    const [outlier, light] = [input(1, size), weights.slice()];
    light[0] = 1e-30;
    eachElement(c, (i, p) => {
      if (p === 0) outlier.data[i] = 1e12;
    });
    const x = outlier.data as Vector;
    const problem = { shape: ordered(size, layout), layout, epsilon: 1e-5, x, dy: x, weights: light };
    const [exact] = solve(problem).batches;
    const got = batchNormForward(outlier, {}, { layout, mask: light });
    drop(got.y);
    expect(got.mean).toBeAllclose(exact?.mean as Float64Array, { rtol: 1e-13 });
    expect(got.variance).toBeAllclose(exact?.variance as Float64Array, { rtol: 1e-13 });
    const bn = layer(dtype, layout, { epsilon: 0 });
    const flat = give(size, new Float64Array(90).fill(0.1));
    for (const m of [mask, weights] as Mask[]) {
      const out = mine(bn.forward(flat, { mask: m, mode: "batch" }));
      eachElement(c, (i, _, ch) => expect(out.data[i]).toBe(bn.beta?.[ch]));
    }
  });
});
