// The weights of a TF.js model: a manifest in model.json, whose groups lie one after the other in shards beside it.
//
//   {"paths": ["group1-shard1of2.bin", …], "weights": [{"name", "shape", "dtype", "quantization"?: {"dtype", "scale", "min"}}]}
//
// A group's tensors follow each other without gaps, across the ends of shards.

import { asIs, wrongFile } from "../../../common/errors.ts";
import { isArray, isNumbers, isObject } from "../../../common/validate.ts";
import type { SafetensorsDtype } from "../../../interop/safetensors.ts";
import { floatsOf } from "../../../tensor/half.ts";
import type { StoredTensor } from "../../named-batch-norms.ts";
import { type ByteSource, readRange } from "../../source.ts";

/** Bytes of an element of each type. Texts have a length of their own each. */
const BYTES: Readonly<Record<string, number>> = {
  float32: 4,
  int32: 4,
  complex64: 8,
  bool: 1,
  uint8: 1,
  uint16: 2,
  float16: 2,
};

/** The most shards of a model. It is a chosen value: they have 4 MB each, and every one is an open file. */
const MAX_SHARDS = 4096;

interface Quantization {
  readonly dtype: string;
  readonly scale: number;
  readonly min: number;
}

/** A tensor of a manifest: its entry there, and its bytes as the shards have them. */
export interface ManifestTensor extends StoredTensor {
  readonly entry: Readonly<Record<string, unknown>>;
  /** Returns the bytes of the shards, which are integers or float16 if the tensor is quantised. */
  stored(): Promise<Uint8Array>;
}

/** The description of a tensor in the manifest, checked. */
interface Spec {
  readonly entry: Readonly<Record<string, unknown>>;
  readonly name: string;
  readonly label: string;
  readonly shape: readonly number[];
  readonly size: number;
  readonly dtype: string;
  readonly quantization: Quantization | undefined;
}

/** The shards of a group as one range of bytes. */
class Shards {
  readonly #shards: readonly ByteSource[];
  readonly size: number;

  constructor(shards: readonly ByteSource[]) {
    this.#shards = shards;
    this.size = shards.reduce((sum, { size }) => sum + size, 0);
  }

  /** Returns the bytes of a range that is inside the group. */
  async read(where: string, begin: number, end: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(end - begin);
    let start = 0; // of a shard in the group
    for (const shard of this.#shards) {
      const [from, to] = [Math.max(begin, start), Math.min(end, start + shard.size)];
      if (from < to) bytes.set(await readRange(shard, where, from - start, to - start), from - begin);
      start += shard.size;
    }
    return bytes;
  }
}

function specOf(file: string, value: unknown): Spec {
  const entry = (isObject(value) ? value : {}) as Record<string, unknown>;
  const { name, shape, dtype, quantization } = entry;
  if (typeof name !== "string") throw wrongFile(file, "weightsManifest", "weights with a name", value);
  const label = `the weight ${JSON.stringify(name.slice(0, 60))}`;
  if (!isNumbers(shape) || !shape.every((size) => Number.isSafeInteger(size) && size >= 0))
    throw wrongFile(file, label, "a shape of non-negative integers", shape);
  const size = shape.reduce((a, b) => a * b, 1);
  if (!Number.isSafeInteger(size)) throw wrongFile(file, label, "fewer than 2^53 elements", asIs(`[${shape}]`));
  if (typeof dtype !== "string" || !(dtype === "string" || Object.hasOwn(BYTES, dtype)))
    throw wrongFile(file, label, `a dtype among string, ${Object.keys(BYTES).join(", ")}`, dtype);
  return { entry, name, label, shape, size, dtype, quantization: quantizationOf(file, label, quantization) };
}

function quantizationOf(file: string, label: string, value: unknown): Quantization | undefined {
  if (value === undefined || value === null) return undefined;
  const { dtype, scale = 1, min = 0 } = (isObject(value) ? value : {}) as Record<string, unknown>;
  if (typeof dtype !== "string" || !/^(uint8|uint16|float16)$/.test(dtype))
    throw wrongFile(file, label, "a quantization to uint8, uint16 or float16", dtype);
  if (typeof scale !== "number" || typeof min !== "number")
    throw wrongFile(file, label, "a quantization with numbers scale and min", value);
  return { dtype, scale, min };
}

/** Returns the values of a tensor's bytes, as TF.js computes them in float32. */
function valuesOf({ dtype, quantization }: Spec, bytes: Uint8Array): Float64Array {
  const { buffer } = bytes.slice(); // aligned
  const stored = quantization?.dtype ?? dtype;
  if (stored === "float32") return Float64Array.from(new Float32Array(buffer));
  if (stored === "float16") return Float64Array.from(floatsOf(new Uint16Array(buffer), "float16") as ArrayLike<number>);
  const { scale, min } = quantization as Quantization;
  const integers = stored === "uint8" ? new Uint8Array(buffer) : new Uint16Array(buffer);
  return Float64Array.from(integers, (v) => Math.fround(v * scale + min));
}

/** Returns the number of bytes of a tensor that begins at `begin`. */
async function bytesOf({ label, size, dtype, quantization }: Spec, shards: Shards, begin: number, file: string) {
  if (dtype !== "string") return size * (BYTES[quantization?.dtype ?? dtype] as number);
  let end = begin;
  for (let i = 0; i < size && end <= shards.size; i++) {
    if (end + 4 > shards.size) throw wrongFile(file, label, `${size} texts in ${shards.size} bytes of shards`, i);
    const length = await shards.read(label, end, end + 4);
    end += 4 + new DataView(length.buffer).getUint32(0, true);
  }
  return end - begin;
}

/**
 * Returns the tensors of a manifest, whose values are read on demand. Throws BatchNormError "model-file" for a manifest
 * that breaks the format, and for shards whose bytes are not those of the tensors.
 */
export async function openWeights(source: ByteSource, manifest: unknown): Promise<ManifestTensor[]> {
  const { name: file } = source;
  if (!isArray(manifest)) throw wrongFile(file, "weightsManifest", "a list of groups", manifest);
  const tensors: ManifestTensor[] = [];
  let files = 0;
  for (const group of manifest) {
    const { paths, weights } = (isObject(group) ? group : {}) as Record<string, unknown>;
    if (!isArray(paths) || !isArray(weights))
      throw wrongFile(file, "weightsManifest", "groups with paths and weights", group);
    files += paths.length;
    if (files > MAX_SHARDS) throw wrongFile(file, "weightsManifest", `at most ${MAX_SHARDS} shards`, files);
    const sources: ByteSource[] = [];
    for (const path of paths) sources.push(await source.sibling(path as string));
    const shards = new Shards(sources);
    let end = 0;
    for (const spec of weights.map((value) => specOf(file, value))) {
      const begin = end;
      end += await bytesOf(spec, shards, begin, file);
      if (!(end <= shards.size))
        throw wrongFile(
          file,
          spec.label,
          `bytes ${begin} to ${end} of its shards`,
          asIs(`${shards.size} bytes of shards`),
        );
      tensors.push(namedTensor(spec, shards, begin, end));
    }
    if (end !== shards.size)
      throw wrongFile(file, "weightsManifest", `${end} bytes in the shards of a group`, shards.size);
  }
  return tensors;
}

/** The types of safetensors files. Those without one have elements of no fixed size, or none that they can hold. */
const TYPES: Readonly<Record<string, SafetensorsDtype>> = {
  float32: "F32",
  int32: "I32",
  complex64: "C64",
  bool: "BOOL",
  uint8: "U8",
  uint16: "U16",
  float16: "F16",
};

function namedTensor(spec: Spec, shards: Shards, begin: number, end: number): ManifestTensor {
  const { entry, name, label, shape, size, dtype, quantization } = spec;
  const isFloat = dtype === "float32" || dtype === "float16";
  return {
    entry,
    name,
    shape,
    dtype: quantization ? `${dtype} as ${quantization.dtype}` : dtype,
    floats: async () => (isFloat ? valuesOf(spec, await shards.read(label, begin, end)) : undefined),
    count: async () => Number.NaN, // TF.js counts no batches
    // TF.js itself rounds quantised integers; models have none
    type: quantization && dtype !== "float32" ? undefined : TYPES[dtype],
    size: dtype === "string" ? end - begin : size * (BYTES[dtype] as number),
    stored: () => shards.read(label, begin, end),
    async bytes(from, to) {
      if (!quantization) return shards.read(label, begin + from, begin + to);
      const narrow = BYTES[quantization.dtype] as number;
      const stored = await shards.read(label, begin + (from / 4) * narrow, begin + (to / 4) * narrow);
      return new Uint8Array(Float32Array.from(valuesOf(spec, stored)).buffer);
    },
  };
}
