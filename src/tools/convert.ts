// Conversion of a whole checkpoint: the batch norms' tensors get the names of another framework, and everything else is copied.
// Values are copied by ranges, so that memory holds one chunk of the file at a time. docs/guides/move-between-frameworks.md has the rules.

import { asIs, inFile, wrongFile, wrongKind, wrongValue } from "../common/errors.ts";
import { checkKeys, checkNumber, isObject, oneOf } from "../common/validate.ts";
import { HALF, layOut, METADATA, type SafetensorsDtype, tensorOf, type Writable } from "../interop/safetensors.ts";
import { besselFactor, FRAMEWORKS, NAMES } from "../interop/state-dict.ts";
import type { Framework } from "../layer/options.ts";
import { type Data, type Dtype, namedDtype } from "../tensor/dtype.ts";
import { floatsOf, rounded } from "../tensor/half.ts";
import type { BatchNormRecord, ModelFormat } from "./batch-norm-record.ts";
import { formatOf } from "./formats/index.ts";
import { kerasBatchNorms, openKeras } from "./formats/keras/index.ts";
import { readShardedBatchNorms, safetensorsTensors, shardedTensors, sortedByName } from "./formats/safetensors.ts";
import { openTfjs, tfjsBatchNorms } from "./formats/tfjs/index.ts";
import { momentumOf } from "./inspect.ts";
import {
  batchNormGroups,
  lengthOf,
  type NamedGroup,
  PARTS,
  type Part,
  type StoredTensor,
  TOP,
} from "./named-batch-norms.ts";
import type { ByteSource } from "./source.ts";

/** The most bytes of a chunk, a multiple of 8. It is a chosen value: little memory, and few reads of a large file. */
const CHUNK = 2 ** 22;

/** The frameworks between which `convert` converts. */
export { FRAMEWORKS };

/** What `convert` is to do. */
export interface ConvertOptions {
  /** The framework whose names the batch norms get. */
  readonly to: Framework;
  /** The framework whose names the file has. Without it, the names of each batch norm tell. */
  readonly from?: Framework;
  /**
   * The number of values per channel in a training batch (N·H·W): one number for all batch norms, or numbers by their names
   * in the file. With it, the running variance is converted between unbiased and biased where the frameworks keep different
   * ones. Without it, values are copied, and inference gives the same results.
   */
  readonly count?: number | Readonly<Record<string, number>>;
}

/** A tensor of a batch norm. */
export interface ConvertedTensor {
  /** Its name in the file, or null for one that the conversion has added. */
  readonly from: string | null;
  /** Its name in the new file, or null for one that has no place there. */
  readonly to: string | null;
  /** What has happened to its values or its shape. Without it, they are copied. */
  readonly change?: string;
}

/** A batch norm that has the names of the other framework in the new file. */
export interface ConvertedLayer {
  /** The name of the batch norm in the file. */
  readonly name: string;
  /** The framework whose names it has in the file. */
  readonly from: Framework;
  /** Its name in the new file. */
  readonly newName: string;
  /** The number of channels, C. */
  readonly channels: number;
  /** The type of the running mean, as a safetensors file names it. */
  readonly dtype: string;
  /** Where the file stores it. A safetensors file has no place for it, so that the new layer needs it as an option. */
  readonly epsilon?: number;
  /** The momentum under both definitions: PyTorch's is the weight of the new batch, that of all others of the old value. */
  readonly momentum?: { readonly pytorch: number; readonly keras: number };
  /** The factor by which the running variance was multiplied: 1 if it is copied. */
  readonly varianceFactor: number;
  /** Its tensors: those of the file, and those that the conversion has added. */
  readonly tensors: readonly ConvertedTensor[];
  /** What to know before the layer is used. */
  readonly notes: readonly string[];
}

/** A batch norm or a tensor that is not converted, and the reason. */
export interface Unconverted {
  /** The name of the batch norm in the file. */
  readonly name: string;
  /** Why it keeps its names, as a text for people. */
  readonly reason: string;
}

/** The report of a conversion: plain values. */
export interface ConversionReport {
  /** The name of the file. */
  readonly file: string;
  /** The format of the file. */
  readonly format: ModelFormat;
  /** The framework whose names the batch norms have got. */
  readonly to: Framework;
  /** The batch norms that were converted. */
  readonly layers: readonly ConvertedLayer[];
  /** The batch norms that were not, with the reasons. */
  readonly unconverted: readonly Unconverted[];
  /** The number of tensors of other layers, which keep their names and bytes. */
  readonly others: number;
  /** What to know of the file as a whole. */
  readonly notes: readonly string[];
}

/** A converted checkpoint, whose bytes are read from the source when they are asked for. */
export interface Conversion {
  /** What was converted, and what was not. */
  readonly report: ConversionReport;
  /** The size of the new file in bytes. */
  readonly size: number;
  /**
   * Yields the new file, a safetensors file: its header, then pieces of at most 4 MiB, which may be views of the source's
   * memory.
   */
  chunks(): AsyncGenerator<Uint8Array<ArrayBuffer>>;
  /** Returns the new file as one array. */
  bytes(): Promise<Uint8Array<ArrayBuffer>>;
}

/** A tensor of the new file. */
interface Output extends Writable {
  bytes(begin: number, end: number): Promise<Uint8Array>;
}

/**
 * Gives the batch norms of a checkpoint the names of another framework. The source is a safetensors file, the index of several,
 * a model of Keras (.keras, .h5) or the model.json of a TF.js layers model, and the result is a safetensors file. All other tensors keep their names, types and bytes, since the
 * weights of convolutions have other axes in each framework. A safetensors file keeps its metadata.
 *
 * Throws BatchNormError "model-file" for a file that cannot be read, for one without batch norms, and if two tensors would
 * have one name. Throws TypeError or RangeError for wrong options.
 */
export async function convert(source: ByteSource, options: ConvertOptions): Promise<Conversion> {
  const { to, from, countOf, names } = resolve(options);
  const { format, tensors, metadata, records } = await open(source);
  const found = batchNormGroups(tensors, from);
  const groups = format === "safetensors" ? sortedByName(found) : found;
  if (groups.length === 0)
    throw wrongFile(
      source.name,
      "the file",
      `batch norms with the names of ${from ?? "a framework"}`,
      asIs(`${tensors.length} tensors without`),
      from === undefined
        ? "pass `from` (--from) if they are ONNX's of before opset 14"
        : "leave out `from` (--from), or name another framework",
    );
  const unknown = names.find((name) => !groups.some((group) => labelOf(group) === name));
  if (unknown !== undefined) throw wrongValue("options.count", "names of batch norms in the file", unknown);

  const layers: ConvertedLayer[] = [];
  const unconverted: Unconverted[] = [];
  const outputs: Output[] = [];
  const claimed = new Set<StoredTensor>();
  const parts = new Set(groups.flatMap((group) => Object.values(group.parts)));
  const beside = tensorsBeside(tensors, groups, parts);
  checkOnce(source.name, beside);
  for (const group of groups) {
    const name = labelOf(group);
    const reason = whyNot(group) ?? records.get(name)?.problems?.[0];
    if (reason !== undefined) {
      unconverted.push({ name, reason });
      continue;
    }
    const converter = new Converter(group, to, countOf(name), beside.get(group) ?? []);
    const from = format === "tfjs" ? format : group.names.framework; // TF.js has Keras's names
    layers.push({ ...converter.layer(), from, ...configurationOf(records.get(name)) });
    outputs.push(...converter.outputs);
    for (const tensor of converter.claimed) claimed.add(tensor);
  }
  const rest = tensors.filter((tensor) => !claimed.has(tensor));
  for (const tensor of rest) {
    const output = copyOf(tensor, tensor.name);
    if (output) outputs.push(output);
    else unconverted.push({ name: tensor.name, reason: `safetensors has no type for elements of ${tensor.dtype}` });
  }
  checkNames(source.name, outputs);
  const kept = new Set(layers.flatMap((layer) => layer.tensors.map((tensor) => tensor.from)));
  const { head, order, size } = laidOut(source.name, outputs, metadata);
  const report: ConversionReport = {
    ...{ file: source.name, format, to, layers, unconverted },
    others: rest.filter((tensor) => !parts.has(tensor) && !kept.has(tensor.name)).length,
    notes: fileNotes(layers, to, format),
  };
  const chunks = async function* () {
    yield head as Uint8Array<ArrayBuffer>;
    for (const output of order)
      for (let begin = 0; begin < output.size; begin += CHUNK)
        yield (await output.bytes(begin, Math.min(begin + CHUNK, output.size))) as Uint8Array<ArrayBuffer>;
  };
  return {
    ...{ report, size, chunks },
    async bytes() {
      const file = new Uint8Array(size);
      let end = 0;
      for await (const chunk of chunks()) {
        file.set(chunk, end);
        end += chunk.length;
      }
      return file;
    },
  };
}

/** Checks the options. `names` are those of the batch norms for which there is a count. */
function resolve(options: ConvertOptions) {
  checkKeys("convert options", options, ["to", "from", "count"]);
  const { to, from, count } = options;
  if (to === undefined) throw wrongKind("options.to", `a framework among ${FRAMEWORKS.join(", ")}`, to);
  const check = (name: string, value: unknown) =>
    checkNumber(name, value, "more than 1 value per channel", (n) => n > 1 && n < Infinity);
  const counts = isObject(count) ? new Map(Object.entries(count)) : undefined;
  if (counts) for (const [name, value] of counts) check(`options.count[${JSON.stringify(name)}]`, value);
  else if (count !== undefined) check("options.count", count);
  return {
    to: oneOf("options.to", to, FRAMEWORKS, to),
    from: from === undefined ? undefined : oneOf("options.from", from, FRAMEWORKS, from),
    countOf: (name: string) => (counts ? counts.get(name) : (count as number | undefined)),
    names: [...(counts?.keys() ?? [])],
  };
}

interface Opened {
  readonly format: ModelFormat;
  readonly tensors: readonly StoredTensor[];
  readonly metadata: Readonly<Record<string, string>>;
  /** The batch norms by name, where the format has configurations. */
  readonly records: ReadonlyMap<string, BatchNormRecord>;
}

async function open(source: ByteSource): Promise<Opened> {
  const { format, read } = await formatOf(source);
  if (format === "safetensors") {
    const tensors = read === readShardedBatchNorms ? shardedTensors : safetensorsTensors;
    return { format, ...(await tensors(source)), records: new Map() };
  }
  const byName = (records: readonly BatchNormRecord[]) => new Map(records.map((record) => [record.name, record]));
  if (format === "keras") {
    const model = await openKeras(source);
    return { format, tensors: model.tensors, metadata: {}, records: byName(await kerasBatchNorms(model)) };
  }
  if (format !== "tfjs")
    throw wrongFile(
      source.name,
      "the file",
      "safetensors, a model of Keras or a TF.js model (model.json)",
      format,
      "convert one of these",
    );
  const model = await openTfjs(source);
  if (isObject(model.topology) && "node" in model.topology)
    throw wrongFile(
      source.name,
      "the model",
      "a layers model, whose weights have the names of their layers",
      asIs("a graph model"),
      "convert the model that the graph was made of",
    );
  return { format, tensors: model.tensors, metadata: {}, records: byName(await tfjsBatchNorms(model)) };
}

const labelOf = ({ name }: NamedGroup) => name || TOP;

/** Returns why a batch norm cannot be converted, or undefined if it can. */
function whyNot({ names, parts }: NamedGroup<StoredTensor>): string | undefined {
  const missing = (["mean", "variance"] as const).find((part) => !parts[part]);
  if (missing) return `${names[missing][0]} is missing`;
  const channels = lengthOf((parts.mean as StoredTensor).shape);
  for (const part of ["mean", "variance", "gamma", "beta"] as const) {
    const { [part]: tensor } = parts;
    if (!tensor) continue;
    const { name, shape, type, dtype } = tensor;
    if (lengthOf(shape) === undefined) return `${name} has the shape [${shape}], which is no vector`;
    if (lengthOf(shape) !== channels) return `${name} has ${lengthOf(shape)} values for ${channels} channels`;
    if (type === undefined) return `${name} has elements of ${dtype}, for which safetensors has no type`;
  }
  return undefined;
}

/** Returns the tensors below each batch norm's name that are none of its parts, apart from those of modules inside it. */
function tensorsBeside(
  tensors: readonly StoredTensor[],
  groups: readonly NamedGroup<StoredTensor>[],
  parts: ReadonlySet<StoredTensor>,
) {
  const frameworks = new Map(groups.map(({ names }) => [names.framework, names]));
  const byPrefix = new Map(groups.map((group) => [`${group.names.framework}:${group.prefix}`, group]));
  const beside = new Map<NamedGroup<StoredTensor>, { tensor: StoredTensor; name: string }[]>();
  for (const tensor of tensors)
    for (const { framework, clean } of parts.has(tensor) ? [] : frameworks.values()) {
      const path = clean(tensor.name).replaceAll("/", ".");
      let prefix = path.slice(0, path.lastIndexOf(".") + 1);
      // Haiku's statistics are modules inside the batch norm
      if (framework === "haiku") prefix = prefix.replace(/(^|\.)(mean|var)_ema\.$/, "$1");
      const group = byPrefix.get(`${framework}:${prefix}`);
      if (!group) continue;
      const list = beside.get(group) ?? [];
      beside.set(group, list);
      list.push({ tensor, name: path.slice(prefix.length) });
    }
  return beside;
}

/** Throws BatchNormError "model-file" if a batch norm has two tensors for one value, as `gamma` and `gamma:0`. */
function checkOnce(file: string, beside: ReturnType<typeof tensorsBeside>): void {
  for (const [{ names, parts }, list] of beside)
    for (const { tensor, name } of list) {
      const part = PARTS.find((part) => names[part].some((own) => own.replaceAll("/", ".") === name));
      if (part)
        throw wrongFile(
          file,
          tensor.name,
          "one tensor for each value of a batch norm",
          `${parts[part]?.name}, too`,
          "remove one of the two from the file, or rename its layer",
        );
    }
}

/** Returns a tensor of the new file that is one of the source, or undefined for a type that the format does not have. */
function copyOf({ type, shape, size, bytes }: StoredTensor, name: string): Output | undefined {
  return type && { name, dtype: type, shape, size, bytes };
}

const isFloat = (type: SafetensorsDtype | undefined) => /^(F64|F32|F16|BF16)$/.test(type ?? "");

const bytesOf = ({ buffer, byteOffset, byteLength }: Data) => new Uint8Array(buffer, byteOffset, byteLength);

/** Returns a vector of the new file with values times a factor, each rounded once to its type. */
function scaled(vector: Output, factor: number): Output {
  const { dtype, bytes } = vector;
  return {
    ...vector,
    async bytes(from, to) {
      const raw = await bytes(from, to);
      const entry = { name: "", label: "", dtype, shape: [], begin: 0, end: raw.length };
      const { data } = tensorOf(raw, 0, entry);
      const values = Float64Array.from(floatsOf(data, dtype) as ArrayLike<number>, (v) => v * factor);
      return bytesOf(rounded(values, namedDtype(dtype) as Dtype, data as Data));
    },
  };
}

/** Returns a vector of the new file that is one number throughout, like another vector in type and size. */
function filled(name: string, { type, size, shape }: StoredTensor, value: number): Output {
  const dtype = isFloat(type) ? (type as SafetensorsDtype) : "F32";
  const channels = lengthOf(shape) as number;
  const one = bytesOf(rounded(Float64Array.of(value), namedDtype(dtype) as Dtype, new Uint16Array(0)));
  return {
    ...{ name, dtype, shape: [channels], size: isFloat(type) ? size : channels * one.length },
    bytes: async (from, to) => Uint8Array.from({ length: to - from }, (_, i) => one[i % one.length] as number),
  };
}

/** Converts one batch norm. */
class Converter {
  readonly outputs: Output[] = [];
  /** The tensors of the source that are not copied under their names. */
  readonly claimed: StoredTensor[] = [];
  readonly #group: NamedGroup<StoredTensor>;
  readonly #to: Framework;
  readonly #count: number | undefined;
  readonly #beside: readonly { tensor: StoredTensor; name: string }[];
  readonly #tensors: ConvertedTensor[] = [];
  readonly #notes: string[] = [];
  readonly #newName: string;
  #varianceFactor = 1;

  constructor(
    group: NamedGroup<StoredTensor>,
    to: Framework,
    count: number | undefined,
    beside: readonly { tensor: StoredTensor; name: string }[],
  ) {
    this.#group = group;
    this.#to = to;
    this.#count = count;
    this.#beside = beside;
    const mean = group.names.clean((group.parts.mean as StoredTensor).name);
    this.#newName = renamed(group.name, mean.charAt(group.name.length), to);
  }

  layer(): Omit<ConvertedLayer, "from"> {
    const { names, parts, name } = this.#group;
    const mean = parts.mean as StoredTensor;
    // Keras and TF.js have the same
    if (NAMES[this.#to] === NAMES[names.framework]) this.#keep();
    else {
      for (const part of PARTS) this.#part(part);
      this.#fill();
      this.#drop();
      if (this.#to === "haiku") this.#addHaiku();
      this.#noteNames();
    }
    return {
      name: name || TOP,
      newName: this.#newName || TOP,
      channels: lengthOf(mean.shape) as number,
      dtype: mean.type as SafetensorsDtype,
      varianceFactor: this.#varianceFactor,
      tensors: this.#tensors,
      notes: this.#notes,
    };
  }

  /** Leaves a batch norm as it is that has the other framework's names already. */
  #keep(): void {
    const own = this.#beside.filter(({ name }) => this.#isOwn(name));
    for (const { name } of [...Object.values(this.#group.parts), ...own.map(({ tensor }) => tensor)])
      this.#tensors.push({ from: name, to: name });
  }

  /** Whether a name is that of a value which only the source's framework has. */
  #isOwn(name: string): boolean {
    const { framework, clean } = this.#group.names;
    const { unread = [], values } = NAMES[framework];
    return [...unread, ...(values === undefined ? [] : [values])].some(
      (own) => clean(own).replaceAll("/", ".") === name,
    );
  }

  #part(part: Part): void {
    const { [part]: tensor } = this.#group.parts;
    if (!tensor) return;
    this.claimed.push(tensor);
    const name = newNameOf(this.#to, part, this.#newName);
    if (name === undefined) {
      this.#tensors.push({ from: tensor.name, to: null, change: `${this.#to} has no count of batches` });
      return;
    }
    this.#put(part, tensor, name);
  }

  /** Adds a tensor to the new file. */
  #put(part: Part, tensor: StoredTensor, name: string): void {
    const changes: string[] = [];
    let output = copyOf(tensor, name) as Output;
    const { shape } = tensor;
    if (part !== "batches" && shape.length !== 1) {
      const vector = [lengthOf(shape) as number];
      output = { ...output, shape: vector };
      changes.push(`shape [${shape}] → [${vector}]`);
    }
    if (part === "variance") {
      const from = NAMES[this.#group.names.framework].runningVariance;
      const to = NAMES[this.#to].runningVariance;
      const factor = besselFactor(from, to, this.#count);
      if (factor !== 1 && isFloat(output.dtype)) {
        this.#varianceFactor = factor;
        output = scaled(output, factor);
        changes.push(`${from} → ${to}, times ${factor}`);
      } else if (factor !== 1) this.#notes.push(`${tensor.name} has elements of ${output.dtype}, and stays ${from}`);
    }
    this.outputs.push(output);
    this.#tensors.push({ from: tensor.name, to: name, ...(changes.length && { change: changes.join("; ") }) });
  }

  /** Adds a gamma of ones or a beta of zeros where the other framework has no layer without it. */
  #fill(): void {
    const { parts } = this.#group;
    const isNeeded = this.#to === "onnx" || (this.#to === "pytorch" && Boolean(parts.gamma) !== Boolean(parts.beta));
    for (const [part, value] of [
      ["gamma", 1],
      ["beta", 0],
    ] as const) {
      if (!isNeeded || parts[part]) continue;
      const name = newNameOf(this.#to, part, this.#newName) as string;
      this.outputs.push(filled(name, parts.mean as StoredTensor, value));
      this.#tensors.push({
        from: null,
        to: name,
        change: `added, ${value} in every channel, since ${this.#to} needs it`,
      });
    }
  }

  /** Leaves out values that only the source's framework has, and notes tensors that no framework has. */
  #drop(): void {
    const { framework } = this.#group.names;
    for (const { tensor, name } of this.#beside)
      if (this.#isOwn(name)) {
        this.claimed.push(tensor);
        this.#tensors.push({ from: tensor.name, to: null, change: `only ${framework} has it` });
      } else if (this.#group.name)
        this.#notes.push(
          `${tensor.name} is none of ${framework}'s values and keeps its name; pass \`from\` (--from) if the names are of another framework`,
        );
  }

  /** Adds what Haiku's moving averages need to go on in training. */
  #addHaiku(): void {
    const { mean, variance, batches } = this.#group.parts;
    const below = `${NAMES.haiku.collections[1]}${this.#newName}${this.#newName && "/"}~/`;
    if (!batches) {
      this.#notes.push(
        "the file has no count of batches, so that Haiku's hidden and counter are left out: evaluation does not need them, and training does",
      );
      return;
    }
    const counter = `${below}var_ema/counter`;
    this.outputs.push({ ...(copyOf(batches, counter) as Output) });
    this.#tensors.push({ from: batches.name, to: counter });
    for (const [tensor, ema, part] of [
      [mean, "mean_ema", "mean"],
      [variance, "var_ema", "variance"],
    ] as const) {
      const average = newNameOf("haiku", part, this.#newName);
      const name = `${below}${ema}/hidden`;
      const output = this.outputs.find((other) => other.name === average) as Output;
      this.outputs.push({ ...output, name });
      this.#tensors.push({
        from: (tensor as StoredTensor).name,
        to: name,
        change: "equal to the average",
      });
    }
  }

  /** Notes that a conversion back would give another name, as of Haiku's "~" and of names with both "." and "/". */
  #noteNames(): void {
    const { names, parts } = this.#group;
    const { name } = parts.mean as StoredTensor;
    const layer = renamed(this.#newName, NAMES[this.#to].separator, names.framework);
    const back = newNameOf(names.framework, "mean", layer);
    if (back !== name) this.#notes.push(`converted back, ${name} would be ${back}`);
  }
}

/** Returns a layer's name with the separator of a framework. */
function renamed(name: string, separator: string, to: Framework): string {
  return separator === "" ? name : name.replaceAll(separator, NAMES[to].separator);
}

/** Returns the name of a value of a layer in a framework, or undefined for one that it does not have. */
function newNameOf(framework: Framework, part: Part, layer: string): string | undefined {
  const { collections, separator, [part]: own } = NAMES[framework];
  const name = typeof own === "string" ? own : own?.[0];
  const collection = collections[part === "gamma" || part === "beta" ? 0 : 1];
  return name === undefined ? undefined : collection + layer + (layer && separator) + name;
}

/** Returns what a format says of a batch norm's options. */
function configurationOf(record: BatchNormRecord | undefined) {
  const momentum = record && momentumOf(record);
  return { ...(record?.epsilon !== undefined && { epsilon: record.epsilon }), ...(momentum && { momentum }) };
}

/** Throws BatchNormError "model-file" if two tensors of the new file have one name, or one a name that the format forbids. */
function checkNames(file: string, outputs: readonly Output[]): void {
  const seen = new Set<string>();
  for (const { name } of outputs) {
    // names in JSON of TF.js may be any text
    if (name === METADATA || HALF.test(name))
      throw wrongFile(
        file,
        "the name of a tensor",
        "one that a safetensors file can hold",
        name,
        "rename the weight in the model",
      );
    if (seen.has(name))
      throw wrongFile(
        file,
        `the new name ${JSON.stringify(name.slice(0, 60))}`,
        "one tensor",
        asIs("two"),
        "rename one of the two layers in the file, or pass `from` (--from) if the names are of another framework",
      );
    seen.add(name);
  }
}

/** Lays out the new file. Throws BatchNormError "model-file" if longer names make its header too long for the format. */
function laidOut(file: string, outputs: Output[], metadata: Readonly<Record<string, string>>) {
  try {
    return layOut(outputs, metadata);
  } catch (error) {
    throw inFile(file, error);
  }
}

/** Returns what the conversion leaves to the user, for the file as a whole. */
function fileNotes(layers: readonly ConvertedLayer[], to: Framework, format: ModelFormat): string[] {
  const { runningVariance } = NAMES[to];
  const copied = layers.filter(
    ({ from, varianceFactor }) => NAMES[from].runningVariance !== runningVariance && varianceFactor === 1,
  );
  const notes: string[] = [];
  if (copied.length)
    notes.push(
      `The running variance of ${copied.length} of ${layers.length} batch norms is copied, while ${to} keeps ` +
        `${runningVariance === "biased" ? "a biased" : "an unbiased"} one. Inference gives the same results. To convert it, ` +
        "pass `count` (--count), the number of values per channel in a training batch (N·H·W).",
    );
  if (to === "haiku")
    notes.push(
      "Haiku's vectors have the shape [1, …, 1, C]: reshape those of the file, which have [C]. Training goes on exactly where " +
        "decay_rate^counter is below 3e-8, as from 1,700 batches on at 0.99, since hidden is the average.",
    );
  notes.push(
    `A safetensors file has no place for epsilon and momentum: give the new layers ${format === "safetensors" ? "the old ones'" : "those of this report"}.`,
  );
  return notes;
}
