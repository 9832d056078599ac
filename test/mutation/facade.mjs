// Mutation testing of the TypeScript facade, by StrykerJS:
//
//   npm run build && npm ci --prefix test/mutation
//   node test/mutation/facade.mjs [FILE …] [--write]
//
// StrykerJS makes mutants: it changes one small piece of src/, such as a condition, and runs the tests that cover this
// piece. A mutant survives if no test fails. StrykerJS does not notice hooks that fail, sometimes runs no test at all, and
// does not reach code that runs when a file is loaded or in a thread of its own. So every survivor runs a second time, in
// a new process, with whole files of tests, unless it is accepted anyway.
//
// Without a FILE, such as src/memory/attach.ts, all are run, one after the other. --write writes a file's row of the table
// in docs/results/reliability.md. The script ends with exit code 1 if a survivor is not in accepted.mjs, or if an entry of accepted.mjs has no survivor.

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

const inFolder = (folder, ...names) => names.map((name) => `test/${folder}/${name}.test.ts`);

/** Tests of calls with wrong arguments. */
const WRONG_CALLS = inFolder("common", "any-argument", "wrong-arguments", "wrong-variants");

/** Fast tests of what all calls of the layer and of the functions go through. */
const CALLS = [
  ...inFolder("ops", "functional", "conditional", "activations-in-place"),
  ...inFolder("layer", "batchnorm", "copies", "ghost-batches", "micro-batches", "modes", "prior", "renorm"),
  ...inFolder("layer", "running", "saved"),
  ...inFolder("memory", "attach", "overlap", "written"),
  ...inFolder("entries", "core"),
  ...WRONG_CALLS,
];

/** Tests of the same that take some seconds each. */
const SLOW_CALLS = [
  ...inFolder("ops", "activations", "masks", "mask-weights"),
  ...inFolder("layer", "repeated-calls", "variants-memory"),
  ...inFolder("memory", "exhausted", "memory"),
  ...inFolder("tensor", "half"),
];

/** Tests of how memory holds the arguments and results of calls, except those of leaks, which take a third of the time. */
const MEMORY_OF_CALLS = [
  ...inFolder("memory", "arrays", "attach", "exhausted", "memory", "overlap", "tensors", "written"),
  ...inFolder("tensor", "*"),
  ...inFolder("ops", "functional", "masks", "weight-norm"),
  ...inFolder("layer", "batchnorm", "blocks", "ghost-batches", "repeated-calls", "saved", "variants-memory"),
  ...inFolder("entries", "core"),
  ...WRONG_CALLS,
];

/** The mutated files, each with the tests that its mutants run, and slow tests that only survivors run. */
const FILES = {
  "src/distributed/exchange.ts": { tests: [...inFolder("distributed", "*"), ...inFolder("layer", "sync*")] },
  "src/distributed/shared-memory.ts": { tests: inFolder("distributed", "shared-memory") },
  "src/distributed/message-ports.ts": { tests: [...inFolder("distributed", "*"), ...inFolder("layer", "sync*")] },
  "src/distributed/process-group.ts": { tests: [...inFolder("distributed", "*"), ...inFolder("layer", "sync*")] },
  "src/memory/allocator.ts": { tests: inFolder("memory", "allocator") },
  "src/memory/attach.ts": { tests: inFolder("memory", "attach", "written") },
  "src/memory/written.ts": { tests: inFolder("memory", "attach", "written") },
  "src/memory/tensor.ts": {
    tests: [
      ...inFolder("memory", "tensors", "memory", "attach"),
      ...inFolder("tensor", "operands"),
      ...inFolder("entries", "core"),
    ],
    slow: MEMORY_OF_CALLS,
  },
  "src/memory/heap.ts": {
    tests: inFolder("memory", "allocator", "arrays", "attach", "exhausted", "memory", "overlap", "tensors"),
    slow: [...MEMORY_OF_CALLS, ...inFolder("memory", "leak"), ...inFolder("wasm", "module")],
  },
  "src/memory/guards.ts": {
    tests: [
      ...inFolder("memory", "overlap", "memory", "tensors", "attach"),
      ...inFolder("tensor", "*"),
      ...inFolder("layer", "batchnorm-kinds", "repeated-calls"),
      ...inFolder("entries", "core"),
      ...WRONG_CALLS,
    ],
    slow: MEMORY_OF_CALLS,
  },
  "src/memory/operand.ts": {
    tests: [...inFolder("memory", "arrays", "memory"), ...inFolder("tensor", "operands")],
    slow: [...MEMORY_OF_CALLS, ...inFolder("memory", "leak"), ...inFolder("ops", "conditional", "double")],
  },
  "src/memory/transfer.ts": {
    tests: [...inFolder("memory", "arrays", "memory"), ...inFolder("tensor", "operands")],
    slow: MEMORY_OF_CALLS,
  },
  "src/memory/init.ts": { tests: inFolder("wasm", "decode", "module"), slow: inFolder("wasm", "threads") },
  "src/layer/batch-norm.ts": {
    tests: [...CALLS, ...inFolder("layer", "options", "recalibrate")],
    slow: [...inFolder("ops", "masks", "mask-weights"), ...inFolder("layer", "repeated-calls", "variants-memory")],
  },
  "src/layer/diagnose.ts": { tests: [...inFolder("layer", "diagnose"), ...WRONG_CALLS] },
  "src/layer/options.ts": { tests: [...inFolder("layer", "options", "presets", "modes", "running"), ...WRONG_CALLS] },
  "src/layer/recalibrate.ts": { tests: [...inFolder("layer", "recalibrate"), ...WRONG_CALLS] },
  "src/layer/running-statistics.ts": {
    tests: inFolder("layer", "running", "debiased", "modes", "prior", "renorm", "recalibrate", "copies", "options"),
  },
  "src/layer/sync-batch-norm.ts": {
    tests: inFolder("layer", "copies", "sync", "sync-protocol"),
    slow: inFolder("layer", "sync-threads"),
  },
  "src/ops/activation-functions.ts": {
    tests: [...inFolder("ops", "activations", "activations-in-place"), ...inFolder("layer", "options"), ...WRONG_CALLS],
  },
  "src/ops/activation.ts": {
    tests: [
      ...inFolder("ops", "activations", "activations-in-place", "double"),
      ...inFolder("layer", "options"),
      ...inFolder("entries", "core"),
      ...WRONG_CALLS,
    ],
  },
  "src/ops/backward.ts": { tests: CALLS, slow: SLOW_CALLS },
  "src/ops/batch-norm.ts": { tests: CALLS, slow: SLOW_CALLS },
  "src/ops/double-backward.ts": { tests: [...inFolder("ops", "double"), ...WRONG_CALLS] },
  "src/ops/forward.ts": { tests: CALLS, slow: [...SLOW_CALLS, ...inFolder("layer", "sync")] },
  "src/ops/mask.ts": {
    tests: [...inFolder("ops", "masks", "mask-weights"), ...inFolder("tensor", "operands"), ...WRONG_CALLS],
  },
  "src/ops/norms.ts": { tests: [...inFolder("ops", "family"), ...inFolder("memory", "written"), ...WRONG_CALLS] },
  "src/ops/options.ts": { tests: [...inFolder("layer", "options", "presets", "renorm"), ...WRONG_CALLS] },
  "src/ops/per-sample.ts": { tests: CALLS, slow: SLOW_CALLS },
  "src/ops/primitives.ts": {
    tests: [...CALLS, ...inFolder("ops", "double")],
    slow: [...SLOW_CALLS, ...inFolder("memory", "arrays"), ...inFolder("wasm", "threads")],
  },
  "src/ops/statistics.ts": {
    tests: [...inFolder("ops", "functional"), ...inFolder("layer", "micro-batches", "sync"), ...WRONG_CALLS],
  },
  "src/ops/sub-batches.ts": { tests: CALLS, slow: SLOW_CALLS },
  "src/ops/weight-norm.ts": {
    tests: [...inFolder("ops", "weight-norm"), ...inFolder("memory", "written"), ...WRONG_CALLS],
  },
};

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { write: { type: "boolean", default: false } },
});
const chosen = positionals.length ? positionals : Object.keys(FILES);
const unknown = chosen.find((file) => !FILES[file]);
if (unknown) throw new Error(`expected files among ${Object.keys(FILES).join(", ")}, got ${unknown}`);

/** The longest time for all tests of a part, in milliseconds. A mutant that makes tests hang counts as killed. */
const TIME_OUT = 150_000;

/** The number of mutants that are tested at once. */
const CONCURRENCY = 2;

const project = fileURLToPath(new URL("../..", import.meta.url));
process.chdir(project);

/** Runs StrykerJS on a file. Returns its report, as mutation-testing-report-schema describes it. */
async function runStryker(file, directory) {
  process.env.MUTATION_TESTS = FILES[file].tests.join(",");
  const fileName = join(directory, "report.json");
  const stryker = new Stryker({
    mutate: [file],
    testRunner: "vitest",
    plugins: [fileURLToPath(import.meta.resolve("@stryker-mutator/vitest-runner"))],
    vitest: { configFile: "test/mutation/vitest.config.ts", related: false },
    coverageAnalysis: "perTest",
    timeoutMS: 15_000, // so that other load on the machine kills no mutant
    incremental: true, // a run that is repeated takes verdicts on code and tests that are as before
    incrementalFile: `test/mutation/results/${file.replaceAll("/", "-")}.json`,
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
function run(directory, args, env = {}) {
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

/**
 * Resolves to whether tests pass with a mutant: slow ones, and those files of others that reach it, or all if none does.
 * Code that runs when a file is loaded (`static`) seems to be reached by whichever test was the first.
 */
function survives(directory, file, { id, static: isStatic, coveredBy = [] }, testFiles = {}) {
  const reaching = Object.keys(testFiles).filter(
    (name) => !isStatic && testFiles[name].tests.some(({ id }) => coveredBy.includes(id)),
  );
  const { tests, slow = [] } = FILES[file];
  return run(
    directory,
    [
      ...["node_modules/vitest/vitest.mjs", "run", "--config", "test/mutation/vitest.config.ts"],
      "--reporter=./test/mutation/first-failure.mjs",
      ...(reaching.length ? [...reaching, ...slow] : []),
    ],
    { __STRYKER_ACTIVE_MUTANT__: id, MUTATION_TESTS: [...tests, ...slow].join(",") },
  );
}

/** Returns the code at a location of a report, in which lines and columns begin at 1. */
function codeAt(source, { start, end }) {
  const lines = source.split("\n").slice(start.line - 1, end.line);
  lines.push(lines.pop().slice(0, end.column - 1));
  return lines.join("\n").slice(start.column - 1);
}

/** Resolves to the number of a file's mutants, and its survivors: their line and change, and why they are accepted. */
async function mutantsOf(file) {
  const directory = mkdtempSync(join(tmpdir(), "mutants-"));
  try {
    const { files, testFiles } = await runStryker(file, directory);
    const { source, mutants } = files[file];
    // threads of the tests run dist/
    if (!(await run(directory, ["bundle.mjs"]))) throw new Error("bundle.mjs fails on the mutants");
    if (!(await survives(directory, file, { id: "" }))) throw new Error("tests fail without any mutant");
    const survivors = [];
    const queue = []; // both runners take from it
    for (const mutant of mutants.filter(({ status }) => !/Killed|Timeout/.test(status))) {
      const { line: number } = mutant.location.start;
      const line = source.split("\n")[number - 1].trim();
      const change = changeOf(codeAt(source, mutant.location), mutant.replacement);
      const reason = accepted.find(
        (e) => e.file === file && e.mutants.some(([l, c]) => l === line && c === change),
      )?.reason;
      (reason ? survivors : queue).push({ mutant, number, line, change, reason });
    }
    const runner = async () => {
      for (let next = queue.shift(); next; next = queue.shift())
        if (await survives(directory, file, next.mutant, testFiles)) survivors.push(next);
    };
    await Promise.all(Array.from({ length: CONCURRENCY }, runner));
    for (const { number, line, change, reason = "NOT ACCEPTED" } of survivors)
      console.log(`${file}:${number}: ${line}\n  ${change}\n  ${reason}`);
    return { all: mutants.length, survivors };
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

const percent = (count, of) => (of ? `${((100 * count) / of).toFixed(1)} %` : "");

/** What was counted of a file: its mutants, those that were killed, and those that are accepted. */
const countsOf = ({ all, survivors }) => [
  ...[all, all - survivors.length],
  survivors.filter(({ reason }) => reason).length,
];

const rowOf = (name, [all, killed, known]) => [
  ...[name, all, killed, known, all - killed - known],
  ...[percent(killed, all), percent(killed, all - known)],
];

/** The counts that a document has of each file. */
function countsIn(text) {
  const rows = text.matchAll(/^\| `(src\/[^`]*)` *\| *(\d+) \| *(\d+) \| *(\d+) \| *\d+ \| *[\d.]+ % \|/gm);
  return new Map(Array.from(rows, ([, file, ...counts]) => [file, counts.map(Number)]));
}

/** The tables of the document: all files that were run, now or before, and what is accepted in them. */
function tablesOf(counts) {
  const ran = Object.keys(FILES).filter((file) => counts.has(file));
  const total = ran.map((file) => counts.get(file)).reduce((a, b) => a.map((n, i) => n + b[i]));
  const head = ["file", "mutants", "killed", "accepted", "not accepted", "score", "without accepted ones"];
  const rows = ran.map((file) => rowOf(`\`${file}\``, counts.get(file)));
  const table = markdownTable([head, ...rows, rowOf("all", total)], { align: ["l", ...Array(6).fill("r")] });
  const left = Object.keys(FILES).filter((file) => !counts.has(file));
  const entries = accepted.filter(({ file }) => counts.has(file));
  return [
    table,
    left.length && `Not run yet: ${left.map((file) => `\`${file}\``).join(", ")}.`,
    markdownTable([["file", "accepted", "why"], ...entries.map((e) => [`\`${e.file}\``, e.mutants.length, e.reason])], {
      align: ["l", "r", "l"],
    }),
  ]
    .filter(Boolean)
    .join("\n\n");
}

const document = new URL("../../docs/results/reliability.md", import.meta.url);
for (const file of chosen) {
  const mutants = await mutantsOf(file);
  const { survivors } = mutants;
  const unused = accepted
    .filter((entry) => entry.file === file)
    .flatMap((entry) => entry.mutants)
    .filter(([line, change]) => !survivors.some((s) => s.line === line && s.change === change));
  for (const [line, change] of unused) console.log(`accepted, but killed or gone: ${line}\n  ${change}`);
  console.log(rowOf(file, countsOf(mutants)).join("  "));
  if (unused.length || survivors.some(({ reason }) => !reason)) process.exitCode = 1;
  if (!values.write) continue;
  const text = readFileSync(document, "utf8");
  writeFileSync(document, replaceMarked(text, tablesOf(countsIn(text).set(file, countsOf(mutants))), "mutants"));
}
