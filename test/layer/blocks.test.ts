// Planar tensors of 8 MiB and more are summed and mapped in blocks of channels. Arrays of the same shape pass through
// wasm memory in tiles, which are other groups of channels. Equal bits show that the groups change no result.

import { afterEach, describe, expect, test } from "vitest";
import { BatchNorm, type Tensor, tensor } from "../../src/index.ts";
import { normalInput } from "../support/worlds.ts";

/** 8.2 MiB each: five blocks of one channel, and nine blocks of 47 channels, whose planes are short. */
const SHAPES = [
  [4, 5, 107_000],
  [64, 390, 86],
] as const;

const made: Tensor[] = [];
const mine = (values: Float32Array, shape: readonly number[]) => {
  const t = tensor([...shape], values);
  made.push(t);
  return t;
};

afterEach(() => {
  for (const t of made.splice(0)) t.dispose();
});

describe.each(SHAPES)("[%i, %i, %i] in blocks of channels", (...shape) => {
  const x = normalInput(1, shape, 2, 3);
  const dy = normalInput(2, shape);
  const residual = normalInput(3, shape);

  test.each([
    { activation: "none" as const, extra: {} },
    { activation: "relu" as const, extra: { residual: true } },
  ])("has the bits of tiles with activation $activation", ({ activation, extra }) => {
    const [inBlocks, inTiles] = [0, 1].map(() => new BatchNorm(shape[1], { activation })) as [BatchNorm, BatchNorm];
    const added = "residual" in extra ? residual : undefined;
    const expected = inTiles.forward(x, added ? { residual: added } : {});
    const expectedGradients = inTiles.backward(dy);
    const tensors = { x: mine(x.data, shape), dy: mine(dy.data, shape), out: mine(x.data, shape) };
    const y = inBlocks.forward(tensors.x, {
      out: tensors.out,
      ...(added && { residual: mine(added.data, shape) }),
    });
    const gradients = inBlocks.backward(tensors.dy, { dxOut: tensors.dy });
    expect(y).toBe(tensors.out);
    expect(y.data).toEqual(expected.data);
    expect(tensors.dy.data).toEqual(expectedGradients.dx?.data);
    for (const name of ["dGamma", "dBeta"] as const) expect(gradients[name]).toEqual(expectedGradients[name]);
    expect(inBlocks.stateDict()).toEqual(inTiles.stateDict());
    if (gradients.dResidual) made.push(gradients.dResidual);
  });

  test("a channel of the last block that is not finite ends the call and leaves the layer as it was", () => {
    const bn = new BatchNorm(shape[1]);
    const poisoned = mine(x.data, shape);
    poisoned.data[poisoned.length - 1] = Number.NaN;
    const before = bn.stateDict();
    const out = mine(x.data, shape);
    expect(() => bn.forward(poisoned, { out })).toThrow(/expected a finite batch mean and variance/);
    expect(bn.stateDict()).toEqual(before);
  });
});
