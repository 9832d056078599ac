// Times functions interleaved: every round runs each of them once, in a new order, so that what the machine does meanwhile
// hits all alike. Libraries for benchmarks (tinybench, mitata) run one task to its end before the next; their statistics
// would compare different minutes of a shared machine.

import { interquartileRange, median } from "simple-statistics";

/** A sample lasts at least this long, so that the clock's grain does not show. */
const SAMPLE_MS = 2;

/** Calls per sample; also the warm-up, which lets the engine reach its best code. */
function callsPerSample(run) {
  const until = performance.now() + 20 * SAMPLE_MS;
  let fastest = Number.POSITIVE_INFINITY;
  for (let i = 0; i < 3 || (performance.now() < until && i < 5000); i++) {
    const start = performance.now();
    run();
    fastest = Math.min(fastest, performance.now() - start);
  }
  return Math.max(1, Math.ceil(SAMPLE_MS / Math.max(fastest, 1e-4)));
}

/**
 * @param {{ run: () => void }[]} tasks
 * @param {{ rounds: number, shuffle: () => number, tick: () => void }} options
 * @returns {{ ms: number, spread: number }[]} median and interquartile range, in the order of the tasks
 */
export function interleave(tasks, { rounds, shuffle, tick }) {
  const calls = tasks.map(({ run }) => callsPerSample(run));
  const samples = tasks.map(() => []);
  for (let round = 0; round < rounds; round++) {
    const order = tasks.map((_, i) => ({ i, key: shuffle() })).sort((a, b) => a.key - b.key);
    for (const { i } of order) {
      const start = performance.now();
      for (let n = calls[i]; n; n--) tasks[i].run();
      samples[i].push((performance.now() - start) / calls[i]);
    }
    tick();
  }
  return samples.map((s) => ({ ms: median(s), spread: interquartileRange(s) }));
}
