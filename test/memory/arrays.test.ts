// Plain arrays that pass through wasm memory in tiles of images: maps give the bits of tensors, in which kernels work in
// place, and write nothing outside of their array. Copies keep a distance at which processors are fast.

import { afterEach, beforeAll, describe, expect, test } from "vitest";
import {
  BatchNorm,
  type BatchStatistics,
  batchNormBackward,
  batchNormDoubleBackward,
  batchNormForward,
  batchNormInference,
  type Dtype,
  type TensorLike,
} from "../../src/index.ts";
import { defaultHeap } from "../../src/memory/heap.ts";
import { type Bits, oneRun, Room } from "../../src/memory/transfer.ts";
import { dropMade, mine } from "../support/made.ts";
import { makeOf, normal, random, sizeOf, useBuild } from "../support/worlds.ts";

afterEach(dropMade);
beforeAll(() => useBuild("simd"));

/** Shapes [N, C, inner] by the tiles that an array of them passes through in a map. */
const SHAPES = {
  "27 images, then 10": [37, 3, 800],
  "16 channels of an image, then 2": [3, 18, 4000],
  "a plane that is longer than a tile": [2, 2, 66_001],
};

type Real = "float32" | "float64";
/** Elements before and behind an array in its buffer, so that its bytes start at an odd multiple of its elements' bytes. */
const MARGIN = 3;

/** Makes an array that is a part of a larger one, or a tensor. */
function makeIn(kind: "part" | "tensor", dtype: Real, shape: readonly number[], seed: number): TensorLike<Real> {
  const values = normal(seed, sizeOf(shape), 1, 2);
  const Type = dtype === "float64" ? Float64Array : Float32Array;
  if (kind === "tensor") return mine(makeOf<Real>(dtype, "tensor", shape, Type.from(values)));
  const whole = new Type(values.length + 2 * MARGIN).fill(7);
  whole.set(values, MARGIN);
  return { data: whole.subarray(MARGIN, -MARGIN) as never, shape };
}

/** Expects that nothing was written around an array that `makeIn` has made. */
function checkMargins({ data }: TensorLike<Real>): void {
  const whole = new (data.constructor as Float32ArrayConstructor)(data.buffer as ArrayBuffer);
  expect([...whole.subarray(0, MARGIN), ...whole.subarray(-MARGIN)]).toEqual(new Array(2 * MARGIN).fill(7));
}

/** Returns the index of the first byte in which two arrays differ, or -1. toEqual would take seconds. */
function differenceIn(a: ArrayBufferView, b: ArrayBufferView): number {
  const [these, those] = [a, b].map(
    ({ buffer, byteOffset, byteLength }) => new Uint8Array(buffer, byteOffset, byteLength),
  ) as [Uint8Array, Uint8Array];
  return these.length === those.length ? these.findIndex((byte, i) => byte !== those[i]) : 0;
}

describe.each(["float32", "float64"] as const)("maps of plain arrays, %s", (dtype) => {
  describe.each(Object.entries(SHAPES))("%s", (_tiles, shape) => {
    const channels = shape[1] as number;
    const vector = (seed: number, scale = 1, mean = 0) =>
      (dtype === "float64" ? Float64Array : Float32Array).from(normal(seed, channels, scale, mean)) as never;
    const [gamma, beta] = [vector(11), vector(12)];
    const statistics = { mean: vector(13), variance: (vector(14) as Float32Array).map(Math.abs) as never };

    /** Runs `call` on arrays and on tensors, and expects the same bits. It takes a function that makes operands. */
    function compare(call: (make: (seed: number) => TensorLike<Real>) => (TensorLike<Real> | undefined)[]): void {
      const [arrays, tensors] = (["part", "tensor"] as const).map((kind) => {
        const parts: TensorLike<Real>[] = [];
        const results = call((seed) => {
          const value = makeIn(kind, dtype, shape, seed);
          parts.push(value);
          return value;
        });
        if (kind === "part") for (const part of parts) checkMargins(part);
        return results.map((result) => result?.data.slice());
      });
      for (const [i, expected] of (tensors as Float32Array[]).entries())
        expect(differenceIn(arrays?.[i] as Float32Array, expected), `result ${i}`).toBe(-1);
    }

    test.each(["none", "relu", "silu"] as const)("y, with and without a residual, activation %s", (activation) =>
      compare((make) => {
        const options = { activation, epsilon: 0.1 };
        const terms = { ...statistics, gamma, beta };
        const x = make(1);
        return [
          batchNormInference(x, terms, { ...options, out: make(3) }).y,
          batchNormInference(x, terms, { ...options, residual: make(2), out: make(4) }).y,
          batchNormInference(x, terms, { ...options, out: x }).y,
        ];
      }),
    );

    test.each(["none", "leaky_relu", "silu"] as const)("dx of constants, activation %s", (activation) =>
      compare((make) => {
        const { saved } = batchNormInference(
          make(1),
          { ...statistics, gamma, beta },
          { activation, residual: make(2) },
        );
        const { dx, dResidual } = batchNormBackward(make(3), saved, { dxOut: make(4), dResidualOut: make(5) });
        return [dx, dResidual];
      }),
    );

    test.each(["none", "silu"] as const)("dx of a joint batch, activation %s", (activation) =>
      compare((make) => {
        const [mean, variance] = [normal(13, channels), normal(14, channels)].map((v) =>
          Float64Array.from(v, Math.abs),
        );
        const joint = { count: 1e6, mean, variance } as BatchStatistics;
        const { saved } = batchNormForward(make(1), { gamma, beta }, { statistics: joint, activation });
        const sums = {
          dGamma: Float64Array.from(normal(15, channels)),
          dBeta: Float64Array.from(normal(16, channels)),
        };
        return [batchNormBackward(make(2), saved, { sums, dxOut: make(3) }).dx];
      }),
    );

    test("dx of a joint batch with a mask", () =>
      compare((make) => {
        const x = make(1);
        const mask = Array.from(normal(18, x.data.length / channels), (v) => Math.max(v, 0));
        const [mean, variance, dGamma, dBeta] = [13, 14, 15, 16].map((seed) =>
          Float64Array.from(normal(seed, channels), Math.abs),
        ) as [Float64Array, Float64Array, Float64Array, Float64Array];
        const count = x.data.length;
        const { saved } = batchNormForward(x, { gamma, beta }, { statistics: { count, mean, variance }, mask });
        // as large as the count, so that the terms of the statistics are seen
        const sums = { dGamma: dGamma.map((v) => v * count), dBeta: dBeta.map((v) => v * count) };
        return [batchNormBackward(make(2), saved, { sums, dxOut: make(3) }).dx];
      }));

    test("second derivatives, in the range of float32 and where coefficients leave it", () => {
      for (const size of [1, 1e-32])
        compare((make) => {
          const x = make(1);
          for (const [i, v] of x.data.entries()) x.data[i] = v * size;
          const { saved } = batchNormForward(x, { gamma, beta }, { epsilon: 0 });
          const { dx, ddy } = batchNormDoubleBackward(make(2), saved, { ddx: make(3), ddGamma: gamma });
          return [dx, ddy].map((t) => mine(t));
        });
    });

    test("ghost batches and gamma of every sample", () => {
      const samples = shape[0] as number;
      compare((make) => {
        const bn = new BatchNorm<Real>(channels, { dtype, ghostBatchSize: 2, activation: "relu" });
        const y = bn.forward(make(1), { out: make(2), residual: make(3) });
        const { dx } = bn.backward(make(4), { dxOut: make(5) });
        const perSample = (dtype === "float64" ? Float64Array : Float32Array).from(normal(17, samples * channels));
        const options = { out: make(6) };
        return [
          y,
          dx,
          batchNormInference(make(1), { ...statistics, perSample: { gamma: perSample as never } }, options).y,
        ];
      });
    });
  });
});

describe.each(["float16", "bfloat16"] as const)("maps of plain arrays, %s", (dtype) => {
  test.each(Object.entries(SHAPES))("%s: gamma 1 and -1 give x and -x", (_tiles, shape) => {
    const [, channels, inner] = shape as [number, number, number];
    // finite and not 0, in an order that repeats in no plane
    const x = Uint16Array.from({ length: sizeOf(shape) }, (_, i) => 0x3000 + ((i * 1117) % 3989));
    const out = new Uint16Array(x.length + 2 * MARGIN).fill(7);
    const gamma = Float32Array.from({ length: channels }, (_, c) => (c % 2 ? -1 : 1));
    batchNormInference<TensorLike<Dtype>>(
      { data: x, shape, dtype },
      { mean: new Float32Array(channels), variance: new Float32Array(channels).fill(1), gamma },
      { epsilon: 0, out: { data: out.subarray(MARGIN, -MARGIN), shape, dtype } },
    );
    const expected = new Uint16Array(out.length).fill(7);
    for (const [i, v] of x.entries()) {
      const channel = Math.floor(i / inner) % channels;
      expected[MARGIN + i] = v ^ (channel % 2 ? 0x8000 : 0);
    }
    expect(differenceIn(out, expected)).toBe(-1);
  });
});

/**
 * Calls `act`, and returns the distances in bytes, modulo 4 KiB, from arrays to their places in wasm memory where 1024
 * elements or more are copied.
 */
function distancesIn(act: () => void): number[] {
  const distances: number[] = [];
  const { buffer } = defaultHeap().u8;
  const prototype = Object.getPrototypeOf(Float32Array.prototype) as Float32Array;
  const { set } = prototype;
  prototype.set = function (this: Float32Array, source: Float32Array, offset = 0) {
    // vectors of one value per channel are short, and lie anywhere
    if (source.length < 1024) return set.call(this, source, offset);
    const [from, to] = [source.byteOffset, this.byteOffset + offset * this.BYTES_PER_ELEMENT];
    if (this.buffer === buffer && source.buffer !== buffer) distances.push((to - from) & 4095);
    if (this.buffer !== buffer && source.buffer === buffer) distances.push((from - to) & 4095);
    return set.call(this, source, offset);
  };
  try {
    act();
  } finally {
    prototype.set = set;
  }
  return distances;
}

describe.each(["float32", "float64", "float16", "bfloat16"] as const)("copies of plain arrays, %s", (dtype) => {
  const data = (length: number) =>
    dtype === "float64"
      ? new Float64Array(length)
      : dtype === "float32"
        ? new Float32Array(length)
        : new Uint16Array(length);

  test("go 2176 bytes ahead, rounded down to cache lines; runs of a tile stay 128 bytes away from where they are slow", () => {
    // planes are an odd multiple of 256 bytes or more, so that runs drift
    const shape = [40, 3, 3200];
    const operand = () => ({ data: data(sizeOf(shape) + 96).subarray(96), shape, dtype }) as TensorLike<Dtype>;
    const [x, out, dy, dxOut] = [operand(), operand(), operand(), operand()] as [never, never, never, never];
    const bn = new BatchNorm<Dtype>(3, { dtype });
    const step = () => {
      bn.forward(x, { out });
      bn.backward(dy, { dxOut });
    };
    step(); // the memory does not grow after it
    const shifts = [1, 2, 3].map(() => {
      const together = distancesIn(() => bn.forward(x, { out, mode: "eval" }));
      expect(together.length).toBeGreaterThan(10);
      for (const distance of together) expect(Math.abs(distance - 2176 + 32)).toBeLessThanOrEqual(32);
      const runs = distancesIn(step);
      expect(runs.length).toBeGreaterThan(500);
      for (const distance of runs) expect(Math.min(distance, 4096 - distance)).toBeGreaterThanOrEqual(128);
      return defaultHeap().allocate(64); // the next room is at another place
    });
    for (const shift of shifts) defaultHeap().free(shift);
  });

  test("stay within the room, wherever in its buffer an array is", () => {
    const heap = defaultHeap();
    const next = random(1);
    const below = (end: number) => Math.floor(next() * end);
    for (let round = 0; round < 200; round++) {
      const [length, first, offset] = [1 + below(3000), below(5000), below(5000)];
      const guards = [heap.allocate(64)];
      const room = new Room(heap, dtype, length);
      guards.push(heap.allocate(64));
      for (const guard of guards) heap.u8.fill(0xa5, guard, guard + 64);
      const array = data(offset + first + length).subarray(offset) as Bits;
      for (let i = 0; i < length; i++) array[first + i] = 0x3000 + (i % 251);
      const expected = array.slice();
      room.place(array, dtype, first);
      expect(room.pointer % 64).toBe(0);
      room.load(array, dtype, length, oneRun(first, length));
      array.fill(0, first);
      room.store(array, dtype, length, oneRun(first, length));
      expect(array).toEqual(expected);
      for (const guard of guards) expect(heap.u8.slice(guard, guard + 64)).toEqual(new Uint8Array(64).fill(0xa5));
      room.dispose();
      for (const guard of guards) heap.free(guard);
    }
  });
});
