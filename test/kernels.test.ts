// Every export of the module by itself, in both builds, on memory of the test's own: data whose sums are exact in every
// order, so that results are compared without tolerance and a dropped or doubled lane shows at once, and guard zones
// around every buffer.

import { readFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import type { Exports } from "../src/module.ts";
import { instantiateKernels } from "../src/module.ts";
import { type Dims, eachOf } from "./reference.ts";
import { BUILDS, random, wasmFile } from "./worlds.ts";

type ExportName = keyof Exports;

const GUARD = 64;
const PATTERN = 0xa5;

interface Buffer<T extends Float32Array | Float64Array | Uint8Array> {
  readonly pointer: number;
  readonly view: T;
}

/** Hands out exact-sized buffers between guard zones, in one memory. */
class Arena {
  readonly memory = new WebAssembly.Memory({ initial: 16 });
  readonly #bytes = new Uint8Array(this.memory.buffer);
  #top = 1024;
  #live: { pointer: number; bytes: number }[] = [];

  #take(bytes: number): number {
    const pointer = Math.ceil((this.#top + GUARD) / 16) * 16;
    this.#bytes.fill(PATTERN, this.#top, pointer + bytes + GUARD);
    this.#live.push({ pointer, bytes });
    this.#top = pointer + bytes + GUARD;
    return pointer;
  }

  f32(values: ArrayLike<number>): Buffer<Float32Array> {
    const pointer = this.#take(values.length * 4);
    const view = new Float32Array(this.memory.buffer, pointer, values.length);
    view.set(values);
    return { pointer, view };
  }

  f64(values: ArrayLike<number>): Buffer<Float64Array> {
    const pointer = this.#take(values.length * 8);
    const view = new Float64Array(this.memory.buffer, pointer, values.length);
    view.set(values);
    return { pointer, view };
  }

  u8(length: number): Buffer<Uint8Array> {
    const pointer = this.#take(length);
    return { pointer, view: new Uint8Array(this.memory.buffer, pointer, length) };
  }

  /** Verifies the guard zones of all buffers and forgets the buffers. */
  close(): void {
    let touched = -1;
    let at = 1024;
    for (const { pointer, bytes } of [...this.#live, { pointer: this.#top, bytes: 0 }]) {
      for (; at < pointer; at++) if (this.#bytes[at] !== PATTERN) touched = at;
      at = pointer + bytes;
    }
    expect(touched, "address of a guard byte that was written").toBe(-1);
    this.#top = 1024;
    this.#live = [];
  }
}

/** Integers of at most 4 bits: every sum and product of them below is exact in float32. */
const integers = (seed: number, length: number): Float32Array => {
  const next = random(seed);
  return Float32Array.from({ length }, () => Math.floor(next() * 17) - 8);
};

const UNWRITTEN = 12345;
const blank = (length: number) => new Float64Array(length).fill(UNWRITTEN);

// 1 … 2·lanes + 1, and around one and two groups of 16
const SIZES = [1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 32, 33, 50];

/** Tensors for the planar walk: [outer, channels, inner]. */
const PLANES: Dims[] = SIZES.flatMap((inner) =>
  [1, 3].flatMap((outer) => [1, 2, 3].map((channels) => ({ outer, channels, inner }))),
);

/** Rows for the interleaved walk: as many whole rows as it takes to fill and overfill a group, the last cut short. */
const ROWS = [...SIZES, 64, 80, 300].flatMap((columns) =>
  [0, 1, 2, 3, 8, 9, 10, 17].flatMap((rows) =>
    [0, 1, columns >> 1, columns - 1]
      .filter((rest, i, all) => rest < columns && all.indexOf(rest) === i && rows * columns + rest > 0)
      .map((rest) => ({ columns, rows, length: rows * columns + rest })),
  ),
);

type Sources = 1 | 2;
type Kernel = (...args: number[]) => number | undefined;

/** Σ u and Σ u·d over the indices that belong to a channel or column. */
function sumsOf(indices: Iterable<number>, x: Float32Array, dy: Float32Array, pivot: number, sources: Sources) {
  let first = 0;
  let second = 0;
  for (const i of indices) {
    const d = (x[i] as number) - pivot;
    const u = sources === 2 ? (dy[i] as number) : d;
    first += u;
    second += u * d;
  }
  return { first, second };
}

function indicesOf(d: Dims, channel: number): number[] {
  const list: number[] = [];
  eachOf(d, channel, (i) => list.push(i));
  return list;
}

const columnIndices = (column: number, columns: number, length: number): number[] =>
  Array.from({ length: Math.max(0, Math.ceil((length - column) / columns)) }, (_, r) => r * columns + column);

function testPlanarSums(kernel: Kernel, arena: Arena, sources: Sources): void {
  for (const d of PLANES) {
    const size = d.outer * d.channels * d.inner;
    const x = arena.f32(integers(size, size));
    const dy = arena.f32(integers(size + 1, size));
    const pivot = arena.f32(integers(7, d.channels));
    for (let begin = 0; begin < d.channels; begin++)
      for (let end = begin; end <= d.channels; end++) {
        const first = arena.f64(blank(d.channels));
        const second = arena.f64(blank(d.channels));
        const inputs = sources === 2 ? [x.pointer, dy.pointer] : [x.pointer];
        kernel(...inputs, pivot.pointer, first.pointer, second.pointer, d.outer, d.channels, d.inner, begin, end);
        const expected = Array.from({ length: d.channels }, (_, c) =>
          c >= begin && c < end
            ? sumsOf(indicesOf(d, c), x.view, dy.view, pivot.view[c] as number, sources)
            : { first: UNWRITTEN, second: UNWRITTEN },
        );
        expect(first.view).toBeAllclose(expected.map((e) => e.first));
        expect(second.view).toBeAllclose(expected.map((e) => e.second));
      }
    arena.close();
  }
}

function testInterleavedSums(kernel: Kernel, arena: Arena, sources: Sources): void {
  for (const { columns, rows, length } of ROWS) {
    const x = arena.f32(integers(length, length));
    const dy = arena.f32(integers(length + 1, length));
    const pivot = arena.f32(integers(7, columns));
    const scratch = arena.f32(new Float32Array(2 * columns).fill(UNWRITTEN));
    const inputs = sources === 2 ? [x.pointer, dy.pointer] : [x.pointer];
    // a pool passes whole stripes of rows; one thread passes everything
    for (const [begin, end] of [
      [0, length],
      [Math.min(rows, 1) * columns, length],
      [0, Math.min(rows, 2) * columns],
    ] as const) {
      const first = arena.f64(blank(columns));
      const second = arena.f64(blank(columns));
      kernel(...inputs, pivot.pointer, first.pointer, second.pointer, scratch.pointer, columns, begin, end);
      const expected = Array.from({ length: columns }, (_, j) => {
        const inside = columnIndices(j, columns, length).filter((i) => i >= begin && i < end);
        return sumsOf(inside, x.view, dy.view, pivot.view[j] as number, sources);
      });
      expect(first.view).toBeAllclose(expected.map((e) => e.first));
      expect(second.view).toBeAllclose(expected.map((e) => e.second));
    }
    arena.close();
  }
}

function testExactInterleavedSums(kernel: Kernel, arena: Arena, sources: Sources): void {
  for (const { columns, length } of ROWS) {
    const x = arena.f32(integers(length, length));
    const dy = arena.f32(integers(length + 1, length));
    const pivot = arena.f32(integers(7, columns));
    const inputs = sources === 2 ? [x.pointer, dy.pointer] : [x.pointer];
    for (const [begin, end] of [
      [0, columns],
      [Math.min(columns, 1), columns],
      [columns >> 2, columns - (columns >> 2)],
    ] as const) {
      const first = arena.f64(blank(columns));
      const second = arena.f64(blank(columns));
      kernel(...inputs, pivot.pointer, first.pointer, second.pointer, columns, length, begin, end);
      const expected = Array.from({ length: columns }, (_, j) =>
        j >= begin && j < end
          ? sumsOf(columnIndices(j, columns, length), x.view, dy.view, pivot.view[j] as number, sources)
          : { first: UNWRITTEN, second: UNWRITTEN },
      );
      expect(first.view).toBeAllclose(expected.map((e) => e.first));
      expect(second.view).toBeAllclose(expected.map((e) => e.second));
    }
    arena.close();
  }
}

/** hi, scale, shift, slope in one column of the matrix, applied as affine.ts says. */
function mapped(matrix: Float32Array, width: number, column: number, x: number, dy: number, sources: Sources): number {
  const [hi, scale, shift, slope] = [0, 1, 2, 3].map((r) => matrix[r * width + column] as number) as [
    number,
    number,
    number,
    number,
  ];
  return sources === 2 ? ((x - hi) * slope + (dy + shift)) * scale : (x - hi) * scale + shift;
}

/** Runs a map to memory of its own, over x, and over dy where there is one. */
function testMap(
  run: (x: number, dy: number, y: number) => void,
  arena: Arena,
  length: number,
  sources: Sources,
  expected: (x: Float32Array, dy: Float32Array, i: number) => number,
): void {
  for (const target of ["own", "x", "dy"].slice(0, sources + 1)) {
    const [xs, dys] = [integers(length, length), integers(length + 1, length)];
    const x = arena.f32(xs);
    const dy = arena.f32(dys);
    const y = target === "own" ? arena.f32(new Float32Array(length).fill(UNWRITTEN)) : target === "x" ? x : dy;
    run(x.pointer, dy.pointer, y.pointer);
    expect(y.view).toBeAllclose(xs.map((_, i) => expected(xs, dys, i)));
    if (y !== x) expect(x.view).toBeAllclose(xs);
    if (y !== dy) expect(dy.view).toBeAllclose(dys);
  }
}

function testPlanarMap(kernel: Kernel, arena: Arena, sources: Sources): void {
  for (const d of PLANES) {
    const size = d.outer * d.channels * d.inner;
    const matrix = arena.f32(integers(3, (sources + 2) * d.channels));
    const run = (begin: number, end: number) => (x: number, dy: number, y: number) => {
      const inputs = sources === 2 ? [x, dy] : [x];
      kernel(...inputs, y, matrix.pointer, d.outer, d.channels, d.inner, begin, end);
    };
    const channelOf = (i: number) => Math.floor(i / d.inner) % d.channels;
    const value = (x: Float32Array, dy: Float32Array, i: number) =>
      mapped(matrix.view, d.channels, channelOf(i), x[i] as number, dy[i] as number, sources);
    testMap(run(0, d.channels), arena, size, sources, value);
    const x = arena.f32(integers(5, size));
    const y = arena.f32(new Float32Array(size).fill(UNWRITTEN));
    run(1, d.channels)(x.pointer, x.pointer, y.pointer);
    expect(y.view).toBeAllclose(y.view.map((_, i) => (channelOf(i) < 1 ? UNWRITTEN : value(x.view, x.view, i))));
    arena.close();
  }
}

function testInterleavedMap(kernel: Kernel, arena: Arena, sources: Sources): void {
  for (const { columns, rows, length, together } of ROWS.flatMap((r) => [1, 4].map((n) => ({ ...r, together: n })))) {
    const matrix = arena.f32(integers(3, (sources + 2) * columns));
    const run = (begin: number, end: number) => (x: number, dy: number, y: number) => {
      const inputs = sources === 2 ? [x, dy] : [x];
      kernel(...inputs, y, matrix.pointer, columns, together, begin, end);
    };
    const value = (x: Float32Array, dy: Float32Array, i: number) =>
      mapped(matrix.view, columns, i % columns, x[i] as number, dy[i] as number, sources);
    testMap(run(0, length), arena, length, sources, value);
    const begin = Math.min(rows, 1) * columns;
    const x = arena.f32(integers(5, length));
    const y = arena.f32(new Float32Array(length).fill(UNWRITTEN));
    run(begin, length)(x.pointer, x.pointer, y.pointer);
    expect(y.view).toBeAllclose(y.view.map((_, i) => (i < begin ? UNWRITTEN : value(x.view, x.view, i))));
    arena.close();
  }
}

/** Channels, the columns of each, and how often the pattern repeats in a row. */
const PATTERNS = [1, 2, 5].flatMap((channels) =>
  [1, 3, 4].flatMap((spread) => [1, 4].map((repeat) => ({ channels, spread, columns: channels * spread * repeat }))),
);

const patternChannel = (column: number, p: { channels: number; spread: number }) =>
  Math.floor(column / p.spread) % p.channels;

function merged(values: ArrayLike<number>, p: { channels: number; spread: number; columns: number }): number[] {
  const sums = new Array<number>(p.channels).fill(0);
  for (let j = 0; j < p.columns; j++)
    sums[patternChannel(j, p)] = (sums[patternChannel(j, p)] as number) + (values[j] as number);
  return sums;
}

/** One test for each export; a new export without a test does not compile. */
const TESTS: { [name in ExportName]: (k: Exports, arena: Arena) => void } = {
  momentsPlanarF32: (k, a) => testPlanarSums(k.momentsPlanarF32 as Kernel, a, 1),
  exactMomentsPlanarF32: (k, a) => testPlanarSums(k.exactMomentsPlanarF32 as Kernel, a, 1),
  gradientSumsPlanarF32: (k, a) => testPlanarSums(k.gradientSumsPlanarF32 as Kernel, a, 2),
  exactGradientSumsPlanarF32: (k, a) => testPlanarSums(k.exactGradientSumsPlanarF32 as Kernel, a, 2),
  momentsInterleavedF32: (k, a) => testInterleavedSums(k.momentsInterleavedF32 as Kernel, a, 1),
  gradientSumsInterleavedF32: (k, a) => testInterleavedSums(k.gradientSumsInterleavedF32 as Kernel, a, 2),
  exactMomentsInterleavedF32: (k, a) => testExactInterleavedSums(k.exactMomentsInterleavedF32 as Kernel, a, 1),
  foursMomentsPlanarF32: (k, a) => testPlanarSums(k.foursMomentsPlanarF32 as Kernel, a, 1),
  foursGradientSumsPlanarF32: (k, a) => testPlanarSums(k.foursGradientSumsPlanarF32 as Kernel, a, 2),
  foursMomentsInterleavedF32: (k, a) => testExactInterleavedSums(k.foursMomentsInterleavedF32 as Kernel, a, 1),
  foursGradientSumsInterleavedF32: (k, a) =>
    testExactInterleavedSums(k.foursGradientSumsInterleavedF32 as Kernel, a, 2),
  exactGradientSumsInterleavedF32: (k, a) =>
    testExactInterleavedSums(k.exactGradientSumsInterleavedF32 as Kernel, a, 2),
  affinePlanarF32: (k, a) => testPlanarMap(k.affinePlanarF32 as Kernel, a, 1),
  affineInterleavedF32: (k, a) => testInterleavedMap(k.affineInterleavedF32 as Kernel, a, 1),
  gradientPlanarF32: (k, a) => testPlanarMap(k.gradientPlanarF32 as Kernel, a, 2),
  gradientInterleavedF32: (k, a) => testInterleavedMap(k.gradientInterleavedF32 as Kernel, a, 2),

  pivotF32(k, arena) {
    const dims = [...PLANES, { outer: 40, channels: 3, inner: 1 }, { outer: 9, channels: 2, inner: 5 }];
    for (const { block, ...d } of dims.flatMap((d) => [1, 16].map((block) => ({ ...d, block })))) {
      const size = d.outer * d.channels * d.inner;
      const x = arena.f32(integers(11, size));
      const pivot = arena.f32(new Float32Array(d.channels).fill(UNWRITTEN));
      k.pivotF32(x.pointer, pivot.pointer, d.outer, d.channels, d.inner, block, 0, d.channels);
      const powerOf = (n: number) => 2 ** Math.floor(Math.log2(n));
      const run = powerOf(Math.min(d.inner, block));
      const planes = powerOf(Math.min(d.outer, Math.floor(block / run)));
      for (let c = 0; c < d.channels; c++) {
        const values: number[] = [];
        for (let n = 0; n < planes; n++)
          for (let i = 0; i < run; i++) values.push(x.view[(n * d.channels + c) * d.inner + i] as number);
        const mean = values.reduce((a, b) => a + b, 0) / values.length;
        const spread = Math.max(...values.map((v) => Math.abs(v - mean)));
        const got = pivot.view[c] as number;
        if (spread === 0) expect(got).toBe(mean);
        else {
          // a multiple of 1/32 of the spread's leading bit, and the nearest one
          const step = 2 ** Math.floor(Math.log2(spread)) / 32;
          expect(got / step).toBe(Math.round(got / step));
          expect(Math.abs(got - mean)).toBeLessThanOrEqual(step / 2);
        }
      }
      const untouched = arena.f32(new Float32Array(d.channels).fill(UNWRITTEN));
      k.pivotF32(x.pointer, untouched.pointer, d.outer, d.channels, d.inner, block, 1, d.channels);
      expect(untouched.view[0]).toBe(UNWRITTEN);
      arena.close();
    }
  },

  spreadF32(k, arena) {
    for (const p of PATTERNS)
      for (const rows of [1, 3, 4]) {
        const source = arena.f32(integers(13, rows * p.channels));
        const target = arena.f32(new Float32Array(rows * p.columns).fill(UNWRITTEN));
        k.spreadF32(source.pointer, target.pointer, rows, p.channels, p.spread, p.columns);
        const row = (i: number) => Math.floor(i / p.columns);
        expect(target.view).toBeAllclose(
          target.view.map((_, i) => source.view[row(i) * p.channels + patternChannel(i % p.columns, p)] as number),
        );
        arena.close();
      }
  },

  statisticsF32(k, arena) {
    for (const p of PATTERNS) {
      const count = 8;
      const first = arena.f64(integers(17, p.columns));
      const second = arena.f64(Float64Array.from({ length: p.columns }, (_, j) => 1000 + j));
      const pivot = arena.f32(integers(19, p.channels));
      const [mean, variance] = [arena.f64(blank(p.channels)), arena.f64(blank(p.channels))];
      const doubtful = arena.u8(p.channels);
      const run = (begin: number, end: number) =>
        k.statisticsF32(
          first.pointer,
          second.pointer,
          pivot.pointer,
          mean.pointer,
          variance.pointer,
          doubtful.pointer,
          count,
          p.channels,
          p.spread,
          p.columns,
          begin,
          end,
        );
      expect(run(0, p.channels)).toBe(0);
      expect([...doubtful.view]).toEqual(new Array(p.channels).fill(0));
      const deltas = merged(first.view, p).map((s) => s / count);
      const squares = merged(second.view, p).map((s) => s / count);
      expect(mean.view).toBeAllclose(deltas.map((delta, c) => (pivot.view[c] as number) + delta));
      expect(variance.view).toBeAllclose(deltas.map((delta, c) => (squares[c] as number) - delta * delta));

      // too small, too large, not a number, and a pivot farther from the mean than a standard deviation
      for (const [s1, s2] of [
        [0, 0],
        [0, 1e-40],
        [0, 1e40],
        [0, Number.POSITIVE_INFINITY],
        [Number.NaN, 1],
        [4 * count, 25 * count],
      ] as const) {
        first.view.fill(0);
        second.view.fill(0);
        first.view[0] = s1;
        second.view[0] = s2;
        mean.view.fill(UNWRITTEN);
        expect(run(0, 1)).toBe(1);
        expect(doubtful.view[0]).toBe(1);
        if (p.channels > 1) expect(mean.view[1]).toBe(UNWRITTEN);
      }
      arena.close();
    }
  },

  invStdF64(k, arena) {
    const variance = arena.f64([0, 1, 4, 1e60, 1e-60]);
    const invStd = arena.f64(blank(5));
    k.invStdF64(variance.pointer, invStd.pointer, 0, 0, 4);
    expect(invStd.view).toBeAllclose([0, 1, 0.5, 1 / Math.sqrt(1e60), UNWRITTEN]);
    k.invStdF64(variance.pointer, invStd.pointer, 0.25, 0, 1);
    expect(invStd.view[0]).toBe(2);
    arena.close();
  },

  affineCoefficientsF32(k, arena) {
    const mean = arena.f64([1 + 2 ** -30, -3, 1e30, 5]);
    const invStd = arena.f64([2, 0.5, 1e-30, 3]);
    const gamma = arena.f32([3, -1, 2, 7]);
    const beta = arena.f32([0.5, 4, -1, 7]);
    for (const [m, g, b] of [0, 1, 2, 3, 4, 5, 6, 7].map((bits) => [bits & 1, bits & 2, bits & 4])) {
      const matrix = arena.f32(new Float32Array(12).fill(UNWRITTEN));
      const pointers = [m ? mean.pointer : 0, invStd.pointer, g ? gamma.pointer : 0, b ? beta.pointer : 0] as const;
      k.affineCoefficientsF32(matrix.pointer, ...pointers, 4, 0, 3);
      for (let c = 0; c < 3; c++) {
        const mu = m ? (mean.view[c] as number) : 0;
        const scale = (g ? (gamma.view[c] as number) : 1) * (invStd.view[c] as number);
        const shift = (b ? (beta.view[c] as number) : 0) - (mu - Math.fround(mu)) * scale;
        expect([matrix.view[c], matrix.view[4 + c], matrix.view[8 + c]]).toBeAllclose(
          [mu, scale, shift].map(Math.fround),
        );
      }
      expect([matrix.view[3], matrix.view[7], matrix.view[11]]).toEqual([UNWRITTEN, UNWRITTEN, UNWRITTEN]);
    }
    arena.close();
  },

  gradientStatisticsF32(k, arena) {
    for (const p of PATTERNS) {
      const first = arena.f64(integers(23, p.columns).map((v) => v + 20));
      const second = arena.f64(integers(29, p.columns));
      const mean = arena.f64(Float64Array.from({ length: p.channels }, (_, c) => c + 2 ** -30));
      const invStd = arena.f64(new Float64Array(p.channels).fill(0.5));
      const [dGamma, dBeta] = [arena.f64(blank(p.channels)), arena.f64(blank(p.channels))];
      const doubtful = arena.u8(p.channels);
      const run = (begin: number, end: number) =>
        k.gradientStatisticsF32(
          first.pointer,
          second.pointer,
          mean.pointer,
          invStd.pointer,
          dGamma.pointer,
          dBeta.pointer,
          doubtful.pointer,
          8,
          p.channels,
          p.spread,
          p.columns,
          begin,
          end,
        );
      expect(run(0, p.channels)).toBe(0);
      const [sums, dots] = [merged(first.view, p), merged(second.view, p)];
      expect(dBeta.view).toBeAllclose(sums);
      expect(dGamma.view).toBeAllclose(
        dots.map((dot, c) => (dot - 2 ** -30 * (c === 0 ? 0 : 1) * (sums[c] as number)) * 0.5),
        {
          atol: 2 ** -20,
        },
      );
      expect(dGamma.view[p.channels - 1]).not.toBe(UNWRITTEN);

      for (const [s1, s2, i] of [
        [0, 0, 1],
        [1e-40, 1e-40, 1],
        [Number.POSITIVE_INFINITY, 1, 1],
        [1, Number.NaN, 1],
        [1, 1, 2 ** 21],
        [1, 1, 2 ** -61],
      ] as const) {
        first.view.fill(0);
        second.view.fill(0);
        first.view[0] = s1;
        second.view[0] = s2;
        invStd.view[0] = i;
        dBeta.view.fill(UNWRITTEN);
        expect(run(0, 1)).toBe(1);
        expect(doubtful.view[0]).toBe(1);
        if (p.channels > 1) expect(dBeta.view[1]).toBe(UNWRITTEN);
      }
      arena.close();
    }
  },

  gradientCoefficientsF32(k, arena) {
    const mean = arena.f64([1 + 2 ** -30, -3, 1e30, 5]);
    const invStd = arena.f64([2, 0.5, 1e-30, 3]);
    const gamma = arena.f32([3, -1, 2, 7]);
    const dGamma = arena.f64([4, -8, 16, 7]);
    const dBeta = arena.f64([-2, 6, 10, 7]);
    for (const g of [0, gamma.pointer]) {
      const matrix = arena.f32(new Float32Array(16).fill(UNWRITTEN));
      k.gradientCoefficientsF32(
        matrix.pointer,
        mean.pointer,
        invStd.pointer,
        g,
        dGamma.pointer,
        dBeta.pointer,
        4,
        4,
        0,
        3,
      );
      for (let c = 0; c < 3; c++) {
        const [m, i] = [mean.view[c] as number, invStd.view[c] as number];
        const slope = (-i * (dGamma.view[c] as number)) / 4;
        const shift = -(dBeta.view[c] as number) / 4 - (m - Math.fround(m)) * slope;
        const scale = (g ? (gamma.view[c] as number) : 1) * i;
        const column = [0, 4, 8, 12].map((row) => matrix.view[row + c] as number);
        expect(column).toBeAllclose([m, scale, shift, slope].map(Math.fround));
      }
      expect([3, 7, 11, 15].map((i) => matrix.view[i])).toEqual(new Array(4).fill(UNWRITTEN));
    }
    arena.close();
  },
};

describe.each(BUILDS)("the %s build", (build) => {
  const bytes = readFileSync(wasmFile(build));
  const arena = new Arena();
  let module: WebAssembly.Module;
  let kernels: Exports;

  beforeAll(() => {
    module = new WebAssembly.Module(bytes);
    kernels = instantiateKernels(module, arena.memory);
  });

  it("imports env.memory and nothing else", () => {
    expect(WebAssembly.Module.imports(module)).toEqual([{ module: "env", name: "memory", kind: "memory" }]);
  });

  it("has no data segment and no start function, so it runs on anybody's memory", () => {
    const sections: number[] = [];
    for (let at = 8; at < bytes.length; ) {
      sections.push(bytes[at++] as number);
      let size = 0;
      for (let shift = 0, byte = 0x80; byte & 0x80; shift += 7) {
        byte = bytes[at++] as number;
        size |= (byte & 0x7f) << shift;
      }
      at += size;
    }
    expect(sections).toContain(10); // code: the parser found its way
    expect(sections).not.toContain(8); // start
    expect(sections).not.toContain(11); // data
  });

  it("exports functions only, each named as the grammar says, and every one has a test here", () => {
    const exports = WebAssembly.Module.exports(module);
    expect(exports.every((e) => e.kind === "function" && /^[a-z][A-Za-z]*F(32|64)$/.test(e.name))).toBe(true);
    expect(exports.map((e) => e.name).sort()).toEqual(Object.keys(TESTS).sort());
  });

  it.each(Object.keys(TESTS) as ExportName[])("%s computes exactly what it says, inside its buffers", (name) => {
    TESTS[name](kernels, arena);
  });
});

it("the wasm that users get is at most 32 kB", () => {
  expect(readFileSync(wasmFile("simd")).length).toBeLessThanOrEqual(32 * 1024);
});
