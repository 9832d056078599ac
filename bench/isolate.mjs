// Runs a peer in an isolate of its own, a worker thread that is asked and waited for, so that what other peers do to the
// engine does not touch it. They do: once a WebAssembly memory has grown in an isolate, plain loops over typed arrays took
// 1.4 to 1.6 times as long there (Node 20). Why was not traced; V8 may no longer assume that array buffers stay attached.

import { createSyncFn } from "synckit";

/** The peer of that name which the module `file` exports as `exported`. */
export const isolated = (name, file, exported) => ({
  name,
  prepare(problem) {
    const ask = createSyncFn(new URL("isolate-worker.mjs", import.meta.url));
    const names = ask("prepare", { file: new URL(file, import.meta.url).href, exported, problem });
    const operation = (name) => ({
      time: (repeats) => ask("time", { name, repeats }),
      results: () => ask("results", { name }),
    });
    return {
      operations: Object.fromEntries(names.map((name) => [name, operation(name)])),
      dispose: () => ask("dispose", {}),
    };
  },
});
