// Our own peer against itself under other settings: numbers of threads, builds of the kernels. Each setting has isolates of
// its own, since a pool and a build are global there. Results: { shape, layout, operation, threads | build, ms, error, wrong }[],
// or { reason } where this version of the library does not offer the setting.

import { runShape } from "./run.mjs";
import { SHAPES } from "./shapes.mjs";

const OPERATIONS = ["inference", "forward", "backward"];

/** Large tensors, in both layouts and without images. */
const FOR_THREADS = [SHAPES[0], SHAPES[1], SHAPES[5]];

/** Tensors in cache, where arithmetic is what costs. */
const FOR_BUILDS = [SHAPES[3], SHAPES[4]];

/** `peers` have a setting `value` each, which becomes the results' `key`. */
async function compare(descriptions, key, peers, { effort, onProgress }) {
  const variants = [];
  for (const [i, description] of descriptions.entries()) {
    const progress = (share) => onProgress((i + share) / descriptions.length);
    const { rows } = await runShape(description, { peers, effort, operations: OPERATIONS, onProgress: progress });
    const failure = rows.find(({ failed }) => failed);
    if (failure) return { reason: `Not offered by this version (${failure.failed})` };
    const settingOf = new Map(peers.map(({ name, value }) => [name, value]));
    for (const { peer, layout, operation, ms, error, wrong } of rows)
      variants.push({ shape: description.shape, layout, operation, [key]: settingOf.get(peer), ms, error, wrong });
  }
  return variants;
}

export const compareThreads = (counts, { isolated, ...options }) =>
  compare(
    FOR_THREADS,
    "threads",
    counts.map((threads) => ({
      ...isolated("tensors", { name: `threads ${threads}`, settings: { init: { threads } } }),
      value: threads,
    })),
    options,
  );

/** `builds` are the bytes of modules, by name. */
export const compareBuilds = (builds, { isolated, ...options }) =>
  compare(
    FOR_BUILDS,
    "build",
    Object.entries(builds).map(([name, module]) => ({
      ...isolated("tensors", { name, settings: { init: { module } } }),
      value: name,
    })),
    options,
  );
