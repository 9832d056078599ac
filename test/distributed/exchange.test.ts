// The exchanges of SyncBatchNorm below any layer: how a packet names what differs between the ranks, and which exchanges
// of a group wait for each other.

import { describe, expect, it } from "vitest";
import { checkPackets, gather, gatherNow, type Header, packetOf } from "../../src/distributed/exchange.ts";
import { createMessagePorts, messagePortGroup, type ProcessGroup } from "../../src/index.ts";
import type { Wrong } from "../support/wrong-use.ts";

/** Values of a header by their names, which are the options and modes of layers. */
const WORDS: Record<string, readonly string[]> = {
  phase: ["forward", "backward"],
  mode: ["train", "batch", "eval", "frozen"],
  dtype: ["float32", "float64", "float16", "bfloat16"],
  estimator: ["ema", "debiased", "cumulative", "population"],
  runningVariance: ["unbiased", "biased"],
  onNonFinite: ["throw", "skip", "allow"],
  activation: ["none", "relu", "leaky_relu", "relu6", "silu"],
};

const joined = (...packets: Float64Array[]) => Float64Array.from(packets.flatMap((packet) => [...packet]));

/** Sends two headers, and returns the error of rank 0, where `own` is its header. */
function compare(own: Header, other: Header) {
  const packets = [own, other].map((header) => packetOf(header, new Float64Array(3), 3)) as [
    Float64Array,
    Float64Array,
  ];
  return () => checkPackets(joined(...packets), packets[0], own, 0);
}

describe("a packet", () => {
  it.each(Object.entries(WORDS))("names every %s that differs, in words", (name, words) => {
    for (const own of words)
      for (const other of words) {
        const check = compare({ [name]: own } as Header, { [name]: other } as Header);
        if (own === other) expect(check()).toBe(3);
        else
          expect(check).toThrow(
            expect.objectContaining({
              code: "group",
              message: expect.stringContaining(`rank 1: expected ${name} ${own} as on rank 0, got "${other}";`),
            }) as Error,
          );
      }
  });

  it("names numbers and truths that differ, and those of rank 2 if the ranks before it agree", () => {
    expect(compare({ scale: true }, { scale: false })).toThrow("rank 1: expected scale true as on rank 0, got false;");
    expect(compare({ scale: false }, { scale: true })).toThrow("rank 1: expected scale false as on rank 0, got true;");
    expect(compare({ epsilon: 0 }, { epsilon: 1 })).toThrow("rank 1: expected epsilon 0 as on rank 0, got 1;");
    const packets = [7, 7, 8].map((channels) => packetOf({ channels }, new Float64Array(), 0)) as Wrong;
    expect(() => checkPackets(joined(...packets), packets[0], { channels: 7 }, 0)).toThrow(
      "rank 2: expected channels 7 as on rank 0, got 8;",
    );
  });

  it("shows a number where the other rank has no word for it", () => {
    const header = { mode: "train" } as const;
    const [own, other] = [0, 0].map(() => packetOf(header, new Float64Array(), 0)) as [Float64Array, Float64Array];
    other[2] = 1000;
    expect(() => checkPackets(joined(own, other), own, header, 0)).toThrow(
      "rank 1: expected mode train as on rank 0, got 1000;",
    );
  });

  it("may hold values that are NaN, and has to come back as it was sent", () => {
    const header = { channels: 7, epsilon: 0.5 };
    const own = packetOf(header, Float64Array.of(Number.NaN, 1), 2);
    const all = joined(own, own);
    expect(checkPackets(all, own, header, 1)).toBe(4);
    all[own.length + 3] = 9; // epsilon of rank 1
    expect(() => checkPackets(all, own, header, 1)).toThrow(
      /^group: expected the sent value 0.5 in the place of rank 1, got 9/,
    );
    all.set([...own, ...own].fill(4, own.length));
    expect(() => checkPackets(joined(own, all), own, header, 0)).toThrow(
      /^rank 2: expected an exchange of SyncBatchNorm, got other numbers/,
    );
  });

  it("of a rank without values says that the rank refuses, and has room for them all the same", () => {
    const header = { phase: "backward" } as const;
    const [own, other] = [packetOf(header, Float64Array.of(5, 6), 2), packetOf(header, undefined, 2)] as const;
    expect(own).toHaveLength(other.length);
    expect([...own.subarray(-2)]).toEqual([5, 6]);
    for (const rank of [0, 1])
      expect(() => checkPackets(joined(own, other), rank ? other : own, header, rank)).toThrow(
        /^backward: expected every rank .* an error on rank 1/,
      );
  });
});

/** A group of one whose exchanges end when the test says so. */
function held(tagged?: boolean) {
  const begun: { tag: number | undefined; end: (error?: Error) => void }[] = [];
  const group: ProcessGroup<Promise<void>> = {
    rank: 0,
    size: 1,
    ...(tagged !== undefined && { tagged }),
    sum: (_, tag) =>
      new Promise<void>((resolve, reject) => {
        begun.push({ tag, end: (error) => (error ? reject(error) : resolve()) });
      }),
  };
  const tags = () => begun.map(({ tag }) => tag);
  return { group, begun, tags };
}

/** Waits until all promises that can settle have settled. */
const settle = () => new Promise((resolve) => setTimeout(resolve, 0));

describe("exchanges of an asynchronous group", () => {
  it("wait for each other, those that begin while another waits included", async () => {
    const { group, begun, tags } = held();
    const calls = [gather(group, new Float64Array(1), 1), gather(group, new Float64Array(1), 2)];
    expect(tags()).toEqual([1]);
    begun[0]?.end();
    await settle();
    expect(tags()).toEqual([1, 2]);
    calls.push(gather(group, new Float64Array(1), 3));
    await settle();
    expect(tags()).toEqual([1, 2]);
    begun[1]?.end();
    await settle();
    expect(tags()).toEqual([1, 2, 3]);
    begun[2]?.end();
    await Promise.all(calls);
  });

  it("begin at once if none is under way, or if the group tells them apart by their tags", async () => {
    const { group, begun, tags } = held();
    const first = gather(group, new Float64Array(1), 1);
    begun[0]?.end();
    await first;
    await settle();
    void gather(group, new Float64Array(1), 2);
    expect(tags()).toEqual([1, 2]);
    const other = held(true);
    for (const tag of [1, 2]) void gather(other.group, new Float64Array(1), tag);
    expect(other.tags()).toEqual([1, 2]);
  });

  it("begin although the one before them failed, whose caller alone gets the error", async () => {
    const { group, begun, tags } = held();
    const failing = gather(group, new Float64Array(1), 1);
    const next = gather(group, new Float64Array(1), 2);
    begun[0]?.end(new Error("lost"));
    await expect(failing).rejects.toThrow("lost");
    await settle();
    expect(tags()).toEqual([1, 2]);
    begun[1]?.end();
    expect(await next).toEqual(new Float64Array(1));
  });

  it("are refused by gatherNow before it sends, once the group is known to return promises", async () => {
    const { group, begun, tags } = held();
    const first = gather(group, new Float64Array(1), 1);
    expect(() => gatherNow(group, new Float64Array(1), 1)).toThrow(/^group: expected one that sums at once/);
    expect(tags()).toEqual([1]);
    begun[0]?.end();
    await first;
    // an async function, which has never been called
    for (const group of [
      { rank: 0, size: 1, sum: async () => expect.unreachable() },
      { rank: 0, size: 1, sum: () => expect.unreachable(), gather: async () => expect.unreachable() },
    ] as Wrong[])
      expect(() => gatherNow(group, new Float64Array(1), 1)).toThrow(/^group: expected one that sums at once/);
  });
});

it("layers of a group over message ports may be called in another order on every rank", async () => {
  const groups = createMessagePorts(2).map((ports) => messagePortGroup(ports));
  const calls = groups.map((group, rank) =>
    Promise.all((rank ? [2, 1] : [1, 2]).map((layer) => gather(group, Float64Array.of(10 * layer + rank), layer))),
  );
  const [first, second] = await Promise.all(calls);
  expect(first).toEqual([Float64Array.of(10, 11), Float64Array.of(20, 21)]);
  expect(second).toEqual([...(first as Float64Array[])].reverse());
  for (const group of groups) group.close();
});

it("a synchronous group gathers at once, by gather or by a sum over zeros in the places of the others", () => {
  const calls: unknown[] = [];
  const group = {
    rank: 1,
    size: 3,
    sum: (values: Float64Array, tag: number) => void calls.push([...values], tag),
  } as Wrong;
  expect(gatherNow(group, Float64Array.of(5, 6), 4)).toEqual(Float64Array.of(0, 0, 5, 6, 0, 0));
  expect(calls).toEqual([[0, 0, 5, 6, 0, 0], 4]);
  const gathering = { ...group, gather: (_: Float64Array, all: Float64Array, tag: number) => all.fill(tag) };
  expect(gatherNow(gathering, Float64Array.of(5), 9)).toEqual(Float64Array.of(9, 9, 9));
});
