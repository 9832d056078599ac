// npm run bench: measures every case, prints its table, and writes results and reports where asked to.

import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { cpus, release, type } from "node:os";
import { parseArgs } from "node:util";
import cliProgress from "cli-progress";
import { CASES, load, random } from "./cases.mjs";
import { measure } from "./measure.mjs";
import { caseTable, document, insertSummary, targetTable } from "./report.mjs";

const HELP = `npm run bench -- [options]

  --quick       a fifth of the rounds
  --out FILE    writes the results as JSON
  --write       rewrites docs/benchmarks.md and the table in README.md
  --help        this text
`;

const { values } = parseArgs({
  options: {
    quick: { type: "boolean", default: false },
    out: { type: "string" },
    write: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});
if (values.help) {
  process.stdout.write(HELP);
  process.exit(0);
}

const root = new URL("../", import.meta.url);
const rounds = values.quick ? 5 : 25;
const { version } = JSON.parse(readFileSync(new URL("package.json", root), "utf8"));
const header = {
  processor: cpus()[0].model.trim(),
  cores: cpus().length,
  engine: `Node ${process.versions.node} (V8 ${process.versions.v8})`,
  platform: `${type()} ${release()} ${process.arch}`,
  version,
  commit: execFileSync("git", ["rev-parse", "--short", "HEAD"], { cwd: root, encoding: "utf8" }).trim(),
  date: new Date().toISOString().slice(0, 10),
  rounds,
};
console.log(Object.values(header).join(" | "));

const bar = new cliProgress.SingleBar({ format: "{bar} {value}/{total} rounds  {name}", hideCursor: true });
const shuffle = random(1);
const cases = [];
if (process.stdout.isTTY) bar.start(CASES.length * rounds, 0, { name: "" });
for (const data of CASES.map(load)) {
  bar.update({ name: data.name });
  cases.push(measure(data, { rounds, shuffle, tick: () => bar.increment() }));
}
bar.stop();

const results = { header, cases };
for (const c of cases) console.log(`\n${c.name}\n\n${caseTable(c)}`);
console.log(`\nTargets\n\n${targetTable(results)}`);
if (values.out) writeFileSync(values.out, `${JSON.stringify(results, null, 2)}\n`);
if (values.write) {
  const readme = new URL("README.md", root);
  writeFileSync(new URL("docs/benchmarks.md", root), document(results));
  writeFileSync(readme, insertSummary(readFileSync(readme, "utf8"), results));
}
if (cases.some((c) => c.rows.some((r) => r.wrong))) {
  console.error("A peer's result is wrong; see the tables.");
  process.exitCode = 1;
}
