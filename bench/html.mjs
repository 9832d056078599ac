// The report as a page: one file that needs nothing else, charts first and every table folded below. The same in Node, with
// linkedom's document, and in the browser.

import { costChart, networkChart, threadChart, throughputChart, timeChart } from "./charts.mjs";
import { titleOf } from "./shapes.mjs";
import {
  comparisonTable,
  costTable,
  fusionTable,
  fusionText,
  networkTable,
  networkText,
  networkTitle,
  remarks,
  shapeTable,
  sizeText,
  targetTable,
  variantTable,
} from "./tables.mjs";

export const STYLE = `
  body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1020px; margin: 2rem auto; padding: 0 1rem; }
  table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; margin: .5rem 0 1rem; }
  th, td { padding: .15rem .6rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
  .left { text-align: left; } strong { color: #d55e00; } summary { cursor: pointer; color: #555; }
  figure { margin: 0; } svg { max-width: 100%; height: auto; }`;

const escaped = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
const bold = (cell) => escaped(cell).replace(/\*\*(.+?)\*\*/g, "<strong>$1</strong>");

function table({ head, rows, left }) {
  const line = (cells, tag) =>
    `<tr>${cells.map((cell, i) => `<${tag}${i < left ? ' class="left"' : ""}>${bold(cell)}</${tag}>`).join("")}</tr>`;
  return `<table>${line(head, "th")}${rows.map((row) => line(row, "td")).join("\n")}</table>`;
}

const folded = (content) => `<details><summary>Table</summary>${table(content)}</details>`;
const list = (lines) => (lines.length ? `<ul>${lines.map((line) => `<li>${bold(line)}</li>`).join("")}</ul>` : "");
const section = (title, ...parts) => `<h2>${escaped(title)}</h2>\n${parts.join("\n")}\n`;

/** The body of the page. */
export function bodyOf(results, document) {
  const { environment, missing, shapes, networks, sweep, awkward, fusion, dtypes, modes, threads, builds } = results;
  const draw = (chart, data) => chart(data, document).outerHTML;
  const variants = (found, key) =>
    found.reason ? `<p>${escaped(found.reason)}.</p>` : table(variantTable(found, key));
  const each = (entry) =>
    [
      `<h3>${escaped(`${titleOf(entry)}: ${sizeText(entry)}`)}</h3>`,
      entry.rows.some(({ ms }) => ms) ? draw(timeChart, entry) : "",
      list(remarks(entry)),
      folded(shapeTable(entry)),
    ].join("\n");
  const eachNetwork = (network) =>
    [
      `<h3>${escaped(networkTitle(network))}</h3><p>${escaped(networkText(network))}</p>`,
      draw(networkChart, network),
      list(remarks({ rows: network.totals })),
      folded(networkTable(network)),
    ].join("\n");
  return [
    "<h1>batchnorm-wasm: benchmark</h1>",
    list(Object.entries(environment).map(([name, value]) => `${name}: ${value}`)),
    missing.length ? section("Not measured", list(missing.map(({ peer, reason }) => `${peer}: ${reason}`))) : "",
    shapes.length ? section("Targets", table(targetTable(results))) : "",
    shapes.length ? section("Throughput against the copy's", draw(throughputChart, shapes)) : "",
    shapes.length ? section("Time per peer", "<p>The grey line is the copy.</p>", ...shapes.map(each)) : "",
    networks.length ? section("Networks", ...networks.map(eachNetwork)) : "",
    sweep.length ? section("Cost per element over size", draw(costChart, sweep), folded(costTable(sweep))) : "",
    awkward.length ? section("Awkward sizes, ns per element", table(costTable(awkward))) : "",
    fusion?.length ? section("Fusion", `<p>${bold(fusionText(fusion))}</p>`, table(fusionTable(fusion))) : "",
    dtypes?.length ? section("Types of numbers, ms", table(comparisonTable(dtypes))) : "",
    modes?.length ? section("Modes, ms", table(comparisonTable(modes))) : "",
    threads ? section("Threads", threads.reason ? "" : draw(threadChart, threads), variants(threads, "threads")) : "",
    builds ? section("Builds", variants(builds, "build")) : "",
  ].join("\n");
}

export const pageOf = (results, document) => `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>batchnorm-wasm: benchmark</title>
<style>${STYLE}
</style>
${bodyOf(results, document)}
</html>
`;
