// From results to charts by Observable Plot, as SVG elements of a given document: linkedom's in Node, the browser's own.

import * as Plot from "@observablehq/plot";
import { OURS } from "./run.mjs";
import { sizeOf, titleOf } from "./shapes.mjs";
import { digits, newestPytorch, OPERATIONS } from "./tables.mjs";

const WIDTH = 1000;
const STYLE = { fontFamily: "system-ui, sans-serif", fontSize: "12px", color: "#222", background: "white" };
// Okabe and Ito's colours, which colour-blind readers can tell apart: ours, others, the floor, what is wrong.
const [BLUE, ORANGE, GREEN, VERMILION, GREY] = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#888"];

const plot = (document, options) => Plot.plot({ document, width: WIDTH, style: STYLE, ...options });
const worded = (operation) => OPERATIONS[operation];
const measured = ({ rows }) => rows.filter(({ ms }) => ms);

/** Time of every peer on one shape, by operation; the line is the copy. */
export function timeChart(entry, document) {
  const nameOf = ({ peer, layout }) => (layout === entry.layout ? peer : `${peer}, ${layout.replace("-", " ")}`);
  const rows = measured(entry)
    .filter(({ operation }) => operation !== "copy")
    .map((row) => ({ ...row, operation: worded(row.operation), name: nameOf(row) }));
  const floor = measured(entry).find(({ operation }) => operation === "copy");
  const color = ({ peer, wrong }) => (wrong ? VERMILION : peer.startsWith("batchnorm-wasm") ? BLUE : ORANGE);
  const names = [...new Set(rows.map(({ name }) => name))];
  const facets = Object.values(OPERATIONS).slice(1);
  return plot(document, {
    height: 22 * names.length + 60,
    marginLeft: 215,
    marginRight: 50,
    x: { type: "log", label: "ms", grid: true, ticks: 3, tickFormat: "~g", inset: 6 },
    y: { domain: names, label: null },
    fx: { domain: facets, label: null },
    marks: [
      Plot.frame({ stroke: "#ccc" }),
      floor ? Plot.ruleX(facets, { fx: (operation) => operation, x: floor.ms, stroke: GREY }) : null,
      Plot.dot(rows, { fx: "operation", x: "ms", y: "name", fill: color, r: 3.5 }),
      Plot.text(rows, {
        ...{ fx: "operation", x: "ms", y: "name", dx: 7, textAnchor: "start", fontSize: 10 },
        text: ({ ms, wrong }) => `${digits(ms)}${wrong ? " wrong" : ""}`,
      }),
    ],
  });
}

/** Throughput on every shape; the tick is the copy's. */
export function throughputChart(entries, document) {
  const peers = [OURS, "plain JavaScript", newestPytorch(entries[0])].filter(Boolean);
  const facets = ["inference", "forward", "backward"].map(worded);
  const points = entries.flatMap((entry) =>
    measured(entry)
      .filter(({ peer, layout, wrong }) => peers.includes(peer) && layout === entry.layout && !wrong)
      .map(({ operation, peer, gbps }) => ({ shape: titleOf(entry), operation: worded(operation), peer, gbps })),
  );
  const roofs = entries.flatMap((entry) => {
    const floor = measured(entry).find(({ operation }) => operation === "copy");
    return floor ? facets.map((operation) => ({ shape: titleOf(entry), operation, gbps: floor.gbps })) : [];
  });
  return plot(document, {
    height: 30 * entries.length + 70,
    marginLeft: 215,
    x: { type: "log", label: "GB/s", grid: true, ticks: 4, tickFormat: "~g" },
    y: { domain: entries.map(titleOf), label: null },
    fx: { domain: facets, label: null },
    color: { legend: true, domain: [...peers, "copy"], range: [BLUE, ORANGE, GREEN, GREY].slice(-peers.length - 1) },
    marks: [
      Plot.frame({ stroke: "#ccc" }),
      Plot.tickX(roofs, { fx: "operation", x: "gbps", y: "shape", stroke: GREY, strokeWidth: 2.5 }),
      Plot.dot(
        points.filter(({ operation }) => facets.includes(operation)),
        { fx: "operation", x: "gbps", y: "shape", fill: "peer", r: 4 },
      ),
    ],
  });
}

/** One step of a network: the sum over its batch norms. */
export function networkChart({ totals }, document) {
  const bars = totals.filter(({ ms }) => ms).map((t) => ({ ...t, name: `${t.peer}, ${t.layout.replace("-", " ")}` }));
  return plot(document, {
    height: 24 * bars.length + 50,
    marginLeft: 270,
    marginRight: 60,
    x: { type: "log", label: "ms", grid: true, ticks: 5, tickFormat: "~g", inset: 6 },
    y: { domain: bars.map(({ name }) => name), label: null },
    marks: [
      Plot.dot(bars, {
        x: "ms",
        y: "name",
        r: 4,
        fill: ({ peer }) => (peer === OURS ? BLUE : peer === "copy" ? GREY : ORANGE),
      }),
      Plot.text(bars, { x: "ms", y: "name", dx: 8, textAnchor: "start", text: ({ ms }) => digits(ms) }),
    ],
  });
}

/** Cost per element over the size of the tensor, by operation and layout. */
export function costChart(entries, document) {
  const points = entries.flatMap((entry) =>
    measured(entry).map(({ operation, ms }) => ({
      ...{ elements: sizeOf(entry), layout: entry.layout.replace("-", " ") },
      ...{ operation: worded(operation), cost: (1e6 * ms) / sizeOf(entry) },
    })),
  );
  const color = {
    legend: true,
    domain: ["copy", "inference", "training forward", "backward"],
    range: [GREY, GREEN, BLUE, ORANGE],
  };
  const channels = { fx: "layout", x: "elements", y: "cost", stroke: "operation" };
  return plot(document, {
    height: 340,
    marginLeft: 50,
    x: { type: "log", grid: true, label: "elements", tickFormat: "~s" },
    y: { type: "log", grid: true, label: "ns per element", tickFormat: "~g" },
    fx: { label: null },
    color,
    marks: [Plot.frame({ stroke: "#ccc" }), Plot.line(points, channels), Plot.dot(points, { ...channels, r: 2 })],
  });
}

/** How many times as fast as with one thread; ours, without native code. The dashed line is as many times as there are threads. */
export function threadChart(variants, document) {
  const threads = variants.filter((v) => typeof v.threads === "number");
  const one = (v) => threads.find((o) => o.threads === 1 && titleOf(o) === titleOf(v) && o.operation === v.operation);
  const points = threads.map((v) => ({
    ...{ shape: titleOf(v), operation: worded(v.operation), threads: v.threads, speedup: one(v).ms / v.ms },
  }));
  const most = Math.max(...threads.map((v) => v.threads));
  const channels = { fx: "shape", x: "threads", y: "speedup", stroke: "operation" };
  return plot(document, {
    height: 320,
    marginLeft: 50,
    x: { domain: [1, most], ticks: most - 1, tickFormat: "d", label: "threads" },
    y: { domain: [0, most], grid: true, label: "times as fast as one thread" },
    fx: { label: null },
    color: { legend: true, domain: ["inference", "training forward", "backward"], range: [GREEN, BLUE, ORANGE] },
    marks: [
      Plot.frame({ stroke: "#ccc" }),
      Plot.line(
        [
          [1, 1],
          [most, most],
        ],
        { stroke: GREY, strokeDasharray: "4" },
      ),
      Plot.line(points, channels),
      Plot.dot(points, { ...channels, r: 3 }),
    ],
  });
}
