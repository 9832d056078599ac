// Folding into weights of every format, against convolutions that are written as their frameworks define them.

import { describe, expect, test } from "vitest";
import { type ConvFormat, foldIntoConv, foldIntoLinear } from "../../src/index.ts";
import type { Case } from "../golden/read-golden.mjs";
import {
  affineOf,
  arr,
  CASES,
  type Connection,
  connectionOf,
  indices,
  layerOf,
  offset,
  ROUNDED_ONCE,
  range,
  type Shape,
  sourceOf,
  WEIGHTS,
} from "../support/fold.ts";
import { normal, sizeOf } from "../support/worlds.ts";

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

describe("formats", () => {
  test.each(WEIGHTS)(
    "%s, %s: every weight is scaled by its output's scale",
    (format, _, groups, shape, outputs, inputs) => {
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
    },
  );

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
