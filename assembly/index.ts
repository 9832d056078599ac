// The ABI: every exported specialisation, one line each, no arithmetic.
//
//   <op><Planar|Interleaved>F32(sources, destinations, geometry, begin, end)
//   <op><F32|F64>(…)      on vectors of length C, or on what maps and sums need of them
//
// All pointers and sizes are bytes and elements of the caller's memory. Vectors (x, y, dy, dx) want the alignment of
// their elements and are fastest at 64; f64 arrays want 8. A kernel keeps no state, allocates nothing and checks nothing:
// src/ has checked.
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

export function version(): u32 {
  return VERSION;
}

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

export function invStdF64(variance: usize, invStd: usize, epsilon: f64, begin: usize, end: usize): void {
  inverse(variance, invStd, epsilon, begin, end);
}

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
