// Which statistics does each mode use, and what does it change? A layer that has learned the statistics of one data set
// (mean 0) sees a batch of another (mean 5).
import { BatchNorm } from "batchnorm-wasm";

const batch = (mean) => ({ shape: [64, 1], data: Float32Array.from({ length: 64 }, (_, i) => mean + Math.sin(i * i)) });
const meanOf = ({ data }) => data.reduce((sum, v) => sum + v, 0) / data.length;

for (const mode of ["train", "batch", "eval", "frozen"]) {
  const bn = new BatchNorm(1);
  for (let step = 0; step < 100; step++) bn.forward(batch(0));
  const before = bn.runningMean[0];
  const y = bn.forward(batch(5), { mode });
  const { dx } = bn.backward({ shape: [64, 1], data: new Float32Array(64).fill(1) });
  console.log(mode, {
    "mean of y": meanOf(y),
    "running mean moved by": bn.runningMean[0] - before,
    "dx of a gradient of ones": dx.data[0],
  });
}
// Batch statistics take the mean out, so that a gradient of ones has no effect on x. With running statistics, eval and
// frozen, every sample is on its own. Both have the same y; frozen promises that a backward is possible.
