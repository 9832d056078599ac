// Every export of both modules by itself, in all builds, on memory of the test's own: data whose sums are exact in every
// order, so that results are compared without tolerance and a dropped or doubled lane shows at once, and guard zones
// around every buffer. Only silu, which rounds, has a tolerance.

import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import type { Exports, ExtendedExports } from "../src/module.ts";
import { instantiateKernels } from "../src/module.ts";
import { Arena, type Buffer, blank, expectSame, type Reals, Section, sectionsOf, UNWRITTEN } from "./arena.ts";
import { type Dims, eachOf } from "./reference.ts";
import { BUILDS, EXTENDED_BUILDS, random, WHOLE_OPERATIONS, wasmFile } from "./worlds.ts";

/** Integers of at most 4 bits: every sum and product of them below is exact in float32. */
const integers = (seed: number, length: number): Float32Array => {
  const next = random(seed);
  return Float32Array.from({ length }, () => Math.floor(next() * 17) - 8);
};

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

type Kernel = (...args: number[]) => unknown;

/** What a kernel does to a value on its way, as assembly/epilogue.ts has it. */
interface Activation {
  readonly name: string;
  readonly code: number;
  /** slope, floor, ceiling */
  readonly parameters: readonly [number, number, number];
  apply(z: number): number;
  derive(dy: number, z: number): number;
  readonly tolerance?: { apply: { rtol: number; atol: number }; derive: { atol: number } };
}

/** Of numbers that a kernel has no business to read. */
const NO_PARAMETERS = [Number.NaN, Number.NaN, Number.NaN] as const;

const NONE: Activation = { name: "none", code: 0, parameters: NO_PARAMETERS, apply: (z) => z, derive: (dy) => dy };

function rectifier(name: string, code: number, slope: number, floor: number, ceiling: number): Activation {
  return {
    name,
    code,
    parameters: [slope, floor, ceiling],
    apply: (z) => (z <= 0 ? Math.max(slope && z * slope, floor) : Math.min(z, ceiling)),
    derive: (dy, z) => (z <= 0 ? slope && dy * slope : z >= ceiling ? 0 : dy),
  };
}

const RECTIFIERS: readonly Activation[] = [
  {
    ...rectifier("relu", 1, 0, 0, Number.POSITIVE_INFINITY),
    parameters: NO_PARAMETERS,
    derive: (dy, z) => (z <= 0 ? 0 : dy),
  },
  rectifier("leaky relu", 2, 0.25, Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY),
  rectifier("relu6", 2, 0, 0, 6),
  rectifier("leaky relu with a ceiling", 2, 0.5, Number.NEGATIVE_INFINITY, 3),
];

/** 4 ulp, as u is half of one. */
const ULP4 = 2 ** -21;

/** z·σ(z), and its limits. Kernels end z at −87, where σ is 1.6e-38. The largest dy of the tests is 8. */
const SILU: Activation = {
  name: "silu",
  code: 3,
  parameters: NO_PARAMETERS,
  apply: (z) => Math.max(z, -700) / (1 + Math.exp(-Math.max(z, -700))),
  derive(dy, z) {
    const t = Math.min(Math.max(z, -700), 700);
    const sigmoid = 1 / (1 + Math.exp(-t));
    return dy * sigmoid * (1 + t * (1 - sigmoid));
  },
  tolerance: { apply: { rtol: ULP4, atol: 2e-36 }, derive: { atol: 8 * ULP4 } },
};

/** Sums of u and u·d: u is d, or dy, or what an activation lets through of it. */
interface SumCase {
  readonly sources: 1 | 2;
  readonly activation?: Activation;
}

const MOMENTS: readonly SumCase[] = [{ sources: 1 }];
const GRADIENT_SUMS: readonly SumCase[] = [{ sources: 2 }];
const ACTIVATED_SUMS: readonly SumCase[] = RECTIFIERS.map((activation) => ({ sources: 2, activation }));

/** The number of an activation and its parameters, as kernels take them. */
function activationArguments(arena: Arena, activation: Activation | undefined): number[] {
  return activation ? [activation.code, arena.real(activation.parameters).pointer] : [];
}

/** Pivots of `width` channels or columns; with an activation, two more rows: the scale and shift of z. */
const pivots = (arena: Arena, width: number, { activation }: SumCase) =>
  arena.real(integers(7, width * (activation ? 3 : 1)));

/** Σ u and Σ u·d over the indices that belong to a channel or column. */
function sumsOf(
  indices: Iterable<number>,
  x: Reals,
  dy: Reals,
  matrix: Reals,
  width: number,
  column: number,
  c: SumCase,
): { first: number; second: number } {
  const [pivot, scale, shift] = [0, 1, 2].map((row) => matrix[row * width + column] as number) as [
    number,
    number,
    number,
  ];
  let first = 0;
  let second = 0;
  for (const i of indices) {
    const d = (x[i] as number) - pivot;
    const w = c.sources === 2 ? (dy[i] as number) : d;
    const u = c.activation ? c.activation.derive(w, d * scale + shift) : w;
    first += u;
    second += u * d;
  }
  return { first, second };
}

const NOT_SUMMED = { first: UNWRITTEN, second: UNWRITTEN };

function indicesOf(d: Dims, channel: number): number[] {
  const list: number[] = [];
  eachOf(d, channel, (i) => list.push(i));
  return list;
}

const columnIndices = (column: number, columns: number, length: number): number[] =>
  Array.from({ length: Math.max(0, Math.ceil((length - column) / columns)) }, (_, r) => r * columns + column);

/** A test of each of `cases` by `check`. */
type Test = (kernel: Kernel, arena: Arena) => void;
type Check<C> = (kernel: Kernel, arena: Arena, c: C) => void;
const each =
  <C>(check: Check<C>) =>
  (cases: readonly C[]): Test =>
  (kernel, arena) => {
    for (const c of cases) check(kernel, arena, c);
  };

/** Memory of a sum: its sources, what it sums about, and the two results. */
function sumArguments(arena: Arena, length: number, width: number, c: SumCase) {
  const x = arena.real(integers(length, length));
  const dy = arena.real(integers(length + 1, length));
  const pivot = pivots(arena, width, c);
  const sources = c.sources === 2 ? [x.pointer, dy.pointer] : [x.pointer];
  const activation = activationArguments(arena, c.activation);
  /** Runs the kernel with results of its own, and compares them. */
  const run = (
    call: (before: readonly number[], activation: readonly number[]) => void,
    expected: (column: number, sums: (indices: Iterable<number>) => typeof NOT_SUMMED) => typeof NOT_SUMMED,
  ): void => {
    const [first, second] = [arena.f64(blank(width)), arena.f64(blank(width))];
    call([...sources, pivot.pointer, first.pointer, second.pointer], activation);
    const sums = Array.from({ length: width }, (_, column) =>
      expected(column, (indices) => sumsOf(indices, x.view, dy.view, pivot.view, width, column, c)),
    );
    expect(first.view).toBeAllclose(sums.map((s) => s.first));
    expect(second.view).toBeAllclose(sums.map((s) => s.second));
  };
  return run;
}

const planarSums = each<SumCase>((kernel, arena, c) => {
  for (const d of PLANES) {
    const run = sumArguments(arena, d.outer * d.channels * d.inner, d.channels, c);
    const scratch = arena.wide ? [arena.real(blank(4 * d.channels)).pointer] : [];
    for (let begin = 0; begin < d.channels; begin++)
      for (let end = begin; end <= d.channels; end++)
        run(
          (before, more) => kernel(...before, ...scratch, ...more, d.outer, d.channels, d.inner, begin, end),
          (channel, sums) => (channel >= begin && channel < end ? sums(indicesOf(d, channel)) : NOT_SUMMED),
        );
    arena.close();
  }
});

const interleavedSums = each<SumCase>((kernel, arena, c) => {
  for (const { columns, rows, length } of ROWS) {
    const run = sumArguments(arena, length, columns, c);
    const scratch = arena.real(blank((arena.wide ? 4 : 2) * columns));
    // a pool passes whole stripes of rows; one thread passes everything
    for (const [begin, end] of [
      [0, length],
      [Math.min(rows, 1) * columns, length],
      [0, Math.min(rows, 2) * columns],
    ] as const)
      run(
        (before, more) => kernel(...before, scratch.pointer, ...more, columns, begin, end),
        (column, sums) => sums(columnIndices(column, columns, length).filter((i) => i >= begin && i < end)),
      );
    arena.close();
  }
});

const exactInterleavedSums = each<SumCase>((kernel, arena, c) => {
  for (const { columns, length } of ROWS) {
    const run = sumArguments(arena, length, columns, c);
    for (const [begin, end] of [
      [0, columns],
      [Math.min(columns, 1), columns],
      [columns >> 2, columns - (columns >> 2)],
    ] as const)
      run(
        (before, more) => kernel(...before, ...more, columns, length, begin, end),
        (column, sums) => (column >= begin && column < end ? sums(columnIndices(column, columns, length)) : NOT_SUMMED),
      );
    arena.close();
  }
});

/** The column of coefficients of one channel, in the order of the matrix's rows. */
type Coefficients = readonly [hi: number, scale: number, shift: number, slope: number, more: number];

/** A map of affine.ts: its equation, on up to three sources. */
interface MapCase {
  readonly name: string;
  readonly sources: 1 | 2 | 3;
  readonly rows: 3 | 4 | 5;
  /** Whether the kernel takes one source more, for which it gets 0. */
  readonly withoutLast?: boolean;
  readonly activation?: Activation;
  readonly tolerance?: { rtol?: number; atol?: number };
  at(k: Coefficients, x: number, b: number, c: number): number;
}

const z = ([hi, scale, shift]: Coefficients, x: number): number => (x - hi) * scale + shift;

const AFFINE: MapCase = { name: "affine", sources: 1, rows: 3, at: z };

const GRADIENT: MapCase = {
  name: "gradient",
  sources: 2,
  rows: 4,
  at: ([hi, scale, shift, slope], x, dy) => ((x - hi) * slope + (dy + shift)) * scale,
};

const SCALED_GRADIENT: MapCase = {
  name: "scaled gradient",
  sources: 2,
  rows: 5,
  at: ([hi, scale, shift, slope, more], x, dy) => ((x - hi) * slope + (dy * more + shift)) * scale,
};

const COMBINATION: MapCase = {
  name: "combination",
  sources: 3,
  rows: 5,
  at: ([hi, scale, shift, slope, more], x, b, c) => (x - hi) * scale + b * slope + c * more + shift,
};

/** With a residual and without. */
const AFFINE_ACTIVATED: readonly MapCase[] = [...RECTIFIERS, SILU, NONE].flatMap((activation): MapCase[] => {
  const { name, tolerance } = activation;
  const sum: MapCase = {
    name: `${name} of a sum`,
    sources: 2,
    rows: 3,
    activation,
    ...(tolerance && { tolerance: tolerance.apply }),
    at: (k, x, residual) => activation.apply(z(k, x) + residual),
  };
  const alone: MapCase = {
    ...sum,
    name,
    sources: 1,
    withoutLast: true,
    at: (k, x) => activation.apply(z(k, x)),
  };
  return activation === NONE ? [sum] : [alone, sum];
});

const GRADIENT_ACTIVATED: readonly MapCase[] = RECTIFIERS.map((activation) => ({
  name: `gradient of ${activation.name}`,
  sources: 2,
  rows: 5,
  activation,
  at: ([hi, scale, shift, slope, more], x, dy) =>
    ((x - hi) * slope + (activation.derive(dy, (x - hi) * scale + more) + shift)) * scale,
}));

const DERIVATIVE_ACTIVATED: readonly MapCase[] = [...RECTIFIERS, SILU].flatMap((activation): MapCase[] => {
  const { name, tolerance } = activation;
  const sum: MapCase = {
    name: `derivative of ${name} of a sum`,
    sources: 3,
    rows: 3,
    activation,
    ...(tolerance && { tolerance: tolerance.derive }),
    at: (k, x, dy, residual) => activation.derive(dy, z(k, x) + residual),
  };
  const alone: MapCase = {
    ...sum,
    name: `derivative of ${name}`,
    sources: 2,
    withoutLast: true,
    at: (k, x, dy) => activation.derive(dy, z(k, x)),
  };
  return [alone, sum];
});

/** Elements [begin, end) of a walk, and the number of the column of coefficients that an element has. */
interface Walk {
  readonly length: number;
  readonly width: number;
  column(i: number): number;
  /** Numbers to pass after the coefficients and the activation, and whether element i is in their range. */
  readonly ranges: readonly { geometry: readonly number[]; has(i: number): boolean }[];
}

const planarWalks = (dims: readonly Dims[]): Walk[] =>
  dims.map(({ outer, channels, inner }) => {
    const column = (i: number) => Math.floor(i / inner) % channels;
    return {
      length: outer * channels * inner,
      width: channels,
      column,
      ranges: [
        [0, channels],
        [1, channels],
        [0, channels - 1],
      ].map(([begin, end]) => ({
        geometry: [outer, channels, inner, begin as number, end as number],
        has: (i) => column(i) >= (begin as number) && column(i) < (end as number),
      })),
    };
  });

interface Rows {
  readonly columns: number;
  readonly rows: number;
  readonly length: number;
}

const interleavedWalks = (list: readonly Rows[], together: 1 | 4): Walk[] =>
  list.map(({ columns, rows, length }) => ({
    length,
    width: columns,
    column: (i) => i % columns,
    ranges: [
      [0, length],
      [Math.min(rows, 1) * columns, length],
      [0, Math.min(rows, 5) * columns],
    ].map(([begin, end]) => ({
      geometry: [columns, together, begin as number, end as number],
      has: (i) => i >= (begin as number) && i < (end as number),
    })),
  }));

/** Runs a map over `sources` and compares its result, in every range and with every source as the result's memory. */
function checkMap(
  kernel: Kernel,
  arena: Arena,
  m: MapCase,
  walk: Walk,
  matrix: Buffer<Reals>,
  sources: readonly Reals[],
): void {
  const activation = activationArguments(arena, m.activation);
  const value = (i: number): number => {
    const [x = 0, b = 0, c = 0] = sources.map((s) => s[i] as number);
    const rows = [0, 1, 2, 3, 4].map((row) => matrix.view[row * walk.width + walk.column(i)] as number);
    return m.at(rows as unknown as Coefficients, x, b, c);
  };
  const values = Float64Array.from({ length: walk.length }, (_, i) => value(i));
  const run = ({ geometry, has }: Walk["ranges"][number], target: number) => {
    const buffers = sources.map((s) => arena.real(s));
    const y = buffers[target] ?? arena.real(blank(walk.length));
    const pointers = buffers.map((s) => s.pointer);
    if (m.withoutLast) pointers.push(0);
    const before = y.view.slice();
    kernel(...pointers, y.pointer, matrix.pointer, ...activation, ...geometry);
    const expected = values.map((v, i) => (has(i) ? v : (before[i] as number)));
    expect(y.view, m.name).toBeAllclose(expected, m.tolerance);
    buffers.forEach((s, k) => {
      if (s !== y) expect(s.view, `${m.name}, source ${k}`).toBeAllclose(sources[k] as Reals);
    });
  };
  const whole = walk.ranges[0] as Walk["ranges"][number];
  for (const range of walk.ranges) run(range, -1);
  for (let target = 0; target < m.sources; target++) run(whole, target);
}

/** Where activations bend, and what is not a number among numbers. */
const SPECIAL = [0, -0, 1, -1, 3, 6, 7, Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];

/** Maps with integers as coefficients and sources; those with an activation also with z = x and special values. */
const testMap = (walks: readonly Walk[], walkOf: (length: number) => Walk) =>
  each<MapCase>((kernel, arena, m) => {
    for (const walk of walks) {
      const matrix = arena.real(integers(3, m.rows * walk.width));
      const sources = Array.from({ length: m.sources }, (_, k) => integers(walk.length + k, walk.length));
      checkMap(kernel, arena, m, walk, matrix, sources);
      arena.close();
    }
    if (!m.activation) return;
    // every value of a source with every value of the others
    const walk = walkOf(SPECIAL.length ** m.sources);
    const sources = Array.from({ length: m.sources }, (_, k) =>
      Float32Array.from({ length: walk.length }, (_, i) => SPECIAL[Math.floor(i / 10 ** k) % 10] as number),
    );
    const rows = [0, 1, -0, 2, -0].slice(0, m.rows);
    const matrix = arena.real(rows.flatMap((v) => new Array<number>(walk.width).fill(v)));
    checkMap(kernel, arena, m, walk, matrix, sources);
    arena.close();
  });

const planarMap = testMap(planarWalks(PLANES), (inner) => planarWalks([{ outer: 1, channels: 1, inner }])[0] as Walk);

const interleavedMap = testMap(
  [
    ...interleavedWalks(
      ROWS.filter(({ rows }) => rows < 4),
      1,
    ),
    ...interleavedWalks(
      ROWS.filter(({ rows }) => rows > 4 && rows < 16),
      4,
    ),
  ],
  (length) => interleavedWalks([{ columns: 28, rows: Math.floor(length / 28), length }], 4)[0] as Walk,
);

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

function testPivot(kernel: Exports["pivotF32"], arena: Arena): void {
  const dims = [...PLANES, { outer: 40, channels: 3, inner: 1 }, { outer: 9, channels: 2, inner: 5 }];
  for (const { block, ...d } of dims.flatMap((d) => [1, 16].map((block) => ({ ...d, block })))) {
    const size = d.outer * d.channels * d.inner;
    const x = arena.real(integers(11, size));
    const pivot = arena.real(blank(d.channels));
    kernel(x.pointer, pivot.pointer, d.outer, d.channels, d.inner, block, 0, d.channels);
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
    const untouched = arena.real(blank(d.channels));
    kernel(x.pointer, untouched.pointer, d.outer, d.channels, d.inner, block, 1, d.channels);
    expect(untouched.view[0]).toBe(UNWRITTEN);
    arena.close();
  }
}

function testSpread(kernel: Exports["spreadF32"], arena: Arena): void {
  for (const p of PATTERNS)
    for (const rows of [1, 3, 4]) {
      const source = arena.real(integers(13, rows * p.channels));
      const target = arena.real(blank(rows * p.columns));
      kernel(source.pointer, target.pointer, rows, p.channels, p.spread, p.columns);
      const row = (i: number) => Math.floor(i / p.columns);
      expect(target.view).toBeAllclose(
        target.view.map((_, i) => source.view[row(i) * p.channels + patternChannel(i % p.columns, p)] as number),
      );
      arena.close();
    }
}

function testStatistics(kernel: Exports["statisticsF32"], arena: Arena): void {
  for (const p of PATTERNS) {
    const count = 8;
    const first = arena.f64(integers(17, p.columns));
    const second = arena.f64(Float64Array.from({ length: p.columns }, (_, j) => 1000 + j));
    const pivot = arena.real(integers(19, p.channels));
    const [mean, variance] = [arena.f64(blank(p.channels)), arena.f64(blank(p.channels))];
    const doubtful = arena.u8(p.channels);
    const run = (begin: number, end: number) =>
      kernel(
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

    // too small and too large for T, not a number, and a pivot farther from the mean than a standard deviation
    for (const [s1, s2, doubt] of [
      [0, 0, !arena.wide],
      [0, 1e-40, !arena.wide],
      [0, 1e40, !arena.wide],
      [0, 1e307, true],
      [0, Number.POSITIVE_INFINITY, true],
      [Number.NaN, 1, true],
      [4 * count, 25 * count, true],
      [count, count, true],
    ] as const) {
      first.view.fill(0);
      second.view.fill(0);
      first.view[0] = s1;
      second.view[0] = s2;
      mean.view.fill(UNWRITTEN);
      expect(run(0, 1)).toBe(Number(doubt));
      expect(doubtful.view[0]).toBe(Number(doubt));
      if (p.channels > 1) expect(mean.view[1]).toBe(UNWRITTEN);
    }
    arena.close();
  }
}

function testAffineCoefficients(kernel: Exports["affineCoefficientsF32"], arena: Arena): void {
  const mean = arena.f64([1 + 2 ** -30, -3, 1e30, 5]);
  const invStd = arena.f64([2, 0.5, 1e-30, 3]);
  const gamma = arena.real([3, -1, 2, 7]);
  const beta = arena.real([0.5, 4, -1, 7]);
  for (const [m, g, b] of [0, 1, 2, 3, 4, 5, 6, 7].map((bits) => [bits & 1, bits & 2, bits & 4])) {
    const matrix = arena.real(blank(12));
    const pointers = [m ? mean.pointer : 0, invStd.pointer, g ? gamma.pointer : 0, b ? beta.pointer : 0] as const;
    kernel(matrix.pointer, ...pointers, 4, 0, 3);
    for (let c = 0; c < 3; c++) {
      const mu = m ? (mean.view[c] as number) : 0;
      const scale = (g ? (gamma.view[c] as number) : 1) * (invStd.view[c] as number);
      const shift = (b ? (beta.view[c] as number) : 0) - (mu - arena.round(mu)) * scale;
      expect([matrix.view[c], matrix.view[4 + c], matrix.view[8 + c]]).toBeAllclose(
        [mu, scale, shift].map((v) => arena.round(v)),
      );
    }
    expect([matrix.view[3], matrix.view[7], matrix.view[11]]).toEqual([UNWRITTEN, UNWRITTEN, UNWRITTEN]);
  }
  arena.close();
}

function testGradientStatistics(kernel: Exports["gradientStatisticsF32"], arena: Arena): void {
  for (const p of PATTERNS) {
    const first = arena.f64(integers(23, p.columns).map((v) => v + 20));
    const second = arena.f64(integers(29, p.columns));
    const mean = arena.f64(Float64Array.from({ length: p.channels }, (_, c) => c + 2 ** -30));
    const invStd = arena.f64(new Float64Array(p.channels).fill(0.5));
    const [dGamma, dBeta] = [arena.f64(blank(p.channels)), arena.f64(blank(p.channels))];
    const doubtful = arena.u8(p.channels);
    const run = (begin: number, end: number) =>
      kernel(
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
      doubtful.view.fill(2);
      // nothing is wider than float64
      expect(run(0, 1)).toBe(Number(!arena.wide));
      expect(doubtful.view[0]).toBe(Number(!arena.wide));
      if (p.channels > 1) expect(dBeta.view[1]).toBe(UNWRITTEN);
    }
    arena.close();
  }
}

function testGradientCoefficients(kernel: Exports["gradientCoefficientsF32"], arena: Arena): void {
  const mean = arena.f64([1 + 2 ** -30, -3, 1e30, 5]);
  const invStd = arena.f64([2, 0.5, 1e-30, 3]);
  const gamma = arena.real([3, -1, 2, 7]);
  const dGamma = arena.f64([4, -8, 16, 7]);
  const dBeta = arena.f64([-2, 6, 10, 7]);
  for (const g of [0, gamma.pointer]) {
    const matrix = arena.real(blank(16));
    kernel(matrix.pointer, mean.pointer, invStd.pointer, g, dGamma.pointer, dBeta.pointer, 4, 4, 0, 3);
    for (let c = 0; c < 3; c++) {
      const [m, i] = [mean.view[c] as number, invStd.view[c] as number];
      const slope = (-i * (dGamma.view[c] as number)) / 4;
      const shift = -(dBeta.view[c] as number) / 4 - (m - arena.round(m)) * slope;
      const scale = (g ? (gamma.view[c] as number) : 1) * i;
      const column = [0, 4, 8, 12].map((row) => matrix.view[row + c] as number);
      expect(column).toBeAllclose([m, scale, shift, slope].map((v) => arena.round(v)));
    }
    expect([3, 7, 11, 15].map((i) => matrix.view[i])).toEqual(new Array(4).fill(UNWRITTEN));
  }
  arena.close();
}

/** A 16-bit format: mantissa bits that are stored, and the exponent of the smallest normal value. */
interface Format {
  readonly mantissa: number;
  readonly smallest: number;
}

const FLOAT16: Format = { mantissa: 10, smallest: -14 };
const BFLOAT16: Format = { mantissa: 7, smallest: -126 };
const SIGN = 0x8000;
const infinityOf = (f: Format): number => SIGN - 2 ** f.mantissa;

/** The value of a pattern. */
function decoded(h: number, f: Format): number {
  const sign = h & SIGN ? -1 : 1;
  const magnitude = h & ~SIGN;
  if (magnitude > infinityOf(f)) return Number.NaN;
  if (magnitude === infinityOf(f)) return sign * Number.POSITIVE_INFINITY;
  const exponent = magnitude >> f.mantissa;
  const digits = magnitude % 2 ** f.mantissa;
  if (exponent === 0) return sign * digits * 2 ** (f.smallest - f.mantissa);
  return sign * (digits + 2 ** f.mantissa) * 2 ** (exponent - 1 + f.smallest - f.mantissa);
}

/** The pattern that is nearest to a value of f32, ties to even; patterns of one sign are numbered as their values are. */
function encoded(value: number, f: Format): number {
  const magnitude = Math.abs(value);
  let exponent = Math.max(f.smallest, Math.min(127, Math.floor(Math.log2(magnitude)) - 1));
  while (exponent < 128 && magnitude >= 2 ** (exponent + 1)) exponent++;
  const steps = magnitude / 2 ** (exponent - f.mantissa);
  const below = Math.floor(steps);
  const up = steps - below > 0.5 || (steps - below === 0.5 && below % 2 === 1);
  const pattern = (exponent - f.smallest) * 2 ** f.mantissa + below + Number(up);
  return Math.min(pattern, infinityOf(f)) + (value < 0 || Object.is(value, -0) ? SIGN : 0);
}

type Convert = (source: number, target: number, begin: number, end: number) => void;

const ALL_PATTERNS = Uint16Array.from({ length: 2 ** 16 }, (_, h) => h);

/** Lengths and starts for which `check(begin, end)` must find the elements [begin, end) converted and no others. */
function forRanges(check: (begin: number, end: number) => void): void {
  for (let length = 0; length <= 33; length++) for (const begin of [0, 1, 7]) check(begin, begin + length);
}

function testWiden(widen: Convert, arena: Arena, format: Format): void {
  const source = arena.u16(ALL_PATTERNS);
  const target = arena.f32(blank(2 ** 16));
  widen(source.pointer, target.pointer, 0, 2 ** 16);
  const values = Array.from(ALL_PATTERNS, (h) => decoded(h, format));
  expectSame(target.view, values, (h) => `pattern ${h}`);
  arena.close();
  forRanges((begin, end) => {
    const some = Array.from({ length: end + 1 }, (_, i) => (i * 0x1357) % 2 ** 16);
    const source = arena.u16(some);
    const target = arena.f32(blank(end + 1));
    widen(source.pointer, target.pointer, begin, end);
    const expected = some.map((h, i) => (i >= begin && i < end ? decoded(h, format) : UNWRITTEN));
    expectSame(target.view, expected, (i) => `element ${i} of [${begin}, ${end})`);
    arena.close();
  });
}

/** Every value halfway between neighbours, its own neighbours in f32, and values of all sorts, with either sign. */
function narrowingCases(format: Format): Float32Array {
  const halfway = Float32Array.from({ length: infinityOf(format) }, (_, h) => {
    const below = decoded(h, format);
    // beyond the largest value, as if there were one more
    const step = h + 1 < infinityOf(format) ? decoded(h + 1, format) - below : below - decoded(h - 1, format);
    return below + step / 2;
  });
  const bits = new Uint32Array(halfway.buffer);
  const next = random(31);
  const any = Uint32Array.from({ length: 2 ** 16 }, () => Math.floor(next() * 2 ** 31));
  const [max, infinity] = [0x7f7fffff, 0x7f800000];
  const special = Uint32Array.of(0, 1, 2, 0x007fffff, 0x00800000, max, infinity, 0x7f800001, 0x7fc00000, 0x7fffffff);
  const magnitudes = [...bits, ...bits.map((b) => b - 1), ...bits.map((b) => b + 1), ...any, ...special];
  const both = Uint32Array.from(
    { length: 2 * magnitudes.length },
    (_, i) => (magnitudes[i >> 1] as number) + (i % 2) * 2 ** 31,
  );
  return new Float32Array(both.buffer);
}

function testNarrow(narrow: Convert, widen: Convert, arena: Arena, format: Format): void {
  const isNaNPattern = (h: number) => (h & ~SIGN) > infinityOf(format);
  const quiet = 2 ** (format.mantissa - 1);
  const cases = narrowingCases(format);
  // bit by bit, for a Float32Array of JavaScript may change what kind of NaN it holds
  const source = arena.f32(cases);
  const bits = new Uint32Array(cases.buffer);
  new Uint32Array(arena.memory.buffer, source.pointer, bits.length).set(bits);
  const target = arena.u16(new Uint16Array(cases.length));
  narrow(source.pointer, target.pointer, 0, cases.length);
  const expected = Array.from(cases, (v, i) => {
    const got = target.view[i] as number;
    // any quiet NaN will do
    return Number.isNaN(v) ? (isNaNPattern(got) && got & quiet ? got : Number.NaN) : encoded(v, format);
  });
  expectSame(target.view, expected, (i) => `f32 with bits ${bits[i]}`);
  arena.close();

  const all = arena.u16(ALL_PATTERNS);
  const wide = arena.f32(blank(2 ** 16));
  const back = arena.u16(new Uint16Array(2 ** 16));
  widen(all.pointer, wide.pointer, 0, 2 ** 16);
  narrow(wide.pointer, back.pointer, 0, 2 ** 16);
  const same = Array.from(ALL_PATTERNS, (h) =>
    isNaNPattern(h) ? (isNaNPattern(back.view[h] as number) ? back.view[h] : -1) : h,
  );
  expectSame(back.view, same as number[], (h) => `pattern ${h}, there and back`);
  arena.close();

  forRanges((begin, end) => {
    const some = Float32Array.from({ length: end + 1 }, (_, i) => Math.fround((i - 16) * 1.2345678));
    const source = arena.f32(some);
    const target = arena.u16(new Uint16Array(end + 1).fill(UNWRITTEN));
    narrow(source.pointer, target.pointer, begin, end);
    const expected = Array.from(some, (v, i) => (i >= begin && i < end ? encoded(v, format) : UNWRITTEN));
    expectSame(target.view, expected, (i) => `element ${i} of [${begin}, ${end})`);
    arena.close();
  });
}

/** One test for each export; a new export without a test does not compile. */
type Tests<K> = { [name in keyof K]: (kernel: K[name], arena: Arena, kernels: K) => void };

const CORE_TESTS: Tests<Exports> = {
  version: (version) => expect(version()).toBe(1),

  momentsPlanarF32: planarSums(MOMENTS),
  foursMomentsPlanarF32: planarSums(MOMENTS),
  exactMomentsPlanarF32: planarSums(MOMENTS),
  momentsInterleavedF32: interleavedSums(MOMENTS),
  foursMomentsInterleavedF32: exactInterleavedSums(MOMENTS),
  exactMomentsInterleavedF32: exactInterleavedSums(MOMENTS),
  gradientSumsPlanarF32: planarSums(GRADIENT_SUMS),
  foursGradientSumsPlanarF32: planarSums(GRADIENT_SUMS),
  exactGradientSumsPlanarF32: planarSums(GRADIENT_SUMS),
  gradientSumsInterleavedF32: interleavedSums(GRADIENT_SUMS),
  foursGradientSumsInterleavedF32: exactInterleavedSums(GRADIENT_SUMS),
  exactGradientSumsInterleavedF32: exactInterleavedSums(GRADIENT_SUMS),

  affinePlanarF32: planarMap([AFFINE]),
  affineInterleavedF32: interleavedMap([AFFINE]),
  gradientPlanarF32: planarMap([GRADIENT]),
  gradientInterleavedF32: interleavedMap([GRADIENT]),

  invStdF64(kernel, arena) {
    const variance = arena.f64([0, 1, 4, 1e60, 1e-60]);
    const invStd = arena.f64(blank(5));
    kernel(variance.pointer, invStd.pointer, 0, 0, 4);
    expect(invStd.view).toBeAllclose([0, 1, 0.5, 1 / Math.sqrt(1e60), UNWRITTEN]);
    kernel(variance.pointer, invStd.pointer, 0.25, 0, 1);
    expect(invStd.view[0]).toBe(2);
    arena.close();
  },

  pivotF32: testPivot,
  spreadF32: testSpread,
  statisticsF32: testStatistics,
  affineCoefficientsF32: testAffineCoefficients,
  gradientStatisticsF32: testGradientStatistics,
  gradientCoefficientsF32: testGradientCoefficients,
};

const EXTENDED_TESTS: Tests<ExtendedExports> = {
  affineActivatedPlanarF32: planarMap(AFFINE_ACTIVATED),
  affineActivatedInterleavedF32: interleavedMap(AFFINE_ACTIVATED),
  gradientActivatedPlanarF32: planarMap(GRADIENT_ACTIVATED),
  gradientActivatedInterleavedF32: interleavedMap(GRADIENT_ACTIVATED),
  derivativeActivatedPlanarF32: planarMap(DERIVATIVE_ACTIVATED),
  derivativeActivatedInterleavedF32: interleavedMap(DERIVATIVE_ACTIVATED),

  gradientSumsActivatedPlanarF32: planarSums(ACTIVATED_SUMS),
  foursGradientSumsActivatedPlanarF32: planarSums(ACTIVATED_SUMS),
  exactGradientSumsActivatedPlanarF32: planarSums(ACTIVATED_SUMS),
  gradientSumsActivatedInterleavedF32: interleavedSums(ACTIVATED_SUMS),
  foursGradientSumsActivatedInterleavedF32: exactInterleavedSums(ACTIVATED_SUMS),
  exactGradientSumsActivatedInterleavedF32: exactInterleavedSums(ACTIVATED_SUMS),

  scaledGradientPlanarF32: planarMap([SCALED_GRADIENT]),
  scaledGradientInterleavedF32: interleavedMap([SCALED_GRADIENT]),
  combinationPlanarF32: planarMap([COMBINATION]),
  combinationInterleavedF32: interleavedMap([COMBINATION]),

  momentsPlanarF64: planarSums(MOMENTS),
  momentsInterleavedF64: interleavedSums(MOMENTS),
  gradientSumsPlanarF64: planarSums(GRADIENT_SUMS),
  gradientSumsInterleavedF64: interleavedSums(GRADIENT_SUMS),
  affinePlanarF64: planarMap([AFFINE]),
  affineInterleavedF64: interleavedMap([AFFINE]),
  gradientPlanarF64: planarMap([GRADIENT]),
  gradientInterleavedF64: interleavedMap([GRADIENT]),
  scaledGradientPlanarF64: planarMap([SCALED_GRADIENT]),
  scaledGradientInterleavedF64: interleavedMap([SCALED_GRADIENT]),
  combinationPlanarF64: planarMap([COMBINATION]),
  combinationInterleavedF64: interleavedMap([COMBINATION]),
  pivotF64: testPivot,
  spreadF64: testSpread,
  statisticsF64: testStatistics,
  affineCoefficientsF64: testAffineCoefficients,
  gradientStatisticsF64: testGradientStatistics,
  gradientCoefficientsF64: testGradientCoefficients,

  widenF16: (kernel, arena) => testWiden(kernel, arena, FLOAT16),
  narrowF16: (kernel, arena, { widenF16 }) => testNarrow(kernel, widenF16, arena, FLOAT16),
  widenBF16: (kernel, arena) => testWiden(kernel, arena, BFLOAT16),
  narrowBF16: (kernel, arena, { widenBF16 }) => testNarrow(kernel, widenBF16, arena, BFLOAT16),
};

const arena = new Arena();

/** What holds of any build of a module; returns its instance on the arena's memory. `others` have their tests elsewhere. */
function testModule<K>(bytes: Uint8Array<ArrayBuffer>, tests: Tests<K>, others: readonly string[] = []): K {
  const module = new WebAssembly.Module(bytes);
  const kernels = instantiateKernels<K>(module, arena.memory);
  const names = Object.keys(tests) as (keyof K & string)[];

  it("imports env.memory and nothing else", () => {
    expect(WebAssembly.Module.imports(module)).toEqual([{ module: "env", name: "memory", kind: "memory" }]);
  });

  it("has no data segment and no start function, so it runs on anybody's memory", () => {
    const sections = sectionsOf(bytes);
    expect(sections.has(Section.Code)).toBe(true); // the parser found its way
    expect(sections.has(Section.Start)).toBe(false);
    expect(sections.has(Section.Data)).toBe(false);
  });

  it("exports functions only, each named as the grammar says, and every one has a test here", () => {
    const exports = WebAssembly.Module.exports(module);
    const grammar = /^[a-z][A-Za-z]*F(16|32|64)$|^version$/;
    expect(exports.every((e) => e.kind === "function" && grammar.test(e.name))).toBe(true);
    expect(exports.map((e) => e.name).sort()).toEqual([...names, ...others].sort());
  });

  it.each(names)("%s computes exactly what it says, inside its buffers", (name) => {
    arena.wide = name.endsWith("F64");
    tests[name](kernels[name], arena, kernels);
  });

  it.each(names.filter((name) => name.startsWith("exact")))("%s loses nothing beside large values", (name) => {
    const length = 64;
    // one large value in four, of a column and of the vectors of a plane
    const large = arena.f32(Float32Array.from({ length }, (_, i) => (i >= 12 && i < 16 ? 2 ** 25 : 1)));
    const ones = arena.f32(new Float32Array(length).fill(1));
    const columns = name.includes("Planar") ? 1 : 4;
    const [first, second] = [arena.f64(blank(columns)), arena.f64(blank(columns))];
    const hi = arena.f32([0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1].filter((_, i) => i % 4 < columns)).pointer;
    const sources = name.includes("Moments") ? [large.pointer] : [ones.pointer, large.pointer];
    const activation = name.includes("Activated") ? [1, 0] : [];
    const geometry = columns === 1 ? [1, 1, length, 0, 1] : [columns, length, 0, columns];
    (kernels[name] as Kernel)(...sources, hi, first.pointer, second.pointer, ...activation, ...geometry);
    const sumOf = (value: number) => (4 / columns) * value + (length - 4) / columns;
    expect(first.view).toBeAllclose(new Array<number>(columns).fill(sumOf(2 ** 25)));
    const square = name.includes("Moments") ? 2 ** 50 : 2 ** 25;
    expect(second.view).toBeAllclose(new Array<number>(columns).fill(sumOf(square)));
    arena.close();
  });

  return kernels;
}

describe.each(BUILDS)("the core module, %s build", (build) => {
  testModule(Uint8Array.from(readFileSync(wasmFile(build))), CORE_TESTS);
});

describe("the core module for hosts in other languages", () => {
  testModule(Uint8Array.from(readFileSync(wasmFile("embed"))), CORE_TESTS, WHOLE_OPERATIONS); // see embed.test.ts
});

describe.each(EXTENDED_BUILDS)("the second module, %s build", (build) => {
  const kernels = testModule(Uint8Array.from(readFileSync(wasmFile(build))), EXTENDED_TESTS);

  describe("silu", () => {
    /** silu and its derivative at `z`, in float32. */
    function at(z: readonly number[]) {
      const [x, y, dz] = [arena.f32(z), arena.f32(blank(z.length)), arena.f32(new Float32Array(z.length).fill(1))];
      const matrix = arena.f32([0, 1, 0]).pointer;
      const geometry = [SILU.code, 0, 1, 1, z.length, 0, 1] as const;
      kernels.affineActivatedPlanarF32(x.pointer, 0, y.pointer, matrix, ...geometry);
      kernels.derivativeActivatedPlanarF32(x.pointer, dz.pointer, 0, dz.pointer, matrix, ...geometry);
      arena.close();
      return { x: x.view, y: y.view, dz: dz.view };
    }

    const ulp = (v: number): number => 2 ** (Math.floor(Math.log2(Math.abs(v))) - 23);

    it("is within 4 ulp of the exact one from -87 to 100, its derivative within 4 ulp of the largest term", () => {
      const { x, y, dz } = at(Array.from({ length: 187 * 256 + 1 }, (_, i) => i / 256 - 87));
      let [worst, worstDerivative] = [0, 0];
      x.forEach((z, i) => {
        const sigmoid = 1 / (1 + Math.exp(-z));
        const off = Math.abs((y[i] as number) - SILU.apply(z));
        if (z !== 0) worst = Math.max(worst, off / ulp(SILU.apply(z)));
        const size = sigmoid * Math.max(1, Math.abs(z * (1 - sigmoid)));
        worstDerivative = Math.max(worstDerivative, Math.abs((dz[i] as number) - SILU.derive(1, z)) / ulp(size));
      });
      expect(y[87 * 256]).toBe(0);
      expect(worst).toBeLessThan(4);
      expect(worstDerivative).toBeLessThan(4);
    });

    it("goes to 0 and to z beyond, its derivative to 0 and to 1", () => {
      const far = [88, 89, 100, 104, 1000, 1e10, 1e30, 3.4e38, Number.POSITIVE_INFINITY];
      const below = at(far.map((z) => -z));
      expect(below.y).toBeAllclose(new Float32Array(far.length), { atol: 2e-36 });
      expect(below.dz).toBeAllclose(new Float32Array(far.length), { atol: 2e-36 });
      const above = at(far);
      expect(above.y).toBeAllclose(above.x);
      expect(above.dz).toBeAllclose(new Float32Array(far.length).fill(1));
    });
  });

  describe.each(["planar", "interleaved"] as const)("float64 sums, %s", (walk) => {
    /** Σ u and Σ u·d of one run of values, about 0, alone or as the middle one of three channels. */
    function sums(x: ArrayLike<number>, dy: ArrayLike<number> | undefined, channels: 1 | 3, outer = 1) {
      const c = channels >> 1;
      const inner = x.length / outer;
      const place = (values: ArrayLike<number>) =>
        Float64Array.from({ length: channels * x.length }, (_, at) => {
          const channel = walk === "planar" ? Math.floor(at / inner) % channels : at % channels;
          const n = Math.floor(at / (inner * channels));
          const i = walk === "planar" ? n * inner + (at % inner) : Math.floor(at / channels);
          return channel === c ? (values[i] as number) : 0;
        });
      const inputs = [x, ...(dy ? [dy] : [])].map((values) => arena.f64(place(values)).pointer);
      const [pivot, first, second] = [arena.f64([0, 0, 0]), arena.f64(blank(channels)), arena.f64(blank(channels))];
      const scratch = arena.f64(blank(4 * channels));
      const name = `${dy ? "gradientSums" : "moments"}${walk === "planar" ? "Planar" : "Interleaved"}F64` as const;
      const shape = walk === "planar" ? [outer, channels, inner, 0, channels] : [channels, 0, channels * x.length];
      const to = [pivot.pointer, first.pointer, second.pointer, scratch.pointer];
      (kernels[name] as Kernel)(...inputs, ...to, ...shape);
      const result = { first: first.view[c] as number, second: second.view[c] as number };
      arena.close();
      return result;
    }

    it("keep what rounding takes, so that a large value does not swallow many small ones", () => {
      for (const channels of [1, 3] as const) {
        // 2^54 in one group, and 64 groups with a 1, each of which is less than half a unit of 2^54
        const x = new Float64Array(65 * 32);
        for (let i = 0; i < 65; i++) x[i * 32] = i === 7 ? 2 ** 27 : 1;
        expect(sums(x, undefined, channels).second).toBe(2 ** 54 + 64);
        expect(sums(x, undefined, channels, 65).second).toBe(2 ** 54 + 64);
        const dy = x.map((v) => v ** 2);
        expect(sums(x, dy, channels).first).toBe(2 ** 54 + 64);
        expect(sums(x, dy, channels, 65).first).toBe(2 ** 54 + 64);
      }
    });

    it("are infinite, not NaN, where a value is", () => {
      const x = new Float64Array(100).fill(1);
      const dy = x.map((_, i) => (i === 40 ? Number.POSITIVE_INFINITY : 1));
      expect(sums(x, dy, 1)).toEqual({ first: Number.POSITIVE_INFINITY, second: Number.POSITIVE_INFINITY });
      expect(sums(x.fill(1e200, 50), undefined, 3).second).toBe(Number.POSITIVE_INFINITY);
    });

    it("are within one rounding of the exact sums of 65,536 values", () => {
      const next = random(37);
      const whole = (bits: number) =>
        Float64Array.from({ length: 2 ** 16 }, () => Math.floor((next() - 0.4) * 2 ** bits));
      const [x, dy] = [whole(32), whole(53)];
      const exactly = (f: (i: number) => bigint) => x.reduce((sum, _, i) => sum + f(i), 0n);
      const big = (v: ArrayLike<number>, i: number) => BigInt(v[i] as number);
      const size = exactly((i) => BigInt(Math.abs(dy[i] as number)));
      const off = (got: number, exact: bigint, scale: bigint) =>
        Number(((BigInt(got) - exact) * 2n ** 63n) / scale) / 2 ** 10; // in u
      for (const outer of [1, 256]) {
        const moments = sums(x, undefined, 1, outer);
        const squares = exactly((i) => big(x, i) ** 2n);
        expect(Math.abs(off(moments.second, squares, squares))).toBeLessThan(1.2);
        expect(moments.first).toBe(Number(exactly((i) => big(x, i))));
        const gradients = sums(x, dy, 1, outer);
        expect(
          Math.abs(
            off(
              gradients.first,
              exactly((i) => big(dy, i)),
              size,
            ),
          ),
        ).toBeLessThan(1.2);
      }
    });
  });

  it("statisticsF64 and gradientStatisticsF64 keep what rounding takes when they merge columns", () => {
    arena.wide = true;
    const columns = 65;
    const first = arena.f64(new Float64Array(columns).fill(1));
    first.view[7] = 2 ** 54;
    const zeros = arena.f64(new Float64Array(columns));
    const [a, b, doubtful] = [arena.f64(blank(1)), arena.f64(blank(1)), arena.u8(1)];
    const rest = [doubtful.pointer, 1, 1, columns, columns, 0, 1] as const;
    kernels.statisticsF64(first.pointer, zeros.pointer, zeros.pointer, a.pointer, b.pointer, ...rest);
    expect(a.view[0]).toBe(2 ** 54 + 64);
    const results = [a.pointer, b.pointer] as const;
    kernels.gradientStatisticsF64(first.pointer, zeros.pointer, zeros.pointer, zeros.pointer, ...results, ...rest);
    expect(b.view[0]).toBe(2 ** 54 + 64);
    arena.close();
  });
});

/** As a server sends it. */
async function gzipped(bytes: Uint8Array<ArrayBuffer>): Promise<number> {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("gzip"));
  return (await new Response(stream).arrayBuffer()).byteLength;
}

it.each([
  ["simd", 32, 8],
  ["relaxed", 32, 8],
  ["embed", 32, 8],
  ["standalone", 32, 8],
  ["extended", 80, 16],
] as const)("the %s build is at most %d kB, gzipped %d kB", async (build, kB, gzippedKB) => {
  const bytes = Uint8Array.from(readFileSync(wasmFile(build)));
  expect(bytes.length).toBeLessThanOrEqual(kB * 1024);
  expect(await gzipped(bytes)).toBeLessThanOrEqual(gzippedKB * 1024);
});
