// The forward pass that the class, the functions, SyncBatchNorm and the TF.js operations share.

import { maskWithSamples, wrongShape, wrongValue } from "../common/errors.ts";
import { Slot } from "../common/slot.ts";
import { checkKeys } from "../common/validate.ts";
import { checkOperand, checkOut, checkTensor, checkVector, overwrites } from "../memory/guards.ts";
import type { Heap } from "../memory/heap.ts";
import { CallScope, heapOf } from "../memory/operand.ts";
import { type AnyTensor, Tensor } from "../memory/tensor.ts";
import { computedIn, type Dtype, type Vector } from "../tensor/dtype.ts";
import { channelAxis, type Geometry, geometryOf, sameShape } from "../tensor/shape.ts";
import { type Layout, layoutOption } from "../tensor/types.ts";
import { type Activation, type ActivationName, activationOption } from "./activation.ts";
import type { Mask } from "./mask.ts";
import { epsilonOption, ghostBatchOption } from "./options.ts";
import type { GradientSums, Statistics } from "./primitives.ts";
import type { BatchStatistics } from "./statistics.ts";
import {
  type Conditional,
  masks,
  type Normalized,
  PER_SAMPLE,
  perSample,
  type Slice,
  slicesOf,
} from "./sub-batches.ts";

/**
 * What forward keeps for backward. Opaque: pass it on. It refers to x, and with an activation to the residual, which must
 * not change until then.
 */
export interface Saved {
  /** false where running statistics normalised, through which no gradient flows. */
  readonly batch: boolean;
  readonly dtype: Dtype;
  readonly geometry: Geometry;
  readonly shape: readonly number[];
  readonly x: AnyTensor;
  /** Whether there was a residual. */
  readonly added: boolean;
  /** The residual, where an activation makes backward read it. */
  readonly residual: AnyTensor | undefined;
  /** false where y was written over x, or over the residual that backward needs. */
  readonly kept: boolean;
  readonly activation: Activation;
  readonly slices: readonly Normalized[];
  /** Buffers that repeated backward calls use again. */
  readonly scratch: { sums?: GradientSums };
  /** savedMean of the first slice, float64, [C] */
  readonly mean: Float64Array;
  /** savedInvStd of the first slice, float64, [C] */
  readonly invStd: Float64Array;
}

/**
 * What calls need where backward does not fuse the derivative of an activation, or forward adds a residual; per-sample.ts
 * implements it.
 */
export interface Fusion {
  /** dz = dy·f′(z) of all slices, to `dz`, which may be dy. */
  activationGradient(
    call: CallScope,
    x: AnyTensor,
    residual: AnyTensor | undefined,
    dy: AnyTensor,
    dz: AnyTensor,
    slices: readonly Normalized[],
  ): void;
}

export const fusion = /* @__PURE__ */ new Slot<Fusion>();

/** How a forward normalises, apart from its statistics. */
export interface How {
  readonly gamma: Vector | null;
  readonly beta: Vector | null;
  readonly conditional: Conditional | undefined;
  readonly activation: Activation;
}

/**
 * A slice as the map and backward see it. Statistics that are not its own are of `given` values per channel, 0 where they
 * are constants.
 */
export const normalizedBy = (
  { geometry, shape, layout, offset, first, selection, count }: Slice,
  { mean, invStd }: Pick<Statistics, "mean" | "invStd">,
  { gamma, beta, conditional, activation }: How,
  given?: number,
): Normalized => ({
  geometry,
  shape,
  layout,
  offset,
  first,
  selection,
  count,
  terms: { mean, invStd, gamma, beta, activation },
  total: given ?? count,
  empty: given === undefined && count === 0,
  conditional,
  r: undefined,
  d: undefined,
});

/**
 * gamma and beta, [C], or [N, C] for a scale and shift of every sample's own (conditional batch normalization, de Vries
 * et al. 2017); Float64Array where x is float64, else Float32Array; null or absent counts as ones and zeros.
 */
export interface Parameters {
  gamma?: Vector | null;
  beta?: Vector | null;
}

/** Options of batchNormForward and batchNormInference in batchnorm-wasm/core. */
export interface CoreForwardOptions<T> {
  layout?: Layout;
  /** Default 1e-5. */
  epsilon?: number;
  /** Where to write y. */
  out?: T;
  /** Normalise every so many samples by their own statistics. */
  ghostBatchSize?: number;
  /** Statistics of more than x, of which x is a part: mergeStatistics. */
  statistics?: BatchStatistics;
}

export interface ForwardOptions<T extends AnyTensor = AnyTensor> extends CoreForwardOptions<T> {
  activation?: ActivationName;
  negativeSlope?: number;
  /** Added before the activation; of x's shape and type. */
  residual?: T;
  /** Which positions count; see `Mask`. */
  mask?: Mask;
}

const FORWARD_OPTIONS = [
  "layout",
  "epsilon",
  "out",
  "activation",
  "negativeSlope",
  "residual",
  "mask",
  "ghostBatchSize",
  "statistics",
];

/** gamma and beta, each of every channel, or of every channel of every sample. */
function checkScale(
  p: Parameters,
  { channels, samples }: Geometry,
  dtype: Dtype,
): Pick<How, "gamma" | "beta" | "conditional"> {
  const isOwn = (v: Vector | null | undefined) => !!v && v.length !== channels && v.length === samples * channels;
  const vector = (name: "gamma" | "beta"): Vector | null => {
    const v = p[name];
    const shape = isOwn(v) ? [samples, channels] : [channels];
    return v ? checkVector(name, v, channels, computedIn(dtype), shape).slice() : null;
  };
  const [gamma, beta] = [vector("gamma"), vector("beta")];
  const own = { gamma: isOwn(gamma), beta: isOwn(beta) };
  if (!own.gamma && !own.beta) return { gamma, beta, conditional: undefined };
  return {
    gamma: null,
    beta: null,
    conditional: perSample.get(PER_SAMPLE).conditionalOf(gamma, beta, own, samples),
  };
}

export function checkResidual(residual: AnyTensor | undefined, shape: readonly number[], dtype: Dtype): void {
  if (residual === undefined) return;
  fusion.get("residual");
  checkOperand("residual", residual, dtype);
  if (!sameShape(residual.shape, shape)) throw wrongShape("residual", shape, residual.shape);
}

/**
 * Throws if `out` would overwrite an input that backward needs. Returns false in modes where that is allowed but rules
 * backward out.
 */
export function checkOverwrites(
  out: AnyTensor | undefined,
  x: AnyTensor,
  residual: AnyTensor | undefined,
  { code }: Activation,
  mode: string | undefined,
): boolean {
  const overX = overwrites("out", out, "x", x, mode);
  const overResidual = overwrites("out", out, "residual", residual, code ? mode : undefined);
  return !overX && !(overResidual && code);
}

/** Checks what both forward functions take. */
export function checkForward<T extends AnyTensor>(
  x: T,
  p: Parameters,
  known: readonly string[],
  options: ForwardOptions<T>,
) {
  checkKeys("options", options, FORWARD_OPTIONS);
  checkKeys("parameters", p, known);
  const dtype = checkOperand("x", x);
  const layout = layoutOption(options.layout);
  const channels = x.shape.length === 1 ? 1 : (x.shape[channelAxis(x.shape, layout)] ?? 0);
  if (x.shape.length >= 2 && channels === 0) throw wrongValue("x.shape", "at least one channel", x.shape);
  const geometry = geometryOf("x", x.shape, layout, channels);
  const scale = checkScale(p, geometry, dtype);
  const { out, residual, mask } = options;
  checkResidual(residual, x.shape, dtype);
  const heap = heapOf(x, out, residual);
  for (const [name, t] of [["residual", residual] as const, ["x", x] as const])
    if (t instanceof Tensor) checkTensor(name, t, heap);
  checkOut("out", out, x.shape, heap, dtype);
  const weights = mask === undefined ? undefined : masks.get("mask").weightsOf(mask, x.shape, layout);
  if (weights && scale.conditional) throw maskWithSamples();
  const how: How = { ...scale, activation: activationOption(options.activation, options.negativeSlope) };
  const slices = slicesOf(geometry, x.shape, layout, ghostBatchOption(options.ghostBatchSize), weights);
  return { dtype, geometry, how, heap, slices, layout, epsilon: epsilonOption(options.epsilon) };
}

/** Runs a forward that writes y: in x's kind, or to `out`. */
export function forward<T extends AnyTensor>(
  heap: Heap,
  dtype: Dtype,
  x: T,
  residual: T | undefined,
  out: T | undefined,
  run: (call: CallScope, y: AnyTensor) => void,
): T {
  const call = new CallScope(heap, dtype, [x, residual, out]);
  try {
    const y = call.target(out, x);
    run(call, y);
    return call.result(y, out, x) as T;
  } finally {
    call.dispose();
  }
}

type Kept = Pick<Saved, "batch" | "kept" | "dtype" | "geometry" | "x" | "residual" | "activation" | "slices">;

/** What backward needs of a forward. */
export function savedOf(
  { batch, kept, dtype, geometry, x, residual, activation, slices }: Kept,
  scratch: Saved["scratch"] = {},
): Saved {
  const { mean, invStd } = (slices[0] as Normalized).terms;
  const shape = [...x.shape];
  const added = residual !== undefined;
  const needed = activation.code ? residual : undefined;
  return { batch, kept, dtype, geometry, shape, x, added, residual: needed, activation, slices, scratch, mean, invStd };
}
