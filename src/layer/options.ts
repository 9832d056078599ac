// Options of a layer, their defaults and their validation. Resolved options are complete and consistent.

import { exclusive, momentumHint, wrongValue } from "../common/errors.ts";
import { checkKeys, checkNumber, flag, oneOf, positiveInteger } from "../common/validate.ts";
import { type ActivationName, activationOption } from "../ops/activation.ts";
import { epsilonOption, ghostBatchOption, type Renorm, renormOption } from "../ops/options.ts";
import { type Dtype, dtypeOption } from "../tensor/dtype.ts";
import { MAX_CHANNELS } from "../tensor/shape.ts";
import { type Layout, layoutOption } from "../tensor/types.ts";

/**
 * The mode of a forward.
 *
 * - "train" normalises by the batch's statistics and updates the running ones.
 * - "batch" normalises by the batch's statistics and does not update the running ones.
 * - "eval" normalises by the running statistics, and its option `out` may be x. Without running statistics it
 *   normalises by the batch's.
 * - "frozen" normalises by the running statistics, and `out` must not be x, so that backward is always possible.
 *   Without running statistics it throws.
 */
export type Mode = "train" | "batch" | "eval" | "frozen";

/** Frameworks whose defaults are presets, and whose states and configurations can be converted. */
export type Framework = "pytorch" | "keras" | "tfjs" | "onnx" | "flax" | "haiku";

/** The framework or paper from which absent options take their defaults. */
export type Preset = Framework | "paper";

/** Options of a layer in batchnorm-wasm/core. */
export interface CoreOptions {
  /** The framework that gives absent options their defaults. Default "pytorch". */
  preset?: Preset;
  /** Axis of the channels. Default "channels-first". */
  layout?: Layout;
  /** Added to the variance inside the square root; finite and ≥ 0. Default 1e-5. */
  epsilon?: number;
  /** Weight of the NEW batch in the running statistics, in [0, 1] (PyTorch's momentum). Default 0.1. */
  momentum?: number;
  /** Weight of the OLD value, 1 − momentum (momentum in Keras, TF.js, ONNX and Flax). It excludes momentum. */
  decay?: number;
  /** Learn gamma (PyTorch: weight). Default true. */
  scale?: boolean;
  /** Learn beta (PyTorch: bias). Default true. */
  shift?: boolean;
  /** false turns off both scale and shift (PyTorch's affine). */
  affine?: boolean;
  /** Keep running statistics (PyTorch: track_running_stats); without them "eval" uses the batch's. Default true. */
  trackRunningStats?: boolean;
  /** Kind of the running variance: "unbiased", m/(m − 1) times the "biased" one. Default "unbiased". */
  runningVariance?: "unbiased" | "biased";
  /** Rule by which batches update the running statistics. Default "ema". */
  estimator?: Estimator;
  /** Reaction to a "train" batch that is not finite: "throw" (default), "skip" or "allow" the update of statistics. */
  onNonFinite?: "throw" | "skip" | "allow";
  /** Samples of a ghost batch, normalised by its own statistics; the last may be smaller (Hoffer et al. 2017). */
  ghostBatchSize?: number | null;
}

/** Options of a layer. */
export interface Options<D extends Dtype = "float32"> extends CoreOptions {
  /** Element type of x and y. Vectors are Float64Arrays with "float64", else Float32Arrays. Default "float32". */
  dtype?: D;
  /** Activation that is applied after the residual: torch.nn.ReLU, LeakyReLU, ReLU6 or SiLU. Default "none". */
  activation?: ActivationName;
  /** Slope of "leaky_relu" below 0, between 0 and 1. Default 0.01. */
  negativeSlope?: number | null;
  /** Limits of Batch Renormalization, which corrects x̂ towards the running statistics (Ioffe 2017). Default null. */
  renorm?: Renorm | null;
}

/** Options of a layer whose types tell whether it has gamma (Scale) and beta (Shift). */
export type LayerOptions<D extends Dtype, Scale extends boolean, Shift extends boolean> = Options<D> & {
  /** Whether the layer has gamma. Without it gamma counts as 1. Default true. */
  scale?: Scale;
  /** Whether the layer has beta. Without it beta counts as 0. Default true. */
  shift?: Shift;
  /** The value of `scale` and `shift` where they are not given, as in PyTorch. Default true. */
  affine?: Scale | Shift;
};

/**
 * A rule by which batches update the running statistics.
 *
 * - "ema": exponential moving average with the weight `momentum` for the new batch
 * - "debiased": "ema" without the initial value, divided by 1 − decay^k after k batches (TensorFlow's zero_debias)
 * - "cumulative": plain mean over batches (Ioffe & Szegedy 2015, Alg. 2; PyTorch's momentum=None)
 * - "population": mean and variance of all values of all batches
 */
export type Estimator = "ema" | "debiased" | "cumulative" | "population";

/** Options of a layer in batchnorm-wasm/core with every default filled in. */
export type CoreResolvedOptions = Readonly<Required<Omit<CoreOptions, "preset" | "decay" | "affine">>>;

/** Options of a layer with every default filled in. */
export interface ResolvedOptions<D extends Dtype = "float32"> extends CoreResolvedOptions {
  /** Element type of x and y. */
  readonly dtype: D;
  /** Activation that is applied after the residual. */
  readonly activation: ActivationName;
  /** Slope of "leaky_relu" below 0, or null for other activations. */
  readonly negativeSlope: number | null;
  /** Initial limits of Batch Renormalization, or null. */
  readonly renorm: Readonly<Renorm> | null;
}

const MODES = ["train", "batch", "eval", "frozen"] as const;
const VARIANCES = ["unbiased", "biased"] as const;
export const ESTIMATORS = ["ema", "debiased", "cumulative", "population"] as const;
const POLICIES = ["throw", "skip", "allow"] as const;

const CHANNELS_FIRST = { layout: "channels-first", runningVariance: "unbiased", estimator: "ema" } as const;
const CHANNELS_LAST = { layout: "channels-last", runningVariance: "biased", estimator: "ema" } as const;

/**
 * Defaults of each preset. `momentum` is the weight of the NEW batch, also for frameworks that define it as the old
 * one's.
 */
const PRESETS = {
  // torch.nn.BatchNorm2d
  pytorch: { ...CHANNELS_FIRST, epsilon: 1e-5, momentum: 0.1 },
  // keras.layers.BatchNormalization of Keras 3
  keras: { ...CHANNELS_LAST, epsilon: 1e-3, momentum: 0.01 },
  // tf.layers.batchNormalization
  tfjs: { ...CHANNELS_LAST, epsilon: 1e-3, momentum: 0.01 },
  // the operator BatchNormalization of opset 15
  onnx: { ...CHANNELS_FIRST, runningVariance: "biased", epsilon: 1e-5, momentum: 0.1 },
  // flax.linen.BatchNorm
  flax: { ...CHANNELS_LAST, epsilon: 1e-5, momentum: 0.01 },
  // haiku.BatchNorm, which has no default for decay_rate; it is that of haiku.nets.ResNet
  haiku: { ...CHANNELS_LAST, estimator: "debiased", epsilon: 1e-5, momentum: 0.1 },
  // Ioffe & Szegedy 2015, Alg. 2; the paper names no epsilon, so it is PyTorch's
  paper: { ...CHANNELS_FIRST, estimator: "cumulative", epsilon: 1e-5, momentum: 0.1 },
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

const checkWeight = (name: string, value: unknown): number =>
  checkNumber(name, value, "a number in [0, 1]", (n) => n >= 0 && n <= 1);

let hasHinted = false;

/**
 * Returns the weight of the new batch, from either option. A momentum from 0.9 to 1 gives one warning per program, since
 * it is probably a weight of the old value. 1, which keeps nothing of the old value, is no such weight.
 */
export function momentumOption(momentum: unknown, decay: unknown, fallback: number): number {
  if (momentum !== undefined && decay !== undefined) throw exclusive("momentum", "decay");
  if (decay !== undefined) return 1 - checkWeight("decay", decay);
  if (momentum === undefined) return fallback;
  const checked = checkWeight("momentum", momentum);
  if (checked >= 0.9 && checked < 1 && !hasHinted) {
    hasHinted = true;
    console.warn(momentumHint(checked));
  }
  return checked;
}

/** Returns a number of channels, or throws TypeError or RangeError if it is not a positive integer in range. */
export const checkChannels = (channels: unknown): number =>
  checkNumber("channels", positiveInteger("channels", channels), `at most ${MAX_CHANNELS}`, (n) => n <= MAX_CHANNELS);

/** Checks every option and fills in the defaults. Throws TypeError or RangeError for a wrong option. */
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
