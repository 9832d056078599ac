// A thread of the pool: what runs inside a worker. It gets the modules, the memory and the board in one message, says
// that it is ready, and then only looks at the board. Bundled to a text of its own, from which pool.ts starts workers.

import { FAILED, GENERATION, INSIDE, JobBoard, type Kernel, OPEN, SLEEPERS, STATE } from "./job-board.ts";

interface Start {
  modules: WebAssembly.Module[];
  memory: WebAssembly.Memory;
  buffer: SharedArrayBuffer;
  thread: number;
  threads: number;
}

interface Port {
  postMessage(message: unknown): void;
  onmessage: ((event: { data: Start }) => void) | null;
}

/** Looks at the board before it sleeps: about 0.1 ms, longer than what lies between the two passes of a call. */
const SPINS = 20_000;

declare const require: (name: string) => { parentPort: Port };

// web workers have a global postMessage; Node's have a port
const port: Port =
  typeof postMessage === "function" ? (globalThis as unknown as Port) : require("node:worker_threads").parentPort;

function enter({ i32 }: JobBoard): boolean {
  let state = Atomics.load(i32, STATE);
  while (state & OPEN) {
    const was = Atomics.compareExchange(i32, STATE, state, state + 1);
    if (was === state) return true;
    state = was;
  }
  return false;
}

function leave({ i32 }: JobBoard): void {
  if (Atomics.sub(i32, STATE, 1) === 1) Atomics.notify(i32, STATE);
}

function nextGeneration({ i32 }: JobBoard, seen: number): number {
  for (let spins = 0; Atomics.load(i32, GENERATION) === seen; spins++) {
    if (spins < SPINS) continue;
    Atomics.add(i32, SLEEPERS, 1);
    Atomics.wait(i32, GENERATION, seen);
    Atomics.sub(i32, SLEEPERS, 1);
    spins = 0;
  }
  return Atomics.load(i32, GENERATION);
}

port.onmessage = ({ data: { modules, memory, buffer, thread, threads } }) => {
  const kernels = modules.flatMap((module) => {
    const { exports } = new WebAssembly.Instance(module, { env: { memory } });
    return WebAssembly.Module.exports(module).map(({ name }) => exports[name] as Kernel);
  });
  const board = new JobBoard(buffer);
  port.postMessage("ready");
  for (let seen = 0; ; ) {
    seen = nextGeneration(board, seen);
    if (!enter(board)) continue;
    Atomics.store(board.i32, INSIDE + thread, 1);
    try {
      board.work(kernels, thread, threads);
    } catch (error) {
      Atomics.store(board.i32, FAILED, thread);
      console.error(`batchnorm-wasm: thread ${thread}:`, error);
    } finally {
      Atomics.store(board.i32, INSIDE + thread, 0);
      leave(board);
    }
  }
};
