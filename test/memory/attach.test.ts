// Tensors in the memory of another WebAssembly program: the same bits as in our own, without copies, whatever the program
// does to its memory between two calls.

import { describe, expect, test } from "vitest";
import {
  attachMemory,
  BatchNorm,
  batchNormForward,
  layerNormForward,
  type MemoryOwner,
  normBackward,
  type Tensor,
  tensor,
} from "../../src/index.ts";
import { Allocator } from "../../src/memory/allocator.ts";
import { normal } from "../support/worlds.ts";

/** A program with a memory of its own: its allocator grows the memory as needed, and counts what it has given out. */
function program({ shared = false, pages = 2 } = {}) {
  const memory = new WebAssembly.Memory({ initial: pages, maximum: 4096, shared });
  const allocator = new Allocator((end) => {
    const missing = end - memory.buffer.byteLength;
    if (missing > 0) memory.grow(Math.ceil(missing / 65536));
  });
  const owner: MemoryOwner = {
    memory,
    malloc: (bytes) => allocator.allocate(bytes),
    free: (pointer) => allocator.free(pointer),
  };
  return { memory, allocator, owner };
}

const SHAPE = [6, 3, 10];
const values = (seed: number) => normal(seed, 180, 2, 3);

describe.each([false, true])("attached memory, shared: %j", (shared) => {
  test("gives the bits of our own memory, in place, through training, inference and activations", () => {
    const { memory, owner } = program({ shared });
    const own = attachMemory(owner);
    const at = owner.malloc(180 * 4);
    new Float32Array(memory.buffer, at, 180).set(values(1));
    const run = (x: Tensor, dy: Tensor, out: Tensor) => {
      const bn = new BatchNorm(3, { activation: "relu" });
      const results: Float32Array[] = [];
      for (let step = 0; step < 3; step++) {
        bn.forward(x, { out });
        const { dx, dGamma } = bn.backward(dy);
        results.push(out.data.slice(), dx.data.slice(), dGamma.slice());
        dx.dispose();
      }
      bn.eval().forward(x, { out });
      return [...results, out.data.slice(), bn.runningMean?.slice()];
    };
    const x = own.tensorAt(at, SHAPE);
    const mine = run(x, own.tensor(SHAPE, values(2)), own.tensor(SHAPE));
    expect(x.data.byteOffset).toBe(at);
    expect(mine).toEqual(run(tensor(SHAPE, values(1)), tensor(SHAPE, values(2)), tensor(SHAPE)));
  });

  test("survives growth between and in calls", () => {
    const { memory, owner } = program({ shared });
    const own = attachMemory(owner);
    const [x, out] = [own.tensor(SHAPE, values(1)), own.tensor(SHAPE)];
    const bn = new BatchNorm(3);
    const expected = bn.forward(x, { out, mode: "batch" }).data.slice();
    for (let call = 0; call < 4; call++) {
      memory.grow(1);
      out.data.fill(0);
      expect(bn.forward(x, { out, mode: "batch" }).data).toEqual(expected);
      memory.grow(1);
      const y = bn.forward(x, { mode: "batch" });
      memory.grow(1);
      expect(y.data).toEqual(expected);
      expect(x.data).toEqual(values(1));
    }
    // results that need more memory than there is
    const large = own.tensor([64, 3, 1000]);
    expect(layerNormForward(large, 1000).y.data.length).toBe(192_000);
  });
});

test("the program's own elements stay when their tensor is disposed of, and all others are freed", () => {
  const { memory, allocator, owner } = program();
  const own = attachMemory(owner);
  const at = owner.malloc(180 * 4);
  const { used } = allocator;
  const x = own.tensorAt(at, SHAPE);
  x.data.set(values(1));
  const before = new Float32Array(memory.buffer, at, 180).slice();
  const y = batchNormForward(x).y as Tensor;
  const kept = allocator.used; // y and the workspace
  y.dispose();
  expect(allocator.used).toBeLessThan(kept);
  const between = allocator.used;
  const t = own.tensor(SHAPE);
  t.dispose();
  t.dispose();
  x.dispose();
  expect([allocator.used, x.disposed]).toEqual([between, true]);
  expect(new Float32Array(memory.buffer, at, 180)).toEqual(before);
  expect(used).toBeLessThanOrEqual(between);
  expect(() => batchNormForward(x)).toThrow(expect.objectContaining({ code: "disposed" }));
});

test("float64 and 16 bits are elements, too", () => {
  const { owner } = program();
  const own = attachMemory(owner);
  const wide = own.tensorAt(owner.malloc(180 * 8), SHAPE, { dtype: "float64" });
  wide.data.set(values(1));
  const narrow = own.tensorAt(owner.malloc(180 * 2), SHAPE, { dtype: "bfloat16" });
  expect(narrow.data.fill(0x3f80)).toBeInstanceOf(Uint16Array);
  const { y, saved } = layerNormForward(wide, 10);
  const expected = layerNormForward({ data: Float64Array.from(values(1)), shape: SHAPE }, 10);
  expect(y.data).toEqual(expected.y.data);
  expect(normBackward(wide, saved).dx.data).toEqual(
    normBackward({ data: wide.data.slice(), shape: SHAPE }, expected.saved).dx.data,
  );
  expect(new Set(layerNormForward(narrow, 10).y.data)).toEqual(new Set([0]));
});

test("memories are not mixed in a call, and wrong arguments are refused by their names", () => {
  const { memory, owner } = program();
  const own = attachMemory(owner);
  const x = own.tensor(SHAPE, values(1));
  expect(() => batchNormForward(x, {}, { out: tensor(SHAPE) })).toThrow(
    expect.objectContaining({ code: "other-memory" }),
  );
  const end = memory.buffer.byteLength;
  for (const [pointer, shape, options] of [
    [0, SHAPE, {}],
    [1030, SHAPE, {}],
    [1028, SHAPE, { dtype: "float64" }],
    [end - 4, SHAPE, {}],
    [-8, [1], {}],
    [1.5, SHAPE, {}],
    ["8", SHAPE, {}],
    [2 ** 33, [1], {}],
  ] as const)
    expect(() => own.tensorAt(pointer as number, shape, options)).toThrow(/^pointer: expected /);
  expect(() => own.tensorAt(1024, [2.5])).toThrow(/^tensor\.shape: expected /);
  expect(() => own.tensorAt(1024, [2], { dtype: "int32" as never })).toThrow(/^dtype: expected /);
  for (const wrong of [
    null,
    undefined,
    0,
    [],
    { memory },
    { ...owner, memory: {} },
    { ...owner, malloc: 1 },
    { ...owner, HEAPU8: 1 },
  ])
    expect(() => attachMemory(wrong as never)).toThrow(/^owner/);
  const freed: number[] = [];
  const odd = attachMemory({ ...owner, malloc: () => 1028, free: (pointer) => freed.push(pointer) });
  expect(() => odd.tensor(SHAPE)).toThrow(/^malloc: expected an address that is a multiple of 8/);
  expect(freed).toEqual([1028]);
  const full = attachMemory({ ...owner, malloc: () => 0 });
  expect(() => full.tensor(SHAPE)).toThrow(expect.objectContaining({ code: "out-of-memory" }));
});

test("a memory that the kernels cannot import is refused, and what the owner's getters throw passes through", () => {
  const { owner } = program();
  const empty = new WebAssembly.Memory({ initial: 0 });
  expect(() => attachMemory({ ...owner, memory: empty })).toThrow(
    /^owner\.memory: expected a WebAssembly\.Memory of at least one page, with 32-bit addresses, got/,
  );
  const { proxy, revoke } = Proxy.revocable({}, {});
  revoke();
  for (const [name, wrong] of [
    ["memory", proxy],
    ["memory", { buffer: new ArrayBuffer(65_536) }],
    ["memory", null],
    ["memory", undefined],
    ["malloc", undefined],
    ["free", 1],
  ] as const)
    expect(() => attachMemory({ ...owner, [name]: wrong } as never)).toThrow(
      new RegExp(`^owner\\.${name}: expected a ${name === "memory" ? "WebAssembly\\.Memory" : "function"}, got`),
    );
  for (const name of ["MyLinkError", "TypeErrors", "Error"]) {
    const error = Object.assign(new Error("gone"), { name });
    let reads = 0;
    const moody = {
      ...owner,
      get free(): MemoryOwner["free"] {
        if (++reads > 1) throw error;
        return owner.free;
      },
    };
    expect(() => attachMemory(moody)).toThrow(error);
  }
});

test("elements may end where the memory ends, and an address is a 32-bit integer, also below 0", () => {
  const { memory, owner } = program({ pages: 1 });
  const own = attachMemory(owner);
  const end = memory.buffer.byteLength;
  expect(own.tensorAt(end - 16, [2, 2]).data.byteOffset).toBe(end - 16);
  expect(own.tensorAt(end - 16, [2], { dtype: "float64" }).data).toHaveLength(2);
  for (const [pointer, shape, message] of [
    [end - 12, [2, 2], `an address of 16 bytes in a memory of ${end}, got ${end - 12}`],
    [-4, [1], `an address of 4 bytes in a memory of ${end}, got ${2 ** 32 - 4}`],
    [0, [1], "a multiple of 4 above 0, got 0"],
    [1026, [1], "a multiple of 4 above 0, got 1026"],
    [1024.5, [1], "a 32-bit address, got 1024.5"],
    [2 ** 32, [1], `a 32-bit address, got ${2 ** 32}`],
    [2 ** 32 + 1024, [1], `a 32-bit address, got ${2 ** 32 + 1024}`],
    [-(2 ** 32), [1], `a 32-bit address, got ${-(2 ** 32)}`],
  ] as const)
    expect(() => own.tensorAt(pointer, shape)).toThrow(`pointer: expected ${message}`);
  expect(() => own.tensorAt(1024, [1], { type: "float32" } as never)).toThrow(/^tensor options: expected options/);
});

test("every view of the memory is up to date after the program has grown it", () => {
  const { memory, owner } = program();
  const { heap } = attachMemory(owner).tensorAt(1024, [1]);
  for (const name of ["f32", "f64", "u8", "u16", "u32"] as const) {
    memory.grow(1);
    expect(heap[name].buffer).toBe(memory.buffer);
    expect(heap[name].byteLength).toBe(memory.buffer.byteLength);
    expect(heap[name]).toBe(heap[name]);
  }
});
