// The layers of a model of TF.js, those in nested models and wrappers included, and which of them are batch norms.
//
// A program may have several copies of TF.js's classes. So layers are known by their properties, not by `instanceof`.

import type { Tensor } from "@tensorflow/tfjs-core";
import type { LayersModel, LayerVariable } from "@tensorflow/tfjs-layers";
import { disposed, wrongKind } from "../common/errors.ts";
import type { BatchNormFields } from "./batch-norm-layer.ts";

export type Layer = LayersModel["layers"][number];

/** Fields of layers that contain others. */
interface Containing {
  /** The layers of a model. */
  readonly layers?: readonly Layer[];
  /** The layer of a wrapper such as TimeDistributed. Bidirectional only copies it. */
  readonly layer?: Layer;
  readonly forwardLayer?: Layer;
  readonly backwardLayer?: Layer;
}

/** Returns whether a value is a model of TF.js's layers. */
export const isModel = (value: unknown): value is LayersModel => {
  const { layers, inputs, outputs } = (value ?? {}) as Partial<LayersModel>;
  return [layers, inputs, outputs].every(Array.isArray);
};

/**
 * Returns a layer, and all layers inside of it at any depth, with their names. The name of a layer inside of another one
 * is behind that one's and a slash; the first name is left out. A layer that is reached twice is returned once.
 */
export function layersOf(root: Layer): Map<Layer, string> {
  const found = new Map<Layer, string>();
  const visit = (layer: Layer, path: string): void => {
    if (found.has(layer)) return;
    found.set(layer, path);
    const { layers = [], layer: wrapped, forwardLayer, backwardLayer } = layer as Containing;
    for (const inner of [...layers, ...(forwardLayer ? [forwardLayer, backwardLayer] : [wrapped])])
      if (inner) visit(inner, path ? `${path}/${inner.name}` : inner.name);
  };
  visit(root, "");
  return found;
}

/** Returns whether a layer has the fields of TF.js's batch norm. A program's own class may have the same name. */
export function hasBatchNormFields(layer: Layer): boolean {
  const { axis, momentum, epsilon, movingMean, movingVariance } = layer as Layer & Partial<BatchNormFields>;
  const isVariable = (v: LayerVariable | undefined) => typeof v?.read === "function";
  return [axis, momentum, epsilon].every(Number.isFinite) && [movingMean, movingVariance].every(isVariable);
}

/** Returns whether a layer is disposed of, or a model. The weights of a model are those of its layers. */
const isDisposed = (layer: Layer): boolean =>
  (layer as unknown as { _refCount: number | null })._refCount === 0 ||
  (!isModel(layer) && layer.weights.some((weight) => (weight as unknown as { val: Tensor }).val.isDisposed));

/** Throws TypeError for what is no LayersModel, and BatchNormError if it or one of its layers is disposed of. */
export function checkModel(model: unknown): asserts model is LayersModel {
  if (!isModel(model)) throw wrongKind("model", "a LayersModel, as tf.loadLayersModel returns it", model);
  for (const [layer, path] of layersOf(model))
    if (isDisposed(layer)) throw disposed(path ? `layer "${path}"` : "model");
}
