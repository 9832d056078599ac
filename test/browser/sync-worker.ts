// One rank of a process group in a worker of a page. It runs a training step on its shard.

import { messagePortGroup, SyncBatchNorm, sharedMemoryGroup } from "../../src/index.ts";

self.onmessage = async ({ data: { memory, ports, rank, shard } }) => {
  const group = memory ? sharedMemoryGroup(memory, rank) : messagePortGroup(ports);
  const bn = new SyncBatchNorm(4, { group });
  const y = memory ? bn.forward(shard) : await bn.forwardAsync(shard);
  const { dx } = memory ? bn.backward(y) : await bn.backwardAsync(y);
  const { runningMean, runningVariance } = bn;
  self.postMessage({ y: y.data, dx: dx?.data, runningMean, runningVariance });
};
