// Splits a call into sub-batches, which are normalised independently. A plain call is one sub-batch, and ghost batches
// are many. Positions of a sub-batch may be masked, and its samples may have their own scale and shift. This file turns
// all of it into calls of primitives.ts.

import { oneValuePerChannel } from "../common/errors.ts";
import { Slot } from "../common/slot.ts";
import type { CallScope, KernelOperand } from "../memory/operand.ts";
import type { AnyTensor } from "../memory/tensor.ts";
import { bitsOf, type Dtype, type Vector } from "../tensor/dtype.ts";
import { type Geometry, geometryOf } from "../tensor/shape.ts";
import type { Layout, PlainTensor } from "../tensor/types.ts";
import type { Activation } from "./activation.ts";
import type { Mask, Selection } from "./mask.ts";
import type { PerSampleParameters } from "./options.ts";
import {
  batchStatistics,
  type Derive,
  type derivationOf,
  differentiate,
  emptyGradientSums,
  fuses,
  type GradientSums,
  gradientMap,
  gradientSums,
  normalize,
  type Statistics,
  type Terms,
  type Weights,
} from "./primitives.ts";

/** Samples that are normalised by statistics of their own. */
export interface SubBatch {
  readonly geometry: Geometry;
  /** The shape of the whole batch. */
  readonly shape: readonly number[];
  readonly layout: Layout;
  /** The index of the first element in the batch. */
  readonly offset: number;
  /** The first sample. */
  readonly first: number;
  /** What a mask selects of it; undefined if that is everything. */
  readonly selection: Selection | undefined;
  /** Values per channel that count: the sum of their weights. */
  readonly count: number;
}

/** Scale and shift of every sample, N·C values; null counts as ones and zeros. */
export interface Conditional {
  readonly gamma: PlainTensor<Vector> | null;
  readonly beta: PlainTensor<Vector> | null;
  /** Which of the two is per sample. The other is one vector repeated, and its gradient is one vector, too. */
  readonly perSample: { readonly gamma: boolean; readonly beta: boolean };
}

/** A sub-batch with everything that its map and its backward need. */
export interface SubBatchForward extends SubBatch {
  readonly terms: Terms;
  /** Values per channel behind the statistics; 0 if the statistics are constants. */
  readonly total: number;
  /** Whether a mask leaves nothing, so that there are no statistics. */
  readonly empty: boolean;
  readonly conditional: Conditional | undefined;
  /** The factor of Batch Renormalization, which scales and shifts x̂·r + d (Ioffe 2017); float64, [C]. */
  readonly r: Float64Array | undefined;
  /** The summand of Batch Renormalization; float64, [C]. */
  readonly d: Float64Array | undefined;
  /** How much of the statistics is the batch's, if they are mixed with the running ones. */
  readonly mixture: Mixture | undefined;
}

/** Statistics that are the running ones in part, which are constants to a backward. */
export interface Mixture {
  /** The weight of the batch's statistics. */
  readonly weight: number;
  /** (mean − the batch's mean)·invStd of every channel, float64, [C]. */
  readonly offset: Float64Array;
}

/**
 * The sums of gradients from which dx follows where the batch's statistics count in part: the gradients of mean and
 * variance reach x by `weight`, and x − the batch's mean is (x̂ − offset)/invStd.
 */
const mixedSums = ({ dGamma, dBeta }: GradientSums, { weight, offset }: Mixture): GradientSums => ({
  dGamma: dGamma.map((sum) => weight * sum),
  dBeta: dBeta.map((sum, c) => weight * (sum + (offset[c] as number) * (dGamma[c] as number))),
});

/** The scale and shift of a forward, and the activation behind them. */
export interface ScaleAndShift {
  readonly gamma: Vector | null;
  readonly beta: Vector | null;
  /** Scale and shift of every sample's own; gamma and beta are null with it. */
  readonly conditional: Conditional | undefined;
  readonly activation: Activation;
}

/** A sub-batch of statistics that are its own, or of `total` values per channel; 0 says that they are constants. */
export const subBatchForward = (
  { geometry, shape, layout, offset, first, selection, count }: SubBatch,
  { mean, invStd }: Pick<Statistics, "mean" | "invStd">,
  { gamma, beta, conditional, activation }: ScaleAndShift,
  total?: number,
): SubBatchForward => ({
  geometry,
  shape,
  layout,
  offset,
  first,
  selection,
  count,
  terms: { mean, invStd, gamma, beta, activation },
  total: total ?? count,
  empty: total === undefined && count === 0,
  conditional,
  r: undefined,
  d: undefined,
  mixture: undefined,
});

/** What a call with a mask needs. mask.ts implements it. */
export interface Masks {
  /** The weights of all positions of a batch, [N, …]. Throws TypeError and RangeError for a wrong mask. */
  weightsOf(mask: Mask, shape: readonly number[], layout: Layout): Float64Array;
  /** What a mask selects of some positions of a batch; undefined if it selects all of them. */
  selectionOf(weights: Float64Array): Selection | undefined;
  /** Copies the weights of a sub-batch to wasm memory, which the call frees. */
  loadWeights(call: CallScope, x: KernelOperand, selection: Selection, forGradients: boolean): Weights;
}

export const masks = /* @__PURE__ */ new Slot<Masks>();

/** What a call with scale or shift per sample needs. per-sample.ts implements it. */
export interface PerSample {
  /** Checks scale and shift per sample, and completes them by the vectors that all samples share. */
  conditionalOf(
    given: PerSampleParameters,
    shared: Readonly<Record<"gamma" | "beta", Vector | null>>,
    geometry: Pick<Geometry, "samples" | "channels">,
    dtype: Dtype,
    copy: (name: "gamma" | "beta", values: Vector | null) => Vector | null,
  ): Conditional;
  /** Computes y of a sub-batch. */
  normalize(
    call: CallScope,
    x: AnyTensor,
    residual: AnyTensor | undefined,
    y: AnyTensor,
    subBatch: SubBatchForward,
  ): void;
  /** Computes dx of a sub-batch if it is wanted, and writes the sums of gradients of its samples to `into`. */
  differentiate(
    call: CallScope,
    x: AnyTensor,
    dz: AnyTensor,
    subBatch: SubBatchForward,
    request: BackwardRequest,
    needed: boolean,
    into: VectorGradients | undefined,
  ): void;
}

export const perSample = /* @__PURE__ */ new Slot<PerSample>();

/**
 * What a call needs whose kernels do not take the activation's derivative, or that has a residual. per-sample.ts and
 * primitives.ts implement it.
 */
export interface Fusion {
  /** Computes dz = dy·f′(z) of all sub-batches. `dz` may be dy. */
  activationGradient(
    call: CallScope,
    x: AnyTensor,
    residual: AnyTensor | undefined,
    dy: AnyTensor,
    dz: AnyTensor,
    subBatches: readonly SubBatchForward[],
  ): void;
  /** Returns the computation of dz of a tile, for sums that read dz while it is in cache. */
  derivationOf: typeof derivationOf;
}

export const fusion = /* @__PURE__ */ new Slot<Fusion>();

/** The name of scale and shift per sample in errors. */
export const PER_SAMPLE = "perSample";

/**
 * Splits a batch into sub-batches of at most `maximum` samples, the last of which may be smaller. `weights` are those
 * of a mask.
 */
export function subBatchesOf(
  geometry: Geometry,
  shape: readonly number[],
  layout: Layout,
  maximum: number | null,
  weights: Float64Array | undefined,
): SubBatch[] {
  const { channels, samples, length } = geometry;
  // a batch without elements may have any number of samples
  const step = length === 0 ? samples : Math.min(maximum ?? samples, samples);
  const inner = samples && length / channels / samples;
  const subBatches: SubBatch[] = [];
  for (let first = 0; first < samples || first === 0; first += step) {
    const size = Math.min(step, samples - first);
    const part = size === samples ? geometry : samplesOf(geometry, shape, layout, size);
    const end = first + size;
    const selection = weights && masks.get("mask").selectionOf(weights.subarray(first * inner, end * inner));
    const count = selection ? selection.count : part.count;
    subBatches.push({ geometry: part, shape, layout, offset: first * inner * channels, first, selection, count });
    if (step === 0) break;
  }
  return subBatches;
}

/** Throws BatchNormError if the statistics of a sub-batch would be those of one value. */
export function checkEnough(subBatches: readonly SubBatch[], mode: string, shape: readonly number[]): void {
  for (const { geometry, first, selection } of subBatches) {
    if ((selection ? selection.positions : geometry.count) !== 1) continue;
    const subShape = shape.length === 1 ? shape : [geometry.samples, ...shape.slice(1)];
    const ghost = subBatches.length > 1 ? `, a ghost batch from sample ${first} on` : "";
    throw oneValuePerChannel(mode, subShape, ghost + (selection ? ", all but one masked" : ""));
  }
}

/** The geometry of `samples` samples of a batch. */
export const samplesOf = (
  { channels }: Geometry,
  shape: readonly number[],
  layout: Layout,
  samples: number,
): Geometry => geometryOf("x", [samples, ...shape.slice(1)], layout, channels);

// ---- forward --------------------------------------------------------------------------------------------------------

/** Where to write the batch statistics of a sub-batch, and the epsilon of their invStd. */
export interface StatisticsTarget {
  readonly epsilon: number;
  readonly into: Statistics;
  /** Whether the run has found all statistics to be finite. Otherwise they may be finite or not. */
  finite: boolean;
  /** Whether the running statistics are to take these in. The layer decides it after the run. */
  tracked: boolean;
}

/** Computes a sub-batch's y, if there is one. With `target`, it also computes its batch statistics. */
export function forwardSubBatch(
  call: CallScope,
  x: AnyTensor,
  residual: AnyTensor | undefined,
  y: AnyTensor | undefined,
  subBatch: SubBatchForward,
  wanted?: StatisticsTarget,
): void {
  const { geometry, offset, terms, selection, conditional } = subBatch;
  if (wanted && subBatch.empty) for (const key of ["mean", "variance", "invStd"] as const) wanted.into[key].fill(0);
  const target = subBatch.empty ? undefined : wanted;
  const mapped = conditional ? undefined : y;
  if (target)
    call.withOperands([x, mapped && residual, mapped], geometry, offset, (source, added, to) => {
      const weights = selection && masks.get("mask").loadWeights(call, source, selection, false);
      target.finite = batchStatistics(source, target.epsilon, target.into, to, added, terms, weights);
    });
  else if (mapped)
    call.withOperands([x, residual, mapped], geometry, offset, (source, added, to) =>
      normalize(source, added, to, terms),
    );
  if (conditional && y) perSample.get(PER_SAMPLE).normalize(call, x, residual, y, subBatch);
}

// ---- backward -------------------------------------------------------------------------------------------------------

/** Adds values, each times its factor, to `into`. */
export function addTo(into: Vector, values: ArrayLike<number>, factor?: ArrayLike<number> | null): void {
  for (let c = 0; c < values.length; c++)
    into[c] = (into[c] as number) + (values[c] as number) * (factor ? (factor[c] as number) : 1);
}

/**
 * Whether the kernels of a sub-batch's backward take the activation's derivative themselves, so that dy serves as dz.
 */
export const fusesSubBatch = (
  operandDtype: string,
  residual: unknown,
  activation: Activation,
  { conditional, selection, total }: SubBatchForward,
): boolean => operandDtype !== "float64" && !conditional && !selection && total > 0 && fuses(residual, activation);

/** dGamma and dBeta in any precision: float64 sums, or where a caller wants those of every sample, [N·C]. */
export interface VectorGradients {
  readonly dGamma: Vector;
  readonly dBeta: Vector;
}

/** What the caller of a backward asks for. */
export interface BackwardRequest {
  /** Where to write dx; undefined if it is not wanted. */
  readonly dx: AnyTensor | undefined;
  /** Whether the sums of gradients are wanted. */
  readonly sums: boolean;
  /** Whether the kernels take the activation's derivative. */
  readonly fused: boolean;
  /** The operands from which dz has to be computed; undefined if the kernels of sums and dx take dy itself. */
  readonly activated: { readonly dy: AnyTensor; readonly residual: AnyTensor | undefined } | undefined;
  /** Whether the sub-batch is the only one, so that its sums need no adding up. */
  readonly alone: boolean;
  /** The sums of a larger batch, which dx takes instead of the sub-batch's own. */
  readonly joint: GradientSums | undefined;
}

/**
 * Computes dx of a sub-batch, and dz if it is not given, and adds the sums of gradients to `into`. Those of samples are
 * written to their places in it.
 */
export function backwardSubBatch(
  call: CallScope,
  x: AnyTensor,
  dz: AnyTensor,
  subBatch: SubBatchForward,
  request: BackwardRequest,
  into: VectorGradients | undefined,
): void {
  const { geometry, offset, conditional, total } = subBatch;
  const { dx, activated, joint } = request;
  const needed = request.sums || (dx !== undefined && total > 0 && !joint);
  if (activated && (subBatch.empty || conditional || !needed)) {
    const { dy, residual } = activated;
    fusion.get("activation").activationGradient(call, x, residual, dy, dz, [subBatch]);
  }
  if (subBatch.empty) {
    if (dx) bitsOf(dx.data).fill(0, offset, offset + geometry.length);
  } else if (conditional) perSample.get(PER_SAMPLE).differentiate(call, x, dz, subBatch, request, needed, into);
  else backwardShared(call, x, dz, subBatch, request, needed, into as GradientSums | undefined);
}

/**
 * Adds a sub-batch's sums of gradients to those of the call. Batch Renormalization scales and shifts x̂·r + d, not x̂.
 */
export function addSums(
  into: VectorGradients | undefined,
  sums: VectorGradients,
  { r, d }: Pick<SubBatchForward, "r" | "d">,
): void {
  if (!into) return;
  addTo(into.dGamma, sums.dGamma, r);
  if (d) addTo(into.dGamma, sums.dBeta, d);
  addTo(into.dBeta, sums.dBeta);
}

/** Does the work of `backwardSubBatch` for a sub-batch whose samples share scale and shift. */
export function backwardShared(
  call: CallScope,
  x: AnyTensor,
  dz: AnyTensor,
  subBatch: SubBatchForward,
  { dx, fused, activated, alone, joint }: BackwardRequest,
  needed: boolean,
  into: GradientSums | undefined,
): void {
  const { geometry, offset, terms, total, selection, mixture } = subBatch;
  const sums = alone && !subBatch.r && !mixture ? into : emptyGradientSums(geometry.channels);
  call.withOperands([x, dz, dx], geometry, offset, (source, upstream, target) => {
    const weights = selection && masks.get("mask").loadWeights(call, source, selection, true);
    const flow = { count: total, gammaVaries: false, fused, weights };
    const run = (derive?: Derive) => {
      if (target && needed && !joint && !mixture) differentiate(source, upstream, target, terms, flow, sums, derive);
      else {
        if (needed) gradientSums(source, upstream, terms, fused, sums, weights, derive);
        const own = mixture && sums ? mixedSums(sums, mixture) : sums;
        if (target) gradientMap(source, upstream, target, terms, joint ?? own, flow);
      }
    };
    if (!activated || !needed) return run();
    call.withOperands([activated.dy, activated.residual], geometry, offset, (dy, residual) =>
      run(fusion.get("activation").derivationOf(source, residual, dy, upstream, terms)),
    );
  });
  if (sums && sums !== into) addSums(into, sums, subBatch);
}

/** The terms of the map before its activation. */
export const withoutActivation = (terms: Terms): Terms =>
  terms.activation.code ? { ...terms, activation: { ...terms.activation, code: 0 } } : terms;
