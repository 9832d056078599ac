// Operation × walk × element type → wasm export: the only file that knows an export's name. Arguments are pointers into
// the caller's memory and a Geometry; results stand in memory. Nothing is checked here.

import { MAX_CALLS } from "./board.ts";
import type { Dtype } from "./dtype.ts";
import { elementsOf, type Geometry, type Part } from "./geometry.ts";
import type { Exports, ExtendedExports } from "./module.ts";
import type { Pool } from "./threads.ts";

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

/** How sums of a tensor are first taken. float64 has one way, which keeps what rounding takes. */
export function precisionOf(g: Geometry, wide: boolean): "grouped" | "fours" | "exact" {
  if (wide) return "grouped";
  if (g.count >= GROUPED_FROM) return "grouped";
  return g.count >= (g.planar ? FOURS_FROM.planar : FOURS_FROM.interleaved) ? "fours" : "exact";
}

/**
 * Values of a channel whose mean is its pivot. Exact sums do with one. In grouped sums one alone can be an outlier, which
 * would have the channel summed twice; more than these cost more than they help.
 */
const PIVOT_BLOCK = 16;

/** First values of a channel whose mean is its pivot. */
export const pivotBlock = (g: Geometry, wide: boolean): number => (precisionOf(g, wide) === "exact" ? 1 : PIVOT_BLOCK);

/** Arguments of one call of an export. */
type Call = readonly number[];

type All = Exports & ExtendedExports;

/** Names of exports without their type of elements. */
type Operation = keyof All extends infer K ? (K extends `${infer Name}F32` ? Name : never) : never;

/** An export that a pool may call on several threads, each time for another range. */
type Divisible = Extract<Operation, `${string}${"Planar" | "Interleaved"}`>;

const walksOf = <M extends string>(map: M) =>
  ({ inPlanes: `${map}Planar`, inRows: `${map}Interleaved` }) as const satisfies Record<string, string>;

/** Names of the maps in either walk: put together here, they are not in every call. */
const MAPS = {
  affine: walksOf("affine"),
  affineActivated: walksOf("affineActivated"),
  derivativeActivated: walksOf("derivativeActivated"),
  gradient: walksOf("gradient"),
  gradientActivated: walksOf("gradientActivated"),
  scaledGradient: walksOf("scaledGradient"),
  combination: walksOf("combination"),
};

/** What kernels need of a memory to write vectors into it. */
interface Views {
  readonly f32: Float32Array;
  readonly f64: Float64Array;
  readonly u8: Uint8Array;
}

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
  /** Whether elements are float64; they are float32 otherwise. */
  readonly wide: boolean;
  /** Bytes of an element. */
  readonly bytes: number;
  readonly #suffix: "F32" | "F64";
  readonly #core: Exports;
  readonly #extended: () => ExtendedExports;
  readonly #calls = new Map<Operation, (...call: Call) => number>();
  /** Threads that share in calls on tensors of so many elements, if there are any. */
  pool: Pool | undefined;
  parallelFrom = PARALLEL_FROM;

  /** `extended` is asked for when the first kernel is needed that is not in `core`. */
  constructor(core: Exports, extended: () => ExtendedExports, wide = false) {
    this.wide = wide;
    this.bytes = wide ? 8 : 4;
    this.#suffix = wide ? "F64" : "F32";
    this.#core = core;
    this.#extended = extended;
  }

  #kernel(operation: Operation): (...call: Call) => number {
    let kernel = this.#calls.get(operation);
    if (!kernel) {
      const name = operation + this.#suffix;
      const exports = name in this.#core ? this.#core : this.#extended();
      kernel = (exports as unknown as Record<string, (...call: Call) => number>)[name] as (...call: Call) => number;
      this.#calls.set(operation, kernel);
    }
    return kernel;
  }

  #run(operation: Divisible, calls: readonly Call[]): void {
    if (this.pool && calls.length > 1) {
      const name = operation + this.#suffix;
      if (this.pool.has(name)) {
        for (let i = 0; i < calls.length; i += MAX_CALLS) this.pool.run(name, calls.slice(i, i + MAX_CALLS));
        return;
      }
    }
    const kernel = this.#kernel(operation);
    for (const call of calls) kernel(...call);
  }

  /** How a part is walked and summed, and into how many calls the work on it is divided. */
  #plan({ g }: Part): { planar: boolean; fours: boolean; pieces: number } {
    const pieces = this.pool && g.length >= this.parallelFrom ? Math.min(this.pool.threads * PIECES, MAX_CALLS) : 1;
    return { planar: g.planar, fours: precisionOf(g, this.wide) === "fours", pieces };
  }

  /** Writes values as elements. */
  write(heap: Views, pointer: number, values: ArrayLike<number>): void {
    if (this.wide) heap.f64.set(values, pointer / 8);
    else heap.f32.set(values, pointer / 4);
  }

  /** Copies elements. */
  copy({ u8 }: Views, target: number, source: number, length: number): void {
    u8.copyWithin(target, source, source + length * this.bytes);
  }

  /** 16-bit elements to float32. */
  widen(dtype: Dtype, source: number, target: number, length: number): void {
    const extended = this.#extended();
    (dtype === "float16" ? extended.widenF16 : extended.widenBF16)(source, target, 0, length);
  }

  /** float32 to 16-bit elements, to the nearest, ties to even. */
  narrow(dtype: Dtype, source: number, target: number, length: number): void {
    const extended = this.#extended();
    (dtype === "float16" ? extended.narrowF16 : extended.narrowBF16)(source, target, 0, length);
  }

  /** pivot[c] = mean of the first values of channel c. */
  pivot(x: number, pivot: number, g: Geometry): void {
    this.#kernel("pivot")(x, pivot, g.outer, g.channels, g.inner, pivotBlock(g, this.wide), 0, g.channels);
  }

  /** Copies rows of one value per channel to rows of one value per column. */
  spread(source: number, target: number, rows: number, g: Geometry, columns = g.columns): void {
    this.#kernel("spread")(source, target, rows, g.channels, g.spread, columns);
  }

  /**
   * Σ d, Σ d² in groups or fours (docs/batchnorm.md, F1, F2). `scratch` holds 2·columns elements for each stripe, and
   * 4·columns of float64.
   */
  moments(x: number, pivot: number, s: Sums, scratch: number, part: Part): void {
    const { planar, fours, pieces } = this.#plan(part);
    if (planar) {
      const calls = planes([x, pivot, s.first, s.second, ...this.#kept(scratch)], part, pieces);
      this.#run(fours ? "foursMomentsPlanar" : "momentsPlanar", calls);
    } else if (fours) this.#run("foursMomentsInterleaved", this.#columnStripes([x], pivot, s, part, pieces));
    else this.#run("momentsInterleaved", this.#stripes([x, pivot], s, scratch, [], part));
  }

  /** Σ dy, Σ dy·d in the same way (docs/batchnorm.md, B1, B2). */
  gradientSums(x: number, dy: number, hi: number, s: Sums, scratch: number, part: Part): void {
    const { planar, fours, pieces } = this.#plan(part);
    if (planar) {
      const calls = planes([x, dy, hi, s.first, s.second, ...this.#kept(scratch)], part, pieces);
      this.#run(fours ? "foursGradientSumsPlanar" : "gradientSumsPlanar", calls);
    } else if (fours) this.#run("foursGradientSumsInterleaved", this.#columnStripes([x, dy], hi, s, part, pieces));
    else this.#run("gradientSumsInterleaved", this.#stripes([x, dy, hi], s, scratch, [], part));
  }

  /** The same of dz = dy·f′(z), with the affine map's matrix for z; its first row is hi. */
  gradientSumsActivated(
    x: number,
    dy: number,
    matrix: number,
    s: Sums,
    scratch: number,
    code: number,
    parameters: number,
    part: Part,
  ): void {
    const { planar, fours, pieces } = this.#plan(part);
    const more = [code, parameters];
    if (planar) {
      const calls = planes([x, dy, matrix, s.first, s.second, ...more], part, pieces);
      this.#run(fours ? "foursGradientSumsActivatedPlanar" : "gradientSumsActivatedPlanar", calls);
    } else if (fours) {
      const calls = this.#columnStripes([x, dy], matrix, s, part, pieces, undefined, more);
      this.#run("foursGradientSumsActivatedInterleaved", calls);
    } else this.#run("gradientSumsActivatedInterleaved", this.#stripes([x, dy, matrix], s, scratch, more, part));
  }

  /** The scratch that only float64 takes in the planar walk. */
  #kept(scratch: number): Call {
    return this.wide ? [scratch] : [];
  }

  /** As moments, for a range of channels, every value in f64; sums lie in the columns of one period per stripe. */
  exactMoments(x: number, pivot: number, s: Sums, part: Part, r: Range): void {
    const { planar, pieces } = this.#plan(part);
    if (planar) this.#run("exactMomentsPlanar", planes([x, pivot, s.first, s.second], part, pieces, r));
    else this.#run("exactMomentsInterleaved", this.#columnStripes([x], pivot, s, part, pieces, r));
  }

  /** As gradientSums, in the same way. */
  exactGradientSums(x: number, dy: number, hi: number, s: Sums, part: Part, r: Range): void {
    const { planar, pieces } = this.#plan(part);
    if (planar) this.#run("exactGradientSumsPlanar", planes([x, dy, hi, s.first, s.second], part, pieces, r));
    else this.#run("exactGradientSumsInterleaved", this.#columnStripes([x, dy], hi, s, part, pieces, r));
  }

  /** As gradientSumsActivated, in the same way. */
  exactGradientSumsActivated(
    x: number,
    dy: number,
    matrix: number,
    s: Sums,
    code: number,
    parameters: number,
    part: Part,
    r: Range,
  ): void {
    const { planar, pieces } = this.#plan(part);
    const more = [code, parameters];
    if (planar) {
      const calls = planes([x, dy, matrix, s.first, s.second, ...more], part, pieces, r);
      this.#run("exactGradientSumsActivatedPlanar", calls);
    } else {
      const calls = this.#columnStripes([x, dy], matrix, s, part, pieces, r, more);
      this.#run("exactGradientSumsActivatedInterleaved", calls);
    }
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
    const sizes = [g.count, g.channels, g.spread, columns, r.begin, r.end];
    return this.#kernel("statistics")(s.first, s.second, pivot, mean, variance, doubtful, ...sizes);
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
    const sizes = [g.count, g.channels, g.spread, columns, r.begin, r.end];
    return this.#kernel("gradientStatistics")(s.first, s.second, mean, invStd, dGamma, dBeta, doubtful, ...sizes);
  }

  /** variance → invStd, f64. */
  invStd(variance: number, invStd: number, epsilon: number, channels: number): void {
    this.#core.invStdF64(variance, invStd, epsilon, 0, channels);
  }

  /** The three rows that `affine` takes; mean, gamma, beta may be 0 for none. */
  affineCoefficients(c: number, mean: number, invStd: number, gamma: number, beta: number, channels: number): void {
    this.#kernel("affineCoefficients")(c, mean, invStd, gamma, beta, channels, 0, channels);
  }

  /** The four rows that `gradient` takes, for sums over `count` values; gamma may be 0 for none. */
  gradientCoefficients(
    c: number,
    mean: number,
    invStd: number,
    gamma: number,
    dGamma: number,
    dBeta: number,
    count: number,
    channels: number,
  ): void {
    this.#kernel("gradientCoefficients")(c, mean, invStd, gamma, dGamma, dBeta, count, channels, 0, channels);
  }

  /** A map in either walk: `pointers` are sources, the result and the coefficients. */
  #map(operation: keyof typeof MAPS, pointers: Call, sources: number, part: Part): void {
    const { planar, pieces } = this.#plan(part);
    const { inPlanes, inRows } = MAPS[operation];
    if (planar) this.#run(inPlanes, planes(pointers, part, pieces));
    else this.#run(inRows, rows(pointers, (sources + 1) * this.bytes, part, pieces));
  }

  /** y = (x − hi)·scale + shift (docs/batchnorm.md, F7). */
  affine(x: number, y: number, coefficients: number, part: Part): void {
    this.#map("affine", [x, y, coefficients], 1, part);
  }

  /** y = f(z + residual), z as in `affine`; residual may be 0 for none. */
  affineActivated(
    x: number,
    residual: number,
    y: number,
    coefficients: number,
    code: number,
    parameters: number,
    part: Part,
  ): void {
    this.#map("affineActivated", [x, residual, y, coefficients, code, parameters], residual ? 2 : 1, part);
  }

  /** dz = dy·f′(z + residual), in the same way. */
  derivative(
    x: number,
    dy: number,
    residual: number,
    dz: number,
    coefficients: number,
    code: number,
    parameters: number,
    part: Part,
  ): void {
    const pointers = [x, dy, residual, dz, coefficients, code, parameters];
    this.#map("derivativeActivated", pointers, residual ? 3 : 2, part);
  }

  /** dx = ((x − hi)·slope + (dy + shift))·scale (docs/batchnorm.md, B6). */
  gradient(x: number, dy: number, dx: number, coefficients: number, part: Part): void {
    this.#map("gradient", [x, dy, dx, coefficients], 2, part);
  }

  /** The same of dz = dy·f′(z); the coefficients' fifth row is the shift of z. */
  gradientActivated(
    x: number,
    dy: number,
    dx: number,
    coefficients: number,
    code: number,
    parameters: number,
    part: Part,
  ): void {
    this.#map("gradientActivated", [x, dy, dx, coefficients, code, parameters], 2, part);
  }

  /** The same of dy·gamma; gamma is the coefficients' fifth row. */
  scaledGradient(x: number, dy: number, dx: number, coefficients: number, part: Part): void {
    this.#map("scaledGradient", [x, dy, dx, coefficients], 2, part);
  }

  /** y = (x − hi)·scale + b·slope + c·more + shift. */
  combination(x: number, b: number, c: number, y: number, coefficients: number, part: Part): void {
    this.#map("combination", [x, b, c, y, coefficients], 3, part);
  }

  /** Calls for each stripe of a part, with sums and scratch of its own. */
  #stripes(pointers: Call, s: Sums, scratch: number, more: Call, { g, from, to }: Part): Call[] {
    const calls: Call[] = [];
    for (let i = from; i < to; i++) {
      const { begin, end } = elementsOf({ g, channel: 0, from: i, to: i + 1 });
      const sums = i * g.columns * 8;
      const own = scratch + sums * (this.wide ? 4 : 1);
      calls.push([...pointers, s.first + sums, s.second + sums, own, ...more, g.columns, begin, end]);
    }
    return calls;
  }

  /** Columns are independent of each other, so pieces are of columns. */
  #columnStripes(
    sources: Call,
    pivot: number,
    s: Sums,
    { g, from, to }: Part,
    pieces: number,
    range: Range = { begin: 0, end: g.channels },
    more: Call = [],
  ): Call[] {
    const columns = divide({ begin: range.begin * g.spread, end: range.end * g.spread }, pieces, LINE);
    const calls: Call[] = [];
    for (let i = from; i < to; i++) {
      const { begin, end } = elementsOf({ g, channel: 0, from: i, to: i + 1 });
      const sums = i * g.period * 8;
      for (const c of columns) {
        const call = sources.map((pointer) => pointer + begin * this.bytes);
        call.push(pivot, s.first + sums, s.second + sums, ...more, g.period, end - begin, c.begin, c.end);
        calls.push(call);
      }
    }
    return calls;
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

/** Calls of a map; `bytes` are those of an element of all sources and the result. */
function rows(pointers: Call, bytes: number, part: Part, pieces: number): Call[] {
  const { g } = part;
  const together = g.length * bytes <= IN_CACHE || part.to - part.from < g.stripes ? 4 : 1;
  const ranges = divide(elementsOf(part), pieces, g.columns);
  return ranges.map(({ begin, end }) => [...pointers, g.columns, together, begin, end]);
}
