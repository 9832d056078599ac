// Helpers for tests of class BatchNorm: a layer with nontrivial vectors, the oracle's results for it, and inputs.

import {
  type AnyTensor,
  BatchNorm,
  type Gradients,
  type Layout,
  type Needs,
  type Options,
  type TensorLike,
} from "../../src/index.ts";
import { mine } from "./made.ts";
import { backward, dimsOf, forward, invStdOf, statistics } from "./reference.ts";
import { type Kind, make, normal, ordered } from "./worlds.ts";

export const MODES = [
  { mode: "train", from: "batch", updates: true },
  { mode: "batch", from: "batch", updates: false },
  { mode: "eval", from: "running", updates: false },
  { mode: "frozen", from: "running", updates: false },
] as const;

/**
 * A size [N, C, …] for tests that do not depend on the size. It has three channels, and its inner 35 is walked as
 * planar.
 */
export const SIZE = [4, 3, 7, 5];
export const CLOSE = { rtol: 1e-5, atol: 1e-5 };

/** Returns a layer whose vectors all differ from their initial values. */
export function layer(options: Options = {}, channels = 3): BatchNorm {
  const bn = new BatchNorm(channels, options);
  bn.gamma?.set(normal(91, channels, 1, 0.5));
  bn.beta?.set(normal(92, channels));
  bn.runningMean?.set(normal(93, channels, 0.3, 2));
  bn.runningVariance?.set(normal(94, channels).map((v) => 0.5 + v * v));
  return bn;
}

/** Returns the oracle's forward and backward for a layer, by the batch's statistics or the current running ones. */
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

/** Returns copies of the gradients of a backward. */
export const valuesOf = ({ dx, dGamma, dBeta }: Partial<Gradients<AnyTensor, Float32Array, Needs>>) =>
  [dx?.data, dGamma, dBeta].map((v) => v?.slice());

/** Returns functions that make inputs of a size [N, C, …] in a layout and kind, to be freed after the test. */
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
