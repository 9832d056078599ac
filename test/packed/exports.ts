// The files to which `exports` of package.json leads.

import { readFileSync } from "node:fs";
import { join } from "node:path";

/** A target, or targets by condition. */
export type Target = string | { readonly [condition: string]: Target };

export type Exports = { readonly [subpath: string]: Target };

export function exportsOf(library: string): Exports {
  return JSON.parse(readFileSync(join(library, "package.json"), "utf8")).exports;
}

/** The file that a host with these conditions gets, as Node finds it: the first condition that fits. */
export function resolve(target: Target, conditions: readonly string[]): string | undefined {
  if (typeof target === "string") return target;
  for (const [condition, inner] of Object.entries(target)) {
    if (condition !== "default" && !conditions.includes(condition)) continue;
    const found = resolve(inner, conditions);
    if (found) return found;
  }
  return undefined;
}

/** All files behind a target. */
export function filesOf(target: Target): string[] {
  return typeof target === "string" ? [target] : Object.values(target).flatMap(filesOf);
}
