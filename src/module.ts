// Compiles and instantiates the kernels: the only file that knows which builds there are.
//
//   simd      the same bits on every engine, since WebAssembly fixes every rounding
//   relaxed   with fused multiply-add: faster in cache, and rounded once where the other rounds twice
//
// and beside either, for what plain batch normalization does not need, `extended`, compiled when it is first needed.

import type { instantiate as instantiateExtended } from "../build/extended.js";
import extendedSource from "../build/extended.wasm";
import relaxedSource from "../build/relaxed.wasm";
import type { instantiate } from "../build/simd.js";
import simdSource from "../build/simd.wasm";
import { noBytes, noSimd, wrongKind } from "./errors.ts";
import { audioWorklet, relaxedSimd, simd } from "./features.ts";

/** What the module exports, as the compiler declares it. */
export type Exports = Awaited<ReturnType<typeof instantiate>>;

/** What the second module exports. */
export type ExtendedExports = Awaited<ReturnType<typeof instantiateExtended>>;

/** A build of the kernels, and why it is this one. */
export interface Build {
  readonly name: "simd" | "relaxed" | "given";
  readonly reason: string;
  readonly module: WebAssembly.Module;
  /** Compiled at the first call. */
  extended(): WebAssembly.Module;
}

/** An export that tells our kernels from other modules. */
const SIGNATURE: keyof Exports = "gradientCoefficientsF32";
const EXTENDED_SIGNATURE: keyof ExtendedExports = "affineActivatedPlanarF32";

type Bytes = Uint8Array<ArrayBuffer>;

/** Bytes, or a module where the host compiles no bytes. */
type Source = Bytes | WebAssembly.Module;

const isModule = (source: Source): source is WebAssembly.Module => source instanceof WebAssembly.Module;

function choose(): { name: "simd" | "relaxed"; source: () => Source; reason: string } {
  if (!simd()) throw noSimd();
  if (!relaxedSource) return { name: "simd", source: simdSource, reason: "the host compiles no bytes" };
  return relaxedSimd()
    ? { name: "relaxed", source: relaxedSource, reason: "the engine has relaxed SIMD" }
    : { name: "simd", source: simdSource, reason: "the engine has no relaxed SIMD" };
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
  // not as arguments of one call: JavaScriptCore takes 65,536, V8 as many as the stack holds
  const shared = new Uint8Array(bytes.length + SHARED.length - OWN.length);
  shared.set(bytes.subarray(0, at));
  shared.set(SHARED, at);
  shared.set(bytes.subarray(at + OWN.length), at + SHARED.length);
  return shared;
}

type Kind = "own" | "shared";

const compiled: { own?: Build; shared?: Build } = {};
const extended: { own?: WebAssembly.Module; shared?: WebAssembly.Module } = {};

function forMemory(source: Source, kind: Kind): Source {
  if (kind === "own") return source;
  if (isModule(source)) throw noBytes();
  return withSharedMemory(source);
}

function compileSync(source: Source): WebAssembly.Module {
  return isModule(source) ? source : new WebAssembly.Module(source);
}

async function compile(source: Source): Promise<WebAssembly.Module> {
  // WebKitGTK 2.50 does not settle WebAssembly.compile in an AudioWorklet, in 6 of 14 runs
  return isModule(source) || audioWorklet() ? compileSync(source) : WebAssembly.compile(source);
}

function extendedOf(kind: Kind): WebAssembly.Module {
  extended[kind] ??= compileSync(forMemory(extendedSource(), kind));
  return extended[kind];
}

/** The compiled kernels; compiles them on first use, which takes a millisecond or two. */
export function kernelBuild(): Build {
  if (!compiled.own) {
    const { name, source, reason } = choose();
    compiled.own = { name, reason, module: compileSync(source()), extended: () => extendedOf("own") };
  }
  return compiled.own;
}

function checkModule(name: string, given: unknown, signature: string): WebAssembly.Module {
  if (!(given instanceof WebAssembly.Module)) throw wrongKind(name, "a WebAssembly.Module", given);
  if (!WebAssembly.Module.exports(given).some((e) => e.name === signature))
    throw wrongKind(name, `the ${name === "module" ? "" : "extended "}kernels of batchnorm-wasm`, given);
  return given;
}

/** Modules that a host has compiled. */
export interface Given {
  module?: WebAssembly.Module;
  extended?: WebAssembly.Module;
}

/**
 * Compiles off the main thread, for memory of one thread or of many, or takes modules that the host has compiled. Threads
 * need the second module from the start.
 */
export async function compileAhead(given: Given, kind: Kind): Promise<Build> {
  if (kind === "shared" && !given.extended) extended.shared ??= await compile(forMemory(extendedSource(), "shared"));
  const second = given.extended && checkModule("extended", given.extended, EXTENDED_SIGNATURE);
  const more = () => second ?? extendedOf(kind);
  if (given.module !== undefined) {
    const module = checkModule("module", given.module, SIGNATURE);
    return { name: "given", reason: "init was given this module", module, extended: more };
  }
  const { name, source, reason } = choose();
  compiled[kind] ??= { name, reason, module: await compile(forMemory(source(), kind)), extended: more };
  return second ? { ...compiled[kind], extended: more } : compiled[kind];
}

/** The kernels over a memory: pure functions, so any number of instances may share it. */
export function instantiateKernels<E>(module: WebAssembly.Module, memory: WebAssembly.Memory): E {
  return new WebAssembly.Instance(module, { env: { memory } }).exports as E;
}
