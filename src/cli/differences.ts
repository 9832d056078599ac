// What runs of a model before and after folding have in common, whichever runtime runs them: random inputs, and how the
// outputs differ.

import { type Dtype, widen } from "../tensor/dtype.ts";

/** How an output of the folded model differs from the same output of the original. */
export interface Difference {
  readonly output: string;
  readonly type: string;
  /** The largest difference of two elements. */
  readonly difference: number;
  /** The largest size of an element. */
  readonly size: number;
}

/** An output of a model: the name of its type, and its elements. */
export interface Output {
  readonly type: string;
  readonly data: ArrayLike<number | bigint>;
}

/** Sizes that are tried for axes of inputs, other than the first, that the model leaves open. */
export const SIZES = [32, 64, 128, 224, 256, 512];

/** Returns numbers from 0 up to, not including, 1 that are the same in every run (mulberry32). */
export function random(): () => number {
  let state = 1;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Returns a normal number, of two numbers of `next` (Box–Muller). */
export const normal = (next: () => number): number =>
  Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());

/** Returns 0 or 1, of a number of `next`. */
export const bit = (next: () => number): 0 | 1 => (next() < 0.5 ? 0 : 1);

const isFloat = ({ type }: Output) => type.startsWith("float");

const numbersOf = ({ type, data }: Output): ArrayLike<number> =>
  type === "float16" ? widen(type as Dtype, data as ArrayLike<number>) : (data as ArrayLike<number>);

/** Returns how the outputs of floats differ between two runs on the same inputs, by the names of the outputs. */
export function differences(
  expected: Readonly<Record<string, Output>>,
  got: Readonly<Record<string, Output>>,
): Difference[] {
  return Object.entries(expected)
    .filter(([, output]) => isFloat(output))
    .map(([output, values]) => {
      const [a, b] = [numbersOf(values), numbersOf(got[output] as Output)];
      let [difference, size] = [a.length === b.length ? 0 : Number.POSITIVE_INFINITY, 0];
      for (let i = 0; i < a.length; i++) {
        const [x, y] = [a[i] as number, b[i] as number];
        if (Object.is(x, y)) continue; // NaN and infinity, too
        difference = Number.isFinite(x - y) ? Math.max(difference, Math.abs(x - y)) : Number.POSITIVE_INFINITY;
      }
      for (let i = 0; i < a.length; i++) size = Math.max(size, Math.abs(a[i] as number) || 0);
      return { output, type: values.type, difference, size };
    });
}
