// Runs the phases of a plan on the wasm modules, through the thread pool if there is one. This is the only file that
// knows the names of exports. Arguments are a plan and addresses in its memory, and results are written to memory.
// Nothing is checked here.

import type { Dtype } from "../tensor/dtype.ts";
import type { Exports, ExtendedExports } from "./module.ts";
import type { Pool } from "./threads/pool.ts";

/** A range [begin, end) of units or channels. */
export interface Range {
  readonly begin: number;
  readonly end: number;
}

/** Option of a plan: tensors pass through wasm memory tile by tile. */
export const TILED = 1;
/** Option of a plan: a single channel is summed in planes. By default it is summed in rows. */
export const PLANES = 2;

/**
 * Returns the plan that the kernels have written at `pointer`: how a tensor is walked and summed, and where its vectors
 * are. The fields in memory are unsigned 32-bit numbers in the order of class Plan in assembly/plan.ts (docs/reference/abi.md).
 */
function readPlan(u32: Uint32Array, pointer: number) {
  let index = pointer / 4;
  const next = () => u32[index++] as number;
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
    block: next(),
  };
}

/** The plan of a tensor, as the kernels have written it. docs/reference/abi.md describes the fields. */
export type Plan = Readonly<ReturnType<typeof readPlan>>;

/** The numbers of the operations, as the kernels take them (docs/reference/abi.md). */
export const MOMENTS = 0;
export const GRADIENTS = 1;
/** Added to the number of an operation, it has the sums of unreliable channels taken again. */
export const AGAIN = 2;
/** Added to the number of an operation, it has `sums` weight the positions. */
const WEIGHTED = 8;
/** The numbers of the maps, as the kernels take them (docs/reference/abi.md). */
export const AFFINE = 0;
export const GRADIENT = 1;
export const CONSTANT_GRADIENT = 2;
export const SCALED_GRADIENT = 3;
export const COMBINATION = 4;
export const DERIVATIVE = 5;
export const PRODUCT = 6;

/**
 * The value of `precision` with which interleaved sums are taken stripe by stripe. Otherwise they are taken by column
 * blocks.
 */
const BLOCKED_64 = 0;
/** The value of `precision` with which every value is summed in float64. */
const IN_F64 = 2;

/** Returns whether a plan's first sums are f64 sums, of which no channel is unreliable. */
export const sumsInF64 = ({ precision }: Plan): boolean => precision === IN_F64;

/** Returns the channels of neighbouring tiles: those of planar tiles, or all channels of interleaved ones. */
export function channelsOf({ planar, channels }: Plan, tiles: readonly Range[]): Range {
  if (!planar) return { begin: 0, end: channels };
  return { begin: tiles[0]?.begin ?? 0, end: tiles.at(-1)?.end ?? 0 };
}

/** Returns the units of phase `sums` in a tile. */
export function sumUnits({ planar, precision, columnBlocks }: Plan, tile: Range): Range {
  if (planar || precision === BLOCKED_64) return tile;
  return { begin: tile.begin * columnBlocks, end: tile.end * columnBlocks };
}

/** Returns the units of phase `sums` that sum a run of unreliable channels in a tile again. */
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

/** Returns the units of phase `map` in a tile. */
function mapUnits({ planar, stripe, rows }: Plan, tile: Range): Range {
  return planar ? tile : { begin: tile.begin * stripe, end: Math.min(tile.end * stripe, rows) };
}

/** The addresses that `Kernels.map` reads (x, b, c) and writes (y). 0 means none. */
export interface MapOperands {
  readonly x: number;
  readonly b?: number;
  readonly c?: number;
  readonly y: number;
}

/** The dimensions of a tensor [outer, channels, inner]. */
interface Dimensions {
  readonly outer: number;
  readonly channels: number;
  readonly inner: number;
}

/**
 * The phases for one type of elements. Sources and results are addresses of whole tensors. If only a tile is in memory,
 * the address is the one that makes the kernels find the tile (memory/operand.ts).
 */
export class Kernels {
  /** Whether the elements are float64. Otherwise they are float32. */
  readonly isFloat64: boolean;
  /** Bytes of an element. */
  readonly bytes: 4 | 8;
  readonly #core: Exports;
  readonly #extended: () => ExtendedExports;
  /** The threads that take part in calls on large tensors. Undefined: every call runs on the caller's thread. */
  pool: Pool | undefined;

  /**
   * Takes the exports of the core. It calls `extended` for those of the second module when the first of them is needed.
   */
  constructor(core: Exports, extended: () => ExtendedExports, isFloat64 = false) {
    this.isFloat64 = isFloat64;
    this.bytes = isFloat64 ? 8 : 4;
    this.#core = core;
    this.#extended = extended;
  }

  #module(extended: boolean): Pick<ExtendedExports, "pivots" | "sums" | "statistics" | "coefficients" | "map"> {
    return extended || this.isFloat64 ? this.#extended() : this.#core;
  }

  /** Runs an export on the threads of the pool. Returns false, and does nothing, if the pool does not take it. */
  #share(extended: boolean, name: keyof Exports, plan: Plan, units: Range, call: readonly number[]): boolean {
    const phase = { name: `${extended || this.isFloat64 ? "extended" : "core"}.${name}`, call } as const;
    return this.pool?.share(phase, plan, units) === true;
  }

  /** Returns the bytes of a tensor's workspace: the plan, its vectors and its scratch. */
  workspaceBytes({ outer, channels, inner }: Dimensions): number {
    return this.#core.workspace(this.bytes, outer, channels, inner) >>> 0;
  }

  /** Writes the plan of a tensor to the workspace at `pointer`, and reads it. `options` are TILED and PLANES. */
  plan(u32: Uint32Array, pointer: number, { outer, channels, inner }: Dimensions, options: number): Plan {
    this.#core.plan(pointer, this.bytes, outer, channels, inner, options);
    return readPlan(u32, pointer);
  }

  /** Converts `length` elements of 16 bits at `source` to float32 at `target`, exactly. */
  widen(dtype: Dtype, source: number, target: number, length: number): void {
    this.#extended().widen(dtype === "float16" ? 0 : 1, source, target, 0, length);
  }

  /** Rounds `length` elements of float32 at `source` to 16 bits at `target`: to the nearest, ties to even. */
  narrow(dtype: Dtype, source: number, target: number, length: number): void {
    this.#extended().narrow(dtype === "float16" ? 0 : 1, source, target, 0, length);
  }

  /** Computes the pivots of a range of channels from their first values. Interleaved, the range is all channels. */
  pivots(plan: Plan, x: number, channels: Range): void {
    const { pointer } = plan;
    if (this.pool && this.#share(false, "pivots", plan, channels, [pointer, x])) return;
    this.#module(false).pivots(pointer, x, channels.begin, channels.end);
  }

  /**
   * Computes the sums of moments or gradients in a range of units (docs/concepts/derivation.md, F1, F2, B1, B2). `activation` is
   * the number of the activation whose derivative multiplies dy, or 0. `weights` is the address of the weights of the
   * positions, or 0 for none. With weights, the units are those of tiles.
   */
  sums(plan: Plan, operation: number, activation: number, x: number, dy: number, units: Range, weights = 0): void {
    const { pointer } = plan;
    const parameters = weights || plan.parameters;
    const extended = (activation || weights) !== 0;
    const number = weights ? operation + WEIGHTED : operation;
    if (this.pool && this.#share(extended, "sums", plan, units, [pointer, number, activation, x, dy, parameters]))
      return;
    this.#module(extended).sums(pointer, number, activation, x, dy, parameters, units.begin, units.end);
  }

  /**
   * Turns sums into the plan's mean, variance and invStd, or into its dGamma and dBeta, in f64. Returns the number of
   * unreliable channels, which have to be summed again.
   */
  statistics(plan: Plan, operation: number, epsilon: number, channels: Range): number {
    const { pointer } = plan;
    if (this.pool && this.#share(false, "statistics", plan, channels, [pointer, operation, epsilon])) return 0;
    return this.#module(false).statistics(pointer, operation, epsilon, channels.begin, channels.end);
  }

  /**
   * Computes the coefficients of a map for a range of channels. `activated` says that the map has an activation.
   * `gamma` and `beta` are addresses, or 0 for none.
   */
  coefficients(
    plan: Plan,
    map: number,
    activated: boolean,
    gamma: number,
    beta: number,
    count: number,
    channels: Range,
  ): void {
    const { pointer } = plan;
    const extended = map > CONSTANT_GRADIENT || (map === GRADIENT && activated);
    if (this.pool && this.#share(extended, "coefficients", plan, channels, [pointer, map, gamma, beta, count])) return;
    this.#module(extended).coefficients(pointer, map, gamma, beta, count, channels.begin, channels.end);
  }

  /**
   * Maps every element of a tile (docs/concepts/derivation.md, F7, B6). `activation` is the number of an activation, or 0. `c` of
   * the map of gradients is the address of weights.
   */
  map(plan: Plan, map: number, activation: number, { x, b = 0, c = 0, y }: MapOperands, tile: Range): void {
    const extended = activation !== 0 || map > CONSTANT_GRADIENT || (map === AFFINE ? b : c) !== 0;
    const { pointer, parameters } = plan;
    const units = mapUnits(plan, tile);
    if (this.pool && this.#share(extended, "map", plan, units, [pointer, map, activation, x, b, c, y, parameters]))
      return;
    this.#module(extended).map(pointer, map, activation, x, b, c, y, parameters, units.begin, units.end);
  }
}
