// What counts as an array: kinds of arrays by what they are, in whichever realm they were made; types of elements by the
// names of safetensors; strides and orders; masks of all kinds of lists; and what is refused, with its remedy.

import { runInNewContext } from "node:vm";
import { beforeAll, describe, expect, test, vi } from "vitest";
import { nodeModule } from "../../src/common/engine.ts";
import {
  BatchNorm,
  batchNormBackward,
  batchNormDoubleBackward,
  batchNormForward,
  batchNormInference,
  batchNormStatistics,
  createGroupMemory,
  createMessagePorts,
  type Dtype,
  diagnose,
  foldIntoLinear,
  layerNormForward,
  type Mask,
  normBackward,
  readSafetensors,
  type SavedNorm,
  sharedMemoryGroup,
  type Tensor,
  type TensorLike,
  tensor,
  toAffine,
  unpackStatistics,
  weightNormForward,
  writeSafetensors,
} from "../../src/index.ts";
import { defaultHeap } from "../../src/memory/heap.ts";
import { normal, useBuild } from "../support/worlds.ts";
import type { Wrong } from "../support/wrong-use.ts";

beforeAll(() => useBuild("simd"));

const SHAPE = [4, 3, 2];
const values = (seed: number) => normal(seed, 24);
const plain = (seed: number, more: object = {}): TensorLike => ({ data: values(seed), shape: SHAPE, ...more });

/** Returns an array of another realm with the same kind and elements. */
const foreign = <A extends ArrayBufferView>(array: A): A => {
  const Kind = runInNewContext(array.constructor.name) as new (array: A) => A;
  const copy = new Kind(array);
  expect(copy).not.toBeInstanceOf(array.constructor);
  return copy;
};

describe("arrays of another realm", () => {
  test.each(["float32", "float64"] as const)("go into every call, %s", (dtype) => {
    const Kind = dtype === "float32" ? Float32Array : Float64Array;
    const run = (array: (seed: number, length?: number) => never) => {
      const bn = new BatchNorm(3, { dtype, activation: "relu" });
      bn.gamma = array(1, 3);
      bn.runningMean = array(2, 3);
      const x = { data: array(3), shape: SHAPE };
      const y = bn.forward<TensorLike<"float32">>(x, { residual: plain(9, { data: array(4) }) });
      const { dx, dGamma } = bn.backward<TensorLike<"float32">>(
        { data: array(5), shape: SHAPE },
        { dBetaOut: array(6, 3) },
      );
      const { saved } = batchNormForward(x, { gamma: array(1, 3) }, { out: { data: array(7), shape: SHAPE } });
      const twice = batchNormDoubleBackward({ data: array(5), shape: SHAPE }, saved, { ddGamma: array(8, 3) });
      const inferred = batchNormInference(x, { mean: array(1, 3), variance: new Float64Array(3).fill(2) });
      const layer = layerNormForward(x, 2, { gamma: array(1, 2) });
      const g = normBackward({ data: array(5), shape: SHAPE }, layer.saved);
      const { scale } = toAffine(bn as Wrong, { activation: "relu" });
      return [
        y.data,
        dx?.data,
        dGamma,
        bn.runningMean,
        twice.dx?.data,
        inferred.y.data,
        layer.y.data,
        g.dGamma,
        scale,
      ].map((result) => Array.from(result as Float32Array));
    };
    const make = (seed: number, length = 24) => Kind.from(normal(seed, length)) as never;
    expect(run((...args) => foreign(make(...args)))).toEqual(run(make));
  });

  test("go into tensors, statistics, folding, and files", () => {
    expect(tensor([3], foreign(Float32Array.of(1, 2, 3))).data).toEqual(Float32Array.of(1, 2, 3));
    expect(tensor([1], foreign(Uint16Array.of(0x3c00)) as never, { dtype: "float16" }).dtype).toBe("float16");
    expect(unpackStatistics(foreign(Float64Array.of(2, 1, 4)))).toMatchObject({ count: 2 });
    const weight = { data: foreign(Float32Array.of(1, 2, 3)), shape: [3, 1] };
    expect(foldIntoLinear({ weight }, new BatchNorm(3, { epsilon: 0 })).weight.data).toEqual(Float32Array.of(1, 2, 3));
    const file = writeSafetensors({ a: foreign(Float32Array.of(1, 2)) });
    for (const bytes of [
      foreign(file),
      file.buffer,
      runInNewContext("ArrayBuffer").prototype.slice.call(file.buffer, 0),
    ])
      expect(readSafetensors(bytes).tensors.a?.data).toEqual(Float32Array.of(1, 2));
    const shared = new Uint8Array(new SharedArrayBuffer(file.length));
    shared.set(file);
    expect(readSafetensors(shared.buffer as Wrong).tensors.a?.data).toEqual(Float32Array.of(1, 2));
  });

  test("files are read and written where there is neither TextDecoder nor TextEncoder, as in jsdom", () => {
    const state = { "größe.ß": Float32Array.of(1, 2), 日本: Float32Array.of(3) };
    const metadata = { 'a "b"': "\u{1f600}\n" };
    const expected = writeSafetensors(state, metadata);
    vi.stubGlobal("TextDecoder", undefined);
    vi.stubGlobal("TextEncoder", undefined);
    try {
      expect(writeSafetensors(state, metadata)).toEqual(expected);
      expect(readSafetensors(expected)).toEqual({ tensors: expect.anything(), metadata });
      expect(Object.keys(readSafetensors(expected).tensors).sort()).toEqual(Object.keys(state).sort());
      const broken = expected.slice();
      broken[broken.indexOf(0xc3) + 1] = 0x28;
      expect(() => readSafetensors(broken)).toThrow(/^safetensors: header: expected JSON/);
    } finally {
      vi.unstubAllGlobals();
    }
  });

  test("Node's own modules and groups of ports: what a realm lacks is no ReferenceError", async () => {
    const process = { getBuiltinModule: (name: string) => ({ name }) };
    vi.stubGlobal("process", process);
    vi.stubGlobal("MessageChannel", undefined);
    try {
      expect(await nodeModule("os")).toEqual({ name: "os" });
      expect(() => createMessagePorts(2)).toThrow(
        /^createMessagePorts: expected an engine with MessageChannel, got undefined$/,
      );
    } finally {
      vi.unstubAllGlobals();
    }
    expect(await nodeModule("os")).toHaveProperty("cpus");
    const made = new Uint8Array(createGroupMemory(1));
    const memory = runInNewContext(`new SharedArrayBuffer(${made.length})`);
    new Uint8Array(memory).set(made);
    expect(sharedMemoryGroup(memory, 0)).toMatchObject({ rank: 0, size: 1 });
  });

  test("views with an offset, resizable and growable buffers have the bits of others", () => {
    const expected = new BatchNorm(3).forward(plain(1)).data;
    const Resizable = ArrayBuffer as new (bytes: number, options: object) => ArrayBuffer;
    const Growable = SharedArrayBuffer as new (bytes: number, options: object) => SharedArrayBuffer;
    const options = { maxByteLength: 4096 };
    for (const buffer of [new ArrayBuffer(200), new Resizable(200, options), new Growable(200, options)])
      for (const data of [
        new Float32Array(buffer as ArrayBuffer, 12, 24),
        new Float32Array(buffer as ArrayBuffer).subarray(1, 25),
      ]) {
        data.set(values(1));
        expect(new BatchNorm(3).forward({ data, shape: SHAPE }).data).toEqual(expected);
      }
  });
});

describe("elements of another type than the layer's", () => {
  const bits = new Uint16Array(24);
  test.each<[Dtype, object, string]>([
    ["float32", { data: new Float64Array(24) }, "x.data: expected a Float32Array, got Float64Array(24)"],
    ["float64", {}, "x.data: expected a Float64Array, got Float32Array(24)"],
    ["float16", {}, "x.data: expected float16 in a Float16Array or Uint16Array, got Float32Array(24)"],
    ["bfloat16", {}, "x.data: expected bfloat16 in a Uint16Array, got Float32Array(24)"],
    ["float16", { data: bits, dtype: "bfloat16" }, 'x.dtype: expected "float16", got "bfloat16"'],
    ["bfloat16", { data: bits, dtype: "float16" }, 'x.dtype: expected "bfloat16", got "float16"'],
    ["float32", { data: bits, dtype: "float16" }, "x.data: expected a Float32Array, got Uint16Array(24)"],
    ["float16", { data: new Float64Array(24) }, "x.data: expected float16 in a Float16Array or Uint16Array, got Float"],
  ])("%s refuses %o", (dtype, more, message) => {
    const x = { ...plain(1), ...more } as Wrong;
    expect(() => new BatchNorm(3, { dtype }).forward(x)).toThrow(message);
  });

  test("neither kind of 16 bits nor a declared type is asked of a tensor that has its own", () => {
    const x = tensor<"float16">(SHAPE, bits, { dtype: "float16" });
    expect(new BatchNorm(3, { dtype: "float16" }).forward(x).dtype).toBe("float16");
  });
});

describe("arrays of a wrong length", () => {
  test.each<[string, Float32Array]>([
    ["no elements", new Float32Array(0)],
    ["fewer elements in wasm memory", tensor([5]).data],
  ])("%s: the error has their number, and no word of growth", (_, data) => {
    expect(() => new BatchNorm(3).forward({ data, shape: SHAPE })).toThrow(
      `x: expected 24 elements (4×3×2), got ${data.length}`,
    );
  });
});

describe("strides and orders", () => {
  test.each<[string, object]>([
    ["strides of row-major order", { strides: [6, 2, 1], offset: 0 }],
    ["stride, as ndarray has it", { stride: [6, 2, 1] }],
    ["null and undefined", { stride: null, offset: undefined, fortranOrder: null }],
    ["C order", { order: "C", fortranOrder: false, layout: "row-major" }],
    ["c order", { order: "c", layout: "C" }],
    ["row-major order", { order: "row-major", layout: "c" }],
  ])("%s are taken", (_, more) => {
    expect(new BatchNorm(3).forward(plain(1, more)).data).toEqual(new BatchNorm(3).forward(plain(1)).data);
  });

  test("of axes with one element, and of tensors with none, any is taken", () => {
    const one = { data: new Float32Array(6), shape: [2, 3, 1, 1], strides: [3, 1, 99, 0] } as TensorLike;
    expect(new BatchNorm(3).forward(one, { mode: "eval" }).shape).toEqual([2, 3, 1, 1]);
    const none = { data: new Float32Array(0), shape: [0, 3, 5], strides: [7, 7, 7] } as TensorLike;
    expect(new BatchNorm(3).forward(none).shape).toEqual([0, 3, 5]);
  });

  const refused: [string, object, string][] = [
    ["a transposed view", { stride: [12, 1, 3] }, "stride"],
    ["strides of column-major order", { strides: [1, 4, 12] }, "strides"],
    ["strides of another rank", { strides: [6, 2] }, "strides"],
    ["an offset", { offset: 1 }, "offset"],
    ["Fortran's order", { fortranOrder: true }, "fortranOrder"],
    ["order F", { order: "F" }, "order"],
    ["a layout of channels, which is an option", { layout: "channels-last" }, "layout"],
  ];
  test.each(refused)("%s is refused in every call", (_, more, field) => {
    const message = new RegExp(
      `\\.${field}: expected elements in row-major order from index 0 on, got .*; pass a contiguous copy$`,
    );
    const bad = plain(1, more);
    const { saved } = batchNormForward(plain(1), {}, { activation: "relu", residual: plain(2) });
    const layer = layerNormForward(plain(1), 2);
    for (const call of [
      () => new BatchNorm(3).forward(bad),
      () => new BatchNorm(3).forward(plain(1), { out: bad }),
      () => new BatchNorm(3).forward(plain(1), { residual: bad }),
      () => batchNormBackward(bad, saved),
      () => batchNormBackward(plain(1), saved, { dxOut: bad }),
      () => batchNormDoubleBackward(plain(1), saved, { ddx: bad }),
      () => batchNormStatistics(bad),
      () => layerNormForward(bad, 2),
      () => normBackward(bad, layer.saved),
      () => diagnose(new BatchNorm(3), bad),
    ])
      expect(call).toThrow(message);
  });

  test("of a gamma and of a mask count, too", () => {
    const gamma = { data: new Float32Array(3), shape: [3], strides: [2] };
    expect(() => batchNormForward(plain(1), { gamma })).toThrow(/^gamma\.strides: expected/);
    const mask = { data: new Float32Array(8), shape: [4, 2], strides: [1, 4] };
    expect(() => batchNormForward(plain(1), {}, { mask })).toThrow(/^mask\.strides: expected/);
  });
});

describe("tensors of a safetensors file", () => {
  const half = Uint16Array.of(0x3c00, 0x4000, 0xc200); // 1, 2, −3 as float16
  const brain = Uint16Array.of(0x3f80, 0x4000, 0xc040); // the same as bfloat16
  const file = () =>
    readSafetensors(
      writeSafetensors({
        x: { data: values(1), shape: SHAPE },
        wide: { data: Float64Array.from(values(1)), shape: SHAPE },
        x16: { data: Uint16Array.from({ length: 24 }, (_, i) => 0x3c00 + 17 * i), shape: SHAPE, dtype: "F16" },
        gamma: Float32Array.of(1, 2, -3),
        half: { data: half, shape: [3], dtype: "F16" },
        brain: { data: brain, shape: [1, 3, 1], dtype: "BF16" },
        mask: { data: BigInt64Array.of(1n, 0n, 1n, 1n, 1n, 1n, 0n, 1n), shape: [4, 2] },
        flags: { data: Uint8Array.of(1, 0, 1, 1, 1, 1, 0, 1), shape: [4, 1, 2], dtype: "BOOL" },
        eighths: { data: new Uint8Array(8), shape: [4, 2], dtype: "F8_E5M2" },
      }),
    ).tensors as Record<string, Wrong>;

  test("are operands, and results have their type's name", () => {
    const { x, wide, x16 } = file();
    const y = new BatchNorm(3).forward<TensorLike>(x as never);
    expect([y.data, y.dtype]).toEqual([new BatchNorm(3).forward(plain(1)).data, "F32"]);
    expect(layerNormForward(wide as never as TensorLike<"float64">, 2).y.data).toBeInstanceOf(Float64Array);
    const bn = new BatchNorm(3, { dtype: "float16" });
    const y16 = bn.forward(x16 as never as TensorLike<"float16">);
    expect(bn.forward(y16).dtype).toBe("F16");
    const { dtype, ...rest } = x16 as { dtype: string; data: Uint16Array; shape: number[] };
    expect(dtype).toBe("F16");
    expect(y16.data).toEqual(new BatchNorm(3, { dtype: "float16" }).forward({ ...rest, dtype: "float16" }).data);
    expect(() => new BatchNorm(3).forward({ ...(x as TensorLike), dtype: "F64" } as never)).toThrow(
      /^x\.dtype: expected "float32", got "F64"$/,
    );
  });

  test("are parameters, those of 16 bits in either precision", () => {
    const { gamma, half: f16, brain: bf16 } = file();
    const vector = Float32Array.of(1, 2, -3);
    const statistics = { mean: vector, variance: Float32Array.of(1, 4, 9) };
    const expected = batchNormInference(plain(1), { gamma: vector, beta: vector, ...statistics }).y.data;
    for (const v of [gamma, f16, bf16])
      expect(batchNormInference(plain(1), { ...statistics, gamma: v, beta: v, mean: v }).y.data).toEqual(expected);
    const x = { data: Float64Array.from(values(1)), shape: SHAPE };
    const wide = Float64Array.from(vector);
    expect(batchNormForward(x, { gamma: f16 }).y.data).toEqual(batchNormForward(x, { gamma: wide }).y.data);
    const rows = { data: values(1), shape: [8, 3] };
    expect(layerNormForward(rows, 3, { gamma: bf16 }).y.data).toEqual(
      layerNormForward(rows, 3, { gamma: vector }).y.data,
    );
    const perSample = {
      data: Uint16Array.from({ length: 12 }, (_, i) => 0x3c00 + i),
      shape: [4, 3],
      dtype: "F16",
    } as const;
    const widened = Float32Array.from({ length: 12 }, (_, i) => 1 + i / 1024);
    expect(batchNormForward(plain(1), { perSample: { gamma: perSample } }).y.data).toEqual(
      batchNormForward(plain(1), { perSample: { gamma: widened } }).y.data,
    );
    expect(batchNormForward(plain(1), { beta: tensor([3], vector) }).y.data).toEqual(
      batchNormForward(plain(1), { beta: vector }).y.data,
    );
  });

  test("are masks and lengths", () => {
    const { mask, flags, eighths } = file();
    const x = { data: values(1), shape: SHAPE };
    const y = (m: Mask) => batchNormForward(x, {}, { mask: m }).y.data;
    const expected = y([true, false, true, true, true, true, false, true]);
    for (const m of [
      mask,
      flags,
      BigUint64Array.of(1n, 0n, 1n, 1n, 1n, 1n, 0n, 1n),
      Uint16Array.of(1, 0, 1, 1, 1, 1, 0, 1),
    ])
      expect(y(m)).toEqual(expected);
    const weights = {
      data: Uint16Array.of(0x3800, 0, 0x3800, 0x3800, 0x3800, 0x3800, 0, 0x3800),
      shape: [4, 2],
      dtype: "F16",
    };
    expect(y(weights)).toEqual(y([0.5, 0, 0.5, 0.5, 0.5, 0.5, 0, 0.5]));
    const lengths = y({ lengths: [2, 1, 0, 2] });
    expect(y({ lengths: BigInt64Array.of(2n, 1n, 0n, 2n) })).toEqual(lengths);
    expect(y({ lengths: { data: BigInt64Array.of(2n, 1n, 0n, 2n), shape: [4], dtype: "I64" } })).toEqual(lengths);
    expect(() => y(eighths)).toThrow(/^mask\.dtype: expected .*, got "F8_E5M2"$/);
  });

  test("bits without a declared type are refused, with the remedy", () => {
    expect(() => batchNormForward({ data: half, shape: [3, 1] })).toThrow(
      /^x\.data: .* with dtype "float16" or "bfloat16", got/,
    );
    expect(() => batchNormForward(plain(1), { gamma: half as Wrong })).toThrow(
      /^gamma: expected a Float32Array, or \{ data, shape, dtype \}, got Uint16Array\(3\)$/,
    );
    expect(() => batchNormForward(plain(1), { gamma: { data: half, shape: [3] } })).toThrow(
      /^gamma\.data: expected a Float32Array, got Uint16Array\(3\)$/,
    );
    expect(() => batchNormForward(plain(1), { gamma: 0 as Wrong })).toThrow(
      /^gamma: expected a Float32Array, or .*, got 0$/,
    );
    expect(() => layerNormForward(plain(1), 2, { gamma: "" as Wrong })).toThrow(
      /^gamma: expected a Float32Array, or .*, got ""$/,
    );
  });
});

describe("masks that are refused", () => {
  test.each<[string, unknown, RegExp]>([
    [
      "nested",
      [
        [true, false],
        [true, true],
        [true, true],
        [false, true],
      ],
      /^mask: expected a flat list, got nested \[\[true, false\], .*; pass mask\.flat\(\), or \{ data, shape \}$/,
    ],
    ["of another order", { data: new Float32Array(8).fill(1), shape: [2, 4] }, /^mask: expected shape 4×2, got 2×4$/],
    [
      "with a shape that its data do not have",
      { data: new Float32Array(7).fill(1), shape: [4, 2] },
      /^mask: expected 8 elements \(4×2\), got 7$/,
    ],
    [
      "bigints below 0",
      BigInt64Array.of(1n, 1n, 1n, 1n, 1n, 1n, 1n, -1n),
      /^mask\[7\]: expected a finite weight ≥ 0, got -1$/,
    ],
    ["strings", ["1", 1, 1, 1, 1, 1, 1, 1], /^mask\[0\]: expected a boolean or a weight, got "1"$/],
    [
      "lengths beyond the sequence",
      { lengths: BigInt64Array.of(2n, 3n, 0n, 2n) },
      /^mask\.lengths\[1\]: expected an integer from 0 to 2, got 3$/,
    ],
    ["lengths that are one number", { lengths: 2 }, /^mask\.lengths: expected an array of integers, got 2$/],
    [
      "bytes of smaller floats",
      { data: new Uint8Array(8).fill(0x3c), shape: [4, 2], dtype: "F8_E4M3" },
      /^mask\.dtype: expected integers, booleans or floats of 16 bits or more, got "F8_E4M3"$/,
    ],
  ])("%s", (_, mask, message) => {
    expect(() => batchNormForward(plain(1), {}, { mask: mask as Mask })).toThrow(message);
  });

  test.each([
    ["channels-first", [4, 3, 2, 1], "[N, C, L]"],
    ["channels-last", [4, 2, 1, 3], "[N, L, C]"],
  ] as const)("lengths where there are no sequences, %s", (layout, shape, axes) => {
    const mask = { lengths: [1, 1, 1, 1] };
    expect(() => batchNormForward({ data: values(1), shape }, {}, { mask, layout })).toThrow(
      `mask.lengths: expected sequences, ${axes}, got [${shape.join(", ")}]`,
    );
  });
});

describe("views of wasm memory", () => {
  const grow = () => tensor([(defaultHeap().usage.capacity >> 2) + 1]).dispose();

  test("that growth has emptied are errors with the remedy", () => {
    const t = tensor(SHAPE, values(1));
    const view = { data: t.data, shape: SHAPE };
    const bn = new BatchNorm(3);
    bn.forward(view);
    grow();
    const message =
      /^x\.data: expected 4×3×2 elements, got a view that growth of the memory has emptied; read tensor\.data again/;
    expect(() => bn.backward(plain(2))).toThrow(message);
    expect(() => bn.forward(view)).toThrow(message);
    expect(bn.forward({ data: t.data, shape: SHAPE }).data).toEqual(new BatchNorm(3).forward(plain(1)).data);
  });

  const ones = new Float32Array(64).fill(1);
  test.each<[string, (x: TensorLike) => SavedNorm]>([
    ["layer norm", (x) => layerNormForward(x, 4096).saved],
    ["weight norm", (x) => weightNormForward(x, ones).saved],
  ])("survive the growth of the call that they are in, %s", (_, savedOf) => {
    const shape = [64, 4096];
    const [x, dy] = [1, 2].map((seed) => tensor(shape, normal(seed, 64 * 4096))) as [Tensor, Tensor];
    const plainX = { data: x.data.slice(), shape };
    const expected = normBackward({ data: dy.data.slice(), shape }, savedOf(plainX)).dx;
    const view = { data: x.data, shape };
    const saved = savedOf(view);
    // takes every hole that dx would fit into
    const heap = defaultHeap();
    const held: number[] = [];
    for (const before = heap.usage.capacity; heap.usage.capacity === before; ) held.push(heap.allocate(2 ** 20));
    view.data = x.data;
    const { capacity } = heap.usage;
    const { dx } = normBackward<TensorLike>(dy, saved);
    expect(heap.usage.capacity).toBeGreaterThan(capacity);
    expect(dx?.data).toEqual(expected?.data);
    for (const pointer of held) heap.free(pointer);
  });
});

describe("a Proxy around a tensor, as Vue makes it", () => {
  const proxy = new Proxy(tensor(SHAPE), {});
  const statistics = {
    runningMean: new Float32Array(3),
    runningVariance: new Float32Array(3),
    options: { epsilon: 1 },
  };
  test.each<[string, () => unknown]>([
    ["x", () => new BatchNorm(3).forward(proxy)],
    ["out", () => new BatchNorm(3).forward(tensor(SHAPE, values(1)), { out: proxy })],
    ["residual", () => batchNormForward<TensorLike>(plain(1), {}, { residual: proxy })],
    ["dy", () => batchNormBackward(proxy, batchNormForward(plain(1)).saved)],
    ["dxOut", () => batchNormBackward<TensorLike>(plain(1), batchNormForward(plain(1)).saved, { dxOut: proxy })],
    ["ddx", () => batchNormDoubleBackward<TensorLike>(plain(1), batchNormForward(plain(1)).saved, { ddx: proxy })],
    ["x", () => layerNormForward(proxy, 2)],
  ])("is refused as %s, with the remedy", (name, call) => {
    expect(call).toThrow(
      new RegExp(`^${name}: expected the object itself, got a Proxy around it; in Vue .*markRaw.*toRaw`),
    );
  });

  test.each<[string, () => unknown]>([
    ["data", () => proxy.data],
    ["length", () => proxy.length],
    ["disposed", () => proxy.disposed],
    ["dispose", () => proxy.dispose()],
    ["a file", () => writeSafetensors({ weight: proxy as never })],
    ["folding", () => toAffine({ ...statistics, runningMean: new Proxy(tensor([3]), {}) as never })],
  ])("is refused by %s, with the remedy", (_, call) => {
    expect(call).toThrow(/^tensor: expected the object itself, got a Proxy around it; in Vue .*markRaw.*toRaw/);
  });
});

describe.each(["float32", "float64", "bfloat16"] as const)("results of %s", (dtype) => {
  const plain = (seed: number): TensorLike => {
    const data = values(seed);
    if (dtype === "bfloat16")
      return { data: Uint16Array.from(data, (v) => (v < 0 ? 0xbf80 : 0x3f80)), shape: SHAPE, dtype } as never;
    return { data: dtype === "float64" ? Float64Array.from(data) : data, shape: SHAPE } as TensorLike;
  };
  const held = (seed: number): TensorLike => tensor(SHAPE, plain(seed).data as never, { dtype }) as never;

  test.each([
    ["arrays", plain, held],
    ["tensors", held, plain],
  ] as const)("are %s where x and dy are, whatever the residual is", (_, own, other) => {
    for (const activation of ["none", "relu"] as const) {
      const bn = new BatchNorm(3, { activation, dtype } as object);
      const [x, dy, residual] = [own(1), own(2), other(3)];
      const y = bn.forward(x as never, { residual } as never) as TensorLike;
      const { dx, dResidual } = bn.backward(dy as never) as unknown as Record<"dx" | "dResidual", TensorLike>;
      for (const result of [y, dx, dResidual]) {
        expect(result.constructor).toBe(x.constructor);
        expect(result.data.constructor).toBe(x.data.constructor);
      }
      const twin = new BatchNorm(3, { activation, dtype } as object);
      expect((twin.forward(plain(1) as never, { residual: plain(3) } as never) as TensorLike).data).toEqual(y.data);
      const gradients = twin.backward(plain(2) as never) as unknown as Record<"dx" | "dResidual", TensorLike>;
      expect([gradients.dx.data, gradients.dResidual.data]).toEqual([dx.data, dResidual.data]);
    }
  });
});

test("a Proxy around a layer is refused by every member, with the remedy", () => {
  const bn = new Proxy(new BatchNorm(3), {});
  const message = /^bn: expected the object itself, got a Proxy around it; in Vue .*markRaw.*toRaw/;
  for (const call of [
    () => bn.forward(plain(1)),
    () => bn.backward(plain(1)),
    () => bn.track({ count: 2, mean: new Float64Array(3), variance: new Float64Array(3) }),
    () => toAffine(bn),
    () => bn.train(),
    () => bn.eval(),
    () => bn.freeze(),
    () => bn.resetRunningStats(),
    () => bn.clone(),
    () => bn.toJSON(),
    () => bn.stateDict(),
    () => bn.loadStateDict({}),
    () => bn.dispose(),
  ])
    expect(call).toThrow(message);
  const accessors = Object.entries(Object.getOwnPropertyDescriptors(BatchNorm.prototype)).filter(([, { get }]) => get);
  expect(accessors.length).toBeGreaterThan(12);
  const values: Record<string, unknown> = { mode: "eval", momentum: 0.2, epsilon: 1, renorm: null };
  for (const [name, { set }] of accessors) {
    expect(() => Reflect.get(BatchNorm.prototype, name, bn), name).toThrow(message);
    const value = name in values ? values[name] : new Float32Array(3);
    if (set) expect(() => Reflect.set(BatchNorm.prototype, name, value, bn), name).toThrow(message);
  }
});
