// class BatchNorm: parameters, modes, forward and backward. The operations are in ops/, and the population's statistics
// are in running-statistics.ts.

import {
  absentParameter,
  asIs,
  disposed,
  exclusiveStatistics,
  noForward,
  nonFinite,
  noRunningStatistics,
  noStatistics,
  secondBackward,
  wrongGradient,
  wrongValue,
} from "../common/errors.ts";
import { Strict } from "../common/strict.ts";
import { checkKeys, flag } from "../common/validate.ts";
import { checkVector } from "../memory/guards.ts";
import { type AnyTensor, Tensor, type TensorLike } from "../memory/tensor.ts";
import { type Activation, activationOption } from "../ops/activation.ts";
import {
  BACKWARD_OPTIONS,
  type BackwardOptions,
  backward,
  type CoreBackwardOptions,
  type CoreNeeds,
  type Gradients,
  type Needs,
  recordOf,
} from "../ops/backward.ts";
import {
  checkForward,
  type ForwardHooks,
  type ForwardInputs,
  type ForwardRecord,
  isPreparedFor,
  type PreparedForward,
  prepareForward,
  runForward,
  type Saved,
  type StatisticsSource,
  savedOf,
} from "../ops/forward.ts";
import type { Mask } from "../ops/mask.ts";
import { epsilonOption, type PerSampleParameters, type Renorm, renormOption } from "../ops/options.ts";
import { emptyStatistics, invStdOf, type Statistics } from "../ops/primitives.ts";
import { type BatchStatistics, checkStatistics, nonFiniteChannel } from "../ops/statistics.ts";
import {
  PER_SAMPLE,
  perSample,
  type ScaleAndShift,
  type StatisticsTarget,
  type SubBatchForward,
} from "../ops/sub-batches.ts";
import { type Dtype, newVector, type Vector, type VectorOf } from "../tensor/dtype.ts";
import type { Geometry } from "../tensor/shape.ts";
import {
  checkChannels,
  type Estimator,
  type LayerOptions,
  type Mode,
  modeOption,
  momentumOption,
  type ResolvedOptions,
  resolveOptions,
} from "./options.ts";
import { RunningStatistics } from "./running-statistics.ts";
import {
  type Affine,
  type AffineOptions,
  folding,
  type Layer,
  type LoadOptions,
  type LoadReport,
  type NamedState,
  renormalization,
  type StateDict,
  type StateOptions,
  type StateSource,
  stateDicts,
} from "./slots.ts";

/** Options of a layer's forward in batchnorm-wasm/core. */
export interface CoreLayerForwardOptions<T> {
  /** The mode of this call. Default: the layer's mode. */
  mode?: Mode;
  /** Where to write y; by default it is new. */
  out?: T;
  /** Statistics of a joint batch with x as a part (mergeStatistics). Only `track` takes them into the running ones. */
  statistics?: BatchStatistics;
}

/** Options of a layer's forward. */
export interface LayerForwardOptions<T extends AnyTensor = AnyTensor> extends CoreLayerForwardOptions<T> {
  /** A tensor of x's shape and type that is added before the activation. */
  residual?: T;
  /** The positions that count in the batch's statistics; all by default. */
  mask?: Mask;
  /** A scale, a shift or both of every sample, [N, C], instead of the layer's gamma or beta. */
  perSample?: PerSampleParameters;
  /** Samples n that the running statistics count as in mode "batch": w·batch + (1 − w)·running, w = N/(n + N). */
  prior?: number;
}

/** Options of a layer's backward in batchnorm-wasm/core. */
export interface CoreLayerBackwardOptions<T, N extends CoreNeeds = CoreNeeds> extends CoreBackwardOptions<T, N> {
  /** The forward to differentiate, a `bn.saved`. Default: the latest, which can be differentiated once. */
  saved?: Saved | undefined;
}

/** Options of a layer's backward. */
export interface LayerBackwardOptions<T extends AnyTensor = AnyTensor, N extends Needs = Needs>
  extends BackwardOptions<T, N> {
  /** The forward to differentiate, a `bn.saved`. Default: the latest, which can be differentiated once. */
  saved?: Saved | undefined;
}

/** Returns a layer. Throws TypeError for a Proxy around one, whose private fields cannot be read. */
function own<T extends object>(bn: T): T {
  Strict.checkItself("bn", bn);
  return bn;
}

/** The options of a forward that may be repeated without checks. */
const REPEATABLE = ["mode", "out", "residual"];
const LAYER_BACKWARD_OPTIONS = [...BACKWARD_OPTIONS, "saved"];
const FORWARD_OPTIONS = [...REPEATABLE, "mask", "perSample", "prior", "statistics"];

/** A recalibration of a layer, during which it collects new running statistics. */
export interface RecalibrationSession {
  /** The number of batches so far. */
  readonly batches: number;
  /** The number of values per channel so far, or 0 if the estimator is not "population". */
  readonly values: number;
  /** Replaces the layer's running statistics by the new ones. */
  commit(): void;
  /**
   * Restores mode, limits of renorm and the pending backward, and the old running statistics unless `commit` was
   * called.
   */
  end(): void;
}

/**
 * A layer of batch normalization over [N, C, …] or [N, …, C] (torch.nn.BatchNorm1d, 2d and 3d; Ioffe & Szegedy 2015).
 *
 * In mode "train" it normalises by the batch's statistics and updates the running ones; in "batch" it does not update
 * them. In "eval" and "frozen" it normalises by the running statistics; "eval" is for predictions, and "frozen" for
 * training around a layer that keeps its statistics. `backward` differentiates the latest `forward`.
 *
 * `clone()` copies a layer. structuredClone and spread syntax lose all that a layer holds.
 */
export class BatchNorm<
  D extends Dtype = "float32",
  Scale extends boolean = true,
  Shift extends boolean = true,
> extends Strict {
  readonly #channels: number;
  #options: ResolvedOptions<D>;
  readonly #activation: Activation;
  #gamma: VectorOf<D> | null;
  #beta: VectorOf<D> | null;
  #running: RunningStatistics<D> | null;
  #renorm: Readonly<Renorm> | null;
  #mode: Mode = "train";
  /** Buffers for the next forward. */
  #spare: ForwardBuffers;
  /** Buffers of the latest forward, which its backward reads. */
  #used: ForwardBuffers;
  /** The latest forward that left its input intact. */
  #saved: ForwardRecord | undefined;
  /** Whether a backward without option `saved` has differentiated the latest forward. */
  #differentiated = false;
  #dGamma: Vector | undefined;
  #dBeta: Vector | undefined;
  #disposed = false;
  #isRecalibrating = false;

  /** Throws TypeError or RangeError for a wrong number of channels or a wrong option. */
  constructor(channels: number, options: LayerOptions<D, Scale, Shift> = {}) {
    super();
    this.#channels = checkChannels(channels);
    this.#options = resolveOptions<D>(options);
    const { dtype, scale, shift, trackRunningStats, activation, negativeSlope, renorm } = this.#options;
    if (renorm) renormalization.get("renorm");
    this.#activation = activationOption(activation, negativeSlope);
    this.#gamma = scale ? (newVector(dtype, channels).fill(1) as VectorOf<D>) : null;
    this.#beta = shift ? newVector(dtype, channels) : null;
    this.#running = trackRunningStats ? new RunningStatistics(channels, this.#options) : null;
    this.#renorm = renorm;
    this.#spare = new ForwardBuffers(channels);
    this.#used = new ForwardBuffers(channels);
    if (new.target === BatchNorm) Object.preventExtensions(this);
  }

  // ---- state --------------------------------------------------------------------------------------------------------

  /** The number of channels, C. */
  get channels(): number {
    return own(this).#channels;
  }

  /** The layer's options with every default filled in, and with its present epsilon and momentum. */
  get options(): ResolvedOptions<D> {
    return own(this).#options;
  }

  /** The scale, [C] (PyTorch: weight), or null with scale: false. An assigned array is used without a copy. */
  get gamma(): Scale extends true ? VectorOf<D> : null {
    return own(this).#gamma as Scale extends true ? VectorOf<D> : null;
  }

  set gamma(values: VectorOf<D>) {
    if (!this.gamma) throw absentParameter("gamma", "scale: false or affine: false");
    this.#gamma = checkVector("gamma", values, this.channels, this.options.dtype);
  }

  /** The shift, [C] (PyTorch: bias), or null with shift: false. An assigned array is used without a copy. */
  get beta(): Shift extends true ? VectorOf<D> : null {
    return own(this).#beta as Shift extends true ? VectorOf<D> : null;
  }

  set beta(values: VectorOf<D>) {
    if (!this.beta) throw absentParameter("beta", "shift: false or affine: false");
    this.#beta = checkVector("beta", values, this.channels, this.options.dtype);
  }

  /** The running mean, [C], or null with trackRunningStats: false. An assigned array is used without a copy. */
  get runningMean(): VectorOf<D> | null {
    return own(this).#running?.mean ?? null;
  }

  set runningMean(values: VectorOf<D>) {
    if (!this.runningMean) throw absentParameter("runningMean", "trackRunningStats: false");
    (this.#running as RunningStatistics<D>).mean = values;
  }

  /** The running variance, [C], or null with trackRunningStats: false. An assigned array is used without a copy. */
  get runningVariance(): VectorOf<D> | null {
    return own(this).#running?.variance ?? null;
  }

  set runningVariance(values: VectorOf<D>) {
    if (!this.runningMean) throw absentParameter("runningVariance", "trackRunningStats: false");
    (this.#running as RunningStatistics<D>).variance = values;
  }

  /** The number of batches in the running statistics (PyTorch: num_batches_tracked). */
  get batchesTracked(): number {
    return own(this).#running?.batches ?? 0;
  }

  /** The gradient of gamma from the latest backward that computed it. */
  get dGamma(): VectorOf<D> | undefined {
    return own(this).#dGamma as VectorOf<D> | undefined;
  }

  /** The gradient of beta from the latest backward that computed it. */
  get dBeta(): VectorOf<D> | undefined {
    return own(this).#dBeta as VectorOf<D> | undefined;
  }

  /** The mode of a forward without option `mode`; initially "train". Assigning another value than a mode throws. */
  get mode(): Mode {
    return own(this).#mode;
  }

  set mode(mode: Mode) {
    own(this).#mode = modeOption(mode ?? null, "train");
  }

  /** Sets the layer's mode to "train", or with `on` = false to "eval" (torch.nn.Module.train). */
  train(on?: boolean): this {
    own(this).#mode = flag("on", on, true) ? "train" : "eval";
    return this;
  }

  /** Sets the layer's mode to "eval", for predictions. */
  eval(): this {
    return this.train(false);
  }

  /**
   * Sets the layer's mode to "frozen", for fine-tuning (torchvision.ops.FrozenBatchNorm2d): running statistics are
   * constants, and backward gives dx = gamma·invStd·dy. Also leave gamma and beta as they are to freeze these. Throws
   * BatchNormError "no-running-statistics" with trackRunningStats: false.
   */
  freeze(): this {
    if (!own(this).#running) throw noRunningStatistics("frozen");
    this.#mode = "frozen";
    return this;
  }

  /** The number added to the variance inside the root, finite and ≥ 0. Assigning it affects later forwards. */
  get epsilon(): number {
    return own(this).#options.epsilon;
  }

  set epsilon(epsilon: number) {
    own(this).#change({ epsilon: epsilonOption(epsilon ?? null) });
    // a preparation of a forward holds its epsilon
    this.#spare.latest = undefined;
    this.#used.latest = undefined;
  }

  /** The weight of the NEW batch in the running statistics, in [0, 1]. Assigning it affects later batches. */
  get momentum(): number {
    return own(this).#options.momentum;
  }

  set momentum(momentum: number) {
    own(this).#change({ momentum: momentumOption(momentum ?? null, undefined, 0) });
  }

  #change(changes: Partial<ResolvedOptions<D>>): void {
    this.#options = Object.freeze({ ...this.#options, ...changes } as ResolvedOptions<D>);
    if (this.#running) this.#running.options = this.#options;
  }

  /**
   * The record of the latest forward. Keep it to differentiate that forward after others: `backward(dy, { saved })`,
   * batchNormGradientSums and batchNormDoubleBackward take it. It is undefined before the first forward, and after one
   * whose `out` took the place of x. Later forwards leave it as it is, and use new buffers instead.
   */
  get saved(): Saved | undefined {
    if (own(this).#saved) this.#used.isKept = true;
    return this.#saved;
  }

  /** The limits of Batch Renormalization, which training widens step by step (Ioffe 2017). null turns it off. */
  get renorm(): Readonly<Renorm> | null {
    return own(this).#renorm;
  }

  set renorm(limits: Renorm | null) {
    const renorm = renormOption(limits);
    if (renorm && !this.runningMean) throw absentParameter("renorm", "trackRunningStats: false");
    if (renorm) renormalization.get("renorm");
    own(this).#renorm = renorm;
  }

  /** Resets the running statistics: mean 0, variance 1, no batches. */
  resetRunningStats(): void {
    own(this).#running?.reset();
  }

  /**
   * Returns a layer with the same options, mode, parameters and running statistics, in arrays of its own. A pending
   * backward is not copied. A subclass whose constructor has other parameters than BatchNorm's overrides this method.
   */
  clone(): this {
    const Copy = this.constructor as new (channels: number, options: ResolvedOptions<D>) => this;
    // copyTo sets the momentum, which the constructor might take for another framework's
    const { momentum, ...options } = own(this).#options;
    return this.copyTo(new Copy(this.#channels, options as ResolvedOptions<D>));
  }

  /**
   * Copies all that `clone` copies to a layer of the same channels and options.
   *
   * @internal
   */
  copyTo<L extends BatchNorm<D, Scale, Shift>>(copy: L): L {
    copy.#change(this.#options);
    copy.#mode = this.#mode;
    copy.#renorm = this.#renorm;
    if (this.#gamma) copy.#gamma?.set(this.#gamma);
    if (this.#beta) copy.#beta?.set(this.#beta);
    if (this.#running) copy.#running?.copyFrom(this.#running);
    return copy;
  }

  /** Returns stateDict() for JSON.stringify, with arrays of numbers. loadStateDict reads it after JSON.parse. */
  toJSON(): Record<string, number | number[]> {
    const entries = Object.entries(this.stateDict() as NamedState);
    return Object.fromEntries(entries.map(([name, v]) => [name, typeof v === "number" ? v : Array.from(v)]));
  }

  /**
   * Copies the layer's parameters and running statistics. Their names are PyTorch's, or those of `framework`, each
   * behind `prefix`. Throws TypeError or RangeError for a wrong option.
   */
  stateDict(): StateDict<VectorOf<D>>;
  stateDict(options: StateOptions): NamedState<VectorOf<D>>;
  stateDict(options: StateOptions = {}): NamedState<VectorOf<D>> {
    return stateDicts.get("stateDict").saveState(own(this).#layer(), options) as NamedState<VectorOf<D>>;
  }

  /**
   * Loads a state that stateDict or a framework saved. `framework` says whose names it has, and only entries behind
   * `prefix` are read. A count of batches that is missing counts as 0. With estimator "population" num_values_tracked
   * may be missing; then the next train batch begins a new population.
   *
   * Throws BatchNormError "state-dict", which lists missing and unexpected names, wrong values, and values that are not
   * finite, and loads nothing in that case. With strict: false names and values that are not finite are only reported.
   */
  loadStateDict(state: StateSource, options: LoadOptions = {}): LoadReport {
    return stateDicts.get("loadStateDict").loadState(own(this).#layer(), state, options);
  }

  #layer(): Layer {
    this.#checkVectors();
    const { channels, options } = this;
    return { channels, options, gamma: this.#gamma, beta: this.#beta, running: this.#running };
  }

  /**
   * Returns mode "eval" as y = scale·x + shift, [C] each, with a warning for every channel in which that loses digits.
   * foldIntoConv and foldIntoLinear put it into a layer's weight. An activation is not in it, and has to be named by the
   * option `activation`. Throws RangeError if it is not, and BatchNormError "no-running-statistics" with
   * trackRunningStats: false.
   */
  toAffine(options: AffineOptions = {}): Affine<VectorOf<D>> {
    return folding.get("toAffine").toAffine(this, options) as Affine<VectorOf<D>>;
  }

  // ---- computation --------------------------------------------------------------------------------------------------

  /**
   * Computes y = f(gamma·x̂ + beta + residual), where f is the activation, for x of shape [N, C, …] or, with layout
   * "channels-last", [N, …, C]. y has x's kind and shape. In mode "eval" `out` may be x. A call that throws changes
   * nothing, but `out` is unspecified after a batch that is not finite.
   *
   * Throws TypeError and RangeError for wrong arguments. Throws BatchNormError for one value per channel ("train",
   * "batch"), a batch that is not finite ("train"; see onNonFinite), missing running statistics ("frozen"), a tensor or
   * layer that has been disposed of, and exhausted memory.
   */
  forward<T extends TensorLike<D>>(x: T, options: LayerForwardOptions<T> = {}): T {
    BatchNorm.#alive(this);
    checkKeys("forward options", options, FORWARD_OPTIONS);
    const mode = modeOption(options.mode, this.#mode);
    const repeatable = isRepeatable(x, options);
    const prepared =
      (repeatable ? this.#preparedBefore(x, options, mode) : undefined) ??
      this.#prepare(this.checkForward(x, options, mode), options, mode);
    const updates = mode === "train" && prepared.targets !== undefined && this.#running !== null;
    if (updates) checkTracked(prepared.subBatches, this.takesOne(mode));
    const { y, subBatches } = runForward(prepared, {
      adjust: this.#adjustment(prepared.batch, options, mode),
      verify: updates ? () => this.#verify(prepared) : undefined,
    });
    if (updates) this.#commit(prepared, subBatches);
    this.#keep(prepared, subBatches, repeatable ? mode : undefined);
    return y;
  }

  /**
   * Returns the preparation of the forward before the latest one if it was for the same tensors: it is that of this call,
   * too. Programs that reuse their tensors alternate between two preparations, since each has its own buffers.
   */
  #preparedBefore<T extends TensorLike<D>>(
    x: T,
    options: LayerForwardOptions<T>,
    mode: Mode,
  ): PreparedForward<T> | undefined {
    const { latest } = this.#spare;
    const { residual, out } = options;
    if (latest?.mode !== mode || !isPreparedFor(latest.prepared, x, residual, out)) return undefined;
    this.#checkVectors();
    const { gamma, beta } = this.#scaleAndShift();
    const { terms } = latest.prepared.subBatches[0] as SubBatchForward;
    if (terms.gamma !== gamma || terms.beta !== beta) return undefined;
    if (!latest.prepared.batch) this.#runningStatistics(this.#spare.statistics(0));
    return latest.prepared as PreparedForward<T>;
  }

  /** Decides which of a batch's new statistics are finite. Throws if one is not, and onNonFinite is "throw". */
  #verify({ targets = [], subBatches }: PreparedForward<AnyTensor>): void {
    for (let i = 0; i < targets.length; i++) {
      const target = targets[i] as StatisticsTarget;
      target.tracked =
        (subBatches[i] as SubBatchForward).count > 0 && (target.finite || this.#checkFinite(target.into));
    }
  }

  /**
   * Checks what a forward takes, apart from its scale, shift and statistics. SyncBatchNorm does so before its exchange.
   *
   * @internal
   */
  checkForward<T extends TensorLike<D>>(x: T, options: LayerForwardOptions<T>, mode: Mode): ForwardInputs<T> {
    const { residual, out, mask } = options;
    const { dtype, layout, ghostBatchSize } = this.#options;
    if (mode === "frozen" && !this.#running) throw noRunningStatistics(mode);
    const args = {
      x,
      residual,
      out,
      mask,
      layout,
      activation: this.#activation,
      ghostBatchSize: this.#normalizesByBatch(mode) ? ghostBatchSize : null,
      backwardMode: mode === "eval" ? undefined : mode,
    };
    const inputs = checkForward(args, { dtype, channels: this.#channels });
    this.#checkVectors();
    return inputs;
  }

  /**
   * Whether a batch of one value per channel is taken in this mode: in a recalibration by "population", which merges it
   * exactly with the other batches.
   *
   * @internal
   */
  takesOne(mode: Mode): boolean {
    return this.#isRecalibrating && mode === "train" && this.#running?.estimator === "population";
  }

  #normalizesByBatch(mode: Mode): boolean {
    return mode === "train" || mode === "batch" || !this.#running;
  }

  #prepare<T extends TensorLike<D>>(
    inputs: ForwardInputs<T>,
    options: LayerForwardOptions<T>,
    mode: Mode,
  ): PreparedForward<T> {
    const { epsilon, ghostBatchSize } = this.#options;
    const batch = this.#normalizesByBatch(mode);
    const { statistics } = options;
    const joint = statistics === undefined ? undefined : checkStatistics(statistics, this.#channels, epsilon);
    if (joint && !batch) throw wrongValue("mode", '"train" or "batch" with statistics', mode);
    if (joint && ghostBatchSize) throw exclusiveStatistics("ghostBatchSize");
    if (joint && this.#renorm) throw exclusiveStatistics("renorm");
    const scaleAndShift = this.#scaleAndShift(options.perSample, inputs.geometry);
    return prepareForward(inputs, scaleAndShift, this.#source(joint, batch, this.takesOne(mode)), mode);
  }

  #source(joint: (Statistics & { count: number }) | undefined, batch: boolean, takesOne: boolean): StatisticsSource {
    const spare = this.#spare;
    if (joint) return { kind: "joint", statistics: joint, count: joint.count, takesOne };
    if (batch) return { kind: "batch", epsilon: this.#options.epsilon, takesOne, buffer: (i) => spare.statistics(i) };
    return { kind: "constant", statistics: this.#runningStatistics(spare.statistics(0)) };
  }

  /** Returns what a forward does with a sub-batch once its statistics are known; undefined if that is nothing. */
  #adjustment(batch: boolean, options: LayerForwardOptions, mode: Mode): ForwardHooks["adjust"] {
    const renorm = batch ? this.#renorm : null;
    const name = options.prior !== undefined ? "prior" : "renorm";
    if (name === "renorm" && !renorm) return undefined;
    return renormalization.get(name).adjustmentOf(this.#running, renorm, options, mode);
  }

  /** Updates the running statistics by those of all sub-batches that are to be tracked. */
  #commit({ targets = [] }: PreparedForward<AnyTensor>, subBatches: readonly SubBatchForward[]): void {
    for (let i = 0; i < targets.length; i++) {
      const { tracked, into } = targets[i] as StatisticsTarget;
      if (tracked) this.#running?.update(into.mean, into.variance, (subBatches[i] as SubBatchForward).count);
    }
  }

  /**
   * Keeps what backward needs, and leaves the buffers of the forward before to the next. A forward that has a `mode` is
   * kept with it, so that another call in that mode can repeat it.
   */
  #keep(prepared: PreparedForward<AnyTensor>, subBatches: readonly SubBatchForward[], mode: Mode | undefined): void {
    const buffers = this.#spare;
    this.#spare = this.#used.isKept ? new ForwardBuffers(this.#channels) : this.#used;
    this.#used = buffers;
    this.#differentiated = false;
    const { latest } = buffers;
    if (latest?.prepared === prepared && latest.saved?.subBatches === subBatches && !latest.saved.verify)
      this.#saved = latest.saved;
    else {
      this.#saved = prepared.inputs.inputIntact ? savedOf(prepared, subBatches, buffers.scratch) : undefined;
      buffers.latest = mode && { mode, prepared, saved: this.#saved };
    }
  }

  /**
   * Updates the running statistics by those of a batch, such as a joint batch of mergeStatistics. Throws TypeError and
   * RangeError for wrong statistics, and BatchNormError if they are not finite (see onNonFinite) or if the layer has no
   * running statistics.
   */
  track(statistics: BatchStatistics): void {
    BatchNorm.#alive(this);
    if (!this.#running) throw noStatistics();
    const batch = checkStatistics(statistics, this.#channels, this.#options.epsilon);
    const takesOne = this.#running.estimator === "population" && (this.#isRecalibrating || this.#running.values > 0);
    if (batch.count > 0 && batch.count <= 1 && !takesOne)
      throw wrongValue("statistics.count", "more than 1 value per channel", batch.count);
    if (batch.count > 0 && this.#checkFinite(batch)) this.#running.update(batch.mean, batch.variance, batch.count);
  }

  /**
   * Computes the gradients of the latest forward, or of the forward `saved`, from dy, the gradient of y, in x's shape: dx
   * in dy's kind, dGamma and dBeta as vectors. `accumulate` adds to dGammaOut and dBetaOut, or without those to the
   * arrays of the backward before. Where a forward normalised by running statistics (modes "eval" and "frozen"), they are
   * constants, and dx = gamma·invStd·dy.
   *
   * Throws BatchNormError "no-forward" without a forward, and for a second backward of the latest forward without
   * `saved`. Throws TypeError and RangeError for wrong arguments.
   */
  backward<T extends TensorLike<D>, const N extends Needs = object>(
    dy: T,
    options: LayerBackwardOptions<T, N> = {},
  ): Gradients<T, VectorOf<D>, N, Scale, Shift> {
    checkKeys("backward options", options, LAYER_BACKWARD_OPTIONS);
    // a rest pattern: an object from which a property is deleted would slow a small call to 1.5 times its time
    const { saved, ...complete } = options;
    const record = this.recordFor(saved);
    if (options.accumulate === true) {
      const { channels, samples } = record.geometry;
      const perSample = record.subBatches[0]?.conditional?.perSample;
      for (const [name, out, before] of [
        ["gamma", "dGammaOut", this.#dGamma],
        ["beta", "dBetaOut", this.#dBeta],
      ] as const) {
        if (!before || complete[out]) continue;
        const shape = perSample?.[name] ? [samples, channels] : [channels];
        if (before.length !== shape.reduce((a, b) => a * b)) throw wrongGradient(name, shape, before.length);
        complete[out] = before;
      }
    }
    const parameters = record.subBatches[0]?.conditional ?? { gamma: this.#gamma, beta: this.#beta };
    const exists = { gamma: parameters.gamma !== null, beta: parameters.beta !== null };
    const result = backward(dy, record, exists, complete);
    if (!saved) this.#differentiated = true;
    this.#dGamma = result.dGamma ?? this.#dGamma;
    this.#dBeta = result.dBeta ?? this.#dBeta;
    return result as Gradients<T, VectorOf<D>, N, Scale, Shift>;
  }

  /**
   * Returns the forward that a backward with the option `saved` differentiates. Throws if there is none, or if it is of
   * other channels or another type.
   *
   * @internal
   */
  recordFor(saved: Saved | undefined): ForwardRecord {
    BatchNorm.#alive(this);
    if (saved !== undefined) {
      const record = recordOf(saved);
      const { dtype } = this.#options;
      if (record.geometry.channels !== this.#channels || record.dtype !== dtype)
        throw wrongValue("saved", `a forward of ${this.#channels} channels of ${dtype}`, asIs("one of another layer"));
      return record;
    }
    if (!this.#saved) throw noForward("none that kept its x");
    if (this.#differentiated) throw secondBackward();
    return this.#saved;
  }

  /** Releases the latest x. Parameters and statistics stay readable; forward and backward throw from then on. */
  dispose(): void {
    own(this).#saved = undefined;
    this.#spare.latest = undefined;
    this.#used.latest = undefined;
    this.#disposed = true;
  }

  /** Calls `dispose()` at the end of a `using` block. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /**
   * Begins a recalibration: until its end the mode is "train", forwards update new running statistics by `estimator`,
   * and Batch Renormalization is off.
   *
   * @internal
   */
  beginRecalibration(estimator: Estimator): RecalibrationSession {
    BatchNorm.#alive(this);
    if (!this.#running) throw noStatistics();
    if (this.#isRecalibrating) throw wrongValue("bn", "a layer that is not being recalibrated", asIs("one that is"));
    const old = this.#running;
    const fresh = old.fresh(estimator);
    const [mode, saved, renorm, differentiated] = [this.#mode, this.#saved, this.#renorm, this.#differentiated];
    const [spare, used] = [this.#spare, this.#used];
    // the old buffers belong to the pending backward
    this.#spare = new ForwardBuffers(this.#channels);
    this.#used = new ForwardBuffers(this.#channels);
    this.#running = fresh;
    this.#mode = "train";
    this.#renorm = null;
    this.#isRecalibrating = true;
    return {
      get batches() {
        return fresh.batches;
      },
      get values() {
        return fresh.values;
      },
      commit: () => old.copyFrom(fresh),
      end: () => {
        old.options = this.#options; // whose momentum a program may have assigned
        this.#running = old;
        this.#mode = mode;
        this.#saved = saved;
        this.#differentiated = differentiated;
        this.#spare = spare;
        this.#used = used;
        this.#renorm = renorm;
        this.#isRecalibrating = false;
      },
    };
  }

  /** Throws TypeError for a Proxy around a layer, and BatchNormError "disposed". */
  static #alive(bn: BatchNorm<Dtype, boolean, boolean>): void {
    if (own(bn).#disposed) throw disposed("BatchNorm");
  }

  /** Scale and shift of a forward, as it will need them in backward. */
  #scaleAndShift(given?: PerSampleParameters, geometry?: Geometry): ScaleAndShift {
    const activation = this.#activation;
    // backward reads beta only to find out what an activation let through
    const copy = (name: "gamma" | "beta", values: Vector | null) =>
      name === "gamma" || activation.code ? this.#spare.copy(name, values) : values;
    const [gamma, beta] = [this.#gamma, this.#beta];
    if (given === undefined || !geometry)
      return { gamma: copy("gamma", gamma), beta: copy("beta", beta), conditional: undefined, activation };
    const { conditionalOf } = perSample.get(PER_SAMPLE);
    const conditional = conditionalOf(given, { gamma, beta }, geometry, this.#options.dtype, copy);
    return { gamma: null, beta: null, conditional, activation };
  }

  /** Checks the vectors' lengths again, since a transfer to another thread empties an array. */
  #checkVectors(): void {
    const channels = this.#channels;
    const { dtype } = this.#options;
    if (this.#gamma && this.#gamma.length !== channels) checkVector("gamma", this.#gamma, channels, dtype);
    if (this.#beta && this.#beta.length !== channels) checkVector("beta", this.#beta, channels, dtype);
    const { mean, variance } = this.#running ?? {};
    if (mean && mean.length !== channels) checkVector("runningMean", mean, channels, dtype);
    if (variance && variance.length !== channels) checkVector("runningVariance", variance, channels, dtype);
  }

  /** The running statistics as a forward takes them, in the mean and invStd of `into`, which it returns. */
  #runningStatistics(into: Statistics): Statistics {
    into.mean.set(this.#running?.mean ?? []);
    invStdOf(this.#running?.variance ?? [], this.#options.epsilon, into.invStd);
    return into;
  }

  /**
   * Whether the running statistics are to be updated by a batch. Throws if it is not finite and onNonFinite is "throw".
   */
  #checkFinite({ mean, variance }: Pick<Statistics, "mean" | "variance">): boolean {
    if (this.#options.onNonFinite === "allow") return true;
    const bad = nonFiniteChannel(mean, variance);
    if (bad === undefined) return true;
    if (this.#options.onNonFinite === "skip") return false;
    throw nonFinite(bad, mean[bad] as number, variance[bad] as number);
  }
}

/**
 * Whether a forward may be the same as another one of the same tensors. Plain arrays and other options can change between
 * two calls, and have to be checked in each.
 */
const isRepeatable = (x: AnyTensor, options: LayerForwardOptions): boolean =>
  Tensor.is(x) && Object.keys(options).every((key) => REPEATABLE.includes(key));

/** Throws RangeError if the weights of a mask leave a sub-batch too few values for a variance. */
function checkTracked(subBatches: readonly SubBatchForward[], takesOne: boolean): void {
  for (const { count, selection } of subBatches)
    if (count > 0 && count <= 1 && !(takesOne && (selection?.positions ?? 1) === 1))
      throw wrongValue("mask", 'weights with a sum above 1 in mode "train"', count);
}

/** The vectors of a forward and its backward. They are used again, since new ones cost a small call half its time. */
class ForwardBuffers {
  readonly #channels: number;
  readonly #statistics: Statistics[] = [];
  /** The latest forward in these buffers if it can be repeated, and what its backward needs. */
  latest:
    | { readonly mode: Mode; readonly prepared: PreparedForward<AnyTensor>; readonly saved: ForwardRecord | undefined }
    | undefined;
  /** Buffers that repeated backward calls use again. */
  readonly scratch: ForwardRecord["scratch"] = {};
  /** Whether a program has asked for the record of the forward, so that no other forward may use the buffers. */
  isKept = false;
  readonly #copies: { gamma?: Vector; beta?: Vector } = {};

  constructor(channels: number) {
    this.#channels = channels;
  }

  /** The statistics buffers of sub-batch i, uninitialised. */
  statistics(i: number): Statistics {
    this.#statistics[i] ??= emptyStatistics(this.#channels);
    return this.#statistics[i];
  }

  /** A copy of gamma or beta, or null if it is null. */
  copy(name: "gamma" | "beta", values: Vector | null): Vector | null {
    if (!values) return null;
    const copy = this.#copies[name];
    if (copy?.length === values.length) copy.set(values);
    else this.#copies[name] = values.slice();
    return this.#copies[name] as Vector;
  }
}
