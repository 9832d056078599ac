// Folding forward: the BatchNorm is before the linear or convolutional layer. Weights of every format against sums over
// the connections that frameworks define, results against the pair in float64, and expected errors against measured ones.

import { beforeAll, describe, expect, test } from "vitest";
import { BatchNorm, foldIntoConv, foldIntoLinear, type LinearFormat } from "../../src/index.ts";
import { expectPart } from "../support/document.ts";
import {
  affineOf,
  connectionOf,
  convolve,
  indices,
  offset,
  pytorch,
  ROUNDED_ONCE,
  range,
  sourceOf,
  U,
  WEIGHTS,
} from "../support/fold.ts";
import { normal, random, sizeOf, useBuild } from "../support/worlds.ts";

const FORWARD = { direction: "forward", unpadded: true } as const;
const at = (values: ArrayLike<number>, i: number) => values[i] as number;
/** For a sum in float64 in another order. */
const SUMMED = { rtol: ROUNDED_ONCE.rtol, atol: 1e-14 };

describe("formats", () => {
  const FORWARD_WEIGHTS = WEIGHTS.filter(([format]) => !["IOHW", "HWOI"].includes(format));
  test.each(FORWARD_WEIGHTS)(
    "%s, %s: weights are scaled by their input's scale, and the bias gets its shifts",
    (...row) => {
      const [format, , groups, shape, outputs, inputs] = row;
      const bn = sourceOf(11, inputs);
      const data = normal(7, sizeOf(shape));
      const bias = normal(8, outputs);
      const { scale, shift } = affineOf(bn);
      const connect = connectionOf(format, shape, outputs, inputs, groups);
      const isLast = format.startsWith("HW");
      const weights = new Float64Array(data.length);
      const sums = Float64Array.from(bias);
      for (const k of indices(isLast ? shape.slice(0, -2) : shape.slice(2)))
        for (const o of range(outputs))
          for (const i of range(inputs)) {
            const pair = connect(o, i);
            if (!pair) continue;
            const index = offset(shape, isLast ? [...k, ...pair] : [...pair, ...k]);
            weights[index] = at(data, index) * at(scale, i);
            sums[o] = at(sums, o) + at(data, index) * at(shift, i);
          }
      const folded = foldIntoConv({ weight: { data, shape }, bias }, bn, { ...FORWARD, format, groups });
      expect(folded.weight).toMatchObject({ shape, dtype: "float32" });
      expect(folded.weight.data).toBeAllclose(weights, ROUNDED_ONCE);
      expect(folded.bias).toBeAllclose(sums, SUMMED);
      expect(folded.bias).toBeInstanceOf(Float32Array);
      expect(folded.warnings).toEqual([]);
    },
  );

  test.each<[LinearFormat, layout: "channels-first" | "channels-last", perChannel: number]>([
    ["OI", "channels-first", 1],
    ["IO", "channels-last", 1],
    ["OI", "channels-first", 4],
    ["IO", "channels-first", 4],
    ["OI", "channels-last", 4],
    ["IO", "channels-last", 4],
  ])("%s, %s, %d flattened inputs per channel", (format, layout, perChannel) => {
    const [channels, outputs] = [3, 5];
    const inputs = channels * perChannel;
    const source = sourceOf(11, channels);
    const bn = { ...source, options: { ...source.options, layout } };
    const { scale, shift } = affineOf(bn);
    const channelOf = (i: number) => (layout === "channels-last" ? i % channels : Math.floor(i / perChannel));
    const data = normal(7, outputs * inputs);
    const indexOf = (o: number, i: number) => (format === "OI" ? o * inputs + i : i * outputs + o);
    const weights = new Float64Array(data.length);
    const sums = new Float64Array(outputs);
    for (const o of range(outputs))
      for (const i of range(inputs)) {
        weights[indexOf(o, i)] = at(data, indexOf(o, i)) * at(scale, channelOf(i));
        sums[o] = at(sums, o) + at(data, indexOf(o, i)) * at(shift, channelOf(i));
      }
    const shape = format === "OI" ? [outputs, inputs] : [inputs, outputs];
    const folded = foldIntoLinear({ weight: { data, shape } }, bn, { direction: "forward", format });
    expect(folded.weight.data).toBeAllclose(weights, ROUNDED_ONCE);
    expect(folded.bias).toBeAllclose(sums, SUMMED);
    const isDefault = format === (layout === "channels-last" ? "IO" : "OI");
    if (isDefault) expect(foldIntoLinear({ weight: { data, shape } }, bn, { direction: "forward" })).toEqual(folded);
  });
});

describe("the folded layer", () => {
  beforeAll(() => useBuild("simd"));

  const CONV = { stride: 2, padding: 0, dilation: 1, transpose: false };
  const [batch, inputs, outputs] = [2, 4, 6];
  const weight = { data: normal(7, 6 * 2 * 9), shape: [outputs, inputs / 2, 3, 3] };
  const bias = normal(8, outputs);
  const connect = pytorch(outputs, inputs, 2);
  const x = { data: normal(9, batch * inputs * 49), shape: [batch, inputs, 7, 7] };
  const bn = sourceOf(3, inputs);
  const { scale, shift } = affineOf(bn);
  const normalized = {
    shape: x.shape,
    data: Float64Array.from(x.data, (v, i) => {
      const c = Math.floor(i / 49) % inputs;
      return v * at(scale, c) + at(shift, c);
    }),
  };

  test("computes what the pair did, within the rounding of its weights", () => {
    const folded = foldIntoConv({ weight, bias }, bn, { ...FORWARD, groups: 2 });
    const pair = convolve(normalized, weight, bias, [batch, outputs, 3, 3], connect, CONV);
    const one = convolve(x, folded.weight, folded.bias, [batch, outputs, 3, 3], connect, CONV);
    const error = one.y.map((v, i) => (v - at(pair.y, i)) / at(one.scale, i));
    expect(error).toBeAllclose(new Float64Array(error.length), { atol: U * (1 + 1e-6) });
  });

  test("would be wrong where a convolution pads with zeros, which is why the call has to say that it does not", () => {
    const padded = { ...CONV, padding: 1 };
    const folded = foldIntoConv({ weight, bias }, bn, { ...FORWARD, groups: 2 });
    const pair = convolve(normalized, weight, bias, [batch, outputs, 4, 4], connect, padded).y;
    const one = convolve(x, folded.weight, folded.bias, [batch, outputs, 4, 4], connect, padded).y;
    const isInside = (i: number) => i % 16 > 3 && i % 4 > 0 && i % 16 < 12 && i % 4 < 3;
    const errors = Array.from(pair, (v, i) => Math.abs(v - at(one, i)));
    expect(Math.max(...errors.filter((_, i) => isInside(i)))).toBeLessThan(1e-5);
    expect(Math.max(...errors.filter((_, i) => !isInside(i)))).toBeGreaterThan(0.1);
  });

  test("may pad where every shift is 0, and needs no statement then", () => {
    const centred = { ...bn, beta: null, runningMean: new Float32Array(inputs) };
    const { weight: scaled, bias: same } = foldIntoConv({ weight, bias }, centred, { direction: "forward", groups: 2 });
    expect(same).toEqual(bias);
    expect(scaled.data).toEqual(foldIntoConv({ weight, bias }, bn, { ...FORWARD, groups: 2 }).weight.data);
  });

  test("is float16 if the weight is, rounded once", () => {
    const half = Uint16Array.of(0x3c00, 0x4000, 0xc200, 0x3800); // 1, 2, −3, 0.5
    const linear = { weight: { data: half, shape: [2, 2], dtype: "float16" } };
    const source = {
      runningMean: Float32Array.of(1, -1),
      runningVariance: Float32Array.of(4, 0.25),
      options: { epsilon: 0 },
    };
    const folded = foldIntoLinear(linear, source, { direction: "forward" });
    expect(folded.weight).toEqual({
      data: Uint16Array.of(0x3800, 0x4400, 0xbe00, 0x3c00),
      shape: [2, 2],
      dtype: "float16",
    });
    expect(folded.bias).toEqual(Uint16Array.of(0x4300, 0x4100)); // −0.5 + 4 and 1.5 + 1
  });

  test("takes a layer of this library, whose activation has to be named", () => {
    const layer = new BatchNorm(4, { activation: "relu" });
    const linear = { weight: { data: normal(1, 8), shape: [2, 4] } };
    expect(() => foldIntoLinear(linear, layer, { direction: "forward" })).toThrow(/^activation: expected "relu"/);
  });

  test("folds on both of its sides: backward what is behind it, forward what is before it", () => {
    const wide = {
      weight: { data: Float64Array.from(weight.data), shape: weight.shape },
      bias: Float64Array.from(bias),
    };
    const behind = sourceOf(21, outputs);
    const after = affineOf(behind);
    const folded = foldIntoConv(foldIntoConv(wide, behind), bn, { ...FORWARD, groups: 2 });
    const pair = convolve(normalized, weight, bias, [batch, outputs, 3, 3], connect, CONV).y;
    const expected = pair.map((v, i) => {
      const o = Math.floor(i / 9) % outputs;
      return v * at(after.scale, o) + at(after.shift, o);
    });
    const one = convolve(x, folded.weight, folded.bias, [batch, outputs, 3, 3], connect, CONV).y;
    expect(one).toBeAllclose(expected, { rtol: 1e-12, atol: 1e-12 });
  });
});

describe("a warning", () => {
  const OUTPUTS = 64;
  const SAMPLES = 32;
  const rms = (list: readonly number[]) => Math.sqrt(list.reduce((sum, v) => sum + v * v, 0) / list.length);

  /** A BatchNorm whose channels have |mean|/std = ratio, and a linear layer behind it. */
  function problem(inputs: number, ratio: number, positive: boolean) {
    const next = random(inputs + ratio);
    const std = Float32Array.from({ length: inputs }, () => 2 ** (4 * next() - 2));
    const bn = {
      gamma: std.map(() => 0.5 + next()),
      beta: std.map(() => 2 * next() - 1),
      runningVariance: std.map((s) => s * s),
      runningMean: std.map((s) => s * ratio * (next() < 0.5 ? -1 : 1) * (0.75 + next() / 2)),
      options: { epsilon: 0 },
    };
    const weights = normal(3, OUTPUTS * inputs).map((w) => (positive ? Math.abs(w) : w));
    const linear = { weight: { data: weights, shape: [OUTPUTS, inputs] }, bias: normal(4, OUTPUTS) };
    return { bn, linear, inputs };
  }

  /** The RMS errors of float32 in order, in units of an output's size: of the two layers apart, and of one folded. */
  function measure({ bn, linear, inputs }: ReturnType<typeof problem>) {
    const { scale, shift } = affineOf(bn);
    const folded = foldIntoLinear(linear, bn, { direction: "forward" });
    const { fround } = Math;
    const errors = range(OUTPUTS).map((o) => {
      const w = (k: number) => at(linear.weight.data, o * inputs + k);
      const center = range(inputs).reduce((sum, k) => sum + w(k) * at(bn.beta, k), at(linear.bias, o));
      const size = Math.abs(center) + Math.hypot(...range(inputs).map((k) => w(k) * at(bn.gamma, k)));
      const [apart, one]: [number[], number[]] = [[], []];
      for (const n of range(SAMPLES)) {
        const noise = normal(n, inputs);
        const x = noise.map((v, k) => at(bn.runningMean, k) + v * Math.sqrt(at(bn.runningVariance, k)));
        let exact = at(linear.bias, o);
        let [pair, sum] = [0, 0];
        for (const k of range(inputs)) {
          exact += w(k) * (at(scale, k) * at(x, k) + at(shift, k));
          const coefficient = fround(at(scale, k));
          const y = fround(fround(fround(at(x, k) - at(bn.runningMean, k)) * coefficient) + at(bn.beta, k));
          pair = fround(pair + fround(w(k) * y));
          sum = fround(sum + fround(at(folded.weight.data, o * inputs + k) * at(x, k)));
        }
        apart.push((fround(pair + at(linear.bias, o)) - exact) / size);
        one.push((fround(sum + at(folded.bias, o)) - exact) / size);
      }
      return { apart: rms(apart), one: rms(one) };
    });
    return { apart: rms(errors.map((e) => e.apart)), one: rms(errors.map((e) => e.one)), warnings: folded.warnings };
  }

  const CASES = [16, 64, 256].flatMap((inputs) =>
    [true, false].flatMap((positive) => [1e3, 1e4].map((ratio) => [inputs, positive, ratio] as const)),
  );
  const results = new Map<string, ReturnType<typeof measure>>();
  const resultOf = (...[inputs, positive, ratio]: (typeof CASES)[number]) => {
    const key = `${inputs} ${positive} ${ratio}`;
    const result = results.get(key) ?? measure(problem(inputs, ratio, positive));
    results.set(key, result);
    return result;
  };
  const expectedOf = ({ warnings }: ReturnType<typeof measure>) => rms(warnings.map((w) => w.expectedError));

  test.each(CASES)(
    "of %d inputs, positive weights: %j, |mean|/std = %d expects the error that is measured",
    (...row) => {
      const result = resultOf(...row);
      expect(result.warnings.map((w) => w.channel)).toEqual(range(OUTPUTS));
      expect(result.one / expectedOf(result)).toBeGreaterThan(0.7);
      expect(result.one / expectedOf(result)).toBeLessThan(1.4);
      // the two layers apart do not lose these digits
      expect(result.apart).toBeLessThan(result.one / 50);
    },
  );

  test("docs/guides/folding-accuracy.md has what is measured", () => {
    const digits = (v: number) => v.toExponential(1).replace("e-", "e−");
    const rows = CASES.map(([inputs, positive, ratio]) => {
      const result = resultOf(inputs, positive, ratio);
      const numbers = [result.apart, result.one, expectedOf(result)].map(digits);
      const layer = `${inputs}, ${positive ? "positive" : "both signs"}`;
      return `| ${layer} | ${ratio.toExponential().replace("+", "")} | ${numbers.join(" | ")} |`;
    });
    const head = [
      "| inputs, weights | \\|mean\\|/std | BatchNorm and layer | folded | expected |",
      "|---|---:|---:|---:|---:|",
    ];
    expectPart(
      new URL("../../docs/guides/folding-accuracy.md", import.meta.url),
      "forward",
      [...head, ...rows].join("\n"),
    );
  });

  test("comes for the outputs that a remote channel reaches, and names the channel", () => {
    const bn = {
      runningMean: Float32Array.of(0, 1000),
      runningVariance: Float32Array.of(1, 1),
      options: { epsilon: 0 },
    };
    const weight = { data: Float32Array.of(1, 0, 1, 1), shape: [2, 2] };
    expect(foldIntoLinear({ weight }, bn, { direction: "forward" }).warnings).toEqual([
      {
        code: "ill-conditioned",
        channel: 1,
        expectedError: expect.closeTo(3.1e-5, 6),
        message: expect.stringMatching(
          /^output 1, channel 1: .* a mean of 1\.0e\+3 × .* is off by 0\.000031 × its size; keep the BatchNorm there/,
        ),
      },
    ]);
    const near = { ...bn, runningMean: Float32Array.of(0, 100) };
    expect(foldIntoLinear({ weight }, near, { direction: "forward" }).warnings).toEqual([]);
    // a unit matrix is toAffine's case, and the same error
    const unit = { data: Float32Array.of(1, 0, 0, 1), shape: [2, 2] };
    const forward = foldIntoLinear({ weight: unit }, bn, { direction: "forward" }).warnings;
    const backward = foldIntoLinear({ weight: unit }, bn).warnings;
    expect(forward).toHaveLength(1);
    expect(forward[0]?.expectedError).toBeCloseTo(backward[0]?.expectedError as number, 15);
  });

  test("comes for numbers that are not finite, at the outputs that they reach", () => {
    const bn = {
      runningMean: Float32Array.of(0, Number.NaN),
      runningVariance: Float32Array.of(1e-4, 1),
      options: { epsilon: 0 },
    };
    const weight = { data: Float32Array.of(1e38, 0, 1, 0), shape: [2, 2] };
    const { warnings } = foldIntoLinear({ weight }, bn, { direction: "forward" });
    expect(warnings.map((w) => [w.code, w.channel])).toEqual([
      ["non-finite", 0],
      ["non-finite", 1],
    ]);
    const finite = { ...bn, runningMean: new Float32Array(2) };
    const folded = foldIntoLinear({ weight }, finite, { direction: "forward" });
    expect(folded.warnings).toMatchObject([{ code: "non-finite", channel: 0 }]);
    expect(folded.weight.data[2]).toBe(100);
  });
});
