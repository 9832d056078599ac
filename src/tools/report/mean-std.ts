// The statistics of a data set as text for a terminal: a table of the channels, and lines to paste into programs.

import type { DataStatistics } from "../data-statistics.ts";
import { printable } from "./text.ts";

/** Significant digits of the table, and of lines to paste, which float32 has. */
const TABLE_DIGITS = 6;
const PASTED_DIGITS = 8;

const rounded = (value: number, digits: number) => String(Number(value.toPrecision(digits)));

const pasted = (values: readonly number[]) => `[${values.map((value) => rounded(value, PASTED_DIGITS)).join(", ")}]`;

/**
 * Returns statistics as text. `what` names the data in the first line, and `notes` are sentences about what was left out or
 * converted.
 */
export function meanStdText(statistics: DataStatistics, what: string, notes: readonly string[]): string {
  const { mean, std, variance, min, max, count, nonFinite, channels } = statistics;
  const number = (values: readonly number[]) => values.map((value) => rounded(value, TABLE_DIGITS));
  const whole = (values: readonly number[]) => values.map((value) => value.toLocaleString("en"));
  const columns = [
    ["channel", ...mean.map((_, c) => String(c))],
    ["mean", ...number(mean)],
    ["std", ...number(std)],
    ["min", ...number(min)],
    ["max", ...number(max)],
    ["count", ...whole(count)],
    ...(nonFinite.some(Boolean) ? [["NaN, ±∞", ...whole(nonFinite)]] : []),
  ];
  const widths = columns.map((texts) => Math.max(...texts.map((text) => text.length)));
  const rows = Array.from({ length: channels + 1 }, (_, row) =>
    columns.map((texts, i) => (texts[row] as string).padStart(widths[i] as number)).join("  "),
  );
  const lines = [
    `PyTorch: transforms.Normalize(mean=${pasted(mean)}, std=${pasted(std)})`,
    `Keras:   keras.layers.Normalization(mean=${pasted(mean)}, variance=${pasted(variance)})`,
    `TF.js:   normalization({ mean: ${pasted(mean)}, variance: ${pasted(variance)} })`,
  ];
  return [what, "", ...rows, "", ...lines, ...(notes.length ? ["", ...printable(notes)] : []), ""].join("\n");
}
