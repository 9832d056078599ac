// One state of layers that were trained apart. An average of running variances alone loses the spread of the means:
//
//   n = Σ nᵢ      mean = Σ nᵢ·meanᵢ / n      M2 = Σ M2ᵢ + nᵢ·(meanᵢ − mean)²      (Chan, Golub & LeVeque 1979)
//
// M2 = n·variance for the biased variance, and (n − 1)·variance for the unbiased one.

import { LOST, missing, wrongKind, wrongLength, wrongValue } from "../common/errors.ts";
import { checkKeys, checkNumber, checkObject, hasAny, oneOf } from "../common/validate.ts";
import type { Framework } from "../layer/options.ts";
import type { StateSource } from "../layer/slots.ts";
import { mergeStatistics } from "../ops/statistics.ts";
import { newVector, type Vector } from "../tensor/dtype.ts";
import { typeOf } from "../tensor/half.ts";
import { countOf, FRAMEWORKS, leaves, NAMES, numbersOf, tensorOf } from "./state-dict.ts";

/** A state to merge, and the number of values per channel in its running statistics. */
export interface StatePart {
  /** The state of one layer, or of a model whose layers it names. */
  readonly state: StateSource;
  /** Number of values per channel in the running statistics, also the weight of the state's other values. */
  readonly count: number;
}

/** Options of mergeStates. */
export interface MergeOptions {
  /** The framework whose names the states have. Default "pytorch". */
  framework?: Framework;
  /** The kind of the states' running variances. Default: the framework's, "unbiased" for "pytorch" and else "biased". */
  runningVariance?: "unbiased" | "biased";
}

/** A merged state: values by their paths, as arrays, or as tensors where the first state has tensors. */
export type MergedState = Record<
  string,
  number | Vector | { data: Vector; shape: readonly number[]; dtype: "float32" | "float64" }
>;

/**
 * Merges states of layers or models that were trained apart, as in federated averaging, into one that loadStateDict
 * reads. Running statistics become those of all values together (Chan, Golub & LeVeque 1979), exact if each state's are
 * exact for `count` values. Counts are added up, and other values averaged with the weights `count`, in float64,
 * rounded once to the type of the first state's arrays, or from 16 bits to float32.
 *
 * Throws TypeError for a wrong type, and RangeError for states of different names or lengths or without running
 * statistics, and for counts that are negative or add up to too few values.
 */
export function mergeStates(parts: Iterable<StatePart>, options: MergeOptions = {}): MergedState {
  checkKeys("mergeStates options", options, ["framework", "runningVariance"]);
  const names = NAMES[oneOf("framework", options.framework, FRAMEWORKS, "pytorch")];
  const kind = oneOf("runningVariance", options.runningVariance, ["unbiased", "biased"], names.runningVariance);
  const { states, counts, total } = checkParts(parts, kind);
  const correction = kind === "unbiased" ? 1 : 0;
  const clean = (name: string) => (names.ignored ? name.replace(names.ignored, "") : name);
  const suffix = (list: readonly string[]) => new RegExp(`(^|[./])(${list.map(clean).join("|")})(:0)?$`);
  const meanName = suffix(names.mean);
  const countName = suffix([names.batches, names.values].filter((name) => name !== undefined));
  const unreadName = suffix(names.unread ?? []);
  const varianceOf = (path: string) =>
    path.replace(meanName, (_, before: string, name: string, after = "") => {
      return before + clean(names.variance[names.mean.map(clean).indexOf(name)] as string) + after;
    });

  const first = states[0] as Map<string, unknown>;
  const merged = new Map<string, MergedState[string]>();
  const vectors = (path: string, like = first.get(path)) => {
    const length = numbersOf(like)?.length;
    return states.map((state, i) => vectorOf(`parts[${i}].state.${path}`, state.get(path), length));
  };
  for (const [path, value] of first) {
    const variancePath = varianceOf(path);
    if (names.batches && countName.test(path)) {
      merged.set(path, states.map((state, i) => checkCount(`parts[${i}].state.${path}`, state.get(path))).reduce(plus));
    } else if (meanName.test(path) && first.has(variancePath)) {
      const variances = vectors(variancePath, value);
      const statistics = mergeStatistics(
        vectors(path).map((mean, i) => {
          const count = counts[i] as number;
          const toBiased = count > 0 ? (count - correction) / count : 0;
          return { count, mean, variance: (variances[i] as Float64Array).map((v) => v * toBiased) };
        }),
      );
      const fromBiased = total / (total - correction);
      merged.set(path, likeFirst(statistics.mean, value));
      merged.set(
        variancePath,
        likeFirst(
          statistics.variance.map((v) => v * fromBiased),
          first.get(variancePath),
        ),
      );
    }
  }
  if (![...merged.keys()].some((path) => meanName.test(path)))
    throw missing(
      "parts[0].state",
      `running statistics (${names.mean[0]}, ${names.variance[0]})${first.size ? "" : ` (${LOST})`}`,
    );
  for (const [path, value] of first)
    if (!merged.has(path) && !(names.unread && unreadName.test(path)))
      merged.set(path, likeFirst(average(vectors(path), counts, total), value));
  return Object.fromEntries(merged);
}

const plus = (a: number, b: number) => a + b;

/** Returns the entries of all states, which have the same names, with their counts. */
function checkParts(parts: Iterable<StatePart>, kind: "unbiased" | "biased") {
  if (!hasAny(parts, Symbol.iterator)) throw wrongKind("parts", "a list of { state, count }", parts);
  const list = [...parts];
  const states = list.map((part, i) => {
    checkKeys(`parts[${i}]`, part, ["state", "count"]);
    checkObject(`parts[${i}].state`, part.state, "an object of named arrays");
    if (tensorOf(part.state)) throw wrongKind(`parts[${i}].state`, "an object of named arrays", part.state);
    return new Map(leaves(part.state));
  });
  for (const [i, state] of states.entries())
    for (const [a, b] of [
      [states[0] as typeof state, state],
      [state, states[0] as typeof state],
    ] as const)
      for (const path of a.keys())
        if (!b.has(path)) throw wrongValue(`parts[${i}].state`, "the names of parts[0].state", path);
  const counts = list.map(({ count }, i) =>
    checkNumber(`parts[${i}].count`, count, "a finite number ≥ 0", (n) => n >= 0 && n < Number.POSITIVE_INFINITY),
  );
  const total = counts.reduce(plus, 0);
  const least = kind === "unbiased" ? 1 : 0;
  if (!(total > least)) throw wrongValue("parts", `counts with a sum above ${least}`, total);
  return { states, counts, total };
}

function vectorOf(name: string, value: unknown, length: number | undefined): Float64Array {
  const numbers = numbersOf(value);
  if (!numbers) throw wrongKind(name, "floats, whose type is declared if they have 16 bits", value);
  if (numbers.length !== length) throw wrongLength(name, [length as number], numbers.length);
  return Float64Array.from(numbers);
}

function checkCount(name: string, value: unknown): number {
  const count = countOf(value);
  if (Number.isNaN(count)) throw wrongKind(name, "one count, a non-negative integer", value);
  return count;
}

/** Returns Σ count·vector / total. A vector without weight does not count, even if it is NaN. */
function average(vectors: readonly Float64Array[], counts: readonly number[], total: number): Float64Array {
  const mean = new Float64Array((vectors[0] as Float64Array).length);
  for (const [i, vector] of vectors.entries()) {
    const weight = (counts[i] as number) / total;
    if (weight > 0)
      for (let c = 0; c < mean.length; c++) mean[c] = (mean[c] as number) + weight * (vector[c] as number);
  }
  return mean;
}

/** Returns numbers in the form and, if it is float32 or float64, the type of the first state's value. */
function likeFirst(numbers: Float64Array, value: unknown): MergedState[string] {
  const { data, shape, dtype: declared } = tensorOf(value) ?? {};
  const dtype = typeOf(data, declared) === "float64" ? "float64" : "float32";
  const vector: Vector = newVector(dtype, numbers.length);
  vector.set(numbers);
  return shape ? { data: vector, shape: shape as number[], dtype } : vector;
}
