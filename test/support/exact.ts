// The exact oracle: batch normalization in pairs of float64 numbers whose sum is the value (double-double, 106 bits;
// Dekker 1971). An error of 2⁻¹⁰⁰ is left, so the distance of a result of float32 or of float64 from it is exact in
// effect. Every value of a channel is taken in the textbook's order, without pivots, blocks or coefficients. Numbers of
// terms refer to docs/concepts/derivation.md.

import type { ActivationName } from "../../src/index.ts";
import { type Dims, eachOf } from "./reference.ts";

/** A value: the sum of both numbers, of which the second is at most half a unit in the last place of the first. */
type Pair = readonly [high: number, low: number];

const ZERO: Pair = [0, 0];
const ONE: Pair = [1, 0];

/** Returns a + b as a pair, exactly. |a| ≥ |b|, or a is 0. */
function quickSum(a: number, b: number): Pair {
  const sum = a + b;
  return [sum, b - (sum - a)];
}

/** Returns a + b as a pair, exactly (Knuth's TwoSum). */
function exactSum(a: number, b: number): Pair {
  const sum = a + b;
  const c = sum - a;
  return [sum, a - (sum - c) + (b - c)];
}

/** Returns a·b as a pair, exactly (Dekker's product), for |a| and |b| below 2⁹⁹⁶. */
function exactProduct(a: number, b: number): Pair {
  const product = a * b;
  const [p, q] = [134217729 * a, 134217729 * b];
  const [aHigh, bHigh] = [p - (p - a), q - (q - b)];
  const [aLow, bLow] = [a - aHigh, b - bHigh];
  return [product, aLow * bLow - (product - aHigh * bHigh - aLow * bHigh - aHigh * bLow)];
}

const add = ([a, b]: Pair, [c, d]: Pair): Pair => {
  const [sum, error] = exactSum(a, c);
  return quickSum(sum, error + b + d);
};
const negative = ([a, b]: Pair): Pair => [-a, -b];
const times = ([a, b]: Pair, [c, d]: Pair): Pair => {
  const [product, error] = exactProduct(a, c);
  return quickSum(product, error + a * d + b * c);
};
const over = (a: Pair, n: number): Pair => {
  const quotient = a[0] / n;
  const rest = add(a, negative(exactProduct(quotient, n)));
  return quickSum(quotient, rest[0] / n);
};

/** Returns 1/√a for a normal a > 0: float64's own result, and one step of Newton's method in pairs. */
function inverseRoot(a: Pair): Pair {
  const root: Pair = [1 / Math.sqrt(a[0]), 0];
  const rest = add(ONE, negative(times(times(a, root), root)));
  return add(root, times(root, [rest[0] / 2, 0]));
}

/** Returns 1/√(variance + epsilon), and 0 if both are 0. */
export function inverseStd(variance: Pair, epsilon: number): Pair {
  const radicand = add(variance, [epsilon, 0]);
  return radicand[0] === 0 ? ZERO : inverseRoot(radicand);
}

/** Exact values of one output, with the condition scale of each (test/golden/README.md). */
export class Exact {
  readonly high: Float64Array;
  readonly low: Float64Array;
  readonly scale: Float64Array;

  constructor(length: number) {
    this.high = new Float64Array(length);
    this.low = new Float64Array(length);
    this.scale = new Float64Array(length);
  }

  set(i: number, [high, low]: Pair, scale: number): void {
    this.high[i] = high;
    this.low[i] = low;
    this.scale[i] = scale;
  }

  at(i: number): Pair {
    return [this.high[i] as number, this.low[i] as number];
  }
}

export interface ExactInput {
  readonly x: ArrayLike<number>;
  readonly d: Dims;
  readonly gamma: ArrayLike<number>;
  readonly beta: ArrayLike<number>;
  readonly epsilon: number;
  readonly activation: ActivationName;
  /** The slope of leaky ReLU, rounded to the type of the elements. */
  readonly slope: number;
  /** Whether the mean is rounded to the type of the elements, so that its scale, times invStd, is part of that of x̂. */
  readonly roundsMean: boolean;
  /** The weight of every position in the statistics, [outer, inner]; 1 by default. */
  readonly weights?: ArrayLike<number>;
  /** What is added before the activation, in the shape of x; 0 by default. */
  readonly residual?: ArrayLike<number>;
}

/** Returns the weight of a value's position by its index in x, and the sum of all weights. */
function weightsOf({ d, weights }: Pick<ExactInput, "d" | "weights">) {
  const total = weights ? Array.from(weights).reduce((a, b) => a + b, 0) : d.outer * d.inner;
  const weight = (i: number) =>
    weights ? (weights[Math.floor(i / d.inner / d.channels) * d.inner + (i % d.inner)] as number) : 1;
  return { weight, total };
}

/** Returns mean, biased variance and invStd of every channel (F1 to F5). The scale of a mean is that of |x| plus std. */
export function exactStatistics(input: Pick<ExactInput, "x" | "d" | "epsilon" | "weights">) {
  const { x, d, epsilon } = input;
  const { weight, total: m } = weightsOf(input);
  const [mean, variance, invStd] = [new Exact(d.channels), new Exact(d.channels), new Exact(d.channels)] as const;
  for (let c = 0; c < d.channels; c++) {
    let sum = ZERO;
    let magnitude = 0;
    eachOf(d, c, (i) => {
      const value = exactProduct(weight(i), x[i] as number);
      sum = add(sum, value);
      magnitude += Math.abs(value[0]) / m;
    });
    const centre = over(sum, m);
    let squares = ZERO;
    eachOf(d, c, (i) => {
      const centred = add([x[i] as number, 0], negative(centre));
      squares = add(squares, times([weight(i), 0], times(centred, centred)));
    });
    const v = over(squares, m);
    const s = inverseStd(v, epsilon);
    mean.set(c, centre, magnitude + Math.sqrt(v[0]));
    variance.set(c, v, v[0]);
    invStd.set(c, s, s[0]);
  }
  return { mean, variance, invStd };
}

type ExactStatistics = ReturnType<typeof exactStatistics>;

const sigmoid = (z: number) => 1 / (1 + Math.exp(-z));

/** Returns f(z). SiLU is that of float64, whose error is 2⁻²⁸ of float32's. */
function activated(z: Pair, { activation, slope }: ExactInput): Pair {
  if (activation === "none") return z;
  if (activation === "silu") return [z[0] * sigmoid(z[0]), 0];
  if (z[0] < 0) return activation === "leaky_relu" ? times(z, [slope, 0]) : ZERO;
  return activation === "relu6" && z[0] > 6 ? [6, 0] : z;
}

/**
 * Returns x̂, z = gamma·x̂ + beta + residual and y = f(z) of every element (F6, F7). The scale of z and y is |gamma·x̂| + |beta|
 * + |residual|, and that of x̂ is |x̂| + (std + 2⁻²⁴·|mean|)·invStd, or more if the mean is rounded.
 */
export function exactForward(input: ExactInput, { mean, variance, invStd }: ExactStatistics) {
  const { x, d, gamma, beta, roundsMean, residual } = input;
  const [xHat, z, y] = [new Exact(x.length), new Exact(x.length), new Exact(x.length)] as const;
  for (let c = 0; c < d.channels; c++) {
    const [centre, s] = [negative(mean.at(c)), invStd.at(c)];
    // in float32 hi is rounded, and a blocked sum's mean is off by a part of u·std
    const offset = roundsMean
      ? (mean.scale[c] as number) * s[0]
      : (2 ** -24 * Math.abs(centre[0]) + Math.sqrt(variance.high[c] as number)) * s[0];
    const [scale, shift]: [Pair, Pair] = [
      [gamma[c] as number, 0],
      [beta[c] as number, 0],
    ];
    eachOf(d, c, (i) => {
      const normalised = times(add([x[i] as number, 0], centre), s);
      const term = times(scale, normalised);
      const xHatSize = Math.abs(normalised[0]) + offset;
      const added = residual ? (residual[i] as number) : 0;
      const product = Math.abs(scale[0]) * (roundsMean ? xHatSize : Math.abs(normalised[0]));
      const size = product + Math.abs(shift[0]) + Math.abs(added);
      const value = add(add(term, shift), [added, 0]);
      xHat.set(i, normalised, xHatSize);
      z.set(i, value, size);
      y.set(i, activated(value, input), size);
    });
  }
  return { xHat, z, y };
}

type ExactForward = ReturnType<typeof exactForward>;

/**
 * Returns f′(z), and its condition scale: f′ of pieces, and 1 + |f″(z)|·(the scale of z) of SiLU, whose derivative is as
 * uncertain as z is.
 */
function derivative({ activation, slope }: ExactInput, z: number, scale: number): [number, number] {
  if (activation === "silu") {
    const [s, t] = [sigmoid(z), sigmoid(-z)]; // 1 − s would cancel
    return [s * (1 + z * t), 1 + Math.abs(s * t * (2 + z * (t - s))) * scale];
  }
  const closed = activation === "none" ? 1 : activation === "leaky_relu" ? slope : 0;
  const value = z > 0 && !(activation === "relu6" && z >= 6) ? 1 : closed;
  return [value, value];
}

/** Returns dx, dGamma and dBeta in textbook form (B1 to B6). With `constant`, no gradient flows through statistics. */
export function exactBackward(
  input: ExactInput,
  dy: ArrayLike<number>,
  { xHat, z }: ExactForward,
  { invStd }: Pick<ExactStatistics, "invStd">,
  constant = false,
): { dx: Exact; dGamma: Exact; dBeta: Exact } {
  const { x, d, gamma } = input;
  const { weight, total: m } = weightsOf(input);
  const [dz, dx] = [new Exact(x.length), new Exact(x.length)] as const;
  const [dGamma, dBeta] = [new Exact(d.channels), new Exact(d.channels)] as const;
  for (let c = 0; c < d.channels; c++) {
    let [sum, dot] = [ZERO, ZERO];
    let [sumScale, dotScale] = [0, 0];
    eachOf(d, c, (i) => {
      const [slope, scale] = derivative(input, z.high[i] as number, z.scale[i] as number);
      const upstream = dy[i] as number;
      const size = Math.abs(upstream) * scale;
      const value = exactProduct(upstream, slope);
      dz.set(i, value, size);
      sum = add(sum, value);
      dot = add(dot, times(value, xHat.at(i)));
      sumScale += size;
      dotScale += size * (xHat.scale[i] as number);
    });
    dGamma.set(c, dot, dotScale);
    dBeta.set(c, sum, sumScale);
    const k = times([gamma[c] as number, 0], invStd.at(c));
    const [meanSum, meanDot] = [negative(over(sum, m)), negative(over(dot, m))];
    eachOf(d, c, (i) => {
      let [flow, size] = [dz.at(i), dz.scale[i] as number];
      const w = constant ? 0 : weight(i);
      // 0·infinity is NaN
      if (w > 0) {
        flow = add(flow, times([w, 0], add(meanSum, times(xHat.at(i), meanDot))));
        size += (w * (sumScale + (xHat.scale[i] as number) * dotScale)) / m;
      }
      dx.set(i, times(k, flow), Math.abs(k[0]) * size);
    });
  }
  return { dx, dGamma, dBeta };
}
