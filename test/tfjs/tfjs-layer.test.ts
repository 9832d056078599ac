// The layer of batchnorm-wasm/tfjs in TF.js's models, compared with TF.js's layer. Where TF.js's layer is correct, both
// give the same. Where it is wrong, the tests state the results of both.

import * as tf from "@tensorflow/tfjs-core";
import {
  constraints,
  initializers,
  input,
  type LayersModel,
  layers,
  loadLayersModel,
  model,
  regularizers,
  type Sequential,
  sequential,
} from "@tensorflow/tfjs-layers";
import { afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { type BatchNormalizationConfig, batchNormalization, registerLayer } from "../../src/tfjs/index.ts";
import * as reference from "../support/reference.ts";
import { BACKENDS, useBackend, values } from "../support/tfjs.ts";
import { normal, sizeOf } from "../support/worlds.ts";

type Layer = ReturnType<typeof layers.batchNormalization>;
type Make = (config?: BatchNormalizationConfig) => Layer;

const OURS: Make = batchNormalization;
const THEIRS: Make = (config) => layers.batchNormalization(config);

const EPSILON = 1e-3;
const TRAINING = { training: true };

const weightsOf = (layer: { getWeights(): tf.Tensor[] }) => layer.getWeights().map(values);
const movingOf = (layer: Layer) => weightsOf(layer).slice(-2);

/** A tensor of `shape` whose channels on `axis` differ in mean and spread. */
function data(shape: readonly number[], axis: number, seed = 1): tf.Tensor {
  const at = axis < 0 ? axis + shape.length : axis;
  const inner = sizeOf(shape.slice(at + 1));
  const noise = normal(seed, sizeOf(shape));
  const channel = (i: number) => Math.floor(i / inner) % (shape[at] as number);
  return tf.tensor(
    noise.map((v, i) => v * (1 + channel(i)) + 3 * channel(i)),
    [...shape],
  );
}

/** What batch normalization of a tensor is, by the oracle. */
function normalized(x: tf.Tensor, axis: number) {
  const at = axis < 0 ? axis + x.rank : axis;
  const { shape } = x;
  const dims = { outer: sizeOf(shape.slice(0, at)), channels: shape[at] as number, inner: sizeOf(shape.slice(at + 1)) };
  const { mean, variance } = reference.statistics(values(x), dims);
  const { y } = reference.forward(values(x), dims, mean, reference.invStdOf(variance, EPSILON));
  const moved = (start: number, batch: Float64Array) => batch.map((b) => 0.99 * start + 0.01 * b);
  return { y, moving: [moved(0, mean), moved(1, variance)] };
}

const close = { rtol: 1e-5, atol: 1e-5 };

const largest = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  Math.max(...Array.from(a, (v, i) => Math.abs(v - (b[i] as number))));

/** A model with batch norm between two dense layers, whose weights a seed decides. */
function network(make: Make, config: BatchNormalizationConfig = {}): Sequential {
  const kernel = (seed: number) => ({ kernelInitializer: initializers.glorotUniform({ seed }) });
  const net = sequential({
    layers: [
      layers.dense({ units: 6, inputShape: [4], ...kernel(1) }),
      make(config),
      layers.activation({ activation: "tanh" }),
      layers.dense({ units: 1, ...kernel(2) }),
    ],
  });
  net.compile({ optimizer: tf.train.sgd(0.1), loss: "meanSquaredError" });
  return net;
}

const inputs = () => tf.tensor2d(normal(1, 40 * 4, 2, 1), [40, 4]);
const targets = () => tf.tensor2d(normal(2, 40), [40, 1]);
const train = (net: LayersModel, epochs = 5, batchSize = 10) =>
  net.fit(inputs(), targets(), { epochs, batchSize, shuffle: false, verbose: 0 });
const batchNormOf = (net: LayersModel) => net.layers[1] as Layer;

describe.each(BACKENDS)("on the backend $backend", ({ backend }) => {
  beforeAll(() => useBackend(backend));
  beforeEach(() => tf.engine().startScope());
  afterEach(() => tf.engine().endScope());

  describe("as TF.js's own", () => {
    it("trains and predicts", async () => {
      const [a, b] = [network(OURS), network(THEIRS)];
      const [one, other] = [await train(a), await train(b)];
      expect(one.history.loss).toHaveLength(5);
      expect(one.history.loss as number[]).toBeAllclose(other.history.loss as number[], { rtol: 1e-4, atol: 1e-5 });
      expect((one.history.loss as number[])[4]).toBeLessThan((one.history.loss as number[])[0] as number);
      const [mine, theirs] = [a, b].map((net) => values(net.predict(inputs()) as tf.Tensor)) as [
        Float32Array,
        Float32Array,
      ];
      expect(mine).toBeAllclose(theirs, { rtol: 1e-3, atol: 1e-4 });
      for (const [i, weight] of weightsOf(a).entries())
        expect(weight).toBeAllclose(weightsOf(b)[i] as Float32Array, { rtol: 1e-3, atol: 1e-4 });
      const evaluated = [a, b].map((net) => values(net.evaluate(inputs(), targets(), { verbose: 0 }) as tf.Scalar));
      expect(evaluated[0]).toBeAllclose(evaluated[1] as Float32Array, { rtol: 1e-4 });
    });

    it.each([[[8, 3]], [[4, 5, 3]], [[2, 4, 5, 3]]])(
      "normalises %j, channels last, in training and after it",
      (shape) => {
        const x = data(shape, -1);
        const [mine, theirs] = [OURS, THEIRS].map((make) => {
          const layer = make({ momentum: 0.8, epsilon: 0.01 });
          const trained = values(layer.apply(x, TRAINING) as tf.Tensor);
          return { trained, moving: movingOf(layer), after: values(layer.apply(x) as tf.Tensor) };
        });
        expect(mine?.trained).toBeAllclose(theirs?.trained as Float32Array, { rtol: 1e-4, atol: 1e-4 });
        expect(mine?.after).toBeAllclose(theirs?.after as Float32Array, { rtol: 1e-4, atol: 1e-4 });
        for (const i of [0, 1]) expect(mine?.moving[i]).toBeAllclose(theirs?.moving[i] as Float32Array, close);
      },
    );

    it("takes the whole configuration, and says it again", () => {
      const config: BatchNormalizationConfig = {
        name: "bn",
        trainable: false,
        axis: 1,
        momentum: 0.7,
        epsilon: 0.02,
        center: true,
        scale: true,
        betaInitializer: initializers.constant({ value: 0.25 }),
        gammaInitializer: initializers.randomUniform({ minval: 1, maxval: 2, seed: 3 }),
        movingMeanInitializer: "ones",
        movingVarianceInitializer: initializers.constant({ value: 4 }),
        betaConstraint: "nonNeg",
        gammaConstraint: constraints.maxNorm({ maxValue: 2, axis: 0 }),
        betaRegularizer: "l1l2",
        gammaRegularizer: regularizers.l1({ l1: 0.02 }),
      };
      const [mine, theirs] = [OURS(config), THEIRS(config)];
      expect(mine.getConfig()).toEqual(theirs.getConfig());
      expect(mine.getClassName()).toBe("BatchNormalization");
      mine.build([null, 3, 5]);
      theirs.build([null, 3, 5]);
      expect(weightsOf(mine)).toEqual(weightsOf(theirs));
      const names = (layer: Layer) => layer.weights.map((w) => w.originalName);
      expect(names(mine)).toEqual(["gamma", "beta", "moving_mean", "moving_variance"]);
      expect(names(mine)).toEqual(names(theirs));
      expect(OURS().getConfig()).toMatchObject({ axis: -1, momentum: 0.99, epsilon: 1e-3, center: true, scale: true });
    });

    it("counts regularisers in the loss, and applies constraints where TF.js does: to weights that are set", async () => {
      const config: BatchNormalizationConfig = {
        gammaRegularizer: regularizers.l2({ l2: 0.3 }),
        betaRegularizer: regularizers.l1({ l1: 0.2 }),
        gammaConstraint: constraints.minMaxNorm({ minValue: 0, maxValue: 0.5, axis: 0 }),
        betaConstraint: "nonNeg",
      };
      const [a, b] = [network(OURS, config), network(THEIRS, config)];
      const [one, other] = [await train(a), await train(b)];
      expect(one.history.loss as number[]).toBeAllclose(other.history.loss as number[], { rtol: 1e-4 });
      expect(weightsOf(a)[2]).toBeAllclose(weightsOf(b)[2] as Float32Array, { rtol: 1e-3, atol: 1e-4 });
      const layer = batchNormOf(a);
      layer.setWeights([tf.ones([6]), tf.fill([6], -1), tf.zeros([6]), tf.ones([6])]);
      const [gamma, beta] = weightsOf(layer) as [Float32Array, Float32Array];
      expect(Math.hypot(...gamma)).toBeCloseTo(0.5, 5);
      expect(beta).toEqual(new Float32Array(6));
    });

    it("refuses an axis without a known size", () => {
      for (const make of [OURS, THEIRS])
        expect(() => make({ axis: 1 }).build([null, null, 3])).toThrow("should have a defined dimension");
    });
  });

  describe("saved and loaded", () => {
    /** Saves a model and loads what was written. */
    async function copy(net: LayersModel): Promise<LayersModel> {
      let saved: tf.io.ModelArtifacts | undefined;
      const handler = tf.io.withSaveHandler(async (artifacts) => {
        // as a file would have it
        saved = { ...artifacts, modelTopology: JSON.parse(JSON.stringify(artifacts.modelTopology)) };
        return { modelArtifactsInfo: { dateSaved: new Date(0), modelTopologyType: "JSON" } };
      });
      await net.save(handler);
      return loadLayersModel(tf.io.fromMemory(saved as tf.io.ModelArtifacts));
    }

    const theirClass = THEIRS().constructor;
    const ourClass = OURS().constructor;

    it("TF.js's model loads into ours, and ours into TF.js's, weights and topology", async () => {
      const config = { axis: -1, momentum: 0.6, epsilon: 0.05, gammaRegularizer: regularizers.l2({ l2: 0.01 }) };
      const theirs = network(THEIRS, config);
      await train(theirs);
      const expected = values(theirs.predict(inputs()) as tf.Tensor);

      const restore = registerLayer();
      let ours: LayersModel;
      try {
        ours = await copy(theirs);
      } finally {
        restore();
      }
      expect(batchNormOf(ours).constructor).toBe(ourClass);
      expect(ours.toJSON(null, false)).toEqual(theirs.toJSON(null, false));
      expect(weightsOf(ours)).toEqual(weightsOf(theirs));
      expect(values(ours.predict(inputs()) as tf.Tensor)).toBeAllclose(expected, { rtol: 1e-4, atol: 1e-5 });

      const back = await copy(ours);
      expect(batchNormOf(back).constructor).toBe(theirClass);
      expect(back.toJSON(null, false)).toEqual(theirs.toJSON(null, false));
      expect(weightsOf(back)).toEqual(weightsOf(theirs));
      expect(values(back.predict(inputs()) as tf.Tensor)).toEqual(expected);

      for (const net of [ours, back]) net.compile({ optimizer: tf.train.sgd(0.1), loss: "meanSquaredError" });
      const [one, other] = [await train(ours, 2), await train(back, 2)];
      expect(one.history.loss as number[]).toBeAllclose(other.history.loss as number[], { rtol: 1e-4 });
    });

    it("weights alone pass between the two", () => {
      const [mine, theirs] = [OURS(), THEIRS()];
      const x = data([6, 3], -1);
      theirs.apply(x, TRAINING);
      mine.apply(x);
      mine.setWeights(theirs.getWeights());
      expect(values(mine.apply(x) as tf.Tensor)).toBeAllclose(values(theirs.apply(x) as tf.Tensor), close);
      mine.apply(x, TRAINING);
      theirs.setWeights(mine.getWeights());
      expect(movingOf(theirs)).toEqual(movingOf(mine));
    });
  });

  describe("as Keras documents it", () => {
    it("infers in predict, and when called without training", () => {
      const x = data([8, 3], -1);
      const layer = OURS();
      const y = values(layer.apply(x) as tf.Tensor);
      expect(y).toBeAllclose(
        values(x).map((v) => v / Math.sqrt(1 + EPSILON)),
        close,
      );
      expect(movingOf(layer)).toEqual([new Float32Array(3), new Float32Array(3).fill(1)]);
    });

    it("training: true takes the batch's statistics and updates, called by hand and in a model that is applied", () => {
      const x = data([8, 3], -1);
      const expected = normalized(x, -1);
      const layer = OURS();
      expect(values(layer.apply(x, TRAINING) as tf.Tensor)).toBeAllclose(expected.y, close);
      for (const i of [0, 1]) expect(movingOf(layer)[i]).toBeAllclose(expected.moving[i] as Float64Array, close);

      const inner = OURS();
      const at = input({ shape: [3] });
      const net = model({ inputs: at, outputs: inner.apply(at) as never });
      expect(values(net.apply(x, TRAINING) as tf.Tensor)).toBeAllclose(expected.y, close);
      expect(movingOf(inner)).toEqual(movingOf(layer));
    });

    it("a layer with trainable = false infers, even where it is called in training, and keeps its weights", async () => {
      const x = data([8, 3], -1);
      const [mine, theirs] = [OURS(), THEIRS()];
      for (const layer of [mine, theirs]) {
        layer.trainable = false;
        layer.apply(x, TRAINING);
      }
      expect(movingOf(mine)).toEqual([new Float32Array(3), new Float32Array(3).fill(1)]);
      expect(movingOf(theirs)[0]).not.toEqual(new Float32Array(3)); // TF.js's own goes on moving

      const net = network(OURS);
      batchNormOf(net).trainable = false;
      net.compile({ optimizer: tf.train.sgd(0.1), loss: "meanSquaredError" });
      const before = weightsOf(net);
      await train(net, 1);
      const after = weightsOf(net);
      const changed = after.map((w, i) => largest(w, before[i] as Float32Array) > 0);
      expect(changed).toEqual([true, true, true, true, false, false, false, false]); // the frozen ones come last
    });

    it("thaws again", () => {
      const layer = OURS();
      layer.trainable = false;
      layer.apply(data([8, 3], -1), TRAINING);
      layer.trainable = true;
      layer.apply(data([8, 3], -1), TRAINING);
      expect(movingOf(layer)[0]).not.toEqual(new Float32Array(3));
    });

    it("a model that is frozen freezes its batch norm, too", () => {
      const net = network(OURS);
      net.trainable = false;
      net.apply(inputs(), TRAINING);
      expect(movingOf(batchNormOf(net))).toEqual([new Float32Array(6), new Float32Array(6).fill(1)]);
    });

    it("a fit whose last batch is smaller takes it in", async () => {
      const net = network(OURS);
      await train(net, 1, 16);
      expect(movingOf(batchNormOf(net))[0]).not.toEqual(new Float32Array(6));
    });

    it("masks of a Masking layer reach it, in fit and when applied", async () => {
      const [T, C] = [5, 3];
      const x = values(data([6, T, C], -1));
      const kept = Array.from({ length: 6 * T }, (_, i) => i % T < 2 + (Math.floor(i / T) % 3));
      for (let i = 0; i < x.length; i++) if (!kept[Math.floor(i / C)]) x[i] = 0;
      const masked = tf.tensor3d(x, [6, T, C]);
      const bn = OURS();
      const net = sequential({ layers: [layers.masking({ maskValue: 0, inputShape: [T, C] }), bn] });
      net.compile({ optimizer: tf.train.sgd(0), loss: "meanSquaredError" });
      await net.fit(masked, tf.zerosLike(masked), { epochs: 1, batchSize: 6, verbose: 0 });
      const alone = x.filter((_, i) => kept[Math.floor(i / C)]);
      const expected = normalized(tf.tensor2d(alone, [alone.length / C, C]), -1);
      for (const i of [0, 1]) expect(movingOf(bn)[i]).toBeAllclose(expected.moving[i] as Float64Array, close);
    });
  });

  describe("where TF.js is wrong", () => {
    const axis1 = () => data([4, 3, 5], 1);

    it("axis 1: TF.js mixes the channels up, and its gradient throws; ours normalises, and differentiates", () => {
      const x = axis1();
      const expected = normalized(x, 1);
      const [mine, theirs] = [OURS({ axis: 1 }), THEIRS({ axis: 1 })];
      expect(largest(values(theirs.apply(x, TRAINING) as tf.Tensor), expected.y)).toBeGreaterThan(1);
      expect(values(mine.apply(x, TRAINING) as tf.Tensor)).toBeAllclose(expected.y, close);
      for (const i of [0, 1]) expect(movingOf(mine)[i]).toBeAllclose(expected.moving[i] as Float64Array, close);

      const after = { outer: 4, channels: 3, inner: 5 };
      const [mean, variance] = movingOf(mine) as [Float32Array, Float32Array];
      const invStd = reference.invStdOf(Float64Array.from(variance), EPSILON);
      const inferred = reference.forward(values(x), after, mean, invStd).y;
      theirs.setWeights(mine.getWeights());
      expect(largest(values(theirs.apply(x) as tf.Tensor), inferred)).toBeGreaterThan(0.1);
      expect(values(mine.apply(x) as tf.Tensor)).toBeAllclose(inferred, close);

      const w = tf.tensor3d(normal(9, 60), [4, 3, 5]);
      const slope = (layer: Layer) =>
        tf.grad((x: tf.Tensor) => tf.sum(tf.mul(w, layer.apply(x, TRAINING) as tf.Tensor)))(x);
      expect(() => slope(theirs)).toThrow("Size(60) must match the product of shape");
      const { mean: m, variance: v } = reference.statistics(values(x), after);
      const { dx } = reference.backward(values(x), values(w), after, m, reference.invStdOf(v, EPSILON), null, true);
      expect(values(slope(mine))).toBeAllclose(dx, { rtol: 1e-4, atol: 1e-4 });
    });

    it.each([
      ["center: false", { center: false }, ["gamma"]],
      ["scale: false", { scale: false }, ["beta"]],
      ["neither", { center: false, scale: false }, []],
    ])("%s: TF.js throws in training; ours trains what there is", async (_, config, names) => {
      const x = data([8, 3], -1);
      expect(() => THEIRS(config).apply(x, TRAINING)).toThrow(TypeError);
      const layer = OURS(config);
      expect(values(layer.apply(x, TRAINING) as tf.Tensor)).toBeAllclose(normalized(x, -1).y, close);
      expect(layer.trainableWeights.map(({ originalName }) => originalName.replace(/.*\//, ""))).toEqual(names);
      const net = network(OURS, config);
      const { history } = await train(net);
      expect((history.loss as number[])[4]).toBeLessThan((history.loss as number[])[0] as number);
      await expect(train(network(THEIRS, config), 1)).rejects.toThrow(TypeError);
    });

    it.each([
      [-1, 3],
      [1, 2],
    ])("rank 5, axis %i: TF.js throws; ours normalises", (axis) => {
      const x = data([2, 2, 2, 4, 3], axis);
      expect(() => THEIRS({ axis }).apply(x, TRAINING)).toThrow("rank 5");
      const layer = OURS({ axis });
      const expected = normalized(x, axis);
      expect(values(layer.apply(x, TRAINING) as tf.Tensor)).toBeAllclose(expected.y, close);
      expect(values(layer.apply(x) as tf.Tensor)).toHaveLength(96);
    });

    it("masks: TF.js says that it supports them and ignores them; ours takes the statistics of what counts", () => {
      const x = data([4, 6, 3], -1);
      const mask = tf.tensor2d(
        Array.from({ length: 24 }, (_, i) => i % 6 < 3),
        [4, 6],
        "bool",
      );
      const kept = tf.slice(x, [0, 0, 0], [4, 3, 3]);
      const expected = normalized(kept, -1).moving;
      const [mine, theirs, unmasked] = [OURS(), THEIRS(), THEIRS()];
      for (const layer of [mine, theirs]) layer.apply(x, { ...TRAINING, mask });
      unmasked.apply(x, TRAINING);
      expect(theirs.supportsMasking && mine.supportsMasking).toBe(true);
      expect(movingOf(theirs)).toEqual(movingOf(unmasked));
      for (const i of [0, 1]) expect(movingOf(mine)[i]).toBeAllclose(expected[i] as Float64Array, close);
      // what is masked is normalised like the rest, and passed on
      expect(mine.apply(x, { ...TRAINING, mask })).toMatchObject({ shape: [4, 6, 3] });
      expect(() => OURS({ axis: 1 }).apply(x, { ...TRAINING, mask })).toThrow(
        /^mask: expected a layer whose axis is the last/,
      );
    });

    it("an empty batch: TF.js's moving statistics move to what happens to be in memory; ours stay", () => {
      const x = tf.zeros([0, 5]);
      const [mine, theirs] = [OURS(), THEIRS()];
      for (const layer of [mine, theirs]) expect((layer.apply(x, TRAINING) as tf.Tensor).shape).toEqual([0, 5]);
      const start = [new Float32Array(5), new Float32Array(5).fill(1)];
      expect(movingOf(theirs)[1]).not.toEqual(start[1]);
      expect(movingOf(mine)).toEqual(start);
    });

    it("a batch of one: TF.js draws the moving variance to 0; ours throws, says why, and keeps it", async () => {
      const x = tf.tensor2d([[1, 2, 3]]);
      const [mine, theirs] = [OURS(), THEIRS()];
      theirs.apply(x, TRAINING);
      expect(movingOf(theirs)[1]).toEqual(new Float32Array(3).fill(0.99));
      expect(() => mine.apply(x, TRAINING)).toThrow(
        /^Expected more than 1 value per channel when training, got input size 1×3/,
      );
      expect(movingOf(mine)).toEqual([new Float32Array(3), new Float32Array(3).fill(1)]);
      expect(values(mine.apply(x) as tf.Tensor)).toBeAllclose([1, 2, 3], { rtol: 1e-3 });
      await expect(train(network(OURS), 1, 13)).rejects.toMatchObject({ code: "one-value-per-channel" });
    });

    it("NaN in a batch: TF.js's moving statistics are lost for good; ours throws, names the channel, and keeps them", () => {
      const x = tf.tensor2d([1, 2, 3, Number.NaN, 5, 6], [3, 2]);
      const [mine, theirs] = [OURS({ name: "bn7" }), THEIRS()];
      theirs.apply(x, TRAINING);
      expect(movingOf(theirs)[0]?.[1]).toBeNaN();
      expect(() => mine.apply(x, TRAINING)).toThrow(
        /^moving statistics of bn7: expected a finite batch mean and variance, got mean NaN and variance NaN in channel 1/,
      );
      expect(movingOf(mine)).toEqual([new Float32Array(2), new Float32Array(2).fill(1)]);
    });

    it("mean ≫ std: TF.js's variance is off; ours is right", () => {
      const x = tf.tensor2d(normal(1, 100_352, 1, 1e4), [100_352, 1]);
      const [mine, theirs] = [OURS({ momentum: 0 }), THEIRS({ momentum: 0 })];
      for (const layer of [mine, theirs]) layer.apply(x, TRAINING);
      const { variance } = reference.statistics(values(x), { outer: 100_352, channels: 1, inner: 1 });
      expect(movingOf(mine)[1]).toBeAllclose(variance, { rtol: 1e-6 });
      if (backend !== "cpu") expect(largest(movingOf(theirs)[1] as Float32Array, variance)).toBeGreaterThan(0.1);
    });
  });

  describe("memory", () => {
    it("1,000 steps of fit leave no tensor behind", async () => {
      const net = network(OURS);
      const [x, y] = [tf.keep(inputs()), tf.keep(targets())];
      const steps = (epochs: number) => net.fit(x, y, { epochs, batchSize: 10, verbose: 0 });
      await steps(1);
      const before = { ...tf.memory() };
      await steps(250);
      expect(tf.memory()).toMatchObject({
        numTensors: before.numTensors,
        numDataBuffers: before.numDataBuffers,
        numBytes: before.numBytes,
      });
    });

    it("predict and dispose leave none either", () => {
      const count = () => tf.memory().numTensors;
      const start = count();
      const net = sequential({ layers: [layers.dense({ units: 6, inputShape: [4] }), OURS()] });
      const x = inputs();
      const before = count();
      tf.dispose(net.predict(x));
      expect(count()).toBe(before);
      net.dispose();
      x.dispose();
      expect(count()).toBe(start);
    });
  });
});
