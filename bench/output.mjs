// Where results go: the JSON file with report.html beside it, and the exit code.

import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseHTML } from "linkedom";
import { pageOf } from "./html.mjs";

const DEFAULT = () => `results/${new Date().toISOString().slice(0, 19).replaceAll(":", "")}.json`;

/** Writes the results to `file`, or to a new one in bench/results, and the report beside it; returns their names. */
export function save(results, file = fileURLToPath(new URL(DEFAULT(), import.meta.url))) {
  const page = join(dirname(file), "report.html");
  const { document } = parseHTML("<!doctype html><html><body></body></html>");
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, `${JSON.stringify(results, null, 2)}\n`);
  writeFileSync(page, pageOf(results, document));
  return `${file} and ${page}`;
}

/**
 * What is wrong with our own peers, in words: then the run has failed.
 *
 * @param {Record<string, any>} results
 */
export function complaints({ shapes, networks, sweep, awkward, fusion = [], dtypes = [], modes = [] }) {
  const entries = [...shapes, ...networks.flatMap(({ norms }) => norms), ...sweep, ...awkward];
  const rows = [
    ...entries.flatMap(({ shape, rows }) => rows.map((row) => ({ shape, ...row }))),
    ...[...fusion, ...dtypes, ...modes].map((row) => ({ ...row, peer: `batchnorm-wasm, ${row.feature}` })),
  ];
  return rows
    .filter(({ peer, failed, wrong }) => /^(copy|batchnorm-wasm)/.test(peer) && (failed || wrong))
    .map(
      ({ peer, operation, shape, layout, failed }) =>
        `${peer}, ${operation}, [${shape}], ${layout}: ${failed ?? "wrong"}`,
    );
}
