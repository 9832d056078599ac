// Normalization by the statistics of each sample alone: instance, group, layer and RMS norm, as geometries over the two
// primitives (primitives.ts). docs/concepts/family.md has the equations.
//
// Statistics are of groups, scale and shift of channels. A group is C/G neighbouring channels of one sample, and layer
// norm is one group of each row of [rows, D], whose channels are the D elements:
//
//   channels first   | c0 … | c1 … | c2 … | c3 … |           channels last   | c0 c1 c2 c3 | c0 c1 c2 c3 | …
//                    |   group 0   |   group 1   |                           |  0  |   1   |  0  |   1   |
//
//   one map     x to y over channels, each with its group's mean and invStd. It serves where a channel of a sample is
//               long enough to be read as a plane, or is a group.
//   two maps    x to x̂ over groups, then x̂ to y over channels, which are columns there. It serves the rest, layer norm
//               above all.
//
// Work goes block by block through the cache. No bit of a group depends on the other groups of its block.

import { oneValuePerGroup, wrongKind, wrongShape, wrongValue } from "../common/errors.ts";
import { checkKeys, flag, isArray } from "../common/validate.ts";
import { checkOperand, checkOut, checkTensor, checkVector, copyParameter, overwrites } from "../memory/guards.ts";
import type { Heap } from "../memory/heap.ts";
import { CallScope, heapOf, KernelOperand, unlessView } from "../memory/operand.ts";
import { type AnyTensor, Tensor } from "../memory/tensor.ts";
import { oneRun, Room } from "../memory/transfer.ts";
import { checks } from "../memory/written.ts";
import { bitsOf, computeDtype, type Dtype, is16Bit, newVector, type Vector } from "../tensor/dtype.ts";
import { channelAxis, dimensions, type Geometry, MAX_CHANNELS, sameShape, sizeOf } from "../tensor/shape.ts";
import { layoutOption } from "../tensor/types.ts";
import { NONE } from "./activation.ts";
import {
  type BackwardOptions,
  batchNormBackward,
  type CoreNeeds,
  checkVectorsApart,
  commitGradients,
  type Gradients,
  type Needs,
  type SomeGradients,
  type VectorFor,
} from "./backward.ts";
import type { ForwardOptions, Parameters, Saved } from "./forward.ts";
import { epsilonOption } from "./options.ts";
import {
  batchStatistics,
  emptyGradientSums,
  type GradientSums,
  gradientMap,
  gradientSums,
  invStdOf,
  normalize,
  type Terms,
} from "./primitives.ts";

// ---- geometry -------------------------------------------------------------------------------------------------------

/** x as [samples, channels, inner], or as [samples, inner, channels] if `channelsLast`. */
interface NormGeometry {
  readonly samples: number;
  readonly channels: number;
  readonly inner: number;
  /** Groups of a sample. */
  readonly groups: number;
  readonly channelsLast: boolean;
}

/** Groups that are worked on together. */
interface Block {
  /** The first element of the block in x. */
  readonly offset: number;
  readonly length: number;
  /** The first group of the block, counted over all samples. */
  readonly first: number;
  /** The geometry whose channels are the groups. */
  readonly groups: Geometry;
  /** The geometry whose channels are x's; with one map, every channel of every sample is one of its own. */
  readonly channels: Geometry;
}

interface NormPlan extends NormGeometry {
  readonly blocks: readonly Block[];
  readonly twoMaps: boolean;
  readonly groupChannels: number;
  /** Values of a group. */
  readonly count: number;
}

/** Channels that lie one behind the other. A single one is summed as one of several would be. */
const planes = (channels: number, inner: number): Geometry => ({ ...dimensions(1, channels, inner), planes: true });

/**
 * Channels of a sample from this length on are mapped as planes, and groups of this length have blocks of full size. It
 * is the length from which a plane is walked as such (assembly/plan.ts, PLANAR_FROM).
 */
const LONG = 32;

/** Elements of a block at least. From 65,536 to 262,144 there is no difference (docs/concepts/family-measurements.md). */
const BLOCK = 131_072;

/** Elements of a block of short groups at least. Their statistics and coefficients take more memory than they do. */
const BLOCK_SHORT = 16_384;

/** Samples of a block of two maps at least. Computing their coefficients takes as long as mapping a sample. */
const BLOCK_SAMPLES = 32;

function planOf(geometry: NormGeometry): NormPlan {
  const { samples, channels, inner, groups, channelsLast } = geometry;
  const groupChannels = channels / groups;
  const count = groupChannels * inner;
  const twoMaps = !channelsLast && groupChannels > 1 && inner < LONG;
  // a block has whole groups, or whole samples
  const unit = channelsLast || twoMaps ? groups : 1;
  const size = unit * count;
  const units = size && (samples * groups) / unit;
  const least = count < LONG ? BLOCK_SHORT : BLOCK;
  const step = channelsLast ? 1 : Math.max(Math.ceil(least / size), twoMaps ? BLOCK_SAMPLES : 1);
  const blocks: Block[] = [];
  for (let begin = 0; begin < units; begin += step) {
    const n = Math.min(step, units - begin);
    const columns = channelsLast ? dimensions(inner, channels, 1) : dimensions(n, channels, inner);
    blocks.push({
      offset: begin * size,
      length: n * size,
      first: begin * unit,
      groups: channelsLast && groups > 1 ? dimensions(inner, groups, groupChannels) : planes(n * unit, count),
      channels: channelsLast || twoMaps ? columns : planes(n * groupChannels, inner),
    });
  }
  return { ...geometry, blocks, twoMaps, groupChannels, count };
}

/**
 * An operand block by block, in the type of the arithmetic. Tensors of float32 and float64 are used in place, and
 * everything else passes through room for one block. (A KernelOperand has tiles for that, but rounds to 16 bits after
 * every map.)
 */
class Blocks {
  readonly #heap: Heap;
  readonly #dtype: Dtype;
  readonly #size: number;
  readonly #value: AnyTensor | undefined;
  readonly #inPlace: boolean;
  #room: Room | undefined;

  /** Without `value` this is scratch of one block. */
  constructor(heap: Heap, dtype: Dtype, { blocks }: NormPlan, value?: AnyTensor) {
    this.#heap = heap;
    this.#dtype = dtype;
    this.#size = blocks[0]?.length ?? 0;
    this.#inPlace = value instanceof Tensor && !is16Bit(dtype);
    this.#value = value;
  }

  get #roomOfBlock(): Room {
    this.#room ??= new Room(this.#heap, this.#dtype, this.#size);
    return this.#room;
  }

  load({ offset, length }: Block): void {
    if (!this.#inPlace && this.#value)
      this.#roomOfBlock.load(bitsOf(this.#value.data), this.#dtype, length, oneRun(offset, length));
  }

  store({ offset, length }: Block): void {
    if (!this.#inPlace && this.#value)
      this.#roomOfBlock.store(bitsOf(this.#value.data), this.#dtype, length, oneRun(offset, length));
  }

  /** A block as the kernels see it, in one of the block's two geometries. */
  at({ offset }: Block, geometry: Geometry): KernelOperand {
    const dtype = computeDtype(this.#dtype);
    if (this.#inPlace) return new KernelOperand(this.#heap, this.#value as AnyTensor, geometry, dtype, offset);
    const room = new Tensor(this.#heap, [this.#size], this.#size, dtype, this.#roomOfBlock.pointer);
    return new KernelOperand(this.#heap, room, geometry, dtype);
  }

  dispose(): void {
    this.#room?.dispose();
  }
}

// ---- a block --------------------------------------------------------------------------------------------------------

/** A plan with the vectors of its maps. */
interface Norm extends NormPlan {
  readonly gamma: Vector | null;
  readonly beta: Vector | null;
  /** The mean of every group, over all samples. */
  readonly mean: Float64Array;
  /** The biased variance of every group, or the mean square if no mean is subtracted. */
  readonly variance: Float64Array;
  readonly invStd: Float64Array;
  /** Whether the mean is subtracted. Otherwise the mean is 0, and invStd is that of the mean square. */
  readonly centred: boolean;
}

/** Every value `times` times. */
function repeat(values: Float64Array, times: number): Float64Array {
  const repeated = new Float64Array(values.length * times);
  for (let i = 0; i < values.length; i++) repeated.fill(values[i] as number, i * times, (i + 1) * times);
  return repeated;
}

/** `length` values of a vector that repeats without end, from index `begin` on. */
function readRing(ring: Vector, begin: number, length: number): Float64Array {
  const values = new Float64Array(length);
  for (let at = -(begin % ring.length); at < length; at += ring.length)
    values.set(ring.subarray(Math.max(-at, 0), length - at), Math.max(at, 0));
  return values;
}

/** Adds values to a vector that repeats without end, from index `begin` on. */
function addToRing(ring: Float64Array, begin: number, values: Float64Array): void {
  let at = begin % ring.length;
  for (let i = 0; i < values.length; i++) {
    ring[at] = (ring[at] as number) + (values[i] as number);
    if (++at === ring.length) at = 0;
  }
}

/** The terms of x̂ over a block's groups. */
const groupTerms = ({ mean, invStd }: Norm, { first, groups }: Block): Terms => ({
  mean: mean.subarray(first, first + groups.channels),
  invStd: invStd.subarray(first, first + groups.channels),
  gamma: null,
  beta: null,
  activation: NONE,
});

/** The terms of y over a block's channels: of x with one map, of x̂ with two. */
function channelTerms(norm: Norm, block: Block): Terms {
  const { gamma, beta, channels, groupChannels } = norm;
  if (norm.twoMaps) {
    const [mean, invStd] = [new Float64Array(channels), new Float64Array(channels).fill(1)];
    return { mean, invStd, gamma, beta, activation: NONE };
  }
  const terms = groupTerms(norm, block);
  const [mean, invStd] = [repeat(terms.mean, groupChannels), repeat(terms.invStd, groupChannels)];
  const ofBlock = (v: Vector | null) => v && readRing(v, block.first * groupChannels, mean.length);
  return { mean, invStd, gamma: ofBlock(gamma), beta: ofBlock(beta), activation: NONE };
}

/** Computes mean and invStd of a block's groups. */
function blockStatistics(x: KernelOperand, epsilon: number, norm: Norm, block: Block): void {
  const { mean, invStd } = groupTerms(norm, block);
  const variance = norm.variance.subarray(block.first, block.first + mean.length);
  batchStatistics(x, epsilon, { mean, variance, invStd });
  if (norm.centred) return;
  // the mean square is variance + mean²: two positive terms, so nothing cancels
  for (let i = 0; i < mean.length; i++) variance[i] = (variance[i] as number) + (mean[i] as number) ** 2;
  invStdOf(variance, epsilon, invStd);
  mean.fill(0);
}

/** Computes y of a block. */
function forwardBlock(x: Blocks, y: Blocks, epsilon: number, norm: Norm, block: Block): void {
  const { groups, channels } = block;
  blockStatistics(x.at(block, groups), epsilon, norm, block);
  if (!norm.twoMaps) {
    normalize(x.at(block, channels), undefined, y.at(block, channels), channelTerms(norm, block));
    return;
  }
  normalize(x.at(block, groups), undefined, y.at(block, groups), groupTerms(norm, block));
  if (!norm.gamma && !norm.beta) return;
  const xHat = y.at(block, channels);
  normalize(xHat, undefined, xHat, channelTerms(norm, block));
}

const NAMES = ["dGamma", "dBeta"] as const;

/** Replaces every value of a group's channels by their sum, weighted with gamma. */
function sumGroups(values: Float64Array, gamma: Vector | null, groupChannels: number): void {
  for (let begin = 0; begin < values.length; begin += groupChannels) {
    let sum = 0;
    for (let i = begin; i < begin + groupChannels; i++)
      sum += (values[i] as number) * (gamma ? (gamma[i] as number) : 1);
    values.fill(sum, begin, begin + groupChannels);
  }
}

/** The operands of a backward, block by block. */
interface BackwardBlocks {
  readonly x: Blocks;
  readonly dy: Blocks;
  readonly dx: Blocks | undefined;
  /** Scratch of one block. */
  readonly spare: Blocks;
  /** Sums of gradients, to which every block adds its own; undefined if they are not needed. */
  readonly sums: GradientSums | undefined;
}

/**
 * Computes dx of a block, and adds its dGamma and dBeta to the sums, with one map. With g = gamma·dy, A = Σ g·x̂ and B =
 * Σ g over a group of m values, dx = invStd·(g − B/m − x̂·A/m), without B where no mean is subtracted.
 */
function backwardOneMap({ x, dy, dx, sums: total }: BackwardBlocks, norm: Norm, block: Block): void {
  const terms = channelTerms(norm, block);
  const [source, upstream] = [x.at(block, block.channels), dy.at(block, block.channels)];
  const sums = emptyGradientSums(block.channels.channels);
  gradientSums(source, upstream, terms, false, sums);
  if (total) for (const name of NAMES) addToRing(total[name], block.first * norm.groupChannels, sums[name]);
  if (!dx) return;
  // A and B of a group of one channel are gamma·dGamma and gamma·dBeta, as in batch norm; channels of a larger group
  // have no gamma in common
  const gammaVaries = norm.groupChannels > 1;
  if (gammaVaries) for (const name of NAMES) sumGroups(sums[name], terms.gamma, norm.groupChannels);
  if (!norm.centred) sums.dBeta.fill(0);
  gradientMap(source, upstream, dx.at(block, block.channels), terms, sums, {
    count: norm.count,
    gammaVaries,
    fused: false,
  });
}

/** Computes what backwardOneMap does, with two maps: dGamma and dBeta from x̂, and dx from g = gamma·dy. */
function backwardTwoMaps({ x, dy, dx, spare, sums: total }: BackwardBlocks, norm: Norm, block: Block): void {
  const { groups, channels } = block;
  const [rows, columns] = [groupTerms(norm, block), channelTerms(norm, block)];
  if (total) {
    const sums = emptyGradientSums(norm.channels);
    normalize(x.at(block, groups), undefined, spare.at(block, groups), rows);
    gradientSums(spare.at(block, channels), dy.at(block, channels), columns, false, sums);
    for (const name of NAMES) addToRing(total[name], 0, sums[name]);
  }
  if (!dx) return;
  if (norm.gamma) normalize(dy.at(block, channels), undefined, spare.at(block, channels), { ...columns, beta: null });
  const [source, g] = [x.at(block, groups), (norm.gamma ? spare : dy).at(block, groups)];
  const sums = emptyGradientSums(groups.channels);
  gradientSums(source, g, rows, false, sums);
  if (!norm.centred) sums.dBeta.fill(0);
  gradientMap(source, g, dx.at(block, groups), rows, sums, { count: norm.count, gammaVaries: false, fused: false });
}

// ---- forward --------------------------------------------------------------------------------------------------------

declare const OPAQUE: unique symbol;

/** The record of a forward of another norm, for normBackward. It refers to x, which must not change before that. */
export interface SavedNorm {
  /** Makes the type unlike any other: programs pass a record on and do not read it. */
  readonly [OPAQUE]: "norm";
}

/** The backward of one forward. */
type Differentiate = <T extends AnyTensor>(dy: T, options: NormBackwardOptions<T>) => SomeGradients<T>;

/** The backward of every record, so that normBackward serves every norm. Other objects have none. */
const backwards = /* @__PURE__ */ new WeakMap<object, Differentiate>();

/** Returns the record of a forward. */
export function recordWith(differentiate: Differentiate): SavedNorm {
  const saved = {};
  backwards.set(saved, differentiate);
  return saved as SavedNorm;
}

/** The inputs of a forward, which its backward reads. */
export interface NormInputs {
  readonly dtype: Dtype;
  readonly x: AnyTensor;
  /** The shape of x in the forward. */
  readonly shape: readonly number[];
  /** The shape of gamma and beta. */
  readonly vector: readonly number[];
  readonly gamma: Vector | null;
  readonly beta: Vector | null;
}

/** The result of a forward of the norms that normalise each sample by itself. */
export interface NormForwardResult<T extends AnyTensor = AnyTensor> {
  /** The result, in x's kind and shape. */
  y: T;
  /** The record for normBackward. */
  saved: SavedNorm;
  /** The mean of every group in memory order, float64; zeros for RMS norm. */
  mean: Float64Array;
  /** The biased variance of every group in memory order, float64; RMS norm has the mean square. */
  variance: Float64Array;
  /** 1/√(variance + epsilon) of every group in memory order, float64. */
  invStd: Float64Array;
  /** The number of values in a group. */
  count: number;
}

/** Options of instanceNormForward, groupNormForward, layerNormForward and rmsNormForward. */
export type NormOptions<T extends AnyTensor = AnyTensor> = Pick<ForwardOptions<T>, "layout" | "epsilon" | "out">;

/** Options of normBackward for instance, group, layer and RMS norm. */
export type NormBackwardOptions<T extends AnyTensor = AnyTensor, N extends CoreNeeds = CoreNeeds> = Pick<
  BackwardOptions<T, N>,
  "dxOut" | "needs" | "dGammaOut" | "dBetaOut" | "accumulate"
>;

/** Calls `use` for every block of a plan, with the operands of the values. */
function eachBlock<const V extends readonly (AnyTensor | undefined)[]>(
  call: CallScope,
  plan: NormPlan,
  values: V,
  use: (blocks: { [K in keyof V]: Blocks }, block: Block) => void,
): void {
  const made = values.map((value) => call.disposeAfter(new Blocks(call.heap, call.dtype, plan, value)));
  for (const block of plan.blocks) use(made as { [K in keyof V]: Blocks }, block);
}

/** What tells one norm from another. */
interface NormKind {
  readonly geometry: NormGeometry;
  /** The shape of gamma and beta. */
  readonly vector: readonly number[];
  readonly centred: boolean;
}

/** PyTorch's default of epsilon: 1e-5, and for RMS norm the last place of 1 in the type of the arithmetic. */
function defaultEpsilon(dtype: Dtype, centred: boolean): number {
  if (centred) return 1e-5;
  return dtype === "float64" ? 2 ** -52 : 2 ** -23;
}

/** Checks what all forward functions take, and runs one. */
function forward<T extends AnyTensor>(
  x: T,
  dtype: Dtype,
  { geometry, vector, centred }: NormKind,
  parameters: Parameters,
  options: NormOptions<T>,
): NormForwardResult<T> {
  const { out } = options;
  const parameter = (name: keyof Parameters) => {
    const v = parameters[name] ?? null;
    return v === null ? null : copyParameter(name, v, computeDtype(dtype), vector, x.shape);
  };
  const [gamma, beta] = [parameter("gamma"), parameter("beta")];
  const epsilon = epsilonOption(options.epsilon, defaultEpsilon(dtype, centred));
  const heap = heapOf(x, out);
  checkOut("out", out, x.shape, heap, dtype);
  overwrites("out", out, "x", x, null);
  const groups = geometry.samples * geometry.groups;
  if (groups > MAX_CHANNELS) throw wrongValue("x.shape", `at most ${MAX_CHANNELS} groups or rows`, x.shape);
  const [mean, variance, invStd] = [new Float64Array(groups), new Float64Array(groups), new Float64Array(groups)];
  const norm: Norm = { ...planOf(geometry), gamma, beta, mean, variance, invStd, centred };
  const y = runForward(heap, dtype, x, out, epsilon, norm);
  const inputs = { dtype, x, shape: [...x.shape], vector, gamma, beta };
  const verify = checks.remember?.({ x });
  const saved = recordWith((dy, options) => {
    const prepared = prepareBackward(dy, inputs, options);
    verify?.();
    return commitGradients(runBackward(prepared, norm), prepared);
  });
  return { y, saved, mean, variance, invStd, count: norm.count };
}

function runForward<T extends AnyTensor>(
  heap: Heap,
  dtype: Dtype,
  x: T,
  out: T | undefined,
  epsilon: number,
  norm: Norm,
): T {
  const call = new CallScope(heap, dtype, []);
  try {
    const source = unlessView(x);
    const y = call.allocateResult(out, x);
    eachBlock(call, norm, [source, y], ([from, to], block) => {
      from.load(block);
      forwardBlock(from, to, epsilon, norm, block);
      to.store(block);
    });
    return call.result(y, out, x) as T;
  } finally {
    call.dispose();
  }
}

/** Instance and group norm of [N, C, …] or [N, …, C]. Without `groups`, every channel is a group. */
function forwardGroups<T extends AnyTensor>(
  x: T,
  groups: number | undefined,
  parameters: Parameters,
  options: NormOptions<T>,
): NormForwardResult<T> {
  checkKeys("options", options, ["layout", "epsilon", "out"]);
  checkKeys("parameters", parameters, ["gamma", "beta"]);
  const dtype = checkOperand("x", x);
  const layout = layoutOption(options.layout);
  const { shape } = x;
  sizeOf("x", shape, 2);
  const channels = shape[channelAxis(shape, layout)] as number;
  const samples = shape[0] as number;
  if (channels === 0) throw wrongValue("x.shape", "at least one channel", shape);
  const spatial = layout === "channels-last" ? shape.slice(1, -1) : shape.slice(2);
  const inner = spatial.reduce((a, b) => a * b, 1);
  const count = groups ?? channels;
  if (!(Number.isInteger(count) && count > 0 && channels % count === 0))
    throw wrongValue("groups", `a divisor of the ${channels} channels`, count);
  // instance norm wants two positions, group norm two values of all samples' groups, as in PyTorch
  if (samples > 0 && inner === 1 && (groups === undefined || (samples * channels) / count === 1))
    throw oneValuePerGroup(groups === undefined, shape);
  const channelsLast = layout === "channels-last" && inner > 1;
  const geometry = { samples, channels, inner, groups: count, channelsLast };
  return forward(x, dtype, { geometry, vector: [channels], centred: true }, parameters, options);
}

/** Layer and RMS norm of […, ...normalizedShape], in which every row is a group. */
function forwardRows<T extends AnyTensor>(
  x: T,
  normalizedShape: number | readonly number[],
  parameters: Parameters,
  options: NormOptions<T>,
  centred: boolean,
): NormForwardResult<T> {
  checkKeys("options", options, ["epsilon", "out"]);
  checkKeys("parameters", parameters, centred ? ["gamma", "beta"] : ["gamma"]);
  const dtype = checkOperand("x", x);
  const vector = typeof normalizedShape === "number" ? [normalizedShape] : normalizedShape;
  if (!isArray(vector)) throw wrongKind("normalizedShape", "a number or an array of dimensions", normalizedShape);
  const { shape } = x;
  const begin = shape.length - vector.length;
  if (vector.length === 0 || !sameShape(shape.slice(begin), vector))
    throw wrongValue("normalizedShape", `the last axes of x.shape, ${JSON.stringify(shape)}`, normalizedShape);
  const product = (list: readonly number[]) => list.reduce((a, b) => a * b, 1);
  const [samples, channels] = [product(shape.slice(0, begin)), product(vector)];
  const geometry = { samples, channels, inner: 1, groups: 1, channelsLast: false };
  return forward(x, dtype, { geometry, vector, centred }, parameters, options);
}

/**
 * Normalises every channel of every sample by its own statistics, [N, C] (torch.nn.functional.instance_norm; Ulyanov,
 * Vedaldi & Lempitsky 2016). x is [N, C, …] or, with layout "channels-last", [N, …, C]; gamma and beta are [C]. Throws
 * TypeError and RangeError for wrong arguments, BatchNormError for one position per sample.
 */
export const instanceNormForward = <T extends AnyTensor>(
  x: T,
  parameters: Parameters = {},
  options: NormOptions<T> = {},
): NormForwardResult<T> => forwardGroups(x, undefined, parameters, options);

/**
 * Normalises `groups` of neighbouring channels of every sample by their own statistics, [N, groups]
 * (torch.nn.functional.group_norm; Wu & He 2018). x is [N, C, …] or, with layout "channels-last", [N, …, C]; gamma and
 * beta are [C]. A group of one value gives beta.
 *
 * Throws TypeError and RangeError for wrong arguments, BatchNormError if all samples together have one value per group.
 */
export function groupNormForward<T extends AnyTensor>(
  x: T,
  groups: number,
  parameters: Parameters = {},
  options: NormOptions<T> = {},
): NormForwardResult<T> {
  if (typeof groups !== "number") throw wrongKind("groups", "a number", groups);
  return forwardGroups(x, groups, parameters, options);
}

/**
 * Normalises every row, the last axes `normalizedShape`, by its own statistics (torch.nn.functional.layer_norm; Ba,
 * Kiros & Hinton 2016). gamma and beta have these axes. A row of one element gives beta. Throws TypeError and
 * RangeError for wrong arguments.
 */
export const layerNormForward = <T extends AnyTensor>(
  x: T,
  normalizedShape: number | readonly number[],
  parameters: Parameters = {},
  options: Omit<NormOptions<T>, "layout"> = {},
): NormForwardResult<T> => forwardRows(x, normalizedShape, parameters, options, true);

/**
 * Computes y = gamma·x/√(mean of x² + epsilon) of every row, the last axes `normalizedShape`
 * (torch.nn.functional.rms_norm; Zhang & Sennrich 2019). Default epsilon: 2^-23, and 2^-52 for float64. Throws as
 * layerNormForward does.
 */
export const rmsNormForward = <T extends AnyTensor>(
  x: T,
  normalizedShape: number | readonly number[],
  parameters: Pick<Parameters, "gamma"> = {},
  options: Omit<NormOptions<T>, "layout"> = {},
): NormForwardResult<T> => forwardRows(x, normalizedShape, parameters, options, false);

// ---- backward -------------------------------------------------------------------------------------------------------

/** A backward whose arguments have been checked. */
interface PreparedBackward<T extends AnyTensor> {
  readonly heap: Heap;
  readonly dy: T;
  readonly inputs: NormInputs;
  readonly dx: boolean;
  readonly dxOut: T | undefined;
  /** Where to write the gradients of the parameters; undefined for those that are not needed. */
  readonly dGamma: Vector | undefined;
  readonly dBeta: Vector | undefined;
  readonly accumulate: boolean;
  /** Float64 sums of gradients, zeros at first; undefined if neither dGamma nor dBeta is needed. */
  readonly sums: GradientSums | undefined;
}

/** Checks what a backward takes. Throws TypeError and RangeError for wrong arguments, BatchNormError for overlaps. */
export function prepareBackward<T extends AnyTensor>(
  dy: T,
  inputs: NormInputs,
  options: NormBackwardOptions<T>,
): PreparedBackward<T> {
  checkKeys("backward options", options, ["dxOut", "needs", "dGammaOut", "dBetaOut", "accumulate"]);
  const { needs = {}, dxOut } = options;
  checkKeys("needs", needs, ["dx", ...NAMES]);
  const { x, dtype, shape, vector } = inputs;
  const channels = vector.reduce((a, b) => a * b, 1);
  checkOperand("dy", dy, dtype);
  if (!sameShape(dy.shape, shape)) throw wrongShape("dy", shape, dy.shape);
  checkOperand("x", x, dtype);
  const heap = heapOf(x, dy, dxOut);
  if (dy instanceof Tensor) checkTensor("dy", dy, heap);
  checkOut("dxOut", dxOut, shape, heap, dtype);
  overwrites("dxOut", dxOut, "x", x, null);
  overwrites("dxOut", dxOut, "dy", dy);
  const accumulate = flag("accumulate", options.accumulate, false);
  const precision = computeDtype(dtype);
  const gradient = (name: (typeof NAMES)[number], parameter: Vector | null) => {
    const out = options[`${name}Out`];
    if (out !== undefined) checkVector(`${name}Out`, out, channels, precision, vector);
    const needed = flag(`needs.${name}`, needs[name], true) && parameter;
    return needed ? (out ?? newVector(precision, channels)) : undefined;
  };
  const [dGamma, dBeta] = [gradient("dGamma", inputs.gamma), gradient("dBeta", inputs.beta)];
  checkVectorsApart(options, { dxOut, dy, x });
  const dx = flag("needs.dx", needs.dx, true);
  const sums = dGamma || dBeta ? emptyGradientSums(channels) : undefined;
  return { heap, dy, inputs, dx, dxOut, dGamma, dBeta, accumulate, sums };
}

/** dx where it is asked for. The sums of gradients are added to `sums`, if there are any. */
function runBackward<T extends AnyTensor>(
  { heap, dy, inputs, dx, dxOut, sums }: PreparedBackward<T>,
  norm: Norm,
): { dx?: T } {
  const { x, dtype } = inputs;
  const call = new CallScope(heap, dtype, []);
  try {
    const sources = [unlessView(x), unlessView(dy)] as const;
    const target = dx ? call.allocateResult(dxOut, dy) : undefined;
    eachBlock(call, norm, [...sources, target, undefined], ([from, upstream, to, spare], block) => {
      from.load(block);
      upstream.load(block);
      const operands = { x: from, dy: upstream, dx: target && to, spare, sums };
      (norm.twoMaps ? backwardTwoMaps : backwardOneMap)(operands, norm, block);
      to.store(block);
    });
    return target ? { dx: call.result(target, dxOut, dy) as T } : {};
  } finally {
    call.dispose();
  }
}

/**
 * Computes the gradients of a forward of any norm from dy, the gradient of y, in x's shape; for batch norm as
 * batchNormBackward does. dx is in dy's kind, dGamma and dBeta in the shape of gamma and beta, and absent if those
 * were.
 *
 * Throws TypeError and RangeError for wrong arguments, BatchNormError if x has been disposed of.
 */
export function normBackward<T extends AnyTensor, const N extends Needs = object>(
  dy: T,
  saved: Saved,
  options?: BackwardOptions<T, N>,
): Gradients<T, VectorFor<T>, N>;
export function normBackward<T extends AnyTensor, const N extends CoreNeeds = object>(
  dy: T,
  saved: SavedNorm,
  options?: NormBackwardOptions<T, N>,
): Gradients<T, VectorFor<T>, N, boolean, boolean>;
export function normBackward<T extends AnyTensor>(
  dy: T,
  saved: Saved | SavedNorm,
  options: BackwardOptions<T> = {},
): unknown {
  const differentiate = backwards.get(saved);
  return differentiate ? differentiate(dy, options) : batchNormBackward(dy, saved as Saved, options);
}
