// Channel sums: the first of the two primitives. Per channel, with d = x − pivot,
//
//   Moments       Σ d    Σ d·d       pivot: the mean of the channel's first values         (docs/batchnorm.md, F1, F2)
//   Gradients     Σ dy   Σ dy·d      pivot: hi, the mean in T                              (docs/batchnorm.md, B1, B2)
//
// Both are Σ u and Σ u·d with u = d or u = dy. With an activation, a type of activations.ts, u = dy·f′(z) with
// z = d·scale + shift: then `pivot` is the first of the rows hi, scale, shift of maps.ts's coefficients, and z has the bits
// that it has in the map. Sums go to two arrays of f64, `sum` and `dot`: one entry per channel in the planar walk, one per
// column in the interleaved walk. Entries in the range are written afresh.
//
// Blocked summation (Higham 2002, section 4.3) in three precisions, whose errors are in docs/numerics.md:
//
//   Blocked64   up to 64 values are summed in T, the blocks in f64
//   Blocked4    four vectors of a plane, or four values of a column, are summed in T, those sums in f64
//   InF64       every value goes to f64 before anything is subtracted from it or added to it
//
// Where T is f64, sums are Blocked64, and the rounding errors of the sum of the blocks are summed beside it and added at the
// end (compensated summation).

import { Plan } from "../plan";
import { Identity } from "./activations";
import { Lanes, Single, Whole } from "./lanes";

/** u = d. Reads one source. */
@final
@unmanaged
export class Moments {
  @inline get sources(): i32 {
    return 1;
  }
}

/** u = dy. */
@final
@unmanaged
export class Gradients {
  @inline get sources(): i32 {
    return 2;
  }
}

/** Up to 64 values are summed in T. */
@final
@unmanaged
export class Blocked64 {
  @inline get blocked64(): bool {
    return true;
  }

  @inline get blocked4(): bool {
    return false;
  }
}

/** Four values are summed in T. */
@final
@unmanaged
export class Blocked4 {
  @inline get blocked64(): bool {
    return false;
  }

  @inline get blocked4(): bool {
    return true;
  }
}

/** Every value is summed in f64. */
@final
@unmanaged
export class InF64 {
  @inline get blocked64(): bool {
    return false;
  }

  @inline get blocked4(): bool {
    return false;
  }
}

/** Adds the lanes of a step to the sums: all lanes belong to one channel. */
@final
@unmanaged
class OneChannel {
  @inline add(sums: usize, low: v128, high: v128): void {
    store<f64>(sums, load<f64>(sums) + Lanes.sum(f64x2.add(low, high)));
  }
}

/** Adds the lanes of a step to the sums: each lane belongs to a column of its own. */
@final
@unmanaged
class Columns {
  @inline add(sums: usize, low: v128, high: v128): void {
    v128.store(sums, f64x2.add(v128.load(sums), low));
    v128.store(sums, f64x2.add(v128.load(sums, 16), high), 16);
  }
}

/** The activation's part in a sum: u from dy, and the rows scale and shift that it needs for z. */
abstract class ActivationGate {
  /** u of one step, in T: d itself, or dy·f′(z). `shift` is as E's prepareShift returns it. */
  @inline static u<T extends number, S extends Moments, E extends Identity, W extends Whole>(
    dy: usize,
    d: v128,
    scale: v128,
    shift: v128,
    parameters: usize,
  ): v128 {
    const f = changetype<E>(<usize>0);
    if (changetype<S>(<usize>0).sources == 1) return d;
    const w = changetype<W>(<usize>0).load<T>(dy);
    return f.gate<T>(w, d, scale, shift, parameters);
  }

  /** The value at `pointer` in all lanes, if the activation needs it; else `pivot`, which nothing reads. */
  @inline static splat<T, E extends Identity>(pointer: usize, pivot: v128): v128 {
    return changetype<E>(<usize>0).needsInput ? v128.load_splat<T>(pointer) : pivot;
  }

  /** The values at `pointer`, one per lane, if the activation needs them; else `pivot`, which nothing reads. */
  @inline static load<T, E extends Identity, W extends Whole>(pointer: usize, pivot: v128): v128 {
    return changetype<E>(<usize>0).needsInput ? changetype<W>(<usize>0).load<T>(pointer) : pivot;
  }
}

/** Sums of four vectors: one as a tree; one as a chain, which leaves most of its additions to fused multiply-add. */
abstract class Tree {
  @inline static sum<T>(a: v128, b: v128, c: v128, d: v128): v128 {
    return v128.add<T>(v128.add<T>(a, b), v128.add<T>(c, d));
  }

  @inline static dot<T>(a0: v128, b0: v128, a1: v128, b1: v128, a2: v128, b2: v128, a3: v128, b3: v128): v128 {
    return Lanes.madd<T>(a0, b0, Lanes.madd<T>(a1, b1, Lanes.madd<T>(a2, b2, v128.mul<T>(a3, b3))));
  }
}

/** Adds `steps` steps of width W, `stride` bytes apart, in f64. Lanes that W does not use are zero in the pivot, too. */
function sumStepsInF64<T extends number, S extends Moments, E extends Identity, W extends Whole, O extends OneChannel>(
  x: usize,
  dy: usize,
  parameters: usize,
  pivot: v128,
  scale: v128,
  shift: v128,
  sum: usize,
  dot: usize,
  stride: usize,
  steps: usize,
): void {
  const two = changetype<S>(<usize>0).sources == 2;
  const width = changetype<W>(<usize>0);
  const pLow = Lanes.low(pivot);
  const pHigh = Lanes.high(pivot);
  let fLow = f64x2.splat(0);
  let fHigh = f64x2.splat(0);
  let sLow = f64x2.splat(0);
  let sHigh = f64x2.splat(0);
  for (; steps; --steps) {
    const v = width.load<T>(x);
    const dLow = f64x2.sub(Lanes.low(v), pLow);
    const dHigh = f64x2.sub(Lanes.high(v), pHigh);
    const w = two ? ActivationGate.u<T, S, E, W>(dy, v128.sub<T>(v, pivot), scale, shift, parameters) : v;
    const uLow = two ? Lanes.low(w) : dLow;
    const uHigh = two ? Lanes.high(w) : dHigh;
    fLow = f64x2.add(fLow, uLow);
    fHigh = f64x2.add(fHigh, uHigh);
    sLow = Lanes.madd<f64>(uLow, dLow, sLow);
    sHigh = Lanes.madd<f64>(uHigh, dHigh, sHigh);
    x += stride;
    dy += stride;
  }
  changetype<O>(<usize>0).add(sum, fLow, fHigh);
  changetype<O>(<usize>0).add(dot, sLow, sHigh);
}

/** Adds `blocks` blocks of four vectors, `stride` bytes apart, each lane to a column of its own. */
function sumStepsBlocked4<T extends number, S extends Moments, E extends Identity>(
  x: usize,
  dy: usize,
  parameters: usize,
  pivot: v128,
  scale: v128,
  shift: v128,
  sum: usize,
  dot: usize,
  stride: usize,
  blocks: usize,
): void {
  let fLow = f64x2.splat(0);
  let fHigh = f64x2.splat(0);
  let sLow = f64x2.splat(0);
  let sHigh = f64x2.splat(0);
  for (; blocks; --blocks) {
    const d0 = v128.sub<T>(v128.load(x), pivot);
    const d1 = v128.sub<T>(v128.load(x + stride), pivot);
    const d2 = v128.sub<T>(v128.load(x + 2 * stride), pivot);
    const d3 = v128.sub<T>(v128.load(x + 3 * stride), pivot);
    const u0 = ActivationGate.u<T, S, E, Whole>(dy, d0, scale, shift, parameters);
    const u1 = ActivationGate.u<T, S, E, Whole>(dy + stride, d1, scale, shift, parameters);
    const u2 = ActivationGate.u<T, S, E, Whole>(dy + 2 * stride, d2, scale, shift, parameters);
    const u3 = ActivationGate.u<T, S, E, Whole>(dy + 3 * stride, d3, scale, shift, parameters);
    const u = Tree.sum<T>(u0, u1, u2, u3);
    const ud = Tree.dot<T>(u0, d0, u1, d1, u2, d2, u3, d3);
    fLow = f64x2.add(fLow, Lanes.low(u));
    fHigh = f64x2.add(fHigh, Lanes.high(u));
    sLow = f64x2.add(sLow, Lanes.low(ud));
    sHigh = f64x2.add(sHigh, Lanes.high(ud));
    x += 4 * stride;
    dy += 4 * stride;
  }
  changetype<Columns>(<usize>0).add(sum, fLow, fHigh);
  changetype<Columns>(<usize>0).add(dot, sLow, sHigh);
}

/** Sums of f64 in f64, which is not wider: their rounding errors are summed beside them and added at the end. */
abstract class Compensated {
  /** Offset of the planar walk's entry for a channel: the sum, or of f64 the sum and its rounding error. */
  @inline static bytes<T>(channel: usize): usize {
    return channel << (Lanes.accumulatesInF64<T>() ? 3 : 4);
  }

  /** Adds the lanes of Σ u and Σ u·d, with their rounding errors, to the entries of their channel. */
  @inline static add(sum: usize, dot: usize, u: v128, ud: v128, errorU: v128, errorUd: v128): void {
    const low = v128.shuffle<u64>(u, ud, 0, 2);
    const high = v128.shuffle<u64>(u, ud, 1, 3);
    const more = f64x2.add(low, high);
    const before = v128.shuffle<u64>(v128.load(sum), v128.load(dot), 0, 2);
    const after = f64x2.add(before, more);
    let error = v128.shuffle<u64>(v128.load(sum), v128.load(dot), 1, 3);
    error = f64x2.add(error, v128.shuffle<u64>(errorU, errorUd, 0, 2));
    error = f64x2.add(error, v128.shuffle<u64>(errorU, errorUd, 1, 3));
    error = f64x2.add(error, f64x2.add(Lanes.roundingError(low, high, more), Lanes.roundingError(before, more, after)));
    v128.store(sum, v128.shuffle<u64>(after, error, 0, 2));
    v128.store(dot, v128.shuffle<u64>(after, error, 1, 3));
  }

  /** Moves running sums of the interleaved walk to `sums`, whose rounding errors stand `gap` bytes behind the running sums. */
  @inline static move<W extends Whole>(group: usize, sums: usize, gap: usize): void {
    const width = changetype<W>(<usize>0);
    const more = width.load<f64>(group);
    const before = width.load<f64>(sums);
    const after = f64x2.add(before, more);
    width.store<f64>(sums, after);
    width.store<f64>(group + gap, f64x2.add(width.load<f64>(group + gap), Lanes.roundingError(before, more, after)));
    width.store<f64>(group, f64x2.splat(0));
  }
}

/** target[i] = sums[i] + errors[i] for i in [begin, end); the entries of both lie `stride` bytes apart. */
function join(sums: usize, errors: usize, stride: usize, target: usize, begin: usize, end: usize): void {
  const single = changetype<Single>(<usize>0);
  for (; begin < end; ++begin) {
    const whole = Lanes.compensated(single.load<f64>(sums + begin * stride), single.load<f64>(errors + begin * stride));
    single.store<f64>(target + Lanes.bytes<f64>(begin), whole);
  }
}

/** A loop over planes reads one plane at a time. */
@final
@unmanaged
class OneStream {
  @inline get two(): bool {
    return false;
  }
}

/** A loop over planes reads two at a time, which lie `gap` bytes apart. */
@final
@unmanaged
class TwoStreams {
  @inline get two(): bool {
    return true;
  }
}

/** Steps of four vectors that are summed in T before they go to f64: of f32 64 values. */
const BLOCK_STEPS: usize = 4;

/** Adds one plane of `length` elements, or two, to the sums of their channel. */
function sumPlaneBlocked<
  T extends number,
  S extends Moments,
  E extends Identity,
  N extends OneStream,
  P extends Blocked64,
>(
  a: usize,
  b: usize,
  gap: usize,
  parameters: usize,
  pivot: usize,
  row: usize,
  sum: usize,
  dot: usize,
  length: usize,
): void {
  const lanes = Lanes.count<T>();
  const two = changetype<N>(<usize>0).two;
  const most: usize = changetype<P>(<usize>0).blocked4 ? 1 : two ? BLOCK_STEPS / 2 : BLOCK_STEPS;
  const p = v128.load_splat<T>(pivot);
  const scale = ActivationGate.splat<T, E>(pivot + row, p);
  const shift = changetype<E>(<usize>0).prepareShift<T>(ActivationGate.splat<T, E>(pivot + 2 * row, p));
  let sumU = f64x2.splat(0);
  let sumUd = f64x2.splat(0);
  let errorU = f64x2.splat(0);
  let errorUd = f64x2.splat(0);
  while (length) {
    let u = v128.splat<T>(<T>0);
    let ud = u;
    let steps = min(length / (4 * lanes), most);
    length -= steps * 4 * lanes;
    if (steps) {
      for (; steps; --steps) {
        let d0 = v128.sub<T>(v128.load(a), p);
        let d1 = v128.sub<T>(v128.load(a, 16), p);
        let d2 = v128.sub<T>(v128.load(a, 32), p);
        let d3 = v128.sub<T>(v128.load(a, 48), p);
        let u0 = ActivationGate.u<T, S, E, Whole>(b, d0, scale, shift, parameters);
        let u1 = ActivationGate.u<T, S, E, Whole>(b + 16, d1, scale, shift, parameters);
        let u2 = ActivationGate.u<T, S, E, Whole>(b + 32, d2, scale, shift, parameters);
        let u3 = ActivationGate.u<T, S, E, Whole>(b + 48, d3, scale, shift, parameters);
        u = v128.add<T>(u, Tree.sum<T>(u0, u1, u2, u3));
        ud = v128.add<T>(ud, Tree.dot<T>(u0, d0, u1, d1, u2, d2, u3, d3));
        if (two) {
          const e = a + gap;
          const f = b + gap;
          d0 = v128.sub<T>(v128.load(e), p);
          d1 = v128.sub<T>(v128.load(e, 16), p);
          d2 = v128.sub<T>(v128.load(e, 32), p);
          d3 = v128.sub<T>(v128.load(e, 48), p);
          u0 = ActivationGate.u<T, S, E, Whole>(f, d0, scale, shift, parameters);
          u1 = ActivationGate.u<T, S, E, Whole>(f + 16, d1, scale, shift, parameters);
          u2 = ActivationGate.u<T, S, E, Whole>(f + 32, d2, scale, shift, parameters);
          u3 = ActivationGate.u<T, S, E, Whole>(f + 48, d3, scale, shift, parameters);
          u = v128.add<T>(u, Tree.sum<T>(u0, u1, u2, u3));
          ud = v128.add<T>(ud, Tree.dot<T>(u0, d0, u1, d1, u2, d2, u3, d3));
        }
        a += 64;
        b += 64;
      }
    } else {
      const whole = changetype<Whole>(<usize>0);
      for (; length >= lanes; length -= lanes) {
        let d = v128.sub<T>(whole.load<T>(a), p);
        let v = ActivationGate.u<T, S, E, Whole>(b, d, scale, shift, parameters);
        u = v128.add<T>(u, v);
        ud = Lanes.madd<T>(v, d, ud);
        if (two) {
          d = v128.sub<T>(whole.load<T>(a + gap), p);
          v = ActivationGate.u<T, S, E, Whole>(b + gap, d, scale, shift, parameters);
          u = v128.add<T>(u, v);
          ud = Lanes.madd<T>(v, d, ud);
        }
        a += 16;
        b += 16;
      }
      const single = changetype<Single>(<usize>0);
      const lone = single.load<T>(pivot);
      for (; length; --length) {
        let d = v128.sub<T>(single.load<T>(a), lone);
        let v = ActivationGate.u<T, S, E, Single>(b, d, scale, shift, parameters);
        u = v128.add<T>(u, v);
        ud = Lanes.madd<T>(v, d, ud);
        if (two) {
          d = v128.sub<T>(single.load<T>(a + gap), lone);
          v = ActivationGate.u<T, S, E, Single>(b + gap, d, scale, shift, parameters);
          u = v128.add<T>(u, v);
          ud = Lanes.madd<T>(v, d, ud);
        }
        a += sizeof<T>();
        b += sizeof<T>();
      }
    }
    if (!Lanes.accumulatesInF64<T>()) {
      const nextU = f64x2.add(sumU, u);
      const nextUd = f64x2.add(sumUd, ud);
      errorU = f64x2.add(errorU, Lanes.roundingError(sumU, u, nextU));
      errorUd = f64x2.add(errorUd, Lanes.roundingError(sumUd, ud, nextUd));
      sumU = nextU;
      sumUd = nextUd;
      continue;
    }
    sumU = f64x2.add(sumU, f64x2.add(Lanes.low(u), Lanes.high(u)));
    sumUd = f64x2.add(sumUd, f64x2.add(Lanes.low(ud), Lanes.high(ud)));
  }
  if (!Lanes.accumulatesInF64<T>()) {
    Compensated.add(sum, dot, sumU, sumUd, errorU, errorUd);
    return;
  }
  store<f64>(sum, load<f64>(sum) + Lanes.sum(sumU));
  store<f64>(dot, load<f64>(dot) + Lanes.sum(sumUd));
}

/** Adds `length` elements of one channel in f64. `pivot` points at the channel's pivot. */
function sumPlaneInF64<T extends number, S extends Moments, E extends Identity>(
  x: usize,
  dy: usize,
  parameters: usize,
  pivot: usize,
  row: usize,
  sum: usize,
  dot: usize,
  length: usize,
): void {
  const lanes = Lanes.count<T>();
  const whole = length / lanes;
  const p = v128.load_splat<T>(pivot);
  const scale = ActivationGate.splat<T, E>(pivot + row, p);
  const shift = changetype<E>(<usize>0).prepareShift<T>(ActivationGate.splat<T, E>(pivot + 2 * row, p));
  sumStepsInF64<T, S, E, Whole, OneChannel>(x, dy, parameters, p, scale, shift, sum, dot, 16, whole);
  const lone = changetype<Single>(<usize>0).load<T>(pivot);
  sumStepsInF64<T, S, E, Single, OneChannel>(
    x + whole * 16,
    dy + whole * 16,
    parameters,
    lone,
    scale,
    shift,
    sum,
    dot,
    sizeof<T>(),
    length % lanes,
  );
}

/**
 * Sums of the planes of channels [begin, end), in memory order. Moments in blocks of 64 read both halves of the samples at
 * once.
 */
function sumPlanes<T extends number, S extends Moments, E extends Identity, P extends Blocked64>(
  plan: Plan,
  x: usize,
  dy: usize,
  parameters: usize,
  sum: usize,
  dot: usize,
  begin: usize,
  end: usize,
): void {
  const blocked64 = changetype<P>(<usize>0).blocked64;
  const inF64 = !blocked64 && !changetype<P>(<usize>0).blocked4;
  const outer = plan.outer;
  const pitch = plan.pitch;
  const inner = plan.inner;
  const pivot = plan.coefficients;
  memory.fill(sum + Compensated.bytes<T>(begin), 0, Compensated.bytes<T>(end - begin));
  memory.fill(dot + Compensated.bytes<T>(begin), 0, Compensated.bytes<T>(end - begin));
  const pairs: usize = blocked64 && changetype<S>(<usize>0).sources == 1 ? outer >> 1 : 0;
  const plane = Lanes.bytes<T>(inner);
  const row = Lanes.bytes<T>(plan.columns);
  const gap = pairs * pitch * plane;
  for (let n: usize = 0; n < outer - pairs; ++n) {
    const offset = ((n < pairs ? n : n + pairs) * pitch + begin) * plane;
    let a = x + offset;
    let b = dy + offset;
    for (let channel = begin; channel < end; ++channel) {
      const p = pivot + Lanes.bytes<T>(channel);
      const f = sum + Compensated.bytes<T>(channel);
      const s = dot + Compensated.bytes<T>(channel);
      if (inF64) sumPlaneInF64<T, S, E>(a, b, parameters, p, row, f, s, inner);
      else if (n < pairs) sumPlaneBlocked<T, S, E, TwoStreams, P>(a, b, gap, parameters, p, row, f, s, inner);
      else sumPlaneBlocked<T, S, E, OneStream, P>(a, b, 0, parameters, p, row, f, s, inner);
      a += plane;
      b += plane;
    }
  }
}

/** Sums of channels [begin, end) of the planar walk. Entries of float64 have their rounding errors in the scratch. */
export function sumPlanar<T extends number, S extends Moments, E extends Identity, P extends Blocked64>(
  plan: Plan,
  x: usize,
  dy: usize,
  parameters: usize,
  begin: usize,
  end: usize,
): void {
  if (Lanes.accumulatesInF64<T>()) {
    sumPlanes<T, S, E, P>(plan, x, dy, parameters, plan.sum, plan.dot, begin, end);
    return;
  }
  const sums = plan.scratch;
  const dots = sums + Compensated.bytes<T>(plan.channels);
  sumPlanes<T, S, E, P>(plan, x, dy, parameters, sums, dots, begin, end);
  join(sums, sums + 8, 16, plan.sum, begin, end);
  join(dots, dots + 8, 16, plan.dot, begin, end);
}

/**
 * Rows that are summed down a column at once, a multiple of four; more would push each other out of the first-level cache
 * where a row is 2 KiB long.
 */
const ROWS_DOWN: usize = 8;

/**
 * Sums of columns [begin, end) of the period, down the rows of one stripe: blocks of four where P allows it, else in f64.
 * Entries of a stripe are as many as the period has columns.
 */
export function sumColumns<T extends number, S extends Moments, E extends Identity, P extends Blocked64>(
  plan: Plan,
  x: usize,
  dy: usize,
  parameters: usize,
  stripe: usize,
  begin: usize,
  end: usize,
): void {
  const lanes = Lanes.count<T>();
  const period = plan.period;
  const size = plan.stripe * plan.columns;
  const first = stripe * size;
  const pivot = plan.coefficients;
  const sum = plan.sum + Lanes.bytes<f64>(stripe * period);
  const dot = plan.dot + Lanes.bytes<f64>(stripe * period);
  const row = Lanes.bytes<T>(period);
  const coefficientRow = Lanes.bytes<T>(plan.columns);
  let rows = (min(first + size, plan.length) - first) / period;
  x += Lanes.bytes<T>(first);
  dy += Lanes.bytes<T>(first);
  memory.fill(sum + Lanes.bytes<f64>(begin), 0, Lanes.bytes<f64>(end - begin));
  memory.fill(dot + Lanes.bytes<f64>(begin), 0, Lanes.bytes<f64>(end - begin));
  while (rows) {
    const steps = min(rows, ROWS_DOWN);
    let column = begin;
    for (; column + lanes <= end; column += lanes) {
      const at = Lanes.bytes<T>(column);
      const f = sum + Lanes.bytes<f64>(column);
      const s = dot + Lanes.bytes<f64>(column);
      const p = v128.load(pivot + at);
      const scale = ActivationGate.load<T, E, Whole>(pivot + at + coefficientRow, p);
      const z = ActivationGate.load<T, E, Whole>(pivot + at + 2 * coefficientRow, p);
      const shift = changetype<E>(<usize>0).prepareShift<T>(z);
      if (changetype<P>(<usize>0).blocked4 && steps == ROWS_DOWN)
        sumStepsBlocked4<T, S, E>(x + at, dy + at, parameters, p, scale, shift, f, s, row, ROWS_DOWN / 4);
      else sumStepsInF64<T, S, E, Whole, Columns>(x + at, dy + at, parameters, p, scale, shift, f, s, row, steps);
    }
    for (; column < end; ++column) {
      const at = Lanes.bytes<T>(column);
      const f = sum + Lanes.bytes<f64>(column);
      const s = dot + Lanes.bytes<f64>(column);
      const p = changetype<Single>(<usize>0).load<T>(pivot + at);
      const scale = ActivationGate.load<T, E, Single>(pivot + at + coefficientRow, p);
      const z = ActivationGate.load<T, E, Single>(pivot + at + 2 * coefficientRow, p);
      const shift = changetype<E>(<usize>0).prepareShift<T>(z);
      sumStepsInF64<T, S, E, Single, OneChannel>(x + at, dy + at, parameters, p, scale, shift, f, s, row, steps);
    }
    x += steps * row;
    dy += steps * row;
    rows -= steps;
  }
}

/**
 * One step of width W that adds rows of the interleaved walk to two rows of running sums. `row` is the distance of two rows
 * of coefficients.
 */
abstract class Row {
  /** Adds one row. */
  @inline static one<T extends number, S extends Moments, E extends Identity, W extends Whole>(
    x: usize,
    dy: usize,
    parameters: usize,
    pivot: usize,
    row: usize,
    sum: usize,
    dot: usize,
  ): void {
    const width = changetype<W>(<usize>0);
    const p = width.load<T>(pivot);
    const scale = ActivationGate.load<T, E, W>(pivot + row, p);
    const shift = changetype<E>(<usize>0).prepareShift<T>(ActivationGate.load<T, E, W>(pivot + 2 * row, p));
    const d = v128.sub<T>(width.load<T>(x), p);
    const u = ActivationGate.u<T, S, E, W>(dy, d, scale, shift, parameters);
    width.store<T>(sum, v128.add<T>(width.load<T>(sum), u));
    width.store<T>(dot, Lanes.madd<T>(u, d, width.load<T>(dot)));
  }

  /** Adds two rows that lie `gap` bytes apart. */
  @inline static two<T extends number, S extends Moments, E extends Identity, W extends Whole>(
    x: usize,
    dy: usize,
    gap: usize,
    parameters: usize,
    pivot: usize,
    row: usize,
    sum: usize,
    dot: usize,
  ): void {
    const width = changetype<W>(<usize>0);
    const p = width.load<T>(pivot);
    const scale = ActivationGate.load<T, E, W>(pivot + row, p);
    const shift = changetype<E>(<usize>0).prepareShift<T>(ActivationGate.load<T, E, W>(pivot + 2 * row, p));
    const d0 = v128.sub<T>(width.load<T>(x), p);
    const d1 = v128.sub<T>(width.load<T>(x + gap), p);
    const u0 = ActivationGate.u<T, S, E, W>(dy, d0, scale, shift, parameters);
    const u1 = ActivationGate.u<T, S, E, W>(dy + gap, d1, scale, shift, parameters);
    width.store<T>(sum, v128.add<T>(width.load<T>(sum), v128.add<T>(u0, u1)));
    const ud = Lanes.madd<T>(u0, d0, v128.mul<T>(u1, d1));
    width.store<T>(dot, v128.add<T>(width.load<T>(dot), ud));
  }
}

/**
 * Moves `columns` running sums in T to f64 and clears them. The rounding errors of f64 go two rows behind the running sums.
 */
function flush<T extends number>(group: usize, sums: usize, columns: usize): void {
  const lanes = Lanes.count<T>();
  if (!Lanes.accumulatesInF64<T>()) {
    const gap = Lanes.bytes<f64>(2 * columns);
    for (; columns >= lanes; columns -= lanes) {
      Compensated.move<Whole>(group, sums, gap);
      group += 16;
      sums += 16;
    }
    if (columns) Compensated.move<Single>(group, sums, gap);
    return;
  }
  for (; columns >= lanes; columns -= lanes) {
    changetype<Columns>(<usize>0).add(sums, Lanes.low(v128.load(group)), Lanes.high(v128.load(group)));
    v128.store(group, v128.splat<T>(<T>0));
    group += 16;
    sums += 32;
  }
  for (; columns; --columns) {
    store<f64>(sums, load<f64>(sums) + <f64>load<T>(group));
    store<T>(group, <T>0);
    group += sizeof<T>();
    sums += sizeof<f64>();
  }
}

/** Two short rows of two sources are read side by side while a pair of rows fits in this many bytes. */
const PAIR_BYTES: usize = 512;

/** Rows summed in T before they go to f64. */
const ROWS: usize = 16;

/**
 * Sums of the rows of one stripe, one entry for each column. Rows are taken in pairs, one from either half of the stripe: two
 * far streams are read 1.4 times as fast as one, and a pair shares its loads and stores of running sums. Short rows of two
 * sources are paired with their neighbours, since four streams are not faster than two (docs/numerics.md has the
 * measurements). Running sums stand in the stripe's scratch, 2·columns of T, and the rounding errors of f64 behind them.
 */
export function sumRows<T extends number, S extends Moments, E extends Identity>(
  plan: Plan,
  x: usize,
  dy: usize,
  parameters: usize,
  stripe: usize,
): void {
  const lanes = Lanes.count<T>();
  const columns = plan.columns;
  const size = plan.stripe * columns;
  let begin = stripe * size;
  const end = min(begin + size, plan.length);
  const pivot = plan.coefficients;
  const sum = plan.sum + Lanes.bytes<f64>(stripe * columns);
  const dot = plan.dot + Lanes.bytes<f64>(stripe * columns);
  const row = Lanes.bytes<T>(columns);
  const room: usize = Lanes.accumulatesInF64<T>() ? 2 * row : 4 * row;
  const runningSum = plan.scratch + stripe * room;
  const runningDot = runningSum + row;
  memory.fill(sum, 0, Lanes.bytes<f64>(columns));
  memory.fill(dot, 0, Lanes.bytes<f64>(columns));
  memory.fill(runningSum, 0, room);
  const pairs = (end - begin) / columns / 2;
  const neighbours = changetype<S>(<usize>0).sources == 2 && row * 2 <= PAIR_BYTES;
  const gap = neighbours ? row : pairs * row;
  const skip = neighbours ? row : 0;
  let a = x + Lanes.bytes<T>(begin);
  let b = dy + Lanes.bytes<T>(begin);
  let rows: usize = 0;
  for (let pair: usize = 0; pair < pairs; ++pair) {
    let p = pivot;
    let f = runningSum;
    let s = runningDot;
    let left = columns;
    for (; left >= 4 * lanes; left -= 4 * lanes) {
      Row.two<T, S, E, Whole>(a, b, gap, parameters, p, row, f, s);
      Row.two<T, S, E, Whole>(a + 16, b + 16, gap, parameters, p + 16, row, f + 16, s + 16);
      Row.two<T, S, E, Whole>(a + 32, b + 32, gap, parameters, p + 32, row, f + 32, s + 32);
      Row.two<T, S, E, Whole>(a + 48, b + 48, gap, parameters, p + 48, row, f + 48, s + 48);
      a += 64;
      b += 64;
      p += 64;
      f += 64;
      s += 64;
    }
    for (; left; --left) {
      Row.two<T, S, E, Single>(a, b, gap, parameters, p, row, f, s);
      a += sizeof<T>();
      b += sizeof<T>();
      p += sizeof<T>();
      f += sizeof<T>();
      s += sizeof<T>();
    }
    a += skip;
    b += skip;
    rows += 2;
    if (rows == ROWS) {
      flush<T>(runningSum, sum, columns);
      flush<T>(runningDot, dot, columns);
      rows = 0;
    }
  }
  // the last row of an odd number, and the one that is cut short
  begin += 2 * pairs * columns;
  a = x + Lanes.bytes<T>(begin);
  b = dy + Lanes.bytes<T>(begin);
  for (; begin < end; begin += columns) {
    let p = pivot;
    let f = runningSum;
    let s = runningDot;
    for (let left = min(columns, end - begin); left; --left) {
      Row.one<T, S, E, Single>(a, b, parameters, p, row, f, s);
      a += sizeof<T>();
      b += sizeof<T>();
      p += sizeof<T>();
      f += sizeof<T>();
      s += sizeof<T>();
    }
  }
  flush<T>(runningSum, sum, columns);
  flush<T>(runningDot, dot, columns);
  if (!Lanes.accumulatesInF64<T>()) {
    join(sum, runningSum + row * 2, 8, sum, 0, columns);
    join(dot, runningDot + row * 2, 8, dot, 0, columns);
  }
}
