// dataStatistics: mean and standard deviation per channel, against sums in BigInt.

import { describe, expect, test } from "vitest";
import { quotient } from "../../src/tools/channel-moments.ts";
import { type DataBatch, type DataStatistics, dataStatistics } from "../../src/tools/index.ts";
import { normal, random } from "../support/worlds.ts";

/** All of them have the methods of one, and return arrays that are used in the same way. */
const OF_INTEGERS = [
  Uint8Array,
  Uint8ClampedArray,
  Int8Array,
  Uint16Array,
  Int16Array,
  Uint32Array,
  Int32Array,
] as readonly unknown[] as readonly (typeof Int32Array)[];

/** Returns a / b, for b > 0, within 2⁻⁶⁰ and the rounding to float64. */
function ratio(a: bigint, b: bigint): number {
  const [size, sign] = a < 0n ? [-a, -1] : [a, 1];
  return (sign * Number((size << 200n) / b)) / 2 ** 200;
}

/** Returns the statistics of integers by the textbook's formulas in BigInt. */
function exact(values: readonly number[]) {
  const count = BigInt(values.length);
  let [sum, squares] = [0n, 0n];
  for (const value of values) {
    sum += BigInt(value);
    squares += BigInt(value) ** 2n;
  }
  const m2 = count * squares - sum * sum;
  return {
    count: values.length,
    mean: ratio(sum, count),
    variance: ratio(m2, count * count),
    std: Math.sqrt(ratio(m2, count * count)),
    unbiasedStd: Math.sqrt(ratio(m2, count * (count - 1n))),
    min: values.reduce((a, b) => Math.min(a, b)),
    max: values.reduce((a, b) => Math.max(a, b)),
  };
}

const of = (statistics: DataStatistics, channel: number) =>
  Object.fromEntries(
    Object.entries(statistics).map(([key, list]) => [key, typeof list === "number" ? list : list[channel]]),
  ) as Record<keyof DataStatistics, number>;

/** Asserts that a number is within `units` of 2⁻⁵² relative of another. */
const expectNear = (got: number, expected: number, units = 1) =>
  expect(Math.abs(got - expected), `${got} ≈ ${expected}`).toBeLessThanOrEqual(units * 2 ** -52 * Math.abs(expected));

function expectExact(got: Record<keyof DataStatistics, number>, values: readonly number[]) {
  const expected = exact(values);
  expect([got.count, got.nonFinite, got.mean, got.min, got.max]).toEqual([
    expected.count,
    0,
    expected.mean,
    expected.min,
    expected.max,
  ]);
  for (const key of ["variance", "std", "unbiasedStd"] as const) expectNear(got[key], expected[key]);
}

describe("integers", () => {
  test.each(OF_INTEGERS.map((ArrayOf) => [ArrayOf.name, ArrayOf] as const))("%s: within 1 u", async (_, ArrayOf) => {
    const next = random(1);
    const whole = () => Math.floor((next() - 0.25) * 2 ** (8 * ArrayOf.BYTES_PER_ELEMENT));
    const batches = [7, 1, 64].map((n) => ({ data: ArrayOf.from({ length: n * 3 * 5 }, whole), shape: [n, 3, 5] }));
    const statistics = await dataStatistics(batches, { layout: "channels-first" });
    expect(statistics.channels).toBe(3);
    for (let c = 0; c < 3; c++) {
      const values = batches.flatMap(({ data }) => Array.from(data).filter((_, i) => Math.floor(i / 5) % 3 === c));
      expectExact(of(statistics, c), values);
    }
  });

  test.each([
    ["the largest", Uint32Array as unknown as typeof Int32Array, [0xffffffff, 0xffffffff, 0xfffffffe]],
    ["the least", Int32Array, [-0x80000000, 0x7fffffff, -1]],
    ["of variance 0", Int16Array as unknown as typeof Int32Array, [-32768, -32768, -32768]],
  ])("%s values are squared exactly, more of them than one block has", async (_, ArrayOf, pattern) => {
    const times = 2 ** 19;
    const data = ArrayOf.from({ length: 3 * times }, (_, i) => pattern[i % 3] as number);
    const got = of(await dataStatistics([{ data, shape: [data.length] }]), 0);
    // each value `times` times: mean and variance are those of the pattern
    const { mean, variance } = exact(pattern);
    expect(got).toMatchObject({ count: 3 * times, mean, min: Math.min(...pattern), max: Math.max(...pattern) });
    expectNear(got.variance, variance);
  });
});

test.each([
  // a tie but for 2⁻¹⁰⁰, and ties, which go to even
  [((2n ** 53n + 1n) << 100n) + 1n, 1n << 100n, 2 ** 53 + 2],
  [(2n ** 53n + 1n) << 100n, 1n << 100n, 2 ** 53],
  [-((2n ** 53n + 1n) << 100n) - 1n, 1n << 100n, -(2 ** 53) - 2],
  [1n, 3n, 1 / 3],
  [0n, 7n, 0],
])("a quotient of integers is rounded once: %s / %s", (a, b, expected) => expect(quotient(a, b)).toBe(expected));

describe("no drift over 10⁷ values", () => {
  const batches = 1000;
  const size = 10_000;
  // 0 to 255, some more often, in another order in each batch
  const small = (batch: number, i: number) => ((i * 7919 + batch * 104_729) ** 2 % 257) % 256;
  const all = (() => {
    let [sum, squares] = [0, 0]; // at most 10⁷·255² < 2⁵³
    for (let b = 0; b < batches; b++)
      for (let i = 0; i < size; i++) {
        const value = small(b, i);
        sum += value;
        squares += value * value;
      }
    const count = BigInt(batches * size);
    return {
      mean: ratio(BigInt(sum), count),
      variance: ratio(count * BigInt(squares) - BigInt(sum) ** 2n, count * count),
    };
  })();

  function* stream(make: (length: number) => Uint8Array | Float32Array, offset: number, unit: number) {
    const data = make(size);
    for (let b = 0; b < batches; b++) {
      for (let i = 0; i < size; i++) data[i] = offset + small(b, i) * unit;
      yield { data, shape: [size] };
    }
  }

  test("bytes", async () => {
    const got = of(await dataStatistics(stream((length) => new Uint8Array(length), 0, 1)), 0);
    expect([got.count, got.mean]).toEqual([batches * size, all.mean]);
    expectNear(got.variance, all.variance);
  });

  test("float32, also of a mean far above the deviation", async () => {
    const [offset, unit] = [65_536, 1 / 128]; // multiples of half a unit in the last place of float32
    const got = of(await dataStatistics(stream((length) => new Float32Array(length), offset, unit)), 0);
    expectNear(got.mean, offset + all.mean * unit);
    // the means of blocks, which are 10⁵ deviations, are rounded to float64 before they are compared with each other
    expectNear(got.variance, all.variance * unit * unit, 1000);
    expectNear(got.std, Math.sqrt(all.variance) * unit, 500);
  });
});

describe("floats", () => {
  test("are those of one pass over all of them, in any division into batches", async () => {
    const data = normal(3, 30_000, 2, -5);
    const [whole, pieces] = await Promise.all([
      dataStatistics([{ data, shape: [10_000, 3] }]),
      dataStatistics(
        (function* () {
          for (let row = 0, n = 1; row < 10_000; row += n, n = Math.min(n + 7, 10_000 - row))
            yield { data: data.subarray(row * 3, (row + n) * 3), shape: [n, 3] };
        })(),
      ),
    ]);
    for (let c = 0; c < 3; c++) {
      const values = Array.from(data).filter((_, i) => i % 3 === c);
      const mean = values.reduce((a, b) => a + b) / values.length;
      const variance = values.reduce((sum, x) => sum + (x - mean) ** 2, 0) / values.length;
      for (const got of [of(whole, c), of(pieces, c)]) {
        expect(got.count).toBe(10_000);
        expect(got.mean).toBeCloseTo(mean, 12);
        expect(got.variance).toBeCloseTo(variance, 11);
        expect(got.std).toBe(Math.sqrt(got.variance));
        expect(got.unbiasedStd).toBeCloseTo(Math.sqrt((variance * 10_000) / 9_999), 11);
      }
      expectNear(of(pieces, c).mean, of(whole, c).mean, 4);
      expectNear(of(pieces, c).variance, of(whole, c).variance, 4);
    }
  });

  test("a sum whose rounding is as large as the deviation", async () => {
    // sums of a block are multiples of 512, so that its first mean is off
    const data = Float64Array.from({ length: 4096 }, (_, i) => 1e15 + (i % 2));
    expect(of(await dataStatistics([{ data, shape: [4096] }]), 0)).toMatchObject({ mean: 1e15 + 0.5, std: 0.5 });
  });

  test("NaN and infinity are left out and counted", async () => {
    const data = Float64Array.of(1, Number.NaN, 3, 10, Infinity, 20, Number.NaN, -Infinity);
    const statistics = await dataStatistics([{ data, shape: [4, 2] }]);
    expect(of(statistics, 0)).toMatchObject({ count: 2, nonFinite: 2, mean: 2, std: 1, min: 1, max: 3 });
    expect(of(statistics, 1)).toMatchObject({ count: 2, nonFinite: 2, mean: 15, std: 5, min: 10, max: 20 });
  });

  test("a channel of NaN alone has NaN for statistics", async () => {
    const statistics = await dataStatistics([{ data: Float32Array.of(1, Number.NaN), shape: [1, 2] }]);
    const { mean, std, min, max, count } = of(statistics, 1);
    expect([mean, std, min, max, count]).toEqual([Number.NaN, Number.NaN, Number.NaN, Number.NaN, 0]);
    expect(of(statistics, 0)).toMatchObject({ mean: 1, std: 0, unbiasedStd: Number.NaN });
  });

  test("float32 at both ends of its range", async () => {
    const data = Float32Array.of(3e38, -3e38, 3e38, -3e38);
    expect(of(await dataStatistics([{ data, shape: [4] }]), 0)).toMatchObject({ mean: 0, std: Math.fround(3e38) });
  });

  test("float64 whose squares overflow is refused", async () => {
    const data = Float64Array.of(1e200, -1e200);
    await expect(dataStatistics([{ data, shape: [2] }])).rejects.toMatchObject({ code: "non-finite-statistics" });
  });

  test("integers and floats of one data set are merged", async () => {
    const batches = [
      { data: Uint8Array.of(1, 2), shape: [2] },
      { data: Float32Array.of(3, 6), shape: [2] },
    ];
    expect(of(await dataStatistics(batches), 0)).toMatchObject({ count: 4, mean: 3, variance: 3.5, min: 1, max: 6 });
  });

  test("bits of 16-bit floats are widened, and 64-bit integers rounded", async () => {
    const half = { data: Uint16Array.of(0x3c00, 0xc000), shape: [2], dtype: "F16" }; // 1 and -2
    expect(of(await dataStatistics([half]), 0)).toMatchObject({ mean: -0.5, std: 1.5 });
    const brain = { data: Uint16Array.of(0x3f80, 0xc000), shape: [2], dtype: "bfloat16" };
    expect(of(await dataStatistics([brain]), 0)).toMatchObject({ mean: -0.5, std: 1.5 });
    const big = { data: BigInt64Array.of(-1n, 3n), shape: [2] };
    expect(of(await dataStatistics([big]), 0)).toMatchObject({ mean: 1, std: 2, min: -1 });
  });
});

test("the divisor scales all but counts", async () => {
  const data = Uint8Array.of(0, 255, 51, 204);
  const got = of(await dataStatistics([{ data, shape: [4] }], { divisor: 255 }), 0);
  expect(got).toMatchObject({ count: 4, mean: 0.5, min: 0, max: 1 });
  expect(got.variance).toBeCloseTo((0.25 + 0.09) / 2, 15);
  expect(got.std).toBeCloseTo(Math.sqrt(0.17), 15);
  expect(got.unbiasedStd).toBeCloseTo(Math.sqrt(0.68 / 3), 15);
});

describe("layouts", () => {
  const data = Uint8Array.from({ length: 24 }, (_, i) => i);
  const means = async (shape: readonly number[], layout?: "channels-first" | "channels-last" | "one-channel") =>
    (await dataStatistics([{ data, shape }], layout ? { layout } : {})).mean;

  test.each([
    [[24], undefined, [11.5]],
    [[12, 2], undefined, [11, 12]],
    [[12, 2], "channels-first", [11, 12]],
    [[2, 3, 4], "channels-first", [7.5, 11.5, 15.5]],
    [[2, 4, 3], "channels-last", [10.5, 11.5, 12.5]],
    [[2, 3, 4], "one-channel", [11.5]],
    [[2, 2, 2, 3], "channels-last", [10.5, 11.5, 12.5]],
  ] as const)("shape %j, layout %s", async (shape, layout, expected) =>
    expect(await means(shape, layout)).toEqual(expected),
  );

  test("three axes need a layout", () =>
    expect(means([2, 3, 4])).rejects.toThrow(
      "batches[0].shape: expected at most two axes without a layout (channels-first, channels-last, one-channel), got [2, 3, 4]",
    ));
});

test("takes async iterables, and asks for the next batch when the one before has been read", async () => {
  let open = 0;
  async function* stream(): AsyncGenerator<DataBatch> {
    for (let i = 1; i <= 3; i++) {
      expect(open++).toBe(0);
      yield { data: Uint8Array.of(i), shape: [1] };
      open--;
    }
  }
  expect((await dataStatistics(stream())).mean).toEqual([2]);
});

test.each([
  ["no iterable", 7, {}, TypeError, "batches: expected an iterable"],
  ["a typed array", Uint8Array.of(1), {}, TypeError, "batches: expected an iterable"],
  ["no batch", [], {}, RangeError, "batches: expected at least one value, got"],
  ["an empty batch alone", [{ data: new Uint8Array(), shape: [0, 3] }], {}, RangeError, "at least one value"],
  ["a batch that is an array", [Uint8Array.of(1)], {}, TypeError, "batches[0].data: expected a typed array"],
  ["a list", [{ data: [1], shape: [1] }], {}, TypeError, "batches[0].data: expected a typed array"],
  ["a wrong length", [{ data: Uint8Array.of(1), shape: [2] }], {}, RangeError, "batches[0].data: expected 2 elements"],
  ["no shape", [{ data: Uint8Array.of(1) }], {}, TypeError, "batches[0].shape"],
  ["a negative size", [{ data: new Uint8Array(), shape: [-1] }], {}, RangeError, "batches[0].shape"],
  [
    "other channels",
    [
      { data: Uint8Array.of(1, 2), shape: [1, 2] },
      { data: Uint8Array.of(1), shape: [1, 1] },
    ],
    {},
    RangeError,
    "batches[1].shape: expected 2 channels, as in the batches before, got [1, 1]",
  ],
  ["no channel", [{ data: new Uint8Array(), shape: [2, 0] }], {}, RangeError, "batches[0].shape: expected 1 to"],
  ["too many channels", [{ data: new Uint8Array(70_000), shape: [1, 70_000] }], {}, RangeError, "1 to 65536 channels"],
  ["bits as floats", [{ data: Uint8Array.of(1), shape: [1], dtype: "float16" }], {}, TypeError, "batches[0].dtype"],
  ["divisor 0", [{ data: Uint8Array.of(1), shape: [1] }], { divisor: 0 }, RangeError, "divisor: expected a finite"],
  ["another layout", [], { layout: "NCHW" }, RangeError, "layout: expected"],
  ["another option", [], { scale: 2 }, TypeError, "options: expected options among layout, divisor"],
] as const)("refuses %s", async (_, batches, options, ErrorClass, message) => {
  const error = await dataStatistics(batches as never, options as never).catch((reason: unknown) => reason);
  expect(error).toBeInstanceOf(ErrorClass);
  expect((error as Error).message).toContain(message);
});
