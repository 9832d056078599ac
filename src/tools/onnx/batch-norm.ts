// The batch norms of an ONNX model: BatchNormalization of every version of the operator.
// (onnx/docs/Operators.md, "BatchNormalization"; onnx/docs/Changelog.md for the versions)

import type { ByteSource } from "../source.ts";
import { type Constant, floatsOf } from "./constants.ts";
import type { Model, Node } from "./graph.ts";
import type { Tensor } from "./tensor.ts";

/** The defaults of all versions of the operator, which are attributes of type float32. */
const EPSILON = 1e-5;
const MOMENTUM = 0.9;

/** Names of the inputs behind x, in their order. */
export const PARAMETERS = ["gamma", "beta", "mean", "variance"] as const;

export type ParameterName = (typeof PARAMETERS)[number];

/** What a BatchNormalization node says. A parameter that is not known is the reason for that. */
export interface BatchNorm {
  readonly node: Node;
  /** A float32, which is what runtimes add to the variance. */
  readonly epsilon: number;
  readonly momentum: number;
  readonly parameters: Readonly<Record<ParameterName, (Tensor & { readonly constant: Constant }) | string>>;
  /** Why the node is not the affine map of its channels that batch norm is in inference, or undefined if it is. */
  readonly otherMode: string | undefined;
  /** Whether the node normalises by the statistics of its input. */
  readonly isTraining: boolean;
}

export const isBatchNorm = (node: Node): boolean => node.is("BatchNormalization");

/** Reads the attributes and parameters of a BatchNormalization node. */
export async function readBatchNorm(model: Model, source: ByteSource, node: Node): Promise<BatchNorm> {
  const parameters = {} as Record<ParameterName, (Tensor & { readonly constant: Constant }) | string>;
  for (const [i, name] of PARAMETERS.entries()) {
    const input = node.inputs[i + 1];
    parameters[name] = input ? await floatsOf(model, source, node.graph, input) : "the node has no such input";
  }
  const { opset } = model;
  // training_mode is an attribute since version 14; versions before have more outputs in training
  const isTraining =
    opset >= 14
      ? node.integer("training_mode", 0) !== 0
      : opset >= 7
        ? node.outputs.slice(1).some((name) => name !== "")
        : node.integer("is_test", 0) === 0;
  return {
    node,
    epsilon: node.float("epsilon", Math.fround(EPSILON)),
    momentum: node.float("momentum", Math.fround(MOMENTUM)),
    parameters,
    otherMode: otherModeOf(opset, node, isTraining),
    isTraining,
  };
}

function otherModeOf(opset: number, node: Node, isTraining: boolean): string | undefined {
  if (opset < 7) return `the model has version ${opset} of the operators, and folding takes 7 and newer`;
  if (isTraining) return "it is in training mode, and normalises by the statistics of its input";
  if (node.outputs.slice(1).some((name) => name !== "")) return "it has more outputs than y";
  if (node.integer("spatial", 1) === 0) return "it has spatial = 0, statistics for every position";
  return undefined;
}
