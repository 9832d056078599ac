// Generators of calls of the layers BatchNorm and SyncBatchNorm, and of their properties, against the oracle.

import fc from "fast-check";
import * as lib from "../../src/index.ts";
import type { Problem } from "../support/reference.ts";
import {
  type Batch,
  backwardOptions,
  batches,
  build,
  checkGradients,
  checkY,
  expected,
  NO_SAMPLES,
  running,
  without,
} from "./batches.ts";
import { close, type Generator, generator, hold, type Prepared, same } from "./generator.ts";
import {
  type Any,
  activations,
  bits,
  dtypes,
  layerBits,
  layouts,
  maybe,
  numbers,
  operand,
  product,
  shapeOf,
} from "./values.ts";

const layers = fc.record({
  batch: batches,
  mode: fc.constantFrom("train" as const, "train" as const, "batch" as const, "eval" as const, "frozen" as const),
  byOption: fc.boolean(),
  momentum: fc.constantFrom(undefined, 0.1, 0.25, 0, 1),
  estimator: fc.constantFrom(
    "ema" as const,
    "ema" as const,
    "debiased" as const,
    "cumulative" as const,
    "population" as const,
  ),
  runningVariance: fc.constantFrom("unbiased" as const, "biased" as const),
  renorm: maybe(fc.constantFrom({ rMax: 1.2, dMax: 0.3 }, { rMax: 5, dMax: 5 }, { rMax: 1, dMax: 0 })),
  trackRunningStats: fc.constantFrom(true, true, true, false),
  needs: fc.constant(undefined),
  dxOut: fc.boolean(),
  dResidualOut: fc.boolean(),
  vectorsOut: fc.constantFrom("none", "given", "accumulated"),
});
type Layered = typeof layers extends fc.Arbitrary<infer T> ? T : never;

/** Makes a layer with nontrivial vectors, and the batch that it is called on. */
function layerOf(spec: Layered, keepsPerSample = true) {
  const tracks = spec.trackRunningStats || spec.mode === "frozen";
  const renorm = tracks && spec.batch.ghostBatchSize === undefined ? spec.renorm : undefined;
  const { size, dtype, seed } = spec.batch;
  const channels = size[1] as number;
  const own = running(channels, seed, dtype);
  const constant = tracks && (spec.mode === "eval" || spec.mode === "frozen") ? own : undefined;
  const batch: Batch = { ...spec.batch, perSample: keepsPerSample ? spec.batch.perSample : "none" };
  const b = build(batch, constant);
  // a layer has what the functions are given
  const perSample = b.parameters.perSample;
  const options = {
    dtype,
    layout: batch.layout,
    ...(b.options.epsilon !== undefined && { epsilon: b.options.epsilon }),
    scale: batch.gamma,
    shift: batch.beta,
    activation: batch.activation,
    ...(b.options.negativeSlope !== undefined && { negativeSlope: b.options.negativeSlope }),
    ...(batch.ghostBatchSize !== undefined && { ghostBatchSize: batch.ghostBatchSize }),
    ...(spec.momentum !== undefined && { momentum: spec.momentum }),
    estimator: spec.estimator,
    runningVariance: spec.runningVariance,
    trackRunningStats: tracks,
    ...(renorm && { renorm }),
  };
  const make = (group?: Any): Any => {
    const bn: Any = group
      ? new lib.SyncBatchNorm(channels, { ...options, group } as Any)
      : new lib.BatchNorm(channels, options as Any);
    if (bn.gamma && b.parameters.gamma) bn.gamma.set(b.parameters.gamma);
    if (bn.beta && b.parameters.beta) bn.beta.set(b.parameters.beta);
    if (tracks) {
      bn.runningMean.set(own.mean);
      bn.runningVariance.set(own.variance);
    }
    if (!spec.byOption) bn.mode = spec.mode;
    return bn;
  };
  const problem: Problem = {
    ...b.problem,
    ...(renorm && !constant && { renorm: { ...renorm, ...own } }),
    ...(perSample?.gamma === undefined && { gamma: batch.gamma ? b.problem.gamma : undefined }),
    ...(perSample?.beta === undefined && { beta: batch.beta ? b.problem.beta : undefined }),
  };
  const { mask, residual, out } = b.options as Any;
  const calls = {
    ...(spec.byOption && { mode: spec.mode }),
    ...(mask && { mask }),
    ...(residual && { residual }),
    ...(out && { out }),
    ...(perSample && { perSample }),
  };
  const updates = spec.mode === "train" && tracks;
  const fails = b.one && !constant ? "one-value-per-channel" : updates && b.light ? "RangeError" : undefined;
  return { b: { ...b, problem }, make, options, calls, own, tracks, updates, fails, batch, constant };
}

/** Returns the running statistics after these batches. */
function tracked(
  spec: Layered,
  own: { mean: Any; variance: Any },
  list: { count: number; mean: Any; variance: Any }[],
) {
  const [mean, variance] = [Float64Array.from(own.mean), Float64Array.from(own.variance)];
  const momentum = spec.momentum ?? 0.1;
  const correction = (n: number) => (spec.runningVariance === "unbiased" ? n / (n - 1) : 1);
  let [k, total] = [0, 0];
  let m2 = new Float64Array(mean.length);
  for (const batch of list.filter(({ count }) => count > 0)) {
    k++;
    const weight =
      spec.estimator === "cumulative"
        ? 1 / k
        : spec.estimator === "debiased"
          ? momentum === 0
            ? 1 / k
            : momentum / (1 - (1 - momentum) ** k)
          : momentum;
    for (let c = 0; c < mean.length; c++) {
      const [m, v] = [batch.mean[c] as number, batch.variance[c] as number];
      if (spec.estimator === "population") {
        const delta = m - (total ? (mean[c] as number) : 0);
        const share = batch.count / (total + batch.count);
        m2[c] = (m2[c] as number) + v * batch.count + delta * delta * total * share;
        mean[c] = (total ? (mean[c] as number) : 0) + delta * share;
        variance[c] = ((m2[c] as number) / (total + batch.count)) * correction(total + batch.count);
      } else {
        mean[c] = (1 - weight) * (mean[c] as number) + weight * m;
        variance[c] = (1 - weight) * (variance[c] as number) + weight * v * correction(batch.count);
      }
    }
    total += batch.count;
  }
  m2 = mean;
  return { mean, variance, batches: k };
}

function checkRunning(spec: Layered, l: ReturnType<typeof layerOf>, bn: Any): void {
  if (!l.tracks) {
    same("runningMean", bn.runningMean, null);
    return;
  }
  const list = l.updates ? expected(l.b).batches : [];
  const e = tracked(spec, l.own, list);
  const size = l.b.input.x.reduce((a, v) => Math.max(a, Math.abs(v)), 1);
  const u = spec.batch.dtype === "float64" ? 1e-12 : 2 ** -22;
  close("runningMean", bn.runningMean, e.mean, u, u * size);
  close("runningVariance", bn.runningVariance, e.variance, 2 * u, size * size * 1e-12);
  same("batchesTracked", bn.batchesTracked, e.batches);
}

/** A forward that is pending, so that a call which throws can be seen to leave it so. */
function withPending(l: ReturnType<typeof layerOf>, bn: Any) {
  const size = [4, l.b.channels, 3];
  const shape = shapeOf(size, l.batch.layout);
  const { dtype, seed } = l.batch;
  const x = operand(numbers(seed + 31, product(size), dtype, "normal"), shape, dtype, "plain");
  const dy = operand(numbers(seed + 32, product(size), dtype, "normal"), shape, dtype, "plain");
  bn.forward(x, { mode: l.tracks ? "frozen" : "batch" });
  return { state: () => layerBits(bn) + bits(x), probe: () => bits(bn.backward(dy)) };
}

const layerForward = generator(layers, (spec) => {
  const l = layerOf(spec);
  const bn = l.make();
  const pending = withPending(l, bn);
  return {
    receiver: bn,
    args: [l.b.give(l.b.input.x), l.calls],
    call: ([x, options], bn) => bn.forward(x, options),
    fails: l.fails,
    ...pending,
    check(y) {
      checkY(l.b, spec.batch.dtype, y);
      checkRunning(spec, l, bn);
    },
    before: [`const bn = new BatchNorm(${l.b.channels}, ${fc.stringify(l.options)}); // with other vectors`],
  };
});

const layerBackward = generator(layers, (raw) => {
  const spec = l0(raw);
  const l = layerOf(spec);
  const bn = l.make();
  const x = l.b.give(l.b.input.x);
  const { out, ...calls } = l.calls as Any;
  bn.forward(x, calls);
  const given = backwardOptions({ ...spec, batch: l.batch, inference: false } as Any, { ...l.b, problem: l.b.problem });
  return {
    receiver: bn,
    args: [l.b.give(l.b.input.dy), given],
    call: ([dy, options], bn) => bn.backward(dy, options),
    state: () => layerBits(bn) + bits(x),
    check: (g) =>
      checkGradients(
        l.b,
        l.batch.dtype,
        without(g, given),
        (given as Any).accumulate && l.batch.dtype !== "float64" ? { dGamma: g.dGamma ? undefined : false } : undefined,
      ),
    before: [
      `const bn = new BatchNorm(${l.b.channels}, ${fc.stringify(l.options)}); // with other vectors`,
      `bn.forward(x, ${fc.stringify(calls)});`,
    ],
  };
});

/** A description whose forward does not throw. */
function l0(spec: Layered): Layered {
  const plain: Layered =
    spec.vectorsOut === "accumulated" && spec.batch.dtype !== "float64" ? { ...spec, vectorsOut: "given" } : spec;
  return layerOf(plain).fails
    ? {
        ...plain,
        batch: {
          ...plain.batch,
          size: [4, plain.batch.size[1] as number, 2],
          ghostBatchSize: undefined,
          mask: undefined,
        },
      }
    : plain;
}

/** A group of one rank, or of two ranks with equal shards. */
const groupOf = (size: number, later: boolean) => {
  const finish = () => (later ? Promise.resolve() : undefined);
  return {
    rank: 0,
    size,
    sum(values: Float64Array) {
      for (let i = 0; i < values.length; i++) values[i] = (values[i] as number) * size;
      return finish();
    },
    gather(values: Float64Array, all: Float64Array) {
      for (let rank = 0; rank < size; rank++) all.set(values, rank * values.length);
      return finish();
    },
  };
};

/** A synchronised layer, alone in its group, which computes what a layer computes. */
const sync = (backwards: boolean, later: boolean) =>
  generator(layers, (raw) => {
    const batch: Batch = { ...raw.batch, ...NO_SAMPLES, ghostBatchSize: undefined };
    const masked = l0({ ...raw, batch, renorm: undefined });
    // a batch whose weights add up to at most 1 is refused, though BatchNorm takes it in mode "batch"
    const isLight = layerOf(masked, false).b.parts.every((part) => part.reduce((a, w) => a + w, 0) <= 1);
    const spec = isLight ? l0({ ...masked, batch: { ...masked.batch, mask: undefined } }) : masked;
    const l = layerOf(spec, false);
    const bn = l.make(groupOf(1, later));
    const x = l.b.give(l.b.input.x);
    const { out, ...calls } = l.calls as Any;
    // a group that answers later has no synchronous forward; the record of a frozen one needs no group
    if (backwards && !later) bn.forward(x, calls);
    const ready = backwards && later ? bn.forwardAsync(x, calls) : undefined;
    const dy = l.b.give(l.b.input.dy);
    return {
      receiver: bn,
      args: backwards ? [dy, {}] : [x, l.calls],
      async call([operand, options]: Any[], bn: Any) {
        await ready;
        return bn[`${backwards ? "backward" : "forward"}${later ? "Async" : ""}`](operand, options);
      },
      ...(ready ? {} : { state: () => layerBits(bn) }),
      check(result) {
        if (backwards) checkGradients(l.b, spec.batch.dtype, result);
        else {
          checkY(l.b, spec.batch.dtype, result);
          checkRunning(spec, l, bn);
        }
      },
    };
  });

const OPTIONS = fc.record(
  {
    preset: fc.constantFrom("pytorch", "keras", "tfjs", "onnx", "flax", "haiku", "paper"),
    layout: layouts,
    epsilon: fc.constantFrom(0, 1e-5, 1e-3, 2),
    momentum: fc.constantFrom(0, 0.1, 0.5, 1),
    scale: fc.boolean(),
    shift: fc.boolean(),
    affine: fc.boolean(),
    trackRunningStats: fc.boolean(),
    runningVariance: fc.constantFrom("unbiased", "biased"),
    estimator: fc.constantFrom("ema", "debiased", "cumulative", "population"),
    onNonFinite: fc.constantFrom("throw", "skip", "allow"),
    ghostBatchSize: fc.constantFrom(null, 1, 4),
    dtype: dtypes,
    activation: activations,
  },
  { requiredKeys: [] },
);

/** Checks a new layer against its options and the defaults in docs/reference/presets.md. */
function checkNew(bn: Any, channels: number, options: Any): void {
  const last = ["keras", "tfjs", "flax", "haiku"].includes(options.preset);
  const defaults: Any = {
    layout: last ? "channels-last" : "channels-first",
    epsilon: options.preset === "keras" || options.preset === "tfjs" ? 1e-3 : 1e-5,
    momentum: ["keras", "tfjs", "flax"].includes(options.preset) ? 0.01 : 0.1,
    runningVariance: last || options.preset === "onnx" ? "biased" : "unbiased",
    estimator: options.preset === "haiku" ? "debiased" : options.preset === "paper" ? "cumulative" : "ema",
    trackRunningStats: true,
    onNonFinite: "throw",
    ghostBatchSize: null,
    dtype: "float32",
    activation: "none",
  };
  const { preset, affine = true, scale = affine, shift = affine, group, ...others } = options;
  for (const [name, value] of Object.entries({
    ...defaults,
    ...others,
    scale: scale && affine,
    shift: shift && affine,
  }))
    same(`options.${name}`, bn.options[name], value);
  same("channels", bn.channels, channels);
  const Type = bn.options.dtype === "float64" ? Float64Array : Float32Array;
  const is = (name: string, value: Any, present: boolean, fill: number) => {
    same(`presence of ${name}`, value !== null, present);
    if (present)
      hold(value instanceof Type && value.length === channels && value.every((v) => v === fill), `${name}: ${value}`);
  };
  is("gamma", bn.gamma, bn.options.scale, 1);
  is("beta", bn.beta, bn.options.shift, 0);
  is("runningMean", bn.runningMean, bn.options.trackRunningStats, 0);
  is("runningVariance", bn.runningVariance, bn.options.trackRunningStats, 1);
  same("mode", bn.mode, "train");
  same("batchesTracked", bn.batchesTracked, 0);
  same("saved", bn.saved, undefined);
}

const news = fc.record({ channels: fc.integer({ min: 1, max: 6 }), options: OPTIONS });

const construct = generator(
  news,
  ({ channels, options }) => ({
    args: [channels, options],
    call: ([c, o]) => new lib.BatchNorm(c, o),
    check: (bn) => checkNew(bn, channels, options),
  }),
  true,
);

const constructSync = generator(
  news,
  ({ channels, options: { ghostBatchSize, ...options } }) => {
    const group = groupOf(1, false);
    return {
      args: [channels, { ...options, group }],
      call: ([c, o]) => new lib.SyncBatchNorm(c, o),
      check(bn) {
        checkNew(bn, channels, options);
        same("group", bn.group, group);
      },
    };
  },
  true,
);

/** A layer that has run, for methods that read or change it. */
const methods = fc.record({
  layer: layers,
  number: fc.double({ min: 0, max: 1, noNaN: true }),
  count: fc.integer({ min: 2, max: 50 }),
});
type Method = typeof methods extends fc.Arbitrary<infer T> ? T : never;

/** A generator of calls of a method on a layer that has run. */
function method(
  use: (bn: Any, spec: Method, l: ReturnType<typeof layerOf>) => Omit<Prepared, "receiver" | "state" | "probe">,
  changesPending = false,
): Generator<Method> {
  return generator(methods, (spec) => {
    const l = layerOf(l0(spec.layer), true);
    const bn = l.make();
    const pending = withPending(l, bn);
    const { probe, state } = pending;
    return { receiver: bn, state, ...(changesPending ? {} : { probe }), ...use(bn, spec, l) };
  });
}

/** A generator of reads of a property. */
const reads = (name: string, check: (value: Any, bn: Any, spec: Method, l: ReturnType<typeof layerOf>) => void) =>
  method((bn, spec, l) => ({ args: [], call: (_, bn) => bn[name], check: (value) => check(value, bn, spec, l) }));

/** A generator of assignments to a property. */
const assigns = (name: string, value: (bn: Any, spec: Method) => unknown) =>
  method((bn, spec) => ({
    args: [value(bn, spec)],
    call([v], bn) {
      bn[name] = v;
      return bn[name];
    },
    check(result) {
      const given = value(bn, spec);
      if (typeof given === "object") same(name, bits(result), bits(given));
      else same(name, result, given);
    },
  }));

/** Assigned arrays are used without a copy. A layer that lacks the vector refuses it. */
const assignsVector = (name: string) =>
  method((bn, spec) => {
    const fill = spec.number;
    const Type = bn.options.dtype === "float64" ? Float64Array : Float32Array;
    const given = new Type(bn.channels).fill(fill);
    return {
      args: [given],
      call([v], bn) {
        bn[name] = v;
        return bn[name];
      },
      ...(bn[name] === null && { fails: "TypeError" }),
      check: (result) => same(name, result, given),
    };
  });

const states = ["pytorch", "keras", "tfjs", "onnx", "flax", "haiku"] as const;
const frameworkOf = ({ count }: Method) => states[count % states.length] as (typeof states)[number];

export const LAYERS: Readonly<Record<string, Generator>> = {
  BatchNorm: construct,
  "BatchNorm.forward": layerForward,
  "BatchNorm.backward": layerBackward,
  "BatchNorm.channels": reads("channels", (value, _, { layer }) => same("channels", value, layer.batch.size[1])),
  "BatchNorm.options": reads("options", (value, bn) =>
    hold(Object.isFrozen(value) && value.epsilon === bn.epsilon, "options"),
  ),
  "BatchNorm.gamma": assignsVector("gamma"),
  "BatchNorm.beta": assignsVector("beta"),
  "BatchNorm.runningMean": assignsVector("runningMean"),
  "BatchNorm.runningVariance": assignsVector("runningVariance"),
  "BatchNorm.batchesTracked": reads("batchesTracked", (value) => same("batchesTracked", value, 0)),
  "BatchNorm.dGamma": reads("dGamma", (value) => same("dGamma", value, undefined)),
  "BatchNorm.dBeta": reads("dBeta", (value) => same("dBeta", value, undefined)),
  "BatchNorm.mode": assigns("mode", (_, { count }) => ["train", "batch", "eval", "frozen"][count % 4]),
  "BatchNorm.epsilon": assigns("epsilon", (_, { number }) => number),
  "BatchNorm.momentum": assigns("momentum", (_, { number }) => number * 0.8),
  "BatchNorm.renorm": method((bn, { number, count }) => {
    const given = count % 5 ? { rMax: 1 + number, dMax: number } : null;
    return {
      args: [given],
      call([v], bn) {
        bn.renorm = v;
        return bn.renorm;
      },
      ...(given && bn.runningMean === null && { fails: "TypeError" }),
      check: (result) => same("renorm", bits(result), bits(given)),
    };
  }),
  "BatchNorm.saved": reads("saved", (value) => hold(value !== undefined, "saved")),
  "BatchNorm.train": method((bn, { count }) => {
    const on = [true, false, undefined][count % 3];
    return {
      args: [on],
      call: ([v], bn) => bn.train(v),
      check: (result) => hold(result === bn && bn.mode === (on === false ? "eval" : "train"), "train"),
    };
  }),
  "BatchNorm.eval": method((bn) => ({
    args: [],
    call: (_, bn) => bn.eval(),
    check: (result) => hold(result === bn && bn.mode === "eval", "eval"),
  })),
  "BatchNorm.freeze": method((bn) => ({
    args: [],
    call: (_, bn) => bn.freeze(),
    ...(bn.runningMean === null && { fails: "no-running-statistics" }),
    check: (result) => hold(result === bn && bn.mode === "frozen", "freeze"),
  })),
  "BatchNorm.resetRunningStats": method((bn) => ({
    args: [],
    call: (_, bn) => bn.resetRunningStats(),
    check: () =>
      hold(
        bn.batchesTracked === 0 &&
          (bn.runningMean ?? []).every((v: number) => v === 0) &&
          (bn.runningVariance ?? []).every((v: number) => v === 1),
        "reset",
      ),
  })),
  "BatchNorm.clone": method((bn) => ({
    args: [],
    call: (_, bn) => bn.clone(),
    check(copy) {
      same("clone", layerBits(copy), layerBits(bn));
      for (const name of ["gamma", "beta", "runningMean", "runningVariance"])
        hold(copy[name] === null || copy[name] !== bn[name], name);
    },
  })),
  "BatchNorm.toJSON": method((bn) => ({
    args: [],
    call: (_, bn) => bn.toJSON(),
    check(json) {
      const copy = bn.clone();
      copy.resetRunningStats();
      copy.loadStateDict(JSON.parse(JSON.stringify(json)));
      same("toJSON", layerBits(copy), layerBits(bn));
    },
  })),
  "BatchNorm.stateDict": method((bn, spec) => {
    const options = {
      framework: frameworkOf(spec),
      ...(spec.count % 2 && { prefix: "layer1.bn" }),
      ...(spec.count % 3 === 0 && { count: spec.count }),
    };
    return {
      args: [options],
      call: ([o], bn) => bn.stateDict(o),
      check(state) {
        // a layer without any vector has no state to load
        if (Object.keys(state).length === 0) return;
        const copy = bn.clone();
        copy.resetRunningStats();
        const uncounted = options.framework !== "pytorch" && options.framework !== "haiku";
        copy.loadStateDict(state, options);
        for (const name of ["gamma", "beta", "runningMean", "runningVariance"])
          if (bn[name]) close(name, copy[name], bn[name], 1e-6);
        hold(uncounted || copy.batchesTracked === bn.batchesTracked, "batches");
      },
    };
  }),
  "BatchNorm.loadStateDict": method((bn, spec) => {
    const source = bn.clone();
    for (const v of [source.gamma, source.beta, source.runningMean]) v?.fill(spec.number);
    const options = { framework: frameworkOf(spec), prefix: "a.b", strict: spec.count % 2 === 0 };
    return {
      args: [source.stateDict({ framework: options.framework, prefix: "a.b" }), options],
      call: ([state, o], bn) => bn.loadStateDict(state, o),
      check(report) {
        for (const name of ["gamma", "beta", "runningMean", "runningVariance"])
          if (bn[name]) close(name, bn[name], source[name], 0);
        same("unexpected", report.unexpected.length, 0);
      },
    };
  }),
  "BatchNorm.toAffine": method((bn) => {
    const { activation } = bn.options;
    return {
      args: [activation === "none" ? {} : { activation }],
      call: ([options], bn) => bn.toAffine(options),
      ...(bn.runningMean === null && { fails: "no-running-statistics" }),
      check({ scale, shift }) {
        for (let c = 0; c < bn.channels; c++) {
          const s = (bn.gamma?.[c] ?? 1) / Math.sqrt(bn.runningVariance[c] + bn.epsilon);
          const rtol = bn.options.dtype === "float64" ? 1e-14 : 2 ** -23;
          close("scale", [scale[c]], [s], rtol);
          close("shift", [shift[c]], [(bn.beta?.[c] ?? 0) - bn.runningMean[c] * s], rtol, 1e-14 * 100 * Math.abs(s));
        }
      },
    };
  }),
  "BatchNorm.track": method((bn, spec, l) => {
    const batch = {
      count: spec.count,
      mean: numbers(spec.count, bn.channels, "float64", "normal"),
      variance: numbers(spec.count + 1, bn.channels, "float64", "normal").map((v) => v * v),
    };
    const before = { mean: bn.runningMean?.slice(), variance: bn.runningVariance?.slice() };
    return {
      args: [batch],
      call: ([s], bn) => bn.track(s),
      ...(bn.runningMean === null && { fails: "no-running-statistics" }),
      check() {
        const e = tracked(l0(spec.layer), before, [batch]);
        close("runningMean", bn.runningMean, e.mean, 1e-6, 1e-6);
        close("runningVariance", bn.runningVariance, e.variance, 1e-6, 1e-6);
        same("batchesTracked", bn.batchesTracked, 1);
        hold(l.tracks, "tracks");
      },
    };
  }),
  "BatchNorm.dispose": method(
    (bn) => ({ args: [], call: (_, bn) => bn.dispose(), check: () => hold(bn.channels > 0, "channels") }),
    true,
  ),
  "BatchNorm[Symbol.dispose]": method(
    (bn) => ({ args: [], call: (_, bn) => bn[Symbol.dispose](), check: () => hold(bn.channels > 0, "channels") }),
    true,
  ),
  SyncBatchNorm: constructSync,
  "SyncBatchNorm.forward": sync(false, false),
  "SyncBatchNorm.backward": sync(true, false),
  "SyncBatchNorm.forwardAsync": sync(false, true),
  "SyncBatchNorm.backwardAsync": sync(true, true),
  "SyncBatchNorm.dispose": generator(layers, (raw) => {
    const l = layerOf({ ...raw, renorm: undefined, batch: { ...raw.batch, ghostBatchSize: undefined } }, false);
    const bn = l.make(groupOf(2, false));
    return {
      receiver: bn,
      args: [],
      call: (_, bn) => bn.dispose(),
      check: () => {
        let code: unknown;
        try {
          bn.forward({ data: new Float32Array(0), shape: [0, bn.channels] } as Any);
        } catch (error) {
          code = (error as { code?: unknown }).code;
        }
        same("the code of a forward after dispose", code, "disposed");
      },
    };
  }),
  "SyncBatchNorm.clone": generator(layers, (raw) => {
    const l = layerOf({ ...raw, renorm: undefined, batch: { ...raw.batch, ghostBatchSize: undefined } }, false);
    const bn = l.make(groupOf(2, false));
    return {
      receiver: bn,
      args: [],
      call: (_, bn) => bn.clone(),
      check: (copy) => hold(layerBits(copy) === layerBits(bn) && copy.group === bn.group, "clone"),
    };
  }),
};
