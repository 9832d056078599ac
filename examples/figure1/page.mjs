// The page of the demo: the picture, the table and what its columns mean, in one file that needs no other.

import { HEADER, NOTES, rows } from "./table.mjs";

/**
 * @param {import("./train.mjs").Result[]} results
 * @param {string} svg
 */
export function page(results, svg) {
  const [{ steps, seed }] = results;
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Figure 1 with batchnorm-wasm</title>
<style>
  /* the picture has the variables, for a light and a dark page */
  body { max-width: 960px; margin: 2rem auto; padding: 0 1rem; color: var(--text); background: var(--background);
    font: 15px/1.5 system-ui, sans-serif; }
  svg { max-width: 100%; height: auto; }
  .table { overflow-x: auto; }
  table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
  th, td { padding: 0.3rem 0.6rem; text-align: right; border-bottom: 1px solid var(--frame); }
  th { vertical-align: bottom; }
  ul { padding-left: 1.2rem; }
</style>
<h1>Batch norm, with and without</h1>
<p>Figure 1 of Ioffe &amp; Szegedy (2015), repeated: three hidden layers of 100 sigmoid units, trained on 8,000
handwritten digits in ${steps} steps of 60, from the same initial weights and in the same order (seed ${seed}).</p>
${svg}
<div class="table">
<table>
<thead>
${row("th", HEADER)}
</thead>
<tbody>
${rows(results)
  .map((cells) => row("td", cells))
  .join("\n")}
</tbody>
</table>
</div>
<ul>
${NOTES.map((note) => `<li>${note}</li>`).join("\n")}
</ul>
</html>
`;
}

const row = (tag, cells) => `<tr>${cells.map((cell) => `<${tag}>${cell}</${tag}>`).join("")}</tr>`;
