// The built entry batchnorm-wasm/mpi under mpirun: on this host, and on two hosts that hosts.sh makes.

import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { mpiGroup } from "../../src/distributed/mpi.ts";
import { BatchNorm } from "../../src/index.ts";
import { expectComparison } from "../support/comparison.ts";
import { normal } from "../support/worlds.ts";

const here = (name: string) => fileURLToPath(new URL(name, import.meta.url));
const scratch = mkdtempSync(join(tmpdir(), "batchnorm-mpi-"));
afterAll(() => rmSync(scratch, { recursive: true }));

const HOSTS = here("hosts.sh");
const probe = spawnSync(HOSTS, { encoding: "utf8" });
if (probe.status !== 0 && probe.status !== 77) throw new Error(`hosts.sh ended with ${probe.status}: ${probe.stderr}`);
const NO_HOSTS = probe.status === 77;
if (NO_HOSTS) console.warn(`two hosts are left out: ${probe.stderr.trim()}`);

/** How a program is started on so many ranks. */
type World = (size: number, options?: readonly string[]) => readonly string[];

const oneHost: World = (size, options = []) => [
  "mpirun",
  "--allow-run-as-root",
  "--oversubscribe",
  ...options,
  "-n",
  String(size),
  process.execPath,
];
const twoHosts: World = (size, options = []) => [HOSTS, ...options, "-n", String(size), process.execPath];
const alone: World = () => [process.execPath];

function execute([program, ...args]: readonly string[]) {
  const { status, stdout, stderr } = spawnSync(program as string, args, { encoding: "utf8", timeout: 100_000 });
  return { status, stdout, printed: `${stdout}${stderr}` };
}

// biome-ignore lint/suspicious/noExplicitAny: JSON of rank.mjs
type Left = any;

/** Runs a scenario of rank.mjs; what ranks left, undefined where one left nothing. */
function ranks(world: World, size: number, scenario: string, data: object = {}, options: readonly string[] = []) {
  const folder = mkdtempSync(join(scratch, `${scenario}-`));
  const run = execute([...world(size, options), here("rank.mjs"), scenario, folder, JSON.stringify(data)]);
  const left: Left[] = Array.from({ length: size }, (_, rank) => {
    const file = join(folder, `${rank}.json`);
    return existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : undefined;
  });
  return { ...run, left };
}

/** What a rank leaves, of all of them, where every one has come to its end. */
function succeeded(...args: Parameters<typeof ranks>): Left[] {
  const { status, printed, left } = ranks(...args);
  expect(status, printed).toBe(0);
  return left;
}

const WORLDS = [
  { name: "one host", world: oneHost, skipped: false },
  {
    name: "two hosts (skipped where no network namespaces can be made)",
    world: twoHosts,
    skipped: NO_HOSTS,
  },
];

describe.each(WORLDS)("$name", ({ world, skipped }) => {
  const two = world === twoHosts;

  it.skipIf(skipped).each(two ? [4] : [1, 2, 4])("%i ranks are one batch, with the same bits on each", (size) => {
    const sizes = [5, 1, 0, 10].slice(0, size);
    const total = sizes.reduce((a, b) => a + b, 0);
    const inputs = [1, 2, 3].map((seed) => normal(seed, total * 8, 2, 5));
    const left = succeeded(world, size, "train", { channels: 8, sizes, steps: inputs.map((x) => [...x]) });
    const single = new BatchNorm(8);
    for (const [i, data] of inputs.entries()) {
      const whole = { data, shape: [total, 8] };
      const [y, { dx }] = [single.forward(whole), single.backward(whole)];
      const all = (name: string) => left.flatMap(({ steps }) => steps[i][name]);
      expect(all("y")).toBeAllclose(y.data, { rtol: 1e-6, atol: 1e-6 });
      expect(all("dx")).toBeAllclose(dx?.data as Float32Array, { rtol: 1e-5, atol: 1e-6 });
    }
    for (const { mean, variance } of left) expect([mean, variance]).toEqual([left[0].mean, left[0].variance]);
    expect(left[0].variance).toBeAllclose(single.runningVariance as Float32Array, { rtol: 1e-6 });
    expect(left.map(({ rank, size }) => [rank, size])).toEqual(left.map((_, rank) => [rank, size]));
    expect(new Set(left.map(({ host }) => host)).size).toBe(two ? 2 : 1);
  });

  it.skipIf(skipped)("sums and gathers of any length, with the same bits on every rank", () => {
    const left = succeeded(world, 3, "sums");
    for (const { wrong, rounded } of left) {
      expect(wrong).toBe(0);
      expect(rounded).toEqual(left[0].rounded);
    }
  });

  it.skipIf(skipped)("ranks of one color are a group of their own", () => {
    const left = succeeded(world, 4, "parts");
    for (const [rank, { part, all, color }] of left.entries()) {
      expect(part).toEqual([rank >> 1, 2, rank % 2 ? 1 + 3 : 0 + 2]);
      expect(all).toBe(6);
      expect(color).toBe("color: expected a whole number from 0 on, got -1");
    }
  });

  it.skipIf(skipped)("what is wrong for all throws the same on all, and nothing has changed", () => {
    const left = succeeded(world, 3, "errors");
    for (const [rank, { nonFinite, oneValue, refused, state, batches }] of left.entries()) {
      expect(nonFinite).toEqual(left[0].nonFinite);
      expect(nonFinite.code).toBe("non-finite-statistics");
      expect(oneValue.code).toBe("one-value-per-channel");
      expect(refused).toMatchObject(rank === 0 ? { name: "RangeError" } : { code: "group" });
      expect(state).toEqual([0, 0, 0, 1, 1]);
      expect(batches).toBe(1);
    }
  });

  it.skipIf(skipped)("exchanges that are not alike are one error on all ranks, and the group lives on", () => {
    for (const { messages, sum, batches } of succeeded(world, 3, "unequal")) {
      expect(messages).toEqual([
        expect.stringMatching(/^group rank 1: expected a sum of 1 numbers as on rank 0, got a sum of 1000 numbers/),
        expect.stringMatching(/^group rank 1: expected a sum of 4 numbers as on rank 0, got a gather of 4 numbers/),
        expect.stringMatching(
          /^group rank 2: expected a gather of 622 numbers as on rank 0, got a gather of 26 numbers/,
        ),
      ]);
      expect([sum, batches]).toEqual([3, 0]);
    }
  });

  it.skipIf(skipped)("a rank that is killed ends the job, and mpirun says which", () => {
    const { status, printed, left } = ranks(world, 4, "killed");
    expect(status).toBe(128 + 9);
    expect(printed).toMatch(/process rank 1 .* exited on signal 9 \(Killed\)/);
    expect(left).toEqual(Array(4).fill(undefined));
  });

  it.skipIf(skipped)("a rank that is killed is an error on the others, where mpirun lets them live", () => {
    // it does not notice by itself that all have ended, where they are on two hosts
    const { left } = ranks(world, 4, "killed", { timeoutMs: 3000 }, ["--enable-recovery", "--timeout", "20"]);
    expect(left[1]).toBeUndefined();
    for (const rank of [0, 2, 3]) {
      const { name, code, message, again, batches } = left[rank];
      expect([name, code, again, batches]).toEqual(["BatchNormError", "group", true, 1]);
      expect(message).toMatch(new RegExp(`^rank ${rank} of 4: expected every rank of the group to take part`));
    }
  });

  it.skipIf(skipped)("a rank that says nothing is an error on the others, which end the job", () => {
    const { status, printed, left } = ranks(world, 3, "stalled", { timeoutMs: 3000 });
    expect(status).not.toBe(0);
    expect(printed).toContain("an exchange did not end within 3000 ms");
    const first = left.find((one) => one);
    expect(first.lost.code).toBe("group");
    expect(left[1]).toBeUndefined();
  });

  it.skipIf(skipped)("a rank that is lost to a part is lost to the group that it is a part of", () => {
    const { status, printed, left } = ranks(world, 4, "stalledPart", { timeoutMs: 3000 });
    expect(status, printed).not.toBe(0);
    expect(left[3]).toMatchObject({ code: "group", again: true });
    expect(left[0]).not.toHaveProperty("code");
    expect(left[1]).toBeUndefined();
  });

  it.skipIf(skipped)("the example trains as a single process, and visibly worse without synchronisation", () => {
    const program = here("../../examples/data-parallel/main.mjs");
    const { status, stdout, printed } = execute([...world(4), program, "--steps", "150"]);
    expect(status, printed).toBe(0);
    expectComparison(stdout, "4 ranks, processes of mpirun");
  });
});

it("a process that mpirun has not started is a group of one; MPI ends once and for all", () => {
  const [{ rank, size, code, message }] = succeeded(alone, 1, "twice");
  expect([rank, size, code]).toEqual([0, 1, "mpi"]);
  expect(message).toContain("make a group before the last one is closed");
});

describe("without what it needs", () => {
  it("koffi: the error says what to install", () => {
    const program = join(scratch, "without.mjs");
    copyFileSync(here("../../dist/mpi.js"), join(scratch, "mpi.mjs"));
    writeFileSync(
      program,
      `import { mpiGroup } from "./mpi.mjs"; mpiGroup().catch(({ code, message }) => console.log(code, message));`,
    );
    const { stdout } = execute([process.execPath, program]);
    expect(stdout).toMatch(/^mpi mpiGroup: expected the package koffi, got none: .*; npm install koffi\n$/);
  });

  it.each(["libmpi-of-nobody.so", "libm.so.6"])(
    "Open MPI (here %s): the error says what to install",
    async (library) => {
      const error = await mpiGroup({ library }).catch((e: unknown) => e);
      expect(error).toMatchObject({ name: "BatchNormError", code: "mpi" });
      expect((error as Error).message).toContain(`mpiGroup: expected Open MPI's ${library}, got none: `);
      expect((error as Error).message).toContain("apt install openmpi-bin libopenmpi3");
    },
  );

  it("wrong options are named", async () => {
    await expect(mpiGroup({ timeout: 5 } as never)).rejects.toThrow(
      /^mpiGroup options: expected options among timeoutMs/,
    );
    await expect(mpiGroup({ timeoutMs: 0 })).rejects.toThrow(/^timeoutMs: expected a whole number from 1 on, got 0/);
    await expect(mpiGroup({ library: 5 as never })).rejects.toThrow(/^library: expected a string, got 5/);
  });
});
