// What this machine adds to the model: how much the same work differs in time from one call to the next, and what it takes to merge
// statistics.

import { mean, median, quantile } from "simple-statistics";
import { BatchNorm, packStatistics, SyncBatchNorm, tensor } from "../../dist/index.js";
import { digits } from "../tables.mjs";
import { HEADER } from "./model.mjs";

/** { seconds, text } of `count` forward passes of one layer. */
export function jitterHere(count) {
  const shape = [8, 64, 56, 56];
  const bn = new BatchNorm(shape[1]);
  const [x, y] = [tensor(shape), tensor(shape)];
  x.data.forEach((_, i, data) => {
    data[i] = Math.sin(i);
  });
  const times = Array.from({ length: count + 20 }, () => {
    const start = performance.now();
    bn.forward(x, { out: y });
    return performance.now() - start;
  }).slice(20);
  x.dispose();
  y.dispose();
  const text =
    `Jitter: ${count} forward passes of [${shape.join(", ")}] here took ${digits(median(times))} ms in the median, ` +
    `${digits(mean(times))} on average, ${digits(quantile(times, 0.99))} at the 99th percentile and ${digits(Math.max(...times))} at most.`;
  return { seconds: times.map((time) => 1e-3 * time), text };
}

/**
 * Seconds that merging what others gathered takes in one exchange for each rank and channel, the median over `count` times: half
 * of a forward and a backward of a rank that has nothing of its own, in a group whose messages are there at once.
 */
export function mergingHere(count) {
  const [size, channels] = [64, 512];
  const one = (rank) => ({
    count: 100 + rank,
    mean: Float64Array.from({ length: channels }, (_, c) => Math.sin(rank + c)),
    variance: Float64Array.from({ length: channels }, (_, c) => 1 + Math.cos(rank * c)),
  });
  const statistics = Array.from({ length: size }, (_, rank) => packStatistics(one(rank)));
  // the header of every rank is this rank's own, and gradients are any numbers
  const gather = (own, all) => {
    for (const [rank, values] of statistics.entries()) {
      const end = (rank + 1) * own.length;
      all.set(own, end - own.length);
      if (rank > 0) all.set(values.subarray(0, own.length - HEADER), end - own.length + HEADER);
    }
  };
  const bn = new SyncBatchNorm(channels, { group: { rank: 0, size, sum() {}, gather } });
  const nothing = { data: new Float32Array(), shape: [0, channels] };
  const times = Array.from({ length: count + 20 }, () => {
    const start = performance.now();
    bn.forward(nothing);
    bn.backward(nothing);
    return performance.now() - start;
  }).slice(20);
  return (1e-3 * median(times)) / (2 * size * channels);
}
