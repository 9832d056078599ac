// Copies of a layer: clone, and the state that goes through JSON.

import { describe, expect, test } from "vitest";
import {
  BatchNorm,
  diagnose,
  foldIntoLinear,
  mergeStates,
  recalibrate,
  SyncBatchNorm,
  toAffine,
} from "../../src/index.ts";
import { layer } from "../support/variants.ts";
import { normal } from "../support/worlds.ts";

const x = { data: normal(1, 24, 2, 5), shape: [8, 3] };
const dy = { data: normal(2, 24), shape: [8, 3] };

describe("clone", () => {
  test.each([
    {},
    { dtype: "float64" as const },
    { affine: false, estimator: "population" as const },
    { activation: "leaky_relu" as const, negativeSlope: 0.2 },
    { renorm: { rMax: 2, dMax: 1 }, ghostBatchSize: 4 },
    { trackRunningStats: false },
    { decay: 0.05, estimator: "debiased" as const },
  ])("of a layer with %j computes the same from then on, and shares nothing", (options) => {
    const bn = new BatchNorm(3, options);
    const values = (shape: number[]) => {
      const data = normal(3, 24, 3, 1);
      return { data: bn.options.dtype === "float64" ? Float64Array.from(data) : data, shape } as never;
    };
    bn.forward(values([8, 3]));
    for (const [seed, vector] of [bn.gamma, bn.beta].entries()) (vector as Float32Array | null)?.set(normal(seed, 3));
    if (bn.renorm) bn.renorm = { rMax: 3, dMax: 2 };
    bn.mode = "train";
    const copy = bn.clone();
    expect(copy).toBeInstanceOf(BatchNorm);
    expect([copy.gamma, copy.beta]).toEqual([bn.gamma, bn.beta]);
    expect([copy.options, copy.mode, copy.renorm]).toEqual([bn.options, bn.mode, bn.renorm]);
    for (let step = 0; step < 20; step++) expect(copy.forward(values([8, 3]))).toEqual(bn.forward(values([8, 3])));
    expect(copy.stateDict()).toEqual(bn.stateDict());
    const before = bn.stateDict();
    copy.forward(values([4, 6, 1].slice(0, 1).concat([3, 2])));
    copy.resetRunningStats();
    for (const vector of [copy.gamma, copy.beta] as (Float32Array | null)[]) vector?.fill(9);
    expect(bn.stateDict()).toEqual(before);
  });

  test("has no pending backward", () => {
    const bn = new BatchNorm(3);
    bn.forward(x);
    const copy = bn.clone();
    expect(copy.saved).toBe(undefined);
    expect(() => copy.backward(dy)).toThrow(expect.objectContaining({ code: "no-forward" }));
    expect(bn.backward(dy).dx.shape).toEqual([8, 3]);
  });

  test("of a subclass and of SyncBatchNorm is one, too", () => {
    class Named extends BatchNorm {}
    expect(new Named(3).clone()).toBeInstanceOf(Named);
    const group = { rank: 0, size: 1, sum: () => {} };
    const sync = new SyncBatchNorm(3, { group, epsilon: 0.5 });
    sync.forward(x);
    const copy = sync.clone();
    expect(copy).toBeInstanceOf(SyncBatchNorm);
    expect([copy.group, copy.epsilon]).toEqual([group, 0.5]);
    expect(copy.forward(x)).toEqual(sync.forward(x));
    expect(copy.stateDict()).toEqual(sync.stateDict());
  });
});

describe("toJSON", () => {
  test("is a state that another layer loads after JSON.parse", () => {
    for (const dtype of ["float32", "float64"] as const) {
      const [bn, other] = [layer(dtype, { estimator: "population" }), layer(dtype, { estimator: "population" })];
      bn.forward({ data: dtype === "float64" ? Float64Array.from(x.data) : x.data, shape: x.shape } as never);
      const text = JSON.stringify(bn);
      expect(JSON.stringify({ layers: [bn] })).toBe(`{"layers":[${text}]}`);
      expect(JSON.parse(text).running_mean).toEqual([...(bn.runningMean as Float32Array)]);
      other.loadStateDict(JSON.parse(text));
      expect(other.stateDict()).toEqual(bn.stateDict());
    }
  });
});

describe("where a copy that has lost everything arrives", () => {
  const x = { data: Float32Array.of(1, 2, 3, 4), shape: [2, 2] };
  const layer = () => new BatchNorm(2);
  const copies = { structuredClone: structuredClone(layer()), spread: { ...layer() } } as unknown as Record<
    string,
    never
  >;
  const LOST = /structuredClone and spread lose a layer's contents; clone\(\) and stateDict\(\) copy them/;
  test.each(Object.entries(copies))(
    "%s: loading, diagnosing, folding, merging and recalibrating say so",
    async (_, copy) => {
      expect(() => layer().loadStateDict(copy)).toThrow(LOST);
      expect(() => diagnose(copy, x)).toThrow(LOST);
      expect(() => toAffine(copy)).toThrow(LOST);
      expect(() => mergeStates([{ state: copy, count: 2 }])).toThrow(LOST);
      expect(() => foldIntoLinear({ weight: x }, copy)).toThrow(LOST);
      await expect(recalibrate(copy, [x])).rejects.toThrow(LOST);
    },
  );
});
