// From results to Markdown: for the terminal, docs/benchmarks.md and the README's table. Nothing is measured here, and
// nobody types a number that stands there.
//
//   results = { environment, shapes: [{ shape, layout, bytes, rounds, rows: [row] }] }
//   row     = { peer, operation, ms, spread, gbps, copies, speedup, error, wrong }

import { markdownTable } from "markdown-table";

/** What issue 2 asks of tensors on one thread, in copies. */
export const TARGETS = {
  peer: "batchnorm-wasm, tensors",
  shapes: [
    { shape: [32, 64, 56, 56], layout: "channels-first" },
    { shape: [32, 56, 56, 64], layout: "channels-last" },
  ],
  copies: { inference: 1.2, forward: 2, backward: 3 },
};

/** The README has these against the alternative that its readers have. */
const README = {
  shapes: [
    [32, 64, 56, 56],
    [8, 32, 16, 16],
  ],
  ours: ["batchnorm-wasm, tensors", "batchnorm-wasm, arrays"],
  alternative: "plain JavaScript",
};

const OPERATIONS = { copy: "copy", inference: "inference", forward: "training forward", backward: "backward" };

const format = new Intl.NumberFormat("en", {
  minimumSignificantDigits: 3,
  maximumSignificantDigits: 3,
  useGrouping: false,
});
export const digits = (value) => format.format(value);

const titleOf = ({ shape, layout }) =>
  `[${shape.join(", ")}]${shape.length > 2 ? `, ${layout.replace("-", " ")}` : ""}`;
const sameShape = (a, b) => titleOf(a) === titleOf(b);
const find = (entry, peer, operation) => entry?.rows.find((r) => r.peer === peer && r.operation === operation);

/** One shape: a heading and its table. */
export function renderShape(entry) {
  const { bytes, rounds, rows } = entry;
  const size = bytes < 1e6 ? `${digits(bytes / 1e3)} kB` : `${digits(bytes / 1e6)} MB`;
  const table = rows.map((r) => [
    OPERATIONS[r.operation],
    r.peer,
    digits(r.ms),
    `± ${digits(r.spread)}`,
    digits(r.gbps),
    digits(r.copies),
    r.speedup === undefined ? "" : `${digits(r.speedup)}×`,
    `${r.wrong ? "**wrong**: " : ""}${r.error === 0 ? "0" : r.error.toExponential(0)}`,
  ]);
  const head = ["operation", "peer", "ms", "spread", "GB/s", "copies", "against plain JS", "error"];
  const align = ["l", "l", "r", "r", "r", "r", "r", "r"];
  return `### ${titleOf(entry)}: ${size}, ${rounds} rounds\n\n${markdownTable([head, ...table], { align })}\n`;
}

/** Machine and versions, as a list. */
export const renderEnvironment = (environment) =>
  Object.entries(environment)
    .map(([name, value]) => `- ${name}: ${value}`)
    .join("\n");

/** The targets, each with what was measured. */
export function renderTargets({ shapes }) {
  const lines = TARGETS.shapes.flatMap((target) => {
    const entry = shapes.find((s) => sameShape(s, target));
    return Object.entries(TARGETS.copies).flatMap(([operation, limit]) => {
      const row = find(entry, TARGETS.peer, operation);
      if (!row) return [];
      const verdict = row.copies <= limit ? "reached" : "**not reached**";
      return [[titleOf(target), OPERATIONS[operation], `≤ ${limit}`, digits(row.copies), verdict]];
    });
  });
  const head = ["shape", "operation", "copies to reach", "measured", ""];
  return markdownTable([head, ...lines], { align: ["l", "l", "r", "r", "l"] });
}

/** docs/benchmarks.md. */
export const renderReport = (results) => `# Benchmarks

Written by \`npm run bench -- --write\`; change the script, not this file.

${renderEnvironment(results.environment)}

## Targets

One thread, tensors in wasm memory, in copies of the tensor.

${renderTargets(results)}

## Results

${results.shapes.map(renderShape).join("\n")}
## How it was measured

- One thread at a time, float32. All peers work on the same seeded data: channels with means of −2 to 2 and deviations of
  0.5 to 1.5. Each is warmed up first; then, round by round, every peer does every operation once, in an order shuffled
  anew by the seed. Calls that take less than a millisecond are repeated within a sample until it takes that long.
- **ms** is the median over the rounds, **spread** the median absolute deviation from it.
- **copy** is a v128 copy of x to another place of the same WebAssembly memory; **copies** is a time divided by its time.
- **GB/s** counts each operand once: x and y; x, dy and dx in backward.
- **tensors** live in wasm memory; **arrays** are Float32Arrays of JavaScript, copied in and out by every call. Results
  go to given destinations (\`out\`, \`dxOut\`).
- **plain JavaScript** is \`bench/peers/javascript.mjs\`, written by hand: memory order, sums in float64, two passes for
  the variance: the same work without a library. It runs in a worker thread, because in Node 20 a WebAssembly memory
  that has grown makes all loops over typed arrays of its thread slower, by 1.6 where it was looked at.
- **error** is the largest error of any result, relative to the largest magnitude expected, against float64. A peer above
  1e-4 is marked wrong.
`;

/** The README's table: what a reader can have today, in milliseconds and times faster. */
export function renderReadme({ environment, shapes }) {
  const lines = README.shapes.flatMap((shape) => {
    const entry = shapes.find((s) => sameShape(s, { shape, layout: "channels-first" }));
    return ["inference", "forward", "backward"].flatMap((operation) => {
      const base = find(entry, README.alternative, operation);
      if (!base) return [];
      const cells = README.ours.map((peer) => {
        const row = find(entry, peer, operation);
        return row.wrong ? "wrong" : `${digits(row.ms)} (${digits(row.speedup)}×)`;
      });
      return [[`[${shape.join(", ")}]`, OPERATIONS[operation], ...cells, digits(base.ms)]];
    });
  });
  const head = ["ms", "", "tensors", "arrays", README.alternative];
  const table = markdownTable([head, ...lines], { align: ["l", "l", "r", "r", "r"] });
  return `${table}\n\n${environment.processor}, ${environment.engine}, one thread, float32, medians.`;
}

const BEGIN = "<!-- bench:begin -->";
const END = "<!-- bench:end -->";

/** `text` with what stands between the markers replaced; unchanged where there are none. */
export function replaceMarked(text, replacement) {
  const begin = text.indexOf(BEGIN);
  const end = text.indexOf(END, begin);
  if (begin < 0 || end < 0) return text;
  return `${text.slice(0, begin + BEGIN.length)}\n${replacement}\n${text.slice(end)}`;
}
