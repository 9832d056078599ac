// Normalization by the statistics of each sample alone: instance, group, layer and RMS norm, as geometries over the two
// primitives (primitives.ts). docs/family.md has the equations.
//
// Statistics are of groups, scale and shift of channels. A group is C/G neighbouring channels of one sample, and layer norm
// is one group of each row of [rows, D], whose channels are the D elements:
//
//   channels first   | c0 … | c1 … | c2 … | c3 … |           channels last   | c0 c1 c2 c3 | c0 c1 c2 c3 | …
//                    |   group 0   |   group 1   |                           |  0  |   1   |  0  |   1   |
//
//   one map     x to y over channels, each with its group's mean and invStd: where a channel of a sample is long enough to
//               be read as a plane, or is a group
//   two maps    x to x̂ over groups, x̂ to y over channels, which are columns there: for what is left, layer norm above all
//
// Work goes block by block through the cache. No bit of a group depends on what else is in its block.

import { noForward, oneValuePerGroup, wrongKind, wrongShape, wrongValue } from "../common/errors.ts";
import { checkKeys, flag } from "../common/validate.ts";
import { checkOperand, checkOut, checkTensor, checkVector, overwrites } from "../memory/guards.ts";
import { type Heap, inWasmMemory } from "../memory/heap.ts";
import { CallScope, heapOf, KernelOperand } from "../memory/operand.ts";
import { type AnyTensor, Tensor } from "../memory/tensor.ts";
import { oneRun, Room } from "../memory/transfer.ts";
import { bitsOf, computeDtype, type Dtype, is16Bit, newVector, type Vector } from "../tensor/dtype.ts";
import { channelAxis, dimensions, type Geometry, sameShape, sizeOf } from "../tensor/shape.ts";
import { layoutOption } from "../tensor/types.ts";
import { NONE } from "./activation.ts";
import { type BackwardOptions, type Gradients, type Needs, putGradient } from "./backward.ts";
import type { ForwardOptions, Parameters } from "./forward.ts";
import { epsilonOption } from "./options.ts";
import {
  batchStatistics,
  type GradientSums,
  gradientMap,
  gradientSums,
  invStdOf,
  normalize,
  type Terms,
} from "./primitives.ts";

// ---- geometry -------------------------------------------------------------------------------------------------------

/** x as [samples, channels, inner], or with `last` as [samples, inner, channels]. */
interface View {
  readonly samples: number;
  readonly channels: number;
  readonly inner: number;
  /** Groups of a sample. */
  readonly groups: number;
  readonly last: boolean;
}

/** Groups that are worked on in one go. */
interface Block {
  readonly offset: number;
  readonly length: number;
  /** First of them, of all groups of all samples. */
  readonly first: number;
  /** Its channels are the groups. */
  readonly groups: Geometry;
  /** Its channels are the channels: where there is one map, those of every sample by themselves. */
  readonly channels: Geometry;
}

interface Plan extends View {
  readonly blocks: readonly Block[];
  readonly twoMaps: boolean;
  /** Channels of a group. */
  readonly each: number;
  /** Values of a group. */
  readonly count: number;
}

/** Channels that lie one behind the other; a single one is summed as one of several would be. */
const planes = (channels: number, inner: number): Geometry => ({ ...dimensions(1, channels, inner), planes: true });

/** Channels of a sample from this length on are mapped as planes, and groups of this length have blocks of full size. */
const LONG = 32;

/** Elements of a block at least. */
const BLOCK = 131_072;

/** The same where groups are so short that their statistics and coefficients take more memory than they do. */
const BLOCK_SHORT = 16_384;

/** Samples of a block of two maps at least: computing their coefficients takes as long as mapping a sample. */
const BLOCK_SAMPLES = 32;

function planOf(view: View): Plan {
  const { samples, channels, inner, groups, last } = view;
  const each = channels / groups;
  const count = each * inner;
  const twoMaps = !last && each > 1 && inner < LONG;
  // blocks have whole numbers of units: groups, or samples
  const unit = last || twoMaps ? groups : 1;
  const size = unit * count;
  const units = size && (samples * groups) / unit;
  const least = count < LONG ? BLOCK_SHORT : BLOCK;
  const step = last ? 1 : Math.max(Math.ceil(least / size), twoMaps ? BLOCK_SAMPLES : 1);
  const blocks: Block[] = [];
  for (let begin = 0; begin < units; begin += step) {
    const n = Math.min(step, units - begin);
    const columns = last ? dimensions(inner, channels, 1) : dimensions(n, channels, inner);
    blocks.push({
      offset: begin * size,
      length: n * size,
      first: begin * unit,
      groups: last && groups > 1 ? dimensions(inner, groups, each) : planes(n * unit, count),
      channels: last || twoMaps ? columns : planes(n * each, inner),
    });
  }
  return { ...view, blocks, twoMaps, each, count };
}

/**
 * An operand block by block, in the type that is computed in: tensors of float32 and float64 in place, everything else in a
 * tile. (An KernelOperand has tiles too, but rounds to 16 bits after every map.)
 */
class Blocks {
  readonly #heap: Heap;
  readonly #dtype: Dtype;
  readonly #size: number;
  readonly #value: AnyTensor | undefined;
  readonly #inPlace: boolean;
  #room: Room | undefined;

  /** Without `value`: scratch of one block. */
  constructor(heap: Heap, dtype: Dtype, { blocks }: Plan, value?: AnyTensor) {
    this.#heap = heap;
    this.#dtype = dtype;
    this.#size = blocks[0]?.length ?? 0;
    this.#inPlace = value instanceof Tensor && !is16Bit(dtype);
    // a view of wasm memory would be emptied by growth, which the tile may bring about
    const copied = value && !(value instanceof Tensor) && inWasmMemory(value.data);
    this.#value = copied ? { ...value, data: value.data.slice() } : value;
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

  /** A block as the kernels see it. */
  at({ offset }: Block, g: Geometry): KernelOperand {
    const dtype = computeDtype(this.#dtype);
    if (this.#inPlace) return new KernelOperand(this.#heap, this.#value as AnyTensor, g, dtype, offset);
    const tile = new Tensor(this.#heap, [this.#size], this.#size, dtype, this.#roomOfBlock.pointer);
    return new KernelOperand(this.#heap, tile, g, dtype);
  }

  dispose(): void {
    this.#room?.dispose();
  }
}

// ---- a block --------------------------------------------------------------------------------------------------------

/** What normalises x. */
interface Norm extends Plan {
  readonly gamma: Vector | null;
  readonly beta: Vector | null;
  /** Of every group. */
  readonly mean: Float64Array;
  readonly invStd: Float64Array;
  /** Whether the mean is subtracted; otherwise it is 0, and statistics are of squares. */
  readonly centred: boolean;
}

/** Every value `each` times. */
function repeat(values: Float64Array, each: number): Float64Array {
  const repeated = new Float64Array(values.length * each);
  for (let i = 0; i < values.length; i++) repeated.fill(values[i] as number, i * each, (i + 1) * each);
  return repeated;
}

/** `length` values of a ring, from its `begin`-th on. */
function turn(ring: Vector, begin: number, length: number): Float64Array {
  const values = new Float64Array(length);
  for (let at = -(begin % ring.length); at < length; at += ring.length)
    values.set(ring.subarray(Math.max(-at, 0), length - at), Math.max(at, 0));
  return values;
}

/** x̂ of a block's groups. */
const groupTerms = ({ mean, invStd }: Norm, { first, groups }: Block): Terms => ({
  mean: mean.subarray(first, first + groups.channels),
  invStd: invStd.subarray(first, first + groups.channels),
  gamma: null,
  beta: null,
  activation: NONE,
});

/** y of a block's channels: of x, or where there are two maps of x̂. */
function channelTerms(n: Norm, block: Block): Terms {
  const { gamma, beta, channels, each } = n;
  if (n.twoMaps) {
    const [mean, invStd] = [new Float64Array(channels), new Float64Array(channels).fill(1)];
    return { mean, invStd, gamma, beta, activation: NONE };
  }
  const t = groupTerms(n, block);
  const [mean, invStd] = [repeat(t.mean, each), repeat(t.invStd, each)];
  const own = (v: Vector | null) => v && turn(v, block.first * each, mean.length);
  return { mean, invStd, gamma: own(gamma), beta: own(beta), activation: NONE };
}

/** mean and invStd of a block's groups. */
function takeStatistics(x: KernelOperand, epsilon: number, n: Norm, block: Block): void {
  const { mean, invStd } = groupTerms(n, block);
  const variance = new Float64Array(mean.length);
  for (const tiles of x.independentTiles) batchStatistics(x, epsilon, { mean, variance, invStd }, tiles);
  if (n.centred) return;
  // the mean square is variance + mean²: two positive terms, so nothing cancels
  const squares = variance.map((v, i) => v + (mean[i] as number) ** 2);
  invStdOf(squares, epsilon, invStd);
  mean.fill(0);
}

/** y of a block. */
function forwardBlock(x: Blocks, y: Blocks, epsilon: number, n: Norm, b: Block): void {
  takeStatistics(x.at(b, b.groups), epsilon, n, b);
  if (!n.twoMaps) {
    normalize(x.at(b, b.channels), undefined, y.at(b, b.channels), channelTerms(n, b));
    return;
  }
  normalize(x.at(b, b.groups), undefined, y.at(b, b.groups), groupTerms(n, b));
  if (!n.gamma && !n.beta) return;
  const xHat = y.at(b, b.channels);
  normalize(xHat, undefined, xHat, channelTerms(n, b));
}

const NAMES = ["dGamma", "dBeta"] as const;

const zeros = (length: number): GradientSums => ({ dGamma: new Float64Array(length), dBeta: new Float64Array(length) });

/** Adds values to a ring, from its `begin`-th on. */
function addAround(ring: Float64Array, begin: number, values: Float64Array): void {
  let at = begin % ring.length;
  for (let i = 0; i < values.length; i++) {
    ring[at] = (ring[at] as number) + (values[i] as number);
    if (++at === ring.length) at = 0;
  }
}

/** Replaces every value by the sum over its group of values weighted with gamma. */
function sumGroups(values: Float64Array, gamma: Vector | null, each: number): void {
  for (let begin = 0; begin < values.length; begin += each) {
    let sum = 0;
    for (let i = begin; i < begin + each; i++) sum += (values[i] as number) * (gamma ? (gamma[i] as number) : 1);
    values.fill(sum, begin, begin + each);
  }
}

/** What backward reads and writes. */
interface Flow {
  readonly x: Blocks;
  readonly dy: Blocks;
  readonly dx: Blocks | undefined;
  readonly spare: Blocks;
  /** Sums of all blocks. */
  readonly into: GradientSums | undefined;
}

/**
 * dx of a block, and its dGamma and dBeta added to those of the others: one map. With g = gamma·dy, A = Σ g·x̂ and B = Σ g
 * over a group of m values, dx = invStd·(g − B/m − x̂·A/m), without B where no mean is subtracted.
 */
function backwardChannels({ x, dy, dx, into }: Flow, n: Norm, b: Block): void {
  const [source, upstream, terms] = [x.at(b, b.channels), dy.at(b, b.channels), channelTerms(n, b)];
  const sums = zeros(b.channels.channels);
  gradientSums(source, upstream, terms, false, sums);
  if (into) for (const name of NAMES) addAround(into[name], b.first * n.each, sums[name]);
  if (!dx) return;
  // A and B of one channel are gamma·dGamma and gamma·dBeta, as in batch norm; several have no gamma in common
  const separate = n.each > 1;
  if (separate) for (const name of NAMES) sumGroups(sums[name], terms.gamma, n.each);
  if (!n.centred) sums.dBeta.fill(0);
  gradientMap(source, upstream, dx.at(b, b.channels), terms, sums, { count: n.count, separate, fused: false });
}

/** The same where there are two maps. */
function backwardRows({ x, dy, dx, spare, into }: Flow, n: Norm, b: Block): void {
  const [rows, columns] = [groupTerms(n, b), channelTerms(n, b)];
  if (into) {
    const sums = zeros(n.channels);
    normalize(x.at(b, b.groups), undefined, spare.at(b, b.groups), rows);
    gradientSums(spare.at(b, b.channels), dy.at(b, b.channels), columns, false, sums);
    for (const name of NAMES) addAround(into[name], 0, sums[name]);
  }
  if (!dx) return;
  if (n.gamma) normalize(dy.at(b, b.channels), undefined, spare.at(b, b.channels), { ...columns, beta: null });
  const [source, g] = [x.at(b, b.groups), (n.gamma ? spare : dy).at(b, b.groups)];
  const sums = zeros(b.groups.channels);
  gradientSums(source, g, rows, false, sums);
  if (!n.centred) sums.dBeta.fill(0);
  gradientMap(source, g, dx.at(b, b.groups), rows, sums, { count: n.count, separate: false, fused: false });
}

// ---- calls ----------------------------------------------------------------------------------------------------------

/** What a forward keeps for normBackward. Opaque: pass it on. It refers to x, which must not change until then. */
export interface SavedNorm {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** Shape of gamma and beta. */
  readonly vector: readonly number[];
  readonly x: AnyTensor;
  readonly norm: Norm;
}

/** y, and mean and invStd of every group in memory order, Float64Array. */
export interface NormForwardResult<T extends AnyTensor = AnyTensor> {
  y: T;
  saved: SavedNorm;
  mean: Float64Array;
  invStd: Float64Array;
}

export type NormOptions<T extends AnyTensor = AnyTensor> = Pick<ForwardOptions<T>, "layout" | "epsilon" | "out">;

export type NormBackwardOptions<T extends AnyTensor = AnyTensor> = Pick<
  BackwardOptions<T>,
  "dxOut" | "dGammaOut" | "dBetaOut" | "accumulate"
> & { needs?: Pick<Needs, "dx" | "dGamma" | "dBeta"> };

/** Runs `use` on every block of values. */
function eachBlock<const V extends readonly (AnyTensor | undefined)[]>(
  call: CallScope,
  plan: Plan,
  values: V,
  use: (blocks: { [K in keyof V]: Blocks }, block: Block) => void,
): void {
  const made = values.map((value) => call.disposeAfter(new Blocks(call.heap, call.dtype, plan, value)));
  for (const block of plan.blocks) use(made as { [K in keyof V]: Blocks }, block);
}

/** Checks what all forward functions take, and runs one. `shape` is that of gamma and beta. */
function forward<T extends AnyTensor>(
  x: T,
  dtype: Dtype,
  view: View,
  shape: readonly number[],
  parameters: Parameters,
  options: NormOptions<T>,
  centred: boolean,
): NormForwardResult<T> {
  const { out } = options;
  const precision = computeDtype(dtype);
  const vector = (name: keyof Parameters) => {
    const v = parameters[name];
    return v ? checkVector(name, v, view.channels, precision, shape).slice() : null;
  };
  const [gamma, beta] = [vector("gamma"), vector("beta")];
  // PyTorch's: 1e-5, and for RMS norm the last place of 1
  const epsilon = epsilonOption(options.epsilon, centred ? 1e-5 : precision === "float64" ? 2 ** -52 : 2 ** -23);
  const heap = heapOf(x, out);
  if (x instanceof Tensor) checkTensor("x", x, heap);
  checkOut("out", out, x.shape, heap, dtype);
  overwrites("out", out, "x", x, "train");
  const groups = view.samples * view.groups;
  const [mean, invStd] = [new Float64Array(groups), new Float64Array(groups)];
  const norm: Norm = { ...planOf(view), gamma, beta, mean, invStd, centred };
  const call = new CallScope(heap, dtype, []);
  try {
    const y = call.allocateResult(out, x);
    eachBlock(call, norm, [x, y], ([from, to], block) => {
      from.load(block);
      forwardBlock(from, to, epsilon, norm, block);
      to.store(block);
    });
    const saved = { dtype, shape: [...x.shape], vector: shape, x, norm };
    return { y: call.result(y, out, x) as T, saved, mean, invStd };
  } finally {
    call.dispose();
  }
}

/** [N, C, …] or [N, …, C], in groups of channels; undefined: every channel is one. */
function grouped<T extends AnyTensor>(
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
  const G = groups ?? channels;
  if (!(Number.isInteger(G) && G > 0 && channels % G === 0))
    throw wrongValue("groups", `a divisor of the ${channels} channels`, G);
  if (samples > 0 && (channels / G) * inner === 1) throw oneValuePerGroup(groups === undefined, shape);
  const last = layout === "channels-last" && inner > 1;
  return forward(x, dtype, { samples, channels, inner, groups: G, last }, [channels], parameters, options, true);
}

/** […, ...normalizedShape], every row a group. */
function rows<T extends AnyTensor>(
  x: T,
  normalizedShape: number | readonly number[],
  parameters: Parameters,
  options: NormOptions<T>,
  centred: boolean,
): NormForwardResult<T> {
  checkKeys("options", options, ["epsilon", "out"]);
  checkKeys("parameters", parameters, centred ? ["gamma", "beta"] : ["gamma"]);
  const dtype = checkOperand("x", x);
  const own = typeof normalizedShape === "number" ? [normalizedShape] : normalizedShape;
  if (!Array.isArray(own)) throw wrongKind("normalizedShape", "a number or an array of dimensions", normalizedShape);
  const { shape } = x;
  const begin = shape.length - own.length;
  if (own.length === 0 || begin < 0 || !sameShape(shape.slice(begin), own))
    throw wrongValue("normalizedShape", `the last axes of x.shape, ${JSON.stringify(shape)}`, normalizedShape);
  const product = (list: readonly number[]) => list.reduce((a, b) => a * b, 1);
  const [samples, channels] = [product(shape.slice(0, begin)), product(own)];
  return forward(x, dtype, { samples, channels, inner: 1, groups: 1, last: false }, own, parameters, options, centred);
}

/**
 * Instance normalization (torch.nn.functional.instance_norm; Ulyanov, Vedaldi & Lempitsky 2016): every channel of every
 * sample by its own statistics. x: [N, C, …] or, with layout "channels-last", [N, …, C]; gamma, beta: [C]. mean and
 * invStd: [N, C].
 *
 * Throws TypeError and RangeError for wrong arguments, BatchNormError for one position per sample.
 */
export const instanceNormForward = <T extends AnyTensor>(
  x: T,
  parameters: Parameters = {},
  options: NormOptions<T> = {},
): NormForwardResult<T> => grouped(x, undefined, parameters, options);

/**
 * Group normalization (torch.nn.functional.group_norm; Wu & He 2018): `groups` of neighbouring channels of every sample by
 * their own statistics. Otherwise as instanceNormForward; mean and invStd: [N, groups].
 *
 * Throws TypeError and RangeError for wrong arguments, BatchNormError for one value per group.
 */
export function groupNormForward<T extends AnyTensor>(
  x: T,
  groups: number,
  parameters: Parameters = {},
  options: NormOptions<T> = {},
): NormForwardResult<T> {
  if (typeof groups !== "number") throw wrongKind("groups", "a number", groups);
  return grouped(x, groups, parameters, options);
}

/**
 * Layer normalization (torch.nn.functional.layer_norm; Ba, Kiros & Hinton 2016) over the last axes, which are
 * `normalizedShape`, as are those of gamma and beta. mean and invStd: one per row. A row of one element gives beta.
 *
 * Throws TypeError and RangeError for wrong arguments.
 */
export const layerNormForward = <T extends AnyTensor>(
  x: T,
  normalizedShape: number | readonly number[],
  parameters: Parameters = {},
  options: Omit<NormOptions<T>, "layout"> = {},
): NormForwardResult<T> => rows(x, normalizedShape, parameters, options, true);

/**
 * RMS normalization (torch.nn.functional.rms_norm; Zhang & Sennrich 2019): y = gamma·x/√(mean of x² + epsilon). As
 * layerNormForward, without a mean and without beta; epsilon is by default that of the arithmetic: 2^-23, and 2^-52 for
 * float64.
 */
export const rmsNormForward = <T extends AnyTensor>(
  x: T,
  normalizedShape: number | readonly number[],
  parameters: Pick<Parameters, "gamma"> = {},
  options: Omit<NormOptions<T>, "layout"> = {},
): NormForwardResult<T> => rows(x, normalizedShape, parameters, options, false);

/**
 * Gradients of instanceNormForward, groupNormForward, layerNormForward or rmsNormForward. dy: the shape of x. dx is in
 * dy's kind; dGamma and dBeta are there if gamma and beta were, and of their shape.
 *
 * Throws TypeError and RangeError for wrong arguments, BatchNormError where x was disposed since.
 */
export function normBackward<T extends AnyTensor>(
  dy: T,
  saved: SavedNorm,
  options: NormBackwardOptions<T> = {},
): Gradients<T, T extends { data: Float64Array } ? Float64Array : Float32Array> {
  if (typeof saved !== "object" || saved === null || !("norm" in saved))
    throw noForward("no result of instanceNormForward and the like as `saved`");
  checkKeys("backward options", options, ["dxOut", "needs", "dGammaOut", "dBetaOut", "accumulate"]);
  const { needs = {}, dxOut } = options;
  checkKeys("needs", needs, ["dx", ...NAMES]);
  const { x, dtype, shape, norm } = saved;
  checkOperand("dy", dy, dtype);
  if (!sameShape(dy.shape, shape)) throw wrongShape("dy", shape, dy.shape);
  checkOperand("x", x, dtype);
  const heap = heapOf(x, dy, dxOut);
  if (dy instanceof Tensor) checkTensor("dy", dy, heap);
  checkOut("dxOut", dxOut, shape, heap, dtype);
  overwrites("dxOut", dxOut, "x", x, "train");
  overwrites("dxOut", dxOut, "dy", dy);
  const accumulate = flag("accumulate", options.accumulate, false);
  const precision = computeDtype(dtype);
  const vector = (name: (typeof NAMES)[number], parameter: Vector | null) => {
    const out = options[`${name}Out`];
    if (out !== undefined) checkVector(`${name}Out`, out, norm.channels, precision, saved.vector);
    const needed = flag(`needs.${name}`, needs[name], true) && parameter;
    return needed ? (out ?? newVector(precision, norm.channels)) : undefined;
  };
  const [dGamma, dBeta] = [vector("dGamma", norm.gamma), vector("dBeta", norm.beta)];
  const wantsDx = flag("needs.dx", needs.dx, true);
  const into = dGamma || dBeta ? zeros(norm.channels) : undefined;
  const result: Gradients<T, Vector> = {};
  const call = new CallScope(heap, dtype, []);
  try {
    const target = wantsDx ? call.allocateResult(dxOut, dy) : undefined;
    eachBlock(call, norm, [x, dy, target, undefined], ([from, upstream, to, spare], block) => {
      from.load(block);
      upstream.load(block);
      const flow = { x: from, dy: upstream, dx: target && to, spare, into };
      (norm.twoMaps ? backwardRows : backwardChannels)(flow, norm, block);
      to.store(block);
    });
    if (target) result.dx = call.result(target, dxOut, dy) as T;
  } finally {
    call.dispose();
  }
  if (dGamma && into) {
    putGradient(dGamma, into.dGamma, accumulate);
    result.dGamma = dGamma;
  }
  if (dBeta && into) {
    putGradient(dBeta, into.dBeta, accumulate);
    result.dBeta = dBeta;
  }
  return result as Gradients<T, never>;
}
