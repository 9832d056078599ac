// The matcher toBeAllclose for arrays of floats, and a fast comparison of arrays for toEqual. toBeAllclose fails for a
// wrong length and for NaN against a number, and its message names the worst element.

import { expect } from "vitest";

interface Tolerance {
  /** Tolerance relative to |expected|. Default 0. */
  rtol?: number;
  /** Absolute tolerance. Default 0. */
  atol?: number;
}

interface Matchers<R = unknown> {
  toBeAllclose(expected: ArrayLike<number>, tolerance?: Tolerance): R;
}

declare module "vitest" {
  // biome-ignore lint/suspicious/noExplicitAny: Vitest's own declaration has this type parameter
  interface Assertion<T = any> extends Matchers<T> {}
}

expect.extend({
  toBeAllclose(received: ArrayLike<number>, expected: ArrayLike<number>, { rtol = 0, atol = 0 }: Tolerance = {}) {
    if (received?.length !== expected.length)
      return { pass: false, message: () => `expected ${expected.length} elements, got ${received?.length}` };
    let worst = -1;
    let excess = 0;
    for (let i = 0; i < expected.length; i++) {
      const a = received[i] as number;
      const b = expected[i] as number;
      if (a === b || (Number.isNaN(a) && Number.isNaN(b))) continue;
      const over = Math.abs(a - b) / (atol + rtol * Math.abs(b));
      if (over <= 1) continue;
      if (worst < 0 || !(over <= excess)) {
        worst = i;
        excess = over;
      }
    }
    return {
      pass: worst < 0,
      message: () =>
        worst < 0
          ? "expected some element to be farther than the tolerance"
          : `element ${worst}: expected ${expected[worst]}, got ${received[worst]} (rtol ${rtol}, atol ${atol})`,
    };
  },
});

/**
 * Returns whether toEqual finds two arrays of numbers equal, or undefined for other values, which Vitest then compares.
 * As in Vitest, NaN equals NaN and 0 differs from −0. The plain loop is faster than Vitest, which looks every element
 * up by its name and takes a second for a few million.
 */
function sameElements(a: unknown, b: unknown): boolean | undefined {
  if (!(ArrayBuffer.isView(a) && ArrayBuffer.isView(b)) || a instanceof DataView) return undefined;
  if (a.constructor !== b.constructor) return undefined;
  const [x, y] = [a as unknown as ArrayLike<unknown>, b as unknown as ArrayLike<unknown>];
  if (x.length !== y.length) return false;
  for (let i = 0; i < x.length; i++) if (!Object.is(x[i], y[i])) return false;
  return true;
}

expect.addEqualityTesters([sameElements]);
