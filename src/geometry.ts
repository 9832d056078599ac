// Shape + layout → { outer, channels, inner } and the walk that kernels take through memory. Below this file nobody knows
// the word NCHW.

import { wrongChannels, wrongKind, wrongValue } from "./errors.ts";
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
  /** Size of the first axis. */
  readonly samples: number;
  /** Values per channel: outer·inner. */
  readonly count: number;
  readonly length: number;
  readonly planar: boolean;
  readonly spread: number;
  readonly period: number;
  readonly columns: number;
  /** Rows of the interleaved walk are summed in so many stripes of `stripe` rows, whoever sums them. Planar: 1. */
  readonly stripes: number;
  readonly stripe: number;
}

/** A part of a tensor that kernels work on in one go: some of its channels, or some of its stripes. */
export interface Part {
  /** The part's own geometry where it is planar, the tensor's where it is interleaved. */
  readonly g: Geometry;
  /** First channel. */
  readonly channel: number;
  /** Stripes [from, to). */
  readonly from: number;
  readonly to: number;
}

/** Bytes that a tensor may take: pointers have 32 bits, and the lowest 1 KiB stays free. */
export const MAX_BYTES = 2 ** 32 - 65536;

/** Shorter planes are too short a run for SIMD: they are read as columns. Measured in docs/numerics.md. */
export const PLANAR_FROM = 32;

/** The same of a single sample, in which each column would have one value and coefficients of its own. */
const PLANAR_ALONE = 4;

/** A row of this many elements keeps the cost of starting a row small. */
const ROW = 64;

/** Sums take whole groups of four vectors of a row. */
const GROUP = 16;

/** A stripe has at least so many elements, so that starting it costs little, and rows, so that merging its sums does. */
const STRIPE = 65536;
const STRIPE_ROWS = 512;
const MAX_STRIPES = 32;

/** Elements of a plain array that pass through wasm memory at a time: with a gradient beside them, they fit into L2. */
const TILE = 131_072;

/** Checks that `shape` is one, and returns the number of elements: a product of floats, which cannot wrap. */
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
  // ONNX: a tensor of rank 1 has one channel
  if (channels === 1 && Array.isArray(shape) && shape.length === 1) return geometryOf(name, [...shape, 1], layout, 1);
  sizeOf(name, shape, 2);
  const axis = channelAxis(shape, layout);
  if (shape[axis] !== channels) throw wrongChannels(name, channels, axis, shape, layout);
  let outer = product(shape, 0, axis);
  let inner = product(shape, axis + 1, shape.length);
  // one channel is one run: as rows it can be cut into stripes
  if (channels === 1) [outer, inner] = [outer * inner, 1];
  return walkOf(outer, channels, inner, shape[0] as number);
}

/** The geometry of [outer, channels, inner]. Where outer is 1, how a channel is summed depends on inner alone. */
export function walkOf(outer: number, channels: number, inner: number, samples = outer): Geometry {
  const length = outer * channels * inner || 0; // of an empty tensor 0, even where inner overflows to infinity
  const planar = inner >= (outer === 1 ? PLANAR_ALONE : PLANAR_FROM);
  const period = planar ? channels : channels * inner;
  const columns = planar ? channels : columnsOf(period, outer);
  const rows = length && Math.ceil(length / columns);
  const most = Math.min(MAX_STRIPES, Math.floor(length / STRIPE), Math.floor(rows / STRIPE_ROWS));
  const stripe = planar ? rows : Math.max(1, Math.ceil(rows / Math.max(most, 1)));
  return {
    outer,
    channels,
    inner,
    samples,
    count: outer * inner,
    length,
    planar,
    spread: planar ? 1 : inner,
    period,
    columns,
    stripes: planar ? 1 : Math.max(1, Math.ceil(rows / stripe)),
    stripe,
  };
}

/** The tensor in one part. */
export const wholeOf = (g: Geometry): Part[] => [{ g, channel: 0, from: 0, to: g.stripes }];

/** The tensor in parts that are small enough to pass through a tile: channels where it is planar, else stripes. */
export function tilesOf(g: Geometry): Part[] {
  if (!g.planar) return Array.from({ length: g.stripes }, (_, from) => ({ g, channel: 0, from, to: from + 1 }));
  const group = Math.max(1, Math.floor(TILE / g.count));
  return Array.from({ length: Math.ceil(g.channels / group) }, (_, i) => {
    const channel = i * group;
    const channels = Math.min(group, g.channels - channel);
    const length = g.count * channels;
    return { g: { ...g, channels, length, period: channels, columns: channels }, channel, from: 0, to: 1 };
  });
}

/** Elements [begin, end) of the stripes of a part of the interleaved walk. */
export function elementsOf({ g, from, to }: Part): { begin: number; end: number } {
  const size = g.stripe * g.columns;
  return { begin: from * size, end: Math.min(to * size, g.length) };
}
