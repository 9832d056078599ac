// Batches whose positions have weights w ≥ 0, such as those of a mask. A position is one value of every channel, and one
// of weight 0 is masked. The sums and the map differ from those without weights in this:
//
//   Moments     Σ w·d and Σ w·d·d over the selected positions, d = x − pivot
//   Gradients   Σ dy and Σ dy·d as without weights, but a masked position that is not finite in x or dy adds nothing
//   Gradient    dx = (w·((x − hi)·xCoefficient + shift) + dy)·scale
//
// Where w is 0, terms are left out and not multiplied by it, since 0·NaN is NaN. The host has scaled the weights so that
// their sum is the plan's count. They are rows, one for each image, of f64 for moments, and of T for the others:
//
//   w0 w1 … w(inner − 1) | w0 w1 w2        a row repeats its first values, so that a vector can begin at any column
//
// All values go to f64 before anything is subtracted from them or added to them. Sums of f64 are blocked and compensated.
// Vectors are of f32 only. Elements that are left, and those of f64, are taken one by one, which keeps the module small.

import { Plan } from "../plan";
import { Lanes } from "./lanes";
import { addErrors, Entries, Gradients, Moments, ROWS_DOWN } from "./sums";

/** The values that a row of weights repeats at its end: one less than the lanes of a vector. */
const REPEATED: usize = 3;

/** Steps of a plane that are summed before they are added to the entry of their channel. */
const BLOCK_STEPS: usize = 64;

/** The same of f64, whose sums have nothing wider to go to: as many as its sums without weights have in one chain. */
const BLOCK_STEPS_F64: usize = 16;

/** Bytes of narrow images that are summed down a column at once. They stay in the first-level cache, as do those of dy. */
const BYTES_DOWN: usize = 1 << 12;

/** Returns the bytes of a row of weights, of `bytes` bytes each. */
function weightsRow(plan: Plan, bytes: usize): usize {
  return (plan.inner + REPEATED) * bytes;
}

/** Returns the elements of a step if `left` are left. */
function lanesOf(plan: Plan, left: usize): usize {
  return plan.elementBytes == 4 && left >= 4 ? 4 : 1;
}

/** Returns the element of f32 or f64 at an address. */
function read(address: usize, bytes: usize): f64 {
  return bytes == 4 ? <f64>load<f32>(address) : load<f64>(address);
}

/** Adds a value to a sum in f64 and, if there is an address of errors, the rounding error of that to those. */
function add(sum: usize, errors: usize, value: f64): void {
  const before = load<f64>(sum);
  const after = before + value;
  store<f64>(sum, after);
  if (!errors) return;
  const added = after - before;
  store<f64>(errors, load<f64>(errors) + (before - (after - added)) + (value - added));
}

/** Adds `steps` elements, `stride` bytes apart, to an entry of the plan's sums. */
function sumElements(
  plan: Plan,
  x: usize,
  dy: usize,
  weights: usize,
  column: usize,
  entry: usize,
  stride: usize,
  weightStride: usize,
  steps: usize,
  gradients: bool,
): void {
  const bytes = plan.elementBytes;
  const pivot = read(plan.coefficients + column * bytes, bytes);
  let sum: f64 = 0;
  let dot: f64 = 0;
  for (; steps; --steps) {
    const w = read(weights, gradients ? bytes : 8);
    const d = read(x, bytes) - pivot;
    const u = gradients ? read(dy, bytes) : w * d;
    // 0·NaN and 0·infinity are NaN
    if (w != 0 || (gradients && d * 0 * u == 0)) {
      sum += u;
      dot += u * d;
    }
    x += stride;
    dy += stride;
    weights += weightStride;
  }
  const offset = Lanes.bytes<f64>(entry);
  const errors: usize = bytes == 8 ? plan.scratch + offset : 0;
  add(plan.sum + offset, errors, sum);
  add(plan.dot + offset, errors ? errors + Lanes.bytes<f64>(plan.columns * plan.stripes) : 0, dot);
}

/**
 * Adds `steps` vectors of f32 to an entry of the plan's sums. The steps are `stride` bytes apart in x and dy, and
 * `weightStride` bytes in the weights. With `across` all lanes belong to one channel, and otherwise to columns. With
 * `selects`, what a position of weight 0 must not add is left out. Without it, which is faster, all values are taken as
 * they are. If one of them is not finite, nothing is added, and the result is false.
 */
function sumVectors<S extends Moments>(
  plan: Plan,
  x: usize,
  dy: usize,
  weights: usize,
  column: usize,
  entry: usize,
  stride: usize,
  weightStride: usize,
  steps: usize,
  across: bool,
  selects: bool,
): bool {
  const gradients = changetype<S>(<usize>0).sources == 2;
  const at = plan.coefficients + Lanes.bytes<f32>(column);
  const pivot = across ? v128.load32_splat(at) : v128.load(at);
  const zero = v128.splat<f32>(0);
  const pivotLow = Lanes.low(pivot);
  const pivotHigh = Lanes.high(pivot);
  let sumLow = f64x2.splat(0);
  let sumHigh = sumLow;
  let dotLow = sumLow;
  let dotHigh = sumLow;
  for (; steps; --steps) {
    let v = v128.load(x);
    let g = gradients ? v128.load(dy) : v;
    const low = gradients ? v : v128.load(weights);
    const high = gradients ? v : v128.load(weights, 16);
    if (selects && gradients) {
      const finite = f32x4.eq(f32x4.mul(f32x4.mul(v, zero), g), zero);
      const taken = v128.or(f32x4.ne(v128.load(weights), zero), finite);
      v = v128.and(v, taken);
      g = v128.and(g, taken);
    } else if (selects) {
      // the upper 32 bits of a weight are 0 if it is 0, or if it is too small for any sum
      const masked = i32x4.eq(v128.shuffle<u32>(low, high, 1, 3, 5, 7), zero);
      v = v128.andnot(v, masked);
    }
    const dLow = f64x2.sub(Lanes.low(v), pivotLow);
    const dHigh = f64x2.sub(Lanes.high(v), pivotHigh);
    const uLow = gradients ? Lanes.low(g) : f64x2.mul(low, dLow);
    const uHigh = gradients ? Lanes.high(g) : f64x2.mul(high, dHigh);
    sumLow = f64x2.add(sumLow, uLow);
    sumHigh = f64x2.add(sumHigh, uHigh);
    dotLow = Lanes.madd<f64>(uLow, dLow, dotLow);
    dotHigh = Lanes.madd<f64>(uHigh, dHigh, dotHigh);
    x += stride;
    dy += stride;
    weights += weightStride;
  }
  if (!selects) {
    // a value that is not finite makes this NaN
    const product = f64x2.mul(f64x2.mul(dotLow, zero), dotHigh);
    if (!v128.all_true<i64>(f64x2.eq(product, product))) return false;
  }
  Entries.add(plan.sum + Lanes.bytes<f64>(entry), sumLow, sumHigh, across);
  Entries.add(plan.dot + Lanes.bytes<f64>(entry), dotLow, dotHigh, across);
  return true;
}

/** Adds steps of `lanes` elements: vectors, or one element. */
function sumSteps(
  plan: Plan,
  x: usize,
  dy: usize,
  weights: usize,
  column: usize,
  entry: usize,
  stride: usize,
  weightStride: usize,
  steps: usize,
  gradients: bool,
  across: bool,
  lanes: usize,
): void {
  if (lanes == 1) sumElements(plan, x, dy, weights, column, entry, stride, weightStride, steps, gradients);
  else if (gradients) {
    if (!sumVectors<Gradients>(plan, x, dy, weights, column, entry, stride, weightStride, steps, across, false))
      sumVectors<Gradients>(plan, x, dy, weights, column, entry, stride, weightStride, steps, across, true);
  } else if (!sumVectors<Moments>(plan, x, dy, weights, column, entry, stride, weightStride, steps, across, false))
    sumVectors<Moments>(plan, x, dy, weights, column, entry, stride, weightStride, steps, across, true);
}

/** Adds the planes of channels [begin, end) of the planar walk. */
function sumPlanes(plan: Plan, x: usize, dy: usize, weights: usize, gradients: bool, begin: usize, end: usize): void {
  const bytes = plan.elementBytes;
  const weightBytes = gradients ? bytes : sizeof<f64>();
  const most = bytes == 8 ? BLOCK_STEPS_F64 : BLOCK_STEPS;
  for (let n: usize = 0; n < plan.outer; ++n) {
    for (let channel = begin; channel < end; ++channel) {
      let at = (n * plan.pitch + channel) * plan.inner * bytes;
      let w = weights;
      let left = plan.inner;
      while (left) {
        const lanes = lanesOf(plan, left);
        const steps = min(left / lanes, most);
        const stride = lanes * bytes;
        const weightStride = lanes * weightBytes;
        sumSteps(plan, x + at, dy + at, w, channel, channel, stride, weightStride, steps, gradients, true, lanes);
        left -= steps * lanes;
        at += steps * stride;
        w += steps * weightStride;
      }
    }
    weights += weightsRow(plan, weightBytes);
  }
}

/** Adds the images of one stripe of the interleaved walk to the entries from `entry` on, down a few images at a time. */
function sumColumns(
  plan: Plan,
  x: usize,
  dy: usize,
  weights: usize,
  gradients: bool,
  stripe: usize,
  entry: usize,
): void {
  const bytes = plan.elementBytes;
  const weightBytes = gradients ? bytes : sizeof<f64>();
  const period = plan.period;
  const inner = plan.inner;
  const row = weightsRow(plan, weightBytes);
  const image = period * bytes;
  const size = plan.stripe * plan.columns;
  let n = (stripe * size) / period;
  const last = min((stripe + 1) * size, plan.length) / period;
  const down = bytes == 8 ? BLOCK_STEPS_F64 : max(ROWS_DOWN, BYTES_DOWN / image);
  while (n < last) {
    const steps = min(last - n, down);
    let position: usize = 0;
    for (let column: usize = 0; column < period; ) {
      const at = n * image + column * bytes;
      const w = weights + n * row + position * weightBytes;
      const lanes = lanesOf(plan, period - column);
      sumSteps(plan, x + at, dy + at, w, column, entry + column, image, row, steps, gradients, false, lanes);
      column += lanes;
      position = (position + lanes) % inner;
    }
    n += steps;
  }
}

/**
 * Computes the sums of units [begin, end): channels of the planar walk, or stripes. Entries are where `statistics` has
 * those of f64 sums of f32, and those of f64.
 */
export function sumWeighted(
  plan: Plan,
  x: usize,
  dy: usize,
  weights: usize,
  gradients: bool,
  begin: usize,
  end: usize,
): void {
  const isF64 = plan.elementBytes == 8;
  const entries: usize = plan.planar ? 1 : isF64 ? plan.columns : plan.period;
  const first = begin * entries;
  const offset = Lanes.bytes<f64>(first);
  const bytes = Lanes.bytes<f64>((end - begin) * entries);
  const errors = plan.scratch;
  const dotErrors = errors + Lanes.bytes<f64>(plan.columns * plan.stripes);
  memory.fill(plan.sum + offset, 0, bytes);
  memory.fill(plan.dot + offset, 0, bytes);
  if (isF64) {
    memory.fill(errors + offset, 0, bytes);
    memory.fill(dotErrors + offset, 0, bytes);
  }
  // moments read no second source
  if (!gradients) dy = x;
  if (plan.planar) sumPlanes(plan, x, dy, weights, gradients, begin, end);
  else
    for (let stripe = begin; stripe < end; ++stripe)
      sumColumns(plan, x, dy, weights, gradients, stripe, stripe * entries);
  if (isF64) {
    addErrors(plan.sum, errors, 8, plan.sum, first, end * entries);
    addErrors(plan.dot, dotErrors, 8, plan.dot, first, end * entries);
  }
}

/** Maps the last elements of a run one by one, or all of f64. The row of weights ends at `end`. */
function mapElements(
  plan: Plan,
  x: usize,
  dy: usize,
  weights: usize,
  end: usize,
  y: usize,
  hi: usize,
  length: usize,
): void {
  const bytes = plan.elementBytes;
  const row = plan.columns * bytes;
  for (; length; --length) {
    const w = read(weights, bytes);
    const flow = (read(x, bytes) - read(hi, bytes)) * read(hi + 3 * row, bytes) + read(hi + 2 * row, bytes);
    const dx = ((w != 0 ? w * flow : 0) + read(dy, bytes)) * read(hi + row, bytes);
    if (bytes == 4) store<f32>(y, <f32>dx);
    else store<f64>(y, dx);
    x += bytes;
    dy += bytes;
    y += bytes;
    weights += bytes;
    if (plan.planar) continue;
    hi += bytes;
    if (weights >= end) weights -= plan.inner * bytes;
  }
}

/** A run of one plane, whose elements have the same coefficients. */
@final
@unmanaged
class PlaneRun {
  @inline get columns(): bool {
    return false;
  }
}

/** A run of the columns of one image, which have their own coefficients each. */
@final
@unmanaged
class ColumnsRun {
  @inline get columns(): bool {
    return true;
  }
}

/**
 * Maps `length` elements of f32 that lie together. `step` is the distance of the weights of two vectors, in bytes, and
 * the row of weights ends at `end`.
 */
function mapRun<C extends PlaneRun>(
  plan: Plan,
  x: usize,
  dy: usize,
  weights: usize,
  end: usize,
  y: usize,
  hi: usize,
  length: usize,
  step: usize,
): void {
  const columns = changetype<C>(<usize>0).columns;
  const row = Lanes.bytes<f32>(plan.columns);
  const back = Lanes.bytes<f32>(plan.inner);
  let h = v128.load32_splat(hi);
  let scale = v128.load32_splat(hi + row);
  let shift = v128.load32_splat(hi + 2 * row);
  let xCoefficient = v128.load32_splat(hi + 3 * row);
  for (; length >= 4; length -= 4) {
    if (columns) {
      h = v128.load(hi);
      scale = v128.load(hi + row);
      shift = v128.load(hi + 2 * row);
      xCoefficient = v128.load(hi + 3 * row);
      hi += 16;
    }
    const w = v128.load(weights);
    const flow = f32x4.mul(w, Lanes.madd<f32>(f32x4.sub(v128.load(x), h), xCoefficient, shift));
    const selected = v128.and(flow, f32x4.ne(w, v128.splat<f32>(0)));
    v128.store(y, f32x4.mul(f32x4.add(selected, v128.load(dy)), scale));
    x += 16;
    dy += 16;
    y += 16;
    weights += step;
    if (columns && weights >= end) weights -= back;
  }
  if (length) mapElements(plan, x, dy, weights, end, y, hi, length);
}

/** Maps units [begin, end): channels of the planar walk, or rows. */
export function mapWeighted(plan: Plan, x: usize, dy: usize, weights: usize, y: usize, begin: usize, end: usize): void {
  const planar = plan.planar;
  const bytes = plan.elementBytes;
  const period = plan.period;
  // planes of channels [begin, end) of all images, or all columns of some images
  let n: usize = planar ? 0 : (begin * plan.columns) / period;
  const last = planar ? plan.outer : min(end * plan.columns, plan.length) / period;
  const first: usize = planar ? begin : 0;
  const runs: usize = planar ? end : 1;
  const length = planar ? plan.inner : period;
  const image = (planar ? plan.pitch * length : period) * bytes;
  const step: usize = planar ? 16 : (4 % plan.inner) * 4;
  for (; n < last; ++n)
    for (let run = first; run < runs; ++run) {
      const at = n * image + run * length * bytes;
      const w = weights + n * weightsRow(plan, bytes);
      const wEnd = w + plan.inner * bytes;
      const hi = plan.coefficients + run * bytes;
      if (bytes == 8) mapElements(plan, x + at, dy + at, w, wEnd, y + at, hi, length);
      else if (planar) mapRun<PlaneRun>(plan, x + at, dy + at, w, wEnd, y + at, hi, length, step);
      else mapRun<ColumnsRun>(plan, x + at, dy + at, w, wEnd, y + at, hi, length, step);
    }
}
