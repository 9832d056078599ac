// Shape + layout → { outer, channels, inner }. Below this file nobody knows the word NCHW. How kernels walk a geometry is
// decided in assembly/plan.ts.

import { wrongChannels, wrongKind, wrongValue } from "../common/errors.ts";
import type { Layout } from "./types.ts";

/** A tensor [outer, channels, inner]. */
export interface Geometry {
  readonly outer: number;
  readonly channels: number;
  readonly inner: number;
  /** Size of the first axis. */
  readonly samples: number;
  /** Values per channel: outer·inner. */
  readonly count: number;
  readonly length: number;
  /** Whether a single channel stays a plane, so that it is summed as one of several would be. */
  readonly planes?: boolean;
}

/** Bytes that a tensor may take: pointers have 32 bits, and the lowest 1 KiB stays free. */
export const MAX_BYTES = 2 ** 32 - 65536;

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

/** The geometry of a shape that must have `channels` channels. */
export function geometryOf(name: string, shape: readonly number[], layout: Layout, channels: number): Geometry {
  // ONNX: a tensor of rank 1 has one channel
  if (channels === 1 && Array.isArray(shape) && shape.length === 1) return geometryOf(name, [...shape, 1], layout, 1);
  sizeOf(name, shape, 2);
  const axis = channelAxis(shape, layout);
  if (shape[axis] !== channels) throw wrongChannels(name, channels, axis, shape, layout);
  const outer = product(shape, 0, axis);
  const inner = product(shape, axis + 1, shape.length);
  return { ...dimensions(outer, channels, inner), samples: shape[0] as number };
}

/** The geometry of [outer, channels, inner], of as many samples. */
export function dimensions(outer: number, channels: number, inner: number): Geometry {
  const length = outer * channels * inner || 0; // of an empty tensor 0, even where inner overflows to infinity
  return { outer, channels, inner, samples: outer, count: outer * inner, length };
}

export function sameShape(a: readonly number[], b: readonly number[]): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
