// tf.layers.batchNormalization on the operations of this library. The class extends TF.js's and replaces `call` only.
// It inherits configuration, weights, initialisers, constraints, regularisers, names and serialisation, so that each of
// the two classes can load a model that was saved with the other.

import { serialization, type Tensor, tensor1d, tidy } from "@tensorflow/tfjs-core";
import { type LayerVariable, layers } from "@tensorflow/tfjs-layers";
import { nonFinite, wrongValue } from "../common/errors.ts";
import { resolveOptions } from "../layer/options.ts";
import { RunningStatistics } from "../layer/running-statistics.ts";
import { type BatchStatistics, nonFiniteChannel } from "../ops/statistics.ts";
import { batchNormInference, normalizeBatch } from "./operations.ts";

/** The configuration of batchNormalization: the same as that of tf.layers.batchNormalization. */
export type BatchNormalizationConfig = NonNullable<Parameters<typeof layers.batchNormalization>[0]>;

export type Layer = ReturnType<typeof layers.batchNormalization>;

type LayerClass = (new (config: BatchNormalizationConfig) => Layer) & { className: string };

/** Fields of TF.js's layer that its types declare private. */
interface LayerFields {
  readonly axis: number;
  readonly momentum: number;
  readonly epsilon: number;
  readonly gamma?: LayerVariable;
  readonly beta?: LayerVariable;
  readonly movingMean: LayerVariable;
  readonly movingVariance: LayerVariable;
  readonly _trainableWeights: readonly LayerVariable[];
}

const fieldsOf = (layer: Layer): LayerFields => layer as unknown as LayerFields;

/**
 * Returns TF.js's class, which it does not export. With an explicit name this instance does not advance TF.js's counter
 * for the names of layers.
 */
const originalClass = (): LayerClass =>
  layers.batchNormalization({ name: "batch_normalization" }).constructor as unknown as LayerClass;

const parametersOf = ({ gamma, beta }: LayerFields) => ({ gamma: gamma?.read() ?? null, beta: beta?.read() ?? null });

/** Whether a layer must not train. Freezing a model sets `trainable` of the weights, not of the layer. */
const isFrozen = ({ trainable }: Layer, { _trainableWeights: weights }: LayerFields): boolean =>
  !trainable || (weights.length > 0 && weights.every((weight) => !weight.trainable));

const valuesOf = (variable: LayerVariable) => Float32Array.from((variable.read() as Tensor).dataSync());

function define(): LayerClass {
  return class BatchNormalization extends originalClass() {
    /** The moving statistics in float64, so that rounding errors of many updates do not add up. */
    #running: RunningStatistics<"float32"> | undefined;

    override call(inputs: Tensor | Tensor[], kwargs: { training?: boolean; mask?: Tensor | Tensor[] }): Tensor {
      return tidy(() => {
        const fields = fieldsOf(this);
        const x = [inputs].flat()[0] as Tensor;
        const options = { axis: fields.axis, epsilon: fields.epsilon };
        const parameters = parametersOf(fields);
        if (!kwargs.training || isFrozen(this, fields)) {
          const [mean, variance] = [fields.movingMean.read(), fields.movingVariance.read()];
          return batchNormInference(x, { ...parameters, mean, variance }, options);
        }
        const mask = [kwargs.mask].flat()[0];
        if (mask && fields.axis !== -1 && fields.axis !== x.rank - 1)
          throw wrongValue("mask", "a layer whose axis is the last one, −1", fields.axis);
        const { y, statistics } = normalizeBatch(x, parameters, mask ? { ...options, mask } : options);
        if (statistics.count > 0) this.#track(fields, statistics);
        return y;
      });
    }

    #track({ momentum, movingMean, movingVariance }: LayerFields, { count, mean, variance }: BatchStatistics): void {
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
 * Returns a layer like tf.layers.batchNormalization that this library trains and runs. Configuration, weights and
 * defaults are TF.js's: `momentum` is the weight of the OLD value, and the moving variance is biased.
 *
 * Unlike TF.js's layer it is correct for every axis and rank, and without gamma or beta. It supports masks, whose
 * masked positions do not count. An empty batch does not change the moving statistics. With `trainable: false` the
 * layer normalises by the moving statistics, as in Keras.
 *
 * A call in training throws BatchNormError if a channel has one value only or if the batch's statistics are not finite.
 * The moving statistics do not change then.
 */
export function batchNormalization(config: BatchNormalizationConfig = {}): Layer {
  return new (layerClass())(config);
}

/**
 * Registers this layer as TF.js's class "BatchNormalization". Models that TF.js loads afterwards, by tf.loadLayersModel
 * for example, contain it instead of TF.js's layer. Returns a function that registers TF.js's class again.
 */
export function registerLayer(): () => void {
  serialization.registerClass(layerClass() as never);
  return () => {
    serialization.registerClass(originalClass() as never);
  };
}
