// mergeStates against statistics of all data in one pass, in plain loops, and against a layer that saw all data.

import { describe, expect, test } from "vitest";
import {
  BatchNorm,
  type Framework,
  type MergedState,
  mergeStates,
  type NamedState,
  type Options,
  type PlainTensor,
  readSafetensors,
  type StatePart,
  type StateSource,
  writeSafetensors,
} from "../../src/index.ts";
import { dimsOf, statistics } from "../support/reference.ts";
import { FRAMEWORKS, vectorsOf } from "../support/state.ts";
import { normal, normalInput } from "../support/worlds.ts";

/** Data of three ranks, with means that lie apart. */
const RANKS: PlainTensor[][] = [
  [normalInput(1, [8, 3], 1, 5), normalInput(2, [5, 3], 2, 4)],
  [normalInput(3, [40, 3], 0.5, -3)],
  [normalInput(4, [2, 3], 3, 100), normalInput(5, [7, 3], 1, 90), normalInput(6, [3, 3], 1, 95)],
];
const countOf = (batches: readonly PlainTensor[]) => batches.reduce((sum, { shape }) => sum + (shape[0] as number), 0);
const COUNTS = RANKS.map(countOf);
const TOTAL = 65;

/** A layer that has seen batches, with parameters of its own. */
function trained(options: Options, batches: readonly PlainTensor[], seed: number): BatchNorm {
  const bn = new BatchNorm(3, { estimator: "population", ...options });
  if (bn.gamma) bn.gamma = normal(seed, 3, 0.1, 1);
  if (bn.beta) bn.beta = normal(seed + 1, 3);
  for (const batch of batches) bn.forward(batch);
  return bn;
}

/** Mean and biased variance of all data, in one pass over them. */
const ALL = statistics(
  Float32Array.from(RANKS.flat().flatMap(({ data }) => [...data])),
  dimsOf([TOTAL, 3], "channels-first"),
);
const kindOf = (framework: Framework) => (framework === "pytorch" ? "unbiased" : "biased");
const correctionOf = (kind: "unbiased" | "biased") => (kind === "unbiased" ? TOTAL / (TOTAL - 1) : 1);

test.each(FRAMEWORKS)("%s: layers that saw a part each become the layer that saw all", (framework) => {
  const options = { runningVariance: kindOf(framework) } as const;
  const layers = RANKS.map((batches, i) => trained(options, batches, 10 * i));
  const parts = layers.map((bn, i) => ({
    state: bn.stateDict({ framework, prefix: "net.bn" }),
    count: COUNTS[i] as number,
  }));
  const bn = new BatchNorm(3, { ...options, estimator: "population" });
  const { unexpected } = bn.loadStateDict(mergeStates(parts, { framework }), { framework, prefix: "net.bn" });
  expect(unexpected).toEqual([]);
  const whole = trained(options, RANKS.flat(), 0);
  expect(bn.runningMean).toBeAllclose(whole.runningMean as Float32Array, { rtol: 2 ** -22 });
  expect(bn.runningVariance).toBeAllclose(whole.runningVariance as Float32Array, { rtol: 2 ** -21 });
  expect(bn.runningMean).toBeAllclose(ALL.mean, { rtol: 2 ** -22 });
  expect(bn.runningVariance).toBeAllclose(
    ALL.variance.map((v) => v * correctionOf(kindOf(framework))),
    { rtol: 2 ** -21 },
  );
  for (const name of ["gamma", "beta"] as const)
    expect(bn[name]).toBeAllclose(
      [0, 1, 2].map((c) =>
        layers.reduce((sum, l, i) => sum + ((l[name]?.[c] as number) * (COUNTS[i] as number)) / TOTAL, 0),
      ),
      { rtol: 2 ** -23 },
    );
  expect(bn.batchesTracked).toBe(framework === "pytorch" || framework === "haiku" ? 6 : 0);
  if (framework !== "pytorch") return;
  expect(bn.stateDict()).toMatchObject({ num_batches_tracked: 6, num_values_tracked: TOTAL });
  // goes on like the layer that saw all
  const next = normalInput(7, [4, 3], 2, 50);
  for (const layer of [bn, whole]) layer.forward(next);
  expect(bn.runningVariance).toBeAllclose(whole.runningVariance as Float32Array, { rtol: 2 ** -21 });
});

describe("the formula", () => {
  const float64Parts = (kind: "unbiased" | "biased"): StatePart[] =>
    RANKS.map((batches) => {
      const count = countOf(batches);
      const { mean, variance } = statistics(
        Float32Array.from(batches.flatMap(({ data }) => [...data])),
        dimsOf([count, 3], "channels-first"),
      );
      const factor = kind === "unbiased" ? count / (count - 1) : 1;
      return { state: { running_mean: mean, running_var: variance.map((v) => v * factor) }, count };
    });

  test.each(["unbiased", "biased"] as const)("is exact in float64 for the %s variance", (runningVariance) => {
    const merged = mergeStates(float64Parts(runningVariance), { runningVariance });
    expect(merged.running_mean).toBeInstanceOf(Float64Array);
    expect(merged.running_mean).toBeAllclose(ALL.mean, { rtol: 1e-14 });
    expect(merged.running_var).toBeAllclose(
      ALL.variance.map((v) => v * correctionOf(runningVariance)),
      { rtol: 1e-14 },
    );
  });

  test("does not depend on the order of parts, and one part stays what it is", () => {
    const parts = float64Parts("unbiased");
    const turned = mergeStates([...parts].reverse());
    expect(turned.running_var).toBeAllclose(mergeStates(parts).running_var as Float64Array, { rtol: 1e-14 });
    const [one] = parts as [StatePart];
    expect(mergeStates(new Set([one])).running_var).toBeAllclose(
      (one.state as Record<string, Float64Array>).running_var as Float64Array,
      { rtol: 1e-15 },
    );
  });

  test("gives no weight to a part without values, whatever it contains", () => {
    const parts = float64Parts("unbiased");
    const nothing = { running_mean: Float64Array.of(Number.NaN, 0, 0), running_var: Float64Array.of(1, 1, Number.NaN) };
    for (const list of [
      [{ state: nothing, count: 0 }, ...parts],
      [...parts, { state: nothing, count: 0 }],
    ])
      expect(mergeStates(list).running_var).toBeAllclose(mergeStates(parts).running_var as Float64Array, {
        rtol: 1e-15,
      });
    const weights = [
      { state: { ...nothing, weight: [Number.NaN] }, count: 0 },
      { state: { running_mean: [1, 1, 1], running_var: [1, 1, 1], weight: [3] }, count: 2 },
    ];
    expect(mergeStates(weights).weight).toEqual(Float32Array.of(3));
  });

  test("of one value has no variance of its own", () => {
    const single = (mean: number) => ({ state: { running_mean: [mean], running_var: [7] }, count: 1 });
    // the unbiased variance of 1, 2 and 6 is 7; what a state of one value calls its variance does not count
    expect(mergeStates([single(1), single(2), single(6)]).running_var).toBeAllclose([7], { rtol: 1e-7 });
  });
});

describe("a model's states", () => {
  const model = (seed: number): NamedState => ({
    "conv.weight": normal(seed, 6),
    ...trained({}, RANKS[seed] as PlainTensor[], seed).stateDict({ prefix: "bn1" }),
    ...trained({ affine: false }, RANKS[seed] as PlainTensor[], seed + 5).stateDict({ prefix: "layer.0.bn" }),
  });
  const parts = [0, 1].map((seed) => ({ state: model(seed), count: COUNTS[seed] as number }));
  const merged = mergeStates(parts);

  test("merge in every layer", () => {
    expect(Object.keys(merged).sort()).toEqual(Object.keys(model(0)).sort());
    const alone = (prefix: string) => {
      const bn = new BatchNorm(3, { affine: false, estimator: "population" });
      bn.loadStateDict(merged, { prefix, strict: false });
      return vectorsOf(bn);
    };
    expect(alone("bn1")).toEqual(alone("layer.0.bn"));
    const [a, b] = parts.map(({ state }) => state["conv.weight"] as Float32Array) as [Float32Array, Float32Array];
    expect(merged["conv.weight"]).toBeAllclose(
      a.map((v, i) => (v * 13 + (b[i] as number) * 40) / 53),
      { rtol: 1e-6 },
    );
  });

  const forms: [string, (state: NamedState) => StateSource][] = [
    ["JSON", (state) => JSON.parse(JSON.stringify(state))],
    ["a Map", (state) => new Map(Object.entries(state))],
    ["nested objects", (state) => ({ net: { ...state } })],
  ];
  test.each(forms)("may come as %s", (name, form) => {
    const other = mergeStates(parts.map(({ state, count }) => ({ state: form(state), count })));
    const prefix = name === "nested objects" ? "net/" : "";
    expect(other).toEqual(Object.fromEntries(Object.entries(merged).map(([path, value]) => [prefix + path, value])));
  });

  test("may be tensors of files, whose shapes remain, and 16-bit ones become float32", () => {
    const file = (state: NamedState) => readSafetensors(writeSafetensors(state)).tensors;
    const tensors = mergeStates(parts.map(({ state, count }) => ({ state: file(state), count })));
    expect(tensors["conv.weight"]).toEqual({ data: merged["conv.weight"], shape: [6], dtype: "float32" });
    expect(tensors["bn1.num_batches_tracked"]).toBe(3);
    expect(file(tensors as NamedState)["bn1.running_var"]?.data).toEqual(merged["bn1.running_var"]);
    const half = (bits: number) => ({ data: Uint16Array.of(bits), shape: [1, 1], dtype: "F16" });
    const state = (bits: number) => ({ running_mean: half(bits), running_var: half(0x3c00) });
    expect(mergeStates([0x3c00, 0x4200].map((bits) => ({ state: state(bits), count: 2 })))).toEqual({
      running_mean: { data: Float32Array.of(2), shape: [1, 1], dtype: "float32" },
      running_var: { data: Float32Array.of(2), shape: [1, 1], dtype: "float32" }, // (2·1 + 4·1)/3
    });
  });

  test("may have TensorFlow's and older names of ONNX", () => {
    const at = (mean: string, variance: string, value: number) => ({ [mean]: [value], [variance]: [1] });
    for (const [framework, mean, variance] of [
      ["keras", "bn/moving_mean:0", "bn/moving_variance:0"],
      ["onnx", "bn.mean", "bn.var"],
      ["onnx", "mean", "var"],
      ["flax", "batch_stats.bn.mean", "batch_stats.bn.var"],
    ] as const)
      expect(
        mergeStates(
          [0, 2].map((value) => ({ state: at(mean, variance, value), count: 2 })),
          { framework },
        ),
      ).toEqual({ [mean]: Float32Array.of(1), [variance]: Float32Array.of(2) });
  });
});

describe("wrong use", () => {
  const state = new BatchNorm(2).stateDict();
  const { running_var: _, ...without } = state;
  const part = (more: object, count: unknown = 5) => ({ state: { ...state, ...more }, count });
  test.each<[string, unknown, ErrorConstructor, RegExp, object?]>([
    ["no list", null, TypeError, /^parts: expected a list of \{ state, count \}, got null$/],
    ["states alone", [state], TypeError, /^parts\[0\]: expected options among state, count, got "weight"$/],
    ["no part", [], RangeError, /^parts: expected counts with a sum above 1, got 0$/],
    ["no state", [{ count: 5 }], TypeError, /^parts\[0\]\.state: expected an object of named arrays, got undefined$/],
    ["an array", [{ state: [1], count: 5 }], TypeError, /^parts\[0\]\.state: expected an object of named arrays/],
    ["no count", [{ state }], TypeError, /^parts\[0\]\.count: expected a number, got undefined$/],
    [
      "a negative count",
      [part({}), part({}, -1)],
      RangeError,
      /^parts\[1\]\.count: expected a finite number ≥ 0, got -1$/,
    ],
    ["one value", [part({}, 1)], RangeError, /^parts: expected counts with a sum above 1, got 1$/],
    [
      "a missing name",
      [part({}), { state: without, count: 5 }],
      RangeError,
      /^parts\[1\]\.state: expected the names of parts\[0\]\.state, got "running_var"$/,
    ],
    [
      "another name",
      [part({}), part({ foo: [1] })],
      RangeError,
      /^parts\[1\]\.state: expected the names .*, got "foo"$/,
    ],
    [
      "other lengths",
      [part({}), part({ running_mean: [1] })],
      RangeError,
      /^parts\[1\]\.state\.running_mean: expected 2 elements \(2\), got 1$/,
    ],
    [
      "another length of the variance",
      [part({ running_var: [1] })],
      RangeError,
      /^parts\[0\]\.state\.running_var: expected 2 elements/,
    ],
    [
      "other lengths of gamma",
      [part({}), part({ weight: [1] })],
      RangeError,
      /^parts\[1\]\.state\.weight: expected 2 elements/,
    ],
    [
      "bits without a type",
      [part({ weight: Uint16Array.of(1, 2) })],
      TypeError,
      /^parts\[0\]\.state\.weight: expected floats, whose type is declared/,
    ],
    [
      "a count that is none",
      [part({ num_batches_tracked: -1 })],
      TypeError,
      /^parts\[0\]\.state\.num_batches_tracked: expected one count/,
    ],
    [
      "another framework",
      [part({})],
      RangeError,
      /^parts\[0\]\.state: expected running statistics \(moving_mean, moving_variance\), got none$/,
      { framework: "keras" },
    ],
    [
      "an old option",
      [part({})],
      TypeError,
      /options: expected options among framework, runningVariance, got "format"$/,
      { format: "keras" },
    ],
  ])("%s: the error names it", (_, parts, kind, message, options) => {
    const merge = (): MergedState => mergeStates(parts as StatePart[], options);
    expect(merge).toThrow(kind);
    expect(merge).toThrow(message);
  });
});
