// Tests of sums and the map of positions with weights, in every walk, against their definition.

import { expect, it } from "vitest";
import { expectSame } from "../../support/arena.ts";
import * as world from "./world.ts";
import { integers, Planned, type World } from "./world.ts";

const WEIGHTED = 8;
const ALL = [...world.SMALL, ...world.BLOCKED.filter((_, i) => i % 4 === 0), ...world.STRIPED];

/** A tensor of integers whose positions have weights of 0 to 3, and are not finite where the weight is 0. */
function weighted(w: World, dims: world.Dims) {
  const p = new Planned(w, dims);
  const { length, channels, inner = 1, outer = 1 } = p.plan;
  const rows = [3, 4, 5, 6].map((seed) => integers(seed, p.get("period")));
  p.setRows(rows);
  const weights = Array.from({ length: outer * inner }, (_, i) => (i * 7 + 2) % 4);
  const repeated = Array.from({ length: outer * (inner + 3) }, (_, i) => {
    const n = Math.floor(i / (inner + 3));
    return weights[n * inner + ((i % (inner + 3)) % inner)] as number;
  });
  const weightOf = (i: number) => weights[Math.floor(i / inner / channels) * inner + (i % inner)] as number;
  const [x, dy] = [1, 2].map((seed) => {
    const values = Float64Array.from(integers(seed, length));
    for (let i = seed; i < length; i += 3) if (!weightOf(i)) values[i] = [Number.NaN, Infinity][i % 2] as number;
    return w.arena.real(values);
  });
  return { p, rows, repeated, weightOf, x: x as NonNullable<typeof x>, dy: dy as NonNullable<typeof dy> };
}

/** Every element once, and by definition: sums in any ranges of units, and the map in place. */
export function testWeights(w: World): void {
  const type = w.arena.wide ? "float64" : "float32";

  it(`${type}, sums of positions with weights`, () => {
    for (const dims of ALL)
      for (const operation of [0, 1]) {
        const { p, rows, repeated, weightOf, x, dy } = weighted(w, dims);
        const { pointer } = operation ? w.arena.real(repeated) : w.arena.f64(repeated);
        const [stripes, columns, period] = ["stripes", "columns", "period"].map(p.get) as [number, number, number];
        const entries = p.get("planar") || w.arena.wide ? columns : period;
        const size = p.get("stripe") * columns;
        const column = p.column();
        const [sum, dot] = [new Float64Array(stripes * entries), new Float64Array(stripes * entries)];
        for (let i = 0; i < p.plan.length; i++) {
          const [v, g, c] = [x.view[i] as number, dy.view[i] as number, column(i)];
          if (!weightOf(i) && !(operation && Number.isFinite(v) && Number.isFinite(g))) continue;
          const d = v - (rows[0]?.[c] as number);
          const u = operation ? g : weightOf(i) * d;
          const e = p.get("planar") ? c : Math.floor(i / size) * entries + c;
          (sum[e] as number) += u;
          (dot[e] as number) += u * d;
        }
        const units = p.get("planar") ? p.plan.channels : stripes;
        const run = (begin: number, end: number) =>
          w.phases.sums(p.pointer, operation + WEIGHTED, 0, x.pointer, dy.pointer, pointer, begin, end);
        if (world.DIVISIBLE.includes(dims)) world.checkRanges([p.bytes], units, run);
        run(0, units);
        for (const [field, expected] of Object.entries({ sum, dot })) {
          const of = (i: number) => `operation ${operation}, [${dims}]: ${field}[${i}]`;
          expectSame(p.f64(field, expected.length), expected, of, (a, b) => a === b);
        }
        w.arena.close();
      }
  });

  it(`${type}, the map of positions with weights, over dy and elsewhere`, () => {
    for (const dims of ALL)
      for (const inPlace of [true, false]) {
        const { p, rows, repeated, weightOf, x, dy } = weighted(w, dims);
        const { pointer } = w.arena.real(repeated);
        const column = p.column();
        const expected = dy.view.map((g, i) => {
          const [hi, scale, shift, xCoefficient] = rows.map((row) => row[column(i)] as number) as [
            number,
            number,
            number,
            number,
          ];
          const weight = weightOf(i);
          return ((weight && weight * (((x.view[i] as number) - hi) * xCoefficient + shift)) + g) * scale;
        });
        const y = inPlace ? dy : w.arena.real(new Float64Array(p.plan.length));
        w.phases.map(p.pointer, 1, 0, x.pointer, dy.pointer, pointer, y.pointer, 0, 0, p.units());
        expectSame(
          y.view,
          expected,
          (i) => `[${dims}]: dx[${i}]`,
          (a, b) => a === b || (Number.isNaN(a) && Number.isNaN(b)),
        );
        expect(y.view.length).toBe(p.plan.length);
        w.arena.close();
      }
  });
}
