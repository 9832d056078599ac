// Tests of 16-bit storage: all 65,536 patterns of both formats to float32 and back, and the numbers between them.

import { expect, it } from "vitest";
import type { ExtendedExports } from "../../../src/wasm/module.ts";
import { type Arena, blank, equal, expectSame } from "../../support/arena.ts";
import { random } from "../../support/worlds.ts";
import { checkRanges } from "./world.ts";

/** A 16-bit format: its number, mantissa bits that are stored, and the exponent of the smallest normal value. */
interface Format {
  readonly name: string;
  readonly type: number;
  readonly mantissa: number;
  readonly smallest: number;
}

const FORMATS: readonly Format[] = [
  { name: "float16", type: 0, mantissa: 10, smallest: -14 },
  { name: "bfloat16", type: 1, mantissa: 7, smallest: -126 },
];
const SIGN = 0x8000;
const infinityOf = (f: Format): number => SIGN - 2 ** f.mantissa;
const isNaNPattern = (h: number, f: Format) => (h & ~SIGN) > infinityOf(f);

/** The value of a pattern. */
function decoded(h: number, f: Format): number {
  const sign = h & SIGN ? -1 : 1;
  const magnitude = h & ~SIGN;
  if (isNaNPattern(h, f)) return Number.NaN;
  if (magnitude === infinityOf(f)) return sign * Infinity;
  const exponent = magnitude >> f.mantissa;
  const digits = magnitude % 2 ** f.mantissa;
  if (exponent === 0) return sign * digits * 2 ** (f.smallest - f.mantissa);
  return sign * (digits + 2 ** f.mantissa) * 2 ** (exponent - 1 + f.smallest - f.mantissa);
}

/** The pattern that is nearest to a value of f32, ties to even; patterns of one sign are numbered as their values are. */
function encoded(value: number, f: Format): number {
  if (Number.isNaN(value)) return Number.NaN;
  const magnitude = Math.abs(value);
  let exponent = Math.max(f.smallest, Math.min(127, Math.floor(Math.log2(magnitude)) - 1));
  while (exponent < 128 && magnitude >= 2 ** (exponent + 1)) exponent++;
  const steps = magnitude / 2 ** (exponent - f.mantissa);
  const below = Math.floor(steps);
  const up = steps - below > 0.5 || (steps - below === 0.5 && below % 2 === 1);
  const pattern = (exponent - f.smallest) * 2 ** f.mantissa + below + Number(up);
  return Math.min(pattern, infinityOf(f)) + (value < 0 || Object.is(value, -0) ? SIGN : 0);
}

/** Any quiet NaN will do. */
const samePattern = (f: Format) => (got: number, expected: number) =>
  equal(got, expected) || (Number.isNaN(expected) && isNaNPattern(got, f) && (got & (2 ** (f.mantissa - 1))) !== 0);

const ALL_PATTERNS = Uint16Array.from({ length: 2 ** 16 }, (_, h) => h);

/** Every value halfway between neighbours, its own neighbours in f32, and values of all sorts, with either sign. */
function between(format: Format): Float32Array {
  const halfway = Float32Array.from({ length: infinityOf(format) }, (_, h) => {
    const below = decoded(h, format);
    // beyond the largest value, as if there were one more
    const step = h + 1 < infinityOf(format) ? decoded(h + 1, format) - below : below - decoded(h - 1, format);
    return below + step / 2;
  });
  const bits = new Uint32Array(halfway.buffer);
  const next = random(31);
  const any = Uint32Array.from({ length: 2 ** 16 }, () => Math.floor(next() * 2 ** 31));
  const special = [0, 1, 2, 0x007fffff, 0x00800000, 0x7f7fffff, 0x7f800000, 0x7f800001, 0x7fc00000, 0x7fffffff];
  const magnitudes = [...bits, ...bits.map((b) => b - 1), ...bits.map((b) => b + 1), ...any, ...special];
  return new Float32Array(Uint32Array.from([...magnitudes, ...magnitudes.map((b) => b + 2 ** 31)]).buffer);
}

export function testWiden({ widen }: ExtendedExports, arena: Arena): void {
  it.each(FORMATS)("$name: every pattern exactly, in any ranges of elements", (format) => {
    for (const length of [...Array(40).keys(), 2 ** 16]) {
      const source = arena.u16(ALL_PATTERNS.map((h) => (length < 40 ? h * 0x1357 : h)).subarray(0, length));
      const target = arena.f32(blank(length));
      const run = (begin: number, end: number) => widen(format.type, source.pointer, target.pointer, begin, end);
      if (length < 40) checkRanges([target.view], length, run);
      run(0, length);
      expectSame(
        target.view,
        Array.from(source.view, (h) => decoded(h, format)),
        (i) => `pattern ${source.view[i]}`,
      );
      arena.close();
    }
  });

  it.each(FORMATS)("$name: infinity and NaN among ordinary values", (format) => {
    const infinity = infinityOf(format);
    const special = [infinity - 1, infinity, infinity + 1, SIGN - 1].flatMap((h) => [h, SIGN + h]);
    for (const patterns of amongOrdinary(0x3c00, special)) {
      const [source, target] = [arena.u16(Uint16Array.from(patterns)), arena.f32(blank(24))];
      widen(format.type, source.pointer, target.pointer, 0, 24);
      const expected = patterns.map((h) => decoded(h, format));
      expectSame(target.view, expected, (i) => `pattern ${patterns[i]}`);
      arena.close();
    }
  });
}

/** Lists of 24 values of which one, at every place of the second eight, is special. */
const amongOrdinary = (ordinary: number, special: readonly number[]): number[][] =>
  special.flatMap((value) =>
    Array.from({ length: 8 }, (_, at) => Array.from({ length: 24 }, (_, i) => (i === 8 + at ? value : ordinary + i))),
  );

export function testNarrow({ narrow, widen }: ExtendedExports, arena: Arena): void {
  it.each(FORMATS)("$name: to the nearest, ties to even, in any ranges of elements", (format) => {
    const all = between(format);
    for (const values of [...Array.from({ length: 40 }, (_, n) => all.subarray(7000, 7000 + n)), all]) {
      const source = arena.f32(values);
      // bit by bit, for a Float32Array of JavaScript may change what kind of NaN it holds
      new Uint8Array(arena.memory.buffer, source.pointer).set(new Uint8Array(values.slice().buffer));
      const target = arena.u16(new Uint16Array(values.length));
      const run = (begin: number, end: number) => narrow(format.type, source.pointer, target.pointer, begin, end);
      if (values !== all) checkRanges([target.view], values.length, run);
      run(0, values.length);
      const expected = Array.from(values, (v) => encoded(v, format));
      expectSame(target.view, expected, (i) => `element ${i}, of ${values[i]},`, samePattern(format));
      arena.close();
    }
  });

  it.each(FORMATS)("$name: NaN, infinity and what is too large among ordinary values", (format) => {
    const special = [65519, 65520, 65535, 65536, 1e38, 3.4e38, Infinity].flatMap((v) => [v, -v]);
    for (const numbers of amongOrdinary(1.001, [...special, Number.NaN])) {
      const [source, target] = [arena.f32(Float32Array.from(numbers)), arena.u16(new Uint16Array(24))];
      narrow(format.type, source.pointer, target.pointer, 0, 24);
      const expected = Array.from(source.view, (v) => encoded(v, format));
      expectSame(target.view, expected, (i) => `element ${i}, of ${numbers[i]},`, samePattern(format));
      arena.close();
    }
  });

  it.each(FORMATS)("$name: every pattern there and back", (format) => {
    const [there, wide] = [arena.u16(ALL_PATTERNS), arena.f32(blank(2 ** 16))];
    const back = arena.u16(new Uint16Array(2 ** 16));
    widen(format.type, there.pointer, wide.pointer, 0, 2 ** 16);
    narrow(format.type, wide.pointer, back.pointer, 0, 2 ** 16);
    const expected = Array.from(ALL_PATTERNS, (h) => (isNaNPattern(h, format) ? Number.NaN : h));
    expectSame(back.view, expected, (h) => `pattern ${h}, there and back,`, samePattern(format));
    expect(back.view[1]).toBe(1);
    arena.close();
  });
}
