// Models of TF.js for the suites of foldModel, and checks of what becomes of them.

import * as tf from "@tensorflow/tfjs-core";
import { input, type LayersModel, layers, model, type SymbolicTensor, sequential } from "@tensorflow/tfjs-layers";
import { afterEach, beforeAll, beforeEach, expect } from "vitest";
import { batchNormalization, type FoldedBatchNorm, foldModel } from "../../src/tfjs/index.ts";
import { useBackend, values } from "./tfjs.ts";
import { normal, sizeOf } from "./worlds.ts";

export type Layer = LayersModel["layers"][number];
export type Shape = readonly number[];

/** Gives all weights of a model random values: kernels of a size that keeps activations near 1, gammas of either sign. */
export function randomize<M extends LayersModel>(m: M, seed = 1, negative = false): M {
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

/** Returns a Sequential model with random weights. */
export const chain = (...list: Layer[]) => randomize(sequential({ layers: list }));

/** Returns random inputs for a model. Dimensions that the model leaves open have 5 elements. */
export const inputsOf = (m: LayersModel, batch = 3) =>
  m.inputs.map(({ shape }, i) => {
    const full = [batch, ...shape.slice(1).map((d) => d ?? 5)];
    return tf.tensor(normal(40 + i, sizeOf(full), 1, 0.5), full);
  });

/** Returns all outputs of a model. */
export const predict = (m: LayersModel, xs: tf.Tensor[]) =>
  [m.predict(xs.length === 1 ? (xs[0] as tf.Tensor) : xs)].flat();

/** Largest difference, in units of the largest output: float32 rounding in another order over some layers. */
const TOLERANCE = 2e-5;

/** Expects two models to predict the same, and returns the first one's predictions. */
export function expectSame(a: LayersModel, b: LayersModel): Float32Array[] {
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

/** Returns a line for each batch norm: its name, what became of it, and the layers that it is in. */
export const inShort = (report: FoldedBatchNorm[]) =>
  report.map(({ name, outcome, into }) => [name, outcome, ...into].join(" "));

/** Folds a model, expects the same predictions, and returns the report as inShort does. */
export async function folded(m: LayersModel): Promise<string[]> {
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
  return inShort(report);
}

/** Expects a model to keep its only batch norm, and returns the reason. */
export async function reasonOf(m: LayersModel): Promise<string> {
  const { model: without, report } = await foldModel(m);
  expectSame(m, without);
  expect(inShort(report)).toEqual(["bn kept"]);
  return report[0]?.reason as string;
}

/** Layers with names that the expected reports contain. */
export const bn = (config: object = {}) => batchNormalization({ name: "bn", ...config });
export const theirs = (name: string, config: object = {}) => layers.batchNormalization({ name, ...config });
export const dense = (units: number, config: object = {}) => layers.dense({ units, name: "dense", ...config });
export const relu = (name = "relu") => layers.activation({ activation: "relu", name });

/** Their default initialiser needs methods of tensors that tfjs-core registers only as a whole. */
export const recurrent = <C>(make: (config: C) => Layer, config: C): Layer =>
  make({ ...config, recurrentInitializer: "glorotUniform" });

/** A classifier whose first layer normalises its inputs. */
export const classifier = () =>
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
export const lenet = (isBefore: boolean) => {
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
export function mobilenet(): LayersModel {
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
export function useFor(backend: string): void {
  beforeAll(() => useBackend(backend));
  beforeEach(() => tf.engine().startScope());
  afterEach(() => tf.engine().endScope());
}
