// Batch normalization as operations on TF.js's tensors. This library's kernels compute where they or JavaScript reach the
// elements (differentiable.ts). Elsewhere TF.js's operations do (composed.ts).

import { clone, keep, type Tensor, tensor, tensor1d, tidy } from "@tensorflow/tfjs-core";
import { oneValueInOperation, wrongKind } from "../common/errors.ts";
import { checkKeys } from "../common/validate.ts";
import { batchNormForward, batchNormInference as inference } from "../ops/batch-norm.ts";
import type { BatchStatistics } from "../ops/statistics.ts";
import {
  type BatchNormOptions,
  checkVector,
  type Prepared,
  prepare,
  type Scale,
  type Statistics,
} from "./arguments.ts";
import { composeBatch, composeInference, type StatisticsOnDevice } from "./composed.ts";
import { constantly } from "./constant.ts";
import { differentiable, type Forward } from "./differentiable.ts";

/** What becomes of a batch's statistics. One of the functions is called, unless the batch is empty. */
export interface Observer {
  /** Receives statistics in float64. Their count is 0 for a batch that is masked completely. */
  elements(statistics: BatchStatistics): void;
  /** Receives statistics as tensors, which are disposed of after the call. TF.js does not differentiate inside of it. */
  tensors(statistics: StatisticsOnDevice): void;
  /** Is called if the batch has one value per channel, whose y is beta. Without it, normalizeBatch throws. */
  one?(masked: boolean): void;
}

/** The number of positions of a batch that count. */
const positionsOf = ({ x, view }: Prepared, weights: ArrayLike<number> | undefined): number => {
  if (!weights) return x.size / view.channels;
  let positions = 0;
  for (let i = 0; i < weights.length; i++) if (weights[i]) positions++;
  return positions;
};

/** Normalises x by its own statistics, which `observer` receives, and returns y. */
export function normalizeBatch(x: Tensor, parameters: Scale, options: BatchNormOptions, observer: Observer): Tensor {
  const prepared = prepare(x, parameters, options);
  const { mask, epsilon, view, access } = prepared;
  const composed = access.memory === "composed";
  // on a device, only the device knows how many positions a mask leaves
  const weights = composed ? undefined : mask?.dataSync();
  const positions = positionsOf(prepared, weights);
  if (positions === 1) {
    if (!observer.one) throw oneValueInOperation(x.shape, mask !== undefined);
    observer.one(mask !== undefined);
    return constantly(prepared);
  }
  if (x.size === 0) return constantly(prepared);
  if (composed) return composeBatch(prepared, (statistics) => observer.tensors(statistics));
  const settings = { layout: view.layout, epsilon, ...(weights ? { mask: weights } : {}) };
  const forward: Forward = (input, vectors) => {
    const { mean, variance, count, ...result } = batchNormForward(input, vectors, settings);
    observer.elements({ count, mean, variance });
    return result;
  };
  return differentiable(prepared, forward, (inputs) => {
    // the program may have disposed of the mask
    const again = weights && tensor(weights, mask?.shape, "float32");
    return composeBatch({ ...prepared, ...inputs, mask: again }, () => {});
  });
}

/**
 * Normalises x by its own statistics (Ioffe & Szegedy 2015, Alg. 1). tf.layers.batchNormalization computes the same in
 * training, with tf.moments and tf.batchNorm. x has any rank and its channels on any axis; gamma and beta are [C].
 *
 * Returns y in x's shape, and the mean and biased variance, [C] each. y can be differentiated any number of times with respect to x,
 * gamma and beta; mean and variance are constants in gradients. The computation is in float32, and tensors of other
 * types are cast. An empty batch gives an empty y and statistics of zeros.
 *
 * Throws TypeError or RangeError for wrong arguments, and BatchNormError if a channel has one value only or a tensor is
 * disposed of.
 */
export function batchNorm(x: Tensor, scale: Scale = {}, options: BatchNormOptions = {}): { y: Tensor } & Statistics {
  checkKeys("scale", scale, ["gamma", "beta"]);
  return tidy(() => {
    const statistics: Tensor[] = [];
    const y = normalizeBatch(x, scale, options, {
      elements: ({ mean, variance }) => {
        for (const values of [mean, variance]) statistics.push(keep(tensor1d(new Float32Array(values))));
      },
      tensors: ({ mean, variance }) => {
        for (const values of [mean, variance]) statistics.push(keep(clone(values)));
      },
    });
    const channels = y.shape.at(options.axis ?? -1) as number;
    // kept tensors outlive the caller's tidy, and their clones do not
    const [mean = tensor1d(new Float32Array(channels)), variance = mean.clone()] = statistics.map((kept) => {
      const tensor = clone(kept);
      kept.dispose();
      return tensor;
    });
    return { y, mean, variance };
  });
}

/**
 * Normalises x by given statistics and returns y in x's shape (tf.batchNorm). x has any rank and its channels on any
 * axis; gamma, beta, mean and variance are [C]. y can be differentiated with respect to x, gamma and beta; mean and
 * variance are constants in gradients, so that dx = gamma·invStd·dy. The computation is in float32, and tensors of
 * other types are cast.
 *
 * Throws TypeError or RangeError for wrong arguments, and BatchNormError if a tensor is disposed of.
 */
export function batchNormInference(
  x: Tensor,
  parameters: Scale & Statistics,
  options: Omit<BatchNormOptions, "mask"> = {},
): Tensor {
  checkKeys("parameters", parameters, ["gamma", "beta", "mean", "variance"]);
  checkKeys("options", options, ["axis", "epsilon"]);
  return tidy(() => {
    const { mean, variance, ...affine } = parameters;
    const prepared = prepare(x, affine, options);
    const { view, epsilon, access } = prepared;
    const vector = (name: string, value: Tensor) => {
      const t = checkVector(name, value, view.channels);
      if (!t) throw wrongKind(name, "a tf.Tensor", value);
      return t;
    };
    const given = { mean: vector("mean", mean), variance: vector("variance", variance) };
    if (access.memory === "composed") {
      if (x.size === 0) return constantly(prepared);
      return composeInference(prepared, given);
    }
    const read = (t: Tensor) => t.dataSync() as Float32Array;
    const statistics = { mean: read(given.mean), variance: read(given.variance) };
    const settings = { layout: view.layout, epsilon };
    return differentiable(
      prepared,
      (input, vectors) => inference(input, { ...vectors, ...statistics }, settings),
      (inputs) =>
        composeInference(
          { ...prepared, ...inputs },
          { mean: tensor1d(statistics.mean), variance: tensor1d(statistics.variance) },
        ),
    );
  });
}
