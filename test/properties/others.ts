// Generators of calls of everything else: other norms, tensors, statistics, diagnosis and recalibration, groups of ranks,
// and memory.

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

export const FORMATS = ["OI", "IO", "OIHW", "IOHW", "HWIO", "HWOI", "HWIM"] as const;
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
export function outputsOf(format: string, shape: readonly number[]) {
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
    // a list of numbers for 16-bit types would be ambiguous, which docs/guides/dtypes.md says
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

export const parts = fc.record({
  channels: fc.integer({ min: 1, max: 5 }),
  counts: fc.array(fc.integer({ min: 0, max: 9 }), { minLength: 1, maxLength: 6 }),
  seed: seeds,
});
export const partsOf = ({ channels, counts, seed }: { channels: number; counts: number[]; seed: number }) =>
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
