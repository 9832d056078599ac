// foldModel on models of any shape: branches, shared layers, nested models, and what a copy keeps of its model.

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
import { describe, expect, it } from "vitest";
import { batchNormalization, foldModel } from "../../src/tfjs/index.ts";
import {
  bn,
  chain,
  classifier,
  dense,
  expectSame,
  folded,
  inputsOf,
  inShort,
  type Layer,
  lenet,
  predict,
  randomize,
  reasonOf,
  recurrent,
  relu,
  theirs,
  useFor,
} from "../support/fold-model.ts";
import { values } from "../support/tfjs.ts";
import { random } from "../support/worlds.ts";

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
    expect(inShort(report).sort()).toEqual(["left backward d1", "right backward d2"]);
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

  it("batch norms in wrappers are reported as kept, with the way to them, and predict the same", async () => {
    const inner = sequential({ name: "step", layers: [dense(3, { inputShape: [4] }), bn({ name: "deep" })] });
    const nested = sequential({
      name: "nested",
      layers: [layers.timeDistributed({ layer: inner as never, inputShape: [2, 4], name: "steps" })],
    });
    const net = chain(
      layers.inputLayer({ inputShape: [2, 4] }),
      nested,
      layers.timeDistributed({ layer: layers.dense({ units: 3, name: "each" }), name: "td" }),
      layers.timeDistributed({ layer: bn({ name: "wrapped" }), name: "td2" }),
      layers.timeDistributed({ layer: theirs("other"), name: "td3" }),
      bn({ name: "last" }),
    );
    const { model: copy, report } = await foldModel(net);
    expect(inShort(report)).toEqual(["nested/steps/step/deep kept", "td2/wrapped kept", "td3/other kept", "last kept"]);
    expect(report[0]?.reason).toBe('it is inside of "steps" (TimeDistributed), which is copied as it is');
    expect(report[1]).toEqual({
      name: "td2/wrapped",
      outcome: "kept",
      into: [],
      expectedError: 0,
      reason: 'it is inside of "td2" (TimeDistributed), which is copied as it is',
    });
    expectSame(net, copy);
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
  ])("%s is refused by name", async (_, wrong) => {
    await expect(foldModel(wrong as LayersModel)).rejects.toThrow(TypeError);
    await expect(foldModel(wrong as LayersModel)).rejects.toThrow(/^model: expected a LayersModel, as tf.load/);
  });

  it("a model without layers is refused", async () => {
    await expect(foldModel(sequential())).rejects.toThrow(
      /^model: expected a model with an output, got none; add its layers first/,
    );
  });
});
