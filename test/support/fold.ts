// Helpers for tests of folding: the golden cases, indices of shapes, PyTorch's convolutions as its documentation
// defines them, and layers with their scale and shift in float64.

import { fileURLToPath } from "node:url";
import { BatchNorm, type ConvFormat, type FoldSource, type Vector } from "../../src/index.ts";
import { type Case, loadGolden } from "../golden/read-golden.mjs";
import { normal, sizeOf } from "./worlds.ts";

export const U = 2 ** -24;
const golden = loadGolden(fileURLToPath(new URL("../golden", import.meta.url)));
export const { arr } = golden;
export const CASES = golden.cases.filter((c) => c.kind === "fold");

export type Shape = readonly number[];
export const range = (length: number) => Array.from({ length }, (_, i) => i);

/** Returns all indices of a shape, in memory order. */
export const indices = (shape: Shape): number[][] =>
  shape.reduce<number[][]>((list, d) => list.flatMap((index) => range(d).map((i) => [...index, i])), [[]]);

export const offset = (shape: Shape, index: Shape) =>
  index.reduce((sum, i, axis) => sum * (shape[axis] as number) + i, 0);

/**
 * Returns the index of the weight between an output and an input, as a framework's documentation defines it. The index
 * is that of the two axes that are not spatial, in the order of the shape. It is undefined if the two are in different
 * groups.
 */
export type Connection = (output: number, input: number) => readonly [number, number] | undefined;

/** Connections of PyTorch's Conv, weight[o, i mod I/groups, …], and of Linear, with one group. */
export const pytorch =
  (outputs: number, inputs: number, groups: number): Connection =>
  (o, i) =>
    Math.floor(o / (outputs / groups)) === Math.floor(i / (inputs / groups)) ? [o, i % (inputs / groups)] : undefined;

/** Connections of PyTorch's ConvTranspose, weight[i, o mod O/groups, …]. */
export const pytorchTransposed =
  (outputs: number, inputs: number, groups: number): Connection =>
  (o, i) =>
    Math.floor(o / (outputs / groups)) === Math.floor(i / (inputs / groups)) ? [i, o % (outputs / groups)] : undefined;

/** Weights of every format, with the numbers of their outputs and inputs. */
export const WEIGHTS: readonly (readonly [
  format: ConvFormat,
  what: string,
  groups: number,
  shape: Shape,
  outputs: number,
  inputs: number,
])[] = [
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
];

/** TensorFlow's depthwise_conv2d: output k·M + q is of input k and filter[…, k, q]. */
export const depthwise =
  (multiplier: number): Connection =>
  (o, i) =>
    Math.floor(o / multiplier) === i ? [i, o % multiplier] : undefined;

/** The same connections with the two axes swapped. */
const swap =
  (connect: Connection): Connection =>
  (o, i) => {
    const pair = connect(o, i);
    return pair && [pair[1], pair[0]];
  };
/** Connections of a weight in the order of its format. */
export const connectionOf = (
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

export interface Convolution {
  stride: number;
  padding: number;
  dilation: number;
  transpose: boolean;
}

/** A convolution of any rank in float64, [N, C, …] in and out, and Σ|x·w| + |bias|: the scale of its rounding errors. */
export function convolve(
  x: { data: ArrayLike<number>; shape: Shape },
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

export function layerOf(c: Case): BatchNorm {
  const bn = new BatchNorm(c.in.running_mean.shape[0], { epsilon: c.params.eps, affine: Boolean(c.in.bnWeight) });
  if (c.in.bnWeight) bn.gamma = arr(c.in.bnWeight);
  if (c.in.bnBias) bn.beta = arr(c.in.bnBias);
  bn.runningMean = arr(c.in.running_mean);
  bn.runningVariance = arr(c.in.running_var);
  return bn;
}

/** Returns a source with random parameters. Variances are at least 0.05, so that no channel is ill-conditioned. */
export function sourceOf(seed: number, channels: number, epsilon = 1e-3) {
  return {
    gamma: normal(seed, channels, 0.5, 1),
    beta: normal(seed + 1, channels),
    runningMean: normal(seed + 2, channels),
    runningVariance: normal(seed + 3, channels).map((v) => v * v + 0.05),
    options: { epsilon },
  };
}

/** Returns scale and shift in float64, as docs/concepts/derivation.md defines them. */
export function affineOf(bn: FoldSource<Vector> & { gamma?: Vector | null; beta?: Vector | null }) {
  const vector = (v: Vector | null | undefined, c: number, missing: number) => (v ? (v[c] as number) : missing);
  const scale = Float64Array.from(
    bn.runningVariance ?? [],
    (v, c) => vector(bn.gamma, c, 1) / Math.sqrt(v + bn.options.epsilon),
  );
  const shift = scale.map((s, c) => vector(bn.beta, c, 0) - vector(bn.runningMean, c, 0) * s);
  return { scale, shift };
}

/** Tolerance for one rounding to float32: half an ulp, plus 1e-6 of it for the float64 roundings of the reference. */
export const ROUNDED_ONCE = { rtol: U * (1 + 1e-6) };
