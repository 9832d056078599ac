// Generators of calls of everything but batch normalization: other norms, tensors, statistics, states, files, folding,
// configurations, groups of ranks, and memory.

import fc from "fast-check";
import * as lib from "../../src/index.ts";
import { familyBackward, familyForward, groupsOf, rowsOf } from "../support/reference.ts";
import { close, type Generator, generator, hold, near, same } from "./generator.ts";
import {
  type Any,
  activations,
  arrayOf,
  bits,
  decode,
  dtypes,
  kinds,
  layouts,
  numbers,
  operand,
  product,
  seeds,
  shapeOf,
  sizes,
  vector,
} from "./values.ts";

// ---- other norms ----------------------------------------------------------------------------------------------------

const NORMS = ["instance", "group", "layer", "rms"] as const;
const norms = fc.record({
  size: sizes,
  layout: layouts,
  dtype: dtypes,
  kind: kinds,
  seed: seeds,
  epsilon: fc.constantFrom(undefined, 1e-5, 1e-3, 1),
  gamma: fc.boolean(),
  beta: fc.boolean(),
  out: fc.boolean(),
  groups: fc.integer({ min: 0, max: 5 }),
  axes: fc.integer({ min: 1, max: 3 }),
  norm: fc.constantFrom(...NORMS),
});
type Norm = typeof norms extends fc.Arbitrary<infer T> ? T : never;

const gates = {
  float32: { u: 2 ** -24, gate: 4, floor: 1e-8 },
  float64: { u: 2 ** -53, gate: 16, floor: 1e-10 },
  float16: { u: 2 ** -11, gate: 1.1, floor: 2 ** -24 },
  bfloat16: { u: 2 ** -8, gate: 1.1, floor: 1e-8 },
};

function normOf(spec: Norm) {
  const { size, dtype, kind, seed, norm } = spec;
  const byRows = norm === "layer" || norm === "rms";
  const shape = shapeOf(size, byRows ? "channels-first" : spec.layout);
  const [samples, channels, ...rest] = size as [number, number, ...number[]];
  const length = product(shape);
  const x = numbers(seed * 8 + 1, length, dtype, "normal");
  const dy = numbers(seed * 8 + 2, length, dtype, "normal");
  const divisors = [1, 2, 3, 4, 5, 6, 7, 8, 9].filter((d) => channels % d === 0);
  const groups = divisors[spec.groups % divisors.length] as number;
  const axes = shape.slice(-Math.min(spec.axes, shape.length));
  const entries = byRows ? product(axes) : channels;
  const member =
    length === 0
      ? undefined
      : byRows
        ? rowsOf(length, entries)
        : groupsOf(shape, spec.layout, norm === "instance" ? channels : groups);
  const few = (k: number) => Float64Array.from(vector(numbers(seed * 8 + k, entries, "float64", "normal"), dtype));
  const gamma = spec.gamma ? few(4) : undefined;
  const beta = spec.beta && norm !== "rms" ? few(5) : undefined;
  const epsilon = spec.epsilon ?? (norm === "rms" ? (dtype === "float64" ? 2 ** -52 : 2 ** -23) : 1e-5);
  const give = (v: ArrayLike<number>) => operand(v, shape, dtype, kind);
  const parameters = { ...(gamma && { gamma: vector(gamma, dtype) }), ...(beta && { beta: vector(beta, dtype) }) };
  const options = {
    ...(!byRows && spec.layout === "channels-last" && { layout: spec.layout }),
    ...(spec.epsilon !== undefined && { epsilon: spec.epsilon }),
    ...(spec.out && { out: give(new Float64Array(length)) }),
  };
  const inner = product(rest);
  const one = !byRows && samples > 0 && inner === 1 && (norm === "instance" || (samples * channels) / groups === 1);
  const args = {
    instance: [],
    group: [groups],
    layer: [axes.length === 1 && spec.seed % 2 ? axes[0] : axes],
    rms: [axes.length === 1 && spec.seed % 2 ? axes[0] : axes],
  }[norm];
  const e = member && familyForward(x, member, epsilon, gamma, beta, norm !== "rms");
  const call = {
    instance: lib.instanceNormForward,
    group: lib.groupNormForward,
    layer: lib.layerNormForward,
    rms: lib.rmsNormForward,
  }[norm] as Any;
  return { x, dy, give, parameters, options, one, args, call, member, e, gamma, beta, length, entries };
}

const normForward = (norm: Norm["norm"]) =>
  generator(norms, (raw) => {
    const spec = { ...raw, norm };
    const n = normOf(spec);
    return {
      args: [n.give(n.x), ...n.args, n.parameters, n.options],
      call: (args) => n.call(...args),
      fails: n.one ? "one-value-per-channel" : undefined,
      check(result) {
        if (!n.e || !n.member) return same("y.length", result.y.data.length, 0);
        const { group } = n.member;
        near("y", decode(result.y), n.e.y, n.e.scale, gates[spec.dtype], (i) => group[i] as number);
        if (norm !== "rms") close("mean", result.mean, n.e.mean, 2 ** -23, 1e-6);
        close("invStd", result.invStd, n.e.invStd, 1e-6);
        same("count", result.count, n.e.count[0]);
      },
    };
  });

const normBackward = generator(norms, (raw) => {
  const spec = normOf(raw).one ? { ...raw, norm: "layer" as const } : raw;
  const n = normOf(spec);
  const { out, ...options } = n.options as Any;
  const x = n.give(n.x);
  const { saved } = n.call(x, ...n.args, n.parameters, options);
  const given = { ...(spec.out && { dxOut: n.give(new Float64Array(n.length)) }) };
  return {
    args: [n.give(n.dy), saved, given],
    call: ([dy, record, options]) => lib.normBackward(dy, record, options),
    state: () => bits(x),
    check(g) {
      if (!n.e || !n.member) return;
      const { group } = n.member;
      const e = familyBackward(n.dy, n.member, n.e, n.gamma, spec.norm !== "rms");
      near("dx", decode(g.dx), e.dx, e.dxScale, gates[spec.dtype], (i) => group[i] as number);
      const wide = spec.dtype === "float64" ? gates.float64 : gates.float32;
      if (n.gamma) near("dGamma", g.dGamma, e.dGamma, e.dGammaScale, wide);
      else same("dGamma", g.dGamma, undefined);
      if (n.beta) near("dBeta", g.dBeta, e.dBeta, e.dBetaScale, wide);
      else same("dBeta", g.dBeta, undefined);
    },
  };
});

const FORMATS = ["OI", "IO", "OIHW", "IOHW", "HWIO", "HWOI", "HWIM"] as const;
const weights = fc.record({
  format: fc.constantFrom(...FORMATS),
  dims: fc.tuple(
    fc.integer({ min: 1, max: 5 }),
    fc.integer({ min: 1, max: 5 }),
    fc.integer({ min: 1, max: 4 }),
    fc.integer({ min: 1, max: 4 }),
  ),
  dtype: dtypes,
  kind: kinds,
  seed: seeds,
  out: fc.boolean(),
});

/** Returns the number of outputs of a weight, and the output of an element by its index. */
function outputsOf(format: string, shape: readonly number[]) {
  const strides = shape.map((_, axis) => product(shape.slice(axis + 1)));
  const index = (i: number, axis: number) => Math.floor(i / (strides[axis] as number)) % (shape[axis] as number);
  if (format === "HWIM")
    return {
      outputs: (shape[2] as number) * (shape[3] as number),
      of: (i: number) => index(i, 2) * (shape[3] as number) + index(i, 3),
    };
  const axis = format.indexOf("O");
  return { outputs: shape[axis] as number, of: (i: number) => index(i, axis) };
}

const weightNorm = generator(weights, ({ format, dims, dtype, kind, seed, out }) => {
  const shape = dims.slice(0, format.length);
  const { outputs, of } = outputsOf(format, shape);
  const v = numbers(seed + 1, product(shape), dtype, "normal");
  const g = Float64Array.from(vector(numbers(seed + 2, outputs, "float64", "normal"), dtype));
  const give = (values: ArrayLike<number>) => operand(values, shape, dtype, kind);
  return {
    args: [give(v), vector(g, dtype), { format, ...(out && { out: give(new Float64Array(v.length)) }) }],
    call: ([v, g, options]) => lib.weightNormForward(v, g, options),
    check({ y, norm }) {
      const squares = new Float64Array(outputs);
      v.forEach((value, i) => {
        squares[of(i)] = (squares[of(i)] as number) + value * value;
      });
      close("norm", norm, squares.map(Math.sqrt), dtype === "float64" ? 1e-14 : 1e-6);
      const e = v.map((value, i) => ((g[of(i)] as number) * value) / Math.sqrt(squares[of(i)] as number) || 0);
      near("y", decode(y), e, e.map(Math.abs), gates[dtype], of);
    },
  };
});

// ---- tensors --------------------------------------------------------------------------------------------------------

const tensors = fc.record({
  shape: fc.array(fc.integer({ min: 0, max: 5 }), { maxLength: 4 }),
  dtype: dtypes,
  seed: seeds,
  how: fc.constantFrom("array", "list", "none"),
});

const makeTensor = (make: () => typeof lib.tensor) =>
  generator(tensors, ({ shape, dtype, seed, how }) => {
    const values = numbers(seed, product(shape), dtype, "eighths");
    const isBits = dtype === "float16" || dtype === "bfloat16";
    // a list of numbers for 16-bit types would be ambiguous, which docs/dtypes.md says
    const data = how === "none" ? undefined : how === "list" && !isBits ? Array.from(values) : arrayOf(values, dtype);
    return {
      args: [shape, data, { dtype }],
      call: ([shape, data, options]) => make()(shape, data, options),
      check(t) {
        close("data", decode(t), how === "none" ? values.map(() => 0) : values, 0);
        same("shape", t.shape.join(), shape.join());
        same("dtype", t.dtype, dtype);
        same("length", t.length, values.length);
        same("disposed", t.disposed, false);
      },
    };
  });

const tensorMember = (name: string | symbol, check: (value: Any, t: Any) => void) =>
  generator(tensors, ({ shape, dtype, seed }) => {
    const t = lib.tensor(shape, arrayOf(numbers(seed, product(shape), dtype, "eighths"), dtype), { dtype });
    return {
      receiver: t,
      args: [],
      call: (_, t) => (typeof t[name] === "function" ? t[name]() : t[name]),
      check: (value) => check(value, t),
    };
  });

const toFloat32 = generator(tensors, ({ shape, dtype, seed }) => {
  const values = numbers(seed, product(shape), dtype, "normal");
  return {
    args: [operand(values, shape, dtype, "file")],
    call: ([t]) => lib.toFloat32(t),
    check(result) {
      hold(result instanceof Float32Array, "a Float32Array");
      close("toFloat32", result, Float32Array.from(values), 0);
    },
  };
});

// ---- statistics -----------------------------------------------------------------------------------------------------

const parts = fc.record({
  channels: fc.integer({ min: 1, max: 5 }),
  counts: fc.array(fc.integer({ min: 0, max: 9 }), { minLength: 1, maxLength: 6 }),
  seed: seeds,
});
const partsOf = ({ channels, counts, seed }: { channels: number; counts: number[]; seed: number }) =>
  counts.map((count, i) => {
    const values = Array.from({ length: channels }, (_, c) => numbers(seed + 16 * i + c, count, "float64", "normal"));
    const mean = Float64Array.from(values, (v) => (count ? v.reduce((a, b) => a + b, 0) / count : 0));
    const variance = Float64Array.from(values, (v, c) =>
      count ? v.reduce((a, b) => a + (b - (mean[c] as number)) ** 2, 0) / count : 0,
    );
    return { values, statistics: { count, mean, variance } };
  });

const merge = generator(parts, (spec) => {
  const list = partsOf(spec);
  return {
    args: [list.map((p) => p.statistics)],
    call: ([statistics]) => lib.mergeStatistics(statistics),
    check({ count, mean, variance }) {
      const all = Array.from({ length: spec.channels }, (_, c) =>
        list.flatMap((p) => Array.from(p.values[c] as Float64Array)),
      );
      same("count", count, (all[0] as number[]).length);
      if (!count) return;
      const means = all.map((v) => v.reduce((a, b) => a + b, 0) / count);
      close("mean", mean, means, 1e-12, 1e-13);
      close(
        "variance",
        variance,
        all.map((v, c) => v.reduce((a, b) => a + (b - (means[c] as number)) ** 2, 0) / count),
        1e-12,
        1e-13,
      );
    },
  };
});

const pack = generator(parts, (spec) => {
  const { statistics } = partsOf(spec)[0] as { statistics: lib.BatchStatistics };
  return {
    args: [statistics],
    call: ([s]) => lib.packStatistics(s),
    check: (packed) =>
      close(
        "packed",
        packed,
        [statistics.count, ...statistics.mean, ...statistics.variance.map((v) => v * statistics.count)],
        0,
      ),
  };
});

const unpack = generator(parts, (spec) => {
  const { statistics } = partsOf(spec)[0] as { statistics: lib.BatchStatistics };
  return {
    args: [lib.packStatistics(statistics)],
    call: ([packed]) => lib.unpackStatistics(packed),
    check({ count, mean, variance }) {
      same("count", count, statistics.count);
      close("mean", mean, statistics.mean, 0);
      close("variance", variance, count ? statistics.variance : statistics.variance.map(() => 0), 1e-15);
    },
  };
});

// ---- states, files and folding --------------------------------------------------------------------------------------

const FILE_TYPES: Any = {
  F32: Float32Array,
  F64: Float64Array,
  I64: BigInt64Array,
  U8: Uint8Array,
  I32: Int32Array,
  BF16: Uint16Array,
  F16: Uint16Array,
  BOOL: Uint8Array,
  I8: Int8Array,
};
const files = fc.record({
  tensors: fc.dictionary(
    fc.oneof(
      fc.constantFrom("weight", "bias", "a.b", "__proto__", "é\u{1f600}", '"\\', ""),
      fc.string({ maxLength: 6 }),
    ),
    fc.record({
      dtype: fc.constantFrom(...Object.keys(FILE_TYPES)),
      shape: fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 3 }),
      seed: seeds,
    }),
    { maxKeys: 4 },
  ),
  metadata: fc.dictionary(fc.string({ maxLength: 5 }), fc.string({ maxLength: 5 }), { maxKeys: 2 }),
});
type File = typeof files extends fc.Arbitrary<infer T> ? T : never;
/** Lone surrogates have no bytes in UTF-8. */
const wellFormed = (text: string) => text.replace(/[\ud800-\udfff]/gu, "?");
const contentOf = ({ tensors, metadata }: File) => {
  const content: Any = Object.create(null);
  for (const [name, { dtype, shape, seed }] of Object.entries(tensors)) {
    if (name === "__metadata__") continue;
    const values = numbers(seed, product(shape), "float64", "eighths");
    const data = FILE_TYPES[dtype].from(dtype === "I64" ? Array.from(values, (v) => BigInt(Math.round(v))) : values);
    content[wellFormed(name)] = { dtype, shape, data };
  }
  return {
    content: { ...content },
    metadata: Object.fromEntries(Object.entries(metadata).map((pair) => pair.map(wellFormed))),
  };
};
const sameContent = (file: Any, { content, metadata }: ReturnType<typeof contentOf>) => {
  same("names", Object.keys(file.tensors).sort().join(), Object.keys(content).sort().join());
  for (const name of Object.keys(content)) same(name, bits({ ...file.tensors[name] }), bits({ ...content[name] }));
  same("metadata", bits({ ...file.metadata }), bits(metadata));
};

const write = generator(files, (spec) => {
  const expected = contentOf(spec);
  return {
    args: [expected.content, expected.metadata],
    call: ([tensors, metadata]) => lib.writeSafetensors(tensors, metadata),
    check: (file) => sameContent(lib.readSafetensors(file), expected),
  };
});

const read = generator(files, (spec) => {
  const expected = contentOf(spec);
  return {
    args: [lib.writeSafetensors(expected.content, expected.metadata)],
    call: ([file]) => lib.readSafetensors(file),
    check: (file) => sameContent(file, expected),
  };
});

const merged = generator(parts, (spec) => {
  const counts = spec.counts.map((count) => count + 2);
  const list = partsOf({ ...spec, counts });
  const given = list.map(({ statistics: { count, mean, variance } }, i) => ({
    count,
    state: {
      weight: numbers(spec.seed + i + 100, spec.channels, "float64", "normal"),
      running_mean: mean,
      running_var: variance.map((v) => (v * count) / (count - 1)),
      num_batches_tracked: i,
    },
  }));
  return {
    args: [given, {}],
    call: ([parts, options]) => lib.mergeStates(parts, options),
    check(state) {
      const e = lib.mergeStatistics(list.map((p) => p.statistics));
      close("running_mean", state.running_mean, e.mean, 1e-12, 1e-13);
      close(
        "running_var",
        state.running_var,
        e.variance.map((v) => (v * e.count) / (e.count - 1)),
        1e-12,
        1e-13,
      );
      const weight = Array.from({ length: spec.channels }, (_, c) =>
        given.reduce((a, { count, state }) => a + (count / e.count) * (state.weight[c] as number), 0),
      );
      close("weight", state.weight, weight, 1e-12, 1e-13);
      same(
        "num_batches_tracked",
        state.num_batches_tracked,
        given.reduce((a, _, i) => a + i, 0),
      );
    },
  };
});

const folds = fc.record({
  format: fc.constantFrom(...FORMATS),
  dims: fc.tuple(
    fc.integer({ min: 1, max: 4 }),
    fc.integer({ min: 1, max: 4 }),
    fc.integer({ min: 1, max: 3 }),
    fc.integer({ min: 1, max: 3 }),
  ),
  groups: fc.integer({ min: 1, max: 2 }),
  dtype: dtypes,
  source: fc.constantFrom("layer", "object"),
  wide: fc.boolean(),
  bias: fc.boolean(),
  gamma: fc.boolean(),
  beta: fc.boolean(),
  activation: activations,
  seed: seeds,
});
type Fold = typeof folds extends fc.Arbitrary<infer T> ? T : never;

/** A source to fold, its numbers, and its exact scale and shift. */
function sourceOf({ source, wide, gamma, beta, activation, seed }: Fold, channels: number) {
  const dtype = wide ? "float64" : "float32";
  const few = (k: number) => numbers(seed * 8 + k, channels, dtype, "normal");
  const n = {
    gamma: gamma ? few(1) : undefined,
    beta: beta ? few(2) : undefined,
    mean: few(3),
    variance: few(4).map((v) => Math.fround(v * v + 0.25)),
  };
  const epsilon = 1e-3;
  let bn: Any;
  if (source === "layer") {
    bn = new lib.BatchNorm(channels, { dtype, epsilon, scale: gamma, shift: beta, activation });
    bn.gamma?.set(n.gamma);
    bn.beta?.set(n.beta);
    bn.runningMean.set(n.mean);
    bn.runningVariance.set(n.variance);
  } else {
    const v = (values: Float64Array | undefined) => values && vector(values, dtype);
    bn = {
      ...(n.gamma && { gamma: v(n.gamma) }),
      ...(n.beta && { beta: v(n.beta) }),
      runningMean: v(n.mean),
      runningVariance: v(n.variance),
      options: { epsilon, activation },
    };
  }
  const scale = n.variance.map((v, c) => (n.gamma?.[c] ?? 1) / Math.sqrt(v + epsilon));
  const options = activation === "none" ? {} : { activation };
  return { bn, scale, n, options, rtol: wide ? 1e-14 : 2 ** -23 };
}

const fold = (isLinear: boolean) =>
  generator(folds, (raw) => {
    const spec = {
      ...raw,
      format: isLinear
        ? raw.format.length === 2
          ? raw.format
          : "OI"
        : raw.format.length === 4
          ? raw.format
          : ("OIHW" as const),
    };
    const groups = spec.format === "IOHW" && (spec.dims[0] as number) % spec.groups === 0 ? spec.groups : 1;
    const shape = spec.dims.slice(0, isLinear ? 2 : 4);
    const { outputs, of } = outputsOf(spec.format, shape);
    const channels = outputs * groups;
    const { bn, scale, n, options } = sourceOf(spec, channels);
    const weight = numbers(spec.seed * 8 + 6, product(shape), spec.dtype, "eighths");
    const bias = spec.bias ? numbers(spec.seed * 8 + 7, channels, spec.dtype, "eighths") : undefined;
    const layer = {
      weight: operand(weight, shape, spec.dtype, "plain"),
      ...(bias && { bias: arrayOf(bias, spec.dtype) }),
    };
    const given = { format: spec.format, ...(groups > 1 && { groups }), ...options };
    return {
      args: [layer, bn, given],
      call: ([layer, bn, options]) => (isLinear ? lib.foldIntoLinear : (lib.foldIntoConv as Any))(layer, bn, options),
      check(folded) {
        const perGroup = weight.length / groups;
        const e = weight.map((v, i) => v * (scale[Math.floor(i / perGroup) * outputs + of(i)] as number));
        const ulp = { float32: 2 ** -24, float64: 1e-15, float16: 2 ** -11, bfloat16: 2 ** -8 }[spec.dtype] * 1.001;
        const tiny = spec.dtype === "float16" ? 2 ** -24 : 1e-30;
        close("weight", decode(folded.weight), e, ulp, tiny);
        const shift = scale.map((s, c) => (n.beta?.[c] ?? 0) - ((n.mean[c] as number) - (bias?.[c] ?? 0)) * s);
        close("bias", decode({ data: folded.bias, dtype: spec.dtype }), shift, ulp, tiny + 1e-13);
      },
    };
  });

const toAffine = generator(folds, (spec) => {
  const { bn, scale, n, options, rtol } = sourceOf(spec, spec.dims[0]);
  return {
    args: [bn, options],
    call: ([bn, options]) => lib.toAffine(bn, options),
    check(affine) {
      close("scale", affine.scale, scale, rtol);
      close(
        "shift",
        affine.shift,
        scale.map((s, c) => (n.beta?.[c] ?? 0) - (n.mean[c] as number) * s),
        rtol,
        1e-13,
      );
    },
  };
});

const fromAffine = generator(folds, (spec) => {
  const { bn, scale, n, options, rtol } = sourceOf(spec, spec.dims[0]);
  const shift = scale.map((s, c) => (n.beta?.[c] ?? 0) - (n.mean[c] as number) * s);
  return {
    args: [{ scale, shift }, bn, options],
    call: ([affine, bn, options]) => lib.fromAffine(affine, bn, options),
    check({ gamma, beta }) {
      close(
        "gamma",
        gamma,
        scale.map((_, c) => n.gamma?.[c] ?? 1),
        rtol * 2,
        1e-13,
      );
      close(
        "beta",
        beta,
        scale.map((_, c) => n.beta?.[c] ?? 0),
        rtol * 2,
        1e-13,
      );
    },
  };
});

// ---- configurations -------------------------------------------------------------------------------------------------

const configs = fc.record({
  framework: fc.constantFrom(
    "pytorch" as const,
    "keras" as const,
    "tfjs" as const,
    "onnx" as const,
    "flax" as const,
    "haiku" as const,
  ),
  momentum: fc.constantFrom(0, 0.1, 0.25, 0.5, 1),
  epsilon: fc.constantFrom(0, 1e-5, 1e-3),
  scale: fc.boolean(),
  shift: fc.boolean(),
  first: fc.boolean(),
});
type Config = typeof configs extends fc.Arbitrary<infer T> ? T : never;
/** The options of a layer that the framework has, too, and its config. */
function configOf({ framework, momentum, epsilon, scale, shift, first }: Config) {
  const both = framework === "onnx" || (framework === "pytorch" && scale);
  const [s, b] = framework === "pytorch" ? [scale, scale] : both ? [true, true] : [scale, shift];
  const isFirst = framework === "pytorch" || framework === "onnx" || first;
  const bn = new lib.BatchNorm(2, {
    layout: isFirst ? "channels-first" : "channels-last",
    epsilon,
    ...(framework === "pytorch" ? { momentum } : { decay: 1 - momentum }),
    scale: s,
    shift: b,
    estimator: framework === "haiku" ? "debiased" : "ema",
    runningVariance: framework === "pytorch" ? "unbiased" : "biased",
  });
  const config: Any = {
    pytorch: { eps: epsilon, momentum, affine: s, track_running_stats: true },
    keras: { axis: isFirst ? 1 : -1, momentum: 1 - momentum, epsilon, center: b, scale: s },
    tfjs: { axis: isFirst ? 1 : -1, momentum: 1 - momentum, epsilon, center: b, scale: s },
    onnx: { momentum: 1 - momentum, epsilon },
    flax: { axis: isFirst ? 1 : -1, momentum: 1 - momentum, epsilon, use_scale: s, use_bias: b },
    haiku: {
      create_scale: s,
      create_offset: b,
      decay_rate: 1 - momentum,
      eps: epsilon,
      data_format: isFirst ? "channels_first" : "channels_last",
    },
  }[framework];
  return { options: bn.options, config };
}

const configFor = generator(configs, (spec) => {
  const { options, config } = configOf(spec);
  return {
    args: [spec.framework, options],
    call: ([framework, options]) => lib.configFor(framework, options),
    check(result) {
      same("keys", Object.keys(result).sort().join(), Object.keys(config).sort().join());
      for (const key of Object.keys(config)) same(key, result[key], config[key]);
    },
  };
});

const optionsFrom = generator(configs, (spec) => {
  const { options, config } = configOf(spec);
  return {
    args: [spec.framework, config],
    call: ([framework, config]) => lib.optionsFrom(framework, config),
    check: (result) => same("options", bits(new lib.BatchNorm(2, result).options), bits(options)),
  };
});

// ---- diagnosis and recalibration ------------------------------------------------------------------------------------

const diagnoses = fc.record({
  channels: fc.integer({ min: 1, max: 4 }),
  samples: fc.integer({ min: 2, max: 9 }),
  dtype: dtypes,
  kind: kinds,
  seed: seeds,
  residual: fc.boolean(),
  activation: activations,
  rows: fc.integer({ min: 1, max: 5 }),
});
type Diagnosed = typeof diagnoses extends fc.Arbitrary<infer T> ? T : never;
function diagnosed({ channels, samples, dtype, kind, seed, residual, activation }: Diagnosed) {
  const bn: Any = new lib.BatchNorm(channels, { dtype });
  bn.runningMean.set(numbers(seed + 1, channels, "float32", "normal"));
  bn.runningVariance.set(numbers(seed + 2, channels, "float32", "normal").map((v) => v * v + 0.5));
  const shape = [samples, channels];
  const x = numbers(seed + 3, samples * channels, dtype, "normal");
  const options = {
    ...(residual && { residual: operand(numbers(seed + 4, x.length, dtype, "normal"), shape, dtype, kind) }),
    ...(activation !== "none" && { activation }),
  };
  return { bn, x, options, operand: operand(x, shape, dtype, kind) };
}

const diagnose = generator(diagnoses, (spec) => {
  const d = diagnosed(spec);
  return {
    args: [d.bn, d.operand, d.options],
    call: ([bn, x, options]) => lib.diagnose(bn, x, options),
    state: () => bits(d.bn),
    check(result) {
      same("count", result.count, spec.samples);
      for (let c = 0; c < spec.channels; c++) {
        const values = Array.from({ length: spec.samples }, (_, n) => d.x[n * spec.channels + c] as number);
        const mean = values.reduce((a, b) => a + b, 0) / spec.samples;
        const variance = values.reduce((a, b) => a + (b - mean) ** 2, 0) / (spec.samples - 1);
        const own = d.bn.runningVariance[c] + d.bn.epsilon;
        close("meanDrift", [result.meanDrift[c]], [(mean - d.bn.runningMean[c]) / Math.sqrt(own)], 1e-6, 1e-6);
        close("varianceRatio", [result.varianceRatio[c]], [(variance + d.bn.epsilon) / own], 1e-6, 1e-6);
      }
    },
  };
});

const diagnosis = (name: string, args: (spec: Diagnosed) => unknown[]) =>
  generator(diagnoses, (spec) => {
    const d = diagnosed(spec);
    const result: Any = lib.diagnose(d.bn, d.operand as Any, d.options as Any);
    return {
      receiver: result,
      args: args(spec),
      call: (args, receiver) => receiver[name](...args),
      check: (text) =>
        hold(typeof text === "string" && text.split("\n").length > Math.min(spec.rows, spec.channels), "a table"),
    };
  });

const recalibrate = generator(diagnoses, (spec) => {
  const d = diagnosed(spec);
  return {
    args: [d.bn, [d.operand, d.operand], { estimator: "population" }],
    call: ([bn, batches, options]) => lib.recalibrate(bn, batches, options),
    state: () => bits(d.bn),
    check() {
      for (let c = 0; c < spec.channels; c++) {
        const values = Array.from(
          { length: 2 * spec.samples },
          (_, n) => d.x[(n % spec.samples) * spec.channels + c] as number,
        );
        const mean = values.reduce((a, b) => a + b, 0) / values.length;
        close("runningMean", [d.bn.runningMean[c]], [mean], 1e-6, 1e-6);
        close(
          "runningVariance",
          [d.bn.runningVariance[c]],
          [values.reduce((a, b) => a + (b - mean) ** 2, 0) / (values.length - 1)],
          2e-6,
          1e-6,
        );
      }
      same("batchesTracked", d.bn.batchesTracked, 2);
    },
  };
});

// ---- groups and memory ----------------------------------------------------------------------------------------------

const sizesOfGroups = fc.record({
  size: fc.integer({ min: 1, max: 4 }),
  capacity: fc.integer({ min: 1, max: 16 }),
  seed: seeds,
  timeoutMs: fc.integer({ min: 1, max: 5000 }),
});
const closePorts = (list: Any) => {
  for (const { ports } of list) for (const port of ports) port.close();
};

const messagePorts = generator(
  sizesOfGroups,
  ({ size }) => ({
    args: [size],
    call: ([size]) => lib.createMessagePorts(size),
    check(list) {
      same("ranks", list.length, size);
      for (const [rank, entry] of list.entries()) {
        same("rank", entry.rank, rank);
        same("ports", entry.ports.length, rank ? 1 : size - 1);
      }
      closePorts(list);
    },
  }),
  true,
);

const portGroup = generator(sizesOfGroups, ({ timeoutMs, seed }) => {
  const [ports] = lib.createMessagePorts(1);
  return {
    args: [ports, { timeoutMs }],
    call: ([ports, options]) => lib.messagePortGroup(ports, options),
    async check(group) {
      const values = numbers(seed, 3, "float64", "normal");
      const sum = values.slice();
      await group.sum(sum);
      close("sum", sum, values, 0);
      const all = new Float64Array(3);
      await group.gather(values, all);
      close("gather", all, values, 0);
      group.close();
    },
  };
});

const groupMemory = generator(
  sizesOfGroups,
  ({ size, capacity }) => ({
    args: [size, capacity],
    call: ([size, capacity]) => lib.createGroupMemory(size, capacity),
    check: (memory) => hold(memory instanceof SharedArrayBuffer && memory.byteLength >= 16 * size * capacity, "memory"),
  }),
  true,
);

const sharedGroup = generator(sizesOfGroups, ({ capacity, seed, timeoutMs }) => ({
  args: [lib.createGroupMemory(1, capacity), 0, { timeoutMs }],
  call: ([memory, rank, options]) => lib.sharedMemoryGroup(memory, rank, options),
  check(group) {
    const values = numbers(seed, 20, "float64", "normal");
    const sum = values.slice();
    group.sum(sum);
    close("sum", sum, values, 0);
    const all = new Float64Array(20);
    group.gather(values, all);
    close("gather", all, values, 0);
  },
}));

/** The allocator of a program that never frees, in a memory of its own. */
const owner = () => {
  const memory = new WebAssembly.Memory({ initial: 4 });
  let top = 1024;
  return {
    memory,
    malloc(bytes: number) {
      const pointer = top;
      top += Math.ceil(bytes / 8) * 8;
      const missing = top - memory.buffer.byteLength;
      if (missing > 0) memory.grow(Math.ceil(missing / 65536));
      return pointer;
    },
    free: () => undefined,
  };
};

const attach = generator(tensors, ({ seed }) => ({
  args: [owner()],
  call: ([owner]) => lib.attachMemory(owner),
  check({ tensor }) {
    const values = numbers(seed, 12, "float32", "normal");
    const { y } = lib.batchNormForward(tensor([4, 3], Float32Array.from(values)));
    const plain = lib.batchNormForward({ data: Float32Array.from(values), shape: [4, 3] });
    same("y", bits(y.data.slice()), bits(plain.y.data));
  },
}));

const tensorAt = generator(tensors, ({ shape, dtype, seed }) => {
  const own = owner();
  const attached = lib.attachMemory(own);
  const values = numbers(seed, product(shape), dtype, "eighths");
  const data = arrayOf(values, dtype);
  new Uint8Array(own.memory.buffer, 4096).set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  return {
    args: [4096, shape, { dtype }],
    call: ([pointer, shape, options]) => attached.tensorAt(pointer, shape, options),
    check(t) {
      close("data", decode(t), values, 0);
      t.dispose();
    },
  };
});

const nothing = fc.constant(0);

/** A class that users do not construct: its constructor is for internal use, and throws TypeError for anything else. */
const internal = (Type: Any) =>
  generator(nothing, () => ({
    args: [],
    call() {
      try {
        return new Type();
      } catch (error) {
        return (error as Error).name;
      }
    },
    check: (name) => same("constructor", name, "TypeError"),
  }));

export const OTHERS: Readonly<Record<string, Generator>> = {
  instanceNormForward: normForward("instance"),
  groupNormForward: normForward("group"),
  layerNormForward: normForward("layer"),
  rmsNormForward: normForward("rms"),
  normBackward,
  weightNormForward: weightNorm,
  tensor: makeTensor(() => lib.tensor),
  Tensor: internal(lib.Tensor),
  "Tensor.length": tensorMember("length", (value, t) => same("length", value, product(t.shape))),
  "Tensor.disposed": tensorMember("disposed", (value) => same("disposed", value, false)),
  "Tensor.data": tensorMember("data", (value, t) => same("data.length", value.length, t.length)),
  "Tensor.dispose": tensorMember("dispose", (_, t) => same("disposed", t.disposed, true)),
  "Tensor[Symbol.dispose]": tensorMember(Symbol.dispose, (_, t) => same("disposed", t.disposed, true)),
  toFloat32,
  mergeStatistics: merge,
  packStatistics: pack,
  unpackStatistics: unpack,
  writeSafetensors: write,
  readSafetensors: read,
  mergeStates: merged,
  foldIntoLinear: fold(true),
  foldIntoConv: fold(false),
  toAffine,
  fromAffine,
  configFor,
  optionsFrom,
  diagnose,
  Diagnosis: internal(lib.Diagnosis),
  "Diagnosis.table": diagnosis("table", ({ rows }) => [rows]),
  "Diagnosis.toString": diagnosis("toString", () => []),
  recalibrate,
  createMessagePorts: messagePorts,
  messagePortGroup: portGroup,
  createGroupMemory: groupMemory,
  sharedMemoryGroup: sharedGroup,
  attachMemory: attach,
  "attachMemory().tensorAt": tensorAt,
  "attachMemory().tensor": makeTensor(() => lib.attachMemory(owner()).tensor),
  kernelInfo: generator(nothing, () => ({
    args: [],
    call: () => lib.kernelInfo(),
    check: (info) => hold(info.threads >= 1 && typeof info.build === "string", "info"),
  })),
  init: generator(
    fc.constantFrom<Any>({}, { threads: undefined }, { checks: false }),
    (options) => ({ args: [options], call: ([options]) => lib.init(options) }),
    true,
  ),
  stopThreads: generator(nothing, () => ({
    args: [],
    call: () => lib.stopThreads(),
    check: () => same("threads", lib.kernelInfo().threads, 1),
  })),
  BatchNormError: generator(fc.record({ message: fc.string() }), ({ message }) => ({
    args: [],
    call() {
      const error = new lib.BatchNormError("disposed", message);
      return [error.name, error.code, error.message];
    },
    check: (fields) => same("error", fields.join(), ["BatchNormError", "disposed", message].join()),
  })),
  "BatchNormError[Symbol.hasInstance]": generator(fc.record({ value: fc.anything() }), ({ value }) => ({
    args: [value],
    call: ([value]) => value instanceof lib.BatchNormError,
    check: (is) => same("instanceof", is, false),
  })),
};
