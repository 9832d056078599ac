// Masks: which positions of a batch count, and how much. A position is one value of every channel. The selected
// positions are copied side by side, so that their statistics have the bits of a batch without the others:
//
//   positions   s s - s | s - - - | s s s -        s: selected, in runs
//   packed      s s s s s s s s                    [1, C, selected], or [selected, C] with channels last
//
//   positions   s s s s | - - - - | s s s s        a mask of whole samples
//   packed      s s s s | s s s s                  [selected samples, C, …]

import { wrongKind, wrongLength, wrongValue } from "../common/errors.ts";
import { checkKeys, isList } from "../common/validate.ts";
import { operandDtype } from "../memory/guards.ts";
import type { Heap } from "../memory/heap.ts";
import { KernelOperand } from "../memory/operand.ts";
import { type AnyTensor, Tensor } from "../memory/tensor.ts";
import { type CopyRun, Room } from "../memory/transfer.ts";
import { bitsOf, computeDtype, type Dtype } from "../tensor/dtype.ts";
import { type Geometry, geometryOf } from "../tensor/shape.ts";
import type { Layout } from "../tensor/types.ts";

/**
 * Which positions of a batch count. It is a list of booleans or of weights ≥ 0 for positions [N, …], without the
 * channels, in which false and 0 mask a position. Or it has the lengths of the N sequences of a batch [N, C, L] or [N,
 * L, C].
 */
export type Mask = ArrayLike<boolean> | ArrayLike<number> | { lengths: ArrayLike<number> };

/** Neighbouring positions [begin, end). */
interface Run {
  readonly begin: number;
  readonly end: number;
}

/** The mask of one batch as runs of positions. */
export interface Selection {
  readonly selected: readonly Run[];
  readonly masked: readonly Run[];
  /** The number of selected positions. */
  readonly positions: number;
  /** Whether the mask selects whole samples, so that the selected ones are a batch of the same shape. */
  readonly wholeSamples: boolean;
  /** The weight of each selected position; undefined if all are 1. */
  readonly weights: Float64Array | undefined;
  /** The sum of the weights, by which sums are divided. */
  readonly count: number;
}

/** The weights of all positions of a batch, [N, …]. Throws TypeError and RangeError for a wrong mask. */
export function weightsOf(mask: Mask, shape: readonly number[], layout: Layout): Float64Array {
  const spatial = layout === "channels-last" ? shape.slice(1, -1) : shape.slice(2);
  const samples = shape[0] as number;
  if (isList(mask)) return weightsOfPositions(mask, [samples, ...spatial]);
  if (typeof mask !== "object" || mask === null || !("lengths" in mask))
    throw wrongKind("mask", "an array of booleans or weights, or { lengths }", mask);
  checkKeys("mask", mask, ["lengths"]);
  const { lengths } = mask;
  if (!isList(lengths)) throw wrongKind("mask.lengths", "an array of integers", lengths);
  if (spatial.length !== 1)
    throw wrongValue("mask.lengths", `sequences, ${layout === "channels-last" ? "[N, L, C]" : "[N, C, L]"}`, shape);
  return weightsOfLengths(lengths, samples, spatial[0] as number);
}

/** The weights of a mask that has one value for each position. */
function weightsOfPositions(mask: ArrayLike<unknown>, shape: readonly number[]): Float64Array {
  const weights = new Float64Array(shape.reduce((a, b) => a * b, 1));
  if (mask.length !== weights.length) throw wrongLength("mask", shape, mask.length);
  let sum = 0;
  for (let i = 0; i < weights.length; i++) {
    const value = mask[i];
    if (typeof value !== "boolean" && typeof value !== "number")
      throw wrongKind(`mask[${i}]`, "a boolean or a weight", value);
    const weight = Number(value);
    if (!(weight >= 0 && weight < Infinity)) throw wrongValue(`mask[${i}]`, "a finite weight ≥ 0", value);
    weights[i] = weight;
    sum += weight;
  }
  if (sum === Infinity) throw wrongValue("mask", "weights with a finite sum", sum);
  return weights;
}

/** The weights of a batch of sequences, of which each counts up to its length. */
function weightsOfLengths(lengths: ArrayLike<unknown>, samples: number, maximum: number): Float64Array {
  if (lengths.length !== samples) throw wrongLength("mask.lengths", [samples], lengths.length);
  const weights = new Float64Array(samples * maximum);
  for (let n = 0; n < samples; n++) {
    const length = lengths[n];
    if (!(Number.isInteger(length) && (length as number) >= 0 && (length as number) <= maximum))
      throw wrongValue(`mask.lengths[${n}]`, `an integer from 0 to ${maximum}`, length);
    weights.fill(1, n * maximum, n * maximum + (length as number));
  }
  return weights;
}

/**
 * What a mask selects of positions [from, to) of a batch whose samples have `inner` positions; undefined if it selects
 * all of them with weight 1.
 */
export function selectionOf(all: Float64Array, from: number, to: number, inner: number): Selection | undefined {
  const selected: Run[] = [];
  const masked: Run[] = [];
  let positions = 0;
  let count = 0;
  let weighted = false;
  let wholeSamples = true;
  for (let begin = from; begin < to; ) {
    const isSelected = all[begin] !== 0;
    let end = begin;
    while (end < to && (all[end] !== 0) === isSelected) {
      const weight = all[end++] as number;
      count += weight;
      if (isSelected && weight !== 1) weighted = true;
    }
    (isSelected ? selected : masked).push({ begin: begin - from, end: end - from });
    if (isSelected) positions += end - begin;
    if (end < to && (end - from) % inner !== 0) wholeSamples = false;
    begin = end;
  }
  if (!weighted && masked.length === 0) return undefined;
  const weights = weighted ? all.subarray(from, to).filter((weight) => weight !== 0) : undefined;
  return { selected, masked, positions, wholeSamples, weights, count };
}

/** Runs that end where a sample of `inner` positions ends, by the first position of their sample. */
function bySample(runs: readonly Run[], inner: number): Map<number, Run[]> {
  const samples = new Map<number, Run[]>();
  for (const { begin, end } of runs)
    for (let from = begin; from < end; ) {
      const first = from - (from % inner);
      const to = Math.min(end, first + inner);
      const runsOfSample = samples.get(first);
      if (runsOfSample) runsOfSample.push({ begin: from, end: to });
      else samples.set(first, [{ begin: from, end: to }]);
      from = to;
    }
  return samples;
}

/** Where a sub-batch lies: the part of a batch that `geometry` covers, from element `offset` on. */
export interface Place {
  readonly geometry: Geometry;
  /** The shape of the whole batch. */
  readonly shape: readonly number[];
  readonly layout: Layout;
  readonly offset: number;
}

/** Some positions of a batch, side by side in wasm memory. 16-bit elements are float32 there. */
export class PackedPositions {
  readonly tensor: Tensor<"float32" | "float64">;
  readonly operand: KernelOperand;
  readonly #room: Room;
  readonly #place: Place;
  readonly #runs: readonly Run[];
  readonly #positions: number;
  /** Whether a run of positions is one piece of memory: channels are last, or runs are whole samples. */
  readonly #contiguous: boolean;
  /** The type of the call's elements. */
  readonly #dtype: Dtype;

  /** Packs the positions of `runs` in `value`. Throws BatchNormError "out-of-memory". */
  constructor(heap: Heap, value: AnyTensor, place: Place, runs: readonly Run[], wholeSamples: boolean, dtype: Dtype) {
    const { geometry, layout } = place;
    const { channels } = geometry;
    this.#place = place;
    this.#runs = runs;
    this.#dtype = dtype;
    this.#contiguous = wholeSamples || layout === "channels-last";
    this.#positions = runs.reduce((sum, { begin, end }) => sum + end - begin, 0);
    const computed = computeDtype(dtype);
    const rows = [this.#positions, channels];
    const samples = [(this.#positions * geometry.samples) / geometry.count, ...place.shape.slice(1)];
    const shape = wholeSamples ? samples : layout === "channels-last" ? rows : [1, channels, this.#positions];
    const packed = geometryOf("mask", shape, layout, channels);
    this.#room = new Room(heap, dtype, packed.length);
    this.tensor = new Tensor(heap, shape, packed.length, computed, this.#room.pointer);
    this.operand = new KernelOperand(heap, this.tensor, packed, computed);
    try {
      this.#room.load(bitsOf(value.data), this.#dtypeOf(value), packed.length, (copy) => this.#eachRun(copy));
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  #dtypeOf(value: AnyTensor): Dtype {
    return operandDtype(value, this.#dtype) ?? this.#dtype;
  }

  /** Calls `copy` for every run of elements that lie together both in the room and in the batch. */
  #eachRun(copy: CopyRun): void {
    const { geometry, offset } = this.#place;
    const { channels, count, samples } = geometry;
    const inner = count / samples;
    let at = 0;
    if (this.#contiguous) {
      for (const { begin, end } of this.#runs) {
        copy(at * channels, offset + begin * channels, (end - begin) * channels);
        at += end - begin;
      }
      return;
    }
    // channel by channel, so that the short runs of a channel follow each other in memory
    for (const [first, runs] of bySample(this.#runs, inner)) {
      let next = at;
      for (let c = 0; c < channels; c++) {
        const batchAt = offset + first * channels + c * inner - first;
        next = at;
        for (const { begin, end } of runs) {
          copy(c * this.#positions + next, batchAt + begin, end - begin);
          next += end - begin;
        }
      }
      at = next;
    }
  }

  /** Copies the elements back to their places in a batch. */
  scatter(value: AnyTensor): void {
    const runs = (copy: CopyRun) => this.#eachRun(copy);
    this.#room.store(bitsOf(value.data), this.#dtypeOf(value), this.tensor.length, runs);
  }

  dispose(): void {
    this.operand.dispose();
    this.#room.dispose();
  }
}
