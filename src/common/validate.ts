// Checks of arguments that do not depend on the meaning of the arguments.

import { unknownOption, wrongKind, wrongValue } from "./errors.ts";

/**
 * Returns `value` if it is a number for which `holds` is true. Otherwise throws TypeError or RangeError with the
 * argument's `name` and what was `expected`.
 */
export function checkNumber(name: string, value: unknown, expected: string, holds: (value: number) => boolean): number {
  if (typeof value !== "number") throw wrongKind(name, "a number", value);
  if (!holds(value)) throw wrongValue(name, expected, value);
  return value;
}

/** Returns `value` if it is an integer from 1 on. Otherwise throws TypeError or RangeError with the argument's `name`. */
export const positiveInteger = (name: string, value: unknown): number =>
  checkNumber(name, value, "a positive integer", (n) => Number.isSafeInteger(n) && n > 0);

/**
 * Returns `value` if it is an integer from `least` on. Otherwise throws TypeError or RangeError with the argument's
 * `name`.
 */
export const integerAtLeast = (least: number, name: string, value: unknown): number =>
  checkNumber(name, value, `a whole number from ${least} on`, (n) => Number.isInteger(n) && n >= least);

/** Returns what Array.isArray does, and undefined for a revoked Proxy, for which that throws. */
export function isArray(value: unknown): value is unknown[] {
  try {
    return Array.isArray(value);
  } catch {
    return undefined as unknown as boolean;
  }
}

/** Returns whether a value is an object and no array. A revoked Proxy is neither. */
export const isObject = (value: unknown): value is object =>
  typeof value === "object" && value !== null && isArray(value) === false;

/** Returns whether a value has one of these properties. Values that are no objects, and a revoked Proxy, have none. */
export function hasAny(value: unknown, ...names: readonly PropertyKey[]): boolean {
  try {
    return names.some((name) => name in (value as object));
  } catch {
    return false;
  }
}

/** Throws TypeError if a value is not an object, or is an array. */
export function checkObject(name: string, value: unknown, expected = "an object"): asserts value is object {
  if (!isObject(value)) throw wrongKind(name, expected, value);
}

/** Throws TypeError if `options` is not an object, or has a key that is not among `known`. */
export function checkKeys(where: string, options: unknown, known: readonly string[]): void {
  checkObject(where, options);
  for (const key of Object.keys(options)) if (!known.includes(key)) throw unknownOption(where, key, known);
}

/** Returns `value` if it is among `values`, and `fallback` for undefined. Otherwise throws TypeError or RangeError. */
export function oneOf<const T extends string>(name: string, value: unknown, values: readonly T[], fallback: T): T {
  if (value === undefined) return fallback;
  if (typeof value !== "string") throw wrongKind(name, "a string", value);
  const found = values.find((v) => v === value);
  if (found === undefined) throw wrongValue(name, values.map((v) => `"${v}"`).join(" or "), value);
  return found;
}

/** Returns `value` if it is a boolean, and `fallback` for undefined. Otherwise throws TypeError. */
export function flag(name: string, value: unknown, fallback: boolean): boolean {
  if (value === undefined) return fallback;
  if (typeof value !== "boolean") throw wrongKind(name, "a boolean", value);
  return value;
}

const typedArrayTag = /* @__PURE__ */ (() =>
  Object.getOwnPropertyDescriptor(Object.getPrototypeOf(Uint8Array.prototype), Symbol.toStringTag)?.get)() as () =>
  | string
  | undefined;

/**
 * Returns the name of a typed array's kind, such as "Float32Array", or undefined for other values. It asks the brand, not
 * the class: arrays of another realm (iframes, node:vm, Jest) have other classes.
 */
export const arrayKind = (value: unknown): string | undefined => typedArrayTag.call(value);

/** Returns whether a value is an array of numbers. Holes are no numbers; `every` would pass over them. */
export const isNumbers = (value: unknown): value is number[] =>
  isArray(value) && value.findIndex((v) => typeof v !== "number") < 0;

/** Returns whether a value is an array or a typed array. */
export const isList = (value: unknown): value is ArrayLike<unknown> =>
  isArray(value) || (ArrayBuffer.isView(value) && "length" in value);
