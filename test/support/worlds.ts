// The worlds in which a suite runs, which are builds of the kernels × kinds of input, and seeded data.

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

/** Builds of the first module that this engine can run. */
export const BUILDS: readonly Build[] = relaxedSimd() ? ["simd", "relaxed", "debug"] : ["simd", "debug"];

/** Builds of the second module: "extended" belongs to "simd" and "relaxed", "extended-debug" to "debug". */
export type ExtendedBuild = "extended" | "extended-debug";
export const EXTENDED_BUILDS: readonly ExtendedBuild[] = ["extended", "extended-debug"];
const extendedBuild = (build: Build): ExtendedBuild => (build === "debug" ? "extended-debug" : "extended");

/** Modules with whole operations for other hosts: "embed" imports the host's memory, "standalone" has its own. */
export type EmbedBuild = "embed" | "standalone";
export const EMBED_BUILDS: readonly EmbedBuild[] = ["embed", "standalone"];
export type EmbedExports = Awaited<ReturnType<typeof instantiateEmbed>>;
export const WHOLE_OPERATIONS = ["forward", "track", "inference", "backward"] as const satisfies readonly Exclude<
  keyof EmbedExports,
  keyof Exports
>[];

export const wasmFile = (build: Build | ExtendedBuild | EmbedBuild): URL =>
  new URL(`../../build/${build}.wasm`, import.meta.url);

/** Makes later tensors and calls use this build and number of threads, in a new memory. */
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

/** Makes an array or a tensor with a copy of `data`, whose type is that of the elements. */
export function make(kind: Kind, shape: readonly number[], data: Float32Array): TensorLike;
export function make(kind: Kind, shape: readonly number[], data: Float32Array | Float64Array): AnyTensor;
export function make(kind: Kind, shape: readonly number[], data: Float32Array | Float64Array): AnyTensor {
  return data instanceof Float64Array ? makeOf("float64", kind, shape, data) : makeOf("float32", kind, shape, data);
}

/** Makes an array or a tensor of any element type with a copy of `data`. */
export function makeOf<D extends Dtype>(
  dtype: D,
  kind: Kind,
  shape: readonly number[],
  data: DataOf[D],
): TensorLike<D> {
  return kind === "plain" ? { data: data.slice() as DataOf[D], shape, dtype } : tensor(shape, data, { dtype });
}

/** Frees tensors and ignores plain arrays. */
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

/** Returns a size [N, C, …] as a shape in the memory order of a layout. */
export const ordered = ([n, c, ...rest]: readonly number[], layout: Layout) =>
  (layout === "channels-last" ? [n, ...rest, c] : [n, c, ...rest]) as number[];

/** Returns values in the array type of a layer's vectors for this element type. */
export const real = (dtype: Dtype, values: ArrayLike<number>): Vector =>
  dtype === "float64" ? Float64Array.from(values) : Float32Array.from(values);

/** Returns a seeded generator of uniform numbers in [0, 1): mulberry32. */
export function random(seed: number): () => number {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Standard normal numbers as two factors (Box–Muller), since their product would be rounded before it is scaled. */
interface Standard {
  readonly radius: Float64Array;
  readonly cosine: Float64Array;
}

/** Cached numbers by seed, since suites use the same numbers in every world. */
const cache = new Map<number, Standard>();

/** Largest number of seeds in the cache. A test uses fewer, and numbers that have been dropped are generated again. */
const MAX_SEEDS = 16;

/** Returns at least `length` standard normal numbers of a seed. */
function standardNormal(seed: number, length: number): Standard {
  const cached = cache.get(seed);
  if (cached && cached.radius.length >= length) return cached;
  const numbers = { radius: new Float64Array(length), cosine: new Float64Array(length) };
  const next = random(seed);
  for (let i = 0; i < length; i++) {
    numbers.radius[i] = Math.sqrt(-2 * Math.log(1 - next()));
    numbers.cosine[i] = Math.cos(2 * Math.PI * next());
  }
  if (cache.size >= MAX_SEEDS) cache.delete(cache.keys().next().value as number);
  cache.set(seed, numbers);
  return numbers;
}

/** Returns normal numbers of a seed in a new array. */
export function normal(seed: number, length: number, std = 1, mean = 0): Float32Array {
  const { radius, cosine } = standardNormal(seed, length);
  const values = new Float32Array(length);
  for (let i = 0; i < length; i++) values[i] = mean + std * (radius[i] as number) * (cosine[i] as number);
  return values;
}

/** Returns a plain array of normal numbers with its shape. */
export const normalInput = (seed: number, shape: readonly number[], std = 1, mean = 0): PlainTensor => ({
  shape,
  data: normal(
    seed,
    shape.reduce((a, b) => a * b, 1),
    std,
    mean,
  ),
});
