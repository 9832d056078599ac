// Channels that are hard for batch normalization, in every walk, precision of sums, build, type of elements and
// activation, against the exact oracle. `npm run docs:numerics` writes the maxima into
// docs/concepts/numerics-measurements.md.

import { beforeAll, describe, expect, it } from "vitest";
import { type ActivationName, batchNormBackward, batchNormForward, type Dtype, type Layout } from "../../src/index.ts";
import { ACTIVATIONS } from "../support/activations.ts";
import { expectPart } from "../support/document.ts";
import { exactBackward, exactForward, exactStatistics } from "../support/exact.ts";
import { once } from "../support/once.ts";
import { dimsOf } from "../support/reference.ts";
import { type Measured, measureSweep, NAMES, SUMMED, type Sweep, WAYS, type Way } from "../support/sweep.ts";
import { BUILDS, normal, useBuild } from "../support/worlds.ts";

type Walk = readonly [layout: Layout, outer: number, inner: number];

/** Every walk, each with sums of every precision that it has. */
const WALKS: readonly Walk[] = [
  ["channels-first", 1, 5],
  ["channels-first", 1, 100],
  ["channels-first", 1, 600],
  ["channels-first", 1, 1100],
  ["channels-first", 2, 32],
  ["channels-first", 13, 40],
  ["channels-first", 33, 37],
  ["channels-first", 4, 784],
  ["channels-first", 5, 4],
  ["channels-first", 33, 4],
  ["channels-first", 300, 4],
  ["channels-last", 2, 1],
  ["channels-last", 16, 1],
  ["channels-last", 100, 1],
  ["channels-last", 130, 1],
  ["channels-last", 600, 1],
  ["channels-last", 2050, 1],
];

/** Batches of 2¹⁶ values per channel, and the patterns of their few channels. */
const LARGE_PATTERNS = ["normal", "alternating signs", "one outlier of 1e6", "many magnitudes"];
const LARGE: readonly Walk[] = [
  ["channels-first", 4, 16384],
  ["channels-last", 65536, 1],
];

const EPSILONS = [0, 1e-5, 1e-300];

const sweepOf = (
  way: Way,
  dtype: Dtype,
  activation: ActivationName,
  [layout, outer, inner]: Walk,
  seed: number,
): Sweep => ({
  patterns: NAMES,
  ...{ way, dtype, activation, layout, outer, inner, seed },
  epsilon: EPSILONS[seed % 3] as number,
  wide: seed % 2 === 1,
});

const TYPES = ["float32", "float64", "float16", "bfloat16"] as const;
const GROUPS = WAYS.flatMap((way) =>
  TYPES.flatMap((dtype) => activationsOf(way, dtype).map((activation) => ({ way, dtype, activation }))),
).map((group, i) => ({ ...group, sweeps: sweepsOf(group, i) }));

/**
 * The activations of a way: all of plain batches, and of the others those that have their own code there. SiLU's oracle is as
 * exact as the engine's exponential, which is not enough for a table of float64 that every engine has to find again.
 */
function activationsOf(way: Way, dtype: Dtype): readonly ActivationName[] {
  if (way === "plain") return ACTIVATIONS;
  const silu = dtype === "float64" ? [] : (["silu"] as const);
  return way === "residual" ? ["none", "relu", ...silu] : ["none", ...silu];
}

/**
 * Returns the sweeps of a group: all walks of plain float32, with near and wide magnitudes. Of the others it is every third
 * walk of plain batches, and every sixth of the other ways, each time from another one on.
 */
function sweepsOf({ way, dtype, activation }: Pick<Sweep, "way" | "dtype" | "activation">, group: number): Sweep[] {
  if (way === "plain" && dtype === "float32" && activation === "none")
    return WALKS.flatMap((walk) => [0, 1, 3].map((seed) => sweepOf(way, dtype, activation, walk, seed)));
  const every = way === "plain" ? 3 : 6;
  return WALKS.filter((_, i) => i % every === group % every).map((walk, i) =>
    sweepOf(way, dtype, activation, walk, group + i),
  );
}

/**
 * The largest distances in u that docs/concepts/numerics.md promises: of y, of dx, and of sums that are f64 sums, and of the
 * blocked ones.
 */
function gatesOf(dtype: Dtype, activation: ActivationName) {
  const silu = activation === "silu";
  if (dtype === "float64") return { y: 8, dx: silu ? 16 : 8, inF64: 8, blocked: 8, mean: 8 };
  return { y: 4, dx: silu ? 8 : 4, inF64: silu ? 4 : 1, blocked: 16, mean: 1 };
}

const measured = new Map<string, Measured[]>();

const nameOf = ({ way, dtype, activation }: Pick<Sweep, "way" | "dtype" | "activation">) =>
  `${dtype}, ${activation}${way === "plain" ? "" : `, ${way}`}`;

describe.each(BUILDS)("hard channels, %s build", (build) => {
  beforeAll(() => useBuild(build));

  const check = (sweep: Sweep) => {
    const gates = gatesOf(sweep.dtype, sweep.activation);
    const channels = measureSweep(sweep);
    expect(channels.length).toBe(sweep.patterns.length);
    for (const { pattern, blocked, u, lost } of channels) {
      const name = (output: string) => `${output} of "${pattern}" in ${JSON.stringify(sweep)}`;
      expect(lost, name("lost elements")).toBe(0);
      if (u.y !== undefined) expect(u.y, name("y")).toBeLessThanOrEqual(gates.y);
      if (u.dx !== undefined) expect(u.dx, name("dx")).toBeLessThanOrEqual(gates.dx);
      for (const output of SUMMED) {
        const gate = !blocked ? gates.inF64 : output === "mean" ? gates.mean : gates.blocked;
        expect(u[output], name(output)).toBeLessThanOrEqual(gate);
      }
    }
    if (build !== "simd") return;
    const key = nameOf(sweep);
    measured.set(key, [...(measured.get(key) ?? []), ...channels]);
  };

  it.each(GROUPS)("$way, $dtype, $activation: within the promise", ({ sweeps }) => {
    for (const sweep of sweeps) check(sweep);
  });

  it("2¹⁶ values per channel: within the promise", () => {
    for (const [i, walk] of LARGE.entries())
      check({ ...sweepOf("plain", "float32", "none", walk, i), patterns: LARGE_PATTERNS });
  });
});

describe.each(BUILDS)("the ends of the range, %s build", (build) => {
  beforeAll(() => useBuild(build));

  const run = (x: Float32Array, shape: readonly number[], gamma: number, epsilon: number, layout: Layout) => {
    const C = layout === "channels-last" ? (shape.at(-1) as number) : (shape[1] as number);
    const [g, b] = [new Float32Array(C).fill(gamma), Float32Array.from({ length: C }, (_, c) => c - 0.3)];
    const forward = batchNormForward({ data: x, shape }, { gamma: g, beta: b }, { epsilon, layout });
    const dy = { data: normal(2, x.length), shape };
    return { beta: b, y: forward.y.data, ...batchNormBackward(dy, forward.saved) };
  };

  const shapes: readonly [Layout, readonly number[]][] = [
    ["channels-last", [12, 3]],
    ["channels-last", [2100, 2]],
    ["channels-first", [2, 3, 640]],
    ["channels-first", [30, 3, 4]],
  ];

  it.each(shapes)("a constant channel gives exactly beta with any epsilon, %s %j", (layout, shape) => {
    for (const epsilon of [0, 5e-324, 1e-300, 1e-80, 1e-40, 1])
      for (const value of [3.4e38, -7.3, 1e-45]) {
        const x = new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(value);
        const { y, dGamma, beta } = run(x, shape, 2, epsilon, layout);
        const d = dimsOf(shape, layout);
        y.forEach((v, i) => {
          if (v !== beta[Math.floor(i / d.inner) % d.channels]) expect.fail(`y[${i}] is ${v} with epsilon ${epsilon}`);
        });
        expect(dGamma?.every((v) => v === 0)).toBe(true);
      }
  });

  it.each(shapes)(
    "values of ±3.4e38 have finite results, within 4 u of the channel's largest, %s %j",
    (layout, shape) => {
      const x = new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(3.4e38);
      const d = dimsOf(shape, layout);
      for (let c = 0; c < d.channels; c++) x[c * d.inner + 1 - Math.min(1, d.inner % 2)] = -3e38;
      const { y, dx, beta } = run(x, shape, 2, 1e-5, layout);
      const { mean, invStd } = once(`ends ${shape}`, () => exactStatistics({ x, d, epsilon: 1e-5 }));
      const error = new Float64Array(d.channels);
      const scale = new Float64Array(d.channels);
      y.forEach((v, i) => {
        const c = Math.floor(i / d.inner) % d.channels;
        const term = 2 * ((x[i] as number) - (mean.high[c] as number)) * (invStd.high[c] as number);
        const distance = Math.abs(v - term - (beta[c] as number));
        error[c] = Math.max(error[c] as number, Number.isNaN(distance) ? Infinity : distance);
        scale[c] = Math.max(scale[c] as number, Math.abs(term) + Math.abs(beta[c] as number));
      });
      for (const [c, e] of error.entries()) expect(e).toBeLessThanOrEqual(4 * 2 ** -24 * (scale[c] as number));
      expect(dx?.data.every(Number.isFinite)).toBe(true);
    },
  );

  it.each(shapes)("dGamma keeps its digits where epsilon is far above a tiny variance, %s %j", (layout, shape) => {
    const d = dimsOf(shape, layout);
    const length = shape.reduce((n, size) => n * size, 1);
    // products dy·d around 1e-42, which float32 has with few bits
    const [x, dy] = [normal(3, length, 1e-22), normal(4, length, 1e-20)];
    const ones = new Float32Array(d.channels).fill(1);
    const { saved } = batchNormForward({ data: x, shape }, {}, { epsilon: 1, layout });
    const { dGamma } = batchNormBackward({ data: dy, shape }, saved);
    const exact = once(`tiny ${shape}`, () => {
      const input = { x, d, gamma: ones, beta: ones, epsilon: 1, slope: 0, roundsMean: false };
      const statistics = exactStatistics(input);
      const forward = exactForward({ ...input, activation: "none" }, statistics);
      return exactBackward({ ...input, activation: "none" }, dy, forward, statistics).dGamma;
    });
    for (let c = 0; c < d.channels; c++) {
      const error = Math.abs((dGamma?.[c] as number) - (exact.high[c] as number));
      expect(error).toBeLessThanOrEqual(Math.max(2 ** -24 * (exact.scale[c] as number), 2 ** -149));
    }
  });

  it.each(shapes)("gamma·invStd beyond float32 leaves results finite, %s %j", (layout, shape) => {
    const x = normal(
      1,
      shape.reduce((a, b) => a * b, 1),
      1e-30,
    );
    for (const gamma of [1e9, -1e30]) {
      const { y, dx } = run(x, shape, gamma, 0, layout);
      expect(y.every(Number.isFinite)).toBe(true);
      // dx is beyond float32 itself, but never NaN
      expect(dx?.data.some(Number.isNaN)).toBe(false);
    }
  });
});

describe("the exact oracle", () => {
  it("has the mean and the variance of rational numbers", () => {
    // multiples of 1/64, so that all of them, times 1024, are integers
    const x = Float32Array.from(normal(5, 999, 300, 5e4), (v) => Math.round(v * 64) / 64);
    const { mean, variance } = exactStatistics({ x, d: { outer: 999, channels: 1, inner: 1 }, epsilon: 0 });
    const values = Array.from(x, (v) => BigInt(v * 1024));
    const sum = values.reduce((a, b) => a + b, 0n);
    const squares = values.reduce((a, b) => a + b * b, 0n);
    const bits = 200n;
    /** A pair as an integer of units of 2⁻²⁰⁰. */
    const fixed = ([high, low]: readonly [number, number]) =>
      [high, low].reduce((total, v) => total + (BigInt(v * 2 ** 100) << (bits - 100n)), 0n);
    const [m, b] = [BigInt(x.length), (sum << bits) / (999n * 1024n)];
    const v = ((squares * m - sum * sum) << bits) / (m * m * 1024n * 1024n);
    const near = (got: bigint, want: bigint) => {
      const error = got > want ? got - want : want - got;
      expect(error << 95n < want).toBe(true);
    };
    near(fixed(mean.at(0)), b);
    near(fixed(variance.at(0)), v);
  });
});

describe("docs/concepts/numerics-measurements.md", () => {
  const file = new URL("../../docs/concepts/numerics-measurements.md", import.meta.url);
  const show = (values: readonly (number | undefined)[]) => {
    const known = values.filter((v) => v !== undefined);
    if (known.length === 0) return "–";
    const most = Math.max(...known);
    return most < 0.001 ? "< 0.001" : Number(most.toPrecision(2)).toString();
  };
  const row = (title: string, list: readonly Measured[]) => {
    const sums = list.flatMap(({ blocked, u }) => (blocked ? [] : SUMMED.map((name) => u[name])));
    const cells = [list.map(({ u }) => u.y), list.map(({ u }) => u.dx), sums].map(show);
    const blocked = list.filter((one) => one.blocked);
    return `| ${[title, ...cells, ...SUMMED.map((name) => show(blocked.map(({ u }) => u[name])))].join(" | ")} |`;
  };
  const head = (title: string) => [
    `| ${title} | y | dx | f64 sums | mean | variance | invStd | dGamma | dBeta |`,
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
  ];

  it("holds the maxima of every pattern and of every type and activation", () => {
    const plain = measured.get("float32, none") ?? [];
    const patterns = NAMES.map((name) =>
      row(
        name,
        plain.filter(({ pattern }) => pattern === name),
      ),
    );
    expectPart(file, "sweep", [...head("values of a channel, float32"), ...patterns].join("\n"));
    const types = GROUPS.map((group) => row(nameOf(group), measured.get(nameOf(group)) ?? []));
    expectPart(file, "sweep-types", [...head("all of these channels"), ...types].join("\n"));
  });
});
