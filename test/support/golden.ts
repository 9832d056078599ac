// Runs golden cases through the public API and measures the distance of the results from the 80-bit reference. The unit
// and the condition scales are those of test/golden/README.md. golden.test.ts limits the distances, and
// docs/concepts/numerics-measurements.md shows them.

import { fileURLToPath } from "node:url";
import {
  BatchNorm,
  batchNormBackward,
  batchNormForward,
  batchNormGradientSums,
  batchNormStatistics,
  type Gradients,
  type Layout,
  mergeStatistics,
  type Options,
  type TensorLike,
  type Vector,
} from "../../src/index.ts";
import { type Case, loadGolden, nw, type Pair, procValue, toChannelsLast } from "../golden/read-golden.mjs";
import { once } from "./once.ts";
import { backward, type Dims, dimsOf, eachOf, forward, invStdOf, meanMagnitude, statistics } from "./reference.ts";
import { drop, type Kind, make, makeOf } from "./worlds.ts";

const golden = loadGolden(fileURLToPath(new URL("../golden", import.meta.url)));
const { arr } = golden;

/** Cases of the kinds that one layer can run. Kinds fold and safetensors have their own tests. */
export const CASES = golden.cases.filter((c) =>
  ["train", "eval", "sequence", "population", "procedural", "onnx", "sync"].includes(c.kind),
);

/** The distance of one output of a case from the reference. */
export interface Distance {
  readonly output: string;
  /** Largest error in units u of 2⁻²⁴ × the channel's condition scale, or 2⁻⁵³ × the scale for float64. */
  readonly u: number;
  /** Largest error in channels whose condition scale is 0, where the result must be exact. */
  readonly zero: number;
  /** Number of elements whose class (finite, NaN, ∞, −∞) differs from the reference's. */
  readonly classes: number;
  /** Largest error of PyTorch 1.13.1 in u, if the case contains it. */
  readonly torch: number | undefined;
}

/** A memory order in which a case can run. */
export interface Variant {
  readonly layout: Layout;
  readonly name: string;
}

const LAST = ["NLC", "NHWC", "NDHWC", "NSC"];
const layoutOf = (name: string): Layout => (LAST.includes(name) ? "channels-last" : "channels-first");

/** Returns the memory orders in which a case can run. */
export function variantsOf(c: Case): Variant[] {
  const names: string[] = [c.params.layout ?? "NCHW", ...(c.params.alsoLayouts ?? [])];
  return names.map((name) => ({ name, layout: layoutOf(name) }));
}

/**
 * Returns an array and its shape in the memory order of a variant. The array itself is returned if its order is the
 * same.
 */
function arrange<T extends ArrayLike<number>>(values: T, shape: number[], from: string, to: Variant): [T, number[]] {
  if (layoutOf(from) === to.layout) return [values, shape];
  const [n, c, ...spatial] = shape as [number, number, ...number[]];
  const inner = spatial.reduce((a, b) => a * b, 1);
  // with one channel both orders are the same; a copy of the largest case takes longer than a step
  return [c === 1 ? values : toChannelsLast(values, n, c, inner), [n, ...spatial, c]];
}

const channelOf = (d: Dims) => (i: number) => Math.floor(i / d.inner) % d.channels;
const identity = (i: number) => i;

function optionsOf(c: Case, layout: Layout): Options {
  const { eps, momentum, trackRunningStats } = c.params;
  return {
    layout,
    epsilon: eps,
    scale: Boolean(c.in.weight),
    shift: Boolean(c.in.bias),
    trackRunningStats: trackRunningStats ?? true,
    onNonFinite: "allow",
    ...(typeof momentum === "number" ? { momentum } : {}),
    ...(momentum === null ? { estimator: "cumulative" as const } : {}),
  };
}

/** Element types in which a case, whose numbers are float32, can be computed. */
export type Precision = "float32" | "float64";

const widened = (values: ArrayLike<number>, dtype: Precision) =>
  dtype === "float64" ? Float64Array.from(values) : Float32Array.from(values);

function layerOf(c: Case, layout: Layout, channels: number, overrides: Options<Precision> = {}) {
  const bn = new BatchNorm<Precision, boolean, boolean>(channels, { ...optionsOf(c, layout), ...overrides });
  const { dtype } = bn.options;
  if (c.in.weight) bn.gamma = widened(arr(c.in.weight), dtype);
  if (c.in.bias) bn.beta = widened(arr(c.in.bias), dtype);
  if (c.in.running_mean) {
    bn.runningMean = widened(arr(c.in.running_mean), dtype);
    bn.runningVariance = widened(arr(c.in.running_var), dtype);
  }
  return bn;
}

class Distances {
  readonly list: Distance[] = [];
  readonly #unit: number;

  constructor(dtype: Precision = "float32") {
    this.#unit = dtype === "float64" ? 2 ** 29 : 1;
  }

  add(output: string, got: ArrayLike<number>, pair: Pair, scale: ArrayLike<number>, d: Dims | null, torch?: unknown) {
    this.addTo(output, got, arr<Float64Array>(pair.f64), scale, d, torch);
  }

  addTo(
    output: string,
    got: ArrayLike<number>,
    reference: ArrayLike<number>,
    scale: ArrayLike<number>,
    d: Dims | null,
    torch?: unknown,
  ) {
    if (got.length !== reference.length)
      throw new Error(`${output}: ${got.length} values, expected ${reference.length}`);
    // the unit of nw is at least float32's smallest number; scaled to about 1, float64 results stay far above it
    const largest = Array.from(scale).reduce((a, b) => (b < Infinity && b > a ? b : a), 0);
    const k = this.#unit === 1 || largest === 0 ? 1 : 2 ** -Math.round(Math.log2(largest));
    const scaled = (values: ArrayLike<number>) => (k === 1 ? values : Array.from(values, (v) => v * k));
    const channels = d ? d.channels : reference.length;
    const { u, zero, cls } = nw(scaled(got), scaled(reference), scaled(scale), d ? channelOf(d) : identity, channels);
    this.list.push({
      output,
      u: u * this.#unit,
      zero,
      classes: cls,
      torch: (torch as { maxNwU: number } | undefined)?.maxNwU,
    });
  }
}

/** Runs a case of kind train or eval. `replaced` is an input instead of the case's, for comparisons of runs. */
export function runStep(c: Case, v: Variant, kind: Kind, replaced?: Float32Array, dtype: Precision = "float32") {
  const p = c.params;
  const [data, shape] = arrange(replaced ?? arr(c.in.x), p.shape, p.layout, v);
  const d = dimsOf(shape, v.layout);
  const bn = layerOf(c, v.layout, d.channels, { dtype });
  const input = (values: Float32Array) => makeOf<Precision>(dtype, kind, shape, widened(values, dtype));
  const x = input(data);
  const y = bn.forward(x, { mode: p.training ? "train" : "eval" });
  const dyData = c.in.dy ? arrange(arr(c.in.dy), p.shape, p.layout, v)[0] : null;
  const dy = dyData && input(dyData);
  const gradients: Partial<Gradients<TensorLike<Precision>, Vector, object, boolean, boolean>> = dy
    ? bn.backward(dy)
    : {};
  const batch = p.training ? batchNormForward(x, {}, { layout: v.layout, epsilon: p.eps }) : null;
  const result = {
    d,
    shape,
    data,
    dyData,
    y: y.data.slice(),
    dx: gradients.dx?.data.slice(),
    dGamma: gradients.dGamma,
    dBeta: gradients.dBeta,
    runningMean: bn.runningMean,
    runningVariance: bn.runningVariance,
    mean: batch?.mean,
    variance: batch?.variance,
    invStd: batch?.invStd,
  };
  drop(x, y, dy ?? undefined, gradients.dx, batch?.y);
  bn.dispose();
  return result;
}

/** Returns the statistics that normalise a case of kind train or eval, and all of its condition scales. */
const oracleOfStep = (c: Case, v: Variant) =>
  once(`step ${c.id} ${v.name}`, () => {
    const p = c.params;
    const [data, shape] = arrange(arr(c.in.x), p.shape, p.layout, v);
    const d = dimsOf(shape, v.layout);
    const gamma = c.in.weight ? arr(c.in.weight) : null;
    const beta = c.in.bias ? arr(c.in.bias) : null;
    const mean = p.training ? arr<Float64Array>(c.out.mean.f64) : Float64Array.from(arr(c.in.running_mean));
    const invStd = p.training
      ? arr<Float64Array>(c.out.invstd.f64)
      : invStdOf(Float64Array.from(arr(c.in.running_var)), p.eps);
    const { scale } = forward(data, d, mean, invStd, gamma, beta);
    const dyData = c.in.dy ? arrange(arr(c.in.dy), p.shape, p.layout, v)[0] : null;
    const gradients = dyData && backward(data, dyData, d, mean, invStd, gamma, p.training);
    return { mean, invStd, scale, gradients, magnitude: meanMagnitude(data, d) };
  });

/** Returns the distances of a case of kind train or eval, and the largest |mean|/std of a channel. */
export function measureStep(c: Case, v: Variant, kind: Kind, dtype: Precision = "float32") {
  const p = c.params;
  const torch = c.torchErr?.native ?? {};
  const r = runStep(c, v, kind, undefined, dtype);
  const out = new Distances(dtype);
  const of = (pair: Pair) => arr<Float64Array>(pair.f64);
  const { mean, invStd, scale, gradients: g, magnitude } = oracleOfStep(c, v);
  if (p.training) {
    const variance = of(c.out.var);
    out.add("mean", r.mean ?? [], c.out.mean, magnitude, null, torch.mean);
    out.add("variance", r.variance ?? [], c.out.var, variance, null);
    out.add("invStd", r.invStd ?? [], c.out.invstd, invStd, null, torch.invstd);
    if (c.out.running_mean) {
      const m = p.momentum;
      const bessel = (r.d.outer * r.d.inner) / (r.d.outer * r.d.inner - 1);
      const oldMean = arr(c.in.running_mean);
      const oldVariance = arr(c.in.running_var);
      const meanScale = magnitude.map((s, i) => (1 - m) * Math.abs(oldMean[i] as number) + m * s);
      const varianceScale = variance.map((s, i) => (1 - m) * Math.abs(oldVariance[i] as number) + m * s * bessel);
      out.add("runningMean", r.runningMean ?? [], c.out.running_mean, meanScale, null, torch.running_mean);
      out.add("runningVariance", r.runningVariance ?? [], c.out.running_var, varianceScale, null, torch.running_var);
    }
  }
  const arranged = (pair: Pair) => arrange(of(pair), p.shape, p.layout, v)[0];
  out.addTo("y", r.y, arranged(c.out.y), scale, r.d, torch.y);
  if (g) {
    out.addTo("dx", r.dx ?? [], arranged(c.out.dx), g.dxScale, r.d, torch.dx);
    if (c.out.dgamma) out.add("dGamma", r.dGamma ?? [], c.out.dgamma, g.dGammaScale, null, torch.dgamma);
    if (c.out.dbeta) out.add("dBeta", r.dBeta ?? [], c.out.dbeta, g.dBetaScale, null, torch.dbeta);
  }
  const ratio = Math.max(...Array.from(mean, (m, i) => Math.abs(m) * (invStd[i] as number)).filter(Number.isFinite), 0);
  return { list: out.list, ratio };
}

/**
 * Runs a case of kind sequence: steps of training, evaluation and resetting. Throws if the number of batches is wrong.
 */
function measureSequence(c: Case, v: Variant, kind: Kind): Distance[] {
  const { C, eps, momentum } = c.params;
  const bn = layerOf(c, v.layout, C);
  bn.loadStateDict({ ...bn.stateDict(), num_batches_tracked: Number(arr<BigInt64Array>(c.in.num_batches_tracked)[0]) });
  const out = new Distances();
  let meanScale = Float64Array.from(arr(c.in.running_mean), Math.abs);
  let varianceScale = Float64Array.from(arr(c.in.running_var));
  for (const step of c.out.steps) {
    if (step.op === "reset") {
      bn.resetRunningStats();
      meanScale = new Float64Array(C);
      varianceScale = new Float64Array(C).fill(1);
    } else {
      const [data, shape] = arrange(arr(step.x), step.shape, c.params.layout, v);
      const d = dimsOf(shape, v.layout);
      const before = [bn.runningMean, bn.runningVariance].map((a) => Float64Array.from(a as Float32Array));
      const x = make(kind, shape, data);
      const y = bn.forward(x, { mode: step.op });
      let [mean, variance] = before as [Float64Array, Float64Array];
      if (step.op === "train") {
        ({ mean, variance } = statistics(data, d));
        const f = momentum ?? 1 / step.num_batches_tracked;
        const m = d.outer * d.inner;
        const magnitude = meanMagnitude(data, d);
        meanScale = meanScale.map((s, i) => (1 - f) * s + f * (magnitude[i] as number));
        varianceScale = varianceScale.map((s, i) => (1 - f) * s + (f * (variance[i] as number) * m) / (m - 1));
      }
      if (step.y) {
        const scale = forward(data, d, mean, invStdOf(variance, eps), bn.gamma, bn.beta).scale;
        const [reference] = arrange(arr<Float64Array>(step.y.f64), step.shape, c.params.layout, v);
        out.addTo("y", y.data, reference, scale, d, step.torchErr?.y);
      }
      drop(x, y);
    }
    if (bn.batchesTracked !== Number(step.num_batches_tracked)) throw new Error(`${bn.batchesTracked} batches tracked`);
    const torch = step.torchErr;
    out.add("runningMean", bn.runningMean ?? [], step.running_mean, meanScale, null, torch?.running_mean);
    out.add("runningVariance", bn.runningVariance ?? [], step.running_var, varianceScale, null, torch?.running_var);
  }
  bn.dispose();
  return out.list;
}

/**
 * Runs a case of kind population: the paper's Alg. 2 with estimator "cumulative", pooled statistics with "population".
 */
function measurePopulation(c: Case, v: Variant, kind: Kind): Distance[] {
  const out = new Distances();
  const magnitude = new Float64Array(c.params.C);
  for (const [estimator, mean, variance, running] of [
    ["cumulative", c.out.mean, c.out.var, "unbiased"],
    ["population", c.out.pooledMean, c.out.pooledVarUnbiased, "unbiased"],
    ["population", c.out.pooledMean, c.out.pooledVarBiased, "biased"],
  ] as const) {
    const bn = layerOf(c, v.layout, c.params.C, { estimator, runningVariance: running });
    magnitude.fill(0);
    for (const batch of c.in.batches) {
      const x = make(kind, batch.shape, arr(batch));
      drop(x, bn.forward(x, { mode: "train" }));
      const share = meanMagnitude(arr(batch), dimsOf(batch.shape, v.layout));
      for (let i = 0; i < magnitude.length; i++)
        magnitude[i] = (magnitude[i] as number) + (share[i] as number) / c.in.batches.length;
    }
    out.add("runningMean", bn.runningMean ?? [], mean, magnitude, null);
    out.add("runningVariance", bn.runningVariance ?? [], variance, arr(variance.f64), null);
    if (estimator === "cumulative") {
      const test = arr(c.in.xTest);
      const d = dimsOf(c.in.xTest.shape, v.layout);
      const x = make(kind, c.in.xTest.shape, test);
      const y = bn.forward(x, { mode: "eval" });
      const invStd = invStdOf(arr<Float64Array>(variance.f64), c.params.eps);
      out.add("y", y.data, c.out.yTest, forward(test, d, arr(mean.f64), invStd, bn.gamma, bn.beta).scale, d);
      drop(x, y);
    }
    bn.dispose();
  }
  return out.list;
}

/** Runs a case of kind sync: the parts of one batch in two phases, with an empty part before each of them. */
function measureSync(c: Case, v: Variant, kind: Kind): Distance[] {
  const { C, eps, layout: from, momentum } = c.params;
  const [gamma, beta] = [arr(c.in.weight), arr(c.in.bias)];
  const empty = (like: { shape: number[] }) => ({ data: new Float32Array(0), shape: [0, ...like.shape.slice(1)] });
  const parts: { x: TensorLike; dy: TensorLike; out?: Case["out"] }[] = [];
  c.in.shards.forEach((shard: Case["in"], i: number) => {
    const input = (name: "x" | "dy") => {
      const [data, shape] = arrange(arr(shard[name]), shard.shape, from, v);
      return make(kind, shape, data);
    };
    const part = { x: input("x"), dy: input("dy"), out: c.out.shards[i] };
    const emptyInput = empty({ shape: [...part.x.shape] });
    parts.push({ x: emptyInput, dy: emptyInput }, part);
  });
  const out = new Distances();
  const of = (pair: Pair) => arr<Float64Array>(pair.f64);
  const layout = v.layout;

  const statistics = parts.map(({ x }) => batchNormStatistics(x, { layout }));
  const joint = mergeStatistics(statistics);
  if (joint.count !== c.params.count) throw new Error(`${joint.count} values per channel`);
  const shardOf = ({ x }: { x: TensorLike }) => ({ d: dimsOf(x.shape, layout), data: x.data });
  const shares = parts.map((part) => {
    const { d, data } = shardOf(part);
    return data.length ? meanMagnitude(data, d).map((s) => (s * d.outer * d.inner) / joint.count) : new Float64Array(C);
  });
  const magnitude = new Float64Array(C).map((_, i) => shares.reduce((sum, share) => sum + (share[i] as number), 0));
  const bn = new BatchNorm(C, { layout, epsilon: eps, momentum });
  bn.runningMean = arr(c.in.running_mean).slice();
  bn.runningVariance = arr(c.in.running_var).slice();
  bn.track(joint);
  const bessel = joint.count / (joint.count - 1);
  const blend = (old: Float32Array, now: Float64Array, factor: number) =>
    now.map((s, i) => (1 - momentum) * Math.abs(old[i] as number) + momentum * s * factor);
  out.add("mean", joint.mean, c.out.mean, magnitude, null);
  out.add("variance", joint.variance, c.out.var, of(c.out.var), null);
  const meanScale = blend(arr(c.in.running_mean), magnitude, 1);
  out.add("runningMean", bn.runningMean ?? [], c.out.running_mean, meanScale, null);
  const varianceScale = blend(arr(c.in.running_var), of(c.out.var), bessel);
  out.add("runningVariance", bn.runningVariance ?? [], c.out.running_var, varianceScale, null);

  const forwards = parts.map(({ x }) =>
    batchNormForward(x, { gamma, beta }, { layout, epsilon: eps, statistics: joint }),
  );
  const sums = parts.map(({ dy }, i) => batchNormGradientSums(dy, (forwards[i] as (typeof forwards)[number]).saved));
  const total = { dGamma: new Float64Array(C), dBeta: new Float64Array(C) };
  for (const name of ["dGamma", "dBeta"] as const)
    for (let i = 0; i < C; i++) total[name][i] = sums.reduce((sum, one) => sum + (one[name][i] as number), 0);
  const [mean, invStd] = [of(c.out.mean), of(c.out.invstd)];
  const scales = parts.map(({ x, dy }) => {
    const d = dimsOf(x.shape, layout);
    return backward(x.data, dy.data, d, mean, invStd, gamma, false);
  });
  const scaleOf = (name: "dGammaScale" | "dBetaScale") =>
    new Float64Array(C).map((_, i) => scales.reduce((sum, s) => sum + (s[name][i] as number), 0));
  const [dGammaScale, dBetaScale] = [scaleOf("dGammaScale"), scaleOf("dBetaScale")];
  out.add("dGamma", total.dGamma, c.out.dgamma, dGammaScale, null);
  out.add("dBeta", total.dBeta, c.out.dbeta, dBetaScale, null);

  for (const [i, { x, dy, out: expected }] of parts.entries()) {
    const { y, saved } = forwards[i] as (typeof forwards)[number];
    const { dx, dGamma, dBeta } = batchNormBackward(dy, saved, { sums: total });
    if (!expected) {
      if (y.data.length + (dx?.data.length ?? 1)) throw new Error("an empty part has values");
      drop(y, dx);
      continue;
    }
    const d = dimsOf(x.shape, layout);
    const localScales = scales[i] as (typeof scales)[number];
    const arranged = (pair: Pair) => arrange(of(pair), c.in.shards[(i - 1) / 2].shape, from, v)[0];
    const local = statistics[i] as (typeof statistics)[number];
    out.add("mean", local.mean, expected.localMean, meanMagnitude(x.data, d), null);
    out.add("variance", local.variance, expected.localVar, of(expected.localVar), null);
    out.addTo("y", y.data, arranged(expected.y), forward(x.data, d, mean, invStd, gamma, beta).scale, d);
    const dxScale = new Float64Array(x.data.length);
    for (let ch = 0; ch < C; ch++)
      eachOf(d, ch, (at) => {
        const xHat = Math.abs(((x.data[at] as number) - (mean[ch] as number)) * (invStd[ch] as number));
        const terms = (dBetaScale[ch] as number) + xHat * (dGammaScale[ch] as number);
        const scale = Math.abs((gamma[ch] as number) * (invStd[ch] as number));
        dxScale[at] = scale * (Math.abs(dy.data[at] as number) + terms / joint.count);
      });
    out.addTo("dx", dx?.data ?? [], arranged(expected.dx), dxScale, d);
    out.add("dGamma", dGamma ?? [], expected.localDgamma, localScales.dGammaScale, null);
    out.add("dBeta", dBeta ?? [], expected.localDbeta, localScales.dBetaScale, null);
    drop(x, dy, y, dx);
  }
  bn.dispose();
  return out.list;
}

const inputs = new Map<string, { x: Float32Array; dy: Float32Array }>();

/** Returns the input of a procedural case, channels first. It is computed once. */
function proceduralInput(c: Case): { x: Float32Array; dy: Float32Array } {
  const { N, C, S, seed, lo, hi, dyLo, dyHi } = c.params;
  let input = inputs.get(c.id);
  if (input) return input;
  input = { x: new Float32Array(N * C * S), dy: new Float32Array(N * C * S) };
  for (let plane = 0; plane < N * C; plane++)
    for (let s = 0; s < S; s++) {
      input.x[plane * S + s] = procValue(plane, s, seed, lo[plane % C], hi[plane % C]);
      input.dy[plane * S + s] = procValue(plane, s, seed + 1, dyLo, dyHi);
    }
  inputs.set(c.id, input);
  return input;
}

/** Runs a case of kind procedural, whose input is computed since it is too large to store. */
export function runProcedural(c: Case, v: Variant, kind: Kind) {
  const { N, C, S, eps } = c.params;
  const input = proceduralInput(c);
  const [data, shape] = arrange(input.x, [N, C, S], "NCS", v);
  const [dyData] = arrange(input.dy, [N, C, S], "NCS", v);
  const bn = new BatchNorm(C, { layout: v.layout, epsilon: eps });
  bn.gamma = Float32Array.from(c.params.weight);
  bn.beta = Float32Array.from(c.params.bias);
  const x = make(kind, shape, data);
  const dy = make(kind, shape, dyData);
  const y = bn.forward(x);
  const { dx, dGamma, dBeta } = bn.backward(dy);
  const batch = batchNormForward(x, {}, { layout: v.layout, epsilon: eps });
  const { mean, variance, invStd } = batch;
  const [yData, dxData] = [y.data.slice(), (dx as TensorLike).data.slice()];
  drop(x, y, dy, dx, batch.y);
  bn.dispose();
  return { shape, y: yData, dx: dxData, dGamma, dBeta, mean, variance, invStd };
}

/**
 * Returns condition scales of a procedural case. Those of y and dx are each channel's largest, for both memory orders.
 */
const oracleOfProcedural = (c: Case) =>
  once(`procedural ${c.id}`, () => {
    const { N, C, S, weight, bias } = c.params;
    const { x: data, dy: dyData } = proceduralInput(c);
    const d = dimsOf([N, C, S], "channels-first");
    const [mean, invStd] = [arr<Float64Array>(c.out.mean.f64), arr<Float64Array>(c.out.invstd.f64)];
    const { dGammaScale, dxScale } = backward(data, dyData, d, mean, invStd, weight, true);
    const { scale } = forward(data, d, mean, invStd, weight, bias);
    const channelMax = (values: Float64Array) =>
      Float64Array.from({ length: C }, (_, ch) => {
        let max = 0;
        eachOf(d, ch, (i) => {
          max = Math.max(max, values[i] as number);
        });
        return max;
      });
    return { dGammaScale, yMax: channelMax(scale), dxMax: channelMax(dxScale) };
  });

/** Returns the distances of a case of kind procedural, for sampled elements of y and dx. */
function measureProcedural(c: Case, v: Variant, kind: Kind): Distance[] {
  const { C, S, samples } = c.params;
  const { y, dx, dGamma, dBeta, ...batch } = runProcedural(c, v, kind);
  const of = (pair: Pair) => arr<Float64Array>(pair.f64);
  const out = new Distances();
  out.add("mean", batch.mean, c.out.mean, arr(c.out.meanAbsX.f64), null);
  out.add("variance", batch.variance, c.out.var, of(c.out.var), null);
  out.add("invStd", batch.invStd, c.out.invstd, of(c.out.invstd), null);
  out.add("dBeta", dBeta ?? [], c.out.dbeta, arr(c.out.absSumDy.f64), null);
  const { dGammaScale, yMax, dxMax } = oracleOfProcedural(c);
  out.add("dGamma", dGamma ?? [], c.out.dgamma, dGammaScale, null);
  const position = ([n, ch, s]: [number, number, number]) =>
    v.layout === "channels-last" ? (n * S + s) * C + ch : (n * C + ch) * S + s;
  const sampled = (values: ArrayLike<number>) => samples.map((s: [number, number, number]) => values[position(s)]);
  const scales = (max: Float64Array) => samples.map((s: [number, number, number]) => max[s[1]]);
  out.add("y", sampled(y), c.out.ySamples, scales(yMax), null);
  out.add("dx", sampled(dx), c.out.dxSamples, scales(dxMax), null);
  return out.list;
}

/**
 * Runs a case of kind onnx with the preset "onnx". The operator's attributes are the preset's values rounded to
 * float32.
 */
function measureOnnx(c: Case, v: Variant, kind: Kind): Distance[] {
  const { shape, epsilon, momentum, training_mode } = c.params;
  const d = shape.length === 1 ? { outer: shape[0], channels: 1, inner: 1 } : dimsOf(shape, v.layout);
  const bn = new BatchNorm(d.channels, { preset: "onnx", epsilon, decay: momentum });
  bn.gamma = arr(c.in.scale).slice();
  bn.beta = arr(c.in.bias).slice();
  bn.runningMean = arr(c.in.mean).slice();
  bn.runningVariance = arr(c.in.var).slice();
  const data = arr(c.in.x);
  const x = make(kind, shape, data);
  const y = bn.forward(x, { mode: training_mode ? "train" : "eval" });
  const { mean, variance } = training_mode
    ? statistics(data, d)
    : { mean: Float64Array.from(arr(c.in.mean)), variance: Float64Array.from(arr(c.in.var)) };
  const out = new Distances();
  const { scale } = forward(data, d, mean, invStdOf(variance, epsilon), bn.gamma, bn.beta);
  out.add("y", y.data, c.out.y, scale, d);
  if (training_mode) {
    const blend = (old: ArrayLike<number>, batch: Float64Array) =>
      batch.map((b, i) => momentum * Math.abs(old[i] as number) + (1 - momentum) * b);
    const oldMean = arr(c.in.mean);
    out.add("runningMean", bn.runningMean, c.out.running_mean, blend(oldMean, meanMagnitude(data, d)), null);
    out.add("runningVariance", bn.runningVariance, c.out.running_var, blend(arr(c.in.var), variance), null);
  }
  drop(x, y);
  bn.dispose();
  return out.list;
}

/** Returns all distances of a case in one memory order and kind of input. */
export function measure(c: Case, v: Variant, kind: Kind): Distance[] {
  if (c.kind === "sequence") return measureSequence(c, v, kind);
  if (c.kind === "population") return measurePopulation(c, v, kind);
  if (c.kind === "onnx") return measureOnnx(c, v, kind);
  if (c.kind === "procedural") return measureProcedural(c, v, kind);
  if (c.kind === "sync") return measureSync(c, v, kind);
  return measureStep(c, v, kind).list;
}
