// Compiles and instantiates the kernels: the only file that knows which builds there are.
//
//   simd      the same bits on every engine, since WebAssembly fixes every rounding
//   relaxed   with fused multiply-add: faster in cache, and rounded once where the other rounds twice
//
// The complete entry has a second module beside either, `extended`, which is compiled when it is first needed.

import type { instantiate as instantiateExtended } from "../../build/extended.js";
import relaxedSource from "../../build/relaxed.wasm";
import type { instantiate } from "../../build/simd.js";
import simdSource from "../../build/simd.wasm";
import { audioWorklet, relaxedSimd, simd } from "../common/engine.ts";
import { noBytes, noSimd, wrongKind } from "../common/errors.ts";
import { Slot } from "../common/slot.ts";

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
const SIGNATURE: keyof Exports = "workspace";
const EXTENDED_SIGNATURE: keyof ExtendedExports = "narrow";

type Bytes = Uint8Array<ArrayBuffer>;

/** Bytes, or a module where the host compiles no bytes. */
type Source = Bytes | WebAssembly.Module;

/** Where the bytes of build/extended.wasm come from, or its module where the host compiles no bytes. */
export const secondModule = /* @__PURE__ */ new Slot<() => Source>();

/** By its brand, since a sandbox such as Next's hands in modules that another realm compiled, with a class of its own. */
const isModule = (what: unknown): what is WebAssembly.Module =>
  Object.prototype.toString.call(what) === "[object WebAssembly.Module]";

function choose(): { name: "simd" | "relaxed"; source: () => Source; reason: string } {
  if (!simd()) throw noSimd();
  if (!relaxedSource) return { name: "simd", source: simdSource, reason: "the host compiles no bytes" };
  return relaxedSimd()
    ? { name: "relaxed", source: relaxedSource, reason: "the engine has relaxed SIMD" }
    : { name: "simd", source: simdSource, reason: "the engine has no relaxed SIMD" };
}

/** The import section of a build: "env" "memory" with its limits. */
function importSection(limits: readonly number[]): number[] {
  const name = (text: string) => [text.length, ...Array.from(text, (c) => c.charCodeAt(0))];
  const memory = [1, ...name("env"), ...name("memory"), 2, ...limits];
  return [2, memory.length, ...memory];
}

/**
 * A build that takes shared memory. The two differ in the module's import section alone, and patching it halves the
 * package.
 */
export function withSharedMemory(bytes: Bytes): Bytes {
  const own = importSection([0, 1]);
  const wanted = importSection([3, 1, 0x80, 0x80, 4]); // shared, at least 1, at most 65536 pages
  const at = bytes.findIndex((_, i) => own.every((byte, k) => bytes[i + k] === byte));
  if (at < 0) throw wrongKind("module", "the kernels of batchnorm-wasm", bytes);
  // not as arguments of one call: JavaScriptCore takes 65,536, V8 as many as the stack holds
  const shared = new Uint8Array(bytes.length + wanted.length - own.length);
  shared.set(bytes.subarray(0, at));
  shared.set(wanted, at);
  shared.set(bytes.subarray(at + own.length), at + wanted.length);
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

/** How an error calls it. What calls need of it is refused by its own name before. */
const SECOND = "the second module";

function extendedOf(kind: Kind): WebAssembly.Module {
  extended[kind] ??= compileSync(forMemory(secondModule.get(SECOND)(), kind));
  return extended[kind];
}

/** The compiled kernels; compiles them on first use, which takes a millisecond or two. */
export function kernelBuild(kind: Kind = "own"): Build {
  if (!compiled[kind]) {
    const { name, source, reason } = choose();
    const module = compileSync(forMemory(source(), kind));
    compiled[kind] = { name, reason, module, extended: () => extendedOf(kind) };
  }
  return compiled[kind];
}

function checkModule(name: string, given: unknown, signature: string): WebAssembly.Module {
  if (!isModule(given)) throw wrongKind(name, "a WebAssembly.Module", given);
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
  if (kind === "shared" && !given.extended && secondModule.installed)
    extended.shared ??= await compile(forMemory(secondModule.get(SECOND)(), "shared"));
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
