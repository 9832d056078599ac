// Threads. Every golden case has the same bits on 1, 2, 3 and 4 threads. A pool ends normally or with an error, never
// hangs, and leaves no thread behind.

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { setTimeout } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, beforeAll, describe, expect, it, test } from "vitest";
import { relaxedSimd } from "../../src/common/engine.ts";
import {
  BatchNorm,
  BatchNormError,
  batchNormForward,
  type Dtype,
  groupNormForward,
  init,
  instanceNormForward,
  kernelInfo,
  type LayerForwardOptions,
  type Layout,
  layerNormForward,
  normBackward,
  type Options,
  rmsNormForward,
  stopThreads,
  type Tensor,
  tensor,
} from "../../src/index.ts";
import { defaultHeap } from "../../src/memory/heap.ts";
import { Pool } from "../../src/wasm/threads/pool.ts";
import { CASES, measure, runProcedural, runStep, type Variant, variantsOf } from "../support/golden.ts";
import { type Build, drop, normal, useBuild } from "../support/worlds.ts";

afterAll(() => stopThreads());

/** The results of a step on a planar tensor of 8.2 MiB, which is summed and mapped in blocks of channels. */
function stepInBlocks() {
  const shape = [4, 5, 107_000];
  const values = (seed: number) => normal(seed, 4 * 5 * 107_000, 2, 3);
  const [x, y, dx] = [values(1), values(2), values(3)].map((data) => tensor(shape, data)) as [Tensor, Tensor, Tensor];
  const bn = new BatchNorm(5);
  bn.forward(x, { out: y });
  const { dGamma, dBeta } = bn.backward(dx, { dxOut: dx });
  const results = { y: y.data.slice(), dx: dx.data.slice(), dGamma, dBeta, state: bn.stateDict() };
  for (const t of [x, y, dx]) t.dispose();
  return results;
}

test("blocks of channels have the same bits on two threads, which take a block each", async () => {
  await init({ threads: 1 });
  const alone = stepInBlocks();
  await init({ threads: 2 });
  expect(kernelInfo().threads).toBe(2);
  expect(stepInBlocks()).toEqual(alone);
});

/** A pool that is asked even for the smallest tensors. */
async function useThreads(build: Build, threads: number): Promise<void> {
  await useBuild(build, threads);
  const { pool } = defaultHeap().kernels;
  if (pool) pool.parallelFrom = 0;
}

type Case = (typeof CASES)[number];

/** All that a case computes, or, of several steps, how far each of their results is from the reference. */
function resultsOf(c: Case, v: Variant): unknown {
  if (c.kind === "train" || c.kind === "eval") return runStep(c, v, "tensor");
  return c.kind === "procedural" ? runProcedural(c, v, "tensor") : measure(c, v, "tensor");
}

/** A digest of every number's bits, and of every name: the results themselves are up to 17 million values each. */
function digestOf(value: unknown, hash = createHash("sha256")): ReturnType<typeof createHash> {
  if (ArrayBuffer.isView(value)) return hash.update(new Uint8Array(value.buffer, value.byteOffset, value.byteLength));
  if (typeof value !== "object" || value === null) return hash.update(String(value));
  for (const [name, v] of Object.entries(value)) digestOf(v, hash.update(name));
  return hash;
}

it("a build is made to share memory however large it is", async () => {
  await useBuild("debug", 2);
  expect(kernelInfo().threads).toBe(2);
});

describe("instance, group, layer and RMS norm", () => {
  const scale = (length: number) => ({ gamma: normal(3, length, 0.5, 1) });
  it.each([
    ["instance", [3, 60, 60, 40], (x: Tensor) => instanceNormForward(x, scale(40), { layout: "channels-last" })],
    ["group", [9, 32, 30, 30], (x: Tensor) => groupNormForward(x, 4, scale(32))],
    ["layer", [900, 768], (x: Tensor) => layerNormForward(x, 768, scale(768))],
    ["RMS", [900, 768], (x: Tensor) => rmsNormForward(x, 768, scale(768))],
  ] as const)("%s norm of %j has the same bits on 1 and 3 threads", async (_, shape, forward) => {
    const size = shape.reduce((a, b) => a * b, 1);
    const digests: string[] = [];
    for (const threads of [1, 3]) {
      await useThreads("simd", threads);
      const [x, dy] = [tensor(shape, normal(1, size, 2, 3)), tensor(shape, normal(2, size))];
      const { y, mean, invStd, saved } = forward(x);
      const { dx, dGamma } = normBackward(dy, saved);
      digests.push(digestOf({ y: y.data, mean, invStd, dx: dx?.data, dGamma }).digest("hex"));
      drop(x, dy, y, dx);
    }
    expect(digests[1]).toBe(digests[0]);
  });
});

const RUNS = CASES.flatMap((c) => variantsOf(c).map((v) => ({ id: c.id, name: v.name, c, v })));
const digests = () =>
  new Map(RUNS.map(({ id, name, c, v }) => [`${id}, ${name}`, digestOf(resultsOf(c, v)).digest("hex")]));

describe("golden cases", () => {
  let alone: Map<string, string>;
  beforeAll(async () => {
    await useBuild("simd");
    alone = digests();
  });

  it.each([2, 3, 4])("have the bits of one thread on %i threads, every one", async (threads) => {
    await useThreads("simd", threads);
    expect(kernelInfo()).toMatchObject({ threads });
    expect(alone.size).toBe(RUNS.length);
    expect(digests()).toEqual(alone);
  });
});

// more rows and channels than golden cases have, and sums that are taken twice
const LARGE: { layout: Layout; shape: number[]; std: number }[] = [
  { layout: "channels-first", shape: [7, 33, 57, 57], std: 1 },
  { layout: "channels-first", shape: [3, 1, 300, 301], std: 1 },
  { layout: "channels-first", shape: [300, 1030, 2, 2], std: 1 },
  { layout: "channels-last", shape: [7, 57, 57, 33], std: 1 },
  { layout: "channels-last", shape: [40_001, 5], std: 1 },
  { layout: "channels-last", shape: [70_001, 5], std: 1e-30 },
  { layout: "channels-first", shape: [7, 33, 57, 57], std: 1e-30 },
  { layout: "channels-first", shape: [130, 1040], std: 1 },
];

describe.each(LARGE)("$shape, $layout, std $std", ({ layout, shape, std }) => {
  const length = shape.reduce((a, b) => a * b, 1);
  const [xs, dys] = [normal(1, length, std, std), normal(2, length)];
  const step = () => {
    const bn = new BatchNorm(layout === "channels-last" ? (shape.at(-1) as number) : (shape[1] as number), { layout });
    const [x, dy] = [tensor(shape, xs), tensor(shape, dys)];
    const y = bn.forward(x);
    const { dx, dGamma, dBeta } = bn.backward(dy);
    const { mean, variance } = batchNormForward(x, {}, { layout });
    const results = [y.data.slice(), dx?.data.slice(), dGamma, dBeta, mean, variance, bn.stateDict()];
    drop(x, dy, y, dx);
    return digestOf(results).digest("hex");
  };

  it("has the same bits on 1 to 4 threads, below and above the threshold", async () => {
    await useBuild("simd");
    const alone = step();
    for (const threads of [2, 3, 4]) {
      await useBuild("simd", threads);
      expect(step()).toBe(alone);
      (defaultHeap().kernels.pool as Pool).parallelFrom = 0;
      expect(step()).toBe(alone);
    }
  });
});

test("channels that are summed again have the same bits, and dz in the place of dy is computed once", async () => {
  const shape = [5, 9, 61, 61];
  const values = (seed: number) => {
    const data = normal(seed, 5 * 9 * 61 * 61, 1, 1);
    return data.map((v, i) => (Math.floor(i / 61 / 61) % 3 === 1 ? v * 1e-30 : v)); // every third channel
  };
  const run = () => {
    const [x, residual, dy] = [values(1), values(2), values(3)].map((data) => tensor(shape, data)) as [
      Tensor,
      Tensor,
      Tensor,
    ];
    const bn = new BatchNorm(9, { activation: "silu", epsilon: 1e-60 });
    const y = bn.forward(x, { residual });
    const { dGamma, dBeta } = bn.backward(dy, { dxOut: dy, needs: { dResidual: false } });
    const digest = digestOf([y.data, dy.data, dGamma, dBeta]).digest("hex");
    drop(x, residual, dy, y);
    return digest;
  };
  await useBuild("simd");
  const alone = run();
  for (const threads of [2, 4]) {
    await useThreads("simd", threads);
    expect(run()).toBe(alone);
  }
});

const FUSED: { layout: Layout; shape: number[]; std: number }[] = [
  { layout: "channels-first", shape: [7, 7, 57, 57], std: 1 },
  { layout: "channels-first", shape: [60, 130, 2, 2], std: 1 },
  { layout: "channels-last", shape: [30_001, 5], std: 1e-30 },
  { layout: "channels-last", shape: [300, 9, 33], std: 1 },
];

describe.each(FUSED)("$shape, $layout, std $std, fused", ({ layout, shape, std }) => {
  const length = shape.reduce((a, b) => a * b, 1);
  const [xs, rs, dys] = [normal(1, length, std, std), normal(2, length), normal(3, length)];

  it.each(["float32", "float64", "bfloat16"] as const)("%s has the same bits on 1 and 2 threads", async (dtype) => {
    const run = () => {
      const of = (data: Float32Array): Tensor<Dtype> => {
        if (dtype === "float64") return tensor(shape, Float64Array.from(data), { dtype });
        // the upper halves of float32
        const halves = new Uint16Array(data.buffer).filter((_, i) => i % 2 === 1);
        return dtype === "bfloat16" ? tensor(shape, halves, { dtype }) : tensor(shape, data, { dtype });
      };
      const results: unknown[] = [];
      for (const activation of ["relu", "relu6", "silu", "none"] as const)
        for (const added of [true, false]) {
          const channels = (layout === "channels-last" ? shape.at(-1) : shape[1]) as number;
          const bn = new BatchNorm(channels, { layout, activation, dtype });
          const [x, residual, dy] = [of(xs), of(rs), of(dys)];
          const y = bn.forward(x as Tensor, added ? { residual: residual as Tensor } : {});
          const { dx, dResidual, dGamma, dBeta } = bn.backward(dy as Tensor);
          results.push([y.data.slice(), dx?.data.slice(), dResidual?.data.slice(), dGamma, dBeta]);
          drop(x, residual, dy, y, dx, dResidual);
        }
      return digestOf(results).digest("hex");
    };
    await useBuild("simd");
    const alone = run();
    await useThreads("simd", 2);
    expect(run()).toBe(alone);
  });
});

// masks, ghost batches, and all that docs/guides/small-batches.md has
const WEIGHTS = Array.from({ length: 12 * 550 }, (_, p) => (p % 5) / 2);
const MODES: [string, Options, LayerForwardOptions][] = [
  ["a mask", {}, { mask: Array.from({ length: 12 * 550 }, (_, p) => p % 7 > 1) }],
  ["weights, ghost batches and renorm", { ghostBatchSize: 5, renorm: { rMax: 2, dMax: 1 } }, { mask: WEIGHTS }],
  ["ghost batches and SiLU", { ghostBatchSize: 5, activation: "silu" }, {}],
  ["a scale per sample and ReLU", { activation: "relu" }, { perSample: { gamma: normal(5, 36), beta: normal(6, 36) } }],
];

describe.each(["channels-first", "channels-last"] as const)("layers, %s", (layout) => {
  it.each(MODES)("with %s have the same bits on two threads", async (_, options, how) => {
    const shape = layout === "channels-last" ? [12, 50, 11, 3] : [12, 3, 50, 11];
    const step = () => {
      const bn = new BatchNorm(3, { layout, ...options });
      const [x, dy] = [1, 2].map((seed) => tensor(shape, normal(seed, 12 * 3 * 550))) as [Tensor, Tensor];
      const y = bn.forward(x, how as LayerForwardOptions<Tensor>);
      const { dx, dGamma, dBeta } = bn.backward(dy);
      const results = [y.data.slice(), dx?.data.slice(), dGamma, dBeta, bn.stateDict()];
      drop(x, dy, y, dx);
      return digestOf(results).digest("hex");
    };
    await useBuild("simd");
    const alone = step();
    await useThreads("simd", 2);
    expect(step()).toBe(alone);
  });
});

describe("init and kernelInfo", () => {
  afterEach(() => stopThreads());

  it("tell the build and the number of threads, and why", async () => {
    await init({ threads: 1 });
    const build = relaxedSimd() ? "relaxed" : "simd";
    expect(kernelInfo()).toEqual({
      build,
      buildReason: expect.stringMatching(/^the engine has (no )?relaxed SIMD$/),
      threads: 1,
      threadsReason: "init was asked for 1",
    });
    await init({ threads: 3 });
    expect(kernelInfo()).toMatchObject({ build, threads: 3, threadsReason: "init was asked for 3" });
    await init(); // asks for nothing, and changes nothing
    expect(kernelInfo()).toMatchObject({ threads: 3 });
    await stopThreads();
    expect(kernelInfo()).toMatchObject({ threads: 1, threadsReason: "stopThreads() ended the pool" });
    await init({ threads: "auto" });
    expect(kernelInfo().threads).toBeGreaterThan(0);
    expect(kernelInfo().threadsReason).toMatch(/^"auto": the engine reports \d+ processors$/);
  });

  it.each([
    [0, RangeError, /^threads: expected an integer from 1 to 64, or "auto", got 0$/],
    [65, RangeError, /got 65$/],
    [1.5, RangeError, /got 1.5$/],
    ["2", TypeError, /^threads: expected a number or "auto", got "2"$/],
  ])("threads: %j is refused", async (threads, kind, message) => {
    const before = kernelInfo();
    const asked = init({ threads: threads as number });
    await expect(asked).rejects.toThrow(kind);
    await expect(asked).rejects.toThrow(message);
    expect(kernelInfo()).toEqual(before);
  });

  it("leave tensors that are there in their memory, on one thread", async () => {
    await init({ threads: 1 });
    const x = tensor([40_000, 4], normal(1, 160_000));
    const bn = new BatchNorm(4);
    const before = bn.forward(x).data.slice();
    await init({ threads: 2 });
    expect(bn.forward(x).data).toEqual(before);
    expect(tensor([1]).heap).not.toBe(x.heap);
  });

  it("tensors of a pool stay usable when it has gone", async () => {
    await init({ threads: 2 });
    const x = tensor([40_000, 4], normal(1, 160_000));
    const before = new BatchNorm(4).forward(x).data.slice();
    await stopThreads();
    expect(new BatchNorm(4).forward(x).data).toEqual(before);
  });

  it("a module for memory of one thread is refused for several", async () => {
    const module = new WebAssembly.Module(readFileSync(new URL("../../build/simd.wasm", import.meta.url)));
    const before = kernelInfo();
    await expect(init({ module, threads: 2 })).rejects.toThrow(/^module: expected a build that imports shared memory/);
    expect(kernelInfo()).toEqual(before);
  });
});

/** (module (import "env" "memory" (memory 1 1 shared)) (func (export "work") …)) */
const moduleOf = (...code: number[]) =>
  new WebAssembly.Module(
    Uint8Array.of(
      ...[0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0],
      ...[2, 16, 1, 3, 101, 110, 118, 6, 109, 101, 109, 111, 114, 121, 2, 3, 1, 1],
      ...[3, 2, 1, 0, 7, 8, 1, 4, 119, 111, 114, 107, 0, 0],
      ...[10, code.length + 4, 1, code.length + 2, 0, ...code, 11],
    ),
  );
const FOREVER = moduleOf(3, 64, 12, 0, 11);
const TRAP = moduleOf(0);

/** A pool whose workers run `module`, and whose owner takes 50 ms for a piece, so that a worker gets one. */
const poolOf = (module: WebAssembly.Module, stalledMs?: number, threads = 2) => {
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
  const work = () => {
    for (const start = performance.now(); performance.now() - start < 50; );
  };
  return Pool.start([module], memory, [{ work }], threads, stalledMs);
};

/** Runs three pieces on the first `threads` threads of a pool. */
const work = (pool: Pool, threads: number) =>
  pool.run(
    [{ name: "core.work", call: [] }],
    [1, 2, 3].map((end) => ({ begin: end - 1, end })),
    threads,
  );

const caught = (call: () => unknown): unknown => {
  try {
    call();
  } catch (error) {
    return error;
  }
  return undefined;
};

describe("a worker that dies is an error that names it", () => {
  test("where it never finishes", async () => {
    const pool = await poolOf(FOREVER, 200);
    const call = () => work(pool, 2);
    const error = caught(call);
    expect(error).toBeInstanceOf(BatchNormError);
    expect(error).toMatchObject({
      code: "thread",
      message: expect.stringMatching(/^thread 1 of the pool: .*did not finish within 200 ms of the others; .* init\(/),
    });
    expect(caught(call)).toBe(error);
    await pool.dispose();
  });

  test("where its kernel traps", async () => {
    const pool = await poolOf(TRAP);
    expect(caught(() => work(pool, 2))).toMatchObject({
      code: "thread",
      message: expect.stringMatching(/^thread 1 of the pool: .*its kernel failed/),
    });
    await pool.dispose();
  });

  test("of the threads that a job asks for, and no other", async () => {
    const pool = await poolOf(TRAP, undefined, 3);
    for (let i = 0; i < 3; i++) {
      await setTimeout(20); // the workers sleep by then
      expect(work(pool, 1)).toEqual([]);
    }
    expect(caught(() => work(pool, 2))).toMatchObject({ message: expect.stringMatching(/^thread 1 of the pool: /) });
    await pool.dispose();
  });

  test("where it does not start", async () => {
    const other = new WebAssembly.Memory({ initial: 1 }); // not shared: it cannot be sent
    await expect(Pool.start([TRAP], other, [{}], 2)).rejects.toThrow();
  });
});

const dist = fileURLToPath(new URL("../../dist/index.js", import.meta.url));
const run = (code: string) =>
  spawnSync(process.execPath, ["--input-type=module", "-e", `import * as bn from ${JSON.stringify(dist)};${code}`], {
    encoding: "utf8",
    timeout: 60_000,
  });

describe("the built package", () => {
  test.each([
    [
      "after stopThreads()",
      "await bn.init({ threads: 3 }); await bn.stopThreads(); console.log(bn.kernelInfo().threads)",
      "1",
    ],
    ["without stopThreads()", "await bn.init({ threads: 3 }); console.log(bn.kernelInfo().threads)", "3"],
  ])("lets the process exit %s", (_, code, printed) => {
    const { status, stdout, stderr } = run(code);
    expect({ status, stdout: stdout.trim(), stderr }).toEqual({ status: 0, stdout: printed, stderr: "" });
  });

  test.each([
    ["ten of init", "await Promise.all(Array.from({ length: 10 }, () => bn.init({ threads: 3 })))", 3],
    ["init, and init of fewer threads", "await Promise.all([bn.init({ threads: 4 }), bn.init({ threads: 2 })])", 2],
    [
      "init, and stopThreads before it has finished",
      "await Promise.all([bn.init({ threads: 3 }), bn.stopThreads()])",
      1,
    ],
    [
      "init that fails, and init",
      `const { Memory } = WebAssembly;
       WebAssembly.Memory = class { constructor() { WebAssembly.Memory = Memory; throw new RangeError("no memory"); } };
       const calls = await Promise.allSettled([bn.init({ threads: 4 }), bn.init({ threads: 3 })]);
       if (calls[0].reason?.message !== "no memory" || calls[1].reason) throw new Error("the first one shall fail")`,
      3,
    ],
  ])("calls at once take effect one after the other: %s", (_, calls, threads) => {
    // the last one decides, and no thread of the others stays
    const { stdout, stderr } = run(`
      const { Worker } = process.getBuiltinModule("worker_threads");
      let alive = 0;
      process.getBuiltinModule("worker_threads").Worker = class extends Worker {
        constructor(...args) {
          super(...args);
          alive++;
          this.once("exit", () => alive--);
        }
      };
      ${calls};
      console.log(bn.kernelInfo().threads, alive);
      await bn.stopThreads();
      console.log(bn.kernelInfo().threads, alive);`);
    expect({ stdout, stderr }).toEqual({ stdout: `${threads} ${threads - 1}\n1 0\n`, stderr: "" });
  });

  test.skipIf(!existsSync("/proc/self/task"))("ten pools leave no thread behind (counted in /proc, Linux only)", () => {
    const { stdout, stderr } = run(`
      const { readdirSync } = await import("node:fs");
      const { setTimeout } = await import("node:timers/promises");
      const count = () => readdirSync("/proc/self/task").length;
      const cycle = async () => {
        await bn.init({ threads: 4 });
        const during = count();
        bn.batchNormForward(bn.tensor([50000, 4], Float32Array.from({ length: 200000 }, Math.sin)));
        await bn.stopThreads();
        return during;
      };
      await cycle();
      const before = count();
      for (let i = 0; i < 10; i++) if ((await cycle()) < before + 3) throw new Error("no threads were started");
      for (let i = 0; i < 50 && count() > before; i++) await setTimeout(20);
      console.log(count() - before);`);
    expect({ stdout: stdout.trim(), stderr }).toEqual({ stdout: "0", stderr: "" });
  });
});
