// Arithmetic on vectors with one value per channel, in f64: the pivots, the statistics from sums, and the coefficients
// of the maps from statistics. It takes C operations, and the tensor takes C·count. The numbers of terms are those of
// docs/concepts/derivation.md.

import { Plan } from "../plan";
import { Lanes, Single, Whole } from "./lanes";

/**
 * Bounds outside of which a channel is unreliable, and its blocked sums are replaced by f64 sums. Squares below 2^-126
 * lose bits in f32, and products above 2^128 overflow. The bounds leave room for both. NaN is outside of all bounds.
 */
const SMALLEST_VARIANCE: f64 = 7.52316384526264e-37; // 2^-120
const LARGEST_VARIANCE: f64 = 1.329227995784916e36; // 2^120
const SMALLEST_PRODUCT: f64 = 7.888609052210118e-31; // 2^-100
const SMALLEST_INV_STD: f64 = 8.673617379884035e-19; // 2^-60
const LARGEST_INV_STD: f64 = 1048576; // 2^20

/**
 * The bound outside of which a channel of float64 is unreliable. A second sum can only have a better pivot, which may
 * bring a variance near 2^1024 back into range. There is no lower bound: where squares lose bits, they would lose them
 * in a second sum too, and the sums of a constant channel are right.
 */
const LARGEST_VARIANCE_F64: f64 = 7.022238808055922e305; // 2^1016

/**
 * The smallest invStd²/count with which hi is the mean. No value of a channel is farther from the mean than
 * std·√count, so that above it x − hi is below 2^128. Where x − hi may overflow, hi is 0.
 */
const SMALLEST_REACH: f64 = 8.636168555094445e-78; // 2^-256

/** Returns the sum of a channel's columns in all stripes. For float64 it is compensated. */
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
 * Writes the sums of channels [begin, end) in all stripes to `target`, `f64[channels]`. Eight channels at a time read
 * whole cache lines: the rows of sums may lie a multiple of 4 KiB apart, and then few of their lines fit into the
 * cache.
 */
function mergeStripes<T>(p: Plan, sums: usize, columns: usize, begin: usize, end: usize, target: usize): void {
  let channel = begin;
  if (Lanes.accumulatesInF64<T>() && p.columnsPerChannel == 1)
    for (; channel + 8 <= end; channel += 8) {
      let a = f64x2.splat(0);
      let b = f64x2.splat(0);
      let c = f64x2.splat(0);
      let d = f64x2.splat(0);
      for (let start = channel; start < columns; start += p.period) {
        const row = sums + Lanes.bytes<f64>(start);
        a = f64x2.add(a, v128.load(row));
        b = f64x2.add(b, v128.load(row, 16));
        c = f64x2.add(c, v128.load(row, 32));
        d = f64x2.add(d, v128.load(row, 48));
      }
      const entry = target + Lanes.bytes<f64>(channel);
      v128.store(entry, a);
      v128.store(entry, b, 16);
      v128.store(entry, c, 32);
      v128.store(entry, d, 48);
    }
  for (; channel < end; ++channel) store<f64>(target + Lanes.bytes<f64>(channel), merge<T>(sums, channel, p, columns));
}

/**
 * Returns the means, rounded to a few bits below the leading bit of `deviation`. A pivot with all of its 24 bits would
 * cause the same rounding error in x − pivot for all x of a binade. The variance would be off by 0.13 u for any number
 * of values.
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
 * Returns the pivots, lane by lane, of `steps` vectors, `stride` bytes apart, in each of `planes` planes; with
 * `acrossLanes`, the pivot of all lanes together. `share` is 1 / number of values. It multiplies every value before the
 * sum, so that the sum does not overflow. The largest distance from the mean is that of the smallest or of the largest
 * value, so one pass is enough.
 */
function pivotOf<T extends number, W extends Whole>(
  first: usize,
  planes: usize,
  plane: usize,
  steps: usize,
  stride: usize,
  share: v128,
  acrossLanes: bool,
): v128 {
  const width = changetype<W>(<usize>0);
  let mean = v128.splat<T>(<T>0);
  let smallest = width.load<T>(first);
  let largest = smallest;
  for (; planes; --planes) {
    let at = first;
    for (let i = steps; i; --i) {
      const values = width.load<T>(at);
      mean = v128.add<T>(mean, v128.mul<T>(values, share));
      smallest = v128.pmin<T>(smallest, values);
      largest = v128.pmax<T>(largest, values);
      at += stride;
    }
    first += plane;
  }
  if (acrossLanes) {
    mean = Lanes.horizontalSum<T>(mean);
    smallest = v128.neg<T>(Lanes.horizontalMax<T>(v128.neg<T>(smallest)));
    largest = Lanes.horizontalMax<T>(largest);
  }
  return coarse<T>(mean, v128.pmax<T>(v128.sub<T>(largest, mean), v128.sub<T>(mean, smallest)));
}

/** Returns the largest power of two up to n. Its inverse is exact, so the mean of equal values is exact too. */
function powerOfTwoUpTo(n: usize): usize {
  return (<usize>1) << (31 - clz<u32>(<u32>n));
}

/** Repeats the values of a row, `T[channels]`, over the columns of their channels, in place. */
function broadcastToColumns<T>(row: usize, p: Plan): void {
  const width = p.columnsPerChannel;
  // from the end, so that no value is overwritten before it is read
  if (width > 1)
    for (let channel = p.channels; channel--; ) {
      const value = load<T>(row + Lanes.bytes<T>(channel));
      const target = row + Lanes.bytes<T>(channel * width);
      for (let i: usize = 0; i < width; ++i) store<T>(target + Lanes.bytes<T>(i), value);
    }
  for (let column = p.period; column < p.columns; ++column)
    store<T>(row + Lanes.bytes<T>(column), load<T>(row + Lanes.bytes<T>(column - p.period)));
}

/**
 * Repeats the values of the first rows of coefficients over the columns of their channels, if there are more columns
 * than channels.
 */
export function broadcastRows<T>(rows: usize, p: Plan): void {
  if (p.columns == p.channels) return;
  for (let r: usize = 0; r < rows; ++r) broadcastToColumns<T>(p.coefficients + Lanes.bytes<T>(r * p.columns), p);
}

/**
 * Writes the pivots of channels [begin, end) to the first row of coefficients. A pivot is the mean of 2^k first values
 * of the channel, coarsely rounded, where 2^k is at most the plan's `pivotValues`. They are read as whole vectors if a
 * plane has as many values.
 */
export function pivotsOf<T extends number>(p: Plan, x: usize, begin: usize, end: usize): void {
  const lanes = Lanes.count<T>();
  const plane = Lanes.bytes<T>(p.pitch * p.inner);
  const pivot = p.coefficients;
  let channel = begin;
  if (p.inner == 1) {
    const planes = powerOfTwoUpTo(min(p.outer, p.pivotValues));
    const share = v128.splat<T>(<T>(1 / <f64>planes));
    for (; channel + lanes <= end; channel += lanes) {
      const first = x + Lanes.bytes<T>(channel);
      v128.store(pivot + Lanes.bytes<T>(channel), pivotOf<T, Whole>(first, 1, 0, planes, plane, share, false));
    }
  }
  const run = powerOfTwoUpTo(min(p.inner, p.pivotValues));
  const planes = powerOfTwoUpTo(min(p.outer, p.pivotValues / run));
  const steps = run / lanes;
  const share = v128.splat<T>(<T>(1 / <f64>(planes * run)));
  for (; channel < end; ++channel) {
    const first = x + Lanes.bytes<T>(channel * p.inner);
    const value = steps
      ? pivotOf<T, Whole>(first, planes, plane, steps, 16, share, true)
      : pivotOf<T, Single>(first, planes, plane, run, sizeof<T>(), share, false);
    changetype<Single>(<usize>0).store<T>(pivot + Lanes.bytes<T>(channel), value);
  }
  broadcastRows<T>(1, p);
}

/** Writes invStd = 1 / √(variance + epsilon) of channels [begin, end), or 0 if variance and epsilon are 0 (F5). */
export function invStdOf(p: Plan, epsilon: f64, begin: usize, end: usize): void {
  let channel = begin;
  for (; channel + 2 <= end; channel += 2) {
    const offset = Lanes.bytes<f64>(channel);
    const v = f64x2.add(v128.load(p.variance + offset), f64x2.splat(epsilon));
    const invStd = f64x2.div(f64x2.splat(1), f64x2.sqrt(v));
    v128.store(p.invStd + offset, v128.andnot(invStd, f64x2.eq(v, f64x2.splat(0))));
  }
  for (; channel < end; ++channel) {
    const v = load<f64>(p.variance + Lanes.bytes<f64>(channel)) + epsilon;
    store<f64>(p.invStd + Lanes.bytes<f64>(channel), v == 0 ? 0 : 1 / sqrt<f64>(v));
  }
}

/**
 * Turns merged moments of float32 into mean and variance (F3, F4), two channels at once, and marks the unreliable ones.
 * An odd last channel is left out. Returns the number of unreliable channels.
 */
function momentPairs(p: Plan, begin: usize, end: usize): usize {
  const count = f64x2.splat(<f64>p.count);
  let unreliable: usize = 0;
  for (let channel = begin; channel + 2 <= end; channel += 2) {
    const offset = Lanes.bytes<f64>(channel);
    const pivots = f64x2.promote_low_f32x4(v128.load64_zero(p.coefficients + Lanes.bytes<f32>(channel)));
    const delta = f64x2.div(v128.load(p.mean + offset), count);
    const square = f64x2.div(v128.load(p.variance + offset), count);
    const deltaSquare = f64x2.mul(delta, delta);
    const v = f64x2.max(f64x2.sub(square, deltaSquare), f64x2.splat(0));
    v128.store(p.mean + offset, f64x2.add(pivots, delta));
    v128.store(p.variance + offset, v);
    const inside = v128.and(f64x2.ge(v, f64x2.splat(SMALLEST_VARIANCE)), f64x2.le(v, f64x2.splat(LARGEST_VARIANCE)));
    const bad = ~v128.bitmask<i64>(v128.and(inside, f64x2.le(deltaSquare, v))) & 3;
    store<u8>(p.unreliable + channel, u8(bad & 1));
    store<u8>(p.unreliable + channel, u8(bad >> 1), 1);
    unreliable += popcnt(bad);
  }
  return unreliable;
}

/**
 * Turns the moments of channels [begin, end) into mean, biased variance and invStd (F3 to F5). There are sums in
 * `columns` entries. Marks the unreliable channels, and returns their number: for f32 those whose blocked sums are not
 * precise enough, for f64 those whose pivot is too far from the mean.
 */
export function momentStatistics<T>(p: Plan, columns: usize, epsilon: f64, begin: usize, end: usize): usize {
  const count = <f64>p.count;
  const width = p.columnsPerChannel;
  let unreliable: usize = 0;
  let channel = begin;
  mergeStripes<T>(p, p.sum, columns, begin, end, p.mean);
  mergeStripes<T>(p, p.dot, columns, begin, end, p.variance);
  if (Lanes.accumulatesInF64<T>() && width == 1) {
    unreliable = momentPairs(p, begin, end);
    channel += (end - begin) & ~1;
  }
  for (; channel < end; ++channel) {
    const offset = Lanes.bytes<f64>(channel);
    const pivot = p.coefficients + Lanes.bytes<T>(channel * width);
    const delta = load<f64>(p.mean + offset) / count; // F3: mean − pivot
    const square = load<f64>(p.variance + offset) / count;
    const v = max<f64>(square - delta * delta, 0); // F4; rounding may leave a constant channel just below zero
    const mean = <f64>load<T>(pivot) + delta;
    store<f64>(p.mean + offset, mean);
    store<f64>(p.variance + offset, v);
    const inside = Lanes.accumulatesInF64<T>()
      ? v >= SMALLEST_VARIANCE && v <= LARGEST_VARIANCE
      : v <= LARGEST_VARIANCE_F64;
    const good = inside && delta * delta <= v;
    store<u8>(p.unreliable + channel, u8(!good));
    unreliable += usize(!good);
    // a second sum of float64 needs a better pivot
    if (!Lanes.accumulatesInF64<T>() && !good) recentre<T>(p, channel, <T>mean);
  }
  invStdOf(p, epsilon, begin, end);
  return unreliable;
}

/** Writes the pivot of a channel to all of its columns. */
function recentre<T>(p: Plan, channel: usize, pivot: T): void {
  const width = p.columnsPerChannel;
  for (let start = channel * width; start < p.columns; start += p.period)
    for (let column = start; column < start + width; ++column) store<T>(p.coefficients + Lanes.bytes<T>(column), pivot);
}

/**
 * Turns merged gradient sums of float32 into dGamma (B3), two channels at once, and marks the unreliable ones. An odd
 * last channel is left out. Returns the number of unreliable channels.
 */
function gradientPairs(p: Plan, begin: usize, end: usize): usize {
  const smallest = f64x2.splat(<f64>p.count * SMALLEST_PRODUCT);
  let unreliable: usize = 0;
  for (let channel = begin; channel + 2 <= end; channel += 2) {
    const offset = Lanes.bytes<f64>(channel);
    const mean = v128.load(p.mean + offset);
    const invStd = v128.load(p.invStd + offset);
    const sum = v128.load(p.dBeta + offset);
    const low = f64x2.sub(mean, Pair.load(p.coefficients + Lanes.bytes<f32>(channel)));
    const dot = v128.load(p.dGamma + offset);
    v128.store(p.dGamma + offset, f64x2.mul(f64x2.sub(dot, f64x2.mul(low, sum)), invStd));
    const size = f64x2.abs(dot);
    const sizeInside = v128.and(
      f64x2.ge(size, smallest),
      f64x2.lt(f64x2.add(size, f64x2.abs(sum)), f64x2.splat(Infinity)),
    );
    const invStdInside = v128.and(
      f64x2.ge(invStd, f64x2.splat(SMALLEST_INV_STD)),
      f64x2.le(invStd, f64x2.splat(LARGEST_INV_STD)),
    );
    const bad = ~v128.bitmask<i64>(v128.and(sizeInside, invStdInside)) & 3;
    store<u8>(p.unreliable + channel, u8(bad & 1));
    store<u8>(p.unreliable + channel, u8(bad >> 1), 1);
    unreliable += popcnt(bad);
  }
  return unreliable;
}

/**
 * Turns the gradient sums of channels [begin, end) into dGamma and dBeta (B1 to B3), with mean and invStd. There are
 * sums in `columns` entries. Marks the unreliable channels, and returns their number. Channels of float64 are never
 * unreliable.
 */
export function gradientStatistics<T>(p: Plan, columns: usize, begin: usize, end: usize): usize {
  const count = <f64>p.count;
  const width = p.columnsPerChannel;
  let unreliable: usize = 0;
  mergeStripes<T>(p, p.sum, columns, begin, end, p.dBeta); // B1
  mergeStripes<T>(p, p.dot, columns, begin, end, p.dGamma); // B2
  let channel = begin;
  if (Lanes.accumulatesInF64<T>() && width == 1) {
    unreliable = gradientPairs(p, begin, end);
    channel += (end - begin) & ~1;
  }
  for (; channel < end; ++channel) {
    const offset = Lanes.bytes<f64>(channel);
    const mean = load<f64>(p.mean + offset);
    const invStd = load<f64>(p.invStd + offset);
    const sum = load<f64>(p.dBeta + offset);
    const dot = load<f64>(p.dGamma + offset);
    const hi = <f64>load<T>(p.coefficients + Lanes.bytes<T>(channel * width));
    store<f64>(p.dGamma + offset, (dot - (mean - hi) * sum) * invStd); // B3
    const size = abs(dot);
    const inside =
      size >= count * SMALLEST_PRODUCT &&
      size + abs(sum) < Infinity &&
      invStd >= SMALLEST_INV_STD &&
      invStd <= LARGEST_INV_STD;
    const good = !Lanes.accumulatesInF64<T>() || inside;
    store<u8>(p.unreliable + channel, u8(!good));
    unreliable += usize(!good);
  }
  return unreliable;
}

/**
 * Computes running ← (1 − weight)·running + weight·batch·factor for channels [begin, end). The order of the operations
 * is that of the facade, so that results have the same bits.
 */
export function blend(running: usize, batch: usize, weight: f64, factor: f64, begin: usize, end: usize): void {
  for (let channel = begin; channel < end; ++channel) {
    const entry = running + Lanes.bytes<f64>(channel);
    const value = load<f64>(batch + Lanes.bytes<f64>(channel));
    store<f64>(entry, (1 - weight) * load<f64>(entry) + weight * value * factor);
  }
}

/** Returns the value of a vector at a channel, or `missing` if there is no vector (address 0). */
function valueOr<T>(vector: usize, channel: usize, missing: f64): f64 {
  return vector ? <f64>load<T>(vector + Lanes.bytes<T>(channel)) : missing;
}

/** Two channels of float32 at once: the vectors of a plan are f64, and rows of coefficients are f32. */
abstract class Pair {
  /** Returns two values of a row. */
  @inline static load(pointer: usize): v128 {
    return Lanes.low(v128.load64_zero(pointer));
  }

  /** Returns the values of a vector of f32 at two channels, or `missing` if there is no vector (address 0). */
  @inline static valuesOr(vector: usize, channel: usize, missing: v128): v128 {
    return vector ? Pair.load(vector + Lanes.bytes<f32>(channel)) : missing;
  }

  /** Writes two values, rounded to f32. */
  @inline static store(pointer: usize, values: v128): void {
    v128.store64_lane(pointer, f32x4.demote_f64x2_zero(values), 0);
  }

  /** Returns two values, of which those that are finite are brought into the range of f32. */
  @inline static limited(values: v128): v128 {
    const largest = f64x2.splat(<f64>f32.MAX_VALUE);
    const inside = f64x2.pmax(f64x2.pmin(values, largest), f64x2.neg(largest));
    return v128.bitselect(inside, values, f64x2.lt(f64x2.abs(values), f64x2.splat(Infinity)));
  }
}

/** Returns a value rounded to T. A finite value stays finite. */
function limited<T>(value: f64): T {
  if (!Lanes.accumulatesInF64<T>()) return <T>value;
  return <T>f64x2.extract_lane(Pair.limited(f64x2.splat(value)), 0);
}

/**
 * Writes the rows hi = T(mean), scale = gamma·invStd and shift = beta − (mean − hi)·scale (F6) of channels [begin, end),
 * one value per channel. Rows of `constants` have the mean 0.
 */
function writeAffine<T>(p: Plan, gamma: usize, beta: usize, constants: bool, begin: usize, end: usize): void {
  const row = Lanes.bytes<T>(p.columns);
  const reach = <f64>p.count * SMALLEST_REACH;
  let channel = begin;
  if (Lanes.accumulatesInF64<T>())
    for (; channel + 2 <= end; channel += 2) {
      const entry = p.coefficients + Lanes.bytes<T>(channel);
      const offset = Lanes.bytes<f64>(channel);
      const invStd = v128.load(p.invStd + offset);
      const mean = v128.andnot(v128.load(p.mean + offset), v128.splat<i64>(-i64(constants)));
      const near = f64x2.gt(f64x2.mul(invStd, invStd), f64x2.splat(reach));
      const hi = f32x4.demote_f64x2_zero(v128.and(mean, near));
      const scale = f64x2.mul(Pair.valuesOr(gamma, channel, f64x2.splat(1)), invStd);
      const low = f64x2.sub(mean, Lanes.low(hi));
      const shift = f64x2.sub(Pair.valuesOr(beta, channel, f64x2.splat(0)), f64x2.mul(low, scale));
      v128.store64_lane(entry, hi, 0);
      Pair.store(entry + row, Pair.limited(scale));
      Pair.store(entry + 2 * row, shift);
    }
  for (; channel < end; ++channel) {
    const entry = p.coefficients + Lanes.bytes<T>(channel);
    const invStd = load<f64>(p.invStd + Lanes.bytes<f64>(channel));
    const mean = constants ? 0 : load<f64>(p.mean + Lanes.bytes<f64>(channel));
    const near = !Lanes.accumulatesInF64<T>() || invStd * invStd > reach;
    const hi = near ? <T>mean : <T>0;
    const scale = valueOr<T>(gamma, channel, 1) * invStd;
    store<T>(entry, hi);
    store<T>(entry + row, limited<T>(scale));
    store<T>(entry + 2 * row, <T>(valueOr<T>(beta, channel, 0) - (mean - <f64>hi) * scale));
  }
}

/**
 * Writes the rows of map Affine of channels [begin, end) (F6). With `constants` they are those of dx = gamma·invStd·dy,
 * for statistics that are constants: 0, gamma·invStd and 0.
 */
export function affineRows<T>(p: Plan, gamma: usize, beta: usize, constants: bool, begin: usize, end: usize): void {
  writeAffine<T>(p, gamma, beta, constants, begin, end);
  broadcastRows<T>(3, p);
}

/**
 * Writes the rows hi, scale, shift and xCoefficient of map Gradient (B4 to B6) of channels [begin, end). dGamma and
 * dBeta are sums over `count` values. With `activated` it also writes a fifth row, the shift of z (F6), which depends
 * on beta.
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
  writeAffine<T>(p, gamma, beta, false, begin, end);
  const row = Lanes.bytes<T>(p.columns);
  if (activated) {
    const first = p.coefficients + Lanes.bytes<T>(begin);
    memory.copy(first + 4 * row, first + 2 * row, Lanes.bytes<T>(end - begin));
  }
  let channel = begin;
  if (Lanes.accumulatesInF64<T>())
    for (; channel + 2 <= end; channel += 2) {
      const entry = p.coefficients + Lanes.bytes<T>(channel);
      const offset = Lanes.bytes<f64>(channel);
      const low = f64x2.sub(v128.load(p.mean + offset), Pair.load(entry));
      const counts = f64x2.splat(count);
      const product = f64x2.mul(f64x2.neg(v128.load(p.invStd + offset)), v128.load(p.dGamma + offset));
      const xCoefficient = f64x2.div(product, counts); // B4
      const dBeta = f64x2.div(f64x2.neg(v128.load(p.dBeta + offset)), counts);
      Pair.store(entry + 2 * row, f64x2.sub(dBeta, f64x2.mul(low, xCoefficient))); // B5
      Pair.store(entry + 3 * row, Pair.limited(xCoefficient));
    }
  for (; channel < end; ++channel) {
    const entry = p.coefficients + Lanes.bytes<T>(channel);
    const offset = Lanes.bytes<f64>(channel);
    const low = load<f64>(p.mean + offset) - <f64>load<T>(entry);
    const xCoefficient = (-load<f64>(p.invStd + offset) * load<f64>(p.dGamma + offset)) / count; // B4
    store<T>(entry + 2 * row, <T>(-load<f64>(p.dBeta + offset) / count - low * xCoefficient)); // B5
    store<T>(entry + 3 * row, limited<T>(xCoefficient));
  }
  broadcastRows<T>(activated ? 5 : 4, p);
}

/**
 * Writes the rows of map ScaledGradient of channels [begin, end): the rows of Gradient for gamma = 1, and a row of
 * gamma.
 */
export function scaledGradientRows<T>(p: Plan, gamma: usize, count: f64, begin: usize, end: usize): void {
  gradientRows<T>(p, 0, 0, count, false, begin, end);
  const row = p.coefficients + Lanes.bytes<T>(4 * p.columns);
  for (let channel = begin; channel < end; ++channel)
    store<T>(row + Lanes.bytes<T>(channel), <T>valueOr<T>(gamma, channel, 1));
  if (p.columns != p.channels) broadcastToColumns<T>(row, p);
}
