// What the soak does; main.mjs starts it. Each part prints one row: what it has done, how many calls have failed on
// purpose, and at which level memory and threads are at its end. A part throws at the first thing that is not as promised.

import assert from "node:assert/strict";
import { run as failures } from "./failures.ts";
import { run as pools } from "./pools.ts";
import { run as steps } from "./steps.ts";
import { print, type Run, randomOf } from "./support.ts";
import { run as tensors } from "./tensors.ts";

/** The options that main.mjs passes on. */
interface Options {
  readonly seed: number;
  readonly sizes: Readonly<Record<string, number>>;
  readonly parts: readonly string[];
  readonly judgeTime: boolean;
}

const PARTS: Readonly<Record<string, Run>> = { steps, tensors, pools, failures };

const { seed, sizes, parts, judgeTime } = JSON.parse(process.argv[2] as string) as Options;
for (const [i, part] of parts.entries()) {
  const run = PARTS[part];
  assert(run, `--only: expected parts among ${Object.keys(PARTS)}, got ${part}`);
  const row = await run(sizes[part] as number, randomOf(seed + i), { judgeTime });
  print({ row: [part, ...row] });
}
