// docs/results/experiments.md: one section for every experiment, which stays until that experiment is run again.

import { markdownTable } from "markdown-table";

const introduction = (overview) => `# Experiments

Which claims about batch normalization hold when you try them: ${overview.counts}

${overview.table}

${overview.rest}

How to read this page: each experiment repeats what a paper or a book claims, with several seeds. A claim **holds** where it does for
every seed, **fails** where it does for none, and is **mixed** otherwise. Numbers are means ± standard deviations over seeds; in pictures
bands are one standard deviation. The networks have a few layers, and the data are 10,000 digits of MNIST and two spirals: what fails
here may hold for large networks, and the reverse. [Batch normalization: what it does and why](../concepts/batch-norm.md) draws the
conclusions. Every experiment also runs in your browser, [in the lab](/lab/), where you can change its settings.

Written by \`npm run lab:run -- all --seeds 5\`; change the experiments in \`examples/lab\`, not this file.
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
export function section({ id, title, text, method, sources, guides, controls }, { runs, claims, environment }) {
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
    `[Run it in the lab](/lab/#experiment=${id}), or without a page by \`npm run lab:run -- ${id} --seeds ${runs.length}\`. ` +
      `Explained in ${guides.map(({ text, path }) => `[${text}](../${path}.md)`).join(" and ")}.`,
    `Settings: ${settings.join(", ")}; seeds ${seed} to ${seed + runs.length - 1}. ${environment}.` +
      (facts.length ? ` Of the first seed: ${facts.join("; ")}.` : ""),
    end(id),
  ].join("\n\n");
}

const COLUMNS = ["holds", "mixed", "fails"];

/** How many claims hold, for each experiment and in all, and which do not, from the sections' tables. */
function overview(parts) {
  const sections = parts.map((part) => ({
    title: /^## (.+)$/m.exec(part)?.[1],
    id: /^<!-- lab:(\S+) -->/.exec(part)?.[1],
    claims: [...part.matchAll(/^\| (.+?) +\| [^|]+ \| \*\*(holds|mixed|fails)\*\* +\|/gm)].map(
      ([, claim, verdict]) => ({
        claim,
        verdict,
      }),
    ),
  }));
  const all = sections.flatMap(({ claims }) => claims);
  const of = (claims, wanted) => claims.filter(({ verdict }) => verdict === wanted);
  const many = (verdict, one, more) => `${of(all, verdict).length} ${of(all, verdict).length === 1 ? one : more}`;
  const counts = `of ${all.length} claims ${many("holds", "holds", "hold")}, ${many("mixed", "is", "are")} mixed, and ${many("fails", "fails", "fail")}.`;
  const rows = sections.map(({ title, id, claims }) => [
    title,
    ...COLUMNS.map((verdict) => `${of(claims, verdict).length || ""}`),
    `[run it](/lab/#experiment=${id})`,
  ]);
  const table = markdownTable([["experiment", "claims that hold", "mixed", "fail", "lab"], ...rows], {
    align: ["l", "r", "r", "r", "l"],
  });
  const list = [...of(all, "fails"), ...of(all, "mixed")].map(({ claim, verdict }) => `- **${verdict}**: ${claim}`);
  return { counts, table, rest: list.length ? ["What does not hold for every seed:", "", ...list].join("\n") : "" };
}

/** The document with some sections replaced or added, in the order of `ids`. */
export function withSections(document, sections, ids) {
  const there = (id) => {
    const [from, to] = [document.indexOf(begin(id)), document.indexOf(end(id))];
    return from < 0 || to < 0 ? undefined : document.slice(from, to + end(id).length);
  };
  const parts = ids.map((id) => sections[id] ?? there(id)).filter((part) => part !== undefined);
  return `${[introduction(overview(parts)).trim(), ...parts].join("\n\n")}\n`;
}
