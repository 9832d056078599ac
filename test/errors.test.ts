// Every wrong use gets an error of the right class that says name, expected, got and remedy, before anything is
// written; and where PyTorch raises (golden cases of kind "error"), so do we.

import { readFileSync } from "node:fs";
import { afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import {
  BatchNorm,
  BatchNormError,
  batchNormForward,
  batchNormGradientSums,
  batchNormInference,
  init,
  mergeStatistics,
  type Tensor,
  type TensorLike,
  tensor,
} from "../src/index.ts";
import { defaultHeap } from "../src/memory/heap.ts";
import { drop, make, normal, useBuild, WORLDS } from "./worlds.ts";

// biome-ignore lint/suspicious/noExplicitAny: wrong uses are what the types forbid
type Wrong = any;

const SHAPE = [4, 3, 2];
const sizeOf = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

/** What a wrong call may touch, all of it alive and of the right shape. */
interface Scene {
  bn: BatchNorm;
  x: TensorLike;
  dy: TensorLike;
  out: TensorLike;
  vector: Float32Array;
  /** An input of another shape. */
  of(shape: readonly number[]): TensorLike;
  gone: Tensor;
}

type Row = [what: string, call: (s: Scene) => unknown, kind: ErrorConstructor | string, message: RegExp];

const MASK = /^mask: expected an array of booleans or weights, or \{ lengths \}, got (true|null)$/;

const three = () => new Float64Array(3).fill(1);
const STATISTICS = { count: 40, mean: three(), variance: three() };
const SUMS = { dGamma: three(), dBeta: three() };

const TABLE: Record<string, Row[]> = {
  "input x": [
    [
      "nothing",
      ({ bn }) => bn.forward(undefined as Wrong),
      TypeError,
      /^x: expected a Tensor or \{ data: Float32Array, shape \}, got undefined$/,
    ],
    ["null", ({ bn }) => bn.forward(null as Wrong), TypeError, /^x: expected a Tensor or .*, got null$/],
    [
      "a bare array",
      ({ bn, x }) => bn.forward(x.data.slice() as Wrong),
      TypeError,
      /^x\.data: expected a Float32Array, got undefined$/,
    ],
    [
      "a Float64Array as data",
      ({ bn }) => bn.forward({ data: new Float64Array(24), shape: SHAPE } as Wrong),
      TypeError,
      /^x\.data: expected a Float32Array, got Float64Array\(24\)$/,
    ],
    [
      "an array of numbers as data",
      ({ bn }) => bn.forward({ data: [1, 2, 3, 4, 5, 6], shape: [2, 3] } as Wrong),
      TypeError,
      /^x\.data: expected a Float32Array, got \[1, 2, 3/,
    ],
    [
      "no shape",
      ({ bn, x }) => bn.forward({ data: x.data } as Wrong),
      TypeError,
      /^x\.shape: expected an array of dimensions, got undefined$/,
    ],
    [
      "a shape that is a number",
      ({ bn, x }) => bn.forward({ data: x.data, shape: 24 } as Wrong),
      TypeError,
      /^x\.shape: expected an array of dimensions, got 24$/,
    ],
    [
      "a string among the dimensions",
      ({ bn, x }) => bn.forward({ data: x.data, shape: [4, "3", 2] } as Wrong),
      TypeError,
      /^x\.shape: expected numbers as dimensions, got \[4, "3", 2\]$/,
    ],
    [
      "a negative dimension",
      ({ bn, x }) => bn.forward({ data: x.data, shape: [-4, 3, -2] }),
      RangeError,
      /^x\.shape: expected non-negative integers, got \[-4, 3, -2\]$/,
    ],
    [
      "half a dimension",
      ({ bn, x }) => bn.forward({ data: x.data, shape: [16, 3, 0.5] }),
      RangeError,
      /^x\.shape: expected non-negative integers, got \[16, 3, 0\.5\]$/,
    ],
    [
      "too few values",
      ({ bn }) => bn.forward({ data: new Float32Array(23), shape: SHAPE }),
      RangeError,
      /^x: expected 24 elements \(4×3×2\), got 23$/,
    ],
    [
      "too many values",
      ({ bn }) => bn.forward({ data: new Float32Array(25), shape: SHAPE }),
      RangeError,
      /^x: expected 24 elements \(4×3×2\), got 25$/,
    ],
    ["rank 0", ({ bn, of }) => bn.forward(of([])), RangeError, /^x\.shape: expected rank 2 or more, got \[\]$/],
    ["rank 1", ({ bn, of }) => bn.forward(of([3])), RangeError, /^x\.shape: expected rank 2 or more, got \[3\]$/],
    [
      "another number of channels",
      ({ bn, of }) => bn.forward(of([4, 2, 3])),
      RangeError,
      /^x: expected 3 channels on axis 1 \(layout "channels-first"\), got 2 in 4×2×3; pass the other .* 2 channels$/,
    ],
    [
      "fewer elements than the shape, whose product exceeds 64 bits",
      ({ bn }) => bn.forward({ data: new Float32Array(24), shape: [2 ** 31, 3, 2 ** 31] }),
      RangeError,
      /^x: expected 13835058055282164000 elements \(2147483648×3×2147483648\), got 24$/,
    ],
    [
      "a tensor that was disposed",
      ({ bn, gone }) => bn.forward(gone),
      "disposed",
      /^x: expected one that is alive, got one that was disposed; make a new one$/,
    ],
    [
      "one value per channel",
      ({ bn, of }) => bn.forward(of([1, 3])),
      "one-value-per-channel",
      /^Expected more than 1 value per channel when training, got input size 1×3 in mode "train": .* larger batch/,
    ],
    [
      "one value per channel in mode batch",
      ({ bn, of }) => bn.forward(of([1, 3, 1, 1]), { mode: "batch" }),
      "one-value-per-channel",
      /^Expected more than 1 value per channel when training, got input size 1×3×1×1 in mode "batch": /,
    ],
  ],
  "options of forward": [
    [
      "a mode that is none",
      ({ bn, x, out }) => bn.forward(x, { mode: "test" as Wrong, out }),
      RangeError,
      /^mode: expected "train" or "batch" or "eval" or "frozen", got "test"$/,
    ],
    [
      "a mode of the wrong kind",
      ({ bn, x, out }) => bn.forward(x, { mode: true as Wrong, out }),
      TypeError,
      /^mode: expected a string, got true$/,
    ],
    [
      "a name that is none",
      ({ bn, x, out }) => bn.forward(x, { training: true, out } as Wrong),
      TypeError,
      /^forward options: expected options among mode, out, residual, mask, gamma, beta, statistics, got "training"$/,
    ],
    [
      "the mode alone",
      ({ bn, x }) => bn.forward(x, "eval" as Wrong),
      TypeError,
      /^forward options: expected an object, got "eval"$/,
    ],
    ["null", ({ bn, x }) => bn.forward(x, null as Wrong), TypeError, /^forward options: expected an object, got null$/],
    [
      "an `out` of another shape",
      ({ bn, x, of }) => bn.forward(x, { out: of([4, 2, 3]) }),
      RangeError,
      /^out: expected shape 4×3×2, got 4×2×3$/,
    ],
    [
      "an `out` of another rank",
      ({ bn, x, of }) => bn.forward(x, { out: of([4, 6]) }),
      RangeError,
      /^out: expected shape 4×3×2, got 4×6$/,
    ],
    [
      "an `out` that is a bare array",
      ({ bn, x }) => bn.forward(x, { out: new Float32Array(24) as Wrong }),
      TypeError,
      /^out\.data: expected a Float32Array, got undefined$/,
    ],
    [
      "an `out` that is null",
      ({ bn, x }) => bn.forward(x, { out: null as Wrong }),
      TypeError,
      /^out: expected a Tensor or .*, got null$/,
    ],
    [
      "an `out` with too few values",
      ({ bn, x }) => bn.forward(x, { out: { data: new Float32Array(3), shape: SHAPE } as Wrong }),
      RangeError,
      /^out: expected 24 elements \(4×3×2\), got 3$/,
    ],
    [
      "an `out` that was disposed",
      ({ bn, x, gone }) => bn.forward(x, { out: gone as Wrong }),
      "disposed",
      /^out: expected one that is alive, got one that was disposed; make a new one$/,
    ],
    [
      "an `out` that is a view of wasm memory",
      ({ bn, x }) => bn.forward(x, { out: { data: tensor(SHAPE).data, shape: SHAPE } as Wrong }),
      TypeError,
      /^out: expected .*memory of JavaScript, got /,
    ],
    [
      "frozen without running statistics",
      ({ x, out }) => new BatchNorm(3, { trackRunningStats: false }).forward(x, { mode: "frozen", out }),
      "no-running-statistics",
      /^mode "frozen": expected running statistics, got .* trackRunningStats: false; use "train" or "batch"$/,
    ],
  ],
  backward: [
    [
      "without forward",
      ({ dy, out }) => new BatchNorm(3).backward(dy, { dxOut: out }),
      "no-forward",
      /^backward: expected a forward call before it, got none .*; call forward first$/,
    ],
    [
      "after a forward that threw",
      ({ of, dy, out }) => {
        const bn = new BatchNorm(3);
        expect(() => bn.forward(of([1, 3]))).toThrow();
        bn.backward(dy, { dxOut: out });
      },
      "no-forward",
      /^backward: expected a forward call before it/,
    ],
    [
      "with nothing",
      ({ bn }) => bn.backward(undefined as Wrong),
      TypeError,
      /^dy: expected a Tensor or \{ data: Float32Array, shape \}, got undefined$/,
    ],
    [
      "with dy of another shape",
      ({ bn, of, out }) => bn.backward(of([4, 3, 3]), { dxOut: out }),
      RangeError,
      /^dy: expected shape 4×3×2, got 4×3×3$/,
    ],
    [
      "with dy of the right length and another shape",
      ({ bn, of, out }) => bn.backward(of([2, 3, 4]), { dxOut: out }),
      RangeError,
      /^dy: expected shape 4×3×2, got 2×3×4$/,
    ],
    [
      "with a Float64Array in dy",
      ({ bn }) => bn.backward({ data: new Float64Array(24), shape: SHAPE } as Wrong),
      TypeError,
      /^dy\.data: expected a Float32Array, got Float64Array\(24\)$/,
    ],
    [
      "with dy of the wrong length",
      ({ bn }) => bn.backward({ data: new Float32Array(2), shape: SHAPE }),
      RangeError,
      /^dy: expected 24 elements \(4×3×2\), got 2$/,
    ],
    [
      "with dy disposed",
      ({ bn, gone, out }) => bn.backward(gone as TensorLike, { dxOut: out }),
      "disposed",
      /^dy: expected one that is alive/,
    ],
    [
      "with x disposed since",
      ({ dy, out }) => {
        const bn = new BatchNorm(3);
        const x = tensor(SHAPE, normal(1, 24));
        drop(bn.forward(x, { mode: "batch" }));
        x.dispose();
        bn.backward(dy, { dxOut: out });
      },
      "disposed",
      /^x: expected one that is alive/,
    ],
    [
      "with dxOut of another shape",
      ({ bn, dy, of }) => bn.backward(dy, { dxOut: of([4, 3]) }),
      RangeError,
      /^dxOut: expected shape 4×3×2, got 4×3$/,
    ],
    [
      "with dxOut disposed",
      ({ bn, dy, gone }) => bn.backward(dy, { dxOut: gone }),
      "disposed",
      /^dxOut: expected one that is alive/,
    ],
    [
      "with a name that is none",
      ({ bn, dy, out }) => bn.backward(dy, { out, dxOut: out } as Wrong),
      TypeError,
      /^backward options: expected options among dxOut, needs, dGammaOut, dBetaOut, dResidualOut, accumulate, sums, got "out"$/,
    ],
    [
      "with options that are null",
      ({ bn, dy }) => bn.backward(dy, null as Wrong),
      TypeError,
      /^backward options: expected an object, got null$/,
    ],
    [
      "with needs that are no object",
      ({ bn, dy, out }) => bn.backward(dy, { dxOut: out, needs: ["dx"] as Wrong }),
      TypeError,
      /^needs: expected an object, got \["dx"\]$/,
    ],
    [
      "with a need that is none",
      ({ bn, dy, out }) => bn.backward(dy, { dxOut: out, needs: { dgamma: false } as Wrong }),
      TypeError,
      /^needs: expected options among dx, dGamma, dBeta, dResidual, got "dgamma"$/,
    ],
    [
      "with a need that is no boolean",
      ({ bn, dy, out }) => bn.backward(dy, { dxOut: out, needs: { dBeta: 0 as Wrong } }),
      TypeError,
      /^needs\.dBeta: expected a boolean, got 0$/,
    ],
    [
      "with accumulate that is no boolean",
      ({ bn, dy, out }) => bn.backward(dy, { dxOut: out, accumulate: 1 as Wrong }),
      TypeError,
      /^accumulate: expected a boolean, got 1$/,
    ],
    [
      "with dGammaOut of another length",
      ({ bn, dy, out }) => bn.backward(dy, { dxOut: out, dGammaOut: new Float32Array(2) }),
      RangeError,
      /^dGammaOut: expected 3 elements \(3\), got 2$/,
    ],
    [
      "with dBetaOut of another kind",
      ({ bn, dy, out, vector }) => bn.backward(dy, { dxOut: out, dGammaOut: vector, dBetaOut: [0, 0, 0] as Wrong }),
      TypeError,
      /^dBetaOut: expected a Float32Array, got \[0, 0, 0\]$/,
    ],
    [
      "with dGammaOut in wasm memory, which growth would empty",
      ({ bn, dy, out }) => bn.backward(dy, { dxOut: out, dGammaOut: tensor([3]).data }),
      TypeError,
      /^dGammaOut: expected .*memory of JavaScript/,
    ],
  ],
  vectors: (["gamma", "beta", "runningMean", "runningVariance"] as const).flatMap((name): Row[] => [
    [
      `too long for ${name}`,
      ({ bn }) => {
        bn[name] = new Float32Array(4);
      },
      RangeError,
      new RegExp(`^${name}: expected 3 elements \\(3\\), got 4$`),
    ],
    [
      `of another kind for ${name}`,
      ({ bn }) => {
        bn[name] = [1, 2, 3] as Wrong;
      },
      TypeError,
      new RegExp(`^${name}: expected a Float32Array, got \\[1, 2, 3\\]$`),
    ],
    [
      `null for ${name}`,
      ({ bn }) => {
        bn[name] = null as Wrong;
      },
      TypeError,
      new RegExp(`^${name}: expected a Float32Array, got null$`),
    ],
    [
      `in wasm memory for ${name}, which growth would empty`,
      ({ x }) => {
        const bn = new BatchNorm(3);
        bn[name] = tensor([3]).data;
        bn.forward(x, { mode: "eval" });
      },
      TypeError,
      new RegExp(`^${name}: expected .*memory of JavaScript`),
    ],
    [
      `that was transferred away, as ${name}`,
      ({ x }) => {
        const bn = new BatchNorm(3);
        bn.forward(x, { mode: "batch" });
        structuredClone(bn[name], { transfer: [(bn[name] as Float32Array).buffer] });
        bn.forward(x, { mode: "eval" });
      },
      RangeError,
      new RegExp(`^${name}: expected 3 elements \\(3\\), got 0$`),
    ],
  ]),
  masks: [
    [
      "of another length",
      ({ bn, x, out }) => bn.forward(x, { mask: [true, false, true], out }),
      RangeError,
      /^mask: expected 8 elements \(4×2\), got 3$/,
    ],
    [
      "with the channels",
      ({ bn, x, out }) => bn.forward(x, { mask: new Uint8Array(24), out }),
      RangeError,
      /^mask: expected 8 elements \(4×2\), got 24$/,
    ],
    ["that are a boolean", ({ bn, x, out }) => bn.forward(x, { mask: true as Wrong, out }), TypeError, MASK],
    ["that are null", ({ bn, x, out }) => bn.forward(x, { mask: null as Wrong, out }), TypeError, MASK],
    [
      "of strings",
      ({ bn, x, out }) => bn.forward(x, { mask: ["1", 1, 1, 1, 1, 1, 1, 1] as Wrong, out }),
      TypeError,
      /^mask\[0\]: expected a boolean or a weight, got "1"$/,
    ],
    [
      "of bigints",
      ({ bn, x, out }) => bn.forward(x, { mask: new BigInt64Array(8) as Wrong, out }),
      TypeError,
      /^mask\[0\]: expected a boolean or a weight, got 0$/,
    ],
    [
      "with a negative weight",
      ({ bn, x, out }) => bn.forward(x, { mask: [1, 1, 1, -1, 1, 1, 1, 1], out }),
      RangeError,
      /^mask\[3\]: expected a finite weight ≥ 0, got -1$/,
    ],
    [
      "with a weight that is NaN",
      ({ bn, x, out }) => bn.forward(x, { mask: Float32Array.of(1, 1, Number.NaN, 1, 1, 1, 1, 1), out, mode: "eval" }),
      RangeError,
      /^mask\[2\]: expected a finite weight ≥ 0, got NaN$/,
    ],
    [
      "with a weight that is infinite",
      ({ bn, x, out }) => bn.forward(x, { mask: [1, 1, 1, Infinity, 1, 1, 1, 1], out }),
      RangeError,
      /^mask\[3\]: expected a finite weight ≥ 0, got Infinity$/,
    ],
    [
      "with weights whose sum is infinite",
      ({ bn, x, out }) => bn.forward(x, { mask: [1e308, 1, 1, 1e308, 1, 1, 1, 1], out }),
      RangeError,
      /^mask: expected weights with a finite sum, got Infinity$/,
    ],
    [
      "with weights of less than one value where running statistics are updated",
      ({ bn, x, out }) => bn.forward(x, { mask: new Array(8).fill(0.125), out }),
      RangeError,
      /^mask: expected weights with a sum above 1, the number of values, in mode "train", got 1$/,
    ],
    [
      "that leave one position",
      ({ bn, x, out }) => bn.forward(x, { mask: [0, 0, 0, 0, 0, 0, 5, 0], out }),
      "one-value-per-channel",
      /^Expected more than 1 value per channel when training, got input size 4×3×2 in mode "train", all but one masked: /,
    ],
    [
      "of lengths that are too few",
      ({ bn, x, out }) => bn.forward(x, { mask: { lengths: [2, 1] }, out }),
      RangeError,
      /^mask\.lengths: expected 4 elements \(4\), got 2$/,
    ],
    [
      "of a length beyond the end",
      ({ bn, x, out }) => bn.forward(x, { mask: { lengths: [2, 1, 3, 0] }, out }),
      RangeError,
      /^mask\.lengths\[2\]: expected an integer from 0 to 2, got 3$/,
    ],
    [
      "of half a length",
      ({ bn, x, out }) => bn.forward(x, { mask: { lengths: [2, 1, 2, 0.5] }, out }),
      RangeError,
      /^mask\.lengths\[3\]: expected an integer from 0 to 2, got 0\.5$/,
    ],
    [
      "of one length",
      ({ bn, x, out }) => bn.forward(x, { mask: { lengths: 2 as Wrong }, out }),
      TypeError,
      /^mask\.lengths: expected an array of integers, got 2$/,
    ],
    [
      "of lengths with another name",
      ({ bn, x, out }) => bn.forward(x, { mask: { lengths: [2, 2, 2, 2], length: 2 } as Wrong, out }),
      TypeError,
      /^mask: expected options among lengths, got "length"$/,
    ],
    [
      "of lengths for images",
      ({ bn, of }) => bn.forward(of([4, 3, 2, 1]), { mask: { lengths: [2, 1, 2, 0] } }),
      RangeError,
      /^mask\.lengths: expected sequences, \[N, C, L\], got \[4, 3, 2, 1\]$/,
    ],
    [
      "with a scale of every sample's own",
      ({ bn, x, out }) => bn.forward(x, { mask: new Array(8).fill(true), gamma: new Float32Array(12), out }),
      TypeError,
      /^mask: expected gamma and beta of one value per channel with it, got one per sample; mask without them$/,
    ],
  ],
  "scale and shift per sample": [
    [
      "of the layer's length",
      ({ bn, x, out, vector }) => bn.forward(x, { gamma: vector, out }),
      RangeError,
      /^gamma: expected 12 elements \(4×3\), got 3$/,
    ],
    [
      "of another kind",
      ({ bn, x, out }) => bn.forward(x, { beta: new Float64Array(12), out }),
      TypeError,
      /^beta: expected a Float32Array, got Float64Array\(12\)$/,
    ],
    [
      "that are null",
      ({ bn, x, out }) => bn.forward(x, { beta: null as Wrong, out }),
      TypeError,
      /^beta: expected a Float32Array, got null$/,
    ],
    [
      "of other samples, without a layer",
      ({ x, out }) => batchNormForward(x, { gamma: new Float32Array(15) }, { out }),
      RangeError,
      /^gamma: expected 3 elements \(3\), got 15$/,
    ],
    [
      "with a gradient for all",
      ({ x, dy, out, vector }) => {
        const bn = new BatchNorm(3);
        drop(bn.forward(x, { gamma: new Float32Array(12) }));
        bn.backward(dy, { dxOut: out, dGammaOut: vector });
      },
      RangeError,
      /^dGammaOut: expected 12 elements \(4×3\), got 3$/,
    ],
  ],
  "ghost batches": [
    ...[0, -2, 1.5, Number.NaN, Infinity].map(
      (size): Row => [
        `of ${size}`,
        () => new BatchNorm(3, { ghostBatchSize: size }),
        RangeError,
        new RegExp(`^ghostBatchSize: expected a positive integer, got ${size}$`),
      ],
    ),
    [
      "of a text",
      ({ x, out }) => batchNormForward(x, {}, { ghostBatchSize: "2" as Wrong, out }),
      TypeError,
      /^ghostBatchSize: expected a number, got "2"$/,
    ],
    [
      "whose last has one value per channel",
      ({ of }) => new BatchNorm(3, { ghostBatchSize: 2 }).forward(of([5, 3])),
      "one-value-per-channel",
      /got input size 1×3 in mode "train", a ghost batch from sample 4 on: the variance of one value/,
    ],
    [
      "in inference",
      ({ x, vector, out }) => batchNormInference(x, { mean: vector, variance: vector }, { ghostBatchSize: 2, out }),
      TypeError,
      /^ghostBatchSize: expected without statistics that are given, got both; leave one of them out$/,
    ],
  ],
  renorm: [
    [
      "of null limits",
      () => new BatchNorm(3, { renorm: {} as Wrong }),
      TypeError,
      /^renorm\.rMax: expected a number, got undefined$/,
    ],
    [
      "that is a number",
      () => new BatchNorm(3, { renorm: 3 as Wrong }),
      TypeError,
      /^renorm: expected an object, got 3$/,
    ],
    [
      "with an rMax below 1",
      () => new BatchNorm(3, { renorm: { rMax: 0.5, dMax: 1 } }),
      RangeError,
      /^renorm\.rMax: expected a number ≥ 1, got 0\.5$/,
    ],
    [
      "with a negative dMax, assigned",
      ({ bn }) => {
        bn.renorm = { rMax: 2, dMax: -1 };
      },
      RangeError,
      /^renorm\.dMax: expected a number ≥ 0, got -1$/,
    ],
    [
      "with a dMax that is NaN",
      ({ bn }) => {
        bn.renorm = { rMax: 2, dMax: Number.NaN };
      },
      RangeError,
      /^renorm\.dMax: expected a number ≥ 0, got NaN$/,
    ],
    [
      "with another name",
      () => new BatchNorm(3, { renorm: { rMax: 2, dMax: 1, rmax: 3 } as Wrong }),
      TypeError,
      /^renorm: expected options among rMax, dMax, got "rmax"$/,
    ],
    [
      "without running statistics",
      () => new BatchNorm(3, { renorm: { rMax: 2, dMax: 1 }, trackRunningStats: false }),
      RangeError,
      /^renorm: expected trackRunningStats: true with it, got false$/,
    ],
    [
      "without running statistics, assigned",
      () => {
        new BatchNorm(3, { trackRunningStats: false }).renorm = { rMax: 2, dMax: 1 };
      },
      TypeError,
      /^renorm: expected a layer that has it, got one made with trackRunningStats: false; make it without that option$/,
    ],
  ],
  "micro-batches": [
    ["without any", () => mergeStatistics([]), RangeError, /^statistics: expected at least one batch's, got "none"$/],
    [
      "that are no list",
      () => mergeStatistics(STATISTICS as Wrong),
      TypeError,
      /^statistics: expected a list of \{ count, mean, variance \}, got Object$/,
    ],
    [
      "with nothing in the list",
      () => mergeStatistics([undefined as Wrong]),
      TypeError,
      /^statistics: expected \{ count, mean, variance \}, got undefined$/,
    ],
    [
      "of other channels",
      () => mergeStatistics([STATISTICS, { count: 2, mean: new Float64Array(2), variance: new Float64Array(2) }]),
      RangeError,
      /^statistics\.mean: expected 3 elements \(3\), got 2$/,
    ],
    [
      "in float32",
      ({ bn, x, out, vector }) => bn.forward(x, { statistics: { ...STATISTICS, mean: vector as Wrong }, out }),
      TypeError,
      /^statistics\.mean: expected a Float64Array, got Float32Array\(3\)$/,
    ],
    [
      "of a count that is none",
      ({ bn }) => bn.track({ ...STATISTICS, count: -1 }),
      RangeError,
      /^statistics\.count: expected a finite number ≥ 0, got -1$/,
    ],
    [
      "of an infinite count",
      ({ bn }) => bn.track({ ...STATISTICS, count: Infinity }),
      RangeError,
      /^statistics\.count: expected a finite number ≥ 0, got Infinity$/,
    ],
    [
      "of one value, to be tracked",
      ({ bn }) => bn.track({ ...STATISTICS, count: 1 }),
      RangeError,
      /^statistics\.count: expected more than 1 value per channel, got 1$/,
    ],
    [
      "that are not finite, to be tracked",
      ({ bn }) => bn.track({ ...STATISTICS, mean: Float64Array.of(1, Number.NaN, 2) }),
      "non-finite-statistics",
      /in channel 1; nothing was updated/,
    ],
    [
      "of nothing, for something",
      ({ bn, x, out }) => bn.forward(x, { statistics: { ...STATISTICS, count: 0 }, out }),
      "one-value-per-channel",
      /^Expected more than 1 value per channel when training, got input size 4×3×2 in mode "train" and statistics of 0: /,
    ],
    [
      "in eval",
      ({ bn, x, out }) => bn.forward(x, { statistics: STATISTICS, out, mode: "eval" }),
      RangeError,
      /^mode: expected "train" or "batch" with statistics, got "eval"$/,
    ],
    [
      "with renorm",
      ({ x, out }) => new BatchNorm(3, { renorm: { rMax: 2, dMax: 1 } }).forward(x, { statistics: STATISTICS, out }),
      TypeError,
      /^renorm: expected without statistics that are given, got both; leave one of them out$/,
    ],
    [
      "with ghost batches",
      ({ x, out }) => new BatchNorm(3, { ghostBatchSize: 2 }).forward(x, { statistics: STATISTICS, out }),
      TypeError,
      /^ghostBatchSize: expected without statistics that are given, got both; leave one of them out$/,
    ],
    [
      "with ghost batches and no layer",
      ({ x, out }) => batchNormForward(x, {}, { statistics: STATISTICS, ghostBatchSize: 2, out }),
      TypeError,
      /^ghostBatchSize: expected without statistics that are given, got both/,
    ],
    [
      "tracked by a layer without running statistics",
      () => new BatchNorm(3, { trackRunningStats: false }).track(STATISTICS),
      TypeError,
      /^running statistics: expected a layer that has it, got one made with trackRunningStats: false/,
    ],
    [
      "with sums that are none",
      ({ bn, dy, out }) => bn.backward(dy, { dxOut: out, sums: 3 as Wrong }),
      TypeError,
      /^sums: expected \{ dGamma, dBeta \}, got 3$/,
    ],
    [
      "with sums in float32",
      ({ bn, dy, out, vector }) => bn.backward(dy, { dxOut: out, sums: { dGamma: vector, dBeta: vector } as Wrong }),
      TypeError,
      /^sums\.dGamma: expected a Float64Array, got Float32Array\(3\)$/,
    ],
    [
      "with sums after ghost batches, which have statistics of their own",
      ({ x, dy, out }) => {
        const bn = new BatchNorm(3, { ghostBatchSize: 2 });
        drop(bn.forward(x));
        bn.backward(dy, { dxOut: out, sums: SUMS });
      },
      RangeError,
      /^sums: expected a forward without ghost batches, renorm, and scale and shift per sample, got "one with them"$/,
    ],
    [
      "with sums after a scale of every sample's own",
      ({ x, dy, out }) => {
        const bn = new BatchNorm(3);
        drop(bn.forward(x, { gamma: new Float32Array(12) }));
        bn.backward(dy, { dxOut: out, sums: SUMS });
      },
      RangeError,
      /^sums: expected a forward without ghost batches, /,
    ],
    [
      "with sums after renorm",
      ({ x, dy, out }) => {
        const bn = new BatchNorm(3, { renorm: { rMax: 2, dMax: 1 } });
        drop(bn.forward(x));
        bn.backward(dy, { dxOut: out, sums: SUMS });
      },
      RangeError,
      /^sums: expected a forward without ghost batches, /,
    ],
    [
      "with sums of a scale of every sample's own",
      ({ x, dy }) => {
        const { y, saved } = batchNormForward(x, { gamma: new Float32Array(12) });
        drop(y);
        batchNormGradientSums(dy, saved);
      },
      RangeError,
      /^gamma: expected one value per channel in two phases, got "one per sample"$/,
    ],
    [
      "with sums of dy of another shape",
      ({ x, of }) => {
        const { y, saved } = batchNormForward(x);
        drop(y);
        batchNormGradientSums(of([4, 2, 3]), saved);
      },
      RangeError,
      /^dy: expected shape 4×3×2, got 4×2×3$/,
    ],
    [
      "with sums of an x that was disposed since",
      ({ dy }) => {
        const x = tensor(SHAPE, normal(1, 24));
        const { y, saved } = batchNormForward(x);
        drop(x, y);
        batchNormGradientSums(dy, saved);
      },
      "disposed",
      /^x: expected one that is alive/,
    ],
    [
      "with sums of nothing saved",
      ({ dy }) => batchNormGradientSums(dy, {} as Wrong),
      "no-forward",
      /^backward: expected a forward call before it, got no result of batchNormForward as `saved`/,
    ],
  ],
  "a parameter that does not exist": [
    [
      "gamma",
      () => {
        new BatchNorm(3, { scale: false }).gamma = new Float32Array(3);
      },
      TypeError,
      /^gamma: expected a layer that has it, got one made with scale: false or affine: false; make it without/,
    ],
    [
      "beta",
      () => {
        new BatchNorm(3, { affine: false }).beta = new Float32Array(3);
      },
      TypeError,
      /^beta: expected a layer that has it, got one made with shift: false or affine: false; make it without/,
    ],
  ],
};

describe.each(WORLDS)("wrong use ($build, $kind)", ({ build, kind }) => {
  beforeAll(() => useBuild(build));

  let scene: Scene;
  beforeEach(() => {
    const of = (shape: readonly number[]) => make(kind, shape, normal(5, sizeOf(shape)));
    const bn = new BatchNorm(3);
    const [x, dy, out, gone] = [of(SHAPE), of(SHAPE), of(SHAPE), tensor(SHAPE)];
    bn.forward(x, { out });
    bn.backward(dy, { dxOut: out });
    gone.dispose();
    scene = { bn, x, dy, out, vector: Float32Array.of(1, 2, 3), of, gone };
  });
  afterEach(() => {
    scene.bn.dispose();
    drop(scene.x, scene.dy, scene.out);
  });

  describe.each(Object.entries(TABLE))("of %s", (_, rows) => {
    test.each(rows)("%s: the error names it, and nothing is written", (_, call, error, message) => {
      const { bn, x, dy, out, vector } = scene;
      const everything = () => [
        ...[x, dy, out].map((t) => t.data.slice()),
        vector.slice(),
        bn.stateDict(),
        [bn.mode, bn.dGamma?.slice(), bn.dBeta?.slice()],
      ];
      const before = everything();
      expect(() => call(scene)).toThrow(message);
      expect(() => call(scene)).toThrow(
        typeof error === "string" ? (expect.objectContaining({ name: "BatchNormError", code: error }) as Error) : error,
      );
      expect(everything()).toEqual(before);
      const [dGamma, dBeta] = [bn.dGamma, bn.dBeta];
      expect(bn.backward(dy, { dxOut: out })).toMatchObject({ dGamma, dBeta });
      expect(out.data).toEqual(before[2]);
    });
  });
});

function thrownBy(call: () => unknown): Error {
  try {
    call();
  } catch (error) {
    return error as Error;
  }
  throw new Error("nothing was thrown");
}

describe("messages", () => {
  beforeAll(() => useBuild("simd"));

  test("give the shape with the length", () => {
    const bn = new BatchNorm(64);
    bn.forward({ data: new Float32Array(32 * 64 * 28 * 28), shape: [32, 64, 28, 28] }, { mode: "batch" });
    const dy = { data: new Float32Array(802816), shape: [32, 64, 28, 28] };
    expect(() => bn.backward(dy)).toThrow(new RangeError("dy: expected 1605632 elements (32×64×28×28), got 802816"));
    bn.dispose();
  });

  test("stay short, however long the wrong value is", () => {
    const long = Array.from({ length: 100_000 }, (_, i) => i);
    const text = "channels".repeat(10_000);
    for (const call of [
      () => new BatchNorm(3).forward({ data: long as Wrong, shape: SHAPE }),
      () => tensor(long.map(String) as Wrong),
      () => tensor(long.map(() => 2)),
      () => new BatchNorm(3, { layout: text as Wrong }),
      () => new BatchNorm(long as Wrong),
    ]) {
      expect(call).toThrow(/: expected /);
      expect(thrownBy(call).message.length).toBeLessThan(400);
    }
  });

  test("are of an Error with a code that programs can read", () => {
    const error = thrownBy(() => new BatchNorm(3).backward({ data: new Float32Array(24), shape: SHAPE }));
    expect(error).toBeInstanceOf(BatchNormError);
    expect(error).toBeInstanceOf(Error);
    expect(error).toMatchObject({ name: "BatchNormError", code: "no-forward" });
    expect(String(error)).toMatch(/^BatchNormError: backward: expected a forward call before it/);
  });
});

describe("init", () => {
  beforeAll(() => useBuild("simd"));
  const EMPTY = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0]);

  test.each<[string, Wrong]>([
    ["bytes", { module: EMPTY }],
    ["null", { module: null }],
    ["a module that is not ours", { module: new WebAssembly.Module(EMPTY) }],
  ])("refuses %s for a module, and everything goes on in the memory there was", async (_, options) => {
    const heap = defaultHeap();
    await expect(init(options)).rejects.toThrow(TypeError);
    await expect(init(options)).rejects.toThrow(/^module: expected .*, got /);
    expect(defaultHeap()).toBe(heap);
    await init();
    expect(defaultHeap()).toBe(heap);
    expect(new BatchNorm(1).forward({ data: Float32Array.of(-1, 1), shape: [2, 1] }).data).toBeAllclose([-1, 1], {
      rtol: 1e-5,
    });
  });
});

// ---- what torch 1.13.1 does with wrong use --------------------------------------------------------------------------

interface GoldenError {
  id: string;
  params: {
    module?: string;
    fn?: string;
    C?: number;
    shape?: number[];
    training?: boolean;
    trackRunningStats?: boolean;
    arg?: string;
    length?: number;
    dtype?: string;
    op?: string;
    drop?: string;
    add?: string;
    weight?: [number];
  };
  out: { torch: { raises: boolean; message?: string; returns?: Wrong } };
}

const golden: GoldenError[] = JSON.parse(
  readFileSync(new URL("golden/manifest.json", import.meta.url), "utf8"),
).cases.filter((c: { kind: string }) => c.kind === "error");

/** BatchNorm1d, 2d and 3d each insist on ranks of their own; our one class takes every rank from 2 up. */
const RANK_IS_FINE = ["error/rank_bn1d_4d", "error/rank_bn2d_3d", "error/rank_bn3d_4d"];

const zeros = (shape: readonly number[]) => ({ data: new Float32Array(sizeOf(shape)), shape });

/** The same use of our API; returns the layer and y where it is let through. */
function ours({ params: p }: GoldenError): { bn?: BatchNorm; y?: TensorLike } {
  if (p.op === "load_state_dict") {
    const bn = new BatchNorm(2);
    const state = {
      ...bn.stateDict(),
      ...(p.add && { [p.add]: [1] }),
      ...(p.weight && { weight: zeros(p.weight).data }),
    };
    if (p.drop) delete state[p.drop as keyof typeof state];
    bn.loadStateDict(state);
    return { bn };
  }
  if (p.fn) {
    const [, channels] = p.shape as [number, number];
    const vector = (name: string, value: number) =>
      new Float32Array((p.arg === name && p.length) || channels).fill(value);
    const missing = "running_mean" in p;
    return batchNormInference(zeros(p.shape as number[]), {
      mean: missing ? (null as Wrong) : vector("running_mean", 0),
      variance: vector("running_var", 1),
      gamma: vector("weight", 1),
      beta: vector("bias", 0),
    });
  }
  const { trackRunningStats = true, shape = [2, 3] } = p;
  const bn = new BatchNorm(p.C as number, { trackRunningStats });
  const Data = { float64: Float64Array, int64: BigInt64Array }[p.dtype ?? ""] ?? Float32Array;
  const x = { data: new Data(sizeOf(shape)) as Wrong, shape };
  return { bn, y: bn.forward(x, { mode: p.training === false ? "eval" : "train" }) };
}

describe("torch's cases of wrong use", () => {
  beforeAll(() => useBuild("simd"));

  test("are all here", () => {
    expect(golden.length).toBe(27);
    expect(golden.map((c) => c.id)).toEqual(expect.arrayContaining(RANK_IS_FINE));
  });

  test.each(golden.filter((c) => c.out.torch.raises && !RANK_IS_FINE.includes(c.id)))("$id raises here too", (c) => {
    // an error of ours, not one that the engine met on the way
    expect(() => ours(c)).toThrow(
      /: expected .+, got |^Expected more than 1 value|^loadStateDict: nothing was loaded; /,
    );
    const [shared] =
      /Expected more than 1 value per channel when training, got input size/.exec(c.out.torch.message ?? "") ?? [];
    if (shared) expect(() => ours(c)).toThrow(shared);
  });

  test.each(golden.filter((c) => !c.out.torch.raises || RANK_IS_FINE.includes(c.id)))("$id is let through", (c) => {
    const { bn, y } = ours(c);
    const { returns } = c.out.torch;
    expect(y?.shape).toEqual(returns?.y ?? returns ?? c.params.shape);
    if (!returns?.y) return;
    // an empty batch: torch counts it, we do not (semantics.md); the statistics stay the same in both
    expect(returns.num_batches_tracked).toBe(1);
    expect(bn?.batchesTracked).toBe(0);
    expect([...(bn?.runningMean ?? [])]).toEqual(returns.running_mean);
    expect([...(bn?.runningVariance ?? [])]).toEqual(returns.running_var);
  });
});
