// Saving and loading a layer's state under the names of PyTorch, Keras, TF.js, ONNX, Flax and Haiku. No other file
// contains these names. docs/guides/state-dicts.md has them as a table.

import { LOST, wrongKind, wrongState } from "../common/errors.ts";
import { checkKeys, checkNumber, flag, isArray, isList, isNumbers, isObject, oneOf } from "../common/validate.ts";
import type { Framework } from "../layer/options.ts";
import type { Layer, LoadOptions, LoadReport, NamedState, StateOptions, StateSource } from "../layer/slots.ts";
import type { Vector } from "../tensor/dtype.ts";
import { floatsOf } from "../tensor/half.ts";

// ---- names ----------------------------------------------------------------------------------------------------------

/** The names of a framework. A list holds all names that are read; its first name is the one that is written. */
interface Names {
  readonly runningVariance: "unbiased" | "biased";
  readonly separator: "." | "/";
  /** Two texts that are written before the prefix: one for parameters, one for statistics. */
  readonly collections: readonly [string, string];
  /** Parts of a path that are removed when it is read, since they do not identify a value of the layer. */
  readonly ignored?: RegExp;
  /** Whether values may have numbers as names, in the order gamma, beta, mean, variance of those that the layer has. */
  readonly numbered?: boolean;
  readonly gamma: readonly string[];
  readonly beta: readonly string[];
  readonly mean: readonly string[];
  readonly variance: readonly string[];
  readonly batches?: string;
  readonly values?: string;
  /** Names that a state may contain and that loading does not need. */
  readonly unread?: readonly string[];
}

const KERAS: Names = {
  runningVariance: "biased",
  separator: "/",
  collections: ["", ""],
  // the branches of Keras 3's state tree, the group of a layer's variables in its files ("vars/0"), and the output index
  // of a TensorFlow variable ("gamma:0")
  ignored: /^(non_)?trainable_variables\/|(?<=^|\/)vars(\/|$)(?=\d*$)|:0$/g,
  numbered: true,
  gamma: ["gamma"],
  beta: ["beta"],
  mean: ["moving_mean"],
  variance: ["moving_variance"],
};

export const NAMES: Readonly<Record<Framework, Names>> = {
  pytorch: {
    runningVariance: "unbiased",
    separator: ".",
    collections: ["", ""],
    gamma: ["weight"],
    beta: ["bias"],
    mean: ["running_mean"],
    variance: ["running_var"],
    batches: "num_batches_tracked",
    values: "num_values_tracked",
  },
  keras: KERAS,
  tfjs: KERAS,
  onnx: {
    runningVariance: "biased",
    separator: ".",
    collections: ["", ""],
    gamma: ["scale"],
    beta: ["B"],
    // before opset 14 the operator's inputs have the second names
    mean: ["input_mean", "mean"],
    variance: ["input_var", "var"],
  },
  flax: {
    runningVariance: "biased",
    separator: "/",
    collections: ["params/", "batch_stats/"],
    ignored: /^(params|batch_stats)[./]/,
    gamma: ["scale"],
    beta: ["bias"],
    mean: ["mean"],
    variance: ["var"],
  },
  haiku: {
    runningVariance: "biased",
    separator: "/",
    collections: ["params/", "state/"],
    ignored: /^(params|state)\/|~\//g,
    gamma: ["scale"],
    beta: ["offset"],
    mean: ["~/mean_ema/average"],
    variance: ["~/var_ema/average"],
    batches: "~/mean_ema/counter",
    unread: ["~/mean_ema/hidden", "~/var_ema/hidden", "~/var_ema/counter"],
  },
};

export const FRAMEWORKS = /* @__PURE__ */ Object.keys(NAMES) as Framework[];

/**
 * Returns the factor that converts a variance between unbiased and biased: 1 if `count` is unknown or the kinds agree.
 */
export function besselFactor(
  from: Names["runningVariance"],
  to: Names["runningVariance"],
  count: number | undefined,
): number {
  if (count === undefined || from === to) return 1;
  return to === "unbiased" ? count / (count - 1) : (count - 1) / count;
}

/**
 * Checks options and fills in their defaults. `label` names the options in errors, and `known` are the allowed keys.
 */
function resolve(label: string, options: LoadOptions, known: readonly string[]) {
  checkKeys(label, options, known);
  const { prefix = "", count } = options;
  if (typeof prefix !== "string") throw wrongKind("prefix", "a string", prefix);
  if (count !== undefined) checkNumber("count", count, "more than 1 value per channel", (n) => n > 1 && n < Infinity);
  const framework = oneOf("framework", options.framework, FRAMEWORKS, "pytorch");
  return { names: NAMES[framework], framework, prefix, count, strict: flag("strict", options.strict, true) };
}

// ---- saving ---------------------------------------------------------------------------------------------------------

const SAVE_OPTIONS = ["framework", "prefix", "count"] as const;

/** Returns copies of a layer's parameters and running statistics under a framework's names. */
export function saveState({ options, gamma, beta, running }: Layer, settings: StateOptions): NamedState {
  const { names, framework, prefix, count } = resolve("stateDict options", settings, SAVE_OPTIONS);
  const [parameters, statistics] = names.collections.map(
    (collection) => collection + prefix + (prefix && !/[./]$/.test(prefix) ? names.separator : ""),
  ) as [string, string];
  const state: NamedState = {};
  if (gamma) state[parameters + names.gamma[0]] = gamma.slice();
  if (beta) state[parameters + names.beta[0]] = beta.slice();
  if (!running) return state;
  const { mean, variance, batches, values } = running;
  const factor = besselFactor(options.runningVariance, names.runningVariance, count);
  state[statistics + names.mean[0]] = mean.slice();
  state[statistics + names.variance[0]] = variance.map((v) => v * factor);
  if (names.batches) state[statistics + names.batches] = batches;
  if (names.values && options.estimator === "population") state[statistics + names.values] = values;
  if (framework === "haiku") {
    // haiku.ExponentialMovingAverage starts at 0 and corrects for it: average = hidden / (1 − decay^counter)
    const weightOfBatches = 1 - (1 - options.momentum) ** batches;
    for (const ema of ["mean_ema", "var_ema"]) {
      const average = state[`${statistics}~/${ema}/average`] as Vector;
      state[`${statistics}~/${ema}/hidden`] = average.map((v) => v * weightOfBatches);
      state[`${statistics}~/${ema}/counter`] = batches;
    }
  }
  return state;
}

// ---- loading --------------------------------------------------------------------------------------------------------

const LOAD_OPTIONS = ["framework", "prefix", "count", "strict"] as const;

/**
 * Copies a state with a framework's names into the vectors of a layer. Throws BatchNormError "state-dict" for values of
 * a wrong kind and, if `strict`, for missing or unexpected names and for values that are not finite; the layer is
 * unchanged then.
 */
export function loadState(layer: Layer, state: StateSource, settings: LoadOptions): LoadReport {
  const { names, prefix, count, strict } = resolve("loadStateDict options", settings, LOAD_OPTIONS);
  if (!isObject(state) || /Array|DataView/.test(Object.prototype.toString.call(state)))
    throw wrongKind("state", "an object of named arrays, as readSafetensors(bytes).tensors", state);
  const { options, running } = layer;
  const isNeeded = Boolean(layer.gamma || layer.beta || running);
  const reader = new StateReader(state, names, prefix, layer.channels, isNeeded);
  const parts = [
    [layer.gamma, names.gamma],
    [layer.beta, names.beta],
    [running?.mean, names.mean],
    [running?.variance, names.variance],
  ] as const;
  const [gamma, beta, mean, variance] = reader.vectors(parts);
  if (variance) {
    const factor = besselFactor(names.runningVariance, options.runningVariance, count);
    for (let c = 0; c < variance.length; c++) variance[c] = (variance[c] as number) * factor;
  }
  const { estimator } = options;
  const isWeighedByCount = estimator === "cumulative" || estimator === "debiased";
  const why = isWeighedByCount ? `, which estimator "${estimator}" needs` : undefined;
  // statistics without a count have a count of 0
  const absent = mean || variance ? 0 : undefined;
  const batches = (running && names.batches ? reader.count(names.batches, why) : undefined) ?? absent;
  const hasValues = running && names.values && estimator === "population";
  const values = (hasValues ? reader.count(names.values) : undefined) ?? absent;
  const report = reader.finish(strict);

  // set() keeps the array objects, which users may hold
  if (gamma) layer.gamma?.set(gamma);
  if (beta) layer.beta?.set(beta);
  if (running) {
    const before = { batches: running.batches, values: running.values };
    // the digits behind float32 are no part of a state, and layers that load one state have to go on alike
    if (mean && variance) running.reset();
    if (mean) running.mean.set(mean);
    if (variance) running.variance.set(variance);
    running.batches = batches ?? before.batches;
    running.values = values ?? before.values;
  }
  return report;
}

type List = ArrayLike<unknown>;

/** A value of a state: an array, or a tensor with its shape and the name of its type. */
interface StateTensor {
  readonly data: List;
  readonly shape?: readonly unknown[];
  readonly dtype?: string | undefined;
}

/**
 * Returns the elements of an array. JSON.stringify makes an object with the keys 0, 1, 2, … of a typed array; it counts
 * as an array if its values are numbers, or null for NaN.
 */
function listOf(value: unknown): List | undefined {
  if (isList(value)) return value;
  if (!isObject(value)) return undefined;
  const values = Object.values(value);
  const isIndexed = Object.keys(value).every((key, i) => key === String(i));
  return values.length && isIndexed && values.every((v) => typeof v === "number" || v === null) ? values : undefined;
}

/** Returns an array or { data, shape } as a tensor, and undefined for every other value. */
export function tensorOf(value: unknown): StateTensor | undefined {
  const list = listOf(value);
  if (list) return { data: list };
  if (!isObject(value) || !("shape" in value && isArray(value.shape) && "data" in value)) return undefined;
  const data = listOf(value.data);
  const { dtype } = value as { dtype?: unknown };
  return data && { data, shape: value.shape, dtype: typeof dtype === "string" ? dtype : undefined };
}

/** Whether a value is a nested object of entries, not a value of the state. */
function isBranch(value: unknown): value is object {
  if (!isObject(value) || tensorOf(value)) return false;
  const prototype = Object.getPrototypeOf(value);
  return (
    value instanceof Map || ((prototype === Object.prototype || prototype === null) && Object.keys(value).length > 0)
  );
}

/** Objects deeper than this are values, so that a state that contains itself ends. */
const MAX_DEPTH = 32;

/**
 * After so many entries of objects that the walk has met before, it enters no object again. Layers may share parameters,
 * but objects that share objects at every level have exponentially many paths.
 */
const MAX_SHARED = 10_000;

/** The objects that a walk has entered, and the number of entries in those that it has entered again. */
interface Walked {
  readonly objects: Set<object>;
  shared: number;
}

/**
 * Yields every value of a nested object or Map with its path, whose keys are joined by "/". An object inside itself is a
 * value, and so is one that is entered again after MAX_SHARED entries of such objects, so that the walk ends soon.
 */
export function* leaves(
  node: object,
  path = "",
  above: readonly object[] = [],
  walked: Walked = { objects: new Set(), shared: 0 },
): Generator<[string, unknown]> {
  const here = [...above, node];
  const isAgain = walked.objects.has(node);
  walked.objects.add(node);
  for (const [key, value] of node instanceof Map ? node : Object.entries(node)) {
    if (isAgain) walked.shared++;
    const isOpen = isBranch(value) && !(walked.shared > MAX_SHARED && walked.objects.has(value));
    if (isOpen && here.length <= MAX_DEPTH && !here.includes(value))
      yield* leaves(value, `${path}${key}/`, here, walked);
    else yield [`${path}${key}`, value];
  }
}

/**
 * Returns the numbers of an array or tensor in a state: floats, 16-bit ones by their declared type, and plain arrays of
 * numbers. Returns undefined for everything else.
 */
export function numbersOf(value: unknown): ArrayLike<number> | undefined {
  const tensor = tensorOf(value);
  if (!tensor) return undefined;
  const { data, dtype } = tensor;
  // a plain array of a 16-bit type may hold numbers or bits
  return isNumbers(data) && !/16$/.test(dtype ?? "") ? data : floatsOf(data, dtype);
}

/** Returns a non-negative integer: a number, a bigint, or an array of one of them. Returns NaN for everything else. */
export function countOf(value: unknown): number {
  const tensor = tensorOf(value);
  const list = tensor && (floatsOf(tensor.data, tensor.dtype) ?? tensor.data);
  const scalar = list?.length === 1 ? list[0] : value;
  const count = typeof scalar === "number" || typeof scalar === "bigint" ? Number(scalar) : Number.NaN;
  return Number.isSafeInteger(count) && count >= 0 ? count : Number.NaN;
}

/** A vector of the layer, or nothing for a part that it does not have, and the names of that part. */
type Part = readonly [own: Vector | null | undefined, names: readonly string[]];

/** Reads named values of a state and collects all errors, so that one exception can list them. */
class StateReader {
  /** Values below the prefix that have not been read, by their name without it. `path` is for error messages. */
  readonly #entries = new Map<string, { path: string; value: unknown }>();
  readonly #names: Names;
  readonly #channels: number;
  /** The prefix with its separator, or "". */
  readonly #prefix: string;
  /** Prefixes below which the state has a running mean. They are hints for a prefix without any entry. */
  readonly #otherPrefixes: string[] = [];
  readonly #missing: string[] = [];
  readonly #invalid: string[] = [];
  /** What is wrong in any case, and what is wrong only in a strict call. */
  readonly #complaints: string[] = [];
  readonly #strictComplaints: string[] = [];
  #found = 0;

  constructor(state: object, names: Names, prefix: string, channels: number, isNeeded: boolean) {
    this.#names = names;
    this.#channels = channels;
    const parent = this.#clean(prefix).replace(/[./]$/, "");
    this.#prefix = parent && parent + names.separator;
    const mean = this.#clean(names.mean[0] as string) + (names.numbered ? "|3" : "");
    const runningMean = new RegExp(`^(.+)[./](${mean})$`);
    const all = [...leaves(state)];
    if (all.length === 0 && isNeeded) this.#strictComplaints.push(`state: expected values by name, got none; ${LOST}`);
    for (const [path, value] of all) {
      const fullName = this.#clean(path);
      const other = runningMean.exec(fullName)?.[1];
      if (other) this.#otherPrefixes.push(other);
      if (parent && !(fullName.startsWith(parent) && /[./]/.test(fullName.charAt(parent.length)))) continue;
      const name = parent ? fullName.slice(parent.length + 1) : fullName;
      if (this.#entries.has(name)) this.#complaints.push(`${path}: expected one value of that name, got two`);
      this.#entries.set(name, { path, value });
    }
  }

  #clean(path: string): string {
    return this.#names.ignored ? path.replace(this.#names.ignored, "") : path;
  }

  /** Removes the entry of the first of these names that the state has, and returns it. */
  #remove(names: readonly string[]): { path: string; value: unknown } | undefined {
    const name = names.map((n) => this.#clean(n)).find((n) => this.#entries.has(n));
    if (name === undefined) return undefined;
    const entry = this.#entries.get(name);
    this.#entries.delete(name);
    this.#found++;
    return entry;
  }

  /** Notes that a name is missing, and `why` that is an error; without a reason it is none. */
  #miss(name: string, why?: string): undefined {
    this.#missing.push(this.#prefix + name);
    if (why !== undefined) this.#strictComplaints.push(`missing ${this.#prefix}${name}${why}`);
  }

  /**
   * Returns gamma, beta, mean and variance, as far as the layer has them, as float64 copies, which hold float32 and
   * float64 values exactly.
   */
  vectors(parts: readonly Part[]): (Float64Array | undefined)[] {
    const own = parts.filter(([vector]) => vector);
    const isNumbered =
      this.#names.numbered && this.#entries.has(String(own.length - 1)) && !this.#entries.has(String(own.length));
    return parts.map((part) => {
      const [vector, names] = part;
      if (!vector) return undefined;
      return this.#vector(isNumbered ? [...names, String(own.indexOf(part))] : names, vector);
    });
  }

  #vector(names: readonly string[], own: Vector): Float64Array | undefined {
    const entry = this.#remove(names);
    if (!entry) return this.#miss(names[0] as string, "");
    const { path, value } = entry;
    const channels = this.#channels;
    const complain = (expected: string): undefined => {
      this.#complaints.push(`${path}: expected ${expected}`);
    };
    const { dtype, shape } = tensorOf(value) ?? {};
    // names of safetensors' types begin with a capital, and those of other libraries do not
    if (/^(?!(F64|F32|F16|BF16)$)[A-Z]/.test(dtype ?? "")) return complain(`F64, F32, F16 or BF16, got ${dtype}`);
    const [size = 1, ...otherSizes] = shape ? shape.filter((d) => d !== 1) : [channels];
    if (size !== channels || otherSizes.length) return complain(`shape [${channels}] but for ones, got [${shape}]`);
    const numbers = numbersOf(value);
    if (!numbers) return complain(`an array of ${channels} numbers; those of 16 bits need { data, shape, dtype }`);
    if (numbers.length !== channels) return complain(`${channels} elements, got ${numbers.length}`);
    const vector = Float64Array.from(numbers);
    const rounded = own instanceof Float32Array ? Float32Array.from(numbers) : vector;
    const isVariance = names[0] === this.#names.variance[0];
    const wrong = rounded.findIndex((v) => !Number.isFinite(v) || (isVariance && v < 0));
    if (wrong >= 0) {
      this.#invalid.push(path);
      const expected = `finite numbers${isVariance ? " ≥ 0" : ""}`;
      this.#strictComplaints.push(`${path}: expected ${expected}, got ${vector[wrong]} in channel ${wrong}`);
    }
    return vector;
  }

  /** Returns the count with this name. `why` says why an absent count is an error; without a reason it is none. */
  count(name: string, why?: string): number | undefined {
    const entry = this.#remove([name]);
    if (!entry) return this.#miss(name, why);
    const count = countOf(entry.value);
    if (Number.isNaN(count)) this.#complaints.push(`${entry.path}: expected one count, a non-negative integer`);
    return count;
  }

  /**
   * Returns the names that are missing, unexpected and invalid. Throws BatchNormError "state-dict" with a list of all
   * wrong values and, if `strict`, of all names that are missing, unexpected or invalid.
   */
  finish(strict: boolean): LoadReport {
    for (const name of this.#names.unread ?? []) this.#entries.delete(this.#clean(name));
    const missing = this.#missing;
    const unexpected = Array.from(this.#entries.values(), ({ path }) => path);
    const complaints = strict
      ? this.#strictComplaints.concat(
          this.#complaints,
          unexpected.map((name) => `unexpected ${name}`),
        )
      : this.#complaints;
    // a mistyped prefix is an error also where names may be missing
    if (!strict && this.#prefix && missing.length && !this.#found)
      complaints.push(`prefix: expected names such as ${missing[0]}, got none`);
    if (complaints.length) throw wrongState(complaints, this.#found ? [] : this.#otherPrefixes);
    return { missing, unexpected, invalid: this.#invalid };
  }
}
