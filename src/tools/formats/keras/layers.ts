// Batch norms of a model of Keras or TF.js: the values of named tensors, and what the topology says of their layers.

import type { BatchNormRecord } from "../../batch-norm-record.ts";
import { batchNormsAmong, type NamedTensor } from "../../named-batch-norms.ts";
import type { BatchNormLayer } from "./topology.ts";

/** The layers of a topology, each of which is found once by the prefix of its weights. */
class Layers {
  /** Layers by path, by name and by the name of their wrapper, in the order in which these are tried. */
  readonly #maps: readonly ReadonlyMap<string | undefined, BatchNormLayer>[];
  readonly #left: Set<BatchNormLayer>;

  constructor(layers: readonly BatchNormLayer[]) {
    const keys = [
      ({ path }: BatchNormLayer) => path,
      ({ config }: BatchNormLayer) => config.name,
      ({ wrapper }: BatchNormLayer) => wrapper,
    ];
    this.#maps = keys.map((key) => new Map(layers.map((layer) => [key(layer), layer])));
    this.#left = new Set(layers);
  }

  /** The layers that no prefix has found. */
  get left(): ReadonlySet<BatchNormLayer> {
    return this.#left;
  }

  /** Returns the layer to which a prefix of weights belongs, which may have prefixes of its own. */
  take(prefix: string): BatchNormLayer | undefined {
    for (let path = prefix; ; path = path.slice(path.indexOf("/") + 1)) {
      for (const map of this.#maps) {
        const layer = map.get(path);
        if (layer && this.#left.delete(layer)) return layer;
      }
      if (!path.includes("/")) return undefined;
    }
  }
}

/**
 * Returns the batch norms among tensors with the configurations of their layers, in the order of the layers, then those that no
 * layer has. A layer without values in the tensors has that as its problem.
 */
export async function batchNormsOfLayers(
  file: string,
  format: "tfjs" | "keras",
  tensors: readonly NamedTensor[],
  layers: readonly BatchNormLayer[],
): Promise<BatchNormRecord[]> {
  const records = await batchNormsAmong(tensors, format, file);
  const open = new Layers(layers);
  const shapes = new Map(tensors.map(({ name, shape }) => [name, shape]));
  const byLayer = new Map<BatchNormLayer, BatchNormRecord>();
  const others: BatchNormRecord[] = [];
  for (const record of records) {
    const layer = open.take(record.name);
    const before = layer?.config.before;
    const kernel = before?.type === "DepthwiseConv2D" ? shapes.get(`${before.name}/depthwise_kernel`) : undefined;
    const channels = kernel?.length === 4 ? (kernel[2] as number) * (kernel[3] as number) : undefined;
    const complete: BatchNormRecord = {
      ...record,
      convention: format,
      ...layer?.config,
      name: record.name,
      ...(before && channels !== undefined && { before: { ...before, channels } }),
    };
    if (layer) byLayer.set(layer, complete);
    else others.push(complete);
  }
  for (const layer of open.left)
    byLayer.set(layer, {
      ...{ ...layer.config, format, convention: format, channels: 0, dtype: "unknown" },
      problems: ["it has no values in the weights"],
    });
  return [...layers.flatMap((layer) => byLayer.get(layer) ?? []), ...others];
}
