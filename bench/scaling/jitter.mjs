// How much the same work differs in time from one call to the next, on this machine.

import { mean, median, quantile } from "simple-statistics";
import { BatchNorm, tensor } from "../../dist/full.js";
import { digits } from "../tables.mjs";

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
