// Tests of vectors with one value per channel: pivots, statistics with their bounds for unreliable channels, and
// coefficients.

import { expect, it } from "vitest";
import { blank, equal, expectSame, UNWRITTEN } from "../../support/arena.ts";
import * as world from "./world.ts";
import { AGAIN, dimsOf, integers, Planned, type World } from "./world.ts";

/** Every value of a row of coefficients is its channel's. */
function expectRow(p: Planned, r: number, of: (channel: number) => number, name: string): void {
  const expected = Array.from(p.row(r), (_, column) => of(p.channelOf(column)));
  expectSame(p.row(r), expected, (column) => `${name} of [${p.dims}], row ${r}, column ${column}`, equal);
}

/** Pivots: the mean of a power of two of first values, the channel's spread telling how coarse it is. */
export function testPivots(w: World): void {
  const powerOf = (n: number) => 2 ** Math.floor(Math.log2(n));

  function check(p: Planned, x: ArrayLike<number>): void {
    const [outer, inner, width] = ["outer", "inner", "columnsPerChannel"].map(p.get) as [number, number, number];
    const { channels } = p.plan;
    const most = p.get("precision") === 2 ? 1 : 16;
    const run = powerOf(Math.min(inner, most));
    const planes = powerOf(Math.min(outer, Math.floor(most / run)));
    const pivots = p.row(0).slice();
    for (let c = 0; c < channels; c++) {
      const first = Array.from({ length: planes }, (_, n) => (n * channels + c) * inner);
      const values = first.flatMap((at) => Array.from({ length: run }, (_, i) => x[at + i] as number));
      const mean = values.reduce((a, b) => a + b / values.length, 0);
      const spread = Math.max(...values.map((v) => Math.abs(v - mean)));
      const got = pivots[c * width] as number;
      // a multiple of 1/32 of the spread's leading bit, and the nearest one
      const step = powerOf(spread) / 32;
      const coarse = Number.isInteger(got / step) && Math.abs(got - mean) <= step / 2;
      if (!(spread > 0 ? coarse : equal(got, mean)))
        expect.fail(`pivot ${c} of [${p.dims}] is ${got}, the mean ${mean}`);
    }
    expectRow(p, 0, (c) => pivots[c * width] as number, "pivots");
    w.arena.close();
  }

  it("means of some of the first values, coarsely rounded, in all columns, and in any ranges of planes", () => {
    for (const dims of [...world.SMALL, ...world.DIVISIBLE.slice(0, -3), ...dimsOf("600×33×1 300×7×5")]) {
      const p = new Planned(w, dims);
      const x = w.arena.real(integers(11, p.plan.length));
      const run = (begin: number, end: number) => w.phases.pivots(p.pointer, x.pointer, begin, end);
      if (p.get("planar")) world.checkRanges([p.bytes], p.plan.channels, run);
      run(0, p.plan.channels);
      check(p, x.view);
    }
  });

  it("of tiles, whose channels lie closer together", () => {
    for (const dims of world.IN_TILES.slice(0, 2)) {
      const p = new Planned(w, dims, world.TILED);
      const x = integers(11, p.plan.length);
      p.forTiles((begin, end, indices, before) => {
        const tile = w.arena.real(world.gather(x, indices));
        w.phases.pivots(p.pointer, tile.pointer - before * tile.view.BYTES_PER_ELEMENT, begin, end);
      });
      check(p, x);
    }
  });

  it("as they are of values that do not differ, the largest ones, too, and of what is not finite", () => {
    for (const value of [w.arena.wide ? Number.MAX_VALUE : 2 ** 127, -3, 0, Infinity, Number.NaN])
      for (const dims of dimsOf("33×2×40 1100×5×1")) {
        const p = new Planned(w, dims);
        const x = w.arena.real(new Float64Array(p.plan.length).fill(value));
        w.phases.pivots(p.pointer, x.pointer, 0, p.plan.channels);
        check(p, x.view);
      }
  });
}

/** Planes, channels of one column and of several, rows of one period and of several, of one stripe and several. */
const PATTERNS = dimsOf(
  "64×2×32 1×3×2048 1024×1×1 1024×5×1 256×3×4 128×5×16 2048×64×1 32768×5×1 2048×32×4 2×3×16 4×2×1",
);

/** Sums by value, invStd, and whether they are unreliable in float32, and in float64. */
type Bound = readonly [sum: number, dot: number, invStd: number, float32: boolean, float64: boolean];

/** Variances about a mean so far from the pivot. */
const variances = (delta: number, list: readonly number[], float32: boolean, float64: boolean) =>
  list.map((v): Bound => [delta, v + delta * delta, 0, float32, float64]);
const MOMENTS: readonly Bound[] = [
  ...variances(0, [2 ** -120, 1, 2 ** 120], false, false),
  ...variances(0, [0, 2 ** -121, 2 ** 121, 2 ** 1016], true, false),
  ...variances(0, [2 ** 1017, Infinity, Number.NaN], true, true),
  // at most a standard deviation
  ...[...variances(1, [1, 2], false, false), ...variances(1, [0.75, 0], true, true)],
  ...[
    ...variances(-4, [16], false, false),
    ...variances(-4, [9], true, true),
    ...variances(Number.NaN, [1], true, true),
  ],
];

/** Sizes of Σ dy·d, of Σ dy, and invStd; nothing is wider than float64. */
const gradients = (dots: readonly number[], sums: readonly number[], invStd: readonly number[], float32: boolean) => [
  ...dots.flatMap((s): Bound[] => [
    [0, s, 1, float32, false],
    [1, -s, 1, float32, false],
  ]),
  ...sums.map((s): Bound => [s, 1, 1, float32, false]),
  ...invStd.map((i): Bound => [1, 1, i, float32, false]),
];
const GRADIENTS: readonly Bound[] = [
  ...gradients([2 ** -100, 1, 1e300], [0, 2 ** -149, 1e300], [2 ** -60, 2 ** 20], false),
  ...gradients([0, 2 ** -101, Infinity, Number.NaN], [-Infinity, Number.NaN], [2 ** -61, 2 ** 21], true),
];

/** Writes sums into all entries; returns the sums of every channel. */
function setSums(p: Planned, operation: number, of: (entry: number) => readonly [number, number]) {
  const entries = p.entries(operation);
  const [sum, dot] = [p.f64("sum", p.get("stripes") * entries), p.f64("dot", p.get("stripes") * entries)];
  const [sums, dots] = [new Float64Array(p.plan.channels), new Float64Array(p.plan.channels)];
  for (let e = 0; e < sum.length; e++) {
    [sum[e], dot[e]] = of(e);
    const channel = p.channelOf(e % entries);
    sums[channel] = (sums[channel] as number) + (sum[e] as number);
    dots[channel] = (dots[channel] as number) + (dot[e] as number);
  }
  return [sums, dots] as const;
}

export function testStatistics(w: World): void {
  const { wide } = w.arena;
  const pivotOf = (operation: number) => (operation & 1 ? 0 : 7);
  const meanOf = (c: number) => c + 2 ** -30;

  it.each([0, 1, 0 | AGAIN, 1 | AGAIN])("operation %i: of all entries, in any ranges", (operation) => {
    for (const dims of PATTERNS) {
      const p = new Planned(w, dims);
      const [{ channels }, count] = [p.plan, dims[0] * dims[2]];
      const run = (begin: number, end: number) => w.phases.statistics(p.pointer, operation, 0.25, begin, end);
      p.setRows([Float64Array.from({ length: p.get("period") }, (_, j) => p.channelOf(j) - 7)]);
      if (operation & 1) {
        p.f64("mean").set(Array.from({ length: channels }, (_, c) => meanOf(c)));
        p.f64("invStd").fill(0.5);
      }
      const [sums, dots] = setSums(p, operation, (e) => [(e % 17) - 8, (operation & 1 ? 1 : count * 64) + (e % 100)]);
      world.checkRanges([p.bytes], channels, run);
      expect(run(0, channels)).toBe(0);
      const variance = dots.map((dot, c) => dot / count - ((sums[c] as number) / count) ** 2);
      const expected: Record<string, Float64Array> = {
        mean: sums.map((sum, c) => c - 7 + sum / count),
        ...{ variance, invStd: variance.map((v) => 1 / Math.sqrt(v + 0.25)) },
      };
      const ofGradients = {
        dBeta: sums,
        dGamma: dots.map((dot, c) => (dot - (meanOf(c) - (c - 7)) * (sums[c] as number)) * 0.5),
      };
      for (const [field, values] of Object.entries(operation & 1 ? ofGradients : expected))
        expectSame(p.f64(field), values, (c) => `${field}[${c}] of [${dims}]`);
      expectSame(p.unreliable, new Uint8Array(channels), (c) => `unreliable[${c}] of [${dims}]`);
      w.arena.close();
    }
  });

  it.each([0, 1])("operation %i: of two neighbours the one out of bounds is unreliable", (operation) => {
    for (const dims of PATTERNS.filter(([, channels]) => channels > 1))
      for (const [first, second, invStd, bad32, bad64] of operation ? GRADIENTS : MOMENTS)
        for (const channel of [0, 1]) {
          const count = dims[0] * dims[2];
          if (second < Infinity && second * count === Infinity) continue;
          const p = new Planned(w, dims);
          p.setRows([new Float64Array(p.get("period")).fill(pivotOf(operation))]);
          if (operation) p.f64("mean").fill(0);
          if (operation) p.f64("invStd").fill(1)[channel] = invStd;
          p.unreliable.fill(2);
          const sums = [0, 1].map((c) => (c === channel ? [first * count, second * count] : [0, count]));
          const entry = sums.map((_, c) => {
            for (let e = 0; ; e++) if (p.channelOf(e) === c) return e;
          });
          setSums(p, operation, (e) => (sums[entry.indexOf(e)] ?? [0, 0]) as [number, number]);
          const got = w.phases.statistics(p.pointer, operation, 0, 0, 2);
          const bad = Number(wide ? bad64 : bad32);
          const name = `channel ${channel}: ${first}, ${second}, ${invStd} of [${dims}]`;
          const expected = [bad, 0, p.get("precision") === 2 ? 0 : bad];
          expect([p.unreliable[channel], p.unreliable[1 - channel], got], name).toEqual(expected);
          w.arena.close();
        }
  });

  it.each([0, 1, 0 | AGAIN, 1 | AGAIN])("operation %i: unreliable out of bounds", (operation) => {
    for (const dims of PATTERNS)
      for (const [first, second, invStd, bad32, bad64] of operation & 1 ? GRADIENTS : MOMENTS) {
        const count = dims[0] * dims[2];
        if (second < Infinity && second * count === Infinity) continue;
        const p = new Planned(w, dims);
        p.setRows([new Float64Array(p.get("period")).fill(pivotOf(operation))]);
        for (const field of ["mean", "invStd", "dBeta"]) p.f64(field).fill(UNWRITTEN);
        if (operation & 1) p.f64("mean")[0] = 0;
        if (operation & 1) p.f64("invStd")[0] = invStd;
        p.unreliable.fill(2);
        setSums(p, operation, (e) => (e ? [0, 0] : [first * count, second * count]));
        const got = w.phases.statistics(p.pointer, operation, 0, 0, 1);
        const bad = wide ? bad64 : bad32;
        const last = (operation & AGAIN) !== 0 || p.get("precision") === 2;
        const of = `${first}, ${second}, ${invStd} of [${dims}]`;
        expect([p.unreliable[0], got], of).toEqual([Number(bad), Number(bad && !last)]);
        // of other channels nothing
        const written = p.f64(operation & 1 ? "dBeta" : "mean").subarray(1);
        expectSame(written, blank(dims[1] - 1), (c) => `channel ${c + 1} of [${dims}]`);
        // a second sum of float64 is about the mean
        const pivot = wide && bad ? (p.f64("mean")[0] as number) : pivotOf(operation);
        expectRow(p, 0, (c) => (c ? pivotOf(operation) : pivot), `pivots after ${of}`);
        w.arena.close();
      }
  });

  it("keep what rounding takes from float64 when they merge columns, and are plain sums of float32", () => {
    const p = new Planned(w, [2, 2, 31]);
    p.setRows([new Float64Array(62)]);
    // 2^53, and 30 times 1, half a unit of it
    setSums(p, 0, (e) => [e === 7 ? 2 ** 53 : Number(e < 31), 0]);
    w.phases.statistics(p.pointer, 0, 0, 0, 2);
    w.phases.statistics(p.pointer, 1, 0, 0, 2);
    const sum = 2 ** 53 + (wide ? 30 : 6 + 1);
    expect([p.f64("mean")[0], p.f64("dBeta")[0]]).toEqual([sum / 62, sum]);
    w.arena.close();
  });

  if (!wide)
    it("operation 4: invStd of given variances, with and without epsilon", () => {
      const p = new Planned(w, [3, 5, 1]);
      p.f64("variance").set([0, 1, 4, 1e60, 1e-60]);
      p.f64("invStd").fill(UNWRITTEN);
      expect(w.phases.statistics(p.pointer, 4, 0, 0, 4)).toBe(0);
      expect([...p.f64("invStd")]).toEqual([0, 1, 0.5, 1 / Math.sqrt(1e60), UNWRITTEN]);
      w.phases.statistics(p.pointer, 4, 0.25, 0, 1);
      expect(p.f64("invStd")[0]).toBe(2);
      w.arena.close();
    });
}

const VECTORS = ["mean", "invStd", "dGamma", "dBeta"];

/** Every map's coefficients; `maps` says how many rows each has. */
export function testCoefficients(w: World, maps: Readonly<Record<number, number>>): void {
  const { round, real } = w.arena;
  const shapes = [...dimsOf("1×4×7 3×7×40 5×4×1 3×5×3 100×3×2 70×5×1 2×1×1"), ...world.STRIPED];
  const count = 12;

  it.each(Object.entries(maps))("map %s: its %i rows of every channel, in all of its columns", (key, rows) => {
    const map = Number(key);
    for (const dims of shapes)
      for (const given of [0, 1, 2, 3]) {
        const p = new Planned(w, dims);
        const { channels } = p.plan;
        const take = (seed: number, scale: number) => integers(seed, channels).map((v) => v * scale || 1);
        const [mean, invStd, dGamma, dBeta] = VECTORS.map((f) => p.f64(f)) as Float64Array[];
        for (const [k, v] of [mean, invStd, dGamma, dBeta].entries()) v?.set(take(k, [1, 1e-3, 1.7, 1e5][k] as number));
        mean?.set(mean.map((v) => v * (1 + 2 ** -30)));
        const [gamma, beta] = [real(take(5, 0.3)), real(take(6, 1e3))];
        const [g, b] = [given & 1 ? gamma.pointer : 0, given & 2 ? beta.pointer : 0];
        const caller = [7, 8, 9, 10, 11].map((seed) => integers(seed, channels));
        p.row(0, 5).fill(UNWRITTEN);
        if (map === 4) for (const [r, row] of caller.entries()) p.row(r).set(row);
        const run = (begin: number, end: number) => w.phases.coefficients(p.pointer, map, g, b, count, begin, end);
        if (p.get("planar")) world.checkRanges([p.bytes], channels, run);
        run(0, channels);
        const table = Array.from({ length: channels }, (_, c): number[] => {
          const [m, i] = [mean?.[c] as number, invStd?.[c] as number];
          const weight = g ? (gamma.view[c] as number) : 1;
          const low = m - round(m);
          const shift = (b ? (beta.view[c] as number) : 0) - low * (weight * i);
          const x = (-i * (dGamma?.[c] as number)) / count;
          const dxShift = -(dBeta?.[c] as number) / count - low * x;
          if (map === 0 || map === 6) return [m, weight * i, shift];
          if (map === 1) return [m, weight * i, dxShift, x, shift];
          if (map === 2) return [0, weight * i, 0];
          return map === 3 ? [m, i, dxShift, x, weight] : caller.map((row) => row[c] as number);
        });
        for (let r = 0; r < 5; r++)
          expectRow(p, r, (c) => (r < rows ? round(table[c]?.[r] as number) : UNWRITTEN), `map ${map}, ${given}`);
        w.arena.close();
      }
  });

  it("hi is 0 where x − hi may overflow float32, and coefficients that are finite stay so", () => {
    const most = w.arena.wide ? Infinity : 2 ** 128 - 2 ** 104;
    const limited = (v: number) => (Math.abs(v) < Infinity ? Math.max(-most, Math.min(v, most)) : v);
    for (const dims of dimsOf("4×5×1 2×5×32 16×5×16"))
      for (let turn = 0; turn < 5; turn++) {
        const m = dims[0] * dims[2];
        const limit = Math.sqrt(m) * 2 ** -128;
        const turned = (list: readonly number[]) => list.map((_, c) => list[(c + turn) % 5] as number);
        const invStd = turned([limit, limit * (1 + 2 ** -20), 1e40, 1, Number.NaN]);
        const gamma = turned([1, 2, -3, Infinity, 1]);
        const far = invStd.map((v) => !w.arena.wide && !(v > limit));
        for (const map of [0, 1]) {
          const p = new Planned(w, dims);
          p.f64("mean").fill(2 ** 127);
          p.f64("invStd").set(invStd);
          p.f64("dGamma").fill(-m);
          p.f64("dBeta").fill(-3 * m);
          w.phases.coefficients(p.pointer, map, real(gamma).pointer, 0, m, 0, 5);
          const expected = invStd.map((s, c): number[] => {
            const scale = (gamma[c] as number) * s;
            const low = far[c] ? 2 ** 127 : 0;
            const rows = [far[c] ? 0 : 2 ** 127, limited(scale)];
            return map ? [...rows, 3 - low * s, limited(s)] : [...rows, 0 - low * scale];
          });
          for (let r = 0; r < 3 + map; r++)
            expectRow(p, r, (c) => round(expected[c]?.[r] as number), `map ${map}, turn ${turn}`);
          w.arena.close();
        }
      }
  });
}
