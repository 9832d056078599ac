// A rank whose group's exchanges are timed: a process of mpirun, `rank.mjs <file> <samples>`, or a worker thread. Rank 0 leaves the
// result in the file, or posts it.

import { writeFileSync } from "node:fs";
import { parentPort, workerData } from "node:worker_threads";
import { messagePortGroup, sharedMemoryGroup } from "../../dist/index.js";
import { mpiGroup } from "../../dist/mpi.js";
import { timeExchanges } from "./exchanges.mjs";

if (parentPort) {
  const { memory, ports, rank, samples } = workerData;
  const group = memory ? sharedMemoryGroup(memory, rank) : messagePortGroup(ports);
  const result = await timeExchanges(group, samples);
  if (rank === 0) parentPort.postMessage(result);
  group.close?.();
} else {
  const [file, samples] = process.argv.slice(2);
  const group = await mpiGroup();
  const result = await timeExchanges(group, Number(samples));
  if (group.rank === 0) writeFileSync(file, JSON.stringify(result));
  group.close();
}
