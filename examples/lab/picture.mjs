// The charts of an experiment as one SVG that stands on its own: means over seeds, and the standard deviation as a band.

import * as Plot from "@observablehq/plot";
import { parseHTML } from "linkedom";
import { mean, standardDeviation } from "simple-statistics";
import { legendOf, NAMED_LINES, PALETTE, PICTURE_STYLE, SHADES, SWATCH, styleOf } from "./palette.mjs";

const WIDTH = 960;
const COLUMNS = 2;
const CHART = { width: WIDTH / COLUMNS, height: 270 };
const HEAD = 74;
const STYLE = {
  fontFamily: "system-ui, sans-serif",
  fontSize: "11px",
  color: "var(--text)",
  background: "var(--background)",
};

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
    ` font-family="system-ui, sans-serif" fill="var(--text)" role="img" aria-label="${escaped(experiment.title)}">`,
    PICTURE_STYLE,
    `<rect width="100%" height="100%" fill="var(--background)"/>`,
    ...placed,
    `</svg>\n`,
  ].join("\n");
}

const escaped = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

/** The stroke of a line, and its colour. */
function strokeOf(series) {
  const { stroke, dash } = styleOf(series, "picture");
  return { stroke, ...(dash.length && { strokeDasharray: dash.join(" ") }) };
}
const colorOf = (series) => strokeOf(series).stroke;

const LINE = 15;

/** Width of a text in 10.5 px, nearly. */
const widthOf = (text) => 5.7 * text.length;

/** Title and legend, in as many lines as it takes. */
function head(chart) {
  let [x, y] = [12, 38];
  const legend = legendOf(chart, "picture");
  const entries = legend.map(({ label, path, stroke, dash = [], fill = "none", alpha = 1 }) => {
    const width = SWATCH.width + 8 + widthOf(label);
    if (x > 12 && x + width > CHART.width) [x, y] = [12, y + LINE];
    const line = stroke ? ` stroke="${stroke}" stroke-width="2.5" stroke-dasharray="${dash.join(" ")}"` : "";
    const entry =
      `<path transform="translate(${x} ${y - 9})" d="${path}" fill="${fill}" fill-opacity="${alpha}"${line}/>` +
      `<text x="${x + SWATCH.width + 5}" y="${y}" font-size="10.5">${escaped(label)}</text>`;
    x += width + 8;
    return entry;
  });
  const heading = `<text x="12" y="20" font-size="13" font-weight="600">${escaped(chart.title)}</text>`;
  return { svg: heading + entries.join(""), height: (entries.length ? y : 20) + 6 };
}

/** The names of lines at their ends, as far apart as text needs. */
function namesAtEnds({ series }, data, svg) {
  const at = series
    .flatMap((s) => {
      const end = data[s.id].at(-1);
      return end ? [{ s, x: svg.scale("x").apply(end.x), y: svg.scale("y").apply(end.ys[0]) }] : [];
    })
    .sort((a, b) => a.y - b.y);
  for (const [i, label] of at.entries()) if (i > 0) label.y = Math.max(label.y, at[i - 1].y + 11);
  const over = Math.max(0, (at.at(-1)?.y ?? 0) - (CHART.height - 40));
  return at
    .map(({ s, x, y }) => {
      const text = `<text x="${x + 4}" y="${y - over + 3.5}" font-size="10" fill="${colorOf(s)}">`;
      return `${text}${escaped(s.label)}</text>`;
    })
    .join("");
}

function drawn(chart, data, top) {
  const marks = MARKS[chart.kind](chart, data);
  const named = chart.kind === "lines" && chart.series.length >= NAMED_LINES;
  const marginRight = named ? 26 + Math.max(...chart.series.map((s) => widthOf(s.label))) : 22;
  const axis = ({ label, log, range }) => ({
    ...{ label, labelArrow: "none", grid: true },
    ...(log ? { type: "log", tickFormat: "~g" } : {}),
    ...(range ? { domain: range } : {}),
  });
  const svg = Plot.plot({
    ...{ document, ...CHART, style: STYLE, marginLeft: 52, marginRight, marginBottom: 38, marginTop: 16 },
    x: { ...axis(chart.x), labelAnchor: "center", ticks: 6 },
    y: { ...axis(chart.y), ticks: 5 },
    marks: [Plot.frame({ stroke: "var(--frame)" }), ...marks],
  });
  const names = named
    ? namesAtEnds(chart, Object.fromEntries(chart.series.map(({ id }) => [id, overRuns(data[id], chart)])), svg)
    : "";
  svg.setAttribute("y", top);
  return `${svg.outerHTML}<g transform="translate(0 ${top})">${names}</g>`;
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
      const fillOpacity = chart.series.length >= NAMED_LINES ? 0.06 : 0.15; // many bands lie upon each other
      const band = { x: "x", y1: "low", y2: "high", fill: colorOf(series), fillOpacity };
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
    const points0 = points.filter(([, , label]) => label === 0);
    const points1 = points.filter(([, , label]) => label === 1);
    return [
      // each shade covers the one below it, over the background, so that shades do not add up
      ...SHADES.flatMap(({ from: least, color, alpha }) =>
        least === 0
          ? [Plot.rect([0], { x1: from, x2: to, y1: from, y2: to, fill: PALETTE.picture[color], fillOpacity: alpha })]
          : ["var(--background)", PALETTE.picture[color]].map((fill, i) =>
              Plot.contour(values, { ...area, thresholds: [least], fill, fillOpacity: i === 0 ? 1 : alpha }),
            ),
      ),
      Plot.dot(points0, { x: "0", y: "1", fill: PALETTE.picture[0], r: 1.8 }),
      Plot.dot(points1, { x: "0", y: "1", fill: PALETTE.picture[1], symbol: "square", r: 1.8 }),
    ];
  },
};
