// Shows which tests catch the faults of kernel-faults.mjs:
//
//   node test/mutation/kernels.mjs [--only TEXT] [--new] [--write]
//
// Each fault is built in a copy of the project outside of the working tree. Then groups of tests run one after the other,
// until one fails. --only takes the faults whose description or file contains TEXT, and --new those that the table of
// docs/results/reliability.md does not have yet. --write writes each verdict into the table, so that a run may be interrupted. The
// script ends with exit code 1 if a fault is not caught.

import { execFileSync, spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { markdownTable } from "markdown-table";
import { replaceMarked } from "../../bench/report.mjs";
import { faults, withFault } from "./kernel-faults.mjs";

const { values } = parseArgs({
  options: {
    only: { type: "string", default: "" },
    new: { type: "boolean", default: false },
    write: { type: "boolean", default: false },
  },
});

const document = new URL("../../docs/results/reliability.md", import.meta.url);
const NOT_CAUGHT = "**not caught**";
const cellsOf = ({ fault, file }) => [`\`${file}\``, fault];

/** The verdicts of the table, by the cells before them. */
const verdicts = new Map(
  [
    ...readFileSync(document, "utf8").matchAll(/^\| (`[\w/.]+`) +\| (.+?) +\| (`test.*?|\*\*not caught\*\*) +\|$/gm),
  ].map(([, file, fault, verdict]) => [`${file} ${fault}`, verdict]),
);
const keyOf = (fault) => cellsOf(fault).join(" ");

/** Writes the verdicts of all faults that have one. */
function writeTable() {
  const run = faults.filter((fault) => verdicts.has(keyOf(fault)));
  const caught = run.filter((fault) => verdicts.get(keyOf(fault)) !== NOT_CAUGHT);
  const rows = run.map((fault) => [...cellsOf(fault), verdicts.get(keyOf(fault))]);
  const table = markdownTable([["file", "the kernel …", "first tests that fail"], ...rows]);
  const part = `Of ${faults.length} faults ${run.length} were run, and ${caught.length} of these were caught.\n\n${table}`;
  writeFileSync(document, replaceMarked(readFileSync(document, "utf8"), part, "kernel-faults"));
}

/** Groups of tests, the fastest first. Together they are `npm test`. */
const GROUPS = [
  ["test/assembly"],
  ["test/ops/golden.test.ts"],
  ["test/ops"],
  ["test/layer"],
  ["test/wasm", "test/memory"],
  ["test/common", "test/distributed", "test/entries", "test/interop", "test/tensor", "test/tfjs", "test/support"],
];

/** The longest time for one group of tests, in milliseconds. A fault that makes tests hang counts as caught. */
const TIME_OUT = 600_000;

const project = fileURLToPath(new URL("../..", import.meta.url));
const copy = mkdtempSync(join(tmpdir(), "kernel-faults-"));

/** Runs a command in the copy of the project. Returns its exit code, or null if it was stopped after the time-out. */
function run(command, args) {
  const { status, error } = spawnSync(command, args, { cwd: copy, stdio: "ignore", timeout: TIME_OUT });
  if (error && error.code !== "ETIMEDOUT") throw error;
  return status;
}

/** Returns the first group of tests that fails, or undefined. */
function failingGroup() {
  return GROUPS.find((tests) => run("npx", ["vitest", "run", "--bail", "1", ...tests]) !== 0);
}

const tracked = execFileSync("git", ["ls-files", "--cached", "--others", "--exclude-standard"], {
  cwd: project,
  encoding: "utf8",
});
for (const file of tracked.split("\n").filter(Boolean)) cpSync(join(project, file), join(copy, file));
// This test fails with every fault, because the right text of the fault is no longer there.
rmSync(join(copy, "test/assembly/kernel-faults.test.ts"));
symlinkSync(join(project, "node_modules"), join(copy, "node_modules"));

const wanted = faults.filter(
  (fault) => `${fault.file}: ${fault.fault}`.includes(values.only) && !(values.new && verdicts.has(keyOf(fault))),
);
let survivors = 0;
try {
  for (const script of ["build:wasm", "build:worker"])
    if (run("npm", ["run", script]) !== 0) throw new Error(`npm run ${script} fails without any fault`);
  const failing = values.only || values.new ? undefined : failingGroup();
  if (failing) throw new Error(`tests fail without any fault: ${failing.join(" ")}`);
  for (const [i, fault] of wanted.entries()) {
    const path = join(copy, "assembly", fault.file);
    const text = readFileSync(path, "utf8");
    writeFileSync(path, withFault(text, fault));
    if (run("npm", ["run", "build:wasm"]) !== 0)
      throw new Error(`${fault.file}: the kernels cannot be built with the fault "${fault.fault}"`);
    const caughtBy = failingGroup();
    writeFileSync(path, text);
    if (!caughtBy) survivors++;
    verdicts.set(keyOf(fault), caughtBy ? caughtBy.map((name) => `\`${name}\``).join(", ") : NOT_CAUGHT);
    console.log(`${i + 1}. ${fault.file}: ${fault.fault}: ${caughtBy ? caughtBy.join(" ") : "NOT CAUGHT"}`);
    if (values.write) writeTable();
  }
} finally {
  rmSync(copy, { recursive: true, force: true });
}

console.log(`kernel faults: ${wanted.length - survivors} of ${wanted.length} caught`);
if (survivors) process.exitCode = 1;
