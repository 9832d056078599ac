// What a program of the playground has besides the globals of Node: `plot`, and workers as in a page.

import { isMainThread, parentPort, Worker as Thread, workerData } from "node:worker_threads";

globalThis.plot = (values, { title }) => console.log(`plot: ${title}: ${Object.keys(values).join(", ")}`);

globalThis.self = globalThis;

globalThis.Worker = class {
  #thread;
  constructor(url, { name }) {
    this.#thread = new Thread(new URL(url), { workerData: { name } });
  }
  postMessage(message, transfer) {
    this.#thread.postMessage(message, transfer);
  }
};

if (!isMainThread) {
  globalThis.name = workerData.name;
  Object.defineProperty(globalThis, "onmessage", {
    set: (listener) => parentPort.once("message", (data) => listener({ data })),
  });
}
