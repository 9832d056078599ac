// The stateless operations: statistics, the forward map, the backward sums and map, on plain arrays or tensors. Below
// the public functions stands the core, which works on tensors of one heap and which class BatchNorm uses too.

import { inPlace, noForward, oneValuePerChannel, wrongKind, wrongLength, wrongShape, wrongValue } from "./errors.ts";
import { channelAxis, type Geometry, geometryOf, sizeOf } from "./geometry.ts";
import { type ChannelRange, GROUPED_FROM } from "./kernels.ts";
import { checkTensor, defaultHeap, type Heap, inWasmMemory, Tensor, type Workspace } from "./memory.ts";
import { checkKeys, epsilonOption, flag, type Layout, layoutOption } from "./options.ts";
import { checkVector } from "./running.ts";

/** A float32 array in JavaScript's memory with its shape in memory order. Calls copy it to wasm memory and back. */
export interface PlainTensor {
  data: Float32Array;
  shape: readonly number[];
}

/** What calls take, and what they return: the kind that came in. */
export type TensorLike = PlainTensor | Tensor;

/** Which gradients to compute; every one by default. */
export interface Needs {
  dx?: boolean;
  dGamma?: boolean;
  dBeta?: boolean;
}

/** What forward keeps for backward. Opaque: pass it on. It refers to x, which must not change until then. */
export interface Saved {
  /** false where running statistics normalised, through which no gradient flows. */
  readonly batch: boolean;
  readonly geometry: Geometry;
  readonly shape: readonly number[];
  readonly x: TensorLike;
  /** savedMean, float64, [C] */
  readonly mean: Float64Array;
  /** savedInvStd, float64, [C] */
  readonly invStd: Float64Array;
  readonly gamma: Float32Array | null;
}

export interface BackwardOptions<T extends TensorLike = TensorLike> {
  /** Where to write dx; may be dy itself. */
  dxOut?: T;
  needs?: Needs;
  /** Where to write dGamma and dBeta, [C]. */
  dGammaOut?: Float32Array;
  dBetaOut?: Float32Array;
  /** Add to dGammaOut and dBetaOut instead of overwriting them. Default false. */
  accumulate?: boolean;
}

/** A gradient that was not needed, or whose parameter does not exist, is absent. */
export interface Gradients<T extends TensorLike = TensorLike> {
  dx?: T;
  dGamma?: Float32Array;
  dBeta?: Float32Array;
}

// ---- operands -------------------------------------------------------------------------------------------------------

/** Refuses what is neither a live Tensor nor { data: Float32Array, shape } of one length. */
export function checkOperand(name: string, value: TensorLike): void {
  if (value instanceof Tensor) {
    checkTensor(name, value, value.heap);
    return;
  }
  if (typeof value !== "object" || value === null)
    throw wrongKind(name, "a Tensor or { data: Float32Array, shape }", value);
  if (!(value.data instanceof Float32Array)) throw wrongKind(`${name}.data`, "a Float32Array", value.data);
  if (sizeOf(name, value.shape) !== value.data.length) throw wrongLength(name, value.shape, value.data.length);
}

const sameShape = (a: readonly number[], b: readonly number[]) =>
  a.length === b.length && a.every((d, i) => d === b[i]);

/** Refuses a destination of another shape, in another memory, or in views that growing memory would empty. */
export function checkOut(name: string, out: TensorLike | undefined, shape: readonly number[], heap: Heap): void {
  if (out === undefined) return;
  checkOperand(name, out);
  if (!sameShape(out.shape, shape)) throw wrongShape(name, shape, out.shape);
  if (out instanceof Tensor) checkTensor(name, out, heap);
  else if (inWasmMemory(out.data)) throw wrongKind(name, "the Tensor itself or memory of JavaScript", out);
}

/** The heap that a call works in: the tensor's, or the default one. */
export const heapOf = (value: TensorLike): Heap => (value instanceof Tensor ? value.heap : defaultHeap());

/** A plain array's copy in wasm memory, which the caller owns; a tensor as it is. */
export function stage(value: TensorLike, heap: Heap): Tensor {
  if (value instanceof Tensor) return value;
  const source = inWasmMemory(value.data) ? value.data.slice() : value.data;
  const staged = new Tensor(heap, value.shape, source.length);
  staged.data.set(source);
  return staged;
}

/** Disposes of a staged copy: every tensor that is none of the caller's own. */
export const release = (staged: Tensor | undefined, ...own: unknown[]): void => {
  if (staged && !own.includes(staged)) staged.dispose();
};

/** The result, as `out` or in the kind of `like`; `computed` holds it in wasm memory. */
export function deliver(computed: Tensor, out: TensorLike | undefined, like: TensorLike): TensorLike {
  if (out === computed || (out === undefined && like instanceof Tensor)) return computed;
  const result = out ?? { data: new Float32Array(computed.length), shape: [...computed.shape] };
  result.data.set(computed.data);
  return result;
}

// ---- core -----------------------------------------------------------------------------------------------------------

/** Runs of doubtful channels, so that neighbours are summed again together. */
function* doubtfulRanges(heap: Heap, work: Workspace, channels: number): Generator<ChannelRange> {
  const at = work.doubtful;
  for (let begin = 0; begin < channels; begin++) {
    if (!heap.u8[at + begin]) continue;
    let end = begin + 1;
    while (end < channels && heap.u8[at + end]) end++;
    yield { begin, end };
    begin = end;
  }
}

/**
 * Takes sums grouped where there are enough values, and again exactly in every channel where `read`, which turns them
 * into statistics, doubts them.
 */
function takeSums(
  heap: Heap,
  work: Workspace,
  g: Geometry,
  grouped: () => void,
  exact: (range: ChannelRange) => void,
  read: (columns: number, range: ChannelRange) => number,
): void {
  const all = { begin: 0, end: g.channels };
  if (g.count < GROUPED_FROM) {
    exact(all);
    read(g.period, all);
    return;
  }
  grouped();
  if (read(g.columns, all) === 0) return;
  for (const range of [...doubtfulRanges(heap, work, g.channels)]) {
    exact(range);
    read(g.period, range);
  }
}

/** A row for each channel as a row for each column, where the walk tells them apart. */
function perColumn(heap: Heap, source: number, target: number, rows: number, g: Geometry): number {
  if (g.columns === g.channels) return source;
  heap.kernels.spread(source, target, rows, g);
  return target;
}

/** Statistics of one batch, float64, [C]. */
export interface Statistics {
  readonly mean: Float64Array;
  /** Biased: divided by the count. */
  readonly variance: Float64Array;
  readonly invStd: Float64Array;
}

export const emptyStatistics = (channels: number): Statistics => ({
  mean: new Float64Array(channels),
  variance: new Float64Array(channels),
  invStd: new Float64Array(channels),
});

/** mean, biased variance and invStd of a batch with at least one value per channel (docs/batchnorm.md, F1 to F5). */
export function batchStatistics(x: Tensor, g: Geometry, epsilon: number, into: Statistics): void {
  const { heap } = x;
  const k = heap.kernels;
  const work = heap.workspace.reserve(g);
  const { mean, variance, invStd, doubtful, scratch } = work;
  k.pivot(x.pointer, work.pivot, g);
  const pivot = perColumn(heap, work.pivot, work.columnPivot, 1, g);
  takeSums(
    heap,
    work,
    g,
    () => k.moments(x.pointer, pivot, work, scratch, g),
    (range) => k.exactMoments(x.pointer, pivot, work, g, range),
    (columns, range) => k.statistics(work, work.pivot, mean, variance, doubtful, g, columns, range),
  );
  k.invStd(variance, invStd, epsilon, g.channels);
  const f64 = (pointer: number) => heap.f64.subarray(pointer / 8, pointer / 8 + g.channels);
  into.mean.set(f64(mean));
  into.variance.set(f64(variance));
  into.invStd.set(f64(invStd));
}

/** invStd of given variances (docs/batchnorm.md, F5). */
export function invStdOf(variance: ArrayLike<number>, epsilon: number, into: Float64Array): void {
  for (let c = 0; c < into.length; c++) {
    const v = (variance[c] as number) + epsilon;
    into[c] = v === 0 ? 0 : 1 / Math.sqrt(v);
  }
}

/** y = gamma·(x − mean)·invStd + beta (docs/batchnorm.md, F6, F7). y may be x. */
export function normalize(
  x: Tensor,
  y: Tensor,
  g: Geometry,
  s: Pick<Statistics, "mean" | "invStd">,
  gamma: Float32Array | null,
  beta: Float32Array | null,
): void {
  if (g.length === 0) return;
  const { heap } = x;
  const work = heap.workspace.reserve(g);
  heap.f64.set(s.mean, work.mean / 8);
  heap.f64.set(s.invStd, work.invStd / 8);
  if (gamma) heap.f32.set(gamma, work.gamma / 4);
  if (beta) heap.f32.set(beta, work.beta / 4);
  const { coefficients } = work;
  heap.kernels.affineCoefficients(
    coefficients,
    work.mean,
    work.invStd,
    gamma ? work.gamma : 0,
    beta ? work.beta : 0,
    g.channels,
  );
  heap.kernels.affine(x.pointer, y.pointer, perColumn(heap, coefficients, work.columnCoefficients, 3, g), g);
}

/** Writes or adds C values of f64 to a gradient. */
function putGradient(out: Float32Array, heap: Heap, pointer: number, accumulate: boolean): void {
  const from = pointer / 8;
  for (let c = 0; c < out.length; c++) {
    const value = heap.f64[from + c] as number;
    out[c] = accumulate ? (out[c] as number) + value : value;
  }
}

/** Backward of `normalize` (docs/batchnorm.md, B1 to B6), into those of dx, dGamma, dBeta that are given. dx may be dy. */
export function differentiate(
  x: Tensor,
  dy: Tensor,
  saved: Saved,
  dx: Tensor | undefined,
  dGamma: Float32Array | undefined,
  dBeta: Float32Array | undefined,
  accumulate: boolean,
): void {
  const g = saved.geometry;
  if (g.length === 0) {
    if (!accumulate) {
      dGamma?.fill(0);
      dBeta?.fill(0);
    }
    return;
  }
  const { heap } = x;
  const k = heap.kernels;
  const work = heap.workspace.reserve(g);
  const { mean, invStd, coefficients, doubtful, scratch } = work;
  heap.f64.set(saved.mean, mean / 8);
  heap.f64.set(saved.invStd, invStd / 8);
  if (saved.gamma) heap.f32.set(saved.gamma, work.gamma / 4);
  const gamma = saved.gamma ? work.gamma : 0;
  if (dGamma || dBeta || (dx && saved.batch)) {
    heap.f32.set(saved.mean, work.pivot / 4);
    const hi = perColumn(heap, work.pivot, work.columnPivot, 1, g);
    takeSums(
      heap,
      work,
      g,
      () => k.gradientSums(x.pointer, dy.pointer, hi, work, scratch, g),
      (range) => k.exactGradientSums(x.pointer, dy.pointer, hi, work, g, range),
      (columns, range) =>
        k.gradientStatistics(work, mean, invStd, work.dGamma, work.dBeta, doubtful, g, columns, range),
    );
  }
  if (dx) {
    if (saved.batch) k.gradientCoefficients(coefficients, mean, invStd, gamma, work.dGamma, work.dBeta, g);
    else k.affineCoefficients(coefficients, 0, invStd, gamma, 0, g.channels);
    const matrix = perColumn(heap, coefficients, work.columnCoefficients, saved.batch ? 4 : 3, g);
    if (saved.batch) k.gradient(x.pointer, dy.pointer, dx.pointer, matrix, g);
    else k.affine(dy.pointer, dx.pointer, matrix, g);
  }
  if (dGamma) putGradient(dGamma, heap, work.dGamma, accumulate);
  if (dBeta) putGradient(dBeta, heap, work.dBeta, accumulate);
}

export const BACKWARD_OPTIONS = ["dxOut", "needs", "dGammaOut", "dBetaOut", "accumulate"];
const NEEDS = ["dx", "dGamma", "dBeta"];

/** Checks everything that backward takes, then computes what is needed. `has` tells which parameters exist. */
export function backward<T extends TensorLike>(
  dy: T,
  saved: Saved,
  has: { gamma: boolean; beta: boolean },
  options: BackwardOptions<T>,
): Gradients<T> {
  checkKeys("backward options", options, BACKWARD_OPTIONS);
  const { needs = {}, dxOut } = options;
  checkKeys("needs", needs, NEEDS);
  checkOperand("dy", dy);
  if (!sameShape(dy.shape, saved.shape)) throw wrongShape("dy", saved.shape, dy.shape);
  checkOperand("x", saved.x);
  const heap = saved.x instanceof Tensor ? saved.x.heap : heapOf(dy);
  if (dy instanceof Tensor) checkTensor("dy", dy, heap);
  checkOut("dxOut", dxOut, saved.shape, heap);
  if (dxOut instanceof Tensor && dxOut === saved.x) throw inPlace("dxOut", saved.batch ? "train" : "frozen");
  const accumulate = flag("accumulate", options.accumulate, false);
  const channels = saved.geometry.channels;
  const vector = (name: string, needed: unknown, exists: boolean, out: Float32Array | undefined) => {
    if (out !== undefined) checkVector(`${name}Out`, out, channels);
    return flag(`needs.${name}`, needed, true) && exists ? (out ?? new Float32Array(channels)) : undefined;
  };
  const dGamma = vector("dGamma", needs.dGamma, has.gamma, options.dGammaOut);
  const dBeta = vector("dBeta", needs.dBeta, has.beta, options.dBetaOut);
  const wanted = flag("needs.dx", needs.dx, true);

  let x: Tensor | undefined;
  let staged: Tensor | undefined;
  let dx: Tensor | undefined;
  const result: Gradients<T> = {};
  try {
    x = stage(saved.x, heap);
    staged = stage(dy, heap);
    if (wanted) {
      if (dxOut instanceof Tensor) dx = dxOut;
      else if (dy instanceof Tensor) dx = new Tensor(heap, saved.shape, saved.geometry.length);
      else dx = staged;
    }
    differentiate(x, staged, saved, dx, dGamma, dBeta, accumulate);
    if (dx) result.dx = deliver(dx, dxOut, dy) as T;
  } finally {
    release(x, saved.x);
    if (dx !== staged) release(dx, dxOut, result.dx);
    release(staged, dy);
  }
  if (dGamma) result.dGamma = dGamma;
  if (dBeta) result.dBeta = dBeta;
  return result;
}

// ---- public ---------------------------------------------------------------------------------------------------------

/** gamma and beta, float32, [C]; null or absent counts as ones and zeros. */
export interface Parameters {
  gamma?: Float32Array | null;
  beta?: Float32Array | null;
}

export interface ForwardOptions<T extends TensorLike = TensorLike> {
  layout?: Layout;
  /** Default 1e-5. */
  epsilon?: number;
  /** Where to write y. */
  out?: T;
}

const FORWARD_OPTIONS = ["layout", "epsilon", "out"];

/** Checks what both forward functions take. */
function checkForward(x: TensorLike, p: Parameters, known: readonly string[], options: ForwardOptions) {
  checkKeys("options", options, FORWARD_OPTIONS);
  checkKeys("parameters", p, known);
  checkOperand("x", x);
  const layout = layoutOption(options.layout);
  const channels = x.shape[channelAxis(x.shape, layout)] ?? 0;
  if (x.shape.length >= 2 && channels === 0) throw wrongValue("x.shape", "at least one channel", x.shape);
  const geometry = geometryOf("x", x.shape, layout, channels);
  const gamma = p.gamma ? checkVector("gamma", p.gamma, channels) : null;
  const beta = p.beta ? checkVector("beta", p.beta, channels) : null;
  const heap = heapOf(x);
  checkOut("out", options.out, x.shape, heap);
  return { geometry, gamma, beta, heap, epsilon: epsilonOption(options.epsilon) };
}

/** Normalises x with statistics that `fill` provides, and returns y in x's kind. */
function forward<T extends TensorLike>(
  x: T,
  out: T | undefined,
  heap: Heap,
  compute: (x: Tensor, y: Tensor) => void,
): T {
  let source: Tensor | undefined;
  let y: Tensor | undefined;
  let result: TensorLike | undefined;
  try {
    source = stage(x, heap);
    if (out instanceof Tensor) y = out;
    else y = x instanceof Tensor ? new Tensor(heap, x.shape, x.length) : source;
    compute(source, y);
    result = deliver(y, out, x);
    return result as T;
  } finally {
    if (y !== source) release(y, out, result);
    release(source, x);
  }
}

/**
 * Batch normalization by the statistics of x (torch.nn.functional.batch_norm with training=True; Ioffe & Szegedy 2015,
 * Alg. 1). x: [N, C, …] or, with layout "channels-last", [N, …, C]; gamma, beta: [C].
 *
 * Returns y in x's kind and shape, mean and variance (biased) as Float64Array [C], and `saved` for batchNormBackward,
 * which keeps a reference to x. An empty batch gives an empty y and zeros.
 *
 * Throws TypeError and RangeError for wrong arguments, BatchNormError for one value per channel.
 */
export function batchNormForward<T extends TensorLike>(
  x: T,
  parameters: Parameters = {},
  options: ForwardOptions<T> = {},
): { y: T; saved: Saved; mean: Float64Array; variance: Float64Array } {
  const { geometry, gamma, beta, heap, epsilon } = checkForward(x, parameters, ["gamma", "beta"], options);
  if (geometry.count === 1) throw oneValuePerChannel("train", x.shape);
  if (options.out === x && x instanceof Tensor) throw inPlace("out", "train");
  const statistics = emptyStatistics(geometry.channels);
  const y = forward(x, options.out, heap, (source, target) => {
    if (geometry.count > 0) batchStatistics(source, geometry, epsilon, statistics);
    normalize(source, target, geometry, statistics, gamma, beta);
  });
  const { mean, variance, invStd } = statistics;
  const saved = { batch: true, geometry, shape: [...x.shape], x, mean, invStd, gamma: gamma ? gamma.slice() : null };
  return { y, saved, mean, variance };
}

/**
 * Batch normalization by given statistics (training=False). As batchNormForward, with mean and variance, Float32Array or
 * Float64Array [C], among the parameters; `out` may be x. `saved` is for the backward of frozen statistics:
 * dx = gamma·invStd·dy.
 */
export function batchNormInference<T extends TensorLike>(
  x: T,
  parameters: Parameters & { mean: Float32Array | Float64Array; variance: Float32Array | Float64Array },
  options: ForwardOptions<T> = {},
): { y: T; saved: Saved } {
  const known = ["gamma", "beta", "mean", "variance"];
  const { geometry, gamma, beta, heap, epsilon } = checkForward(x, parameters, known, options);
  const { channels } = geometry;
  const given = (name: "mean" | "variance") => {
    const v = parameters[name];
    return v instanceof Float64Array && v.length === channels
      ? v.slice()
      : Float64Array.from(checkVector(name, v, channels));
  };
  const mean = given("mean");
  const invStd = new Float64Array(channels);
  invStdOf(given("variance"), epsilon, invStd);
  const y = forward(x, options.out, heap, (source, target) =>
    normalize(source, target, geometry, { mean, invStd }, gamma, beta),
  );
  return {
    y,
    saved: { batch: false, geometry, shape: [...x.shape], x, mean, invStd, gamma: gamma ? gamma.slice() : null },
  };
}

/**
 * Gradients of a forward call (Ioffe & Szegedy 2015, section 3; torch.ops.aten.native_batch_norm_backward). dy: the
 * shape of x. dx is in dy's kind; dGamma and dBeta are Float32Array [C]. Saved by batchNormInference, the statistics are
 * constants: dx = gamma·invStd·dy.
 *
 * Throws RangeError for another shape, BatchNormError where x was disposed since.
 */
export function batchNormBackward<T extends TensorLike>(
  dy: T,
  saved: Saved,
  options: BackwardOptions<T> = {},
): Gradients<T> {
  if (typeof saved !== "object" || saved === null || !(saved.mean instanceof Float64Array))
    throw noForward("no result of batchNormForward as `saved`");
  return backward(dy, saved, { gamma: true, beta: true }, options);
}
