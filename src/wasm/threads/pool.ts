// The worker pool: has several threads make the calls of one kernel, each on a range of its own, and waits for them.
// Worker threads in Node and Deno, web workers elsewhere; what they share is the kernels' memory and a board (job-board.ts).

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

/** Times to look at the board before the owner sleeps, where it may. */
const SPINS = 4000;
const NAP_MS = 100;

/** A worker that is inside for so long after the owner has finished its own calls is taken for dead. */
const STALLED_MS = 10_000;

interface Thread {
  postMessage(message: unknown): void;
  terminate(): unknown;
}

type Listener = (what: unknown) => void;

/** What we need of node:worker_threads, whose types a library for every engine cannot ask for. */
interface WorkerThreads {
  Worker: new (
    source: string,
    options: { eval: true; execArgv: [] },
  ) => Thread & {
    once(event: "message" | "error" | "exit", listener: Listener): void;
    unref(): void;
  };
}

/** Starts a worker; `ready` is told once, `died` of its end, if that comes by itself. */
async function start(message: object, ready: () => void, died: Listener): Promise<Thread> {
  // Deno has web workers too, but only as modules, without unref, and none that waits in Atomics.wait is ever terminated
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
  // flags of the program itself, as --input-type, are not for this script
  const worker = new NodeWorker(source, { eval: true, execArgv: [] });
  worker.once("message", () => {
    worker.unref(); // a pool that nobody disposed of keeps no process alive
    ready();
  });
  worker.once("error", died);
  worker.once("exit", (code) => died(`exit code ${code}`));
  worker.postMessage(message);
  return worker;
}

const mayWait = /* @__PURE__ */ (() => {
  try {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 1);
    return true;
  } catch {
    return false; // the main thread of a page, or no shared memory at all
  }
})();

/** Names of the modules, in the order in which a pool takes them. */
const NAMES = ["core", "extended"] as const;

type ModuleName = (typeof NAMES)[number];

type Modules = readonly WebAssembly.Module[];

/** Exports of modules. */
type Instances = readonly object[];

export class Pool {
  /** Threads that take part, the caller's included. */
  readonly threads: number;
  readonly #board = new JobBoard();
  readonly #kernels: readonly Kernel[];
  readonly #index: ReadonlyMap<string, number>;
  readonly #modules: number;
  readonly #stalledMs: number;
  #workers: Thread[] = [];
  #broken: Error | undefined;
  #closed = false;

  private constructor(modules: Modules, instances: Instances, threads: number, stalledMs: number) {
    this.threads = threads;
    this.#stalledMs = stalledMs;
    const all = modules.flatMap((module, m) =>
      WebAssembly.Module.exports(module).map(({ name }) => ({
        name: `${NAMES[m]}.${name}`,
        kernel: (instances[m] as Readonly<Record<string, unknown>>)[name] as Kernel,
      })),
    );
    this.#kernels = all.map(({ kernel }) => kernel);
    this.#index = new Map(all.map(({ name }, i) => [name, i]));
    this.#modules = modules.length;
  }

  /**
   * Starts threads − 1 workers over a shared memory, with the core module and perhaps the extended one, whose instances of
   * this thread are given. Rejects with BatchNormError "thread" where a worker does not start.
   */
  static async start(
    modules: Modules,
    memory: WebAssembly.Memory,
    instances: Instances,
    threads: number,
    stalledMs = STALLED_MS,
  ): Promise<Pool> {
    const pool = new Pool(modules, instances, threads, stalledMs);
    const { buffer } = pool.#board;
    const starting = Array.from({ length: threads - 1 }, async (_, i) => {
      const thread = i + 1;
      let settle: { ready(): void; died(error: Error): void } | undefined;
      const ready = new Promise<void>((resolve, reject) => {
        settle = { ready: resolve, died: reject };
      });
      let started = false;
      const died = (what: unknown) => {
        if (pool.#closed) return;
        const how = what instanceof Error ? what.message : String(what);
        pool.#broken ??= started ? threadDied(thread, how) : threadNotStarted(thread, how);
        settle?.died(pool.#broken);
      };
      const working = () => {
        started = true;
        settle?.ready();
      };
      try {
        pool.#workers.push(await start({ modules, memory, buffer, thread, threads }, working, died));
      } catch (error) {
        died(error); // a host without workers, or a policy against them
      }
      await ready;
    });
    try {
      await Promise.all(starting);
    } catch (error) {
      await Promise.allSettled(starting);
      await pool.dispose();
      throw error;
    }
    return pool;
  }

  /** Whether the threads have a module: not the extended one where it came after they started. */
  has(module: ModuleName): boolean {
    return NAMES.indexOf(module) < this.#modules;
  }

  /**
   * Makes the calls of a module's export on all threads and returns when all are done. At most MAX_CALLS. Throws BatchNormError
   * "thread" where a worker has died or fails.
   */
  run(module: ModuleName, name: string, calls: readonly (readonly number[])[]): void {
    if (this.#broken) throw this.#broken;
    const board = this.#board;
    const { i32 } = board;
    board.write(this.#index.get(`${module}.${name}`) as number, calls);
    Atomics.store(i32, STATE, OPEN);
    Atomics.add(i32, GENERATION, 1);
    if (Atomics.load(i32, SLEEPERS) > 0) Atomics.notify(i32, GENERATION);
    try {
      board.work(this.#kernels, 0, this.threads);
    } finally {
      this.#close();
    }
    const failed = Atomics.exchange(i32, FAILED, 0);
    if (failed > 0) {
      this.#broken = threadDied(failed, "its kernel failed");
      throw this.#broken;
    }
  }

  /** Lets nobody in any more and waits until nobody is inside. */
  #close(): void {
    const { i32 } = this.#board;
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

  /** Ends the workers. */
  async dispose(): Promise<void> {
    this.#closed = true;
    const workers = this.#workers;
    this.#workers = [];
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
}
