// Wrong masks, scale and shift per sample, ghost batches, renorm and micro-batches. Each of them causes an error of the
// right class, with name, expected and actual value and remedy, before anything is written.

import {
  BatchNorm,
  batchNormForward,
  batchNormGradientSums,
  batchNormInference,
  mergeStatistics,
  tensor,
} from "../../src/index.ts";
import { drop, normal } from "../support/worlds.ts";
import { type Row, SHAPE, testWrongUse, type Wrong } from "../support/wrong-use.ts";

const MASK = /^mask: expected an array of booleans or weights, or \{ lengths \}, got (true|null)$/;

const three = () => new Float64Array(3).fill(1);
const STATISTICS = { count: 40, mean: three(), variance: three() };
const SUMS = { dGamma: three(), dBeta: three() };

testWrongUse({
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
      /^mask: expected weights with a sum above 1 in mode "train", got 1$/,
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
      ({ bn, x, out }) =>
        bn.forward(x, { mask: new Array(8).fill(true), perSample: { gamma: new Float32Array(12) }, out }),
      TypeError,
      /^mask: expected without perSample, got both; leave one of them out$/,
    ],
  ],
  "scale and shift per sample": [
    [
      "of the layer's length",
      ({ bn, x, out, vector }) => bn.forward(x, { perSample: { gamma: vector }, out }),
      RangeError,
      /^perSample\.gamma: expected 12 elements \(4×3\), got 3$/,
    ],
    [
      "of another kind",
      ({ bn, x, out }) => bn.forward(x, { perSample: { beta: new Float64Array(12) }, out }),
      TypeError,
      /^perSample\.beta: expected a Float32Array, or \{ data, shape, dtype \}, got Float64Array\(12\)$/,
    ],
    [
      "that are null",
      ({ bn, x, out }) => bn.forward(x, { perSample: { beta: null as Wrong }, out }),
      TypeError,
      /^perSample\.beta: expected a Float32Array, or \{ data, shape, dtype \}, got null$/,
    ],
    [
      "of other samples, without a layer",
      ({ x, out }) => batchNormForward(x, { gamma: new Float32Array(15) }, { out }),
      RangeError,
      /^gamma: expected 3 elements \(3\) for x of shape .*, got 15$/,
    ],
    [
      "with a gradient for all",
      ({ x, dy, out, vector }) => {
        const bn = new BatchNorm(3);
        drop(bn.forward(x, { perSample: { gamma: new Float32Array(12) } }));
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
      ({ x, vector, out }) =>
        batchNormInference(x, { mean: vector, variance: vector }, { ghostBatchSize: 2, out } as Wrong),
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
    [
      "with null as statistics, in the layer",
      ({ bn, x, out }) => bn.forward(x, { out, statistics: null as Wrong }),
      TypeError,
      /^statistics: expected \{ count, mean, variance \}, got null$/,
    ],
    [
      "with null as statistics, in the function",
      ({ x, out }) => batchNormForward(x, {}, { out, statistics: null as Wrong }),
      TypeError,
      /^statistics: expected \{ count, mean, variance \}, got null$/,
    ],
    ["without any", () => mergeStatistics([]), RangeError, /^statistics: expected at least one batch's, got none$/],
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
      "no-running-statistics",
      /^bn: expected running statistics, got a layer made with trackRunningStats: false/,
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
      /^sums: expected a forward without ghost batches, renorm, prior and perSample, got one with them$/,
    ],
    [
      "with sums after a scale of every sample's own",
      ({ x, dy, out }) => {
        const bn = new BatchNorm(3);
        drop(bn.forward(x, { perSample: { gamma: new Float32Array(12) } }));
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
        const { y, saved } = batchNormForward(x, { perSample: { gamma: new Float32Array(12) } });
        drop(y);
        batchNormGradientSums(dy, saved);
      },
      RangeError,
      /^saved: expected a forward without perSample, got one with it$/,
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
      TypeError,
      /^saved: expected the record of a forward of batch norm; .*, got Object$/,
    ],
  ],
});
