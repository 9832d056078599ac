// Statistics and gradients of sub-batches with a mask: those of the packed batch (mask.ts).

import type { CallScope } from "../memory/operand.ts";
import type { AnyTensor } from "../memory/tensor.ts";
import type { Vector } from "../tensor/dtype.ts";
import { PackedPositions, type Place, type Selection } from "./mask.ts";
import {
  batchStatistics,
  type GradientSums,
  gradientMap,
  gradientSums,
  invStdOf,
  type Statistics,
} from "./primitives.ts";
import { add, plainTerms, type SubBatchForward, type Wanted, zeros } from "./sub-batches.ts";

/** Σ w·(x − pivot) and Σ w·(x − pivot)² of a packed batch, w being a position's share of all weights. */
function weightedSums(
  { operand, tensor }: PackedPositions,
  shares: Float64Array,
  pivot: Float64Array,
): [Float64Array, Float64Array] {
  const { outer, channels, inner } = operand.g;
  const { data } = tensor;
  const [first, second] = [new Float64Array(channels), new Float64Array(channels)];
  let i = 0;
  for (let o = 0; o < outer; o++)
    for (let c = 0; c < channels; c++) {
      const p = pivot[c] as number;
      let [sum, square] = [0, 0];
      for (let k = o * inner; k < (o + 1) * inner; k++) {
        const d = (data[i++] as number) - p;
        const term = (shares[k] as number) * d;
        sum += term;
        square += term * d;
      }
      first[c] = (first[c] as number) + sum;
      second[c] = (second[c] as number) + square;
    }
  return [first, second];
}

/** Weighted mean and variance of a packed batch, in plain loops: weights other than 0 and 1 have no kernels. */
function weightedStatistics(
  x: PackedPositions,
  weights: Float64Array,
  count: number,
  { mean, variance }: Statistics,
): void {
  const shares = weights.map((w) => w / count);
  const { inner } = x.operand.g;
  for (let c = 0; c < mean.length; c++) mean[c] = x.tensor.data[c * inner] as number;
  const [rough] = weightedSums(x, shares, mean);
  for (let c = 0; c < mean.length; c++) mean[c] = (mean[c] as number) + (rough[c] as number);
  // about the mean nothing cancels
  const [residue, square] = weightedSums(x, shares, mean);
  for (let c = 0; c < mean.length; c++) {
    const off = residue[c] as number;
    mean[c] = (mean[c] as number) + off;
    variance[c] = Math.max((square[c] as number) - off * off, 0);
  }
}

/** Batch statistics of a sub-batch with a mask; zeros where all is masked. */
export function maskedStatistics(
  call: CallScope,
  x: AnyTensor,
  place: Place,
  { kept, whole, weights, count }: Selection,
  epsilon: number,
  into: Statistics,
): void {
  if (count === 0) {
    for (const vector of [into.mean, into.variance, into.invStd]) vector.fill(0);
    return;
  }
  const packed = new PackedPositions(call.heap, call.value(x), place, kept, whole, call.dtype);
  try {
    if (weights) {
      weightedStatistics(packed, weights, count, into);
      invStdOf(into.variance, epsilon, into.invStd);
    } else for (const tiles of packed.operand.independentTiles) batchStatistics(packed.operand, epsilon, into, tiles);
  } finally {
    packed.dispose();
  }
}

/**
 * A masked sub-batch: `into` gets the sums over what is kept and over masked positions whose y depends on the statistics, if
 * `needed`. Masked positions have no part in the statistics: their dx is gamma·invStd·dz.
 */
export function maskedGradient(
  call: CallScope,
  x: AnyTensor,
  dz: AnyTensor,
  n: SubBatchForward,
  wanted: Wanted,
  needed: boolean,
  into: GradientSums,
): void {
  const { kept, dropped, whole, weights } = n.selection as Selection;
  const terms = plainTerms(n.terms);
  const made: PackedPositions[] = [];
  const take = (value: AnyTensor, runs: Selection["kept"]) => {
    const packed = new PackedPositions(call.heap, call.value(value), n, runs, whole, call.dtype);
    made.push(packed);
    return packed;
  };
  const sum = (a: PackedPositions, b: PackedPositions) => {
    const some = zeros(into.dBeta.length);
    gradientSums(a.operand, b.operand, terms, false, some);
    add(into.dGamma, 0, some.dGamma);
    add(into.dBeta, 0, some.dBeta);
  };
  const map = (a: PackedPositions, b: PackedPositions, count: number) =>
    gradientMap(a.operand, b.operand, b.operand, terms, wanted.joint ?? into, { count, separate: false, fused: false });
  try {
    const [xKept, dzKept] = [take(x, kept), take(dz, kept)];
    const dzDropped = take(dz, dropped);
    if (needed) {
      sum(xKept, dzKept);
      // often there is no gradient at all
      if (!allZero(dzDropped.tensor.data)) {
        const [xClean, dzClean] = [take(x, dropped), take(dz, dropped)];
        scrub(xClean.tensor.data, dzClean.tensor.data);
        sum(xClean, dzClean);
      }
    }
    if (!wanted.dx) return;
    const weighted = weights && n.total > 0;
    map(xKept, dzKept, weighted ? 0 : n.total);
    if (weighted) weightedTerm(xKept, dzKept, weights, n, wanted.joint ?? into);
    dzKept.scatter(wanted.dx);
    map(dzDropped, dzDropped, 0);
    dzDropped.scatter(wanted.dx);
  } finally {
    for (const packed of made) packed.dispose();
  }
}

function allZero(values: Vector): boolean {
  for (let i = 0; i < values.length; i++) if (values[i] !== 0) return false;
  return true;
}

/** Zeros, in both x and dz, what is not finite in either. */
function scrub(x: Vector, dz: Vector): void {
  for (let i = 0; i < x.length; i++)
    if (!Number.isFinite(x[i]) || !Number.isFinite(dz[i])) {
      x[i] = 0;
      dz[i] = 0;
    }
}

/** The statistics' part of dx where positions have weights: −gamma·invStd·w·(dBeta + x̂·dGamma)/count. */
function weightedTerm(
  x: PackedPositions,
  dx: PackedPositions,
  weights: Float64Array,
  n: SubBatchForward,
  sums: GradientSums,
): void {
  const { outer, channels, inner } = x.operand.g;
  const [values, data] = [x.tensor.data, dx.tensor.data];
  let i = 0;
  for (let o = 0; o < outer; o++)
    for (let c = 0; c < channels; c++) {
      const mean = n.terms.mean[c] as number;
      const invStd = n.terms.invStd[c] as number;
      const scale = (n.terms.gamma ? (n.terms.gamma[c] as number) : 1) * invStd;
      const shift = (sums.dBeta[c] as number) / n.total;
      const slope = ((sums.dGamma[c] as number) / n.total) * invStd;
      for (let k = o * inner; k < (o + 1) * inner; k++, i++) {
        const term = shift + ((values[i] as number) - mean) * slope;
        data[i] = (data[i] as number) - (weights[k] as number) * term * scale;
      }
    }
}
