// Keras's layer Normalization, which TF.js does not have: (x − mean)/max(√variance, 1e-7) by statistics of the data that
// `adapt` has seen. Configuration, weights and their names are Keras's, so that TF.js loads models that Keras has saved.
// The layer's formula is composed of TF.js's operations, and so runs and has gradients on every backend.

import * as tf from "@tensorflow/tfjs-core";
import { initializers, LayersModel, type LayerVariable, layers } from "@tensorflow/tfjs-layers";
import { adaptGiven, disposed, nonFinite, tooFew, wrongKind, wrongShape, wrongValue } from "../common/errors.ts";
import { checkNumber, flag, isList, isNumbers, isObject } from "../common/validate.ts";
import { batchNormStatistics } from "../ops/batch-norm.ts";
import { type BatchStatistics, mergeStatistics, nonFiniteChannel } from "../ops/statistics.ts";
import { checkTensor } from "./arguments.ts";
import { type Batches, forEachBatch, onlyTensorOf } from "./batches.ts";
import { type Layer, layersOf } from "./model-layers.ts";

/** The lower limit of the standard deviation: keras.backend.epsilon(). */
const EPSILON = 1e-7;

/** The largest rank of TF.js's tensors. */
const MAX_RANK = 6;

/** The largest value of the weight `count`, which is int32. */
const MAX_COUNT = 2 ** 31 - 1;

type Size = number | null;
type BaseConfig = NonNullable<ConstructorParameters<typeof layers.Layer>[0]>;

/** A number, or numbers in the shape of the statistics. */
export type Numbers = number | ArrayLike<number> | readonly Numbers[];

/** The configuration of `normalization`: that of keras.layers.Normalization, and of every layer of TF.js. */
export interface NormalizationConfig extends BaseConfig {
  /**
   * The axis or axes whose indices have statistics of their own. null or [] is one mean and variance for all values.
   * Default −1, the last axis.
   */
  axis?: number | readonly number[] | null;
  /**
   * The mean to normalise by, instead of one from `adapt`: finite numbers. It is broadcast to the sizes of the axes, and may
   * have axes of size 1 before them, or all axes of the input, as Keras saves it.
   */
  mean?: Numbers | null;
  /** The biased variance to normalise by, together with `mean`: numbers ≥ 0. */
  variance?: Numbers | null;
  /** Whether to invert the normalization: x·max(√variance, 1e-7) + mean. Default false. */
  invert?: boolean;
}

/** Data that `adapt` takes: all at once as a tensor or as numbers, or in batches. */
export type AdaptData = tf.Tensor | tf.TensorLike | Batches;

/** The layer that `normalization` returns. */
export interface NormalizationLayer extends layers.Layer {
  /**
   * Replaces the layer's mean and variance by those of these data: all values weigh the same, in any number of batches,
   * merged in float64. An earlier `adapt` does not count. A layer that has not been built is built for the data's shape.
   *
   * Batches are tensors, or objects { xs } as in tf.data datasets for `fitDataset`, of one input. If the promise is rejected,
   * the layer is as before. Rejects with TypeError for anything else and for a layer with a given mean, RangeError for shapes
   * that do not fit and for no values, and BatchNormError for values that are not finite and for what is disposed of.
   */
  adapt(data: AdaptData): Promise<void>;
}

type LayerClass = (new (config: NormalizationConfig) => NormalizationLayer) & { className: string };

/** Returns a list of a configuration. Keras 3 may write { items } for a tuple, and { config: { value } } for an array. */
function unwrapped(value: unknown): unknown {
  if (!isObject(value)) return value;
  const { items, config } = value as { items?: unknown; config?: { value?: unknown } };
  return items ?? config?.value ?? value;
}

/** Returns the axes of a configuration. */
function axesOf(axis: unknown): readonly number[] {
  if (axis === undefined) return [-1];
  if (axis === null) return [];
  const list = typeof axis === "number" ? [axis] : unwrapped(axis);
  if (!isNumbers(list) || !list.every(Number.isInteger))
    throw wrongKind("axis", "an integer, a list of integers, or null", axis);
  return list;
}

/** Returns the axes that have statistics of their own, counted from the first, in ascending order. */
function keptAxes(axes: readonly number[], rank: number): number[] {
  const kept = axes.map((axis) => (axis < 0 ? axis + rank : axis));
  if (!kept.every((axis) => axis >= 0 && axis < rank))
    throw wrongValue("axis", `axes of an input of rank ${rank}`, axes);
  return [...new Set(kept)].sort((a, b) => a - b);
}

/** Returns the sizes of the kept axes. Throws RangeError for one that is unknown. */
const keptSizes = (shape: readonly Size[], kept: readonly number[]): number[] =>
  kept.map((axis) => {
    const size = shape[axis];
    if (typeof size !== "number") throw wrongValue("axis", `an axis of known size in ${JSON.stringify(shape)}`, axis);
    return size;
  });

/** Numbers of any shape. */
interface NumberArray {
  readonly data: Float64Array;
  readonly shape: number[];
}

/**
 * Returns numbers, or lists of lists of them, as one array. tf.tensor misreads Float64Arrays inside of lists, and
 * takes text. Throws TypeError with `name` for what has no shape.
 */
function numbersOf(name: string, value: unknown): NumberArray {
  const shape: number[] = [];
  // a list that contains itself has no end
  for (let inner = unwrapped(value); isList(inner) && shape.length <= MAX_RANK; inner = inner[0])
    shape.push(inner.length);
  const data = new Float64Array(tf.util.sizeFromShape(shape));
  let end = 0;
  const fill = (part: unknown, axis: number): void => {
    const isNumber = axis === shape.length && (typeof part === "number" || typeof part === "boolean");
    if (isNumber) data[end++] = Number(part);
    else if (!isList(part) || part.length !== shape[axis])
      throw wrongKind(name, "numbers, or lists of them with one length for each axis", value);
    else for (let i = 0; i < (shape[axis] as number); i++) fill(part[i], axis + 1);
  };
  fill(unwrapped(value), 0);
  return { data, shape };
}

/** Returns a mean or variance of a configuration, or null. Throws for numbers that are not finite or less than `least`. */
function given(name: string, value: unknown, expected: string, least: number): NumberArray | null {
  if (value === null) return null;
  const array = numbersOf(name, value);
  for (const v of array.data) checkNumber(name, v, expected, () => Number.isFinite(v) && v >= least);
  return array;
}

/** Computes the statistics of every index of the kept axes. */
async function statisticsOf(x: tf.Tensor, kept: readonly number[]): Promise<BatchStatistics> {
  const reduced = x.shape.map((_, axis) => axis).filter((axis) => !kept.includes(axis));
  const channels = kept.reduce((product, axis) => product * (x.shape[axis] as number), 1);
  const rows = tf.tidy(() => tf.cast(tf.transpose(x, [...reduced, ...kept]), "float32"));
  try {
    const values = await rows.data();
    // TF.js's cpu backend casts integers by changing the dtype only
    const data = values instanceof Float32Array ? values : Float32Array.from(values);
    return batchNormStatistics({ data, shape: [data.length / channels, channels] });
  } finally {
    rows.dispose();
  }
}

/** Calls `visit` with all of the data as tensors. */
async function forEachTensor(data: AdaptData, visit: (x: tf.Tensor) => Promise<void>): Promise<void> {
  if (data instanceof tf.Tensor) return visit(checkTensor("data", data));
  const first = isList(data) ? data[0] : null;
  if (
    typeof first === "number" ||
    typeof first === "boolean" ||
    (isList(first) && !((first[0] as unknown) instanceof tf.Tensor))
  ) {
    const { data: values, shape } = numbersOf("data", data);
    const x = tf.tensor(Float32Array.from(values), shape);
    try {
      return await visit(x);
    } finally {
      x.dispose();
    }
  }
  return forEachBatch("data", data as Batches, (batch) => visit(onlyTensorOf("data", batch)));
}

function define(): LayerClass {
  return class Normalization extends layers.Layer implements NormalizationLayer {
    static readonly className = "Normalization";
    readonly #axes: readonly number[];
    readonly #mean: NumberArray | null;
    readonly #variance: NumberArray | null;
    readonly #invert: boolean;
    /** The shape of the statistics, and the same shape with 1 for every other axis. */
    #shape: number[] = [];
    #broadcastShape: number[] = [];
    /** mean, variance and count; undefined for a layer with a given mean. */
    #weights: readonly [LayerVariable, LayerVariable, LayerVariable] | undefined;

    constructor(config: NormalizationConfig) {
      super(config);
      const { axis, mean = null, variance = null, invert } = config;
      this.supportsMasking = true;
      this.#axes = axesOf(axis);
      this.#invert = flag("invert", invert, false);
      if ((mean === null) !== (variance === null))
        throw wrongKind(mean === null ? "mean" : "variance", "mean and variance together, or neither", null);
      this.#mean = given("mean", mean, "finite numbers", Number.NEGATIVE_INFINITY);
      this.#variance = given("variance", variance, "finite numbers from 0 on", 0);
    }

    protected override assertNotDisposed(): void {
      if (this._refCount === 0) throw disposed(this.name);
    }

    override build(inputShape: Size[] | Size[][]): void {
      const shape = (Array.isArray(inputShape[0]) ? inputShape[0] : inputShape) as Size[];
      const kept = keptAxes(this.#axes, shape.length);
      this.#shape = keptSizes(shape, kept);
      this.#broadcastShape = shape.map((size, axis) => (kept.includes(axis) ? (size as number) : 1));
      if (this.#mean === null) {
        const weight = (name: string, shape: number[], dtype: "float32" | "int32", start: "zeros" | "ones") =>
          this.addWeight(name, shape, dtype, initializers[start](), undefined, false);
        this.#weights = [
          weight("mean", this.#shape, "float32", "zeros"),
          weight("variance", this.#shape, "float32", "ones"),
          weight("count", [], "int32", "zeros"),
        ];
      } else tf.tidy(() => this.#statistics()); // throws for shapes that do not fit
      this.built = true;
    }

    /** Returns a given mean or variance in the shape of the statistics. Throws RangeError for a shape that does not fit. */
    #broadcast(name: string, { data, shape }: NumberArray): tf.Tensor {
      const expected = this.#shape;
      const isWhole = tf.util.arraysEqual(shape, this.#broadcastShape);
      const extra = Math.max(shape.length - expected.length, 0);
      const own = isWhole ? expected : shape.slice(extra);
      const sizes = expected.slice(expected.length - own.length);
      const fits = own.every((size, i) => size === 1 || size === sizes[i]);
      if (!(isWhole || (fits && shape.slice(0, extra).every((size) => size === 1))))
        throw wrongShape(name, expected, shape);
      return tf.broadcastTo(tf.tensor(Float32Array.from(data), own), expected);
    }

    /** Returns mean and variance in a shape that broadcasts to the input. */
    #statistics(): tf.Tensor[] {
      const statistics = this.#weights
        ? this.#weights.slice(0, 2).map((weight) => weight.read() as tf.Tensor)
        : [
            this.#broadcast("mean", this.#mean as NumberArray),
            this.#broadcast("variance", this.#variance as NumberArray),
          ];
      return statistics.map((t) => tf.reshape(t, this.#broadcastShape));
    }

    override call(inputs: tf.Tensor | tf.Tensor[]): tf.Tensor {
      return tf.tidy(() => {
        this.assertNotDisposed();
        const x = tf.cast(checkTensor("x", [inputs].flat()[0]), "float32");
        const [mean, variance] = this.#statistics() as [tf.Tensor, tf.Tensor];
        const deviation = tf.maximum(tf.sqrt(variance), tf.scalar(EPSILON));
        return this.#invert ? tf.add(tf.mul(x, deviation), mean) : tf.div(tf.sub(x, mean), deviation);
      });
    }

    async adapt(data: AdaptData): Promise<void> {
      this.assertNotDisposed();
      if (this.#mean !== null) throw adaptGiven(this.name);
      let merged: BatchStatistics | undefined;
      let sizes = this.built ? this.#shape : undefined;
      /** The shape of the first data, with 1 for axes that have no statistics of their own. */
      let shape: number[] | undefined;
      await forEachTensor(data, async (x) => {
        if (x.size === 0) return;
        const kept = keptAxes(this.#axes, x.rank);
        const own = keptSizes(x.shape, kept);
        sizes ??= own;
        if (!tf.util.arraysEqual(own, sizes)) throw wrongShape("data", sizes, own);
        shape ??= x.shape.map((size, axis) => (kept.includes(axis) ? size : 1));
        const batch = await statisticsOf(x, kept);
        merged = merged ? mergeStatistics([merged, batch]) : batch;
      });
      if (!merged?.count) throw tooFew("data", "at least one value", "none", "pass batches with samples");
      const { mean, variance, count } = merged as BatchStatistics;
      const bad = nonFiniteChannel(mean, variance);
      if (bad !== undefined)
        throw nonFinite(bad, mean[bad] as number, variance[bad] as number, `adapt of ${this.name}`, "");
      tf.tidy(() => {
        // apply builds the layer under its name, which prefixes the names of its weights
        if (!this.built) this.apply(tf.zeros(shape as number[]));
        const [forMean, forVariance, forCount] = this.#weights as readonly LayerVariable[];
        forMean?.write(tf.tensor(Float32Array.from(mean), this.#shape));
        forVariance?.write(tf.tensor(Float32Array.from(variance), this.#shape));
        forCount?.write(tf.scalar(Math.min(count, MAX_COUNT), "int32"));
      });
    }

    override computeOutputShape(inputShape: Size[] | Size[][]): Size[] | Size[][] {
      return inputShape;
    }

    override getConfig(): tf.serialization.ConfigDict {
      const listOf = (array: NumberArray | null) => array && tf.util.toNestedArray(array.shape, array.data as never);
      const config = {
        axis: this.#axes,
        mean: listOf(this.#mean),
        variance: listOf(this.#variance),
        invert: this.#invert,
      };
      return { ...(config as unknown as tf.serialization.ConfigDict), ...super.getConfig() };
    }
  };
}

let defined: LayerClass | undefined;

/** Returns the class of `normalization`. */
export function normalizationClass(): LayerClass {
  defined ??= define();
  return defined;
}

/**
 * Returns keras.layers.Normalization as a layer of TF.js: y = (x − mean)/max(√variance, 1e-7), of x's shape, with the
 * statistics of the data that its method `adapt` has seen, or given ones. Until then mean is 0 and variance 1. Its weights
 * are Keras's: mean and variance, float32, in the sizes of the axes, and count, int32, the number of values.
 *
 * Throws TypeError for a wrong configuration. Building it throws RangeError for an axis that the input does not have or
 * whose size is unknown.
 */
export function normalization(config: NormalizationConfig = {}): NormalizationLayer {
  return new (normalizationClass())(config);
}

/** Returns a file's weights with the names that a model expects (nameWeights). */
function renamed(model: LayersModel, weights: tf.NamedTensorMap): tf.NamedTensorMap {
  const missing = [...layersOf(model).keys()].filter(
    (layer) =>
      layer instanceof normalizationClass() &&
      layer.weights.length > 0 &&
      !layer.weights.some(({ originalName }) => originalName in weights),
  );
  const names = ["mean", "variance", "count"];
  if (missing.length !== 1 || !names.every((name) => name in weights)) return weights;
  const prefix = `${(missing[0] as Layer).name}/`;
  return Object.fromEntries(
    Object.entries(weights).map(([name, value]) => [names.includes(name) ? prefix + name : name, value]),
  );
}

/**
 * Makes TF.js's models load the weights of a layer Normalization that was adapted before its model was made, as in Keras's
 * tutorials: Keras 2 then saves them as "mean", "variance" and "count", without the layer's name. Returns a function that
 * undoes it.
 */
export function nameWeights(): () => void {
  const prototype: Partial<LayersModel> = LayersModel.prototype;
  const inherited = LayersModel.prototype.loadWeights;
  const isOwn = Object.hasOwn(prototype, "loadWeights");
  const replacement = function (this: LayersModel, weights: tf.NamedTensorMap, strict?: boolean): void {
    inherited.call(this, renamed(this, weights), strict);
  };
  prototype.loadWeights = replacement;
  return () => {
    if (prototype.loadWeights !== replacement) return; // the program has put another one there since
    if (isOwn) prototype.loadWeights = inherited;
    else delete prototype.loadWeights;
  };
}
