// Batches of tensors that programs have in several forms: one tensor after the other, or a dataset of tf.data.

import { dispose, Tensor, type TensorContainer } from "@tensorflow/tfjs-core";
import { wrongKind, wrongValue } from "../common/errors.ts";
import { hasAny, isObject } from "../common/validate.ts";
import { checkTensor } from "./arguments.ts";

/** What this library needs of a dataset of tf.data. Its elements belong to the program that asks for them. */
interface DatasetLike {
  iterator(): Promise<{ next(): Promise<IteratorResult<TensorContainer>> }>;
}

/** The input of a model: a tensor, one tensor for each of the model's inputs in their order, or tensors by their names. */
export type Input = Tensor | Tensor[] | { readonly [inputName: string]: Tensor };

/** An input, alone or with its targets as `fitDataset` takes them. */
export type Batch = Input | { readonly xs: Input };

/** Batches one after the other. Those of a tf.data dataset are disposed of when the next one is asked for. */
export type Batches = Iterable<Batch> | AsyncIterable<Batch> | { iterator(): Promise<unknown> };

/** Returns the input of a batch: of { xs }, what is there. */
const inputOf = (batch: unknown): unknown =>
  !(batch instanceof Tensor) && hasAny(batch, "xs") ? (batch as { xs: unknown }).xs : batch;

/**
 * Returns the tensors of a batch as TF.js's fitDataset takes them: in the order of `inputs`, the names of a model's inputs.
 * Of tensors by names, those of other names are left out. Throws TypeError or RangeError with `name` for anything else, and
 * BatchNormError for tensors that are disposed of.
 */
export function tensorsOf(name: string, batch: unknown, inputs: readonly string[]): Tensor[] {
  const input = inputOf(batch);
  const isMap = isObject(input) && !(input instanceof Tensor);
  const list = isMap
    ? inputs.map((key) => {
        if (!hasAny(input, key))
          throw wrongValue(name, `a tensor for each of ${inputs.join(", ")}`, Object.keys(input));
        return (input as Record<string, unknown>)[key];
      })
    : [input].flat();
  const tensors = list.map((t) => {
    if (!(t instanceof Tensor)) throw wrongKind(name, "a tensor, a list of tensors, tensors by name, or { xs }", batch);
    return checkTensor(name, t);
  });
  if (tensors.length !== inputs.length)
    throw wrongValue(
      name,
      `a tensor for each of the model's inputs (${inputs.join(", ")}), those of one batch in a list of its own`,
      list,
    );
  return tensors;
}

/** Returns the only tensor of a batch. Throws as `tensorsOf`, and TypeError for several tensors. */
export function onlyTensorOf(name: string, batch: unknown): Tensor {
  const input = inputOf(batch);
  const list = isObject(input) && !(input instanceof Tensor) ? Object.values(input) : [input].flat();
  if (list.length !== 1) throw wrongKind(name, "batches of one tensor each", input);
  return tensorsOf(name, list, [name])[0] as Tensor;
}

/**
 * Calls `visit` with every batch, and waits for it. Throws TypeError if `batches` has none, and any error that `batches` or
 * `visit` throws.
 */
export async function forEachBatch(
  name: string,
  batches: Batches,
  visit: (batch: unknown) => Promise<void>,
): Promise<void> {
  if (typeof batches === "object" && hasAny(batches, "iterator")) {
    const iterator = await (batches as DatasetLike).iterator();
    for (let next = await iterator.next(); !next.done; next = await iterator.next())
      try {
        await visit(next.value);
      } finally {
        dispose(next.value);
      }
    return;
  }
  if (!hasAny(batches, Symbol.iterator, Symbol.asyncIterator))
    throw wrongKind(name, "a tf.data dataset, or an iterable of batches (a single batch x is [x])", batches);
  for await (const batch of batches as AsyncIterable<Batch>) await visit(batch);
}
