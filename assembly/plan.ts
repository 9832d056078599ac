// How a tensor is walked, how its sums are taken, and where everything that is not a tensor lies: the only home of these
// decisions. A plan stands at the beginning of a workspace, and the vectors and the scratch of its phases behind it.
//
//   | Plan | mean variance invStd dGamma dBeta | sum dot | coefficients | scratch | gamma beta parameters | unreliable |
//
// Planar: a channel's `inner` elements lie together. Interleaved: the tensor is rows of `columns` elements, the last row
// perhaps cut short, a channel has `columnsPerChannel` neighbouring columns of each `period`, and a row holds whole periods:
//
//   columns   c0 c0 c0 c1 c1 c1 c2 c2 c2 | c0 c0 c0 c1 …        channels = 3, columnsPerChannel = 3, period = 9
//
// All decisions follow from the shape alone, so that results depend on nothing else.

import { Lanes } from "./kernels/lanes";

/** Shorter planes are too short a run for SIMD: they are read as columns. docs/numerics.md has the measurements. */
const PLANAR_FROM: usize = 32;

/** The limit for a single sample, in which each column would have one value and coefficients of its own. */
const PLANAR_FROM_ALONE: usize = 4;

/** A row of at least this many elements makes the cost of starting a row small. */
const ROW: usize = 64;

/** Interleaved sums take four vectors of four lanes in a step, so a row should be a multiple of this. */
const STEP: usize = 16;

/**
 * Rows are summed in stripes, whoever sums them. A stripe has at least so many elements that starting it costs little, and
 * so many rows that merging its sums costs little.
 */
const STRIPE: usize = 65536;
const STRIPE_ROWS: usize = 512;

/** More stripes would make merging cost more than more threads gain. */
const MAX_STRIPES: usize = 32;

/** Sums that are taken column by column are shared out in blocks of this many columns: a cache line of float32. */
const COLUMN_BLOCK: usize = 16;

/**
 * From so many values per channel on, 64 values are summed in float32 before they go to float64, and from so many, four:
 * the rounding of a block averages out over the blocks. Fewer values are summed in float64, since there it would show.
 * docs/numerics.md has the errors.
 */
const BLOCKED_64_FROM: usize = 1024;
const BLOCKED_4_FROM_PLANAR: usize = 512;
const BLOCKED_4_FROM_INTERLEAVED: usize = 128;

/**
 * First values of a channel whose mean is its pivot. Sums in float64 need only one. In blocked sums one alone can be an
 * outlier, which would have the channel summed twice; more than these cost more than they help.
 */
const PIVOT_VALUES: usize = 16;

/** Elements that pass through a tile at a time: with a gradient beside them, they fit into the second-level cache. */
const TILE: usize = 131072;

/**
 * Bytes of sources and result up to which the interleaved map takes four rows at a time: where they come from memory, one
 * stream is faster than four. docs/numerics.md has the measurements.
 */
const IN_CACHE: usize = 1 << 24;

/** Rows of coefficients: as many as the widest map has. */
const COEFFICIENT_ROWS: usize = 5;

/** Values of `Plan.precision`. */
export const BLOCKED_64: usize = 0;
export const BLOCKED_4: usize = 1;
export const IN_F64: usize = 2;

/** Flags of `options`. */
const TILED: i32 = 1;
export const PLANES: i32 = 2;

function over(a: usize, b: usize): usize {
  return (a + b - 1) / b;
}

/** The shortest row of whole periods in whole steps that is at least ROW long, if the tensor has as many rows. */
function columnsOf(outer: usize, period: usize): usize {
  let even: usize = 1;
  while ((period * even) % STEP != 0) even *= 2;
  const repeat = even * over(ROW, even * period);
  return repeat <= outer ? repeat * period : period;
}

/**
 * Hosts read the fields as unsigned 32-bit numbers, in this order: docs/abi.md has them from here. A field without a comment
 * belongs to the one before it.
 */
@final
@unmanaged
export class Plan {
  /** Bytes of an element: 4 for float32, 8 for float64. */
  elementBytes: usize = 0;
  /** The shape as the tensor is walked: a single channel has become (outer·inner, 1, 1). */
  outer: usize = 0;
  channels: usize = 0;
  inner: usize = 0;
  /** Elements of the tensor: outer·channels·inner. */
  length: usize = 0;
  /** 1 where the walk is planar, 0 where it is interleaved. */
  planar: usize = 0;
  /** Neighbouring columns that belong to one channel; planar: 1. */
  columnsPerChannel: usize = 0;
  /** Columns after which the channels repeat; planar: channels. */
  period: usize = 0;
  /** Elements of a row; planar: channels. */
  columns: usize = 0;
  /** Rows of the tensor, the last perhaps cut short. */
  rows: usize = 0;
  /** Rows of a stripe, the last stripe perhaps shorter; planar: all rows. */
  stripe: usize = 0;
  /** Stripes of the tensor; planar: 1. */
  stripes: usize = 0;
  /** How sums are first taken: 0 in blocks of 64 values, 1 in blocks of 4, 2 in float64. float64 has 0 only. */
  precision: usize = 0;
  /** Columns of a block: interleaved sums that are not blocks of 64 values are shared out in blocks of columns. */
  columnBlock: usize = 0;
  /** Blocks of columns in a period, the last perhaps narrower. */
  columnBlocks: usize = 0;
  /** Channels that lie in memory from one sample to the next: all of them, or those of a tile. */
  pitch: usize = 0;
  /** 1 where tensors pass through memory tile by tile, else 0. A tile is `pitch` channels, interleaved a stripe. */
  tiled: usize = 0;
  /** Addresses of `f64[channels]`. A host may write the addresses of its own vectors here. */
  mean: usize = 0;
  variance: usize = 0;
  invStd: usize = 0;
  dGamma: usize = 0;
  dBeta: usize = 0;
  /** Addresses of the sums, `f64[stripes·columns]`: Σ d and Σ d² of moments, Σ dy and Σ dy·d of gradients. */
  sum: usize = 0;
  dot: usize = 0;
  /** Address of five rows of `T[columns]`. While moments are summed, the first row holds the pivots. */
  coefficients: usize = 0;
  /** Address of room for running sums: `f32[2·columns]` or `f64[4·columns]` for each stripe. */
  scratch: usize = 0;
  /** Addresses of room for `T[channels]`, where a host may put gamma and beta. No export reads these fields. */
  gamma: usize = 0;
  beta: usize = 0;
  /** Address of room for the `T[3]` of an activation. */
  parameters: usize = 0;
  /** Address of `u8[channels]`: 1 where a channel's sums are to be taken again. */
  unreliable: usize = 0;

  /** Values per channel. */
  get count(): usize {
    return this.outer * this.inner;
  }

  /** Whether sums are first taken column by column; otherwise stripe by stripe. Interleaved only. */
  get byColumn(): bool {
    return this.precision != BLOCKED_64;
  }

  /** First values of a channel whose mean is its pivot, at most. */
  get pivotValues(): usize {
    return this.precision == IN_F64 ? 1 : PIVOT_VALUES;
  }

  /** Rows that an interleaved map of so many sources takes at a time. */
  rowsAtOnce(sources: usize): usize {
    return this.tiled || this.length <= IN_CACHE / this.elementBytes / (sources + 1) ? 4 : 1;
  }
}

/** Room behind `at` for `bytes`, in whole cache lines. */
function behind(at: usize, bytes: usize): usize {
  return at + ((bytes + 63) & ~63);
}

/** Writes the plan and lays out the workspace, or for workspace 0 only measures it. Returns the workspace's bytes. */
export function planAt(
  workspace: usize,
  elementBytes: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  options: i32,
): usize {
  // one channel is one run: as rows it can be cut into stripes
  if (channels == 1 && !(options & PLANES)) {
    outer *= inner;
    inner = 1;
  }
  const length = outer * channels * inner;
  if (length == 0) return 0;
  const planar = inner >= (outer == 1 ? PLANAR_FROM_ALONE : PLANAR_FROM);
  const period = planar ? channels : channels * inner;
  const columns = planar ? channels : columnsOf(outer, period);
  const rows = over(length, columns);
  const most = max(min(min(MAX_STRIPES, length / STRIPE), rows / STRIPE_ROWS), 1);
  const stripe = planar ? rows : over(rows, most);
  const stripes: usize = planar ? 1 : over(rows, stripe);
  const sums = columns * stripes;

  const mean = behind(workspace, offsetof<Plan>());
  const variance = behind(mean, Lanes.bytes<f64>(channels));
  const invStd = behind(variance, Lanes.bytes<f64>(channels));
  const dGamma = behind(invStd, Lanes.bytes<f64>(channels));
  const dBeta = behind(dGamma, Lanes.bytes<f64>(channels));
  const sum = behind(dBeta, Lanes.bytes<f64>(channels));
  const dot = behind(sum, Lanes.bytes<f64>(sums));
  const coefficients = behind(dot, Lanes.bytes<f64>(sums));
  const scratch = behind(coefficients, COEFFICIENT_ROWS * columns * elementBytes);
  const gamma = behind(scratch, sums * elementBytes * (elementBytes / 2));
  const beta = behind(gamma, channels * elementBytes);
  const parameters = behind(beta, channels * elementBytes);
  const unreliable = behind(parameters, 3 * elementBytes);
  const bytes = behind(unreliable, channels) - workspace;
  if (!workspace) return bytes;

  const p = changetype<Plan>(workspace);
  const count = outer * inner;
  p.elementBytes = elementBytes;
  p.outer = outer;
  p.channels = channels;
  p.inner = inner;
  p.length = length;
  p.planar = usize(planar);
  p.columnsPerChannel = planar ? 1 : inner;
  p.period = period;
  p.columns = columns;
  p.rows = rows;
  p.stripe = stripe;
  p.stripes = stripes;
  // float64 has one way to sum, which keeps what rounding takes
  p.precision =
    elementBytes == 8 || count >= BLOCKED_64_FROM
      ? BLOCKED_64
      : count >= (planar ? BLOCKED_4_FROM_PLANAR : BLOCKED_4_FROM_INTERLEAVED)
        ? BLOCKED_4
        : IN_F64;
  p.columnBlock = COLUMN_BLOCK;
  p.columnBlocks = over(period, COLUMN_BLOCK);
  p.tiled = usize((options & TILED) != 0);
  p.pitch = planar && p.tiled ? min(channels, max(TILE / count, 1)) : channels;
  p.mean = mean;
  p.variance = variance;
  p.invStd = invStd;
  p.dGamma = dGamma;
  p.dBeta = dBeta;
  p.sum = sum;
  p.dot = dot;
  p.coefficients = coefficients;
  p.scratch = scratch;
  p.gamma = gamma;
  p.beta = beta;
  p.parameters = parameters;
  p.unreliable = unreliable;
  return bytes;
}

/** First column of a block of columns, at most the end of the period. */
export function firstColumn(p: Plan, block: usize): usize {
  return min(block * COLUMN_BLOCK, p.period);
}

/** The block that the first column of a channel lies in. */
export function firstBlock(p: Plan, channel: usize): usize {
  return (channel * p.columnsPerChannel) / COLUMN_BLOCK;
}

/** End of the blocks that the columns of channels up to `end` lie in. */
export function lastBlock(p: Plan, end: usize): usize {
  return over(end * p.columnsPerChannel, COLUMN_BLOCK);
}
