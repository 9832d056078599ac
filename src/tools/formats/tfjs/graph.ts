// The batch norms of a graph model of TF.js: the operators FusedBatchNorm, of TensorFlow's GraphDef in JSON.

import { wrongFile } from "../../../common/errors.ts";
import { isArray, isObject } from "../../../common/validate.ts";
import type { BatchNormRecord, LayerBefore } from "../../batch-norm-record.ts";
import { type NamedTensor, readVector } from "../../named-batch-norms.ts";

/** Operators that pass their first input on, through which a value is looked for. */
const PASSES = /^(Identity|ReadVariableOp|Enter)$/;
/** The most operators that are followed from an input to its value. */
const MAX_PASSES = 32;
/** The operator's default, by TensorFlow's definition. */
const EPSILON = 1e-4;

type Fields = Readonly<Record<string, unknown>>;
const fieldsOf = (value: unknown): Fields => (isObject(value) ? (value as Fields) : {});

interface Node {
  readonly name: string;
  readonly op: string;
  /** Names of nodes, without control inputs and the numbers of outputs. */
  readonly inputs: readonly string[];
  readonly attributes: Fields;
}

function nodesOf(file: string, list: unknown): Node[] {
  if (!isArray(list)) throw wrongFile(file, "modelTopology.node", "a list of nodes", list);
  return list.map((value) => {
    const { name, op, input = [], attr } = fieldsOf(value);
    if (typeof name !== "string" || typeof op !== "string" || !isArray(input))
      throw wrongFile(file, "modelTopology.node", "nodes with name, op and input", value);
    const inputs = input.filter((text) => typeof text === "string" && !text.startsWith("^"));
    return {
      name,
      op,
      inputs: inputs.map((text) => (text as string).replace(/:\d+$/, "")),
      attributes: fieldsOf(attr),
    };
  });
}

/** Returns a text attribute, which is in base64, or plain in files of other programs. */
function textOf(attribute: unknown): string {
  const { s } = fieldsOf(attribute);
  if (typeof s !== "string") return "";
  if (/^N[DCHW]+$/.test(s)) return s;
  try {
    return atob(s);
  } catch {
    return ""; // unknown, as if it were absent
  }
}

/** The names of the operator's inputs behind x. */
const VECTORS = ["gamma", "beta", "mean", "variance"] as const;

/** Returns the batch norms of a graph. Throws BatchNormError "model-file" for a graph that breaks the format. */
export async function readGraph(
  file: string,
  list: unknown,
  tensors: readonly NamedTensor[],
): Promise<BatchNormRecord[]> {
  const nodes = nodesOf(file, list);
  const byName = new Map(nodes.map((node) => [node.name, node]));
  const values = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const uses = new Map<string, number>();
  for (const { inputs } of nodes) for (const input of inputs) uses.set(input, (uses.get(input) ?? 0) + 1);

  const constant = (name: string | undefined): NamedTensor | undefined => {
    let node = byName.get(name ?? "");
    for (let i = 0; node && PASSES.test(node.op) && i < MAX_PASSES; i++) node = byName.get(node.inputs[0] ?? "");
    return node && values.get(node.name);
  };

  const before = (name: string | undefined): LayerBefore | undefined => {
    const input = byName.get(name ?? "");
    if (!input) return undefined;
    const hasBias = input.op === "BiasAdd";
    const convolution = hasBias ? (byName.get(input.inputs[0] ?? "") ?? input) : input;
    const { name: label, op, attributes } = convolution;
    const isDepthwise = op === "DepthwiseConv2dNative";
    if (op !== "Conv2D" && !isDepthwise) return { name: input.name, type: input.op };
    const shape = constant(convolution.inputs[1])?.shape;
    const [inputs = 0, outputs = 0] = shape?.slice(-2) ?? [];
    const once = [input, convolution].every((node) => uses.get(node.name) === 1);
    return {
      name: label,
      type: op,
      ...(shape?.length === 4 && { channels: isDepthwise ? inputs * outputs : outputs }),
      axis: textOf(attributes.data_format).startsWith("NC") ? 1 : 3,
      isFoldable: once && shape !== undefined,
    };
  };

  const records: BatchNormRecord[] = [];
  for (const { name, op, inputs, attributes } of nodes) {
    if (!/^FusedBatchNorm(V[23])?$/.test(op)) continue;
    const problems: string[] = [];
    const vectors: Partial<Record<(typeof VECTORS)[number], Float64Array>> = {};
    const found = VECTORS.map((part, i) => ({ part, tensor: constant(inputs[i + 1]) }));
    for (const { part, tensor } of found) {
      const vector = tensor && (await readVector(tensor, file, problems));
      if (vector) vectors[part] = vector;
      else if (!tensor) problems.push(`${part} is not in the weights`);
    }
    const training = fieldsOf(attributes.is_training).b === true;
    if (training) {
      // the statistics are the batch's, and those of the file are empty
      delete vectors.mean;
      delete vectors.variance;
    }
    const { f: epsilon = EPSILON } = fieldsOf(attributes.epsilon);
    const layerBefore = before(inputs[0]);
    const format = textOf(attributes.data_format);
    records.push({
      name,
      ...{ format: "tfjs", convention: "tfjs", training },
      channels: (vectors.variance ?? vectors.gamma)?.length ?? 0,
      dtype: found.find(({ tensor }) => tensor)?.tensor?.dtype ?? "unknown",
      epsilon: Number(epsilon),
      axis: format.startsWith("NC") ? 1 : Math.max(3, format.length - 1),
      ...vectors,
      ...(layerBefore && { before: layerBefore }),
      ...(problems.length && !training ? { problems } : {}),
    });
  }
  return records;
}
