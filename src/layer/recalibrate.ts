// Population statistics afterwards: the running statistics anew, from batches that pass through layers whose parameters
// stay as they are (torch.optim.swa_utils.update_bn, fvcore's PreciseBN). docs/population.md says when and why.

import { wrongKind, wrongValue } from "../common/errors.ts";
import { checkKeys } from "../common/validate.ts";
import { Tensor, type TensorLike } from "../memory/tensor.ts";
import type { Dtype } from "../tensor/dtype.ts";
import { BatchNorm, type RecalibrationSession } from "./batch-norm.ts";
import { type Estimator, estimatorOption } from "./options.ts";

export interface RecalibrateOptions<B> {
  /**
   * How batches become statistics. "population" (default): all values weigh the same, whatever the sizes of their batches,
   * as in PreciseBN; "cumulative": all batches weigh the same, as in update_bn; or any other of a layer's estimators.
   */
  estimator?: Estimator;
  /** Runs the network that the layers are part of on a batch; may return a promise. Default: the layer itself. */
  forward?: (batch: B) => unknown;
}

/**
 * Estimates the running statistics of layers anew from batches: inputs of the one layer or, with `forward`, whatever
 * that takes. Layers collect what passes through them in mode "train", which is their default mode meanwhile. `batches` is
 * iterable or async iterable, and is gone through once; what it yields it may dispose of when it is asked for the next.
 *
 * The promise resolves when the statistics are in place, in the arrays that runningMean and runningVariance are;
 * batchesTracked is then the number of batches. Parameters, mode and what backward needs are as before. Where anything
 * throws, the promise is rejected and all layers keep the statistics that they had. Until it is settled, layers must not
 * be used otherwise.
 *
 * Rejects with TypeError for wrong arguments and layers without running statistics, with RangeError where a layer saw no
 * batch, and with whatever batches and forward throw.
 */
export async function recalibrate<D extends Dtype, B = TensorLike<D>>(
  layers: BatchNorm<D> | readonly BatchNorm<D>[],
  batches: Iterable<B> | AsyncIterable<B>,
  options: RecalibrateOptions<B> = {},
): Promise<void> {
  checkKeys("recalibrate options", options, ["estimator", "forward"]);
  const estimator = estimatorOption(options.estimator, "population");
  const all = new Set<unknown>(Array.isArray(layers) ? layers : [layers]);
  const [only] = all;
  if (all.size === 0) throw wrongValue("layers", "at least one BatchNorm", layers);
  for (const layer of all) if (!(layer instanceof BatchNorm)) throw wrongKind("layers", "BatchNorm", layer);
  if (!isIterable(batches)) throw wrongKind("batches", "an iterable or async iterable of batches", batches);
  const { forward } = options;
  if (forward !== undefined && typeof forward !== "function") throw wrongKind("forward", "a function", forward);
  if (!forward && all.size > 1) throw wrongKind("forward", "a function, since there are several layers", forward);

  const run =
    forward ??
    ((batch: B) => {
      const y = (only as BatchNorm<D>).forward(batch as TensorLike<D>);
      if (y instanceof Tensor) y.dispose();
    });
  const sessions: RecalibrationSession[] = [];
  try {
    for (const layer of all) sessions.push((layer as BatchNorm<D>).beginRecalibration(estimator));
    for await (const batch of batches) await run(batch);
    if (sessions.some(({ batches: count }) => count === 0))
      throw wrongValue("batches", 'at least one that passes through every layer in mode "train"', "none");
    for (const session of sessions) session.commit();
  } finally {
    for (const session of sessions) session.end();
  }
}

const isIterable = (value: unknown): boolean =>
  typeof value === "object" && value !== null && (Symbol.iterator in value || Symbol.asyncIterator in value);
