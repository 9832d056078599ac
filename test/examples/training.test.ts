// bench/training, as `npm run docs:tfjs -- --quick` runs it: the table says what trains where.

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";

const MAIN = fileURLToPath(new URL("../../bench/training/main.mjs", import.meta.url));

/** The cells of a table in a document, without the first of each row. */
function cellsOf(text: string, name: string): string[][] {
  const [, part = ""] = new RegExp(`<!-- ${name}:begin -->\\n([^]*?)<!-- ${name}:end -->`).exec(text) ?? [];
  const rows = part.split("\n").filter((line) => line.startsWith("|"));
  return rows.slice(2).map((row) =>
    row
      .split("|")
      .map((cell) => cell.trim())
      .slice(2, -1),
  );
}

it("times networks that train, and says which kernel TF.js lacks, and networks that predict", () => {
  const folder = mkdtempSync(join(tmpdir(), "training-"));
  try {
    const out = join(folder, "tfjs.md");
    execFileSync(process.execPath, [MAIN, "--quick", "--out", out], { encoding: "utf8" });
    const text = readFileSync(out, "utf8");
    const matching = (patterns: RegExp[][]) => patterns.map((row) => row.map((p) => expect.stringMatching(p)));
    const time = /^[\d.,]+ ms, [\d.,]+ samples\/s$/;
    const missing = /^does not train: no kernel Conv2DBackpropFilter$/;
    expect(cellsOf(text, "training")).toEqual(
      matching([
        [time, time, time],
        [time, missing, time],
        [time, missing, time],
      ]),
    );
    const [ms, ratio] = [/^[\d.,]+ ms$/, /^[\d.,]+ ms \([\d.,]+×\)$/];
    const predictions = cellsOf(text, "prediction");
    expect([4, 6]).toContain(predictions.length); // two more where bench/ has its packages
    expect(predictions).toEqual(matching(predictions.map(() => [ms, ratio, ratio])));
  } finally {
    rmSync(folder, { recursive: true });
  }
});
