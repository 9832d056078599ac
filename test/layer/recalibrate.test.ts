// recalibrate: golden population statistics, every kind of batches and of forward, and failures after which all layers
// are unchanged.

import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it, test } from "vitest";
import {
  BatchNorm,
  batchNormStatistics,
  mergeStatistics,
  type Options,
  type PlainTensor,
  recalibrate,
  type TensorLike,
  tensor,
} from "../../src/index.ts";
import { defaultHeap } from "../../src/memory/heap.ts";
import { loadGolden, type Pair } from "../golden/read-golden.mjs";
import { dimsOf, statistics } from "../support/reference.ts";
import { drop, KINDS, make, normalInput, useBuild } from "../support/worlds.ts";

const ROUNDED = { rtol: 2 ** -23, atol: 1e-12 };

/** Unequal batches of 3 channels whose means and variances differ much. */
const BATCHES = [
  normalInput(1, [4, 3, 5], 2, 10),
  normalInput(2, [1, 3, 2], 0.5, -3),
  normalInput(3, [9, 3, 40], 1, 0),
];
const OTHER = normalInput(4, [5, 3, 4], 3, 1);

/** A layer with a past: trained statistics, parameters, a pending backward. */
function trained(options: Options = {}): BatchNorm {
  const bn = new BatchNorm(3, options);
  bn.gamma?.set([2, -1, 0.5]);
  bn.beta?.set([1, 2, 3]);
  bn.forward(OTHER);
  return bn;
}

/** A layer that has seen nothing but the batches, by an estimator. */
function counted(options: Options, batches: readonly PlainTensor[] = BATCHES): BatchNorm {
  const bn = new BatchNorm(3, options);
  for (const batch of batches) bn.forward(batch);
  return bn;
}

async function* asynchronous<T>(list: Iterable<T>): AsyncGenerator<T> {
  for (const item of list) {
    await Promise.resolve();
    yield item;
  }
}

beforeAll(() => useBuild("simd"));

const golden = loadGolden(fileURLToPath(new URL("../golden", import.meta.url)));
const POPULATIONS = golden.cases.filter((c) => c.kind === "population").map((c) => ({ id: c.id, c }));

describe.each(POPULATIONS)("$id", ({ c }) => {
  const { arr } = golden;
  const layout = c.params.layout.endsWith("C") && c.params.layout !== "NC" ? "channels-last" : "channels-first";

  test.each(KINDS)("gives the golden statistics, %s input", async (kind) => {
    const of = (pair: Pair) => arr<Float64Array>(pair.f64);
    for (const [estimator, runningVariance, mean, variance] of [
      ["cumulative", "unbiased", c.out.mean, c.out.var],
      ["population", "unbiased", c.out.pooledMean, c.out.pooledVarUnbiased],
      ["population", "biased", c.out.pooledMean, c.out.pooledVarBiased],
    ] as const) {
      const bn = new BatchNorm(c.params.C, { layout, runningVariance, epsilon: c.params.eps });
      const batches = c.in.batches.map((batch: Parameters<typeof arr>[0]) => make(kind, batch.shape, arr(batch)));
      await recalibrate(bn, batches, { estimator });
      drop(...batches);
      expect(bn.runningMean).toBeAllclose(of(mean), { rtol: 1e-6, atol: 1e-6 });
      expect(bn.runningVariance).toBeAllclose(of(variance), { rtol: 1e-6 });
      expect(bn.batchesTracked).toBe(batches.length);
    }
  });
});

describe("recalibrate", () => {
  it("is a new layer's training by any estimator, population by default, for iterables of every kind", async () => {
    for (const estimator of ["ema", "debiased", "cumulative", "population", undefined] as const)
      for (const batches of [BATCHES, new Set(BATCHES), BATCHES.values(), asynchronous(BATCHES)]) {
        const bn = trained();
        await recalibrate(bn, batches, estimator ? { estimator } : {});
        const expected = counted({ estimator: estimator ?? "population" });
        expect(bn.runningMean).toEqual(expected.runningMean);
        expect(bn.runningVariance).toEqual(expected.runningVariance);
        expect(bn.batchesTracked).toBe(3);
      }
  });

  it("changes nothing but the statistics, in the arrays that users hold", async () => {
    const [bn, twin] = [trained(), trained()];
    bn.eval();
    const held = [bn.gamma, bn.beta, bn.runningMean, bn.runningVariance];
    await recalibrate(bn, BATCHES);
    expect([bn.gamma, bn.beta, bn.runningMean, bn.runningVariance].every((v, i) => v === held[i])).toBe(true);
    expect(bn.mode).toBe("eval");
    const dy = normalInput(9, [5, 3, 4]);
    expect(bn.backward(dy)).toEqual(twin.backward(dy)); // of the forward before
    const { weight, bias } = bn.stateDict();
    expect({ weight, bias }).toEqual({ weight: twin.gamma, bias: twin.beta });
  });

  it("is what training goes on from, without roundings in between", async () => {
    for (const estimator of ["ema", "cumulative", "population"] as const) {
      const bn = trained({ estimator });
      await recalibrate(bn, BATCHES, { estimator });
      bn.forward(OTHER);
      expect(bn.stateDict()).toMatchObject(
        Object.fromEntries(
          Object.entries(counted({ estimator }, [...BATCHES, OTHER]).stateDict()).filter(([name]) =>
            /^(run|num)/.test(name),
          ),
        ),
      );
    }
  });

  it("takes float64 layers, ghost batches and tensors that the generator disposes of", async () => {
    const wide = new BatchNorm(3, { dtype: "float64" });
    await recalibrate(wide, [{ data: Float64Array.from(OTHER.data), shape: OTHER.shape }]);
    const { mean, variance } = statistics(OTHER.data, dimsOf(OTHER.shape, "channels-first"));
    expect(wide.runningMean).toBeAllclose(mean, { rtol: 1e-14 });
    expect(wide.runningVariance).toBeAllclose(
      variance.map((v) => (v * 20) / 19),
      { rtol: 1e-14 },
    );

    const ghost = trained({ ghostBatchSize: 2 });
    await recalibrate(ghost, [OTHER]);
    expect(ghost.runningMean).toBeAllclose(mean, ROUNDED);
    expect(ghost.batchesTracked).toBe(3); // as training counts them

    const bn = trained();
    let yielded = 0;
    function* tensors(): Generator<TensorLike> {
      for (const { data, shape } of BATCHES) {
        const batch = tensor(shape, data as Float32Array);
        yielded++;
        yield batch;
        batch.dispose();
      }
    }
    await recalibrate(bn, tensors());
    expect(yielded).toBe(3);
    expect(bn.runningMean).toEqual(counted({ estimator: "population" }).runningMean);
  });

  it.each(["unbiased", "biased"] as const)(
    "merges batches of one value exactly, wherever they are (%s)",
    async (runningVariance) => {
      const single = (seed: number) => ({ data: normalInput(seed, [1, 3], 1, 50).data, shape: [1, 3] });
      const [a, b, c] = [single(7), single(8), single(9)];
      for (const batches of [
        [a, OTHER],
        [OTHER, a],
        [a, b, OTHER, c],
        [a, b],
      ]) {
        const bn = trained({ runningVariance });
        await recalibrate(bn, batches);
        const all = mergeStatistics(batches.map((batch) => batchNormStatistics(batch)));
        const factor = runningVariance === "unbiased" ? all.count / (all.count - 1) : 1;
        expect(bn.runningMean).toBeAllclose(all.mean, ROUNDED);
        expect(bn.runningVariance).toBeAllclose(
          all.variance.map((v) => v * factor),
          ROUNDED,
        );
        expect(bn.batchesTracked).toBe(batches.length);
      }
      // a batch whose mask leaves one value is one, and so is a ghost batch of one sample
      const five = [20, 21].map((seed) => ({ data: normalInput(seed, [5, 3]).data, shape: [5, 3] }));
      const rows = five.map(({ data }) => ({ data: data.slice(3, 6), shape: [1, 3] }));
      const expected = mergeStatistics(rows.map((row) => batchNormStatistics(row)));
      const masked = trained({ runningVariance });
      const mask = [false, true, false, false, false];
      await recalibrate(masked, five, { forward: (batch) => masked.forward(batch, { mask }) });
      expect(masked.runningMean).toBeAllclose(expected.mean, ROUNDED);
      const ghost = trained({ runningVariance, ghostBatchSize: 2 });
      await recalibrate(ghost, five);
      expect(ghost.runningMean).toBeAllclose(mergeStatistics(five.map((x) => batchNormStatistics(x))).mean, ROUNDED);
    },
  );

  it("gives beta as y of a batch of one value", async () => {
    const bn = trained();
    const results: PlainTensor[] = [];
    const forward = (batch: PlainTensor) => results.push(bn.forward(batch) as PlainTensor);
    await recalibrate(bn, [OTHER, { data: Float32Array.of(4, 5, 6), shape: [1, 3] }], { forward });
    expect(results[1]?.data).toEqual(bn.beta);
    // and only then: afterwards such a batch is refused as ever
    expect(() => bn.forward({ data: Float32Array.of(4, 5, 6), shape: [1, 3] })).toThrow(/more than 1 value/);
  });

  it("takes several layers and the network that they are in, which may be asynchronous", async () => {
    const [first, second] = [trained({ activation: "relu" }), trained()];
    second.eval();
    const seen: string[] = [];
    const network = async (batch: PlainTensor) => {
      const hidden = first.forward(batch);
      await Promise.resolve();
      seen.push(second.mode);
      second.forward(hidden);
      return second.forward(hidden, { mode: "batch" }); // collects nothing
    };
    await recalibrate([first, second, first], BATCHES, { forward: network });
    expect(seen).toEqual(["train", "train", "train"]);
    expect([first.mode, second.mode]).toEqual(["train", "eval"]);
    const expected = counted({ estimator: "population" });
    expect(first.runningMean).toEqual(expected.runningMean);
    const [one, two] = [trained({ activation: "relu" }), new BatchNorm(3, { estimator: "population" })];
    for (const batch of BATCHES) two.forward(one.forward(batch));
    expect(second.runningMean).toEqual(two.runningMean);
    expect([first.batchesTracked, second.batchesTracked]).toEqual([3, 3]);
  });

  it("does not correct by the statistics that it replaces: Batch Renormalization pauses", async () => {
    const bn = trained({ renorm: { rMax: 3, dMax: 5 } });
    const outputs: PlainTensor[] = [];
    await recalibrate(bn, BATCHES, { forward: (batch) => outputs.push(bn.forward(batch)) });
    expect(outputs).toEqual(BATCHES.map((batch) => trained().forward(batch)));
    expect(bn.renorm).toEqual({ rMax: 3, dMax: 5 });
  });

  describe("leaves every layer as it was", () => {
    const poisoned = { data: new Float32Array(60).fill(Number.NaN), shape: [4, 3, 5] };
    function* failing(): Generator<PlainTensor> {
      yield* BATCHES;
      throw new Error("the disk is gone");
    }
    const cases: [string, () => Iterable<PlainTensor> | AsyncIterable<PlainTensor>, object, unknown][] = [
      ["a generator that throws halfway", failing, {}, "the disk is gone"],
      ["an async generator that throws halfway", () => asynchronous(failing()), {}, "the disk is gone"],
      ["no batches", () => [], {}, /^batches: expected at least one .*, got none$/],
      ["no batches, asynchronously", () => asynchronous<PlainTensor>([]), {}, RangeError],
      ["empty batches alone", () => [{ data: new Float32Array(), shape: [0, 3, 2] }], {}, RangeError],
      ["a batch of another shape", () => [OTHER, { data: new Float32Array(8), shape: [2, 4] }], {}, RangeError],
      [
        "one value per channel",
        () => [OTHER, { data: new Float32Array(3), shape: [1, 3] }],
        { estimator: "cumulative" },
        /more than 1 value/,
      ],
      [
        "one value per channel in all",
        () => [{ data: new Float32Array(3), shape: [1, 3] }],
        {},
        /^batches: expected more than 1 value per channel in all, got 1$/,
      ],
      [
        "one value per channel in a mode that takes none",
        () => BATCHES,
        { forward: () => trained().forward({ data: new Float32Array(3), shape: [1, 3] }, { mode: "batch" }) },
        /more than 1 value/,
      ],
      ["a batch that is not finite", () => [OTHER, poisoned], {}, /finite batch mean/],
      [
        "a network that fails",
        () => BATCHES,
        {
          forward: () => {
            throw new Error("lost");
          },
        },
        "lost",
      ],
      ["a network that fails later", () => BATCHES, { forward: () => Promise.reject(new Error("lost")) }, "lost"],
      ["a network that goes around it", () => BATCHES, { forward: () => {} }, /passes through every layer/],
    ];
    it.each(cases)("after %s", async (_, batches, options, error) => {
      const [bn, twin] = [trained().eval(), trained().eval()];
      await expect(recalibrate(bn, batches(), options)).rejects.toThrow(error as string);
      expect(bn.stateDict()).toEqual(twin.stateDict());
      expect(bn.mode).toBe("eval");
      const dy = normalInput(9, [5, 3, 4]);
      expect(bn.backward(dy)).toEqual(twin.backward(dy));
      await recalibrate(bn, BATCHES); // and it can be tried again
      expect(bn.batchesTracked).toBe(3);
    });

    it("where only one of several saw nothing", async () => {
      const [seen, unseen] = [trained(), trained()];
      const forward = (batch: PlainTensor) => seen.forward(batch);
      await expect(recalibrate([seen, unseen], BATCHES, { forward })).rejects.toThrow(RangeError);
      for (const bn of [seen, unseen]) expect(bn.stateDict()).toEqual(trained().stateDict());
    });
  });

  it("takes a batch of one value by a mask, and refuses weights of several values that sum to one", async () => {
    const x = normalInput(7, [2, 3]);
    const [bn, twin] = [trained(), trained()];
    const masked = (mask: number[]) => ({
      forward: (batch: PlainTensor) => bn.forward(batch, batch === x ? { mask } : {}),
    });
    await recalibrate(bn, [x, OTHER], masked([0, 1]));
    await recalibrate(twin, [{ data: x.data.slice(3), shape: [1, 3] }, OTHER]);
    expect(bn.stateDict()).toEqual(twin.stateDict());
    const halves = recalibrate(bn, [OTHER, x], masked([0.5, 0.5]));
    await expect(halves).rejects.toThrow(/^mask: expected weights with a sum above 1 in mode "train", got 1$/);
    expect(bn.stateDict()).toEqual(twin.stateDict());
  });

  it("takes one value per channel by population in mode train alone", async () => {
    const one = { data: new Float32Array(3), shape: [1, 3] };
    const twin = trained();
    for (const mode of ["batch", "train"] as const) {
      const bn = trained();
      const forward = (batch: PlainTensor) => bn.forward(batch, batch === one ? { mode } : {});
      const call = recalibrate(bn, [OTHER, one], { forward });
      if (mode === "batch") await expect(call).rejects.toThrow(/more than 1 value/);
      else await call;
      expect(bn.batchesTracked).toBe(mode === "batch" ? twin.batchesTracked : 2);
    }
    expect(() => new BatchNorm(3, { estimator: "population" }).forward(one)).toThrow(/more than 1 value/);
    const cumulative = trained();
    const track = () => cumulative.track({ count: 1, mean: new Float64Array(3), variance: new Float64Array(3) });
    await expect(recalibrate(cumulative, [OTHER], { estimator: "cumulative", forward: track })).rejects.toThrow(
      /^statistics\.count: expected more than 1 value per channel, got 1$/,
    );
  });

  it("calls forward as a method of its options, which may be a network, or a layer", async () => {
    class Network {
      readonly #bn: BatchNorm;
      constructor(bn: BatchNorm) {
        this.#bn = bn;
      }
      forward(batch: PlainTensor) {
        return this.#bn.forward(batch);
      }
    }
    const inside = trained();
    await recalibrate(inside, BATCHES, new Network(inside));
    const bn = trained();
    await recalibrate(bn, BATCHES, bn as object);
    const twin = trained();
    await recalibrate(twin, BATCHES);
    for (const layer of [inside, bn]) expect(layer.stateDict()).toEqual(twin.stateDict());
  });

  it("ends what it iterates over when it fails", async () => {
    let ended = false;
    function* batches() {
      try {
        yield* BATCHES;
      } finally {
        ended = true;
      }
    }
    const forward = () => Promise.reject(new Error("lost"));
    await expect(recalibrate(trained(), batches(), { forward })).rejects.toThrow("lost");
    expect(ended).toBe(true);
  });

  it("refuses wrong arguments, layers without running statistics, and two at once", async () => {
    const bn = trained();
    const rejects = (call: Promise<void>, error: unknown) => expect(call).rejects.toThrow(error as string);
    await rejects(recalibrate({} as BatchNorm, BATCHES), /^layers: expected BatchNorm .*, got Object/);
    await rejects(recalibrate([], BATCHES), /^layers: expected at least one/);
    await rejects(recalibrate(bn, OTHER as never), /^batches: expected an iterable or async iterable/);
    await rejects(recalibrate(bn, BATCHES, { estimator: "mean" as never }), /^estimator: expected /);
    await rejects(recalibrate(bn, BATCHES, { foward: () => {} } as never), TypeError);
    await rejects(recalibrate(bn, BATCHES, { forward: 5 as never }), /^forward: expected a function/);
    await rejects(recalibrate([bn, trained()], BATCHES), /^forward: expected a function, since/);
    await rejects(
      recalibrate(trained({ trackRunningStats: false }), BATCHES),
      expect.objectContaining({ code: "no-running-statistics" }),
    );
    const disposed = trained();
    disposed.dispose();
    await rejects(recalibrate(disposed, BATCHES), /disposed/);
    expect(bn.stateDict()).toEqual(trained().stateDict());

    const first = recalibrate(bn, asynchronous(BATCHES));
    await rejects(recalibrate(bn, BATCHES), /^bn: expected a layer that is not being recalibrated, got one that is$/);
    await first;
    expect(bn.batchesTracked).toBe(3);
  });
});

test("frees the results that it does not need", async () => {
  const batch = tensor([4, 3], OTHER.data.slice(0, 12));
  const { used } = defaultHeap().usage;
  await recalibrate(new BatchNorm(3), [batch, batch]);
  expect(defaultHeap().usage.used).toBe(used);
  drop(batch);
});
