// One chart of the page: its figure with title, legend and hint, and what draws its data.

import uPlot from "uplot";
import { styleOf } from "../palette.mjs";
import { labelled, logLabel, logRange, ruled } from "./log-axis.mjs";

const HEIGHT = 260;

const dark = matchMedia("(prefers-color-scheme: dark)");

/** "light" or "dark", as the page is now. */
export const scheme = () => (dark.matches ? "dark" : "light");

/** Calls back when the scheme changes. */
export const onScheme = (listener) => dark.addEventListener("change", listener);

export const cssColor = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const element = (tag, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};

/** A line as it looks in the chart. */
function swatch(series) {
  const { stroke, dash } = styleOf(series, scheme());
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  for (const [name, value] of Object.entries({ width: 26, height: 8, "aria-hidden": "true" }))
    svg.setAttribute(name, value);
  for (const [name, value] of Object.entries({
    d: "M0 4h26",
    stroke,
    "stroke-width": 2.5,
    "stroke-dasharray": dash.join(" "),
  }))
    path.setAttribute(name, value);
  svg.append(path);
  return svg;
}

/** What uPlot can draw: gaps for what is no number, or has no place on a logarithmic axis. */
const drawable = (value, { log }) => (Number.isFinite(value) && (!log || value > 0) ? value : null);

/** Columns of numbers for uPlot, and how each column is drawn. */
const PLOTS = {
  lines: ({ series, y }, data) => ({
    columns: uPlot.join(
      series.map(({ id }) => [data[id].map(([x]) => x), data[id].map(([, value]) => drawable(value, y))]),
    ),
    drawn: (style) =>
      series.map((s) => ({ label: s.label, width: 2, spanGaps: false, points: { show: false }, ...style(s) })),
  }),
  bands: ({ series: [series], y }, data) => {
    const points = data[series.id];
    const column = (i) => points.map((point) => drawable(point[i], y));
    return {
      columns: [points.map(([x]) => x), column(1), column(2), column(3)],
      drawn: (style) =>
        ["low", "middle", "high"].map((label, i) => ({
          ...{ label, points: { show: false }, ...style(series), width: i === 1 ? 2 : 1, dash: [] },
        })),
      bands: (style) => [{ series: [3, 1], fill: `${style(series).stroke}33` }],
    };
  },
  histogram: ({ series }, data) => {
    const there = series.filter(({ id }) => data[id].shares);
    return {
      columns: [
        data[there[0].id].edges,
        ...series.map(({ id }) =>
          data[id].shares ? [...data[id].shares, data[id].shares.at(-1)] : data[there[0].id].edges.map(() => null),
        ),
      ],
      drawn: (style) =>
        series.map((s) => ({
          ...{ label: s.label, width: 2, points: { show: false }, paths: uPlot.paths.stepped({ align: 1 }) },
          ...{ ...style(s), fill: `${style(s).stroke}22` },
        })),
    };
  },
};

/** Points, or what has taken the place of an empty list of them. */
const hasData = ({ series }, data) => series.some(({ id }) => !Array.isArray(data[id]) || data[id].length > 0);

export class Chart {
  /** The last thing drawn, for those who save it. */
  canvas;
  #plot;
  #place;

  /** @param {import("../experiment.mjs").Chart} chart */
  constructor(chart) {
    this.chart = chart;
    this.#place = element("div", { className: chart.kind === "map" ? "plot map" : "plot" });
    this.#place.append(element("p", { className: "empty", textContent: "Nothing yet" }));
    const legend = chart.series.map((s) => element("li", {}, swatch(s), s.label));
    this.figure = element(
      "figure",
      {},
      element("figcaption", { textContent: chart.title }),
      ...(chart.series.length > 1 ? [element("ul", { className: "legend" }, ...legend)] : []),
      this.#place,
      element("p", { className: "hint", textContent: chart.hint }),
    );
    this.figure.dataset.chart = chart.id;
    this.resized = new ResizeObserver(() => this.#plot?.setSize({ width: this.#place.clientWidth, height: HEIGHT }));
    this.resized.observe(this.#place);
  }

  dispose() {
    this.resized.disconnect();
    this.#plot?.destroy();
    this.figure.remove();
  }

  /** @param {Record<string, any>} data of the chart's series */
  draw(data) {
    if (!hasData(this.chart, data)) return;
    if (this.chart.kind === "map") this.#drawMap(data[this.chart.series[0].id]);
    else this.#drawPlot(data);
  }

  #drawPlot(data) {
    const { columns, drawn, bands } = PLOTS[this.chart.kind](this.chart, data);
    if (this.#plot) {
      this.#plot.setData(columns);
      return;
    }
    const { x, y } = this.chart;
    const style = (series) => styleOf(series, scheme());
    const line = { stroke: cssColor("--grid"), width: 1 };
    const axis = ({ label, log }) => {
      const lines = { ...line, ...(log && { filter: (_, marks) => ruled(marks) }) };
      return {
        ...(log && { filter: (_, marks) => labelled(marks), values: (_, marks) => marks.map(logLabel) }),
        ...{ stroke: cssColor("--muted"), label, labelSize: 22, labelFont: "11px system-ui", font: "11px system-ui" },
        ...{ grid: lines, ticks: lines },
      };
    };
    const scale = ({ log, range }) => ({
      time: false,
      ...(log && { distr: 3, range: (_, min, max) => logRange(min, max) }),
      ...(range && { range }),
    });
    this.#place.replaceChildren();
    this.#plot = new uPlot(
      {
        ...{ width: this.#place.clientWidth, height: HEIGHT, legend: { show: false }, cursor: { show: false } },
        ...{
          scales: { x: scale(x), y: scale(y) },
          axes: [
            { ...axis(x), size: 34 },
            { ...axis(y), size: 52 },
          ],
        },
        series: [{}, ...drawn(style)],
        ...(bands && { bands: bands(style) }),
      },
      columns,
      this.#place,
    );
    this.canvas = this.#plot.ctx.canvas;
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", `${this.chart.title}: ${this.chart.series.map((s) => s.label).join(", ")}`);
  }

  #drawMap({ from, to, size, values, points }) {
    const cell = 8;
    const side = size * cell;
    if (!this.canvas) {
      this.canvas = element("canvas", { width: side, height: side });
      this.canvas.setAttribute("role", "img");
      this.#place.replaceChildren(this.canvas);
    }
    const context = this.canvas.getContext("2d");
    const [first, second] = [0, 1].map((color) => styleOf({ color }, scheme()).stroke);
    context.fillStyle = cssColor("--surface");
    context.fillRect(0, 0, side, side);
    for (const [i, value] of values.entries()) {
      context.globalAlpha = Number.isFinite(value) ? 0.1 + 0.5 * Math.abs(value - 0.5) : 0;
      context.fillStyle = value < 0.5 ? first : second;
      context.fillRect((i % size) * cell, side - (Math.floor(i / size) + 1) * cell, cell, cell);
    }
    context.globalAlpha = 1;
    const at = (value) => ((value - from) / (to - from)) * side;
    for (const [x, y, label] of points) {
      context.strokeStyle = context.fillStyle = label ? second : first;
      context.beginPath();
      // shapes tell the classes apart, too
      if (label) context.rect(at(x) - 2.5, side - at(y) - 2.5, 5, 5);
      else context.arc(at(x), side - at(y), 3, 0, 2 * Math.PI);
      context.fill();
    }
    const share = (100 * values.filter((value) => value >= 0.5).length) / values.length;
    this.canvas.setAttribute(
      "aria-label",
      `${this.chart.title}: ${share.toFixed(0)} % of the square belong to the squares, the rest to the circles`,
    );
  }
}
