// The small entry, batchnorm-wasm/core: plain batch normalization of float32. It runs the code of the complete entry,
// but installs no features (complete.ts). Its types omit these features.

import {
  type CoreLayerBackwardOptions as LayerBackwardOptions,
  type CoreLayerForwardOptions as LayerForwardOptions,
  BatchNorm as LayerOfAnyType,
} from "./layer/batch-norm.ts";
import type { Mode, CoreOptions as Options, CoreResolvedOptions as ResolvedOptions } from "./layer/options.ts";
import { type CoreInitOptions as InitOptions, init as initAny } from "./memory/init.ts";
import { tensor as tensorOfAny } from "./memory/tensor.ts";
import type {
  CoreBackwardOptions as BackwardOptions,
  CoreGradients as Gradients,
  CoreNeeds as Needs,
} from "./ops/backward.ts";
import * as backward from "./ops/backward.ts";
import * as forward from "./ops/batch-norm.ts";
import type { CoreForwardOptions as ForwardOptions, ForwardResult, Saved } from "./ops/forward.ts";
import type { GradientSums } from "./ops/primitives.ts";
import type { BatchStatistics } from "./ops/statistics.ts";
import type { Layout } from "./tensor/types.ts";

export { BatchNormError, type BatchNormErrorCode } from "./common/errors.ts";
export type { WasmModule } from "./common/globals.ts";
export type { Estimator, Framework, Mode, Preset } from "./layer/options.ts";
export { type Info, kernelInfo } from "./memory/heap.ts";
export { stopThreads } from "./memory/init.ts";
export type { Needed } from "./ops/backward.ts";
export { mergeStatistics } from "./ops/statistics.ts";
export type { Vector } from "./tensor/dtype.ts";
export type { Layout } from "./tensor/types.ts";
export type { BuildName } from "./wasm/module.ts";
export type {
  BackwardOptions,
  BatchStatistics,
  ForwardOptions,
  ForwardResult,
  GradientSums,
  Gradients,
  InitOptions,
  LayerBackwardOptions,
  LayerForwardOptions,
  Needs,
  Options,
  ResolvedOptions,
  Saved,
};

/** An argument or a result of a call: an array with its shape in memory order, or a Tensor. */
export interface TensorLike {
  /** The elements in memory order. */
  data: Float32Array;
  /** Dimensions in memory order, e.g. [N, C, H, W]. */
  shape: readonly number[];
}

/**
 * A tensor in wasm memory, which calls read and write without copying. `tensor` makes it, and its method `dispose`
 * frees it.
 */
export interface Tensor {
  /** Dimensions in memory order, e.g. [N, C, H, W]. */
  readonly shape: readonly number[];
  /** The number of elements. */
  readonly length: number;
  /** Whether the memory has been freed. */
  readonly disposed: boolean;
  /**
   * A view of the elements in wasm memory, so that the next call reads what a program writes here. Read this property
   * again after a call that allocates: when memory grows, earlier views become empty. Throws BatchNormError "disposed"
   * after dispose().
   */
  readonly data: Float32Array;
  /** Frees the memory. Further calls have no effect. */
  dispose(): void;
  [Symbol.dispose](): void;
}

/**
 * A layer of batch normalization over [N, C, …] or [N, …, C] of float32 (torch.nn.BatchNorm1d, 2d and 3d; Ioffe &
 * Szegedy 2015).
 *
 * Mode "train" normalises by the batch's statistics and updates the running ones. Mode "batch" normalises by the
 * batch's statistics and does not update. Modes "eval" and "frozen" normalise by the running statistics. `backward`
 * differentiates the latest `forward`.
 */
export interface BatchNorm<Scale extends boolean = true, Shift extends boolean = true> {
  /** The number of channels, C. */
  readonly channels: number;
  /** The layer's options with every default filled in. */
  readonly options: ResolvedOptions;
  /** gamma (PyTorch: weight), [C], or null with scale: false. The layer uses an assigned array without copying it. */
  get gamma(): Scale extends true ? Float32Array : null;
  set gamma(values: Float32Array);
  /** beta (PyTorch: bias), [C], or null with shift: false. The layer uses an assigned array without copying it. */
  get beta(): Shift extends true ? Float32Array : null;
  set beta(values: Float32Array);
  /**
   * The running mean, [C], or null with trackRunningStats: false. The layer uses an assigned array without copying it.
   */
  get runningMean(): Float32Array | null;
  set runningMean(values: Float32Array);
  /**
   * The running variance, [C], or null with trackRunningStats: false. The layer uses an assigned array without copying
   * it.
   */
  get runningVariance(): Float32Array | null;
  set runningVariance(values: Float32Array);
  /** The number of batches in the running statistics (PyTorch: num_batches_tracked). */
  readonly batchesTracked: number;
  /** The gradient of gamma, [C], from the latest backward that computed it. */
  readonly dGamma: Float32Array | undefined;
  /** The gradient of beta, [C], from the latest backward that computed it. */
  readonly dBeta: Float32Array | undefined;
  /** The mode of a forward whose options do not name one. Initially "train". */
  mode: Mode;
  /** Sets `mode` to "train", or with `on` = false to "eval", and returns the layer. */
  train(on?: boolean): this;
  /** Sets `mode` to "eval" and returns the layer. */
  eval(): this;
  /**
   * Sets `mode` to "frozen" and returns the layer. The running statistics are constants then, and dx = gamma·invStd·dy.
   */
  freeze(): this;
  /** The number added to the variance inside the root, finite and ≥ 0. Assigning it affects later forwards. */
  epsilon: number;
  /** The weight of the NEW batch in the running statistics, in [0, 1]. Assigning it affects later batches. */
  momentum: number;
  /** The record of the latest forward, which a backward can differentiate after later forwards. */
  readonly saved: Saved | undefined;
  /** Returns a layer with the same options, mode, parameters and running statistics, in arrays of its own. */
  clone(): this;
  /** Sets the running mean to 0, the running variance to 1 and the number of batches to 0. */
  resetRunningStats(): void;
  /**
   * Returns y = gamma·x̂ + beta for x of shape [N, C, …] or, channels last, [N, …, C]. y has x's shape and is an array
   * or a Tensor, as x is. The option `out` receives y; in mode "eval" it may be x. A call that throws changes
   * nothing, but `out` is unspecified after a batch that is not finite.
   *
   * Throws TypeError or RangeError for wrong arguments. Throws BatchNormError for one value per channel (modes "train"
   * and "batch"), for statistics that are not finite (mode "train" with onNonFinite: "throw"), for a layer without
   * running statistics (mode "frozen"), for a disposed tensor or layer, and for exhausted memory.
   */
  forward<T extends TensorLike>(x: T, options?: LayerForwardOptions<T>): T;
  /**
   * Updates the running statistics by the statistics of a batch, for example those of mergeStatistics. Throws TypeError
   * or RangeError for wrong statistics.
   */
  track(statistics: BatchStatistics): void;
  /**
   * Returns the gradients of the latest forward for dy, which has the shape of y: dx, dGamma and dBeta. dx has dy's
   * shape and is an array or a Tensor, as dy is; dGamma and dBeta are [C]. After mode "eval" or "frozen", dx =
   * gamma·invStd·dy.
   *
   * The option `saved` names an earlier forward. Without it, the latest forward can be differentiated once. The option
   * `needs` switches gradients off. `dxOut` receives dx and may be dy. `accumulate` adds to dGammaOut and
   * dBetaOut, or without these to the layer's dGamma and dBeta.
   *
   * Throws BatchNormError without a forward, and RangeError for another shape.
   */
  backward<T extends TensorLike, const N extends Needs = object>(
    dy: T,
    options?: LayerBackwardOptions<T, N>,
  ): Gradients<T, Float32Array, N, Scale, Shift>;
  /** Releases the latest x. Parameters and statistics remain readable, but forward and backward throw. */
  dispose(): void;
  [Symbol.dispose](): void;
}

/**
 * Makes a layer of batch normalization with `channels` channels. Throws TypeError or RangeError for a wrong number of
 * channels or a wrong option.
 */
export const BatchNorm = LayerOfAnyType as new <Scale extends boolean = true, Shift extends boolean = true>(
  channels: number,
  options?: Options & { scale?: Scale; shift?: Shift; affine?: Scale | Shift },
) => BatchNorm<Scale, Shift>;

/** The learnable parameters of batch normalization. */
export interface Parameters {
  /** Factor of the normalised x, [C]. null or an absent gamma counts as ones. */
  gamma?: Float32Array | null;
  /** Addend after the multiplication by gamma, [C]. null or an absent beta counts as zeros. */
  beta?: Float32Array | null;
}

/**
 * Normalises x by its own statistics (torch.nn.functional.batch_norm with training=True; Ioffe & Szegedy 2015, Alg. 1).
 * x is [N, C, …] or, with layout "channels-last", [N, …, C]. y has x's shape and is an array or a Tensor, as x is.
 *
 * Throws TypeError or RangeError for wrong arguments, and BatchNormError for one value per channel.
 */
export const batchNormForward: <T extends TensorLike>(
  x: T,
  parameters?: Parameters,
  options?: ForwardOptions<T>,
) => ForwardResult<T> = forward.batchNormForward;

/**
 * Normalises x by given statistics (torch.nn.functional.batch_norm with training=False): `mean` and the biased
 * `variance`, [C] each. The option `out` may be x. `saved` is for a backward with constant statistics, dx =
 * gamma·invStd·dy, which is not possible if `out` was x.
 *
 * Throws TypeError or RangeError for wrong arguments.
 */
export const batchNormInference: <T extends TensorLike>(
  x: T,
  parameters: Parameters & { mean: Float32Array | Float64Array; variance: Float32Array | Float64Array },
  options?: Omit<ForwardOptions<T>, "statistics" | "ghostBatchSize">,
) => ForwardResult<T> = forward.batchNormInference;

/**
 * Returns the gradients of a forward for dy, which has the shape of x (Ioffe & Szegedy 2015, section 3;
 * torch.ops.aten.native_batch_norm_backward). dx is an array or a Tensor, as dy is; dGamma and dBeta are [C]. For
 * `saved` of batchNormInference the statistics are constants, so that dx = gamma·invStd·dy.
 *
 * Throws RangeError for another shape, and BatchNormError if x has been disposed of.
 */
export const batchNormBackward = backward.batchNormBackward as <T extends TensorLike, const N extends Needs = object>(
  dy: T,
  saved: Saved,
  options?: BackwardOptions<T, N>,
) => Gradients<T, Float32Array, N>;

/**
 * Returns the statistics of one part of a batch (torch.batch_norm_stats). mergeStatistics merges those of all parts.
 * With the merged statistics as batchNormForward's option `statistics`, the parts are normalised as one batch.
 */
export const batchNormStatistics: (x: TensorLike, options?: { layout?: Layout }) => BatchStatistics =
  forward.batchNormStatistics;

/**
 * Returns dGamma and dBeta, float64, of one part of a batch (torch.batch_norm_backward_reduce). Their sums over all
 * parts are batchNormBackward's option `sums`.
 */
export const batchNormGradientSums = backward.batchNormGradientSums as (dy: TensorLike, saved: Saved) => GradientSums;

/**
 * Makes a tensor in wasm memory with a copy of `data`, or with zeros. It has any rank and at most 4 GiB. Throws
 * RangeError for a wrong shape or length, TypeError for data of a wrong type, and BatchNormError "out-of-memory".
 */
export const tensor: (shape: readonly number[], data?: Float32Array | readonly number[]) => Tensor = tensorOfAny;

/**
 * Compiles the kernels before their first use, off the main thread, and starts a pool of threads if the option
 * `threads` asks for one. Programs that need neither do not have to call it, since the first use compiles the kernels.
 * With any option, new tensors are in a new memory and the earlier pool is disposed of. Earlier tensors remain usable,
 * on one thread.
 *
 * Rejects with TypeError or RangeError for wrong options, and with BatchNormError "thread" if a worker does not start.
 */
export const init: (options?: InitOptions) => Promise<void> = initAny;
