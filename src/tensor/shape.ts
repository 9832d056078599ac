// Turns a shape and a layout into a geometry [outer, channels, inner]. The code that works on a geometry knows no
// layouts. assembly/plan.ts decides how kernels walk a geometry.

import { wrongChannels, wrongKind, wrongValue } from "../common/errors.ts";
import { isArray } from "../common/validate.ts";
import type { Layout } from "./types.ts";

/** A tensor's shape, read as [outer, channels, inner]. */
export interface Geometry {
  /** Number of times that all channels repeat: the product of the axes before the channels. */
  readonly outer: number;
  readonly channels: number;
  /** Elements of one channel that lie together: the product of the axes behind the channels. */
  readonly inner: number;
  /** Size of the first axis. */
  readonly samples: number;
  /** Values per channel: outer·inner. */
  readonly count: number;
  /** Elements of the tensor: outer·channels·inner. */
  readonly length: number;
  /** Whether a single channel is summed in planes, like one of several channels. By default it is summed in rows. */
  readonly planes?: boolean;
}

/** Bytes that a tensor may have at most: a memory has at most 65,535 pages of 64 KiB (MAX_PAGES in memory/heap.ts). */
export const MAX_BYTES = 2 ** 32 - 65536;

/** Channels that a tensor may have at most, and so may one without elements: float32 values in the largest memory. */
export const MAX_CHANNELS = 2 ** 30 - 2 ** 14;

/**
 * Returns the number of elements of a shape. The product is one of floats, which does not wrap around. Throws TypeError
 * or RangeError with `name` if `shape` is no array of non-negative integers, or has fewer than `minRank` axes.
 */
export function sizeOf(name: string, shape: readonly number[], minRank = 0): number {
  if (!isArray(shape)) throw wrongKind(`${name}.shape`, "an array of dimensions", shape);
  let size = 1;
  for (const d of shape) {
    if (typeof d !== "number") throw wrongKind(`${name}.shape`, "numbers as dimensions", shape);
    if (!Number.isInteger(d) || d < 0) throw wrongValue(`${name}.shape`, "non-negative integers", shape);
    size *= d;
  }
  if (shape.includes(0)) size = 0; // 0 × Infinity would be NaN
  if (shape.length < minRank) throw wrongValue(`${name}.shape`, `rank ${minRank} or more`, shape);
  return size;
}

/** Returns the index of the axis that `layout` puts the channels on. */
export const channelAxis = (shape: readonly number[], layout: Layout): number =>
  layout === "channels-last" ? shape.length - 1 : 1;

const product = (dims: readonly number[], begin: number, end: number): number => {
  let p = 1;
  for (let i = begin; i < end; i++) p *= dims[i] as number;
  return p;
};

/** Returns the geometry of a shape. Throws RangeError with `name` if the shape does not have `channels` channels. */
export function geometryOf(name: string, shape: readonly number[], layout: Layout, channels: number): Geometry {
  // ONNX: a tensor of rank 1 has one channel
  if (channels === 1 && isArray(shape) && shape.length === 1) return geometryOf(name, [...shape, 1], layout, 1);
  sizeOf(name, shape, 2);
  const axis = channelAxis(shape, layout);
  if (shape[axis] !== channels) throw wrongChannels(name, channels, axis, shape, layout);
  const outer = product(shape, 0, axis);
  const inner = product(shape, axis + 1, shape.length);
  return { ...dimensions(outer, channels, inner), samples: shape[0] as number };
}

/** Returns the geometry of [outer, channels, inner], in which every index of `outer` is a sample. */
export function dimensions(outer: number, channels: number, inner: number): Geometry {
  const length = outer * channels * inner || 0; // 0 × Infinity would be NaN
  return { outer, channels, inner, samples: outer, count: outer * inner, length };
}

/** Returns whether two shapes have the same dimensions. */
export function sameShape(a: readonly number[], b: readonly number[]): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
