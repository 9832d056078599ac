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
import { noBytes, noSimd, wrongKind, wrongValue } from "../common/errors.ts";
import type { WasmModule } from "../common/globals.ts";
import { Slot } from "../common/slot.ts";
import { oneOf } from "../common/validate.ts";

/** The exports of the core, as the compiler declares them. */
export type Exports = Awaited<ReturnType<typeof instantiate>>;

/** The exports of the second module, as the compiler declares them. */
export type ExtendedExports = Awaited<ReturnType<typeof instantiateExtended>>;

/** The name of a build of the kernels. */
export type BuildName = "simd" | "relaxed";

/** A compiled build of the kernels. */
export interface Build {
  /** The name of the build, or "given" for a module of the host that does not tell. */
  readonly name: BuildName | "given";
  /** The reason why this build was chosen. */
  readonly reason: string;
  /** The core. */
  readonly module: WebAssembly.Module;
  /** Returns the second module, which is compiled at the first call. */
  extended(): WebAssembly.Module;
}

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
function choose(): { name: BuildName; source: () => Source; reason: string } {
  if (!simd()) throw noSimd();
  if (!relaxedSource) return { name: "simd", source: simdSource, reason: "the host compiles no bytes" };
  return relaxedSimd()
    ? { name: "relaxed", source: relaxedSource, reason: "the engine has relaxed SIMD" }
    : { name: "simd", source: simdSource, reason: "the engine has no relaxed SIMD" };
}

/** Returns the build that `init` was asked for. Throws TypeError or RangeError if it cannot run here. */
function chooseAsked(asked: unknown): ReturnType<typeof choose> {
  const best = choose();
  if (asked === undefined) return best;
  const name = oneOf("build", asked, ["simd", "relaxed"], best.name);
  if (name === "relaxed" && best.name === "simd") throw wrongValue("build", `"simd", because ${best.reason}`, name);
  return { name, source: name === best.name ? best.source : simdSource, reason: "init was asked for it" };
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

/** The modules of the core that are compiled already. */
const cores: Partial<Record<`${BuildName} ${MemoryKind}`, WebAssembly.Module>> = {};
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
  const { name, source, reason } = choose();
  cores[`${name} ${memoryKind}`] ??= compileSync(forMemory(source(), memoryKind));
  const module = cores[`${name} ${memoryKind}`] as WebAssembly.Module;
  return { name, reason, module, extended: () => extendedOf(memoryKind) };
}

/** The files of the package that an option of `init` takes, and the exports of their modules. */
const HOST_MODULES = {
  module: ["simd.wasm or relaxed.wasm", "version,workspace,plan,pivots,sums,statistics,coefficients,map"],
  extended: ["extended.wasm", "pivots,sums,statistics,coefficients,map,widen,narrow"],
} as const;

/**
 * Returns `value` if it is undefined, or a module with the imports and exports of ours. Otherwise throws TypeError,
 * because calls of another module may trap, or write into another memory than the tensors'.
 */
function checkModule(name: keyof typeof HOST_MODULES, value: unknown): WebAssembly.Module | undefined {
  if (value === undefined) return value;
  const [files, exports] = HOST_MODULES[name];
  const namesOf = (list: { name: string }[]) => list.map((e) => e.name).join();
  if (
    !isModule(value) ||
    namesOf(WebAssembly.Module.imports(value)) !== "memory" ||
    namesOf(WebAssembly.Module.exports(value)) !== exports
  )
    throw wrongKind(name, `the module of batchnorm-wasm/${files} of this version`, value);
  return value;
}

/** Returns which build a module of the host is, from its list of features. A host may have removed the list. */
function nameOf(module: WebAssembly.Module): Build["name"] {
  const [features] = WebAssembly.Module.customSections(module, "target_features");
  if (!features) return "given";
  return String.fromCharCode(...new Uint8Array(features)).includes("relaxed-simd") ? "relaxed" : "simd";
}

/** The options of `init` that choose the kernels. */
interface BuildOptions {
  build?: BuildName;
  module?: WasmModule;
  extended?: WasmModule;
}

/**
 * Compiles the kernels off the main thread, or takes the modules that the host has compiled. With shared memory it
 * compiles the second module too, because threads get all modules when they start. Throws TypeError for modules that
 * are not ours, and RangeError for a build that does not run here.
 */
export async function compileAhead(options: BuildOptions, memoryKind: MemoryKind): Promise<Build> {
  if (options.build !== undefined && options.module !== undefined)
    throw wrongKind("build", "undefined beside the option module", options.build);
  const hostModule = checkModule("module", options.module);
  const hostExtended = checkModule("extended", options.extended);
  const { name, source, reason } = chooseAsked(options.build);
  if (memoryKind === "shared" && !hostExtended && secondModule.installed)
    extended.shared ??= await compile(forMemory(extendedSource(), "shared"));
  const extendedModule = () => hostExtended ?? extendedOf(memoryKind);
  if (hostModule)
    return {
      name: nameOf(hostModule),
      reason: "init was given this module",
      module: hostModule,
      extended: extendedModule,
    };
  cores[`${name} ${memoryKind}`] ??= await compile(forMemory(source(), memoryKind));
  return { name, reason, module: cores[`${name} ${memoryKind}`] as WebAssembly.Module, extended: extendedModule };
}

/**
 * Returns the exports of a module over a memory. They are pure functions, so any number of instances may share the
 * memory.
 */
export function instantiateKernels<E>(module: WebAssembly.Module, memory: WebAssembly.Memory): E {
  return new WebAssembly.Instance(module, { env: { memory } }).exports as E;
}
