// Helpers for the tests of kernels: plans in guarded memory, shapes in every walk and precision, data whose sums and
// products are exact in every order, and activations by definition.

import { expect } from "vitest";
import type { Exports, ExtendedExports } from "../../../src/wasm/module.ts";
import { type Arena, expectSame, type Reals, type Region } from "../../support/arena.ts";
import { random } from "../../support/worlds.ts";

export type Dims = readonly [outer: number, channels: number, inner: number];

/** Where a test runs: the arena knows the type of elements, the core makes plans, and the phases are under test. */
export interface World {
  readonly arena: Arena;
  readonly core: Exports;
  readonly phases: Pick<Exports & ExtendedExports, "pivots" | "sums" | "statistics" | "coefficients" | "map">;
}

/** Added to an operation: take the sums again. */
export const AGAIN = 2;
/** Options of a plan. */
export const [TILED, PLANES] = [1, 2] as const;

const SIZES = "elementBytes outer channels inner length planar columnsPerChannel period columns rows stripe stripes";
const VECTORS = "mean variance invStd dGamma dBeta sum dot coefficients scratch gamma beta parameters unreliable";
const FIELDS = `${SIZES} precision columnBlock columnBlocks pitch tiled ${VECTORS} block`.split(" ");

/** A plan in a workspace of just the bytes that it asks for, of garbage. What is no vector of the plan is guarded. */
export class Planned {
  readonly pointer: number;
  /** The plan's fields by name, as docs/reference/abi.md has them. */
  readonly plan: Readonly<Record<string, number>> & { readonly channels: number; readonly length: number };
  /** All of the workspace. */
  readonly bytes: Uint8Array;
  /** The plan, its vectors and its scratch. */
  readonly regions: readonly Region[];

  /** Unless there are options, a single channel of several elements stays planar. */
  constructor(
    readonly w: World,
    readonly dims: Dims,
    options = dims[1] === 1 && dims[2] > 1 ? PLANES : 0,
  ) {
    const size = w.arena.wide ? 8 : 4;
    const { pointer, view } = w.arena.u8(w.core.workspace(size, ...dims));
    w.core.plan(pointer, size, ...dims, options);
    const numbers = new Uint32Array(view.buffer, pointer, FIELDS.length);
    const p = Object.fromEntries(FIELDS.map((name, i) => [name, numbers[i] as number])) as Planned["plan"];
    const { channels, stripes = 0, columns = 0 } = p;
    const [vector, sums, row] = [channels * 8, stripes * columns * 8, channels * size];
    const lengths = [...new Array<number>(5).fill(vector), sums, sums, 5 * columns * size];
    lengths.push(sums * (size === 8 ? 4 : 1), row, row, 3 * size, channels);
    const vectors = VECTORS.split(" ").map((name, i) => ({ pointer: p[name] as number, bytes: lengths[i] as number }));
    this.regions = [{ pointer, bytes: FIELDS.length * 4 }, ...vectors];
    w.arena.guardBetween(this.regions);
    [this.pointer, this.bytes, this.plan] = [pointer, view, p];
  }

  get = (field: string): number => this.plan[field] as number;
  f64 = (field: string, length = this.plan.channels) =>
    new Float64Array(this.bytes.buffer as ArrayBuffer, this.get(field), length);

  get unreliable(): Uint8Array {
    return new Uint8Array(this.bytes.buffer, this.get("unreliable"), this.plan.channels);
  }

  /** A row of coefficients, or all five. */
  row(r: number, rows = 1): Reals {
    const [type, columns] = [this.w.arena.wide ? Float64Array : Float32Array, this.get("columns")];
    const at = this.get("coefficients") + r * columns * type.BYTES_PER_ELEMENT;
    return new type(this.bytes.buffer as ArrayBuffer, at, rows * columns);
  }

  /** Writes rows of values, one for each column of a period, into the coefficients. */
  setRows(rows: readonly ArrayLike<number>[]): void {
    const period = this.get("period");
    for (const [r, values] of rows.entries()) this.row(r).set(this.row(r).map((_, j) => values[j % period] as number));
  }

  /** Whether sums are taken column by column. */
  #byColumn(operation: number): boolean {
    return !this.get("planar") && !this.w.arena.wide && (this.get("precision") !== 0 || (operation & AGAIN) !== 0);
  }

  /** Entries that a stripe has of the sums. */
  entries = (operation: number) => this.get(this.#byColumn(operation) ? "period" : "columns");

  /** The entry of the sums that an element belongs to. */
  entryOf(operation: number): (i: number) => number {
    const [entries, stripe] = [this.entries(operation), this.get("stripe") * this.get("columns")];
    return this.get("planar") ? this.column() : (i) => Math.floor(i / stripe) * entries + (i % entries);
  }

  /** Of the columns that can differ in their coefficients, that of an element. */
  column(): (i: number) => number {
    const { planar, inner = 0, channels, period = 0 } = this.plan;
    return planar ? (i) => Math.floor(i / inner) % channels : (i) => i % period;
  }

  /** The channel of a column, or of an entry of the sums. */
  channelOf = (column: number) => Math.floor((column % this.get("period")) / this.get("columnsPerChannel"));

  /** Independent parts of the sums, or of the map. */
  units(operation?: number): number {
    if (this.get("planar")) return this.plan.channels;
    if (operation === undefined) return this.get("rows");
    return this.get("stripes") * (this.#byColumn(operation) ? this.get("columnBlocks") : 1);
  }

  /** Visits tiles: parts [begin, end) of the channels or stripes, the tile's elements, and how many are before it. */
  forTiles(visit: (begin: number, end: number, indices: Int32Array, before: number) => void): void {
    const [planar, pitch, stripes] = ["planar", "pitch", "stripes"].map(this.get) as [number, number, number];
    const { channels, length } = this.plan;
    const [outer, , inner] = this.dims;
    const stripe = this.get("stripe") * this.get("columns");
    for (let begin = 0; begin < (planar ? channels : stripes); begin += planar ? pitch : 1) {
      const end = planar ? Math.min(begin + pitch, channels) : begin + 1;
      const before = begin * (planar ? inner : stripe);
      const size = planar ? outer * pitch * inner : Math.min(stripe, length - before);
      const indices = new Int32Array(size);
      for (let i = 0; i < size; i++) {
        const [n, c] = [Math.floor(i / inner / pitch), begin + (Math.floor(i / inner) % pitch)];
        // −1 is in the tile, but of no channel
        indices[i] = planar ? (c < end ? (n * channels + c) * inner + (i % inner) : -1) : before + i;
      }
      visit(begin, end, indices, before);
    }
  }
}

/** Values at these indices, and −1 for none. */
export function gather(values: ArrayLike<number>, indices: Int32Array): Float64Array {
  const gathered = new Float64Array(indices.length).fill(-1);
  for (let i = 0; i < indices.length; i++)
    if ((indices[i] as number) >= 0) gathered[i] = values[indices[i] as number] as number;
  return gathered;
}

type Range = (begin: number, end: number) => void;

/**
 * Runs a phase on [0, units) and in several pieces, each on the memory as it was before, and leaves it as it was. Pieces must
 * write what the whole call writes, and no byte that another one does: threads take one piece each.
 */
export function checkRanges(memory: readonly ArrayBufferView[], units: number, run: Range): void {
  const views = memory.map((m) => new Uint8Array(m.buffer, m.byteOffset, m.byteLength));
  const copy = () => views.map((bytes) => bytes.slice());
  const before = copy();
  const restore = () => views.forEach((bytes, k) => void bytes.set(before[k] as Uint8Array));
  run(0, units);
  const whole = copy();
  for (const pieces of [2, 5]) {
    const [image, written] = [before.map((bytes) => bytes.slice()), before.map((bytes) => bytes.slice().fill(0))];
    // the last piece first
    for (let k = pieces; k--; ) {
      restore();
      run(Math.floor((units * k) / pieces), Math.floor((units * (k + 1)) / pieces));
      for (const [v, bytes] of views.entries()) {
        const [old, all, marks] = [before[v], image[v], written[v]] as [Uint8Array, Uint8Array, Uint8Array];
        for (let i = 0; i < bytes.length; i++) {
          if (bytes[i] === old[i]) continue;
          if ((marks[i] as number)++)
            expect.fail(`byte ${i} of view ${v}: two of ${pieces} ranges of ${units} write it`);
          all[i] = bytes[i] as number;
        }
      }
    }
    for (const [v, bytes] of image.entries())
      expectSame(bytes, whole[v] as Uint8Array, (i) => `byte ${i} of view ${v}, in ${pieces} ranges of ${units},`);
  }
  restore();
}

const cache = new Map<string, Float32Array>();

/** Integers of at most 4 bits: every sum and product of them in the tests is exact in float32. */
export function integers(seed: number, length: number): Float32Array {
  const key = `${seed},${length}`;
  const known = cache.get(key);
  if (known) return known;
  const next = random(seed * 7919 + length);
  const values = Float32Array.from({ length }, () => Math.floor(next() * 17) - 8);
  cache.set(key, values);
  return values;
}

/** Shapes as "2×3×32 1×1×7". */
export const dimsOf = (list: string): Dims[] =>
  list.split(" ").map((shape) => shape.split("×").map(Number) as unknown as Dims);

const shapes = (outers: number[], channels: number[], inners: number[]): Dims[] =>
  outers.flatMap((o) => channels.flatMap((c) => inners.map((i): Dims => [o, c, i])));

// around lanes, vectors, and one and two groups of 16
const LENGTHS = [4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 32, 33, 50];

/** Planes of every length modulo a vector and a group, and rows of every length, few and many, the last cut short or not. */
export const SMALL: readonly Dims[] = [
  ...shapes([1], [1, 2, 3], [...LENGTHS, 64, 65]),
  ...shapes([2, 3], [1, 2, 3], [32, 33, 35, 36, 47, 48, 50]),
  ...shapes([1, 2, 3, 5, 9, 17, 34], [1, 2, 3, ...LENGTHS, 12, 24, 64, 80], [1]),
  ...shapes([2, 3, 10, 37], [2, 5], [2, 3, 7, 31]),
  ...shapes([1], [1, 2, 5], [2, 3]),
  ...shapes([1, 2, 5, 6], [300], [1]),
];

/** Both walks with so many values that sums are of blocks. */
export const BLOCKED: readonly Dims[] = [
  ...shapes([16, 17, 32, 33], [1, 3], [32, 33, 34, 35, 36, 39, 43, 47, 48, 49, 50]),
  ...shapes([1], [2], [512, 515, 1023, 1024, 1025, 1029, 1040, 1087, 1088, 1089, 1154]),
  ...shapes([2, 3, 5], [3], [341, 517, 600]),
  ...shapes([1024, 1025, 1039], [1, 3, 5, 17, 64], [1]),
  ...shapes([128, 129, 131, 135, 136, 143, 200], [1, 2, 5, 16, 17, 33, 48], [1]),
  ...shapes([43, 70, 34, 400], [3], [3, 31]),
  ...shapes([260], [40], [4]),
];

/** Rows of several stripes: of many periods, of one channel, and of several columns a channel. */
export const STRIPED = dimsOf("26301×5×1 131101×1×1 1025×32×4");

/** A few of every walk and precision that have several units. */
export const DIVISIBLE = [...dimsOf("1×6×37 3×6×37 17×6×37 33×6×37 2×300×1 131×33×1 43×30×3"), ...STRIPED];

/** Tensors that pass through tiles: of several channels, of one, and of a stripe. */
export const IN_TILES = dimsOf("40×5×820 3×2×21901 1025×32×4");

/** What a kernel does to a value on its way. */
export interface Activation {
  readonly name: string;
  readonly number: number;
  readonly parameters: readonly [slope: number, cap: number];
  apply(z: number): number;
  derive(dy: number, z: number): number;
}

/** Of numbers that a kernel has no business to read. */
const parameters = [Number.NaN, Number.NaN] as const;

export const NONE: Activation = { name: "none", number: 0, parameters, apply: (z) => z, derive: (dy) => dy };

const rectifier = (name: string, number: number, ceiling: number): Activation => ({
  name,
  number,
  parameters: [0, ceiling === Infinity ? Number.NaN : ceiling],
  apply: (z) => (z <= 0 ? 0 : Math.min(z, ceiling)),
  derive: (dy, z) => (z <= 0 || z >= ceiling ? 0 : dy),
});

export const RELU: Activation = {
  ...rectifier("relu", 1, Infinity),
  derive: (dy, z) => (z <= 0 ? 0 : dy), // also for an infinite z
};
export const RELU6 = rectifier("relu6", 4, 6);
export const LEAKY_RELU: Activation = {
  name: "leaky relu",
  number: 2,
  parameters: [0.25, Number.NaN],
  apply: (z) => (z <= 0 ? z * 0.25 : z),
  derive: (dy, z) => (z <= 0 ? dy * 0.25 : dy),
};
export const RECTIFIERS: readonly Activation[] = [RELU, RELU6, LEAKY_RELU];

/** z·σ(z), and its limits. */
export const SILU: Activation = {
  name: "silu",
  number: 3,
  parameters,
  apply: (z) => Math.max(z, -740) / (1 + Math.exp(-Math.max(z, -740))),
  derive(dy, z) {
    const t = Math.min(Math.max(z, -700), 700);
    const sigmoid = 1 / (1 + Math.exp(-t));
    return dy * sigmoid * (1 + t * Math.exp(-t) * sigmoid); // 1 − σ would cancel
  },
};
