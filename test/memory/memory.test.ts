// Linear memory: the heap over a WebAssembly.Memory, and the tensors in it. Freed memory is used again, and a request
// that fails changes nothing.

import { readFileSync } from "node:fs";
import { beforeEach, describe, expect, test, vi } from "vitest";
import { BatchNorm, type TensorLike, tensor } from "../../src/index.ts";
import { currentHeap, defaultHeap, kernelInfo, useHeap, WasmHeap } from "../../src/memory/heap.ts";
import { Tensor } from "../../src/memory/tensor.ts";
import { geometryOf } from "../../src/tensor/shape.ts";
import { kernelBuild } from "../../src/wasm/module.ts";
import { BUILDS, normal, useBuild, wasmFile } from "../support/worlds.ts";

const PAGE = 65536;

const given = (module: WebAssembly.Module) =>
  ({ name: "given", reason: "a test", module, extended: () => kernelBuild().extended() }) as const;

describe.each(BUILDS)("WasmHeap (%s)", (build) => {
  const module = new WebAssembly.Module(readFileSync(wasmFile(build)));

  test("grows by the pages that are needed and no more, and keeps what was written", () => {
    const heap = new WasmHeap(given(module), { maximumPages: 8 });
    const first = heap.allocate(1000);
    heap.u8.fill(7, first, first + 1000);
    expect(heap.usage).toEqual({ used: 1024, capacity: PAGE });
    const second = heap.allocate(2 * PAGE);
    const grown = heap.usage;
    const end = second + grown.used - 1024;
    expect(grown.capacity).toBe(Math.ceil(end / PAGE) * PAGE);
    expect(heap.u8.slice(first, first + 1000)).toEqual(new Uint8Array(1000).fill(7));
    expect([heap.u8, heap.f32, heap.f64].map((view) => view.byteLength)).toEqual(Array(3).fill(grown.capacity));
    heap.free(second);
    expect(heap.usage).toEqual({ used: 1024, capacity: grown.capacity });
    expect(heap.allocate(2 * PAGE)).toBe(second);
    expect(heap.usage).toEqual(grown);
  });

  test.each([4 * PAGE, 2 ** 32, 2 ** 53])("exhaustion by %d bytes is an error and changes nothing", (bytes) => {
    const heap = new WasmHeap(given(module), { maximumPages: 4 });
    const held = heap.allocate(PAGE);
    const before = heap.usage;
    expect(() => heap.allocate(bytes)).toThrow(
      expect.objectContaining({ name: "BatchNormError", code: "out-of-memory" }) as Error,
    );
    const missing = held + before.used + bytes - before.capacity;
    expect(() => heap.allocate(bytes)).toThrow(
      `memory: expected room for ${missing} bytes, got ${before.used} of 262144 bytes in use; dispose `,
    );
    expect(heap.usage).toEqual(before);
    const last = heap.allocate(2 * PAGE);
    expect(last).toBe(held + before.used);
    heap.free(last);
    heap.free(held);
    expect(heap.usage.used).toBe(0);
  });

  test("a memory that the engine does not let grow is an error that names what it has, and changes nothing", () => {
    const heap = new WasmHeap(given(module));
    const held = heap.allocate(1000);
    const before = heap.usage;
    vi.spyOn(heap.memory, "grow").mockImplementation(() => {
      throw new RangeError("WebAssembly.Memory.grow(): Unable to grow instance memory");
    });
    const missing = held + before.used + PAGE - before.capacity;
    expect(() => heap.allocate(PAGE)).toThrow(
      `memory: expected room for ${missing} bytes, got ${before.used} of ${PAGE} bytes in use; dispose `,
    );
    expect(heap.usage).toEqual(before);
  });

  test("a plan that needs more memory than the one before frees that of the one before", () => {
    const usedBy = (...counts: number[]) => {
      const heap = new WasmHeap(given(module));
      for (const channels of counts)
        heap.workspace.plan(geometryOf("x", [4, channels], "channels-first", channels), heap.kernels, false);
      return heap.usage.used;
    };
    expect(usedBy(1000)).toBeGreaterThan(usedBy(100));
    expect(usedBy(100, 1000)).toBe(usedBy(1000));
    expect(usedBy(1000, 100)).toBe(usedBy(1000));
  });

  test("that nobody asked for threads is why calls run on one", () => {
    useHeap(new WasmHeap(given(module)));
    expect(currentHeap()).toBe(defaultHeap());
    const threadsReason = "init was not asked for more";
    expect(kernelInfo()).toEqual({ build: "given", buildReason: "a test", threads: 1, threadsReason });
  });

  test("without FinalizationRegistry, tensors are freed by dispose alone", () => {
    vi.stubGlobal("FinalizationRegistry", undefined);
    const heap = new WasmHeap(given(module));
    vi.unstubAllGlobals();
    expect(heap.collected).toBeUndefined();
    const t = new Tensor(heap, [4], 4, "float32").own();
    expect(heap.usage.used).toBeGreaterThan(0);
    t.dispose();
    expect(heap.usage.used).toBe(0);
  });

  test("a layer that runs out of memory in forward or backward changes nothing and works on", async () => {
    await useBuild(build);
    const heap = new WasmHeap(given(module), { maximumPages: 2 });
    const shape = [40, 3, 100];
    const values = (seed: number) => normal(seed, 40 * 3 * 100);
    const inHeap = (data: Float32Array) => {
      const t = new Tensor(heap, shape, data.length, "float32");
      t.data.set(data);
      return t;
    };
    const x = inHeap(values(1));
    const y = inHeap(values(2));
    const bn = new BatchNorm(3);
    bn.forward(x, { out: y });
    const state = bn.stateDict();
    const before = heap.usage;
    const atStart = y.data.slice();
    const full = expect.objectContaining({ code: "out-of-memory" }) as Error;
    expect(() => bn.forward(x)).toThrow(full);
    expect(() => bn.backward(y)).toThrow(full);
    expect(() => bn.backward({ data: y.data.slice(), shape } as TensorLike, { dxOut: y })).toThrow(full);
    expect(bn.stateDict()).toEqual(state);
    expect(heap.usage).toEqual(before);
    expect(y.data).toEqual(atStart);
    const fresh = new BatchNorm(3);
    fresh.forward({ data: x.data.slice(), shape });
    const expected = fresh.backward({ data: atStart, shape });
    const { dx, dGamma } = bn.backward(y, { dxOut: y });
    expect(dx?.data).toEqual(expected.dx?.data);
    expect(dGamma).toEqual(expected.dGamma);
  });
});

describe.each(BUILDS)("Tensor (%s)", (build) => {
  beforeEach(() => useBuild(build));

  test.each([
    ["a Float32Array", Float32Array.of(1, 2, 3, 4, 5, 6)],
    ["an array of numbers", [1, 2, 3, 4, 5, 6]],
  ])("is made from %s, which it copies", (_, data) => {
    const t = tensor([2, 3], data);
    data[0] = 9;
    expect(t.data).toEqual(Float32Array.of(1, 2, 3, 4, 5, 6));
    expect([t.shape, t.length, t.disposed]).toEqual([[2, 3], 6, false]);
  });

  test("made without data holds zeros, where memory is used again too", () => {
    const used = tensor([100], new Float32Array(100).fill(7));
    const { pointer } = used;
    used.dispose();
    const t = tensor([10, 10]);
    expect(t.pointer).toBe(pointer);
    expect(t.data).toEqual(new Float32Array(100));
  });

  test.each([
    [[], 1],
    [[0], 0],
    [[3, 0, 2], 0],
    [[5], 5],
    [[1, 2, 1, 3, 1, 2], 12],
  ])("of shape %j has %i elements", (shape, length) => {
    expect(tensor(shape).data.length).toBe(length);
  });

  test("keeps its own shape, which nobody can change", () => {
    const shape = [2, 3];
    const t = tensor(shape);
    shape[0] = 7;
    expect(t.shape).toEqual([2, 3]);
    expect(() => {
      (t.shape as number[])[0] = 7;
    }).toThrow(TypeError);
  });

  test("has live data: what is written there is what the next call reads and what it wrote", () => {
    const bn = new BatchNorm(1, { epsilon: 0 });
    const x = tensor([2, 1]);
    const y = tensor([2, 1]);
    const seen = y.data;
    x.data.set([10, 14]);
    bn.forward(x, { out: y });
    expect(seen).toEqual(Float32Array.of(-1, 1));
    x.data[0] = 18;
    bn.forward(x, { out: y });
    expect(seen).toEqual(Float32Array.of(1, -1));
  });

  test("keeps its values, and data shows them, when memory grows", () => {
    const t = tensor([3], [1, 2, 3]);
    const old = t.data;
    expect(t.data).toBe(old);
    const { capacity } = defaultHeap().usage;
    tensor([capacity]);
    expect(defaultHeap().usage.capacity).toBeGreaterThan(capacity);
    expect(old.length).toBe(0);
    expect(t.data).toEqual(Float32Array.of(1, 2, 3));
    t.data[1] = 5;
    expect(t.data).toEqual(Float32Array.of(1, 5, 3));
  });

  test("is made from a view of wasm memory itself, although making it grows the memory", () => {
    const values = normal(1, 12_000);
    const t = tensor([12_000], values);
    const { capacity } = defaultHeap().usage;
    const copy = tensor([12_000], t.data);
    expect(defaultHeap().usage.capacity).toBeGreaterThan(capacity);
    expect(copy.data).toEqual(values);
    expect(tensor([2], t.data.subarray(5, 7)).data).toEqual(values.subarray(5, 7));
  });

  test.each([
    ["dispose()", (t: Tensor) => t.dispose()],
    ["Symbol.dispose", (t: Tensor) => t[Symbol.dispose]()],
  ])("%s gives the memory back, and a second time does nothing", (_, dispose) => {
    const before = defaultHeap().usage.used;
    const t = tensor([50]);
    const { pointer } = t;
    expect(defaultHeap().usage.used).toBe(before + 256);
    dispose(t);
    expect(defaultHeap().usage.used).toBe(before);
    const heir = tensor([50], new Float32Array(50).fill(3));
    expect(heir.pointer).toBe(pointer);
    dispose(t);
    expect(t.disposed).toBe(true);
    expect(defaultHeap().usage.used).toBe(before + 256);
    expect(heir.data[49]).toBe(3);
  });

  test.each(["data", "pointer"] as const)("throws when %s is read after dispose", (member) => {
    const t = tensor([2, 2]);
    t.dispose();
    expect(() => t[member]).toThrow(expect.objectContaining({ name: "BatchNormError", code: "disposed" }) as Error);
    expect(t.shape).toEqual([2, 2]);
  });

  test.each([
    ["a shape that is none", 4, undefined, TypeError, /^tensor\.shape: expected an array of dimensions, got 4$/],
    ["no shape", undefined, undefined, TypeError, /^tensor\.shape: expected an array of dimensions, got undefined$/],
    ["a string as dimension", [2, "3"], undefined, TypeError, /^tensor\.shape: expected numbers .* got \[2, "3"\]$/],
    ["a negative dimension", [2, -3], undefined, RangeError, /^tensor\.shape: expected non-negative .* got \[2, -3\]$/],
    ["half a dimension", [2.5], undefined, RangeError, /^tensor\.shape: expected non-negative integers, got \[2\.5\]$/],
    ["NaN as dimension", [Number.NaN], undefined, RangeError, /^tensor\.shape: expected non-negative .* got \[NaN\]$/],
    ["too few values", [2, 3], [1, 2], RangeError, /^data: expected 6 elements \(2×3\), got 2$/],
    ["too many values", [2], new Float32Array(3), RangeError, /^data: expected 2 elements \(2\), got 3$/],
    ["an Int32Array", [2], new Int32Array(2), TypeError, /^data: expected a Float32Array or .* got Int32Array\(2\)$/],
    [
      "a Uint16Array that says no dtype",
      [2],
      new Uint16Array(2),
      TypeError,
      /^data: expected .* got Uint16Array\(2\)$/,
    ],
    ["null for data", [2], null, TypeError, /^data: expected a Float32Array or an array of numbers, got null$/],
    ["a string for data", [2], "ab", TypeError, /^data: expected a Float32Array or an array of numbers, got "ab"$/],
    ["strings as values", [2], ["1", "b"], TypeError, /^data: expected .*numbers, got/],
    ["bigints as values", [2], [1n, 2n], TypeError, /^data: expected .*numbers, got/],
    ["rows as values", [2], [[1], [2]], TypeError, /^data: expected .*numbers, got/],
    // biome-ignore lint/suspicious/noSparseArray: holes are what is refused
    ["a hole as value", [3], [1, , 3], TypeError, /^data: expected .*numbers, got \[1, , 3\]$/],
  ])("is not made from %s, and nothing is allocated then", (_, shape, data, kind, message) => {
    const before = defaultHeap().usage;
    const making = () => tensor(shape as number[], data as number[]);
    expect(making).toThrow(kind);
    expect(making).toThrow(message);
    expect(defaultHeap().usage).toEqual(before);
  });

  // the products of these are 0, or a small number, modulo 2^32 or modulo 2^64, or need more than 53 bits
  const TOO_LARGE = [
    [2 ** 30],
    [65536, 16384],
    [65536, 65536],
    [65537, 65536],
    [2 ** 31, 2, 1],
    [2 ** 32, 3],
    [2 ** 32 + 1, 2 ** 32],
    [134217729, 67108865],
    [2 ** 53, 2 ** 53, 2 ** 53],
    [1e200, 1e200],
  ];

  test.each(TOO_LARGE.map((shape) => ({ shape })))("of $shape, beyond 4 GiB, is refused", ({ shape }) => {
    const before = defaultHeap().usage;
    expect(() => tensor(shape)).toThrow(RangeError);
    expect(() => tensor(shape)).toThrow(
      /^tensor: expected at most 4294901760 bytes .*4 GiB.*, got .*; split the batch$/,
    );
    expect(() => tensor(shape, new Float32Array(65536))).toThrow(/4 GiB/);
    expect(defaultHeap().usage).toEqual(before);
  });

  test("with a dimension of 0 is empty, however large the others are", () => {
    for (const shape of [
      [2 ** 40, 0],
      [1e200, 1e200, 0],
    ])
      expect(tensor(shape).data.length).toBe(0);
  });

  test("of another memory is refused, whichever argument it is, before anything is written", async () => {
    const old = [1, 2, 3].map((seed) => tensor([4, 2], normal(seed, 8)));
    const [oldX, oldY, oldDy] = old as [Tensor, Tensor, Tensor];
    const bn = new BatchNorm(2);
    await useBuild(build);
    const here = [4, 5, 6].map((seed) => tensor([4, 2], normal(seed, 8)));
    const [x, y, dy] = here as [Tensor, Tensor, Tensor];
    expect(x.heap).not.toBe(oldX.heap);
    const values = () => [...old, ...here].map((t) => t.data.slice());
    bn.forward(x);
    const [before, state] = [values(), bn.stateDict()];
    const viewed: TensorLike = { data: normal(7, 8), shape: [4, 2] };
    for (const call of [
      () => bn.forward(x, { out: oldY }),
      () => bn.forward(oldX, { out: y }),
      () => bn.forward(x, { residual: oldY }),
      () => bn.forward(viewed, { residual: oldY, out: y }),
      () => bn.backward(oldDy),
      () => bn.backward(dy, { dxOut: oldY }),
    ]) {
      expect(call).toThrow(expect.objectContaining({ name: "BatchNormError", code: "other-memory" }) as Error);
      expect(call).toThrow(/^(out|residual|dy|dxOut): expected a tensor in the memory of .* got another; copy /);
    }
    expect(values()).toEqual(before);
    expect(bn.stateDict()).toEqual(state);
    // each memory by itself goes on
    expect(bn.forward(oldX, { out: oldY })).toBe(oldY);
    expect(bn.backward(oldDy).dx).toMatchObject({ heap: oldX.heap });
  });
});
