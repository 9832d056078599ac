// Instance, group, layer and RMS norm: against the oracle, bit for bit against batch norm and each other, and their
// gradients against finite differences.

import { beforeAll, describe, expect, it } from "vitest";
import {
  type AnyTensor,
  attachMemory,
  batchNormBackward,
  batchNormForward,
  groupNormForward,
  instanceNormForward,
  type Layout,
  layerNormForward,
  type NormForwardResult,
  type NormOptions,
  normBackward,
  type Parameters,
  type PlainTensor,
  rmsNormForward,
  Tensor,
  type TensorLike,
  tensor,
} from "../../src/index.ts";
import { defaultHeap } from "../../src/memory/heap.ts";
import { once } from "../support/once.ts";
import { familyBackward, familyForward, groupsOf, type Membership, rowsOf } from "../support/reference.ts";
import { BUILDS, drop, KINDS, make, normal, useBuild, WORLDS } from "../support/worlds.ts";

/** One of the four on a shape. */
interface Case {
  readonly name: string;
  readonly shape: readonly number[];
  readonly of: Membership;
  readonly centred: boolean;
  readonly run: <T extends AnyTensor>(x: T, p: Parameters, o?: NormOptions<T>) => NormForwardResult<T>;
}

const sizeOf = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

const instance = (shape: readonly number[], layout: Layout): Case => ({
  name: `instance norm of [${shape}], ${layout}`,
  shape,
  of: groupsOf(shape, layout, shape[layout === "channels-last" ? shape.length - 1 : 1] as number),
  centred: true,
  run: (x, p, o) => instanceNormForward(x, p, { layout, ...o }),
});

const group = (shape: readonly number[], layout: Layout, groups: number): Case => ({
  name: `group norm of [${shape}] in ${groups}, ${layout}`,
  shape,
  of: groupsOf(shape, layout, groups),
  centred: true,
  run: (x, p, o) => groupNormForward(x, groups, p, { layout, ...o }),
});

const layer = (shape: readonly number[], axes: number): Case => ({
  name: `layer norm of [${shape}] over ${axes}`,
  shape,
  of: rowsOf(sizeOf(shape), sizeOf(shape.slice(-axes))),
  centred: true,
  run: (x, p, o) => layerNormForward(x, shape.slice(-axes), p, o),
});

const rms = (shape: readonly number[], axes: number): Case => ({
  ...layer(shape, axes),
  name: `RMS norm of [${shape}] over ${axes}`,
  centred: false,
  run: (x, { gamma = null }, o) => rmsNormForward(x, shape.slice(-axes), { gamma }, o),
});

/** Every walk, one map and two, one block and several. */
const CASES: readonly Case[] = [
  instance([3, 5, 7], "channels-first"),
  instance([3, 1, 40], "channels-first"),
  instance([2, 4, 9, 9], "channels-first"),
  instance([40, 2, 2000], "channels-first"),
  instance([3, 2, 2], "channels-first"),
  instance([3, 7, 5], "channels-last"),
  instance([2, 30, 30, 20], "channels-last"),
  group([2, 6, 7, 7], "channels-first", 3),
  group([2, 6, 2, 2], "channels-first", 3),
  group([300, 24], "channels-first", 4),
  group([300, 24], "channels-last", 4),
  group([3, 64, 1600], "channels-first", 8),
  group([2, 7, 7, 6], "channels-last", 3),
  group([2, 9, 80], "channels-last", 2),
  group([3, 11, 12], "channels-last", 1),
  layer([100, 24], 1),
  layer([3, 40, 96], 1),
  layer([300, 768], 1),
  layer([3000, 3], 1),
  layer([100, 3, 6, 6], 3),
  rms([100, 24], 1),
  rms([300, 768], 1),
  rms([100, 3, 6, 6], 3),
];

const U = 2 ** -24;

/** What a result should be, and what its error is measured by: the largest condition scale of each group. */
interface Truth {
  readonly values: Float64Array;
  readonly scale: Float64Array;
  /** The group of every value; undefined where each is a group by itself. */
  readonly group?: Int32Array | undefined;
}

/** A result of `groups` groups, from the condition scale of each of its values. */
function truth(values: Float64Array, scale: Float64Array, { group, groups }: Membership): Truth {
  const most = new Float64Array(groups);
  for (let i = 0; i < values.length; i++) {
    const j = group[i] as number;
    most[j] = Math.max(most[j] as number, scale[i] as number);
  }
  return { values, scale: most, group };
}

/** Largest error in u of a result, group by group. */
function worst(got: ArrayLike<number> | undefined, { values, scale, group }: Truth): number {
  const error = new Float64Array(scale.length);
  for (let i = 0; i < values.length; i++) {
    const j = group ? (group[i] as number) : i;
    const e = Math.abs((got?.[i] ?? Number.NaN) - (values[i] as number));
    error[j] = Math.max(error[j] as number, Number.isNaN(e) ? Number.POSITIVE_INFINITY : e);
  }
  return error.reduce((most, e, j) => Math.max(most, e / Math.max(U * (scale[j] as number), 2 ** -149)), 0);
}

/** Forward and backward of a case by the oracle. */
function oracle(c: Case, x: ArrayLike<number>, dy: ArrayLike<number>, p: Parameters, epsilon: number) {
  const f = familyForward(x, c.of, epsilon, p.gamma as Float32Array, p.beta as Float32Array, c.centred);
  const b = familyBackward(dy, c.of, f, p.gamma as Float32Array, c.centred);
  return {
    y: truth(f.y, f.scale, c.of),
    mean: { values: f.mean, scale: f.magnitude },
    invStd: { values: f.invStd, scale: f.invStd },
    dx: truth(b.dx, b.dxScale, c.of),
    dGamma: { values: b.dGamma, scale: b.dGammaScale },
    dBeta: { values: b.dBeta, scale: b.dBetaScale },
  };
}

const parametersOf = ({ of, centred }: Case) => {
  const gamma = normal(3, of.entries, 0.5, 1);
  return centred ? { gamma, beta: normal(4, of.entries) } : { gamma };
};

describe.each(WORLDS)("the family, $build build, $kind input", ({ build, kind }) => {
  beforeAll(() => useBuild(build));

  const numbers = [
    { std: 1, ratio: 0.5, dyStd: 1 },
    { std: 1, ratio: 100, dyStd: 1e-20 },
    { std: 1e-3, ratio: 1e4, dyStd: 1 },
    { std: 1e-30, ratio: 0.5, dyStd: 1 },
    { std: 1e37, ratio: 1, dyStd: 1e20 },
  ];

  it.each(CASES)("$name: y and dx within 4 u, statistics and sums within 1 u", (c) => {
    const { shape, centred } = c;
    for (const { std, ratio, dyStd } of numbers) {
      const size = sizeOf(shape);
      const [x, dy] = [normal(1, size, std, std * ratio), normal(2, size, dyStd)];
      const p = parametersOf(c);
      const [input, upstream] = [make(kind, shape, x), make(kind, shape, dy)];
      const r = c.run(input, p, { epsilon: 0 });
      const truths = once(`${c.name}: ${std} ${ratio} ${dyStd}`, () => oracle(c, x, dy, p, 0));
      expect(worst(r.y.data, truths.y)).toBeLessThanOrEqual(4);
      expect(worst(r.mean, truths.mean)).toBeLessThanOrEqual(1);
      expect(worst(r.invStd, truths.invStd)).toBeLessThanOrEqual(1);
      const { dx, dGamma, dBeta } = normBackward(upstream, r.saved);
      expect(worst(dx?.data, truths.dx)).toBeLessThanOrEqual(4);
      expect(worst(dGamma, truths.dGamma)).toBeLessThanOrEqual(1);
      if (centred) expect(worst(dBeta, truths.dBeta)).toBeLessThanOrEqual(1);
      else expect(dBeta).toBeUndefined();
      drop(input, upstream, r.y, dx);
    }
  });

  it.each(CASES)("$name, without gamma and beta", (c) => {
    const x = normal(1, sizeOf(c.shape), 2, 1);
    const input = make(kind, c.shape, x);
    const r = c.run(input, {}, { epsilon: 1e-3 });
    const truths = once(`${c.name}: without`, () => oracle(c, x, x, {}, 1e-3));
    expect(worst(r.y.data, truths.y)).toBeLessThanOrEqual(4);
    const gradients = normBackward(input, r.saved);
    expect(Object.keys(gradients)).toEqual(["dx"]);
    expect(worst(gradients.dx?.data, truths.dx)).toBeLessThanOrEqual(4);
    drop(input, r.y, gradients.dx);
  });
});

describe.each(BUILDS)("gradients in float64, %s build", (build) => {
  beforeAll(() => useBuild(build));

  const small = [
    instance([2, 3, 5], "channels-first"),
    instance([2, 5, 3], "channels-last"),
    group([2, 4, 3], "channels-first", 2),
    group([2, 4, 33], "channels-first", 2),
    group([2, 5, 4], "channels-last", 2),
    layer([3, 2, 4], 2),
    rms([3, 7], 1),
  ];

  it.each(small)("$name: dx, dGamma and dBeta are the central differences of forward itself", (c) => {
    const size = sizeOf(c.shape);
    const x = Float64Array.from(normal(1, size, 1.5, 0.5));
    const dy = Float64Array.from(normal(2, size));
    const { gamma, beta } = parametersOf(c);
    const p: Record<string, Float64Array> = { gamma: Float64Array.from(gamma) };
    if (beta) p.beta = Float64Array.from(beta);
    const loss = () => {
      const { y } = c.run({ data: x, shape: c.shape }, p, { epsilon: 1e-3 });
      return y.data.reduce((sum: number, value: number, i: number) => sum + value * (dy[i] as number), 0);
    };
    const differences = (at: Float64Array) =>
      Array.from(at, (value, i) => {
        const [up, down] = [1, -1].map((sign) => {
          at[i] = value + sign * 1e-5;
          return loss();
        }) as [number, number];
        at[i] = value;
        return (up - down) / 2e-5;
      });
    const { saved } = c.run({ data: x, shape: c.shape }, p, { epsilon: 1e-3 });
    const { dx, dGamma, dBeta } = normBackward({ data: dy, shape: c.shape }, saved);
    const tolerance = { rtol: 1e-8, atol: 1e-8 };
    expect(dx?.data).toBeAllclose(differences(x), tolerance);
    expect(dGamma).toBeAllclose(differences(p.gamma as Float64Array), tolerance);
    if (p.beta) expect(dBeta).toBeAllclose(differences(p.beta), tolerance);
  });
});

describe.each(WORLDS)("the same bits, $build build, $kind input", ({ build, kind }) => {
  beforeAll(() => useBuild(build));

  const shapes = [
    [[3, 5, 7], "channels-first"],
    [[3, 5, 2], "channels-first"],
    [[3, 4, 6, 6], "channels-first"],
    [[2, 3, 2500], "channels-first"],
    [[3, 7, 5], "channels-last"],
    [[2, 40, 40, 3], "channels-last"],
  ] as const satisfies readonly (readonly [readonly number[], Layout])[];

  it.each(shapes)("instance norm of %j, %s, is batch norm of each sample by itself", (shape, layout) => {
    const size = sizeOf(shape) / shape[0];
    const [x, dy] = [normal(1, sizeOf(shape), 2, 3), normal(2, sizeOf(shape))];
    const p = parametersOf(instance(shape, layout));
    const [input, upstream] = [make(kind, shape, x), make(kind, shape, dy)];
    const r = instanceNormForward(input, p, { layout });
    const { dx, dGamma } = normBackward(upstream, r.saved);
    const sum = new Float64Array(p.gamma.length);
    for (let n = 0; n < shape[0]; n++) {
      const own = [1, ...shape.slice(1)];
      const part = (v: ArrayLike<number>) => Float32Array.from(v).slice(n * size, (n + 1) * size);
      const one = batchNormForward({ data: part(x), shape: own }, p, { layout });
      const b = batchNormBackward({ data: part(dy), shape: own }, one.saved);
      expect(part(r.y.data)).toBeAllclose(one.y.data);
      expect(part(dx?.data ?? [])).toBeAllclose(b.dx?.data ?? []);
      for (let c = 0; c < sum.length; c++) sum[c] = (sum[c] as number) + (b.dGamma?.[c] as number);
    }
    expect(dGamma).toBeAllclose(sum, { rtol: 1e-5, atol: 1e-6 });
    drop(input, upstream, r.y, dx);
  });

  /** Both of two on the same input; gradients too where they are summed in the same order. */
  const same = (shape: readonly number[], a: Case, b: Case, p: Parameters, rtol = 0) => {
    const inputs = [1, 2].map((seed) => make(kind, shape, normal(seed, sizeOf(shape), 2, 3))) as [
      TensorLike,
      TensorLike,
    ];
    const [r, s] = [a, b].map((c) => c.run(inputs[0], p, { epsilon: 1e-5 })) as [
      NormForwardResult<TensorLike>,
      NormForwardResult<TensorLike>,
    ];
    const [g, h] = [r, s].map(({ saved }) => normBackward(inputs[1], saved)) as [
      ReturnType<typeof normBackward>,
      ReturnType<typeof normBackward>,
    ];
    for (const name of ["mean", "invStd"] as const) expect(r[name]).toBeAllclose(s[name]);
    expect(r.y.data).toBeAllclose(s.y.data);
    expect(g.dx?.data).toBeAllclose(h.dx?.data as Float32Array, { rtol, atol: rtol });
    for (const name of ["dGamma", "dBeta"] as const) expect(g[name] ?? []).toBeAllclose(h[name] ?? []);
    drop(...inputs, r.y, s.y, g.dx, h.dx);
  };

  it.each(shapes)("group norm of %j, %s, in as many groups as channels is instance norm", (shape, layout) => {
    const c = instance(shape, layout);
    same(shape, group(shape, layout, c.of.entries), c, parametersOf(c));
  });

  it.each(shapes)("group norm of %j, %s, in one group is layer norm over all but N", (shape, layout) => {
    same(shape, group(shape, layout, 1), layer(shape, shape.length - 1), {}, 1e-6);
  });

  it("group norm of rows in one group is layer norm, gamma and beta included", () => {
    const c = layer([70, 96], 1);
    same(c.shape, group(c.shape, "channels-first", 1), c, parametersOf(c));
  });

  it("layer norm over several axes is layer norm over one", () => {
    const c = layer([5, 4, 3, 6], 2);
    const flat: Case = { ...c, run: (x, p, o) => layerNormForward(x, [3, 6], p, o) };
    same(c.shape, c, flat, parametersOf(c));
  });

  it.each([
    layer([300, 770], 1),
    layer([900, 20], 1),
    rms([300, 770], 1),
    group([40, 6, 800], "channels-first", 2),
    group([900, 20], "channels-first", 2),
    group([6, 50, 6], "channels-last", 3),
  ])("$name: no sample depends on the others", (c) => {
    const size = sizeOf(c.shape);
    const x = normal(1, size);
    const p = parametersOf(c);
    const whole = c.run({ data: x, shape: c.shape }, p);
    const dx = normBackward({ data: x, shape: c.shape }, whole.saved).dx;
    const n = (c.shape[0] as number) - 1;
    const [begin, shape] = [(size * n) / (n + 1), [1, ...c.shape.slice(1)]];
    const last = make(kind, shape, x.slice(begin));
    const one = c.run(last, p);
    expect(one.y.data).toBeAllclose(whole.y.data.slice(begin));
    const own = normBackward(last, one.saved).dx;
    expect(own?.data).toBeAllclose(dx?.data.slice(begin) as Float32Array);
    drop(last, one.y, own);
  });
});

const MIXED = [
  instance([3, 4, 50], "channels-first"),
  group([3, 50, 4], "channels-last", 2),
  group([9, 8, 5], "channels-first", 2),
  layer([50, 64], 1),
  rms([50, 64], 1),
];

describe.each(BUILDS)("elements of other types, %s build", (build) => {
  beforeAll(() => useBuild(build));

  it.each(MIXED)("$name: float64 is within 8 units of its last place", (c) => {
    const size = sizeOf(c.shape);
    const [x, dy] = [1, 2].map((seed) => Float64Array.from(normal(seed, size, 1, 0.5))) as [Float64Array, Float64Array];
    const p: Parameters = {};
    for (const [name, v] of Object.entries(parametersOf(c))) p[name as keyof Parameters] = Float64Array.from(v);
    for (const kind of KINDS) {
      const wrap = (data: Float64Array) => (kind === "plain" ? { data, shape: c.shape } : tensor(c.shape, data));
      const [input, upstream] = [wrap(x), wrap(dy)];
      const r = c.run(input, p, { epsilon: 0 });
      const truths = oracle(c, x, dy, p, 0);
      expect(worst(r.y.data, truths.y)).toBeLessThanOrEqual(8 * 2 ** -29);
      const { dx, dGamma } = normBackward(upstream, r.saved);
      expect(worst(dx?.data, truths.dx)).toBeLessThanOrEqual(8 * 2 ** -29);
      expect(dGamma).toBeInstanceOf(Float64Array);
      expect(worst(dGamma, truths.dGamma)).toBeLessThanOrEqual(8 * 2 ** -29);
      drop(input, upstream, r.y, dx);
    }
  });

  it.each(MIXED.flatMap((c) => (["float16", "bfloat16"] as const).map((dtype) => ({ ...c, dtype }))))(
    "$name: $dtype is the result of float32, rounded once",
    ({ dtype, ...c }) => {
      const { kernels } = defaultHeap();
      const size = sizeOf(c.shape);
      const bits = (values: ArrayLike<number>) => {
        const [wide, narrow] = [tensor(c.shape, Float32Array.from(values)), tensor(c.shape, undefined, { dtype })];
        kernels.narrow(dtype, wide.pointer, narrow.pointer, size);
        const { buffer, byteOffset } = narrow.data;
        const made = new Uint16Array(buffer, byteOffset, size).slice();
        drop(wide, narrow);
        return made;
      };
      const values = (narrow: Uint16Array) => {
        const [source, wide] = [tensor(c.shape, narrow, { dtype }), tensor(c.shape)];
        kernels.widen(dtype, source.pointer, wide.pointer, size);
        const made = wide.data.slice();
        drop(source, wide);
        return made;
      };
      const [x, dy] = [bits(normal(1, size, 2, 3)), bits(normal(2, size))];
      const p = parametersOf(c);
      const r = c.run({ data: values(x), shape: c.shape }, p);
      const g = normBackward({ data: values(dy), shape: c.shape }, r.saved);
      for (const kind of KINDS) {
        const wrap = (data: Uint16Array) =>
          kind === "plain" ? { data, shape: c.shape, dtype } : tensor(c.shape, data, { dtype });
        const [input, upstream] = [wrap(x), wrap(dy)];
        const narrow = c.run(input, p);
        const gradients = normBackward(upstream, narrow.saved);
        const bitsIn = ({ data }: { data: ArrayBufferView }) => new Uint16Array(data.buffer, data.byteOffset, size);
        expect(bitsIn(narrow.y)).toBeAllclose(bits(r.y.data));
        expect(gradients.dx && bitsIn(gradients.dx)).toBeAllclose(bits(g.dx?.data ?? []));
        expect(gradients.dGamma).toBeAllclose(g.dGamma ?? []);
        drop(input, upstream, narrow.y, gradients.dx);
      }
    },
  );
});

describe("calls", () => {
  beforeAll(() => useBuild("simd"));
  const x = { data: normal(1, 48), shape: [2, 4, 6] };

  it.each(MIXED)("$name: write where they are told to, add, and leave out what is not needed", (c) => {
    const size = sizeOf(c.shape);
    const p = parametersOf(c);
    for (const kind of KINDS) {
      const [input, dy] = [make(kind, c.shape, normal(1, size)), make(kind, c.shape, normal(2, size))];
      const out = make(kind, c.shape, new Float32Array(size));
      const r = c.run(input, p, { out });
      expect(r.y).toBe(out);
      const fresh = c.run(input, p);
      expect(out.data).toBeAllclose(fresh.y.data);
      const a = normBackward(dy, r.saved);
      const dGammaOut = new Float32Array(c.of.entries).fill(1);
      const sums = normBackward(dy, r.saved, { needs: { dx: false, dBeta: false }, dGammaOut, accumulate: true });
      expect(Object.keys(sums)).toEqual(["dGamma"]);
      expect(dGammaOut).toBeAllclose(a.dGamma?.map((v) => v + 1) ?? [], { atol: 1e-5 });
      const alone = normBackward(dy, r.saved, { needs: { dGamma: false, dBeta: false }, dxOut: dy });
      expect(alone.dx).toBe(dy);
      expect(dy.data).toBeAllclose(a.dx?.data as Float32Array);
      drop(input, dy, out, fresh.y, a.dx);
    }
  });

  it.each(MIXED)("$name: take plain arrays and tensors together, and free what they allocate", (c) => {
    const size = sizeOf(c.shape);
    const data = normal(1, size);
    const run = (a: "plain" | "tensor", b: "plain" | "tensor") => {
      const [input, out] = [make(a, c.shape, data), make(b, c.shape, new Float32Array(size))];
      const r = c.run<AnyTensor>(input, parametersOf(c), { out });
      const dx = normBackward<AnyTensor>(out, r.saved).dx;
      const numbers = [Float32Array.from(r.y.data), Float32Array.from(dx?.data ?? [])];
      expect(dx instanceof Tensor).toBe(b === "tensor");
      drop(input, out, dx);
      return numbers;
    };
    const expected = run("plain", "plain");
    const { used } = defaultHeap().usage;
    for (const a of KINDS)
      for (const b of KINDS)
        for (const [i, values] of run(a, b).entries()) expect(values).toBeAllclose(expected[i] ?? []);
    expect(defaultHeap().usage.used).toBe(used);
  });

  it("take a view of wasm memory, which growing memory empties", async () => {
    await useBuild("simd");
    const shape = [64, 4096];
    const t = tensor(shape, normal(1, 64 * 4096));
    const expected = layerNormForward({ data: t.data.slice(), shape }, 4096);
    await useBuild("simd");
    const view = tensor(shape, normal(1, 64 * 4096));
    const { y } = layerNormForward({ data: view.data, shape }, 4096);
    expect(y.data).toBeAllclose(expected.y.data);
  });

  it("give an empty batch an empty y, and gradients of zero", () => {
    const gamma = new Float32Array(4).fill(2);
    for (const r of [
      groupNormForward({ data: new Float32Array(), shape: [0, 4, 5] }, 2, { gamma }),
      instanceNormForward({ data: new Float32Array(), shape: [0, 4, 5] }, { gamma }),
      instanceNormForward({ data: new Float32Array(), shape: [0, 4] }, { gamma }),
      instanceNormForward({ data: new Float32Array(), shape: [3, 0, 4] }, { gamma }, { layout: "channels-last" }),
      layerNormForward({ data: new Float32Array(), shape: [0, 4] }, 4, { gamma }),
      rmsNormForward({ data: new Float32Array(), shape: [0, 4] }, 4, { gamma }),
    ]) {
      expect(r.y.data.length).toBe(0);
      const { dx, dGamma } = normBackward(r.y, r.saved);
      expect(dx?.shape).toEqual(r.y.shape);
      expect(dGamma).toBeAllclose([0, 0, 0, 0]);
    }
  });

  it.each(MIXED)("$name: take gamma without beta, and beta without gamma", (c) => {
    const size = sizeOf(c.shape);
    const [input, dy] = [1, 2].map((seed) => ({ data: normal(seed, size), shape: c.shape })) as [
      PlainTensor,
      PlainTensor,
    ];
    const both = parametersOf(c);
    const ones = new Float32Array(c.of.entries).fill(1);
    const neutral = { gamma: ones, ...(both.beta && { beta: ones.map(() => 0) }) };
    for (const name of Object.keys(both) as ("gamma" | "beta")[]) {
      const alone = c.run(input, { [name]: both[name] });
      const expected = c.run(input, { ...neutral, [name]: both[name] });
      expect(alone.y.data).toBeAllclose(expected.y.data);
      const gradients = normBackward(dy, alone.saved);
      const all = normBackward(dy, expected.saved);
      const of = name === "gamma" ? "dGamma" : "dBeta";
      expect(Object.keys(gradients).sort()).toEqual([of, "dx"].sort());
      expect(gradients[of]).toBeAllclose(all[of] as Float32Array);
      expect(gradients.dx.data).toBeAllclose(all.dx.data);
    }
  });

  it("differentiate RMS norm of one element, from which no mean is subtracted", () => {
    const x = { data: Float32Array.of(3, -0.5, 10), shape: [3, 1] };
    const dy = { data: Float32Array.of(1, 2, -3), shape: [3, 1] };
    const { saved, invStd } = rmsNormForward(x, 1, { gamma: Float32Array.of(2) }, { epsilon: 4 });
    const { dx, dGamma } = normBackward(dy, saved);
    const xHat = x.data.map((v, i) => v * (invStd[i] as number));
    const expected = xHat.map((v, i) => 2 * (dy.data[i] as number) * (invStd[i] as number) * (1 - v * v));
    expect(dx.data).toBeAllclose(expected, { rtol: 1e-6 });
    expect(dGamma?.[0]).toBeCloseTo(
      xHat.reduce((sum, v, i) => sum + v * (dy.data[i] as number), 0),
      6,
    );
  });

  it("give beta for groups of one value where there are several, and no dx, as in PyTorch", () => {
    const x = { data: normal(1, 8), shape: [2, 4] };
    const [gamma, beta] = [Float32Array.of(1, 2, 3, 4), Float32Array.of(5, 6, 7, 8)];
    const { y, saved, mean, variance, count } = groupNormForward(x, 4, { gamma, beta });
    expect(y.data).toEqual(Float32Array.of(5, 6, 7, 8, 5, 6, 7, 8));
    expect([count, [...variance]]).toEqual([1, new Array(8).fill(0)]);
    expect(mean).toBeAllclose(x.data);
    const { dx, dGamma, dBeta } = normBackward({ data: normal(2, 8), shape: [2, 4] }, saved);
    expect(dx.data.every((v) => v === 0)).toBe(true);
    expect(dGamma?.every((v) => v === 0)).toBe(true);
    expect(dBeta).toBeAllclose([0, 1, 2, 3].map((c) => (normal(2, 8)[c] as number) + (normal(2, 8)[c + 4] as number)));
  });

  it("return the statistics that normalised: mean, variance and invStd, of `count` values", () => {
    const x = { data: normal(1, 48, 2, 3), shape: [2, 4, 6] };
    const { variance, invStd, count } = groupNormForward(x, 2);
    expect(count).toBe(12);
    expect(invStd).toBeAllclose(variance.map((v) => 1 / Math.sqrt(v + 1e-5)));
    const rms = rmsNormForward(x, 6, {}, { epsilon: 0 });
    expect(rms.variance[0]).toBeCloseTo(x.data.slice(0, 6).reduce((sum, v) => sum + v * v, 0) / 6, 5);
    expect(rms.mean).toEqual(new Float64Array(8));
  });

  it("give a constant group exactly beta, and layer norm of one element too", () => {
    const constant = { data: new Float32Array(48).fill(1e4 + 0.1), shape: [2, 4, 6] };
    const beta = Float32Array.of(1, -2, 3, 4.5);
    const expected = Float32Array.from({ length: 48 }, (_, i) => beta[Math.floor(i / 6) % 4] as number);
    const gamma = beta;
    for (const epsilon of [0, 1e-5]) {
      expect(groupNormForward(constant, 2, { gamma, beta }, { epsilon }).y.data).toBeAllclose(expected);
      expect(instanceNormForward(constant, { gamma, beta }, { epsilon }).y.data).toBeAllclose(expected);
    }
    const rows = { data: Float32Array.of(5, -7, 1e20), shape: [3, 1] };
    const one = { gamma: Float32Array.of(3), beta: Float32Array.of(0.5) };
    expect(layerNormForward(rows, 1, one).y.data).toBeAllclose([0.5, 0.5, 0.5]);
    expect(rmsNormForward(rows, 1, { gamma: one.gamma }, { epsilon: 0 }).y.data).toBeAllclose([3, -3, 3], {
      rtol: 1e-7,
    });
  });

  it("keep NaN and infinity in their group", () => {
    const clean = normal(1, 48);
    const dirty = clean.slice();
    dirty[0] = Number.NaN;
    dirty[13] = Number.POSITIVE_INFINITY;
    const a = groupNormForward({ data: clean, shape: [2, 4, 6] }, 2);
    const b = groupNormForward({ data: dirty, shape: [2, 4, 6] }, 2);
    expect(b.y.data.slice(24)).toBeAllclose(a.y.data.slice(24));
    expect(b.y.data.slice(0, 24).every(Number.isNaN)).toBe(true);
  });

  it("have PyTorch's epsilon by default", () => {
    const zero = (dtype: Float32ArrayConstructor | Float64ArrayConstructor) => ({ data: new dtype(4), shape: [2, 2] });
    expect(layerNormForward(zero(Float32Array), 2).invStd[0]).toBeCloseTo(1 / Math.sqrt(1e-5), 8);
    expect(rmsNormForward(zero(Float32Array), 2).invStd[0]).toBe(1 / Math.sqrt(2 ** -23));
    expect(rmsNormForward(zero(Float64Array), 2).invStd[0]).toBe(1 / Math.sqrt(Number.EPSILON));
    expect(rmsNormForward(zero(Float32Array), 2, {}, { epsilon: 4 }).invStd[0]).toBe(0.5);
  });

  it("refuse what is wrong before anything is written", () => {
    const four = new Float32Array(4);
    const three = new Float32Array(3);
    expect(() => groupNormForward(x, 3)).toThrow(/^groups: expected a divisor of the 4 channels, got 3/);
    for (const wrong of [0, -2, 0.5, Number.NaN])
      expect(() => groupNormForward(x, wrong)).toThrow(/^groups: expected a divisor of the 4 channels, got /);
    expect(() => groupNormForward(x, "2" as never)).toThrow(/^groups: expected a number, got "2"/);
    expect(() => groupNormForward(x, undefined as never)).toThrow(/^groups: expected a number, got undefined/);
    expect(() => groupNormForward(x, 2, { gamma: three })).toThrow(
      /^gamma: expected 4 elements \(4\) for x of shape .*, got 3/,
    );
    expect(() => groupNormForward(x, 2, { gamma: new Float64Array(4) as never })).toThrow(TypeError);
    expect(() => groupNormForward(x, 2, { weight: four } as never)).toThrow(TypeError);
    expect(() => groupNormForward(x, 2, {}, { eps: 1 } as never)).toThrow(TypeError);
    expect(() => groupNormForward(x, 2, {}, { epsilon: -1 })).toThrow(RangeError);
    expect(() => instanceNormForward({ data: four, shape: [4] })).toThrow(/^x.shape: expected rank 2 or more/);
    expect(() => instanceNormForward({ data: new Float32Array(), shape: [2, 0, 3] })).toThrow(
      /^x\.shape: expected at least one channel, got /,
    );
    expect(() => instanceNormForward({ data: new Float32Array(), shape: [2 ** 30, 4, 0] })).toThrow(
      /^x\.shape: expected at most 1073725440 groups or rows, got /,
    );
    const one = expect.objectContaining({ code: "one-value-per-channel" });
    expect(() => instanceNormForward({ data: four, shape: [2, 2, 1] })).toThrow(one);
    expect(() => instanceNormForward({ data: four, shape: [2, 2] }, {}, { layout: "channels-last" })).toThrow(
      /^x: expected more than 1 spatial element, got input size 2×2/,
    );
    expect(() => groupNormForward({ data: four, shape: [1, 4] }, 4)).toThrow(
      /^x: expected more than 1 value per group/,
    );
    expect(() => layerNormForward(x, 4)).toThrow(
      /^normalizedShape: expected the last axes of x.shape, \[2,4,6\], got 4/,
    );
    expect(() => layerNormForward(x, [])).toThrow(RangeError);
    expect(() => layerNormForward(x, [1, 2, 4, 6])).toThrow(RangeError);
    expect(() => layerNormForward(x, "6" as never)).toThrow(
      /^normalizedShape: expected a number or an array of dimensions, got "6"/,
    );
    expect(() => layerNormForward(x, [4, 6], { gamma: four })).toThrow(
      /^gamma: expected 24 elements \(4×6\) for x of shape .*, got 4/,
    );
    expect(() => layerNormForward(x, 6, {}, { layout: "channels-last" } as never)).toThrow(TypeError);
    expect(() => rmsNormForward(x, 6, { beta: new Float32Array(6) } as never)).toThrow(TypeError);
    expect(() => layerNormForward(x, 6, {}, { out: x })).toThrow(
      expect.objectContaining({ code: "in-place", message: expect.stringMatching(/^out: .* than x, /) }),
    );
    expect(() => layerNormForward(x, 6, {}, { out: { data: four, shape: [4] } })).toThrow(RangeError);
  });

  it("refuse a backward that does not fit", () => {
    const { saved } = groupNormForward(x, 2, { gamma: new Float32Array(4).fill(1) });
    const code = (expected: string) => expect.objectContaining({ code: expected });
    expect(() => normBackward({ data: x.data, shape: [4, 2, 6] }, saved)).toThrow(/^dy: expected shape 2×4×6/);
    expect(() => normBackward({ data: Float64Array.from(x.data), shape: x.shape } as never, saved)).toThrow(TypeError);
    expect(() => batchNormBackward(x, saved as never)).toThrow(/^saved: .* normBackward takes those of other norms/);
    expect(() => normBackward(x, null as never)).toThrow(/^saved: expected the record of a forward/);
    const dy = { data: x.data.slice(), shape: x.shape };
    expect(() => normBackward(dy, saved, { dxOut: x })).toThrow(code("in-place"));
    expect(() => normBackward(dy, saved, { dxOut: x })).toThrow(/^dxOut: .* than x, /);
    const memory = new Float32Array(49);
    const shifted = { data: memory.subarray(1), shape: x.shape };
    expect(() => normBackward(shifted, saved, { dxOut: { data: memory.subarray(0, 48), shape: x.shape } })).toThrow(
      /^dxOut: expected memory of its own, or exactly dy's, got an array that overlaps dy /,
    );
    for (const [other, source, dxOut] of [
      ["x", x.data, undefined],
      ["dy", dy.data, undefined],
      ["dxOut", memory, shifted],
    ] as const)
      for (const name of ["dGammaOut", "dBetaOut"])
        expect(() => normBackward(dy, saved, { [name]: source.subarray(8, 12), ...(dxOut && { dxOut }) })).toThrow(
          new RegExp(`^${name}: .* ${other}`),
        );
    expect(() => normBackward(dy, saved, { needs: [] as never })).toThrow(/^needs: expected /);
    for (const name of ["dx", "dGamma", "dBeta"])
      expect(() => normBackward(dy, saved, { needs: { [name]: 1 } })).toThrow(`needs.${name}: expected `);
    expect(() => normBackward(dy, saved, { accumulate: 1 as never })).toThrow(/^accumulate: expected /);
    expect(() => normBackward(dy, saved, { dGammaOut: new Float32Array(3) })).toThrow(/^dGammaOut: expected 4/);
    expect(() => normBackward(dy, saved, { needs: { dResidual: true } } as never)).toThrow(TypeError);
    expect(() => normBackward(dy, saved, { sums: {} } as never)).toThrow(TypeError);
    const changed = { data: x.data.slice(), shape: x.shape };
    const changedSaved = groupNormForward(changed, 2).saved;
    changed.data = changed.data.slice(1);
    expect(() => normBackward(dy, changedSaved)).toThrow(/^x: expected 48 elements/);
    const gone = tensor([2, 4, 6], x.data);
    const of = groupNormForward(gone, 2);
    gone.dispose();
    expect(() => normBackward(dy, of.saved)).toThrow(code("disposed"));
    drop(of.y);
  });

  it("refuse a dy and a destination of another memory than x's", () => {
    const memory = new WebAssembly.Memory({ initial: 1 });
    const other = attachMemory({ memory, malloc: () => 1024, free: () => undefined }).tensor([2, 4, 6], x.data);
    const own = tensor([2, 4, 6], x.data);
    const { y, saved } = groupNormForward(own, 2);
    const refused = (name: string) =>
      expect.objectContaining({ code: "other-memory", message: expect.stringMatching(`^${name}: `) });
    expect(() => normBackward(other, saved)).toThrow(refused("dy"));
    expect(() => groupNormForward(own, 2, {}, { out: other })).toThrow(refused("out"));
    drop(own, y);
  });

  it("overwrite the gradients of gamma and beta that they are given, and add to them if they are asked to", () => {
    const vector = (value: number) => new Float32Array(4).fill(value);
    const { saved } = groupNormForward(x, 2, { gamma: vector(2), beta: vector(1) });
    const dy = { data: normal(9, 48), shape: x.shape };
    const { dGamma, dBeta } = normBackward(dy, saved);
    const [dGammaOut, dBetaOut] = [vector(7), vector(8)];
    const given = normBackward(dy, saved, { dGammaOut, dBetaOut });
    expect([given.dGamma, given.dBeta]).toEqual([dGamma, dBeta]);
    expect(given.dGamma === dGammaOut && given.dBeta === dBetaOut).toBe(true);
    normBackward(dy, saved, { dGammaOut: dGammaOut.fill(0), dBetaOut: dBetaOut.fill(0), accumulate: true });
    expect([dGammaOut, dBetaOut]).toEqual([dGamma, dBeta]);
  });
});
