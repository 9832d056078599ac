// Which node can take which batch norm. In inference a batch norm is an affine map of each channel, the second axis. It
// moves backward through nodes that commute with such a map to the layer before it, or forward to the layers behind it.

import type { ByteSource } from "../source.ts";
import { integersOf, isKnownFalse } from "./constants.ts";
import type { Graph, Model, Node, Use } from "./graph.ts";

/** Nodes that are followed from a batch norm to a layer. A cycle, which no valid model has, ends there, too. */
const MAX_STEPS = 1000;

/** What is known of a batch norm while a place for it is sought. */
export interface Candidate {
  readonly node: Node;
  /** Whether a scale is negative. */
  readonly falls: boolean;
  /** Whether a shift is not 0. */
  readonly shifts: boolean;
}

const LAYERS = ["Conv", "ConvTranspose", "Gemm", "MatMul"] as const;

export const isLayer = (node: Node): boolean => node.is(...LAYERS);

export const named = (node: Node): string => `"${node.label}" (${node.opType})`;

/** Returns whether a convolution or pooling node pads its input. */
export function pads(node: Node): boolean {
  const mode = node.text("auto_pad", "NOTSET");
  if (mode === "NOTSET") return node.integers("pads").some((size) => size !== 0);
  return mode !== "VALID";
}

/** Returns why a node does not commute with an affine map of each channel, or undefined if it does. */
function mixes(model: Model, node: Node, { falls }: Pick<Candidate, "falls">): string | undefined {
  if (node.is("Identity", "GlobalAveragePool")) return undefined;
  if (node.is("Dropout"))
    return isKnownFalse(model, node.graph, node.inputs[2]) ? undefined : `${named(node)} may be in training mode`;
  if (node.is("AveragePool"))
    return pads(node) || node.integer("ceil_mode", 0) !== 0 ? `${named(node)} averages over padding` : undefined;
  if (node.is("MaxPool", "GlobalMaxPool")) {
    if (node.outputs.slice(1).some((name) => name !== "")) return `${named(node)} has more outputs than one`;
    return falls ? `${named(node)} does not commute with a negative gamma` : undefined;
  }
  return `${named(node)} is neither a convolution nor linear nor commutes with batch norm`;
}

/** Says where a value of `graph` is taken. */
const placeOf = ({ kind, node, graph: inside }: Use, graph: Graph): string => {
  if (kind === "output") return "as an output of the graph";
  if (kind === "annotation") return "by a quantization annotation";
  return `by ${named(node as Node)}${inside === graph ? "" : " in a graph inside a node"}`;
};

/**
 * Returns the layer whose output, perhaps through nodes that commute with it, is the batch norm's input, or the reason why
 * there is none. The Add of a bias behind a MatMul counts as the layer.
 */
export function layerBefore(model: Model, candidate: Pick<Candidate, "node" | "falls">): Node | string {
  let taker = candidate.node;
  const { graph } = taker;
  for (let step = 0; step < MAX_STEPS; step++) {
    const name = taker.inputs[0] ?? "";
    if (graph.ownerOf(name) !== graph) return "its input comes from a graph around its own";
    const node = graph.producers.get(name);
    if (!node) return "before it is no node";
    const uses = graph.usesOf(name);
    if (uses.length > 1) {
      const other = uses.find((use) => use.node !== taker) ?? (uses[0] as Use);
      return `the output of ${named(node)} before it is taken elsewhere, too, ${placeOf(other, graph)}`;
    }
    if (isLayer(node) || node.is("Add"))
      return node.outputs[0] === name ? node : `before it is no output of ${named(node)}`;
    const reason =
      node.outputs[0] === name ? mixes(model, node, candidate) : `it takes another output of ${named(node)}`;
    if (reason) return `before it, ${reason}`;
    taker = node;
  }
  return `more than ${MAX_STEPS} nodes are between it and a layer`;
}

/** Layers that take a batch norm's output, and the inputs through which they or nodes between take it. */
export interface Behind {
  readonly layers: readonly Node[];
  /** The nodes that take the batch norm's output itself. */
  readonly takers: readonly Node[];
}

/** Returns the layers behind a batch norm, if all that take its output can take the batch norm, or the reason. */
export async function layersBehind(model: Model, source: ByteSource, candidate: Candidate): Promise<Behind | string> {
  const { node } = candidate;
  const { graph } = node;
  const layers: Node[] = [];
  const takers: Node[] = [];
  const seen = new Set<string>();
  const open = [{ name: node.outputs[0] ?? "", isFlat: false }];
  for (let step = 0; step < open.length; step++) {
    const { name, isFlat } = open[step] as (typeof open)[number];
    if (seen.has(name)) continue;
    seen.add(name);
    if (step > MAX_STEPS) return `more than ${MAX_STEPS} nodes are behind it`;
    const uses = graph.usesOf(name);
    if (uses.length === 0) return "nothing takes its output";
    for (const use of uses) {
      if (use.kind === "output") return "behind it is an output of the graph";
      if (use.kind !== "input" || use.graph !== graph) return `its output is taken ${placeOf(use, graph)}`;
      const taker = use.node as Node;
      const isFlatBehind = isFlat || (await flattens(model, source, taker));
      const reason = isLayer(taker) || (isFlatBehind && !isFlat) ? undefined : mixes(model, taker, candidate);
      if (reason) return `behind it, ${reason}`;
      if (taker.inputs.filter((input) => input === name).length > 1 || taker.inputs[0] !== name)
        return `${named(taker)} behind it takes its output as another input than the first`;
      const refused = isLayer(taker) ? refusal(taker, candidate, isFlat) : undefined;
      if (refused) return `${named(taker)} behind it ${refused}`;
      if (step === 0) takers.push(taker);
      if (isLayer(taker)) layers.push(taker);
      else open.push({ name: taker.outputs[0] ?? "", isFlat: isFlatBehind });
    }
  }
  return { layers, takers };
}

/** Returns why a layer cannot take a batch norm before it, or undefined. */
function refusal(node: Node, { shifts }: Candidate, isFlat: boolean): string | undefined {
  if (node.is("ConvTranspose")) return "is transposed, and a shift does not reach all of its outputs alike";
  if (node.is("Conv")) {
    if (isFlat) return "takes a flattened input";
    return pads(node) && shifts ? "pads with zeros, which would have to be shifted, too" : undefined;
  }
  if (node.is("Gemm")) return node.integer("transA", 0) === 0 ? undefined : "transposes its input";
  return rankOf(node.graph, node.inputs[0]) === 2 ? undefined : UNKNOWN_RANK;
}

export const UNKNOWN_RANK =
  "has an input that is not known to have two axes; onnx.shape_inference.infer_shapes adds the shapes";

/** Nodes whose output has as many axes as their first input. */
const SAME_RANK = [
  ["BatchNormalization", "Identity", "Dropout", "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Sigmoid", "Tanh", "Clip"],
  ["Softplus", "HardSigmoid", "HardSwish", "Mish", "Gelu", "Erf", "Softmax"],
].flat();

/** Returns the number of axes of a value, if the model says it. */
export function rankOf(graph: Graph, name: string | undefined): number | undefined {
  let value = name ?? "";
  for (let step = 0; step < MAX_STEPS; step++) {
    const owner = graph.ownerOf(value);
    const shape = owner?.shapeOf(value);
    if (shape) return shape.length;
    const node = owner?.producers.get(value);
    if (node?.is("Flatten", "Gemm")) return 2;
    if (owner !== graph || !node?.is(...SAME_RANK)) return undefined;
    value = node.inputs[0] ?? "";
  }
  return undefined;
}

/**
 * Returns whether a node makes [N, C, …] to [N, C·inner], so that an input i of the layer behind it belongs to channel
 * ⌊i/inner⌋.
 */
async function flattens(model: Model, source: ByteSource, node: Node): Promise<boolean> {
  if (node.is("Flatten")) return node.integer("axis", 1) === 1;
  if (!node.is("Reshape") || node.integer("allowzero", 0) !== 0) return false;
  const target = await integersOf(model, source, node.graph, node.inputs[1] ?? "", 2);
  if (target?.length !== 2) return false;
  // 0 keeps the first axis, and −1 takes the rest
  if (target[0] === 0) return true;
  const shape = node.graph.ownerOf(node.inputs[0] ?? "")?.shapeOf(node.inputs[0] ?? "");
  const size = shape?.slice(1).reduce<number>((a, b) => a * (b ?? Number.NaN), 1);
  return size === target[1] || (target[1] === -1 && shape?.[0] !== undefined && shape[0] === target[0]);
}
