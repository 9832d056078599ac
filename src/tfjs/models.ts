// recalibrate and diagnose for models of TF.js: new moving statistics from batches, and a comparison of the moving
// statistics with a batch, for every batch norm in a model. Both run the model as in inference, except that batch norm
// normalises by the batch, as it did in training (fvcore's PreciseBN). So dropout is off, and a layer gets the inputs that
// its moving statistics are meant to describe.
//
// A layer is watched by a method `call` of its own, which hides that of its class. So TF.js's layers are watched as ours are,
// wherever they are in the model. All reads are asynchronous, as WebGPU requires.

import * as tf from "@tensorflow/tfjs-core";
import type { LayersModel, LayerVariable } from "@tensorflow/tfjs-layers";
import { nonFinite, oneValueInDiagnosis, tooFew } from "../common/errors.ts";
import { BatchNorm } from "../layer/batch-norm.ts";
import { type Diagnosis, diagnose as diagnoseLayer } from "../layer/diagnose.ts";
import type { ActivationName } from "../ops/activation.ts";
import { type BatchStatistics, mergeStatistics, nonFiniteChannel } from "../ops/statistics.ts";
import { type BatchNormFields, isFrozen, maskFor } from "./batch-norm-layer.ts";
import { type Batch, type Batches, forEachBatch, tensorsOf } from "./batches.ts";
import { checkModel, hasBatchNormFields, type Layer, layersOf } from "./model-layers.ts";
import { batchNorm } from "./operations.ts";

interface BatchNormLayer extends Layer, BatchNormFields {
  call(inputs: tf.Tensor | tf.Tensor[], kwargs: { mask?: tf.Tensor | tf.Tensor[] }): tf.Tensor | tf.Tensor[];
}

/** A call of a layer of batch norm. Its tensors are gone when the model has run, unless they are kept. */
interface Call {
  readonly x: tf.Tensor;
  /** Weight of every position, [rows]; undefined without a mask. */
  readonly mask: tf.Tensor | undefined;
  /** The number of positions, the masked ones included. */
  readonly rows: number;
  /** The batch's mean and biased variance, [C]. */
  readonly mean: tf.Tensor;
  readonly variance: tf.Tensor;
}

/** Tensors that outlive the run of a model. */
class Kept {
  readonly #tensors: tf.Tensor[] = [];

  add(t: tf.Tensor | undefined): void {
    if (t) this.#tensors.push(tf.keep(t));
  }

  dispose(): void {
    tf.dispose(this.#tensors);
  }
}

/** Normalises by the batch, and returns also its statistics. A batch of one value per channel gives beta. */
function normalize(layer: BatchNormLayer, x: tf.Tensor, mask: tf.Tensor | undefined) {
  const { axis, epsilon } = layer;
  const [gamma, beta] = [layer.gamma?.read() as tf.Tensor | undefined, layer.beta?.read() as tf.Tensor | undefined];
  const channels = x.shape.at(axis) as number;
  if (x.size > channels)
    return batchNorm(x, { gamma: gamma ?? null, beta: beta ?? null }, { axis, epsilon, ...(mask && { mask }) });
  const mean = tf.reshape(x, [channels]);
  const y = tf.zerosLike(mean);
  return { y: tf.reshape(beta ? tf.add(y, beta) : y, x.shape), mean, variance: tf.zerosLike(mean) };
}

/**
 * Runs the model on a batch. The watched layers normalise by the batch, except those that are frozen. `record` is told of
 * every call of a watched layer.
 */
function runOn(
  model: LayersModel,
  watched: readonly BatchNormLayer[],
  inputs: tf.Tensor[],
  record: (layer: BatchNormLayer, call: Call) => void,
): void {
  const restores: (() => void)[] = [];
  const watch = (layer: BatchNormLayer) => {
    const { call: own } = layer;
    const isOwn = Object.hasOwn(layer, "call"); // a program may have put a method of its own there
    restores.push(() => {
      if (isOwn) layer.call = own;
      else delete (layer as Partial<BatchNormLayer>).call;
    });
    layer.call = (inputs, kwargs) =>
      tf.tidy(() => {
        const x = [inputs].flat()[0] as tf.Tensor;
        const mask = maskFor(x, layer.axis, [kwargs.mask].flat()[0]);
        const { y, mean, variance } = normalize(layer, x, mask);
        const rows = x.size / (x.shape.at(layer.axis) as number);
        record(layer, { x, mask: mask && tf.cast(tf.reshape(mask, [rows]), "float32"), rows, mean, variance });
        return isFrozen(layer, layer) ? own.call(layer, inputs, kwargs) : y;
      });
  };
  try {
    for (const layer of watched) watch(layer);
    // unlike predictOnBatch, predict takes samples that are single numbers
    const batchSize = inputs[0]?.shape[0];
    tf.dispose(model.predict(inputs, batchSize ? { batchSize } : {}));
  } finally {
    for (const restore of restores) restore();
  }
}

/** A recurrent layer that goes on from the states of its latest call (`stateful: true`). */
interface Stateful extends Layer {
  states_: tf.Tensor[] | null;
}

/** Keeps a copy of the states of all recurrent layers in a model. Returns a function that puts them back. */
function saveStates(model: LayersModel): () => void {
  const stateful = [...layersOf(model).keys()].filter(
    (layer): layer is Stateful => layer.stateful && Array.isArray((layer as Partial<Stateful>).states_),
  );
  const saved = stateful.map(({ states_ }) => states_?.map((state) => tf.keep(tf.clone(state))) ?? null);
  return () => {
    for (const [i, layer] of stateful.entries()) {
      tf.dispose(layer.states_ ?? []);
      layer.states_ = saved[i] as tf.Tensor[] | null;
    }
  };
}

const inputNamesOf = ({ inputs }: LayersModel): string[] => inputs.map(({ sourceLayer }) => sourceLayer.name);

/** Returns the batch norms of a model in the order of its layers. Throws as `checkModel`, and RangeError if there are none. */
function requireBatchNorms(model: LayersModel, expected: string, isWanted: (layer: BatchNormLayer) => boolean) {
  checkModel(model);
  const found = [...layersOf(model).keys()].filter(
    (layer): layer is BatchNormLayer => layer.getClassName() === "BatchNormalization" && hasBatchNormFields(layer),
  );
  const wanted = found.filter(isWanted);
  if (wanted.length === 0)
    throw found.length > 0
      ? tooFew("model", expected, `${found.length} frozen`, "set trainable = true on the layers to recalibrate")
      : tooFew("model", expected, "none", "batch norms in layers of your own are not found");
  return wanted;
}

// ---- recalibrate ----------------------------------------------------------------------------------------------------

/** Reads the statistics of a call. Throws BatchNormError if they are not finite. */
async function readStatistics({ name }: Layer, { mask, rows, mean, variance }: Call): Promise<BatchStatistics> {
  const weights = (await mask?.data()) as Float32Array | undefined;
  const statistics = {
    count: weights ? weights.reduce((total, weight) => total + weight, 0) : rows,
    mean: Float64Array.from(await mean.data()),
    variance: Float64Array.from(await variance.data()),
  };
  const bad = nonFiniteChannel(statistics.mean, statistics.variance);
  if (bad !== undefined)
    throw nonFinite(
      bad,
      statistics.mean[bad] as number,
      statistics.variance[bad] as number,
      `moving statistics of ${name}`,
      "",
    );
  return statistics;
}

/**
 * Replaces the moving statistics of all batch norms in a model, TF.js's and this library's, by the mean and biased variance
 * of all values in these batches (fvcore's PreciseBN). Batches are inputs of the model, or { xs } as in a tf.data dataset
 * for `fitDataset`. They pass through the model once, with dropout off, and each layer normalises by the batch. The
 * statistics of a batch are float32 tensors; they are merged in float64, weighted by their number of values.
 *
 * Recurrent layers that are stateful begin with their states, go on with them from batch to batch as in `predict`, and
 * have them back afterwards.
 *
 * A layer with `trainable: false` normalises by its moving statistics and keeps them. Masked positions do not count. All
 * layers change together: if the promise is rejected, none has changed. Do not run the model before it is settled.
 *
 * Rejects with TypeError for wrong arguments, RangeError for a model without batch norm to recalibrate, for batches that
 * do not have a tensor for each input, and if no batch or one value per channel only passed through a layer,
 * BatchNormError for a batch whose statistics are not finite and for a model or tensors that are disposed of, and any error
 * that `batches` or the model throws.
 */
export async function recalibrate(model: LayersModel, batches: Batches): Promise<void> {
  const watched = requireBatchNorms(
    model,
    "a model with batch norm that is not frozen",
    (layer) => !isFrozen(layer, layer),
  );
  const merged = new Map<BatchNormLayer, BatchStatistics>();
  const restoreStates = saveStates(model);
  try {
    await forEachBatch("batches", batches, async (batch) => {
      const inputs = tensorsOf("batches", batch, inputNamesOf(model));
      // TF.js's models throw for an empty batch
      if (inputs.some(({ size }) => size === 0)) return;
      const calls: [BatchNormLayer, Call][] = [];
      const kept = new Kept();
      try {
        runOn(model, watched, inputs, (layer, call) => {
          for (const t of [call.mean, call.variance, call.mask]) kept.add(t);
          calls.push([layer, call]);
        });
        for (const [layer, call] of calls) {
          const statistics = await readStatistics(layer, call);
          const before = merged.get(layer);
          if (statistics.count > 0) merged.set(layer, before ? mergeStatistics([before, statistics]) : statistics);
        }
      } finally {
        kept.dispose();
      }
    });
  } finally {
    restoreStates();
  }
  const results = watched.map((layer) => {
    const statistics = merged.get(layer);
    const through = `that passes through ${layer.name}`;
    if (!statistics)
      throw tooFew("batches", `at least one ${through}`, "none", "pass batches with samples that no mask covers");
    if (statistics.count <= 1)
      throw tooFew(
        "batches",
        `more than 1 value per channel in all ${through}`,
        statistics.count,
        "pass more or larger batches",
      );
    return [layer, statistics] as const;
  });
  tf.tidy(() => {
    for (const [{ movingMean, movingVariance }, { mean, variance }] of results) {
      movingMean.write(tf.tensor1d(Float32Array.from(mean)));
      movingVariance.write(tf.tensor1d(Float32Array.from(variance)));
    }
  });
}

// ---- diagnose -------------------------------------------------------------------------------------------------------

/** The comparison of a layer's moving statistics with a batch. */
export interface LayerDiagnosis {
  /** The name of the layer. */
  readonly layer: string;
  /** What `diagnose` tells of it. */
  readonly diagnosis: Diagnosis;
}

/** Returns the activation that a layer's output goes into, if it is one that can be 0, and goes nowhere else. */
function activationAfter({ outboundNodes }: Layer): ActivationName {
  const next = new Set(outboundNodes.map(({ outboundLayer }) => outboundLayer));
  const [layer] = next;
  if (next.size !== 1 || !layer) return "none";
  const { activation, maxValue } = layer.getConfig() as { activation?: unknown; maxValue?: unknown };
  const name = layer.getClassName();
  if (name === "Activation") return activation === "relu" || activation === "relu6" ? activation : "none";
  if (name === "ReLU") return maxValue === 6 ? "relu6" : typeof maxValue === "number" ? "none" : "relu";
  return "none";
}

/** Returns the values of a call that are not masked, [values, C], row by row. */
async function readValues({ x, mask }: Call, axis: number): Promise<Float32Array> {
  const last = x.shape.length - 1;
  const order = x.shape.map((_, i) => i);
  order.splice(axis < 0 ? axis + x.rank : axis, 1);
  const rows = tf.tidy(() => tf.cast(tf.transpose(x, [...order, axis < 0 ? axis + x.rank : axis]), "float32"));
  const data = (await rows.data()) as Float32Array;
  const channels = rows.shape[last] as number;
  rows.dispose();
  const weights = await mask?.data();
  return weights ? data.filter((_, i) => weights[Math.floor(i / channels)] !== 0) : data;
}

/** Compares a layer with values of its input, by a layer of this library's core with the same parameters. */
async function diagnoseCalls(layer: BatchNormLayer, calls: readonly Call[]): Promise<Diagnosis> {
  const read = async (weight: LayerVariable) => Float32Array.from(await (weight.read() as tf.Tensor).data());
  const { gamma, beta, epsilon } = layer;
  const runningMean = await read(layer.movingMean);
  const channels = runningMean.length;
  const bn = new BatchNorm(channels, {
    preset: "tfjs",
    epsilon,
    scale: gamma !== undefined,
    shift: beta !== undefined,
  });
  bn.runningMean = runningMean;
  bn.runningVariance = await read(layer.movingVariance);
  if (gamma) bn.gamma = await read(gamma);
  if (beta) bn.beta = await read(beta);
  const parts = await Promise.all(calls.map((call) => readValues(call, layer.axis)));
  const data = new Float32Array(parts.reduce((total, { length }) => total + length, 0));
  if (data.length < 2 * channels) throw oneValueInDiagnosis([data.length / channels, channels], layer.name);
  let end = 0;
  for (const part of parts) {
    data.set(part, end);
    end += part.length;
  }
  return diagnoseLayer(bn, { data, shape: [data.length / channels, channels] }, { activation: activationAfter(layer) });
}

/**
 * Compares every batch norm in a model, TF.js's and this library's, with a batch of the model's inputs, by `diagnose` of
 * batchnorm-wasm: which channels drifted from the moving statistics, are dead, or have a gamma near 0. The batch passes
 * through the model as in `recalibrate`, after which nothing has drifted on the same batch. The model does not change, nor do
 * the states of its recurrent layers.
 *
 * A ReLU right behind a layer decides which channels are dead. Returns one result for each layer that the batch passes
 * through, in the order of the model's layers.
 *
 * Rejects with TypeError for wrong arguments, RangeError for a model without batch norm and for a batch that does not have
 * a tensor for each input, BatchNormError for a layer that gets fewer than two values per channel and for a model or tensors
 * that are disposed of, and any error that the model throws.
 */
export async function diagnose(model: LayersModel, batch: Batch): Promise<LayerDiagnosis[]> {
  const watched = requireBatchNorms(model, "a model with batch norm", () => true);
  const inputs = tensorsOf("batch", batch, inputNamesOf(model));
  if (inputs.some(({ size }) => size === 0))
    throw tooFew("batch", "at least one sample", "none", "pass a larger batch");
  const calls = new Map<BatchNormLayer, Call[]>();
  const kept = new Kept();
  const restoreStates = saveStates(model);
  try {
    try {
      runOn(model, watched, inputs, (layer, call) => {
        const x = tf.clone(call.x);
        for (const t of [x, call.mask]) kept.add(t);
        calls.set(layer, [...(calls.get(layer) ?? []), { ...call, x }]);
      });
    } finally {
      restoreStates();
    }
    const results: LayerDiagnosis[] = [];
    for (const layer of watched) {
      const own = calls.get(layer);
      if (own) results.push({ layer: layer.name, diagnosis: await diagnoseCalls(layer, own) });
    }
    return results;
  } finally {
    kept.dispose();
  }
}
