// Times tasks against each other: rounds, and in every round each task in a shuffled order, so that a slow second of the
// machine falls on all of them alike. tinybench and mitata run one task to its end before the next and so cannot do this;
// the loop is ours, the statistics are simple-statistics'.

import { median, medianAbsoluteDeviation, shuffle } from "simple-statistics";

/** Shorter samples would measure the clock and the scheduler. */
const SAMPLE_MS = 1;

/** Calls of a warm-up, at the least, unless these would try the patience. */
const WARM_UP_CALLS = 3;

/** What a median needs: 5 let one run on a loaded machine through. */
const ENOUGH = 11;

/**
 * How long to take for a task, in milliseconds: to warm it up, to sample it, and at most for the few calls that a slow one
 * is owed. A thorough run; one that has many shapes to go through; one that only shows that everything works.
 */
export const THOROUGH = { warmUpMs: 120, shareMs: 250, patienceMs: 1000 };
export const BRIEF = { warmUpMs: 50, shareMs: 100, patienceMs: 400 };
export const QUICK = { warmUpMs: 50, shareMs: 40, patienceMs: 200 };

/**
 * Milliseconds per call. Short calls are repeated, and the first is not counted: it would find the caches as the peer
 * before left them. Waits for the calls of an `asynchronous` operation, and only for those: waiting takes time itself.
 */
export async function timeCalls({ call, asynchronous }, repeats) {
  if (repeats > 1) await call();
  const start = performance.now();
  if (asynchronous) for (let i = 0; i < repeats; i++) await call();
  else for (let i = 0; i < repeats; i++) call();
  return (performance.now() - start) / repeats;
}

/**
 * Warms a task up; returns the milliseconds of its fastest call, without the first, which compiles and waits for memory,
 * unless that tries the patience. Repeats short calls until they fill a sample: the clock of a browser shows many a call as
 * nothing.
 */
async function warmUp({ time }, { warmUpMs, patienceMs }) {
  let [calls, repeats, fastest] = [0, 1, Number.POSITIVE_INFINITY];
  const start = performance.now();
  const passed = () => performance.now() - start;
  const warm = () => passed() >= warmUpMs && (calls >= WARM_UP_CALLS || passed() >= patienceMs);
  for (; fastest === Number.POSITIVE_INFINITY || !warm(); calls++) {
    const ms = await time(repeats);
    if (ms * repeats < SAMPLE_MS) repeats *= 2;
    else if (calls > 0 || ms >= patienceMs) fastest = Math.min(fastest, ms);
  }
  return fastest;
}

/** Samples of a task: its share of the time, at least enough while these do not try the patience, at least one. */
function samplesOf(ms, { shareMs, patienceMs }) {
  const sample = Math.max(ms, SAMPLE_MS);
  const atLeast = Math.min(ENOUGH, Math.max(1, Math.round(patienceMs / sample)));
  return Math.max(atLeast, Math.round(shareMs / sample));
}

/**
 * What each of `tasks` = { time(repeats) → milliseconds per call, check() }[] took: { ms, spread, samples, repeats, … }, the
 * median over samples, the median absolute deviation from it, the calls in a sample, and what check() says of the results
 * of the last call of the warm-up; or { failed } for a task that throws. A slow task takes part in fewer rounds, spread
 * evenly. `next` is the source of randomness; `onProgress` is told the part done.
 */
export async function measure(tasks, { effort, next, onProgress = () => {} }) {
  const rows = [];
  for (const task of tasks) {
    onProgress(rows.length / tasks.length / 2);
    try {
      const ms = await warmUp(task, effort);
      const repeats = Math.max(1, Math.ceil(SAMPLE_MS / ms));
      const wanted = samplesOf(ms, effort);
      rows.push({ task, repeats, wanted, samples: [], checked: await task.check() });
    } catch (error) {
      rows.push({ task, wanted: 0, failed: error.message.split("\n")[0] });
    }
  }
  const rounds = Math.max(...rows.map(({ wanted }) => wanted));
  for (let round = 1; round <= rounds; round++) {
    const due = rows.filter(
      ({ wanted }) => Math.floor((round * wanted) / rounds) > Math.floor(((round - 1) * wanted) / rounds),
    );
    for (const row of shuffle(due, next)) row.samples.push(await row.task.time(row.repeats));
    onProgress(0.5 + round / rounds / 2);
  }
  return rows.map(({ failed, samples, repeats, checked }) =>
    failed
      ? { failed }
      : { ms: median(samples), spread: medianAbsoluteDeviation(samples), samples: samples.length, repeats, ...checked },
  );
}
