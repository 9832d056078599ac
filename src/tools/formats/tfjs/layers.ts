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
export type BatchNormConfig = Pick<BatchNormRecord, "name" | "epsilon" | "momentum" | "axis" | "before">;

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

/**
 * Returns what a topology says of its batch norms, in the order of the layers, those in models and wrappers inside it
 * included. An axis counts from the first where the layer before says the rank. Throws BatchNormError "model-file" for a
 * topology that is no model.
 */
export function batchNormConfigs(file: string, topology: unknown, depth = 0): BatchNormConfig[] {
  if (depth > MAX_DEPTH) throw wrongFile(file, "modelTopology", `at most ${MAX_DEPTH} models inside each other`, depth);
  const { layers, uses } = layersOf(file, fieldsOf(topology));
  const byName = new Map(layers.map((layer) => [layer.name, layer]));
  return layers.flatMap(({ name, type, config, inputs }): BatchNormConfig[] => {
    if (isArray(config.layers) || type === "Sequential")
      return batchNormConfigs(file, { class_name: type, config }, depth + 1);
    if (config.layer !== undefined)
      return batchNormConfigs(file, { class_name: "Sequential", config: [config.layer] }, depth + 1);
    if (!BATCH_NORM.test(type)) return [];
    const [epsilon, momentum, axis] = [numberOf(config.epsilon), numberOf(config.momentum), axisOf(config)];
    // a layer that is called twice follows two layers
    const only = inputs.length === 1 && inputs[0]?.length === 1 ? byName.get(inputs[0][0] as string) : undefined;
    const before = only && beforeOf(only, uses.get(only.name) ?? 0);
    const rank = before?.axis === undefined ? undefined : FOLDABLE[before.type];
    return [
      {
        name,
        ...(epsilon !== undefined && { epsilon }),
        ...(momentum !== undefined && { momentum }),
        ...(axis !== undefined && { axis: rank === undefined ? axis : fromFirst(axis, rank) }),
        ...(before && { before }),
      },
    ];
  });
}
