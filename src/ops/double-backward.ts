// The gradient of the backward pass: what flows through dx, dGamma and dBeta back to x, gamma and dy, for losses that
// contain gradients (gradient penalties). Three pairs of channel sums, then two maps of three tensors;
// docs/concepts/derivation.md derives the terms D1 to D10.

import { asIs, missing, wrongShape, wrongValue } from "../common/errors.ts";
import { checkKeys, flag } from "../common/validate.ts";
import { checkOperand, checkTensor, checkVector } from "../memory/guards.ts";
import type { Heap } from "../memory/heap.ts";
import { CallScope, heapOf, type KernelOperand } from "../memory/operand.ts";
import { type AnyTensor, Tensor } from "../memory/tensor.ts";
import { computeDtype, newVector, type Vector } from "../tensor/dtype.ts";
import { sameShape } from "../tensor/shape.ts";
import { fusesBackward, NONE } from "./activation.ts";
import { recordOf } from "./backward.ts";
import type { ForwardRecord, Saved } from "./forward.ts";
import { activationGradient } from "./per-sample.ts";
import {
  type Coefficients,
  combine,
  emptyGradientSums,
  type GradientSums,
  gradientSums,
  type Terms,
} from "./primitives.ts";
import type { SubBatchForward } from "./sub-batches.ts";

/** Gradients of a loss with respect to the results of batchNormBackward. An absent one counts as zeros. */
export interface GradientsOfGradients<T extends AnyTensor = AnyTensor> {
  /** The gradient of dx, in its shape. */
  ddx?: T;
  /** The gradient of dGamma, [C]. */
  ddGamma?: Vector;
  /** The gradient of dBeta, [C]. */
  ddBeta?: Vector;
  /** The gradient of dResidual, in its shape. Only a forward with a residual has it. */
  ddResidual?: T;
}

/** Options of batchNormDoubleBackward. */
export interface DoubleBackwardOptions {
  /** Which gradients to compute; all by default. */
  needs?: { dx?: boolean; dGamma?: boolean; ddy?: boolean };
}

/** The results of batchNormDoubleBackward. A gradient that is not needed is absent. */
export interface DoubleGradients<T extends AnyTensor = AnyTensor, V extends Vector = Float32Array> {
  /** The gradient of x, in its shape. */
  dx?: T;
  /** The gradient of gamma, [C]. */
  dGamma?: V;
  /** The gradient of dy, in its shape. */
  ddy?: T;
}

/** Refuses forwards that the derivation does not cover. */
function checkCovered({ subBatches, activation }: ForwardRecord): void {
  const refuse = (what: string) => {
    throw wrongValue("saved", "a forward whose double backward is known", asIs(what));
  };
  // the second derivative of the others is 0 wherever there is one
  if (activation.code && !fusesBackward(activation)) refuse(`activation "${activation.name}"`);
  for (const { conditional, selection, total, count, r, mixture } of subBatches) {
    if (conditional) refuse("gamma and beta of every sample's own");
    if (selection) refuse("a mask");
    if (r) refuse("Batch Renormalization");
    if (mixture) refuse("a prior");
    if (total > 0 && total !== count) refuse("statistics of more than x");
  }
}

/** The operands of a sub-batch. An absent source counts as zeros. */
interface Operands {
  readonly x: KernelOperand;
  readonly dz: KernelOperand;
  readonly ddx: KernelOperand | undefined;
  readonly ddResidual: KernelOperand | undefined;
  readonly dx: KernelOperand | undefined;
  readonly ddz: KernelOperand | undefined;
}

/** Channel sums of a sub-batch: of dz, of ddx, and of both. */
interface DoubleSums {
  /** B and G (B1 and B3). */
  readonly dz: GradientSums;
  /** D1 and D2. */
  readonly ddx: GradientSums;
  /** D3. */
  readonly product: Float64Array;
}

function sumTwice({ x, dz, ddx }: Operands, { geometry, total }: SubBatchForward, terms: Terms): DoubleSums {
  const { channels } = geometry;
  const product = emptyGradientSums(channels);
  const sums = { dz: emptyGradientSums(channels), ddx: emptyGradientSums(channels), product: product.dGamma };
  gradientSums(x, dz, terms, false, sums.dz);
  if (!ddx) return sums;
  gradientSums(x, ddx, terms, false, sums.ddx);
  const perM = total ? 1 / total : 0;
  const mean = sums.ddx.dBeta.map((sum) => sum * perM); // sums about it do not cancel
  gradientSums(ddx, dz, { ...terms, mean, invStd: new Float64Array(channels).fill(1) }, false, product);
  return sums;
}

const emptyCoefficients = (channels: number): Coefficients => ({
  xHat: new Float64Array(channels),
  b: new Float64Array(channels),
  c: new Float64Array(channels),
  shift: new Float64Array(channels),
});

/** Gradients of the parameters' gradients, as the caller has given them. */
type ParameterGradients = Pick<GradientsOfGradients, "ddGamma" | "ddBeta">;

/** Computes dx and ddz of a sub-batch, and adds its dGamma to `dGamma`. */
function differentiateTwice(
  operands: Operands,
  subBatch: SubBatchForward,
  { ddGamma, ddBeta }: ParameterGradients,
  dGamma: Float64Array,
): void {
  const { x, dz, ddx, ddResidual } = operands;
  const { channels } = subBatch.geometry;
  const { mean, invStd, gamma } = subBatch.terms;
  const terms = { mean, invStd, gamma: null, beta: null, activation: NONE };
  const sums = sumTwice(operands, subBatch, terms);
  // constants do not depend on x, and every term that is divided by m is 0
  const perM = subBatch.total ? 1 / subBatch.total : 0;
  const [forDx, forDdz] = [emptyCoefficients(channels), emptyCoefficients(channels)];
  for (let c = 0; c < channels; c++) {
    const at = (v: Vector | null | undefined, absent = 0) => (v ? (v[c] as number) : absent);
    const s = at(invStd);
    const [G, B, D1, D2] = [at(sums.dz.dGamma), at(sums.dz.dBeta), at(sums.ddx.dBeta), at(sums.ddx.dGamma)];
    const k = at(gamma, 1) * s;
    const D4 = at(sums.product) - D2 * G * perM;
    dGamma[c] = at(dGamma) + s * D4; // D5
    const D6 = at(ddGamma) - k * D2 * perM;
    forDdz.xHat[c] = D6; // D7
    forDdz.b[c] = ddx ? k : 0;
    forDdz.c[c] = ddResidual ? 1 : 0;
    forDdz.shift[c] = at(ddBeta) - k * D1 * perM;
    const D8 = -k * s * G * perM;
    const D9 = s * D6;
    forDx.xHat[c] = -(k * s * D4 + D8 * D2 + D9 * G) * perM; // D10
    forDx.b[c] = ddx ? D8 : 0;
    forDx.c[c] = D9;
    forDx.shift[c] = -(D8 * D1 + D9 * B) * perM;
  }
  // an absent source has coefficient 0, and x stands in for it
  if (operands.ddz) combine(x, ddx ?? x, ddResidual ?? x, operands.ddz, terms, forDdz);
  if (operands.dx) combine(x, ddx ?? x, dz, operands.dx, terms, forDx);
}

/** A double backward whose arguments have been checked. */
interface PreparedDoubleBackward<T extends AnyTensor> {
  readonly heap: Heap;
  readonly dy: T;
  readonly saved: ForwardRecord;
  readonly gradients: GradientsOfGradients<T>;
  readonly needs: { readonly dx: boolean; readonly dGamma: boolean; readonly ddy: boolean };
}

function prepareDoubleBackward<T extends AnyTensor>(
  dy: T,
  saved: ForwardRecord,
  gradients: GradientsOfGradients<T>,
  options: DoubleBackwardOptions,
): PreparedDoubleBackward<T> {
  checkKeys("gradients", gradients, ["ddx", "ddGamma", "ddBeta", "ddResidual"]);
  checkKeys("options", options, ["needs"]);
  const { needs = {} } = options;
  checkKeys("needs", needs, ["dx", "dGamma", "ddy"]);
  checkCovered(saved);
  const { x, residual, dtype, geometry, shape } = saved;
  const { ddx, ddGamma, ddBeta, ddResidual } = gradients;
  if (ddResidual && !saved.hasResidual) throw missing("ddResidual", "a forward with a residual before it");
  const heap = heapOf(x, dy, ddx, residual, ddResidual);
  for (const [name, value] of Object.entries({ dy, ddx, ddResidual, x, residual }) as [string, AnyTensor][]) {
    if (value === undefined && name !== "dy") continue;
    checkOperand(name, value, dtype);
    if (!sameShape(value.shape, shape)) throw wrongShape(name, shape, value.shape);
    if (value instanceof Tensor) checkTensor(name, value, heap);
  }
  const precision = computeDtype(dtype);
  if (ddGamma !== undefined) checkVector("ddGamma", ddGamma, geometry.channels, precision);
  if (ddBeta !== undefined) checkVector("ddBeta", ddBeta, geometry.channels, precision);
  const isNeeded = (name: "dx" | "dGamma" | "ddy") => flag(`needs.${name}`, needs[name], true);
  const checked = { dx: isNeeded("dx"), dGamma: isNeeded("dGamma"), ddy: isNeeded("ddy") };
  return { heap, dy, saved, gradients, needs: checked };
}

/** Computes dx and ddy where they are needed, and adds dGamma of all sub-batches to `dGamma`. */
function runDoubleBackward<T extends AnyTensor>(
  { heap, dy, saved, gradients, needs }: PreparedDoubleBackward<T>,
  dGamma: Float64Array,
): { dx?: T; ddy?: T } {
  const { x, residual, dtype, subBatches, activation } = saved;
  const { ddx, ddResidual } = gradients;
  const call = new CallScope(heap, dtype, [x, dy, ddx, residual, ddResidual]);
  const result: { dx?: T; ddy?: T } = {};
  try {
    const dx = needs.dx ? call.allocateResult(undefined, dy) : undefined;
    const ddy = needs.ddy ? call.allocateResult(undefined, dy) : undefined;
    const dz = activation.code ? call.allocateResult(undefined, dy) : dy;
    if (activation.code) activationGradient(call, x, residual, dy, dz, subBatches);
    for (const subBatch of subBatches) {
      const { geometry, offset } = subBatch;
      call.withOperands(
        [x, dz, ddx as AnyTensor | undefined, ddResidual as AnyTensor | undefined],
        geometry,
        offset,
        (...sources) =>
          call.withOperands([dx, ddy], geometry, offset, (toDx, toDdz) => {
            const [source, upstream, second, secondResidual] = sources;
            const operands = { x: source, dz: upstream, ddx: second, ddResidual: secondResidual, dx: toDx, ddz: toDdz };
            differentiateTwice(operands, subBatch, gradients, dGamma);
          }),
      );
    }
    if (ddy && activation.code) activationGradient(call, x, residual, ddy, ddy, subBatches);
    if (dx) result.dx = call.result(dx, undefined, dy) as T;
    if (ddy) result.ddy = call.result(ddy, undefined, dy) as T;
  } finally {
    call.dispose();
  }
  return result;
}

/**
 * Computes the gradient of batchNormBackward (torch's batchnorm_double_backward), which gradient penalties need
 * (Gulrajani et al. 2017): the gradients of x, gamma and dy for a loss that depends on dx, dGamma and dBeta. dy and
 * saved are batchNormBackward's. Returns dx and ddy in dy's kind and shape, and dGamma, [C]; beta has no gradient.
 *
 * Throws TypeError and RangeError for wrong arguments, and RangeError for a forward with activation "silu", a mask,
 * a prior, gamma or beta per sample, or statistics of more than x.
 */
export function batchNormDoubleBackward<T extends AnyTensor>(
  dy: T,
  saved: Saved,
  gradients: GradientsOfGradients<T>,
  options: DoubleBackwardOptions = {},
): DoubleGradients<T, T extends { data: Float64Array } ? Float64Array : Float32Array> {
  const record = recordOf(saved);
  const prepared = prepareDoubleBackward(dy, record, gradients, options);
  record.verify?.();
  const { channels } = record.geometry;
  const sums = new Float64Array(channels);
  const result: DoubleGradients<T, Vector> = runDoubleBackward(prepared, sums);
  if (prepared.needs.dGamma) {
    result.dGamma = newVector(computeDtype(record.dtype), channels);
    result.dGamma.set(sums);
  }
  return result as DoubleGradients<T, never>;
}
