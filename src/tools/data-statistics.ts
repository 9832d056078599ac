// Mean and standard deviation per channel of a data set, for the normalisation of inputs.

import { missing, nonFinite, wrongKind, wrongLength, wrongValue } from "../common/errors.ts";
import { arrayKind, checkKeys, checkNumber, checkObject, hasAny, oneOf } from "../common/validate.ts";
import { floatsOf } from "../tensor/half.ts";
import { channelAxis, dimensions, type Geometry, sizeOf } from "../tensor/shape.ts";
import { ChannelMoments } from "./channel-moments.ts";

/** Where the channels of a batch are. "one-channel" takes all values as one channel, such as grey images [N, H, W]. */
export type DataLayout = "channels-first" | "channels-last" | "one-channel";

export const DATA_LAYOUTS = ["channels-first", "channels-last", "one-channel"] as const;

/** A batch of a data set: an array in row-major order, and its shape. */
export interface DataBatch {
  /**
   * Numbers of any typed array. A Uint16Array holds integers, or with a `dtype` the bits of 16-bit floats. Integers of 64
   * bits are rounded to float64.
   */
  readonly data: ArrayBufferView;
  /** The dimensions, in the order of the option `layout`. */
  readonly shape: readonly number[];
  /** "float16" or "bfloat16" (in safetensors "F16" or "BF16") for a Uint16Array that holds bits. */
  readonly dtype?: string;
}

/** Options of dataStatistics. */
export interface DataStatisticsOptions {
  /** Where the channels are. It is needed from three axes on; of two, the second one has the channels, and one has none. */
  readonly layout?: DataLayout;
  /** All values are divided by it, 1 by default. 255 brings bytes to 0–1, as ToTensor of torchvision does. */
  readonly divisor?: number;
}

/** Statistics of a data set: lists with one number per channel. All but counts are divided by the divisor. */
export interface DataStatistics {
  /** The number of channels, C. */
  readonly channels: number;
  /** The number of finite values. */
  readonly count: readonly number[];
  /** The number of values that are NaN or infinite. They are in no other number. */
  readonly nonFinite: readonly number[];
  /** The mean; NaN for a channel without finite values, as are the other numbers. */
  readonly mean: readonly number[];
  /** The biased variance, Σ (x − mean)² / count, of which `std` is the root. */
  readonly variance: readonly number[];
  /** The biased standard deviation, the root of `variance`. */
  readonly std: readonly number[];
  /** The root of Σ (x − mean)² / (count − 1); NaN for a count of 1. */
  readonly unbiasedStd: readonly number[];
  /** The least finite value. */
  readonly min: readonly number[];
  /** The largest finite value. */
  readonly max: readonly number[];
}

/** The most channels that a data set may have. It is a chosen value, against shapes that were read the wrong way. */
export const MAX_CHANNELS = 65_536;

/** Arrays of integers that are summed exactly. */
const INTEGERS = /^(Uint8|Uint8Clamped|Int8|Uint16|Int16|Uint32|Int32)Array$/;

/**
 * Returns the exact statistics of every channel of a data set, whose batches are read one after the other: an iterable,
 * an async iterable or a stream. Every value counts the same, so that batches may differ in size.
 *
 * Integers of at most 32 bits are summed exactly, and the mean is rounded once. Floats are summed in float64, as moments of
 * blocks that are merged pairwise (Chan et al. 1979). NaN and infinity are left out and counted in `nonFinite`.
 *
 * Throws TypeError or RangeError for wrong batches, which it names by their index, and for a data set without values.
 * Throws BatchNormError "non-finite-statistics" for float64 so large that sums of squares overflow, from about 1e150 on.
 */
export async function dataStatistics(
  batches: Iterable<DataBatch> | AsyncIterable<DataBatch>,
  options: DataStatisticsOptions = {},
): Promise<DataStatistics> {
  checkKeys("options", options, ["layout", "divisor"]);
  const layout =
    options.layout === undefined ? undefined : oneOf("layout", options.layout, DATA_LAYOUTS, "one-channel");
  const divisor = checkNumber("divisor", options.divisor ?? 1, "a finite number > 0", (n) => n > 0 && n < Infinity);
  if (!hasAny(batches, Symbol.iterator, Symbol.asyncIterator) || arrayKind(batches))
    throw wrongKind("batches", "an iterable or async iterable of { data, shape }", batches);

  let channels: ChannelMoments[] | undefined;
  let index = 0;
  for await (const batch of batches) {
    const name = `batches[${index++}]`;
    const geometry = geometryOf(name, batch, layout);
    channels ??= Array.from({ length: geometry.channels }, () => new ChannelMoments());
    if (geometry.channels !== channels.length)
      throw wrongValue(`${name}.shape`, `${channels.length} channels, as in the batches before`, batch.shape);
    addBatch(name, batch, geometry, channels);
  }
  const isEmpty = channels?.every((channel) => channel.moments.count + channel.nonFinite === 0) ?? true;
  if (!channels || isEmpty) throw missing("batches", "at least one value");
  return statisticsOf(channels, divisor);
}

/** Returns the geometry of a batch. Throws TypeError or RangeError, with its name, for a batch that is none. */
function geometryOf(name: string, batch: DataBatch, layout: DataLayout | undefined): Geometry {
  checkObject(name, batch, "{ data, shape }");
  const { data, shape } = batch;
  if (arrayKind(data) === undefined) throw wrongKind(`${name}.data`, "a typed array", data);
  const size = sizeOf(name, shape);
  const { length } = data as unknown as ArrayLike<number>;
  if (length !== size) throw wrongLength(`${name}.data`, shape, length);
  const geometry = channelsOf(`${name}.shape`, shape, layout);
  if (geometry.channels < 1 || geometry.channels > MAX_CHANNELS)
    throw wrongValue(`${name}.shape`, `1 to ${MAX_CHANNELS} channels`, shape);
  return geometry;
}

/** Returns a shape as [outer, channels, inner]. Throws RangeError with `name` where only a layout says which axis. */
export function channelsOf(name: string, shape: readonly number[], layout: DataLayout | undefined): Geometry {
  const product = (dims: readonly number[]) => dims.reduce((a, b) => a * b, 1);
  if (shape.length < 2 || layout === "one-channel") return dimensions(1, 1, product(shape));
  if (shape.length > 2 && layout === undefined)
    throw wrongValue(name, `at most two axes without a layout (${DATA_LAYOUTS.join(", ")})`, shape);
  const axis = channelAxis(shape, layout ?? "channels-last");
  return dimensions(product(shape.slice(0, axis)), shape[axis] as number, product(shape.slice(axis + 1)));
}

function addBatch(name: string, { data, dtype }: DataBatch, geometry: Geometry, moments: ChannelMoments[]): void {
  const { outer, channels, inner } = geometry;
  const kind = arrayKind(data) as string;
  const isExact = INTEGERS.test(kind) && dtype === undefined;
  const values = isExact ? (data as unknown as ArrayLike<number>) : numbersOf(name, data, kind, dtype);
  moments.forEach((channel, c) => {
    const add = (first: number, step: number, count: number) =>
      isExact ? channel.addIntegers(values, first, step, count) : channel.addFloats(values, first, step, count);
    if (inner === 1) add(c, channels, outer);
    else for (let o = 0; o < outer; o++) add((o * channels + c) * inner, 1, inner);
  });
}

/** Returns the elements of an array that is not summed exactly as numbers. */
function numbersOf(name: string, data: ArrayBufferView, kind: string, dtype: string | undefined): ArrayLike<number> {
  if (kind.startsWith("Big")) return Float64Array.from(data as BigInt64Array, Number);
  const floats = floatsOf(data, dtype);
  if (!floats) throw wrongKind(`${name}.dtype`, '"float16" or "bfloat16" with a Uint16Array, else none', dtype);
  return floats;
}

function statisticsOf(channels: readonly ChannelMoments[], divisor: number): DataStatistics {
  const all = channels.map(({ moments: { count, mean, m2 }, nonFinite: left, min, max }, c) => {
    // where nothing is finite, a quotient by 0 makes NaN
    const variance = m2 / count;
    if (count > 0 && !Number.isFinite(mean + variance)) throw nonFinite(c, mean, variance, "batches", " or scale it");
    const spread = (squares: number) => Math.sqrt(squares) / divisor;
    return {
      count,
      nonFinite: left,
      mean: count > 0 ? mean / divisor : Number.NaN,
      variance: variance / divisor / divisor,
      std: spread(variance),
      unbiasedStd: spread(m2 / (count - 1)),
      min: count > 0 ? min / divisor : Number.NaN,
      max: count > 0 ? max / divisor : Number.NaN,
    };
  });
  const list = (key: keyof (typeof all)[number]) => all.map((channel) => channel[key]);
  return {
    channels: all.length,
    count: list("count"),
    nonFinite: list("nonFinite"),
    mean: list("mean"),
    variance: list("variance"),
    std: list("std"),
    unbiasedStd: list("unbiasedStd"),
    min: list("min"),
    max: list("max"),
  };
}
