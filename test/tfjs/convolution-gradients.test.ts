// The gradients of convolutions that registerKernels adds to TF.js's wasm backend, against sums in float64 and against
// TF.js's cpu backend; and networks that train with them.

import * as tf from "@tensorflow/tfjs-core";
import { layers, type Sequential } from "@tensorflow/tfjs-layers";
import fc from "fast-check";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { batchNormalization, registerKernels } from "../../src/tfjs/index.ts";
import { BACKENDS, useBackend, values } from "../support/tfjs.ts";
import { images, leNet, mobileNet } from "../support/tfjs-networks.ts";
import { normal, sizeOf } from "../support/worlds.ts";

const FILTER = "Conv2DBackpropFilter";
const DEPTHWISE_FILTER = "DepthwiseConv2dNativeBackpropFilter";
const DEPTHWISE_INPUT = "DepthwiseConv2dNativeBackpropInput";
const ADDED = [FILTER, DEPTHWISE_FILTER, DEPTHWISE_INPUT];

type Shape = [number, number, number, number];

interface Case {
  readonly x: Shape;
  readonly filter: Shape;
  readonly strides: [number, number];
  readonly dilations: [number, number];
  readonly pad: "same" | "valid" | number | [number, number][];
}

const infoOf = ({ x, filter, strides, dilations, pad }: Case, depthwise: boolean) =>
  tf.backend_util.computeConv2DInfo(x, filter, strides, dilations, pad as "same", undefined, depthwise);

const dataOf = (seed: number, shape: readonly number[]) => Float32Array.from(normal(seed, sizeOf(shape)));

/** Calls `visit` for every product of a convolution with the indices of x, the filter and dy, channels last. */
function products(one: Case, depthwise: boolean, visit: (x: number, filter: number, dy: number) => void): void {
  const info = infoOf(one, depthwise);
  const [, height, width, inputs] = one.x;
  const [, filterWidth, , last] = one.filter;
  for (let n = 0; n < info.batchSize; n++)
    for (let row = 0; row < info.outHeight; row++)
      for (let column = 0; column < info.outWidth; column++)
        for (let tapRow = 0; tapRow < info.filterHeight; tapRow++)
          for (let tapColumn = 0; tapColumn < info.filterWidth; tapColumn++) {
            const r = row * info.strideHeight + tapRow * info.dilationHeight - info.padInfo.top;
            const c = column * info.strideWidth + tapColumn * info.dilationWidth - info.padInfo.left;
            if (r < 0 || r >= height || c < 0 || c >= width) continue;
            const pixel = (n * info.outHeight + row) * info.outWidth + column;
            for (let i = 0; i < inputs; i++)
              for (let j = 0; j < last; j++)
                visit(
                  ((n * height + r) * width + c) * inputs + i,
                  ((tapRow * filterWidth + tapColumn) * inputs + i) * last + j,
                  pixel * info.outChannels + (depthwise ? i * last + j : j),
                );
          }
}

/** Runs a kernel on TF.js's current backend. */
const run = (kernel: string, inputs: tf.NamedTensorMap, attributes: object) =>
  values(tf.engine().runKernel(kernel, inputs, attributes as never) as tf.Tensor);

/** An explicit padding of two margins: with channels last or first. */
const explicit = (rows: [number, number], columns: [number, number], first = false): [number, number][] =>
  first ? [[0, 0], [0, 0], rows, columns] : [[0, 0], rows, columns, [0, 0]];

const size = (max: number) => fc.integer({ min: 1, max });
const margin = fc.tuple(fc.integer({ min: 0, max: 4 }), fc.integer({ min: 0, max: 4 }));
const pair = (max: number) => fc.tuple(size(max), size(max));

/**
 * Convolutions whose y has at least one value. A padding that is a number goes with squares, because TF.js 4.22 computes
 * the width of y from the filter's height and the stride of rows then.
 */
const convolutions = (depthwise: boolean) =>
  fc
    .record({
      x: fc.tuple(size(3), size(9), size(9), size(3)),
      taps: pair(4),
      last: size(3),
      strides: pair(3),
      dilations: pair(3),
      pad: fc.oneof(
        fc.constantFrom("same" as const, "valid" as const),
        fc.integer({ min: 0, max: 3 }),
        fc.tuple(margin, margin).map(([rows, columns]) => explicit(rows, columns)),
      ),
    })
    .map(({ x, taps, last, strides, dilations, pad }): Case => {
      const square = (of: [number, number]): [number, number] => (typeof pad === "number" ? [of[0], of[0]] : of);
      // conv2d's kernel takes no dilation, and depthwiseConv2d takes strides or dilations
      const isDilated = depthwise && strides.every((s) => s === 1);
      return {
        x,
        filter: [...square(taps), x[3], last],
        strides: square(strides),
        dilations: isDilated ? square(dilations) : [1, 1],
        pad,
      };
    })
    .filter((one) => {
      const { outHeight, outWidth } = infoOf(one, depthwise);
      return outHeight > 0 && outWidth > 0;
    });

const close = { rtol: 1e-4, atol: 1e-4 };
const sweep = { numRuns: 300, seed: 2026 };

let restore: () => void;

describe("the kernels on wasm", () => {
  beforeAll(async () => {
    await useBackend("wasm");
    restore = registerKernels();
  });
  afterAll(() => restore());
  beforeEach(() => tf.engine().startScope());
  afterEach(() => tf.engine().endScope());

  const tensors = (one: Case, depthwise: boolean) => {
    const dyShape = infoOf(one, depthwise).outShape as Shape;
    const [x, dy, filter] = [dataOf(1, one.x), dataOf(2, dyShape), dataOf(3, one.filter)];
    return { x, dy, filter, dyShape };
  };

  it("conv2d's filter has the gradient of the sums in float64, with any strides and padding", () => {
    fc.assert(
      fc.property(convolutions(false), (one) => {
        const { x, dy, dyShape } = tensors(one, false);
        const expected = new Float64Array(sizeOf(one.filter));
        products(one, false, (i, k, j) => {
          expected[k] = (expected[k] as number) + (x[i] as number) * (dy[j] as number);
        });
        const { strides, pad } = one;
        const attributes = { strides, pad, dataFormat: "NHWC", filterShape: one.filter };
        const result = run(FILTER, { x: tf.tensor4d(x, one.x), dy: tf.tensor4d(dy, dyShape) }, attributes);
        expect(result).toBeAllclose(expected, close);
      }),
      sweep,
    );
  });

  it("depthwiseConv2d's filter and input have those, with dilations too", () => {
    fc.assert(
      fc.property(convolutions(true), (one) => {
        const { x, dy, filter, dyShape } = tensors(one, true);
        const [dFilter, dx] = [new Float64Array(filter.length), new Float64Array(x.length)];
        products(one, true, (i, k, j) => {
          dFilter[k] = (dFilter[k] as number) + (x[i] as number) * (dy[j] as number);
          dx[i] = (dx[i] as number) + (filter[k] as number) * (dy[j] as number);
        });
        const { strides, dilations, pad } = one;
        const upstream = tf.tensor4d(dy, dyShape);
        const attributes = { strides, dilations, pad };
        const forFilter = { ...attributes, filterShape: one.filter };
        expect(run(DEPTHWISE_FILTER, { x: tf.tensor4d(x, one.x), dy: upstream }, forFilter)).toBeAllclose(
          dFilter,
          close,
        );
        const forInput = { ...attributes, inputShape: one.x };
        expect(run(DEPTHWISE_INPUT, { dy: upstream, filter: tf.tensor4d(filter, one.filter) }, forInput)).toBeAllclose(
          dx,
          close,
        );
      }),
      sweep,
    );
  });

  it.each([
    [
      "a padding that is larger than x and the filter",
      { x: [1, 1, 1, 2], filter: [1, 1, 2, 2], strides: [3, 3], pad: 2 },
    ],
    [
      "a stride that steps over x",
      { x: [1, 1, 1, 2], filter: [3, 3, 2, 2], strides: [3, 3], pad: explicit([4, 0], [4, 0]) },
    ],
    ["a stride that leaves rows out", { x: [2, 8, 7, 2], filter: [2, 2, 2, 3], strides: [3, 4], pad: "valid" }],
    ["an empty batch", { x: [0, 4, 4, 2], filter: [3, 3, 2, 2], strides: [1, 1], pad: "same" }],
  ] as [string, Omit<Case, "dilations">][])("%s", (_, given) => {
    const one: Case = { ...given, dilations: [1, 1] };
    const { strides, dilations, pad } = one;
    for (const depthwise of [false, true]) {
      const { x, dy, filter, dyShape } = tensors(one, depthwise);
      const [dFilter, dx] = [new Float64Array(filter.length), new Float64Array(x.length)];
      products(one, depthwise, (i, k, j) => {
        dFilter[k] = (dFilter[k] as number) + (x[i] as number) * (dy[j] as number);
        dx[i] = (dx[i] as number) + (filter[k] as number) * (dy[j] as number);
      });
      const upstream = tf.tensor4d(dy, dyShape);
      const attributes = { strides, dilations, pad, dataFormat: "NHWC", filterShape: one.filter, inputShape: one.x };
      const inputs = { x: tf.tensor4d(x, one.x), dy: upstream };
      expect(run(depthwise ? DEPTHWISE_FILTER : FILTER, inputs, attributes)).toBeAllclose(dFilter, close);
      if (depthwise)
        expect(
          run(DEPTHWISE_INPUT, { dy: upstream, filter: tf.tensor4d(filter, one.filter) }, attributes),
        ).toBeAllclose(dx, close);
    }
  });

  it("agree with TF.js's cpu backend, channels first too", async () => {
    const cases = fc
      .sample(convolutions(true), { numRuns: 60, seed: 7 })
      .filter(({ dilations }) => dilations[0] === 1 && dilations[1] === 1);
    expect(cases.length).toBeGreaterThan(30);
    const results: Float32Array[][] = [];
    for (const backend of ["wasm", "cpu"]) {
      await useBackend(backend);
      results.push(
        cases.flatMap((one) =>
          tf.tidy(() => {
            const { strides, dilations, pad, filter: filterShape } = one;
            const full = tensors(one, false);
            const [x, dy] = [tf.tensor4d(full.x, one.x), tf.tensor4d(full.dy, full.dyShape)];
            const first = (t: tf.Tensor) => tf.transpose(t, [0, 3, 1, 2]);
            const firstPad = Array.isArray(pad)
              ? explicit(pad[1] as [number, number], pad[2] as [number, number], true)
              : pad;
            const depthwise = tensors(one, true);
            const upstream = tf.tensor4d(depthwise.dy, depthwise.dyShape);
            const filter = tf.tensor4d(depthwise.filter, filterShape);
            return [
              run(FILTER, { x, dy }, { strides, pad, dataFormat: "NHWC", filterShape }),
              run(FILTER, { x: first(x), dy: first(dy) }, { strides, pad: firstPad, dataFormat: "NCHW", filterShape }),
              run(DEPTHWISE_FILTER, { x, dy: upstream }, { strides, dilations, pad, filterShape }),
              run(DEPTHWISE_INPUT, { dy: upstream, filter }, { strides, dilations, pad, inputShape: one.x }),
            ];
          }),
        ),
      );
    }
    await useBackend("wasm");
    const [wasm, cpu] = results as [Float32Array[], Float32Array[]];
    expect(wasm.length).toBe(4 * cases.length);
    for (const [i, gradient] of wasm.entries()) expect(gradient).toBeAllclose(cpu[i] as Float32Array, close);
  });

  it("leave no tensors, and take no more memory for them than they say", () => {
    const one: Case = { x: [4, 16, 16, 8], filter: [3, 3, 8, 8], strides: [1, 1], dilations: [1, 1], pad: "same" };
    const { x, dy, dyShape } = tensors(one, false);
    const inputs = { x: tf.tensor4d(x, one.x), dy: tf.tensor4d(dy, dyShape) };
    const { strides, dilations, pad } = one;
    // tf.memory() counts a reshaped tensor twice, so this counts what TF.js's allocator gives
    const { wasm } = tf.backend() as tf.KernelBackend & {
      wasm: { _malloc(bytes: number): number; _free(pointer: number): void };
    };
    /** The most that a kernel takes at a time, in multiples of x. */
    const peak = (kernel: string, given: tf.NamedTensorMap, attributes: object) => {
      const { _malloc: malloc, _free: free } = wasm;
      const sizes = new Map<number, number>();
      let [now, most] = [0, 0];
      wasm._malloc = (bytes) => {
        const pointer = malloc(bytes);
        sizes.set(pointer, bytes);
        now += bytes;
        most = Math.max(most, now);
        return pointer;
      };
      wasm._free = (pointer) => {
        now -= sizes.get(pointer) ?? 0;
        sizes.delete(pointer);
        free(pointer);
      };
      const before = tf.memory();
      try {
        tf.dispose(tf.engine().runKernel(kernel, given, attributes as never));
      } finally {
        [wasm._malloc, wasm._free] = [malloc, free];
      }
      expect(tf.memory()).toEqual(before);
      expect(now).toBe(0);
      return most / (4 * x.length);
    };
    // what XNNPACK takes for itself is not counted here; x and dy are of one size
    expect(peak(FILTER, inputs, { strides, pad, dataFormat: "NHWC", filterShape: one.filter })).toBeLessThan(2.2);
    const filterShape: Shape = [3, 3, 8, 1];
    const forFilter = { strides, dilations, pad, filterShape };
    // dy, x with its padding twice, and what one tap reads
    expect(peak(DEPTHWISE_FILTER, inputs, forFilter)).toBeLessThan(4.6);
    const filter = tf.tensor4d(dataOf(3, filterShape), filterShape);
    expect(peak(DEPTHWISE_INPUT, { dy: inputs.dy, filter }, { ...forFilter, inputShape: one.x })).toBeLessThan(2.2);
  });
});

describe("registerKernels", () => {
  it("may be called several times, and undone in any order", async () => {
    await useBackend("wasm");
    const kernels = () =>
      [tf.FusedBatchNorm, tf.Conv2DBackpropFilter].map((name) => tf.getKernel(name, "wasm")?.kernelFunc);
    const before = kernels();
    const [first, second] = [registerKernels(), registerKernels()];
    const during = kernels();
    expect(during[0]).not.toBe(before[0]);
    expect(during[1]).toBeTypeOf("function");
    first();
    first();
    expect(kernels()).toEqual(during);
    second();
    expect(kernels()).toEqual(before);
  });

  const names = (backend: string) => ADDED.filter((name) => tf.getKernel(name, backend));

  it("adds what wasm lacks and nothing to cpu, and removes it again", async () => {
    await useBackend("wasm");
    const own = ADDED.map((name) => tf.getKernel(name, "cpu"));
    expect(names("wasm")).toEqual([]);
    const undo = registerKernels();
    expect(names("wasm")).toEqual(ADDED);
    expect(ADDED.map((name) => tf.getKernel(name, "cpu"))).toEqual(own);
    undo();
    expect(names("wasm")).toEqual([]);
    expect(ADDED.map((name) => tf.getKernel(name, "cpu"))).toEqual(own);
  });

  it("leaves a kernel that is there, and one that has been put in the place of ours", () => {
    const kernel: tf.KernelConfig = { kernelName: FILTER, backendName: "wasm", kernelFunc: () => [] };
    tf.registerKernel(kernel);
    registerKernels()();
    expect(tf.getKernel(FILTER, "wasm")).toBe(kernel);
    tf.unregisterKernel(FILTER, "wasm");
    const undo = registerKernels();
    tf.unregisterKernel(FILTER, "wasm");
    tf.registerKernel(kernel);
    undo();
    expect(tf.getKernel(FILTER, "wasm")).toBe(kernel);
    tf.unregisterKernel(FILTER, "wasm");
  });
});

describe.each([
  ["LeNet", leNet],
  ["MobileNet", mobileNet],
] as const)("a network like %s", (_, network) => {
  const STEPS = 8;
  const train = async (net: Sequential) => {
    const { xs, ys } = images(48);
    const { history } = await net.fit(xs, ys, { epochs: STEPS, batchSize: 16, shuffle: false, verbose: 0 });
    const weights = net.getWeights().map(values);
    tf.dispose([xs, ys]);
    net.dispose();
    return { loss: history.loss as number[], weights };
  };

  it("does not train on TF.js's wasm backend alone", async () => {
    await useBackend("wasm");
    await expect(train(network(layers.batchNormalization))).rejects.toThrow(/Kernel '.*Backprop.*' not registered/);
  });

  it.each(BACKENDS.filter(({ backend }) => backend === "wasm"))("trains on $backend as on cpu", async ({ backend }) => {
    const undo = registerKernels();
    try {
      await useBackend("cpu");
      const cpu = await train(network(batchNormalization));
      await useBackend(backend);
      const before = tf.memory().numTensors;
      const wasm = await train(network(batchNormalization));
      expect(tf.memory().numTensors - before).toBeLessThanOrEqual(2); // the optimizer's learning rate
      expect(wasm.loss).toBeAllclose(cpu.loss, { rtol: 2e-3 });
      expect(wasm.loss.at(-1) as number).toBeLessThan(0.7 * (wasm.loss[0] as number));
      for (const [i, weight] of wasm.weights.entries())
        expect(weight).toBeAllclose(cpu.weights[i] as Float32Array, { rtol: 1e-2, atol: 2e-3 });
    } finally {
      undo();
    }
  });
});
