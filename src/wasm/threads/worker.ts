// The script of a worker of the pool. It gets the modules, the memory and the job board in one message and answers that
// it is ready. From then on it only waits for jobs on the board. The build bundles this file to a text, and pool.ts
// starts workers from that text.

import {
  ASLEEP,
  AWAKE,
  FAILED,
  GENERATION,
  INSIDE,
  JobBoard,
  type Kernel,
  OPEN,
  STATE,
  THREADS,
  WANTED,
} from "./job-board.ts";

/** The message that starts a worker. */
interface Start {
  modules: WebAssembly.Module[];
  memory: WebAssembly.Memory;
  /** The memory of the job board. */
  buffer: SharedArrayBuffer;
  /** The number of this thread; the owner is 0. */
  thread: number;
}

interface Port {
  postMessage(message: unknown): void;
  onmessage: ((event: { data: Start }) => void) | null;
}

/**
 * The number of times that the first worker reads the board before it sleeps: 0.1 to 0.4 ms (Node 20.20), which is
 * longer than the time between two jobs of one call. Worker n reads it 1/n as many times: if there are more threads than
 * cores, a worker that reads takes a core from one that has work.
 */
const SPINS = 20_000;

declare const require: (name: string) => { parentPort: Port };

// web workers have a global postMessage, and workers of Node have a port
const port: Port =
  typeof postMessage === "function" ? (globalThis as unknown as Port) : require("node:worker_threads").parentPort;

/** Enters the board. Returns false if it is closed. */
function enter({ i32 }: JobBoard): boolean {
  let state = Atomics.load(i32, STATE);
  while (state & OPEN) {
    const previous = Atomics.compareExchange(i32, STATE, state, state + 1);
    if (previous === state) return true;
    state = previous;
  }
  return false;
}

/** Leaves the board. The last worker to leave a closed board wakes the owner. */
function leave({ i32 }: JobBoard): void {
  if (Atomics.sub(i32, STATE, 1) === 1) Atomics.notify(i32, STATE);
}

/** Waits for a job after `seen` that wants this thread, and returns its generation. Sleeps after SPINS reads or less. */
function nextGeneration({ i32 }: JobBoard, seen: number, thread: number): number {
  const most = SPINS / thread;
  for (let spins = 0; ; spins++) {
    const generation = Atomics.load(i32, GENERATION);
    if (generation !== seen) {
      if (thread < Atomics.load(i32, WANTED)) return generation;
      seen = generation;
      spins = most;
    }
    if (spins < most) continue;
    Atomics.store(i32, THREADS + thread, ASLEEP);
    // the owner may have looked for sleepers before
    if (Atomics.load(i32, GENERATION) === seen) Atomics.wait(i32, THREADS + thread, ASLEEP);
    Atomics.store(i32, THREADS + thread, AWAKE);
    spins = 0;
  }
}

port.onmessage = ({ data: { modules, memory, buffer, thread } }) => {
  const kernels = modules.flatMap((module) => {
    const { exports } = new WebAssembly.Instance(module, { env: { memory } });
    return WebAssembly.Module.exports(module).map(({ name }) => exports[name] as Kernel);
  });
  const jobBoard = new JobBoard(buffer);
  port.postMessage("ready");
  for (let seen = 0; ; ) {
    seen = nextGeneration(jobBoard, seen, thread);
    // The state is INSIDE from before the worker enters until after it has left, so that the owner can name a worker
    // that is killed at any moment.
    Atomics.store(jobBoard.i32, THREADS + thread, INSIDE);
    if (enter(jobBoard))
      try {
        jobBoard.work(kernels, thread, Atomics.load(jobBoard.i32, WANTED));
      } catch (error) {
        Atomics.store(jobBoard.i32, FAILED, thread);
        console.error(`batchnorm-wasm: thread ${thread}:`, error);
      } finally {
        leave(jobBoard);
      }
    Atomics.store(jobBoard.i32, THREADS + thread, AWAKE);
  }
};
