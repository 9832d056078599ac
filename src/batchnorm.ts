// class BatchNorm: parameters, modes, forward, backward. What it computes is in functional.ts, what it remembers about
// the population in running.ts.

import {
  absentParameter,
  disposed,
  noForward,
  nonFinite,
  noRunningStatistics,
  oneValuePerChannel,
  wrongKind,
  wrongState,
} from "./errors.ts";
import {
  BACKWARD_OPTIONS,
  type BackwardOptions,
  backward,
  batchStatistics,
  emptyStatistics,
  forward,
  type Gradients,
  invStdOf,
  normalize,
  type Saved,
  type Statistics,
} from "./functional.ts";
import { type Geometry, geometryOf } from "./geometry.ts";
import { checkOperand, checkOut, heapOf, overwrites, type TensorLike } from "./operand.ts";
import {
  checkChannels,
  checkKeys,
  type Mode,
  modeOption,
  type Options,
  type ResolvedOptions,
  resolveOptions,
} from "./options.ts";
import { checkVector, RunningStatistics } from "./running.ts";

/** A layer's state under PyTorch's names; num_values_tracked only with estimator "population". */
export interface StateDict {
  weight?: Float32Array;
  bias?: Float32Array;
  running_mean?: Float32Array;
  running_var?: Float32Array;
  num_batches_tracked?: number;
  num_values_tracked?: number;
}

/** What loadStateDict reads: any array of numbers for a vector; a number, a bigint or an array of one for a count. */
export type StateSource = Readonly<Record<string, ArrayLike<number | bigint> | number | bigint>>;

/**
 * Batch normalization over [N, C, …] or [N, …, C] (torch.nn.BatchNorm1d, 2d and 3d; Ioffe & Szegedy 2015).
 *
 * In mode "train" it normalises by the batch's statistics and updates the running ones, in "batch" it leaves those
 * alone, in "eval" and "frozen" it normalises by them. `backward` differentiates the latest `forward`.
 */
export class BatchNorm {
  readonly channels: number;
  readonly options: ResolvedOptions;
  #gamma: Float32Array | null;
  #beta: Float32Array | null;
  readonly #running: RunningStatistics | null;
  #mode: Mode = "train";
  #saved: Saved | undefined;
  /** What a forward writes while it may still fail; it changes places with `saved`'s when it has succeeded. */
  #draft: Statistics & { gamma: Float32Array | null };
  #committed: Statistics & { gamma: Float32Array | null };
  #dGamma: Float32Array | undefined;
  #dBeta: Float32Array | undefined;
  #disposed = false;

  /** Throws TypeError or RangeError for a wrong number of channels or a wrong option. */
  constructor(channels: number, options: Options = {}) {
    this.channels = checkChannels(channels);
    this.options = resolveOptions(options);
    this.#gamma = this.options.scale ? new Float32Array(channels).fill(1) : null;
    this.#beta = this.options.shift ? new Float32Array(channels) : null;
    this.#running = this.options.trackRunningStats ? new RunningStatistics(channels, this.options) : null;
    const record = () => ({ ...emptyStatistics(channels), gamma: this.#gamma ? new Float32Array(channels) : null });
    this.#draft = record();
    this.#committed = record();
  }

  // ---- state --------------------------------------------------------------------------------------------------------

  /** gamma, [C], or null with scale: false. An assigned array becomes the layer's own. */
  get gamma(): Float32Array | null {
    return this.#gamma;
  }

  set gamma(values: Float32Array) {
    if (!this.#gamma) throw absentParameter("gamma", "scale: false or affine: false");
    this.#gamma = checkVector("gamma", values, this.channels);
  }

  /** beta, [C], or null with shift: false. An assigned array becomes the layer's own. */
  get beta(): Float32Array | null {
    return this.#beta;
  }

  set beta(values: Float32Array) {
    if (!this.#beta) throw absentParameter("beta", "shift: false or affine: false");
    this.#beta = checkVector("beta", values, this.channels);
  }

  /** [C], or null with trackRunningStats: false. An assigned array becomes the layer's own. */
  get runningMean(): Float32Array | null {
    return this.#running ? this.#running.mean : null;
  }

  set runningMean(values: Float32Array) {
    if (!this.#running) throw absentParameter("runningMean", "trackRunningStats: false");
    this.#running.mean = values;
  }

  /** [C], or null with trackRunningStats: false. An assigned array becomes the layer's own. */
  get runningVariance(): Float32Array | null {
    return this.#running ? this.#running.variance : null;
  }

  set runningVariance(values: Float32Array) {
    if (!this.#running) throw absentParameter("runningVariance", "trackRunningStats: false");
    this.#running.variance = values;
  }

  /** Batches in the running statistics (PyTorch: num_batches_tracked). */
  get batchesTracked(): number {
    return this.#running?.batches ?? 0;
  }

  /** Gradient of gamma from the latest backward that computed it. */
  get dGamma(): Float32Array | undefined {
    return this.#dGamma;
  }

  /** Gradient of beta from the latest backward that computed it. */
  get dBeta(): Float32Array | undefined {
    return this.#dBeta;
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

  /** Running mean 0, running variance 1, no batches. */
  resetRunningStats(): void {
    this.#running?.reset();
  }

  /** Copies of the layer's parameters and running statistics, under PyTorch's names. */
  stateDict(): StateDict {
    const state: StateDict = {};
    if (this.#gamma) state.weight = this.#gamma.slice();
    if (this.#beta) state.bias = this.#beta.slice();
    if (this.#running) {
      state.running_mean = this.#running.mean.slice();
      state.running_var = this.#running.variance.slice();
      state.num_batches_tracked = this.#running.batches;
      if (this.options.estimator === "population") state.num_values_tracked = this.#running.values;
    }
    return state;
  }

  /**
   * Loads what stateDict saved, or PyTorch's. With estimator "population", num_values_tracked may be missing: then the
   * next train batch begins a new population. Throws one BatchNormError "state-dict" that lists every missing and
   * unexpected name and every wrong shape, and loads nothing then.
   */
  loadStateDict(state: StateSource | StateDict): void {
    if (typeof state !== "object" || state === null) throw wrongKind("state", "an object of named arrays", state);
    const reader = new StateReader(state, this.channels);
    const weight = this.#gamma && reader.vector("weight");
    const bias = this.#beta && reader.vector("bias");
    const population = this.options.estimator === "population" && "num_values_tracked" in state;
    const running = this.#running && {
      mean: reader.vector("running_mean"),
      variance: reader.vector("running_var"),
      batches: reader.count("num_batches_tracked"),
      values: population ? reader.count("num_values_tracked") : 0,
    };
    reader.finish();
    // into the arrays that users may hold
    if (weight) this.#gamma?.set(weight);
    if (bias) this.#beta?.set(bias);
    if (running && this.#running) {
      this.#running.mean.set(running.mean);
      this.#running.variance.set(running.variance);
      this.#running.batches = running.batches;
      this.#running.values = running.values;
    }
  }

  // ---- computation --------------------------------------------------------------------------------------------------

  /**
   * y = gamma·x̂ + beta for x of shape [N, C, …] or, channels last, [N, …, C]. y is of x's kind and shape, written to
   * `out` if given; in mode "eval" `out` may be x. A call that throws changes nothing.
   *
   * Throws TypeError and RangeError for wrong arguments; BatchNormError for one value per channel ("train", "batch"), a
   * non-finite batch ("train"; see onNonFinite), missing running statistics ("frozen"), a disposed tensor or layer, and
   * exhausted memory.
   */
  forward<T extends TensorLike>(x: T, options: { mode?: Mode; out?: T } = {}): T {
    this.#alive();
    checkKeys("forward options", options, ["mode", "out"]);
    const mode = modeOption(options.mode, this.#mode);
    const { out } = options;
    checkOperand("x", x);
    const geometry = geometryOf("x", x.shape, this.options.layout, this.channels);
    const heap = heapOf(x, out);
    checkOut("out", out, x.shape, heap);
    if (mode === "frozen" && !this.#running) throw noRunningStatistics(mode);
    const batch = mode === "train" || mode === "batch" || !this.#running;
    if (batch && geometry.count === 1) throw oneValuePerChannel(mode, x.shape);
    this.#checkVectors();
    const inPlace = overwrites("out", out, x, mode === "eval" ? undefined : mode);

    const updates = batch && mode === "train" && this.#running !== null && geometry.count > 0;
    // where a call may still fail for its statistics, they come before anything is written that is not its own
    const atOnce = !(updates && out && this.options.onNonFinite === "throw");
    let finite = true;
    const y = forward(heap, geometry, x, out, (source, target) => {
      if (batch && geometry.count > 0)
        for (const parts of source.groups) {
          batchStatistics(source, this.options.epsilon, this.#draft, parts);
          if (atOnce) normalize(source, target, this.#draft, this.#gamma, this.#beta, parts);
        }
      else this.#runningStatistics();
      finite = !updates || this.#checkFinite();
      if (!(batch && atOnce)) normalize(source, target, this.#draft, this.#gamma, this.#beta);
    });
    if (updates && finite) this.#running?.update(this.#draft.mean, this.#draft.variance, geometry.count);
    this.#saved = inPlace ? undefined : this.#remember(batch, geometry, x);
    return y;
  }

  /**
   * Gradients of the latest forward, for dy of its shape: dx in dy's kind, written to `dxOut` if given (dy itself will
   * do), dGamma and dBeta as Float32Array [C]. `needs` switches each off. `accumulate` adds to dGammaOut and dBetaOut,
   * or, without those, to the arrays of the backward before. After "eval" or "frozen", dx = gamma·invStd·dy.
   *
   * Throws BatchNormError without a forward, RangeError for another shape.
   */
  backward<T extends TensorLike>(dy: T, options: BackwardOptions<T> = {}): Gradients<T> {
    this.#alive();
    checkKeys("backward options", options, BACKWARD_OPTIONS);
    if (!this.#saved) throw noForward("none that kept its x");
    const complete = { ...options };
    if (options.accumulate === true) {
      if (this.#dGamma) complete.dGammaOut ??= this.#dGamma;
      if (this.#dBeta) complete.dBetaOut ??= this.#dBeta;
    }
    const has = { gamma: this.#gamma !== null, beta: this.#beta !== null };
    const result = backward(dy, this.#saved, has, complete);
    this.#dGamma = result.dGamma ?? this.#dGamma;
    this.#dBeta = result.dBeta ?? this.#dBeta;
    return result;
  }

  /** Lets go of the latest x. Parameters and statistics stay readable; forward and backward throw. */
  dispose(): void {
    this.#saved = undefined;
    this.#disposed = true;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #alive(): void {
    if (this.#disposed) throw disposed("BatchNorm");
  }

  /** Vectors were checked when they were assigned, but a transfer to another thread empties them. */
  #checkVectors(): void {
    const { channels } = this;
    if (this.#gamma && this.#gamma.length !== channels) checkVector("gamma", this.#gamma, channels);
    if (this.#beta && this.#beta.length !== channels) checkVector("beta", this.#beta, channels);
    const { mean, variance } = this.#running ?? {};
    if (mean && mean.length !== channels) checkVector("runningMean", mean, channels);
    if (variance && variance.length !== channels) checkVector("runningVariance", variance, channels);
  }

  /** Fills in the statistics of eval and frozen. */
  #runningStatistics(): void {
    const { mean, invStd } = this.#draft;
    mean.set(this.#running?.mean ?? []);
    invStdOf(this.#running?.variance ?? [], this.options.epsilon, invStd);
  }

  /** Whether the running statistics shall take in the batch's, as onNonFinite says; throws where it says so. */
  #checkFinite(): boolean {
    const { mean, variance } = this.#draft;
    if (this.options.onNonFinite === "allow") return true;
    let bad = 0;
    while (bad < mean.length && Number.isFinite(mean[bad]) && Number.isFinite(variance[bad])) bad++;
    if (bad === mean.length) return true;
    if (this.options.onNonFinite === "skip") return false;
    throw nonFinite(bad, mean[bad] as number, variance[bad] as number);
  }

  #remember(batch: boolean, geometry: Geometry, x: TensorLike): Saved {
    const record = this.#draft;
    this.#draft = this.#committed;
    this.#committed = record;
    if (this.#gamma) record.gamma?.set(this.#gamma);
    const { mean, invStd, gamma } = record;
    return { batch, geometry, shape: [...x.shape], x, mean, invStd, gamma };
  }
}

type List = ArrayLike<unknown>;

/** Takes named values out of a state dict and collects what is wrong with it. */
class StateReader {
  readonly #entries: Map<string, unknown>;
  readonly #channels: number;
  readonly #complaints: string[] = [];

  constructor(state: object, channels: number) {
    this.#entries = new Map(Object.entries(state));
    this.#channels = channels;
  }

  /** Whether the name is there; complains if it is not. */
  #has(name: string): boolean {
    if (!this.#entries.has(name)) this.#complaints.push(`missing ${name}`);
    return this.#entries.has(name);
  }

  #take(name: string): unknown {
    const value = this.#entries.get(name);
    this.#entries.delete(name);
    return value;
  }

  #list(value: unknown): List | undefined {
    return Array.isArray(value) || (ArrayBuffer.isView(value) && "length" in value) ? (value as List) : undefined;
  }

  vector(name: string): Float32Array {
    if (!this.#has(name)) return new Float32Array();
    const value = this.#take(name);
    const list = this.#list(value);
    if (!list || !Array.from(list).every((v) => typeof v === "number")) {
      this.#complaints.push(`${name}: expected an array of ${this.#channels} numbers`);
      return new Float32Array();
    }
    if (list.length !== this.#channels)
      this.#complaints.push(`${name}: expected ${this.#channels} elements, got ${list.length}`);
    return Float32Array.from(list as ArrayLike<number>);
  }

  count(name: string): number {
    if (!this.#has(name)) return 0;
    const value = this.#take(name);
    const list = this.#list(value);
    const one = list?.length === 1 ? list[0] : value;
    const count = typeof one === "number" || typeof one === "bigint" ? Number(one) : Number.NaN;
    if (!Number.isSafeInteger(count) || count < 0)
      this.#complaints.push(`${name}: expected one count, a non-negative integer`);
    return count;
  }

  /** Throws if anything was wrong, or names are left over. */
  finish(): void {
    for (const name of this.#entries.keys()) this.#complaints.push(`unexpected ${name}`);
    if (this.#complaints.length) throw wrongState(this.#complaints);
  }
}
