// Types of elements: float64 from end to end, and 16-bit storage, which is float32's result rounded once. Golden cases in
// float64 are in golden.test.ts, single conversions in kernels.test.ts.

import { afterEach, beforeAll, describe, expect, expectTypeOf, test } from "vitest";
import {
  type ActivationName,
  type AnyTensor,
  BatchNorm,
  batchNormBackward,
  batchNormForward,
  batchNormGradientSums,
  batchNormInference,
  batchNormStatistics,
  type Data,
  type DataOf,
  type Dtype,
  type LayerForwardOptions,
  type Layout,
  type PlainTensor,
  Tensor,
  type TensorLike,
  tensor,
} from "../src/index.ts";
import { defaultHeap } from "../src/memory/heap.ts";
import { backward, dimsOf, forward, invStdOf, statistics } from "./reference.ts";
import { BUILDS, drop, KINDS, type Kind, makeOf, normal, useBuild, WORLDS } from "./worlds.ts";

type Narrow = "float16" | "bfloat16";
const NARROW: readonly Narrow[] = ["float16", "bfloat16"];
const LAYOUTS: readonly Layout[] = ["channels-first", "channels-last"];

/** The engine's, where it has one: Node 24, Chromium 135. */
const Half = (globalThis as { Float16Array?: new (data: ArrayBufferLike) => DataOf["float16"] }).Float16Array;

const sizeOf = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

// ---- conversions, in arithmetic -------------------------------------------------------------------------------------

const FORMATS = { float16: { digits: 10, bias: 15 }, bfloat16: { digits: 7, bias: 127 } } as const;

/** The value of 16 bits. */
function widen(bits: number, dtype: Narrow): number {
  const { digits, bias } = FORMATS[dtype];
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits & 0x7fff) >> digits;
  const fraction = (bits & ((1 << digits) - 1)) / 2 ** digits;
  if (exponent === 2 * bias + 1) return fraction ? Number.NaN : sign * Infinity;
  return sign * (exponent ? (1 + fraction) * 2 ** (exponent - bias) : fraction * 2 ** (1 - bias));
}

const roundTiesToEven = (v: number) => {
  const low = Math.floor(v);
  if (v - low !== 0.5) return Math.round(v);
  return low % 2 === 0 ? low : low + 1;
};

/** The 16 bits nearest to a value, which is not NaN. */
function narrow(value: number, dtype: Narrow): number {
  const { digits, bias } = FORMATS[dtype];
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const magnitude = Math.abs(value);
  const infinity = ((2 * bias + 1) << digits) | sign;
  if (magnitude === Infinity) return infinity;
  // float32 stays farther from powers of two than log2 errs
  const exponent = Math.max(Math.floor(Math.log2(magnitude)), 1 - bias);
  const units = roundTiesToEven(magnitude / 2 ** (exponent - digits));
  // a carry runs into the exponent, and from the largest value into infinity
  const bits = units + ((exponent + bias - 1) << digits);
  return bits >= (infinity & 0x7fff) ? infinity : sign | bits;
}

const widened = (bits: ArrayLike<number>, dtype: Narrow) => Float32Array.from(bits, (b) => widen(b, dtype));
const narrowed = (values: ArrayLike<number>, dtype: Narrow) => Uint16Array.from(values, (v) => narrow(v, dtype));

/** An operand's elements as bits. */
function bitsOf(value: AnyTensor | undefined): Uint16Array {
  const data = value?.data as ArrayBufferView & { length: number };
  return new Uint16Array(data.buffer, data.byteOffset, data.length).slice();
}

/** 16-bit values of a normal distribution. */
const bits = (seed: number, length: number, dtype: Narrow, std = 1, mean = 0) =>
  narrowed(normal(seed, length, std, mean), dtype);

test("the conversions of this file are each other's inverses, and round to nearest even", () => {
  for (const dtype of NARROW) {
    const numbers = Array.from({ length: 65536 }, (_, b) => b).filter((b) => !Number.isNaN(widen(b, dtype)));
    expect(narrowed(widened(numbers, dtype), dtype)).toBeAllclose(numbers);
  }
  expect(
    [65504, 65519.99, 65520, 2 ** -24, 2 ** -25, 1 + 2 ** -11, 1 + 3 * 2 ** -11].map((v) => narrow(v, "float16")),
  ).toEqual([0x7bff, 0x7bff, 0x7c00, 1, 0, 0x3c00, 0x3c02]);
  expect([1 + 2 ** -8, 1 + 3 * 2 ** -8, -0, 3.4e38].map((v) => narrow(v, "bfloat16"))).toEqual([
    0x3f80, 0x3f82, 0x8000, 0x7f80,
  ]);
});

// ---- 16-bit storage -------------------------------------------------------------------------------------------------

interface Step {
  readonly dtype: Dtype;
  readonly kind: Kind;
  readonly layout: Layout;
  readonly shape: readonly number[];
  readonly activation?: ActivationName;
  readonly mode?: "train" | "eval";
  readonly ghost?: number;
  readonly more?: LayerForwardOptions<never>;
}

/** A step of a layer on bits of x, residual and dy: as they are, or widened for a float32 layer. */
function run(o: Step, source: Narrow, xs: Uint16Array, rs: Uint16Array | undefined, dys: Uint16Array) {
  const { dtype, kind, layout, shape, activation = "none", mode = "train", ghost = null, more } = o;
  const channels = (layout === "channels-last" ? shape.at(-1) : shape[1]) as number;
  const bn = new BatchNorm<Dtype>(channels, { dtype, layout, activation, ghostBatchSize: ghost });
  bn.gamma = normal(90, channels);
  bn.beta = normal(91, channels);
  bn.runningMean = normal(92, channels);
  const of = (data: Uint16Array) => makeOf<Dtype>(dtype, kind, shape, dtype === source ? data : widened(data, source));
  const [x, dy] = [of(xs), of(dys)];
  const residual = rs && of(rs);
  const y = bn.forward(x, { ...(more as LayerForwardOptions<TensorLike<Dtype>>), mode, ...(residual && { residual }) });
  const { dx, dResidual, dGamma, dBeta } = bn.backward(dy);
  const results = [y, dx, ...(dResidual ? [dResidual] : [])].map((t) =>
    dtype === source ? bitsOf(t) : narrowed(t?.data as ArrayLike<number>, source),
  );
  drop(x, residual, dy, y, dx, dResidual);
  return { results, vectors: { dGamma, dBeta, ...bn.stateDict() } };
}

/** Element by element, which toEqual takes long for. */
function expectSame(a: ReturnType<typeof run>, b: ReturnType<typeof run>): void {
  expect(a.results.length).toBe(b.results.length);
  for (const [i, result] of a.results.entries()) expect(result).toBeAllclose(b.results[i] as Uint16Array);
  expect(a.vectors).toEqual(b.vectors);
}

/** Both walks, all precisions of sums, a row that is cut short, one value in the last group. */
const SHAPES: readonly [Layout, readonly number[]][] = [
  ["channels-first", [5, 3]],
  ["channels-first", [6, 3, 5]],
  ["channels-first", [2, 3, 37]],
  ["channels-first", [13, 3, 45]],
  ["channels-first", [29, 3, 37]],
  ["channels-first", [30, 1, 7]],
  ["channels-last", [41, 3]],
  ["channels-last", [60, 5]],
  ["channels-last", [1100, 3]],
];

describe.each(WORLDS.flatMap((world) => NARROW.map((dtype) => ({ ...world, dtype }))))(
  "$dtype ($build, $kind)",
  ({ build, kind, dtype }) => {
    beforeAll(() => useBuild(build));

    test.each(SHAPES)(
      "%s %j: y and gradients are float32's, rounded once; statistics are float32's",
      (layout, shape) => {
        const size = sizeOf(shape);
        const [xs, rs, dys] = [bits(1, size, dtype, 2, 3), bits(2, size, dtype), bits(3, size, dtype)];
        for (const [activation, mode, residual] of [
          ["none", "train", undefined],
          ["relu", "train", undefined],
          ["relu", "train", rs],
          ["silu", "train", undefined],
          ["none", "eval", rs],
          ["leaky_relu", "eval", undefined],
        ] as const) {
          const step = { kind, layout, shape, activation, mode } as const;
          const a = run({ ...step, dtype }, dtype, xs, residual, dys);
          const b = run({ ...step, dtype: "float32" }, dtype, xs, residual, dys);
          expect(a.results.length).toBe(residual ? 3 : 2);
          expectSame(a, b);
        }
      },
    );

    test.each(LAYOUTS)("with masks and weights, too (%s)", (layout) => {
      const shape = layout === "channels-last" ? [6, 40, 3] : [6, 3, 40];
      const [xs, rs, dys] = [1, 2, 3].map((seed) => bits(seed, 720, dtype)) as [Uint16Array, Uint16Array, Uint16Array];
      for (const mask of [
        Array.from({ length: 240 }, (_, i) => i % 3 !== 1),
        Array.from({ length: 240 }, (_, i) => (i % 4) / 2),
        { lengths: [40, 3, 0, 17, 1, 39] },
      ])
        for (const activation of ["none", "relu"] as const)
          for (const residual of [undefined, rs]) {
            const step = { kind, layout, shape, activation, more: { mask } } as const;
            expectSame(
              run({ ...step, dtype }, dtype, xs, residual, dys),
              run({ ...step, dtype: "float32" }, dtype, xs, residual, dys),
            );
          }
    });

    test.each(LAYOUTS)("y over x and dx over dy are what they are apart (%s)", (layout) => {
      const shape = layout === "channels-last" ? [6, 40, 3] : [6, 3, 40];
      const [xs, dys] = [bits(1, 720, dtype), bits(2, 720, dtype)];
      const make = (data: Uint16Array) => makeOf<Dtype>(dtype, kind, shape, data);
      const bn = new BatchNorm<Dtype>(3, { dtype, layout, activation: "relu6" });
      const [x, dy] = [make(xs), make(dys)];
      const y = bn.forward(x);
      const dx = bn.backward(dy).dx as TensorLike<Dtype>;
      expect(bn.backward(dy, { dxOut: dy }).dx).toBe(dy);
      expect(bitsOf(dy)).toEqual(bitsOf(dx));
      const inferred = bn.forward(x, { mode: "eval" });
      expect(bn.forward(x, { mode: "eval", out: x })).toBe(x);
      expect(bitsOf(x)).toEqual(bitsOf(inferred));
      drop(x, dy, y, dx, inferred);
    });

    test("nothing is left in wasm memory but what was asked for", () => {
      const make = (seed: number) => makeOf<Dtype>(dtype, kind, [6, 3, 40], bits(seed, 720, dtype));
      const bn = new BatchNorm<Dtype>(3, { dtype, activation: "silu" });
      const levels = [1, 2, 3].map(() => {
        const [x, residual, dy] = [make(1), make(2), make(3)];
        const y = bn.forward(x, { residual });
        const { dx, dResidual } = bn.backward(dy);
        bn.forward(x, { mode: "eval", residual, out: x });
        const masked = bn.forward(x, { mask: { lengths: [1, 2, 3, 4, 5, 6] }, residual });
        const gradients = bn.backward(dy);
        drop(x, residual, dy, y, dx, dResidual, masked, gradients.dx, gradients.dResidual);
        return defaultHeap().usage.used;
      });
      expect(levels).toEqual([levels[0], levels[0], levels[0]]);
    });
  },
);

describe.each(NARROW)("%s", (dtype) => {
  beforeAll(() => useBuild("simd"));

  test.each(LAYOUTS)("of many tiles: the bits of float32, and of tensors, in little memory (%s)", async (layout) => {
    await useBuild("simd");
    const shape = layout === "channels-last" ? [20, 60, 60, 8] : [20, 8, 60, 60];
    const size = sizeOf(shape);
    const [xs, dys] = [bits(1, 4096, dtype, 1, 3), bits(2, 4096, dtype)].map((some) =>
      // the same values in an order that never repeats a plane
      Uint16Array.from({ length: size }, (_, i) => some[(i * 1117 + Math.floor(i / 4096) * 29) % 4096] as number),
    ) as [Uint16Array, Uint16Array];
    const step = { layout, shape, activation: "relu" } as const;
    const before = defaultHeap().usage.capacity;
    const plain = run({ ...step, dtype, kind: "plain" }, dtype, xs, undefined, dys);
    expect(defaultHeap().usage.capacity - before).toBeLessThan(2 * size);
    const wide = run({ ...step, dtype: "float32", kind: "tensor" }, dtype, xs, undefined, dys);
    const narrow = run({ ...step, dtype, kind: "tensor" }, dtype, xs, undefined, dys);
    for (const other of [wide, narrow]) expectSame(plain, other);
  });

  test("a tensor takes half of float32's bytes", () => {
    const bytesOf = (made: Dtype) => {
      const { used } = defaultHeap().usage;
      const t = tensor([1024, 64], undefined, { dtype: made });
      expect([t.dtype, t.length]).toEqual([made, 65536]);
      const bytes = defaultHeap().usage.used - used;
      t.dispose();
      return bytes;
    };
    expect(bytesOf(dtype)).toBeGreaterThanOrEqual(131_072);
    expect(bytesOf(dtype)).toBeLessThan(131_072 + 4096);
    expect(bytesOf("float32")).toBeGreaterThanOrEqual(262_144);
    expect(bytesOf("float64")).toBeGreaterThanOrEqual(524_288);
  });

  test("kinds may differ: y is of x's kind, dx of dy's, `out` decides where there is one", () => {
    const shape = [6, 3, 40];
    const make = (kind: Kind, seed: number) => makeOf<Dtype>(dtype, kind, shape, bits(seed, 720, dtype));
    const expected = (() => {
      const bn = new BatchNorm<Dtype>(3, { dtype });
      const y = bitsOf(bn.forward(make("plain", 1)));
      return [y, bitsOf(bn.backward(make("plain", 2)).dx)];
    })();
    for (const xKind of KINDS)
      for (const dyKind of KINDS)
        for (const outKind of [undefined, ...KINDS]) {
          const bn = new BatchNorm<Dtype>(3, { dtype });
          const [x, dy] = [make(xKind, 1), make(dyKind, 2)];
          const [out, dxOut] = outKind ? [make(outKind, 3), make(outKind, 4)] : [];
          const y = bn.forward(x, out ? { out } : {});
          const { dx } = bn.backward(dy, dxOut ? { dxOut } : {});
          expect([y instanceof Tensor, dx instanceof Tensor]).toEqual(
            outKind ? [outKind === "tensor", outKind === "tensor"] : [xKind === "tensor", dyKind === "tensor"],
          );
          if (out) expect([y, dx]).toEqual([out, dxOut]);
          expect([bitsOf(y), bitsOf(dx)]).toEqual(expected);
          drop(x, dy, y, dx);
        }
  });

  test("an array may be a view of wasm memory, although the call grows that memory", async () => {
    await useBuild("simd");
    const data = bits(1, 40_000, dtype);
    const t = tensor([10_000, 4], data, { dtype });
    const { capacity } = defaultHeap().usage;
    const view = { data: t.data as Data, shape: t.shape, dtype } as TensorLike<Dtype>;
    const y = new BatchNorm<Dtype>(4, { dtype }).forward(view);
    expect(defaultHeap().usage.capacity).toBeGreaterThan(capacity);
    const apart = new BatchNorm<Dtype>(4, { dtype }).forward({ data, shape: t.shape, dtype });
    expect(bitsOf(y)).toEqual(bitsOf(apart));
    t.dispose();
  });

  test("parameters and statistics are float32, and the functions' are the layer's, bit for bit", () => {
    const shape = [6, 3, 40];
    const of = (seed: number): PlainTensor<Uint16Array> => ({ data: bits(seed, 720, dtype), shape, dtype });
    const [x, dy] = [of(1), of(2)];
    const bn = new BatchNorm<Dtype>(3, { dtype, activation: "relu" });
    const y = bn.forward(x as TensorLike<Dtype>);
    const { dx, dGamma, dBeta } = bn.backward(dy as TensorLike<Dtype>);
    for (const vector of [bn.gamma, bn.beta, bn.runningMean, bn.runningVariance, dGamma, dBeta])
      expect(vector).toBeInstanceOf(Float32Array);
    const f = batchNormForward(x, {}, { activation: "relu" });
    const b = batchNormBackward(dy, f.saved);
    expect([bitsOf(f.y), bitsOf(b.dx), b.dGamma, b.dBeta]).toEqual([bitsOf(y), bitsOf(dx), dGamma, dBeta]);
    expect(f.y).toMatchObject({ shape, dtype });
    const wide = { data: widened(x.data, dtype), shape };
    expect(batchNormStatistics(x)).toEqual(batchNormStatistics(wide));
    const upstream = { data: widened(dy.data, dtype), shape };
    const wideSaved = batchNormForward(wide, {}, { activation: "relu" }).saved;
    expect(batchNormGradientSums(dy, f.saved)).toEqual(batchNormGradientSums(upstream, wideSaved));
    const frozen = { mean: Float32Array.of(1, 2, 3), variance: Float32Array.of(1, 2, 3) };
    expect(bitsOf(batchNormInference(x, frozen).y)).toEqual(narrowed(batchNormInference(wide, frozen).y.data, dtype));
  });

  test("what float16 cannot hold becomes infinity; NaN stays in its channel", () => {
    const shape = [4, 2];
    const data = Uint16Array.from([1, 5, 2, 6, 3, 7, Number.NaN, 8], (v) =>
      Number.isNaN(v) ? 0x7fff : narrow(v, dtype),
    );
    const bn = new BatchNorm<Dtype>(2, { dtype, onNonFinite: "allow" });
    bn.gamma = Float32Array.of(1, 1e38);
    const y = bitsOf(bn.forward({ data, shape, dtype }));
    expect([0, 2, 4, 6].map((i) => widen(y[i] as number, dtype))).toEqual([NaN, NaN, NaN, NaN]);
    const largest = dtype === "float16" ? Infinity : 1.3e38;
    expect(widen(y[7] as number, dtype)).toBeGreaterThan(1e38);
    expect(widen(y[7] as number, dtype)).toBeLessThanOrEqual(dtype === "float16" ? largest : 1.4e38);
  });
});

test("ghost batches of arrays are those of tensors, and of float32", async () => {
  await useBuild("simd");
  for (const layout of LAYOUTS) {
    const shape = layout === "channels-last" ? [6, 40, 3] : [6, 3, 40];
    for (const dtype of NARROW) {
      const [xs, rs, dys] = [1, 2, 3].map((seed) => bits(seed, 720, dtype)) as [Uint16Array, Uint16Array, Uint16Array];
      const step = { layout, shape, activation: "relu", ghost: 4 } as const;
      const wide = run({ ...step, dtype: "float32", kind: "tensor" }, dtype, xs, rs, dys);
      for (const kind of KINDS) {
        expectSame(run({ ...step, dtype, kind }, dtype, xs, rs, dys), wide);
        expectSame(run({ ...step, dtype: "float32", kind }, dtype, xs, rs, dys), wide);
      }
    }
  }
});

describe("Float16Array", () => {
  beforeAll(() => useBuild("simd"));
  const shape = [6, 3, 40];
  const raw = bits(1, 720, "float16");

  test("is what a float16 tensor's data is where the engine has it; bits in a Uint16Array elsewhere", () => {
    const t = tensor(shape, raw, { dtype: "float16" });
    expect(t.data).toBeInstanceOf(Half ?? Uint16Array);
    expect(bitsOf(t)).toEqual(raw);
    if (Half) expect(t.data).toBeAllclose(widened(raw, "float16"));
    t.dispose();
    const brain = tensor(shape, raw, { dtype: "bfloat16" });
    expect(brain.data).toBeInstanceOf(Uint16Array);
    brain.dispose();
  });

  test("is taken like bits and returned for itself, and bits for bits", () => {
    const arrays: DataOf["float16"][] = [raw, ...(Half ? [new Half(raw.slice().buffer)] : [])];
    expect(arrays.length).toBe("Float16Array" in globalThis ? 2 : 1);
    const results = arrays.map((data) => {
      const bn = new BatchNorm(3, { dtype: "float16", activation: "silu" });
      const x: TensorLike<"float16"> = { data, shape };
      const y = bn.forward(x);
      const { dx } = bn.backward(x);
      expect([y, dx].map((t) => t?.data.constructor)).toEqual([data.constructor, data.constructor]);
      const made = tensor(shape, data, { dtype: "float16" });
      expect(bitsOf(made)).toEqual(raw);
      made.dispose();
      return [bitsOf(y), bitsOf(dx)];
    });
    for (const result of results) expect(result).toEqual(results[0]);
  });
});

// ---- float64 --------------------------------------------------------------------------------------------------------

/** Many tiles. */
const LARGE: typeof SHAPES = [
  ["channels-first", [20, 8, 60, 60]],
  ["channels-last", [20, 60, 60, 8]],
];

const values = (seed: number, length: number) => {
  const fine = normal(seed + 100, length);
  return Float64Array.from(normal(seed, length), (v, i) => v + 1e-8 * (fine[i] as number));
};

describe.each(BUILDS)("float64 (%s)", (build) => {
  beforeAll(() => useBuild(build));

  test.each([...SHAPES, ...(build === "simd" ? LARGE : [])])(
    "%s %j: arrays and tensors give the same bits, and the oracle's results in float64",
    (layout, shape) => {
      const size = sizeOf(shape);
      const d = dimsOf(shape, layout);
      const [xs, dys] = [values(1, size), values(2, size)];
      const [gamma, beta] = [values(3, d.channels), values(4, d.channels)];
      const steps = KINDS.map((kind) => {
        const bn = new BatchNorm(d.channels, { dtype: "float64", layout });
        bn.gamma = gamma.slice();
        bn.beta = beta.slice();
        const [x, dy] = [makeOf("float64", kind, shape, xs), makeOf("float64", kind, shape, dys)];
        const y = bn.forward(x);
        const { dx, dGamma, dBeta } = bn.backward(dy);
        const inferred = bn.forward(x, { mode: "eval" });
        const results = [y, dx, inferred].map((t) => t?.data.slice() as Float64Array);
        drop(x, dy, y, dx, inferred);
        return { results, vectors: { dGamma, dBeta, mean: bn.runningMean, variance: bn.runningVariance } };
      });
      const [a, b] = steps as [(typeof steps)[0], (typeof steps)[0]];
      for (const [i, result] of a.results.entries()) expect(result).toBeAllclose(b.results[i] as Float64Array);
      expect(a.vectors).toEqual(b.vectors);

      const { mean, variance } = statistics(xs, d);
      const invStd = invStdOf(variance, 1e-5);
      const m = d.outer * d.inner;
      const close = { rtol: 1e-12, atol: 1e-13 };
      expect(a.vectors.mean).toBeAllclose(
        mean.map((v) => 0.1 * v),
        close,
      );
      expect(a.vectors.variance).toBeAllclose(
        variance.map((v) => 0.9 + (0.1 * v * m) / (m - 1)),
        close,
      );
      expect(a.results[0]).toBeAllclose(forward(xs, d, mean, invStd, gamma, beta).y, close);
      const g = backward(xs, dys, d, mean, invStd, gamma, true);
      expect(a.results[1]).toBeAllclose(g.dx, close);
      expect(a.vectors.dGamma).toBeAllclose(g.dGamma, { rtol: 1e-11, atol: 1e-10 });
      expect(a.vectors.dBeta).toBeAllclose(g.dBeta, { rtol: 1e-11, atol: 1e-10 });
      const running = { mean: a.vectors.mean as Float64Array, variance: a.vectors.variance as Float64Array };
      const inferred = forward(xs, d, running.mean, invStdOf(running.variance, 1e-5), gamma, beta);
      expect(a.results[2]).toBeAllclose(inferred.y, close);
    },
  );

  test.each(KINDS)("functions are the layer's, bit for bit; residuals, masks and outputs of its own (%s)", (kind) => {
    const shape = [6, 3, 40];
    const make = (seed: number) => makeOf("float64", kind, shape, values(seed, 720));
    const bn = new BatchNorm(3, { dtype: "float64", activation: "silu" });
    const mask = { lengths: [40, 3, 0, 17, 1, 39] };
    const [x, residual, dy] = [make(1), make(2), make(3)];
    const used = defaultHeap().usage.used;
    const out = make(4);
    expect(bn.forward(x, { mode: "batch", residual, mask, out })).toBe(out);
    const a = bn.backward(dy);
    const f = batchNormForward(x, {}, { residual, mask, activation: "silu" });
    const b = batchNormBackward(dy, f.saved);
    expect(f.y.data).toEqual(out.data);
    expect([b.dx?.data, b.dResidual?.data, b.dGamma, b.dBeta]).toEqual([
      a.dx?.data,
      a.dResidual?.data,
      a.dGamma,
      a.dBeta,
    ]);
    expect(b.dGamma).toBeInstanceOf(Float64Array);
    drop(out, f.y, a.dx, a.dResidual, b.dx, b.dResidual);
    expect(defaultHeap().usage.used).toBe(used);
    drop(x, residual, dy);
  });

  test.each(KINDS)("y over the residual, or over x, is what it is apart (%s)", (kind) => {
    for (const layout of LAYOUTS) {
      const shape = layout === "channels-last" ? [6, 40, 3] : [6, 3, 40];
      const make = (seed: number) => makeOf("float64", kind, shape, values(seed, 720));
      for (const activation of ["relu", "none"] as const) {
        const bn = new BatchNorm(3, { dtype: "float64", layout, activation });
        const [x, residual] = [make(1), make(2)];
        const y = bn.forward(x, { mode: "eval", residual });
        expect(bn.forward(x, { mode: "eval", residual, out: residual })).toBe(residual);
        expect(residual.data).toBeAllclose(y.data);
        const again = make(2);
        expect(bn.forward(x, { mode: "eval", residual: again, out: x })).toBe(x);
        expect(x.data).toBeAllclose(y.data);
        drop(x, residual, y, again);
      }
    }
  });

  test("SiLU ends at infinity without NaN", () => {
    const z = Float64Array.of(-Infinity, -1e300, -750, 0, 750, 1e300, Infinity);
    const frozen = { mean: new Float64Array(1), variance: Float64Array.of(1) };
    const { y, saved } = batchNormInference({ data: z, shape: [7, 1] }, frozen, { epsilon: 0, activation: "silu" });
    const near = { atol: 1e-301 }; // kernels end z at −708
    expect(y.data).toBeAllclose([0, 0, 0, 0, 750, 1e300, Infinity], near);
    const { dx } = batchNormBackward({ data: new Float64Array(7).fill(1), shape: [7, 1] }, saved);
    expect(dx?.data).toBeAllclose([0, 0, 0, 0.5, 1, 1, 1], near);
  });
});

describe("float64 of many values", () => {
  beforeAll(() => useBuild("simd"));

  test.each(LARGE)(
    "%s %j: arrays of many tiles give the bits of tensors, with activations and residuals",
    (layout, shape) => {
      const size = sizeOf(shape);
      const [xs, rs, dys] = [values(1, size), values(2, size), values(3, size)];
      const [a, b] = KINDS.map((kind) => {
        const bn = new BatchNorm(8, { dtype: "float64", layout, activation: "leaky_relu" });
        const [x, residual, dy] = [xs, rs, dys].map((data) => makeOf("float64", kind, shape, data)) as [
          TensorLike<"float64">,
          TensorLike<"float64">,
          TensorLike<"float64">,
        ];
        const y = bn.forward(x, { residual });
        const { dx, dResidual } = bn.backward(dy);
        const results = [y, dx, dResidual].map((t) => t?.data.slice() as Float64Array);
        drop(x, residual, dy, y, dx, dResidual);
        return results;
      }) as [Float64Array[], Float64Array[]];
      for (const [i, result] of a.entries()) expect(result).toBeAllclose(b[i] as Float64Array);
      const dz = dys.map((g, i) => (((a[0] as Float64Array)[i] as number) > 0 ? g : g * 0.01));
      expect(a[2]).toBeAllclose(dz);
    },
  );

  test.each(LAYOUTS)(
    "outliers among a channel's first values cost no digits: sums are taken again about the mean (%s)",
    (layout) => {
      const [channels, count] = [2, 65_536];
      const shape = layout === "channels-last" ? [count, channels] : [1, channels, count];
      const list = values(5, count);
      for (let i = 0; i < 16; i++) list[i] = 1e6 * (1 + (list[i] as number) / 100);
      const data = new Float64Array(channels * count);
      for (let c = 0; c < channels; c++)
        for (let i = 0; i < count; i++)
          data[layout === "channels-last" ? i * channels + c : c * count + i] = (c + 1) * (list[i] as number);
      // in pairs, which errs by 16 u at most
      const sum = (of: (v: number) => number, from = 0, to = count): number => {
        const half = (from + to) >> 1;
        return to - from === 1 ? of(list[from] as number) : sum(of, from, half) + sum(of, half, to);
      };
      const mean = sum((v) => v) / count;
      const variance = sum((v) => (v - mean) ** 2) / count;
      const s = batchNormStatistics({ data, shape }, { layout });
      expect(s.mean).toBeAllclose([mean, 2 * mean], { rtol: 1e-15 });
      expect(s.variance).toBeAllclose([variance, 4 * variance], { rtol: 4e-15 });
    },
  );
});

// ---- what is refused, and types -------------------------------------------------------------------------------------

describe("of types of elements", () => {
  beforeAll(() => useBuild("simd"));
  const made: (AnyTensor | undefined)[] = [];
  afterEach(() => drop(...made.splice(0)));
  const shape = [4, 3];
  const DATA = {
    float32: () => new Float32Array(12),
    float64: () => new Float64Array(12),
    float16: () => new Uint16Array(12),
    bfloat16: () => new Uint16Array(12),
  };
  const DTYPES = Object.keys(DATA) as Dtype[];
  const make = (dtype: Dtype, kind: Kind) => {
    const t = makeOf<Dtype>(dtype, kind, shape, DATA[dtype]());
    made.push(t);
    return t;
  };

  test("every argument must have the layer's, and nothing is written otherwise", () => {
    for (const dtype of DTYPES)
      for (const other of DTYPES.filter((d) => d !== dtype))
        for (const kind of KINDS) {
          const bn = new BatchNorm<Dtype>(3, { dtype });
          const state = bn.stateDict();
          const [x, wrong] = [make(dtype, kind), make(other, kind)];
          const calls: [string, () => unknown][] = [
            ["x", () => bn.forward(wrong)],
            ["out", () => bn.forward(x, { out: wrong })],
            ["residual", () => bn.forward(x, { residual: wrong })],
          ];
          const dims = { data: Float32Array.from({ length: 12 }, (_, i) => i % 5) };
          const y = bn.forward(
            makeOf<Dtype>(
              dtype,
              kind,
              shape,
              DATA[dtype]().map((_, i) => dims.data[i] as number),
            ),
            { mode: "batch" },
          );
          made.push(y);
          calls.push(["dy", () => bn.backward(wrong)], ["dxOut", () => bn.backward(x, { dxOut: wrong })]);
          const before = JSON.stringify([...bitsOf(wrong)]);
          for (const [name, call] of calls) {
            expect(call, `${dtype}, ${other}: ${name}`).toThrow(
              new RegExp(`^${name}\\.(data|dtype): expected .*, got `),
            );
          }
          expect(JSON.stringify([...bitsOf(wrong)])).toBe(before);
          expect(bn.stateDict()).toEqual(state);
        }
  });

  test.each<[string, () => unknown, RegExp]>([
    [
      "a Uint16Array that does not say what it holds",
      () => batchNormForward({ data: new Uint16Array(12), shape }),
      /^x\.data: expected .*Uint16Array with dtype, got Uint16Array\(12\)$/,
    ],
    [
      "an array that says another dtype than its own",
      () => batchNormForward({ data: new Float32Array(12), shape, dtype: "float64" }),
      /^x\.dtype: expected "float32", got "float64"$/,
    ],
    [
      "bfloat16 in a float16 layer",
      () => new BatchNorm(3, { dtype: "float16" }).forward({ data: new Uint16Array(12), shape, dtype: "bfloat16" }),
      /^x\.dtype: expected "float16", got "bfloat16"$/,
    ],
    [
      "float32 parameters in a float64 layer",
      () => Object.assign(new BatchNorm(3, { dtype: "float64" }), { gamma: new Float32Array(3) }),
      /^gamma: expected a Float64Array, got Float32Array\(3\)$/,
    ],
    [
      "float64 parameters in a bfloat16 layer",
      () => Object.assign(new BatchNorm(3, { dtype: "bfloat16" }), { beta: new Float64Array(3) }),
      /^beta: expected a Float32Array, got Float64Array\(3\)$/,
    ],
    [
      "float32 parameters beside float64 elements",
      () => batchNormForward({ data: new Float64Array(12), shape }, { gamma: new Float32Array(3) }),
      /^gamma: expected a Float64Array, got Float32Array\(3\)$/,
    ],
    [
      "a tensor of another dtype than its data",
      () => tensor(shape, new Float32Array(12) as never, { dtype: "float64" }),
      /^data: expected elements of dtype "float64", got Float32Array\(12\)$/,
    ],
    [
      "numbers for 16 bits",
      () => tensor([2], [1, 2], { dtype: "bfloat16" }),
      /^data: expected elements of dtype "bfloat16", got \[1, 2\]$/,
    ],
    [
      "a dtype that is none",
      () => tensor([2], undefined, { dtype: "int8" as never }),
      /^dtype: expected "float32" or "float64" or .*, got "int8"$/,
    ],
    [
      "an option that is none",
      () => tensor([2], undefined, { type: "float64" } as never),
      /^tensor options: expected options among dtype, got "type"$/,
    ],
  ])("%s: is refused by name", (_, call, message) => {
    const { used } = defaultHeap().usage;
    expect(call).toThrow(message);
    expect(defaultHeap().usage.used).toBe(used);
  });

  test("numbers make tensors of float32 and float64", () => {
    const [a, b] = [tensor([3], [1, 2, 0.1]), tensor([3], [1, 2, 0.1], { dtype: "float64" })];
    made.push(a, b);
    expect(a.data).toEqual(Float32Array.of(1, 2, 0.1));
    expect(b.data).toEqual(Float64Array.of(1, 2, 0.1));
    const zeros = DTYPES.map((dtype) => tensor([5], undefined, { dtype }));
    made.push(...zeros);
    for (const [i, t] of zeros.entries())
      expect([t.dtype, t.length, ...bitsOf(t)]).toEqual([DTYPES[i], 5, 0, 0, 0, 0, 0]);
  });

  test("TypeScript knows which array is which", () => {
    const wide = new BatchNorm(3, { dtype: "float64" });
    const plain = new BatchNorm(3);
    const brain = new BatchNorm(3, { dtype: "bfloat16" });
    expectTypeOf(wide.gamma).toEqualTypeOf<Float64Array | null>();
    expectTypeOf(plain.gamma).toEqualTypeOf<Float32Array | null>();
    expectTypeOf(brain.runningMean).toEqualTypeOf<Float32Array | null>();
    expectTypeOf(wide.options.dtype).toEqualTypeOf<"float64">();
    const x = { data: new Float64Array(12), shape };
    expectTypeOf(wide.forward(x)).toEqualTypeOf<typeof x>();
    expectTypeOf(wide.backward(x).dGamma).toEqualTypeOf<Float64Array | undefined>();
    expectTypeOf(tensor(shape)).toEqualTypeOf<Tensor<"float32">>();
    expectTypeOf(tensor(shape, new Float64Array(12))).toEqualTypeOf<Tensor<"float64">>();
    expectTypeOf(tensor(shape, new Uint16Array(12), { dtype: "bfloat16" }).data).toEqualTypeOf<Uint16Array>();
    // @ts-expect-error: float32 elements in a float64 layer
    expect(() => wide.forward({ data: new Float32Array(12), shape })).toThrow(TypeError);
    expect(() => {
      // @ts-expect-error: a Float32Array for a Float64Array
      wide.gamma = new Float32Array(3);
    }).toThrow(TypeError);
  });
});
