// A BatchNorm that normalises by the statistics of all ranks' shards, with one exchange in forward and one in backward
// (torch.nn.SyncBatchNorm). A process group connects the ranks (distributed/process-group.ts).
//
//   forward    every rank: (count, mean, M2) of its shard   → all of them, merged in the order of the ranks → y
//   backward   every rank: Σ dy, Σ dy·x̂ of its shard        → their sums                                     → dx
//
// Forward gathers, since (count, mean, M2) do not add up, and sums about a pivot that all know would lose digits where
// the mean is far from it. Backward sums.

import { exclusiveStatistics, nonFinite, oneValuePerChannel, rankFailed, wrongKind } from "../common/errors.ts";
import { checkKeys, checkObject } from "../common/validate.ts";
import type { ProcessGroup } from "../distributed/process-group.ts";
import type { TensorLike } from "../memory/tensor.ts";
import { type Gradients, gradientSumsOf, type Needs } from "../ops/backward.ts";
import { runStatistics } from "../ops/forward.ts";
import { type BatchStatistics, mergePacked, nonFiniteChannel, packStatistics } from "../ops/statistics.ts";
import type { Dtype, VectorOf } from "../tensor/dtype.ts";
import { BatchNorm, type LayerBackwardOptions, type LayerForwardOptions } from "./batch-norm.ts";
import { type LayerOptions, type Mode, modeOption } from "./options.ts";

/** The count that a rank sends to tell the others that it has thrown. */
const FAILED = -1;

/** The options of a forward over a group, which has neither a prior nor scale and shift per sample. */
const FORWARD_OPTIONS = ["mode", "out", "residual", "mask"];

/**
 * The work of a rank between its exchanges. It yields each exchange as a call of the group, and resumes when that is
 * done.
 */
type Steps<T> = Generator<() => Promise<void> | void, T, undefined>;

/** Options of SyncBatchNorm. */
export type SyncOptions<D extends Dtype = "float32", Scale extends boolean = true, Shift extends boolean = true> = Omit<
  LayerOptions<D, Scale, Shift>,
  "ghostBatchSize" | "renorm"
> & {
  /** The ranks that normalise together. */
  group: ProcessGroup;
};

export type SyncForwardOptions<T extends TensorLike<Dtype>> = Omit<
  LayerForwardOptions<T>,
  "statistics" | "perSample" | "prior"
>;
export type SyncBackwardOptions<T extends TensorLike<Dtype>, N extends Needs = Needs> = Omit<
  LayerBackwardOptions<T, N>,
  "sums"
>;

/**
 * A layer of batch normalization over the batch of a process group (torch.nn.SyncBatchNorm, on the processor). Every
 * rank has a shard of the batch, which may be empty. Options, state and modes are BatchNorm's. All ranks call forward
 * and backward in the same order and mode. Results are those of one BatchNorm on all shards together, and after every
 * step the running statistics have the same bits on every rank.
 *
 * dx depends on the gradients of all shards. dGamma and dBeta are those of the rank's shard, as is usual in
 * data-parallel training: sum them over the group with the other gradients.
 *
 * If a rank throws before it has sent anything, the others throw BatchNormError "group" before any state has changed.
 * For one value in the whole group, and for statistics that are not finite, all ranks throw the same error.
 */
export class SyncBatchNorm<
  D extends Dtype = "float32",
  Scale extends boolean = true,
  Shift extends boolean = true,
> extends BatchNorm<D, Scale, Shift> {
  readonly group: ProcessGroup;

  /** Throws as BatchNorm does, and TypeError if `group` is not a process group. */
  constructor(channels: number, options: SyncOptions<D, Scale, Shift>) {
    checkObject("options", options);
    const { group, ...others } = options;
    super(channels, others as unknown as LayerOptions<D, Scale, Shift>);
    checkObject("group", group, "{ rank, size, sum }");
    if (typeof group.sum !== "function") throw wrongKind("group", "{ rank, size, sum }", group);
    this.group = group;
    for (const name of ["ghostBatchSize", "renorm"] as const) if (this.options[name]) throw exclusiveStatistics(name);
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
    return this.#now(this.#forward(x, options));
  }

  /** BatchNorm.backward over a synchronous group. Throws TypeError if the group is asynchronous (see backwardAsync). */
  override backward<T extends TensorLike<D>, const N extends Needs = object>(
    dy: T,
    options: SyncBackwardOptions<T, N> = {},
  ): Gradients<T, VectorOf<D>, N, Scale, Shift> {
    return this.#now(this.#backward(dy, options));
  }

  /** BatchNorm.forward over any group. */
  forwardAsync<T extends TensorLike<D>>(x: T, options: SyncForwardOptions<T> = {}): Promise<T> {
    return this.#later(this.#forward(x, options));
  }

  /** BatchNorm.backward over any group. */
  backwardAsync<T extends TensorLike<D>, const N extends Needs = object>(
    dy: T,
    options: SyncBackwardOptions<T, N> = {},
  ): Promise<Gradients<T, VectorOf<D>, N, Scale, Shift>> {
    return this.#later(this.#backward(dy, options));
  }

  *#forward<T extends TensorLike<D>>(x: T, options: SyncForwardOptions<T>): Steps<T> {
    const mode = modeOption(options.mode, this.mode);
    const batch = mode === "train" || mode === "batch" || !this.runningMean;
    if (!batch) return super.forward(x, options);
    // whatever forward throws for its arguments, it has to throw before the other ranks go on
    const shard = attempt(() => {
      checkKeys("forward options", options, FORWARD_OPTIONS);
      return runStatistics(this.checkForward(x, options, mode));
    });
    const packed = shard.value
      ? packStatistics(shard.value)
      : new Float64Array(2 * this.channels + 1).fill(FAILED, 0, 1);
    const all = new Float64Array(this.group.size * packed.length);
    yield () => this.#gather(packed, all);
    if (!shard.value) throw shard.error;
    const statistics = this.#merge(all, packed.length, x.shape, mode);
    const y = super.forward(x, { ...options, mode, statistics });
    if (mode === "train" && this.runningMean) this.track(statistics);
    return y;
  }

  /**
   * The statistics of all shards. Throws BatchNormError if a rank failed, for one value, and for values that are not
   * finite.
   */
  #merge(all: Float64Array, width: number, shape: readonly number[], mode: Mode): BatchStatistics {
    const counts = Array.from({ length: this.group.size }, (_, rank) => all[rank * width]);
    const failed = counts.indexOf(FAILED);
    if (failed >= 0) throw rankFailed(failed, "forward");
    const statistics = mergePacked(all, this.group.size);
    const { count, mean, variance } = statistics;
    if (count === 1 && !this.takesOne(mode)) throw oneValuePerChannel(mode, shape, " and no more in the whole group");
    const updates = mode === "train" && this.runningMean !== null;
    const bad = updates && this.options.onNonFinite === "throw" ? nonFiniteChannel(mean, variance) : undefined;
    if (bad !== undefined) throw nonFinite(bad, mean[bad] as number, variance[bad] as number);
    return statistics;
  }

  *#backward<T extends TensorLike<D>, const N extends Needs>(
    dy: T,
    options: SyncBackwardOptions<T, N>,
  ): Steps<Gradients<T, VectorOf<D>, N, Scale, Shift>> {
    const record = this.recordFor(options.saved);
    if (!record.joint) return super.backward(dy, options);
    const shard = attempt(() => gradientSumsOf(dy, record));
    const { channels } = this;
    const all = new Float64Array(2 * channels + 1);
    if (shard.value) {
      all.set(shard.value.dGamma, 1);
      all.set(shard.value.dBeta, 1 + channels);
    } else all[0] = 1;
    yield () => this.group.sum(all);
    if (!shard.value) throw shard.error;
    if (all[0]) throw rankFailed(undefined, "backward");
    const sums = { dGamma: all.slice(1, 1 + channels), dBeta: all.slice(1 + channels) };
    return super.backward(dy, { ...options, sums });
  }

  /** Gathers the values of all ranks in `all`. A group without `gather` sums them, each at a place of its own. */
  #gather(values: Float64Array, all: Float64Array): Promise<void> | void {
    if (this.group.gather) return this.group.gather(values, all);
    all.set(values, this.group.rank * values.length);
    return this.group.sum(all);
  }

  /** Runs all steps at once. Throws TypeError if an exchange is asynchronous, if possible before it. */
  #now<T>(steps: Steps<T>): T {
    for (let step = steps.next(); ; step = steps.next()) {
      if (step.done) return step.value;
      const pending = isAsynchronous(this.group) || step.value();
      if (pending === true || isThenable(pending)) {
        // the error below says more than the end of the exchange, and the next one waits for it
        if (pending !== true) {
          const over = Promise.resolve(pending).catch(() => {});
          stale.set(this.group, over);
        }
        throw wrongKind("group", "one that sums at once, or a call of forwardAsync and backwardAsync", this.group);
      }
    }
  }

  /** Runs all steps, and waits for each exchange. */
  async #later<T>(steps: Steps<T>): Promise<T> {
    await stale.get(this.group);
    for (let step = steps.next(); ; step = steps.next()) {
      if (step.done) return step.value;
      await step.value();
    }
  }
}

/** The exchanges that a synchronous call began on a group whose asynchrony it could not know, by group. */
const stale = /* @__PURE__ */ new WeakMap<ProcessGroup, Promise<unknown>>();

const isThenable = (value: unknown): value is PromiseLike<unknown> =>
  typeof (value as Partial<PromiseLike<unknown>> | null | undefined)?.then === "function";

/** Whether a group is known to be asynchronous: by an exchange before, or because its functions are async functions. */
const isAsynchronous = (group: ProcessGroup): boolean =>
  stale.has(group) || [group.sum, group.gather].some((f) => f?.[Symbol.toStringTag as never] === "AsyncFunction");

/** The result of a call, or the error that it throws. */
function attempt<T>(call: () => T): { value: T; error?: never } | { value?: never; error: unknown } {
  try {
    return { value: call() };
  } catch (error) {
    return { error };
  }
}
