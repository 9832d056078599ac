// Options, their defaults and their validation. What leaves this file is complete and consistent.
//
// Presets, masks and fused activations will be further entries of `Options`, resolved here.

import { exclusiveOptions, momentumHint, unknownOption, wrongKind, wrongValue } from "./errors.ts";

/** Where the channels are: axis 1 (PyTorch, ONNX) or the last (Keras, TF.js, Flax). Rank 2 reads the same in both. */
export type Layout = "channels-first" | "channels-last";

/** Which statistics normalise, and what happens to the running ones; the README has the table. */
export type Mode = "train" | "batch" | "eval" | "frozen";

export interface Options {
  /** Axis of the channels. Default "channels-first". */
  layout?: Layout;
  /** Added to the variance inside the root; finite and ≥ 0. Default 1e-5. */
  epsilon?: number;
  /** Weight of the NEW batch in the running statistics, in [0, 1] (PyTorch's momentum). Default 0.1. */
  momentum?: number;
  /** Weight of the OLD value (Keras's, TF.js's and ONNX's momentum); momentum = 1 − decay. Not together with momentum. */
  decay?: number;
  /** Learn gamma (PyTorch: weight). Default true. */
  scale?: boolean;
  /** Learn beta (PyTorch: bias). Default true. */
  shift?: boolean;
  /** false turns off both scale and shift (PyTorch's affine). */
  affine?: boolean;
  /** Keep running statistics; without them, eval uses the batch's. Default true. */
  trackRunningStats?: boolean;
  /** What the running variance estimates: m/(m−1) of the batch's variance, or the batch's itself. Default "unbiased". */
  runningVariance?: "unbiased" | "biased";
  /**
   * "ema": exponential moving average. "cumulative": plain mean over batches (Ioffe & Szegedy 2015, Alg. 2; PyTorch's
   * momentum=None). "population": exact statistics of all values seen. Default "ema".
   */
  estimator?: "ema" | "cumulative" | "population";
  /** When a train batch has a non-finite mean or variance: throw, skip the update, or let it in. Default "throw". */
  onNonFinite?: "throw" | "skip" | "allow";
}

/** Options with every default filled in. */
export interface ResolvedOptions {
  readonly layout: Layout;
  readonly epsilon: number;
  readonly momentum: number;
  readonly scale: boolean;
  readonly shift: boolean;
  readonly trackRunningStats: boolean;
  readonly runningVariance: "unbiased" | "biased";
  readonly estimator: "ema" | "cumulative" | "population";
  readonly onNonFinite: "throw" | "skip" | "allow";
}

const LAYOUTS = ["channels-first", "channels-last"] as const;
const MODES = ["train", "batch", "eval", "frozen"] as const;
const VARIANCES = ["unbiased", "biased"] as const;
const ESTIMATORS = ["ema", "cumulative", "population"] as const;
const POLICIES = ["throw", "skip", "allow"] as const;

const OPTIONS: readonly (keyof Options)[] = [
  "layout",
  "epsilon",
  "momentum",
  "decay",
  "scale",
  "shift",
  "affine",
  "trackRunningStats",
  "runningVariance",
  "estimator",
  "onNonFinite",
];

/** Refuses what is not an options object, and names that are not among `known`. */
export function checkKeys(where: string, options: object, known: readonly string[]): void {
  if (typeof options !== "object" || options === null || Array.isArray(options))
    throw wrongKind(where, "an object", options);
  for (const key of Object.keys(options)) if (!known.includes(key)) throw unknownOption(where, key, known);
}

function oneOf<const T extends string>(name: string, value: unknown, values: readonly T[], fallback: T): T {
  if (value === undefined) return fallback;
  if (typeof value !== "string") throw wrongKind(name, "a string", value);
  const found = values.find((v) => v === value);
  if (found === undefined) throw wrongValue(name, values.map((v) => `"${v}"`).join(" or "), value);
  return found;
}

export function flag(name: string, value: unknown, fallback: boolean): boolean {
  if (value === undefined) return fallback;
  if (typeof value !== "boolean") throw wrongKind(name, "a boolean", value);
  return value;
}

export const layoutOption = (value: unknown): Layout => oneOf("layout", value, LAYOUTS, "channels-first");
export const modeOption = (value: unknown, fallback: Mode): Mode => oneOf("mode", value, MODES, fallback);

/** epsilon: finite and ≥ 0. */
export function epsilonOption(value: unknown): number {
  if (value === undefined) return 1e-5;
  if (typeof value !== "number") throw wrongKind("epsilon", "a number", value);
  if (!(Number.isFinite(value) && value >= 0)) throw wrongValue("epsilon", "a finite number ≥ 0", value);
  return value;
}

function weight(name: string, value: unknown): number {
  if (typeof value !== "number") throw wrongKind(name, "a number", value);
  if (!(value >= 0 && value <= 1)) throw wrongValue(name, "a number in [0, 1]", value);
  return value;
}

let hinted = false;

function momentumOption(momentum: unknown, decay: unknown): number {
  if (momentum !== undefined && decay !== undefined) throw exclusiveOptions("momentum", "decay");
  if (decay !== undefined) return 1 - weight("decay", decay);
  if (momentum === undefined) return 0.1;
  const checked = weight("momentum", momentum);
  if (checked > 0.5 && !hinted) {
    hinted = true;
    console.warn(momentumHint(checked));
  }
  return checked;
}

/** Threads of a pool: a positive integer, or as many as there are processors. */
export function threadsOption(value: unknown, most: number): number | "auto" | undefined {
  if (value === undefined || value === "auto") return value;
  if (typeof value !== "number") throw wrongKind("threads", 'a number or "auto"', value);
  if (!(Number.isInteger(value) && value >= 1 && value <= most))
    throw wrongValue("threads", `an integer from 1 to ${most}, or "auto"`, value);
  return value;
}

/** Float32 values that WebAssembly's memory has room for. */
const MAX_CHANNELS = 2 ** 30 - 2 ** 14;

/** A number of channels: a positive integer. */
export function checkChannels(channels: unknown): number {
  if (typeof channels !== "number") throw wrongKind("channels", "a number", channels);
  if (!(Number.isSafeInteger(channels) && channels > 0)) throw wrongValue("channels", "a positive integer", channels);
  if (channels > MAX_CHANNELS) throw wrongValue("channels", `at most ${MAX_CHANNELS}`, channels);
  return channels;
}

/** Checks every option and fills in the defaults (docs of `Options`). */
export function resolveOptions(options: Options = {}): ResolvedOptions {
  checkKeys("options", options, OPTIONS);
  const affine = flag("affine", options.affine, true);
  return Object.freeze({
    layout: layoutOption(options.layout),
    epsilon: epsilonOption(options.epsilon),
    momentum: momentumOption(options.momentum, options.decay),
    scale: flag("scale", options.scale, affine) && affine,
    shift: flag("shift", options.shift, affine) && affine,
    trackRunningStats: flag("trackRunningStats", options.trackRunningStats, true),
    runningVariance: oneOf("runningVariance", options.runningVariance, VARIANCES, "unbiased"),
    estimator: oneOf("estimator", options.estimator, ESTIMATORS, "ema"),
    onNonFinite: oneOf("onNonFinite", options.onNonFinite, POLICIES, "throw"),
  });
}
