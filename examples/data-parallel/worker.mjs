// A rank that is a worker thread: trains as it is told to; rank 0 posts the results, which has those of all.

import { parentPort, workerData } from "node:worker_threads";
import { sharedMemoryGroup } from "batchnorm-wasm";
import { trainBoth } from "./train.mjs";

const { memory, rank, digits, options } = workerData;
const results = trainBoth(options, sharedMemoryGroup(memory, rank), digits);
if (rank === 0) parentPort.postMessage(results);
