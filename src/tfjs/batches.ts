// Batches of tensors that programs have in several forms: one tensor after the other, or a dataset of tf.data.

import { dispose, Tensor, type TensorContainer } from "@tensorflow/tfjs-core";
import { wrongKind } from "../common/errors.ts";
import { hasAny } from "../common/validate.ts";

/** What this library needs of a dataset of tf.data. Its elements belong to the program that asks for them. */
interface DatasetLike {
  iterator(): Promise<{ next(): Promise<IteratorResult<TensorContainer>> }>;
}

/** The input of a model: a tensor, or one tensor for each of the model's inputs. */
export type Input = Tensor | Tensor[];

/** An input, alone or with its targets as `fitDataset` takes them. */
export type Batch = Input | { readonly xs: Input };

/** Batches one after the other. Those of a tf.data dataset are disposed of when the next one is asked for. */
export type Batches = Iterable<Batch> | AsyncIterable<Batch> | { iterator(): Promise<unknown> };

/** Returns the tensors of a batch. Throws TypeError with `name` for anything else. */
export function inputOf(name: string, batch: unknown): Input {
  const input = hasAny(batch, "xs") ? (batch as { xs: unknown }).xs : batch;
  const tensors = [input].flat();
  if (tensors.length === 0 || !tensors.every((t) => t instanceof Tensor))
    throw wrongKind(name, "a tensor, a list of tensors, or { xs }", batch);
  return input as Input;
}

/**
 * Calls `visit` with every batch, and waits for it. Throws TypeError for batches that are no tensors, and any error that
 * `batches` or `visit` throws.
 */
export async function forEachBatch(
  name: string,
  batches: Batches,
  visit: (batch: Input) => Promise<void>,
): Promise<void> {
  if (typeof batches === "object" && hasAny(batches, "iterator")) {
    const iterator = await (batches as DatasetLike).iterator();
    for (let next = await iterator.next(); !next.done; next = await iterator.next())
      try {
        await visit(inputOf(name, next.value));
      } finally {
        dispose(next.value);
      }
    return;
  }
  if (!hasAny(batches, Symbol.iterator, Symbol.asyncIterator))
    throw wrongKind(name, "a tf.data dataset, or an iterable of batches", batches);
  for await (const batch of batches as AsyncIterable<Batch>) await visit(inputOf(name, batch));
}
