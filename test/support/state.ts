// Helpers for tests of states of other frameworks: the frameworks, and a layer with its vectors.

import { BatchNorm, type Framework, type Options } from "../../src/index.ts";
import { normal, normalInput } from "./worlds.ts";

export const FRAMEWORKS: Framework[] = ["pytorch", "keras", "tfjs", "onnx", "flax", "haiku"];

/** Returns a layer in which every value differs from its initial value and from all others. */
export function layer(options: Options = {}, batches = 2): BatchNorm {
  const bn = new BatchNorm(3, options);
  if (bn.gamma) bn.gamma = normal(1, 3);
  if (bn.beta) bn.beta = normal(2, 3);
  for (let k = 0; k < batches; k++) bn.forward(normalInput(10 + k, [6, 3, 4], 2, k + 1));
  return bn;
}

export const vectorsOf = ({ gamma, beta, runningMean, runningVariance }: BatchNorm<"float32", boolean, boolean>) => ({
  gamma,
  beta,
  runningMean,
  runningVariance,
});
