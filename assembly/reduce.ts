// Channel sums: the first of the two primitives. Per channel, with d = x − pivot,
//
//   Moments       Σ d    Σ d·d       pivot: the mean of a first block of the channel       (docs/batchnorm.md, F1, F2)
//   Gradients     Σ dy   Σ dy·d      pivot: hi, the mean in T                              (docs/batchnorm.md, B1, B2)
//
// Both are Σ u and Σ u·d with u = d or u = dy. With an activation, a type of epilogue.ts, u = dy·f′(z) with
// z = d·scale + shift: then `pivot` is the first of the rows hi, scale, shift of affine.ts's coefficients, and z has the
// bits that it has in the map. Sums go to two arrays of f64, `first` and `second`: one entry per channel in the planar
// walk, one per column in the interleaved walk. Entries in the range are written afresh.
//
// Three precisions, whose errors are in docs/numerics.md:
//
//   grouped   up to 64 values are summed in T, the groups in f64
//   fours     four vectors of a plane, or four values of a column, are summed in T, those sums in f64
//   exact     every value goes to f64 before anything is subtracted from it or added to it
//
// Where T is f64, sums are grouped, and what rounding takes from the sum of the groups is kept and added at the end.

import { Identity } from "./epilogue";
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

/** How many values are summed in T. */
@final
@unmanaged
export class Grouped {
  @inline get grouped(): bool {
    return true;
  }

  @inline get fours(): bool {
    return false;
  }
}

@final
@unmanaged
export class Fours {
  @inline get grouped(): bool {
    return false;
  }

  @inline get fours(): bool {
    return true;
  }
}

@final
@unmanaged
export class Exact {
  @inline get grouped(): bool {
    return false;
  }

  @inline get fours(): bool {
    return false;
  }
}

/** Where the lanes of a run belong: all to one channel. */
@final
@unmanaged
class OneChannel {
  @inline add(sums: usize, low: v128, high: v128): void {
    store<f64>(sums, load<f64>(sums) + Lanes.sum(f64x2.add(low, high)));
  }
}

/** Each to a column of its own. */
@final
@unmanaged
class Columns {
  @inline add(sums: usize, low: v128, high: v128): void {
    v128.store(sums, f64x2.add(v128.load(sums), low));
    v128.store(sums, f64x2.add(v128.load(sums, 16), high), 16);
  }
}

/** What an activation lets through, and the two rows that it takes besides the pivot's: scale and shift. */
abstract class Bend {
  /** u of one step, in T: d itself, or dy as far as the activation lets it through. `bound` is what E makes of the shift. */
  @inline static u<T extends number, S extends Moments, E extends Identity, W extends Whole>(
    dy: usize,
    d: v128,
    scale: v128,
    bound: v128,
    parameters: usize,
  ): v128 {
    const f = changetype<E>(<usize>0);
    if (changetype<S>(<usize>0).sources == 1) return d;
    const w = changetype<W>(<usize>0).load<T>(dy);
    return f.gate<T>(w, d, scale, bound, parameters);
  }

  /** A row's value for all lanes. */
  @inline static splat<T, E extends Identity>(pointer: usize, pivot: v128): v128 {
    return changetype<E>(<usize>0).bends ? v128.load_splat<T>(pointer) : pivot;
  }

  /** A row's values, one per lane. */
  @inline static load<T, E extends Identity, W extends Whole>(pointer: usize, pivot: v128): v128 {
    return changetype<E>(<usize>0).bends ? changetype<W>(<usize>0).load<T>(pointer) : pivot;
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

/** Adds `steps` steps of width W, `stride` bytes apart, in f64. The pivot's unused lanes are zero, as W loads them. */
function sumExactly<T extends number, S extends Moments, E extends Identity, W extends Whole, O extends OneChannel>(
  x: usize,
  dy: usize,
  parameters: usize,
  pivot: v128,
  scale: v128,
  shift: v128,
  first: usize,
  second: usize,
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
    const w = two ? Bend.u<T, S, E, W>(dy, v128.sub<T>(v, pivot), scale, shift, parameters) : v;
    const uLow = two ? Lanes.low(w) : dLow;
    const uHigh = two ? Lanes.high(w) : dHigh;
    fLow = f64x2.add(fLow, uLow);
    fHigh = f64x2.add(fHigh, uHigh);
    sLow = Lanes.madd<f64>(uLow, dLow, sLow);
    sHigh = Lanes.madd<f64>(uHigh, dHigh, sHigh);
    x += stride;
    dy += stride;
  }
  changetype<O>(<usize>0).add(first, fLow, fHigh);
  changetype<O>(<usize>0).add(second, sLow, sHigh);
}

/** Adds `fours` fours of whole vectors, `stride` bytes apart, each to columns of its own. */
function sumFours<T extends number, S extends Moments, E extends Identity>(
  x: usize,
  dy: usize,
  parameters: usize,
  pivot: v128,
  scale: v128,
  shift: v128,
  first: usize,
  second: usize,
  stride: usize,
  fours: usize,
): void {
  let fLow = f64x2.splat(0);
  let fHigh = f64x2.splat(0);
  let sLow = f64x2.splat(0);
  let sHigh = f64x2.splat(0);
  for (; fours; --fours) {
    const d0 = v128.sub<T>(v128.load(x), pivot);
    const d1 = v128.sub<T>(v128.load(x + stride), pivot);
    const d2 = v128.sub<T>(v128.load(x + 2 * stride), pivot);
    const d3 = v128.sub<T>(v128.load(x + 3 * stride), pivot);
    const u0 = Bend.u<T, S, E, Whole>(dy, d0, scale, shift, parameters);
    const u1 = Bend.u<T, S, E, Whole>(dy + stride, d1, scale, shift, parameters);
    const u2 = Bend.u<T, S, E, Whole>(dy + 2 * stride, d2, scale, shift, parameters);
    const u3 = Bend.u<T, S, E, Whole>(dy + 3 * stride, d3, scale, shift, parameters);
    const u = Tree.sum<T>(u0, u1, u2, u3);
    const ud = Tree.dot<T>(u0, d0, u1, d1, u2, d2, u3, d3);
    fLow = f64x2.add(fLow, Lanes.low(u));
    fHigh = f64x2.add(fHigh, Lanes.high(u));
    sLow = f64x2.add(sLow, Lanes.low(ud));
    sHigh = f64x2.add(sHigh, Lanes.high(ud));
    x += 4 * stride;
    dy += 4 * stride;
  }
  changetype<Columns>(<usize>0).add(first, fLow, fHigh);
  changetype<Columns>(<usize>0).add(second, sLow, sHigh);
}

/** Sums of f64 in f64, which is not wider: what rounding takes from a sum is kept beside it and added at the end. */
abstract class Kept {
  /** The planar walk's entry for a channel: the sum, or the sum and what it lost. */
  @inline static bytes<T>(channel: usize): usize {
    return channel << (Lanes.widens<T>() ? 3 : 4);
  }

  /** Adds the lanes of Σ u and Σ u·d, with what these lost, to the entries of their channel. */
  @inline static add(first: usize, second: usize, u: v128, ud: v128, lostU: v128, lostUd: v128): void {
    const low = v128.shuffle<u64>(u, ud, 0, 2);
    const high = v128.shuffle<u64>(u, ud, 1, 3);
    const more = f64x2.add(low, high);
    const before = v128.shuffle<u64>(v128.load(first), v128.load(second), 0, 2);
    const after = f64x2.add(before, more);
    let lost = v128.shuffle<u64>(v128.load(first), v128.load(second), 1, 3);
    lost = f64x2.add(lost, v128.shuffle<u64>(lostU, lostUd, 0, 2));
    lost = f64x2.add(lost, v128.shuffle<u64>(lostU, lostUd, 1, 3));
    lost = f64x2.add(lost, f64x2.add(Lanes.lost(low, high, more), Lanes.lost(before, more, after)));
    v128.store(first, v128.shuffle<u64>(after, lost, 0, 2));
    v128.store(second, v128.shuffle<u64>(after, lost, 1, 3));
  }

  /** Moves running sums of the interleaved walk to `sums`; what these lose stands `gap` bytes behind the running sums. */
  @inline static move<W extends Whole>(group: usize, sums: usize, gap: usize): void {
    const width = changetype<W>(<usize>0);
    const more = width.load<f64>(group);
    const before = width.load<f64>(sums);
    const after = f64x2.add(before, more);
    width.store<f64>(sums, after);
    width.store<f64>(group + gap, f64x2.add(width.load<f64>(group + gap), Lanes.lost(before, more, after)));
    width.store<f64>(group, f64x2.splat(0));
  }
}

/** target[i] = sums[i] and what it lost, for i in [begin, end); entries lie `stride` bytes apart. */
function join(sums: usize, lost: usize, stride: usize, target: usize, begin: usize, end: usize): void {
  const single = changetype<Single>(<usize>0);
  for (; begin < end; ++begin) {
    const whole = Lanes.whole(single.load<f64>(sums + begin * stride), single.load<f64>(lost + begin * stride));
    single.store<f64>(target + Lanes.bytes<f64>(begin), whole);
  }
}

/** How many planes a loop reads at once: one, or two that lie `gap` bytes apart. */
@final
@unmanaged
class Lone {
  @inline get twin(): bool {
    return false;
  }
}

@final
@unmanaged
class Twin {
  @inline get twin(): bool {
    return true;
  }
}

/** Groups of four vectors whose sums stand in T before they go to f64: 64 values. */
const GROUPS: usize = 4;

/** Adds one plane of `length` elements, or two, to the sums of their channel. */
function sumGroups<T extends number, S extends Moments, E extends Identity, N extends Lone, P extends Grouped>(
  a: usize,
  b: usize,
  gap: usize,
  parameters: usize,
  pivot: usize,
  row: usize,
  first: usize,
  second: usize,
  length: usize,
): void {
  const lanes = Lanes.count<T>();
  const twin = changetype<N>(<usize>0).twin;
  const most: usize = changetype<P>(<usize>0).fours ? 1 : twin ? GROUPS / 2 : GROUPS;
  const p = v128.load_splat<T>(pivot);
  const scale = Bend.splat<T, E>(pivot + row, p);
  const shift = changetype<E>(<usize>0).bound<T>(Bend.splat<T, E>(pivot + 2 * row, p));
  let sumU = f64x2.splat(0);
  let sumUd = f64x2.splat(0);
  let lostU = f64x2.splat(0);
  let lostUd = f64x2.splat(0);
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
        let u0 = Bend.u<T, S, E, Whole>(b, d0, scale, shift, parameters);
        let u1 = Bend.u<T, S, E, Whole>(b + 16, d1, scale, shift, parameters);
        let u2 = Bend.u<T, S, E, Whole>(b + 32, d2, scale, shift, parameters);
        let u3 = Bend.u<T, S, E, Whole>(b + 48, d3, scale, shift, parameters);
        u = v128.add<T>(u, Tree.sum<T>(u0, u1, u2, u3));
        ud = v128.add<T>(ud, Tree.dot<T>(u0, d0, u1, d1, u2, d2, u3, d3));
        if (twin) {
          const e = a + gap;
          const f = b + gap;
          d0 = v128.sub<T>(v128.load(e), p);
          d1 = v128.sub<T>(v128.load(e, 16), p);
          d2 = v128.sub<T>(v128.load(e, 32), p);
          d3 = v128.sub<T>(v128.load(e, 48), p);
          u0 = Bend.u<T, S, E, Whole>(f, d0, scale, shift, parameters);
          u1 = Bend.u<T, S, E, Whole>(f + 16, d1, scale, shift, parameters);
          u2 = Bend.u<T, S, E, Whole>(f + 32, d2, scale, shift, parameters);
          u3 = Bend.u<T, S, E, Whole>(f + 48, d3, scale, shift, parameters);
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
        let v = Bend.u<T, S, E, Whole>(b, d, scale, shift, parameters);
        u = v128.add<T>(u, v);
        ud = Lanes.madd<T>(v, d, ud);
        if (twin) {
          d = v128.sub<T>(whole.load<T>(a + gap), p);
          v = Bend.u<T, S, E, Whole>(b + gap, d, scale, shift, parameters);
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
        let v = Bend.u<T, S, E, Single>(b, d, scale, shift, parameters);
        u = v128.add<T>(u, v);
        ud = Lanes.madd<T>(v, d, ud);
        if (twin) {
          d = v128.sub<T>(single.load<T>(a + gap), lone);
          v = Bend.u<T, S, E, Single>(b + gap, d, scale, shift, parameters);
          u = v128.add<T>(u, v);
          ud = Lanes.madd<T>(v, d, ud);
        }
        a += sizeof<T>();
        b += sizeof<T>();
      }
    }
    if (!Lanes.widens<T>()) {
      const nextU = f64x2.add(sumU, u);
      const nextUd = f64x2.add(sumUd, ud);
      lostU = f64x2.add(lostU, Lanes.lost(sumU, u, nextU));
      lostUd = f64x2.add(lostUd, Lanes.lost(sumUd, ud, nextUd));
      sumU = nextU;
      sumUd = nextUd;
      continue;
    }
    sumU = f64x2.add(sumU, f64x2.add(Lanes.low(u), Lanes.high(u)));
    sumUd = f64x2.add(sumUd, f64x2.add(Lanes.low(ud), Lanes.high(ud)));
  }
  if (!Lanes.widens<T>()) {
    Kept.add(first, second, sumU, sumUd, lostU, lostUd);
    return;
  }
  store<f64>(first, load<f64>(first) + Lanes.sum(sumU));
  store<f64>(second, load<f64>(second) + Lanes.sum(sumUd));
}

/** Adds `length` elements of one channel exactly. `pivot` points at the channel's. */
function sumRun<T extends number, S extends Moments, E extends Identity>(
  x: usize,
  dy: usize,
  parameters: usize,
  pivot: usize,
  row: usize,
  first: usize,
  second: usize,
  length: usize,
): void {
  const lanes = Lanes.count<T>();
  const whole = length / lanes;
  const p = v128.load_splat<T>(pivot);
  const scale = Bend.splat<T, E>(pivot + row, p);
  const shift = changetype<E>(<usize>0).bound<T>(Bend.splat<T, E>(pivot + 2 * row, p));
  sumExactly<T, S, E, Whole, OneChannel>(x, dy, parameters, p, scale, shift, first, second, 16, whole);
  const lone = changetype<Single>(<usize>0).load<T>(pivot);
  sumExactly<T, S, E, Single, OneChannel>(
    x + whole * 16,
    dy + whole * 16,
    parameters,
    lone,
    scale,
    shift,
    first,
    second,
    sizeof<T>(),
    length % lanes,
  );
}

/** Channels [begin, end) of a tensor [outer, channels, inner], in memory order; grouped, in both halves at once. */
export function sumPlanar<T extends number, S extends Moments, E extends Identity, P extends Grouped>(
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
  const grouped = changetype<P>(<usize>0).grouped;
  const exact = !grouped && !changetype<P>(<usize>0).fours;
  memory.fill(first + Kept.bytes<T>(begin), 0, Kept.bytes<T>(end - begin));
  memory.fill(second + Kept.bytes<T>(begin), 0, Kept.bytes<T>(end - begin));
  const twins: usize = grouped && changetype<S>(<usize>0).sources == 1 ? outer >> 1 : 0;
  const plane = Lanes.bytes<T>(inner);
  const row = Lanes.bytes<T>(channels);
  const gap = twins * channels * plane;
  for (let n: usize = 0; n < outer - twins; ++n) {
    const offset = ((n < twins ? n : n + twins) * channels + begin) * plane;
    let a = x + offset;
    let b = dy + offset;
    for (let channel = begin; channel < end; ++channel) {
      const p = pivot + Lanes.bytes<T>(channel);
      const f = first + Kept.bytes<T>(channel);
      const s = second + Kept.bytes<T>(channel);
      if (exact) sumRun<T, S, E>(a, b, parameters, p, row, f, s, inner);
      else if (n < twins) sumGroups<T, S, E, Twin, P>(a, b, gap, parameters, p, row, f, s, inner);
      else sumGroups<T, S, E, Lone, P>(a, b, 0, parameters, p, row, f, s, inner);
      a += plane;
      b += plane;
    }
  }
}

/** The same of f64, grouped; entries of two f64 stand in `scratch` meanwhile, 4·channels of f64. */
export function sumPlanarKept<S extends Moments>(
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
  const other = scratch + Kept.bytes<f64>(channels);
  sumPlanar<f64, S, Identity, Grouped>(x, dy, 0, pivot, scratch, other, outer, channels, inner, begin, end);
  join(scratch, scratch + 8, 16, first, begin, end);
  join(other, other + 8, 16, second, begin, end);
}

/**
 * Rows, a multiple of four, that these sums take down a column at once; more would push each other out of L1 where a row
 * is 2 KiB long.
 */
const BLOCK: usize = 8;

/**
 * Columns [begin, end) of `length` elements in rows of `columns`, the last row perhaps cut short: in f64, of fours where
 * P allows it.
 */
export function sumInterleavedExactly<T extends number, S extends Moments, E extends Identity, P extends Grouped>(
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
  const lanes = Lanes.count<T>();
  const row = Lanes.bytes<T>(columns);
  memory.fill(first + Lanes.bytes<f64>(begin), 0, Lanes.bytes<f64>(end - begin));
  memory.fill(second + Lanes.bytes<f64>(begin), 0, Lanes.bytes<f64>(end - begin));
  while (length > begin) {
    const steps = max(min(length / columns, BLOCK), 1);
    const last = min(end, length);
    let column = begin;
    for (; column + lanes <= last; column += lanes) {
      const at = Lanes.bytes<T>(column);
      const f = first + Lanes.bytes<f64>(column);
      const s = second + Lanes.bytes<f64>(column);
      const p = v128.load(pivot + at);
      const scale = Bend.load<T, E, Whole>(pivot + at + row, p);
      const shift = changetype<E>(<usize>0).bound<T>(Bend.load<T, E, Whole>(pivot + at + 2 * row, p));
      if (changetype<P>(<usize>0).fours && steps == BLOCK)
        sumFours<T, S, E>(x + at, dy + at, parameters, p, scale, shift, f, s, row, BLOCK / 4);
      else sumExactly<T, S, E, Whole, Columns>(x + at, dy + at, parameters, p, scale, shift, f, s, row, steps);
    }
    for (; column < last; ++column) {
      const at = Lanes.bytes<T>(column);
      const p = changetype<Single>(<usize>0).load<T>(pivot + at);
      const scale = Bend.load<T, E, Single>(pivot + at + row, p);
      const shift = changetype<E>(<usize>0).bound<T>(Bend.load<T, E, Single>(pivot + at + 2 * row, p));
      const f = first + Lanes.bytes<f64>(column);
      const s = second + Lanes.bytes<f64>(column);
      sumExactly<T, S, E, Single, OneChannel>(x + at, dy + at, parameters, p, scale, shift, f, s, row, steps);
    }
    x += steps * row;
    dy += steps * row;
    length -= min(length, steps * columns);
  }
}

/** Adds rows of the interleaved walk to two rows of running sums: one step of width W. `row` is one of coefficients. */
abstract class Row {
  @inline static one<T extends number, S extends Moments, E extends Identity, W extends Whole>(
    x: usize,
    dy: usize,
    parameters: usize,
    pivot: usize,
    row: usize,
    first: usize,
    second: usize,
  ): void {
    const width = changetype<W>(<usize>0);
    const p = width.load<T>(pivot);
    const scale = Bend.load<T, E, W>(pivot + row, p);
    const shift = changetype<E>(<usize>0).bound<T>(Bend.load<T, E, W>(pivot + 2 * row, p));
    const d = v128.sub<T>(width.load<T>(x), p);
    const u = Bend.u<T, S, E, W>(dy, d, scale, shift, parameters);
    width.store<T>(first, v128.add<T>(width.load<T>(first), u));
    width.store<T>(second, Lanes.madd<T>(u, d, width.load<T>(second)));
  }

  /** Of two rows that lie `gap` bytes apart. */
  @inline static two<T extends number, S extends Moments, E extends Identity, W extends Whole>(
    x: usize,
    dy: usize,
    gap: usize,
    parameters: usize,
    pivot: usize,
    row: usize,
    first: usize,
    second: usize,
  ): void {
    const width = changetype<W>(<usize>0);
    const p = width.load<T>(pivot);
    const scale = Bend.load<T, E, W>(pivot + row, p);
    const shift = changetype<E>(<usize>0).bound<T>(Bend.load<T, E, W>(pivot + 2 * row, p));
    const d0 = v128.sub<T>(width.load<T>(x), p);
    const d1 = v128.sub<T>(width.load<T>(x + gap), p);
    const u0 = Bend.u<T, S, E, W>(dy, d0, scale, shift, parameters);
    const u1 = Bend.u<T, S, E, W>(dy + gap, d1, scale, shift, parameters);
    width.store<T>(first, v128.add<T>(width.load<T>(first), v128.add<T>(u0, u1)));
    const ud = Lanes.madd<T>(u0, d0, v128.mul<T>(u1, d1));
    width.store<T>(second, v128.add<T>(width.load<T>(second), ud));
  }
}

/** Moves `columns` running sums in T to f64 and clears them. Of f64, what rounding takes goes two rows behind them. */
function flush<T extends number>(group: usize, sums: usize, columns: usize): void {
  const lanes = Lanes.count<T>();
  if (!Lanes.widens<T>()) {
    const gap = Lanes.bytes<f64>(2 * columns);
    for (; columns >= lanes; columns -= lanes) {
      Kept.move<Whole>(group, sums, gap);
      group += 16;
      sums += 16;
    }
    if (columns) Kept.move<Single>(group, sums, gap);
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
 * Elements [begin, end) of rows of `columns` elements; begin is the start of a row. Rows are taken in pairs, one from
 * either half of the range: two far streams are read 1.4 times as fast as one, and a pair shares its loads and stores
 * of running sums. Short rows of two sources are paired with their neighbours, since four streams are not faster than
 * two (docs/numerics.md has the measurements). Running sums stand in `scratch`, 2·columns of T, and of f64 what rounding
 * takes from the sums, another 2·columns.
 */
export function sumInterleaved<T extends number, S extends Moments, E extends Identity>(
  x: usize,
  dy: usize,
  parameters: usize,
  pivot: usize,
  first: usize,
  second: usize,
  scratch: usize,
  columns: usize,
  begin: usize,
  end: usize,
): void {
  const lanes = Lanes.count<T>();
  const row = Lanes.bytes<T>(columns);
  const groupU = scratch;
  const groupUd = scratch + row;
  memory.fill(first, 0, Lanes.bytes<f64>(columns));
  memory.fill(second, 0, Lanes.bytes<f64>(columns));
  memory.fill(scratch, 0, Lanes.widens<T>() ? 2 * row : 4 * row);
  const pairs = (end - begin) / columns / 2;
  const neighbours = changetype<S>(<usize>0).sources == 2 && row * 2 <= PAIR_BYTES;
  const gap = neighbours ? row : pairs * row;
  const skip = neighbours ? row : 0;
  let a = x + Lanes.bytes<T>(begin);
  let b = dy + Lanes.bytes<T>(begin);
  let rows: usize = 0;
  for (let pair: usize = 0; pair < pairs; ++pair) {
    let p = pivot;
    let f = groupU;
    let s = groupUd;
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
      flush<T>(groupU, first, columns);
      flush<T>(groupUd, second, columns);
      rows = 0;
    }
  }
  // the last row of an odd number, and the one that is cut short
  begin += 2 * pairs * columns;
  a = x + Lanes.bytes<T>(begin);
  b = dy + Lanes.bytes<T>(begin);
  for (; begin < end; begin += columns) {
    let p = pivot;
    let f = groupU;
    let s = groupUd;
    for (let left = min(columns, end - begin); left; --left) {
      Row.one<T, S, E, Single>(a, b, parameters, p, row, f, s);
      a += sizeof<T>();
      b += sizeof<T>();
      p += sizeof<T>();
      f += sizeof<T>();
      s += sizeof<T>();
    }
  }
  flush<T>(groupU, first, columns);
  flush<T>(groupUd, second, columns);
  if (!Lanes.widens<T>()) {
    join(first, groupU + row * 2, 8, first, 0, columns);
    join(second, groupUd + row * 2, 8, second, 0, columns);
  }
}
