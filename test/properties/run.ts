// Runs properties in rounds over all public functions, until enough cases have run or the time is over.

import { mkdirSync, writeFileSync } from "node:fs";
import fc from "fast-check";
import { expect, inject } from "vitest";

/** What `npm run fuzz` asks for. Without it, a suite runs a small share. */
export interface Fuzz {
  /** Cases of each suite, or undefined for a number of minutes. */
  readonly cases?: number | undefined;
  readonly minutes?: number | undefined;
  readonly seed: number;
  /** The one name to run. */
  readonly only?: string | undefined;
  /** fast-check's path to a case, of which only that case runs. */
  readonly path?: string | undefined;
  /** The interpreter of Python that has safetensors. */
  readonly python?: string | undefined;
}

declare module "vitest" {
  interface ProvidedContext {
    fuzz: Fuzz;
  }
}

/** The share of `npm test`, in cases of each suite. */
const SHARE = 1500;
/** Cases of one function in one round. A round of all functions takes a few seconds. */
const ROUND = 25;

export const asked: Fuzz = inject("fuzz") ?? { cases: SHARE, seed: 1 };

/** The counts of a suite, which `npm run fuzz -- --write` writes into docs/results/reliability.md. */
export type Counts = Record<string, number>;

/** Writes the counts of a suite to build/fuzz, where fuzz.mjs reads them. */
export function report(suite: string, counts: Counts, seconds: number): void {
  mkdirSync("build/fuzz", { recursive: true });
  writeFileSync(`build/fuzz/${suite}.json`, JSON.stringify({ suite, counts, seconds, seed: asked.seed }));
}

/** A property of the functions with these names. */
export interface Suite<T> {
  readonly name: string;
  readonly names: readonly string[];
  arbitrary(name: string): fc.Arbitrary<T>;
  /** Throws for a fault. It may count what came of the case. */
  check(name: string, value: T, count: (what: string) => void): Promise<unknown>;
  /** Returns a case as code. */
  code(name: string, value: T): string;
}

/** Runs a suite, and fails with a reproduction of every fault. A function with a fault runs no further cases. */
export async function run<T>({ name: suite, names, arbitrary, check, code }: Suite<T>): Promise<Counts> {
  const { cases = Number.POSITIVE_INFINITY, minutes = Number.POSITIVE_INFINITY, seed, only, path } = asked;
  const start = performance.now();
  const seconds = () => (performance.now() - start) / 1000;
  const left = new Set(only === undefined ? names : names.filter((name) => name === only));
  const counts: Counts = { cases: 0 };
  const faults: string[] = [];
  for (let round = 0; left.size && (counts.cases as number) < cases && seconds() < minutes * 60; round++) {
    for (const name of left) {
      const open = cases - (counts.cases as number);
      if (open <= 0 || seconds() >= minutes * 60) break;
      const property = fc.asyncProperty(arbitrary(name), async (value) => {
        await check(name, value, (what) => {
          counts[what] = (counts[what] ?? 0) + 1;
        });
      });
      const roundSeed = path === undefined ? (seed + round * 0x9e3779b1) | 0 : seed;
      const numRuns = Math.min(ROUND, Math.ceil(cases / left.size), open);
      const result = await fc.check(property, { seed: roundSeed, numRuns, ...(path !== undefined && { path }) });
      counts.cases = (counts.cases as number) + result.numRuns;
      if (result.failed && result.counterexample) {
        left.delete(name);
        const [value] = result.counterexample;
        faults.push(
          `${name}: ${result.errorInstance instanceof Error ? result.errorInstance.message : String(result.errorInstance)}\n` +
            `  again: npm run fuzz -- --suite ${suite} --only '${name}' --seed=${result.seed} --path ${result.counterexamplePath}\n` +
            code(name, value).replace(/^/gm, "  "),
        );
      }
    }
    if (path !== undefined) break;
  }
  report(suite, { ...counts, faults: faults.length }, seconds());
  if (faults.length) expect.fail(`${faults.length} faults after ${counts.cases} cases\n\n${faults.join("\n\n")}`);
  return counts;
}
