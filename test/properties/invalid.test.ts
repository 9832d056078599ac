// Invalid calls of every public function: a valid call in which one argument, option or element is of a wrong kind, or in
// another guise. Each throws an error of ours with a bounded message and leaves everything as it was, or works as the valid
// call does. `npm run fuzz` runs more of them.

import { beforeAll, expect, test } from "vitest";
import { init } from "../../src/index.ts";
import { checkWrong, code, GENERATORS, invalid } from "./machine.ts";
import { asked, run } from "./run.ts";

beforeAll(() => init({ build: "simd" }));

test("invalid calls throw an error of ours and leave everything as it was", async () => {
  const counts = await run({
    name: "invalid",
    names: Object.keys(GENERATORS),
    arbitrary: (name) => invalid(name),
    check: async (name, [spec, wrong], count) => count(await checkWrong(name, spec, wrong)),
    code: (name, [spec, wrong]) => code(name, spec, wrong),
  });
  // the machine itself works: most calls are refused, and equivalent ones give the same bits
  if (asked.only === undefined) {
    expect(counts.refused).toBeGreaterThan((counts.cases as number) / 3);
    expect(counts["same bits"]).toBeGreaterThan((counts.cases as number) / 150);
  }
}, 0);
