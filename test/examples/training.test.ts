// bench/training, as `npm run docs:tfjs -- --quick` runs it: the table says what trains where.

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";

const MAIN = fileURLToPath(new URL("../../bench/training/main.mjs", import.meta.url));

it("times three networks, and says which kernel TF.js lacks", () => {
  const folder = mkdtempSync(join(tmpdir(), "training-"));
  try {
    const out = join(folder, "tfjs.md");
    execFileSync(process.execPath, [MAIN, "--quick", "--out", out], { encoding: "utf8" });
    const [, part = ""] =
      /<!-- training:begin -->\n([\s\S]*?)<!-- training:end -->/.exec(readFileSync(out, "utf8")) ?? [];
    const rows = part.split("\n").filter((line) => line.startsWith("|"));
    const cells = rows.slice(2).map((row) =>
      row
        .split("|")
        .map((cell) => cell.trim())
        .slice(2, -1),
    );
    const time = /^[\d.,]+ (m|µ)?s, [\d.,]+ samples\/s$/;
    const missing = /^does not train: no kernel Conv2DBackpropFilter$/;
    expect(cells).toEqual(
      [
        [time, time, time],
        [time, missing, time],
        [time, missing, time],
      ].map((row) => row.map((pattern) => expect.stringMatching(pattern))),
    );
  } finally {
    rmSync(folder, { recursive: true });
  }
});
