// Operation × walk × element type → wasm export: the only file that knows an export's name. Arguments are pointers into
// the caller's memory and a Geometry; results stand in memory. Nothing is checked here.

import { elementsOf, type Geometry, type Part } from "./geometry.ts";
import type { Exports } from "./module.ts";

/** Sums about a pivot, one pair for each column of each stripe. */
export interface Sums {
  /** Σ u, f64 */
  readonly first: number;
  /** Σ u·d, f64 */
  readonly second: number;
}

/** Channels [begin, end). */
export interface ChannelRange {
  readonly begin: number;
  readonly end: number;
}

/**
 * Fewer values per channel than this are summed exactly: the rounding of a grouped sum averages out over the groups, and
 * with fewer it would show. docs/numerics.md has the errors on both sides.
 */
export const GROUPED_FROM = 1024;

/**
 * Values of a channel whose mean is its pivot. Exact sums do with one. In grouped sums one alone can be an outlier, which
 * would have the channel summed twice; more than these cost more than they help.
 */
const PIVOT_BLOCK = 16;

/** First values of a channel whose mean is its pivot. */
export const pivotBlock = (g: Geometry): number => (g.count < GROUPED_FROM ? 1 : PIVOT_BLOCK);

/** Arguments of one call of an export. */
type Call = readonly number[];

/** An export that a pool may call on several threads, each time for another range. */
type Divisible = Extract<keyof Exports, `${string}${"Planar" | "Interleaved"}F32`>;

export class Kernels {
  readonly #e: Exports;

  constructor(exports: Exports) {
    this.#e = exports;
  }

  #run(name: Divisible, calls: readonly Call[]): void {
    const kernel = this.#e[name] as (...call: Call) => void;
    for (const call of calls) kernel(...call);
  }

  /** pivot[c] = mean of the first values of channel c. */
  pivot(x: number, pivot: number, g: Geometry): void {
    this.#e.pivotF32(x, pivot, g.outer, g.channels, g.inner, pivotBlock(g), 0, g.channels);
  }

  /** Copies rows of one value per channel to rows of one value per column. */
  spread(source: number, target: number, rows: number, g: Geometry): void {
    this.#e.spreadF32(source, target, rows, g.channels, g.spread, g.columns);
  }

  /** Σ d, Σ d² in groups (docs/batchnorm.md, F1, F2). `scratch` holds 2·columns f32 for each stripe. */
  moments(x: number, pivot: number, s: Sums, scratch: number, part: Part): void {
    if (part.g.planar) this.#run("momentsPlanarF32", planar([x, pivot, s.first, s.second], part));
    else this.#run("momentsInterleavedF32", stripes([x, pivot], s, scratch, part));
  }

  /** Σ dy, Σ dy·d in groups (docs/batchnorm.md, B1, B2). `scratch` holds 2·columns f32 for each stripe. */
  gradientSums(x: number, dy: number, hi: number, s: Sums, scratch: number, part: Part): void {
    if (part.g.planar) this.#run("gradientSumsPlanarF32", planar([x, dy, hi, s.first, s.second], part));
    else this.#run("gradientSumsInterleavedF32", stripes([x, dy, hi], s, scratch, part));
  }

  /** As moments, for a range of channels, every value in f64; sums lie in the columns of one period per stripe. */
  exactMoments(x: number, pivot: number, s: Sums, part: Part, r: ChannelRange): void {
    if (part.g.planar) this.#run("exactMomentsPlanarF32", planar([x, pivot, s.first, s.second], part, r));
    else this.#run("exactMomentsInterleavedF32", exactStripes([x], pivot, s, part, r));
  }

  /** As gradientSums, in the same way. */
  exactGradientSums(x: number, dy: number, hi: number, s: Sums, part: Part, r: ChannelRange): void {
    if (part.g.planar) this.#run("exactGradientSumsPlanarF32", planar([x, dy, hi, s.first, s.second], part, r));
    else this.#run("exactGradientSumsInterleavedF32", exactStripes([x, dy], hi, s, part, r));
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
    r: ChannelRange,
  ): number {
    const { first, second } = s;
    const { count, channels, spread } = g;
    return this.#e.statisticsF32(
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
    r: ChannelRange,
  ): number {
    const { first, second } = s;
    const { count, channels, spread } = g;
    return this.#e.gradientStatisticsF32(
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
    this.#e.invStdF64(variance, invStd, epsilon, 0, channels);
  }

  /** The three rows that `affine` takes; mean, gamma, beta may be 0 for none. */
  affineCoefficients(c: number, mean: number, invStd: number, gamma: number, beta: number, channels: number): void {
    this.#e.affineCoefficientsF32(c, mean, invStd, gamma, beta, channels, 0, channels);
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
    this.#e.gradientCoefficientsF32(c, mean, invStd, gamma, dGamma, dBeta, g.count, g.channels, 0, g.channels);
  }

  /** y = (x − hi)·scale + shift (docs/batchnorm.md, F7). */
  affine(x: number, y: number, coefficients: number, part: Part): void {
    if (part.g.planar) this.#run("affinePlanarF32", planar([x, y, coefficients], part));
    else this.#run("affineInterleavedF32", rows([x, y, coefficients], part));
  }

  /** dx = ((x − hi)·slope + (dy + shift))·scale (docs/batchnorm.md, B6). */
  gradient(x: number, dy: number, dx: number, coefficients: number, part: Part): void {
    if (part.g.planar) this.#run("gradientPlanarF32", planar([x, dy, dx, coefficients], part));
    else this.#run("gradientInterleavedF32", rows([x, dy, dx, coefficients], part));
  }
}

const planar = (pointers: Call, { g }: Part, r: ChannelRange = { begin: 0, end: g.channels }): Call[] => [
  [...pointers, g.outer, g.channels, g.inner, r.begin, r.end],
];

const rows = (pointers: Call, part: Part): Call[] => {
  const { begin, end } = elementsOf(part);
  return [[...pointers, part.g.columns, begin, end]];
};

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

function exactStripes(sources: Call, pivot: number, s: Sums, { g, from, to }: Part, r: ChannelRange): Call[] {
  const calls: Call[] = [];
  for (let i = from; i < to; i++) {
    const { begin, end } = elementsOf({ g, channel: 0, from: i, to: i + 1 });
    const sums = i * g.period * 8;
    const own = sources.map((pointer) => pointer + begin * 4);
    const columns = [r.begin * g.spread, r.end * g.spread];
    calls.push([...own, pivot, s.first + sums, s.second + sums, g.period, end - begin, ...columns]);
  }
  return calls;
}
