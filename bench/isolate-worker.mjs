// The worker thread of isolate.mjs: what host.mjs does, by messages.

import { parentPort } from "node:worker_threads";
import { host } from "./host.mjs";

const actions = host();

parentPort.on("message", async ({ action, options }) => {
  try {
    parentPort.postMessage({ answer: await actions[action](options) });
  } catch (error) {
    parentPort.postMessage({ failure: `${error.name}: ${error.message}` });
  }
});
