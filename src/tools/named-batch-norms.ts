// Finds batch norms among named tensors: wherever a mean and a variance have the names of one framework and one prefix.

import { wrongFile } from "../common/errors.ts";
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

/**
 * The frameworks in the order in which their names are tried. TF.js has Keras's names. ONNX's `mean` and `var` of before
 * opset 14 are Flax's.
 */
const TRIED = (["pytorch", "keras", "haiku", "onnx", "flax"] as const).map((framework): CleanNames => {
  const { ignored, gamma, beta, mean, variance, batches } = NAMES[framework];
  const clean = (path: string) => (ignored ? path.replace(ignored, "") : path);
  const first = framework === "onnx" ? 1 : undefined;
  return {
    framework,
    clean,
    gamma: gamma.map(clean),
    beta: beta.map(clean),
    mean: mean.slice(0, first).map(clean),
    variance: variance.slice(0, first).map(clean),
    batches: batches === undefined ? [] : [clean(batches)],
    isCommon: framework === "flax",
  };
});

/** The name of a batch norm whose tensors have no prefix, as in the state of a single layer. */
const TOP = "(top level)";

type Part = "gamma" | "beta" | "mean" | "variance" | "batches";
const PARTS: readonly Part[] = ["gamma", "beta", "mean", "variance", "batches"];

/** A batch norm's tensors. */
interface Group {
  readonly prefix: string;
  readonly names: CleanNames;
  readonly parts: Partial<Record<Part, NamedTensor>>;
}

/** Returns the number of elements of a vector with any number of axes of 1, or undefined for other shapes. */
function lengthOf(shape: readonly number[]): number | undefined {
  const sizes = shape.filter((size) => size !== 1);
  return sizes.length > 1 ? undefined : (sizes[0] ?? (shape.length ? 1 : undefined));
}

/** Returns the tensors of one framework's batch norms, by prefix. */
function groupsOf(tensors: readonly NamedTensor[], names: CleanNames): Map<string, Group> {
  const all = new Map<string, NamedTensor>();
  for (const tensor of tensors) all.set(names.clean(tensor.name).replaceAll("/", "."), tensor);
  const groups = new Map<string, Group>();
  const statistics = [...names.mean, ...names.variance].map((name) => name.replaceAll("/", "."));
  for (const path of all.keys()) {
    const last = statistics.find((name) => path === name || path.endsWith(`.${name}`));
    if (last === undefined) continue;
    const prefix = path.slice(0, path.length - last.length);
    if (groups.has(prefix)) continue;
    const parts: Partial<Record<Part, NamedTensor>> = {};
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
async function recordOf({ names, parts }: Group, name: string, format: ModelFormat, file: string) {
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
    name,
    format,
    convention: names.framework,
    channels,
    dtype: statistic.dtype,
    ...vectors,
    ...(batches === undefined || Number.isNaN(batches) ? {} : { batches }),
    ...(problems.length ? { problems } : {}),
  } satisfies BatchNormRecord;
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
  const records = new Map<NamedTensor, BatchNormRecord>();
  for (const names of TRIED)
    for (const group of groupsOf(tensors, names).values()) {
      const statistic = (group.parts.mean ?? group.parts.variance) as NamedTensor;
      // "/" and "." are one character, so that the prefix is as long in the file's own spelling
      const name = names.clean(statistic.name).slice(0, Math.max(0, group.prefix.length - 1));
      records.set(statistic, await recordOf(group, name || TOP, format, file));
    }
  return tensors.flatMap((tensor) => records.get(tensor) ?? []);
}
