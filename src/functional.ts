// The stateless operations: statistics, the forward map, the backward sums and map, on plain arrays or tensors. Class
// BatchNorm is made of the same `backward` and `forwardSlices`.

import { type Activation, type ActivationName, activationOption } from "./activation.ts";
import { bitsOf, computedIn, type Dtype, isNarrow, newVector, type Vector } from "./dtype.ts";
import {
  exclusiveStatistics,
  maskWithSamples,
  noForward,
  oneValuePerChannel,
  wrongKind,
  wrongShape,
  wrongValue,
} from "./errors.ts";
import { channelAxis, type Geometry, geometryOf } from "./geometry.ts";
import type { Mask } from "./mask.ts";
import { checkTensor, type Heap, Tensor } from "./memory.ts";
import {
  type AnyTensor,
  CallScope,
  checkApart,
  checkOperand,
  checkOut,
  heapOf,
  overwrites,
  sameShape,
} from "./operand.ts";
import { checkKeys, epsilonOption, flag, ghostBatchOption, type Layout, layoutOption } from "./options.ts";
import { copy, emptyStatistics, type GradientSums, invStdOf, type Statistics } from "./primitives.ts";
import { checkVector } from "./running.ts";
import {
  type Conditional,
  checkEnough,
  differentiateSlice,
  fusesSlice,
  masks,
  type Normalized,
  normalizeSlice,
  PER_SAMPLE,
  perSample,
  type Slice,
  slicesOf,
  zeros,
} from "./slices.ts";
import { Slot } from "./slot.ts";

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

// ---- core -----------------------------------------------------------------------------------------------------------

/**
 * What calls need where backward does not fuse the derivative of an activation, or forward adds a residual; samples.ts
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

function checkSums(sums: GradientSums | undefined, { slices, geometry }: Saved): GradientSums | undefined {
  if (sums === undefined) return undefined;
  if (typeof sums !== "object" || sums === null) throw wrongKind("sums", "{ dGamma, dBeta }", sums);
  for (const name of ["dGamma", "dBeta"] as const)
    checkVector(`sums.${name}`, sums[name], geometry.channels, "float64");
  const [first, ...more] = slices;
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
  const { x, residual, dtype, slices, activation } = saved;
  const { dxOut, dResidualOut } = outs;
  const call = new CallScope(heap, dtype, [x, dy, dxOut, residual, dResidualOut]);
  const result: { dx?: T; dResidual?: T } = {};
  try {
    const dx = outs.dx ? call.target(dxOut, dy) : undefined;
    const dResidual = outs.dResidual ? call.target(dResidualOut, dy) : undefined;
    const fused = activation.code !== 0 && slices.every((slice) => fusesSlice(dtype, residual, activation, slice));
    let dz: AnyTensor = dy;
    if (activation.code && !fused) {
      // 16-bit storage would round dz on its way to dx
      dz = isNarrow(dtype) ? call.scratch(dy) : (dResidual ?? dx ?? call.scratch(dy));
      fusion.get("activation").activationGradient(call, x, residual, dy, dz, slices);
      if (dResidual && dz !== dResidual) call.with([dz, dResidual], saved.geometry, 0, copy);
    } else if (dResidual) {
      const source = call.value(dy); // before dResidual is looked at, which growth would empty
      (bitsOf(dResidual.data) as Float32Array).set(bitsOf(source.data) as Float32Array);
    }
    const wanted = { dx, sums: into !== undefined, fused, alone: slices.length === 1, joint };
    for (const slice of slices) differentiateSlice(call, x, dz, slice, wanted, into);
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
  const { x, residual, dtype, geometry, slices } = saved;
  const heap = checkUpstream(dy, saved, dxOut, dResidualOut);
  checkOut("dxOut", dxOut, saved.shape, heap, dtype);
  checkOut("dResidualOut", dResidualOut, saved.shape, heap, dtype);
  if (dResidualOut && !saved.added) throw wrongValue("dResidualOut", "a forward with a residual before it", "none");
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
  const conditional = slices[0]?.conditional;
  const precision = computedIn(dtype);
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
  const wantsResidual = flag("needs.dResidual", needs.dResidual, true) && saved.added;
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

// ---- public ---------------------------------------------------------------------------------------------------------

/**
 * gamma and beta, [C], or [N, C] for a scale and shift of every sample's own (conditional batch normalization, de Vries
 * et al. 2017); Float64Array where x is float64, else Float32Array; null or absent counts as ones and zeros.
 */
export interface Parameters {
  gamma?: Vector | null;
  beta?: Vector | null;
}

/** Statistics of a batch or of parts of one: count is the number of values per channel, variance is biased. */
export interface BatchStatistics {
  readonly count: number;
  readonly mean: Float64Array;
  readonly variance: Float64Array;
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
function checkForward<T extends AnyTensor>(x: T, p: Parameters, known: readonly string[], options: ForwardOptions<T>) {
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

export function checkStatistics(s: BatchStatistics, channels: number, epsilon: number): Statistics & { count: number } {
  if (typeof s !== "object" || s === null) throw wrongKind("statistics", "{ count, mean, variance }", s);
  const { count } = s;
  if (typeof count !== "number") throw wrongKind("statistics.count", "a number", count);
  if (!(count >= 0 && count < Infinity)) throw wrongValue("statistics.count", "a finite number ≥ 0", count);
  const mean = checkVector("statistics.mean", s.mean, channels, "float64").slice();
  const variance = checkVector("statistics.variance", s.variance, channels, "float64").slice();
  const invStd = new Float64Array(channels);
  invStdOf(variance, epsilon, invStd);
  return { count, mean, variance, invStd };
}

/** Refuses statistics of one value, or of none, for a batch that is not empty. */
export function checkGiven({ count }: BatchStatistics, g: Geometry, mode: string, shape: readonly number[]): void {
  if (g.count > 0 && count <= 1) throw oneValuePerChannel(mode, shape, ` and statistics of ${count}`);
}

/**
 * Batch normalization by the statistics of x (torch.nn.functional.batch_norm with training=True; Ioffe & Szegedy 2015,
 * Alg. 1). x: [N, C, …] or, with layout "channels-last", [N, …, C]; gamma, beta: [C], or [N, C].
 *
 * y = f(gamma·x̂ + beta + residual), f being the activation. Returns y in x's kind and shape, mean and variance (biased)
 * of the first or only slice as Float64Array [C], and `saved` for batchNormBackward, which keeps a reference to x and,
 * with an activation, to the residual. An empty batch gives an empty y and zeros; so does one that is masked altogether,
 * whose y is beta.
 *
 * Throws TypeError and RangeError for wrong arguments, BatchNormError for one value per channel.
 */
export function batchNormForward<T extends AnyTensor>(
  x: T,
  parameters: Parameters = {},
  options: ForwardOptions<T> = {},
): { y: T; saved: Saved; mean: Float64Array; variance: Float64Array } {
  const { dtype, geometry, how, heap, slices, epsilon } = checkForward(x, parameters, ["gamma", "beta"], options);
  const { residual, out } = options;
  const given = options.statistics && checkStatistics(options.statistics, geometry.channels, epsilon);
  if (given && options.ghostBatchSize !== undefined) throw exclusiveStatistics("ghostBatchSize");
  if (given) checkGiven(given, geometry, "train", x.shape);
  else checkEnough(slices, "train", x.shape);
  const kept = checkOverwrites(out, x, residual, how.activation, "train");
  const all = slices.map(() => given ?? emptyStatistics(geometry.channels));
  const normalized = slices.map((slice, i) => normalizedBy(slice, all[i] as Statistics, how, given?.count));
  const y = forward(heap, dtype, x, residual, out, (call, target) => {
    for (const [i, slice] of normalized.entries()) {
      const into = all[i] as Statistics;
      if (slice.geometry.count > 0)
        normalizeSlice(call, x, residual, target, slice, given ? undefined : { epsilon, into });
    }
  });
  const first = all[0] as Statistics;
  const { activation } = how;
  const saved = savedOf({ batch: true, kept, dtype, geometry, x, residual, activation, slices: normalized });
  return { y, saved, ...first };
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

/**
 * Batch normalization by given statistics (training=False). As batchNormForward, with mean and variance, Float32Array or
 * Float64Array [C], among the parameters; `out` may be x or the residual. `saved` is for the backward of frozen statistics,
 * dx = gamma·invStd·dy, unless `out` took the place of x, or of a residual under an activation.
 */
export function batchNormInference<T extends AnyTensor>(
  x: T,
  parameters: Parameters & { mean: Vector; variance: Vector },
  options: ForwardOptions<T> = {},
): { y: T; saved: Saved } {
  const known = ["gamma", "beta", "mean", "variance"];
  const { dtype, geometry, how, heap, slices, epsilon } = checkForward(x, parameters, known, options);
  const { residual, out } = options;
  for (const name of ["statistics", "ghostBatchSize"] as const)
    if (options[name] !== undefined) throw exclusiveStatistics(name);
  const kept = checkOverwrites(out, x, residual, how.activation, undefined);
  const { channels } = geometry;
  const given = (name: "mean" | "variance") => {
    const v = parameters[name];
    return v instanceof Float64Array && v.length === channels
      ? v.slice()
      : Float64Array.from(checkVector(name, v, channels, computedIn(dtype)));
  };
  const mean = given("mean");
  const invStd = new Float64Array(channels);
  invStdOf(given("variance"), epsilon, invStd);
  const normalized = slices.map((slice) => normalizedBy(slice, { mean, invStd }, how, 0));
  const y = forward(heap, dtype, x, residual, out, (call, target) => {
    for (const slice of normalized) normalizeSlice(call, x, residual, target, slice);
  });
  const { activation } = how;
  const saved = savedOf({ batch: false, kept, dtype, geometry, x, residual, activation, slices: normalized });
  return { y, saved };
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
  if (typeof saved !== "object" || saved === null || !Array.isArray(saved.slices))
    throw noForward("no result of batchNormForward as `saved`");
  if (!saved.kept) throw noForward("one whose `out` took the place of what backward needs");
}

// ---- in two phases --------------------------------------------------------------------------------------------------

/**
 * Statistics of one part of a batch, to be merged with those of the others (torch.batch_norm_stats): with
 * `mergeStatistics` and batchNormForward's `statistics`, micro-batches normalise as one batch.
 */
export function batchNormStatistics(
  x: AnyTensor,
  options: Pick<ForwardOptions, "layout" | "mask"> = {},
): BatchStatistics {
  checkKeys("options", options, ["layout", "mask"]);
  const { dtype, geometry, how, heap, slices } = checkForward(x, {}, [], options);
  const into = emptyStatistics(geometry.channels);
  const call = new CallScope(heap, dtype, [x]);
  try {
    for (const slice of slices)
      if (slice.count > 0)
        normalizeSlice(call, x, undefined, undefined, normalizedBy(slice, into, how), { epsilon: 0, into });
  } finally {
    call.dispose();
  }
  return { count: slices[0]?.count ?? 0, mean: into.mean, variance: into.variance };
}

/** Statistics of the union of batches (Chan, Golub & LeVeque 1979), in the order given. At least one. */
export function mergeStatistics(list: Iterable<BatchStatistics>): BatchStatistics {
  if (typeof list !== "object" || list === null || !(Symbol.iterator in list))
    throw wrongKind("statistics", "a list of { count, mean, variance }", list);
  let merged: (Statistics & { count: number }) | undefined;
  for (const part of list) {
    const one = checkStatistics(part, merged?.mean.length ?? part?.mean?.length, 0);
    if (!merged?.count)
      merged = one; // what is empty says nothing
    else if (one.count) mergeInto(merged, one);
  }
  if (!merged) throw wrongValue("statistics", "at least one batch's", "none");
  const { count, mean, variance } = merged;
  return { count, mean, variance };
}

function mergeInto(merged: Statistics & { count: number }, { count, mean, variance }: BatchStatistics): void {
  const total = merged.count + count;
  const [before, now] = [merged.count / total, count / total];
  for (let c = 0; c < mean.length; c++) {
    const delta = (mean[c] as number) - (merged.mean[c] as number);
    const within = (merged.variance[c] as number) * before + (variance[c] as number) * now;
    merged.mean[c] = (merged.mean[c] as number) + delta * now;
    merged.variance[c] = within + delta * before * delta * now;
  }
  merged.count = total;
}

/**
 * A part's own dGamma and dBeta, float64 (torch.batch_norm_backward_reduce). Their sums over all parts are
 * batchNormBackward's `sums`.
 */
export function batchNormGradientSums(dy: AnyTensor, saved: Saved): GradientSums {
  checkSaved(saved);
  if (saved.slices[0]?.conditional) throw wrongValue("gamma", "one value per channel in two phases", "one per sample");
  const heap = checkUpstream(dy, saved);
  const into = zeros(saved.geometry.channels);
  compute(heap, dy, saved, into, { dx: false, dxOut: undefined, dResidual: false, dResidualOut: undefined }, undefined);
  return into;
}
