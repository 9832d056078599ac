// The example of data-parallel training on worker threads, with dist/. test/mpi runs it under mpirun.

import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { shardOf } from "../../examples/data-parallel/train.mjs";
import { expectComparison } from "../support/comparison.ts";

const MAIN = fileURLToPath(new URL("../../examples/data-parallel/main.mjs", import.meta.url));

const example = (...args: string[]) => spawnSync(process.execPath, [MAIN, ...args], { encoding: "utf8" });

it("trains as a single process, and visibly worse without synchronisation", () => {
  const { status, stdout, stderr } = example("--steps", "150");
  expect(status, stderr).toBe(0);
  expectComparison(stdout, "4 ranks, worker threads");
});

it("cuts a batch into shards that differ by one sample at most, and leaves none out", () => {
  const batch = {
    x: { data: Float32Array.from({ length: 20 }, (_, i) => i), shape: [10, 2] as [number, number] },
    labels: Int32Array.from({ length: 10 }, (_, i) => i),
  };
  const shards = [0, 1, 2, 3].map((rank) => shardOf(batch, { rank, size: 4 }));
  expect(shards.map(({ x }) => x.shape)).toEqual([2, 3, 2, 3].map((rows) => [rows, 2]));
  expect(shards.flatMap(({ x }) => [...x.data])).toEqual([...batch.x.data]);
  expect(shards.flatMap(({ labels }) => [...labels])).toEqual([...batch.labels]);
});

describe("the command line", () => {
  it("explains every option", () => {
    const { status, stdout } = example("--help");
    expect(status).toBe(0);
    for (const name of ["--ranks", "--steps", "--batch", "--learning-rate", "--seed", "mpirun"])
      expect(stdout).toContain(name);
  });

  it.each([
    [["--step", "5"], "Unknown option '--step'"],
    [["--ranks", "0"], '--ranks: expected a whole number from 1 to 64, got "0"'],
    [["--ranks", "4", "--batch", "7"], '--batch: expected a whole number from 8 to 8000, got "7"'],
    [["--learning-rate", "0"], '--learning-rate: expected a number above 0, got "0"'],
  ])("refuses %j in one line", (args, message) => {
    const { status, stderr, stdout } = example(...args);
    expect(stderr).toBe(`${message} (--help explains the options)\n`);
    expect(stdout).toBe("");
    expect(status).toBe(2);
  });
});
