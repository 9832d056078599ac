// A process group of threads or pages that do not share memory. Every rank has a MessagePort to rank 0, which combines
// the values of all ranks. The calls are asynchronous.
//
//   rank r → rank 0    the values of rank r for exchange `number` of `tag`
//   rank 0 → rank r    what they make together, when those of all ranks have arrived
//   either way         the group is lost: a rank was late, sent something else, or has closed its ports

import { asIs, BatchNormError, lostRank, wrongExchange, wrongKind, wrongValue } from "../common/errors.ts";
import type { Port } from "../common/globals.ts";
import { arrayKind, checkObject, integerAtLeast, isArray } from "../common/validate.ts";
import { addTo, checkAll, checkValues, type ProcessGroup, rankOf, timeoutOf } from "./process-group.ts";

/**
 * The ports of one rank: rank 0 has a port to every other rank, and every other rank has one port to rank 0. Post it to
 * the rank's thread, with `ports` in the list of transferred objects.
 */
export interface GroupMessagePorts {
  /** The number of this rank, from 0. */
  readonly rank: number;
  /** The number of ranks. */
  readonly size: number;
  /** The ports: of rank 0 one for each other rank, in their order, of any other rank the one to rank 0. */
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

/** The values of a rank on their way to rank 0. */
interface Part {
  readonly kind: "sum" | "gather";
  readonly tag: number;
  /** The number of the exchange among those of its tag, from 1 on. */
  readonly number: number;
  readonly values: Float64Array;
}

/** What rank 0 answers: the combined values, or the message of an error if the parts do not belong together. */
interface Answer {
  readonly kind: "result";
  readonly tag: number;
  readonly number: number;
  readonly values: Float64Array | string;
}

/** The end of the group, from the rank that has noticed it, through rank 0 to all others. */
interface End {
  readonly kind: "lost";
  readonly why: string;
}

/** Returns whether a message is a Part or an Answer. */
function isExchange(message: unknown): message is Part | Answer {
  const { kind, tag, number, values } = (message ?? {}) as Partial<Record<keyof Part, unknown>>;
  return (
    (arrayKind(values) === "Float64Array"
      ? kind === "sum" || kind === "gather" || kind === "result"
      : typeof values === "string" && kind === "result") &&
    Number.isInteger(tag) &&
    Number.isInteger(number)
  );
}

/** An exchange that has begun on some rank, and has not ended on this one. */
interface Exchange {
  /** On rank 0, the parts that have arrived, by rank. */
  readonly parts: Part[];
  /** The length of the result. Undefined before this rank has begun the exchange, as `end` is. */
  length?: number;
  /** Ends the exchange on this rank. */
  end?: (result: Float64Array | Error) => void;
}

/**
 * A rank of a group over ports. Messages belong to an exchange by its tag and number, so that it does not matter in which
 * order they arrive. Messages of an exchange that is over are ignored.
 */
class PortGroup implements ProcessGroup<Promise<void>> {
  readonly rank: number;
  readonly size: number;
  readonly tagged = true;
  readonly #ports: readonly MessagePort[];
  readonly #timeoutMs: number;
  /** The exchanges under way, by tag and number. */
  readonly #exchanges = new Map<string, Exchange>();
  /** The number of exchanges of each tag that this rank has begun. */
  readonly #begun = new Map<number, number>();
  /** The error of all calls after the group was lost or closed. */
  #lost: Error | undefined;

  constructor({ rank, size, ports }: GroupMessagePorts, timeoutMs: number) {
    this.size = integerAtLeast(1, "size", size);
    this.rank = rankOf(rank, size);
    const count = rank > 0 ? 1 : size - 1;
    if (ports.length !== count) throw wrongValue("ports.ports", `${count} for rank ${rank} of ${size}`, ports);
    const wrong = ports.findIndex((port) => typeof (port as MessagePort | null)?.postMessage !== "function");
    if (wrong >= 0) throw wrongKind(`ports.ports[${wrong}]`, "a MessagePort", ports[wrong]);
    this.#ports = ports as readonly MessagePort[];
    this.#timeoutMs = timeoutMs;
    for (const [i, port] of this.#ports.entries()) {
      const from = rank > 0 ? 0 : i + 1;
      port.onmessage = ({ data }: MessageEvent<unknown>) => this.#receive(from, data);
      // engines tell of the end of the other thread, but not all of them
      port.addEventListener?.("close", () => this.#lose(`rank ${from} has gone`));
      port.onmessageerror = () => this.#lose(`a message of rank ${from} could not be read`);
    }
  }

  async sum(values: Float64Array, tag = 0): Promise<void> {
    values.set(await this.#exchange("sum", values, tag));
  }

  async gather(values: Float64Array, all: Float64Array, tag = 0): Promise<void> {
    checkAll(all, values, this.size);
    all.set(await this.#exchange("gather", values, tag));
  }

  /** Begins an exchange. Resolves to what rank 0 makes of the values of all ranks. */
  #exchange(kind: Part["kind"], values: Float64Array, tag: number): Promise<Float64Array> {
    const number = (this.#begun.get(integerAtLeast(0, "tag", tag)) ?? 0) + 1;
    const part = { kind, tag, number, values: checkValues(values).slice() }; // a view would be sent with its whole buffer
    if (this.#lost) throw this.#lost;
    this.#begun.set(tag, number);
    return new Promise((resolve, reject) => {
      const exchange = this.#exchangeOf(part);
      exchange.length = (kind === "sum" ? 1 : this.size) * values.length;
      const timer = setTimeout(() => this.#lose(this.#missing(exchange, tag)), this.#timeoutMs);
      exchange.end = (result) => {
        clearTimeout(timer);
        this.#exchanges.delete(`${tag}/${number}`);
        if (result instanceof Error) reject(result);
        else resolve(result);
      };
      if (this.rank > 0) this.#post(part);
      else this.#take(exchange, 0, part);
    });
  }

  /** The exchange of a message, which may be new. */
  #exchangeOf({ tag, number }: Part | Answer): Exchange {
    const key = `${tag}/${number}`;
    const exchange = this.#exchanges.get(key) ?? { parts: [] };
    this.#exchanges.set(key, exchange);
    return exchange;
  }

  #post(message: Part | Answer | End): void {
    for (const port of this.#ports) port.postMessage(message);
  }

  #receive(from: number, message: unknown): void {
    // messages of an exchange that is over, second messages of a rank, and messages of a lost group have no use
    if (this.#lost) return;
    const { kind, why } = (message ?? {}) as Partial<End>;
    if (kind === "lost") this.#lose(String(why), false);
    else if (!isExchange(message) || (message.kind === "result") !== this.rank > 0) this.#loseBy(from);
    else if (!this.#isOver(message)) {
      const exchange = this.#exchangeOf(message);
      const { end, length } = exchange;
      if (message.kind !== "result") this.#take(exchange, from, message);
      else if (end && typeof message.values === "string") end(new BatchNormError("group", message.values));
      else if (end && message.values.length === length) end(message.values as Float64Array);
      else this.#loseBy(from);
    }
  }

  #isOver({ tag, number }: Part | Answer): boolean {
    return number <= (this.#begun.get(tag) ?? 0) && !this.#exchanges.has(`${tag}/${number}`);
  }

  #loseBy(from: number): void {
    this.#lose(`rank ${from} sent what is no message of the group`);
  }

  /** Takes a rank's part on rank 0, and ends the exchange if it is the last one. */
  #take(exchange: Exchange, from: number, part: Part): void {
    const { parts } = exchange;
    parts[from] ??= part;
    if (Object.keys(parts).length < this.size) return;
    const what = ({ kind, values }: Part) => `a ${kind} of ${values.length} numbers`;
    const expected = what(parts[0] as Part);
    const unlike = parts.findIndex((other) => what(other) !== expected);
    const result =
      unlike < 0
        ? combined(parts)
        : wrongExchange(`rank ${unlike}`, `${expected} as on rank 0`, asIs(what(parts[unlike] as Part)));
    const values = result instanceof Error ? result.message : result;
    this.#post({ kind: "result", tag: part.tag, number: part.number, values });
    exchange.end?.(result);
  }

  /** What this rank knows of an exchange that has not ended in time. */
  #missing({ parts }: Exchange, tag: number): string {
    // ranks other than 0 have no parts, and wait for rank 0
    const from = Array.from({ length: this.size }, (_, i) => i).findIndex((i) => !parts[i]);
    const others = [...this.#exchanges.values()].map((other) => other.parts[from]).find((part) => part);
    const elsewhere = others ? `, which waits in an exchange of tag ${others.tag}` : "";
    return `nothing came from rank ${from} within ${this.#timeoutMs} ms in an exchange of tag ${tag}${elsewhere}`;
  }

  /** Ends the group on this rank, and on all others. */
  #lose(what: string, isOwn = true): void {
    if (this.#lost) return;
    this.#lost = lostRank(this.rank, this.size, what);
    this.#post({ kind: "lost", why: isOwn ? `rank ${this.rank} says: ${what}` : what });
    for (const { end } of [...this.#exchanges.values()]) end?.(this.#lost);
  }

  /** Closes the ports, so that the thread can end. Calls under way and later calls fail, on all ranks. */
  close(): void {
    this.#lose(`rank ${this.rank} has closed its ports`);
    for (const port of this.#ports) port.close();
  }
}

/** The sums or the sequence of the values of all ranks. */
function combined(parts: readonly Part[]): Float64Array {
  const [{ kind, values }] = parts as [Part];
  const result = new Float64Array(kind === "sum" ? values.length : parts.length * values.length);
  for (const [rank, part] of parts.entries())
    if (kind === "gather" || rank === 0) result.set(part.values, rank * values.length);
    else addTo(result, part.values);
  return result;
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
  if (!isArray(ports.ports)) throw wrongKind("ports", "an entry of what createMessagePorts returns", ports);
  return new PortGroup(ports, timeoutOf(options));
}
