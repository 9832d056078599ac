// Compiles and instantiates the kernels: the only file that knows which builds there are.
//
//   simd      the same bits on every engine, since WebAssembly fixes every rounding
//   relaxed   with fused multiply-add: faster in cache, and rounded once where the other rounds twice

import { instantiateSync } from "@assemblyscript/loader";
import relaxedBytes from "../build/relaxed.wasm";
import type { instantiate } from "../build/simd.js";
import simdBytes from "../build/simd.wasm";
import { noSimd, wrongKind } from "./errors.ts";
import { relaxedSimd, simd } from "./features.ts";

/** What the module exports, as the compiler declares it. */
export type Exports = Awaited<ReturnType<typeof instantiate>>;

/** A build of the kernels, and why it is this one. */
export interface Build {
  readonly name: "simd" | "relaxed" | "given";
  readonly reason: string;
  readonly module: WebAssembly.Module;
}

/** An export that tells our kernels from other modules. */
const SIGNATURE: keyof Exports = "gradientCoefficientsF32";

type Bytes = Uint8Array<ArrayBuffer>;

function choose(): { name: "simd" | "relaxed"; bytes: Bytes; reason: string } {
  if (!simd()) throw noSimd();
  return relaxedSimd()
    ? { name: "relaxed", bytes: relaxedBytes, reason: "the engine has relaxed SIMD" }
    : { name: "simd", bytes: simdBytes, reason: "the engine has no relaxed SIMD" };
}

/** The import of env.memory in a build, and the same with a memory that threads share: at least 1, at most 65535 pages. */
const ENV_MEMORY = [1, 3, ...bytesOf("env"), 6, ...bytesOf("memory"), 2];
const OWN = [2, ENV_MEMORY.length + 2, ...ENV_MEMORY, 0, 1];
const SHARED = [2, ENV_MEMORY.length + 5, ...ENV_MEMORY, 3, 1, 0xff, 0xff, 3];

function bytesOf(text: string): number[] {
  return Array.from(text, (c) => c.charCodeAt(0));
}

/**
 * A build that takes shared memory. The two differ in the module's import section alone, and patching it halves the
 * package.
 */
export function withSharedMemory(bytes: Bytes): Bytes {
  const at = bytes.findIndex((_, i) => OWN.every((byte, k) => bytes[i + k] === byte));
  if (at < 0) throw wrongKind("module", "the kernels of batchnorm-wasm", bytes);
  return Uint8Array.of(...bytes.subarray(0, at), ...SHARED, ...bytes.subarray(at + OWN.length));
}

const compiled: { own?: Build; shared?: Build } = {};

/** The compiled kernels; compiles them on first use, which takes a millisecond or two. */
export function kernelBuild(): Build {
  if (!compiled.own) {
    const { name, bytes, reason } = choose();
    compiled.own = { name, reason, module: new WebAssembly.Module(bytes) };
  }
  return compiled.own;
}

/** Compiles off the main thread, for memory of one thread or of many, or takes a module that the host has compiled. */
export async function compileAhead(given: WebAssembly.Module | undefined, kind: "own" | "shared"): Promise<Build> {
  if (given !== undefined) {
    if (!(given instanceof WebAssembly.Module)) throw wrongKind("module", "a WebAssembly.Module", given);
    if (!WebAssembly.Module.exports(given).some(({ name }) => name === SIGNATURE))
      throw wrongKind("module", "the kernels of batchnorm-wasm", given);
    return { name: "given", reason: "init was given this module", module: given };
  }
  const { name, bytes, reason } = choose();
  const source = kind === "shared" ? withSharedMemory(bytes) : bytes;
  compiled[kind] ??= { name, reason, module: await WebAssembly.compile(source) };
  return compiled[kind];
}

/** The kernels over a memory: pure functions, so any number of instances may share it. */
export function instantiateKernels(module: WebAssembly.Module, memory: WebAssembly.Memory): Exports {
  return instantiateSync<Exports & Record<string, unknown>>(module, { env: { memory } }).exports;
}
