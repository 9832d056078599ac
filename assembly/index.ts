// The ABI of the core: every exported specialisation, one line each, no arithmetic.
//
//   <op><Planar|Interleaved>F32(sources, destinations, geometry, begin, end)
//   <op><F32|F64>(…)      on vectors of length C, or on what maps and sums need of them
//
// All pointers and sizes are bytes and elements of the caller's memory. A kernel keeps no state, allocates nothing and checks
// nothing: the caller has.
//
//   planar        the tensor is [outer, channels, inner]; [begin, end) are channels
//   interleaved   the tensor is rows of `columns`; [begin, end) are elements, begin the start of a row. In the exact sums
//                 and in what works on channels, [begin, end) are columns and channels
//
// What plain batch normalization does not need is in extended.ts, a module of its own, so that pages load this one alone.

import { Affine, Gradient, mapInterleaved, mapPlanar } from "./affine";
import {
  affineCoefficients,
  gradientCoefficients,
  gradientStatistics,
  inverse,
  pivotOf,
  spreadOver,
  statistics,
} from "./channel";
import { Identity } from "./epilogue";
import { Exact, Fours, Gradients, Grouped, Moments, sumInterleaved, sumInterleavedExactly, sumPlanar } from "./reduce";

/** docs/abi.md says what a new number means. */
const VERSION: u32 = 1;

/**
 * The version of this ABI.
 * @returns 1
 */
export function version(): u32 {
  return VERSION;
}

/** y = (x − hi)·scale + shift (F7), in planes. */
export function affinePlanarF32(
  x: usize,
  y: usize,
  coefficients: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  begin: usize,
  end: usize,
): void {
  mapPlanar<f32, Affine, Identity>(x, 0, 0, y, coefficients, 0, outer, channels, inner, begin, end);
}

/** y = (x − hi)·scale + shift (F7), in rows. */
export function affineInterleavedF32(
  x: usize,
  y: usize,
  coefficients: usize,
  columns: usize,
  together: usize,
  begin: usize,
  end: usize,
): void {
  mapInterleaved<f32, Affine, Identity>(x, 0, 0, y, coefficients, 0, columns, together, begin, end);
}

/** dx = ((x − hi)·slope + (dy + shift))·scale (B6), in planes. */
export function gradientPlanarF32(
  x: usize,
  dy: usize,
  dx: usize,
  coefficients: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  begin: usize,
  end: usize,
): void {
  mapPlanar<f32, Gradient, Identity>(x, dy, 0, dx, coefficients, 0, outer, channels, inner, begin, end);
}

/** dx = ((x − hi)·slope + (dy + shift))·scale (B6), in rows. */
export function gradientInterleavedF32(
  x: usize,
  dy: usize,
  dx: usize,
  coefficients: usize,
  columns: usize,
  together: usize,
  begin: usize,
  end: usize,
): void {
  mapInterleaved<f32, Gradient, Identity>(x, dy, 0, dx, coefficients, 0, columns, together, begin, end);
}

/**
 * Σ d and Σ d², d = x − pivot (F1, F2), in planes: up to 64 values of a plane are summed in f32, those sums in f64.
 * For 1024 values per channel and more.
 */
export function momentsPlanarF32(
  x: usize,
  pivot: usize,
  first: usize,
  second: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  begin: usize,
  end: usize,
): void {
  sumPlanar<f32, Moments, Identity, Grouped>(x, 0, 0, pivot, first, second, outer, channels, inner, begin, end);
}

/**
 * Σ d and Σ d², d = x − pivot (F1, F2), in planes, every value in f64. For fewer values, and for channels that are
 * doubtful.
 */
export function exactMomentsPlanarF32(
  x: usize,
  pivot: usize,
  first: usize,
  second: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  begin: usize,
  end: usize,
): void {
  sumPlanar<f32, Moments, Identity, Exact>(x, 0, 0, pivot, first, second, outer, channels, inner, begin, end);
}

/**
 * Σ d and Σ d², d = x − pivot (F1, F2), in planes: four vectors of a plane are summed in f32, those sums in f64. For
 * 512 values per channel and more.
 */
export function foursMomentsPlanarF32(
  x: usize,
  pivot: usize,
  first: usize,
  second: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  begin: usize,
  end: usize,
): void {
  sumPlanar<f32, Moments, Identity, Fours>(x, 0, 0, pivot, first, second, outer, channels, inner, begin, end);
}

/**
 * Σ d and Σ d², d = x − pivot (F1, F2), in rows: 16 rows are summed in f32, those sums in f64. For 1024 values per
 * channel and more.
 */
export function momentsInterleavedF32(
  x: usize,
  pivot: usize,
  first: usize,
  second: usize,
  scratch: usize,
  columns: usize,
  begin: usize,
  end: usize,
): void {
  sumInterleaved<f32, Moments, Identity>(x, 0, 0, pivot, first, second, scratch, columns, begin, end);
}

/**
 * Σ d and Σ d², d = x − pivot (F1, F2), in rows, every value in f64. For fewer values, and for channels that are
 * doubtful.
 */
export function exactMomentsInterleavedF32(
  x: usize,
  pivot: usize,
  first: usize,
  second: usize,
  columns: usize,
  length: usize,
  begin: usize,
  end: usize,
): void {
  sumInterleavedExactly<f32, Moments, Identity, Exact>(x, 0, 0, pivot, first, second, columns, length, begin, end);
}

/**
 * Σ d and Σ d², d = x − pivot (F1, F2), in rows: four values of a column are summed in f32, those sums in f64. For
 * 128 values per channel and more.
 */
export function foursMomentsInterleavedF32(
  x: usize,
  pivot: usize,
  first: usize,
  second: usize,
  columns: usize,
  length: usize,
  begin: usize,
  end: usize,
): void {
  sumInterleavedExactly<f32, Moments, Identity, Fours>(x, 0, 0, pivot, first, second, columns, length, begin, end);
}

/**
 * Σ dy and Σ dy·d, d = x − hi (B1, B2), in planes: up to 64 values of a plane are summed in f32, those sums in f64.
 * For 1024 values per channel and more.
 * @param pivot `T[channels]`, interleaved `T[columns]`: hi, the mean as T.
 */
export function gradientSumsPlanarF32(
  x: usize,
  dy: usize,
  pivot: usize,
  first: usize,
  second: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  begin: usize,
  end: usize,
): void {
  sumPlanar<f32, Gradients, Identity, Grouped>(x, dy, 0, pivot, first, second, outer, channels, inner, begin, end);
}

/**
 * Σ dy and Σ dy·d, d = x − hi (B1, B2), in planes, every value in f64. For fewer values, and for channels that are
 * doubtful.
 * @param pivot `T[channels]`, interleaved `T[columns]`: hi, the mean as T.
 */
export function exactGradientSumsPlanarF32(
  x: usize,
  dy: usize,
  pivot: usize,
  first: usize,
  second: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  begin: usize,
  end: usize,
): void {
  sumPlanar<f32, Gradients, Identity, Exact>(x, dy, 0, pivot, first, second, outer, channels, inner, begin, end);
}

/**
 * Σ dy and Σ dy·d, d = x − hi (B1, B2), in planes: four vectors of a plane are summed in f32, those sums in f64. For
 * 512 values per channel and more.
 * @param pivot `T[channels]`, interleaved `T[columns]`: hi, the mean as T.
 */
export function foursGradientSumsPlanarF32(
  x: usize,
  dy: usize,
  pivot: usize,
  first: usize,
  second: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  begin: usize,
  end: usize,
): void {
  sumPlanar<f32, Gradients, Identity, Fours>(x, dy, 0, pivot, first, second, outer, channels, inner, begin, end);
}

/**
 * Σ dy and Σ dy·d, d = x − hi (B1, B2), in rows: 16 rows are summed in f32, those sums in f64. For 1024 values per
 * channel and more.
 * @param pivot `T[channels]`, interleaved `T[columns]`: hi, the mean as T.
 */
export function gradientSumsInterleavedF32(
  x: usize,
  dy: usize,
  pivot: usize,
  first: usize,
  second: usize,
  scratch: usize,
  columns: usize,
  begin: usize,
  end: usize,
): void {
  sumInterleaved<f32, Gradients, Identity>(x, dy, 0, pivot, first, second, scratch, columns, begin, end);
}

/**
 * Σ dy and Σ dy·d, d = x − hi (B1, B2), in rows, every value in f64. For fewer values, and for channels that are
 * doubtful.
 * @param pivot `T[channels]`, interleaved `T[columns]`: hi, the mean as T.
 */
export function exactGradientSumsInterleavedF32(
  x: usize,
  dy: usize,
  pivot: usize,
  first: usize,
  second: usize,
  columns: usize,
  length: usize,
  begin: usize,
  end: usize,
): void {
  sumInterleavedExactly<f32, Gradients, Identity, Exact>(x, dy, 0, pivot, first, second, columns, length, begin, end);
}

/**
 * Σ dy and Σ dy·d, d = x − hi (B1, B2), in rows: four values of a column are summed in f32, those sums in f64. For
 * 128 values per channel and more.
 * @param pivot `T[channels]`, interleaved `T[columns]`: hi, the mean as T.
 */
export function foursGradientSumsInterleavedF32(
  x: usize,
  dy: usize,
  pivot: usize,
  first: usize,
  second: usize,
  columns: usize,
  length: usize,
  begin: usize,
  end: usize,
): void {
  sumInterleavedExactly<f32, Gradients, Identity, Fours>(x, dy, 0, pivot, first, second, columns, length, begin, end);
}

/**
 * pivot[c] = the mean of some of channel c's first values, coarsely rounded.
 * @param pivot `T[channels]`, written.
 * @param block 16 before grouped sums and sums of fours; 1 before exact ones.
 */
export function pivotF32(
  x: usize,
  pivot: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  block: usize,
  begin: usize,
  end: usize,
): void {
  pivotOf<f32>(x, pivot, outer, channels, inner, block, begin, end);
}

/**
 * Copies rows of one value per channel to rows of one value per column.
 * @param source `T[rows·channels]`, read.
 * @param target `T[rows·columns]`, written. Not `source`.
 */
export function spreadF32(
  source: usize,
  target: usize,
  rows: usize,
  channels: usize,
  spread: usize,
  columns: usize,
): void {
  spreadOver<f32>(source, target, rows, channels, spread, columns);
}

/**
 * mean = pivot + Σd/count and variance = Σd²/count − (Σd/count)² (F3, F4), and whether to doubt them.
 * @param first `f64[columns]`, read.
 * @param second `f64[columns]`, read.
 * @param columns Entries of first and second: channels·spread, or as many as the sums had columns, times their
 *   stripes.
 * @param pivot `T[channels]`, read.
 * @returns how many of the range are doubtful
 */
export function statisticsF32(
  first: usize,
  second: usize,
  pivot: usize,
  mean: usize,
  variance: usize,
  doubtful: usize,
  count: f64,
  channels: usize,
  spread: usize,
  columns: usize,
  begin: usize,
  end: usize,
): usize {
  return statistics<f32>(first, second, pivot, mean, variance, doubtful, count, channels, spread, columns, begin, end);
}

/** invStd = 1/√(variance + epsilon), and 0 where both are 0 (F5). */
export function invStdF64(variance: usize, invStd: usize, epsilon: f64, begin: usize, end: usize): void {
  inverse(variance, invStd, epsilon, begin, end);
}

/**
 * hi = T(mean), scale = gamma·invStd, shift = beta − (mean − hi)·scale (F6): three rows of coefficients.
 * @param mean `f64[channels]`. 0: zeros, which gives dx = gamma·invStd·dy of constant statistics.
 * @param coefficients `T[3·channels]`, written.
 */
export function affineCoefficientsF32(
  coefficients: usize,
  mean: usize,
  invStd: usize,
  gamma: usize,
  beta: usize,
  channels: usize,
  begin: usize,
  end: usize,
): void {
  affineCoefficients<f32>(coefficients, mean, invStd, gamma, beta, channels, begin, end);
}

/**
 * dBeta = Σdy and dGamma = (Σdy·d − (mean − hi)·Σdy)·invStd (B1 to B3), and whether to doubt them.
 * @param first `f64[columns]`, read.
 * @param second `f64[columns]`, read.
 * @param columns Entries of first and second: channels·spread, or as many as the sums had columns, times their
 *   stripes.
 * @returns how many of the range are doubtful
 */
export function gradientStatisticsF32(
  first: usize,
  second: usize,
  mean: usize,
  invStd: usize,
  dGamma: usize,
  dBeta: usize,
  doubtful: usize,
  count: f64,
  channels: usize,
  spread: usize,
  columns: usize,
  begin: usize,
  end: usize,
): usize {
  return gradientStatistics<f32>(
    first,
    second,
    mean,
    invStd,
    dGamma,
    dBeta,
    doubtful,
    count,
    channels,
    spread,
    columns,
    begin,
    end,
  );
}

/**
 * hi = T(mean), scale = gamma·invStd, shift and slope (B4, B5): four rows of coefficients.
 * @param mean `f64[channels]`. 0: zeros.
 * @param coefficients `T[4·channels]`, written.
 */
export function gradientCoefficientsF32(
  coefficients: usize,
  mean: usize,
  invStd: usize,
  gamma: usize,
  dGamma: usize,
  dBeta: usize,
  count: f64,
  channels: usize,
  begin: usize,
  end: usize,
): void {
  gradientCoefficients<f32>(coefficients, mean, invStd, gamma, dGamma, dBeta, count, channels, begin, end);
}
