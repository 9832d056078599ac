// The phases over a plan, for any type of elements, operation, map and activation. core.ts and extended.ts choose the
// types. A range [begin, end) counts units, which are independent of each other, so that several threads can take one
// range each:
//
//   sums   planar: channels.    interleaved: stripes, or by column: blocks of columns, stripe by stripe
//   map    planar: channels.    interleaved: rows

import { Identity, Piecewise } from "./kernels/activations";
import { gradientStatistics, momentStatistics } from "./kernels/channels";
import { Lanes } from "./kernels/lanes";
import { Affine, mapPlanar, mapRows } from "./kernels/maps";
import { Blocked4, Blocked64, InF64, Moments, sumColumns, sumPlanar, sumRows } from "./kernels/sums";
import { BLOCKED_64, firstColumn, IN_F64, Plan } from "./plan";

/** The number of the operation that sums gradients. Moments are 0. */
export const GRADIENTS: i32 = 1;
/**
 * Added to the number of an operation, it has sums taken again: f64 sums for float32, about better pivots for float64.
 */
export const AGAIN: i32 = 2;
/** Added to the number of an operation, it has `sums` of the second module weight the positions. */
export const WEIGHTED: i32 = 8;
/** The number of an operation that only `statistics` has: it computes invStd from the plan's variance. */
export const INV_STD: i32 = 4;

/** The numbers of the maps. */
export const AFFINE: i32 = 0;
export const GRADIENT: i32 = 1;
export const CONSTANT_GRADIENT: i32 = 2;
export const SCALED_GRADIENT: i32 = 3;
export const COMBINATION: i32 = 4;
export const DERIVATIVE: i32 = 5;
export const PRODUCT: i32 = 6;

/** The numbers of the activations. */
export const NONE: i32 = 0;
export const RELU: i32 = 1;
export const LEAKY_RELU: i32 = 2;
export const SILU: i32 = 3;
export const RELU6: i32 = 4;

/**
 * Sums blocks of columns [begin, end): in blocks of four rows if `blocked`, which needs P to be Blocked4, else in f64.
 * Blocks of columns are counted through all stripes.
 */
function sumColumnBlocks<T extends number, S extends Moments, E extends Identity, P extends Blocked64>(
  plan: Plan,
  x: usize,
  dy: usize,
  parameters: usize,
  begin: usize,
  end: usize,
  blocked: bool,
): void {
  const blocks = plan.columnBlocks;
  while (begin < end) {
    const stripe = begin / blocks;
    const first = stripe * blocks;
    const last = min(end, first + blocks);
    sumColumns<T, S, E, P>(
      plan,
      x,
      dy,
      parameters,
      stripe,
      firstColumn(plan, begin - first),
      firstColumn(plan, last - first),
      blocked,
    );
    begin = last;
  }
}

/** Computes f64 sums of units [begin, end) of float32. */
function sumUnitsInF64<T extends number, S extends Moments, E extends Identity>(
  plan: Plan,
  x: usize,
  dy: usize,
  parameters: usize,
  begin: usize,
  end: usize,
): void {
  if (plan.planar) sumPlanar<T, S, E, InF64>(plan, x, dy, parameters, begin, end);
  // one loop for both precisions keeps the core small; with activations the kernels of f64 sums are others
  else if (changetype<E>(<usize>0).needsInput)
    sumColumnBlocks<T, S, E, InF64>(plan, x, dy, parameters, begin, end, false);
  else sumColumnBlocks<T, S, E, Blocked4>(plan, x, dy, parameters, begin, end, false);
}

/** Computes Σ u and Σ u·d of units [begin, end), in the plan's precision. With AGAIN, sums of float32 are f64 sums. */
export function sumUnits<T extends number, S extends Moments, E extends Identity>(
  plan: Plan,
  operation: i32,
  x: usize,
  dy: usize,
  parameters: usize,
  begin: usize,
  end: usize,
): void {
  if (Lanes.accumulatesInF64<T>()) {
    const precision = operation & AGAIN ? IN_F64 : plan.precision;
    if (precision == IN_F64) {
      // few channels are summed in f64, so one kernel for all activations is fast enough
      if (changetype<E>(<usize>0).needsInput) sumUnitsInF64<T, S, Piecewise>(plan, x, dy, parameters, begin, end);
      else sumUnitsInF64<T, S, E>(plan, x, dy, parameters, begin, end);
      return;
    }
    if (precision != BLOCKED_64) {
      if (plan.planar) sumPlanar<T, S, E, Blocked4>(plan, x, dy, parameters, begin, end);
      else sumColumnBlocks<T, S, E, Blocked4>(plan, x, dy, parameters, begin, end, true);
      return;
    }
  }
  if (plan.planar) sumPlanar<T, S, E, Blocked64>(plan, x, dy, parameters, begin, end);
  else for (let stripe = begin; stripe < end; ++stripe) sumRows<T, S, E>(plan, x, dy, parameters, stripe);
}

/**
 * Turns the sums of channels [begin, end) into statistics. Returns the number of channels that have to be summed again.
 */
export function readSums<T>(plan: Plan, operation: i32, epsilon: f64, begin: usize, end: usize): usize {
  const inF64 = Lanes.accumulatesInF64<T>() && (operation & AGAIN || plan.precision == IN_F64);
  const byColumn = inF64 || plan.byColumn;
  const columns = (byColumn ? plan.period : plan.columns) * plan.stripes;
  const unreliable =
    operation & GRADIENTS
      ? gradientStatistics<T>(plan, columns, begin, end)
      : momentStatistics<T>(plan, columns, epsilon, begin, end);
  // f64 sums are the most precise ones
  return operation & AGAIN || inF64 ? 0 : unreliable;
}

/** Runs map M with activation E on units [begin, end). */
export function mapUnits<T extends number, M extends Affine, E extends Identity>(
  plan: Plan,
  x: usize,
  b: usize,
  c: usize,
  y: usize,
  parameters: usize,
  begin: usize,
  end: usize,
): void {
  if (plan.planar) mapPlanar<T, M, E>(plan, x, b, c, y, parameters, begin, end);
  else mapRows<T, M, E>(plan, x, b, c, y, parameters, begin, end);
}
