// The charts of an experiment as one SVG that stands on its own: means over seeds, and the standard deviation as a band.

import * as Plot from "@observablehq/plot";
import { parseHTML } from "linkedom";
import { mean, standardDeviation } from "simple-statistics";
import { PALETTE, styleOf } from "./palette.mjs";

const WIDTH = 960;
const COLUMNS = 2;
const CHART = { width: WIDTH / COLUMNS, height: 270 };
const HEAD = 74;
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
    const { svg, height } = head(chart);
    return `<g transform="translate(${x} ${y})">${svg}${drawn(chart, data, height)}</g>`;
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

/** The stroke of a line, and its colour. */
function strokeOf(series) {
  const { stroke, dash } = styleOf(series, "light");
  return { stroke, ...(dash.length && { strokeDasharray: dash.join(" ") }) };
}
const colorOf = (series) => strokeOf(series).stroke;

const LINE = 15;

/** Title and legend, in as many lines as it takes. */
function head({ title, series, kind }) {
  let [x, y] = [12, 38];
  const entries = (kind === "map" || series.length === 1 ? [] : series).map((s) => {
    const width = 34 + 5.7 * s.label.length;
    if (x > 12 && x + width > CHART.width) [x, y] = [12, y + LINE];
    const { stroke, strokeDasharray } = strokeOf(s);
    const dash = strokeDasharray ? ` stroke-dasharray="${strokeDasharray}"` : "";
    const entry =
      `<path d="M${x},${y - 4}h22" stroke="${stroke}" stroke-width="2.5"${dash}/>` +
      `<text x="${x + 27}" y="${y}" font-size="10.5">${escaped(s.label)}</text>`;
    x += width + 8;
    return entry;
  });
  const heading = `<text x="12" y="20" font-size="13" font-weight="600">${escaped(title)}</text>`;
  return { svg: heading + entries.join(""), height: (entries.length ? y : 20) + 6 };
}

function drawn(chart, data, top) {
  const marks = MARKS[chart.kind](chart, data);
  const axis = ({ label, log, range }) => ({
    ...{ label, labelArrow: "none", grid: true },
    ...(log ? { type: "log", tickFormat: "~g" } : {}),
    ...(range ? { domain: range } : {}),
  });
  const svg = Plot.plot({
    ...{ document, ...CHART, style: STYLE, marginLeft: 52, marginRight: 22, marginBottom: 38, marginTop: 16 },
    x: { ...axis(chart.x), labelAnchor: "center", ticks: 6 },
    y: { ...axis(chart.y), ticks: 5 },
    marks: [Plot.frame({ stroke: "#ccc" }), ...marks],
  });
  svg.setAttribute("y", top);
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
      const stroke = { ...strokeOf(series), strokeWidth: 1.75 };
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
      return [
        Plot.rectY(bins, { x1: "from", x2: "to", y: "share", fill: colorOf(series), fillOpacity: 0.15, inset: 0 }),
        Plot.line(steps, { x: "x", y: "y", ...strokeOf(series), strokeWidth: 1.5 }),
      ];
    }),
  // of the first seed: boundaries have no mean
  map: (chart, data) => {
    const [{ from, to, size, values, points }] = data[chart.series[0].id];
    const area = { x1: from, y1: from, x2: to, y2: to, width: size, height: size };
    return [
      Plot.rect([0], { x1: from, x2: to, y1: from, y2: to, fill: PALETTE.light[0], fillOpacity: 0.18 }),
      Plot.contour(values, { ...area, thresholds: [0.5], fill: "white" }),
      Plot.contour(values, { ...area, thresholds: [0.5], fill: PALETTE.light[1], fillOpacity: 0.22 }),
      Plot.dot(points, { x: "0", y: "1", fill: ([, , label]) => PALETTE.light[label], r: 1.6 }),
    ];
  },
};
