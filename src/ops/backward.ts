// The backward pass, for the class and as functions of their own.

import { asIs, missing, noForward, wrongKind, wrongShape, wrongValue } from "../common/errors.ts";
import { checkKeys, checkObject, flag } from "../common/validate.ts";
import {
  checkApart,
  checkOperand,
  checkOut,
  checkTensor,
  checkVector,
  isTensorInUse,
  overwrites,
} from "../memory/guards.ts";
import type { Heap } from "../memory/heap.ts";
import { CallScope, heapOf } from "../memory/operand.ts";
import { type AnyTensor, Tensor } from "../memory/tensor.ts";
import { copyElements, copyRange } from "../memory/transfer.ts";
import { computeDtype, is16Bit, newVector, type Vector } from "../tensor/dtype.ts";
import { sameShape } from "../tensor/shape.ts";
import { type ForwardRecord, records, type Saved } from "./forward.ts";
import { copy, emptyGradientSums, type GradientSums } from "./primitives.ts";
import { backwardSubBatch, fusesSubBatch, type VectorGradients } from "./sub-batches.ts";

/** Which gradients backward computes in batchnorm-wasm/core; all by default. */
export interface CoreNeeds {
  /** Whether to compute the gradient of x. */
  dx?: boolean;
  /** Whether to compute the gradient of gamma. */
  dGamma?: boolean;
  /** Whether to compute the gradient of beta. */
  dBeta?: boolean;
}

/** Which gradients backward computes; all by default. */
export interface Needs extends CoreNeeds {
  /** Whether to compute the gradient of the residual. */
  dResidual?: boolean;
}

/** Options of backward in batchnorm-wasm/core. */
export interface CoreBackwardOptions<T, N extends CoreNeeds = CoreNeeds> {
  /** Where to write dx. It may be dy itself, and by default it is new. */
  dxOut?: T;
  /** Which gradients to compute; all by default. */
  needs?: N;
  /** Where to write dGamma, [C]; a new array by default. */
  dGammaOut?: Float32Array;
  /** Where to write dBeta, [C]; a new array by default. */
  dBetaOut?: Float32Array;
  /** Whether to add to dGammaOut and dBetaOut instead of overwriting them. Default false. */
  accumulate?: boolean;
  /** The sums of gradients of a joint batch, from which dx follows: batchNormGradientSums of all parts, added. */
  sums?: GradientSums;
}

/** Options of backward. */
export interface BackwardOptions<T extends AnyTensor = AnyTensor, N extends Needs = Needs>
  extends Omit<CoreBackwardOptions<T, N>, "dGammaOut" | "dBetaOut"> {
  /** Where to write dGamma, in the shape of gamma: [C] or [N, C]. */
  dGammaOut?: Vector;
  /** Where to write dBeta, in the shape of beta: [C] or [N, C]. */
  dBetaOut?: Vector;
  /** Where to write dResidual; by default it is new. */
  dResidualOut?: T;
}

/** The type of a result that `needs` may switch off: V unless N says false, and undefined if it does. */
export type Needed<N, K extends string, V> = K extends keyof N
  ? N[K] extends false
    ? undefined
    : N[K] extends true | undefined
      ? V
      : V | undefined
  : V;

/** Gradients. Absent are those that `needs` switches off (N), and those of a gamma or beta that the layer lacks. */
export interface CoreGradients<
  T,
  V extends Vector = Float32Array,
  N extends CoreNeeds = object,
  Scale extends boolean = true,
  Shift extends boolean = true,
> {
  /** The gradient of x, in dy's kind and shape. */
  dx: Needed<N, "dx", T>;
  /** The gradient of gamma, in its shape. */
  dGamma: Needed<N, "dGamma", Scale extends true ? V : undefined>;
  /** The gradient of beta, in its shape. */
  dBeta: Needed<N, "dBeta", Shift extends true ? V : undefined>;
}

/** The gradients of a backward. */
export interface Gradients<
  T extends AnyTensor = AnyTensor,
  V extends Vector = Float32Array,
  N extends Needs = object,
  Scale extends boolean = true,
  Shift extends boolean = true,
> extends CoreGradients<T, V, N, Scale, Shift> {
  /** The gradient of the residual, in dy's kind and shape. It is absent if the forward had no residual. */
  dResidual?: T;
}

/** The kind of vector that belongs to a tensor: Float64Array for float64, else Float32Array. */
export type VectorFor<T> = T extends { data: Float64Array } ? Float64Array : Float32Array;

/** Gradients of which any may be absent. */
export type SomeGradients<T> = { dx?: T; dGamma?: Vector; dBeta?: Vector; dResidual?: T };

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

// ---- prepare --------------------------------------------------------------------------------------------------------

/** A backward that nothing but the values of its tensors can make fail. */
interface PreparedBackward<T extends AnyTensor> {
  readonly heap: Heap;
  readonly dy: T;
  readonly saved: ForwardRecord;
  /** Whether to compute dx, and where to write it: a new tensor or array by default. */
  readonly dx: boolean;
  readonly dxOut: T | undefined;
  readonly dResidual: boolean;
  readonly dResidualOut: T | undefined;
  /** Where to write the gradients of the parameters; undefined for those that are not needed. */
  readonly dGamma: Vector | undefined;
  readonly dBeta: Vector | undefined;
  readonly accumulate: boolean;
  /**
   * Float64 sums of gradients, zeros at first; undefined if neither dGamma nor dBeta is needed. Those of every sample are
   * dGamma and dBeta themselves where they can be.
   */
  readonly sums: VectorGradients | undefined;
  /** The sums of a larger batch, which dx takes instead of its own. */
  readonly joint: GradientSums | undefined;
}

function checkJointSums(
  sums: GradientSums | undefined,
  { subBatches, geometry }: ForwardRecord,
): GradientSums | undefined {
  if (sums === undefined) return undefined;
  checkObject("sums", sums, "{ dGamma, dBeta }");
  for (const name of ["dGamma", "dBeta"] as const)
    checkVector(`sums.${name}`, sums[name], geometry.channels, "float64");
  const [first, ...others] = subBatches;
  if (others.length || first?.conditional || first?.r || first?.mixture)
    throw wrongValue("sums", "a forward without ghost batches, renorm, prior and perSample", asIs("one with them"));
  return sums;
}

/** Checks dy, and the tensors that forward saved, which may be disposed of by now. Returns the heap to work in. */
function checkUpstream(
  dy: AnyTensor,
  { x, residual, dtype, shape }: ForwardRecord,
  ...outs: (AnyTensor | undefined)[]
): Heap {
  checkOperand("dy", dy, dtype);
  if (!sameShape(dy.shape, shape)) throw wrongShape("dy", shape, dy.shape);
  checkOperand("x", x, dtype);
  if (residual) checkOperand("residual", residual, dtype);
  const heap = heapOf(x, dy, residual, ...outs);
  if (dy instanceof Tensor) checkTensor("dy", dy, heap);
  return heap;
}

/** Refuses destinations of another shape or in the memory of an input or of each other; dy itself is allowed. */
function checkOuts<T extends AnyTensor>(
  dy: T,
  saved: ForwardRecord,
  { dxOut, dResidualOut }: BackwardOptions<T>,
  heap: Heap,
) {
  const { x, residual, dtype, shape } = saved;
  checkOut("dxOut", dxOut, shape, heap, dtype);
  checkOut("dResidualOut", dResidualOut, shape, heap, dtype);
  if (dResidualOut && !saved.hasResidual) throw missing("dResidualOut", "a forward with a residual before it");
  const check = (name: string, out: T | undefined) => {
    overwrites(name, out, "x", x, null);
    overwrites(name, out, "residual", residual, null);
    overwrites(name, out, "dy", dy);
  };
  if (dxOut) check("dxOut", dxOut);
  if (dResidualOut) check("dResidualOut", dResidualOut);
  checkApart("dResidualOut", dResidualOut, { dxOut });
}

/** Refuses destinations of parameters' gradients in the memory of each other or of other operands. */
export function checkVectorsApart(
  { dGammaOut, dBetaOut }: Pick<BackwardOptions, "dGammaOut" | "dBetaOut">,
  others: Readonly<Record<string, AnyTensor | undefined>>,
): void {
  if (!dGammaOut && !dBetaOut) return;
  checkApart("dGammaOut", dGammaOut, others);
  checkApart("dBetaOut", dBetaOut, { dGammaOut, ...others });
}

/** Where to write a parameter's gradient: the caller's vector, or a new one of the parameter's shape. */
function parameterGradient(
  parameter: "gamma" | "beta",
  { geometry, dtype, subBatches }: ForwardRecord,
  exists: boolean,
  needed: unknown,
  out: Vector | undefined,
): Vector | undefined {
  const name = parameter === "gamma" ? "dGamma" : "dBeta";
  const { channels, samples } = geometry;
  const precision = computeDtype(dtype);
  const shape = subBatches[0]?.conditional?.perSample[parameter] ? [samples, channels] : [channels];
  if (out !== undefined) checkVector(`${name}Out`, out, channels, precision, shape);
  if (!flag(`needs.${name}`, needed, true) || !exists) return undefined;
  return out ?? newVector(precision, shape.length > 1 ? samples * channels : channels);
}

/**
 * Zeros to add sums to: the buffers of the backward before. For scale and shift per sample, where to write those of every
 * sample: the gradients themselves, if they are of every sample and not to be added to.
 */
function sumsFor(
  { scratch, geometry, subBatches }: ForwardRecord,
  accumulate: boolean,
  dGamma: Vector | undefined,
  dBeta: Vector | undefined,
): VectorGradients {
  const length = geometry.channels;
  if (subBatches[0]?.conditional) {
    const all = length * geometry.samples;
    const target = (gradient: Vector | undefined) =>
      gradient?.length === all && geometry.length && !accumulate ? gradient : new Float64Array(all);
    return { dGamma: target(dGamma), dBeta: target(dBeta) };
  }
  scratch.sums ??= emptyGradientSums(length);
  scratch.sums.dGamma.fill(0);
  scratch.sums.dBeta.fill(0);
  return scratch.sums;
}

/** The latest backward of tensors of every forward. */
const latest = /* @__PURE__ */ new WeakMap<ForwardRecord, PreparedBackward<AnyTensor>>();

/**
 * Whether another backward may be the same as this one. Plain arrays and other options can change between two calls, and
 * have to be checked in each.
 */
const isRepeatable = (dy: AnyTensor, { x, residual }: ForwardRecord, options: BackwardOptions): boolean =>
  [dy, x, residual, options.dxOut, options.dResidualOut].every(isTensorInUse) &&
  Object.keys(options).every((key) => key === "dxOut" || key === "dResidualOut");

/**
 * Returns the preparation of the backward before if it was for the same tensors: it is that of this call, too, apart from
 * new vectors for the gradients.
 */
function preparedBefore<T extends AnyTensor>(
  dy: T,
  saved: ForwardRecord,
  { dxOut, dResidualOut }: BackwardOptions<T>,
): PreparedBackward<T> | undefined {
  const before = latest.get(saved);
  if (!before || before.dy !== dy || before.dxOut !== dxOut || before.dResidualOut !== dResidualOut) return undefined;
  const renewed = (vector: Vector | undefined) => vector && newVector(computeDtype(saved.dtype), vector.length);
  const dGamma = renewed(before.dGamma);
  const dBeta = renewed(before.dBeta);
  const sums = before.sums && sumsFor(saved, false, dGamma, dBeta);
  return { ...(before as PreparedBackward<T>), dGamma, dBeta, sums };
}

/** Checks everything that backward takes but the names of options. `exists` tells which parameters the forward had. */
export function prepareBackward<T extends AnyTensor>(
  dy: T,
  saved: ForwardRecord,
  exists: { gamma: boolean; beta: boolean },
  options: BackwardOptions<T>,
): PreparedBackward<T> {
  const { needs = {}, dxOut, dResidualOut } = options;
  checkKeys("needs", needs, NEEDS);
  const heap = checkUpstream(dy, saved, dxOut, dResidualOut);
  checkOuts(dy, saved, options, heap);
  const accumulate = flag("accumulate", options.accumulate, false);
  const dGamma = parameterGradient("gamma", saved, exists.gamma, needs.dGamma, options.dGammaOut);
  const dBeta = parameterGradient("beta", saved, exists.beta, needs.dBeta, options.dBetaOut);
  checkVectorsApart(options, { dxOut, dResidualOut, dy, x: saved.x, residual: saved.residual });
  const dx = flag("needs.dx", needs.dx, true);
  const dResidual = flag("needs.dResidual", needs.dResidual, true) && saved.hasResidual;
  const joint = checkJointSums(options.sums, saved);
  const sums = dGamma || dBeta ? sumsFor(saved, accumulate, dGamma, dBeta) : undefined;
  return { heap, dy, saved, dx, dxOut, dResidual, dResidualOut, dGamma, dBeta, accumulate, sums, joint };
}

// ---- run ------------------------------------------------------------------------------------------------------------

/**
 * Computes dx, and dz = dy·f′(z), which is dResidual, where they are asked for. Adds the sums of gradients to `sums`, if
 * there are any.
 */
function runBackward<T extends AnyTensor>(
  prepared: Omit<PreparedBackward<T>, "dGamma" | "dBeta" | "accumulate">,
): SomeGradients<T> {
  const { dy, saved, dxOut, dResidualOut, sums, joint } = prepared;
  saved.verify?.();
  const { x, residual, dtype, subBatches, activation } = saved;
  const call = new CallScope(prepared.heap, dtype, [x, dy, dxOut, residual, dResidualOut]);
  const result: SomeGradients<T> = {};
  try {
    const dx = prepared.dx ? call.allocateResult(dxOut, dy) : undefined;
    const dResidual = prepared.dResidual ? call.allocateResult(dResidualOut, dy) : undefined;
    const fused = activation.code !== 0 && subBatches.every((part) => fusesSubBatch(dtype, residual, activation, part));
    const activated = activation.code && !fused ? { dy, residual } : undefined;
    // 16-bit storage would round dz on its way to dx
    const written = is16Bit(dtype) ? undefined : (dResidual ?? dx);
    const dz = activated ? (written ?? call.scratch(dy)) : dy;
    const request = { dx, sums: sums !== undefined, fused, activated, alone: subBatches.length === 1, joint };
    if (dResidual && !activation.code) {
      const source = call.value(dy); // before dResidual is looked at, since growth would empty its view
      copyElements(source.data, dResidual.data);
    }
    for (const subBatch of subBatches) backwardSubBatch(call, x, dz, subBatch, request, sums);
    if (dResidual && activated && dz !== dResidual) call.withOperands([dz, dResidual], saved.geometry, 0, copy);
    if (dx) result.dx = call.result(dx, dxOut, dy) as T;
    if (dResidual) result.dResidual = call.result(dResidual, dResidualOut, dy) as T;
  } finally {
    call.dispose();
  }
  return result;
}

// ---- commit ---------------------------------------------------------------------------------------------------------

/** Writes or adds sums to a gradient; the sums of all samples to a gradient that all samples share. */
function writeGradient(gradient: Vector, sums: Vector, accumulate: boolean): void {
  if (sums === gradient) return;
  if (!accumulate && sums.length === gradient.length) {
    copyRange(sums, 0, gradient, 0, sums.length);
    return;
  }
  for (let c = 0; c < gradient.length; c++) {
    let sum = 0;
    for (let i = c; i < sums.length; i += gradient.length) sum += sums[i] as number;
    gradient[c] = accumulate ? (gradient[c] as number) + sum : sum;
  }
}

/** Writes sums to the gradients that are needed, and adds those to the result. */
export function commitGradients<G extends SomeGradients<AnyTensor>>(
  result: G,
  { dGamma, dBeta, accumulate, sums }: Pick<PreparedBackward<AnyTensor>, "dGamma" | "dBeta" | "accumulate" | "sums">,
): G {
  if (dGamma && sums) {
    writeGradient(dGamma, sums.dGamma, accumulate);
    result.dGamma = dGamma;
  }
  if (dBeta && sums) {
    writeGradient(dBeta, sums.dBeta, accumulate);
    result.dBeta = dBeta;
  }
  return result;
}

/** Gradients of a forward that was saved. `exists` tells which parameters it had. */
export function backward<T extends AnyTensor>(
  dy: T,
  saved: ForwardRecord,
  exists: { gamma: boolean; beta: boolean },
  options: BackwardOptions<T>,
): SomeGradients<T> {
  const repeatable = isRepeatable(dy, saved, options);
  const before = repeatable ? preparedBefore(dy, saved, options) : undefined;
  const prepared = before ?? prepareBackward(dy, saved, exists, options);
  if (repeatable && !before) latest.set(saved, prepared);
  return commitGradients(runBackward(prepared), prepared);
}

// ---- public ---------------------------------------------------------------------------------------------------------

/**
 * Computes the gradients of a forward from dy, the gradient of y, in x's shape (Ioffe & Szegedy 2015, section 3;
 * torch.ops.aten.native_batch_norm_backward). dx and dResidual are in dy's kind, dGamma and dBeta in the shape of gamma
 * and beta. After batchNormInference dx = gamma·invStd·dy.
 *
 * Throws TypeError and RangeError for wrong arguments, BatchNormError if x has been disposed of.
 */
export function batchNormBackward<T extends AnyTensor, const N extends Needs = object>(
  dy: T,
  saved: Saved,
  options: BackwardOptions<T, N> = {},
): Gradients<T, VectorFor<T>, N> {
  const record = recordOf(saved);
  checkKeys("backward options", options, BACKWARD_OPTIONS);
  return backward(dy, record, { gamma: true, beta: true }, options) as Gradients<T, VectorFor<T>, N>;
}

/**
 * Returns the record of a forward. Throws TypeError for anything else, and BatchNormError "no-forward" if the forward
 * wrote y over what a backward needs.
 */
export function recordOf(saved: Saved): ForwardRecord {
  const record = saved as ForwardRecord;
  if (!records.has(saved))
    throw wrongKind("saved", "the record of a forward of batch norm; normBackward takes those of other norms", saved);
  if (!record.inputIntact) throw noForward("one whose `out` replaced what backward needs");
  return record;
}

/**
 * Computes dGamma and dBeta of one part of a joint batch, float64 [C] (torch.batch_norm_backward_reduce). Their sums
 * over all parts are batchNormBackward's option `sums`. Throws as batchNormBackward does.
 */
export function batchNormGradientSums(dy: AnyTensor, saved: Saved): GradientSums {
  return gradientSumsOf(dy, recordOf(saved));
}

/** The sums of gradients of a forward that is one batch. */
export function gradientSumsOf(dy: AnyTensor, saved: ForwardRecord): GradientSums {
  if (saved.subBatches[0]?.conditional) throw wrongValue("saved", "a forward without perSample", asIs("one with it"));
  const heap = checkUpstream(dy, saved);
  const sums = emptyGradientSums(saved.geometry.channels);
  const nothing = { dx: false, dxOut: undefined, dResidual: false, dResidualOut: undefined, joint: undefined };
  runBackward({ heap, dy, saved, sums, ...nothing });
  return sums;
}
