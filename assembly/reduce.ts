// Channel sums: the first of the two primitives. Per channel, with d = x − pivot,
//
//   Moments       Σ d    Σ d·d       pivot: the mean of a first block of the channel       (docs/batchnorm.md, F1, F2)
//   Gradients     Σ dy   Σ dy·d      pivot: hi, the mean in T                              (docs/batchnorm.md, B1, B2)
//
// Both are Σ u and Σ u·d with u = d or u = dy. They go to two arrays of f64, `first` and `second`: one entry per channel
// in the planar walk, one per column in the interleaved walk. Entries in the range are written afresh.
//
// Two precisions, whose errors are in docs/numerics.md:
//
//   grouped   16 values are summed in T, the groups in f64
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

@final
@unmanaged
export class Grouped {
  @inline get grouped(): bool {
    return true;
  }
}

@final
@unmanaged
export class Exact {
  @inline get grouped(): bool {
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

/**
 * Channels [begin, end) of a tensor [outer, channels, inner], plane by plane in memory order. What a group of 16 does
 * not fill is summed exactly.
 */
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
  const lanes = Lanes.count<T>();
  const two = changetype<S>(<usize>0).sources == 2;
  memory.fill(first + Lanes.bytes<f64>(begin), 0, Lanes.bytes<f64>(end - begin));
  memory.fill(second + Lanes.bytes<f64>(begin), 0, Lanes.bytes<f64>(end - begin));
  for (let n: usize = 0; n < outer; ++n) {
    const offset = Lanes.bytes<T>((n * channels + begin) * inner);
    let a = x + offset;
    let b = dy + offset;
    for (let channel = begin; channel < end; ++channel) {
      const p = v128.load_splat<T>(pivot + Lanes.bytes<T>(channel));
      const f = first + Lanes.bytes<f64>(channel);
      const s = second + Lanes.bytes<f64>(channel);
      let left = inner;
      if (changetype<P>(<usize>0).grouped) {
        let sumU = f64x2.splat(0);
        let sumUd = f64x2.splat(0);
        for (; left >= 4 * lanes; left -= 4 * lanes) {
          const d0 = v128.sub<T>(v128.load(a), p);
          const d1 = v128.sub<T>(v128.load(a, 16), p);
          const d2 = v128.sub<T>(v128.load(a, 32), p);
          const d3 = v128.sub<T>(v128.load(a, 48), p);
          const u0 = two ? v128.load(b) : d0;
          const u1 = two ? v128.load(b, 16) : d1;
          const u2 = two ? v128.load(b, 32) : d2;
          const u3 = two ? v128.load(b, 48) : d3;
          const u = v128.add<T>(v128.add<T>(u0, u1), v128.add<T>(u2, u3));
          const ud01 = Lanes.madd<T>(u0, d0, v128.mul<T>(u1, d1));
          const ud23 = Lanes.madd<T>(u2, d2, v128.mul<T>(u3, d3));
          const ud = v128.add<T>(ud01, ud23);
          sumU = f64x2.add(sumU, f64x2.add(Lanes.low(u), Lanes.high(u)));
          sumUd = f64x2.add(sumUd, f64x2.add(Lanes.low(ud), Lanes.high(ud)));
          a += 64;
          b += 64;
        }
        store<f64>(f, load<f64>(f) + Lanes.sum(sumU));
        store<f64>(s, load<f64>(s) + Lanes.sum(sumUd));
      }
      const whole = left / lanes;
      sumExactly<T, S, Whole, OneChannel>(a, b, p, f, s, 16, whole);
      a += whole * 16;
      b += whole * 16;
      left -= whole * lanes;
      const lone = changetype<Single>(<usize>0).load<T>(pivot + Lanes.bytes<T>(channel));
      sumExactly<T, S, Single, OneChannel>(a, b, lone, f, s, sizeof<T>(), left);
      a += Lanes.bytes<T>(left);
      b += Lanes.bytes<T>(left);
    }
  }
}

/**
 * Columns [begin, end) of `length` elements in rows of `columns`, the last row perhaps cut short: column by column in
 * f64. Reads a quarter of a cache line at a time, so it is for few columns or few rows.
 */
export function sumInterleavedExactly<T extends number, S extends Moments>(
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
  const rows = length / columns;
  const rest = length % columns;
  memory.fill(first + Lanes.bytes<f64>(begin), 0, Lanes.bytes<f64>(end - begin));
  memory.fill(second + Lanes.bytes<f64>(begin), 0, Lanes.bytes<f64>(end - begin));
  for (let column = begin; column < end; ) {
    const at = Lanes.bytes<T>(column);
    const f = first + Lanes.bytes<f64>(column);
    const s = second + Lanes.bytes<f64>(column);
    // the row that is cut short may end inside a vector of columns: those columns are then taken one by one
    if (end - column >= lanes && (rest >= column + lanes || rest <= column)) {
      const p = v128.load(pivot + at);
      sumExactly<T, S, Whole, Columns>(x + at, dy + at, p, f, s, row, rows + usize(rest > column));
      column += lanes;
    } else {
      const p = changetype<Single>(<usize>0).load<T>(pivot + at);
      sumExactly<T, S, Single, OneChannel>(x + at, dy + at, p, f, s, row, rows + usize(rest > column));
      ++column;
    }
  }
}

/** Adds one or two rows of the interleaved walk into two rows of running sums in T. */
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

  @inline static two<T extends number, S extends Moments>(
    x: usize,
    dy: usize,
    pivot: usize,
    first: usize,
    second: usize,
    row: usize,
  ): void {
    const two = changetype<S>(<usize>0).sources == 2;
    const p = v128.load(pivot);
    const d0 = v128.sub<T>(v128.load(x), p);
    const d1 = v128.sub<T>(v128.load(x + row), p);
    const u0 = two ? v128.load(dy) : d0;
    const u1 = two ? v128.load(dy + row) : d1;
    v128.store(first, v128.add<T>(v128.load(first), v128.add<T>(u0, u1)));
    v128.store(second, v128.add<T>(v128.load(second), Lanes.madd<T>(u0, d0, v128.mul<T>(u1, d1))));
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

/**
 * Two rows at a time reach memory's speed while both lie within this many bytes; beyond, the processor no longer
 * prefetches them and one row at a time is faster (docs/numerics.md has the measurement).
 */
const PAIR_BYTES: usize = 1024;

/** Rows summed in T before they go to f64. */
const GROUP: usize = 16;

/**
 * Elements [begin, end) of rows of `columns` elements, in memory order; begin is the start of a row. The sums of a group
 * of rows stand in `scratch`, 2·columns of T.
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
  const pairs = row * 2 < PAIR_BYTES && columns % (4 * lanes) == 0;
  let a = x + Lanes.bytes<T>(begin);
  let b = dy + Lanes.bytes<T>(begin);
  let rows: usize = 0;
  while (begin < end) {
    let p = pivot;
    let f = groupU;
    let s = groupUd;
    if (pairs && end - begin >= 2 * columns) {
      for (let left = columns; left; left -= 4 * lanes) {
        Row.two<T, S>(a, b, p, f, s, row);
        Row.two<T, S>(a + 16, b + 16, p + 16, f + 16, s + 16, row);
        Row.two<T, S>(a + 32, b + 32, p + 32, f + 32, s + 32, row);
        Row.two<T, S>(a + 48, b + 48, p + 48, f + 48, s + 48, row);
        a += 64;
        b += 64;
        p += 64;
        f += 64;
        s += 64;
      }
      a += row;
      b += row;
      begin += 2 * columns;
      rows += 2;
    } else {
      let left = min(columns, end - begin);
      for (; left >= 4 * lanes; left -= 4 * lanes) {
        Row.one<T, S, Whole>(a, b, p, f, s);
        Row.one<T, S, Whole>(a + 16, b + 16, p + 16, f + 16, s + 16);
        Row.one<T, S, Whole>(a + 32, b + 32, p + 32, f + 32, s + 32);
        Row.one<T, S, Whole>(a + 48, b + 48, p + 48, f + 48, s + 48);
        a += 64;
        b += 64;
        p += 64;
        f += 64;
        s += 64;
      }
      for (; left; --left) {
        Row.one<T, S, Single>(a, b, p, f, s);
        a += sizeof<T>();
        b += sizeof<T>();
        p += sizeof<T>();
        f += sizeof<T>();
        s += sizeof<T>();
      }
      begin += columns;
      ++rows;
    }
    if (rows >= GROUP || begin >= end) {
      flush<T>(groupU, first, columns);
      flush<T>(groupUd, second, columns);
      rows = 0;
    }
  }
}
