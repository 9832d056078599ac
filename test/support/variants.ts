// For tests of what a layer may do besides: a layer of three channels, its steps as copies, inputs in every layout, kind
// and type of elements, and finite differences.

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

/** A layer of three channels none of whose vectors is trivial. */
export function layer(dtype: Dtype, options: Options<Dtype> = {}): BatchNorm<Dtype> {
  const bn = new BatchNorm<Dtype>(3, { dtype, momentum: 0.25, ...options });
  bn.gamma?.set([1.5, -0.7, 0.3]);
  bn.beta?.set([0.1, -0.2, 0.37]);
  bn.runningMean?.set(RUNNING.mean);
  bn.runningVariance?.set(RUNNING.variance);
  return bn;
}

/** Copies of everything that a step computes. */
export function step(bn: BatchNorm<Dtype>, x: AnyTensor, dy: AnyTensor, options: LayerForwardOptions = {}) {
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
/** The same bits, where there is no tolerance. */
export function same(a: Partial<Step>, b: Step, tolerance = {}): void {
  for (const [name, value] of Object.entries(a)) {
    const other = b[name as keyof Step];
    if (value === null || typeof value === "number") expect(other, name).toBe(value);
    else expect(value, name).toBeAllclose(other as Vector, tolerance);
  }
}

export const close = (dtype: Dtype) =>
  dtype === "float64" ? { rtol: 1e-11, atol: 1e-11 } : { rtol: 1e-5, atol: 1e-5 };

/** Inputs of sizes [N, C, …] in one layout, kind and type of elements; they are freed after the test. */
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

const h = 1e-5;

/** Central differences of a loss by every value. */
export const differences = (v: Float64Array, loss: () => number) =>
  Array.from(v, (was, i) => {
    const [up, down] = [1, -1].map((sign) => {
      v[i] = was + sign * h;
      return loss();
    }) as [number, number];
    v[i] = was;
    return (up - down) / (2 * h);
  });
