// Operation × walk × element type → wasm export: the only file that knows an export's name. Arguments are pointers into
// the caller's memory and a Geometry; results stand in memory. Nothing is checked here.

import { elementsOf, type Geometry, type Part } from "./geometry.ts";
import type { Exports } from "./module.ts";
import { MAX_CALLS, type Pool } from "./threads.ts";

/** Sums about a pivot, one pair for each column of each stripe. */
export interface Sums {
  /** Σ u, f64 */
  readonly first: number;
  /** Σ u·d, f64 */
  readonly second: number;
}

/** Channels, columns or elements [begin, end). */
export interface Range {
  readonly begin: number;
  readonly end: number;
}

/**
 * From so many values per channel on, sums are taken in groups, and from so many in fours: the rounding of a group averages
 * out over the groups. Fewer values are summed exactly, since there it would show. docs/numerics.md has the errors.
 */
export const GROUPED_FROM = 1024;
const FOURS_FROM = { planar: 512, interleaved: 128 };

/** How sums of a tensor are first taken. */
export function precisionOf(g: Geometry): "grouped" | "fours" | "exact" {
  if (g.count >= GROUPED_FROM) return "grouped";
  return g.count >= (g.planar ? FOURS_FROM.planar : FOURS_FROM.interleaved) ? "fours" : "exact";
}

/**
 * Values of a channel whose mean is its pivot. Exact sums do with one. In grouped sums one alone can be an outlier, which
 * would have the channel summed twice; more than these cost more than they help.
 */
const PIVOT_BLOCK = 16;

/** First values of a channel whose mean is its pivot. */
export const pivotBlock = (g: Geometry): number => (precisionOf(g) === "exact" ? 1 : PIVOT_BLOCK);

/** Arguments of one call of an export. */
type Call = readonly number[];

/** An export that a pool may call on several threads, each time for another range. */
type Divisible = Extract<keyof Exports, `${string}${"Planar" | "Interleaved"}F32`>;

/**
 * Bytes of sources and result up to which the interleaved map takes four rows at a time: where they come from memory,
 * one stream is faster than four. docs/numerics.md has the measurements.
 */
const IN_CACHE = 2 ** 24;

/** Smaller tensors are not worth waking a thread for. docs/numerics.md has the measurements. */
const PARALLEL_FROM = 131_072;

/** Pieces per thread: with one each, all would wait for the thread that was interrupted. */
const PIECES = 2;

/** Columns that threads share out among them start at a multiple of this: a cache line of float32. */
const LINE = 16;

export class Kernels {
  readonly exports: Exports;
  /** Threads that share in calls on tensors of so many elements, if there are any. */
  pool: Pool | undefined;
  parallelFrom = PARALLEL_FROM;

  constructor(exports: Exports) {
    this.exports = exports;
  }

  #run(name: Divisible, calls: readonly Call[]): void {
    if (this.pool && calls.length > 1) {
      for (let i = 0; i < calls.length; i += MAX_CALLS) this.pool.run(name, calls.slice(i, i + MAX_CALLS));
      return;
    }
    const kernel = this.exports[name] as (...call: Call) => void;
    for (const call of calls) kernel(...call);
  }

  /** How a part is walked and summed, and into how many calls the work on it is divided. */
  #plan({ g }: Part): { planar: boolean; fours: boolean; pieces: number } {
    const pieces = this.pool && g.length >= this.parallelFrom ? Math.min(this.pool.threads * PIECES, MAX_CALLS) : 1;
    return { planar: g.planar, fours: precisionOf(g) === "fours", pieces };
  }

  /** pivot[c] = mean of the first values of channel c. */
  pivot(x: number, pivot: number, g: Geometry): void {
    this.exports.pivotF32(x, pivot, g.outer, g.channels, g.inner, pivotBlock(g), 0, g.channels);
  }

  /** Copies rows of one value per channel to rows of one value per column. */
  spread(source: number, target: number, rows: number, g: Geometry): void {
    this.exports.spreadF32(source, target, rows, g.channels, g.spread, g.columns);
  }

  /** Σ d, Σ d² in groups or fours (docs/batchnorm.md, F1, F2). `scratch` holds 2·columns f32 for each stripe. */
  moments(x: number, pivot: number, s: Sums, scratch: number, part: Part): void {
    const { planar, fours, pieces } = this.#plan(part);
    if (planar) {
      const calls = planes([x, pivot, s.first, s.second], part, pieces);
      this.#run(fours ? "foursMomentsPlanarF32" : "momentsPlanarF32", calls);
    } else if (fours) this.#run("foursMomentsInterleavedF32", columnStripes([x], pivot, s, part, pieces));
    else this.#run("momentsInterleavedF32", stripes([x, pivot], s, scratch, part));
  }

  /** Σ dy, Σ dy·d in the same way (docs/batchnorm.md, B1, B2). */
  gradientSums(x: number, dy: number, hi: number, s: Sums, scratch: number, part: Part): void {
    const { planar, fours, pieces } = this.#plan(part);
    if (planar) {
      const calls = planes([x, dy, hi, s.first, s.second], part, pieces);
      this.#run(fours ? "foursGradientSumsPlanarF32" : "gradientSumsPlanarF32", calls);
    } else if (fours) this.#run("foursGradientSumsInterleavedF32", columnStripes([x, dy], hi, s, part, pieces));
    else this.#run("gradientSumsInterleavedF32", stripes([x, dy, hi], s, scratch, part));
  }

  /** As moments, for a range of channels, every value in f64; sums lie in the columns of one period per stripe. */
  exactMoments(x: number, pivot: number, s: Sums, part: Part, r: Range): void {
    if (part.g.planar)
      this.#run("exactMomentsPlanarF32", planes([x, pivot, s.first, s.second], part, this.#plan(part).pieces, r));
    else this.#run("exactMomentsInterleavedF32", columnStripes([x], pivot, s, part, this.#plan(part).pieces, r));
  }

  /** As gradientSums, in the same way. */
  exactGradientSums(x: number, dy: number, hi: number, s: Sums, part: Part, r: Range): void {
    if (part.g.planar)
      this.#run("exactGradientSumsPlanarF32", planes([x, dy, hi, s.first, s.second], part, this.#plan(part).pieces, r));
    else this.#run("exactGradientSumsInterleavedF32", columnStripes([x, dy], hi, s, part, this.#plan(part).pieces, r));
  }

  /** Sums → mean and variance, f64; returns how many channels of the range a grouped sum is not good enough for. */
  statistics(
    s: Sums,
    pivot: number,
    mean: number,
    variance: number,
    doubtful: number,
    g: Geometry,
    columns: number,
    r: Range,
  ): number {
    const { first, second } = s;
    const { count, channels, spread } = g;
    return this.exports.statisticsF32(
      first,
      second,
      pivot,
      mean,
      variance,
      doubtful,
      count,
      channels,
      spread,
      columns,
      r.begin,
      r.end,
    );
  }

  /** Sums → dGamma and dBeta, f64; returns as `statistics` does. */
  gradientStatistics(
    s: Sums,
    mean: number,
    invStd: number,
    dGamma: number,
    dBeta: number,
    doubtful: number,
    g: Geometry,
    columns: number,
    r: Range,
  ): number {
    const { first, second } = s;
    const { count, channels, spread } = g;
    return this.exports.gradientStatisticsF32(
      first,
      second,
      mean,
      invStd,
      dGamma,
      dBeta,
      doubtful,
      count,
      channels,
      spread,
      columns,
      r.begin,
      r.end,
    );
  }

  /** variance → invStd, f64. */
  invStd(variance: number, invStd: number, epsilon: number, channels: number): void {
    this.exports.invStdF64(variance, invStd, epsilon, 0, channels);
  }

  /** The three rows that `affine` takes; mean, gamma, beta may be 0 for none. */
  affineCoefficients(c: number, mean: number, invStd: number, gamma: number, beta: number, channels: number): void {
    this.exports.affineCoefficientsF32(c, mean, invStd, gamma, beta, channels, 0, channels);
  }

  /** The four rows that `gradient` takes; gamma may be 0 for none. */
  gradientCoefficients(
    c: number,
    mean: number,
    invStd: number,
    gamma: number,
    dGamma: number,
    dBeta: number,
    g: Geometry,
  ): void {
    this.exports.gradientCoefficientsF32(c, mean, invStd, gamma, dGamma, dBeta, g.count, g.channels, 0, g.channels);
  }

  /** y = (x − hi)·scale + shift (docs/batchnorm.md, F7). */
  affine(x: number, y: number, coefficients: number, part: Part): void {
    if (part.g.planar) this.#run("affinePlanarF32", planes([x, y, coefficients], part, this.#plan(part).pieces));
    else this.#run("affineInterleavedF32", rows([x, y, coefficients], part, this.#plan(part).pieces));
  }

  /** dx = ((x − hi)·slope + (dy + shift))·scale (docs/batchnorm.md, B6). */
  gradient(x: number, dy: number, dx: number, coefficients: number, part: Part): void {
    if (part.g.planar) this.#run("gradientPlanarF32", planes([x, dy, dx, coefficients], part, this.#plan(part).pieces));
    else this.#run("gradientInterleavedF32", rows([x, dy, dx, coefficients], part, this.#plan(part).pieces));
  }
}

/** [begin, end) in at most `pieces` pieces, whose bounds are multiples of `unit` from begin. */
function divide({ begin, end }: Range, pieces: number, unit = 1): Range[] {
  const size = Math.ceil((end - begin) / unit / pieces) * unit;
  const ranges: Range[] = [];
  for (let at = begin; at < end; at += size) ranges.push({ begin: at, end: Math.min(at + size, end) });
  return ranges;
}

const planes = (pointers: Call, { g }: Part, pieces: number, r: Range = { begin: 0, end: g.channels }): Call[] =>
  divide(r, pieces).map(({ begin, end }) => [...pointers, g.outer, g.channels, g.inner, begin, end]);

/** Calls of a map: pointers are the sources, the result and the coefficients. */
function rows(pointers: Call, part: Part, pieces: number): Call[] {
  const { g } = part;
  const bytes = g.length * 4 * (pointers.length - 1);
  const together = bytes <= IN_CACHE || part.to - part.from < g.stripes ? 4 : 1;
  const ranges = divide(elementsOf(part), pieces, g.columns);
  return ranges.map(({ begin, end }) => [...pointers, g.columns, together, begin, end]);
}

/** Calls for each stripe of a part, with sums and scratch of its own. */
function stripes(pointers: Call, s: Sums, scratch: number, { g, from, to }: Part): Call[] {
  const calls: Call[] = [];
  for (let i = from; i < to; i++) {
    const { begin, end } = elementsOf({ g, channel: 0, from: i, to: i + 1 });
    const sums = i * g.columns * 8;
    calls.push([...pointers, s.first + sums, s.second + sums, scratch + sums, g.columns, begin, end]);
  }
  return calls;
}

/** Columns are independent of each other, so pieces are of columns. */
function columnStripes(sources: Call, pivot: number, s: Sums, part: Part, pieces: number, range?: Range): Call[] {
  const { g, from, to } = part;
  const r = range ?? { begin: 0, end: g.channels };
  const columns = divide({ begin: r.begin * g.spread, end: r.end * g.spread }, pieces, LINE);
  const calls: Call[] = [];
  for (let i = from; i < to; i++) {
    const { begin, end } = elementsOf({ g, channel: 0, from: i, to: i + 1 });
    const sums = i * g.period * 8;
    const own = sources.map((pointer) => pointer + begin * 4);
    for (const c of columns)
      calls.push([...own, pivot, s.first + sums, s.second + sums, g.period, end - begin, c.begin, c.end]);
  }
  return calls;
}
