// The worlds that one behaviour suite runs in: builds of the kernels × kinds of input. Also seeded data.

import { readFileSync } from "node:fs";
import { relaxedSimd } from "../src/features.ts";
import { init, type PlainTensor, Tensor, type TensorLike, tensor } from "../src/index.ts";
import { withSharedMemory } from "../src/module.ts";

export type Build = "simd" | "relaxed" | "debug";

/** The builds that this engine can run. */
export const BUILDS: readonly Build[] = relaxedSimd() ? ["simd", "relaxed", "debug"] : ["simd", "debug"];

export const wasmFile = (build: Build): URL => new URL(`../build/${build}.wasm`, import.meta.url);

/** What is made from here on runs on this build and so many threads, in a memory of its own. */
export async function useBuild(build: Build, threads = 1): Promise<void> {
  const bytes = Uint8Array.from(readFileSync(wasmFile(build)));
  const module = await WebAssembly.compile(threads > 1 ? withSharedMemory(bytes) : bytes);
  await init({ module, threads });
}

export type Kind = "plain" | "tensor";
export const KINDS: readonly Kind[] = ["plain", "tensor"];

/** `data` as the kind of input under test. */
export function make(kind: Kind, shape: readonly number[], data: Float32Array): TensorLike {
  return kind === "plain" ? { data: data.slice(), shape } : tensor(shape, data);
}

/** Frees tensors; plain arrays need nothing. */
export function drop(...list: readonly (TensorLike | undefined)[]): void {
  for (const t of list) if (t instanceof Tensor) t.dispose();
}

/** Every combination of build and kind, for describe.each. */
export const WORLDS = BUILDS.flatMap((build) => KINDS.map((kind) => ({ build, kind })));

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

/** Standard normal numbers (Box–Muller), scaled and shifted. */
export function normal(seed: number, length: number, std = 1, mean = 0): Float32Array {
  const next = random(seed);
  return Float32Array.from(
    { length },
    () => mean + std * Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next()),
  );
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
