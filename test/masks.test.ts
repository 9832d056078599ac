// Masks: what is masked is as if it were not there. Statistics are those of the rest, bit for bit; what stands under a
// mask changes nothing else; gradients are those of the whole, by finite differences.

import { afterEach, beforeAll, describe, expect, test } from "vitest";
import {
  type AnyTensor,
  BatchNorm,
  batchNormBackward,
  batchNormForward,
  batchNormInference,
  batchNormStatistics,
  type Data,
  type Dtype,
  type Layout,
  type Mask,
  type Options,
  tensor,
  type Vector,
} from "../src/index.ts";
import { defaultHeap } from "../src/memory/heap.ts";
import { solve } from "./reference.ts";
import {
  drop,
  type Kind,
  LAYOUTS,
  make,
  normal,
  ordered,
  random,
  real,
  sizeOf,
  useBuild,
  WAYS,
  WORLDS,
} from "./worlds.ts";

const made: AnyTensor[] = [];
const mine = <T extends AnyTensor>(t: T): T => {
  made.push(t);
  return t;
};
afterEach(() => drop(...made.splice(0)));

interface Case {
  /** [N, C, …] */
  size: readonly number[];
  kind: Kind;
  layout: Layout;
  dtype: Dtype;
}

/** Index of an element by sample, channel and position in the sample. */
function indexOf({ size: [samples = 0, channels = 0, ...rest], layout }: Case) {
  const inner = sizeOf(rest);
  const at = (n: number, c: number, i: number) =>
    layout === "channels-last" ? (n * inner + i) * channels + c : (n * channels + c) * inner + i;
  return { samples, channels, inner, positions: samples * inner, at };
}

/** Calls `visit` for every element, with its position. */
function eachElement(c: Case, visit: (index: number, position: number, channel: number) => void): void {
  const { samples, channels, inner, at } = indexOf(c);
  for (let n = 0; n < samples; n++)
    for (let ch = 0; ch < channels; ch++) for (let i = 0; i < inner; i++) visit(at(n, ch, i), n * inner + i, ch);
}

/** What a user would pass who takes masked positions out: the samples left, or else [1, C, kept] or [kept, C]. */
function compact(c: Case, values: ArrayLike<number>, keep: readonly boolean[]) {
  const { samples, channels, inner, at } = indexOf(c);
  const kept: [n: number, i: number][] = [];
  keep.forEach((k, p) => {
    if (k) kept.push([Math.floor(p / inner), p % inner]);
  });
  const whole = Array.from({ length: samples }, (_, n) => keep.slice(n * inner, (n + 1) * inner)).every(
    (own) => own.every((k) => k) || !own.some((k) => k),
  );
  const size = whole ? [kept.length / inner, ...c.size.slice(1)] : [1, channels, kept.length];
  const { at: into } = indexOf({ ...c, size });
  const data = new Float64Array(kept.length * channels);
  kept.forEach(([n, i], p) => {
    const [toSample, toPosition] = whole ? [Math.floor(p / inner), p % inner] : [0, p];
    for (let ch = 0; ch < channels; ch++) data[into(toSample, ch, toPosition)] = values[at(n, ch, i)] as number;
  });
  return { data: real(c.dtype, data), shape: ordered(size, c.layout) };
}

/** Masks of so many samples of so many positions. */
function masksOf(samples: number, inner: number): Record<string, boolean[]> {
  const next = random(samples * inner);
  const all = samples * inner;
  const by = (keep: (n: number, i: number) => boolean) =>
    Array.from({ length: all }, (_, p) => keep(Math.floor(p / inner), p % inner));
  return {
    random: by(() => next() < 0.7),
    sparse: by((n, i) => next() < 0.1 || (n === 0 && i === 0) || n * inner + i >= all - 1),
    "of lengths": by((n, i) => i < (n * 7 + 1) % (inner + 1)),
    "with all positions": by(() => true),
    "of every second sample": by((n) => n % 2 === 0),
    "of the last sample": by((n) => n === samples - 1),
    "of all but one position": by((n, i) => n !== 1 || i !== 0),
  };
}

const RUNNING = { mean: [0.3, -0.4, 1], variance: [0.5, 2, 1.5] };

/** A layer of three channels none of whose vectors is trivial. */
function layer(dtype: Dtype, layout: Layout, options: Options<Dtype> = {}): BatchNorm<Dtype> {
  const bn = new BatchNorm<Dtype>(3, { dtype, layout, momentum: 0.25, ...options });
  bn.gamma?.set([1.5, -0.7, 0.3]);
  bn.beta?.set([0.1, -0.2, 0.37]);
  bn.runningMean?.set(RUNNING.mean);
  bn.runningVariance?.set(RUNNING.variance);
  return bn;
}

const copies = (...list: (Data | undefined)[]) => list.map((v) => v?.slice());

const SIZES = [
  [9, 3],
  [700, 3],
  [6, 3, 5],
  [20, 3, 70],
  [4, 3, 3, 5],
  [3, 3, 2, 3, 2],
  [2, 3, 40, 40],
];

describe.each(WAYS)("masks ($layout, $kind, $dtype)", ({ layout, kind, dtype }) => {
  beforeAll(() => useBuild("simd"));

  const give = (size: readonly number[], values: ArrayLike<number>) =>
    mine(make(kind, ordered(size, layout), real(dtype, values)));
  const input = (seed: number, size: readonly number[], std = 1.5, mean = 1) =>
    give(size, normal(seed, sizeOf(size), std, mean));

  describe.each(SIZES.map((size) => ({ size })))("of $size", ({ size }) => {
    const c: Case = { size, kind, layout, dtype };
    const { samples, inner } = indexOf(c);

    test.each(Object.entries(masksOf(samples, inner)).filter(([, keep]) => keep.filter((k) => k).length > 1))(
      "a mask that is %s: everything has the bits of the data without the rest",
      (_, mask) => {
        const [x, dy] = [input(1, size), input(2, size, 1, 0)];
        eachElement(c, (i, p) => {
          if (!mask[p]) dy.data[i] = 0;
        });
        const rest = [x, dy].map((t) => compact(c, t.data as Vector, mask));
        const [xRest, dyRest] = rest.map(({ data, shape }) => mine(make(kind, shape, data))) as [AnyTensor, AnyTensor];
        const [bn, twin] = [layer(dtype, layout), layer(dtype, layout)];
        const y = mine(bn.forward(x, { mask }));
        const yRest = mine(twin.forward(xRest));
        expect(compact(c, y.data as Vector, mask).data).toBeAllclose(yRest.data as Vector);
        expect(bn.runningMean).toBeAllclose(twin.runningMean as Vector);
        expect(bn.runningVariance).toBeAllclose(twin.runningVariance as Vector);
        expect(bn.batchesTracked).toBe(1);
        const [a, b] = [bn.backward(dy), twin.backward(dyRest)];
        mine(a.dx as AnyTensor);
        mine(b.dx as AnyTensor);
        expect(compact(c, a.dx?.data as Vector, mask).data).toBeAllclose(b.dx?.data as Vector);
        expect(a.dGamma).toBeAllclose(b.dGamma as Vector);
        expect(a.dBeta).toBeAllclose(b.dBeta as Vector);
        const [masked, plain] = [batchNormForward(x, {}, { layout, mask }), batchNormForward(xRest, {}, { layout })];
        drop(masked.y, plain.y);
        expect(masked.mean).toBeAllclose(plain.mean);
        expect(masked.variance).toBeAllclose(plain.variance);
        const part = batchNormStatistics(x, { layout, mask });
        expect(part.count).toBe(mask.filter((k) => k).length);
        expect(part.mean).toBeAllclose(plain.mean);
        expect(part.variance).toBeAllclose(plain.variance);
      },
    );
  });

  const size = [5, 3, 6];
  const c: Case = { size, kind, layout, dtype };
  const lengths = [6, 2, 0, 5, 3];
  const mask = Array.from({ length: 30 }, (_, p) => p % 6 < (lengths[Math.floor(p / 6)] as number));
  const weights = Array.from({ length: 30 }, (_, p) => (p % 4) * 0.75);
  const run = (bn: BatchNorm<Dtype>, x: AnyTensor, dy: AnyTensor, options: object) => {
    const y = mine(bn.forward(x, options));
    const { dx, dGamma, dBeta, dResidual } = bn.backward(dy);
    if (dx) mine(dx);
    if (dResidual) mine(dResidual);
    return copies(
      y.data,
      dx?.data,
      dGamma,
      dBeta,
      dResidual?.data,
      ...(Object.values(bn.stateDict()).slice(2, 4) as Data[]),
    ) as (Vector | undefined)[];
  };
  const same = (a: (Vector | undefined)[], b: (Vector | undefined)[]) => {
    expect(a.map((v) => v?.length)).toEqual(b.map((v) => v?.length));
    a.forEach((v, i) => {
      if (v) expect(v).toBeAllclose(b[i] as Vector);
    });
  };

  test("lengths, booleans, bytes, and weights of 0 and 1 are the same mask", () => {
    const [x, dy] = [input(1, size), input(2, size)];
    const by = (m: Mask) => run(layer(dtype, layout), x, dy, { mask: m });
    const expected = by(mask);
    for (const other of [
      { lengths },
      { lengths: Int32Array.from(lengths) },
      mask.map(Number),
      Uint8Array.from(mask, Number),
    ])
      same(by(other), expected);
    same(by(mask.map(() => true)), run(layer(dtype, layout), x, dy, {}));
    same(by({ lengths: [6, 6, 6, 6, 6] }), run(layer(dtype, layout), x, dy, {}));
  });

  test("the mask is read in forward, and may change afterwards", () => {
    const [x, dy] = [input(1, size), input(2, size)];
    for (const m of [mask.slice(), weights.slice()]) {
      const [bn, twin] = [layer(dtype, layout), layer(dtype, layout)];
      mine(bn.forward(x, { mask: m as Mask }));
      mine(twin.forward(x, { mask: m.slice() as Mask }));
      m.fill(0 as never);
      const [a, b] = [bn.backward(dy), twin.backward(dy)];
      same([a.dx?.data as Vector, a.dGamma], [b.dx?.data as Vector, b.dGamma]);
      drop(a.dx, b.dx);
    }
  });

  describe.each([
    ["booleans", mask],
    ["weights", weights],
  ] as const)("of %s", (_, m) => {
    const isMasked = (p: number) => !m[p];

    test.each(["none", "relu", "silu"] as const)(
      "NaN and infinity under it, in x, dy or the residual, change no bit elsewhere (%s)",
      (activation) => {
        for (const mode of ["train", "batch", "eval", "frozen"] as const)
          for (const where of ["x", "dy", "residual"] as const) {
            const all = { x: input(1, size), dy: input(2, size), residual: input(3, size) };
            // what masked positions give to the sums is gone with them
            eachElement(c, (i, p) => {
              if (isMasked(p)) all.dy.data[i] = 0;
            });
            const once = () =>
              run(layer(dtype, layout, { activation }), all.x, all.dy, { mask: m, mode, residual: all.residual });
            const clean = once();
            let next = 0;
            eachElement(c, (i, p) => {
              if (isMasked(p)) all[where].data[i] = [Number.NaN, Infinity, -Infinity][next++ % 3] as number;
            });
            const poisoned = once();
            expect(next).toBeGreaterThan(10);
            clean.forEach((values, k) => {
              if (!values || values.length === 3) {
                same([poisoned[k]], [values]);
                return;
              }
              eachElement(c, (i, p) => {
                if (!isMasked(p) && !Object.is(poisoned[k]?.[i], values[i]))
                  expect.fail(`${mode}, ${where}, result ${k}, ${i}: ${poisoned[k]?.[i]} instead of ${values[i]}`);
              });
            });
          }
      },
    );

    test("masked positions are normalised, too, and their dx is gamma·invStd·dy", () => {
      const bn = layer(dtype, layout);
      const [x, dy] = [input(1, size), input(2, size)];
      const y = mine(bn.forward(x, { mask: m, mode: "batch" }));
      const dx = mine(bn.backward(dy).dx as AnyTensor);
      const { mean, variance, y: unused } = batchNormForward(x, {}, { layout, mask: m });
      drop(unused);
      let seen = 0;
      eachElement(c, (i, p, ch) => {
        if (!isMasked(p)) return;
        seen++;
        const s = (bn.gamma?.[ch] as number) / Math.sqrt((variance[ch] as number) + 1e-5);
        const own = ((x.data[i] as number) - (mean[ch] as number)) * s + (bn.beta?.[ch] as number);
        expect(y.data[i]).toBeCloseTo(own, 5);
        expect(dx.data[i]).toBeCloseTo(s * (dy.data[i] as number), 5);
      });
      expect(seen).toBeGreaterThan(10);
    });

    test("eval and frozen compute what they compute without it", () => {
      const [x, dy] = [input(1, size), input(2, size)];
      for (const mode of ["eval", "frozen"] as const) {
        const [a, b] = [{ mask: m, mode }, { mode }].map((o) => run(layer(dtype, layout), x, dy, o)) as [
          Vector[],
          Vector[],
        ];
        a.forEach((v, i) => {
          if (v) expect(v).toBeAllclose(b[i] as Vector, i === 2 || i === 3 ? { rtol: 1e-6, atol: 1e-6 } : {});
        });
      }
      const vectors = { mean: real(dtype, RUNNING.mean), variance: real(dtype, RUNNING.variance) };
      const [masked, plain] = [{ mask: m }, {}].map((o) => {
        const { y, saved } = batchNormInference(x, vectors, { layout, ...o });
        const { dx } = batchNormBackward(dy, saved);
        return copies(mine(y).data, mine(dx as AnyTensor).data) as Vector[];
      }) as [Vector[], Vector[]];
      same(masked, plain);
    });

    test("dx may be written over dy, with or without the other gradients, and sums may be had alone", () => {
      const [x, dy] = [input(1, size), input(2, size)];
      const bn = layer(dtype, layout);
      mine(bn.forward(x, { mask: m, mode: "batch" }));
      const all = bn.backward(dy);
      const dx = mine(all.dx as AnyTensor).data.slice() as Vector;
      const sums = bn.backward(dy, { needs: { dx: false } });
      same([sums.dGamma, sums.dBeta], [all.dGamma, all.dBeta]);
      const alone = bn.backward(dy, { needs: { dGamma: false, dBeta: false } });
      expect(mine(alone.dx as AnyTensor).data).toBeAllclose(dx);
      expect(Object.keys(alone)).toEqual(["dx"]);
      bn.backward(dy, { dxOut: dy });
      expect(dy.data).toBeAllclose(dx);
    });
  });

  describe("with nothing left", () => {
    const none = mask.map(() => false);

    test.each<[string, Options<Dtype>]>([
      ["a plain layer", {}],
      ["renorm", { renorm: { rMax: 3, dMax: 5 } }],
      ["an activation", { activation: "leaky_relu" }],
      ["ghost batches", { ghostBatchSize: 2 }],
    ])("%s gives beta, dx = 0, and no gradients, and keeps its state", (_, options) => {
      for (const mode of ["train", "batch"] as const) {
        const bn = layer(dtype, layout, options);
        const [x, dy, residual] = [input(1, size), input(2, size), input(3, size)];
        const before = bn.stateDict();
        const y = mine(bn.forward(x, { mask: none, mode, residual }));
        const { dx, dGamma, dBeta, dResidual } = bn.backward(dy);
        mine(dx as AnyTensor);
        mine(dResidual as AnyTensor);
        eachElement(c, (i, _, ch) => {
          const z = (bn.beta?.[ch] as number) + (residual.data[i] as number);
          const slope = options.activation && z < 0 ? 0.01 : 1;
          expect(y.data[i]).toBeCloseTo(z * slope, 5);
          expect(dResidual?.data[i]).toBeCloseTo((dy.data[i] as number) * slope, 5);
        });
        expect(dx?.data).toBeAllclose(new Float32Array(90));
        same([dGamma, dBeta], [new Float32Array(3), new Float32Array(3)]);
        expect(bn.stateDict()).toEqual(before);
      }
      expect(batchNormStatistics(input(1, size), { layout, mask: none })).toEqual({
        count: 0,
        mean: new Float64Array(3),
        variance: new Float64Array(3),
      });
    });

    test("one ghost batch leaves the others as they are", () => {
      const [x, dy] = [input(1, [6, 3, 6]), input(2, [6, 3, 6])];
      const half = Array.from({ length: 36 }, (_, p) => p < 12 || p >= 24);
      const bn = layer(dtype, layout, { ghostBatchSize: 2 });
      const y = mine(bn.forward(x, { mask: half }));
      const dx = mine(bn.backward(dy).dx as AnyTensor);
      expect(bn.batchesTracked).toBe(2);
      const third = 2 * 3 * 6;
      eachElement({ ...c, size: [2, 3, 6] }, (i, _, ch) => expect(y.data[third + i]).toBe(bn.beta?.[ch]));
      expect(dx.data.slice(third, 2 * third)).toBeAllclose(new Float32Array(third));
      for (const begin of [0, 2 * third]) {
        const own = (t: AnyTensor) => give([2, 3, 6], t.data.slice(begin, begin + third) as Vector);
        const single = layer(dtype, layout);
        expect(mine(single.forward(own(x))).data).toBeAllclose(y.data.slice(begin, begin + third) as Vector);
        expect(mine(single.backward(own(dy)).dx as AnyTensor).data).toBeAllclose(
          dx.data.slice(begin, begin + third) as Vector,
        );
      }
    });
  });

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
    const again = bn.backward(dy);
    mine(again.dx as AnyTensor);
    eachElement(c, (i, p, ch) => {
      for (let k = 0; k < (times[p] as number); k++)
        dxs[at(0, ch, (first[p] as number) + k)] = (again.dx?.data[i] as number) / (times[p] as number);
    });
    expect(dxs).toBeAllclose(repeated.dx?.data as Vector, close);
    expect(again.dGamma).toBeAllclose(repeated.dGamma as Vector, close);
    expect(again.dBeta).toBeAllclose(repeated.dBeta as Vector, close);
  });

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

  test("a forward or backward that throws changes nothing, and no call keeps memory", () => {
    const bn = layer(dtype, layout);
    const [x, dy, out] = [input(1, size), input(2, size), input(3, size)];
    mine(bn.forward(x, { mask }));
    const state = bn.stateDict();
    const junk = out.data.slice() as Vector;
    const poisoned = input(4, size);
    eachElement(c, (i, p) => {
      if (p === 7) poisoned.data[i] = Number.NaN; // kept by both
    });
    const { used } = defaultHeap().usage;
    for (const m of [mask, weights, { lengths: [6, 6, 6, 6, 6] }] as Mask[]) {
      expect(() => bn.forward(poisoned, { mask: m, out })).toThrow(/non-finite|finite batch mean/);
      expect(() => bn.forward(poisoned, { mask: m })).toThrow(/finite batch mean/);
      const one = mask.map((_, p) => p === 3);
      expect(() => bn.forward(x, { mask: one, out })).toThrow(/more than 1 value per channel/);
      expect(() => bn.backward(x, { dxOut: x } as object)).toThrow(/in mode/);
      expect(bn.stateDict()).toEqual(state);
      expect(out.data).toBeAllclose(junk);
      bn.forward(x, { mask: m, out, mode: "batch" });
      out.data.set(junk as never);
      bn.backward(dy, { dxOut: out });
      out.data.set(junk as never);
      expect(defaultHeap().usage.used).toBe(used);
    }
  });
});

describe.each(LAYOUTS)("gradients through a mask, float64, %s", (layout) => {
  beforeAll(() => useBuild("simd"));
  const size = [4, 3, 5];
  const shape = ordered(size, layout);
  const c: Case = { size, layout, kind: "plain", dtype: "float64" };
  const h = 1e-5;

  test.each([
    ["booleans", Array.from({ length: 20 }, (_, p) => p % 3 !== 1)],
    ["whole samples", Array.from({ length: 20 }, (_, p) => p < 5 || p >= 10)],
    ["lengths", { lengths: [5, 0, 3, 1] }],
    ["weights", Array.from({ length: 20 }, (_, p) => (p % 4) * 0.5)],
  ] as [string, Mask][])(
    "%s: finite differences of x, residual, gamma and beta, masked positions included",
    (_, mask) => {
      for (const activation of ["none", "relu", "silu"] as const) {
        const values = {
          x: Float64Array.from(normal(1, 60, 2, 1)),
          residual: Float64Array.from(normal(3, 60)),
          gamma: Float64Array.of(1.5, -0.7, 0.3),
          beta: Float64Array.of(0.1, -0.2, 0.37),
        };
        const dy = Float64Array.from(normal(2, 60));
        const call = () =>
          batchNormForward(
            { data: values.x, shape },
            { gamma: values.gamma, beta: values.beta },
            { layout, mask, activation, residual: { data: values.residual, shape } },
          );
        const got = batchNormBackward({ data: dy, shape }, call().saved);
        const loss = () => call().y.data.reduce((sum, v, i) => sum + v * (dy[i] as number), 0);
        const gradients = { x: got.dx?.data, residual: got.dResidual?.data, gamma: got.dGamma, beta: got.dBeta };
        for (const name of ["x", "residual", "gamma", "beta"] as const) {
          const v = values[name];
          const differences = Array.from(v, (was, i) => {
            const [up, down] = [1, -1].map((sign) => {
              v[i] = was + sign * h;
              return loss();
            }) as [number, number];
            v[i] = was;
            return (up - down) / (2 * h);
          });
          expect(gradients[name], `${activation}, ${name}`).toBeAllclose(differences, { rtol: 1e-7, atol: 1e-7 });
        }
        const oracle = solve({
          shape,
          layout,
          epsilon: 1e-5,
          ...values,
          dy,
          activation,
          weights: weightsOf(mask, c),
        });
        for (const name of ["dx", "dResidual"] as const)
          expect(got[name]?.data).toBeAllclose(oracle[name], { rtol: 1e-10, atol: 1e-10 });
      }
    },
  );
});

/** A mask as weights. */
function weightsOf(mask: Mask, c: Case): number[] {
  const { inner, positions } = indexOf(c);
  if (!("lengths" in mask)) return Array.from(mask as ArrayLike<number>, Number);
  return Array.from({ length: positions }, (_, p) =>
    p % inner < (mask.lengths[Math.floor(p / inner)] as number) ? 1 : 0,
  );
}

describe.each(WORLDS)("masks, $build build, $kind", ({ build, kind }) => {
  beforeAll(() => useBuild(build));

  test.each(LAYOUTS)("16-bit elements and every build: bits of the data without the rest, %s", (layout) => {
    const size = [9, 3, 50];
    const c: Case = { size, kind, layout, dtype: "float32" };
    const shape = ordered(size, layout);
    const values = normal(5, sizeOf(size), 2, 3);
    const dys = normal(6, sizeOf(size));
    const mask = masksOf(9, 50).random as boolean[];
    eachElement(c, (i, p) => {
      if (!mask[p]) dys[i] = 0;
    });
    const half = (v: Float32Array) => Uint16Array.from(new Uint32Array(v.slice().buffer), (bits) => bits >>> 16);
    for (const dtype of ["float32", "bfloat16"] as const) {
      const give = (v: Float32Array, s: readonly number[]): AnyTensor => {
        if (dtype === "float32") return mine(make(kind, s, v));
        const plain = { data: half(v), shape: s, dtype } as const;
        return kind === "plain" ? plain : mine(tensor(s, plain.data, { dtype }));
      };
      const rest = [values, dys].map((v) => compact(c, v, mask)) as { data: Float32Array; shape: number[] }[];
      const [xRest, dyRest] = rest.map(({ data, shape: s }) => give(data, s)) as [AnyTensor, AnyTensor];
      const [x, dy] = [give(values, shape), give(dys, shape)];
      const [a, b] = [batchNormForward(x, {}, { layout, mask }), batchNormForward(xRest, {}, { layout })];
      mine(a.y);
      mine(b.y);
      expect(a.mean).toBeAllclose(b.mean);
      expect(a.variance).toBeAllclose(b.variance);
      expect(compact(c, a.y.data as Vector, mask).data).toBeAllclose(b.y.data as Vector);
      const [da, db] = [batchNormBackward(dy, a.saved), batchNormBackward(dyRest, b.saved)];
      mine(da.dx as AnyTensor);
      mine(db.dx as AnyTensor);
      expect(compact(c, da.dx?.data as Vector, mask).data).toBeAllclose(db.dx?.data as Vector);
      expect(da.dGamma).toBeAllclose(db.dGamma as Vector);
      expect(da.dBeta).toBeAllclose(db.dBeta as Vector);
    }
  });
});
