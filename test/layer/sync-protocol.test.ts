// What ranks of SyncBatchNorm do when their calls, layers or options differ, when a rank refuses its arguments, and when
// calls overlap. Each failure is an error on all ranks, and no state changes anywhere.

import { afterEach, describe, expect, it } from "vitest";
import {
  BatchNorm,
  createMessagePorts,
  type Dtype,
  messagePortGroup,
  type ProcessGroup,
  SyncBatchNorm,
  type SyncOptions,
} from "../../src/index.ts";
import { errorsOf, type Wrong } from "../support/wrong-use.ts";

type Layer = SyncBatchNorm<Dtype, boolean, boolean>;
type Shard = { data: Float32Array; shape: number[] };

const closers: (() => void)[] = [];
afterEach(() => {
  for (const close of closers.splice(0)) close();
});

function portGroups(size: number, timeoutMs = 5000) {
  const groups = createMessagePorts(size).map((ports) => messagePortGroup(ports, { timeoutMs }));
  closers.push(() => groups.map((group) => group.close()));
  return groups;
}

/** Groups that only sum, that take one exchange at a time, and that may transport float32 as a framework's do. */
function plainGroups(size: number, round: (value: number) => number = (value) => value): ProcessGroup[] {
  type Part = { values: Float64Array; done: () => void };
  const waiting = new Map<number, Part>();
  return Array.from({ length: size }, (_, rank) => ({
    rank,
    size,
    sum: (values: Float64Array) =>
      new Promise<void>((done, fail) => {
        if (waiting.has(rank)) return fail(new Error("two exchanges at once"));
        waiting.set(rank, { values, done });
        if (waiting.size < size) return;
        const parts = [...waiting.values()];
        waiting.clear();
        const sums = values.map((_, i) => parts.reduce((sum, part) => round(sum + round(part.values[i] as number)), 0));
        for (const part of parts) {
          part.values.set(sums);
          part.done();
        }
      }),
  }));
}

/** A layer for every rank, whose options may depend on the rank. */
const layersOf = (groups: readonly ProcessGroup[], options: (rank: number) => object = () => ({})): Layer[] =>
  groups.map((group, rank) => new SyncBatchNorm(2, { ...options(rank), group } as SyncOptions));

const shard = (...data: number[]): Shard => ({ data: Float32Array.from(data), shape: [data.length / 2, 2] });
const SHARDS = [shard(1, 2, 3, 4), shard(9, 8), shard(5, 6, 7, 0)];
const typed = (x: Shard, { options }: Layer) =>
  (options.dtype === "float64" ? { data: Float64Array.from(x.data), shape: x.shape } : x) as Wrong;

const forwards = (layers: readonly Layer[], options: (rank: number) => object = () => ({})) =>
  layers.map((bn, rank) => bn.forwardAsync(typed(SHARDS[rank] as Shard, bn), options(rank)));
const backwards = (layers: readonly Layer[], options: (rank: number) => object = () => ({})) =>
  layers.map((bn, rank) => bn.backwardAsync(typed(SHARDS[rank] as Shard, bn), options(rank)));

/** All state of the layers, and whether they have a backward pending. */
const stateOf = (layers: readonly Layer[]) => layers.map((bn) => ({ ...bn.stateDict(), saved: bn.saved }));

/** Runs a step of calls that fail on every rank, and expects all state to be what it was. */
async function failing(layers: readonly Layer[], calls: () => readonly Promise<unknown>[]) {
  const before = stateOf(layers);
  const errors = await errorsOf(calls());
  expect(stateOf(layers)).toEqual(before);
  for (const [rank, { saved }] of before.entries()) expect(layers[rank]?.saved).toBe(saved);
  return errors;
}

/** Expects a step to succeed, with the same bits of running statistics on every rank. */
async function succeeding(layers: readonly Layer[]) {
  const tracked = layers.map((bn) => bn.batchesTracked);
  await Promise.all(forwards(layers));
  await Promise.all(backwards(layers));
  for (const [rank, bn] of layers.entries()) {
    expect(bn.batchesTracked).toBe((tracked[rank] as number) + 1);
    expect(bn.runningMean).toEqual(layers[0]?.runningMean);
    expect(bn.runningVariance).toEqual(layers[0]?.runningVariance);
  }
}

const KINDS = { "message ports": portGroups, "a group that only sums": plainGroups };

describe.each(Object.entries(KINDS))("over %s", (_, groupsOf) => {
  const options: readonly [string, object, expected: unknown, got: unknown][] = [
    ["dtype", { dtype: "float64" }, "float32", "float64"],
    ["epsilon", { epsilon: 0.5 }, 1e-5, 0.5],
    ["momentum", { momentum: 0.5 }, 0.1, 0.5],
    ["estimator", { estimator: "cumulative" }, "ema", "cumulative"],
    ["runningVariance", { runningVariance: "biased" }, "unbiased", "biased"],
    ["onNonFinite", { onNonFinite: "skip" }, "throw", "skip"],
    ["activation", { activation: "silu" }, "none", "silu"],
    ["scale", { scale: false }, true, false],
    ["shift", { shift: false }, true, false],
    ["trackRunningStats", { trackRunningStats: false }, true, false],
  ];
  it.each(options)("another %s on one rank is an error on all", async (name, other, expected, got) => {
    const layers = layersOf(groupsOf(3), (rank) => (rank === 2 ? other : {}));
    const errors = await failing(layers, () => forwards(layers));
    for (const { code, message } of errors) {
      expect(code).toBe("group");
      expect(message).toContain(`rank 2: expected ${name} ${expected} as on rank 0, got ${JSON.stringify(got)};`);
    }
    expect(new Set(errors.map(({ message }) => message)).size).toBe(1);
  });

  it("another slope, mode or number of batches is one, too, and nothing is lost by it", async () => {
    const sloped = layersOf(groupsOf(2), (rank) => ({ activation: "leaky_relu", negativeSlope: rank ? 0.5 : 0.25 }));
    for (const { message } of await failing(sloped, () => forwards(sloped)))
      expect(message).toContain("rank 1: expected negativeSlope 0.25 as on rank 0, got 0.5");
    const layers = layersOf(groupsOf(2));
    await succeeding(layers);
    for (const { message } of await failing(layers, () =>
      forwards(layers, (rank) => ({ mode: rank ? "batch" : "train" })),
    ))
      expect(message).toContain('rank 1: expected mode train as on rank 0, got "batch"');
    await succeeding(layers);
    layers[1]?.resetRunningStats();
    for (const { message } of await failing(layers, () => forwards(layers)))
      expect(message).toContain("rank 1: expected batchesTracked 2 as on rank 0, got 0");
    const state = (layers[0] as Layer).stateDict();
    for (const bn of layers) bn.loadStateDict(state);
    await succeeding(layers);
  });

  it("a momentum or an epsilon that all ranks have assigned is no difference, and one that one rank has, is", async () => {
    const layers = layersOf(groupsOf(2));
    for (const name of ["momentum", "epsilon"] as const) {
      (layers[1] as Layer)[name] = 0.25;
      for (const { message } of await failing(layers, () => forwards(layers)))
        expect(message).toContain(`rank 1: expected ${name}`);
      (layers[0] as Layer)[name] = 0.25;
      await succeeding(layers);
    }
  });

  it("forward on one rank and backward on another are an error on both", async () => {
    const layers = layersOf(groupsOf(2));
    await Promise.all(forwards(layers));
    const [first, second] = layers as [Layer, Layer];
    const calls = () => [...forwards([first]), second.backwardAsync(SHARDS[1] as Wrong)];
    for (const { message } of await failing(layers, calls))
      expect(message).toContain('rank 1: expected phase forward as on rank 0, got "backward"');
    await Promise.all(backwards(layers));
  });

  it("backward of different forwards is an error on all", async () => {
    const layers = layersOf(groupsOf(2));
    await Promise.all(forwards(layers));
    const saved = layers.map((bn) => bn.saved);
    await Promise.all(forwards(layers));
    const errors = await failing(layers, () => backwards(layers, (rank) => (rank ? { saved: saved[1] } : {})));
    for (const { message } of errors) expect(message).toContain("rank 1: expected forward 2 as on rank 0, got 1");
    await Promise.all(backwards(layers, (rank) => ({ saved: saved[rank] })));
    await Promise.all(backwards(layers));
  });

  /** A rank's own errors: what it passes to forward, or does to its layer. */
  const refusals: readonly [string, (bn: Layer) => object, own: RegExp][] = [
    ["an unknown option", () => ({ foo: 1 }), /^forward options: expected options among mode, out, residual, mask/],
    ["scale per sample", () => ({ perSample: { gamma: new Float32Array(2) } }), /^forward options: .* got "perSample"/],
    ["a prior", () => ({ prior: 4 }), /^forward options: .* got "prior"/],
    ["statistics", () => ({ statistics: {} }), /^forward options: .* got "statistics"/],
    ["an unknown mode", () => ({ mode: "bogus" }), /^mode: expected "train" or "batch"/],
    ["no options", () => null as Wrong, /^forward options: expected an object, got null/],
    ["an out of another shape", () => ({ out: shard(1, 2, 3, 4) }), /^out: expected/],
    [
      "a gamma that was transferred",
      (bn) => {
        structuredClone(0, { transfer: [(bn.gamma as Float32Array).buffer as ArrayBuffer] });
        return {};
      },
      /^gamma: expected 2 elements/,
    ],
    [
      "a layer that was disposed of",
      (bn) => {
        bn.dispose();
        return {};
      },
      /^BatchNorm: expected one that is alive/,
    ],
  ];
  it.each(refusals)(
    "%s on one rank is its own error, and on the others one that names the rank",
    async (_, spoil, own) => {
      const layers = layersOf(groupsOf(3));
      await Promise.all(forwards(layers));
      const given = [{}, spoil(layers[1] as Layer), {}];
      const others = [layers[0], layers[2]] as Layer[];
      const before = stateOf(others);
      const errors = await errorsOf(forwards(layers, (rank) => given[rank] as object));
      expect(errors[1]?.message).toMatch(own);
      for (const rank of [0, 2]) {
        expect(errors[rank]).toMatchObject({ code: "group" });
        expect(errors[rank]?.message).toMatch(
          /^forward: expected every rank of the group to succeed, got an error on rank 1/,
        );
      }
      expect(stateOf(others)).toEqual(before);
      expect(layers.map((bn) => bn.batchesTracked)).toEqual([1, 1, 1]);
    },
  );

  it("options that are no object are refused in eval, too", () => {
    const [layer] = layersOf(groupsOf(1)) as [Layer];
    for (const options of [null, 1, "mode", []])
      expect(() => layer.eval().forward(shard(1, 2, 3, 4), options as Wrong)).toThrow(
        /^forward options: expected an object/,
      );
  });

  it.each([
    ["an unknown option", { foo: 1 }, /^backward options: expected options among dxOut, needs/],
    ["sums", { sums: { dGamma: new Float64Array(2), dBeta: new Float64Array(2) } }, /^backward options: .* got "sums"/],
    ["a wrong need", { needs: { dx: 1 } }, /^needs.dx: expected a boolean/],
    ["a dxOut of another shape", { dxOut: shard(1, 2, 3, 4) }, /^dxOut: expected/],
    ["a dGammaOut of another length", { dGammaOut: new Float32Array(3) }, /^dGammaOut: expected 2/],
    ["no record", { saved: 1 }, /^saved: expected the record of a forward/],
    ["a wrong accumulate", { accumulate: 1 }, /^accumulate: expected a boolean/],
    ["no options", null, /^backward options: expected an object/],
  ] as [string, Wrong, RegExp][])("%s in backward is refused likewise, and may be mended", async (_, wrong, own) => {
    const layers = layersOf(groupsOf(3));
    await Promise.all(forwards(layers));
    const errors = await failing(layers, () => backwards(layers, (rank) => (rank === 1 ? wrong : {})));
    expect(errors[1]?.message).toMatch(own);
    for (const rank of [0, 2])
      expect(errors[rank]?.message).toMatch(/^backward: expected every rank .* an error on rank 1/);
    await Promise.all(backwards(layers));
    await succeeding(layers);
  });

  it("a second backward is refused by the rank that makes it, and the others do not wait for it", async () => {
    const layers = layersOf(groupsOf(2));
    await Promise.all(forwards(layers));
    const { saved } = layers[0] as Layer;
    await Promise.all(backwards(layers));
    const errors = await failing(layers, () => backwards(layers, (rank) => (rank ? {} : { saved })));
    expect(errors.map(({ code }) => code)).toEqual(["group", "no-forward"]);
  });

  it("weights of at most 1 in the whole group are one error on all ranks, empty ones too", async () => {
    const layers = layersOf(groupsOf(3));
    const x = [shard(1, 2), shard(3, 4), { data: new Float32Array(), shape: [0, 2] }];
    for (const mode of ["train", "batch"]) {
      const errors = await failing(layers, () =>
        layers.map((bn, rank) => bn.forwardAsync(x[rank] as Wrong, { mode, mask: rank < 2 ? [0.25] : [] } as Wrong)),
      );
      for (const { code } of errors) expect(code).toBe("one-value-per-channel");
    }
  });

  it("two layers exchange at the same time", async () => {
    const groups = groupsOf(2);
    const [first, second] = [layersOf(groups), layersOf(groups)];
    const other = [shard(-5, 1, 0, 3), shard(2, 2)];
    const calls = groups.map((_, rank) =>
      Promise.all([
        (first[rank] as Layer).forwardAsync(SHARDS[rank] as Wrong),
        (second[rank] as Layer).forwardAsync(other[rank] as Wrong),
      ]),
    );
    const ys = await Promise.all(calls);
    for (const [i, [layers, x]] of (
      [
        [first, SHARDS],
        [second, other],
      ] as const
    ).entries()) {
      const single = new BatchNorm(2);
      const whole = [0, 1].flatMap((rank) => [...(x[rank] as Shard).data]);
      const { data } = single.forward(shard(...whole));
      const parts = ys.flatMap((y) => [...(y[i] as Shard).data]);
      expect(parts).toBeAllclose(data, { rtol: 1e-6, atol: 1e-6 });
      for (const bn of layers) expect(bn.runningMean).toBeAllclose(single.runningMean as Float32Array, { rtol: 1e-6 });
    }
  });

  it("a layer's own calls follow each other, in the mode and by the momentum that each of them began with", async () => {
    const layers = layersOf(groupsOf(2));
    const calls = layers.map((bn, rank) => {
      const x = SHARDS[rank] as Wrong;
      const step = [bn.forwardAsync(x), bn.backwardAsync(x), bn.forwardAsync(x), bn.backwardAsync(x)];
      bn.eval();
      return Promise.all([...step, bn.forwardAsync(x)]);
    });
    const [[, g1, y2, g2, y3]] = (await Promise.all(calls)) as Wrong;
    expect(g2).toEqual(g1);
    expect(y3).not.toEqual(y2);
    for (const bn of layers) expect(bn.batchesTracked).toBe(2);
    expect(y3).toEqual((layers[0] as Layer).forward(SHARDS[0] as Wrong));
  });

  it("options that are assigned during an exchange count from the next call on", async () => {
    const [layers, plain] = [layersOf(groupsOf(2)), layersOf(groupsOf(2))];
    await succeeding(plain);
    const calls = forwards(layers);
    for (const bn of layers) {
      bn.momentum = 0.5;
      bn.epsilon = 1;
    }
    const ys = await Promise.all(calls);
    for (const [rank, bn] of layers.entries()) {
      expect([bn.momentum, bn.epsilon]).toEqual([0.5, 1]);
      expect(bn.runningMean).toEqual(plain[0]?.runningMean);
      expect(ys[rank]).toEqual(await forwards(plain, () => ({ mode: "batch" }))[rank]);
    }
  });
});

describe("a group", () => {
  it("may transport float32: headers count as they arrive", async () => {
    const layers = layersOf(plainGroups(2, Math.fround), () => ({ epsilon: 1e-3, momentum: 0.3 }));
    await succeeding(layers);
    (layers[1] as Layer).momentum = 0.2;
    for (const { message } of await failing(layers, () => forwards(layers)))
      expect(message).toMatch(/^rank 1: expected momentum 0.3\d* as on rank 0, got 0.2/);
  });

  it("that returns other values, or sums what is no packet, is an error, and nothing changes", () => {
    const faulty = (spoil: (all: Float64Array, width: number) => void) => ({
      rank: 1,
      size: 2,
      sum: () => expect.unreachable("exchanges gather"),
      gather(values: Float64Array, all: Float64Array) {
        all.set(values);
        all.set(values, values.length);
        spoil(all, values.length);
      },
    });
    const cases: [(all: Float64Array, width: number) => void, RegExp][] = [
      [(all) => all.fill(0), /^group: expected the sent value 4345345 in the place of rank 1, got 0/],
      [(all, width) => all.fill(7, 0, width), /^rank 0: expected an exchange of SyncBatchNorm, got other numbers/],
      [(all) => all.fill(-1, 21, 22), /^rank 0: expected a count of values, got -1/],
      [(all) => all.fill(Number.NaN, 21, 22), /^rank 0: expected a count of values, got NaN/],
      [(all) => all.fill(Infinity, 21, 22), /^rank 0: expected a count of values, got Infinity/],
    ];
    for (const [spoil, message] of cases) {
      const bn = new SyncBatchNorm(2, { group: faulty(spoil) });
      const before = stateOf([bn]);
      expect(() => bn.forward(SHARDS[0] as Wrong)).toThrow(message);
      expect(stateOf([bn])).toEqual(before);
    }
  });

  it("has a rank and a size", () => {
    const sum = () => {};
    expect(() => new SyncBatchNorm(2, { group: { rank: 2, size: 2, sum } })).toThrow(
      /^rank: expected a rank from 0 to 1/,
    );
    expect(() => new SyncBatchNorm(2, { group: { rank: 0, sum } as Wrong })).toThrow(/^group.size: expected a number/);
  });

  it("that is synchronous leaves no asynchronous call half done", async () => {
    const bn = new SyncBatchNorm(2, { group: { rank: 0, size: 1, sum: () => {} } });
    const y = bn.forwardAsync(SHARDS[0] as Wrong);
    expect(bn.batchesTracked).toBe(1);
    expect(await y).toEqual(new BatchNorm(2).forward(SHARDS[0] as Wrong));
  });
});

it("an x that is gone when the exchange ends is an error on its rank, whose running statistics are the others' all the same", async () => {
  const layers = layersOf(portGroups(2));
  const shards = [shard(1, 2, 3, 4), shard(9, 8)];
  const calls = layers.map((bn, rank) => bn.forwardAsync(shards[rank] as Wrong));
  structuredClone(0, { transfer: [shards[1]?.data.buffer as ArrayBuffer] });
  await calls[0];
  await expect(calls[1]).rejects.toThrow(/^x/);
  expect(layers.map((bn) => bn.batchesTracked)).toEqual([1, 1]);
  expect(layers[1]?.runningMean).toEqual(layers[0]?.runningMean);
  expect(layers[1]?.saved).toBeUndefined();
  // the backward of rank 0 does not wait for a rank that has nothing to differentiate
  const errors = await errorsOf(backwards([layers[0] as Layer, layers[1] as Layer]));
  expect(errors[0]?.message).toMatch(/^backward: expected every rank .* an error on rank 1/);
  expect(errors[1]).toMatchObject({ code: "no-forward" });
});
