// Activations and residuals that are fused into the map: their results, the elements whose gradient backward passes,
// and their gradients by finite differences.

import { afterEach, beforeAll, describe, expect, test } from "vitest";
import {
  type ActivationName,
  BatchNorm,
  batchNormBackward,
  batchNormForward,
  batchNormInference,
  type Dtype,
  type Layout,
  type TensorLike,
} from "../../src/index.ts";
import { ACTIVATIONS, MODES } from "../support/activations.ts";
import {
  activate,
  backward,
  type Dims,
  derivative,
  dimsOf,
  forward,
  invStdOf,
  statistics,
} from "../support/reference.ts";
import {
  drop,
  KINDS,
  LAYOUTS,
  make,
  makeOf,
  normal,
  random,
  real,
  sizeOf,
  useBuild,
  WORLDS,
} from "../support/worlds.ts";

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

  test.each(["float32", "float64"] as const)(
    "an infinite dy changes no gradient where z ≤ 0: ReLU and ReLU6, %s",
    (dtype) => {
      for (const [layout, shape] of SHAPES)
        for (const activation of ["relu", "relu6"] as const)
          for (const residual of [false, true]) {
            const length = sizeOf(shape);
            const channels = layout === "channels-last" ? (shape.at(-1) as number) : (shape[1] as number);
            const bn = new BatchNorm<Dtype>(channels, { layout, activation, dtype });
            const give = (values: ArrayLike<number>) => {
              const tensor = make(kind, shape, real(dtype, values) as Float32Array);
              made.push(tensor);
              return tensor;
            };
            const added = residual ? { residual: give(normal(2, length)) } : {};
            const y = bn.forward(give(normal(1, length)), added).data.slice();
            const dy = normal(3, length);
            const gradientsOf = (values: ArrayLike<number>) => {
              const { dx, dGamma, dBeta } = bn.backward(give(values), { saved: bn.saved });
              if (dx) made.push(dx as TensorLike);
              return [dx?.data.slice(), dGamma, dBeta];
            };
            const expected = gradientsOf(dy);
            expect(gradientsOf(dy.map((value, i) => (y[i] === 0 ? -Infinity : value)))).toEqual(expected);
            drop(...made.splice(0));
          }
    },
  );

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
