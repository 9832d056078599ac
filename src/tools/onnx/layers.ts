// The layers of an ONNX model into which batch norms are folded: what their weights and biases are, in float64, and how
// they get others. interop/fold.ts has the arithmetic.

import { type ConvFormat, foldUnrounded, type LinearFormat } from "../../interop/fold.ts";
import type { FoldSource } from "../../layer/slots.ts";
import type { Dtype } from "../../tensor/dtype.ts";
import type { ByteSource } from "../source.ts";
import { type Constant, floatsOf } from "./constants.ts";
import type { Model, Node } from "./graph.ts";
import { named, rankOf, UNKNOWN_RANK } from "./neighbours.ts";
import type { Tensor } from "./tensor.ts";

/** The weight and the bias of a layer. They may be the results of folding, and are not rounded. */
export interface Parameters {
  /** What the input is multiplied by: of a Gemm, alpha·B. */
  readonly weight: Float64Array;
  /** What is added to each output: of a Gemm, beta·C. */
  readonly bias: Float64Array | null;
}

/** Where a weight or bias comes from. */
export interface LayerConstant extends Constant {
  readonly dtype: Dtype;
  readonly size: number;
}

const constantOf = ({ constant, dtype, data }: Tensor & { readonly constant: Constant }): LayerConstant => ({
  ...constant,
  dtype,
  size: data.length,
});

/** A layer of the model. */
export interface Layer extends Parameters {
  readonly node: Node;
  /** The node that adds the bias of a MatMul, if there is one. */
  readonly add: Node | undefined;
  readonly shape: readonly number[];
  readonly dtype: Dtype;
  readonly format: LinearFormat | ConvFormat;
  readonly groups: number;
  readonly outputs: number;
  /** The channels of its input. A linear layer may have several inputs for each channel. */
  readonly inputs: number;
  readonly alpha: number;
  readonly constants: { readonly weight: LayerConstant; readonly bias: LayerConstant | undefined };
  readonly biasShape: readonly number[];
}

const CONV_RANKS: readonly number[] = [3, 4, 5];

/** Reads the layers of a model, each once. */
export class Layers {
  readonly #model: Model;
  readonly #source: ByteSource;
  readonly #read = new Map<Node, Layer | string>();

  constructor(model: Model, source: ByteSource) {
    this.#model = model;
    this.#source = source;
  }

  /** Returns the layer of a node, or the reason why its weight or bias cannot take others. */
  async at(node: Node): Promise<Layer | string> {
    const before = this.#read.get(node);
    if (before !== undefined) return before;
    const found = node.is("Add") ? await this.#ofAdd(node) : await this.#of(node);
    const layer = typeof found === "string" ? `${named(node)} ${found}` : found;
    this.#read.set(node, layer);
    return layer;
  }

  /** Gives a layer other parameters. */
  update(layer: Layer, { weight, bias }: Parameters): void {
    const updated = { ...layer, weight, bias };
    for (const node of [layer.node, layer.add]) if (node) this.#read.set(node, updated);
  }

  /** Returns the layer of an Add that adds a bias to a MatMul. */
  async #ofAdd(add: Node): Promise<Layer | string> {
    const matMul = add.inputs.map((name) => add.graph.producers.get(name)).find((node) => node?.is("MatMul"));
    if (!matMul) return "adds something else than the bias of a MatMul";
    const layer = await this.at(matMul);
    if (typeof layer === "string") return layer;
    return layer.add === add ? layer : `adds something else than a bias to ${named(matMul)}`;
  }

  async #of(node: Node): Promise<Layer | string> {
    const { graph } = node;
    const read = (name: string) => floatsOf(this.#model, this.#source, graph, name);
    const weight = await read(node.inputs[1] ?? "");
    if (typeof weight === "string") return `has a weight that is not constant: ${weight}`;
    if (weight.constant.isOverridable) return "has a weight that callers may override";
    const { shape, dtype } = weight;
    const isConv = node.is("Conv", "ConvTranspose");
    if (isConv ? !CONV_RANKS.includes(shape.length) : shape.length !== 2)
      return `has a weight of ${shape.length} axes, not ${isConv ? "3 to 5" : 2}`;
    if (shape.includes(0)) return "has an empty weight";
    const isTransposed = node.is("ConvTranspose");
    const groups = isConv ? node.integer("group", 1) : 1;
    const format = isTransposed
      ? "IOHW"
      : isConv
        ? "OIHW"
        : node.is("Gemm") && node.integer("transB", 0) !== 0
          ? "OI"
          : "IO";
    const [first, second] = shape as [number, number];
    if (!(groups >= 1 && first % groups === 0)) return `has ${groups} groups for a weight of shape [${shape}]`;
    const outputs = isTransposed ? second * groups : format === "IO" ? second : first;
    const inputs = isTransposed ? first : format === "IO" ? first : second * groups;
    const alpha = node.is("Gemm") ? node.float("alpha", 1) : 1;
    if (!Number.isFinite(alpha) || alpha === 0) return `has alpha ${alpha}`;
    const factor = node.is("Gemm") ? node.float("beta", 1) : 1;

    const add = node.is("MatMul") ? this.#addBehind(node) : undefined;
    if (node.is("MatMul") && rankOf(graph, node.inputs[0]) !== 2) return UNKNOWN_RANK;
    const biasName = add ? (add.inputs.find((name) => name !== node.outputs[0]) ?? "") : (node.inputs[2] ?? "");
    const bias = biasName === "" || (!add && node.is("MatMul")) ? undefined : await read(biasName);
    if (typeof bias === "string") {
      if (!add) return `has a bias that is not constant: ${bias}`;
    } else if (bias) {
      if (bias.constant.isOverridable) return "has a bias that callers may override";
      const size = bias.data.length;
      const isPerOutput = bias.shape.at(-1) === outputs && size === outputs;
      if (!isPerOutput && (isConv || size !== 1)) return `has a bias of shape [${bias.shape}] for ${outputs} outputs`;
      if (bias.shape.length > 2) return `has a bias of ${bias.shape.length} axes`;
    }
    const known = typeof bias === "string" ? undefined : bias;
    return {
      node,
      add: known ? add : undefined,
      weight: alpha === 1 ? weight.data : weight.data.map((v) => v * alpha),
      bias: known
        ? new Float64Array(outputs).map((_, o) => (known.data[known.data.length === 1 ? 0 : o] as number) * factor)
        : null,
      shape,
      dtype,
      format,
      groups,
      outputs,
      inputs,
      alpha,
      constants: { weight: constantOf(weight), bias: known && constantOf(known) },
      biasShape: known?.data.length === outputs ? known.shape : [outputs],
    };
  }

  /** Returns the Add that is the only node behind a MatMul. */
  #addBehind(node: Node): Node | undefined {
    const name = node.outputs[0] ?? "";
    const [use, ...others] = node.graph.usesOf(name);
    const isOnly = others.length === 0 && use?.kind === "input" && use.graph === node.graph && use.node?.is("Add");
    return isOnly ? use.node : undefined;
  }
}

/**
 * Returns the parameters of a layer that has taken a batch norm, with the expected error of rounding them to the layer's
 * type, or the reason why their shapes do not match.
 */
export function folded(
  layer: Layer,
  source: FoldSource,
  direction: "backward" | "forward",
): (Parameters & { readonly expectedError: number }) | string {
  const { shape, bias, dtype, format, groups, node } = layer;
  const channels = (source.runningMean as Float64Array).length;
  const isConv = shape.length > 2;
  const [size, axis] = direction === "backward" ? [layer.outputs, "outputs"] : [layer.inputs, "inputs"];
  const isFlat = direction === "forward" && !isConv && size % channels === 0;
  if (size !== channels && !isFlat) return `${named(node)} has ${size} ${axis} for ${channels} channels`;
  const weight = { data: layer.weight, shape };
  return isConv
    ? foldUnrounded(
        "conv",
        { weight, bias },
        source,
        { format: format as ConvFormat, groups, direction, unpadded: true },
        dtype,
      )
    : foldUnrounded("linear", { weight, bias }, source, { format: format as LinearFormat, direction }, dtype);
}
