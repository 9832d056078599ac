// The batch norms of an ONNX file for `inspect`.

import type { BatchNormRecord, LayerBefore } from "../batch-norm-record.ts";
import { type ByteSource, readWhole } from "../source.ts";
import { type BatchNorm, isBatchNorm, PARAMETERS, readBatchNorm } from "./batch-norm.ts";
import { constantOf } from "./constants.ts";
import { Model, type Node } from "./graph.ts";
import { isLayer, layerBefore } from "./neighbours.ts";
import { shapeOf } from "./tensor.ts";

/** Largest message in bytes that protobuf reads (protobuf.dev/programming-guides/encoding, "size limit"). */
export const MAX_MODEL_BYTES = 2 ** 31 - 1;

/** Reads the graphs of an ONNX file. Throws BatchNormError "model-file" for a file that breaks a rule of the format. */
export async function readModel(source: ByteSource): Promise<Model> {
  return new Model(source.name, await readWhole(source, MAX_MODEL_BYTES));
}

/** Returns the shortest decimal that rounds to a float32, such as 1e-5 for 9.99999974e-6. */
function shortest(value: number): number {
  for (let digits = 1; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === value) return short;
  }
  return value;
}

/** Returns the layer before a batch norm, whatever is between them, if it is one with channels. */
function beforeOf(model: Model, { node, parameters: { gamma, variance } }: BatchNorm): LayerBefore | undefined {
  const { graph } = node;
  const producer = graph.ownerOf(node.inputs[0] ?? "")?.producers.get(node.inputs[0] ?? "");
  if (!producer) return undefined;
  const falls = typeof gamma !== "string" && gamma.data.some((v) => v < 0);
  const found = layerBefore(model, { node, falls });
  const layer = typeof found === "string" ? producer : found;
  const channels = isLayer(layer) ? outputsOf(model, layer) : undefined;
  const isKnown = typeof gamma !== "string" && typeof variance !== "string";
  return {
    name: layer.path,
    type: layer.opType,
    axis: 1,
    ...(channels !== undefined && { channels }),
    isFoldable: isKnown && layer === found && isLayer(layer),
  };
}

/** Returns the number of outputs of a convolution or a Gemm, from the shape of its weight, if that is known. */
function outputsOf(model: Model, layer: Node): number | undefined {
  const constant = constantOf(model, layer.graph, layer.inputs[1] ?? "");
  if (typeof constant === "string") return undefined;
  const stored = shapeOf(model.wire, constant.message);
  const shape = constant.isTransposed ? stored.reverse() : stored;
  if (layer.is("ConvTranspose")) return shape[1] === undefined ? undefined : shape[1] * layer.integer("group", 1);
  return layer.is("Conv") || layer.integer("transB", 0) === 1 ? shape[0] : shape.at(-1);
}

/**
 * Reads the batch norms of an ONNX file, those of graphs inside nodes included. Batch norms of functions have no parameters
 * in the file and are left out. A parameter that the model computes or takes as an input is absent, and `problems` says so.
 */
export async function readOnnxBatchNorms(source: ByteSource): Promise<BatchNormRecord[]> {
  const model = await readModel(source);
  const records: BatchNormRecord[] = [];
  for (const node of model.graphs.flatMap(({ nodes }) => nodes).filter(isBatchNorm)) {
    const batchNorm = await readBatchNorm(model, source, node);
    const { epsilon, momentum, parameters, isTraining } = batchNorm;
    const known = PARAMETERS.map((name) => [name, parameters[name]] as const);
    const tensors = known.flatMap(([name, value]) => (typeof value === "string" ? [] : [[name, value] as const]));
    const problems = known.flatMap(([name, value]) => (typeof value === "string" ? [`${name}: ${value}`] : []));
    const channels = tensors[0]?.[1].data.length ?? 0;
    for (const [name, { shape }] of tensors)
      if (shape.length !== 1 || shape[0] !== channels)
        problems.push(`${name}: expected shape [${channels}], got [${shape}]`);
    const before = beforeOf(model, batchNorm);
    records.push({
      name: node.path,
      format: "onnx",
      convention: "onnx",
      channels,
      dtype: tensors[0]?.[1].dtype ?? "unknown",
      epsilon: shortest(epsilon),
      momentum: shortest(momentum),
      axis: 1,
      ...Object.fromEntries(tensors.map(([name, { data }]) => [name, data])),
      ...(before && { before }),
      training: isTraining,
      ...(problems.length > 0 && { problems }),
    });
  }
  return records;
}
