// SyncBatchNorm over threads with shared memory, with dist/, as programs use it.

import { once } from "node:events";
import { Worker } from "node:worker_threads";
import { expect, it } from "vitest";
import {
  BatchNorm,
  createGroupMemory,
  createMessagePorts,
  messagePortGroup,
  sharedMemoryGroup,
} from "../../src/index.ts";
import { normal } from "../support/worlds.ts";

type Ports = ReturnType<typeof createMessagePorts>[number];

const LIBRARY = new URL("../../dist/index.js", import.meta.url).href;

/** Runs a program on every rank: `body` is a function's, of { library, group, rank, size, data }. */
function onRanks(size: number, body: string, data: unknown = {}, { capacity = 4096, timeoutMs = 10_000 } = {}) {
  const memory = createGroupMemory(size, capacity);
  const program = `
    const { parentPort, workerData: { memory, rank, size, timeoutMs, data } } = require("node:worker_threads");
    import(${JSON.stringify(LIBRARY)}).then(async (library) => {
      const group = library.sharedMemoryGroup(memory, rank, { timeoutMs });
      parentPort.postMessage(await (async () => { ${body} })());
    }).catch((error) => parentPort.postMessage({ error: error.message, code: error.code }));`;
  const ranks = Array.from({ length: size }, (_, rank) => {
    const worker = new Worker(program, { eval: true, workerData: { memory, rank, size, timeoutMs, data } });
    return new Promise<Record<string, unknown>>((resolve, reject) => {
      worker.once("message", (message) => {
        resolve(message);
        worker.terminate();
      });
      worker.once("error", reject);
      worker.once("exit", (code) => reject(new Error(`rank ${rank} ended with code ${code} and said nothing`)));
    });
  });
  return Promise.all(ranks);
}

it.each([1, 2, 4])("%i threads train as one, synchronously, with the same bits on each", async (size) => {
  const sizes = [5, 1, 0, 10].slice(0, size);
  const total = sizes.reduce((a, b) => a + b, 0);
  const steps = [1, 2, 3].map((seed) => normal(seed, total * 8, 2, 5));
  const results = await onRanks(
    size,
    `
    const bn = new library.SyncBatchNorm(8, { group });
    const before = data.sizes.slice(0, rank).reduce((a, b) => a + b, 0);
    const ys = [];
    for (const all of data.steps) {
      const shard = { data: all.slice(before * 8, (before + data.sizes[rank]) * 8), shape: [data.sizes[rank], 8] };
      ys.push(bn.forward(shard).data);
      const { dx, dGamma } = bn.backward(shard);
      ys.push(dx.data);
    }
    return { ys, mean: bn.runningMean, variance: bn.runningVariance };`,
    { sizes, steps },
    { capacity: 16 }, // so that an exchange takes several turns
  );
  const single = new BatchNorm(8);
  for (const [i, data] of steps.entries()) {
    const whole = { data, shape: [total, 8] };
    const expected = [single.forward(whole).data, single.backward(whole).dx?.data];
    for (const k of [0, 1]) {
      const parts = results.flatMap(({ ys }) => [...((ys as Float32Array[])[2 * i + k] as Float32Array)]);
      expect(parts).toBeAllclose(expected[k] as Float32Array, { rtol: 1e-5, atol: 1e-6 });
    }
  }
  for (const { mean, variance } of results) {
    expect(mean).toEqual(results[0]?.mean);
    expect(variance).toEqual(results[0]?.variance);
  }
  expect(results[0]?.variance).toBeAllclose(single.runningVariance as Float32Array, { rtol: 1e-6 });
});

it("a thousand sums in a row lose nothing, whoever is fast", async () => {
  const results = await onRanks(
    4,
    `
    let bad = 0;
    for (let i = 0; i < 1000; i++) {
      const values = Float64Array.of(rank + i, 1, rank === i % 4 ? 0.1 : 0);
      if (rank === i % 4) for (let k = 0; k < 2000; k++) Math.sin(k);
      group.sum(values);
      if (values[0] !== 6 + 4 * i || values[1] !== 4 || values[2] !== 0.1) bad++;
    }
    return { bad };`,
  );
  expect(results).toEqual(Array(4).fill({ bad: 0 }));
});

it("gathers in the order of the ranks, in as many turns as it takes", async () => {
  const body = `
    const values = Float64Array.from({ length: 100 }, (_, i) => rank * 1000 + i);
    const all = new Float64Array(300);
    group.gather(values, all);
    group.sum(values);
    return { all, values };`;
  for (const { all, values } of await onRanks(3, body, {}, { capacity: 16 })) {
    expect(all).toEqual(Float64Array.from({ length: 300 }, (_, i) => Math.floor(i / 100) * 1000 + (i % 100)));
    expect(values).toEqual(Float64Array.from({ length: 100 }, (_, i) => 3000 + 3 * i));
  }
});

it("exchanges that are not alike are one error on all ranks, and the group lives on", async () => {
  const body = `
    const messages = [];
    const attempt = (call) => { try { call(); messages.push("none"); } catch ({ code, message }) { messages.push(code + " " + message); } };
    attempt(() => group.sum(new Float64Array(rank === 1 ? 40 : 50)));
    attempt(() => group.sum(new Float64Array(rank === 2 ? 0 : 1)));
    attempt(() => (rank === 1 ? group.gather(new Float64Array(4), new Float64Array(12)) : group.sum(new Float64Array(4))));
    const layers = [3, 2].map((channels) => new library.SyncBatchNorm(channels, { group }));
    const bn = layers[rank === 2 ? 1 : 0];
    attempt(() => bn.forward({ data: new Float32Array(4 * bn.channels), shape: [4, bn.channels] }));
    attempt(() => group.sum([1]));
    const values = Float64Array.of(rank);
    group.sum(values);
    return { messages, sum: values[0], batches: bn.batchesTracked };`;
  for (const { messages, sum, batches } of await onRanks(3, body, {}, { capacity: 16 })) {
    expect(messages).toEqual([
      expect.stringMatching(/^group rank 1: expected a sum of 50 numbers as on rank 0, got a sum of 40 numbers/),
      expect.stringMatching(/^group rank 2: expected a sum of 1 numbers as on rank 0, got a sum of 0 numbers/),
      expect.stringMatching(/^group rank 1: expected a sum of 4 numbers as on rank 0, got a gather of 4 numbers/),
      expect.stringMatching(/^group rank 2: expected a gather of 28 numbers as on rank 0, got a gather of 26 numbers/),
      expect.stringMatching(/^undefined values: expected a Float64Array/),
    ]);
    expect([sum, batches]).toEqual([3, 0]);
  }
});

it("a rank that is lost is an error on all others, after a time", async () => {
  const results = await onRanks(
    3,
    `if (rank === 1) return { left: true }; group.sum(new Float64Array(1)); return {};`,
    {},
    { timeoutMs: 200 },
  );
  expect(results[1]).toEqual({ left: true });
  for (const r of [0, 2]) {
    expect(results[r]?.code).toBe("group");
    expect(results[r]?.error).toMatch(/^rank \d of 3: expected every rank of the group to take part/);
  }
});

it("a rank that comes when the others have given up is refused, too, and so is every sum after it", async () => {
  const body = `
    const wait = (ms) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
    const codes = [];
    if (rank === 1) wait(1500);
    for (let i = 0; i < 2; i++)
      try { group.sum(new Float64Array(1)); codes.push("none"); } catch ({ code }) { codes.push(code); }
    return { codes };`;
  const results = await onRanks(3, body, {}, { timeoutMs: 200 });
  for (const { codes } of results) expect(codes).toEqual(["group", "group"]);
});

it("the end of a thread with ports is an error on the others at once", async () => {
  const [first, second, third] = createMessagePorts(3) as [Ports, Ports, Ports];
  const worker = new Worker('require("node:worker_threads").workerData.ports[0].onmessage = () => {}', {
    eval: true,
    workerData: second,
    transferList: [...second.ports] as never,
  });
  const groups = [first, third].map((ports) => messagePortGroup(ports, { timeoutMs: 100_000 }));
  const calls = groups.map((group) => group.sum(new Float64Array(1)).catch((error: Error) => error));
  await once(worker, "online");
  await worker.terminate();
  for (const error of await Promise.all(calls)) {
    expect(error).toMatchObject({ code: "group" });
    expect((error as unknown as Error).message).toContain("rank 1 has gone");
  }
  for (const group of groups) group.close();
});

it("wrong arguments are named", () => {
  expect(() => createGroupMemory(0)).toThrow(/^size: expected a whole number from 1/);
  const memory = createGroupMemory(2);
  expect(() => sharedMemoryGroup(memory, 2)).toThrow(/^rank: expected a rank from 0 to 1, got 2/);
  expect(() => sharedMemoryGroup(new ArrayBuffer(8) as never, 0)).toThrow(
    /^memory: expected what createGroupMemory returns/,
  );
});
