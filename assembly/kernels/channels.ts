// Arithmetic on vectors as long as there are channels, in f64: pivots, and what turns sums into statistics and statistics
// into the coefficients of the maps. All of it costs C operations where a tensor costs C·count. Numbered terms are those of
// docs/batchnorm.md.

import { Plan } from "../plan";
import { Lanes, Single, Whole } from "./lanes";

/**
 * Bounds of what blocked sums can be trusted with; outside of them the channel is summed again in f64. Squares below 2^-126
 * lose bits in f32 and products above 2^128 overflow; the bounds leave room for both. NaN is never inside bounds.
 */
const SMALLEST_VARIANCE: f64 = 7.52316384526264e-37; // 2^-120
const LARGEST_VARIANCE: f64 = 1.329227995784916e36; // 2^120
const SMALLEST_PRODUCT: f64 = 8.077935669463161e-28; // 2^-90
const SMALLEST_INV_STD: f64 = 8.673617379884035e-19; // 2^-60
const LARGEST_INV_STD: f64 = 1048576; // 2^20

/**
 * The bound for float64, whose sums nothing wider can correct: where its squares lose bits, a second sum would lose them too,
 * and a constant channel is right as it is. A second sum can only have a better pivot, which may also bring a variance near
 * 2^1024 back into range.
 */
const LARGEST_VARIANCE_F64: f64 = 7.022238808055922e305; // 2^1016

/** The sum of a channel's columns in all stripes; of float64 compensated for what rounding takes from it. */
function merge<T>(sums: usize, channel: usize, p: Plan, columns: usize): f64 {
  const width = p.columnsPerChannel;
  let sum: f64 = 0;
  let errors = f64x2.splat(0);
  for (let start = channel * width; start < columns; start += p.period)
    for (let column = start; column < start + width; ++column) {
      const term = load<f64>(sums + Lanes.bytes<f64>(column));
      const next = sum + term;
      if (!Lanes.accumulatesInF64<T>())
        errors = f64x2.add(errors, Lanes.roundingError(f64x2.splat(sum), f64x2.splat(term), f64x2.splat(next)));
      sum = next;
    }
  return Lanes.accumulatesInF64<T>() ? sum : f64x2.extract_lane(Lanes.compensated(f64x2.splat(sum), errors), 0);
}

/**
 * Rounds pivots to a few bits below the leading bit of `deviation`. With all of its 24 bits a pivot would be cut off in the
 * same way in x − pivot for all x of a binade, and the variance would be off by 0.13 u however many values there are.
 */
function coarse<T extends number>(mean: v128, deviation: v128): v128 {
  const exponent = sizeof<T>() == 4 ? v128.splat<u32>(0x7f800000) : v128.splat<u64>(0x7ff0000000000000);
  const step = v128.mul<T>(v128.and(deviation, exponent), v128.splat<T>(<T>0.03125));
  const rounded = v128.mul<T>(v128.nearest<T>(v128.div<T>(mean, step)), step);
  // step is 0 for a constant channel, and infinite where one value is
  const usable = v128.and(v128.gt<T>(step, v128.splat<T>(<T>0)), v128.lt<T>(step, v128.splat<T>(<T>Infinity)));
  return v128.bitselect(rounded, mean, usable);
}

/**
 * Means of `steps` vectors that follow each other in each of `planes` planes. `share` is 1 over their number: multiplied
 * before it is summed, no value overflows.
 */
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

/** Largest distances from the means of the values that `meanOf` takes. */
function maxDeviationOf<T extends number, W extends Whole>(
  first: usize,
  planes: usize,
  plane: usize,
  steps: usize,
  mean: v128,
): v128 {
  const width = changetype<W>(<usize>0);
  let deviation = v128.splat<T>(<T>0);
  for (; planes; --planes) {
    for (let i: usize = 0; i < steps; ++i)
      deviation = v128.pmax<T>(deviation, v128.abs<T>(v128.sub<T>(width.load<T>(first + i * width.bytes<T>()), mean)));
    first += plane;
  }
  return deviation;
}

/** The largest power of two up to n: its share is exact, and so is the mean of equal values. */
function powerOf(n: usize): usize {
  return (<usize>1) << (31 - clz<u32>(<u32>n));
}

/** Repeats the values of a row of `T[channels]` over the columns of their channels, in place. */
function broadcastToColumns<T>(row: usize, p: Plan): void {
  const width = p.columnsPerChannel;
  // from the end, so that no value is overwritten before it is read
  if (width > 1)
    for (let channel = p.channels; channel--; ) {
      const value = load<T>(row + Lanes.bytes<T>(channel));
      const at = row + Lanes.bytes<T>(channel * width);
      for (let i: usize = 0; i < width; ++i) store<T>(at + Lanes.bytes<T>(i), value);
    }
  for (let column = p.period; column < p.columns; ++column)
    store<T>(row + Lanes.bytes<T>(column), load<T>(row + Lanes.bytes<T>(column - p.period)));
}

/** Repeats the first rows of coefficients over their columns, where the walk has more columns than channels. */
export function broadcastRows<T>(rows: usize, p: Plan): void {
  if (p.columns == p.channels) return;
  for (let r: usize = 0; r < rows; ++r) broadcastToColumns<T>(p.coefficients + Lanes.bytes<T>(r * p.columns), p);
}

/**
 * The first row of coefficients = the mean of some of the first values of channels [begin, end), coarsely rounded: of as many
 * as a power of two up to the plan's `pivotValues` allows, in whole vectors where a plane has as many.
 */
export function pivotsOf<T extends number>(p: Plan, x: usize, begin: usize, end: usize): void {
  const lanes = Lanes.count<T>();
  const plane = Lanes.bytes<T>(p.pitch * p.inner);
  const pivot = p.coefficients;
  let channel = begin;
  if (p.inner == 1) {
    const planes = powerOf(min(p.outer, p.pivotValues));
    const share = v128.splat<T>(<T>(1 / <f64>planes));
    for (; channel + lanes <= end; channel += lanes) {
      const first = x + Lanes.bytes<T>(channel);
      const mean = meanOf<T, Whole>(first, planes, plane, 1, share);
      const deviation = maxDeviationOf<T, Whole>(first, planes, plane, 1, mean);
      v128.store(pivot + Lanes.bytes<T>(channel), coarse<T>(mean, deviation));
    }
  }
  const run = powerOf(min(p.inner, p.pivotValues));
  const planes = powerOf(min(p.outer, p.pivotValues / run));
  const steps = run / lanes;
  const share = v128.splat<T>(<T>(1 / <f64>(planes * run)));
  for (; channel < end; ++channel) {
    const first = x + Lanes.bytes<T>(channel * p.inner);
    let mean: v128;
    let deviation: v128;
    if (steps) {
      mean = Lanes.across<T>(meanOf<T, Whole>(first, planes, plane, steps, share));
      deviation = maxDeviationOf<T, Whole>(first, planes, plane, steps, mean);
      deviation = Lanes.most<T>(deviation);
    } else {
      mean = meanOf<T, Single>(first, planes, plane, run, share);
      deviation = maxDeviationOf<T, Single>(first, planes, plane, run, mean);
    }
    changetype<Single>(<usize>0).store<T>(pivot + Lanes.bytes<T>(channel), coarse<T>(mean, deviation));
  }
  broadcastRows<T>(1, p);
}

/** invStd = 1 / √(variance + epsilon), and 0 where both are 0 (F5). */
export function invStdOf(p: Plan, epsilon: f64, begin: usize, end: usize): void {
  for (let channel = begin; channel < end; ++channel) {
    const v = load<f64>(p.variance + Lanes.bytes<f64>(channel)) + epsilon;
    store<f64>(p.invStd + Lanes.bytes<f64>(channel), v == 0 ? 0 : 1 / sqrt<f64>(v));
  }
}

/**
 * Moments → mean, biased variance and invStd of channels [begin, end) (F3 to F5). `columns` entries have sums. Marks channels
 * whose blocked sums are not good enough, of float64 whose pivot is not, and returns how many there are.
 */
export function momentStatistics<T>(p: Plan, columns: usize, epsilon: f64, begin: usize, end: usize): usize {
  const count = <f64>p.count;
  const width = p.columnsPerChannel;
  let unreliable: usize = 0;
  for (let channel = begin; channel < end; ++channel) {
    const pivot = p.coefficients + Lanes.bytes<T>(channel * width);
    const delta = merge<T>(p.sum, channel, p, columns) / count; // F3: mean − pivot
    const square = merge<T>(p.dot, channel, p, columns) / count;
    const v = max<f64>(square - delta * delta, 0); // F4; rounding may leave a constant channel just below zero
    const mean = <f64>load<T>(pivot) + delta;
    store<f64>(p.mean + Lanes.bytes<f64>(channel), mean);
    store<f64>(p.variance + Lanes.bytes<f64>(channel), v);
    const inside = Lanes.accumulatesInF64<T>()
      ? v >= SMALLEST_VARIANCE && v <= LARGEST_VARIANCE
      : v <= LARGEST_VARIANCE_F64;
    const good = inside && delta * delta <= v;
    store<u8>(p.unreliable + channel, u8(!good));
    unreliable += usize(!good);
    // what a second sum of float64 is taken about
    if (!Lanes.accumulatesInF64<T>() && !good) recentre<T>(p, channel, <T>mean);
  }
  invStdOf(p, epsilon, begin, end);
  return unreliable;
}

/** Sets a channel's pivot in all of its columns. */
function recentre<T>(p: Plan, channel: usize, pivot: T): void {
  const width = p.columnsPerChannel;
  for (let start = channel * width; start < p.columns; start += p.period)
    for (let column = start; column < start + width; ++column) store<T>(p.coefficients + Lanes.bytes<T>(column), pivot);
}

/**
 * Gradient sums → dGamma and dBeta of channels [begin, end) (B1 to B3), with mean and invStd. `columns` entries have sums.
 * Marks channels whose blocked sums are not good enough, and returns how many there are; of float64 none.
 */
export function gradientStatistics<T>(p: Plan, columns: usize, begin: usize, end: usize): usize {
  const count = <f64>p.count;
  let unreliable: usize = 0;
  for (let channel = begin; channel < end; ++channel) {
    const at = Lanes.bytes<f64>(channel);
    const mean = load<f64>(p.mean + at);
    const invStd = load<f64>(p.invStd + at);
    const sum = merge<T>(p.sum, channel, p, columns); // B1
    const dot = merge<T>(p.dot, channel, p, columns); // B2
    const dGamma = (dot - (mean - <f64>(<T>mean)) * sum) * invStd; // B3
    store<f64>(p.dBeta + at, sum);
    store<f64>(p.dGamma + at, dGamma);
    const size = abs(sum) + abs(dGamma);
    const inside =
      size >= count * SMALLEST_PRODUCT && size < Infinity && invStd >= SMALLEST_INV_STD && invStd <= LARGEST_INV_STD;
    const good = !Lanes.accumulatesInF64<T>() || inside;
    store<u8>(p.unreliable + channel, u8(!good));
    unreliable += usize(!good);
  }
  return unreliable;
}

/** running ← (1 − weight)·running + weight·batch·factor of channels [begin, end), with the roundings of the facade. */
export function blend(running: usize, batch: usize, weight: f64, factor: f64, begin: usize, end: usize): void {
  for (let channel = begin; channel < end; ++channel) {
    const at = running + Lanes.bytes<f64>(channel);
    const value = load<f64>(batch + Lanes.bytes<f64>(channel));
    store<f64>(at, (1 - weight) * load<f64>(at) + weight * value * factor);
  }
}

/** A vector's value at a channel; a missing vector (address 0) has `missing` everywhere. */
function valueOr<T>(vector: usize, channel: usize, missing: f64): f64 {
  return vector ? <f64>load<T>(vector + Lanes.bytes<T>(channel)) : missing;
}

/** Rows hi = T(mean), scale = gamma·invStd and shift = beta − (mean − hi)·scale (F6) of channels [begin, end). */
export function affineRows<T>(p: Plan, gamma: usize, beta: usize, begin: usize, end: usize): void {
  const row = Lanes.bytes<T>(p.columns);
  for (let channel = begin; channel < end; ++channel) {
    const at = p.coefficients + Lanes.bytes<T>(channel);
    const mean = load<f64>(p.mean + Lanes.bytes<f64>(channel));
    const hi = <T>mean;
    const scale = valueOr<T>(gamma, channel, 1) * load<f64>(p.invStd + Lanes.bytes<f64>(channel));
    store<T>(at, hi);
    store<T>(at + row, <T>scale);
    store<T>(at + 2 * row, <T>(valueOr<T>(beta, channel, 0) - (mean - <f64>hi) * scale));
  }
  broadcastRows<T>(3, p);
}

/** Rows 0, gamma·invStd and 0 of channels [begin, end): dx = gamma·invStd·dy where statistics are constants. */
export function constantGradientRows<T>(p: Plan, gamma: usize, begin: usize, end: usize): void {
  const row = Lanes.bytes<T>(p.columns);
  for (let channel = begin; channel < end; ++channel) {
    const at = p.coefficients + Lanes.bytes<T>(channel);
    const scale = valueOr<T>(gamma, channel, 1) * load<f64>(p.invStd + Lanes.bytes<f64>(channel));
    store<T>(at, <T>0);
    store<T>(at + row, <T>scale);
    store<T>(at + 2 * row, <T>0);
  }
  broadcastRows<T>(3, p);
}

/**
 * Rows hi, scale, shift and xCoefficient of Gradient (B4 to B6) of channels [begin, end), with dGamma and dBeta over `count`
 * values. With `activated` a fifth row, the shift of z (F6), of which beta is a part.
 */
export function gradientRows<T>(
  p: Plan,
  gamma: usize,
  beta: usize,
  count: f64,
  activated: bool,
  begin: usize,
  end: usize,
): void {
  const row = Lanes.bytes<T>(p.columns);
  for (let channel = begin; channel < end; ++channel) {
    const at = p.coefficients + Lanes.bytes<T>(channel);
    const mean = load<f64>(p.mean + Lanes.bytes<f64>(channel));
    const hi = <T>mean;
    const invStd = load<f64>(p.invStd + Lanes.bytes<f64>(channel));
    const xCoefficient = (-invStd * load<f64>(p.dGamma + Lanes.bytes<f64>(channel))) / count; // B4
    const shift = -load<f64>(p.dBeta + Lanes.bytes<f64>(channel)) / count - (mean - <f64>hi) * xCoefficient; // B5
    const scale = valueOr<T>(gamma, channel, 1) * invStd;
    store<T>(at, hi);
    store<T>(at + row, <T>scale);
    store<T>(at + 2 * row, <T>shift);
    store<T>(at + 3 * row, <T>xCoefficient);
    if (activated) store<T>(at + 4 * row, <T>(valueOr<T>(beta, channel, 0) - (mean - <f64>hi) * scale));
  }
  broadcastRows<T>(activated ? 5 : 4, p);
}

/** Rows of ScaledGradient: those of Gradient without gamma, and gamma, of channels [begin, end). */
export function scaledGradientRows<T>(p: Plan, gamma: usize, count: f64, begin: usize, end: usize): void {
  gradientRows<T>(p, 0, 0, count, false, begin, end);
  const row = p.coefficients + Lanes.bytes<T>(4 * p.columns);
  for (let channel = begin; channel < end; ++channel)
    store<T>(row + Lanes.bytes<T>(channel), <T>valueOr<T>(gamma, channel, 1));
  if (p.columns != p.channels) broadcastToColumns<T>(row, p);
}
