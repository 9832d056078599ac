// Element types that do not match cause an error with their names. TypeScript infers the array type of each element
// type.

import { afterEach, beforeAll, describe, expect, expectTypeOf, test } from "vitest";
import { type AnyTensor, BatchNorm, batchNormForward, type Dtype, type Tensor, tensor } from "../../src/index.ts";
import { defaultHeap } from "../../src/memory/heap.ts";
import { bitsOf } from "../support/dtypes.ts";
import { drop, KINDS, type Kind, makeOf, useBuild } from "../support/worlds.ts";

describe("of types of elements", () => {
  beforeAll(() => useBuild("simd"));
  const made: (AnyTensor | undefined)[] = [];
  afterEach(() => drop(...made.splice(0)));
  const shape = [4, 3];
  const DATA = {
    float32: () => new Float32Array(12),
    float64: () => new Float64Array(12),
    float16: () => new Uint16Array(12),
    bfloat16: () => new Uint16Array(12),
  };
  const DTYPES = Object.keys(DATA) as Dtype[];
  const make = (dtype: Dtype, kind: Kind) => {
    const t = makeOf<Dtype>(dtype, kind, shape, DATA[dtype]());
    made.push(t);
    return t;
  };

  test("every argument must have the layer's, and nothing is written otherwise", () => {
    for (const dtype of DTYPES)
      for (const other of DTYPES.filter((d) => d !== dtype))
        for (const kind of KINDS) {
          const bn = new BatchNorm<Dtype>(3, { dtype });
          const state = bn.stateDict();
          const [x, wrong] = [make(dtype, kind), make(other, kind)];
          const calls: [string, () => unknown][] = [
            ["x", () => bn.forward(wrong)],
            ["out", () => bn.forward(x, { out: wrong })],
            ["residual", () => bn.forward(x, { residual: wrong })],
          ];
          const dims = { data: Float32Array.from({ length: 12 }, (_, i) => i % 5) };
          const y = bn.forward(
            makeOf<Dtype>(
              dtype,
              kind,
              shape,
              DATA[dtype]().map((_, i) => dims.data[i] as number),
            ),
            { mode: "batch" },
          );
          made.push(y);
          calls.push(["dy", () => bn.backward(wrong)], ["dxOut", () => bn.backward(x, { dxOut: wrong })]);
          const before = JSON.stringify([...bitsOf(wrong)]);
          for (const [name, call] of calls) {
            expect(call, `${dtype}, ${other}: ${name}`).toThrow(
              new RegExp(`^${name}\\.(data|dtype): expected .*, got `),
            );
          }
          expect(JSON.stringify([...bitsOf(wrong)])).toBe(before);
          expect(bn.stateDict()).toEqual(state);
        }
  });

  test.each<[string, () => unknown, RegExp]>([
    [
      "a Uint16Array that does not say what it holds",
      () => batchNormForward({ data: new Uint16Array(12), shape }),
      /^x\.data: expected .*Uint16Array with dtype "float16" or "bfloat16", got Uint16Array\(12\)$/,
    ],
    [
      "an array that says another dtype than its own",
      () => batchNormForward({ data: new Float32Array(12), shape, dtype: "float64" }),
      /^x\.dtype: expected "float32", got "float64"$/,
    ],
    [
      "bfloat16 in a float16 layer",
      () => new BatchNorm(3, { dtype: "float16" }).forward({ data: new Uint16Array(12), shape, dtype: "bfloat16" }),
      /^x\.dtype: expected "float16", got "bfloat16"$/,
    ],
    [
      "float32 parameters in a float64 layer",
      () => Object.assign(new BatchNorm(3, { dtype: "float64" }), { gamma: new Float32Array(3) }),
      /^gamma: expected a Float64Array, got Float32Array\(3\)$/,
    ],
    [
      "float64 parameters in a bfloat16 layer",
      () => Object.assign(new BatchNorm(3, { dtype: "bfloat16" }), { beta: new Float64Array(3) }),
      /^beta: expected a Float32Array, got Float64Array\(3\)$/,
    ],
    [
      "float32 parameters beside float64 elements",
      () => batchNormForward({ data: new Float64Array(12), shape }, { gamma: new Float32Array(3) }),
      /^gamma: expected a Float64Array, or \{ data, shape, dtype \}, got Float32Array\(3\)$/,
    ],
    [
      "a tensor of another dtype than its data",
      () => tensor(shape, new Float32Array(12) as never, { dtype: "float64" }),
      /^data: expected elements of dtype "float64", got Float32Array\(12\)$/,
    ],
    [
      "numbers for 16 bits",
      () => tensor([2], [1, 2], { dtype: "bfloat16" }),
      /^data: expected elements of dtype "bfloat16", got \[1, 2\]$/,
    ],
    [
      "a dtype that is none",
      () => tensor([2], undefined, { dtype: "int8" as never }),
      /^dtype: expected "float32" or "float64" or .*, got "int8"$/,
    ],
    [
      "an option that is none",
      () => tensor([2], undefined, { type: "float64" } as never),
      /^tensor options: expected options among dtype, got "type"$/,
    ],
  ])("%s: is refused by name", (_, call, message) => {
    const { used } = defaultHeap().usage;
    expect(call).toThrow(message);
    expect(defaultHeap().usage.used).toBe(used);
  });

  test("numbers make tensors of float32 and float64", () => {
    const [a, b] = [tensor([3], [1, 2, 0.1]), tensor([3], [1, 2, 0.1], { dtype: "float64" })];
    made.push(a, b);
    expect(a.data).toEqual(Float32Array.of(1, 2, 0.1));
    expect(b.data).toEqual(Float64Array.of(1, 2, 0.1));
    const zeros = DTYPES.map((dtype) => tensor([5], undefined, { dtype }));
    made.push(...zeros);
    for (const [i, t] of zeros.entries())
      expect([t.dtype, t.length, ...bitsOf(t)]).toEqual([DTYPES[i], 5, 0, 0, 0, 0, 0]);
  });

  test("TypeScript knows which array is which", () => {
    const wide = new BatchNorm(3, { dtype: "float64" });
    const plain = new BatchNorm(3);
    const brain = new BatchNorm(3, { dtype: "bfloat16" });
    expectTypeOf(wide.gamma).toEqualTypeOf<Float64Array>();
    expectTypeOf(plain.gamma).toEqualTypeOf<Float32Array>();
    expectTypeOf(brain.runningMean).toEqualTypeOf<Float32Array | null>();
    expectTypeOf(wide.options.dtype).toEqualTypeOf<"float64">();
    const x = { data: new Float64Array(12), shape };
    expectTypeOf(wide.forward(x)).toEqualTypeOf<typeof x>();
    expectTypeOf(wide.backward(x).dGamma).toEqualTypeOf<Float64Array>();
    expectTypeOf(tensor(shape)).toEqualTypeOf<Tensor<"float32">>();
    expectTypeOf(tensor(shape, new Float64Array(12))).toEqualTypeOf<Tensor<"float64">>();
    expectTypeOf(tensor(shape, new Uint16Array(12), { dtype: "bfloat16" }).data).toEqualTypeOf<Uint16Array>();
    // @ts-expect-error: float32 elements in a float64 layer
    expect(() => wide.forward({ data: new Float32Array(12), shape })).toThrow(TypeError);
    expect(() => {
      // @ts-expect-error: a Float32Array for a Float64Array
      wide.gamma = new Float32Array(3);
    }).toThrow(TypeError);
  });
});
