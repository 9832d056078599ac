// Options of a layer: their defaults, and an error with the option's name for every wrong type and value.

import { beforeEach, describe, expect, test, vi } from "vitest";
import { BatchNorm, type Options } from "../../src/index.ts";

const resolved = (options?: unknown) => new BatchNorm(2, options as Options).options;

const DEFAULTS = {
  dtype: "float32",
  layout: "channels-first",
  epsilon: 1e-5,
  momentum: 0.1,
  scale: true,
  shift: true,
  trackRunningStats: true,
  runningVariance: "unbiased",
  estimator: "ema",
  onNonFinite: "throw",
  activation: "none",
  negativeSlope: null,
  ghostBatchSize: null,
  renorm: null,
};

describe("options", () => {
  test.each([
    ["nothing said", undefined],
    ["no option", {}],
    [
      "undefined for every option",
      Object.fromEntries([...Object.keys(DEFAULTS), "decay", "preset", "affine"].map((k) => [k, undefined])),
    ],
  ])("with %s are PyTorch's", (_, options) => {
    expect(resolved(options)).toEqual(DEFAULTS);
  });

  test.each<Options>([
    { layout: "channels-last" },
    { layout: "channels-first" },
    { epsilon: 0 },
    { epsilon: 1e-3 },
    { momentum: 0 },
    { momentum: 0.25 },
    { scale: false },
    { shift: false },
    { trackRunningStats: false },
    { runningVariance: "biased" },
    { estimator: "cumulative" },
    { estimator: "population" },
    { onNonFinite: "skip" },
    { onNonFinite: "allow" },
    { estimator: "debiased" },
    { activation: "silu" },
    { activation: "leaky_relu", negativeSlope: 0.2 },
    { ghostBatchSize: 4 },
    { renorm: { rMax: 3, dMax: 5 } },
  ])("are taken as given, and one leaves the others alone: %j", (options) => {
    expect(resolved(options)).toEqual({ ...DEFAULTS, ...options });
  });

  test("are read once: what becomes of the object later does not matter", () => {
    const options: Options = { epsilon: 0.5 };
    const bn = new BatchNorm(2, options);
    options.epsilon = 7;
    options.layout = "channels-last";
    expect(bn.options).toEqual({ ...DEFAULTS, epsilon: 0.5 });
  });

  test.each([
    [0.9, 1 - 0.9],
    [0.99, 1 - 0.99],
    [1, 0],
    [0, 1],
  ])("decay %d, the weight of the old value, is momentum %d", (decay, momentum) => {
    expect(resolved({ decay })).toEqual({ ...DEFAULTS, momentum });
  });

  test.each([
    [{ affine: false }, false, false],
    [{ affine: false, scale: true, shift: true }, false, false],
    [{ affine: true }, true, true],
    [{ affine: true, shift: false }, true, false],
    [{ scale: false }, false, true],
    [{ shift: false }, true, false],
    [{ scale: false, shift: false }, false, false],
  ])("%j decide on gamma and beta", (options, scale, shift) => {
    const bn = new BatchNorm(2, options);
    expect(bn.options).toEqual({ ...DEFAULTS, scale, shift });
    expect(bn.gamma).toEqual(scale ? Float32Array.of(1, 1) : null);
    expect(bn.beta).toEqual(shift ? new Float32Array(2) : null);
    expect(Object.keys(bn.stateDict())).toEqual([
      ...(scale ? ["weight"] : []),
      ...(shift ? ["bias"] : []),
      "running_mean",
      "running_var",
      "num_batches_tracked",
    ]);
  });

  test.each([
    ["layout", ["NCHW", "channels_first", ""], '"channels-first" or "channels-last"', [1, null, {}]],
    ["epsilon", [-1e-9, Number.NaN, Number.POSITIVE_INFINITY], "a finite number ≥ 0", ["1e-5", null, 1n]],
    ["momentum", [-0.1, 1.1, Number.NaN], "a number in [0, 1]", ["0.1", null, true]],
    ["decay", [-0.1, 1.1, Number.NEGATIVE_INFINITY], "a number in [0, 1]", ["0.9", null, [0.9]]],
    ["scale", [], "", [0, 1, "true", null]],
    ["shift", [], "", [0, 1, "true", null]],
    ["affine", [], "", [0, 1, "false", null]],
    ["trackRunningStats", [], "", [0, 1, "false", null]],
    ["runningVariance", ["sample"], '"unbiased" or "biased"', [true, null]],
    ["estimator", ["EMA", "mean"], '"ema" or "debiased" or "cumulative" or "population"', [null, 0.1]],
    ["onNonFinite", ["ignore"], '"throw" or "skip" or "allow"', [false, null]],
    ["activation", ["ReLU", "gelu"], '"none" or "relu" or "leaky_relu" or "relu6" or "silu"', [false, null]],
    ["ghostBatchSize", [0, -2, 1.5, Number.NaN], "a positive integer", ["4", true]],
    ["dtype", ["float", "f64"], '"float32" or "float64" or "float16" or "bfloat16"', [64, null]],
    [
      "preset",
      ["torch", "toString"],
      '"pytorch" or "keras" or "tfjs" or "onnx" or "flax" or "haiku" or "paper"',
      [true, null],
    ],
  ])(
    "%s is refused with RangeError for a wrong value and TypeError for a wrong kind",
    (name, values, expected, kinds) => {
      for (const value of values) {
        const shown = typeof value === "string" ? JSON.stringify(value) : String(value);
        expect(() => resolved({ [name]: value })).toThrow(
          new RangeError(`${name}: expected ${expected}, got ${shown}`),
        );
      }
      for (const value of kinds) {
        expect(() => resolved({ [name]: value })).toThrow(TypeError);
        expect(() => resolved({ [name]: value })).toThrow(
          new RegExp(`^${name}: expected a (number|string|boolean), got `),
        );
      }
    },
  );

  test.each([
    [{ eps: 1e-3 }, '"eps"'],
    [{ axis: 1 }, '"axis"'],
    [{ epsilon: 1e-3, track_running_stats: true }, '"track_running_stats"'],
    [{ momentum: 0.1, axis_name: "batch" }, '"axis_name"'],
  ])("%j, with a name that is none of ours, are refused with the names that are", (options, got) => {
    expect(() => resolved(options)).toThrow(TypeError);
    expect(() => resolved(options)).toThrow(
      `options: expected options among preset, dtype, layout, epsilon, momentum, decay, scale, shift, affine, ` +
        `trackRunningStats, runningVariance, estimator, onNonFinite, activation, negativeSlope, ghostBatchSize, renorm, ` +
        `got ${got}`,
    );
  });

  test.each<Options>([
    {},
    { preset: "keras", affine: false, activation: "silu" },
    { activation: "leaky_relu", negativeSlope: 0.3, ghostBatchSize: 2, renorm: { rMax: 1, dMax: 0 } },
  ])("that a layer resolved, %j, make another like it", (options) => {
    const { options: once } = new BatchNorm(2, options);
    expect(new BatchNorm(2, once).options).toEqual(once);
  });

  test.each([
    [{ negativeSlope: 0.1 }, "none"],
    [{ negativeSlope: 0.1, activation: "relu" }, "relu"],
  ])("%j, a slope that no activation has, are refused", (options, got) => {
    expect(() => resolved(options)).toThrow(
      new RangeError(`negativeSlope: expected activation "leaky_relu" with it, got "${got}"`),
    );
  });

  test("refuse a slope that is no number by its kind, whichever activation it is for", () => {
    for (const activation of ["relu", "leaky_relu"] as const)
      expect(() => resolved({ activation, negativeSlope: "0.1" as never })).toThrow(
        new TypeError('negativeSlope: expected a number, got "0.1"'),
      );
  });

  test.each([0, 1, -0.1, 1.5, Number.NaN])("with leaky_relu refuse a slope of %d", (negativeSlope) => {
    expect(() => resolved({ activation: "leaky_relu", negativeSlope })).toThrow(
      new RangeError(`negativeSlope: expected a number between 0 and 1, got ${negativeSlope}`),
    );
    expect(() => resolved({ activation: "leaky_relu", negativeSlope: String(negativeSlope) })).toThrow(TypeError);
  });

  test.each([null, 1e-3, "keras", ["channels-last"]])("that are %j are refused", (options) => {
    expect(() => resolved(options)).toThrow(TypeError);
    expect(() => resolved(options)).toThrow(/^options: expected an object, got /);
  });

  test("with momentum and decay both are refused, even where they agree, with what each weighs", () => {
    expect(() => resolved({ momentum: 0.1, decay: 0.9 })).toThrow(TypeError);
    expect(() => resolved({ momentum: 0.1, decay: 0.9 })).toThrow(
      /^momentum: expected without decay, got both; leave one of them out$/,
    );
  });

  test.each([
    [0, RangeError],
    [-3, RangeError],
    [2.5, RangeError],
    [Number.NaN, RangeError],
    [2 ** 53, RangeError],
    [2 ** 40, RangeError],
    ["64", TypeError],
    [undefined, TypeError],
    [null, TypeError],
    [[64], TypeError],
  ])("leave the number of channels to be a positive integer that 4 GiB can hold: %j is refused", (channels, kind) => {
    expect(() => new BatchNorm(channels as number)).toThrow(kind);
    expect(() => new BatchNorm(channels as number)).toThrow(
      /^channels: expected (a number|a positive integer|at most .*), got /,
    );
    // as many float32 values as 4 GiB less 64 KiB have room for
    expect(() => new BatchNorm(2 ** 30)).toThrow("channels: expected at most 1073725440, got 1073741824");
  });

  test.each([
    ["channels-first", [2, 3, 4], [2, 4, 3], "axis 1"],
    ["channels-last", [2, 4, 3], [2, 3, 4], "axis 2"],
    ["channels-last", [2, 4, 5, 3], [2, 3, 5, 4], "axis 3"],
  ] as const)("with layout %s take %j for 3 channels and refuse %j, naming %s", (layout, good, bad, axis) => {
    const bn = new BatchNorm(3, { layout });
    const input = (shape: readonly number[]) => ({ data: new Float32Array(shape.reduce((a, b) => a * b)), shape });
    expect(bn.forward(input(good)).shape).toEqual(good);
    expect(() => bn.forward(input(bad))).toThrow(RangeError);
    expect(() => bn.forward(input(bad))).toThrow(
      `x: expected 3 channels on ${axis} (layout "${layout}"), got 4 in ${bad.join("×")}; pass the other`,
    );
  });

  test("with either layout read rank 2 the same", () => {
    const data = Float32Array.of(1, 20, 300, 2, 10, 900, 4, 60, 100);
    const [first, last] = (["channels-first", "channels-last"] as const).map((layout) =>
      new BatchNorm(3, { layout }).forward({ data, shape: [3, 3] }),
    );
    expect(last).toEqual(first);
  });
});

describe("the hint on momentum", () => {
  // the hint is given once per module, so every test has a module of its own
  const warn = vi.spyOn(console, "warn").mockImplementation(() => {});
  beforeEach(() => {
    vi.resetModules();
    warn.mockClear();
  });

  test("from 0.9 on is given once, says what momentum weighs, and changes nothing", async () => {
    const { BatchNorm: Fresh } = await import("../../src/index.ts");
    expect(new Fresh(2, { momentum: 0.99 }).options.momentum).toBe(0.99);
    expect(warn.mock.calls).toEqual([
      [expect.stringMatching(/momentum 0\.99 weighs the NEW batch.* pass decay: 0\.99/)],
    ]);
    new Fresh(2, { momentum: 0.9 });
    new Fresh(2, { momentum: 0.99 });
    expect(warn).toHaveBeenCalledTimes(1);
  });

  test.skipIf("window" in globalThis).each(["pytorch", "keras", "paper"] as const)(
    "of 0.9 is given with the preset %s, too (not in a page, which loads a module once)",
    async (preset) => {
      const { BatchNorm: Fresh } = await import("../../src/index.ts");
      new Fresh(2, { preset, momentum: 0.9 });
      expect(warn).toHaveBeenCalledTimes(1);
    },
  );

  test("is not given for a configuration of PyTorch, whose momentum is that of the new batch", async () => {
    const { BatchNorm: Fresh, optionsFrom: from } = await import("../../src/index.ts");
    for (const momentum of [0.1, 0.5, 0.7, 0.9, 0.95, 0.99, 0.999, 1])
      expect(new Fresh(2, from("pytorch", { momentum })).options.momentum).toBe(momentum);
    expect(warn).not.toHaveBeenCalled();
    expect(() => new Fresh(2, from("pytorch", { momentum: 1.5 }))).toThrow(/^momentum: expected a number in \[0, 1\]/);
  });

  test("is not given for PyTorch's values, for decay, or for what is refused", async () => {
    const { BatchNorm: Fresh } = await import("../../src/index.ts");
    for (const options of [{}, { momentum: 0.89 }, { momentum: 1 }, { momentum: 0 }, { decay: 0.99 }, { decay: 0.1 }])
      new Fresh(2, options);
    expect(() => new Fresh(2, { momentum: 1.5 })).toThrow(RangeError);
    expect(() => new Fresh(2, { momentum: 0.9, decay: 0.1 })).toThrow(TypeError);
    expect(warn).not.toHaveBeenCalled();
  });
});
