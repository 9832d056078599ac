// The thread pool. Its threads run the phases of a job, each on other pieces, and the caller waits for them. The
// threads are worker threads in Node and Deno, and web workers elsewhere. They share the kernels' memory and a job
// board (job-board.ts).

import source from "../../../build/worker.txt";
import { node, nodeModule } from "../../common/engine.ts";
import { threadDied, threadNotStarted } from "../../common/errors.ts";
import {
  ASLEEP,
  AWAKE,
  FAILED,
  GENERATION,
  INSIDE,
  JobBoard,
  type Kernel,
  MAX_PIECES,
  MAX_THREADS,
  OPEN,
  type Piece,
  STATE,
  THREADS,
  WANTED,
} from "./job-board.ts";

export { MAX_THREADS };

/**
 * The number of times that the owner reads the board before it sleeps, about 70 µs (Node 20.20). Workers mostly finish
 * within that time, since all threads take from the same pieces. To sleep and to be woken takes 36 µs more (SPINS in
 * shared-memory.ts).
 */
const SPINS = 2000;

/**
 * The owner wakes after this many milliseconds to see whether a worker has stalled. The last worker to leave wakes it
 * at once.
 */
const NAP_MS = 100;

/**
 * A worker that is inside for this many milliseconds after the owner has finished its pieces counts as dead. A forward
 * of 6.4 million elements takes 2.4 ms (docs/concepts/numerics-measurements.md), so one of 4 GiB would take about
 * 0.4 s. Only a worker that has ended or is suspended takes as long.
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

/**
 * Elements from which a call runs on the pool. In smaller tensors, waking the other threads takes as long as they save
 * (docs/concepts/numerics-measurements.md has the measurements).
 */
const PARALLEL_FROM = 131_072;

/**
 * Pieces of a job per thread. With one piece each, all threads would wait for a thread that is interrupted. Two let
 * the others take its second piece.
 */
const PIECES = 2;

/** The fields of a plan that say how much work a tensor is, and how it can be divided. */
interface Walk {
  readonly planar: number;
  readonly outer: number;
  readonly channels: number;
  readonly inner: number;
  readonly length: number;
  readonly tiled: number;
  readonly block: number;
}

/** Divides a range into neighbouring ranges of `size`, rounded up. The last may be shorter. */
function divide({ begin, end }: Piece, size: number): Piece[] {
  const step = Math.ceil(size);
  const pieces: Piece[] = [];
  for (let start = begin; start < end; start += step) pieces.push({ begin: start, end: Math.min(start + step, end) });
  return pieces;
}

/** A phase of a job. The range of a piece follows the arguments of the call. */
export interface NamedPhase {
  /** The module and the export, such as "core.map". */
  readonly name: `${(typeof NAMES)[number]}.${string}`;
  readonly call: readonly number[];
}

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
  /** Elements from which a call runs on the pool. */
  parallelFrom = PARALLEL_FROM;
  /** The phases that `together` collects, while it does. */
  #collected: NamedPhase[] | undefined;
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
    const message = { modules, memory, buffer: this.#jobBoard.buffer, thread };
    try {
      this.#workers.push(await startWorker(message, ready, died));
    } catch (error) {
      died(error); // a host without workers, or a policy against them
    }
    await started;
  }

  /** Returns the number of threads that have enough to do: two in the smallest job, and more in proportion. */
  #threadsFor(elements: number): number {
    return Math.min(this.threads, Math.ceil((2 * elements) / this.parallelFrom));
  }

  /**
   * Runs a phase of a tensor, in pieces of `units`. While `together` collects phases, it only collects the phase.
   * Returns false, and does nothing, if the phase is one of vectors, has too little work, or is only one piece.
   */
  share(phase: NamedPhase, plan: Walk, units: Piece): boolean {
    if (this.#collected) return this.#collected.push(phase) > 0;
    const size = units.end - units.begin;
    const elements = plan.planar ? size * plan.outer * plan.inner : plan.length;
    if (elements < this.parallelFrom || !/\.(sums|map)$/.test(phase.name)) return false;
    const threads = this.#threadsFor(elements);
    const pieces = divide(units, size / threads / PIECES);
    if (pieces.length < 2) return false;
    this.run([phase], pieces, threads);
    return true;
  }

  /**
   * Calls `visit`, which runs phases on all channels of a planar tensor. They are only collected then, and afterwards the
   * threads run all of them on a few channels, then on the next. So they do not wait for each other in between, and the
   * map finds in cache what the sums have read. Returns ranges of channels that are not done, because `statistics` found
   * unreliable channels there. Returns undefined, and does nothing, if the tensor is not planar or too small.
   */
  together(plan: Walk, visit: () => void): readonly Piece[] | undefined {
    const { planar, tiled, block, channels, length } = plan;
    if (!planar || tiled || length < this.parallelFrom) return undefined;
    const phases: NamedPhase[] = [];
    this.#collected = phases;
    try {
      visit();
    } finally {
      this.#collected = undefined;
    }
    const threads = this.#threadsFor(length);
    const pieces = divide({ begin: 0, end: channels }, Math.min(block, channels / threads / PIECES));
    return this.run(phases, pieces, threads);
  }

  /**
   * Runs the phases on each piece, one after the other, and the pieces on the first `threads` threads. A phase that
   * returns a number other than 0 is the last that runs on its piece. Returns these pieces when all are done. Throws
   * BatchNormError "thread" if a worker has died, fails or stalls.
   */
  run<P extends Piece>(phases: readonly NamedPhase[], pieces: readonly P[], threads: number): P[] {
    if (this.#broken) throw this.#broken;
    const calls = phases.map(({ name, call }) => ({ kernel: this.#index.get(name) as number, call }));
    const stopped: P[] = [];
    for (let first = 0; first < pieces.length; first += MAX_PIECES) {
      const some = pieces.slice(first, first + MAX_PIECES);
      this.#jobBoard.write(calls, some);
      this.#runJob(threads);
      stopped.push(...some.filter((_, i) => this.#jobBoard.hasStopped(i)));
    }
    return stopped;
  }

  /** Runs the job on the board on this thread and on the first workers, and wakes those that sleep. */
  #runJob(threads: number): void {
    const { i32 } = this.#jobBoard;
    i32[WANTED] = threads;
    Atomics.store(i32, STATE, OPEN);
    Atomics.add(i32, GENERATION, 1);
    for (let thread = THREADS + 1; thread < THREADS + threads; thread++)
      if (Atomics.compareExchange(i32, thread, ASLEEP, AWAKE) === ASLEEP) Atomics.notify(i32, thread);
    try {
      this.#jobBoard.work(this.#kernels, 0, threads);
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
        const thread = i32.subarray(THREADS, THREADS + this.threads).indexOf(INSIDE);
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
