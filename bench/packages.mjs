// The packages that peers come from: which are installed, where, and in which version.

import { createRequire } from "node:module";
import { dirname } from "node:path";
import { pinned } from "./environment.mjs";
import { PEERS } from "./peers/index.mjs";

const { resolve } = createRequire(import.meta.url);

/** The folder of a package's main file; undefined where it is not installed. */
export function folderOf(name) {
  try {
    return `${dirname(resolve(name))}/`;
  } catch {
    return undefined;
  }
}

/** Of the peers in peers/index.mjs: the ids of those that can run, the versions of their packages, and those missing. */
export function findPackages() {
  const ids = Object.keys(PEERS);
  const there = ({ needs }) => !needs || folderOf(needs);
  const present = ids.filter((id) => there(PEERS[id]));
  const packages = new Set(present.map((id) => PEERS[id].needs).filter(Boolean));
  return {
    present,
    versions: [...packages].map((name) => `${name} ${pinned()[name]}`),
    missing: ids
      .filter((id) => !present.includes(id))
      .map((id) => ({ peer: PEERS[id].name, reason: "not installed: npm ci --prefix bench" })),
  };
}
