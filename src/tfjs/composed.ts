// Batch normalization composed of TF.js's own operations, for backends whose elements are out of reach: on a GPU, or in
// another process. Nothing is read back. The statistics take two passes over x − pivot, where the pivot is a value of
// the channel: a constant channel is exactly 0 then, and the mean does not cancel.
//
// The gradient comes in two ways. The usual one takes the forward's statistics. Where TF.js records what the gradient
// does, since it will be differentiated itself, the statistics are computed again from x, so that the record has them.

import {
  add,
  batchNorm,
  cast,
  customGrad,
  div,
  engine,
  fill,
  type GradSaveFunc,
  greater,
  isFinite as isFiniteTensor,
  logicalOr,
  maximum,
  mean as meanOf,
  mul,
  reshape,
  rsqrt,
  Select,
  slice,
  square,
  squaredDifference,
  sub,
  sum,
  type Tensor,
  util,
  where,
  zerosLike,
} from "@tensorflow/tfjs-core";
import { around, type Prepared } from "./arguments.ts";

/** The statistics of a batch as tensors of the backend. */
export interface StatisticsOnDevice {
  /** The mean of every channel, [C]. */
  readonly mean: Tensor;
  /** The biased variance of every channel, [C]. */
  readonly variance: Tensor;
  /** Whether a mask leaves more than one position, a boolean without axes; undefined without a mask. */
  readonly enough: Tensor | undefined;
}

/** The shape in which TF.js's operations see x: [rows, C], [C, inner] or [outer, C, inner]. */
interface View {
  readonly shape: number[];
  /** Whether the channels are on the last axis. */
  readonly channelsLast: boolean;
  /** The shape in which x is summed over positions, and the axes of positions there. */
  readonly summed: number[];
  readonly axes: number[];
  /**
   * The shape of vectors of one value per channel beside x: [1, C] or [C, 1]. TF.js's kernels of webgpu for [C] beside x, as
   * for transposing [rows, C], synchronise threads. Without a GPU that takes 40 times as long (docs/guides/tfjs-backends.md).
   */
  readonly vector: number[];
  /** The shape of a value per position beside x. */
  readonly positions: number[];
  /** The shape of one value per channel of x. */
  readonly first: number[];
  /** The number of positions. */
  readonly count: number;
}

function viewOf({ x, axis, view: { channels } }: Prepared): View {
  const [outer, inner] = around(x.shape, axis);
  const count = outer * inner;
  if (inner === 1)
    return {
      shape: [outer, channels],
      channelsLast: true,
      summed: [1, outer, channels],
      axes: [1],
      vector: [1, channels],
      positions: [outer, 1],
      first: [1, channels],
      count,
    };
  const vector = [channels, 1];
  const [shape, axes, first] =
    outer === 1
      ? [[channels, inner], [1], vector]
      : [
          [outer, channels, inner],
          [0, 2],
          [1, channels, 1],
        ];
  const positions = outer === 1 ? [1, inner] : [outer, 1, inner];
  return { shape, channelsLast: false, summed: shape, axes, vector, positions, first, count };
}

/** Returns a tensor in another shape, or itself if it has that shape: a view costs a call of TF.js. */
const as = (t: Tensor, shape: number[]): Tensor => (util.arraysEqual(t.shape, shape) ? t : reshape(t, shape));

/** The weights of a mask. */
interface Weights {
  /** The weight of every position, in the view's shape of positions. */
  readonly weights: Tensor;
  /** Whether a position counts. */
  readonly counts: Tensor;
  /** The sum of the weights, or a tiny number where it is 0. */
  readonly total: Tensor;
  /** Whether more than one position counts. */
  readonly enough: Tensor;
  /** Whether any position counts, as 0 or 1. */
  readonly any: Tensor;
}

/** The smallest normal number of float32, which stands for a sum of no weights as a divisor. */
const TINY = 2 ** -126;

/** A variance whose inverse root is so small that it stands for 0. */
const HUGE = 2 ** 127;

function weightsOf(mask: Tensor, { positions }: View): Weights {
  const weights = cast(as(mask, positions), "float32");
  const counts = greater(weights, 0);
  const number = sum(cast(counts, "float32"));
  return {
    weights,
    counts,
    total: maximum(sum(weights), TINY),
    enough: greater(number, 1),
    any: cast(greater(number, 0), "float32"),
  };
}

/** The mean and the biased variance of every channel of a tensor, in the view's shape of vectors. */
interface Moments {
  readonly mean: Tensor;
  readonly variance: Tensor;
}

const sumOver = (t: Tensor, { summed, axes, vector }: View): Tensor => as(sum(as(t, summed), axes), vector);

const weightedMean = (t: Tensor, view: View, { weights, total }: Weights): Tensor =>
  div(sumOver(mul(t, weights), view), total);

function momentsOf(u: Tensor, view: View, mask: Weights | undefined, recorded: boolean): Moments {
  // TF.js's gradient of squaredDifference has a wrong shape where one of the two is broadcast
  const squares = (t: Tensor, mean: Tensor) => (recorded ? square(sub(t, mean)) : squaredDifference(t, mean));
  if (mask) {
    const counted = where(mask.counts, u, 0); // NaN times a weight of 0 would be NaN
    const mean = weightedMean(counted, view, mask);
    return { mean, variance: weightedMean(squares(counted, mean), view, mask) };
  }
  const average = (t: Tensor) => as(meanOf(as(t, view.summed), view.axes), view.vector);
  const mean = average(u);
  return { mean, variance: average(squares(u, mean)) };
}

/** The first value of every channel, or under a mask, the mean of those that count. */
const pivotOf = (x: Tensor, view: View, mask: Weights | undefined): Tensor =>
  mask
    ? weightedMean(where(mask.counts, x, 0), view, mask)
    : as(
        slice(
          x,
          view.shape.map(() => 0),
          view.first,
        ),
        view.vector,
      );

/** Returns tensors' elements where a condition holds, else those of others. All shapes are the same (tf.where). */
export const select = (condition: Tensor, t: Tensor, e: Tensor): Tensor =>
  engine().runKernel(Select, { condition, t, e });

/** Whether TF.js records operations now. */
export const isRecording = (): boolean => engine().state.gradientDepth > 0;

/** Returns a condition that TF.js does not record: it has no gradients of logical operations. */
const unrecorded = (condition: () => Tensor): Tensor =>
  customGrad(() => ({ value: condition(), gradFunc: () => [] }))();

/** How the maps of a call are computed. */
interface Maps {
  readonly view: View;
  readonly epsilon: number;
  /** Whether TF.js records the operations, to differentiate them. */
  readonly recorded: boolean;
}

/**
 * Returns (u − mean)·invStd·gamma + beta. With the channels on the last axis that is one kernel of TF.js, which it
 * cannot differentiate twice. On other axes TF.js's kernel is wrong on some backends.
 */
function map(u: Tensor, { mean, variance }: Moments, { view, epsilon, recorded }: Maps, gamma?: Tensor, beta?: Tensor) {
  // a constant channel has invStd = 0 where epsilon is 0
  const varies = () => unrecorded(() => greater(variance, 0));
  const safe = epsilon > 0 ? variance : select(varies(), variance, fill(variance.shape, HUGE));
  if (view.channelsLast && !recorded)
    return batchNorm(u as never, mean as never, safe as never, beta as never, gamma as never, epsilon) as Tensor;
  const invStd = rsqrt(add(safe, epsilon));
  const scaled = mul(sub(u, mean), gamma ? mul(invStd, gamma) : invStd);
  return beta ? add(scaled, beta) : scaled;
}

type Gradients = Readonly<Record<"dx" | "dGamma" | "dBeta", Tensor>>;

/** Returns the gradients by a batch's own statistics (docs/guides/masks-and-sequences.md has those under a mask). */
function batchGradients(
  dy: Tensor,
  u: Tensor,
  moments: Moments,
  mask: Weights | undefined,
  gamma: Tensor | undefined,
  maps: Maps,
): Gradients {
  const { view } = maps;
  const xHat = map(u, moments, maps);
  const product = mul(dy, xHat);
  if (!mask) {
    const [dBeta, dGamma] = [sumOver(dy, view), sumOver(product, view)];
    const z = sub(dy, mul(xHat, div(dGamma, view.count)));
    const dx = map(z, { mean: div(dBeta, view.count), variance: moments.variance }, maps, gamma);
    return { dx, dGamma, dBeta };
  }
  const { weights, counts, total, enough, any } = mask;
  // a masked position where x or dy is not finite counts nowhere but in its own dx
  const usable = unrecorded(() => logicalOr(counts, isFiniteTensor(product)));
  const dBeta = mul(sumOver(where(usable, dy, 0), view), any);
  const dGamma = where(enough, sumOver(where(usable, product, 0), view), 0);
  const statistics = add(dBeta, mul(where(counts, xHat, 0), dGamma));
  const z = sub(dy, mul(div(weights, total), statistics));
  const none = { mean: zerosLike(moments.mean), variance: moments.variance };
  return { dx: where(enough, map(z, none, maps, gamma), 0), dGamma, dBeta };
}

/** What both operations take of checked arguments. */
function partsOf(prepared: Prepared) {
  const { x, gamma, beta } = prepared;
  const view = viewOf(prepared);
  return {
    view,
    channels: prepared.view.channels,
    asVector: (t: Tensor | undefined) => t && as(t, view.vector),
    /** The tensors that have gradients. */
    inputs: [x, gamma, beta].filter((t) => t !== undefined),
  };
}

/** Returns y of a checked call that is normalised by its own statistics, which `receive` gets. */
export function composeBatch(prepared: Prepared, receive: (statistics: StatisticsOnDevice) => void): Tensor {
  const { x, gamma, beta, mask, epsilon } = prepared;
  const { view, channels, asVector, inputs } = partsOf(prepared);
  const operation = customGrad((...args: unknown[]) => {
    const save = args.pop() as GradSaveFunc;
    const maps = { view, epsilon, recorded: false };
    const input = as(x, view.shape);
    const weights = mask && weightsOf(mask, view);
    const pivot = pivotOf(input, view, weights);
    const u = sub(input, pivot);
    const moments = momentsOf(u, view, weights, false);
    receive({
      mean: as(add(pivot, moments.mean), [channels]),
      variance: as(moments.variance, [channels]),
      enough: weights?.enough,
    });
    save([pivot, moments.mean, moments.variance, x, ...(gamma ? [gamma] : []), ...(mask ? [mask] : [])]);
    const normalized = weights
      ? map(where(weights.enough, u, moments.mean), moments, maps, asVector(gamma), asVector(beta))
      : map(u, moments, maps, asVector(gamma), asVector(beta));
    return {
      value: as(normalized, x.shape),
      gradFunc: (dy: Tensor, saved: Tensor[]) => {
        const [pivot, mean, variance, x] = saved as [Tensor, Tensor, Tensor, Tensor];
        const [factor, given] = [gamma && saved[4], mask && saved.at(-1)];
        const weights = given && weightsOf(given, view);
        const recorded = isRecording();
        const u = sub(as(x, view.shape), pivot);
        const moments = recorded ? momentsOf(u, view, weights, true) : { mean, variance };
        const scale = asVector(factor);
        const upstream = as(dy, view.shape);
        const { dx, dGamma, dBeta } = batchGradients(upstream, u, moments, weights, scale, { view, epsilon, recorded });
        return [as(dx, x.shape), ...(gamma ? [as(dGamma, [channels])] : []), ...(beta ? [as(dBeta, [channels])] : [])];
      },
    };
  });
  return operation(...inputs);
}

/** Returns y of a checked call that is normalised by given statistics, [C] each, which are constants in gradients. */
export function composeInference(prepared: Prepared, given: Moments): Tensor {
  const { x, gamma, beta, epsilon } = prepared;
  const { view, channels, asVector, inputs } = partsOf(prepared);
  const operation = customGrad((...args: unknown[]) => {
    const save = args.pop() as GradSaveFunc;
    save([given.mean, given.variance, x, ...(gamma ? [gamma] : [])]);
    const momentsFrom = (mean: Tensor, variance: Tensor) => ({
      mean: as(mean, view.vector),
      variance: as(variance, view.vector),
    });
    // webgl copies the elements for a view whose last two axes are others, so x and the vectors stay as they are if they can
    const isTaken = view.channelsLast && x.rank >= 2 && x.rank <= 4 && epsilon > 0;
    const maps = { view, epsilon, recorded: false };
    const y = isTaken
      ? batchNorm(x as never, given.mean as never, given.variance as never, beta as never, gamma as never, epsilon)
      : map(as(x, view.shape), momentsFrom(given.mean, given.variance), maps, asVector(gamma), asVector(beta));
    return {
      value: as(y, x.shape),
      gradFunc: (dy: Tensor, [mean, variance, x, factor]: Tensor[]) => {
        const maps = { view, epsilon, recorded: isRecording() };
        const moments = momentsFrom(mean as Tensor, variance as Tensor);
        const upstream = as(dy, view.shape);
        const centred = { mean: zerosLike(moments.mean), variance: moments.variance };
        const dx = map(upstream, centred, maps, asVector(factor));
        const xHat = () => map(as(x as Tensor, view.shape), moments, maps);
        return [
          as(dx, prepared.x.shape),
          ...(gamma ? [as(sumOver(mul(upstream, xHat()), view), [channels])] : []),
          ...(beta ? [as(sumOver(upstream, view), [channels])] : []),
        ];
      },
    };
  });
  return operation(...inputs);
}
