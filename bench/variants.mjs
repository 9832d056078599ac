// Our own peer against itself under other settings: numbers of threads, builds of the kernels. Each setting has isolates of
// its own, since a pool and a build are global there. Results: { shape, layout, operation, threads | build, ms, error, wrong }[],
// or { reason } where this version of the library does not offer the setting.
//
// And features of ours against the plain operation, in one isolate and on the same tensors.

import { errorOf, random } from "./data.mjs";
import { answersTo, DTYPES, FUSIONS, MODES, makeFeatureProblem, OPERATIONS } from "./features.mjs";
import { measure } from "./measure.mjs";
import { runShape, SEED, WRONG } from "./run.mjs";
import { SHAPES, sizeOf } from "./shapes.mjs";

/** Large tensors, in both layouts and without images, and one that stays in cache. */
const FOR_THREADS = [SHAPES[0], SHAPES[1], SHAPES[5], SHAPES[2]];

/** Numbers of threads. More than there are cores should not be slower than one. */
const THREADS = [1, 2, 4, 8];

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

/** `natives` are peers that are no JavaScript, in the same rounds. */
export const compareThreads = (natives, { isolated, ...options }) =>
  compare(
    FOR_THREADS,
    "threads",
    [
      ...THREADS.map((threads) => ({
        ...isolated("tensors", { name: `threads ${threads}`, settings: { init: { threads } } }),
        value: threads,
      })),
      ...natives,
    ],
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

/**
 * Features of features.mjs: { shape, layout, operation, feature, ms, spread, samples, times, error, wrong }[], or `failed` in
 * place of numbers. `times` is in those of the first feature.
 */
async function compareFeatures(descriptions, features, { isolated, settings, effort, onProgress }) {
  const all = [];
  for (const [i, description] of descriptions.entries()) {
    const problem = makeFeatureProblem(description, SEED);
    const answer = answersTo(problem);
    const { operations, dispose } = await isolated("features", { settings: { features } }).prepare(problem, settings);
    const tasks = OPERATIONS.flatMap((operation) =>
      features.map((feature) => {
        const { time, results } = operations[`${operation}, ${feature.feature}`];
        const check = async () => {
          const error = errorOf(await results(), answer(feature, operation));
          return { error, wrong: !(error <= (feature.tolerance ?? WRONG)) };
        };
        return { operation, feature: feature.feature, time, check };
      }),
    );
    const progress = (share) => onProgress((i + share) / descriptions.length);
    const measured = await measure(tasks, { effort, next: random(SEED), onProgress: progress });
    await dispose();
    const rows = tasks.map(({ operation, feature }, j) => ({ ...description, operation, feature, ...measured[j] }));
    for (const row of rows) {
      const base = rows.find(
        ({ operation, feature }) => operation === row.operation && feature === features[0].feature,
      );
      row.times = row.ms / base.ms;
    }
    all.push(...rows);
  }
  return all;
}

/** Large and in cache, both layouts, and without images. */
const FOR_FUSION = SHAPES.slice(0, 5);

const FOR_DTYPES = [SHAPES[0], SHAPES[3]];

/** Sequences, as masks of lengths need them. */
const FOR_MODES = [
  { shape: [32, 64, 256], layout: "channels-first" },
  { shape: [32, 256, 64], layout: "channels-last" },
];

/** Shapes and features by part; --quick has no time for shapes beyond `limit` elements. */
const of =
  (descriptions, features) =>
  ({ limit, ...options }) =>
    compareFeatures(
      descriptions.filter((d) => sizeOf(d) <= (limit ?? Number.POSITIVE_INFINITY)),
      features,
      options,
    );

export const compareFusion = of(FOR_FUSION, FUSIONS);
export const compareDtypes = of(FOR_DTYPES, DTYPES);
export const compareModes = of(FOR_MODES, MODES);
