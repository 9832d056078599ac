// Batch norms of a TF.js model: model.json, of a layers model or a graph model, with its shards.

import { asIs, wrongFile } from "../../../common/errors.ts";
import { isArray, isObject } from "../../../common/validate.ts";
import type { BatchNormRecord } from "../../batch-norm-record.ts";
import { type ByteSource, readJson } from "../../source.ts";
import { batchNormsOfLayers } from "../keras/layers.ts";
import { batchNormLayers } from "../keras/topology.ts";
import { readGraph } from "./graph.ts";
import { type ManifestTensor, openWeights } from "./weights.ts";

type Fields = Readonly<Record<string, unknown>>;

/** A TF.js model: the tensors of its shards, whose values have not been read, and its topology as it stands there. */
export interface TfjsModel {
  readonly file: string;
  readonly tensors: readonly ManifestTensor[];
  readonly topology: unknown;
  /** All fields of model.json. */
  readonly fields: Fields;
}

/**
 * Opens a TF.js model or a manifest of weights alone, which some packages ship. Throws BatchNormError "model-file" for a file
 * that breaks the format.
 */
export async function openTfjs(source: ByteSource): Promise<TfjsModel> {
  const { name: file } = source;
  const model = await readJson(source);
  const fields = (isArray(model) ? { weightsManifest: model } : model) as Fields;
  const { modelTopology, weightsManifest } = fields;
  if (weightsManifest === undefined)
    throw wrongFile(
      file,
      "the file",
      "a TF.js model with weightsManifest",
      asIs("other JSON"),
      "name the model.json of a TF.js model",
    );
  const tensors = await openWeights(source, weightsManifest);
  return { file, tensors, topology: modelTopology, fields };
}

/**
 * Returns the batch norms of a TF.js model, in the order of its layers or nodes. Throws BatchNormError "model-file" for a
 * topology that breaks the format.
 */
export async function readTfjsBatchNorms(source: ByteSource): Promise<BatchNormRecord[]> {
  return tfjsBatchNorms(await openTfjs(source));
}

/** Returns the batch norms of an open model, as readTfjsBatchNorms does. */
export async function tfjsBatchNorms({
  file,
  tensors,
  topology: modelTopology,
}: TfjsModel): Promise<BatchNormRecord[]> {
  const { model_config: nested, node } = (isObject(modelTopology) ? modelTopology : {}) as Fields;
  if (node !== undefined) return readGraph(file, node, tensors);

  const topology = nested ?? modelTopology;
  return batchNormsOfLayers(file, "tfjs", tensors, topology ? batchNormLayers(file, topology) : []);
}
