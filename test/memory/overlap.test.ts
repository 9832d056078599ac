// Overlap is judged by memory, whichever kind of operand it comes in: a destination in memory that the call or backward
// still needs is refused, and nothing is written.

import { beforeAll, describe, expect, test } from "vitest";
import {
  BatchNorm,
  batchNormBackward,
  batchNormForward,
  batchNormInference,
  groupNormForward,
  instanceNormForward,
  layerNormForward,
  normBackward,
  rmsNormForward,
  type Tensor,
  type TensorLike,
  tensor,
} from "../../src/index.ts";
import { WasmHeap } from "../../src/memory/heap.ts";
import { Tensor as HeapTensor } from "../../src/memory/tensor.ts";
import { kernelBuild } from "../../src/wasm/module.ts";
import { normal, useBuild } from "../support/worlds.ts";

beforeAll(() => useBuild("simd"));

const SHAPE = [4, 4];
const inPlace = expect.objectContaining({
  name: "BatchNormError",
  code: "in-place",
  message: expect.stringMatching(/^(out|\w+Out): expected other memory than (x|dy|residual|\w+Out)\b/),
}) as Error;
const make = (seed: number) => tensor(SHAPE, normal(seed, 16));
const viewOf = ({ data, shape }: Tensor): TensorLike => ({ data, shape });

/** Expects that a call is refused as in-place, and that these tensors keep their elements. */
function expectRefused(call: () => unknown, ...kept: TensorLike[]): void {
  const before = kept.map(({ data }) => data.slice());
  expect(call).toThrow(inPlace);
  expect(kept.map(({ data }) => data)).toEqual(before);
}

describe("a view of a tensor as input, and the tensor as destination", () => {
  const norms: [string, (x: TensorLike, out: TensorLike) => unknown][] = [
    ["BatchNorm", (x, out) => new BatchNorm(4).forward(x, { out })],
    ["BatchNorm, frozen", (x, out) => new BatchNorm(4).forward(x, { out, mode: "frozen" })],
    ["batchNormForward", (x, out) => batchNormForward(x, {}, { out })],
    ["instanceNormForward", (x, out) => instanceNormForward(x, {}, { out })],
    ["groupNormForward", (x, out) => groupNormForward(x, 1, {}, { out })],
    ["layerNormForward", (x, out) => layerNormForward(x, 4, {}, { out })],
    ["rmsNormForward", (x, out) => rmsNormForward(x, 4, {}, { out })],
  ];
  test.each(norms)("%s refuses it for x", (name, forward) => {
    const t = tensor(/instance|group/.test(name) ? [2, 2, 4] : SHAPE, normal(1, 16));
    expectRefused(() => forward({ data: t.data, shape: t.shape }, t), t);
  });

  test.each([
    ["behind", 0, 16],
    ["before", 16, 0],
  ])("memory right %s x is other memory", (_, atX, atOut) => {
    const whole = new Float32Array(32);
    whole.set(normal(1, 16), atX);
    const [data, out] = [atX, atOut].map((at) => whole.subarray(at, at + 16)) as [Float32Array, Float32Array];
    const { y } = batchNormForward<TensorLike>({ data, shape: SHAPE }, {}, { out: { data: out, shape: SHAPE } });
    expect(y.data).toEqual(batchNormForward(make(1)).y.data);
  });

  test("a residual that an activation's backward needs is refused", () => {
    const t = make(1);
    const bn = new BatchNorm(4, { activation: "relu" });
    expectRefused(() => bn.forward(make(2) as TensorLike, { residual: viewOf(t), out: t }), t);
    bn.forward(make(2) as TensorLike, { residual: viewOf(t), out: t, mode: "eval" });
  });

  test("inference may overwrite x, and then there is no backward", () => {
    const t = make(1);
    const parameters = { mean: new Float32Array(4), variance: new Float32Array(4).fill(1) };
    const expected = batchNormInference(make(1), parameters).y.data.slice();
    const { y, saved } = batchNormInference<TensorLike>(viewOf(t), parameters, { out: t });
    expect(y.data).toEqual(expected);
    expect(() => batchNormBackward(make(2), saved)).toThrow(expect.objectContaining({ code: "no-forward" }) as Error);
    expect(() => batchNormBackward(make(2), saved)).toThrow(/`out` replaced what backward needs/);
  });

  test("backward refuses x for dx, and takes dy", () => {
    const [x, dy] = [make(1), make(2)];
    const bn = new BatchNorm(4);
    bn.forward<TensorLike>(viewOf(x));
    const expected = bn.backward(dy).dx?.data.slice();
    const record = { saved: bn.saved };
    expectRefused(() => bn.backward<TensorLike>(dy, { ...record, dxOut: x }), x, dy);
    bn.backward<TensorLike>(viewOf(dy), { ...record, dxOut: dy });
    expect(dy.data).toEqual(expected);
    const { saved } = layerNormForward<TensorLike>(viewOf(x), 4);
    expectRefused(() => normBackward<TensorLike>(make(2), saved, { dxOut: x }), x);
  });
});

test("two tensors at one address are one memory", () => {
  const heap = new WasmHeap(kernelBuild());
  const x = new HeapTensor(heap, SHAPE, 16, "float32");
  x.data.set(normal(1, 16));
  const alias = new HeapTensor(heap, SHAPE, 16, "float32", x.pointer);
  expectRefused(() => batchNormForward(x, {}, { out: alias }), x);
});

test("a buffer from before a shared memory has grown is the same memory as the one after it", () => {
  const heap = new WasmHeap(kernelBuild("shared"), { shared: true });
  const x = new HeapTensor(heap, SHAPE, 16, "float32");
  x.data.set(normal(1, 16));
  const old = { data: x.data, shape: SHAPE };
  heap.allocate(200_000);
  expect(x.data.buffer).not.toBe(old.data.buffer);
  expectRefused(() => batchNormForward<TensorLike>(old, {}, { out: x }), x);
});

describe("destinations of gradients", () => {
  const buffer = new Float32Array(64);
  const part = (at: number, length: number) => buffer.subarray(at, at + length);
  const operand = (at: number): TensorLike => ({ data: part(at, 16), shape: SHAPE });
  const x = operand(0);
  const dy = operand(16);
  const dxOut = operand(32);

  test.each<[string, object]>([
    ["dGammaOut and dBetaOut that are one", { dGammaOut: part(48, 4), dBetaOut: part(48, 4) }],
    ["dGammaOut and dBetaOut that share an element", { dGammaOut: part(48, 4), dBetaOut: part(51, 4) }],
    ["dGammaOut in dy", { dGammaOut: part(16, 4) }],
    ["dBetaOut in x", { dBetaOut: part(12, 4) }],
    ["dGammaOut in dxOut", { dGammaOut: part(47, 4), dxOut }],
  ])("%s: batch norm and layer norm refuse it, and nothing is written", (_, options) => {
    buffer.set(normal(1, 64));
    const before = buffer.slice();
    const bn = new BatchNorm(4);
    bn.forward(x);
    const { saved } = layerNormForward(x, 4, { gamma: new Float32Array(4), beta: new Float32Array(4) });
    expect(() => bn.backward(dy, options)).toThrow(inPlace);
    expect(() => normBackward(dy, saved, options)).toThrow(inPlace);
    expect(buffer).toEqual(before);
  });

  test("neighbours in one buffer are apart", () => {
    buffer.set(normal(1, 64));
    const bn = new BatchNorm(4);
    bn.forward(x);
    const { dGamma, dBeta, dx } = bn.backward({ data: dy.data.slice(), shape: SHAPE });
    bn.backward(dy, { saved: bn.saved, dxOut, dGammaOut: part(48, 4), dBetaOut: part(52, 4) });
    expect([part(48, 4), part(52, 4), dxOut.data]).toEqual([dGamma, dBeta, dx?.data]);
  });

  test.each(["dxOut", "residual"])("dGammaOut in %s of a layer with a residual is refused", (name) => {
    const bn = new BatchNorm(4, { activation: "relu" });
    const residual = operand(32);
    bn.forward(x, { residual });
    const dGammaOut = part(name === "residual" ? 32 : 16, 4);
    expect(() => bn.backward({ data: new Float32Array(16), shape: SHAPE }, { dGammaOut, dxOut: dy })).toThrow(inPlace);
  });
});
