// What the parts of the soak have in common: random numbers, levels of memory and threads, and what a call that throws has
// to leave as it was.

import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { setTimeout } from "node:timers/promises";
import type { BatchNorm } from "../../src/index.ts";
import type { Dtype } from "../../src/tensor/dtype.ts";
import { random } from "../support/worlds.ts";

/** Random numbers of one seed. */
export interface Random {
  /** Returns a number from 0 up to, not including, 1. */
  (): number;
  /** Returns an integer from `least` to `most`. */
  integer(least: number, most: number): number;
  /** Returns one of the items. */
  of<T>(items: readonly T[]): T;
  /** Returns values around 3, with a deviation of 2. */
  values(length: number): Float32Array;
}

export function randomOf(seed: number): Random {
  const next = random(seed);
  const integer = (least: number, most: number) => least + Math.floor(next() * (most - least + 1));
  return Object.assign(() => next(), {
    integer,
    of: <T>(items: readonly T[]) => items[integer(0, items.length - 1)] as T,
    values: (length: number) => Float32Array.from({ length }, () => 3 + 2 * (next() + next() + next() + next() - 2)),
  });
}

/** A part: does its work so many times, and returns the cells of its row. */
export type Run = (size: number, random: Random, options: { judgeTime: boolean }) => Promise<string[]>;

/** Prints a message for main.mjs, as a line. */
export const print = (message: object) => process.stdout.write(`${JSON.stringify(message)}\n`);

/** Tells main.mjs of each hundredth of a part, so that it sees that nothing hangs. */
export function progress(part: string, done: number, size: number): void {
  const hundredth = Math.max(1, Math.floor(size / 100));
  if (done % hundredth === 0) print({ at: `${part} ${done}`, tenth: done % (10 * hundredth) === 0 });
}

export const count = (n: number) => n.toLocaleString("en");
export const megabytes = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

/** Lets the engine collect, and tell of what it has collected. */
export async function collect(): Promise<void> {
  for (let i = 0; i < 3; i++) {
    (globalThis as unknown as { gc(): void }).gc();
    await setTimeout(0);
  }
}

/** Bytes that JavaScript holds, and those of the process. */
export async function memoryLevel(): Promise<{ held: number; rss: number }> {
  await collect();
  const { heapUsed, external, rss } = process.memoryUsage();
  return { held: heapUsed + external, rss };
}

/** The number of threads of this process. */
export const threadCount = () => readdirSync("/proc/self/task").length;

/** Waits until no more than `most` threads are there, and returns how many there are. Gives up after ten seconds. */
export async function threadLevel(most: number): Promise<number> {
  for (let i = 0; i < 500 && threadCount() > most; i++) await setTimeout(20);
  return threadCount();
}

/** What a call that throws must not change: the layer's state, its mode and its pending backward, and the inputs. */
export function snapshot(bn: BatchNorm<Dtype>, inputs: readonly { data: ArrayBufferView }[]) {
  const bytes = ({ buffer, byteOffset, byteLength }: ArrayBufferView) =>
    Buffer.from(new Uint8Array(buffer, byteOffset, byteLength));
  const take = () => [
    ...Object.values(bn.stateDict()).map((v) => (ArrayBuffer.isView(v) ? bytes(v) : v)),
    bn.mode,
    ...inputs.map(({ data }) => bytes(data)),
  ];
  const [before, saved] = [take(), bn.saved];
  return (what: string) => {
    assert.deepEqual(take(), before, `${what} has changed the state or an input`);
    assert.equal(bn.saved, saved, `${what} has changed the pending backward`);
  };
}

/** The error of a call, or undefined. */
export function errorOf(call: () => unknown): { name?: string; code?: string; message?: string } | undefined {
  try {
    call();
  } catch (error) {
    return error as Error;
  }
  return undefined;
}
