// Values that are known without running the model: initialisers, outputs of Constant nodes, and what Identity and Transpose
// make of either. PyTorch's exporter writes equal parameters once and Identity nodes for the others, and transposes the weight
// of a linear layer without bias.

import type { ByteSource } from "../source.ts";
import type { Graph, Initializer, Model } from "./graph.ts";
import { isFalse, readFloats, readIntegers, type Tensor, type TensorMessage } from "./tensor.ts";

/** A value that is known. */
export interface Constant {
  readonly message: TensorMessage;
  /** The initialiser and its graph, if the value is an initialiser and no copy of one. */
  readonly initializer?: { readonly graph: Graph; readonly initializer: Initializer };
  /** Whether the caller of the model may pass another value. */
  readonly isOverridable: boolean;
  /** Whether the value is the matrix of the message with its axes swapped. */
  readonly isTransposed: boolean;
}

/** Copies of copies that are followed. A cycle, which no valid model has, ends there, too. */
const MAX_COPIES = 100;

/**
 * Returns whether an initialiser of a graph's input's name is only a default. Before version 4 of the format every
 * initialiser had to be an input, and onnxruntime takes those as constants (Graph::CanOverrideInitializer).
 */
export const canOverride = ({ irVersion }: Model, graph: Graph, name: string): boolean =>
  irVersion >= 4 && graph.inputs.has(name);

/** Returns the known value of a name that a node of `graph` takes, or the reason why it is not known. */
export function constantOf(model: Model, graph: Graph, name: string): Constant | string {
  let [owner, value, isTransposed] = [graph.ownerOf(name), name, false];
  for (let copies = 0; copies < MAX_COPIES; copies++) {
    if (!owner) return `"${name}" is nowhere in the model`;
    const initializer = owner.initializers.get(value);
    const node = owner.producers.get(value);
    if (initializer)
      return {
        message: initializer,
        ...(copies === 0 && { initializer: { graph: owner, initializer } }),
        isOverridable: canOverride(model, owner, value),
        isTransposed,
      };
    if (owner.sparse.has(value)) return `"${name}" is a sparse initialiser`;
    if (!node) return `"${name}" is an input of the graph`;
    const tensor = node.is("Constant") ? node.tensor("value") : undefined;
    if (tensor) return { message: tensor, isOverridable: false, isTransposed };
    const swaps = node.is("Transpose") && /^(1,0)?$/.test(String(node.integers("perm")));
    if (swaps) isTransposed = !isTransposed;
    else if (!node.is("Identity")) return `"${name}" is computed by "${node.label}" (${node.opType})`;
    value = node.inputs[0] ?? "";
    owner = owner.ownerOf(value);
  }
  return `"${name}" is a copy of a copy, ${MAX_COPIES} times`;
}

/** Returns the floats of a known value, or the reason why there are none. */
export async function floatsOf(
  model: Model,
  source: ByteSource,
  graph: Graph,
  name: string,
): Promise<(Tensor & { readonly constant: Constant }) | string> {
  const constant = constantOf(model, graph, name);
  if (typeof constant === "string") return constant;
  const tensor = await readFloats(model.wire, source, constant.message);
  if (!tensor) return `"${name}" has elements that are no floats`;
  if (!constant.isTransposed) return { ...tensor, constant };
  const { dtype, shape, data } = tensor;
  if (shape.length !== 2) return `"${name}" is a transposed tensor of ${shape.length} axes`;
  const [rows, columns] = shape as [number, number];
  const transposed = data.map((_, i) => data[(i % rows) * columns + Math.floor(i / rows)] as number);
  return { dtype, shape: [columns, rows], data: transposed, constant };
}

/** Returns the integers of a known value, if it has at most `most`, and nobody may pass others. */
export async function integersOf(model: Model, source: ByteSource, graph: Graph, name: string, most: number) {
  const constant = constantOf(model, graph, name);
  if (typeof constant === "string" || constant.isOverridable || constant.isTransposed) return undefined;
  return readIntegers(model.wire, source, constant.message, most);
}

/** Returns whether a name stands for false, as an optional input that is absent does. */
export function isKnownFalse(model: Model, graph: Graph, name: string | undefined): boolean {
  if (!name) return true;
  const constant = constantOf(model, graph, name);
  return typeof constant !== "string" && !constant.isOverridable && isFalse(model.wire, constant.message);
}
