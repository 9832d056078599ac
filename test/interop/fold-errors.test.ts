// Every wrong use of folding causes an error with name, expected and actual value.

import { describe, expect, test } from "vitest";
import { BatchNorm, foldIntoConv, foldIntoLinear, fromAffine, toAffine } from "../../src/index.ts";
import { sourceOf } from "../support/fold.ts";
import { normal, sizeOf } from "../support/worlds.ts";
import type { Wrong } from "../support/wrong-use.ts";

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
      /^weight: expected a Float32Array, .* or a Uint16Array with dtype, got undefined$/,
    ],
    [
      "a bare weight",
      () => foldIntoConv({ weight: vector } as Wrong, bn),
      TypeError,
      /^weight: expected \{ data, shape \}, got Float32Array\(6\)$/,
    ],
    [
      "numbers as weight",
      () => foldIntoLinear({ weight: { data: [1, 2, 3, 4, 5, 6], shape: [6, 1] } } as Wrong, bn),
      TypeError,
      /^weight: expected a Float32Array, Float64Array, Float16Array, or a Uint16Array with dtype, got \[1, 2/,
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
      /^bias: expected a Float32Array, /,
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
      /^options: expected options among format, activation, direction, got "groups"$/,
    ],
    [
      "PyTorch's option",
      () => foldIntoConv(of(6, 2, 1), bn, { transpose: true } as Wrong),
      TypeError,
      /^options: expected options among format, activation, direction, groups, unpadded, got "transpose"$/,
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
      /^options: expected options among format, activation, direction, groups, unpadded, got "__proto__"$/,
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
      "another direction",
      () => foldIntoConv(of(6, 2, 1), bn, { direction: "up" as Wrong }),
      RangeError,
      /^direction: expected "backward" or "forward", got "up"$/,
    ],
    [
      "another number of inputs",
      () => foldIntoConv(of(6, 4, 3), bn, { direction: "forward", unpadded: true }),
      RangeError,
      /^weight: expected 6 inputs, the channels of bn, got 4 in 6×4×3 \(format "OIHW", groups 1\); pass the format/,
    ],
    [
      "flattened inputs of a convolution",
      () => foldIntoConv(of(6, 12, 3), bn, { direction: "forward", unpadded: true }),
      RangeError,
      /^weight: expected 6 inputs, the channels of bn, got 12 in 6×12×3/,
    ],
    [
      "inputs that are no multiple of the channels",
      () => foldIntoLinear(of(2, 9), bn, { direction: "forward" }),
      RangeError,
      /^weight: expected 6 inputs or a multiple, the channels of bn, got 9 in 2×9/,
    ],
    [
      "groups left out, forward",
      () => foldIntoConv(of(4, 3, 1), bn, { direction: "forward", unpadded: true }),
      RangeError,
      /^weight: expected 6 inputs, the channels of bn, .* and groups$/,
    ],
    [
      "groups that do not divide the outputs, forward",
      () => foldIntoConv(of(5, 3, 1), bn, { direction: "forward", unpadded: true, groups: 2 }),
      RangeError,
      /^groups: expected a divisor of 5 channels, got 2$/,
    ],
    [
      "a transposed convolution, forward",
      () => foldIntoConv(of(6, 2, 1), bn, { direction: "forward", unpadded: true, format: "IOHW" }),
      RangeError,
      /^format: expected no transposed convolution with direction "forward", since the shift does not .* got "IOHW"$/,
    ],
    [
      "Keras's transposed convolution, forward",
      () => foldIntoConv(of(1, 2, 6), bn, { direction: "forward", unpadded: true, format: "HWOI" }),
      RangeError,
      /^format: expected no transposed convolution .* got "HWOI"$/,
    ],
    [
      "a convolution that may pad",
      () => foldIntoConv(of(2, 6, 3), bn, { direction: "forward" }),
      RangeError,
      /^unpadded: expected true with direction "forward", since the shift would have to reach the zeros .* got undefined$/,
    ],
    [
      "a convolution that pads",
      () => foldIntoConv(of(2, 6, 3), bn, { direction: "forward", unpadded: false }),
      RangeError,
      /^unpadded: expected true .* got false$/,
    ],
    [
      "a number as unpadded",
      () => foldIntoConv(of(2, 6, 3), bn, { direction: "forward", unpadded: 1 as Wrong }),
      TypeError,
      /^unpadded: expected a boolean, got 1$/,
    ],
    [
      "unpadded for linear",
      () => foldIntoLinear(of(2, 6), bn, { unpadded: true } as Wrong),
      TypeError,
      /^options: expected options among format, activation, direction, got "unpadded"$/,
    ],
    [
      "a bias of the channels, forward",
      () => foldIntoLinear({ ...of(2, 6), bias: vector }, bn, { direction: "forward" }),
      RangeError,
      /^bias: expected 2 elements \(2\), got 6$/,
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
      /^runningMean: expected a Float32Array, .* or a Uint16Array with dtype, got undefined$/,
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
      /^gamma: expected a Float32Array, .* or a Uint16Array with dtype, got 0$/,
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
      /^shift: expected a Float32Array, .* or a Uint16Array with dtype, got \[1\]$/,
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
