// Folding of a safetensors file. It has tensors and their names, but not which layer a batch norm follows, so that the
// caller names the pairs. The names are PyTorch's.

import { asIs, inFile, wrongFile, wrongValue } from "../common/errors.ts";
import { checkKeys } from "../common/validate.ts";
import { foldUnrounded } from "../interop/fold.ts";
import { readSafetensors, type SafeTensor, type WritableTensor, writeSafetensors } from "../interop/safetensors.ts";
import { type Dtype, namedDtype } from "../tensor/dtype.ts";
import { floatsOf } from "../tensor/half.ts";
import type { BatchNormRecord } from "./batch-norm-record.ts";
import { type FoldedNode, type FoldReport, type KeptNode, tooInaccurate } from "./fold-report.ts";
import { readSafetensorsBatchNorms } from "./formats/safetensors.ts";
import { roundedArray } from "./rounding.ts";
import { type ByteSource, readWhole } from "./source.ts";

/** A linear or convolutional layer and the batch norm behind it, by the prefixes of their tensors' names. */
export interface FoldPair {
  /** The name of the convolution or the linear layer, whose tensors are `<name>.weight` and `<name>.bias`. */
  readonly layer: string;
  /** The name of the batch norm behind it. */
  readonly batchNorm: string;
}

/** Options of foldPairs. */
export interface FoldPairsOptions {
  /** The layers to fold, each with the batch norm behind it. */
  readonly pairs: readonly FoldPair[];
  /** The epsilon of all batch norms, which the format does not store. Default 1e-5, as in PyTorch. */
  readonly epsilon?: number;
  /** The expected error from which on a batch norm is kept, by default as for foldOnnx. */
  readonly tolerance?: number;
}

/** Largest file in bytes that is folded: all of it is in memory, and so is the result. */
const MAX_BYTES = 2 ** 32;

/** Ends of the names of a batch norm's tensors. */
const PARTS = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"];

/** What a batch norm is called in the last part of its name. */
const BATCH_NORM = /batch_?norm|bn|norm/i;

/** Returns the names that the layer before a batch norm would have. */
function layersBefore(name: string): string[] {
  const [, path, last] = /^(.*?)([^.]*)$/s.exec(name) as unknown as [string, string, string];
  // in a Sequential the layer has the number before
  if (/^\d+$/.test(last)) return [`${path}${Number(last) - 1}`];
  if (!BATCH_NORM.test(last)) return [];
  // conv1 before bn1, and conv1 before conv1_bn
  const names = ["conv", "fc", "linear"].map((word) => last.replace(BATCH_NORM, word));
  return [...names, last.replace(/[._]?(batch_?norm|bn|norm)$/i, "")].map((layer) => path + layer);
}

const isPytorch = ({ convention }: BatchNormRecord) => convention === "pytorch";

const tensorName = (prefix: string, part: string) => (prefix === "" ? part : `${prefix}.${part}`);

/**
 * Returns pairs of layers and batch norms of a safetensors file whose names and shapes match: conv1 and bn1, or two
 * neighbours of a Sequential. They are guesses: the file does not say which layer's output a batch norm takes, nor whether
 * an activation is between, so that a person has to look at them.
 */
export async function findPairs(source: ByteSource): Promise<FoldPair[]> {
  const { tensors } = readSafetensors(await readWhole(source, MAX_BYTES));
  const taken = new Set<string>();
  return (await readSafetensorsBatchNorms(source)).filter(isPytorch).flatMap(({ name, channels }) => {
    const layer = layersBefore(name).find((prefix) => {
      const { shape = [] } = tensors[tensorName(prefix, "weight")] ?? {};
      return prefix !== name && shape.length >= 2 && shape.length <= 5 && shape[0] === channels && !taken.has(prefix);
    });
    if (layer === undefined) return [];
    taken.add(layer);
    return [{ layer, batchNorm: name }];
  });
}

/** Returns a tensor of floats, or throws. */
function floatTensor(file: string, tensors: Record<string, SafeTensor>, name: string, where: string) {
  const tensor = tensors[name];
  const data = tensor && floatsOf(tensor.data, tensor.dtype);
  if (!data) {
    const got = asIs(tensor ? `elements of type ${tensor.dtype}` : "none");
    throw wrongFile(file, where, `a tensor ${name} of floats`, got, "look at the names in the file");
  }
  return {
    data: Float64Array.from(data),
    shape: tensor.shape,
    dtype: namedDtype(tensor.dtype) as Dtype,
    kind: tensor.dtype,
  };
}

/** Returns the new file. Throws BatchNormError "model-file" if new names make its header too long for the format. */
function written(file: string, tensors: Record<string, WritableTensor>, metadata: Readonly<Record<string, string>>) {
  try {
    return writeSafetensors(tensors, metadata);
  } catch (error) {
    throw inFile(file, error);
  }
}

/**
 * Folds batch norms of a safetensors file with PyTorch's names into the linear or convolutional layers before them, whose
 * weights are [O, I, …]. Returns the bytes of a file without these batch norms, in which each layer has a bias, and a
 * report. The program that loads it has to leave the batch norms out. Other tensors and the metadata stay as they are.
 *
 * A weight of a transposed convolution is [I, O, …] and is refused, unless it has as many inputs as outputs: then nothing
 * in the file tells the two apart. Throws BatchNormError "model-file" for a damaged file and for a pair that is not in it.
 */
export async function foldPairs(
  source: ByteSource,
  options: FoldPairsOptions,
): Promise<{ model: Uint8Array; report: FoldReport }> {
  checkKeys("options", options, ["pairs", "epsilon", "tolerance"]);
  const { pairs, epsilon = 1e-5, tolerance } = options;
  if (!(epsilon >= 0 && epsilon < 1)) throw wrongValue("epsilon", "a number from 0 up to 1", epsilon);
  const records = new Map((await readSafetensorsBatchNorms(source)).map((record) => [record.name, record]));
  const { tensors, metadata } = readSafetensors(await readWhole(source, MAX_BYTES));
  const result: Record<string, WritableTensor> = Object.assign(Object.create(null), tensors);
  const folded: FoldedNode[] = [];
  const kept = new Map<string, KeptNode>();
  for (const name of records.keys()) kept.set(name, { batchNorm: name, reason: "no pair names it" });
  const seen = new Set<string>();
  for (const { layer, batchNorm } of pairs) {
    const where = `the pair ${layer}:${batchNorm}`;
    const fail = (expected: string, got: unknown) => wrongFile(source.name, where, expected, got, "look at the pairs");
    for (const name of [layer, batchNorm]) {
      if (seen.has(name)) throw fail("layers and batch norms that are in one pair each", name);
      seen.add(name);
    }
    const record = records.get(batchNorm);
    if (!record || !isPytorch(record)) throw fail(`a batch norm ${batchNorm} with PyTorch's names`, asIs("none"));
    const { gamma = null, beta = null, mean, variance, problems } = record;
    if (problems || !mean || !variance) throw fail("a batch norm that is complete", problems?.[0]);
    const names = { weight: tensorName(layer, "weight"), bias: tensorName(layer, "bias") };
    const weight = floatTensor(source.name, tensors, names.weight, where);
    const bias = tensors[names.bias] ? floatTensor(source.name, tensors, names.bias, where).data : null;
    const { shape, dtype, kind } = weight;
    const vectors = [gamma, beta, bias, variance].filter((v) => v !== null);
    const fits = shape.length >= 2 && shape.length <= 5 && shape[0] === mean.length && mean.length > 0;
    if (!fits || vectors.some(({ length }) => length !== mean.length))
      throw fail(`a weight [${mean.length}, …] for ${mean.length} channels, and vectors of that length`, shape);
    const isLinear = shape.length === 2;
    const {
      weight: newWeight,
      bias: newBias,
      expectedError,
    } = foldUnrounded(
      isLinear ? "linear" : "conv",
      { weight: { data: weight.data, shape }, bias },
      { gamma, beta, runningMean: mean, runningVariance: variance, options: { epsilon } },
      { format: isLinear ? "OI" : "OIHW" },
      dtype,
    );
    const reason = tooInaccurate("backward", expectedError, dtype, tolerance);
    if (reason) {
      kept.set(batchNorm, { batchNorm, reason });
      continue;
    }
    kept.delete(batchNorm);
    folded.push({ batchNorm, into: [layer], direction: "backward", expectedError });
    result[names.weight] = { data: roundedArray(newWeight, dtype), shape, dtype: kind };
    result[names.bias] = { data: roundedArray(newBias, dtype), shape: [newBias.length], dtype: kind };
    for (const part of PARTS) delete result[tensorName(batchNorm, part)];
  }
  return { model: written(source.name, result, metadata), report: { folded, kept: [...kept.values()] } };
}
