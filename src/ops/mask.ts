// Masks: which positions of a batch count, and how much. A position is one value of every channel. The kernels take the
// weights of all positions from wasm memory (assembly/kernels/weights.ts), so that nothing is copied side by side.

import { nestedList, wrongKind, wrongLength, wrongShape, wrongValue } from "../common/errors.ts";
import { checkKeys, hasAny, isArray, isList, isObject } from "../common/validate.ts";
import { checkContiguous, checkItself } from "../memory/guards.ts";
import type { CallScope, KernelOperand } from "../memory/operand.ts";
import { is16Bit, namedDtype, type Vector, widen } from "../tensor/dtype.ts";
import { sameShape, sizeOf } from "../tensor/shape.ts";
import type { Layout } from "../tensor/types.ts";
import { COMBINATION, channelsOf, type Range } from "../wasm/kernels.ts";
import type { Weights } from "./primitives.ts";

/** Numbers, bigints or booleans, one behind the other, or as a tensor { data, shape }. */
export type List = ArrayLike<boolean | number | bigint> | ListTensor;

/** A list with its shape, such as a tensor of a safetensors file. */
export interface ListTensor {
  /** The elements in row-major order. */
  readonly data: ArrayLike<boolean | number | bigint>;
  /** The dimensions. */
  readonly shape: readonly number[];
  /** The type of the elements. Bits of 16-bit elements need it. */
  readonly dtype?: string;
}

/**
 * Which positions of a batch count. It is a list of booleans or of weights ≥ 0 for positions [N, …], without the
 * channels, in which false and 0 mask a position. Or it has the lengths of the N sequences of a batch [N, C, L] or [N,
 * L, C].
 */
export type Mask = List | { readonly lengths: List };

/** What a mask selects of a sub-batch. */
export interface Selection {
  /** The weights of all positions. */
  readonly weights: Float64Array;
  /** The number of positions whose weight is not 0. */
  readonly positions: number;
  /** The sum of the weights, by which sums are divided. */
  readonly count: number;
  /** A position that has the largest weight. */
  readonly heaviest: number;
}

/** The weights of all positions of a batch, [N, …]. Throws TypeError and RangeError for a wrong mask. */
export function weightsOf(mask: Mask, shape: readonly number[], layout: Layout): Float64Array {
  const spatial = layout === "channels-last" ? shape.slice(1, -1) : shape.slice(2);
  const samples = shape[0] as number;
  if (!hasAny(mask, "lengths"))
    return weightsOfPositions(
      listOf("mask", mask, "an array of booleans or weights, or { lengths }", [samples, ...spatial]),
    );
  checkKeys("mask", mask, ["lengths"]);
  if (spatial.length !== 1)
    throw wrongValue("mask.lengths", `sequences, ${layout === "channels-last" ? "[N, L, C]" : "[N, C, L]"}`, shape);
  return weightsOfLengths(
    listOf("mask.lengths", (mask as { lengths: List }).lengths, "an array of integers", [samples]),
    spatial[0] as number,
  );
}

/** Returns the elements of a list of this shape. Axes of one element may be missing or more. */
function listOf(name: string, value: unknown, expected: string, shape: readonly number[]): ArrayLike<unknown> {
  if (isObject(value)) checkItself(name, value);
  const tensor = hasAny(value, "data") ? (value as ListTensor) : undefined;
  let list: unknown = tensor ? tensor.data : value;
  if (!isList(list)) throw wrongKind(name, expected, value);
  if (isArray(list[0])) throw nestedList(name, list);
  if (tensor) {
    const dtype = namedDtype(tensor.dtype);
    // an array of the format's smaller floats or of complex numbers holds no numbers of ours
    if (/^(F\d|C64)/.test(String(dtype)))
      throw wrongValue(`${name}.dtype`, "integers, booleans or floats of 16 bits or more", dtype);
    const axes = (list: readonly number[]) => list.filter((size) => size !== 1);
    sizeOf(name, tensor.shape);
    if (!sameShape(axes(tensor.shape), axes(shape))) throw wrongShape(name, shape, tensor.shape);
    checkContiguous(name, tensor as never);
    if (is16Bit(dtype)) list = widen(dtype, list as ArrayLike<number>);
  }
  const { length } = list as ArrayLike<unknown>;
  if (length !== shape.reduce((a, b) => a * b, 1)) throw wrongLength(name, shape, length);
  return list as ArrayLike<unknown>;
}

/** The weights of a mask that has one value for each position. */
function weightsOfPositions(mask: ArrayLike<unknown>): Float64Array {
  const weights = new Float64Array(mask.length);
  let sum = 0;
  for (let i = 0; i < weights.length; i++) {
    const value = mask[i];
    // Number(value) of every value would take twice as long
    const weight = value === true ? 1 : value === false ? 0 : typeof value === "bigint" ? Number(value) : value;
    if (typeof weight !== "number") throw wrongKind(`mask[${i}]`, "a boolean or a weight", value);
    if (!(weight >= 0 && weight < Infinity)) throw wrongValue(`mask[${i}]`, "a finite weight ≥ 0", value);
    weights[i] = weight;
    sum += weight;
  }
  if (sum === Infinity) throw wrongValue("mask", "weights with a finite sum", sum);
  return weights;
}

/** The weights of a batch of sequences, of which each counts up to its length. */
function weightsOfLengths(lengths: ArrayLike<unknown>, maximum: number): Float64Array {
  const weights = new Float64Array(lengths.length * maximum);
  for (let n = 0; n < lengths.length; n++) {
    const value = lengths[n];
    const length = (typeof value === "bigint" ? Number(value) : value) as number;
    if (!(Number.isInteger(length) && length >= 0 && length <= maximum))
      throw wrongValue(`mask.lengths[${n}]`, `an integer from 0 to ${maximum}`, value);
    weights.fill(1, n * maximum, n * maximum + length);
  }
  return weights;
}

/** What a mask selects of some positions of a batch; undefined if it selects all of them with weight 1. */
export function selectionOf(weights: Float64Array): Selection | undefined {
  let positions = 0;
  let count = 0;
  let heaviest = 0;
  let weighted = false;
  for (let p = 0; p < weights.length; p++) {
    const weight = weights[p] as number;
    if (weight !== 0) positions++;
    if (weight !== 1) weighted = true;
    if (weight > (weights[heaviest] as number)) heaviest = p;
    count += weight;
  }
  return weighted ? { weights, positions, count, heaviest } : undefined;
}

/** The values that a row of weights repeats at its end (assembly/kernels/weights.ts). */
const REPEATED = 3;

/** Copies the weights of an image. It is a function of its own because V8 optimises it sooner than a loop of loops. */
function copyRow(from: Float64Array, begin: number, inner: number, scale: number, to: Vector, at: number): void {
  for (let i = 0; i < inner; i++) to[at + i] = (from[begin + i] as number) * scale;
  for (let i = at + inner; i < at + inner + REPEATED; i++) to[i] = to[i - inner] as number;
}

/**
 * Copies the weights of a sub-batch to wasm memory, which the call frees. They are scaled so that their sum is the number
 * of positions, since the kernels divide by that. They are float64 for statistics, and in the type of the arithmetic for
 * gradients.
 */
export function loadWeights(
  call: CallScope,
  { plan, geometry, kernels }: KernelOperand,
  { weights, count, heaviest }: Selection,
  forGradients: boolean,
): Weights {
  const { heap } = call;
  const { outer, inner } = plan;
  const scale = count > 0 ? geometry.count / count : 1;
  const row = inner + REPEATED;
  const length = outer * row;
  const isFloat64 = kernels.isFloat64 || !forGradients;
  const bytes = isFloat64 ? 8 : 4;
  const pointer = heap.allocate(bytes * length);
  call.disposeAfter({ dispose: () => heap.free(pointer) });
  const rows = (isFloat64 ? heap.f64 : heap.f32).subarray(pointer / bytes, pointer / bytes + length);
  for (let n = 0; n < outer; n++) copyRow(weights, n * inner, inner, scale, rows, n * row);
  return { pointer, rowBytes: bytes * row, scale, pivots: (x, tiles) => loadPivots(x, tiles, heaviest) };
}

/**
 * Writes the pivots of the channels of some tiles: their values at a position of the largest weight. The distance from
 * the mean is then at most std·√positions, whatever the weights are.
 */
function loadPivots(x: KernelOperand, tiles: readonly Range[], position: number): void {
  const { heap, kernels, plan } = x;
  const { inner, pitch } = plan;
  const sample = Math.floor(position / inner);
  const element = sample * pitch * inner + (position % inner);
  const size = plan.stripe * plan.columns;
  const tile = plan.planar ? tiles[0] : tiles.find(({ end }) => element < end * size);
  const first = x.load(tile as Range) / kernels.bytes + element;
  const elements = kernels.isFloat64 ? heap.f64 : heap.f32;
  const channels = channelsOf(plan, tiles);
  for (let c = channels.begin; c < channels.end; c++)
    elements[plan.coefficients / kernels.bytes + c] = elements[first + c * inner] as number;
  kernels.coefficients(plan, COMBINATION, false, 0, 0, 0, channels);
}
