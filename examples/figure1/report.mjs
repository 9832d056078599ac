// The results as a table in text and in HTML, as one SVG picture, and as a page that needs nothing else.

import * as Plot from "@observablehq/plot";
import { parseHTML } from "linkedom";

export const NOTES = [
  "Steps to 90 % and 95 %: the first measurement on the 2,000 test digits that reaches it.",
  "Saturated: share of the last hidden layer's outputs below 0.05 or above 0.95, over the test digits, at the end.",
  "Diverged: the mean loss of the last tenth of the run is not finite, or 10 % above ln 10, the loss of guessing evenly.",
  "Time in batch norm: forward and backward of the three layers, in training and in prediction.",
];

const percent = (share) => `${(100 * share).toFixed(1)} %`;

/** Headings and rows of strings. */
export function tableOf(results) {
  const head = ["learning rate", "batch norm", "steps to 90 %", "steps to 95 %", "best", "saturated", "diverged"];
  const rows = results.map((r) => [
    String(r.learningRate),
    r.batchNorm ? "with" : "without",
    String(r.to90 ?? "never"),
    String(r.to95 ?? "never"),
    percent(r.best),
    percent(r.saturated),
    r.diverged ? "yes" : "no",
    r.batchNorm
      ? `${(r.normMilliseconds / 1000).toFixed(2)} s of ${(r.milliseconds / 1000).toFixed(1)} s`
      : `– of ${(r.milliseconds / 1000).toFixed(1)} s`,
  ]);
  return { head: [...head, "time in batch norm"], rows };
}

export function tableText(results) {
  const { head, rows } = tableOf(results);
  const widths = head.map((h, i) => Math.max(h.length, ...rows.map((row) => row[i].length)));
  const line = (cells) => cells.map((cell, i) => cell.padStart(widths[i])).join("  ");
  return [line(head), line(widths.map((w) => "─".repeat(w))), ...rows.map(line)].join("\n");
}

const WITH = "#1f6fb4";
const WITHOUT = "#c2491d";
const PANEL = { width: 430, height: 290, marginLeft: 48, marginBottom: 40, style: { fontSize: "12px" } };

/** Accuracy over steps: dashes tell the learning rates apart, colours tell with from without. */
function accuracyPlot(results, document) {
  const rates = [...new Set(results.map((r) => r.learningRate))];
  const dashes = ["none", "7 3", "2 3"];
  const marks = results.map((r) =>
    Plot.lineY(r.points, {
      x: "step",
      y: (p) => 100 * p.accuracy,
      stroke: r.batchNorm ? WITH : WITHOUT,
      strokeWidth: 1.8,
      strokeDasharray: dashes[rates.indexOf(r.learningRate)],
    }),
  );
  return Plot.plot({
    ...PANEL,
    document,
    x: { label: "training steps" },
    y: { label: "test accuracy, %", domain: [0, 100], grid: true },
    marks: [Plot.ruleY([0]), ...marks],
  });
}

/** The three percentiles of one unit's input over steps. */
function percentilePlot(result, domain, document) {
  const colour = result.batchNorm ? WITH : WITHOUT;
  const at = (i) => (p) => p.percentiles[i];
  return Plot.plot({
    ...PANEL,
    document,
    x: { label: "training steps" },
    y: { label: "input of a last-layer sigmoid", domain, grid: true },
    marks: [
      Plot.areaY(result.points, { x: "step", y1: at(0), y2: at(2), fill: colour, fillOpacity: 0.12 }),
      ...[0, 1, 2].map((i) =>
        Plot.lineY(result.points, { x: "step", y: at(i), stroke: colour, strokeWidth: i === 1 ? 2.2 : 1.4 }),
      ),
      Plot.text([15, 50, 85], {
        x: result.points.at(-1).step,
        y: (_, i) => result.points.at(-1).percentiles[i],
        text: (q) => `${q} %`,
        textAnchor: "end",
        dy: -8,
        fill: colour,
      }),
    ],
  });
}

/** One SVG: accuracy of all runs, then the percentiles with and without at the lowest learning rate. */
export function picture(results) {
  const { document } = parseHTML("<html><body></body></html>");
  const lowest = Math.min(...results.map((r) => r.learningRate));
  const pair = [true, false].map((batchNorm) =>
    results.find((r) => r.batchNorm === batchNorm && r.learningRate === lowest),
  );
  const values = pair.flatMap((r) => r.points.flatMap((p) => p.percentiles)).filter(Number.isFinite);
  const margin = 0.1 * (Math.max(...values) - Math.min(...values));
  const domain = [Math.min(...values) - margin, Math.max(...values) + margin];
  const panels = [
    ["(a) test accuracy", accuracyPlot(results, document)],
    [`(b) with batch norm, learning rate ${lowest}`, percentilePlot(pair[0], domain, document)],
    [`(c) without batch norm, learning rate ${lowest}`, percentilePlot(pair[1], domain, document)],
  ];
  const rates = [...new Set(results.map((r) => r.learningRate))];
  const legend = [
    ...[
      ["with batch norm", WITH, "none"],
      ["without", WITHOUT, "none"],
    ],
    ...rates.map((rate, i) => [`learning rate ${rate}`, "#444", ["none", "7 3", "2 3"][i]]),
  ];
  const width = PANEL.width * 3 + 40;
  const height = PANEL.height + 70;
  const key = legend.map(
    ([label, colour, dash], i) =>
      `<g transform="translate(${20 + i * 170},${height - 14})"><line x2="30" stroke="${colour}" stroke-width="2.5"` +
      ` stroke-dasharray="${dash}"/><text x="38" y="4">${label}</text></g>`,
  );
  const body = panels.map(([title, plot], i) => {
    plot.setAttribute("x", String(10 + i * (PANEL.width + 10)));
    plot.setAttribute("y", "34");
    return `<text x="${20 + i * (PANEL.width + 10)}" y="22" font-weight="bold">${title}</text>${plot.outerHTML}`;
  });
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}"` +
    ` font-family="system-ui, sans-serif" font-size="13"><rect width="${width}" height="${height}" fill="white"/>` +
    `${body.join("")}${key.join("")}</svg>\n`
  );
}

export function page(results, { steps, seed }) {
  const { head, rows } = tableOf(results);
  const row = (tag, cells) => `<tr>${cells.map((c) => `<${tag}>${c}</${tag}>`).join("")}</tr>`;
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Figure 1 of Ioffe &amp; Szegedy, on real digits</title>
<style>
  body { font: 15px/1.5 system-ui, sans-serif; max-width: 1340px; margin: 2em auto; padding: 0 1em; }
  svg { max-width: 100%; height: auto; }
  table { border-collapse: collapse; margin: 1em 0; }
  th, td { padding: 0.3em 0.9em; text-align: right; border-bottom: 1px solid #ddd; }
</style>
<h1>Figure 1 of Ioffe &amp; Szegedy (2015), on real digits</h1>
<p>Three hidden layers of 100 sigmoid units, batches of 60, ${steps} steps, seed ${seed}. With and without batch norm
share initial weights and the order of the digits.</p>
${picture(results)}
<table>${row("th", head)}${rows.map((cells) => row("td", cells)).join("")}</table>
<ul>${NOTES.map((note) => `<li>${note}</li>`).join("")}</ul>
</html>
`;
}
