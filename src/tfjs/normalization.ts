// Keras's layer Normalization, which TF.js does not have: (x − mean)/max(√variance, 1e-7) by statistics of the data that
// `adapt` has seen. Configuration, weights and their names are Keras's, so that TF.js loads models that Keras has saved.
// The layer's formula is composed of TF.js's operations, and so runs and has gradients on every backend.

import * as tf from "@tensorflow/tfjs-core";
import { initializers, type LayerVariable, layers } from "@tensorflow/tfjs-layers";
import { nonFinite, wrongKind, wrongShape, wrongValue } from "../common/errors.ts";
import { flag, hasAny, isList, isNumbers } from "../common/validate.ts";
import { batchNormStatistics } from "../ops/batch-norm.ts";
import { type BatchStatistics, mergeStatistics, nonFiniteChannel } from "../ops/statistics.ts";
import { type Batches, forEachBatch, type Input } from "./batches.ts";

/** The lower limit of the standard deviation: keras.backend.epsilon(). */
const EPSILON = 1e-7;

/** The largest value of the weight `count`, which is int32. */
const MAX_COUNT = 2 ** 31 - 1;

type Size = number | null;
type BaseConfig = NonNullable<ConstructorParameters<typeof layers.Layer>[0]>;

/** A number, or numbers in the shape of the statistics. */
export type Numbers = number | readonly Numbers[];

/** The configuration of `normalization`: that of keras.layers.Normalization, and of every layer of TF.js. */
export interface NormalizationConfig extends BaseConfig {
  /**
   * The axis or axes whose indices have statistics of their own. null or [] is one mean and variance for all values.
   * Default −1, the last axis.
   */
  axis?: number | readonly number[] | null;
  /** The mean to normalise by, instead of one from `adapt`. It is broadcast to the sizes of the axes. */
  mean?: Numbers | null;
  /** The biased variance to normalise by, together with `mean`. */
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
   * Batches are tensors, or objects { xs } as in tf.data datasets for `fitDataset`. If the promise is rejected, the
   * layer's statistics are as before. Rejects with TypeError for anything else and for a layer with a given mean,
   * RangeError for shapes that do not fit and for no values, and BatchNormError for values that are not finite.
   */
  adapt(data: AdaptData): Promise<void>;
}

type LayerClass = (new (config: NormalizationConfig) => NormalizationLayer) & { className: string };

/** Returns the axes of a configuration. Keras 3 writes a tuple as an object with `items`. */
function axesOf(axis: unknown): readonly number[] {
  if (axis === undefined) return [-1];
  if (axis === null) return [];
  const list = typeof axis === "number" ? [axis] : hasAny(axis, "items") ? (axis as { items: unknown }).items : axis;
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

const isBatch = (value: unknown): boolean => [value].flat()[0] instanceof tf.Tensor || hasAny(value, "xs");

/** Calls `visit` with all of the data as tensors. */
async function forEachTensor(data: AdaptData, visit: (x: tf.Tensor) => Promise<void>): Promise<void> {
  if (data instanceof tf.Tensor) return visit(data);
  if (isList(data) && !isBatch(data[0])) {
    const x = tf.tensor(data as tf.TensorLike);
    try {
      return await visit(x);
    } finally {
      x.dispose();
    }
  }
  return forEachBatch("data", data as Batches, (batch: Input) => {
    const [x, ...others] = [batch].flat();
    if (others.length) throw wrongKind("data", "batches of one tensor each", batch);
    return visit(x as tf.Tensor);
  });
}

function define(): LayerClass {
  return class Normalization extends layers.Layer implements NormalizationLayer {
    static readonly className = "Normalization";
    readonly #axes: readonly number[];
    readonly #mean: Numbers | null;
    readonly #variance: Numbers | null;
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
      [this.#mean, this.#variance] = [mean, variance];
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
      } else tf.tidy(() => this.#statistics()); // throws for shapes that cannot be broadcast
      this.built = true;
    }

    /** Returns mean and variance in a shape that broadcasts to the input. */
    #statistics(): [tf.Tensor, tf.Tensor] {
      const given = (value: Numbers | null) =>
        tf.broadcastTo(tf.tensor(value as tf.TensorLike, undefined, "float32"), this.#shape);
      const [mean, variance] = this.#weights
        ? this.#weights.map((weight) => weight.read() as tf.Tensor)
        : [given(this.#mean), given(this.#variance)];
      return [
        tf.reshape(mean as tf.Tensor, this.#broadcastShape),
        tf.reshape(variance as tf.Tensor, this.#broadcastShape),
      ];
    }

    override call(inputs: tf.Tensor | tf.Tensor[]): tf.Tensor {
      return tf.tidy(() => {
        const x = tf.cast([inputs].flat()[0] as tf.Tensor, "float32");
        const [mean, variance] = this.#statistics();
        const deviation = tf.maximum(tf.sqrt(variance), tf.scalar(EPSILON));
        return this.#invert ? tf.add(tf.mul(x, deviation), mean) : tf.div(tf.sub(x, mean), deviation);
      });
    }

    async adapt(data: AdaptData): Promise<void> {
      if (this.#mean !== null) throw wrongKind("adapt", "a layer without a given mean and variance", this.#mean);
      let merged: BatchStatistics | undefined;
      await forEachTensor(data, async (x) => {
        if (x.size === 0) return;
        // apply builds the layer under its name, which prefixes the names of its weights
        if (!this.built) tf.tidy(() => void this.apply(x));
        const kept = keptAxes(this.#axes, x.rank);
        const sizes = keptSizes(x.shape, kept);
        if (sizes.length !== this.#shape.length || sizes.some((size, i) => size !== this.#shape[i]))
          throw wrongShape("data", this.#shape, sizes);
        const batch = await statisticsOf(x, kept);
        merged = merged ? mergeStatistics([merged, batch]) : batch;
      });
      if (!merged?.count) throw wrongValue("data", "at least one value", "none");
      const { mean, variance, count } = merged as BatchStatistics;
      const bad = nonFiniteChannel(mean, variance);
      if (bad !== undefined)
        throw nonFinite(bad, mean[bad] as number, variance[bad] as number, `adapt of ${this.name}`, "");
      tf.tidy(() => {
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
      const config = { axis: this.#axes, mean: this.#mean, variance: this.#variance, invert: this.#invert };
      return { ...(config as unknown as tf.serialization.ConfigDict), ...super.getConfig() };
    }
  };
}

let defined: LayerClass | undefined;

function layerClass(): LayerClass {
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
  return new (layerClass())(config);
}

/**
 * Registers the layer under Keras's name "Normalization", so that tf.loadLayersModel loads models that contain it. Returns
 * a function that undoes it.
 */
export function registerNormalization(): () => void {
  const { classNameMap } = tf.serialization.SerializationMap.getMap();
  const name = layerClass().className;
  const before = classNameMap[name];
  tf.serialization.registerClass(layerClass() as never);
  return () => {
    if (before) classNameMap[name] = before;
    else delete classNameMap[name];
  };
}
