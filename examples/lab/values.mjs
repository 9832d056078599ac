// Values of controls as text, in URLs and on the command line, and back.

import { defaultsOf } from "./experiment.mjs";

/**
 * What texts say of an experiment's controls: values, of which those that are wrong are the nearest right ones or the start
 * values, and what was wrong with them.
 *
 * @param {import("./experiment.mjs").Experiment} experiment
 * @param {Record<string, string>} texts
 * @returns {{ values: import("./experiment.mjs").Values, problems: string[] }} values of the controls that are named
 */
export function checked({ controls }, texts) {
  const values = {};
  const problems = [];
  for (const [name, text] of Object.entries(texts)) {
    const control = controls.find(({ id }) => id === name);
    if (!control) {
      problems.push(`${name}: expected a control among ${controls.map(({ id }) => id).join(", ")}`);
      continue;
    }
    const { value, expected } = read(control, text);
    values[name] = value;
    if (expected) problems.push(`${name}: expected ${expected}, got "${text}"`);
  }
  return { values, problems };
}

/** The value that a text means for a control, and what was expected where it is another. */
function read({ kind, value: start, choices, min, max, step }, text) {
  if (kind === "choice")
    return choices.includes(text) ? { value: text } : { value: start, expected: choices.join(" or ") };
  const value = text.trim() === "" ? Number.NaN : Number(text);
  const expected = `a ${step === 1 ? "whole " : ""}number from ${min} to ${max}`;
  if (!Number.isFinite(value)) return { value: start, expected };
  const right = Math.min(Math.max(step === 1 ? Math.round(value) : value, min), max);
  return right === value ? { value } : { value: right, expected };
}

/** An experiment and its values as the query of a URL, without those that it starts with. */
export function toQuery(experiment, values) {
  const start = defaultsOf(experiment);
  const changed = Object.entries(values).filter(([name, value]) => value !== start[name]);
  return new URLSearchParams([
    ["experiment", experiment.id],
    ...changed.map(([name, value]) => [name, `${value}`]),
  ]).toString();
}

/**
 * What the query of a URL says: the experiment, all of its values, whether it shall start, and what had to be corrected.
 *
 * @param {string} query
 * @param {import("./experiment.mjs").Experiment[]} experiments
 */
export function fromQuery(query, experiments) {
  const { experiment: id, run, ...texts } = Object.fromEntries(new URLSearchParams(query));
  const found = experiments.find((e) => e.id === id);
  const experiment = found ?? experiments[0];
  const { values, problems } = checked(experiment, texts);
  if (id !== undefined && !found)
    problems.unshift(`experiment: expected ${experiments.map((e) => e.id).join(", ")}, got "${id}"`);
  return { experiment, values: { ...defaultsOf(experiment), ...values }, run: run === "1", problems };
}
