// foldModel on whole networks: without their batch norms they predict the same, with fewer kernels.

import * as tf from "@tensorflow/tfjs-core";
import { type LayersModel, layers, sequential } from "@tensorflow/tfjs-layers";
import { describe, expect, it } from "vitest";
import { batchNormalization, foldModel } from "../../src/tfjs/index.ts";
import { expectPart } from "../support/document.ts";
import {
  chain,
  classifier,
  dense,
  expectSame,
  folded,
  inputsOf,
  type Layer,
  lenet,
  mobilenet,
  predict,
  randomize,
  relu,
  type Shape,
  useFor,
} from "../support/fold-model.ts";

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
    it("docs/guides/tfjs-models.md has the kernels of wasm that these models launch", async () => {
      const rows = ["| | batch norms | kernels before | after |", "|---|---:|---:|---:|"];
      for (const [name, make, batchNorms] of MODELS) {
        const m = make();
        const [before, after] = [await kernelsOf(m), await kernelsOf((await foldModel(m)).model)];
        rows.push(`| ${name} | ${batchNorms} | ${before.all} | ${after.all} |`);
      }
      expectPart(new URL("../../docs/guides/tfjs-models.md", import.meta.url), "fold-model", rows.join("\n"));
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
