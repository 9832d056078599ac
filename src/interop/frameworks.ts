// Conversion between the configuration of another framework's layer and options of BatchNorm. No other file knows how
// the frameworks name and define momentum: Keras, TF.js, ONNX, Flax and Haiku use it as the weight of the old value.
// These five also keep a biased running variance.

import { wrongKind, wrongValue } from "../common/errors.ts";
import { checkNumber, checkObject, isObject, oneOf } from "../common/validate.ts";
import { type Framework, type Options, type ResolvedOptions, resolveOptions } from "../layer/options.ts";
import type { Dtype } from "../tensor/dtype.ts";
import type { Layout } from "../tensor/types.ts";
import { FRAMEWORKS } from "./state-dict.ts";

/** The configuration of a framework's layer, as configFor returns it: plain values under the framework's names. */
export type Config = Record<string, number | boolean | string | null>;

/** Keys of a config that define the computation. All other keys (name, dtype, initializers, …) are ignored. */
const KEYS: Readonly<Record<Framework, readonly string[]>> = {
  pytorch: ["eps", "momentum", "affine", "track_running_stats"],
  keras: ["axis", "momentum", "epsilon", "center", "scale", "renorm", "virtual_batch_size"],
  tfjs: ["axis", "momentum", "epsilon", "center", "scale"],
  onnx: ["epsilon", "momentum", "spatial"],
  flax: ["axis", "momentum", "epsilon", "use_scale", "use_bias"],
  haiku: ["create_scale", "create_offset", "decay_rate", "eps", "axis", "data_format"],
};

/** Reads the values of a config. Its errors name the key. */
class ConfigReader {
  readonly #config: Readonly<Record<string, unknown>>;

  constructor(framework: Framework, config: object) {
    // a Map would count as a config without keys, whose layer has all defaults
    if (!isObject(config) || Symbol.iterator in config) throw wrongKind("config", "an object", config);
    // `eps` in a config of Keras is a mistake; ignored, it would silently become Keras's default
    const foreign = Object.keys(config).find(
      (key) => !KEYS[framework].includes(key) && Object.values(KEYS).some((keys) => keys.includes(key)),
    );
    if (foreign !== undefined)
      throw wrongValue("config", `${framework}'s keys (${KEYS[framework].join(", ")})`, foreign);
    this.#config = { ...config };
  }

  get(key: string): unknown {
    return this.#config[key];
  }

  /** Returns a number, or the fallback if the key is absent. Throws TypeError if both are absent. */
  number(key: string, fallback?: number): number {
    const { [key]: value = fallback } = this.#config;
    if (typeof value !== "number") throw wrongKind(`config.${key}`, "a number", value);
    return value;
  }

  /** Returns a boolean, or the fallback if the key is absent. Throws TypeError if both are absent. */
  flag(key: string, fallback?: boolean): boolean {
    const { [key]: value = fallback } = this.#config;
    if (typeof value !== "boolean") throw wrongKind(`config.${key}`, "a boolean", value);
    return value;
  }

  /**
   * Throws RangeError if a key is present with another value than these: the config is that of another kind of layer.
   */
  checkValue(key: string, expected: string, ...values: unknown[]): void {
    const value = this.#config[key] ?? undefined;
    if (value !== undefined && !values.includes(value)) throw wrongValue(`config.${key}`, expected, value);
  }

  /**
   * Returns the layout for the key `axis`: 1 is channels first, −1 and every axis above 1 is channels last. Keras 2
   * replaces −1 by a list of the last axis, such as [3], when it builds the layer.
   */
  layout(): Layout {
    const { axis = -1 } = this.#config;
    const [channel, ...otherAxes]: unknown[] = Array.isArray(axis) ? axis : [axis];
    if (!Number.isInteger(channel) || channel === 0 || Number(channel) < -1 || otherAxes.length)
      throw wrongValue("config.axis", "one axis: 1 or, for the last, -1", axis);
    return channel === 1 ? "channels-first" : "channels-last";
  }
}

const keras = (config: ConfigReader): Options => {
  config.checkValue("renorm", "false (batch renormalization is another layer)", false);
  config.checkValue("virtual_batch_size", "null (split the batch yourself)");
  return {
    layout: config.layout(),
    epsilon: config.number("epsilon", 1e-3),
    decay: config.number("momentum", 0.99),
    scale: config.flag("scale", true),
    shift: config.flag("center", true),
    runningVariance: "biased",
  };
};

const READERS: Readonly<Record<Framework, (config: ConfigReader) => Options>> = {
  pytorch(config) {
    const affine = config.flag("affine", true);
    const momentum = config.get("momentum") === null ? null : config.number("momentum", 0.1);
    return {
      layout: "channels-first",
      epsilon: config.number("eps", 1e-5),
      estimator: momentum === null ? "cumulative" : "ema",
      // as decay, a large momentum gives no hint that it might be one; 1 − momentum is exact from 0.5 on
      ...(momentum !== null && (momentum >= 0.9 && momentum < 1 ? { decay: 1 - momentum } : { momentum })),
      scale: affine,
      shift: affine,
      trackRunningStats: config.flag("track_running_stats", true),
      runningVariance: "unbiased",
    };
  },
  keras,
  tfjs: keras,
  onnx(config) {
    config.checkValue("spatial", "1 (statistics per channel)", 1);
    return {
      layout: "channels-first",
      epsilon: config.number("epsilon", 1e-5),
      decay: config.number("momentum", 0.9),
      runningVariance: "biased",
    };
  },
  flax(config) {
    return {
      layout: config.layout(),
      epsilon: config.number("epsilon", 1e-5),
      decay: config.number("momentum", 0.99),
      scale: config.flag("use_scale", true),
      shift: config.flag("use_bias", true),
      runningVariance: "biased",
    };
  },
  haiku(config) {
    config.checkValue("axis", "null (all axes but the channels')");
    const format = config.get("data_format") ?? "channels_last";
    if (typeof format !== "string") throw wrongKind("config.data_format", "a string", format);
    // the patterns that haiku.get_channel_index accepts
    const first = /^(channels_first|NC[^C]*)$/.test(format);
    if (!first && !/^(channels_last|N[^C]*C|(BT|TB)[^D]*D)$/.test(format))
      throw wrongValue("config.data_format", '"channels_first", "channels_last", "NC..." or "N...C"', format);
    return {
      layout: first ? "channels-first" : "channels-last",
      epsilon: config.number("eps", 1e-5),
      decay: config.number("decay_rate"),
      scale: config.flag("create_scale"),
      shift: config.flag("create_offset"),
      runningVariance: "biased",
      estimator: "debiased",
    };
  },
};

/**
 * Returns the options with which a BatchNorm computes what a framework's layer with this config does. A config holds
 * the arguments of the layer in PyTorch and Haiku, get_config() in Keras, getConfig() in TF.js, the attributes in ONNX,
 * and the fields in Flax. Absent keys mean the framework's defaults; keys that do not affect the computation are
 * ignored.
 *
 * Throws TypeError for a value of a wrong type and for an absent key without default, and RangeError for a value that
 * has no equivalent option (several axes, Keras's renorm) and for a key of another framework.
 */
export function optionsFrom(framework: Framework, config: object): Options {
  const known = frameworkOf(framework);
  return READERS[known](new ConfigReader(known, config));
}

function frameworkOf(framework: Framework): Framework {
  if (typeof framework !== "string") throw wrongKind("framework", "a string", framework);
  return oneOf("framework", framework, FRAMEWORKS, "pytorch");
}

/**
 * Returns the config with which a framework's layer computes what a BatchNorm with these resolved options
 * (`bn.options`) does. Configs of PyTorch and ONNX have no layout, which is always channels first. Throws RangeError
 * for an option that the framework lacks, such as estimator "population", and TypeError for options that are not
 * resolved.
 */
export function configFor(framework: Framework, options: ResolvedOptions<Dtype>): Config {
  const known = frameworkOf(framework);
  checkResolved(options);
  const unsupported: Unsupported = (name, expected, got) =>
    wrongValue(`options.${name}`, `${expected}, as ${known} knows no other`, got);
  if (options.activation !== "none") throw unsupported("activation", '"none"', options.activation);
  for (const name of ["ghostBatchSize", "renorm"] as const)
    if (options[name] !== null) throw unsupported(name, "null", options[name]);
  return known === "pytorch" ? pytorchConfig(options, unsupported) : decayConfig(known, options, unsupported);
}

/** Throws TypeError or RangeError if options are not all options of a layer. */
function checkResolved(options: ResolvedOptions<Dtype>): void {
  checkObject("options", options, "a layer's options (bn.options)");
  const { momentum, ...others } = options;
  const names = Object.keys(resolveOptions(others)) as (keyof ResolvedOptions<Dtype>)[];
  const missing = names.find((name) => options[name] === undefined);
  if (missing) throw wrongKind(`options.${missing}`, "all of a layer's options (bn.options)", undefined);
  // a layer's own momentum gets no hint that it might be another framework's
  checkNumber("options.momentum", momentum, "a number in [0, 1]", (n) => n >= 0 && n <= 1);
}

/** Makes the RangeError for an option that a framework does not support. */
type Unsupported = (name: string, expected: string, got: unknown) => Error;

function pytorchConfig(options: ResolvedOptions<Dtype>, unsupported: Unsupported): Config {
  const { epsilon, momentum, scale, shift, estimator, trackRunningStats } = options;
  if (estimator !== "ema" && estimator !== "cumulative")
    throw unsupported("estimator", '"ema" or "cumulative"', estimator);
  if (scale !== shift) throw unsupported("shift", `scale's ${scale}`, shift);
  return {
    eps: epsilon,
    momentum: estimator === "cumulative" ? null : momentum,
    affine: scale,
    track_running_stats: trackRunningStats,
  };
}

/** Returns the config of a framework whose momentum is the weight of the old value. */
function decayConfig(
  framework: Exclude<Framework, "pytorch">,
  options: ResolvedOptions<Dtype>,
  unsupported: Unsupported,
): Config {
  const { layout, epsilon, momentum, scale, shift, estimator, trackRunningStats } = options;
  const channelsFirst = layout === "channels-first";
  const supported = framework === "haiku" ? "debiased" : "ema";
  if (estimator !== supported) throw unsupported("estimator", `"${supported}"`, estimator);
  if (!trackRunningStats) throw unsupported("trackRunningStats", "true", false);
  const decay = 1 - momentum;
  if (framework === "haiku")
    return {
      create_scale: scale,
      create_offset: shift,
      decay_rate: decay,
      eps: epsilon,
      data_format: channelsFirst ? "channels_first" : "channels_last",
    };
  const common = { momentum: decay, epsilon };
  const axis = channelsFirst ? 1 : -1;
  if (framework === "flax") return { axis, ...common, use_scale: scale, use_bias: shift };
  if (framework !== "onnx") return { axis, ...common, center: shift, scale };
  // the inputs scale and B of ONNX's operator are not optional
  if (!scale) throw unsupported("scale", "true", scale);
  if (!shift) throw unsupported("shift", "true", shift);
  return common;
}
