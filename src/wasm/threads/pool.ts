// The thread pool. Its threads make the calls of one kernel, each on another range, and the caller waits for them. The
// threads are worker threads in Node and Deno, and web workers elsewhere. They share the kernels' memory and a job
// board (job-board.ts).

import source from "../../../build/worker.txt";
import { node, nodeModule } from "../../common/engine.ts";
import { threadDied, threadNotStarted } from "../../common/errors.ts";
import {
  FAILED,
  GENERATION,
  INSIDE,
  JobBoard,
  type Kernel,
  MAX_CALLS,
  MAX_THREADS,
  OPEN,
  SLEEPERS,
  STATE,
} from "./job-board.ts";

export { MAX_CALLS, MAX_THREADS };

/**
 * The number of times that the owner reads the board before it sleeps, about 70 µs (Node 20.20). Workers mostly finish
 * within that time, since all threads take from the same calls. To sleep and to be woken takes 36 µs more (SPINS in
 * shared-memory.ts).
 */
const SPINS = 4000;

/**
 * The owner wakes after this many milliseconds to see whether a worker has stalled. The last worker to leave wakes it
 * at once.
 */
const NAP_MS = 100;

/**
 * A worker that is inside for this many milliseconds after the owner has finished its calls counts as dead. A forward
 * of 6.4 million elements takes 2.4 ms (docs/numerics.md), so one of 4 GiB would take about 0.4 s. Only a worker that
 * has ended or is suspended takes as long.
 */
const STALLED_MS = 10_000;

/** The methods that workers of Node and of the web have in common. */
interface Thread {
  postMessage(message: unknown): void;
  terminate(): unknown;
}

type Listener = (reason: unknown) => void;

/** The part of node:worker_threads that is used here. A library for every engine cannot require the types of Node. */
interface WorkerThreads {
  Worker: new (
    source: string,
    options: { eval: true; execArgv: [] },
  ) => Thread & {
    once(event: "message" | "error" | "exit", listener: Listener): void;
    unref(): void;
  };
}

/**
 * Starts a worker and posts it a message. Calls `ready` when the worker has answered, and `died` when the worker ends
 * although nobody has terminated it. Rejects if the host has no workers or refuses them.
 */
async function startWorker(message: object, ready: () => void, died: Listener): Promise<Thread> {
  // Deno's web workers are modules without unref, and Deno cannot terminate one that waits in Atomics.wait
  if (typeof Worker === "function" && !("Deno" in globalThis)) {
    const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    const worker = new Worker(url) as Worker & { unref?(): void };
    worker.onmessage = () => {
      URL.revokeObjectURL(url);
      worker.unref?.(); // Bun has it
      ready();
    };
    worker.onerror = (event) => died(event.message || "its script could not be loaded");
    worker.postMessage(message);
    return worker;
  }
  if (!node()) throw new Error("there are no workers here");
  const { Worker: NodeWorker } = await nodeModule<WorkerThreads>("worker_threads");
  // flags of the program, such as --input-type, do not apply to this script
  const worker = new NodeWorker(source, { eval: true, execArgv: [] });
  worker.once("message", () => {
    worker.unref(); // so that a process can end without dispose()
    ready();
  });
  worker.once("error", died);
  worker.once("exit", (code) => died(`exit code ${code}`));
  worker.postMessage(message);
  return worker;
}

/**
 * Whether this thread may sleep in Atomics.wait. The main thread of a page may not, and an engine may lack shared
 * memory.
 */
const mayWait = /* @__PURE__ */ (() => {
  try {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 1);
    return true;
  } catch {
    return false;
  }
})();

/** The names of the modules, in the order in which Pool.start takes them. */
const NAMES = ["core", "extended"] as const;

type ModuleName = (typeof NAMES)[number];

type Modules = readonly WebAssembly.Module[];

/** The exports of each module in the caller's thread. */
type Instances = readonly object[];

/** A pool of threads that run exports of the kernels over one shared memory. */
export class Pool {
  /** The number of threads that take part, the caller's included. */
  readonly threads: number;
  readonly #jobBoard = new JobBoard();
  /** The exports of all modules, in the same order in every thread. */
  readonly #kernels: readonly Kernel[];
  /** The index of each export in #kernels, by its name "module.export". */
  readonly #index: ReadonlyMap<string, number>;
  readonly #stalledMs: number;
  #workers: Thread[] = [];
  /** The error of every later call, once a worker has died or failed. */
  #broken: Error | undefined;
  /** Whether the workers end because of `dispose`. */
  #disposed = false;

  private constructor(modules: Modules, instances: Instances, threads: number, stalledMs: number) {
    this.threads = threads;
    this.#stalledMs = stalledMs;
    const kernels = modules.flatMap((module, m) =>
      WebAssembly.Module.exports(module).map(({ name }) => ({
        name: `${NAMES[m]}.${name}`,
        kernel: (instances[m] as Readonly<Record<string, unknown>>)[name] as Kernel,
      })),
    );
    this.#kernels = kernels.map(({ kernel }) => kernel);
    this.#index = new Map(kernels.map(({ name }, i) => [name, i]));
  }

  /**
   * Starts threads − 1 workers over a shared memory. `modules` are the core and, in the complete entry, the second
   * module; `instances` are their exports in this thread. Rejects with BatchNormError "thread" if a worker does not
   * start.
   */
  static async start(
    modules: Modules,
    memory: WebAssembly.Memory,
    instances: Instances,
    threads: number,
    stalledMs = STALLED_MS,
  ): Promise<Pool> {
    const pool = new Pool(modules, instances, threads, stalledMs);
    const starting = Array.from({ length: threads - 1 }, (_, i) => pool.#startThread(modules, memory, i + 1));
    try {
      await Promise.all(starting);
    } catch (error) {
      await Promise.allSettled(starting);
      await pool.dispose();
      throw error;
    }
    return pool;
  }

  /**
   * Starts one worker. Resolves when it is ready for jobs, and rejects with BatchNormError "thread" if it ends before.
   */
  async #startThread(modules: Modules, memory: WebAssembly.Memory, thread: number): Promise<void> {
    let settle: { resolve(): void; reject(error: Error): void } | undefined;
    const started = new Promise<void>((resolve, reject) => {
      settle = { resolve, reject };
    });
    let isReady = false;
    const ready = () => {
      isReady = true;
      settle?.resolve();
    };
    const died = (reason: unknown) => {
      if (this.#disposed) return;
      const how = reason instanceof Error ? reason.message : String(reason);
      this.#broken ??= isReady ? threadDied(thread, how) : threadNotStarted(thread, how);
      settle?.reject(this.#broken);
    };
    const message = { modules, memory, buffer: this.#jobBoard.buffer, thread, threads: this.threads };
    try {
      this.#workers.push(await startWorker(message, ready, died));
    } catch (error) {
      died(error); // a host without workers, or a policy against them
    }
    await started;
  }

  /**
   * Makes the calls of a module's export, at most MAX_CALLS, on all threads. Returns when all calls are done. Throws
   * BatchNormError "thread" if a worker has died, fails or stalls.
   */
  run(module: ModuleName, name: string, calls: readonly (readonly number[])[]): void {
    if (this.#broken) throw this.#broken;
    const { i32 } = this.#jobBoard;
    this.#jobBoard.write(this.#index.get(`${module}.${name}`) as number, calls);
    Atomics.store(i32, STATE, OPEN);
    Atomics.add(i32, GENERATION, 1);
    if (Atomics.load(i32, SLEEPERS) > 0) Atomics.notify(i32, GENERATION);
    try {
      this.#jobBoard.work(this.#kernels, 0, this.threads);
    } finally {
      this.#closeBoard();
    }
    const failed = Atomics.exchange(i32, FAILED, 0);
    if (failed > 0) {
      this.#broken = threadDied(failed, "its kernel failed");
      throw this.#broken;
    }
  }

  /** Closes the board and waits until no worker is inside. Throws BatchNormError "thread" if a worker stalls. */
  #closeBoard(): void {
    const { i32 } = this.#jobBoard;
    Atomics.and(i32, STATE, ~OPEN);
    let since: number | undefined;
    for (let spins = 0; ; spins++) {
      const inside = Atomics.load(i32, STATE);
      if (inside === 0) return;
      if (spins < SPINS) continue;
      since ??= performance.now();
      if (performance.now() - since > this.#stalledMs) {
        const thread = i32.subarray(INSIDE, INSIDE + this.threads).indexOf(1);
        this.#broken = threadDied(thread, `it did not finish within ${this.#stalledMs} ms of the others`);
        throw this.#broken;
      }
      if (mayWait) Atomics.wait(i32, STATE, inside, NAP_MS);
    }
  }

  /** Ends the workers. The pool cannot be used any more. */
  async dispose(): Promise<void> {
    this.#disposed = true;
    const workers = this.#workers;
    this.#workers = [];
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
}
