// A layer's state under the names of PyTorch, Keras, TF.js, ONNX, Flax and Haiku: the only file that knows such a name.
// docs/state.md has the table.

import { wrongKind, wrongState, wrongValue } from "../common/errors.ts";
import { checkKeys, flag, oneOf } from "../common/validate.ts";
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
import { isDtype, numbersOf } from "./safetensors.ts";

export const FRAMEWORKS = ["pytorch", "keras", "tfjs", "onnx", "flax", "haiku"] as const;

// ---- names ----------------------------------------------------------------------------------------------------------

interface Format {
  readonly runningVariance: "unbiased" | "biased";
  readonly separator: "." | "/";
  /** Written before the prefix, for parameters and for statistics. */
  readonly collections: readonly [string, string];
  /** What is taken out of a path when it is read: it says nothing about the layer. */
  readonly noise?: RegExp;
  /** All are read; the first is written. */
  readonly gamma: readonly string[];
  readonly beta: readonly string[];
  readonly mean: readonly string[];
  readonly variance: readonly string[];
  readonly batches?: string;
  readonly values?: string;
  /** Known, and not needed. */
  readonly unread?: readonly string[];
}

const KERAS: Format = {
  runningVariance: "biased",
  separator: "/",
  collections: ["", ""],
  // Keras 3's state tree; the output index of a TensorFlow variable
  noise: /^(non_)?trainable_variables\/|:0$/g,
  gamma: ["gamma"],
  beta: ["beta"],
  mean: ["moving_mean"],
  variance: ["moving_variance"],
};

const FORMATS: Readonly<Record<Framework, Format>> = {
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
    // the second names are those before opset 14
    mean: ["input_mean", "mean"],
    variance: ["input_var", "var"],
  },
  flax: {
    runningVariance: "biased",
    separator: "/",
    collections: ["params/", "batch_stats/"],
    noise: /^(params|batch_stats)[./]/,
    gamma: ["scale"],
    beta: ["bias"],
    mean: ["mean"],
    variance: ["var"],
  },
  haiku: {
    runningVariance: "biased",
    separator: "/",
    collections: ["params/", "state/"],
    noise: /^(params|state)\/|~\//g,
    gamma: ["scale"],
    beta: ["offset"],
    mean: ["~/mean_ema/average"],
    variance: ["~/var_ema/average"],
    batches: "~/mean_ema/counter",
    unread: ["~/mean_ema/hidden", "~/var_ema/hidden", "~/var_ema/counter"],
  },
};

/** What turns a variance of one kind into the other's, if the count is known. */
function bessel(from: Format["runningVariance"], to: Format["runningVariance"], count: number | undefined): number {
  if (count === undefined || from === to) return 1;
  return to === "unbiased" ? count / (count - 1) : (count - 1) / count;
}

function resolve(where: string, options: LoadOptions, known: readonly string[]) {
  checkKeys(where, options, known);
  const { prefix = "", count } = options;
  if (typeof prefix !== "string") throw wrongKind("prefix", "a string", prefix);
  if (count !== undefined) {
    if (typeof count !== "number") throw wrongKind("count", "a number of values per channel", count);
    if (!(Number.isFinite(count) && count > 1)) throw wrongValue("count", "more than 1 value per channel", count);
  }
  const format = oneOf("format", options.format, FRAMEWORKS, "pytorch");
  return { names: FORMATS[format], format, prefix, count, strict: flag("strict", options.strict, true) };
}

// ---- saving ---------------------------------------------------------------------------------------------------------

const SAVE_OPTIONS = ["format", "prefix", "count"] as const;

/** Copies of what the layer has, under the names of a format. */
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
  const factor = bessel(options.runningVariance, names.runningVariance, count);
  state[statistics + names.mean[0]] = mean.slice();
  state[statistics + names.variance[0]] = variance.map((v) => v * factor);
  if (names.batches) state[statistics + names.batches] = batches;
  if (names.values && options.estimator === "population") state[statistics + names.values] = values;
  if (format === "haiku") {
    // average = hidden / (1 − decay^counter): haiku.ExponentialMovingAverage begins with 0, and divides that out
    const share = 1 - (1 - options.momentum) ** batches;
    for (const ema of ["mean_ema", "var_ema"]) {
      const average = state[`${statistics}~/${ema}/average`] as Vector;
      state[`${statistics}~/${ema}/hidden`] = average.map((v) => v * share);
      state[`${statistics}~/${ema}/counter`] = batches;
    }
  }
  return state;
}

// ---- loading --------------------------------------------------------------------------------------------------------

const LOAD_OPTIONS = ["format", "prefix", "count", "strict"] as const;

/** Loads what a framework saved, into the vectors that the layer has. All or nothing. */
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
  // PyTorch's own states have no such entry
  const population = running && options.estimator === "population" && names.values;
  const values = (population ? reader.count(population, "optional") : undefined) ?? (replaced ? 0 : undefined);
  const report = reader.finish(strict);

  // into the arrays that users may hold
  if (gamma) layer.gamma?.set(gamma);
  if (beta) layer.beta?.set(beta);
  if (mean) running?.mean.set(mean);
  if (variance) {
    const factor = bessel(names.runningVariance, options.runningVariance, count);
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

const isList = (value: unknown): value is List =>
  Array.isArray(value) || (ArrayBuffer.isView(value) && "length" in value);

const isObject = (value: unknown): value is object => typeof value === "object" && value !== null;

const isTensor = (value: unknown): value is StateTensor =>
  isObject(value) && "shape" in value && Array.isArray(value.shape) && "data" in value && isList(value.data);

/** An object that holds entries and is no value itself. */
function isBranch(value: unknown): value is object {
  if (!isObject(value) || isList(value) || isTensor(value)) return false;
  const prototype = Object.getPrototypeOf(value);
  return (prototype === Object.prototype || prototype === null) && Object.keys(value).length > 0;
}

/** Every value with its path. */
function* leaves(node: object, path = ""): Generator<[string, unknown]> {
  for (const [key, value] of Object.entries(node))
    if (isBranch(value)) yield* leaves(value, `${path}${key}/`);
    else yield [path + key, value];
}

/** Takes named values out of a state and collects what is wrong with it. */
class StateReader {
  /** What stands below the prefix, by its name there, and with its path for messages. */
  readonly #entries = new Map<string, { path: string; value: unknown }>();
  readonly #names: Format;
  readonly #channels: number;
  readonly #before: string;
  readonly #otherPrefixes: string[] = [];
  readonly #missing: string[] = [];
  readonly #complaints: string[] = [];
  #found = 0;

  constructor(state: object, names: Format, prefix: string, channels: number) {
    this.#names = names;
    this.#channels = channels;
    const above = this.#clean(prefix).replace(/[./]$/, "");
    this.#before = above && above + names.separator;
    const landmark = new RegExp(`^(.+)[./]${this.#clean(names.mean[0] as string)}$`);
    for (const [path, value] of leaves(state)) {
      const name = this.#clean(path);
      const other = landmark.exec(name)?.[1];
      if (other) this.#otherPrefixes.push(other);
      if (above && !(name.startsWith(above) && /[./]/.test(name.charAt(above.length)))) continue;
      const below = above ? name.slice(above.length + 1) : name;
      if (this.#entries.has(below)) this.#complaints.push(`${path}: expected one value of that name, got two`);
      this.#entries.set(below, { path, value });
    }
  }

  #clean(path: string): string {
    return this.#names.noise ? path.replace(this.#names.noise, "") : path;
  }

  #take(names: readonly string[]): { path: string; value: unknown } | undefined {
    const name = names.map((n) => this.#clean(n)).find((n) => this.#entries.has(n));
    if (name === undefined) return undefined;
    const entry = this.#entries.get(name);
    this.#entries.delete(name);
    this.#found++;
    return entry;
  }

  #miss(name: string): undefined {
    this.#missing.push(this.#before + name);
  }

  /** A copy in float64, which holds every float32. */
  vector(names: readonly string[]): Float64Array | undefined {
    const entry = this.#take(names);
    if (!entry) return this.#miss(names[0] as string);
    const { path, value } = entry;
    const channels = this.#channels;
    const complain = (what: string): undefined => {
      this.#complaints.push(`${path}: expected ${what}`);
    };
    if (isTensor(value)) {
      const { dtype, shape } = value;
      if (isDtype(dtype) && !/^(F64|F32|F16|BF16)$/.test(dtype)) return complain(`F64, F32, F16 or BF16, got ${dtype}`);
      const [size = 1, ...more] = shape.filter((d) => d !== 1);
      if (size !== channels || more.length) return complain(`shape [${channels}] but for ones, got [${shape}]`);
    }
    const list = isTensor(value) ? numbersOf(value) : value;
    if (!isList(list) || !Array.from(list).every((v) => typeof v === "number"))
      return complain(`an array of ${channels} numbers`);
    if (list.length !== channels) return complain(`${channels} elements, got ${list.length}`);
    return Float64Array.from(list as ArrayLike<number>);
  }

  count(name: string, optional?: "optional"): number | undefined {
    const entry = this.#take([name]);
    if (!entry) return optional ? undefined : this.#miss(name);
    const value = isTensor(entry.value) ? numbersOf(entry.value) : entry.value;
    const one = isList(value) && value.length === 1 ? value[0] : value;
    const count = typeof one === "number" || typeof one === "bigint" ? Number(one) : Number.NaN;
    if (!Number.isSafeInteger(count) || count < 0)
      this.#complaints.push(`${entry.path}: expected one count, a non-negative integer`);
    return count;
  }

  /** Throws for every value that is wrong and, if strict, for every name that is missing or left over. */
  finish(strict: boolean): LoadReport {
    for (const name of this.#names.unread ?? []) this.#entries.delete(this.#clean(name));
    const missing = this.#missing;
    const unexpected = Array.from(this.#entries.values(), ({ path }) => path);
    const complaints = [...this.#complaints];
    if (strict) complaints.unshift(...missing.map((n) => `missing ${n}`), ...unexpected.map((n) => `unexpected ${n}`));
    if (complaints.length) throw wrongState(complaints, this.#found ? [] : this.#otherPrefixes);
    return { missing, unexpected };
  }
}
