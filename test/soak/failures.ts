// Memory that ends at random moments: malloc of another program that fails, and a memory of a few pages. The call throws
// "out-of-memory" and changes nothing, what it had allocated is free again, and with memory the same call has the right bits.

import assert from "node:assert/strict";
import { attachMemory, BatchNorm, init, type Tensor, tensor } from "../../src/index.ts";
import { Allocator } from "../../src/memory/allocator.ts";
import { defaultHeap, useHeap, WasmHeap } from "../../src/memory/heap.ts";
import type { MakeTensor } from "../../src/memory/tensor.ts";
import { kernelBuild } from "../../src/wasm/module.ts";
import { drop } from "../support/worlds.ts";
import { count, errorOf, megabytes, progress, type Random, type Run, snapshot } from "./support.ts";

/** A program whose malloc fails as often as `chance` says. */
function program(random: Random) {
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 1024 });
  const allocator = new Allocator((end) => {
    const missing = end - memory.buffer.byteLength;
    if (missing > 0) memory.grow(Math.ceil(missing / 65536));
  });
  const state = { chance: 0 };
  const { tensor } = attachMemory({
    memory,
    malloc: (bytes) => (random() < state.chance ? 0 : allocator.allocate(bytes)),
    free: (pointer) => allocator.free(pointer),
  });
  return { tensor: tensor as MakeTensor, state, used: () => allocator.used };
}

/** The bits of a step on arrays of JavaScript. */
function expected(bn: BatchNorm, x: Tensor, dy: Tensor) {
  const plain = ({ data, shape }: Tensor) => ({ data: data.slice(), shape });
  const copy = bn.clone();
  const y = copy.forward(plain(x)).data;
  return { y, dx: copy.backward(plain(dy)).dx.data, state: copy.stateDict() };
}

/** A training step on tensors, whose results are new tensors. */
function step(bn: BatchNorm, x: Tensor, dy: Tensor) {
  const y = bn.forward(x);
  try {
    const { dx } = bn.backward(dy);
    const results = { y: y.data.slice(), dx: dx.data.slice(), state: bn.stateDict() };
    drop(dx);
    return results;
  } finally {
    drop(y);
  }
}

/** Makes random calls of which some find no memory. `limit` makes memory scarce, and `lift` makes enough. */
function attempts(
  size: number,
  part: string,
  random: Random,
  { make, used, limit, lift }: { make: MakeTensor; used: () => number; limit: () => void; lift: () => void },
): number {
  let failed = 0;
  for (let i = 0; i < size; i++) {
    const [channels, samples, inner] = [random.integer(1, 40), random.integer(2, 10), random.integer(1, 40)];
    const shape = [samples, channels, inner];
    const length = samples * channels * inner;
    const bn = new BatchNorm(channels, { activation: random.of(["none", "relu", "silu"] as const) });
    lift();
    const [x, dy] = [make(shape, random.values(length)), make(shape, random.values(length))];
    const wanted = expected(bn, x, dy);
    // with memory the step works; then the workspace is as large as it has to be, and whatever is in use then has to be freed
    const copy = bn.clone();
    assert.deepEqual(step(copy, x, dy), wanted);
    const level = used();
    const check = snapshot(bn, [x, dy]);
    limit();
    const made: Tensor[] = [];
    const error = errorOf(() => made.push(bn.forward(x)));
    lift();
    if (error) {
      assert.equal(error.code, "out-of-memory", `expected "out-of-memory", got ${error}`);
      check(`a forward of ${shape} without memory`);
      assert.equal(used(), level, `a forward of ${shape} without memory has kept some`);
      failed++;
      assert.deepEqual(step(bn, x, dy), wanted, "after a failure, results are other ones");
    } else {
      const checkBackward = snapshot(bn, [x, dy]);
      const before = used();
      limit();
      const error = errorOf(() => made.push(bn.backward(dy).dx));
      lift();
      if (error) {
        assert.equal(error.code, "out-of-memory", `expected "out-of-memory", got ${error}`);
        checkBackward(`a backward of ${shape} without memory`);
        assert.equal(used(), before, `a backward of ${shape} without memory has kept some`);
        failed++;
        const { dx } = bn.backward(dy);
        assert.deepEqual(dx.data, wanted.dx, "after a failure, dx is another one");
        made.push(dx);
      }
    }
    drop(...made, x, dy);
    progress(part, i, size);
  }
  return failed;
}

export const run: Run = async (size, random) => {
  await init({ threads: 1 });
  const { tensor: make, state, used } = program(random);
  const inOther = attempts(Math.floor(size / 2), "failures in another program", random, {
    make,
    used,
    limit: () => {
      state.chance = 0.3;
    },
    lift: () => {
      state.chance = 0;
    },
  });
  // a memory of 64 pages, in which ballast leaves less than a result needs
  const heap = new WasmHeap(kernelBuild(), { maximumPages: 64 });
  useHeap(heap);
  const ballast: Tensor[] = [];
  const inOwn = attempts(Math.ceil(size / 2), "failures in a small memory", random, {
    make: tensor,
    used: () => heap.usage.used,
    limit: () => {
      if (random() < 0.5)
        for (let bytes = 2 ** 18; bytes >= 16; bytes /= 2) while (!errorOf(() => ballast.push(tensor([bytes])))) {}
    },
    lift: () => {
      for (const t of ballast.splice(0)) t.dispose();
    },
  });
  assert(inOther > 0 && inOwn > 0, "no call has failed");
  assert.equal(defaultHeap(), heap);
  return [
    `${count(size)} steps, half of them where malloc fails at random, half in a memory of 4 MiB that is full at random`,
    count(inOther + inOwn),
    `own memory ${megabytes(heap.usage.used)} of ${megabytes(heap.usage.capacity)} in use`,
  ];
};
