// The topology of a Keras model, as TF.js and Keras save it in JSON: the batch norms' configurations, and the layer before
// each.

import { wrongFile } from "../../../common/errors.ts";
import { isArray, isObject } from "../../../common/validate.ts";
import type { BatchNormRecord, LayerBefore } from "../../batch-norm-record.ts";

/** Models inside models deeper than this are refused. */
const MAX_DEPTH = 32;

/** Names of a layer of batch norm. Those with a number are tf.keras's. */
const BATCH_NORM = /^(Sync)?BatchNormalization(V[12])?$/;
/** Layers into which a batch norm can be folded, and the rank of their outputs, where the class says it. */
const FOLDABLE: Readonly<Record<string, number | undefined>> = {
  Conv1D: 3,
  Conv2D: 4,
  Conv3D: 5,
  Conv2DTranspose: 4,
  Conv3DTranspose: 5,
  SeparableConv1D: 3,
  SeparableConv2D: 4,
  DepthwiseConv2D: 4,
  Dense: undefined,
};

type Fields = Readonly<Record<string, unknown>>;
const fieldsOf = (value: unknown): Fields => (isObject(value) ? (value as Fields) : {});

/** A layer of a topology. */
interface Layer {
  readonly name: string;
  readonly type: string;
  readonly config: Fields;
  /** The names of the layers whose outputs it gets, for each of its calls. */
  readonly inputs: readonly (readonly string[])[];
}

/** What a topology says of one batch norm. */
export interface BatchNormLayer {
  /** The names of the models and wrappers around it and its own, with "/" between them; the outermost model has none. */
  readonly path: string;
  /** The name of the wrapper around it, which Keras 2 gives its variables instead of its own. */
  readonly wrapper: string | undefined;
  /** Its folder in a weights file of Keras 3, such as "layers/sequential/layers/batch_normalization_1". */
  readonly folder: string;
  /** The names of its variables, in the order of a weights file of Keras 3. */
  readonly variables: readonly string[];
  readonly config: Pick<BatchNormRecord, "name" | "epsilon" | "momentum" | "axis" | "before">;
}

/** Where a model stands in the topology. */
interface Place {
  readonly depth: number;
  /** As of a BatchNormLayer, with "/" behind it unless it is empty. */
  readonly path: string;
  readonly folder: string;
  /** The name of a wrapper, which has one layer. */
  readonly wrapper: string | undefined;
}

/** Returns the layers named in a call: [name, node, tensor, …] in Keras 2, objects with keras_history in Keras 3. */
function namesIn(call: unknown, depth = 0): string[] {
  if (depth > MAX_DEPTH) return [];
  if (isArray(call)) {
    const [first] = call;
    return typeof first === "string" ? [first] : call.flatMap((item) => namesIn(item, depth + 1));
  }
  const { keras_history: history, args, config } = fieldsOf(call);
  if (isArray(history)) return namesIn(history, depth + 1);
  return [args, config].flatMap((inner) => (inner === undefined ? [] : namesIn(inner, depth + 1)));
}

/** Returns the layers of one model, without those inside them, and how often each output is used. */
function layersOf(file: string, model: Fields): { layers: Layer[]; uses: Map<string, number> } {
  const { config } = model;
  const list = isArray(config) ? config : fieldsOf(config).layers;
  if (!isArray(list)) throw wrongFile(file, "modelTopology", "a model with a list of layers", list);
  const uses = new Map<string, number>();
  const layers: Layer[] = [];
  for (const value of list) {
    const { class_name: type, config, name, inbound_nodes: calls } = fieldsOf(value);
    const fields = fieldsOf(config);
    const label = typeof name === "string" ? name : fields.name;
    if (typeof type !== "string") throw wrongFile(file, "modelTopology", "layers with a class_name", type);
    const previous = layers.at(-1);
    const isChain = model.class_name === "Sequential";
    const inputs = isChain
      ? previous
        ? [[previous.name]]
        : []
      : isArray(calls)
        ? calls.map((call) => namesIn(call))
        : [];
    for (const input of inputs.flat()) uses.set(input, (uses.get(input) ?? 0) + 1);
    layers.push({ name: typeof label === "string" ? label : "", type, config: fields, inputs });
  }
  for (const output of namesIn(fieldsOf(config).output_layers)) uses.set(output, (uses.get(output) ?? 0) + 1);
  return { layers, uses };
}

const numberOf = (value: unknown) => (typeof value === "number" ? value : undefined);

/** Returns the axis of a batch norm: a number, or a list of one as tf.keras saves it. */
const axisOf = ({ axis }: Fields) => numberOf(isArray(axis) && axis.length === 1 ? axis[0] : axis);

/** Returns an axis from the first on. */
const fromFirst = (axis: number, rank: number) => (axis < 0 ? axis + rank : axis);

function beforeOf(layer: Layer, uses: number): LayerBefore {
  const { name, type, config } = layer;
  if (!Object.hasOwn(FOLDABLE, type)) return { name, type };
  const rank = FOLDABLE[type];
  const channels = numberOf(type === "Dense" ? config.units : type === "DepthwiseConv2D" ? undefined : config.filters);
  return {
    name,
    type,
    ...(channels !== undefined && { channels }),
    ...(rank !== undefined && { axis: config.data_format === "channels_first" ? 1 : rank - 1 }),
    isFoldable: uses === 1 && [undefined, null, "linear"].includes(config.activation as string | null | undefined),
  };
}

/** Returns the name that Keras 3 makes of a class for its weights files (`to_snake_case` of keras/src/utils/naming.py). */
const snakeCase = (name: string) =>
  name
    .replace(/\W+/g, "")
    .replace(/(.)([A-Z][a-z]+)/g, "$1_$2")
    .replace(/([a-z])([A-Z])/g, "$1_$2")
    .toLowerCase();

/** Returns the folders of a model's layers: their classes, with a number from the second one of a class on. */
function foldersOf(layers: readonly Layer[], { folder, wrapper }: Place): string[] {
  const used = new Map<string, number>();
  return layers.map(({ type }) => {
    const name = snakeCase(type);
    const count = used.get(name) ?? 0;
    used.set(name, count + 1);
    return wrapper !== undefined ? `${folder}layer` : `${folder}layers/${name}${count ? `_${count}` : ""}`;
  });
}

/** Returns the names of a batch norm's variables, of which gamma and beta may be left out. */
const variablesOf = ({ scale, center }: Fields) => [
  ...(scale === false ? [] : ["gamma"]),
  ...(center === false ? [] : ["beta"]),
  ...["moving_mean", "moving_variance"],
];

/**
 * Returns what a topology says of its batch norms, in the order of the layers, those in models and wrappers inside it
 * included. An axis counts from the first where the layer before says the rank. Throws BatchNormError "model-file" for a
 * topology that is no model.
 */
export function batchNormLayers(
  file: string,
  topology: unknown,
  place: Place = { depth: 0, path: "", folder: "", wrapper: undefined },
): BatchNormLayer[] {
  const { depth } = place;
  if (depth > MAX_DEPTH) throw wrongFile(file, "modelTopology", `at most ${MAX_DEPTH} models inside each other`, depth);
  const { layers, uses } = layersOf(file, fieldsOf(topology));
  const byName = new Map(layers.map((layer) => [layer.name, layer]));
  const folders = foldersOf(layers, place);
  return layers.flatMap(({ name, type, config, inputs }, i): BatchNormLayer[] => {
    const path = place.path + name;
    const folder = folders[i] as string;
    const inside = { depth: depth + 1, path: `${path}/`, folder: `${folder}/` };
    if (isArray(config.layers) || type === "Sequential")
      return batchNormLayers(file, { class_name: type, config }, { ...inside, wrapper: undefined });
    if (config.layer !== undefined)
      return batchNormLayers(file, { class_name: "Sequential", config: [config.layer] }, { ...inside, wrapper: name });
    if (!BATCH_NORM.test(type)) return [];
    const [epsilon, momentum, axis] = [numberOf(config.epsilon), numberOf(config.momentum), axisOf(config)];
    // a layer that is called twice follows two layers
    const only = inputs.length === 1 && inputs[0]?.length === 1 ? byName.get(inputs[0][0] as string) : undefined;
    const before = only && beforeOf(only, uses.get(only.name) ?? 0);
    const rank = before?.axis === undefined ? undefined : FOLDABLE[before.type];
    return [
      {
        ...{ path, folder, wrapper: place.wrapper, variables: variablesOf(config) },
        config: {
          name,
          ...(epsilon !== undefined && { epsilon }),
          ...(momentum !== undefined && { momentum }),
          ...(axis !== undefined && { axis: rank === undefined ? axis : fromFirst(axis, rank) }),
          ...(before && { before }),
        },
      },
    ];
  });
}
