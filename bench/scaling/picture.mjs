// The picture of docs/results/scaling.md, one SVG that stands on its own: what a step's exchanges take over ranks, by ring and by tree, and
// how much longer a step takes for synchronising, in parts of the ranks or all of them.

import * as Plot from "@observablehq/plot";
import { parseHTML } from "linkedom";
import { PALETTE, PICTURE_STYLE } from "../../examples/lab/palette.mjs";
import { exchangesOf, stepSeconds } from "./model.mjs";
import { partName } from "./tables.mjs";

const [WIDTH, HEIGHT] = [960, 760];
const STYLE = { fontFamily: "system-ui, sans-serif", fontSize: "12px", color: "var(--text)", background: "none" };
// Dashes say the same as colours.
const LINES = ["none", "6 3", "2 3"].map((strokeDasharray, i) => ({
  ...{ stroke: PALETTE.picture[i], strokeWidth: 1.75, strokeDasharray },
}));
const RANKS = Array.from({ length: 40 }, (_, i) => Math.round(2 * 500 ** (i / 39)));

const { document } = parseHTML("<!doctype html><html><body></body></html>");
const x = {
  type: "log",
  label: "ranks",
  labelAnchor: "center",
  labelArrow: "none",
  ticks: [10, 100, 1000], // 2 ranks stand at the edge, where the 1000 of the panel before is
  tickFormat: String,
};

function exchangePlot(networks) {
  const points = networks.flatMap((network) =>
    ["ring", "tree"].flatMap((algorithm) =>
      RANKS.map((ranks) => ({
        ranks,
        algorithm,
        network: network.name.replaceAll("`", ""),
        ms: 1e3 * stepSeconds(exchangesOf(network.transport), algorithm, ranks, network),
      })),
    ),
  );
  return Plot.plot({
    ...{ document, width: WIDTH, height: 320, marginLeft: 55, marginRight: 45, marginBottom: 40, style: STYLE },
    x,
    y: { type: "log", label: "ms a step", labelArrow: "none", grid: true, tickFormat: "~g" },
    fx: { label: null, padding: 0.08 },
    marks: [
      Plot.frame({ stroke: "var(--frame)" }),
      ...["ring", "tree"].map((algorithm, i) =>
        Plot.line(
          points.filter((point) => point.algorithm === algorithm),
          { fx: "network", x: "ranks", y: "ms", ...LINES[i] },
        ),
      ),
      Plot.text(
        points.filter(({ ranks }) => ranks === 1000),
        { fx: "network", x: "ranks", y: "ms", text: "algorithm", dx: 4, textAnchor: "start" },
      ),
    ],
  });
}

function slowdownPlot(runs) {
  const points = runs.map((run) => ({
    ...run,
    name: partName(run.part),
    panel: `${run.network}, ${run.compute} s`,
  }));
  return Plot.plot({
    ...{ document, width: WIDTH, height: 320, marginLeft: 55, marginRight: 45, marginBottom: 40, style: STYLE },
    x,
    y: { label: "slowdown", labelArrow: "none", grid: true, zero: false },
    fx: { label: null, padding: 0.08 },
    marks: [
      Plot.frame({ stroke: "var(--frame)" }),
      ...partNames(runs).map((name, i) =>
        Plot.line(
          points.filter((point) => point.name === name),
          { fx: "panel", x: "ranks", y: "slowdown", marker: "dot", ...LINES[i] },
        ),
      ),
    ],
  });
}

const partNames = (runs) => [...new Set(runs.map(({ part }) => partName(part)))];

function legend(runs) {
  const entry = (name, i) => {
    const at = WIDTH - 330 + 115 * i;
    const { stroke, strokeWidth, strokeDasharray } = LINES[i];
    const line = `<path d="M${at},404h26" stroke="${stroke}" stroke-width="${strokeWidth}" stroke-dasharray="${strokeDasharray}"/>`;
    return `${line}<text x="${at + 32}" y="408" font-size="12">${name}</text>`;
  };
  return partNames(runs).map(entry).join("");
}

const heading = (y, text) => `<text x="55" y="${y}" font-size="15" font-weight="600">${text}</text>`;
const place = (y, svg) => `<g transform="translate(0 ${y})">${svg.outerHTML}</g>`;

/** The networks of the model, and the simulated runs. */
export function pictureOf(networks, runs) {
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" width="${WIDTH}" height="${HEIGHT}"`,
    ` font-family="system-ui, sans-serif" fill="var(--text)" role="img" aria-label="Synchronised batch norm of ResNet-50 over ranks">`,
    PICTURE_STYLE,
    `<rect width="100%" height="100%" fill="var(--background)"/>`,
    heading(30, "Exchanges of the 53 batch norms of ResNet-50, by the α–β model"),
    place(40, exchangePlot(networks.slice(-3))),
    heading(408, "Slowdown of a step, by its seconds of computation; simulated"),
    legend(runs),
    place(420, slowdownPlot(runs)),
    `</svg>\n`,
  ].join("\n");
}
