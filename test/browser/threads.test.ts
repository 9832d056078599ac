// A pool of two threads in a page. In an isolated page there are workers; in another page there are one warning and one
// thread. The bits are those of one thread in both.

import { afterAll, beforeAll, describe, expect, inject, it, type MockInstance, vi } from "vitest";
import { BatchNorm, init, kernelInfo, type Layout } from "../../src/index.ts";
import { drop, KINDS, make, normal } from "../support/worlds.ts";

const isolated = inject("isolated");

/** Enough work to be worth dividing, and nothing in it that two, or four lanes, divide. */
const SHAPES: Record<Layout, number[]> = {
  "channels-first": [7, 33, 57, 57],
  "channels-last": [7, 57, 57, 33],
};

const WAYS = (["channels-first", "channels-last"] as const).flatMap((layout) =>
  KINDS.flatMap((kind) => (["train", "frozen"] as const).map((mode) => ({ layout, kind, mode }))),
);

/** The bits of everything that one forward and backward writes. */
function step({ layout, kind, mode }: (typeof WAYS)[number]): [string, Int32Array][] {
  const shape = SHAPES[layout];
  const size = shape.reduce((a, b) => a * b, 1);
  const bn = new BatchNorm(33, { layout });
  bn.gamma = normal(1, 33);
  bn.beta = normal(2, 33);
  const x = make(kind, shape, normal(3, size, 2, 5));
  const dy = make(kind, shape, normal(4, size));
  const y = bn.forward(x, { mode });
  const { dx, dGamma, dBeta } = bn.backward(dy);
  const { runningMean, runningVariance } = bn;
  const written = { y: y.data, dx: dx?.data, dGamma, dBeta, runningMean, runningVariance };
  const bits = Object.entries(written).map(([name, values]): [string, Int32Array] => [
    name,
    new Int32Array(Float32Array.from(values ?? []).buffer),
  ]);
  drop(x, dy, y, dx);
  bn.dispose();
  return bits;
}

describe(isolated ? "isolated" : "not isolated", () => {
  const expected = new Map<string, [string, Int32Array][]>();
  let warn: MockInstance<typeof console.warn>;

  beforeAll(async () => {
    for (const way of WAYS) expected.set(JSON.stringify(way), step(way));
    warn = vi.spyOn(console, "warn").mockImplementation(() => {});
    await init({ threads: 2 });
  });
  afterAll(() => warn.mockRestore());

  it(isolated ? "has two threads" : "has one thread", () => {
    expect(kernelInfo().threads).toBe(isolated ? 2 : 1);
  });

  it.each(WAYS)("$layout, $kind, $mode: the bits of one thread", (way) => {
    for (const [name, bits] of step(way)) {
      const one = expected.get(JSON.stringify(way))?.find(([of]) => of === name)?.[1] ?? new Int32Array(1);
      expect(bits.length, name).toBeGreaterThan(0);
      expect(bits, name).toBeAllclose(one);
    }
  });

  it(isolated ? "warns of nothing" : "warns once", () => {
    expect(warn).toHaveBeenCalledTimes(isolated ? 0 : 1);
  });
});
