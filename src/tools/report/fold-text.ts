// The report of folding as text for a terminal.

import type { FoldReport } from "../fold-report.ts";
import { digits, plural, printable, wrap } from "./text.ts";

/** Returns what has become of the batch norms of a file as text with lines of at most `width` characters, if names fit. */
export function foldText(file: string, report: FoldReport, width = 80): string {
  const { folded, kept } = printable(report);
  const count = folded.length + kept.length;
  const head = `${printable(file)}: ${folded.length} of ${plural(count, "batch norm")} folded`;
  const rows = folded.map(({ batchNorm, into, direction, expectedError }) => [
    digits(expectedError),
    batchNorm,
    `${direction === "backward" ? "into" : "forward into"} ${into.join(", ")}`,
  ]);
  const widthOf = (column: number) => Math.max(...rows.map((row) => (row[column] as string).length));
  const table = rows.map((row) => row.map((text, i) => (i < 2 ? text.padEnd(widthOf(i)) : text)).join("  "));
  const parts = [
    wrap(head, width, "  "),
    rows.length > 0 ? ["expected error of an output, in units of its size:", ...table].join("\n") : "",
    kept.map(({ batchNorm, reason }) => wrap(`kept ${batchNorm}: ${reason}`, width, "  ")).join("\n"),
  ];
  return `${parts.filter(Boolean).join("\n\n")}\n`;
}
