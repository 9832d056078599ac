// The configuration of another framework's layer as our options, and back: the only file that knows what the others call
// momentum. Keras, TF.js, ONNX, Flax and Haiku weigh the old value by it, and keep a biased running variance.

import { wrongKind, wrongValue } from "../common/errors.ts";
import { oneOf } from "../common/validate.ts";
import type { Options, ResolvedOptions } from "../layer/options.ts";
import type { Framework } from "../layer/slots.ts";
import type { Dtype } from "../tensor/dtype.ts";
import type { Layout } from "../tensor/types.ts";
import { FRAMEWORKS } from "./state-dict.ts";

/** What configFor returns: plain values under a framework's own names. */
export type Config = Record<string, number | boolean | string | null>;

/** Keys that say something about batch normalization. All other keys are names, dtypes, initializers and the like. */
const KEYS: Readonly<Record<Framework, readonly string[]>> = {
  pytorch: ["eps", "momentum", "affine", "track_running_stats"],
  keras: ["axis", "momentum", "epsilon", "center", "scale", "renorm", "virtual_batch_size"],
  tfjs: ["axis", "momentum", "epsilon", "center", "scale"],
  onnx: ["epsilon", "momentum", "spatial"],
  flax: ["axis", "momentum", "epsilon", "use_scale", "use_bias"],
  haiku: ["create_scale", "create_offset", "decay_rate", "eps", "axis", "data_format"],
};

/** Reads a config's values and names them in errors. */
class Reader {
  readonly #config: Readonly<Record<string, unknown>>;

  constructor(framework: Framework, config: object) {
    if (typeof config !== "object" || config === null || Array.isArray(config))
      throw wrongKind("config", "an object", config);
    // `eps` in Keras's config, say, is a mistake, and would silently be Keras's default
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

  /** Without a fallback the key is required. */
  number(key: string, fallback?: number): number {
    const { [key]: value = fallback } = this.#config;
    if (typeof value !== "number") throw wrongKind(`config.${key}`, "a number", value);
    return value;
  }

  flag(key: string, fallback?: boolean): boolean {
    const { [key]: value = fallback } = this.#config;
    if (typeof value !== "boolean") throw wrongKind(`config.${key}`, "a boolean", value);
    return value;
  }

  /** Refuses what would be another layer. */
  only(key: string, expected: string, ...values: unknown[]): void {
    const value = this.#config[key] ?? undefined;
    if (value !== undefined && !values.includes(value)) throw wrongValue(`config.${key}`, expected, value);
  }

  /** 1 is channels first; −1 the last, and so is what Keras 2 makes of −1 when it builds the layer, such as [3]. */
  layout(): Layout {
    const { axis = -1 } = this.#config;
    const [channel, ...more]: unknown[] = Array.isArray(axis) ? axis : [axis];
    if (!Number.isInteger(channel) || channel === 0 || Number(channel) < -1 || more.length)
      throw wrongValue("config.axis", "one axis: 1 or, for the last, -1", axis);
    return channel === 1 ? "channels-first" : "channels-last";
  }
}

const keras = (config: Reader): Options => {
  config.only("renorm", "false (batch renormalization is another layer)", false);
  config.only("virtual_batch_size", "null (split the batch yourself)");
  return {
    layout: config.layout(),
    epsilon: config.number("epsilon", 1e-3),
    decay: config.number("momentum", 0.99),
    scale: config.flag("scale", true),
    shift: config.flag("center", true),
    runningVariance: "biased",
  };
};

const READERS: Readonly<Record<Framework, (config: Reader) => Options>> = {
  pytorch(config) {
    const affine = config.flag("affine", true);
    return {
      layout: "channels-first",
      epsilon: config.number("eps", 1e-5),
      ...(config.get("momentum") === null
        ? { estimator: "cumulative" }
        : { estimator: "ema", momentum: config.number("momentum", 0.1) }),
      scale: affine,
      shift: affine,
      trackRunningStats: config.flag("track_running_stats", true),
      runningVariance: "unbiased",
    };
  },
  keras,
  tfjs: keras,
  onnx(config) {
    config.only("spatial", "1 (statistics per channel)", 1);
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
    config.only("axis", "null (all axes but the channels')");
    const format = String(config.get("data_format") ?? "channels_last");
    // as haiku.get_channel_index reads it
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
 * Options of the layer that a framework's config describes: PyTorch's and Haiku's arguments, what getConfig() of Keras
 * and TF.js returns, ONNX's attributes, Flax's fields. Keys that are not there have that framework's defaults; keys that
 * say nothing about batch normalization are ignored.
 *
 * Throws TypeError for a value of a wrong kind, RangeError for what no BatchNorm here does (several axes,
 * renormalization) and for another framework's key.
 */
export function optionsFrom(framework: Framework, config: object): Options {
  const known = frameworkOf(framework);
  return READERS[known](new Reader(known, config));
}

function frameworkOf(framework: Framework): Framework {
  if (typeof framework !== "string") throw wrongKind("framework", "a string", framework);
  return oneOf("framework", framework, FRAMEWORKS, "pytorch");
}

/**
 * The config under which a framework's layer computes what a BatchNorm of these options does (`bn.options`). PyTorch and
 * ONNX have no word for the layout: theirs is channels first.
 *
 * Throws RangeError for an option that the framework has no word for, such as an estimator.
 */
export function configFor(framework: Framework, options: ResolvedOptions<Dtype>): Config {
  const known = frameworkOf(framework);
  if (typeof options?.momentum !== "number") throw wrongKind("options", "a layer's options (bn.options)", options);
  const { layout, epsilon, momentum, scale, shift, estimator, trackRunningStats } = options;
  const refuse = (name: string, expected: string, got: unknown) =>
    wrongValue(`options.${name}`, `${expected}, as ${known} knows no other`, got);
  const first = layout === "channels-first";
  if (options.activation !== "none") throw refuse("activation", '"none"', options.activation);
  for (const name of ["ghostBatchSize", "renorm"] as const)
    if (options[name] !== null) throw refuse(name, "null", options[name]);

  if (known === "pytorch") {
    if (estimator !== "ema" && estimator !== "cumulative")
      throw refuse("estimator", '"ema" or "cumulative"', estimator);
    if (scale !== shift) throw refuse("shift", `scale's ${scale}`, shift);
    return {
      eps: epsilon,
      momentum: estimator === "cumulative" ? null : momentum,
      affine: scale,
      track_running_stats: trackRunningStats,
    };
  }
  const average = known === "haiku" ? "debiased" : "ema";
  if (estimator !== average) throw refuse("estimator", `"${average}"`, estimator);
  if (!trackRunningStats) throw refuse("trackRunningStats", "true", false);
  const decay = 1 - momentum;
  if (known === "haiku")
    return {
      create_scale: scale,
      create_offset: shift,
      decay_rate: decay,
      eps: epsilon,
      data_format: first ? "channels_first" : "channels_last",
    };
  const common = { momentum: decay, epsilon };
  const axis = first ? 1 : -1;
  if (known === "flax") return { axis, ...common, use_scale: scale, use_bias: shift };
  if (known !== "onnx") return { axis, ...common, center: shift, scale };
  // the inputs scale and B of ONNX's operator are not optional
  if (!scale) throw refuse("scale", "true", scale);
  if (!shift) throw refuse("shift", "true", shift);
  return common;
}
