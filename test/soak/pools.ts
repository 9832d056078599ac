// Pools of threads that are opened, closed and raced, and whose workers are killed at random moments: before a call, at its
// start, and while it runs. A call has the right bits, or throws "thread" and changes no state; no thread stays.

import assert from "node:assert/strict";
import { setTimeout } from "node:timers/promises";
import type { Worker } from "node:worker_threads";
import { BatchNorm, init, kernelInfo, stopThreads, type Tensor, tensor } from "../../src/index.ts";
import { defaultHeap, useHeap, WasmHeap } from "../../src/memory/heap.ts";
import { kernelBuild } from "../../src/wasm/module.ts";
import { Pool } from "../../src/wasm/threads/pool.ts";
import { drop } from "../support/worlds.ts";
import {
  count,
  errorOf,
  megabytes,
  memoryLevel,
  progress,
  type Random,
  type Run,
  snapshot,
  threadCount,
  threadLevel,
} from "./support.ts";

/** Milliseconds that a pool of this part waits for a worker that was killed while it was inside; pools of `init` wait 10,000. */
const STALLED_MS = 200;
/** Bytes by which the process may grow: the stacks and heaps of a few workers that the system keeps for later. */
const RSS = 256 * 2 ** 20;

/** The workers that run. */
const alive = new Set<Worker>();
const workerThreads = process.getBuiltinModule("node:worker_threads");
workerThreads.Worker = class extends workerThreads.Worker {
  constructor(...args: ConstructorParameters<typeof Worker>) {
    super(...args);
    alive.add(this);
    this.once("exit", () => alive.delete(this));
  }
};

/** A layer, its inputs and what a step gives on one thread. */
function problemOf(random: Random) {
  const [layout, shape] = random.of([
    ["channels-first", [4, 32, 40, 40]],
    ["channels-last", [4, 40, 40, 32]],
    ["channels-last", [5000, 40]],
  ] as const);
  const length = (shape as readonly number[]).reduce((a, b) => a * b, 1);
  const channels = layout === "channels-first" ? shape[1] : (shape.at(-1) as number);
  const values = Float32Array.from({ length }, (_, i) => ((i * 7919) % 1009) / 500 - 0.7);
  const options = { layout, activation: random.of(["none", "silu"] as const) };
  const state = new BatchNorm(channels, options);
  const plain = { data: values, shape };
  const wanted = { y: state.forward(plain).data, dx: state.backward(plain).dx.data, state: state.stateDict() };
  return { shape, values, wanted, make: () => new BatchNorm(channels, options) };
}

type Problem = ReturnType<typeof problemOf>;

/** A step on tensors. Returns whether it threw "thread"; then its state is as before. */
function attempt({ shape, values, wanted, make }: Problem): boolean {
  const bn = make();
  const [x, dy] = [tensor(shape, values), tensor(shape, values)];
  const made: Tensor[] = [];
  const tryCall = (what: string, call: () => Tensor): boolean => {
    const check = snapshot(bn, [x, dy]);
    const error = errorOf(() => made.push(call()));
    if (!error) return true;
    assert.equal(error.code, "thread", `${what}: expected "thread", got ${error}`);
    assert.match(String(error.message), /^thread [1-9]\d* of the pool/);
    check(`${what} whose thread has died`);
    return false;
  };
  try {
    if (!tryCall("forward", () => bn.forward(x))) return true;
    assert.deepEqual(made[0]?.data, wanted.y);
    assert.deepEqual(bn.stateDict(), wanted.state);
    if (!tryCall("backward", () => bn.backward(dy).dx)) return true;
    assert.deepEqual(made[1]?.data, wanted.dx);
    return false;
  } finally {
    drop(x, dy, ...made);
  }
}

/** Makes a heap with a pool the default one. The caller's own kernels call `during` before each piece. */
async function usePool(threads: number, during: () => void): Promise<Pool> {
  await stopThreads();
  const heap = new WasmHeap(kernelBuild("shared"), { shared: true });
  const wrap = (exports: object) =>
    Object.fromEntries(
      Object.entries(exports).map(([name, kernel]) => [
        name,
        (...args: number[]) => {
          during();
          return kernel(...args);
        },
      ]),
    );
  const modules = [heap.build.module, heap.build.extended()];
  const pool = await Pool.start(modules, heap.memory, [wrap(heap.core), wrap(heap.extended)], threads, STALLED_MS);
  heap.pool = pool;
  useHeap(heap);
  return pool;
}

export const run: Run = async (size, random) => {
  const problems = Array.from({ length: 6 }, () => problemOf(random));
  const problem = () => random.of(problems);
  const seen = { opened: 0, killed: 0, failed: 0 };
  const kill = () => {
    const worker = random.of([...alive]);
    seen.killed++;
    return worker?.terminate();
  };
  const works = () => assert.equal(attempt(problem()), false, "a call on a pool that works has thrown");
  const open = (threads = random.integer(2, 4)) => {
    seen.opened++;
    return init({ threads });
  };
  /** After a death, calls throw until there is another pool, or none. */
  const recover = async () => {
    if (random() < 0.5) await stopThreads();
    else await open();
    works();
  };

  const scenarios: Record<string, () => Promise<unknown>> = {
    "open, call, close": async () => {
      await open();
      works();
      await stopThreads();
      works();
    },
    "init twice at once": async () => {
      await Promise.all([open(4), open(3)]);
      assert.equal(kernelInfo().threads, 3);
      assert.equal(alive.size, 2);
      works();
    },
    "init at once": async () => {
      const threads = Array.from({ length: random.integer(2, 10) }, () => random.integer(2, 3));
      await Promise.all(threads.map((n) => open(n)));
      assert.equal(kernelInfo().threads, threads.at(-1));
      assert.equal(alive.size, kernelInfo().threads - 1);
      works();
    },
    "stopThreads during init, and calls in between": async () => {
      const opened = open();
      works();
      const stopped = stopThreads();
      if (random() < 0.5) await setTimeout(random.integer(0, 30));
      works();
      await Promise.all([opened, stopped]);
      assert.equal(kernelInfo().threads, 1);
      assert.equal(alive.size, 0);
      works();
    },
    "calls while a pool ends": async () => {
      await open();
      const stopped = stopThreads();
      works();
      await stopped;
    },
    "a worker dies while it starts": async () => {
      await stopThreads();
      const opened = open(3);
      opened.catch(() => {}); // it is awaited below
      for (let i = random.integer(0, 20); i > 0 || alive.size === 0; i--) await setTimeout(1);
      kill();
      try {
        await opened;
        if (attempt(problem())) seen.failed++; // it had started before
      } catch (error) {
        assert.equal((error as { code?: string }).code, "thread");
        seen.failed++;
        assert.equal(alive.size, 0, "a pool that did not start has left workers");
      }
      await recover();
    },
    "a worker dies before a call": async () => {
      await open();
      works();
      await kill();
      assert.equal(attempt(problem()), true, "a worker is dead, and the call does not throw");
      assert.equal(attempt(problem()), true, "a worker is dead, and the second call does not throw");
      seen.failed += 2;
      await recover();
    },
    "a worker dies at the start of a call": async () => {
      await usePool(random.integer(2, 4), () => {});
      works();
      kill();
      if (attempt(problem())) seen.failed++;
      await recover();
    },
    "a worker dies while a call runs": async () => {
      let pieces = 0;
      await usePool(random.integer(2, 4), () => {
        if (--pieces === 0) kill();
      });
      seen.opened++;
      works();
      pieces = random.integer(1, 12);
      if (attempt(problem())) seen.failed++;
      pieces = 0;
      await recover();
    },
  };

  await open();
  works();
  await stopThreads();
  await threadLevel(0.5);
  const threads = threadCount();
  const before = await memoryLevel();
  const names = Object.keys(scenarios);
  for (let i = 0; seen.opened < size; i++) {
    const name = names[i % names.length] as string;
    try {
      await scenarios[name]?.();
    } catch (error) {
      throw new Error(`"${name}": ${(error as Error).message}`, { cause: error });
    }
    progress("pools", i, size);
    if (i % 20 > 0) continue;
    await stopThreads();
    assert.equal(alive.size, 0, "workers stay after stopThreads");
    assert.equal(await threadLevel(threads), threads, "threads stay after stopThreads");
  }
  await stopThreads();
  useHeap(new WasmHeap(kernelBuild()));
  const level = await threadLevel(threads);
  assert.equal(level, threads, "threads stay after stopThreads");
  const after = await memoryLevel();
  assert(after.rss - before.rss < RSS, `the process has ${megabytes(after.rss - before.rss)} more`);
  assert(defaultHeap().usage.used < 2 ** 20);
  return [
    `${count(seen.opened)} pools opened, closed and raced; ${count(seen.killed)} workers killed`,
    count(seen.failed),
    `${level} threads, ±0; process ${megabytes(after.rss - before.rss)} more`,
  ];
};
