// Conversion of other frameworks' configurations to options and back.

import { describe, expect, test, vi } from "vitest";
import { BatchNorm, type Config, configFor, type Framework, type Options, optionsFrom } from "../../src/index.ts";

const warn = vi.spyOn(console, "warn").mockImplementation(() => {});

/** Options as a layer has them. */
const resolved = (options: Options) => new BatchNorm(1, options).options;

const BIASED = { runningVariance: "biased", scale: true, shift: true } as const;
const DEFAULTS: [Framework, object, Options][] = [
  ["pytorch", {}, {}],
  ["keras", {}, { ...BIASED, layout: "channels-last", epsilon: 1e-3, decay: 0.99 }],
  ["tfjs", {}, { ...BIASED, layout: "channels-last", epsilon: 1e-3, decay: 0.99 }],
  ["onnx", {}, { ...BIASED, layout: "channels-first", epsilon: 1e-5, decay: 0.9 }],
  ["flax", {}, { ...BIASED, layout: "channels-last", epsilon: 1e-5, decay: 0.99 }],
  [
    "haiku",
    { create_scale: true, create_offset: true, decay_rate: 0.9 },
    { ...BIASED, layout: "channels-last", epsilon: 1e-5, decay: 0.9, estimator: "debiased" },
  ],
];

describe("optionsFrom", () => {
  test.each(DEFAULTS)("%s %j has that framework's defaults", (framework, config, expected) => {
    expect(resolved(optionsFrom(framework, config))).toEqual(resolved(expected));
  });

  test.each<[Framework, object, Partial<Options>]>([
    ["pytorch", { num_features: 8, eps: 1e-3, momentum: 0.2, device: null }, { epsilon: 1e-3, momentum: 0.2 }],
    ["pytorch", { momentum: null }, { estimator: "cumulative" }],
    [
      "pytorch",
      { affine: false, track_running_stats: false },
      { scale: false, shift: false, trackRunningStats: false },
    ],
    // what Keras 3.15 returns from get_config()
    [
      "keras",
      {
        name: "bn",
        trainable: true,
        dtype: { module: "keras", class_name: "DTypePolicy", config: { name: "float32" }, registered_name: null },
        axis: 1,
        momentum: 0.9,
        epsilon: 0.01,
        center: false,
        scale: true,
        beta_initializer: { module: "keras.initializers", class_name: "Zeros", config: {}, registered_name: null },
        gamma_regularizer: null,
        synchronized: false,
        renorm: false,
        renorm_clipping: null,
        renorm_momentum: 0.99,
      },
      { layout: "channels-first", momentum: 1 - 0.9, epsilon: 0.01, shift: false, scale: true },
    ],
    ["keras", { axis: [3], scale: false }, { layout: "channels-last", scale: false }],
    ["keras", { axis: [1] }, { layout: "channels-first" }],
    // what TF.js 4.22 returns from getConfig()
    [
      "tfjs",
      { axis: -1, momentum: 0.75, epsilon: 1e-4, center: true, scale: true, betaInitializer: {}, name: "b" },
      { layout: "channels-last", momentum: 0.25, epsilon: 1e-4 },
    ],
    ["onnx", { epsilon: 9.999999747378752e-6, momentum: 0.5, training_mode: 0, spatial: 1 }, { momentum: 0.5 }],
    [
      "flax",
      { use_running_average: true, momentum: 0.75, axis: [-1], use_bias: false },
      { momentum: 0.25, shift: false },
    ],
    ["flax", { use_scale: false, axis: 1 }, { scale: false, layout: "channels-first" }],
    [
      "haiku",
      { create_scale: false, create_offset: true, decay_rate: 0.75, eps: 0.5, data_format: "NC...", axis: null },
      { scale: false, shift: true, momentum: 0.25, epsilon: 0.5, layout: "channels-first" },
    ],
    [
      "haiku",
      { create_scale: true, create_offset: false, decay_rate: 0.5, data_format: "NHWC" },
      { shift: false, layout: "channels-last" },
    ],
  ])("%s %j", (framework, config, expected) => {
    expect(resolved(optionsFrom(framework, config))).toMatchObject(expected);
  });

  test("gives no hint on momentum: the flip has been made", () => {
    resolved(optionsFrom("keras", { momentum: 0.3 }));
    expect(warn).not.toHaveBeenCalled();
  });

  test.each(["channels_first", "NC...", "NCHW", "NCDHW"])(
    "reads Haiku's data_format %j as channels first",
    (format) => {
      const config = { create_scale: true, create_offset: true, decay_rate: 0.9, data_format: format };
      expect(optionsFrom("haiku", config).layout).toBe("channels-first");
    },
  );

  test.each(["channels_last", "N...C", "NHWC", "BTD", "BTHWD"])(
    "reads Haiku's data_format %j as channels last",
    (format) => {
      const config = { create_scale: true, create_offset: true, decay_rate: 0.9, data_format: format };
      expect(optionsFrom("haiku", config).layout).toBe("channels-last");
    },
  );

  const HAIKU = { create_scale: true, create_offset: true, decay_rate: 0.9 };
  test.each<[Framework, unknown, ErrorConstructor, RegExp]>([
    ["keras", { axis: [1, 2] }, RangeError, /^config\.axis: expected one axis: 1 or, for the last, -1, got \[1, 2\]/],
    ["keras", { axis: [] }, RangeError, /^config\.axis: expected one axis/],
    ["keras", { axis: 0 }, RangeError, /^config\.axis: expected one axis/],
    ["keras", { axis: -2 }, RangeError, /^config\.axis: expected one axis/],
    ["keras", { axis: "1" }, RangeError, /^config\.axis: expected one axis/],
    ["flax", { axis: [0, 1] }, RangeError, /^config\.axis: expected one axis/],
    ["keras", { renorm: true }, RangeError, /^config\.renorm: expected false \(batch renorm.*, got true/],
    ["keras", { virtual_batch_size: 8 }, RangeError, /^config\.virtual_batch_size: expected null .*, got 8/],
    ["keras", { momentum: "0.9" }, TypeError, /^config\.momentum: expected a number, got "0\.9"/],
    ["keras", { momentum: null }, TypeError, /^config\.momentum: expected a number, got null/],
    ["keras", { center: 1 }, TypeError, /^config\.center: expected a boolean, got 1/],
    ["keras", { eps: 1e-5 }, RangeError, /^config: expected keras's keys \(axis, momentum, .*\), got "eps"/],
    ["pytorch", { epsilon: 1e-3 }, RangeError, /^config: expected pytorch's keys \(eps, momentum, .*\), got "epsilon"/],
    ["flax", { decay_rate: 0.9 }, RangeError, /^config: expected flax's keys .*, got "decay_rate"/],
    ["tfjs", { renorm: false }, RangeError, /^config: expected tfjs's keys .*, got "renorm"/],
    ["onnx", { spatial: 0 }, RangeError, /^config\.spatial: expected 1 \(statistics per channel\), got 0/],
    [
      "haiku",
      { create_scale: true, create_offset: true },
      TypeError,
      /^config\.decay_rate: expected a number, got undef/,
    ],
    [
      "haiku",
      { decay_rate: 0.9, create_offset: true },
      TypeError,
      /^config\.create_scale: expected a boolean, got undef/,
    ],
    [
      "haiku",
      { ...HAIKU, axis: [0] },
      RangeError,
      /^config\.axis: expected null \(all axes but the channels'\), got \[0\]/,
    ],
    ["haiku", { ...HAIKU, data_format: "HWC" }, RangeError, /^config\.data_format: expected .*, got "HWC"/],
    [
      "haiku",
      { ...HAIKU, data_format: Object.create(null) },
      TypeError,
      /^config\.data_format: expected a string, got Object/,
    ],
    ["keras", null, TypeError, /^config: expected an object, got null/],
    ["keras", [0.9], TypeError, /^config: expected an object, got \[0\.9\]/],
    ["torch" as Framework, {}, RangeError, /^framework: expected "pytorch" or .*, got "torch"/],
    [undefined as unknown as Framework, {}, TypeError, /^framework: expected a string, got undefined/],
  ])("refuses %s %j", (framework, config, kind, message) => {
    expect(() => optionsFrom(framework, config as object)).toThrow(kind);
    expect(() => optionsFrom(framework, config as object)).toThrow(message);
  });
});

describe("configFor", () => {
  test.each<[Framework, Options, Config]>([
    ["pytorch", {}, { eps: 1e-5, momentum: 0.1, affine: true, track_running_stats: true }],
    [
      "pytorch",
      { estimator: "cumulative", affine: false, trackRunningStats: false },
      { eps: 1e-5, momentum: null, affine: false, track_running_stats: false },
    ],
    [
      "keras",
      { decay: 0.99, scale: false, layout: "channels-last" },
      { axis: -1, momentum: 0.99, epsilon: 1e-5, center: true, scale: false },
    ],
    ["tfjs", { momentum: 0.25, shift: false }, { axis: 1, momentum: 0.75, epsilon: 1e-5, center: false, scale: true }],
    ["onnx", { decay: 0.9, epsilon: 1e-3 }, { momentum: 0.9, epsilon: 1e-3 }],
    ["flax", { shift: false }, { axis: 1, momentum: 0.9, epsilon: 1e-5, use_scale: true, use_bias: false }],
    [
      "haiku",
      { scale: false, layout: "channels-last", estimator: "debiased" },
      { create_scale: false, create_offset: true, decay_rate: 0.9, eps: 1e-5, data_format: "channels_last" },
    ],
    [
      "haiku",
      { shift: false, decay: 0.75, estimator: "debiased" },
      { create_scale: true, create_offset: false, decay_rate: 0.75, eps: 1e-5, data_format: "channels_first" },
    ],
  ])("%s %j", (framework, options, expected) => {
    expect(configFor(framework, resolved(options))).toEqual(expected);
  });

  test.each(DEFAULTS)("%s's defaults come back as they went in", (framework, config) => {
    const options = resolved(optionsFrom(framework, config));
    const back = configFor(framework, options);
    expect(back).toMatchObject(config);
    expect(resolved(optionsFrom(framework, back))).toEqual(options);
  });

  test.each<[Framework, Options, RegExp]>([
    ["keras", { estimator: "cumulative" }, /^options\.estimator: expected "ema", as keras knows no other, got "cumul/],
    ["haiku", {}, /^options\.estimator: expected "debiased", as haiku knows no other, got "ema"/],
    ["keras", { activation: "relu" }, /^options\.activation: expected "none", as keras knows no other, got "relu"/],
    ["pytorch", { ghostBatchSize: 8 }, /^options\.ghostBatchSize: expected null, as pytorch knows no other, got 8/],
    ["flax", { renorm: { rMax: 3, dMax: 5 } }, /^options\.renorm: expected null, as flax knows no other, got Object/],
    ["pytorch", { estimator: "population" }, /^options\.estimator: expected "ema" or "cumulative", as pytorch knows/],
    ["pytorch", { shift: false }, /^options\.shift: expected scale's true, as pytorch knows no other, got false/],
    [
      "flax",
      { trackRunningStats: false },
      /^options\.trackRunningStats: expected true, as flax knows no other, got false/,
    ],
    ["onnx", { scale: false }, /^options\.scale: expected true, as onnx knows no other, got false/],
    ["onnx", { shift: false }, /^options\.shift: expected true, as onnx knows no other, got false/],
  ])("refuses for %s what it has no word for: %j", (framework, options, message) => {
    expect(() => configFor(framework, resolved(options))).toThrow(RangeError);
    expect(() => configFor(framework, resolved(options))).toThrow(message);
  });

  test.each<[unknown, RegExp]>([
    [undefined, /^options: expected a layer's options \(bn\.options\), got undefined$/],
    [null, /^options: expected a layer's options \(bn\.options\), got null$/],
    [5, /^options: expected a layer's options \(bn\.options\), got 5$/],
    [{}, /^options\.dtype: expected all of a layer's options \(bn\.options\), got undefined$/],
    [{ momentum: 0.1 }, /^options\.dtype: expected all of a layer's options \(bn\.options\), got undefined$/],
    [{ decay: 0.9 }, /^options\.dtype: expected all of a layer's options/],
    [{ ...resolved({}), layout: undefined }, /^options\.layout: expected all of a layer's options/],
    [{ ...resolved({}), momentum: "0.1" }, /^options\.momentum: expected a number, got "0\.1"$/],
    [{ ...resolved({}), momentum: 2 }, /^options\.momentum: expected a number in \[0, 1\], got 2$/],
    [{ ...resolved({}), epsilon: "1" }, /^epsilon: expected a number, got "1"$/],
  ])("refuses %j, which are not all of a layer's options", (options, message) => {
    expect(() => configFor("keras", options as never)).toThrow(message);
    expect(() => configFor("torch" as never, resolved({}))).toThrow(/^framework: expected /);
  });
});
