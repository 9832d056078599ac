// The arithmetic of the allocator: allocated ranges never overlap, freed ranges are used again, and a request that fails
// changes nothing. It stays fast among many holes.

import { describe, expect, test } from "vitest";
import { Allocator, staggered } from "../../src/memory/allocator.ts";
import { random } from "../support/worlds.ts";

/** An allocator and the ends that it asked for. */
function recorded() {
  const ends: number[] = [];
  return { ends, allocator: new Allocator((end) => ends.push(end)) };
}

describe("Allocator", () => {
  test.each([1, 2, 3])(
    "under random requests no two live ranges meet, and every byte is accounted for (seed %i)",
    (seed) => {
      const { ends, allocator } = recorded();
      const next = random(seed);
      const live: { begin: number; end: number }[] = [];
      for (let step = 0; step < 3000; step++) {
        const { used } = allocator;
        if (next() < 0.5 + 0.1 * Math.sin(step / 200)) {
          const bytes = Math.floor(next() ** 3 * 20_000);
          const begin = allocator.allocate(bytes);
          const end = begin + allocator.used - used;
          expect(begin % 64).toBe(0);
          expect(begin).toBeGreaterThanOrEqual(1024);
          expect(end).toBeGreaterThanOrEqual(begin + Math.max(bytes, 1));
          expect(end).toBeLessThan(begin + bytes + (bytes < 4096 ? 65 : 4096 + 64));
          expect(end).toBeLessThanOrEqual(Math.max(...ends));
          expect(live.filter((range) => range.begin < end && begin < range.end)).toEqual([]);
          live.push({ begin, end });
        } else if (live.length) {
          const [range] = live.splice(Math.floor(next() * live.length), 1) as [{ begin: number; end: number }];
          allocator.free(range.begin);
          expect(allocator.used).toBe(used - (range.end - range.begin));
        }
      }
      expect(live.length).toBeGreaterThan(10);
      for (const range of live) allocator.free(range.begin);
      expect(allocator.used).toBe(0);
      // one hole from the bottom up, as at first
      const fresh = recorded().allocator;
      for (const bytes of [2000, 100_000, 1]) expect(allocator.allocate(bytes)).toBe(fresh.allocate(bytes));
    },
  );

  test("growth is asked for with the end that is needed, in whole lines", () => {
    const { ends, allocator } = recorded();
    const first = allocator.allocate(100);
    const second = allocator.allocate(64);
    const third = allocator.allocate(0);
    expect(ends).toEqual([first + 128, second + 64, third + 64]);
    expect([second, third]).toEqual([first + 128, second + 64]);
  });

  test("a hole is used again without asking for growth, the smallest that is large enough first", () => {
    const { ends, allocator } = recorded();
    const holes = [640, 192, 384].map((bytes) => {
      const hole = allocator.allocate(bytes);
      allocator.allocate(64);
      return hole;
    });
    for (const hole of holes) allocator.free(hole);
    const asked = ends.length;
    expect(allocator.allocate(192)).toBe(holes[1]);
    expect(allocator.allocate(256)).toBe(holes[2]);
    expect(allocator.allocate(128)).toBe((holes[2] as number) + 256);
    expect(allocator.allocate(640)).toBe(holes[0]);
    expect(ends.length).toBe(asked);
  });

  test.each([
    [0, 1, 2],
    [0, 2, 1],
    [1, 0, 2],
    [1, 2, 0],
    [2, 0, 1],
    [2, 1, 0],
  ])("neighbours that are freed in the order %i, %i, %i become one hole", (...order) => {
    const { ends, allocator } = recorded();
    const three = [192, 64, 320].map((bytes) => allocator.allocate(bytes));
    const guard = allocator.allocate(64);
    const asked = ends.length;
    for (const i of order) allocator.free(three[i] as number);
    expect(allocator.allocate(576)).toBe(three[0]);
    expect(ends.length).toBe(asked);
    allocator.free(three[0] as number);
    allocator.free(guard);
    expect(allocator.allocate(6400)).toBe(three[0]);
  });

  test("where growth throws, nothing has changed", () => {
    let limit = 4096;
    const full = new Error("full");
    const allocator = new Allocator((end) => {
      if (end > limit) throw full;
    });
    const first = allocator.allocate(256);
    const second = allocator.allocate(64);
    allocator.free(first);
    for (const bytes of [4000, 2 ** 33, 2 ** 54]) expect(() => allocator.allocate(bytes)).toThrow(full);
    expect(allocator.used).toBe(64);
    expect(allocator.allocate(256)).toBe(first);
    limit = 2 ** 32;
    expect(allocator.allocate(4000)).toBe(second + 64);
    expect(allocator.used).toBe(256 + 64 + 4032);
  });

  test("the smallest hole that is large enough is found among thousands", () => {
    const { ends, allocator } = recorded();
    const next = random(1);
    const sizes = Array.from({ length: 20_000 }, () => 64 * (2 + Math.floor(next() * 5000)));
    const pointers = sizes.map((size) => {
      const pointer = allocator.allocate(size);
      allocator.allocate(64);
      return pointer;
    });
    for (const pointer of pointers) allocator.free(pointer);
    const asked = ends.length;
    const sizeAt = new Map(pointers.map((pointer, i) => [pointer, sizes[i] as number]));
    const sorted = Float64Array.from(sizes).sort();
    for (let i = 0; i < 200; i++) {
      const wanted = 64 * (2 + Math.floor(next() * 4900));
      const pointer = allocator.allocate(wanted);
      expect(sizeAt.get(pointer)).toBe(sorted.find((size) => size >= wanted));
      allocator.free(pointer);
    }
    expect(ends.length).toBe(asked);
  });

  test("holes that are used up, however many, do not hide larger ones", () => {
    const { ends, allocator } = recorded();
    const holes = Array.from({ length: 1000 }, (_, i) => {
      const hole = allocator.allocate(64 * (i + 1));
      allocator.allocate(64);
      return hole;
    });
    for (const hole of holes) allocator.free(hole);
    const asked = ends.length;
    for (const [i, hole] of holes.entries()) expect(allocator.allocate(64 * (i + 1))).toBe(hole);
    expect(ends.length).toBe(asked);
  });

  test("a hole of gigabytes keeps its exact place", () => {
    const { allocator } = recorded();
    for (const before of [64, 192, 4160]) {
      allocator.allocate(before);
      const [large, guard] = [allocator.allocate(2 ** 31 - 4096), allocator.allocate(64)] as const;
      allocator.free(large);
      expect(allocator.allocate(2 ** 31 - 4096)).toBe(large);
      allocator.free(large);
      allocator.free(guard);
    }
  });

  /** What a run moves and deletes: the lengths of arrays in splice, the largest Map, deleted keys, and passes over Maps. */
  function watch(run: () => void) {
    const { splice } = Array.prototype;
    const { set, delete: remove, [Symbol.iterator]: iterator } = Map.prototype;
    const seen = { lengths: [] as number[], largest: 0, deleted: 0, passes: 0 };
    try {
      Array.prototype.splice = function (...args: unknown[]) {
        seen.lengths.push(this.length);
        return splice.apply(this, args as Parameters<typeof splice>);
      };
      Map.prototype.set = function (...args) {
        seen.largest = Math.max(seen.largest, this.size);
        return set.apply(this, args);
      };
      Map.prototype.delete = function (key) {
        seen.deleted++;
        return remove.call(this, key);
      };
      Map.prototype[Symbol.iterator] = function () {
        seen.passes++;
        return iterator.call(this);
      };
      run();
    } finally {
      Object.assign(Array.prototype, { splice });
      Object.assign(Map.prototype, { set, delete: remove, [Symbol.iterator]: iterator });
    }
    return seen;
  }

  test("among 20,000 holes, a step moves a few numbers, and deletes no keys, which V8 would go on to search", () => {
    const { allocator } = recorded();
    const next = random(2);
    const size = () => 64 * (1 + Math.floor(next() * 300));
    const pointers = Array.from({ length: 40_000 }, () => allocator.allocate(size()));
    for (let i = 0; i < pointers.length; i += 2) allocator.free(pointers[i] as number);
    const STEPS = 40_000;
    const { lengths, deleted } = watch(() => {
      const live: number[] = [];
      for (let i = 0; i < STEPS; i++) {
        if (i >= 100) allocator.free(live[i % 100] as number);
        live[i % 100] = allocator.allocate(size());
      }
    });
    expect(lengths.length).toBeGreaterThan(STEPS);
    // 129 numbers of a block, or a list of at most 20,000 / 64 blocks
    expect(Math.max(...lengths)).toBeLessThan(320);
    expect(deleted).toBeLessThan(STEPS);
  });

  test("what is remembered of 20,000 addresses that are free again is forgotten, in few passes", () => {
    const { allocator } = recorded();
    const { largest, deleted, passes } = watch(() => {
      for (let i = 1; i <= 10_000; i++) {
        const pointers = [allocator.allocate(64 * i), allocator.allocate(64)];
        for (const pointer of pointers) allocator.free(pointer);
      }
    });
    expect(largest).toBeLessThan(100);
    expect(deleted).toBeGreaterThan(20_000 - 100);
    expect(passes).toBeLessThan(2000);
  });

  test("what was not handed out, or was freed before, cannot be freed", () => {
    const { allocator } = recorded();
    const [first, second] = [allocator.allocate(64), allocator.allocate(64)];
    allocator.free(first);
    for (const pointer of [first, 0, second + 1, second + 64, Number.NaN]) {
      expect(() => allocator.free(pointer)).toThrow(TypeError);
      expect(() => allocator.free(pointer)).toThrow(
        /^pointer: expected one that was allocated and not freed, got (\d+|NaN)/,
      );
    }
    expect(allocator.used).toBe(64);
  });
});

test("large tensors take a multiple of 4 KiB and 17 lines, so that they start at different places of their pages", () => {
  for (const bytes of [0, 1, 4095]) expect(staggered(bytes)).toBe(bytes);
  for (const [bytes, reserved] of [
    [4096, 5184],
    [5184, 5184],
    [5185, 9280],
    [9280, 9280],
    [2 ** 32 - 1, 2 ** 32 + 1088],
  ] as const)
    expect(staggered(bytes)).toBe(reserved);
  const { allocator } = recorded();
  const starts = Array.from({ length: 8 }, () => allocator.allocate(staggered(65_536)) % 4096);
  expect(new Set(starts).size).toBe(8);
});
