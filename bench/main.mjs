// npm run bench: the command line. Measures every peer on every shape, prints the tables, and writes them where asked.
// The work is elsewhere: data.mjs has the shapes, peers/ the competitors, measure.mjs the clock, report.mjs the words.

import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import os from "node:os";
import { dirname } from "node:path";
import { parseArgs } from "node:util";
import { Presets, SingleBar } from "cli-progress";
import { errorOf, expectedOf, makeProblem, OPERANDS, random, SHAPES } from "./data.mjs";
import { measure } from "./measure.mjs";
import { PEERS } from "./peers/index.mjs";
import { renderEnvironment, renderReadme, renderReport, renderShape, renderTargets, replaceMarked } from "./report.mjs";

const HELP = `npm run bench -- [options]

Measures batchnorm-wasm against a copy of the tensor and against plain JavaScript.

  --quick        fewer rounds: about 20 seconds instead of two minutes
  --out FILE     write the results as JSON
  --write        write docs/benchmarks.md, and the README's table where it has the markers
  --help         this text
`;

const SEED = 2015; // the year of the paper

/** float32 sums over 100,352 values lose some 1e-5; what is beyond this computes something else. */
const WRONG = 1e-4;

const root = new URL("../", import.meta.url);

function environmentOf(mode) {
  const [cpu] = os.cpus();
  const { name, version } = JSON.parse(readFileSync(new URL("package.json", root), "utf8"));
  const git = () => {
    try {
      const args = ["describe", "--always", "--dirty"];
      return execFileSync("git", args, { cwd: root, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim();
    } catch {
      return "none";
    }
  };
  return {
    date: new Date().toISOString().slice(0, 10),
    processor: `${cpu.model.trim()}, ${os.cpus().length} cores`,
    engine: `Node ${process.versions.node}, V8 ${process.versions.v8}`,
    os: `${os.type()} ${os.release()} ${os.arch()}`,
    package: `${name} ${version}`,
    commit: git(),
    run: mode,
  };
}

/** Times and checks every peer on one shape. */
async function run(description, { budgetMs, onRound }) {
  const problem = makeProblem(description, SEED);
  const expected = expectedOf(problem);
  const prepared = [];
  for (const peer of PEERS) prepared.push({ peer: peer.name, ...(await peer.prepare(problem)) });
  const tasks = Object.keys(OPERANDS).flatMap((operation) =>
    prepared
      .filter(({ operations }) => operations[operation])
      .map(({ peer, operations }) => ({ peer, operation, ...operations[operation] })),
  );
  const { rounds, times } = measure(tasks, { budgetMs, next: random(SEED), onRound });
  const bytes = problem.x.byteLength;
  const msOf = (peer, operation) => times[tasks.findIndex((t) => t.peer === peer && t.operation === operation)]?.ms;
  const rows = tasks.map(({ peer, operation, call, time, results }, i) => {
    const { ms } = times[i];
    (time ?? call)(1); // operations share their destinations
    const error = errorOf(results(), expected[operation]);
    return {
      peer,
      operation,
      ...times[i],
      gbps: (OPERANDS[operation] * bytes) / ms / 1e6,
      copies: ms / msOf("copy", "copy"),
      speedup: operation === "copy" ? undefined : msOf("plain JavaScript", operation) / ms,
      error,
      wrong: !(error <= WRONG),
    };
  });
  for (const { dispose } of prepared) dispose();
  return { ...description, bytes, rounds, rows };
}

const { values: args } = parseArgs({
  options: {
    quick: { type: "boolean", default: false },
    out: { type: "string" },
    write: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});

if (args.help) {
  process.stdout.write(HELP);
} else {
  const results = { environment: environmentOf(args.quick ? "quick" : "full"), shapes: [] };
  console.log(`${renderEnvironment(results.environment)}\n`);
  for (const description of SHAPES) {
    const bar = new SingleBar(
      {
        format: `{bar} [${description.shape.join(", ")}] ${description.layout}`,
        clearOnComplete: true,
        noTTYOutput: false,
      },
      Presets.shades_classic,
    );
    bar.start(1, 0);
    const entry = await run(description, { budgetMs: args.quick ? 1000 : 25_000, onRound: (part) => bar.update(part) });
    bar.stop();
    results.shapes.push(entry);
    console.log(renderShape(entry));
  }
  console.log(`${renderTargets(results)}\n`);
  if (args.out) {
    mkdirSync(dirname(args.out), { recursive: true });
    writeFileSync(args.out, `${JSON.stringify(results, null, 2)}\n`);
  }
  if (args.write) {
    writeFileSync(new URL("docs/benchmarks.md", root), renderReport(results));
    const readme = new URL("README.md", root);
    writeFileSync(readme, replaceMarked(readFileSync(readme, "utf8"), renderReadme(results)));
  }
}
