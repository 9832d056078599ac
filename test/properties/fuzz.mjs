// Runs the properties for a time or a number of cases: npm run fuzz -- --minutes n --seed s. Every fault is printed with
// the command that runs it again, and the call as code. Ends with 1 for a fault.

import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { startVitest } from "vitest/node";

const SUITES = ["valid", "invalid", "state-files", "model-files"];
const { values } = parseArgs({
  options: {
    minutes: { type: "string" },
    cases: { type: "string" }, // of all suites together
    seed: { type: "string", default: "1" },
    suite: { type: "string", multiple: true, default: ["valid", "invalid"] },
    only: { type: "string" }, // the name of one function
    path: { type: "string" }, // fast-check's path to one case
    python: { type: "string", default: "build/properties/python/bin/python" }, // from test/properties/install.sh
    write: { type: "boolean", default: false }, // the counts into docs/results/reliability.md
  },
});
const number = (name) => (values[name] === undefined ? undefined : Number(values[name]));
const wrong = [
  ...["minutes", "cases", "seed"].filter((name) => Number.isNaN(number(name))),
  ...values.suite.filter((suite) => !SUITES.includes(suite)),
];
if (wrong.length)
  throw new Error(`expected numbers, and suites among ${SUITES.join(", ")}; wrong are ${wrong.join(", ")}`);
const cases = number("cases") ?? (values.minutes === undefined ? 10_000 : undefined);

const vitest = await startVitest(
  "test",
  values.suite.map((suite) => `test/properties/${suite}.test.ts`),
  {
    watch: false,
    reporters: ["default"],
    testTimeout: 0,
    provide: {
      fuzz: {
        cases: cases && Math.ceil(cases / values.suite.length),
        minutes: number("minutes"),
        seed: number("seed"),
        only: values.only,
        path: values.path,
        python: existsSync(values.python) ? values.python : undefined,
      },
    },
  },
);
const failed = vitest.state.getCountOfFailedTests() > 0 || vitest.state.getUnhandledErrors().length > 0;
await vitest.close();
const reports = values.suite.map((suite) => JSON.parse(readFileSync(`build/fuzz/${suite}.json`, "utf8")));
for (const { suite, counts, seconds, seed } of reports)
  console.log(`${suite}: ${JSON.stringify(counts)} in ${Math.round(seconds)} s, seed ${seed}`);
if (values.write) {
  const file = new URL("../../docs/results/reliability.md", import.meta.url);
  let text = readFileSync(file, "utf8");
  for (const report of reports) {
    const [open, close] = [`<!-- ${report.suite}:begin -->`, `<!-- ${report.suite}:end -->`];
    const begin = text.indexOf(open) + open.length;
    if (begin < open.length) throw new Error(`docs/results/reliability.md has no place for ${report.suite}`);
    text = `${text.slice(0, begin)}\n${tableOf(report)}\n${text.slice(text.indexOf(close))}`;
  }
  writeFileSync(file, text);
}
process.exitCode = failed ? 1 : 0;

/** Returns the counts of a suite as a table. */
function tableOf({ counts, seconds, seed }) {
  const rows = Object.entries(counts).map(([name, count]) => `| ${name} | ${count.toLocaleString("en-US")} |`);
  return [`Seed ${seed}, ${Math.round(seconds / 60)} minutes:`, "", "| | calls |", "|---|---:|", ...rows].join("\n");
}
