// Wrong inputs, options, gradients, vectors and parameters. Each of them causes an error of the right class, with name,
// expected and actual value and remedy, before anything is written.

import { expect } from "vitest";
import { BatchNorm, type TensorLike, tensor } from "../../src/index.ts";
import { drop, normal } from "../support/worlds.ts";
import { type Row, SHAPE, testWrongUse, type Wrong } from "../support/wrong-use.ts";

testWrongUse({
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
      /^x: expected one that is alive, got a disposed one; make a new one$/,
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
      /^forward options: expected options among mode, out, residual, mask, perSample, prior, statistics, got "training"$/,
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
      /^out: expected one that is alive, got a disposed one; make a new one$/,
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
      /^backward options: expected options among dxOut, needs, dGammaOut, dBetaOut, dResidualOut, accumulate, sums, saved, got "out"$/,
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
});
