// Tests of the maps of both modules against their equations: every activation, with and without a residual, in both
// walks, in place and to another tensor, for whole tensors, ranges and tiles.

import { expect, it } from "vitest";
import { blank, equal, expectSame, type Reals } from "../../support/arena.ts";
import * as world from "./world.ts";
import { type Activation, type Dims, dimsOf, integers, NONE, Planned, SILU, type World } from "./world.ts";

type At = (x: number, b: number, c: number) => number;

/** A map: its equation on up to three sources, for one column's coefficients hi, scale, shift, xCoefficient and extra. */
interface Case {
  readonly name: string;
  readonly map: number;
  readonly sources: 1 | 2 | 3;
  readonly activation: Activation;
  /** How far SiLU may be from the exact one. */
  readonly tolerance?: { readonly relative: number; readonly absolute: number };
  of(hi: number, scale: number, shift: number, g: number, e: number): At;
}

function plain(name: string, map: number, sources: 1 | 2 | 3, of: Case["of"]): Case {
  return { name, map, sources, activation: NONE, of };
}

const affine = plain("affine", 0, 1, (hi, scale, shift) => (x) => (x - hi) * scale + shift);
const gradient = plain("gradient", 1, 2, (hi, scale, shift, g) => (x, dy) => ((x - hi) * g + (dy + shift)) * scale);
const CORE: readonly Case[] = [affine, gradient, { ...affine, name: "gradient of constants", map: 2 }];
/** The map of interleaved plans alone. Products of the smallest special values are 0 in float32. */
const product: Case = {
  ...plain("product", 6, 2, (h, s, shift) => (x, b) => ((x - h) * s + shift) * b),
  tolerance: { relative: 0, absolute: 2 ** -149 },
};
/** Whether a map has no kernel for the walk of a plan. */
const isMissing = (c: Case, m: Mapped) => c === product && m.get("planar") === 1;
const GENERAL: readonly Case[] = [
  plain("scaled gradient", 3, 2, (h, s, shift, g, e) => (x, dy) => ((x - h) * g + (dy * e + shift)) * s),
  product,
  plain("combination", 4, 3, (h, s, shift, g, e) => (x, b, c) => (x - h) * s + b * g + c * e + shift),
];

/**
 * Maps with an activation. SiLU may be 4 ulp off. Its kernels end z at −87, of float64 at −708, where z·σ(z) is as small as
 * `least`, and the largest dy of the tests is 8.
 */
const activated = (ulp: number, least: number) =>
  [NONE, ...world.RECTIFIERS, SILU].flatMap((activation): Case[] => {
    const { name, number, apply, derive } = activation;
    const forward = { tolerance: { relative: 4 * ulp, absolute: least } };
    const backward = { tolerance: { relative: 0, absolute: 8 * 4 * ulp } };
    const [of, back] = activation === SILU ? [forward, backward] : [{}, {}];
    const cases: Case[] = [
      plain(`${name}, sum`, 0, 2, (h, s, shift) => (x, b) => apply((x - h) * s + shift + b)),
      plain(name, 0, 1, (h, s, shift) => (x) => apply((x - h) * s + shift)),
      { ...plain(`derivative of ${name}`, 5, 2, (h, s, t) => (x, dy) => derive(dy, (x - h) * s + t)), ...back },
      {
        ...plain(`derivative of ${name}, sum`, 5, 3, (h, s, t) => (x, dy, c) => derive(dy, (x - h) * s + t + c)),
        ...back,
      },
      plain(`gradient of ${name}`, 1, 2, (h, s, shift, g, e) => (x, dy) => {
        const dz = derive(dy, (x - h) * s + e);
        return ((x - h) * g + (dz + shift)) * s;
      }),
    ];
    return cases.slice(0, [1, 5, 5, 4][number]).map((c) => ({ ...of, ...c, activation }));
  });

const ACTIVATED = activated(2 ** -23, 2e-36);

/** Backward of float64 reads dz, which map 5 has written. */
const ACTIVATED_F64 = activated(2 ** -52, 1e-304).filter((c) => c.map !== 1);

/** Results by definition; builds share them. */
const cache = new Map<string, Float64Array>();

/** A tensor with its plan, and what a map makes of it by definition. */
class Mapped extends Planned {
  readonly sources: readonly Reals[];
  readonly y: Reals;
  readonly expected: Float64Array;
  readonly #parameters: number;

  constructor(
    w: World,
    dims: Dims,
    readonly c: Case,
    options?: number,
    special = false,
  ) {
    super(w, dims, options);
    const { length } = this.plan;
    const period = this.get("period");
    // z = x, for special values
    const ones = [0, 1, -0, 2, c.map === 1 ? -0 : 1].map((v) => new Float32Array(period).fill(v));
    const rows = special ? ones : [3, 4, 5, 6, 7].map((seed) => integers(seed, period));
    this.setRows(rows);
    const valuesOf = (k: number) => (special ? specialValues(k, length) : integers(k, length));
    this.sources = Array.from({ length: c.sources }, (_, k) => w.arena.real(valuesOf(k)).view);
    this.y = w.arena.real(blank(length)).view;
    this.#parameters = w.arena.real(c.activation.parameters).pointer;
    const key = `${c.name}, ${dims}, ${special}`;
    this.expected = cache.get(key) ?? new Float64Array(length);
    if (cache.has(key)) return;
    cache.set(key, this.expected);
    const at = Array.from({ length: period }, (_, j) => c.of(...(rows.map((row) => row[j]) as Parameters<Case["of"]>)));
    const [x, b = x, d = x] = this.sources as [Reals, Reals?, Reals?];
    const column = this.column();
    for (let i = 0; i < length; i++)
      this.expected[i] = (at[column(i)] as At)(x[i] as number, b[i] as number, d[i] as number);
  }

  run(begin: number, end: number, y = this.y.byteOffset, pointers = this.sources.map((s) => s.byteOffset)): void {
    const { map, activation } = this.c;
    const [x = 0, b = 0, c = 0] = pointers;
    this.w.phases.map(this.pointer, map, activation.number, x, b, c, y, this.#parameters, begin, end);
  }

  check(got: ArrayLike<number>, expected: ArrayLike<number>, of: string): void {
    const { relative, absolute } = this.c.tolerance ?? { relative: 0, absolute: 0 };
    const near = (a: number, b: number) => equal(a, b) || Math.abs(a - b) <= absolute + relative * Math.abs(b);
    expectSame(got, expected, (i) => `${this.c.name} of [${this.dims}], ${of} ${i}`, near);
  }
}

/** Where activations bend, and what is not a number among numbers. */
const SPECIAL = [0, -0, 1, -1, 3, 6, 7, 2 ** -140, -(2 ** -140), Number.NaN, Infinity, -Infinity];

/** Every one of a source with every one of the others. */
const specialValues = (k: number, length: number) =>
  Float64Array.from({ length }, (_, i) => SPECIAL[Math.floor(i / SPECIAL.length ** k) % SPECIAL.length] as number);

function testOne(w: World, c: Case, name = c.name): void {
  /** Beside the sources, and in place of each; sources that are not written stay as they are. */
  function check(m: Mapped, inPlace: boolean): void {
    if (isMissing(c, m)) {
      w.arena.close();
      return;
    }
    const given = m.sources.map((s) => s.slice());
    for (const target of inPlace ? [m.y, ...m.sources] : [m.y]) {
      m.run(0, m.units(), target.byteOffset);
      m.check(target, m.expected, target === m.y ? "element" : "in place, element");
      for (const [k, s] of m.sources.entries())
        if (s === target) s.set(given[k] as Reals);
        else m.check(s, given[k] as Reals, `source ${k}, element`);
    }
    w.arena.close();
  }

  it(`${name}: every element by its own coefficients, in place of a source, too, and in any ranges of units`, () => {
    for (const [i, dims] of world.SMALL.entries()) check(new Mapped(w, dims, c), i % 3 === 0);
    const n = SPECIAL.length ** c.sources;
    for (const dims of dimsOf(`1×1×${n} ${n}×1×1`)) check(new Mapped(w, dims, c, undefined, true), true);
    for (const dims of world.DIVISIBLE.slice(0, -3)) {
      const m = new Mapped(w, dims, c);
      if (!isMissing(c, m)) world.checkRanges([m.bytes, m.y], m.units(), (begin, end) => m.run(begin, end));
      w.arena.close();
    }
  });
}

function testTiles(w: World, c: Case, name = c.name): void {
  it(`${name}: tensors pass through tiles`, () => {
    for (const dims of world.IN_TILES) {
      const m = new Mapped(w, dims, c, world.TILED);
      if (isMissing(c, m)) {
        w.arena.close();
        continue;
      }
      const units = m.get("planar") ? 1 : m.get("stripe");
      m.forTiles((begin, end, indices, before) => {
        const tile = (of: Reals) => w.arena.real(world.gather(of, indices)).view;
        const [y, tiles] = [tile(m.y), m.sources.map(tile)];
        const at = (t: Reals) => t.byteOffset - before * t.BYTES_PER_ELEMENT;
        m.run(begin * units, Math.min(end * units, m.units()), at(y), tiles.map(at));
        m.check(y, world.gather(m.expected, indices), `tile ${begin}, element`);
      });
      w.arena.close();
    }
  });
}

/** The core's maps of float32. */
export function testMaps(w: World): void {
  for (const c of CORE) testOne(w, c);
  for (const c of [affine, gradient]) testTiles(w, c);
}

/** The second module's maps: of float32 with an activation, and of float64. */
export function testExtendedMaps(f32: World, f64: World): void {
  for (const c of [...ACTIVATED, ...GENERAL]) testOne(f32, c);
  for (const c of [...CORE, ...GENERAL, ...ACTIVATED_F64]) testOne(f64, c, `float64 ${c.name}`);
  for (const c of GENERAL) testTiles(f32, c);
  testTiles(f64, gradient, "float64 gradient");

  /** SiLU and its derivative, in float32. */
  function silu(values: readonly number[]) {
    const p = new Planned(f32, [1, 1, values.length]);
    p.setRows([[0], [1], [0]]);
    const [x, y, dz] = [
      f32.arena.f32(values).view,
      f32.arena.f32(values).view,
      f32.arena.f32(values.map(() => 1)).view,
    ];
    f32.phases.map(p.pointer, 0, SILU.number, x.byteOffset, 0, 0, y.byteOffset, 0, 0, p.units());
    f32.phases.map(p.pointer, 5, SILU.number, x.byteOffset, dz.byteOffset, 0, dz.byteOffset, 0, 0, p.units());
    f32.arena.close();
    return { x: x.slice(), y: y.slice(), dz: dz.slice() };
  }

  it("silu: within 4 ulp of the exact one from -87 to 100, its derivative within 4 ulp of the largest term", () => {
    const { x, y, dz } = silu(Array.from({ length: 187 * 256 + 1 }, (_, i) => i / 256 - 87));
    const ulp = (v: number): number => 2 ** (Math.floor(Math.log2(Math.abs(v))) - 23);
    let [worst, worstDerivative] = [0, 0];
    x.forEach((value, i) => {
      const sigmoid = 1 / (1 + Math.exp(-value));
      const off = Math.abs((y[i] as number) - SILU.apply(value));
      if (value !== 0) worst = Math.max(worst, off / ulp(SILU.apply(value)));
      const size = sigmoid * Math.max(1, Math.abs(value * (1 - sigmoid)));
      worstDerivative = Math.max(worstDerivative, Math.abs((dz[i] as number) - SILU.derive(1, value)) / ulp(size));
    });
    expect(y[87 * 256]).toBe(0);
    expect(worst).toBeLessThan(4);
    expect(worstDerivative).toBeLessThan(4);
  });

  it("silu: 0 and z far out, its derivative 0 and 1", () => {
    const far = [88, 89, 100, 104, 1000, 1e10, 1e30, 3.4e38, Infinity];
    const [below, above] = [silu(far.map((value) => -value)), silu(far)];
    expect([...below.y, ...below.dz].every((v) => Math.abs(v) <= 2e-36)).toBe(true);
    expect([...above.y, ...above.dz]).toEqual([...above.x, ...far.map(() => 1)]);
  });
}
