// The backward pass, for the class and as functions of their own.

import { noForward, wrongKind, wrongShape, wrongValue } from "../common/errors.ts";
import { checkKeys, flag } from "../common/validate.ts";
import { checkApart, checkOperand, checkOut, checkTensor, checkVector, overwrites } from "../memory/guards.ts";
import type { Heap } from "../memory/heap.ts";
import { CallScope, heapOf } from "../memory/operand.ts";
import { type AnyTensor, Tensor } from "../memory/tensor.ts";
import { bitsOf, computeDtype, is16Bit, newVector, type Vector } from "../tensor/dtype.ts";
import { sameShape } from "../tensor/shape.ts";
import { fusion, type Saved } from "./forward.ts";
import { copy, type GradientSums } from "./primitives.ts";
import { backwardSubBatch, fusesSubBatch, zeros } from "./sub-batches.ts";

/** Which gradients to compute in batchnorm-wasm/core; every one by default. */
export interface CoreNeeds {
  dx?: boolean;
  dGamma?: boolean;
  dBeta?: boolean;
}

/** Which gradients to compute; every one by default. */
export interface Needs extends CoreNeeds {
  dResidual?: boolean;
}

/** Options of backward in batchnorm-wasm/core. */
export interface CoreBackwardOptions<T> {
  /** Where to write dx; may be dy itself. */
  dxOut?: T;
  needs?: CoreNeeds;
  /** Where to write dGamma, [C]. */
  dGammaOut?: Float32Array;
  /** Where to write dBeta, [C]. */
  dBetaOut?: Float32Array;
  /** Add to dGammaOut and dBetaOut instead of overwriting them. Default false. */
  accumulate?: boolean;
  /** Sums over all parts of a batch that normalised together (batchNormGradientSums, merged): dx takes them. */
  sums?: GradientSums;
}

export interface BackwardOptions<T extends AnyTensor = AnyTensor>
  extends Omit<CoreBackwardOptions<T>, "needs" | "dGammaOut" | "dBetaOut"> {
  needs?: Needs;
  /** Where to write dGamma, of the shape of gamma: [C] or [N, C]. */
  dGammaOut?: Vector;
  /** Where to write dBeta, of the shape of beta: [C] or [N, C]. */
  dBetaOut?: Vector;
  /** Where to write dResidual. */
  dResidualOut?: T;
}

/** Gradients in batchnorm-wasm/core. One that was not needed, or whose parameter does not exist, is absent. */
export interface CoreGradients<T, V extends Vector = Float32Array> {
  dx?: T;
  dGamma?: V;
  dBeta?: V;
}

/** A gradient that was not needed, or whose parameter does not exist, is absent. */
export interface Gradients<T extends AnyTensor = AnyTensor, V extends Vector = Float32Array>
  extends CoreGradients<T, V> {
  dResidual?: T;
}

/** Adds or writes float64 to a gradient; the rows of all samples to a gradient of one row. */
export function putGradient(out: Vector, values: Float64Array, accumulate: boolean): void {
  for (let c = 0; c < out.length; c++) {
    let sum = 0;
    for (let i = c; i < values.length; i += out.length) sum += values[i] as number;
    out[c] = accumulate ? (out[c] as number) + sum : sum;
  }
}

export const BACKWARD_OPTIONS = [
  "dxOut",
  "needs",
  "dGammaOut",
  "dBetaOut",
  "dResidualOut",
  "accumulate",
  "sums",
] as const;
const NEEDS = ["dx", "dGamma", "dBeta", "dResidual"];

function checkSums(sums: GradientSums | undefined, { subBatches, geometry }: Saved): GradientSums | undefined {
  if (sums === undefined) return undefined;
  if (typeof sums !== "object" || sums === null) throw wrongKind("sums", "{ dGamma, dBeta }", sums);
  for (const name of ["dGamma", "dBeta"] as const)
    checkVector(`sums.${name}`, sums[name], geometry.channels, "float64");
  const [first, ...more] = subBatches;
  if (more.length || first?.conditional || first?.r)
    throw wrongValue(
      "sums",
      "a forward without ghost batches, renorm, and scale and shift per sample",
      "one with them",
    );
  return sums;
}

/** Checks dy, and what forward saved, which may be gone. Returns the heap to work in. */
function checkUpstream(dy: AnyTensor, { x, residual, dtype, shape }: Saved, ...outs: (AnyTensor | undefined)[]): Heap {
  checkOperand("dy", dy, dtype);
  if (!sameShape(dy.shape, shape)) throw wrongShape("dy", shape, dy.shape);
  checkOperand("x", x, dtype);
  if (residual) checkOperand("residual", residual, dtype);
  const heap = heapOf(x, dy, residual, ...outs);
  if (dy instanceof Tensor) checkTensor("dy", dy, heap);
  return heap;
}

interface Outs<T> {
  readonly dx: boolean;
  readonly dxOut: T | undefined;
  readonly dResidual: boolean;
  readonly dResidualOut: T | undefined;
}

/** dx and dResidual as asked for; dGamma and dBeta into `into`, if given. */
function compute<T extends AnyTensor>(
  heap: Heap,
  dy: T,
  saved: Saved,
  into: GradientSums | undefined,
  outs: Outs<T>,
  joint: GradientSums | undefined,
): { dx?: T; dResidual?: T } {
  const { x, residual, dtype, subBatches, activation } = saved;
  const { dxOut, dResidualOut } = outs;
  const call = new CallScope(heap, dtype, [x, dy, dxOut, residual, dResidualOut]);
  const result: { dx?: T; dResidual?: T } = {};
  try {
    const dx = outs.dx ? call.allocateResult(dxOut, dy) : undefined;
    const dResidual = outs.dResidual ? call.allocateResult(dResidualOut, dy) : undefined;
    const fused =
      activation.code !== 0 && subBatches.every((subBatch) => fusesSubBatch(dtype, residual, activation, subBatch));
    let dz: AnyTensor = dy;
    if (activation.code && !fused) {
      // 16-bit storage would round dz on its way to dx
      dz = is16Bit(dtype) ? call.scratch(dy) : (dResidual ?? dx ?? call.scratch(dy));
      fusion.get("activation").activationGradient(call, x, residual, dy, dz, subBatches);
      if (dResidual && dz !== dResidual) call.withOperands([dz, dResidual], saved.geometry, 0, copy);
    } else if (dResidual) {
      const source = call.value(dy); // before dResidual is looked at, which growth would empty
      (bitsOf(dResidual.data) as Float32Array).set(bitsOf(source.data) as Float32Array);
    }
    const wanted = { dx, sums: into !== undefined, fused, alone: subBatches.length === 1, joint };
    for (const subBatch of subBatches) backwardSubBatch(call, x, dz, subBatch, wanted, into);
    if (dx) result.dx = call.result(dx, dxOut, dy) as T;
    if (dResidual) result.dResidual = call.result(dResidual, dResidualOut, dy) as T;
  } finally {
    call.dispose();
  }
  return result;
}

/** Zeros to add sums to: those of the backward before, where they are as long. */
function sumsFor({ scratch, geometry }: Saved, length: number): GradientSums {
  if (length !== geometry.channels) return zeros(length);
  scratch.sums ??= zeros(length);
  scratch.sums.dGamma.fill(0);
  scratch.sums.dBeta.fill(0);
  return scratch.sums;
}

/** Checks everything that backward takes, then computes what is needed. `has` tells which parameters exist. */
export function backward<T extends AnyTensor>(
  dy: T,
  saved: Saved,
  has: { gamma: boolean; beta: boolean },
  options: BackwardOptions<T>,
): Gradients<T, Vector> {
  checkKeys("backward options", options, BACKWARD_OPTIONS);
  const { needs = {}, dxOut, dResidualOut } = options;
  checkKeys("needs", needs, NEEDS);
  const { x, residual, dtype, geometry, subBatches } = saved;
  const heap = checkUpstream(dy, saved, dxOut, dResidualOut);
  checkOut("dxOut", dxOut, saved.shape, heap, dtype);
  checkOut("dResidualOut", dResidualOut, saved.shape, heap, dtype);
  if (dResidualOut && !saved.hasResidual)
    throw wrongValue("dResidualOut", "a forward with a residual before it", "none");
  const mode = saved.batch ? "train" : "frozen";
  for (const [name, out] of [
    ["dxOut", dxOut],
    ["dResidualOut", dResidualOut],
  ] as const) {
    overwrites(name, out, "x", x, mode);
    overwrites(name, out, "residual", residual, mode);
    overwrites(name, out, "dy", dy);
  }
  checkApart("dResidualOut", dResidualOut, "dxOut", dxOut);
  const accumulate = flag("accumulate", options.accumulate, false);
  const { channels, samples } = geometry;
  const conditional = subBatches[0]?.conditional;
  const precision = computeDtype(dtype);
  const vector = (parameter: "gamma" | "beta", name: "dGamma" | "dBeta") => {
    const [out, rows] = [options[`${name}Out`], conditional?.perSample[parameter] ? [samples] : []];
    if (out !== undefined) checkVector(`${name}Out`, out, channels, precision, [...rows, channels]);
    const length = (rows[0] ?? 1) * channels;
    return flag(`needs.${name}`, needs[name], true) && has[parameter]
      ? (out ?? newVector(precision, length))
      : undefined;
  };
  const [dGamma, dBeta] = [vector("gamma", "dGamma"), vector("beta", "dBeta")];
  const wanted = flag("needs.dx", needs.dx, true);
  const wantsResidual = flag("needs.dResidual", needs.dResidual, true) && saved.hasResidual;
  const joint = checkSums(options.sums, saved);

  const length = conditional ? samples * channels : channels;
  const into = dGamma || dBeta ? sumsFor(saved, length) : undefined;
  const outs = { dx: wanted, dxOut, dResidual: wantsResidual, dResidualOut };
  const result: Gradients<T, Vector> = compute(heap, dy, saved, into, outs, joint);
  if (dGamma && into) {
    putGradient(dGamma, into.dGamma, accumulate);
    result.dGamma = dGamma;
  }
  if (dBeta && into) {
    putGradient(dBeta, into.dBeta, accumulate);
    result.dBeta = dBeta;
  }
  return result;
}

/**
 * Gradients of a forward call (Ioffe & Szegedy 2015, section 3; torch.ops.aten.native_batch_norm_backward). dy: the
 * shape of x. dx and dResidual are in dy's kind; dGamma and dBeta are vectors as gamma and beta are. Saved by
 * batchNormInference, the statistics are constants: dx = gamma·invStd·dy.
 *
 * Throws RangeError for another shape, BatchNormError where x was disposed since.
 */
export function batchNormBackward<T extends AnyTensor>(
  dy: T,
  saved: Saved,
  options: BackwardOptions<T> = {},
): Gradients<T, T extends { data: Float64Array } ? Float64Array : Float32Array> {
  checkSaved(saved);
  return backward(dy, saved, { gamma: true, beta: true }, options) as Gradients<T, never>;
}

export function checkSaved(saved: Saved): void {
  if (typeof saved !== "object" || saved === null || !Array.isArray(saved.subBatches))
    throw noForward("no result of batchNormForward as `saved`");
  if (!saved.inputIntact) throw noForward("one whose `out` took the place of what backward needs");
}

/**
 * A part's own dGamma and dBeta, float64 (torch.batch_norm_backward_reduce). Their sums over all parts are
 * batchNormBackward's `sums`.
 */
export function batchNormGradientSums(dy: AnyTensor, saved: Saved): GradientSums {
  checkSaved(saved);
  if (saved.subBatches[0]?.conditional)
    throw wrongValue("gamma", "one value per channel in two phases", "one per sample");
  const heap = checkUpstream(dy, saved);
  const into = zeros(saved.geometry.channels);
  compute(heap, dy, saved, into, { dx: false, dxOut: undefined, dResidual: false, dResidualOut: undefined }, undefined);
  return into;
}
