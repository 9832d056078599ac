// Channel sums: the first of the two primitives. Per channel, with d = x − pivot,
//
//   Moments       Σ d    Σ d·d       pivot: the mean of a first block of the channel       (docs/batchnorm.md, F1, F2)
//   Gradients     Σ dy   Σ dy·d      pivot: hi, the mean in T                              (docs/batchnorm.md, B1, B2)
//
// Both are Σ u and Σ u·d with u = d or u = dy. They go to two arrays of f64, `first` and `second`: one entry per channel
// in the planar walk, one per column in the interleaved walk. Entries in the range are written afresh.
//
// Three precisions, whose errors are in docs/numerics.md:
//
//   grouped   up to 64 values are summed in T, the groups in f64
//   fours     four vectors of a plane, or four values of a column, are summed in T, those sums in f64
//   exact     every value goes to f64 before anything is subtracted from it or added to it

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
function sumExactly<T extends number, S extends Moments, W extends Whole, O extends OneChannel>(
  x: usize,
  dy: usize,
  pivot: v128,
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
    const w = two ? width.load<T>(dy) : v;
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
function sumFours<T extends number, S extends Moments>(
  x: usize,
  dy: usize,
  pivot: v128,
  first: usize,
  second: usize,
  stride: usize,
  fours: usize,
): void {
  const two = changetype<S>(<usize>0).sources == 2;
  let fLow = f64x2.splat(0);
  let fHigh = f64x2.splat(0);
  let sLow = f64x2.splat(0);
  let sHigh = f64x2.splat(0);
  for (; fours; --fours) {
    const d0 = v128.sub<T>(v128.load(x), pivot);
    const d1 = v128.sub<T>(v128.load(x + stride), pivot);
    const d2 = v128.sub<T>(v128.load(x + 2 * stride), pivot);
    const d3 = v128.sub<T>(v128.load(x + 3 * stride), pivot);
    const u0 = two ? v128.load(dy) : d0;
    const u1 = two ? v128.load(dy + stride) : d1;
    const u2 = two ? v128.load(dy + 2 * stride) : d2;
    const u3 = two ? v128.load(dy + 3 * stride) : d3;
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
function sumGroups<T extends number, S extends Moments, N extends Lone, P extends Grouped>(
  a: usize,
  b: usize,
  gap: usize,
  pivot: usize,
  first: usize,
  second: usize,
  length: usize,
): void {
  const lanes = Lanes.count<T>();
  const two = changetype<S>(<usize>0).sources == 2;
  const twin = changetype<N>(<usize>0).twin;
  const most: usize = changetype<P>(<usize>0).fours ? 1 : twin ? GROUPS / 2 : GROUPS;
  const p = v128.load_splat<T>(pivot);
  let sumU = f64x2.splat(0);
  let sumUd = f64x2.splat(0);
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
        let u0 = two ? v128.load(b) : d0;
        let u1 = two ? v128.load(b, 16) : d1;
        let u2 = two ? v128.load(b, 32) : d2;
        let u3 = two ? v128.load(b, 48) : d3;
        u = v128.add<T>(u, Tree.sum<T>(u0, u1, u2, u3));
        ud = v128.add<T>(ud, Tree.dot<T>(u0, d0, u1, d1, u2, d2, u3, d3));
        if (twin) {
          const e = a + gap;
          const f = b + gap;
          d0 = v128.sub<T>(v128.load(e), p);
          d1 = v128.sub<T>(v128.load(e, 16), p);
          d2 = v128.sub<T>(v128.load(e, 32), p);
          d3 = v128.sub<T>(v128.load(e, 48), p);
          u0 = two ? v128.load(f) : d0;
          u1 = two ? v128.load(f, 16) : d1;
          u2 = two ? v128.load(f, 32) : d2;
          u3 = two ? v128.load(f, 48) : d3;
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
        let v = two ? whole.load<T>(b) : d;
        u = v128.add<T>(u, v);
        ud = Lanes.madd<T>(v, d, ud);
        if (twin) {
          d = v128.sub<T>(whole.load<T>(a + gap), p);
          v = two ? whole.load<T>(b + gap) : d;
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
        let v = two ? single.load<T>(b) : d;
        u = v128.add<T>(u, v);
        ud = Lanes.madd<T>(v, d, ud);
        if (twin) {
          d = v128.sub<T>(single.load<T>(a + gap), lone);
          v = two ? single.load<T>(b + gap) : d;
          u = v128.add<T>(u, v);
          ud = Lanes.madd<T>(v, d, ud);
        }
        a += sizeof<T>();
        b += sizeof<T>();
      }
    }
    sumU = f64x2.add(sumU, f64x2.add(Lanes.low(u), Lanes.high(u)));
    sumUd = f64x2.add(sumUd, f64x2.add(Lanes.low(ud), Lanes.high(ud)));
  }
  store<f64>(first, load<f64>(first) + Lanes.sum(sumU));
  store<f64>(second, load<f64>(second) + Lanes.sum(sumUd));
}

/** Adds `length` elements of one channel exactly. `pivot` points at the channel's. */
function sumRun<T extends number, S extends Moments>(
  x: usize,
  dy: usize,
  pivot: usize,
  first: usize,
  second: usize,
  length: usize,
): void {
  const lanes = Lanes.count<T>();
  const whole = length / lanes;
  const p = v128.load_splat<T>(pivot);
  sumExactly<T, S, Whole, OneChannel>(x, dy, p, first, second, 16, whole);
  const lone = changetype<Single>(<usize>0).load<T>(pivot);
  sumExactly<T, S, Single, OneChannel>(
    x + whole * 16,
    dy + whole * 16,
    lone,
    first,
    second,
    sizeof<T>(),
    length % lanes,
  );
}

/** Channels [begin, end) of a tensor [outer, channels, inner], in memory order; grouped, in both halves at once. */
export function sumPlanar<T extends number, S extends Moments, P extends Grouped>(
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
  const grouped = changetype<P>(<usize>0).grouped;
  const exact = !grouped && !changetype<P>(<usize>0).fours;
  memory.fill(first + Lanes.bytes<f64>(begin), 0, Lanes.bytes<f64>(end - begin));
  memory.fill(second + Lanes.bytes<f64>(begin), 0, Lanes.bytes<f64>(end - begin));
  const twins: usize = grouped && changetype<S>(<usize>0).sources == 1 ? outer >> 1 : 0;
  const plane = Lanes.bytes<T>(inner);
  const gap = twins * channels * plane;
  for (let n: usize = 0; n < outer - twins; ++n) {
    const offset = ((n < twins ? n : n + twins) * channels + begin) * plane;
    let a = x + offset;
    let b = dy + offset;
    for (let channel = begin; channel < end; ++channel) {
      const p = pivot + Lanes.bytes<T>(channel);
      const f = first + Lanes.bytes<f64>(channel);
      const s = second + Lanes.bytes<f64>(channel);
      if (exact) sumRun<T, S>(a, b, p, f, s, inner);
      else if (n < twins) sumGroups<T, S, Twin, P>(a, b, gap, p, f, s, inner);
      else sumGroups<T, S, Lone, P>(a, b, 0, p, f, s, inner);
      a += plane;
      b += plane;
    }
  }
}

/** Rows, a multiple of four, that these sums take down a column at once; more would push each other out of L1 where a row is 2 KiB long. */
const BLOCK: usize = 8;

/**
 * Columns [begin, end) of `length` elements in rows of `columns`, the last row perhaps cut short: in f64, of fours where P
 * allows it.
 */
export function sumInterleavedExactly<T extends number, S extends Moments, P extends Grouped>(
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
      if (changetype<P>(<usize>0).fours && steps == BLOCK) sumFours<T, S>(x + at, dy + at, p, f, s, row, BLOCK / 4);
      else sumExactly<T, S, Whole, Columns>(x + at, dy + at, p, f, s, row, steps);
    }
    for (; column < last; ++column) {
      const at = Lanes.bytes<T>(column);
      const p = changetype<Single>(<usize>0).load<T>(pivot + at);
      const f = first + Lanes.bytes<f64>(column);
      const s = second + Lanes.bytes<f64>(column);
      sumExactly<T, S, Single, OneChannel>(x + at, dy + at, p, f, s, row, steps);
    }
    x += steps * row;
    dy += steps * row;
    length -= min(length, steps * columns);
  }
}

/** Adds rows of the interleaved walk to two rows of running sums: one step of width W. */
abstract class Row {
  @inline static one<T extends number, S extends Moments, W extends Whole>(
    x: usize,
    dy: usize,
    pivot: usize,
    first: usize,
    second: usize,
  ): void {
    const width = changetype<W>(<usize>0);
    const d = v128.sub<T>(width.load<T>(x), width.load<T>(pivot));
    const u = changetype<S>(<usize>0).sources == 2 ? width.load<T>(dy) : d;
    width.store<T>(first, v128.add<T>(width.load<T>(first), u));
    width.store<T>(second, Lanes.madd<T>(u, d, width.load<T>(second)));
  }

  /** Of two rows that lie `gap` bytes apart. */
  @inline static two<T extends number, S extends Moments, W extends Whole>(
    x: usize,
    dy: usize,
    gap: usize,
    pivot: usize,
    first: usize,
    second: usize,
  ): void {
    const two = changetype<S>(<usize>0).sources == 2;
    const width = changetype<W>(<usize>0);
    const p = width.load<T>(pivot);
    const d0 = v128.sub<T>(width.load<T>(x), p);
    const d1 = v128.sub<T>(width.load<T>(x + gap), p);
    const u0 = two ? width.load<T>(dy) : d0;
    const u1 = two ? width.load<T>(dy + gap) : d1;
    width.store<T>(first, v128.add<T>(width.load<T>(first), v128.add<T>(u0, u1)));
    const ud = Lanes.madd<T>(u0, d0, v128.mul<T>(u1, d1));
    width.store<T>(second, v128.add<T>(width.load<T>(second), ud));
  }
}

/** Moves `columns` running sums in T to f64 and clears them. */
function flush<T extends number>(group: usize, sums: usize, columns: usize): void {
  const lanes = Lanes.count<T>();
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
const PAIR_BYTES: usize = 1024;

/** Rows summed in T before they go to f64. */
const ROWS: usize = 16;

/**
 * Elements [begin, end) of rows of `columns` elements; begin is the start of a row. Rows are taken in pairs, one from
 * either half of the range: two far streams are read 1.4 times as fast as one, and a pair shares its loads and stores
 * of running sums. Short rows of two sources are paired with their neighbours, since four streams are not faster than
 * two (docs/numerics.md has the measurements). Running sums stand in `scratch`, 2·columns of T.
 */
export function sumInterleaved<T extends number, S extends Moments>(
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
  const lanes = Lanes.count<T>();
  const row = Lanes.bytes<T>(columns);
  const groupU = scratch;
  const groupUd = scratch + row;
  memory.fill(first, 0, Lanes.bytes<f64>(columns));
  memory.fill(second, 0, Lanes.bytes<f64>(columns));
  memory.fill(scratch, 0, 2 * row);
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
      Row.two<T, S, Whole>(a, b, gap, p, f, s);
      Row.two<T, S, Whole>(a + 16, b + 16, gap, p + 16, f + 16, s + 16);
      Row.two<T, S, Whole>(a + 32, b + 32, gap, p + 32, f + 32, s + 32);
      Row.two<T, S, Whole>(a + 48, b + 48, gap, p + 48, f + 48, s + 48);
      a += 64;
      b += 64;
      p += 64;
      f += 64;
      s += 64;
    }
    for (; left; --left) {
      Row.two<T, S, Single>(a, b, gap, p, f, s);
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
      Row.one<T, S, Single>(a, b, p, f, s);
      a += sizeof<T>();
      b += sizeof<T>();
      p += sizeof<T>();
      f += sizeof<T>();
      s += sizeof<T>();
    }
  }
  flush<T>(groupU, first, columns);
  flush<T>(groupUd, second, columns);
}
