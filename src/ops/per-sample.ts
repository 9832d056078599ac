// Features of sub-batches that plain batch normalization does not have: scale and shift per sample, the corrections of
// Batch Renormalization, and the derivative of an activation as a pass of its own.

import { exclusive, noStatistics, wrongValue } from "../common/errors.ts";
import { checkKeys, checkNumber } from "../common/validate.ts";
import { copyParameter } from "../memory/guards.ts";
import type { CallScope } from "../memory/operand.ts";
import type { AnyTensor } from "../memory/tensor.ts";
import { computeDtype, type Dtype, is16Bit, newVector, type Vector } from "../tensor/dtype.ts";
import type { Geometry } from "../tensor/shape.ts";
import type { PlainTensor } from "../tensor/types.ts";
import { PRODUCT } from "../wasm/kernels.ts";
import { type Activation, NONE } from "./activation.ts";
import type { ForwardHooks } from "./forward.ts";
import type { PerSampleParameters, Renorm } from "./options.ts";
import {
  differentiateActivation,
  emptyGradientSums,
  emptyStatistics,
  gradientMap,
  gradientSums,
  invStdOf,
  normalize,
  type Statistics,
  type Terms,
} from "./primitives.ts";
import {
  addSums,
  addTo,
  type BackwardRequest,
  backwardShared,
  type Conditional,
  PER_SAMPLE,
  type SubBatchForward,
  samplesOf,
  type VectorGradients,
  withoutActivation,
} from "./sub-batches.ts";

/**
 * Checks the option or parameter `perSample`, and copies it by `copy`. If one of its two is absent, the vector that all
 * samples share is repeated for each of them. Throws TypeError and RangeError for wrong vectors.
 */
export function conditionalOf(
  given: PerSampleParameters,
  shared: Readonly<Record<"gamma" | "beta", Vector | null>>,
  { samples, channels }: Pick<Geometry, "samples" | "channels">,
  dtype: Dtype,
  copy: (name: "gamma" | "beta", values: Vector | null) => Vector | null,
): Conditional {
  checkKeys(PER_SAMPLE, given, ["gamma", "beta"]);
  const precision = computeDtype(dtype);
  const rows = (name: "gamma" | "beta") => {
    const own = given[name];
    let data: Vector | null;
    if (own !== undefined) data = copyParameter(`${PER_SAMPLE}.${name}`, own, precision, [samples, channels]);
    else {
      const vector = copy(name, shared[name]);
      data = vector && newVector(precision, channels * samples);
      if (vector) for (let n = 0; n < samples; n++) data?.set(vector, n * channels);
    }
    return data && { data, shape: [data.length] };
  };
  const perSample = { gamma: given.gamma !== undefined, beta: given.beta !== undefined };
  return { gamma: rows("gamma"), beta: rows("beta"), perSample };
}

/** gamma·r and beta + gamma·d with Batch Renormalization; gamma and beta without it. */
function renormalized(
  gamma: Vector | null,
  beta: Vector | null,
  r: Vector | null | undefined,
  d: Vector | null | undefined,
): { gamma: Vector | null; beta: Vector | null } {
  if (!r || !d) return { gamma, beta };
  const gammaAt = (c: number) => (gamma ? (gamma[c] as number) : 1);
  return {
    gamma: Float64Array.from(r, (value, c) => gammaAt(c) * value),
    beta: Float64Array.from(d, (value, c) => (beta ? (beta[c] as number) : 0) + gammaAt(c) * value),
  };
}

/** The running statistics of a layer. */
type Running = Readonly<Record<"mean" | "variance", Vector>>;

/**
 * A sub-batch whose x̂ becomes x̂·r + d, with r = σ_B/σ and d = (μ_B − μ)/σ within limits, which are constants to
 * backward (Ioffe 2017).
 */
function renormalize(
  subBatch: SubBatchForward,
  { mean, variance }: Statistics,
  running: Statistics,
  epsilon: number,
  { rMax, dMax }: Renorm,
): SubBatchForward {
  const clamp = (value: number, least: number, most: number) => Math.min(Math.max(value, least), most);
  const r = running.invStd.map((s, c) => clamp(Math.sqrt((variance[c] as number) + epsilon) * s, 1 / rMax, rMax));
  const d = running.invStd.map((s, c) => clamp(((mean[c] as number) - (running.mean[c] as number)) * s, -dMax, dMax));
  const { terms } = subBatch;
  return { ...subBatch, r, d, terms: { ...terms, ...renormalized(terms.gamma, terms.beta, r, d) } };
}

/**
 * A sub-batch whose statistics are mixed with the running ones, which count as much as `prior` samples: mean = (1 −
 * w)·running + w·batch and the same of the variance, with w = N/(prior + N) for the N samples of the sub-batch (Schneider
 * et al. 2020).
 */
function mixWithPrior(
  subBatch: SubBatchForward,
  batch: Statistics,
  running: Running,
  epsilon: number,
  prior: number,
): SubBatchForward {
  const { samples } = subBatch.geometry;
  const weight = samples / (prior + samples);
  const mix = (name: "mean" | "variance") =>
    batch[name].map((value, c) => (1 - weight) * (running[name][c] as number) + weight * value);
  const mean = mix("mean");
  const invStd = new Float64Array(mean.length);
  invStdOf(mix("variance"), epsilon, invStd);
  const offset = invStd.map((s, c) => ((mean[c] as number) - (batch.mean[c] as number)) * s);
  return { ...subBatch, mixture: { weight, offset }, terms: { ...subBatch.terms, mean, invStd } };
}

/**
 * Returns what a forward in `mode` does with a sub-batch once its statistics are known: it mixes them with the running
 * ones if there is a `prior`, or renormalises. Throws TypeError, RangeError and BatchNormError for a wrong prior.
 */
export function adjustmentOf(
  running: Running | null,
  renorm: Readonly<Renorm> | null,
  { prior, statistics, perSample }: { prior?: unknown; statistics?: unknown; perSample?: unknown },
  mode: string,
): ForwardHooks["adjust"] {
  if (prior === undefined) {
    // a layer with renorm has running statistics
    const { mean, variance } = running as Running;
    const constants = emptyStatistics(mean.length);
    constants.mean.set(mean);
    return (subBatch, { into, epsilon }) => {
      invStdOf(variance, epsilon, constants.invStd);
      return renormalize(subBatch, into, constants, epsilon, renorm as Renorm);
    };
  }
  const samples = checkNumber("prior", prior, "a finite number ≥ 0", (n) => n >= 0 && n < Infinity);
  if (mode !== "batch") throw wrongValue("mode", '"batch" with prior', mode);
  if (!running) throw noStatistics();
  const others = { statistics, perSample, renorm: renorm ?? undefined };
  for (const [name, value] of Object.entries(others)) if (value !== undefined) throw exclusive(name, "prior");
  if (samples === 0) return undefined;
  return (subBatch, { into, epsilon }) => mixWithPrior(subBatch, into, running, epsilon, samples);
}

// ---- a sub-batch with scale and shift per sample --------------------------------------------------------------------

/** The terms of the map y = f(x). */
const identity = (channels: number, activation: Activation): Terms => ({
  mean: new Float64Array(channels),
  invStd: new Float64Array(channels).fill(1),
  gamma: null,
  beta: null,
  activation,
});

/** Whether a sample has one value per channel, so that kernels read scale and shift like tensors of x's shape. */
const isOfElements = ({ geometry }: SubBatchForward): boolean => geometry.count === geometry.samples;

/** Calls `visit` for every sample of a sub-batch, with its geometry, its first element and its first scale. */
function forEachSample(
  { geometry, shape, layout, offset, first }: SubBatchForward,
  visit: (geometry: Geometry, offset: number, row: number) => void,
): void {
  const sample = samplesOf(geometry, shape, layout, 1);
  for (let n = 0; n < geometry.samples; n++) visit(sample, offset + n * sample.length, (first + n) * geometry.channels);
}

/**
 * Computes y = f(z + b) of all elements of a sub-batch, where z is x normalised by `terms`, which f is of. With map
 * PRODUCT it is z·b.
 */
function mapElements(
  call: CallScope,
  x: AnyTensor,
  b: AnyTensor | null | undefined,
  y: AnyTensor,
  { geometry, offset }: SubBatchForward,
  terms: Terms,
  map?: number,
): void {
  call.withOperands([x, y, b ?? undefined], geometry, offset, (source, target, other) =>
    normalize(source, other, target, terms, map),
  );
}

/**
 * Computes y = f(z·gamma + beta + residual) of a sub-batch, where z is x normalised by `terms`, which f is of. gamma and
 * beta are those of the sub-batch by default.
 */
export function normalizeSamples(
  call: CallScope,
  x: AnyTensor,
  residual: AnyTensor | undefined,
  y: AnyTensor,
  subBatch: SubBatchForward,
  terms = subBatch.terms,
  { gamma, beta }: Omit<Conditional, "perSample"> = subBatch.conditional as Conditional,
): void {
  const { channels } = subBatch.geometry;
  if (isOfElements(subBatch)) {
    const last = residual ?? beta;
    // y may be the residual, and 16-bit storage would round z
    const z = residual || is16Bit(call.dtype) ? call.sharedScratch(x) : y;
    mapElements(call, x, gamma, z, subBatch, withoutActivation(terms), gamma ? PRODUCT : undefined);
    if (residual && beta) mapElements(call, z, beta, z, subBatch, identity(channels, NONE));
    if (last || terms.activation.code || z !== y)
      mapElements(call, z, last, y, subBatch, identity(channels, terms.activation));
    return;
  }
  forEachSample(subBatch, (sample, start, row) => {
    // an array that the caller has given away is empty, and nothing reads it
    const of = (vector: PlainTensor<Vector> | null) =>
      vector?.data.length ? vector.data.subarray(row, row + channels) : null;
    const own = { ...terms, ...renormalized(of(gamma), of(beta), terms.gamma, terms.beta) };
    call.withOperands([x, y, residual], sample, start, (source, target, added) =>
      normalize(source, added, target, own),
    );
  });
}

/** Computes dz = dy·f′(z) of all sub-batches. `dz` may be dy. */
export function activationGradient(
  call: CallScope,
  x: AnyTensor,
  residual: AnyTensor | undefined,
  dy: AnyTensor,
  dz: AnyTensor,
  subBatches: readonly SubBatchForward[],
): void {
  for (const subBatch of subBatches) {
    const { geometry, offset, terms, conditional } = subBatch;
    const z = conditional ? call.sharedScratch(x) : x;
    if (conditional) normalizeSamples(call, x, undefined, z, subBatch, withoutActivation(terms));
    call.withOperands([z, dy, dz, residual], geometry, offset, (source, upstream, target, added) =>
      differentiateActivation(
        source,
        added,
        upstream,
        target,
        conditional ? identity(geometry.channels, terms.activation) : terms,
      ),
    );
  }
}

/** Writes dGamma and dBeta of a sub-batch whose samples have one value per channel, where they are no sums. */
function writeElements(
  call: CallScope,
  x: AnyTensor,
  dz: AnyTensor,
  subBatch: SubBatchForward,
  terms: Terms,
  into: VectorGradients,
): void {
  const { geometry, offset } = subBatch;
  const product = call.sharedScratch(x);
  const isHalf = is16Bit(call.dtype);
  const write = (vector: Vector, { data }: AnyTensor) =>
    vector.set((data as Vector).subarray(offset, offset + geometry.length), offset);
  mapElements(call, x, dz, product, subBatch, terms, PRODUCT);
  write(into.dGamma, product);
  if (isHalf) mapElements(call, dz, undefined, product, subBatch, identity(geometry.channels, NONE));
  write(into.dBeta, isHalf ? product : call.value(dz));
}

/** Computes dx of a sub-batch whose samples have one value per channel: that of g = gamma·dz without a scale. */
function differentiateElements(
  call: CallScope,
  x: AnyTensor,
  dz: AnyTensor,
  subBatch: SubBatchForward,
  request: BackwardRequest,
  terms: Terms,
): void {
  const { gamma } = subBatch.conditional as Conditional;
  const g = gamma ? call.sharedScratch(x) : dz;
  const plain = identity(subBatch.geometry.channels, NONE);
  if (gamma) normalizeSamples(call, dz, undefined, g, subBatch, plain, { gamma, beta: null });
  const plainRequest = { ...request, activated: undefined, joint: undefined };
  backwardShared(call, x, g, { ...subBatch, terms }, plainRequest, subBatch.total > 0, undefined);
}

/** Computes dx of a sub-batch if it is wanted, and writes the sums of gradients of its samples to `into`. */
export function differentiateSamples(
  call: CallScope,
  x: AnyTensor,
  dz: AnyTensor,
  subBatch: SubBatchForward,
  request: BackwardRequest,
  needed: boolean,
  into: VectorGradients | undefined,
): void {
  const { total } = subBatch;
  const { channels } = subBatch.geometry;
  const { dx } = request;
  const terms = withoutActivation(subBatch.terms);
  if (isOfElements(subBatch)) {
    if (into) writeElements(call, x, dz, subBatch, terms, into);
    if (dx) differentiateElements(call, x, dz, subBatch, request, terms);
    return;
  }
  const gammaOf = (row: number) => {
    const gamma = (subBatch.conditional as Conditional).gamma?.data.subarray(row, row + channels);
    return renormalized(gamma ?? null, null, terms.gamma, terms.beta).gamma;
  };
  // Σ g·x̂ and Σ g over all samples, with g = gamma·dz, since every sample has a gamma of its own
  const joint = emptyGradientSums(channels);
  const sums = emptyGradientSums(channels);
  if (needed)
    forEachSample(subBatch, (sample, start, row) => {
      call.withOperands([x, dz], sample, start, (source, upstream) =>
        gradientSums(source, upstream, terms, false, sums),
      );
      const gamma = gammaOf(row);
      addTo(joint.dGamma, sums.dGamma, gamma);
      addTo(joint.dBeta, sums.dBeta, gamma);
      if (!into) return;
      const own = emptyGradientSums(channels);
      addSums(own, sums, subBatch);
      into.dGamma.set(own.dGamma, row);
      into.dBeta.set(own.dBeta, row);
    });
  if (!dx) return;
  const flow = { count: total, gammaVaries: total > 0, fused: false };
  forEachSample(subBatch, (sample, start, row) =>
    call.withOperands([x, dz, dx], sample, start, (source, upstream, target) =>
      gradientMap(source, upstream, target, { ...terms, gamma: gammaOf(row) }, joint, flow),
    ),
  );
}
