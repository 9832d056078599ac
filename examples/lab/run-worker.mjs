// A worker thread of the headless runner: runs one experiment after another, and sends what it collected.

import { parentPort, workerData } from "node:worker_threads";
import { Collected } from "./experiment.mjs";
import { EXPERIMENTS } from "./experiments/index.mjs";

parentPort.on("message", async ({ id, values }) => {
  const experiment = EXPERIMENTS.find((e) => e.id === id);
  const collected = new Collected(experiment.charts(values));
  let reported = 0;
  for await (const update of experiment.run(values, workerData)) {
    collected.add(update);
    const share = collected.done / collected.total;
    if (share - reported < 0.01) continue;
    parentPort.postMessage({ progress: share - reported });
    reported = share;
  }
  parentPort.postMessage({ result: { values, charts: collected.charts, facts: collected.facts } });
});
