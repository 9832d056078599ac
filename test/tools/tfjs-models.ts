// TF.js models as files in memory: what TF.js itself saves, cut into shards, and graphs.

import * as tf from "@tensorflow/tfjs-core";
import type { LayersModel } from "@tensorflow/tfjs-layers";
import { bytesSource } from "../../src/tools/index.ts";

const utf8 = new TextEncoder();

/** A model.json as an object that a test can change. */
// biome-ignore lint/suspicious/noExplicitAny: JSON of any content, which tests break on purpose
export type Json = any;

export interface Files {
  readonly model: Json;
  readonly shards: Record<string, Uint8Array>;
}

/** Cuts the bytes of weights into shards, whose ends are inside of elements. */
function cut(bytes: Uint8Array, size: number): Record<string, Uint8Array> {
  const count = Math.max(1, Math.ceil(bytes.length / size));
  return Object.fromEntries(
    Array.from({ length: count }, (_, i) => [
      `group1-shard${i + 1}of${count}.bin`,
      bytes.slice(i * size, (i + 1) * size),
    ]),
  );
}

export function filesOf(modelTopology: Json, weights: Json[], bytes: Uint8Array, shardSize = 1001): Files {
  const shards = cut(bytes, shardSize);
  return { model: { modelTopology, weightsManifest: [{ paths: Object.keys(shards), weights }] }, shards };
}

/** Returns the files that TF.js saves of a model. */
export async function saved(model: LayersModel, shardSize?: number): Promise<Files> {
  let files: Files | undefined;
  await model.save(
    tf.io.withSaveHandler(async ({ modelTopology, weightSpecs, weightData }) => {
      const bytes = new Uint8Array(tf.io.CompositeArrayBuffer.join(weightData as ArrayBuffer));
      files = filesOf(modelTopology, JSON.parse(JSON.stringify(weightSpecs)), bytes, shardSize);
      return { modelArtifactsInfo: { dateSaved: new Date(0), modelTopologyType: "JSON" } };
    }),
  );
  return files as Files;
}

export const sourceOf = ({ model, shards }: Files, name = "model.json") =>
  bytesSource(name, utf8.encode(JSON.stringify(model)), shards);

/** A weight of a graph: its name, shape and values. */
export type GraphWeight = readonly [name: string, shape: readonly number[], values: ArrayLike<number>];

export function graphFiles(nodes: Json[], weights: readonly GraphWeight[]): Files {
  const values = weights.flatMap(([, , numbers]) => Array.from(numbers));
  const consts = weights.map(([name]) => ({ name, op: "Const", attr: { dtype: { type: "DT_FLOAT" } } }));
  return filesOf(
    { node: [...consts, ...nodes], versions: {} },
    weights.map(([name, shape]) => ({ name, shape, dtype: "float32" })),
    new Uint8Array(Float32Array.from(values).buffer),
  );
}
