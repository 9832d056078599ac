// Arithmetic on vectors as long as there are channels, in f64: what turns sums into statistics and statistics into the
// coefficients of the maps. Everything here costs C operations where a tensor costs C·count.
//
// In the interleaved walk a channel owns `spread` neighbouring columns, and the pattern of channels·spread columns may
// repeat until a row is long enough for SIMD:
//
//   columns   c0 c0 c0 c1 c1 c1 c2 c2 c2 | c0 c0 c0 c1 …        channels = 3, spread = 3
//
// In the planar walk, columns = channels and spread = 1.

import { Lanes } from "./lanes";

/**
 * Where a grouped sum cannot be trusted, so that the channel is summed again exactly. Squares below 2^-126 lose bits in
 * f32 and products above 2^128 overflow; the bounds leave room for both. NaN is never inside bounds.
 */
const SMALLEST_VARIANCE: f64 = 7.52316384526264e-37; // 2^-120
const LARGEST_VARIANCE: f64 = 1.329227995784916e36; // 2^120
const SMALLEST_PRODUCT: f64 = 8.077935669463161e-28; // 2^-90
const SMALLEST_INV_STD: f64 = 8.673617379884035e-19; // 2^-60
const LARGEST_INV_STD: f64 = 1048576; // 2^20

/** Sums over the columns of one channel. */
function merge(sums: usize, channel: usize, channels: usize, spread: usize, columns: usize): f64 {
  let sum: f64 = 0;
  for (let start = channel * spread; start < columns; start += channels * spread)
    for (let column = start; column < start + spread; ++column) sum += load<f64>(sums + Lanes.bytes<f64>(column));
  return sum;
}

/**
 * Rounds a pivot to a few bits below the leading bit of `spread`. With all of its 24 bits it would be cut off in the same
 * way in x − pivot for all x of a binade, and the variance would be off by 0.13 u however many values there are.
 */
function coarse(mean: f64, spread: f64): f64 {
  const leadingBit = reinterpret<f64>(reinterpret<u64>(spread) & 0x7ff0000000000000);
  const step = leadingBit / 32;
  return step > 0 && step < Infinity ? nearest<f64>(mean / step) * step : mean;
}

/** pivot[c] = the mean of the channel's first values, at most `block`, coarsely rounded, for c in [begin, end). */
export function pivotOf<T>(
  x: usize,
  pivot: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  block: usize,
  begin: usize,
  end: usize,
): void {
  const run = min(inner, block);
  const planes = min(outer, block / run);
  const plane = Lanes.bytes<T>(channels * inner);
  for (let channel = begin; channel < end; ++channel) {
    const first = x + Lanes.bytes<T>(channel * inner);
    let sum: f64 = 0;
    for (let n: usize = 0; n < planes; ++n)
      for (let i: usize = 0; i < run; ++i) sum += <f64>load<T>(first + n * plane + Lanes.bytes<T>(i));
    const mean = sum / <f64>(planes * run);
    let spread: f64 = 0;
    for (let n: usize = 0; n < planes; ++n)
      for (let i: usize = 0; i < run; ++i)
        spread = max<f64>(spread, abs(<f64>load<T>(first + n * plane + Lanes.bytes<T>(i)) - mean));
    store<T>(pivot + Lanes.bytes<T>(channel), <T>coarse(mean, spread));
  }
}

/** Copies each of `rows` rows of `channels` values to a row of `columns` values, every column its channel's value. */
export function spreadOver<T>(
  source: usize,
  target: usize,
  rows: usize,
  channels: usize,
  spread: usize,
  columns: usize,
): void {
  for (let r: usize = 0; r < rows; ++r) {
    let column: usize = 0;
    while (column < columns)
      for (let channel: usize = 0; channel < channels; ++channel) {
        const value = load<T>(source + Lanes.bytes<T>(r * channels + channel));
        for (let i: usize = 0; i < spread; ++i) store<T>(target + Lanes.bytes<T>(r * columns + column++), value);
      }
  }
}

/**
 * mean and biased variance of channels [begin, end) from their sums (docs/batchnorm.md, F3, F4). doubtful[c] is 1 where
 * the sums, had they been grouped, are not good enough; returns how many are.
 */
export function statistics<T>(
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
  let doubts: usize = 0;
  for (let channel = begin; channel < end; ++channel) {
    const delta = merge(first, channel, channels, spread, columns) / count; // F3: mean − pivot
    const square = merge(second, channel, channels, spread, columns) / count;
    const v = max<f64>(square - delta * delta, 0); // F4; rounding may leave a constant channel just below zero
    store<f64>(mean + Lanes.bytes<f64>(channel), <f64>load<T>(pivot + Lanes.bytes<T>(channel)) + delta);
    store<f64>(variance + Lanes.bytes<f64>(channel), v);
    const good = v >= SMALLEST_VARIANCE && v <= LARGEST_VARIANCE && delta * delta <= v;
    store<u8>(doubtful + channel, u8(!good));
    doubts += usize(!good);
  }
  return doubts;
}

/** invStd = 1 / √(variance + epsilon), and 0 where both are 0 (docs/batchnorm.md, F5). */
export function inverse(variance: usize, invStd: usize, epsilon: f64, begin: usize, end: usize): void {
  for (let channel = begin; channel < end; ++channel) {
    const v = load<f64>(variance + Lanes.bytes<f64>(channel)) + epsilon;
    store<f64>(invStd + Lanes.bytes<f64>(channel), v == 0 ? 0 : 1 / sqrt<f64>(v));
  }
}

/** A parameter of T at a channel; a missing vector (pointer 0) stands for `missing` everywhere. */
function valueOr<T>(vector: usize, channel: usize, missing: f64): f64 {
  return vector ? <f64>load<T>(vector + Lanes.bytes<T>(channel)) : missing;
}

/**
 * The matrix of Affine (docs/batchnorm.md, F6, F7) for channels [begin, end). gamma, beta: of T, or 0 for 1 and 0.
 * mean: of f64, or 0 for 0, which gives dx = gamma·invStd·dy of frozen mode.
 */
export function affineCoefficients<T>(
  coefficients: usize,
  mean: usize,
  invStd: usize,
  gamma: usize,
  beta: usize,
  channels: usize,
  begin: usize,
  end: usize,
): void {
  const row = Lanes.bytes<T>(channels);
  for (let channel = begin; channel < end; ++channel) {
    const at = coefficients + Lanes.bytes<T>(channel);
    const m = valueOr<f64>(mean, channel, 0);
    const hi = <T>m;
    const scale = valueOr<T>(gamma, channel, 1) * load<f64>(invStd + Lanes.bytes<f64>(channel));
    store<T>(at, hi);
    store<T>(at + row, <T>scale);
    store<T>(at + 2 * row, <T>(valueOr<T>(beta, channel, 0) - (m - <f64>hi) * scale));
  }
}

/**
 * dBeta and dGamma of channels [begin, end) from the sums of Gradients about hi (docs/batchnorm.md, B1 to B3).
 * doubtful[c] as in `statistics`.
 */
export function gradientStatistics<T>(
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
  let doubts: usize = 0;
  for (let channel = begin; channel < end; ++channel) {
    const at = Lanes.bytes<f64>(channel);
    const m = load<f64>(mean + at);
    const i = load<f64>(invStd + at);
    const sum = merge(first, channel, channels, spread, columns); // B1
    const dot = merge(second, channel, channels, spread, columns); // B2
    const slope = (dot - (m - <f64>(<T>m)) * sum) * i; // B3
    store<f64>(dBeta + at, sum);
    store<f64>(dGamma + at, slope);
    const size = abs(sum) + abs(slope);
    const good = size >= count * SMALLEST_PRODUCT && size < Infinity && i >= SMALLEST_INV_STD && i <= LARGEST_INV_STD;
    store<u8>(doubtful + channel, u8(!good));
    doubts += usize(!good);
  }
  return doubts;
}

/** The matrix of Gradient (docs/batchnorm.md, B4 to B6) for channels [begin, end). gamma: of T, or 0 for 1. */
export function gradientCoefficients<T>(
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
  const row = Lanes.bytes<T>(channels);
  for (let channel = begin; channel < end; ++channel) {
    const at = coefficients + Lanes.bytes<T>(channel);
    const m = valueOr<f64>(mean, channel, 0);
    const hi = <T>m;
    const i = load<f64>(invStd + Lanes.bytes<f64>(channel));
    const slope = (-i * load<f64>(dGamma + Lanes.bytes<f64>(channel))) / count; // B4
    const shift = -load<f64>(dBeta + Lanes.bytes<f64>(channel)) / count - (m - <f64>hi) * slope; // B5
    store<T>(at, hi);
    store<T>(at + row, <T>(valueOr<T>(gamma, channel, 1) * i));
    store<T>(at + 2 * row, <T>shift);
    store<T>(at + 3 * row, <T>slope);
  }
}
