// The picture of the demo, one SVG that stands on its own: test accuracy over steps at each learning rate, and below
// it, as in the paper's figure 1 (b) and (c), what reaches one sigmoid of the last hidden layer at the lowest rate.

import * as Plot from "@observablehq/plot";
import { parseHTML } from "linkedom";
import { PALETTE, PICTURE_STYLE } from "../lab/palette.mjs";

/** @typedef {import("./train.mjs").Result} Result */

const WIDTH = 960;
const HEIGHT = 690;
const LEFT = 55;
const COLORS = { with: PALETTE.picture[0], without: PALETTE.picture[1] };
const STYLE = { fontFamily: "system-ui, sans-serif", fontSize: "12px", color: "var(--text)", background: "none" };

const STEPS = { label: "training steps", labelAnchor: "center", labelArrow: "none", zero: true };
const COLOR_SCALE = { domain: Object.keys(COLORS), range: Object.values(COLORS) };

const { document } = parseHTML("<!doctype html><html><body></body></html>");

const nameOf = ({ batchNorm }) => (batchNorm ? "with" : "without");

/** @param {Result[]} results */
export function picture(results) {
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" width="${WIDTH}" height="${HEIGHT}"`,
    ` font-family="system-ui, sans-serif" fill="var(--text)" role="img" aria-label="Training with and without batch norm">`,
    PICTURE_STYLE,
    `<rect width="100%" height="100%" fill="var(--background)"/>`,
    heading(LEFT, 30, "Test accuracy, by learning rate"),
    legend(WIDTH - 290, 30),
    place(0, 44, accuracyPlot(results)),
    heading(LEFT, 372, "Input to a sigmoid of the last hidden layer: 15th, 50th and 85th percentile over the test set"),
    place(0, 386, percentilePlot(results)),
    `</svg>\n`,
  ].join("\n");
}

function accuracyPlot(results) {
  const points = results.flatMap((result) =>
    result.evaluations.map(({ step, accuracy }) => ({
      step,
      accuracy: 100 * accuracy,
      name: nameOf(result),
      rate: result.learningRate,
    })),
  );
  return Plot.plot({
    document,
    width: WIDTH,
    height: 300,
    marginLeft: LEFT,
    marginRight: 25,
    marginBottom: 40,
    style: STYLE,
    color: COLOR_SCALE,
    fx: { label: null, tickFormat: (rate) => `learning rate ${rate}`, padding: 0.08 },
    x: { ...STEPS, ticks: 3 },
    y: { label: "accuracy (%)", domain: [0, 100], labelArrow: "none", grid: true },
    marks: [
      Plot.frame({ stroke: "var(--frame)" }),
      Plot.line(points, { fx: "rate", x: "step", y: "accuracy", stroke: "name", strokeWidth: 1.75 }),
    ],
  });
}

function percentilePlot(results) {
  const lowest = Math.min(...results.map(({ learningRate }) => learningRate));
  const points = results
    .filter(({ learningRate }) => learningRate === lowest)
    .flatMap((result) =>
      result.evaluations.map(({ step, percentiles: [p15, p50, p85] }) => ({
        step,
        p15,
        p50,
        p85,
        name: nameOf(result),
        panel: `${nameOf(result)} batch norm, learning rate ${lowest}`,
      })),
    );
  const channels = { fx: "panel", x: "step" };
  return Plot.plot({
    document,
    width: WIDTH,
    height: 300,
    marginLeft: LEFT,
    marginRight: 45,
    marginBottom: 40,
    style: STYLE,
    color: COLOR_SCALE,
    fx: { label: null, padding: 0.12, domain: [...new Set(points.map(({ panel }) => panel))] },
    x: { ...STEPS, ticks: 5 },
    y: { label: "input to the sigmoid", labelArrow: "none", grid: true, nice: true },
    marks: [
      Plot.frame({ stroke: "var(--frame)" }),
      Plot.areaY(points, { ...channels, y1: "p15", y2: "p85", fill: "name", fillOpacity: 0.12 }),
      ["p15", "p50", "p85"].flatMap((y) => [
        Plot.line(points, { ...channels, y, stroke: "name", strokeWidth: y === "p50" ? 2 : 1.25 }),
        Plot.text(
          points,
          Plot.selectLast({
            ...channels,
            y,
            z: "panel",
            fill: "name",
            text: () => `${y.slice(1)}th`,
            dx: 5,
            textAnchor: "start",
          }),
        ),
      ]),
    ],
  });
}

function place(x, y, svg) {
  svg.setAttribute("x", x);
  svg.setAttribute("y", y);
  return svg.outerHTML;
}

const heading = (x, y, text) => `<text x="${x}" y="${y}" font-size="15" font-weight="600">${text}</text>`;

function legend(x, y) {
  const entries = Object.entries(COLORS).map(
    ([name, color], i) =>
      `<path d="M${x + i * 136},${y - 4}h18" stroke="${color}" stroke-width="2.5"/>` +
      `<text x="${x + i * 136 + 24}" y="${y}" font-size="12">${name} batch norm</text>`,
  );
  return entries.join("");
}
