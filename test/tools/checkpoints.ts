// Checkpoints in the safetensors format for the suites of tools.

import { type TensorData, type WritableTensor, writeSafetensors } from "../../src/interop/safetensors.ts";
import { bytesSource } from "../../src/tools/index.ts";
import { normal, random } from "../support/worlds.ts";

export type Tensors = Record<string, WritableTensor>;

/** Returns a trained batch norm under PyTorch's names: nothing is to be found in it. */
export function trained(prefix: string, channels: number, seed = 1): Tensors {
  const next = random(seed);
  const vector = (value: () => number) => Float32Array.from({ length: channels }, value);
  return {
    [`${prefix}.weight`]: vector(() => 0.5 + next()),
    [`${prefix}.bias`]: normal(seed, channels),
    [`${prefix}.running_mean`]: normal(seed + 1, channels),
    [`${prefix}.running_var`]: vector(() => 0.2 + next()),
    [`${prefix}.num_batches_tracked`]: 1000,
  };
}

/** Returns the tensors with one value of a vector replaced. */
export function withValue(tensors: Tensors, name: string, channel: number, value: number): Tensors {
  const data = (tensors[name] as Float32Array).slice();
  data[channel] = value;
  return { ...tensors, [name]: data };
}

/** Returns the tensors with all values of a vector replaced. */
export const filled = (tensors: Tensors, name: string, value: number): Tensors => ({
  ...tensors,
  [name]: (tensors[name] as Float32Array).map(() => value),
});

export const file = (tensors: Tensors): Uint8Array => writeSafetensors(tensors);

export const source = (tensors: Tensors, name = "model.safetensors") => bytesSource(name, file(tensors));

/** Returns values as a tensor of 16-bit floats, from their bits. */
export const bits = (dtype: "F16" | "BF16", values: readonly number[]) => ({
  dtype,
  shape: [values.length],
  data: Uint16Array.from(values) as TensorData,
});

/** The batch norms of a huge checkpoint. */
export const HUGE = { layers: 10, channels: 1000, parts: ["weight", "bias", "running_mean", "running_var"] } as const;

/**
 * Returns the beginning of a checkpoint with 10 GB of other tensors between its batch norms, header included, and the size of
 * the whole file. The last channels * 4 bytes are a running variance.
 */
export function huge(): { head: Uint8Array; size: number } {
  const entries: Record<string, object> = {};
  let end = 0;
  const add = (name: string, bytes: number) => {
    entries[name] = { dtype: "F32", shape: [bytes / 4], data_offsets: [end, end + bytes] };
    end += bytes;
  };
  for (let i = 0; i < HUGE.layers; i++) {
    add(`blocks.${i}.conv.weight`, 10_000_000_000 / HUGE.layers);
    for (const name of HUGE.parts) add(`blocks.${i}.bn.${name}`, HUGE.channels * 4);
  }
  const header = new TextEncoder().encode(JSON.stringify(entries));
  const head = new Uint8Array(8 + header.length);
  new DataView(head.buffer).setBigUint64(0, BigInt(header.length), true);
  head.set(header, 8);
  return { head, size: head.length + end };
}
