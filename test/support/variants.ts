// Helpers for tests of ghost batches, masks, renorm and scale and shift per sample: a layer of three channels, copies
// of the results of a step, inputs in every layout, kind and element type, and finite differences.

import { expect } from "vitest";
import {
  type AnyTensor,
  BatchNorm,
  type Dtype,
  type LayerForwardOptions,
  type Options,
  type TensorLike,
  type Vector,
} from "../../src/index.ts";
import { mine } from "./made.ts";
import { drop, make, normal, ordered, real, sizeOf, type WAYS } from "./worlds.ts";

export const RUNNING = { mean: [0.3, -0.4, 1], variance: [0.5, 2, 1.5] };

/** Returns a layer of three channels whose vectors all differ from their initial values. */
export function layer(dtype: Dtype, options: Options<Dtype> = {}): BatchNorm<Dtype, boolean, boolean> {
  const bn = new BatchNorm<Dtype, boolean, boolean>(3, { dtype, momentum: 0.25, ...options });
  bn.gamma?.set([1.5, -0.7, 0.3]);
  bn.beta?.set([0.1, -0.2, 0.37]);
  bn.runningMean?.set(RUNNING.mean);
  bn.runningVariance?.set(RUNNING.variance);
  return bn;
}

/** Runs a forward and a backward, and returns copies of all results and of the running statistics. */
export function step(
  bn: BatchNorm<Dtype, boolean, boolean>,
  x: AnyTensor,
  dy: AnyTensor,
  options: LayerForwardOptions = {},
) {
  const y = mine(bn.forward(x as TensorLike<Dtype>, options as LayerForwardOptions<TensorLike<Dtype>>));
  const { dx, dGamma, dBeta, dResidual } = bn.backward(dy as TensorLike<Dtype>);
  const { runningMean, runningVariance, batchesTracked } = bn;
  const vector = (v: AnyTensor | Vector | null | undefined) => {
    if (!v) return null;
    return ("shape" in v ? v.data : v).slice() as Vector;
  };
  const result = {
    y: vector(y),
    dx: vector(dx),
    dGamma: vector(dGamma),
    dBeta: vector(dBeta),
    dResidual: vector(dResidual),
    runningMean: vector(runningMean),
    runningVariance: vector(runningVariance),
    batchesTracked,
  };
  drop(dx, dResidual);
  return result;
}

export type Step = ReturnType<typeof step>;

/** Expects the results of two steps to be close, or without a tolerance to have the same bits. */
export function same(a: Partial<Step>, b: Step, tolerance = {}): void {
  for (const [name, value] of Object.entries(a)) {
    const other = b[name as keyof Step];
    if (value === null || typeof value === "number") expect(other, name).toBe(value);
    else expect(value, name).toBeAllclose(other as Vector, tolerance);
  }
}

export const close = (dtype: Dtype) =>
  dtype === "float64" ? { rtol: 1e-11, atol: 1e-11 } : { rtol: 1e-5, atol: 1e-5 };

/**
 * Returns functions that make inputs of a size [N, C, …] in a layout, kind and element type, to be freed after the
 * test.
 */
export function inputsIn({ layout, kind, dtype }: (typeof WAYS)[number]) {
  const give = (size: readonly number[], values: ArrayLike<number>) =>
    mine(make(kind, ordered(size, layout), real(dtype, values)));
  const input = (seed: number, size: readonly number[], std = 1.5, mean = 1) =>
    give(size, normal(seed, sizeOf(size), std, mean));
  const part = (t: AnyTensor, size: readonly number[], begin: number, end: number) => {
    const one = sizeOf(size.slice(1));
    return give([end - begin, ...size.slice(1)], t.data.slice(begin * one, end * one) as Vector);
  };
  return { give, input, part };
}

/**
 * Step of central differences, near ∛(2⁻⁵³): there the truncation error, ∝ h², and the rounding error, ∝ 1/h, balance.
 */
const h = 1e-5;

/** Returns the derivatives of a loss with respect to every value, by central differences. */
export const differences = (v: Float64Array, loss: () => number) =>
  Array.from(v, (value, i) => {
    const [up, down] = [1, -1].map((sign) => {
      v[i] = value + sign * h;
      return loss();
    }) as [number, number];
    v[i] = value;
    return (up - down) / (2 * h);
  });
