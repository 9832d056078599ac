// A worker thread: trains one run after another, as it is told, and reports the steps done and each result.

import { parentPort, workerData } from "node:worker_threads";
import { train } from "./train.mjs";

parentPort.on("message", (run) => {
  const result = train(run, workerData, (progress) => parentPort.postMessage({ progress }));
  parentPort.postMessage({ result });
});
