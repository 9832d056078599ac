// States of other frameworks: their kinds of variance, and training that continues from their state, against each
// framework's recursion in plain float64 loops.

import { describe, expect, test } from "vitest";
import {
  BatchNorm,
  type Framework,
  type NamedState,
  optionsFrom,
  type PlainTensor,
  type StateSource,
} from "../../src/index.ts";
import { dimsOf, statistics } from "../support/reference.ts";
import { FRAMEWORKS, layer } from "../support/state.ts";
import { normalInput } from "../support/worlds.ts";

/** A few roundings to float32. */
const CLOSE = { rtol: 1e-6, atol: 1e-6 };

describe("a count converts the running variance", () => {
  const variance = Float32Array.of(0.3, 5, 70);
  const stateOf = (framework: Framework) => {
    const bn = new BatchNorm(3);
    bn.runningVariance = variance.slice();
    return bn.stateDict({ framework });
  };

  // framework and layer agree, or the one keeps m/(m − 1) times what the other keeps; m = 12
  const up = 12 / 11;
  const ROWS = FRAMEWORKS.flatMap((framework): [Framework, "unbiased" | "biased", number][] =>
    framework === "pytorch"
      ? [
          [framework, "unbiased", 1],
          [framework, "biased", 1 / up],
        ]
      : [
          [framework, "unbiased", up],
          [framework, "biased", 1],
        ],
  );

  test.each(ROWS)("loaded from %s into a layer that keeps the %s one by %d", (framework, runningVariance, factor) => {
    const bn = new BatchNorm(3, { runningVariance });
    bn.loadStateDict(stateOf(framework), { framework, count: 12 });
    expect(bn.runningVariance).toBeAllclose(
      variance.map((v) => v * factor),
      { rtol: factor === 1 ? 0 : 2 ** -23 },
    );
    bn.loadStateDict(stateOf(framework), { framework });
    expect(bn.runningVariance).toEqual(variance);
    expect(bn.runningMean).toEqual(new Float32Array(3));
  });

  test.each(ROWS)("saved for %s by a layer that keeps the %s one by 1 / %d", (framework, runningVariance, factor) => {
    const bn = new BatchNorm(3, { runningVariance });
    bn.runningVariance = variance.slice();
    const load = (state: NamedState) => {
      const to = new BatchNorm(3);
      to.loadStateDict(state, { framework });
      return to.runningVariance;
    };
    expect(load(bn.stateDict({ framework, count: 12 }))).toBeAllclose(
      variance.map((v) => v / factor),
      { rtol: factor === 1 ? 0 : 2 ** -23 },
    );
    expect(load(bn.stateDict({ framework }))).toEqual(variance);
    expect(bn.runningVariance).toEqual(variance);
  });
});

// ---- training goes on where another framework stopped ---------------------------------------------------------------

/** mean and biased variance of a batch [N, C, L], in float64. */
function momentsOf({ data, shape }: PlainTensor) {
  return statistics(data, dimsOf(shape, "channels-first"));
}

/** running ← decay·running + (1 − decay)·batch, as Keras, TF.js, ONNX and Flax have it: mean 0 and biased variance 1 first. */
class BiasedEma {
  mean = new Float64Array(3);
  variance = new Float64Array(3).fill(1);

  constructor(readonly decay: number) {}

  update(batch: PlainTensor): this {
    const { mean, variance } = momentsOf(batch);
    const mix = (old: Float64Array, now: Float64Array) =>
      old.map((v, c) => this.decay * v + (1 - this.decay) * (now[c] as number));
    this.mean = mix(this.mean, mean);
    this.variance = mix(this.variance, variance);
    return this;
  }
}

const batches = Array.from({ length: 8 }, (_, k) => normalInput(50 + k, [5, 3, 7], 1 + k, 3 - k));
const [seen, later] = [batches.slice(0, 4), batches.slice(4)];

describe.each<[Framework, object, number]>([
  ["keras", { axis: 1 }, 0.99],
  ["keras", { axis: 1, momentum: 0.6 }, 0.6],
  ["tfjs", { axis: [1], momentum: 0.9 }, 0.9],
  ["onnx", {}, 0.9],
  ["flax", { axis: 1 }, 0.99],
])("a layer of %s with the config %j", (framework, config, decay) => {
  const theirs = () => seen.reduce((ema, batch) => ema.update(batch), new BiasedEma(decay));
  const saved = (ema: BiasedEma): StateSource =>
    framework === "onnx"
      ? { scale: [1, 1, 1], B: [0, 0, 0], input_mean: ema.mean, input_var: ema.variance }
      : framework === "flax"
        ? { params: { scale: [1, 1, 1], bias: [0, 0, 0] }, batch_stats: { mean: ema.mean, var: ema.variance } }
        : { gamma: [1, 1, 1], beta: [0, 0, 0], moving_mean: ema.mean, moving_variance: ema.variance };

  test("goes on with the same numbers here", () => {
    const ema = theirs();
    const bn = new BatchNorm(3, optionsFrom(framework, config));
    bn.loadStateDict(saved(ema), { framework });
    for (const batch of later) {
      bn.forward(batch);
      ema.update(batch);
      expect(bn.runningMean).toBeAllclose(ema.mean, CLOSE);
      expect(bn.runningVariance).toBeAllclose(ema.variance, CLOSE);
    }
  });

  test("has its other kind of variance in a layer that keeps the unbiased one, if the count is given", () => {
    // the recursion is linear: all but the initial 1 of the variance carries the factor m/(m − 1), m = 35
    const ema = theirs();
    ema.variance = ema.variance.map((v) => v - decay ** 4);
    const bn = new BatchNorm(3, { ...optionsFrom(framework, config), runningVariance: "unbiased" });
    bn.loadStateDict(saved(ema), { framework, count: 35 });
    const twin = new BatchNorm(3, { ...optionsFrom(framework, config), runningVariance: "unbiased" });
    twin.runningVariance = new Float32Array(3);
    for (const batch of seen) twin.forward(batch);
    for (const batch of later) for (const layer of [bn, twin]) layer.forward(batch);
    expect(bn.runningVariance).toBeAllclose(twin.runningVariance as Float32Array, CLOSE);
    expect(bn.runningVariance).not.toBeAllclose(later.reduce((e, b) => e.update(b), ema).variance, { rtol: 0.02 });
  });

  test("takes ours over with the same numbers", () => {
    const bn = new BatchNorm(3, optionsFrom(framework, config));
    const ema = new BiasedEma(decay);
    for (const batch of seen) bn.forward(batch);
    const state = bn.stateDict({ framework });
    const [mean, variance] = {
      keras: ["moving_mean", "moving_variance"],
      tfjs: ["moving_mean", "moving_variance"],
      onnx: ["input_mean", "input_var"],
      flax: ["batch_stats/mean", "batch_stats/var"],
    }[framework as "keras"] as [string, string];
    ema.mean = Float64Array.from(state[mean] as Float32Array);
    ema.variance = Float64Array.from(state[variance] as Float32Array);
    for (const batch of later) {
      bn.forward(batch);
      ema.update(batch);
    }
    expect(ema.mean).toBeAllclose(bn.runningMean as Float32Array, CLOSE);
    expect(ema.variance).toBeAllclose(bn.runningVariance as Float32Array, CLOSE);
  });
});

describe("Haiku's average", () => {
  /** haiku.ExponentialMovingAverage: hidden starts with 0, and average is freed of that zero. */
  function haikuEma(values: readonly Float64Array[], decay: number) {
    let hidden = new Float64Array(3);
    for (const value of values) hidden = hidden.map((h, c) => decay * h + (1 - decay) * (value[c] as number));
    return { hidden, average: hidden.map((h) => h / (1 - decay ** values.length)), counter: values.length };
  }

  test("is loaded, and hidden is written so that Haiku would get the same average", () => {
    const decay = 0.8;
    const means = seen.map((b) => momentsOf(b).mean);
    const variances = seen.map((b) => momentsOf(b).variance);
    const state = { mean_ema: haikuEma(means, decay), var_ema: haikuEma(variances, decay) };
    const config = { create_scale: false, create_offset: false, decay_rate: decay, data_format: "NC..." };
    const bn = new BatchNorm(3, optionsFrom("haiku", config));
    bn.loadStateDict(state, { framework: "haiku" });
    expect(bn.batchesTracked).toBe(4);
    expect(bn.runningMean).toBeAllclose(state.mean_ema.average, CLOSE);

    const back = bn.stateDict({ framework: "haiku" });
    for (const ema of ["mean_ema", "var_ema"] as const) {
      expect(back[`state/~/${ema}/hidden`]).toBeAllclose(state[ema].hidden, CLOSE);
      expect(back[`state/~/${ema}/average`]).toBeAllclose(state[ema].average, CLOSE);
      expect(back[`state/~/${ema}/counter`]).toBe(4);
    }
    const [next] = later as [PlainTensor];
    bn.forward(next);
    expect(bn.runningMean).toBeAllclose(haikuEma([...means, momentsOf(next).mean], decay).average, CLOSE);
  });

  test("of no batch is hidden in zeros", () => {
    const state = new BatchNorm(3).stateDict({ framework: "haiku" });
    expect(state["state/~/var_ema/hidden"]).toEqual(new Float32Array(3));
    expect(state["state/~/var_ema/average"]).toEqual(new Float32Array(3).fill(1));
  });
});

test("eval computes the same on both sides without a count", () => {
  const x = normalInput(70, [4, 3, 5], 2, 1);
  const from = layer({ runningVariance: "biased", epsilon: 1e-3 });
  for (const framework of FRAMEWORKS) {
    const to = new BatchNorm(3, { epsilon: 1e-3 });
    to.loadStateDict(from.stateDict({ framework }), { framework });
    expect(to.eval().forward(x).data).toBeAllclose(from.eval().forward(x).data);
  }
});
