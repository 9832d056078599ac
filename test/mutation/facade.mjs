// Mutation testing of the TypeScript facade, by StrykerJS:
//
//   npm run build && npm ci --prefix test/mutation
//   node test/mutation/facade.mjs --part attach [--only TEXT] [--write]
//
// StrykerJS makes mutants: it changes one small piece of src/, such as a condition, and runs the tests that cover this
// piece. A mutant survives if no test fails. StrykerJS does not notice hooks that fail, sometimes runs no test at all, and
// does not reach code that runs when a file is loaded or in a thread of its own. So every survivor runs a second time, in
// a new process, with whole files of tests.
//
// --only takes the files whose names contain TEXT. --write writes the part's tables into docs/reliability.md. The script
// ends with exit code 1 if a survivor is not in accepted.mjs, or if an entry of accepted.mjs has no survivor.

import { execFile } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { Stryker } from "@stryker-mutator/core";
import { markdownTable } from "markdown-table";
import { replaceMarked } from "../../bench/report.mjs";
import { accepted, changeOf } from "./accepted.mjs";

/** Returns the files of a folder of src/, without some. */
const filesOf = (folder, ...without) =>
  readdirSync(new URL(`../../src/${folder}`, import.meta.url))
    .filter((name) => !without.includes(name))
    .map((name) => `src/${folder}/${name}`);

/** Tests of the layer that take no more than a few seconds. */
const LAYER_TESTS = [
  ...["batchnorm", "copies", "debiased", "diagnose", "ghost-batches", "micro-batches", "modes", "options", "presets"],
  ...["prior", "random-calls", "recalibrate", "renorm", "repeated-calls", "running", "saved", "variants-memory"],
].map((name) => `test/layer/${name}.test.ts`);

/** Tests of calls with wrong arguments. */
const WRONG_CALLS = ["any-argument", "wrong-arguments", "wrong-variants"].map((name) => `test/common/${name}.test.ts`);

/** The parts of src/, the tests that their mutants run, and slow ones that only survivors run. */
const PARTS = {
  // the tests of mpi.ts run under mpirun
  distributed: {
    files: filesOf("distributed", "mpi.ts"),
    tests: [
      ...["exchange", "message-ports", "shared-memory"].map((name) => `test/distributed/${name}.test.ts`),
      "test/layer/sync*.test.ts",
    ],
  },
  allocator: { files: ["src/memory/allocator.ts"], tests: ["test/memory/allocator.test.ts"] },
  attach: {
    files: ["src/memory/attach.ts", "src/memory/written.ts"],
    tests: ["test/memory/attach.test.ts", "test/memory/written.test.ts"],
  },
  tensor: {
    files: ["src/memory/tensor.ts"],
    tests: [
      ...["tensors", "memory", "attach"].map((name) => `test/memory/${name}.test.ts`),
      ...["test/tensor/operands.test.ts", "test/entries/core.test.ts"],
    ],
    slow: ["test/memory/leak.test.ts"],
  },
  heap: {
    files: ["src/memory/heap.ts"],
    tests: ["allocator", "arrays", "attach", "exhausted", "memory", "overlap", "tensors"].map(
      (name) => `test/memory/${name}.test.ts`,
    ),
  },
  guards: {
    files: ["src/memory/guards.ts"],
    tests: [
      ...["overlap", "memory", "tensors", "attach"].map((name) => `test/memory/${name}.test.ts`),
      ...["test/tensor/*.test.ts", "test/common/wrong-*.test.ts", "test/entries/core.test.ts"],
      ...["batchnorm-kinds", "repeated-calls"].map((name) => `test/layer/${name}.test.ts`),
    ],
  },
  operands: {
    files: ["src/memory/operand.ts", "src/memory/transfer.ts"],
    tests: ["test/memory/arrays.test.ts", "test/memory/memory.test.ts", "test/tensor/operands.test.ts"],
  },
  init: { files: ["src/memory/init.ts"], tests: ["test/wasm/*.test.ts"] },
  layer: {
    files: filesOf("layer", "sync-batch-norm.ts"),
    tests: [...LAYER_TESTS, ...WRONG_CALLS],
  },
  sync: {
    files: ["src/layer/sync-batch-norm.ts"],
    tests: ["test/layer/sync.test.ts", "test/layer/sync-protocol.test.ts"],
    slow: ["test/layer/sync-threads.test.ts"],
  },
  ops: {
    files: filesOf("ops", "double-backward.ts", "norms.ts", "weight-norm.ts"),
    tests: [
      ...["activations-in-place", "conditional", "functional", "mask-weights", "masks"].map(
        (name) => `test/ops/${name}.test.ts`,
      ),
      ...LAYER_TESTS,
      ...WRONG_CALLS,
    ],
  },
  "double-backward": {
    files: ["src/ops/double-backward.ts"],
    tests: ["test/ops/double.test.ts", ...WRONG_CALLS],
  },
  norms: { files: ["src/ops/norms.ts"], tests: ["test/ops/family.test.ts", ...WRONG_CALLS] },
  "weight-norm": {
    files: ["src/ops/weight-norm.ts"],
    tests: ["test/ops/weight-norm.test.ts", "test/memory/written.test.ts", ...WRONG_CALLS],
  },
};

const { values } = parseArgs({
  options: {
    part: { type: "string", default: "" },
    only: { type: "string", default: "" },
    write: { type: "boolean", default: false },
  },
});
const part = PARTS[values.part];
if (!part) throw new Error(`--part is one of ${Object.keys(PARTS).join(", ")}`);

/** The longest time for all tests of a part, in milliseconds. A mutant that makes tests hang counts as killed. */
const TIME_OUT = 120_000;

/** The number of mutants that are tested at once. */
const CONCURRENCY = 2;

const project = fileURLToPath(new URL("../..", import.meta.url));
process.chdir(project);
process.env.MUTATION_TESTS = part.tests.join(",");
const directory = mkdtempSync(join(tmpdir(), "mutants-"));

/** Runs StrykerJS. Returns its report, as mutation-testing-report-schema describes it. */
async function runStryker() {
  const fileName = join(directory, "report.json");
  const stryker = new Stryker({
    mutate: part.files.filter((file) => file.includes(values.only)),
    testRunner: "vitest",
    plugins: [fileURLToPath(import.meta.resolve("@stryker-mutator/vitest-runner"))],
    vitest: { configFile: "test/mutation/vitest.config.ts", related: false },
    coverageAnalysis: "perTest",
    timeoutMS: 15_000, // so that other load on the machine kills no mutant
    incremental: true, // a run that is repeated takes verdicts on code and tests that are as before
    incrementalFile: `test/mutation/results/${values.part}.json`,
    ignoreStatic: true,
    ignorePatterns: ["bench/results", "examples", "build/*/**"],
    tempDirName: directory,
    cleanTempDir: false, // the second run needs the mutants
    concurrency: CONCURRENCY,
    reporters: ["json", "progress-append-only"],
    jsonReporter: { fileName },
    allowConsoleColors: false,
  });
  await stryker.runMutationTest();
  return JSON.parse(readFileSync(fileName, "utf8"));
}

/** Runs a program in StrykerJS's copy of the project, which has all mutants. Resolves to whether it succeeds. */
function run(args, env = {}) {
  const sandbox = readdirSync(directory).find((name) => name.startsWith("sandbox"));
  const options = {
    cwd: join(directory, sandbox),
    env: { ...process.env, ...env },
    timeout: TIME_OUT,
    maxBuffer: 2 ** 30,
  };
  return new Promise((resolve, reject) => {
    execFile(process.execPath, args, options, (error) => {
      // the code is a text if the program could not be started
      if (typeof error?.code === "string") reject(error);
      else resolve(!error);
    });
  });
}

/** Resolves to whether tests pass with a mutant: slow ones, and those files of others that reach it, or all if none does. */
function survives({ id, coveredBy = [] }, testFiles = {}) {
  const reaching = Object.keys(testFiles).filter((file) =>
    testFiles[file].tests.some(({ id }) => coveredBy.includes(id)),
  );
  const { slow = [] } = part;
  return run(
    [
      ...["node_modules/vitest/vitest.mjs", "run", "--bail", "1", "--config", "test/mutation/vitest.config.ts"],
      ...(reaching.length ? [...reaching, ...slow] : []),
    ],
    { __STRYKER_ACTIVE_MUTANT__: id, MUTATION_TESTS: [...part.tests, ...slow].join(",") },
  );
}

/** Returns the code at a location of a report, in which lines and columns begin at 1. */
function codeAt(source, { start, end }) {
  const lines = source.split("\n").slice(start.line - 1, end.line);
  lines.push(lines.pop().slice(0, end.column - 1));
  return lines.join("\n").slice(start.column - 1);
}

/** Resolves to all mutants: the file, the line and the change, whether the mutant survives, and why it is accepted. */
async function mutantsOf({ files, testFiles }) {
  // threads of the tests run dist/
  if (!(await run(["bundle.mjs"]))) throw new Error("bundle.mjs fails on the mutants");
  if (!(await survives({ id: "" }))) throw new Error("tests fail without any mutant");
  const again = Object.values(files).flatMap(({ mutants }) => mutants.filter((m) => !/Killed|Timeout/.test(m.status)));
  const survivors = new Set();
  const queue = again.values(); // both runners take from it
  const runner = async () => {
    for (const mutant of queue) if (await survives(mutant, testFiles)) survivors.add(mutant);
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, runner));
  return Object.entries(files).flatMap(([file, { source, mutants }]) =>
    mutants.map((mutant) => {
      const { line: number } = mutant.location.start;
      const line = source.split("\n")[number - 1].trim();
      const change = changeOf(codeAt(source, mutant.location), mutant.replacement);
      const survived = survivors.has(mutant);
      const reason = survived
        ? accepted.find((e) => e.file === file && e.mutants.some(([l, c]) => l === line && c === change))?.reason
        : undefined;
      if (survived) console.log(`${file}:${number}: ${line}\n  ${change}\n  ${reason ?? "NOT ACCEPTED"}`);
      return { file, line, number, change, survived, reason };
    }),
  );
}

const percent = (count, of) => (of ? `${((100 * count) / of).toFixed(1)} %` : "");

/** A row of the table of files. */
function rowOf(name, mutants) {
  const survivors = mutants.filter(({ survived }) => survived);
  const [all, killed, known] = [
    mutants.length,
    mutants.length - survivors.length,
    survivors.filter(({ reason }) => reason).length,
  ];
  return [name, all, killed, known, survivors.length - known, percent(killed, all), percent(killed, all - known)];
}

/** The tables of a part in docs/reliability.md. */
function tablesOf(mutants) {
  const files = [...new Set(mutants.map(({ file }) => file))];
  const head = ["file", "mutants", "killed", "accepted", "not accepted", "score", "without accepted ones"];
  const table = markdownTable(
    [
      head,
      ...files.map((file) =>
        rowOf(
          `\`${file}\``,
          mutants.filter((mutant) => mutant.file === file),
        ),
      ),
      rowOf("all", mutants),
    ],
    { align: ["l", ...Array(6).fill("r")] },
  );
  const reasons = accepted
    .map((entry) => [
      `\`${entry.file}\``,
      mutants.filter(({ file, reason }) => file === entry.file && reason === entry.reason).length,
      entry.reason,
    ])
    .filter(([, count]) => count);
  return [table, reasons.length && markdownTable([["file", "accepted", "why"], ...reasons], { align: ["l", "r", "l"] })]
    .filter(Boolean)
    .join("\n\n");
}

let mutants;
try {
  mutants = await mutantsOf(await runStryker());
} finally {
  rmSync(directory, { recursive: true, force: true });
}
const survivors = mutants.filter(({ survived }) => survived);
const unused = accepted
  .filter(({ file }) => mutants.some((mutant) => mutant.file === file))
  .flatMap(({ file, mutants: entries }) =>
    entries.filter(
      ([line, change]) => !survivors.some((s) => s.file === file && s.line === line && s.change === change),
    ),
  );
for (const [line, change] of unused) console.log(`accepted, but killed or gone: ${line}\n  ${change}`);
console.log(tablesOf(mutants));
if (values.write && !values.only) {
  const document = new URL("../../docs/reliability.md", import.meta.url);
  const text = readFileSync(document, "utf8");
  writeFileSync(document, replaceMarked(text, tablesOf(mutants), `mutants-${values.part}`));
}
if (unused.length || survivors.some(({ reason }) => !reason)) process.exitCode = 1;
