// diagnose finds the one fault of each channel, and its table shows it.

import { beforeAll, describe, expect, it } from "vitest";
import { BatchNorm, diagnose, type Layout, type Options, type PlainTensor, tensor } from "../../src/index.ts";
import { defaultHeap } from "../../src/memory/heap.ts";
import { dimsOf, statistics } from "../support/reference.ts";
import { drop, KINDS, make, normal, useBuild } from "../support/worlds.ts";

const LAYOUTS: readonly Layout[] = ["channels-first", "channels-last"];
const [N, C, S] = [16, 8, 20];

/** Standard normal channels, each times a scale and moved by a mean, in either memory order. */
function input(
  layout: Layout,
  { std = {}, mean = {} }: { std?: Record<number, number>; mean?: Record<number, number> },
) {
  const values = normal(1, N * C * S);
  const shape = layout === "channels-last" ? [N, S, C] : [N, C, S];
  const { inner } = dimsOf(shape, layout);
  const data = values.map((v, i) => {
    const c = Math.floor(i / inner) % C;
    return v * (std[c] ?? 1) + (mean[c] ?? 0);
  });
  return { data, shape };
}

beforeAll(() => useBuild("simd"));

describe.each(KINDS.flatMap((kind) => LAYOUTS.map((layout) => ({ kind, layout }))))(
  "diagnose, $kind input, $layout",
  ({ kind, layout }) => {
    it("finds each channel that is wrong, by what is wrong with it", () => {
      const bn = new BatchNorm(C, { layout, activation: "relu" });
      // 0 is well; running statistics are mean 0 and variance 1
      const { data, shape } = input(layout, { mean: { 1: 2, 6: 0.3 }, std: { 2: 3, 3: 1e-6 } });
      bn.gamma?.set([1, -1, 1.5, 1, 0.5, 1e-3, 1, 0]);
      bn.beta?.set([0, 0, 0, 0, -5, 1, 0, 1]);
      const x = make(kind, shape, data);
      const found = diagnose(bn, x);
      expect(found.drifted).toEqual([1, 2, 3]);
      expect(found.dead).toEqual([3, 4]);
      expect(found.weak).toEqual([5, 7]);

      const { mean, variance } = statistics(data, dimsOf(shape, layout));
      const m = N * S;
      const per = (of: (c: number) => number) => Float64Array.from({ length: C }, (_, c) => of(c));
      const [mu, v] = [(c: number) => mean[c] as number, (c: number) => variance[c] as number];
      const close = { rtol: 1e-5, atol: 1e-6 };
      expect(found.meanDrift).toBeAllclose(
        per((c) => mu(c) / Math.sqrt(1 + 1e-5)),
        close,
      );
      expect(found.meanDriftErrors).toBeAllclose(
        per((c) => (mu(c) / Math.sqrt(1 + 1e-5)) * Math.sqrt(m)),
        { rtol: 1e-5, atol: 1e-4 },
      );
      // near 1 the cube root's errors are those of the ratio itself, of which the standard deviation is √(2/(m − 1))
      for (const c of [0, 4, 5, 7])
        expect(found.varianceRatioErrors[c]).toBeCloseTo(
          ((found.varianceRatio[c] as number) - 1) / Math.sqrt(2 / (m - 1)),
          0,
        );
      expect(found.varianceRatioErrors[2]).toBeGreaterThan(20);
      expect(found.varianceRatioErrors[3]).toBeLessThan(-20);
      expect(found.varianceRatio).toBeAllclose(
        per((c) => ((v(c) * m) / (m - 1) + 1e-5) / (1 + 1e-5)),
        close,
      );
      expect(found.xHatStd).toBeAllclose(
        per((c) => Math.sqrt(v(c) / (v(c) + 1e-5))),
        close,
      );
      expect(found.gamma).toEqual(Float64Array.from(bn.gamma as Float32Array));
      expect(found.scale).toBeAllclose(
        per((c) => (found.gamma[c] as number) / Math.sqrt(v(c) + 1e-5)),
        close,
      );
      expect(found.scaleNorm).toBeCloseTo(Math.hypot(...found.scale), 10);
      expect([found.channels, found.count]).toEqual([C, m]);

      // the fraction that passes is exact
      const y = bn.forward(x, { mode: "batch" });
      const { inner } = dimsOf(shape, layout);
      const positive = new Float64Array(C);
      y.data.forEach((value, i) => {
        const c = Math.floor(i / inner) % C;
        if (value > 0) positive[c] = (positive[c] as number) + 1;
      });
      expect(found.active).toEqual(positive.map((count) => count / m));
      expect(found.active[4]).toBe(0);
      expect(found.active[7]).toBe(1);
      drop(x, y);
    });

    it("changes nothing of the layer", () => {
      const { data, shape } = input(layout, {});
      const [bn, twin] = [
        new BatchNorm(C, { layout, activation: "relu" }),
        new BatchNorm(C, { layout, activation: "relu" }),
      ];
      const x = make(kind, shape, data);
      const other = make(
        kind,
        shape,
        data.map((v) => v * 2 + 1),
      );
      for (const layer of [bn, twin]) drop(layer.forward(x));
      const found = diagnose(bn, other, { residual: x });
      expect(found.active.every((fraction) => fraction > 0.3 && fraction < 0.7)).toBe(true);
      expect(bn.stateDict()).toEqual(twin.stateDict());
      const [a, b] = [bn.backward(x), twin.backward(x)];
      expect(a.dx?.data).toEqual(b.dx?.data);
      drop(x, other, a.dx, b.dx);
    });
  },
);

describe("diagnose", () => {
  it("refuses a residual that does not fit, with every activation", () => {
    for (const activation of ["none", "leaky_relu", "relu"] as const) {
      const bn = new BatchNorm(C, { activation });
      const residual = { data: new Float32Array(C), shape: [1, C] };
      expect(() => diagnose(bn, healthy, { residual })).toThrow(/^residual: expected shape/);
      expect(() => diagnose(bn, healthy, { residual: 3 as never })).toThrow(/^residual: expected/);
    }
  });

  const healthy = input("channels-first", {});
  const of = (options: Options, x: PlainTensor = healthy) => diagnose(new BatchNorm(C, options), x);

  it("finds nothing wrong with a layer that has just learned the batch", () => {
    for (const runningVariance of ["unbiased", "biased"] as const) {
      const bn = new BatchNorm(C, { estimator: "population", runningVariance, activation: "relu" });
      const { data, shape } = input("channels-first", { mean: { 2: 1e3 }, std: { 3: 1e-1 } });
      bn.forward({ data, shape });
      const { drifted, dead, weak, varianceRatio, meanDrift } = diagnose(bn, { data, shape });
      expect([drifted, dead, weak]).toEqual([[], [], []]);
      expect(varianceRatio).toBeAllclose(new Float64Array(C).fill(1), { rtol: 1e-6 });
      expect(meanDrift).toBeAllclose(new Float64Array(C), { atol: 1e-3 });
    }
  });

  it.each([2, 4, 16])("does not take the noise of %i values for drift", (count) => {
    const channels = 20_000;
    const x = { data: normal(9, count * channels), shape: [count, channels] };
    const { meanDrift, varianceRatio, drifted } = diagnose(new BatchNorm(channels), x);
    expect(meanDrift.filter((v) => Math.abs(v) > 0.5).length).toBeGreaterThan(500);
    expect(varianceRatio.filter((v) => v > 2 || v < 0.5).length).toBeGreaterThan(500);
    expect(drifted.length).toBeLessThanOrEqual(4);
  });

  it("knows what each activation stops, the layer's own or the one behind it", () => {
    const beta = [0, 12, -12, 0, 0, 0, 0, 0];
    const dead = (options: Options, given?: "relu" | "relu6" | "none") => {
      const bn = new BatchNorm(C, options);
      bn.beta?.set(beta);
      return diagnose(bn, healthy, given ? { activation: given } : {}).dead;
    };
    expect(dead({})).toEqual([]);
    expect(dead({ activation: "leaky_relu" })).toEqual([]);
    expect(dead({ activation: "silu" })).toEqual([]);
    expect(dead({ activation: "relu" })).toEqual([2]);
    expect(dead({ activation: "relu6" })).toEqual([1, 2]); // always at 6, always at 0
    expect(dead({}, "relu")).toEqual([2]);
    expect(dead({ activation: "relu6" }, "none")).toEqual([]);
  });

  it("takes float64 and 16-bit elements, and tensors of them", () => {
    const wide = { data: Float64Array.from(healthy.data), shape: healthy.shape };
    const expected = of({ activation: "relu6" });
    const bn = new BatchNorm(C, { dtype: "float64", activation: "relu6" });
    const inWasm = tensor(wide.shape, wide.data);
    for (const x of [wide, inWasm]) {
      const found = diagnose(bn, x);
      expect(found.active).toEqual(expected.active);
      expect(found.meanDrift).toBeAllclose(expected.meanDrift, { rtol: 1e-5, atol: 1e-6 });
    }
    drop(inWasm);
    const bits = Uint16Array.from(new Uint32Array(healthy.data.slice().buffer), (b) => b >>> 16);
    const half = { data: bits, shape: healthy.shape, dtype: "bfloat16" as const };
    const found = diagnose(new BatchNorm(C, { dtype: "bfloat16", activation: "relu6" }), half);
    expect(found.active).toBeAllclose(expected.active, { atol: 0.02 });
    expect(found.drifted).toEqual([]);
  });

  it("calls a channel that is not finite drifted", () => {
    const data = healthy.data.slice();
    data[3 * S] = Number.NaN;
    const found = of({}, { data, shape: healthy.shape });
    expect(found.drifted).toEqual([3]);
    expect(found.table(1)).toContain("NaN");
  });

  it("compares constant channels without dividing by zero", () => {
    const bn = new BatchNorm(2, { epsilon: 0, estimator: "population" });
    const x = { data: new Float32Array(8).fill(3), shape: [4, 2] };
    bn.forward(x);
    const found = diagnose(bn, x);
    expect([found.drifted, found.dead]).toEqual([[], [0, 1]]);
    expect([...found.meanDrift, ...found.varianceRatio]).toEqual([0, 0, 1, 1]);
    x.data.fill(4);
    expect(diagnose(bn, x).drifted).toEqual([0, 1]);
  });

  it("finds gammas that are at most a hundredth of their median, and none where there is no gamma", () => {
    const weak = (gamma: number[]) => {
      const bn = new BatchNorm(gamma.length, { dtype: "float64" });
      bn.gamma?.set(gamma);
      const size = 4 * gamma.length;
      return diagnose(bn, { data: Float64Array.from(normal(1, size)), shape: [4, gamma.length] }).weak;
    };
    expect(weak([1, 0.01, 1, 1, -0.0101])).toEqual([1]);
    expect(weak([0.5, 200, 1, -100, 300])).toEqual([0, 2]);
    expect(of({ scale: false }).weak).toEqual([]);
  });

  it("calls a drift large that is above the limits, which are half a standard deviation and a ratio of 2", () => {
    const options = { epsilon: 0, runningVariance: "biased" } as const;
    const drifted = (...values: number[]) => {
      const data = Float32Array.from({ length: 1000 }, (_, i) => values[i % values.length] as number);
      return diagnose(new BatchNorm(1, options), { data, shape: [1000, 1] }).drifted;
    };
    expect(drifted(1.5, -0.5)).toEqual([]);
    expect(drifted(1.5625, -0.4375)).toEqual([0]);
    expect(drifted(2, -2, 0, 0)).toEqual([]);
    expect(drifted(2.125, -2.125, 0, 0)).toEqual([0]);
    expect(drifted(1.25, -1.25)).toEqual([]);
  });

  it("measures drift with epsilon, and its errors as those of the batch's own noise", () => {
    const bn = new BatchNorm(1, { epsilon: 3, runningVariance: "biased" });
    const { meanDrift, varianceRatio, varianceRatioErrors } = diagnose(bn, {
      data: Float32Array.of(3, 5, 3, 5),
      shape: [4, 1],
    });
    bn.runningVariance?.fill(6);
    expect(meanDrift).toEqual(Float64Array.of(2));
    expect(diagnose(bn, { data: Float32Array.of(3, 5, 3, 5), shape: [4, 1] }).meanDrift).toEqual(
      Float64Array.of(4 / 3),
    );
    expect(varianceRatio).toEqual(Float64Array.of(1));
    // Wilson and Hilferty's for 3 degrees of freedom
    expect(varianceRatioErrors[0]).toBeCloseTo(Math.sqrt(2 / 27), 12);
  });

  it("adds the residual before the activation", () => {
    const bn = new BatchNorm(C, { activation: "relu" });
    const residual = (value: number) => ({ data: new Float32Array(N * C * S).fill(value), shape: healthy.shape });
    expect(diagnose(bn, healthy, { residual: residual(20) }).active).toEqual(new Float64Array(C).fill(1));
    expect(diagnose(bn, healthy, { residual: residual(-20) }).active).toEqual(new Float64Array(C));
  });

  it("takes another activation than the layer's, whose slope it does not have", () => {
    const bn = new BatchNorm(C, { activation: "leaky_relu", negativeSlope: 0.5 });
    expect(diagnose(bn, healthy, { activation: "relu" }).active.every((part) => part > 0.3 && part < 0.7)).toBe(true);
    expect(diagnose(bn, healthy).active).toEqual(new Float64Array(C).fill(1));
  });

  it("frees what it allocates", () => {
    const x = tensor(healthy.shape, healthy.data);
    const { used } = defaultHeap().usage;
    of({ activation: "relu" }, x as never);
    of({ activation: "relu" });
    expect(defaultHeap().usage.used).toBe(used);
    drop(x);
  });

  it("prints aligned columns, all findings of a channel, and like channels by their numbers", () => {
    const bn = new BatchNorm(3, { activation: "relu", epsilon: 0, runningVariance: "biased" });
    bn.beta?.fill(-1);
    const x = { data: Float32Array.of(7, 1, 1, 7, -1, -1), shape: [2, 3] };
    expect(diagnose(bn, x).table()).toBe(`\
3 channels of 2 values: 1 drifted, 3 dead, 0 with gamma near 0; ‖gamma·invStd‖ = 1.41
channel  mean drift  in errors  variance ratio  in errors  std of x̂  active  gamma  gamma·invStd
      0           7        9.9               0      -1.65          0       0      1             0  constant, never active, mean drifted
      1           0          0               1      0.471          1       0      1             1  never active
      2           0          0               1      0.471          1       0      1             1  never active`);
    expect(diagnose(bn, x).table(0).split("\n").at(-1)).toBe("… and 3 more");
  });

  it("refuses wrong arguments, a layer without running statistics and a batch of one value", () => {
    const bn = new BatchNorm(C);
    expect(() => of({ trackRunningStats: false })).toThrow(
      expect.objectContaining({ code: "no-running-statistics" }) as Error,
    );
    expect(() => diagnose(bn, { data: new Float32Array(C), shape: [1, C] })).toThrow(
      expect.objectContaining({ code: "one-value-per-channel" }) as Error,
    );
    expect(() => diagnose(bn, { data: new Float32Array(6), shape: [2, 3] })).toThrow(/^x: expected 8 channels/);
    expect(() => diagnose(bn, { data: new Float64Array(16), shape: [2, C] } as never)).toThrow(TypeError);
    expect(() => diagnose(null as never, healthy)).toThrow(/^bn: expected a BatchNorm \(structuredClone/);
    expect(() => diagnose({} as never, healthy)).toThrow(/^bn: expected a BatchNorm \(structuredClone/);
    expect(() => diagnose(bn, healthy, { activation: "tanh" as never })).toThrow(RangeError);
    expect(() => diagnose(bn, healthy, { rows: 3 } as never)).toThrow(TypeError);
    expect(() => of({}).table(-1)).toThrow(/^rows: expected a non-negative integer/);
  });

  it("prints the worst channels first, and says how many are left", () => {
    const bn = new BatchNorm(C, { activation: "relu" });
    bn.gamma?.set([1, 1, 1, 1, 1, 1e-3, 1, 1]);
    bn.beta?.set([0, 0, 0, 0, -5, 1, 0, 0]);
    const found = diagnose(bn, input("channels-first", { mean: { 1: 2, 6: 20 } }));
    const lines = found.table(4).split("\n");
    expect(lines).toHaveLength(7);
    expect(lines[0]).toMatch(
      /^8 channels of 320 values: 2 drifted, 1 dead, 1 with gamma near 0; ‖gamma·invStd‖ = 2\.\d+$/,
    );
    expect(lines[1]).toBe(lines[1]?.trimEnd());
    expect(lines[1]).toMatch(
      /^channel +mean drift +in errors +variance ratio +in errors +std of x̂ +active +gamma +gamma·invStd$/,
    );
    const first = (i: number) => (lines[i] as string).trim().split(/ +/)[0];
    expect([2, 3, 4, 5].map(first)).toEqual(["4", "6", "1", "5"]);
    expect(lines[2]).toMatch(/never active$/);
    expect(lines[3]).toMatch(/mean drifted$/);
    expect(lines[5]).toMatch(/gamma near 0$/);
    expect(lines[6]).toBe("… and 4 more");
    expect(`${found}`).toBe(found.table(10));
    expect(found.table(8).split("\n")).toHaveLength(10);
  });
});
