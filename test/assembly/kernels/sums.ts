// Tests of the sums of both operations, with and without an activation, in every walk and precision, against their
// definition.

import { expect, it } from "vitest";
import { equal, expectSame, type Reals } from "../../support/arena.ts";
import { random } from "../../support/worlds.ts";
import * as world from "./world.ts";
import { type Activation, AGAIN, type Dims, dimsOf, integers, NONE, Planned, type World } from "./world.ts";

type Values = (length: number, seed: number, wide: boolean) => ArrayLike<number>;
const small: Values = (length, seed) => integers(seed, length);

/** Large values, some of a vector's and some of a column's lanes: next to their sums, the type has no room for a 1. */
const large: Values = (length, _, wide) => new Float64Array(length).fill(1).fill(2 ** (wide ? 27 : 25), 12, 16);

/** Sums by definition; builds share them. */
const cache = new Map<string, readonly [sum: Float64Array, dot: Float64Array]>();

/** A tensor with its plan, and its sums by definition: of large terms, and of small ones beside them. */
class Summed extends Planned {
  readonly sources: readonly [x: Reals, dy: Reals];
  readonly expected: readonly [sum: Float64Array, dot: Float64Array];
  readonly #parameters: number;

  constructor(
    w: World,
    dims: Dims,
    readonly operation: number,
    readonly activation: Activation,
    values: Values = small,
    options?: number,
  ) {
    super(w, dims, options);
    const { arena } = w;
    const { length } = this.plan;
    const size = this.get("stripes") * this.entries(operation);
    const [x, dy] = [1, 2].map((seed) => arena.real(values(length, seed, arena.wide)).view) as [Reals, Reals];
    const rows = [3, 4, 5].map((seed) => integers(seed, this.get("period"))) as [Reals, Reals, Reals];
    this.setRows(activation === NONE ? rows.slice(0, 1) : rows);
    this.sources = [x, dy];
    this.#parameters = arena.real(activation.parameters).pointer;
    const key = `${dims}, ${operation}, ${activation.name}, ${values.name}, ${options}, ${arena.wide}`;
    const known = cache.get(key);
    const [sum, dot] = [new Float64Array(size), new Float64Array(size)];
    const [sumLarge, dotLarge] = [new Float64Array(size), new Float64Array(size)];
    this.expected = known ?? [sum, dot];
    if (known) return;
    cache.set(key, this.expected);
    const [hi, scale, shift] = rows;
    const [columnOf, entryOf] = [this.column(), this.entryOf(operation)];
    for (let i = 0; i < length; i++) {
      const column = columnOf(i);
      const entry = entryOf(i);
      const d = (x[i] as number) - (hi[column] as number);
      const z = d * (scale[column] as number) + (shift[column] as number);
      const u = operation & 1 ? activation.derive(dy[i] as number, z) : d;
      ((Math.abs(u) > 2 ** 20 ? sumLarge : sum)[entry] as number) += u;
      ((Math.abs(u * d) > 2 ** 20 ? dotLarge : dot)[entry] as number) += u * d;
    }
    for (let e = 0; e < size; e++) {
      (sum[e] as number) += sumLarge[e] as number;
      (dot[e] as number) += dotLarge[e] as number;
    }
  }

  /** Sums units of these sources, or of others. */
  run = (begin: number, end: number, [x, dy] = this.sources.map((s) => s.byteOffset) as [number, number]): void => {
    const sources = [x, this.operation & 1 ? dy : 0] as const;
    this.w.phases.sums(this.pointer, this.operation, this.activation.number, ...sources, this.#parameters, begin, end);
  };

  /** Results, bit by bit, or within a relative tolerance. */
  check(of: string, tolerance = 0): void {
    for (const [k, field] of ["sum", "dot"].entries()) {
      const expected = this.expected[k] as Float64Array;
      const near = (a: number, b: number) => equal(a, b) || Math.abs(a - b) <= Math.abs(b) * tolerance;
      expectSame(this.f64(field, expected.length), expected, (i) => `${of}, [${this.dims}]: ${field}[${i}]`, near);
    }
    this.w.arena.close();
  }
}

const ALL = [...world.SMALL, ...world.BLOCKED, ...world.STRIPED];
const count = ([outer, , inner]: Dims) => outer * inner;

function testOne(w: World, operation: number, activation: Activation): void {
  const { wide } = w.arena;
  const name = `${wide ? "float64, " : ""}${activation === NONE ? "" : `${activation.name}, `}operation ${operation}`;

  it(`${name}: every element once, in its entry, in any ranges of units`, () => {
    for (const dims of [...ALL, ...world.DIVISIBLE]) {
      const p = new Summed(w, dims, operation, activation);
      const units = p.units(operation);
      if (world.DIVISIBLE.includes(dims)) world.checkRanges([p.bytes], units, p.run);
      p.run(0, units);
      p.check("small integers");
    }
  });

  it(`${name}: nothing is lost beside large values where every value goes to float64, and in float64`, () => {
    const most = wide ? Infinity : operation & AGAIN ? 1060 : 127;
    const some = (dims: Dims, i: number) => count(dims) < 128 || i % 4 === 0 || world.STRIPED.includes(dims);
    for (const dims of ALL.filter((dims, i) => count(dims) <= most && some(dims, i))) {
      const p = new Summed(w, dims, operation, activation, large);
      p.run(0, p.units(operation));
      // of float64, what is less than 64 beside 2^54: the block that has it
      p.check("large values", wide ? 2 ** -48 : 0);
    }
  });

  it(`${name}: tensors pass through tiles`, () => {
    for (const dims of world.IN_TILES) {
      const p = new Summed(w, dims, operation, activation, small, world.TILED);
      const units = p.get("planar") ? 1 : p.units(operation) / p.get("stripes");
      p.forTiles((begin, end, indices, before) => {
        const [x = 0, dy = 0] = p.sources.map((source) => {
          const tile = w.arena.real(world.gather(source, indices));
          return tile.pointer - before * source.BYTES_PER_ELEMENT;
        });
        p.run(begin * units, end * units, [x, dy]);
      });
      p.check("tiles");
    }
  });
}

/** The core's sums of float32. */
export function testSums(w: World): void {
  for (const operation of [0, 1, 0 | AGAIN, 1 | AGAIN]) testOne(w, operation, NONE);
}

/** The second module's sums: of float32 with an activation, of which the maps have every kind, and of float64. */
export function testExtendedSums(f32: World, f64: World): void {
  for (const activation of world.RECTIFIERS)
    for (const operation of [1, 1 | AGAIN]) testOne(f32, operation, activation);
  for (const operation of [0, 1, 0 | AGAIN]) testOne(f64, operation, NONE);

  const runs = dimsOf("1×1×65536 256×1×256 65536×1×1 32768×2×1");

  it("float64: infinite, not NaN, where a value is", () => {
    for (const dims of runs)
      for (const operation of [0, 1]) {
        const source = operation ? 2 : 1;
        const p = new Summed(f64, dims, operation, NONE, (length, seed) =>
          Float64Array.from({ length }, (_, i) => (i >= 40 && i < 44 && seed === source ? Infinity : 20)),
        );
        p.run(0, p.units(operation));
        const sums = ["sum", "dot"].flatMap((field) => [...p.f64(field, p.get("stripes") * p.get("columns"))]);
        expect(sums).toContain(Infinity);
        expect(sums).not.toContain(Number.NaN);
        f64.arena.close();
      }
  });

  it("float64: within one rounding of the exact sums of many values", () => {
    const next = random(37);
    const values: Values = (length, seed) =>
      Float64Array.from({ length }, () => Math.floor((next() - 0.4) * 2 ** (seed === 1 ? 32 : 53)));
    for (const dims of runs)
      for (const operation of [0, 1]) {
        const p = new Summed(f64, dims, operation, NONE, values);
        p.setRows([new Float64Array(p.get("period"))]);
        p.run(0, p.units(operation));
        const field = operation ? "sum" : "dot";
        const got = p.f64(field, p.get("stripes") * p.get("columns"));
        const [exact, size] = [Array.from(got, () => 0n), Array.from(got, () => 0n)];
        const entryOf = p.entryOf(operation);
        p.sources[operation as 0 | 1].forEach((value, i) => {
          const e = entryOf(i);
          const term = BigInt(value) ** (operation ? 1n : 2n);
          (exact[e] as bigint) += term;
          (size[e] as bigint) += term < 0 ? -term : term;
        });
        // in u
        const off = Array.from(got, (v, e) => ((BigInt(v) - (exact[e] as bigint)) * 2n ** 63n) / (size[e] as bigint));
        expect(Math.max(...off.map((v) => Math.abs(Number(v)) / 2 ** 10))).toBeLessThan(1.2);
        f64.arena.close();
      }
  });
}
