// The tables of tables.mjs in Markdown: for the terminal, docs/results/benchmarks.md and the README. Nothing is measured here, and
// nobody types a number that stands there.

import { markdownTable } from "markdown-table";
import { titleOf } from "./shapes.mjs";
import {
  comparisonTable,
  conclusionsOf,
  costTable,
  fusionTable,
  fusionText,
  networkTable,
  networkText,
  networkTitle,
  readmeTable,
  remarks,
  shapeTable,
  sizeText,
  slowerText,
  summaryTable,
  targetTable,
  targetText,
  variantTable,
} from "./tables.mjs";

const markdown = ({ head, rows, left }) =>
  markdownTable([head, ...rows], { align: head.map((_, i) => (i < left ? "l" : "r")) });
const list = (lines) => lines.map((line) => `- ${line}`).join("\n");
const paragraphs = (...parts) => `${parts.filter(Boolean).join("\n\n")}\n`;

export const renderEnvironment = (environment) =>
  list(Object.entries(environment).map(([name, value]) => `${name}: ${value}`));

export const renderMissing = (missing) => list(missing.map(({ peer, reason }) => `${peer}: ${reason}`));

export const renderShape = (entry) =>
  paragraphs(`### ${titleOf(entry)}: ${sizeText(entry)}`, markdown(shapeTable(entry)), list(remarks(entry)));

export const renderNetwork = (network) =>
  paragraphs(
    `### ${networkTitle(network)}`,
    networkText(network),
    markdown(networkTable(network)),
    list(remarks({ rows: network.totals })),
  );

export const renderCosts = (entries) =>
  paragraphs("Nanoseconds per element, tensors in wasm memory.", markdown(costTable(entries)));

export const renderVariants = (variants, key) =>
  paragraphs(variants.reason ? `${variants.reason}.` : markdown(variantTable(variants, key)));

export const renderFusion = (fusion) =>
  paragraphs(fusion.length && fusionText(fusion), fusion.length && markdown(fusionTable(fusion)));

export const renderComparison = (rows) => paragraphs("ms, and in times of the first.", markdown(comparisonTable(rows)));

export const renderTargets = (results) =>
  paragraphs("One thread, tensors in wasm memory.", markdown(targetTable(results)));

/** The parts of a run under their headings: those that were measured. */
export function renderResults(results) {
  const { missing, shapes, networks, sweep, awkward, fusion, dtypes, modes, threads, builds } = results;
  const parts = [
    ["Not measured", missing.length && `${renderMissing(missing)}\n`],
    ["Targets", shapes.length && renderTargets(results)],
    ["Shapes", shapes.map(renderShape).join("\n")],
    ["Networks", networks.map(renderNetwork).join("\n")],
    ["Sizes", sweep.length && renderCosts(sweep)],
    ["Awkward sizes", awkward.length && renderCosts(awkward)],
    ["Fusion", fusion?.length && renderFusion(fusion)],
    ["Types of numbers", dtypes?.length && renderComparison(dtypes)],
    ["Modes", modes?.length && renderComparison(modes)],
    ["Threads", threads && renderVariants(threads, "threads")],
    ["Builds", builds && renderVariants(builds, "build")],
  ];
  return parts
    .filter(([, text]) => text)
    .map(([title, text]) => `## ${title}\n\n${text}`)
    .join("\n");
}

/** docs/results/benchmarks.md: what to conclude, on one screen. */
export const renderSummary = (results) => `# Benchmarks

This page shows how many times as fast as its alternatives batchnorm-wasm is, by shape, on one machine and one thread:

${list(conclusionsOf(results))}

![How many times as fast as each alternative batchnorm-wasm is, by shape and operation](benchmarks.svg)

- **A network that only predicts** needs no batch norm: [fold](../guides/folding.md) it into the layers before, so that it takes no time.
- **Large tensors** are limited by the speed of the machine's memory. The column "copies" below compares the time with that of copying the
  tensor. **Small tensors** are limited by the time of a call.
- **Ratios hold on this machine.** Measure on yours with \`npm ci --prefix bench && npm run bench\`, or in a browser with \`npm run bench:browser\`.

## The numbers

Times are medians, for float32 tensors in wasm memory. Each alternative ran in the layout that suits it best, and of several versions of PyTorch the
fastest counts. The columns with × say how many times as fast batchnorm-wasm is; a bold number means that it is slower. **copies** is the
time divided by that of copying the tensor x to y in memory order. Kernels that read several distant places of a tensor in turn can take less
than one copy.

${markdown(summaryTable(results))}

${targetText(results)} [All benchmark results](benchmark-results.md) has every number, the targets, and how it was measured.

## Where it was measured

${renderEnvironment(results.environment)}

Written by \`npm run bench -- --write\`; change the script, not this file.
`;

/** docs/results/benchmark-results.md: everything that was measured. */
export const renderReport = (results) => `# All benchmark results

Written by \`npm run bench -- --write\`; change the script, not this file. [Benchmarks](benchmarks.md) says what to conclude.

${renderEnvironment(results.environment)}

${renderResults(results)}
## How it was measured

- One thread at a time, float32. All peers work on the same seeded data: channels with means of −2 to 2 and deviations of
  0.5 to 1.5. Each is warmed up first; then, round by round, every peer does every operation once, in an order shuffled
  anew by the seed. Calls that take less than a millisecond are repeated within a sample until it takes that long; slow
  ones take part in fewer rounds.
- **ms** is the median over the **samples**, **spread** the median absolute deviation from it.
- **copy** is a v128 copy of the tensor x of batchnorm-wasm to its y; **copies** is a time divided by its time, **× tensors**
  a time divided by that of batchnorm-wasm on tensors.
- **GB/s** counts each operand once: x and y; x, dy and dx in backward.
- **layout** is the one that the peer ran in; where that is not the shape's, it got the same tensor, transposed beforehand.
- **tensors** live in wasm memory; **arrays** are Float32Arrays of JavaScript, copied in and out by every call. Results
  go to given destinations (\`out\`, \`dxOut\`).
- Every peer of JavaScript has a worker thread of its own for every shape, because in Node 20 a WebAssembly memory that
  has grown makes all loops over typed arrays of its thread slower, by 1.6 where it was looked at.
- Under **Fusion**, **Types of numbers** and **Modes**, all features of a shape take turns on the same tensors, in one
  thread. A **separate pass** is a loop of SIMD over what the plain operation wrote, in place: y = max(y, 0), or with the
  residual added; in backward first dz = dy where y > 0, of the y that was kept, then the plain backward in place.
  **Masked** are sequences of which 70 % is kept, **conditional** has a scale and shift of every sample's own. 16-bit
  numbers are widened on the way in and rounded on the way out. In backward, dResidual is written as well.
- **plain JavaScript** is \`bench/peers/javascript.mjs\`, written by hand: memory order, sums in float64, two passes for
  the variance: the same work without a library.
- **TF.js** and **jax-js** compose batch norm of their operations and differentiate it themselves. Their gradient comes with
  a forward pass, so they have no backward alone. Their tensors stay in their own memory.
- **batchnorm-wasm in TF.js** is \`batchnorm-wasm/tfjs\`: TF.js's tensors and its gradient, our operations. On the wasm backend
  the kernels run on TF.js's own memory, on others elements are copied.
- **onnxruntime-web** runs a model of one BatchNormalization, in training mode for the training forward, and copies x in
  and y out. It has no backward.
- Under **Threads**, **native** is \`bench/peers/native.c\`, batch normalization in C by the same rounds: what threads gain on this
  machine. In brackets is the gain over one thread of the same kind. More threads than cores should not be slower than one.
- **PyTorch** is native, on one thread, in a process that times itself: ATen's \`native_batch_norm\` and its backward,
  without autograd, and with malloc told to keep freed memory, as its outputs are allocated anew by every call.
- **error** is the largest error of any result, relative to the largest magnitude expected, against float64. A peer above
  1e-4 is marked wrong.
`;

/** The table of the README and of the site's first page, with what to conclude, and where it was measured. */
export function renderReadme({ environment, ...results }) {
  const table = readmeTable(results);
  if (!table) return "Not measured.";
  const { processor, engine, peers, commit } = environment;
  const place = `${processor}, ${engine}; ${peers}; commit ${commit}; one thread, float32, medians.`;
  return [markdown(table), slowerText(results), place].join("\n\n");
}

/** Returns the text with another part between the markers of `name`. Throws Error if it does not have them. */
export function replaceMarked(text, replacement, name = "bench") {
  const [open, close] = [`<!-- ${name}:begin -->`, `<!-- ${name}:end -->`];
  const begin = text.indexOf(open);
  const end = text.indexOf(close, begin);
  if (begin < 0 || end < 0) throw new Error(`expected the text to have ${open} and ${close}`);
  return `${text.slice(0, begin + open.length)}\n${replacement}\n${text.slice(end)}`;
}
