// class BatchNorm: parameters, modes, forward, backward. The operations are in ops/, and what
// it remembers about the population is in running-statistics.ts.

import {
  absentParameter,
  disposed,
  exclusiveStatistics,
  noForward,
  nonFinite,
  noRunningStatistics,
  wrongValue,
} from "../common/errors.ts";
import { checkKeys } from "../common/validate.ts";
import { checkVector } from "../memory/guards.ts";
import type { AnyTensor, TensorLike } from "../memory/tensor.ts";
import { type Activation, activationOption } from "../ops/activation.ts";
import {
  BACKWARD_OPTIONS,
  type BackwardOptions,
  backward,
  batchNormGradientSums,
  type Gradients,
} from "../ops/backward.ts";
import {
  checkForward,
  type ForwardInputs,
  type PreparedForward,
  prepareForward,
  runForward,
  type Saved,
  type StatisticsSource,
  savedOf,
} from "../ops/forward.ts";
import type { Mask } from "../ops/mask.ts";
import { type Renorm, renormOption } from "../ops/options.ts";
import { emptyStatistics, type GradientSums, invStdOf, type Statistics } from "../ops/primitives.ts";
import { type BatchStatistics, checkStatistics, nonFiniteChannel } from "../ops/statistics.ts";
import {
  PER_SAMPLE,
  perSample,
  type ScaleAndShift,
  type StatisticsTarget,
  type SubBatchForward,
} from "../ops/sub-batches.ts";
import { computeDtype, type Dtype, newVector, type Vector, type VectorOf } from "../tensor/dtype.ts";
import {
  checkChannels,
  type Estimator,
  type Mode,
  modeOption,
  type Options,
  type ResolvedOptions,
  resolveOptions,
} from "./options.ts";
import { RunningStatistics } from "./running-statistics.ts";
import {
  type Affine,
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

/** What one forward of a layer in batchnorm-wasm/core takes beside x. */
export interface CoreLayerForwardOptions<T> {
  mode?: Mode;
  /** Where to write y. */
  out?: T;
  /** Statistics of more than x, of which x is a part (mergeStatistics). The running ones are not updated: see track. */
  statistics?: BatchStatistics;
}

/** What one forward of a layer takes beside x. */
export interface LayerForwardOptions<T extends AnyTensor = AnyTensor> extends CoreLayerForwardOptions<T> {
  /** Added before the activation; of x's shape and type. */
  residual?: T;
  /** Which positions count in the batch's statistics; see `Mask`. */
  mask?: Mask;
  /**
   * Scale and shift of every sample's own, [N, C], instead of the layer's (de Vries et al. 2017). Their gradients are
   * of that shape, too.
   */
  gamma?: Vector;
  beta?: Vector;
}

const FORWARD_OPTIONS = ["mode", "out", "residual", "mask", "gamma", "beta", "statistics"];

/** A running collection of statistics, which its owner ends by keeping the new statistics or by releasing them. */
export interface RecalibrationSession {
  /** Batches collected so far. */
  readonly batches: number;
  keep(): void;
  /** The layer is as it was, but for statistics that were kept. */
  end(): void;
}

/**
 * Batch normalization over [N, C, …] or [N, …, C] (torch.nn.BatchNorm1d, 2d and 3d; Ioffe & Szegedy 2015).
 *
 * In mode "train" it normalises by the batch's statistics and updates the running ones, in "batch" it leaves those
 * alone, in "eval" and "frozen" it normalises by them. `backward` differentiates the latest `forward`.
 */
export class BatchNorm<D extends Dtype = "float32"> {
  readonly channels: number;
  readonly options: ResolvedOptions<D>;
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
  #saved: Saved | undefined;
  #dGamma: Vector | undefined;
  #dBeta: Vector | undefined;
  #disposed = false;
  #collecting = false;

  /**
   * Throws TypeError or RangeError for a wrong number of channels or a wrong option.
   */
  constructor(channels: number, options: Options<D> = {}) {
    this.channels = checkChannels(channels);
    this.options = resolveOptions(options);
    const { dtype, scale, shift, trackRunningStats, activation, negativeSlope, renorm } = this.options;
    if (renorm) renormalization.get("renorm");
    this.#activation = activationOption(activation, negativeSlope);
    this.#gamma = scale ? (newVector(dtype, channels).fill(1) as VectorOf<D>) : null;
    this.#beta = shift ? newVector(dtype, channels) : null;
    this.#running = trackRunningStats ? new RunningStatistics(channels, this.options) : null;
    this.#renorm = renorm;
    this.#spare = new ForwardBuffers(channels);
    this.#used = new ForwardBuffers(channels);
  }

  // ---- state --------------------------------------------------------------------------------------------------------

  /** gamma, [C], or null with scale: false. An assigned array becomes the layer's own. */
  get gamma(): VectorOf<D> | null {
    return this.#gamma;
  }

  set gamma(values: VectorOf<D>) {
    if (!this.#gamma) throw absentParameter("gamma", "scale: false or affine: false");
    this.#gamma = checkVector("gamma", values, this.channels, this.options.dtype);
  }

  /** beta, [C], or null with shift: false. An assigned array becomes the layer's own. */
  get beta(): VectorOf<D> | null {
    return this.#beta;
  }

  set beta(values: VectorOf<D>) {
    if (!this.#beta) throw absentParameter("beta", "shift: false or affine: false");
    this.#beta = checkVector("beta", values, this.channels, this.options.dtype);
  }

  /** [C], or null with trackRunningStats: false. An assigned array becomes the layer's own. */
  get runningMean(): VectorOf<D> | null {
    return this.#running ? this.#running.mean : null;
  }

  set runningMean(values: VectorOf<D>) {
    if (!this.#running) throw absentParameter("runningMean", "trackRunningStats: false");
    this.#running.mean = values;
  }

  /** [C], or null with trackRunningStats: false. An assigned array becomes the layer's own. */
  get runningVariance(): VectorOf<D> | null {
    return this.#running ? this.#running.variance : null;
  }

  set runningVariance(values: VectorOf<D>) {
    if (!this.#running) throw absentParameter("runningVariance", "trackRunningStats: false");
    this.#running.variance = values;
  }

  /** Batches in the running statistics (PyTorch: num_batches_tracked). */
  get batchesTracked(): number {
    return this.#running?.batches ?? 0;
  }

  /** Gradient of gamma from the latest backward that computed it. */
  get dGamma(): VectorOf<D> | undefined {
    return this.#dGamma as VectorOf<D> | undefined;
  }

  /** Gradient of beta from the latest backward that computed it. */
  get dBeta(): VectorOf<D> | undefined {
    return this.#dBeta as VectorOf<D> | undefined;
  }

  /** The mode of a forward that names none. */
  get mode(): Mode {
    return this.#mode;
  }

  /** From here on forward means "train". */
  train(): this {
    this.#mode = "train";
    return this;
  }

  /** From here on forward means "eval". */
  eval(): this {
    this.#mode = "eval";
    return this;
  }

  /** Limits of Batch Renormalization, which training widens step by step (Ioffe 2017); null is none. */
  get renorm(): Readonly<Renorm> | null {
    return this.#renorm;
  }

  set renorm(limits: Renorm | null) {
    const renorm = renormOption(limits);
    if (renorm && !this.#running) throw absentParameter("renorm", "trackRunningStats: false");
    if (renorm) renormalization.get("renorm");
    this.#renorm = renorm;
  }

  /** Running mean 0, running variance 1, no batches. */
  resetRunningStats(): void {
    this.#running?.reset();
  }

  /**
   * Copies of the layer's parameters and running statistics under PyTorch's names, or those of `format`, each behind
   * `prefix`. Throws TypeError or RangeError for a wrong option.
   */
  stateDict(): StateDict<VectorOf<D>>;
  stateDict(options: StateOptions): NamedState<VectorOf<D>>;
  stateDict(options: StateOptions = {}): NamedState<VectorOf<D>> {
    return stateDicts.get("stateDict").saveState(this.#layer(), options) as NamedState<VectorOf<D>>;
  }

  /**
   * Loads what stateDict or a framework saved: `format` says under whose names, `prefix` behind which of them; entries
   * elsewhere are not looked at. Where the format has no count of batches, it becomes 0. With estimator "population",
   * num_values_tracked may be missing: then the next train batch begins a new population.
   *
   * Throws one BatchNormError "state-dict" that lists every missing and unexpected name and every wrong value, and loads
   * nothing then; with strict: false, names are only reported.
   */
  loadStateDict(state: StateSource, options: LoadOptions = {}): LoadReport {
    return stateDicts.get("loadStateDict").loadState(this.#layer(), state, options);
  }

  #layer(): Layer {
    this.#checkVectors();
    const { channels, options } = this;
    return { channels, options, gamma: this.#gamma, beta: this.#beta, running: this.#running };
  }

  /**
   * Mode "eval" as y = scale·x + shift, [C] each, with a warning for every channel where that loses digits. Throws
   * BatchNormError "no-running-statistics" with trackRunningStats: false. foldIntoConv and foldIntoLinear go further.
   */
  toAffine(): Affine<VectorOf<D>> {
    return folding.get("toAffine").toAffine(this) as Affine<VectorOf<D>>;
  }

  // ---- computation --------------------------------------------------------------------------------------------------

  /**
   * y = f(gamma·x̂ + beta + residual) for x of shape [N, C, …] or, channels last, [N, …, C], f being the activation. y is
   * of x's kind and shape, written to `out` if given; in mode "eval" `out` may be x. A call that throws changes nothing.
   *
   * Throws TypeError and RangeError for wrong arguments; BatchNormError for one value per channel ("train", "batch"), a
   * non-finite batch ("train"; see onNonFinite), missing running statistics ("frozen"), a disposed tensor or layer,
   * and exhausted memory.
   */
  forward<T extends TensorLike<D>>(x: T, options: LayerForwardOptions<T> = {}): T {
    this.#alive();
    checkKeys("forward options", options, FORWARD_OPTIONS);
    const mode = modeOption(options.mode, this.#mode);
    const inputs = this.checkForward(x, options, mode);
    const prepared = this.#prepare(inputs, options, mode);
    const updates = mode === "train" && prepared.targets !== undefined && this.#running !== null;
    if (updates) checkTracked(prepared.subBatches);
    /** Whether the running statistics are to take in those of a sub-batch. */
    let tracked: boolean[] = [];
    const verify = () => {
      tracked = prepared.subBatches.map(({ count }, i) => count > 0 && this.#checkFinite(this.#spare.statistics(i)));
    };
    const { y, subBatches } = runForward(prepared, {
      adjust: this.#renorm && prepared.batch ? (...found) => this.#renormalize(...found) : undefined,
      ...(updates ? { verify } : {}),
      // a call that throws must not have written to the caller's `out`
      verifyFirst: updates && inputs.out !== undefined && this.options.onNonFinite === "throw",
    });
    this.#commit(prepared, subBatches, tracked);
    return y;
  }

  /**
   * Checks what a forward takes, apart from its scale, shift and statistics. SyncBatchNorm does so before its exchange.
   *
   * @internal
   */
  checkForward<T extends TensorLike<D>>(x: T, options: LayerForwardOptions<T>, mode: Mode): ForwardInputs<T> {
    const { residual, out, mask } = options;
    const { dtype, layout, ghostBatchSize } = this.options;
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
    const inputs = checkForward(args, { dtype, channels: this.channels });
    this.#checkVectors();
    return inputs;
  }

  #normalizesByBatch(mode: Mode): boolean {
    return mode === "train" || mode === "batch" || !this.#running;
  }

  #prepare<T extends TensorLike<D>>(
    inputs: ForwardInputs<T>,
    options: LayerForwardOptions<T>,
    mode: Mode,
  ): PreparedForward<T> {
    const { epsilon, ghostBatchSize } = this.options;
    const batch = this.#normalizesByBatch(mode);
    const joint = options.statistics && checkStatistics(options.statistics, this.channels, epsilon);
    if (joint && !batch) throw wrongValue("mode", '"train" or "batch" with statistics', mode);
    if (joint && ghostBatchSize) throw exclusiveStatistics("ghostBatchSize");
    if (joint && this.#renorm) throw exclusiveStatistics("renorm");
    const scaleAndShift = this.#scaleAndShift(options, inputs.geometry.samples);
    return prepareForward(inputs, scaleAndShift, this.#source(joint, batch), mode);
  }

  #source(joint: (Statistics & { count: number }) | undefined, batch: boolean): StatisticsSource {
    const spare = this.#spare;
    if (joint) return { kind: "joint", statistics: joint, count: joint.count };
    if (batch) return { kind: "batch", epsilon: this.options.epsilon, buffer: (i) => spare.statistics(i) };
    return { kind: "constant", statistics: this.#runningStatistics(spare.statistics(0)) };
  }

  /** Batch Renormalization of a sub-batch whose statistics are known. */
  #renormalize(subBatch: SubBatchForward, { into, epsilon }: StatisticsTarget): SubBatchForward {
    const running = this.#runningStatistics(emptyStatistics(this.channels));
    const limits = this.#renorm as Readonly<Renorm>;
    return renormalization.get("renorm").renormalize(subBatch, into, running, epsilon, limits);
  }

  /** Updates the running statistics, keeps what backward needs, and leaves the buffers of the forward before to the next. */
  #commit<T extends TensorLike<D>>(
    prepared: PreparedForward<T>,
    subBatches: readonly SubBatchForward[],
    tracked: readonly boolean[],
  ): void {
    for (const [i, { count }] of subBatches.entries()) {
      if (!tracked[i]) continue;
      const { mean, variance } = this.#spare.statistics(i);
      this.#running?.update(mean, variance, count);
    }
    [this.#spare, this.#used] = [this.#used, this.#spare];
    this.#saved = prepared.inputs.inputIntact ? savedOf(prepared, subBatches, this.#used.scratch) : undefined;
  }

  /** Takes statistics of a batch, such as mergeStatistics's, into the running ones. */
  track(statistics: BatchStatistics): void {
    this.#alive();
    if (!this.#running) throw absentParameter("running statistics", "trackRunningStats: false");
    const given = checkStatistics(statistics, this.channels, this.options.epsilon);
    if (given.count > 0 && given.count <= 1)
      throw wrongValue("statistics.count", "more than 1 value per channel", given.count);
    if (given.count > 0 && this.#checkFinite(given)) this.#running.update(given.mean, given.variance, given.count);
  }

  /**
   * Gradients of the latest forward, for dy of its shape: dx in dy's kind, written to `dxOut` if given (dy itself will
   * do), dGamma and dBeta as Float32Array [C]. `needs` switches each off. `accumulate` adds to dGammaOut and dBetaOut,
   * or, without those, to the arrays of the backward before. After "eval" or "frozen", dx = gamma·invStd·dy.
   *
   * Throws BatchNormError without a forward, RangeError for another shape.
   */
  backward<T extends TensorLike<D>>(dy: T, options: BackwardOptions<T> = {}): Gradients<T, VectorOf<D>> {
    this.#alive();
    checkKeys("backward options", options, BACKWARD_OPTIONS);
    if (!this.#saved) throw noForward("none that kept its x");
    const complete = { ...options };
    if (options.accumulate === true) {
      if (this.#dGamma) complete.dGammaOut ??= this.#dGamma;
      if (this.#dBeta) complete.dBetaOut ??= this.#dBeta;
    }
    const own = this.#saved.subBatches[0]?.conditional;
    const has = own
      ? { gamma: own.gamma !== null, beta: own.beta !== null }
      : { gamma: this.#gamma !== null, beta: this.#beta !== null };
    const result = backward(dy, this.#saved, has, complete);
    this.#dGamma = result.dGamma ?? this.#dGamma;
    this.#dBeta = result.dBeta ?? this.#dBeta;
    return result as Gradients<T, VectorOf<D>>;
  }

  /**
   * For SyncBatchNorm: the latest forward's own sums of gradients, float64.
   *
   * @internal
   */
  gradientSums(dy: TensorLike<D>): GradientSums {
    this.#alive();
    if (!this.#saved) throw noForward("none that kept its x");
    return batchNormGradientSums(dy, this.#saved);
  }

  /** Lets go of the latest x. Parameters and statistics stay readable; forward and backward throw. */
  dispose(): void {
    this.#saved = undefined;
    this.#disposed = true;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /**
   * For recalibrate. From here on train forwards update statistics of their own, by another estimator; the mode is
   * "train", and no running statistics correct.
   *
   * @internal
   */
  collect(estimator: Estimator): RecalibrationSession {
    this.#alive();
    if (!this.#running) throw absentParameter("running statistics", "trackRunningStats: false");
    if (this.#collecting) throw wrongValue("bn", "a layer that no other recalibrate is at work on", "one that is");
    const old = this.#running;
    const fresh = old.anew(estimator);
    const [mode, saved, renorm] = [this.#mode, this.#saved, this.#renorm];
    const [draft, committed] = [this.#spare, this.#used];
    // the old buffers belong to the pending backward
    this.#spare = new ForwardBuffers(this.channels);
    this.#used = new ForwardBuffers(this.channels);
    this.#running = fresh;
    this.#mode = "train";
    this.#renorm = null;
    this.#collecting = true;
    return {
      get batches() {
        return fresh.batches;
      },
      keep: () => old.become(fresh),
      end: () => {
        this.#running = old;
        this.#mode = mode;
        this.#saved = saved;
        this.#spare = draft;
        this.#used = committed;
        this.#renorm = renorm;
        this.#collecting = false;
      },
    };
  }

  #alive(): void {
    if (this.#disposed) throw disposed("BatchNorm");
  }

  /** Scale and shift of a forward, as it will need them in backward. */
  #scaleAndShift(options: Pick<LayerForwardOptions, "gamma" | "beta">, samples: number): ScaleAndShift {
    const { dtype } = this.options;
    const activation = this.#activation;
    const gamma = this.#gamma;
    const beta = this.#beta;
    const which = { gamma: options.gamma !== undefined, beta: options.beta !== undefined };
    if (!which.gamma && !which.beta) {
      // backward reads beta only to find out what an activation let through
      const saved = activation.code ? this.#spare.beta(beta) : beta;
      return { gamma: this.#spare.gamma(gamma), beta: saved, conditional: undefined, activation };
    }
    const copy = (v: Vector | null) => (v ? v.slice() : null);
    const shape = [samples, this.channels];
    for (const name of ["gamma", "beta"] as const)
      if (which[name]) checkVector(name, options[name], this.channels, computeDtype(dtype), shape);
    const { conditionalOf } = perSample.get(PER_SAMPLE);
    const conditional = conditionalOf(copy(options.gamma ?? gamma), copy(options.beta ?? beta), which, samples);
    return { gamma: null, beta: null, conditional, activation };
  }

  /** Vectors were checked when they were assigned, but a transfer to another thread empties them. */
  #checkVectors(): void {
    const { channels } = this;
    const { dtype } = this.options;
    if (this.#gamma && this.#gamma.length !== channels) checkVector("gamma", this.#gamma, channels, dtype);
    if (this.#beta && this.#beta.length !== channels) checkVector("beta", this.#beta, channels, dtype);
    const { mean, variance } = this.#running ?? {};
    if (mean && mean.length !== channels) checkVector("runningMean", mean, channels, dtype);
    if (variance && variance.length !== channels) checkVector("runningVariance", variance, channels, dtype);
  }

  /** The running statistics as a forward takes them, in the mean and invStd of `into`, which it returns. */
  #runningStatistics(into: Statistics): Statistics {
    into.mean.set(this.#running?.mean ?? []);
    invStdOf(this.#running?.variance ?? [], this.options.epsilon, into.invStd);
    return into;
  }

  /** Whether the running statistics shall take in the batch's, as onNonFinite says; throws where it says so. */
  #checkFinite({ mean, variance }: Pick<Statistics, "mean" | "variance">): boolean {
    if (this.options.onNonFinite === "allow") return true;
    const bad = nonFiniteChannel(mean, variance);
    if (bad === undefined) return true;
    if (this.options.onNonFinite === "skip") return false;
    throw nonFinite(bad, mean[bad] as number, variance[bad] as number);
  }
}

/** Throws RangeError if the weights of a mask leave a sub-batch too few values for a variance. */
function checkTracked(subBatches: readonly SubBatchForward[]): void {
  for (const { count } of subBatches)
    if (count > 0 && count <= 1)
      throw wrongValue("mask", 'weights with a sum above 1, the number of values, in mode "train"', count);
}

/** The vectors of a forward and its backward. They are used again, since making them costs a small call half its time. */
class ForwardBuffers {
  readonly #channels: number;
  readonly #statistics: Statistics[] = [];
  /** Buffers that repeated backward calls use again. */
  readonly scratch: Saved["scratch"] = {};
  #gamma: Vector | undefined;
  #beta: Vector | undefined;

  constructor(channels: number) {
    this.#channels = channels;
  }

  /** Statistics buffers of the i-th sub-batch, uninitialised. */
  statistics(i: number): Statistics {
    this.#statistics[i] ??= emptyStatistics(this.#channels);
    return this.#statistics[i];
  }

  /** A copy, or null of null. */
  gamma(values: Vector | null): Vector | null {
    if (!values) return null;
    if (this.#gamma) this.#gamma.set(values);
    else this.#gamma = values.slice();
    return this.#gamma;
  }

  beta(values: Vector | null): Vector | null {
    if (!values) return null;
    if (this.#beta) this.#beta.set(values);
    else this.#beta = values.slice();
    return this.#beta;
  }
}
