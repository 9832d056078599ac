// Shape + layout → { outer, channels, inner } and the walk that kernels take through memory. Below this file nobody knows
// the word NCHW.

import { tooLarge, wrongChannels, wrongKind, wrongValue } from "./errors.ts";
import type { Layout } from "./options.ts";

/**
 * A tensor [outer, channels, inner] and how kernels walk it. Planar: a channel's `inner` elements lie together.
 * Interleaved: the tensor is rows of `columns` elements, the last perhaps cut short; a channel owns `spread` neighbouring
 * columns of each `period`, and a row holds whole periods.
 */
export interface Geometry {
  readonly outer: number;
  readonly channels: number;
  readonly inner: number;
  /** Values per channel: outer·inner. */
  readonly count: number;
  readonly length: number;
  readonly planar: boolean;
  readonly spread: number;
  readonly period: number;
  readonly columns: number;
}

/** Bytes that a tensor may take: pointers have 32 bits, and the lowest 1 KiB stays free. */
export const MAX_BYTES = 2 ** 32 - 65536;

/** Shorter planes are too short a run for SIMD: they are read as columns. Measured in docs/numerics.md. */
const PLANAR_FROM = 32;

/** A row of this many elements keeps the cost of starting a row small. */
const ROW = 64;

/** Sums take whole groups of four vectors of a row. */
const GROUP = 16;

/** Checks that `shape` is one, and returns the number of elements, a product of floats that cannot wrap. */
export function sizeOf(name: string, shape: readonly number[], minRank = 0): number {
  if (!Array.isArray(shape)) throw wrongKind(`${name}.shape`, "an array of dimensions", shape);
  let size = 1;
  for (const d of shape) {
    if (typeof d !== "number") throw wrongKind(`${name}.shape`, "numbers as dimensions", shape);
    if (!Number.isInteger(d) || d < 0) throw wrongValue(`${name}.shape`, "non-negative integers", shape);
    size *= d;
  }
  if (shape.includes(0)) size = 0; // even where the other dimensions overflow to infinity
  if (shape.length < minRank) throw wrongValue(`${name}.shape`, `rank ${minRank} or more`, shape);
  if (size * 4 > MAX_BYTES) throw tooLarge(name, shape, size * 4, MAX_BYTES);
  return size;
}

/** The axis that `layout` puts the channels on. */
export const channelAxis = (shape: readonly number[], layout: Layout): number =>
  layout === "channels-last" ? shape.length - 1 : 1;

const product = (dims: readonly number[], begin: number, end: number): number => {
  let p = 1;
  for (let i = begin; i < end; i++) p *= dims[i] as number;
  return p;
};

/** The shortest row of whole periods in whole groups that is at least ROW long, if there are as many rows. */
function columnsOf(period: number, outer: number): number {
  let even = 1;
  while ((period * even) % GROUP !== 0) even *= 2;
  const repeat = even * Math.ceil(ROW / (even * period));
  return repeat <= outer ? repeat * period : period;
}

/**
 * The geometry of a shape that must have `channels` channels: a function of shape and layout alone, so that results never
 * depend on anything else.
 */
export function geometryOf(name: string, shape: readonly number[], layout: Layout, channels: number): Geometry {
  const length = sizeOf(name, shape, 2);
  const axis = channelAxis(shape, layout);
  if (shape[axis] !== channels) throw wrongChannels(name, channels, axis, shape, layout);
  const outer = product(shape, 0, axis);
  const inner = product(shape, axis + 1, shape.length);
  const planar = inner >= PLANAR_FROM;
  return {
    outer,
    channels,
    inner,
    count: outer * inner,
    length,
    planar,
    spread: planar ? 1 : inner,
    period: planar ? channels : channels * inner,
    columns: planar ? channels : columnsOf(channels * inner, outer),
  };
}
