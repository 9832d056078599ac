// States of other frameworks: their names, prefixes and shapes, and states that are loaded in part or not at all. Tests
// that need PyTorch's names only are in running.test.ts.

import { describe, expect, test } from "vitest";
import {
  BatchNorm,
  type Framework,
  type LoadOptions,
  type NamedState,
  type Options,
  readSafetensors,
  type StateSource,
  tensor,
  writeSafetensors,
} from "../../src/index.ts";
import { FRAMEWORKS, layer, vectorsOf } from "../support/state.ts";

describe("names", () => {
  test.each<[Framework, string[]]>([
    ["pytorch", ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]],
    ["keras", ["gamma", "beta", "moving_mean", "moving_variance"]],
    ["tfjs", ["gamma", "beta", "moving_mean", "moving_variance"]],
    ["onnx", ["scale", "B", "input_mean", "input_var"]],
    ["flax", ["params/scale", "params/bias", "batch_stats/mean", "batch_stats/var"]],
    [
      "haiku",
      [
        "params/scale",
        "params/offset",
        "state/~/mean_ema/average",
        "state/~/var_ema/average",
        "state/~/mean_ema/counter",
        "state/~/mean_ema/hidden",
        "state/~/var_ema/hidden",
        "state/~/var_ema/counter",
      ],
    ],
  ])("of %s are written, and hold copies", (framework, names) => {
    const bn = layer();
    const state = bn.stateDict({ framework });
    expect(Object.keys(state).sort()).toEqual(names.sort());
    const copy = structuredClone(vectorsOf(bn));
    for (const value of Object.values(state)) if (typeof value !== "number") value.fill(77);
    expect(vectorsOf(bn)).toEqual(copy);
  });

  test.each(FRAMEWORKS)("of %s carry a layer to another, by objects and by a file", (framework) => {
    const from = layer();
    const state = from.stateDict({ framework });
    for (const source of [state, readSafetensors(writeSafetensors(state)).tensors]) {
      const to = new BatchNorm(3);
      const held = vectorsOf(to);
      expect(to.loadStateDict(source, { framework })).toEqual({ missing: [], unexpected: [], invalid: [] });
      expect(vectorsOf(to)).toEqual(vectorsOf(from));
      for (const [name, vector] of Object.entries(held)) expect(vectorsOf(to)).toHaveProperty(name, vector);
      expect(to.batchesTracked).toBe(framework === "pytorch" || framework === "haiku" ? 2 : 0);
    }
  });

  test.each(FRAMEWORKS)("of %s are those of what the layer has", (framework) => {
    for (const options of [{ scale: false }, { shift: false }, { affine: false }, { trackRunningStats: false }]) {
      const from = layer(options);
      const to = new BatchNorm(3, options);
      to.loadStateDict(from.stateDict({ framework }), { framework });
      expect(vectorsOf(to)).toEqual(vectorsOf(from));
      expect(() => new BatchNorm(3).loadStateDict(from.stateDict({ framework }), { framework })).toThrow("missing ");
      expect(() => to.loadStateDict(layer().stateDict({ framework }), { framework })).toThrow("unexpected ");
    }
  });

  const V = { a: [1, 2, 3], b: [4, 5, 6], c: [7, 8, 9], d: [10, 11, 12] };
  const ema = (average: number[], counter = 5) => ({ hidden: [0, 0, 0], average, counter });
  test.each<[string, Framework, StateSource, string?]>([
    [
      "Keras 3's paths",
      "keras",
      { "bn/gamma": V.a, "bn/beta": V.b, "bn/moving_mean": V.c, "bn/moving_variance": V.d },
      "bn",
    ],
    [
      "Keras 3's state tree",
      "keras",
      {
        trainable_variables: { conv: { kernel: [1] }, bn: { gamma: V.a, beta: V.b } },
        non_trainable_variables: { bn: { moving_mean: V.c, moving_variance: V.d } },
      },
      "bn",
    ],
    [
      "TensorFlow's variables",
      "keras",
      { "bn/gamma:0": V.a, "bn/beta:0": V.b, "bn/moving_mean:0": V.c, "bn/moving_variance:0": V.d },
      "bn/",
    ],
    ["a Keras 3 file", "keras", { layers: { bn: { vars: { 0: V.a, 1: V.b, 2: V.c, 3: V.d } } } }, "layers/bn"],
    [
      "a Keras 3 file's paths",
      "keras",
      { "bn/vars/0": V.a, "bn/vars/1": V.b, "bn/vars/2": V.c, "bn/vars/3": V.d, "bn_1/vars/0": [0] },
      "bn/vars",
    ],
    ["TF.js's names", "tfjs", { gamma: V.a, beta: V.b, moving_mean: V.c, moving_variance: V.d }],
    ["ONNX's inputs", "onnx", { scale: V.a, B: V.b, input_mean: V.c, input_var: V.d }],
    ["ONNX's inputs before opset 14", "onnx", { scale: V.a, B: V.b, mean: V.c, var: V.d }],
    ["Flax's flat names", "flax", { scale: V.a, bias: V.b, mean: V.c, var: V.d }],
    ["Flax's variables", "flax", { params: { scale: V.a, bias: V.b }, batch_stats: { mean: V.c, var: V.d } }],
    [
      "a Flax model's variables",
      "flax",
      {
        params: { Block_0: { BatchNorm_0: { scale: V.a, bias: V.b }, Conv_0: { kernel: [1] } } },
        batch_stats: { Block_0: { BatchNorm_0: { mean: V.c, var: V.d } } },
      },
      "Block_0/BatchNorm_0",
    ],
    [
      "a Flax model's flattened variables",
      "flax",
      { "params.bn.scale": V.a, "params.bn.bias": V.b, "batch_stats.bn.mean": V.c, "batch_stats.bn.var": V.d },
      "bn",
    ],
    ["Haiku's flat names", "haiku", { scale: V.a, offset: V.b, mean_ema: ema(V.c), var_ema: ema(V.d) }],
    [
      "a Haiku model's params and state",
      "haiku",
      {
        params: { "net/~/bn": { scale: V.a, offset: V.b } },
        state: { "net/~/bn/~/mean_ema": ema(V.c), "net/~/bn/~/var_ema": ema(V.d) },
      },
      "net/~/bn",
    ],
    [
      "both of them as one object",
      "haiku",
      { bn: { scale: V.a, offset: V.b }, "bn/~/mean_ema": ema(V.c), "bn/~/var_ema": ema(V.d) },
      "bn",
    ],
  ])("in the form of %s are read", (_, framework, state, prefix = "") => {
    const bn = new BatchNorm(3);
    bn.loadStateDict(state, { framework, prefix });
    expect(bn.stateDict()).toEqual({
      weight: Float32Array.from(V.a),
      bias: Float32Array.from(V.b),
      running_mean: Float32Array.from(V.c),
      running_var: Float32Array.from(V.d),
      num_batches_tracked: framework === "haiku" ? 5 : 0,
    });
  });

  test("of Keras 3's files are numbers, in the order of what the layer has", () => {
    const load = (options: Options, count: number, settings: LoadOptions = {}) => {
      const bn = new BatchNorm(3, options);
      const state = Object.fromEntries(
        Array.from({ length: count }, (_, i) => [`bn/vars/${i}`, [i + 1, i + 1, i + 1]]),
      );
      bn.loadStateDict(state, { framework: "keras", prefix: "bn", ...settings });
      return Object.values(vectorsOf(bn)).map((v) => v?.[0] ?? null);
    };
    expect(load({}, 4)).toEqual([1, 2, 3, 4]);
    expect(load({ scale: false }, 3)).toEqual([null, 1, 2, 3]);
    expect(load({ shift: false }, 3)).toEqual([1, null, 2, 3]);
    expect(load({ affine: false }, 2)).toEqual([null, null, 1, 2]);
    expect(load({ trackRunningStats: false }, 2)).toEqual([1, 2, null, null]);
    // another number of variables is another layer's, and none of them is taken for something else
    for (const [options, count] of [
      [{}, 3],
      [{ scale: false }, 4],
    ] as const) {
      expect(() => load(options, count)).toThrow(/missing bn\/.*unexpected bn\/vars\/0; unexpected bn\/vars\/1/);
      expect(() => load(options, count, { strict: false })).toThrow(/prefix: expected names such as bn\//);
    }
    expect(() => load({}, 4, { prefix: "" })).toThrow('Pass the prefix of one layer, as in ["bn"]');
  });

  test("of one framework are not another's", () => {
    const bn = new BatchNorm(3);
    expect(() => bn.loadStateDict(layer().stateDict(), { framework: "keras" })).toThrow(
      "loadStateDict: nothing was loaded; missing gamma; missing beta; missing moving_mean; missing moving_variance; " +
        "unexpected weight; unexpected bias; unexpected running_mean; unexpected running_var; unexpected num_batches",
    );
  });

  test("given twice are refused", () => {
    const state = { ...layer().stateDict({ framework: "keras" }), "gamma:0": [1, 2, 3] };
    expect(() => new BatchNorm(3).loadStateDict(state, { framework: "keras" })).toThrow(
      "gamma:0: expected one value of that name, got two",
    );
  });

  test("of Object.prototype are names like any other", () => {
    const state = JSON.parse('{"__proto__": {"weight": [1, 2, 3], "polluted": [1]}, "constructor": [1]}');
    const bn = new BatchNorm(3, { trackRunningStats: false, shift: false });
    expect(() => bn.loadStateDict(state)).toThrow("unexpected __proto__/polluted; unexpected constructor");
    bn.loadStateDict(JSON.parse('{"__proto__": {"weight": [1, 2, 3]}}'), { prefix: "__proto__" });
    expect(bn.gamma).toEqual(Float32Array.of(1, 2, 3));
    expect({}).not.toHaveProperty("weight");
    expect(Object.keys(bn.stateDict({ prefix: "__proto__" }))).toEqual(["__proto__.weight"]);
  });
});

test("a layer without running statistics knows no count of values", () => {
  const bn = new BatchNorm(3, { estimator: "population", trackRunningStats: false });
  const state = { ...bn.stateDict(), num_values_tracked: 5 };
  expect(() => bn.loadStateDict(state)).toThrow(/^loadStateDict: nothing was loaded; unexpected num_values_tracked$/);
});

describe("a prefix", () => {
  /** A model of two layers and more. */
  const model = (): NamedState => ({
    "conv1.weight": new Float32Array(27),
    ...layer().stateDict({ prefix: "bn1" }),
    ...layer({}, 1).stateDict({ prefix: "bn10" }),
    ...layer({}, 3).stateDict({ prefix: "layer1.0.bn1." }),
  });

  test.each([
    ["bn1", 2],
    ["bn1.", 2],
    ["bn10", 1],
    ["layer1.0.bn1", 3],
    ["layer1.0.bn1.", 3],
  ])("%j reads one layer of a model and looks at nothing else", (prefix, batches) => {
    const bn = new BatchNorm(3);
    expect(bn.loadStateDict(model(), { prefix })).toEqual({ missing: [], unexpected: [], invalid: [] });
    expect(bn.stateDict()).toEqual(layer({}, batches).stateDict());
  });

  test.each(FRAMEWORKS)("is written before %s's names, and read again", (framework) => {
    for (const prefix of ["net/bn", "net/bn/", "net.bn", "net.bn."]) {
      const bn = new BatchNorm(3);
      bn.loadStateDict(layer().stateDict({ framework, prefix }), { framework, prefix });
      expect(vectorsOf(bn)).toEqual(vectorsOf(layer()));
    }
  });

  test("stands between a collection and a name", () => {
    const names = (framework: Framework) => Object.keys(layer().stateDict({ framework, prefix: "bn" })).slice(0, 3);
    expect(names("pytorch")).toEqual(["bn.weight", "bn.bias", "bn.running_mean"]);
    expect(names("keras")).toEqual(["bn/gamma", "bn/beta", "bn/moving_mean"]);
    expect(names("onnx")).toEqual(["bn.scale", "bn.B", "bn.input_mean"]);
    expect(names("flax")).toEqual(["params/bn/scale", "params/bn/bias", "batch_stats/bn/mean"]);
    expect(names("haiku")).toEqual(["params/bn/scale", "params/bn/offset", "state/bn/~/mean_ema/average"]);
  });

  test("is said in errors, and is proposed where none of the names was found", () => {
    const bn = new BatchNorm(3);
    expect(() => bn.loadStateDict(model())).toThrow(
      /^loadStateDict: nothing was loaded; missing weight; .*unexpected conv1\.weight; .*\. Pass the prefix of one layer, as in \["bn1", "bn10", "layer1\.0\.bn1"\]$/,
    );
    expect(() => bn.loadStateDict(model(), { prefix: "layer1" })).toThrow(
      /missing layer1\.weight; .*unexpected layer1\.0\.bn1\.weight; .*Pass the prefix/,
    );
    const { "bn1.bias": _, ...without } = model();
    expect(() => bn.loadStateDict({ ...without, "bn1.beta": 1 }, { prefix: "bn1" })).toThrow(
      /^loadStateDict: nothing was loaded; missing bn1\.bias; unexpected bn1\.beta$/,
    );
    expect(() => bn.loadStateDict({ ...model(), "bn1.bias": [1] }, { prefix: "bn1" })).toThrow(
      /^loadStateDict: nothing was loaded; bn1\.bias: expected 3 elements, got 1$/,
    );
    expect(bn.stateDict()).toEqual(new BatchNorm(3).stateDict());
  });
});

describe("a state", () => {
  test.each(FRAMEWORKS)("of %s that was copied through JSON is the same", (framework) => {
    const from = layer({ estimator: "population" });
    const copy = JSON.parse(JSON.stringify(from.stateDict({ framework, prefix: "net" })));
    const to = new BatchNorm(3, { estimator: "population" });
    expect(to.loadStateDict(copy, { framework, prefix: "net" })).toEqual({ missing: [], unexpected: [], invalid: [] });
    expect(vectorsOf(to)).toEqual(vectorsOf(from));
    if (framework === "pytorch") expect(to.stateDict()).toEqual(from.stateDict());
  });

  test("that was copied through JSON has wrong values where it was not finite", () => {
    const bn = layer();
    bn.runningMean?.fill(Number.NaN, 1, 2);
    const copy = JSON.parse(JSON.stringify(bn.stateDict()));
    expect(() => layer().loadStateDict(copy)).toThrow("running_mean: expected an array of 3 numbers");
  });

  test("may be nested below numbers, which are no arrays", () => {
    const model = { 0: { weight: [1] }, 1: layer().stateDict() };
    const bn = new BatchNorm(3);
    bn.loadStateDict(model, { prefix: "1" });
    expect(vectorsOf(bn)).toEqual(vectorsOf(layer()));
    // and a branch of counts alone has names, which an array has not
    bn.loadStateDict({ bn: { num_batches_tracked: 9 } }, { prefix: "bn", strict: false });
    expect(bn.batchesTracked).toBe(9);
  });

  test("may be a Map, nested or not", () => {
    const map = new Map(Object.entries(layer().stateDict()));
    for (const [state, prefix] of [
      [map, ""],
      [new Map([["bn", map]]), "bn"],
      [{ bn: map }, "bn"],
    ] as const) {
      const bn = new BatchNorm(3);
      bn.loadStateDict(state, { prefix });
      expect(vectorsOf(bn)).toEqual(vectorsOf(layer()));
    }
  });

  test.each([
    new Uint8Array(400),
    new ArrayBuffer(400),
    ...(typeof SharedArrayBuffer === "function" ? [new SharedArrayBuffer(8)] : []),
    new DataView(new ArrayBuffer(8)),
    [new Float32Array(3)],
  ])("is no array and no bytes: %s", (bytes) => {
    for (const strict of [true, false])
      expect(() => layer().loadStateDict(bytes as never, { strict })).toThrow(
        /^state: expected an object of named arrays, as readSafetensors\(bytes\)\.tensors, got /,
      );
  });

  test("of 150,000 other names gets a bounded message and a complete report", () => {
    const bn = layer();
    const names = Array.from({ length: 150_000 }, (_, i) => `${"x".repeat(i ? 9 : 10_000)}${i}`);
    const state = { ...layer().stateDict(), ...Object.fromEntries(names.map((name) => [name, 1])) };
    expect(() => bn.loadStateDict(state)).toThrow(
      expect.toSatisfy(
        ({ message }: Error) =>
          message.length < 1000 && /^loadStateDict: .* unexpected x{100,240}…; .*… \(150000 in all\)$/.test(message),
      ) as Error,
    );
    expect(bn.loadStateDict(state, { strict: false }).unexpected.join()).toBe(names.join());
    const wrong = Object.fromEntries(names.slice(-30).map((name) => [name, 1]));
    expect(() => bn.loadStateDict({ ...layer().stateDict(), ...wrong, bias: [1], running_var: [1, 2, -1] })).toThrow(
      /; running_var: .*; bias: .*; unexpected /,
    );
  });

  test("that contains itself ends", () => {
    const state: Record<string, unknown> = { ...layer().stateDict() };
    state.self = state;
    const bn = new BatchNorm(3);
    expect(() => bn.loadStateDict(state as StateSource)).toThrow(/unexpected self$/);
    expect(bn.loadStateDict(state as StateSource, { strict: false }).missing).toEqual([]);
  });
});

describe("values", () => {
  const haiku = (shape: number[], data: Float32Array) => ({
    scale: { shape, data },
    offset: { shape: [3], data },
    mean_ema: { average: { shape, data }, hidden: [], counter: { shape: [], data: Int32Array.of(8) } },
    var_ema: { average: data },
  });

  test.each([[[3]], [[1, 3]], [[1, 1, 1, 3]], [[1, 3, 1, 1]], [[3, 1]]])("of shape %j are vectors of 3", (shape) => {
    const bn = new BatchNorm(3);
    bn.loadStateDict(haiku(shape, Float32Array.of(5, 6, 7)), { framework: "haiku" });
    expect(bn.stateDict()).toEqual({
      weight: Float32Array.of(5, 6, 7),
      bias: Float32Array.of(5, 6, 7),
      running_mean: Float32Array.of(5, 6, 7),
      running_var: Float32Array.of(5, 6, 7),
      num_batches_tracked: 8,
    });
  });

  test.each([
    [[2, 3], 6, "expected shape [6] but for ones, got [2,3]"],
    [[3], 6, "expected shape [6] but for ones, got [3]"],
    [[], 6, "expected shape [6] but for ones, got []"],
    [[6, 6], 6, "expected shape [6] but for ones, got [6,6]"],
    [[6], 5, "expected 6 elements, got 5"],
  ])("of shape %j with %i elements are no vector of 6", (shape, length, message) => {
    const bn = new BatchNorm(6, { trackRunningStats: false, shift: false });
    const load = () => bn.loadStateDict({ weight: { shape, data: new Float32Array(length) } });
    expect(load).toThrow(`weight: ${message}`);
  });

  test("of one channel may have any rank", () => {
    for (const shape of [[], [1], [1, 1, 1, 1]]) {
      const bn = new BatchNorm(1, { trackRunningStats: false, shift: false });
      bn.loadStateDict({ weight: { shape, data: Float32Array.of(4) } });
      expect(bn.gamma).toEqual(Float32Array.of(4));
    }
  });

  test("may be tensors in wasm memory, Float64Arrays, and the layer's own vectors", () => {
    const bn = layer({ trackRunningStats: false });
    const { weight, bias } = bn.stateDict();
    bn.loadStateDict({ weight: bn.beta as Float32Array, bias: bn.gamma as Float32Array });
    expect([bn.gamma, bn.beta]).toEqual([bias, weight]);
    const t = tensor([3], Float32Array.of(1, 2, 3));
    bn.loadStateDict({ weight: t, bias: Float64Array.of(0.1, 0.2, 0.3) });
    t.dispose();
    expect([bn.gamma, bn.beta]).toEqual([Float32Array.of(1, 2, 3), Float32Array.of(0.1, 0.2, 0.3)]);
  });

  test.each([
    [{ data: "abc", shape: [3] }],
    [{ data: [1, 2, "3"], shape: [3] }],
    [new Date()],
    [{ dataSync: () => Float32Array.of(1, 2, 3) }],
    [{}],
    [new Map([["data", 1]])],
  ])("such as %j are refused, and nothing is loaded", (wrong) => {
    const bn = layer();
    const before = bn.stateDict();
    const state = { ...new BatchNorm(3).stateDict(), bias: wrong } as unknown as StateSource;
    expect(() => bn.loadStateDict(state)).toThrow(/^loadStateDict: nothing was loaded; .*bias/);
    expect(bn.stateDict()).toEqual(before);
  });

  test("that are holes of a list are refused, also where values need not be finite", () => {
    // biome-ignore lint/suspicious/noSparseArray: holes are what is refused
    const state = { ...new BatchNorm(3).stateDict(), bias: [1, , 3] } as StateSource;
    for (const strict of [true, false])
      expect(() => new BatchNorm(3).loadStateDict(state, { strict })).toThrow(
        /; bias: expected an array of 3 numbers;/,
      );
  });

  test("of another library's classes are no nested states", () => {
    class Other {
      readonly data = { shape: [3] };
      readonly self = this;
    }
    const state = { ...new BatchNorm(3).stateDict(), bias: new Other() } as unknown as StateSource;
    expect(() => new BatchNorm(3).loadStateDict(state)).toThrow(
      /^loadStateDict: nothing was loaded; bias: expected an array of 3 numbers; those of 16 bits need \{ data, shape, dtype \}$/,
    );
  });

  test("whose home was transferred to another thread are refused before anything is written", () => {
    const bn = layer();
    const gamma = bn.gamma?.slice();
    structuredClone(bn.beta, { transfer: [(bn.beta as Float32Array).buffer] });
    const load = () => bn.loadStateDict(new BatchNorm(3).stateDict());
    expect(load).toThrow(/^beta: expected 3 elements \(3\), got 0/);
    expect(() => bn.stateDict()).toThrow(/^beta: expected 3 elements \(3\), got 0/);
    expect(bn.gamma).toEqual(gamma);
  });
});

describe("strict: false", () => {
  test("loads what is there, leaves what is missing, and tells the names", () => {
    const bn = layer();
    const { bias, running_var } = bn.stateDict();
    const state = { weight: [1, 2, 3], running_mean: [4, 5, 6], gamma: [0], "fc.weight": [0] };
    expect(bn.loadStateDict(state, { strict: false })).toEqual({
      missing: ["bias", "running_var", "num_batches_tracked"],
      unexpected: ["gamma", "fc.weight"],
      invalid: [],
    });
    expect(bn.stateDict()).toEqual({
      weight: Float32Array.of(1, 2, 3),
      bias,
      running_mean: Float32Array.of(4, 5, 6),
      running_var,
      num_batches_tracked: 0,
    });
  });

  test("keeps the count of statistics that it does not load", () => {
    const bn = layer({ estimator: "population" });
    const { num_batches_tracked, num_values_tracked, running_mean } = bn.stateDict();
    const state = { gamma: [1, 2, 3], beta: [1, 2, 3] };
    expect(bn.loadStateDict(state, { framework: "keras", strict: false, prefix: "" })).toEqual({
      missing: ["moving_mean", "moving_variance"],
      unexpected: [],
      invalid: [],
    });
    expect(bn.stateDict()).toMatchObject({ num_batches_tracked, num_values_tracked, running_mean });
    expect(num_values_tracked).toBe(48);
  });

  test("loads a count alone", () => {
    const bn = layer({ estimator: "population" });
    const { missing } = bn.loadStateDict({ num_batches_tracked: 9, num_values_tracked: 90n }, { strict: false });
    expect(missing).toEqual(["weight", "bias", "running_mean", "running_var"]);
    expect(bn.stateDict()).toEqual({
      ...layer({ estimator: "population" }).stateDict(),
      num_batches_tracked: 9,
      num_values_tracked: 90,
    });
  });

  test("refuses a prefix below which nothing of the layer is", () => {
    const bn = layer();
    const before = bn.stateDict();
    const model = { ...layer().stateDict({ prefix: "layer1.bn1" }), "bn2.gamma": [1] };
    for (const prefix of ["layer1.bm1", "layer1", "bn2", "layer1.bn"])
      expect(() => bn.loadStateDict(model, { prefix, strict: false })).toThrow(
        `loadStateDict: nothing was loaded; prefix: expected names such as ${prefix}.weight, got none. ` +
          'Pass the prefix of one layer, as in ["layer1.bn1"]',
      );
    expect(bn.stateDict()).toEqual(before);
    const nothing = { unexpected: [], invalid: [] };
    expect(bn.loadStateDict({}, { strict: false })).toMatchObject(nothing);
    const empty = new BatchNorm(3, { affine: false, trackRunningStats: false });
    expect(empty.loadStateDict(model, { prefix: "bn3", strict: false })).toEqual({ missing: [], ...nothing });
  });

  test("still refuses wrong values, and loads nothing then", () => {
    const bn = layer();
    const before = bn.stateDict();
    const load = () => bn.loadStateDict({ weight: [1, 2, 3], bias: [1] }, { strict: false });
    expect(load).toThrow(/^loadStateDict: nothing was loaded; bias: expected 3 elements, got 1$/);
    expect(bn.stateDict()).toEqual(before);
  });
});

test.each<[unknown, ErrorConstructor, RegExp]>([
  [{ framework: "torch" }, RangeError, /^framework: expected "pytorch" or "keras" or .*, got "torch"/],
  [{ framework: 5 }, TypeError, /^framework: expected a string, got 5/],
  [{ framework: "constructor" }, RangeError, /^framework: expected /],
  [{ prefix: 5 }, TypeError, /^prefix: expected a string, got 5/],
  [{ count: "8" }, TypeError, /^count: expected a number, got "8"/],
  [{ count: 1 }, RangeError, /^count: expected more than 1 value per channel, got 1/],
  [{ count: Number.NaN }, RangeError, /^count: expected more than 1/],
  [{ count: Number.POSITIVE_INFINITY }, RangeError, /^count: expected more than 1/],
  [{ format: "keras" }, TypeError, /options: expected options among framework, prefix, count.*, got "format"/],
  [{ prefx: "bn" }, TypeError, /options: expected options among framework, prefix, count.*, got "prefx"/],
  ["keras", TypeError, /options: expected an object, got "keras"/],
])("the options %j are refused", (options, kind, message) => {
  const bn = layer();
  for (const call of [
    () => bn.stateDict(options as never),
    () => bn.loadStateDict(new BatchNorm(3).stateDict(), options as never),
  ]) {
    expect(call).toThrow(kind);
    expect(call).toThrow(message);
  }
  expect(() => bn.stateDict({ strict: true } as never)).toThrow(/got "strict"/);
  expect(() => bn.loadStateDict(bn.stateDict(), { strict: 1 as never })).toThrow(/^strict: expected a boolean, got 1/);
  expect(vectorsOf(bn)).toEqual(vectorsOf(layer()));
});

test("a state that contains itself is refused", () => {
  const state: Record<string, unknown> = { ...new BatchNorm(2).stateDict() };
  Object.assign(state, { a: state, b: new Map([["c", state]]) });
  expect(() => new BatchNorm(2).loadStateDict(state as never)).toThrow(/unexpected a; unexpected b\/c$/);
});

test("a state whose objects share objects at every level, and so has exponentially many paths, is read in part", () => {
  let shared: Record<string, unknown> = { gamma: [3, 4], foo: 1 };
  for (let level = 0; level < 30; level++) shared = { a: shared, b: shared };
  const { unexpected } = new BatchNorm(2).loadStateDict({ shared } as never, { strict: false });
  expect(unexpected.length).toBeGreaterThan(1000);
  expect(unexpected.length).toBeLessThan(20_000);
  expect(unexpected[0]).toBe(`shared/${"a/".repeat(30)}gamma`);
});

test("layers that share a state are read by each of their names", () => {
  const shared = { gamma: [3, 4], beta: [5, 6], moving_mean: [0, 0], moving_variance: [1, 1] };
  const state = Object.fromEntries(Array.from({ length: 500 }, (_, i) => [`bn${i}`, shared]));
  const bn = new BatchNorm(2);
  bn.loadStateDict(state, { framework: "keras", prefix: "bn499", strict: true });
  expect([...bn.gamma]).toEqual([3, 4]);
});
