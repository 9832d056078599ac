// The first screen of docs/results/reliability.md, from the tables further down, which other scripts write: what to conclude,
// and a picture of what became of all calls and files that were made at random.

import * as Plot from "@observablehq/plot";
import { parseHTML } from "linkedom";
import { PALETTE, PICTURE_STYLE } from "../../examples/lab/palette.mjs";

const number = (n) => n.toLocaleString("en");

/** The text between the markers of a block. Throws Error if there is none. */
function block(text, name) {
  const [, found] = text.match(new RegExp(`<!-- ${name}:begin -->([^]*?)<!-- ${name}:end -->`)) ?? [];
  if (!found) throw new Error(`docs/results/reliability.md: expected a block ${name}, got none`);
  return found;
}

/** The counts of a suite of calls at random, by the names of their rows. */
function countsOf(text, name) {
  const rows = [...block(text, name).matchAll(/^\| (.+?) \| ([\d,]+) \|$/gm)];
  const counts = Object.fromEntries(rows.map(([, row, count]) => [row, Number(count.replaceAll(",", ""))]));
  return (row) => {
    if (!(row in counts)) throw new Error(`docs/results/reliability.md: expected a row "${row}" in ${name}, got none`);
    return counts[row];
  };
}

/** What the tables of the document have. */
function figuresOf(text) {
  const [valid, invalid, states, models] = ["valid", "invalid", "state-files", "model-files"].map((name) =>
    countsOf(text, name),
  );
  const [, faults, caught] = /Of (\d+) faults \d+ were run, and (\d+) of these were caught/.exec(
    block(text, "kernel-faults"),
  );
  const soak = (part) => new RegExp(`^\\| ${part} +\\| ([\\d,]+)`, "m").exec(block(text, "soak"))[1];
  return { valid, invalid, states, models, faults, caught, soak };
}

/** The conclusions, as a list in Markdown. */
export function conclusionsOf(text) {
  const { valid, invalid, states, models, faults, caught, soak } = figuresOf(text);
  return [
    `- **Right calls have right results.** Of ${number(valid("cases"))} calls with random options, shapes and kinds of arrays, each compared with plain loops in float64, ${number(valid("faults"))} were wrong.`,
    `- **Wrong calls throw, and change nothing.** ${number(invalid("cases"))} calls with wrong arguments found ${number(invalid("faults"))} faults in this run; those of the library are fixed.`,
    `- **Damaged files are refused.** Of ${number(states("files"))} damaged safetensors files none was read that the reference implementation refuses; ${number(models("files"))} damaged model files were read or refused, without a crash.`,
    `- **It lasts.** ${soak("steps")} steps of training left no memory behind, and ${soak("failures")} steps in which memory ran out at random left the state as it was.`,
    `- **The tests notice mistakes.** Of ${faults} faults that were put into the kernels by hand, tests caught ${caught}. [Faults of the facade](#faults-of-the-facade) has the same for the TypeScript around them, by tool.`,
  ].join("\n");
}

const [WIDTH, HEIGHT, HEAD] = [960, 210, 76];
const STYLE = { fontFamily: "system-ui, sans-serif", fontSize: "12px", color: "var(--text)", background: "none" };
const KINDS = [
  { name: "worked, with the right result", fill: PALETTE.picture[0], ink: "var(--background)" },
  { name: "refused, with an error of ours", fill: "url(#hatched)", ink: "var(--text)" },
  { name: "nothing to try in this place", fill: "none", ink: "var(--text)" },
];
const HATCHED =
  `<defs><pattern id="hatched" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">` +
  `<path d="M0,0v7" stroke="${PALETTE.picture[1]}" stroke-width="4" stroke-opacity="0.55"/></pattern></defs>`;

/** What became of the calls and files, one bar for each suite. */
export function pictureOf(text) {
  const { valid, invalid, states, models } = figuresOf(text);
  const alone = states("files") - states("accepted") - states("refused by both");
  const bars = [
    ["valid calls", [valid("cases"), 0, 0]],
    ["invalid calls", [invalid("accepted") + invalid("same bits"), invalid("refused"), invalid("none")]],
    ["state files", [states("accepted"), states("refused by both") + alone, 0]],
    ["model files", [models("inspected"), models("files") - models("inspected"), 0]],
  ].flatMap(([suite, counts]) => {
    let from = 0;
    return counts.map((count, i) => {
      const begin = from;
      from += count;
      return { suite, ...KINDS[i], from: begin, to: from, count };
    });
  });
  const { document } = parseHTML("<!doctype html><html><body></body></html>");
  const shown = bars.filter(({ count }) => count > 0);
  const chart = Plot.plot({
    ...{ document, width: WIDTH, height: HEIGHT, style: STYLE, marginLeft: 105, marginRight: 35, marginBottom: 38 },
    x: { label: "cases", labelAnchor: "center", labelArrow: "none", tickFormat: "~s", grid: true },
    y: { domain: [...new Set(bars.map(({ suite }) => suite))], label: null, padding: 0.25 },
    marks: [
      Plot.barX(shown, { x1: "from", x2: "to", y: "suite", fill: "fill", stroke: "var(--text)", strokeWidth: 0.75 }),
      Plot.text(
        shown.filter(({ count }) => count > 60_000),
        {
          ...{ x: ({ from, to }) => (from + to) / 2, y: "suite", text: ({ count }) => number(count) },
          ...{
            fill: "ink",
            fontWeight: 600,
            stroke: ({ fill }) => (fill.startsWith("url") ? "var(--background)" : "none"),
          },
          strokeWidth: 4,
        },
      ),
    ],
  });
  const legend = KINDS.map(
    ({ name, fill }, i) =>
      `<rect x="${24 + 240 * i}" y="44" width="26" height="14" fill="${fill}" stroke="var(--text)" stroke-width="0.75"/>` +
      `<text x="${56 + 240 * i}" y="55.5" font-size="12">${name}</text>`,
  );
  const height = HEAD + HEIGHT;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}"`,
    ` font-family="system-ui, sans-serif" fill="var(--text)" role="img" aria-label="What became of calls and files that were made at random">`,
    PICTURE_STYLE,
    HATCHED,
    `<rect width="100%" height="100%" fill="var(--background)"/>`,
    `<text x="24" y="26" font-size="15" font-weight="600">What became of calls and files that were made at random</text>`,
    ...legend,
    `<g transform="translate(0 ${HEAD})">${chart.outerHTML}</g>`,
    `</svg>\n`,
  ].join("\n");
}
