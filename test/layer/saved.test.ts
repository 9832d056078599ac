// bn.saved: the record of a forward, for a backward after other forwards.

import { describe, expect, test } from "vitest";
import {
  BatchNorm,
  batchNormDoubleBackward,
  batchNormForward,
  batchNormGradientSums,
  layerNormForward,
  normBackward,
  type Options,
  type Saved,
  SyncBatchNorm,
  tensor,
} from "../../src/index.ts";
import { normal } from "../support/worlds.ts";

const input = (seed: number, n = 8) => ({ data: normal(seed, n * 3, 2, 1), shape: [n, 3] });
const noForward = (message: RegExp) =>
  expect.objectContaining({ code: "no-forward", message: expect.stringMatching(message) });

const OPTIONS: Options[] = [{}, { activation: "relu" }, { ghostBatchSize: 3 }, { renorm: { rMax: 2, dMax: 1 } }];

describe("a layer that is used twice before it is differentiated", () => {
  test.each(OPTIONS)("with %j gives each forward its own gradients", (options) => {
    for (const modes of [
      ["train", "train"],
      ["batch", "eval"],
      ["frozen", "train"],
    ] as const) {
      const bn = new BatchNorm(3, options);
      const one = bn.clone();
      const two = bn.clone();
      one.forward(input(1), { mode: modes[0] });
      two.loadStateDict(one.stateDict());
      two.forward(input(2, 5), { mode: modes[1] });

      bn.forward(input(1), { mode: modes[0] });
      const first = bn.saved as Saved;
      bn.forward(input(2, 5), { mode: modes[1] });
      const second = bn.saved as Saved;
      for (let i = 0; i < 5; i++) bn.forward(input(9 + i), { mode: "batch" });
      const [expectedTwo, expectedOne] = [two.backward(input(4, 5)), one.backward(input(3))];
      for (let i = 0; i < 2; i++) {
        expect(bn.backward(input(4, 5), { saved: second })).toEqual(expectedTwo);
        expect(bn.backward(input(3), { saved: first })).toEqual(expectedOne);
      }
    }
  });

  test("keeps its records on the same tensors, which are not checked again", () => {
    const [x, out, dy] = [tensor([8, 3], input(1).data), tensor([8, 3]), input(3)];
    const bn = new BatchNorm(3);
    const records: [Saved, Float32Array][] = [];
    for (let step = 0; step < 6; step++) {
      bn.gamma.fill(step + 1);
      bn.forward(x, { out, mode: "batch" });
      records.push([bn.saved as Saved, bn.backward(dy).dx.data.slice()]);
      expect(bn.saved).toBe(records[step]?.[0]);
    }
    for (const [saved, dx] of records) expect(bn.backward(dy, { saved }).dx.data).toEqual(dx);
    x.dispose();
    out.dispose();
  });

  test("without the record is an error for the second backward, which names it", () => {
    const bn = new BatchNorm(3);
    bn.forward(input(1));
    bn.forward(input(2));
    const { saved } = bn;
    const { dGamma } = bn.backward(input(4));
    expect(() => bn.backward(input(3))).toThrow(
      noForward(/whose backward has run; .*bn\.saved.*backward\(dy, \{ saved \}\)/),
    );
    expect(bn.dGamma).toBe(dGamma);
    expect(bn.backward(input(4), { saved }).dGamma).toEqual(dGamma);
    bn.forward(input(1));
    expect(() => bn.backward({ data: new Float32Array(3), shape: [1, 3] })).toThrow(RangeError);
    bn.backward(input(3)); // one that threw has not differentiated the forward
  });

  test("by the record of an earlier forward leaves the latest one to be differentiated", () => {
    const bn = new BatchNorm(3);
    bn.forward(input(1));
    const { saved } = bn;
    bn.forward(input(2));
    bn.backward(input(3), { saved: saved as Saved });
    expect(bn.backward(input(3))).toEqual(bn.backward(input(3), { saved: bn.saved as Saved }));
  });

  test("accumulates over micro-batches", () => {
    const bn = new BatchNorm(3);
    const saved = [1, 2, 3].map((seed) => {
      bn.forward(input(seed));
      return bn.saved as Saved;
    });
    const parts = saved.map((record, i) => bn.backward(input(i + 4), { saved: record }).dGamma);
    const total = Float32Array.from([0, 1, 2], (c) => parts.reduce((sum, part) => sum + (part[c] as number), 0));
    const [dGammaOut, dBetaOut] = [new Float32Array(3), new Float32Array(3)];
    for (const [i, record] of saved.entries())
      bn.backward(input(i + 4), { saved: record, accumulate: true, dGammaOut, dBetaOut });
    expect(dGammaOut).toBeAllclose(total, { rtol: 1e-5, atol: 1e-5 });
  });
});

describe("bn.saved", () => {
  test("is undefined before a forward, and after one that took the place of x", () => {
    const bn = new BatchNorm(3);
    expect(bn.saved).toBe(undefined);
    const x = input(1);
    bn.forward(x, { mode: "eval", out: x });
    expect(bn.saved).toBe(undefined);
    expect(() => bn.backward(input(2))).toThrow(noForward(/none that kept its x/));
  });

  test("goes into gradient sums, double backward and normBackward", () => {
    const bn = new BatchNorm(3);
    bn.gamma.set([1, 2, 3]);
    bn.forward(input(1));
    const { saved } = batchNormForward(input(1), bn);
    const own = bn.saved as Saved;
    expect(batchNormGradientSums(input(2), own)).toEqual(batchNormGradientSums(input(2), saved));
    const gradients = { ddx: input(3) };
    expect(batchNormDoubleBackward(input(2), own, gradients)).toEqual(
      batchNormDoubleBackward(input(2), saved, gradients),
    );
    expect(normBackward(input(2), own)).toEqual(bn.backward(input(2)));
  });

  test("of another layer, of a norm, or of nothing is refused before anything is written", () => {
    const bn = new BatchNorm(3);
    bn.forward(input(1));
    const dxOut = input(7);
    const other = batchNormForward({ data: normal(1, 16), shape: [4, 4] }).saved;
    const wide = batchNormForward({ data: Float64Array.from(input(1).data), shape: [8, 3] }).saved;
    const norm = layerNormForward(input(1), 3).saved;
    for (const wrong of [other, wide, norm, {}, null, 0, "saved"])
      expect(() => bn.backward(input(2), { saved: wrong as Saved, dxOut })).toThrow(/^saved: expected /);
    for (const wrong of [other, wide])
      expect(() => bn.backward(input(2), { saved: wrong, dxOut })).toThrow(
        "saved: expected a forward of 3 channels of float32, got one of another layer",
      );
    expect(dxOut).toEqual(input(7));
    expect(bn.backward(input(2)).dx.shape).toEqual([8, 3]);
  });

  test("is known by what it is: other objects with its fields are refused by one error, in every call", () => {
    const bn = new BatchNorm(3);
    bn.forward(input(1));
    const saved = bn.saved as Saved;
    const { saved: ofNorm } = layerNormForward(input(1), 3);
    const revoked = Proxy.revocable({ ...saved }, {});
    revoked.revoke();
    const foreign: unknown[] = [
      { subBatches: [], inputIntact: true },
      { differentiate: 1 },
      { differentiate: () => 3 },
      { ...saved },
      structuredClone(input(1)),
      new Proxy(saved, {}),
      new Proxy(ofNorm, {}),
      revoked.proxy,
      Object.create(saved as object),
      Object.create(ofNorm as object),
      null,
      3,
    ];
    const dy = input(2);
    for (const object of foreign as Saved[])
      for (const call of [
        () => bn.backward(dy, { saved: object }),
        () => batchNormGradientSums(dy, object),
        () => batchNormDoubleBackward(dy, object, {}),
        () => normBackward(dy, object),
      ]) {
        expect(call).toThrow(TypeError);
        expect(call).toThrow(
          /^saved: expected the record of a forward of batch norm; normBackward takes those of other/,
        );
      }
    expect(() => bn.backward(dy, { saved: ofNorm as never })).toThrow(
      /^saved: expected the record of a forward of batch/,
    );
    expect(normBackward(dy, ofNorm).dx.data).toHaveLength(24);
    expect(bn.backward(dy, { saved }).dx.data).toHaveLength(24);
  });

  test("of SyncBatchNorm belongs to the statistics of its own forward, whatever fails later", () => {
    let exchanges = 0;
    const group = {
      rank: 0,
      size: 2,
      sum: () => expect.unreachable("exchanges gather"),
      gather(v: Float64Array, all: Float64Array) {
        exchanges++;
        all.set(v);
        all.set(v, v.length);
      },
    };
    const bn = new SyncBatchNorm(1, { group });
    const x = { data: Float32Array.of(1, 2, 3, 10), shape: [4, 1] };
    const dy = { data: Float32Array.of(1, 0, 0, 0), shape: [4, 1] };
    bn.forward(x);
    const expected = bn.backward(dy).dx.data.slice();
    expect(exchanges).toBe(2);
    expect(expected[0]).toBeCloseTo(0.161, 3);
    bn.forward(x);
    const { saved } = bn;
    expect(() => bn.forward({ data: Float32Array.of(1), shape: [1, 2] } as never)).toThrow();
    expect(bn.backward(dy).dx.data).toEqual(expected);
    bn.forward(x, { mode: "eval" });
    expect(bn.backward(dy, { saved }).dx.data).toEqual(expected);
    expect(exchanges).toBe(6);
  });
});
