// tf.layers.batchNormalization with our operations inside. It is TF.js's own class but for `call`: configuration, weights,
// initialisers, constraints, regularisers, names and serialisation are inherited, so that either loads what the other
// saves.

import { serialization, type Tensor, tensor1d, tidy } from "@tensorflow/tfjs-core";
import { type LayerVariable, layers } from "@tensorflow/tfjs-layers";
import { nonFinite, wrongValue } from "../common/errors.ts";
import { resolveOptions } from "../layer/options.ts";
import { RunningStatistics } from "../layer/running-statistics.ts";
import { type BatchStatistics, nonFiniteChannel } from "../ops/statistics.ts";
import { batchNormInference, normalizeBatch } from "./operations.ts";

/** tf.layers.batchNormalization's configuration. */
export type BatchNormalizationConfig = NonNullable<Parameters<typeof layers.batchNormalization>[0]>;

type Layer = ReturnType<typeof layers.batchNormalization>;

type LayerClass = (new (config: BatchNormalizationConfig) => Layer) & { className: string };

/** What TF.js declares private. */
interface Parts {
  readonly axis: number;
  readonly momentum: number;
  readonly epsilon: number;
  readonly gamma?: LayerVariable;
  readonly beta?: LayerVariable;
  readonly movingMean: LayerVariable;
  readonly movingVariance: LayerVariable;
  readonly _trainableWeights: readonly LayerVariable[];
}

const partsOf = (layer: Layer): Parts => layer as unknown as Parts;

/** TF.js's class, which it does not export; the name keeps its counter of names as it is. */
const original = (): LayerClass =>
  layers.batchNormalization({ name: "batch_normalization" }).constructor as unknown as LayerClass;

const scaleOf = ({ gamma, beta }: Parts) => ({ gamma: gamma?.read() ?? null, beta: beta?.read() ?? null });

/** A frozen layer infers, as in Keras; a model that is frozen tells only its layers' weights. */
const isFrozen = ({ trainable }: Layer, { _trainableWeights: weights }: Parts): boolean =>
  !trainable || (weights.length > 0 && weights.every((weight) => !weight.trainable));

const valuesOf = (variable: LayerVariable) => Float32Array.from((variable.read() as Tensor).dataSync());

function define(): LayerClass {
  return class BatchNormalization extends original() {
    /** Beside the moving statistics, what they would be without rounding. */
    #running: RunningStatistics<"float32"> | undefined;

    override call(inputs: Tensor | Tensor[], kwargs: { training?: boolean; mask?: Tensor | Tensor[] }): Tensor {
      return tidy(() => {
        const parts = partsOf(this);
        const x = [inputs].flat()[0] as Tensor;
        const options = { axis: parts.axis, epsilon: parts.epsilon };
        const scale = scaleOf(parts);
        if (!kwargs.training || isFrozen(this, parts)) {
          const [mean, variance] = [parts.movingMean.read(), parts.movingVariance.read()];
          return batchNormInference(x, { ...scale, mean, variance }, options);
        }
        const mask = [kwargs.mask].flat()[0];
        if (mask && parts.axis !== -1 && parts.axis !== x.rank - 1)
          throw wrongValue("mask", "a layer whose axis is the last one, −1", parts.axis);
        const { y, statistics } = normalizeBatch(x, scale, mask ? { ...options, mask } : options);
        if (statistics.count > 0) this.#track(parts, statistics);
        return y;
      });
    }

    #track({ momentum, movingMean, movingVariance }: Parts, { count, mean, variance }: BatchStatistics): void {
      const bad = nonFiniteChannel(mean, variance);
      if (bad !== undefined)
        throw nonFinite(bad, mean[bad] as number, variance[bad] as number, `moving statistics of ${this.name}`, "");
      const options = resolveOptions({ preset: "tfjs", decay: momentum });
      this.#running ??= new RunningStatistics(mean.length, options);
      this.#running.mean = valuesOf(movingMean);
      this.#running.variance = valuesOf(movingVariance);
      this.#running.update(mean, variance, count);
      movingMean.write(tensor1d(this.#running.mean));
      movingVariance.write(tensor1d(this.#running.variance));
    }
  };
}

let defined: LayerClass | undefined;

function layerClass(): LayerClass {
  defined ??= define();
  return defined;
}

/**
 * tf.layers.batchNormalization, trained and run by this library: the same configuration, weights and defaults, `momentum`
 * being the weight of the OLD value, and the moving variance biased. Beyond TF.js: right for every axis and rank, without
 * gamma or beta, and with masks, whose positions do not count; an empty batch changes nothing; where `trainable` is false
 * it infers, as in Keras.
 *
 * A call in training throws BatchNormError for one value per channel, and where the batch's statistics are not finite, and
 * leaves the moving statistics as they were.
 */
export function batchNormalization(config: BatchNormalizationConfig = {}): Layer {
  return new (layerClass())(config);
}

/**
 * Has models that TF.js loads from now on, by tf.loadLayersModel and the like, contain this layer for every
 * "BatchNormalization". Returns a function that gives TF.js's own back its place.
 */
export function registerLayer(): () => void {
  serialization.registerClass(layerClass() as never);
  return () => {
    serialization.registerClass(original() as never);
  };
}
