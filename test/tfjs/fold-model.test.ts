// foldModel: models of tf.layers without batch norm predict what they did with it, and what is not folded is reported.

import * as tf from "@tensorflow/tfjs-core";
import {
  constraints,
  input,
  type LayersModel,
  layers,
  loadLayersModel,
  model,
  regularizers,
  type SymbolicTensor,
  sequential,
} from "@tensorflow/tfjs-layers";
import { afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { batchNormalization, type FoldedBatchNorm, foldModel } from "../../src/tfjs/index.ts";
import { expectPart } from "../support/document.ts";
import { useBackend, values } from "../support/tfjs.ts";
import { normal, random, sizeOf } from "../support/worlds.ts";

type Layer = LayersModel["layers"][number];
type Shape = readonly number[];

/** Gives all weights of a model random values: kernels of a size that keeps activations near 1, gammas of either sign. */
function randomize<M extends LayersModel>(m: M, seed = 1, negative = false): M {
  let count = 0;
  const visit = (layer: Layer): void => {
    const inner = (layer as Partial<LayersModel>).layers;
    if (inner) {
      inner.forEach(visit);
      return;
    }
    const weights = layer.weights.map((variable) => {
      const shape = variable.shape as number[];
      const noise = normal(seed * 1000 + ++count, sizeOf(shape));
      const [fan, name] = [sizeOf(shape) / (shape.at(-1) as number), variable.originalName];
      if (name.endsWith("variance"))
        return tf.tensor(
          noise.map((v) => 0.5 + v * v),
          shape,
        );
      if (name.endsWith("gamma"))
        return tf.tensor(
          noise.map((v) => (negative ? v : 0.5 + Math.abs(v))),
          shape,
        );
      return tf.tensor(
        noise.map((v) => (shape.length > 1 ? v / Math.sqrt(fan) : v / 2)),
        shape,
      );
    });
    layer.setWeights(weights);
    tf.dispose(weights);
  };
  m.layers.forEach(visit);
  return m;
}

const chain = (...list: Layer[]) => randomize(sequential({ layers: list }));

const inputsOf = (m: LayersModel, batch = 3) =>
  m.inputs.map(({ shape }, i) => {
    const full = [batch, ...shape.slice(1).map((d) => d ?? 5)];
    return tf.tensor(normal(40 + i, sizeOf(full), 1, 0.5), full);
  });

const predict = (m: LayersModel, xs: tf.Tensor[]) => [m.predict(xs.length === 1 ? (xs[0] as tf.Tensor) : xs)].flat();

/** Largest difference, in units of the largest output: float32 rounding in another order over some layers. */
const TOLERANCE = 2e-5;

/** Expects two models to predict the same, and returns the first one's predictions. */
function expectSame(a: LayersModel, b: LayersModel): Float32Array[] {
  const xs = inputsOf(a);
  const [expected, got] = [predict(a, xs).map(values), predict(b, xs).map(values)];
  expect(got.length).toBe(expected.length);
  for (const [i, y] of expected.entries()) {
    const size = y.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
    expect(size).toBeGreaterThan(0.01);
    expect(got[i]).toBeAllclose(y, { atol: TOLERANCE * size });
  }
  return expected;
}

const of = (report: FoldedBatchNorm[]) => report.map(({ name, outcome, into }) => [name, outcome, ...into].join(" "));

/** Folds a model, expects the same predictions, and returns the report in short. */
async function folded(m: LayersModel): Promise<string[]> {
  const { model: without, report } = await foldModel(m);
  expectSame(m, without);
  for (const { outcome, reason, expectedError } of report) {
    expect(reason === "").toBe(outcome !== "kept");
    expect(expectedError).toBeLessThanOrEqual(1e-5);
    expect(expectedError > 0).toBe(outcome !== "kept");
  }
  const batchNorms = (layer: Layer): number =>
    (layer as Partial<LayersModel>).layers?.reduce((sum, inner) => sum + batchNorms(inner), 0) ??
    Number(layer.getClassName() === "BatchNormalization");
  expect(batchNorms(without)).toBe(report.filter(({ outcome }) => outcome === "kept").length);
  return of(report);
}

/** Expects a model to keep its only batch norm, and returns the reason. */
async function reasonOf(m: LayersModel): Promise<string> {
  const { model: without, report } = await foldModel(m);
  expectSame(m, without);
  expect(of(report)).toEqual(["bn kept"]);
  return report[0]?.reason as string;
}

const bn = (config: object = {}) => batchNormalization({ name: "bn", ...config });
const theirs = (name: string, config: object = {}) => layers.batchNormalization({ name, ...config });
const dense = (units: number, config: object = {}) => layers.dense({ units, name: "dense", ...config });
const relu = (name = "relu") => layers.activation({ activation: "relu", name });

/** Their default initialiser needs methods of tensors that tfjs-core registers only as a whole. */
const recurrent = <C>(make: (config: C) => Layer, config: C): Layer =>
  make({ ...config, recurrentInitializer: "glorotUniform" });

/** A classifier whose first layer normalises its inputs. */
const classifier = () =>
  chain(
    theirs("inputs", { inputShape: [20] }),
    layers.dense({ units: 64, activation: "relu", name: "dense1" }),
    theirs("bn1"),
    layers.dropout({ rate: 0.5 }),
    layers.dense({ units: 32, name: "dense2", useBias: false }),
    theirs("bn2"),
    relu(),
    layers.dense({ units: 10, activation: "softmax", name: "dense3" }),
  );

/** LeNet-5 (LeCun et al. 1998) with batch norm before its activations, or behind them. */
const lenet = (isBefore: boolean) => {
  const block = (name: string, layer: (config: object) => Layer) =>
    isBefore
      ? [layer({ name, useBias: false }), theirs(`${name}_bn`), relu(`${name}_relu`)]
      : [layer({ name, activation: "relu" }), theirs(`${name}_bn`)];
  const conv = (filters: number, more: object) => (config: object) =>
    layers.conv2d({ filters, kernelSize: 5, ...more, ...config });
  return chain(
    ...block("conv1", conv(6, { inputShape: [28, 28, 1], padding: "same" })),
    isBefore ? layers.averagePooling2d({ poolSize: 2 }) : layers.maxPooling2d({ poolSize: 2 }),
    ...block("conv2", conv(16, {})),
    layers.averagePooling2d({ poolSize: 2 }),
    layers.flatten(),
    ...block("fc1", (config) => layers.dense({ units: 120, ...config })),
    ...block("fc2", (config) => layers.dense({ units: 84, ...config })),
    layers.dense({ units: 10, activation: "softmax", name: "fc3" }),
  );
};

/** A small MobileNetV2 (Sandler et al. 2018): inverted residuals with linear bottlenecks, padded at stride 2 as in Keras. */
function mobilenet(): LayersModel {
  const x = input({ shape: [32, 32, 3], name: "image" });
  let count = 0;
  const normed = (t: SymbolicTensor, layer: Layer, activation = true) => {
    const name = `bn${++count}`;
    const y = theirs(name).apply(layer.apply(t)) as SymbolicTensor;
    return activation ? (layers.reLU({ maxValue: 6, name: `${name}_relu6` }).apply(y) as SymbolicTensor) : y;
  };
  const conv = (filters: number, kernelSize: number, strides = 1) =>
    layers.conv2d({ filters, kernelSize, strides, padding: "same", useBias: false });
  const block = (t: SymbolicTensor, filters: number, strides: number) => {
    const channels = t.shape.at(-1) as number;
    const wide = normed(t, conv(channels * 4, 1));
    const padded =
      strides === 1
        ? wide
        : (layers
            .zeroPadding2d({
              padding: [
                [0, 1],
                [0, 1],
              ],
            })
            .apply(wide) as SymbolicTensor);
    const padding = strides === 1 ? "same" : "valid";
    const spatial = normed(padded, layers.depthwiseConv2d({ kernelSize: 3, strides, padding, useBias: false }));
    const narrow = normed(spatial, conv(filters, 1), false);
    return strides === 1 && filters === channels ? (layers.add().apply([t, narrow]) as SymbolicTensor) : narrow;
  };
  let y = normed(x, conv(8, 3, 2));
  for (const [filters, strides] of [
    [8, 1],
    [12, 2],
    [12, 1],
    [16, 2],
    [16, 1],
  ] as const)
    y = block(y, filters, strides);
  y = normed(y, conv(32, 1));
  y = layers.globalAveragePooling2d({}).apply(y) as SymbolicTensor;
  const output = layers.dense({ units: 10, activation: "softmax", name: "logits" }).apply(y) as SymbolicTensor;
  return randomize(model({ inputs: x, outputs: output, name: "mobilenet" }));
}

/** Starts a backend, and disposes of what a test makes. */
function useFor(backend: string): void {
  beforeAll(() => useBackend(backend));
  beforeEach(() => tf.engine().startScope());
  afterEach(() => tf.engine().endScope());
}

describe.each(["cpu", "wasm"])("on TF.js's backend %s", (backend) => {
  useFor(backend);

  const kernelsOf = async (m: LayersModel) => {
    const xs = inputsOf(m, 1);
    const { kernels } = await tf.profile(() => predict(m, xs));
    const names = kernels.map(({ name }) => name);
    return { all: names.length, batchNorms: names.filter((name) => name === "FusedBatchNorm").length };
  };

  const MODELS: readonly [string, () => LayersModel, batchNorms: number][] = [
    ["a classifier whose inputs are normalised", classifier, 3],
    ["LeNet with batch norm before activations", () => lenet(true), 4],
    ["LeNet with batch norm behind activations", () => lenet(false), 4],
    ["a small MobileNetV2", mobilenet, 17],
  ];

  it.each(MODELS)(
    "%s predicts the same with one kernel less for each of its batch norms",
    async (_, make, batchNorms) => {
      const m = make();
      const { model: without, report } = await foldModel(m);
      expectSame(m, without);
      expect(report.map(({ outcome }) => outcome)).not.toContain("kept");
      expect(report).toHaveLength(batchNorms);
      const [before, after] = [await kernelsOf(m), await kernelsOf(without)];
      expect(before.batchNorms).toBe(batchNorms);
      expect(after.batchNorms).toBe(0);
      // TF.js launches some reshapes around a batch norm of rank 2 and 3
      expect(before.all - after.all).toBeGreaterThanOrEqual(batchNorms);
    },
  );

  if (backend === "wasm")
    it("docs/tfjs.md has the kernels of wasm that these models launch", async () => {
      const rows = ["| | batch norms | kernels before | after |", "|---|---:|---:|---:|"];
      for (const [name, make, batchNorms] of MODELS) {
        const m = make();
        const [before, after] = [await kernelsOf(m), await kernelsOf((await foldModel(m)).model)];
        rows.push(`| ${name} | ${batchNorms} | ${before.all} | ${after.all} |`);
      }
      expectPart(new URL("../../docs/tfjs.md", import.meta.url), "fold-model", rows.join("\n"));
    });

  it("LeNet with batch norm behind activations folds forward, through pooling and flattening", async () => {
    expect(await folded(lenet(false))).toEqual([
      "conv1_bn forward conv2",
      "conv2_bn forward fc1",
      "fc1_bn forward fc2",
      "fc2_bn forward fc3",
    ]);
  });

  it("the classifier folds forward behind inputs and activations, and else backward", async () => {
    expect(await folded(classifier())).toEqual(["inputs forward dense1", "bn1 forward dense2", "bn2 backward dense2"]);
  });

  it.each<[string, Shape, () => Layer]>([
    ["dense", [6], () => layers.dense({ units: 4, name: "to" })],
    ["dense of rank 3", [5, 6], () => layers.dense({ units: 4, name: "to" })],
    ["conv1d", [9, 6], () => layers.conv1d({ filters: 4, kernelSize: 3, name: "to" })],
    ["conv2d", [9, 8, 6], () => layers.conv2d({ filters: 4, kernelSize: [3, 2], strides: 2, name: "to" })],
    ["conv2d, dilated", [9, 8, 6], () => layers.conv2d({ filters: 4, kernelSize: 3, dilationRate: 2, name: "to" })],
    [
      "conv2d, 1 × 1, padding same",
      [9, 8, 6],
      () => layers.conv2d({ filters: 4, kernelSize: 1, padding: "same", name: "to" }),
    ],
    ["conv3d", [4, 5, 4, 6], () => layers.conv3d({ filters: 4, kernelSize: 2, name: "to" })],
    ["depthwiseConv2d", [7, 6, 6], () => layers.depthwiseConv2d({ kernelSize: 3, depthMultiplier: 2, name: "to" })],
    [
      "separableConv2d",
      [7, 6, 6],
      () => layers.separableConv2d({ filters: 4, kernelSize: 3, depthMultiplier: 2, name: "to" }),
    ],
  ])("%s takes a batch norm from both of its sides, with and without bias", async (_, shape, make) => {
    const makeWith = (useBias: boolean) => {
      const layer = make();
      (layer as unknown as { useBias: boolean }).useBias = useBias;
      return layer;
    };
    for (const useBias of [true, false]) {
      const m = chain(
        batchNormalization({ inputShape: [...shape], name: "a" }),
        makeWith(useBias),
        batchNormalization({ name: "b" }),
        relu(),
      );
      expect(await folded(m)).toEqual(["a forward to", "b backward to"]);
    }
  });

  it.each<[string, Shape, () => Layer]>([
    ["conv2dTranspose", [4, 5, 6], () => layers.conv2dTranspose({ filters: 4, kernelSize: 3, strides: 2, name: "to" })],
    [
      "conv2d, padding same",
      [6, 5, 6],
      () => layers.conv2d({ filters: 4, kernelSize: 3, padding: "same", name: "to" }),
    ],
    [
      "depthwiseConv2d, padding same",
      [6, 5, 6],
      () => layers.depthwiseConv2d({ kernelSize: 3, padding: "same", name: "to" }),
    ],
  ])("%s takes the batch norm behind it, and not that before it", async (_, shape, make) => {
    const m = chain(
      batchNormalization({ inputShape: [...shape], name: "a" }),
      make(),
      batchNormalization({ name: "b" }),
      relu(),
    );
    expect(await folded(m)).toEqual(["a kept", "b backward to"]);
  });

  it("channelsFirst: what TF.js's own layer computes wrongly is folded as this library's computes it", async () => {
    const make = (layer: (config: object) => Layer) =>
      sequential({
        layers: [
          layers.conv2d({
            filters: 4,
            kernelSize: 3,
            dataFormat: "channelsFirst",
            inputShape: [3, 7, 6],
            name: "conv",
          }),
          layer({ axis: 1, name: "bn" }),
          relu(),
          layer({ axis: 1, name: "bn2" }),
          layers.averagePooling2d({ poolSize: 2, dataFormat: "channelsFirst" }),
          layers.flatten(),
          dense(5),
        ],
      });
    const ours = randomize(make(batchNormalization));
    const wrong = make((config) => layers.batchNormalization(config));
    wrong.setWeights(ours.getWeights());
    expect(await folded(ours)).toEqual(["bn backward conv", "bn2 forward dense"]);
    const { model: without, report } = await foldModel(wrong);
    expect(report.map(({ outcome }) => outcome)).toEqual(["backward", "forward"]);
    expectSame(ours, without);
  });
});

describe("batch norms", () => {
  useFor("cpu");

  it.each<[string, () => Layer[], RegExp]>([
    [
      "an activation on each side",
      () => [dense(6, { activation: "relu", inputShape: [4] }), bn(), relu(), dense(3, { name: "d2" })],
      /^"dense" before it has the activation "relu"; behind it, "relu" is the activation "relu"$/,
    ],
    [
      "a layer of an activation behind",
      () => [bn({ inputShape: [4] }), layers.leakyReLU({ name: "leaky" }), dense(3)],
      /^"bn_input" before it is an input; behind it, "leaky" \(LeakyReLU\) is neither a dense or convolutional layer nor/,
    ],
    [
      "a convolution behind that pads",
      () => [
        bn({ inputShape: [6, 6, 2] }),
        layers.conv2d({ filters: 3, kernelSize: 3, padding: "same", name: "conv" }),
      ],
      /; "conv" behind it pads with zeros, which would have to be shifted, too$/,
    ],
    [
      "zero padding behind",
      () => [
        bn({ inputShape: [6, 6, 2] }),
        layers.zeroPadding2d({ name: "pad" }),
        layers.conv2d({ filters: 3, kernelSize: 3 }),
      ],
      /; behind it, "pad" \(ZeroPadding2D\) is neither/,
    ],
    [
      "zero padding before",
      () => [
        layers.conv2d({ filters: 3, kernelSize: 3, inputShape: [6, 6, 2] }),
        layers.zeroPadding2d({ name: "pad" }),
        bn(),
        relu(),
      ],
      /^before it, "pad" \(ZeroPadding2D\) is neither/,
    ],
    [
      "a transposed convolution behind",
      () => [bn({ inputShape: [4, 4, 2] }), layers.conv2dTranspose({ filters: 3, kernelSize: 3, name: "up" })],
      /; "up" behind it is a transposed convolution, whose outputs a shift does not reach alike$/,
    ],
    [
      "average pooling with padding behind",
      () => [
        bn({ inputShape: [5, 5, 2] }),
        layers.averagePooling2d({ padding: "same", name: "pool" }),
        layers.flatten(),
        dense(3),
      ],
      /; behind it, "pool" is average pooling with padding "same"$/,
    ],
    [
      "the model's output behind",
      () => [dense(6, { activation: "tanh", inputShape: [4] }), bn()],
      /^"dense" before it has the activation "tanh"; behind it is an output of the model$/,
    ],
    [
      "a dense layer behind that sums over another axis",
      () => [bn({ axis: 1, inputShape: [4, 5] }), dense(3)],
      /; its axis is not that of the channels of "dense"$/,
    ],
    [
      "a dense layer before on another axis",
      () => [dense(3, { inputShape: [4, 5] }), bn({ axis: 1 }), relu()],
      /^its axis is not that of the channels of "dense"; /,
    ],
    [
      "pooling on other axes",
      () => [
        bn({ axis: 1, inputShape: [4, 6, 2] }),
        layers.averagePooling2d({ name: "pool" }),
        layers.flatten(),
        dense(3),
      ],
      /; behind it, "pool" has its channels on another axis$/,
    ],
    [
      "a reshape before a dense layer that mixes channels",
      () => [bn({ inputShape: [4, 6] }), layers.reshape({ targetShape: [8, 3] }), dense(3)],
      /; the channels cannot be traced to inputs of "dense"$/,
    ],
    [
      "a reshape of a size that is known only when it runs",
      () => [
        bn({ axis: 1, inputShape: [4, null] }),
        layers.reshape({ targetShape: [-1, 4], name: "reshape" }),
        dense(3),
      ],
      /; behind it, "reshape" has an input of unknown size$/,
    ],
    [
      "a reshape before, whose layer has other channels",
      () => [dense(6, { inputShape: [4] }), layers.reshape({ targetShape: [2, 3], name: "reshape" }), bn(), relu()],
      /^"reshape" before it is no dense or convolutional layer; /,
    ],
    [
      "a recurrent layer on each side",
      () => [
        recurrent(layers.simpleRNN, { units: 3, inputShape: [4, 2], name: "rnn", returnSequences: true }),
        bn(),
        recurrent(layers.gru, { units: 2, name: "gru" }),
      ],
      /^before it, "rnn" \(SimpleRNN\) is neither .*; behind it, "gru" \(GRU\) is neither/,
    ],
    [
      "a SeparableConv2D with channelsFirst, whose bias TF.js adds wrongly",
      () => [
        layers.separableConv2d({
          filters: 3,
          kernelSize: 2,
          inputShape: [2, 5, 5],
          dataFormat: "channelsFirst",
          useBias: false,
          name: "conv",
        }),
        bn({ axis: 1 }),
        relu(),
      ],
      /^"conv" is a SeparableConv2D with channelsFirst, in which TF.js has a mistake; /,
    ],
  ])("are kept with the reason: %s", async (_, list, reason) => {
    expect(await reasonOf(chain(...list()))).toMatch(reason);
  });

  const named = (m: LayersModel, name: string) => m.getLayer(name);
  const assign = (m: LayersModel, name: string, values: Record<string, number[]>) => {
    for (const variable of named(m, name).weights) {
      const key = variable.originalName.split("/").at(-1) as string;
      if (values[key]) variable.write(tf.tensor(values[key]));
    }
    return m;
  };

  it("max pooling lets a batch norm through unless a gamma is negative, forward and backward", async () => {
    const pool = () => layers.maxPooling2d({ poolSize: 2, padding: "same", name: "pool" });
    const forward = () => chain(bn({ inputShape: [5, 5, 2] }), pool(), layers.flatten(), dense(3));
    const backward = () =>
      chain(layers.conv2d({ filters: 2, kernelSize: 2, inputShape: [6, 6, 1], name: "conv" }), pool(), bn(), relu());
    expect(await folded(forward())).toEqual(["bn forward dense"]);
    expect(await folded(backward())).toEqual(["bn backward conv"]);
    const gamma = { gamma: [1, -0.5] };
    expect(await reasonOf(assign(forward(), "bn", gamma))).toMatch(
      /; behind it, "pool" is max pooling, which does not commute with a negative gamma$/,
    );
    expect(await reasonOf(assign(backward(), "bn", gamma))).toMatch(/^before it, "pool" is max pooling/);
    expect(await folded(assign(forward(), "bn", { gamma: [1, 0] }))).toEqual(["bn forward dense"]);
  });

  it("a convolution that pads takes a batch norm without shifts", async () => {
    const m = chain(
      bn({ center: false, inputShape: [6, 6, 2] }),
      layers.conv2d({ filters: 3, kernelSize: 3, padding: "same", name: "conv" }),
    );
    assign(m, "bn", { moving_mean: [0, 0] });
    expect(await folded(m)).toEqual(["bn forward conv"]);
  });

  it("are kept where folding loses digits, and the reason has error and threshold", async () => {
    const m = chain(bn({ inputShape: [2] }), dense(3));
    assign(m, "bn", { moving_mean: [3e4, -3e4], moving_variance: [1, 1], gamma: [1, 1], beta: [0, 0] });
    const { report } = await foldModel(m);
    expect(report[0]?.outcome).toBe("kept");
    expect(report[0]?.reason).toMatch(
      /; folding forward loses digits: an expected error of \d\.\de-[34] of an output's size, more than 1e-5$/,
    );
    const back = chain(dense(2, { inputShape: [2] }), bn(), relu());
    assign(back, "bn", { moving_mean: [3e4, -3e4], moving_variance: [1, 1], gamma: [1, 1], beta: [0, 0] });
    expect((await foldModel(back)).report[0]?.reason).toMatch(/^folding backward loses digits: .*; behind it, "relu"/);
  });

  it("are kept where their statistics are not finite", async () => {
    const m = assign(chain(dense(2, { inputShape: [2] }), bn(), relu()), "bn", { moving_variance: [1, Number.NaN] });
    expect((await foldModel(m)).report[0]?.reason).toMatch(/^folding backward gives numbers that are not finite; /);
  });

  it("without gamma or beta are folded", async () => {
    const config = { scale: false, center: false };
    const m = chain(bn({ ...config, inputShape: [4] }), dense(3), bn({ ...config, name: "bn2" }), relu());
    expect(await folded(m)).toEqual(["bn forward dense", "bn2 backward dense"]);
  });

  it("in a row are folded one after the other", async () => {
    const m = chain(bn({ inputShape: [4] }), theirs("bn2"), dense(3), theirs("bn3"), bn({ name: "bn4" }), relu());
    expect(await folded(m)).toEqual([
      "bn forward dense",
      "bn2 forward dense",
      "bn3 backward dense",
      "bn4 backward dense",
    ]);
  });

  it.each<[string, Shape, object, () => Layer[]]>([
    ["flatten", [3, 4, 2], {}, () => [layers.flatten()]],
    ["flatten of axis 1", [3, 4, 2], { axis: 1 }, () => [layers.flatten()]],
    ["flatten with channelsFirst", [3, 4, 2], { axis: 1 }, () => [layers.flatten({ dataFormat: "channelsFirst" })]],
    [
      "reshape and back",
      [2, 2, 3],
      {},
      () => [layers.reshape({ targetShape: [12] }), layers.reshape({ targetShape: [4, 3] })],
    ],
    ["permute", [3, 4], { axis: 1 }, () => [layers.permute({ dims: [2, 1] })]],
    ["noise", [4], {}, () => [layers.gaussianNoise({ stddev: 1 }), layers.activation({ activation: "linear" })]],
    ["global average pooling", [3, 4, 2], {}, () => [layers.globalAveragePooling2d({}), layers.dropout({ rate: 0.5 })]],
    ["global max pooling", [4, 2], {}, () => [layers.globalMaxPooling1d({})]],
    [
      "upsampling and cropping",
      [3, 4, 2],
      {},
      () => [layers.upSampling2d({}), layers.cropping2D({ cropping: 1 }), layers.flatten()],
    ],
  ])("pass %s on the way to a dense layer", async (_, shape, config, way) => {
    expect(await folded(chain(bn({ ...config, inputShape: [...shape] }), ...way(), dense(3)))).toEqual([
      "bn forward dense",
    ]);
  });

  it("behind conv3dTranspose, which TF.js 4.22 computes wrongly on wasm, fold backward", async () => {
    const conv = layers.conv3dTranspose({ filters: 4, kernelSize: 2, inputShape: [3, 4, 3, 6], name: "conv" });
    expect(await folded(chain(conv, bn(), relu()))).toEqual(["bn backward conv"]);
  });

  it("pass a reshape to 1 × 1 on the way to a convolution", async () => {
    const m = chain(
      bn({ inputShape: [4, 4, 5] }),
      layers.globalAveragePooling2d({}),
      layers.reshape({ targetShape: [1, 1, 5] }),
      layers.conv2d({ filters: 3, kernelSize: 1, name: "conv" }),
    );
    expect(await folded(m)).toEqual(["bn forward conv"]);
  });

  it("pass global average pooling on the way back to a convolution", async () => {
    const m = chain(
      layers.conv2d({ filters: 3, kernelSize: 2, inputShape: [4, 4, 2], name: "conv" }),
      layers.globalAveragePooling2d({}),
      layers.dropout({ rate: 0.1 }),
      bn(),
      relu(),
    );
    expect(await folded(m)).toEqual(["bn backward conv"]);
  });
});

describe("models", () => {
  useFor("cpu");

  const apply = (layer: Layer, ...xs: SymbolicTensor[]) =>
    layer.apply(xs.length === 1 ? (xs[0] as SymbolicTensor) : xs) as SymbolicTensor;

  it("a batch norm before a branch goes into every layer behind it, or into none", async () => {
    const make = (second: Layer) => {
      const x = input({ shape: [4] });
      const y = apply(bn(), x);
      const sum = apply(
        layers.add(),
        apply(dense(3, { name: "left" }), y),
        apply(dense(3, { name: "right" }), apply(second, y)),
      );
      return randomize(model({ inputs: x, outputs: sum }));
    };
    expect(await folded(make(layers.dropout({ rate: 0.5 })))).toEqual(["bn forward left right"]);
    expect(await reasonOf(make(relu()))).toMatch(/; behind it, "relu" is the activation "relu"$/);
  });

  it("a layer whose output has another consumer, or is an output, keeps the batch norm behind it", async () => {
    const x = input({ shape: [4] });
    const y = apply(dense(3), x);
    const z = apply(relu(), apply(bn(), y));
    expect(await reasonOf(randomize(model({ inputs: x, outputs: [z, y] })))).toMatch(
      /^the output of "dense" before it is used elsewhere, too; /,
    );
    const sum = apply(layers.add(), z, apply(relu("other"), y));
    expect(await reasonOf(randomize(model({ inputs: x, outputs: sum })))).toMatch(
      /^the output of "dense" before it is used/,
    );
  });

  it("a residual connection takes the batch norm of its branch", async () => {
    const x = input({ shape: [4] });
    const sum = apply(layers.add(), x, apply(bn(), apply(dense(4), x)));
    expect(await folded(randomize(model({ inputs: x, outputs: sum })))).toEqual(["bn backward dense"]);
  });

  it("shared layers and shared batch norms are kept", async () => {
    const [a, b] = [input({ shape: [4] }), input({ shape: [4] })];
    const shared = dense(3);
    const sum = apply(layers.add(), apply(relu(), apply(bn(), apply(shared, a))), apply(shared, b));
    expect(await reasonOf(randomize(model({ inputs: [a, b], outputs: sum })))).toMatch(
      /^"dense" before it is shared; /,
    );
    const both = bn();
    const after = apply(layers.add(), apply(both, a), apply(both, b));
    expect(await reasonOf(randomize(model({ inputs: [a, b], outputs: after })))).toBe(
      "it is shared: its calls have different neighbours",
    );
    const before = apply(layers.add(), apply(shared, apply(bn(), a)), apply(shared, b));
    expect(await reasonOf(randomize(model({ inputs: [a, b], outputs: before })))).toMatch(
      /; "dense" behind it is shared$/,
    );
  });

  it("a batch norm that is called with training: true is kept", async () => {
    const x = input({ shape: [4] });
    const y = bn().apply(apply(dense(3), x), { training: true }) as SymbolicTensor;
    expect(await reasonOf(randomize(model({ inputs: x, outputs: y })))).toBe("it is called with training: true");
  });

  it("a recurrent layer keeps the states that it is called with", async () => {
    const [x, state] = [input({ shape: [4, 3] }), input({ shape: [3] })];
    const from = apply(relu(), apply(bn(), apply(dense(2), state)));
    const rnn = recurrent(layers.simpleRNN, { units: 2, name: "rnn" });
    const y = rnn.apply(x, { initialState: [from] }) as SymbolicTensor;
    expect(await folded(randomize(model({ inputs: [x, state], outputs: y })))).toEqual(["bn backward dense"]);
  });

  it("nested models are folded by themselves, also where they are called twice", async () => {
    const inner = () =>
      sequential({ name: "inner", layers: [dense(4, { inputShape: [3] }), bn(), relu(), theirs("edge")] });
    const [a, b] = [input({ shape: [3] }), input({ shape: [3] })];
    const tower = inner();
    const merged = apply(layers.concatenate(), apply(tower, a), apply(tower, b));
    const outputs = apply(
      relu("last"),
      apply(theirs("outer"), apply(layers.dense({ units: 2, name: "head" }), merged)),
    );
    expect(await folded(randomize(model({ inputs: [a, b], outputs })))).toEqual([
      "inner/bn backward dense",
      "inner/edge kept",
      "outer backward head",
    ]);
    // batch norms do not move over the edge of a nested model
    const x = input({ shape: [3] });
    const edge = model({ inputs: x, outputs: apply(relu("r"), apply(inner(), apply(bn({ name: "first" }), x))) });
    const { report } = await foldModel(randomize(edge));
    expect(report.find(({ name }) => name === "first")?.reason).toMatch(
      /; behind it, "inner" \(Sequential\) is neither/,
    );
  });

  it("a model as the first layer of another is folded together with it", async () => {
    const first = sequential({ layers: [dense(4, { inputShape: [3], activation: "relu", name: "d1" }), bn()] });
    const m = randomize(sequential({ layers: [first, dense(2, { name: "d2" })] }));
    expect(await folded(m)).toEqual(["bn forward d2"]);
  });

  it("names, dtypes, several inputs and outputs, and metadata stay, also of outputs that are batch norms", async () => {
    const [a, b] = [input({ shape: [4], name: "a" }), input({ shape: [3], name: "b", dtype: "float32" })];
    const left = apply(bn({ name: "left" }), apply(dense(3, { name: "d1" }), a));
    const right = apply(theirs("right"), apply(dense(3, { name: "d2" }), b));
    const m = randomize(
      model({
        inputs: [b, a],
        outputs: [right, left, apply(layers.activation({ activation: "tanh" }), left)],
        name: "two",
      }),
    );
    m.setUserDefinedMetadata({ made: "here" });
    const { model: without, report } = await foldModel(m);
    expectSame(m, without);
    expect(of(report).sort()).toEqual(["left backward d1", "right backward d2"]);
    expect(without.name).toBe("two");
    expect([without.inputNames, without.outputNames]).toEqual([m.inputNames, m.outputNames]);
    expect(without.layers.map(({ name }) => name).sort()).toEqual(m.layers.map(({ name }) => name).sort());
    expect(without.inputs.map(({ dtype, shape }) => [dtype, shape])).toEqual(m.inputs.map((t) => [t.dtype, t.shape]));
    expect(without.getUserDefinedMetadata()).toEqual({ made: "here" });
    expect(without.getLayer("left").getClassName()).toBe("Activation");
  });

  /** Returns a model of layers in a row, drawn at random, and what its predictions may be off by. */
  function draw(seed: number): LayersModel {
    const next = random(seed);
    const pick = <T>(...list: T[]) => list[Math.floor(next() * list.length)] as T;
    const norm = (rank: number) => batchNormalization({ axis: pick(-1, -1, -1, 1 + Math.floor(next() * (rank - 1))) });
    const weighted = () => ({ useBias: pick(true, false), activation: pick("linear", "linear", "relu") as "linear" });
    const windowed = () => ({ kernelSize: pick(1, 2, 3), padding: pick("valid", "valid", "same") as "valid" });
    const pool = () => ({ poolSize: 2, strides: 1, padding: pick("valid", "valid", "same") as "valid" });
    const spatial: (() => Layer)[] = [
      () => layers.conv2d({ filters: pick(2, 3), ...windowed(), ...weighted() }),
      () => layers.depthwiseConv2d({ depthMultiplier: pick(1, 2), ...windowed(), ...weighted() }),
      () => layers.separableConv2d({ filters: 3, depthMultiplier: pick(1, 2), ...windowed(), ...weighted() }),
      () => layers.conv2dTranspose({ filters: 2, ...windowed(), ...weighted() }),
      () => layers.dense({ units: 3, ...weighted() }),
      () => layers.maxPooling2d(pool()),
      () => layers.averagePooling2d(pool()),
      () => layers.zeroPadding2d({}),
      () => layers.permute({ dims: pick([2, 1, 3], [3, 1, 2]) }),
    ];
    const anywhere: (() => Layer)[] = [
      () => layers.dropout({ rate: 0.5 }),
      () => layers.activation({ activation: pick("linear", "tanh") as "linear" }),
    ];
    const m = sequential({ layers: [batchNormalization({ inputShape: [13, 14, 2] })] });
    for (let i = 0; i < 6; i++) {
      const { shape } = m.outputs[0] as SymbolicTensor;
      const { length } = shape;
      const isNarrow = shape.slice(1, -1).some((d) => (d as number) < 3);
      if (next() < 0.4) m.add(norm(length));
      else if (length === 4 && !isNarrow) m.add(pick(...spatial, ...spatial, ...anywhere)());
      else m.add(pick(() => layers.dense({ units: 4, ...weighted() }), ...anywhere)());
      if ((m.outputs[0] as SymbolicTensor).shape.length === 4 && next() < 0.15)
        m.add(
          pick<() => Layer>(
            layers.flatten,
            () => layers.globalAveragePooling2d({}),
            () => layers.globalMaxPooling2d({}),
          )(),
        );
    }
    m.add(layers.dense({ units: 3 }));
    return randomize(m, seed, next() < 0.5);
  }

  it("at random predict the same", async () => {
    const counts = { backward: 0, forward: 0, kept: 0 };
    for (let seed = 1; seed <= 150; seed++) {
      const m = draw(seed);
      const { model: without, report } = await foldModel(m);
      expectSame(m, without);
      for (const { outcome } of report) counts[outcome]++;
      m.dispose();
      without.dispose();
    }
    expect(Math.min(...Object.values(counts))).toBeGreaterThan(50);
  });

  class Scaled extends layers.Layer {
    static className = "TimesFactor";
    readonly factor: number;
    constructor(config: { factor: number }) {
      super(config as never);
      this.factor = config.factor;
    }
    override call(x: tf.Tensor | tf.Tensor[]): tf.Tensor {
      return tf.mul([x].flat()[0] as tf.Tensor, this.factor);
    }
    override getConfig(): tf.serialization.ConfigDict {
      return { ...super.getConfig(), factor: this.factor };
    }
  }

  it("layers of a program survive with their configuration", async () => {
    const m = chain(dense(3, { inputShape: [4] }), bn(), new Scaled({ factor: 7 }), dense(2, { name: "d2" }));
    expect(await folded(m)).toEqual(["bn backward dense"]);
    const { model: without } = await foldModel(m);
    expect(without.layers.find((layer) => layer instanceof Scaled)?.factor).toBe(7);
    expect(await reasonOf(chain(bn({ inputShape: [4] }), new Scaled({ factor: 7 }), dense(2)))).toMatch(
      /; behind it, "times_factor_\w+" \(TimesFactor\) is neither/,
    );
  });

  it("a subclass of TF.js's dense layer or pooling may compute anything, and is not folded into", async () => {
    type Class = new (config: object) => Layer;
    const square = (layer: Layer, Parent = layer.constructor as unknown as Class): Layer => {
      class Squared extends Parent {
        override call(x: tf.Tensor | tf.Tensor[], kwargs: object): tf.Tensor {
          return tf.square(super.call(x, kwargs as never) as tf.Tensor);
        }
      }
      return new Squared(layer.getConfig());
    };
    expect(await reasonOf(chain(square(dense(3, { inputShape: [4] })), bn(), relu()))).toMatch(
      /^before it, "dense" \(Squared\) is neither/,
    );
    const pool = square(layers.globalAveragePooling1d({ name: "pool" }));
    expect(await reasonOf(chain(bn({ inputShape: [4, 2] }), pool, dense(3)))).toMatch(
      /; behind it, "pool" \(Squared\) is/,
    );
  });

  it("a subclass of batch norm, or one that has the name of TF.js's class, may compute anything, too", async () => {
    type Class = new (config: object) => Layer;
    const Parent = layers.batchNormalization({ name: "parent" }).constructor as unknown as Class;
    class Added extends Parent {
      override call(x: tf.Tensor | tf.Tensor[], kwargs: object): tf.Tensor {
        return tf.add(super.call(x, kwargs as never) as tf.Tensor, 1);
      }
    }
    const m = chain(dense(3, { inputShape: [4] }), new Added({ name: "added" }));
    const { model: folded, report } = await foldModel(m);
    expect(report).toEqual([]);
    const x = tf.ones([2, 4]);
    expect(values(folded.predict(x) as tf.Tensor)).toEqual(values(m.predict(x) as tf.Tensor));

    class Dense extends (dense(1, { name: "d" }).constructor as unknown as Class) {
      override call(x: tf.Tensor | tf.Tensor[], kwargs: object): tf.Tensor {
        return tf.square(super.call(x, kwargs as never) as tf.Tensor);
      }
    }
    const squared = chain(new Dense({ units: 3, inputShape: [4] }), bn(), relu());
    expect((await foldModel(squared)).report).toMatchObject([{ outcome: "kept" }]);
  });

  it("a model in a wrapper keeps its weights, in whichever order its layers were made", async () => {
    const one = (v: number) => layers.dense({ units: 1, weights: [tf.tensor2d([[v]]), tf.zeros([1])] });
    const i = input({ shape: [1] });
    const [a, b] = [one(1).apply(i), one(10).apply(i)] as [SymbolicTensor, SymbolicTensor];
    const inner = model({ inputs: i, outputs: layers.concatenate().apply([b, a]) as SymbolicTensor });
    const outer = input({ shape: [1, 1] });
    const wrapped = layers.timeDistributed({ layer: inner }).apply(outer) as SymbolicTensor;
    const { model: folded } = await foldModel(model({ inputs: outer, outputs: wrapped }));
    expect(values(folded.predict(tf.ones([1, 1, 1])) as tf.Tensor)).toEqual(Float32Array.of(10, 1));
  });

  it("a class that cannot be made again throws its own error, and leaves no tensors behind", async () => {
    class Strict extends Scaled {
      static override className = "Strict";
      override getConfig(): tf.serialization.ConfigDict {
        return {};
      }
      constructor(config: { factor: number }) {
        if (config.factor === undefined) throw new TypeError("no factor");
        super(config);
      }
    }
    const nested = sequential({ layers: [dense(4, { inputShape: [4] }), bn({ name: "inner" })] });
    const m = chain(dense(4, { inputShape: [4] }), nested, bn(), new Strict({ factor: 2 }), dense(2, { name: "d2" }));
    const before = tf.memory().numTensors;
    await expect(foldModel(m)).rejects.toThrow(new TypeError("no factor"));
    expect(tf.memory().numTensors).toBe(before);
  });

  it("constraints do not touch folded weights, and regularizers do no harm", async () => {
    const config = {
      kernelConstraint: constraints.unitNorm({ axis: 0 }),
      biasConstraint: constraints.nonNeg(),
      kernelRegularizer: regularizers.l2({ l2: 1 }),
    };
    expect(await folded(chain(dense(3, { inputShape: [4], ...config }), bn(), relu()))).toEqual(["bn backward dense"]);
    const conv = layers.depthwiseConv2d({
      kernelSize: 2,
      depthwiseRegularizer: "l1l2",
      inputShape: [4, 4, 2],
      name: "conv",
    });
    expect(await folded(chain(conv, bn(), relu()))).toEqual(["bn backward conv"]);
  });

  it("weights that are frozen one by one get to their places", async () => {
    const frozen = chain(recurrent(layers.gru, { units: 3, inputShape: [4, 3], name: "gru" }), dense(3), bn(), relu());
    (frozen.getLayer("gru").weights[0] as { trainable: boolean }).trainable = false;
    frozen.getLayer("dense").trainable = false;
    expect(await folded(frozen)).toEqual(["bn backward dense"]);
  });

  it("the original stays as it is, and each model is disposed of by itself", async () => {
    const m = lenet(false);
    const [x] = inputsOf(m) as [tf.Tensor];
    const weights = m.getWeights().map(values);
    const before = values(predict(m, [x])[0] as tf.Tensor);
    const tensors = tf.memory().numTensors;
    const { model: without } = await foldModel(m);
    expect(m.getWeights().map(values)).toEqual(weights);
    expect(values(predict(m, [x])[0] as tf.Tensor)).toEqual(before);
    const after = values(predict(without, [x])[0] as tf.Tensor);
    // weights that one model gets do not reach the other
    without.layers.at(-1)?.setWeights((without.layers.at(-1) as Layer).getWeights().map((w) => tf.zerosLike(w)));
    expect(m.getWeights().map(values)).toEqual(weights);
    const again = (await foldModel(m)).model;
    m.dispose();
    expect(values(predict(again, [x])[0] as tf.Tensor)).toEqual(after);
    again.dispose();
    without.dispose();
    tf.engine().endScope();
    tf.engine().startScope();
    expect(tf.memory().numTensors).toBeLessThan(tensors);
  });

  it("a folded model is saved and loaded, and folded again it is the same", async () => {
    const m = classifier();
    const { model: without } = await foldModel(m);
    let artifacts: tf.io.ModelArtifacts | undefined;
    await without.save(
      tf.io.withSaveHandler(async (saved) => {
        artifacts = saved;
        return { modelArtifactsInfo: { dateSaved: new Date(0), modelTopologyType: "JSON" } };
      }),
    );
    const loaded = await loadLayersModel(tf.io.fromMemory(artifacts as tf.io.ModelArtifacts));
    const [x] = inputsOf(m) as [tf.Tensor];
    expect(predict(loaded, [x]).map(values)).toEqual(predict(without, [x]).map(values));
    const again = await foldModel(without);
    expect(again.report).toEqual([]);
    expect(predict(again.model, [x]).map(values)).toEqual(predict(without, [x]).map(values));
  });

  it.each<[string, unknown]>([
    ["nothing", undefined],
    ["a layer", layers.dense({ units: 1 })],
    ["a GraphModel", { inputs: [], outputs: [], executor: {} }],
    ["an empty model", sequential()],
  ])("%s is refused by name", async (_, wrong) => {
    await expect(foldModel(wrong as LayersModel)).rejects.toThrow(TypeError);
    await expect(foldModel(wrong as LayersModel)).rejects.toThrow(
      /^model: expected a LayersModel with an output, as tf.load/,
    );
  });
});
