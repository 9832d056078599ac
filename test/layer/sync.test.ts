// SyncBatchNorm treats the shards of a batch on the ranks of a process group as one batch, for every split. The groups
// use MessagePorts in one thread. sync-threads.test.ts tests several threads.

import { fileURLToPath } from "node:url";
import { afterEach, describe, expect, it } from "vitest";
import {
  BatchNorm,
  batchNormStatistics,
  createMessagePorts,
  type Gradients,
  type Layout,
  mergeStatistics,
  messagePortGroup,
  type ProcessGroup,
  packStatistics,
  recalibrate,
  SyncBatchNorm,
  type SyncOptions,
  unpackStatistics,
} from "../../src/index.ts";
import { loadGolden } from "../golden/read-golden.mjs";
import { LAYOUTS, normal, ordered, sizeOf } from "../support/worlds.ts";

type Group = ProcessGroup<Promise<void>> & { close(): void };

let open: Group[] = [];
afterEach(() => {
  for (const group of open) group.close();
  open = [];
});

function groupOf(size: number, timeoutMs = 5000): Group[] {
  const groups = createMessagePorts(size).map((ports) => messagePortGroup(ports, { timeoutMs }));
  open.push(...groups);
  return groups;
}

const layersOf = (size: number, options: Omit<SyncOptions<"float32">, "group"> = {}, channels = 6) =>
  groupOf(size).map((group) => new SyncBatchNorm(channels, { ...options, group }));

/** A batch of samples and the shards that it is cut into, by their sizes. */
function batchOf(sizes: readonly number[], layout: Layout, seed: number, mean = 3) {
  const rest = [6, 4, 3];
  const samples = sizes.reduce((a, b) => a + b, 0);
  const shape = ordered([samples, ...rest], layout);
  const data = normal(seed, sizeOf(shape), 2, mean);
  const each = sizeOf(rest);
  let at = 0;
  const shards = sizes.map((size) => {
    const part = { data: data.slice(at * each, (at + size) * each), shape: ordered([size, ...rest], layout) };
    at += size;
    return part;
  });
  return { whole: { data, shape }, shards };
}

const joined = (parts: readonly { data: Float32Array }[]) => Float32Array.from(parts.flatMap(({ data }) => [...data]));
const summed = (vectors: readonly Float32Array[]) =>
  (vectors[0] as Float32Array).map((_, c) => vectors.reduce((sum, v) => sum + (v[c] as number), 0));

const SPLITS = [[8], [4, 4], [1, 7], [2, 1, 5], [0, 3, 0, 5], [1, 1, 1, 1, 1, 1, 1, 1]];

describe.each(LAYOUTS)("%s", (layout) => {
  it.each(SPLITS.map((sizes) => ({ sizes })))("shards of $sizes are one batch, for three steps", async ({ sizes }) => {
    const single = new BatchNorm(6, { layout });
    const layers = layersOf(sizes.length, { layout });
    for (let step = 0; step < 3; step++) {
      const x = batchOf(sizes, layout, step + 1);
      const dy = batchOf(sizes, layout, step + 10, 0);
      const y = single.forward(x.whole);
      const gradients = single.backward(dy.whole);
      const ys = await Promise.all(layers.map((bn, r) => bn.forwardAsync(x.shards[r] as typeof x.whole)));
      const backs = await Promise.all(layers.map((bn, r) => bn.backwardAsync(dy.shards[r] as typeof x.whole)));
      expect(joined(ys)).toBeAllclose(y.data, { rtol: 1e-6, atol: 1e-6 });
      expect(joined(backs.map(({ dx }) => dx as typeof y))).toBeAllclose(gradients.dx?.data as Float32Array, {
        rtol: 1e-5,
        atol: 1e-6,
      });
      for (const name of ["dGamma", "dBeta"] as const)
        expect(summed(backs.map((g) => g[name] as Float32Array))).toBeAllclose(gradients[name] as Float32Array, {
          rtol: 1e-5,
          atol: 1e-4,
        });
    }
    for (const bn of layers) {
      expect(bn.runningMean).toEqual(layers[0]?.runningMean);
      expect(bn.runningVariance).toEqual(layers[0]?.runningVariance);
      expect(bn.batchesTracked).toBe(3);
    }
    expect(layers[0]?.runningMean).toBeAllclose(single.runningMean as Float32Array, { rtol: 1e-6 });
    expect(layers[0]?.runningVariance).toBeAllclose(single.runningVariance as Float32Array, { rtol: 1e-6 });
  });

  it("keeps digits where the mean is far from 0, and shards far from each other", async () => {
    const sizes = [3, 5];
    const { whole, shards } = batchOf(sizes, layout, 1, 1e6);
    (shards[1] as typeof whole).data.forEach((v, i, all) => {
      all[i] = v + 4e6;
    });
    const data = joined(shards);
    const single = new BatchNorm(6, { layout, decay: 0 });
    const y = single.forward({ data, shape: whole.shape });
    const layers = layersOf(2, { layout, decay: 0 });
    const ys = await Promise.all(layers.map((bn, r) => bn.forwardAsync(shards[r] as typeof whole)));
    expect(joined(ys)).toBeAllclose(y.data, { rtol: 1e-6, atol: 1e-6 });
    expect(layers[0]?.runningVariance).toBeAllclose(single.runningVariance as Float32Array, { rtol: 1e-6 });
  });

  it("takes masks, whose positions the whole group leaves out", async () => {
    const sizes = [2, 3];
    const { whole, shards } = batchOf(sizes, layout, 1);
    const mask = Array.from({ length: 5 * 12 }, (_, i) => i % 3 > 0);
    const single = new BatchNorm(6, { layout });
    const y = single.forward(whole, { mask });
    const masks = [mask.slice(0, 24), mask.slice(24)];
    const layers = layersOf(2, { layout });
    const ys = await Promise.all(
      layers.map((bn, r) => bn.forwardAsync(shards[r] as typeof whole, { mask: masks[r] as boolean[] })),
    );
    expect(joined(ys)).toBeAllclose(y.data, { rtol: 1e-6, atol: 1e-6 });
  });
});

const golden = loadGolden(fileURLToPath(new URL("../golden", import.meta.url)));

describe.each(golden.cases.filter((c) => c.kind === "sync").map((c) => ({ id: c.id, c })))("$id", ({ c }) => {
  it("is what the reference says, with ranks that have nothing between the others", async () => {
    const { C, eps, layout, momentum } = c.params;
    const shards = c.in.shards.flatMap((shard: (typeof c.in.shards)[number]) => {
      const own = {
        x: { data: golden.arr(shard.x), shape: shard.shape },
        dy: { data: golden.arr(shard.dy), shape: shard.shape },
      };
      const none = { data: new Float32Array(), shape: [0, ...shard.shape.slice(1)] };
      return [own, { x: none, dy: none }];
    });
    const options = { epsilon: eps, momentum, layout: layout === "NHWC" ? "channels-last" : "channels-first" } as const;
    const layers = layersOf(shards.length, options, C);
    for (const bn of layers) {
      bn.gamma = golden.arr<Float32Array>(c.in.weight).slice();
      bn.beta = golden.arr<Float32Array>(c.in.bias).slice();
      bn.runningMean = golden.arr<Float32Array>(c.in.running_mean).slice();
      bn.runningVariance = golden.arr<Float32Array>(c.in.running_var).slice();
    }
    const ys = await Promise.all(layers.map((bn, r) => bn.forwardAsync(shards[r].x)));
    const backs = await Promise.all(layers.map((bn, r) => bn.backwardAsync(shards[r].dy)));
    const close = (got: ArrayLike<number>, expected: { f64: never }) => {
      const values = golden.arr<Float64Array>(expected.f64);
      // golden.test.ts gates the functions that the layer is made of in units of the last place
      expect(got).toBeAllclose(values, { rtol: 1e-6, atol: 1e-6 * Math.max(...values.map(Math.abs)) });
    };
    for (const [i, expected] of c.out.shards.entries()) {
      close(ys[2 * i]?.data as Float32Array, expected.y);
      close(backs[2 * i]?.dx?.data as Float32Array, expected.dx);
    }
    close(summed(backs.map((g) => g.dGamma as Float32Array)), c.out.dgamma);
    close(summed(backs.map((g) => g.dBeta as Float32Array)), c.out.dbeta);
    for (const bn of layers) {
      close(bn.runningMean as Float32Array, c.out.running_mean);
      close(bn.runningVariance as Float32Array, c.out.running_var);
    }
  });
});

describe("exchanges", () => {
  /** A group of one that counts. */
  const counting = () => {
    const sent: number[] = [];
    return { rank: 0, size: 1, sent, sum: (values: Float64Array) => void sent.push(values.length) };
  };
  const x = { data: normal(1, 24), shape: [4, 6] };

  it("are one in forward and one in backward, of a header and 2C + 1 numbers a rank, and none by running statistics", () => {
    const group = counting();
    const bn = new SyncBatchNorm(6, { group });
    bn.forward(x);
    expect(group.sent).toEqual([21 + 13]);
    bn.backward(x);
    expect(group.sent).toEqual([21 + 13, 21 + 13]);
    for (const mode of ["eval", "frozen"] as const) {
      bn.forward(x, { mode });
      bn.backward(x);
    }
    expect(group.sent).toHaveLength(2);
  });

  it("of a group of one change nothing", () => {
    const [bn, single] = [new SyncBatchNorm(6, { group: counting() }), new BatchNorm(6)];
    expect(bn.forward(x).data).toEqual(single.forward(x).data);
    expect(bn.backward(x)).toEqual(single.backward(x));
    expect([bn.runningMean, bn.runningVariance]).toEqual([single.runningMean, single.runningVariance]);
    expect(bn.forward(x, { mode: "batch" })).toEqual(single.forward(x, { mode: "batch" }));
    expect(bn.batchesTracked).toBe(1);
    expect(bn.eval().forward(x)).toEqual(single.eval().forward(x));
  });

  it("are none for a backward that has no forward, nor after one by running statistics", () => {
    const group = counting();
    const bn = new SyncBatchNorm(6, { group });
    const noForward = expect.objectContaining({ code: "no-forward" });
    expect(() => bn.backward(x)).toThrow(noForward);
    expect(group.sent).toHaveLength(0);
    const own = { data: x.data.slice(), shape: x.shape };
    bn.forward(own);
    bn.forward(own, { mode: "eval", out: own }); // which leaves nothing for a backward
    const { length } = group.sent;
    expect(() => bn.backward(x)).toThrow(noForward);
    expect(group.sent).toHaveLength(length);
  });

  it("are none with an option `mode` of running statistics, which takes the other options, too", () => {
    const [bn, single] = [new SyncBatchNorm(6, { group: counting() }), new BatchNorm(6)];
    const [out, residual] = [
      { data: new Float32Array(24), shape: x.shape },
      { data: normal(2, 24), shape: x.shape },
    ];
    expect(bn.forward(x, { mode: "eval", out, residual })).toBe(out);
    expect(out).toEqual(single.forward(x, { mode: "eval", residual }));
    expect(bn.mode).toBe("train");
  });

  it("are one without running statistics in eval, which may write y over x", () => {
    const group = counting();
    const bn = new SyncBatchNorm(6, { group, trackRunningStats: false });
    const own = { data: x.data.slice(), shape: x.shape };
    const expected = new BatchNorm(6, { trackRunningStats: false }).forward(x, { mode: "eval" });
    expect(bn.forward(own, { mode: "eval", out: own })).toEqual(expected);
    expect(group.sent).toHaveLength(1);
  });

  it("gather by sums in a group that only sums, with the same bits", async () => {
    const sizes = [3, 0, 4];
    const { shards } = batchOf(sizes, "channels-first", 5);
    const plain = groupOf(3).map(({ rank, size, sum }, r, groups) => ({ rank, size, sum: sum.bind(groups[r]) }));
    const gathering = layersOf(3);
    const summing = plain.map((group) => new SyncBatchNorm(6, { group }));
    const run = (layers: SyncBatchNorm[]) =>
      Promise.all(layers.map((bn, r) => bn.forwardAsync(shards[r] as (typeof shards)[number])));
    expect(await run(summing)).toEqual(await run(gathering));
    expect(summing[1]?.runningVariance).toEqual(gathering[1]?.runningVariance);
  });

  it("of MessagePorts sum and gather in the order of the ranks, views of larger arrays included", async () => {
    const groups = groupOf(3);
    const own = groups.map(({ rank }) => new Float64Array(100).fill(rank + 1).subarray(10, 12));
    const all = groups.map(() => new Float64Array(6));
    await Promise.all(groups.map((group, r) => group.gather?.(own[r] as Float64Array, all[r] as Float64Array)));
    for (const gathered of all) expect([...gathered]).toEqual([1, 1, 2, 2, 3, 3]);
    await expect(groups[0]?.gather?.(new Float64Array(2), new Float64Array(4))).rejects.toThrow(
      "all: expected 6 elements (3×2), got 4",
    );
    await Promise.all(groups.map((group, r) => group.sum(own[r] as Float64Array)));
    for (const sums of own) expect([...sums]).toEqual([6, 6]);
  });

  it("of MessagePorts end with a rank that does not come in time: what it sends late is not taken for the next", async () => {
    const [center, late] = groupOf(2, 50) as [Group, Group];
    await expect(center.sum(Float64Array.of(1))).rejects.toMatchObject({ code: "group" });
    const sent = late.sum(Float64Array.of(10)).catch((error: Error) => error);
    await expect(center.sum(Float64Array.of(2))).rejects.toMatchObject({ code: "group" });
    expect(await sent).toMatchObject({ code: "group" });
  });

  it("of an asynchronous group are refused by forward before anything is sent, and forwardAsync works after it", async () => {
    let sent = 0;
    const layers = groupOf(2).map((port) => {
      const { rank, size } = port;
      const sum = async (values: Float64Array) => {
        sent++;
        await port.sum(values);
      };
      return new SyncBatchNorm(6, { group: { rank, size, sum } });
    });
    for (const bn of layers)
      expect(() => bn.forward(x)).toThrow(/^group: expected one that sums at once, or a call of forwardAsync/);
    expect(sent).toBe(0);
    await Promise.all(layers.map((bn) => bn.forwardAsync(x)));
    const single = new BatchNorm(6);
    single.forward({ data: joined([x, x]), shape: [8, 6] });
    for (const bn of layers) {
      expect(bn.runningMean).toBeAllclose(single.runningMean as Float32Array, { rtol: 1e-6 });
      expect(bn.batchesTracked).toBe(1);
    }
  });

  it("are awaited if they are thenables; one that a synchronous call has begun is over before the next", async () => {
    const sent: number[] = [];
    let underWay = 0;
    const sum = (values: Float64Array) => {
      sent.push(values.length);
      expect(++underWay).toBe(1);
      return {
        // biome-ignore lint/suspicious/noThenProperty: the group returns a thenable that is no promise
        then: (resolve: (_: number) => void) => setTimeout(() => resolve(underWay--), 1),
      };
    };
    const bn = new SyncBatchNorm(6, { group: { rank: 0, size: 1, sum: sum as never } });
    for (let call = 0; call < 2; call++) expect(() => bn.forward(x)).toThrow(/^group: expected one that sums at once/);
    expect(sent).toHaveLength(1);
    const y = await bn.forwardAsync(x);
    expect(sent).toHaveLength(2);
    expect(y).toEqual(new BatchNorm(6).forward(x));
    expect(bn.batchesTracked).toBe(1);
  });
});

describe("errors", () => {
  const shard = (data: number[]) => ({ data: Float32Array.from(data), shape: [data.length / 2, 2] });
  const attempts = (layers: SyncBatchNorm[], shards: ReturnType<typeof shard>[]) =>
    Promise.all(layers.map((bn, r) => bn.forwardAsync(shards[r] as ReturnType<typeof shard>).catch((e: Error) => e)));
  const untouched = (layers: SyncBatchNorm[]) => {
    for (const bn of layers) {
      expect(bn.runningMean).toEqual(new Float32Array(2));
      expect(bn.runningVariance).toEqual(new Float32Array(2).fill(1));
      expect(bn.batchesTracked).toBe(0);
    }
  };

  it("one value in the whole group throws on every rank, although one rank alone has it", async () => {
    const layers = layersOf(3, {}, 2);
    const errors = await attempts(layers, [shard([]), shard([1, 2]), shard([])]);
    for (const error of errors)
      expect(error).toMatchObject({
        code: "one-value-per-channel",
        message: expect.stringContaining(" and no more in the whole group"),
      });
    untouched(layers);
    // and one value a rank is enough where there are two
    for (const y of await attempts(layers, [shard([1, 2]), shard([3, 4]), shard([])]))
      expect(y).not.toBeInstanceOf(Error);
  });

  it("weights of less than one value in the whole group are refused in a recalibration, too", async () => {
    const layers = layersOf(2, { estimator: "population" }, 1);
    const forward = (bn: SyncBatchNorm, rank: number) => () =>
      bn.forwardAsync(
        { data: Float32Array.of(1, 2).slice(0, 2 - rank), shape: [2 - rank, 1] },
        { mask: rank ? [0] : [0.25, 0.25] },
      );
    const calls = layers.map((bn, rank) => recalibrate(bn, [0], { forward: forward(bn, rank) }).catch((e: Error) => e));
    for (const error of await Promise.all(calls)) expect(error).toMatchObject({ code: "one-value-per-channel" });
  });

  it('one value in the whole group is merged in a recalibration by "population"', async () => {
    const layers = layersOf(2, { estimator: "population" }, 1);
    const batches = [
      [[1], []],
      [[2, 6], [9]],
    ];
    await Promise.all(
      layers.map((bn, rank) =>
        recalibrate(bn, batches, {
          forward: (values) =>
            bn.forwardAsync({
              data: Float32Array.from(values[rank] as number[]),
              shape: [(values[rank] as number[]).length, 1],
            }),
        }),
      ),
    );
    // mean and unbiased variance of 1, 2, 6 and 9
    for (const bn of layers) expect([bn.runningMean?.[0], bn.runningVariance?.[0]]).toEqual([4.5, Math.fround(41 / 3)]);
  });

  it("statistics that are not finite throw the same on every rank", async () => {
    const layers = layersOf(2, {}, 2);
    const errors = (await attempts(layers, [shard([1, 2, 3, 4]), shard([5, Number.NaN])])) as unknown as Error[];
    expect(errors[0]).toMatchObject({ code: "non-finite-statistics" });
    expect(errors[0]?.message).toContain("channel 1");
    expect(errors[1]?.message).toBe(errors[0]?.message);
    untouched(layers);
  });

  it.each([
    ["skip", 0],
    ["allow", 1],
  ] as const)(
    "statistics that are not finite give y on every rank with onNonFinite %j",
    async (onNonFinite, tracked) => {
      const layers = layersOf(2, { onNonFinite }, 2);
      const ys = await attempts(layers, [shard([1, 2, 3, 4]), shard([5, Number.NaN])]);
      const single = new BatchNorm(2, { onNonFinite });
      expect(joined(ys as never)).toEqual(single.forward(shard([1, 2, 3, 4, 5, Number.NaN])).data);
      for (const bn of layers) {
        expect(bn.batchesTracked).toBe(tracked);
        expect(bn.runningMean).toEqual(single.runningMean);
      }
    },
  );

  it("a batch of which no rank has a value gives every rank nothing, and leaves the running statistics", async () => {
    const layers = layersOf(2, {}, 2);
    for (const y of await attempts(layers, [shard([]), shard([])])) expect(y).toEqual(shard([]));
    untouched(layers);
  });

  it("ranks whose running statistics differ in age normalise by one batch in mode batch, and are told in train", async () => {
    const layers = layersOf(2, {}, 2);
    await attempts(layers, [shard([1, 2, 3, 4]), shard([5, 6])]);
    layers[1]?.resetRunningStats();
    const forward = (mode: "batch" | "train") =>
      Promise.all(layers.map((bn) => bn.forwardAsync(shard([1, 2, 3, 4]), { mode }).catch((e: Error) => e)));
    for (const y of await forward("batch")) expect(y).not.toBeInstanceOf(Error);
    for (const error of await forward("train")) expect(error).toMatchObject({ code: "group" });
  });

  it("gradients are new arrays, or with accumulate those of the backward before, added up", async () => {
    const layers = layersOf(2, {}, 2);
    const x = shard([1, 2, 3, 5]);
    const backward = async (options: object) => {
      await attempts(layers, [x, x]);
      return (await Promise.all(layers.map((bn) => bn.backwardAsync(x, options))))[0] as Gradients;
    };
    const first = await backward({});
    const [dGamma, dBeta] = [first.dGamma?.slice(), first.dBeta?.slice()] as [Float32Array, Float32Array];
    const second = await backward({});
    expect([first.dGamma, first.dBeta]).toEqual([dGamma, dBeta]);
    expect(second.dGamma === first.dGamma || second.dBeta === first.dBeta).toBe(false);
    const third = await backward({ accumulate: true });
    expect(third.dGamma === second.dGamma && third.dBeta === second.dBeta).toBe(true);
    expect([third.dGamma, third.dBeta]).toEqual([dGamma.map((v) => 2 * v), dBeta.map((v) => 2 * v)]);
  });

  it("a gradient to add to that a rank has given away is that rank's error, and the others are told", async () => {
    const layers = layersOf(2, {}, 2);
    const x = shard([1, 2, 3, 4]);
    await attempts(layers, [x, x]);
    await Promise.all(layers.map((bn) => bn.backwardAsync(x)));
    const given = layers[1]?.dGamma as Float32Array<ArrayBuffer>;
    structuredClone(given, { transfer: [given.buffer] });
    await attempts(layers, [x, x]);
    const errors = await Promise.all(
      layers.map((bn) => bn.backwardAsync(x, { accumulate: true }).catch((e: Error) => e)),
    );
    expect(errors[0]).toMatchObject({ code: "group" });
    expect(errors[1]).toMatchObject({ message: expect.stringMatching(/^dGammaOut: expected 2 elements/) });
  });

  it("a rank that throws by itself tells the others, in forward and in backward", async () => {
    const layers = layersOf(3, {}, 2);
    const wrong = { data: new Float32Array(3), shape: [1, 3] };
    const errors = await attempts(layers, [shard([1, 2, 3, 4]), wrong, shard([5, 6])]);
    expect(errors[1]).toBeInstanceOf(RangeError);
    for (const r of [0, 2]) {
      expect(errors[r]).toMatchObject({ code: "group" });
      expect((errors[r] as unknown as Error).message).toContain("rank 1");
    }
    untouched(layers);
    const x = [shard([1, 2, 3, 4]), shard([9, 8]), shard([5, 6])];
    await attempts(layers, x);
    const back = await Promise.all(
      layers.map((bn, r) => bn.backwardAsync(r === 2 ? wrong : (x[r] as typeof wrong)).catch((e: Error) => e)),
    );
    expect(back[2]).toBeInstanceOf(RangeError);
    for (const r of [0, 1]) expect(back[r]).toMatchObject({ code: "group" });
  });

  it("arguments that only one rank gets wrong are an error on all, before anything has changed", async () => {
    const layers = layersOf(2, {}, 2);
    const x = shard([1, 2, 3, 4]);
    const wrong = [{ out: shard([1, 2]) }, { residual: shard([1, 2]) }, { out: x }, { mask: [true] }];
    for (const options of wrong) {
      const errors = await Promise.all(
        layers.map((bn, r) => bn.forwardAsync(x, r === 1 ? options : {}).catch((e: Error) => e)),
      );
      expect(errors[0]).toMatchObject({ code: "group" });
      expect(errors[1]).toBeInstanceOf(Error);
      expect(errors[1]).not.toMatchObject({ code: "group" });
      untouched(layers);
    }
    const other = { data: Float64Array.of(1, 2), shape: [1, 2] } as never;
    const errors = await attempts(layers, [x, other]);
    expect([(errors[0] as never as { code: string }).code, errors[1]]).toEqual(["group", expect.any(TypeError)]);
    untouched(layers);
  });

  it("options that a group has not are refused before the exchange, and the other ranks are told", async () => {
    const layers = layersOf(2, {}, 2);
    const x = shard([1, 2, 3, 4]);
    const statistics = { count: 2, mean: new Float64Array(2), variance: new Float64Array(2) };
    const foreign = [
      { perSample: { gamma: new Float32Array(4) } },
      { prior: 2, mode: "batch" },
      { statistics },
      { a: 1 },
    ];
    for (const options of foreign) {
      const errors = await Promise.all(
        layers.map((bn, r) => bn.forwardAsync(x, (r === 1 ? options : {}) as never).catch((e: Error) => e)),
      );
      expect(errors[0]).toMatchObject({ code: "group" });
      expect(errors[1]).toBeInstanceOf(TypeError);
      expect((errors[1] as never as Error).message).toMatch(/^forward options: expected options among mode, out, /);
      untouched(layers);
    }
    for (const y of await attempts(layers, [x, shard([5, 6])])) expect(y).not.toBeInstanceOf(Error);
  });

  it("a rank that does not come is an error after a time, not a hang", async () => {
    const groups = groupOf(3, 1000);
    const layers = groups.map((group) => new SyncBatchNorm(2, { group }));
    const x = shard([1, 2, 3, 4]);
    const errors = await Promise.all([0, 1].map((r) => layers[r]?.forwardAsync(x).catch((e: Error) => e)));
    for (const error of errors) expect(error).toMatchObject({ code: "group" });
    expect((errors[0] as unknown as Error).message).toMatch(/^rank 0 of 3: .* nothing came from rank 2 within 1000 ms/);
    untouched(layers);
  });

  it("refuse a Proxy of a layer, whose private fields cannot be read", async () => {
    const [bn] = layersOf(1, {}, 2);
    const around = new Proxy(bn as SyncBatchNorm, {});
    expect(() => around.forward(shard([]))).toThrow(/^bn: expected /);
    expect(() => around.backward(shard([]))).toThrow(/^bn: expected /);
    await expect(around.forwardAsync(shard([]))).rejects.toThrow(/^bn: expected /);
    await expect(around.backwardAsync(shard([]))).rejects.toThrow(/^bn: expected /);
  });

  it("take no property that they do not have, unless a subclass has it", () => {
    const [group] = groupOf(1);
    class Named extends SyncBatchNorm {
      name = "first";
    }
    expect(Object.isExtensible(new SyncBatchNorm(2, { group: group as Group }))).toBe(false);
    expect(new Named(2, { group: group as Group }).name).toBe("first");
  });

  it("name what is wrong of a group or its options", () => {
    const [ports] = createMessagePorts(1);
    expect(() => new SyncBatchNorm(2, {} as never)).toThrow(/^group: expected \{ rank, size, sum \}/);
    const group = groupOf(1)[0] as Group;
    expect(() => new SyncBatchNorm(2, undefined as never)).toThrow(/^options: expected /);
    expect(() => new SyncBatchNorm(2, { group: { rank: 0, size: 1 } as never })).toThrow(
      /^group: expected \{ rank, size, sum \}/,
    );
    expect(() => new SyncBatchNorm(2, { group, ghostBatchSize: 2 } as never)).toThrow(
      /^ghostBatchSize: expected without/,
    );
    expect(() => createMessagePorts(0)).toThrow(/^size: expected a whole number from 1/);
    expect(() => messagePortGroup({} as never)).toThrow(/^ports: expected an entry of what createMessagePorts returns/);
    for (const port of [null, undefined, 1, {}])
      expect(() => messagePortGroup({ rank: 1, size: 2, ports: [port] } as never)).toThrow(
        /^ports\.ports\[0\]: expected a MessagePort, got /,
      );
    for (const [rank, size, count] of [
      [1, 2, 0],
      [0, 3, 1],
      [0, 1, 1],
      [2, 3, 2],
    ] as const)
      expect(() => messagePortGroup({ rank, size, ports: Array(count).fill({}) })).toThrow(
        new RegExp(`^ports\\.ports: expected \\d for rank ${rank} of ${size}, got \\[`),
      );
    expect(() => messagePortGroup(ports as never, { timeout: 1 } as never)).toThrow(
      /^group options: expected options among timeoutMs/,
    );
    expect(() => messagePortGroup(ports as never, { timeoutMs: 0 })).toThrow(
      /^timeoutMs: expected a whole number from 1/,
    );
  });
});

describe("packed statistics", () => {
  it("are count, mean and M2, and come back as they were", () => {
    const x = { data: normal(1, 60, 3, 5), shape: [10, 6] };
    const statistics = batchNormStatistics(x);
    const packed = packStatistics(statistics);
    expect(packed).toHaveLength(13);
    expect(packed[0]).toBe(10);
    expect(packed.slice(1, 7)).toEqual(statistics.mean);
    expect(packed.slice(7)).toBeAllclose(
      statistics.variance.map((v) => v * 10),
      { rtol: 1e-15 },
    );
    const back = unpackStatistics(packed);
    expect(back.mean).toEqual(statistics.mean);
    expect(back.variance).toBeAllclose(statistics.variance, { rtol: 1e-15 });
    const halves = [0, 1].map((h) => batchNormStatistics({ data: x.data.slice(h * 30, h * 30 + 30), shape: [5, 6] }));
    const merged = mergeStatistics(halves.map((half) => unpackStatistics(packStatistics(half))));
    expect(merged.variance).toBeAllclose(statistics.variance, { rtol: 1e-14 });
  });

  it("of nothing are zeros", () => {
    const empty = packStatistics(batchNormStatistics({ data: new Float32Array(), shape: [0, 2] }));
    expect(empty).toEqual(new Float64Array(5));
    expect(unpackStatistics(empty)).toEqual({ count: 0, mean: new Float64Array(2), variance: new Float64Array(2) });
  });

  it("of another length or kind are refused", () => {
    for (const length of [0, 1, 4])
      expect(() => unpackStatistics(new Float64Array(length))).toThrow(
        `packed: expected 3 elements (3), got ${length}`,
      );
    expect(() => unpackStatistics([1, 2, 3] as never)).toThrow(/^packed: expected a Float64Array/);
  });
});
