// What an experiment of the lab is, to those who show it: the page, the export, the headless runner.
//
// An experiment is a generator. It yields after a step or a few, so that whoever draws it may pause between any two, and
// what it does follows from the values of its controls alone: the same values, the same curves.

/**
 * @typedef {object} Experiment
 * @property {string} id also in URLs and on the command line
 * @property {string} title
 * @property {string} text three sentences: what is varied, what to look at, what the source says
 * @property {string} [method] how it is measured, where the text does not say it
 * @property {{ text: string, url: string }[]} sources
 * @property {{ text: string, path: string }[]} guides pages that explain it, by their titles and paths in docs/, without .md
 * @property {Control[]} controls
 * @property {(values: Values) => Chart[]} charts
 * @property {(values: Values, data: Data) => Iterable<Update> | AsyncIterable<Update>} run
 * @property {(runs: Run[]) => Claim[]} claims what the source says, judged by one run for every seed
 *
 * @typedef {Record<string, number | string | boolean>} Values by control
 *
 * @typedef {object} Control
 * @property {string} id
 * @property {string} label
 * @property {"number" | "choice"} kind
 * @property {number | string} value to start with
 * @property {number} [min] of numbers
 * @property {number} [max]
 * @property {number} [step] 1 for whole numbers; absent: any
 * @property {string[]} [choices]
 * @property {string} [hint] one line
 *
 * @typedef {object} Chart
 * @property {string} id
 * @property {string} title
 * @property {"lines" | "bands" | "histogram" | "map"} kind
 *   lines      points [x, y]
 *   bands      points [x, low, middle, high]
 *   histogram  { edges: number[], shares: number[] }
 *   map        { from, to, size, values, points }: probabilities of class 1 over the square [from, to]², `size` to a side,
 *              rows from the bottom up, and samples [x, y, class]
 * @property {Axis} x
 * @property {Axis} y
 * @property {Series[]} series
 * @property {string} hint how to read it, one line
 *
 * @typedef {{ label: string, log?: boolean, range?: [number, number] }} Axis
 * @typedef {{ id: string, label: string, color: number, dash?: number[] }} Series color: 0 with batch norm, 1 without, 2 and
 *   up variants; dash where it is not the color's
 *
 * @typedef {object} Update
 * @property {number} done steps, of
 * @property {number} total
 * @property {Record<string, Record<string, number[][]>>} [append] chart → series → further points; not finite where diverged
 * @property {Record<string, Record<string, unknown>>} [replace] chart → series → what it is now
 * @property {Record<string, string | number>} [facts] what a line of text says best
 *
 * @typedef {{ digits: import("./data.mjs").Digits, tfjsBinaries?: string }} Data and where TF.js finds its .wasm files
 *
 * @typedef {{ values: Values, charts: Record<string, Record<string, any>>, facts: Record<string, string | number> }} Run
 *
 * @typedef {object} Claim
 * @property {string} claim
 * @property {string} source
 * @property {"holds" | "fails" | "mixed"} verdict in all runs, in none, or in some
 * @property {string} evidence means and standard deviations over the runs
 */

/** The values that an experiment starts with. */
export const defaultsOf = ({ controls }) => Object.fromEntries(controls.map(({ id, value }) => [id, value]));

/** What updates add up to. */
export class Collected {
  charts = {};
  facts = {};
  done = 0;
  total = 1;

  /** @param {Chart[]} charts */
  constructor(charts) {
    for (const { id, series } of charts) this.charts[id] = Object.fromEntries(series.map((s) => [s.id, []]));
  }

  /** @param {Update} update */
  add({ done, total, append = {}, replace = {}, facts = {} }) {
    for (const [chart, series] of Object.entries(append))
      for (const [id, points] of Object.entries(series)) this.charts[chart][id].push(...points);
    for (const [chart, series] of Object.entries(replace)) Object.assign(this.charts[chart], series);
    Object.assign(this.facts, facts);
    this.done = done;
    this.total = total;
  }
}
