// batchnorm-wasm/tfjs: the operations, their gradients, the kernel that replaces TF.js's, and access to tensors.

import * as tf from "@tensorflow/tfjs-core";
import { layers } from "@tensorflow/tfjs-layers";
import { afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { batchNormBackward } from "../../src/ops/backward.ts";
import { batchNormForward, batchNormInference as facadeInference } from "../../src/ops/batch-norm.ts";
import { accessTo } from "../../src/tfjs/access.ts";
import {
  batchNorm,
  batchNormalization,
  batchNormInference,
  info,
  init,
  registerKernels,
  stopThreads,
} from "../../src/tfjs/index.ts";
import { BACKENDS, hiding, read, readAll, useBackend } from "../support/tfjs.ts";
import { normal, sizeOf } from "../support/worlds.ts";

const EPSILON = 1e-3;

const total = (t: tf.Tensor) => tf.sum(t) as tf.Scalar;

/** Shapes with the axis of the channels: every rank, every place, short and long. */
const CASES: readonly (readonly [shape: readonly number[], axis: number])[] = [
  [[7, 5], -1],
  [[33, 12], 1],
  [[4, 9, 6], -1],
  [[4, 9, 6], 1],
  [[4, 9, 6], 0],
  [[3, 5, 4, 6], -1],
  [[3, 5, 4, 6], 1],
  [[3, 5, 4, 6], 2],
  [[2, 3, 4, 5, 6], -1],
  [[2, 3, 4, 5, 6], 1],
  [[2, 3, 4, 5, 6], -3],
  [[2, 3, 2, 3, 2, 4], 4],
  [[40, 30, 8], 1],
  [[9], -1],
];

/** The same data for the facade: [outer, C, inner]. */
function planes(shape: readonly number[], axis: number) {
  const at = axis < 0 ? axis + shape.length : axis;
  return [sizeOf(shape.slice(0, at)), shape[at] as number, sizeOf(shape.slice(at + 1))] as const;
}

const OUT_OF_REACH = "the backend's tensors are neither arrays of JavaScript nor in memory of WebAssembly";

const [COMPOSED] = BACKENDS.filter(({ memory }) => memory === "composed");

const REASONS = {
  wasm: "the kernels run on the memory of TF.js's wasm backend",
  hidden: "the backend does not show its memory",
  cpu: "the backend's tensors are arrays of JavaScript",
  device: OUT_OF_REACH,
  webgl: OUT_OF_REACH,
  webgpu: OUT_OF_REACH,
};

describe.each(BACKENDS)("on the backend $backend", ({ backend, memory }) => {
  beforeAll(() => useBackend(backend));
  beforeEach(() => tf.engine().startScope());
  afterEach(() => tf.engine().endScope());

  const composed = memory === "composed";

  /** Expects the facade's bits, or of composed operations, the same within the rounding of a few float32 operations. */
  function expectSame(actual: ArrayLike<number>, expected: ArrayLike<number> | undefined): void {
    const most = Array.from(expected ?? []).reduce((a, b) => Math.max(a, Math.abs(b)), 0);
    if (composed) expect(actual).toBeAllclose(expected ?? [], { rtol: 2e-6, atol: 2e-6 * most });
    else expect(actual).toEqual(expected);
  }

  it("tells how tensors are reached, and why", async () => {
    expect(info()).toMatchObject({ backend, memory, reason: REASONS[backend] });
    expect(composed ? ["none"] : ["simd", "relaxed"]).toContain(info().build);
  });

  it("has threads only where they can share TF.js's memory, and says why", async () => {
    const warn = vi.spyOn(console, "warn").mockImplementation(() => {});
    const { crossOriginIsolated } = globalThis as { crossOriginIsolated?: boolean }; // undefined in Node
    const inPlace = memory === "in place";
    await init({ threads: 2 }); // test/browser/tfjs.test.ts has the pool itself
    const two = inPlace && crossOriginIsolated === true;
    expect(info().threads).toBe(two ? 2 : 1);
    if (composed) expect(info().threadsReason).toMatch("TF.js's own operations compute");
    else if (!inPlace) expect(info().threadsReason).toMatch("copies of TF.js's tensors");
    else if (!two) expect(info().threadsReason).toMatch(/TF.js's memory is not shared|not cross-origin isolated/);
    await stopThreads();
    expect(info().threads).toBe(1);
    warn.mockRestore();
  });

  it("refuses wrong options of init", async () => {
    await expect(init({ threads: 0 })).rejects.toThrow(/^threads: expected an integer from 1 to/);
    await expect(init({ module: 1 } as never)).rejects.toThrow(TypeError);
    await expect(init()).resolves.toBeUndefined();
  });

  const cases = CASES.filter(([shape]) => shape.length > 1);
  describe.each(cases)("x of %j, channels on axis %i", async (shape, axis) => {
    const [outer, channels, inner] = planes(shape, axis);
    const x = normal(1, sizeOf(shape), 2, 3);
    const dy = normal(2, sizeOf(shape));
    const gamma = normal(3, channels, 1, 1);
    const beta = normal(4, channels);
    const plain = (data: Float32Array) => ({ data, shape: [outer, channels, inner] });

    it.each([
      ["gamma and beta", gamma, beta],
      ["gamma alone", gamma, null],
      ["beta alone", null, beta],
      ["neither", null, null],
    ])("has the facade's bits with %s, forward and backward", async (_, gamma, beta) => {
      const expected = batchNormForward(plain(x), { gamma, beta }, { epsilon: EPSILON });
      const gradients = batchNormBackward(plain(dy), expected.saved);
      const scale = { gamma: gamma && tf.tensor1d(gamma), beta: beta && tf.tensor1d(beta) };
      const { y, mean, variance } = batchNorm(tf.tensor(x, [...shape]), scale, { axis });
      expect(y.shape).toEqual(shape);
      expectSame(await read(y), expected.y.data);
      expectSame(await read(mean), Float32Array.from(expected.mean));
      expectSame(await read(variance), Float32Array.from(expected.variance));

      const parameters = [scale.gamma, scale.beta].filter((t) => t !== null);
      const f = (x: tf.Tensor, ...rest: tf.Tensor[]) => {
        const own = { gamma: gamma ? rest.shift() : null, beta: beta ? rest.shift() : null } as typeof scale;
        return batchNorm(x, own, { axis }).y;
      };
      const [dx, ...others] = tf.grads(f)([tf.tensor(x, [...shape]), ...parameters], tf.tensor(dy, [...shape]));
      expect((dx as tf.Tensor).shape).toEqual(shape);
      expectSame(await read(dx as tf.Tensor), gradients.dx?.data);
      const wanted = [gamma && gradients.dGamma, beta && gradients.dBeta].filter((v) => v);
      expect(others).toHaveLength(wanted.length);
      for (const [i, vector] of wanted.entries())
        expectSame(await read(others[i] as tf.Tensor), vector as Float32Array);
    });

    it("has the facade's bits by given statistics", async () => {
      const mean = normal(5, channels);
      const variance = normal(6, channels).map((v) => v * v);
      const given = { gamma, beta, mean, variance };
      const expected = facadeInference(plain(x), given, { epsilon: 0.01 });
      const gradients = batchNormBackward(plain(dy), expected.saved);
      const [m, v] = [tf.tensor1d(mean), tf.tensor1d(variance)];
      const f = (x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) =>
        batchNormInference(x, { gamma, beta, mean: m, variance: v }, { axis, epsilon: 0.01 });
      const inputs = [tf.tensor(x, [...shape]), tf.tensor1d(gamma), tf.tensor1d(beta)];
      const { value, grads } = tf.valueAndGrads(f)(inputs, tf.tensor(dy, [...shape]));
      expectSame(await read(value), expected.y.data);
      for (const [i, wanted] of [gradients.dx?.data, gradients.dGamma, gradients.dBeta].entries())
        expectSame(await read(grads[i] as tf.Tensor), wanted);
    });
  });

  it("takes a mask of booleans or weights in x's shape without the channels", async () => {
    const shape = [3, 4, 5];
    const x = normal(1, sizeOf(shape), 2, 3);
    const dy = normal(2, sizeOf(shape));
    const booleans = [1, 1, 0, 1, 1, 0, 0, 0, 1, 1, 1, 1];
    const weights = booleans.map((b, i) => b * (1 + (i % 3)));
    for (const [mask, dtype] of [
      [booleans, "bool"],
      [weights, "float32"],
    ] as const) {
      const options = { layout: "channels-last", epsilon: EPSILON, mask } as const;
      const expected = batchNormForward({ data: x, shape }, {}, options);
      const { dx } = batchNormBackward({ data: dy, shape }, expected.saved);
      const f = (x: tf.Tensor) => batchNorm(x, {}, { mask: tf.tensor2d(mask, [3, 4], dtype) }).y;
      const { value, grad } = tf.valueAndGrad(f)(tf.tensor(x, [3, 4, 5]), tf.tensor(dy, [3, 4, 5]));
      expectSame(await read(value), expected.y.data);
      expectSame(await read(grad), dx?.data);
    }
    const first = batchNorm(tf.tensor(x, [3, 5, 4]), {}, { axis: 1, mask: tf.tensor2d(booleans, [3, 4]) });
    const planes = batchNormForward({ data: x, shape: [3, 5, 4] }, {}, { epsilon: EPSILON, mask: booleans });
    expectSame(await read(first.y), planes.y.data);
  });

  it.each([0, EPSILON])("gives exactly beta for a constant channel, with epsilon %f", async (epsilon) => {
    const constants = [0.1, -12345.678, 3e-20, 0];
    for (const axis of [0, 1]) {
      const rows = Array.from({ length: 301 }, () => constants);
      const x = axis === 1 ? tf.tensor2d(rows) : tf.transpose(tf.tensor2d(rows));
      const [gamma, beta] = [tf.tensor1d([1, 2, -3, 1e3]), tf.tensor1d([0.5, -2, 7, 0])];
      const f = (x: tf.Tensor) => batchNorm(x, { gamma, beta }, { axis, epsilon }).y;
      const { value, grad } = tf.valueAndGrad(f)(x, tf.ones(x.shape));
      expect(await read(value)).toEqual(await read(tf.add(tf.zeros(x.shape), axis ? beta : tf.reshape(beta, [4, 1]))));
      expect(await read(grad)).toBeAllclose(new Float32Array(x.size), { atol: 1e-3 });
    }
  });

  it("lets NaN under a mask reach nothing but its own place", async () => {
    const [x, dy] = [normal(1, 60, 2, 3), normal(2, 60)];
    const kept = Array.from({ length: 12 }, (_, i) => i % 4 < 2);
    const at = (i: number) => kept[Math.floor(i / 5)] as boolean;
    const mask = tf.tensor2d(kept, [3, 4], "bool");
    const spoilt = {
      x: x.map((v, i) => (at(i) ? v : ([Number.NaN, Infinity, 1e30][i % 3] as number))),
      dy: dy.map((v, i) => (at(i) ? v : 0)),
    };
    const compact = (data: Float32Array) => data.filter((_, i) => at(i));
    const gamma = tf.tensor1d(normal(3, 5, 1, 1));
    const results = async (x: tf.Tensor, dy: tf.Tensor, mask?: tf.Tensor) => {
      const f = (x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) =>
        batchNorm(x, { gamma, beta }, mask ? { mask } : {}).y;
      const { value, grads } = tf.valueAndGrads(f)([x, gamma, tf.zeros([5])], dy);
      const { mean, variance } = batchNorm(x, {}, mask ? { mask } : {});
      return readAll([value, ...grads, mean, variance]);
    };
    const masked = await results(tf.tensor3d(spoilt.x, [3, 4, 5]), tf.tensor3d(spoilt.dy, [3, 4, 5]), mask);
    const expected = await results(tf.tensor2d(compact(x), [6, 5]), tf.tensor2d(compact(dy), [6, 5]));
    for (const [i, values] of masked.entries())
      expect(i < 2 ? compact(values) : values).toBeAllclose(expected[i] as Float32Array, { rtol: 1e-5, atol: 1e-5 });
  });

  it("casts other types of numbers, and their gradients flow", async () => {
    const x = tf.tensor2d([1, 2, 3, 4, 5, 9], [3, 2], "int32");
    expect(await read(batchNorm(x).y)).toEqual(await read(batchNorm(tf.cast(x, "float32")).y));
    expect(batchNorm(x).y.dtype).toBe("float32");
  });

  it("differentiates inside a longer computation as TF.js's own composition does", async () => {
    const x = tf.tensor4d(normal(1, 4 * 6 * 6 * 8, 2, 1), [4, 6, 6, 8]);
    const [gamma, beta, w] = [normal(2, 8, 0.5, 1), normal(3, 8), normal(4, 8)].map((v) => tf.tensor1d(v));
    const loss = (norm: typeof ours) => (x: tf.Tensor, g: tf.Tensor, b: tf.Tensor) =>
      total(tf.mul(tf.tanh(norm(tf.square(x), tf.exp(g), tf.mul(b, 3))), w as tf.Tensor));
    const ours = (x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) => batchNorm(x, { gamma, beta }).y;
    const theirs = (x: tf.Tensor, g: tf.Tensor, b: tf.Tensor) => {
      const { mean, variance } = tf.moments(x, [0, 1, 2]);
      return tf.batchNorm(x, mean as tf.Tensor1D, variance as tf.Tensor1D, b as tf.Tensor1D, g as tf.Tensor1D, EPSILON);
    };
    const inputs = [x, gamma as tf.Tensor, beta as tf.Tensor];
    const [a, b] = [ours, theirs].map((norm) => tf.valueAndGrads(loss(norm))(inputs));
    expect(await read(a?.value as tf.Tensor)).toBeAllclose(await read(b?.value as tf.Tensor), {
      rtol: 1e-4,
      atol: 1e-4,
    });
    for (const i of [0, 1, 2]) {
      const [mine, other] = (await readAll([a?.grads[i], b?.grads[i]] as tf.Tensor[])) as [Float32Array, Float32Array];
      expect(mine).toBeAllclose(other, { rtol: 1e-3, atol: 1e-3 * Math.max(...other.map(Math.abs)) });
    }
  });

  it.each([
    ["batch", true],
    ["given", false],
  ])("differentiates twice with %s statistics, as TF.js's own composition does", async (_, batch) => {
    const shape: [number, number] = [12, 4];
    const [mean, variance] = [tf.tensor1d(normal(7, 4)), tf.tensor1d([1, 2, 0.5, 3])];
    const ours = (x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) =>
      batch ? batchNorm(x, { gamma, beta }).y : batchNormInference(x, { gamma, beta, mean, variance });
    // written out, since a gradient of TF.js's own kernel is not what is tested here
    const theirs = (x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) => {
      const m = batch ? tf.mean(x, 0) : mean;
      const v = batch ? tf.mean(tf.square(tf.sub(x, m)), 0) : variance;
      return tf.add(tf.mul(tf.div(tf.sub(x, m), tf.sqrt(tf.add(v, EPSILON))), gamma), beta);
    };
    const c = tf.tensor2d(normal(5, 48), shape);
    /** A penalty on every first gradient. */
    const penalty = (norm: typeof ours) => (x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) => {
      // y³, since TF.js differentiates no operation twice whose gradient is made of its own result, as tanh's is
      const inner = (x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) => {
        const y = norm(x, gamma, beta);
        return total(tf.mul(tf.mul(c, y), tf.square(y)));
      };
      const [dx, dGamma, dBeta] = tf.grads(inner)([x, gamma, beta]) as [tf.Tensor, tf.Tensor, tf.Tensor];
      return tf.addN([total(tf.square(dx)), total(tf.square(dGamma)), total(tf.square(dBeta))]) as tf.Scalar;
    };
    const inputs = [
      tf.tensor2d(normal(1, 48, 2, 1), shape),
      tf.tensor1d(normal(2, 4, 1, 1)),
      tf.tensor1d(normal(3, 4)),
    ];
    const [a, b] = await Promise.all([ours, theirs].map((norm) => readAll(tf.grads(penalty(norm))(inputs))));
    for (const [i, other] of (b as Float32Array[]).entries()) {
      const size = Math.max(...other.map(Math.abs));
      expect(size).toBeGreaterThan(0.1);
      expect(a?.[i]).toBeAllclose(other, { rtol: 1e-3, atol: 1e-4 * size });
    }
  });

  it.each([
    ["batch statistics", true, false],
    ["batch statistics under a mask", true, true],
    ["given statistics", false, false],
  ])("differentiates three times and more with %s, as TF.js's own operations do", async (_, batch, masked) => {
    const [mean, variance] = [tf.tensor1d([0.5, -1]), tf.tensor1d([1, 2])];
    const weights = tf.tensor1d(masked ? [1, 0, 1, 1, 0, 1, 1] : [1, 1, 1, 1, 1, 1, 1]);
    type Norm = (x: tf.Tensor, gamma?: tf.Tensor, beta?: tf.Tensor) => tf.Tensor;
    const ours: Norm = (x, gamma, beta) => {
      const parameters = { gamma: gamma ?? null, beta: beta ?? null };
      if (!batch) return batchNormInference(x, { ...parameters, mean, variance });
      if (!masked) return batchNorm(x, parameters).y;
      const mask = tf.cast(weights, "bool");
      const { y } = batchNorm(x, parameters, { mask });
      mask.dispose(); // derivatives that are composed later do not need it
      return y;
    };
    const theirs: Norm = (x, gamma, beta) => {
      const [column, n] = [tf.reshape(weights, [7, 1]), tf.sum(weights)];
      const average = (t: tf.Tensor) => tf.div(tf.sum(tf.mul(t, column), 0), n);
      const m = batch ? average(x) : mean;
      const v = batch ? average(tf.square(tf.sub(x, m))) : variance;
      const xHat = tf.div(tf.sub(x, m), tf.sqrt(tf.add(v, EPSILON)));
      return tf.add(tf.mul(xHat, gamma ?? 1), beta ?? 0);
    };
    const c = tf.tensor2d(normal(5, 14), [7, 2]);
    /** A weighted sum of all gradients of the function of the order before. The first is of y⁵; a masked y counts nowhere. */
    const derivative = (norm: Norm, order: number): ((...inputs: tf.Tensor[]) => tf.Scalar) =>
      order === 0
        ? (...inputs) => {
            const y = norm(...(inputs as [tf.Tensor]));
            const square = tf.square(y);
            return total(tf.mul(tf.mul(c, tf.reshape(weights, [7, 1])), tf.mul(y, tf.mul(square, square))));
          }
        : (...inputs) => {
            const gradients = tf.grads(derivative(norm, order - 1))(inputs);
            return tf.addN(gradients.map((t) => total(tf.mul(t, t.rank === 2 ? c : tf.slice(c, 1, 1))))) as tf.Scalar;
          };
    const all = [tf.tensor2d(normal(1, 14), [7, 2]), tf.tensor1d([0.5, 1.5]), tf.tensor1d([0.1, -0.2])];
    for (const inputs of [all, all.slice(0, 1)])
      for (const order of [1, 2, 3]) {
        const [a, b] = await Promise.all(
          [ours, theirs].map((norm) => readAll(tf.grads(derivative(norm, order))(inputs))),
        );
        for (const [i, other] of (b as Float32Array[]).entries()) {
          const size = Math.max(...other.map(Math.abs));
          expect(size).toBeGreaterThan(0);
          expect(a?.[i]).toBeAllclose(other, { rtol: 1e-2, atol: 1e-3 * size });
        }
      }
  });

  it("gives an empty y and zeros for an empty batch", async () => {
    const f = (x: tf.Tensor, gamma: tf.Tensor) => batchNorm(x, { gamma }).y;
    const { value, grads } = tf.valueAndGrads(f)([tf.zeros([0, 3]), tf.ones([3])], tf.zeros([0, 3]));
    expect(value.shape).toEqual([0, 3]);
    expect(grads.map((t) => t.shape)).toEqual([[0, 3], [3]]);
    expect(await read(grads[1] as tf.Tensor)).toEqual(new Float32Array(3));
    const { mean, variance } = batchNorm(tf.zeros([0, 3]));
    expect([await read(mean), await read(variance)]).toEqual([new Float32Array(3), new Float32Array(3)]);
    const given = { mean: tf.ones([3]), variance: tf.ones([3]) };
    expect(batchNormInference(tf.zeros([0, 3]), given).shape).toEqual([0, 3]);
  });

  it("keeps to float32 where mean ≫ std, as TF.js does not", async () => {
    const x = tf.tensor2d(normal(1, 4096 * 2, 1, 1e4), [4096, 2]);
    const { variance } = batchNorm(x);
    expect(await read(variance)).toBeAllclose([1, 1], { rtol: 0.1 });
    const y = await read(batchNorm(x).y);
    const expected = batchNormForward({ data: await read(x), shape: [4096, 2] }, {}, { epsilon: EPSILON });
    expectSame(y, expected.y.data);
  });

  it("works after memory has grown, and gives all of it back", async () => {
    const before = tf.memory().numBytes;
    tf.engine().startScope();
    {
      const x = tf.tensor2d(normal(1, 64 * 8), [64, 8]);
      const first = await read(batchNorm(x).y);
      const large = Array.from({ length: 6 }, () => tf.zeros([1 << 20]));
      expect(await read(batchNorm(x).y)).toEqual(first);
      const big = batchNorm(tf.reshape(large[0] as tf.Tensor, [1024, 1024]));
      expect((await read(big.y)).every((v) => v === 0)).toBe(true);
    }
    tf.engine().endScope();
    expect(tf.memory().numBytes).toBe(before);
  });

  it("leaks no tensor when it throws", async () => {
    const x = tf.ones([1, 3]);
    const before = { ...tf.memory() };
    expect(() => batchNorm(x)).toThrow(
      /^Expected more than 1 value per channel when training, got input size 1×3: .*; pass a larger batch, or use batchNormInference/,
    );
    expect(() => tf.grad((x: tf.Tensor) => batchNorm(x).y)(x)).toThrow("Expected more than 1 value");
    expect(tf.memory().numTensors).toBe(before.numTensors);
    expect(tf.memory().numDataBuffers).toBe(before.numDataBuffers);
  });

  it("leaks no tensor over forward, backward and double backward", async () => {
    const x = tf.tensor2d(normal(1, 24), [6, 4]);
    const gamma = tf.ones([4]);
    const f = (x: tf.Tensor, gamma: tf.Tensor) => total(tf.square(batchNorm(x, { gamma }).y));
    const penalty = (x: tf.Tensor) => total(tf.square(tf.grads(f)([x, gamma])[0] as tf.Tensor));
    const round = () => {
      const { y, mean, variance } = batchNorm(x, { gamma });
      tf.dispose([y, mean, variance, tf.grads(f)([x, gamma]), tf.grad(penalty)(x)]);
    };
    round();
    const before = { ...tf.memory() };
    for (let i = 0; i < 20; i++) round();
    expect(tf.memory()).toMatchObject({ numTensors: before.numTensors, numDataBuffers: before.numDataBuffers });
  });

  it("keeps x for its gradient without a copy where clones share elements, and x may be disposed of", async () => {
    const { kernelFunc } = tf.getKernel("Identity", backend);
    const x = tf.tensor2d(normal(1, 24), [6, 4]);
    let added = 0;
    const f = (x: tf.Tensor) => {
      const z = tf.square(x);
      const before = tf.memory().numDataBuffers;
      const { y } = batchNorm(z);
      added = tf.memory().numDataBuffers - before;
      z.dispose();
      return y;
    };
    const dx = await read(tf.grad(f)(x, x));
    // y, mean and variance; TF.js's wasm backend copies for a clone; composed, vectors for the gradient
    expect(added).toBe({ wasm: 3, cpu: 3, hidden: 4, device: 5, webgl: 5, webgpu: 5 }[backend]);
    const undisturbed = tf.grad((x: tf.Tensor) => batchNorm(tf.square(x)).y)(x, x);
    expect(dx).toEqual(await read(undisturbed));
    expect(tf.getKernel("Identity", backend).kernelFunc).toBe(kernelFunc);
  });

  it("infers in a build of TF.js without gradients, which may lack the kernel Identity", async () => {
    const identity = tf.getKernel("Identity", backend);
    const given = { mean: tf.zeros([2]), variance: tf.ones([2]) };
    const x = tf.tensor2d([1, 2, 3, 4], [2, 2]);
    tf.unregisterKernel("Identity", backend);
    try {
      expect(await read(batchNormInference(x, given, { epsilon: 0 }))).toEqual(new Float32Array([1, 2, 3, 4]));
    } finally {
      tf.registerKernel(identity);
    }
  });

  it("is profiled by TF.js under its own names", async () => {
    const f = (x: tf.Tensor) => batchNorm(x).y;
    const profile = await tf.profile(() => tf.grad(f)(tf.tensor2d([1, 2, 3, 4], [2, 2])));
    if (composed) expect(profile.kernelNames).not.toContain("BatchNormWasmGradient");
    else expect(profile.kernelNames).toContain("BatchNormWasmGradient");
  });

  it("says name, expected and got of wrong arguments", async () => {
    const x = tf.ones([4, 3]);
    const bad = (call: () => unknown, error: new (message: string) => Error, message: RegExp) => {
      expect(call).toThrow(error);
      expect(call).toThrow(message);
    };
    bad(() => batchNorm([1, 2] as never), TypeError, /^x: expected a tf.Tensor/);
    bad(() => batchNorm(tf.tensor1d(["a"])), TypeError, /^x: expected a tensor of numbers, got "string"/);
    bad(() => batchNorm(x, {}, { axis: 2 }), RangeError, /^axis: expected an axis of a tensor of rank 2, got 2/);
    bad(() => batchNorm(x, {}, { axis: 0.5 }), RangeError, /^axis/);
    bad(() => batchNorm(x, { gamma: tf.ones([4]) }), RangeError, /^gamma: expected 3 elements \(3\), got 4/);
    bad(() => batchNorm(x, { beta: tf.ones([3, 1]) }), RangeError, /^beta: expected shape 3, got 3×1/);
    bad(() => batchNorm(x, { gama: tf.ones([3]) } as never), TypeError, /^scale: expected options among gamma, beta/);
    bad(() => batchNorm(x, {}, { eps: 1 } as never), TypeError, /^options: expected options among axis, epsilon, mask/);
    bad(() => batchNorm(x, {}, { epsilon: -1 }), RangeError, /^epsilon/);
    bad(() => batchNorm(x, {}, { mask: tf.ones([3]) }), RangeError, /^mask: expected shape 4, got 3/);
    if (!composed)
      bad(
        () => batchNorm(x, {}, { mask: tf.fill([4], -1) }),
        RangeError,
        /^mask\[0\]: expected a finite weight ≥ 0, got -1/,
      );
    const mean = tf.zeros([3]);
    bad(() => batchNormInference(x, { mean } as never), TypeError, /^variance: expected a tf.Tensor, got undefined/);
    const given = { mean, variance: mean, mask: mean };
    bad(() => batchNormInference(x, given as never), TypeError, /^parameters: expected options among/);
  });

  it("refuses tensors that are disposed of, by name", async () => {
    const x = tf.ones([4, 3]);
    const gone = tf.ones([3]);
    gone.dispose();
    const refused = (call: () => unknown, name: string) =>
      expect(call).toThrow(
        expect.objectContaining({
          code: "disposed",
          message: expect.stringMatching(`^${name}: expected one that is alive`),
        }),
      );
    refused(() => batchNorm(x, { gamma: gone }), "gamma");
    refused(() => batchNormInference(x, { mean: gone, variance: gone }), "mean");
    x.dispose();
    refused(() => batchNorm(x), "x");
  });
});

describe("composed of TF.js's operations", () => {
  beforeAll(() => useBackend(COMPOSED?.backend as string));
  beforeEach(() => tf.engine().startScope());
  afterEach(() => tf.engine().endScope());

  it("launches 28 kernels for a training step of the layer, 9 of them on all of x; TF.js's layer 44 and 23", async () => {
    // kernels that work on no element
    const views = ["Reshape", "Identity"];
    const size = 8 * 5 * 5 * 4;
    /** The number of kernels, and of those whose result has the size of x. */
    const launches = async (f: () => unknown) => {
      const { kernels } = await tf.profile(() => f() as tf.Tensor);
      const all = kernels.filter(({ name }) => tf.getKernel(name, tf.getBackend()) && !views.includes(name));
      const large = all.filter(({ outputShapes }) => outputShapes.some((shape) => sizeOf(shape as number[]) === size));
      return [all.length, large.length] as const;
    };
    const x = tf.variable(tf.tensor4d(normal(1, size), [8, 5, 5, 4]));
    const dy = tf.tensor4d(normal(2, size), [8, 5, 5, 4]);
    const loss = (f: () => tf.Tensor, variables: readonly tf.Variable[]) =>
      launches(() => tf.variableGrads(() => tf.sum(tf.mul(f(), dy)) as tf.Scalar, [x, ...variables]).value);
    const alone = await loss(() => x, []);
    const step = async (f: () => tf.Tensor, variables: readonly tf.Variable[]) =>
      (await loss(f, variables)).map((count, i) => count - (alone[i] as number));
    const [gamma, beta] = [tf.variable(tf.ones([4])), tf.variable(tf.zeros([4]))];
    expect(await step(() => batchNorm(x, { gamma, beta }).y, [gamma, beta])).toEqual([17, 9]);
    const expected = [
      [batchNormalization, [28, 9]],
      [layers.batchNormalization as never as typeof batchNormalization, [44, 23]],
    ] as const;
    for (const [make, counts] of expected) {
      const layer = make({});
      layer.apply(x);
      const variables = layer.trainableWeights.map((w) => w.read() as tf.Variable);
      expect(await step(() => layer.apply(x, { training: true }) as tf.Tensor, variables)).toEqual(counts);
      expect(await launches(() => layer.apply(x))).toEqual([1, 1]);
    }
    await tf.nextFrame(); // a warning of the layer may be on its way
  });

  it("differentiates twice under a mask, as without what is masked", async () => {
    const [x, c] = [normal(1, 60, 2, 1), normal(2, 60)];
    const at = (i: number) => Math.floor(i / 5) % 4 < 2;
    const mask = tf.tensor2d(
      Array.from({ length: 12 }, (_, i) => i % 4 < 2),
      [3, 4],
      "bool",
    );
    const penalty = (c: tf.Tensor, mask?: tf.Tensor) => (x: tf.Tensor) => {
      const f = (x: tf.Tensor) => {
        const { y } = batchNorm(x, {}, mask ? { mask } : {});
        return total(tf.mul(tf.mul(c, y), tf.square(y)));
      };
      return total(tf.square(tf.grad(f)(x)));
    };
    const zeroed = tf.tensor3d(
      c.map((v, i) => (at(i) ? v : 0)),
      [3, 4, 5],
    );
    const masked = await read(tf.grad(penalty(zeroed, mask))(tf.tensor3d(x, [3, 4, 5])));
    const [kept, weights] = [x, c].map((v) =>
      tf.tensor2d(
        v.filter((_, i) => at(i)),
        [6, 5],
      ),
    ) as [tf.Tensor, tf.Tensor];
    const expected = await read(tf.grad(penalty(weights))(kept));
    const most = Math.max(...expected.map(Math.abs));
    expect(most).toBeGreaterThan(0.1);
    expect(masked.filter((_, i) => at(i))).toBeAllclose(expected, { rtol: 1e-3, atol: 1e-4 * most });
  });

  it("reads nothing back from a device", async () => {
    const x = tf.tensor3d(normal(1, 60, 2, 1), [4, 3, 5]);
    const gamma = tf.ones([3]);
    const mask = tf.tensor2d(
      Array.from({ length: 20 }, (_, i) => i % 3),
      [4, 5],
    );
    const layer = batchNormalization({ axis: 1 });
    const f = (x: tf.Tensor) => total(tf.square(batchNorm(x, { gamma }, { axis: 1, mask }).y));
    const reads = vi.spyOn(tf.engine(), "readSync");
    tf.grad((x: tf.Tensor) => total(tf.square(tf.grad(f)(x))))(x);
    layer.apply(x, { training: true });
    layer.apply(x);
    expect(reads).not.toHaveBeenCalled();
    x.dataSync();
    expect(reads).toHaveBeenCalledTimes(1);
    reads.mockRestore();
  });
});

describe("rank 1", () => {
  it("is one value per channel on its only axis, which has no statistics", async () => {
    await useBackend("cpu");
    const x = tf.tensor1d([1, 2, 3]);
    expect(() => batchNorm(x)).toThrow("Expected more than 1 value per channel");
    const y = batchNormInference(x, { mean: tf.ones([3]), variance: tf.tensor1d([4, 4, 4]) }, { epsilon: 0 });
    expect(await read(y)).toEqual(Float32Array.of(0, 0.5, 1));
  });
});

describe("tensors that lie with another backend", () => {
  it("are fetched, forward and backward", async () => {
    await useBackend("cpu");
    const data = normal(1, 60, 2, 1);
    const x = tf.tensor2d(data, [12, 5]);
    const gamma = tf.tensor1d(normal(2, 5));
    const expected = await read(batchNorm(x, { gamma }).y);
    await useBackend("wasm");
    expect(await read(batchNorm(x, { gamma }).y)).toEqual(expected);
    const upstream = tf.tensor2d(normal(3, 60), [12, 5]);
    await useBackend("cpu");
    const there = tf.grad((x: tf.Tensor) => batchNorm(x, { gamma }).y)(x, upstream);
    const again = batchNormForward({ data, shape: [12, 5] }, { gamma: await read(gamma) }, { epsilon: EPSILON });
    expect(await read(there)).toEqual(
      batchNormBackward({ data: await read(upstream), shape: [12, 5] }, again.saved).dx?.data,
    );
  });
});

describe("the probe of a backend", () => {
  beforeAll(() => useBackend("wasm"));

  interface Internals {
    wasm: { asm: { memory: WebAssembly.Memory }; _malloc(bytes: number): number };
    dataIdMap: { get(id: object): { memoryOffset: number } };
  }
  const internals = () => tf.backend() as unknown as tf.KernelBackend & Internals;
  /** The Emscripten module, of which parts are something else. */
  const module = (instead: { readonly [key: string]: unknown }) => hiding(internals().wasm, instead);
  const noMemory = { asm: {}, wasmMemory: undefined };
  const otherMemory = (memory: WebAssembly.Memory) => ({ asm: { memory }, wasmMemory: undefined });

  it.each([
    ["hides its memory", () => ({ wasm: module(noMemory) }), "the backend does not show its memory"],
    ["hides its allocator", () => ({ wasm: module({ _malloc: undefined }) }), "does not show its allocator"],
    ["hides its map", () => ({ dataIdMap: undefined }), "does not show where its tensors are"],
    ["hides makeOutput", () => ({ makeOutput: undefined }), "does not show where its tensors are"],
    [
      "shows a memory that the kernels do not fit",
      () => ({ wasm: module(otherMemory(new WebAssembly.Memory({ initial: 0 }))) }),
      "the kernels do not fit the backend's memory: WebAssembly.Instance",
    ],
    [
      "shows another memory than its tensors'",
      () => ({ wasm: module(otherMemory(new WebAssembly.Memory({ initial: 64 }))) }),
      "not where its memory says they are",
    ],
    [
      "shows other places than its tensors'",
      () => ({ dataIdMap: hiding(internals().dataIdMap, { get: () => ({ memoryOffset: 1024 }) }) }),
      "not where its memory says they are",
    ],
    [
      "names no places",
      () => ({ dataIdMap: hiding(internals().dataIdMap, { get: () => ({}) }) }),
      "not where its memory says they are",
    ],
  ])("copies where it %s", async (_, instead, reason) => {
    const before = tf.memory().numTensors;
    const backend = hiding(internals(), instead());
    const access = accessTo(backend);
    expect(access.memory).toBe("copied");
    expect(access.reason).toContain(reason);
    expect(accessTo(backend)).toBe(access); // found out once
    expect(tf.memory().numTensors).toBe(before);
  });

  it("tells when TF.js's memory is full", async () => {
    const wasm = module({ _malloc: () => 0 });
    const access = accessTo(hiding(internals(), { wasm }));
    expect(access.memory).toBe("in place");
    const x = tf.tensor2d([1, 2, 3, 4], [2, 2]);
    expect(() => batchNormForward(access.operand(x, x.shape))).toThrow(/^memory: expected room for/);
  });
});

const OWN = BACKENDS.filter(({ backend }) => backend === "wasm" || backend === "cpu");

describe.each(OWN)("registerKernels on $backend", ({ backend }) => {
  beforeAll(() => useBackend(backend));
  beforeEach(() => tf.engine().startScope());
  afterEach(() => tf.engine().endScope());

  const shape: [number, number, number, number] = [2, 3, 4, 5];
  const x = normal(1, sizeOf(shape), 2, 1);
  const [mean, gamma, beta] = [normal(2, 5), normal(3, 5), normal(4, 5)];
  const variance = normal(5, 5).map((v) => v * v);
  const call = async () => {
    const [m, v, b, g] = [mean, variance, beta, gamma].map((t) => tf.tensor1d(t)) as [
      tf.Tensor1D,
      tf.Tensor1D,
      tf.Tensor1D,
      tf.Tensor1D,
    ];
    return await read(tf.batchNorm(tf.tensor4d(x, shape), m, v, b, g));
  };
  const expected = facadeInference(
    { data: x, shape },
    { gamma, beta, mean, variance },
    { layout: "channels-last", epsilon: 1e-3 },
  ).y.data;

  it("puts our kernel in the place of FusedBatchNorm, and TF.js's back", async () => {
    const warn = vi.spyOn(console, "warn");
    const theirs = await call();
    expect(theirs).not.toEqual(expected); // other roundings
    expect(theirs).toBeAllclose(expected, { rtol: 1e-5, atol: 1e-5 });
    const restore = registerKernels();
    try {
      expect(await call()).toEqual(expected);
    } finally {
      restore();
    }
    expect(await call()).toEqual(theirs);
    expect(warn).not.toHaveBeenCalled();
    warn.mockRestore();
  });

  it("leaves to TF.js what is not one value per channel, and what is empty", async () => {
    const whole = async () => {
      const [m, v] = [tf.tensor4d(x, shape), tf.ones<tf.Rank.R4>(shape)];
      return await read(tf.batchNorm(tf.tensor4d(x, shape), m, v));
    };
    const empty = () =>
      tf.batchNorm(tf.zeros<tf.Rank.R4>([0, 3, 4, 5]), tf.zeros<tf.Rank.R1>([5]), tf.ones<tf.Rank.R1>([5]));
    const theirs = await whole();
    const restore = registerKernels();
    try {
      expect(await whole()).toEqual(theirs);
      expect(empty().shape).toEqual([0, 3, 4, 5]);
    } finally {
      restore();
    }
  });

  it("is called by TF.js's gradient, too, which stays TF.js's", async () => {
    const [m, v] = [tf.tensor1d(mean), tf.tensor1d(variance)];
    const f = (x: tf.Tensor) => total(tf.square(tf.batchNorm(x as tf.Tensor4D, m, v, tf.zeros([5]), tf.ones([5]))));
    const theirs = await read(tf.grad(f)(tf.tensor4d(x, shape)));
    const restore = registerKernels();
    try {
      expect(await read(tf.grad(f)(tf.tensor4d(x, shape)))).toBeAllclose(theirs, { rtol: 1e-4, atol: 1e-4 });
    } finally {
      restore();
    }
  });

  it("says what to import where there is no backend", async () => {
    const kernels = ["wasm", "cpu"].map((name) => tf.getKernel("FusedBatchNorm", name));
    for (const { kernelName, backendName } of kernels) tf.unregisterKernel(kernelName, backendName);
    try {
      expect(registerKernels).toThrow(
        /^registerKernels: expected @tensorflow\/tfjs-backend-wasm or -cpu to be imported/,
      );
    } finally {
      for (const kernel of kernels) tf.registerKernel(kernel);
    }
  });
});
