// Models of Keras: HDF5 files of Keras 1 and 2 (model.save("x.h5"), save_weights), and Keras 3's archives (.keras) and weights
// files (.weights.h5).
//
// Keras 1 and 2 give every layer a group, in which datasets have the names of variables: model_weights/bn/bn/gamma:0. Keras 3
// numbers the variables of a layer, and makes names of groups from the layers' classes: layers/batch_normalization/vars/0. The
// group "vars" has the name of the layer as an attribute, since 3.8. The source is keras/src/saving/saving_lib.py and
// keras/src/legacy/saving/legacy_h5_format.py.

import { wrongFile } from "../../../common/errors.ts";
import { type SafetensorsDtype, tensorOf } from "../../../interop/safetensors.ts";
import { floatsOf } from "../../../tensor/half.ts";
import type { BatchNormRecord } from "../../batch-norm-record.ts";
import type { StoredTensor } from "../../named-batch-norms.ts";
import { type ByteSource, readJson, readRange } from "../../source.ts";
import { type Hdf5Dataset, type Hdf5Object, readHdf5 } from "./hdf5.ts";
import { batchNormsOfLayers } from "./layers.ts";
import { type BatchNormLayer, batchNormLayers } from "./topology.ts";
import { openZip } from "./zip.ts";

/** A model of Keras: its tensors, whose values have not been read, and the batch norms of its topology. */
export interface KerasModel {
  readonly file: string;
  readonly tensors: readonly StoredTensor[];
  /** Empty for a file of weights alone. */
  readonly layers: readonly BatchNormLayer[];
  /** What hinders the use of batch norms, by their names. */
  readonly problems: ReadonlyMap<string, string>;
}

/** Opens a model of Keras. Throws BatchNormError "model-file" for a file that breaks the format. */
export async function openKeras(source: ByteSource): Promise<KerasModel> {
  const { name: file, size } = source;
  const [first] = await readRange(source, "the beginning", 0, Math.min(1, size));
  if (first === 0x50) {
    const archive = await openZip(source);
    const topology = await readJson(await archive.file("config.json"));
    const layers = batchNormLayers(file, topology);
    const objects = await readHdf5(await archive.file("model.weights.h5"));
    return { file, layers, ...(await numbered(objects, layers)) };
  }
  const objects = await readHdf5(source);
  const text = await objects[0]?.text("model_config");
  const layers = text === undefined ? [] : batchNormLayers(file, parsed(file, text));
  const isNumbered = objects.some(({ path, dataset }) => dataset && NUMBERED.test(path));
  return { file, layers, ...(isNumbered ? await numbered(objects, layers) : named(objects)) };
}

/** Returns the batch norms of a model of Keras, in the order of its layers, or of the file if it has weights alone. */
export async function readKerasBatchNorms(source: ByteSource): Promise<BatchNormRecord[]> {
  return kerasBatchNorms(await openKeras(source));
}

/** Returns the batch norms of an open model, as readKerasBatchNorms does. */
export async function kerasBatchNorms({ file, tensors, layers, problems }: KerasModel): Promise<BatchNormRecord[]> {
  const records = await batchNormsOfLayers(file, "keras", tensors, layers);
  return records.map((record) => {
    const problem = problems.get(record.name);
    return problem === undefined ? record : { ...record, problems: [...(record.problems ?? []), problem] };
  });
}

function parsed(file: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (reason) {
    throw wrongFile(file, "model_config", "JSON", (reason as Error).message);
  }
}

type Tensors = Pick<KerasModel, "tensors" | "problems">;

/** Returns the tensors of Keras 1 and 2 under the names of their variables, as TF.js's converter names them. */
function named(objects: readonly Hdf5Object[]): Tensors {
  const layers = new Set(
    objects.flatMap(({ path, attributes }) => (attributes.some((name) => /^weight_names/.test(name)) ? [path] : [])),
  );
  const found = objects.flatMap(({ path, dataset }) => {
    if (!dataset) return [];
    const variable = path.replace(/:0$/, "");
    let layer = path;
    while (layer && !layers.has(layer)) layer = layer.slice(0, Math.max(0, layer.lastIndexOf("/")));
    if (layer === "" || /^optimizer_weights(\/|$)/.test(path)) return [{ name: variable, full: variable, dataset }];
    const name = variable.slice(layer.length + 1);
    const label = layer.replace(/^model_weights\//, "");
    return [{ name, full: name.startsWith(`${label}/`) ? name : `${label}/${name}`, dataset }];
  });
  const times = countOf(found.map(({ name }) => name));
  // models inside a model may have layers of one name
  const tensors = found.map(({ name, full, dataset }) => tensorFrom(times.get(name) === 1 ? name : full, dataset));
  return { tensors, problems: new Map() };
}

/** A variable of Keras 3: the folder of its layer, and its number. */
const NUMBERED = /^(?:(.*)\/)?vars\/(\d+)$/;
/** Folders and automatic names of batch norms. */
const AUTOMATIC = /^(sync_)?batch_normalization(_\d+)?$/;

/** The names of a batch norm's variables by their number, where no topology tells which it has. */
const WITHOUT_TOPOLOGY: Readonly<Record<number, readonly (string | undefined)[]>> = {
  2: ["moving_mean", "moving_variance"],
  3: [undefined, "moving_mean", "moving_variance"],
  4: ["gamma", "beta", "moving_mean", "moving_variance"],
};

/**
 * Returns the tensors of Keras 3: those of batch norms under the names of their layers and variables, all others under their
 * paths in the file. Without a topology, batch norms are known by the name of their class.
 */
async function numbered(objects: readonly Hdf5Object[], layers: readonly BatchNormLayer[]): Promise<Tensors> {
  const counts = countOf(objects.flatMap(({ path, dataset }) => (dataset ? (NUMBERED.exec(path)?.[1] ?? []) : [])));
  const known = new Map<string, { path: string; variables: readonly (string | undefined)[] }>();
  for (const { path, folder, variables } of layers)
    if ((counts.get(folder) ?? 0) >= variables.length) known.set(folder, { path, variables });
  const problems = new Map<string, string>();
  if (layers.length === 0) {
    const names = await layerNames(objects);
    for (const [folder, count] of counts) {
      const variables = WITHOUT_TOPOLOGY[count];
      const last = folder.slice(folder.lastIndexOf("/") + 1);
      if (!variables || ![last, names.get(folder) ?? ""].some((name) => AUTOMATIC.test(name))) continue;
      known.set(folder, { path: pathOf(folder, names), variables });
    }
  }
  const times = countOf([...known.values()].map(({ path }) => path));
  const tensors = objects.flatMap(({ path, dataset }) => {
    if (!dataset) return [];
    const [, folder = "", number] = NUMBERED.exec(path) ?? [];
    const layer = known.get(folder);
    if (!layer || number === undefined) return [tensorFrom(path, dataset)];
    const name = times.get(layer.path) === 1 ? layer.path : folder;
    const variable = layer.variables[Number(number)];
    if (layer.variables[0] === undefined)
      problems.set(name, "it has three variables, and without a topology the first may be gamma or beta");
    return [tensorFrom(`${name}/${variable ?? number}`, dataset)];
  });
  return { tensors, problems };
}

/** Returns the names of layers by their folders, where the file has them. */
async function layerNames(objects: readonly Hdf5Object[]): Promise<Map<string, string>> {
  const names = new Map<string, string>();
  for (const { path, text } of objects) {
    if (!path.endsWith("/vars")) continue;
    const folder = path.slice(0, -"/vars".length);
    names.set(folder, (await text("name")) ?? folder.slice(folder.lastIndexOf("/") + 1));
  }
  return names;
}

/** Returns the names of the models and wrappers around a folder and its own, with "/" between them. */
function pathOf(folder: string, names: ReadonlyMap<string, string>): string {
  const parts = folder.split("/");
  return parts.flatMap((_, i) => names.get(parts.slice(0, i + 1).join("/")) ?? []).join("/");
}

/** Returns how often each text occurs. */
function countOf(texts: readonly string[]): Map<string, number> {
  const times = new Map<string, number>();
  for (const text of texts) times.set(text, (times.get(text) ?? 0) + 1);
  return times;
}

/** Returns a dataset as a tensor with a name. */
function tensorFrom(name: string, { shape, size, type: { name: dtype, type }, read }: Hdf5Dataset): StoredTensor {
  return {
    ...{ name, shape, dtype, type, size },
    bytes: read,
    async floats() {
      if (!/^(F64|F32|F16|BF16)$/.test(type ?? "")) return undefined;
      const entry = { name, label: name, dtype: type as SafetensorsDtype, shape, begin: 0, end: size };
      const { data } = tensorOf(await read(0, size), 0, entry);
      return Float64Array.from(floatsOf(data, type as SafetensorsDtype) as ArrayLike<number>);
    },
    count: async () => Number.NaN, // Keras counts no batches
  };
}
