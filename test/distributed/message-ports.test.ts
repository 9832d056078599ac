// Groups over message ports, below any layer: which message belongs to which exchange, and how a group ends.

import { afterEach, describe, expect, it, vi } from "vitest";
import { createMessagePorts, type GroupMessagePorts, messagePortGroup } from "../../src/index.ts";
import { errorsOf, type Wrong } from "../support/wrong-use.ts";

type Group = ReturnType<typeof messagePortGroup>;

const closers: (() => void)[] = [];
afterEach(() => {
  for (const close of closers.splice(0)) close();
  vi.unstubAllGlobals();
});

function open(ports: GroupMessagePorts, timeoutMs: number): Group {
  const group = messagePortGroup(ports, { timeoutMs });
  closers.push(() => group.close());
  return group;
}

const groupsOf = (size: number, timeoutMs = 5000) => createMessagePorts(size).map((ports) => open(ports, timeoutMs));

describe("exchanges", () => {
  it("of two tags are under way at once, whichever a rank begins first", async () => {
    const groups = groupsOf(3);
    const sums = groups.map(({ rank }) => [1, 2].map((tag) => Float64Array.of(tag, 10 ** rank)));
    const calls = groups.map((group, rank) => {
      const order = rank === 1 ? [1, 0] : [0, 1];
      return Promise.all(order.map((i) => group.sum(sums[rank]?.[i] as Float64Array, i + 1)));
    });
    await Promise.all(calls);
    for (const [first, second] of sums as [Float64Array, Float64Array][]) {
      expect([...first]).toEqual([3, 111]);
      expect([...second]).toEqual([6, 111]);
    }
  });

  it("of one tag may be begun before the one before is over, and keep their order", async () => {
    const groups = groupsOf(2);
    const values = groups.map(({ rank }) => [1, 10, 100].map((v) => Float64Array.of(v * (rank + 1))));
    await Promise.all(groups.flatMap((group, rank) => values[rank]?.map((v) => group.sum(v)) as Promise<void>[]));
    for (const rank of values) expect(rank.map(([v]) => v)).toEqual([3, 30, 300]);
  });

  it("may be begun by rank 0 last, and sum what a rank had when it began its own", async () => {
    const groups = groupsOf(3);
    const values = [1, 2, 3].map((v) => Float64Array.of(v, -0));
    const others = [1, 2].map((rank) => groups[rank]?.sum(values[rank] as Float64Array));
    await new Promise((resolve) => setTimeout(resolve, 20)); // their messages have arrived
    const first = groups[0]?.sum(values[0] as Float64Array);
    // what a call was given is read when it begins
    for (const own of values) own.fill(1000);
    await Promise.all([first, ...others]);
    for (const sums of values) expect([...sums]).toEqual([6, -0]);
    const again = groups.map((group, rank) => {
      const own = values[rank] as Float64Array;
      own.fill(rank);
      const call = group.sum(own);
      own.fill(1000);
      return call;
    });
    await Promise.all(again);
    for (const sums of values) expect([...sums]).toEqual([3, 3]);
  });

  it("work over ports that tell of no end, as those of some engines", async () => {
    const bare = (port: MessagePort) => ({
      set onmessage(listener: MessagePort["onmessage"]) {
        port.onmessage = listener;
      },
      postMessage: (message: unknown) => port.postMessage(message),
      close: () => port.close(),
    });
    const entries = createMessagePorts(2).map((entry) => ({ ...entry, ports: (entry.ports as Wrong[]).map(bare) }));
    const groups = entries.map((entry) => open(entry as Wrong, 5000));
    const values = groups.map(() => Float64Array.of(2));
    await Promise.all(groups.map((group, rank) => group.sum(values[rank] as Float64Array)));
    expect(values.map(([v]) => v)).toEqual([4, 4]);
  });

  it("of different lengths or kinds are an error that all ranks throw alike, and the group lives on", async () => {
    const groups = groupsOf(3);
    const lengths = await errorsOf(groups.map((group, rank) => group.sum(new Float64Array(rank === 1 ? 2 : 3))));
    const kinds = await errorsOf(
      groups.map((group, rank) =>
        rank === 2 ? group.gather?.(new Float64Array(3), new Float64Array(9)) : group.sum(new Float64Array(3)),
      ) as Promise<void>[],
    );
    for (const { code, message } of lengths) {
      expect(code).toBe("group");
      expect(message).toMatch(/^rank 1: expected a sum of 3 numbers as on rank 0, got a sum of 2 numbers/);
    }
    for (const { message } of kinds)
      expect(message).toMatch(/^rank 2: expected a sum of 3 numbers as on rank 0, got a gather of 3 numbers/);
    const values = groups.map(() => Float64Array.of(1));
    await Promise.all(groups.map((group, rank) => group.sum(values[rank] as Float64Array)));
    expect(values.map(([v]) => v)).toEqual([3, 3, 3]);
  });

  it("take no values but those of a Float64Array, and no tag but whole numbers, before anything is sent", async () => {
    const [group, other] = groupsOf(2) as [Group, Group];
    await expect(group.sum([1] as Wrong)).rejects.toThrow(/^values: expected a Float64Array, got \[1\]/);
    await expect(group.sum(new Float64Array(1), -1)).rejects.toThrow(/^tag: expected a whole number from 0 on, got -1/);
    await Promise.all([group.sum(new Float64Array(1)), other.sum(new Float64Array(1))]);
  });
});

/** A group of three whose rank 1 is the test itself, with the other two ranks and the port of rank 1. */
function withTest(timeoutMs = 5000) {
  const [first, own, third] = createMessagePorts(3) as [GroupMessagePorts, GroupMessagePorts, GroupMessagePorts];
  const port = own.ports[0] as MessagePort;
  const received: Wrong[] = [];
  port.onmessage = ({ data }) => void received.push(data);
  closers.push(() => port.close());
  return { groups: [open(first, timeoutMs), open(third, timeoutMs)], port, received };
}

const part = (values: unknown, number = 1, kind: unknown = "sum", tag: unknown = 0) => ({ kind, tag, number, values });

describe("messages", () => {
  it.each([
    ["an object", { a: 1 }],
    ["a Float32Array", Float32Array.of(1)],
    ["a Float64Array alone", Float64Array.of(1)],
    ["an array", [1, 2, 3]],
    ["null", null],
    ["values of another type", part(Float32Array.of(1))],
    ["no values", part(undefined)],
    ["another kind", part(Float64Array.of(1), 1, "max")],
    ["the answer of a rank that answers nothing", part(Float64Array.of(3), 1, "result")],
    ["a tag that is no number", part(Float64Array.of(1), 1, "sum", "0")],
    ["no number", part(Float64Array.of(1), Number.NaN)],
    ["a text instead of values", part("1")],
  ])("%s: the group is lost on all ranks, which name the rank", async (_, message) => {
    const { groups, port, received } = withTest();
    const calls = groups.map((group) => group.sum(Float64Array.of(1)));
    port.postMessage(message);
    for (const { code, message } of await errorsOf(calls)) {
      expect(code).toBe("group");
      expect(message).toContain("rank 1 sent what is no message of the group");
    }
    await expect.poll(() => received.at(-1)?.kind).toBe("lost");
    for (const { code } of await errorsOf(groups.map((group) => group.sum(Float64Array.of(1)))))
      expect(code).toBe("group");
  });

  it("of a second time, or of an exchange that is over, change nothing", async () => {
    const { groups, port, received } = withTest();
    for (let number = 1; number <= 3; number++) {
      const values = groups.map(() => Float64Array.of(1));
      const calls = groups.map((group, i) => group.sum(values[i] as Float64Array));
      for (let old = 1; old <= number; old++)
        port.postMessage(part(Float64Array.of(old === number ? number : 1000), old));
      port.postMessage(part(Float64Array.of(1000), number));
      await Promise.all(calls);
      expect(values.map(([v]) => v)).toEqual([2 + number, 2 + number]);
    }
    // and are not answered
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(received.map(({ kind, number }) => [kind, number])).toEqual([1, 2, 3].map((number) => ["result", number]));
  });

  it("of an exchange that is over are not taken for a rank that waits", async () => {
    const { groups, port } = withTest(50);
    const calls = groups.map((group) => group.sum(Float64Array.of(1)));
    for (let i = 0; i < 2; i++) port.postMessage(part(Float64Array.of(1)));
    await Promise.all(calls);
    const [error] = await errorsOf([groups[0]?.sum(Float64Array.of(1)) as Promise<void>]);
    expect(error?.message).toMatch(/nothing came from rank 1 within 50 ms in an exchange of tag 0;/);
  });

  it("of a second time from rank 0 change nothing", async () => {
    const [first, second] = createMessagePorts(2) as [GroupMessagePorts, GroupMessagePorts];
    const [port] = first.ports as [MessagePort];
    closers.push(() => port.close());
    const group = open(second, 5000);
    for (let number = 1; number <= 3; number++) {
      const values = Float64Array.of(1);
      const call = group.sum(values);
      for (let i = 0; i < 2; i++) port.postMessage(part(Float64Array.of(10 * number), number, "result"));
      await call;
      expect([...values]).toEqual([10 * number]);
      await new Promise((resolve) => setTimeout(resolve, 5)); // the second one has arrived, too
    }
  });

  it.each([
    ["of another length", part(Float64Array.of(1), 1, "result")],
    ["of another type", part(Float32Array.of(1, 2), 1, "result")],
    ["without values", part(undefined, 1, "result")],
    ["that are a rank's own", part(Float64Array.of(1, 2), 1, "gather")],
    ["of an exchange that has not begun", part(Float64Array.of(1, 2), 2, "result")],
    ["that refuse an exchange that has not begun", part("no", 2, "result")],
  ])("from rank 0 %s are no result", async (_, message) => {
    const [first, second] = createMessagePorts(2) as [GroupMessagePorts, GroupMessagePorts];
    const [port] = first.ports as [MessagePort];
    closers.push(() => port.close());
    const group = open(second, 5000);
    const all = new Float64Array(2);
    const [error] = await errorsOf([Promise.all([group.gather?.(Float64Array.of(1), all), port.postMessage(message)])]);
    expect(error?.message).toContain("rank 0 sent what is no message of the group");
    expect([...all]).toEqual([0, 0]);
  });

  it("that cannot be read end the group", async () => {
    const [first, second] = createMessagePorts(2) as [GroupMessagePorts, GroupMessagePorts];
    const groups = [open(first, 5000), open(second, 5000)];
    const calls = groups.map((group, rank) => group.sum(new Float64Array(1), rank));
    (first.ports[0] as MessagePort).onmessageerror?.({} as MessageEvent);
    for (const { message } of await errorsOf(calls)) expect(message).toContain("a message of rank 1 could not be read");
  });
});

describe("the end of a group", () => {
  it("by a time-out reaches every rank, with what is known of the rank that did not come", async () => {
    const groups = groupsOf(3, 100);
    const calls = [groups[0]?.sum(new Float64Array(1), 1), groups[1]?.sum(new Float64Array(1), 1)] as Promise<void>[];
    const other = groups[2]?.sum(new Float64Array(1), 7) as Promise<void>;
    for (const { code, message } of await errorsOf([...calls, other])) {
      expect(code).toBe("group");
      expect(message).toMatch(/nothing came from rank \d within 100 ms in an exchange of tag \d/);
    }
  });

  it.each([
    ["where it waits instead", 7, ", which waits in an exchange of tag 7"],
    ["and nothing of a rank that sent nothing", undefined, ""],
  ])("by a time-out of rank 0 says which rank is missing, %s", async (_, tag, elsewhere) => {
    const groups = createMessagePorts(3).map((ports, rank) => open(ports, rank ? 60_000 : 50));
    const calls = [0, 1].map((rank) => groups[rank]?.sum(new Float64Array(1), 1));
    if (tag !== undefined) calls.push(groups[2]?.sum(new Float64Array(1), tag));
    const errors = await errorsOf(calls as Promise<void>[]);
    const what = `nothing came from rank 2 within 50 ms in an exchange of tag 1${elsewhere}`;
    expect(errors[0]?.message).toContain(`got none of some: ${what};`);
    for (const { message } of errors.slice(1)) expect(message).toContain(`got none of some: rank 0 says: ${what};`);
  });

  it("by a time-out of one rank does not wait for the time-outs of the others", async () => {
    const entries = createMessagePorts(3);
    const groups = entries.map((ports, rank) => open(ports, rank === 1 ? 50 : 60_000));
    const calls = [groups[0], groups[1]].map((group) => group?.sum(new Float64Array(1))) as Promise<void>[];
    const errors = await errorsOf(calls);
    for (const { message } of errors) expect(message).toContain("nothing came from rank 0 within 50 ms");
    expect(errors[0]?.message).toMatch(/^rank 0 of 3: .* rank 1 says: nothing came from rank 0/);
    const [last] = await errorsOf([groups[2]?.sum(new Float64Array(1)) as Promise<void>]);
    expect(last?.message).toMatch(/got none of some: rank 1 says: nothing came/);
  });

  it.each([0, 1, 2])("by close() on rank %i rejects what is under way there and on the others", async (closing) => {
    const groups = groupsOf(3);
    // no exchange ends, since every rank is in one of its own
    const calls = errorsOf(groups.map((group, rank) => group.sum(new Float64Array(1), rank)));
    groups[closing]?.close();
    for (const { message } of await calls) expect(message).toContain(`rank ${closing} has closed its ports`);
    for (const { code } of await errorsOf(groups.map((group) => group.sum(new Float64Array(1)))))
      expect(code).toBe("group");
  });

  it("keeps its first reason, whatever comes after it", async () => {
    const [group] = createMessagePorts(2).map((ports) => open(ports, 50)) as [Group];
    await expect(group.sum(new Float64Array(1))).rejects.toThrow(/nothing came from rank 1 within 50 ms/);
    group.close();
    await expect(group.sum(new Float64Array(1))).rejects.toThrow(/nothing came from rank 1 within 50 ms/);
  });

  it("by close() after the last exchange loses no result", async () => {
    const groups = groupsOf(3);
    const values = groups.map(() => Float64Array.of(1));
    await Promise.all(
      groups.map(async (group, rank) => {
        await group.sum(values[rank] as Float64Array);
        group.close();
      }),
    );
    expect(values.map(([v]) => v)).toEqual([3, 3, 3]);
  });

  it("an engine without message channels is named, and so are a wrong rank and size", () => {
    const [entry] = createMessagePorts(1) as [GroupMessagePorts];
    expect(() => messagePortGroup({ ...entry, size: 0 })).toThrow(/^size: expected a whole number from 1/);
    expect(() => messagePortGroup({ ...entry, rank: 0.5 })).toThrow(/^rank: expected a whole number from 0/);
    expect(() => messagePortGroup(null as Wrong)).toThrow(
      /^ports: expected an entry of what createMessagePorts returns, got null/,
    );
    vi.stubGlobal("MessageChannel", undefined);
    expect(() => createMessagePorts(2)).toThrow(
      /^createMessagePorts: expected an engine with MessageChannel, got undefined/,
    );
  });

  it("wrong ports are named", () => {
    const [first, second] = createMessagePorts(2) as [GroupMessagePorts, GroupMessagePorts];
    expect(() => messagePortGroup({ ...first, ports: [] })).toThrow(
      /^ports.ports: expected 1 for rank 0 of 2, got \[\]/,
    );
    expect(() => messagePortGroup({ ...second, ports: [null] } as Wrong)).toThrow(
      /^ports.ports\[0\]: expected a MessagePort/,
    );
  });
});
