// Runs peers on shapes: prepares each in the layouts it shall run in, checks its answers, times it. Knows neither Node nor
// the browser.
//
//   entry = { shape, layout, bytes, rows: [row] }
//   row   = { peer, layout, operation, ms, spread, samples, repeats, gbps, copies, times, error, wrong }
//         | { peer, layout, operation?, failed }
//
// `layout` is the one that the peer ran in, `copies` the time in copies of the tensor, `times` in those of our tensors.

import { errorOf, expectedOf, makeProblem, OPERANDS, random, transposed } from "./data.mjs";
import { measure } from "./measure.mjs";
import { twinOf } from "./shapes.mjs";

export const SEED = 2015; // the year of the paper

/** float32 sums over 100,352 values lose some 1e-5; what is beyond this computes something else. */
export const WRONG = 1e-4;

export const OURS = "batchnorm-wasm, tensors";

/** Ours if the peer can, else its own; `both` for everything it can. Vectors have only one. */
function layoutsOf({ layouts }, { shape, layout }, both) {
  if (shape.length === 2) return [layout];
  if (!layouts.includes(layout)) return layouts.slice(0, 1);
  return both ? [layout, ...layouts.filter((other) => other !== layout)] : [layout];
}

/**
 * Times and checks `peers` on one shape. `bothLayouts(peer)` says whose other layout is measured as well, `operations`
 * which operations are.
 */
export async function runShape(description, options) {
  const { peers, effort, settings = {}, operations = Object.keys(OPERANDS), onProgress } = options;
  const { bothLayouts = () => false } = options;
  const problem = makeProblem(description, SEED);
  const inLayout = new Map();
  const problemIn = (layout) => {
    if (!inLayout.has(layout)) {
      const turned = layout === description.layout ? problem : transposed(problem, twinOf(description));
      inLayout.set(layout, { problem: turned, expected: expectedOf(turned) });
    }
    return inLayout.get(layout);
  };

  const failures = [];
  const prepared = [];
  for (const peer of peers)
    for (const layout of layoutsOf(peer, description, bothLayouts(peer))) {
      const { problem, expected } = problemIn(layout);
      try {
        prepared.push({ peer: peer.name, layout, expected, ...(await peer.prepare(problem, settings)) });
      } catch (error) {
        failures.push({ peer: peer.name, layout, failed: error.message.split("\n")[0] });
      }
    }

  const tasks = operations.flatMap((operation) =>
    prepared
      .filter((p) => p.operations[operation])
      .map(({ peer, layout, expected, operations: { [operation]: task } }) => ({
        ...{ peer: operation === "copy" ? "copy" : peer, layout, operation, time: task.time },
        async check() {
          const error = errorOf(await task.results(), expected[operation]);
          return { error, wrong: !(error <= WRONG) };
        },
      })),
  );
  const times = await measure(tasks, { effort, next: random(SEED), onProgress });
  for (const { dispose } of prepared) await dispose();

  const bytes = problem.x.byteLength;
  const rows = tasks.map(({ peer, layout, operation }, i) => ({ peer, layout, operation, ...times[i] }));
  const msOf = (peer, operation) => rows.find((row) => row.peer === peer && row.operation === operation)?.ms;
  for (const row of rows.filter(({ failed }) => !failed))
    Object.assign(row, {
      gbps: (OPERANDS[row.operation] * bytes) / row.ms / 1e6,
      copies: row.ms / msOf("copy", "copy"),
      times: row.ms / msOf(OURS, row.operation),
    });
  return { ...description, bytes, rows: [...rows, ...failures] };
}

/** Times of all `norms` = { shape, layout, times }[] of a network: of one step, forward and backward, each as often as it occurs. */
export async function runNetwork({ title, layout, batch, norms }, { onProgress, ...options }) {
  const entries = [];
  for (const norm of norms)
    entries.push(
      await runShape(norm, {
        ...options,
        operations: ["copy", "step"],
        onProgress: (part) => onProgress((entries.length + part) / norms.length),
      }),
    );
  return { title, layout, batch, norms: entries, totals: totalsOf(entries) };
}

/** Sums over a network by peer and layout: { peer, layout, operation, ms, copies, times, error, wrong } | { peer, layout, failed }. */
export function totalsOf(entries) {
  const keyOf = ({ peer, layout }) => `${peer}, ${layout}`;
  const kinds = new Map(entries.flatMap(({ rows }) => rows).map((row) => [keyOf(row), row]));
  const totals = [...kinds].map(([key, { peer, layout, operation }]) => {
    const rows = entries.map((entry) => entry.rows.find((row) => keyOf(row) === key) ?? { failed: "not measured" });
    const broken = rows.findIndex(({ failed }) => failed);
    if (broken >= 0)
      return { peer, layout, failed: `at [${entries[broken].shape.join(", ")}]: ${rows[broken].failed}` };
    const ms = rows.reduce((sum, row, i) => sum + entries[i].times * row.ms, 0);
    const error = Math.max(...rows.map((row) => row.error));
    return { peer, layout, operation, ms, error, wrong: rows.some((row) => row.wrong) };
  });
  const msOf = (name) => totals.find(({ peer }) => peer === name)?.ms;
  return totals.map((total) =>
    total.failed ? total : { ...total, copies: total.ms / msOf("copy"), times: total.ms / msOf(OURS) },
  );
}
