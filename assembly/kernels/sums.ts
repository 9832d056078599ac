// Channel sums: the first of the two primitives. Per channel, with d = x − pivot,
//
//   Moments       Σ d    Σ d·d       pivot: the mean of the channel's first values         (docs/concepts/derivation.md, F1, F2)
//   Gradients     Σ dy   Σ dy·d      pivot: hi, the mean in T                              (docs/concepts/derivation.md, B1, B2)
//
// Both are Σ u and Σ u·d, with u = d or u = dy. With an activation, which is a type of activations.ts, u = dy·f′(z)
// with z = d·scale + shift. Then `pivot` is the first of the rows hi, scale and shift of the coefficients, and z has
// the same bits as in the maps. Sums are written to two arrays of f64, `sum` and `dot`. They have one entry per channel
// in the planar walk, and one per column in the interleaved walk. Old values of the entries in the range are
// overwritten.
//
// The sums are blocked (Higham 2002, section 4.3), in three precisions. docs/concepts/numerics-measurements.md has
// their errors.
//
//   Blocked64   up to 64 values are summed in T, the blocks in f64
//   Blocked4    four vectors of a plane, or four values of a column, are summed in T, those sums in f64
//   InF64       every value goes to f64 before anything is subtracted from it or added to it
//
// If T is f64, sums are Blocked64 and compensated: the rounding errors of the sum of the blocks are summed separately
// and added at the end.

import { Plan } from "../plan";
import { Identity } from "./activations";
import { Lanes, Single, Whole } from "./lanes";

/** The operation with u = d. It reads one source. */
@final
@unmanaged
export class Moments {
  @inline get sources(): i32 {
    return 1;
  }
}

/** The operation with u = dy, or u = dy·f′(z). It reads two sources. */
@final
@unmanaged
export class Gradients {
  @inline get sources(): i32 {
    return 2;
  }
}

/** The precision in which up to 64 values are summed in T, and the blocks in f64. */
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

/** The precision in which four values or vectors are summed in T, and the blocks in f64. */
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

/** The precision in which every value is summed in f64. */
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

/** The entries of f64 to which steps are added. */
export abstract class Entries {
  /** Adds the lanes of a step to one entry if all of them belong to one channel, or each to the entry of its column. */
  @inline static add(sums: usize, low: v128, high: v128, oneChannel: bool): void {
    if (oneChannel) store<f64>(sums, load<f64>(sums) + Lanes.sum(f64x2.add(low, high)));
    else {
      v128.store(sums, f64x2.add(v128.load(sums), low));
      v128.store(sums, f64x2.add(v128.load(sums, 16), high), 16);
    }
  }
}

/** The activation in a sum: it computes u from dy, and reads the rows scale and shift for z. */
abstract class ActivationGate {
  /** Returns u of one step, in T: d, or dy·f′(z). `shift` is the result of E's prepareShift. */
  @inline static u<T extends number, S extends Moments, E extends Identity, W extends Whole>(
    dy: usize,
    d: v128,
    scale: v128,
    shift: v128,
    parameters: usize,
  ): v128 {
    const f = changetype<E>(<usize>0);
    if (changetype<S>(<usize>0).sources == 1) return d;
    return f.gate<T>(changetype<W>(<usize>0).load<T>(dy), d, scale, shift, parameters);
  }

  /**
   * Returns the value at `pointer` in all lanes if the activation needs z. Otherwise returns `pivot`, which is not
   * read.
   */
  @inline static splat<T, E extends Identity>(pointer: usize, pivot: v128): v128 {
    return changetype<E>(<usize>0).needsInput ? v128.load_splat<T>(pointer) : pivot;
  }

  /**
   * Returns the values at `pointer`, one per lane, if the activation needs z. Otherwise returns `pivot`, which is not
   * read.
   */
  @inline static load<T, E extends Identity, W extends Whole>(pointer: usize, pivot: v128): v128 {
    return changetype<E>(<usize>0).needsInput ? changetype<W>(<usize>0).load<T>(pointer) : pivot;
  }
}

/** Sums of four vectors. */
abstract class FourVectors {
  /** Returns a + b + c + d, as a tree of additions. */
  @inline static sum<T>(a: v128, b: v128, c: v128, d: v128): v128 {
    return v128.add<T>(v128.add<T>(a, b), v128.add<T>(c, d));
  }

  /** Returns a0·b0 + a1·b1 + a2·b2 + a3·b3, as a chain, because then fused multiply-add does three of its additions. */
  @inline static dot<T>(a0: v128, b0: v128, a1: v128, b1: v128, a2: v128, b2: v128, a3: v128, b3: v128): v128 {
    return Lanes.madd<T>(a0, b0, Lanes.madd<T>(a1, b1, Lanes.madd<T>(a2, b2, v128.mul<T>(a3, b3))));
  }
}

/**
 * Adds `steps` steps of width W, `stride` bytes apart, in f64. Lanes that W does not load must be zero in the pivot.
 */
function sumStepsInF64<T extends number, S extends Moments, E extends Identity, W extends Whole>(
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
  oneChannel: bool,
): void {
  const two = changetype<S>(<usize>0).sources == 2;
  const width = changetype<W>(<usize>0);
  const leaky = two && changetype<E>(<usize>0).needsInput && load<T>(parameters) != 0;
  const pivotLow = Lanes.low(pivot);
  const pivotHigh = Lanes.high(pivot);
  let sumLow = f64x2.splat(0);
  let sumHigh = f64x2.splat(0);
  let dotLow = f64x2.splat(0);
  let dotHigh = f64x2.splat(0);
  for (; steps; --steps) {
    const v = width.load<T>(x);
    const dLow = f64x2.sub(Lanes.low(v), pivotLow);
    const dHigh = f64x2.sub(Lanes.high(v), pivotHigh);
    let uLow = dLow;
    let uHigh = dHigh;
    if (leaky) {
      // a product in T would be rounded, and in a sum of few values that shows
      const one = v128.splat<T>(<T>1);
      const slope = changetype<E>(<usize>0).gate<T>(one, v128.sub<T>(v, pivot), scale, shift, parameters);
      const upstream = width.load<T>(dy);
      uLow = f64x2.mul(Lanes.low(upstream), Lanes.low(slope));
      uHigh = f64x2.mul(Lanes.high(upstream), Lanes.high(slope));
    } else if (two) {
      const u = ActivationGate.u<T, S, E, W>(dy, v128.sub<T>(v, pivot), scale, shift, parameters);
      uLow = Lanes.low(u);
      uHigh = Lanes.high(u);
    }
    sumLow = f64x2.add(sumLow, uLow);
    sumHigh = f64x2.add(sumHigh, uHigh);
    dotLow = Lanes.madd<f64>(uLow, dLow, dotLow);
    dotHigh = Lanes.madd<f64>(uHigh, dHigh, dotHigh);
    x += stride;
    dy += stride;
  }
  Entries.add(sum, sumLow, sumHigh, oneChannel);
  Entries.add(dot, dotLow, dotHigh, oneChannel);
}

/** Sums of eight vectors in two blocks of four, in f64. */
abstract class Eight {
  /** Adds both blocks of a sum, one after the other, to the entries of their columns. */
  @inline static add(sums: usize, first: v128, second: v128): void {
    v128.store(sums, f64x2.add(f64x2.add(v128.load(sums), Lanes.low(first)), Lanes.low(second)));
    v128.store(sums, f64x2.add(f64x2.add(v128.load(sums, 16), Lanes.high(first)), Lanes.high(second)), 16);
  }

  /** Adds eight vectors, `stride` bytes apart, in two blocks of four. Each lane goes to the entry of its column. */
  @inline static sumBlocked4<T extends number, S extends Moments, E extends Identity>(
    x: usize,
    dy: usize,
    parameters: usize,
    pivot: v128,
    scale: v128,
    shift: v128,
    sum: usize,
    dot: usize,
    stride: usize,
  ): void {
    const x4 = x + 4 * stride;
    const dy4 = dy + 4 * stride;
    const d0 = v128.sub<T>(v128.load(x), pivot);
    const d1 = v128.sub<T>(v128.load(x + stride), pivot);
    const d2 = v128.sub<T>(v128.load(x + 2 * stride), pivot);
    const d3 = v128.sub<T>(v128.load(x + 3 * stride), pivot);
    const u0 = ActivationGate.u<T, S, E, Whole>(dy, d0, scale, shift, parameters);
    const u1 = ActivationGate.u<T, S, E, Whole>(dy + stride, d1, scale, shift, parameters);
    const u2 = ActivationGate.u<T, S, E, Whole>(dy + 2 * stride, d2, scale, shift, parameters);
    const u3 = ActivationGate.u<T, S, E, Whole>(dy + 3 * stride, d3, scale, shift, parameters);
    const u = v128.add<T>(v128.add<T>(v128.add<T>(u0, u1), u2), u3);
    const ud = FourVectors.dot<T>(u3, d3, u2, d2, u1, d1, u0, d0);
    const d4 = v128.sub<T>(v128.load(x4), pivot);
    const d5 = v128.sub<T>(v128.load(x4 + stride), pivot);
    const d6 = v128.sub<T>(v128.load(x4 + 2 * stride), pivot);
    const d7 = v128.sub<T>(v128.load(x4 + 3 * stride), pivot);
    const u4 = ActivationGate.u<T, S, E, Whole>(dy4, d4, scale, shift, parameters);
    const u5 = ActivationGate.u<T, S, E, Whole>(dy4 + stride, d5, scale, shift, parameters);
    const u6 = ActivationGate.u<T, S, E, Whole>(dy4 + 2 * stride, d6, scale, shift, parameters);
    const u7 = ActivationGate.u<T, S, E, Whole>(dy4 + 3 * stride, d7, scale, shift, parameters);
    const v = v128.add<T>(v128.add<T>(v128.add<T>(u4, u5), u6), u7);
    const vd = FourVectors.dot<T>(u7, d7, u6, d6, u5, d5, u4, d4);
    Eight.add(sum, u, v);
    Eight.add(dot, ud, vd);
  }
}

/** Compensated summation of f64: the rounding errors of the sums are summed separately, and added at the end. */
abstract class Compensated {
  /**
   * Returns the offset of a channel's entry in the planar walk. For f64, an entry is the sum and its rounding error.
   */
  @inline static bytes<T>(channel: usize): usize {
    return channel << (Lanes.accumulatesInF64<T>() ? 3 : 4);
  }

  /** Adds the lanes of Σ u and Σ u·d, and their rounding errors, to the entries of their channel. */
  @inline static add(sum: usize, dot: usize, u: v128, ud: v128, errorU: v128, errorUd: v128): void {
    const low = v128.shuffle<u64>(u, ud, 0, 2);
    const high = v128.shuffle<u64>(u, ud, 1, 3);
    const added = f64x2.add(low, high);
    const before = v128.shuffle<u64>(v128.load(sum), v128.load(dot), 0, 2);
    const after = f64x2.add(before, added);
    let error = v128.shuffle<u64>(v128.load(sum), v128.load(dot), 1, 3);
    error = f64x2.add(error, v128.shuffle<u64>(errorU, errorUd, 0, 2));
    error = f64x2.add(error, v128.shuffle<u64>(errorU, errorUd, 1, 3));
    error = f64x2.add(
      error,
      f64x2.add(Lanes.roundingError(low, high, added), Lanes.roundingError(before, added, after)),
    );
    v128.store(sum, v128.shuffle<u64>(after, error, 0, 2));
    v128.store(dot, v128.shuffle<u64>(after, error, 1, 3));
  }

  /**
   * Adds the running sums of the interleaved walk to `sums`, and clears them. The rounding errors of `sums` are `gap`
   * bytes behind the running sums.
   */
  @inline static move<W extends Whole>(running: usize, sums: usize, gap: usize): void {
    const width = changetype<W>(<usize>0);
    const added = width.load<f64>(running);
    const before = width.load<f64>(sums);
    const after = f64x2.add(before, added);
    width.store<f64>(sums, after);
    const error = f64x2.add(width.load<f64>(running + gap), Lanes.roundingError(before, added, after));
    width.store<f64>(running + gap, error);
    width.store<f64>(running, f64x2.splat(0));
  }
}

/**
 * Writes target[i] = sums[i] + errors[i] for i in [begin, end). The entries of `sums` and of `errors` are `stride`
 * bytes apart.
 */
export function addErrors(sums: usize, errors: usize, stride: usize, target: usize, begin: usize, end: usize): void {
  const single = changetype<Single>(<usize>0);
  for (; begin < end; ++begin) {
    const sum = Lanes.compensated(single.load<f64>(sums + begin * stride), single.load<f64>(errors + begin * stride));
    single.store<f64>(target + Lanes.bytes<f64>(begin), sum);
  }
}

/** The streams of a loop over planes whose number is an argument: one, or BLOCK_LINES. */
@final
@unmanaged
class AnyStreams {
  @inline get single(): bool {
    return false;
  }
}

/** The one stream of a loop that reads one plane. In cache, gradient sums of float32 are 10 % faster with it. */
@final
@unmanaged
class SingleStream {
  @inline get single(): bool {
    return true;
  }
}

/** Lines of four vectors that are summed in T before they go to f64. For f32 these are 64 values. */
const BLOCK_LINES: usize = 4;

/**
 * Adds planes of `length` elements to the entry of their channel: one plane, or BLOCK_LINES planes that are `gap` bytes
 * apart. A block has one line of each of the far planes, or the next lines of the single one. `gap` is the distance of
 * its lines, which is 64 bytes for a single plane.
 */
function sumPlaneBlocked<
  T extends number,
  S extends Moments,
  E extends Identity,
  N extends AnyStreams,
  P extends Blocked64,
>(
  a: usize,
  b: usize,
  planes: usize,
  gap: usize,
  parameters: usize,
  pivot: usize,
  row: usize,
  sum: usize,
  dot: usize,
  length: usize,
): void {
  const lanes = Lanes.count<T>();
  const blocked4 = changetype<P>(<usize>0).blocked4;
  const p = v128.load_splat<T>(pivot);
  const scale = ActivationGate.splat<T, E>(pivot + row, p);
  const shift = changetype<E>(<usize>0).prepareShift<T>(ActivationGate.splat<T, E>(pivot + 2 * row, p));
  const single = changetype<N>(<usize>0).single;
  const straight = changetype<S>(<usize>0).sources == 1 && !blocked4;
  const nextLine: usize = single ? 64 : gap;
  const linesOfBlock: usize = blocked4 ? 1 : BLOCK_LINES;
  const linesOfPlane: usize = single ? linesOfBlock : BLOCK_LINES / planes;
  const blockLength = linesOfPlane * 4 * lanes;
  const nextBlock = linesOfPlane * 64 - (straight ? 0 : linesOfBlock * nextLine);
  let sumU = f64x2.splat(0);
  let sumUd = f64x2.splat(0);
  let errorU = f64x2.splat(0);
  let errorUd = f64x2.splat(0);
  for (; length >= blockLength; length -= blockLength) {
    let u: v128;
    let ud: v128;
    if (straight) {
      // Two chains of additions, which V8 keeps in registers. It would spill the sums of a tree.
      const a1 = a + nextLine;
      const a2 = a1 + nextLine;
      const a3 = a2 + nextLine;
      let d0 = v128.sub<T>(v128.load(a), p);
      let d1 = v128.sub<T>(v128.load(a, 16), p);
      let d2 = v128.sub<T>(v128.load(a, 32), p);
      let d3 = v128.sub<T>(v128.load(a, 48), p);
      u = v128.add<T>(d0, d2);
      let v = v128.add<T>(d1, d3);
      ud = Lanes.madd<T>(d2, d2, v128.mul<T>(d0, d0));
      let vd = Lanes.madd<T>(d3, d3, v128.mul<T>(d1, d1));
      d0 = v128.sub<T>(v128.load(a1), p);
      d1 = v128.sub<T>(v128.load(a1, 16), p);
      d2 = v128.sub<T>(v128.load(a1, 32), p);
      d3 = v128.sub<T>(v128.load(a1, 48), p);
      u = v128.add<T>(v128.add<T>(u, d0), d2);
      v = v128.add<T>(v128.add<T>(v, d1), d3);
      ud = Lanes.madd<T>(d2, d2, Lanes.madd<T>(d0, d0, ud));
      vd = Lanes.madd<T>(d3, d3, Lanes.madd<T>(d1, d1, vd));
      d0 = v128.sub<T>(v128.load(a2), p);
      d1 = v128.sub<T>(v128.load(a2, 16), p);
      d2 = v128.sub<T>(v128.load(a2, 32), p);
      d3 = v128.sub<T>(v128.load(a2, 48), p);
      u = v128.add<T>(v128.add<T>(u, d0), d2);
      v = v128.add<T>(v128.add<T>(v, d1), d3);
      ud = Lanes.madd<T>(d2, d2, Lanes.madd<T>(d0, d0, ud));
      vd = Lanes.madd<T>(d3, d3, Lanes.madd<T>(d1, d1, vd));
      d0 = v128.sub<T>(v128.load(a3), p);
      d1 = v128.sub<T>(v128.load(a3, 16), p);
      d2 = v128.sub<T>(v128.load(a3, 32), p);
      d3 = v128.sub<T>(v128.load(a3, 48), p);
      u = v128.add<T>(v128.add<T>(u, d0), d2);
      v = v128.add<T>(v128.add<T>(v, d1), d3);
      ud = Lanes.madd<T>(d2, d2, Lanes.madd<T>(d0, d0, ud));
      vd = Lanes.madd<T>(d3, d3, Lanes.madd<T>(d1, d1, vd));
      u = v128.add<T>(u, v);
      ud = v128.add<T>(ud, vd);
    } else {
      u = v128.splat<T>(<T>0);
      ud = u;
      for (let lines = linesOfBlock; lines; --lines) {
        const d0 = v128.sub<T>(v128.load(a), p);
        const d1 = v128.sub<T>(v128.load(a, 16), p);
        const d2 = v128.sub<T>(v128.load(a, 32), p);
        const d3 = v128.sub<T>(v128.load(a, 48), p);
        const u0 = ActivationGate.u<T, S, E, Whole>(b, d0, scale, shift, parameters);
        const u1 = ActivationGate.u<T, S, E, Whole>(b + 16, d1, scale, shift, parameters);
        const u2 = ActivationGate.u<T, S, E, Whole>(b + 32, d2, scale, shift, parameters);
        const u3 = ActivationGate.u<T, S, E, Whole>(b + 48, d3, scale, shift, parameters);
        u = v128.add<T>(u, FourVectors.sum<T>(u0, u1, u2, u3));
        ud = v128.add<T>(ud, FourVectors.dot<T>(u0, d0, u1, d1, u2, d2, u3, d3));
        a += nextLine;
        b += nextLine;
        if (blocked4) break;
      }
    }
    if (straight || !single) {
      a += nextBlock;
      b += nextBlock;
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
    // halves of both sums in one vector, so that V8 computes both sums side by side and keeps all vectors in registers
    const low = v128.shuffle<u64>(u, ud, 0, 2);
    const high = v128.shuffle<u64>(u, ud, 1, 3);
    sumU = f64x2.add(sumU, f64x2.add(Lanes.low(low), Lanes.low(high)));
    sumUd = f64x2.add(sumUd, f64x2.add(Lanes.high(low), Lanes.high(high)));
  }
  if (length) {
    const whole = changetype<Whole>(<usize>0);
    const single = changetype<Single>(<usize>0);
    const firstLane = single.load<T>(pivot);
    let u = v128.splat<T>(<T>0);
    let ud = u;
    for (let plane: usize = 0; plane < planes; ++plane) {
      let at = plane * gap;
      let left = length;
      for (; left >= lanes; left -= lanes) {
        const d = v128.sub<T>(whole.load<T>(a + at), p);
        const v = ActivationGate.u<T, S, E, Whole>(b + at, d, scale, shift, parameters);
        u = v128.add<T>(u, v);
        ud = Lanes.madd<T>(v, d, ud);
        at += 16;
      }
      for (; left; --left) {
        const d = v128.sub<T>(single.load<T>(a + at), firstLane);
        const v = ActivationGate.u<T, S, E, Single>(b + at, d, scale, shift, parameters);
        u = v128.add<T>(u, v);
        ud = Lanes.madd<T>(v, d, ud);
        at += sizeof<T>();
      }
    }
    if (!Lanes.accumulatesInF64<T>()) {
      const nextU = f64x2.add(sumU, u);
      const nextUd = f64x2.add(sumUd, ud);
      errorU = f64x2.add(errorU, Lanes.roundingError(sumU, u, nextU));
      errorUd = f64x2.add(errorUd, Lanes.roundingError(sumUd, ud, nextUd));
      sumU = nextU;
      sumUd = nextUd;
    } else {
      sumU = f64x2.add(sumU, f64x2.add(Lanes.low(u), Lanes.high(u)));
      sumUd = f64x2.add(sumUd, f64x2.add(Lanes.low(ud), Lanes.high(ud)));
    }
  }
  if (!Lanes.accumulatesInF64<T>()) {
    Compensated.add(sum, dot, sumU, sumUd, errorU, errorUd);
    return;
  }
  store<f64>(sum, load<f64>(sum) + Lanes.sum(sumU));
  store<f64>(dot, load<f64>(dot) + Lanes.sum(sumUd));
}

/**
 * Adds one plane of `length` elements to the entry of its channel, in f64. `pivot` is the address of the channel's
 * pivot.
 */
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
  const wholeVectors = length / lanes;
  const p = v128.load_splat<T>(pivot);
  const scale = ActivationGate.splat<T, E>(pivot + row, p);
  const shift = changetype<E>(<usize>0).prepareShift<T>(ActivationGate.splat<T, E>(pivot + 2 * row, p));
  sumStepsInF64<T, S, E, Whole>(x, dy, parameters, p, scale, shift, sum, dot, 16, wholeVectors, true);
  const firstLane = changetype<Single>(<usize>0).load<T>(pivot);
  sumStepsInF64<T, S, E, Single>(
    x + wholeVectors * 16,
    dy + wholeVectors * 16,
    parameters,
    firstLane,
    scale,
    shift,
    sum,
    dot,
    sizeof<T>(),
    length % lanes,
    true,
  );
}

/**
 * Sums the planes of channels [begin, end), in memory order. In blocks of 64 values, four far images are read together
 * if the plan says so, and then the rest one by one.
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
  const sources = changetype<S>(<usize>0).sources;
  // other sums have one loop for one and for several streams, which keeps the module small
  const hasSingleLoop = sources == 2 && !changetype<E>(<usize>0).needsInput && sizeof<T>() == 4;
  let planes: usize = blocked64 && outer >= BLOCK_LINES && plan.sumsFar(sources) ? BLOCK_LINES : 1;
  const plane = Lanes.bytes<T>(inner);
  const row = Lanes.bytes<T>(plan.columns);
  const image = pitch * plane;
  x += begin * plane;
  dy += begin * plane;
  for (let left = outer; left; planes = 1) {
    const images = left / planes;
    const gap: usize = planes == 1 ? 64 : images * image;
    for (let n: usize = 0; n < images; ++n) {
      let a = x + n * image;
      let b = dy + n * image;
      for (let channel = begin; channel < end; ++channel) {
        const p = pivot + Lanes.bytes<T>(channel);
        const sumEntry = sum + Compensated.bytes<T>(channel);
        const dotEntry = dot + Compensated.bytes<T>(channel);
        if (inF64) sumPlaneInF64<T, S, E>(a, b, parameters, p, row, sumEntry, dotEntry, inner);
        else if (!blocked64 || (hasSingleLoop && planes == 1))
          sumPlaneBlocked<T, S, E, SingleStream, P>(a, b, 1, 0, parameters, p, row, sumEntry, dotEntry, inner);
        else sumPlaneBlocked<T, S, E, AnyStreams, P>(a, b, planes, gap, parameters, p, row, sumEntry, dotEntry, inner);
        a += plane;
        b += plane;
      }
    }
    left -= images * planes;
    x += images * planes * image;
    dy += images * planes * image;
  }
}

/**
 * Sums channels [begin, end) of the planar walk. The sums of float64 and their rounding errors are first taken in the
 * scratch.
 */
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
  addErrors(sums, sums + 8, 16, plan.sum, begin, end);
  addErrors(dots, dots + 8, 16, plan.dot, begin, end);
}

/**
 * Rows that are summed down a column at once: two blocks of four. With more rows of 2 KiB, the lines of the rows would
 * evict each other from the first-level cache.
 */
export const ROWS_DOWN: usize = 8;

/**
 * Sums columns [begin, end) of the period, down the rows of one stripe: in blocks of four rows if `blocked`, which needs
 * P to be Blocked4, else in f64. A stripe has one entry for each column of the period.
 */
export function sumColumns<T extends number, S extends Moments, E extends Identity, P extends Blocked64>(
  plan: Plan,
  x: usize,
  dy: usize,
  parameters: usize,
  stripe: usize,
  begin: usize,
  end: usize,
  blocked: bool,
): void {
  const lanes = Lanes.count<T>();
  const blockedSteps: usize = blocked ? ROWS_DOWN : 0;
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
      const offset = Lanes.bytes<T>(column);
      const sumEntry = sum + Lanes.bytes<f64>(column);
      const dotEntry = dot + Lanes.bytes<f64>(column);
      const p = v128.load(pivot + offset);
      const scale = ActivationGate.load<T, E, Whole>(pivot + offset + coefficientRow, p);
      const z = ActivationGate.load<T, E, Whole>(pivot + offset + 2 * coefficientRow, p);
      const shift = changetype<E>(<usize>0).prepareShift<T>(z);
      if (changetype<P>(<usize>0).blocked4 && steps == blockedSteps)
        Eight.sumBlocked4<T, S, E>(x + offset, dy + offset, parameters, p, scale, shift, sumEntry, dotEntry, row);
      else
        sumStepsInF64<T, S, E, Whole>(
          x + offset,
          dy + offset,
          parameters,
          p,
          scale,
          shift,
          sumEntry,
          dotEntry,
          row,
          steps,
          false,
        );
    }
    for (; column < end; ++column) {
      const offset = Lanes.bytes<T>(column);
      const sumEntry = sum + Lanes.bytes<f64>(column);
      const dotEntry = dot + Lanes.bytes<f64>(column);
      const p = changetype<Single>(<usize>0).load<T>(pivot + offset);
      const scale = ActivationGate.load<T, E, Single>(pivot + offset + coefficientRow, p);
      const z = ActivationGate.load<T, E, Single>(pivot + offset + 2 * coefficientRow, p);
      const shift = changetype<E>(<usize>0).prepareShift<T>(z);
      sumStepsInF64<T, S, E, Single>(
        x + offset,
        dy + offset,
        parameters,
        p,
        scale,
        shift,
        sumEntry,
        dotEntry,
        row,
        steps,
        true,
      );
    }
    x += steps * row;
    dy += steps * row;
    rows -= steps;
  }
}

/**
 * One step of width W that adds rows of the interleaved walk to the running sums. `row` is the distance in bytes of two
 * rows of coefficients.
 */
abstract class Row {
  /** Adds a step of one row. */
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

  /** Adds a step of four rows that are `gap` bytes apart. */
  @inline static four<T extends number, S extends Moments, E extends Identity>(
    x: usize,
    dy: usize,
    gap: usize,
    parameters: usize,
    pivot: usize,
    row: usize,
    sum: usize,
    dot: usize,
  ): void {
    const p = v128.load(pivot);
    const scale = ActivationGate.load<T, E, Whole>(pivot + row, p);
    const shift = changetype<E>(<usize>0).prepareShift<T>(ActivationGate.load<T, E, Whole>(pivot + 2 * row, p));
    const d0 = v128.sub<T>(v128.load(x), p);
    const d1 = v128.sub<T>(v128.load(x + gap), p);
    const d2 = v128.sub<T>(v128.load(x + 2 * gap), p);
    const d3 = v128.sub<T>(v128.load(x + 3 * gap), p);
    const u0 = ActivationGate.u<T, S, E, Whole>(dy, d0, scale, shift, parameters);
    const u1 = ActivationGate.u<T, S, E, Whole>(dy + gap, d1, scale, shift, parameters);
    const u2 = ActivationGate.u<T, S, E, Whole>(dy + 2 * gap, d2, scale, shift, parameters);
    const u3 = ActivationGate.u<T, S, E, Whole>(dy + 3 * gap, d3, scale, shift, parameters);
    v128.store(sum, v128.add<T>(v128.load(sum), FourVectors.sum<T>(u0, u1, u2, u3)));
    const first = Lanes.madd<T>(u0, d0, v128.mul<T>(u1, d1));
    const second = Lanes.madd<T>(u2, d2, v128.mul<T>(u3, d3));
    v128.store(dot, v128.add<T>(v128.load(dot), v128.add<T>(first, second)));
  }
}

/**
 * Adds `columns` running sums in T to `sums` in f64, and clears them. For f64, rounding errors are added two rows
 * behind the running sums.
 */
function flush<T extends number>(running: usize, sums: usize, columns: usize): void {
  const lanes = Lanes.count<T>();
  if (!Lanes.accumulatesInF64<T>()) {
    const gap = Lanes.bytes<f64>(2 * columns);
    for (; columns >= lanes; columns -= lanes) {
      Compensated.move<Whole>(running, sums, gap);
      running += 16;
      sums += 16;
    }
    if (columns) Compensated.move<Single>(running, sums, gap);
    return;
  }
  for (; columns >= lanes; columns -= lanes) {
    Entries.add(sums, Lanes.low(v128.load(running)), Lanes.high(v128.load(running)), false);
    v128.store(running, v128.splat<T>(<T>0));
    running += 16;
    sums += 32;
  }
  for (; columns; --columns) {
    store<f64>(sums, load<f64>(sums) + <f64>load<T>(running));
    store<T>(running, <T>0);
    running += sizeof<T>();
    sums += sizeof<f64>();
  }
}

/**
 * Rows that are summed in T before they go to f64. With 32 rows, the variance of 2,048 values at |mean|/std = 1e4 was
 * off by 1.5 u (docs/concepts/numerics-measurements.md).
 */
const BLOCK_ROWS: usize = 16;

/**
 * Sums the rows of one stripe, with one entry for each column. Four rows are summed together, one from each quarter of
 * the stripe: far streams are read faster than one, and the four share their loads and stores of running sums
 * (docs/concepts/numerics-measurements.md has the measurements). Running sums are in the scratch of the stripe,
 * 2·columns of T, and the rounding errors of f64 follow them.
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
  // unrolled, the loop is 1.3 times as fast in cache; rare kernels stay small
  const steps: usize = changetype<E>(<usize>0).needsInput || sizeof<T>() == 8 ? 1 : 4;
  const fours: usize = columns % (steps * lanes) ? 0 : (end - begin) / columns / 4;
  const gap = fours * row;
  let a = x + Lanes.bytes<T>(begin);
  let b = dy + Lanes.bytes<T>(begin);
  let rows: usize = 0;
  for (let four: usize = 0; four < fours; ++four) {
    let p = pivot;
    let sumEntry = runningSum;
    let dotEntry = runningDot;
    for (let left = columns; left; left -= steps * lanes) {
      Row.four<T, S, E>(a, b, gap, parameters, p, row, sumEntry, dotEntry);
      if (steps == 4) {
        Row.four<T, S, E>(a + 16, b + 16, gap, parameters, p + 16, row, sumEntry + 16, dotEntry + 16);
        Row.four<T, S, E>(a + 32, b + 32, gap, parameters, p + 32, row, sumEntry + 32, dotEntry + 32);
        Row.four<T, S, E>(a + 48, b + 48, gap, parameters, p + 48, row, sumEntry + 48, dotEntry + 48);
      }
      a += steps * 16;
      b += steps * 16;
      p += steps * 16;
      sumEntry += steps * 16;
      dotEntry += steps * 16;
    }
    rows += 4;
    if (rows == BLOCK_ROWS) {
      flush<T>(runningSum, sum, columns);
      flush<T>(runningDot, dot, columns);
      rows = 0;
    }
  }
  // the rows that are left, of which the last may be cut short
  begin += 4 * fours * columns;
  a = x + Lanes.bytes<T>(begin);
  b = dy + Lanes.bytes<T>(begin);
  for (; begin < end; begin += columns) {
    let p = pivot;
    let sumEntry = runningSum;
    let dotEntry = runningDot;
    let left = min(columns, end - begin);
    for (; left >= lanes; left -= lanes) {
      Row.one<T, S, E, Whole>(a, b, parameters, p, row, sumEntry, dotEntry);
      a += 16;
      b += 16;
      p += 16;
      sumEntry += 16;
      dotEntry += 16;
    }
    for (; left; --left) {
      Row.one<T, S, E, Single>(a, b, parameters, p, row, sumEntry, dotEntry);
      a += sizeof<T>();
      b += sizeof<T>();
      p += sizeof<T>();
      sumEntry += sizeof<T>();
      dotEntry += sizeof<T>();
    }
    if (++rows < BLOCK_ROWS) continue;
    flush<T>(runningSum, sum, columns);
    flush<T>(runningDot, dot, columns);
    rows = 0;
  }
  flush<T>(runningSum, sum, columns);
  flush<T>(runningDot, dot, columns);
  if (!Lanes.accumulatesInF64<T>()) {
    addErrors(sum, runningSum + row * 2, 8, sum, 0, columns);
    addErrors(dot, runningDot + row * 2, 8, dot, 0, columns);
  }
}
