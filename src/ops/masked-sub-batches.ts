// Statistics and gradients of sub-batches with a mask, computed on the packed positions (mask.ts).

import type { CallScope } from "../memory/operand.ts";
import type { AnyTensor } from "../memory/tensor.ts";
import type { Vector } from "../tensor/dtype.ts";
import { PackedPositions, type Place, type Selection } from "./mask.ts";
import {
  batchStatistics,
  emptyGradientSums,
  type GradientSums,
  gradientMap,
  gradientSums,
  invStdOf,
  type Statistics,
  type Terms,
} from "./primitives.ts";
import { addTo, type BackwardRequest, type SubBatchForward, withoutActivation } from "./sub-batches.ts";

/** Σ w·(x − pivot) and Σ w·(x − pivot)² of a packed batch, in which w is a position's share of all weights. */
function weightedSums(
  { operand, tensor }: PackedPositions,
  shares: Float64Array,
  pivot: Float64Array,
): [Float64Array, Float64Array] {
  const { outer, channels, inner } = operand.geometry;
  const { data } = tensor;
  const [sums, squares] = [new Float64Array(channels), new Float64Array(channels)];
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
      sums[c] = (sums[c] as number) + sum;
      squares[c] = (squares[c] as number) + square;
    }
  return [sums, squares];
}

/**
 * Computes the weighted mean and variance of a packed batch in plain loops, since weights but 0 and 1 have no kernels.
 */
function weightedStatistics(
  x: PackedPositions,
  weights: Float64Array,
  count: number,
  { mean, variance }: Statistics,
): void {
  const shares = weights.map((w) => w / count);
  const { inner } = x.operand.geometry;
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

/** Computes the batch statistics of what a mask selects of a sub-batch; zeros if it selects nothing. */
export function maskedStatistics(
  call: CallScope,
  x: AnyTensor,
  place: Place,
  { selected, wholeSamples, weights, count }: Selection,
  epsilon: number,
  into: Statistics,
): void {
  if (count === 0) {
    for (const vector of [into.mean, into.variance, into.invStd]) vector.fill(0);
    return;
  }
  const packed = new PackedPositions(call.heap, call.value(x), place, selected, wholeSamples, call.dtype);
  try {
    if (weights) {
      weightedStatistics(packed, weights, count, into);
      invStdOf(into.variance, epsilon, into.invStd);
    } else batchStatistics(packed.operand, epsilon, into);
  } finally {
    packed.dispose();
  }
}

/**
 * Computes dx of a masked sub-batch if it is wanted, and adds its sums of gradients to `into` if they are needed. The
 * sums are over selected positions and over masked ones, whose y depends on the statistics, too. Masked positions have
 * no part in the statistics: their dx is gamma·invStd·dz.
 */
export function maskedGradient(
  call: CallScope,
  x: AnyTensor,
  dz: AnyTensor,
  subBatch: SubBatchForward,
  { dx, joint }: BackwardRequest,
  needed: boolean,
  into: GradientSums,
): void {
  const { selected, masked, wholeSamples } = subBatch.selection as Selection;
  const terms = withoutActivation(subBatch.terms);
  const allPacked: PackedPositions[] = [];
  const pack = (value: AnyTensor, runs: Selection["selected"]) => {
    const packed = new PackedPositions(call.heap, call.value(value), subBatch, runs, wholeSamples, call.dtype);
    allPacked.push(packed);
    return packed;
  };
  try {
    const [xSelected, dzSelected, dzMasked] = [pack(x, selected), pack(dz, selected), pack(dz, masked)];
    if (needed) {
      addPackedSums(xSelected, dzSelected, terms, into);
      // often no gradient reaches a masked position, and packing x there can be saved
      if (!allZero(dzMasked.tensor.data)) {
        const [xFinite, dzFinite] = [pack(x, masked), pack(dz, masked)];
        zeroNonFinite(xFinite.tensor.data, dzFinite.tensor.data);
        addPackedSums(xFinite, dzFinite, terms, into);
      }
    }
    if (!dx) return;
    packedGradientMap(xSelected, dzSelected, subBatch, terms, joint ?? into);
    dzSelected.scatter(dx);
    const constants = { count: 0, gammaVaries: false, fused: false };
    gradientMap(dzMasked.operand, dzMasked.operand, dzMasked.operand, terms, joint ?? into, constants);
    dzMasked.scatter(dx);
  } finally {
    for (const packed of allPacked) packed.dispose();
  }
}

function addPackedSums(x: PackedPositions, dz: PackedPositions, terms: Terms, into: GradientSums): void {
  const sums = emptyGradientSums(into.dBeta.length);
  gradientSums(x.operand, dz.operand, terms, false, sums);
  addTo(into.dGamma, 0, sums.dGamma);
  addTo(into.dBeta, 0, sums.dBeta);
}

/** Replaces dz of selected positions by dx. */
function packedGradientMap(
  x: PackedPositions,
  dz: PackedPositions,
  subBatch: SubBatchForward,
  terms: Terms,
  sums: GradientSums,
): void {
  const { weights } = subBatch.selection as Selection;
  const weighted = weights !== undefined && subBatch.total > 0;
  const count = weighted ? 0 : subBatch.total;
  gradientMap(x.operand, dz.operand, dz.operand, terms, sums, { count, gammaVaries: false, fused: false });
  if (weighted) subtractWeightedTerm(x, dz, weights, subBatch, sums);
}

function allZero(values: Vector): boolean {
  for (let i = 0; i < values.length; i++) if (values[i] !== 0) return false;
  return true;
}

/** Replaces a position by 0 in both x and dz if it is not finite in either: a masked NaN must not reach the sums. */
function zeroNonFinite(x: Vector, dz: Vector): void {
  for (let i = 0; i < x.length; i++)
    if (!Number.isFinite(x[i]) || !Number.isFinite(dz[i])) {
      x[i] = 0;
      dz[i] = 0;
    }
}

/**
 * Subtracts what the statistics contribute to dx if positions have weights: gamma·invStd·w·(dBeta + x̂·dGamma)/count.
 */
function subtractWeightedTerm(
  x: PackedPositions,
  dx: PackedPositions,
  weights: Float64Array,
  { terms, total }: SubBatchForward,
  sums: GradientSums,
): void {
  const { outer, channels, inner } = x.operand.geometry;
  const [values, data] = [x.tensor.data, dx.tensor.data];
  let i = 0;
  for (let o = 0; o < outer; o++)
    for (let c = 0; c < channels; c++) {
      const mean = terms.mean[c] as number;
      const invStd = terms.invStd[c] as number;
      const scale = (terms.gamma ? (terms.gamma[c] as number) : 1) * invStd;
      const shift = (sums.dBeta[c] as number) / total;
      const xCoefficient = ((sums.dGamma[c] as number) / total) * invStd;
      for (let k = o * inner; k < (o + 1) * inner; k++, i++) {
        const term = shift + ((values[i] as number) - mean) * xCoefficient;
        data[i] = (data[i] as number) - (weights[k] as number) * term * scale;
      }
    }
}
