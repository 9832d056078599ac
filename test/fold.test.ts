// Folding against the golden cases (80-bit reference), against convolutions written as their frameworks define them, and
// the warning's estimate against measured errors.

import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, test } from "vitest";
import {
  BatchNorm,
  type ConvFormat,
  type FoldedLayer,
  type FoldSource,
  foldIntoConv,
  foldIntoLinear,
  fromAffine,
  tensor,
  toAffine,
} from "../src/index.ts";
import { type Case, loadGolden } from "./golden/read-golden.mjs";
import { normal, random, useBuild } from "./worlds.ts";

// biome-ignore lint/suspicious/noExplicitAny: wrong uses are what the types forbid
type Wrong = any;

const U = 2 ** -24;
const golden = loadGolden(fileURLToPath(new URL("golden", import.meta.url)));
const { arr } = golden;
const CASES = golden.cases.filter((c) => c.kind === "fold");

type Shape = readonly number[];
const sizeOf = (shape: Shape) => shape.reduce((a, b) => a * b, 1);
const range = (length: number) => Array.from({ length }, (_, i) => i);

/** All indices of a shape, in memory order. */
const indices = (shape: Shape): number[][] =>
  shape.reduce<number[][]>((list, d) => list.flatMap((index) => range(d).map((i) => [...index, i])), [[]]);

const offset = (shape: Shape, index: Shape) => index.reduce((at, i, axis) => at * (shape[axis] as number) + i, 0);

/** The array with its axes in another order: axis i of the result is axis order[i] of the source. */
function permute<T extends Float32Array | Float64Array>(
  data: T,
  shape: Shape,
  order: Shape,
): { data: T; shape: number[] } {
  const target = order.map((axis) => shape[axis] as number);
  const moved = data.slice() as T;
  for (const [i, index] of indices(target).entries()) {
    const source = range(shape.length).map((axis) => index[order.indexOf(axis)] as number);
    moved[i] = data[offset(shape, source)] as number;
  }
  return { data: moved, shape: target };
}

/**
 * Which weight connects an output to an input, as the frameworks' documentations define it: its position without the
 * spatial axes, and the order in which they stand in the shape. undefined where a group does not connect them.
 */
type Connection = (output: number, input: number) => readonly [number, number] | undefined;

/** PyTorch's Conv: weight[o, i mod I/groups, …]. Linear is the same. */
const pytorch =
  (outputs: number, inputs: number, groups: number): Connection =>
  (o, i) =>
    Math.floor(o / (outputs / groups)) === Math.floor(i / (inputs / groups)) ? [o, i % (inputs / groups)] : undefined;

/** PyTorch's ConvTranspose: weight[i, o mod O/groups, …]. */
const pytorchTransposed =
  (outputs: number, inputs: number, groups: number): Connection =>
  (o, i) =>
    Math.floor(o / (outputs / groups)) === Math.floor(i / (inputs / groups)) ? [i, o % (outputs / groups)] : undefined;

/** TensorFlow's depthwise_conv2d: output k·M + q is of input k and filter[…, k, q]. */
const depthwise =
  (multiplier: number): Connection =>
  (o, i) =>
    Math.floor(o / multiplier) === i ? [i, o % multiplier] : undefined;

/** Every weight's output channel, in memory order, by a connection. */
function outputsOf(
  shape: Shape,
  spatialFirst: boolean,
  outputs: number,
  inputs: number,
  connect: Connection,
): number[] {
  const spatial = spatialFirst ? shape.slice(0, -2) : shape.slice(2);
  const channel = new Array<number>(sizeOf(shape)).fill(-1);
  for (const k of indices(spatial))
    for (const o of range(outputs))
      for (const i of range(inputs)) {
        const pair = connect(o, i);
        if (pair) channel[offset(shape, spatialFirst ? [...k, ...pair] : [...pair, ...k])] = o;
      }
  return channel;
}

interface Convolution {
  stride: number;
  padding: number;
  dilation: number;
  transpose: boolean;
}

/** A convolution of any rank in float64, [N, C, …] in and out, and Σ|x·w| + |bias|: the scale of its rounding errors. */
function convolve(
  x: { data: Float32Array; shape: Shape },
  weight: { data: ArrayLike<number>; shape: Shape },
  bias: ArrayLike<number> | null,
  outShape: Shape,
  connect: Connection,
  { stride, padding, dilation, transpose }: Convolution,
) {
  const [batch, inputs, ...from] = x.shape as [number, number, ...number[]];
  const [, outputs, ...to] = outShape as [number, number, ...number[]];
  const kernel = weight.shape.slice(2);
  const at = (o: number) => bias?.[o] ?? 0;
  const every = (f: (o: number) => number) =>
    Float64Array.from({ length: sizeOf(outShape) }, (_, i) => f(Math.floor(i / sizeOf(to)) % outputs));
  const y = every(at);
  const scale = every((o) => Math.abs(at(o)));
  for (const p of indices(from))
    for (const k of indices(kernel)) {
      const q = p.map((v, axis) => {
        const tap = (k[axis] as number) * dilation - padding;
        return transpose ? v * stride + tap : (v - tap) / stride;
      });
      if (!q.every((v, axis) => Number.isInteger(v) && v >= 0 && v < (to[axis] as number))) continue;
      for (const o of range(outputs))
        for (const i of range(inputs)) {
          const pair = connect(o, i);
          if (!pair) continue;
          const w = weight.data[offset(weight.shape, [...pair, ...k])] as number;
          for (const n of range(batch)) {
            const term = w * (x.data[offset(x.shape, [n, i, ...p])] as number);
            const target = offset(outShape, [n, o, ...q]);
            y[target] = (y[target] as number) + term;
            scale[target] = (scale[target] as number) + Math.abs(term);
          }
        }
    }
  return { y, scale };
}

function layerOf(c: Case): BatchNorm {
  const bn = new BatchNorm(c.in.running_mean.shape[0], { epsilon: c.params.eps, affine: Boolean(c.in.bnWeight) });
  if (c.in.bnWeight) bn.gamma = arr(c.in.bnWeight);
  if (c.in.bnBias) bn.beta = arr(c.in.bnBias);
  bn.runningMean = arr(c.in.running_mean);
  bn.runningVariance = arr(c.in.running_var);
  return bn;
}

/** A source of random parameters; variances from 0.05 on. */
function sourceOf(seed: number, channels: number, epsilon = 1e-3) {
  return {
    gamma: normal(seed, channels, 0.5, 1),
    beta: normal(seed + 1, channels),
    runningMean: normal(seed + 2, channels),
    runningVariance: normal(seed + 3, channels).map((v) => v * v + 0.05),
    options: { epsilon },
  };
}

/** scale and shift in float64, as docs/batchnorm.md defines them. */
function affineOf(bn: FoldSource) {
  const vector = (v: Float32Array | Float64Array | null | undefined, c: number, missing: number) =>
    v ? (v[c] as number) : missing;
  const scale = Float64Array.from(
    bn.runningVariance ?? [],
    (v, c) => vector(bn.gamma, c, 1) / Math.sqrt(v + bn.options.epsilon),
  );
  const shift = scale.map((s, c) => vector(bn.beta, c, 0) - vector(bn.runningMean, c, 0) * s);
  return { scale, shift };
}

/** Half an ulp, and what the reference's own float64 roundings may add. */
const ROUNDED_ONCE = { rtol: U * (1 + 1e-6) };

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

describe("formats", () => {
  const swap =
    (connect: Connection): Connection =>
    (o, i) => {
      const pair = connect(o, i);
      return pair && [pair[1], pair[0]];
    };
  const connectionOf = (
    format: ConvFormat,
    shape: Shape,
    outputs: number,
    inputs: number,
    groups: number,
  ): Connection =>
    ({
      OIHW: pytorch(outputs, inputs, groups),
      HWIO: swap(pytorch(outputs, inputs, groups)),
      IOHW: pytorchTransposed(outputs, inputs, groups),
      HWOI: swap(pytorchTransposed(outputs, inputs, groups)),
      HWIM: depthwise(shape.at(-1) as number),
    })[format];

  test.each<[format: ConvFormat, what: string, groups: number, shape: Shape, outputs: number, inputs: number]>([
    ["OIHW", "rank 1", 1, [6, 4, 3], 6, 4],
    ["OIHW", "rank 2", 1, [6, 4, 3, 2], 6, 4],
    ["OIHW", "rank 3", 1, [6, 4, 3, 2, 4], 6, 4],
    ["OIHW", "2 groups", 2, [6, 2, 3, 2], 6, 4],
    ["OIHW", "depthwise, multiplier 2", 3, [6, 1, 3, 3], 6, 3],
    ["HWIO", "rank 1", 1, [3, 4, 6], 6, 4],
    ["HWIO", "rank 2", 1, [3, 2, 4, 6], 6, 4],
    ["HWIO", "rank 3", 1, [3, 2, 2, 4, 6], 6, 4],
    ["HWIO", "2 groups", 2, [3, 2, 2, 6], 6, 4],
    ["IOHW", "rank 1", 1, [4, 6, 3], 6, 4],
    ["IOHW", "2 groups", 2, [4, 3, 3, 2], 6, 4],
    ["IOHW", "4 groups, rank 3", 4, [8, 2, 2, 2, 2], 8, 8],
    ["IOHW", "depthwise", 6, [6, 1, 3, 3], 6, 6],
    ["HWOI", "rank 2", 1, [3, 2, 6, 4], 6, 4],
    ["HWOI", "rank 1, as many inputs as outputs", 1, [3, 5, 5], 5, 5],
    ["HWIM", "multiplier 1", 1, [3, 3, 6, 1], 6, 6],
    ["HWIM", "multiplier 2", 1, [3, 3, 3, 2], 6, 3],
    ["HWIM", "rank 1, multiplier 3", 1, [5, 2, 3], 6, 2],
  ])("%s, %s: every weight is scaled by its output's scale", (format, _, groups, shape, outputs, inputs) => {
    const bn = sourceOf(11, outputs);
    const data = normal(7, sizeOf(shape));
    const bias = normal(8, outputs);
    const { scale } = affineOf(bn);
    const connect = connectionOf(format, shape, outputs, inputs, groups);
    const output = outputsOf(shape, format.startsWith("HW"), outputs, inputs, connect);
    expect(output).not.toContain(-1);
    const folded = foldIntoConv({ weight: { data, shape }, bias }, bn, { format, groups });
    expect(folded.weight.shape).toEqual(shape);
    expect(folded.weight.data).toBeAllclose(
      Float64Array.from(data, (w, i) => w * (scale[output[i] as number] as number)),
      ROUNDED_ONCE,
    );
    expect(folded.bias).toBeAllclose(
      Float64Array.from(bias, (b, c) => {
        return (b - (bn.runningMean[c] as number)) * (scale[c] as number) + (bn.beta[c] as number);
      }),
      ROUNDED_ONCE,
    );
  });

  const conv2d = CASES.find((c) => c.id === "fold/conv2d") as Case;
  const convT2d = CASES.find((c) => c.id === "fold/convT2d") as Case;
  const depthwise2d = CASES.find((c) => c.id === "fold/conv2d_depthwise") as Case;
  test.each<[ConvFormat, Case, Shape]>([
    ["HWIO", conv2d, [2, 3, 1, 0]],
    ["HWOI", convT2d, [2, 3, 1, 0]],
    ["HWIM", depthwise2d, [2, 3, 0, 1]],
  ])("%s gives PyTorch's numbers in its own order", (format, c, order) => {
    const move = <T extends Float32Array | Float64Array>(data: T) => permute(data, c.in.weight.shape, order);
    const folded = foldIntoConv({ weight: move(arr(c.in.weight)), bias: arr(c.in.bias) }, layerOf(c), { format });
    const expected = move(arr(c.out.weight.f32));
    expect(folded.weight.shape).toEqual(expected.shape);
    expect(folded.weight.data).toBeAllclose(expected.data);
    expect(folded.bias).toBeAllclose(arr(c.out.bias.f32));
  });

  test("IO is OI transposed", () => {
    const bn = sourceOf(3, 7);
    const data = normal(5, 35);
    const oi = foldIntoLinear({ weight: { data, shape: [7, 5] } }, bn);
    const io = foldIntoLinear({ weight: permute(data, [7, 5], [1, 0]) }, bn, { format: "IO" });
    expect(io.weight.shape).toEqual([5, 7]);
    expect(io.weight.data).toBeAllclose(permute(oi.weight.data, [7, 5], [1, 0]).data);
    expect(io.bias).toBeAllclose(oi.bias);
    expect(io.weight.data).not.toBeAllclose(oi.weight.data);
  });
});

describe("toAffine", () => {
  beforeAll(() => useBuild("simd"));

  test("is the layer in mode eval", () => {
    const bn = new BatchNorm(5, { epsilon: 1e-3 });
    Object.assign(bn, sourceOf(21, 5), { options: bn.options });
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

describe("a warning", () => {
  /** Measured rms error of fround(fround(scale·x) + shift), in units of |gamma| + |beta|, against float64. */
  function measure(bn: ReturnType<typeof sourceOf>, c: number, scale: number, shift: number, fused: boolean): number {
    const [mean, variance] = [bn.runningMean[c] as number, bn.runningVariance[c] as number];
    const [gamma, beta] = [bn.gamma[c] as number, bn.beta[c] as number];
    const invStd = 1 / Math.sqrt(variance + bn.options.epsilon);
    let squares = 0;
    const xs = normal(c, 256, Math.sqrt(variance), mean);
    for (const x of xs) {
      const product = fused ? scale * x : Math.fround(scale * x);
      squares += (Math.fround(product + shift) - ((x - mean) * invStd * gamma + beta)) ** 2;
    }
    return Math.sqrt(squares / xs.length) / (Math.abs(gamma) + Math.abs(beta));
  }

  const CHANNELS = 128;
  function remote(seed: number, ratio: number, epsilon: number) {
    const next = random(seed);
    const std = Float32Array.from({ length: CHANNELS }, () => 2 ** (20 * next() - 10));
    return {
      gamma: std.map(() => 0.5 + next()),
      beta: std.map(() => 2 * next() - 1),
      options: { epsilon },
      runningVariance: std.map((s) => Math.max(s * s - epsilon, 0)),
      runningMean: std.map((s) => s * ratio * (next() < 0.5 ? -1 : 1) * (0.75 + next() / 2)),
    };
  }
  const rms = (list: number[]) => Math.sqrt(list.reduce((sum, v) => sum + v * v, 0) / list.length);

  test.each([
    [1e3, 0],
    [1e4, 1e-5],
    [1e5, 0],
    [1e6, 0],
  ])("at |mean|/std = %d expects the error that is measured", (ratio, epsilon) => {
    const bn = remote(ratio, ratio, epsilon);
    const { scale, shift, warnings } = toAffine(bn);
    expect(warnings.map((w) => w.channel)).toEqual(range(CHANNELS));
    for (const fused of [false, true]) {
      const shares = warnings.map(({ channel: c, expectedError }) => {
        return measure(bn, c, scale[c] as number, shift[c] as number, fused) / expectedError;
      });
      // of one channel, the roundings of scale and shift are what they are; over many, they are as expected
      expect(Math.max(...shares)).toBeLessThan(3);
      expect(rms(shares)).toBeGreaterThan(0.7);
      expect(rms(shares)).toBeLessThan(1.2);
    }
  });

  test("comes where the error exceeds 1e-5, and not before", () => {
    const at = (ratio: number) =>
      toAffine({
        runningMean: Float32Array.of(0, ratio),
        runningVariance: Float32Array.of(1, 1),
        options: { epsilon: 0 },
      }).warnings;
    expect(at(200)).toEqual([]);
    expect(at(-200)).toEqual([]);
    expect(at(260)).toEqual([
      {
        code: "ill-conditioned",
        channel: 1,
        expectedError: expect.closeTo(1.14e-5, 7),
        message: expect.stringMatching(/^channel 1: .* 2\.6e\+2 × √\(variance \+ epsilon\).*; keep the BatchNorm/),
      },
    ]);
    expect(at(-260)).toEqual(at(260));
  });

  test("weighs the variance with epsilon, and the error with the size of y", () => {
    const base = { runningMean: Float32Array.of(1), runningVariance: Float32Array.of(1e-10), options: { epsilon: 0 } };
    const expected = (more: Partial<FoldSource>) => toAffine({ ...base, ...more }).warnings[0]?.expectedError;
    expect(expected({})).toBeGreaterThan(1e-3);
    expect(expected({ gamma: Float32Array.of(-8) })).toBeCloseTo(expected({}) as number, 6);
    expect(expected({ options: { epsilon: 1e-5 } })).toBeCloseTo((expected({}) as number) / Math.sqrt(1e5), 6);
    expect(expected({ options: { epsilon: 1e-3 } })).toBeUndefined();
    expect(expected({ beta: Float32Array.of(1e4) })).toBeUndefined();
    expect(expected({ gamma: Float32Array.of(0) })).toBeUndefined();
    expect(expected({ gamma: Float32Array.of(0), beta: Float32Array.of(0) })).toBeUndefined();
  });

  test("does not come in float64", () => {
    const bn = remote(1, 1e4, 0);
    const wide = { ...bn, runningMean: Float64Array.from(bn.runningMean) };
    expect(toAffine({ ...wide, runningVariance: Float64Array.from(bn.runningVariance) }).warnings).toEqual([]);
  });

  test("of a linear layer takes the mean without its bias, and expects what the rounding of weights costs", () => {
    const [inputs, ratio, std] = [16, 1e4, 2 ** -10];
    const weights = normal(3, CHANNELS * inputs).map(Math.abs);
    const bias = normal(4, CHANNELS, 1e-3, 1e3);
    const spread = range(CHANNELS).map((c) => std * Math.hypot(...weights.subarray(c * inputs, (c + 1) * inputs)));
    const center = Float64Array.from({ length: inputs }, (_, k) => ratio * std * (0.2 + 0.01 * k));
    const row = (c: number, w: ArrayLike<number>, x: ArrayLike<number>) =>
      range(inputs).reduce((sum, k) => sum + (w[c * inputs + k] as number) * (x[k] as number), 0);
    const means = range(CHANNELS).map((c) => row(c, weights, center));
    const bn = {
      gamma: null,
      beta: null,
      runningMean: Float64Array.from(means, (m, c) => m + (bias[c] as number)),
      runningVariance: Float64Array.from(spread, (s) => s * s),
      options: { epsilon: 0 },
    };
    const linear = { weight: { data: weights, shape: [CHANNELS, inputs] }, bias };
    const { weight, bias: folded, warnings } = foldIntoLinear(linear, bn);
    expect(warnings.map((w) => w.channel)).toEqual(range(CHANNELS));
    expect(warnings[0]?.message).toMatch(/; the two layers apart lose about as much in float32/);
    const shares = warnings.map(({ channel: c, expectedError }) => {
      const errors = range(32).map((n) => {
        const x = normal(n, inputs, std).map((v, k) => v + (center[k] as number));
        const y = row(c, weight.data, x) + (folded[c] as number);
        return y - (row(c, weights, x) - (means[c] as number)) / (spread[c] as number);
      });
      return rms(errors) / expectedError;
    });
    // half of it: the sum itself is in float64 here, so that the product's rounding is missing
    expect(rms(shares)).toBeGreaterThan(0.4);
    expect(rms(shares)).toBeLessThan(0.8);
    // a bias as large as the mean leaves nothing to cancel
    expect(foldIntoLinear({ ...linear, bias: Float64Array.from(bn.runningMean) }, bn).warnings).toEqual([]);
  });

  test.each([
    ["NaN as variance", { runningVariance: Number.NaN }],
    ["a negative variance", { runningVariance: -1 }],
    ["an infinite mean", { runningMean: Number.POSITIVE_INFINITY }],
    ["an overflowing shift", { runningMean: 3e38, gamma: 100 }],
    ["NaN as gamma", { gamma: Number.NaN }],
    ["an infinite beta", { beta: Number.NEGATIVE_INFINITY }],
  ])("comes for %s, and other channels stay as they are", (_, wrong) => {
    const bn = sourceOf(5, 3);
    const sound = toAffine(bn);
    for (const [name, value] of Object.entries(wrong)) bn[name as "gamma" | "beta"][1] = value;
    const poisoned = toAffine(bn);
    expect(sound.warnings).toEqual([]);
    expect(poisoned.warnings).toEqual([
      {
        code: "non-finite",
        channel: 1,
        expectedError: Number.POSITIVE_INFINITY,
        message: expect.stringMatching(/^channel 1: expected finite numbers/),
      },
    ]);
    expect([poisoned.scale, poisoned.shift].every((v) => Number.isFinite(v[1]))).toBe(false);
    for (const c of [0, 2]) {
      expect(poisoned.scale[c]).toBe(sound.scale[c]);
      expect(poisoned.shift[c]).toBe(sound.shift[c]);
    }
  });

  test("comes for a weight that overflows", () => {
    const bn = { runningMean: new Float32Array(2), runningVariance: Float32Array.of(1e-4, 1), options: { epsilon: 0 } };
    const { weight, warnings } = foldIntoLinear(
      { weight: { data: Float32Array.of(1, 1e38, 1, 1e38), shape: [2, 2] } },
      bn,
    );
    expect(weight.data).toBeAllclose(Float32Array.of(100, Number.POSITIVE_INFINITY, 1, 1e38), { rtol: 1e-6 });
    expect(warnings).toMatchObject([{ code: "non-finite", channel: 0 }]);
  });

  test("does not come for an infinite variance, which makes y beta, as in eval", () => {
    const bn = { ...sourceOf(5, 1), runningVariance: Float32Array.of(Number.POSITIVE_INFINITY) };
    expect(toAffine(bn)).toEqual({ scale: Float32Array.of(0), shift: bn.beta, warnings: [] });
  });
});

describe("wrong use", () => {
  const bn = sourceOf(1, 6);
  const of = (...shape: number[]) => ({ weight: { data: normal(1, sizeOf(shape)), shape } });
  const vector = new Float32Array(6);
  const MISSING = { channels: 6, runningMean: null, runningVariance: null, options: { epsilon: 0 } };
  test.each<[string, () => unknown, ErrorConstructor | string, RegExp]>([
    ["no layer", () => foldIntoConv(null as Wrong, bn), TypeError, /^conv: expected an object, got null$/],
    ["no linear layer", () => foldIntoLinear([] as Wrong, bn), TypeError, /^linear: expected an object, got \[\]$/],
    [
      "Keras's name",
      () => foldIntoConv({ kernel: of(6, 2, 3).weight } as Wrong, bn),
      TypeError,
      /^conv: expected options among weight, bias, warnings, got "kernel"$/,
    ],
    [
      "no weight",
      () => foldIntoConv({} as Wrong, bn),
      TypeError,
      /^weight: expected \{ data: .* shape \}, got undefined$/,
    ],
    [
      "a bare weight",
      () => foldIntoConv({ weight: vector } as Wrong, bn),
      TypeError,
      /^weight\.data: expected a Float32Array or Float64Array, got undefined$/,
    ],
    [
      "numbers as weight",
      () => foldIntoLinear({ weight: { data: [1, 2, 3, 4, 5, 6], shape: [6, 1] } } as Wrong, bn),
      TypeError,
      /^weight\.data: expected a Float32Array or Float64Array, got \[1, 2/,
    ],
    [
      "no shape",
      () => foldIntoConv({ weight: { data: vector } } as Wrong, bn),
      TypeError,
      /^weight\.shape: expected an array of dimensions, got undefined$/,
    ],
    [
      "another length than the shape's",
      () => foldIntoConv({ weight: { data: vector, shape: [6, 2, 1] } }, bn),
      RangeError,
      /^weight: expected 12 elements \(6×2×1\), got 6$/,
    ],
    [
      "rank 3 for linear",
      () => foldIntoLinear(of(6, 2, 1), bn),
      RangeError,
      /^weight\.shape: expected rank 2, got \[6, 2, 1\]$/,
    ],
    [
      "rank 2 for conv",
      () => foldIntoConv(of(6, 2), bn),
      RangeError,
      /^weight\.shape: expected rank 3 to 5, got \[6, 2\]$/,
    ],
    ["rank 6", () => foldIntoConv(of(6, 2, 1, 1, 1, 1), bn), RangeError, /^weight\.shape: expected rank 3 to 5/],
    [
      "another number of outputs",
      () => foldIntoConv(of(4, 6, 3, 3), bn),
      RangeError,
      /^weight: expected 6 outputs, the channels of bn, got 4 in 4×6×3×3 \(format "OIHW", groups 1\); pass the format/,
    ],
    [
      "IO weights as OI",
      () => foldIntoLinear(of(4, 6), bn),
      RangeError,
      /^weight: expected 6 outputs, .* got 4 in 4×6/,
    ],
    [
      "groups left out with IOHW",
      () => foldIntoConv(of(4, 3, 1), bn, { format: "IOHW" }),
      RangeError,
      /^weight: expected 6 outputs, .* got 3 .* and groups with "IOHW"$/,
    ],
    [
      "a short bias",
      () => foldIntoConv({ ...of(6, 2, 1), bias: new Float32Array(2) }, bn),
      RangeError,
      /^bias: expected 6 elements \(6\), got 2$/,
    ],
    [
      "numbers as bias",
      () => foldIntoConv({ ...of(6, 2, 1), bias: [1] as Wrong }, bn),
      TypeError,
      /^bias: expected a Float32Array or/,
    ],
    [
      "false as bias",
      () => foldIntoConv({ ...of(6, 2, 1), bias: false as Wrong }, bn),
      TypeError,
      /^bias: .* got false$/,
    ],
    [
      "another format",
      () => foldIntoConv(of(6, 2, 1), bn, { format: "NCHW" as Wrong }),
      RangeError,
      /^format: expected "OIHW" or .* got "NCHW"$/,
    ],
    [
      "a format of the prototype",
      () => foldIntoConv(of(6, 2, 1), bn, { format: "constructor" as Wrong }),
      RangeError,
      /^format: expected/,
    ],
    [
      "a convolution's format for linear",
      () => foldIntoLinear(of(6, 2), bn, { format: "HWIO" as Wrong }),
      RangeError,
      /^format: expected "OI" or "IO"/,
    ],
    [
      "a number as format",
      () => foldIntoConv(of(6, 2, 1), bn, { format: 1 as Wrong }),
      TypeError,
      /^format: expected a string, got 1$/,
    ],
    [
      "groups for linear",
      () => foldIntoLinear(of(6, 2), bn, { groups: 2 } as Wrong),
      TypeError,
      /^options: expected options among format, got "groups"$/,
    ],
    [
      "PyTorch's option",
      () => foldIntoConv(of(6, 2, 1), bn, { transpose: true } as Wrong),
      TypeError,
      /^options: expected options among format, groups, got "transpose"$/,
    ],
    [
      "null as options",
      () => foldIntoConv(of(6, 2, 1), bn, null as Wrong),
      TypeError,
      /^options: expected an object, got null$/,
    ],
    [
      "a prototype as option",
      () => foldIntoConv(of(6, 2, 1), bn, JSON.parse('{ "__proto__": { "groups": 2 } }')),
      TypeError,
      /^options: expected options among format, groups, got "__proto__"$/,
    ],
    [
      "groups that are a string",
      () => foldIntoConv(of(6, 2, 1), bn, { groups: "2" as Wrong }),
      TypeError,
      /^groups: expected a number, got "2"$/,
    ],
    [
      "groups that are null",
      () => foldIntoConv(of(6, 2, 1), bn, { groups: null as Wrong }),
      TypeError,
      /^groups: expected a number, got null$/,
    ],
    [
      "0 groups",
      () => foldIntoConv(of(6, 2, 1), bn, { groups: 0 }),
      RangeError,
      /^groups: expected a positive integer, got 0$/,
    ],
    [
      "groups that do not divide the outputs",
      () => foldIntoConv(of(6, 2, 1), bn, { groups: 4 }),
      RangeError,
      /^groups: expected a divisor of 6 channels, got 4$/,
    ],
    [
      "groups that do not divide the inputs",
      () => foldIntoConv(of(4, 2, 1), bn, { format: "IOHW", groups: 3 }),
      RangeError,
      /^groups: expected a divisor of 4 inputs, got 3$/,
    ],
    [
      "groups with HWOI",
      () => foldIntoConv(of(1, 3, 4), bn, { format: "HWOI", groups: 2 }),
      RangeError,
      /^groups: expected 1 with format "HWOI", got 2$/,
    ],
    [
      "no BatchNorm",
      () => foldIntoConv(of(6, 2, 1), undefined as Wrong),
      TypeError,
      /^bn: expected a BatchNorm or .*, got undefined$/,
    ],
    [
      "no options in bn",
      () => toAffine({ ...bn, options: undefined } as Wrong),
      TypeError,
      /^bn: expected a BatchNorm or/,
    ],
    [
      "no epsilon",
      () => toAffine({ ...bn, options: {} } as Wrong),
      TypeError,
      /^epsilon: expected a number, got undefined$/,
    ],
    [
      "a negative epsilon",
      () => toAffine({ ...bn, options: { epsilon: -1 } }),
      RangeError,
      /^epsilon: expected a finite number ≥ 0/,
    ],
    [
      "no mean",
      () => toAffine({ ...bn, runningMean: undefined } as Wrong),
      TypeError,
      /^runningMean: expected a Float32Array or Float64Array, got undefined$/,
    ],
    [
      "an empty mean",
      () => toAffine({ ...bn, runningMean: new Float32Array() }),
      RangeError,
      /^channels: expected a positive integer, got 0$/,
    ],
    [
      "a short variance",
      () => toAffine({ ...bn, runningVariance: new Float32Array(5) }),
      RangeError,
      /^runningVariance: expected 6 elements \(6\), got 5$/,
    ],
    [
      "a short gamma",
      () => toAffine({ ...bn, gamma: new Float32Array(5) }),
      RangeError,
      /^gamma: expected 6 elements \(6\), got 5$/,
    ],
    [
      "a long beta",
      () => toAffine({ ...bn, beta: new Float32Array(7) }),
      RangeError,
      /^beta: expected 6 elements \(6\), got 7$/,
    ],
    [
      "0 as gamma",
      () => toAffine({ ...bn, gamma: 0 as Wrong }),
      TypeError,
      /^gamma: expected a Float32Array or Float64Array, got 0$/,
    ],
    [
      "no statistics",
      () => toAffine(MISSING),
      "no-running-statistics",
      /^bn: expected running statistics, got .*trackRunningStats: false/,
    ],
    ["no statistics, conv", () => foldIntoConv(of(6, 2, 1), MISSING), "no-running-statistics", /^bn: expected running/],
    ["no statistics, reverse", () => fromAffine({}, MISSING), "no-running-statistics", /^bn: expected running/],
    [
      "a layer without statistics",
      () => new BatchNorm(6, { trackRunningStats: false }).toAffine(),
      "no-running-statistics",
      /^bn: expected running statistics/,
    ],
    ["no affine", () => fromAffine(undefined as Wrong, bn), TypeError, /^affine: expected an object, got undefined$/],
    [
      "gamma as affine",
      () => fromAffine({ gamma: vector } as Wrong, bn),
      TypeError,
      /^affine: expected options among scale, shift/,
    ],
    [
      "a short scale",
      () => fromAffine({ scale: new Float32Array(5) }, bn),
      RangeError,
      /^scale: expected 6 elements \(6\), got 5$/,
    ],
    [
      "numbers as shift",
      () => fromAffine({ shift: [1] as Wrong }, bn),
      TypeError,
      /^shift: expected a Float32Array or Float64Array, got \[1\]$/,
    ],
  ])("%s: the error names it", (_, call, error, message) => {
    expect(call).toThrow(message);
    expect(call).toThrow(
      typeof error === "string" ? (expect.objectContaining({ name: "BatchNormError", code: error }) as Error) : error,
    );
  });

  test("of a layer whose statistics were transferred away is told by name", () => {
    const layer = new BatchNorm(3);
    structuredClone(layer.runningMean, { transfer: [(layer.runningMean as Float32Array).buffer] });
    expect(() => layer.toAffine()).toThrow(new RangeError("runningMean: expected 3 elements (3), got 0"));
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
