// A suite writes a row to build/packed/rows for every host that works. table.mjs makes docs/results/runtimes.md of these rows.

import { mkdirSync, writeFileSync } from "node:fs";
import type { Checked } from "./check.js";

export { expectChecked } from "./expected.ts";

export interface Row {
  readonly kind: "runtime" | "node" | "browser" | "place" | "bundler" | "host";
  readonly name: string;
  readonly version: string;
  /** What else the table shall say, a few words. */
  readonly what?: string;
  readonly checked?: Pick<Checked, "build" | "digest" | "ownDigest" | "extendedDigest">;
}

const folder = new URL("../../build/packed/rows/", import.meta.url);

/** Keeps a row. Called when everything about the host has passed. */
export function record(row: Row): void {
  mkdirSync(folder, { recursive: true });
  const file = `${row.kind}-${row.name}`.replace(/[^\w.-]+/g, "_");
  writeFileSync(new URL(`${file}.json`, folder), `${JSON.stringify(row, null, 2)}\n`);
}
