// The charts of an experiment as one SVG that stands on its own: means over seeds, and the standard deviation as a band.

import * as Plot from "@observablehq/plot";
import { parseHTML } from "linkedom";
import { mean, standardDeviation } from "simple-statistics";
import { PALETTE } from "./palette.mjs";

const WIDTH = 960;
const COLUMNS = 2;
const CHART = { width: WIDTH / COLUMNS, height: 270 };
const HEAD = 44;
const STYLE = { fontFamily: "system-ui, sans-serif", fontSize: "11px", color: "#222", background: "white" };

const { document } = parseHTML("<!doctype html><html><body></body></html>");

/**
 * @param {import("./experiment.mjs").Experiment} experiment
 * @param {import("./experiment.mjs").Run[]} runs of one set of values, but for the seed
 */
export function picture(experiment, runs) {
  const charts = experiment.charts(runs[0].values);
  const height = Math.ceil(charts.length / COLUMNS) * (CHART.height + HEAD);
  const placed = charts.map((chart, i) => {
    const x = (i % COLUMNS) * CHART.width;
    const y = Math.floor(i / COLUMNS) * (CHART.height + HEAD);
    const data = Object.fromEntries(chart.series.map(({ id }) => [id, runs.map((run) => run.charts[chart.id][id])]));
    return `<g transform="translate(${x} ${y})">${head(chart)}${drawn(chart, data)}</g>`;
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}"`,
    ` font-family="system-ui, sans-serif" fill="#222" role="img" aria-label="${escaped(experiment.title)}">`,
    `<rect width="100%" height="100%" fill="white"/>`,
    ...placed,
    `</svg>\n`,
  ].join("\n");
}

const escaped = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
const colorOf = ({ color }) => PALETTE.light[color % PALETTE.light.length];

function head({ title, series, kind }) {
  const entries = kind === "map" || series.length === 1 ? [] : series;
  let at = 12;
  const legend = entries.map((s) => {
    const x = at;
    at += 26 + 5.6 * s.label.length;
    const dash = s.dash ? ` stroke-dasharray="4 3"` : "";
    return (
      `<path d="M${x},36h14" stroke="${colorOf(s)}" stroke-width="2.5"${dash}/>` +
      `<text x="${x + 18}" y="40" font-size="10.5">${escaped(s.label)}</text>`
    );
  });
  // too many for one line: what they are stands in the text
  const shown = at < CHART.width ? legend : [];
  return `<text x="12" y="20" font-size="13" font-weight="600">${escaped(title)}</text>${shown.join("")}`;
}

function drawn(chart, data) {
  const marks = MARKS[chart.kind](chart, data);
  const axis = ({ label, log, range }) => ({
    ...{ label, labelArrow: "none", grid: true },
    ...(log ? { type: "log", tickFormat: ".0~e" } : {}),
    ...(range ? { domain: range } : {}),
  });
  const svg = Plot.plot({
    ...{ document, ...CHART, style: STYLE, marginLeft: 52, marginRight: 14, marginBottom: 38, marginTop: 16 },
    x: { ...axis(chart.x), labelAnchor: "center", ...(chart.x.log ? { tickFormat: "~g", ticks: 6 } : {}) },
    y: { ...axis(chart.y), ticks: 5 },
    marks: [Plot.frame({ stroke: "#ccc" }), ...marks],
  });
  svg.setAttribute("y", HEAD);
  return svg.outerHTML;
}

/** For every x that occurs, the mean and the standard deviation of every column over the runs that have it. */
function overRuns(runs, { y: { log } }) {
  const byX = new Map();
  for (const points of runs)
    for (const [x, ...ys] of points)
      if (ys.every((y) => Number.isFinite(y) && (!log || y > 0))) byX.set(x, [...(byX.get(x) ?? []), ys]);
  return [...byX]
    .sort(([a], [b]) => a - b)
    .map(([x, rows]) => {
      const columns = rows[0].map((_, i) => rows.map((row) => row[i]));
      const center = columns.map(mean);
      const spread = rows.length > 1 ? standardDeviation(columns[0]) : 0;
      const low = center[0] - spread;
      return { x, ys: center, low: log ? Math.max(low, center[0] / 10) : low, high: center[0] + spread };
    });
}

const MARKS = {
  lines: (chart, data) =>
    chart.series.flatMap((series) => {
      const points = overRuns(data[series.id], chart);
      const stroke = { stroke: colorOf(series), strokeWidth: 1.75, ...(series.dash && { strokeDasharray: "4 3" }) };
      const band = { x: "x", y1: "low", y2: "high", fill: colorOf(series), fillOpacity: 0.15 };
      return [Plot.areaY(points, band), Plot.line(points, { x: "x", y: (p) => p.ys[0], ...stroke })];
    }),
  bands: (chart, data) =>
    chart.series.flatMap((series) => {
      const points = overRuns(data[series.id], chart);
      const fill = { fill: colorOf(series), fillOpacity: 0.2 };
      return [
        Plot.areaY(points, { x: "x", y1: (p) => p.ys[0], y2: (p) => p.ys[2], ...fill }),
        Plot.line(points, { x: "x", y: (p) => p.ys[1], stroke: colorOf(series), strokeWidth: 1.75 }),
      ];
    }),
  histogram: (chart, data) =>
    chart.series.flatMap((series) => {
      const [{ edges }] = data[series.id];
      const bins = edges.slice(1).map((to, i) => ({
        ...{ from: edges[i], to },
        share: mean(data[series.id].map(({ shares }) => shares[i])),
      }));
      const steps = bins.flatMap(({ from, to, share }) => [
        { x: from, y: share },
        { x: to, y: share },
      ]);
      const stroke = { stroke: colorOf(series), strokeWidth: 1.5 };
      return [
        Plot.areaY(steps, { x: "x", y: "y", fill: colorOf(series), fillOpacity: 0.2 }),
        Plot.line(steps, { x: "x", y: "y", ...stroke }),
      ];
    }),
  // of the first seed: boundaries have no mean
  map: (chart, data) => {
    const [{ from, to, size, values, points }] = data[chart.series[0].id];
    const area = { x1: from, y1: from, x2: to, y2: to, width: size, height: size };
    return [
      Plot.contour(values, { ...area, thresholds: [0.5], fill: (v) => v, fillOpacity: 0.25, interval: 0.5 }),
      Plot.dot(points, { x: "0", y: "1", fill: ([, , label]) => PALETTE.light[label], r: 1.6 }),
    ];
  },
};
