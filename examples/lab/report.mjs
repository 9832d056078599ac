// docs/results/experiments.md: one section for every experiment, which stays until that experiment is run again.

import { markdownTable } from "markdown-table";

const INTRODUCTION = `# Experiments

What the papers claim of batch normalization, tried on 10,000 real digits and two spirals by the lab (examples/lab),
headless, with several seeds. Written by \`npm run lab:run -- all --seeds 5\`; change the experiments, not this file. A claim
**holds** where it does for every seed, **fails** where it does for none, and is **mixed** otherwise; numbers are means ± standard deviations over seeds, and
in pictures bands are one standard deviation. Networks and data are small: a claim that fails here may hold elsewhere, and the reverse.
`;

const begin = (id) => `<!-- lab:${id} -->`;
const end = (id) => `<!-- /lab:${id} -->`;

/**
 * A section: what was done, what was claimed, and what came of it.
 *
 * @param {import("./experiment.mjs").Experiment} experiment
 * @param {{
 *   runs: import("./experiment.mjs").Run[], claims: import("./experiment.mjs").Claim[], environment: string
 * }} results
 */
export function section({ id, title, text, method, sources, controls }, { runs, claims, environment }) {
  const { seed, ...values } = runs[0].values;
  const settings = Object.entries(values).map(([name, value]) => {
    const { label } = controls.find((c) => c.id === name);
    return `${label.toLowerCase()} ${value}`;
  });
  const rows = claims.map(({ claim, source, verdict, evidence }) => [claim, source, `**${verdict}**`, evidence]);
  const facts = Object.entries(runs[0].facts).map(([name, value]) => `${name}: ${value}`);
  return [
    begin(id),
    `## ${title}`,
    `${text} (${sources.map((s) => `[${s.text}](${s.url})`).join(", ")})`,
    ...(method ? [method] : []),
    markdownTable([["claim", "source", "", "measured"], ...rows]),
    `![${title}](experiments/${id}.svg)`,
    `Settings: ${settings.join(", ")}; seeds ${seed} to ${seed + runs.length - 1}. ${environment}.` +
      (facts.length ? ` Of the first seed: ${facts.join("; ")}.` : ""),
    `\`npm run lab:run -- ${id} --seeds ${runs.length}\``,
    end(id),
  ].join("\n\n");
}

/** How many claims hold, and which do not, from the sections' tables. */
function overview(parts) {
  const rows = parts.flatMap((part) => [...part.matchAll(/^\| (.+?) +\| [^|]+ \| \*\*(holds|mixed|fails)\*\* +\|/gm)]);
  const of = (verdict) => rows.filter((row) => row[2] === verdict).map((row) => row[1]);
  const list = (verdict) => of(verdict).map((claim) => `- **${verdict}**: ${claim}`);
  const many = (verdict, one, more) => `${of(verdict).length} ${of(verdict).length === 1 ? one : more}`;
  const verdicts = `${many("holds", "holds", "hold")}, ${many("mixed", "is", "are")} mixed, and ${many("fails", "fails", "fail")}`;
  const counts = `Of ${rows.length} claims ${verdicts}`;
  return [`${counts}${of("holds").length < rows.length ? ":\n" : "."}`, ...list("mixed"), ...list("fails")].join("\n");
}

/** The document with some sections replaced or added, in the order of `ids`. */
export function withSections(document, sections, ids) {
  const there = (id) => {
    const [from, to] = [document.indexOf(begin(id)), document.indexOf(end(id))];
    return from < 0 || to < 0 ? undefined : document.slice(from, to + end(id).length);
  };
  const parts = ids.map((id) => sections[id] ?? there(id)).filter((part) => part !== undefined);
  return `${[INTRODUCTION.trim(), overview(parts), ...parts].join("\n\n")}\n`;
}
