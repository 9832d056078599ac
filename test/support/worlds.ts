// The worlds that one behaviour suite runs in: builds of the kernels × kinds of input. Also seeded data.

import { readFileSync } from "node:fs";
import type { instantiate as instantiateEmbed } from "../../build/embed.js";
import { relaxedSimd } from "../../src/common/engine.ts";
import {
  type AnyTensor,
  type DataOf,
  type Dtype,
  init,
  type Layout,
  type PlainTensor,
  Tensor,
  type TensorLike,
  tensor,
  type Vector,
} from "../../src/index.ts";
import { type Exports, withSharedMemory } from "../../src/wasm/module.ts";

export type Build = "simd" | "relaxed" | "debug";

/** The builds that this engine can run. */
export const BUILDS: readonly Build[] = relaxedSimd() ? ["simd", "relaxed", "debug"] : ["simd", "debug"];

/** The second module, beside either build for users and beside the one for debugging. */
export type ExtendedBuild = "extended" | "extended-debug";
export const EXTENDED_BUILDS: readonly ExtendedBuild[] = ["extended", "extended-debug"];
const extendedBuild = (build: Build): ExtendedBuild => (build === "debug" ? "extended-debug" : "extended");

/** The core with whole operations, on the host's memory and on its own. */
export type EmbedBuild = "embed" | "standalone";
export const EMBED_BUILDS: readonly EmbedBuild[] = ["embed", "standalone"];
export type EmbedExports = Awaited<ReturnType<typeof instantiateEmbed>>;
export const WHOLE_OPERATIONS = ["forward", "track", "inference", "backward"] as const satisfies readonly Exclude<
  keyof EmbedExports,
  keyof Exports
>[];

export const wasmFile = (build: Build | ExtendedBuild | EmbedBuild): URL =>
  new URL(`../../build/${build}.wasm`, import.meta.url);

/** What is made from here on runs on this build and so many threads, in a memory of its own. */
export async function useBuild(build: Build, threads = 1): Promise<void> {
  const compile = (file: URL) => {
    const bytes = Uint8Array.from(readFileSync(file));
    return WebAssembly.compile(threads > 1 ? withSharedMemory(bytes) : bytes);
  };
  const [module, extended] = await Promise.all([compile(wasmFile(build)), compile(wasmFile(extendedBuild(build)))]);
  await init({ module, extended, threads });
}

export type Kind = "plain" | "tensor";
export const KINDS: readonly Kind[] = ["plain", "tensor"];

/** `data` as the kind of input under test. */
export function make(kind: Kind, shape: readonly number[], data: Float32Array): TensorLike;
export function make(kind: Kind, shape: readonly number[], data: Float32Array | Float64Array): AnyTensor;
export function make(kind: Kind, shape: readonly number[], data: Float32Array | Float64Array): AnyTensor {
  return data instanceof Float64Array ? makeOf("float64", kind, shape, data) : makeOf("float32", kind, shape, data);
}

/** Makes an array or a tensor of any type of elements. */
export function makeOf<D extends Dtype>(
  dtype: D,
  kind: Kind,
  shape: readonly number[],
  data: DataOf[D],
): TensorLike<D> {
  return kind === "plain" ? { data: data.slice() as DataOf[D], shape, dtype } : tensor(shape, data, { dtype });
}

/** Frees tensors; plain arrays need nothing. */
export function drop(...list: readonly (AnyTensor | undefined)[]): void {
  for (const t of list) if (t instanceof Tensor) t.dispose();
}

/** Every combination of build and kind, for describe.each. */
export const WORLDS = BUILDS.flatMap((build) => KINDS.map((kind) => ({ build, kind })));

export const LAYOUTS: readonly Layout[] = ["channels-first", "channels-last"];

/** Every combination of layout, kind and element type, for describe.each. */
export const WAYS = LAYOUTS.flatMap((layout) =>
  KINDS.flatMap((kind) => (["float32", "float64"] as const).map((dtype) => ({ layout, kind, dtype }))),
);

export const sizeOf = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

/** [N, C, …] as a shape in memory order. */
export const ordered = ([n, c, ...rest]: readonly number[], layout: Layout) =>
  (layout === "channels-last" ? [n, ...rest, c] : [n, c, ...rest]) as number[];

/** Values as a layer of this type has its vectors. */
export const real = (dtype: Dtype, values: ArrayLike<number>): Vector =>
  dtype === "float64" ? Float64Array.from(values) : Float32Array.from(values);

/** mulberry32: a seeded stream of numbers in [0, 1). */
export function random(seed: number): () => number {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** The two factors of standard normal numbers (Box–Muller): the product would round before it is scaled. */
interface Standard {
  readonly radius: Float64Array;
  readonly cosine: Float64Array;
}

/** Those that have been made, by their seed: suites ask for the same ones in every world. */
const standard = new Map<number, Standard>();

/** So many seeds are remembered; a test uses a few. Numbers that are forgotten are made again, the same. */
const SEEDS = 16;

/** At least so many of a seed. */
function standardNormal(seed: number, length: number): Standard {
  const known = standard.get(seed);
  if (known && known.radius.length >= length) return known;
  const made = { radius: new Float64Array(length), cosine: new Float64Array(length) };
  const next = random(seed);
  for (let i = 0; i < length; i++) {
    made.radius[i] = Math.sqrt(-2 * Math.log(1 - next()));
    made.cosine[i] = Math.cos(2 * Math.PI * next());
  }
  if (standard.size >= SEEDS) standard.delete(standard.keys().next().value as number);
  standard.set(seed, made);
  return made;
}

/** Normal numbers, an array of the caller's own. */
export function normal(seed: number, length: number, std = 1, mean = 0): Float32Array {
  const { radius, cosine } = standardNormal(seed, length);
  const values = new Float32Array(length);
  for (let i = 0; i < length; i++) values[i] = mean + std * (radius[i] as number) * (cosine[i] as number);
  return values;
}

/** A plain input of normal numbers. */
export const normalInput = (seed: number, shape: readonly number[], std = 1, mean = 0): PlainTensor => ({
  shape,
  data: normal(
    seed,
    shape.reduce((a, b) => a * b, 1),
    std,
    mean,
  ),
});
