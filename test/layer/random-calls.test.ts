// Calls with random combinations of ghost batches, Batch Renormalization, scale and shift per sample, masks,
// activations, residuals and element types, against the oracle's plain loops.

import { beforeAll, describe, expect, test } from "vitest";
import {
  type AnyTensor,
  batchNormForward,
  type Dtype,
  type Layout,
  type Mask,
  type TensorLike,
  tensor,
  type Vector,
} from "../../src/index.ts";
import { defaultHeap } from "../../src/memory/heap.ts";
import { ACTIVATIONS } from "../support/activations.ts";
import { errorOf, type Problem, solve } from "../support/reference.ts";
import { layer, RUNNING } from "../support/variants.ts";
import { drop, type Kind, LAYOUTS, make, normal, ordered, random, real, sizeOf, useBuild } from "../support/worlds.ts";

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
        ? { perSample: { gamma: real(dtype, rows.gamma ?? []), beta: real(dtype, rows.beta ?? []) } }
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
