// How a series is drawn, so that nobody has to tell colours apart: Okabe and Ito's, with lighter ones for a dark background,
// each with a pattern of dashes of its own. The first is with batch norm, the second without.

export const PALETTE = {
  light: ["#0072b2", "#d55e00", "#009e73", "#aa4499", "#8a6d00", "#5b5b5b"],
  dark: ["#56b4e9", "#ff8c42", "#2fd6a3", "#e58fd0", "#f0d44c", "#bbbbbb"],
  /** In a picture that PICTURE_STYLE makes light or dark, as the page is that shows it. */
  picture: [0, 1, 2, 3, 4, 5].map((i) => `var(--color${i})`),
};

const variables = (scheme, others) =>
  [...PALETTE[scheme].map((color, i) => `--color${i}:${color}`), ...others].join(";");

/** The style element of a picture: its colours, and those of its text, its background and its frames. */
export const PICTURE_STYLE = [
  "<style>",
  `:root{${variables("light", ["--text:#222", "--background:#fff", "--frame:#ccc"])}}`,
  `@media (prefers-color-scheme:dark){:root{${variables("dark", ["--text:#ddd", "--background:#1b1b1f", "--frame:#555"])}}}`,
  "</style>",
].join("");

const DASHES = [[], [7, 3], [2, 3], [9, 3, 2, 3], [4, 2], [1, 2]];

/**
 * @param {import("./experiment.mjs").Series} series
 * @param {"light" | "dark" | "picture"} scheme
 * @returns {{ stroke: string, dash: number[] }}
 */
export const styleOf = ({ color, dash }, scheme) => ({
  stroke: PALETTE[scheme][color % PALETTE[scheme].length],
  dash: dash ?? DASHES[color % DASHES.length],
});

/** From this many lines on, lines have their names at their ends, too: so many patterns of dashes are hard to tell apart. */
export const NAMED_LINES = 4;

/** How a map shows the probability of class 1, in five shades from the colour of class 0 to that of class 1. */
export const SHADES = [
  { from: 0, to: 0.2, color: 0, alpha: 0.55 },
  { from: 0.2, to: 0.4, color: 0, alpha: 0.25 },
  { from: 0.4, to: 0.6, color: 5, alpha: 0.08 },
  { from: 0.6, to: 0.8, color: 1, alpha: 0.25 },
  { from: 0.8, to: 1, color: 1, alpha: 0.55 },
];

/** The shade of a probability; undefined of what is no number. */
export const shadeOf = (probability) => SHADES.find(({ to }) => probability <= to);

/** The width and height of what stands before a label of a legend. */
export const SWATCH = { width: 26, height: 10 };

const LINE = "M0 5h26";
const AREA = "M0 0h26v10h-26z";
const CIRCLE = "M9 5a4 4 0 1 0 8 0a4 4 0 1 0-8 0z";
const SQUARE = "M9.5 1.5h7v7h-7z";

/**
 * The legend of a chart: a line for each series, or what the symbols and the shades of a map stand for. Empty where one
 * line needs no name.
 *
 * @param {import("./experiment.mjs").Chart} chart
 * @param {"light" | "dark" | "picture"} scheme
 * @returns {{ label: string, path: string, stroke?: string, dash?: number[], fill?: string, alpha?: number }[]} with an SVG
 *   path in a box of SWATCH
 */
export function legendOf({ kind, series }, scheme) {
  const colors = PALETTE[scheme];
  if (kind === "map")
    return [
      { label: "sample of class 0", path: CIRCLE, fill: colors[0] },
      { label: "sample of class 1", path: SQUARE, fill: colors[1] },
      ...SHADES.map(({ from, to, color, alpha }, i) => ({
        label: `${i === 0 ? "class 1 has probability " : ""}${from}–${to}`,
        ...{ path: AREA, fill: colors[color], alpha },
      })),
    ];
  if (series.length < 2) return [];
  return series.map((s) => ({ label: s.label, path: LINE, ...styleOf(s, scheme) }));
}
