// 16-bit storage: its results are those of float32, rounded once. Tests of single conversions are in
// test/assembly/kernels/half.ts.

import { beforeAll, describe, expect, test } from "vitest";
import {
  type ActivationName,
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
} from "../../src/index.ts";
import { defaultHeap } from "../../src/memory/heap.ts";
import { bitsOf, SHAPES } from "../support/dtypes.ts";
import { drop, KINDS, type Kind, LAYOUTS, makeOf, normal, sizeOf, useBuild, WORLDS } from "../support/worlds.ts";

type Narrow = "float16" | "bfloat16";
const NARROW: readonly Narrow[] = ["float16", "bfloat16"];

/** The engine's, where it has one: Node 24, Chromium 135. */
const Half = (globalThis as { Float16Array?: new (data: ArrayBufferLike) => DataOf["float16"] }).Float16Array;

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
      expect(bn.backward(dy, { saved: bn.saved, dxOut: dy }).dx).toBe(dy);
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

describe.each(NARROW)("an empty batch of %s", (dtype) => {
  beforeAll(() => useBuild("simd"));

  test.each(["none", "relu6", "silu"] as const)("has gradients of zero, activation %s", (activation) => {
    const empty = () => ({ data: new Uint16Array(), shape: [0, 5], dtype }) as never;
    for (const affine of [true, false])
      for (const options of [{}, { residual: empty() }, { mask: [], residual: empty() }]) {
        const bn = new BatchNorm(5, { dtype, activation, affine });
        const y = bn.forward(empty(), options) as TensorLike;
        const { dx, dResidual, dGamma, dBeta } = bn.backward(y as never) as unknown as Record<string, never>;
        for (const t of [y, dx, dResidual ?? dx]) expect((t as PlainTensor).shape).toEqual([0, 5]);
        const zeros = affine ? new Float32Array(5) : undefined;
        expect([dGamma, dBeta]).toEqual([zeros, zeros]);
      }
  });
});
