// Channels that are hard for batch normalization, in all walks and precisions of sums, and the distance of the results
// from the exact ones. sweep.test.ts limits the distances, and docs/concepts/numerics-measurements.md shows them.

import {
  type ActivationName,
  batchNormBackward,
  batchNormForward,
  batchNormInference,
  type Dtype,
  type Layout,
} from "../../src/index.ts";
import { type DataOf, widen } from "../../src/tensor/dtype.ts";
import { rounded } from "../../src/tensor/half.ts";
import { type Exact, exactBackward, exactForward, exactStatistics, inverseStd } from "./exact.ts";
import { once } from "./once.ts";
import { type Dims, dimsOf, eachOf } from "./reference.ts";
import { random } from "./worlds.ts";

type Next = () => number;

/**
 * Returns the first 30 bits of a number. Engines differ in the last bit of logarithms, cosines and the like, and the
 * tables of docs/concepts/numerics-measurements.md have to be the same in all of them.
 */
function coarse(v: number): number {
  const t = v * (2 ** 23 + 1);
  return t - (t - v);
}

/** Returns a normal number from a generator of uniform ones (Box–Muller). */
const gauss = (next: Next) => coarse(Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next()));

type Draw = (count: number, next: Next) => number[];

const draw =
  (of: (next: Next, i: number, count: number) => number): Draw =>
  (count, next) =>
    Array.from({ length: count }, (_, i) => of(next, i, count));

const outliers =
  (number: number, size: (count: number) => number): Draw =>
  (count, next) => {
    const values = draw(gauss)(count, next);
    for (let k = 0; k < number; k++) values[Math.floor(next() * count)] = size(count) * (next() < 0.5 ? -1 : 1);
    return values;
  };

/** Values of a channel in units of their usual size. */
const PATTERNS: Readonly<Record<string, Draw>> = {
  normal: draw(gauss),
  uniform: draw((next) => 2 * next() - 1),
  "a ramp": draw((_, i, count) => (2 * i) / count - 1),
  "a step, with noise": draw((next, i, count) => gauss(next) + (i < count / 2 ? 100 : -100)),
  "alternating signs": draw((_, i) => (i % 2 ? -1 : 1)),
  "alternating signs, with noise": draw((next, i) => (i % 2 ? -1 : 1) * (1 + 0.01 * next())),
  "two levels": draw((next) => (next() < 0.1 ? 3 : 0)),
  constant: draw(() => 1),
  "nearly constant": draw((next) => 1 + 2 ** -22 * Math.floor(3 * next())),
  "nine of ten are 0": draw((next) => (next() < 0.9 ? 0 : gauss(next))),
  "one outlier of 10": outliers(1, () => 10),
  "one outlier of 1,000": outliers(1, () => 1000),
  "one outlier of 1e6": outliers(1, () => 1e6),
  "one outlier of 2·√m": outliers(1, (m) => 2 * Math.sqrt(m)),
  "eight outliers of 300": outliers(8, () => 300),
  "the first is an outlier": (count, next) => [1000, ...draw(gauss)(count - 1, next)],
  "the first is an outlier, another a larger one": (count, next) => {
    const values = draw(gauss)(count, next);
    values[0] = 14400;
    values[count - 1] = 1000 * Math.sqrt(count);
    return values;
  },
  "the first 16 are far from the others": draw((next, i) => gauss(next) + (i < 16 ? 1e4 : 0)),
  "the first 16 are near each other": draw((next, i) => gauss(next) * (i < 16 ? 1e-3 : 1)),
  "Cauchy's": draw((next) => coarse(Math.tan(Math.PI * (next() - 0.5)))),
  "many magnitudes": draw((next) => coarse(gauss(next) * Math.exp(6 * gauss(next)))),
};

export const NAMES = Object.keys(PATTERNS);

/** What a forward takes beside the batch: weights of its positions, a residual, or given statistics. */
export const WAYS = ["plain", "mask", "residual", "frozen"] as const;
export type Way = (typeof WAYS)[number];

/** A batch of one channel per pattern. */
export interface Sweep {
  readonly way: Way;
  /** The patterns of its channels. */
  readonly patterns: readonly string[];
  readonly dtype: Dtype;
  readonly activation: ActivationName;
  readonly layout: Layout;
  /** Samples, and elements of a plane. */
  readonly outer: number;
  readonly inner: number;
  readonly epsilon: number;
  readonly seed: number;
  /** Magnitudes of x, gamma and dy as wide as their type has them. Otherwise they are near 1. */
  readonly wide: boolean;
}

/** What is measured of a channel, in u; undefined where no more is promised than a finite result. */
export interface Measured {
  readonly pattern: string;
  /** Whether the first sums are blocked. Otherwise they are f64 sums. */
  readonly blocked: boolean;
  readonly u: Readonly<Record<"y" | "dx", number | undefined>> & Readonly<Record<Summed, number>>;
  /** The largest |mean|/std. */
  readonly ratio: number;
  /** Elements of y and dx that are not finite, and whose exact value is. */
  readonly lost: number;
}

export const SUMMED = ["mean", "variance", "invStd", "dGamma", "dBeta"] as const;
type Summed = (typeof SUMMED)[number];

const LARGEST: Readonly<Record<Dtype, number>> = {
  float32: (2 - 2 ** -23) * 2 ** 127,
  float64: Number.MAX_VALUE,
  float16: 65504,
  bfloat16: (2 - 2 ** -7) * 2 ** 127,
};

/** Half a unit in the last place of a value in 16 bits, by which its rounding may change it; 0 for other types. */
function halfUnit(dtype: Dtype, value: number): number {
  if (dtype !== "float16" && dtype !== "bfloat16") return 0;
  const [bits, least] = dtype === "float16" ? [11, -14] : [8, -126];
  return 2 ** (Math.max(Math.floor(Math.log2(Math.abs(value))), least) - bits);
}

/** Returns numbers up to a limit as elements of a type, and the values that these have. */
function stored<D extends Dtype>(
  dtype: D,
  numbers: Float64Array,
  limit = LARGEST[dtype],
): { data: DataOf[D]; values: ArrayLike<number> } {
  const data = rounded(
    numbers.map((v) => Math.max(-limit, Math.min(v, limit))),
    dtype,
    new Uint16Array(),
  ) as DataOf[D];
  return { data, values: dtype === "float64" ? (data as Float64Array) : widen(dtype, data) };
}

/** Exponents of ten of the magnitudes that are drawn: of x, gamma and dy. */
const WIDE: Readonly<Record<Dtype, readonly [number, number][]>> = {
  float32: [
    [-30, 37],
    [-3, 3],
    [-10, 10],
  ],
  bfloat16: [
    [-30, 37],
    [-3, 3],
    [-10, 10],
  ],
  float64: [
    [-60, 60],
    [-20, 20],
    [-20, 20],
  ],
  float16: [
    [-2, 2],
    [-1, 1],
    [-1, 1],
  ],
} as Readonly<Record<Dtype, readonly [number, number][]>>;

const channelOf = (d: Dims) => (i: number) => Math.floor(i / d.inner) % d.channels;

/** Returns the batch of a sweep, and its exact results. */
function prepare({ way, patterns, dtype, activation, layout, outer, inner, epsilon, seed, wide }: Sweep) {
  const next = random(seed);
  const pick = <T>(list: readonly T[]) => list[Math.floor(next() * list.length)] as T;
  const channels = patterns.length;
  const shape = layout === "channels-last" ? [outer * inner, channels] : [outer, channels, inner];
  const d = dimsOf(shape, layout);
  const magnitude = (k: number) => {
    const [low, high] = wide ? (WIDE[dtype][k] as [number, number]) : [0, 0];
    return Number((10 ** (low + next() * (high - low))).toPrecision(9));
  };
  const [x, dy] = [new Float64Array(d.outer * channels * d.inner), new Float64Array(d.outer * channels * d.inner)];
  const [gamma, beta] = [new Float64Array(channels), new Float64Array(channels)];
  const ratios = dtype === "float32" || dtype === "float64" ? [0, 0, 0, 1, 3, 1e2, 1e4] : [0, 0, 1];
  for (const [c, name] of patterns.entries()) {
    const [std, ratio, upstream] = [magnitude(0), pick(ratios), magnitude(2)];
    const values = (PATTERNS[name] as Draw)(outer * inner, next);
    const gradients = (PATTERNS[wide ? pick(NAMES) : "normal"] as Draw)(outer * inner, next);
    let k = 0;
    eachOf(d, c, (i) => {
      x[i] = std * ((values[k] as number) + ratio);
      dy[i] = upstream * (gradients[k++] as number);
    });
    gamma[c] = magnitude(1) * gauss(next);
    beta[c] = Math.abs(gamma[c] as number) * gauss(next);
  }
  // given statistics say nothing of the largest |x − mean|, which has to be finite
  const limit = way === "frozen" ? LARGEST[dtype] / 4 : LARGEST[dtype];
  const [xs, gs, bs] = [
    stored(dtype, x, limit),
    ...[gamma, beta].map((v) => stored(dtype === "float64" ? dtype : "float32", v)),
  ];
  const slope = dtype === "float64" ? 0.01 : Math.fround(0.01);
  // three of ten positions count nothing, and the others once or as eighths
  const weights = Float64Array.from({ length: way === "mask" ? outer * inner : 0 }, (_, i) =>
    i > 1 && next() < 0.3 ? 0 : seed % 4 < 2 ? 1 : (1 + Math.floor(8 * next())) / 8,
  );
  const residual = stored(
    dtype,
    Float64Array.from({ length: way === "residual" ? x.length : 0 }, (_, i) => {
      const c = channelOf(d)(i);
      return 2 * Math.abs(gamma[c] as number) * gauss(next);
    }),
  );
  const input = {
    x: xs.values,
    d,
    gamma: gs?.values ?? [],
    beta: bs?.values ?? [],
    epsilon,
    activation,
    slope,
    roundsMean: dtype === "float64" && way !== "frozen",
    ...(way === "mask" && { weights }),
    ...(way === "residual" && { residual: residual.values }),
  };
  const statistics = exactStatistics(input);
  if (way === "frozen") shiftStatistics(statistics, epsilon, dtype, next);
  const forward = exactForward(input, statistics);
  // where a rounding decides on which side of a kink z is, no gradient is exact
  const size = new Float64Array(channels);
  forward.z.scale.forEach((s, i) => {
    size[channelOf(d)(i)] = Math.max(size[channelOf(d)(i)] as number, s);
  });
  const near = dtype === "float64" ? 2 ** -36 : 2 ** -22;
  if (activation !== "none" && activation !== "silu")
    forward.z.high.forEach((z, i) => {
      const margin = near * (size[channelOf(d)(i)] as number);
      if (Math.abs(z) <= margin || Math.abs(z - 6) <= margin) dy[i] = 0;
    });
  const dys = stored(dtype, dy);
  const backward = exactBackward(input, dys.values, forward, statistics, way === "frozen");
  const parameters = { gamma: gs?.data, beta: bs?.data };
  return {
    ...{ shape, d, x: xs.data, dy: dys.data, parameters, input, statistics, forward, backward },
    ...{ weights, residual: residual.data },
  };
}

/** Makes statistics of a batch such as other batches leave them: another mean and variance, in the type of parameters. */
function shiftStatistics(
  { mean, variance, invStd }: ReturnType<typeof exactStatistics>,
  epsilon: number,
  dtype: Dtype,
  next: Next,
): void {
  const largest = dtype === "float64" ? LARGEST.float64 : LARGEST.float32;
  const round = (v: number) => (dtype === "float64" ? v : Math.fround(Math.max(-largest, Math.min(v, largest))));
  for (const [c, v] of variance.high.entries()) {
    const [centre, spread] = [
      round((mean.high[c] as number) + 0.3 * gauss(next) * Math.sqrt(v)),
      round(v * (0.5 + next())),
    ];
    mean.set(c, [centre, 0], Math.abs(centre));
    variance.set(c, [spread, 0], spread);
    const s = inverseStd([spread, 0], epsilon);
    invStd.set(c, s, s[0]);
  }
}

/**
 * Returns the largest distance of every channel in u, and the number of elements that are lost to infinity or NaN. A value
 * whose terms leave the range of the type is not looked at.
 */
function distances(
  channels: number,
  dtype: Dtype,
  stores: Dtype,
  got: ArrayLike<number>,
  exact: Exact,
  of: (i: number) => number,
) {
  const unit = dtype === "float64" ? 2 ** -53 : 2 ** -24;
  const least = dtype === "float64" ? 2 ** -1074 : 2 ** -149;
  const [error, scale, lost] = [new Float64Array(channels), new Float64Array(channels), new Float64Array(channels)];
  for (let i = 0; i < got.length; i++) {
    const c = of(i);
    const [value, high] = [got[i] as number, exact.high[i] as number];
    scale[c] = Math.max(scale[c] as number, exact.scale[i] as number);
    if (!((exact.scale[i] as number) <= LARGEST[stores] * (1 - 2 ** -7))) continue;
    if (!Number.isFinite(value)) lost[c] = (lost[c] as number) + 1;
    const distance = Math.abs(value - high - (exact.low[i] as number));
    error[c] = Math.max(error[c] as number, distance - halfUnit(stores, value));
  }
  return { u: error.map((e, c) => e / Math.max(unit * (scale[c] as number), least)), lost };
}

/** Runs a sweep in the present build. */
export function measureSweep(sweep: Sweep): Measured[] {
  const { way, patterns, dtype, activation, layout, epsilon } = sweep;
  const { shape, d, x, dy, parameters, weights, residual, input, statistics, forward, backward } = once(
    JSON.stringify(sweep),
    () => prepare(sweep),
  );
  const options = {
    ...{ layout, epsilon, activation },
    ...(activation === "leaky_relu" && { negativeSlope: 0.01 }),
    ...(way === "mask" && { mask: weights }),
    ...(way === "residual" && { residual: { data: residual, shape, dtype } }),
  };
  const batch = { data: x, shape, dtype };
  const given = { mean: statistics.mean.high, variance: statistics.variance.high };
  const result = (
    way === "frozen"
      ? batchNormInference(batch as never, { ...parameters, ...given } as never, options as never)
      : batchNormForward(batch as never, parameters as never, options as never)
  ) as ReturnType<typeof batchNormForward>;
  const { dx, dGamma, dBeta } = batchNormBackward({ data: dy, shape, dtype } as never, result.saved) as ReturnType<
    typeof batchNormBackward
  >;
  const numbers = (data: ArrayLike<number>) => (dtype === "float64" ? data : widen(dtype, data));
  const [computes, ofParameters] = dtype === "float64" ? ([dtype, dtype] as const) : (["float32", "float32"] as const);
  const elements = (got: ArrayLike<number> | undefined, exact: Exact) =>
    distances(patterns.length, computes, dtype, numbers(got ?? []), exact, channelOf(d));
  const vector = (got: ArrayLike<number> | null | undefined, exact: Exact, stores: Dtype) =>
    distances(patterns.length, computes, stores, got ?? [], exact, (i) => i).u;
  const [y, ofX] = [elements(result.y.data, forward.y), elements(dx?.data, backward.dx)];
  const summed: Record<Summed, Float64Array> = {
    mean: vector(result.mean, statistics.mean, "float64"),
    variance: vector(result.variance, statistics.variance, "float64"),
    invStd: vector(result.invStd, statistics.invStd, "float64"),
    dGamma: vector(dGamma, backward.dGamma, ofParameters),
    dBeta: vector(dBeta, backward.dBeta, ofParameters),
  };
  const m = way === "mask" ? weights.reduce((a, b) => a + b, 0) : d.outer * d.inner;
  const planar = d.inner >= (d.outer === 1 ? 4 : 32);
  const blocked = way !== "mask" && m >= (planar ? 512 : 128);
  return patterns.map((pattern, c) => {
    const s = statistics.invStd.high[c] as number;
    const scale = Math.abs(input.gamma[c] as number) * s;
    let [largest, size] = [0, 0];
    eachOf(d, c, (i) => {
      largest = Math.max(largest, Math.abs(forward.xHat.high[i] as number));
      size = Math.max(size, scale && (backward.dx.scale[i] as number) / scale);
    });
    const coefficient = (Math.abs(backward.dGamma.high[c] as number) / m) * s;
    const wide = dtype === "float64";
    // the ranges of docs/concepts/numerics.md
    const differs = way === "frozen" ? largest < s * 2 ** 128 : s * s > m * 2 ** -256;
    const inRange = wide || (scale >= 2 ** -126 && scale < 2 ** 127 && differs);
    const dxInRange =
      wide || (inRange && (way === "frozen" || (coefficient < 2 ** 127 && size * s >= largest * 2 ** -126)));
    return {
      pattern,
      blocked,
      u: {
        y: inRange ? y.u[c] : undefined,
        dx: dxInRange ? ofX.u[c] : undefined,
        ...(Object.fromEntries(SUMMED.map((name) => [name, summed[name][c]])) as Record<Summed, number>),
      },
      ratio: Math.abs(statistics.mean.high[c] as number) * s,
      lost: (y.lost[c] as number) + (ofX.lost[c] as number),
    };
  });
}
