// docs/results/runtimes.md from the rows that the suites of test/packed left: `node test/packed/table.mjs --write`. Without --write
// it compares: each row of the document must have been seen in this run, and each that was seen must stand there. Versions
// may differ, since browsers come from a distribution that moves.

import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { markdownTable } from "markdown-table";

const { values } = parseArgs({ options: { write: { type: "boolean", default: false } } });
const rows = new URL("../../build/packed/rows/", import.meta.url);
const document = fileURLToPath(new URL("../../docs/results/runtimes.md", import.meta.url));

const KINDS = {
  runtime: "Runtimes",
  node: "Places outside a page",
  browser: "Browsers",
  place: "Places in a page",
  bundler: "Bundlers",
  host: "Hosts in other languages",
};

const seen = readdirSync(rows).map((file) => JSON.parse(readFileSync(new URL(file, rows), "utf8")));
const text = Object.entries(KINDS)
  .map(([kind, title]) => {
    const of = seen
      .filter((row) => row.kind === kind)
      .sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
    const cells = of.map(({ name, version, what = "", checked }) => [
      name,
      version,
      checked ? checked.build : "",
      checked ? `\`${checked.digest}\`` : "",
      what,
    ]);
    return `### ${title}\n\n${markdownTable([["host", "version", "build", "bits without FMA", ""], ...cells])}`;
  })
  .join("\n\n");

const [begin, end] = ["<!-- runtimes:begin -->", "<!-- runtimes:end -->"];
const before = readFileSync(document, "utf8");
const [head, rest] = before.split(begin);
const [old, tail] = (rest ?? "").split(end);
if (tail === undefined) throw new Error(`${document}: expected the marks ${begin} and ${end}`);

if (values.write) {
  writeFileSync(document, `${head}${begin}\n${text}\n${end}${tail}`);
  console.log(`${document}: ${seen.length} rows written`);
} else {
  const namesOf = (tables) => [...tables.matchAll(/^\| (?!host |:?-)([^|]+?) +\|/gm)].map(([, name]) => name).sort();
  const [written, now] = [namesOf(old), namesOf(text)];
  const missing = written.filter((name) => !now.includes(name));
  const unwritten = now.filter((name) => !written.includes(name));
  if (missing.length || unwritten.length) {
    console.error(
      `docs/results/runtimes.md: not seen in this run: ${missing.join(", ") || "none"}; seen, but not there: ${unwritten.join(", ") || "none"}`,
    );
    process.exit(1);
  }
  console.log(`docs/results/runtimes.md: all ${now.length} rows seen`);
}
