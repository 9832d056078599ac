// The picture of docs/results/benchmarks.md, one SVG that stands on its own: how many times as fast as each alternative
// batchnorm-wasm is, by shape and operation.

import * as Plot from "@observablehq/plot";
import { parseHTML } from "linkedom";
import { PALETTE, PICTURE_STYLE } from "../examples/lab/palette.mjs";
import { titleOf } from "./shapes.mjs";
import { OPERATIONS, RIVALS, speedsOf } from "./tables.mjs";

const WIDTH = 960;
const STYLE = { fontFamily: "system-ui, sans-serif", fontSize: "12px", color: "var(--text)", background: "none" };
const SYMBOLS = ["circle", "square", "triangle"];
const HEAD = 78;

const { document } = parseHTML("<!doctype html><html><body></body></html>");

const rivals = Object.keys(RIVALS).map((name, i) => ({ name, symbol: SYMBOLS[i], fill: PALETTE.picture[i] }));

/** One row of symbols with their names. */
const legend = () =>
  Plot.plot({
    ...{ document, width: WIDTH, height: 30, style: STYLE, axis: null, margin: 0 },
    x: { domain: [0, 1], range: [0, WIDTH] },
    y: { domain: [0, 1], range: [30, 0] },
    marks: rivals.flatMap(({ name, symbol, fill }, i) => [
      Plot.dot([[0.03 + 0.17 * i, 0.5]], { symbol, fill, r: 5 }),
      Plot.text([[0.04 + 0.17 * i, 0.5]], { text: () => `against ${name}`, textAnchor: "start" }),
    ]),
  });

/** The picture of some results, of which only the shapes count. */
export function speedPicture(results) {
  const speeds = speedsOf(results);
  const points = speeds.flatMap(({ entry, operation, times }) =>
    Object.entries(times).map(([rival, value]) => ({
      ...{ shape: titleOf(entry), operation: OPERATIONS[operation], rival, times: value },
    })),
  );
  const shapes = [...new Set(points.map(({ shape }) => shape))];
  const facets = [...new Set(points.map(({ operation }) => operation))];
  const height = 27 * shapes.length + 70;
  const chart = Plot.plot({
    ...{ document, width: WIDTH, height, style: STYLE, marginLeft: 205, marginRight: 30, marginBottom: 40 },
    x: {
      type: "log",
      label: "times as fast",
      labelArrow: "none",
      labelAnchor: "center",
      grid: true,
      ticks: 4,
      tickFormat: "~g",
      inset: 8,
    },
    y: { domain: shapes, label: null },
    fx: { domain: facets, label: null },
    marks: [
      Plot.frame({ stroke: "var(--frame)" }),
      Plot.ruleX(facets, { fx: (operation) => operation, x: 1, stroke: "var(--text)", strokeWidth: 1.5 }),
      ...rivals.map(({ name, symbol, fill }) =>
        Plot.dot(
          points.filter(({ rival }) => rival === name),
          { fx: "operation", x: "times", y: "shape", symbol, fill, r: 4.5 },
        ),
      ),
    ],
  });
  const place = (y, svg) => `<g transform="translate(0 ${y})">${svg.outerHTML}</g>`;
  const text = (y, size, words) => `<text x="24" y="${y}" font-size="${size}">${words}</text>`;
  const total = HEAD + height;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${total}" width="${WIDTH}" height="${total}"`,
    ` font-family="system-ui, sans-serif" fill="var(--text)" role="img" aria-label="How many times as fast as each alternative batchnorm-wasm is, by shape and operation">`,
    PICTURE_STYLE,
    `<rect width="100%" height="100%" fill="var(--background)"/>`,
    text(26, 15, `<tspan font-weight="600">How many times as fast batchnorm-wasm is</tspan>`),
    text(
      45,
      12,
      "Tensors, one thread, float32. Right of the line at 1 it is faster than the alternative, left of it slower.",
    ),
    place(50, legend()),
    place(HEAD, chart),
    `</svg>\n`,
  ].join("\n");
}
