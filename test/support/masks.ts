// Helpers for tests of masks: masks of every kind, and data without the masked positions.

import type { BatchNorm, Dtype, Layout, Options } from "../../src/index.ts";
import { inputsIn, layer as layerOf } from "./variants.ts";
import { type Kind, ordered, random, real, sizeOf, type WAYS } from "./worlds.ts";

export interface Case {
  /** [N, C, …] */
  size: readonly number[];
  kind: Kind;
  layout: Layout;
  dtype: Dtype;
}

/** Returns the sizes of a case, and a function for the index of an element by sample, channel and position. */
export function indexOf({ size: [samples = 0, channels = 0, ...rest], layout }: Case) {
  const inner = sizeOf(rest);
  const at = (n: number, c: number, i: number) =>
    layout === "channels-last" ? (n * inner + i) * channels + c : (n * channels + c) * inner + i;
  return { samples, channels, inner, positions: samples * inner, at };
}

/** Calls `visit` for every element with its index, its position among samples × spatial positions, and its channel. */
export function eachElement(c: Case, visit: (index: number, position: number, channel: number) => void): void {
  const { samples, channels, inner, at } = indexOf(c);
  for (let n = 0; n < samples; n++)
    for (let ch = 0; ch < channels; ch++) for (let i = 0; i < inner; i++) visit(at(n, ch, i), n * inner + i, ch);
}

/**
 * Returns the data without its masked positions. If every sample is either unmasked or masked completely, the shape is
 * that of the unmasked samples. Otherwise it is [1, C, selected] or, channels last, [1, selected, C].
 */
export function compact(c: Case, values: ArrayLike<number>, mask: readonly boolean[]) {
  const { samples, channels, inner, at } = indexOf(c);
  const selected: [n: number, i: number][] = [];
  mask.forEach((isSelected, p) => {
    if (isSelected) selected.push([Math.floor(p / inner), p % inner]);
  });
  const masksWholeSamples = Array.from({ length: samples }, (_, n) => mask.slice(n * inner, (n + 1) * inner)).every(
    (sample) => sample.every((isSelected) => isSelected) || !sample.some((isSelected) => isSelected),
  );
  const size = masksWholeSamples ? [selected.length / inner, ...c.size.slice(1)] : [1, channels, selected.length];
  const { at: target } = indexOf({ ...c, size });
  const data = new Float64Array(selected.length * channels);
  selected.forEach(([n, i], p) => {
    const [toSample, toPosition] = masksWholeSamples ? [Math.floor(p / inner), p % inner] : [0, p];
    for (let ch = 0; ch < channels; ch++) data[target(toSample, ch, toPosition)] = values[at(n, ch, i)] as number;
  });
  return { data: real(c.dtype, data), shape: ordered(size, c.layout) };
}

/** Returns masks by name, for `samples` samples of `inner` positions. */
export function masksOf(samples: number, inner: number): Record<string, boolean[]> {
  const next = random(samples * inner);
  const all = samples * inner;
  const by = (keep: (n: number, i: number) => boolean) =>
    Array.from({ length: all }, (_, p) => keep(Math.floor(p / inner), p % inner));
  return {
    random: by(() => next() < 0.7),
    sparse: by((n, i) => next() < 0.1 || (n === 0 && i === 0) || n * inner + i >= all - 1),
    "of lengths": by((n, i) => i < (n * 7 + 1) % (inner + 1)),
    "with all positions": by(() => true),
    "of every second sample": by((n) => n % 2 === 0),
    "of the last sample": by((n) => n === samples - 1),
    "of all but one position": by((n, i) => n !== 1 || i !== 0),
  };
}

/** Returns a layer of three channels whose vectors all differ from their initial values. */
export const layer = (dtype: Dtype, layout: Layout, options: Options<Dtype> = {}): BatchNorm<Dtype> =>
  layerOf(dtype, { layout, ...options });

/**
 * Returns functions that make inputs in a layout, kind and element type, and, for tests that do not depend on the size,
 * a size with masks for it.
 */
export function maskedIn({ layout, kind, dtype }: (typeof WAYS)[number]) {
  const { give, input } = inputsIn({ layout, kind, dtype });
  const size = [5, 3, 6];
  const c: Case = { size, kind, layout, dtype };
  const lengths = [6, 2, 0, 5, 3];
  const mask = Array.from({ length: 30 }, (_, p) => p % 6 < (lengths[Math.floor(p / 6)] as number));
  const weights = Array.from({ length: 30 }, (_, p) => (p % 4) * 0.75);
  return { give, input, size, c, lengths, mask, weights };
}
