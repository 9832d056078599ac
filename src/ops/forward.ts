// The forward pass that the class, the functions, SyncBatchNorm and the TF.js operations share.

import { exclusive, wrongShape, wrongValue } from "../common/errors.ts";
import { checkOperand, checkOut, checkTensor, isTensorInUse, overwrites, type Parameter } from "../memory/guards.ts";
import type { Heap } from "../memory/heap.ts";
import { CallScope, heapOf } from "../memory/operand.ts";
import { type AnyTensor, Tensor } from "../memory/tensor.ts";
import { checks } from "../memory/written.ts";
import type { Dtype } from "../tensor/dtype.ts";
import { channelAxis, type Geometry, geometryOf, MAX_CHANNELS, sameShape } from "../tensor/shape.ts";
import type { Layout } from "../tensor/types.ts";
import { type Activation, type ActivationName, NONE } from "./activation.ts";
import type { Mask } from "./mask.ts";
import type { PerSampleParameters } from "./options.ts";
import { emptyStatistics, type GradientSums, type Statistics } from "./primitives.ts";
import { type BatchStatistics, checkJointCount } from "./statistics.ts";
import {
  checkEnough,
  forwardSubBatch,
  fusion,
  masks,
  PER_SAMPLE,
  type ScaleAndShift,
  type StatisticsTarget,
  type SubBatch,
  type SubBatchForward,
  subBatchesOf,
  subBatchForward,
} from "./sub-batches.ts";

declare const OPAQUE: unique symbol;

/** The record of a forward of batch norm, for backward. It refers to the forward's tensors, which must not change. */
export interface Saved {
  /** Makes the type unlike any other: programs pass a record on and do not read it. */
  readonly [OPAQUE]: "batch norm";
}

/** The contents of a record, which only the folders ops, layer and tfjs read. */
export interface ForwardRecord extends Saved {
  /** false if the statistics are constants, through which no gradient flows. */
  readonly batch: boolean;
  /** Whether x is a part of a joint batch, whose statistics the caller gave. */
  readonly joint: boolean;
  readonly dtype: Dtype;
  readonly geometry: Geometry;
  readonly shape: readonly number[];
  readonly x: AnyTensor;
  /** Whether forward added a residual. */
  readonly hasResidual: boolean;
  /** The residual; undefined without an activation, since backward does not read it then. */
  readonly residual: AnyTensor | undefined;
  /** false if y was written over x, or over the residual that backward needs. */
  readonly inputIntact: boolean;
  readonly activation: Activation;
  readonly subBatches: readonly SubBatchForward[];
  /** Buffers that the next backward uses again. */
  readonly scratch: { sums?: GradientSums };
  /** Throws if an operand has been written since the forward. Undefined without init({ checks: true }). */
  readonly verify: (() => void) | undefined;
}

/** The result of a forward function. */
export interface ForwardResult<T> {
  /** The normalised x, in x's kind and shape. */
  y: T;
  /** The record for a backward. */
  saved: Saved;
  /** The mean that normalised the first or only ghost batch, float64, [C]. */
  mean: Float64Array;
  /** The biased variance of the first or only ghost batch, float64, [C]. */
  variance: Float64Array;
  /** 1/√(variance + epsilon) of the first or only ghost batch, float64, [C]. */
  invStd: Float64Array;
  /** The number of values per channel behind these statistics, or the sum of their weights. */
  count: number;
}

/** A scale and a shift: Float64Array if x is float64, else Float32Array; or a tensor of that type or of 16 bits. */
export interface Parameters {
  /** The scale, [C]; ones if it is null or absent. */
  gamma?: Parameter | null;
  /** The shift, [C]; zeros if it is null or absent. */
  beta?: Parameter | null;
}

/** The parameters of batchNormForward and batchNormInference. */
export interface ForwardParameters extends Parameters {
  /** A scale, a shift or both of every sample, instead of gamma or beta. */
  perSample?: PerSampleParameters;
}

/** Options of batchNormForward and batchNormInference in batchnorm-wasm/core. */
export interface CoreForwardOptions<T> {
  /** Which axis the channels are on. Default "channels-first". */
  layout?: Layout;
  /** The number added to the variance inside the root, finite and ≥ 0. Default 1e-5. */
  epsilon?: number;
  /** Where to write y; by default it is new. */
  out?: T;
  /** The samples of a ghost batch, which is normalised by its own statistics. Default: the call is one batch. */
  ghostBatchSize?: number;
  /** The statistics of a joint batch of which x is a part (mergeStatistics). */
  statistics?: BatchStatistics;
}

/** Options of batchNormForward and batchNormInference. */
export interface ForwardOptions<T extends AnyTensor = AnyTensor> extends CoreForwardOptions<T> {
  /** The activation, applied after the residual. Default "none". */
  activation?: ActivationName;
  /** The slope of "leaky_relu" below 0, between 0 and 1. Default 0.01. */
  negativeSlope?: number;
  /** A tensor of x's shape and type that is added before the activation. */
  residual?: T;
  /** The positions that count in the statistics; all by default. */
  mask?: Mask;
}

/** Options of batchNormInference, which has no batch whose statistics it could take. */
export type InferenceOptions<T extends AnyTensor = AnyTensor> = Omit<
  ForwardOptions<T>,
  "statistics" | "ghostBatchSize"
>;

// ---- prepare --------------------------------------------------------------------------------------------------------

/** What a forward takes, before any of it is checked but the activation and the size of ghost batches. */
export interface ForwardArguments<T extends AnyTensor> {
  readonly x: T;
  readonly residual: T | undefined;
  readonly out: T | undefined;
  readonly mask: Mask | undefined;
  readonly layout: Layout;
  readonly activation: Activation;
  /** Samples of a ghost batch; null if the call is one batch. */
  readonly ghostBatchSize: number | null;
  /** The mode that errors name if `out` overwrites what backward needs: null without modes, undefined if it may. */
  readonly backwardMode: string | null | undefined;
}

/** Checked arguments of a forward. */
export interface ForwardInputs<T extends AnyTensor> {
  readonly x: T;
  readonly residual: T | undefined;
  readonly out: T | undefined;
  readonly heap: Heap;
  readonly dtype: Dtype;
  readonly geometry: Geometry;
  readonly masked: boolean;
  readonly subBatches: readonly SubBatch[];
  /** false if y is written over x, or over a residual that backward needs. */
  readonly inputIntact: boolean;
}

/** The statistics that a forward normalises by. `takesOne` allows those of one value per channel. */
export type StatisticsSource =
  /** The own statistics of each sub-batch, which the run computes and writes to `buffer(i)`. */
  | { readonly kind: "batch"; readonly epsilon: number; readonly takesOne?: boolean; buffer(i: number): Statistics }
  /** The statistics of `count` values per channel, of which x is a part. */
  | { readonly kind: "joint"; readonly statistics: Statistics; readonly count: number; readonly takesOne?: boolean }
  /** Constants, such as running statistics, through which no gradient flows. */
  | { readonly kind: "constant"; readonly statistics: Pick<Statistics, "mean" | "invStd"> };

/** A forward that nothing but the values of its tensors can make fail. */
export interface PreparedForward<T extends AnyTensor> {
  readonly inputs: ForwardInputs<T>;
  readonly activation: Activation;
  readonly subBatches: readonly SubBatchForward[];
  /** Where the run writes the statistics of each sub-batch, and with which epsilon; undefined if they are known. */
  readonly targets: readonly StatisticsTarget[] | undefined;
  /** false if the statistics are constants. */
  readonly batch: boolean;
  /** Whether the statistics are those of a joint batch of which x is a part. */
  readonly joint: boolean;
}

/** Throws if `out` would overwrite an input that backward needs; returns false in a call where it may. */
function checkInputIntact<T extends AnyTensor>(
  { x, residual, out, activation, backwardMode }: ForwardArguments<T>, //
): boolean {
  const needsResidual = activation.code !== 0;
  const overX = overwrites("out", out, "x", x, backwardMode);
  const overResidual = overwrites("out", out, "residual", residual, needsResidual ? backwardMode : undefined);
  return !overX && !(overResidual && needsResidual);
}

export function checkResidual(residual: AnyTensor | undefined, shape: readonly number[], dtype: Dtype): void {
  if (residual === undefined) return;
  fusion.get("residual");
  checkOperand("residual", residual, dtype);
  if (!sameShape(residual.shape, shape)) throw wrongShape("residual", shape, residual.shape);
}

/**
 * Checks the tensors of a forward and its mask, and splits the batch. `dtype` and `channels` are those that x must
 * have; a call without them takes them from x. Throws TypeError, RangeError, and BatchNormError for disposed tensors
 * and for an `out` that backward needs.
 */
export function checkForward<T extends AnyTensor>(
  args: ForwardArguments<T>,
  required: { readonly dtype: Dtype; readonly channels: number } | undefined,
): ForwardInputs<T> {
  const { x, residual, out, mask, layout } = args;
  const dtype = checkOperand("x", x, required?.dtype);
  const geometry = geometryOf("x", x.shape, layout, required?.channels ?? channelsOf(x.shape, layout));
  checkResidual(residual, x.shape, dtype);
  const heap = heapOf(x, out, residual);
  if (residual instanceof Tensor) checkTensor("residual", residual, heap);
  checkOut("out", out, x.shape, heap, dtype);
  const weights = mask === undefined ? undefined : masks.get("mask").weightsOf(mask, x.shape, layout);
  const subBatches = subBatchesOf(geometry, x.shape, layout, args.ghostBatchSize, weights);
  const inputIntact = checkInputIntact(args);
  return { x, residual, out, heap, dtype, geometry, masked: weights !== undefined, subBatches, inputIntact };
}

/** The channels that a shape has. Throws RangeError if there is none, or more than a vector has room for. */
function channelsOf(shape: readonly number[], layout: Layout): number {
  if (shape.length === 1) return 1;
  const channels = shape[channelAxis(shape, layout)] ?? 0;
  if (shape.length >= 2 && channels === 0) throw wrongValue("x.shape", "at least one channel", shape);
  if (channels > MAX_CHANNELS) throw wrongValue("x.shape", `at most ${MAX_CHANNELS} channels`, shape);
  return channels;
}

/**
 * Checks scale, shift and statistics of a forward against its inputs. Errors name `mode`. Throws RangeError for a mask
 * together with scale and shift per sample, BatchNormError for statistics of one value.
 */
export function prepareForward<T extends AnyTensor>(
  inputs: ForwardInputs<T>,
  scaleAndShift: ScaleAndShift,
  source: StatisticsSource,
  mode: string,
): PreparedForward<T> {
  const { x, geometry, subBatches: split } = inputs;
  if (inputs.masked && scaleAndShift.conditional) throw exclusive("mask", PER_SAMPLE);
  if (source.kind !== "constant" && !source.takesOne) {
    if (source.kind === "joint") checkJointCount(source.count, geometry, mode, x.shape);
    else checkEnough(split, mode, x.shape);
  }
  const { activation } = scaleAndShift;
  const subBatches: SubBatchForward[] = [];
  if (source.kind !== "batch") {
    const batch = source.kind === "joint";
    const total = batch ? source.count : 0;
    for (const subBatch of split) subBatches.push(subBatchForward(subBatch, source.statistics, scaleAndShift, total));
    return { inputs, activation, subBatches, targets: undefined, batch, joint: batch };
  }
  const targets: StatisticsTarget[] = [];
  for (const subBatch of split) {
    const into = source.buffer(targets.length);
    targets.push({ epsilon: source.epsilon, into, finite: false, tracked: false });
    subBatches.push(subBatchForward(subBatch, into, scaleAndShift));
  }
  return { inputs, activation, subBatches, targets, batch: true, joint: false };
}

/** Whether a forward that was prepared earlier was for these tensors, so that none of them has to be checked again. */
export const isPreparedFor = <T extends AnyTensor>(
  { inputs }: PreparedForward<AnyTensor>,
  x: T,
  residual: T | undefined,
  out: T | undefined,
): boolean =>
  inputs.x === x && inputs.out === out && inputs.residual === residual && [x, out, residual].every(isTensorInUse);

// ---- run ------------------------------------------------------------------------------------------------------------

/** What the caller of a forward does between its statistics and its y. */
export interface ForwardHooks {
  /** Is called with the statistics of a sub-batch, and returns the sub-batch that y is computed of instead. */
  readonly adjust?: ((subBatch: SubBatchForward, target: StatisticsTarget) => SubBatchForward) | undefined;
  /** Is called when all statistics and y are known. What it throws ends the call. */
  readonly verify?: (() => void) | undefined;
}

/** y, and the sub-batches that backward differentiates. */
export interface ForwardRun<T extends AnyTensor> {
  readonly y: T;
  readonly subBatches: readonly SubBatchForward[];
}

/** Computes the statistics of a forward where they are not known, and y: in x's kind, or in `out`. */
export function runForward<T extends AnyTensor>(
  { inputs, subBatches, targets }: PreparedForward<T>,
  { adjust, verify }: ForwardHooks = {},
): ForwardRun<T> {
  const { x, residual, out } = inputs;
  const call = new CallScope(inputs.heap, inputs.dtype, [x, residual, out]);
  try {
    const y = call.allocateResult(out, x);
    const computed: SubBatchForward[] | undefined = adjust && [];
    for (let i = 0; i < subBatches.length; i++) {
      const subBatch = subBatches[i] as SubBatchForward;
      const adjusted = runSubBatch(call, x, residual, y, subBatch, targets?.[i], adjust);
      computed?.push(adjusted);
    }
    verify?.();
    return { y: call.result(y, out, x) as T, subBatches: computed ?? subBatches };
  } finally {
    call.dispose();
  }
}

function runSubBatch(
  call: CallScope,
  x: AnyTensor,
  residual: AnyTensor | undefined,
  y: AnyTensor | undefined,
  subBatch: SubBatchForward,
  target: StatisticsTarget | undefined,
  adjust: ForwardHooks["adjust"],
): SubBatchForward {
  if (!adjust || !target || subBatch.empty) {
    forwardSubBatch(call, x, residual, y, subBatch, target);
    return subBatch;
  }
  forwardSubBatch(call, x, undefined, undefined, subBatch, target);
  const adjusted = adjust(subBatch, target);
  forwardSubBatch(call, x, residual, y, adjusted);
  return adjusted;
}

/** The statistics of a batch that is one sub-batch; zeros where nothing counts. */
export function runStatistics({ x, heap, dtype, geometry, subBatches }: ForwardInputs<AnyTensor>): BatchStatistics {
  const into = emptyStatistics(geometry.channels);
  const none: ScaleAndShift = { gamma: null, beta: null, conditional: undefined, activation: NONE };
  const [subBatch] = subBatches as [SubBatch];
  const call = new CallScope(heap, dtype, [x]);
  try {
    const target = { epsilon: 0, into, finite: false, tracked: false };
    forwardSubBatch(call, x, undefined, undefined, subBatchForward(subBatch, into, none), target);
  } finally {
    call.dispose();
  }
  return { count: subBatch.count, mean: into.mean, variance: into.variance };
}

// ---- commit ---------------------------------------------------------------------------------------------------------

/** All records. Only membership identifies a record, because a copy or another object may have the same fields. */
export const records = /* @__PURE__ */ new WeakSet<object>();

/** Registers an object with the fields of a record as one, and returns it. */
export function asRecord(fields: Omit<ForwardRecord, keyof Saved>): ForwardRecord {
  records.add(fields);
  return fields as ForwardRecord;
}

/** What backward needs of a forward that has run. `scratch` are buffers of a backward before, to be used again. */
export function savedOf<T extends AnyTensor>(
  { inputs, activation, batch, joint }: PreparedForward<T>,
  subBatches: readonly SubBatchForward[],
  scratch: ForwardRecord["scratch"] = {},
): ForwardRecord {
  const { x, residual, dtype, geometry, inputIntact } = inputs;
  const read = { x, residual: activation.code ? residual : undefined };
  return asRecord({
    batch,
    joint,
    dtype,
    geometry,
    shape: [...x.shape],
    ...read,
    hasResidual: residual !== undefined,
    inputIntact,
    activation,
    subBatches,
    scratch,
    verify: inputIntact ? checks.remember?.(read) : undefined,
  });
}
