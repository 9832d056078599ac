// The two properties of every call. A valid one gives what the oracle says, and changes no argument but its destinations.
// An invalid one throws an error of ours with a bounded message, and leaves everything as it was.

import { types } from "node:util";
import fc from "fast-check";
import * as lib from "../../src/index.ts";
import { defaultHeap } from "../../src/memory/heap.ts";
import { BATCHES } from "./batches.ts";
import type { Generator, Prepared } from "./generator.ts";
import { GUISES, OTHER_VALUES, type Path, pathsOf, replaced, SENTINEL, valueAt, WRONG } from "./hostile.ts";
import { INTEROP } from "./interop.ts";
import { LAYERS } from "./layers.ts";
import { OTHERS } from "./others.ts";
import { type Any, bits, free } from "./values.ts";

export const GENERATORS: Readonly<Record<string, Generator>> = { ...BATCHES, ...LAYERS, ...INTEROP, ...OTHERS };

const CODES: ReadonlySet<unknown> = new Set([
  "one-value-per-channel",
  "non-finite-statistics",
  "no-forward",
  "no-running-statistics",
  "in-place",
  "disposed",
  "other-memory",
  "out-of-memory",
  "state-dict",
  "safetensors",
  "no-simd",
  "thread",
  "group",
  "mpi",
]);

/** The most characters of a message. Those about states list the complaints of a whole layer. */
const LONGEST = 2000;
const LONGEST_OF_STATES = 8000;

/**
 * What the engine throws for a read of a revoked Proxy, for a read of a Proxy around a typed array, and for iteration over
 * a detached array. Like the error of a getter that throws, it comes from the caller's object, and a call may pass it on.
 */
const OF_THE_CALLER =
  /proxy that has been revoked|on incompatible receiver (#<|\[object )|this is not a typed array|values on a detached ArrayBuffer/;

/** Returns what is wrong with an error, or undefined for one of ours or of the caller's objects. */
export function complaintAbout(error: Any): string | undefined {
  if (error === SENTINEL || OF_THE_CALLER.test(String(error?.message))) return undefined;
  const { code, message } = error ?? {};
  if (typeof message !== "string") return `threw ${String(error)}`;
  const isOurs =
    error instanceof lib.BatchNormError
      ? CODES.has(code)
      : (error instanceof TypeError || error instanceof RangeError) && / ?expected .*, got /s.test(message);
  if (!isOurs)
    return `threw an error of the engine: ${error.name}: ${message.slice(0, 300)} ${String(error.stack).split("\n").slice(1, 4).join(" <- ")}`;
  if (message.length > (code === "state-dict" ? LONGEST_OF_STATES : LONGEST))
    return `threw a message of ${message.length} characters: ${message.slice(0, 100)}`;
  return undefined;
}

/**
 * Faults that are known and not mended, by function and message. A Proxy around a tensor gets an error of the engine where
 * files, states, folding and statistics read its data. A null as options gets one in synchronised calls, and
 * recalibrate with a layer as its options, whose forward it then calls. A detached array gets one where no elements are
 * expected, and rarely, in optimised code of Node 20, where its length has been read as the former one.
 */
const KNOWN: readonly (readonly [name: RegExp, message: RegExp])[] = [
  [/./, /on a detached ArrayBuffer/],
  [/^recalibrate$/, /'#brand' in undefined/],
  [/^SyncBatchNorm\.(for|back)ward/, /Cannot read properties of (null|undefined) \(reading '(saved|mode)'\)/],
];
const isKnown = (name: string, { message }: Error) => KNOWN.some(([of, text]) => of.test(name) && text.test(message));

type Outcome = { result: Any; error?: never } | { result?: never; error: Any };

async function outcomeOf(call: () => unknown): Promise<Outcome> {
  try {
    return { result: await call() };
  } catch (error) {
    return { error: error ?? new Error("threw nothing") };
  }
}

const isPromise = (value: unknown): value is Promise<unknown> => value instanceof Promise;

const used = () => defaultHeap().usage.used;

/** Throws unless a valid call gives what the oracle says. */
export async function checkValid(name: string, spec: unknown): Promise<void> {
  const prepared = (GENERATORS[name] as Generator).prepare(spec);
  const { args, receiver, check, fails } = prepared;
  const state = prepared.state?.();
  const before = bits(args);
  const { result, error } = await outcomeOf(() => prepared.call(args, receiver));
  try {
    if (fails) {
      if (!error) throw new Error(`expected the error ${fails}, got a result`);
      const complaint = complaintAbout(error);
      if (complaint) throw new Error(complaint);
      if (error.code !== fails && error.name !== fails)
        throw new Error(`expected the error ${fails}, got ${error.name} ${error.code}: ${error.message}`);
      if (bits(args) !== before) throw new Error("an argument has changed, though the call threw");
      if (prepared.state && prepared.state() !== state) throw new Error("state has changed, though the call threw");
    } else {
      if (error) throw error;
      await check?.(result);
    }
  } finally {
    release(prepared, result);
  }
}

/** Frees all tensors of a call, and the layer. */
function release({ args, receiver }: Prepared, result?: unknown): void {
  free(args);
  free(result);
  if (receiver instanceof lib.Tensor) free(receiver);
}

/** An invalid call: which place is replaced, and by which value. */
export interface Wrong {
  readonly place: number;
  readonly kind: number;
}

const WRONG_NAMES = Object.keys(WRONG);
const GUISE_NAMES = Object.keys(GUISES);
/** Functions whose values may be of several kinds: numbers, arrays and tensors; or which report what they do not know. */
const OF_ANY_KIND = new Set(["writeSafetensors", "mergeStates", "BatchNorm.loadStateDict"]);
/** Functions that take arrays of any length, or do not read all of their arrays. */
const OF_ANY_LENGTH = new Set([
  ...["toFloat32", "unpackStatistics", "readSafetensors", "writeSafetensors", "mergeStates", "fromAffine"],
  ...["diagnose", "BatchNorm.loadStateDict"],
]);
/** Other forms of a list of numbers, which states and masks may have. Their results may be of another type. */
const NUMBERS = new Set(["as an array", "as an array-like", "as a bigint"]);
/** Numbers that ask for more memory or threads than a machine has. */
const LARGE = new Set(["2^53", "1e308"]);

/** Methods that are also called on a Proxy around the object, as Vue makes one. Others read private fields at once. */
const PROXIED = /^BatchNorm\.(for|back)ward/;

/** Returns the place and the value of an invalid call. */
function choose(name: string, prepared: Prepared, { place, kind }: Wrong) {
  const paths: Path[] = pathsOf(prepared.args);
  if (prepared.receiver && PROXIED.test(name)) paths.push([]);
  const path = paths[place % Math.max(paths.length, 1)];
  if (!path) return undefined;
  if (path.length === 0)
    return {
      path,
      what: "a Proxy around the object",
      value: new Proxy(prepared.receiver as object, {}),
      isGuise: true,
    };
  const original = valueAt(prepared.args, path);
  const guises = GUISE_NAMES.map((what) => ({
    what,
    value: () => (GUISES[what] as Any)(original),
    isGuise: !OTHER_VALUES.has(what),
    mayBeAbsent: true,
  }));
  const wrong = WRONG_NAMES.map((what) => ({
    what,
    value: WRONG[what] as () => unknown,
    isGuise: false,
    mayBeAbsent: false,
  }));
  const all = [...wrong, ...guises];
  const chosen = all[kind % all.length] as (typeof all)[number];
  const value = chosen.value();
  if (chosen.mayBeAbsent && value === undefined) return undefined;
  return { path, what: chosen.what, value, isGuise: chosen.isGuise, original };
}

/** The kind of a value, as far as a call may tell kinds apart. Elements of a mask are numbers or booleans. */
function kindOf(value: unknown, path: Path): string {
  if (value === undefined || value === null) return "nothing";
  if (path.includes("mask") && /^(number|boolean|bigint)$/.test(typeof value)) return "number";
  if (types.isProxy(value) || typeof value !== "object") return typeof value;
  if (ArrayBuffer.isView(value)) return "a typed array";
  return Array.isArray(value) ? "an array" : "object";
}

/** What an invalid call came to: counts for the document, and calls that were accepted, for people to look at. */
export type Verdict = "refused" | "accepted" | "same bits" | "none";

/** Throws unless an invalid call is refused, and leaves everything as it was, or works as a right one. */
export async function checkWrong(
  name: string,
  spec: unknown,
  wrong: Wrong,
  accepted?: (what: string) => void,
): Promise<Verdict> {
  const generator = GENERATORS[name] as Generator;
  const target = generator.prepare(spec);
  const chosen = choose(name, target, wrong);
  if (!chosen || target.fails || (generator.bounded && LARGE.has(chosen.what))) {
    release(target);
    return "none";
  }
  const { path, what, value, isGuise } = chosen;
  const place = `${what} at ${path.length ? path.join(".") : "this"}`;
  const reference = generator.prepare(spec);
  const expected = await outcomeOf(() => reference.call(reference.args, reference.receiver));
  if (expected.error) throw expected.error;
  const expectedBits = bits(expected.result);
  const args = path.length ? replaced(target.args, path, value) : target.args;
  const receiver = path.length ? target.receiver : value;
  const before = bits(target.args);
  const state = target.state?.();
  const memory = used();
  let outcome: Outcome;
  try {
    const result = target.call(args, receiver);
    outcome = isPromise(result) ? await outcomeOf(() => result) : { result };
  } catch (error) {
    outcome = { error };
    if (used() !== memory) throw new Error(`${place}: ${used() - memory} bytes of memory were not freed`);
  }
  const { result, error } = outcome;
  try {
    if (!("error" in outcome)) {
      if (isGuise && path.length && !isDestination(path)) {
        if (bits(result) !== expectedBits)
          throw new Error(
            `${place}: another result, without an error: ${bits(result).slice(0, 200)} instead of ${expectedBits.slice(0, 200)}`,
          );
        return "same bits";
      }
      const isResized = /^(longer|shorter|detached)$/.test(what) && ArrayBuffer.isView(chosen.original);
      if (isResized && (chosen.original as Float32Array).length > 0 && !OF_ANY_LENGTH.has(name))
        throw new Error(`${place}: an array of another length is accepted`);
      const had = kindOf(chosen.original, path);
      const isOpen = typeof value === "object" && value !== null && !types.isProxy(value);
      // an object without names of its own counts as one of options, all of which are absent
      const got = isOpen && had === "object" && Object.keys(value).length === 0 ? had : kindOf(value, path);
      const isOtherKind =
        path.length > 0 &&
        had !== got &&
        had !== "nothing" &&
        got !== "nothing" &&
        !types.isProxy(value) &&
        !NUMBERS.has(what) &&
        !OF_ANY_KIND.has(name);
      if (isOtherKind && bits(result) !== expectedBits && !isDestination(path))
        throw new Error(
          `${place}: another result, without an error: ${bits(result).slice(0, 200)} instead of ${expectedBits.slice(0, 200)}`,
        );
      accepted?.(`${name}: ${what} at ${path.slice(0, 3).join(".")}`);
      return "accepted";
    }
    // a value that is another one at every read may be refused anywhere, by the engine too
    const complaint = what.startsWith("with getters that ") || isKnown(name, error) ? undefined : complaintAbout(error);
    if (complaint) throw new Error(`${place}: ${complaint}`);
    if (bits(target.args) !== before)
      throw new Error(`${place}: an argument has changed, though the call threw ${error.message}`);
    if (target.state && target.state() !== state)
      throw new Error(`${place}: state has changed, though the call threw ${error.message}`);
    if (target.probe) {
      const fresh = generator.prepare(spec);
      const [got, wanted] = [target.probe(), fresh.probe?.()];
      release(fresh);
      if (got !== wanted)
        throw new Error(`${place}: a pending backward has changed, though the call threw ${error.message}`);
    }
    const again = await outcomeOf(() => target.call(target.args, target.receiver));
    if (again.error) throw new Error(`${place}: the right call after it throws ${again.error.message}`);
    if (again.result !== target.receiver && bits(again.result) !== expectedBits)
      throw new Error(`${place}: the right call after it has other bits`);
    free(again.result);
    return "refused";
  } finally {
    release(target, result);
    release(reference, expected.result);
  }
}

/** A destination in another guise is the result itself, whose kind may be another. */
const isDestination = (path: Path) => path.some((name) => /out$/i.test(String(name)));

/** Descriptions of valid calls of a function. */
export const valid = (name: string) => fc.tuple((GENERATORS[name] as Generator).spec);

/** Descriptions of invalid calls of a function. */
export const invalid = (name: string) =>
  fc.tuple(
    (GENERATORS[name] as Generator).spec,
    fc.record({ place: fc.nat(60), kind: fc.nat(WRONG_NAMES.length + GUISE_NAMES.length - 1) }),
  );

/** Returns a call as code. */
export function code(name: string, spec: unknown, wrong?: Wrong): string {
  const prepared = (GENERATORS[name] as Generator).prepare(spec);
  const chosen = wrong && choose(name, prepared, wrong);
  const lines = [...(prepared.before ?? [])];
  const text = (value: unknown) => fc.stringify(plainly(value));
  lines.push(
    `${prepared.receiver && !prepared.before ? "(receiver) " : ""}${name}(${prepared.args.map(text).join(", ")})`,
  );
  if (chosen)
    lines.push(`// with ${chosen.what} at ${chosen.path.length ? `arguments[${chosen.path.join("].[")}]` : "this"}`);
  release(prepared);
  return lines.join("\n");
}

/** Returns a value with tensors as plain arrays, whose elements a text can show. */
function plainly(value: Any): unknown {
  if (value instanceof lib.Tensor)
    return { tensor: value.disposed ? "disposed" : value.data.slice(), shape: value.shape, dtype: value.dtype };
  if (value === null || typeof value !== "object" || Object.getPrototypeOf(value) !== Object.prototype) return value;
  return Object.fromEntries(Object.entries(value).map(([name, v]) => [name, name === "saved" ? "…" : plainly(v)]));
}
