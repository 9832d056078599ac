// The layer of batchnorm-wasm/tfjs in TF.js's models, compared with TF.js's layer. Where TF.js's layer is correct, both
// give the same. Where it is wrong, the tests state the results of both.

import * as tf from "@tensorflow/tfjs-core";
import {
  constraints,
  initializers,
  input,
  LayersModel,
  layers,
  loadLayersModel,
  model,
  models,
  regularizers,
  type Sequential,
  sequential,
} from "@tensorflow/tfjs-layers";
import { afterEach, beforeAll, beforeEach, describe, expect, it, type MockInstance, vi } from "vitest";
import { type BatchNormalizationConfig, batchNormalization, registerLayer } from "../../src/tfjs/index.ts";
import * as reference from "../support/reference.ts";
import { BACKENDS, read, readAll, useBackend } from "../support/tfjs.ts";
import { normal, sizeOf } from "../support/worlds.ts";

type Layer = ReturnType<typeof layers.batchNormalization>;
type Make = (config?: BatchNormalizationConfig) => Layer;

const OURS: Make = batchNormalization;
const THEIRS: Make = (config) => layers.batchNormalization(config);

const EPSILON = 1e-3;
const TRAINING = { training: true };

const weightsOf = (layer: { getWeights(): tf.Tensor[] }) => readAll(layer.getWeights());
const movingOf = async (layer: Layer) => (await weightsOf(layer)).slice(-2);

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
async function normalized(x: tf.Tensor, axis: number) {
  const at = axis < 0 ? axis + x.rank : axis;
  const { shape } = x;
  const dims = { outer: sizeOf(shape.slice(0, at)), channels: shape[at] as number, inner: sizeOf(shape.slice(at + 1)) };
  const { mean, variance } = reference.statistics(await read(x), dims);
  const { y } = reference.forward(await read(x), dims, mean, reference.invStdOf(variance, EPSILON));
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
  const onGpu = backend === "webgl" || backend === "webgpu";
  let warn: MockInstance<typeof console.warn>;
  /** The warnings of this library; TF.js has its own. */
  const warnings = () => warn.mock.calls.flat().filter((text) => String(text).startsWith("batchnorm-wasm: "));

  beforeAll(() => useBackend(backend));
  beforeEach(() => {
    warn = vi.spyOn(console, "warn").mockImplementation(() => {});
    tf.engine().startScope();
  });
  afterEach(() => {
    warn.mockRestore();
    tf.engine().endScope();
  });

  describe("as TF.js's own", () => {
    it("trains and predicts", async () => {
      const [a, b] = [network(OURS), network(THEIRS)];
      const [one, other] = [await train(a), await train(b)];
      expect(one.history.loss).toHaveLength(5);
      expect(one.history.loss as number[]).toBeAllclose(other.history.loss as number[], { rtol: 1e-4, atol: 1e-5 });
      expect((one.history.loss as number[])[4]).toBeLessThan((one.history.loss as number[])[0] as number);
      const [mine, theirs] = (await readAll([a, b].map((net) => net.predict(inputs()) as tf.Tensor))) as [
        Float32Array,
        Float32Array,
      ];
      expect(mine).toBeAllclose(theirs, { rtol: 1e-3, atol: 1e-4 });
      for (const [i, weight] of (await weightsOf(a)).entries())
        expect(weight).toBeAllclose((await weightsOf(b))[i] as Float32Array, { rtol: 1e-3, atol: 1e-4 });
      const evaluated = await readAll(
        [a, b].map((net) => net.evaluate(inputs(), targets(), { verbose: 0 }) as tf.Scalar),
      );
      expect(evaluated[0]).toBeAllclose(evaluated[1] as Float32Array, { rtol: 1e-4 });
    });

    it.each([[[8, 3]], [[4, 5, 3]], [[2, 4, 5, 3]]])(
      "normalises %j, channels last, in training and after it",
      async (shape) => {
        const x = data(shape, -1);
        const results = [OURS, THEIRS].map(async (make) => {
          const layer = make({ momentum: 0.8, epsilon: 0.01 });
          const trained = await read(layer.apply(x, TRAINING) as tf.Tensor);
          return { trained, moving: await movingOf(layer), after: await read(layer.apply(x) as tf.Tensor) };
        });
        const [mine, theirs] = await Promise.all(results);
        expect(mine?.trained).toBeAllclose(theirs?.trained as Float32Array, { rtol: 1e-4, atol: 1e-4 });
        expect(mine?.after).toBeAllclose(theirs?.after as Float32Array, { rtol: 1e-4, atol: 1e-4 });
        for (const i of [0, 1]) expect(mine?.moving[i]).toBeAllclose(theirs?.moving[i] as Float32Array, close);
      },
    );

    it("takes the whole configuration, and says it again", async () => {
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
      expect(await weightsOf(mine)).toEqual(await weightsOf(theirs));
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
      expect((await weightsOf(a))[2]).toBeAllclose((await weightsOf(b))[2] as Float32Array, { rtol: 1e-3, atol: 1e-4 });
      const layer = batchNormOf(a);
      layer.setWeights([tf.ones([6]), tf.fill([6], -1), tf.zeros([6]), tf.ones([6])]);
      const [gamma, beta] = (await weightsOf(layer)) as [Float32Array, Float32Array];
      expect(Math.hypot(...gamma)).toBeCloseTo(0.5, 4);
      expect(beta).toBeAllclose(new Float32Array(6)); // or −0
    });

    it("refuses an axis without a known size", async () => {
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
      const expected = await read(theirs.predict(inputs()) as tf.Tensor);

      const restore = registerLayer();
      let ours: LayersModel;
      try {
        ours = await copy(theirs);
      } finally {
        restore();
      }
      expect(batchNormOf(ours).constructor).toBe(ourClass);
      expect(ours.toJSON(null, false)).toEqual(theirs.toJSON(null, false));
      expect(await weightsOf(ours)).toEqual(await weightsOf(theirs));
      expect(await read(ours.predict(inputs()) as tf.Tensor)).toBeAllclose(expected, { rtol: 1e-4, atol: 1e-5 });

      const back = await copy(ours);
      expect(batchNormOf(back).constructor).toBe(theirClass);
      expect(back.toJSON(null, false)).toEqual(theirs.toJSON(null, false));
      expect(await weightsOf(back)).toEqual(await weightsOf(theirs));
      expect(await read(back.predict(inputs()) as tf.Tensor)).toEqual(expected);

      for (const net of [ours, back]) net.compile({ optimizer: tf.train.sgd(0.1), loss: "meanSquaredError" });
      const [one, other] = [await train(ours, 2), await train(back, 2)];
      expect(one.history.loss as number[]).toBeAllclose(other.history.loss as number[], { rtol: 1e-4 });
    });

    it("onNonFinite survives in ours, and TF.js's class loads the model as if it were not there", async () => {
      const strict = network(OURS, { onNonFinite: "throw" });
      const restore = registerLayer();
      let ours: LayersModel;
      try {
        ours = await copy(strict);
      } finally {
        restore();
      }
      expect(batchNormOf(ours).getConfig()).toMatchObject({ onNonFinite: "throw" });
      const theirs = await copy(ours);
      expect(batchNormOf(theirs).constructor).toBe(theirClass);
      expect(await read(theirs.predict(inputs()) as tf.Tensor)).toBeAllclose(
        await read(strict.predict(inputs()) as tf.Tensor),
        close,
      );
      expect(batchNormOf(network(OURS)).getConfig()).not.toHaveProperty("onNonFinite");
    });

    /** A model as a version of Keras writes it into a file: batch norm of [N, 5, 3] with the channels on axis 1. */
    const saved = (className: string, config: object) => ({
      class_name: "Sequential",
      config: {
        name: "net",
        layers: [{ class_name: className, config: { batch_input_shape: [null, 5, 3], ...config } }],
      },
    });
    const zeros = { class_name: "Zeros", config: {} };

    it.each([
      ["Keras 2.0", "BatchNormalization", { axis: 1, mode: 0, beta_init: "zero", gamma_init: "one" }],
      [
        "tf.keras, TensorFlow 1.13",
        "BatchNormalizationV1",
        { axis: [1], fused: false, renorm: false, virtual_batch_size: null },
      ],
      ["tf.keras, TensorFlow 1.14", "BatchNormalizationV2", { axis: [1], dtype: "float32", adjustment: null }],
      ["tf.keras, TensorFlow 2.4", "SyncBatchNormalization", { axis: [1], dtype: "float32", beta_initializer: zeros }],
      [
        "tf.keras, TensorFlow 2.4, mixed precision",
        "BatchNormalization",
        { axis: [1], dtype: { class_name: "Policy", config: { name: "mixed_float16", loss_scale: null } } },
      ],
      ["an encoder that keeps tuples", "BatchNormalization", { axis: { class_name: "__tuple__", items: [1] } }],
      ["an encoder that names lists", "BatchNormalization", { axis: { class_name: "ListWrapper", items: [-2] } }],
      [
        "Keras 3",
        "BatchNormalization",
        {
          axis: 1,
          synchronized: false,
          dtype: { module: "keras", class_name: "DTypePolicy", config: { name: "float32" }, registered_name: null },
          beta_initializer: { module: "keras.initializers", ...zeros, registered_name: null },
        },
      ],
    ])("a layer as %s saves it (%s)", async (_, className, config) => {
      const x = data([4, 5, 3], 1);
      const restore = registerLayer();
      let net: LayersModel;
      try {
        net = await models.modelFromJSON(saved(className, config) as never);
      } finally {
        restore();
      }
      const layer = net.layers[0] as Layer;
      expect(layer.constructor).toBe(ourClass);
      expect(layer.getClassName()).toBe("BatchNormalization");
      const expected = await normalized(x, 1);
      expect(await read(net.apply(x, TRAINING) as tf.Tensor)).toBeAllclose(expected.y, close);
      for (const i of [0, 1])
        expect((await movingOf(layer))[i]).toBeAllclose(expected.moving[i] as Float64Array, close);
      // TF.js's own class loads it again
      const again = await models.modelFromJSON(net.toJSON(null, false) as never);
      expect((again.layers[0] as Layer).constructor).toBe(theirClass);
      expect([1, -2]).toContain(again.layers[0]?.getConfig().axis);
    });

    it("names that TF.js does not know are unknown again after restoring", async () => {
      registerLayer()();
      await expect(models.modelFromJSON(saved("BatchNormalizationV1", { axis: [1] }) as never)).rejects.toThrow(
        "Unknown layer: BatchNormalizationV1",
      );
    });

    it("calls of registerLayer are undone in any order, and twice is once", () => {
      const { classNameMap } = tf.serialization.SerializationMap.getMap();
      const names = [
        "BatchNormalization",
        "BatchNormalizationV1",
        "BatchNormalizationV2",
        "SyncBatchNormalization",
        "Normalization",
      ];
      const entries = () => names.map((name) => classNameMap[name]);
      const before = entries();
      const { loadWeights } = LayersModel.prototype;
      for (const order of [
        [0, 1, 2],
        [2, 1, 0],
        [1, 0, 1, 2],
      ]) {
        const undo = [registerLayer(), registerLayer(), registerLayer()];
        const registered = entries();
        expect(registered[0]?.[0]).toBe(ourClass);
        for (const i of order) {
          expect(entries()).toEqual(registered);
          undo[i]?.();
        }
        expect(entries()).toEqual(before);
        expect(LayersModel.prototype.loadWeights).toBe(loadWeights);
        for (const again of undo) again();
      }
      expect(Object.hasOwn(LayersModel.prototype, "loadWeights")).toBe(false);
    });

    it("what the program registers meanwhile stays, until it calls registerLayer again", () => {
      const { classNameMap } = tf.serialization.SerializationMap.getMap();
      class Own extends layers.Layer {
        static className = "SyncBatchNormalization";
      }
      const undo = [registerLayer()];
      tf.serialization.SerializationMap.register(Own as never);
      undo.push(registerLayer());
      expect(classNameMap.SyncBatchNormalization?.[0]).toBe(ourClass);
      tf.serialization.SerializationMap.register(Own as never);
      for (const one of undo) one();
      expect(classNameMap.SyncBatchNormalization?.[0]).toBe(Own);
      expect(classNameMap.BatchNormalization?.[0]).toBe(theirClass);
      delete classNameMap.SyncBatchNormalization;
    });

    it("a layer that is disposed of says so", () => {
      const layer = OURS({ name: "bn8" });
      const x = data([6, 3], -1);
      layer.apply(x);
      layer.dispose();
      for (const call of [
        () => layer.apply(x),
        () => layer.apply(x, TRAINING),
        () => layer.call(x, {}),
        () => layer.dispose(),
      ])
        expect(call).toThrow(
          expect.objectContaining({
            code: "disposed",
            message: "bn8: expected one that is alive, got a disposed one; make a new one",
          }) as Error,
        );
    });

    it.each([[[1, 2]], [[]], ["last"], [{ class_name: "Slice" }]])("refuses %j as an axis", async (axis) => {
      expect(() => OURS({ axis: axis as never })).toThrow(/^axis: expected one axis, a number/);
    });

    it("weights alone pass between the two", async () => {
      const [mine, theirs] = [OURS(), THEIRS()];
      const x = data([6, 3], -1);
      theirs.apply(x, TRAINING);
      mine.apply(x);
      mine.setWeights(theirs.getWeights());
      expect(await read(mine.apply(x) as tf.Tensor)).toBeAllclose(await read(theirs.apply(x) as tf.Tensor), close);
      mine.apply(x, TRAINING);
      theirs.setWeights(mine.getWeights());
      expect(await movingOf(theirs)).toEqual(await movingOf(mine));
    });
  });

  describe("as Keras documents it", () => {
    it("infers in predict, and when called without training", async () => {
      const x = data([8, 3], -1);
      const layer = OURS();
      const y = await read(layer.apply(x) as tf.Tensor);
      expect(y).toBeAllclose(
        (await read(x)).map((v) => v / Math.sqrt(1 + EPSILON)),
        close,
      );
      expect(await movingOf(layer)).toEqual([new Float32Array(3), new Float32Array(3).fill(1)]);
    });

    it("training: true takes the batch's statistics and updates, called by hand and in a model that is applied", async () => {
      const x = data([8, 3], -1);
      const expected = await normalized(x, -1);
      const layer = OURS();
      expect(await read(layer.apply(x, TRAINING) as tf.Tensor)).toBeAllclose(expected.y, close);
      for (const i of [0, 1])
        expect((await movingOf(layer))[i]).toBeAllclose(expected.moving[i] as Float64Array, close);

      const inner = OURS();
      const at = input({ shape: [3] });
      const net = model({ inputs: at, outputs: inner.apply(at) as never });
      expect(await read(net.apply(x, TRAINING) as tf.Tensor)).toBeAllclose(expected.y, close);
      expect(await movingOf(inner)).toEqual(await movingOf(layer));
    });

    it("a layer with trainable = false infers, even where it is called in training, and keeps its weights", async () => {
      const x = data([8, 3], -1);
      const [mine, theirs] = [OURS(), THEIRS()];
      for (const layer of [mine, theirs]) {
        layer.trainable = false;
        layer.apply(x, TRAINING);
      }
      expect(await movingOf(mine)).toEqual([new Float32Array(3), new Float32Array(3).fill(1)]);
      expect((await movingOf(theirs))[0]).not.toEqual(new Float32Array(3)); // TF.js's own goes on moving

      const net = network(OURS);
      batchNormOf(net).trainable = false;
      net.compile({ optimizer: tf.train.sgd(0.1), loss: "meanSquaredError" });
      const before = await weightsOf(net);
      await train(net, 1);
      const after = await weightsOf(net);
      const changed = after.map((w, i) => largest(w, before[i] as Float32Array) > 0);
      expect(changed).toEqual([true, true, true, true, false, false, false, false]); // the frozen ones come last
    });

    it("thaws again", async () => {
      const layer = OURS();
      layer.trainable = false;
      layer.apply(data([8, 3], -1), TRAINING);
      layer.trainable = true;
      layer.apply(data([8, 3], -1), TRAINING);
      expect((await movingOf(layer))[0]).not.toEqual(new Float32Array(3));
    });

    it("a model that is frozen freezes its batch norm, too", async () => {
      const net = network(OURS);
      net.trainable = false;
      net.apply(inputs(), TRAINING);
      expect(await movingOf(batchNormOf(net))).toEqual([new Float32Array(6), new Float32Array(6).fill(1)]);
    });

    it("a fit whose last batch is smaller takes it in", async () => {
      const net = network(OURS);
      await train(net, 1, 16);
      expect((await movingOf(batchNormOf(net)))[0]).not.toEqual(new Float32Array(6));
    });

    it("masks of a Masking layer reach it, in fit and when applied", async () => {
      const [T, C] = [5, 3];
      const x = await read(data([6, T, C], -1));
      const kept = Array.from({ length: 6 * T }, (_, i) => i % T < 2 + (Math.floor(i / T) % 3));
      for (let i = 0; i < x.length; i++) if (!kept[Math.floor(i / C)]) x[i] = 0;
      const masked = tf.tensor3d(x, [6, T, C]);
      const bn = OURS();
      const net = sequential({ layers: [layers.masking({ maskValue: 0, inputShape: [T, C] }), bn] });
      net.compile({ optimizer: tf.train.sgd(0), loss: "meanSquaredError" });
      await net.fit(masked, tf.zerosLike(masked), { epochs: 1, batchSize: 6, verbose: 0 });
      const alone = x.filter((_, i) => kept[Math.floor(i / C)]);
      const expected = await normalized(tf.tensor2d(alone, [alone.length / C, C]), -1);
      for (const i of [0, 1]) expect((await movingOf(bn))[i]).toBeAllclose(expected.moving[i] as Float64Array, close);
    });
  });

  describe("where TF.js is wrong", () => {
    const axis1 = () => data([4, 3, 5], 1);

    it("axis 1: TF.js mixes the channels up, but not on GPUs, and its gradient throws; ours normalises, and differentiates", async () => {
      const x = axis1();
      const expected = await normalized(x, 1);
      const [mine, theirs] = [OURS({ axis: 1 }), THEIRS({ axis: 1 })];
      const wrong = largest(await read(theirs.apply(x, TRAINING) as tf.Tensor), expected.y);
      if (!onGpu) expect(wrong).toBeGreaterThan(1);
      expect(await read(mine.apply(x, TRAINING) as tf.Tensor)).toBeAllclose(expected.y, close);
      for (const i of [0, 1]) expect((await movingOf(mine))[i]).toBeAllclose(expected.moving[i] as Float64Array, close);

      const after = { outer: 4, channels: 3, inner: 5 };
      const [mean, variance] = (await movingOf(mine)) as [Float32Array, Float32Array];
      const invStd = reference.invStdOf(Float64Array.from(variance), EPSILON);
      const inferred = reference.forward(await read(x), after, mean, invStd).y;
      theirs.setWeights(mine.getWeights());
      const wrongAfter = largest(await read(theirs.apply(x) as tf.Tensor), inferred);
      if (!onGpu) expect(wrongAfter).toBeGreaterThan(0.1);
      expect(await read(mine.apply(x) as tf.Tensor)).toBeAllclose(inferred, close);

      const w = tf.tensor3d(normal(9, 60), [4, 3, 5]);
      const slope = (layer: Layer) =>
        tf.grad((x: tf.Tensor) => tf.sum(tf.mul(w, layer.apply(x, TRAINING) as tf.Tensor)))(x);
      expect(() => slope(theirs)).toThrow("Size(60) must match the product of shape");
      const { mean: m, variance: v } = reference.statistics(await read(x), after);
      const { dx } = reference.backward(
        await read(x),
        await read(w),
        after,
        m,
        reference.invStdOf(v, EPSILON),
        null,
        true,
      );
      expect(await read(slope(mine))).toBeAllclose(dx, { rtol: 1e-4, atol: 1e-4 });
    });

    it.each([
      ["center: false", { center: false }, ["gamma"]],
      ["scale: false", { scale: false }, ["beta"]],
      ["neither", { center: false, scale: false }, []],
    ])("%s: TF.js throws in training; ours trains what there is", async (_, config, names) => {
      const x = data([8, 3], -1);
      expect(() => THEIRS(config).apply(x, TRAINING)).toThrow(TypeError);
      const layer = OURS(config);
      expect(await read(layer.apply(x, TRAINING) as tf.Tensor)).toBeAllclose((await normalized(x, -1)).y, close);
      expect(layer.trainableWeights.map(({ originalName }) => originalName.replace(/.*\//, ""))).toEqual(names);
      const net = network(OURS, config);
      const { history } = await train(net);
      expect((history.loss as number[])[4]).toBeLessThan((history.loss as number[])[0] as number);
      await expect(train(network(THEIRS, config), 1)).rejects.toThrow(TypeError);
    });

    it.each([
      [-1, 3],
      [1, 2],
    ])("rank 5, axis %i: TF.js throws; ours normalises", async (axis) => {
      const x = data([2, 2, 2, 4, 3], axis);
      expect(() => THEIRS({ axis }).apply(x, TRAINING)).toThrow("rank 5");
      const layer = OURS({ axis });
      const expected = await normalized(x, axis);
      expect(await read(layer.apply(x, TRAINING) as tf.Tensor)).toBeAllclose(expected.y, close);
      expect(await read(layer.apply(x) as tf.Tensor)).toHaveLength(96);
    });

    it("masks: TF.js says that it supports them and ignores them; ours takes the statistics of what counts", async () => {
      const x = data([4, 6, 3], -1);
      const mask = tf.tensor2d(
        Array.from({ length: 24 }, (_, i) => i % 6 < 3),
        [4, 6],
        "bool",
      );
      const kept = tf.slice(x, [0, 0, 0], [4, 3, 3]);
      const expected = (await normalized(kept, -1)).moving;
      const [mine, theirs, unmasked] = [OURS(), THEIRS(), THEIRS()];
      for (const layer of [mine, theirs]) layer.apply(x, { ...TRAINING, mask });
      unmasked.apply(x, TRAINING);
      expect(theirs.supportsMasking && mine.supportsMasking).toBe(true);
      expect(await movingOf(theirs)).toEqual(await movingOf(unmasked));
      for (const i of [0, 1]) expect((await movingOf(mine))[i]).toBeAllclose(expected[i] as Float64Array, close);
      // masked positions are normalised as well
      expect(mine.apply(x, { ...TRAINING, mask })).toMatchObject({ shape: [4, 6, 3] });
    });

    it("a mask that fits no position of x is left out, with a warning, as TF.js always leaves it out", async () => {
      const x = data([4, 6, 3], -1);
      const layer = OURS({ axis: 1, name: "rows" });
      const plain = OURS({ axis: 1 });
      for (let i = 0; i < 2; i++) layer.apply(x, { ...TRAINING, mask: tf.ones([4, 6], "bool") });
      for (let i = 0; i < 2; i++) plain.apply(x, TRAINING);
      expect(await movingOf(layer)).toEqual(await movingOf(plain));
      expect(warnings()).toEqual([
        expect.stringMatching(/^batchnorm-wasm: rows expected a mask of the first axes of x.*4×6 for x of shape 4×6×3/),
      ]);
    });

    it("a mask of the first axes masks all positions behind them", async () => {
      const x = data([4, 6, 5, 3], -1);
      const mask = tf.tensor2d(
        Array.from({ length: 24 }, (_, i) => i % 6 < 3),
        [4, 6],
        "bool",
      );
      const layer = OURS();
      layer.apply(x, { ...TRAINING, mask });
      const expected = (await normalized(tf.slice(x, [0, 0, 0, 0], [4, 3, 5, 3]), -1)).moving;
      for (const i of [0, 1]) expect((await movingOf(layer))[i]).toBeAllclose(expected[i] as Float64Array, close);
    });

    it("an empty batch: TF.js's moving statistics move to what is in memory, or GPUs throw; ours stay", async () => {
      const x = tf.zeros([0, 5]);
      const [mine, theirs] = [OURS(), THEIRS()];
      const start = [new Float32Array(5), new Float32Array(5).fill(1)];
      expect((mine.apply(x, TRAINING) as tf.Tensor).shape).toEqual([0, 5]);
      if (onGpu) expect(() => theirs.apply(x, TRAINING)).toThrow(/NaN elements|Failed to execute 'createBuffer'/);
      else {
        expect((theirs.apply(x, TRAINING) as tf.Tensor).shape).toEqual([0, 5]);
        expect((await movingOf(theirs))[1]).not.toEqual(start[1]);
      }
      expect(await movingOf(mine)).toEqual(start);
      const slope = tf.grad((x: tf.Tensor) => mine.apply(x, TRAINING) as tf.Tensor)(x, x);
      expect(slope.shape).toEqual([0, 5]);
    });

    const start = (channels: number) => [new Float32Array(channels), new Float32Array(channels).fill(1)];
    /** Waits until warnings that depend on a device have been given. */
    const settled = () => vi.waitFor(() => expect(warnings()).not.toEqual([]));

    it.each([
      ["one sample of a vector", [1, 3], -1],
      ["one sample, one position", [1, 1, 1, 3], -1],
      ["one sample, one position, axis 1", [1, 3, 1], 1],
      ["a vector", [3], 0],
    ])(
      "a batch of one value per channel, %s: TF.js draws the moving variance to 0; ours keeps it, and warns",
      async (_, shape, axis) => {
        const x = tf.tensor([1, 2, 3], shape);
        const layer = OURS({ axis, name: "bn3", betaInitializer: initializers.constant({ value: 0.25 }) });
        const y = layer.apply(x, TRAINING) as tf.Tensor;
        expect(y.shape).toEqual(shape);
        expect(await read(y)).toEqual(new Float32Array(3).fill(0.25));
        layer.apply(x, TRAINING);
        expect(await movingOf(layer)).toEqual(start(3));
        await settled();
        expect(warnings()).toEqual([
          expect.stringMatching(
            /^batchnorm-wasm: bn3 expected more than 1 value per channel in training, got input size /,
          ),
        ]);
        expect(warnings()[0]).toMatch("Choose a batchSize that leaves more than one sample");
        expect(await read(layer.apply(tf.ones(shape)) as tf.Tensor)).toBeAllclose([1.2495, 1.2495, 1.2495], {
          rtol: 1e-4,
        });
      },
    );

    it("gives dx = 0, dGamma = 0 and dBeta = Σdy there, also where a mask leaves one position", async () => {
      const dy = normal(5, 12);
      const cases = [
        [tf.tensor2d([1, 2, 3], [1, 3]), undefined, dy.slice(0, 3)],
        [tf.tensor3d(normal(4, 12), [2, 2, 3]), tf.tensor2d([0, 0, 1, 0], [2, 2], "bool"), dy],
      ] as const;
      for (const [x, mask, upstream] of cases) {
        const layer = OURS({ betaInitializer: initializers.constant({ value: 0.25 }) });
        layer.build(x.shape);
        const variables = layer.trainableWeights.map((w) => w.read() as tf.Variable);
        const w = tf.tensor(upstream, x.shape);
        const loss = (x: tf.Tensor) =>
          tf.sum(tf.mul(w, layer.apply(x, { ...TRAINING, ...(mask ? { mask } : {}) }) as tf.Tensor)) as tf.Scalar;
        expect(await read(tf.grad(loss)(x))).toEqual(new Float32Array(x.size));
        const { grads } = tf.variableGrads(() => loss(x), variables);
        const [dGamma, dBeta] = await readAll(variables.map(({ name }) => grads[name] as tf.Tensor));
        expect(dGamma).toEqual(new Float32Array(3));
        const sums = [0, 1, 2].map((c) => upstream.filter((_, i) => i % 3 === c).reduce((a, b) => a + b, 0));
        expect(dBeta).toBeAllclose(sums, close);
        expect(await read(layer.apply(x, { ...TRAINING, ...(mask ? { mask } : {}) }) as tf.Tensor)).toEqual(
          new Float32Array(x.size).fill(0.25),
        );
        expect(await movingOf(layer)).toEqual(start(3));
      }
    });

    it("fit with 33 rows and batchSize 16 goes on past its last batch of one", async () => {
      const net = network(OURS);
      const rows = [tf.slice(inputs(), [0, 0], [33, 4]), tf.slice(targets(), [0, 0], [33, 1])] as const;
      const { history } = await net.fit(...rows, { epochs: 3, batchSize: 16, shuffle: false, verbose: 0 });
      const losses = history.loss as number[];
      expect(losses).toHaveLength(3);
      expect(losses[2]).toBeLessThan(losses[0] as number);
      await settled();
      expect(warnings()).toHaveLength(1);
      expect(warnings()[0]).toMatch(`${batchNormOf(net).name} expected more than 1 value per channel`);
      // the moving statistics are those of the same training without the last row
      const other = network(OURS);
      other.setWeights(net.getWeights());
      const moving = await movingOf(batchNormOf(net));
      for (const v of moving[1] as Float32Array) expect(v).toBeGreaterThan(0);
      await other.fit(tf.slice(inputs(), [0, 0], [1, 4]), tf.slice(targets(), [0, 0], [1, 1]), { verbose: 0 });
      expect(await movingOf(batchNormOf(other))).toEqual(moving);
    });

    const withNaN = () => tf.tensor2d([1, 2, 3, Number.NaN, 5, 6], [3, 2]);

    it("NaN in a batch: TF.js's moving statistics are lost for good; ours stay, and a warning says so", async () => {
      const x = withNaN();
      const [mine, theirs] = [OURS({ name: "bn7" }), THEIRS()];
      theirs.apply(x, TRAINING);
      expect((await movingOf(theirs))[0]?.[1]).toBeNaN();
      const y = await read(mine.apply(x, TRAINING) as tf.Tensor);
      expect(y.filter((_, i) => i % 2 === 0)).toBeAllclose(
        (await normalized(tf.tensor2d([1, 3, 5], [3, 1]), -1)).y,
        close,
      );
      expect(y.filter((_, i) => i % 2 === 1)).toEqual(new Float32Array(3).fill(Number.NaN));
      expect(await movingOf(mine)).toEqual(start(2));
      await settled();
      mine.apply(x, TRAINING);
      await tf.nextFrame();
      expect(warnings()).toEqual([
        expect.stringMatching(/^batchnorm-wasm: bn7 expected a batch with finite statistics, got NaN or Infinity/),
      ]);
      mine.apply(tf.tensor2d([1, 2, 3, 4, 5, 6], [3, 2]), TRAINING);
      expect((await movingOf(mine))[0]).toBeAllclose([0.03, 0.04], close);
    });

    it('onNonFinite: "throw" names the channel and keeps them', async () => {
      const strict = OURS({ name: "bn7", onNonFinite: "throw" });
      const good = tf.tensor2d([1, 2, 3, 4, 5, 6], [3, 2]);
      let synchronously: MockInstance | undefined;
      if (backend === "webgpu") {
        // SwiftShader loses its device where TF.js's webgpu backend reads synchronously, so these are what it would read
        const statistics = [
          [3, Number.NaN],
          [4, Number.NaN],
          [3, 4],
          [8 / 3, 8 / 3],
        ];
        synchronously = vi
          .spyOn(tf.Tensor.prototype, "dataSync")
          .mockImplementation(() => Float32Array.from(statistics.shift() as number[]) as never);
      }
      try {
        expect(() => strict.apply(withNaN(), TRAINING)).toThrow(
          /^moving statistics of bn7: expected a finite batch mean and variance, got mean NaN and variance NaN in channel 1; nothing was updated. Look for it in the input, or set onNonFinite to "skip" or "allow"/,
        );
        expect(await movingOf(strict)).toEqual(start(2));
        strict.apply(good, TRAINING);
      } finally {
        synchronously?.mockRestore();
      }
      expect((await movingOf(strict))[0]).toBeAllclose([0.03, 0.04], close);
      expect(warnings()).toEqual([]);
    });

    it('onNonFinite: "allow" does what TF.js does', async () => {
      const [mine, theirs] = [OURS({ onNonFinite: "allow" }), THEIRS()];
      for (const layer of [mine, theirs]) layer.apply(withNaN(), TRAINING);
      const [expected, actual] = [await movingOf(theirs), await movingOf(mine)];
      for (const i of [0, 1]) expect(actual[i]).toBeAllclose(expected[i] as Float32Array, close);
      expect(actual[0]?.[1]).toBeNaN();
      expect(warnings()).toEqual([]);
      expect(() => OURS({ onNonFinite: "ignore" as never })).toThrow(/^onNonFinite: expected/);
    });

    it("a momentum beyond 1 moves the statistics as TF.js does", async () => {
      const x = data([8, 3], -1);
      const [mine, theirs] = [OURS({ momentum: 1.5 }), THEIRS({ momentum: 1.5 })];
      for (const layer of [mine, theirs]) layer.apply(x, TRAINING);
      for (const i of [0, 1])
        expect((await movingOf(mine))[i]).toBeAllclose((await movingOf(theirs))[i] as Float32Array, close);
    });

    it("mean ≫ std: TF.js's variance is off; ours is right", async () => {
      const x = tf.tensor2d(normal(1, 100_352, 1, 1e4), [100_352, 1]);
      const [mine, theirs] = [OURS({ momentum: 0 }), THEIRS({ momentum: 0 })];
      for (const layer of [mine, theirs]) layer.apply(x, TRAINING);
      const { variance } = reference.statistics(await read(x), { outer: 100_352, channels: 1, inner: 1 });
      expect((await movingOf(mine))[1]).toBeAllclose(variance, { rtol: 1e-6 });
      if (backend === "wasm" || backend === "hidden")
        expect(largest((await movingOf(theirs))[1] as Float32Array, variance)).toBeGreaterThan(0.1);
    });
  });

  describe("memory", () => {
    it("1,000 steps of fit, or 40 on a GPU, leave no tensor behind", async () => {
      const net = network(OURS);
      const [x, y] = [tf.keep(inputs()), tf.keep(targets())];
      const steps = (epochs: number) => net.fit(x, y, { epochs, batchSize: 10, verbose: 0 });
      await steps(1);
      const before = { ...tf.memory() };
      await steps(onGpu ? 10 : 250); // SwiftShader takes more than a tenth of a second for a step
      expect(tf.memory()).toMatchObject({
        numTensors: before.numTensors,
        numDataBuffers: before.numDataBuffers,
        numBytes: before.numBytes,
      });
    });

    it("predict and dispose leave none either", async () => {
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
