// What TF.js's layer of batch norm and this library's have in common: fields, whether they train, and which masks they take.

import { broadcastTo, reshape, type Tensor } from "@tensorflow/tfjs-core";
import type { LayerVariable } from "@tensorflow/tfjs-layers";

/** Fields of the layer that TF.js's types declare private. */
export interface BatchNormFields {
  readonly axis: number;
  readonly momentum: number;
  readonly epsilon: number;
  readonly gamma?: LayerVariable;
  readonly beta?: LayerVariable;
  readonly movingMean: LayerVariable;
  readonly movingVariance: LayerVariable;
}

/**
 * Returns whether a layer normalises by its moving statistics in training, too. Freezing a model sets `trainable` of the
 * weights, not of the layer.
 */
export function isFrozen({ gamma, beta }: BatchNormFields, { trainable }: { readonly trainable: boolean }): boolean {
  const weights = [gamma, beta].filter((weight) => weight !== undefined);
  return !trainable || (weights.length > 0 && weights.every((weight) => !weight.trainable));
}

/**
 * Returns a model's mask with a value for every position of x, or undefined if there is none or it does not fit: Keras's masks
 * have the first axes of x, and the channels have to be on the last one.
 */
export function maskFor(x: Tensor, axis: number, mask: Tensor | undefined): Tensor | undefined {
  if (!mask) return undefined;
  const positions = x.shape.slice(0, -1);
  // a mask of samples and steps, say, masks all positions of a step
  const isPrefix = mask.rank < x.rank && mask.shape.every((size, i) => size === positions[i]);
  if (!isPrefix || (axis !== -1 && axis !== x.rank - 1)) return undefined;
  const inner = positions.slice(mask.rank).map(() => 1);
  return inner.length > 0 ? broadcastTo(reshape(mask, [...mask.shape, ...inner]), positions) : mask;
}
