// Scale and shift per sample: each sample's results, and the gradients by finite differences, also in ghost batches.

import { afterEach, beforeAll, describe, expect, test } from "vitest";
import {
  type ActivationName,
  type AnyTensor,
  BatchNorm,
  batchNormBackward,
  batchNormForward,
  batchNormInference,
  tensor,
  type Vector,
} from "../../src/index.ts";
import { dropMade, mine } from "../support/made.ts";
import { errorOf, solve } from "../support/reference.ts";
import { close, differences, inputsIn, layer, type Step, same, step } from "../support/variants.ts";
import { LAYOUTS, normal, ordered, real, sizeOf, useBuild, WAYS } from "../support/worlds.ts";

/** The gradients that a layer without gamma and beta has by scale and shift per sample. */
type SomeVectors = Partial<Record<"dGamma" | "dBeta", Float32Array>>;

afterEach(dropMade);

describe.each(WAYS)("$layout, $kind, $dtype", ({ layout, kind, dtype }) => {
  beforeAll(() => useBuild("simd"));
  const { input, part } = inputsIn({ layout, kind, dtype });

  describe("scale and shift per sample", () => {
    test.each([[[4, 3]], [[3, 3, 5]], [[2, 3, 40, 40]], [[1, 3, 4]]])("of %j: every sample has its own", (size) => {
      const [n = 0] = size;
      const [x, dy] = [input(1, size), input(2, size)];
      const [gamma, beta] = [normal(5, n * 3), normal(6, n * 3)].map((v) => real(dtype, v)) as [Vector, Vector];
      for (const activation of ["none", "relu", "silu"] as const) {
        const got = step(layer(dtype, { layout, activation }), x, dy, { perSample: { gamma, beta } });
        // each sample by the batch's statistics
        const { mean, variance, y } = batchNormForward(x, {}, { layout });
        mine(y);
        const one = sizeOf(size.slice(1));
        const frozen = layer(dtype, { layout, epsilon: 0, activation });
        for (let i = 0; i < n; i++) {
          frozen.runningMean?.set(mean);
          frozen.runningVariance?.set(variance.map((v) => v + 1e-5));
          frozen.gamma?.set(gamma.slice(i * 3, i * 3 + 3));
          frozen.beta?.set(beta.slice(i * 3, i * 3 + 3));
          const own = step(frozen, part(x, size, i, i + 1), part(dy, size, i, i + 1), { mode: "frozen" });
          const of = (v: Vector | null, length: number) => (v ? v.slice(i * length, (i + 1) * length) : null);
          const wanted = { y: of(got.y, one), dGamma: of(got.dGamma, 3), dBeta: of(got.dBeta, 3) };
          same(wanted, own, dtype === "float64" ? { rtol: 1e-9, atol: 1e-9 } : { rtol: 1e-4, atol: 1e-3 });
        }
        const stateless = batchNormForward(x, { perSample: { gamma, beta } }, { layout, activation });
        const { dx, dGamma, dBeta } = batchNormBackward(dy, stateless.saved);
        const results = { y: mine(stateless.y).data, dx: mine(dx).data, dGamma, dBeta } as Partial<Step>;
        // a single sample's is the layer's own way to the stateless function
        same(results, got, n === 1 ? close(dtype) : {});
      }
    });

    test("the same for all samples is the layer's own, and the gradients of samples add up to its", () => {
      const size = [4, 3, 5];
      const [x, dy] = [input(1, size), input(2, size)];
      const plain = step(layer(dtype, { layout }), x, dy);
      const bn = layer(dtype, { layout });
      const rows = (v: Vector) =>
        real(
          dtype,
          Array.from({ length: 12 }, (_, i) => v[i % 3] as number),
        );
      const [gamma, beta] = [rows(bn.gamma as Vector), rows(bn.beta as Vector)];
      const both = step(bn, x, dy, { perSample: { gamma, beta } });
      const { y, dx } = plain;
      same({ y, dx }, both, close(dtype));
      const sum = (v: Vector | null) =>
        [0, 1, 2].map((c) => [0, 1, 2, 3].reduce((a, n) => a + (v?.[n * 3 + c] as number), 0));
      expect(sum(both.dGamma)).toBeAllclose(plain.dGamma as Vector, close(dtype));
      expect(sum(both.dBeta)).toBeAllclose(plain.dBeta as Vector, close(dtype));
      // one of the two: the other keeps the layer's vector, and its gradient that vector's shape
      for (const [name, other] of [
        ["gamma", "beta"],
        ["beta", "gamma"],
      ] as const) {
        const given = { perSample: { [name]: { gamma, beta }[name] } };
        const one = step(layer(dtype, { layout }), x, dy, given);
        same({ y, dx }, one, close(dtype));
        const [own, shared] = name === "gamma" ? [one.dGamma, one.dBeta] : [one.dBeta, one.dGamma];
        expect(own).toBeAllclose((name === "gamma" ? both.dGamma : both.dBeta) as Vector);
        expect(shared).toBeAllclose((name === "gamma" ? plain.dBeta : plain.dGamma) as Vector, close(dtype));
        const stateless = batchNormForward(x, { ...given, [other]: bn[other] }, { layout });
        const gradients = batchNormBackward(dy, stateless.saved);
        const results = { y: mine(stateless.y).data, dx: mine(gradients.dx).data } as Partial<Step>;
        same({ ...results, dGamma: gradients.dGamma, dBeta: gradients.dBeta } as Partial<Step>, one);
      }
      // a layer without them takes them all the same
      const bare = step(layer(dtype, { layout, affine: false }), x, dy, { perSample: { gamma } });
      expect([bare.dGamma?.length, bare.dBeta]).toEqual([12, null]);
    });

    test("has gradients that are added to those of the backward before, if that had as many samples", () => {
      const [x, dy] = [input(1, [4, 3, 5]), input(2, [4, 3, 5])];
      const [gamma, beta] = [normal(5, 12), normal(6, 12)].map((v) => real(dtype, v)) as [Vector, Vector];
      const bn = layer(dtype, { layout });
      mine(bn.forward(x, { perSample: { gamma, beta } }));
      const once = (bn.backward(dy, { saved: bn.saved, needs: { dx: false } } as object).dGamma as Vector).slice();
      const { dGamma } = bn.backward(dy, { saved: bn.saved, needs: { dx: false }, accumulate: true } as object);
      expect(dGamma).toBeAllclose(
        once.map((v) => 2 * v),
        close(dtype),
      );
      mine(bn.forward(input(1, [3, 3, 5]), { perSample: { gamma: gamma.slice(0, 9), beta: beta.slice(0, 9) } }));
      expect(() => bn.backward(input(2, [3, 3, 5]), { accumulate: true })).toThrow(
        /^accumulate: expected a gradient of gamma of shape \[3, 3\] .* got one of 12 elements/,
      );
    });

    test("is read in forward, and may change afterwards; gradients go where they are wanted", () => {
      const [x, dy] = [input(1, [4, 3, 5]), input(2, [4, 3, 5])];
      const [gamma, beta] = [normal(5, 12), normal(6, 12)].map((v) => real(dtype, v)) as [Vector, Vector];
      const bn = layer(dtype, { layout });
      mine(bn.forward(x, { perSample: { gamma, beta }, mode: "batch" }));
      const expected = bn.backward(dy);
      const dx = mine(expected.dx).data.slice() as Vector;
      gamma.fill(9);
      beta.fill(9);
      const outs = { dGammaOut: real(dtype, new Array(12).fill(1)), dBetaOut: real(dtype, new Array(12).fill(2)) };
      const again = bn.backward(dy, { ...outs, accumulate: true, saved: bn.saved } as object);
      expect(mine(again.dx).data).toBeAllclose(dx);
      expect(again.dGamma).toBe(outs.dGammaOut);
      expect(outs.dGammaOut).toBeAllclose(
        (expected.dGamma as Vector).map((v) => v + 1),
        close(dtype),
      );
      expect(outs.dBetaOut).toBeAllclose(
        (expected.dBeta as Vector).map((v) => v + 2),
        close(dtype),
      );
      const some = bn.backward(dy, { saved: bn.saved, needs: { dGamma: false, dBeta: false } });
      expect(mine(some.dx).data).toBeAllclose(dx);
      const sums = bn.backward(dy, { saved: bn.saved, needs: { dx: false } });
      expect(sums.dGamma).toBeAllclose(expected.dGamma as Vector);
    });
  });
});

describe.each(LAYOUTS)("gradients, float64, %s", (layout) => {
  beforeAll(() => useBuild("simd"));
  const shape = ordered([4, 3, 5], layout);
  const dy = Float64Array.from(normal(2, 60));

  test.each(["none", "relu", "silu"] as const)(
    "of samples with a scale and shift of their own, in ghost batches (%s)",
    (activation) => {
      for (const options of [{}, { ghostBatchSize: 3 }]) {
        const v = {
          x: Float64Array.from(normal(1, 60, 2, 1)),
          gamma: Float64Array.from(normal(5, 12)),
          beta: Float64Array.from(normal(6, 12)),
        };
        const call = () => batchNormForward({ data: v.x, shape }, { perSample: v }, { layout, activation, ...options });
        const { x: data, ...perSample } = v;
        const forward = () => batchNormForward({ data, shape }, { perSample }, { layout, activation, ...options });
        expect(call).toThrow(TypeError); // x is no parameter
        const loss = () => forward().y.data.reduce((sum, value, i) => sum + value * (dy[i] as number), 0);
        const got = batchNormBackward({ data: dy, shape }, forward().saved);
        expect(got.dx?.data).toBeAllclose(differences(v.x, loss), { rtol: 1e-7, atol: 1e-7 });
        expect(got.dGamma).toBeAllclose(differences(v.gamma, loss), { rtol: 1e-7, atol: 1e-7 });
        expect(got.dBeta).toBeAllclose(differences(v.beta, loss), { rtol: 1e-7, atol: 1e-7 });
      }
    },
  );
});

describe("rows of one value per channel, against plain loops in float64", () => {
  beforeAll(() => useBuild("simd"));
  const u = 2 ** -24;

  /** Runs forward and backward of [N, C], and expects all results within their units. */
  function check(
    size: readonly [number, number],
    isTensor: boolean,
    activation: ActivationName,
    hasResidual: boolean,
    which: { gamma: boolean; beta: boolean },
  ): void {
    const [n, c] = size;
    const f32 = (seed: number, std = 1, mean = 0, length = n * c) => Float32Array.from(normal(seed, length, std, mean));
    const values = { x: f32(1, 2, 5), dy: f32(2), residual: f32(3) };
    const parameter = (name: "gamma" | "beta", seed: number) => f32(seed, 1, 0, which[name] ? n * c : c);
    const parameters = { gamma: parameter("gamma", 4), beta: parameter("beta", 5) };
    const names = ["gamma", "beta"] as const;
    const pick = (own: boolean) =>
      Object.fromEntries(names.filter((k) => which[k] === own).map((k) => [k, parameters[k]]));
    const residual = hasResidual ? values.residual : undefined;
    const expected = solve({
      ...{ shape: size, layout: "channels-first", epsilon: 1e-5, activation, x: values.x, dy: values.dy, residual },
      ...parameters,
    } as never);
    const give = (data: Float32Array) => mine(isTensor ? tensor(size, data) : { data: data.slice(), shape: size });
    const [x, dy] = [give(values.x), give(values.dy)];
    const added = hasResidual ? { residual: give(values.residual) } : {};
    const { y, saved } = batchNormForward<AnyTensor>(
      x,
      { ...pick(false), perSample: pick(true) },
      { activation, ...added },
    );
    const got = batchNormBackward<AnyTensor>(dy, saved, { dxOut: dy }); // dx takes the place of dy
    const worst = (name: "y" | "dx" | "dResidual" | "dGamma" | "dBeta", result: unknown) =>
      errorOf(result as Vector, expected[name], expected[`${name}Scale`], u, (i) => i % c);
    const name = JSON.stringify([size, isTensor, activation, hasResidual, which]);
    expect(worst("y", mine(y).data), `y of ${name}`).toBeLessThanOrEqual(4);
    expect(worst("dx", got.dx?.data), `dx of ${name}`).toBeLessThanOrEqual(4);
    if (hasResidual)
      expect(worst("dResidual", mine(got.dResidual)?.data), `dResidual of ${name}`).toBeLessThanOrEqual(4);
    expect(worst("dGamma", got.dGamma), `dGamma of ${name}`).toBeLessThanOrEqual(4);
    expect(worst("dBeta", got.dBeta), `dBeta of ${name}`).toBeLessThanOrEqual(4);
    if (activation === "none" && which.beta) expect(got.dBeta).toEqual(values.dy);
    dropMade();
  }

  const SIZES = [2, 3, 64, 127, 128, 1024].flatMap((n) => [1, 2, 3, 5, 7, 8, 37].map((c) => [n, c] as const));

  test.each([true, false])("of all sizes, in wasm memory: %j", (isTensor) => {
    for (const size of SIZES) check(size, isTensor, "none", false, { gamma: true, beta: true });
    check([1030, 131], isTensor, "none", false, { gamma: true, beta: true });
  });

  test.each(["none", "relu", "leaky_relu", "relu6", "silu"] as const)(
    "with activation %s and a residual",
    (activation) => {
      for (const isTensor of [true, false])
        for (const hasResidual of [false, true])
          for (const [gamma, beta] of [
            [true, true],
            [true, false],
            [false, true],
          ] as const)
            check([33, 7], isTensor, activation, hasResidual, { gamma, beta });
    },
  );

  test.each([true, false])("y may take the place of x or of the residual, in wasm memory: %j", (isTensor) => {
    const shape = [33, 7];
    const f32 = (seed: number, length = 231) => Float32Array.from(normal(seed, length));
    const give = (seed: number) => mine(isTensor ? tensor(shape, f32(seed)) : { data: f32(seed), shape });
    const parameters = {
      ...{ perSample: { gamma: f32(4), beta: f32(5) } },
      ...{ mean: f32(6, 7), variance: new Float32Array(7).fill(2) },
    };
    for (const activation of ["none", "silu"] as const) {
      const run = (place?: "x" | "residual") => {
        const operands: Record<"x" | "residual", AnyTensor> = { x: give(1), residual: give(3) };
        const options = { activation, residual: operands.residual, ...(place && { out: operands[place] }) };
        return mine(batchNormInference<AnyTensor>(operands.x, parameters, options).y).data.slice() as Vector;
      };
      expect(run("x")).toEqual(run());
      expect(run("residual")).toEqual(run());
    }
  });
});

describe.each([[[5, 3]], [[5, 3, 4]]])("scale or shift per sample, the other one absent, of %j", (shape) => {
  const size = sizeOf(shape);
  // bfloat16 holds these numbers
  const eighths = (seed: number) => Float32Array.from(normal(seed, size, 3), (v) => Math.round(v * 8) / 8);
  const bits = (values: Float32Array) => new Uint16Array(values.buffer).filter((_, i) => i % 2 === 1);
  const widened = (values: Uint16Array) => new Float32Array(Uint32Array.from(values, (v) => v << 16).buffer);
  const vectors = { gamma: Float32Array.from(normal(3, 15)), beta: Float32Array.from(normal(4, 15)) };
  const given = [{ gamma: vectors.gamma }, { beta: vectors.beta }, vectors];

  test.each(given)("bfloat16 has the results of float32, rounded once (%#)", (perSample) => {
    const narrow = new BatchNorm(3, { dtype: "bfloat16", affine: false });
    const wide = new BatchNorm(3, { affine: false });
    const data = bits(eighths(1));
    const y = narrow.forward({ data, shape, dtype: "bfloat16" }, { perSample });
    const back = narrow.backward({ data: bits(eighths(2)), shape, dtype: "bfloat16" });
    const expected = wide.forward({ data: eighths(1), shape }, { perSample });
    const gradients = wide.backward({ data: eighths(2), shape });
    const rounded = { rtol: 2 ** -8, atol: 1e-6 };
    expect(widened(y.data)).toBeAllclose(expected.data, rounded);
    expect(widened(back.dx.data)).toBeAllclose(gradients.dx.data, rounded);
    for (const name of ["dGamma", "dBeta"] as const) {
      const [got, want] = [back, gradients].map((g) => (g as object as SomeVectors)[name]);
      expect(got === undefined).toBe(want === undefined);
      if (got && want) expect(got).toBeAllclose(want, { rtol: 1e-5, atol: 1e-5 });
    }
  });

  test.each(given)("what is not needed changes nothing of what is (%#)", (perSample) => {
    const bn = new BatchNorm(3, { affine: false });
    const run = (needs: object) => {
      bn.forward({ data: eighths(1), shape }, { perSample });
      return bn.backward({ data: eighths(2), shape }, { needs });
    };
    const { dx, ...others } = run({});
    expect(run({ dGamma: false, dBeta: false })).toEqual({ dx });
    expect(run({ dx: false })).toEqual(others);
  });
});
