// Masks. Results are those of the data without its masked positions, within the gates. Values at masked positions
// have no effect on other results. Gradients agree with finite differences.

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
  type Mask,
  type Options,
  tensor,
  type Vector,
} from "../../src/index.ts";
import { defaultHeap } from "../../src/memory/heap.ts";
import { dropMade, mine } from "../support/made.ts";
import { type Case, compact, eachElement, indexOf, layer, maskedIn, masksOf } from "../support/masks.ts";
import { errorOf, solve } from "../support/reference.ts";
import { RUNNING } from "../support/variants.ts";
import { drop, LAYOUTS, make, normal, ordered, real, sizeOf, useBuild, WAYS, WORLDS } from "../support/worlds.ts";

afterEach(dropMade);

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
  const { give, input, size, c, lengths, mask, weights } = maskedIn({ layout, kind, dtype });

  describe.each(SIZES.map((size) => ({ size })))("of $size", ({ size }) => {
    const c: Case = { size, kind, layout, dtype };
    const { samples, inner } = indexOf(c);

    test.each(Object.entries(masksOf(samples, inner)).filter(([, keep]) => keep.filter((k) => k).length > 1))(
      "a mask that is %s: everything is within the gates of the oracle",
      (_, mask) => {
        const [x, dy] = [input(1, size, 2, 1), input(2, size)];
        const bn = layer(dtype, layout);
        const before = { mean: [...(bn.runningMean ?? [])], variance: [...(bn.runningVariance ?? [])] };
        const weights = mask.map(Number);
        const [xs, dys] = [x.data.slice() as Vector, dy.data.slice() as Vector];
        const shape = ordered(size, layout);
        const { gamma, beta } = bn;
        const expected = solve({ shape, layout, epsilon: 1e-5, x: xs, dy: dys, gamma, beta, weights });
        const y = mine(bn.forward(x, { mask }));
        const { dx, dGamma, dBeta } = bn.backward(dy);
        mine(dx as AnyTensor);
        const [u, gate] = dtype === "float64" ? [2 ** -53, 16] : [2 ** -24, 4];
        const channel = (i: number) => (layout === "channels-last" ? i % 3 : Math.floor(i / inner) % 3);
        const within = (got: unknown, e: Float64Array, scale: Float64Array, by = channel) =>
          expect(errorOf(got as Vector, e, scale, u, by)).toBeLessThanOrEqual(gate);
        within(y.data, expected.y, expected.yScale);
        within(dx?.data, expected.dx, expected.dxScale);
        within(dGamma, expected.dGamma, expected.dGammaScale, (i) => i);
        within(dBeta, expected.dBeta, expected.dBetaScale, (i) => i);
        // with a mask the statistics are f64 sums for every type of elements; running ones are rounded to it
        const [batch] = expected.batches as [(typeof expected.batches)[0]];
        const blocked = dtype === "float32" && mask.every((k) => k);
        const precise = blocked ? { rtol: 2 ** -24, atol: 2 ** -24 } : { rtol: 1e-12, atol: 1e-12 };
        const part = batchNormStatistics(x, { layout, mask });
        expect(part.count).toBe(mask.filter((k) => k).length);
        expect(part.mean).toBeAllclose(batch.mean, precise);
        expect(part.variance).toBeAllclose(batch.variance, precise);
        const rounded = dtype === "float64" ? precise : { rtol: 2 ** -23, atol: 1e-7 };
        const unbiased = batch.count / (batch.count - 1);
        const blended = (old: number[], values: ArrayLike<number>, factor: number) =>
          old.map((v, ch) => 0.75 * v + 0.25 * (values[ch] as number) * factor);
        expect(bn.runningMean).toBeAllclose(blended(before.mean, batch.mean, 1), rounded);
        expect(bn.runningVariance).toBeAllclose(blended(before.variance, batch.variance, unbiased), rounded);
        expect(bn.batchesTracked).toBe(1);
      },
    );
  });

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
      const { saved } = bn;
      const sums = bn.backward(dy, { saved, needs: { dx: false } });
      same([sums.dGamma, sums.dBeta], [all.dGamma, all.dBeta]);
      const alone = bn.backward(dy, { saved, needs: { dGamma: false, dBeta: false } });
      expect(mine(alone.dx as AnyTensor).data).toBeAllclose(dx);
      expect(Object.keys(alone)).toEqual(["dx"]);
      bn.backward(dy, { saved, dxOut: dy });
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

    test.each(["none", "relu"] as const)(
      "one ghost batch leaves the others as they are, activation %s",
      (activation) => {
        const [x, dy] = [input(1, [6, 3, 6]), input(2, [6, 3, 6])];
        const half = Array.from({ length: 36 }, (_, p) => p < 12 || p >= 24);
        const bn = layer(dtype, layout, { ghostBatchSize: 2, activation });
        const y = mine(bn.forward(x, { mask: half }));
        const dx = mine(bn.backward(dy).dx as AnyTensor);
        expect(bn.batchesTracked).toBe(2);
        const third = 2 * 3 * 6;
        eachElement({ ...c, size: [2, 3, 6] }, (i, _, ch) => {
          const beta = bn.beta?.[ch] as number;
          expect(y.data[third + i]).toBe(activation === "relu" ? Math.max(beta, 0) : beta);
        });
        expect(dx.data.slice(third, 2 * third)).toBeAllclose(new Float32Array(third));
        for (const begin of [0, 2 * third]) {
          const own = (t: AnyTensor) => give([2, 3, 6], t.data.slice(begin, begin + third) as Vector);
          const single = layer(dtype, layout, { activation });
          expect(mine(single.forward(own(x))).data).toBeAllclose(y.data.slice(begin, begin + third) as Vector);
          expect(mine(single.backward(own(dy)).dx as AnyTensor).data).toBeAllclose(
            dx.data.slice(begin, begin + third) as Vector,
          );
        }
      },
    );
  });

  test.each(["none", "relu"] as const)("of one ghost batch alone is that batch's, activation %s", (activation) => {
    const [x, dy] = [input(1, [4, 3, 6]), input(2, [4, 3, 6])];
    const some = Array.from({ length: 24 }, (_, p) => p !== 14 && p !== 20);
    const bn = layer(dtype, layout, { ghostBatchSize: 2, activation });
    const y = mine(bn.forward(x, { mask: some }));
    const dx = mine(bn.backward(dy).dx as AnyTensor);
    for (const [begin, own] of [
      [0, undefined],
      [36, some.slice(12)],
    ] as const) {
      const of = (t: AnyTensor) => t.data.slice(begin, begin + 36) as Vector;
      const single = layer(dtype, layout, { activation });
      const alone = mine(single.forward(give([2, 3, 6], of(x)), own && { mask: own }));
      expect(alone.data).toBeAllclose(of(y));
      expect(mine(single.backward(give([2, 3, 6], of(dy))).dx as AnyTensor).data).toBeAllclose(of(dx));
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
      out.data.set(junk as never); // unspecified after a batch that is not finite
      expect(() => bn.forward(poisoned, { mask: m })).toThrow(/finite batch mean/);
      const one = mask.map((_, p) => p === 3);
      expect(() => bn.forward(x, { mask: one, out })).toThrow(/more than 1 value per channel/);
      expect(() => bn.backward(x, { saved: bn.saved, dxOut: x } as object)).toThrow(
        /^dxOut: expected other memory than x, got/,
      );
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
    p % inner < ((mask.lengths as number[])[Math.floor(p / inner)] as number) ? 1 : 0,
  );
}

describe.each(WORLDS)("masks, $build build, $kind", ({ build, kind }) => {
  beforeAll(() => useBuild(build));

  test.each(LAYOUTS)("16-bit elements and every build: results of the data without the rest, %s", (layout) => {
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
      // blocked sums of the rest are within 1 u
      const close = { rtol: 2 ** -22, atol: 2 ** -22 };
      // neighbours of bfloat16 differ by 1 as bits
      const bits = dtype === "float32" ? { rtol: 2 ** -21, atol: 2 ** -21 } : { atol: 1 };
      expect(a.mean).toBeAllclose(b.mean, close);
      expect(a.variance).toBeAllclose(b.variance, close);
      expect(compact(c, a.y.data as Vector, mask).data).toBeAllclose(b.y.data as Vector, bits);
      const [da, db] = [batchNormBackward(dy, a.saved), batchNormBackward(dyRest, b.saved)];
      mine(da.dx as AnyTensor);
      mine(db.dx as AnyTensor);
      expect(compact(c, da.dx?.data as Vector, mask).data).toBeAllclose(db.dx?.data as Vector, bits);
      const sums = { rtol: 2 ** -20, atol: 2 ** -18 };
      expect(da.dGamma).toBeAllclose(db.dGamma as Vector, sums);
      expect(da.dBeta).toBeAllclose(db.dBeta as Vector, sums);
    }
  });
});

describe("a mask that leaves nothing", () => {
  const shape = [2, 3, 4];
  const nothing: boolean[] = new Array(8).fill(false);

  test("after batches of the same layer normalises by no statistics of theirs", () => {
    const bn = new BatchNorm(3);
    bn.beta.set([1, 2, 3]);
    for (const seed of [1, 2, 3]) bn.forward({ data: normal(seed, 24, 2, 5), shape });
    const { data } = bn.forward({ data: normal(4, 24, 2, 5), shape }, { mask: nothing });
    expect(data).toEqual(data.map((_, i) => 1 + (Math.floor(i / 4) % 3)));
  });

  test("in a part of a joint batch gives what its positions have beside others", () => {
    const statistics = {
      count: 40,
      mean: new Float64Array(3).fill(1),
      variance: new Float64Array(3).fill(2),
    };
    const sums = { dGamma: Float64Array.of(30, -20, 10), dBeta: Float64Array.of(5, 6, -70) };
    const run = (mask: boolean[]) => {
      const { y, saved } = batchNormForward({ data: normal(1, 24), shape }, {}, { mask, statistics });
      return [y, batchNormBackward({ data: normal(2, 24), shape }, saved, { sums }).dx].map(({ data }) => data);
    };
    const [alone, beside] = [run(nothing), run(nothing.map((_, i) => i < 4))];
    expect(alone.map((data) => data.slice(12))).toEqual(beside.map((data) => data.slice(12)));
    expect(alone[1]?.every((v) => v !== 0)).toBe(true);
  });
});
