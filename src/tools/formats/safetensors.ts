// Batch norms of a safetensors file. Only the header and the ranges of their tensors are read.

import { inFile, wrongFile } from "../../common/errors.ts";
import { type HeaderEntry, headerEnd, LENGTH_BYTES, readHeader, tensorOf } from "../../interop/safetensors.ts";
import { countOf } from "../../interop/state-dict.ts";
import { floatsOf } from "../../tensor/half.ts";
import type { BatchNormRecord } from "../batch-norm-record.ts";
import { batchNormsAmong, type NamedTensor } from "../named-batch-norms.ts";
import { type ByteSource, readRange } from "../source.ts";

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
function namedTensor(source: ByteSource, start: number, entry: HeaderEntry): NamedTensor {
  const { name, label, dtype, shape, begin, end } = entry;
  const read = async () => {
    const bytes = await readRange(source, label, start + begin, start + end);
    return tensorOf(bytes, 0, { ...entry, begin: 0, end: end - begin });
  };
  return {
    name,
    dtype,
    shape,
    async floats() {
      if (!/^(F64|F32|F16|BF16)$/.test(dtype)) return undefined;
      return Float64Array.from(floatsOf((await read()).data, dtype) as ArrayLike<number>);
    },
    // a counter has one element, and whatever has more is none
    count: async () => (end - begin > 8 ? Number.NaN : countOf(await read())),
  };
}

/** Returns the batch norms of a safetensors file, sorted by name, numbers in names by their value. */
export async function readSafetensorsBatchNorms(source: ByteSource): Promise<BatchNormRecord[]> {
  const { start, entries } = await openSafetensors(source);
  const tensors = entries.map((entry) => namedTensor(source, start, entry));
  const records = await batchNormsAmong(tensors, "safetensors", source.name);
  const { compare } = new Intl.Collator("en", { numeric: true });
  return records.sort((a, b) => compare(a.name, b.name));
}
