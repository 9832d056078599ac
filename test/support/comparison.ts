// Checks of the table that examples/data-parallel prints.

import { expect } from "vitest";

/**
 * Returns the rows of the table by their first cell. A cell becomes a list of its numbers: "81.2 to 83.5 %" has two.
 */
function rowsOf(printed: string): Record<string, number[][]> {
  const rows = [...printed.matchAll(/^\| (.*) \|$/gm)].map(([, cells]) => (cells as string).split("|"));
  const numbers = (cell: string) => [...cell.matchAll(/[\d.]+(e[+-]\d+)?/g)].map(([text]) => Number(text));
  return Object.fromEntries(rows.map(([name, ...cells]) => [(name as string).trim(), cells.map(numbers)]));
}

/**
 * Expects the output of a run with 4 ranks to contain `title` and to show two results. Synchronised training equals
 * that of a single process within rounding, with the same bits on all ranks. Training without synchronisation is worse.
 */
export function expectComparison(printed: string, title: string): void {
  expect(printed).toContain(title);
  const { "a single process": single, synchronised, "each by its shard": separate } = rowsOf(printed);
  const cell = (row: number[][] | undefined, i: number) => row?.[i]?.[0] as number;
  const [loss, accuracy, off, unlike, milliseconds] = [0, 1, 2, 3, 4];
  expect(Math.abs(cell(synchronised, loss) - cell(single, loss))).toBeLessThanOrEqual(1e-4);
  expect(synchronised?.[accuracy]).toEqual(single?.[accuracy]); // one number, since all ranks have the same
  expect(cell(synchronised, off)).toBeLessThan(1e-5);
  expect(cell(synchronised, unlike)).toBe(0);
  expect(cell(separate, loss)).toBeGreaterThan(1.2 * cell(single, loss));
  expect(cell(separate, accuracy)).toBeLessThan(cell(single, accuracy) - 5);
  expect(cell(separate, off)).toBeGreaterThan(0.1);
  expect(cell(separate, unlike)).toBeGreaterThan(0);
  for (const row of [single, synchronised, separate]) expect(cell(row, milliseconds)).toBeGreaterThan(0);
}
