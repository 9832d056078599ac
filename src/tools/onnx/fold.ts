// foldOnnx folds the batch norms of an ONNX file into the weights of their neighbours (docs/guides/folding.md). Everything that is
// not touched stays byte for byte.

import { wrongFile, wrongValue } from "../../common/errors.ts";
import { checkKeys } from "../../common/validate.ts";
import { type FoldedNode, type FoldReport, tooInaccurate } from "../fold-report.ts";
import { roundedBytes } from "../rounding.ts";
import type { ByteSource } from "../source.ts";
import { type BatchNorm, isBatchNorm, PARAMETERS, readBatchNorm } from "./batch-norm.ts";
import type { Graph, Initializer, Model, Node } from "./graph.ts";
import { folded, type Layer, type LayerConstant, Layers, type Parameters } from "./layers.ts";
import { layerBefore, layersBehind } from "./neighbours.ts";
import { MAX_MODEL_BYTES, readModel } from "./read.ts";
import { externalRange, newTensor, newValueInfo, type TensorMessage, withElements } from "./tensor.ts";

/** Bytes to write into a copy of a file with elements of tensors. */
export interface Patch {
  /** The place in the file, in bytes. */
  readonly begin: number;
  /** The new bytes from there on. */
  readonly bytes: Uint8Array;
}

/** A folded model. */
export interface FoldedOnnx {
  /** The bytes of the new model file. */
  readonly model: Uint8Array;
  /**
   * The files with elements of tensors that the new model needs, by their paths relative to its folder: copies of the
   * original's files, of the same size, with other bytes at some places.
   */
  readonly external: ReadonlyMap<string, readonly Patch[]>;
  /** The paths of the files with elements of tensors that the original needs. */
  readonly originalFiles: readonly string[];
  /** What has become of each batch norm. */
  readonly report: FoldReport;
}

/** Options of foldOnnx. */
export interface FoldOnnxOptions {
  /**
   * The expected error from which on a batch norm is kept. By default it is 1e-5 where the layer is float32 or float64,
   * 1e-3 where it is float16, and 1.6e-2 where it is bfloat16 (docs/guides/folding-accuracy.md).
   */
  readonly tolerance?: number;
}

type Outcome = Omit<FoldedNode, "batchNorm">;

/** A batch norm that can be folded if a place for it is found. */
interface Source {
  readonly node: Node;
  readonly runningMean: Float64Array;
  readonly runningVariance: Float64Array;
  readonly gamma: Float64Array;
  readonly beta: Float64Array;
  readonly options: { readonly epsilon: number };
  readonly falls: boolean;
  readonly shifts: boolean;
}

/** Returns a batch norm for folding, or the reason why it cannot be folded. */
function sourceOf({ node, epsilon, parameters, otherMode }: BatchNorm): Source | string {
  if (otherMode) return otherMode;
  const { gamma, beta, mean, variance } = parameters;
  for (const name of PARAMETERS) {
    const value = parameters[name];
    if (typeof value === "string") return `its ${name} is not constant: ${value}`;
    if (value.constant.isOverridable) return `its ${name} is an input of the graph, which callers may override`;
  }
  const vectors = [gamma, beta, mean, variance].flatMap((v) => (typeof v === "string" ? [] : [v.data]));
  const [g, b, runningMean, runningVariance] = vectors as [Float64Array, Float64Array, Float64Array, Float64Array];
  if (g.length === 0 || !vectors.every(({ length }) => length === g.length))
    return `its parameters have ${vectors.map(({ length }) => length).join(", ")} elements`;
  if (!(epsilon >= 0 && epsilon < Number.POSITIVE_INFINITY)) return `its epsilon is ${epsilon}`;
  const scale = runningVariance.map((v, c) => (g[c] as number) / Math.sqrt(v + epsilon));
  return {
    node,
    gamma: g,
    beta: b,
    runningMean,
    runningVariance,
    options: { epsilon },
    falls: scale.some((v) => !(v >= 0)),
    shifts: scale.some((v, c) => (b[c] as number) - (runningMean[c] as number) * v !== 0),
  };
}

/** Folds the batch norms of one model. */
class Folding {
  readonly #model: Model;
  readonly #layers: Layers;
  readonly #source: ByteSource;
  readonly #tolerance: number | undefined;
  readonly #changed = new Set<Node>();
  readonly #patches = new Map<string, Patch[]>();
  readonly #names: Set<string>;
  readonly #originalFiles: readonly string[];
  #shared: ReadonlySet<TensorMessage> | undefined;

  constructor(model: Model, source: ByteSource, tolerance: number | undefined) {
    this.#model = model;
    this.#source = source;
    this.#layers = new Layers(model, source);
    this.#tolerance = tolerance;
    this.#originalFiles = this.#files();
    this.#names = new Set(model.graphs.flatMap((graph) => graph.names));
  }

  /** Returns the parameters of all layers after they have taken a batch norm, or the reason why one cannot. */
  async #results(source: Source, direction: "backward" | "forward", nodes: readonly Node[]) {
    const results: { layer: Layer; parameters: Parameters; expectedError: number }[] = [];
    for (const node of nodes) {
      const layer = await this.#layers.at(node);
      if (typeof layer === "string") return layer;
      const result = folded(layer, source, direction);
      if (typeof result === "string") return result;
      const { expectedError } = result;
      const reason = tooInaccurate(direction, expectedError, layer.dtype, this.#tolerance);
      if (reason) return reason;
      results.push({ layer, parameters: result, expectedError });
    }
    return results;
  }

  #commit(
    results: readonly { layer: Layer; parameters: Parameters; expectedError: number }[],
  ): Omit<Outcome, "direction"> {
    for (const { layer, parameters } of results) {
      this.#layers.update(layer, parameters);
      this.#changed.add(layer.node);
    }
    return {
      into: results.map(({ layer }) => layer.node.path),
      expectedError: Math.max(...results.map(({ expectedError }) => expectedError)),
    };
  }

  /** Folds a batch norm into the layer before it, or returns the reason why it cannot. */
  async backward(source: Source): Promise<Outcome | string> {
    const { node } = source;
    const before = layerBefore(this.#model, source);
    if (typeof before === "string") return before;
    const results = await this.#results(source, "backward", [before]);
    if (typeof results === "string") return results;
    // what made the batch norm's input makes its output now, whose name others know
    const [x, y] = [node.inputs[0], node.outputs[0]] as [string, string];
    const producer = node.graph.producers.get(x) as Node;
    node.remove();
    node.graph.forgetValue(x);
    producer.setOutput(y);
    return { direction: "backward", ...this.#commit(results) };
  }

  /** Folds a batch norm into the layers behind it, or returns the reason why it cannot. */
  async forward(source: Source): Promise<Outcome | string> {
    const { node } = source;
    const behind = await layersBehind(this.#model, this.#source, source);
    if (typeof behind === "string") return behind;
    const results = await this.#results(source, "forward", behind.layers);
    if (typeof results === "string") return results;
    const [x, y] = [node.inputs[0], node.outputs[0]] as [string, string];
    for (const taker of behind.takers) taker.setInput(0, x);
    node.remove();
    node.graph.forgetValue(y);
    return { direction: "forward", ...this.#commit(results) };
  }

  /** Returns a name that nothing in the model has. */
  #newName(wish: string): string {
    let name = wish;
    for (let i = 1; this.#names.has(name); i++) name = `${wish}_${i}`;
    this.#names.add(name);
    return name;
  }

  /** Writes the parameters of all changed layers, and removes what nothing needs any more. */
  async write(removed: readonly Node[]): Promise<void> {
    for (const node of this.#changed) {
      const layer = (await this.#layers.at(node)) as Layer;
      const { alpha, add, bias, weight, biasShape, constants } = layer;
      const weightName = node.inputs[1] as string;
      const elements = alpha === 1 ? weight : weight.map((v) => v / alpha);
      this.#writeConstant(layer, node, 1, constants.weight, layer.shape, elements, weightName);
      if (!bias) continue;
      const wish = /weight$/.test(weightName) ? weightName.replace(/weight$/, "bias") : `${weightName}_bias`;
      node.dropAttribute("beta");
      if (node.is("MatMul") && !add) {
        const name = this.#newName(wish);
        node.addBehind(this.#newName(`${node.outputs[0]}_product`), name);
        this.#addInitializer(layer, name, biasShape, bias);
      } else {
        const taker = add ?? node;
        const index = add ? add.inputs.findIndex((name) => name !== node.outputs[0]) : 2;
        this.#writeConstant(layer, taker, index, constants.bias, biasShape, bias, wish);
      }
    }
    for (const node of removed) for (const name of node.inputs.slice(1)) this.#release(node.graph, name);
  }

  #addInitializer({ dtype }: Layer, name: string, shape: readonly number[], numbers: Float64Array): void {
    // in the model's own graph, because a graph inside a node may have no initialisers before version 4 of the format
    const input = this.#model.irVersion < 4 ? newValueInfo(name, dtype, shape) : undefined;
    this.#model.graph.addInitializer(name, newTensor(name, dtype, shape, roundedBytes(numbers, dtype)), input);
  }

  /** Gives a node other elements at an input: in its initialiser, if nothing else has it, else in a new one. */
  #writeConstant(
    layer: Layer,
    node: Node,
    index: number,
    constant: LayerConstant | undefined,
    shape: readonly number[],
    numbers: Float64Array,
    wish: string,
  ): void {
    const name = node.inputs[index] ?? "";
    const own = constant?.initializer;
    const isOwn = own?.graph.usesOf(name).length === 1 && constant?.dtype === layer.dtype;
    if (own && isOwn && constant.size === numbers.length) {
      this.#rewrite(own.graph, own.initializer, roundedBytes(numbers, layer.dtype));
      return;
    }
    const added = this.#newName(wish);
    this.#addInitializer(layer, added, shape, numbers);
    node.setInput(index, added);
    if (name !== "") this.#release(node.graph, name);
  }

  /** Gives an initialiser other elements, where they are: in the model, or in another file. */
  #rewrite(graph: Graph, initializer: Initializer, bytes: Uint8Array): void {
    const { wire } = this.#model;
    const range = externalRange(wire, initializer);
    if (range && !range.hasChecksum && !this.#sharedRanges().has(initializer)) {
      const patches = this.#patches.get(range.location) ?? [];
      this.#patches.set(range.location, [...patches, { begin: range.begin, bytes }]);
    } else graph.replaceInitializer(initializer, withElements(wire, initializer, bytes));
  }

  /** Returns the tensors whose elements in another file are elements of another tensor, too. */
  #sharedRanges(): ReadonlySet<TensorMessage> {
    if (this.#shared) return this.#shared;
    const shared = new Set<TensorMessage>();
    const ranges = this.#model.tensors
      .flatMap((tensor) => {
        const range = externalRange(this.#model.wire, tensor);
        return range ? [{ tensor, ...range }] : [];
      })
      .sort((a, b) => (a.location === b.location ? a.begin - b.begin : a.location < b.location ? -1 : 1));
    // the range that reaches farthest of those before
    let farthest = ranges[0];
    for (const range of ranges.slice(1)) {
      if (farthest?.location === range.location && range.begin < farthest.end)
        shared.add(farthest.tensor).add(range.tensor);
      if (farthest?.location !== range.location || range.end > farthest.end) farthest = range;
    }
    this.#shared = shared;
    return shared;
  }

  /** Removes a constant that nothing takes any more. */
  #release(graph: Graph, name: string): void {
    const owner = graph.ownerOf(name);
    if (!owner || owner.usesOf(name).length > 0) return;
    const initializer = owner.initializers.get(name);
    if (initializer) {
      // an input that callers may pass stays, and so do the inputs of a graph inside a node
      const isInput = owner.inputs.has(name) && (this.#model.irVersion >= 4 || owner !== this.#model.graph);
      if (!isInput) owner.removeInitializer(initializer);
      return;
    }
    const node = owner.producers.get(name);
    if (!node?.is("Constant", "Identity", "Transpose")) return;
    node.remove();
    owner.forgetValue(name);
    for (const input of node.inputs) this.#release(owner, input);
  }

  /** Returns the paths of the files with elements of tensors that are still in the model. */
  #files(): string[] {
    const paths = this.#model.tensors.map((tensor) => externalRange(this.#model.wire, tensor)?.location);
    return [...new Set(paths)].filter((path) => path !== undefined);
  }

  /** Returns the new model. */
  result(report: FoldReport): FoldedOnnx {
    const model = this.#model.encode();
    if (model.length > MAX_MODEL_BYTES)
      throw wrongFile(this.#model.wire.file, "the folded model", `at most ${MAX_MODEL_BYTES} bytes`, model.length);
    const external = new Map(this.#files().map((file) => [file, this.#patches.get(file) ?? []]));
    return { model, external, originalFiles: this.#originalFiles, report };
  }
}

/**
 * Folds the batch norms of an ONNX model into its convolutions and linear layers, and returns the new model with a report
 * of every batch norm. A batch norm goes into the Conv, ConvTranspose, Gemm or MatMul before it, or, where none can take
 * it, into the Conv without padding, Gemm or MatMul behind it. Arithmetic is in float64, and every number is rounded once
 * to the type of its layer: float16, bfloat16, float32 or float64. Results differ by rounding only, which `expectedError`
 * estimates. What is not touched stays byte for byte.
 *
 * Throws BatchNormError "model-file" for a file that breaks a rule of the format.
 */
export async function foldOnnx(source: ByteSource, options: FoldOnnxOptions = {}): Promise<FoldedOnnx> {
  checkKeys("options", options, ["tolerance"]);
  const { tolerance } = options;
  if (tolerance !== undefined && !(typeof tolerance === "number" && tolerance >= 0))
    throw wrongValue("tolerance", "a number from 0 on", tolerance);
  const model = await readModel(source);
  const folding = new Folding(model, source, tolerance);
  const nodes = model.graphs.flatMap((graph) => graph.nodes).filter(isBatchNorm);
  const outcomes = new Map<Node, Outcome>();
  const reasons = new Map<Node, string[]>(nodes.map((node) => [node, []]));
  const sources: Source[] = [];
  for (const node of nodes) {
    const found = model.hasTraining
      ? "the model says how it is trained, and refers to its parameters there"
      : sourceOf(await readBatchNorm(model, source, node));
    if (typeof found === "string") reasons.get(node)?.push(found);
    else sources.push(found);
  }
  const attempt = async (found: Source, direction: "backward" | "forward") => {
    if (outcomes.has(found.node)) return;
    const outcome = await folding[direction](found);
    if (typeof outcome === "string") reasons.get(found.node)?.push(outcome);
    else outcomes.set(found.node, outcome);
  };
  // in the order in which one that has been folded makes room for the next
  for (const found of sources) await attempt(found, "backward");
  for (const found of sources.reverse()) await attempt(found, "forward");
  await folding.write([...outcomes.keys()]);

  const report: FoldReport = {
    folded: nodes.flatMap((node) => {
      const outcome = outcomes.get(node);
      return outcome ? [{ batchNorm: node.path, ...outcome }] : [];
    }),
    kept: [
      ...nodes
        .filter((node) => !outcomes.has(node))
        .map((node) => ({ batchNorm: node.path, reason: (reasons.get(node) ?? []).join("; ") })),
      ...model.inFunctions.map((batchNorm) => ({ batchNorm, reason: "it is in a function of the model" })),
    ],
  };
  return folding.result(report);
}
