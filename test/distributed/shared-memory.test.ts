// Groups in shared memory, below any layer, with all ranks in one thread: whenever a rank would sleep until the others
// have come, the next rank's call begins. sync-threads.test.ts has the same with threads.

import { afterEach, describe, expect, it, vi } from "vitest";
import { createGroupMemory, sharedMemoryGroup } from "../../src/index.ts";
import type { Wrong } from "../support/wrong-use.ts";

afterEach(() => {
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

type Group = ReturnType<typeof sharedMemoryGroup>;
type Call = (group: Group) => unknown;

const groupsOf = (size: number, capacity = 4, memory = createGroupMemory(size, capacity)) =>
  Array.from({ length: size }, (_, rank) => sharedMemoryGroup(memory, rank, { timeoutMs: 100 }));

/** The second word of the control block, which counts turns. */
const TURN = 1;

/** Makes one call of every rank, in this order. Returns the errors by rank. */
function together(groups: readonly Group[], call: Call, order = groups.map((_, rank) => rank)): Wrong[] {
  const errors: Wrong[] = groups.map(() => undefined);
  const waiting = [...order];
  const next = () => {
    const rank = waiting.shift();
    if (rank === undefined) return;
    try {
      call(groups[rank] as Group);
    } catch (error) {
      errors[rank] = error;
    }
  };
  const wait = vi.spyOn(Atomics, "wait").mockImplementation(() => {
    expect(waiting.length, "a rank sleeps until the others come").toBeGreaterThan(0);
    next();
    return "ok";
  });
  next();
  expect(waiting, "every rank but the last sleeps").toEqual([]);
  wait.mockRestore();
  return errors;
}

const NONE = [undefined, undefined, undefined];

describe("exchanges", () => {
  it.each([
    [0, 1, 2],
    [2, 0, 1],
    [1, 2, 0],
  ])("of ranks that come in the order %i, %i, %i sum in the order of the ranks, turn after turn", (...order) => {
    const groups = groupsOf(3);
    for (let turn = 0; turn < 5; turn++) {
      // (0.1 + 0.2) + 0.3 has other bits than 0.1 + (0.2 + 0.3)
      const values = [0.1, 0.2, 0.3].map((v, rank) => Float64Array.of(v, turn, 10 ** rank));
      expect(together(groups, (group) => group.sum(values[group.rank] as Float64Array), order)).toEqual(NONE);
      for (const sums of values) expect([...sums]).toEqual([0.1 + 0.2 + 0.3, 3 * turn, 111]);
    }
  });

  it("gather in the order of the ranks, and leave the values as they are", () => {
    const groups = groupsOf(3);
    const values = groups.map(({ rank }) => Float64Array.of(rank, -rank));
    const all = groups.map(() => new Float64Array(6));
    const gather: Call = ({ rank, gather }) =>
      gather?.call(groups[rank], values[rank] as Float64Array, all[rank] as Float64Array);
    expect(together(groups, gather, [1, 0, 2])).toEqual(NONE);
    for (const gathered of all) expect([...gathered]).toEqual([0, -0, 1, -1, 2, -2]);
    expect(values.map((own) => [...own])).toEqual([
      [0, -0],
      [1, -1],
      [2, -2],
    ]);
  });

  it("take as many turns as the values need, and one without values", () => {
    const memory = createGroupMemory(1, 4);
    const control = new Int32Array(memory);
    const [group] = groupsOf(1, 4, memory) as [Group];
    let turns = 0;
    for (const [length, needed] of [
      [0, 1],
      [1, 1],
      [4, 1],
      [5, 2],
      [8, 2],
      [9, 3],
    ] as const) {
      const values = Float64Array.from({ length }, (_, i) => i + 0.5);
      const expected = values.slice();
      const all = new Float64Array(length);
      group.sum(values);
      group.gather?.(values, all);
      turns += 2 * needed;
      expect([values, all, control[TURN]]).toEqual([expected, expected, turns]);
    }
  });

  it("that are not alike are the same error on all ranks, and the next exchange has its sums", () => {
    const groups = groupsOf(3);
    const errors = together(groups, (group) => group.sum(new Float64Array(group.rank === 1 ? 2 : 3)));
    for (const error of errors)
      expect(error).toMatchObject({
        code: "group",
        message: expect.stringMatching(/^rank 1: expected a sum of 3 numbers as on rank 0, got a sum of 2 numbers/),
      });
    const kinds = together(groups, (group) =>
      group.rank === 2 ? group.gather?.(new Float64Array(1), new Float64Array(3)) : group.sum(new Float64Array(1)),
    );
    for (const { message } of kinds)
      expect(message).toMatch(/^rank 2: expected a sum of 1 numbers .* got a gather of 1 numbers;/);
    const values = groups.map(() => Float64Array.of(2));
    expect(together(groups, (group) => group.sum(values[group.rank] as Float64Array))).toEqual(NONE);
    expect(values.map(([v]) => v)).toEqual([6, 6, 6]);
  });

  it("with wrong arguments begin no turn", () => {
    const memory = createGroupMemory(2, 4);
    const [group] = groupsOf(2, 4, memory) as [Group];
    const before = new Uint8Array(memory).slice();
    expect(() => group.sum([1] as Wrong)).toThrow(/^values: expected a Float64Array/);
    expect(() => group.gather?.(new Float64Array(2), new Float64Array(2))).toThrow(
      "all: expected 4 elements (2×2), got 2",
    );
    expect(new Uint8Array(memory)).toEqual(before);
  });
});

describe("a rank that does not come", () => {
  it("loses the group for all, after the time-out and no sooner", () => {
    const memory = createGroupMemory(2, 4);
    const [first, second] = groupsOf(2, 4, memory) as [Group, Group];
    const begin = performance.now();
    let now = begin;
    const waits: number[] = [];
    vi.spyOn(performance, "now").mockImplementation(() => now);
    vi.spyOn(Atomics, "wait").mockImplementation(((_: Int32Array, index: number, value: number, ms: number) => {
      expect([index, value]).toEqual([TURN, 0]);
      waits.push(ms);
      now += 60; // wakes too early once
      return "timed-out";
    }) as Wrong);
    expect(() => first.sum(new Float64Array(1))).toThrow(
      expect.objectContaining({
        code: "group",
        message: expect.stringMatching(/^rank 0 of 2: .* a turn did not end within 100 ms/),
      }) as Error,
    );
    expect(waits.map((ms) => Math.round(ms))).toEqual([100, 40]);
    // the late rank does not touch the memory of a lost group
    const lost = new Uint8Array(memory).slice();
    for (const group of [second, first])
      expect(() => group.sum(Float64Array.of(7))).toThrow(/ of 2: .* a turn did not end within 100 ms/);
    expect(new Uint8Array(memory)).toEqual(lost);
    expect(waits).toHaveLength(2);
  });

  it("is no loss if it comes while the others read the time for the last time", () => {
    const [first, second] = groupsOf(2) as [Group, Group];
    const values = [Float64Array.of(1), Float64Array.of(2)] as const;
    let reads = 0;
    vi.spyOn(performance, "now").mockImplementation(() => {
      if (++reads === 1) return 0;
      second.sum(values[1]);
      return 1000;
    });
    first.sum(values[0]);
    expect(values.map(([v]) => v)).toEqual([3, 3]);
  });

  it("is waited for 30 seconds by default", () => {
    const group = sharedMemoryGroup(createGroupMemory(2), 0);
    let now = 0;
    vi.spyOn(performance, "now").mockImplementation(() => now);
    vi.spyOn(Atomics, "wait").mockImplementation(((_: Int32Array, _index: number, _value: number, ms: number) => {
      now += ms;
      return "timed-out";
    }) as Wrong);
    expect(() => group.sum(new Float64Array(1))).toThrow(/within 30000 ms/);
    expect(now).toBe(30_000);
  });
});

describe("the memory of a group", () => {
  it("has a cache line of control, and two slots for each rank", () => {
    expect(createGroupMemory(3, 10).byteLength).toBe(64 + 2 * 3 * 12 * 8);
    // the packet of 2048 channels
    expect(createGroupMemory(1).byteLength).toBe(64 + 2 * 4162 * 8);
    for (const wrong of [0, 1.5, "2"]) {
      expect(() => createGroupMemory(wrong as never)).toThrow(/^size: expected /);
      expect(() => createGroupMemory(1, wrong as never)).toThrow(/^capacity: expected /);
    }
  });

  it("is refused where an engine shares none", () => {
    vi.stubGlobal("SharedArrayBuffer", undefined);
    expect(() => createGroupMemory(2)).toThrow(
      /^createGroupMemory: expected an engine or page that shares memory, got one that does not/,
    );
  });

  it("is what createGroupMemory returns, and nothing smaller", () => {
    for (const wrong of [undefined, {}, new ArrayBuffer(1000), new SharedArrayBuffer(63)])
      expect(() => sharedMemoryGroup(wrong as never, 0)).toThrow(/^memory: expected what createGroupMemory returns/);
    expect(() => sharedMemoryGroup(new SharedArrayBuffer(64), 0)).toThrow(/^rank: expected/);
    const group = sharedMemoryGroup(createGroupMemory(3), 2);
    expect([group.rank, group.size]).toEqual([2, 3]);
  });
});
