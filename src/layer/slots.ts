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
  readonly channels?: number;
  readonly gamma?: FoldVector | null | undefined;
  readonly beta?: FoldVector | null | undefined;
  readonly runningMean: T | null;
  readonly runningVariance: T | null;
  readonly options: { readonly epsilon: number; readonly layout?: Layout; readonly activation?: ActivationName };
}

/** Options of toAffine and fromAffine. */
export interface AffineOptions {
  /**
   * The layer's own activation, by which the program says that it applies it to scale·x + shift. A layer with another
   * one than this is refused, since scale and shift cannot contain it. Default "none".
   */
  activation?: ActivationName;
}

/** A warning that a folded channel is less accurate than the BatchNorm, or not finite. */
export interface FoldWarning {
  /**
   * "ill-conditioned": |mean| ≫ √(variance + epsilon), so that scale·x and shift are large and cancel. "non-finite": a
   * folded number is NaN or beyond the range of its array type.
   */
  readonly code: "ill-conditioned" | "non-finite";
  readonly channel: number;
  /**
   * Expected root mean square error of y caused by folding, in units of |gamma| + |beta|. It is Infinity for
   * "non-finite". The rounding errors of a linear or convolutional layer's sum are not included.
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
  warnings: FoldWarning[];
}

/**
 * A layer's state under PyTorch's names. It is a type alias, because TypeScript does not assign an interface to the
 * records that loadStateDict and writeSafetensors accept.
 */
export type StateDict<V extends Vector = Float32Array> = {
  weight?: V;
  bias?: V;
  running_mean?: V;
  running_var?: V;
  num_batches_tracked?: number;
  /** Values per channel in the running statistics, with the estimator "population" only. PyTorch has no such name. */
  num_values_tracked?: number;
};

/** A layer's state under a framework's names: arrays [C], and numbers for counts. */
export type NamedState<V extends Vector = Vector> = Record<string, V | number>;

export type Numbers = ArrayLike<number> | ArrayLike<bigint>;

/**
 * A value in a state. A vector is an array of floats, or a tensor whose shape is [C] apart from ones, such as [1, C, 1,
 * 1]. A tensor with bits of float16 or bfloat16 declares its dtype. A count is a number, a bigint, or an array of one of
 * these. JSON makes an object with the keys 0, 1, 2, … of a typed array, and such an object is taken for the array.
 */
export type StateValue =
  | Numbers
  | number
  | bigint
  | { readonly data: Numbers; readonly shape: readonly number[]; readonly dtype?: string };

/**
 * A state that loadStateDict can read: values by name, in an object or a Map. Names of nested ones are joined: { params:
 * { scale } } is "params/scale".
 */
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
   * Number m > 1 of values per channel in the batches of the running variance. It converts the running variance between
   * the layer's kind (options.runningVariance) and the framework's kind: unbiased for "pytorch", biased for all others.
   * Without it the variance is copied, so that both frameworks compute the same in mode "eval".
   */
  count?: number;
}

/** Options of loadStateDict. */
export interface LoadOptions extends StateOptions {
  /**
   * true throws for missing and unexpected names, and for values that are not finite. false keeps the layer's value for
   * a missing name, ignores unexpected names, as in PyTorch, and loads what is not finite. Default true.
   */
  strict?: boolean;
}

/** The differences between what a layer needs and what a state has, as loadStateDict returns them. */
export interface LoadReport {
  /**
   * Names that the layer has and that the state does not have. A count is listed, too; a missing one counts as 0, and is
   * an error only for the estimators "cumulative" and "debiased", which weigh batches by it.
   */
  readonly missing: readonly string[];
  /** Names below the prefix that the layer does not know. */
  readonly unexpected: readonly string[];
  /** Names whose values were loaded with strict: false although they are not finite, or are a negative variance. */
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
