// Runs the phases of a plan on the wasm modules, through the thread pool where there is one. The only file that knows an
// export's name. Arguments are addresses in the caller's memory and a plan; results stand in memory. Nothing is checked here.

import type { Dtype } from "../tensor/dtype.ts";
import type { Exports, ExtendedExports } from "./module.ts";
import { MAX_CALLS } from "./threads/job-board.ts";
import type { Pool } from "./threads/pool.ts";

/** Units or channels [begin, end). */
export interface Range {
  readonly begin: number;
  readonly end: number;
}

/** Flags of a plan: tensors pass through memory tile by tile, and a single channel stays a plane. */
export const TILED = 1;
export const PLANES = 2;

/**
 * Reads the plan that the kernels wrote to an address: how a tensor is walked and summed, and where its vectors are. Fields
 * are unsigned 32-bit numbers in the order of class Plan in assembly/plan.ts (docs/abi.md).
 */
export function readPlan(u32: Uint32Array, pointer: number) {
  let at = pointer / 4;
  const next = () => u32[at++] as number;
  return {
    pointer,
    elementBytes: next(),
    outer: next(),
    channels: next(),
    inner: next(),
    length: next(),
    planar: next(),
    columnsPerChannel: next(),
    period: next(),
    columns: next(),
    rows: next(),
    stripe: next(),
    stripes: next(),
    precision: next(),
    columnBlock: next(),
    columnBlocks: next(),
    pitch: next(),
    tiled: next(),
    mean: next(),
    variance: next(),
    invStd: next(),
    dGamma: next(),
    dBeta: next(),
    sum: next(),
    dot: next(),
    coefficients: next(),
    scratch: next(),
    gamma: next(),
    beta: next(),
    parameters: next(),
    unreliable: next(),
  };
}

export type Plan = Readonly<ReturnType<typeof readPlan>>;

/** Numbers of operations, maps and phases as the kernels take them (docs/abi.md). */
export const MOMENTS = 0;
export const GRADIENTS = 1;
/** Added to an operation: take the sums again. */
export const AGAIN = 2;
export const AFFINE = 0;
export const GRADIENT = 1;
export const CONSTANT_GRADIENT = 2;
export const SCALED_GRADIENT = 3;
export const COMBINATION = 4;
export const DERIVATIVE = 5;

/** The precision in which sums are first taken stripe by stripe; in others they are taken column by column. */
const BLOCKED_64 = 0;

/** The channels of neighbouring tiles. */
export function channelsOf({ planar, channels }: Plan, tiles: readonly Range[]): Range {
  if (!planar) return { begin: 0, end: channels };
  return { begin: tiles[0]?.begin ?? 0, end: tiles.at(-1)?.end ?? 0 };
}

/** Units of `sums` that a tile has. */
export function sumUnits({ planar, precision, columnBlocks }: Plan, tile: Range): Range {
  if (planar || precision === BLOCKED_64) return tile;
  return { begin: tile.begin * columnBlocks, end: tile.end * columnBlocks };
}

/** Units of `sums` that hold a run of unreliable channels in a tile, when they are summed again. */
export function unitsAgain(plan: Plan, tile: Range, run: Range): Range[] {
  if (plan.planar) {
    const [begin, end] = [Math.max(run.begin, tile.begin), Math.min(run.end, tile.end)];
    return begin < end ? [{ begin, end }] : [];
  }
  if (plan.elementBytes === 8) return [tile]; // float64 is summed stripe by stripe again
  const { columnsPerChannel, columnBlock, columnBlocks } = plan;
  const first = Math.floor((run.begin * columnsPerChannel) / columnBlock);
  const last = Math.ceil((run.end * columnsPerChannel) / columnBlock);
  const units: Range[] = [];
  for (let stripe = tile.begin; stripe < tile.end; stripe++)
    units.push({ begin: stripe * columnBlocks + first, end: stripe * columnBlocks + last });
  return units;
}

/** Units of `map` that a tile has. */
function mapUnits({ planar, stripe, rows }: Plan, tile: Range): Range {
  return planar ? tile : { begin: tile.begin * stripe, end: Math.min(tile.end * stripe, rows) };
}

/** What kernels need of a memory to write vectors into it. */
interface Views {
  readonly f32: Float32Array;
  readonly f64: Float64Array;
}

/** Smaller tensors are not worth waking a thread for. docs/numerics.md has the measurements. */
const PARALLEL_FROM = 131_072;

/** Pieces per thread: with one each, all would wait for the thread that was interrupted. */
const PIECES = 2;

/** [begin, end) in at most `pieces` pieces. */
function divide({ begin, end }: Range, pieces: number): Range[] {
  const size = Math.ceil((end - begin) / pieces);
  const ranges: Range[] = [];
  for (let at = begin; at < end; at += size) ranges.push({ begin: at, end: Math.min(at + size, end) });
  return ranges;
}

/** What `Kernels.map` reads and writes: addresses, 0 for none. */
export interface MapOperands {
  readonly x: number;
  readonly b?: number;
  readonly c?: number;
  readonly y: number;
}

/** The phases for one type of elements. Sources and results are addresses of whole tensors, wherever a tile of them is. */
export class Kernels {
  /** Whether elements are float64; they are float32 otherwise. */
  readonly isFloat64: boolean;
  /** Bytes of an element. */
  readonly bytes: 4 | 8;
  readonly #core: Exports;
  readonly #extended: () => ExtendedExports;
  /** Threads that share in calls on tensors of so many elements, if there are any. */
  pool: Pool | undefined;
  parallelFrom = PARALLEL_FROM;

  /** `extended` is asked for when the first kernel is needed that is not in `core`. */
  constructor(core: Exports, extended: () => ExtendedExports, isFloat64 = false) {
    this.isFloat64 = isFloat64;
    this.bytes = isFloat64 ? 8 : 4;
    this.#core = core;
    this.#extended = extended;
  }

  #module(extended: boolean): Pick<ExtendedExports, "pivots" | "sums" | "statistics" | "coefficients" | "map"> {
    return extended || this.isFloat64 ? this.#extended() : this.#core;
  }

  /** Shares a call out among the threads of the pool, if there is one that has the module and the units are worth it. */
  #share(extended: boolean, name: "sums" | "map", plan: Plan, units: Range, call: readonly number[]): boolean {
    const { pool } = this;
    const module = extended || this.isFloat64 ? "extended" : "core";
    const elements = plan.planar ? (units.end - units.begin) * plan.outer * plan.inner : plan.length;
    if (!pool?.has(module) || elements < this.parallelFrom) return false;
    const pieces = divide(units, Math.min(pool.threads * PIECES, MAX_CALLS));
    if (pieces.length > 1) {
      const calls = pieces.map(({ begin, end }) => [...call, begin, end]);
      pool.run(module, name, calls);
    }
    return pieces.length > 1;
  }

  /** Writes values as elements. */
  write(heap: Views, pointer: number, values: ArrayLike<number>): void {
    if (this.isFloat64) heap.f64.set(values, pointer / 8);
    else heap.f32.set(values, pointer / 4);
  }

  /** 16-bit elements to float32. */
  widen(dtype: Dtype, source: number, target: number, length: number): void {
    this.#extended().widen(dtype === "float16" ? 0 : 1, source, target, 0, length);
  }

  /** float32 to 16-bit elements, to the nearest, ties to even. */
  narrow(dtype: Dtype, source: number, target: number, length: number): void {
    this.#extended().narrow(dtype === "float16" ? 0 : 1, source, target, 0, length);
  }

  /** Pivots of channels, from their first values; interleaved, of all channels from the first rows. */
  pivots({ pointer }: Plan, x: number, { begin, end }: Range): void {
    this.#module(false).pivots(pointer, x, begin, end);
  }

  /**
   * Sums of moments or gradients (docs/batchnorm.md, F1, F2, B1, B2), with the derivative of the activation of this number
   * on the way.
   */
  sums(plan: Plan, operation: number, activation: number, x: number, dy: number, units: Range): void {
    const { pointer, parameters } = plan;
    const extended = activation !== 0;
    if (this.pool && this.#share(extended, "sums", plan, units, [pointer, operation, activation, x, dy, parameters]))
      return;
    this.#module(extended).sums(pointer, operation, activation, x, dy, parameters, units.begin, units.end);
  }

  /** Sums → mean, variance and invStd, or dGamma and dBeta, f64. Returns how many channels are to be summed again. */
  statistics({ pointer }: Plan, operation: number, epsilon: number, { begin, end }: Range): number {
    return this.#module(false).statistics(pointer, operation, epsilon, begin, end);
  }

  /** Coefficients of a map of channels; `activated` where the map has an activation. Gamma and beta may be 0 for none. */
  coefficients(
    { pointer }: Plan,
    map: number,
    activated: boolean,
    gamma: number,
    beta: number,
    count: number,
    { begin, end }: Range,
  ): void {
    const extended = map > CONSTANT_GRADIENT || (map === GRADIENT && activated);
    this.#module(extended).coefficients(pointer, map, gamma, beta, count, begin, end);
  }

  /** A map of a tile (docs/batchnorm.md, F7, B6). */
  map(plan: Plan, map: number, activation: number, { x, b = 0, c = 0, y }: MapOperands, tile: Range): void {
    const extended = activation !== 0 || map > CONSTANT_GRADIENT || (map === AFFINE && b !== 0);
    const { pointer, parameters } = plan;
    const units = mapUnits(plan, tile);
    if (this.pool && this.#share(extended, "map", plan, units, [pointer, map, activation, x, b, c, y, parameters]))
      return;
    this.#module(extended).map(pointer, map, activation, x, b, c, y, parameters, units.begin, units.end);
  }
}
