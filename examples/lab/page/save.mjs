// What a user takes away of an experiment: its data as JSON, its charts as one picture.

import { legendOf, SWATCH } from "../palette.mjs";

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
const CHART = (WIDTH - (COLUMNS + 1) * MARGIN) / COLUMNS;

const TITLE = { font: "600 26px system-ui", line: 48 };
const SETTINGS = { font: "15px system-ui", line: 22, gap: 16 };
const CAPTION = { font: "600 17px system-ui", line: 26 };
const LEGEND = { font: "13px system-ui", line: 20, gap: 16, space: 6 };

/**
 * Lines of things side by side, `gap` apart, of which none is wider than `room` unless one thing alone is.
 *
 * @template T
 * @param {T[]} things
 * @param {(thing: T) => number} widthOf
 * @returns {{ thing: T, x: number }[][]}
 */
export function wrap(things, widthOf, gap, room) {
  const lines = [];
  let x = Number.POSITIVE_INFINITY;
  for (const thing of things) {
    const width = widthOf(thing);
    if (x + width > room) {
      x = 0;
      lines.push([]);
    }
    lines.at(-1).push({ thing, x });
    x += width + gap;
  }
  return lines;
}

/**
 * All charts that have something to show, with title, settings and legends.
 *
 * @returns {Promise<Blob>} PNG
 */
export function toPng({ experiment, values, charts, scheme, colors }) {
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d");
  const widthOf = (value, { font }) => Object.assign(context, { font }).measureText(value).width;
  const text = (value, x, y, { font }, fillStyle) => Object.assign(context, { font, fillStyle }).fillText(value, x, y);

  const settings = wrap(
    experiment.controls.map(({ id, label }) => `${label.toLowerCase()} ${values[id]}`),
    (setting) => widthOf(setting, SETTINGS),
    SETTINGS.gap,
    WIDTH - 2 * MARGIN,
  );
  const shown = charts
    .filter((chart) => chart.canvas)
    .map(({ chart, canvas }) => ({
      ...{ title: chart.title, image: canvas, height: (CHART * canvas.height) / canvas.width },
      legend: wrap(
        legendOf(chart, scheme),
        ({ label }) => SWATCH.width + LEGEND.space + widthOf(label, LEGEND),
        LEGEND.gap,
        CHART,
      ),
    }));
  const rows = [];
  for (let i = 0; i < shown.length; i += COLUMNS) {
    const cells = shown.slice(i, i + COLUMNS);
    // charts side by side begin at the same height
    const head = CAPTION.line + LEGEND.line * Math.max(...cells.map(({ legend }) => legend.length));
    rows.push({ cells, head, height: head + Math.max(...cells.map(({ height }) => height)) + MARGIN });
  }
  const top = MARGIN + TITLE.line + SETTINGS.line * settings.length;

  // a canvas that gets a size forgets what it was told
  canvas.width = WIDTH;
  canvas.height = Math.ceil(top + rows.reduce((sum, { height }) => sum + height, 0));
  context.fillStyle = colors.background;
  context.fillRect(0, 0, canvas.width, canvas.height);
  text(experiment.title, MARGIN, TITLE.line, TITLE, colors.text);
  for (const [i, line] of settings.entries())
    for (const { thing, x } of line)
      text(thing, MARGIN + x, TITLE.line + SETTINGS.line * (i + 1) + 6, SETTINGS, colors.muted);
  let y = top;
  for (const { cells, head, height } of rows) {
    for (const [k, cell] of cells.entries()) {
      const left = MARGIN + k * (CHART + MARGIN);
      text(cell.title, left, y + 16, CAPTION, colors.text);
      for (const [i, line] of cell.legend.entries())
        for (const { thing, x } of line) entry(thing, left + x, y + CAPTION.line + LEGEND.line * i + 12);
      context.drawImage(cell.image, left, y + head, CHART, cell.height);
    }
    y += height;
  }

  /** One entry of a legend. */
  function entry({ label, path, stroke, dash = [], fill, alpha = 1 }, x, y) {
    context.save();
    context.translate(x, y - SWATCH.height + 1);
    if (fill) Object.assign(context, { fillStyle: fill, globalAlpha: alpha }).fill(new Path2D(path));
    if (stroke) {
      Object.assign(context, { strokeStyle: stroke, lineWidth: 2.5 }).setLineDash(dash);
      context.stroke(new Path2D(path));
    }
    context.restore();
    text(label, x + SWATCH.width + LEGEND.space, y, LEGEND, colors.text);
  }

  return new Promise((resolve, reject) =>
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("the browser made no picture"))), "image/png"),
  );
}

/** Has the browser save a file. */
export function download(name, blob) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
