// Isolates of Node: worker threads that are asked and waited for. Every peer gets one of its own for every shape, so that
// what peers do to the engine does not touch others. They do: once a WebAssembly memory has grown in an isolate, plain
// loops over typed arrays took 1.4 to 1.6 times as long there (Node 20). Why was not traced; V8 may no longer assume that
// array buffers stay attached. Backends of TF.js and pools of threads are global besides.

import { once } from "node:events";
import { Worker } from "node:worker_threads";

/** A new isolate: ask(action, options) → the answer of host.mjs, and close(). */
export function isolate() {
  const worker = new Worker(new URL("isolate-worker.mjs", import.meta.url));
  return {
    async ask(action, options) {
      worker.postMessage({ action, options });
      const [{ answer, failure }] = await once(worker, "message");
      if (failure) throw new Error(failure);
      return answer;
    },
    close: () => worker.terminate(),
  };
}
