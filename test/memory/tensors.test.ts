// What tensor() takes and refuses, and the names in its errors, on one build. memory.test.ts has the elements themselves.

import { beforeAll, expect, test, vi } from "vitest";
import { tensor } from "../../src/index.ts";
import { defaultHeap } from "../../src/memory/heap.ts";
import { Tensor } from "../../src/memory/tensor.ts";
import { MAX_BYTES } from "../../src/tensor/shape.ts";
import { useBuild } from "../support/worlds.ts";

beforeAll(() => useBuild("simd"));

test.each([
  ["another option", [1], { type: "float32" }, /^tensor options: expected options among dtype, got "type"/],
  ["elements of another type than dtype", Float32Array.of(1), { dtype: "float64" }, /"float64", got Float32Array\(1\)/],
  [
    "an array of no type",
    Int8Array.of(1),
    { dtype: "float64" },
    /^data: expected elements of dtype "float64", got Int8/,
  ],
  ["numbers as float16", [1], { dtype: "float16" }, /^data: expected elements of dtype "float16", got \[1\]/],
  ["numbers as bfloat16", [1], { dtype: "bfloat16" }, /^data: expected elements of dtype "bfloat16", got \[1\]/],
])("%s is refused, and nothing is allocated", (_, data, options, message) => {
  const before = defaultHeap().usage;
  expect(() => tensor([1], data as never, options as never)).toThrow(message);
  expect(defaultHeap().usage).toEqual(before);
});

test("a list of numbers and a typed array become the same elements, of float64 too", () => {
  for (const dtype of ["float32", "float64"] as const) {
    const Type = dtype === "float64" ? Float64Array : Float32Array;
    const fromList = tensor([3], [0.1, -0, Number.NaN], { dtype });
    const fromArray = tensor([3], Type.of(0.1, -0, Number.NaN) as never, { dtype });
    expect(fromList.data).toEqual(Type.of(0.1, -0, Number.NaN));
    expect(fromArray.data).toEqual(fromList.data);
  }
});

test("a detached array is an array without elements", () => {
  const data = Float32Array.of(1, 2);
  structuredClone(0, { transfer: [data.buffer] });
  expect(tensor([0, 3], data).data).toHaveLength(0);
  expect(() => tensor([2], data)).toThrow(/^data: expected 2 elements/);
});

test("the largest tensor is of 4 GiB less a page, and only memory is missing for it", () => {
  expect(() => tensor([MAX_BYTES / 4])).toThrow(expect.objectContaining({ code: "out-of-memory" }) as Error);
  expect(() => tensor([MAX_BYTES / 4 + 1])).toThrow(/^tensor: expected at most/);
});

test("Tensor.is knows tensors from all other values, which it does not touch", () => {
  const t = tensor([1]);
  expect(Tensor.is(t)).toBe(true);
  for (const value of [null, undefined, 1, "x", {}, Object.create(Tensor.prototype), new Proxy(t, {})])
    expect(Tensor.is(value)).toBe(false);
});

test("a disposed tensor is named, and may be disposed of where nothing collects tensors", () => {
  const t = new Tensor(defaultHeap(), [2], 2, "float32");
  t.dispose();
  t.dispose();
  expect(() => t.pointer).toThrow(/^tensor: expected/);
  expect(t.length).toBe(2);
});

test("a tensor for which no addresses can be reserved is registered and freed like any other", () => {
  const collected = defaultHeap().collected as FinalizationRegistry<number>;
  const unregister = vi.spyOn(collected, "unregister");
  vi.stubGlobal("ArrayBuffer", function refuse() {
    throw new RangeError("Array buffer allocation failed");
  });
  const t = tensor([1 << 18]);
  vi.unstubAllGlobals();
  t.dispose();
  expect(unregister).toHaveBeenCalledExactlyOnceWith(t);
});
