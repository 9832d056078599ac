// recalibrate and diagnose for TF.js's models, with TF.js's layers and ours: against layers of momentum 0, which keep the
// statistics of one batch, and against batchnorm-wasm's own diagnose.

import * as tf from "@tensorflow/tfjs-core";
import {
  input,
  type LayersModel,
  type LayerVariable,
  layers,
  model,
  type SymbolicTensor,
  sequential,
} from "@tensorflow/tfjs-layers";
import { afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { BatchNorm, diagnose as diagnoseLayer, mergeStatistics } from "../../src/index.ts";
import { BatchNormError, batchNormalization, diagnose, foldModel, recalibrate } from "../../src/tfjs/index.ts";
import { BACKENDS, useBackend, values } from "../support/tfjs.ts";
import { images, leNet, mobileNet } from "../support/tfjs-networks.ts";
import { normal } from "../support/worlds.ts";

type Layer = ReturnType<typeof layers.batchNormalization>;
type Make = (config?: Parameters<typeof layers.batchNormalization>[0]) => Layer;

const KINDS: [string, Make][] = [
  ["our layer", batchNormalization],
  ["TF.js's layer", (config) => layers.batchNormalization(config)],
];

/** Batch norms of a model and of the models inside it. */
const batchNormsOf = (net: LayersModel): Layer[] =>
  net.layers.flatMap((layer) =>
    "layers" in layer
      ? batchNormsOf(layer as LayersModel)
      : layer.getClassName() === "BatchNormalization"
        ? [layer as Layer]
        : [],
  );

const movingOf = (layer: Layer) => layer.getWeights().slice(-2).map(values) as [Float32Array, Float32Array];
const allMoving = (net: LayersModel) => batchNormsOf(net).map(movingOf);

/** The statistics of all values by a model of the same weights whose moving statistics are those of the latest batch. */
function expected(
  net: LayersModel,
  momentumless: LayersModel,
  batches: readonly tf.Tensor[],
  counts: readonly number[][],
) {
  momentumless.setWeights(net.getWeights());
  const perBatch = batches.map((batch) => {
    tf.dispose(momentumless.apply(batch, { training: true }) as tf.Tensor);
    return allMoving(momentumless);
  });
  return batchNormsOf(net).map((_, k) => {
    const { mean, variance } = mergeStatistics(
      perBatch.map((moving, b) => {
        const [mean, variance] = (moving[k] as [Float32Array, Float32Array]).map((v) => Float64Array.from(v)) as [
          Float64Array,
          Float64Array,
        ];
        return { count: counts[b]?.[k] as number, mean, variance };
      }),
    );
    return [mean, variance] as const;
  });
}

const close = { rtol: 1e-4, atol: 1e-5 };

const data = (rows: number, columns = 3, seed = 1, mean = 1) =>
  tf.tensor2d(Float32Array.from(normal(seed, rows * columns, mean, 2)), [rows, columns]);

const failure = (promise: Promise<unknown>): Promise<Error> =>
  promise.then(
    () => new Error("nothing failed"),
    (error: Error) => error,
  );

describe.each(BACKENDS)("on the backend $backend", ({ backend }) => {
  beforeAll(() => useBackend(backend));
  beforeEach(() => tf.engine().startScope());
  afterEach(() => tf.engine().endScope());

  describe.each(KINDS)("recalibrate, %s", (_, make) => {
    it.each([
      ["LeNet", leNet, [144, 16, 1]],
      ["MobileNet", mobileNet, [36, 36, 36, 9, 9]],
    ] as const)("a network like %s has the statistics of all batches", async (_, network, positions) => {
      const net = network(make);
      const { xs } = images(18);
      const batches = tf.split(xs, [12, 6]);
      const counts = [12, 6].map((samples) => positions.map((n) => n * samples));
      const wanted = expected(
        net,
        network(() => make({ momentum: 0 })),
        batches,
        counts,
      );
      // after a call in training on a device, a layer keeps a tensor until it has been read
      await new Promise((resolve) => setTimeout(resolve));
      const before = tf.memory().numTensors;
      await recalibrate(net, batches);
      expect(tf.memory().numTensors).toBe(before);
      for (const [k, [mean, variance]] of allMoving(net).entries()) {
        expect(mean).toBeAllclose(wanted[k]?.[0] as Float64Array, close);
        expect(variance).toBeAllclose(wanted[k]?.[1] as Float64Array, close);
      }
      expect(batchNormsOf(net).every((layer) => !Object.hasOwn(layer, "call"))).toBe(true);
    });

    it("reaches layers in models inside the model, without dropout", async () => {
      const build = (momentum: number, rate: number) => {
        const inner = sequential({
          layers: [
            layers.dropout({ rate, inputShape: [3] }),
            make({ momentum }),
            layers.activation({ activation: "tanh" }),
          ],
        });
        const at = input({ shape: [3] });
        const out = make({ momentum }).apply(inner.apply(at) as SymbolicTensor);
        return model({ inputs: at, outputs: out as SymbolicTensor });
      };
      const net = build(0.99, 0.9);
      const batches = [data(8), data(4, 3, 2, 5)];
      const wanted = expected(net, build(0, 0), batches, [
        [8, 8],
        [4, 4],
      ]);
      await recalibrate(net, batches);
      expect(batchNormsOf(net)).toHaveLength(2);
      for (const [k, [mean, variance]] of allMoving(net).entries()) {
        expect(mean).toBeAllclose(wanted[k]?.[0] as Float64Array, close);
        expect(variance).toBeAllclose(wanted[k]?.[1] as Float64Array, close);
      }
    });

    const single = (config: object = {}) => {
      const layer = make(config);
      return { layer, net: sequential({ layers: [layers.inputLayer({ inputShape: [3] }), layer] }) };
    };

    /** The statistics of all rows. */
    const rowsOf = (...batches: tf.Tensor[]) => {
      const { mean, variance } = tf.moments(tf.concat(batches), 0);
      return [values(mean), values(variance)] as const;
    };

    it("takes { xs }, a tf.data dataset, whose tensors it frees, and batches of one sample", async () => {
      const batches = [data(5), data(1, 3, 2), data(2, 3, 3)];
      const wanted = rowsOf(...batches);
      const dataset = {
        iterator: async () => {
          const inner = batches.map((t) => ({ xs: tf.clone(t), ys: tf.scalar(0) }))[Symbol.iterator]();
          return { next: async () => inner.next() };
        },
      };
      async function* later() {
        for (const xs of batches) yield { xs };
        yield tf.zeros([0, 3]);
      }
      for (const given of [batches, later(), dataset]) {
        const { layer, net } = single({ center: false, scale: false });
        const before = tf.memory().numTensors;
        await recalibrate(net, given);
        expect(tf.memory().numTensors - before).toBe(given === batches || given === dataset ? 0 : 1);
        for (const i of [0, 1] as const) expect(movingOf(layer)[i]).toBeAllclose(wanted[i], close);
      }
    });

    it("leaves a mask out where the layer does: the channels are on another axis", async () => {
      const x = tf.tensor3d([1, 2, 3, 4, 5, 6, 0, 0], [2, 2, 2]);
      const layer = make({ axis: 1, momentum: 0 });
      const net = sequential({ layers: [layers.masking({ inputShape: [2, 2] }), layer] });
      await recalibrate(net, [x]);
      expect(movingOf(layer)[0]).toBeAllclose([3.5, 1.75], close);
      expect(movingOf(layer)[1]).toBeAllclose([4.25, 3.1875], close);
    });

    it("a mask of the first axes masks all positions behind them", async () => {
      const layer = make();
      const net = sequential({
        layers: [
          layers.masking({ inputShape: [2, 4] }),
          layers.timeDistributed({ layer: layers.reshape({ targetShape: [2, 2] }) }),
          layer,
        ],
      });
      await recalibrate(net, [tf.tensor3d([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 0, 0, 0], [2, 2, 4])]);
      expect(movingOf(layer)[0]).toBeAllclose([6, 7], close);
      const [found] = await diagnose(net, tf.tensor3d([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 0, 0, 0], [2, 2, 4]));
      expect(found?.diagnosis.drifted).toEqual([]);
    });

    it("leaves a program's own method call in its place", async () => {
      const { layer, net } = single();
      const call = layer.call.bind(layer);
      const own = (...args: Parameters<typeof call>) => call(...args);
      layer.call = own;
      await recalibrate(net, [data(8)]);
      expect(layer.call).toBe(own);
    });

    it("changes nothing if anything fails", async () => {
      const { layer, net } = single();
      const good = data(5);
      const gone = data(5);
      gone.dispose();
      function* failing() {
        yield good;
        throw new Error("the disk is gone");
      }
      const before = movingOf(layer);
      const cases: [unknown, new (...args: never[]) => Error, RegExp][] = [
        [failing(), Error, /the disk is gone/],
        [
          [
            good,
            tf.tensor2d([
              [1, Number.NaN, 2],
              [3, 4, 5],
            ]),
          ],
          BatchNormError,
          /moving statistics of .*channel 1/,
        ],
        [[good, tf.ones([2, 4])], Error, /./],
        [
          [],
          RangeError,
          /^batches: expected at least one that passes through batch_norm.*, got none; pass batches with/,
        ],
        [
          [data(1)],
          RangeError,
          /^batches: expected more than 1 value per channel .* through batch.*, got 1; pass more/,
        ],
        [
          7,
          TypeError,
          /^batches: expected a tf.data dataset, or an iterable of batches \(a single batch x is \[x\]\), got 7/,
        ],
        [good, TypeError, /^batches: expected .* \(a single batch x is \[x\]\), got Tensor/],
        [{ xs: good }, TypeError, /^batches: expected .* \(a single batch x is \[x\]\), got Object/],
        [["x"], TypeError, /^batches: expected a tensor/],
        [
          [[good, good]],
          RangeError,
          /^batches: expected a tensor for each of the model's inputs \(.*\), .* \[Tensor, Tensor\]/,
        ],
        [[{ xs: { other: good } }], RangeError, /^batches: expected a tensor for each of .*, got \["other"\]/],
        [[tf.tensor2d([["a", "b", "c"]])], TypeError, /^batches: expected a tensor of numbers, got "string"/],
        [[good, gone], BatchNormError, /^batches: expected one that is alive, got a disposed one/],
      ];
      const tensors = tf.memory().numTensors;
      for (const [batches, kind, message] of cases) {
        const error = await failure(recalibrate(net, batches as tf.Tensor[]));
        expect(error).toBeInstanceOf(kind);
        expect(error.message).toMatch(message);
        expect(movingOf(layer)).toEqual(before);
        expect(Object.hasOwn(layer, "call")).toBe(false);
        expect(tf.memory().numTensors).toBe(tensors);
      }
      await recalibrate(net, [good]);
      for (const i of [0, 1] as const) expect(movingOf(layer)[i]).toBeAllclose(rowsOf(good)[i], close);
    });

    it("a layer that is not trainable normalises by its moving statistics and keeps them", async () => {
      const frozen = make({ trainable: false, movingMeanInitializer: "ones" });
      const other = make();
      const net = sequential({ layers: [layers.inputLayer({ inputShape: [3] }), frozen, other] });
      const x = data(6);
      const before = movingOf(frozen);
      await recalibrate(net, [x]);
      expect(movingOf(frozen)).toEqual(before);
      const wanted = rowsOf(tf.div(tf.sub(x, 1), Math.sqrt(1.001)));
      for (const i of [0, 1] as const) expect(movingOf(other)[i]).toBeAllclose(wanted[i], close);
      net.trainable = false;
      expect((await failure(recalibrate(net, [x]))).message).toMatch(
        /^model: expected a model with batch norm that is not frozen, got 2 frozen; set trainable = true on the layers/,
      );
    });

    it("reaches a layer in a wrapper, which is called for every step", async () => {
      const layer = make();
      const net = sequential({ layers: [layers.timeDistributed({ layer, inputShape: [4, 3] })] });
      const x = data(12);
      await recalibrate(net, tf.split(tf.reshape(x, [3, 4, 3]), [2, 1]));
      for (const i of [0, 1] as const) expect(movingOf(layer)[i]).toBeAllclose(rowsOf(x)[i], close);
    });

    it("masked positions do not count", async () => {
      const layer = make();
      const net = sequential({ layers: [layers.masking({ maskValue: 0, inputShape: [4, 3] }), layer] });
      const x = data(8);
      const padded = tf.stack([
        tf.concat([tf.slice(x, [0, 0], [2, 3]), tf.zeros([2, 3])]),
        tf.slice(x, [2, 0], [4, 3]),
        tf.concat([tf.slice(x, [6, 0], [2, 3]), tf.zeros([2, 3])]),
      ]);
      await recalibrate(net, tf.split(padded, [2, 1]));
      for (const i of [0, 1] as const) expect(movingOf(layer)[i]).toBeAllclose(rowsOf(x)[i], close);
    });
  });

  it("recalibrate of a model of several inputs, with layers on other axes", async () => {
    const ours = batchNormalization({ axis: 1 });
    const [a, b] = [input({ shape: [3, 2] }), input({ shape: [3, 2] })];
    const net = model({
      inputs: [a, b],
      outputs: ours.apply(layers.add().apply([a, b]) as SymbolicTensor) as SymbolicTensor,
    });
    const [x, y] = [tf.reshape(data(4, 6), [4, 3, 2]), tf.reshape(data(4, 6, 2), [4, 3, 2])];
    await recalibrate(net, [[x, y], { xs: [x, x] }]);
    const all = tf.concat([tf.add(x, y), tf.add(x, x)]);
    const { mean, variance } = tf.moments(all, [0, 2]);
    expect(movingOf(ours)[0]).toBeAllclose(values(mean), close);
    expect(movingOf(ours)[1]).toBeAllclose(values(variance), close);
  });

  describe.each(KINDS)("diagnose, %s", (_, make) => {
    it("of a layer has the numbers of batchnorm-wasm's diagnose", async () => {
      const layer = make({ name: "bn", epsilon: 0.01, movingVarianceInitializer: "ones" });
      const relu = layers.reLU({ maxValue: 6 });
      const net = sequential({ layers: [layers.inputLayer({ inputShape: [3] }), layer, relu] });
      const vectors = [
        [1, 2, 1e-5],
        [0, -100, 1],
        [0.5, 0, -1],
        [2, 1, 3],
      ].map((v) => Float32Array.from(v)) as [Float32Array, Float32Array, Float32Array, Float32Array];
      layer.setWeights(vectors.map((v) => tf.tensor1d(v)));
      const [gamma, beta, runningMean, runningVariance] = vectors;
      const bn = new BatchNorm(3, { preset: "tfjs", epsilon: 0.01 });
      Object.assign(bn, { gamma, beta, runningMean, runningVariance });
      const x = data(40);
      const wanted = diagnoseLayer(bn, { data: values(x), shape: [40, 3] }, { activation: "relu6" });
      const tensors = tf.memory().numTensors;
      const [found, ...others] = await diagnose(net, { xs: x });
      expect(tf.memory().numTensors).toBe(tensors);
      expect(others).toEqual([]);
      expect(found?.layer).toBe("bn");
      expect(found?.diagnosis.table()).toBe(wanted.table());
      expect(found?.diagnosis.dead).toEqual([1]);
      expect(found?.diagnosis.weak).toEqual([2]);
      expect(layer.getWeights().map(values)).toEqual(vectors);
    });

    it("of a network: after recalibrate on a batch nothing has drifted on it, before it all has", async () => {
      const net = leNet(make);
      const { xs } = images(30);
      const names = batchNormsOf(net).map(({ name }) => name);
      const before = await diagnose(net, xs);
      expect(before.map(({ layer }) => layer)).toEqual(names);
      expect(before.map(({ diagnosis }) => diagnosis.count)).toEqual([30 * 144, 30 * 16, 30]);
      expect(before.some(({ diagnosis }) => diagnosis.drifted.length > 0)).toBe(true);
      await recalibrate(net, [xs]);
      for (const { diagnosis } of await diagnose(net, xs)) {
        expect(diagnosis.drifted).toEqual([]);
        expect(diagnosis.meanDrift).toBeAllclose(
          diagnosis.meanDrift.map(() => 0),
          { atol: 1e-4 },
        );
        expect(diagnosis.varianceRatio).toBeAllclose(
          diagnosis.varianceRatio.map(() => 1),
          { rtol: 1e-4 },
        );
      }
    });

    it("a layer that is not trainable normalises by its moving statistics", async () => {
      const frozen = make({ trainable: false, movingMeanInitializer: "ones", epsilon: 0 });
      const net = sequential({ layers: [layers.inputLayer({ inputShape: [3] }), frozen, make({ epsilon: 0 })] });
      const x = data(40);
      const [first, second] = await diagnose(net, x);
      const drift = values(tf.sub(tf.mean(x, 0), 1));
      expect(first?.diagnosis.meanDrift).toBeAllclose(drift, close);
      expect(second?.diagnosis.meanDrift).toBeAllclose(drift, close);
    });

    it("leaves masked positions out, and takes a layer that is called twice once", async () => {
      const masked = sequential({ layers: [layers.masking({ maskValue: 0, inputShape: [4, 3] }), make()] });
      const x = data(8);
      const padded = tf.stack([
        tf.slice(x, [0, 0], [4, 3]),
        tf.concat([tf.slice(x, [4, 0], [1, 3]), tf.zeros([3, 3])]),
      ]);
      expect((await diagnose(masked, padded))[0]?.diagnosis.count).toBe(5);
      const shared = make();
      const [a, b] = [input({ shape: [3] }), input({ shape: [3] })];
      const outputs = [a, b].map((at) => shared.apply(at) as SymbolicTensor);
      const found = await diagnose(model({ inputs: [a, b], outputs }), [x, data(8, 3, 5)]);
      expect(found.map(({ diagnosis }) => diagnosis.count)).toEqual([16]);
    });
  });

  describe("batches as fitDataset and predict take them", () => {
    /** A model of two inputs, a and b, whose batch norm gets both: a in the first columns, b behind them. */
    const twoInputs = () => {
      const layer = batchNormalization();
      const [a, b] = [input({ shape: [2], name: "a" }), input({ shape: [1], name: "b" })];
      const outputs = layer.apply(layers.concatenate().apply([a, b]) as SymbolicTensor) as SymbolicTensor;
      const net = model({ inputs: [a, b], outputs });
      net.compile({ optimizer: "sgd", loss: "meanSquaredError" });
      return { layer, net };
    };

    it("tensors by the names of the inputs, in a list, and with others beside them", async () => {
      const x = data(12);
      const [a, b] = tf.split(x, [2, 1], 1) as [tf.Tensor, tf.Tensor];
      const ys = tf.zeros([12, 3]);
      const { mean, variance } = tf.moments(x, 0);
      const forms = [
        { xs: { b, a }, ys },
        { xs: { a, b, c: ys }, ys: { d: ys } },
        { xs: [a, b], ys },
        { b, a },
        [a, b],
      ];
      for (const form of forms) {
        const { layer, net } = twoInputs();
        await recalibrate(net, [form]);
        expect(movingOf(layer)[0]).toBeAllclose(values(mean), close);
        expect(movingOf(layer)[1]).toBeAllclose(values(variance), close);
        const [found] = await diagnose(net, form);
        expect(found?.diagnosis.count).toBe(12);
        expect(found?.diagnosis.drifted).toEqual([]);
      }
    });

    it("a dataset that fitDataset has trained on", async () => {
      const { layer, net } = twoInputs();
      const x = data(12);
      const dataset = {
        iterator: async () => {
          const elements = tf.split(x, 3).map((part) => {
            const [a, b] = tf.split(part, [2, 1], 1) as [tf.Tensor, tf.Tensor];
            return { xs: { a, b }, ys: { [layer.name]: tf.zeros([4, 3]) } };
          });
          const inner = elements[Symbol.iterator]();
          return { next: async () => inner.next() };
        },
      };
      await net.fitDataset(dataset as never, { epochs: 1, verbose: 0 });
      await recalibrate(net, dataset);
      const { mean, variance } = tf.moments(x, 0);
      expect(movingOf(layer)[0]).toBeAllclose(values(mean), close);
      expect(movingOf(layer)[1]).toBeAllclose(values(variance), close);
    });

    it("an input that is missing is an error that names the inputs", async () => {
      const { net } = twoInputs();
      const x = data(4);
      for (const wrong of [{ a: x }, { xs: { a: x } }, {}])
        expect((await failure(diagnose(net, wrong as { a: tf.Tensor }))).message).toMatch(
          /^batch: expected a tensor for each of a, b, got \[/,
        );
      for (const wrong of [x, [x], [x, x, x]])
        expect((await failure(diagnose(net, wrong))).message).toMatch(
          /^batch: expected a tensor for each of the model's inputs \(a, b\), those of one batch in a list of its own, got \[Tensor/,
        );
    });

    it("samples that are single numbers, which predict takes", async () => {
      const layer = batchNormalization();
      const net = sequential({ layers: [layers.inputLayer({ inputShape: [1] }), layer] });
      await recalibrate(net, [tf.tensor1d([1, 2, 6])]);
      expect(movingOf(layer)[0]).toBeAllclose([3], close);
    });
  });

  describe("recurrent layers that are stateful", () => {
    const build = (wrap: boolean) => {
      const lstm = layers.lstm({ units: 3, stateful: true, returnSequences: true, recurrentInitializer: "ones" });
      const layer = batchNormalization();
      const net = sequential({
        layers: [
          layers.inputLayer({ batchInputShape: [4, 2, 3] }),
          wrap ? layers.bidirectional({ layer: lstm as never, mergeMode: "concat" }) : lstm,
          layer,
        ],
      });
      return { layer, net };
    };

    it.each([false, true])("have the states of predict, and their own afterwards (Bidirectional: %s)", async (wrap) => {
      const { layer, net } = build(wrap);
      const { net: same } = build(wrap);
      same.setWeights(net.getWeights());
      const [first, ...others] = [0, 1, 2].map((i) => tf.reshape(data(8, 3, i), [4, 2, 3])) as [tf.Tensor, tf.Tensor];
      for (const one of [net, same]) tf.dispose(one.predict(first, { batchSize: 4 }));
      // the inputs of batch norm in the model whose states have gone on
      const before = model({ inputs: same.inputs, outputs: (same.layers.at(-1) as Layer).input as SymbolicTensor });
      const inner = others.map((x) => tf.clone(before.predict(x, { batchSize: 4 }) as tf.Tensor));
      const { mean, variance } = tf.moments(tf.concat(inner), [0, 1]);

      const tensors = tf.memory().numTensors;
      await recalibrate(net, others);
      await diagnose(net, others[0] as tf.Tensor);
      expect(tf.memory().numTensors).toBe(tensors);
      expect(movingOf(layer)[0]).toBeAllclose(values(mean), close);
      expect(movingOf(layer)[1]).toBeAllclose(values(variance), close);

      const { net: fresh } = build(wrap);
      fresh.setWeights(net.getWeights());
      tf.dispose(fresh.predict(first, { batchSize: 4 }));
      const [mine, theirs] = [net, fresh].map((one) => values(one.predict(first, { batchSize: 4 }) as tf.Tensor));
      expect(mine).toEqual(theirs);
      net.resetStates(); // disposes of the states
      tf.dispose(net.predict(first, { batchSize: 4 }));
    });

    it("have their states back after an error", async () => {
      const { net } = build(false);
      const x = tf.reshape(data(8), [4, 2, 3]);
      const after = (batches: tf.Tensor[]) => failure(recalibrate(net, batches));
      const expected = values(net.predict(x, { batchSize: 4 }) as tf.Tensor);
      net.resetStates();
      expect((await after([x, tf.fill([4, 2, 3], Number.NaN)])).message).toMatch(/channel 0/);
      expect(values(net.predict(x, { batchSize: 4 }) as tf.Tensor)).toEqual(expected);
    });
  });

  it("a model or a layer that is disposed of is refused by name", async () => {
    const build = () =>
      sequential({ layers: [layers.dense({ units: 3, inputShape: [3] }), batchNormalization({ name: "b" })] });
    const calls: ((net: LayersModel) => Promise<unknown>)[] = [
      (net) => diagnose(net, data(4)),
      (net) => recalibrate(net, [data(4)]),
      (net) => foldModel(net),
    ];
    const gone = build();
    gone.dispose();
    const part = build();
    (part.layers[1] as Layer).dispose();
    const wrapped = sequential({
      layers: [
        layers.timeDistributed({ layer: batchNormalization({ name: "inner" }), inputShape: [2, 3], name: "td" }),
      ],
    });
    (wrapped.layers[0] as Layer).dispose();
    // its weights are those of the layer in the wrapper before
    const { layer: inner } = wrapped.layers[0] as unknown as { layer: Layer };
    const again = sequential({ layers: [layers.timeDistributed({ layer: inner, inputShape: [2, 3], name: "td2" })] });
    for (const call of calls)
      for (const [net, message] of [
        [gone, /^model: expected one that is alive, got a disposed one/],
        [part, /^layer "b": expected one that is alive/],
        [wrapped, /^layer "td": expected one that is alive/],
        [again, /^layer "td2": expected one that is alive/],
      ] as const) {
        const error = await failure(call(net));
        expect(error.message).toMatch(message);
        expect(error).toMatchObject({ name: "BatchNormError", code: "disposed" });
      }
  });

  it("a program's own class of the name BatchNormalization is none of theirs", async () => {
    class Own extends layers.Layer {
      static className = "BatchNormalization";
      override call(inputs: tf.Tensor | tf.Tensor[]): tf.Tensor {
        return tf.mul([inputs].flat()[0] as tf.Tensor, 2);
      }
    }
    const alone = sequential({ layers: [layers.inputLayer({ inputShape: [3] }), new Own({}) as never] });
    for (const call of [diagnose(alone, data(4)), recalibrate(alone, [data(4)])])
      expect((await failure(call)).message).toMatch(
        /^model: expected a model with batch norm.*, got none; batch norms in layers of your own are not found/,
      );
    const layer = batchNormalization();
    const net = sequential({ layers: [layers.inputLayer({ inputShape: [3] }), new Own({}) as never, layer] });
    const x = data(4);
    await recalibrate(net, [x]);
    expect(movingOf(layer)[0]).toBeAllclose(values(tf.mean(tf.mul(x, 2), 0)), close);
    expect(await diagnose(net, x)).toHaveLength(1);
    const { model: folded, report } = await foldModel(net);
    expect(report.map(({ name }) => name)).toEqual([layer.name]);
    expect(values(folded.predict(x) as tf.Tensor)).toBeAllclose(values(net.predict(x) as tf.Tensor), close);
  });

  it("both say what is wrong with their arguments", async () => {
    const none = sequential({ layers: [layers.dense({ units: 1, inputShape: [3] })] });
    const net = sequential({ layers: [layers.inputLayer({ inputShape: [3] }), batchNormalization()] });
    for (const call of [(m: LayersModel) => diagnose(m, data(4)), (m: LayersModel) => recalibrate(m, [data(4)])]) {
      expect((await failure(call(none))).message).toMatch(
        /^model: expected a model with batch norm.*, got none; batch/,
      );
      expect(await failure(call({} as LayersModel))).toBeInstanceOf(TypeError);
    }
    expect((await failure(diagnose(net, 3 as never))).message).toMatch(/^batch: expected a tensor/);
    const one = await failure(diagnose(net, data(1)));
    expect(one).toBeInstanceOf(BatchNormError);
    expect(one.message).toMatch(
      /^Expected more than 1 value per channel for batch_norm.*, got input size 1×3: .*; pass a larger batch$/,
    );
    expect((await failure(diagnose(net, tf.zeros([0, 3])))).message).toMatch(
      /^batch: expected at least one sample, got none; pass a larger batch/,
    );
  });
});

/** The weights by name that models.ts reads of both layers. */
it.each(KINDS)("%s has the fields that models.ts reads", (_, make) => {
  const layer = make({ name: "fields" });
  layer.build([null, 3]);
  const fields = layer as unknown as Record<string, LayerVariable>;
  for (const name of ["gamma", "beta", "movingMean", "movingVariance"]) expect(fields[name]?.shape).toEqual([3]);
});
