// The report of an inspection as text for a terminal: a table of the batch norms, then the findings.

import type { DriftReport, LayerDrift } from "../drift.ts";
import type { Finding, InspectedLayer, InspectionReport, Severity } from "../inspect.ts";
import type { Range } from "../range.ts";

/** Findings of one kind that are shown with all their layers' names; of more, the first ones are. */
const NAMES = 3;
/** The least width of the column of names. */
const LEAST_NAME = 12;

const SIGNS: Readonly<Record<Severity, string>> = { error: "ERROR", warning: "warning", info: "info" };

/**
 * Characters that a terminal or a browser obeys instead of showing them: controls, line ends and directions of writing. Names in
 * a file may have them. Halves of surrogate pairs are no characters.
 */
export const CONTROLS = /[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\p{Bidi_Control}]/gu;

/** Returns a character as JSON's escape. */
export const escaped = (character: string): string => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;

/** Returns a report, a plain value, with escapes for the characters in its texts that would not be shown. */
export function printable<T>(report: T): T {
  const shown = (value: unknown): unknown => {
    if (typeof value === "string") return value.replace(CONTROLS, escaped);
    if (Array.isArray(value)) return value.map(shown);
    if (typeof value !== "object" || value === null) return value;
    return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, shown(part)]));
  };
  return shown(report) as T;
}

/** Returns a number with two digits in at most seven characters. */
export function digits(value: number): string {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (value === 0 || (size >= 0.01 && size < 1000)) return String(Number(value.toPrecision(2)));
  return value.toExponential(1).replace(".0e", "e").replace("e+", "e");
}

/** Cuts a text on the left, since the ends of layers' names differ. */
const cut = (text: string, width: number) => (text.length > width ? `…${text.slice(text.length - width + 1)}` : text);

/** Columns behind a name: title, and the text of a row. */
type Columns<T> = readonly (readonly [title: string, text: (row: T) => string])[];

export const COLUMNS: Columns<InspectedLayer> = [
  ["C", ({ channels }) => String(channels)],
  ["epsilon", ({ epsilon, isEpsilonAssumed }) => `${digits(epsilon)}${isEpsilonAssumed ? "?" : " "}`],
  ["momentum", ({ momentum }) => (momentum ? `${shortest(momentum.pytorch)}/${shortest(momentum.keras)}` : "")],
  ["variance", ({ variance }) => (variance ? rangeText(variance) : "")],
  ["dead", ({ dead }) => String(dead.length || "")],
  ["weak", ({ weak }) => String(weak.length || "")],
  ["mean/std", ({ largestMean }) => (Number.isNaN(largestMean) ? "" : digits(largestMean))],
];

const rangeText = ({ least, largest }: Range) => `${digits(least)}–${digits(largest)}`;

export const DRIFT_COLUMNS: Columns<LayerDrift> = [
  ["C", ({ channels }) => String(channels)],
  ["mean drift", ({ meanDrift }) => digits(meanDrift)],
  ["std ratio", ({ stdRatio }) => rangeText(stdRatio)],
  [
    "|gamma| change",
    ({ gammaChange }) => (gammaChange ? `${digits(gammaChange.least)} to ${digits(gammaChange.largest)}` : ""),
  ],
  ["drifted", ({ drifted }) => String(drifted.length || "")],
];

const shortest = (value: number) => String(Number(value.toPrecision(3))).replace(/^0\./, ".");

/** Wraps words to lines of a width, all but the first with an indent. */
export function wrap(text: string, width: number, indent: string): string {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line && line.length + 1 + word.length > width) {
      lines.push(line);
      line = indent + word;
    } else line = line ? `${line} ${word}` : word;
  }
  return [...lines, line].join("\n");
}

/** Returns the findings in groups of equal code, in which one message stands for all. */
export function grouped(findings: readonly Finding[]): (readonly Finding[])[] {
  const groups = new Map<string, Finding[]>();
  for (const finding of findings) {
    const group = groups.get(finding.code) ?? [];
    groups.set(finding.code, group);
    group.push(finding);
  }
  return [...groups.values()];
}

function table<T extends { readonly name: string }>(layers: readonly T[], columns: Columns<T>, width: number): string {
  const cells = layers.map((layer) => columns.map(([, text]) => text(layer)));
  const widths = columns.map(([title], i) => Math.max(title.length, ...cells.map((row) => (row[i] as string).length)));
  const used = columns.filter((_, i) => cells.some((row) => row[i] !== ""));
  const shown = columns
    .map((column, i) => ({ i, title: column[0] }))
    .filter(({ i }) => used.includes(columns[i] as Columns<T>[number]));
  const rest = shown.reduce((sum, { i }) => sum + (widths[i] as number) + 2, 0);
  const longest = Math.max(5, ...layers.map(({ name }) => name.length));
  const first = Math.min(longest, Math.max(LEAST_NAME, width - rest));
  const line = (name: string, texts: readonly string[]) =>
    [cut(name, first).padEnd(first), ...shown.map(({ i }) => (texts[i] as string).padStart(widths[i] as number))]
      .join("  ")
      .trimEnd();
  return [
    line(
      "layer",
      columns.map(([title]) => title),
    ),
    ...layers.map(({ name }, i) => line(name, cells[i] as string[])),
  ].join("\n");
}

/** Returns what a reader of the table has to know of its columns. */
export const notesOn = (layers: readonly InspectedLayer[]): string[] => [
  ...(layers.some((layer) => layer.isEpsilonAssumed)
    ? ["epsilon with ?: not in the file, the framework's default"]
    : []),
  ...(layers.some((layer) => layer.momentum) ? ["momentum: as PyTorch / as Keras defines it"] : []),
  "mean/std: the largest |mean|/√(variance + epsilon); folding loses log10 of it digits",
];

/** Returns a number with a noun. */
export const plural = (n: number, word: string) => `${n} ${word}${n === 1 ? "" : "s"}`;

/** Returns how many findings there are of each severity, as text. */
export function summary({ layers, findings }: InspectionReport): string {
  const count = (severity: Severity) => findings.filter((finding) => finding.severity === severity).length;
  return `${plural(layers.length, "batch norm")}: ${plural(count("error"), "error")}, ${plural(count("warning"), "warning")}, ${count("info")} info`;
}

/** What a reader of the comparison has to know of its columns. */
export const DRIFT_NOTES: readonly string[] = [
  "mean drift: the largest |mean − old mean|/√(old variance + epsilon)",
  "std ratio: √((variance + epsilon)/(old variance + epsilon))",
  "|gamma| change: |gamma| − |old gamma|",
  "drifted: channels whose mean drift is above 0.5, or whose variance differs by more than a factor 2",
];

/** Returns how many batch norms two files share, as text. */
export const driftSummary = ({ against, layers, added, missing }: DriftReport) =>
  `drift from ${against}: ${plural(layers.length, "batch norm")} compared, ${added.length} only in this file, ${missing.length} only in the other`;

/** Returns the names of batch norms that were not compared, with the reason. */
export const notCompared = ({ added, missing, incomparable, against }: DriftReport): string[] => [
  ...(added.length ? [`only in this file: ${added.join(", ")}`] : []),
  ...(missing.length ? [`only in ${against}: ${missing.join(", ")}`] : []),
  ...incomparable.map(({ name, reason }) => `not compared: ${name}: ${reason}`),
];

function driftParts(drift: DriftReport, width: number): string[] {
  const { layers } = drift;
  const lines = (texts: readonly string[]) => texts.map((text) => wrap(text, width, "  ")).join("\n");
  return [
    lines([driftSummary(drift)]),
    ...(layers.length ? [table(layers, DRIFT_COLUMNS, width), lines(DRIFT_NOTES)] : []),
    lines(notCompared(drift)),
  ];
}

/** Returns a report as text with lines of at most `width` characters. */
export function textReport(report: InspectionReport, width = 80): string {
  const { file, format, layers, drift, findings } = printable(report);
  const head = `${file} (${format}), ${summary(report)}`;
  if (layers.length === 0 && !drift) return `${wrap(head, width, "  ")}\n`;
  const texts = grouped(findings).map((group) => {
    const [{ severity, code, message, remedy, layer }] = group as [Finding];
    const others = group.slice(1).map((finding) => finding.layer);
    const more =
      others.length > NAMES
        ? `${others.slice(0, NAMES).join(", ")} and ${others.length - NAMES} more`
        : others.join(", ");
    return wrap(
      `${SIGNS[severity]} ${code}: ${layer}: ${message}; ${remedy}.${more ? ` Also: ${more}.` : ""}`,
      width,
      "  ",
    );
  });
  const parts = [
    wrap(head, width, "  "),
    layers.length ? table(layers, COLUMNS, width) : "",
    (layers.length ? notesOn(layers) : []).map((note) => wrap(note, width, "  ")).join("\n"),
    texts.join("\n"),
    ...(drift ? driftParts(drift, width) : []),
  ];
  return `${parts.filter(Boolean).join("\n\n")}\n`;
}
