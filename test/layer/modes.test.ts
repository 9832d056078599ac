// The mode of a layer, its epsilon and momentum as properties, and the properties that it does not have.

import { describe, expect, expectTypeOf, test } from "vitest";
import { BatchNorm, type Mode, SyncBatchNorm } from "../../src/index.ts";
import { normal } from "../support/worlds.ts";

const x = { data: normal(1, 24, 2, 5), shape: [8, 3] };
const dy = { data: normal(2, 24), shape: [8, 3] };
const GROUP = { rank: 0, size: 1, sum: () => {} };

describe("mode", () => {
  test.each(["train", "batch", "eval", "frozen"] as const)(
    "%s can be assigned, and is that of the next forward",
    (mode) => {
      const [bn, other] = [new BatchNorm(3), new BatchNorm(3)];
      bn.mode = mode;
      expect(bn.mode).toBe(mode);
      expect(bn.forward(x)).toEqual(other.forward(x, { mode }));
      expect(bn.stateDict()).toEqual(other.stateDict());
      expect(bn.backward(dy)).toEqual(other.backward(dy));
    },
  );

  test("is not assigned what is none", () => {
    const bn = new BatchNorm(3);
    for (const wrong of ["training", "", null, undefined, true, 1])
      expect(() => {
        bn.mode = wrong as Mode;
      }).toThrow(/^mode: expected /);
    expect(bn.mode).toBe("train");
  });

  test("train(false) is eval(), as in PyTorch, and moves no running statistics", () => {
    const bn = new BatchNorm(3);
    expect(bn.train(false)).toBe(bn);
    expect(bn.mode).toBe("eval");
    const before = bn.stateDict();
    bn.forward(x);
    expect(bn.stateDict()).toEqual(before);
    expect([bn.train(true).mode, bn.eval().mode, bn.train().mode]).toEqual(["train", "eval", "train"]);
    expect(() => bn.train(0 as never)).toThrow(/^on: expected a boolean, got 0$/);
    expect(bn.mode).toBe("train");
  });

  test("freeze() keeps the statistics through forward and backward, and needs some", () => {
    const bn = new BatchNorm(3);
    bn.forward(x);
    const before = bn.stateDict();
    expect(bn.freeze().mode).toBe("frozen");
    const y = bn.forward(x);
    expect(y).toEqual(bn.forward(x, { mode: "eval" }));
    bn.forward(x);
    expect(bn.stateDict()).toEqual(before);
    const invStd = Array.from(before.running_var as Float32Array, (v) => 1 / Math.sqrt(v + bn.epsilon));
    const expected = Array.from(dy.data, (v, i) => v * (invStd[i % 3] as number));
    expect(bn.backward(dy).dx.data).toBeAllclose(expected, { rtol: 1e-6 });
    const without = new BatchNorm(3, { trackRunningStats: false });
    expect(() => without.freeze()).toThrow(expect.objectContaining({ code: "no-running-statistics" }));
    expect(() => without.freeze()).toThrow(/"frozen"/);
    expect(without.mode).toBe("train");
  });

  test('"eval" without running statistics is by the batch, in backward too', () => {
    const [bn, batch] = [new BatchNorm(3, { trackRunningStats: false }), new BatchNorm(3)];
    expect(bn.forward(x, { mode: "eval" })).toEqual(batch.forward(x, { mode: "batch" }));
    expect(bn.backward(dy)).toEqual(batch.backward(dy));
  });
});

describe("momentum and epsilon", () => {
  test("of the next batch can be assigned", () => {
    const bn = new BatchNorm(3, { momentum: 0.5 });
    bn.forward(x);
    const one = new BatchNorm(3, { momentum: 0.25 });
    one.loadStateDict(bn.stateDict());
    bn.momentum = 0.25;
    expect([bn.momentum, bn.options.momentum]).toEqual([0.25, 0.25]);
    bn.forward(x);
    one.forward(x);
    expect(bn.runningMean).toBeAllclose(one.runningMean as Float32Array, { rtol: 1e-6 });
    expect(bn.runningVariance).toBeAllclose(one.runningVariance as Float32Array, { rtol: 1e-6 });
  });

  test("of the next forward can be assigned, on tensors that were normalised before, too", async () => {
    const { tensor } = await import("../../src/index.ts");
    const bn = new BatchNorm(3);
    const [t, out] = [tensor([8, 3], x.data), tensor([8, 3])];
    for (let i = 0; i < 4; i++) bn.forward(t, { out });
    for (const mode of ["batch", "eval"] as const) {
      bn.mode = mode;
      for (let i = 0; i < 4; i++) bn.forward(t, { out });
      bn.epsilon = bn.epsilon * 100;
      const other = new BatchNorm(3, { epsilon: bn.epsilon });
      other.loadStateDict(bn.stateDict());
      expect(bn.forward(t, { out }).data).toEqual(other.forward(x, { mode }).data);
    }
    expect(bn.options.epsilon).toBe(bn.epsilon);
    t.dispose();
    out.dispose();
  });

  test("a pending backward keeps its epsilon", () => {
    const [bn, other] = [new BatchNorm(3), new BatchNorm(3)];
    bn.forward(x);
    other.forward(x);
    bn.epsilon = 1;
    expect(bn.backward(dy)).toEqual(other.backward(dy));
  });

  test("are refused by the rules of the constructor, and stay as they were", () => {
    const bn = new BatchNorm(3);
    for (const wrong of [-1, Number.NaN, Infinity, "1", null, undefined])
      expect(() => {
        bn.epsilon = wrong as number;
      }).toThrow(/^epsilon: expected /);
    for (const wrong of [-0.1, 1.1, Number.NaN, "1", null, undefined])
      expect(() => {
        bn.momentum = wrong as number;
      }).toThrow(/^momentum: expected /);
    expect([bn.epsilon, bn.momentum]).toEqual([1e-5, 0.1]);
  });
});

describe("properties that do not exist", () => {
  const layers = { BatchNorm: () => new BatchNorm(3), SyncBatchNorm: () => new SyncBatchNorm(3, { group: GROUP }) };

  test.each(Object.entries(layers))("of %s are not assigned, in scripts either", (_, make) => {
    const bn = make();
    for (const name of ["training", "weight", "running_mean", "eps", "anything"]) {
      expect(() => Object.assign(bn, { [name]: 1 })).toThrow(TypeError);
      expect(() => new Function("bn", `bn.${name} = 1`)(bn)).toThrow(`bn.${name}: expected a property`);
      expect(name in bn).toBe(false);
    }
    for (const name of ["channels", "options", "dGamma", "dBeta", "batchesTracked", "saved"])
      expect(() => Object.assign(bn, { [name]: 1 }), name).toThrow(TypeError);
  });

  test("can be those of a subclass, declared or not", () => {
    class Named extends BatchNorm {
      label = "first";
      count: number;
      constructor(channels: number) {
        super(channels);
        this.count = 0;
      }
    }
    const bn = new Named(3);
    bn.count++;
    bn.label = "second";
    expect([bn.count, bn.label, bn.mode]).toEqual([1, "second", "train"]);
    expect(bn.forward(x)).toEqual(new BatchNorm(3).forward(x));
    expectTypeOf(bn.gamma).toEqualTypeOf<Float32Array>();
  });
});

test("what a layer has and what `needs` switches off is in the types", () => {
  const [bn, bare, half] = [
    new BatchNorm(3),
    new BatchNorm(3, { affine: false }),
    new BatchNorm(3, { scale: false, dtype: "float64" }),
  ];
  expectTypeOf(bn.gamma).toEqualTypeOf<Float32Array>();
  expectTypeOf(bare.gamma).toEqualTypeOf<null>();
  expectTypeOf(bare.beta).toEqualTypeOf<null>();
  expectTypeOf(half.gamma).toEqualTypeOf<null>();
  expectTypeOf(half.beta).toEqualTypeOf<Float64Array>();
  bn.forward(x);
  const all = bn.backward(dy);
  expectTypeOf(all.dx).toEqualTypeOf<typeof dy>();
  expectTypeOf(all.dGamma).toEqualTypeOf<Float32Array>();
  const some = bn.backward(dy, { saved: bn.saved, needs: { dx: false } });
  expectTypeOf(some.dx).toEqualTypeOf<undefined>();
  expectTypeOf(some.dBeta).toEqualTypeOf<Float32Array>();
  const maybe = bn.backward(dy, { saved: bn.saved, needs: { dx: Math.random() < 2 } });
  expectTypeOf(maybe.dx).toEqualTypeOf<typeof dy | undefined>();
  expect([some.dx, maybe.dx?.shape]).toEqual([undefined, [8, 3]]);
  bare.forward(x);
  const { dGamma } = bare.backward(dy);
  expectTypeOf(dGamma).toEqualTypeOf<undefined>();
  expect(dGamma).toBe(undefined);
});
