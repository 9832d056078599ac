// foldModel, one batch norm at a time: the layer that takes it, or the reason why it is kept.

import * as tf from "@tensorflow/tfjs-core";
import { type LayersModel, layers } from "@tensorflow/tfjs-layers";
import { describe, expect, it } from "vitest";
import { foldModel } from "../../src/tfjs/index.ts";
import {
  bn,
  chain,
  dense,
  folded,
  type Layer,
  reasonOf,
  recurrent,
  relu,
  type Shape,
  theirs,
  useFor,
} from "../support/fold-model.ts";

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
