// init({ checks: true }): a backward refuses operands that have been written since their forward.

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  type AnyTensor,
  BatchNorm,
  batchNormDoubleBackward,
  batchNormForward,
  batchNormGradientSums,
  groupNormForward,
  init,
  kernelInfo,
  layerNormForward,
  normBackward,
  tensor,
  weightNormForward,
} from "../../src/index.ts";

const plain = () => ({ data: Float32Array.of(1, 2, 3, 10, -4, 0.5, 7, 8), shape: [4, 2] });
const kinds: Record<string, () => AnyTensor> = {
  "a plain array": plain,
  "a Tensor": () => tensor([4, 2], plain().data),
  "16 bits": () => ({
    data: Uint16Array.of(0x3f80, 0x4000, 0x4040, 0x4080, 0xbf80, 0, 0x40a0, 0x4120),
    shape: [4, 2],
    dtype: "bfloat16",
  }),
};
const write = (x: AnyTensor) => x.data.set([12], 3);
const written = (name: string) =>
  expect.objectContaining({ code: "in-place", message: expect.stringMatching(new RegExp(`^${name}: `)) });

/** Each backward that reads x again, by a name: makes the forward, and returns the backward. */
const backwards: Record<string, (x: AnyTensor) => () => unknown> = {
  "BatchNorm.backward": (x) => {
    const bn = new BatchNorm(2, { dtype: (x.dtype ?? "float32") as "float32" });
    bn.forward(x as never);
    return () => bn.backward(x as never);
  },
  "BatchNorm.backward of a repeated forward": (x) => {
    const bn = new BatchNorm(2, { dtype: (x.dtype ?? "float32") as "float32" });
    for (let i = 0; i < 4; i++) bn.forward(x as never);
    return () => bn.backward(x as never);
  },
  batchNormGradientSums: (x) => {
    const { saved } = batchNormForward(x);
    return () => batchNormGradientSums(x, saved);
  },
  batchNormDoubleBackward: (x) => {
    const { saved } = batchNormForward(x);
    return () => batchNormDoubleBackward(x, saved, { ddx: x });
  },
  "normBackward of batch norm": (x) => {
    const { saved } = batchNormForward(x);
    return () => normBackward(x, saved);
  },
  "normBackward of group norm": (x) => {
    const { saved } = groupNormForward(x, 1);
    return () => normBackward(x, saved);
  },
  "normBackward of layer norm": (x) => {
    const { saved } = layerNormForward(x, 2);
    return () => normBackward(x, saved);
  },
};

describe("with checks", () => {
  beforeAll(() => init({ checks: true }));
  afterAll(() => init({ checks: false }));

  describe.each(Object.entries(kinds))("%s", (_, make) => {
    it.each(Object.entries(backwards))("%s throws for x written since the forward", (_name, prepare) => {
      const x = make();
      const backward = prepare(x);
      const before = x.data.slice();
      write(x);
      expect(backward).toThrow(written("x"));
      x.data.set(before as never);
      expect(backward).not.toThrow();
    });
  });

  it("names the residual, and the weight of weight norm", () => {
    const bn = new BatchNorm(2, { activation: "relu" });
    const [x, residual] = [plain(), plain()];
    bn.forward(x, { residual });
    write(residual);
    expect(() => bn.backward(plain())).toThrow(written("residual"));
    const v = plain();
    const { saved } = weightNormForward(v, Float32Array.of(1, 1, 1, 1));
    write(v);
    expect(() => normBackward(plain(), saved)).toThrow(written("v"));
  });

  it("does not mind a residual that backward does not read, nor a forward in place", () => {
    const bn = new BatchNorm(2);
    const residual = plain();
    bn.forward(plain(), { residual });
    write(residual);
    expect(() => bn.backward(plain())).not.toThrow();
    const x = plain();
    expect(bn.eval().forward(x, { out: x })).toBe(x);
  });

  it("differentiates each forward of one x that is written between them, with its own record", () => {
    const bn = new BatchNorm(2);
    const x = tensor([4, 2], plain().data);
    bn.forward(x);
    const { saved } = bn;
    write(x);
    bn.forward(x);
    expect(() => bn.backward(x, { saved })).toThrow(written("x"));
    expect(() => bn.backward(x)).not.toThrow();
  });

  it("compares with the latest of many forwards of one x", () => {
    const bn = new BatchNorm(2);
    const x = tensor([4, 2], plain().data);
    for (let i = 0; i < 6; i++) {
      x.data.set([i], 3);
      bn.forward(x);
      expect(() => bn.backward(x)).not.toThrow();
    }
  });
});

describe("without checks", () => {
  it("nothing is reported", () => {
    const x = plain();
    const bn = new BatchNorm(2);
    bn.forward(x);
    write(x);
    expect(() => bn.backward(plain())).not.toThrow();
  });

  it("init({ checks }) keeps the memory: earlier tensors stay in the default one", async () => {
    const x = tensor([4, 2], plain().data);
    const { buffer } = x.data;
    await init({ checks: true });
    await init({ checks: false });
    expect(tensor([1]).data.buffer).toBe(buffer);
    expect(kernelInfo().threads).toBe(1);
  });

  it("a wrong value is refused and changes nothing", async () => {
    await expect(init({ checks: 1 as never })).rejects.toThrow(TypeError);
    const x = plain();
    const { saved } = batchNormForward(x);
    write(x);
    expect(() => normBackward(x, saved)).not.toThrow();
  });
});
