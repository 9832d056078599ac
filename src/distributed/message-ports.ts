// A process group of threads or pages that do not share memory, over MessagePorts in a star around rank 0. Its calls are
// asynchronous.

import { lostRank, wrongKind } from "../common/errors.ts";
import { integerAtLeast } from "../common/validate.ts";
import { type AllReduce, addTo, checkAll, rankOf, timeoutOf } from "./process-group.ts";

/** A rank's ends of a group's ports: of all others where it is rank 0, else of rank 0's. To be posted to it, transferred. */
export interface GroupPorts {
  readonly rank: number;
  readonly size: number;
  readonly ports: readonly MessagePort[];
}

/** The ports of a group of `size` ranks, one entry for each. */
export function groupPorts(size: number): GroupPorts[] {
  integerAtLeast(1, "size", size);
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
    this.size = integerAtLeast(1, "size", size);
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
