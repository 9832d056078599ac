// Groups: what makes the ranks of a synchronised batch norm one, by two operations over all of them: a sum, and a gathering.
// shared-memory.ts, message-ports.ts and mpi.ts make such groups.
//
// Sums are taken in the order of the ranks, whoever takes them, so that every rank gets the same bits.

import { wrongLength, wrongValue } from "../common/errors.ts";
import { checkKeys, integerAtLeast } from "../common/validate.ts";

/**
 * A group of ranks as one of them sees it. `sum` replaces values by their sums over all ranks, the same bits on every one,
 * and is called by all in the same order with as many values. It returns when that is done, or a promise of it; a rank
 * that does not come is an error after some time, and not a hang.
 */
export interface AllReduce<R extends undefined | Promise<void> | void = Promise<void> | void> {
  /** 0 to size − 1. */
  readonly rank: number;
  readonly size: number;
  sum(values: Float64Array): R;
  /**
   * Fills `all`, size times as long as values, with those of every rank in their order; otherwise as sum. A group may have it
   * or not: without it, what does not add up is gathered by a sum of as many numbers, which takes twice as many bytes.
   */
  gather?(values: Float64Array, all: Float64Array): R;
}

export function addTo(sum: Float64Array, values: Float64Array): void {
  for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) + (values[i] as number);
}

/** Throws RangeError if `all` is not as long as the values of all ranks together. */
export function checkAll(all: Float64Array, values: Float64Array, size: number): void {
  if (all.length !== size * values.length) throw wrongLength("all", [size, values.length], all.length);
}

/** A rank that does not come for so long is lost. */
const TIMEOUT_MS = 30_000;

export function rankOf(rank: unknown, size: number): number {
  const checked = integerAtLeast(0, "rank", rank);
  if (checked >= size) throw wrongValue("rank", `a rank from 0 to ${size - 1}`, rank);
  return checked;
}

export function timeoutOf(options: { timeoutMs?: number }): number {
  checkKeys("group options", options, ["timeoutMs"]);
  return integerAtLeast(1, "timeoutMs", options.timeoutMs ?? TIMEOUT_MS);
}
