// The small entry, batchnorm-wasm/core: plain batch normalization of float32. It is the code of the complete entry with
// nothing installed (complete.ts), under types that do not have what is missing.

import {
  type CoreLayerForwardOptions as LayerForwardOptions,
  BatchNorm as LayerOfAnyType,
} from "./layer/batch-norm.ts";
import type { Mode, CoreOptions as Options, CoreResolvedOptions as ResolvedOptions } from "./layer/options.ts";
import { info as infoOfAny } from "./memory/heap.ts";
import { type CoreInitOptions as InitOptions, init as initAny } from "./memory/init.ts";
import { tensor as tensorOfAny } from "./memory/tensor.ts";
import type {
  CoreBackwardOptions as BackwardOptions,
  CoreGradients as Gradients,
  CoreNeeds as Needs,
} from "./ops/backward.ts";
import * as backward from "./ops/backward.ts";
import * as forward from "./ops/batch-norm.ts";
import type { CoreForwardOptions as ForwardOptions } from "./ops/forward.ts";
import type { GradientSums } from "./ops/primitives.ts";
import type { BatchStatistics } from "./ops/statistics.ts";
import type { Layout } from "./tensor/types.ts";

export { BatchNormError, type BatchNormErrorCode } from "./common/errors.ts";
export type { Estimator, Mode, Preset } from "./layer/options.ts";
export { dispose } from "./memory/init.ts";
export { mergeStatistics } from "./ops/statistics.ts";
export type { Layout } from "./tensor/types.ts";
export type {
  BackwardOptions,
  BatchStatistics,
  ForwardOptions,
  GradientSums,
  Gradients,
  InitOptions,
  LayerForwardOptions,
  Needs,
  Options,
  ResolvedOptions,
};

/** What calls take and return: an array with its shape in memory order, or a Tensor. */
export interface TensorLike {
  data: Float32Array;
  shape: readonly number[];
}

/** A tensor in wasm memory, which calls read and write without copying. Made by `tensor`, freed by `dispose`. */
export interface Tensor {
  /** Dimensions in memory order, e.g. [N, C, H, W]. */
  readonly shape: readonly number[];
  /** The number of elements. */
  readonly length: number;
  readonly disposed: boolean;
  /**
   * The elements, live: what is written here is what the next call reads. Ask for it anew after calls that allocate; when
   * memory grows, views taken earlier become empty. Throws BatchNormError "disposed".
   */
  readonly data: Float32Array;
  /** Frees the memory. Calling it again does nothing. */
  dispose(): void;
  [Symbol.dispose](): void;
}

/**
 * Batch normalization over [N, C, …] or [N, …, C] of float32 (torch.nn.BatchNorm1d, 2d and 3d; Ioffe & Szegedy 2015).
 *
 * In mode "train" it normalises by the batch's statistics and updates the running ones, in "batch" it leaves those alone,
 * in "eval" and "frozen" it normalises by them. `backward` differentiates the latest `forward`.
 */
export interface BatchNorm {
  readonly channels: number;
  readonly options: ResolvedOptions;
  /** gamma, [C], or null with scale: false. An assigned array becomes the layer's own. */
  get gamma(): Float32Array | null;
  set gamma(values: Float32Array);
  /** beta, [C], or null with shift: false. An assigned array becomes the layer's own. */
  get beta(): Float32Array | null;
  set beta(values: Float32Array);
  /** The running mean, [C], or null with trackRunningStats: false. An assigned array becomes the layer's own. */
  get runningMean(): Float32Array | null;
  set runningMean(values: Float32Array);
  /** The running variance, [C], or null with trackRunningStats: false. An assigned array becomes the layer's own. */
  get runningVariance(): Float32Array | null;
  set runningVariance(values: Float32Array);
  /** Batches in the running statistics (PyTorch: num_batches_tracked). */
  readonly batchesTracked: number;
  /** Gradient of gamma from the latest backward that computed it. */
  readonly dGamma: Float32Array | undefined;
  /** Gradient of beta from the latest backward that computed it. */
  readonly dBeta: Float32Array | undefined;
  /** The mode of a forward that names none. */
  readonly mode: Mode;
  /** From here on forward means "train". */
  train(): this;
  /** From here on forward means "eval". */
  eval(): this;
  /** Sets the running mean to 0, the running variance to 1 and the number of batches to 0. */
  resetRunningStats(): void;
  /**
   * Returns y = gamma·x̂ + beta for x of shape [N, C, …] or, channels last, [N, …, C]. y is of x's kind and shape, written
   * to `out` if given; in mode "eval" `out` may be x. A call that throws changes nothing.
   *
   * Throws TypeError and RangeError for wrong arguments; BatchNormError for one value per channel ("train", "batch"), a
   * non-finite batch ("train"; see onNonFinite), missing running statistics ("frozen"), a disposed tensor or layer, and
   * exhausted memory.
   */
  forward<T extends TensorLike>(x: T, options?: LayerForwardOptions<T>): T;
  /** Takes statistics of a batch, such as mergeStatistics's, into the running ones. */
  track(statistics: BatchStatistics): void;
  /**
   * Returns the gradients of the latest forward, for dy of its shape: dx in dy's kind, written to `dxOut` if given, which
   * may be dy itself; dGamma and dBeta, [C]. `needs` switches each off. `accumulate` adds to dGammaOut and dBetaOut, or,
   * without those, to the arrays of the backward before. After "eval" or "frozen", dx = gamma·invStd·dy.
   *
   * Throws BatchNormError without a forward, RangeError for another shape.
   */
  backward<T extends TensorLike>(dy: T, options?: BackwardOptions<T>): Gradients<T>;
  /** Releases the latest x. Parameters and statistics stay readable; forward and backward throw. */
  dispose(): void;
  [Symbol.dispose](): void;
}

/** Throws TypeError or RangeError for a wrong number of channels or a wrong option. */
export const BatchNorm: new (channels: number, options?: Options) => BatchNorm = LayerOfAnyType<"float32">;

/** gamma and beta, [C]; null or absent counts as ones and zeros. */
export interface Parameters {
  gamma?: Float32Array | null;
  beta?: Float32Array | null;
}

/** What a forward keeps for backward. Opaque: pass it on. It refers to x, which must not change until then. */
export interface Saved {
  /** false where given statistics normalised, through which no gradient flows. */
  readonly batch: boolean;
  /** false if y was written over x, so that there is no backward. */
  readonly inputIntact: boolean;
  /** The mean of the first or only ghost batch, [C]. */
  readonly mean: Float64Array;
  /** 1/√(variance + epsilon) of the first or only ghost batch, [C]. */
  readonly invStd: Float64Array;
  readonly subBatches: readonly unknown[];
}

/** What batchNormForward returns: mean and variance (biased) are of the first or only ghost batch, [C]. */
export interface Forward<T extends TensorLike> {
  y: T;
  saved: Saved;
  mean: Float64Array;
  variance: Float64Array;
}

/**
 * Batch normalization by the statistics of x (torch.nn.forward.batch_norm with training=True; Ioffe & Szegedy 2015,
 * Alg. 1). x is [N, C, …] or, with layout "channels-last", [N, …, C]. y is in x's kind and shape.
 *
 * Throws TypeError and RangeError for wrong arguments, BatchNormError for one value per channel.
 */
export const batchNormForward: <T extends TensorLike>(
  x: T,
  parameters?: Parameters,
  options?: ForwardOptions<T>,
) => Forward<T> = forward.batchNormForward;

/**
 * Batch normalization by given statistics (training=False), [C]; `out` may be x. `saved` is for the backward of frozen
 * statistics, dx = gamma·invStd·dy, unless `out` was x.
 */
export const batchNormInference: <T extends TensorLike>(
  x: T,
  parameters: Parameters & { mean: Float32Array | Float64Array; variance: Float32Array | Float64Array },
  options?: ForwardOptions<T>,
) => Pick<Forward<T>, "y" | "saved"> = forward.batchNormInference;

/**
 * Gradients of a forward call (Ioffe & Szegedy 2015, section 3; torch.ops.aten.native_batch_norm_backward), for dy of x's
 * shape; dx is in dy's kind. Saved by batchNormInference, the statistics are constants: dx = gamma·invStd·dy.
 *
 * Throws RangeError for another shape, BatchNormError where x was disposed since.
 */
export const batchNormBackward = backward.batchNormBackward as <T extends TensorLike>(
  dy: T,
  saved: Saved,
  options?: BackwardOptions<T>,
) => Gradients<T>;

/**
 * Statistics of one part of a batch, to be merged with those of the others (torch.batch_norm_stats): with
 * `mergeStatistics` and batchNormForward's `statistics`, micro-batches normalise as one batch.
 */
export const batchNormStatistics: (x: TensorLike, options?: { layout?: Layout }) => BatchStatistics =
  forward.batchNormStatistics;

/**
 * A part's own dGamma and dBeta, float64 (torch.batch_norm_backward_reduce). Their sums over all parts are
 * batchNormBackward's `sums`.
 */
export const batchNormGradientSums = backward.batchNormGradientSums as (dy: TensorLike, saved: Saved) => GradientSums;

/**
 * A tensor in wasm memory, of `data` or zeros. Rank 0 and up; at most 4 GiB. Throws RangeError for a wrong shape or length,
 * TypeError for other data, BatchNormError "out-of-memory".
 */
export const tensor: (shape: readonly number[], data?: Float32Array | readonly number[]) => Tensor = tensorOfAny;

/**
 * Compiles the kernels ahead of first use, off the main thread, and starts a pool where `threads` asks for one. Without
 * either it is never needed: everything compiles itself on first use. With an option, what is made from then on lies in
 * a new memory, and the pool before is disposed of; tensors made earlier stay usable, on one thread.
 *
 * Throws TypeError and RangeError for wrong options, BatchNormError "thread" where a worker does not start.
 */
export const init: (options?: InitOptions) => Promise<void> = initAny;

/** What calls run on: which build of the kernels, on how many threads, and why. */
export interface Info {
  build: "simd" | "relaxed" | "given";
  buildReason: string;
  threads: number;
  threadsReason: string;
}

/** Tells what calls run on. */
export const info: () => Info = infoOfAny;
