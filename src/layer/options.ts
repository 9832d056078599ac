// Options, their defaults and their validation. What leaves this file is complete and consistent.

import { exclusiveOptions, momentumHint, wrongKind, wrongValue } from "../common/errors.ts";
import { checkKeys, flag, oneOf } from "../common/validate.ts";
import { type ActivationName, activationOption } from "../ops/activation.ts";
import { epsilonOption, ghostBatchOption, type Renorm, renormOption } from "../ops/options.ts";
import { type Dtype, dtypeOption } from "../tensor/dtype.ts";
import { type Layout, layoutOption } from "../tensor/types.ts";

/** Which statistics normalise, and what happens to the running ones; the README has the table. */
export type Mode = "train" | "batch" | "eval" | "frozen";

/** Whose conventions an option that is not given follows. */
export type Preset = "pytorch" | "keras" | "tfjs" | "onnx" | "flax" | "paper";

/** Options of a layer in batchnorm-wasm/core. */
export interface CoreOptions {
  /**
   * Defaults of layout, epsilon, momentum, runningVariance and estimator as another framework has them; options beside it
   * win. Default "pytorch".
   */
  preset?: Preset;
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
   * "ema": exponential moving average. "debiased": the same without its initial value, divided by 1 − decay^k after k
   * batches (TensorFlow's zero_debias). "cumulative": plain mean over batches (Ioffe & Szegedy 2015, Alg. 2; PyTorch's
   * momentum=None). "population": exact statistics of all values seen. Default "ema".
   */
  estimator?: Estimator;
  /** When a train batch has a non-finite mean or variance: throw, skip the update, or let it in. Default "throw". */
  onNonFinite?: "throw" | "skip" | "allow";
  /**
   * Normalise every so many samples by their own statistics (Hoffer, Hubara & Soudry 2017). The last may be fewer. Each
   * updates the running statistics, in order.
   */
  ghostBatchSize?: number | null;
}

/** Options of a layer. */
export interface Options<D extends Dtype = "float32"> extends CoreOptions {
  /** Type of the elements. Parameters and statistics are float64 with "float64", else float32. Default "float32". */
  dtype?: D;
  /** Applied to y, after the residual: torch.nn.ReLU, LeakyReLU, ReLU6 or SiLU. Default "none". */
  activation?: ActivationName;
  /** Slope of "leaky_relu" below 0, between 0 and 1. Default 0.01. */
  negativeSlope?: number | null;
  /** Batch Renormalization (Ioffe 2017): bring batch statistics near the running ones, within limits. */
  renorm?: Renorm | null;
}

export type Estimator = "ema" | "debiased" | "cumulative" | "population";

/** Options of a layer in batchnorm-wasm/core with every default filled in. */
export interface CoreResolvedOptions {
  readonly layout: Layout;
  readonly epsilon: number;
  readonly momentum: number;
  readonly scale: boolean;
  readonly shift: boolean;
  readonly trackRunningStats: boolean;
  readonly runningVariance: "unbiased" | "biased";
  readonly estimator: Estimator;
  readonly onNonFinite: "throw" | "skip" | "allow";
  readonly ghostBatchSize: number | null;
}

/** Options with every default filled in. */
export interface ResolvedOptions<D extends Dtype = "float32"> extends CoreResolvedOptions {
  readonly dtype: D;
  readonly activation: ActivationName;
  /** null without "leaky_relu". */
  readonly negativeSlope: number | null;
  readonly renorm: Readonly<Renorm> | null;
}
const MODES = ["train", "batch", "eval", "frozen"] as const;
const VARIANCES = ["unbiased", "biased"] as const;
export const ESTIMATORS = ["ema", "debiased", "cumulative", "population"] as const;
const POLICIES = ["throw", "skip", "allow"] as const;

const FIRST = { layout: "channels-first", runningVariance: "unbiased", estimator: "ema" } as const;
const LAST = { layout: "channels-last", runningVariance: "biased", estimator: "ema" } as const;

/** momentum is the weight of the new batch here, too. */
const PRESETS = {
  // torch.nn.BatchNorm2d
  pytorch: { ...FIRST, epsilon: 1e-5, momentum: 0.1 },
  // keras.layers.BatchNormalization (Keras 3), tf.layers.batchNormalization
  keras: { ...LAST, epsilon: 1e-3, momentum: 0.01 },
  tfjs: { ...LAST, epsilon: 1e-3, momentum: 0.01 },
  // BatchNormalization-15
  onnx: { ...FIRST, runningVariance: "biased", epsilon: 1e-5, momentum: 0.1 },
  // flax.linen.BatchNorm
  flax: { ...LAST, epsilon: 1e-5, momentum: 0.01 },
  // Ioffe & Szegedy 2015, Alg. 2; the paper gives no epsilon
  paper: { ...FIRST, estimator: "cumulative", epsilon: 1e-5, momentum: 0.1 },
} as const;

const PRESET_NAMES = /* @__PURE__ */ Object.keys(PRESETS) as Preset[];

const OPTIONS: readonly (keyof Options<Dtype>)[] = [
  "preset",
  "dtype",
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
  "activation",
  "negativeSlope",
  "ghostBatchSize",
  "renorm",
];
export const estimatorOption = (value: unknown, fallback: Estimator): Estimator =>
  oneOf("estimator", value, ESTIMATORS, fallback);
export const modeOption = (value: unknown, fallback: Mode): Mode => oneOf("mode", value, MODES, fallback);

function weight(name: string, value: unknown): number {
  if (typeof value !== "number") throw wrongKind(name, "a number", value);
  if (!(value >= 0 && value <= 1)) throw wrongValue(name, "a number in [0, 1]", value);
  return value;
}

let hinted = false;

function momentumOption(momentum: unknown, decay: unknown, fallback: number): number {
  if (momentum !== undefined && decay !== undefined) throw exclusiveOptions("momentum", "decay");
  if (decay !== undefined) return 1 - weight("decay", decay);
  if (momentum === undefined) return fallback;
  const checked = weight("momentum", momentum);
  if (checked > 0.5 && !hinted) {
    hinted = true;
    console.warn(momentumHint(checked));
  }
  return checked;
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
export function resolveOptions<D extends Dtype = "float32">(options: Options<D> = {}): ResolvedOptions<D> {
  checkKeys("options", options, OPTIONS);
  const preset = PRESETS[oneOf("preset", options.preset, PRESET_NAMES, "pytorch")];
  const trackRunningStats = flag("trackRunningStats", options.trackRunningStats, true);
  const renorm = renormOption(options.renorm);
  if (renorm && !trackRunningStats) throw wrongValue("renorm", "trackRunningStats: true with it", false);
  const affine = flag("affine", options.affine, true);
  const activation = activationOption(options.activation, options.negativeSlope);
  return Object.freeze({
    dtype: dtypeOption(options.dtype) as D,
    layout: layoutOption(options.layout, preset.layout),
    epsilon: epsilonOption(options.epsilon, preset.epsilon),
    momentum: momentumOption(options.momentum, options.decay, preset.momentum),
    scale: flag("scale", options.scale, affine) && affine,
    shift: flag("shift", options.shift, affine) && affine,
    trackRunningStats,
    runningVariance: oneOf("runningVariance", options.runningVariance, VARIANCES, preset.runningVariance),
    estimator: estimatorOption(options.estimator, preset.estimator),
    onNonFinite: oneOf("onNonFinite", options.onNonFinite, POLICIES, "throw"),
    activation: activation.name,
    negativeSlope: activation.name === "leaky_relu" ? activation.slope : null,
    ghostBatchSize: ghostBatchOption(options.ghostBatchSize),
    renorm,
  });
}
