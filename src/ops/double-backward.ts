// The gradient of the backward pass: what flows through dx, dGamma and dBeta back to x, gamma and dy, for losses that
// contain gradients (gradient penalties). Three pairs of channel sums, then two maps of three tensors; docs/batchnorm.md
// derives the terms D1 to D10.

import { wrongShape, wrongValue } from "../common/errors.ts";
import { checkKeys, flag } from "../common/validate.ts";
import { checkOperand, checkTensor, checkVector } from "../memory/guards.ts";
import { CallScope, heapOf, type KernelOperand } from "../memory/operand.ts";
import { type AnyTensor, Tensor } from "../memory/tensor.ts";
import { computeDtype, newVector, type Vector } from "../tensor/dtype.ts";
import { sameShape } from "../tensor/shape.ts";
import { fusesBackward, NONE } from "./activation.ts";
import { checkSaved } from "./backward.ts";
import type { Saved } from "./forward.ts";
import { activationGradient } from "./per-sample.ts";
import { type Coefficients, combine, type GradientSums, gradientSums } from "./primitives.ts";
import type { SubBatchForward } from "./sub-batches.ts";

/** Gradients of a loss with respect to what batchNormBackward returned; one that is missing counts as zeros. */
export interface GradientsOfGradients<T extends AnyTensor = AnyTensor> {
  /** Of dx, in its shape. */
  ddx?: T;
  /** Of dGamma, [C]. */
  ddGamma?: Vector;
  /** Of dBeta, [C]. */
  ddBeta?: Vector;
  /** Of dResidual, in its shape; only where forward had a residual. */
  ddResidual?: T;
}

export interface DoubleBackwardOptions {
  /** Which gradients to compute; every one by default. */
  needs?: { dx?: boolean; dGamma?: boolean; ddy?: boolean };
}

/** A gradient that was not needed is absent. */
export interface DoubleGradients<T extends AnyTensor = AnyTensor, V extends Vector = Float32Array> {
  /** Of x, in its shape. */
  dx?: T;
  /** Of gamma, [C]. */
  dGamma?: V;
  /** Of dy, in its shape. */
  ddy?: T;
}

const zeros = (length: number) => new Float64Array(length);

/** Refuses what the derivation does not cover. */
function checkCovered({ subBatches, activation }: Saved): void {
  const refuse = (what: string) => {
    throw wrongValue("saved", "a forward whose double backward is known", what);
  };
  // the second derivative of the others is 0 wherever there is one
  if (activation.code && !fusesBackward(activation)) refuse(`activation "${activation.name}"`);
  for (const { conditional, selection, total, count, r } of subBatches) {
    if (conditional) refuse("gamma and beta of every sample's own");
    if (selection) refuse("a mask");
    if (r) refuse("Batch Renormalization");
    if (total > 0 && total !== count) refuse("statistics of more than x");
  }
}

/** Operands of a sub-batch; sources that are missing count as zeros. */
interface Operands {
  readonly x: KernelOperand;
  readonly dz: KernelOperand;
  readonly ddx: KernelOperand | undefined;
  readonly ddResidual: KernelOperand | undefined;
  readonly dx: KernelOperand | undefined;
  readonly ddz: KernelOperand | undefined;
}

/** dx and ddz of a sub-batch; its dGamma is added to `dGamma`. */
function differentiateTwice(
  o: Operands,
  n: SubBatchForward,
  ddGamma: Vector | undefined,
  ddBeta: Vector | undefined,
  dGamma: Float64Array,
): void {
  const { channels, count } = n.geometry;
  const { mean, invStd, gamma } = n.terms;
  const terms = { mean, invStd, gamma: null, beta: null, activation: NONE };
  // constants depend on nothing, and all that is divided by m is gone
  const perM = n.total ? 1 / n.total : 0;
  const sums = (): GradientSums => ({ dGamma: zeros(channels), dBeta: zeros(channels) });
  const [first, second, product] = [sums(), sums(), sums()]; // of dz, ddx, and of both
  gradientSums(o.x, o.dz, terms, false, first);
  const size = zeros(channels).fill(1);
  if (o.ddx) {
    gradientSums(o.x, o.ddx, terms, false, second); // D1, D2
    // by sums about ddx's mean, which do not cancel; in units of its size, so that kernels see what could underflow
    for (let c = 0; c < channels; c++) {
      const some = (Math.abs(second.dBeta[c] as number) + Math.abs(second.dGamma[c] as number)) / count;
      if (some > 0 && some < Infinity) size[c] = some;
    }
    const about = { ...terms, mean: second.dBeta.map((sum) => sum * perM), invStd: size.map((s) => 1 / s) };
    gradientSums(o.ddx, o.dz, about, false, product);
  }
  const of = (): Coefficients => ({
    xHat: zeros(channels),
    b: zeros(channels),
    c: zeros(channels),
    shift: zeros(channels),
  });
  const [forDx, forDdz] = [of(), of()];
  for (let c = 0; c < channels; c++) {
    const at = (v: Vector | null | undefined, missing = 0) => (v ? (v[c] as number) : missing);
    const s = at(invStd);
    const [G, B, U, W] = [at(first.dGamma), at(first.dBeta), at(second.dBeta), at(second.dGamma)]; // B3, B1, D1, D2
    const k = at(gamma, 1) * s;
    const D3 = at(product.dGamma) * at(size);
    const D4 = D3 - W * G * perM;
    dGamma[c] = at(dGamma) + s * D4; // D5
    const D6 = at(ddGamma) - k * W * perM;
    forDdz.xHat[c] = D6; // D7
    forDdz.b[c] = o.ddx ? k : 0;
    forDdz.c[c] = o.ddResidual ? 1 : 0;
    forDdz.shift[c] = at(ddBeta) - k * U * perM;
    const D8 = -k * s * G * perM;
    const D9 = s * D6;
    forDx.xHat[c] = -(k * s * D4 + D8 * W + D9 * G) * perM; // D10
    forDx.b[c] = o.ddx ? D8 : 0;
    forDx.c[c] = D9;
    forDx.shift[c] = -(D8 * U + D9 * B) * perM;
  }
  // what is missing is multiplied by 0, and x stands in for it
  if (o.ddz) combine(o.x, o.ddx ?? o.x, o.ddResidual ?? o.x, o.ddz, terms, forDdz);
  if (o.dx) combine(o.x, o.ddx ?? o.x, o.dz, o.dx, terms, forDx);
}

/**
 * The gradient of batchNormBackward (torch's batchnorm_double_backward): for a loss that depends on dx, dGamma and dBeta,
 * the gradients of x, gamma and dy. Gradient penalties need it (Gulrajani et al. 2017).
 *
 * dy and saved are what batchNormBackward took. ddx, ddGamma and ddBeta are the gradients of the loss with respect to
 * what it returned: ddx in x's shape, ddGamma and ddBeta [C], as gamma is. Returns dx and ddy in dy's kind and shape, and
 * dGamma [C]; beta has no gradient. Named as everywhere: d of anything is the loss's gradient with respect to it, so ddy
 * is that of dy. Batch and frozen statistics, ghost batches, a residual, activations of straight pieces.
 *
 * Throws TypeError and RangeError for wrong arguments; RangeError for a forward with activation "silu", a mask, gamma and
 * beta of every sample's own, or statistics of more than x.
 */
export function batchNormDoubleBackward<T extends AnyTensor>(
  dy: T,
  saved: Saved,
  gradients: GradientsOfGradients<T>,
  options: DoubleBackwardOptions = {},
): DoubleGradients<T, T extends { data: Float64Array } ? Float64Array : Float32Array> {
  checkSaved(saved);
  checkKeys("gradients", gradients, ["ddx", "ddGamma", "ddBeta", "ddResidual"]);
  checkKeys("options", options, ["needs"]);
  const { needs = {} } = options;
  checkKeys("needs", needs, ["dx", "dGamma", "ddy"]);
  const { x, residual, dtype, geometry, subBatches, activation, shape } = saved;
  const { ddx, ddGamma, ddBeta, ddResidual } = gradients;
  checkCovered(saved);
  if (ddResidual && !saved.hasResidual) throw wrongValue("ddResidual", "a forward with a residual before it", "none");
  const heap = heapOf(x, dy, ddx, residual, ddResidual);
  for (const [name, value] of Object.entries({ dy, ddx, ddResidual, x, residual })) {
    if (value === undefined) continue;
    checkOperand(name, value, dtype);
    if (!sameShape(value.shape, shape)) throw wrongShape(name, shape, value.shape);
    if (value instanceof Tensor) checkTensor(name, value, heap);
  }
  const precision = computeDtype(dtype);
  if (ddGamma) checkVector("ddGamma", ddGamma, geometry.channels, precision);
  if (ddBeta) checkVector("ddBeta", ddBeta, geometry.channels, precision);
  const wanted = (name: "dx" | "dGamma" | "ddy") => flag(`needs.${name}`, needs[name], true);
  const [wantsDx, wantsGamma, wantsDdy] = [wanted("dx"), wanted("dGamma"), wanted("ddy")];

  const sum = zeros(geometry.channels);
  const result: DoubleGradients<T, Vector> = {};
  const call = new CallScope(heap, dtype, [x, dy, ddx, residual, ddResidual]);
  try {
    const dx = wantsDx ? call.allocateResult(undefined, dy) : undefined;
    const ddy = wantsDdy ? call.allocateResult(undefined, dy) : undefined;
    let dz: AnyTensor = dy;
    if (activation.code) {
      dz = call.allocateResult(undefined, dy);
      activationGradient(call, x, residual, dy, dz, subBatches);
    }
    // said as a type, since absent ones are told apart by theirs
    const values: readonly [AnyTensor, AnyTensor, AnyTensor | undefined, AnyTensor | undefined] = [
      x,
      dz,
      ddx,
      ddResidual,
    ];
    for (const n of subBatches)
      call.withOperands(values, n.geometry, n.offset, (...sources) =>
        call.withOperands([dx, ddy], n.geometry, n.offset, (toX, toDz) => {
          const [first, second, b, c] = sources;
          const operands = { x: first, dz: second, ddx: b, ddResidual: c, dx: toX, ddz: toDz };
          differentiateTwice(operands, n, ddGamma, ddBeta, sum);
        }),
      );
    if (ddy && activation.code) activationGradient(call, x, residual, ddy, ddy, subBatches);
    if (dx) result.dx = call.result(dx, undefined, dy) as T;
    if (ddy) result.ddy = call.result(ddy, undefined, dy) as T;
  } finally {
    call.dispose();
  }
  if (wantsGamma) {
    result.dGamma = newVector(precision, geometry.channels);
    result.dGamma.set(sum);
  }
  return result as DoubleGradients<T, never>;
}
