// Generators of calls of what passes between layers and other programs: states, files, folding, and configurations.

import fc from "fast-check";
import * as lib from "../../src/index.ts";
import { close, type Generator, generator, same } from "./generator.ts";
import { FORMATS, outputsOf, parts, partsOf } from "./others.ts";
import {
  type Any,
  activations,
  arrayOf,
  bits,
  decode,
  dtypes,
  numbers,
  operand,
  product,
  seeds,
  vector,
} from "./values.ts";

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
  direction: fc.constantFrom("backward", "forward"),
  layout: fc.constantFrom(undefined, "channels-first", "channels-last"),
  perChannel: fc.integer({ min: 1, max: 3 }),
  seed: seeds,
});
type Fold = typeof folds extends fc.Arbitrary<infer T> ? T : never;

/** A source to fold, its numbers, and its exact scale and shift. */
function sourceOf({ source, wide, gamma, beta, activation, layout, seed }: Fold, channels: number) {
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
    bn = new lib.BatchNorm(channels, {
      dtype,
      epsilon,
      scale: gamma,
      shift: beta,
      activation,
      ...(layout && { layout }),
    });
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
      options: { epsilon, activation, ...(layout && { layout }) },
    };
  }
  const scale = n.variance.map((v, c) => (n.gamma?.[c] ?? 1) / Math.sqrt(v + epsilon));
  const options = activation === "none" ? {} : { activation };
  return { bn, scale, n, options, rtol: wide ? 1e-14 : 2 ** -23 };
}

/** Half an ulp of each type. */
const ULPS = { float32: 2 ** -24, float64: 1e-15, float16: 2 ** -11, bfloat16: 2 ** -8 };

/** Checks weight and bias, rounded once. `summed` is what the sums of the bias may be off in float64. */
function checkFolded(folded: Any, { dtype }: Fold, weight: Float64Array, bias: Float64Array, summed: number): void {
  const [ulp, tiny] = [ULPS[dtype] * 1.001, dtype === "float16" ? 2 ** -24 : 1e-30];
  close("weight", decode(folded.weight), weight, ulp, tiny);
  close("bias", decode({ data: folded.bias, dtype }), bias, ulp, tiny + summed);
}

/** The format of a call: that of a description if the function knows it. */
const formatOf = (isLinear: boolean, { format, direction }: Fold) => {
  if (isLinear) return format.length === 2 ? format : "OI";
  return format.length === 4 && !(direction === "forward" && ["IOHW", "HWOI"].includes(format)) ? format : "OIHW";
};

function forwardCall(isLinear: boolean, spec: Fold) {
  const format = formatOf(isLinear, spec);
  const outputsFirst = format.startsWith("O");
  const [a, b, h, w] = spec.dims;
  const groups = isLinear || format === "HWIM" ? 1 : spec.groups;
  const perChannel = isLinear ? spec.perChannel : 1;
  // a is the number of channels of a group, and b that of its outputs, or of the outputs of a channel
  const axes = {
    OI: [b, a * perChannel],
    IO: [a * perChannel, b],
    OIHW: [b * groups, a, h, w],
    HWIO: [h, w, a, b * groups],
  };
  const shape = { ...axes, HWIM: [h, w, a, b] }[format as "OI"];
  const channels = a * groups;
  const outputs = format === "HWIM" ? a * b : b * groups;
  const { bn, scale, n, options } = sourceOf(spec, channels);
  const weight = numbers(spec.seed * 8 + 6, product(shape), spec.dtype, "eighths");
  const bias = spec.bias ? numbers(spec.seed * 8 + 7, outputs, spec.dtype, "eighths") : undefined;
  const layer = {
    weight: operand(weight, shape, spec.dtype, "plain"),
    ...(bias && { bias: arrayOf(bias, spec.dtype) }),
  };
  const given = {
    ...{ format, direction: "forward", ...options },
    ...(groups > 1 && { groups }),
    ...(!isLinear && { unpadded: true }),
  };
  const inner = outputsFirst ? product(shape.slice(2)) : 1;
  const perGroup = format === "HWIM" ? 1 : a * perChannel;
  /** The output and the channel of a weight by its index. */
  const place = (i: number): [number, number] => {
    if (format === "HWIM") return [i % outputs, Math.floor((i % outputs) / b)];
    const o = outputsFirst ? Math.floor(i / (perGroup * inner)) : i % outputs;
    const k = Math.floor(i / (outputsFirst ? inner : outputs)) % perGroup;
    const input = Math.floor(o / (outputs / groups)) * perGroup + k;
    return [o, spec.layout === "channels-last" ? input % channels : Math.floor(input / perChannel)];
  };
  return {
    args: [layer, bn, given],
    check(folded: Any) {
      const sums = Float64Array.from({ length: outputs }, (_, o) => bias?.[o] ?? 0);
      const sizes = sums.map(Math.abs);
      const e = weight.map((v, i) => {
        const [o, c] = place(i);
        const term = v * ((n.beta?.[c] ?? 0) - (n.mean[c] as number) * (scale[c] as number));
        sums[o] = (sums[o] as number) + term;
        sizes[o] = (sizes[o] as number) + Math.abs(term);
        return v * (scale[c] as number);
      });
      checkFolded(folded, spec, e, sums, 1e-13 * Math.max(...sizes));
    },
  };
}

function backwardCall(isLinear: boolean, spec: Fold) {
  const format = formatOf(isLinear, spec);
  const groups = format === "IOHW" && (spec.dims[0] as number) % spec.groups === 0 ? spec.groups : 1;
  const shape = spec.dims.slice(0, isLinear ? 2 : 4);
  const { outputs, of } = outputsOf(format, shape);
  const channels = outputs * groups;
  const { bn, scale, n, options } = sourceOf(spec, channels);
  const weight = numbers(spec.seed * 8 + 6, product(shape), spec.dtype, "eighths");
  const bias = spec.bias ? numbers(spec.seed * 8 + 7, channels, spec.dtype, "eighths") : undefined;
  const layer = {
    weight: operand(weight, shape, spec.dtype, "plain"),
    ...(bias && { bias: arrayOf(bias, spec.dtype) }),
  };
  return {
    args: [layer, bn, { format, ...(groups > 1 && { groups }), ...options }],
    check(folded: Any) {
      const perGroup = weight.length / groups;
      const e = weight.map((v, i) => v * (scale[Math.floor(i / perGroup) * outputs + of(i)] as number));
      const shift = scale.map((s, c) => (n.beta?.[c] ?? 0) - ((n.mean[c] as number) - (bias?.[c] ?? 0)) * s);
      checkFolded(folded, spec, e, shift, 1e-13);
    },
  };
}

const fold = (isLinear: boolean) =>
  generator(folds, (spec) => ({
    ...(spec.direction === "forward" ? forwardCall : backwardCall)(isLinear, spec),
    call: ([layer, bn, options]) => (isLinear ? lib.foldIntoLinear : (lib.foldIntoConv as Any))(layer, bn, options),
  }));

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

export const INTEROP: Readonly<Record<string, Generator>> = {
  mergeStates: merged,
  foldIntoLinear: fold(true),
  foldIntoConv: fold(false),
  toAffine,
  fromAffine,
  configFor,
  optionsFrom,
  writeSafetensors: write,
  readSafetensors: read,
};
