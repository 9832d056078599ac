// The protocol of SyncBatchNorm's exchanges, on any process group. An exchange gathers one packet of every rank:
//
//   | FORMAT | refuses | header: what has to agree between the ranks | values |
//
// A rank sends its packet when all of its own checks are over. If one of them has failed, the packet says that the rank
// refuses, so that no other rank waits for it. Every rank then checks all packets. Since all ranks have the same
// packets, all of them come to the same verdict, before any of them has changed its state.

import { asIs, faultyGroup, rankFailed, wrongExchange, wrongKind } from "../common/errors.ts";
import type { ProcessGroup } from "./process-group.ts";

/**
 * The first number of a packet: "BN" in ASCII, and the version of the format. Messages with another first number are not
 * packets.
 */
const FORMAT = 0x424e01;

/** The numbers of a packet before its header. */
const PREFIX = 2;

/** The strings that a header may contain. A packet holds the index of each. */
const WORDS = [
  ...["forward", "backward", "train", "batch", "eval", "frozen", "float32", "float64", "float16", "bfloat16"],
  ...["ema", "debiased", "cumulative", "population", "unbiased", "biased", "throw", "skip", "allow"],
  ...["none", "relu", "leaky_relu", "relu6", "silu"],
] as const;

/** What has to agree between the packets of an exchange, by the names that errors give it, in the order of the packet. */
export type Header = Readonly<Record<string, number | boolean | (typeof WORDS)[number]>>;

/** What this program knows of a group. */
interface GroupState {
  /** The number of layers that this rank has made. */
  layers: number;
  /** Whether a call of the group has returned a promise. */
  asynchronous: boolean;
  /** The latest exchange that is under way. It never rejects. */
  pending: Promise<void> | undefined;
}

const states = /* @__PURE__ */ new WeakMap<ProcessGroup, GroupState>();

function stateOf(group: ProcessGroup): GroupState {
  const state = states.get(group) ?? { layers: 0, asynchronous: false, pending: undefined };
  states.set(group, state);
  return state;
}

/** Returns the number of a new layer of a group: 1, 2, … in the order in which this rank makes them. */
export const nextLayer = (group: ProcessGroup): number => ++stateOf(group).layers;

/** Returns a rank's packet, with room for `width` values. A rank that has no values refuses. */
export function packetOf(header: Header, values: Float64Array | undefined, width: number): Float64Array {
  const entries = Object.values(header).map((value) => (typeof value === "string" ? WORDS.indexOf(value) : +value));
  const packet = new Float64Array(PREFIX + entries.length + width);
  packet.set([FORMAT, values ? 0 : 1, ...entries]);
  if (values) packet.set(values, PREFIX + entries.length);
  return packet;
}

/**
 * Checks the packets of all ranks, which follow each other in `all`. `sent` is this rank's own. Returns the index of the
 * first value in a packet. Throws BatchNormError "group", the same on all ranks, if a rank refuses or if a packet does
 * not belong to rank 0's.
 */
export function checkPackets(all: Float64Array, sent: Float64Array, header: Header, rank: number): number {
  const width = sent.length;
  const names = Object.keys(header);
  const values = PREFIX + names.length;
  // a group may transport float32
  for (let i = 0; i < values; i++)
    if (Math.fround(all[rank * width + i] as number) !== Math.fround(sent[i] as number))
      throw faultyGroup(rank, sent[i] as number, all[rank * width + i]);
  for (let start = 0; start < all.length; start += width)
    if (all[start] !== all[rank * width])
      throw wrongExchange(`rank ${start / width}`, "an exchange of SyncBatchNorm", asIs("other numbers"));
  for (let start = 0; start < all.length; start += width)
    if (all[start + 1] !== 0) throw rankFailed(start / width, String(header.phase));
  for (let start = width; start < all.length; start += width)
    for (const [i, name] of names.entries()) {
      const [expected, got] = [all[PREFIX + i] as number, all[start + PREFIX + i] as number];
      const show = (entry: number) => {
        const own = header[name];
        return typeof own === "string" ? (WORDS[entry] ?? entry) : typeof own === "boolean" ? entry === 1 : entry;
      };
      if (!Object.is(expected, got))
        throw wrongExchange(`rank ${start / width}`, `${name} ${show(expected)} as on rank 0`, show(got));
    }
  return values;
}

const isThenable = (value: unknown): value is PromiseLike<unknown> =>
  typeof (value as Partial<PromiseLike<unknown>> | null | undefined)?.then === "function";

/**
 * Gathers the packets of all ranks, at once or as a promise. Exchanges of different layers that are under way at the same
 * time wait for each other, unless the group can tell them apart.
 */
export function gather(group: ProcessGroup, packet: Float64Array, layer: number): Float64Array | Promise<Float64Array> {
  const state = stateOf(group);
  const call = () => {
    const all = new Float64Array(group.size * packet.length);
    let done: unknown;
    if (group.gather) done = group.gather(packet, all, layer);
    else {
      all.set(packet, group.rank * packet.length);
      done = group.sum(all, layer);
    }
    return isThenable(done) ? Promise.resolve(done).then(() => all) : all;
  };
  const result = state.pending && !group.tagged ? state.pending.then(call) : call();
  if (!(result instanceof Promise)) return result;
  state.asynchronous = true;
  const over = result.then(
    () => {},
    () => {}, // the caller of this exchange gets its error, and the next one begins nevertheless
  );
  state.pending = over;
  over.then(() => {
    if (state.pending === over) state.pending = undefined;
  });
  return result;
}

/** Gathers the packets of all ranks at once. Throws TypeError for an asynchronous group, if it can before it sends. */
export function gatherNow(group: ProcessGroup, packet: Float64Array, layer: number): Float64Array {
  const functions: unknown[] = [group.sum, group.gather];
  const known =
    stateOf(group).asynchronous ||
    functions.some((f) => (f as Partial<Record<symbol, unknown>>)?.[Symbol.toStringTag] === "AsyncFunction");
  const all = known ? undefined : gather(group, packet, layer);
  if (all instanceof Float64Array) return all;
  throw wrongKind("group", "one that sums at once, or a call of forwardAsync and backwardAsync", group);
}
