// The oracle: batch normalization in float64 and plain loops, without SIMD, blocks, pivots or columns. Numbers of terms
// refer to docs/concepts/derivation.md.

import type { ActivationName } from "../../src/ops/activation.ts";
import type { Renorm } from "../../src/ops/options.ts";
import type { Layout } from "../../src/tensor/types.ts";

export interface Dims {
  readonly outer: number;
  readonly channels: number;
  readonly inner: number;
}

/** Returns a shape [N, C, …] or, channels last, [N, …, C] as [outer, channels, inner]. */
export function dimsOf(shape: readonly number[], layout: Layout): Dims {
  const product = (list: readonly number[]) => list.reduce((a, b) => a * b, 1);
  if (layout === "channels-last")
    return { outer: product(shape.slice(0, -1)), channels: shape.at(-1) as number, inner: 1 };
  return { outer: shape[0] as number, channels: shape[1] as number, inner: product(shape.slice(2)) };
}

/** Calls `visit` with the index of every value of a channel. */
export function eachOf(d: Dims, channel: number, visit: (index: number) => void): void {
  for (let n = 0; n < d.outer; n++) for (let i = 0; i < d.inner; i++) visit((n * d.channels + channel) * d.inner + i);
}

type Vector = ArrayLike<number>;
const at = (v: Vector | null | undefined, i: number, missing: number) => (v ? (v[i] as number) : missing);

/** Returns mean and biased variance, [C], of terms F1 to F4 by two passes and a correction for rounding of the mean. */
export function statistics(x: Vector, d: Dims): { mean: Float64Array; variance: Float64Array } {
  const mean = new Float64Array(d.channels);
  const variance = new Float64Array(d.channels);
  const m = d.outer * d.inner;
  for (let c = 0; c < d.channels; c++) {
    let sum = 0;
    eachOf(d, c, (i) => {
      sum += x[i] as number;
    });
    const rough = sum / m;
    let residue = 0;
    let squares = 0;
    eachOf(d, c, (i) => {
      const e = (x[i] as number) - rough;
      residue += e;
      squares += e * e;
    });
    mean[c] = rough + residue / m;
    variance[c] = (squares - (residue * residue) / m) / m;
  }
  return { mean, variance };
}

/** Returns term F5, 1/√(variance + epsilon), and 0 if both are 0. */
export const invStdOf = (variance: Float64Array, epsilon: number): Float64Array =>
  variance.map((v) => (v + epsilon === 0 ? 0 : 1 / Math.sqrt(v + epsilon)));

/** Returns y of terms F6 and F7, and the condition scale |gamma·x̂| + |beta| of every element. */
export function forward(x: Vector, d: Dims, mean: Vector, invStd: Vector, gamma?: Vector | null, beta?: Vector | null) {
  const y = new Float64Array(x.length);
  const scale = new Float64Array(x.length);
  for (let c = 0; c < d.channels; c++)
    eachOf(d, c, (i) => {
      const term = at(gamma, c, 1) * ((x[i] as number) - at(mean, c, 0)) * at(invStd, c, 1);
      y[i] = term + at(beta, c, 0);
      scale[i] = Math.abs(term) + Math.abs(at(beta, c, 0));
    });
  return { y, scale };
}

/**
 * Returns gradients of terms B1 to B6 in textbook form, with condition scales. With `batch` false statistics are
 * constants.
 */
export function backward(
  x: Vector,
  dy: Vector,
  d: Dims,
  mean: Vector,
  invStd: Vector,
  gamma: Vector | null | undefined,
  batch: boolean,
) {
  const m = d.outer * d.inner;
  const dx = new Float64Array(x.length);
  const dxScale = new Float64Array(x.length);
  const [dGamma, dBeta, dGammaScale, dBetaScale] = Array.from({ length: 4 }, () => new Float64Array(d.channels)) as [
    Float64Array,
    Float64Array,
    Float64Array,
    Float64Array,
  ];
  for (let c = 0; c < d.channels; c++) {
    const xHat = (i: number) => ((x[i] as number) - at(mean, c, 0)) * at(invStd, c, 1);
    let [sum, dot, sumScale, dotScale] = [0, 0, 0, 0];
    eachOf(d, c, (i) => {
      const g = dy[i] as number;
      sum += g;
      dot += g * xHat(i);
      sumScale += Math.abs(g);
      dotScale += Math.abs(g * xHat(i));
    });
    const k = at(gamma, c, 1) * at(invStd, c, 1);
    eachOf(d, c, (i) => {
      const g = dy[i] as number;
      dx[i] = batch ? k * (g - sum / m - (xHat(i) * dot) / m) : k * g;
      dxScale[i] = Math.abs(k) * (Math.abs(g) + (batch ? sumScale / m + (Math.abs(xHat(i)) * dotScale) / m : 0));
    });
    dGamma[c] = dot;
    dBeta[c] = sum;
    dGammaScale[c] = dotScale;
    dBetaScale[c] = sumScale;
  }
  return { dx, dGamma, dBeta, dxScale, dGammaScale, dBetaScale };
}

/** Gradients of a loss with respect to the results of `backward`. An absent one counts as zeros. */
export interface Upstream {
  readonly ddx?: Vector;
  readonly ddGamma?: Vector;
  readonly ddBeta?: Vector;
}

/**
 * Returns the gradients of Σ ddx·dx + Σ ddGamma·dGamma + Σ ddBeta·dBeta with respect to x, gamma and dy. It
 * differentiates every step from x to dx in reverse order, independently of the derivation in docs/concepts/derivation.md. A name
 * that ends in Bar is the gradient with respect to that step.
 */
export function doubleBackward(
  x: Vector,
  dy: Vector,
  d: Dims,
  mean: Vector,
  invStd: Vector,
  gamma: Vector | null | undefined,
  batch: boolean,
  { ddx, ddGamma, ddBeta }: Upstream,
) {
  const m = d.outer * d.inner;
  const [dx, ddy] = [new Float64Array(x.length), new Float64Array(x.length)];
  const dGamma = new Float64Array(d.channels);
  for (let c = 0; c < d.channels; c++) {
    const [s, g] = [at(invStd, c, 1), at(gamma, c, 1)];
    const index: number[] = [];
    eachOf(d, c, (i) => index.push(i));
    const sum = (term: (i: number, k: number) => number) => index.reduce((total, i, k) => total + term(i, k), 0);
    // forward: centred, xHat, B = Σ dy, G = Σ dy·xHat, e = dy − B/m − xHat·G/m, dx = gamma·invStd·e
    const centred = index.map((i) => (x[i] as number) - at(mean, c, 0));
    const upstream = index.map((i) => dy[i] as number);
    const xHat = centred.map((v) => v * s);
    const B = sum((_, k) => upstream[k] as number);
    const G = sum((_, k) => (upstream[k] as number) * (xHat[k] as number));
    const e = upstream.map((v, k) => (batch ? v - B / m - ((xHat[k] as number) * G) / m : v));
    // reverse
    const dxBar = index.map((i) => at(ddx, i, 0));
    dGamma[c] = sum((_, k) => s * (dxBar[k] as number) * (e[k] as number));
    let sBar = sum((_, k) => g * (dxBar[k] as number) * (e[k] as number));
    const eBar = dxBar.map((v) => g * s * v);
    const BBar = at(ddBeta, c, 0) - (batch ? sum((_, k) => eBar[k] as number) / m : 0);
    const GBar = at(ddGamma, c, 0) - (batch ? sum((_, k) => (eBar[k] as number) * (xHat[k] as number)) / m : 0);
    const xHatBar = eBar.map((v, k) => GBar * (upstream[k] as number) - (batch ? (v * G) / m : 0));
    sBar += sum((_, k) => (xHatBar[k] as number) * (centred[k] as number));
    const varianceBar = batch ? -0.5 * s ** 3 * sBar : 0;
    const centredBar = xHatBar.map((v, k) => v * s + (2 * (centred[k] as number) * varianceBar) / m);
    const meanBar = batch ? -sum((_, k) => centredBar[k] as number) : 0;
    for (const [k, i] of index.entries()) {
      ddy[i] = (eBar[k] as number) + BBar + GBar * (xHat[k] as number);
      dx[i] = (centredBar[k] as number) + meanBar / m;
    }
  }
  return { dx, dGamma, ddy };
}

/** Returns the mean of |x| of every channel, [C]: the condition scale of the mean. */
export function meanMagnitude(x: Vector, d: Dims): Float64Array {
  const magnitude = new Float64Array(d.channels);
  for (let c = 0; c < d.channels; c++)
    eachOf(d, c, (i) => {
      magnitude[c] = (magnitude[c] as number) + Math.abs(x[i] as number) / (d.outer * d.inner);
    });
  return magnitude;
}

// ---- activations ----------------------------------------------------------------------------------------------------

const sigmoid = (z: number) => 1 / (1 + Math.exp(-z));

/** Returns f(z) as torch.nn documents it. */
export function activate(name: ActivationName, z: number, slope = 0.01): number {
  if (name === "relu") return Math.max(0, z);
  if (name === "leaky_relu") return Math.max(0, z) + slope * Math.min(0, z);
  if (name === "relu6") return Math.min(Math.max(0, z), 6);
  return name === "silu" ? z * sigmoid(z) : z;
}

/** Returns f′(z). At a kink it is 0 for ReLU and ReLU6, and the slope for leaky ReLU. */
export function derivative(name: ActivationName, z: number, slope = 0.01): number {
  if (name === "relu") return z > 0 ? 1 : 0;
  if (name === "leaky_relu") return z > 0 ? 1 : slope;
  if (name === "relu6") return z > 0 && z < 6 ? 1 : 0;
  return name === "silu" ? sigmoid(z) * (1 + z * (1 - sigmoid(z))) : 1;
}

// ---- everything at once --------------------------------------------------------------------------------------------

type Four = [Float64Array, Float64Array, Float64Array, Float64Array];

/**
 * Value and derivative of the activations, and the condition scale of the derivative. `zScale` is the condition scale
 * of z. The derivatives at ReLU's and ReLU6's kinks are 0 and at leaky ReLU's kink the slope, as in torch.
 */
const ACTIVATIONS: Record<
  ActivationName,
  (z: number, zScale: number, slope: number) => { value: number; derivative: number; scale: number }
> = {
  none: (z) => ({ value: z, derivative: 1, scale: 1 }),
  relu: (z) => ({ value: Math.max(z, 0), derivative: z > 0 ? 1 : 0, scale: 1 }),
  leaky_relu: (z, _, slope) => ({ value: z > 0 ? z : slope * z, derivative: z > 0 ? 1 : slope, scale: 1 }),
  relu6: (z) => ({ value: Math.min(Math.max(z, 0), 6), derivative: z > 0 && z < 6 ? 1 : 0, scale: 1 }),
  silu: (z, zScale) => {
    const s = 1 / (1 + Math.exp(-z));
    const second = Math.abs(z) * s * (1 - s);
    // |f″| ≤ ½, so an error of z changes the derivative by at most half of it
    return { value: z * s, derivative: s + z * s * (1 - s), scale: s + second + zScale / 2 };
  },
};

/** The arguments of one call of `solve`. A position is a sample and a spatial position, without a channel. */
export interface Problem {
  readonly shape: readonly number[];
  readonly layout: Layout;
  readonly epsilon: number;
  readonly x: Vector;
  readonly dy: Vector;
  /** [C], or [N, C] for a gamma per sample. */
  readonly gamma?: Vector | null | undefined;
  /** [C], or [N, C] for a beta per sample. */
  readonly beta?: Vector | null | undefined;
  readonly residual?: Vector | undefined;
  readonly activation?: ActivationName;
  /** The slope of "leaky_relu" below 0, 0.01 by default. */
  readonly negativeSlope?: number;
  /** The weight of every position. A weight of 0 masks the position. */
  readonly weights?: Vector | undefined;
  readonly ghostBatchSize?: number | undefined;
  /** Limits of Batch Renormalization, and the running statistics that r and d refer to. */
  readonly renorm?: (Renorm & { mean: Vector; variance: Vector }) | undefined;
  /** Constant statistics that normalise instead of the batch's. */
  readonly constant?: { mean: Vector; variance: Vector } | undefined;
}

/**
 * Returns y and all gradients of one call from the definitions, with condition scales, for every sub-batch and channel.
 * With z = gamma·(r·x̂ + d) + beta + residual and dz = dy·f′(z), the gradients of L = Σ dy·y are
 *
 *   dx̂ = gamma·r·dz      dmean = −invStd·Σ dx̂      dvariance = −½·invStd²·Σ dx̂·x̂
 *   dx = dx̂·invStd + dmean·w/W + dvariance·2·(x − mean)·w/W
 */
export function solve(p: Problem) {
  const { channels } = dimsOf(p.shape, p.layout);
  const samples = p.shape[0] as number;
  const inner = p.x.length / channels / samples;
  const index = (n: number, c: number, i: number) =>
    p.layout === "channels-last" ? (n * inner + i) * channels + c : (n * channels + c) * inner + i;
  const rows = (v: Vector | null | undefined) => (v && v.length !== channels ? samples : 1);
  const zeros = () => new Float64Array(p.x.length);
  const [y, dx, dResidual] = [zeros(), zeros(), zeros()];
  const [yScale, dxScale, dResidualScale] = [zeros(), zeros(), zeros()];
  const gradient = (v: Vector | null | undefined) => new Float64Array(rows(v) * channels);
  const [dGamma, dBeta, dGammaScale, dBetaScale] = [p.gamma, p.beta, p.gamma, p.beta].map(gradient) as Four;
  const value = (v: Vector | null | undefined, n: number, c: number, missing: number) =>
    at(v, rows(v) === 1 ? c : n * channels + c, missing);
  const f = ACTIVATIONS[p.activation ?? "none"];
  const size = p.ghostBatchSize ?? samples;
  const batches: { count: number; mean: Float64Array; variance: Float64Array }[] = [];
  for (let begin = 0; begin < samples; begin += size) {
    const batch = { count: 0, mean: new Float64Array(channels), variance: new Float64Array(channels) };
    batches.push(batch);
    for (let c = 0; c < channels; c++) {
      const each = (visit: (i: number, w: number, n: number) => void) => {
        for (let n = begin; n < Math.min(begin + size, samples); n++)
          for (let i = 0; i < inner; i++) visit(index(n, c, i), at(p.weights, n * inner + i, 1), n);
      };
      let [total, rough, residue, variance] = [0, 0, 0, 0];
      each((_, w) => {
        total += w;
      });
      each((i, w) => {
        if (w) rough += (w * (p.x[i] as number)) / total;
      });
      // a correction for the rounding of the mean, so that a constant channel has exactly its value
      each((i, w) => {
        if (w) residue += (w * ((p.x[i] as number) - rough)) / total;
      });
      let mean = rough + residue;
      each((i, w) => {
        if (w) variance += (w * ((p.x[i] as number) - mean) ** 2) / total;
      });
      batch.count = total;
      batch.mean[c] = mean;
      batch.variance[c] = variance;
      if (p.constant) [mean, variance] = [p.constant.mean[c] as number, p.constant.variance[c] as number];
      const empty = !p.constant && total === 0;
      const invStd = empty ? 0 : 1 / Math.sqrt(variance + p.epsilon);
      let [r, d] = [1, 0];
      if (p.renorm && !p.constant && !empty) {
        const { rMax, dMax } = p.renorm;
        const std = Math.sqrt((p.renorm.variance[c] as number) + p.epsilon);
        r = Math.min(Math.max(1 / invStd / std, 1 / rMax), rMax);
        d = Math.min(Math.max((mean - (p.renorm.mean[c] as number)) / std, -dMax), dMax);
      }
      let [dMean, dVariance, dMeanScale, dVarianceScale] = [0, 0, 0, 0];
      each((i, w, n) => {
        const xHat = ((p.x[i] as number) - mean) * invStd;
        const g = value(p.gamma, n, c, 1);
        const normalized = empty ? 0 : g * (r * xHat + d);
        const terms = [g * r * xHat, g * d, value(p.beta, n, c, 0), at(p.residual, i, 0)];
        const zScale = terms.reduce((a, b) => a + Math.abs(b), 0);
        const {
          value: out,
          derivative,
          scale,
        } = f(normalized + value(p.beta, n, c, 0) + at(p.residual, i, 0), zScale, p.negativeSlope ?? 0.01);
        const dz = (p.dy[i] as number) * derivative;
        const dzScale = Math.abs((p.dy[i] as number) * scale);
        y[i] = out;
        yScale[i] = zScale;
        dResidual[i] = dz;
        dResidualScale[i] = dzScale;
        if (empty || (w === 0 && !Number.isFinite((p.x[i] as number) + dz))) return;
        const entry = (v: Vector | null | undefined) => (rows(v) === 1 ? c : n * channels + c);
        const [gammaEntry, betaEntry] = [entry(p.gamma), entry(p.beta)];
        const add = (sums: Float64Array, index: number, term: number) => {
          sums[index] = (sums[index] as number) + term;
        };
        add(dGamma, gammaEntry, dz * (r * xHat + d));
        add(dBeta, betaEntry, dz);
        add(dGammaScale, gammaEntry, dzScale * (Math.abs(r * xHat) + Math.abs(d)));
        add(dBetaScale, betaEntry, dzScale);
        const dMeanTerm = -invStd * g * r * dz;
        const dVarianceTerm = 0.5 * invStd * dMeanTerm * xHat;
        dMean += dMeanTerm;
        dVariance += dVarianceTerm;
        dMeanScale += Math.abs(invStd * g * r) * dzScale;
        dVarianceScale += Math.abs(0.5 * invStd * invStd * g * r * xHat) * dzScale;
      });
      each((i, w, n) => {
        const direct = value(p.gamma, n, c, 1) * r * invStd * (dResidual[i] as number);
        const share = p.constant || empty || w === 0 ? 0 : w / total;
        const distance = 2 * ((p.x[i] as number) - mean);
        dx[i] = empty ? 0 : direct + (share && share * (dMean + dVariance * distance));
        const directScale = Math.abs(value(p.gamma, n, c, 1) * r * invStd) * (dResidualScale[i] as number);
        dxScale[i] = directScale + (share && share * (dMeanScale + dVarianceScale * Math.abs(distance)));
      });
    }
  }
  return { y, dx, dResidual, dGamma, dBeta, batches, yScale, dxScale, dResidualScale, dGammaScale, dBetaScale };
}

// ---- instance, group, layer and RMS norm ----------------------------------------------------------------------------

/** For every element, the group whose statistics normalise it and the entry of gamma and beta that applies to it. */
export interface Membership {
  readonly group: Int32Array;
  readonly entry: Int32Array;
  readonly groups: number;
  readonly entries: number;
}

/** Returns the membership for instance and group norm: each sample's channels in `groups` groups of neighbours. */
export function groupsOf(shape: readonly number[], layout: Layout, groups: number): Membership {
  const length = shape.reduce((a, b) => a * b, 1);
  const channels = shape[layout === "channels-last" ? shape.length - 1 : 1] as number;
  const sample = length / (shape[0] as number);
  const inner = layout === "channels-last" ? 1 : sample / channels;
  const entry = new Int32Array(length).map((_, i) => Math.floor(i / inner) % channels);
  const group = entry.map((c, i) => Math.floor(i / sample) * groups + Math.floor((c * groups) / channels));
  return { group, entry, groups: (shape[0] as number) * groups, entries: channels };
}

/** Returns the membership for layer and RMS norm: rows of `size` elements. */
export function rowsOf(length: number, size: number): Membership {
  const group = new Int32Array(length).map((_, i) => Math.floor(i / size));
  return { group, entry: new Int32Array(length).map((_, i) => i % size), groups: length / size, entries: size };
}

/** Returns one sum per target by compensated summation (Neumaier 1974), as a reference for results in float64. */
function sumsByTarget(length: number, values: Vector, target: Int32Array, value: (v: number, i: number) => number) {
  const [sums, errors] = [new Float64Array(length), new Float64Array(length)];
  for (let i = 0; i < values.length; i++) {
    const j = target[i] as number;
    const [sum, term] = [sums[j] as number, value(values[i] as number, i)];
    const next = sum + term;
    const error = Math.abs(sum) >= Math.abs(term) ? sum - next + term : term - next + sum;
    errors[j] = (errors[j] as number) + error;
    sums[j] = next;
  }
  return sums.map((sum, j) => sum + (errors[j] as number));
}

/** Normalises by groups and returns y, its statistics and condition scales. With `centred` false it is RMS norm. */
export function familyForward(
  x: Vector,
  { group, groups, entry }: Membership,
  epsilon: number,
  gamma?: Vector | null,
  beta?: Vector | null,
  centred = true,
) {
  const ofGroup = (v: Float64Array, i: number) => v[group[i] as number] as number;
  const sum = (value: (v: number, i: number) => number) => sumsByTarget(groups, x, group, value);
  const count = sum(() => 1);
  const means = (sums: Float64Array) => sums.map((v, j) => v / (count[j] as number));
  const mean = centred ? means(sum((v) => v)) : new Float64Array(groups);
  const magnitude = means(sum((v) => Math.abs(v)));
  const residue = centred ? means(sum((v, i) => v - ofGroup(mean, i))) : mean;
  const squares = means(sum((v, i) => (v - ofGroup(mean, i)) ** 2)).map((v, j) => v - (residue[j] as number) ** 2);
  const invStd = invStdOf(squares, epsilon);
  const y = new Float64Array(x.length);
  const scale = new Float64Array(x.length);
  const xHat = y.map((_, i) => ((x[i] as number) - ofGroup(mean, i) - ofGroup(residue, i)) * ofGroup(invStd, i));
  for (let i = 0; i < x.length; i++) {
    const term = at(gamma, entry[i] as number, 1) * (xHat[i] as number);
    y[i] = term + at(beta, entry[i] as number, 0);
    scale[i] = Math.abs(term) + Math.abs(at(beta, entry[i] as number, 0));
  }
  return { y, scale, mean: mean.map((v, j) => v + (residue[j] as number)), invStd, xHat, magnitude, count };
}

/** Returns the gradients of familyForward, with condition scales, from the values that it returns. */
export function familyBackward(
  dy: Vector,
  { group, groups, entry, entries }: Membership,
  { xHat, invStd, count }: Pick<ReturnType<typeof familyForward>, "xHat" | "invStd" | "count">,
  gamma?: Vector | null,
  centred = true,
) {
  const h = (i: number) => xHat[i] as number;
  const g = (v: number, i: number) => v * at(gamma, entry[i] as number, 1);
  const byEntry = (value: (v: number, i: number) => number) => sumsByTarget(entries, dy, entry, value);
  const byGroup = (value: (v: number, i: number) => number) => sumsByTarget(groups, dy, group, value);
  const a = byGroup((v, i) => g(v, i) * h(i));
  const aScale = byGroup((v, i) => Math.abs(g(v, i) * h(i)));
  const b = centred ? byGroup(g) : new Float64Array(groups);
  const bScale = centred ? byGroup((v, i) => Math.abs(g(v, i))) : b;
  const dx = new Float64Array(dy.length);
  const dxScale = new Float64Array(dy.length);
  for (let i = 0; i < dy.length; i++) {
    const j = group[i] as number;
    const [direct, s, m] = [g(dy[i] as number, i), invStd[j] as number, count[j] as number];
    dx[i] = s * (direct - (b[j] as number) / m - (h(i) * (a[j] as number)) / m);
    dxScale[i] = s * (Math.abs(direct) + (bScale[j] as number) / m + (Math.abs(h(i)) * (aScale[j] as number)) / m);
  }
  return {
    dx,
    dxScale,
    dGamma: byEntry((v, i) => v * h(i)),
    dGammaScale: byEntry((v, i) => Math.abs(v * h(i))),
    dBeta: byEntry((v) => v),
    dBetaScale: byEntry((v) => Math.abs(v)),
  };
}

/** Returns the largest error in units of u × the largest condition scale of the channel. A wrong length is infinite. */
export function errorOf(
  got: ArrayLike<number>,
  expected: Float64Array,
  scale: Float64Array,
  u: number,
  channel: (i: number) => number,
): number {
  if (got.length !== expected.length) return Infinity;
  const largest = new Map<number, number>();
  scale.forEach((s, i) => {
    largest.set(channel(i), Math.max(largest.get(channel(i)) ?? 0, s));
  });
  let worst = 0;
  expected.forEach((e, i) => {
    const error = Math.abs((got[i] as number) - e);
    if (error > 0) worst = Math.max(worst, error / (u * (largest.get(channel(i)) as number)));
    if (Number.isNaN(error)) worst = Infinity;
  });
  return worst;
}
