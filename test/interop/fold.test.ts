// Folding against the golden cases (80-bit reference), conversion of a layer to scale and shift and back, and the types
// and shapes of arguments and results.

import { beforeAll, describe, expect, test } from "vitest";
import {
  BatchNorm,
  type FoldedLayer,
  foldIntoConv,
  foldIntoLinear,
  fromAffine,
  tensor,
  toAffine,
} from "../../src/index.ts";
import type { Case } from "../golden/read-golden.mjs";
import {
  affineOf,
  arr,
  CASES,
  convolve,
  layerOf,
  pytorch,
  pytorchTransposed,
  ROUNDED_ONCE,
  sourceOf,
  U,
} from "../support/fold.ts";
import { normal, useBuild } from "../support/worlds.ts";

describe("the golden cases", () => {
  test("are all here", () => {
    expect(CASES.map((c) => c.params.op).sort()).toEqual(
      ["linear", "linear", "conv1d", "conv2d", "conv2d", "conv2d", "conv2d", "conv3d", "convT2d"].sort(),
    );
  });

  const foldCase = (c: Case) => {
    const layer = { weight: { data: arr(c.in.weight), shape: c.in.weight.shape }, bias: arr(c.in.bias) };
    const { op, groups, transpose } = c.params;
    return op === "linear"
      ? foldIntoLinear(layer, layerOf(c))
      : foldIntoConv(layer, layerOf(c), { groups, format: transpose ? "IOHW" : "OIHW" });
  };

  test.each(CASES)("$id: weight and bias are the reference, rounded once", (c) => {
    const { weight, bias, warnings } = foldCase(c);
    expect(weight.shape).toEqual(c.in.weight.shape);
    expect(weight.data).toBeInstanceOf(Float32Array);
    expect(weight.data).toBeAllclose(arr<Float64Array>(c.out.weight.f64), ROUNDED_ONCE);
    expect(bias).toBeAllclose(arr<Float64Array>(c.out.bias.f64), ROUNDED_ONCE);
    expect(weight.data).toBeAllclose(arr(c.out.weight.f32));
    expect(bias).toBeAllclose(arr(c.out.bias.f32));
    expect(warnings).toEqual([]);
  });

  test.each(CASES)("$id: the folded layer computes what the pair did, within the rounding of its weights", (c) => {
    const { weight, bias } = foldCase(c);
    const [, inputs] = c.in.x.shape;
    const outputs = c.in.running_mean.shape[0];
    const connect = (c.params.transpose ? pytorchTransposed : pytorch)(outputs, inputs, c.params.groups);
    const x = { data: arr(c.in.x), shape: c.in.x.shape };
    const { y, scale } = convolve(x, weight, bias, c.out.y.f64.shape, connect, c.params);
    const error = y.map((v, i) => (v - (arr<Float64Array>(c.out.y.f64)[i] as number)) / (scale[i] as number));
    expect(error).toBeAllclose(new Float64Array(y.length), { atol: U * (1 + 1e-6) });
  });
});

describe("toAffine", () => {
  beforeAll(() => useBuild("simd"));

  test("is the layer in mode eval", () => {
    const bn = new BatchNorm(5, { epsilon: 1e-3 });
    const { options, ...parameters } = sourceOf(21, 5);
    Object.assign(bn, parameters);
    const x = { data: normal(9, 60), shape: [4, 5, 3] };
    const y = bn.forward(x, { mode: "eval" });
    const { scale, shift, warnings } = bn.toAffine();
    expect(warnings).toEqual([]);
    const channel = (i: number) => Math.floor(i / 3) % 5;
    const folded = x.data.map((v, i) => (scale[channel(i)] as number) * v + (shift[channel(i)] as number));
    expect(folded).toBeAllclose(y.data, { atol: 1e-6 });
    expect(scale).toBeAllclose(affineOf(bn).scale, ROUNDED_ONCE);
    expect(shift).toBeAllclose(affineOf(bn).shift, ROUNDED_ONCE);
    expect(toAffine(bn)).toEqual(bn.toAffine());
  });

  test.each([{ affine: false }, { scale: false }, { shift: false }])(
    "counts a missing gamma as 1 and a missing beta as 0: %j",
    (options) => {
      const bn = new BatchNorm(3, options);
      const { gamma, beta, runningMean, runningVariance } = sourceOf(2, 3);
      Object.assign(bn, { runningMean, runningVariance }, bn.gamma && { gamma }, bn.beta && { beta });
      const { scale, shift } = bn.toAffine();
      expect(scale).toBeAllclose(affineOf(bn).scale, ROUNDED_ONCE);
      expect(shift).toBeAllclose(affineOf(bn).shift, ROUNDED_ONCE);
    },
  );

  test("of variance and epsilon 0 gives beta, as eval does", () => {
    const bn = { ...sourceOf(2, 3, 0), runningVariance: Float32Array.of(0, 1, 4) };
    const { scale, shift } = toAffine(bn);
    expect(scale).toBeAllclose(Float32Array.of(0, bn.gamma[1] as number, (bn.gamma[2] as number) / 2));
    expect(shift[0]).toBe(bn.beta[0]);
    expect(shift[1]).not.toBe(bn.beta[1]);
  });

  test("stays possible after dispose", () => {
    const bn = new BatchNorm(2, { epsilon: 0 });
    bn.dispose();
    expect(bn.toAffine()).toEqual({ scale: Float32Array.of(1, 1), shift: Float32Array.of(0, 0), warnings: [] });
  });

  test("is of the statistics' kind", () => {
    const bn = sourceOf(4, 3);
    const wide = toAffine({
      ...bn,
      runningMean: Float64Array.from(bn.runningMean),
      runningVariance: Float64Array.from(bn.runningVariance),
    });
    expect(wide.scale).toBeInstanceOf(Float64Array);
    expect(wide.scale).toBeAllclose(affineOf(bn).scale, { rtol: 4 * 2 ** -53 });
    expect(wide.shift).toBeAllclose(affineOf(bn).shift, { rtol: 1e-14 });
    expect(toAffine(bn).scale).toBeInstanceOf(Float32Array);
  });
});

describe("folding", () => {
  const layer = () => ({ weight: { data: normal(1, 24), shape: [3, 2, 2, 2] }, bias: normal(2, 3) });

  test("leaves everything that comes in as it was, and shares nothing with it", () => {
    const [conv, bn] = [layer(), sourceOf(3, 3)];
    const before = structuredClone({ conv, bn });
    const folded = foldIntoConv(conv, bn);
    expect({ conv, bn }).toEqual(before);
    folded.weight.data.fill(0);
    folded.weight.shape.fill(0);
    folded.bias.fill(0);
    expect({ conv, bn }).toEqual(before);
  });

  test("gives the kind of the weight that came in, whatever the other kinds are", () => {
    const [conv, bn] = [layer(), sourceOf(3, 3)];
    const wide = foldIntoConv({ ...conv, weight: { ...conv.weight, data: Float64Array.from(conv.weight.data) } }, bn);
    const { scale } = affineOf(bn);
    expect(wide.weight.data).toBeInstanceOf(Float64Array);
    expect(wide.bias).toBeInstanceOf(Float64Array);
    expect(wide.weight.data).toBeAllclose(
      Float64Array.from(conv.weight.data, (w, i) => w * (scale[Math.floor(i / 8)] as number)),
      { rtol: 4 * 2 ** -53 },
    );
    const narrow = foldIntoConv(conv, {
      ...bn,
      runningMean: Float64Array.from(bn.runningMean),
      runningVariance: Float64Array.from(bn.runningVariance),
    });
    expect(narrow).toEqual(foldIntoConv(conv, bn));
    expect(narrow.weight.data).toBeInstanceOf(Float32Array);
  });

  test("takes null and nothing for no bias", () => {
    const { weight } = layer();
    const zero = foldIntoConv({ weight, bias: new Float32Array(3) }, sourceOf(3, 3));
    expect(foldIntoConv({ weight }, sourceOf(3, 3))).toEqual(zero);
    expect(foldIntoConv({ weight, bias: null }, sourceOf(3, 3))).toEqual(zero);
    expect(foldIntoConv(layer(), sourceOf(3, 3)).bias).not.toEqual(zero.bias);
  });

  test("takes a tensor, and returns memory of JavaScript", () => {
    const { weight, bias } = layer();
    const inWasm = tensor(weight.shape, weight.data);
    const folded = foldIntoConv({ weight: inWasm, bias }, sourceOf(3, 3));
    expect(folded).toEqual(foldIntoConv({ weight, bias }, sourceOf(3, 3)));
    expect(folded.weight.data.buffer).not.toBe(inWasm.data.buffer);
    inWasm.dispose();
    expect(() => foldIntoConv({ weight: inWasm, bias }, sourceOf(3, 3))).toThrow(
      expect.objectContaining({ name: "BatchNormError", code: "disposed" }) as Error,
    );
  });

  test("takes what a fold returned: two layers in a row become one", () => {
    const [a, b] = [sourceOf(3, 3), sourceOf(33, 3)];
    const { weight } = layer();
    const wide = { weight: { ...weight, data: Float64Array.from(weight.data) } };
    const twice = foldIntoConv(foldIntoConv(wide, a), b);
    const [first, second] = [affineOf(a), affineOf(b)];
    const product = first.scale.map((s, c) => s * (second.scale[c] as number));
    expect(twice.weight.data).toBeAllclose(
      wide.weight.data.map((w, i) => w * (product[Math.floor(i / 8)] as number)),
      { rtol: 1e-15 },
    );
    expect(twice.bias).toBeAllclose(
      first.shift.map((s, c) => s * (second.scale[c] as number) + (second.shift[c] as number)),
      { rtol: 1e-14 },
    );
  });
});

describe("fromAffine", () => {
  beforeAll(() => useBuild("simd"));

  test("gives gamma and beta back that toAffine made scale and shift of", () => {
    const narrow = sourceOf(5, 16);
    const bn = {
      ...narrow,
      runningMean: Float64Array.from(narrow.runningMean),
      runningVariance: Float64Array.from(narrow.runningVariance),
    };
    const { gamma, beta } = fromAffine(toAffine(bn), bn);
    expect(gamma).toBeInstanceOf(Float64Array);
    expect(gamma).toBeAllclose(bn.gamma, { rtol: 1e-15 });
    expect(beta).toBeAllclose(bn.beta, { rtol: 1e-14, atol: 1e-14 });
  });

  test("gives a float32 layer that computes scale·x + shift", () => {
    const bn = new BatchNorm(4, { epsilon: 1e-2 });
    const { runningMean, runningVariance } = sourceOf(5, 4);
    const [scale, shift] = [normal(6, 4), normal(7, 4)];
    Object.assign(bn, { runningMean, runningVariance });
    const { gamma, beta } = fromAffine({ scale, shift }, bn);
    expect(gamma).toBeInstanceOf(Float32Array);
    Object.assign(bn, { gamma, beta });
    const x = { data: normal(8, 40), shape: [10, 4] };
    const y = bn.forward(x, { mode: "eval" });
    expect(y.data).toBeAllclose(
      Float64Array.from(x.data, (v, i) => (scale[i % 4] as number) * v + (shift[i % 4] as number)),
      { atol: 1e-6 },
    );
    const again = bn.toAffine();
    expect(again.scale).toBeAllclose(scale, { rtol: 2 * U });
    expect(again.shift).toBeAllclose(shift, { atol: 1e-6 });
  });

  test("without scale and shift gives the layer that changes nothing", () => {
    const bn = new BatchNorm(3);
    const { runningMean, runningVariance } = sourceOf(5, 3);
    Object.assign(bn, { runningMean, runningVariance }, fromAffine({}, { ...sourceOf(5, 3), options: bn.options }));
    const x = { data: normal(8, 30), shape: [10, 3] };
    expect(bn.forward(x, { mode: "eval" }).data).toBeAllclose(x.data, { atol: 1e-6 });
    expect(bn.gamma).toBeAllclose(
      Float64Array.from(runningVariance, (v) => Math.sqrt(v + 1e-5)),
      ROUNDED_ONCE,
    );
    expect(bn.beta).toBeAllclose(runningMean);
  });

  test.each([0, -1, Number.NaN, Number.POSITIVE_INFINITY])("refuses variance + epsilon = %d", (v) => {
    const bn = { ...sourceOf(5, 3, 0), runningVariance: Float32Array.of(1, 2, v) };
    expect(() => fromAffine({}, bn)).toThrow(RangeError);
    expect(() => fromAffine({}, bn)).toThrow(
      `runningVariance + epsilon of channel 2: expected a positive finite number, got ${v}`,
    );
  });
});

test("types follow the kinds", () => {
  const bn = new BatchNorm(2);
  const narrow: FoldedLayer<Float32Array> = foldIntoLinear(
    { weight: { data: new Float32Array(2), shape: [2, 1] } },
    bn,
  );
  const wide: FoldedLayer<Float64Array> = foldIntoLinear({ weight: { data: new Float64Array(2), shape: [2, 1] } }, bn);
  const scale: Float32Array = bn.toAffine().scale;
  expect([narrow.bias, wide.bias, scale].map((v) => v.BYTES_PER_ELEMENT)).toEqual([4, 8, 4]);
});
