// An ONNX model as graphs of nodes that can be edited: names, who produces and who takes them, and the bytes of the
// edited model. (onnx.proto; onnx/docs/IR.md)

import { WireType } from "@bufbuild/protobuf/wire";
import { asIs } from "../../common/errors.ts";
import { entryOf, type TensorMessage, tensorMessage } from "./tensor.ts";
import { type Field, joined, lastOf, lengthDelimited, Wire } from "./wire.ts";

const MODEL = { irVersion: 1, graph: 7, opsetImport: 8, trainingInfo: 20, functions: 25 } as const;
const OPSET = { domain: 1, version: 2 } as const;
const GRAPH = {
  node: 1,
  name: 2,
  initializer: 5,
  input: 11,
  output: 12,
  valueInfo: 13,
  annotation: 14,
  sparse: 15,
} as const;
const NODE = { input: 1, output: 2, name: 3, opType: 4, attribute: 5, domain: 7 } as const;
const ATTRIBUTE = { name: 1, f: 2, i: 3, s: 4, t: 5, g: 6, ints: 8, tensors: 10, graphs: 11, reference: 21 } as const;
const FUNCTION = { name: 1, node: 7 } as const;

/** Levels of graphs within graphs. onnxruntime has no limit; models of PyTorch and of TensorFlow have a few. */
const MAX_DEPTH = 32;

/** Entries of a list of integers in an attribute. The lists that are read have two entries for each spatial axis. */
const MAX_INTEGERS = 1024;

/** A place where a value is taken. */
export interface Use {
  /** The node that takes the value, or undefined if it is an output of a graph or has a quantization annotation. */
  readonly node: Node | undefined;
  readonly kind: "input" | "output" | "annotation";
  /** The graph of the node or of the output, which may be inside a node of the value's graph. */
  readonly graph: Graph;
}

/** An attribute of a node. */
interface Attribute {
  readonly field: Field;
  readonly fields: readonly Field[];
  readonly graphs: readonly { readonly field: Field; readonly graph: Graph }[];
}

/** A node of a graph. */
export class Node {
  readonly graph: Graph;
  readonly field: Field;
  readonly opType: string;
  /** Whether the operator is one of ONNX itself, and not of another domain. */
  readonly isOnnx: boolean;
  readonly name: string;
  readonly inputs: string[];
  readonly outputs: string[];
  readonly attributes: ReadonlyMap<string, Attribute>;
  #isRemoved = false;
  /** The NodeProto of an Add that the edited graph has behind this node. */
  #behind: Uint8Array | undefined;
  #changed = false;
  readonly #fields: readonly Field[];
  readonly #place: string;
  readonly #dropped = new Set<string>();

  constructor(graph: Graph, field: Field, index: number) {
    const { wire } = graph;
    const where = `${graph.place}, node ${index}`;
    this.graph = graph;
    this.field = field;
    this.#fields = wire.fields(wire.bytes(field, where), where, Object.values(NODE));
    const texts = (number: number) => this.#fields.filter((f) => f.number === number).map((f) => wire.text(f, where));
    this.inputs = texts(NODE.input);
    this.outputs = texts(NODE.output);
    this.opType = texts(NODE.opType).at(-1) ?? "";
    this.isOnnx = ["", "ai.onnx"].includes(texts(NODE.domain).at(-1) ?? "");
    this.name = texts(NODE.name).at(-1) ?? "";
    this.#place = `${graph.place}, node ${JSON.stringify(this.label)}`;
    const attributes = new Map<string, Attribute>();
    for (const f of this.#fields.filter(({ number }) => number === NODE.attribute)) {
      const fields = wire.fields(wire.bytes(f, this.#place), this.#place, Object.values(ATTRIBUTE));
      const nameField = lastOf(fields, ATTRIBUTE.name);
      const name = nameField ? wire.text(nameField, this.#place) : "";
      if (attributes.has(name)) throw wire.malformed(this.#place, "every attribute once", name);
      const path = `${graph.path}${this.label}/${name}`;
      const graphs = fields
        .filter(({ number }) => number === ATTRIBUTE.g || number === ATTRIBUTE.graphs)
        .map((g, i) => {
          const suffix = g.number === ATTRIBUTE.graphs ? `[${i}]` : "";
          return {
            field: g,
            graph: new Graph(wire, wire.bytes(g, this.#place), graph, `${path}${suffix}/`, graph.depth + 1),
          };
        });
      attributes.set(name, { field: f, fields, graphs });
    }
    this.attributes = attributes;
  }

  /** The node's name, or that of its first output. */
  get label(): string {
    return this.name || this.outputs[0] || this.opType;
  }

  /** The node's label behind the path of its graph. */
  get path(): string {
    return this.graph.path + this.label;
  }

  get isRemoved(): boolean {
    return this.#isRemoved;
  }

  is(...opTypes: readonly string[]): boolean {
    return this.isOnnx && opTypes.includes(this.opType);
  }

  /** The graphs in the node's attributes. */
  get subgraphs(): Graph[] {
    return [...this.attributes.values()].flatMap(({ graphs }) => graphs.map(({ graph }) => graph));
  }

  #value(name: string, number: number): Field | undefined {
    const attribute = this.attributes.get(name);
    if (attribute && lastOf(attribute.fields, ATTRIBUTE.reference))
      throw this.graph.wire.malformed(
        this.#place,
        `a value of the attribute ${name}`,
        asIs("a reference to a function's"),
      );
    return attribute && lastOf(attribute.fields, number);
  }

  /** Returns the integer of an attribute, or `missing`. */
  integer(name: string, missing: number): number {
    const field = this.#value(name, ATTRIBUTE.i);
    return field ? (this.graph.wire.integers([field], 1, this.#place)[0] as number) : missing;
  }

  /** Returns the float of an attribute, or `missing`. */
  float(name: string, missing: number): number {
    const field = this.#value(name, ATTRIBUTE.f);
    return field ? (this.graph.wire.floats([field], 4, this.#place)[0] ?? missing) : missing;
  }

  /** Returns the text of an attribute, or `missing`. */
  text(name: string, missing: string): string {
    const field = this.#value(name, ATTRIBUTE.s);
    return field ? this.graph.wire.text(field, this.#place) : missing;
  }

  /** Returns the integers of an attribute, which are none if it is absent. */
  integers(name: string): number[] {
    const fields = this.attributes.get(name)?.fields.filter(({ number }) => number === ATTRIBUTE.ints) ?? [];
    return this.graph.wire.integers(fields, MAX_INTEGERS, this.#place);
  }

  /** Returns the tensor of an attribute, or undefined. */
  tensor(name: string): TensorMessage | undefined {
    const field = this.#value(name, ATTRIBUTE.t);
    const { wire } = this.graph;
    return field && { ...tensorMessage(wire, wire.bytes(field, this.#place), this.#place), place: this.#place };
  }

  /** The tensors in all attributes. */
  get tensors(): TensorMessage[] {
    const { wire } = this.graph;
    return [...this.attributes.values()]
      .flatMap(({ fields }) => fields.filter(({ number }) => number === ATTRIBUTE.t || number === ATTRIBUTE.tensors))
      .map((field) => tensorMessage(wire, wire.bytes(field, this.#place), this.#place));
  }

  #change(): void {
    this.#changed = true;
    this.graph.change();
  }

  /** Lets the node take another value at an input, which may be one behind the last. */
  setInput(index: number, name: string): void {
    this.graph.unuse(this, this.inputs[index]);
    while (this.inputs.length < index) this.inputs.push("");
    this.inputs[index] = name;
    this.graph.use(name, this);
    this.#change();
  }

  /** Gives the node's first output another name, which no other node has. */
  setOutput(name: string): void {
    this.graph.producers.delete(this.outputs[0] as string);
    this.outputs[0] = name;
    this.graph.producers.set(name, this);
    this.#change();
  }

  /** Removes an attribute, so that it has its default. */
  dropAttribute(name: string): void {
    if (!this.attributes.has(name)) return;
    this.#dropped.add(name);
    this.#change();
  }

  /** Removes the node. Its inputs are no longer used, and its outputs have no producer. */
  remove(): void {
    for (const name of this.inputs) this.graph.unuse(this, name);
    for (const name of this.outputs) if (this.graph.producers.get(name) === this) this.graph.producers.delete(name);
    this.#isRemoved = true;
    this.graph.change();
  }

  /** Puts an Add behind the node: the node's first output is `sum` then, and the Add makes what it made before. */
  addBehind(sum: string, bias: string): void {
    const output = this.outputs[0] as string;
    this.setOutput(sum);
    this.graph.use(bias, this);
    this.#behind = joined([
      ...[sum, bias].map((name) => lengthDelimited(NODE.input, name)),
      lengthDelimited(NODE.output, output),
      ...(this.name ? [lengthDelimited(NODE.name, `${this.name}/Add`)] : []),
      lengthDelimited(NODE.opType, "Add"),
    ]);
  }

  /** Returns the bytes of the node's field in the edited graph: none if it has been removed. */
  encode(): Uint8Array {
    if (this.#isRemoved) return new Uint8Array(0);
    if (!this.#changed && !this.subgraphs.some((graph) => graph.isChanged)) return this.field.raw;
    const attributeOf = new Map(
      [...this.attributes].map(([name, attribute]) => [attribute.field, { name, ...attribute }]),
    );
    const counts = { [NODE.input]: 0, [NODE.output]: 0 };
    const texts = { [NODE.input]: this.inputs, [NODE.output]: this.outputs };
    const lastInput = this.#fields.filter(({ number }) => number === NODE.input).at(-1);
    const parts: Uint8Array[] = [];
    for (const field of this.#fields) {
      const { number, raw } = field;
      if (number === NODE.input || number === NODE.output) {
        const name = texts[number][counts[number]++] as string;
        parts.push(this.graph.wire.text(field, this.#place) === name ? raw : lengthDelimited(number, name));
        if (field !== lastInput) continue;
        parts.push(...this.inputs.slice(counts[number]).map((more) => lengthDelimited(number, more)));
        continue;
      }
      const attribute = attributeOf.get(field);
      if (!attribute) parts.push(raw);
      else if (!this.#dropped.has(attribute.name)) parts.push(encodeAttribute(attribute));
    }
    const node = lengthDelimited(GRAPH.node, joined(parts));
    return this.#behind ? joined([node, lengthDelimited(GRAPH.node, this.#behind)]) : node;
  }
}

function encodeAttribute({ field, fields, graphs }: Attribute): Uint8Array {
  if (!graphs.some(({ graph }) => graph.isChanged)) return field.raw;
  const parts = fields.map((f) => {
    const graph = graphs.find((g) => g.field === f)?.graph;
    return graph?.isChanged ? lengthDelimited(f.number, graph.encode()) : f.raw;
  });
  return lengthDelimited(NODE.attribute, joined(parts));
}

/** An initialiser of a graph. */
export interface Initializer extends TensorMessage {
  readonly field: Field;
}

/** A graph of nodes: that of a model, or one in an attribute of a node. */
export class Graph {
  readonly wire: Wire;
  /** The graph around this one, whose names the nodes of this one may take. */
  readonly parent: Graph | undefined;
  readonly depth: number;
  /** The path of the graph for names of nodes, "" for the model's. It ends in a slash. */
  readonly path: string;
  readonly place: string;
  readonly nodes: readonly Node[];
  readonly initializers = new Map<string, Initializer>();
  readonly producers = new Map<string, Node>();
  /** Names of the graph's inputs, each with its field. */
  readonly inputs = new Map<string, Field>();
  readonly outputs: readonly string[];
  /** The names of sparse initialisers, which are not read. */
  readonly sparse = new Set<string>();
  readonly #values = new Map<string, Field[]>();
  readonly #annotated: readonly string[];
  readonly #uses = new Map<string, Set<Use>>();
  readonly #fields: readonly Field[];
  readonly #instead = new Map<Field, Uint8Array | null>();
  readonly #added: Uint8Array[] = [];
  #isChanged = false;

  constructor(wire: Wire, bytes: Uint8Array, parent: Graph | undefined, path: string, depth: number) {
    this.wire = wire;
    this.parent = parent;
    this.path = path;
    this.depth = depth;
    this.place = path ? `graph ${JSON.stringify(path.slice(0, -1))}` : "graph";
    if (depth > MAX_DEPTH)
      throw wire.malformed(this.place, `at most ${MAX_DEPTH} graphs inside each other`, asIs("more"));
    this.#fields = wire.fields(bytes, this.place, Object.values(GRAPH));
    const of = (number: number) => this.#fields.filter((field) => field.number === number);
    const messages = (number: number) => of(number).map((field) => ({ field, bytes: wire.bytes(field, this.place) }));
    const nameIn = (message: Uint8Array) => {
      const field = lastOf(wire.fields(message, this.place, [1]), 1);
      return field ? wire.text(field, this.place) : "";
    };
    const once = (isNew: boolean, name: string) => {
      if (!isNew) throw wire.malformed(this.place, "every name once", name);
    };
    for (const { field, bytes } of messages(GRAPH.initializer)) {
      const tensor = tensorMessage(wire, bytes, `${this.place}, initializer`);
      once(!this.initializers.has(tensor.name), tensor.name);
      this.initializers.set(tensor.name, { ...tensor, field });
    }
    for (const { bytes } of messages(GRAPH.sparse)) {
      // SparseTensorProto.values is a TensorProto with the name
      const values = lastOf(wire.fields(bytes, this.place, [1]), 1);
      if (values) this.sparse.add(tensorMessage(wire, wire.bytes(values, this.place), this.place).name);
    }
    for (const { field, bytes } of messages(GRAPH.input)) this.inputs.set(nameIn(bytes), field);
    this.outputs = messages(GRAPH.output).map(({ bytes }) => nameIn(bytes));
    for (const { field, bytes } of messages(GRAPH.valueInfo)) {
      const name = nameIn(bytes);
      this.#values.set(name, [...(this.#values.get(name) ?? []), field]);
    }
    this.#annotated = messages(GRAPH.annotation).flatMap(({ bytes }) => {
      const fields = wire.fields(bytes, this.place, [1, 2]);
      return fields.flatMap((field) => {
        if (field.number === 1) return [wire.text(field, this.place)];
        return field.number === 2 ? [entryOf(wire, wire.bytes(field, this.place), this.place)[1]] : [];
      });
    });
    this.nodes = of(GRAPH.node).map((field, index) => new Node(this, field, index));
    for (const node of this.nodes)
      for (const name of node.outputs) {
        if (name === "") continue;
        once(!this.producers.has(name) && !this.initializers.has(name) && !this.inputs.has(name), name);
        this.producers.set(name, node);
      }
    // the graphs inside are complete, so that what they do not define themselves is this graph's or an outer one's
    if (!parent) this.#connect();
  }

  #connect(): void {
    for (const node of this.nodes) {
      for (const name of node.inputs) this.use(name, node);
      for (const graph of node.subgraphs) graph.#connect();
    }
    for (const name of this.outputs) this.#add(name, { node: undefined, kind: "output", graph: this });
    for (const name of this.#annotated) this.#add(name, { node: undefined, kind: "annotation", graph: this });
  }

  /** Returns the graph that defines a name which nodes of this graph take: this one, one around it, or none. */
  ownerOf(name: string): Graph | undefined {
    const isOwn =
      this.producers.has(name) || this.initializers.has(name) || this.inputs.has(name) || this.sparse.has(name);
    return isOwn ? this : this.parent?.ownerOf(name);
  }

  /** All names that the graph's values have, or that are taken in it. */
  get names(): string[] {
    const ofNodes = this.nodes.flatMap(({ inputs, outputs }) => [...inputs, ...outputs]);
    const lists = [
      this.initializers.keys(),
      this.inputs.keys(),
      this.#values.keys(),
      this.sparse,
      this.outputs,
      ofNodes,
    ];
    return lists.flatMap((names) => [...names]);
  }

  #add(name: string, use: Use): void {
    const owner = name === "" ? undefined : this.ownerOf(name);
    if (!owner) return;
    const uses = owner.#uses.get(name);
    if (uses) uses.add(use);
    else owner.#uses.set(name, new Set([use]));
  }

  /** Notes that a node of this graph takes a value. */
  use(name: string, node: Node): void {
    this.#add(name, { node, kind: "input", graph: this });
  }

  /** Notes that a node of this graph takes a value one time less. */
  unuse(node: Node, name: string | undefined): void {
    const owner = name ? this.ownerOf(name) : undefined;
    if (!owner || !name) return;
    const uses = owner.#uses.get(name) ?? new Set();
    for (const use of uses)
      if (use.node === node) {
        uses.delete(use);
        return;
      }
  }

  /** Returns the places that take a value of this graph, in this graph and in those inside it. */
  usesOf(name: string): Use[] {
    return [...(this.#uses.get(name) ?? [])];
  }

  /** Returns the known sizes of a value's axes, or undefined if nothing is known of its shape. */
  shapeOf(name: string): (number | undefined)[] | undefined {
    const { wire, place } = this;
    const field = this.#values.get(name)?.[0] ?? this.inputs.get(name) ?? this.#outputInfo(name);
    // ValueInfoProto.type (2), TypeProto.tensor_type (1), Tensor.shape (2), TensorShapeProto.dim (1), dim_value (1)
    let message = field?.value;
    for (const number of [2, 1, 2]) {
      const inner = message && lastOf(wire.fields(message, place, [number]), number);
      message = inner && wire.bytes(inner, place);
    }
    if (!message) return undefined;
    const dims = wire.fields(message, place, [1]).filter(({ number }) => number === 1);
    return dims.map((dim) => {
      const value = lastOf(wire.fields(wire.bytes(dim, place), place, [1]), 1);
      return value && wire.integers([value], 1, place)[0];
    });
  }

  #outputInfo(name: string): Field | undefined {
    const index = this.outputs.indexOf(name);
    return this.#fields.filter(({ number }) => number === GRAPH.output)[index];
  }

  /** Removes what is said of the type and the shape of a value that no longer exists. */
  forgetValue(name: string): void {
    for (const field of this.#values.get(name) ?? []) this.#instead.set(field, null);
    this.change();
  }

  /** Removes an initialiser, and the graph's input of its name if there is one. */
  removeInitializer({ name, field }: Initializer): void {
    this.initializers.delete(name);
    this.#instead.set(field, null);
    this.forgetValue(name);
    const input = this.inputs.get(name);
    if (!input) return;
    this.#instead.set(input, null);
    this.inputs.delete(name);
  }

  /** Gives an initialiser the bytes of another TensorProto with its name. */
  replaceInitializer(initializer: Initializer, tensor: Uint8Array): void {
    this.initializers.set(initializer.name, { ...initializer, bytes: tensor });
    this.#instead.set(initializer.field, lengthDelimited(GRAPH.initializer, tensor));
    this.change();
  }

  /** Adds an initialiser. With `input`, a ValueInfoProto, it is an input of the graph, too. */
  addInitializer(name: string, tensor: Uint8Array, input?: Uint8Array): void {
    const raw = lengthDelimited(GRAPH.initializer, tensor);
    const field: Field = { number: GRAPH.initializer, type: WireType.LengthDelimited, raw, value: tensor };
    this.initializers.set(name, { name, bytes: tensor, place: this.place, field });
    this.#added.push(raw);
    this.change();
    if (!input) return;
    const rawInput = lengthDelimited(GRAPH.input, input);
    this.inputs.set(name, { number: GRAPH.input, type: WireType.LengthDelimited, raw: rawInput, value: input });
    this.#added.push(rawInput);
  }

  /** Whether the graph or one inside it has been edited. */
  get isChanged(): boolean {
    return this.#isChanged;
  }

  /** Notes that this graph, and so those around it, are edited. */
  change(): void {
    this.#isChanged = true;
    this.parent?.change();
  }

  /** Returns the bytes of the edited graph. */
  encode(): Uint8Array {
    const nodes = new Map(this.nodes.map((node) => [node.field, node]));
    const parts = this.#fields.map((field) => {
      const node = nodes.get(field);
      if (node) return node.encode();
      const instead = this.#instead.get(field);
      return instead === null ? new Uint8Array(0) : (instead ?? field.raw);
    });
    return joined([...parts, ...this.#added]);
  }
}

/** A model: its graph, and what holds for all of its nodes. */
export class Model {
  readonly wire: Wire;
  readonly graph: Graph;
  readonly irVersion: number;
  /** The version of ONNX's own operators. */
  readonly opset: number;
  /** Whether the model says how to train it, and refers to its initialisers by name there. */
  readonly hasTraining: boolean;
  /** Batch norms inside functions of the model, which have no initialisers of their own. */
  readonly inFunctions: readonly string[];
  readonly #fields: readonly Field[];

  constructor(file: string, bytes: Uint8Array) {
    const wire = new Wire(file);
    this.wire = wire;
    this.#fields = wire.fields(bytes, "model", Object.values(MODEL));
    const of = (number: number) => this.#fields.filter((field) => field.number === number);
    const graphs = of(MODEL.graph);
    if (graphs.length !== 1) throw wire.malformed("model", "one graph", graphs.length);
    this.irVersion = wire.integers(of(MODEL.irVersion).slice(-1), 1, "model, ir_version")[0] ?? 0;
    const opsets = of(MODEL.opsetImport).map((field) => {
      const place = "model, opset_import";
      const fields = wire.fields(wire.bytes(field, place), place, Object.values(OPSET));
      const domain = lastOf(fields, OPSET.domain);
      const versions = fields.filter(({ number }) => number === OPSET.version).slice(-1);
      return { domain: domain ? wire.text(domain, place) : "", version: wire.integers(versions, 1, place)[0] ?? 0 };
    });
    this.opset = opsets.find(({ domain }) => ["", "ai.onnx"].includes(domain))?.version ?? 1;
    this.hasTraining = of(MODEL.trainingInfo).length > 0;
    this.inFunctions = of(MODEL.functions).flatMap((field) =>
      batchNormsInFunction(wire, wire.bytes(field, "function")),
    );
    this.graph = new Graph(wire, wire.bytes(graphs[0] as Field, "model"), undefined, "", 0);
  }

  /** All graphs: the model's, and those inside nodes. */
  get graphs(): Graph[] {
    const all: Graph[] = [];
    const add = (graph: Graph) => {
      all.push(graph);
      for (const node of graph.nodes) node.subgraphs.forEach(add);
    };
    add(this.graph);
    return all;
  }

  /** The tensors that are still in the model: initialisers, and those in attributes of nodes. */
  get tensors(): TensorMessage[] {
    return this.graphs.flatMap(({ initializers, nodes }) => [
      ...initializers.values(),
      ...nodes.filter((node) => !node.isRemoved).flatMap((node) => node.tensors),
    ]);
  }

  /** Returns the bytes of the edited model. */
  encode(): Uint8Array {
    const parts = this.#fields.map((field) =>
      field.number === MODEL.graph && this.graph.isChanged
        ? lengthDelimited(MODEL.graph, this.graph.encode())
        : field.raw,
    );
    return joined(parts);
  }
}

function batchNormsInFunction(wire: Wire, bytes: Uint8Array): string[] {
  const fields = wire.fields(bytes, "function", Object.values(FUNCTION));
  const nameField = lastOf(fields, FUNCTION.name);
  const name = nameField ? wire.text(nameField, "function") : "";
  return fields
    .filter(({ number }) => number === FUNCTION.node)
    .flatMap((field) => {
      const node = wire.fields(wire.bytes(field, "function"), "function", Object.values(NODE));
      const text = (number: number) => {
        const found = lastOf(node, number);
        return found ? wire.text(found, "function") : "";
      };
      if (text(NODE.opType) !== "BatchNormalization") return [];
      return [`${name}/${text(NODE.name) || text(NODE.output)}`];
    });
}
