// init and stopThreads: the pool of threads over the memory of TF.js's wasm backend. A bundler leaves all of it out of a page
// that calls neither.

import { engine, getKernel, type KernelBackend, registerKernel } from "@tensorflow/tfjs-core";
import { threadNotStarted } from "../common/errors.ts";
import { checkKeys } from "../common/validate.ts";
import type { HostHeap } from "../memory/heap.ts";
import { countThreads, endPool, inOrder, startPool, threadsOption } from "../memory/init.ts";
import { MAX_THREADS } from "../wasm/threads/pool.ts";
import { accessTo, COPIED } from "./access.ts";

/** Options of `init`. */
export interface InitOptions {
  /**
   * The number of threads for calls on large tensors, the caller's included. "auto" is as many as TF.js's wasm backend
   * has (tf.wasm.setThreadsCount). Default: no change.
   */
  threads?: number | "auto";
}

/** The reason why tensors in place have one thread. */
const NOT_SHARED = "TF.js's memory is not shared: its wasm backend has threads in pages only, not in Node";

/** Returns the number of threads of TF.js's wasm backend, or undefined if it does not tell. */
function threadsOfBackend(backend: KernelBackend): number | undefined {
  const { wasm } = backend as { wasm?: { tfjs?: { getThreadsCount?: () => unknown } } };
  const threads = wasm?.tfjs?.getThreadsCount?.();
  return Number.isInteger(threads) && (threads as number) > 0 ? Math.min(threads as number, MAX_THREADS) : undefined;
}

/** The backend that has a pool over its memory, and the heap there. */
let pooled: { readonly backend: KernelBackend; readonly heap: HostHeap } | undefined;

async function end(reason: string): Promise<void> {
  const heap = pooled?.heap;
  pooled = undefined;
  await endPool(heap, reason);
}

/**
 * Makes TF.js end the pool before it disposes of the pool's backend. It tells each of a backend's kernels, so this is a
 * kernel that nothing runs.
 */
function endWithBackend(backendName: string): void {
  const kernelName = "BatchNormWasmThreads";
  if (getKernel(kernelName, backendName)) return;
  registerKernel({
    kernelName,
    backendName,
    kernelFunc: () => [],
    disposeFunc: (backend) => {
      if (backend === pooled?.backend) void end("TF.js has disposed of the backend");
    },
  });
}

/**
 * Compiles the kernels for TF.js's current backend. With `threads` it also starts a pool of threads over the memory of
 * TF.js's wasm backend, and an earlier pool ends. TF.js disposes of the pool together with its backend.
 *
 * Calls stay synchronous, and the calling thread does a part of the work. Results are the same bits for every number of
 * threads. Where TF.js's memory is not shared, there is one warning and one thread.
 *
 * Throws TypeError or RangeError for wrong options, and BatchNormError "thread" if a worker does not start.
 */
export async function init(options: InitOptions = {}): Promise<void> {
  checkKeys("init options", options, ["threads"]);
  const asked = threadsOption(options.threads, MAX_THREADS);
  await inOrder(async () => {
    await engine().ready();
    const { backend, backendName } = engine();
    const { heap } = accessTo(backend);
    if (asked === undefined) return;
    // the build of TF.js without threads does not have the function that tells their number
    const ofBackend = asked === "auto" && heap?.shared ? threadsOfBackend(backend) : undefined;
    const counted = await countThreads(ofBackend ?? asked, heap ? (heap.shared ? undefined : NOT_SHARED) : COPIED);
    const { threads } = counted;
    const reason = ofBackend ? `"auto": TF.js's wasm backend has ${ofBackend}` : counted.reason;
    const pool = heap && threads > 1 ? await startPool(heap, threads) : undefined;
    if (pool && engine().registry[backendName] !== backend) {
      await pool.dispose();
      throw threadNotStarted(1, "TF.js has disposed of the backend");
    }
    const ended = end("init made another pool");
    if (heap) {
      heap.pool = pool;
      heap.threadsReason = reason;
      pooled = { backend, heap };
      endWithBackend(backendName);
    }
    await ended;
  });
}

/** Ends the threads of the pool. Later calls run on one thread. Without a pool, nothing happens. */
export const stopThreads = (): Promise<void> => inOrder(() => end("stopThreads() ended the pool"));
