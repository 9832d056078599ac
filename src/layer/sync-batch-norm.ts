// A BatchNorm that normalises by the statistics of all ranks' shards, with one exchange in forward and one in backward
// (torch.nn.SyncBatchNorm). A process group connects the ranks (distributed/process-group.ts), and
// distributed/exchange.ts checks that their packets belong together.
//
//   forward    every rank: count, mean, M2 of its shard      → all of them, merged in the order of the ranks → y
//   backward   every rank: Σ dy·x̂, Σ dy of its shard         → all of them, added in the order of the ranks  → dx
//
// Both gather. (count, mean, M2) do not add up, and sums about a pivot that all know would lose digits where the mean is
// far from it. Sums of gradients are gathered since every rank has to check the packet of every other.
//
// A call has three steps: all local checks and the values of the shard; the exchange; then the verdict on all packets,
// which is the same on every rank, and only after it the first change of state.

import { disposed, exclusiveStatistics, oneValuePerChannel, wrongExchange, wrongKind } from "../common/errors.ts";
import { Strict } from "../common/strict.ts";
import { checkKeys, checkObject, integerAtLeast } from "../common/validate.ts";
import { checkPackets, gather, gatherNow, type Header, nextLayer, packetOf } from "../distributed/exchange.ts";
import { addTo, type ProcessGroup, rankOf } from "../distributed/process-group.ts";
import type { TensorLike } from "../memory/tensor.ts";
import { BACKWARD_OPTIONS, type Gradients, gradientSumsOf, type Needs, prepareBackward } from "../ops/backward.ts";
import { type ForwardRecord, runStatistics } from "../ops/forward.ts";
import { type BatchStatistics, mergePacked, packStatistics } from "../ops/statistics.ts";
import type { Dtype, VectorOf } from "../tensor/dtype.ts";
import { BatchNorm, type LayerBackwardOptions, type LayerForwardOptions } from "./batch-norm.ts";
import { type LayerOptions, type Mode, modeOption, type ResolvedOptions } from "./options.ts";

/** The options of a forward over a group, which has neither a prior nor scale and shift per sample. */
const FORWARD_OPTIONS = ["mode", "out", "residual", "mask"];

/** The options of a backward over a group, whose sums are those of the group. */
const SYNC_BACKWARD_OPTIONS = [...BACKWARD_OPTIONS.filter((name) => name !== "sums"), "saved"];

/** The work of a rank before and after its exchange. It yields its packet, and resumes with the packets of all ranks. */
type Steps<T> = Generator<Float64Array, T, Float64Array>;

/** A result, or the error instead of it. */
type Attempt<T> = { readonly value: T; readonly error?: never } | { readonly value?: never; readonly error: unknown };

/** What the ranks of a group have agreed on by an exchange: all packets, and the index of the first value in each. */
interface Agreement {
  readonly all: Float64Array;
  readonly values: number;
}

/** Options of SyncBatchNorm. */
export type SyncOptions<D extends Dtype = "float32", Scale extends boolean = true, Shift extends boolean = true> = Omit<
  LayerOptions<D, Scale, Shift>,
  "ghostBatchSize" | "renorm"
> & {
  /** The ranks that normalise together. */
  group: ProcessGroup;
};

/** Options of SyncBatchNorm.forward: those of BatchNorm.forward that a joint batch can have. */
export type SyncForwardOptions<T extends TensorLike<Dtype>> = Omit<
  LayerForwardOptions<T>,
  "statistics" | "perSample" | "prior"
>;
/** Options of SyncBatchNorm.backward: those of BatchNorm.backward but `sums`, which it exchanges by itself. */
export type SyncBackwardOptions<T extends TensorLike<Dtype>, N extends Needs = Needs> = Omit<
  LayerBackwardOptions<T, N>,
  "sums"
>;

/**
 * A layer of batch normalization over the batch of a process group (torch.nn.SyncBatchNorm, on the processor). Every
 * rank has a shard of the batch, which may be empty. Options, state and modes are BatchNorm's. All ranks make their
 * layers and call forward and backward in the same order and mode. Results are those of one BatchNorm on all shards
 * together, and after every step the running statistics have the same bits on every rank.
 *
 * dx depends on the gradients of all shards. dGamma and dBeta are those of the rank's shard, as is usual in
 * data-parallel training: sum them over the group with the other gradients.
 *
 * If a rank refuses its arguments, or if the ranks' calls or options differ, every rank throws before any state has
 * changed: the rank that refuses its own error, the others BatchNormError "group". For one value in the whole group, and
 * for statistics that are not finite, all ranks throw the same error.
 */
export class SyncBatchNorm<
  D extends Dtype = "float32",
  Scale extends boolean = true,
  Shift extends boolean = true,
> extends BatchNorm<D, Scale, Shift> {
  /** The ranks that normalise together. */
  readonly group: ProcessGroup;
  readonly #layer: number;
  /** The number of exchanges that all ranks have agreed on. */
  #exchanges = 0;
  /** The number of the exchange of each forward. */
  readonly #forwards = new WeakMap<ForwardRecord, number>();
  /** Whether the latest forward had an exchange. */
  #joint = false;
  #disposed = false;
  /** The latest asynchronous call, while it is under way. */
  #call: Promise<unknown> | undefined;

  /** Throws as BatchNorm does, and TypeError or RangeError if `group` is not a process group. */
  constructor(channels: number, options: SyncOptions<D, Scale, Shift>) {
    checkObject("options", options);
    const { group, ...others } = options;
    super(channels, others as unknown as LayerOptions<D, Scale, Shift>);
    checkObject("group", group, "{ rank, size, sum }");
    if (typeof group.sum !== "function") throw wrongKind("group", "{ rank, size, sum }", group);
    rankOf(group.rank, integerAtLeast(1, "group.size", group.size));
    this.group = group;
    for (const name of ["ghostBatchSize", "renorm"] as const) if (this.options[name]) throw exclusiveStatistics(name);
    this.#layer = nextLayer(group);
    if (new.target === SyncBatchNorm) Object.preventExtensions(this);
  }

  /** Returns a layer of the same group with the same options, mode, parameters and running statistics. */
  override clone(): this {
    const { momentum, ghostBatchSize, renorm, ...options } = this.options;
    return this.copyTo(
      new SyncBatchNorm<D, Scale, Shift>(this.channels, { ...options, group: this.group } as SyncOptions<
        D,
        Scale,
        Shift
      >),
    ) as this;
  }

  /** BatchNorm.forward over a synchronous group. Throws TypeError if the group is asynchronous (see forwardAsync). */
  override forward<T extends TensorLike<D>>(x: T, options: SyncForwardOptions<T> = {}): T {
    Strict.checkItself("bn", this);
    return this.#now(this.#forward(x, options, this.#modeOf(options)));
  }

  /** BatchNorm.backward over a synchronous group. Throws TypeError if the group is asynchronous (see backwardAsync). */
  override backward<T extends TensorLike<D>, const N extends Needs = object>(
    dy: T,
    options: SyncBackwardOptions<T, N> = {},
  ): Gradients<T, VectorOf<D>, N, Scale, Shift> {
    Strict.checkItself("bn", this);
    return this.#now(this.#backward(dy, options));
  }

  /** BatchNorm.forward over any group. It begins when the layer's asynchronous calls before it are over. */
  async forwardAsync<T extends TensorLike<D>>(x: T, options: SyncForwardOptions<T> = {}): Promise<T> {
    Strict.checkItself("bn", this);
    return this.#later(this.#forward(x, options, this.#modeOf(options)));
  }

  /** BatchNorm.backward over any group. It begins when the layer's asynchronous calls before it are over. */
  async backwardAsync<T extends TensorLike<D>, const N extends Needs = object>(
    dy: T,
    options: SyncBackwardOptions<T, N> = {},
  ): Promise<Gradients<T, VectorOf<D>, N, Scale, Shift>> {
    Strict.checkItself("bn", this);
    return this.#later(this.#backward(dy, options));
  }

  override dispose(): void {
    this.#disposed = true;
    super.dispose();
  }

  /** The mode of a forward, or undefined if its options are wrong. */
  #modeOf(options: SyncForwardOptions<TensorLike<D>>): Mode | undefined {
    return attempt(() => modeOption(options.mode, this.mode)).value;
  }

  *#forward<T extends TensorLike<D>>(x: T, options: SyncForwardOptions<T>, givenMode: Mode | undefined): Steps<T> {
    // a rank with wrong options takes part by the layer's mode
    const mode = givenMode ?? this.mode;
    const { runningMean } = this;
    if (mode !== "train" && mode !== "batch" && runningMean) {
      checkObject("forward options", options);
      const y = super.forward(x, givenMode ? { ...options, mode } : options);
      this.#joint = false;
      return y;
    }
    const agreed = this.options;
    const shard = attempt(() => {
      this.#checkAlive();
      checkKeys("forward options", options, FORWARD_OPTIONS);
      modeOption(options.mode, mode);
      return packStatistics(runStatistics(this.checkForward(x, options, mode)));
    });
    const agreement = yield* this.#exchange(this.#header("forward", mode, 0), shard);
    const statistics = this.#merge(agreement, x.shape, mode);
    return this.#withOptions(agreed, () => {
      // running statistics change first, as on all other ranks, whatever becomes of y here
      if (mode === "train" && runningMean) this.track(statistics);
      this.#joint = true;
      const y = super.forward(x, { ...options, mode, statistics });
      // "eval" without running statistics may have written y over x
      const record = attempt(() => this.recordFor(undefined)).value;
      if (record) this.#forwards.set(record, this.#exchanges);
      return y;
    });
  }

  /** Calls `commit` by the options that all ranks have agreed on. A program may have assigned others since. */
  #withOptions<T>(agreed: ResolvedOptions<D>, commit: () => T): T {
    const now = this.options;
    if (now === agreed) return commit();
    const assign = ({ momentum, epsilon }: ResolvedOptions<D>) => Object.assign(this, { momentum, epsilon });
    assign(agreed);
    try {
      return commit();
    } finally {
      assign(now);
    }
  }

  /** Returns the statistics of all shards. Throws BatchNormError for one value. */
  #merge({ all, values }: Agreement, shape: readonly number[], mode: Mode): BatchStatistics {
    const { size } = this.group;
    for (let rank = 0; rank < size; rank++) {
      const count = all[(rank * all.length) / size + values] as number;
      if (!(count >= 0 && count < Infinity)) throw wrongExchange(`rank ${rank}`, "a count of values", count);
    }
    const statistics = mergePacked(all, size, values);
    const { count } = statistics;
    if (count > 0 && count <= 1 && !(count === 1 && this.takesOne(mode)))
      throw oneValuePerChannel(mode, shape, " and no more in the whole group");
    return statistics;
  }

  *#backward<T extends TensorLike<D>, const N extends Needs>(
    dy: T,
    options: SyncBackwardOptions<T, N>,
  ): Steps<Gradients<T, VectorOf<D>, N, Scale, Shift>> {
    const record = attempt(() => this.recordFor(options.saved)).value;
    // a rank without a record takes part if the others do
    if (!(record ? record.joint : this.#joint)) return super.backward(dy, options);
    const shard = attempt(() => {
      this.#checkAlive();
      checkKeys("backward options", options, SYNC_BACKWARD_OPTIONS);
      const { saved, ...complete } = options;
      const own = this.recordFor(saved);
      if (options.accumulate === true) {
        complete.dGammaOut ??= this.dGamma as VectorOf<D>;
        complete.dBetaOut ??= this.dBeta as VectorOf<D>;
      }
      prepareBackward(dy, own, { gamma: this.gamma !== null, beta: this.beta !== null }, complete);
      const { dGamma, dBeta } = gradientSumsOf(dy, own);
      const values = new Float64Array(2 * this.channels);
      values.set(dGamma);
      values.set(dBeta, this.channels);
      return values;
    });
    const forward = record ? (this.#forwards.get(record) ?? 0) : 0;
    const { all, values } = yield* this.#exchange(this.#header("backward", "batch", forward), shard);
    const { channels } = this;
    const sums = all.slice(values, values + 2 * channels);
    const width = all.length / this.group.size;
    for (let start = width + values; start < all.length; start += width) addTo(sums, all.subarray(start));
    return super.backward(dy, {
      ...options,
      sums: { dGamma: sums.slice(0, channels), dBeta: sums.slice(channels) },
    });
  }

  #checkAlive(): void {
    if (this.#disposed) throw disposed("BatchNorm");
  }

  /** What has to agree on all ranks for the same results and the same running statistics. */
  #header(phase: "forward" | "backward", mode: Mode, forward: number): Header {
    const { dtype, epsilon, momentum, estimator, runningVariance, onNonFinite, activation, negativeSlope } =
      this.options;
    const { scale, shift, trackRunningStats } = this.options;
    return {
      layer: this.#layer,
      phase,
      channels: this.channels,
      exchange: this.#exchanges,
      mode,
      forward,
      batchesTracked: mode === "train" ? this.batchesTracked : 0,
      dtype,
      epsilon,
      momentum,
      estimator,
      runningVariance,
      onNonFinite,
      activation,
      negativeSlope: negativeSlope ?? 0,
      scale,
      shift,
      trackRunningStats,
      recalibration: this.takesOne(mode),
    };
  }

  /** Exchanges packets. Throws this rank's own error, or the verdict of all ranks on all packets. */
  *#exchange(header: Header, shard: Attempt<Float64Array>): Generator<Float64Array, Agreement, Float64Array> {
    const packet = packetOf(header, shard.value, 2 * this.channels + 1);
    let all: Float64Array;
    try {
      all = yield packet;
    } catch (error) {
      throw shard.value ? error : shard.error;
    }
    if (!shard.value) throw shard.error;
    const values = checkPackets(all, packet, header, this.group.rank);
    this.#exchanges++;
    return { all, values };
  }

  /** Runs all steps at once. Throws TypeError if the exchange is asynchronous. */
  #now<T>(steps: Steps<T>): T {
    const first = steps.next();
    if (first.done) return first.value;
    return resume(
      steps,
      attempt(() => gatherNow(this.group, first.value, this.#layer)),
    );
  }

  /** Runs all steps after those of the layer's other asynchronous calls, and waits for the exchange. */
  #later<T>(steps: Steps<T>): Promise<T> {
    const run = async (): Promise<T> => {
      const first = steps.next();
      if (first.done) return first.value;
      let gathered: Attempt<Float64Array>;
      try {
        const pending = gather(this.group, first.value, this.#layer);
        // a layer of a synchronous group is not left in the middle of a call
        gathered = { value: pending instanceof Promise ? await pending : pending };
      } catch (error) {
        gathered = { error };
      }
      return resume(steps, gathered);
    };
    const call = this.#call ? this.#call.then(run, run) : run();
    this.#call = call;
    const over = () => {
      if (this.#call === call) this.#call = undefined;
    };
    call.then(over, over);
    return call;
  }
}

/** Runs the steps after an exchange, or after the error of one. */
function resume<T>(steps: Steps<T>, { value, error }: Attempt<Float64Array>): T {
  return (value ? steps.next(value) : steps.throw(error)).value as T;
}

/** Returns the result of a call, or the error that it throws. */
function attempt<T>(call: () => T): Attempt<T> {
  try {
    return { value: call() };
  } catch (error) {
    return { error };
  }
}
