// What examples/data-parallel prints, and what it must show.

import { expect } from "vitest";

/** Rows of its table by their first cell; numbers as numbers, "81.2 to 83.5 %" as both. */
function rowsOf(printed: string): Record<string, number[][]> {
  const rows = [...printed.matchAll(/^\| (.*) \|$/gm)].map(([, cells]) => (cells as string).split("|"));
  const numbers = (cell: string) => [...cell.matchAll(/[\d.]+(e[+-]\d+)?/g)].map(([text]) => Number(text));
  return Object.fromEntries(rows.map(([name, ...cells]) => [(name as string).trim(), cells.map(numbers)]));
}

/**
 * Has a run of the example with 4 ranks, by `title`, show that synchronised training is a single process's within rounding,
 * with the same bits on all ranks, and that training without is worse.
 */
export function expectComparison(printed: string, title: string): void {
  expect(printed).toContain(title);
  const { "a single process": single, synchronised, "each by its shard": own } = rowsOf(printed);
  const cell = (row: number[][] | undefined, i: number) => row?.[i]?.[0] as number;
  const [loss, accuracy, off, unlike, milliseconds] = [0, 1, 2, 3, 4];
  expect(Math.abs(cell(synchronised, loss) - cell(single, loss))).toBeLessThanOrEqual(1e-4);
  expect(synchronised?.[accuracy]).toEqual(single?.[accuracy]); // one number: every rank has the same
  expect(cell(synchronised, off)).toBeLessThan(1e-5);
  expect(cell(synchronised, unlike)).toBe(0);
  expect(cell(own, loss)).toBeGreaterThan(1.2 * cell(single, loss));
  expect(cell(own, accuracy)).toBeLessThan(cell(single, accuracy) - 5);
  expect(cell(own, off)).toBeGreaterThan(0.1);
  expect(cell(own, unlike)).toBeGreaterThan(0);
  for (const row of [single, synchronised, own]) expect(cell(row, milliseconds)).toBeGreaterThan(0);
}
