// class BatchNorm in every world: the results and state changes of each mode, the destinations of results, and data
// that a call must not change.

import { afterEach, beforeAll, describe, expect, test } from "vitest";
import { type BatchNorm, type Gradients, Tensor, type TensorLike } from "../../src/index.ts";
import { defaultHeap } from "../../src/memory/heap.ts";
import { CLOSE, inputs, layer, MODES, oracle, SIZE, valuesOf } from "../support/batchnorm.ts";
import { dropMade, made, mine } from "../support/made.ts";
import { drop, LAYOUTS, useBuild, WORLDS } from "../support/worlds.ts";

const EVERYWHERE = WORLDS.flatMap((world) => LAYOUTS.map((layout) => ({ ...world, layout })));

afterEach(dropMade);

describe.each(EVERYWHERE)("BatchNorm ($build, $kind, $layout)", ({ build, kind, layout }) => {
  beforeAll(() => useBuild(build));
  const { input, junk } = inputs(kind, layout);

  describe.each(MODES)("in mode $mode", ({ mode, from, updates }) => {
    test.each([
      [[6, 5]],
      [[200, 3]],
      [[3, 4, 6]],
      [[9, 5, 1, 1]],
      [[4, 3, 7, 5]],
      [[3, 2, 3, 50]],
      [[130, 18, 1, 2]],
      [[2, 3, 2, 3, 4]],
      [[2, 2, 3, 1, 2, 2]],
    ])(`a batch of %j is normalised, and differentiated, by the ${from} statistics`, (size) => {
      const bn = layer({ layout, momentum: 0.25 }, size[1]);
      const [x, dy] = [input(1, size), input(2, size)];
      const expected = oracle(bn, x, dy, from);
      const before = bn.stateDict();
      const y = bn.forward(x, { mode });
      expect(y.data).toBeAllclose(expected.y, CLOSE);
      const { dx, dGamma, dBeta } = bn.backward(dy);
      expect(dx?.data).toBeAllclose(expected.dx, CLOSE);
      expect(dGamma).toBeAllclose(expected.dGamma, CLOSE);
      expect(dBeta).toBeAllclose(expected.dBeta, CLOSE);
      expect([bn.dGamma, bn.dBeta]).toEqual([dGamma, dBeta]);
      mine(y);
      mine(dx as TensorLike);
      const old = before.running_mean as Float32Array;
      if (updates)
        expect(bn.runningMean).toBeAllclose(
          old.map((v, c) => 0.75 * v + 0.25 * (expected.mean[c] as number)),
          CLOSE,
        );
      else expect(bn.stateDict()).toEqual(before);
      expect(bn.batchesTracked).toBe(updates ? 1 : 0);
    });

    test("the result is new and of the input's kind, or the given `out` and `dxOut` with the same values", () => {
      const bn = layer({ layout, momentum: 0 });
      const [x, dy, out, dxOut] = [input(1), input(2), junk(), junk()];
      const [xBefore, dyBefore] = [x.data.slice(), dy.data.slice()];
      const y = mine(bn.forward(x, { mode }));
      const dx = mine(bn.backward(dy).dx as TensorLike);
      for (const [result, like] of [
        [y, x],
        [dx, dy],
      ] as const) {
        expect(result).not.toBe(like);
        expect(result instanceof Tensor).toBe(kind === "tensor");
        expect(result.data.buffer === like.data.buffer).toBe(kind === "tensor");
        expect(result.shape).toEqual(x.shape);
      }
      expect(bn.forward(x, { mode, out })).toBe(out);
      expect(out.data).toEqual(y.data);
      expect(bn.backward(dy, { dxOut }).dx).toBe(dxOut);
      expect(dxOut.data).toEqual(dx.data);
      expect([x.data, dy.data]).toEqual([xBefore, dyBefore]);
    });

    test("dxOut may be dy itself", () => {
      const bn = layer({ layout });
      const dy = input(2);
      mine(bn.forward(input(1), { mode }));
      const expected = bn.backward(dy);
      mine(expected.dx as TensorLike);
      const values = valuesOf(expected);
      const inPlace = bn.backward(dy, { saved: bn.saved, dxOut: dy });
      expect(inPlace.dx).toBe(dy);
      expect(valuesOf(inPlace)).toEqual(values);
    });

    test.each([0, 1, 2, 3, 4, 5, 6, 7])("backward computes what it needs and no more (%i)", (bits) => {
      const needs = { dx: (bits & 1) !== 0, dGamma: (bits & 2) !== 0, dBeta: (bits & 4) !== 0 };
      const bn = layer({ layout });
      const [dy, dxOut] = [input(2), junk()];
      const [dGammaOut, dBetaOut] = [new Float32Array(3).fill(5), new Float32Array(3).fill(6)];
      mine(bn.forward(input(1), { mode }));
      const [dx, dGamma, dBeta] = valuesOf(bn.backward(dy, { dxOut: junk() }));
      const some = bn.backward(dy, { saved: bn.saved, needs, dxOut, dGammaOut, dBetaOut });
      expect(Object.keys(some).sort()).toEqual(
        Object.keys(needs)
          .filter((k) => needs[k as keyof typeof needs])
          .sort(),
      );
      expect(dxOut.data).toEqual(needs.dx ? dx : junk().data);
      expect(dGammaOut).toEqual(needs.dGamma ? dGamma : new Float32Array(3).fill(5));
      expect(dBetaOut).toEqual(needs.dBeta ? dBeta : new Float32Array(3).fill(6));
    });

    test.each([{ scale: false }, { shift: false }, { affine: false }])(
      "with %j a parameter that is missing counts as 1 or 0 and has no gradient",
      (options) => {
        const bn = layer({ layout, ...options });
        const [x, dy] = [input(1), input(2)];
        const expected = oracle(bn, x, dy, from);
        expect(bn.forward(x, { mode, out: junk() }).data).toBeAllclose(expected.y, CLOSE);
        const result = bn.backward(dy, { dxOut: junk() });
        expect(result.dx?.data).toBeAllclose(expected.dx, CLOSE);
        expect(Object.keys(result)).toEqual(["dx", ...(bn.gamma ? ["dGamma"] : []), ...(bn.beta ? ["dBeta"] : [])]);
        expect([bn.dGamma, bn.dBeta]).toEqual([result.dGamma, result.dBeta]);
        if (bn.gamma) expect(result.dGamma).toBeAllclose(expected.dGamma, CLOSE);
        if (bn.beta) expect(result.dBeta).toBeAllclose(expected.dBeta, CLOSE);
      },
    );

    test("what is written between forward and backward does not matter: parameters, statistics, y", () => {
      const [bn, twin] = [layer({ layout }), layer({ layout })];
      const [x, dy] = [input(1), input(2)];
      const y = bn.forward(x, { mode, out: junk() });
      twin.forward(x, { mode, out: junk() });
      bn.gamma?.fill(9);
      bn.beta = new Float32Array(3).fill(9);
      bn.runningMean?.fill(9);
      bn.runningVariance = new Float32Array(3).fill(9);
      bn.eval();
      y.data.fill(9);
      expect(valuesOf(bn.backward(dy, { dxOut: junk() }))).toEqual(valuesOf(twin.backward(dy, { dxOut: junk() })));
      // and the next forward sees what was written
      const after = oracle(bn, x, dy, from);
      expect(bn.forward(x, { mode, out: junk() }).data).toBeAllclose(after.y, CLOSE);
    });

    test.each([[[0, 3]], [[0, 3, 2, 2]], [[2, 3, 0, 2]], [[0, 3, 0]]])(
      "an empty batch of %j has empty results and zeros for gradients, and changes no state",
      (size) => {
        const bn = layer({ layout });
        bn.forward(input(1), { mode: "train", out: junk() });
        const before = bn.stateDict();
        const x = input(1, size);
        const y = mine(bn.forward(x, { mode }));
        expect([y.data, y.shape]).toEqual([new Float32Array(0), x.shape]);
        const { dx, dGamma, dBeta } = bn.backward(input(2, size), { dGammaOut: new Float32Array(3).fill(5) });
        expect([dx?.data, dx?.shape]).toEqual([new Float32Array(0), x.shape]);
        expect([dGamma, dBeta]).toEqual([new Float32Array(3), new Float32Array(3)]);
        mine(dx as TensorLike);
        const kept = [Float32Array.of(1, 2, 3), Float32Array.of(4, 5, 6)] as const;
        const [dGammaOut, dBetaOut] = kept.map((vector) => vector.slice()) as [Float32Array, Float32Array];
        const again = { saved: bn.saved, needs: { dx: false } } as const;
        bn.backward(input(2, size), { ...again, accumulate: true, dGammaOut, dBetaOut });
        expect([dGammaOut, dBetaOut]).toEqual(kept);
        expect(bn.stateDict()).toEqual(before);
      },
    );
  });

  test("train() and eval() set the mode of a forward that names none; a named one is for that call only", () => {
    const bn = layer({ layout, momentum: 0 });
    const x = input(1);
    const by = (options: object) => bn.forward(x, { ...options, out: junk() }).data.slice();
    const [train, evaluated] = [by({ mode: "train" }), by({ mode: "eval" })];
    expect(train).not.toEqual(evaluated);
    expect([bn.mode, by({})]).toEqual(["train", train]);
    expect(bn.eval()).toBe(bn);
    expect([bn.mode, by({})]).toEqual(["eval", evaluated]);
    expect(by({ mode: "batch" })).toEqual(train);
    expect([bn.mode, by({})]).toEqual(["eval", evaluated]);
    expect(bn.train()).toBe(bn);
    expect([bn.mode, by({})]).toEqual(["train", train]);
  });

  test.each([[[1, 3]], [[1, 3, 1]], [[1, 3, 1, 1]]])("one value per channel, %j, needs running statistics", (size) => {
    const bn = layer({ layout });
    const [x, dy, out] = [input(1, size), input(2, size), junk(size)];
    const before = bn.stateDict();
    for (const mode of ["train", "batch"] as const)
      expect(() => bn.forward(x, { mode, out })).toThrow(
        expect.objectContaining({ name: "BatchNormError", code: "one-value-per-channel" }) as Error,
      );
    expect([out.data, bn.stateDict()]).toEqual([junk(size).data, before]);
    const expected = oracle(bn, x, dy, "running");
    for (const mode of ["eval", "frozen"] as const) {
      expect(bn.forward(x, { mode, out }).data).toBeAllclose(expected.y, CLOSE);
      expect(bn.backward(dy, { dxOut: junk(size) }).dx?.data).toBeAllclose(expected.dx, CLOSE);
    }
  });

  test("`out` may be x itself in mode eval", () => {
    const bn = layer({ layout });
    const x = input(1);
    const expected = bn.forward(x, { mode: "eval", out: junk() }).data.slice();
    expect(bn.forward(x, { mode: "eval", out: x })).toBe(x);
    expect(x.data).toEqual(expected);
    const batch = layer({ layout, trackRunningStats: false });
    const [z, twin] = [input(2), input(2)];
    const alone = batch.forward(twin, { mode: "eval", out: junk() }).data.slice();
    expect(batch.forward(z, { mode: "eval", out: z }).data).toEqual(alone);
  });

  test("accumulate adds to given arrays, which are overwritten without it", () => {
    const bn = layer({ layout });
    const dy = input(2);
    bn.forward(input(1), { out: junk() });
    const { dGamma, dBeta } = bn.backward(dy, { needs: { dx: false } });
    const outs = { dGammaOut: Float32Array.of(10, 20, 30), dBetaOut: Float32Array.of(-1, -2, -3) };
    const added = bn.backward(dy, { saved: bn.saved, accumulate: true, needs: { dx: false }, ...outs });
    expect(
      [added.dGamma, added.dBeta, bn.dGamma, bn.dBeta].map((v) => v === outs.dGammaOut || v === outs.dBetaOut),
    ).toEqual([true, true, true, true]);
    expect(outs.dGammaOut).toBeAllclose(
      (dGamma as Float32Array).map((v, c) => v + 10 * (c + 1)),
      CLOSE,
    );
    expect(outs.dBetaOut).toBeAllclose(
      (dBeta as Float32Array).map((v, c) => v - (c + 1)),
      CLOSE,
    );
    bn.backward(dy, { saved: bn.saved, accumulate: false, needs: { dx: false }, ...outs });
    expect(outs).toEqual({ dGammaOut: dGamma, dBetaOut: dBeta });
  });

  test("accumulate after a gradient of another shape is refused by its own name, and arrays that are given are taken", () => {
    const bn = layer({ layout });
    const dy = input(2);
    bn.forward(input(1), { mode: "batch" });
    const { dGamma } = bn.backward(dy);
    const samples = dy.shape[0] as number;
    const gamma = new Float32Array(samples * 3).fill(1);
    bn.forward(input(1), { mode: "batch", perSample: { gamma } });
    expect(() => bn.backward(dy, { accumulate: true })).toThrow(
      /^accumulate: expected a gradient of gamma of shape \[\d+, 3\] from the backward before, got one of 3 elements; pass dGammaOut/,
    );
    expect(bn.dGamma).toBe(dGamma);
    expect(bn.backward(dy, { accumulate: true, dGammaOut: gamma }).dGamma).toBe(gamma);
    bn.forward(input(1), { mode: "batch" });
    expect(() => bn.backward(dy, { accumulate: true })).toThrow(
      /^accumulate: expected a gradient of gamma of shape \[3\]/,
    );
  });

  test("accumulate without given arrays adds to those of the backward before, and otherwise there are new ones", () => {
    const bn = layer({ layout });
    const needs = { dx: false } as const;
    // undefined is as good as absent
    const options = { needs, accumulate: true, dGammaOut: undefined, dBetaOut: undefined } as object;
    const step = (seed: number) => {
      bn.forward(input(seed), { out: junk() });
      return bn.backward(input(seed + 10), seed === 2 ? options : { needs, accumulate: true });
    };
    const separate = [1, 2, 3].map((seed) => {
      const twin = layer({ layout });
      twin.forward(input(seed), { out: junk() });
      return twin.backward(input(seed + 10), { needs });
    });
    const sum = (key: "dGamma" | "dBeta") =>
      Float64Array.from([0, 1, 2], (c) => separate.reduce((a, g) => a + (g[key]?.[c] as number), 0));
    const [first, second, third] = [step(1), step(2), step(3)];
    for (const later of [second, third]) {
      expect(later.dGamma).toBe(first.dGamma);
      expect(later.dBeta).toBe(first.dBeta);
    }
    expect(third.dGamma).toBeAllclose(sum("dGamma"), CLOSE);
    expect(third.dBeta).toBeAllclose(sum("dBeta"), CLOSE);
    const totals = valuesOf(third);
    const fresh = bn.backward(input(13), { needs, saved: bn.saved });
    expect(fresh.dGamma).not.toBe(first.dGamma);
    expect(valuesOf(fresh)).toEqual(valuesOf(separate[2] as Gradients));
    expect(valuesOf(third)).toEqual(totals);
  });

  test("dGamma and dBeta stay those of the latest backward that computed them", () => {
    const bn = layer({ layout });
    expect([bn.dGamma, bn.dBeta]).toEqual([undefined, undefined]);
    bn.forward(input(1), { out: junk() });
    const first = bn.backward(input(2), { needs: { dx: false } });
    const { saved } = bn;
    const second = bn.backward(input(3), { saved, needs: { dx: false, dGamma: false } });
    expect(bn.dGamma).toBe(first.dGamma);
    expect(bn.dBeta).toBe(second.dBeta);
    bn.backward(input(3), { saved, dxOut: junk(), needs: { dGamma: false, dBeta: false } });
    expect([bn.dGamma, bn.dBeta]).toEqual([first.dGamma, second.dBeta]);
  });

  test("backward may be called again for the same forward with `saved`, with the same result", () => {
    const bn = layer({ layout });
    bn.forward(input(1), { out: junk() });
    const first = valuesOf(bn.backward(input(2), { dxOut: junk() }));
    const { saved } = bn;
    const other = valuesOf(bn.backward(input(3), { saved, dxOut: junk() }));
    expect(valuesOf(bn.backward(input(2), { saved, dxOut: junk() }))).toEqual(first);
    expect(other).not.toEqual(first);
  });

  test("backward is of the latest forward, whatever its shape and mode", () => {
    const bn = layer({ layout, momentum: 0 });
    const sizes = [SIZE, [10, 3], [2, 3, 9], SIZE];
    const modes = ["train", "frozen", "batch", "eval"] as const;
    for (const [i, size] of sizes.entries()) {
      const [x, dy] = [input(i, size), input(i + 10, size)];
      const expected = oracle(bn, x, dy, i % 2 ? "running" : "batch");
      bn.forward(x, { mode: modes[i] as "train", out: junk(size) });
      expect(bn.backward(dy, { dxOut: junk(size) }).dx?.data).toBeAllclose(expected.dx, CLOSE);
    }
  });

  test("layers of different sizes take turns without disturbing one another", () => {
    const sizes = [SIZE, [10, 40], [3, 7, 2], [150, 5]];
    const steps = sizes.map((size, i) => ({
      bn: layer({ layout }, size[1]),
      x: input(i, size),
      dy: input(i + 10, size),
      size,
    }));
    const expected = steps.map(({ bn, x, dy }) => oracle(bn, x, dy, "batch"));
    const outputs = steps.map(({ bn, x, size }) => bn.forward(x, { out: junk(size) }));
    for (const i of [3, 1, 2, 0]) {
      const { bn, dy, size } = steps[i] as (typeof steps)[number];
      const result = bn.backward(dy, { dxOut: junk(size) });
      expect(outputs[i]?.data).toBeAllclose(expected[i]?.y as Float64Array, CLOSE);
      expect(result.dx?.data).toBeAllclose(expected[i]?.dx as Float64Array, CLOSE);
      expect(result.dGamma).toBeAllclose(expected[i]?.dGamma as Float64Array, CLOSE);
    }
  });

  test.each<[string, (bn: BatchNorm, poisoned: TensorLike) => unknown]>([
    ["a wrong number of channels", (bn) => bn.forward(input(3, [4, 4, 2]))],
    ["one value per channel", (bn) => bn.forward(input(3, [1, 3]))],
    ["a mode that is none", (bn) => bn.forward(input(3), { mode: "test" as "train" })],
    ["an `out` of another shape", (bn) => bn.forward(input(3), { out: junk([5, 3]) })],
    ["a batch that is not finite", (bn, poisoned) => bn.forward(poisoned)],
    ["a batch that is not finite, into `out`", (bn, poisoned) => bn.forward(poisoned, { out: junk() })],
  ])("a forward that fails by %s changes nothing: backward is still of the one before", (_, fail) => {
    const bn = layer({ layout });
    const dy = input(2);
    bn.forward(input(1), { out: junk() });
    const expected = valuesOf(bn.backward(dy, { dxOut: junk() }));
    const [state, mode] = [bn.stateDict(), bn.mode];
    const poisoned = input(4);
    poisoned.data[20] = Number.NaN;
    const { used } = defaultHeap().usage;
    const count = made.length;
    expect(() => fail(bn, poisoned)).toThrow();
    drop(...made.splice(count));
    expect(defaultHeap().usage.used).toBe(used);
    expect([bn.stateDict(), bn.mode]).toEqual([state, mode]);
    expect(valuesOf(bn.backward(dy, { saved: bn.saved, dxOut: junk() }))).toEqual(expected);
  });

  test("dispose gives back what the layer holds; its parameters stay readable, calls are refused", () => {
    const use = () => {
      const bn = layer({ layout });
      mine(bn.forward(input(1)));
      mine(bn.backward(input(2)).dx as TensorLike);
      drop(...made.splice(0));
      return bn;
    };
    use().dispose();
    const { used } = defaultHeap().usage;
    const bn = use();
    const state = bn.stateDict();
    bn[Symbol.dispose]();
    expect(() => bn.forward({ data: new Float32Array(0), shape: [0, 3] })).toThrow(
      /^BatchNorm: expected one that is alive/,
    );
    bn.dispose();
    expect(defaultHeap().usage.used).toBe(used);
    for (const call of [() => bn.forward(input(1)), () => bn.backward(input(1))]) {
      expect(call).toThrow(expect.objectContaining({ name: "BatchNormError", code: "disposed" }) as Error);
      expect(call).toThrow(/^BatchNorm: expected one that is alive, got a disposed one; make a new one$/);
    }
    expect(bn.stateDict()).toEqual(state);
    expect(bn.gamma).toEqual(state.weight);
  });
});
