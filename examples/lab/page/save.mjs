// What a user takes away of an experiment: its data as JSON, its charts as one picture.

import { styleOf } from "../palette.mjs";

/** The document as text; null for what is no number. */
export const toJson = ({ experiment, values, collected: { charts, facts, done, total }, version, url }) =>
  `${JSON.stringify(
    {
      library: `batchnorm-wasm ${version}`,
      experiment: experiment.id,
      title: experiment.title,
      url,
      values,
      done,
      total,
      facts,
      charts,
    },
    null,
    1,
  )}\n`;

const WIDTH = 1280;
const MARGIN = 32;
const COLUMNS = 2;
const HEAD = 58;
const CHART = (WIDTH - (COLUMNS + 1) * MARGIN) / COLUMNS;

/**
 * All charts that have something to show, with title, settings and legends.
 *
 * @returns {Promise<Blob>} PNG
 */
export function toPng({ experiment, values, charts, scheme, colors }) {
  const shown = charts.filter(({ canvas }) => canvas);
  const heightOf = ({ canvas }) => (CHART * canvas.height) / canvas.width;
  const rows = [];
  for (let i = 0; i < shown.length; i += COLUMNS) rows.push(shown.slice(i, i + COLUMNS));
  const heights = rows.map((row) => Math.max(...row.map(heightOf)) + HEAD + MARGIN);
  const canvas = document.createElement("canvas");
  canvas.width = WIDTH;
  canvas.height = 110 + heights.reduce((a, b) => a + b, 0);
  const context = canvas.getContext("2d");
  const text = (value, x, y, font, color) =>
    Object.assign(context, { font: `${font} system-ui`, fillStyle: color }).fillText(value, x, y);
  context.fillStyle = colors.background;
  context.fillRect(0, 0, canvas.width, canvas.height);
  text(experiment.title, MARGIN, 48, "600 26px", colors.text);
  const settings = experiment.controls.map(({ id, label }) => `${label.toLowerCase()} ${values[id]}`);
  text(settings.join(", "), MARGIN, 78, "15px", colors.muted);
  let top = 110;
  for (const [i, row] of rows.entries()) {
    for (const [k, chart] of row.entries()) {
      const left = MARGIN + k * (CHART + MARGIN);
      text(chart.chart.title, left, top + 16, "600 17px", colors.text);
      legend(context, chart.chart.series, { left, top: top + 38, scheme, text, color: colors.text });
      context.drawImage(chart.canvas, left, top + HEAD, CHART, heightOf(chart));
    }
    top += heights[i];
  }
  return new Promise((resolve, reject) =>
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("the browser made no picture"))), "image/png"),
  );
}

function legend(context, series, { left, top, scheme, text, color }) {
  if (series.length < 2) return;
  const font = series.length > 6 ? 10 : 13;
  let x = left;
  for (const s of series) {
    const { stroke, dash } = styleOf(s, scheme);
    context.save();
    Object.assign(context, { strokeStyle: stroke, lineWidth: 2.5 });
    context.setLineDash(dash);
    context.beginPath();
    context.moveTo(x, top - 4);
    context.lineTo(x + 24, top - 4);
    context.stroke();
    context.restore();
    text(s.label, x + 30, top, `${font}px`, color);
    x += 46 + context.measureText(s.label).width;
  }
}

/** Has the browser save a file. */
export function download(name, blob) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
