// class BatchNorm on arrays and on tensors. Both have the same bits. Memory that two arguments share causes an error or
// correct results, and calls allocate wasm memory as documented.

import { afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { BatchNorm, type PlainTensor, Tensor, type TensorLike, tensor } from "../../src/index.ts";
import { defaultHeap } from "../../src/memory/heap.ts";
import { CLOSE, inputs, layer, MODES, oracle, SIZE, valuesOf } from "../support/batchnorm.ts";
import { dropMade, mine } from "../support/made.ts";
import { BUILDS, drop, LAYOUTS, normal, ordered, useBuild } from "../support/worlds.ts";

afterEach(dropMade);

describe.each(BUILDS.flatMap((build) => LAYOUTS.map((layout) => ({ build, layout }))))(
  "BatchNorm by kind ($build, $layout)",
  ({ build, layout }) => {
    beforeAll(() => useBuild(build));
    const [plain, inWasm] = [inputs("plain", layout), inputs("tensor", layout)];
    const refused = (call: () => unknown, message: RegExp) => {
      expect(call).toThrow(expect.objectContaining({ name: "BatchNormError", code: "in-place" }) as Error);
      expect(call).toThrow(message);
    };

    test("the kind of input changes no bit of any result", () => {
      const results = [plain, inWasm].map(({ input, junk }) => {
        const bn = layer({ layout });
        const y = bn.forward(input(1), { out: junk() });
        return [y.data, ...valuesOf(bn.backward(input(2), { dxOut: junk() })), bn.stateDict()];
      });
      expect(results[1]).toEqual(results[0]);
    });

    test("dx is of dy's kind, whichever kind x was", () => {
      for (const [x, dy] of [
        [plain.input(1), inWasm.input(2)],
        [inWasm.input(1), plain.input(2)],
      ] as const) {
        const bn = layer({ layout });
        const expected = oracle(bn, x, dy, "batch");
        mine(bn.forward(x));
        const dx = mine(bn.backward(dy).dx as TensorLike);
        expect(dx instanceof Tensor).toBe(dy instanceof Tensor);
        expect(dx.data).toBeAllclose(expected.dx, CLOSE);
      }
    });

    test("a plain x is not copied: backward reads it where it is", () => {
      const [bn, twin] = [layer({ layout }), layer({ layout })];
      const x = plain.input(1);
      bn.forward(x);
      x.data.set(plain.input(3).data);
      const { dGamma } = bn.backward(plain.input(2));
      twin.forward(plain.input(1));
      expect(dGamma).not.toEqual(twin.backward(plain.input(2)).dGamma);
    });

    test("a plain x may be a view of wasm memory, although the call grows that memory", async () => {
      await useBuild(build);
      const values = normal(1, 3 * 4000);
      const [t, twin] = [mine(tensor(ordered([4000, 3], layout), values)), layer({ layout })];
      const { capacity } = defaultHeap().usage;
      const y = layer({ layout }).forward({ data: t.data, shape: t.shape });
      expect(defaultHeap().usage.capacity).toBeGreaterThan(capacity);
      expect(y.data).toEqual(twin.forward({ data: values, shape: [4000, 3] }).data);
    });

    test.each(["train", "batch", "frozen"] as const)(
      "x is refused as `out` in mode %s and as dxOut after it",
      (mode) => {
        for (const { input } of [plain, inWasm]) {
          const bn = layer({ layout });
          const [x, dy] = [input(1), input(2)];
          const [before, state] = [x.data.slice(), bn.stateDict()];
          refused(() => bn.forward(x, { mode, out: x }), /^out: expected other memory than x .*needs.* "eval"$/);
          expect(bn.stateDict()).toEqual(state);
          mine(bn.forward(x, { mode }));
          refused(() => bn.backward(dy, { dxOut: x }), /^dxOut: expected other memory than x, .* or dy/);
          expect(x.data).toEqual(before);
        }
      },
    );

    test("a plain destination that overlaps its source in part is refused in every mode", () => {
      const { shape, data } = plain.input(1);
      const buffer = new Float32Array(data.length + 1);
      const [a, b] = [buffer.subarray(1), buffer.subarray(0, data.length)];
      a.set(data);
      const bn = layer({ layout });
      for (const mode of ["eval", "frozen", "train", "batch"] as const)
        refused(() => bn.forward({ data: a, shape }, { mode, out: { data: b, shape } }), /^out: expected /);
      bn.forward(plain.input(2));
      refused(
        () => bn.backward({ data: a, shape }, { dxOut: { data: b, shape } }),
        /^dxOut: expected memory of its own, or exactly dy's, got an array that overlaps dy in part; pass another/,
      );
      expect(a).toEqual(data);
      // the same bytes through another view are the same memory
      const same = new Float32Array(buffer.buffer, a.byteOffset, a.length);
      const expected = bn.forward(plain.input(1), { mode: "eval" }).data;
      expect(bn.forward({ data: a, shape }, { mode: "eval", out: { data: same, shape } }).data).toEqual(expected);
    });

    test("NaN in the last of many tiles: the input and the statistics are as before", () => {
      const shape = layout === "channels-last" ? [20, 60, 60, 8] : [20, 8, 60, 60];
      const data = normal(1, 20 * 60 * 60 * 8);
      data[data.length - 1] = Number.NaN;
      const out = { data: new Float32Array(data.length), shape };
      const x = data.slice();
      const bn = new BatchNorm(8, { layout });
      const state = bn.stateDict();
      expect(() => bn.forward({ data, shape }, { out })).toThrow(
        expect.objectContaining({ code: "non-finite-statistics" }) as Error,
      );
      expect(data).toEqual(x);
      expect(bn.stateDict()).toEqual(state);
    });

    // both take many tiles: 288 KB a channel, or more than a megabyte of rows
    test("a plain input of many tiles gives the bits of a tensor, in little memory", async () => {
      await useBuild(build);
      const [channels, extent] = [24, [20, 60, 60]];
      const [n, h, w] = extent as [number, number, number];
      const shape = layout === "channels-last" ? [n, h, w, channels] : [n, channels, h, w];
      const length = n * h * w * channels;
      const [xs, dys] = [normal(1, length, 1, 3), normal(2, length)];
      const junk = () => ({ data: new Float32Array(length).fill(Number.NaN), shape });
      const run = (x: TensorLike, dy: TensorLike, make: () => TensorLike) => {
        const bn = new BatchNorm(channels, { layout });
        const results: (ArrayLike<number> | undefined)[] = [];
        for (const mode of ["train", "batch", "frozen", "eval"] as const) {
          const y = bn.forward(x, { mode, out: make() });
          const { dx, dGamma, dBeta } = bn.backward(dy, { dxOut: make() });
          results.push(y.data.slice(), dx?.data.slice(), dGamma, dBeta);
          drop(y, dx);
        }
        const inPlace = make();
        inPlace.data.set(xs);
        results.push(bn.forward(inPlace, { mode: "eval", out: inPlace }).data.slice());
        results.push(bn.runningMean as Float32Array, bn.runningVariance as Float32Array);
        drop(inPlace);
        return results;
      };
      const before = defaultHeap().usage.capacity;
      const arrays = run({ data: xs, shape }, { data: dys, shape }, junk);
      expect(defaultHeap().usage.capacity - before).toBeLessThan(length); // a quarter of one tensor's bytes
      const [x, dy] = [tensor(shape, xs), tensor(shape, dys)];
      const tensors = run(x, dy, () => tensor(shape));
      // toEqual would take minutes
      for (const [i, result] of tensors.entries()) expect(result).toBeAllclose(arrays[i] as ArrayLike<number>);
      drop(x, dy);
    });

    test("after x was overwritten by its y, in mode eval, there is nothing to differentiate", () => {
      for (const { input } of [plain, inWasm]) {
        const bn = layer({ layout });
        const x = input(1);
        mine(bn.forward(x));
        bn.forward(x, { mode: "eval", out: x });
        expect(() => bn.backward(input(2))).toThrow(expect.objectContaining({ code: "no-forward" }) as Error);
      }
    });

    test("with tensors and outputs given, a step allocates nothing in wasm memory", () => {
      const bn = layer({ layout });
      const sizes = [SIZE, [4, 3], [2, 3, 100], [200, 3, 2]];
      const steps = sizes.map((size, i) => ({
        x: inWasm.input(i, size),
        dy: inWasm.input(i + 10, size),
        out: inWasm.junk(size),
        dxOut: inWasm.junk(size),
      })) as Record<"x" | "dy" | "out" | "dxOut", Tensor>[];
      const gradients = { dGammaOut: new Float32Array(3), dBetaOut: new Float32Array(3) };
      const run = () => {
        for (const { x, dy, out, dxOut } of steps)
          for (const { mode } of MODES) {
            bn.forward(x, { mode, out });
            bn.backward(dy, { dxOut, ...gradients });
            bn.forward(x, { mode, out });
            bn.backward(dy, { dxOut, ...gradients, accumulate: true, needs: { dx: false } });
          }
      };
      run();
      const heap = defaultHeap();
      const before = heap.usage;
      const allocate = vi.spyOn(heap, "allocate");
      run();
      expect(allocate).not.toHaveBeenCalled();
      expect(heap.usage).toEqual(before);
      allocate.mockRestore();
    });

    test("with plain input, memory stays at the level of the first step", () => {
      const bn = layer({ layout });
      const [x, dy] = [plain.input(1), plain.input(2)] as [PlainTensor, PlainTensor];
      const levels = [1, 2, 3, 4].map(() => {
        bn.forward(x);
        bn.backward(dy);
        bn.forward(x, { mode: "eval" });
        return defaultHeap().usage;
      });
      expect(levels.slice(1)).toEqual([levels[0], levels[0], levels[0]]);
    });
  },
);
