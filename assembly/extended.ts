// The ABI of the second module, over the same memory: activations and residuals fused into maps and sums, the maps of
// conditional and double backward, float64, and 16-bit storage. As in index.ts, no arithmetic.
//
//   <op><Activated?><Planar|Interleaved><F32|F64>(sources, destinations, activation, parameters, geometry, begin, end)
//   <widen|narrow><F16|BF16>(source, destination, begin, end)      between 16-bit storage and f32
//
// `activation` is 1 for Relu, 2 for Rectifier, 3 for Silu, and picks a type once per call:
//
//   affineActivated        1, 2, 3; with a residual also 0, none
//   derivativeActivated    1, 2, 3
//   gradientActivated      1, 2
//   …SumsActivated         1, 2
//
// Silu's derivative takes longer than dz's way to memory and back: derivativeActivated writes dz once, and the plain sums
// and gradients read it. `parameters` points at three T, slope, floor and ceiling, which Rectifier reads. `residual` 0
// stands for none. The sums of float64 take `scratch`, of whatever content: 4·channels or 4·columns of f64.

import {
  Affine,
  AffineSum,
  Combination,
  Derivative,
  DerivativeSum,
  Gradient,
  mapInterleaved,
  mapPlanar,
  ScaledGradient,
} from "./affine";
import {
  affineCoefficients,
  gradientCoefficients,
  gradientStatistics,
  pivotOf,
  spreadOver,
  statistics,
} from "./channel";
import { Brain, Half, narrow, widen } from "./convert";
import { Identity, Rectifier, Relu, Silu } from "./epilogue";
import {
  Exact,
  Fours,
  Gradients,
  Grouped,
  Moments,
  sumInterleaved,
  sumInterleavedExactly,
  sumPlanar,
  sumPlanarKept,
} from "./reduce";

const NONE: i32 = 0;
const RELU: i32 = 1;
const RECTIFIER: i32 = 2;

/** Map M with Relu, Rectifier or, for any other number, E. */
function activatePlanar<M extends Affine, E extends Identity>(
  activation: i32,
  x: usize,
  b: usize,
  c: usize,
  y: usize,
  k: usize,
  parameters: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  begin: usize,
  end: usize,
): void {
  if (activation == RELU) mapPlanar<f32, M, Relu>(x, b, c, y, k, parameters, outer, channels, inner, begin, end);
  else if (activation == RECTIFIER)
    mapPlanar<f32, M, Rectifier>(x, b, c, y, k, parameters, outer, channels, inner, begin, end);
  else mapPlanar<f32, M, E>(x, b, c, y, k, parameters, outer, channels, inner, begin, end);
}

function activateInterleaved<M extends Affine, E extends Identity>(
  activation: i32,
  x: usize,
  b: usize,
  c: usize,
  y: usize,
  k: usize,
  parameters: usize,
  columns: usize,
  together: usize,
  begin: usize,
  end: usize,
): void {
  if (activation == RELU) mapInterleaved<f32, M, Relu>(x, b, c, y, k, parameters, columns, together, begin, end);
  else if (activation == RECTIFIER)
    mapInterleaved<f32, M, Rectifier>(x, b, c, y, k, parameters, columns, together, begin, end);
  else mapInterleaved<f32, M, E>(x, b, c, y, k, parameters, columns, together, begin, end);
}

/**
 * y = f(z + residual), z = (x − hi)·scale + shift, in planes.
 * @param activation 1, 2 or 3; with a residual also 0: none.
 */
export function affineActivatedPlanarF32(
  x: usize,
  residual: usize,
  y: usize,
  coefficients: usize,
  activation: i32,
  parameters: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  begin: usize,
  end: usize,
): void {
  if (!residual)
    activatePlanar<Affine, Silu>(activation, x, 0, 0, y, coefficients, parameters, outer, channels, inner, begin, end);
  else if (activation == NONE)
    mapPlanar<f32, AffineSum, Identity>(x, residual, 0, y, coefficients, 0, outer, channels, inner, begin, end);
  else
    activatePlanar<AffineSum, Silu>(
      activation,
      x,
      residual,
      0,
      y,
      coefficients,
      parameters,
      outer,
      channels,
      inner,
      begin,
      end,
    );
}

/**
 * y = f(z + residual), z = (x − hi)·scale + shift, in rows.
 * @param activation 1, 2 or 3; with a residual also 0: none.
 */
export function affineActivatedInterleavedF32(
  x: usize,
  residual: usize,
  y: usize,
  coefficients: usize,
  activation: i32,
  parameters: usize,
  columns: usize,
  together: usize,
  begin: usize,
  end: usize,
): void {
  if (!residual)
    activateInterleaved<Affine, Silu>(activation, x, 0, 0, y, coefficients, parameters, columns, together, begin, end);
  else if (activation == NONE)
    mapInterleaved<f32, AffineSum, Identity>(x, residual, 0, y, coefficients, 0, columns, together, begin, end);
  else
    activateInterleaved<AffineSum, Silu>(
      activation,
      x,
      residual,
      0,
      y,
      coefficients,
      parameters,
      columns,
      together,
      begin,
      end,
    );
}

/**
 * dx = ((x − hi)·slope + (dz + shift))·scale, dz = dy·f′((x − hi)·scale + more), in planes.
 * @param activation 1 or 2.
 * @param coefficients As for `gradient…`, and `more`: the shift of `affine…`.
 */
export function gradientActivatedPlanarF32(
  x: usize,
  dy: usize,
  dx: usize,
  coefficients: usize,
  activation: i32,
  parameters: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  begin: usize,
  end: usize,
): void {
  activatePlanar<Gradient, Rectifier>(
    activation,
    x,
    dy,
    0,
    dx,
    coefficients,
    parameters,
    outer,
    channels,
    inner,
    begin,
    end,
  );
}

/**
 * dx = ((x − hi)·slope + (dz + shift))·scale, dz = dy·f′((x − hi)·scale + more), in rows.
 * @param activation 1 or 2.
 * @param coefficients As for `gradient…`, and `more`: the shift of `affine…`.
 */
export function gradientActivatedInterleavedF32(
  x: usize,
  dy: usize,
  dx: usize,
  coefficients: usize,
  activation: i32,
  parameters: usize,
  columns: usize,
  together: usize,
  begin: usize,
  end: usize,
): void {
  activateInterleaved<Gradient, Rectifier>(
    activation,
    x,
    dy,
    0,
    dx,
    coefficients,
    parameters,
    columns,
    together,
    begin,
    end,
  );
}

/** dz = dy·f′(z + residual), z = (x − hi)·scale + shift, in planes. */
export function derivativeActivatedPlanarF32(
  x: usize,
  dy: usize,
  residual: usize,
  dz: usize,
  coefficients: usize,
  activation: i32,
  parameters: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  begin: usize,
  end: usize,
): void {
  if (residual)
    activatePlanar<DerivativeSum, Silu>(
      activation,
      x,
      dy,
      residual,
      dz,
      coefficients,
      parameters,
      outer,
      channels,
      inner,
      begin,
      end,
    );
  else
    activatePlanar<Derivative, Silu>(
      activation,
      x,
      dy,
      0,
      dz,
      coefficients,
      parameters,
      outer,
      channels,
      inner,
      begin,
      end,
    );
}

/** dz = dy·f′(z + residual), z = (x − hi)·scale + shift, in rows. */
export function derivativeActivatedInterleavedF32(
  x: usize,
  dy: usize,
  residual: usize,
  dz: usize,
  coefficients: usize,
  activation: i32,
  parameters: usize,
  columns: usize,
  together: usize,
  begin: usize,
  end: usize,
): void {
  if (residual)
    activateInterleaved<DerivativeSum, Silu>(
      activation,
      x,
      dy,
      residual,
      dz,
      coefficients,
      parameters,
      columns,
      together,
      begin,
      end,
    );
  else
    activateInterleaved<Derivative, Silu>(
      activation,
      x,
      dy,
      0,
      dz,
      coefficients,
      parameters,
      columns,
      together,
      begin,
      end,
    );
}

/** dx = ((x − hi)·slope + (dy·more + shift))·scale, more being gamma where scale has another's, in planes. */
export function scaledGradientPlanarF32(
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
  mapPlanar<f32, ScaledGradient, Identity>(x, dy, 0, dx, coefficients, 0, outer, channels, inner, begin, end);
}

/** dx = ((x − hi)·slope + (dy·more + shift))·scale, more being gamma where scale has another's, in rows. */
export function scaledGradientInterleavedF32(
  x: usize,
  dy: usize,
  dx: usize,
  coefficients: usize,
  columns: usize,
  together: usize,
  begin: usize,
  end: usize,
): void {
  mapInterleaved<f32, ScaledGradient, Identity>(x, dy, 0, dx, coefficients, 0, columns, together, begin, end);
}

/** y = (x − hi)·scale + b·slope + c·more + shift, in planes. */
export function combinationPlanarF32(
  x: usize,
  b: usize,
  c: usize,
  y: usize,
  coefficients: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  begin: usize,
  end: usize,
): void {
  mapPlanar<f32, Combination, Identity>(x, b, c, y, coefficients, 0, outer, channels, inner, begin, end);
}

/** y = (x − hi)·scale + b·slope + c·more + shift, in rows. */
export function combinationInterleavedF32(
  x: usize,
  b: usize,
  c: usize,
  y: usize,
  coefficients: usize,
  columns: usize,
  together: usize,
  begin: usize,
  end: usize,
): void {
  mapInterleaved<f32, Combination, Identity>(x, b, c, y, coefficients, 0, columns, together, begin, end);
}

/** Sums in precision P with Relu or, for any other number, Rectifier. */
function sumActivatedPlanar<P extends Grouped>(
  activation: i32,
  x: usize,
  dy: usize,
  parameters: usize,
  pivot: usize,
  first: usize,
  second: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  begin: usize,
  end: usize,
): void {
  if (activation == RELU)
    sumPlanar<f32, Gradients, Relu, P>(x, dy, parameters, pivot, first, second, outer, channels, inner, begin, end);
  else
    sumPlanar<f32, Gradients, Rectifier, P>(
      x,
      dy,
      parameters,
      pivot,
      first,
      second,
      outer,
      channels,
      inner,
      begin,
      end,
    );
}

function sumActivatedExactly<P extends Grouped>(
  activation: i32,
  x: usize,
  dy: usize,
  parameters: usize,
  pivot: usize,
  first: usize,
  second: usize,
  columns: usize,
  length: usize,
  begin: usize,
  end: usize,
): void {
  if (activation == RELU)
    sumInterleavedExactly<f32, Gradients, Relu, P>(
      x,
      dy,
      parameters,
      pivot,
      first,
      second,
      columns,
      length,
      begin,
      end,
    );
  else
    sumInterleavedExactly<f32, Gradients, Rectifier, P>(
      x,
      dy,
      parameters,
      pivot,
      first,
      second,
      columns,
      length,
      begin,
      end,
    );
}

/**
 * Σ dz and Σ dz·d, dz = dy·f′(d·scale + shift), d = x − hi, in planes, in the precision of `gradientSums…`.
 * @param pivot Three rows of f32, each `[channels]` long, interleaved `[columns]`: the map's hi, scale and shift.
 * @param activation 1 or 2.
 */
export function gradientSumsActivatedPlanarF32(
  x: usize,
  dy: usize,
  pivot: usize,
  first: usize,
  second: usize,
  activation: i32,
  parameters: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  begin: usize,
  end: usize,
): void {
  sumActivatedPlanar<Grouped>(activation, x, dy, parameters, pivot, first, second, outer, channels, inner, begin, end);
}

/**
 * Σ dz and Σ dz·d, dz = dy·f′(d·scale + shift), d = x − hi, in rows, in the precision of `gradientSums…`.
 * @param pivot Three rows of f32, each `[channels]` long, interleaved `[columns]`: the map's hi, scale and shift.
 * @param activation 1 or 2.
 */
export function gradientSumsActivatedInterleavedF32(
  x: usize,
  dy: usize,
  pivot: usize,
  first: usize,
  second: usize,
  scratch: usize,
  activation: i32,
  parameters: usize,
  columns: usize,
  begin: usize,
  end: usize,
): void {
  if (activation == RELU)
    sumInterleaved<f32, Gradients, Relu>(x, dy, parameters, pivot, first, second, scratch, columns, begin, end);
  else sumInterleaved<f32, Gradients, Rectifier>(x, dy, parameters, pivot, first, second, scratch, columns, begin, end);
}

/**
 * Σ dz and Σ dz·d, dz = dy·f′(d·scale + shift), d = x − hi, in planes, in the precision of `foursGradientSums…`.
 * @param pivot Three rows of f32, each `[channels]` long, interleaved `[columns]`: the map's hi, scale and shift.
 * @param activation 1 or 2.
 */
export function foursGradientSumsActivatedPlanarF32(
  x: usize,
  dy: usize,
  pivot: usize,
  first: usize,
  second: usize,
  activation: i32,
  parameters: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  begin: usize,
  end: usize,
): void {
  sumActivatedPlanar<Fours>(activation, x, dy, parameters, pivot, first, second, outer, channels, inner, begin, end);
}

/**
 * Σ dz and Σ dz·d, dz = dy·f′(d·scale + shift), d = x − hi, in rows, in the precision of `foursGradientSums…`.
 * @param pivot Three rows of f32, each `[channels]` long, interleaved `[columns]`: the map's hi, scale and shift.
 * @param activation 1 or 2.
 */
export function foursGradientSumsActivatedInterleavedF32(
  x: usize,
  dy: usize,
  pivot: usize,
  first: usize,
  second: usize,
  activation: i32,
  parameters: usize,
  columns: usize,
  length: usize,
  begin: usize,
  end: usize,
): void {
  sumActivatedExactly<Fours>(activation, x, dy, parameters, pivot, first, second, columns, length, begin, end);
}

/**
 * Σ dz and Σ dz·d, dz = dy·f′(d·scale + shift), d = x − hi, in planes, every value in f64.
 * @param pivot Three rows of f32, each `[channels]` long, interleaved `[columns]`: the map's hi, scale and shift.
 * @param activation 1 or 2.
 */
export function exactGradientSumsActivatedPlanarF32(
  x: usize,
  dy: usize,
  pivot: usize,
  first: usize,
  second: usize,
  activation: i32,
  parameters: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  begin: usize,
  end: usize,
): void {
  sumActivatedPlanar<Exact>(activation, x, dy, parameters, pivot, first, second, outer, channels, inner, begin, end);
}

/**
 * Σ dz and Σ dz·d, dz = dy·f′(d·scale + shift), d = x − hi, in rows, every value in f64.
 * @param pivot Three rows of f32, each `[channels]` long, interleaved `[columns]`: the map's hi, scale and shift.
 * @param activation 1 or 2.
 */
export function exactGradientSumsActivatedInterleavedF32(
  x: usize,
  dy: usize,
  pivot: usize,
  first: usize,
  second: usize,
  activation: i32,
  parameters: usize,
  columns: usize,
  length: usize,
  begin: usize,
  end: usize,
): void {
  sumActivatedExactly<Exact>(activation, x, dy, parameters, pivot, first, second, columns, length, begin, end);
}

/** y = (x − hi)·scale + shift (F7), in planes. */
export function affinePlanarF64(
  x: usize,
  y: usize,
  coefficients: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  begin: usize,
  end: usize,
): void {
  mapPlanar<f64, Affine, Identity>(x, 0, 0, y, coefficients, 0, outer, channels, inner, begin, end);
}

/** y = (x − hi)·scale + shift (F7), in rows. */
export function affineInterleavedF64(
  x: usize,
  y: usize,
  coefficients: usize,
  columns: usize,
  together: usize,
  begin: usize,
  end: usize,
): void {
  mapInterleaved<f64, Affine, Identity>(x, 0, 0, y, coefficients, 0, columns, together, begin, end);
}

/** dx = ((x − hi)·slope + (dy + shift))·scale (B6), in planes. */
export function gradientPlanarF64(
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
  mapPlanar<f64, Gradient, Identity>(x, dy, 0, dx, coefficients, 0, outer, channels, inner, begin, end);
}

/** dx = ((x − hi)·slope + (dy + shift))·scale (B6), in rows. */
export function gradientInterleavedF64(
  x: usize,
  dy: usize,
  dx: usize,
  coefficients: usize,
  columns: usize,
  together: usize,
  begin: usize,
  end: usize,
): void {
  mapInterleaved<f64, Gradient, Identity>(x, dy, 0, dx, coefficients, 0, columns, together, begin, end);
}

/** dx = ((x − hi)·slope + (dy·more + shift))·scale, more being gamma where scale has another's, in planes. */
export function scaledGradientPlanarF64(
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
  mapPlanar<f64, ScaledGradient, Identity>(x, dy, 0, dx, coefficients, 0, outer, channels, inner, begin, end);
}

/** dx = ((x − hi)·slope + (dy·more + shift))·scale, more being gamma where scale has another's, in rows. */
export function scaledGradientInterleavedF64(
  x: usize,
  dy: usize,
  dx: usize,
  coefficients: usize,
  columns: usize,
  together: usize,
  begin: usize,
  end: usize,
): void {
  mapInterleaved<f64, ScaledGradient, Identity>(x, dy, 0, dx, coefficients, 0, columns, together, begin, end);
}

/** y = (x − hi)·scale + b·slope + c·more + shift, in planes. */
export function combinationPlanarF64(
  x: usize,
  b: usize,
  c: usize,
  y: usize,
  coefficients: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  begin: usize,
  end: usize,
): void {
  mapPlanar<f64, Combination, Identity>(x, b, c, y, coefficients, 0, outer, channels, inner, begin, end);
}

/** y = (x − hi)·scale + b·slope + c·more + shift, in rows. */
export function combinationInterleavedF64(
  x: usize,
  b: usize,
  c: usize,
  y: usize,
  coefficients: usize,
  columns: usize,
  together: usize,
  begin: usize,
  end: usize,
): void {
  mapInterleaved<f64, Combination, Identity>(x, b, c, y, coefficients, 0, columns, together, begin, end);
}

/** Σ d and Σ d², d = x − pivot (F1, F2), in planes, with what rounding takes from sums of sums. */
export function momentsPlanarF64(
  x: usize,
  pivot: usize,
  first: usize,
  second: usize,
  scratch: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  begin: usize,
  end: usize,
): void {
  sumPlanarKept<Moments>(x, 0, pivot, first, second, scratch, outer, channels, inner, begin, end);
}

/** Σ d and Σ d², d = x − pivot (F1, F2), in rows, with what rounding takes from sums of sums. */
export function momentsInterleavedF64(
  x: usize,
  pivot: usize,
  first: usize,
  second: usize,
  scratch: usize,
  columns: usize,
  begin: usize,
  end: usize,
): void {
  sumInterleaved<f64, Moments, Identity>(x, 0, 0, pivot, first, second, scratch, columns, begin, end);
}

/**
 * Σ dy and Σ dy·d, d = x − hi (B1, B2), in planes, with what rounding takes from sums of sums.
 * @param pivot `T[channels]`, interleaved `T[columns]`: hi, the mean as T.
 */
export function gradientSumsPlanarF64(
  x: usize,
  dy: usize,
  pivot: usize,
  first: usize,
  second: usize,
  scratch: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  begin: usize,
  end: usize,
): void {
  sumPlanarKept<Gradients>(x, dy, pivot, first, second, scratch, outer, channels, inner, begin, end);
}

/**
 * Σ dy and Σ dy·d, d = x − hi (B1, B2), in rows, with what rounding takes from sums of sums.
 * @param pivot `T[channels]`, interleaved `T[columns]`: hi, the mean as T.
 */
export function gradientSumsInterleavedF64(
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
  sumInterleaved<f64, Gradients, Identity>(x, dy, 0, pivot, first, second, scratch, columns, begin, end);
}

/**
 * pivot[c] = the mean of some of channel c's first values, coarsely rounded.
 * @param pivot `T[channels]`, written.
 * @param block 16.
 */
export function pivotF64(
  x: usize,
  pivot: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  block: usize,
  begin: usize,
  end: usize,
): void {
  pivotOf<f64>(x, pivot, outer, channels, inner, block, begin, end);
}

/**
 * Copies rows of one value per channel to rows of one value per column.
 * @param source `T[rows·channels]`, read.
 * @param target `T[rows·columns]`, written. Not `source`.
 */
export function spreadF64(
  source: usize,
  target: usize,
  rows: usize,
  channels: usize,
  spread: usize,
  columns: usize,
): void {
  spreadOver<f64>(source, target, rows, channels, spread, columns);
}

/**
 * mean = pivot + Σd/count and variance = Σd²/count − (Σd/count)² (F3, F4), and whether to doubt them.
 * @param first `f64[columns]`, read.
 * @param second `f64[columns]`, read.
 * @param columns Entries of first and second: channels·spread, or as many as the sums had columns, times their
 *   stripes.
 * @param pivot `T[channels]`, read.
 * @param doubtful `u8[channels]`, written: 1 where the pivot is too far from the mean.
 * @returns how many of the range are doubtful
 */
export function statisticsF64(
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
  return statistics<f64>(first, second, pivot, mean, variance, doubtful, count, channels, spread, columns, begin, end);
}

/**
 * hi = T(mean), scale = gamma·invStd, shift = beta − (mean − hi)·scale (F6): three rows of coefficients.
 * @param mean `f64[channels]`. 0: zeros, which gives dx = gamma·invStd·dy of constant statistics.
 * @param coefficients `T[3·channels]`, written.
 */
export function affineCoefficientsF64(
  coefficients: usize,
  mean: usize,
  invStd: usize,
  gamma: usize,
  beta: usize,
  channels: usize,
  begin: usize,
  end: usize,
): void {
  affineCoefficients<f64>(coefficients, mean, invStd, gamma, beta, channels, begin, end);
}

/**
 * dBeta = Σdy and dGamma = (Σdy·d − (mean − hi)·Σdy)·invStd (B1 to B3), and whether to doubt them.
 * @param first `f64[columns]`, read.
 * @param second `f64[columns]`, read.
 * @param columns Entries of first and second: channels·spread, or as many as the sums had columns, times their
 *   stripes.
 * @param doubtful `u8[channels]`, written: 0.
 * @returns 0
 */
export function gradientStatisticsF64(
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
  return gradientStatistics<f64>(
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
export function gradientCoefficientsF64(
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
  gradientCoefficients<f64>(coefficients, mean, invStd, gamma, dGamma, dBeta, count, channels, begin, end);
}

/**
 * float16 to f32, exactly.
 * @param source `u16[end]`, read.
 * @param target `f32[end]`, written. Not `source`.
 * @param begin First element.
 * @param end End of the elements.
 */
export function widenF16(source: usize, target: usize, begin: usize, end: usize): void {
  widen<Half>(source, target, begin, end);
}

/**
 * f32 to float16, to the nearest, ties to even.
 * @param source `f32[end]`, read.
 * @param target `u16[end]`, written. Not `source`.
 * @param begin First element.
 * @param end End of the elements.
 */
export function narrowF16(source: usize, target: usize, begin: usize, end: usize): void {
  narrow<Half>(source, target, begin, end);
}

/**
 * bfloat16 to f32, exactly.
 * @param source `u16[end]`, read.
 * @param target `f32[end]`, written. Not `source`.
 * @param begin First element.
 * @param end End of the elements.
 */
export function widenBF16(source: usize, target: usize, begin: usize, end: usize): void {
  widen<Brain>(source, target, begin, end);
}

/**
 * f32 to bfloat16, to the nearest, ties to even.
 * @param source `f32[end]`, read.
 * @param target `u16[end]`, written. Not `source`.
 * @param begin First element.
 * @param end End of the elements.
 */
export function narrowBF16(source: usize, target: usize, begin: usize, end: usize): void {
  narrow<Brain>(source, target, begin, end);
}
