// Compiles and instantiates the kernels: the only file that knows which builds there are. Today one: SIMD.

import { instantiateSync } from "@assemblyscript/loader";
import type { instantiate } from "../build/simd.js";
import bytes from "../build/simd.wasm";
import { noSimd, wrongKind } from "./errors.ts";
import { simd } from "./features.ts";

/** What the module exports, as the compiler declares it. */
export type Exports = Awaited<ReturnType<typeof instantiate>>;

/** An export that tells our kernels from other modules. */
const SIGNATURE: keyof Exports = "gradientCoefficientsF32";

let compiled: WebAssembly.Module | undefined;

function supported(): Uint8Array<ArrayBuffer> {
  if (!simd()) throw noSimd();
  return bytes;
}

/** The compiled kernels; compiles them on first use, which takes a millisecond or two. */
export function kernelModule(): WebAssembly.Module {
  compiled ??= new WebAssembly.Module(supported());
  return compiled;
}

/** Compiles off the main thread, or takes a module that the host has compiled. */
export async function compileAhead(module?: WebAssembly.Module): Promise<WebAssembly.Module> {
  if (module !== undefined && !(module instanceof WebAssembly.Module))
    throw wrongKind("module", "a WebAssembly.Module", module);
  if (module && !WebAssembly.Module.exports(module).some(({ name }) => name === SIGNATURE))
    throw wrongKind("module", "the kernels of batchnorm-wasm", module);
  compiled = module ?? compiled ?? (await WebAssembly.compile(supported()));
  return compiled;
}

/** The kernels over a memory: pure functions, so any number of instances may share it. */
export function instantiateKernels(module: WebAssembly.Module, memory: WebAssembly.Memory): Exports {
  return instantiateSync<Exports & Record<string, unknown>>(module, { env: { memory } }).exports;
}
