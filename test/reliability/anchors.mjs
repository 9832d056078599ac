// Writes the comparison of docs/results/reliability.md with the tests of PyTorch, oneDNN and SQLite:
//
//   node test/reliability/anchors.mjs [--python FILE] [--write]
//
// PyTorch's numbers are counted in an installed PyTorch (pytorch-samples.py says what that needs), oneDNN's in
// test/support/onednn-shapes.json, and ours in this project. SQLite's are those of its page https://sqlite.org/testing.html.

import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { markdownTable } from "markdown-table";
import { replaceMarked } from "../../bench/report.mjs";
import { faults } from "../mutation/kernel-faults.mjs";

const { values } = parseArgs({
  options: { python: { type: "string", default: "python3" }, write: { type: "boolean", default: false } },
});

const root = new URL("../../", import.meta.url);
const document = new URL("docs/results/reliability.md", root);
const read = (file) => readFileSync(new URL(file, root), "utf8");

const pytorch = JSON.parse(
  execFileSync(values.python, [fileURLToPath(new URL("pytorch-samples.py", import.meta.url))], { encoding: "utf8" }),
);
const onednn = JSON.parse(read("test/support/onednn-shapes.json"));
const golden = JSON.parse(read("test/golden/manifest.json"));

const total = (numbers) => numbers.reduce((a, b) => a + b, 0);
const pytorchTotal = (kind) => total(Object.values(pytorch.counts).map((counts) => counts[kind]));
const size = (shape) => shape.reduce((a, b) => a * b, 1);
const number = (n) => n.toLocaleString("en");

/** The number in a cell of a table of docs/results/reliability.md that another script has written. */
function written(block, row) {
  const text = read("docs/results/reliability.md");
  const [, table = ""] = text.match(new RegExp(`<!-- ${block}:begin -->([^]*?)<!-- ${block}:end -->`)) ?? [];
  const [, cell] = table.match(new RegExp(`^\\| ${row} +\\| ([\\d,]+)`, "m")) ?? [];
  if (!cell) throw new Error(`docs/results/reliability.md: expected a row "${row}" in the block ${block}, got none`);
  return cell;
}

/** The lines of the tracked files in some folders whose names match. */
function linesIn(pattern, ...folders) {
  const files = execFileSync("git", ["ls-files", ...folders], { cwd: fileURLToPath(root), encoding: "utf8" });
  return total(
    files
      .split("\n")
      .filter((file) => pattern.test(file))
      .map((file) => read(file).split("\n").length - 1),
  );
}

const code = linesIn(/\.ts$/, "src", "assembly");
const tests = linesIn(/\.(ts|mjs|py)$/, "test");
const small = ({ batchNorm, groupNorm, layerNorm }) =>
  [...batchNorm, ...groupNorm.map(([, ...shape]) => shape), ...layerNorm].filter((shape) => size(shape) <= 200_000);
const shapes = onednn.batchNorm.length + onednn.groupNorm.length + onednn.layerNorm.length;

const table = markdownTable(
  [
    ["", "elsewhere", "here"],
    [
      "right inputs of norms",
      `PyTorch ${pytorch.version}: ${pytorchTotal("samples")} sample inputs, ${pytorch.counts.batch_norm.samples} of them of \`batch_norm\`; each in 4 types`,
      `${golden.cases.length} golden cases of PyTorch's; ${written("valid", "cases")} calls at random`,
    ],
    [
      "wrong inputs of norms",
      `PyTorch ${pytorch.version}: ${pytorchTotal("errors")}, ${pytorch.counts.batch_norm.errors} of them of \`batch_norm\``,
      `${written("invalid", "cases")} calls at random`,
    ],
    [
      "shapes",
      `oneDNN's benchdnn: ${shapes} of batch, group and layer norm`,
      `the ${small(onednn).length} of them with at most 200,000 elements, in both layouts; random ones in the calls above`,
    ],
    [
      "lines of tests for each line of code",
      "SQLite: 590, most of them generated",
      `${(tests / code).toFixed(1)} (${number(tests)} for ${number(code)}); calls at random are generated when they run`,
    ],
    ["memory that ends", "SQLite: every allocation of its tests fails once", `${written("soak", "failures")} steps`],
    [
      "mutation",
      "SQLite: every branch of the machine code is removed or taken always",
      `${faults.length} faults of kernels by hand; mutants of the facade by StrykerJS`,
    ],
  ],
  { align: ["l", "l", "l"] },
);
console.log(table);
if (values.write) writeFileSync(document, replaceMarked(readFileSync(document, "utf8"), table, "anchors"));
