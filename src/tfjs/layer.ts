// tf.layers.batchNormalization on the operations of this library. The class extends TF.js's and replaces `call`, and what
// the constructor takes. It inherits weights, initialisers, constraints, regularisers, names and serialisation, so that
// each of the two classes can load a model that was saved with the other.

import {
  add,
  all,
  broadcastTo,
  clone,
  isFinite as isFiniteTensor,
  keep,
  logicalAnd,
  mul,
  serialization,
  type Tensor,
  tensor1d,
  tidy,
} from "@tensorflow/tfjs-core";
import { type LayerVariable, layers } from "@tensorflow/tfjs-layers";
import {
  disposed,
  nonFinite,
  nonFiniteWarning,
  oneValueWarning,
  unusedMaskWarning,
  wrongValue,
} from "../common/errors.ts";
import { isArray, isObject } from "../common/validate.ts";
import { resolveOptions } from "../layer/options.ts";
import { RunningStatistics } from "../layer/running-statistics.ts";
import { type BatchStatistics, nonFiniteChannel } from "../ops/statistics.ts";
import { type BatchNormFields, isFrozen, maskFor } from "./batch-norm-layer.ts";
import { type StatisticsOnDevice, select } from "./composed.ts";
import { nameWeights, normalizationClass } from "./normalization.ts";
import { batchNormInference, normalizeBatch } from "./operations.ts";
import { shared } from "./registrations.ts";

/** The configuration of batchNormalization: that of tf.layers.batchNormalization, and what a batch of NaN does. */
export interface BatchNormalizationConfig extends NonNullable<Parameters<typeof layers.batchNormalization>[0]> {
  /**
   * Reaction to a batch in training whose statistics are not finite. "skip" (default) leaves the moving statistics as
   * they are, and warns once. "throw" throws BatchNormError. "allow" updates them, as TF.js does.
   */
  onNonFinite?: "throw" | "skip" | "allow";
}

/** The layer that `batchNormalization` makes, of the type of TF.js's own. */
export type Layer = ReturnType<typeof layers.batchNormalization>;

type LayerClass = (new (config: BatchNormalizationConfig) => Layer) & { className: string };

const fieldsOf = (layer: Layer): BatchNormFields => layer as unknown as BatchNormFields;

/**
 * Returns TF.js's class, which it does not export. With an explicit name this instance does not advance TF.js's counter
 * for the names of layers.
 */
const originalClass = (): LayerClass =>
  layers.batchNormalization({ name: "batch_normalization" }).constructor as unknown as LayerClass;

// ---- configuration --------------------------------------------------------------------------------------------------

/**
 * Returns a configuration's axis as TF.js's class takes it. TensorFlow 1.13 to 2.15 save a list of one axis, which their
 * encoders may write as { class_name, items }. Throws RangeError for more axes than one, which TF.js's layer lacks.
 */
function savedAxis(axis: unknown): number {
  const list = isObject(axis) ? (axis as { items?: unknown }).items : axis;
  const value = isArray(list) && list.length === 1 ? list[0] : list;
  if (typeof value !== "number") throw wrongValue("axis", "one axis, a number", axis);
  return value;
}

/** Returns a configuration, as a program writes it or as any version of Keras saves it, as TF.js's class takes it. */
function asTaken({ onNonFinite: _, ...config }: BatchNormalizationConfig): BatchNormalizationConfig {
  const { axis, dtype } = config as { axis?: unknown; dtype?: unknown };
  return {
    ...config,
    ...(axis === undefined || axis === null ? {} : { axis: savedAxis(axis) }),
    // Keras 3 saves a policy, { class_name: "DTypePolicy", … }; a layer of TF.js computes in float32 with any
    ...(isObject(dtype) ? { dtype: "float32" } : {}),
  };
}

// ---- training -------------------------------------------------------------------------------------------------------

const parametersOf = ({ gamma, beta }: BatchNormFields) => ({
  gamma: gamma?.read() ?? null,
  beta: beta?.read() ?? null,
});

const valuesOf = (variable: LayerVariable) => Float32Array.from((variable.read() as Tensor).dataSync());

/** Moves a moving statistic towards a batch's. `taken` says for every channel whether to; without it, all move. */
function move(variable: LayerVariable, batch: Tensor, momentum: number, taken: Tensor | undefined): void {
  const old = variable.read();
  const moved = momentum === 0 ? batch : add(mul(old, momentum), mul(batch, 1 - momentum));
  variable.write(taken ? select(taken, moved, old) : moved);
}

function define(): LayerClass {
  return class BatchNormalization extends originalClass() {
    // a subclass without a name of its own is not taken for batch norm (foldModel)
    static override readonly className = "BatchNormalization";
    readonly #onNonFinite: "throw" | "skip" | "allow";
    /** The moving statistics in float64, so that rounding errors of many updates do not add up. */
    #running: RunningStatistics<"float32"> | undefined;
    /** The kinds of warnings that the layer has given. */
    readonly #warned = new Set<string>();
    /** The kinds of warnings whose condition is being read from the device. */
    readonly #reading = new Set<string>();

    constructor(config: BatchNormalizationConfig) {
      super(asTaken(config));
      this.#onNonFinite = resolveOptions({ onNonFinite: config.onNonFinite ?? "skip" }).onNonFinite;
    }

    protected override assertNotDisposed(): void {
      if (this._refCount === 0) throw disposed(this.name);
    }

    // TF.js's class and TF.js's loader ignore a key that they do not know
    override getConfig(): ReturnType<Layer["getConfig"]> {
      const config = super.getConfig();
      return this.#onNonFinite === "skip" ? config : { ...config, onNonFinite: this.#onNonFinite };
    }

    override call(inputs: Tensor | Tensor[], kwargs: { training?: boolean; mask?: Tensor | Tensor[] }): Tensor {
      this.assertNotDisposed();
      return tidy(() => {
        const fields = fieldsOf(this);
        const x = [inputs].flat()[0] as Tensor;
        const options = { axis: fields.axis, epsilon: fields.epsilon };
        const parameters = parametersOf(fields);
        if (!kwargs.training || isFrozen(fields, this)) {
          const [mean, variance] = [fields.movingMean.read(), fields.movingVariance.read()];
          return batchNormInference(x, { ...parameters, mean, variance }, options);
        }
        const mask = this.#maskFor(x, fields, [kwargs.mask].flat()[0]);
        return normalizeBatch(x, parameters, mask ? { ...options, mask } : options, {
          elements: (statistics) => this.#track(fields, statistics),
          tensors: (statistics) => this.#trackOnDevice(fields, statistics, x.shape),
          one: (masked) => this.#warn("one value", oneValueWarning(this.name, x.shape, masked)),
        });
      });
    }

    /** Returns a mask with a value for every position of x. Warns if it does not fit, and returns undefined. */
    #maskFor(x: Tensor, { axis }: BatchNormFields, mask: Tensor | undefined): Tensor | undefined {
      const fitting = maskFor(x, axis, mask);
      if (mask && !fitting) this.#warn("mask", unusedMaskWarning(this.name, x.shape, mask.shape, axis));
      return fitting;
    }

    #track(
      { momentum, movingMean, movingVariance }: BatchNormFields,
      { count, mean, variance }: BatchStatistics,
    ): void {
      if (count === 0) return;
      const bad = this.#onNonFinite === "allow" ? undefined : nonFiniteChannel(mean, variance);
      if (bad !== undefined) {
        this.#refuse(bad, mean, variance);
        return;
      }
      // `decay` of the options would refuse a momentum that TF.js takes
      this.#running ??= new RunningStatistics(mean.length, {
        ...resolveOptions({ preset: "tfjs" }),
        momentum: 1 - momentum,
      });
      this.#running.mean = valuesOf(movingMean);
      this.#running.variance = valuesOf(movingVariance);
      this.#running.update(mean, variance, count);
      movingMean.write(tensor1d(this.#running.mean));
      movingVariance.write(tensor1d(this.#running.variance));
    }

    /** Throws for statistics that are not finite, or warns. */
    #refuse(channel: number, mean: ArrayLike<number>, variance: ArrayLike<number>): void {
      if (this.#onNonFinite === "throw")
        throw nonFinite(
          channel,
          mean[channel] as number,
          variance[channel] as number,
          `moving statistics of ${this.name}`,
        );
      this.#warn("non-finite", nonFiniteWarning(this.name));
    }

    /** Updates the moving statistics without reading them. Only "throw" reads the batch's. */
    #trackOnDevice(
      { momentum, movingMean, movingVariance }: BatchNormFields,
      { mean, variance, enough }: StatisticsOnDevice,
      shape: readonly number[],
    ): void {
      let taken = enough && broadcastTo(enough, mean.shape);
      if (this.#onNonFinite === "throw") {
        const [m, v] = [mean, variance].map((t) => Float64Array.from(t.dataSync())) as [Float64Array, Float64Array];
        const bad = nonFiniteChannel(m, v);
        if (bad !== undefined) this.#refuse(bad, m, v);
      }
      if (this.#onNonFinite !== "allow") {
        // a mean that is not finite makes the variance so
        const finite = isFiniteTensor(variance);
        const allFinite = all(finite, undefined, true);
        this.#warnUnless(allFinite, "non-finite", nonFiniteWarning(this.name));
        taken = logicalAnd(finite, enough ? logicalAnd(allFinite, enough) : allFinite);
      }
      if (enough) this.#warnUnless(enough, "one value", oneValueWarning(this.name, shape, true));
      move(movingMean, mean, momentum, taken);
      move(movingVariance, variance, momentum, taken);
    }

    #warn(kind: string, text: string): void {
      if (this.#warned.has(kind)) return;
      this.#warned.add(kind);
      console.warn(text);
    }

    /**
     * Warns once a boolean that a device computes has been found false. It is read asynchronously, and one at a time, so
     * that the device is never waited for.
     */
    #warnUnless(holds: Tensor, kind: string, text: string): void {
      if (this.#warned.has(kind) || this.#reading.has(kind)) return;
      this.#reading.add(kind);
      const kept = keep(clone(holds));
      const read = async () => {
        try {
          if (!(await kept.data())[0]) this.#warn(kind, text);
        } finally {
          this.#reading.delete(kind);
          kept.dispose();
        }
      };
      // where the backend has gone meanwhile, there is nothing to warn of
      read().catch(() => {});
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
 * defaults are TF.js's: `momentum` is the weight of the OLD value, and the moving variance is biased. `axis` may also be
 * a list of one, as Keras saves it.
 *
 * Unlike TF.js's layer it is correct for every axis and rank, and without gamma or beta. It supports masks, whose
 * masked positions do not count. With `trainable: false` the layer normalises by the moving statistics, as in Keras.
 *
 * The moving statistics do not change with an empty batch, with one value per channel, whose y is beta, and with a batch
 * that has NaN or Infinity (`onNonFinite`). The latter two warn on the console, once for each layer.
 */
export function batchNormalization(config: BatchNormalizationConfig = {}): Layer {
  return new (layerClass())(config);
}

/** Names that TensorFlow has given the same layer, the latter three in models of 1.13 to 1.15 and of several devices. */
const NAMES = ["BatchNormalization", "BatchNormalizationV1", "BatchNormalizationV2", "SyncBatchNormalization"];

/**
 * Registers this layer as TF.js's class "BatchNormalization". Models that TF.js loads afterwards, by tf.loadLayersModel
 * for example, contain it instead of TF.js's layer. It also takes layers that TensorFlow has saved as
 * BatchNormalizationV1, BatchNormalizationV2 and SyncBatchNormalization, and Keras's layer Normalization, none of which
 * TF.js knows. Returns a function that undoes all of this. TF.js's classes are back when every call has been undone, in any
 * order.
 */
export function registerLayer(): () => void {
  const { classNameMap } = serialization.SerializationMap.getMap();
  const classes = [
    ...NAMES.map((name) => [name, layerClass()] as const),
    ["Normalization", normalizationClass()] as const,
  ];
  const undo = shared("layers", () => {
    const before = classes.map(([name, own]) => [name, own, classNameMap[name]] as const);
    const restoreLoading = nameWeights();
    return () => {
      restoreLoading();
      for (const [name, own, entry] of before) {
        if (classNameMap[name]?.[0] !== (own as unknown)) continue; // the program has registered another class since
        if (entry) classNameMap[name] = entry;
        else delete classNameMap[name];
      }
    };
  });
  for (const [name, own] of classes)
    classNameMap[name] = [own, (own as unknown as { fromConfig: unknown }).fromConfig] as never;
  return undo;
}
