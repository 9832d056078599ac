// Operation × walk × element type → wasm export: the only file that knows an export's name. Arguments are pointers into
// the caller's memory and a Geometry; results stand in memory. Nothing is checked here.

import type { Geometry } from "./geometry.ts";
import type { Exports } from "./module.ts";

/** Sums about a pivot, one pair for each column of the walk. */
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

export class Kernels {
  readonly #e: Exports;

  constructor(exports: Exports) {
    this.#e = exports;
  }

  /** pivot[c] = mean of the first values of channel c. */
  pivot(x: number, pivot: number, g: Geometry): void {
    const block = g.count < GROUPED_FROM ? 1 : PIVOT_BLOCK;
    this.#e.pivotF32(x, pivot, g.outer, g.channels, g.inner, block, 0, g.channels);
  }

  /** Copies rows of one value per channel to rows of one value per column. */
  spread(source: number, target: number, rows: number, g: Geometry): void {
    this.#e.spreadF32(source, target, rows, g.channels, g.spread, g.columns);
  }

  /** Σ d, Σ d² in groups (docs/batchnorm.md, F1, F2). `scratch` holds 2·columns f32. */
  moments(x: number, pivot: number, s: Sums, scratch: number, g: Geometry): void {
    if (g.planar) this.#e.momentsPlanarF32(x, pivot, s.first, s.second, g.outer, g.channels, g.inner, 0, g.channels);
    else this.#e.momentsInterleavedF32(x, pivot, s.first, s.second, scratch, g.columns, 0, g.length);
  }

  /** The same for a range of channels, every value in f64; sums lie in the columns of one period. */
  exactMoments(x: number, pivot: number, s: Sums, g: Geometry, r: ChannelRange): void {
    const e = this.#e;
    if (g.planar) e.exactMomentsPlanarF32(x, pivot, s.first, s.second, g.outer, g.channels, g.inner, r.begin, r.end);
    else
      e.exactMomentsInterleavedF32(
        x,
        pivot,
        s.first,
        s.second,
        g.period,
        g.length,
        r.begin * g.spread,
        r.end * g.spread,
      );
  }

  /** Σ dy, Σ dy·d in groups (docs/batchnorm.md, B1, B2). `scratch` holds 2·columns f32. */
  gradientSums(x: number, dy: number, hi: number, s: Sums, scratch: number, g: Geometry): void {
    if (g.planar)
      this.#e.gradientSumsPlanarF32(x, dy, hi, s.first, s.second, g.outer, g.channels, g.inner, 0, g.channels);
    else this.#e.gradientSumsInterleavedF32(x, dy, hi, s.first, s.second, scratch, g.columns, 0, g.length);
  }

  /** The same for a range of channels, every value in f64; sums lie in the columns of one period. */
  exactGradientSums(x: number, dy: number, hi: number, s: Sums, g: Geometry, r: ChannelRange): void {
    const e = this.#e;
    if (g.planar)
      e.exactGradientSumsPlanarF32(x, dy, hi, s.first, s.second, g.outer, g.channels, g.inner, r.begin, r.end);
    else
      e.exactGradientSumsInterleavedF32(
        x,
        dy,
        hi,
        s.first,
        s.second,
        g.period,
        g.length,
        r.begin * g.spread,
        r.end * g.spread,
      );
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
  affine(x: number, y: number, coefficients: number, g: Geometry): void {
    if (g.planar) this.#e.affinePlanarF32(x, y, coefficients, g.outer, g.channels, g.inner, 0, g.channels);
    else this.#e.affineInterleavedF32(x, y, coefficients, g.columns, 0, g.length);
  }

  /** dx = ((x − hi)·slope + (dy + shift))·scale (docs/batchnorm.md, B6). */
  gradient(x: number, dy: number, dx: number, coefficients: number, g: Geometry): void {
    if (g.planar) this.#e.gradientPlanarF32(x, dy, dx, coefficients, g.outer, g.channels, g.inner, 0, g.channels);
    else this.#e.gradientInterleavedF32(x, dy, dx, coefficients, g.columns, 0, g.length);
  }
}
