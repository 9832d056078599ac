// TF.js's wasm backend in a page. In a page that is cross-origin isolated it has threads with shared memory, and the
// kernels can have a pool of threads over it. The bits are those of one thread.

import { getThreadsCount } from "@tensorflow/tfjs-backend-wasm";
import * as tf from "@tensorflow/tfjs-core";
import { afterAll, beforeAll, beforeEach, describe, expect, inject, it, type MockInstance, vi } from "vitest";
import { batchNorm, batchNormInference, info, init, stopThreads } from "../../src/tfjs/index.ts";
import { Pool } from "../../src/wasm/threads/pool.ts";
import { useBackend, values } from "../support/tfjs.ts";
import { normal, sizeOf } from "../support/worlds.ts";

const isolated = inject("isolated");

it("its memory is worked on in place, shared or not", async () => {
  await useBackend("wasm");
  const { wasm } = tf.backend() as unknown as { wasm: { HEAPU8: Uint8Array } };
  expect(Object.prototype.toString.call(wasm.HEAPU8.buffer)).toBe(
    isolated ? "[object SharedArrayBuffer]" : "[object ArrayBuffer]",
  );
  expect(info()).toMatchObject({ backend: "wasm", memory: "in place", threads: 1 });
  const y = values(batchNorm(tf.tensor2d([1, 2, 3, 4, 5, 6], [3, 2]), {}, { epsilon: 0 }).y);
  const s = Math.sqrt(1.5);
  expect(y).toBeAllclose([-s, -s, 0, 0, s, s], { rtol: 1e-6, atol: 1e-6 });
});

/** Enough work to be worth dividing, and nothing in it that two, or four lanes, divide. */
const CASES = [
  [[7, 57, 57, 33], -1],
  [[7, 33, 57, 57], 1],
  [[7, 33, 57, 57], 0],
] as const;

type Case = (typeof CASES)[number];

/** The bits of everything that a training step and an inference write. */
function step([shape, axis]: Case): Int32Array[] {
  const tensors = tf.tidy(() => {
    const channels = shape.at(axis) as number;
    const [x, dy] = [normal(3, sizeOf(shape), 2, 5), normal(4, sizeOf(shape))].map((v) => tf.tensor(v, [...shape]));
    const [gamma, beta] = [normal(1, channels), normal(2, channels)].map((v) => tf.tensor1d(v));
    const [mean, variance] = [tf.zeros<tf.Rank.R1>([channels]), tf.ones<tf.Rank.R1>([channels])];
    const f = (x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) => batchNorm(x, { gamma, beta }, { axis }).y;
    const inputs = [x, gamma, beta] as tf.Tensor[];
    const { value, grads } = tf.valueAndGrads(f)(inputs, dy as tf.Tensor);
    return [value, ...grads, batchNormInference(x as tf.Tensor, { mean, variance }, { axis })].map((t) => t.clone());
  });
  const bits = tensors.map((t) => new Int32Array(values(t).buffer));
  tf.dispose(tensors);
  return bits;
}

function expectBits(found: Int32Array[], expected: Int32Array[]): void {
  expect(found.length).toBe(5);
  for (const [i, bits] of found.entries()) {
    expect(bits.length).toBeGreaterThan(0);
    expect(bits).toBeAllclose(expected[i] as Int32Array);
  }
}

describe(isolated ? "a pool of two threads" : "a pool that cannot be", () => {
  let expected: Int32Array[][];
  let warn: MockInstance<typeof console.warn>;
  const jobs = vi.spyOn(Pool.prototype, "run");

  beforeAll(async () => {
    await useBackend("wasm");
    expected = CASES.map(step);
    expect(jobs).not.toHaveBeenCalled();
    warn = vi.spyOn(console, "warn").mockImplementation(() => {});
    await init({ threads: 2 });
  });
  beforeEach(() => {
    jobs.mockClear();
  });
  afterAll(async () => {
    warn.mockRestore();
    jobs.mockRestore();
    await stopThreads();
  });

  it(isolated ? "has two threads, and no warning" : "has one thread, and one warning", async () => {
    expect(info()).toMatchObject({
      threads: isolated ? 2 : 1,
      threadsReason: isolated ? "init was asked for 2" : expect.stringMatching(/not cross-origin isolated/),
    });
    expect(warn).toHaveBeenCalledTimes(isolated ? 0 : 1);
    await init(); // changes nothing
    expect(info().threads).toBe(isolated ? 2 : 1);
  });

  it.each(CASES.map((example, i) => [...example, i] as const))(
    "%j, axis %i: the bits of one thread",
    (shape, axis, i) => {
      expectBits(step([shape, axis] as Case), expected[i] as Int32Array[]);
      if (isolated) expect(jobs.mock.calls.length).toBeGreaterThanOrEqual(2);
      else expect(jobs).not.toHaveBeenCalled();
    },
  );

  it("has the bits of one thread in tensors of memory that has grown since", () => {
    const { wasm } = tf.backend() as unknown as { wasm: { HEAPU8: Uint8Array } };
    const before = wasm.HEAPU8.length;
    const large = Array.from({ length: 2 }, () => tf.zeros([before / 8])); // as many bytes as the memory has
    expectBits(step(CASES[0]), expected[0] as Int32Array[]);
    expect(wasm.HEAPU8.length).toBeGreaterThan(before);
    tf.dispose(large);
  });

  it.skipIf(!isolated)(
    'has as many threads as TF.js\'s backend with "auto" (skipped in pages without threads)',
    async () => {
      await init({ threads: "auto" });
      expect(info()).toMatchObject({
        threads: getThreadsCount(),
        threadsReason: `"auto": TF.js's wasm backend has ${getThreadsCount()}`,
      });
      expectBits(step(CASES[0]), expected[0] as Int32Array[]);
    },
  );

  it("ends, and another one starts", async () => {
    await stopThreads();
    expect(info().threads).toBe(1);
    jobs.mockClear();
    expectBits(step(CASES[0]), expected[0] as Int32Array[]);
    expect(jobs).not.toHaveBeenCalled();
    const ends = vi.spyOn(Pool.prototype, "dispose");
    await Promise.all([init({ threads: 3 }), init({ threads: 2 })]); // the later one ends the earlier one
    expect(ends).toHaveBeenCalledTimes(isolated ? 1 : 0);
    ends.mockRestore();
    expectBits(step(CASES[0]), expected[0] as Int32Array[]);
  });

  it("ends with its backend", async () => {
    const factory = tf.engine().findBackendFactory("wasm");
    const ends = vi.spyOn(Pool.prototype, "dispose");
    tf.removeBackend("wasm");
    expect(ends).toHaveBeenCalledTimes(isolated ? 1 : 0);
    tf.registerBackend("wasm", factory);
    await useBackend("wasm");
    expect(info().threads).toBe(1);
    expectBits(step(CASES[0]), expected[0] as Int32Array[]);

    ends.mockRestore();
  });

  it("does not outlive a backend that is removed while the pool starts", async () => {
    const factory = tf.engine().findBackendFactory("wasm");
    const ends = vi.spyOn(Pool.prototype, "dispose");
    const { start } = Pool;
    const starts = vi.spyOn(Pool, "start").mockImplementation((...args) => {
      tf.removeBackend("wasm");
      return start.apply(Pool, args);
    });
    if (isolated) {
      await expect(init({ threads: 2 })).rejects.toMatchObject({ name: "BatchNormError", code: "thread" });
      expect(ends).toHaveBeenCalledTimes(1);
      tf.registerBackend("wasm", factory);
      await useBackend("wasm");
    } else {
      await init({ threads: 2 });
      expect(starts).not.toHaveBeenCalled();
    }
    expect(info().threads).toBe(1);
    starts.mockRestore();
    ends.mockRestore();
  });
});
