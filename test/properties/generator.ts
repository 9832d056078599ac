// What a generator of calls is, and comparisons with the oracle.

import type fc from "fast-check";
import { errorOf } from "../support/reference.ts";
import type { Any } from "./values.ts";

/** One call, ready to be made. */
export interface Prepared {
  /** The object whose method is called. */
  readonly receiver?: object;
  readonly args: Any[];
  /** Makes the call on these arguments, or on wrong ones in their place. */
  call(args: Any[], receiver: Any): unknown;
  /** Throws if the result is not what the oracle says. */
  check?(result: Any): void | Promise<void>;
  /** The code of the error that the call throws because of its values, or the class of one without code. */
  readonly fails?: string | undefined;
  /** Returns everything else that a call which throws must leave as it is. */
  state?(): string;
  /** Uses what a call that throws must leave usable, such as a pending backward, and returns the bits of the result. */
  probe?(): string;
  /** Lines of code before the call, for a reproduction. */
  readonly before?: readonly string[];
}

/** Makes calls of one public function, method or property. */
export interface Generator<S = Any> {
  /** Describes a call by plain data, which shrinks. */
  readonly spec: fc.Arbitrary<S>;
  /** Makes the call of a description anew. */
  prepare(spec: S): Prepared;
  /** Whether numbers that would only ask for more memory or threads than there are stay out of the wrong values. */
  readonly bounded?: boolean;
}

export const generator = <S>(spec: fc.Arbitrary<S>, prepare: (spec: S) => Prepared, bounded = false): Generator<S> => ({
  spec,
  prepare,
  bounded,
});

/** Throws if something does not hold. */
export function hold(condition: unknown, what: string): asserts condition {
  if (!condition) throw new Error(what);
}

/** Throws if two numbers or texts differ. */
export function same(what: string, got: unknown, expected: unknown): void {
  if (!Object.is(got, expected)) throw new Error(`${what}: expected ${String(expected)}, got ${String(got)}`);
}

/** Throws if results are farther from the oracle's than `gate` times u × the channel's condition scale, or a floor. */
export function near(
  what: string,
  got: ArrayLike<number>,
  expected: Float64Array,
  scale: Float64Array,
  { u, gate, floor }: { u: number; gate: number; floor: number },
  channel: (i: number) => number = () => 0,
): void {
  // what is within the floor, such as a subnormal float16, counts as exact
  const beyond = Array.from(got, (v, i) =>
    Math.abs(v - (expected[i] as number)) <= floor ? (expected[i] as number) : v,
  );
  const error = errorOf(beyond, expected, scale, u, channel);
  if (error <= gate) return;
  throw new Error(
    `${what}: off by ${error} u, ${gate} are promised; expected ${Array.from(expected).slice(0, 8)}, got ${Array.from(got).slice(0, 8)}`,
  );
}

/** Throws if an element differs from the oracle's by more than a relative and an absolute tolerance. */
export function close(what: string, got: ArrayLike<number>, expected: ArrayLike<number>, rtol: number, atol = 0): void {
  same(`${what}.length`, got.length, expected.length);
  for (let i = 0; i < expected.length; i++) {
    const [a, b] = [got[i] as number, expected[i] as number];
    if (!(Object.is(a, b) || a === b || Math.abs(a - b) <= atol + rtol * Math.abs(b)))
      throw new Error(`${what}[${i}]: expected ${b}, got ${a}`);
  }
}
