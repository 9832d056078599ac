// Groups: what makes the ranks of a synchronised batch norm one, by two operations over all of them: a sum, and a gathering.
//
//   sharedGroup   threads that share memory, synchronous:  | control | slots of turn 0 | slots of turn 1 |
//   portGroup     threads that do not, over MessagePorts in a star around rank 0, asynchronous
//
// Sums are taken in the order of the ranks, whoever takes them, so that every rank gets the same bits.

import { lostRank, wrongKind, wrongLength, wrongValue } from "./errors.ts";
import { sharedMemory } from "./features.ts";
import { checkKeys } from "./options.ts";

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

function addTo(sum: Float64Array, values: Float64Array): void {
  for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) + (values[i] as number);
}

/** Throws RangeError if `all` is not as long as the values of all ranks together. */
export function checkAll(all: Float64Array, values: Float64Array, size: number): void {
  if (all.length !== size * values.length) throw wrongLength("all", [size, values.length], all.length);
}

/** A rank that does not come for so long is lost. */
const TIMEOUT_MS = 30_000;

export function wholeFrom(least: number, name: string, value: unknown): number {
  if (typeof value !== "number") throw wrongKind(name, "a number", value);
  if (!(Number.isInteger(value) && value >= least)) throw wrongValue(name, `a whole number from ${least} on`, value);
  return value;
}

function rankOf(rank: unknown, size: number): number {
  const checked = wholeFrom(0, "rank", rank);
  if (checked >= size) throw wrongValue("rank", `a rank from 0 to ${size - 1}`, rank);
  return checked;
}

export function timeoutOf(options: { timeoutMs?: number }): number {
  checkKeys("group options", options, ["timeoutMs"]);
  return wholeFrom(1, "timeoutMs", options.timeoutMs ?? TIMEOUT_MS);
}

// ---- shared memory --------------------------------------------------------------------------------------------------

/** Words of the control block. */
const ARRIVED = 0;
const TURN = 1;
const SIZE = 2;
const CAPACITY = 3;
/** Value of TURN once a rank has given up. A turn either succeeds for all ranks or is lost for all. */
const LOST = -1;
const CONTROL_BYTES = 64;

/**
 * Looks at the turn before a thread sleeps. A sum over 2 threads on 2 cores takes 10 µs with them and 46 without, over 4
 * threads as long with as without (56 µs), and 242 with 30,000.
 */
const SPINS = 2000;

/**
 * Memory of a group of `size` threads, to be posted to each of them, which calls sharedGroup with it. `capacity` is how many
 * numbers pass in one turn; more go in several. Throws where memory cannot be shared.
 */
export function sharedGroupMemory(size: number, capacity = 4096): SharedArrayBuffer {
  wholeFrom(1, "size", size);
  wholeFrom(1, "capacity", capacity);
  if (!sharedMemory())
    throw wrongValue("sharedGroupMemory", "an engine or page that shares memory", "one that does not");
  const memory = new SharedArrayBuffer(CONTROL_BYTES + 2 * size * capacity * 8);
  const control = new Int32Array(memory, 0, CONTROL_BYTES / 4);
  control[SIZE] = size;
  control[CAPACITY] = capacity;
  return memory;
}

class SharedGroup implements AllReduce<void> {
  readonly rank: number;
  readonly size: number;
  readonly #control: Int32Array;
  readonly #slots: Float64Array;
  readonly #capacity: number;
  readonly #timeoutMs: number;

  constructor(memory: SharedArrayBuffer, rank: number, timeoutMs: number) {
    this.#control = new Int32Array(memory, 0, CONTROL_BYTES / 4);
    this.size = this.#control[SIZE] as number;
    this.rank = rankOf(rank, this.size);
    this.#capacity = this.#control[CAPACITY] as number;
    this.#slots = new Float64Array(memory, CONTROL_BYTES);
    this.#timeoutMs = timeoutMs;
  }

  sum(values: Float64Array): void {
    this.#exchange(values, (rank, part, at) => {
      const into = values.subarray(at, at + part.length);
      if (rank === 0) into.set(part);
      else addTo(into, part);
    });
  }

  gather(values: Float64Array, all: Float64Array): void {
    checkAll(all, values, this.size);
    this.#exchange(values, (rank, part, at) => all.set(part, rank * values.length + at));
  }

  /** Has `take` see every rank's values in the order of the ranks, in parts of what passes in one turn. */
  #exchange(values: Float64Array, take: (rank: number, part: Float64Array, at: number) => void): void {
    for (let at = 0; at < values.length; at += this.#capacity) {
      const own = values.subarray(at, at + this.#capacity);
      const from = this.#turn(own);
      for (let rank = 0; rank < this.size; rank++) {
        const slot = from + rank * this.#capacity;
        take(rank, this.#slots.subarray(slot, slot + own.length), at);
      }
    }
  }

  /**
   * Puts values into this rank's slot and returns where the first rank's is, when all have done so. Slots alternate, so that
   * nobody overwrites what a slower rank still reads: one wait a turn is enough.
   */
  #turn(values: Float64Array): number {
    const control = this.#control;
    const turn = Atomics.load(control, TURN);
    if (turn === LOST) throw this.#lost();
    const base = (turn & 1) * this.size * this.#capacity;
    this.#slots.set(values, base + this.rank * this.#capacity);
    if (Atomics.add(control, ARRIVED, 1) < this.size - 1) this.#wait(turn);
    else {
      Atomics.store(control, ARRIVED, 0);
      this.#end(turn, (turn + 1) & 0x7fffffff);
    }
    if (Atomics.load(control, TURN) === LOST) throw this.#lost();
    return base;
  }

  #wait(turn: number): void {
    const control = this.#control;
    for (let spins = 0; spins < SPINS; spins++) if (Atomics.load(control, TURN) !== turn) return;
    const end = performance.now() + this.#timeoutMs;
    while (Atomics.load(control, TURN) === turn) {
      const left = end - performance.now();
      if (left > 0) Atomics.wait(control, TURN, turn, left);
      else this.#end(turn, LOST);
    }
  }

  /** Ends a turn, unless another rank has done so. */
  #end(turn: number, next: number): void {
    Atomics.compareExchange(this.#control, TURN, turn, next);
    Atomics.notify(this.#control, TURN);
  }

  #lost(): Error {
    return lostRank(this.rank, this.size, `a turn did not end within ${this.#timeoutMs} ms`);
  }
}

/**
 * The group that a thread is in, by the memory that sharedGroupMemory made and the thread's rank. Waiting blocks the
 * thread, which a page's main thread must not.
 */
export function sharedGroup(
  memory: SharedArrayBuffer,
  rank: number,
  options: { timeoutMs?: number } = {},
): AllReduce<void> {
  if (!(memory instanceof SharedArrayBuffer)) throw wrongKind("memory", "what sharedGroupMemory returns", memory);
  return new SharedGroup(memory, rank, timeoutOf(options));
}

// ---- ports ----------------------------------------------------------------------------------------------------------

/** A rank's ends of a group's ports: of all others where it is rank 0, else of rank 0's. To be posted to it, transferred. */
export interface GroupPorts {
  readonly rank: number;
  readonly size: number;
  readonly ports: readonly MessagePort[];
}

/** The ports of a group of `size` ranks, one entry for each. */
export function groupPorts(size: number): GroupPorts[] {
  wholeFrom(1, "size", size);
  const channels = Array.from({ length: size - 1 }, () => new MessageChannel());
  const others = channels.map(({ port2 }, i) => ({ rank: i + 1, size, ports: [port2] }));
  return [{ rank: 0, size, ports: channels.map(({ port1 }) => port1) }, ...others];
}

/** What came over one port, and who waits for more. */
class Inbox {
  readonly #arrived: Float64Array[] = [];
  #waiting: ((values: Float64Array) => void) | undefined;
  readonly #port: MessagePort;

  constructor(port: MessagePort) {
    this.#port = port;
    port.onmessage = ({ data }: MessageEvent<Float64Array>) => {
      const waiting = this.#waiting;
      this.#waiting = undefined;
      if (waiting) waiting(data);
      else this.#arrived.push(data);
    };
  }

  post(values: Float64Array): void {
    this.#port.postMessage(values);
  }

  /** The next message; rejects with `lost` where none comes in time. */
  next(timeoutMs: number, lost: () => Error): Promise<Float64Array> {
    const there = this.#arrived.shift();
    if (there) return Promise.resolve(there);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(lost()), timeoutMs);
      this.#waiting = (values) => {
        clearTimeout(timer);
        resolve(values);
      };
    });
  }

  close(): void {
    this.#port.close();
  }
}

class PortGroup implements AllReduce<Promise<void>> {
  readonly rank: number;
  readonly size: number;
  readonly #inboxes: readonly Inbox[];
  readonly #timeoutMs: number;
  /** Set once a rank is late: a message that arrives later would be taken for one of the next exchange. */
  #lost: Error | undefined;

  constructor({ rank, size, ports }: GroupPorts, timeoutMs: number) {
    this.size = wholeFrom(1, "size", size);
    this.rank = rankOf(rank, size);
    this.#inboxes = ports.map((port) => new Inbox(port));
    this.#timeoutMs = timeoutMs;
  }

  async sum(values: Float64Array): Promise<void> {
    const sum = (all: readonly Float64Array[]) => {
      const [first, ...others] = all as [Float64Array, ...Float64Array[]];
      const total = first.slice();
      for (const other of others) addTo(total, other);
      return total;
    };
    values.set(await this.#exchange(values, sum));
  }

  async gather(values: Float64Array, all: Float64Array): Promise<void> {
    checkAll(all, values, this.size);
    const join = (parts: readonly Float64Array[]) => {
      const joined = new Float64Array(all.length);
      for (const [rank, part] of parts.entries()) joined.set(part, rank * part.length);
      return joined;
    };
    all.set(await this.#exchange(values, join));
  }

  /** What `combine` makes of all ranks' values, which rank 0 does for all. */
  async #exchange(
    values: Float64Array,
    combine: (all: readonly Float64Array[]) => Float64Array,
  ): Promise<Float64Array> {
    if (this.#lost) throw this.#lost;
    const from = (rank: number, inbox: Inbox) =>
      inbox.next(this.#timeoutMs, () => {
        const what = `nothing came from rank ${rank} within ${this.#timeoutMs} ms`;
        this.#lost ??= lostRank(this.rank, this.size, what);
        return this.#lost;
      });
    if (this.rank > 0) {
      const center = this.#inboxes[0] as Inbox;
      center.post(values.slice()); // a view would be sent with all that it is a view of
      return from(0, center);
    }
    const others = await Promise.all(this.#inboxes.map((inbox, i) => from(i + 1, inbox)));
    const combined = combine([values, ...others]);
    for (const inbox of this.#inboxes) inbox.post(combined);
    return combined;
  }

  /** Lets the thread end. */
  close(): void {
    for (const inbox of this.#inboxes) inbox.close();
  }
}

/** The group that a thread is in, by its entry of groupPorts; `close` ends it. */
export function portGroup(
  ports: GroupPorts,
  options: { timeoutMs?: number } = {},
): AllReduce<Promise<void>> & { close(): void } {
  if (typeof ports !== "object" || ports === null || !Array.isArray(ports.ports))
    throw wrongKind("ports", "an entry of what groupPorts returns", ports);
  return new PortGroup(ports, timeoutOf(options));
}
