// Models without batch norm: foldModel returns a copy of a model of tf.layers in which batch norms are folded into their
// neighbours' weights (docs/guides/tfjs-models.md). interop/fold.ts has the arithmetic; this file finds out
// which layer can take which batch norm, and rebuilds the model without it.
//
// In mode "eval" a batch norm is an affine map of each channel. It moves backward through layers that commute with such
// a map to the dense or convolutional layer before it, or forward to those behind it.

import { type Tensor, tensor } from "@tensorflow/tfjs-core";
import { model as functional, input, type LayersModel, layers, type SymbolicTensor } from "@tensorflow/tfjs-layers";
import { tooFew } from "../common/errors.ts";
import { type ConvFormat, foldUnrounded, toAffine, toleranceOf } from "../interop/fold.ts";
import { checkModel, hasBatchNormFields, isModel, type Layer, layersOf } from "./model-layers.ts";

/** What foldModel has done with one batch norm. */
export interface FoldedBatchNorm {
  /** The layer's name, behind the names of the nested models and wrappers that it is in, and slashes. */
  readonly name: string;
  /** "backward": folded into a layer before it. "forward": folded into layers behind it. "kept": it is still there. */
  readonly outcome: "backward" | "forward" | "kept";
  /** The names of the layers into which it is folded; none if it is kept. */
  readonly into: readonly string[];
  /** The largest expected RMS error of an output of these layers, in units of its size (docs/guides/folding-accuracy.md). 0 if kept. */
  readonly expectedError: number;
  /** Why the batch norm is kept, as a text for people, or "". */
  readonly reason: string;
}

/** A model without the batch norms that could be folded, and what became of each of them. */
export interface FoldedModel {
  /** A new model with weights of its own. Its `dispose()` is independent of the original's. */
  readonly model: LayersModel;
  /** What has become of each batch norm of the original. */
  readonly report: FoldedBatchNorm[];
}

type Variable = Layer["weights"][number];

/** One call of a layer in a model. */
interface Call {
  readonly layer: Layer;
  readonly inputs: readonly SymbolicTensor[];
  readonly outputs: readonly SymbolicTensor[];
  readonly options: { readonly [name: string]: unknown };
}

/** Fields of TF.js's layers that their types declare private. A layer has some of them. */
interface Fields {
  readonly kernel?: Variable;
  readonly depthwiseKernel?: Variable;
  readonly pointwiseKernel?: Variable;
  readonly bias?: Variable | null;
  readonly axis?: number;
  readonly epsilon?: number;
  readonly gamma?: Variable;
  readonly beta?: Variable;
  readonly movingMean?: Variable;
  readonly movingVariance?: Variable;
  readonly padding?: string;
  readonly kernelSize?: readonly number[];
  readonly dataFormat?: string;
  readonly depthMultiplier?: number;
  readonly activation?: { getClassName(): string } | null;
  readonly dims?: readonly number[];
}

const fieldsOf = (layer: Layer): Fields => layer as unknown as Fields;

/** Layers with a weight that can take a batch norm, and the axes of that weight. */
const LINEAR: { readonly [className: string]: "IO" | ConvFormat | undefined } = {
  Dense: "IO",
  Conv1D: "HWIO",
  Conv2D: "HWIO",
  Conv3D: "HWIO",
  Conv2DTranspose: "HWOI",
  Conv3DTranspose: "HWOI",
  DepthwiseConv2D: "HWIM",
  SeparableConv2D: "HWIM", // the weight of its first step, with a bias behind the second
};

/** Layers that predict what comes in. */
const IDENTITIES = ["Dropout", "SpatialDropout1D", "GaussianDropout", "GaussianNoise", "AlphaDropout"];

/**
 * Returns the name of a layer's class, or "" for a program's subclass, which inherits that of TF.js's class and may compute
 * anything.
 */
const classOf = (layer: Layer): string => (Object.hasOwn(layer.constructor, "className") ? layer.getClassName() : "");

const isBatchNorm = (layer: Layer): boolean => classOf(layer) === "BatchNormalization" && hasBatchNormFields(layer);

const linearOf = (layer: Layer) => LINEAR[classOf(layer)];

const isLinearActivation = ({ activation }: Fields): boolean => (activation?.getClassName() ?? "linear") === "linear";

/** Returns the axis of a layer's channels in a tensor of some rank. Layers without data format have them on the last. */
const channelAxisOf = (layer: Layer, rank: number): number =>
  fieldsOf(layer).dataFormat === "channelsFirst" ? 1 : rank - 1;

const rankOf = (t: SymbolicTensor | undefined): number => t?.shape.length ?? 0;

/** Returns the number of elements of a shape from an axis on. It is NaN if a dimension is unknown. */
const sizeFrom = (shape: readonly (number | null)[], axis: number): number =>
  shape.slice(axis).reduce<number>((size, d) => size * (d ?? Number.NaN), 1);

const named = (layer: Layer): string => `"${layer.name}"`;

/** The calls of a model's layers in topological order, and who takes whose outputs. */
class Graph {
  readonly calls: Call[] = [];
  readonly model: LayersModel;
  /** Batch norms that are model outputs have been folded, but their names must stay. */
  readonly identities = new Set<Call>();
  readonly #replaced = new Map<SymbolicTensor, SymbolicTensor>();

  constructor(model: LayersModel) {
    this.model = model;
    const seen = new Set<unknown>();
    const visit = (t: SymbolicTensor): void => {
      const layer = t.sourceLayer;
      const node = layer.inboundNodes[t.nodeIndex] as Layer["inboundNodes"][number];
      if (seen.has(node)) return;
      seen.add(node);
      for (const source of node.inputTensors) visit(source);
      // the node of an input layer has its own output as its input
      const inputs = node.inboundLayers.length > 0 ? node.inputTensors : [];
      this.calls.push({ layer, inputs, outputs: node.outputTensors, options: node.callArgs ?? {} });
    };
    for (const output of model.outputs) visit(output);
    // an input that nothing takes belongs to the model nevertheless
    for (const source of model.inputs) visit(source);
  }

  /** Returns the tensor that stands for another one since the batch norms between them have been folded. */
  source(t: SymbolicTensor): SymbolicTensor {
    const instead = this.#replaced.get(t);
    return instead ? this.source(instead) : t;
  }

  producer(t: SymbolicTensor): Call | undefined {
    return this.calls.find(({ outputs }) => outputs.includes(this.source(t)));
  }

  consumers(t: SymbolicTensor): Call[] {
    const source = this.source(t);
    return this.calls.filter(({ inputs }) => inputs.some((i) => this.source(i) === source));
  }

  isOutput(t: SymbolicTensor): boolean {
    return this.model.outputs.includes(this.source(t));
  }

  isShared(layer: Layer): boolean {
    return this.calls.filter((call) => call.layer === layer).length > 1;
  }

  /** Removes the call of a batch norm that has been folded. One whose output is the model's becomes the identity. */
  remove(call: Call): void {
    const [x, y] = [call.inputs[0] as SymbolicTensor, call.outputs[0] as SymbolicTensor];
    if (this.isOutput(y)) this.identities.add(call);
    else {
      this.#replaced.set(y, x);
      this.calls.splice(this.calls.indexOf(call), 1);
    }
  }
}

/** A weight in float64, before it is rounded. */
interface Weight {
  readonly data: Float64Array;
  readonly shape: readonly number[];
}

/** The parameters of a dense or convolutional layer. `pointwise` is the second step of a separable convolution. */
interface Parameters {
  readonly kernel: Weight;
  readonly pointwise: Weight | null;
  readonly bias: Float64Array | null;
}

/** A batch norm's parameters for interop/fold.ts. */
interface Source {
  readonly gamma: Float64Array | null;
  readonly beta: Float64Array | null;
  readonly runningMean: Float64Array;
  readonly runningVariance: Float64Array;
  readonly options: { readonly epsilon: number };
}

/** A layer's parameters after a batch norm has been folded into them. */
interface Folded {
  readonly layer: Layer;
  readonly parameters: Parameters;
  readonly expectedError: number;
  /** Whether every number is finite and the expected error is small enough. */
  readonly isAccurate: boolean;
}

/** Results are rounded to this type, and an expected error above its tolerance keeps a batch norm. */
const DTYPE = "float32";

function foldInto(
  layer: Layer,
  { kernel, pointwise, bias }: Parameters,
  source: Source,
  direction: "backward" | "forward",
): Folded {
  const format = linearOf(layer) as "IO" | ConvFormat;
  const foldConv = (weight: Weight, format: ConvFormat, layerBias: Float64Array | null) => {
    const folded = foldUnrounded(
      "conv",
      { weight, bias: layerBias },
      source,
      direction === "forward" ? { format, direction, unpadded: true } : { format },
      DTYPE,
    );
    return { ...folded, weight: { data: folded.weight, shape: weight.shape } };
  };
  const resultOf = (
    { expectedError, warnings }: Pick<ReturnType<typeof foldUnrounded>, "expectedError" | "warnings">,
    parameters: Parameters,
  ): Folded => ({ layer, parameters, expectedError, isAccurate: warnings.length === 0 });

  if (format === "IO") {
    const folded = foldUnrounded("linear", { weight: kernel, bias }, source, { format, direction }, DTYPE);
    const weight = { data: folded.weight, shape: kernel.shape };
    return resultOf(folded, { kernel: weight, pointwise, bias: folded.bias });
  }
  if (!pointwise) {
    const folded = foldConv(kernel, format, bias);
    return resultOf(folded, { kernel: folded.weight, pointwise, bias: folded.bias });
  }
  if (direction === "backward") {
    const folded = foldConv(pointwise, "HWIO", bias);
    return resultOf(folded, { kernel, pointwise: folded.weight, bias: folded.bias });
  }
  // the first step has no bias: its share goes through the second, [1, 1, I, O]
  const folded = foldConv(kernel, "HWIM", null);
  const outputs = pointwise.shape.at(-1) as number;
  const sums = new Float64Array(outputs).map((_, o) =>
    folded.bias.reduce((sum, b, i) => sum + b * (pointwise.data[i * outputs + o] as number), bias?.[o] ?? 0),
  );
  return resultOf(folded, { kernel: folded.weight, pointwise, bias: sums });
}

/** Where a batch norm's channels are in a tensor: on an axis, or all `inner` elements of a flattened sample. */
type Place = { readonly axis: number } | { readonly inner: number };

/** A dense or convolutional layer that can take a batch norm, and where the channels are in its input or output. */
interface Target {
  readonly layer: Layer;
  readonly place: Place;
}

/** What is known of a batch norm while a place for it is sought. */
interface Candidate {
  readonly call: Call;
  readonly channels: number;
  readonly axis: number;
  /** Whether a scale is negative. */
  readonly falls: boolean;
  /** Whether a shift is not 0. */
  readonly shifts: boolean;
}

/** Layers whose outputs are inputs of the same channel, or averages or maxima of them. */
const AVERAGES = /^(Global)?AveragePooling[123]D$/;
const MAXIMA = /^(Global)?MaxPooling[123]D$/;
const RESIZED = /^(Cropping|UpSampling)2D$/;

/**
 * Returns where the channels are behind a call, or the reason why the call does not commute with an affine map of each
 * channel.
 */
function behind(call: Call, place: Place, { channels, falls }: Candidate): Place | string {
  const { layer, inputs, outputs, options } = call;
  const className = classOf(layer);
  const [shape, to] = [inputs[0]?.shape ?? [], outputs[0]?.shape ?? []];
  const fields = fieldsOf(layer);
  const isIdentity = IDENTITIES.includes(className) || (className === "Activation" && isLinearActivation(fields));
  if (isIdentity) return options.training ? `${named(layer)} is called with training: true` : place;
  if (className === "Activation") return `${named(layer)} is the activation "${fields.activation?.getClassName()}"`;
  const isAverage = AVERAGES.test(className);
  const isMaximum = MAXIMA.test(className);
  if (isAverage || isMaximum || RESIZED.test(className)) {
    if (isMaximum && falls) return `${named(layer)} is max pooling, which does not commute with a negative gamma`;
    if (isAverage && fields.padding === "same") return `${named(layer)} is average pooling with padding "same"`;
    if (!("axis" in place) || place.axis !== channelAxisOf(layer, shape.length))
      return `${named(layer)} has its channels on another axis`;
    return { axis: className.startsWith("Global") ? 1 : place.axis };
  }
  if (className === "Permute" && "axis" in place) return { axis: (fields.dims?.indexOf(place.axis) ?? 0) + 1 };
  if (className === "Flatten" || className === "Reshape") {
    const isMoved = className === "Flatten" && fields.dataFormat === "channelsFirst";
    if (isMoved && !("axis" in place && place.axis === 1)) return `${named(layer)} mixes the channels`;
    const inner = "inner" in place ? place.inner : isMoved ? 1 : sizeFrom(shape, place.axis + 1);
    if (Number.isNaN(inner)) return `${named(layer)} has an input of unknown size`;
    return placeOf(to, inner, channels);
  }
  return `${named(layer)} (${className || layer.constructor.name}) is neither a dense or convolutional layer nor commutes with batch norm`;
}

/** Returns the axis with `channels` elements, `inner` elements apart, if a shape has it. */
function placeOf(shape: readonly (number | null)[], inner: number, channels: number): Place {
  const axis = shape.findIndex((d, i) => i > 0 && d === channels && sizeFrom(shape, i + 1) === inner);
  return axis < 0 ? { inner } : { axis };
}

/** Returns the layer before a batch norm that can take it, or the reason why there is none. */
function targetBefore(graph: Graph, candidate: Candidate): Target | string {
  let [t] = candidate.call.inputs as [SymbolicTensor];
  let place = candidate.axis;
  for (;;) {
    const before = graph.producer(t) as Call;
    const { layer } = before;
    if (before.inputs.length === 0) return `${named(layer)} before it is an input`;
    if (graph.consumers(t).length > 1 || graph.isOutput(t))
      return `the output of ${named(layer)} before it is used elsewhere, too`;
    if (linearOf(layer)) {
      if (graph.isShared(layer)) return `${named(layer)} before it is shared`;
      if (!isLinearActivation(fieldsOf(layer)))
        return `${named(layer)} before it has the activation "${fieldsOf(layer).activation?.getClassName()}"`;
      if (place !== channelAxisOf(layer, rankOf(t))) return `its axis is not that of the channels of ${named(layer)}`;
      return wrongInTfjs(layer) ?? { layer, place: { axis: place } };
    }
    const isReshaping = ["Flatten", "Reshape", "Permute"].includes(classOf(layer));
    if (isReshaping) return `${named(layer)} before it is no dense or convolutional layer`;
    const x = before.inputs[0] as SymbolicTensor;
    // these layers keep the axis of channels, and global pooling removes all others
    const origin = classOf(layer).startsWith("Global") ? channelAxisOf(layer, rankOf(x)) : place;
    const reason = behind(before, { axis: origin }, candidate);
    if (typeof reason === "string") return `before it, ${reason}`;
    place = origin;
    t = graph.source(x);
  }
}

/** Returns why a layer's copy could not be right, where TF.js computes it wrongly, or undefined. */
function wrongInTfjs(layer: Layer): string | undefined {
  const isFirst = fieldsOf(layer).dataFormat === "channelsFirst";
  if (isFirst && ["Conv1D", "SeparableConv2D"].includes(classOf(layer)))
    return `${named(layer)} is a ${classOf(layer)} with channelsFirst, in which TF.js has a mistake`;
  return undefined;
}

/** Returns why a layer behind a batch norm cannot take it, or undefined. */
function refusal(graph: Graph, { layer, inputs }: Call, place: Place, { channels, shifts }: Candidate) {
  const { padding = "valid", kernelSize = [] } = fieldsOf(layer);
  if (graph.isShared(layer)) return `${named(layer)} behind it is shared`;
  if (linearOf(layer) === "HWOI" && shifts)
    return `${named(layer)} behind it is a transposed convolution, whose outputs a shift does not reach alike`;
  if (padding !== "valid" && shifts && kernelSize.some((size) => size > 1))
    return `${named(layer)} behind it pads with zeros, which would have to be shifted, too`;
  const shape = inputs[0]?.shape ?? [];
  if ("axis" in place)
    return place.axis === channelAxisOf(layer, shape.length)
      ? wrongInTfjs(layer)
      : `its axis is not that of the channels of ${named(layer)}`;
  // all of a flattened sample's channels recur after inner·channels elements
  return linearOf(layer) === "IO" && (shape.at(-1) ?? Number.NaN) % (place.inner * channels) === 0
    ? undefined
    : `the channels cannot be traced to inputs of ${named(layer)}`;
}

/** Adds the layers behind a tensor that can take a batch norm to `targets`. Returns the reason if one cannot. */
function targetsBehind(
  graph: Graph,
  t: SymbolicTensor,
  place: Place,
  candidate: Candidate,
  targets: Target[],
): string | undefined {
  if (graph.isOutput(t)) return "behind it is an output of the model";
  for (const call of graph.consumers(t)) {
    if (linearOf(call.layer)) {
      const reason = refusal(graph, call, place, candidate);
      if (reason) return reason;
      targets.push({ layer: call.layer, place });
      continue;
    }
    const next = behind(call, place, candidate);
    if (typeof next === "string") return `behind it, ${next}`;
    const reason = targetsBehind(graph, call.outputs[0] as SymbolicTensor, next, candidate, targets);
    if (reason) return reason;
  }
  return undefined;
}

/** Returns a batch norm with as many channels as a flattened sample has elements. */
function expanded(source: Source, place: Place, inputs: number): Source {
  if ("axis" in place) return source;
  const { gamma, beta, runningMean, runningVariance, options } = source;
  const channels = runningMean.length;
  const expand = (v: Float64Array) =>
    new Float64Array(inputs).map((_, i) => v[Math.floor(i / place.inner) % channels] as number);
  return {
    gamma: gamma && expand(gamma),
    beta: beta && expand(beta),
    runningMean: expand(runningMean),
    runningVariance: expand(runningVariance),
    options,
  };
}

/** Reads the parameters of all batch norms, dense and convolutional layers of a graph. */
async function readParameters(graph: Graph) {
  const sources = new Map<Layer, Source>();
  const parameters = new Map<Layer, Parameters>();
  const read = async (variable: Variable | null | undefined) =>
    variable ? Float64Array.from(await (variable.read() as Tensor).data()) : null;
  const weightOf = async (variable: Variable | undefined) =>
    variable ? { data: (await read(variable)) as Float64Array, shape: variable.shape as number[] } : null;
  for (const call of graph.calls) {
    const fields = fieldsOf(call.layer);
    if (isBatchNorm(call.layer)) {
      const [gamma, beta, runningMean, runningVariance] = await Promise.all(
        [fields.gamma, fields.beta, fields.movingMean, fields.movingVariance].map(read),
      );
      const options = { epsilon: fields.epsilon as number };
      sources.set(call.layer, { gamma, beta, runningMean, runningVariance, options } as Source);
    } else if (linearOf(call.layer)) {
      const kernel = (await weightOf(fields.depthwiseKernel ?? fields.kernel)) as Weight;
      const pointwise = await weightOf(fields.pointwiseKernel);
      parameters.set(call.layer, { kernel, pointwise, bias: await read(fields.bias) });
    }
  }
  return { sources, parameters };
}

/** Folds one batch norm if a place for it is found, and returns what has become of it. */
function foldOne(
  graph: Graph,
  call: Call,
  source: Source,
  parameters: Map<Layer, Parameters>,
  changed: Set<Layer>,
): Omit<FoldedBatchNorm, "name"> {
  const kept = (reason: string) => ({ outcome: "kept", into: [], expectedError: 0, reason }) as const;
  if (call.options.training) return kept("it is called with training: true");
  if (graph.isShared(call.layer)) return kept("it is shared: its calls have different neighbours");
  const { scale, shift } = toAffine(source);
  const { axis = -1 } = fieldsOf(call.layer);
  const y = call.outputs[0] as SymbolicTensor;
  const candidate: Candidate = {
    call,
    axis: axis < 0 ? axis + rankOf(y) : axis,
    channels: scale.length,
    falls: scale.some((v) => v < 0),
    shifts: shift.some((v) => v !== 0),
  };
  const reasons: string[] = [];
  const attempt = (outcome: "backward" | "forward", targets: readonly Target[]) => {
    const results = targets.map(({ layer, place }) => {
      const own = parameters.get(layer) as Parameters;
      return foldInto(layer, own, expanded(source, place, own.kernel.shape.at(-2) as number), outcome);
    });
    const expectedError = Math.max(...results.map((r) => r.expectedError));
    if (!results.every((r) => r.isAccurate)) {
      reasons.push(
        expectedError < Number.POSITIVE_INFINITY
          ? `folding ${outcome} loses digits: an expected error of ${expectedError.toExponential(1)} of an output's size, ` +
              `more than ${toleranceOf(DTYPE).toExponential()}`
          : `folding ${outcome} gives numbers that are not finite`,
      );
      return undefined;
    }
    for (const { layer, parameters: folded } of results) {
      parameters.set(layer, folded);
      changed.add(layer);
    }
    graph.remove(call);
    return { outcome, into: targets.map(({ layer }) => layer.name), expectedError, reason: "" };
  };

  const before = targetBefore(graph, candidate);
  const backward = typeof before === "string" ? void reasons.push(before) : attempt("backward", [before]);
  if (backward) return backward;
  const targets: Target[] = [];
  const reason = targetsBehind(graph, y, { axis: candidate.axis }, candidate, targets);
  const forward = reason ? void reasons.push(reason) : attempt("forward", targets);
  return forward ?? kept(reasons.join("; "));
}

/** Folds all batch norms of a graph for which a place is found. Layers with other parameters are added to `changed`. */
function foldAll(
  graph: Graph,
  sources: Map<Layer, Source>,
  parameters: Map<Layer, Parameters>,
  changed: Set<Layer>,
): FoldedBatchNorm[] {
  const outcomes = new Map<Layer, FoldedBatchNorm>();
  // a batch norm that has been folded makes room for the next
  for (let isNew = true; isNew; ) {
    isNew = false;
    for (const call of graph.calls.filter((c) => isBatchNorm(c.layer) && !graph.identities.has(c))) {
      const { name } = call.layer;
      const outcome = foldOne(graph, call, sources.get(call.layer) as Source, parameters, changed);
      outcomes.set(call.layer, { name, ...outcome });
      if (outcome.outcome !== "kept") isNew = true;
    }
  }
  return [...outcomes.values()];
}

/** Returns an entry for each batch norm inside of a layer that is no model, such as TimeDistributed. It is kept. */
function keptInside(wrapper: Layer): FoldedBatchNorm[] {
  const reason = `it is inside of ${named(wrapper)} (${wrapper.getClassName()}), which is copied as it is`;
  const inside = [...layersOf(wrapper)].filter(([layer]) => layer !== wrapper && isBatchNorm(layer));
  return inside.map(([, path]) => ({
    name: `${wrapper.name}/${path}`,
    outcome: "kept",
    into: [],
    expectedError: 0,
    reason,
  }));
}

/** The classes of TF.js's layers construct themselves from a configuration. */
interface LayerClass {
  fromConfig(layerClass: LayerClass, config: object): Layer;
}

/** Returns a layer like another one, with a bias if `folded` says that its weights have been folded into. */
function copyOf(layer: Layer, folded: boolean): Layer {
  const { dataFormat, depthMultiplier } = fieldsOf(layer);
  const isLinear = linearOf(layer) !== undefined;
  const config = {
    ...layer.getConfig(),
    // TF.js 4.22 leaves these two out for Conv1D and SeparableConv2D
    ...(isLinear && dataFormat !== undefined && { dataFormat }),
    ...(isLinear && depthMultiplier !== undefined && { depthMultiplier }),
    ...(folded && { useBias: true }),
  };
  // a constraint would change the folded weights, and TF.js 4.22 confuses that of a depthwise kernel with its regularizer
  if (isLinear) for (const key of Object.keys(config)) if (key.endsWith("Constraint")) delete config[key as never];
  const layerClass = layer.constructor as unknown as LayerClass;
  const copy = layerClass.fromConfig(layerClass, config);
  copy.setFastWeightInitDuringBuild(true);
  return copy;
}

/** Gives a copy the weights of its layer. TF.js shares their elements until one of the two gets others. */
function copyWeights(layer: Layer, copy: Layer): void {
  if (isModel(layer)) {
    for (const inner of layer.layers) copyWeights(inner, (copy as LayersModel).getLayer(inner.name));
    return;
  }
  if (classOf(layer) === "TimeDistributed") {
    const [wrapped, copied] = [layer, copy].map((one) => (one as unknown as { layer: Layer }).layer) as [Layer, Layer];
    copyWeights(wrapped, copied);
    return;
  }
  // `weights` has the trainable ones first, which a program may have changed; one layer makes its variables in the same order
  const inOrder = ({ weights }: Layer) => [...weights].sort((a, b) => a.id - b.id);
  const originals = inOrder(layer);
  for (const [i, variable] of inOrder(copy).entries()) variable.write((originals[i] as Variable).read());
}

function writeParameters(copy: Layer, { kernel, pointwise, bias }: Parameters): void {
  const fields = fieldsOf(copy);
  const write = (variable: Variable | null | undefined, data: Float64Array, shape: readonly number[]) => {
    const rounded = tensor(Float32Array.from(data), [...shape]);
    (variable as Variable).write(rounded);
    rounded.dispose();
  };
  write(fields.depthwiseKernel ?? fields.kernel, kernel.data, kernel.shape);
  if (pointwise) write(fields.pointwiseKernel, pointwise.data, pointwise.shape);
  if (bias) write(fields.bias, bias, [bias.length]);
}

/**
 * Returns a new model of a graph, whose layers it adds to `copies`. Those that are there already are folded models that are
 * nested in this one. Layers in `changed` get other parameters.
 */
function rebuild(
  graph: Graph,
  parameters: Map<Layer, Parameters>,
  changed: Set<Layer>,
  copies: Map<Layer, Layer>,
): LayersModel {
  const tensors = new Map<SymbolicTensor, SymbolicTensor>();
  const tensorOf = (t: SymbolicTensor) => tensors.get(graph.source(t)) as SymbolicTensor;
  for (const call of graph.calls) {
    const { layer, inputs, outputs } = call;
    if (inputs.length === 0) {
      const [output] = outputs as [SymbolicTensor];
      tensors.set(output, input({ batchShape: output.shape, dtype: output.dtype, name: layer.name }));
      continue;
    }
    const isNew = !copies.has(layer);
    const isIdentity = graph.identities.has(call);
    if (isIdentity) copies.set(layer, layers.activation({ activation: "linear", name: layer.name }));
    else if (isNew) copies.set(layer, copyOf(layer, changed.has(layer)));
    const copy = copies.get(layer) as Layer;
    const sources = inputs.map(tensorOf);
    // TF.js adds the states that a recurrent layer gets in a call to its inputs
    const { initialState, constants, ...kwargs } = call.options;
    const results = [
      copy.apply(sources.length === 1 ? (sources[0] as SymbolicTensor) : sources, kwargs as never),
    ].flat();
    for (const [i, output] of outputs.entries()) tensors.set(output, results[i] as SymbolicTensor);
    if (changed.has(layer)) writeParameters(copy, parameters.get(layer) as Parameters);
    else if (isNew && !isIdentity) copyWeights(layer, copy);
  }
  const { inputs, outputs, name } = graph.model;
  const result = functional({ inputs: inputs.map(tensorOf), outputs: outputs.map(tensorOf), name });
  const metadata = graph.model.getUserDefinedMetadata();
  if (metadata) result.setUserDefinedMetadata(metadata);
  return result;
}

/**
 * Returns a copy of a model of tf.layers in which batch norms are folded into the weights of dense and convolutional
 * layers, with a report of every batch norm. Predictions are the same within float32's rounding, and take fewer kernels
 * on every backend. Batch norms of TF.js and of this library are folded as this library computes them, which for an
 * axis that is not the last is not what TF.js's own layer computes (docs/guides/tfjs.md).
 *
 * The new model has the names of the original's layers, inputs and outputs, and is not compiled. It is for predictions:
 * constraints of the layers are left out. The original is not changed. Each of the two is disposed of by itself.
 *
 * Throws TypeError for what is no LayersModel, RangeError for one without an output, and BatchNormError if the model or one
 * of its layers is disposed of. A layer whose class cannot be constructed from its configuration throws
 * its own error.
 */
export async function foldModel(model: LayersModel): Promise<FoldedModel> {
  checkModel(model);
  if (model.outputs.length === 0) throw tooFew("model", "a model with an output", "none", "add its layers first");
  const graph = new Graph(model);
  const copies = new Map<Layer, Layer>();
  try {
    const report: FoldedBatchNorm[] = [];
    for (const owner of new Set(graph.calls.map(({ layer }) => layer))) {
      if (!isModel(owner)) {
        report.push(...keptInside(owner));
        continue;
      }
      const inner = await foldModel(owner);
      copies.set(owner, inner.model);
      report.push(...inner.report.map((entry) => ({ ...entry, name: `${owner.name}/${entry.name}` })));
    }
    const { sources, parameters } = await readParameters(graph);
    const changed = new Set<Layer>();
    report.push(...foldAll(graph, sources, parameters, changed));
    return { model: rebuild(graph, parameters, changed, copies), report };
  } catch (error) {
    for (const copy of copies.values()) for (const weight of copy.weights) weight.dispose();
    throw error;
  }
}
