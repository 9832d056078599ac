// The core: all that plain batch normalization of float32 needs. A call of a layer makes a plan and runs up to five
// phases over it:
//
//   forward     plan   pivots         sums   statistics   coefficients   map
//   backward    plan   coefficients   sums   statistics   coefficients   map
//   inference   plan   statistics                         coefficients   map
//
// Every export works on memory of the caller. No export keeps state, allocates, or checks its arguments. docs/reference/abi.md
// lists these exports, and has a table of the parameters that several of them share.

import { Identity } from "./kernels/activations";
import { affineRows, gradientRows, invStdOf, pivotsOf } from "./kernels/channels";
import { Affine, Gradient } from "./kernels/maps";
import { Gradients, Moments } from "./kernels/sums";
import { CONSTANT_GRADIENT, GRADIENT, GRADIENTS, INV_STD, mapUnits, readSums, sumUnits } from "./phases";
import { PLANES, Plan, planAt } from "./plan";

/** The version of the exports' interface. docs/reference/abi.md says which changes need a new number. */
const VERSION: u32 = 2;

/**
 * Returns the version of this ABI.
 * @returns 2
 */
export function version(): u32 {
  return VERSION;
}

/**
 * Returns the size of the workspace of a tensor [outer, channels, inner]. It is enough for every plan of the tensor.
 * @returns bytes, a multiple of 64; 0 for an empty tensor
 */
export function workspace(elementBytes: usize, outer: usize, channels: usize, inner: usize): usize {
  // planes of a single channel can be read as more columns than its rows have
  return max(
    planAt(0, elementBytes, outer, channels, inner, 0),
    planAt(0, elementBytes, outer, channels, inner, PLANES),
  );
}

/**
 * Writes the plan of a tensor [outer, channels, inner] to the beginning of its workspace. The plan says how the tensor
 * is walked and summed, and where the vectors of the phases are. An empty tensor has no plan, and nothing is written.
 * @param options 0, or the sum of: 1, tensors pass through memory tile by tile; 2, a single channel is summed in
 *   planes.
 */
export function plan(
  workspace: usize,
  elementBytes: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  options: i32,
): void {
  planAt(workspace, elementBytes, outer, channels, inner, options);
}

/**
 * Computes the pivots, which `sums` subtracts from x to sum moments. The pivot of a channel is the mean of some of its
 * first values, coarsely rounded. Pivots are the first row of the plan's coefficients.
 */
export function pivots(plan: usize, x: usize, begin: usize, end: usize): void {
  pivotsOf<f32>(changetype<Plan>(plan), x, begin, end);
}

/**
 * Computes the sums of channels. Moments are Σ d and Σ d², where d = x − pivot (F1, F2). Gradients are Σ dy and Σ dy·d,
 * where d = x − hi (B1, B2) and hi is the first row of the plan's coefficients, as `coefficients` with map 0 leaves it.
 * @param operation 0: moments. 1: gradients. 2 more, for channels that `statistics` found unreliable: f64 sums.
 * @param activation 0.
 */
export function sums(
  plan: usize,
  operation: i32,
  activation: i32,
  x: usize,
  dy: usize,
  parameters: usize,
  begin: usize,
  end: usize,
): void {
  const p = changetype<Plan>(plan);
  if (operation & GRADIENTS) sumUnits<f32, Gradients, Identity>(p, operation, x, dy, 0, begin, end);
  else sumUnits<f32, Moments, Identity>(p, operation, x, 0, 0, begin, end);
}

/**
 * Turns moments into the plan's mean, variance and invStd (F3 to F5). Turns gradients, with mean, invStd and the row hi
 * that they were summed about, into the plan's dGamma and dBeta (B1 to B3). Marks the unreliable channels, whose sums are
 * not precise enough, in the plan's `unreliable`.
 * @param operation As for `sums`. 4: only invStd, from the plan's variance.
 * @param epsilon Read by operations 0, 2 and 4.
 * @returns the number of unreliable channels, which need operation 2 or 3 of `sums` and then of `statistics`
 */
export function statistics(plan: usize, operation: i32, epsilon: f64, begin: usize, end: usize): usize {
  const p = changetype<Plan>(plan);
  if (operation != INV_STD) return readSums<f32>(p, operation, epsilon, begin, end);
  invStdOf(p, epsilon, begin, end);
  return 0;
}

/**
 * Computes the rows of coefficients of a map from the plan's vectors.
 * @param map 0: hi, scale and shift of y (F6); gradients are summed about this hi, too. 1: hi, scale, shift and
 *   xCoefficient of dx (B4, B5). 2: the rows of dx for statistics that are constants.
 * @param count The number of values per channel that dGamma and dBeta sum over. Read by map 1.
 */
export function coefficients(
  plan: usize,
  map: i32,
  gamma: usize,
  beta: usize,
  count: f64,
  begin: usize,
  end: usize,
): void {
  const p = changetype<Plan>(plan);
  if (map == GRADIENT) gradientRows<f32>(p, gamma, beta, count, false, begin, end);
  else if (map == CONSTANT_GRADIENT) affineRows<f32>(p, gamma, 0, true, begin, end);
  else affineRows<f32>(p, gamma, beta, false, begin, end);
}

/**
 * Maps every element with the coefficients of its channel.
 * @param map 0: y = (x − hi)·scale + shift (F7). 1: dx = ((x − hi)·xCoefficient + (dy + shift))·scale (B6). 2: dx =
 *   dy·scale, for statistics that are constants.
 * @param activation 0.
 * @param x `T[outer·channels·inner]`, read. Map 2 takes dy here.
 * @param b `T[outer·channels·inner]`, read by map 1: dy.
 * @param c Not read.
 * @param y `T[outer·channels·inner]`, written: y or dx.
 */
export function map(
  plan: usize,
  map: i32,
  activation: i32,
  x: usize,
  b: usize,
  c: usize,
  y: usize,
  parameters: usize,
  begin: usize,
  end: usize,
): void {
  const p = changetype<Plan>(plan);
  if (map == GRADIENT) mapUnits<f32, Gradient, Identity>(p, x, b, 0, y, 0, begin, end);
  else mapUnits<f32, Affine, Identity>(p, x, 0, 0, y, 0, begin, end);
}
