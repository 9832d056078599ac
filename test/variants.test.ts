// Ghost batches, Batch Renormalization, scale and shift per sample, debiased averages, micro-batches; and all of them
// with masks, activations and residuals at random, against the oracle's plain loops.

import { afterEach, beforeAll, describe, expect, test } from "vitest";
import {
  type ActivationName,
  type AnyTensor,
  BatchNorm,
  type BatchStatistics,
  batchNormBackward,
  batchNormForward,
  batchNormGradientSums,
  batchNormStatistics,
  type Dtype,
  type Estimator,
  type LayerForwardOptions,
  type Layout,
  type Mask,
  mergeStatistics,
  type Options,
  Tensor,
  type TensorLike,
  tensor,
  type Vector,
} from "../src/index.ts";
import { defaultHeap, WasmHeap } from "../src/memory/heap.ts";
import { type Problem, solve } from "./reference.ts";
import { drop, type Kind, LAYOUTS, make, normal, ordered, random, real, sizeOf, useBuild, WAYS } from "./worlds.ts";

const made: AnyTensor[] = [];
const mine = <T extends AnyTensor>(t: T | undefined): T => {
  made.push(t as T);
  return t as T;
};
afterEach(() => drop(...made.splice(0)));

const RUNNING = { mean: [0.3, -0.4, 1], variance: [0.5, 2, 1.5] };

/** A layer of three channels none of whose vectors is trivial. */
function layer(dtype: Dtype, options: Options<Dtype> = {}): BatchNorm<Dtype> {
  const bn = new BatchNorm<Dtype>(3, { dtype, momentum: 0.25, ...options });
  bn.gamma?.set([1.5, -0.7, 0.3]);
  bn.beta?.set([0.1, -0.2, 0.37]);
  bn.runningMean?.set(RUNNING.mean);
  bn.runningVariance?.set(RUNNING.variance);
  return bn;
}

/** Copies of everything that a step computes. */
function step(bn: BatchNorm<Dtype>, x: AnyTensor, dy: AnyTensor, options: LayerForwardOptions = {}) {
  const y = mine(bn.forward(x as TensorLike<Dtype>, options as LayerForwardOptions<TensorLike<Dtype>>));
  const { dx, dGamma, dBeta, dResidual } = bn.backward(dy as TensorLike<Dtype>);
  const { runningMean, runningVariance, batchesTracked } = bn;
  const vector = (v: AnyTensor | Vector | null | undefined) => {
    if (!v) return null;
    return ("shape" in v ? v.data : v).slice() as Vector;
  };
  const result = {
    y: vector(y),
    dx: vector(dx),
    dGamma: vector(dGamma),
    dBeta: vector(dBeta),
    dResidual: vector(dResidual),
    runningMean: vector(runningMean),
    runningVariance: vector(runningVariance),
    batchesTracked,
  };
  drop(dx, dResidual);
  return result;
}

type Step = ReturnType<typeof step>;
/** The same bits, where there is no tolerance. */
function same(a: Partial<Step>, b: Step, tolerance = {}): void {
  for (const [name, value] of Object.entries(a)) {
    const other = b[name as keyof Step];
    if (value === null || typeof value === "number") expect(other, name).toBe(value);
    else expect(value, name).toBeAllclose(other as Vector, tolerance);
  }
}

type Three = [Vector, Vector, Vector];

const close = (dtype: Dtype) => (dtype === "float64" ? { rtol: 1e-11, atol: 1e-11 } : { rtol: 1e-5, atol: 1e-5 });

describe.each(WAYS)("$layout, $kind, $dtype", ({ layout, kind, dtype }) => {
  beforeAll(() => useBuild("simd"));
  const give = (size: readonly number[], values: ArrayLike<number>) =>
    mine(make(kind, ordered(size, layout), real(dtype, values)));
  const input = (seed: number, size: readonly number[], std = 1.5, mean = 1) =>
    give(size, normal(seed, sizeOf(size), std, mean));
  const part = (t: AnyTensor, size: readonly number[], begin: number, end: number) => {
    const one = sizeOf(size.slice(1));
    return give([end - begin, ...size.slice(1)], t.data.slice(begin * one, end * one) as Vector);
  };

  describe("ghost batches", () => {
    test.each([
      [[7, 3, 2], 3],
      [[7, 3, 2], 1],
      [[8, 3], 3],
      [[5, 3, 4, 3], 5],
      [[5, 3, 4, 3], 100],
      [[9, 3, 40, 40], 4],
      [[2100, 3], 1050],
    ])("of %j by %i are each what it is alone, bit for bit, one after the other", (size, ghostBatchSize) => {
      for (const activation of ["none", "relu", "silu"] as const) {
        const [x, dy, residual] = [input(1, size), input(2, size), input(3, size)];
        const with_ = activation === "silu" ? { residual } : {};
        const all = step(layer(dtype, { layout, ghostBatchSize, activation }), x, dy, with_ as LayerForwardOptions);
        const bn = layer(dtype, { layout, activation });
        const [dGamma, dBeta] = [new Float64Array(3), new Float64Array(3)];
        const one = sizeOf(size.slice(1));
        for (let n = 0; n < (size[0] as number); n += ghostBatchSize) {
          const end = Math.min(n + ghostBatchSize, size[0] as number);
          const own = activation === "silu" ? { residual: part(residual, size, n, end) } : {};
          const alone = step(bn, part(x, size, n, end), part(dy, size, n, end), own as LayerForwardOptions);
          const of = (v: Vector | null) => (v ? v.slice(n * one, end * one) : null);
          same({ y: of(all.y), dx: of(all.dx), dResidual: of(all.dResidual) }, alone);
          for (let c = 0; c < 3; c++) {
            dGamma[c] = (dGamma[c] as number) + (alone.dGamma?.[c] as number);
            dBeta[c] = (dBeta[c] as number) + (alone.dBeta?.[c] as number);
          }
        }
        expect(all.runningMean).toBeAllclose(bn.runningMean as Vector);
        expect(all.runningVariance).toBeAllclose(bn.runningVariance as Vector);
        expect(all.batchesTracked).toBe(Math.ceil((size[0] as number) / ghostBatchSize));
        // each alone was rounded to the vectors' type
        const tolerance = dtype === "float64" ? { rtol: 1e-13, atol: 1e-12 } : { rtol: 1e-5, atol: 1e-4 };
        expect(all.dGamma).toBeAllclose(dGamma, tolerance);
        expect(all.dBeta).toBeAllclose(dBeta, tolerance);
      }
    });

    test("the stateless forward does the same, and its mean and variance are the first's", () => {
      const size = [7, 3, 2];
      const [x, dy] = [input(1, size), input(2, size)];
      const bn = layer(dtype, { layout, ghostBatchSize: 3 });
      const { y, dx, dGamma, dBeta } = step(bn, x, dy);
      const { gamma, beta } = bn;
      const options = { layout, ghostBatchSize: 3 };
      const stateless = batchNormForward(x, { gamma, beta }, options);
      const gradients = batchNormBackward(dy, stateless.saved);
      expect(mine(stateless.y).data).toBeAllclose(y as Vector);
      expect(mine(gradients.dx).data).toBeAllclose(dx as Vector);
      expect(gradients.dGamma).toBeAllclose(dGamma as Vector);
      expect(gradients.dBeta).toBeAllclose(dBeta as Vector);
      const first = batchNormForward(part(x, size, 0, 3), {}, { layout });
      mine(first.y);
      expect(stateless.mean).toBeAllclose(first.mean);
      expect(stateless.variance).toBeAllclose(first.variance);
    });

    test("in eval and frozen there are none", () => {
      const [x, dy] = [input(1, [5, 3, 2]), input(2, [5, 3, 2])];
      for (const mode of ["eval", "frozen"] as const) {
        const plain = step(layer(dtype, { layout }), x, dy, { mode });
        same(step(layer(dtype, { layout, ghostBatchSize: 2 }), x, dy, { mode }), plain);
      }
    });

    test("a last one of one value per channel, and a non-finite one, throw before anything changes", () => {
      const bn = layer(dtype, { layout, ghostBatchSize: 2 });
      const before = bn.stateDict();
      const { used } = defaultHeap().usage;
      const [x, out] = [input(1, [5, 3]), input(2, [5, 3])];
      const junk = out.data.slice() as Vector;
      const message =
        /^Expected more than 1 value per channel when training, got input size 1×3 in mode "train", a ghost batch from sample 4 on: /;
      expect(() => bn.forward(x, { out })).toThrow(message);
      expect(() => batchNormForward(x, {}, { layout, ghostBatchSize: 2, out })).toThrow(message);
      const [longer, to] = [input(1, [6, 3]), input(3, [6, 3])];
      const kept = to.data.slice() as Vector;
      longer.data[15] = Number.NaN;
      const poisoned = longer.data.slice() as Vector;
      expect(() => bn.forward(longer, { out: to })).toThrow(/^running statistics: expected a finite batch mean/);
      expect(() => bn.forward(longer)).toThrow(/^running statistics: expected a finite batch mean/);
      expect(out.data).toBeAllclose(junk);
      expect(to.data).toBeAllclose(kept);
      expect(bn.stateDict()).toEqual(before);
      drop(...made.splice(0));
      expect(defaultHeap().usage.used).toBe(used);
      // "skip" leaves out the one
      const skipping = layer(dtype, { layout, ghostBatchSize: 2, onNonFinite: "skip" });
      mine(skipping.forward(give([6, 3], poisoned)));
      expect(skipping.batchesTracked).toBe(2);
    });
  });

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

  describe("scale and shift per sample", () => {
    test.each([[[4, 3]], [[3, 3, 5]], [[2, 3, 40, 40]], [[1, 3, 4]]])("of %j: every sample has its own", (size) => {
      const [n = 0] = size;
      const [x, dy] = [input(1, size), input(2, size)];
      const [gamma, beta] = [normal(5, n * 3), normal(6, n * 3)].map((v) => real(dtype, v)) as [Vector, Vector];
      for (const activation of ["none", "relu", "silu"] as const) {
        const got = step(layer(dtype, { layout, activation }), x, dy, { gamma, beta });
        // each sample by the batch's statistics
        const { mean, variance, y } = batchNormForward(x, {}, { layout });
        mine(y);
        const one = sizeOf(size.slice(1));
        const frozen = layer(dtype, { layout, epsilon: 0, activation });
        for (let i = 0; i < n; i++) {
          frozen.runningMean?.set(mean);
          frozen.runningVariance?.set(variance.map((v) => v + 1e-5));
          frozen.gamma?.set(gamma.slice(i * 3, i * 3 + 3));
          frozen.beta?.set(beta.slice(i * 3, i * 3 + 3));
          const own = step(frozen, part(x, size, i, i + 1), part(dy, size, i, i + 1), { mode: "frozen" });
          const of = (v: Vector | null, length: number) => (v ? v.slice(i * length, (i + 1) * length) : null);
          const wanted = { y: of(got.y, one), dGamma: of(got.dGamma, 3), dBeta: of(got.dBeta, 3) };
          same(wanted, own, dtype === "float64" ? { rtol: 1e-9, atol: 1e-9 } : { rtol: 1e-4, atol: 1e-3 });
        }
        const stateless = batchNormForward(x, { gamma, beta }, { layout, activation });
        const { dx, dGamma, dBeta } = batchNormBackward(dy, stateless.saved);
        const results = { y: mine(stateless.y).data, dx: mine(dx).data, dGamma, dBeta } as Partial<Step>;
        // a single sample's is the layer's own way to the stateless function
        same(results, got, n === 1 ? close(dtype) : {});
      }
    });

    test("the same for all samples is the layer's own, and the gradients of samples add up to its", () => {
      const size = [4, 3, 5];
      const [x, dy] = [input(1, size), input(2, size)];
      const plain = step(layer(dtype, { layout }), x, dy);
      const bn = layer(dtype, { layout });
      const rows = (v: Vector) =>
        real(
          dtype,
          Array.from({ length: 12 }, (_, i) => v[i % 3] as number),
        );
      const [gamma, beta] = [rows(bn.gamma as Vector), rows(bn.beta as Vector)];
      const both = step(bn, x, dy, { gamma, beta });
      const { y, dx } = plain;
      same({ y, dx }, both, close(dtype));
      const sum = (v: Vector | null) =>
        [0, 1, 2].map((c) => [0, 1, 2, 3].reduce((a, n) => a + (v?.[n * 3 + c] as number), 0));
      expect(sum(both.dGamma)).toBeAllclose(plain.dGamma as Vector, close(dtype));
      expect(sum(both.dBeta)).toBeAllclose(plain.dBeta as Vector, close(dtype));
      // one of the two: the other keeps the layer's vector, and its gradient that vector's shape
      for (const [name, other] of [
        ["gamma", "beta"],
        ["beta", "gamma"],
      ] as const) {
        const given = { [name]: { gamma, beta }[name] };
        const one = step(layer(dtype, { layout }), x, dy, given);
        same({ y, dx }, one, close(dtype));
        const [own, shared] = name === "gamma" ? [one.dGamma, one.dBeta] : [one.dBeta, one.dGamma];
        expect(own).toBeAllclose((name === "gamma" ? both.dGamma : both.dBeta) as Vector);
        expect(shared).toBeAllclose((name === "gamma" ? plain.dBeta : plain.dGamma) as Vector, close(dtype));
        const stateless = batchNormForward(x, { ...given, [other]: bn[other] }, { layout });
        const gradients = batchNormBackward(dy, stateless.saved);
        const results = { y: mine(stateless.y).data, dx: mine(gradients.dx).data } as Partial<Step>;
        same({ ...results, dGamma: gradients.dGamma, dBeta: gradients.dBeta } as Partial<Step>, one);
      }
      // a layer without them takes them all the same
      const bare = step(layer(dtype, { layout, affine: false }), x, dy, { gamma });
      expect([bare.dGamma?.length, bare.dBeta]).toEqual([12, null]);
    });

    test("is read in forward, and may change afterwards; gradients go where they are wanted", () => {
      const [x, dy] = [input(1, [4, 3, 5]), input(2, [4, 3, 5])];
      const [gamma, beta] = [normal(5, 12), normal(6, 12)].map((v) => real(dtype, v)) as [Vector, Vector];
      const bn = layer(dtype, { layout });
      mine(bn.forward(x, { gamma, beta, mode: "batch" }));
      const expected = bn.backward(dy);
      const dx = mine(expected.dx).data.slice() as Vector;
      gamma.fill(9);
      beta.fill(9);
      const outs = { dGammaOut: real(dtype, new Array(12).fill(1)), dBetaOut: real(dtype, new Array(12).fill(2)) };
      const again = bn.backward(dy, { ...outs, accumulate: true } as object);
      expect(mine(again.dx).data).toBeAllclose(dx);
      expect(again.dGamma).toBe(outs.dGammaOut);
      expect(outs.dGammaOut).toBeAllclose(
        (expected.dGamma as Vector).map((v) => v + 1),
        close(dtype),
      );
      expect(outs.dBetaOut).toBeAllclose(
        (expected.dBeta as Vector).map((v) => v + 2),
        close(dtype),
      );
      const some = bn.backward(dy, { needs: { dGamma: false, dBeta: false } });
      expect(mine(some.dx).data).toBeAllclose(dx);
      const sums = bn.backward(dy, { needs: { dx: false } });
      expect(sums.dGamma).toBeAllclose(expected.dGamma as Vector);
    });
  });

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

  test("an array that is a view of wasm memory may be the input, although the call grows that memory", async () => {
    const size = [4, 3, 30, 30];
    const shape = ordered(size, layout);
    const [xs, dys, residuals] = [1, 2, 3].map((seed) => real(dtype, normal(seed, sizeOf(size)))) as Three;
    const mask = Array.from({ length: 3600 }, (_, p) => p % 5 !== 0);
    const ways: [Options<Dtype>, LayerForwardOptions][] = [
      [{ renorm: { rMax: 2, dMax: 2 } }, {}],
      [{ ghostBatchSize: 2 }, {}],
      [{}, { mask }],
      [{}, { gamma: real(dtype, normal(5, 12)) }],
    ];
    /** The last thing in its memory. */
    const view = (values: Vector): AnyTensor => ({ data: make("tensor", shape, values).data, shape }) as AnyTensor;
    for (const [options, how] of ways) {
      const bn = layer(dtype, { layout, ...options });
      const residual = () => make(kind, shape, residuals) as TensorLike;
      await useBuild("simd");
      const given = residual();
      const [x, y] = [make("plain", shape, xs), bn.forward(make("plain", shape, xs), { ...how, residual: given })];
      const expected = y.data.slice() as Vector;
      await useBuild("simd");
      const [twin, own] = [layer(dtype, { layout, ...options }), residual()];
      expect(twin.forward(view(xs), { ...how, residual: own }).data).toBeAllclose(expected);
      expect(twin.runningMean).toBeAllclose(bn.runningMean as Vector);
      // in backward x is what it was, and dy the view
      const by = async (viewed: boolean) => {
        await useBuild("simd");
        const again = residual();
        bn.forward(x, { ...how, residual: again, mode: "batch" });
        const { dx, dResidual, dGamma } = bn.backward(viewed ? view(dys) : make("plain", shape, dys));
        return [dx?.data.slice(), dResidual?.data.slice(), dGamma] as Three;
      };
      const plain = await by(false);
      for (const [i, values] of (await by(true)).entries()) expect(values).toBeAllclose(plain[i] as Vector);
    }
  });
});

describe.each(LAYOUTS)("gradients, float64, %s", (layout) => {
  beforeAll(() => useBuild("simd"));
  const shape = ordered([4, 3, 5], layout);
  const dy = Float64Array.from(normal(2, 60));
  const h = 1e-5;
  const differences = (v: Float64Array, loss: () => number) =>
    Array.from(v, (was, i) => {
      const [up, down] = [1, -1].map((sign) => {
        v[i] = was + sign * h;
        return loss();
      }) as [number, number];
      v[i] = was;
      return (up - down) / (2 * h);
    });

  test.each(["none", "relu", "silu"] as const)(
    "of samples with a scale and shift of their own, in ghost batches (%s)",
    (activation) => {
      for (const options of [{}, { ghostBatchSize: 3 }]) {
        const v = {
          x: Float64Array.from(normal(1, 60, 2, 1)),
          gamma: Float64Array.from(normal(5, 12)),
          beta: Float64Array.from(normal(6, 12)),
        };
        const call = () => batchNormForward({ data: v.x, shape }, v, { layout, activation, ...options });
        const { x: data, ...parameters } = v;
        const forward = () => batchNormForward({ data, shape }, parameters, { layout, activation, ...options });
        expect(call).toThrow(TypeError); // x is no parameter
        const loss = () => forward().y.data.reduce((sum, value, i) => sum + value * (dy[i] as number), 0);
        const got = batchNormBackward({ data: dy, shape }, forward().saved);
        expect(got.dx?.data).toBeAllclose(differences(v.x, loss), { rtol: 1e-7, atol: 1e-7 });
        expect(got.dGamma).toBeAllclose(differences(v.gamma, loss), { rtol: 1e-7, atol: 1e-7 });
        expect(got.dBeta).toBeAllclose(differences(v.beta, loss), { rtol: 1e-7, atol: 1e-7 });
      }
    },
  );

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

// ---- everything at once ---------------------------------------------------------------------------------------------

const ACTIVATIONS: readonly ActivationName[] = ["none", "relu", "leaky_relu", "relu6", "silu"];

/** Half precision of some kind, as bits and as the values they stand for. */
const bfloat16 = (values: ArrayLike<number>) =>
  Uint16Array.from(new Uint32Array(Float32Array.from(values).buffer), (bits) => bits >>> 16);
const widened = (bits: ArrayLike<number>) => new Float32Array(Uint32Array.from(bits, (b) => b << 16).buffer);

/** A call at random, as the layer and the oracle take it. */
function anyCall(seed: number) {
  const next = random(seed * 7919 + 1);
  const pick = <const T>(list: readonly T[]): T => list[Math.floor(next() * list.length)] as T;
  const layout = pick<Layout>(LAYOUTS);
  const kind = pick<Kind>(["plain", "tensor"]);
  const dtype = pick(["float32", "float32", "float64", "bfloat16"] as const);
  const size = pick([
    [2, 3],
    [7, 3],
    [40, 3],
    [4, 3, 1],
    [5, 3, 7],
    [3, 3, 40],
    [4, 3, 2, 3],
    [3, 3, 6, 6],
    [2, 3, 2, 2, 3],
  ] as const);
  const [samples] = size;
  const positions = samples * sizeOf(size.slice(2));
  const conditional = next() < 0.25;
  const masked = !conditional && next() < 0.6 ? pick(["booleans", "samples", "weights", "lengths"] as const) : "none";
  const inner = positions / samples;
  const lengths = Array.from({ length: samples }, () => Math.floor(next() * (inner + 1)));
  const weightBy: Record<typeof masked, (p: number) => number> = {
    none: () => 1,
    booleans: () => (next() < 0.7 ? 1 : 0),
    samples: (p) => ((Math.floor(p / inner) * 5 + seed) % 3 ? 1 : 0),
    weights: () => (next() < 0.3 ? 0 : 0.25 + 2 * next()),
    lengths: (p) => (size.length === 3 && p % inner < (lengths[Math.floor(p / inner)] as number) ? 1 : 0),
  };
  const weights = Array.from({ length: positions }, (_, p) => weightBy[masked](p));
  const masks: Record<typeof masked, Mask | undefined> = {
    none: undefined,
    booleans: weights.map((w) => w > 0),
    samples: weights,
    weights: Float64Array.from(weights),
    lengths: size.length === 3 ? { lengths } : weights,
  };
  const ghostBatchSize = pick([undefined, undefined, 1, 2, 3]);
  const renorm = pick([undefined, undefined, { rMax: 1.2, dMax: 0.3 }, { rMax: 5, dMax: 5 }]);
  const mode = pick(["train", "train", "batch", "frozen"] as const);
  const activation = pick(ACTIVATIONS);
  const affine = next() < 0.8;
  const residual = next() < 0.4;
  const outs = next() < 0.5;
  return {
    layout,
    kind,
    dtype,
    size,
    conditional,
    masked,
    weights,
    mask: masks[masked],
    ghostBatchSize,
    renorm,
    mode,
    activation,
    affine,
    residual,
    outs,
  };
}

/** Largest error in units of what can be had: u × the largest condition scale of the channel. */
function errorOf(
  got: ArrayLike<number>,
  expected: Float64Array,
  scale: Float64Array,
  u: number,
  channel: (i: number) => number,
) {
  const largest = new Map<number, number>();
  scale.forEach((s, i) => {
    largest.set(channel(i), Math.max(largest.get(channel(i)) ?? 0, s));
  });
  let worst = 0;
  expected.forEach((e, i) => {
    const error = Math.abs((got[i] as number) - e);
    if (error > 0) worst = Math.max(worst, error / (u * (largest.get(channel(i)) as number)));
    if (Number.isNaN(error)) worst = Infinity;
  });
  expect(got.length).toBe(expected.length);
  return worst;
}

describe("700 calls at random, by the layer and by plain loops", () => {
  beforeAll(async () => {
    await useBuild("simd");
    // the workspace grows once, to what these need
    batchNormForward({ data: normal(1, 40 * 3 * 31), shape: [40, 3, 31] });
  });
  const seen = { worst: new Map<string, number>(), threw: 0, combined: 0 };

  test.each(Array.from({ length: 28 }, (_, i) => ({ from: i * 25 })))("from number $from on", ({ from }) => {
    for (let seed = from; seed < from + 25; seed++) {
      const call = anyCall(seed);
      const { layout, kind, dtype, size, weights, activation } = call;
      const shape = ordered(size, layout);
      const narrow = dtype === "bfloat16";
      const values = (s: number, std: number, mean: number) => {
        const v = normal(seed * 10 + s, sizeOf(size), std, mean);
        return narrow ? widened(bfloat16(v)) : v;
      };
      const input = { x: values(1, 1.5, 0.7), dy: values(2, 1, 0), residual: values(3, 1, 0) };
      const give = (v: ArrayLike<number>): TensorLike<Dtype> => {
        if (!narrow) return make(kind, shape, real(dtype, v)) as TensorLike<Dtype>;
        const plain = { data: bfloat16(v), shape, dtype } as TensorLike<Dtype>;
        return kind === "plain" ? plain : tensor(shape, plain.data as Uint16Array, { dtype });
      };
      const read = (t: AnyTensor | undefined) => (narrow ? widened(t?.data ?? []) : (t?.data.slice() as Vector));
      const ghost = call.ghostBatchSize;
      const bn = layer(dtype, {
        layout,
        activation,
        affine: call.affine,
        ...(ghost && { ghostBatchSize: ghost }),
        ...(call.renorm && { renorm: call.renorm }),
      });
      const rows = call.conditional
        ? { gamma: normal(seed + 5, size[0] * 3), beta: normal(seed + 6, size[0] * 3) }
        : {};
      const perSample = call.conditional
        ? { gamma: real(dtype, rows.gamma ?? []), beta: real(dtype, rows.beta ?? []) }
        : {};
      const problem: Problem = {
        shape,
        layout,
        epsilon: 1e-5,
        ...input,
        residual: call.residual ? input.residual : undefined,
        gamma: rows.gamma ?? bn.gamma,
        beta: rows.beta ?? bn.beta,
        activation,
        weights,
        ghostBatchSize: call.mode === "frozen" ? undefined : ghost,
        renorm: call.renorm && {
          ...call.renorm,
          ...{ mean: real(dtype, RUNNING.mean), variance: real(dtype, RUNNING.variance) },
        },
        constant:
          call.mode === "frozen"
            ? { mean: real(dtype, RUNNING.mean), variance: real(dtype, RUNNING.variance) }
            : undefined,
      };
      const expected = solve(problem);
      const { used } = defaultHeap().usage;
      const before = bn.stateDict();
      const own = { x: give(input.x), dy: give(input.dy), residual: give(input.residual) };
      const [out, dxOut] = [give(input.x), give(input.dy)];
      const all = [own.x, own.dy, own.residual, out, dxOut];
      const options = {
        mode: call.mode,
        ...perSample,
        ...(call.mask !== undefined && { mask: call.mask }),
        ...(call.residual && { residual: own.residual }),
        ...(call.outs && { out }),
      };
      const inner = weights.length / size[0];
      const kept = expected.batches.map((_, k) => {
        const step_ = problem.ghostBatchSize ?? size[0];
        return weights.slice(k * step_ * inner, (k + 1) * step_ * inner).filter((w) => w > 0).length;
      });
      const few = call.mode !== "frozen" && kept.includes(1);
      const light = call.mode === "train" && expected.batches.some(({ count }) => count > 0 && count <= 1);
      if (few || light) {
        expect(() => bn.forward(own.x, options)).toThrow(
          few ? /more than 1 value per channel/ : /^mask: expected weights/,
        );
        expect(bn.stateDict()).toEqual(before);
        expect(read(out)).toBeAllclose(input.x);
        seen.threw++;
        drop(...all);
        expect(defaultHeap().usage.used).toBe(used);
        continue;
      }
      const name = JSON.stringify({ seed, ...call, weights: undefined, mask: undefined });
      const y = bn.forward(own.x, options);
      const g = bn.backward(own.dy, call.outs ? { dxOut } : {});
      if (call.outs) expect([y === out, g.dx === dxOut]).toEqual([true, true]);
      // of 16-bit elements one rounding, which is all that there is, and a tenth
      const u = dtype === "float64" ? 2 ** -53 : narrow ? 2 ** -8 : 2 ** -24;
      const channel = (i: number) => (layout === "channels-last" ? i % 3 : Math.floor(i / inner) % 3);
      const check = (
        what: string,
        got: ArrayLike<number> | undefined,
        e: Float64Array,
        s: Float64Array,
        by: (i: number) => number,
        gate: number,
      ) => {
        const worst = errorOf(got ?? [], e, s, u, by);
        seen.worst.set(`${dtype} ${what}`, Math.max(seen.worst.get(`${dtype} ${what}`) ?? 0, worst));
        expect(worst, `${what} of ${name}`).toBeLessThanOrEqual(gate);
      };
      const gate = narrow ? 1.1 : dtype === "float64" ? 16 : 4;
      check("y", read(y), expected.y, expected.yScale, channel, gate);
      check("dx", read(g.dx), expected.dx, expected.dxScale, channel, gate);
      if (call.residual)
        check("dResidual", read(g.dResidual), expected.dResidual, expected.dResidualScale, channel, gate);
      else expect(g.dResidual).toBe(undefined);
      const wide = (v: Vector | undefined) => Float64Array.from(v ?? []);
      if (problem.gamma) check("dGamma", wide(g.dGamma), expected.dGamma, expected.dGammaScale, (i) => i % 3, gate);
      else expect(g.dGamma).toBe(undefined);
      if (problem.beta) check("dBeta", wide(g.dBeta), expected.dBeta, expected.dBetaScale, (i) => i % 3, gate);
      else expect(g.dBeta).toBe(undefined);
      const running = { mean: [...RUNNING.mean], variance: [...RUNNING.variance] };
      const taken = call.mode === "train" ? expected.batches.filter(({ count }) => count > 0) : [];
      for (const { count, mean, variance } of taken)
        for (let c = 0; c < 3; c++) {
          running.mean[c] = 0.75 * (running.mean[c] as number) + 0.25 * (mean[c] as number);
          running.variance[c] =
            0.75 * (running.variance[c] as number) + (0.25 * (variance[c] as number) * count) / (count - 1);
        }
      const tolerance = dtype === "float64" ? { rtol: 1e-12, atol: 1e-13 } : { rtol: 1e-6, atol: 1e-6 };
      expect(bn.runningMean, name).toBeAllclose(running.mean, tolerance);
      expect(bn.runningVariance, name).toBeAllclose(running.variance, tolerance);
      expect(bn.batchesTracked).toBe(taken.length);
      if (call.masked !== "none" && ghost && call.renorm) seen.combined++;
      drop(...all, y, g.dx, g.dResidual);
      expect(defaultHeap().usage.used, `memory of ${name}`).toBe(used);
    }
  });

  test("were of every kind", () => {
    expect(seen.threw).toBeGreaterThan(20);
    expect(seen.combined).toBeGreaterThan(30);
    expect([...seen.worst.keys()].length).toBe(15);
  });
});

describe("memory", () => {
  test("that is exhausted in the middle of a call is an error, and nothing is kept or changed", async () => {
    await useBuild("simd");
    const { build } = defaultHeap();
    const shape = [40, 3, 100];
    const heap = new WasmHeap(build, { maximumPages: 5 });
    const inHeap = (seed: number) => {
      const t = new Tensor(heap, shape, 12_000, "float32");
      t.data.set(normal(seed, 12_000));
      return t;
    };
    const [x, dy, out] = [inHeap(1), inHeap(2), inHeap(3)];
    const bn = new BatchNorm(3);
    const mask = Array.from({ length: 4000 }, (_, p) => p % 3 !== 0);
    bn.forward(x, { mask, out });
    const junk = normal(3, 12_000);
    const state = bn.stateDict();
    const free = heap.usage;
    // room for less and less
    let failures = 0;
    const held: number[] = [];
    const mayFail = (call: () => unknown) => {
      const { used } = heap.usage;
      try {
        call();
      } catch (error) {
        failures++;
        expect(error).toMatchObject({ code: "out-of-memory" });
        expect(out.data).toBeAllclose(junk);
      }
      out.data.set(junk);
      expect(heap.usage.used).toBe(used);
      expect(bn.stateDict()).toEqual(state);
    };
    out.data.set(junk);
    for (;;) {
      mayFail(() => bn.backward(dy, { dxOut: out }));
      mayFail(() => bn.forward(x, { mask, out, mode: "batch" }));
      try {
        held.push(heap.allocate(4096));
      } catch {
        break;
      }
    }
    for (const block of held) heap.free(block);
    expect(failures).toBeGreaterThan(20);
    expect(heap.usage.used).toBe(free.used);
  });
});
