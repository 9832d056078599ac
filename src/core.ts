// The two primitives on operands: sums over the channels of a batch, and the maps that follow from them. Everything that
// normalises is made of these; docs/batchnorm.md numbers the terms.

import { type Activation, activations, fusesBackward } from "./activation.ts";
import type { Vector } from "./dtype.ts";
import type { Geometry, Part } from "./geometry.ts";
import { type Kernels, precisionOf, type Range, type Sums } from "./kernels.ts";
import type { Heap, Workspace } from "./memory.ts";
import type { Operand } from "./operand.ts";

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

/** What a map needs: y = f(gamma·(x − mean)·invStd + beta + residual). */
export interface Terms {
  readonly mean: Float64Array;
  readonly invStd: Float64Array;
  readonly gamma: Vector | null;
  readonly beta: Vector | null;
  readonly activation: Activation;
}

/** dGamma = Σ dz·x̂ and dBeta = Σ dz, float64, [C]. */
export interface GradientSums {
  readonly dGamma: Float64Array;
  readonly dBeta: Float64Array;
}

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
 * Takes sums of a group of parts: in groups or fours where there are enough values, and again exactly in every channel
 * where `read`, which turns them into statistics, doubts them. float64 has nothing more exact, but a better pivot, which
 * `recentre` sets. Ranges of `exact` are of the part's channels.
 */
function takeSums(
  { heap, g, kernels }: Operand,
  work: Workspace,
  parts: readonly Part[],
  grouped: (part: Part) => void,
  exact: (part: Part, range: Range) => void,
  read: (columns: number, range: Range) => number,
  recentre: (range: Range) => void,
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
  const precision = precisionOf(g, kernels.wide);
  if (precision === "exact") {
    again(all);
    return;
  }
  const first = () => {
    for (const part of parts) grouped(part);
    return read((precision === "fours" ? g.period : g.columns) * g.stripes, all);
  };
  if (first() === 0) return;
  const doubtful = [...doubtfulRanges(heap, work, all)];
  if (kernels.wide) {
    for (const range of doubtful) recentre(range);
    first();
  } else for (const range of doubtful) again(range);
}

/** Rows of one value per channel as rows of one per column, where the walk tells them apart. */
function perColumn(k: Kernels, source: number, target: number, rows: number, g: Geometry, columns = g.columns): number {
  if (columns === g.channels) return source;
  k.spread(source, target, rows, g, columns);
  return target;
}

/** The sums of a part's first channel, in arrays of all channels. */
const sumsOf = (work: Workspace, { channel }: Part): Sums => ({
  first: work.first + channel * 8,
  second: work.second + channel * 8,
});

/**
 * mean, biased variance and invStd of a batch with at least one value per channel (docs/batchnorm.md, F1 to F5), of the
 * channels of a group of parts.
 */
export function batchStatistics(x: Operand, epsilon: number, into: Statistics, parts: readonly Part[]): void {
  const { heap, g, kernels: k } = x;
  const work = heap.workspace.reserve(g);
  const { mean, variance, invStd, doubtful, scratch } = work;
  if (parts[0] === x.parts[0]) x.pivot(work.pivot);
  let pivot = perColumn(k, work.pivot, work.columnPivot, 1, g);
  const at = (part: Part) => pivot + part.channel * k.bytes;
  takeSums(
    x,
    work,
    parts,
    (part) => k.moments(x.load(part), at(part), sumsOf(work, part), scratch, part),
    (part, range) => k.exactMoments(x.load(part), at(part), sumsOf(work, part), part, range),
    (columns, range) => k.statistics(work, work.pivot, mean, variance, doubtful, g, columns, range),
    ({ begin, end }) => {
      heap.f64.copyWithin(work.pivot / 8 + begin, mean / 8 + begin, mean / 8 + end);
      pivot = perColumn(k, work.pivot, work.columnPivot, 1, g);
    },
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

/** Brings the terms to the workspace. */
function bring(x: Operand, t: Terms): Workspace {
  const { heap, g, kernels: k } = x;
  const work = heap.workspace.reserve(g);
  heap.f64.set(t.mean, work.mean / 8);
  heap.f64.set(t.invStd, work.invStd / 8);
  if (t.gamma) k.write(heap, work.gamma, t.gamma);
  if (t.beta) k.write(heap, work.beta, t.beta);
  const { code, slope, floor, ceiling } = t.activation;
  if (code) k.write(heap, work.parameters, [slope, floor, ceiling]);
  return work;
}

/** The matrix of a part's affine map (F6), one column per channel. */
function affineMatrix(k: Kernels, work: Workspace, t: Terms, { channel, g }: Part): number {
  const at = (pointer: number) => pointer + channel * k.bytes;
  k.affineCoefficients(
    work.coefficients,
    work.mean + channel * 8,
    work.invStd + channel * 8,
    t.gamma ? at(work.gamma) : 0,
    t.beta ? at(work.beta) : 0,
    g.channels,
  );
  return work.coefficients;
}

/** What asks for float64 beside the kernels. */
const WIDE = "dtype float64";

/** Calls `visit` for every element of a part in the heap, with its index there: for what has no kernel in float64. */
function eachIn(part: Part, pointer: number, bytes: number, visit: (offset: number) => void): void {
  const { g } = part;
  const size = g.stripe * g.columns;
  const begin = g.planar ? 0 : part.from * size;
  const end = g.planar ? g.length : Math.min(part.to * size, g.length);
  for (let i = begin; i < end; i++) visit(pointer / bytes + i);
}

/**
 * y = f(gamma·(x − mean)·invStd + beta + residual) (F6, F7). Operands of one kind; y may be x, and the residual may be y.
 */
export function normalize(
  x: Operand,
  residual: Operand | undefined,
  y: Operand,
  t: Terms,
  parts: readonly Part[] = x.parts,
): void {
  const { g, kernels: k } = x;
  if (g.length === 0) return;
  const work = bring(x, t);
  let matrix = 0;
  for (const part of parts) {
    // stripes share the coefficients of the first
    if (part.from === 0) matrix = perColumn(k, affineMatrix(k, work, t, part), work.columnCoefficients, 3, part.g);
    const pointer = x.load(part);
    const target = y.target(pointer);
    const added = residual ? residual.load(part) : 0;
    if (k.wide && (residual || t.activation.code)) {
      // a residual that is y itself is overwritten by the map
      const kept = residual && added === target ? residual.copyOf(part) : undefined;
      k.affine(pointer, target, matrix, part);
      const { f64 } = x.heap;
      const { activate } = activations.get(WIDE);
      const shift = residual ? (kept ? 0 : (added - target) / 8) : 0;
      let next = 0;
      eachIn(part, target, 8, (i) => {
        const r = residual ? (kept ? (kept[next++] as number) : (f64[i + shift] as number)) : 0;
        f64[i] = activate(t.activation, (f64[i] as number) + r);
      });
    } else if (residual || t.activation.code)
      k.affineActivated(pointer, added, target, matrix, t.activation.code, work.parameters, part);
    else k.affine(pointer, target, matrix, part);
    x.unload(y, part);
  }
}

/**
 * dz = dy·f′(z), z being forward's value before its activation; to an operand of dy's kind, which may be dy. `parts` are
 * x's.
 */
export function differentiateActivation(
  x: Operand,
  residual: Operand | undefined,
  dy: Operand,
  dz: Operand,
  t: Terms,
): void {
  const { g, kernels: k, heap } = x;
  if (g.length === 0) return;
  const work = bring(x, t);
  let matrix = 0;
  const z = k.wide ? heap.allocate(g.length * 8) : 0;
  for (const part of x.parts) {
    if (part.from === 0) matrix = perColumn(k, affineMatrix(k, work, t, part), work.columnCoefficients, 3, part.g);
    const pointer = x.load(part);
    const source = dy.load(part);
    const added = residual ? residual.load(part) : 0;
    const target = dz.target(source);
    if (k.wide) {
      k.affine(pointer, z, matrix, part);
      const { f64 } = heap;
      const { derivative } = activations.get(WIDE);
      eachIn(part, z, 8, (i) => {
        const value = (f64[i] as number) + (residual ? (f64[i + (added - z) / 8] as number) : 0);
        const from = f64[i + (source - z) / 8] as number;
        f64[i + (target - z) / 8] = from * derivative(t.activation, value);
      });
    } else k.derivative(pointer, source, added, target, matrix, t.activation.code, work.parameters, part);
    dy.unload(dz, part);
  }
  if (z) heap.free(z);
}

/** Rounds or copies what passes through tiles. */
export function copy(source: Operand, target: Operand): void {
  if (source.g.length === 0) return;
  for (const part of source.parts) {
    source.load(part);
    source.unload(target, part);
  }
}

/** Whether sums and dx take the activation's derivative on the way, so that no dz is written. */
export const fuses = (residual: unknown, activation: Activation): boolean => !residual && fusesBackward(activation);

/**
 * dBeta and dGamma (B1 to B3) of the channels of a group of parts, into the workspace. `dy` is dz, or dy itself where
 * the activation is `fused`.
 */
function sumGradients(
  x: Operand,
  dy: Operand,
  t: Terms,
  fused: boolean,
  parts: readonly Part[],
  work: Workspace,
): void {
  const { g, kernels: k } = x;
  const { mean, invStd, doubtful, scratch, parameters } = work;
  const sources = (part: Part) => [x.load(part), dy.load(part)] as const;
  const { code } = t.activation;
  const hi = fused ? 0 : perColumn(k, work.pivot, work.columnPivot, 1, g);
  const at = (part: Part) => hi + part.channel * k.bytes;
  // rows hi, scale and shift, as far apart as the walk has columns
  const rows = (part: Part, columns: number) =>
    perColumn(k, affineMatrix(k, work, t, part), work.columnCoefficients, 3, part.g, columns);
  const period = ({ g: own }: Part) => (own.planar ? own.channels : own.period);
  takeSums(
    x,
    work,
    parts,
    (part) => {
      if (!fused) k.gradientSums(...sources(part), at(part), sumsOf(work, part), scratch, part);
      else {
        const columns = precisionOf(g, false) === "fours" ? period(part) : part.g.columns;
        const matrix = rows(part, columns);
        k.gradientSumsActivated(...sources(part), matrix, sumsOf(work, part), scratch, code, parameters, part);
      }
    },
    (part, range) => {
      if (!fused) k.exactGradientSums(...sources(part), at(part), sumsOf(work, part), part, range);
      else {
        const matrix = rows(part, period(part));
        k.exactGradientSumsActivated(...sources(part), matrix, sumsOf(work, part), code, parameters, part, range);
      }
    },
    (columns, range) => k.gradientStatistics(work, mean, invStd, work.dGamma, work.dBeta, doubtful, g, columns, range),
    () => {}, // the pivot is the mean already
  );
}

/** How dx follows from dy. */
interface Flow {
  /** Values per channel that the statistics are of; 0 where they are constants, so that dx = gamma·invStd·dy. */
  readonly count: number;
  /** Whether sums belong to another gamma than the map: conditional scale. */
  readonly separate: boolean;
  readonly fused: boolean;
}

/** dx of a group of parts, from the sums in the workspace (B4 to B6). dx may be dy. */
function mapGradients(
  x: Operand,
  dy: Operand,
  dx: Operand,
  t: Terms,
  flow: Flow,
  parts: readonly Part[],
  work: Workspace,
): void {
  const { heap, kernels: k } = x;
  const { coefficients, parameters } = work;
  let matrix = 0;
  for (const part of parts) {
    if (part.from === 0) {
      const { channels } = part.g;
      const at = (pointer: number) => pointer + part.channel * 8;
      const gamma = t.gamma ? work.gamma + part.channel * k.bytes : 0;
      const statistics = [
        at(work.mean),
        at(work.invStd),
        flow.separate ? 0 : gamma,
        at(work.dGamma),
        at(work.dBeta),
      ] as const;
      let rows = 4;
      if (flow.count === 0) {
        k.affineCoefficients(coefficients, 0, at(work.invStd), gamma, 0, channels);
        rows = 3;
      } else {
        const more = coefficients + 4 * channels * k.bytes;
        if (flow.fused) {
          affineMatrix(k, work, t, part);
          k.copy(heap, more, coefficients + 2 * channels * k.bytes, channels);
          rows = 5;
        }
        k.gradientCoefficients(coefficients, ...statistics, flow.count, channels);
        if (flow.separate) {
          if (gamma) k.copy(heap, more, gamma, channels);
          else k.write(heap, more, new Float64Array(channels).fill(1));
          rows = 5;
        }
      }
      matrix = perColumn(k, coefficients, work.columnCoefficients, rows, part.g);
    }
    const source = dy.load(part);
    const target = dx.target(source);
    if (flow.count === 0) k.affine(source, target, matrix, part);
    else if (flow.separate) k.scaledGradient(x.load(part), source, target, matrix, part);
    else if (flow.fused) k.gradientActivated(x.load(part), source, target, matrix, t.activation.code, parameters, part);
    else k.gradient(x.load(part), source, target, matrix, part);
    dy.unload(dx, part);
  }
}

/** Brings what the backward functions share. */
function bringBackward(x: Operand, t: Terms): Workspace {
  const work = bring(x, t);
  x.kernels.write(x.heap, work.pivot, t.mean);
  return work;
}

function readSums({ f64 }: Heap, work: Workspace, into: GradientSums | undefined): void {
  if (!into) return;
  const { length } = into.dGamma;
  into.dGamma.set(f64.subarray(work.dGamma / 8, work.dGamma / 8 + length));
  into.dBeta.set(f64.subarray(work.dBeta / 8, work.dBeta / 8 + length));
}

/** dGamma and dBeta of a batch. */
export function gradientSums(x: Operand, dy: Operand, t: Terms, fused: boolean, into: GradientSums | undefined): void {
  if (x.g.length === 0) return;
  const work = bringBackward(x, t);
  for (const parts of x.groups) sumGradients(x, dy, t, fused, parts, work);
  readSums(x.heap, work, into);
}

/** dx from given sums; none where statistics are constants. */
export function gradientMap(
  x: Operand,
  dy: Operand,
  dx: Operand,
  t: Terms,
  sums: GradientSums | undefined,
  flow: Flow,
): void {
  if (x.g.length === 0) return;
  const work = bringBackward(x, t);
  if (sums) {
    x.heap.f64.set(sums.dGamma, work.dGamma / 8);
    x.heap.f64.set(sums.dBeta, work.dBeta / 8);
  }
  mapGradients(x, dy, dx, t, flow, x.parts, work);
}

/** Both, group by group, so that arrays pass through a tile once. */
export function differentiate(
  x: Operand,
  dy: Operand,
  dx: Operand,
  t: Terms,
  flow: Flow,
  into: GradientSums | undefined,
): void {
  if (x.g.length === 0) return;
  const work = bringBackward(x, t);
  for (const parts of x.groups) {
    sumGradients(x, dy, t, flow.fused, parts, work);
    mapGradients(x, dy, dx, t, flow, parts, work);
  }
  readSums(x.heap, work, into);
}

/** What `combine` multiplies its sources with, float64, [C]. */
export interface Coefficients {
  readonly xHat: Float64Array;
  readonly b: Float64Array;
  readonly c: Float64Array;
  readonly shift: Float64Array;
}

/** float32's smallest normal number, and what is too large for it. */
const SMALLEST = 2 ** -126;
const TOO_LARGE = 2 ** 128;

/**
 * Divides the coefficients of every channel in which one leaves float32's range by a power of two near its result's
 * size, x̂ being near 1; returns the powers, if there are any but 1. Coefficients of x̂ hold invStd up to three times.
 */
function bringIntoRange({ xHat, b, c, shift }: Coefficients, scale: Float64Array): Float64Array | undefined {
  let powers: Float64Array | undefined;
  for (let i = 0; i < scale.length; i++) {
    const outside = [scale, b, c, shift].some((row) => {
      const size = Math.abs(row[i] as number);
      return size > 0 && (size < SMALLEST || (size >= TOO_LARGE && size < Infinity));
    });
    const size = Math.max(Math.abs(xHat[i] as number), Math.abs(shift[i] as number));
    if (!outside || !(size > 0 && size < Infinity)) continue;
    const power = 2 ** Math.min(Math.max(Math.round(Math.log2(size)), -126), 127);
    for (const row of [scale, b, c, shift]) row[i] = (row[i] as number) / power;
    powers ??= new Float64Array(scale.length).fill(1);
    powers[i] = power;
  }
  return powers;
}

/** y = x̂·xHat + b·b + c·c + shift, with x̂ = (x − mean)·invStd. Operands of one kind, of which any may be another. */
export function combine(
  x: Operand,
  b: Operand,
  c: Operand,
  y: Operand,
  { mean, invStd }: Pick<Terms, "mean" | "invStd">,
  of: Coefficients,
): void {
  const { g, heap, kernels: k } = x;
  if (g.length === 0) return;
  const work = heap.workspace.reserve(g);
  const hi = k.wide ? mean : mean.map(Math.fround);
  const own = { ...of, b: of.b.slice(), c: of.c.slice(), shift: of.shift.slice() };
  const scale = of.xHat.map((v, i) => v * (invStd[i] as number));
  for (let i = 0; i < scale.length; i++)
    own.shift[i] = (own.shift[i] as number) - ((mean[i] as number) - (hi[i] as number)) * (scale[i] as number);
  const powers = k.wide ? undefined : bringIntoRange(own, scale);
  const matrix = ({ channel, g: { channels } }: Part, rows: readonly Float64Array[]) => {
    for (const [r, row] of rows.entries())
      k.write(heap, work.coefficients + r * channels * k.bytes, row.subarray(channel, channel + channels));
  };
  const none = new Float64Array(g.channels);
  for (const part of x.parts) {
    matrix(part, [hi, scale, own.shift, own.b, own.c]);
    let columns = perColumn(k, work.coefficients, work.columnCoefficients, 5, part.g);
    const source = x.load(part);
    const target = y.target(source);
    k.combination(source, b.load(part), c.load(part), target, columns, part);
    if (powers) {
      matrix(part, [none, powers, none]);
      columns = perColumn(k, work.coefficients, work.columnCoefficients, 3, part.g);
      k.affine(target, target, columns, part);
    }
    x.unload(y, part);
  }
}
