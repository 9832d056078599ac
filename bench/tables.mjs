// From results to tables { head, rows, left } of strings, `left` columns of which stand to the left: the one source of
// Markdown and HTML. Bold is written as in Markdown.
//
//   results = { environment, missing: [{ peer, reason }], shapes: [entry], networks, sweep, awkward, fusion, dtypes, modes,
//               threads, builds }
//
// An entry is what run.mjs makes of a shape, with what --quick left out in `leftOut`; networks have { title, norms, totals };
// threads are { shape, layout, operation, threads, ms }[] and builds { shape, layout, operation, build, ms }[], or a
// { reason } why there are none. fusion, dtypes and modes are what variants.mjs makes of features.

import { median } from "simple-statistics";
import { OPERATIONS as MEASURED } from "./features.mjs";
import { OURS } from "./run.mjs";
import { sameShape, sizeOf, titleOf } from "./shapes.mjs";
import { FUSED, fusionVerdict, verdicts } from "./targets.mjs";

export const OPERATIONS = {
  copy: "copy",
  inference: "inference",
  forward: "training forward",
  backward: "backward",
  step: "forward + backward",
};

const format = new Intl.NumberFormat("en", {
  minimumSignificantDigits: 3,
  maximumSignificantDigits: 3,
  useGrouping: false,
});
export const digits = (value) => format.format(value);

const inList = (items) => new Intl.ListFormat("en").format(items);
const inWords = (layout) => layout.replace("-", " ");
const errorText = ({ error, wrong }) => `${wrong ? "**wrong**: " : ""}${error === 0 ? "0" : error.toExponential(0)}`;
const orEmpty = (value) => (Number.isFinite(value) ? digits(value) : "");
const timesText = ({ operation, times }) => (operation === "copy" ? "" : orEmpty(times));

export const sizeText = ({ bytes }) => (bytes < 1e6 ? `${digits(bytes / 1e3)} kB` : `${digits(bytes / 1e6)} MB`);

/** What failed, and what was left out and why. */
export const remarks = ({ rows, leftOut = [] }) => [
  ...rows
    .filter(({ failed }) => failed)
    .map(({ peer, operation, failed }) => `${peer}${operation ? `, ${OPERATIONS[operation]}` : ""}: failed: ${failed}`),
  ...leftOut.map(({ peer, reason }) => `${peer}: ${reason}`),
];

/** One shape. */
export function shapeTable(entry) {
  const rows = entry.rows
    .filter(({ failed }) => !failed)
    .map((row) => [
      ...[OPERATIONS[row.operation], row.peer, entry.shape.length === 2 ? "" : inWords(row.layout)],
      ...[digits(row.ms), `± ${digits(row.spread)}`, String(row.samples), digits(row.gbps), orEmpty(row.copies)],
      ...[timesText(row), errorText(row)],
    ]);
  const head = ["operation", "peer", "layout", "ms", "spread", "samples", "GB/s", "copies", "× tensors", "error"];
  return { head, rows, left: 3 };
}

export const networkTitle = ({ title, norms }) =>
  `${title}, all ${norms.reduce((sum, { times }) => sum + times, 0)} batch norms, one step`;

export const networkText = ({ layout, batch, norms }) =>
  `Batch ${batch}, 224×224, ${inWords(layout)}, in ${norms.length} shapes.`;

/** The sums over a network's batch norms. */
export function networkTable({ totals }) {
  const rows = totals
    .filter(({ failed }) => !failed)
    .map((t) => [t.peer, inWords(t.layout), digits(t.ms), orEmpty(t.copies), timesText(t), errorText(t)]);
  return { head: ["peer", "layout", "ms", "copies", "× tensors", "error"], rows, left: 2 };
}

/** Our cost per element on many shapes, in nanoseconds. */
export function costTable(entries) {
  const operations = ["copy", "inference", "forward", "backward"];
  const cost = (entry, operation) => {
    const row = entry.rows.find((r) => r.operation === operation);
    if (!row?.ms) return row?.failed ?? "";
    return `${row.wrong ? "**wrong** " : ""}${digits((1e6 * row.ms) / sizeOf(entry))}`;
  };
  const rows = entries.map((entry) => [
    ...[entry.why ?? "", titleOf(entry), sizeOf(entry).toExponential(1)],
    ...operations.map((operation) => cost(entry, operation)),
  ]);
  return { head: ["", "shape", "elements", ...operations.map((o) => OPERATIONS[o])], rows, left: 2 };
}

/**
 * Threads or builds, by `key`: a row for each shape and operation, a column for each number of threads or build. Threads have
 * their gain over one thread of their kind.
 */
export function variantTable(variants, key) {
  const columns = [...new Set(variants.map((v) => v[key]))];
  const nameOf = (v) => `${titleOf(v)}, ${v.operation}`;
  const rows = [...new Map(variants.map((v) => [nameOf(v), v])).values()].map((first) => [
    ...[titleOf(first), OPERATIONS[first.operation]],
    ...columns.map((column) => {
      const inColumn = (wanted) => variants.find((v) => v[key] === wanted && nameOf(v) === nameOf(first));
      const found = inColumn(column);
      if (!found) return "";
      const alone = key === "threads" && inColumn(typeof column === "number" ? 1 : "native, 1 thread");
      const gain = alone && alone !== found ? ` (${digits(alone.ms / found.ms)}×)` : "";
      return `${found.wrong ? "**wrong** " : ""}${digits(found.ms)}${gain}`;
    }),
  ]);
  const names = columns.map((n) => (typeof n === "number" ? `${n} thread${n > 1 ? "s" : ""}` : n));
  return { head: ["ms", "", ...names], rows, left: 2 };
}

/** Rows of features by shape and operation, the first feature's in ms, others as `cell` has them. */
function featureTable(rows, cell) {
  const features = [...new Set(rows.map(({ feature }) => feature))];
  const keyOf = (row) => `${titleOf(row)}, ${row.operation}`;
  const lines = [...new Map(rows.map((row) => [keyOf(row), row])).values()].map((first) => [
    ...[titleOf(first), OPERATIONS[first.operation]],
    ...features.map((feature) => {
      const row = rows.find((r) => r.feature === feature && keyOf(r) === keyOf(first));
      if (row.failed) return `failed: ${row.failed}`;
      return `${row.wrong ? "**wrong** " : ""}${feature === features[0] ? digits(row.ms) : cell(row)}`;
    }),
  ]);
  return { head: ["", "", `${features[0]}, ms`, ...features.slice(1)], rows: lines, left: 2 };
}

const inTimes = (value) => `${digits(value)}×`;

/** What activations and residuals cost, in times of the plain operation; bold is what misses the target. */
export function fusionTable(fusion) {
  const table = featureTable(fusion, (row) => {
    const { reached } = fusionVerdict(row);
    return reached === false ? `**${inTimes(row.times)}**` : inTimes(row.times);
  });
  const { shape, layout } = fusion[0];
  const first = fusion.filter((row) => titleOf(row) === titleOf({ shape, layout }));
  const bandwidth = MEASURED.map((operation) => [
    ...["bandwidth alone", OPERATIONS[operation], ""],
    ...first
      .filter((row) => row.operation === operation)
      .slice(1)
      .map((row) => inTimes(fusionVerdict(row).bandwidth)),
  ]);
  return { ...table, rows: [...table.rows, ...bandwidth] };
}

/** The target, and how often it was reached. */
export function fusionText(fusion) {
  const found = fusion.map(fusionVerdict).filter(({ limit }) => limit);
  const reached = found.filter((verdict) => verdict.reached).length;
  return (
    `Target: fused, at most ${FUSED}× the plain operation: ${reached === found.length ? "reached" : "**not reached**"}, ` +
    `${reached} of ${found.length}, the others in bold. A residual is one more tensor to read, and in backward one to ` +
    "write: the last rows have what the tensors cost that must be read and written, if memory is all that counts."
  );
}

/** Types of numbers and modes, in ms and in times of the first. */
export const comparisonTable = (rows) => featureTable(rows, ({ ms, times }) => `${digits(ms)} (${inTimes(times)})`);

/** The targets, each with what was measured. */
export function targetTable(results) {
  const rows = verdicts(results).flatMap(({ shape, title, layout, operation, limits }) =>
    limits.map(({ kind, limit, measured, reached, against }) => [
      ...[title ?? titleOf({ shape, layout }), OPERATIONS[operation]],
      against || kind === "PyTorch" ? `≥ ${limit}× ${against ?? kind}` : `≤ ${limit} ${kind}`,
      measured === undefined ? "not measured" : reached ? "reached" : "**not reached**",
      measured === undefined ? "" : `${digits(measured)}${against ? "×" : ""}`,
    ]),
  );
  return { head: ["shape", "operation", "target", "", "measured"], rows, left: 4 };
}

/** The peers of the summary: a column each, of the fastest row in any layout. PyTorch's is the faster version. */
export const RIVALS = {
  "plain JavaScript": /^plain JavaScript$/,
  "TF.js wasm": /^TF\.js wasm$/,
  "native PyTorch": /^PyTorch/,
};

/**
 * How many times as fast as each rival our tensors are on the listed shapes; below 1, we are slower. A rival that was not
 * measured is absent.
 *
 * @returns {{ entry: object, operation: string, ours: object, times: Record<string, number> }[]} times by rival
 */
export function speedsOf({ shapes }) {
  const fastest = (rows, name) => Math.min(...rows.filter(({ peer }) => name.test(peer)).map(({ ms }) => ms));
  return shapes.flatMap((entry) =>
    MEASURED.flatMap((operation) => {
      const right = entry.rows.filter((row) => row.operation === operation && row.ms && !row.wrong);
      const ours = right.find(({ peer }) => peer === OURS);
      if (!ours) return [];
      const times = Object.entries(RIVALS)
        .map(([rival, name]) => [rival, fastest(right, name) / ours.ms])
        .filter(([, times]) => Number.isFinite(times));
      return [{ entry, operation, ours, times: Object.fromEntries(times) }];
    }),
  );
}

/** Their table; where we are slower, the number is bold. */
export function summaryTable(results) {
  const rows = speedsOf(results).map(({ entry, operation, ours, times }) => {
    const against = Object.keys(RIVALS).map((rival) => {
      if (!times[rival]) return "–";
      return times[rival] < 1 ? `**${inTimes(times[rival])}**` : inTimes(times[rival]);
    });
    return [titleOf(entry), OPERATIONS[operation], digits(ours.ms), orEmpty(ours.copies), ...against];
  });
  const head = ["shape", "operation", "ms", "copies", ...Object.keys(RIVALS).map((name) => `× ${name}`)];
  return { head, rows, left: 2 };
}

/** What to conclude of the speeds, in sentences: the median and the extremes against each rival, and where we are slower. */
export function conclusionsOf(results) {
  const speeds = speedsOf(results);
  const lines = Object.keys(RIVALS).flatMap((rival) => {
    const all = speeds
      .filter(({ times }) => times[rival])
      .map(({ entry, operation, times }) => ({
        times: times[rival],
        on: `${OPERATIONS[operation]} on ${titleOf(entry)}`,
      }))
      .sort((a, b) => a.times - b.times);
    if (all.length === 0) return [];
    const slower = all.filter(({ times }) => times < 1);
    const middle = median(all.map(({ times }) => times));
    const range = `from ${inTimes(all[0].times)} to ${inTimes(all.at(-1).times)}`;
    const where = slower.length
      ? `Slower in ${slower.length} of ${all.length}: ${slower.map(({ on, times }) => `${on} (${inTimes(times)})`).join("; ")}.`
      : `In none of ${all.length} is it slower.`;
    return [`Against **${rival}**: ${inTimes(middle)} in the median, ${range}. ${where}`];
  });
  return lines;
}

/** How many of the targets were reached, of those that were measured. */
export function targetText(results) {
  const limits = verdicts(results)
    .flatMap(({ limits }) => limits)
    .filter(({ measured }) => measured !== undefined);
  return `Of ${limits.length} targets that were measured, ${limits.filter(({ reached }) => reached).length} are reached.`;
}

/** The README has these shapes, ours and what its readers could take instead; of PyTorch the newest version. */
const README = {
  shapes: [
    { shape: [32, 64, 56, 56], layout: "channels-first" },
    { shape: [32, 256, 14, 14], layout: "channels-first" },
    { shape: [4, 4], layout: "channels-first" },
  ],
  operations: ["inference", "step"],
  peers: [OURS, "batchnorm-wasm, arrays", "plain JavaScript", "TF.js wasm"],
};

/** The newest PyTorch among the peers of an entry. */
export const newestPytorch = ({ rows }) =>
  [...new Set(rows.map(({ peer }) => peer).filter((peer) => peer.startsWith("PyTorch")))].sort((a, b) =>
    b.localeCompare(a, "en", { numeric: true }),
  )[0];

/** What a reader can have today, in milliseconds, each peer in its best layout; undefined where nothing was measured. */
export function readmeTable({ shapes }) {
  const entries = README.shapes.flatMap((shape) => shapes.filter((s) => sameShape(s, shape)));
  if (entries.length === 0) return undefined;
  const wanted = [...README.peers, newestPytorch(entries[0])];
  const peers = wanted.filter((peer) => entries[0].rows.some((row) => row.peer === peer && row.ms));
  const best = (entry, peer, operation) => {
    const rows = entry.rows.filter((row) => row.peer === peer && row.operation === operation && row.ms);
    const right = rows.filter(({ wrong }) => !wrong);
    if (right.length) return digits(Math.min(...right.map(({ ms }) => ms)));
    return rows.length ? "wrong" : "–";
  };
  const rows = entries.flatMap((entry) =>
    README.operations.map((operation) => [
      ...[`[${entry.shape.join(", ")}]`, OPERATIONS[operation]],
      ...peers.map((peer) => best(entry, peer, operation)),
    ]),
  );
  return { head: ["ms", "", ...peers], rows, left: 2 };
}

/** Returns a sentence that says where rivals are faster than our tensors. */
export function slowerText(results) {
  const speeds = speedsOf(results);
  const places = Object.keys(RIVALS).flatMap((rival) => {
    const lost = speeds.filter(({ times }) => times[rival] < 1);
    const parts = [...new Set(lost.map(({ operation }) => operation))].map((operation) => {
      const shapes = lost
        .filter((row) => row.operation === operation)
        .map(({ entry }) => `[${entry.shape.join(", ")}]`);
      return `in ${OPERATIONS[operation]} on ${inList(shapes)}`;
    });
    return parts.length ? [`${rival} ${inList(parts)}`] : [];
  });
  const lost = speeds.filter(({ times }) => Object.values(times).some((value) => value < 1)).length;
  const where = lost ? `: ${places.join("; ")}` : "";
  return `On tensors, an alternative is faster in ${lost || "none"} of ${speeds.length} measurements${where}.`;
}
