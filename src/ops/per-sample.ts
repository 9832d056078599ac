// What plain batch normalization does not need of sub-batches: a scale and shift of every sample's own, the corrections of Batch
// Renormalization, and the derivative of an activation where backward does not take it on the way.

import type { CallScope } from "../memory/operand.ts";
import type { AnyTensor } from "../memory/tensor.ts";
import { computeDtype, newVector, type Vector } from "../tensor/dtype.ts";
import type { Geometry } from "../tensor/shape.ts";
import type { Renorm } from "./options.ts";
import {
  differentiateActivation,
  type GradientSums,
  gradientMap,
  gradientSums,
  normalize,
  type Statistics,
  type Terms,
} from "./primitives.ts";
import {
  add,
  type Conditional,
  plainTerms,
  type SubBatchForward,
  samplesOf,
  type Wanted,
  zeros,
} from "./sub-batches.ts";

/** Scale and shift per sample, where one of them may be a vector for all. */
export function conditionalOf(
  gamma: Vector | null,
  beta: Vector | null,
  perSample: Conditional["perSample"],
  samples: number,
): Conditional {
  const rows = (v: Vector | null, own: boolean) => {
    if (!v || own) return v;
    const all = newVector(computeDtype(v instanceof Float64Array ? "float64" : "float32"), v.length * samples);
    for (let n = 0; n < samples; n++) all.set(v, n * v.length);
    return all;
  };
  return { gamma: rows(gamma, perSample.gamma), beta: rows(beta, perSample.beta), perSample };
}

/** Calls `visit` for every sample with scale and shift of its own, with its geometry, first element and terms. */
function eachSample(
  n: SubBatchForward,
  visit: (g: Geometry, offset: number, terms: Terms, sample: number) => void,
): void {
  const { geometry, conditional, offset, first, terms, r, d } = n;
  const { channels, samples } = geometry;
  const g = samplesOf(n.geometry, n.shape, n.layout, 1);
  for (let i = 0; i < samples; i++) {
    const of = (vector: Vector | null | undefined) =>
      vector ? vector.subarray((first + i) * channels, (first + i + 1) * channels) : null;
    const own = renormalized(of(conditional?.gamma), of(conditional?.beta), r, d);
    visit(g, offset + i * g.length, { ...terms, ...own }, first + i);
  }
}

/** gamma·r and beta + gamma·d; as they are without r and d. */
function renormalized(
  gamma: Vector | null,
  beta: Vector | null,
  r: Float64Array | undefined,
  d: Float64Array | undefined,
): { gamma: Vector | null; beta: Vector | null } {
  if (!r || !d) return { gamma, beta };
  const own = (c: number) => (gamma ? (gamma[c] as number) : 1);
  return {
    gamma: r.map((value, c) => own(c) * value),
    beta: d.map((value, c) => (beta ? (beta[c] as number) : 0) + own(c) * value),
  };
}

/**
 * A sub-batch whose x̂ becomes x̂·r + d, with r = σ_B/σ and d = (μ_B − μ)/σ within limits, constants to backward (Ioffe 2017,
 * Alg. 1).
 */
export function renormalize(
  n: SubBatchForward,
  { mean, variance }: Statistics,
  running: Statistics,
  epsilon: number,
  { rMax, dMax }: Renorm,
): SubBatchForward {
  const within = (value: number, least: number, most: number) => Math.min(Math.max(value, least), most);
  const r = running.invStd.map((s, c) => within(Math.sqrt((variance[c] as number) + epsilon) * s, 1 / rMax, rMax));
  const d = running.invStd.map((s, c) => within(((mean[c] as number) - (running.mean[c] as number)) * s, -dMax, dMax));
  return { ...n, r, d, terms: { ...n.terms, ...renormalized(n.terms.gamma, n.terms.beta, r, d) } };
}

/** dz = dy·f′(z) of all sub-batches, to `dz`, which may be dy. */
export function activationGradient(
  call: CallScope,
  x: AnyTensor,
  residual: AnyTensor | undefined,
  dy: AnyTensor,
  dz: AnyTensor,
  subBatches: readonly SubBatchForward[],
): void {
  const map = (g: Geometry, offset: number, terms: Terms) =>
    call.withOperands([x, dy, dz, residual], g, offset, (a, b, c, added) =>
      differentiateActivation(a, added, b, c, terms),
    );
  for (const subBatch of subBatches) {
    if (subBatch.conditional) eachSample(subBatch, map);
    else map(subBatch.geometry, subBatch.offset, subBatch.terms);
  }
}

/** Maps a sub-batch to y, sample by sample. */
export function normalizeSamples(
  call: CallScope,
  x: AnyTensor,
  residual: AnyTensor | undefined,
  y: AnyTensor,
  n: SubBatchForward,
): void {
  eachSample(n, (g, start, own) =>
    call.withOperands([x, residual, y], g, start, (source, added, target) => normalize(source, added, target, own)),
  );
}

/** dx of a sub-batch where it is wanted, and each sample's sums of gradients to `put` where they are needed. */
export function differentiateSamples(
  call: CallScope,
  x: AnyTensor,
  dz: AnyTensor,
  n: SubBatchForward,
  { dx }: Wanted,
  needed: boolean,
  put: (gradient: GradientSums, sample: number) => void,
): void {
  const { total, geometry } = n;
  const { channels } = geometry;
  const [raw, some] = [zeros(channels), zeros(channels)];
  const sum = (g: Geometry, start: number, own: Terms, sample: number) => {
    call.withOperands([x, dz], g, start, (a, b) => gradientSums(a, b, plainTerms(own), false, some));
    put(some, sample);
    add(raw.dGamma, 0, some.dGamma, own.gamma);
    add(raw.dBeta, 0, some.dBeta, own.gamma);
  };
  if (needed) eachSample(n, sum);
  const flow = { count: total, separate: total > 0, fused: false };
  if (dx)
    eachSample(n, (g, start, own) =>
      call.withOperands([x, dz, dx], g, start, (a, b, c) => gradientMap(a, b, c, plainTerms(own), raw, flow)),
    );
}
