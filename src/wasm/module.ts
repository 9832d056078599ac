// Compiles and instantiates the kernels. This is the only file that knows the builds:
//
//   simd      has the same bits on every engine, since WebAssembly fixes every rounding
//   relaxed   has fused multiply-add: it is faster in cache, and rounds a·b + c once instead of twice
//
// The complete entry also has a second module, `extended`, which is the same for both builds. It is compiled when it is
// first needed.

import type { instantiate as instantiateExtended } from "../../build/extended.js";
import relaxedSource from "../../build/relaxed.wasm";
import type { instantiate } from "../../build/simd.js";
import simdSource from "../../build/simd.wasm";
import { audioWorklet, relaxedSimd, simd } from "../common/engine.ts";
import { noBytes, noSimd, wrongKind } from "../common/errors.ts";
import { Slot } from "../common/slot.ts";

/** The exports of the core, as the compiler declares them. */
export type Exports = Awaited<ReturnType<typeof instantiate>>;

/** The exports of the second module, as the compiler declares them. */
export type ExtendedExports = Awaited<ReturnType<typeof instantiateExtended>>;

/** A compiled build of the kernels. */
export interface Build {
  /** The name of the build, or "given" for modules of the host. */
  readonly name: "simd" | "relaxed" | "given";
  /** The reason why this build was chosen. */
  readonly reason: string;
  /** The core. */
  readonly module: WebAssembly.Module;
  /** Returns the second module, which is compiled at the first call. */
  extended(): WebAssembly.Module;
}

/** An export that tells the core from other modules. */
const SIGNATURE: keyof Exports = "workspace";
/** An export that tells the second module from other modules. */
const EXTENDED_SIGNATURE: keyof ExtendedExports = "narrow";

type Bytes = Uint8Array<ArrayBuffer>;

/** The bytes of a module, or the module itself on hosts that compile no bytes. */
type Source = Bytes | WebAssembly.Module;

/** The slot for the source of build/extended.wasm. */
export const secondModule = /* @__PURE__ */ new Slot<() => Source>();

/**
 * Returns whether a value is a module. It asks the brand, not the class: in a sandbox such as Next's, a module may come
 * from another realm, which has another class.
 */
const isModule = (value: unknown): value is WebAssembly.Module =>
  Object.prototype.toString.call(value) === "[object WebAssembly.Module]";

/** Chooses the build for this engine. Throws BatchNormError "no-simd". */
function choose(): { name: "simd" | "relaxed"; source: () => Source; reason: string } {
  if (!simd()) throw noSimd();
  if (!relaxedSource) return { name: "simd", source: simdSource, reason: "the host compiles no bytes" };
  return relaxedSimd()
    ? { name: "relaxed", source: relaxedSource, reason: "the engine has relaxed SIMD" }
    : { name: "simd", source: simdSource, reason: "the engine has no relaxed SIMD" };
}

/** Returns the bytes of a module's import section, whose only import is the memory "env" "memory" with these limits. */
function importSection(limits: readonly number[]): number[] {
  const name = (text: string) => [text.length, ...Array.from(text, (c) => c.charCodeAt(0))];
  const memory = [1, ...name("env"), ...name("memory"), 2, ...limits];
  return [2, memory.length, ...memory];
}

/**
 * Returns the bytes of a module that imports shared memory, from one that imports memory of one thread. Only the import
 * section differs, and changing it here halves the size of the package. Throws TypeError for other modules.
 */
export function withSharedMemory(bytes: Bytes): Bytes {
  const oldSection = importSection([0, 1]); // at least 1 page
  const newSection = importSection([3, 1, 0x80, 0x80, 4]); // shared, at least 1, at most 65536 pages
  const offset = bytes.findIndex((_, i) => oldSection.every((byte, k) => bytes[i + k] === byte));
  if (offset < 0) throw wrongKind("module", "the kernels of batchnorm-wasm", bytes);
  // set, because the arguments of one call are limited: to 65,536 in JavaScriptCore, and by the stack in V8
  const shared = new Uint8Array(bytes.length + newSection.length - oldSection.length);
  shared.set(bytes.subarray(0, offset));
  shared.set(newSection, offset);
  shared.set(bytes.subarray(offset + oldSection.length), offset + newSection.length);
  return shared;
}

/** The memory that a module imports: memory of one thread, or memory that threads share. */
type MemoryKind = "own" | "shared";

/** The builds that are compiled already. */
const compiled: Partial<Record<MemoryKind, Build>> = {};
/** The second modules that are compiled already. */
const extended: Partial<Record<MemoryKind, WebAssembly.Module>> = {};

/** Returns a source that imports this kind of memory. Throws BatchNormError "thread" if the host compiles no bytes. */
function forMemory(source: Source, memoryKind: MemoryKind): Source {
  if (memoryKind === "own") return source;
  if (isModule(source)) throw noBytes();
  return withSharedMemory(source);
}

function compileSync(source: Source): WebAssembly.Module {
  return isModule(source) ? source : new WebAssembly.Module(source);
}

async function compile(source: Source): Promise<WebAssembly.Module> {
  // in an AudioWorklet of WebKitGTK 2.50, WebAssembly.compile never settled in 6 of 14 runs
  return isModule(source) || audioWorklet() ? compileSync(source) : WebAssembly.compile(source);
}

/**
 * Returns the bytes of the second module. In batchnorm-wasm/core, calls that need it throw earlier, and name the
 * feature.
 */
const extendedSource = (): Source => secondModule.get("the second module")();

/** Returns the second module, and compiles it at the first call. */
function extendedOf(memoryKind: MemoryKind): WebAssembly.Module {
  extended[memoryKind] ??= compileSync(forMemory(extendedSource(), memoryKind));
  return extended[memoryKind];
}

/** Returns the compiled kernels. The first call compiles them, which takes a millisecond or two. */
export function kernelBuild(memoryKind: MemoryKind = "own"): Build {
  if (!compiled[memoryKind]) {
    const { name, source, reason } = choose();
    const module = compileSync(forMemory(source(), memoryKind));
    compiled[memoryKind] = { name, reason, module, extended: () => extendedOf(memoryKind) };
  }
  return compiled[memoryKind];
}

/** Returns `value` if it is a module that has the export `signature`. Otherwise throws TypeError. */
function checkModule(name: string, value: unknown, signature: string): WebAssembly.Module {
  if (!isModule(value)) throw wrongKind(name, "a WebAssembly.Module", value);
  if (!WebAssembly.Module.exports(value).some((e) => e.name === signature))
    throw wrongKind(name, `the ${name === "module" ? "" : "extended "}kernels of batchnorm-wasm`, value);
  return value;
}

/** Modules that the host has compiled. */
interface HostModules {
  /** The core. */
  module?: WebAssembly.Module;
  /** The second module. */
  extended?: WebAssembly.Module;
}

/**
 * Compiles the kernels off the main thread, or takes the modules that the host has compiled. With shared memory it
 * compiles the second module too, because threads get all modules when they start. Throws TypeError for modules that
 * are not ours.
 */
export async function compileAhead(hostModules: HostModules, memoryKind: MemoryKind): Promise<Build> {
  if (memoryKind === "shared" && !hostModules.extended && secondModule.installed)
    extended.shared ??= await compile(forMemory(extendedSource(), "shared"));
  const hostExtended = hostModules.extended && checkModule("extended", hostModules.extended, EXTENDED_SIGNATURE);
  const extendedModule = () => hostExtended ?? extendedOf(memoryKind);
  if (hostModules.module !== undefined) {
    const module = checkModule("module", hostModules.module, SIGNATURE);
    return { name: "given", reason: "init was given this module", module, extended: extendedModule };
  }
  const { name, source, reason } = choose();
  compiled[memoryKind] ??= {
    name,
    reason,
    module: await compile(forMemory(source(), memoryKind)),
    extended: extendedModule,
  };
  return hostExtended ? { ...compiled[memoryKind], extended: extendedModule } : compiled[memoryKind];
}

/**
 * Returns the exports of a module over a memory. They are pure functions, so any number of instances may share the
 * memory.
 */
export function instantiateKernels<E>(module: WebAssembly.Module, memory: WebAssembly.Memory): E {
  return new WebAssembly.Instance(module, { env: { memory } }).exports as E;
}
