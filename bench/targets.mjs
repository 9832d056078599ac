// What was asked of tensors on one thread, and whether a run reached it. Pure: results in, verdicts out.

import { FUSIONS, TENSORS } from "./features.mjs";
import { OURS } from "./run.mjs";
import { sameShape } from "./shapes.mjs";

const first = (...shape) => ({ shape, layout: "channels-first" });

/** At most so many copies of the tensor, at least so many times as fast as native PyTorch in the same layout. */
const SMALL = { inference: { pytorch: 1.5 }, forward: { pytorch: 1.5 }, backward: { pytorch: 1.5 } };

export const TARGETS = [
  {
    ...first(32, 64, 56, 56),
    inference: { copies: 1, pytorch: 1.2 },
    forward: { copies: 1.5, pytorch: 5 },
    backward: { copies: 2.2, pytorch: 1.5, anyVersion: true },
  },
  {
    ...{ shape: [32, 56, 56, 64], layout: "channels-last" },
    inference: { copies: 1, pytorch: 1 },
    forward: { copies: 1.6, pytorch: 1.2 },
    backward: { copies: 2.3, pytorch: 2 },
  },
  { ...first(32, 256, 14, 14), forward: { copies: 2, pytorch: 6 }, backward: { copies: 3, pytorch: 2.5 } },
  { ...first(8, 32, 16, 16), forward: { copies: 3, pytorch: 6 }, backward: { copies: 4, pytorch: 1.2 } },
  { ...first(128, 512), forward: { pytorch: 1.5 }, backward: { pytorch: 1.5 } },
  { ...first(4096, 1024), forward: { copies: 2, pytorch: 1 }, backward: { copies: 3, pytorch: 2 } },
  { ...first(32, 512, 7, 7), ...SMALL },
  { ...first(32, 1024, 2, 2), ...SMALL },
  { ...first(256, 64, 1, 1), ...SMALL },
  { ...first(4, 4), forward: { microseconds: 3, pytorch: 1 } },
];

/** In TF.js's wasm backend, in the place of its own: at least so many times as fast. */
const IN_TFJS = {
  ...{ shape: [32, 56, 56, 64], layout: "channels-last" },
  ours: "batchnorm-wasm in TF.js wasm",
  rival: "TF.js wasm",
  inference: 8,
  step: 50,
};

/** The major and minor version in a peer's name. */
const versionOf = ({ peer }) => peer.match(/\d+/g).slice(0, 2).map(Number);
const newest = (a, b) => versionOf(b)[0] - versionOf(a)[0] || versionOf(b)[1] - versionOf(a)[1];

/** PyTorch's row to compare with: the newest version's, or the fastest; undefined where none ran. */
function opponent({ rows }, { layout, operation, anyVersion }) {
  const rivals = rows.filter(
    (row) => /^PyTorch/.test(row.peer) && row.layout === layout && row.operation === operation && row.ms && !row.wrong,
  );
  return rivals.sort(anyVersion ? (a, b) => a.ms - b.ms : newest)[0];
}

/**
 * A verdict for every target of a shape that was measured: { shape, layout, operation, limits: [limit] }, where a limit is
 * { kind, limit, measured, reached, against? }; `measured` is undefined where PyTorch did not run.
 */
export function verdicts({ shapes }) {
  const own = TARGETS.flatMap(({ shape, layout, ...operations }) => {
    const entry = shapes.find((s) => sameShape(s, { shape, layout }));
    if (!entry) return [];
    return Object.entries(operations).map(([operation, { copies, microseconds, pytorch, anyVersion }]) => {
      const row = entry.rows.find((r) => r.peer === OURS && r.operation === operation);
      const ours = row?.wrong ? undefined : row;
      const most = (kind, limit, measured) => ({ kind, limit, measured, reached: measured <= limit });
      const limits = [];
      if (copies) limits.push(most("copies", copies, ours?.copies));
      if (microseconds) limits.push(most("µs", microseconds, ours && 1000 * ours.ms));
      const rival = opponent(entry, { layout, operation, anyVersion });
      const measured = rival && ours && rival.ms / ours.ms;
      limits.push({ kind: "PyTorch", limit: pytorch, measured, reached: measured >= pytorch, against: rival?.peer });
      return { shape, layout, operation, limits };
    });
  });
  return [...own, ...verdictsInTfjs(shapes)];
}

function verdictsInTfjs(shapes) {
  const { shape, layout, ours, rival, ...operations } = IN_TFJS;
  const entry = shapes.find((s) => sameShape(s, IN_TFJS));
  if (!entry) return [];
  return Object.entries(operations).map(([operation, limit]) => {
    const find = (peer) => entry.rows.find((r) => r.peer === peer && r.operation === operation && r.ms && !r.wrong);
    const measured = find(rival) && find(ours) && find(rival).ms / find(ours).ms;
    const verdict = { kind: rival, limit, measured, reached: measured >= limit, against: `${rival}, by ${ours}` };
    return { shape, layout, operation, limits: [verdict] };
  });
}

/** Fused, an activation or a residual costs at most so many times the plain operation. */
export const FUSED = 1.05;

/**
 * What a feature may cost and does: { limit, measured, reached, bandwidth }, or undefined where nothing is asked of it.
 * `bandwidth` is what it costs to read and write the tensors that it has beyond the plain operation, if memory is all that
 * counts.
 *
 * @param {{ feature: string, operation: string, times?: number, wrong?: boolean, failed?: string }} row
 */
export function fusionVerdict({ feature, operation, times, wrong, failed }) {
  const { separate, tensors } = FUSIONS.find((f) => f.feature === feature);
  const bandwidth = 1 + (tensors?.[operation] ?? 0) / TENSORS[operation];
  const measured = failed || wrong ? undefined : times;
  const limit = separate || feature === FUSIONS[0].feature ? undefined : FUSED;
  return { limit, measured, reached: limit === undefined ? undefined : measured <= limit, bandwidth };
}
