// Running statistics of the public class: each estimator against float64 over its batches, values that users write,
// saving and loading, and batches that are not finite.

import { describe, expect, test, vi } from "vitest";
import { BatchNorm, type Options, type PlainTensor, type StateDict, type StateSource } from "../../src/index.ts";
import { dimsOf, statistics } from "../support/reference.ts";
import { normalInput } from "../support/worlds.ts";

// the hint on momentum has its tests in options.test.ts
vi.spyOn(console, "warn").mockImplementation(() => {});

/** One rounding to float32, and what is left of float64's. */
const ROUNDED = { rtol: 2 ** -23, atol: 1e-12 };

/** Unequal batches of 3 channels whose means and variances differ much. */
const BATCHES = [
  normalInput(1, [4, 3, 5], 2, 10),
  normalInput(2, [1, 3, 2], 0.5, -3),
  normalInput(3, [9, 3, 40], 1, 0),
  normalInput(4, [2, 3, 1], 5, 100),
];

/** mean, biased and unbiased variance of a batch. */
function momentsOf({ data, shape }: PlainTensor) {
  const d = dimsOf(shape, "channels-first");
  const { mean, variance } = statistics(data, d);
  const m = d.outer * d.inner;
  return { mean, biased: variance, unbiased: variance.map((v) => (v * m) / (m - 1)) };
}

/** All batches as one of shape [values, C]. */
function concatenated(batches: readonly PlainTensor[]): PlainTensor {
  const rows = batches.flatMap(({ data, shape }) => {
    const { outer, channels, inner } = dimsOf(shape, "channels-first");
    return Array.from({ length: outer * inner }, (_, r) =>
      Array.from(
        { length: channels },
        (_, c) => data[(Math.floor(r / inner) * channels + c) * inner + (r % inner)] as number,
      ),
    );
  });
  return { data: Float32Array.from(rows.flat()), shape: [rows.length, 3] };
}

/** running ← (1 − w)·running + w·batch in float64, from mean 0 and variance 1. */
function recursion(batches: readonly PlainTensor[], variance: "biased" | "unbiased", weight: (k: number) => number) {
  let running = { mean: new Float64Array(3), variance: new Float64Array(3).fill(1) };
  for (const [i, batch] of batches.entries()) {
    const [w, of] = [weight(i + 1), momentsOf(batch)];
    const mix = (old: Float64Array, value: Float64Array) => old.map((v, c) => (1 - w) * v + w * (value[c] as number));
    running = { mean: mix(running.mean, of.mean), variance: mix(running.variance, of[variance]) };
  }
  return running;
}

/** A layer that has seen the batches. */
function trained(options: Options, batches: readonly PlainTensor[] = BATCHES): BatchNorm {
  const bn = new BatchNorm(3, options);
  for (const batch of batches) bn.forward(batch);
  return bn;
}

const VARIANCES = ["unbiased", "biased"] as const;
const ESTIMATORS = ["ema", "cumulative", "population"] as const;

describe.each(VARIANCES)("with the %s variance", (runningVariance) => {
  test.each([0, 0.01, 0.1, 0.5, 1])("ema is the moving average with weight %d for the new batch", (momentum) => {
    const bn = trained({ momentum, runningVariance });
    const expected = recursion(BATCHES, runningVariance, () => momentum);
    expect(bn.runningMean).toBeAllclose(expected.mean, ROUNDED);
    expect(bn.runningVariance).toBeAllclose(expected.variance, ROUNDED);
    expect(bn.batchesTracked).toBe(4);
  });

  test("cumulative is the plain mean over batches, of means and of variances", () => {
    const bn = trained({ estimator: "cumulative", runningVariance });
    const moments = BATCHES.map(momentsOf);
    const average = (list: Float64Array[]) =>
      Float64Array.from([0, 1, 2], (c) => list.reduce((a, v) => a + (v[c] as number), 0) / 4);
    expect(bn.runningMean).toBeAllclose(average(moments.map((m) => m.mean)), ROUNDED);
    expect(bn.runningVariance).toBeAllclose(average(moments.map((m) => m[runningVariance])), ROUNDED);
    expect(bn.batchesTracked).toBe(4);
  });

  test.each([1, 2, 3, 4])("population is the statistics of everything seen, after %i batches", (count) => {
    const seen = BATCHES.slice(0, count);
    const bn = trained({ estimator: "population", runningVariance }, seen);
    const all = concatenated(seen);
    const expected = momentsOf(all);
    expect(bn.runningMean).toBeAllclose(expected.mean, ROUNDED);
    expect(bn.runningVariance).toBeAllclose(expected[runningVariance], ROUNDED);
    expect(bn.stateDict()).toMatchObject({ num_batches_tracked: count, num_values_tracked: all.shape[0] });
  });

  test.each(ESTIMATORS)("%s begins anew after resetRunningStats", (estimator) => {
    const bn = trained({ estimator, runningVariance });
    bn.resetRunningStats();
    expect(bn.runningMean).toEqual(new Float32Array(3));
    expect(bn.runningVariance).toEqual(new Float32Array(3).fill(1));
    expect(bn.batchesTracked).toBe(0);
    for (const batch of BATCHES) bn.forward(batch);
    expect(bn.stateDict()).toEqual(trained({ estimator, runningVariance }).stateDict());
  });
});

test("momentum 1 keeps the last batch alone, momentum 0 the statistics that were there; both count", () => {
  const last = momentsOf(BATCHES[3] as PlainTensor);
  const all = trained({ momentum: 1 });
  expect(all.runningMean).toEqual(Float32Array.from(last.mean));
  expect(all.runningVariance).toBeAllclose(last.unbiased, ROUNDED);
  const none = trained({ momentum: 0 });
  expect(none.runningMean).toEqual(new Float32Array(3));
  expect(none.runningVariance).toEqual(new Float32Array(3).fill(1));
  expect([all.batchesTracked, none.batchesTracked]).toEqual([4, 4]);
});

test("the running variance is of the values, not of their rounding: a mean of 1e6 does not disturb it", () => {
  const batch = normalInput(5, [50, 3, 7], 1, 1e6);
  expect(trained({ momentum: 1 }, [batch]).runningVariance).toBeAllclose(momentsOf(batch).unbiased, ROUNDED);
});

test("10,000 updates do not drift: the result is float64's, where float32 steps would be far off", () => {
  const cycle = [1, 2, 3, 4, 5].map((seed) => normalInput(seed, [4, 3], 0.1, 0.7));
  const bn = new BatchNorm(3, { momentum: 0.001 });
  const moments = cycle.map(momentsOf);
  let wide = { mean: new Float64Array(3), variance: new Float64Array(3).fill(1) };
  let narrow = { mean: new Float32Array(3), variance: new Float32Array(3).fill(1) };
  const mix = <T extends Float32Array | Float64Array>(old: T, value: Float64Array) =>
    old.map((v, c) => 0.999 * v + 0.001 * (value[c] as number)) as T;
  for (let k = 0; k < 10_000; k++) {
    bn.forward(cycle[k % 5] as PlainTensor);
    const of = moments[k % 5] as ReturnType<typeof momentsOf>;
    wide = { mean: mix(wide.mean, of.mean), variance: mix(wide.variance, of.unbiased) };
    narrow = { mean: mix(narrow.mean, of.mean), variance: mix(narrow.variance, of.unbiased) };
  }
  expect(bn.runningMean).toBeAllclose(wide.mean, ROUNDED);
  expect(bn.runningVariance).toBeAllclose(wide.variance, ROUNDED);
  expect(bn.batchesTracked).toBe(10_000);
  expect(narrow.mean).not.toBeAllclose(wide.mean, { rtol: 20 * ROUNDED.rtol });
});

describe.each(ESTIMATORS)("what users write (%s)", (estimator) => {
  const next = normalInput(6, [5, 3, 2]);
  const WAYS: [string, (bn: BatchNorm, mean: Float32Array, variance: Float32Array) => void][] = [
    [
      "in place",
      (bn, mean, variance) => {
        bn.runningMean?.set(mean);
        bn.runningVariance?.set(variance);
      },
    ],
    [
      "by assignment",
      (bn, mean, variance) => {
        bn.runningMean = mean;
        bn.runningVariance = variance;
      },
    ],
    [
      "by loadStateDict",
      (bn, mean, variance) => bn.loadStateDict({ ...bn.stateDict(), running_mean: mean, running_var: variance }),
    ],
  ];

  test.each(WAYS)("%s normalises the next eval and is what the next update starts from", (_, write) => {
    const bn = trained({ estimator, epsilon: 0 });
    const written = { mean: Float32Array.of(1, 40, -7), variance: Float32Array.of(9, 4, 0.25) };
    write(bn, written.mean.slice(), written.variance.slice());
    expect(bn.eval().forward({ data: Float32Array.of(7, 42, -7), shape: [1, 3] }).data).toEqual(
      Float32Array.of(2, 1, 0),
    );

    bn.train().forward(next);
    const { mean, unbiased } = momentsOf(next);
    // the estimate before and the batch, each with its share; the population also spreads between the two means
    const before = 4 * 5 + 1 * 2 + 9 * 40 + 2;
    const share = { ema: 0.1, cumulative: 1 / 5, population: 10 / (before + 10) }[estimator];
    const between = (c: number) => ((mean[c] as number) - (written.mean[c] as number)) ** 2;
    expect(bn.runningMean).toBeAllclose(
      written.mean.map((v, c) => (1 - share) * v + share * (mean[c] as number)),
      { rtol: 1e-6, atol: 1e-6 },
    );
    expect(bn.runningVariance).toBeAllclose(
      written.variance.map((v, c) =>
        estimator === "population"
          ? (v * (before - 1) + (unbiased[c] as number) * 9 + between(c) * before * share) / (before + 9)
          : (1 - share) * v + share * (unbiased[c] as number),
      ),
      { rtol: 1e-6 },
    );
  });

  test("is kept in the array that they wrote it in, which updates go on filling", () => {
    const bn = trained({ estimator });
    const [mean, variance] = [new Float32Array(3), new Float32Array(3).fill(2)];
    bn.runningMean = mean;
    bn.runningVariance = variance;
    bn.forward(next);
    expect(bn.runningMean).toBe(mean);
    expect(bn.runningVariance).toBe(variance);
    expect(mean.some((v) => v === 0)).toBe(false);
    bn.loadStateDict(trained({ estimator }).stateDict());
    bn.resetRunningStats();
    expect([mean, variance]).toEqual([new Float32Array(3), new Float32Array(3).fill(1)]);
  });
});

describe("stateDict", () => {
  test("holds copies under PyTorch's names", () => {
    const bn = trained({ momentum: 0.3 });
    const state = bn.stateDict();
    expect(Object.keys(state)).toEqual(["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]);
    expect(state).toEqual({
      weight: bn.gamma,
      bias: bn.beta,
      running_mean: bn.runningMean,
      running_var: bn.runningVariance,
      num_batches_tracked: 4,
    });
    const again = structuredClone(state);
    for (const vector of [state.weight, state.bias, state.running_mean, state.running_var]) vector?.fill(77);
    expect(bn.stateDict()).toEqual(again);
  });

  test.each(ESTIMATORS)("goes into another layer, which then computes and continues as the first (%s)", (estimator) => {
    const first = trained({ estimator });
    first.gamma?.set([2, -1, 0.5]);
    first.beta?.set([1, 2, 3]);
    const second = new BatchNorm(3, { estimator });
    const held = second.runningMean;
    second.loadStateDict(first.stateDict());
    expect(second.stateDict()).toEqual(first.stateDict());
    expect(second.runningMean).toBe(held);
    const x = normalInput(7, [6, 3, 4]);
    expect(second.forward(x, { mode: "eval" })).toEqual(first.forward(x, { mode: "eval" }));
    for (const bn of [first, second]) bn.forward(x);
    expect(second.runningMean).toBeAllclose(first.runningMean as Float32Array, { rtol: 1e-6, atol: 1e-6 });
    expect(second.runningVariance).toBeAllclose(first.runningVariance as Float32Array, { rtol: 1e-6 });
    expect(second.batchesTracked).toBe(5);
  });

  test("of a population that is loaded midway leads to the statistics of everything", () => {
    const bn = new BatchNorm(3, { estimator: "population" });
    bn.loadStateDict(trained({ estimator: "population" }, BATCHES.slice(0, 2)).stateDict());
    for (const batch of BATCHES.slice(2)) bn.forward(batch);
    const { mean, unbiased } = momentsOf(concatenated(BATCHES));
    expect(bn.runningMean).toBeAllclose(mean, { rtol: 1e-6 });
    expect(bn.runningVariance).toBeAllclose(unbiased, { rtol: 1e-6 });
  });

  test("without num_values_tracked normalises as loaded, and the next train batch begins a population anew", () => {
    const bn = trained({ estimator: "population" });
    const { num_values_tracked, ...fromTorch } = trained({}).stateDict();
    expect(num_values_tracked).toBeUndefined();
    bn.loadStateDict(fromTorch);
    expect(bn.stateDict()).toEqual({ ...fromTorch, num_values_tracked: 0 });
    const [batch] = BATCHES as [PlainTensor];
    bn.forward(batch);
    expect(bn.stateDict()).toMatchObject({
      running_mean: Float32Array.from(momentsOf(batch).mean),
      num_batches_tracked: 5,
      num_values_tracked: 20,
    });
  });
});

describe("loadStateDict", () => {
  const saved = () => ({ ...trained({}).stateDict() }) as Record<string, Float32Array | number>;

  test.each([
    ["a number", 7],
    ["a bigint", 7n],
    ["an array of a number", [7]],
    ["an array of a bigint", [7n]],
    ["a BigInt64Array", BigInt64Array.of(7n)],
    ["an Int32Array", Int32Array.of(7)],
  ])("reads num_batches_tracked from %s", (_, count) => {
    const bn = new BatchNorm(3);
    bn.loadStateDict({ ...saved(), num_batches_tracked: count });
    expect(bn.batchesTracked).toBe(7);
  });

  test.each([
    ["a Float64Array", (v: Float32Array) => Float64Array.from(v)],
    ["an array of numbers", (v: Float32Array) => Array.from(v)],
    ["a frozen array", (v: Float32Array) => Object.freeze(Array.from(v))],
  ])("reads vectors from %s", (_, as) => {
    const bn = new BatchNorm(3);
    const state = saved();
    bn.loadStateDict(Object.fromEntries(Object.entries(state).map(([k, v]) => [k, typeof v === "number" ? v : as(v)])));
    expect(bn.stateDict()).toEqual(state);
  });

  test.each([
    [{ num_batches_tracked: -1 }, ["num_batches_tracked: expected one count"]],
    [{ num_batches_tracked: 1.5 }, ["num_batches_tracked: expected one count"]],
    [{ num_batches_tracked: Number.NaN }, ["num_batches_tracked: expected one count"]],
    [{ num_batches_tracked: 2n ** 60n }, ["num_batches_tracked: expected one count"]],
    [{ num_batches_tracked: "7" }, ["num_batches_tracked: expected one count"]],
    [{ num_batches_tracked: ["7"] }, ["num_batches_tracked: expected one count"]],
    [{ num_batches_tracked: true }, ["num_batches_tracked: expected one count"]],
    [{ num_batches_tracked: null }, ["num_batches_tracked: expected one count"]],
    [{ num_batches_tracked: {} }, ["num_batches_tracked: expected one count"]],
    [{ num_batches_tracked: [] }, ["num_batches_tracked: expected one count"]],
    [{ num_batches_tracked: new Float32Array(0) }, ["num_batches_tracked: expected one count"]],
    [{ num_batches_tracked: [3, 4] }, ["num_batches_tracked: expected one count"]],
    [{ num_batches_tracked: undefined }, ["num_batches_tracked: expected one count"]],
    [{ num_batches_tracked: Uint16Array.of(1, 2) }, ["num_batches_tracked: expected one count"]],
    [
      { weight: Uint16Array.of(0x3c00, 0x3c00, 0x3c00) },
      ["weight: expected an array of 3 numbers; those of 16 bits need { data, shape, dtype }"],
    ],
    [
      { weight: { data: [1, 2, 3], shape: [3], dtype: "F16" } },
      ["weight: expected an array of 3 numbers; those of 16 bits need"],
    ],
    [{ weight: Int32Array.of(1, 2, 3) }, ["weight: expected an array of 3 numbers"]],
    [{ weight: [1, Number.NaN, 3] }, ["weight: expected finite numbers, got NaN in channel 1"]],
    [{ bias: [1, 2, -1 / 0] }, ["bias: expected finite numbers, got -Infinity in channel 2"]],
    [{ bias: [1e39, 2, 3] }, ["bias: expected finite numbers, got 1e+39 in channel 0"]],
    [{ running_mean: [Number.NaN, 2, 3] }, ["running_mean: expected finite numbers, got NaN in channel 0"]],
    [{ running_var: [1, Number.NaN, 1] }, ["running_var: expected finite numbers ≥ 0, got NaN in channel 1"]],
    [{ running_var: [1, -0.5, 1] }, ["running_var: expected finite numbers ≥ 0, got -0.5 in channel 1"]],
    [{ running_var: [1, 1, 1 / 0] }, ["running_var: expected finite numbers ≥ 0, got Infinity in channel 2"]],
    [{ weight: new Float32Array(2) }, ["weight: expected 3 elements, got 2"]],
    [{ bias: [1, 2, 3, 4] }, ["bias: expected 3 elements, got 4"]],
    [{ running_mean: 5 }, ["running_mean: expected an array of 3"]],
    [{ running_mean: "abc" }, ["running_mean: expected an array of 3"]],
    [{ running_mean: null }, ["running_mean: expected an array of 3"]],
    [{ running_mean: undefined }, ["running_mean"]],
    [{ running_mean: ["1", "2", "3"] }, ["running_mean: expected an array of 3 numbers"]],
    [{ running_var: [[1], [2], [3]] }, ["running_var: expected an array of 3 numbers"]],
    [{ gamma: new Float32Array(3), moving_mean: [] }, ["unexpected gamma", "unexpected moving_mean"]],
    [{ num_values_tracked: 3 }, ["unexpected num_values_tracked"]],
    [
      { weight: [1], bias: "b", running_var: new Float32Array(5), num_batches_tracked: -2, foo: 1 },
      [
        "weight: expected 3 elements, got 1",
        "bias: expected an array of 3",
        "running_var: expected 3 elements, got 5",
        "num_batches_tracked: expected one count",
        "unexpected foo",
      ],
    ],
  ])("loads nothing from a state with %o, and says everything that is wrong in one error", (wrong, complaints) => {
    const bn = trained({}, BATCHES.slice(0, 1));
    const before = bn.stateDict();
    const loading = () => bn.loadStateDict({ ...saved(), ...wrong } as StateSource);
    expect(loading).toThrow(expect.objectContaining({ name: "BatchNormError", code: "state-dict" }) as Error);
    for (const complaint of complaints) expect(loading).toThrow(complaint);
    expect(loading).toThrow(/^loadStateDict: nothing was loaded; /);
    expect(bn.stateDict()).toEqual(before);
  });

  test.each(["weight", "bias", "running_mean", "running_var"])("misses %s", (name) => {
    const bn = new BatchNorm(3);
    const before = bn.stateDict();
    const state = saved();
    delete state[name];
    expect(() => bn.loadStateDict(state)).toThrow(`loadStateDict: nothing was loaded; missing ${name}`);
    expect(() => bn.loadStateDict({})).toThrow(`missing ${name}`);
    expect(bn.stateDict()).toEqual(before);
  });

  test("takes a missing num_batches_tracked for 0 and reports it, unless the estimator weighs batches by it", () => {
    const { num_batches_tracked: _, ...state } = saved();
    for (const estimator of ["ema", "population", "cumulative", "debiased"] as const) {
      const bn = trained({ estimator }, BATCHES.slice(0, 1));
      const before = bn.stateDict();
      const isNeeded = estimator === "cumulative" || estimator === "debiased";
      const missing = ["num_batches_tracked", "num_values_tracked"].slice(0, estimator === "population" ? 2 : 1);
      if (isNeeded) {
        expect(() => bn.loadStateDict(state)).toThrow(
          `nothing was loaded; missing num_batches_tracked, which estimator "${estimator}" needs`,
        );
        expect(bn.stateDict()).toEqual(before);
      } else expect(bn.loadStateDict(state)).toEqual({ missing, unexpected: [], invalid: [] });
      expect(bn.loadStateDict(state, { strict: false })).toEqual({ missing, unexpected: [], invalid: [] });
      expect(bn.batchesTracked).toBe(0);
    }
  });

  test.each([
    [{ momentum: 1 }, true],
    [{ estimator: "cumulative" }, true],
    [{ estimator: "debiased" }, true],
    [{ estimator: "population" }, true],
    [{ estimator: "ema" }, false],
  ] as const)(
    "loads what is not finite with strict: false, and a train step heals it with %j: %j",
    (options, heals) => {
      const bn = new BatchNorm(3, options);
      const state = {
        ...new BatchNorm(3, options).stateDict(),
        running_mean: [0, Number.NEGATIVE_INFINITY, 0],
        running_var: [Number.NaN, -0.5, Number.POSITIVE_INFINITY],
      };
      const invalid = ["running_mean", "running_var"];
      expect(bn.loadStateDict(state, { strict: false })).toEqual({ missing: [], unexpected: [], invalid });
      expect(bn.runningVariance).toEqual(Float32Array.from(state.running_var));
      const [batch] = BATCHES as [PlainTensor];
      bn.forward(batch);
      const fresh = new BatchNorm(3, options);
      fresh.forward(batch);
      if (heals) expect(bn.stateDict()).toEqual(fresh.stateDict());
      else expect([bn.runningMean?.[1], bn.runningVariance?.[0]]).toEqual([Number.NEGATIVE_INFINITY, Number.NaN]);
    },
  );

  test.each([
    [{ affine: false }, ["weight", "bias"]],
    [{ scale: false }, ["weight"]],
    [{ trackRunningStats: false }, ["running_mean", "running_var", "num_batches_tracked"]],
  ])("into a layer with %j finds %j unexpected", (options, names) => {
    const bn = new BatchNorm(3, options);
    for (const name of names) expect(() => bn.loadStateDict(saved())).toThrow(`unexpected ${name}`);
    const state = saved();
    for (const name of names) delete state[name];
    bn.loadStateDict(state);
    expect(bn.stateDict()).toEqual(state as StateDict);
  });

  test.each([null, undefined, 5, "state"])("refuses %j, which is no object of arrays", (state) => {
    expect(() => new BatchNorm(3).loadStateDict(state as never)).toThrow(TypeError);
    expect(() => new BatchNorm(3).loadStateDict(state as never)).toThrow(
      /^state: expected an object of named arrays, as readSafetensors\(bytes\)\.tensors, got /,
    );
  });
});

describe.each([
  ["NaN", [Number.NaN]],
  ["Infinity", [Number.POSITIVE_INFINITY]],
  ["-Infinity", [Number.NEGATIVE_INFINITY]],
  ["both infinities", [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY]],
])("a train batch with %s in channel 1", (_, poison) => {
  const healthy = normalInput(8, [6, 3, 5]);
  const poisoned = { data: healthy.data.slice(), shape: healthy.shape };
  poisoned.data.set(poison, 1 * 5 + 2);
  const channel = (values: Float32Array, c: number) => values.filter((_, i) => Math.floor(i / 5) % 3 === c);

  test("throws by default, names the channel, and keeps the state, the input and the pending backward", () => {
    const bn = trained({});
    const before = bn.stateDict();
    const x = poisoned.data.slice();
    const dy = normalInput(9, BATCHES.at(-1)?.shape ?? []);
    const pending = bn.backward(dy);
    const out = { data: new Float32Array(90).fill(7), shape: [6, 3, 5] };
    const step = () => bn.forward(poisoned, { out });
    expect(step).toThrow(expect.objectContaining({ name: "BatchNormError", code: "non-finite-statistics" }) as Error);
    expect(step).toThrow(
      /expected a finite batch mean and variance, got mean .* in channel 1; nothing was updated.*onNonFinite/,
    );
    expect(bn.stateDict()).toEqual(before);
    expect(poisoned.data).toEqual(x);
    expect(bn.backward(dy, { saved: bn.saved })).toEqual(pending);
  });

  test('is let through by onNonFinite "skip", which updates nothing', () => {
    const bn = trained({ onNonFinite: "skip" });
    const before = bn.stateDict();
    const y = bn.forward(poisoned).data;
    expect(bn.stateDict()).toEqual(before);
    expect(channel(y, 1).some(Number.isNaN)).toBe(true);
    for (const c of [0, 2]) expect(channel(y, c)).toEqual(channel(trained({}).forward(healthy).data, c));
  });

  test.each(ESTIMATORS)(
    'goes into the statistics with onNonFinite "allow", into its own channel only (%s)',
    (estimator) => {
      const [bn, twin] = [trained({ estimator, onNonFinite: "allow" }), trained({ estimator })];
      const [y, expected] = [bn.forward(poisoned).data, twin.forward(healthy).data];
      for (const key of ["runningMean", "runningVariance"] as const) {
        expect(bn[key]?.[1]).not.toSatisfy(Number.isFinite);
        for (const c of [0, 2]) expect(bn[key]?.[c]).toBe(twin[key]?.[c]);
      }
      for (const c of [0, 2]) expect(channel(y, c)).toEqual(channel(expected, c));
      expect(bn.batchesTracked).toBe(5);
    },
  );

  test.each(["batch", "eval", "frozen"] as const)("in mode %s concerns the output only", (mode) => {
    const bn = trained({});
    const before = bn.stateDict();
    const y = bn.forward(poisoned, { mode }).data;
    expect(channel(y, 1).every(Number.isFinite)).toBe(false);
    for (const c of [0, 2]) expect(channel(y, c)).toEqual(channel(bn.forward(healthy, { mode }).data, c));
    expect(bn.stateDict()).toEqual(before);
  });
});

test("without running statistics there is nothing to read, write or save, and eval uses the batch's", () => {
  const bn = trained({ trackRunningStats: false });
  expect([bn.runningMean, bn.runningVariance, bn.batchesTracked]).toEqual([null, null, 0]);
  expect(Object.keys(bn.stateDict())).toEqual(["weight", "bias"]);
  for (const key of ["runningMean", "runningVariance"] as const) {
    const write = () => {
      bn[key] = new Float32Array(3);
    };
    expect(write).toThrow(TypeError);
    expect(write).toThrow(`${key}: expected a layer that has it, got one made with trackRunningStats: false; make it`);
  }
  bn.resetRunningStats();
  const [x] = BATCHES as [PlainTensor];
  expect(bn.forward(x, { mode: "eval" })).toEqual(new BatchNorm(3).forward(x));
  expect(() => bn.forward(x, { mode: "frozen" })).toThrow(
    expect.objectContaining({ name: "BatchNormError", code: "no-running-statistics" }) as Error,
  );
});

test("a float64 layer takes what the user writes, also where it is the float32 of what stood there", () => {
  const bn = new BatchNorm(1, { dtype: "float64", momentum: 0.5 });
  bn.forward({ data: Float64Array.of(0.1, 0.3), shape: [2, 1] });
  const mean = bn.runningMean as Float64Array;
  const written = Math.fround(mean[0] as number);
  expect(written).not.toBe(mean[0]);
  mean[0] = written;
  bn.forward({ data: Float64Array.of(-1, 1), shape: [2, 1] });
  expect(mean[0]).toBe(written / 2);
});

test("a vector of a wrong kind or length is refused by its name", () => {
  const bn = new BatchNorm(2);
  for (const name of ["runningMean", "runningVariance"] as const) {
    expect(() => Object.assign(bn, { [name]: new Float64Array(2) })).toThrow(
      new RegExp(`^${name}: expected a Float32Array`),
    );
    expect(() => Object.assign(bn, { [name]: new Float32Array(3) })).toThrow(
      new RegExp(`^${name}: expected 2 elements`),
    );
  }
});
