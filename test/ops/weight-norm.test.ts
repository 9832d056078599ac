// Weight norm against plain loops in float64, in every format, kind and type, and against finite differences.

import { beforeAll, describe, expect, it } from "vitest";
import {
  type AnyTensor,
  type Dtype,
  normBackward,
  type TensorLike,
  tensor,
  type Vector,
  type WeightFormat,
  weightNormForward,
} from "../../src/index.ts";
import { defaultHeap } from "../../src/memory/heap.ts";
import { differences } from "../support/variants.ts";
import { BUILDS, drop, makeOf, normal, useBuild } from "../support/worlds.ts";

/** Shapes of each format, with the function that finds the output of an element. */
const SHAPES: [WeightFormat, number[], (i: number) => number][] = [
  ["OI", [7, 13], (i) => Math.floor(i / 13)],
  ["OI", [3, 1], (i) => i],
  ["IO", [13, 7], (i) => i % 7],
  ["OIHW", [6, 5, 3, 3], (i) => Math.floor(i / 45)],
  ["OIHW", [40, 64, 3, 3], (i) => Math.floor(i / 576)],
  ["IOHW", [5, 6, 3, 3], (i) => Math.floor(i / 9) % 6],
  ["HWIO", [3, 3, 5, 6], (i) => i % 6],
  ["HWOI", [3, 3, 6, 5], (i) => Math.floor(i / 5) % 6],
  ["HWIM", [3, 3, 5, 2], (i) => i % 10],
];

/** Weight norm and its gradients in float64, with the sum of the magnitudes behind each result. */
function reference(v: ArrayLike<number>, g: ArrayLike<number>, dw: ArrayLike<number>, outputOf: (i: number) => number) {
  const outputs = g.length;
  const [squares, dots, sizes] = [1, 2, 3].map(() => new Float64Array(outputs)) as [
    Float64Array,
    Float64Array,
    Float64Array,
  ];
  for (let i = 0; i < v.length; i++) {
    const o = outputOf(i);
    const product = (v[i] as number) * (dw[i] as number);
    squares[o] = (squares[o] as number) + (v[i] as number) ** 2;
    dots[o] = (dots[o] as number) + product;
    sizes[o] = (sizes[o] as number) + Math.abs(product);
  }
  const norm = squares.map(Math.sqrt);
  const w = Float64Array.from(v, (x, i) => ((g[outputOf(i)] as number) * x) / (norm[outputOf(i)] as number));
  const dg = dots.map((dot, o) => dot / (norm[o] as number));
  const dv = Float64Array.from(v, (x, i) => {
    const o = outputOf(i);
    const n = norm[o] as number;
    return ((g[o] as number) / n) * ((dw[i] as number) - (x * (dg[o] as number)) / n);
  });
  const dgSizes = sizes.map((size, o) => size / (norm[o] as number));
  const dvSizes = Float64Array.from(v, (x, i) => {
    const o = outputOf(i);
    const n = norm[o] as number;
    return Math.abs((g[o] as number) / n) * (Math.abs(dw[i] as number) + Math.abs((x * (dgSizes[o] as number)) / n));
  });
  return { norm, w, dg, dv, dgSizes, dvSizes };
}

const worst = (got: ArrayLike<number>, expected: ArrayLike<number>, sizes: ArrayLike<number>, unit: number) => {
  let most = 0;
  for (let i = 0; i < got.length; i++)
    most = Math.max(
      most,
      Math.abs((got[i] as number) - (expected[i] as number)) / (Math.abs(sizes[i] as number) * unit),
    );
  return most;
};

describe.each(BUILDS)("weight norm, build %s", (build) => {
  beforeAll(() => useBuild(build));

  describe.each(["float32", "float64"] as const)("%s", (dtype) => {
    const unit = dtype === "float64" ? 2 ** -53 : 2 ** -24;
    // float64: the plain loops round as often as the kernels
    const [limit, limitOfSums] = dtype === "float64" ? [16, 16] : [4, 1];
    const real = (values: ArrayLike<number>): Vector =>
      dtype === "float64" ? Float64Array.from(values) : Float32Array.from(values);

    it.each(SHAPES)("of %s %j is that of plain loops, in tensors and arrays", (format, shape, outputOf) => {
      const length = shape.reduce((a, b) => a * b, 1);
      const [v, dw] = [normal(1, length, 2, 0.5), normal(2, length)].map(real) as [Vector, Vector];
      const outputs = 1 + Math.max(...Array.from(v, (_, i) => outputOf(i)));
      const g = real(normal(3, outputs));
      const expected = reference(v, g, dw, outputOf);
      for (const kind of ["tensor", "plain"] as const) {
        const of = (values: Vector) => makeOf<Dtype>(dtype, kind, shape, values as never);
        const [source, upstream, out, dxOut] = [of(v), of(dw), of(dw), of(v)] as [
          AnyTensor,
          AnyTensor,
          AnyTensor,
          AnyTensor,
        ];
        const { y, saved, norm } = weightNormForward(source, g, { format, out });
        expect(y).toBe(out);
        expect(worst(norm, expected.norm, expected.norm, unit)).toBeLessThanOrEqual(limitOfSums);
        expect(worst(y.data, expected.w, expected.w, unit)).toBeLessThanOrEqual(limit);
        const { dx, dGamma, dBeta } = normBackward(upstream, saved, { dxOut });
        expect(dx).toBe(dxOut);
        expect(worst(dx?.data as Vector, expected.dv, expected.dvSizes, unit)).toBeLessThanOrEqual(limit);
        expect(worst(dGamma as Vector, expected.dg, expected.dgSizes, unit)).toBeLessThanOrEqual(limitOfSums);
        expect(dBeta).toBe(undefined);
        expect(source.data).toEqual(v);
        drop(source, upstream, out, dxOut);
      }
    });
  });

  it("has the gradients of finite differences", () => {
    const [v, g, dw] = [normal(1, 24), normal(2, 4), normal(3, 24)].map((d) => Float64Array.from(d)) as [
      Float64Array,
      Float64Array,
      Float64Array,
    ];
    const shape = [4, 6];
    const loss = () =>
      weightNormForward({ data: v, shape }, g).y.data.reduce((sum, w, i) => sum + w * (dw[i] as number), 0);
    const { saved } = weightNormForward({ data: v, shape }, g);
    const { dx, dGamma } = normBackward({ data: dw, shape }, saved);
    expect(dx.data).toBeAllclose(differences(v, loss), { rtol: 1e-7, atol: 1e-7 });
    expect(dGamma).toBeAllclose(differences(g, loss), { rtol: 1e-7, atol: 1e-7 });
  });

  it("is v where g is the norm, does not depend on v's length, and gives 0 for an output of zeros", () => {
    const v = { data: Float32Array.from(normal(1, 40)), shape: [4, 10] };
    v.data.fill(0, 10, 20);
    const ones = new Float32Array(4).fill(1);
    const { y, norm, saved } = weightNormForward(v, ones);
    expect(norm[1]).toBe(0);
    expect(y.data.slice(10, 20)).toEqual(new Float32Array(10));
    expect(weightNormForward(v, Float32Array.from(norm)).y.data).toBeAllclose(v.data, { rtol: 1e-6 });
    const longer = { data: v.data.map((x) => 8 * x), shape: v.shape };
    expect(weightNormForward(longer, ones).y.data).toEqual(y.data);
    const { dx, dGamma } = normBackward({ data: Float32Array.from(normal(2, 40)), shape: [4, 10] }, saved);
    expect(dx.data.slice(10, 20).every((value) => value === 0)).toBe(true);
    expect(Math.abs(dGamma?.[1] as number)).toBe(0);
  });

  it("takes 16-bit weights, adds to gradients, and switches them off", () => {
    const bits = tensor([2, 8], new Uint16Array(16).fill(0x3f80), { dtype: "bfloat16" }); // ones
    const { y, saved } = weightNormForward(bits, Float32Array.of(2, 4));
    const eighth = (value: number) => value / Math.sqrt(8);
    expect([y.data[0], y.data[8]].map((b) => new Float32Array(Uint32Array.of((b as number) << 16).buffer)[0])).toEqual([
      expect.closeTo(eighth(2), 2),
      expect.closeTo(eighth(4), 2),
    ]);
    const dGammaOut = Float32Array.of(10, 20);
    const result = normBackward(bits, saved, { accumulate: true, dGammaOut, needs: { dx: false } });
    expect(result).toEqual({ dGamma: dGammaOut });
    expect(dGammaOut).toBeAllclose([10 + Math.sqrt(8), 20 + Math.sqrt(8)], { rtol: 1e-6 });
    drop(bits, y);
  });

  it("has the format OIHW of four axes by default, and OI of two", () => {
    for (const [format, shape] of [
      ["OIHW", [4, 3, 3, 3]],
      ["OI", [4, 27]],
    ] as const) {
      const v = { data: normal(1, 108), shape };
      const g = normal(2, 4);
      expect(weightNormForward(v, g)).toMatchObject({ y: weightNormForward(v, g, { format }).y });
    }
    expect(() => weightNormForward({ data: normal(1, 8), shape: [2, 2, 2] }, normal(2, 2))).toThrow(
      /^v\.shape: expected the 2 axes of "OI"/,
    );
  });

  it("takes weights without elements", () => {
    for (const shape of [
      [0, 4],
      [3, 0],
    ] as const) {
      const empty = { data: new Float32Array(0), shape };
      const { y, norm, saved } = weightNormForward(empty, new Float32Array(shape[0]).fill(1));
      expect(y).toMatchObject({ data: new Float32Array(0), shape });
      expect(norm).toEqual(new Float64Array(shape[0]));
      const { dx, dGamma } = normBackward(empty, saved);
      expect(dx).toMatchObject({ data: new Float32Array(0), shape });
      expect(dGamma).toEqual(new Float32Array(shape[0]));
    }
  });

  const weight = (seed = 1): TensorLike => ({ data: normal(seed, 12), shape: [3, 4] });

  it("keeps g as it was, and gives v's gradient alone where that of g is not needed", () => {
    const [v, dw] = [weight(1), weight(2)];
    const g = normal(3, 3);
    const { saved } = weightNormForward(v, g);
    const { dx } = normBackward(dw, saved);
    g.fill(9);
    expect(normBackward(dw, saved, { needs: { dGamma: false } })).toEqual({ dx });
  });

  it("frees what it allocates, of arrays and where it throws", () => {
    const [v, dw] = [weight(1), weight(2)];
    const held = tensor([3, 4]); // so that arrays are copied to wasm memory
    const { used } = defaultHeap().usage;
    for (let i = 0; i < 3; i++) {
      const { saved } = weightNormForward<AnyTensor>(v, normal(3, 3), { out: held });
      normBackward<AnyTensor>(dw, saved, { dxOut: held });
      weightNormForward(v, normal(3, 3));
    }
    expect(defaultHeap().usage.used).toBe(used);
    drop(held);
  });

  const disposed = () => {
    const t = tensor([3, 4]);
    t.dispose();
    return t;
  };
  const three = new Float32Array(3);
  it.each<[string, RegExp, () => unknown]>([
    ["v that is no object", /^v: expected a Tensor or \{ data/, () => weightNormForward(3 as never, three)],
    [
      "v of one axis",
      /^v\.shape: expected rank 2 or more/,
      () => weightNormForward({ data: three, shape: [3] }, three),
    ],
    ["a v that is disposed of", /^v: expected/, () => weightNormForward(disposed(), three)],
    [
      "an unknown option",
      /^options: expected options among format, out/,
      () => weightNormForward(weight(), three, { dim: 0 } as never),
    ],
    [
      "out of another shape",
      /^out: expected shape 3×4/,
      () => weightNormForward(weight(), three, { out: { data: new Float32Array(12), shape: [4, 3] } }),
    ],
    [
      "out that is v",
      /^out: expected other memory than v, got memory of v, which backward needs; pass another tensor$/,
      () => {
        const v = weight();
        return weightNormForward(v, three, { out: v });
      },
    ],
  ])("refuses %s with an error that names it", (_, message, call) => {
    expect(call).toThrow(message);
  });

  it("refuses what is wrong before anything is written", () => {
    const v = { data: Float32Array.from(normal(1, 12)), shape: [3, 4] };
    const g = new Float32Array(3);
    const out = { data: new Float32Array(12).fill(7), shape: [3, 4] };
    expect(() => weightNormForward(v, new Float32Array(4), { out })).toThrow(/^g: expected 3 elements \(3\), got 4$/);
    expect(() => weightNormForward(v, undefined as never, { out })).toThrow(
      /^g: expected a Float32Array, got undefined/,
    );
    expect(() => weightNormForward(v, g, { out, format: "OIHW" })).toThrow(/^v\.shape: expected the 4 axes of "OIHW"/);
    expect(() => weightNormForward(v, g, { out, format: "IOH" as never })).toThrow(/^format: expected /);
    expect(() => weightNormForward(v, g, { out: v })).toThrow(expect.objectContaining({ code: "in-place" }));
    expect(() => weightNormForward(v, g, { out, dim: 0 } as never)).toThrow(TypeError);
    expect(() => weightNormForward({ data: v.data, shape: [12] }, g, { out })).toThrow(RangeError);
    const { saved } = weightNormForward(v, g);
    expect(() => normBackward({ data: v.data, shape: [4, 3] }, saved)).toThrow(/^dy: expected shape 3×4/);
    expect(() => normBackward(out, saved, { dBetaOut: new Float32Array(4) })).toThrow(RangeError);
    expect(out.data).toEqual(new Float32Array(12).fill(7));
  });
});
