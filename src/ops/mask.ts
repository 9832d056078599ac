// Masks: which positions of a batch count, and for how much. A position is one value of every channel. What is masked is
// taken out by copying what remains side by side, so that statistics are those of a batch without the rest, bit for bit:
//
//   positions   k k - k | k - - - | k k k -        k: kept, in runs
//   compacted   k k k k k k k k                    [1, C, kept], or [kept, C] with channels last
//
//   positions   k k k k | - - - - | k k k k        samples that are kept or dropped as a whole
//   compacted   k k k k | k k k k                  [kept samples, C, …], as if the others had not been there

import { wrongKind, wrongLength, wrongValue } from "../common/errors.ts";
import { checkKeys } from "../common/validate.ts";
import { operandDtype } from "../memory/guards.ts";
import type { Heap } from "../memory/heap.ts";
import { KernelOperand } from "../memory/operand.ts";
import { type AnyTensor, Tensor } from "../memory/tensor.ts";
import { type CopyRun, Room } from "../memory/transfer.ts";
import { bitsOf, computeDtype, type Dtype } from "../tensor/dtype.ts";
import { type Geometry, geometryOf } from "../tensor/shape.ts";
import type { Layout } from "../tensor/types.ts";

/**
 * Which positions count, [N, …] without the channels: booleans, or weights ≥ 0, of which 0 masks. Or the lengths of N
 * sequences, [N, C, L] or [N, L, C].
 */
export type Mask = ArrayLike<boolean> | ArrayLike<number> | { lengths: ArrayLike<number> };

interface Run {
  readonly begin: number;
  readonly end: number;
}

/** A mask of one batch, as runs of positions. */
export interface Selection {
  readonly kept: readonly Run[];
  readonly dropped: readonly Run[];
  /** Positions in `kept`. */
  readonly positions: number;
  /** Whether samples are kept or dropped as a whole, so that what remains is a batch of such samples. */
  readonly whole: boolean;
  /** One for each kept position; undefined where all are 1. */
  readonly weights: Float64Array | undefined;
  /** Sum of the weights: what sums are divided by. */
  readonly count: number;
}

const isList = (value: unknown): value is ArrayLike<unknown> =>
  Array.isArray(value) || (ArrayBuffer.isView(value) && "length" in value);

/** The weights of all positions of a batch, [N, …]. Throws for a wrong mask. */
export function weightsOf(mask: Mask, shape: readonly number[], layout: Layout): Float64Array {
  const spatial = layout === "channels-last" ? shape.slice(1, -1) : shape.slice(2);
  const samples = shape[0] as number;
  const inner = spatial.reduce((a, b) => a * b, 1);
  const weights = new Float64Array(samples * inner);
  if (isList(mask)) {
    if (mask.length !== weights.length) throw wrongLength("mask", [samples, ...spatial], mask.length);
    let sum = 0;
    for (let i = 0; i < weights.length; i++) {
      const value: unknown = mask[i];
      if (typeof value !== "boolean" && typeof value !== "number")
        throw wrongKind(`mask[${i}]`, "a boolean or a weight", value);
      const weight = value === true ? 1 : value === false ? 0 : value;
      if (!(weight >= 0 && weight < Infinity)) throw wrongValue(`mask[${i}]`, "a finite weight ≥ 0", value);
      weights[i] = weight;
      sum += weight;
    }
    if (sum === Infinity) throw wrongValue("mask", "weights with a finite sum", sum);
    return weights;
  }
  if (typeof mask !== "object" || mask === null || !("lengths" in mask))
    throw wrongKind("mask", "an array of booleans or weights, or { lengths }", mask);
  checkKeys("mask", mask, ["lengths"]);
  const { lengths } = mask;
  if (!isList(lengths)) throw wrongKind("mask.lengths", "an array of integers", lengths);
  if (spatial.length !== 1)
    throw wrongValue("mask.lengths", `sequences, ${layout === "channels-last" ? "[N, L, C]" : "[N, C, L]"}`, shape);
  if (lengths.length !== samples) throw wrongLength("mask.lengths", [samples], lengths.length);
  for (let n = 0; n < samples; n++) {
    const length: unknown = lengths[n];
    if (!(Number.isInteger(length) && (length as number) >= 0 && (length as number) <= inner))
      throw wrongValue(`mask.lengths[${n}]`, `an integer from 0 to ${inner}`, length);
    weights.fill(1, n * inner, n * inner + (length as number));
  }
  return weights;
}

/** Positions [from, to) of a batch whose samples have `inner` positions; undefined where the mask changes nothing there. */
export function selectionOf(all: Float64Array, from: number, to: number, inner: number): Selection | undefined {
  const kept: Run[] = [];
  const dropped: Run[] = [];
  let positions = 0;
  let count = 0;
  let plain = true;
  let whole = true;
  for (let begin = from; begin < to; ) {
    const keep = all[begin] !== 0;
    let end = begin;
    while (end < to && (all[end] !== 0) === keep) {
      const weight = all[end++] as number;
      count += weight;
      if (keep && weight !== 1) plain = false;
    }
    (keep ? kept : dropped).push({ begin: begin - from, end: end - from });
    if (keep) positions += end - begin;
    if (end < to && (end - from) % inner !== 0) whole = false;
    begin = end;
  }
  if (plain && dropped.length === 0) return undefined;
  const weights = plain ? undefined : all.subarray(from, to).filter((w) => w !== 0);
  return { kept, dropped, positions, whole, weights, count };
}

/** Runs cut where a sample of `inner` positions ends, by the first position of their sample. */
function bySample(runs: readonly Run[], inner: number): Map<number, Run[]> {
  const samples = new Map<number, Run[]>();
  for (const { begin, end } of runs)
    for (let from = begin; from < end; ) {
      const first = from - (from % inner);
      const to = Math.min(end, first + inner);
      const own = samples.get(first);
      if (own) own.push({ begin: from, end: to });
      else samples.set(first, [{ begin: from, end: to }]);
      from = to;
    }
  return samples;
}

/** Where masked positions lie: the part of a batch that `geometry` covers, from element `offset` on. */
export interface Place {
  readonly geometry: Geometry;
  /** Of the whole batch. */
  readonly shape: readonly number[];
  readonly layout: Layout;
  readonly offset: number;
}

/** Some positions of a batch, side by side in wasm memory; 16-bit elements as float32. */
export class PackedPositions {
  readonly tensor: Tensor<"float32" | "float64">;
  readonly operand: KernelOperand;
  readonly #room: Room;
  readonly #place: Place;
  readonly #runs: readonly Run[];
  readonly #positions: number;
  /** Whether a position's channels lie together, or positions are whole samples: then a run is one piece of memory. */
  readonly #together: boolean;
  /** The type of the call's elements. */
  readonly #dtype: Dtype;

  /** The positions of `runs`, which are a selection's, in `value`. */
  constructor(heap: Heap, value: AnyTensor, place: Place, runs: readonly Run[], whole: boolean, dtype: Dtype) {
    const { geometry, layout } = place;
    const { channels } = geometry;
    this.#place = place;
    this.#runs = runs;
    this.#dtype = dtype;
    this.#together = whole || layout === "channels-last";
    this.#positions = runs.reduce((sum, { begin, end }) => sum + end - begin, 0);
    const own = computeDtype(dtype);
    const rows = [this.#positions, channels];
    const samples = [(this.#positions * geometry.samples) / geometry.count, ...place.shape.slice(1)];
    const shape = whole ? samples : layout === "channels-last" ? rows : [1, channels, this.#positions];
    const g = geometryOf("mask", shape, layout, channels);
    this.#room = new Room(heap, dtype, g.length);
    this.tensor = new Tensor(heap, shape, g.length, own, this.#room.pointer);
    this.operand = new KernelOperand(heap, this.tensor, g, own);
    try {
      this.#room.load(bitsOf(value.data), this.#dtypeOf(value), g.length, (copy) => this.#eachRun(copy));
    } catch (error) {
      this.dispose(); // of an exhausted memory
      throw error;
    }
  }

  #dtypeOf(value: AnyTensor): Dtype {
    return operandDtype(value, this.#dtype) ?? this.#dtype;
  }

  /** Runs of elements that lie together, here and in the batch. */
  #eachRun(copy: CopyRun): void {
    const { geometry, offset } = this.#place;
    const { channels, count, samples } = geometry;
    const inner = count / samples;
    let at = 0;
    if (this.#together) {
      for (const { begin, end } of this.#runs) {
        copy(at * channels, offset + begin * channels, (end - begin) * channels);
        at += end - begin;
      }
      return;
    }
    // channel by channel, so that short runs of one follow each other in memory
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

  /** Copies the elements to their places in a batch. */
  scatter(value: AnyTensor): void {
    const runs = (copy: CopyRun) => this.#eachRun(copy);
    this.#room.store(bitsOf(value.data), this.#dtypeOf(value), this.tensor.length, runs);
  }

  dispose(): void {
    this.operand.dispose();
    this.#room.dispose();
  }
}
