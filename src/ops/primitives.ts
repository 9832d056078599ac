// The two primitives on operands: sums over the channels of a batch, and the maps that follow from them. Everything that
// normalises is made of these; docs/batchnorm.md numbers the terms.

import type { Heap } from "../memory/heap.ts";
import type { KernelOperand } from "../memory/operand.ts";
import type { Vector } from "../tensor/dtype.ts";
import {
  AFFINE,
  AGAIN,
  COMBINATION,
  CONSTANT_GRADIENT,
  channelsOf,
  DERIVATIVE,
  GRADIENT,
  GRADIENTS,
  MOMENTS,
  type Plan,
  type Range,
  SCALED_GRADIENT,
  sumUnits,
  unitsAgain,
} from "../wasm/kernels.ts";
import { type Activation, fusesBackward } from "./activation.ts";

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

/** Sums of gradients that are zeros: [C], or [N·C] for scale and shift per sample. */
export const emptyGradientSums = (length: number): GradientSums => ({
  dGamma: new Float64Array(length),
  dBeta: new Float64Array(length),
});

/** Runs of channels that the latest statistics marked as unreliable, so that neighbours are summed again together. */
function* unreliableRuns(heap: Heap, plan: Plan, all: Range): Generator<Range> {
  const at = plan.unreliable;
  for (let { begin } = all; begin < all.end; begin++) {
    if (!heap.u8[at + begin]) continue;
    let end = begin + 1;
    while (end < all.end && heap.u8[at + end]) end++;
    yield { begin, end };
    begin = end;
  }
}

/**
 * Takes sums of all channels of some tiles, and turns them into statistics in the plan's vectors:
 *
 *   1  sums, in the precision of the plan
 *   2  statistics, which mark channels whose sums are unreliable
 *   3  sums and statistics of those channels again: float32 in float64, float64 about a better pivot
 */
function sumWithRetry(
  { heap, kernels }: KernelOperand,
  plan: Plan,
  operation: number,
  epsilon: number,
  tiles: readonly Range[],
  sum: (operation: number, tile: Range, units: Range) => void,
): void {
  const channels = channelsOf(plan, tiles);
  for (const tile of tiles) sum(operation, tile, sumUnits(plan, tile));
  if (kernels.statistics(plan, operation, epsilon, channels) === 0) return;
  const again = operation + AGAIN;
  const runs = kernels.isFloat64 ? [channels] : [...unreliableRuns(heap, plan, channels)];
  for (const run of runs) {
    for (const tile of tiles) for (const units of unitsAgain(plan, tile, run)) sum(again, tile, units);
    kernels.statistics(plan, again, epsilon, run);
  }
}

/** mean, biased variance and invStd (docs/batchnorm.md, F1 to F5) of the channels of some tiles that have values. */
export function batchStatistics(x: KernelOperand, epsilon: number, into: Statistics, tiles: readonly Range[]): void {
  const { heap, kernels, plan } = x;
  const channels = channelsOf(plan, tiles);
  kernels.pivots(plan, x.load(tiles[0] as Range), channels);
  sumWithRetry(x, plan, MOMENTS, epsilon, tiles, (operation, tile, units) =>
    kernels.sums(plan, operation, 0, x.load(tile), 0, units),
  );
  const { begin, end } = channels;
  const f64 = (pointer: number) => heap.f64.subarray(pointer / 8 + begin, pointer / 8 + end);
  into.mean.set(f64(plan.mean), begin);
  into.variance.set(f64(plan.variance), begin);
  into.invStd.set(f64(plan.invStd), begin);
}

/** invStd of given variances (docs/batchnorm.md, F5). */
export function invStdOf(variance: ArrayLike<number>, epsilon: number, into: Float64Array): void {
  for (let c = 0; c < into.length; c++) {
    const v = (variance[c] as number) + epsilon;
    into[c] = v === 0 ? 0 : 1 / Math.sqrt(v);
  }
}

/** A plan, with the addresses of gamma and beta in its vectors, 0 for none. */
interface Prepared {
  readonly plan: Plan;
  readonly gamma: number;
  readonly beta: number;
}

/** Copies mean, invStd, gamma, beta and the activation's parameters to the vectors of the plan. */
function uploadTerms(x: KernelOperand, t: Terms): Prepared {
  const { heap, kernels, plan } = x;
  heap.f64.set(t.mean, plan.mean / 8);
  heap.f64.set(t.invStd, plan.invStd / 8);
  if (t.gamma) kernels.write(heap, plan.gamma, t.gamma);
  if (t.beta) kernels.write(heap, plan.beta, t.beta);
  const { code, slope, floor, ceiling } = t.activation;
  if (code) kernels.write(heap, plan.parameters, [slope, floor, ceiling]);
  return { plan, gamma: t.gamma ? plan.gamma : 0, beta: t.beta ? plan.beta : 0 };
}

/** Computes the coefficients of an affine map (F6) of some channels. */
function affineCoefficients({ kernels }: KernelOperand, { plan, gamma, beta }: Prepared, channels: Range): void {
  kernels.coefficients(plan, AFFINE, false, gamma, beta, 0, channels);
}

/**
 * y = f(gamma·(x − mean)·invStd + beta + residual) (F6, F7). Operands of one kind; y may be x, and the residual may be y.
 */
export function normalize(
  x: KernelOperand,
  residual: KernelOperand | undefined,
  y: KernelOperand,
  t: Terms,
  tiles?: readonly Range[],
): void {
  if (x.g.length === 0) return;
  const prepared = uploadTerms(x, t);
  const all = tiles ?? x.tiles;
  affineCoefficients(x, prepared, channelsOf(prepared.plan, all));
  for (const tile of all) {
    const source = x.load(tile);
    const operands = { x: source, b: residual ? residual.load(tile) : 0, y: y.target(source) };
    x.kernels.map(prepared.plan, AFFINE, t.activation.code, operands, tile);
    x.unload(y, tile);
  }
}

/** dz = dy·f′(z), z being forward's value before its activation; to an operand of dy's kind, which may be dy. */
export function differentiateActivation(
  x: KernelOperand,
  residual: KernelOperand | undefined,
  dy: KernelOperand,
  dz: KernelOperand,
  t: Terms,
): void {
  if (x.g.length === 0) return;
  const prepared = uploadTerms(x, t);
  affineCoefficients(x, prepared, channelsOf(prepared.plan, x.tiles));
  for (const tile of x.tiles) {
    const source = dy.load(tile);
    const operands = { x: x.load(tile), b: source, c: residual ? residual.load(tile) : 0, y: dz.target(source) };
    x.kernels.map(prepared.plan, DERIVATIVE, t.activation.code, operands, tile);
    dy.unload(dz, tile);
  }
}

/** Rounds or copies elements that pass through tiles. */
export function copy(source: KernelOperand, target: KernelOperand): void {
  if (source.g.length === 0) return;
  for (const tile of source.tiles) {
    source.load(tile);
    source.unload(target, tile);
  }
}

/** Whether sums and dx take the activation's derivative on the way, so that no dz is written. */
export const fuses = (residual: unknown, activation: Activation): boolean => !residual && fusesBackward(activation);

/**
 * dBeta and dGamma (B1 to B3) of the channels of some tiles, into the plan's vectors. `dy` is dz, or dy itself where the
 * activation is `fused`.
 */
function sumGradients(
  x: KernelOperand,
  dy: KernelOperand,
  t: Terms,
  fused: boolean,
  tiles: readonly Range[],
  prepared: Prepared,
): void {
  const { plan } = prepared;
  const activation = fused ? t.activation.code : 0;
  affineCoefficients(x, prepared, channelsOf(plan, tiles));
  sumWithRetry(x, plan, GRADIENTS, 0, tiles, (operation, tile, units) =>
    x.kernels.sums(plan, operation, activation, x.load(tile), dy.load(tile), units),
  );
}

/** How dx follows from dy. */
interface GradientFlow {
  /** Values per channel that the statistics are of; 0 where they are constants, so that dx = gamma·invStd·dy. */
  readonly count: number;
  /** Whether gamma differs within the values of one statistic, as with conditional scale and in group norm. */
  readonly separate: boolean;
  readonly fused: boolean;
}

/** dx of some tiles, from the sums in the plan's vectors (B4 to B6). dx may be dy. */
function mapGradients(
  x: KernelOperand,
  dy: KernelOperand,
  dx: KernelOperand,
  t: Terms,
  { count, separate, fused }: GradientFlow,
  tiles: readonly Range[],
  { plan, gamma, beta }: Prepared,
): void {
  const { kernels } = x;
  const map = count === 0 ? CONSTANT_GRADIENT : separate ? SCALED_GRADIENT : GRADIENT;
  kernels.coefficients(plan, map, fused, gamma, beta, count, channelsOf(plan, tiles));
  for (const tile of tiles) {
    const source = dy.load(tile);
    const y = dx.target(source);
    if (count === 0) kernels.map(plan, map, 0, { x: source, y }, tile);
    else kernels.map(plan, map, fused ? t.activation.code : 0, { x: x.load(tile), b: source, y }, tile);
    dy.unload(dx, tile);
  }
}

function readSums({ f64 }: Heap, plan: Plan, into: GradientSums | undefined): void {
  if (!into) return;
  const { length } = into.dGamma;
  into.dGamma.set(f64.subarray(plan.dGamma / 8, plan.dGamma / 8 + length));
  into.dBeta.set(f64.subarray(plan.dBeta / 8, plan.dBeta / 8 + length));
}

/** dGamma and dBeta of a batch. */
export function gradientSums(
  x: KernelOperand,
  dy: KernelOperand,
  t: Terms,
  fused: boolean,
  into: GradientSums | undefined,
): void {
  if (x.g.length === 0) return;
  const prepared = uploadTerms(x, t);
  for (const tiles of x.independentTiles) sumGradients(x, dy, t, fused, tiles, prepared);
  readSums(x.heap, prepared.plan, into);
}

/** dx from given sums; none where statistics are constants. */
export function gradientMap(
  x: KernelOperand,
  dy: KernelOperand,
  dx: KernelOperand,
  t: Terms,
  sums: GradientSums | undefined,
  flow: GradientFlow,
): void {
  if (x.g.length === 0) return;
  const prepared = uploadTerms(x, t);
  if (sums) {
    x.heap.f64.set(sums.dGamma, prepared.plan.dGamma / 8);
    x.heap.f64.set(sums.dBeta, prepared.plan.dBeta / 8);
  }
  mapGradients(x, dy, dx, t, flow, x.tiles, prepared);
}

/** dGamma, dBeta and dx, tile by tile where channels allow it, so that arrays pass through memory once. */
export function differentiate(
  x: KernelOperand,
  dy: KernelOperand,
  dx: KernelOperand,
  t: Terms,
  flow: GradientFlow,
  into: GradientSums | undefined,
): void {
  if (x.g.length === 0) return;
  const prepared = uploadTerms(x, t);
  for (const tiles of x.independentTiles) {
    sumGradients(x, dy, t, flow.fused, tiles, prepared);
    mapGradients(x, dy, dx, t, flow, tiles, prepared);
  }
  readSums(x.heap, prepared.plan, into);
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
function rescaleToFloat32({ xHat, b, c, shift }: Coefficients, scale: Float64Array): Float64Array | undefined {
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
  x: KernelOperand,
  b: KernelOperand,
  c: KernelOperand,
  y: KernelOperand,
  { mean, invStd }: Pick<Terms, "mean" | "invStd">,
  of: Coefficients,
): void {
  const { g, heap, kernels } = x;
  if (g.length === 0) return;
  const hi = kernels.isFloat64 ? mean : mean.map(Math.fround);
  const own = { ...of, b: of.b.slice(), c: of.c.slice(), shift: of.shift.slice() };
  const scale = of.xHat.map((v, i) => v * (invStd[i] as number));
  for (let i = 0; i < scale.length; i++)
    own.shift[i] = (own.shift[i] as number) - ((mean[i] as number) - (hi[i] as number)) * (scale[i] as number);
  const powers = kernels.isFloat64 ? undefined : rescaleToFloat32(own, scale);
  const { plan } = x;
  const write = (rows: readonly Float64Array[]) => {
    for (const [r, row] of rows.entries())
      kernels.write(heap, plan.coefficients + r * plan.columns * kernels.bytes, row);
    kernels.coefficients(plan, COMBINATION, false, 0, 0, 0, channelsOf(plan, x.tiles));
  };
  const none = new Float64Array(g.channels);
  const rows = [hi, scale, own.shift, own.b, own.c];
  if (!powers) write(rows);
  for (const tile of x.tiles) {
    if (powers) write(rows);
    const source = x.load(tile);
    const target = y.target(source);
    kernels.map(plan, COMBINATION, 0, { x: source, b: b.load(tile), c: c.load(tile), y: target }, tile);
    if (powers) {
      write([none, powers, none]);
      kernels.map(plan, AFFINE, 0, { x: target, y: target }, tile);
    }
    x.unload(y, tile);
  }
}
