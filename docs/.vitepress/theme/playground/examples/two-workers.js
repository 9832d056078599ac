// Two workers have a part of the batch each, and normalise as one. This program starts itself a second time, as rank 1.
import { BatchNorm, createMessagePorts, messagePortGroup, SyncBatchNorm } from "batchnorm-wasm";

const shards = [
  [1, 2, 3, 4],
  [5, 60],
].map((data) => ({ data: Float32Array.from(data), shape: [data.length / 2, 2] }));

let ports;
let worker; // stands here because Firefox may stop a worker that no variable holds
if (self.name === "rank 1") ports = await new Promise((resolve) => (self.onmessage = ({ data }) => resolve(data)));
else {
  const [own, other] = createMessagePorts(2);
  worker = new Worker(import.meta.url, { type: "module", name: "rank 1" });
  worker.postMessage(other, other.ports);
  ports = own;
}

const group = messagePortGroup(ports);
const bn = new SyncBatchNorm(2, { group });
const y = await bn.forwardAsync(shards[group.rank]);
const means = new Float64Array(4);
await group.gather(Float64Array.from(bn.runningMean), means); // both ranks' running means

if (group.rank === 0) {
  console.log("y of rank 0", y);
  const whole = { shape: [3, 2], data: Float32Array.of(1, 2, 3, 4, 5, 60) };
  console.log("y of one BatchNorm on all three rows", new BatchNorm(2).forward(whole));
  console.log("running means of rank 0 and of rank 1", { data: means, shape: [2, 2] });
}
group.close();
