// A process group of threads or pages that do not share memory. Every rank has a MessagePort to rank 0, which combines
// the values of all ranks. The calls are asynchronous.

import { lostRank, wrongKind, wrongValue } from "../common/errors.ts";
import type { Port } from "../common/globals.ts";
import { checkObject, integerAtLeast } from "../common/validate.ts";
import { addTo, checkAll, type ProcessGroup, rankOf, timeoutOf } from "./process-group.ts";

/**
 * The ports of one rank: rank 0 has a port to every other rank, and every other rank has one port to rank 0. Post it to
 * the rank's thread, with `ports` in the list of transferred objects.
 */
export interface GroupMessagePorts {
  readonly rank: number;
  readonly size: number;
  readonly ports: readonly Port[];
}

/**
 * Returns the ports of a group of `size` ranks, one entry for each rank. Throws TypeError or RangeError for a wrong
 * size.
 */
export function createMessagePorts(size: number): GroupMessagePorts[] {
  integerAtLeast(1, "size", size);
  const { MessageChannel } = globalThis;
  if (!MessageChannel) throw wrongKind("createMessagePorts", "an engine with MessageChannel", MessageChannel);
  const channels = Array.from({ length: size - 1 }, () => new MessageChannel());
  const others = channels.map(({ port2 }, i) => ({ rank: i + 1, size, ports: [port2] }));
  return [{ rank: 0, size, ports: channels.map(({ port1 }) => port1) }, ...others];
}

/** One end of a port: the messages that have arrived, and the receiver that waits for the next one. */
class Inbox {
  readonly #arrived: Float64Array[] = [];
  #receive: ((values: Float64Array) => void) | undefined;
  readonly #port: MessagePort;

  constructor(port: MessagePort) {
    this.#port = port;
    port.onmessage = ({ data }: MessageEvent<Float64Array>) => {
      const receive = this.#receive;
      this.#receive = undefined;
      if (receive) receive(data);
      else this.#arrived.push(data);
    };
  }

  post(values: Float64Array): void {
    this.#port.postMessage(values);
  }

  /** Resolves to the next message. Rejects with the error of `lost` if none arrives in time. */
  next(timeoutMs: number, lost: () => Error): Promise<Float64Array> {
    const arrived = this.#arrived.shift();
    if (arrived) return Promise.resolve(arrived);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(lost()), timeoutMs);
      this.#receive = (values) => {
        clearTimeout(timer);
        resolve(values);
      };
    });
  }

  close(): void {
    this.#port.close();
  }
}

/** A rank of a group over ports. */
class PortGroup implements ProcessGroup<Promise<void>> {
  readonly rank: number;
  readonly size: number;
  readonly #inboxes: readonly Inbox[];
  readonly #timeoutMs: number;
  /**
   * The error of all calls after a rank was late. Its late message would otherwise count as one of the next exchange.
   */
  #lost: Error | undefined;

  constructor({ rank, size, ports }: GroupMessagePorts, timeoutMs: number) {
    this.size = integerAtLeast(1, "size", size);
    this.rank = rankOf(rank, size);
    const count = rank > 0 ? 1 : size - 1;
    if (ports.length !== count) throw wrongValue("ports.ports", `${count} for rank ${rank} of ${size}`, ports);
    const wrong = ports.findIndex((port) => typeof (port as MessagePort | null)?.postMessage !== "function");
    if (wrong >= 0) throw wrongKind(`ports.ports[${wrong}]`, "a MessagePort", ports[wrong]);
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

  /** Resolves to the result of `combine` on the values of all ranks. Rank 0 computes it and sends it to the others. */
  async #exchange(
    values: Float64Array,
    combine: (all: readonly Float64Array[]) => Float64Array,
  ): Promise<Float64Array> {
    if (this.#lost) throw this.#lost;
    const receiveFrom = (rank: number, inbox: Inbox) =>
      inbox.next(this.#timeoutMs, () => {
        const what = `nothing came from rank ${rank} within ${this.#timeoutMs} ms`;
        this.#lost ??= lostRank(this.rank, this.size, what);
        return this.#lost;
      });
    if (this.rank > 0) {
      const inbox = this.#inboxes[0] as Inbox;
      inbox.post(values.slice()); // a view would be sent with its whole buffer
      return receiveFrom(0, inbox);
    }
    const others = await Promise.all(this.#inboxes.map((inbox, i) => receiveFrom(i + 1, inbox)));
    const combined = combine([values, ...others]);
    for (const inbox of this.#inboxes) inbox.post(combined);
    return combined;
  }

  /** Closes the ports, so that the thread can end. */
  close(): void {
    for (const inbox of this.#inboxes) inbox.close();
  }
}

/**
 * Returns the group of a thread, from the thread's entry of `createMessagePorts`. `close` ends it. Throws TypeError or
 * RangeError for wrong arguments.
 */
export function messagePortGroup(
  ports: GroupMessagePorts,
  options: { timeoutMs?: number } = {},
): ProcessGroup<Promise<void>> & { close(): void } {
  checkObject("ports", ports, "an entry of what createMessagePorts returns");
  if (!Array.isArray(ports.ports)) throw wrongKind("ports", "an entry of what createMessagePorts returns", ports);
  return new PortGroup(ports, timeoutOf(options));
}
