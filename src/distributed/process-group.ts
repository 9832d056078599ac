// The interface of process groups. The ranks of a group normalise one batch together, by two operations: a sum over all
// ranks, and a gather of the values of all ranks. shared-memory.ts, message-ports.ts and mpi.ts make such groups.
//
// Sums are taken in the order of the ranks, so that every rank gets the same bits.

import { asIs, wrongExchange, wrongKind, wrongLength, wrongValue } from "../common/errors.ts";
import { arrayKind, checkKeys, integerAtLeast } from "../common/validate.ts";

/**
 * A process group as one of its ranks sees it. All ranks make the same calls, in the same order and with the same
 * number of values. A call returns when the exchange is done, or returns a promise of that. If a rank does not take
 * part, the call fails after a time instead of waiting forever.
 */
export interface ProcessGroup<R extends undefined | Promise<void> | void = Promise<void> | void> {
  /** The number of this rank, from 0 to size − 1. */
  readonly rank: number;
  /** The number of ranks. */
  readonly size: number;
  /**
   * Whether exchanges with different tags may be under way at the same time, each in its own order. Without it, layers
   * of an asynchronous group exchange one after the other.
   */
  readonly tagged?: boolean;
  /** Replaces the values by their sums over all ranks. Every rank gets the same bits. A layer's tag is its number. */
  sum(values: Float64Array, tag?: number): R;
  /**
   * Fills `all`, which is `size` times as long as `values`, with the values of all ranks in the order of the ranks. It
   * is optional: without it, SyncBatchNorm gathers by a sum over `all`, which sends twice as many bytes.
   */
  gather?(values: Float64Array, all: Float64Array, tag?: number): R;
}

/** The kinds of an exchange. A message holds the index of its kind. */
export const KINDS = ["sum", "gather"] as const;

/** The numbers of a message before its values: the kind of the exchange, and its number of values. */
export const HEAD = 2;

/** Throws BatchNormError "group", the same on every rank, if the messages of all ranks do not begin alike. */
export function checkAlike(messages: readonly Float64Array[]): void {
  const what = ([kind, length]: Float64Array) => `a ${KINDS[kind as number]} of ${length} numbers`;
  const [first] = messages as [Float64Array];
  for (const [rank, message] of messages.entries())
    for (let i = 0; i < HEAD; i++)
      if (message[i] !== first[i])
        throw wrongExchange(`rank ${rank}`, `${what(first)} as on rank 0`, asIs(what(message)));
}

/** Adds `values` to `sum`, element by element. */
export function addTo(sum: Float64Array, values: Float64Array): void {
  for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) + (values[i] as number);
}

/** Returns `values` if they are a Float64Array. Otherwise throws TypeError. */
export function checkValues(values: Float64Array): Float64Array {
  if (arrayKind(values) !== "Float64Array") throw wrongKind("values", "a Float64Array", values);
  return values;
}

/** Throws RangeError if `all` is not as long as the values of all ranks together. */
export function checkAll(all: Float64Array, values: Float64Array, size: number): void {
  if (all.length !== size * values.length) throw wrongLength("all", [size, values.length], all.length);
}

/**
 * The default time in milliseconds after which a missing rank is lost. It is a choice, not a measurement: a rank may be
 * seconds late, when it compiles or saves a file, and a hang should be noticed within a minute.
 */
const TIMEOUT_MS = 30_000;

/** Returns `rank` if it is an integer from 0 to size − 1. Otherwise throws TypeError or RangeError. */
export function rankOf(rank: unknown, size: number): number {
  const checked = integerAtLeast(0, "rank", rank);
  if (checked >= size) throw wrongValue("rank", `a rank from 0 to ${size - 1}`, rank);
  return checked;
}

/**
 * Returns the option `timeoutMs` of a group, 30 s by default. Throws TypeError or RangeError for other options or
 * values.
 */
export function timeoutOf(options: { timeoutMs?: number }): number {
  checkKeys("group options", options, ["timeoutMs"]);
  return integerAtLeast(1, "timeoutMs", options.timeoutMs ?? TIMEOUT_MS);
}
