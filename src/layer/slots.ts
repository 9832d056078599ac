// Interfaces of features that a layer calls and that batchnorm-wasm/core does not contain. complete.ts puts their
// implementations into the slots.

import { Slot } from "../common/slot.ts";
import type { ActivationName } from "../ops/activation.ts";
import type { adjustmentOf } from "../ops/per-sample.ts";
import type { Data, Dtype, Vector } from "../tensor/dtype.ts";
import type { Layout } from "../tensor/types.ts";
import type { Framework, ResolvedOptions } from "./options.ts";
import type { RunningStatistics } from "./running-statistics.ts";

/** Saving and loading for stateDict and loadStateDict. interop/state-dict.ts implements it. */
export interface StateDicts {
  saveState(layer: Layer, options: StateOptions): NamedState;
  loadState(layer: Layer, state: StateSource, options: LoadOptions): LoadReport;
}

/** Folding for toAffine. interop/fold.ts implements it. */
export interface Folding {
  toAffine(source: FoldSource<Vector>, options: AffineOptions): Affine<Vector>;
}

/** Forwards whose statistics are the batch's and the running ones. ops/per-sample.ts implements them. */
export interface Renormalization {
  adjustmentOf: typeof adjustmentOf;
}

export const stateDicts = /* @__PURE__ */ new Slot<StateDicts>();
export const folding = /* @__PURE__ */ new Slot<Folding>();
export const renormalization = /* @__PURE__ */ new Slot<Renormalization>();

/** A vector to fold: an array, or a tensor, whose dtype is declared if it has the bits of float16 or bfloat16. */
export type FoldVector = Data | { readonly data: Data; readonly shape: readonly number[]; readonly dtype?: string };

/**
 * A batch normalization to fold: a BatchNorm, or an object with the same vectors, [C] each, and its epsilon. An absent
 * gamma counts as ones, an absent beta as zeros. Folding uses the running statistics, whatever the mode is. An absent
 * layout counts as "channels-first", an absent activation as "none".
 */
export interface FoldSource<T extends FoldVector = FoldVector> {
  /** The number of channels, C. Without it, the length of the running mean. */
  readonly channels?: number;
  /** The scale, [C]. */
  readonly gamma?: FoldVector | null | undefined;
  /** The shift, [C]. */
  readonly beta?: FoldVector | null | undefined;
  /** The running mean, [C]. null is a BatchNormError "no-running-statistics". */
  readonly runningMean: T | null;
  /** The running variance, [C]. */
  readonly runningVariance: T | null;
  /** The options that folding needs; a BatchNorm has them. */
  readonly options: { readonly epsilon: number; readonly layout?: Layout; readonly activation?: ActivationName };
}

/** Options of toAffine and fromAffine. */
export interface AffineOptions {
  /** The layer's activation, which the program applies to the map's result. Another is refused. Default "none". */
  activation?: ActivationName;
}

/** A warning that a folded channel is less accurate than the BatchNorm, or not finite. */
export interface FoldWarning {
  /** "ill-conditioned": |mean| ≫ √(variance + epsilon), so that digits cancel. "non-finite": NaN or out of range. */
  readonly code: "ill-conditioned" | "non-finite";
  /** The channel of the folded layer's output: with direction "backward" the BatchNorm's. */
  readonly channel: number;
  /**
   * Expected RMS error of that output by folding, in units of its size, Infinity for "non-finite". The size is |gamma| +
   * |beta| with direction "backward", and |bias + Σ weight·beta| + √(Σ(weight·gamma)²) with "forward".
   */
  readonly expectedError: number;
  /** The warning as a text for people. */
  readonly message: string;
}

/** A BatchNorm in mode "eval" as y = scale·x + shift, with warnings for channels where that is less accurate. */
export interface Affine<T extends Vector = Vector> {
  /** gamma·invStd, [C]. */
  scale: T;
  /** beta − mean·scale, [C]. */
  shift: T;
  /** Warnings of channels that are less accurate as a map. An empty list is a good result. */
  warnings: FoldWarning[];
}

// A type alias, because TypeScript does not assign an interface to the records that loadStateDict accepts.
/** A layer's state under PyTorch's names. */
export type StateDict<V extends Vector = Float32Array> = {
  /** gamma, [C]. */
  weight?: V;
  /** beta, [C]. */
  bias?: V;
  /** The running mean, [C]. */
  running_mean?: V;
  /** The running variance, [C]. */
  running_var?: V;
  /** The number of batches in the running statistics. */
  num_batches_tracked?: number;
  /** Values per channel in the running statistics, with the estimator "population" only. PyTorch has no such name. */
  num_values_tracked?: number;
};

/** A layer's state under a framework's names: arrays [C], and numbers for counts. */
export type NamedState<V extends Vector = Vector> = Record<string, V | number>;

/** An array or an array-like of numbers or bigints. */
export type Numbers = ArrayLike<number> | ArrayLike<bigint>;

/**
 * A value in a state. A vector is an array of floats, such an array as JSON makes an object with keys 0, 1, 2, …, or a
 * tensor of shape [C] apart from ones; bits of 16-bit floats declare their dtype. A count is a number, a bigint or an
 * array of one.
 */
export type StateValue =
  | Numbers
  | number
  | bigint
  | { readonly data: Numbers; readonly shape: readonly number[]; readonly dtype?: string };

/** A state to load: values by name in an object or a Map. { params: { scale } } is "params/scale". */
export type StateSource =
  | { readonly [name: string]: StateValue | StateSource }
  | ReadonlyMap<string, StateValue | StateSource>;

/** Options of stateDict. */
export interface StateOptions {
  /** The framework whose names and kind of running variance the state has. Default "pytorch". */
  framework?: Framework;
  /** Path of the layer before its names, as "layer1.0.bn1". Its last separator may be omitted. Default "". */
  prefix?: string;
  /**
   * Values per channel m > 1 in the batches of the running variance. It converts the running variance between the
   * layer's kind and the framework's: unbiased for "pytorch", else biased. Without it the variance is copied.
   */
  count?: number;
}

/** Options of loadStateDict. */
export interface LoadOptions extends StateOptions {
  /** Whether missing and unexpected names and values that are not finite throw. false reports them. Default true. */
  strict?: boolean;
}

/** The differences between what a layer needs and what a state has, as loadStateDict returns them. */
export interface LoadReport {
  /** Names that the state lacks. A missing count is 0, and an error for "cumulative" and "debiased" only. */
  readonly missing: readonly string[];
  /** Names below the prefix that the layer does not know. */
  readonly unexpected: readonly string[];
  /** Names whose values are not finite or a negative variance, loaded with strict: false. */
  readonly invalid: readonly string[];
}

/** The parts of a layer that are saved and loaded. A part that its options switch off is null. */
export interface Layer {
  readonly channels: number;
  readonly options: ResolvedOptions<Dtype>;
  readonly gamma: Vector | null;
  readonly beta: Vector | null;
  readonly running: RunningStatistics<Dtype> | null;
}
