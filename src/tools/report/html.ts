// The report of an inspection as one HTML file without scripts: findings, plots by layer as SVG, and the table of layers.
// Texts of the file become text nodes, so that no name of a layer is markup.

import * as Plot from "@observablehq/plot";
import type { DriftReport } from "../drift.ts";
import type { Finding, InspectedLayer, InspectionReport, Severity } from "../inspect.ts";
import type { Range } from "../range.ts";
import {
  COLUMNS,
  DRIFT_COLUMNS,
  DRIFT_NOTES,
  digits,
  driftSummary,
  grouped,
  notCompared,
  notesOn,
  printable,
  summary,
} from "./text.ts";

// Okabe and Ito's blue and vermilion, which colour-blind readers can tell apart, a little lighter so that both stand out on
// white and on black.
const [BLUE, VERMILION] = ["#2f93d6", "#e0701a"];
/** Height of a layer in the plots, in pixels. */
const ROW = 15;
/**
 * The least variance that the logarithmic axis shows. 0 and smaller variances stand at its end: nothing but their distance
 * from epsilon matters.
 */
const LEAST_SHOWN = 1e-9;
/** Characters of a layer's name beside the plots, and the room that they take in pixels. */
const [LABEL, LABEL_ROOM] = [30, 195];

// system colours follow the reader's choice of light or dark
const STYLE = `
:root { color-scheme: light dark; --line: color-mix(in srgb, CanvasText 18%, Canvas); }
body { font: 14px/1.45 system-ui, sans-serif; background: Canvas; color: CanvasText; max-width: 1040px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.4em; overflow-wrap: anywhere; }
h2 { font-size: 1.1em; margin-top: 2em; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3em .6em .3em 0; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
.layers { font-variant-numeric: tabular-nums; }
.layers :is(th, td):not(:first-child) { text-align: right; white-space: nowrap; }
.severity { font-weight: 600; white-space: nowrap; }
.error { color: light-dark(#b3261e, #ff8a80); }
.warning { color: light-dark(#8a5300, #ffb74d); }
.plots { display: flex; overflow-x: auto; }
.plots figure { margin: 0; flex: none; }
.plots svg { background: none !important; overflow: visible; }
figcaption { font-weight: 600; }
.note { color: color-mix(in srgb, CanvasText 70%, Canvas); }
`;

/** Nothing may be loaded and nothing may run, whatever the names in the file are. */
const POLICY = "default-src 'none'; style-src 'unsafe-inline'";

type Child = Element | SVGElement | string;

/** Returns a function that makes elements of a document. */
const maker =
  (document: Document) =>
  (tag: string, attributes: Readonly<Record<string, string>>, ...children: readonly Child[]): Element => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    for (const child of children)
      element.appendChild(typeof child === "string" ? document.createTextNode(child) : child);
    return element;
  };

/** A row of a plot: a layer, by its place in the file, since names may occur twice. */
interface Row<T> {
  readonly y: string;
  readonly layer: T;
}

const cut = (name: string) => (name.length > LABEL ? `…${name.slice(1 - LABEL)}` : name);

/** Makes plots side by side over the same rows. */
class Plots<T extends { readonly name: string }> {
  readonly rows: readonly Row<T>[];
  readonly #document: Document;

  constructor(document: Document, layers: readonly T[]) {
    this.#document = document;
    this.rows = layers.map((layer, i) => ({ y: String(i), layer }));
  }

  frame(isFirst: boolean, x: Plot.ScaleOptions, marks: Plot.Markish[]) {
    return Plot.plot({
      document: this.#document,
      width: (isFirst ? LABEL_ROOM : 15) + 275,
      height: this.rows.length * ROW + 60,
      marginLeft: isFirst ? LABEL_ROOM : 15,
      marginRight: 20,
      marginTop: 10,
      marginBottom: 45,
      style: { fontFamily: "system-ui, sans-serif", fontSize: "11px", color: "inherit", background: "none" },
      x: { labelAnchor: "center", labelArrow: "none", grid: true, ...x },
      y: {
        domain: this.rows.map(({ y }) => y),
        label: null,
        tickSize: 0,
        ...(isFirst ? { tickFormat: (y: string) => cut(this.rows[Number(y)]?.layer.name ?? "") } : { axis: null }),
      },
      marks,
    });
  }

  /** A line from the least to the largest value, with a tick at the median. */
  range(rangeOf: (layer: T) => Range | undefined, least: number): Plot.Markish[] {
    const ranges = this.rows.flatMap(({ y, layer }) => {
      const range = rangeOf(layer);
      const title =
        range && `${layer.name}: ${digits(range.least)} to ${digits(range.largest)}, median ${digits(range.median)}`;
      return range
        ? [
            {
              y,
              title,
              x1: Math.max(range.least, least),
              x2: Math.max(range.largest, least),
              x: Math.max(range.median, least),
            },
          ]
        : [];
    });
    return [
      Plot.ruleY(ranges, {
        y: "y",
        x1: "x1",
        x2: "x2",
        stroke: BLUE,
        strokeWidth: 4,
        strokeOpacity: 0.75,
        strokeLinecap: "round",
        title: "title",
      }),
      Plot.tickX(ranges, { y: "y", x: "x", stroke: "currentColor", strokeWidth: 2, insetTop: 2, insetBottom: 2 }),
    ];
  }

  /** A dot for each layer with a value above 0. */
  dots(numberOf: (layer: T) => number): Plot.Markish {
    return Plot.dot(
      this.rows.filter(({ layer }) => numberOf(layer) > 0),
      {
        ...{ y: "y", x: ({ layer }: Row<T>) => numberOf(layer), fill: BLUE, r: 3.5 },
        title: ({ layer }: Row<T>) => `${layer.name}: ${digits(numberOf(layer))}`,
      },
    );
  }
}

interface Figure {
  readonly title: string;
  readonly svg: Element;
}

const LOGARITHMIC = { type: "log", ticks: 4, tickFormat: "~g" } as const;

/** Returns the plots of an inspection. */
function plots(document: Document, layers: readonly InspectedLayer[]): Figure[] {
  const figures = new Plots(document, layers);
  const { rows } = figures;
  const variances = layers.flatMap(({ variance, epsilon }) =>
    variance ? [variance.least, variance.largest, epsilon] : [],
  );
  const smallest = variances.filter((v) => v >= LEAST_SHOWN).reduce((a, b) => Math.min(a, b), 1);
  return [
    {
      title: "Running variance",
      svg: figures.frame(true, { ...LOGARITHMIC, label: "least, median, largest; the mark is epsilon" }, [
        ...figures.range(({ variance }) => variance, smallest),
        Plot.tickX(
          rows.filter(({ layer }) => layer.epsilon > 0),
          {
            ...{
              y: "y",
              x: ({ layer }: Row<InspectedLayer>) => layer.epsilon,
              stroke: VERMILION,
              strokeWidth: 2,
              insetTop: 2,
              insetBottom: 2,
            },
            title: ({ layer }: Row<InspectedLayer>) => `${layer.name}: epsilon ${digits(layer.epsilon)}`,
          },
        ),
      ]),
    },
    {
      title: "|gamma|",
      svg: figures.frame(
        false,
        { label: "least, median, largest", ticks: 4, zero: true },
        figures.range(({ gamma }) => gamma, 0),
      ),
    },
    {
      title: "Largest |mean|/std",
      svg: figures.frame(false, { ...LOGARITHMIC, label: "10 loses a digit in folding, 100 two" }, [
        figures.dots(({ largestMean }) => largestMean),
      ]),
    },
  ];
}

/** Returns the plots of a comparison. */
function driftPlots(document: Document, { layers }: DriftReport): Figure[] {
  const figures = new Plots(document, layers);
  const ratios = layers.map(({ stdRatio }) => stdRatio.least).filter((ratio) => ratio > 0);
  return [
    {
      title: "Mean drift",
      svg: figures.frame(true, { zero: true, ticks: 4, label: "in old standard deviations; above 0.5 is large" }, [
        figures.dots(({ meanDrift }) => meanDrift),
      ]),
    },
    {
      title: "Ratio of standard deviations",
      svg: figures.frame(false, { ...LOGARITHMIC, label: "least, median, largest; 1 is no drift" }, [
        Plot.ruleX([1], { stroke: VERMILION }),
        ...figures.range(({ stdRatio }) => stdRatio, Math.min(1, ...ratios)),
      ]),
    },
    {
      title: "Change of |gamma|",
      svg: figures.frame(
        false,
        { ticks: 4, label: "least, median, largest" },
        figures.range(({ gammaChange }) => gammaChange, Number.NEGATIVE_INFINITY),
      ),
    },
  ];
}

const WORDS: Readonly<Record<Severity, string>> = { error: "error", warning: "warning", info: "info" };

/**
 * Returns a report as the text of an HTML file that loads nothing. `document` makes its elements: a page's own, or one of a
 * library in Node; it does not change.
 */
export function htmlReport(document: Document, report: InspectionReport): string {
  const { file, format, layers, drift, findings } = printable(report);
  const element = maker(document);
  const head = element(
    "head",
    {},
    element("meta", { charset: "utf-8" }),
    element("meta", { "http-equiv": "Content-Security-Policy", content: POLICY }),
    element("meta", { name: "viewport", content: "width=device-width, initial-scale=1" }),
    // without the file's name: linkedom writes the texts of a title as they are
    element("title", {}, "Inspection of batch norms"),
    element("style", {}, STYLE),
  );
  const header = (...titles: string[]) =>
    element("thead", {}, element("tr", {}, ...titles.map((title) => element("th", { scope: "col" }, title))));
  const findingRow = (group: readonly Finding[]) => {
    const [{ severity, code, message, remedy, layer }] = group as [Finding];
    const others = group.slice(1).map((finding) => element("li", {}, `${finding.layer}: ${finding.message}`));
    const more = element(
      "details",
      {},
      element("summary", {}, `and ${others.length} more`),
      element("ul", {}, ...others),
    );
    return element(
      "tr",
      {},
      element("td", { class: `severity ${severity}` }, WORDS[severity]),
      element("td", {}, code),
      element("td", {}, `${layer}: ${message}`, ...(others.length ? [more] : [])),
      element("td", {}, remedy),
    );
  };
  const body = element(
    "body",
    {},
    element("h1", {}, `Batch norms of ${file}`),
    element("p", {}, `${format}, ${summary(report)}`),
    element("h2", {}, "Findings"),
    findings.length
      ? element(
          "table",
          {},
          header("", "code", "finding", "remedy"),
          element("tbody", {}, ...grouped(findings).map(findingRow)),
        )
      : element("p", {}, "None."),
  );
  const figuresOf = (figures: readonly Figure[]) =>
    element(
      "div",
      { class: "plots" },
      ...figures.map(({ title, svg }) => element("figure", {}, element("figcaption", {}, title), svg)),
    );
  const note = (text: string) => element("p", { class: "note" }, text);
  const table = <T extends { readonly name: string }>(
    rows: readonly T[],
    columns: readonly (readonly [title: string, text: (row: T) => string])[],
  ) => {
    const lines = rows.map((row) => {
      const cells = [row.name, ...columns.map(([, text]) => text(row).trim())];
      return element("tr", {}, ...cells.map((text) => element("td", {}, text)));
    });
    return element(
      "table",
      { class: "layers" },
      header("layer", ...columns.map(([title]) => title)),
      element("tbody", {}, ...lines),
    );
  };
  if (layers.length)
    body.append(
      element("h2", {}, "By layer"),
      figuresOf(plots(document, layers)),
      element("h2", {}, "Layers"),
      table(layers, COLUMNS),
      ...notesOn(layers).map(note),
    );
  if (drift) {
    body.append(element("h2", {}, "Drift"), element("p", {}, driftSummary(drift)));
    if (drift.layers.length)
      body.append(figuresOf(driftPlots(document, drift)), table(drift.layers, DRIFT_COLUMNS), ...DRIFT_NOTES.map(note));
    body.append(...notCompared(drift).map((text) => element("p", {}, text)));
  }
  return `<!doctype html>\n${element("html", { lang: "en" }, head, body).outerHTML}\n`;
}
