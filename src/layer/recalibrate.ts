// New running statistics after training: batches pass through layers with fixed parameters, and their statistics
// replace the running ones (torch.optim.swa_utils.update_bn, fvcore's PreciseBN). docs/guides/recalibration.md explains when this
// is needed.

import { LOST, missing, wrongKind, wrongValue } from "../common/errors.ts";
import { Strict } from "../common/strict.ts";
import { checkKeys, hasAny, isArray, isObject } from "../common/validate.ts";
import { Tensor, type TensorLike } from "../memory/tensor.ts";
import type { Dtype } from "../tensor/dtype.ts";
import { BatchNorm, type RecalibrationSession } from "./batch-norm.ts";
import { type Estimator, estimatorOption } from "./options.ts";

/** Options of recalibrate. */
export interface RecalibrateOptions<B> {
  /** Rule by which batches count. Default "population": all values weigh the same (PreciseBN). */
  estimator?: Estimator;
  /** Runs the network on a batch, also asynchronously. Default, for one layer: the batch is its input. */
  forward?: (batch: B) => unknown;
}

/**
 * Replaces the running statistics of layers by statistics of these batches (torch.optim.swa_utils.update_bn, fvcore's
 * PreciseBN). A batch is an input of the one layer or, with the option `forward`, an argument of that function, during
 * which the layers' mode is "train". It may be disposed of when the next one is asked for. With "population", a batch
 * may have one value per channel, whose y is beta.
 *
 * Afterwards batchesTracked is the number of batches; parameters, mode and pending backward are as before. If the
 * promise is rejected, all layers have their old statistics. Do not use the layers in other ways before the promise is
 * settled.
 *
 * Rejects with TypeError for wrong arguments, BatchNormError for layers without running statistics, RangeError if no
 * batch or only one value per channel passed through a layer, and any error that `batches` or `forward` throws.
 */
export async function recalibrate<D extends Dtype, B = TensorLike<D>>(
  layers: BatchNorm<D, boolean, boolean> | readonly BatchNorm<D, boolean, boolean>[],
  batches: Iterable<B> | AsyncIterable<B>,
  options: RecalibrateOptions<B> = {},
): Promise<void> {
  checkKeys("recalibrate options", options, ["estimator", "forward"]);
  const estimator = estimatorOption(options.estimator, "population");
  const distinct = new Set<unknown>(isArray(layers) ? layers : [layers]);
  const [first] = distinct;
  if (distinct.size === 0) throw wrongValue("layers", "at least one BatchNorm", layers);
  for (const layer of distinct)
    if (!(isObject(layer) && layer instanceof BatchNorm)) throw wrongKind("layers", `BatchNorm (${LOST})`, layer);
  for (const layer of distinct) Strict.checkItself("layers", layer as object);
  if (!hasAny(batches, Symbol.iterator, Symbol.asyncIterator))
    throw wrongKind("batches", "an iterable or async iterable of batches", batches);
  const { forward } = options;
  if (forward !== undefined && typeof forward !== "function") throw wrongKind("forward", "a function", forward);
  if (!forward && distinct.size > 1) throw wrongKind("forward", "a function, since there are several layers", forward);

  const run = (batch: B) => {
    if (forward) return forward.call(options, batch); // forward may be a method of the object
    const y = (first as BatchNorm<D>).forward(batch as TensorLike<D>);
    return y instanceof Tensor ? y.dispose() : undefined;
  };
  const sessions: RecalibrationSession[] = [];
  try {
    for (const layer of distinct) sessions.push((layer as BatchNorm<D>).beginRecalibration(estimator));
    for await (const batch of batches) await run(batch);
    if (sessions.some((session) => session.batches === 0))
      throw missing("batches", 'at least one that passes through every layer in mode "train"');
    for (const { values } of sessions)
      if (values > 0 && values <= 1) throw wrongValue("batches", "more than 1 value per channel in all", values);
    for (const session of sessions) session.commit();
  } finally {
    for (const session of sessions) session.end();
  }
}
