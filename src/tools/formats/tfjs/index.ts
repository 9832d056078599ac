// Batch norms of a TF.js model: model.json, of a layers model or a graph model, with its shards.

import { wrongFile } from "../../../common/errors.ts";
import { isArray, isObject } from "../../../common/validate.ts";
import type { BatchNormRecord } from "../../batch-norm-record.ts";
import { batchNormsAmong } from "../../named-batch-norms.ts";
import { type ByteSource, readJson } from "../../source.ts";
import { readGraph } from "./graph.ts";
import { type BatchNormConfig, batchNormConfigs } from "./layers.ts";
import { type ManifestTensor, openWeights } from "./weights.ts";

type Fields = Readonly<Record<string, unknown>>;

/** Returns the configuration of the layer to which a prefix of weights belongs, which may have prefixes of its own. */
function takeConfig(configs: Map<string, BatchNormConfig>, prefix: string): BatchNormConfig | undefined {
  for (let path = prefix; ; path = path.slice(path.indexOf("/") + 1)) {
    const config = configs.get(path);
    configs.delete(path);
    if (config || !path.includes("/")) return config;
  }
}

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
      "other JSON",
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

  const records = await batchNormsAmong(tensors, "tfjs", file);
  const topology = nested ?? modelTopology;
  const list = topology ? batchNormConfigs(file, topology) : [];
  const configs = new Map(list.map((config) => [config.name, config]));
  const shapes = new Map(tensors.map(({ name, shape }) => [name, shape]));
  const byConfig = new Map<BatchNormConfig, BatchNormRecord>();
  const others: BatchNormRecord[] = [];
  for (const record of records) {
    const config = takeConfig(configs, record.name);
    const before = config?.before;
    const kernel = before?.type === "DepthwiseConv2D" ? shapes.get(`${before.name}/depthwise_kernel`) : undefined;
    const channels = kernel?.length === 4 ? (kernel[2] as number) * (kernel[3] as number) : undefined;
    const complete: BatchNormRecord = {
      ...record,
      convention: "tfjs",
      ...config,
      name: record.name,
      ...(before && channels !== undefined && { before: { ...before, channels } }),
    };
    if (config) byConfig.set(config, complete);
    else others.push(complete);
  }
  // layers without values in the weights
  for (const config of configs.values())
    byConfig.set(config, {
      ...{ ...config, format: "tfjs", convention: "tfjs", channels: 0, dtype: "unknown" },
      problems: ["it has no values in the weights"],
    });
  return [...list.flatMap((config) => byConfig.get(config) ?? []), ...others];
}
