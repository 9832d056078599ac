// Activations and residuals that are fused into the map: what they compute, which elements backward lets through, what
// they may overwrite, and what they must not touch.

import { afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import {
  type ActivationName,
  BatchNorm,
  batchNormBackward,
  batchNormForward,
  batchNormInference,
  type Layout,
  type Mode,
  type TensorLike,
  tensor,
} from "../src/index.ts";
import { defaultHeap } from "../src/memory/heap.ts";
import { activate, backward, type Dims, derivative, dimsOf, forward, invStdOf, statistics } from "./reference.ts";
import { drop, KINDS, type Kind, make, makeOf, normal, random, useBuild, WORLDS } from "./worlds.ts";

const LAYOUTS = ["channels-first", "channels-last"] as const;
const BENT = ["relu", "leaky_relu", "relu6", "silu"] as const;
const ACTIVATIONS: readonly ActivationName[] = ["none", ...BENT];
const MODES: readonly Mode[] = ["train", "batch", "eval", "frozen"];

const sizeOf = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);
const inChannel = (d: Dims, i: number) => Math.floor(i / d.inner) % d.channels;

/** Both walks; sums of every precision (fewer than 128 values a channel, up to 1023, more); one channel, and three. */
const SHAPES: readonly [Layout, readonly number[]][] = [
  ["channels-first", [5, 3]],
  ["channels-first", [4, 3, 5]],
  ["channels-first", [2, 3, 37]],
  ["channels-first", [50, 3, 5]],
  ["channels-first", [13, 3, 45]],
  ["channels-first", [210, 3, 5]],
  ["channels-first", [29, 3, 37]],
  ["channels-first", [30, 1, 7]],
  ["channels-last", [41, 3]],
  ["channels-last", [7, 29, 20]],
  ["channels-last", [1100, 3]],
  ["channels-last", [1100, 1]],
];

interface Layer {
  readonly gamma: Float32Array;
  readonly beta: Float32Array;
}

/** What a layer computes, in float64, with condition scales; `open` is f′ at every element where float32 decides it. */
function oracle(
  o: { name: ActivationName; slope?: number; batch: boolean; epsilon: number },
  d: Dims,
  x: Float32Array,
  dy: Float32Array,
  residual: Float32Array | undefined,
  { gamma, beta }: Layer,
  running: { mean: ArrayLike<number>; variance: Float64Array } | undefined,
  y32: ArrayLike<number>,
) {
  const { mean, variance } = running ?? statistics(x, d);
  const invStd = invStdOf(variance, o.epsilon);
  const affine = forward(x, d, mean, invStd, gamma, beta);
  const z = affine.y.map((v, i) => v + (residual?.[i] ?? 0));
  const scale = affine.scale.map((v, i) => v + Math.abs(residual?.[i] ?? 0));
  const slope = o.slope ?? 0.01;
  // at a kink, float32 and float64 may disagree on the side; y tells which side float32 saw
  const bend = (i: number) => {
    if (o.name === "silu" || o.name === "none") return derivative(o.name, z[i] as number);
    const seen = y32[i] as number;
    return derivative(o.name, seen, slope);
  };
  const dz = Float64Array.from(dy, (g, i) => g * bend(i));
  // |f″| ≤ ½ for SiLU: an error of z is one of f′
  const dzScale = Float64Array.from(dy, (g, i) => {
    const curved = o.name === "silu" ? (scale[i] as number) / 2 : 0;
    return Math.abs(g) * (Math.abs(bend(i)) + curved);
  });
  const exact = backward(x, dz, d, mean, invStd, gamma, o.batch);
  const magnitudes = backward(x, dzScale, d, mean, invStd, gamma, o.batch);
  return {
    y: z.map((v) => activate(o.name, v, slope)),
    yScale: scale,
    dz,
    dzScale,
    ...exact,
    dxScale: magnitudes.dxScale,
    dGammaScale: magnitudes.dGammaScale,
    dBetaScale: magnitudes.dBetaScale,
  };
}

/** Largest error in u: 2⁻²⁴ × the largest condition scale of the channel. */
function errorOf(got: ArrayLike<number> | undefined, exact: Float64Array, scale: Float64Array, d?: Dims): number {
  expect(got?.length).toBe(exact.length);
  const channels = d?.channels ?? exact.length;
  const largest = new Float64Array(channels);
  scale.forEach((s, i) => {
    const c = d ? inChannel(d, i) : i;
    largest[c] = Math.max(largest[c] as number, s);
  });
  let worst = 0;
  exact.forEach((e, i) => {
    const unit = Math.max(2 ** -24 * (largest[d ? inChannel(d, i) : i] as number), 2 ** -149);
    const error = Math.abs((got?.[i] as number) - e) / unit;
    // NaN is an error without end
    worst = error <= worst ? worst : Number.isNaN(error) ? Infinity : error;
  });
  return worst;
}

const EPSILON = 1e-5;

/** Small integers and numbers in between, with parameters that put z of every 0 within rounding of 0 and of every 1, of 6. */
function kinked(seed: number, shape: readonly number[], layout: Layout, batch: boolean, residual: boolean, unit = 1) {
  const d = dimsOf(shape, layout);
  const next = random(seed);
  const x = normal(seed, sizeOf(shape)).map((v) => (next() < 0.6 ? Math.round(v) : v) * unit);
  const running = { mean: new Float32Array(d.channels).fill(0.3), variance: new Float32Array(d.channels).fill(1.7) };
  const { mean, variance } = batch ? statistics(x, d) : { ...running, variance: Float64Array.from(running.variance) };
  const invStd = invStdOf(variance, EPSILON * unit ** 2);
  const gamma = Float32Array.from(invStd, (s) => 6 / (s * unit));
  const beta = Float32Array.from(invStd, (s, c) => -(gamma[c] as number) * (0 - (mean[c] as number)) * s);
  const others = normal(seed + 1, x.length);
  const r = residual ? x.map((v, i) => (Number.isInteger(v / unit) ? 0 : (others[i] as number))) : undefined;
  return { x, dy: normal(seed + 2, x.length), residual: r, gamma, beta, running, d };
}

describe.each(WORLDS)("fused ($build, $kind)", ({ build, kind }) => {
  beforeAll(() => useBuild(build));

  const made: TensorLike[] = [];
  const mine = <T extends TensorLike>(t: T): T => {
    made.push(t);
    return t;
  };
  const of = (shape: readonly number[], data: Float32Array) => mine(make(kind, shape, data));
  afterEach(() => drop(...made.splice(0)));

  const cases = [
    ...SHAPES.map(([layout, shape]) => ({ layout, shape, unit: 1 })),
    // where blocked sums are unreliable, and taken again
    { layout: "channels-first" as const, shape: [29, 3, 37], unit: 2 ** -60 },
    { layout: "channels-last" as const, shape: [1100, 3], unit: 2 ** -60 },
  ].flatMap((c) =>
    ACTIVATIONS.flatMap((activation) => [true, false].map((residual) => ({ ...c, activation, residual }))),
  );

  test.each(cases)(
    "$activation, residual $residual, $shape $layout × $unit: y and all gradients are the oracle's, on the side of the kink that y is on",
    ({ layout, shape, activation, residual, unit }) => {
      const epsilon = EPSILON * unit ** 2;
      for (const mode of unit === 1 ? (["train", "eval"] as const) : (["train"] as const)) {
        const batch = mode === "train";
        const c = kinked(7, shape, layout, batch, residual, unit);
        const bn = new BatchNorm(c.d.channels, { layout, activation, epsilon });
        Object.assign(bn, { gamma: c.gamma, beta: c.beta });
        Object.assign(bn, { runningMean: c.running.mean, runningVariance: c.running.variance.slice() });
        const added = c.residual && of(shape, c.residual);
        const y = mine(bn.forward(of(shape, c.x), { mode, ...(added && { residual: added }) }));
        const seen = y.data.slice();
        const g = bn.backward(of(shape, c.dy));
        made.push(...[g.dx, g.dResidual].filter((t) => t !== undefined));
        const variance = Float64Array.from(c.running.variance);
        const running = batch ? undefined : { mean: c.running.mean, variance };
        const exact = oracle({ name: activation, batch, epsilon }, c.d, c.x, c.dy, c.residual, c, running, seen);
        expect(errorOf(seen, exact.y, exact.yScale, c.d), "y").toBeLessThanOrEqual(4);
        expect(errorOf(g.dx?.data, exact.dx, exact.dxScale, c.d), "dx").toBeLessThanOrEqual(4);
        const [dGamma, dBeta] = [exact.dGamma, exact.dBeta];
        expect(errorOf(g.dGamma, dGamma, exact.dGammaScale), "dGamma").toBeLessThanOrEqual(1);
        expect(errorOf(g.dBeta, dBeta, exact.dBetaScale), "dBeta").toBeLessThanOrEqual(1);
        expect(g.dResidual === undefined).toBe(!residual);
        if (!residual) continue;
        if (activation === "silu")
          expect(errorOf(g.dResidual?.data, exact.dz, exact.dzScale, c.d)).toBeLessThanOrEqual(4);
        else {
          const slope = Math.fround(0.01);
          const rounded = exact.dz.map((v, i) => (v === 0.01 * (c.dy[i] as number) ? slope * (c.dy[i] as number) : v));
          expect(g.dResidual?.data).toBeAllclose(Float32Array.from(rounded));
        }
      }
    },
  );

  test.each(SHAPES)(
    "%s %j: ReLU on the way is ReLU apart, bit for bit, where neither multiplies and adds at once",
    (layout, shape) => {
      const c = kinked(11, shape, layout, true, false);
      const [fused, plain] = ["relu", "none"].map((activation) => {
        const bn = new BatchNorm(c.d.channels, { layout, activation: activation as ActivationName });
        return Object.assign(bn, { gamma: c.gamma.slice(), beta: c.beta.slice() });
      }) as [BatchNorm, BatchNorm];
      const x = of(shape, c.x);
      const y = mine(fused.forward(x));
      const z = mine(plain.forward(x)).data;
      const open = y.data.map((v) => (v > 0 ? 1 : 0));
      expect(open.some((v, i) => v === 0 && (c.dy[i] as number) !== 0)).toBe(true);
      const a = fused.backward(of(shape, c.dy));
      const b = plain.backward(
        of(
          shape,
          c.dy.map((g, i) => (open[i] as number) * g),
        ),
      );
      made.push(a.dx as TensorLike, b.dx as TensorLike);
      // the kernels of activations are without fused multiply-add
      const tolerance = build === "relaxed" ? { rtol: 1e-5, atol: 1e-5 } : {};
      expect(y.data).toBeAllclose(
        z.map((v) => Math.max(v, 0)),
        tolerance,
      );
      expect(a.dx?.data).toBeAllclose(b.dx?.data ?? [], tolerance);
      expect(a.dGamma).toBeAllclose(b.dGamma ?? [], tolerance);
      expect(a.dBeta).toBeAllclose(b.dBeta ?? []);
    },
  );

  test("SiLU: 2 u of z and 2 u of f′ from −100 to 100, and nothing else beyond", () => {
    const sweep = Float32Array.from({ length: 4001 }, (_, i) => (i - 2000) / 20);
    const beyond = [3e38, -3e38, Infinity, -Infinity, 1e-30, -1e-30, 1e-42, 0, 745, -745, 1e4, -1e4];
    const z = Float32Array.of(...sweep, ...beyond);
    const shape = [z.length, 1];
    const frozen = { mean: new Float32Array(1), variance: Float32Array.of(1) };
    const { y, saved } = batchNormInference(of(shape, z), frozen, { epsilon: 0, activation: "silu" });
    const { dx } = batchNormBackward(of(shape, new Float32Array(z.length).fill(1)), saved);
    made.push(y, dx as TensorLike);
    const u = 2 ** -24;
    for (const [i, v] of sweep.entries()) {
      const near = 2 * u * Math.abs(v) + 1e-37;
      expect(Math.abs((y.data[i] as number) - activate("silu", v)), `f(${v})`).toBeLessThan(near);
      const slope = dx?.data[i] as number;
      expect(Math.abs(slope - derivative("silu", v)), `f′(${v})`).toBeLessThan(4 * u);
    }
    const [first, last] = [sweep.length, z.length];
    const limits = (at: number) => (at > 87 ? [at, 1] : at < -87 ? [0, 0] : [at / 2, 0.5]) as [number, number];
    expect(y.data.slice(first, last)).toBeAllclose(
      beyond.map((v) => limits(v)[0]),
      { rtol: 1e-6, atol: 1e-34 },
    );
    expect(dx?.data.slice(first, last)).toBeAllclose(
      beyond.map((v) => limits(v)[1]),
      { rtol: 1e-6, atol: 1e-34 },
    );
  });

  test.each(LAYOUTS)("leaky ReLU's slope is the one given, 0.01 if none is (%s)", (layout) => {
    const shape = layout === "channels-last" ? [9, 3] : [3, 3, 3];
    const x = normal(3, 27);
    const plain = mine(batchNormForward(of(shape, x), {}, { layout }).y);
    for (const negativeSlope of [0.2, 0.999, undefined]) {
      const slope = Math.fround(negativeSlope ?? 0.01);
      const bn = new BatchNorm(3, { layout, activation: "leaky_relu", ...(negativeSlope && { negativeSlope }) });
      const y = mine(bn.forward(of(shape, x)));
      expect(y.data).toBeAllclose(
        plain.data.map((v) => (v > 0 ? v : v * slope)),
        { rtol: 1e-6, atol: 1e-7 },
      );
    }
  });

  test("nothing that is read is written: x, residual, dy, gamma, beta", () => {
    for (const [layout, shape] of SHAPES)
      for (const activation of ACTIVATIONS) {
        const c = kinked(3, shape, layout, true, true);
        const bn = new BatchNorm(c.d.channels, { layout, activation });
        Object.assign(bn, { gamma: c.gamma.slice(), beta: c.beta.slice() });
        const [x, residual, dy] = [c.x, c.residual as Float32Array, c.dy].map((data) => of(shape, data)) as [
          TensorLike,
          TensorLike,
          TensorLike,
        ];
        for (const mode of MODES) {
          mine(bn.forward(x, { mode, residual }));
          const { dx, dResidual } = bn.backward(dy);
          made.push(dx as TensorLike, dResidual as TensorLike);
        }
        expect(x.data).toBeAllclose(c.x);
        expect(residual.data).toBeAllclose(c.residual ?? []);
        expect(dy.data).toBeAllclose(c.dy);
        expect(bn.gamma).toBeAllclose(c.gamma);
        expect(bn.beta).toBeAllclose(c.beta);
        drop(...made.splice(0));
      }
  });
});

/** A layer's arguments by name, as float64. */
type Arguments = Record<"x" | "residual" | "gamma" | "beta", Float64Array>;

describe.each(["simd", "debug"] as const)("gradients in float64 (%s)", (build) => {
  beforeAll(() => useBuild(build));

  const shapes: [Layout, number[]][] = [
    ["channels-first", [4, 3, 2]],
    ["channels-first", [2, 3, 33]],
    ["channels-last", [5, 2, 3]],
  ];
  const cases = shapes.flatMap(([layout, shape]) =>
    ACTIVATIONS.flatMap((activation) =>
      [true, false].flatMap((added) => MODES.map((mode) => ({ layout, shape, activation, added, mode }))),
    ),
  );

  test.each(cases)(
    "are finite differences: $activation, residual $added, mode $mode, $layout $shape",
    ({ layout, shape, activation, added, mode }) => {
      const size = sizeOf(shape);
      const given: Arguments = {
        x: Float64Array.from(normal(31, size, 2, 1)),
        residual: Float64Array.from(normal(32, size)),
        gamma: Float64Array.of(3.5, -4, 5),
        beta: Float64Array.of(0.5, -0.25, 1),
      };
      const weights = Float64Array.from(normal(33, size));
      const layer = (name: ActivationName, { gamma, beta }: Arguments) => {
        const bn = new BatchNorm(3, { layout, dtype: "float64", activation: name });
        Object.assign(bn, { gamma: gamma.slice(), beta: beta.slice() });
        Object.assign(bn, { runningMean: Float64Array.of(0.5, 1, 2), runningVariance: Float64Array.of(3, 4, 5) });
        return bn;
      };
      for (const kind of KINDS) {
        const input = (data: Float64Array) => makeOf("float64", kind, shape, data);
        const outputOf = (name: ActivationName, a: Arguments) => {
          const [x, residual] = [input(a.x), input(a.residual)];
          const y = layer(name, a).forward(x, { mode, ...(added && { residual }) });
          const data = y.data.slice();
          drop(x, residual, y);
          return data;
        };
        const z = outputOf("none", given);
        const h = 1e-5;
        // away from the kinks, on both sides of them
        expect(z.every((v) => Math.abs(v) > 40 * h && Math.abs(v - 6) > 40 * h)).toBe(true);
        expect([z.some((v) => v < 0), z.some((v) => v > 6)]).toEqual([true, true]);
        expect(outputOf(activation, given)).toBeAllclose(
          z.map((v) => activate(activation, v)),
          { rtol: 1e-14, atol: 1e-300 },
        );
        const loss = (a: Arguments) =>
          outputOf(activation, a).reduce((sum, v, i) => sum + v * (weights[i] as number), 0);
        const differences = (name: keyof Arguments, count: number) =>
          Array.from({ length: count }, (_, k) => {
            const at = Math.floor((k * given[name].length) / count);
            const [up, down] = [h, -h].map((step) => {
              const moved = given[name].slice();
              moved[at] = (moved[at] as number) + step;
              return loss({ ...given, [name]: moved });
            }) as [number, number];
            return [at, (up - down) / (2 * h)] as const;
          });
        const bn = layer(activation, given);
        const [x, residual, dy] = [input(given.x), input(given.residual), input(weights)];
        const y = bn.forward(x, { mode, ...(added && { residual }) });
        const g = bn.backward(dy);
        const check = (name: keyof Arguments, got: ArrayLike<number> | undefined, count: number) => {
          const expected = differences(name, count);
          expect(expected.map(([at]) => got?.[at])).toBeAllclose(
            expected.map(([, value]) => value),
            { rtol: 1e-6, atol: 1e-6 },
          );
        };
        check("x", g.dx?.data, 12);
        check("gamma", g.dGamma, 3);
        check("beta", g.dBeta, 3);
        expect(g.dResidual === undefined).toBe(!added);
        if (added) check("residual", g.dResidual?.data, 6);
        drop(x, residual, dy, y, g.dx, g.dResidual);
      }
    },
  );
});

describe.each(KINDS)("what may be overwritten (%s)", (kind) => {
  beforeAll(() => useBuild("simd"));

  const made: TensorLike[] = [];
  afterEach(() => drop(...made.splice(0)));
  const shape = [6, 3, 40];
  const size = sizeOf(shape);
  const of = (data: Float32Array) => {
    const t = make(kind, shape, data);
    made.push(t);
    return t;
  };
  const input = (seed: number) => of(normal(seed, size));
  const junk = () => of(new Float32Array(size).fill(Number.NaN));
  const layer = (activation: ActivationName) => {
    const bn = new BatchNorm(3, { activation });
    return Object.assign(bn, { gamma: Float32Array.of(1, -2, 3), beta: Float32Array.of(0.5, 0, -1) });
  };
  const refused = (call: () => unknown, message: RegExp) => {
    expect(call).toThrow(expect.objectContaining({ name: "BatchNormError", code: "in-place" }) as Error);
    expect(call).toThrow(message);
  };

  test.each(ACTIVATIONS)("%s: y over the residual, wherever backward does not need it", (activation) => {
    for (const mode of MODES) {
      const bn = layer(activation);
      const [x, residual] = [input(1), input(2)];
      const expected = layer(activation).forward(input(1), { mode, residual: input(2) });
      made.push(expected);
      const before = bn.stateDict();
      const call = () => bn.forward(x, { mode, residual, out: residual });
      if (activation !== "none" && mode !== "eval") {
        refused(call, new RegExp(`^out: expected other memory than residual in mode "${mode}", got residual itself, `));
        expect(residual.data).toBeAllclose(normal(2, size));
        expect(bn.stateDict()).toEqual(before);
        continue;
      }
      expect(call()).toBe(residual);
      expect(residual.data).toBeAllclose(expected.data);
      if (activation === "none") {
        const { dx, dResidual } = bn.backward(input(3));
        made.push(dx as TensorLike, dResidual as TensorLike);
        expect(dResidual?.data).toBeAllclose(normal(3, size));
      } else expect(() => bn.backward(input(3))).toThrow(expect.objectContaining({ code: "no-forward" }) as Error);
    }
  });

  test("y over x, or over the residual, leaves batchNormInference nothing to differentiate", () => {
    const frozen = { mean: new Float32Array(3), variance: Float32Array.of(1, 2, 3) };
    for (const activation of ["none", "relu"] as const)
      for (const over of ["x", "residual"] as const) {
        const given = { x: input(1), residual: input(2) };
        const { residual } = given;
        const expected = batchNormInference(input(1), frozen, { activation, residual: input(2) });
        const { y, saved } = batchNormInference(given.x, frozen, { activation, residual, out: given[over] });
        made.push(expected.y);
        expect(y).toBe(given[over]);
        expect(y.data).toBeAllclose(expected.y.data);
        const call = () => made.push(batchNormBackward(input(3), saved).dx as TensorLike);
        if (over === "residual" && activation === "none") call();
        else expect(call).toThrow(expect.objectContaining({ code: "no-forward" }) as Error);
      }
  });

  test("without an activation, backward does not need the residual: it may change, or be gone", () => {
    const bn = layer("none");
    const residual = input(2);
    made.push(bn.forward(input(1), { residual }));
    residual.data.fill(Number.NaN);
    drop(residual);
    const { dx, dResidual } = bn.backward(input(3));
    made.push(dx as TensorLike, dResidual as TensorLike);
    expect(dResidual?.data).toBeAllclose(normal(3, size));
    expect(dx?.data.every(Number.isFinite)).toBe(true);
  });

  test.each(ACTIVATIONS)(
    "%s: dx or dResidual over dy, but not over each other, nor over what backward reads",
    (activation) => {
      const run = (residual: boolean, options: (dy: TensorLike) => object) => {
        const bn = layer(activation);
        const [x, r] = [input(1), input(2)];
        made.push(bn.forward(x, residual ? { residual: r } : {}));
        const dy = input(3);
        const g = bn.backward(dy, options(dy));
        made.push(...[g.dx, g.dResidual].filter((t) => t !== undefined));
        return { dy, x, r, bn, g, values: [g.dx?.data.slice(), g.dResidual?.data.slice(), g.dGamma, g.dBeta] };
      };
      for (const residual of [true, false]) {
        const { values, bn, x, r } = run(residual, () => ({}));
        const over = run(residual, (dy) => ({ dxOut: dy }));
        expect(over.g.dx).toBe(over.dy);
        expect(over.values).toEqual(values);
        const given = run(residual, () => ({ dxOut: junk(), ...(residual && { dResidualOut: junk() }) }));
        expect(given.values).toEqual(values);
        if (!residual) {
          expect(() => bn.backward(input(3), { dResidualOut: junk() })).toThrow(
            new RangeError('dResidualOut: expected a forward with a residual before it, got "none"'),
          );
          continue;
        }
        const other = run(true, (dy) => ({ dResidualOut: dy }));
        expect(other.g.dResidual).toBe(other.dy);
        expect(other.values).toEqual(values);
        const [a, dy] = [junk(), input(3)];
        refused(
          () => bn.backward(dy, { dxOut: a, dResidualOut: a }),
          /^dResidualOut: expected other memory than dxOut, /,
        );
        refused(
          () => bn.backward(dy, { dResidualOut: x }),
          /^dResidualOut: expected other memory than x in mode "train"/,
        );
        if (activation === "none") continue;
        for (const name of ["dxOut", "dResidualOut"])
          refused(
            () => bn.backward(dy, { [name]: r }),
            new RegExp(`^${name}: expected other memory than residual in mode `),
          );
        expect(r.data).toBeAllclose(normal(2, size));
      }
    },
  );

  test("needs switch dx and dResidual off, and change no bit of what is left", () => {
    for (const activation of ACTIVATIONS) {
      const bn = layer(activation);
      made.push(bn.forward(input(1), { residual: input(2) }));
      const all = bn.backward(input(3));
      made.push(all.dx as TensorLike, all.dResidual as TensorLike);
      const expected = { dx: all.dx?.data.slice(), dResidual: all.dResidual?.data.slice() };
      const sums = { dGamma: all.dGamma?.slice(), dBeta: all.dBeta?.slice() };
      for (const dx of [true, false])
        for (const dResidual of [true, false])
          for (const rest of [true, false]) {
            const g = bn.backward(input(3), { needs: { dx, dResidual, dGamma: rest, dBeta: rest } });
            made.push(...[g.dx, g.dResidual].filter((t) => t !== undefined));
            expect(Object.keys(g).sort()).toEqual(
              Object.entries({ dBeta: rest, dGamma: rest, dResidual, dx })
                .filter(([, wanted]) => wanted)
                .map(([name]) => name)
                .sort(),
            );
            if (dx) expect(g.dx?.data).toBeAllclose(expected.dx ?? []);
            if (dResidual) expect(g.dResidual?.data).toBeAllclose(expected.dResidual ?? []);
            if (rest) expect({ dGamma: g.dGamma, dBeta: g.dBeta }).toEqual(sums);
          }
    }
  });

  test("NaN and infinity in a residual stay in their element, in y; and in their channel, in gradients", () => {
    for (const activation of ACTIVATIONS)
      for (const poison of [Number.NaN, Infinity, -Infinity]) {
        const run = (bad: boolean) => {
          const bn = layer(activation);
          const data = normal(2, size);
          if (bad) data[45] = poison; // of channel 1
          const y = bn.forward(input(1), { residual: of(data) });
          const { dx, dResidual, dGamma, dBeta } = bn.backward(input(3));
          made.push(y, dx as TensorLike, dResidual as TensorLike);
          return { y: y.data.slice(), dx: dx?.data.slice(), dGamma, dBeta, state: bn.stateDict() };
        };
        const [poisoned, clean] = [run(true), run(false)];
        if (Number.isNaN(poison)) expect(poisoned.y[45]).toBeNaN();
        expect(poisoned.y.filter((_, i) => i !== 45)).toBeAllclose(clean.y.filter((_, i) => i !== 45));
        const healthy = (_: number, i: number) => Math.floor(i / 40) % 3 !== 1;
        expect(poisoned.dx?.filter(healthy)).toBeAllclose(clean.dx?.filter(healthy) ?? []);
        for (const c of [0, 2])
          expect([poisoned.dGamma?.[c], poisoned.dBeta?.[c]]).toEqual([clean.dGamma?.[c], clean.dBeta?.[c]]);
        expect(poisoned.state).toEqual(clean.state);
      }
  });

  test("NaN in x makes its channel's y NaN, and lets dy through, as PyTorch's ReLU does", () => {
    const data = normal(1, size);
    data[45] = Number.NaN;
    for (const activation of BENT) {
      const bn = new BatchNorm(3, { activation, onNonFinite: "allow" });
      const y = bn.forward(of(data));
      made.push(y);
      expect([...y.data].map((v, i) => Number.isNaN(v) === (Math.floor(i / 40) % 3 === 1))).not.toContain(false);
      const { dx, dBeta } = bn.backward(input(3));
      made.push(dx as TensorLike);
      expect(dx?.data.slice(40, 80).every(Number.isNaN)).toBe(true);
      expect(dx?.data.slice(0, 40).every(Number.isFinite)).toBe(true);
      if (activation === "relu") expect(Number.isFinite(dBeta?.[1])).toBe(true);
    }
  });

  test("backward again, and of a later forward, is backward once: nothing is left of the one before", () => {
    const mask = { lengths: [40, 3, 0, 17, 1, 39] };
    for (const [options, more] of [
      [{ activation: "relu" }, {}],
      [{ activation: "relu", ghostBatchSize: 4 }, {}],
      [{ activation: "silu" }, { mask }],
    ] as const) {
      const bn = new BatchNorm(3, options);
      const results = [1, 1, 2, 1].map((seed) => {
        made.push(bn.forward(input(seed), more));
        return [1, 2].map(() => {
          const { dx, dGamma, dBeta } = bn.backward(input(3));
          made.push(dx as TensorLike);
          return [dx?.data.slice(), dGamma, dBeta];
        });
      });
      for (const k of [0, 1, 3]) for (const again of results[k] ?? []) expect(again).toEqual(results[0]?.[0]);
      expect(results[2]?.[1]).toEqual(results[2]?.[0]);
      expect(results[2]).not.toEqual(results[0]);
    }
  });

  test("the functions compute what the layer computes, bit for bit", () => {
    for (const activation of ACTIVATIONS) {
      const bn = layer(activation);
      const { gamma, beta } = bn;
      const [x, residual] = [input(1), input(2)];
      const y = bn.forward(x, { residual, mode: "batch" });
      const a = bn.backward(input(3));
      const f = batchNormForward(x, { gamma, beta }, { residual, activation });
      const b = batchNormBackward(input(3), f.saved);
      made.push(y, f.y, ...([a.dx, a.dResidual, b.dx, b.dResidual] as TensorLike[]));
      expect(f.y.data).toEqual(y.data);
      expect([b.dx?.data, b.dResidual?.data, b.dGamma, b.dBeta]).toEqual([
        a.dx?.data,
        a.dResidual?.data,
        a.dGamma,
        a.dBeta,
      ]);
      const frozen = { gamma, beta, mean: new Float32Array(3), variance: new Float32Array(3).fill(1) };
      const inferred = batchNormInference(x, frozen, { residual, activation });
      const e = bn.forward(x, { residual, mode: "frozen" });
      made.push(inferred.y, e);
      expect(inferred.y.data).toEqual(e.data);
    }
  });

  test.each<[string, (x: TensorLike) => unknown, string | ErrorConstructor, RegExp]>([
    [
      "another shape",
      () => make(kind, [6, 40, 3], new Float32Array(size)),
      RangeError,
      /^residual: expected shape 6×3×40, got 6×40×3$/,
    ],
    [
      "too few values",
      () => ({ data: new Float32Array(3), shape }),
      RangeError,
      /^residual: expected 720 elements \(6×3×40\), got 3$/,
    ],
    ["null", () => null, TypeError, /^residual: expected a Tensor or .*, got null$/],
    [
      "another type",
      () => makeOf("float64", kind, shape, new Float64Array(size)),
      TypeError,
      /^residual\.data: expected a Float32Array, got Float64Array\(720\)$/,
    ],
    [
      "a tensor that was disposed",
      () => {
        const t = tensor(shape);
        t.dispose();
        return t;
      },
      "disposed",
      /^residual: expected one that is alive/,
    ],
  ])("a residual that is %s is refused before anything is written", (_, wrong, error, message) => {
    const bn = layer("relu");
    const [x, out] = [input(1), input(2)];
    const state = bn.stateDict();
    const call = () => bn.forward(x, { residual: wrong(x) as TensorLike, out });
    expect(call).toThrow(message);
    expect(call).toThrow(typeof error === "string" ? (expect.objectContaining({ code: error }) as Error) : error);
    expect(() => batchNormForward(x, {}, { residual: wrong(x) as TensorLike, out })).toThrow(message);
    expect(bn.stateDict()).toEqual(state);
    expect(out.data).toBeAllclose(normal(2, size));
  });

  test("a residual that changed its length or died since forward is refused by backward", () => {
    const bn = layer("relu");
    const residual = input(2);
    made.push(bn.forward(input(1), { residual }));
    if (kind === "tensor") drop(residual);
    else Object.assign(residual, { data: new Float32Array(3) });
    expect(() => bn.backward(input(3))).toThrow(/^residual: expected /);
  });
});

describe("memory", () => {
  beforeAll(() => useBuild("simd"));

  test("with tensors and outputs given, a fused step allocates nothing in wasm memory", () => {
    for (const activation of ACTIVATIONS)
      for (const added of [false, true]) {
        const shape = [8, 3, 40];
        const t = (seed: number) => tensor(shape, normal(seed, 960));
        const [x, residual, dy, out, dxOut, dResidualOut] = [t(1), t(2), t(3), t(4), t(5), t(6)] as const;
        const bn = new BatchNorm(3, { activation });
        const step = () => {
          for (const mode of MODES) {
            bn.forward(x, { mode, out: out, ...(added && { residual: residual }) });
            bn.backward(dy, { dxOut: dxOut, ...(added && { dResidualOut: dResidualOut }) });
          }
        };
        step();
        const allocate = vi.spyOn(defaultHeap(), "allocate");
        step();
        expect(allocate).not.toHaveBeenCalled();
        allocate.mockRestore();
        drop(x, residual, dy, out, dxOut, dResidualOut);
      }
  });

  test.each(["plain", "tensor"] as const)("a residual of another kind than x: y is of x's kind (%s)", (kind) => {
    const shape = [6, 3, 40];
    const other: Kind = kind === "plain" ? "tensor" : "plain";
    const run = (kinds: readonly [Kind, Kind, Kind]) => {
      const [x, residual, dy] = kinds.map((k, i) => make(k, shape, normal(i, 720))) as [
        TensorLike,
        TensorLike,
        TensorLike,
      ];
      const bn = new BatchNorm(3, { activation: "silu" });
      const y = bn.forward(x, { residual });
      const { dx, dResidual, dGamma } = bn.backward(dy);
      expect([y, dx, dResidual].map((t) => t instanceof Object && "data" in t && t.shape.join())).toEqual([
        "6,3,40",
        "6,3,40",
        "6,3,40",
      ]);
      expect([y.constructor, dx?.constructor]).toEqual([x.constructor, dy.constructor]);
      const values = [y.data.slice(), dx?.data.slice(), dResidual?.data.slice(), dGamma];
      drop(x, residual, dy, y, dx, dResidual);
      return values;
    };
    const same = run([kind, kind, kind]);
    expect(run([kind, other, kind])).toEqual(same);
    expect(run([kind, other, other])).toEqual(same);
    expect(run([kind, kind, other])).toEqual(same);
  });
});
