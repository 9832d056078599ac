// Keras's layer Normalization for TF.js: Keras's documented examples, statistics in float64, weights and files as Keras
// and its converter write them.

import * as tf from "@tensorflow/tfjs-core";
import { input, type LayersModel, layers, loadLayersModel, sequential } from "@tensorflow/tfjs-layers";
import { afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import {
  BatchNormError,
  type NormalizationConfig,
  type Numbers,
  normalization,
  registerLayer,
} from "../../src/tfjs/index.ts";
import { BACKENDS, useBackend, values } from "../support/tfjs.ts";
import { normal, sizeOf } from "../support/worlds.ts";

const call = (layer: layers.Layer, x: tf.Tensor) => values(layer.apply(x) as tf.Tensor);
const weightsOf = (layer: layers.Layer) => layer.getWeights().map(values);

const EXAMPLE = [
  [0, 7, 4],
  [2, 9, 6],
  [0, 7, 4],
  [2, 9, 6],
];

/** Mean and variance in float64 of every index of the kept axes, and the number of values. */
function statistics(x: ArrayLike<number>, shape: readonly number[], kept: readonly number[]) {
  const groups = new Map<number, number[]>();
  for (let i = 0; i < x.length; i++) {
    let key = 0;
    for (const axis of kept)
      key = key * (shape[axis] as number) + (Math.floor(i / sizeOf(shape.slice(axis + 1))) % (shape[axis] as number));
    groups.set(key, [...(groups.get(key) ?? []), x[i] as number]);
  }
  const sorted = [...groups].sort(([a], [b]) => a - b).map(([, group]) => group);
  const average = (group: readonly number[]) => group.reduce((a, b) => a + b, 0) / group.length;
  const mean = sorted.map(average);
  const variance = sorted.map((group, c) => average(group.map((v) => (v - (mean[c] as number)) ** 2)));
  return { mean, variance, count: (sorted[0] as number[]).length };
}

describe.each(BACKENDS)("on the backend $backend", ({ backend }) => {
  beforeAll(() => useBackend(backend));
  beforeEach(() => tf.engine().startScope());
  afterEach(() => tf.engine().endScope());

  describe("Keras's examples", () => {
    it("one mean and variance of all data", async () => {
      const layer = normalization({ axis: null });
      await layer.adapt([1, 2, 3, 4, 5]);
      expect(call(layer, tf.tensor1d([1, 2, 3]))).toBeAllclose([-Math.SQRT2, -Math.SQRT1_2, 0], { atol: 1e-6 });
    });

    it("of each index of the last axis, and inverted", async () => {
      const layer = normalization({ axis: -1 });
      await layer.adapt(EXAMPLE);
      expect(call(layer, tf.tensor2d([[0, 7, 4]]))).toBeAllclose([-1, -1, -1], { atol: 1e-6 });
      const inverse = normalization({ axis: -1, invert: true });
      await inverse.adapt(EXAMPLE);
      expect(call(inverse, tf.tensor2d([[1, 2, 3]]))).toBeAllclose([2, 10, 8], { atol: 1e-6 });
    });

    it("of integers and booleans, as images are", async () => {
      const integers = normalization({ axis: -1 });
      await integers.adapt(tf.tensor2d(EXAMPLE, undefined, "int32"));
      expect(call(integers, tf.tensor2d([[0, 7, 4]]))).toBeAllclose([-1, -1, -1], { atol: 1e-6 });
      const booleans = normalization({ axis: null });
      await booleans.adapt(tf.tensor1d([true, false], "bool"));
      expect(call(booleans, tf.tensor1d([1, 0]))).toBeAllclose([1, -1], { atol: 1e-6 });
    });

    it("given mean and variance", () => {
      const layer = normalization({ mean: 3, variance: 2 });
      expect(call(layer, tf.tensor2d([[1], [2], [3]]))).toBeAllclose([-Math.SQRT2, -Math.SQRT1_2, 0], { atol: 1e-6 });
      expect(layer.getWeights()).toEqual([]);
    });
  });

  const SHAPE: [number, number, number, number] = [3, 4, 2, 5];

  it.each([
    [-1, [3]],
    [1, [1]],
    [
      [1, -1],
      [1, 3],
    ],
    [
      [3, 1],
      [1, 3],
    ],
    [null, []],
    [[], []],
  ] as [number | number[] | null, number[]][])(
    "statistics of axis %j are those in float64, by batches too",
    async (axis, kept) => {
      const x = Float32Array.from(normal(3, sizeOf(SHAPE), 100, 3));
      const expected = statistics(x, SHAPE, kept);
      const sizes = kept.map((i) => SHAPE[i] as number);
      const whole = tf.tensor4d(x, SHAPE);
      const batches = tf.split(whole, [1, 2], 0);
      async function* later() {
        yield* batches;
      }
      for (const data of [whole, batches, later(), new Set(batches), [{ xs: whole, ys: tf.scalar(1) }]]) {
        const layer = normalization({ axis });
        await layer.adapt(data as tf.Tensor);
        const [mean, variance, count] = layer.getWeights() as [tf.Tensor, tf.Tensor, tf.Tensor];
        expect([mean.shape, variance.shape, count.shape, count.dtype]).toEqual([sizes, sizes, [], "int32"]);
        expect(values(mean)).toBeAllclose(expected.mean, { rtol: 1e-7 });
        expect(values(variance)).toBeAllclose(expected.variance, { rtol: 2e-6 });
        expect(values(count)).toEqual(Float32Array.of(expected.count));
        const y = call(layer, whole);
        const group = statistics(y, SHAPE, kept);
        expect(group.mean).toBeAllclose(
          group.mean.map(() => 0),
          { atol: 1e-4 },
        );
        expect(group.variance).toBeAllclose(
          group.variance.map(() => 1),
          { rtol: 1e-4 },
        );
      }
    },
  );

  it("a dataset of tf.data gives batches, which are freed", async () => {
    const batches = tf.split(tf.tensor2d(EXAMPLE), 2);
    const elements = [{ xs: tf.clone(batches[0] as tf.Tensor), ys: tf.scalar(0) }, tf.clone(batches[1] as tf.Tensor)];
    const iterator = async () => {
      const inner = elements[Symbol.iterator]();
      return { next: async () => inner.next() };
    };
    const layer = normalization();
    layer.build([null, 3]);
    const before = tf.memory().numTensors;
    await layer.adapt({ iterator });
    expect(tf.memory().numTensors - before).toBe(-3);
    expect(weightsOf(layer)).toEqual([Float32Array.of(1, 8, 5), Float32Array.of(1, 1, 1), Float32Array.of(4)]);
  });

  it("adapt begins anew, and counts an index without others as one value", async () => {
    const layer = normalization();
    await layer.adapt([[100, 100, 100]]);
    expect(weightsOf(layer)).toEqual([Float32Array.of(100, 100, 100), new Float32Array(3), Float32Array.of(1)]);
    // a variance of 0 is limited to 1e-14
    expect(call(layer, tf.tensor2d([[100, 101, 99]]))).toBeAllclose([0, 1e7, -1e7], { rtol: 1e-6 });
    await layer.adapt(EXAMPLE);
    expect(weightsOf(layer)[0]).toEqual(Float32Array.of(1, 8, 5));
  });

  it("what fails leaves the statistics as they were", async () => {
    const layer = normalization({ name: "prepare" });
    await layer.adapt(EXAMPLE);
    const before = weightsOf(layer);
    const good = tf.tensor2d(EXAMPLE);
    const gone = tf.tensor2d(EXAMPLE);
    gone.dispose();
    const failing: [unknown, new (...args: never[]) => Error, RegExp][] = [
      [[good, tf.tensor2d([[1, Number.NaN, 2]])], BatchNormError, /adapt of prepare.*channel 1/],
      [[good, tf.ones([2, 4])], RangeError, /data: expected shape 3, got 4/],
      [[], RangeError, /data: expected at least one value/],
      [tf.zeros([0, 3]), RangeError, /at least one value/],
      [7, TypeError, /data: expected a tf.data dataset, or an iterable/],
      [new Set(["x"]), TypeError, /data: expected a tensor/],
      [[[good, good]], TypeError, /batches of one tensor each/],
      [[good, tf.tensor2d([["a", "b", "c"]])], TypeError, /^data: expected a tensor of numbers, got "string"/],
      [tf.tensor1d(["a"]), TypeError, /^data: expected a tensor of numbers, got "string"/],
      [["a"], TypeError, /^data: expected a tensor/],
      [[["a", "b", "c"]], TypeError, /^data: expected numbers, or lists of them with one length for each axis, got/],
      [
        [
          [1, 2, 3],
          [1, 2],
        ],
        TypeError,
        /^data: expected numbers, or lists of them with one length for each axis, got/,
      ],
      [[good, gone], BatchNormError, /^data: expected one that is alive/],
    ];
    for (const [data, kind, message] of failing) {
      const error = await layer.adapt(data as tf.Tensor).catch((reason: unknown) => reason);
      expect(error).toBeInstanceOf(kind);
      expect((error as Error).message).toMatch(message);
      expect(weightsOf(layer)).toEqual(before);
      const fresh = normalization();
      await fresh.adapt(data as tf.Tensor).catch((reason: unknown) => reason);
      // only data of four columns alone would fit it
      expect(fresh.built).toBe(false);
      expect(fresh.weights).toEqual([]);
    }
    await expect(normalization({ mean: 1, variance: 1, name: "fixed" }).adapt(EXAMPLE)).rejects.toThrow(
      /^adapt: expected a layer that gets its statistics from data, got fixed, made with a mean and a variance; make it without them$/,
    );
  });

  it("a layer that is disposed of says so", async () => {
    const layer = normalization({ name: "gone" });
    await layer.adapt(EXAMPLE);
    layer.dispose();
    const expected = expect.objectContaining({ code: "disposed", message: expect.stringMatching(/^gone: expected/) });
    await expect(layer.adapt(EXAMPLE)).rejects.toThrow(expected);
    const x = tf.tensor2d(EXAMPLE);
    expect(() => layer.apply(x)).toThrow(expected);
    expect(() => layer.call(x, {})).toThrow(expected);
  });

  it("text and tensors that are disposed of are refused where they come in", () => {
    const layer = normalization({ mean: 1, variance: 1 });
    expect(() => layer.apply(tf.tensor2d([["a", "b"]]))).toThrow(/^x: expected a tensor of numbers, got "string"/);
    const gone = tf.zeros([1, 2]);
    gone.dispose();
    expect(() => layer.apply(gone)).toThrow(/^x: expected one that is alive/);
  });

  it("numbers in lists of every kind of array are read as they are", async () => {
    const rows = [
      EXAMPLE.map((row) => Float64Array.from(row)),
      EXAMPLE.map((row) => Int16Array.from(row)),
      EXAMPLE.map((row) => Float32Array.from(row)),
      EXAMPLE,
    ];
    for (const data of rows) {
      const layer = normalization();
      await layer.adapt(data as number[][]);
      expect(weightsOf(layer)).toEqual([Float32Array.of(1, 8, 5), Float32Array.of(1, 1, 1), Float32Array.of(4)]);
    }
    const layer = normalization({ axis: null });
    for (const data of [Float64Array.of(1, 3), [1, 3], [[[1], [3]]]]) {
      await layer.adapt(data as number[]);
      expect(weightsOf(layer)).toEqual([Float32Array.of(2), Float32Array.of(1), Float32Array.of(2)]);
    }
    await layer.adapt([true, false] as never);
    expect(weightsOf(layer)[0]).toEqual(Float32Array.of(0.5));
  });

  it("named inputs of a dataset for fitDataset, if there is one", async () => {
    const x = tf.tensor2d(EXAMPLE);
    const layer = normalization();
    for (const data of [[{ xs: { a: x }, ys: x }], [{ a: x }], [{ xs: [x] }]]) {
      await layer.adapt(data);
      expect(weightsOf(layer)[0]).toEqual(Float32Array.of(1, 8, 5));
    }
    await expect(layer.adapt([{ xs: { a: x, b: x } }])).rejects.toThrow(/^data: expected batches of one tensor each/);
  });

  it("passes gradients to its input and none to its weights", async () => {
    const layer = normalization();
    await layer.adapt(EXAMPLE);
    const x = tf.tensor2d([[1, 2, 3]]);
    const gradient = tf.grad((v) => tf.sum(tf.square(layer.apply(v) as tf.Tensor)))(x);
    expect(values(gradient)).toBeAllclose([0, -12, -4], { atol: 1e-5 });
    expect(layer.trainableWeights).toEqual([]);
  });

  describe("files", () => {
    /** A model of Keras as tensorflowjs_converter writes it: a Normalization behind an input. */
    const converted = (config: object, weights: Record<string, [number[], number[], "float32" | "int32"]>) => {
      const weightSpecs = Object.entries(weights).map(([name, [shape, , dtype]]) => ({ name, shape, dtype }));
      const bytes = Object.values(weights).map(([, data, dtype]) =>
        dtype === "int32" ? Int32Array.from(data) : Float32Array.from(data),
      );
      const weightData = new Uint8Array(bytes.reduce((n, { byteLength }) => n + byteLength, 0));
      let end = 0;
      for (const { buffer, byteLength } of bytes) {
        weightData.set(new Uint8Array(buffer), end);
        end += byteLength;
      }
      return tf.io.fromMemory({
        modelTopology: {
          keras_version: "2.11.0",
          backend: "tensorflow",
          model_config: {
            class_name: "Sequential",
            config: {
              name: "sequential",
              layers: [
                {
                  class_name: "Normalization",
                  config: {
                    name: "normalization",
                    trainable: true,
                    dtype: "float32",
                    batch_input_shape: [null, 3],
                    ...config,
                  },
                },
              ],
            },
          },
        },
        weightSpecs,
        weightData: weightData.buffer,
      } as tf.io.ModelArtifacts);
    };
    const WEIGHTS = {
      "normalization/mean": [[3], [1, 8, 5], "float32"],
      "normalization/variance": [[3], [1, 4, 0.25], "float32"],
      "normalization/count": [[], [4], "int32"],
    } as Record<string, [number[], number[], "float32" | "int32"]>;

    it.each([
      ["a list", { axis: [-1], mean: null, variance: null, invert: false }],
      ["an integer", { axis: -1 }],
      ["a tuple of Keras 3", { axis: { class_name: "__tuple__", items: [-1] }, mean: null, variance: null }],
    ])("Keras's converter's load, with %s as axis", async (_, config) => {
      const artifacts = () => converted(config, WEIGHTS);
      await expect(loadLayersModel(artifacts())).rejects.toThrow("Unknown layer: Normalization");
      const restore = registerLayer();
      let model: LayersModel;
      try {
        model = await loadLayersModel(artifacts());
      } finally {
        restore();
      }
      expect(values(model.predict(tf.tensor2d([[2, 10, 5.5]])) as tf.Tensor)).toBeAllclose([1, 1, 1], { atol: 1e-6 });
      await expect(loadLayersModel(artifacts())).rejects.toThrow("Unknown layer: Normalization");
    });

    it("with mean and variance in the configuration, there are no weights", async () => {
      const restore = registerLayer();
      try {
        // as Keras 2 and 3 write what a program has given: numbers, lists, in axes of size 1, and arrays of Keras 3
        const forms = [
          [[1, 2, 3], 4],
          [[[1, 2, 3]], [[4, 4, 4]]],
          [[[[1, 2, 3]]], [4]],
          [{ class_name: "__numpy__", config: { value: [1, 2, 3], dtype: "float32" } }, [4, 4, 4]],
          [
            { class_name: "__tuple__", items: [1, 2, 3] },
            { class_name: "__tensor__", config: { value: [[4, 4, 4]] } },
          ],
        ];
        for (const [mean, variance] of forms) {
          const model = await loadLayersModel(converted({ axis: [-1], mean, variance }, {}));
          const expected = [1, 1, 1];
          expect(values(model.predict(tf.tensor2d([[3, 4, 5]])) as tf.Tensor)).toBeAllclose(expected, { atol: 1e-6 });
          const again = normalization(model.layers.at(-1)?.getConfig() as NormalizationConfig);
          expect(values(again.apply(tf.tensor2d([[3, 4, 5]])) as tf.Tensor)).toBeAllclose(expected, { atol: 1e-6 });
        }
      } finally {
        restore();
      }
    });

    it("what is saved here loads here, with names as Keras has them", async () => {
      const layer = normalization({ name: "prepare", axis: [-1], invert: true });
      await layer.adapt(EXAMPLE);
      const model = sequential();
      model.add(layers.inputLayer({ inputShape: [3] }));
      model.add(layer);
      expect(layer.weights.map(({ originalName }) => originalName)).toEqual([
        "prepare/mean",
        "prepare/variance",
        "prepare/count",
      ]);
      let saved: tf.io.ModelArtifacts | undefined;
      await model.save(
        tf.io.withSaveHandler(async (artifacts) => {
          saved = { ...artifacts, modelTopology: JSON.parse(JSON.stringify(artifacts.modelTopology)) };
          return { modelArtifactsInfo: { dateSaved: new Date(0), modelTopologyType: "JSON" } };
        }),
      );
      const restore = registerLayer();
      try {
        const loaded = await loadLayersModel(tf.io.fromMemory(saved as tf.io.ModelArtifacts));
        const x = tf.tensor2d([[1, 2, 3]]);
        expect(values(loaded.predict(x) as tf.Tensor)).toEqual(values(model.predict(x) as tf.Tensor));
        expect(loaded.toJSON(null, false)).toEqual(model.toJSON(null, false));
      } finally {
        restore();
      }
    });
  });

  it("refuses configurations that mean nothing", () => {
    const cyclic: Numbers[] = [];
    cyclic.push(cyclic);
    const wrong: [NormalizationConfig, RegExp][] = [
      [{ axis: 0.5 }, /axis: expected an integer, a list of integers, or null/],
      [{ axis: ["x"] as never }, /axis: expected an integer/],
      [{ mean: 1 }, /variance: expected mean and variance together/],
      [{ variance: 1 }, /mean: expected mean and variance together/],
      [{ mean: Number.NaN, variance: 1 }, /^mean: expected finite numbers, got NaN/],
      [{ mean: [1, Number.POSITIVE_INFINITY], variance: 1 }, /^mean: expected finite numbers, got Infinity/],
      [{ mean: 1, variance: [1, -1] }, /^variance: expected finite numbers from 0 on, got -1/],
      [{ mean: 1, variance: Number.NaN }, /^variance: expected finite numbers from 0 on, got NaN/],
      [{ mean: "1" as never, variance: 1 }, /^mean: expected numbers, or lists of them .*, got "1"/],
      [{ mean: [1, [2]], variance: 1 }, /^mean: expected numbers, or lists of them .*, got \[1, \[2\]\]/],
      [{ mean: cyclic, variance: 1 }, /^mean: expected numbers, or lists of them/],
      [{ mean: tf.scalar(1) as never, variance: 1 }, /^mean: expected numbers, or lists of them .*, got Tensor/],
      [{ invert: 1 as never }, /invert: expected a boolean/],
    ];
    for (const [config, message] of wrong) expect(() => normalization(config)).toThrow(message);
    const build = (config: NormalizationConfig, shape: (number | null)[]) => () =>
      normalization(config).apply(input({ shape }));
    expect(build({ axis: 3 }, [4, 5])).toThrow(/axis: expected axes of an input of rank 3/);
    expect(build({ axis: 1 }, [null, 5])).toThrow(/axis: expected an axis of known size/);
    for (const mean of [
      [1, 2],
      [[1], [2], [3]],
      [
        [1, 2, 3],
        [1, 2, 3],
      ],
      [[1, 2]],
    ])
      expect(build({ mean, variance: 1 }, [3])).toThrow(/^mean: expected shape 3, got /);
    expect(build({ mean: 1, variance: [1, 2] }, [3])).toThrow(/^variance: expected shape 3, got 2$/);
    for (const mean of [[1, 2, 3], [[1, 2, 3]], Float64Array.of(1, 2, 3), 1, [1]])
      expect(build({ mean, variance: 1 }, [3])).not.toThrow();
    // the shape that broadcasts to the input
    const rows = normalization({ axis: 1, mean: [[[1], [2]]], variance: [[[1], [4]]] });
    expect(call(rows, tf.tensor3d([1, 2, 4, 6], [1, 2, 2]))).toBeAllclose([0, 1, 1, 2], { atol: 1e-6 });
    const both = normalization({ axis: [1, 2], mean: [1, 2], variance: [[1], [4]] });
    expect(call(both, tf.tensor3d([1, 3, 3, 6], [1, 2, 2]))).toBeAllclose([0, 1, 1, 2], { atol: 1e-6 });
  });

  it("leaves no tensors but its weights", async () => {
    const layer = normalization();
    const data = tf.tensor2d(EXAMPLE);
    const before = tf.memory().numTensors;
    await layer.adapt(data);
    expect(tf.memory().numTensors - before).toBe(3);
    tf.dispose(layer.apply(data) as tf.Tensor);
    await layer.adapt([data, data]);
    expect(tf.memory().numTensors - before).toBe(3);
  });
});
