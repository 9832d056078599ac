// Times a group's exchanges, on every rank of it.

import { median } from "simple-statistics";
import { exchangesOf } from "./model.mjs";

/** Lengths of what a rank has: one number, 64 to 2,048 channels, and enough for bytes to be all that matters. */
const LENGTHS = [1, 129, 513, 1025, 2049, 4097, 65_536];

/**
 * Microseconds of a group's operations, medians over `samples`: of arrays of each length, and of all exchanges of a step of
 * ResNet-50. Ranks call it together.
 *
 * @param {import("batchnorm-wasm").ProcessGroup} group with gather
 * @param {number} samples
 */
export async function timeExchanges(group, samples) {
  const first = group.sum(new Float64Array(1));
  const asynchronous = first instanceof Promise;
  await first;
  const each = 4096;
  const timed = async (call, calls) => {
    const times = [];
    for (let sample = -1; sample < samples; sample++) {
      const start = performance.now();
      if (asynchronous) for (let i = 0; i < calls; i++) await call();
      else for (let i = 0; i < calls; i++) call();
      if (sample >= 0) times.push((1e3 * (performance.now() - start)) / calls);
    }
    return median(times);
  };
  const rows = [];
  for (const length of LENGTHS) {
    const values = new Float64Array(length);
    const all = new Float64Array(group.size * length);
    // the same for every rank, or they would not meet
    const calls = Math.max(1, Math.floor(each / Math.sqrt(length) / (asynchronous ? 32 : 8)));
    rows.push({
      bytes: 8 * length,
      sum: await timed(() => group.sum(values), calls),
      gather: await timed(() => group.gather(values, all), calls),
    });
  }
  const step = exchangesOf().map(({ gathers: [{ bytes }] }) => {
    const values = new Float64Array(bytes / 8);
    const all = new Float64Array(group.size * values.length);
    return () => group.gather(values, all);
  });
  const calls = asynchronous
    ? async () => {
        for (const call of step) await call();
      }
    : () => {
        for (const call of step) call();
      };
  return { size: group.size, rows, step: await timed(calls, 1) };
}
