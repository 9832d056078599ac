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

/** What is wrong with our own peers, in words: then the run has failed. */
export function complaints({ shapes, networks, sweep, awkward }) {
  const entries = [...shapes, ...networks.flatMap(({ norms }) => norms), ...sweep, ...awkward];
  return entries.flatMap(({ shape, layout, rows }) =>
    rows
      .filter(({ peer, failed, wrong }) => /^(copy|batchnorm-wasm)/.test(peer) && (failed || wrong))
      .map(({ peer, operation, failed }) => `${peer}, ${operation}, [${shape}], ${layout}: ${failed ?? "wrong"}`),
  );
}
