// One chart of the page: its figure with title, legend and hint, and what draws its data.

import uPlot from "uplot";
import { legendOf, NAMED_LINES, PALETTE, SWATCH, shadeOf, styleOf } from "../palette.mjs";
import { labelled, logLabel, logRange, ruled } from "./log-axis.mjs";

const HEIGHT = 260;

const dark = matchMedia("(prefers-color-scheme: dark)");

/** "light" or "dark", as the page is now. */
export const scheme = () => (dark.matches ? "dark" : "light");

/** Calls back when the scheme changes. */
export const onScheme = (listener) => dark.addEventListener("change", listener);

export const cssColor = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** How the lab's page looks; a page that has a switch of its own gives its charts another one. */
const SYSTEM = { scheme, color: cssColor };

const element = (tag, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};

/** What stands before a label of a legend: a line, a symbol, a shade. */
function swatch({ path: d, stroke = "none", dash = [], fill = "none", alpha = 1 }) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  for (const [name, value] of Object.entries({ ...SWATCH, "aria-hidden": "true" })) svg.setAttribute(name, value);
  const line = { stroke, "stroke-width": 2.5, "stroke-dasharray": dash.join(" ") };
  for (const [name, value] of Object.entries({ d, fill, "fill-opacity": alpha, ...line }))
    path.setAttribute(name, value);
  svg.append(path);
  return svg;
}

const NAME = { font: "11px system-ui", gap: 5, line: 12 };

/** What draws the names of lines at their ends, and the room that they take on the right. */
function namesAtEnds({ series }, style) {
  const room = NAME.gap + 6.2 * Math.max(...series.map(({ label }) => label.length));
  const draw = ({ ctx, data, valToPos }) => {
    const ratio = devicePixelRatio;
    const at = series
      .flatMap((s, i) => {
        const end = data[i + 1].findLastIndex((y) => y !== null && y !== undefined);
        return end < 0 ? [] : [{ s, x: valToPos(data[0][end], "x", true), y: valToPos(data[i + 1][end], "y", true) }];
      })
      .sort((a, b) => a.y - b.y);
    ctx.save();
    ctx.font = NAME.font.replace("11px", `${11 * ratio}px`);
    ctx.textBaseline = "middle";
    for (const [k, label] of at.entries()) {
      if (k > 0) label.y = Math.max(label.y, at[k - 1].y + NAME.line * ratio);
      ctx.fillStyle = style(label.s).stroke;
      ctx.fillText(label.s.label, label.x + NAME.gap * ratio, label.y);
    }
    ctx.restore();
  };
  return { room, draw };
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
  #theme;

  /**
   * @param {import("../experiment.mjs").Chart} chart
   * @param {{ scheme: () => "light" | "dark", color: (name: "--grid" | "--muted" | "--surface") => string }} theme
   */
  constructor(chart, theme = SYSTEM) {
    this.chart = chart;
    this.#theme = theme;
    this.#place = element("div", { className: chart.kind === "map" ? "plot map" : "plot" });
    this.#place.append(element("p", { className: "empty", textContent: "Nothing yet" }));
    const legend = legendOf(chart, theme.scheme()).map((entry) => element("li", {}, swatch(entry), entry.label));
    this.figure = element(
      "figure",
      {},
      element("figcaption", { textContent: chart.title }),
      ...(legend.length ? [element("ul", { className: "legend" }, ...legend)] : []),
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
    const style = (series) => styleOf(series, this.#theme.scheme());
    const line = { stroke: this.#theme.color("--grid"), width: 1 };
    const axis = ({ label, log }) => {
      const lines = { ...line, ...(log && { filter: (_, marks) => ruled(marks) }) };
      return {
        ...(log && { filter: (_, marks) => labelled(marks), values: (_, marks) => marks.map(logLabel) }),
        ...{
          stroke: this.#theme.color("--muted"),
          label,
          labelSize: 22,
          labelFont: "11px system-ui",
          font: "11px system-ui",
        },
        ...{ grid: lines, ticks: lines },
      };
    };
    const scale = ({ log, range }) => ({
      time: false,
      ...(log && { distr: 3, range: (_, min, max) => logRange(min, max) }),
      ...(range && { range }),
    });
    const named =
      this.chart.kind === "lines" && this.chart.series.length >= NAMED_LINES
        ? namesAtEnds(this.chart, style)
        : undefined;
    this.#place.replaceChildren();
    this.#plot = new uPlot(
      {
        ...(named && { padding: [null, named.room, null, null], hooks: { draw: [named.draw] } }),
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
    const colors = PALETTE[this.#theme.scheme()];
    const [first, second] = colors;
    context.fillStyle = this.#theme.color("--surface");
    context.fillRect(0, 0, side, side);
    for (const [i, value] of values.entries()) {
      const shade = shadeOf(value);
      if (!shade) continue;
      context.globalAlpha = shade.alpha;
      context.fillStyle = colors[shade.color];
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
