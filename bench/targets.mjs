// What was asked of tensors on one thread, and whether a run reached it. Pure: results in, verdicts out.

import { FUSIONS, TENSORS } from "./features.mjs";
import { OURS } from "./run.mjs";
import { sameShape } from "./shapes.mjs";

const first = (...shape) => ({ shape, layout: "channels-first" });

/** At most so many copies of the tensor, or microseconds; at least so many times as fast as native PyTorch in the same layout. */
const SMALL = { inference: { pytorch: 1.5 }, forward: { pytorch: 1.5 }, backward: { pytorch: 1.5 } };

export const TARGETS = [
  {
    ...first(32, 64, 56, 56),
    inference: { copies: 0.95, pytorch: 1.1 },
    forward: { copies: 1.25, pytorch: 4.5 },
    backward: { copies: 1.95, pytorch: 1.4 },
  },
  {
    ...{ shape: [32, 56, 56, 64], layout: "channels-last" },
    inference: { copies: 0.95, pytorch: 1.1 },
    forward: { copies: 1.5, pytorch: 1.3 },
    backward: { copies: 2.3, pytorch: 1.25 },
  },
  {
    ...first(32, 256, 14, 14),
    inference: { copies: 1 },
    forward: { copies: 1.5, pytorch: 6 },
    backward: { copies: 2.3, pytorch: 2.5 },
  },
  { ...first(8, 32, 16, 16), forward: { copies: 3.3 }, backward: { copies: 4.7, pytorch: 1.2 } },
  { ...first(128, 512), inference: { pytorch: 1.5 }, forward: { pytorch: 1.3 }, backward: { pytorch: 1.3 } },
  {
    ...first(4096, 1024),
    inference: { copies: 0.95, pytorch: 1 },
    forward: { copies: 1.65, pytorch: 1.25 },
    backward: { copies: 2.5, pytorch: 1.4 },
  },
  { ...first(32, 512, 7, 7), ...SMALL },
  { ...first(32, 1024, 2, 2), ...SMALL },
  { ...first(256, 64, 1, 1), forward: { pytorch: 1.8 }, backward: { pytorch: 1.6 } },
  { ...first(4, 4), forward: { microseconds: 1.3 }, backward: { microseconds: 1.3 } },
];

/** One step of all batch norms of a network: at least so many times as fast as PyTorch in a layout. */
const NETWORK_TARGETS = [
  { title: "ResNet-50", layout: "channels-first", pytorch: 3.5 },
  { title: "ResNet-50", layout: "channels-last", pytorch: 1.6 },
  { title: "MobileNetV2", layout: "channels-last", pytorch: 1.4 },
];

/** In TF.js's wasm backend, in the place of its own: at least so many times as fast. */
const IN_TFJS = {
  ...{ shape: [32, 56, 56, 64], layout: "channels-last" },
  ours: "batchnorm-wasm in TF.js wasm",
  rival: "TF.js wasm",
  inference: 8,
  step: 50,
};

/** PyTorch's row to compare with, of the fastest version; undefined where none ran. */
function opponent(rows, { layout, operation }) {
  const rivals = rows.filter(
    (row) => /^PyTorch/.test(row.peer) && row.layout === layout && row.operation === operation && row.ms && !row.wrong,
  );
  return rivals.sort((a, b) => a.ms - b.ms)[0];
}

/**
 * A verdict for every target of a shape or network that was measured: { shape or title, layout, operation, limits: [limit]
 * }, where a limit is
 * { kind, limit, measured, reached, against? }; `measured` is undefined where PyTorch did not run.
 */
export function verdicts({ shapes, networks = [] }) {
  const own = TARGETS.flatMap(({ shape, layout, ...operations }) => {
    const entry = shapes.find((s) => sameShape(s, { shape, layout }));
    if (!entry) return [];
    return Object.entries(operations).map(([operation, { copies, microseconds, pytorch }]) => {
      const row = entry.rows.find((r) => r.peer === OURS && r.operation === operation);
      const ours = row?.wrong ? undefined : row;
      const most = (kind, limit, measured) => ({ kind, limit, measured, reached: measured <= limit });
      const limits = [];
      if (copies) limits.push(most("copies", copies, ours?.copies));
      if (microseconds) limits.push(most("µs", microseconds, ours && 1000 * ours.ms));
      if (pytorch) limits.push(againstPytorch(pytorch, opponent(entry.rows, { layout, operation }), ours));
      return { shape, layout, operation, limits };
    });
  });
  return [...own, ...verdictsInTfjs(shapes), ...verdictsOfNetworks(networks)];
}

function againstPytorch(limit, rival, ours) {
  const measured = rival && ours && rival.ms / ours.ms;
  return { kind: "PyTorch", limit, measured, reached: measured >= limit, against: rival?.peer };
}

function verdictsOfNetworks(networks) {
  return NETWORK_TARGETS.flatMap(({ title, layout, pytorch }) => {
    const network = networks.find((n) => n.title === title);
    if (!network) return [];
    const ours = network.totals.find(({ peer, failed, wrong }) => peer === OURS && !failed && !wrong);
    const limits = [againstPytorch(pytorch, opponent(network.totals, { layout, operation: "step" }), ours)];
    return [{ title: `${title}, PyTorch ${layout.replace("-", " ")}`, layout, operation: "step", limits }];
  });
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
export const FUSED = 1.1;

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
