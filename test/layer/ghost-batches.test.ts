// Ghost batches. Each of them has the bits of the same samples in a call of their own. Some modes have no ghost
// batches.

import { afterEach, beforeAll, describe, expect, test } from "vitest";
import { batchNormBackward, batchNormForward, type LayerForwardOptions, type Vector } from "../../src/index.ts";
import { defaultHeap } from "../../src/memory/heap.ts";
import { dropMade, made, mine } from "../support/made.ts";
import { inputsIn, layer, same, step } from "../support/variants.ts";
import { drop, sizeOf, useBuild, WAYS } from "../support/worlds.ts";

afterEach(dropMade);

describe.each(WAYS)("$layout, $kind, $dtype", ({ layout, kind, dtype }) => {
  beforeAll(() => useBuild("simd"));
  const { give, input, part } = inputsIn({ layout, kind, dtype });

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

    test("a last one of one value per channel, and a non-finite one, throw and leave the layer as it was", () => {
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
      longer.data[15] = Number.NaN;
      const poisoned = longer.data.slice() as Vector;
      expect(() => bn.forward(longer, { out: to })).toThrow(/^running statistics: expected a finite batch mean/);
      expect(() => bn.forward(longer)).toThrow(/^running statistics: expected a finite batch mean/);
      expect(out.data).toBeAllclose(junk);
      expect(bn.stateDict()).toEqual(before);
      drop(...made.splice(0));
      expect(defaultHeap().usage.used).toBe(used);
      // "skip" leaves out the one
      const skipping = layer(dtype, { layout, ghostBatchSize: 2, onNonFinite: "skip" });
      mine(skipping.forward(give([6, 3], poisoned)));
      expect(skipping.batchesTracked).toBe(2);
    });
  });
});
