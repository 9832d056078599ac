// Features that a layer calls and that batchnorm-wasm/core does not have: their interfaces and types, and the slots that
// complete.ts fills.

import { Slot } from "../common/slot.ts";
import type { Renorm } from "../ops/options.ts";
import type { Statistics } from "../ops/primitives.ts";
import type { SubBatchForward } from "../ops/sub-batches.ts";
import type { Dtype, Vector } from "../tensor/dtype.ts";
import type { ResolvedOptions } from "./options.ts";
import type { RunningStatistics } from "./running-statistics.ts";

/** What stateDict and loadStateDict call; interop/state-dict.ts implements it. */
export interface StateDicts {
  saveState(layer: Layer, options: StateOptions): NamedState;
  loadState(layer: Layer, state: StateSource, options: LoadOptions): LoadReport;
}

/** What toAffine calls; interop/fold.ts implements it. */
export interface Folding {
  toAffine(source: FoldSource<Vector>): Affine<Vector>;
}

/** What training with `renorm` calls; ops/per-sample.ts implements it. */
export interface Renormalization {
  /** A sub-batch whose x̂ becomes x̂·r + d, constants to backward (Ioffe 2017, Alg. 1). */
  renormalize(
    n: SubBatchForward,
    batch: Statistics,
    running: Statistics,
    epsilon: number,
    limits: Readonly<Renorm>,
  ): SubBatchForward;
}

export const stateDicts = /* @__PURE__ */ new Slot<StateDicts>();
export const folding = /* @__PURE__ */ new Slot<Folding>();
export const renormalization = /* @__PURE__ */ new Slot<Renormalization>();

export type Floats = Float32Array | Float64Array;

/**
 * What is folded: a BatchNorm, or an object that has its vectors, [C] each, and its epsilon. A gamma that is absent
 * counts as 1, a beta as 0. The mode does not matter: only running statistics can be folded.
 */
export interface FoldSource<T extends Floats = Floats> {
  readonly channels?: number;
  readonly gamma?: Floats | null | undefined;
  readonly beta?: Floats | null | undefined;
  readonly runningMean: T | null;
  readonly runningVariance: T | null;
  readonly options: { readonly epsilon: number };
}

/** A channel where the folded layer computes something else than the BatchNorm would. */
export interface FoldWarning {
  /**
   * "ill-conditioned": |mean| ≫ √(variance + epsilon), so that scale·x and shift are large and cancel. "non-finite": a
   * folded number is NaN or beyond the range of its kind.
   */
  readonly code: "ill-conditioned" | "non-finite";
  readonly channel: number;
  /**
   * Root mean square of the error of y that folding brings, in units of |gamma| + |beta|; Infinity where non-finite. In
   * a linear or convolutional layer the rounding of its own sum comes on top.
   */
  readonly expectedError: number;
  readonly message: string;
}

/** y = scale·x + shift, [C] each. */
export interface Affine<T extends Floats = Floats> {
  scale: T;
  shift: T;
  warnings: FoldWarning[];
}

/** Frameworks whose names and conventions are known. */
export type Framework = "pytorch" | "keras" | "tfjs" | "onnx" | "flax" | "haiku";

/**
 * A layer's state under PyTorch's names; num_values_tracked only with estimator "population". (A type, because an
 * interface is no record, which loadStateDict and writeSafetensors take.)
 */
export type StateDict<V extends Vector = Float32Array> = {
  weight?: V;
  bias?: V;
  running_mean?: V;
  running_var?: V;
  num_batches_tracked?: number;
  num_values_tracked?: number;
};

/** A layer's state under a framework's names. */
export type NamedState<V extends Vector = Vector> = Record<string, V | number>;

type Numbers = ArrayLike<number> | ArrayLike<bigint>;

/**
 * What a state may hold: any array of numbers, or a tensor whose shape is [C] but for ones, for a vector; a number, a
 * bigint or an array of one for a count.
 */
export type StateValue =
  | Numbers
  | number
  | bigint
  | { readonly data: Numbers; readonly shape: readonly number[]; readonly dtype?: string };

/** What loadStateDict reads: values by name, flat or nested ({ params: { scale } } is "params/scale"). */
export interface StateSource {
  readonly [name: string]: StateValue | StateSource;
}

export interface StateOptions {
  /** Whose names and whose kind of running variance. Default "pytorch". */
  format?: Framework;
  /** What stands before the layer's names, as in "layer1.0.bn1"; the separator behind it may be left out. Default "". */
  prefix?: string;
  /**
   * Values per channel, m > 1, in the batches behind the running variance. If given, the variance is converted between
   * the layer's kind (options.runningVariance) and the format's: unbiased for "pytorch", biased for all others. Without
   * it the variance is taken as it is, and eval computes the same on both sides.
   */
  count?: number;
}

export interface LoadOptions extends StateOptions {
  /** false leaves missing values as they are and ignores unknown names, as in PyTorch. Default true. */
  strict?: boolean;
}

/** Names that loadStateDict looked for in vain, and those that it did not know. */
export interface LoadReport {
  readonly missing: readonly string[];
  readonly unexpected: readonly string[];
}

/** What a layer has to save; null where its options say that it has none. */
export interface Layer {
  readonly channels: number;
  readonly options: ResolvedOptions<Dtype>;
  readonly gamma: Vector | null;
  readonly beta: Vector | null;
  readonly running: RunningStatistics<Dtype> | null;
}
