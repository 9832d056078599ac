// Planar tensors of 8 MiB and more. Their sums and maps work at several far images at once, which the definition checks.
// They are summed and mapped in blocks of channels. Arrays of the same shape pass through wasm memory in tiles, which are
// other groups of channels. Equal bits show that the groups change no result. Rows whose dz is computed and summed a few
// stripes at a time are compared in the same way.

import { afterEach, describe, expect, test } from "vitest";
import { BatchNorm, type Dtype, type Tensor, type TensorLike, tensor } from "../../src/index.ts";
import { backward, dimsOf, forward, invStdOf, statistics } from "../support/reference.ts";
import { normalInput } from "../support/worlds.ts";

/** 8.2 MiB each: five blocks of one channel, and nine blocks of 47 channels, whose planes are short. */
const SHAPES = [
  [4, 5, 107_000],
  [64, 390, 86],
] as const;

const made: Tensor<Dtype>[] = [];
const mine = (values: Float32Array, shape: readonly number[]) => {
  const t = tensor([...shape], values);
  made.push(t);
  return t;
};

afterEach(() => {
  for (const t of made.splice(0)) t.dispose();
});

const ACTIVATIONS = [
  { activation: "none", slope: 1 },
  { activation: "relu", slope: 0 },
  { activation: "leaky_relu", slope: 0.01 },
] as const;

describe.each(["float32", "float64"] as const)("%s at several far images", (dtype) => {
  // neither two nor four streams divide 11 images, and neither vectors nor lines divide a plane
  const shape = [11, 5, 38_201];
  const d = dimsOf(shape, "channels-first");
  const store = (values: ArrayLike<number>) =>
    dtype === "float64" ? Float64Array.from(values) : Float32Array.from(values);
  const x = store(normalInput(1, shape, 2, 3).data);
  const dy = store(normalInput(2, shape).data);
  const gamma = store([1, -0.5, 2, 0.25, 3]);
  const beta = store([0, 1, -1, 0.5, 0.25]);
  const { mean, variance } = statistics(x, d);
  const invStd = invStdOf(variance, 1e-5);
  const z = forward(x, d, mean, invStd, gamma, beta).y;
  // rounding decides the side of the kink where z is close to 0
  for (let i = 0; i < z.length; i++) if (Math.abs(z[i] as number) < 1e-4) dy[i] = 0;
  const near = { rtol: 1e-5, atol: 1e-5 };

  test.each(ACTIVATIONS)("agrees with the definition, activation $activation", ({ activation, slope }) => {
    const factor = (i: number) => ((z[i] as number) > 0 ? 1 : slope);
    const truth = backward(x, store(dy.map((v, i) => v * factor(i))), d, mean, invStd, gamma, true);
    const bn = new BatchNorm(5, { dtype, activation });
    Object.assign(bn, { gamma, beta });
    const put = (values: Float32Array | Float64Array) => {
      const t = tensor([...shape], values as never, { dtype } as never) as Tensor;
      made.push(t);
      return t;
    };
    const [y, dx] = [put(x), put(dy)];
    bn.forward(put(x) as never, { out: y as never });
    const gradients = bn.backward(dx as never, { dxOut: dx as never });
    expect(y.data).toBeAllclose(
      z.map((v, i) => v * factor(i)),
      near,
    );
    expect(dx.data).toBeAllclose(truth.dx, near);
    // sums of 420,211 values of about 1
    expect(gradients.dGamma).toBeAllclose(truth.dGamma, { rtol: 1e-5, atol: 1e-2 });
    expect(gradients.dBeta).toBeAllclose(truth.dBeta, { rtol: 1e-5, atol: 1e-2 });
  });
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
    expect(gradients.dResidual?.data).toEqual(expectedGradients.dResidual?.data);
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

describe.each([
  [40_003, 65],
  [60_000, 32],
] as const)("[%i, %i] in pieces of stripes", (...shape) => {
  test.each([
    { activation: "relu" as const, hasResidual: true },
    { activation: "silu" as const, hasResidual: false },
  ])("has the bits of tiles with activation $activation and residual $hasResidual", ({ activation, hasResidual }) => {
    const [x, dy, residual] = [normalInput(1, shape, 2, 3), normalInput(2, shape), normalInput(3, shape)];
    const run = (put: (values: Float32Array) => Tensor | typeof x) => {
      const bn = new BatchNorm(shape[1], { activation });
      const y = bn.forward(put(x.data) as Tensor, hasResidual ? { residual: put(residual.data) as Tensor } : {});
      const gradients = bn.backward(put(dy.data) as Tensor);
      for (const value of [y, gradients.dx, gradients.dResidual]) if (value && "dispose" in value) made.push(value);
      const { dGamma, dBeta } = gradients;
      const [dx, dResidual] = [gradients.dx?.data.slice(), gradients.dResidual?.data.slice()];
      return { y: y.data.slice(), dx, dResidual, dGamma, dBeta };
    };
    const inPieces = run((values) => mine(values, shape));
    const inTiles = run((data) => ({ data, shape: [...shape] }));
    for (const name of ["y", "dx", "dResidual", "dGamma", "dBeta"] as const)
      expect(inPieces[name], name).toEqual(inTiles[name]);
  });
});

// kernels convert the runs of a tensor where they are, one for each image; those of an array are copied first
test("a bfloat16 tensor in tiles of three channels and of two has the bits of an array", () => {
  const shape = [4, 5, 10_000];
  const dtype = "bfloat16";
  const bits = ({ data }: { data: Float32Array }) => Uint16Array.from(new Uint32Array(data.buffer), (b) => b >>> 16);
  const [x, dy] = [bits(normalInput(1, shape, 2, 3)), bits(normalInput(2, shape))];
  const run = (put: (data: Uint16Array) => TensorLike<typeof dtype>) => {
    const bn = new BatchNorm(5, { dtype });
    const y = bn.forward(put(x));
    const { dx, dGamma, dBeta } = bn.backward(put(dy));
    for (const value of [y, dx]) if (value && "dispose" in value) made.push(value);
    return { y: y.data.slice(), dx: dx?.data.slice(), dGamma, dBeta, state: bn.stateDict() };
  };
  const inMemory = run((data) => {
    const t = tensor(shape, data, { dtype });
    made.push(t);
    return t;
  });
  expect(inMemory).toEqual(run((data) => ({ data, shape, dtype })));
});
