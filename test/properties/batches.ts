// Generators of calls of batch normalization, as functions and as layers, against the oracle.

import fc from "fast-check";
import * as lib from "../../src/index.ts";
import { activate, doubleBackward, errorOf, type Problem, solve } from "../support/reference.ts";
import { close, type Generator, generator, hold, near, type Prepared, same } from "./generator.ts";
import {
  type Any,
  activations,
  arrayOf,
  bits,
  decode,
  dtypes,
  encode,
  kinds,
  layerBits,
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
const batches = fc.record({
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
type Batch = typeof batches extends fc.Arbitrary<infer T> ? T : never;
/** What a description may not have where the oracle or the function does not know it. */
const NO_SAMPLES = { perSample: "none" } as const;

const gates = {
  float32: { u: 2 ** -24, gate: 4, floor: 1e-9 },
  float64: { u: 2 ** -53, gate: 16, floor: 1e-10 },
  float16: { u: 2 ** -11, gate: 1.1, floor: 2 ** -24 },
  bfloat16: { u: 2 ** -8, gate: 1.1, floor: 1e-9 },
};
/** dGamma and dBeta of 16-bit operands are float32. */
const wideGate = (dtype: lib.Dtype) => (dtype === "float64" ? gates.float64 : gates.float32);

/** Returns the numbers and the arguments that a batch stands for. */
function build(batch: Batch, constant?: Problem["constant"]) {
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
function expected(b: Built): ReturnType<typeof solve> {
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

function checkY(b: Built, dtype: lib.Dtype, y: Any): void {
  const e = expected(b);
  near("y", decode(y), e.y, e.yScale, gates[dtype], b.channelOf);
}

function checkGradients(b: Built, dtype: lib.Dtype, g: Any, needs: Any = {}, always = false): void {
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

const running = (channels: number, seed: number, dtype: lib.Dtype) => ({
  mean: vector(numbers(seed + 91, channels, "float32", "normal"), dtype),
  variance: vector(
    numbers(seed + 92, channels, "float32", "normal").map((v) => 0.25 + v * v),
    dtype,
  ),
});

const forward = generator(batches, (spec) => {
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

const inference = generator(batches, (spec) => {
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

const statistics = generator(batches, (spec) => {
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

const backwards = fc.record({
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
function backwardOptions({ batch, needs, dxOut, dResidualOut, vectorsOut }: Backward, b: Built) {
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
const without = (g: Any, options: Any) =>
  options.accumulate
    ? {
        ...g,
        ...(options.dGammaOut && { dGamma: g.dGamma.map((v: number) => v - 2) }),
        ...(options.dBetaOut && { dBeta: g.dBeta.map((v: number) => v - 2) }),
      }
    : g;

const backward = (call: (dy: Any, saved: Any, options: Any) => unknown) =>
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

const double = generator(backwards, (spec) => {
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
      // docs/numerics.md promises nothing of second derivatives, so the scale is that of their largest terms
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

// ---- layers ---------------------------------------------------------------------------------------------------------

const layers = fc.record({
  batch: batches,
  mode: fc.constantFrom("train" as const, "train" as const, "batch" as const, "eval" as const, "frozen" as const),
  byOption: fc.boolean(),
  momentum: fc.constantFrom(undefined, 0.1, 0.25, 0, 1),
  estimator: fc.constantFrom(
    "ema" as const,
    "ema" as const,
    "debiased" as const,
    "cumulative" as const,
    "population" as const,
  ),
  runningVariance: fc.constantFrom("unbiased" as const, "biased" as const),
  renorm: maybe(fc.constantFrom({ rMax: 1.2, dMax: 0.3 }, { rMax: 5, dMax: 5 }, { rMax: 1, dMax: 0 })),
  trackRunningStats: fc.constantFrom(true, true, true, false),
  needs: fc.constant(undefined),
  dxOut: fc.boolean(),
  dResidualOut: fc.boolean(),
  vectorsOut: fc.constantFrom("none", "given", "accumulated"),
});
type Layered = typeof layers extends fc.Arbitrary<infer T> ? T : never;

/** Makes a layer with nontrivial vectors, and the batch that it is called on. */
function layerOf(spec: Layered, keepsPerSample = true) {
  const tracks = spec.trackRunningStats || spec.mode === "frozen";
  const renorm = tracks && spec.batch.ghostBatchSize === undefined ? spec.renorm : undefined;
  const { size, dtype, seed } = spec.batch;
  const channels = size[1] as number;
  const own = running(channels, seed, dtype);
  const constant = tracks && (spec.mode === "eval" || spec.mode === "frozen") ? own : undefined;
  const batch: Batch = { ...spec.batch, perSample: keepsPerSample ? spec.batch.perSample : "none" };
  const b = build(batch, constant);
  // a layer has what the functions are given
  const perSample = b.parameters.perSample;
  const options = {
    dtype,
    layout: batch.layout,
    ...(b.options.epsilon !== undefined && { epsilon: b.options.epsilon }),
    scale: batch.gamma,
    shift: batch.beta,
    activation: batch.activation,
    ...(b.options.negativeSlope !== undefined && { negativeSlope: b.options.negativeSlope }),
    ...(batch.ghostBatchSize !== undefined && { ghostBatchSize: batch.ghostBatchSize }),
    ...(spec.momentum !== undefined && { momentum: spec.momentum }),
    estimator: spec.estimator,
    runningVariance: spec.runningVariance,
    trackRunningStats: tracks,
    ...(renorm && { renorm }),
  };
  const make = (group?: Any): Any => {
    const bn: Any = group
      ? new lib.SyncBatchNorm(channels, { ...options, group } as Any)
      : new lib.BatchNorm(channels, options as Any);
    if (bn.gamma && b.parameters.gamma) bn.gamma.set(b.parameters.gamma);
    if (bn.beta && b.parameters.beta) bn.beta.set(b.parameters.beta);
    if (tracks) {
      bn.runningMean.set(own.mean);
      bn.runningVariance.set(own.variance);
    }
    if (!spec.byOption) bn.mode = spec.mode;
    return bn;
  };
  const problem: Problem = {
    ...b.problem,
    ...(renorm && !constant && { renorm: { ...renorm, ...own } }),
    ...(perSample?.gamma === undefined && { gamma: batch.gamma ? b.problem.gamma : undefined }),
    ...(perSample?.beta === undefined && { beta: batch.beta ? b.problem.beta : undefined }),
  };
  const { mask, residual, out } = b.options as Any;
  const calls = {
    ...(spec.byOption && { mode: spec.mode }),
    ...(mask && { mask }),
    ...(residual && { residual }),
    ...(out && { out }),
    ...(perSample && { perSample }),
  };
  const updates = spec.mode === "train" && tracks;
  const fails = b.one && !constant ? "one-value-per-channel" : updates && b.light ? "RangeError" : undefined;
  return { b: { ...b, problem }, make, options, calls, own, tracks, updates, fails, batch, constant };
}

/** Returns the running statistics after these batches. */
function tracked(
  spec: Layered,
  own: { mean: Any; variance: Any },
  list: { count: number; mean: Any; variance: Any }[],
) {
  const [mean, variance] = [Float64Array.from(own.mean), Float64Array.from(own.variance)];
  const momentum = spec.momentum ?? 0.1;
  const correction = (n: number) => (spec.runningVariance === "unbiased" ? n / (n - 1) : 1);
  let [k, total] = [0, 0];
  let m2 = new Float64Array(mean.length);
  for (const batch of list.filter(({ count }) => count > 0)) {
    k++;
    const weight =
      spec.estimator === "cumulative"
        ? 1 / k
        : spec.estimator === "debiased"
          ? momentum === 0
            ? 1 / k
            : momentum / (1 - (1 - momentum) ** k)
          : momentum;
    for (let c = 0; c < mean.length; c++) {
      const [m, v] = [batch.mean[c] as number, batch.variance[c] as number];
      if (spec.estimator === "population") {
        const delta = m - (total ? (mean[c] as number) : 0);
        const share = batch.count / (total + batch.count);
        m2[c] = (m2[c] as number) + v * batch.count + delta * delta * total * share;
        mean[c] = (total ? (mean[c] as number) : 0) + delta * share;
        variance[c] = ((m2[c] as number) / (total + batch.count)) * correction(total + batch.count);
      } else {
        mean[c] = (1 - weight) * (mean[c] as number) + weight * m;
        variance[c] = (1 - weight) * (variance[c] as number) + weight * v * correction(batch.count);
      }
    }
    total += batch.count;
  }
  m2 = mean;
  return { mean, variance, batches: k };
}

function checkRunning(spec: Layered, l: ReturnType<typeof layerOf>, bn: Any): void {
  if (!l.tracks) {
    same("runningMean", bn.runningMean, null);
    return;
  }
  const list = l.updates ? expected(l.b).batches : [];
  const e = tracked(spec, l.own, list);
  const size = l.b.input.x.reduce((a, v) => Math.max(a, Math.abs(v)), 1);
  const u = spec.batch.dtype === "float64" ? 1e-12 : 2 ** -22;
  close("runningMean", bn.runningMean, e.mean, u, u * size);
  close("runningVariance", bn.runningVariance, e.variance, 2 * u, size * size * 1e-12);
  same("batchesTracked", bn.batchesTracked, e.batches);
}

/** A forward that is pending, so that a call which throws can be seen to leave it so. */
function withPending(l: ReturnType<typeof layerOf>, bn: Any) {
  const size = [4, l.b.channels, 3];
  const shape = shapeOf(size, l.batch.layout);
  const { dtype, seed } = l.batch;
  const x = operand(numbers(seed + 31, product(size), dtype, "normal"), shape, dtype, "plain");
  const dy = operand(numbers(seed + 32, product(size), dtype, "normal"), shape, dtype, "plain");
  bn.forward(x, { mode: l.tracks ? "frozen" : "batch" });
  return { state: () => layerBits(bn) + bits(x), probe: () => bits(bn.backward(dy)) };
}

const layerForward = generator(layers, (spec) => {
  const l = layerOf(spec);
  const bn = l.make();
  const pending = withPending(l, bn);
  return {
    receiver: bn,
    args: [l.b.give(l.b.input.x), l.calls],
    call: ([x, options], bn) => bn.forward(x, options),
    fails: l.fails,
    ...pending,
    check(y) {
      checkY(l.b, spec.batch.dtype, y);
      checkRunning(spec, l, bn);
    },
    before: [`const bn = new BatchNorm(${l.b.channels}, ${fc.stringify(l.options)}); // with other vectors`],
  };
});

const layerBackward = generator(layers, (raw) => {
  const spec = l0(raw);
  const l = layerOf(spec);
  const bn = l.make();
  const x = l.b.give(l.b.input.x);
  const { out, ...calls } = l.calls as Any;
  bn.forward(x, calls);
  const given = backwardOptions({ ...spec, batch: l.batch, inference: false } as Any, { ...l.b, problem: l.b.problem });
  return {
    receiver: bn,
    args: [l.b.give(l.b.input.dy), given],
    call: ([dy, options], bn) => bn.backward(dy, options),
    state: () => layerBits(bn) + bits(x),
    check: (g) =>
      checkGradients(
        l.b,
        l.batch.dtype,
        without(g, given),
        (given as Any).accumulate && l.batch.dtype !== "float64" ? { dGamma: g.dGamma ? undefined : false } : undefined,
      ),
    before: [
      `const bn = new BatchNorm(${l.b.channels}, ${fc.stringify(l.options)}); // with other vectors`,
      `bn.forward(x, ${fc.stringify(calls)});`,
    ],
  };
});

/** A description whose forward does not throw. */
function l0(spec: Layered): Layered {
  const plain: Layered =
    spec.vectorsOut === "accumulated" && spec.batch.dtype !== "float64" ? { ...spec, vectorsOut: "given" } : spec;
  return layerOf(plain).fails
    ? {
        ...plain,
        batch: {
          ...plain.batch,
          size: [4, plain.batch.size[1] as number, 2],
          ghostBatchSize: undefined,
          mask: undefined,
        },
      }
    : plain;
}

/** A group of one rank, or of two ranks with equal shards. */
const groupOf = (size: number, later: boolean) => {
  const finish = () => (later ? Promise.resolve() : undefined);
  return {
    rank: 0,
    size,
    sum(values: Float64Array) {
      for (let i = 0; i < values.length; i++) values[i] = (values[i] as number) * size;
      return finish();
    },
    gather(values: Float64Array, all: Float64Array) {
      for (let rank = 0; rank < size; rank++) all.set(values, rank * values.length);
      return finish();
    },
  };
};

/** A synchronised layer, alone in its group, which computes what a layer computes. */
const sync = (backwards: boolean, later: boolean) =>
  generator(layers, (raw) => {
    const batch: Batch = { ...raw.batch, ...NO_SAMPLES, ghostBatchSize: undefined };
    const masked = l0({ ...raw, batch, renorm: undefined });
    // a batch whose weights add up to at most 1 is refused, though BatchNorm takes it in mode "batch"
    const isLight = layerOf(masked, false).b.parts.every((part) => part.reduce((a, w) => a + w, 0) <= 1);
    const spec = isLight ? l0({ ...masked, batch: { ...masked.batch, mask: undefined } }) : masked;
    const l = layerOf(spec, false);
    const bn = l.make(groupOf(1, later));
    const x = l.b.give(l.b.input.x);
    const { out, ...calls } = l.calls as Any;
    // a group that answers later has no synchronous forward; the record of a frozen one needs no group
    if (backwards && !later) bn.forward(x, calls);
    const ready = backwards && later ? bn.forwardAsync(x, calls) : undefined;
    const dy = l.b.give(l.b.input.dy);
    return {
      receiver: bn,
      args: backwards ? [dy, {}] : [x, l.calls],
      async call([operand, options]: Any[], bn: Any) {
        await ready;
        return bn[`${backwards ? "backward" : "forward"}${later ? "Async" : ""}`](operand, options);
      },
      ...(ready ? {} : { state: () => layerBits(bn) }),
      check(result) {
        if (backwards) checkGradients(l.b, spec.batch.dtype, result);
        else {
          checkY(l.b, spec.batch.dtype, result);
          checkRunning(spec, l, bn);
        }
      },
    };
  });

const OPTIONS = fc.record(
  {
    preset: fc.constantFrom("pytorch", "keras", "tfjs", "onnx", "flax", "haiku", "paper"),
    layout: layouts,
    epsilon: fc.constantFrom(0, 1e-5, 1e-3, 2),
    momentum: fc.constantFrom(0, 0.1, 0.5, 1),
    scale: fc.boolean(),
    shift: fc.boolean(),
    affine: fc.boolean(),
    trackRunningStats: fc.boolean(),
    runningVariance: fc.constantFrom("unbiased", "biased"),
    estimator: fc.constantFrom("ema", "debiased", "cumulative", "population"),
    onNonFinite: fc.constantFrom("throw", "skip", "allow"),
    ghostBatchSize: fc.constantFrom(null, 1, 4),
    dtype: dtypes,
    activation: activations,
  },
  { requiredKeys: [] },
);

/** Checks a new layer against its options and the defaults in docs/presets.md. */
function checkNew(bn: Any, channels: number, options: Any): void {
  const last = ["keras", "tfjs", "flax", "haiku"].includes(options.preset);
  const defaults: Any = {
    layout: last ? "channels-last" : "channels-first",
    epsilon: options.preset === "keras" || options.preset === "tfjs" ? 1e-3 : 1e-5,
    momentum: ["keras", "tfjs", "flax"].includes(options.preset) ? 0.01 : 0.1,
    runningVariance: last || options.preset === "onnx" ? "biased" : "unbiased",
    estimator: options.preset === "haiku" ? "debiased" : options.preset === "paper" ? "cumulative" : "ema",
    trackRunningStats: true,
    onNonFinite: "throw",
    ghostBatchSize: null,
    dtype: "float32",
    activation: "none",
  };
  const { preset, affine = true, scale = affine, shift = affine, group, ...others } = options;
  for (const [name, value] of Object.entries({
    ...defaults,
    ...others,
    scale: scale && affine,
    shift: shift && affine,
  }))
    same(`options.${name}`, bn.options[name], value);
  same("channels", bn.channels, channels);
  const Type = bn.options.dtype === "float64" ? Float64Array : Float32Array;
  const is = (name: string, value: Any, present: boolean, fill: number) => {
    same(`presence of ${name}`, value !== null, present);
    if (present)
      hold(value instanceof Type && value.length === channels && value.every((v) => v === fill), `${name}: ${value}`);
  };
  is("gamma", bn.gamma, bn.options.scale, 1);
  is("beta", bn.beta, bn.options.shift, 0);
  is("runningMean", bn.runningMean, bn.options.trackRunningStats, 0);
  is("runningVariance", bn.runningVariance, bn.options.trackRunningStats, 1);
  same("mode", bn.mode, "train");
  same("batchesTracked", bn.batchesTracked, 0);
  same("saved", bn.saved, undefined);
}

const news = fc.record({ channels: fc.integer({ min: 1, max: 6 }), options: OPTIONS });

const construct = generator(
  news,
  ({ channels, options }) => ({
    args: [channels, options],
    call: ([c, o]) => new lib.BatchNorm(c, o),
    check: (bn) => checkNew(bn, channels, options),
  }),
  true,
);

const constructSync = generator(
  news,
  ({ channels, options: { ghostBatchSize, ...options } }) => {
    const group = groupOf(1, false);
    return {
      args: [channels, { ...options, group }],
      call: ([c, o]) => new lib.SyncBatchNorm(c, o),
      check(bn) {
        checkNew(bn, channels, options);
        same("group", bn.group, group);
      },
    };
  },
  true,
);

/** A layer that has run, for methods that read or change it. */
const methods = fc.record({
  layer: layers,
  number: fc.double({ min: 0, max: 1, noNaN: true }),
  count: fc.integer({ min: 2, max: 50 }),
});
type Method = typeof methods extends fc.Arbitrary<infer T> ? T : never;

/** A generator of calls of a method on a layer that has run. */
function method(
  use: (bn: Any, spec: Method, l: ReturnType<typeof layerOf>) => Omit<Prepared, "receiver" | "state" | "probe">,
  changesPending = false,
): Generator<Method> {
  return generator(methods, (spec) => {
    const l = layerOf(l0(spec.layer), true);
    const bn = l.make();
    const pending = withPending(l, bn);
    const { probe, state } = pending;
    return { receiver: bn, state, ...(changesPending ? {} : { probe }), ...use(bn, spec, l) };
  });
}

/** A generator of reads of a property. */
const reads = (name: string, check: (value: Any, bn: Any, spec: Method, l: ReturnType<typeof layerOf>) => void) =>
  method((bn, spec, l) => ({ args: [], call: (_, bn) => bn[name], check: (value) => check(value, bn, spec, l) }));

/** A generator of assignments to a property. */
const assigns = (name: string, value: (bn: Any, spec: Method) => unknown) =>
  method((bn, spec) => ({
    args: [value(bn, spec)],
    call([v], bn) {
      bn[name] = v;
      return bn[name];
    },
    check(result) {
      const given = value(bn, spec);
      if (typeof given === "object") same(name, bits(result), bits(given));
      else same(name, result, given);
    },
  }));

/** Assigned arrays are used without a copy. A layer that lacks the vector refuses it. */
const assignsVector = (name: string) =>
  method((bn, spec) => {
    const fill = spec.number;
    const Type = bn.options.dtype === "float64" ? Float64Array : Float32Array;
    const given = new Type(bn.channels).fill(fill);
    return {
      args: [given],
      call([v], bn) {
        bn[name] = v;
        return bn[name];
      },
      ...(bn[name] === null && { fails: "TypeError" }),
      check: (result) => same(name, result, given),
    };
  });

const states = ["pytorch", "keras", "tfjs", "onnx", "flax", "haiku"] as const;
const frameworkOf = ({ count }: Method) => states[count % states.length] as (typeof states)[number];

export const BATCHES: Readonly<Record<string, Generator>> = {
  batchNormForward: forward,
  batchNormInference: inference,
  batchNormStatistics: statistics,
  batchNormBackward: backward((dy, saved, options) => lib.batchNormBackward(dy, saved, options)),
  batchNormGradientSums: gradientSums,
  batchNormDoubleBackward: double,
  BatchNorm: construct,
  "BatchNorm.forward": layerForward,
  "BatchNorm.backward": layerBackward,
  "BatchNorm.channels": reads("channels", (value, _, { layer }) => same("channels", value, layer.batch.size[1])),
  "BatchNorm.options": reads("options", (value, bn) =>
    hold(Object.isFrozen(value) && value.epsilon === bn.epsilon, "options"),
  ),
  "BatchNorm.gamma": assignsVector("gamma"),
  "BatchNorm.beta": assignsVector("beta"),
  "BatchNorm.runningMean": assignsVector("runningMean"),
  "BatchNorm.runningVariance": assignsVector("runningVariance"),
  "BatchNorm.batchesTracked": reads("batchesTracked", (value) => same("batchesTracked", value, 0)),
  "BatchNorm.dGamma": reads("dGamma", (value) => same("dGamma", value, undefined)),
  "BatchNorm.dBeta": reads("dBeta", (value) => same("dBeta", value, undefined)),
  "BatchNorm.mode": assigns("mode", (_, { count }) => ["train", "batch", "eval", "frozen"][count % 4]),
  "BatchNorm.epsilon": assigns("epsilon", (_, { number }) => number),
  "BatchNorm.momentum": assigns("momentum", (_, { number }) => number * 0.8),
  "BatchNorm.renorm": method((bn, { number, count }) => {
    const given = count % 5 ? { rMax: 1 + number, dMax: number } : null;
    return {
      args: [given],
      call([v], bn) {
        bn.renorm = v;
        return bn.renorm;
      },
      ...(given && bn.runningMean === null && { fails: "TypeError" }),
      check: (result) => same("renorm", bits(result), bits(given)),
    };
  }),
  "BatchNorm.saved": reads("saved", (value) => hold(value !== undefined, "saved")),
  "BatchNorm.train": method((bn, { count }) => {
    const on = [true, false, undefined][count % 3];
    return {
      args: [on],
      call: ([v], bn) => bn.train(v),
      check: (result) => hold(result === bn && bn.mode === (on === false ? "eval" : "train"), "train"),
    };
  }),
  "BatchNorm.eval": method((bn) => ({
    args: [],
    call: (_, bn) => bn.eval(),
    check: (result) => hold(result === bn && bn.mode === "eval", "eval"),
  })),
  "BatchNorm.freeze": method((bn) => ({
    args: [],
    call: (_, bn) => bn.freeze(),
    ...(bn.runningMean === null && { fails: "no-running-statistics" }),
    check: (result) => hold(result === bn && bn.mode === "frozen", "freeze"),
  })),
  "BatchNorm.resetRunningStats": method((bn) => ({
    args: [],
    call: (_, bn) => bn.resetRunningStats(),
    check: () =>
      hold(
        bn.batchesTracked === 0 &&
          (bn.runningMean ?? []).every((v: number) => v === 0) &&
          (bn.runningVariance ?? []).every((v: number) => v === 1),
        "reset",
      ),
  })),
  "BatchNorm.clone": method((bn) => ({
    args: [],
    call: (_, bn) => bn.clone(),
    check(copy) {
      same("clone", layerBits(copy), layerBits(bn));
      for (const name of ["gamma", "beta", "runningMean", "runningVariance"])
        hold(copy[name] === null || copy[name] !== bn[name], name);
    },
  })),
  "BatchNorm.toJSON": method((bn) => ({
    args: [],
    call: (_, bn) => bn.toJSON(),
    check(json) {
      const copy = bn.clone();
      copy.resetRunningStats();
      copy.loadStateDict(JSON.parse(JSON.stringify(json)));
      same("toJSON", layerBits(copy), layerBits(bn));
    },
  })),
  "BatchNorm.stateDict": method((bn, spec) => {
    const options = {
      framework: frameworkOf(spec),
      ...(spec.count % 2 && { prefix: "layer1.bn" }),
      ...(spec.count % 3 === 0 && { count: spec.count }),
    };
    return {
      args: [options],
      call: ([o], bn) => bn.stateDict(o),
      check(state) {
        // a layer without any vector has no state to load
        if (Object.keys(state).length === 0) return;
        const copy = bn.clone();
        copy.resetRunningStats();
        const uncounted = options.framework !== "pytorch" && options.framework !== "haiku";
        copy.loadStateDict(state, options);
        for (const name of ["gamma", "beta", "runningMean", "runningVariance"])
          if (bn[name]) close(name, copy[name], bn[name], 1e-6);
        hold(uncounted || copy.batchesTracked === bn.batchesTracked, "batches");
      },
    };
  }),
  "BatchNorm.loadStateDict": method((bn, spec) => {
    const source = bn.clone();
    for (const v of [source.gamma, source.beta, source.runningMean]) v?.fill(spec.number);
    const options = { framework: frameworkOf(spec), prefix: "a.b", strict: spec.count % 2 === 0 };
    return {
      args: [source.stateDict({ framework: options.framework, prefix: "a.b" }), options],
      call: ([state, o], bn) => bn.loadStateDict(state, o),
      check(report) {
        for (const name of ["gamma", "beta", "runningMean", "runningVariance"])
          if (bn[name]) close(name, bn[name], source[name], 0);
        same("unexpected", report.unexpected.length, 0);
      },
    };
  }),
  "BatchNorm.toAffine": method((bn) => {
    const { activation } = bn.options;
    return {
      args: [activation === "none" ? {} : { activation }],
      call: ([options], bn) => bn.toAffine(options),
      ...(bn.runningMean === null && { fails: "no-running-statistics" }),
      check({ scale, shift }) {
        for (let c = 0; c < bn.channels; c++) {
          const s = (bn.gamma?.[c] ?? 1) / Math.sqrt(bn.runningVariance[c] + bn.epsilon);
          const rtol = bn.options.dtype === "float64" ? 1e-14 : 2 ** -23;
          close("scale", [scale[c]], [s], rtol);
          close("shift", [shift[c]], [(bn.beta?.[c] ?? 0) - bn.runningMean[c] * s], rtol, 1e-14 * 100 * Math.abs(s));
        }
      },
    };
  }),
  "BatchNorm.track": method((bn, spec, l) => {
    const batch = {
      count: spec.count,
      mean: numbers(spec.count, bn.channels, "float64", "normal"),
      variance: numbers(spec.count + 1, bn.channels, "float64", "normal").map((v) => v * v),
    };
    const before = { mean: bn.runningMean?.slice(), variance: bn.runningVariance?.slice() };
    return {
      args: [batch],
      call: ([s], bn) => bn.track(s),
      ...(bn.runningMean === null && { fails: "no-running-statistics" }),
      check() {
        const e = tracked(l0(spec.layer), before, [batch]);
        close("runningMean", bn.runningMean, e.mean, 1e-6, 1e-6);
        close("runningVariance", bn.runningVariance, e.variance, 1e-6, 1e-6);
        same("batchesTracked", bn.batchesTracked, 1);
        hold(l.tracks, "tracks");
      },
    };
  }),
  "BatchNorm.dispose": method(
    (bn) => ({ args: [], call: (_, bn) => bn.dispose(), check: () => hold(bn.channels > 0, "channels") }),
    true,
  ),
  "BatchNorm[Symbol.dispose]": method(
    (bn) => ({ args: [], call: (_, bn) => bn[Symbol.dispose](), check: () => hold(bn.channels > 0, "channels") }),
    true,
  ),
  SyncBatchNorm: constructSync,
  "SyncBatchNorm.forward": sync(false, false),
  "SyncBatchNorm.backward": sync(true, false),
  "SyncBatchNorm.forwardAsync": sync(false, true),
  "SyncBatchNorm.backwardAsync": sync(true, true),
  "SyncBatchNorm.dispose": generator(layers, (raw) => {
    const l = layerOf({ ...raw, renorm: undefined, batch: { ...raw.batch, ghostBatchSize: undefined } }, false);
    const bn = l.make(groupOf(2, false));
    return {
      receiver: bn,
      args: [],
      call: (_, bn) => bn.dispose(),
      check: () => {
        let code: unknown;
        try {
          bn.forward({ data: new Float32Array(0), shape: [0, bn.channels] } as Any);
        } catch (error) {
          code = (error as { code?: unknown }).code;
        }
        same("the code of a forward after dispose", code, "disposed");
      },
    };
  }),
  "SyncBatchNorm.clone": generator(layers, (raw) => {
    const l = layerOf({ ...raw, renorm: undefined, batch: { ...raw.batch, ghostBatchSize: undefined } }, false);
    const bn = l.make(groupOf(2, false));
    return {
      receiver: bn,
      args: [],
      call: (_, bn) => bn.clone(),
      check: (copy) => hold(layerBits(copy) === layerBits(bn) && copy.group === bn.group, "clone"),
    };
  }),
};

export { activate, arrayOf, encode, errorOf };
