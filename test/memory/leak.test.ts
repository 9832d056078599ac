// Neither wasm memory nor JavaScript's heap grows over 10,000 training steps.

import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { beforeAll, describe, expect, test } from "vitest";
import { BatchNorm, type Dtype, type Tensor, tensor } from "../../src/index.ts";
import { defaultHeap } from "../../src/memory/heap.ts";
import { drop, KINDS, makeOf, normal, normalInput, useBuild } from "../support/worlds.ts";

setFlagsFromString("--expose-gc");
const collect: () => void = runInNewContext("gc");

const STEPS = 10_000;
const SHAPE = [8, 4, 6];

/** Bytes. An array of 100 elements kept in every step is more than 4 MB; a collected heap varies by some 0.3 MB. */
const TOLERANCE = 2 ** 20;

/** Bytes that JavaScript holds on to, array buffers included. */
function level(): number {
  for (let i = 0; i < 3; i++) collect();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

/** How much more is held after STEPS steps than after a warm-up that fills caches and compiles. */
function growth(step: (k: number) => void): number {
  for (let k = 0; k < STEPS / 10; k++) step(k);
  const before = level();
  for (let k = 0; k < STEPS; k++) step(k);
  return level() - before;
}

describe.each(["channels-first", "channels-last"] as const)("10,000 steps, %s", (layout) => {
  beforeAll(() => useBuild("simd"));
  const options = { layout, estimator: "population" } as const;
  const channels = layout === "channels-last" ? 6 : 4;

  const ways: [string, (bn: BatchNorm) => (k: number) => void][] = [
    [
      "with tensors and outputs given",
      (bn) => {
        const [x, dy, out, dxOut] = [1, 2, 3, 4].map((seed) => tensor(SHAPE, normal(seed, 192))) as [
          Tensor,
          Tensor,
          Tensor,
          Tensor,
        ];
        const gradients = { dGammaOut: new Float32Array(channels), dBetaOut: new Float32Array(channels) };
        return () => {
          bn.forward(x, { out });
          bn.backward(dy, { dxOut, ...gradients });
        };
      },
    ],
    [
      "with tensors for results that are disposed",
      (bn) => {
        const [x, dy] = [1, 2].map((seed) => tensor(SHAPE, normal(seed, 192))) as [Tensor, Tensor];
        return () => {
          bn.forward(x).dispose();
          bn.backward(dy).dx?.dispose();
        };
      },
    ],
    [
      "with plain input, of sizes that change, and steps that fail",
      (bn) => {
        const sizes = [SHAPE, [2, ...SHAPE.slice(1)], [5, ...SHAPE.slice(1)]];
        const batches = sizes.map((shape, i) => ({ x: normalInput(i, shape), dy: normalInput(i + 9, shape) }));
        const poisoned = normalInput(7, SHAPE);
        poisoned.data[0] = Number.NaN;
        return (k) => {
          const { x, dy } = batches[k % 3] as (typeof batches)[number];
          bn.forward(x);
          bn.backward(dy, { accumulate: k % 2 === 0 });
          if (k % 10) return;
          try {
            bn.forward(poisoned);
          } catch {
            return;
          }
          expect.unreachable("a batch with NaN went through");
        };
      },
    ],
  ];

  test.each(ways)("%s leave memory at its level", (_, prepare) => {
    const bn = new BatchNorm(channels, options);
    const step = prepare(bn);
    for (let k = 0; k < 3; k++) step(k);
    const { capacity } = defaultHeap().usage;
    const levels = [0, 1, 2].map((k) => {
      step(k);
      return defaultHeap().usage.used;
    });
    expect(Math.abs(growth(step))).toBeLessThan(TOLERANCE);
    expect(
      [0, 1, 2].map((k) => {
        step(k);
        return defaultHeap().usage.used;
      }),
    ).toEqual(levels);
    expect(defaultHeap().usage.capacity).toBe(capacity);
    expect(bn.batchesTracked).toBe(1.1 * STEPS + 9);
  });
});

test.each(["float32", "float64", "bfloat16"] as const)(
  "10,000 steps of %s with an activation and a residual, on arrays and on tensors, leave memory at its level",
  async (dtype) => {
    await useBuild("simd");
    for (const kind of KINDS) {
      const size = SHAPE.reduce((a, b) => a * b, 1);
      const make = (seed: number) => {
        const values = normal(seed, size);
        const data = {
          float32: values,
          float64: Float64Array.from(values),
          bfloat16: new Uint16Array(size).fill(seed),
        };
        return makeOf<Dtype>(dtype, kind, SHAPE, data[dtype]);
      };
      const [x, residual, dy] = [make(1), make(2), make(3)];
      const bn = new BatchNorm<Dtype>(4, { dtype, activation: "silu" });
      const step = () => {
        const y = bn.forward(x, { residual });
        const { dx, dResidual } = bn.backward(dy);
        drop(y, dx, dResidual);
      };
      step();
      const { used, capacity } = defaultHeap().usage;
      expect(Math.abs(growth(step))).toBeLessThan(TOLERANCE);
      expect(defaultHeap().usage).toEqual({ used, capacity });
      drop(x, residual, dy);
    }
  },
);

describe("forgotten tensors", () => {
  const turn = () => new Promise((resolve) => setImmediate(resolve));
  /** Collects, and lets the engine tell of it. */
  const collectAll = async () => {
    for (let i = 0; i < 3; i++) {
      collect();
      await turn();
    }
  };

  test("of 8 MiB: a memory of 4 GiB serves 560 results that are dropped, with a turn of the event loop in ten", async () => {
    await useBuild("simd");
    const bn = new BatchNorm(16);
    const x = tensor([32, 16, 4096]);
    x.data.set(normal(1, x.length));
    for (let i = 0; i < 560; i++) {
      bn.forward(x, { mode: "eval" });
      if (i % 10 === 0) await turn();
    }
    expect(defaultHeap().usage.capacity).toBeLessThan(2 ** 31);
  });

  // so that the collector runs before wasm memory ends: V8 counts addresses that are reserved as memory in use
  test("of 1 MiB and more are memory of JavaScript's, too, as long as they are not disposed of", async () => {
    await useBuild("simd");
    const MiB = 2 ** 20;
    tensor([64 * MiB]).dispose(); // the memory does not grow after it
    const growthBy = async (bytes: number, count: number) => {
      await collectAll(); // what other tests have left would be collected meanwhile
      const before = process.memoryUsage().external;
      const tensors = Array.from({ length: count }, () => tensor([bytes / 4]));
      const grown = process.memoryUsage().external - before;
      return { tensors, grown };
    };
    expect((await growthBy(MiB - 4, 32)).grown).toBeLessThan(MiB);
    for (const bytes of [MiB, MiB + 4, 8 * MiB]) {
      const { tensors, grown } = await growthBy(bytes, 8);
      expect(grown).toBeGreaterThan(7.5 * bytes);
      const before = process.memoryUsage().external;
      for (const t of tensors) t.dispose();
      await collectAll();
      expect(process.memoryUsage().external).toBeLessThan(before - 7.5 * bytes);
      expect(tensors.every(({ disposed }) => disposed)).toBe(true);
    }
  });

  test("are freed once, results and those that `tensor` made; those disposed of are not freed again", async () => {
    await useBuild("simd");
    const bn = new BatchNorm(4);
    const x = tensor(SHAPE, normal(1, 192));
    const make = () => {
      for (let i = 0; i < 100; i++) {
        bn.forward(x);
        bn.backward(x);
        tensor(SHAPE);
        bn.forward(x).dispose();
      }
    };
    bn.forward(x).dispose();
    const { used } = defaultHeap().usage;
    make();
    expect(defaultHeap().usage.used).toBe(used + 300 * 192 * 4);
    await collectAll();
    expect(defaultHeap().usage.used).toBe(used);
  });

  // large ones reserve addresses of JavaScript, too
  test.each([{ shape: SHAPE }, { shape: [1, 4, 65_536] }])(
    "of $shape stay while their data are in use",
    async ({ shape }) => {
      await useBuild("simd");
      const bn = new BatchNorm(4);
      const size = shape.reduce((a, b) => a * b, 1);
      tensor([32 * size]).dispose(); // the memory does not grow after it, which would empty the views
      const x = tensor(shape, normal(1, size));
      const views = Array.from({ length: 10 }, () => bn.forward(x).data);
      const before = views.map((view) => view.slice());
      await collectAll();
      for (let i = 0; i < 10; i++) tensor(shape).data.fill(7);
      expect(views).toEqual(before);
      const { used } = defaultHeap().usage;
      views.length = 0;
      await collectAll();
      expect(defaultHeap().usage.used).toBeLessThan(used - 10 * size * 4);
    },
  );
});

// last, because what it keeps is freed at a moment that would blur another measurement
test("the gauge shows a step that keeps one array of 100 elements", () => {
  const kept: Float32Array[] = [];
  expect(growth(() => kept.push(new Float32Array(100)))).toBeGreaterThan(3 * TOLERANCE);
  expect(kept.length).toBe(1.1 * STEPS);
});
