// What a run consists of, part by part, each with a title that --only can choose; the same in Node and in the browser.
//
// `peers` are the runner's, of run.mjs; `isolated(id, description)` makes one with settings of its own, and `builds` is how
// to compare builds where this runs.

import { BRIEF, QUICK, THOROUGH } from "./measure.mjs";
import { networksOf } from "./networks.mjs";
import { OURS, runNetwork, runShape } from "./run.mjs";
import { AWKWARD, SHAPES, SWEEP, sameShape, sizeOf, titleOf, twinOf } from "./shapes.mjs";
import { compareDtypes, compareFusion, compareModes, compareThreads } from "./variants.mjs";

/** A quick run leaves TF.js cpu out of shapes beyond this, where a call of it takes up to seconds. */
const QUICK_LIMIT = { "TF.js cpu": 2e5, "batchnorm-wasm in TF.js cpu": 2e5 };

/** --quick ends the sweep here; on the way to 10⁸ every size takes longer than all before. */
const QUICK_SIZE = 2e6;

/** And features here: there are nine of them on a shape, and answers to all of them. */
const QUICK_FEATURES = 1e6;

const IN_NETWORKS = [OURS, "plain JavaScript", "TF.js wasm"];

const pytorch = ({ name }) => name.startsWith("PyTorch");

/** Peers that take part on a shape, and those left out with the reason. */
function chosen(peers, description, quick) {
  const tooSlow = ({ name }) => quick && sizeOf(description) > (QUICK_LIMIT[name] ?? Number.POSITIVE_INFINITY);
  const leftOut = peers.filter(tooSlow).map(({ name }) => ({
    peer: name,
    reason: `left out by --quick beyond ${QUICK_LIMIT[name].toExponential(0)} elements`,
  }));
  return { peers: peers.filter((peer) => !tooSlow(peer)), leftOut };
}

/** The parts in their order: { title, part, run(onProgress) → what to add to results[part] }. */
export function partsOf({ peers, isolated, settings, quick, natives, builds }) {
  const effort = quick ? QUICK : THOROUGH;
  const less = quick ? QUICK : BRIEF;
  const ours = peers.filter(({ name }) => name === OURS);
  const others = peers.filter(({ name }) => ![OURS, "batchnorm-wasm, arrays", "plain JavaScript"].includes(name));

  const shapes = SHAPES.map((description) => ({
    title: titleOf(description),
    part: "shapes",
    async run(onProgress) {
      const { leftOut, peers: present } = chosen(peers, description, quick);
      const listed = SHAPES.some((s) => sameShape(s, twinOf(description)));
      const bothLayouts = (peer) => !listed && others.includes(peer);
      const entry = await runShape(description, { peers: present, effort, settings, bothLayouts, onProgress });
      return [{ ...entry, leftOut }];
    },
  }));

  const networks = networksOf(quick ? 4 : 32).map((network) => ({
    title: network.title,
    part: "networks",
    async run(onProgress) {
      const inNetworks = peers.filter((peer) => IN_NETWORKS.includes(peer.name) || pytorch(peer));
      const bothLayouts = (peer) => !quick && pytorch(peer);
      return [await runNetwork(network, { peers: inNetworks, effort: less, settings, bothLayouts, onProgress })];
    },
  }));

  const costs = (title, part, descriptions) => ({
    title,
    part,
    async run(onProgress) {
      const entries = [];
      for (const description of descriptions) {
        const progress = (share) => onProgress((entries.length + share) / descriptions.length);
        const operations = ["copy", "inference", "forward", "backward"];
        entries.push(
          await runShape(description, { peers: ours, effort: less, settings, operations, onProgress: progress }),
        );
      }
      return entries;
    },
  });

  const features = (part, title, compare) => ({
    title,
    part,
    run: (onProgress) =>
      compare({ isolated, settings, effort: less, onProgress, ...(quick && { limit: QUICK_FEATURES }) }),
  });

  return [
    ...shapes,
    ...networks,
    costs("sizes", "sweep", quick ? SWEEP.filter((s) => sizeOf(s) < QUICK_SIZE) : SWEEP),
    costs("awkward sizes", "awkward", AWKWARD),
    features("fusion", "fusion", compareFusion),
    features("dtypes", "types of numbers", compareDtypes),
    features("modes", "modes", compareModes),
    {
      title: "threads",
      part: "threads",
      run: (onProgress) => compareThreads(natives, { isolated, effort, onProgress }),
    },
    { title: "builds", part: "builds", run: (onProgress) => builds({ isolated, effort, quick, onProgress }) },
  ];
}

/** Runs parts one after the other: results but for the environment. `onPart(title)` → { progress(share), done(results) }. */
export async function runParts(parts, onPart) {
  const results = { shapes: [], networks: [], sweep: [], awkward: [] };
  for (const { title, part, run } of parts) {
    const { progress, done } = onPart(title);
    const added = await run(progress);
    results[part] = Array.isArray(added) ? [...(results[part] ?? []), ...added] : added;
    done(part, added);
  }
  return results;
}
