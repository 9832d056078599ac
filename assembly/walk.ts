// Whole tensors, for hosts without src/: which walk a geometry takes, where its scratch lies, and the two primitives over
// all of it. Walks, stripes and precisions are those of src/geometry.ts and src/kernels.ts, and the order of calls is that
// of src/core.ts, so that results have the same bits; test/embed.test.ts compares the two.
//
// A workspace begins with the walk itself:
//
//   | Walk | first | second | rows of columns | rows of channels | invStd | doubtful |
//            f64, one per     f32, four of one   the same of one    f64      u8
//            column of each   per column: hi,    per channel        [C]      [C]
//            stripe           scale, shift,
//                             slope
//
// While sums are taken there are no coefficients yet: the first rows hold pivots, and the second and third row of columns
// are the scratch of sumInterleaved.

import { Affine, mapInterleaved, mapPlanar } from "./affine";
import { gradientStatistics, spreadOver, statistics } from "./channel";
import { Identity } from "./epilogue";
import { Lanes } from "./lanes";
import { Exact, Fours, Grouped, Moments, sumInterleaved, sumInterleavedExactly, sumPlanar } from "./reduce";

// These numbers have their reasons in src/geometry.ts and src/kernels.ts.

const PLANAR_FROM: usize = 32;
const PLANAR_ALONE: usize = 4;
const ROW: usize = 64;
const GROUP: usize = 16;
const STRIPE: usize = 65536;
const STRIPE_ROWS: usize = 512;
const MAX_STRIPES: usize = 32;
const GROUPED_FROM: usize = 1024;
const FOURS_FROM_PLANAR: usize = 512;
const FOURS_FROM_INTERLEAVED: usize = 128;
const PIVOT_BLOCK: usize = 16;
const IN_CACHE: usize = 1 << 24;

/** Bytes of a workspace: the two sums of a column of a stripe; the rows of columns; rows, invStd and doubt of a channel. */
const PER_SUM: usize = 16;
const PER_COLUMN: usize = 16;
const PER_CHANNEL: usize = 16 + 8 + 1;

function isPlanar(outer: usize, inner: usize): bool {
  return inner >= (outer == 1 ? PLANAR_ALONE : PLANAR_FROM);
}

function over(a: usize, b: usize): usize {
  return (a + b - 1) / b;
}

/** Columns of a row, which holds whole periods; planar: channels. */
function columnsOf(outer: usize, channels: usize, inner: usize): usize {
  if (isPlanar(outer, inner)) return channels;
  const period = channels * inner;
  let even: usize = 1;
  while ((period * even) % GROUP != 0) even *= 2;
  const repeat = even * over(ROW, even * period);
  return repeat <= outer ? repeat * period : period;
}

/** Rows of a stripe. */
function stripeOf(outer: usize, channels: usize, inner: usize): usize {
  const length = outer * channels * inner;
  const rows = over(length, columnsOf(outer, channels, inner));
  if (isPlanar(outer, inner)) return rows;
  return over(rows, max(min(min(MAX_STRIPES, length / STRIPE), rows / STRIPE_ROWS), 1));
}

function stripesOf(outer: usize, channels: usize, inner: usize): usize {
  const rows = over(outer * channels * inner, columnsOf(outer, channels, inner));
  return over(rows, stripeOf(outer, channels, inner));
}

/** Bytes of the workspace of a geometry, a multiple of 64, so that what lies behind it is aligned if it is. */
export function workspaceOf(outer: usize, channels: usize, inner: usize): usize {
  if (outer * channels * inner == 0) return 0;
  if (channels == 1 && inner > 1) return workspaceOf(outer * inner, 1, 1);
  const columns = columnsOf(outer, channels, inner);
  const sums = columns * stripesOf(outer, channels, inner);
  const bytes = offsetof<Walk>() + sums * PER_SUM + columns * PER_COLUMN + channels * PER_CHANNEL;
  return (bytes + 63) & ~63;
}

/** How a tensor [outer, channels, inner] that is not empty is walked, and where in its workspace everything lies. */
@final
@unmanaged
export class Walk {
  outer: usize = 0;
  channels: usize = 0;
  inner: usize = 0;
  length: usize = 0;
  planar: usize = 0;
  columns: usize = 0;
  stripe: usize = 0;
  stripes: usize = 0;

  /** At the beginning of a workspace. One channel is one run: as rows it can be cut into stripes. */
  static at(workspace: usize, outer: usize, channels: usize, inner: usize): Walk {
    if (channels == 1 && inner > 1) return Walk.at(workspace, outer * inner, 1, 1);
    const w = changetype<Walk>(workspace);
    w.outer = outer;
    w.channels = channels;
    w.inner = inner;
    w.length = outer * channels * inner;
    w.planar = usize(isPlanar(outer, inner));
    w.columns = columnsOf(outer, channels, inner);
    w.stripe = stripeOf(outer, channels, inner);
    w.stripes = stripesOf(outer, channels, inner);
    return w;
  }

  /** Values per channel. */
  get count(): usize {
    return this.outer * this.inner;
  }

  /** Neighbouring columns of a channel. */
  get spread(): usize {
    return this.planar ? 1 : this.inner;
  }

  /** Columns after which channels repeat. */
  get period(): usize {
    return this.channels * this.spread;
  }

  /** Whether sums are taken in groups at first, and if not, whether in fours. */
  get grouped(): bool {
    return this.count >= GROUPED_FROM;
  }

  get fours(): bool {
    return !this.grouped && this.count >= (this.planar ? FOURS_FROM_PLANAR : FOURS_FROM_INTERLEAVED);
  }

  /** First values of a channel whose mean is its pivot. */
  get block(): usize {
    return this.grouped || this.fours ? PIVOT_BLOCK : 1;
  }

  get first(): usize {
    return changetype<usize>(this) + offsetof<Walk>();
  }

  get second(): usize {
    return this.first + Lanes.bytes<f64>(this.columns * this.stripes);
  }

  get columnRows(): usize {
    return this.first + this.columns * this.stripes * PER_SUM;
  }

  get scratch(): usize {
    return this.columnRows + Lanes.bytes<f32>(this.columns);
  }

  get rows(): usize {
    return this.columnRows + this.columns * PER_COLUMN;
  }

  get invStd(): usize {
    return this.rows + Lanes.bytes<f32>(4 * this.channels);
  }

  get doubtful(): usize {
    return this.invStd + Lanes.bytes<f64>(this.channels);
  }
}

/** The first `count` rows of one value per channel as rows of one per column, where the walk tells them apart. */
function perColumn(w: Walk, count: usize): usize {
  if (w.columns == w.channels) return w.rows;
  spreadOver<f32>(w.rows, w.columnRows, count, w.channels, w.spread, w.columns);
  return w.columnRows;
}

/** Sums of channels [begin, end), which are all channels where sums are grouped. */
function sum<S extends Moments, P extends Grouped>(
  w: Walk,
  x: usize,
  dy: usize,
  pivot: usize,
  begin: usize,
  end: usize,
): void {
  if (w.planar) {
    sumPlanar<f32, S, Identity, P>(x, dy, 0, pivot, w.first, w.second, w.outer, w.channels, w.inner, begin, end);
    return;
  }
  const size = w.stripe * w.columns;
  for (let i: usize = 0; i < w.stripes; ++i) {
    const from = i * size;
    const to = min(from + size, w.length);
    if (changetype<P>(<usize>0).grouped) {
      const at = Lanes.bytes<f64>(i * w.columns);
      sumInterleaved<f32, S, Identity>(x, dy, 0, pivot, w.first + at, w.second + at, w.scratch, w.columns, from, to);
    } else {
      const at = Lanes.bytes<f64>(i * w.period);
      const start = Lanes.bytes<f32>(from);
      sumInterleavedExactly<f32, S, Identity, P>(
        x + start,
        dy + start,
        0,
        pivot,
        w.first + at,
        w.second + at,
        w.period,
        to - from,
        begin * w.spread,
        end * w.spread,
      );
    }
  }
}

/**
 * Moments: sums → mean, variance. Gradients: sums, mean and invStd → dGamma, dBeta. `columns` are those of one stripe that
 * have sums.
 */
function read<S extends Moments>(
  w: Walk,
  mean: usize,
  varianceOrInvStd: usize,
  dGamma: usize,
  dBeta: usize,
  columns: usize,
  begin: usize,
  end: usize,
): void {
  const count = <f64>w.count;
  const all = columns * w.stripes;
  if (changetype<S>(<usize>0).sources == 1)
    statistics<f32>(
      w.first,
      w.second,
      w.rows,
      mean,
      varianceOrInvStd,
      w.doubtful,
      count,
      w.channels,
      w.spread,
      all,
      begin,
      end,
    );
  else
    gradientStatistics<f32>(
      w.first,
      w.second,
      mean,
      varianceOrInvStd,
      dGamma,
      dBeta,
      w.doubtful,
      count,
      w.channels,
      w.spread,
      all,
      begin,
      end,
    );
}

/**
 * Channel sums about the pivots in `rows`, and what `read` makes of them: in groups or fours where there are enough values,
 * and again exactly where it doubts them. Runs of doubtful channels are summed together.
 */
export function takeSums<S extends Moments>(
  w: Walk,
  x: usize,
  dy: usize,
  mean: usize,
  varianceOrInvStd: usize,
  dGamma: usize,
  dBeta: usize,
): void {
  const channels = w.channels;
  const doubtful = w.doubtful;
  const pivot = perColumn(w, 1);
  if (w.grouped) {
    sum<S, Grouped>(w, x, dy, pivot, 0, channels);
    read<S>(w, mean, varianceOrInvStd, dGamma, dBeta, w.columns, 0, channels);
  } else if (w.fours) {
    sum<S, Fours>(w, x, dy, pivot, 0, channels);
    read<S>(w, mean, varianceOrInvStd, dGamma, dBeta, w.period, 0, channels);
  } else memory.fill(doubtful, 1, channels);
  for (let begin: usize = 0; begin < channels; ++begin) {
    if (!load<u8>(doubtful + begin)) continue;
    let end = begin + 1;
    while (end < channels && load<u8>(doubtful + end)) ++end;
    sum<S, Exact>(w, x, dy, pivot, begin, end);
    read<S>(w, mean, varianceOrInvStd, dGamma, dBeta, w.period, begin, end);
    begin = end;
  }
}

/** The map M of a tensor with the coefficients in `rows`. Sources and result may be the same memory. */
export function map<M extends Affine>(w: Walk, x: usize, dy: usize, y: usize): void {
  const matrix = perColumn(w, changetype<M>(<usize>0).rows);
  if (w.planar) {
    mapPlanar<f32, M, Identity>(x, dy, 0, y, matrix, 0, w.outer, w.channels, w.inner, 0, w.channels);
    return;
  }
  const together: usize = w.length <= IN_CACHE / sizeof<f32>() / (changetype<M>(<usize>0).sources + 1) ? 4 : 1;
  mapInterleaved<f32, M, Identity>(x, dy, 0, y, matrix, 0, w.columns, together, 0, w.length);
}
