// The stateless operations: statistics, the forward map, the backward sums and map, on plain arrays or tensors. Above
// the public functions stands the core, which works on operands of one kind and which class BatchNorm uses too.

import { noForward, oneValuePerChannel, wrongShape, wrongValue } from "./errors.ts";
import { channelAxis, type Geometry, geometryOf, type Part } from "./geometry.ts";
import { precisionOf, type Range, type Sums } from "./kernels.ts";
import { checkTensor, type Heap, Tensor, type Workspace } from "./memory.ts";
import {
  checkOperand,
  checkOut,
  heapOf,
  Operand,
  overwrites,
  type PlainTensor,
  sameShape,
  stage,
  type TensorLike,
} from "./operand.ts";
import { checkKeys, epsilonOption, flag, type Layout, layoutOption } from "./options.ts";
import { checkVector } from "./running.ts";

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

// ---- core -----------------------------------------------------------------------------------------------------------

/** Runs of doubtful channels, so that neighbours are summed again together. */
function* doubtfulRanges(heap: Heap, work: Workspace, all: Range): Generator<Range> {
  const at = work.doubtful;
  for (let { begin } = all; begin < all.end; begin++) {
    if (!heap.u8[at + begin]) continue;
    let end = begin + 1;
    while (end < all.end && heap.u8[at + end]) end++;
    yield { begin, end };
    begin = end;
  }
}

/** The channels of a group of parts. */
const channelsOf = ([part]: readonly Part[]): Range => ({
  begin: part?.channel ?? 0,
  end: part ? part.channel + part.g.channels : 0,
});

/**
 * Takes sums of a group of parts: in groups or fours where there are enough values, and again exactly in every channel where `read`, which turns them
 * into statistics, doubts them. Ranges of `exact` are of the part's channels.
 */
function takeSums(
  heap: Heap,
  work: Workspace,
  g: Geometry,
  parts: readonly Part[],
  grouped: (part: Part) => void,
  exact: (part: Part, range: Range) => void,
  read: (columns: number, range: Range) => number,
): void {
  const again = (range: Range) => {
    for (const part of parts) {
      const begin = Math.max(range.begin - part.channel, 0);
      const end = Math.min(range.end - part.channel, part.g.channels);
      if (begin < end) exact(part, { begin, end });
    }
    read(g.period * g.stripes, range);
  };
  const all = channelsOf(parts);
  const precision = precisionOf(g);
  if (precision === "exact") {
    again(all);
    return;
  }
  for (const part of parts) grouped(part);
  if (read((precision === "fours" ? g.period : g.columns) * g.stripes, all) === 0) return;
  for (const range of [...doubtfulRanges(heap, work, all)]) again(range);
}

/** A row for each channel as a row for each column, where the walk tells them apart. */
function perColumn(heap: Heap, source: number, target: number, rows: number, g: Geometry): number {
  if (g.columns === g.channels) return source;
  heap.kernels.spread(source, target, rows, g);
  return target;
}

/** The sums of a part's first channel, in arrays of all channels. */
const sumsOf = (work: Workspace, { channel }: Part): Sums => ({
  first: work.first + channel * 8,
  second: work.second + channel * 8,
});

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

/**
 * mean, biased variance and invStd of a batch with at least one value per channel (docs/batchnorm.md, F1 to F5), of the
 * channels of a group of parts.
 */
export function batchStatistics(x: Operand, epsilon: number, into: Statistics, parts: readonly Part[]): void {
  const { heap, g } = x;
  const k = heap.kernels;
  const work = heap.workspace.reserve(g);
  const { mean, variance, invStd, doubtful, scratch } = work;
  if (parts === x.groups[0]) x.pivot(work.pivot);
  const pivot = perColumn(heap, work.pivot, work.columnPivot, 1, g);
  takeSums(
    heap,
    work,
    g,
    parts,
    (part) => k.moments(x.load(part), pivot + part.channel * 4, sumsOf(work, part), scratch, part),
    (part, range) => k.exactMoments(x.load(part), pivot + part.channel * 4, sumsOf(work, part), part, range),
    (columns, range) => k.statistics(work, work.pivot, mean, variance, doubtful, g, columns, range),
  );
  const { begin, end } = channelsOf(parts);
  k.invStd(variance + begin * 8, invStd + begin * 8, epsilon, end - begin);
  const f64 = (pointer: number) => heap.f64.subarray(pointer / 8 + begin, pointer / 8 + end);
  into.mean.set(f64(mean), begin);
  into.variance.set(f64(variance), begin);
  into.invStd.set(f64(invStd), begin);
}

/** invStd of given variances (docs/batchnorm.md, F5). */
export function invStdOf(variance: ArrayLike<number>, epsilon: number, into: Float64Array): void {
  for (let c = 0; c < into.length; c++) {
    const v = (variance[c] as number) + epsilon;
    into[c] = v === 0 ? 0 : 1 / Math.sqrt(v);
  }
}

/** y = gamma·(x − mean)·invStd + beta (docs/batchnorm.md, F6, F7): tensor to tensor, or array to array. y may be x. */
export function normalize(
  x: Operand,
  y: Tensor | Float32Array,
  s: Pick<Statistics, "mean" | "invStd">,
  gamma: Float32Array | null,
  beta: Float32Array | null,
  parts: readonly Part[] = x.parts,
): void {
  const { heap, g } = x;
  if (g.length === 0) return;
  const work = heap.workspace.reserve(g);
  heap.f64.set(s.mean, work.mean / 8);
  heap.f64.set(s.invStd, work.invStd / 8);
  if (gamma) heap.f32.set(gamma, work.gamma / 4);
  if (beta) heap.f32.set(beta, work.beta / 4);
  const { coefficients } = work;
  let matrix = 0;
  for (const part of parts) {
    // stripes share the coefficients of the first
    if (part.from === 0) {
      const { channel } = part;
      heap.kernels.affineCoefficients(
        coefficients,
        work.mean + channel * 8,
        work.invStd + channel * 8,
        gamma ? work.gamma + channel * 4 : 0,
        beta ? work.beta + channel * 4 : 0,
        part.g.channels,
      );
      matrix = perColumn(heap, coefficients, work.columnCoefficients, 3, part.g);
    }
    const pointer = x.load(part);
    heap.kernels.affine(pointer, y instanceof Tensor ? y.pointer : pointer, matrix, part);
    if (!(y instanceof Tensor)) x.unload(y);
  }
}

/** Writes or adds C values of f64 to a gradient. */
function putGradient(out: Float32Array, heap: Heap, pointer: number, accumulate: boolean): void {
  const from = pointer / 8;
  for (let c = 0; c < out.length; c++) {
    const value = heap.f64[from + c] as number;
    out[c] = accumulate ? (out[c] as number) + value : value;
  }
}

/**
 * Backward of `normalize` (docs/batchnorm.md, B1 to B6), into those of dx, dGamma, dBeta that are given. x and dy are of
 * one kind, and dx of that kind. dx may be dy.
 */
export function differentiate(
  x: Operand,
  dy: Operand,
  saved: Saved,
  dx: Tensor | Float32Array | undefined,
  dGamma: Float32Array | undefined,
  dBeta: Float32Array | undefined,
  accumulate: boolean,
): void {
  const { heap, g } = x;
  if (g.length === 0) {
    if (!accumulate) {
      dGamma?.fill(0);
      dBeta?.fill(0);
    }
    return;
  }
  const k = heap.kernels;
  const work = heap.workspace.reserve(g);
  const { mean, invStd, coefficients, doubtful, scratch } = work;
  heap.f64.set(saved.mean, mean / 8);
  heap.f64.set(saved.invStd, invStd / 8);
  if (saved.gamma) heap.f32.set(saved.gamma, work.gamma / 4);
  const sums = dGamma || dBeta || (dx && saved.batch);
  heap.f32.set(saved.mean, work.pivot / 4);
  const hi = sums ? perColumn(heap, work.pivot, work.columnPivot, 1, g) : 0;
  const sources = (part: Part) => [x.load(part), dy.load(part)] as const;
  for (const parts of x.groups) {
    if (sums)
      takeSums(
        heap,
        work,
        g,
        parts,
        (part) => k.gradientSums(...sources(part), hi + part.channel * 4, sumsOf(work, part), scratch, part),
        (part, range) => k.exactGradientSums(...sources(part), hi + part.channel * 4, sumsOf(work, part), part, range),
        (columns, range) =>
          k.gradientStatistics(work, mean, invStd, work.dGamma, work.dBeta, doubtful, g, columns, range),
      );
    if (!dx) continue;
    let matrix = 0;
    for (const part of parts) {
      if (part.from === 0) {
        const at = (pointer: number) => pointer + part.channel * 8;
        const gamma = saved.gamma ? work.gamma + part.channel * 4 : 0;
        const statistics = [at(mean), at(invStd), gamma, at(work.dGamma), at(work.dBeta)] as const;
        if (saved.batch) k.gradientCoefficients(coefficients, ...statistics, part.g);
        else k.affineCoefficients(coefficients, 0, at(invStd), gamma, 0, part.g.channels);
        matrix = perColumn(heap, coefficients, work.columnCoefficients, saved.batch ? 4 : 3, part.g);
      }
      const source = dy.load(part);
      const target = dx instanceof Tensor ? dx.pointer : source;
      if (saved.batch) k.gradient(x.load(part), source, target, matrix, part);
      else k.affine(source, target, matrix, part);
      if (!(dx instanceof Tensor)) dy.unload(dx);
    }
  }
  if (dGamma) putGradient(dGamma, heap, work.dGamma, accumulate);
  if (dBeta) putGradient(dBeta, heap, work.dBeta, accumulate);
}

/**
 * Has `compute` work on operands of one kind and, for `result`, write a destination of that kind: arrays where all of
 * them are arrays, else tensors, for which arrays are copied whole. Returns the result as `out` or in the kind of `like`.
 */
export function withOperands(
  heap: Heap,
  g: Geometry,
  values: readonly [TensorLike, TensorLike?],
  result: { out: TensorLike | undefined; like: TensorLike } | undefined,
  compute: (x: Operand, dy: Operand, target: Tensor | Float32Array | undefined) => void,
): TensorLike | undefined {
  const { out, like } = result ?? {};
  const tensors = [...values, out].some((value) => value instanceof Tensor);
  const own = new Set<{ dispose(): void }>();
  const owned = <R extends { dispose(): void }>(made: R): R => {
    own.add(made);
    return made;
  };
  try {
    const operands = values.map((value) => {
      const staged = value instanceof Tensor || !tensors ? value : owned(stage(value as PlainTensor, heap));
      return owned(new Operand(heap, staged as TensorLike, g));
    });
    const [x, dy = x] = operands as [Operand, Operand?];
    if (!like) {
      compute(x, dy, undefined);
      return undefined;
    }
    const kind = out ?? like;
    const data = kind instanceof Tensor ? undefined : (out?.data ?? new Float32Array(g.length));
    const tensor = () => (out instanceof Tensor ? out : owned(new Tensor(heap, like.shape, g.length)));
    const target = data && !tensors ? data : tensor();
    compute(x, dy, target);
    if (data && target instanceof Tensor) data.set(target.data);
    if (data) return out ?? { data, shape: [...like.shape] };
    own.delete(target as Tensor);
    return target as Tensor;
  } finally {
    for (const made of own) made.dispose();
  }
}

/** withOperands for the forward map: y in x's kind. */
export const forward = <T extends TensorLike>(
  heap: Heap,
  g: Geometry,
  x: T,
  out: T | undefined,
  compute: (x: Operand, y: Tensor | Float32Array) => void,
): T =>
  withOperands(heap, g, [x], { out, like: x }, (source, _, y) => compute(source, y as Tensor | Float32Array)) as T;

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
  const heap = heapOf(saved.x, dy, dxOut);
  if (dy instanceof Tensor) checkTensor("dy", dy, heap);
  checkOut("dxOut", dxOut, saved.shape, heap);
  overwrites("dxOut", dxOut, saved.x, saved.batch ? "train" : "frozen");
  overwrites("dxOut", dxOut, dy);
  const accumulate = flag("accumulate", options.accumulate, false);
  const channels = saved.geometry.channels;
  const vector = (name: string, needed: unknown, exists: boolean, out: Float32Array | undefined) => {
    if (out !== undefined) checkVector(`${name}Out`, out, channels);
    return flag(`needs.${name}`, needed, true) && exists ? (out ?? new Float32Array(channels)) : undefined;
  };
  const dGamma = vector("dGamma", needs.dGamma, has.gamma, options.dGammaOut);
  const dBeta = vector("dBeta", needs.dBeta, has.beta, options.dBetaOut);
  const wanted = flag("needs.dx", needs.dx, true);

  const result: Gradients<T> = {};
  const compute = (x: Operand, gradient: Operand, dx: Tensor | Float32Array | undefined) =>
    differentiate(x, gradient, saved, dx, dGamma, dBeta, accumulate);
  const dx = withOperands(heap, saved.geometry, [saved.x, dy], wanted ? { out: dxOut, like: dy } : undefined, compute);
  if (dx) result.dx = dx as T;
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
  const heap = heapOf(x, options.out);
  checkOut("out", options.out, x.shape, heap);
  return { geometry, gamma, beta, heap, epsilon: epsilonOption(options.epsilon) };
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
  overwrites("out", options.out, x, "train");
  const statistics = emptyStatistics(geometry.channels);
  const y = forward(heap, geometry, x, options.out, (source, target) => {
    if (geometry.count === 0) return;
    for (const parts of source.groups) {
      batchStatistics(source, epsilon, statistics, parts);
      normalize(source, target, statistics, gamma, beta, parts);
    }
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
  overwrites("out", options.out, x);
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
  const y = forward(heap, geometry, x, options.out, (source, target) =>
    normalize(source, target, { mean, invStd }, gamma, beta),
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
