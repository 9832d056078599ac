// Folds a layers model of TF.js, model.json and its shards, in the TF.js of the user's project, by foldModel of
// batchnorm-wasm/tfjs.

import type { LayersModel } from "@tensorflow/tfjs-layers";
import { asIs, wrongFile } from "../common/errors.ts";
import { isObject } from "../common/validate.ts";
import { openTfjs, type TfjsModel } from "../tools/formats/tfjs/index.ts";
import type { ByteSource, FoldReport } from "../tools/index.ts";
import type { Tfjs } from "./tfjs.ts";

/** A layers model before and after folding. */
export interface FoldedLayersModel {
  readonly before: LayersModel;
  readonly after: LayersModel;
  readonly report: FoldReport;
  /** The files of the new model by their paths relative to its folder, without model.json. */
  readonly shards: ReadonlyMap<string, Uint8Array>;
  /** The content of its model.json. */
  readonly json: string;
}

/** The size of a shard in bytes. Browsers cache files of 4 MiB (tensorflowjs_converter, --weight_shard_size_bytes). */
const SHARD = 2 ** 22;

/** A weight as it is written: its entry in the manifest, and its bytes. */
interface Weight {
  readonly entry: Readonly<Record<string, unknown>>;
  readonly bytes: Uint8Array;
}

/** Throws BatchNormError "model-file" for what is no layers model. */
function checkKind({ file, topology }: TfjsModel): void {
  const refuse = (got: string, remedy: string) =>
    wrongFile(file, "modelTopology", "a layers model's", asIs(got), remedy);
  if (!isObject(topology)) throw refuse("none", "name a model.json that has more than weights");
  if ("node" in topology)
    throw refuse(
      "a graph model's",
      "TensorFlow's converter has folded what it could, and inspect lists what is left; convert a model of Keras with " +
        "--output_format=tfjs_layers_model, and fold that",
    );
}

/** The longest text of TF.js that an error contains. TF.js writes whole configurations into some. */
const MAX_TEXT = 400;

const refusedByTfjs = (file: string, message: string) =>
  wrongFile(file, "the model", "one that TF.js loads", asIs("an error"), `TF.js says: ${message.slice(0, MAX_TEXT)}`);

/** Loads a model in TF.js. Throws BatchNormError "model-file" if TF.js cannot. */
async function load({ layers }: Tfjs, { file, topology, tensors }: TfjsModel): Promise<LayersModel> {
  const weightData = Buffer.concat(await Promise.all(tensors.map((tensor) => tensor.stored())));
  const artifacts = {
    modelTopology: topology,
    weightSpecs: tensors.map(({ entry }) => entry),
    weightData: Uint8Array.from(weightData).buffer,
  };
  try {
    // what is wrong in the artifacts is TF.js's to say
    return await layers.loadLayersModel({ load: async () => artifacts as never });
  } catch (error) {
    const { message } = error as Error;
    const [, kind, name] = /^Unknown ([\w ]+): ([^\s]+?)\.?\s/.exec(message) ?? [];
    if (kind === undefined) throw refusedByTfjs(file, message);
    throw wrongFile(
      file,
      "the model",
      `every ${kind} of a class that TF.js knows`,
      name,
      "write it in JavaScript with getConfig(), register it by tf.serialization.registerClass in a file, and run the program " +
        'with NODE_OPTIONS="--import ./FILE.mjs"',
    );
  }
}

/** Returns the bytes of a model's weights by the names under which TF.js saves them. */
async function weightsOf(model: LayersModel) {
  const weights = new Map<string, Weight>();
  for (const weight of model.weights) {
    const { dtype, shape } = weight;
    const value = weight.read() as ReturnType<LayersModel["getWeights"]>[number];
    const { buffer, byteOffset, byteLength } = await value.data();
    weights.set(weight.originalName, {
      entry: { name: weight.originalName, shape, dtype },
      bytes: new Uint8Array(buffer, byteOffset, byteLength),
    });
  }
  return weights;
}

/**
 * Returns the weights of the folded model as they are written. One that has not changed is what the file has, also if that is
 * quantised. All others are float32. Names stay.
 */
async function newWeights({ tensors }: TfjsModel, before: LayersModel, after: LayersModel): Promise<Weight[]> {
  const originals = await weightsOf(before);
  // TF.js takes a weight with the name of its cell, as "lstm/lstm_cell/kernel", for "lstm/kernel" (Container.loadWeights)
  const nameInTfjs = (name: string) => (originals.has(name) ? name : name.replace(/[^/]+\/([^/]+)$/, "$1"));
  const stored = new Map(tensors.map((tensor) => [nameInTfjs(tensor.name), tensor]));
  const weights: Weight[] = [];
  for (const [name, weight] of await weightsOf(after)) {
    const [tensor, original] = [stored.get(name), originals.get(name)];
    const isSame = original !== undefined && Buffer.compare(original.bytes, weight.bytes) === 0;
    if (tensor && isSame) weights.push({ entry: tensor.entry, bytes: await tensor.stored() });
    else weights.push({ ...weight, entry: { ...weight.entry, name: tensor?.name ?? name } });
  }
  return weights;
}

/** Returns the shards of weights, whose names begin with `stem`, and the manifest that names them. */
function shardsOf(weights: readonly Weight[], stem: string) {
  const bytes = Buffer.concat(weights.map((weight) => weight.bytes));
  const count = Math.max(1, Math.ceil(bytes.length / SHARD));
  const shards = new Map(
    Array.from({ length: count }, (_, i) => [
      `${stem}-shard${i + 1}of${count}.bin`,
      bytes.subarray(i * SHARD, (i + 1) * SHARD),
    ]),
  );
  return { shards, manifest: [{ paths: [...shards.keys()], weights: weights.map(({ entry }) => entry) }] };
}

/**
 * Folds a layers model. Everything in model.json but the topology and the manifest stays as it is. If no batch norm can be
 * folded, the topology and the weights stay, too. The names of shards begin with `stem`. Throws BatchNormError "model-file" for a
 * file that is no layers model, and for one that TF.js cannot load.
 */
export async function foldTfjs(tfjs: Tfjs, source: ByteSource, stem: string): Promise<FoldedLayersModel> {
  const file = await openTfjs(source);
  checkKind(file);
  const before = await load(tfjs, file);
  const { model: after, report: outcomes } = await tfjs.library.foldModel(before).catch((error: Error) => {
    throw refusedByTfjs(file.file, error.message); // of a layer that its own getConfig() cannot make again
  });
  const folded = outcomes.flatMap(({ name, outcome, into, expectedError }) =>
    outcome === "kept" ? [] : [{ batchNorm: name, into, direction: outcome, expectedError }],
  );
  const kept = outcomes.flatMap(({ name, outcome, reason }) =>
    outcome === "kept" ? [{ batchNorm: name, reason }] : [],
  );
  const isNew = folded.length > 0;
  const weights = isNew
    ? await newWeights(file, before, after)
    : await Promise.all(file.tensors.map(async (tensor) => ({ entry: tensor.entry, bytes: await tensor.stored() })));
  const modelTopology = isNew ? after.toJSON(undefined, false) : file.topology;
  const { shards, manifest } = shardsOf(weights, stem);
  const json = JSON.stringify({ ...file.fields, modelTopology, weightsManifest: manifest });
  return { before, after, report: { folded, kept }, shards, json };
}
