// Results as Markdown: for the terminal, for docs/benchmarks.md, and the short table of the README.

import { markdownTable } from "markdown-table";

/** Milliseconds with three significant digits. */
const ms = (value) => (value < 100 ? value.toPrecision(3) : value.toFixed(0));

/** What the main job asks of tensors on the first shape, in copies; a later issue asks for more. */
const TARGETS = { inference: 1.2, forward: 2, backward: 3 };
const TARGET_CASE = /^\[32, (64, 56, 56|56, 56, 64)\]/;

const OURS = "batchnorm-wasm, tensors";
const ARRAYS = "batchnorm-wasm, plain arrays";
const PLAIN = "plain JavaScript";

const find = (c, peer, operation) => c.rows.find((r) => r.peer === peer && r.operation === operation);

/** The table of one case. */
export function caseTable(c) {
  const rows = c.rows.map((r) => [
    r.operation,
    r.peer,
    `${ms(r.ms)} ± ${ms(r.spread)}`,
    r.gigabytesPerSecond.toFixed(1),
    r.copies.toFixed(2),
    `${(find(c, PLAIN, r.operation).ms / r.ms).toFixed(1)}×`,
    r.wrong ? `WRONG (${r.error.toExponential(1)})` : r.error.toExponential(1),
  ]);
  const copy = [
    "copy",
    "v128 copy",
    `${ms(c.copy.ms)} ± ${ms(c.copy.spread)}`,
    c.copy.gigabytesPerSecond.toFixed(1),
    "1",
    "",
    "",
  ];
  const head = ["operation", "peer", "ms", "GB/s", "copies", "against plain JavaScript", "largest error"];
  rows.sort((a, b) => c.rows.findIndex((r) => r.operation === a[0]) - c.rows.findIndex((r) => r.operation === b[0]));
  return markdownTable([head, copy, ...rows], { align: ["l", "l", "r", "r", "r", "r", "r"] });
}

/** Each target with what was measured. */
export function targetTable(results) {
  const rows = results.cases
    .filter((c) => TARGET_CASE.test(c.name))
    .flatMap((c) =>
      Object.entries(TARGETS).map(([operation, most]) => {
        const { copies } = find(c, OURS, operation);
        return [c.name, operation, `≤ ${most}`, copies.toFixed(2), copies <= most ? "reached" : "NOT reached"];
      }),
    );
  return markdownTable([["shape", "operation", "target, copies", "measured", ""], ...rows]);
}

const machine = ({ processor, cores, engine, platform, version, commit, date, rounds }) =>
  `${processor}, ${cores} cores; ${engine}; ${platform}; batchnorm-wasm ${version}, commit ${commit}; ${date}; ` +
  `medians of ${rounds} rounds.`;

/** docs/benchmarks.md, whole. */
export function document(results) {
  return `# Benchmarks

Written by \`npm run bench -- --write\`; nobody types numbers.

${machine(results.header)}

One thread, float32. Every round runs each peer once, in a new order, on the same seeded data. ms is the median ± the
interquartile range. GB/s counts what an operation has to move at the least: 2 tensors for inference and for the copy, 3 for
training forward, 5 for backward. **copies** is the time in copies of the same tensor inside the same wasm memory, by
16-byte loads and stores. The largest error is against float64, relative to the output's largest value.

## Targets

${targetTable(results)}

${results.cases.map((c) => `## ${c.name}, ${(c.bytes / 1e6).toFixed(2)} MB\n\n${caseTable(c)}`).join("\n\n")}
`;
}

/** The README's table: times of ours and of plain JavaScript on the largest and on the smallest case. */
export function summary(results) {
  const cases = [results.cases[0], results.cases[1], results.cases.at(-1)];
  const rows = cases.flatMap((c) =>
    ["inference", "forward", "backward"].map((operation, i) => {
      const [ours, arrays, plain] = [OURS, ARRAYS, PLAIN].map((peer) => find(c, peer, operation));
      const name = i === 0 ? c.name : "";
      return [
        name,
        operation,
        ms(ours.ms),
        ms(arrays.ms),
        ms(plain.ms),
        `${(plain.ms / ours.ms).toFixed(0)}×`,
        ours.copies.toFixed(2),
      ];
    }),
  );
  const head = ["ms", "", "tensors", "plain arrays", "plain JavaScript", "faster", "copies of the tensor"];
  const table = markdownTable([head, ...rows], { align: ["l", "l", "r", "r", "r", "r", "r"] });
  return `${table}\n\n${machine(results.header)}`;
}

/** \`text\` with what stands between the README's markers replaced. */
export function insertSummary(text, results) {
  const [open, close] = ["<!-- bench:begin -->", "<!-- bench:end -->"];
  const [begin, end] = [text.indexOf(open), text.indexOf(close)];
  if (begin < 0 || end < begin) throw new Error(`README.md: expected ${open} before ${close}`);
  return `${text.slice(0, begin + open.length)}\n${summary(results)}\n${text.slice(end)}`;
}
