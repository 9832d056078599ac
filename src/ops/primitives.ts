// The two primitives on operands: sums over the channels of a batch, and the maps that follow from them. Everything
// that normalises is made of these; docs/concepts/derivation.md numbers the terms.

import type { Heap } from "../memory/heap.ts";
import type { KernelOperand, Tile } from "../memory/operand.ts";
import { copyRange } from "../memory/transfer.ts";
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
  sumsInF64,
  sumUnits,
  unitsAgain,
} from "../wasm/kernels.ts";
import { type Activation, fusesBackward } from "./activation.ts";

/** The statistics of a batch, float64, [C] each. */
export interface Statistics {
  readonly mean: Float64Array;
  /** The biased variance, a sum divided by the count. */
  readonly variance: Float64Array;
  /** 1/√(variance + epsilon), and 0 where both are 0. */
  readonly invStd: Float64Array;
}

/** Statistics that are zeros. */
export const emptyStatistics = (channels: number): Statistics => ({
  mean: new Float64Array(channels),
  variance: new Float64Array(channels),
  invStd: new Float64Array(channels),
});

/** The vectors and the activation of the map y = f(gamma·(x − mean)·invStd + beta + residual), [C] each. */
export interface Terms {
  readonly mean: Float64Array;
  readonly invStd: Float64Array;
  readonly gamma: Vector | null;
  readonly beta: Vector | null;
  readonly activation: Activation;
}

/** dGamma = Σ dz·x̂ and dBeta = Σ dz of a batch, float64, [C] each. */
export interface GradientSums {
  /** The gradient of gamma, Σ dy·x̂ over the values of a channel, [C]. */
  readonly dGamma: Float64Array;
  /** The gradient of beta, Σ dy over the values of a channel, [C]. */
  readonly dBeta: Float64Array;
}

/** Sums of gradients that are zeros: [C], or [N·C] for scale and shift per sample. */
export const emptyGradientSums = (length: number): GradientSums => ({
  dGamma: new Float64Array(length),
  dBeta: new Float64Array(length),
});

/** The weights of a batch's positions in wasm memory (assembly/kernels/weights.ts). */
export interface Weights {
  /** The address of the weights of the first image. */
  readonly pointer: number;
  /** The bytes of the weights of an image. */
  readonly rowBytes: number;
  /** By how much the caller's weights are multiplied, so that their sum is the number of positions. */
  readonly scale: number;
  /** Writes the pivots of the channels of some tiles. */
  pivots(x: KernelOperand, tiles: readonly Range[]): void;
}

/**
 * Runs of neighbouring channels that the latest statistics marked as unreliable, so that a run is summed again at once.
 */
function* unreliableRuns(heap: Heap, plan: Plan, channels: Range): Generator<Range> {
  const isUnreliable = (channel: number) => heap.u8[plan.unreliable + channel] !== 0;
  for (let { begin } = channels; begin < channels.end; begin++) {
    if (!isUnreliable(begin)) continue;
    let end = begin + 1;
    while (end < channels.end && isUnreliable(end)) end++;
    yield { begin, end };
    begin = end;
  }
}

/**
 * Computes the sums of all channels of some tiles, and from them the statistics in the plan's vectors:
 *
 *   1  sums, in the precision of the plan
 *   2  statistics, which mark channels whose sums are unreliable
 *   3  sums and statistics of those channels again: float32 in float64, float64 about a better pivot
 *
 * With weights the sums of float32 are in float64 at once. Returns the number of channels of step 3.
 */
function sumWithRetry(
  x: KernelOperand,
  dy: KernelOperand | undefined,
  plan: Plan,
  wanted: number,
  activation: number,
  epsilon: number,
  tiles: readonly Tile[],
  weights: Weights | undefined,
  derive?: Derive,
): number {
  const { heap, kernels } = x;
  const channels = channelsOf(plan, tiles);
  const operation = weights && !kernels.isFloat64 ? wanted + AGAIN : wanted;
  const sum = (number: number, tile: Tile, units: Range) =>
    kernels.sums(plan, number, activation, x.load(tile), dy ? dy.load(tile) : 0, units, weights?.pointer);
  for (const tile of tiles) {
    derive?.(tile);
    sum(operation, tile, weights ? tile : sumUnits(plan, tile));
  }
  const unreliable = kernels.statistics(plan, operation, epsilon, channels);
  if (unreliable === 0) return 0;
  const again = operation + AGAIN;
  const runs = kernels.isFloat64 ? [channels] : [...unreliableRuns(heap, plan, channels)];
  for (const run of runs) {
    for (const tile of tiles) for (const units of unitsAgain(plan, tile, run)) sum(again, tile, units);
    kernels.statistics(plan, again, epsilon, run);
  }
  return unreliable;
}

/**
 * Calls `visit` with lists of tiles that cover x and share no channel. With a pool, the phases may run later, and end
 * early on tiles that have unreliable channels. `visit` is called `again` for such tiles, on which no map of sums has run.
 */
function visitIndependent(x: KernelOperand, visit: (tiles: readonly Tile[], again: boolean) => void): void {
  for (const tiles of x.independentTiles) {
    const rest = x.kernels.pool?.together(x.plan, () => visit(tiles, false));
    if (!rest) visit(tiles, false);
    else for (const tile of rest) visit([tile], true);
  }
}

/** Copies the first elements of a vector of a plan. */
function readVector({ f64 }: Heap, pointer: number, into: Float64Array): void {
  copyRange(f64, pointer / 8, into, 0, into.length);
}

/** Copies a vector to a float64 vector of a plan. */
function writeVector({ f64 }: Heap, pointer: number, values: Float64Array): void {
  copyRange(values, 0, f64, pointer / 8, values.length);
}

/** Copies a vector to a vector of a plan whose elements are of the type of the call. */
function writeElements({ heap, kernels }: KernelOperand, pointer: number, values: Vector): void {
  copyRange(values, 0, kernels.isFloat64 ? heap.f64 : heap.f32, pointer / kernels.bytes, values.length);
}

/**
 * Computes mean, biased variance and invStd (docs/concepts/derivation.md, F1 to F5) of x, which has values, and also y if it is
 * given: for a few channels at a time where the layout allows it, so that arrays pass through wasm memory once, and
 * tensors come from memory once. `terms` are those of y, whose mean and invStd are `into`. Returns whether the blocked
 * sums of all channels were reliable. All statistics are finite then. `weights` are those of the positions of x.
 */
export function batchStatistics(
  x: KernelOperand,
  epsilon: number,
  into: Statistics,
  y?: KernelOperand,
  residual?: KernelOperand,
  terms?: Terms,
  weights?: Weights,
): boolean {
  const { heap, kernels, plan } = x;
  const uploaded = y && terms && uploadParameters(x, terms);
  let reliable = !weights && !sumsInF64(plan);
  visitIndependent(x, (tiles) => {
    if (weights) weights.pivots(x, tiles);
    else kernels.pivots(plan, x.load(tiles[0] as Range), channelsOf(plan, tiles));
    if (sumWithRetry(x, undefined, plan, MOMENTS, 0, epsilon, tiles, weights)) reliable = false;
    if (y && uploaded) mapAffine(x, residual, y, uploaded, tiles);
  });
  readVector(heap, plan.mean, into.mean);
  readVector(heap, plan.variance, into.variance);
  readVector(heap, plan.invStd, into.invStd);
  return reliable;
}

/** Computes invStd from variances (docs/concepts/derivation.md, F5). */
export function invStdOf(variance: ArrayLike<number>, epsilon: number, into: Float64Array): void {
  for (let c = 0; c < into.length; c++) {
    const v = (variance[c] as number) + epsilon;
    into[c] = v === 0 ? 0 : 1 / Math.sqrt(v);
  }
}

/**
 * A plan, the addresses of gamma and beta in its vectors, and the number of the activation. An address is 0 if there is
 * no such vector.
 */
interface UploadedTerms {
  readonly plan: Plan;
  readonly activation: number;
  readonly gamma: number;
  readonly beta: number;
}

/** Copies mean, invStd, gamma, beta and the parameters of the activation to the vectors of the plan. */
function uploadTerms(x: KernelOperand, terms: Terms): UploadedTerms {
  const { heap, plan } = x;
  writeVector(heap, plan.mean, terms.mean);
  writeVector(heap, plan.invStd, terms.invStd);
  return uploadParameters(x, terms);
}

/** Copies gamma, beta and the parameters of the activation to the vectors of the plan. */
function uploadParameters(x: KernelOperand, terms: Terms): UploadedTerms {
  const { heap, kernels, plan } = x;
  if (terms.gamma) writeElements(x, plan.gamma, terms.gamma);
  if (terms.beta) writeElements(x, plan.beta, terms.beta);
  const { code, slope, cap } = terms.activation;
  if (code) (kernels.isFloat64 ? heap.f64 : heap.f32).set([slope, cap], plan.parameters / kernels.bytes);
  return { plan, activation: code, gamma: terms.gamma ? plan.gamma : 0, beta: terms.beta ? plan.beta : 0 };
}

/** Computes the coefficients of the affine map (F6) of some channels. */
function affineCoefficients({ kernels }: KernelOperand, { plan, gamma, beta }: UploadedTerms, channels: Range): void {
  kernels.coefficients(plan, AFFINE, false, gamma, beta, 0, channels);
}

/** Computes y of some tiles from the plan's mean and invStd (F6, F7), or their product with b. */
function mapAffine(
  x: KernelOperand,
  residual: KernelOperand | undefined,
  y: KernelOperand,
  uploaded: UploadedTerms,
  tiles: readonly Tile[],
  map = AFFINE,
): void {
  affineCoefficients(x, uploaded, channelsOf(uploaded.plan, tiles));
  for (const tile of tiles) {
    const source = x.load(tile);
    const operands = { x: source, b: residual ? residual.load(tile) : 0, y: y.target(source) };
    x.kernels.map(x.planOf(tile), map, uploaded.activation, operands, tile);
    x.unload(y, tile);
  }
}

/**
 * Computes y = f(gamma·(x − mean)·invStd + beta + residual) (F6, F7). All operands are tensors or all are arrays. y may
 * be x or the residual. Map PRODUCT is for interleaved operands: it multiplies by `residual`, and has no activation.
 */
export function normalize(
  x: KernelOperand,
  residual: KernelOperand | undefined,
  y: KernelOperand,
  terms: Terms,
  map?: number,
): void {
  if (x.geometry.length === 0) return;
  mapAffine(x, residual, y, uploadTerms(x, terms), x.tiles, map);
}

/** Computes dz = dy·f′(z) of a tile, from the coefficients of the affine map in the plan's vectors. */
export type Derive = (tile: Tile) => void;

/** Returns the computation of dz = dy·f′(z), where z is forward's value before its activation. dz may be dy. */
export function derivationOf(
  x: KernelOperand,
  residual: KernelOperand | undefined,
  dy: KernelOperand,
  dz: KernelOperand,
  { activation }: Terms,
): Derive {
  return (tile) => {
    const source = dy.load(tile);
    const operands = { x: x.load(tile), b: source, c: residual ? residual.load(tile) : 0, y: dz.target(source) };
    x.kernels.map(x.planOf(tile), DERIVATIVE, activation.code, operands, tile);
    dy.unload(dz, tile);
  };
}

/** Computes dz = dy·f′(z), where z is forward's value before its activation. dz may be dy. */
export function differentiateActivation(
  x: KernelOperand,
  residual: KernelOperand | undefined,
  dy: KernelOperand,
  dz: KernelOperand,
  terms: Terms,
): void {
  if (x.geometry.length === 0) return;
  const uploaded = uploadTerms(x, terms);
  affineCoefficients(x, uploaded, channelsOf(uploaded.plan, x.tiles));
  x.tiles.forEach(derivationOf(x, residual, dy, dz, terms));
}

/** Copies elements that pass through tiles, and rounds them if the target has 16 bits. */
export function copy(source: KernelOperand, target: KernelOperand): void {
  if (source.geometry.length === 0) return; // the tile of an empty operand has no length of use
  for (const tile of source.tiles) {
    source.load(tile);
    source.unload(target, tile);
  }
}

/** Whether the kernels of sums and dx take the activation's derivative themselves, so that no dz is written. */
export const fuses = (residual: unknown, activation: Activation): boolean => !residual && fusesBackward(activation);

/**
 * Computes dBeta and dGamma (B1 to B3) of the channels of some tiles in the plan's vectors. `dy` is dz, unless the
 * kernels take the activation's derivative (`fused`). `derive` computes dz a piece at a time, which the sums then read
 * from cache.
 */
function sumGradients(
  x: KernelOperand,
  dy: KernelOperand,
  terms: Terms,
  fused: boolean,
  tiles: readonly Tile[],
  uploaded: UploadedTerms,
  weights: Weights | undefined,
  derive: Derive | undefined,
): void {
  const { plan } = uploaded;
  affineCoefficients(x, uploaded, channelsOf(plan, tiles));
  const activation = fused ? terms.activation.code : 0;
  const pieces = derive ? x.piecesOf(tiles) : tiles;
  sumWithRetry(x, dy, plan, GRADIENTS, activation, 0, pieces, weights, derive);
}

/** How dx follows from dy. */
interface GradientFlow {
  /** Values per channel behind the statistics; 0 if they are constants, so that dx = gamma·invStd·dy. */
  readonly count: number;
  /** Whether gamma varies within the values of one statistic, as with scale per sample and in group norm. */
  readonly gammaVaries: boolean;
  /** Whether the kernels take the activation's derivative. */
  readonly fused: boolean;
  /** The weights of the positions. With them, gamma does not vary and no kernel takes the activation's derivative. */
  readonly weights?: Weights | undefined;
}

/** Computes dx of some tiles from the sums in the plan's vectors (B4 to B6). dx may be dy. */
function mapGradients(
  x: KernelOperand,
  dy: KernelOperand,
  dx: KernelOperand,
  terms: Terms,
  { count, gammaVaries, fused, weights }: GradientFlow,
  tiles: readonly Tile[],
  { plan, gamma, beta }: UploadedTerms,
): void {
  const { kernels } = x;
  const map = count === 0 ? CONSTANT_GRADIENT : gammaVaries ? SCALED_GRADIENT : GRADIENT;
  kernels.coefficients(plan, map, fused, gamma, beta, count * (weights?.scale ?? 1), channelsOf(plan, tiles));
  for (const tile of tiles) {
    const source = dy.load(tile);
    const y = dx.target(source);
    if (count === 0) kernels.map(x.planOf(tile), map, 0, { x: source, y }, tile);
    else {
      const activation = fused ? terms.activation.code : 0;
      const c = weights ? weights.pointer + (tile.images?.begin ?? 0) * weights.rowBytes : 0;
      kernels.map(x.planOf(tile), map, activation, { x: x.load(tile), b: source, c, y }, tile);
    }
    dy.unload(dx, tile);
  }
}

/** Copies the sums of gradients from the plan's vectors. */
function readSums(heap: Heap, plan: Plan, into: GradientSums | undefined): void {
  if (!into) return;
  readVector(heap, plan.dGamma, into.dGamma);
  readVector(heap, plan.dBeta, into.dBeta);
}

/** Computes dGamma and dBeta of a batch. `derive` computes dz, which is `dy`, first. */
export function gradientSums(
  x: KernelOperand,
  dy: KernelOperand,
  terms: Terms,
  fused: boolean,
  into: GradientSums | undefined,
  weights?: Weights,
  derive?: Derive,
): void {
  if (x.geometry.length === 0) return;
  const uploaded = uploadTerms(x, terms);
  visitIndependent(x, (tiles, again) =>
    sumGradients(x, dy, terms, fused, tiles, uploaded, weights, again ? undefined : derive),
  );
  readSums(x.heap, uploaded.plan, into);
}

/** Computes dx from sums, which are not needed if the statistics are constants. */
export function gradientMap(
  x: KernelOperand,
  dy: KernelOperand,
  dx: KernelOperand,
  terms: Terms,
  sums: GradientSums | undefined,
  flow: GradientFlow,
): void {
  if (x.geometry.length === 0) return;
  const uploaded = uploadTerms(x, terms);
  if (sums) {
    writeVector(x.heap, uploaded.plan.dGamma, sums.dGamma);
    writeVector(x.heap, uploaded.plan.dBeta, sums.dBeta);
  }
  mapGradients(x, dy, dx, terms, flow, x.tiles, uploaded);
}

/**
 * Computes dGamma, dBeta and dx, for a few channels at a time where the layout allows it, so that arrays pass through
 * once. `derive` computes dz, which is `dy`, first.
 */
export function differentiate(
  x: KernelOperand,
  dy: KernelOperand,
  dx: KernelOperand,
  terms: Terms,
  flow: GradientFlow,
  into: GradientSums | undefined,
  derive?: Derive,
): void {
  if (x.geometry.length === 0) return;
  const uploaded = uploadTerms(x, terms);
  visitIndependent(x, (tiles, again) => {
    sumGradients(x, dy, terms, flow.fused, tiles, uploaded, flow.weights, again ? undefined : derive);
    mapGradients(x, dy, dx, terms, flow, tiles, uploaded);
  });
  readSums(x.heap, uploaded.plan, into);
}

/** The factors of `combine`, float64, [C] each. */
export interface Coefficients {
  readonly xHat: Float64Array;
  readonly b: Float64Array;
  readonly c: Float64Array;
  readonly shift: Float64Array;
}

/** The smallest normal number of float32, and the largest number. */
const [SMALLEST, LARGEST] = [2 ** -126, 2 ** 128 - 2 ** 104];

/** Returns the nearest number that float32 holds: an infinite factor would make NaN of a 0. Infinity stays infinite. */
const withinFloat32 = (v: number): number => (Math.abs(v) < Infinity ? Math.min(Math.max(v, -LARGEST), LARGEST) : v);

/**
 * Divides the coefficients of a channel by a power of two if one of them leaves the range of float32. Returns the powers,
 * or undefined if all are 1. Coefficients of x̂ contain invStd up to three times.
 *
 * A power above 1 keeps large quotients finite. One below 1 keeps the digits of small ones, and is no smaller than that
 * takes, since the other products have to stay finite, too: b and c may be multiplied with numbers of any size.
 */
function rescaleToFloat32({ xHat, b, c, shift }: Coefficients, scale: Float64Array): Float64Array | undefined {
  let powers: Float64Array | undefined;
  for (let i = 0; i < scale.length; i++) {
    const sizeOf = (row: Float64Array) => Math.abs(row[i] as number);
    const [ofX, ofB, ofC, ofShift, ofXHat] = [sizeOf(scale), sizeOf(b), sizeOf(c), sizeOf(shift), sizeOf(xHat)];
    const isOutside = (size: number) => size > 0 && (size < SMALLEST || (size > LARGEST && size < Infinity));
    if (![ofX, ofB, ofC, ofShift].some(isOutside)) continue;
    const terms = Math.max(ofXHat, ofShift);
    const large = Math.max(terms, ofX, ofB, ofC) / 2 ** 126;
    // b or c is too small to be noticed beside the terms if that is so for the product with the largest number
    const limits = [ofB, ofC].filter((size) => size > 0 && size * 2 ** 152 > terms).map((size) => size / SMALLEST);
    // a scale that loses digits changes y by as much as x − hi is, which is near 1 / invStd
    if (ofX > 0) limits.push(Math.max(ofX / SMALLEST, ofX / ofXHat));
    const small = Math.min(1, ...limits);
    const power = 2 ** Math.min(Math.max(Math.floor(Math.log2(Math.max(large, small))), -126), 127);
    for (const row of [scale, b, c, shift]) row[i] = withinFloat32((row[i] as number) / power);
    powers ??= new Float64Array(scale.length).fill(1);
    powers[i] = power;
  }
  return powers;
}

/**
 * Computes y = x̂·coefficients.xHat + b·coefficients.b + c·coefficients.c + coefficients.shift, where x̂ = (x −
 * mean)·invStd. Any operand may be another. Overwrites the coefficients.
 */
export function combine(
  x: KernelOperand,
  b: KernelOperand,
  c: KernelOperand,
  y: KernelOperand,
  { mean, invStd }: Pick<Terms, "mean" | "invStd">,
  coefficients: Coefficients,
): void {
  const { geometry, kernels } = x;
  if (geometry.length === 0) return;
  const hi = kernels.isFloat64 ? mean : mean.map(Math.fround);
  const { xHat, b: ofB, c: ofC, shift } = coefficients;
  const scale = xHat.map((v, i) => v * (invStd[i] as number));
  for (let i = 0; i < scale.length; i++)
    shift[i] = (shift[i] as number) - ((mean[i] as number) - (hi[i] as number)) * (scale[i] as number);
  const powers = kernels.isFloat64 ? undefined : rescaleToFloat32(coefficients, scale);
  const { plan } = x;
  const write = (rows: readonly Float64Array[]) => {
    for (const [r, row] of rows.entries()) writeElements(x, plan.coefficients + r * plan.columns * kernels.bytes, row);
    kernels.coefficients(plan, COMBINATION, false, 0, 0, 0, channelsOf(plan, x.tiles));
  };
  const none = new Float64Array(geometry.channels);
  const rows = [hi, scale, shift, ofB, ofC];
  if (!powers) write(rows);
  for (const tile of x.tiles) {
    if (powers) write(rows);
    const source = x.load(tile);
    const target = y.target(source);
    kernels.map(x.planOf(tile), COMBINATION, 0, { x: source, b: b.load(tile), c: c.load(tile), y: target }, tile);
    if (powers) {
      write([none, powers, none]);
      kernels.map(x.planOf(tile), AFFINE, 0, { x: target, y: target }, tile);
    }
    x.unload(y, tile);
  }
}
