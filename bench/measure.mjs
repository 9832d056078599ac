// Times peers against each other: rounds, and in every round each task once in a shuffled order, so that a slow second of
// the machine falls on all of them alike. tinybench and mitata run one task to its end before the next and so cannot do
// this; the loop is ours, the statistics are simple-statistics'.

import { median, medianAbsoluteDeviation, shuffle } from "simple-statistics";

/** Shorter samples would measure the clock and the scheduler. */
const SAMPLE_MS = 1;

/** Until then the engine has compiled a call's loops with its optimising compiler. */
const WARM_UP_MS = 150;
const WARM_UP_CALLS = 3;

/** What a median needs at the least (5 let one run on a loaded machine through), and where more would add nothing. */
const MIN_ROUNDS = 11;
const MAX_ROUNDS = 300;

/** Milliseconds per call. */
export const timeCalls = (call, repeats) => {
  const start = performance.now();
  for (let i = 0; i < repeats; i++) call();
  return (performance.now() - start) / repeats;
};

/** Warms a task up; returns how many calls make a sample. */
function warmUp(time) {
  const calls = [];
  for (const start = performance.now(); performance.now() - start < WARM_UP_MS || calls.length < WARM_UP_CALLS; )
    calls.push(time(1));
  return Math.ceil(SAMPLE_MS / median(calls.slice(calls.length >> 1)));
}

/**
 * Milliseconds per call of each of `tasks` = ({ call } | { time })[]: { ms, spread, repeats }, the median over rounds, the
 * median absolute deviation from it, and the calls that make one sample. A task that brings its own clock has
 * time(repeats), milliseconds per call. `next` is the source of randomness; `onRound` is told the part done.
 */
export function measure(tasks, { budgetMs, next, onRound = () => {} }) {
  const rows = tasks.map(({ call, time = (repeats) => timeCalls(call, repeats) }) => ({
    time,
    repeats: warmUp(time),
    samples: [],
  }));
  const start = performance.now();
  let rounds = 0;
  let done = 0;
  while (done < 1) {
    for (const row of shuffle(rows, next)) row.samples.push(row.time(row.repeats));
    rounds++;
    const enough = Math.max((performance.now() - start) / budgetMs, rounds / MAX_ROUNDS);
    done = Math.min(enough, rounds / MIN_ROUNDS, 1);
    onRound(done);
  }
  const times = rows.map(({ samples, repeats }) => ({
    ms: median(samples),
    spread: medianAbsoluteDeviation(samples),
    repeats,
  }));
  return { rounds, times };
}
