// npm run bench -- --compare REF: our tensors here against those of another commit, built in a worktree of its own.

import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import os from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { markdownTable } from "markdown-table";
import { median } from "simple-statistics";
import { OURS, runShape } from "./run.mjs";
import { SHAPES, titleOf } from "./shapes.mjs";
import { digits, OPERATIONS } from "./tables.mjs";

const root = fileURLToPath(new URL("../", import.meta.url));

/** Each pair of isolates has memory of its own, and its pages make a difference of up to a tenth: the median of three. */
const REPETITIONS = 3;

const MEASURED = ["inference", "forward", "backward"];

/**
 * Checks `ref` out into a temporary worktree and builds it there. Returns the address of its entry, and `remove`, which
 * removes the worktree. Throws what git or npm say.
 */
export function buildOf(ref) {
  const folder = join(mkdtempSync(join(os.tmpdir(), "batchnorm-compare-")), "worktree");
  const run = (file, args, cwd) => execFileSync(file, args, { cwd, stdio: ["ignore", "ignore", "inherit"] });
  const remove = () => {
    rmSync(join(folder, ".."), { recursive: true, force: true });
    run("git", ["worktree", "prune"], root);
  };
  try {
    run("git", ["worktree", "add", "--detach", folder, ref], root);
    run("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder);
    run("npm", ["run", "build"], folder);
  } catch (error) {
    remove();
    throw error;
  }
  return { library: pathToFileURL(join(folder, "dist/index.js")).href, remove };
}

/**
 * Measures both builds on every shape whose title contains `only`. Returns { shape, layout, operation, here, there, ratios
 * }[]: medians in milliseconds, and the ratio of each repetition.
 */
export async function compareCommits({ isolated, library, settings, effort, only, onProgress }) {
  const shapes = SHAPES.filter((description) => titleOf(description).includes(only));
  if (shapes.length === 0)
    throw new Error(`--only: expected a piece of ${SHAPES.map(titleOf).join("; ")}: got ${only}`);
  const other = isolated("tensors", { name: "other", settings: { library } });
  const rows = [];
  for (const [i, description] of shapes.entries()) {
    const runs = [];
    for (let r = 0; r < REPETITIONS; r++) {
      const progress = (share) => onProgress((i + (r + share) / REPETITIONS) / shapes.length);
      const peers = [isolated("tensors"), other];
      const operations = ["copy", ...MEASURED];
      runs.push(await runShape(description, { peers, effort, settings, operations, onProgress: progress }));
    }
    for (const operation of MEASURED) {
      const of = (peer) =>
        runs.map(({ rows }) => {
          const row = rows.find((row) => row.peer === peer && (row.failed || row.operation === operation));
          if (!row || row.failed || row.wrong)
            throw new Error(`${peer}, ${titleOf(description)}: ${row?.failed ?? "wrong"}`);
          return row.ms;
        });
      const [here, there] = [of(OURS), of("other")];
      const ratios = here.map((ms, r) => ms / there[r]);
      rows.push({ ...description, operation, here: median(here), there: median(there), ratios });
    }
  }
  return rows;
}

/** The comparison as a table: below 1, this commit is faster. */
export const renderCommits = (rows, ref) =>
  markdownTable(
    [
      ["shape", "operation", "here, ms", `${ref}, ms`, "here / there", "least", "most"],
      ...rows.map(({ operation, here, there, ratios, ...description }) => [
        ...[titleOf(description), OPERATIONS[operation], digits(here), digits(there)],
        ...[median(ratios), Math.min(...ratios), Math.max(...ratios)].map((ratio) => ratio.toFixed(2)),
      ]),
    ],
    { align: ["l", "l", "r", "r", "r", "r", "r"] },
  );
