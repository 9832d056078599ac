// Memory that grows or is exhausted during a call with ghost batches, renorm, a mask or scale and shift per sample.
// Growth does not change the results. A call that fails changes nothing and frees its memory.

import { beforeAll, describe, expect, test } from "vitest";
import {
  type AnyTensor,
  BatchNorm,
  type Dtype,
  type LayerForwardOptions,
  type Options,
  Tensor,
  type TensorLike,
  type Vector,
} from "../../src/index.ts";
import { defaultHeap, WasmHeap } from "../../src/memory/heap.ts";
import { layer } from "../support/variants.ts";
import { make, normal, ordered, real, sizeOf, useBuild, WAYS } from "../support/worlds.ts";

type Three = [Vector, Vector, Vector];

describe.each(WAYS)("$layout, $kind, $dtype", ({ layout, kind, dtype }) => {
  beforeAll(() => useBuild("simd"));

  test("an array that is a view of wasm memory may be the input, although the call grows that memory", async () => {
    const size = [4, 3, 30, 30];
    const shape = ordered(size, layout);
    const [xs, dys, residuals] = [1, 2, 3].map((seed) => real(dtype, normal(seed, sizeOf(size)))) as Three;
    const mask = Array.from({ length: 3600 }, (_, p) => p % 5 !== 0);
    const ways: [Options<Dtype>, LayerForwardOptions][] = [
      [{ renorm: { rMax: 2, dMax: 2 } }, {}],
      [{ ghostBatchSize: 2 }, {}],
      [{}, { mask }],
      [{}, { perSample: { gamma: real(dtype, normal(5, 12)) } }],
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
    const { saved } = bn;
    for (;;) {
      mayFail(() => bn.backward(dy, { dxOut: out, saved }));
      mayFail(() => bn.forward(x, { mask, out, mode: "batch" }));
      try {
        held.push(heap.allocate(4096));
      } catch {
        break;
      }
    }
    for (const block of held) heap.free(block);
    expect(failures).toBeGreaterThan(10); // a masked call needs room for weights only
    expect(heap.usage.used).toBe(free.used);
  });
});
