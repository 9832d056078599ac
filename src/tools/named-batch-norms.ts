// Finds batch norms among named tensors: wherever a mean and a variance have the names of one framework and one prefix.

import { wrongFile } from "../common/errors.ts";
import type { SafetensorsDtype } from "../interop/safetensors.ts";
import { NAMES } from "../interop/state-dict.ts";
import type { Framework } from "../layer/options.ts";
import type { BatchNormRecord, ModelFormat } from "./batch-norm-record.ts";

/** A tensor of a file, whose values have not been read. */
export interface NamedTensor {
  readonly name: string;
  /** The type of the elements, under the format's own name. */
  readonly dtype: string;
  readonly shape: readonly number[];
  /** Reads all elements, or returns undefined for elements that are no floats. */
  floats(): Promise<Float64Array | undefined>;
  /** Reads the one integer of a counter. Returns NaN for a tensor that is none. */
  count(): Promise<number>;
}

/** A tensor whose bytes can be written to a safetensors file. */
export interface StoredTensor extends NamedTensor {
  /** The type of the elements in a safetensors file, or undefined for elements that it cannot hold. */
  readonly type: SafetensorsDtype | undefined;
  /** The size in bytes in a safetensors file. */
  readonly size: number;
  /** Returns the bytes of a safetensors file from `begin` up to, not including, `end`, both multiples of 8 or the size. */
  bytes(begin: number, end: number): Promise<Uint8Array>;
}

/**
 * The largest number of channels that is read. It is a chosen value: the widest layers have some 2¹⁵, and a file may
 * claim anything.
 */
const MAX_CHANNELS = 2 ** 24;

/** The names of one framework, without what `ignored` of its names removes. */
interface CleanNames {
  readonly framework: Framework;
  readonly clean: (path: string) => string;
  readonly gamma: readonly string[];
  readonly beta: readonly string[];
  readonly mean: readonly string[];
  readonly variance: readonly string[];
  readonly batches: readonly string[];
  /** Whether the names are words that mean something else in other models, so that they need each other. */
  readonly isCommon: boolean;
}

/** Returns the names of a framework; `most` is the number of names of each statistic that are known. */
function cleanNames(framework: Framework, most?: number): CleanNames {
  const { ignored, gamma, beta, mean, variance, batches } = NAMES[framework];
  const clean = (path: string) => (ignored ? path.replace(ignored, "") : path);
  return {
    framework,
    clean,
    gamma: gamma.map(clean),
    beta: beta.map(clean),
    mean: mean.slice(0, most).map(clean),
    variance: variance.slice(0, most).map(clean),
    batches: batches === undefined ? [] : [clean(batches)],
    isCommon: framework === "flax",
  };
}

/**
 * The frameworks in the order in which their names are tried. TF.js has Keras's names. ONNX's `mean` and `var` of before
 * opset 14 are Flax's.
 */
const TRIED = (["pytorch", "keras", "haiku", "onnx", "flax"] as const).map((framework) =>
  cleanNames(framework, framework === "onnx" ? 1 : undefined),
);

/** The name of a batch norm whose tensors have no prefix, as in the state of a single layer. */
export const TOP = "(top level)";

export type Part = "gamma" | "beta" | "mean" | "variance" | "batches";
export const PARTS: readonly Part[] = ["gamma", "beta", "mean", "variance", "batches"];

/** A batch norm's tensors. */
interface Group<T extends NamedTensor = NamedTensor> {
  readonly prefix: string;
  readonly names: CleanNames;
  readonly parts: Partial<Record<Part, T>>;
}

/** Returns the number of elements of a vector with any number of axes of 1, or undefined for other shapes. */
export function lengthOf(shape: readonly number[]): number | undefined {
  const sizes = shape.filter((size) => size !== 1);
  return sizes.length > 1 ? undefined : (sizes[0] ?? (shape.length ? 1 : undefined));
}

/** Returns the tensors of one framework's batch norms, by prefix. */
function groupsOf<T extends NamedTensor>(tensors: readonly T[], names: CleanNames): Map<string, Group<T>> {
  const all = new Map<string, T>();
  for (const tensor of tensors) all.set(names.clean(tensor.name).replaceAll("/", "."), tensor);
  const groups = new Map<string, Group<T>>();
  const statistics = [...names.mean, ...names.variance].map((name) => name.replaceAll("/", "."));
  for (const path of all.keys()) {
    const last = statistics.find((name) => path === name || path.endsWith(`.${name}`));
    if (last === undefined) continue;
    const prefix = path.slice(0, path.length - last.length);
    if (groups.has(prefix)) continue;
    const parts: Partial<Record<Part, T>> = {};
    for (const part of PARTS)
      for (const name of names[part]) {
        const tensor = all.get(prefix + name.replaceAll("/", "."));
        if (tensor) parts[part] ??= tensor;
      }
    const { mean, variance } = parts;
    const isSure = !names.isCommon || (mean && variance && lengthOf(mean.shape) === lengthOf(variance.shape));
    if (isSure && [mean, variance].some((tensor) => tensor && lengthOf(tensor.shape) !== undefined))
      groups.set(prefix, { prefix, names, parts });
  }
  return groups;
}

/**
 * Reads a vector of a batch norm, or adds to `problems` why its tensor is none. Throws BatchNormError "model-file" for one
 * with more channels than any layer has.
 */
export async function readVector(
  tensor: NamedTensor,
  file: string,
  problems: string[],
): Promise<Float64Array | undefined> {
  const length = lengthOf(tensor.shape);
  if (length === undefined) {
    problems.push(`${tensor.name} has the shape [${tensor.shape}], which is no vector`);
    return undefined;
  }
  if (length > MAX_CHANNELS) throw wrongFile(file, tensor.name, `at most ${MAX_CHANNELS} channels`, length);
  const floats = await tensor.floats();
  if (!floats) problems.push(`${tensor.name} has elements of type ${tensor.dtype}, which are no floats`);
  return floats;
}

/** Reads one batch norm. */
async function recordOf({ names, parts, name }: NamedGroup, format: ModelFormat, file: string) {
  const statistic = (parts.mean ?? parts.variance) as NamedTensor;
  const channels = lengthOf(statistic.shape) ?? 0;
  const problems: string[] = [];
  const vectors: Partial<Record<Exclude<Part, "batches">, Float64Array>> = {};
  for (const part of ["gamma", "beta", "mean", "variance"] as const) {
    const tensor = parts[part];
    if (!tensor) {
      if (part === "mean" || part === "variance") problems.push(`${names[part][0]} is missing`);
      continue;
    }
    const floats = await readVector(tensor, file, problems);
    if (floats) vectors[part] = floats;
  }
  const batches = await parts.batches?.count();
  return {
    name: name || TOP,
    format,
    convention: names.framework,
    channels,
    dtype: statistic.dtype,
    ...vectors,
    ...(batches === undefined || Number.isNaN(batches) ? {} : { batches }),
    ...(problems.length ? { problems } : {}),
  } satisfies BatchNormRecord;
}

/** A batch norm's tensors, with its name in the file's own spelling, which is empty for tensors without a prefix. */
export interface NamedGroup<T extends NamedTensor = NamedTensor> extends Group<T> {
  readonly name: string;
}

/**
 * Returns the tensors of every batch norm, known by the names of PyTorch, Keras and TF.js, Haiku, ONNX and Flax, or of `from`
 * alone, in the order of the tensors.
 */
export function batchNormGroups<T extends NamedTensor>(tensors: readonly T[], from?: Framework): NamedGroup<T>[] {
  const groups = new Map<T, NamedGroup<T>>();
  for (const names of from === undefined ? TRIED : [cleanNames(from)])
    for (const group of groupsOf(tensors, names).values()) {
      const statistic = (group.parts.mean ?? group.parts.variance) as T;
      // "/" and "." are one character, so that the prefix is as long in the file's own spelling
      const name = names.clean(statistic.name).slice(0, Math.max(0, group.prefix.length - 1));
      groups.set(statistic, { ...group, name });
    }
  return tensors.flatMap((tensor) => groups.get(tensor) ?? []);
}

/**
 * Returns the batch norms among tensors, known by the names of PyTorch, Keras and TF.js, Haiku, ONNX and Flax, in the order
 * of the tensors. A layer's name is the prefix of its tensors. `file` is for error messages.
 */
export async function batchNormsAmong(
  tensors: readonly NamedTensor[],
  format: ModelFormat,
  file: string,
): Promise<BatchNormRecord[]> {
  const records: BatchNormRecord[] = [];
  for (const group of batchNormGroups(tensors)) records.push(await recordOf(group, format, file));
  return records;
}
