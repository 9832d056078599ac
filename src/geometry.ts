// Shape + layout → { outer, channels, inner }, and from that the walk the kernels take through memory. Below this file
// nobody knows the word NCHW.

import { tooLarge, wrongChannels, wrongKind, wrongValue } from "./errors.ts";
import type { Layout } from "./options.ts";

/** A tensor [outer, channels, inner]; `count` = outer·inner is the number of values per channel. */
export interface Geometry {
  readonly outer: number;
  readonly channels: number;
  readonly inner: number;
  readonly count: number;
  readonly length: number;
}

/**
 * How kernels read it. Planar: a channel's `inner` elements lie together. Interleaved: the tensor is rows of `columns`
 * elements, the last perhaps cut short; a channel owns `spread` neighbouring columns of each `period`, and a row holds
 * whole periods.
 */
export interface Walk extends Geometry {
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

/** [outer, channels, inner] of a shape that must have `channels` channels. */
export function geometryOf(name: string, shape: readonly number[], layout: Layout, channels: number): Geometry {
  const length = sizeOf(name, shape, 2);
  const axis = channelAxis(shape, layout);
  if (shape[axis] !== channels) throw wrongChannels(name, channels, axis, shape, layout);
  const product = (dims: readonly number[]) => dims.reduce((a, b) => a * b, 1);
  const outer = product(shape.slice(0, axis));
  const inner = product(shape.slice(axis + 1));
  return { outer, channels, inner, count: outer * inner, length };
}

const greatestCommonDivisor = (a: number, b: number): number => (b === 0 ? a : greatestCommonDivisor(b, a % b));

/** Chooses the walk; a function of the geometry alone, so that results never depend on anything else. */
export function walkOf(g: Geometry): Walk {
  if (g.inner >= PLANAR_FROM) return { ...g, planar: true, spread: 1, period: g.channels, columns: g.channels };
  const period = g.channels * g.inner;
  const even = GROUP / greatestCommonDivisor(period, GROUP);
  const repeat = even * Math.ceil(ROW / (even * period));
  const columns = repeat <= g.outer ? repeat * period : period;
  return { ...g, planar: false, spread: g.inner, period, columns };
}
