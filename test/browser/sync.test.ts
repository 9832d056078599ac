// SyncBatchNorm in a page's workers: over message ports in every page, and over shared memory in a page that is
// isolated.

import { expect, inject, it } from "vitest";
import { BatchNorm, createGroupMemory, createMessagePorts } from "../../src/index.ts";
import { normal } from "../support/worlds.ts";

const SIZES = [3, 0, 5];

/** What every rank answers. */
async function onWorkers(start: (rank: number) => { message: object; transfer: Transferable[] }) {
  const data = normal(1, 8 * 4, 2, 5);
  let at = 0;
  const answers = SIZES.map((size, rank) => {
    const shard = { data: data.slice(at * 4, (at + size) * 4), shape: [size, 4] };
    at += size;
    const worker = new Worker(new URL("./sync-worker.ts", import.meta.url), { type: "module" });
    return new Promise<Record<"y" | "dx" | "runningMean" | "runningVariance", Float32Array>>((resolve, reject) => {
      worker.onmessage = (event) => {
        worker.terminate();
        resolve(event.data);
      };
      worker.onerror = (event) => reject(new Error(event.message));
      const { message, transfer } = start(rank);
      worker.postMessage({ ...message, rank, shard }, transfer);
    });
  });
  const ranks = await Promise.all(answers);
  const single = new BatchNorm(4);
  const y = single.forward({ data, shape: [8, 4] });
  const { dx } = single.backward(y);
  const joined = (name: "y" | "dx") => Float32Array.from(ranks.flatMap((rank) => [...rank[name]]));
  expect(joined("y")).toBeAllclose(y.data, { rtol: 1e-6, atol: 1e-6 });
  expect(joined("dx")).toBeAllclose(dx?.data as Float32Array, { rtol: 1e-5, atol: 1e-5 });
  for (const rank of ranks) {
    expect(rank.runningMean).toEqual(ranks[0]?.runningMean);
    expect(rank.runningVariance).toEqual(ranks[0]?.runningVariance);
  }
  expect(ranks[0]?.runningMean).toBeAllclose(single.runningMean as Float32Array, { rtol: 1e-6 });
}

it("workers with ports are one batch", async () => {
  const groups = createMessagePorts(SIZES.length);
  await onWorkers((rank) => {
    const ports = groups[rank];
    return { message: { ports }, transfer: [...(ports?.ports ?? [])] };
  });
});

it("workers with shared memory are one batch; a page that is not isolated has none", async () => {
  if (!inject("isolated")) {
    expect(() => createGroupMemory(3)).toThrow(/^createGroupMemory: expected an engine or page that shares memory/);
    return;
  }
  const memory = createGroupMemory(SIZES.length);
  await onWorkers(() => ({ message: { memory }, transfer: [] }));
});
