// The module for hosts in other languages: the core's plan and phases, and whole operations on float32 that are made of
// them. For a whole operation, a host passes the address of every tensor and of a workspace, and computes nothing
// itself. The order of the phases is that of the facade, so that results have the same bits.

import { Identity } from "./kernels/activations";
import { affineRows, blend, gradientRows, invStdOf, pivotsOf } from "./kernels/channels";
import { Lanes } from "./kernels/lanes";
import { Affine, Gradient } from "./kernels/maps";
import { Gradients, Moments } from "./kernels/sums";
import { AGAIN, GRADIENTS, mapUnits, readSums, sumUnits } from "./phases";
import { firstBlock, lastBlock, Plan, planAt } from "./plan";

export * from "./core";

/**
 * Writes the plan of a whole tensor, with the host's vectors for mean and variance. Returns null for an empty tensor.
 */
function planOf(
  workspace: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  mean: usize,
  variance: usize,
): Plan | null {
  if (planAt(workspace, sizeof<f32>(), outer, channels, inner, 0) == 0) return null;
  const p = changetype<Plan>(workspace);
  p.mean = mean;
  p.variance = variance;
  return p;
}

/** Sums unreliable channels again. Neighbouring channels are summed together. */
function sumAgain<S extends Moments>(p: Plan, operation: i32, x: usize, dy: usize, epsilon: f64): void {
  for (let begin: usize = 0; begin < p.channels; ++begin) {
    if (!load<u8>(p.unreliable + begin)) continue;
    let end = begin + 1;
    while (end < p.channels && load<u8>(p.unreliable + end)) ++end;
    if (p.planar) sumUnits<f32, S, Identity>(p, operation, x, dy, 0, begin, end);
    else
      for (let first: usize = 0; first < p.stripes * p.columnBlocks; first += p.columnBlocks)
        sumUnits<f32, S, Identity>(p, operation, x, dy, 0, first + firstBlock(p, begin), first + lastBlock(p, end));
    readSums<f32>(p, operation, epsilon, begin, end);
    begin = end;
  }
}

/** Computes the sums of all channels, and their statistics. */
function sumAll<S extends Moments>(p: Plan, operation: i32, x: usize, dy: usize, epsilon: f64): void {
  const stripeUnits = p.byColumn ? p.columnBlocks : 1;
  sumUnits<f32, S, Identity>(p, operation, x, dy, 0, 0, p.planar ? p.channels : p.stripes * stripeUnits);
  if (readSums<f32>(p, operation, epsilon, 0, p.channels)) sumAgain<S>(p, operation | AGAIN, x, dy, epsilon);
}

/** Maps the whole tensor with map M. */
function mapAll<M extends Affine>(p: Plan, x: usize, dy: usize, y: usize): void {
  mapUnits<f32, M, Identity>(p, x, dy, 0, y, 0, 0, p.planar ? p.channels : p.rows);
}

/**
 * Training: computes mean, variance and invStd of the batch, and y = gamma·(x − mean)·invStd + beta. For an empty
 * tensor, nothing is written.
 */
export function forward(
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
  const p = planOf(workspace, outer, channels, inner, mean, variance);
  if (!p) return;
  p.invStd = invStd;
  pivotsOf<f32>(p, x, 0, channels);
  sumAll<Moments>(p, 0, x, 0, epsilon);
  affineRows<f32>(p, gamma, beta, false, 0, channels);
  mapAll<Affine>(p, x, 0, y);
}

/**
 * Blends the statistics of a batch into the running statistics: running ← (1 − momentum)·running + momentum·batch. The
 * variance of the batch is multiplied by count/(count − 1).
 * @param runningMean `f64[channels]`, read and written.
 * @param runningVariance `f64[channels]`, read and written. It is unbiased.
 * @param momentum The weight of the new batch.
 * @param count The number of values per channel in the batch, more than 1.
 */
export function track(
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

/**
 * Inference: computes y = gamma·(x − mean)/√(variance + epsilon) + beta from the host's mean and variance. For an empty
 * tensor, nothing is written.
 */
export function inference(
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
  const p = planOf(workspace, outer, channels, inner, mean, variance);
  if (!p) return;
  p.invStd = invStd;
  invStdOf(p, epsilon, 0, channels);
  affineRows<f32>(p, gamma, beta, false, 0, channels);
  mapAll<Affine>(p, x, 0, y);
}

/**
 * Gradients: computes dGamma, dBeta and dx, from the mean and invStd of `forward` or of `inference`. For an empty
 * tensor, dGamma and dBeta are 0.
 * @param dx `T[outer·channels·inner]`, written. 0: only dGamma and dBeta.
 * @param dGamma `f64[channels]`, written: Σ dy·x̂.
 * @param dBeta `f64[channels]`, written: Σ dy.
 * @param constant 0, after `forward`: dx = gamma·invStd·(dy − dBeta/count − x̂·dGamma/count), count = outer·inner. 1,
 *   after `inference`, whose statistics are constants: dx = gamma·invStd·dy.
 */
export function backward(
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
  constant: i32,
): void {
  const p = planOf(workspace, outer, channels, inner, mean, 0);
  if (!p) {
    memory.fill(dGamma, 0, Lanes.bytes<f64>(channels));
    memory.fill(dBeta, 0, Lanes.bytes<f64>(channels));
    return;
  }
  p.invStd = invStd;
  p.dGamma = dGamma;
  p.dBeta = dBeta;
  affineRows<f32>(p, 0, 0, false, 0, channels); // gradients are summed about its first row, hi
  sumAll<Gradients>(p, GRADIENTS, x, dy, 0);
  if (!dx) return;
  if (constant) {
    affineRows<f32>(p, gamma, 0, true, 0, channels);
    mapAll<Affine>(p, dy, 0, dx);
  } else {
    gradientRows<f32>(p, gamma, 0, <f64>p.count, false, 0, channels);
    mapAll<Gradient>(p, x, dy, dx);
  }
}
