// Generators of calls of batch normalization as functions, against the oracle. layers.ts has those of the layers, which
// use the same batches.

import fc from "fast-check";
import * as lib from "../../src/index.ts";
import { doubleBackward, type Problem, solve } from "../support/reference.ts";
import { close, type Generator, generator, near, same } from "./generator.ts";
import {
  type Any,
  activations,
  bits,
  decode,
  dtypes,
  kinds,
  layouts,
  maybe,
  numbers,
  operand,
  product,
  seeds,
  shapeOf,
  sizes,
  styles,
  vector,
} from "./values.ts";

const MASKS = ["booleans", "bytes", "weights", "doubles", "bigints", "tensor", "lengths"] as const;

/** A batch, its parameters, and the options that functions and layers share. */
export const batches = fc.record({
  size: sizes,
  layout: layouts,
  dtype: dtypes,
  kind: kinds,
  style: styles,
  seed: seeds,
  epsilon: fc.constantFrom(undefined, 1e-5, 1e-3, 0, 1),
  gamma: fc.boolean(),
  beta: fc.boolean(),
  perSample: fc.constantFrom("none", "none", "none", "gamma", "beta", "both"),
  mask: fc.oneof({ weight: 2, arbitrary: fc.constant(undefined) }, { weight: 1, arbitrary: fc.constantFrom(...MASKS) }),
  ghostBatchSize: fc.oneof({ weight: 3, arbitrary: fc.constant(undefined) }, fc.integer({ min: 1, max: 4 })),
  activation: activations,
  negativeSlope: fc.constantFrom(undefined, 0.01, 0.25, 0.9),
  residual: fc.boolean(),
  out: fc.boolean(),
});
export type Batch = typeof batches extends fc.Arbitrary<infer T> ? T : never;
/** What a description may not have where the oracle or the function does not know it. */
export const NO_SAMPLES = { perSample: "none" } as const;

const gates = {
  float32: { u: 2 ** -24, gate: 4, floor: 1e-9 },
  float64: { u: 2 ** -53, gate: 16, floor: 1e-10 },
  float16: { u: 2 ** -11, gate: 1.1, floor: 2 ** -24 },
  bfloat16: { u: 2 ** -8, gate: 1.1, floor: 1e-9 },
};
/** dGamma and dBeta of 16-bit operands are float32. */
const wideGate = (dtype: lib.Dtype) => (dtype === "float64" ? gates.float64 : gates.float32);

/** Returns the numbers and the arguments that a batch stands for. */
export function build(batch: Batch, constant?: Problem["constant"]) {
  const { size, layout, dtype, kind, seed, activation } = batch;
  const shape = shapeOf(size, layout);
  const [samples, channels, ...rest] = size as [number, number, ...number[]];
  const inner = product(rest);
  const positions = samples * inner;
  const length = product(shape);
  const style = batch.style === "offset" && dtype !== "float32" && dtype !== "float64" ? "eighths" : batch.style;
  // by epsilon = 0 a constant channel is exactly beta, which the oracle's rounded mean does not give
  const epsilon =
    batch.epsilon === 0 && (style !== "normal" || dtype === "float16" || dtype === "bfloat16") ? 1e-5 : batch.epsilon;
  const values = (k: number, how = style) => numbers(seed * 8 + k, length, dtype, how);
  const input = { x: values(1), dy: values(2, "normal"), residual: values(3, "normal") };
  const perSample = batch.perSample === "none" || samples === 0 ? "none" : batch.perSample;
  const few = (k: number, count: number) =>
    numbers(seed * 8 + k, count, dtype === "float64" ? "float64" : "float32", "normal");
  const ofSamples = (name: "gamma" | "beta") => perSample === name || perSample === "both";
  const gamma = ofSamples("gamma") ? few(4, samples * channels) : batch.gamma ? few(4, channels) : undefined;
  const beta = ofSamples("beta") ? few(5, samples * channels) : batch.beta ? few(5, channels) : undefined;
  const given = (v: Float64Array | undefined) => v && vector(v, dtype);
  const parameters = {
    ...(!ofSamples("gamma") && batch.gamma && { gamma: given(gamma) }),
    ...(!ofSamples("beta") && batch.beta && { beta: given(beta) }),
    ...(perSample !== "none" && {
      perSample: {
        ...(ofSamples("gamma") && { gamma: given(gamma) }),
        ...(ofSamples("beta") && { beta: given(beta) }),
      },
    }),
  };
  const masked =
    perSample === "none" ? (batch.mask === "lengths" && size.length !== 3 ? "booleans" : batch.mask) : undefined;
  const coins = numbers(seed * 8 + 6, positions, "float32", "normal");
  const lengths = Array.from(
    { length: samples },
    (_, n) => Math.abs(Math.round(7 * (coins[n * inner] ?? 0))) % (inner + 1),
  );
  const weightOf = (p: number) => {
    if (masked === undefined) return 1;
    if (masked === "lengths") return p % inner < (lengths[Math.floor(p / inner)] as number) ? 1 : 0;
    if ((coins[p] as number) < -0.6) return 0;
    return masked === "weights" || masked === "doubles" || masked === "tensor"
      ? 0.25 + Math.abs(coins[p] as number)
      : 1;
  };
  const weights = Array.from({ length: positions }, (_, p) => weightOf(p));
  const mask = {
    booleans: () => weights.map((w) => w > 0),
    bytes: () => Uint8Array.from(weights),
    weights: () => weights,
    doubles: () => Float64Array.from(weights),
    bigints: () => BigInt64Array.from(weights, (w) => BigInt(w)),
    tensor: () => ({ data: Float64Array.from(weights), shape: [samples, ...rest] }),
    lengths: () => ({ lengths }),
  };
  const slope = activation === "leaky_relu" ? batch.negativeSlope : undefined;
  const hasResidual = batch.residual;
  const ghost = constant ? undefined : batch.ghostBatchSize;
  const problem: Problem = {
    shape,
    layout,
    epsilon: epsilon ?? 1e-5,
    ...input,
    residual: hasResidual ? input.residual : undefined,
    gamma: gamma && Float64Array.from(given(gamma)),
    beta: beta && Float64Array.from(given(beta)),
    activation,
    ...(slope !== undefined && { negativeSlope: slope }),
    weights: masked && weights,
    ghostBatchSize: ghost,
    constant,
  };
  const give = (v: ArrayLike<number>) => operand(v, shape, dtype, kind);
  const options = {
    ...(layout === "channels-last" && { layout }),
    ...(epsilon !== undefined && { epsilon }),
    ...(activation !== "none" && { activation }),
    ...(slope !== undefined && { negativeSlope: slope }),
    ...(batch.ghostBatchSize !== undefined && { ghostBatchSize: batch.ghostBatchSize }),
    ...(masked && { mask: mask[masked]() }),
    ...(hasResidual && { residual: give(input.residual) }),
    ...(batch.out && { out: give(new Float64Array(length)) }),
  };
  /** The numbers of positions that count in each ghost batch, and the sums of their weights. */
  const step = (ghost ?? samples) * inner || 1;
  const parts = Array.from({ length: Math.ceil(positions / step) }, (_, k) =>
    weights.slice(k * step, (k + 1) * step).filter((w) => w > 0),
  );
  const one = !constant && parts.some((part) => part.length === 1);
  const light = parts.some((part) => part.length > 0 && part.reduce((a, b) => a + b, 0) <= 1);
  const channelOf = (i: number) => (layout === "channels-last" ? i % channels : Math.floor(i / inner) % channels);
  return {
    input,
    give,
    problem,
    parameters,
    options,
    one,
    light,
    parts,
    channelOf,
    channels,
    samples,
    length,
    masked: masked !== undefined,
    perSample,
    epsilon: epsilon ?? 1e-5,
  };
}

type Built = ReturnType<typeof build>;

/** What the oracle says of an empty batch: solve cannot divide by its samples. */
export function expected(b: Built): ReturnType<typeof solve> {
  if (b.length > 0) return solve(b.problem);
  const none = new Float64Array(0);
  const zeros = new Float64Array(b.channels);
  return {
    ...{ y: none, dx: none, dResidual: none, yScale: none, dxScale: none, dResidualScale: none },
    ...{ dGamma: zeros, dBeta: zeros, dGammaScale: zeros, dBetaScale: zeros },
    batches: [],
  };
}

/** Whether a pre-activation is so near a kink that its rounding decides on which side it is. */
function isAtKink(b: Built): boolean {
  const { activation } = b.problem;
  if (!b.length || !activation || activation === "none" || activation === "silu") return false;
  const { y, yScale } = solve({ ...b.problem, activation: "none" });
  const kinks = activation === "relu6" ? [0, 6] : [0];
  // float32's error, and that of a float16 or bfloat16 residual, which is exact
  return y.some((z, i) => kinks.some((kink) => Math.abs(z - kink) <= 1e-5 * ((yScale[i] as number) + 1e-3)));
}

export function checkY(b: Built, dtype: lib.Dtype, y: Any): void {
  const e = expected(b);
  near("y", decode(y), e.y, e.yScale, gates[dtype], b.channelOf);
}

export function checkGradients(b: Built, dtype: lib.Dtype, g: Any, needs: Any = {}, always = false): void {
  if (isAtKink(b)) return;
  const e = expected(b);
  const vectors = wideGate(dtype);
  const entry = (i: number) => i % b.channels;
  const has = (name: string, present: boolean) => {
    same(`presence of ${name}`, g[name] !== undefined, present && needs[name] !== false);
    return g[name] !== undefined;
  };
  if (has("dx", true)) near("dx", decode(g.dx), e.dx, e.dxScale, gates[dtype], b.channelOf);
  if (has("dResidual", b.problem.residual !== undefined))
    near("dResidual", decode(g.dResidual), e.dResidual, e.dResidualScale, gates[dtype], b.channelOf);
  if (has("dGamma", always || Boolean(b.problem.gamma)))
    near("dGamma", g.dGamma, e.dGamma, e.dGammaScale, vectors, entry);
  if (has("dBeta", always || Boolean(b.problem.beta))) near("dBeta", g.dBeta, e.dBeta, e.dBetaScale, vectors, entry);
}

/** The first ghost batch's statistics, which a forward returns. */
function checkStatistics(b: Built, dtype: lib.Dtype, { mean, variance, count, invStd }: Any): void {
  const [first] = expected(b).batches;
  if (!first || first.count === 0) return;
  const u = dtype === "float64" ? 2 ** -50 : 2 ** -24;
  close("count", [count], [first.count], 1e-12);
  const size = b.input.x.reduce((a, v) => Math.max(a, Math.abs(v)), 0);
  close("mean", mean, first.mean, u, size * u);
  close("variance", variance, first.variance, 4 * u, size * size * 2 ** -46);
  if (invStd)
    close(
      "invStd",
      invStd,
      (variance as Float64Array).map((v) => (v + b.epsilon === 0 ? 0 : 1 / Math.sqrt(v + b.epsilon))),
      1e-14,
    );
}

export const running = (channels: number, seed: number, dtype: lib.Dtype) => ({
  mean: vector(numbers(seed + 91, channels, "float32", "normal"), dtype),
  variance: vector(
    numbers(seed + 92, channels, "float32", "normal").map((v) => 0.25 + v * v),
    dtype,
  ),
});

export const forward = generator(batches, (spec) => {
  const b = build(spec);
  return {
    args: [b.give(b.input.x), b.parameters, b.options],
    call: ([x, parameters, options]) => lib.batchNormForward(x, parameters, options),
    fails: b.one ? "one-value-per-channel" : undefined,
    check(result) {
      checkY(b, spec.dtype, result.y);
      if (spec.out) same("y", result.y, (b.options as Any).out);
      checkStatistics(b, spec.dtype, result);
    },
  };
});

export const inference = generator(batches, (spec) => {
  const constant = running(spec.size[1] as number, spec.seed, spec.dtype);
  const b = build(spec, constant);
  const { ghostBatchSize, ...options } = b.options as Any;
  return {
    args: [b.give(b.input.x), { ...b.parameters, ...constant }, options],
    call: ([x, parameters, options]) => lib.batchNormInference(x, parameters, options),
    check(result) {
      checkY(b, spec.dtype, result.y);
      same("count", result.count, 0);
    },
  };
});

export const statistics = generator(batches, (spec) => {
  const b = build({ ...spec, perSample: "none", ghostBatchSize: undefined });
  const { mask } = b.options as Any;
  return {
    args: [
      b.give(b.input.x),
      { ...(spec.layout === "channels-last" && { layout: spec.layout }), ...(mask && { mask }) },
    ],
    call: ([x, options]) => lib.batchNormStatistics(x, options),
    check: (result) => checkStatistics(b, spec.dtype, result),
  };
});

export const backwards = fc.record({
  batch: batches,
  needs: maybe(fc.record({ dx: fc.boolean(), dGamma: fc.boolean(), dBeta: fc.boolean() }, { requiredKeys: [] })),
  dxOut: fc.boolean(),
  dResidualOut: fc.boolean(),
  vectorsOut: fc.constantFrom("none", "given", "accumulated"),
  /** Whether the forward normalised by constants. */
  inference: fc.boolean(),
});
type Backward = typeof backwards extends fc.Arbitrary<infer T> ? T : never;

/** A batch whose forward does not throw. */
const able = (batch: Batch): Batch =>
  build(batch).one
    ? { ...batch, size: [4, batch.size[1] as number, 2], ghostBatchSize: undefined, mask: undefined }
    : batch;

/** The options of a backward, and what its results are beside the oracle's. */
export function backwardOptions({ batch, needs, dxOut, dResidualOut, vectorsOut }: Backward, b: Built) {
  const start = (v: ArrayLike<number> | null | undefined) =>
    v ? vector(new Float64Array(v.length).fill(vectorsOut === "none" ? 0 : 2), batch.dtype) : undefined;
  const [dGammaOut, dBetaOut] = vectorsOut === "none" ? [] : [start(b.problem.gamma), start(b.problem.beta)];
  return {
    ...(needs && { needs }),
    ...(dxOut && needs?.dx !== false && { dxOut: b.give(new Float64Array(b.length)) }),
    ...(dResidualOut && b.problem.residual && { dResidualOut: b.give(new Float64Array(b.length)) }),
    ...(dGammaOut && needs?.dGamma !== false && { dGammaOut }),
    ...(dBetaOut && needs?.dBeta !== false && { dBetaOut }),
    ...(vectorsOut === "accumulated" && { accumulate: true }),
  };
}

/** Returns gradients without the 2 that accumulation began with. */
export const without = (g: Any, options: Any) =>
  options.accumulate
    ? {
        ...g,
        ...(options.dGammaOut && { dGamma: g.dGamma.map((v: number) => v - 2) }),
        ...(options.dBetaOut && { dBeta: g.dBeta.map((v: number) => v - 2) }),
      }
    : g;

export const backward = (call: (dy: Any, saved: Any, options: Any) => unknown) =>
  generator(backwards, (spec) => {
    const batch = able(spec.batch);
    const constant = spec.inference ? running(batch.size[1] as number, batch.seed, batch.dtype) : undefined;
    const b = build(batch, constant);
    const { out, ghostBatchSize, ...options } = b.options as Any;
    const x = b.give(b.input.x);
    const { saved } = constant
      ? lib.batchNormInference(x, { ...b.parameters, ...constant }, options)
      : lib.batchNormForward(x, b.parameters, { ...options, ...(ghostBatchSize && { ghostBatchSize }) });
    const given = backwardOptions(spec, b);
    return {
      args: [b.give(b.input.dy), saved, given],
      call: ([dy, record, options]) => call(dy, record, options),
      state: () => bits(x),
      check: (g) => {
        if (spec.vectorsOut !== "accumulated") checkGradients(b, batch.dtype, g, given.needs, true);
        else if (batch.dtype === "float64") checkGradients(b, batch.dtype, without(g, given), given.needs, true);
        for (const [out, name] of [
          ["dxOut", "dx"],
          ["dGammaOut", "dGamma"],
          ["dBetaOut", "dBeta"],
          ["dResidualOut", "dResidual"],
        ] as const)
          if ((given as Any)[out]) same(name, g[name], (given as Any)[out]);
      },
    };
  });

const gradientSums = generator(backwards, (spec) => {
  const batch = {
    ...able({ ...spec.batch, ...NO_SAMPLES, ghostBatchSize: undefined, mask: undefined }),
  };
  const b = build(batch);
  const { out, ...options } = b.options as Any;
  const x = b.give(b.input.x);
  const { saved } = lib.batchNormForward(x, b.parameters, options);
  return {
    args: [b.give(b.input.dy), saved],
    call: ([dy, record]) => lib.batchNormGradientSums(dy, record),
    state: () => bits(x),
    check(g) {
      if (isAtKink(b)) return;
      const e = expected(b);
      // the sums are of float32 terms, whatever the operands are
      const gate = batch.dtype === "float64" ? gates.float64 : gates.float32;
      near("dGamma", g.dGamma, e.dGamma, e.dGammaScale, gate, (c) => c);
      near("dBeta", g.dBeta, e.dBeta, e.dBetaScale, gate, (c) => c);
    },
  };
});

export const double = generator(backwards, (spec) => {
  const simple = {
    perSample: "none",
    mask: undefined,
    ghostBatchSize: undefined,
    activation: "none",
    residual: false,
    epsilon: 1e-3,
  } as const;
  const batch: Batch = { ...spec.batch, ...simple, style: "normal" };
  const usable = able(batch);
  const constant = spec.inference ? running(usable.size[1] as number, usable.seed, usable.dtype) : undefined;
  const b = build(usable, constant);
  const { out, ...options } = b.options as Any;
  const x = b.give(b.input.x);
  const { saved } = constant
    ? lib.batchNormInference(x, { ...b.parameters, ...constant }, options)
    : lib.batchNormForward(x, b.parameters, options);
  const ddx = numbers(usable.seed * 8 + 7, b.length, usable.dtype, "normal");
  const few = (k: number) => numbers(usable.seed * 8 + k, b.channels, "float32", "normal");
  const [ddGamma, ddBeta] = [few(8), few(9)];
  const gradients = {
    ...(spec.dxOut && { ddx: b.give(ddx) }),
    ...(spec.batch.gamma && { ddGamma: vector(ddGamma, usable.dtype) }),
    ...(spec.batch.beta && { ddBeta: vector(ddBeta, usable.dtype) }),
  };
  return {
    args: [b.give(b.input.dy), saved, gradients],
    call: ([dy, record, gradients]) => lib.batchNormDoubleBackward(dy, record, gradients),
    state: () => bits(x),
    check(g) {
      if (!b.length) return;
      const e0 = expected(b);
      const d = {
        outer: b.problem.layout === "channels-last" ? b.length / b.channels : b.samples,
        channels: b.channels,
        inner: b.problem.layout === "channels-last" ? 1 : b.length / b.channels / b.samples,
      };
      const s = constant ?? (e0.batches[0] as Any);
      const invStd = Float64Array.from(s.variance, (v: number) => 1 / Math.sqrt(v + b.epsilon));
      const e = doubleBackward(
        b.input.x,
        b.input.dy,
        d,
        Float64Array.from(s.mean),
        invStd,
        b.problem.gamma,
        !constant,
        {
          ...(spec.dxOut && { ddx }),
          ...(spec.batch.gamma && { ddGamma }),
          ...(spec.batch.beta && { ddBeta }),
        },
      );
      // docs/concepts/numerics.md promises nothing of second derivatives, so the scale is that of their largest terms
      const largest = (v: Float64Array) => v.reduce((a, value) => Math.max(a, Math.abs(value)), 1);
      const half = usable.dtype === "float16" ? 2 ** -10 : usable.dtype === "bfloat16" ? 2 ** -7 : 0;
      const power = largest(invStd) ** 2;
      const tolerance = (v: Float64Array) => (usable.dtype === "float64" ? 1e-9 : 1e-5) * power * largest(v) * 4;
      close("ddy", decode(g.ddy), e.ddy, half, tolerance(e.ddy));
      close("dx", decode(g.dx), e.dx, half, tolerance(e.dx));
      if (b.problem.gamma) close("dGamma", g.dGamma, e.dGamma, 1e-4, tolerance(e.dGamma));
    },
  };
});

export const BATCHES: Readonly<Record<string, Generator>> = {
  batchNormForward: forward,
  batchNormInference: inference,
  batchNormStatistics: statistics,
  batchNormBackward: backward((dy, saved, options) => lib.batchNormBackward(dy, saved, options)),
  batchNormGradientSums: gradientSums,
  batchNormDoubleBackward: double,
};
