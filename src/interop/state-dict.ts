// Saving and loading a layer's state under the names of PyTorch, Keras, TF.js, ONNX, Flax and Haiku. No other file
// contains these names. docs/state.md has them as a table.

import { wrongKind, wrongState } from "../common/errors.ts";
import { checkKeys, checkNumber, flag, isList, oneOf } from "../common/validate.ts";
import type {
  Framework,
  Layer,
  LoadOptions,
  LoadReport,
  NamedState,
  StateOptions,
  StateSource,
} from "../layer/slots.ts";
import type { Vector } from "../tensor/dtype.ts";
import { numbersOf } from "./safetensors.ts";

export const FRAMEWORKS = ["pytorch", "keras", "tfjs", "onnx", "flax", "haiku"] as const;

// ---- names ----------------------------------------------------------------------------------------------------------

/** The names of a framework. A list holds all names that are read; its first name is the one that is written. */
interface Names {
  readonly runningVariance: "unbiased" | "biased";
  readonly separator: "." | "/";
  /** Two texts that are written before the prefix: one for parameters, one for statistics. */
  readonly collections: readonly [string, string];
  /** Parts of a path that are removed when it is read, since they do not identify a value of the layer. */
  readonly ignored?: RegExp;
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
  // the branches of Keras 3's state tree, and the output index of a TensorFlow variable ("gamma:0")
  ignored: /^(non_)?trainable_variables\/|:0$/g,
  gamma: ["gamma"],
  beta: ["beta"],
  mean: ["moving_mean"],
  variance: ["moving_variance"],
};

const NAMES: Readonly<Record<Framework, Names>> = {
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

/**
 * Returns the factor that converts a variance between unbiased and biased: 1 if `count` is unknown or the kinds agree.
 */
function besselFactor(from: Names["runningVariance"], to: Names["runningVariance"], count: number | undefined): number {
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
  const format = oneOf("format", options.format, FRAMEWORKS, "pytorch");
  return { names: NAMES[format], format, prefix, count, strict: flag("strict", options.strict, true) };
}

// ---- saving ---------------------------------------------------------------------------------------------------------

const SAVE_OPTIONS = ["format", "prefix", "count"] as const;

/** Returns copies of a layer's parameters and running statistics under a framework's names. */
export function saveState({ options, gamma, beta, running }: Layer, settings: StateOptions): NamedState {
  const { names, format, prefix, count } = resolve("stateDict options", settings, SAVE_OPTIONS);
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
  if (format === "haiku") {
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

const LOAD_OPTIONS = ["format", "prefix", "count", "strict"] as const;

/**
 * Copies a state with a framework's names into the vectors of a layer. Throws BatchNormError "state-dict" for wrong
 * values and, if `strict`, for missing or unexpected names; the layer is unchanged then.
 */
export function loadState(layer: Layer, state: StateSource, settings: LoadOptions): LoadReport {
  const { names, prefix, count, strict } = resolve("loadStateDict options", settings, LOAD_OPTIONS);
  if (typeof state !== "object" || state === null) throw wrongKind("state", "an object of named arrays", state);
  const reader = new StateReader(state, names, prefix, layer.channels);
  const { options, running } = layer;
  const gamma = layer.gamma && reader.vector(names.gamma);
  const beta = layer.beta && reader.vector(names.beta);
  const mean = running && reader.vector(names.mean);
  const variance = running && reader.vector(names.variance);
  const replaced = Boolean(mean || variance);
  const batches = running && names.batches ? reader.count(names.batches) : replaced ? 0 : undefined;
  // optional, because PyTorch saves no number of values
  const valuesName = running && options.estimator === "population" && names.values;
  const values = (valuesName ? reader.count(valuesName, "optional") : undefined) ?? (replaced ? 0 : undefined);
  const report = reader.finish(strict);

  // set() keeps the array objects, which users may hold
  if (gamma) layer.gamma?.set(gamma);
  if (beta) layer.beta?.set(beta);
  if (mean) running?.mean.set(mean);
  if (variance) {
    const factor = besselFactor(names.runningVariance, options.runningVariance, count);
    running?.variance.set(variance.map((v) => v * factor));
  }
  if (running) {
    running.batches = batches ?? running.batches;
    running.values = values ?? running.values;
  }
  return report;
}

type List = ArrayLike<unknown>;
interface StateTensor {
  readonly data: List;
  readonly shape: readonly unknown[];
  readonly dtype?: unknown;
}

const isObject = (value: unknown): value is object => typeof value === "object" && value !== null;

const isTensor = (value: unknown): value is StateTensor =>
  isObject(value) && "shape" in value && Array.isArray(value.shape) && "data" in value && isList(value.data);

/** Whether a value is a nested object of entries, not a value of the state. */
function isBranch(value: unknown): value is object {
  if (!isObject(value) || isList(value) || isTensor(value)) return false;
  const prototype = Object.getPrototypeOf(value);
  return (prototype === Object.prototype || prototype === null) && Object.keys(value).length > 0;
}

/** Yields every value of a nested object with its path, whose keys are joined by "/". */
function* leaves(node: object, path = ""): Generator<[string, unknown]> {
  for (const [key, value] of Object.entries(node))
    if (isBranch(value)) yield* leaves(value, `${path}${key}/`);
    else yield [path + key, value];
}

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
  readonly #complaints: string[] = [];
  #found = 0;

  constructor(state: object, names: Names, prefix: string, channels: number) {
    this.#names = names;
    this.#channels = channels;
    const parent = this.#clean(prefix).replace(/[./]$/, "");
    this.#prefix = parent && parent + names.separator;
    const runningMean = new RegExp(`^(.+)[./]${this.#clean(names.mean[0] as string)}$`);
    for (const [path, value] of leaves(state)) {
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

  #miss(name: string): undefined {
    this.#missing.push(this.#prefix + name);
  }

  /** Returns the vector with one of these names as a float64 copy, which holds float32 and float64 values exactly. */
  vector(names: readonly string[]): Float64Array | undefined {
    const entry = this.#remove(names);
    if (!entry) return this.#miss(names[0] as string);
    const { path, value } = entry;
    const channels = this.#channels;
    const complain = (expected: string): undefined => {
      this.#complaints.push(`${path}: expected ${expected}`);
    };
    if (isTensor(value)) {
      const { dtype, shape } = value;
      // names of safetensors' types begin with a capital, and those of other libraries do not
      if (/^(?!(F64|F32|F16|BF16)$)[A-Z]/.test(String(dtype))) return complain(`F64, F32, F16 or BF16, got ${dtype}`);
      const [size = 1, ...otherSizes] = shape.filter((d) => d !== 1);
      if (size !== channels || otherSizes.length) return complain(`shape [${channels}] but for ones, got [${shape}]`);
    }
    const list = isTensor(value) ? numbersOf(value) : value;
    if (!isList(list) || !Array.from(list).every((v) => typeof v === "number"))
      return complain(`an array of ${channels} numbers`);
    if (list.length !== channels) return complain(`${channels} elements, got ${list.length}`);
    return Float64Array.from(list as ArrayLike<number>);
  }

  /** Returns the non-negative integer with this name: a number, a bigint, or an array of one of them. */
  count(name: string, optional?: "optional"): number | undefined {
    const entry = this.#remove([name]);
    if (!entry) return optional ? undefined : this.#miss(name);
    const value = isTensor(entry.value) ? numbersOf(entry.value) : entry.value;
    const scalar = isList(value) && value.length === 1 ? value[0] : value;
    const count = typeof scalar === "number" || typeof scalar === "bigint" ? Number(scalar) : Number.NaN;
    if (!Number.isSafeInteger(count) || count < 0)
      this.#complaints.push(`${entry.path}: expected one count, a non-negative integer`);
    return count;
  }

  /**
   * Returns the missing and the unexpected names. Throws BatchNormError "state-dict" with a list of all wrong values
   * and, if `strict`, of all missing and unexpected names.
   */
  finish(strict: boolean): LoadReport {
    for (const name of this.#names.unread ?? []) this.#entries.delete(this.#clean(name));
    const missing = this.#missing;
    const unexpected = Array.from(this.#entries.values(), ({ path }) => path);
    const names = [...missing.map((n) => `missing ${n}`), ...unexpected.map((n) => `unexpected ${n}`)];
    const complaints = [...(strict ? names : []), ...this.#complaints];
    if (complaints.length) throw wrongState(complaints, this.#found ? [] : this.#otherPrefixes);
    return { missing, unexpected };
  }
}
