// Decides how a tensor is walked, how its sums are taken, and where the workspace has room for vectors. This is the
// only file that makes these decisions. A plan stands at the beginning of a workspace, and the vectors and the scratch
// of its phases follow:
//
//   | Plan | mean variance invStd dGamma dBeta | sum dot | coefficients | scratch | gamma beta parameters | unreliable |
//
// Planar: the `inner` elements of a channel lie together. Interleaved: the tensor is rows of `columns` elements, of
// which the last row may be cut short. A channel has `columnsPerChannel` neighbouring columns in each `period`, and a
// row has one or more whole periods:
//
//   columns   c0 c0 c0 c1 c1 c1 c2 c2 c2 | c0 c0 c0 c1 …        channels = 3, columnsPerChannel = 3, period = 9
//
// All decisions depend on the shape and the type of elements alone, so that results do not depend on the number of
// threads.

import { Lanes } from "./kernels/lanes";

/**
 * The shortest plane that is walked as a plane. Shorter planes are too short for SIMD, and are read as columns instead.
 * docs/concepts/numerics-measurements.md has the measurements.
 */
const PLANAR_FROM: usize = 32;

/**
 * The shortest plane of a single sample that is walked as a plane. As a column, it would have one value only, with its
 * own coefficients. docs/concepts/numerics-measurements.md has the measurements.
 */
const PLANAR_FROM_ALONE: usize = 4;

/**
 * The smallest number of elements of a row, if the tensor has as many. With that many, the cost to start a row is
 * small.
 */
const ROW: usize = 64;

/** The elements of one step of interleaved sums: four vectors of four lanes. A row should be a multiple of it. */
const STEP: usize = 16;

/**
 * The smallest number of elements of a stripe. It makes the cost to start a stripe small. Threads take whole stripes,
 * and the stripes do not depend on the number of threads.
 */
const STRIPE: usize = 65536;

/** The smallest number of rows of a stripe. It makes the cost to merge the sums of a stripe small. */
const STRIPE_ROWS: usize = 512;

/**
 * The largest number of stripes. It bounds the memory and the time of the stripes' sums, which are merged on one
 * thread. 32 stripes serve up to 32 threads.
 */
const MAX_STRIPES: usize = 32;

/** The columns of a block, the unit of sums that are taken column by column: a cache line of float32. */
const COLUMN_BLOCK: usize = 16;

/**
 * The values per channel from which sums are Blocked64: 64 values are summed in float32 before they go to float64. The
 * rounding errors of the blocks average out over many blocks. docs/concepts/numerics-measurements.md has the errors.
 */
const BLOCKED_64_FROM: usize = 1024;

/**
 * The values per channel from which planar sums are Blocked4: four vectors are summed in float32. Sums of fewer values
 * are f64 sums, because rounding errors of a few blocks do not average out. docs/concepts/numerics-measurements.md has
 * the errors.
 */
const BLOCKED_4_FROM_PLANAR: usize = 512;

/** The values per channel from which interleaved sums are Blocked4: four rows are summed in float32. */
const BLOCKED_4_FROM_INTERLEAVED: usize = 128;

/**
 * The number of first values whose mean is the pivot of a channel. In blocked sums a single value can be an outlier,
 * and the channel would be summed twice. f64 sums need one value only.
 */
const PIVOT_VALUES: usize = 16;

/**
 * The largest number of elements of a planar tile, if a channel has no more: 512 KiB of float32. A tile of x and one of
 * dy then fit into a second-level cache of 1 MiB.
 */
const TILE: usize = 131072;

/**
 * The bytes of sources and result up to which a planar map or planar gradient sums take one image at a time. In cache,
 * one stream is as fast as several, or faster. docs/concepts/numerics-measurements.md has the measurements.
 */
const IN_CACHE: usize = 1 << 23;

/**
 * The bytes of a planar tensor from which channels are summed and mapped in blocks, so that the map reads from cache
 * what the sums have read from memory. docs/concepts/numerics-measurements.md has the measurements of this number and
 * of the next two.
 */
const BLOCKS_FROM: usize = 1 << 23;

/** The bytes of x in a block of channels. */
const BLOCK_BYTES: usize = 1 << 20;

/** The smallest number of bytes of a block that lie together, because the jump to the next sample costs time. */
const BLOCK_RUN: usize = 12288;

/** The rows of coefficients that a plan has room for: the largest number that a map has. */
const COEFFICIENT_ROWS: usize = 5;

/** The values of `Plan.precision`. */
export const BLOCKED_64: usize = 0;
export const BLOCKED_4: usize = 1;
export const IN_F64: usize = 2;

/** Option of a plan: tensors pass through memory tile by tile. */
const TILED: i32 = 1;
/** Option of a plan: a single channel is summed in planes. */
export const PLANES: i32 = 2;

/** Returns a / b, rounded up. */
function divideUp(a: usize, b: usize): usize {
  return (a + b - 1) / b;
}

/**
 * Returns the columns of a row: the smallest number of at least ROW that is a multiple of the period and of STEP. If
 * the tensor has fewer periods than that, a row is one period.
 */
function columnsOf(outer: usize, period: usize): usize {
  let periods: usize = 1;
  while ((period * periods) % STEP != 0) periods *= 2;
  periods *= divideUp(ROW, periods * period);
  return periods <= outer ? periods * period : period;
}

/**
 * The plan of a tensor. Hosts read the fields as unsigned 32-bit numbers, in this order. docs/reference/abi.md lists them: there,
 * a field without a comment belongs to the field before it.
 */
@final
@unmanaged
export class Plan {
  /** Bytes of an element: 4 for float32, 8 for float64. */
  elementBytes: usize = 0;
  /** The shape as the tensor is walked. The shape of a single channel is (outer·inner, 1, 1). */
  outer: usize = 0;
  channels: usize = 0;
  inner: usize = 0;
  /** Elements of the tensor: outer·channels·inner. */
  length: usize = 0;
  /** 1 if the walk is planar, 0 if it is interleaved. */
  planar: usize = 0;
  /** Neighbouring columns that belong to one channel; planar: 1. */
  columnsPerChannel: usize = 0;
  /** Columns from which on the channels repeat; planar: channels. */
  period: usize = 0;
  /** Elements of a row; planar: channels. */
  columns: usize = 0;
  /** Rows of the tensor, the last perhaps cut short. */
  rows: usize = 0;
  /** Rows of a stripe, the last stripe perhaps shorter; planar: all rows. */
  stripe: usize = 0;
  /** Stripes of the tensor; planar: 1. */
  stripes: usize = 0;
  /**
   * The way in which sums are first taken: 0 in blocks of 64 values, 1 in blocks of 4, 2 in float64. float64 has 0
   * only.
   */
  precision: usize = 0;
  /** Columns of a block. A block is the unit of interleaved sums, unless they are in blocks of 64 values. */
  columnBlock: usize = 0;
  /** Blocks of columns in a period, the last perhaps narrower. */
  columnBlocks: usize = 0;
  /** Channels of a sample in memory: all channels, or those of a tile. */
  pitch: usize = 0;
  /**
   * 1 if tensors pass through memory tile by tile, else 0. A planar tile is `pitch` channels, an interleaved one is a
   * stripe.
   */
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
  /** Address of the scratch for running sums: `f32[2·columns]` or `f64[4·columns]` for each stripe. */
  scratch: usize = 0;
  /** Addresses of two `T[channels]`, where a host may put gamma and beta. No export reads these fields. */
  gamma: usize = 0;
  beta: usize = 0;
  /** Address of `T[2]`, where a host may put the parameters of an activation. No export reads this field. */
  parameters: usize = 0;
  /** Address of `u8[channels]`: 1 for unreliable channels, whose sums have to be taken again. */
  unreliable: usize = 0;
  /**
   * Channels whose sums and map should follow each other, because their elements stay in cache in between: those of a
   * tile, of a block, or all.
   */
  block: usize = 0;

  /** The number of values per channel. */
  get count(): usize {
    return this.outer * this.inner;
  }

  /** Whether interleaved sums are first taken column by column. Otherwise they are taken stripe by stripe. */
  get byColumn(): bool {
    return this.precision != BLOCKED_64;
  }

  /** The largest number of first values whose mean is the pivot of a channel. */
  get pivotValues(): usize {
    return this.precision == IN_F64 ? 1 : PIVOT_VALUES;
  }

  /** Returns whether planar sums with this number of sources take four far images together. */
  sumsFar(sources: usize): bool {
    return sources == 1 || this.length > IN_CACHE / this.elementBytes / sources;
  }

  /**
   * Returns the number of far images that a planar map with this number of sources takes together. From memory, four
   * streams of one source are the fastest, and two of more sources. docs/concepts/numerics-measurements.md has the
   * measurements.
   */
  mapStreams(sources: usize): usize {
    if (this.tiled || this.length < IN_CACHE / this.elementBytes / (sources + 1)) return 1;
    const streams: usize = sources == 1 ? 4 : 2;
    return min(streams, this.outer);
  }
}

/** Returns the channels of a block of a planar tensor that does not pass through tiles. */
function blockOf(elementBytes: usize, outer: usize, channels: usize, inner: usize): usize {
  const channelBytes = outer * inner * elementBytes;
  if (channels * channelBytes < BLOCKS_FROM) return channels;
  return min(channels, max(BLOCK_BYTES / channelBytes, divideUp(BLOCK_RUN, inner * elementBytes)));
}

/** Returns the address behind `bytes` bytes at `address`, rounded up to a whole cache line of 64 bytes. */
function behind(address: usize, bytes: usize): usize {
  return address + ((bytes + 63) & ~63);
}

/**
 * Writes the plan of a tensor to the workspace. Returns the bytes of the workspace. Nothing is written to workspace 0.
 */
export function planAt(
  workspace: usize,
  elementBytes: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  options: i32,
): usize {
  // a single channel is one run of values, and rows of it can be divided into stripes
  if (channels == 1 && !(options & PLANES)) {
    outer *= inner;
    inner = 1;
  }
  const length = outer * channels * inner;
  if (length == 0) return 0;
  const planar = inner >= (outer == 1 ? PLANAR_FROM_ALONE : PLANAR_FROM);
  const period = planar ? channels : channels * inner;
  const columns = planar ? channels : columnsOf(outer, period);
  const rows = divideUp(length, columns);
  const maxStripes = max(min(min(MAX_STRIPES, length / STRIPE), rows / STRIPE_ROWS), 1);
  const stripe = planar ? rows : divideUp(rows, maxStripes);
  const stripes: usize = planar ? 1 : divideUp(rows, stripe);
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
  const unreliable = behind(parameters, 2 * elementBytes);
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
  // float64 has one way to sum, which is compensated
  p.precision =
    elementBytes == 8 || count >= BLOCKED_64_FROM
      ? BLOCKED_64
      : count >= (planar ? BLOCKED_4_FROM_PLANAR : BLOCKED_4_FROM_INTERLEAVED)
        ? BLOCKED_4
        : IN_F64;
  p.columnBlock = COLUMN_BLOCK;
  p.columnBlocks = divideUp(period, COLUMN_BLOCK);
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
  p.block = !planar ? channels : p.tiled ? p.pitch : blockOf(elementBytes, outer, channels, inner);
  return bytes;
}

/** Returns the first column of a block of columns, or the end of the period for later blocks. */
export function firstColumn(p: Plan, block: usize): usize {
  return min(block * COLUMN_BLOCK, p.period);
}

/** Returns the block of columns that has the first column of a channel. */
export function firstBlock(p: Plan, channel: usize): usize {
  return (channel * p.columnsPerChannel) / COLUMN_BLOCK;
}

/** Returns the end of the blocks that have columns of channels before `end`. */
export function lastBlock(p: Plan, end: usize): usize {
  return divideUp(end * p.columnsPerChannel, COLUMN_BLOCK);
}
