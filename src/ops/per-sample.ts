// Features of sub-batches that plain batch normalization does not have: scale and shift per sample, the corrections of
// Batch Renormalization, and the derivative of an activation as a pass of its own.

import type { CallScope } from "../memory/operand.ts";
import type { AnyTensor } from "../memory/tensor.ts";
import { newVector, type Vector } from "../tensor/dtype.ts";
import type { Geometry } from "../tensor/shape.ts";
import type { Renorm } from "./options.ts";
import {
  differentiateActivation,
  emptyGradientSums,
  type GradientSums,
  gradientMap,
  gradientSums,
  normalize,
  type Statistics,
  type Terms,
} from "./primitives.ts";
import {
  addTo,
  type BackwardRequest,
  type Conditional,
  type SubBatchForward,
  samplesOf,
  withoutActivation,
} from "./sub-batches.ts";

/**
 * Scale and shift per sample. One of the two may be a vector that all samples share; it is repeated for each of them.
 */
export function conditionalOf(
  gamma: Vector | null,
  beta: Vector | null,
  perSample: Conditional["perSample"],
  samples: number,
): Conditional {
  const rows = (vector: Vector | null, isPerSample: boolean) => {
    if (!vector || isPerSample) return vector;
    const dtype = vector instanceof Float64Array ? "float64" : "float32";
    const repeated = newVector(dtype, vector.length * samples);
    for (let n = 0; n < samples; n++) repeated.set(vector, n * vector.length);
    return repeated;
  };
  return { gamma: rows(gamma, perSample.gamma), beta: rows(beta, perSample.beta), perSample };
}

/** A sample of a sub-batch: its geometry, its first element, its terms, and its number in the batch. */
type VisitSample = (geometry: Geometry, offset: number, terms: Terms, sample: number) => void;

/** Calls `visit` for every sample of a sub-batch with scale and shift per sample. */
function forEachSample({ geometry, shape, layout, ...subBatch }: SubBatchForward, visit: VisitSample): void {
  const { conditional, offset, first, terms, r, d } = subBatch;
  const { channels, samples } = geometry;
  const sampleGeometry = samplesOf(geometry, shape, layout, 1);
  for (let sample = first; sample < first + samples; sample++) {
    const row = (vector: Vector | null | undefined) =>
      vector ? vector.subarray(sample * channels, (sample + 1) * channels) : null;
    const scaleAndShift = renormalized(row(conditional?.gamma), row(conditional?.beta), r, d);
    const start = offset + (sample - first) * sampleGeometry.length;
    visit(sampleGeometry, start, { ...terms, ...scaleAndShift }, sample);
  }
}

/** gamma·r and beta + gamma·d with Batch Renormalization; gamma and beta without it. */
function renormalized(
  gamma: Vector | null,
  beta: Vector | null,
  r: Float64Array | undefined,
  d: Float64Array | undefined,
): { gamma: Vector | null; beta: Vector | null } {
  if (!r || !d) return { gamma, beta };
  const gammaAt = (c: number) => (gamma ? (gamma[c] as number) : 1);
  return {
    gamma: r.map((value, c) => gammaAt(c) * value),
    beta: d.map((value, c) => (beta ? (beta[c] as number) : 0) + gammaAt(c) * value),
  };
}

/**
 * A sub-batch whose x̂ becomes x̂·r + d, with r = σ_B/σ and d = (μ_B − μ)/σ within limits, which are constants to
 * backward (Ioffe 2017, Alg. 1).
 */
export function renormalize(
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

/** Computes dz = dy·f′(z) of all sub-batches. `dz` may be dy. */
export function activationGradient(
  call: CallScope,
  x: AnyTensor,
  residual: AnyTensor | undefined,
  dy: AnyTensor,
  dz: AnyTensor,
  subBatches: readonly SubBatchForward[],
): void {
  const map = (geometry: Geometry, offset: number, terms: Terms) =>
    call.withOperands([x, dy, dz, residual], geometry, offset, (source, upstream, target, added) =>
      differentiateActivation(source, added, upstream, target, terms),
    );
  for (const subBatch of subBatches) {
    if (subBatch.conditional) forEachSample(subBatch, map);
    else map(subBatch.geometry, subBatch.offset, subBatch.terms);
  }
}

/** Computes y of a sub-batch, sample by sample. */
export function normalizeSamples(
  call: CallScope,
  x: AnyTensor,
  residual: AnyTensor | undefined,
  y: AnyTensor,
  subBatch: SubBatchForward,
): void {
  forEachSample(subBatch, (geometry, offset, terms) =>
    call.withOperands([x, residual, y], geometry, offset, (source, added, target) =>
      normalize(source, added, target, terms),
    ),
  );
}

/**
 * Computes dx of a sub-batch if it is wanted, and passes each sample's sums of gradients to `add` if they are needed.
 */
export function differentiateSamples(
  call: CallScope,
  x: AnyTensor,
  dz: AnyTensor,
  subBatch: SubBatchForward,
  { dx }: BackwardRequest,
  needed: boolean,
  add: (sums: GradientSums, sample: number) => void,
): void {
  const { total } = subBatch;
  const { channels } = subBatch.geometry;
  // Σ g·x̂ and Σ g over all samples, with g = gamma·dz, since every sample has a gamma of its own
  const joint = emptyGradientSums(channels);
  const sums = emptyGradientSums(channels);
  const sum: VisitSample = (geometry, offset, terms, sample) => {
    call.withOperands([x, dz], geometry, offset, (source, upstream) =>
      gradientSums(source, upstream, withoutActivation(terms), false, sums),
    );
    add(sums, sample);
    addTo(joint.dGamma, 0, sums.dGamma, terms.gamma);
    addTo(joint.dBeta, 0, sums.dBeta, terms.gamma);
  };
  if (needed) forEachSample(subBatch, sum);
  if (!dx) return;
  const flow = { count: total, gammaVaries: total > 0, fused: false };
  forEachSample(subBatch, (geometry, offset, terms) =>
    call.withOperands([x, dz, dx], geometry, offset, (source, upstream, target) =>
      gradientMap(source, upstream, target, withoutActivation(terms), joint, flow),
    ),
  );
}
