// The ABI for hosts in other languages: the kernels of index.ts, and beside them whole operations on float32, which choose
// walks and precisions themselves. A host needs a pointer for every tensor and a workspace, and no arithmetic of its own.
//
// Geometry: channels-first is (N, C, H·W), channels-last (N·H·W, C, 1), and (N, C) is (N, C, 1).

import { Affine, Gradient } from "./affine";
import { affineCoefficients, blend, gradientCoefficients, inverse, pivotOf } from "./channel";
import { Lanes } from "./lanes";
import { Gradients, Moments } from "./reduce";
import { map, takeSums, Walk, workspaceOf } from "./walk";

export * from "./index";

/**
 * How much workspace the operations below need for a geometry.
 * @returns bytes, a multiple of 64; 0 for an empty tensor
 */
export function workspaceF32(outer: usize, channels: usize, inner: usize): usize {
  return workspaceOf(outer, channels, inner);
}

/**
 * Training: mean, variance and invStd of the batch, all written, and y = gamma·(x − mean)·invStd + beta. An empty
 * tensor leaves everything as it is.
 */
export function forwardF32(
  x: usize,
  y: usize,
  gamma: usize,
  beta: usize,
  mean: usize,
  variance: usize,
  invStd: usize,
  workspace: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  epsilon: f64,
): void {
  if (outer * channels * inner == 0) return;
  const w = Walk.at(workspace, outer, channels, inner);
  pivotOf<f32>(x, w.rows, w.outer, channels, w.inner, w.block, 0, channels);
  takeSums<Moments>(w, x, 0, mean, variance, 0, 0);
  inverse(variance, invStd, epsilon, 0, channels);
  affineCoefficients<f32>(w.rows, mean, invStd, gamma, beta, channels, 0, channels);
  map<Affine>(w, x, 0, y);
}

/**
 * running ← (1 − momentum)·running + momentum·batch, the batch's variance times count/(count − 1).
 * @param count Values per channel in the batch; more than 1.
 */
export function trackF64(
  runningMean: usize,
  runningVariance: usize,
  mean: usize,
  variance: usize,
  momentum: f64,
  count: f64,
  channels: usize,
): void {
  blend(runningMean, mean, momentum, 1, 0, channels);
  blend(runningVariance, variance, momentum, count / (count - 1), 0, channels);
}

/** y = gamma·(x − mean)/√(variance + epsilon) + beta, by statistics that are given. */
export function inferenceF32(
  x: usize,
  y: usize,
  gamma: usize,
  beta: usize,
  mean: usize,
  variance: usize,
  workspace: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  epsilon: f64,
): void {
  if (outer * channels * inner == 0) return;
  const w = Walk.at(workspace, outer, channels, inner);
  inverse(variance, w.invStd, epsilon, 0, channels);
  affineCoefficients<f32>(w.rows, mean, w.invStd, gamma, beta, channels, 0, channels);
  map<Affine>(w, x, 0, y);
}

/**
 * Gradients of `forwardF32`, from its mean and invStd: dGamma and dBeta, and with count = outer·inner dx =
 * gamma·invStd·(dy − dBeta/count − x̂·dGamma/count). Of an empty tensor dGamma and dBeta are 0.
 * @param dx `T[outer·channels·inner]`, written. May be `dy` or `x`. 0: only dGamma and dBeta.
 */
export function backwardF32(
  x: usize,
  dy: usize,
  dx: usize,
  gamma: usize,
  mean: usize,
  invStd: usize,
  dGamma: usize,
  dBeta: usize,
  workspace: usize,
  outer: usize,
  channels: usize,
  inner: usize,
): void {
  if (!sumGradients(x, dy, mean, invStd, dGamma, dBeta, workspace, outer, channels, inner) || !dx) return;
  const w = changetype<Walk>(workspace);
  gradientCoefficients<f32>(w.rows, mean, invStd, gamma, dGamma, dBeta, <f64>w.count, channels, 0, channels);
  map<Gradient>(w, x, dy, dx);
}

/**
 * Gradients of `inferenceF32`, from its mean and `invStdF64` of its variance: dGamma and dBeta, and dx =
 * gamma·invStd·dy. Of an empty tensor dGamma and dBeta are 0.
 * @param dx `T[outer·channels·inner]`, written. May be `dy` or `x`. 0: only dGamma and dBeta.
 */
export function frozenBackwardF32(
  x: usize,
  dy: usize,
  dx: usize,
  gamma: usize,
  mean: usize,
  invStd: usize,
  dGamma: usize,
  dBeta: usize,
  workspace: usize,
  outer: usize,
  channels: usize,
  inner: usize,
): void {
  if (!sumGradients(x, dy, mean, invStd, dGamma, dBeta, workspace, outer, channels, inner) || !dx) return;
  const w = changetype<Walk>(workspace);
  affineCoefficients<f32>(w.rows, 0, invStd, gamma, 0, channels, 0, channels);
  map<Affine>(w, dy, 0, dx);
}

/** dGamma and dBeta, and the walk at the beginning of the workspace; of an empty tensor zeros and no walk. */
function sumGradients(
  x: usize,
  dy: usize,
  mean: usize,
  invStd: usize,
  dGamma: usize,
  dBeta: usize,
  workspace: usize,
  outer: usize,
  channels: usize,
  inner: usize,
): bool {
  if (outer * channels * inner == 0) {
    memory.fill(dGamma, 0, Lanes.bytes<f64>(channels));
    memory.fill(dBeta, 0, Lanes.bytes<f64>(channels));
    return false;
  }
  const w = Walk.at(workspace, outer, channels, inner);
  affineCoefficients<f32>(w.rows, mean, invStd, 0, 0, channels, 0, channels); // for its first row, hi: the pivots
  takeSums<Gradients>(w, x, dy, mean, invStd, dGamma, dBeta);
  return true;
}
