// Arithmetic on vectors as long as there are channels, in f64: what turns sums into statistics and statistics into the
// coefficients of the maps. Everything here costs C operations where a tensor costs C·count.
//
// In the interleaved walk a channel owns `spread` neighbouring columns, and the pattern of channels·spread columns may
// repeat until a row is long enough for SIMD:
//
//   columns   c0 c0 c0 c1 c1 c1 c2 c2 c2 | c0 c0 c0 c1 …        channels = 3, spread = 3
//
// In the planar walk, columns = channels and spread = 1.

import { Lanes, Single, Whole } from "./lanes";

/**
 * Where a grouped sum cannot be trusted, so that the channel is summed again exactly. Squares below 2^-126 lose bits in
 * f32 and products above 2^128 overflow; the bounds leave room for both. NaN is never inside bounds.
 */
const SMALLEST_VARIANCE: f64 = 7.52316384526264e-37; // 2^-120
const LARGEST_VARIANCE: f64 = 1.329227995784916e36; // 2^120
const SMALLEST_PRODUCT: f64 = 8.077935669463161e-28; // 2^-90
const SMALLEST_INV_STD: f64 = 8.673617379884035e-19; // 2^-60
const LARGEST_INV_STD: f64 = 1048576; // 2^20

/**
 * Nothing is wider than f64: where its squares lose bits, a second sum would lose them too, and a constant channel is right
 * as it is. A second sum can only have a better pivot, which may also bring a variance near 2^1024 back into range.
 */
const LARGEST_VARIANCE_F64: f64 = 7.022238808055921e305; // 2^1016

/** Sums over the columns of one channel, of f64 with what rounding takes from them. */
function merge<T>(sums: usize, channel: usize, channels: usize, spread: usize, columns: usize): f64 {
  let sum: f64 = 0;
  let lost = f64x2.splat(0);
  for (let start = channel * spread; start < columns; start += channels * spread)
    for (let column = start; column < start + spread; ++column) {
      const more = load<f64>(sums + Lanes.bytes<f64>(column));
      const next = sum + more;
      if (!Lanes.widens<T>())
        lost = f64x2.add(lost, Lanes.lost(f64x2.splat(sum), f64x2.splat(more), f64x2.splat(next)));
      sum = next;
    }
  return Lanes.widens<T>() ? sum : f64x2.extract_lane(Lanes.whole(f64x2.splat(sum), lost), 0);
}

/**
 * Rounds pivots to a few bits below the leading bit of `spread`. With all of its 24 bits a pivot would be cut off in the
 * same way in x − pivot for all x of a binade, and the variance would be off by 0.13 u however many values there are.
 */
function coarse<T extends number>(mean: v128, spread: v128): v128 {
  const exponent = sizeof<T>() == 4 ? v128.splat<u32>(0x7f800000) : v128.splat<u64>(0x7ff0000000000000);
  const step = v128.mul<T>(v128.and(spread, exponent), v128.splat<T>(<T>0.03125));
  const rounded = v128.mul<T>(v128.nearest<T>(v128.div<T>(mean, step)), step);
  // step is 0 for a constant channel, and infinite where one value is
  const usable = v128.and(v128.gt<T>(step, v128.splat<T>(<T>0)), v128.lt<T>(step, v128.splat<T>(<T>Infinity)));
  return v128.bitselect(rounded, mean, usable);
}

/** Means of runs of vectors: `steps` of them, a vector apart, in each of `planes` planes. Shares, so that none overflows. */
function meanOf<T extends number, W extends Whole>(
  first: usize,
  planes: usize,
  plane: usize,
  steps: usize,
  share: v128,
): v128 {
  const width = changetype<W>(<usize>0);
  let mean = v128.splat<T>(<T>0);
  for (; planes; --planes) {
    for (let i: usize = 0; i < steps; ++i)
      mean = v128.add<T>(mean, v128.mul<T>(width.load<T>(first + i * width.bytes<T>()), share));
    first += plane;
  }
  return mean;
}

/** The largest distances from the means, in the same way. */
function spreadOf<T extends number, W extends Whole>(
  first: usize,
  planes: usize,
  plane: usize,
  steps: usize,
  mean: v128,
): v128 {
  const width = changetype<W>(<usize>0);
  let spread = v128.splat<T>(<T>0);
  for (; planes; --planes) {
    for (let i: usize = 0; i < steps; ++i)
      spread = v128.pmax<T>(spread, v128.abs<T>(v128.sub<T>(width.load<T>(first + i * width.bytes<T>()), mean)));
    first += plane;
  }
  return spread;
}

/** The largest power of two up to n: its share is exact, and so is the mean of equal values. */
function powerOf(n: usize): usize {
  return (<usize>1) << (31 - clz<u32>(<u32>n));
}

/**
 * pivot[c] = the mean of some of the channel's first values, coarsely rounded, for c in [begin, end): as many as a power of
 * two up to `block` allows, of whole vectors where a plane has as many.
 */
export function pivotOf<T extends number>(
  x: usize,
  pivot: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  block: usize,
  begin: usize,
  end: usize,
): void {
  const lanes = Lanes.count<T>();
  const plane = Lanes.bytes<T>(channels * inner);
  let channel = begin;
  if (inner == 1) {
    const planes = powerOf(min(outer, block));
    const share = v128.splat<T>(<T>(1 / <f64>planes));
    for (; channel + lanes <= end; channel += lanes) {
      const first = x + Lanes.bytes<T>(channel);
      const mean = meanOf<T, Whole>(first, planes, plane, 1, share);
      const spread = spreadOf<T, Whole>(first, planes, plane, 1, mean);
      v128.store(pivot + Lanes.bytes<T>(channel), coarse<T>(mean, spread));
    }
  }
  const run = powerOf(min(inner, block));
  const planes = powerOf(min(outer, block / run));
  const steps = run / lanes;
  const share = v128.splat<T>(<T>(1 / <f64>(planes * run)));
  for (; channel < end; ++channel) {
    const first = x + Lanes.bytes<T>(channel * inner);
    let mean: v128;
    let spread: v128;
    if (steps) {
      mean = Lanes.across<T>(meanOf<T, Whole>(first, planes, plane, steps, share));
      spread = spreadOf<T, Whole>(first, planes, plane, steps, mean);
      spread = Lanes.most<T>(spread);
    } else {
      mean = meanOf<T, Single>(first, planes, plane, run, share);
      spread = spreadOf<T, Single>(first, planes, plane, run, mean);
    }
    changetype<Single>(<usize>0).store<T>(pivot + Lanes.bytes<T>(channel), coarse<T>(mean, spread));
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
 * the sums, had they been grouped, are not good enough; returns how many are. Of f64: where the pivot is not.
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
    const delta = merge<T>(first, channel, channels, spread, columns) / count; // F3: mean − pivot
    const square = merge<T>(second, channel, channels, spread, columns) / count;
    const v = max<f64>(square - delta * delta, 0); // F4; rounding may leave a constant channel just below zero
    store<f64>(mean + Lanes.bytes<f64>(channel), <f64>load<T>(pivot + Lanes.bytes<T>(channel)) + delta);
    store<f64>(variance + Lanes.bytes<f64>(channel), v);
    const inside = Lanes.widens<T>() ? v >= SMALLEST_VARIANCE && v <= LARGEST_VARIANCE : v <= LARGEST_VARIANCE_F64;
    const good = inside && delta * delta <= v;
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

/** running ← (1 − weight)·running + weight·batch·factor of channels [begin, end), with the roundings of src/running.ts. */
export function blend(running: usize, batch: usize, weight: f64, factor: f64, begin: usize, end: usize): void {
  for (let channel = begin; channel < end; ++channel) {
    const at = running + Lanes.bytes<f64>(channel);
    const value = load<f64>(batch + Lanes.bytes<f64>(channel));
    store<f64>(at, (1 - weight) * load<f64>(at) + weight * value * factor);
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
 * doubtful[c] as in `statistics`; of f64 none is, since the pivot is the mean.
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
    const sum = merge<T>(first, channel, channels, spread, columns); // B1
    const dot = merge<T>(second, channel, channels, spread, columns); // B2
    const slope = (dot - (m - <f64>(<T>m)) * sum) * i; // B3
    store<f64>(dBeta + at, sum);
    store<f64>(dGamma + at, slope);
    const size = abs(sum) + abs(slope);
    const inside = size >= count * SMALLEST_PRODUCT && size < Infinity && i >= SMALLEST_INV_STD && i <= LARGEST_INV_STD;
    const good = !Lanes.widens<T>() || inside;
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
