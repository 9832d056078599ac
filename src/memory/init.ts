// init and stopThreads: compiling ahead, modules that the host has compiled, and the pool of threads. A bundler leaves all
// of it out of a page that calls neither.

import { processors, sharedMemory } from "../common/engine.ts";
import { NO_SHARED_MEMORY, oneThreadWarning, wrongKind, wrongValue } from "../common/errors.ts";
import type { WasmModule } from "../common/globals.ts";
import { checkKeys, flag } from "../common/validate.ts";
import { type Build, type BuildName, compileAhead, secondModule } from "../wasm/module.ts";
import { MAX_THREADS, Pool } from "../wasm/threads/pool.ts";
import { currentHeap, type KernelHeap, useHeap, WasmHeap } from "./heap.ts";
import { setChecks } from "./written.ts";

/** Options of init in batchnorm-wasm/core. */
export interface CoreInitOptions {
  /** The build. "relaxed" has fused multiply-add, "simd" the same bits everywhere. Default: "relaxed" if possible. */
  build?: BuildName;
  /** simd.wasm or relaxed.wasm, compiled by the host, for one thread. With `threads` take `build` instead. */
  module?: WasmModule;
  /** Threads for calls on tensors, the caller's included. "auto" is the number of processors. Default 1. */
  threads?: number | "auto";
  /** Whether a backward throws, with the name, if a tensor of its forward was written since. Default: unchanged. */
  checks?: boolean;
}

/** Options of `init`. */
export interface InitOptions extends CoreInitOptions {
  /** extended.wasm, compiled by the host: activations, residuals, perSample, float64 and 16-bit elements. */
  extended?: WasmModule;
}

/** Whether the page has been warned that it has one thread only. */
let warned = false;

/**
 * Returns the number of threads to use, and the reason for it. `unshared` is the reason why the threads cannot share the
 * tensors' memory, if they cannot. Then it warns once.
 */
export async function countThreads(
  asked: number | "auto" | undefined,
  unshared?: string,
): Promise<{ threads: number; reason: string }> {
  if (asked === undefined) return { threads: 1, reason: "init was not asked for more" };
  if (asked === 1) return { threads: 1, reason: "init was asked for 1" };
  const reason = sharedMemory() ? unshared : NO_SHARED_MEMORY;
  if (reason) {
    if (!warned) console.warn(oneThreadWarning(reason));
    warned = true;
    return { threads: 1, reason };
  }
  if (asked !== "auto") return { threads: asked, reason: `init was asked for ${asked}` };
  const threads = Math.min(await processors(), MAX_THREADS);
  return { threads, reason: `"auto": the engine reports ${threads} processors` };
}

/** Makes a heap. Throws TypeError if a module of the host does not import this kind of memory. */
function newHeap(build: Build, shared: boolean): WasmHeap {
  try {
    return new WasmHeap(build, { shared });
  } catch (error) {
    if (!(error instanceof WebAssembly.LinkError)) throw error;
    const kind = shared ? "shared memory (the option build has one for threads)" : "memory of one thread";
    throw wrongKind("module", `a build that imports ${kind}`, build.module);
  }
}

/** Starts the threads of a pool over a heap. In the complete entry they get both modules. */
export function startPool(heap: KernelHeap, threads: number): Promise<Pool> {
  const { build, memory, core } = heap;
  return secondModule.installed
    ? Pool.start([build.module, build.extended()], memory, [core, heap.extended], threads)
    : Pool.start([build.module], memory, [core], threads);
}

/** The latest of the calls that start or end threads. */
let latest: Promise<unknown> = /* @__PURE__ */ Promise.resolve();

/** Makes a call when all earlier ones have settled, so that calls take effect in the order in which a program makes them. */
export function inOrder(call: () => Promise<void>): Promise<void> {
  const result = latest.then(call);
  latest = result.catch(() => {}); // the caller of `result` gets the error
  return result;
}

/**
 * Compiles the kernels ahead of first use, off the main thread, and with `threads` starts a pool of threads. Without
 * `init` the kernels compile on first use, and calls run on one thread. Calls of init and stopThreads take effect one
 * after the other.
 *
 * `checks` turns a debug mode on or off. With another option, new tensors lie in a new memory, and the earlier pool
 * ends; earlier tensors stay usable, on one thread. Calls stay synchronous and give the same bits for every number of
 * threads. A page that is not cross-origin isolated gets one warning and one thread.
 *
 * Throws TypeError or RangeError for wrong options, and BatchNormError "thread" if a worker does not start.
 */
export async function init(options: InitOptions = {}): Promise<void> {
  checkKeys("init options", options, ["build", "module", "extended", "threads", "checks"]);
  const { checks, ...others } = options;
  flag("checks", checks, false);
  if (options.extended !== undefined) secondModule.get("init({ extended })");
  const asked = threadsOption(options.threads, MAX_THREADS);
  await inOrder(async () => {
    const { threads, reason } = await countThreads(asked);
    const shared = threads > 1;
    const build = await compileAhead(others, shared ? "shared" : "own");
    const before = currentHeap();
    let ended: Promise<void> | undefined;
    if (!before || Object.values(others).some((value) => value !== undefined)) {
      const heap = newHeap(build, shared);
      heap.pool = shared ? await startPool(heap, threads) : undefined;
      heap.threadsReason = reason;
      useHeap(heap);
      ended = endPool(before, "init made a new memory");
    }
    if (checks !== undefined) setChecks(checks);
    await ended;
  });
}

/** Ends the threads of the pool. Later calls run on one thread. Without a pool, nothing happens. */
export const stopThreads = (): Promise<void> => inOrder(() => endPool(currentHeap(), "stopThreads() ended the pool"));

/** Ends the pool of a heap, if it has one, for a reason that `kernelInfo` returns from then on. */
export async function endPool(heap: KernelHeap | undefined, reason: string): Promise<void> {
  const pool = heap?.kernels.pool;
  if (!heap || !pool) return;
  heap.pool = undefined;
  heap.threadsReason = reason;
  await pool.dispose();
}

/**
 * Returns the option `threads`. Throws TypeError or RangeError if it is no integer from 1 to `most`, "auto" or
 * undefined.
 */
export function threadsOption(value: unknown, most: number): number | "auto" | undefined {
  if (value === undefined || value === "auto") return value;
  if (typeof value !== "number") throw wrongKind("threads", 'a number or "auto"', value);
  if (!(Number.isInteger(value) && value >= 1 && value <= most))
    throw wrongValue("threads", `an integer from 1 to ${most}, or "auto"`, value);
  return value;
}
