// The second module, over the same memory and the same plans. It has all that plain batch normalization of float32 does
// not need: activations and residuals in maps and sums, the maps of scale per sample and of double backward, float64
// (plans with 8 bytes per element), and 16-bit storage.
//
// The number of an activation chooses a type once per call: 0 none, 1 ReLU, 2 leaky ReLU, 3 SiLU,
// 4 ReLU6. The sums have no SiLU: to compute its derivative twice takes longer than to write dz to memory. So map 5 writes
// dz once, and plain sums and gradients read it.

import { Identity, LeakyRelu, Piecewise, Relu, Relu6, Silu } from "./kernels/activations";
import { affineRows, broadcastRows, gradientRows, pivotsOf, scaledGradientRows } from "./kernels/channels";
import { BFloat16, Float16, narrowTo, widenFrom } from "./kernels/half";
import { Lanes } from "./kernels/lanes";
import { Affine, AffineSum, Combination, Derivative, Gradient, mapRows, Product, ScaledGradient } from "./kernels/maps";
import { Gradients, Moments } from "./kernels/sums";
import { mapWeighted, sumWeighted } from "./kernels/weights";
import {
  AFFINE,
  COMBINATION,
  CONSTANT_GRADIENT,
  DERIVATIVE,
  GRADIENT,
  GRADIENTS,
  LEAKY_RELU,
  mapUnits,
  NONE,
  PRODUCT,
  RELU,
  RELU6,
  readSums,
  SCALED_GRADIENT,
  SILU,
  sumUnits,
  WEIGHTED,
} from "./phases";
import { Plan } from "./plan";

/** Computes the pivots of float64 plans, each the mean of some of a channel's first values, coarsely rounded. */
export function pivots(plan: usize, x: usize, begin: usize, end: usize): void {
  pivotsOf<f64>(changetype<Plan>(plan), x, begin, end);
}

/**
 * Computes the sums of channels for plans of float64, or of float32 with an activation. The sums of float64 are those
 * of the core's `sums`, compensated. The sums of float32 are Σ dz and Σ dz·d, where dz = dy·f′(d·scale + shift) has the
 * coefficients of map 0.
 * @param operation float64: 0, moments; 1, gradients; 2 more, to sum again about better pivots. float32: 1, gradients;
 *   3, f64 sums of gradients. 8 more: positions have weights.
 * @param activation float64: 0. float32: 1, 2 or 4. Not read with weights.
 * @param parameters With weights the address of their rows, `f64[outer·(inner + 3)]` for moments and `T[…]` for gradients.
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
  if (operation & WEIGHTED) sumWeighted(p, x, dy, parameters, bool(operation & GRADIENTS), begin, end);
  else if (p.elementBytes == 8) {
    if (operation & GRADIENTS) sumUnits<f64, Gradients, Identity>(p, operation, x, dy, 0, begin, end);
    else sumUnits<f64, Moments, Identity>(p, operation, x, 0, 0, begin, end);
  } else if (activation == RELU) sumUnits<f32, Gradients, Relu>(p, operation, x, dy, parameters, begin, end);
  else if (activation == LEAKY_RELU) sumUnits<f32, Gradients, LeakyRelu>(p, operation, x, dy, parameters, begin, end);
  else sumUnits<f32, Gradients, Relu6>(p, operation, x, dy, parameters, begin, end);
}

/**
 * Turns sums of float64 into mean, variance and invStd, or into dGamma and dBeta, which are the same fields of the plan
 * as in the core. Moves the pivot of an unreliable channel to its mean.
 * @param operation As for `sums`.
 * @param epsilon Read by operations 0 and 2.
 * @returns the number of unreliable channels; if it is not 0, all channels need operation 2 of `sums` and then of
 *   `statistics`
 */
export function statistics(plan: usize, operation: i32, epsilon: f64, begin: usize, end: usize): usize {
  return readSums<f64>(changetype<Plan>(plan), operation, epsilon, begin, end);
}

/** Computes the rows of coefficients of the map of this number, for elements of type T. */
function rowsOf<T>(p: Plan, map: i32, gamma: usize, beta: usize, count: f64, begin: usize, end: usize): void {
  if (map == GRADIENT) gradientRows<T>(p, gamma, beta, count, Lanes.accumulatesInF64<T>(), begin, end);
  else if (map == CONSTANT_GRADIENT) affineRows<T>(p, gamma, 0, true, begin, end);
  else if (map == SCALED_GRADIENT) scaledGradientRows<T>(p, gamma, count, begin, end);
  else if (map == COMBINATION) broadcastRows<T>(5, p);
  else affineRows<T>(p, gamma, beta, false, begin, end);
}

/**
 * Computes the rows of coefficients of a map from the plan's vectors, for plans of float32 or float64.
 * @param map 0, 1 and 2 as in the core; map 1 of float32 is for an activation and has a fifth row, extra, the shift of
 *   z. 3: the rows of dx if gamma differs among the values of one statistic; extra is gamma. 4: the caller has written
 *   the five rows, each `T[channels]` at the beginning of its row, and they are repeated over their columns.
 * @param count The number of values per channel that dGamma and dBeta sum over. Read by maps 1 and 3.
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
  if (p.elementBytes == 8) rowsOf<f64>(p, map, gamma, beta, count, begin, end);
  else rowsOf<f32>(p, map, gamma, beta, count, begin, end);
}

/**
 * Runs map M with the activation of this number: Relu, LeakyRelu, Relu6, or E for any other number. Maps of float64 have
 * Piecewise instead of the three.
 */
function mapActivated<T extends number, M extends Affine, E extends Identity>(
  p: Plan,
  activation: i32,
  x: usize,
  b: usize,
  c: usize,
  y: usize,
  parameters: usize,
  begin: usize,
  end: usize,
): void {
  if (sizeof<T>() == 8) {
    if (activation == SILU) mapUnits<T, M, E>(p, x, b, c, y, parameters, begin, end);
    else mapUnits<T, M, Piecewise>(p, x, b, c, y, parameters, begin, end);
  } else if (activation == RELU) mapUnits<T, M, Relu>(p, x, b, c, y, 0, begin, end);
  else if (activation == LEAKY_RELU) mapUnits<T, M, LeakyRelu>(p, x, b, c, y, parameters, begin, end);
  else if (activation == RELU6) mapUnits<T, M, Relu6>(p, x, b, c, y, 0, begin, end);
  else mapUnits<T, M, E>(p, x, b, c, y, parameters, begin, end);
}

/** Runs the map of this number on elements of type T. The core has the plain maps of float32. */
function mapOf<T extends number>(
  p: Plan,
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
  if (map == SCALED_GRADIENT) mapUnits<T, ScaledGradient, Identity>(p, x, b, 0, y, 0, begin, end);
  else if (map == PRODUCT) mapRows<T, Product, Identity>(p, x, b, 0, y, 0, begin, end);
  else if (map == COMBINATION) mapUnits<T, Combination, Identity>(p, x, b, c, y, 0, begin, end);
  else if (map == DERIVATIVE) mapActivated<T, Derivative, Silu>(p, activation, x, b, c, y, parameters, begin, end);
  else if (activation == NONE) mapUnits<T, AffineSum, Identity>(p, x, b, 0, y, 0, begin, end);
  else if (b || sizeof<T>() == 8 || activation == SILU)
    mapActivated<T, AffineSum, Silu>(p, activation, x, b, 0, y, parameters, begin, end);
  else mapActivated<T, Affine, Relu6>(p, activation, x, 0, 0, y, parameters, begin, end);
}

/**
 * Maps every element with the coefficients of its channel.
 * @param map 0: y = f(z + b), z = (x − hi)·scale + shift. 1: dx = ((x − hi)·xCoefficient + (dz + shift))·scale, dz =
 *   dy·f′((x − hi)·scale + extra); for float64 dz = dy; with weights dx = (w·((x − hi)·xCoefficient + shift) +
 *   dy)·scale. 2: dx = dy·scale, for statistics that are constants. 3: dx = ((x − hi)·xCoefficient + (dy·extra +
 *   shift))·scale. 4: y = (x − hi)·scale + b·xCoefficient + c·extra + shift. 5: dz = dy·f′(z + c). 6: y = z·b, for
 *   interleaved plans. The coefficients of maps 5 and 6 are those of map 0.
 * @param activation Map 0: 1 to 4, or with a residual 0 to 4; for float64 0 to 4. Map 1: 1, 2 or 4; for float64 0. Map 5:
 *   1 to 4. Other maps: 0.
 * @param x `T[outer·channels·inner]`, read. Map 2 takes dy here.
 * @param b `T[outer·channels·inner]`, read: the residual of map 0, or 0 for none; dy of maps 1, 3 and 5; a source of
 *   maps 4 and 6.
 * @param c `T[outer·channels·inner]`, read: the residual of map 5, or 0 for none; a source of map 4. Map 1: the weights,
 *   `T[outer·(inner + 3)]`, or 0 for none.
 * @param y `T[outer·channels·inner]`, written: y, dx or dz.
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
  if (map == GRADIENT && c) mapWeighted(p, x, b, c, y, begin, end);
  else if (p.elementBytes == 4) {
    if (map == GRADIENT) mapActivated<f32, Gradient, Relu6>(p, activation, x, b, 0, y, parameters, begin, end);
    else mapOf<f32>(p, map, activation, x, b, c, y, parameters, begin, end);
  } else if (map == GRADIENT) mapUnits<f64, Gradient, Identity>(p, x, b, 0, y, 0, begin, end);
  else if (map == CONSTANT_GRADIENT || (map == AFFINE && activation == NONE && !b))
    mapUnits<f64, Affine, Identity>(p, x, 0, 0, y, 0, begin, end);
  else mapOf<f64>(p, map, activation, x, b, c, y, parameters, begin, end);
}

/**
 * Converts elements [begin, end) of 16 bits to float32, exactly.
 * @param type 0: float16. 1: bfloat16.
 * @param source `u16[end]`, read.
 * @param target `f32[end]`, written. Not `source`.
 * @param begin First element.
 * @param end End of the elements.
 */
export function widen(type: i32, source: usize, target: usize, begin: usize, end: usize): void {
  if (type) widenFrom<BFloat16>(source, target, begin, end);
  else widenFrom<Float16>(source, target, begin, end);
}

/**
 * Rounds elements [begin, end) of float32 to 16 bits, to the nearest, ties to even.
 * @param type 0: float16. 1: bfloat16.
 * @param source `f32[end]`, read.
 * @param target `u16[end]`, written. Not `source`.
 * @param begin First element.
 * @param end End of the elements.
 */
export function narrow(type: i32, source: usize, target: usize, begin: usize, end: usize): void {
  if (type) narrowTo<BFloat16>(source, target, begin, end);
  else narrowTo<Float16>(source, target, begin, end);
}
