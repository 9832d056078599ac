// Tensors of random sizes that come and go in random order: none is written by another, and memory goes back to its level.
// Then allocation among 20,000 holes is timed.

import assert from "node:assert/strict";
import { init, type Tensor, tensor } from "../../src/index.ts";
import { Allocator } from "../../src/memory/allocator.ts";
import { defaultHeap } from "../../src/memory/heap.ts";
import { count, megabytes, progress, type Random, type Run } from "./support.ts";

const LIVE = 2000;
const HOLES = 20_000;
/** Microseconds of an allocation and of the free that follows it, at most. */
const LIMIT = 5;

/** Returns the median time of a pair of allocate and free among 20,000 holes, in microseconds, over batches of 1,000. */
function timeAmongHoles(random: Random): number {
  const allocator = new Allocator(() => {});
  const size = () => 64 * random.integer(1, 300);
  const pointers = Array.from({ length: 2 * HOLES }, () => allocator.allocate(size()));
  for (let i = 0; i < pointers.length; i += 2) allocator.free(pointers[i] as number);
  const live = Array.from({ length: 16 }, () => allocator.allocate(size()));
  const times: number[] = [];
  for (let batch = 0; batch < 200; batch++) {
    const sizes = Array.from({ length: 1000 }, size);
    const start = performance.now();
    for (let i = 0; i < sizes.length; i++) {
      allocator.free(live[i % 16] as number);
      live[i % 16] = allocator.allocate(sizes[i] as number);
    }
    times.push(performance.now() - start);
  }
  return times.sort((a, b) => a - b)[100] as number;
}

export const run: Run = async (size, random, { judgeTime }) => {
  await init({ threads: 1 });
  const { used } = defaultHeap().usage;
  const live: { held: Tensor; mark: number }[] = [];
  const end = (i: number) => {
    const { held, mark } = live[i] as (typeof live)[number];
    assert(
      held.data.every((v) => v === mark),
      "a tensor was written by another one",
    );
    held.dispose();
    live[i] = live[live.length - 1] as (typeof live)[number];
    live.pop();
  };
  let most = 0;
  for (let i = 0; i < size; i++) {
    const held = tensor([Math.floor(2 ** (random() * 14))]);
    held.data.fill(i);
    live.push({ held, mark: Math.fround(i) });
    if (live.length > LIVE || random() < 0.3) end(random.integer(0, live.length - 1));
    most = Math.max(most, defaultHeap().usage.used);
    progress("tensors", i, size);
  }
  while (live.length) end(live.length - 1);
  assert.equal(defaultHeap().usage.used, used, "tensors that are disposed of are still in use");
  const { capacity } = defaultHeap().usage;
  assert(capacity < 2 * most + 2 ** 20, `${megabytes(capacity)} of memory for ${megabytes(most)} in use at most`);
  const time = timeAmongHoles(random);
  if (judgeTime) assert(time < LIMIT, `allocate and free take ${time} µs among ${HOLES} holes`);
  return [
    `${count(size)} tensors of 4 bytes to 64 KiB, at most ${count(LIVE)} at once; allocate and free take ${time.toFixed(1)} µs among ${count(HOLES)} holes`,
    "0",
    `wasm ±0; ${megabytes(capacity)} for ${megabytes(most)} in use at most`,
  ];
};
