// Mean and variance of one channel of a data set that is read in pieces. Integers are summed exactly. Floats are summed in
// blocks, whose moments are merged in a tree, so that errors grow with the logarithm of the number of values.

import { mergedM2 } from "../ops/statistics.ts";

/** The moments of one channel. `m2` is Σ (x − mean)². */
export interface Moments {
  readonly count: number;
  readonly mean: number;
  readonly m2: number;
}

const NOTHING: Moments = { count: 0, mean: 0, m2: 0 };

/** Returns the moments of two parts together (Chan, Golub & LeVeque 1979). */
export function mergedMoments(a: Moments, b: Moments): Moments {
  if (a.count === 0) return b;
  if (b.count === 0) return a;
  const count = a.count + b.count;
  const share = b.count / count;
  const delta = b.mean - a.mean;
  return { count, mean: a.mean + delta * share, m2: mergedM2(a.m2, b.m2, delta, a.count, share) };
}

/**
 * The most integers that are summed in float64 before the sums go to BigInt. A product of two numbers of 16 bits is at most
 * 2³², so that a sum of 2²⁰ of them is exact.
 */
const EXACT_BLOCK = 2 ** 20;

/** The most floats of a block: 32 kB of float64, which stay in the cache for the second pass over them. */
const FLOAT_BLOCK = 4096;

/**
 * Moments of one channel. Values are those at `count` places of `data`, from index `first` on, each `step` behind the one
 * before.
 */
export class ChannelMoments {
  min = Number.POSITIVE_INFINITY;
  max = Number.NEGATIVE_INFINITY;
  /** The number of values that are NaN or infinite, which are in nothing else. */
  nonFinite = 0;
  #integers = 0;
  #sum = 0n;
  #squares = 0n;
  /** The moments of 2ⁱ blocks of floats at index i, or undefined, as the digits of a binary counter. */
  readonly #tree: (Moments | undefined)[] = [];

  /** Adds integers of at most 32 bits. */
  addIntegers(data: ArrayLike<number>, first: number, step: number, count: number): void {
    for (let done = 0; done < count; done += EXACT_BLOCK)
      this.#addExact(data, first + done * step, step, Math.min(EXACT_BLOCK, count - done));
    this.#integers += count;
  }

  #addExact(data: ArrayLike<number>, first: number, step: number, count: number): void {
    let { min, max } = this;
    let [sum, highs, mixed, lows] = [0, 0, 0, 0];
    const end = first + count * step;
    for (let i = first; i < end; i += step) {
      const x = data[i] as number;
      // x = high·2¹⁶ + low, so that each product is exact
      const low = x & 0xffff;
      const high = (x - low) / 65536;
      sum += x;
      highs += high * high;
      mixed += high * low;
      lows += low * low;
      if (x < min) min = x;
      if (x > max) max = x;
    }
    [this.min, this.max] = [min, max];
    this.#sum += BigInt(sum);
    this.#squares += (BigInt(highs) << 32n) + (BigInt(mixed) << 17n) + BigInt(lows);
  }

  /** Adds floats. Those that are NaN or infinite are counted and left out. */
  addFloats(data: ArrayLike<number>, first: number, step: number, count: number): void {
    for (let done = 0; done < count; done += FLOAT_BLOCK)
      this.#addBlock(data, first + done * step, step, Math.min(FLOAT_BLOCK, count - done));
  }

  #addBlock(data: ArrayLike<number>, first: number, step: number, size: number): void {
    const end = first + size * step;
    let { min, max } = this;
    let [count, sum] = [0, 0];
    for (let i = first; i < end; i += step) {
      const x = data[i] as number;
      if (!Number.isFinite(x)) continue;
      count++;
      sum += x;
      if (x < min) min = x;
      if (x > max) max = x;
    }
    [this.min, this.max] = [min, max];
    this.nonFinite += size - count;
    if (count === 0) return;

    // the second pass also sums what rounding has left of the mean, and corrects both moments by it
    const rough = sum / count;
    let [rest, squares] = [0, 0];
    for (let i = first; i < end; i += step) {
      const x = data[i] as number;
      if (!Number.isFinite(x)) continue;
      rest += x - rough;
      squares += (x - rough) ** 2;
    }
    this.#push({ count, mean: rough + rest / count, m2: squares - (rest * rest) / count });
  }

  #push(block: Moments): void {
    let merged = block;
    let level = 0;
    for (let other = this.#tree[level]; other; other = this.#tree[++level]) {
      merged = mergedMoments(other, merged);
      this.#tree[level] = undefined;
    }
    this.#tree[level] = merged;
  }

  /** The moments of all values. Those of integers alone are rounded once. */
  get moments(): Moments {
    const count = BigInt(this.#integers);
    const exact = this.#integers
      ? {
          count: this.#integers,
          mean: quotient(this.#sum, count),
          m2: quotient(count * this.#squares - this.#sum * this.#sum, count),
        }
      : NOTHING;
    return this.#tree.reduce<Moments>((all, part) => (part ? mergedMoments(part, all) : all), exact);
  }
}

const bitsIn = (value: bigint) => value.toString(2).replace("-", "").length;

/** Returns the float64 that is nearest to a / b, for b > 0. */
export function quotient(a: bigint, b: bigint): number {
  // 66 bits of the quotient, of which the last one says whether there is a remainder, are enough for one correct rounding
  const shift = Math.max(0, 66 - bitsIn(a) + bitsIn(b));
  const shifted = a << BigInt(shift);
  const whole = shifted / b;
  const isInexact = whole * b !== shifted;
  const sign = a < 0n ? -1n : 1n;
  return Number(isInexact ? sign * ((sign * whole) | 1n) : whole) / 2 ** shift;
}
