// For tests of class BatchNorm: a layer whose vectors are not trivial, what the oracle has for it, and inputs.

import { BatchNorm, type Gradients, type Layout, type Options, type TensorLike } from "../../src/index.ts";
import { mine } from "./made.ts";
import { backward, dimsOf, forward, invStdOf, statistics } from "./reference.ts";
import { type Kind, make, normal, ordered } from "./worlds.ts";

export const MODES = [
  { mode: "train", from: "batch", updates: true },
  { mode: "batch", from: "batch", updates: false },
  { mode: "eval", from: "running", updates: false },
  { mode: "frozen", from: "running", updates: false },
] as const;

/** Three channels, planar by its inner 35; what a test uses that is not about sizes. */
export const SIZE = [4, 3, 7, 5];
export const CLOSE = { rtol: 1e-5, atol: 1e-5 };

/** A layer none of whose vectors is trivial. */
export function layer(options: Options = {}, channels = 3): BatchNorm {
  const bn = new BatchNorm(channels, options);
  bn.gamma?.set(normal(91, channels, 1, 0.5));
  bn.beta?.set(normal(92, channels));
  bn.runningMean?.set(normal(93, channels, 0.3, 2));
  bn.runningVariance?.set(normal(94, channels).map((v) => 0.5 + v * v));
  return bn;
}

/** What the oracle has for this layer, with the batch's statistics or the running ones as they stand. */
export function oracle(bn: BatchNorm, x: TensorLike, dy: TensorLike, from: "batch" | "running") {
  const d = dimsOf(x.shape, bn.options.layout);
  const { mean, variance } =
    from === "batch"
      ? statistics(x.data, d)
      : { mean: bn.runningMean as Float32Array, variance: Float64Array.from(bn.runningVariance as Float32Array) };
  const invStd = invStdOf(variance, bn.options.epsilon);
  return {
    mean,
    ...forward(x.data, d, mean, invStd, bn.gamma, bn.beta),
    ...backward(x.data, dy.data, d, mean, invStd, bn.gamma, from === "batch"),
  };
}

/** Copies of what a backward gave. */
export const valuesOf = ({ dx, dGamma, dBeta }: Gradients) => [dx?.data, dGamma, dBeta].map((v) => v?.slice());

/** Normal values of a size, in the layout and kind under test. */
export const inputs = (kind: Kind, layout: Layout) => ({
  input(seed: number, size: readonly number[] = SIZE): TensorLike {
    const shape = ordered(size, layout);
    return mine(
      make(
        kind,
        shape,
        normal(
          seed,
          shape.reduce((a, b) => a * b, 1),
          1.5,
          1,
        ),
      ),
    );
  },
  junk(size: readonly number[] = SIZE): TensorLike {
    const shape = ordered(size, layout);
    return mine(make(kind, shape, new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(77)));
  },
});
