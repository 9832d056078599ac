// Batch norms of a safetensors file. Only the header and the ranges of their tensors are read.

import { asIs, inFile, wrongFile } from "../../common/errors.ts";
import { isObject } from "../../common/validate.ts";
import { type HeaderEntry, headerEnd, LENGTH_BYTES, readHeader, tensorOf } from "../../interop/safetensors.ts";
import { countOf } from "../../interop/state-dict.ts";
import { floatsOf } from "../../tensor/half.ts";
import type { BatchNormRecord } from "../batch-norm-record.ts";
import { batchNormsAmong, type StoredTensor } from "../named-batch-norms.ts";
import { type ByteSource, readJson, readRange } from "../source.ts";

/** The most shards of a checkpoint. It is a chosen value: they have some gigabytes each, and every one is an open file. */
const MAX_SHARDS = 4096;

/** A safetensors file whose header has been read: where its data begin, and its tensors in the order of their data. */
export interface OpenSafetensors {
  readonly start: number;
  readonly entries: readonly HeaderEntry[];
  readonly metadata: Record<string, string>;
}

/** Reads the header alone. Throws BatchNormError "model-file" for a file that breaks a rule of the format. */
export async function openSafetensors(source: ByteSource): Promise<OpenSafetensors> {
  const { name, size } = source;
  if (size < LENGTH_BYTES) throw wrongFile(name, "the file", `at least ${LENGTH_BYTES} bytes`, size);
  try {
    const start = headerEnd(await readRange(source, "the length of the header", 0, LENGTH_BYTES), size);
    return { start, ...readHeader(await readRange(source, "the header", LENGTH_BYTES, start), size - start) };
  } catch (error) {
    throw inFile(name, error);
  }
}

/** Returns a tensor of the header whose elements are read on demand. */
function namedTensor(source: ByteSource, start: number, entry: HeaderEntry): StoredTensor {
  const { name, label, dtype, shape, begin, end } = entry;
  const read = async () => {
    const bytes = await readRange(source, label, start + begin, start + end);
    return tensorOf(bytes, 0, { ...entry, begin: 0, end: end - begin });
  };
  return {
    name,
    dtype,
    type: dtype,
    shape,
    size: end - begin,
    bytes: (from, to) => readRange(source, label, start + begin + from, start + begin + to),
    async floats() {
      if (!/^(F64|F32|F16|BF16)$/.test(dtype)) return undefined;
      return Float64Array.from(floatsOf((await read()).data, dtype) as ArrayLike<number>);
    },
    // a counter has one element, and whatever has more is none
    count: async () => (end - begin > 8 ? Number.NaN : countOf(await read())),
  };
}

/** The tensors of a checkpoint, whose values have not been read, and its metadata. */
interface Tensors {
  readonly tensors: readonly StoredTensor[];
  readonly metadata: Readonly<Record<string, string>>;
}

/** Returns the tensors of a safetensors file, of which the header alone has been read, and its metadata. */
export async function safetensorsTensors(source: ByteSource): Promise<Tensors> {
  const { start, entries, metadata } = await openSafetensors(source);
  return { tensors: entries.map((entry) => namedTensor(source, start, entry)), metadata };
}

/** Returns a new list of what has names, sorted by them, numbers in names by their value. */
export function sortedByName<T extends { readonly name: string }>(list: readonly T[]): T[] {
  const { compare } = new Intl.Collator("en", { numeric: true });
  return [...list].sort((a, b) => compare(a.name, b.name));
}

/** Returns the batch norms of a safetensors file, sorted by name, numbers in names by their value. */
export async function readSafetensorsBatchNorms(source: ByteSource): Promise<BatchNormRecord[]> {
  const { tensors } = await safetensorsTensors(source);
  return sortedByName(await batchNormsAmong(tensors, "safetensors", source.name));
}

/** Returns the batch norms of a checkpoint in several safetensors files, as shardedTensors reads it. */
export async function readShardedBatchNorms(source: ByteSource): Promise<BatchNormRecord[]> {
  const { tensors } = await shardedTensors(source);
  return sortedByName(await batchNormsAmong(tensors, "safetensors", source.name));
}

/**
 * Returns the tensors of a checkpoint in several safetensors files, from its index: {"weight_map": {"name": "file"}}. Throws
 * BatchNormError "model-file" if a file lacks a tensor that the index says it has.
 */
export async function shardedTensors(source: ByteSource): Promise<Tensors> {
  const { name: file } = source;
  const { weight_map: map } = ((await readJson(source)) ?? {}) as { weight_map?: unknown };
  if (!isObject(map)) throw wrongFile(file, "weight_map", "an object of file names by tensor", map);
  const paths = new Set<unknown>(Object.values(map));
  if (paths.size > MAX_SHARDS) throw wrongFile(file, "weight_map", `at most ${MAX_SHARDS} files`, paths.size);
  const tensors: StoredTensor[] = [];
  const metadata: Record<string, string> = Object.create(null);
  for (const path of paths) {
    const shard = await safetensorsTensors(await source.sibling(path as string));
    const names = new Set(shard.tensors.map(({ name }) => name));
    const missing = Object.entries(map).find(([name, other]) => other === path && !names.has(name));
    if (missing) throw wrongFile(file, "weight_map", `the tensor ${missing[0]} in ${path}`, asIs("none there"));
    tensors.push(...shard.tensors);
    Object.assign(metadata, shard.metadata);
  }
  return { tensors, metadata };
}
