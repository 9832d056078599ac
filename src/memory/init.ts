// init and dispose: compiling ahead, modules that the host gives, and the pool of threads. A page that calls neither loads
// nothing of it.

import { processors, sharedMemory } from "../common/engine.ts";
import { NO_SHARED_MEMORY, oneThreadWarning, wrongKind, wrongValue } from "../common/errors.ts";
import { checkKeys } from "../common/validate.ts";
import { type Build, compileAhead, secondModule } from "../wasm/module.ts";
import { MAX_THREADS, Pool } from "../wasm/threads/pool.ts";
import { currentHeap, useHeap, WasmHeap } from "./heap.ts";

/** Options of init in batchnorm-wasm/core. */
export interface CoreInitOptions {
  /** A build of the kernels that the host has compiled; with `threads`, one for shared memory. */
  module?: WebAssembly.Module;
  /** Threads that calls on tensors shall use, the caller's included; "auto": as many as there are processors. Default 1. */
  threads?: number | "auto";
}

export interface InitOptions extends CoreInitOptions {
  /** The second module, compiled likewise: activations, residuals, conditional scale, float64 and 16-bit elements. */
  extended?: WebAssembly.Module;
}

let warned = false;

/** How many threads there shall be, and why. */
async function countThreads(asked: number | "auto" | undefined): Promise<{ threads: number; reason: string }> {
  if (asked === undefined) return { threads: 1, reason: "init was not asked for more" };
  if (asked === 1) return { threads: 1, reason: "init was asked for 1" };
  if (!sharedMemory()) {
    if (!warned) console.warn(oneThreadWarning());
    warned = true;
    return { threads: 1, reason: NO_SHARED_MEMORY };
  }
  if (asked !== "auto") return { threads: asked, reason: `init was asked for ${asked}` };
  const threads = Math.min(await processors(), MAX_THREADS);
  return { threads, reason: `"auto": the engine reports ${threads} processors` };
}

function newHeap(build: Build, shared: boolean): WasmHeap {
  try {
    return new WasmHeap(build, { shared });
  } catch (error) {
    if (!(error instanceof WebAssembly.LinkError)) throw error;
    const kind = shared ? "shared memory, for several threads" : "memory of one thread";
    throw wrongKind("module", `a build that imports ${kind}`, build.module);
  }
}

/** A pool's threads over a heap, with both modules in the complete entry. */
function startPool(heap: WasmHeap, threads: number): Promise<Pool> {
  const { build, memory, core } = heap;
  return secondModule.installed
    ? Pool.start([build.module, build.extended()], memory, [core, heap.extended], threads)
    : Pool.start([build.module], memory, [core], threads);
}

/**
 * Compiles the kernels ahead of first use, off the main thread, and starts a pool where `threads` asks for one. Without
 * either it is never needed: everything compiles itself on first use. With an option, what is made from then on lies in
 * a new memory, and the pool before is disposed of; tensors made earlier stay usable, on one thread.
 *
 * Calls stay synchronous, and the caller takes a share. Results are the same bits for every number of threads. In a page
 * that is not cross-origin isolated there is one warning and one thread.
 *
 * Throws TypeError and RangeError for wrong options, BatchNormError "thread" where a worker does not start.
 */
export async function init(options: InitOptions = {}): Promise<void> {
  checkKeys("init options", options, ["module", "extended", "threads"]);
  if (options.extended !== undefined) secondModule.get("init({ extended })");
  const { threads, reason } = await countThreads(threadsOption(options.threads, MAX_THREADS));
  const shared = threads > 1;
  const build = await compileAhead(options, shared ? "shared" : "own");
  if (!options.module && !options.extended && options.threads === undefined && currentHeap()) return;
  const heap = newHeap(build, shared);
  const pool = shared ? await startPool(heap, threads) : undefined;
  await dispose();
  heap.pool = pool;
  heap.threadsReason = reason;
  useHeap(heap);
}

/** Ends the pool's threads. Everything goes on with one thread; without a pool, nothing happens. */
export async function dispose(): Promise<void> {
  const heap = currentHeap();
  const pool = heap?.kernels.pool;
  if (!heap || !pool) return;
  heap.pool = undefined;
  heap.threadsReason = "dispose() ended the pool";
  await pool.dispose();
}

/** Threads of a pool: a positive integer, or as many as there are processors. */
export function threadsOption(value: unknown, most: number): number | "auto" | undefined {
  if (value === undefined || value === "auto") return value;
  if (typeof value !== "number") throw wrongKind("threads", 'a number or "auto"', value);
  if (!(Number.isInteger(value) && value >= 1 && value <= most))
    throw wrongValue("threads", `an integer from 1 to ${most}, or "auto"`, value);
  return value;
}
