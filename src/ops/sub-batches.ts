// Splits a call into sub-batches, which are normalised independently. A plain call is one sub-batch; ghost batches are many. In a sub-batch,
// positions may be masked, and samples may have their own scale and shift. Here all of this becomes calls of primitives.ts.

import { oneValuePerChannel } from "../common/errors.ts";
import { Slot } from "../common/slot.ts";
import type { CallScope } from "../memory/operand.ts";
import type { AnyTensor } from "../memory/tensor.ts";
import { bitsOf, type Vector } from "../tensor/dtype.ts";
import { type Geometry, geometryOf } from "../tensor/shape.ts";
import type { Layout } from "../tensor/types.ts";
import type { Activation } from "./activation.ts";
import type { Mask, Place, Selection } from "./mask.ts";
import {
  batchStatistics,
  differentiate,
  fuses,
  type GradientSums,
  gradientMap,
  gradientSums,
  normalize,
  type Statistics,
  type Terms,
} from "./primitives.ts";

/** A batch of its own. */
export interface SubBatch extends Place {
  /** First sample. */
  readonly first: number;
  /** What a mask leaves of it; undefined where that is everything. */
  readonly selection: Selection | undefined;
  /** Values per channel that count. */
  readonly count: number;
}

/** Scale and shift of every sample, [N, C]; null counts as ones and zeros. */
export interface Conditional {
  readonly gamma: Vector | null;
  readonly beta: Vector | null;
  /** Which of the two is per sample. The other is one vector, repeated, and its gradient is a vector, too. */
  readonly perSample: { readonly gamma: boolean; readonly beta: boolean };
}

/** A sub-batch with everything that its map needs. */
export interface SubBatchForward extends SubBatch {
  readonly terms: Terms;
  /** Values per channel behind the statistics; 0 where they are constants. */
  readonly total: number;
  /** Whether nothing counts, so that there are no statistics: everything is masked. */
  readonly empty: boolean;
  readonly conditional: Conditional | undefined;
  /** Batch Renormalization: x̂·r + d is scaled and shifted (Ioffe 2017); float64, [C]. */
  readonly r: Float64Array | undefined;
  readonly d: Float64Array | undefined;
}

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
});

/** What calls need of masks; mask.ts and masked-sub-batches.ts implement it. */
export interface Masks {
  /** The weights of all positions of a batch, [N, …]. Throws for a wrong mask. */
  weightsOf(mask: Mask, shape: readonly number[], layout: Layout): Float64Array;
  /** Positions [from, to) of a batch whose samples have `inner` positions; undefined where the mask changes nothing there. */
  selectionOf(weights: Float64Array, from: number, to: number, inner: number): Selection | undefined;
  /** Batch statistics of what a mask leaves of a sub-batch. */
  maskedStatistics(
    call: CallScope,
    x: AnyTensor,
    place: Place,
    selection: Selection,
    epsilon: number,
    into: Statistics,
  ): void;
  /** dx of a sub-batch with a mask where it is wanted, and its sums of gradients where they are needed. */
  maskedGradient(
    call: CallScope,
    x: AnyTensor,
    dz: AnyTensor,
    n: SubBatchForward,
    wanted: Wanted,
    needed: boolean,
    into: GradientSums,
  ): void;
}

export const masks = /* @__PURE__ */ new Slot<Masks>();

/** What calls need where a scale or shift is given for every sample; per-sample.ts implements it. */
export interface PerSample {
  /** Scale and shift per sample, where one of them may be a vector for all. */
  conditionalOf(
    gamma: Vector | null,
    beta: Vector | null,
    perSample: Conditional["perSample"],
    samples: number,
  ): Conditional;
  /** Maps a sub-batch to y, sample by sample. */
  normalize(call: CallScope, x: AnyTensor, residual: AnyTensor | undefined, y: AnyTensor, n: SubBatchForward): void;
  /** dx of a sub-batch where it is wanted, and each sample's sums of gradients to `put` where they are needed. */
  differentiate(
    call: CallScope,
    x: AnyTensor,
    dz: AnyTensor,
    n: SubBatchForward,
    wanted: Wanted,
    needed: boolean,
    put: (gradient: GradientSums, sample: number) => void,
  ): void;
}

export const perSample = /* @__PURE__ */ new Slot<PerSample>();

/** How an error calls it. */
export const PER_SAMPLE = "gamma or beta of every sample";

/** A batch in sub-batches of `size` samples; `weights` are a mask's. */
export function subBatchesOf(
  geometry: Geometry,
  shape: readonly number[],
  layout: Layout,
  size: number | null,
  weights: Float64Array | undefined,
): SubBatch[] {
  const { channels, samples, length } = geometry;
  const step = Math.min(size ?? samples, samples);
  const inner = samples && length / channels / samples;
  const subBatches: SubBatch[] = [];
  for (let first = 0; first < samples || first === 0; first += step) {
    const n = Math.min(step, samples - first);
    const g = n === samples ? geometry : samplesOf(geometry, shape, layout, n);
    const selection = weights && masks.get("mask").selectionOf(weights, first * inner, (first + n) * inner, inner);
    const count = selection ? selection.count : g.count;
    subBatches.push({ geometry: g, shape, layout, offset: first * inner * channels, first, selection, count });
    if (step === 0) break;
  }
  return subBatches;
}

/** Throws where the statistics of a sub-batch would be of one value. */
export function checkEnough(subBatches: readonly SubBatch[], mode: string, shape: readonly number[]): void {
  for (const { geometry, first, selection } of subBatches) {
    if ((selection ? selection.positions : geometry.count) !== 1) continue;
    const own = shape.length === 1 ? shape : [geometry.samples, ...shape.slice(1)];
    const ghost = subBatches.length > 1 ? `, a ghost batch from sample ${first} on` : "";
    throw oneValuePerChannel(mode, own, ghost + (selection ? ", all but one masked" : ""));
  }
}

/** The geometry of some of a batch's samples. */
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
}

/**
 * Computes a sub-batch's y, if there is one. With `target`, its batch statistics come first, for a few channels at a time,
 * so that arrays pass through wasm memory once.
 */
export function forwardSubBatch(
  call: CallScope,
  x: AnyTensor,
  residual: AnyTensor | undefined,
  y: AnyTensor | undefined,
  subBatch: SubBatchForward,
  target?: StatisticsTarget,
): void {
  const { geometry, offset, terms, selection, conditional } = subBatch;
  if (target && selection) {
    masks.get("mask").maskedStatistics(call, x, subBatch, selection, target.epsilon, target.into);
    target = undefined;
  }
  const mapped = conditional ? undefined : y;
  if (target) {
    const { epsilon, into } = target;
    call.withOperands([x, mapped && residual, mapped], geometry, offset, (source, added, to) => {
      for (const tiles of source.independentTiles) {
        batchStatistics(source, epsilon, into, tiles);
        if (to) normalize(source, added, to, terms, tiles);
      }
    });
  } else if (mapped)
    call.withOperands([x, residual, mapped], geometry, offset, (source, added, to) =>
      normalize(source, added, to, terms),
    );
  if (conditional && y) perSample.get(PER_SAMPLE).normalize(call, x, residual, y, subBatch);
}

// ---- backward -------------------------------------------------------------------------------------------------------

/** Sums of gradients: [C], and [N, C] with conditional scale. */
export const zeros = (length: number): GradientSums => ({
  dGamma: new Float64Array(length),
  dBeta: new Float64Array(length),
});

export const add = (into: Float64Array, at: number, from: ArrayLike<number>, factor?: ArrayLike<number> | null) => {
  for (let c = 0; c < from.length; c++)
    into[at + c] = (into[at + c] as number) + (from[c] as number) * (factor ? (factor[c] as number) : 1);
};

/** Whether a sub-batch's backward takes dy as it is, with the activation's derivative on the way. */
export const fusesSubBatch = (
  operandDtype: string,
  residual: unknown,
  activation: Activation,
  s: SubBatchForward,
): boolean =>
  operandDtype !== "float64" && !s.conditional && !s.selection && s.total > 0 && fuses(residual, activation);

/** What the caller wants of a backward. */
export interface Wanted {
  readonly dx: AnyTensor | undefined;
  readonly sums: boolean;
  /** The activation's derivative is taken on the way. */
  readonly fused: boolean;
  /** The sub-batch is the only one, so that its sums need no adding up. */
  readonly alone: boolean;
  /** Sums of several calls together, where this is one of them: what dx takes instead of its own. */
  readonly joint: GradientSums | undefined;
}

/** dx of a sub-batch, and its sums of gradients added to `into`. */
export function backwardSubBatch(
  call: CallScope,
  x: AnyTensor,
  dz: AnyTensor,
  n: SubBatchForward,
  wanted: Wanted,
  into: GradientSums | undefined,
): void {
  const { geometry, terms, offset, conditional, total, r, d } = n;
  const { channels } = geometry;
  const needed = wanted.sums || (wanted.dx !== undefined && total > 0 && !wanted.joint);
  const put = (gradient: GradientSums, sample: number) => {
    if (!into) return;
    const at = conditional ? sample * channels : 0;
    add(into.dGamma, at, gradient.dGamma, r);
    if (d) add(into.dGamma, at, gradient.dBeta, d);
    add(into.dBeta, at, gradient.dBeta);
  };
  if (geometry.length === 0) return;
  if (n.empty) {
    if (wanted.dx) bitsOf(wanted.dx.data).fill(0, offset, offset + geometry.length);
    return;
  }
  if (conditional) {
    perSample.get(PER_SAMPLE).differentiate(call, x, dz, n, wanted, needed, put);
    return;
  }
  if (n.selection) {
    const sums = zeros(channels);
    masks.get("mask").maskedGradient(call, x, dz, n, wanted, needed, sums);
    if (needed) put(sums, 0);
    return;
  }
  const raw = wanted.alone && !r ? into : zeros(channels);
  const flow = { count: total, separate: false, fused: wanted.fused };
  const used = wanted.fused ? terms : plainTerms(terms);
  call.withOperands([x, dz, wanted.dx], geometry, offset, (a, b, dx) => {
    if (dx && needed && !wanted.joint) differentiate(a, b, dx, used, flow, raw);
    else {
      if (needed) gradientSums(a, b, used, wanted.fused, raw);
      if (dx) gradientMap(a, b, dx, used, wanted.joint ?? raw, flow);
    }
  });
  if (raw && raw !== into) put(raw, 0);
}

export const plainTerms = (t: Terms): Terms =>
  t.activation.code ? { ...t, activation: { ...t.activation, code: 0 } } : t;
