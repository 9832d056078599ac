// What folding must not forget or misread: activations, the layer's layout, 16-bit weights, and the forms of vectors.

import { describe, expect, test } from "vitest";
import {
  BatchNorm,
  type Data,
  type Dtype,
  foldIntoConv,
  foldIntoLinear,
  fromAffine,
  readSafetensors,
  toAffine,
  toFloat32,
  writeSafetensors,
} from "../../src/index.ts";
import { affineOf, ROUNDED_ONCE, sourceOf } from "../support/fold.ts";
import { normal } from "../support/worlds.ts";

describe("an activation", () => {
  const weight = { data: Float32Array.of(1, 0, 0, 1), shape: [2, 2] };
  const layerWith = (activation: "relu" | "leaky_relu" | "silu" | "none") =>
    Object.assign(new BatchNorm(2, { activation, epsilon: 0 }), { gamma: Float32Array.of(2, 3) });
  const CALLS: Record<string, (bn: BatchNorm, options?: { activation: "relu" | "silu" }) => unknown> = {
    foldIntoLinear: (bn, options) => foldIntoLinear({ weight }, bn, options),
    foldIntoConv: (bn, options) => foldIntoConv({ weight: { data: weight.data, shape: [2, 2, 1] } }, bn, options),
    toAffine: (bn, options) => toAffine(bn, options),
    "bn.toAffine": (bn, options) => bn.toAffine(options),
    fromAffine: (bn, options) => fromAffine({}, bn, options),
  };

  test.each(Object.entries(CALLS))("is refused by %s unless the program names it", (_, call) => {
    for (const activation of ["relu", "leaky_relu", "silu"] as const)
      expect(() => call(layerWith(activation))).toThrow(
        new RangeError(
          `activation: expected "${activation}", bn's own: it is not folded, so apply it to the result and name it here, got "none"`,
        ),
      );
    expect(() => call(layerWith("relu"), { activation: "silu" })).toThrow(
      /^activation: expected "relu", .*got "silu"$/,
    );
    expect(() => call(layerWith("none"), { activation: "relu" })).toThrow(
      /^activation: expected "none", .*got "relu"$/,
    );
    expect(call(layerWith("relu"), { activation: "relu" })).toEqual(call(layerWith("none")));
    expect(() => call(layerWith("none"), { foo: 1 } as never)).toThrow(/^options: expected options among .*got "foo"$/);
  });
});

describe("the layer's layout", () => {
  test("is the default of the weight's format", () => {
    const first = Object.assign(new BatchNorm(3, { epsilon: 0 }), { gamma: Float32Array.of(2, 3, 4) });
    const last = Object.assign(new BatchNorm(3, { epsilon: 0, preset: "keras" }), { gamma: Float32Array.of(2, 3, 4) });
    for (const shape of [
      [3, 3],
      [3, 1, 3],
      [3, 1, 1, 3],
      [3, 1, 1, 1, 3],
    ]) {
      const layer = { weight: { data: normal(1, 9), shape } };
      const [fold, formats] =
        shape.length === 2
          ? ([foldIntoLinear, ["OI", "IO"]] as const)
          : ([foldIntoConv as typeof foldIntoLinear, ["OIHW", "HWIO"] as unknown as ["OI", "IO"]] as const);
      expect(fold(layer, first)).toEqual(fold(layer, first, { format: formats[0] }));
      expect(fold(layer, last)).toEqual(fold(layer, last, { format: formats[1] }));
      expect(fold(layer, last, { format: formats[0] })).not.toEqual(fold(layer, last));
    }
  });
});

describe("16-bit weights", () => {
  const TYPES = [
    ["float16", "F16", 0x7c00, 10],
    ["bfloat16", "BF16", 0x7f80, 7],
  ] as const;
  const one = { float16: 0x3c00, bfloat16: 0x3f80 };

  /** The bits to which each number is rounded: 1·gamma, where epsilon is 0 and the variance 1. */
  function roundedBits(dtype: "float16" | "bfloat16", gamma: Float64Array) {
    const vector = (value: number) => new Float64Array(gamma.length).fill(value);
    const weight = { data: new Uint16Array(gamma.length).fill(one[dtype]), shape: [gamma.length, 1], dtype };
    const bn = { gamma, runningMean: vector(0), runningVariance: vector(1), options: { epsilon: 0 } };
    return foldIntoLinear({ weight }, bn);
  }

  test.each(TYPES)("%s: every number is rounded once, to nearest and ties to even", (dtype, _, infinity) => {
    const bits = Uint16Array.from({ length: infinity }, (_, i) => i);
    const values = Float64Array.from(toFloat32({ data: bits, dtype }));
    expect(roundedBits(dtype, values).weight.data).toEqual(bits);
    // beyond the largest number, steps go on as if there were no end
    const next = (i: number) => values[i + 1] ?? 2 * (values[i] as number) - (values[i - 1] as number);
    const middle = values.map((v, i) => (v + next(i)) / 2);
    const up = bits.map((b) => b + 1);
    const even = bits.map((b) => b + (b & 1));
    for (const sign of [1, -1]) {
      const signed = (list: Uint16Array) => list.map((b) => (sign < 0 ? b | 0x8000 : b));
      const round = (factor: number) =>
        roundedBits(
          dtype,
          middle.map((v) => sign * v * factor),
        ).weight.data;
      expect(round(1)).toEqual(signed(even));
      expect(round(1 - 2 ** -40)).toEqual(signed(bits));
      expect(round(1 + 2 ** -40)).toEqual(signed(up));
    }
    const special = roundedBits(dtype, Float64Array.of(1e300, -1 / 0, Number.NaN, 0, -0, 1e-300));
    const [big, low, nan, ...zeros] = special.weight.data;
    expect([big, low]).toEqual([infinity, infinity | 0x8000]);
    expect(toFloat32({ data: Uint16Array.of(nan as number), dtype })).toEqual(Float32Array.of(Number.NaN));
    expect(zeros).toEqual([0, 0x8000, 0]);
    expect(special.warnings.map((w) => [w.code, w.channel])).toEqual([0, 1, 2].map((c) => ["non-finite", c]));
  });

  test.each(TYPES)(
    "%s: folded weights come back as what they were, from a file and into one",
    (dtype, name, _, digits) => {
      const bn = sourceOf(3, 3);
      const { scale, shift } = affineOf(bn);
      const bits = roundedBits(dtype, Float64Array.from(normal(1, 12))).weight.data;
      const bytes = writeSafetensors({
        weight: { data: bits, shape: [3, 4], dtype },
        bias: { data: bits.slice(0, 3), shape: [3], dtype },
      });
      const { weight, bias } = readSafetensors(bytes).tensors as never as Record<
        "weight" | "bias",
        { data: Uint16Array; shape: number[]; dtype: string }
      >;
      expect(weight.dtype).toBe(name);
      const folded = foldIntoLinear({ weight, bias }, bn);
      expect(folded.weight).toMatchObject({ shape: [3, 4], dtype });
      const values = toFloat32({ data: bits, dtype });
      const half = { rtol: 2 ** -(digits + 1) * (1 + 1e-6) };
      expect(toFloat32(folded.weight)).toBeAllclose(
        values.map((w, i) => w * (scale[Math.floor(i / 4)] as number)),
        half,
      );
      expect(toFloat32({ data: folded.bias, dtype })).toBeAllclose(
        scale.map((s, c) => (values[c] as number) * s + (shift[c] as number)),
        half,
      );
      expect(folded.warnings).toEqual([]);
      // a bare Uint16Array as bias has the weight's type, so that what was folded can be folded again
      expect(foldIntoLinear({ weight, bias: bits.slice(0, 3) }, bn)).toEqual(folded);
      const again = foldIntoLinear(folded, bn);
      expect(toFloat32(again.weight)).toBeAllclose(
        toFloat32(folded.weight).map((w, i) => w * (scale[Math.floor(i / 4)] as number)),
        half,
      );
      expect(readSafetensors(writeSafetensors({ w: folded.weight })).tensors.w).toMatchObject({ dtype: name });
    },
  );

  test("get a warning where the type's digits are lost, not where they are few", () => {
    const at = (dtype: Dtype, data: Data, mean: number) =>
      foldIntoLinear(
        { weight: { data, shape: [1, 1], dtype } },
        { runningMean: Float32Array.of(mean), runningVariance: Float32Array.of(1), options: { epsilon: 0 } },
      ).warnings.length;
    for (const [dtype, data, mean] of [
      ["float16", Uint16Array.of(one.float16), 2.8],
      ["bfloat16", Uint16Array.of(one.bfloat16), 5.5],
      ["float32", Float32Array.of(1), 230],
    ] as const)
      expect([0, 0.9 * mean, 1.1 * mean].map((m) => at(dtype, data, m))).toEqual([0, 0, 1]);
  });

  test("need a declared type, and so do vectors", () => {
    const data = Uint16Array.of(one.float16, one.float16);
    const weight = { data: normal(1, 2), shape: [2, 1] };
    const wrong =
      /: expected a Float32Array, Float64Array, Float16Array, or a Uint16Array with dtype, got Uint16Array\(2\)$/;
    const bn = sourceOf(1, 2);
    expect(() => foldIntoLinear({ weight: { data, shape: [2, 1] } }, bn)).toThrow(wrong);
    expect(() => foldIntoLinear({ weight, bias: data }, bn)).toThrow(wrong);
    for (const name of ["gamma", "beta", "runningMean", "runningVariance"])
      for (const value of [data, { data, shape: [2] }]) expect(() => toAffine({ ...bn, [name]: value })).toThrow(wrong);
    for (const name of ["runningMean", "runningVariance"])
      expect(() => fromAffine({}, { ...bn, [name]: data })).toThrow(wrong);
    expect(() => fromAffine({ scale: data }, bn)).toThrow(wrong);
    expect(() => foldIntoLinear({ weight: { ...weight, dtype: "F16" } }, bn)).toThrow(
      /^weight\.dtype: expected float32, got "F16"$/,
    );
  });
});

describe("vectors", () => {
  const bn = sourceOf(1, 2);
  const weight = { data: normal(1, 2), shape: [2, 1] };

  test("may be { data, shape } everywhere, of every type of floats", () => {
    const wrap = (data: Float32Array) => ({ data, shape: [data.length] });
    const { gamma, beta, runningMean, runningVariance, options } = bn;
    const wrapped = {
      gamma: wrap(gamma),
      beta: wrap(beta),
      runningMean: wrap(runningMean),
      runningVariance: wrap(runningVariance),
      options,
    };
    const bias = normal(4, 2);
    expect(toAffine(wrapped)).toEqual(toAffine(bn));
    expect(foldIntoLinear({ weight, bias: wrap(bias) }, wrapped)).toEqual(foldIntoLinear({ weight, bias }, bn));
    const { scale, shift } = toAffine(bn);
    expect(fromAffine({ scale: wrap(scale), shift: wrap(shift) }, wrapped)).toEqual(fromAffine({ scale, shift }, bn));

    const halves = { data: Uint16Array.of(0x3c00, 0x4000), shape: [2], dtype: "F16" };
    const values = Float32Array.of(1, 2);
    const half = { ...bn, gamma: halves, runningMean: halves, runningVariance: halves };
    const same = { ...bn, gamma: values, runningMean: values, runningVariance: values };
    expect(toAffine(half)).toEqual(toAffine(same));
    expect(toAffine(half).scale).toBeAllclose(affineOf(same).scale, ROUNDED_ONCE);
    expect(fromAffine({ scale: halves }, half)).toEqual(fromAffine({ scale: values }, same));
    expect(foldIntoLinear({ weight, bias: halves }, half)).toEqual(foldIntoLinear({ weight, bias: values }, same));
  });

  test("of a wrong length or shape are refused by name", () => {
    const three = { data: new Float32Array(3), shape: [3] };
    expect(() => toAffine({ ...bn, gamma: three })).toThrow(new RangeError("gamma: expected 2 elements (2), got 3"));
    expect(() => toAffine({ ...bn, beta: { data: new Float32Array(2), shape: [3] } })).toThrow(
      new RangeError("beta: expected 3 elements (3), got 2"),
    );
    expect(() => foldIntoLinear({ weight, bias: three }, bn)).toThrow(/^bias: expected 2 elements \(2\), got 3/);
  });
});
